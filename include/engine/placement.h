#ifndef ENGINE_PLACEMENT_H
#define ENGINE_PLACEMENT_H

/*
 * Which hardware thread each reactor gets, by hwloc (hwloc(7), HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM |
 * RESTRICT_TO_CPUBINDING: cpuset cgroups and taskset both honoured). Made once by the main thread
 * before the reactors start and then only read.
 */

#include <stdbool.h>
#include <stdio.h>

enum placement_mode { PLACE_CORES, PLACE_THREADS, PLACE_NONE };

struct placement_slot {
	int cpu;  /* operating system's number of the hardware thread; -1: not pinned */
	int core; /* logical number of the physical core; -1: not pinned */
	int numa; /* operating system's number of the NUMA node; -1: none or unknown */
};

struct placement {
	unsigned slots_n; /* reactors */
	struct placement_slot *slots;
	unsigned cores;      /* physical cores this process may use */
	unsigned threads;    /* hardware threads this process may use */
	double quota;        /* cores worth of CPU time that the cgroup allows; 0: no limit */
	bool oversubscribed; /* more reactors than hardware threads (or than the quota, rounded up)
			      */
};

/*
 * Plans for reactors threads; 0: one per usable physical core (PLACE_CORES, PLACE_NONE) or hardware
 * thread (PLACE_THREADS), but no more than the cgroup's CPU quota rounded up. Physical cores come
 * first and each core's second thread only after every core has one; with more reactors than
 * threads they go round again. -errno, or 0 and the caller releases.
 */
int placement_init(struct placement *placement, enum placement_mode mode, unsigned reactors);
void placement_release(struct placement *placement);

/*
 * Pins the calling thread to its slot's hardware thread and its future memory to the slot's NUMA
 * node (preferred, not strict). A slot with cpu -1 does nothing. -errno when the kernel refuses.
 */
int placement_bind(const struct placement_slot *slot);

/* What --topology prints: packages, NUMA nodes, cores and threads as hwloc sees them, what is
 * usable, the quota, and the plan for this many reactors in this mode. -errno when the topology
 * cannot be read. */
int placement_print(FILE *out, enum placement_mode mode, unsigned reactors);

#endif
