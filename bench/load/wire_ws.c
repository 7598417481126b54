#include "load/wire.h"

#include <stdint.h>

/*
 * WebSocket (RFC 6455): /ws/TOPIC, where the socket is the topic, each message a frame. So those
 * who publish get everything back, too. The key that masks is 0, which is allowed and costs a
 * server what any other does.
 */

enum { MASKED = 0x80, FIN = 0x80, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

static void upgrade(struct wire_text *out, struct span topic)
{
	wire_printf(out,
		    "GET /ws/%.*s HTTP/1.1\r\nHost: broker\r\nConnection: Upgrade\r\n"
		    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
		    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		    (int)topic.len, topic.data);
}

static void subscribe(struct wire_text *out, struct span topic, const struct wire_asked *asked)
{
	(void)asked;
	upgrade(out, topic);
}

static struct wire_event opened(struct span in)
{
	struct wire_event e = { .result = WIRE_MESSAGE };
	const char *end = in.len > 0 ? memmem(in.data, in.len, "\r\n\r\n", 4) : NULL;

	if (end == NULL)
		return wire_more();
	e.used = (size_t)(end - in.data) + 4;
	if (memcmp(in.data, "HTTP/1.1 101 ", 13) != 0)
		return wire_bad((struct span){ in.data, e.used });
	return e;
}

/* A frame's head for so many bytes. */
static void head(struct wire_text *out, unsigned char masked, size_t bytes)
{
	unsigned wide = bytes < 126 ? 0 : bytes <= UINT16_MAX ? 2 : 8;
	char *at = out->bytes;

	*at++ = (char)(FIN | TEXT);
	*at++ = (char)(masked | (wide == 0 ? bytes : wide == 2 ? 126 : 127));
	for (unsigned i = wide; i-- > 0;)
		*at++ = (char)(bytes >> (8 * i));
	for (unsigned i = 0; i < 4 && masked != 0; i++)
		*at++ = 0;
	out->len = (size_t)(at - out->bytes);
}

static void published(struct wire_frame *out, struct span topic, size_t payload_bytes)
{
	(void)topic;
	head(&out->prefix, MASKED, payload_bytes);
	out->suffix.len = 0;
}

static void delivered(struct wire_frame *out, struct span topic, size_t payload_bytes,
		      const struct wire_asked *asked)
{
	(void)topic;
	(void)asked;
	head(&out->prefix, 0, payload_bytes);
	out->suffix.len = 0;
}

static struct wire_event receive(struct span in)
{
	const unsigned char *at = (const unsigned char *)in.data;
	struct wire_event e = { .result = WIRE_ASIDE };
	size_t wide, len;

	if (in.len < 2)
		return wire_more();
	len = at[1];
	wide = len < 126 ? 0 : len == 126 ? 2 : 8;
	if (!(at[0] & FIN) || (at[0] & 0x70) || len > 127)
		return wire_bad(SPAN("a fragment, an extension or a mask"));
	if (in.len < 2 + wide)
		return wire_more();
	if (wide > 0)
		len = 0;
	for (size_t i = 0; i < wide; i++)
		len = len << 8 | at[2 + i];
	if (in.len - 2 - wide < len)
		return wire_more();
	e.used = 2 + wide + len;
	e.payload = (struct span){ in.data + 2 + wide, len };
	switch (at[0] & 0xf) {
	case TEXT:
	case BINARY:
		e.result = WIRE_MESSAGE;
		return e;
	case PING:
		e.result = WIRE_PING;
		return e;
	case PONG:
		return e;
	case CLOSE:
		return wire_bad(len > 2 ? span_skip(e.payload, 2) : SPAN("a Close"));
	default:
		return wire_bad(SPAN("an unknown opcode"));
	}
}

/* What everybody gets. */
static struct wire_event reply(struct span in)
{
	struct wire_event e = receive(in);

	if (e.result == WIRE_MESSAGE)
		e.result = WIRE_ASIDE;
	return e;
}

const struct wire wire_ws = {
	.name = "ws",
	.subscribe = subscribe,
	.open_publisher = upgrade,
	.subscribed = opened,
	.publisher_opened = opened,
	.published = published,
	.delivered = delivered,
	.receive = receive,
	.reply = reply,
	.pong = "\x8a\x80pong", /* a masked one of no bytes */
};
