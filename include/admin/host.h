#ifndef ADMIN_HOST_H
#define ADMIN_HOST_H

/*
 * What is wrong on this host for what a configuration asks: limits, kernel settings, processors,
 * network queues. Reads /proc and /sys below a root directory, so that tests can make hosts up
 * (proc(5), the kernel's sysfs-class-net-queues and sysfs-devices-system-cpu). Main thread only.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>

struct config;
struct placement;

/* What the configuration asks of the host, and what does not stand in files. */
struct host_wants {
	unsigned reactors;
	const int *cpus;  /* by reactor; -1: not pinned */
	unsigned threads; /* hardware threads that this process may use */
	double quota;     /* cores; 0: none */
	unsigned connections;
	uint64_t send_buffer_bytes;
	uint64_t ring_bytes; /* locked memory of all rings, about */
	unsigned linger_us;
	bool remote; /* clients come through a network card */
	bool steered;
	rlim_t files_max;  /* RLIMIT_NOFILE, hard */
	rlim_t locked_max; /* RLIMIT_MEMLOCK, soft; RLIM_INFINITY where it is not counted */
};

/* One call for each thing that is wrong: what, and what cures it. */
typedef void host_warn(void *context, const char *text);

/* Returns how many warnings there were. What cannot be read is not warned about. */
unsigned host_check(const char *root, const struct host_wants *wants, host_warn *warn,
		    void *context);

/* A line "warning: ..." for each on this host, for the plan that would run. */
void host_print(FILE *out, const struct config *config, const struct placement *placement);

/* How many files connections need, or as many of them as there may be: then that is said. */
rlim_t host_files(const struct config *config);

/*
 * As many files as connections need, and the process's table of them as large as it will get. The
 * kernel doubles that table when it is full, and while there are threads each that opens a file
 * waits for a grace period of RCU then (fs/file.c, expand_fdtable): tens of ms in which a reactor
 * serves nobody. Called before the first thread starts.
 */
void host_prepare_files(const struct config *config);

#endif
