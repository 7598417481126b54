#ifndef BROKER_OUTPUT_H
#define BROKER_OUTPUT_H

/*
 * What a connection has to say before its subscription's messages: replies, which are copied and
 * merged, and behind them at most one body, which lies in a block. Belongs to its connection. The
 * shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/span.h"

struct block;

struct output {
	bool waits;           /* there is any of it; first, where each send looks */
	uint32_t flown;       /* of what the kernel has */
	char *reply, *flying; /* bytes to say, and those that the kernel has */
	uint32_t reply_len, flying_len;
	struct block *body; /* held; NULL: none is on its way */
	struct span left;   /* of it */
};

/* Adds a reply. False: out of memory, nothing is added. */
bool output_add(struct output *output, struct span text);
/* Sends a body behind the replies that there are; holds the block that it lies in. There must be
 * none. */
void output_add_body(struct output *output, struct block *block, struct span body);
/* What goes with the next send, as spans: how many of at most `max`, 3 or more. */
unsigned output_gather(struct output *output, struct iovec *spans, unsigned max);
/* A send has ended: so many of its bytes went. Returns how many of them were behind what was ours.
 * *body: how many were the body's. */
size_t output_sent(struct output *output, size_t bytes, size_t *body);
void output_release(struct output *output);

/* Whether what comes behind it may go with the same send. */
static inline bool output_all_gathered(const struct output *o)
{
	return o->reply_len == 0 && o->body == NULL;
}

#endif
