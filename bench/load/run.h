#ifndef LOAD_RUN_H
#define LOAD_RUN_H

/*
 * One run of the generator: what its threads share. The main thread makes it, tells the time and
 * reports; workers connect, publish and check. All of them walk through the same steps, with a
 * barrier after each.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "load/flow.h"
#include "load/message.h"
#include "load/options.h"

struct keyring;
struct mailbox;
struct worker;

enum { RUN_TOPIC_MAX = 64 };

struct run {
	const struct options *options;
	uint32_t id;
	struct filler filler;
	struct flow *flows; /* by topic, then publisher */
	uint32_t flows_n;
	struct worker *workers;
	unsigned workers_n;
	struct mailbox *mailbox; /* for its doorbells: it carries no letters */
	int *ring_fds;
	struct keyring *keyring; /* NULL: plain */
	pthread_barrier_t step;

	/* Set by the main thread before the last step, but for the end, which may come early. */
	uint64_t start_ns, measure_ns;
	_Atomic uint64_t end_ns;
	_Atomic unsigned drained; /* workers that have got all there is */

	_Atomic bool failed, refused; /* refused: the kernel gives no io_uring */
	pthread_mutex_t lock;
	char error[512]; /* what failed first */
};

/* The run has failed; the first reason is kept. Any thread. */
void run_fail(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

static inline bool run_failed(struct run *run)
{
	return atomic_load_explicit(&run->failed, memory_order_relaxed);
}

/* Waits until all threads have come this far. */
void run_step(struct run *run);

/* The name of a topic of this run, in buf. */
struct span run_topic(const struct run *run, uint32_t topic, char buf[RUN_TOPIC_MAX]);
/* The same as subscribers ask for it, and get it. */
struct span run_delivered_topic(const struct run *run, uint32_t topic, char buf[RUN_TOPIC_MAX]);
/* The pattern that brings all topics; empty: none is asked for. */
struct span run_pattern(const struct run *run, char buf[RUN_TOPIC_MAX]);

/* Subscribers of each topic that read. */
/* Topics that a subscriber's connection has. */
static inline uint32_t run_topics_each(const struct options *o)
{
	return o->pattern ? o->topics : o->topics_each;
}

static inline unsigned run_readers(const struct options *o)
{
	return o->subscribers - o->subscribers * o->stall_percent / 100;
}

/* Connects, publishes, checks, reports. Returns the exit code. */
int run_main(const struct options *options);

#endif
