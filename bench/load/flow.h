#ifndef LOAD_FLOW_H
#define LOAD_FLOW_H

/*
 * A flow is all that one publisher sends: the messages it has made lately, as they go out and as
 * they must come back, and how far the subscribers have got. What a subscriber must get is a known
 * run of bytes, so checking it is mostly one memcmp against this memory.
 *
 * The publisher's thread writes a flow; the subscribers' threads read it, and each counts in a view
 * of its own how far its subscribers are. Nothing takes a lock.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "load/message.h"
#include "load/wire.h"

#define FLOW_UNENDED UINT64_MAX

struct flow {
	uint32_t topic, publisher; /* its number within the topic */
	uint32_t run;
	const struct filler *filler;

	/* Messages as they go out and as they come back, each a ring of slots; the same memory
	 * where they look the same. in NULL: how they come back is not known beforehand. */
	uint64_t slots; /* a power of two */
	char *out, *in;
	size_t out_bytes, in_bytes; /* of a slot */
	size_t out_prefix, in_prefix;

	/* When message i was meant to be sent: first_ns + i * period_ns when it is paced, else in
	 * its slot. */
	double period_ns;
	uint64_t first_ns;
	uint64_t *intended_ns;

	/* Messages whose progress can be told apart at a time; for each, how many threads have yet
	 * to see it through. */
	uint64_t tracked;       /* a power of two, slots or more */
	_Atomic uint32_t *left; /* NULL: there is only one thread */
	uint32_t threads;       /* that have subscribers */
	unsigned owner;         /* the publisher's thread */
	_Atomic uint64_t built; /* messages made */
	_Atomic uint64_t end;   /* how many there will be, once that is known */
};

/* How far one thread's subscribers have got with a flow. */
struct flow_view {
	struct flow *flow;
	uint32_t subscribers;  /* of this thread; 0: nothing to wait for */
	uint32_t *arrived;     /* at how many of them, by tracked message */
	_Atomic uint64_t done; /* messages that all of them have; others read it */
	bool advanced;         /* since the owner looked last */
};

struct flow_params {
	uint32_t run, topic, publisher;
	const struct filler *filler;
	const struct wire *wire;
	struct span topic_name, delivered_name; /* as it is published, and as it comes back */
	struct wire_asked asked;
	unsigned window; /* 0: paced */
	double period_ns;
	uint32_t threads;
	unsigned owner;
};

/* -ENOMEM; the caller releases either way. */
int flow_init(struct flow *flow, const struct flow_params *params);
void flow_release(struct flow *flow);

int flow_view_init(struct flow_view *view, struct flow *flow, uint32_t subscribers);
void flow_view_release(struct flow_view *view);

static inline uint64_t flow_due_ns(const struct flow *f, uint64_t seq)
{
	return f->first_ns + (uint64_t)((double)seq * f->period_ns);
}

/* Of a message that was made and is still remembered. */
static inline uint64_t flow_intended_ns(const struct flow *f, uint64_t seq)
{
	return f->intended_ns != NULL ? f->intended_ns[seq & (f->slots - 1)] : flow_due_ns(f, seq);
}

/* Makes the next n messages; the slots they take are free. now_ns: their intended time, unless the
 * flow is paced. */
void flow_build(struct flow *flow, unsigned n, uint64_t now_ns);

/* Writes message seq as it comes back, again. buf takes in_bytes. */
void flow_rebuild(const struct flow *flow, uint64_t seq, char *buf);

/* One of the view's subscribers has got message seq. True: that was the last of all subscribers of
 * the flow. */
static inline bool flow_arrived(struct flow_view *v, uint64_t seq)
{
	struct flow *f = v->flow;
	uint64_t at = seq & (f->tracked - 1);

	if (++v->arrived[at] < v->subscribers)
		return false;
	v->arrived[at] = 0;
	if (f->left != NULL) {
		bool last = atomic_fetch_sub_explicit(&f->left[at], 1, memory_order_relaxed) == 1;

		if (last)
			atomic_store_explicit(&f->left[at], f->threads, memory_order_relaxed);
		/* Only now may the publisher use the slot again. */
		atomic_store_explicit(&v->done, seq + 1, memory_order_release);
		return last;
	}
	atomic_store_explicit(&v->done, seq + 1, memory_order_relaxed);
	return true;
}

#endif
