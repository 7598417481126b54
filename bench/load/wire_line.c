#include "load/wire.h"

/* The broker's own line protocol; docs/PROTOCOLS.md. */

static void subscribe(struct wire_text *out, struct span topic)
{
	wire_printf(out, "SUBSCRIBE %.*s\r\n", (int)topic.len, topic.data);
}

static void open_publisher(struct wire_text *out, struct span topic)
{
	wire_printf(out, "PUBLISH %.*s\r\n", (int)topic.len, topic.data);
}

static struct wire_event opened(struct span in)
{
	struct wire_event e = { .result = WIRE_MESSAGE };
	struct span line;

	if (!wire_line_in(in, &line, &e.used))
		return wire_more();
	return span_equal(line, SPAN("OK")) ? e : wire_bad(line);
}

static void frame(struct wire_frame *out, struct span topic, size_t payload_bytes)
{
	(void)topic;
	(void)payload_bytes;
	out->prefix.len = 0;
	wire_printf(&out->suffix, "\r\n");
}

static struct wire_event receive(struct span in)
{
	struct wire_event e = { .result = WIRE_MESSAGE };

	if (!wire_line_in(in, &e.payload, &e.used))
		return wire_more();
	if (span_equal(e.payload, SPAN("BYE")) ||
	    (e.payload.len > 6 && memcmp(e.payload.data, "ERROR ", 6) == 0))
		return wire_bad(e.payload);
	return e;
}

static struct wire_event reply(struct span in)
{
	struct span line;
	size_t used;

	return wire_line_in(in, &line, &used) ? wire_bad(line) : wire_more();
}

const struct wire wire_line = {
	.name = "line",
	.subscribe = subscribe,
	.open_publisher = open_publisher,
	.subscribed = opened,
	.publisher_opened = opened,
	.published = frame,
	.delivered = frame,
	.receive = receive,
	.reply = reply,
	.goodbye = "BYE\r\n",
};
