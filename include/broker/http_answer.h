#ifndef BROKER_HTTP_ANSWER_H
#define BROKER_HTTP_ANSWER_H

/*
 * What a client that speaks HTTP is told: answers, streams' heads and heartbeats, errors. All of it
 * is queued as the connection's reply; a large body is not copied but held in its block while it is
 * sent. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/span.h"
#include "engine/deadline.h"

struct block;
struct connection;
struct objects;
struct shard;
struct subscribe_letter;

/* What the HTTP clients of a shard share. */
struct http_clients {
	struct deadline_class heartbeat, stall;
	char date[32]; /* of this second */
	uint64_t date_second;
	struct objects *objects; /* static files */
	struct list runnable;    /* sessions with requests to look at, first come first */
};

/* ---- for handlers of requests (routes.h) ---- */

struct http_answer {
	unsigned status;
	struct span type;    /* of the body; empty: no Content-Type */
	const char *headers; /* more lines, each with CRLF, or NULL */
	struct span body;
	bool coded;         /* what it is depends on Accept-Encoding */
	struct block *hold; /* where the body lies, if it may be sent from there; else NULL */
};

/* Answers the request; what `body` points to may go at once, unless it lies in `hold`. */
void http_answer(struct connection *connection, const struct http_answer *answer);
/* {"error":"<reason>"}; reason is text without quotes. */
void http_error(struct connection *connection, unsigned status, const char *reason);
/* No more requests after this one. */
void http_close_after(struct connection *connection);
/* The session waits for another shard's word from now on; returns the ticket. */
uint32_t http_wait(struct connection *connection);
/* The connection that waits with this ticket, its wait over; NULL: it has gone, or waits no more.
 */
struct connection *http_waited(struct shard *shard, uint32_t slot, uint32_t generation,
			       uint32_t ticket);

/* A name as a JSON string, quotes included, into out, which has room for 6 bytes per byte and 2.
 * Returns the length. */
size_t json_string(struct span text, char *out);

/* ---- for connections ---- */

void http_answers_init(struct shard *shard);

/* Whether a body is on its way. */
bool http_answer_sending(const struct connection *connection);
/* The rest of a body as spans; how many. */
unsigned http_answer_gather(struct connection *connection, struct iovec *spans, unsigned max);
/* So many bytes went out behind the reply: returns how many of them were the body's. */
size_t http_answer_sent(struct connection *connection, size_t bytes);

/* The subscription is there; letter NULL: it was at once. */
void http_answer_subscribed(struct connection *connection, const struct subscribe_letter *letter);
/* The farewell of a stream that has come to its end. */
const char *http_answer_farewell(const struct connection *connection);
/* The connection must end, for a reason that the line protocol has as this text: answers the
 * request, if one is waiting. Returns the farewell of a stream, or NULL. */
const char *http_answer_end(struct connection *connection, const char *error_line);

#endif
