#include "load/wire.h"

#include <assert.h>

/* MQTT 3.1.1 (OASIS standard), clean session, no keep-alive, QoS 0. */

enum {
	CONNACK = 0x20,
	PUBLISH = 0x30,
	SUBACK = 0x90,
	LENGTH_BYTES_MAX = 4,
};

static void add(struct wire_text *out, const void *bytes, size_t len)
{
	assert(len <= sizeof(out->bytes) - out->len);
	memcpy(out->bytes + out->len, bytes, len);
	out->len += len;
}

static void add_byte(struct wire_text *out, size_t byte)
{
	char c = (char)byte;

	add(out, &c, 1);
}

/* A string with its length, two bytes. */
static void add_string(struct wire_text *out, struct span s)
{
	add_byte(out, s.len >> 8);
	add_byte(out, s.len & 0xff);
	add(out, s.data, s.len);
}

/* A fixed header: type, and the length of what follows. */
static void add_header(struct wire_text *out, size_t type, size_t len)
{
	add_byte(out, type);
	do {
		add_byte(out, (len & 0x7f) | (len > 0x7f ? 0x80 : 0));
		len >>= 7;
	} while (len > 0);
}

static void add_connect(struct wire_text *out)
{
	static const char body[] = "\0\4MQTT\4\2\0\0\0"; /* level 4, clean, no client id */

	out->len = 0;
	add_header(out, 0x10, sizeof(body));
	add(out, body, sizeof(body));
}

static void subscribe(struct wire_text *out, struct span topic, const struct wire_asked *asked)
{
	out->len = 0;
	if (asked->number == 0)
		add_connect(out);
	add_header(out, 0x82, 2 + 2 + topic.len + 1);
	add(out, "\0\1", 2); /* packet identifier: none is used before it is free again */
	add_string(out, topic);
	add_byte(out, 0); /* QoS */
}

static void open_publisher(struct wire_text *out, struct span topic)
{
	(void)topic;
	add_connect(out);
}

/* One packet. WIRE_ASIDE: all of it is there, and type says what it is; the payload is what follows
 * its fixed header. */
static struct wire_event packet(struct span in, unsigned *type)
{
	struct wire_event e = { .result = WIRE_ASIDE };
	size_t len = 0, at = 1;
	unsigned char byte;

	do {
		if (in.len <= at)
			return wire_more();
		byte = (unsigned char)in.data[at];
		len |= (size_t)(byte & 0x7f) << (7 * (at - 1));
		if (++at > 1 + LENGTH_BYTES_MAX)
			return wire_bad(SPAN("a packet with a bad length"));
	} while (byte & 0x80);
	if (in.len - at < len)
		return wire_more();
	*type = (unsigned char)in.data[0];
	e.payload = (struct span){ in.data + at, len };
	e.used = at + len;
	return e;
}

static struct wire_event receive(struct span in)
{
	unsigned type;
	struct wire_event e = packet(in, &type);
	size_t topic;

	if (e.result != WIRE_ASIDE)
		return e;
	if (type != PUBLISH || e.payload.len < 2)
		return wire_bad(SPAN("a packet that is no PUBLISH of QoS 0"));
	topic = (size_t)(unsigned char)e.payload.data[0] << 8 | (unsigned char)e.payload.data[1];
	if (e.payload.len < 2 + topic)
		return wire_bad(SPAN("a PUBLISH that is shorter than its topic"));
	e.payload = span_skip(e.payload, 2 + topic);
	e.result = WIRE_MESSAGE;
	return e;
}

static struct wire_event publisher_opened(struct span in)
{
	unsigned type;
	struct wire_event e = packet(in, &type);

	if (e.result != WIRE_ASIDE)
		return e;
	if (type != CONNACK || e.payload.len != 2 || e.payload.data[1] != 0)
		return wire_bad(SPAN("no CONNACK that accepts"));
	e.result = WIRE_MESSAGE;
	return e;
}

static struct wire_event subscribed_more(struct span in)
{
	unsigned type;
	struct wire_event e = packet(in, &type);

	if (e.result != WIRE_ASIDE)
		return e;
	if (type != SUBACK || e.payload.len != 3 || e.payload.data[2] != 0)
		return wire_bad(SPAN("no SUBACK that grants QoS 0"));
	e.result = WIRE_MESSAGE;
	return e;
}

static struct wire_event subscribed(struct span in)
{
	struct wire_event e = publisher_opened(in);
	size_t used = e.used;

	if (e.result != WIRE_MESSAGE)
		return e;
	e = subscribed_more(span_skip(in, used));
	e.used += e.result == WIRE_MESSAGE ? used : 0;
	return e;
}

static void frame(struct wire_frame *out, struct span topic, size_t payload_bytes)
{
	out->prefix.len = 0;
	out->suffix.len = 0;
	add_header(&out->prefix, PUBLISH, 2 + topic.len + payload_bytes);
	add_string(&out->prefix, topic);
}

static void delivered(struct wire_frame *out, struct span topic, size_t payload_bytes,
		      const struct wire_asked *asked)
{
	(void)asked;
	frame(out, topic, payload_bytes);
}

static struct wire_event reply(struct span in)
{
	return in.len > 0 ? wire_bad(SPAN("something where nothing is to be said")) : wire_more();
}

const struct wire wire_mqtt = {
	.name = "mqtt",
	.separator = '/',
	.multiplexes = true,
	.subscribe = subscribe,
	.open_publisher = open_publisher,
	.subscribed = subscribed,
	.subscribed_more = subscribed_more,
	.publisher_opened = publisher_opened,
	.published = frame,
	.delivered = delivered,
	.any_level = "+",
	.receive = receive,
	.reply = reply,
};
