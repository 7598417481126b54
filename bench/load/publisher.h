#ifndef LOAD_PUBLISHER_H
#define LOAD_PUBLISHER_H

/*
 * The sending end of a flow: sends what its window, or the clock, lets go, in one send for all of
 * it. The worker's thread only.
 */

#include "base/list.h"
#include "load/client.h"
#include "load/flow.h"

struct publisher {
	struct client client;
	struct flow *flow;
	struct list ready;     /* in the worker's list: may have something to send */
	uint64_t due;          /* messages that the clock has let go, when paced */
	struct iovec spans[2]; /* what is in flight, the second after the ring's end */
	unsigned spans_n;
	struct wire_stash stash;
};

bool publisher_open(struct worker *worker, struct publisher *publisher, struct flow *flow);
/* May have something to send now: publisher_push at the end of the turn. */
void publisher_ready(struct publisher *publisher);
/* Sends what may go. */
void publisher_push(struct publisher *publisher, uint64_t now_ns);

#endif
