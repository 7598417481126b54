#ifndef SESSION_WEBSOCKET_H
#define SESSION_WEBSOCKET_H

/*
 * What WebSockets of the broker's own have in common: frames are read, pings go out and are
 * answered, a Close ends it. It begins where HTTP ends (session/upgrade.h). What a message means is
 * its use: published to the one topic that the socket is (here), or a command
 * (session/websocket_json.h). An idle socket has nothing of its own here: what reads its frames is
 * there while some of them are. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "broker/connection.h"
#include "broker/protocol.h"
#include "engine/deadline.h"
#include "protocol/websocket.h"
#include "session/intake.h"

struct block;
struct shard;
struct websocket_query;
struct websocket_topics;

/* What the WebSockets of a shard share. */
struct websockets {
	struct deadline_class ping;
	struct websocket_reader *spare; /* for the next one that says something; or NULL */
};

/* What reads frames, from the first byte of a message to its last. */
struct websocket_input {
	struct intake intake; /* first */
	struct websocket_reader *reader;
	struct block *message; /* of which some is there, or NULL */
};

_Static_assert(sizeof(struct websocket_input) <= INTAKE_BYTES_MAX, "it is one of the shard's");

struct websocket_use {
	/* A part of a message. */
	void (*part)(struct connection *connection, const struct websocket_event *event);
	/* All that was asked for stands, or it is its turn again: goes on with what has to be done
	 * before what comes next. NULL: there is nothing of that. */
	void (*resume)(struct connection *connection);
};

/* In the connection. */
struct websocket_session {
	union {
		struct intake *intake;
		struct websocket_input *input; /* NULL: nothing has begun */
	};
	const struct websocket_use *use;
	struct websocket_topics *topics; /* session/websocket_topics.h */
	struct websocket_query *query;   /* session/websocket_json.h; NULL: it has been asked for */
	char closing[6];                 /* what its client's Close is answered with; or "" */
	bool pinged : 1;                 /* and nothing has come since */
	bool may_publish : 1;            /* to the topic that it is: it has been asked */
	bool forwarded : 1;              /* by a proxy */
	bool busy : 1;                   /* what comes next has to wait for another turn */
};

_Static_assert(sizeof(struct websocket_session) <= SESSION_BYTES, "it lies in the connection");

static inline struct websocket_session *websocket_of(const struct connection *c)
{
	return (struct websocket_session *)(void *)(uintptr_t)c->session;
}

/* A socket that is the topic of its only subscription. */
extern const struct protocol websocket_protocol;
void websocket_begin(struct connection *connection);

/* ---- for all uses ---- */

/* It speaks frames from now on. False: it is refused, and told so. */
bool websocket_open(struct connection *connection, const struct websocket_use *use);
/* Puts a part of a message behind those that have come; the block is made for this topic. False:
 * out of memory. */
bool websocket_collect(struct connection *connection, struct span topic, struct span part);

/* What struct protocol has of them. */
void websocket_received(struct connection *connection, struct span bytes);
void websocket_ended(struct connection *connection);
void websocket_resume(struct connection *connection);
void websocket_drain(struct connection *connection);
const char *websocket_say(struct connection *connection, enum reason reason);
const char *websocket_farewell(const struct connection *connection, bool bye);
bool websocket_silent(const struct connection *connection);
uint64_t websocket_held(const struct connection *connection);
void websocket_free(struct connection *connection);

void websockets_init(struct shard *shard);
void websockets_release(struct shard *shard);
void websockets_configure(struct shard *shard);

#endif
