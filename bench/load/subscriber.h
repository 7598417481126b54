#ifndef LOAD_SUBSCRIBER_H
#define LOAD_SUBSCRIBER_H

/*
 * The receiving end: every byte is compared with what the publishers sent. The worker's thread
 * only.
 */

#include "load/client.h"
#include "load/flow.h"

struct subscriber {
	struct client client;
	struct flow_view *views; /* of its topics' publishers, in this worker */
	uint32_t flows_n;        /* by topic, then publisher */
	uint64_t *next;          /* the message that must come next, by flow */
	uint64_t next_of_one;    /* where there is only one */
	uint32_t current;        /* whose message has begun */
	size_t offset;           /* how much of it has come, all of it right */
	struct wire_stash stash;
	bool stalled; /* does not read */
};

/* topic: the first of those that its connection has. */
bool subscriber_open(struct worker *worker, struct subscriber *subscriber, uint32_t topic,
		     uint32_t number, bool stalled);
void subscriber_release(struct subscriber *subscriber);

/* A connection that subscribes and expects nothing. */
bool subscriber_open_idle(struct worker *worker, struct client *client, struct span topic,
			  uint32_t number, void (*ready)(struct client *));

/* Says what is missing and fails the run, if anything is. */
void subscriber_check_end(struct subscriber *subscriber);

#endif
