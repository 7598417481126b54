#include "session/websocket_tunnel.h"

#include <stdint.h>
#include <string.h>

#include "broker/connection.h"
#include "broker/shard.h"
#include "protocol/websocket.h"
#include "session/nats.h"
#include "session/registry.h"

/* In the connection, where the session inside has a pointer of its own first. */
struct tunnel_session {
	void *inner;
	struct websocket_reader *reader; /* NULL: no frame has begun */
	char closing[6];                 /* what its client's Close is answered with; or "" */
};

_Static_assert(sizeof(struct tunnel_session) <= SESSION_BYTES, "it lies in the connection");

static struct tunnel_session *tunnel_of(const struct connection *c)
{
	return (struct tunnel_session *)(void *)(uintptr_t)c->session;
}

static const struct websocket_tunnel *kind_of(const struct connection *c)
{
	return (const struct websocket_tunnel *)(const void *)c->protocol;
}

static void pong(struct connection *c, struct span bytes)
{
	char text[2 + WEBSOCKET_CONTROL_BYTES_MAX];

	if (connection_reply(c, (struct span){ text, websocket_pong(bytes, text) }))
		connection_turn(c);
}

static void handle(struct connection *c, const struct websocket_event *e)
{
	switch (e->kind) {
	case WEBSOCKET_EVENT_PART:
		if (e->text && kind_of(c)->binary_only)
			connection_fail(c, WEBSOCKET_BINARY_ONLY);
		else if (e->bytes.len > 0)
			kind_of(c)->inner->received(c, e->bytes);
		break;
	case WEBSOCKET_EVENT_PING:
		pong(c, e->bytes);
		break;
	case WEBSOCKET_EVENT_CLOSE:
		websocket_close_word(e->close_code, tunnel_of(c)->closing);
		connection_goodbye(c);
		break;
	case WEBSOCKET_EVENT_ERROR:
		connection_fail(c, e->last_word);
		break;
	case WEBSOCKET_EVENT_PONG:
	case WEBSOCKET_EVENT_MORE:
	default:
		break;
	}
}

static void received(struct connection *c, struct span bytes)
{
	struct tunnel_session *t = tunnel_of(c);
	struct websocket_event e;

	if (t->reader == NULL)
		t->reader = websocket_reader_new();
	if (t->reader == NULL) {
		connection_close(c, DROP_MEMORY);
		return;
	}
	do {
		websocket_decode(t->reader, &bytes, UINT64_MAX, &e);
		handle(c, &e);
	} while (e.kind != WEBSOCKET_EVENT_MORE && c->state == CONNECTION_OPEN);
	if (!websocket_reader_idle(t->reader))
		return;
	websocket_reader_free(t->reader);
	t->reader = NULL;
}

static const char *farewell(const struct connection *c, bool bye)
{
	const struct tunnel_session *t = tunnel_of(c);

	return t->closing[0] != 0 ? t->closing : kind_of(c)->inner->farewell(c, bye);
}

static void tunnel_free(struct connection *c)
{
	websocket_reader_free(tunnel_of(c)->reader);
	kind_of(c)->inner->free(c);
}

static void init(struct websocket_tunnel *t)
{
	t->protocol = *t->inner;
	/* It has been opened in its own way. */
	t->protocol.opened = NULL;
	t->protocol.received = received;
	t->protocol.farewell = farewell;
	t->protocol.free = tunnel_free;
}

/* ---- NATS ---- */

struct websocket_tunnel websocket_nats = { .inner = &nats_protocol };

void websocket_nats_begin(struct connection *c)
{
	if (nats_session_framed(c) && connection_refused(c))
		connection_refuse(c);
}

void websocket_tunnels_init(void)
{
	init(&websocket_nats);
}
