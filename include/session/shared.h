#ifndef SESSION_SHARED_H
#define SESSION_SHARED_H

/*
 * What the sessions of a shard share, by protocol (shard->sessions). The shard's thread only.
 */

#include "base/list.h"
#include "base/pool.h"
#include "broker/shard.h"
#include "session/gather.h"
#include "session/http_answer.h"
#include "session/intake.h"
#include "session/websocket.h"
#include "session/mqtt.h"

struct upstream;

struct session_shared {
	struct http_clients http;
	struct intakes intakes;
	struct gather gather;
	struct websockets websockets;
	struct deadline_class hello;     /* session/opening.h */
	struct deadline_class nats_ping; /* session/nats.h */
	uint64_t nats_clients;           /* so far */
	struct pool nats_subscriptions;  /* with short sids: session/nats.h */
	struct mqtt_clients mqtt;
	struct upstream *upstream; /* NULL: there is none */
};

static inline struct session_shared *session_shared(const struct shard *s)
{
	return (struct session_shared *)s->sessions;
}

static inline struct http_clients *http_shared(const struct shard *s)
{
	return &session_shared(s)->http;
}

#endif
