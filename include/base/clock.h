#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

/*
 * The seam for time: everything that wants to know what time it is asks here, so that a test can
 * link a clock of its own. Any thread. On the hot path the reactor reads it once per turn
 * (reactor_now_ns).
 */

#include <stdint.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

/* Monotonic time in ns from an arbitrary start, clock_gettime(2) CLOCK_MONOTONIC. */
uint64_t clock_now_ns(void);

/* Wall-clock time in ns since 1970, CLOCK_REALTIME; may jump. For people only, never for deadlines.
 */
uint64_t clock_wall_ns(void);

/* CPU time of the calling thread in ns, CLOCK_THREAD_CPUTIME_ID. */
uint64_t clock_cpu_ns(void);

#endif
