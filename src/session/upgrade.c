#include "session/upgrade.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/access.h"
#include "broker/connection.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "protocol/http.h"
#include "protocol/http_field.h"
#include "protocol/websocket.h"
#include "protocol/websocket_wire.h"
#include "session/http.h"
#include "session/http_answer.h"
#include "session/routes.h"
#include "session/websocket.h"
#include "session/websocket_json.h"
#include "session/websocket_tunnel.h"

struct upgrade;

enum prepared {
	PREPARED_NOW,   /* it can be granted */
	PREPARED_LATER, /* when its subscription stands */
	PREPARED_NEVER, /* that has been answered */
};

/* What a WebSocket may be, by its path or subprotocol. */
struct upgrade_door {
	struct span path;
	bool prefix;
	struct span subprotocol; /* that may be offered, and is then chosen; empty: none */
	const struct protocol *protocol;
	/* It speaks it now. */
	void (*begin)(struct connection *connection, const struct upgrade *upgrade);
	/* Looks at the request, and asks for what has to be there first. rest: the undecoded path
	 * behind the prefix. */
	enum prepared (*prepare)(struct connection *connection, const struct http_request *request,
				 struct span rest);
};

/* What the HTTP session has of it, until it is granted. */
struct upgrade {
	struct http_upgrade http; /* first */
	const struct upgrade_door *door;
	bool forwarded; /* a proxy hands it on */
	size_t len;
	char answer[256];
	size_t query_len;
	char query[];
};

static struct upgrade *upgrade_of(const struct connection *c)
{
	return (struct upgrade *)http_of(c)->upgrade;
}

/* ---- doors ---- */

static enum prepared prepare_topic(struct connection *c, const struct http_request *r,
				   struct span rest)
{
	struct span last = http_query(r->query, SPAN("last"));
	bool binary = span_equal(http_query(r->query, SPAN("binary")), SPAN("1"));
	struct subscription_wanted wanted = {
		.wire.format = binary ? &websocket_binary_format : &websocket_format,
		.replay.kind = last.data != NULL ? REPLAY_LAST : REPLAY_NONE,
	};
	struct subscription *sub;
	char name[256];
	int err;

	if (!route_topic(c, rest, name, &wanted.name) || !route_may_read(c, r, wanted.name))
		return PREPARED_NEVER;
	if (last.data != NULL && !http_number(last, &wanted.replay.n)) {
		http_error(c, 400, "malformed last");
		return PREPARED_NEVER;
	}
	(void)http_wait(c);
	err = subscription_new(c, &wanted, &sub);
	if (err != 0)
		connection_no_subscription(c, err);
	return PREPARED_LATER;
}

static void begin_topic(struct connection *c, const struct upgrade *u)
{
	(void)u;
	websocket_begin(c);
}

static enum prepared prepare_json(struct connection *c, const struct http_request *r,
				  struct span rest)
{
	const char *wrong = websocket_json_query(r->query);

	(void)rest;
	if (wrong == NULL)
		return PREPARED_NOW;
	http_error(c, 400, wrong);
	return PREPARED_NEVER;
}

static void begin_json(struct connection *c, const struct upgrade *u)
{
	websocket_of(c)->forwarded = u->forwarded;
	websocket_json_begin(c, (struct span){ u->query, u->query_len });
}

static enum prepared prepare_nothing(struct connection *c, const struct http_request *r,
				     struct span rest)
{
	(void)c;
	(void)r;
	(void)rest;
	return PREPARED_NOW;
}

static void begin_nats(struct connection *c, const struct upgrade *u)
{
	(void)u;
	websocket_nats_begin(c);
}

static void begin_mqtt(struct connection *c, const struct upgrade *u)
{
	(void)u;
	websocket_mqtt_begin(c);
}

/* By its subprotocol, whatever the path is. */
static const struct upgrade_door mqtt_door = { .subprotocol = { "mqtt", 4 },
					       .protocol = &websocket_mqtt.protocol,
					       .begin = begin_mqtt,
					       .prepare = prepare_nothing };

static const struct upgrade_door doors[] = {
	{ .path = { "/ws/", 4 },
	  .prefix = true,
	  .protocol = &websocket_protocol,
	  .begin = begin_topic,
	  .prepare = prepare_topic },
	{ .path = { "/ws", 3 },
	  .protocol = &websocket_json_protocol,
	  .begin = begin_json,
	  .prepare = prepare_json },
	{ .path = { "/nats", 5 },
	  .subprotocol = { "nats", 4 },
	  .protocol = &websocket_nats.protocol,
	  .begin = begin_nats,
	  .prepare = prepare_nothing },
	{ .path = { "/", 1 },
	  .subprotocol = { "nats", 4 },
	  .protocol = &websocket_nats.protocol,
	  .begin = begin_nats,
	  .prepare = prepare_nothing },
};

static const struct upgrade_door *find(const struct http_request *r, struct span *rest)
{
	struct http_list offered = r->socket_protocols;
	struct span path = r->path, one;

	while (http_list_next(&offered, &one))
		if (span_equal(one, mqtt_door.subprotocol))
			return &mqtt_door;
	for (size_t i = 0; i < sizeof(doors) / sizeof(*doors); i++) {
		const struct upgrade_door *door = &doors[i];

		if (door->prefix ? path.len <= door->path.len : path.len != door->path.len)
			continue;
		*rest = span_skip(path, door->path.len);
		if (span_equal((struct span){ path.data, door->path.len }, door->path))
			return door;
	}
	return NULL;
}

/* ---- the request ---- */

/* What is there can only be asked for so. */
static void require(struct connection *c, const struct http_request *r, struct span rest)
{
	static const char body[] = "{\"error\":\"WebSocket only\"}\n";

	(void)r;
	(void)rest;
	http_answer(
		c, &(struct http_answer){ .status = 426,
					  .type = SPAN("application/json"),
					  .headers = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
						     "Sec-WebSocket-Version: 13\r\n"
						     "Cache-Control: no-store\r\n",
					  .body = SPAN(body) });
}

/* Which of what is offered is this door's; empty: nothing is. False: only others are. */
static bool choose(struct http_list offered, struct span ours, struct span *chosen)
{
	struct span one;
	bool any = false;

	*chosen = (struct span){ "", 0 };
	while (http_list_next(&offered, &one)) {
		any = true;
		if (ours.len > 0 && span_equal(one, ours))
			*chosen = ours;
	}
	return !any || chosen->len > 0;
}

static void write_answer(struct upgrade *u, const char *accept, struct span subprotocol)
{
	u->len = (size_t)snprintf(u->answer, sizeof(u->answer),
				  "HTTP/1.1 101 Switching Protocols\r\n"
				  "Upgrade: websocket\r\nConnection: Upgrade\r\n"
				  "Sec-WebSocket-Accept: %.*s\r\n%s%.*s%s\r\n",
				  WEBSOCKET_ACCEPT_BYTES, accept,
				  subprotocol.len > 0 ? "Sec-WebSocket-Protocol: " : "",
				  (int)subprotocol.len, subprotocol.data,
				  subprotocol.len > 0 ? "\r\n" : "");
}

/* HTTP is at its end here. */
static void switch_protocol(struct connection *c)
{
	struct upgrade *u = upgrade_of(c);

	http_of(c)->upgrade = NULL;
	http_session_free(c);
	deadline_stop(&c->deadline);
	connection_speak(c, u->door->protocol, (struct span){ NULL, 0 });
	u->door->begin(c, u);
	free(u);
	if (!c->socket.sending)
		connection_flush(c);
}

static void grant(struct connection *c)
{
	struct http_session *http = http_of(c);
	const struct upgrade *u = upgrade_of(c);

	if (!connection_reply(c, (struct span){ u->answer, u->len }))
		return;
	http->state = HTTP_SWITCHED;
	/* Else it is switched when the request has been worked through. */
	if (!http->running)
		switch_protocol(c);
}

/* The topic that it was asked for with stands. */
static void subscribed(struct connection *c)
{
	c->awaiting = false;
	if (c->input_len > 0) {
		http_close_after(c);
		http_error(c, 400, "bytes before the answer");
		return;
	}
	grant(c);
}

static void handle(struct connection *c, const struct http_request *r, struct span rest)
{
	char accept[WEBSOCKET_ACCEPT_BYTES];
	const struct upgrade_door *door = find(r, &rest);
	struct span subprotocol;
	struct upgrade *u;

	if (door == NULL) {
		http_error(c, 404, "no such page");
	} else if (r->http_1_0 || !http_list_has(r->connection, SPAN("upgrade")) || r->has_body ||
		   !websocket_accept(r->socket_key, accept)) {
		http_error(c, 400, "malformed handshake");
	} else if (!span_equal(r->socket_version, SPAN("13"))) {
		require(c, r, rest);
	} else if (!choose(r->socket_protocols, door->subprotocol, &subprotocol)) {
		http_error(c, 400, "unknown subprotocol");
	} else if (http_of(c)->pipelined) {
		http_close_after(c);
		http_error(c, 400, "bytes before the answer");
	} else if ((u = malloc(sizeof(*u) + r->query.len)) == NULL) {
		http_error(c, 503, "out of memory");
	} else {
		free(http_of(c)->upgrade);
		http_of(c)->upgrade = &u->http;
		u->http = (struct http_upgrade){ subscribed, switch_protocol };
		u->door = door;
		u->forwarded = r->forwarded;
		u->query_len = r->query.len;
		if (r->query.len > 0)
			memcpy(u->query, r->query.data, r->query.len);
		write_answer(u, accept, subprotocol);
		/* Whom limits refuse is told so where browsers can see it. */
		if (connection_refused(c) || door->prepare(c, r, rest) == PREPARED_NOW)
			grant(c);
	}
}

static const struct route routes[] = {
	{ .path = "",
	  .prefix = true,
	  .guarded = true,
	  .upgrades = true,
	  .methods = HTTP_VERB_GET,
	  .handle = handle },
	{ .path = "/ws/", .prefix = true, .methods = HTTP_VERB_GET, .handle = require },
	{ .path = "/ws", .methods = HTTP_VERB_GET, .handle = require },
};

void upgrade_init(struct broker *b, const struct protocol *nats, const struct protocol *mqtt)
{
	websocket_tunnels_init(nats, mqtt);
	for (size_t i = 0; i < sizeof(routes) / sizeof(*routes); i++)
		routes_add(b, &routes[i]);
}
