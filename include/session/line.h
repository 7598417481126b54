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
#include "broker/connection.h"
#include "broker/protocol.h"
#include "protocol/line.h"

struct block;
struct shard;
struct subscribe_letter;
struct topic_letter;

/* What a connection that publishes needs. */
struct publisher {
	struct block *carry;        /* a message that is partly there, or NULL */
	size_t unread;              /* bytes received behind it that have not been looked at */
	size_t together;            /* most bytes that have lately been published as one */
	struct topic_letter *leave; /* for its end, which must not fail for want of memory */
	uint64_t hash;
	unsigned home;
	uint32_t slot, generation; /* of its connection */
	struct span name;
	char bytes[];
};

/* In the connection. */
struct line_session {
	struct publisher *publisher;  /* NULL: it does not publish */
	struct block *receiving_into; /* outlives its publisher while the kernel may write to it */
	struct line_decoder decoder;
	uint32_t pongs;  /* that a subscriber asked for and has still to get */
	bool logging_in; /* nothing is done before that is decided */
	bool ended;      /* meanwhile the client has sent its last */
};

static inline struct line_session *line_of(struct connection *c)
{
	return (struct line_session *)(void *)c->session;
}

static inline struct publisher *line_publisher(const struct connection *c)
{
	return ((const struct line_session *)(const void *)c->session)->publisher;
}

/* What struct protocol has of them. */
void line_session_received(struct connection *connection, struct span bytes);
/* Nothing more will come: what has come is all. */
void line_session_ended(struct connection *connection);
/* And it is the client's goodbye. */
void line_session_goodbye(struct connection *connection);
void line_session_logged_in(struct connection *connection, enum access_result result);
bool line_session_still_may(struct connection *connection);
void line_session_subscribed(struct connection *connection, struct subscription *subscription,
			     const struct subscribe_letter *letter);
const char *line_session_say(struct connection *connection, enum reason reason);
const char *line_session_farewell(const struct connection *connection, bool bye);
void line_session_interject(struct connection *connection);
bool line_session_silent(const struct connection *connection);
uint64_t line_session_held(const struct connection *connection);
void line_session_free(struct connection *connection);

/* The connection's publisher, if there is one, has said its last; with a receipt the connection
 * waits for its home's word. */
void publisher_end(struct connection *connection, bool receipt);
/* LETTER_REFUSED: what it publishes would be for nobody; takes the letter over. */
void publisher_refused(struct shard *shard, struct topic_letter *letter);

#endif
