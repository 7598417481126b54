#ifndef ENGINE_WORKER_H
#define ENGINE_WORKER_H

/*
 * Threads for what would hold a reactor up: they take work from one queue, first come first, at a
 * lower priority than reactors (nice(2) 10). Whoever gives them work looks himself whether it is
 * done. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>

#include "base/list.h"

/* Embedded in what there is to do. */
struct work {
	struct list link;
	void (*run)(struct work *work); /* on a worker's thread; the work is its own from then on */
};

struct workers;

/* None of their threads is there yet, and what they are given is done at once, by whoever gives it.
 * NULL: out of memory. */
struct workers *workers_new(void);
/* Starts that many, which have made themselves nice when this returns. -errno. */
int workers_start(struct workers *workers, unsigned threads);
/* Waits for what has begun; what has not never will, and is whose who gave it. */
void workers_free(struct workers *workers);

/* The same for work that nobody waits for, and that may take long: what has begun goes on to the
 * end of the process, what has not never will, and their memory stays. */
void workers_leave(struct workers *workers);

/* Adds to the queue unless there are so many in it that none has begun with: false. */
bool workers_give(struct workers *workers, struct work *work, size_t max);
/* How many have not begun. */
size_t workers_waiting(struct workers *workers);

#endif
