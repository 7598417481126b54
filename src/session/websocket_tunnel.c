#include "session/websocket_tunnel.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "broker/connection.h"
#include "broker/shard.h"
#include "protocol/mqtt.h"
#include "protocol/websocket.h"
#include "protocol/websocket_framed.h"
#include "session/mqtt.h"
#include "session/nats.h"
#include "session/registry.h"

/* In the connection, behind the session inside. */
struct tunnel_session {
	char inner[SESSION_BYTES - sizeof(void *)];
	struct websocket_reader *reader; /* NULL: no frame has begun */
};

_Static_assert(sizeof(struct tunnel_session) == SESSION_BYTES, "it lies in the connection");
_Static_assert(sizeof(struct mqtt_session) <= offsetof(struct tunnel_session, reader), "as above");

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
	size_t len = websocket_pong(bytes, text);

	if (connection_reply(c, (struct span){ text, len }))
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
	if (!websocket_reader_idle(t->reader) || websocket_reader_closing(t->reader) != NULL)
		return;
	websocket_reader_free(t->reader);
	t->reader = NULL;
}

static const char *farewell(const struct connection *c, bool bye)
{
	const struct websocket_reader *reader = tunnel_of(c)->reader;
	const char *closing = reader != NULL ? websocket_reader_closing(reader) : NULL;

	return closing != NULL ? closing : kind_of(c)->inner->farewell(c, bye);
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

/* The first command has to come in time, as without frames. */
static void limit_handshake(struct connection *c)
{
	if (c->state != CONNECTION_OPEN)
		return;
	if (connection_refused(c))
		connection_refuse(c);
	else
		reactor_deadline(&c->shard->reactor, &c->shard->clients.handshake, &c->deadline);
}

/* ---- NATS ---- */

struct websocket_tunnel websocket_nats;

void websocket_nats_begin(struct connection *c)
{
	if (nats_session_framed(c))
		limit_handshake(c);
}

/* ---- MQTT ---- */

enum { REASONS_FROM = 0x80, LAST_WORD_BYTES = 12 };

/* For each reason of 5.0's: a DISCONNECT and a Close, each in its frame; and the Close alone. */
static char mqtt_words[256 - REASONS_FROM][LAST_WORD_BYTES];

static unsigned close_code(unsigned reason)
{
	switch (reason) {
	case MQTT_SHUTTING_DOWN:
		return 1001;
	case MQTT_TOO_LARGE:
		return 1009;
	case MQTT_QUOTA:
	case MQTT_UNAVAILABLE:
	case MQTT_UNSPECIFIED:
	case MQTT_KEEP_ALIVE_TIMEOUT:
		return 1013;
	case MQTT_BAD_CREDENTIALS:
	case MQTT_NOT_AUTHORIZED:
	case MQTT_TAKEN_OVER:
	case MQTT_EXPIRED:
		return 1008;
	default:
		return 1002;
	}
}

static void write_mqtt_words(void)
{
	for (unsigned reason = REASONS_FROM; reason < 256; reason++) {
		unsigned code = close_code(reason);
		const char word[LAST_WORD_BYTES] = {
			(char)0x82,          3,          (char)0xe0, 1,
			(char)reason,        (char)0x88, 2,          (char)(code >> 8),
			(char)(code & 0xff), 0
		};

		memcpy(mqtt_words[reason - REASONS_FROM], word, sizeof(word));
	}
}

static const char *mqtt_last_word(unsigned level, unsigned reason)
{
	const char *word;

	if (reason < REASONS_FROM || reason > 255)
		return WEBSOCKET_CLOSED;
	word = mqtt_words[reason - REASONS_FROM];
	return level == MQTT_5 ? word : word + 5;
}

static bool mqtt_reply(struct connection *c, struct span packets)
{
	char head[WEBSOCKET_HEAD_MAX];
	size_t n = websocket_head(WEBSOCKET_BINARY, packets.len, head);

	return connection_reply(c, (struct span){ head, n }) && connection_reply(c, packets);
}

static const struct mqtt_transport mqtt_framed = {
	.reply = mqtt_reply,
	.formats = { &websocket_mqtt_format, &websocket_mqtt5_format },
	.last_word = mqtt_last_word,
};

struct websocket_tunnel websocket_mqtt = { .binary_only = true };

void websocket_mqtt_begin(struct connection *c)
{
	mqtt_of(c)->framed = true;
	limit_handshake(c);
}

void websocket_tunnels_init(const struct protocol *nats, const struct protocol *mqtt)
{
	websocket_nats.inner = nats;
	websocket_mqtt.inner = mqtt;
	mqtt_transports[true] = &mqtt_framed;
	write_mqtt_words();
	init(&websocket_nats);
	init(&websocket_mqtt);
}
