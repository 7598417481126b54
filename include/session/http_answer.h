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

#include "base/span.h"
#include "base/list.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "engine/deadline.h"

struct block;
struct connection;
struct shard;
struct subscribe_letter;

/* What the HTTP clients of a shard share. */
struct http_clients {
	struct deadline_class heartbeat, stall;
	char date[32]; /* of this second */
	uint64_t date_second;
	struct list answers;  /* fetched for those who waited, to be given in the next turns */
	struct list runnable; /* sessions with requests to look at, first come first */
};

/* ---- for handlers of requests (routes.h) ---- */

struct http_answer {
	unsigned status;
	struct span type;    /* of the body; empty: no Content-Type */
	const char *headers; /* more lines, each with CRLF, or NULL */
	struct span body;
	bool coded;         /* what it is depends on Accept-Encoding */
	bool endless;       /* HEAD of a stream: it has no length */
	struct block *hold; /* where the body lies, if it may be sent from there; else NULL */
};

/* Answers the request; what `body` points to may go at once, unless it lies in `hold`. */
void http_answer(struct connection *connection, const struct http_answer *answer);
/* {"error":"<reason>"}; reason is text without quotes. */
void http_error(struct connection *connection, unsigned status, const char *reason);
/* What comes of a body that nobody wants is not worth receiving. */
void http_abandon_body(struct connection *connection);
/* No more requests after this one. */
void http_close_after(struct connection *connection);
/* Forgets the request's head that was kept until it is known whose it is. */
void http_forget_head(struct connection *connection);
/* Frees what there was for reading requests. */
void http_free_reading(struct connection *connection);
/* Nothing more is read, for the connection is a stream: it has no reason to wait any more. */
void http_stop_reading(struct connection *connection);
/* The session waits for another shard's word from now on; returns the ticket. */
uint32_t http_wait(struct connection *connection);
/* The connection that waits with this ticket, its wait over; NULL: it has gone, or waits no more.
 */
struct connection *http_waited(struct shard *shard, uint32_t slot, uint32_t generation,
			       uint32_t ticket);

/* A name as a JSON string, quotes included, into out, which has room for 6 bytes per byte and 2.
 * Returns the length. */
size_t json_string(struct span text, char *out);

void http_answers_init(struct shard *shard);
void http_answers_configure(struct shard *shard);

/* What struct protocol has of them. */
void http_answer_subscribed(struct connection *connection, struct subscription *subscription,
			    const struct subscribe_letter *letter);
const char *http_answer_say(struct connection *connection, enum reason reason);
const char *http_answer_farewell(const struct connection *connection, bool bye);
void http_answer_body_went(struct connection *connection, bool whole);

#endif
