#ifndef SESSION_WEBSOCKET_TUNNEL_H
#define SESSION_WEBSOCKET_TUNNEL_H

/*
 * Other protocols inside WebSocket: what is in a client's frames is for a session as if it had come
 * without them, frames and commands independent of each other; what that says it puts into frames
 * itself. Pings are answered and a Close ends it here. The shard's thread only.
 */

#include <stdbool.h>

#include "broker/protocol.h"

struct connection;

/* Speaks a protocol of the registry's, in frames. */
struct websocket_tunnel {
	struct protocol protocol; /* first: what the connection speaks */
	const struct protocol *inner;
	bool binary_only; /* a text frame is an error */
};

extern struct websocket_tunnel websocket_nats, websocket_mqtt;

/* The connection has just been upgraded. */
void websocket_nats_begin(struct connection *connection);
void websocket_mqtt_begin(struct connection *connection);

/* Once, before threads start. */
void websocket_tunnels_init(const struct protocol *nats, const struct protocol *mqtt);

#endif
