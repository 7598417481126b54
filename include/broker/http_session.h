#ifndef BROKER_HTTP_SESSION_H
#define BROKER_HTTP_SESSION_H

/*
 * A connection that speaks HTTP: one request at a time, in order; what is pipelined behind it waits
 * in the connection's input. Answers are queued as replies; a large body is not copied but held in
 * its block while it is sent. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/span.h"
#include "broker/shard.h"

struct block;
struct connection;
struct http_decoder;
struct http_request;
struct subscribe_letter;

enum http_state {
	HTTP_READING,   /* between requests, or in a head */
	HTTP_RECEIVING, /* a body */
	HTTP_WAITING,   /* for another shard's word */
	HTTP_STREAMING, /* to the end of the connection */
};

struct http_session {
	struct http_decoder *decoder; /* NULL when nothing will be read any more */
	uint8_t state;                /* enum http_state */
	bool running;                 /* its input is being worked through */
	bool answered_any;
	bool timing; /* the deadline is that of a request that is partly there */
	bool ended;  /* the client has sent its last */
	/* of the request that is being answered */
	bool head_only, http_1_0, chunked, close;
	bool publishing;          /* a message, whose number is still to come */
	unsigned home;            /* of the topic last published to */
	uint32_t ticket;          /* tells a late answer from the one that is waited for */
	char *origin;             /* that may read the answer, or NULL */
	char *fields;             /* If-None-Match, Range and If-Range, each with a NUL, or NULL */
	struct block *receiving;  /* the kernel may write to it until the socket is closed */
	uint64_t receiving_bytes; /* of its whole body; 0: not known, or none */
	/* a body on its way out, in a block that is held */
	struct block *sending;
	struct span left;
	size_t input_at; /* where in the connection's input the next request begins */
};

void http_sessions_init(struct shard *shard);
/* Bytes from a client; makes the session if there is none. */
void http_session_received(struct connection *connection, struct span bytes);
/* The client's end of file. */
void http_session_ended(struct connection *connection);
void http_session_free(struct connection *connection);

/* The rest of a body as spans; how many. */
unsigned http_session_gather(struct connection *connection, struct iovec *spans, unsigned max);
/* So many bytes went out behind the reply: returns how many of them were the body's. */
size_t http_session_sent(struct connection *connection, size_t bytes);
/* Whether a body is on its way. */
bool http_session_sending(const struct connection *connection);
/* Goes on with what has come meanwhile. */
void http_session_resume(struct connection *connection);

/* The connection must end, for a reason that the line protocol has as this text: answers the
 * request, if one is waiting. Returns the farewell of a stream, or NULL. */
const char *http_session_error(struct connection *connection, const char *error_line);
/* The farewell of a stream that has come to its end. */
const char *http_session_farewell(const struct connection *connection);
/* The subscription is there; letter NULL: it was at once. */
void http_session_subscribed(struct connection *connection, const struct subscribe_letter *letter);

/* ---- for handlers of requests (routes.h) ---- */

struct http_answer {
	unsigned status;
	struct span type;    /* of the body; empty: no Content-Type */
	const char *headers; /* more lines, each with CRLF, or NULL */
	struct span body;
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

#endif
