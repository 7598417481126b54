#ifndef BROKER_OUTPUT_H
#define BROKER_OUTPUT_H

/*
 * What a connection has to say before its subscriptions' messages, as a chain in the order in which
 * it is said: replies, which are copied and merged, and at most one body, which lies in a block.
 * NULL: nothing. Belongs to its connection. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/span.h"

struct block;

enum output_kind {
	OUTPUT_REPLY,  /* more may be put behind it */
	OUTPUT_FLYING, /* a reply that the kernel has, or has some of */
	OUTPUT_BODY,
};

struct output {
	struct output *next;
	uint32_t len;   /* of a reply, */
	uint32_t flown; /* and so many of it are gone */
	uint8_t kind;   /* enum output_kind */
	char text[];    /* close behind, so that short replies take little */
};

/* Adds a reply of a byte or more. False: out of memory, nothing is added. */
bool output_add(struct output **output, struct span text);
/* The same with a body, whose block it holds. There must be none. */
bool output_add_body(struct output **output, struct block *block, struct span body);
/* What goes with the next send, as spans: how many of at most `max`. */
unsigned output_gather(struct output *output, struct iovec *spans, unsigned max);
/* A send has ended: so many of its bytes went. Returns how many of them were behind what was ours.
 * *body: how many were the body's. */
size_t output_sent(struct output **output, size_t bytes, size_t *body);
void output_release(struct output **output);

/* Bytes of replies that the kernel has not been given yet. */
size_t output_unsaid(const struct output *output);
/* Bytes of all replies. */
size_t output_held(const struct output *output);
/* Bytes of the body that have not gone; 0: there is none. */
size_t output_body_left(const struct output *output);

/* Whether what comes behind it may go with the same send. */
static inline bool output_all_gathered(const struct output *o)
{
	while (o != NULL && o->kind == OUTPUT_FLYING)
		o = o->next;
	return o == NULL;
}

#endif
