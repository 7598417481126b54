#include "load/wire.h"

/* The broker's own line protocol; docs/PROTOCOLS.md. */

static void subscribe(struct wire_text *out, struct span topic, const struct wire_asked *asked)
{
	(void)asked;
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

static void delivered(struct wire_frame *out, struct span topic, size_t payload_bytes,
		      const struct wire_asked *asked)
{
	frame(out, topic, payload_bytes);
	if (asked->pattern.len > 0)
		wire_printf(&out->prefix, "%.*s ", (int)topic.len, topic.data);
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

/* Behind the name of its topic. */
static struct wire_event receive_wild(struct span in)
{
	struct wire_event e = receive(in);
	const char *space;

	if (e.result != WIRE_MESSAGE)
		return e;
	space = e.payload.len > 0 ? memchr(e.payload.data, ' ', e.payload.len) : NULL;
	if (space == NULL)
		return wire_bad(e.payload);
	e.payload = span_skip(e.payload, (size_t)(space - e.payload.data) + 1);
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
	.delivered = delivered,
	.any_level = "*",
	.receive = receive,
	.receive_wild = receive_wild,
	.reply = reply,
	.goodbye = "BYE\r\n",
};
