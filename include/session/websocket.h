#ifndef SESSION_WEBSOCKET_H
#define SESSION_WEBSOCKET_H

/*
 * A WebSocket that is a topic: each message a frame, each frame a message. It begins where HTTP
 * ends (session/upgrade.h), with its subscription. An idle one is its connection and its
 * subscription and no more: what reads its frames is there while some of them are. The shard's
 * thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "broker/protocol.h"
#include "engine/deadline.h"

struct connection;
struct shard;
struct websocket_input;

/* What the WebSockets of a shard share. */
struct websockets {
	struct deadline_class ping;
	struct websocket_input *spare; /* for the next one that says something; or NULL */
};

extern const struct protocol websocket_protocol;

/* It speaks it from now on. */
void websocket_begin(struct connection *connection);

void websockets_init(struct shard *shard);
void websockets_release(struct shard *shard);
void websockets_configure(struct shard *shard);

#endif
