#ifndef LOAD_SAMPLE_H
#define LOAD_SAMPLE_H

/*
 * What a process and the machine have used so far, from /proc (proc(5)) and the process's CPU clock
 * (clock_getcpuclockid(3)). Differences of two samples are what counts.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct process_sample {
	bool valid;
	uint64_t at_ns;
	uint64_t cpu_ns;                 /* exact */
	uint64_t user_ms, system_ms;     /* in the kernel's ticks, for the share of each */
	uint64_t voluntary, involuntary; /* context switches of all threads */
	uint64_t rss_bytes, peak_bytes;  /* resident memory, now and at most */
	unsigned threads;
};

/* Of n processes together. valid false: one of them is not there, or not to be looked at. */
void process_sample(struct process_sample *sample, const pid_t *pids, unsigned n);
/* Lets the peak start again from what is resident now; needs the right to write to the process. */
void process_forget_peak(pid_t pid);

/* Time of all cores, in ticks. */
struct machine_sample {
	uint64_t total, steal;
};

void machine_sample(struct machine_sample *sample);

#endif
