#ifndef BROKER_LINE_SESSION_H
#define BROKER_LINE_SESSION_H

/*
 * What a connection says in the line protocol: commands, and a publisher's messages, which become
 * blocks where they are received. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

struct block;
struct connection;
struct shard;
struct topic_letter;

void line_session_received(struct connection *connection, struct span bytes);
/* Nothing more will come: what has come is all. */
void line_session_ended(struct connection *connection);

/* What a connection that publishes needs. */
struct publisher {
	struct block *carry;        /* a message that is partly there, or NULL */
	size_t unread;              /* bytes received behind it that have not been looked at */
	size_t together;            /* most bytes that have lately been published as one */
	struct topic_letter *leave; /* for its end, which must not fail for want of memory */
	uint64_t hash;
	unsigned home;
	struct span name;
	char bytes[];
};

/* The connection's publisher, if there is one, has said its last; with a receipt the connection
 * waits for its home's word. */
void publisher_end(struct connection *connection, bool receipt);
/* LETTER_REFUSED: what it publishes would be for nobody; takes the letter over. */
void publisher_refused(struct shard *shard, struct topic_letter *letter);

#endif
