#ifndef BROKER_HTTP_SESSION_H
#define BROKER_HTTP_SESSION_H

/*
 * A connection that speaks HTTP: one request at a time, in order; what is pipelined behind it waits
 * in the connection's input. Some of them are answered at once; a connection with more of them then
 * waits for its turn behind those that have waited longer. What it is answered is in http_answer.h.
 * The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/list.h"
#include "base/span.h"
#include "broker/connection.h"

struct block;
struct http_decoder;
struct shard;

/* Whose the request is that is being answered. */
enum http_login_state {
	HTTP_LOGIN_NONE,
	HTTP_LOGIN_ASKED,
	HTTP_LOGIN_DONE, /* that is known: it may be handled */
};

enum http_state {
	HTTP_READING,   /* between requests, or in a head */
	HTTP_RECEIVING, /* a body */
	HTTP_WAITING,   /* for another shard's word */
	HTTP_STREAMING, /* to the end of the connection */
	HTTP_SWITCHED,  /* another protocol begins */
};

/* What a request for another protocol is to be told (session/upgrade.h); from malloc(3). */
struct http_upgrade {
	/* The connection's subscription, which it has been waiting for, stands. */
	void (*subscribed)(struct connection *connection);
	/* The request has been worked through, and HTTP_SWITCHED: there is to be no HTTP session
	 * any more. */
	void (*switched)(struct connection *connection);
};

/* What there is of it as long as requests are read; from malloc(3). */
struct http_reading {
	struct http_decoder *decoder;
	struct connection *connection;
	size_t input_at;      /* where in the connection's input the next request begins */
	struct list runnable; /* there is more to look at, when it is its turn */
	/* of the request that is being answered */
	uint8_t login;            /* enum http_login_state */
	uint64_t receiving_bytes; /* of its whole body; 0: not known, or none */
	char *origin;             /* that may read the answer, or NULL */
	char *fields;             /* If-None-Match, Range and If-Range, each with a NUL, or NULL */
	struct span head;         /* its bytes, while they are handled */
	char *kept;               /* the same while it waits for its login, or NULL */
	size_t kept_len;
	/* What becomes of its body; NULL: it is published. */
	void (*whole)(struct connection *connection, struct block *body);
};

struct http_session {
	struct http_reading *reading; /* NULL when nothing will be read any more */
	uint8_t state;                /* enum http_state */
	bool running;                 /* its input is being worked through */
	bool answered_any;
	bool timing; /* the deadline is that of a request that is partly there */
	bool ended;  /* the client has sent its last */
	/* of the request that is being answered */
	bool head_only, http_1_0, chunked, close;
	bool events;                  /* it is for an event stream */
	bool publishing;              /* a message, whose number is still to come */
	bool pipelined;               /* something had come behind it already */
	uint8_t looks;                /* since it had taken something */
	uint32_t ticket;              /* tells a late answer from the one that is waited for */
	struct http_upgrade *upgrade; /* to another protocol, still to be granted; or NULL */
	struct block *receiving;      /* the kernel may write to it until the socket is closed */
	uint64_t taken;               /* by its reader, when that was last looked at */
};

/* Behind a pointer in the connection; NULL: nothing has come yet. */
static inline struct http_session *http_of(const struct connection *c)
{
	struct http_session *http;

	memcpy(&http, c->session, sizeof(http));
	return http;
}

static inline void http_set(struct connection *c, struct http_session *http)
{
	memcpy(c->session, &http, sizeof(http));
}

/* Bytes from a client; makes the session if there is none. */
void http_session_received(struct connection *connection, struct span bytes);
/* Goes on with what has come meanwhile. */
void http_session_resume(struct connection *connection);
/* Lets those whose turn it is go on, as far as there is time. Whether more is left. To be called
 * once per turn. */
bool http_sessions_go_on(struct shard *shard);
/* What struct protocol has of it: whose the request is that is being handled, or waits. */
void http_session_logged_in(struct connection *connection, enum access_result result);
/* The client's end of file. */
void http_session_ended(struct connection *connection);
void http_session_drain(struct connection *connection);
bool http_session_silent(const struct connection *connection);
uint64_t http_session_held(const struct connection *connection);
void http_session_free(struct connection *connection);

#endif
