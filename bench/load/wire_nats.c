#include "load/wire.h"

#include <stdio.h>

/*
 * NATS as a client sees it: https://docs.nats.io/reference/reference-protocols/nats-protocol. No
 * acknowledgements (verbose), no headers.
 */

#define HELLO                                                                                      \
	"CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,"                    \
	"\"name\":\"broker-load\",\"lang\":\"c\",\"version\":\"" BROKER_VERSION "\"}\r\n"

static bool begins(struct span s, const char *with)
{
	size_t n = strlen(with);

	return s.len >= n && memcmp(s.data, with, n) == 0;
}

/* All of a connection's are equally long. */
static void write_sid(char sid[8], const struct wire_asked *asked)
{
	snprintf(sid, 8, asked->many ? "%05u" : "%u", (asked->number + 1) % 100000);
}

static void subscribe(struct wire_text *out, struct span topic, const struct wire_asked *asked)
{
	char sid[8];

	write_sid(sid, asked);
	wire_printf(out, "%sSUB %.*s %s\r\nPING\r\n", asked->number == 0 ? HELLO : "",
		    (int)topic.len, topic.data, sid);
}

static void open_publisher(struct wire_text *out, struct span topic)
{
	(void)topic;
	wire_printf(out, HELLO "PING\r\n");
}

/* "MSG subject sid bytes": the last word. */
static bool message_bytes(struct span line, size_t *bytes)
{
	const char *space = memrchr(line.data, ' ', line.len);
	size_t n = 0;

	if (space == NULL || space + 1 == line.data + line.len || line.data + line.len - space > 12)
		return false;
	for (const char *c = space + 1; c < line.data + line.len; c++) {
		if (*c < '0' || *c > '9')
			return false;
		n = n * 10 + (size_t)(*c - '0');
	}
	*bytes = n;
	return true;
}

static struct wire_event receive(struct span in)
{
	struct wire_event e = { .result = WIRE_MESSAGE };
	struct span line;
	size_t bytes;

	if (!wire_line_in(in, &line, &e.used))
		return wire_more();
	if (begins(line, "MSG ")) {
		if (!message_bytes(line, &bytes))
			return wire_bad(line);
		if (in.len < e.used + bytes + 2)
			return wire_more();
		e.payload = (struct span){ in.data + e.used, bytes };
		e.used += bytes + 2;
		if (memcmp(in.data + e.used - 2, "\r\n", 2) != 0)
			return wire_bad(line);
	} else if (span_equal(line, SPAN("PING"))) {
		e.result = WIRE_PING;
	} else if (begins(line, "INFO ") || span_equal(line, SPAN("PONG")) ||
		   span_equal(line, SPAN("+OK"))) {
		e.result = WIRE_ASIDE;
	} else {
		return wire_bad(line);
	}
	return e;
}

/* INFO, perhaps a PING of the server's own, or what is published already, and then the answer to
 * ours. */
static struct wire_event opened(struct span in)
{
	size_t used = 0;

	for (;;) {
		struct span rest = span_skip(in, used);
		struct wire_event e = receive(rest);

		if (e.result == WIRE_MORE || e.result == WIRE_BAD)
			return e;
		used += e.used;
		e.used = used;
		if (e.result != WIRE_MESSAGE &&
		    span_equal((struct span){ rest.data, 6 }, SPAN("PONG\r\n"))) {
			e.result = WIRE_MESSAGE;
			return e;
		}
	}
}

static void published(struct wire_frame *out, struct span topic, size_t payload_bytes)
{
	wire_printf(&out->prefix, "PUB %.*s %zu\r\n", (int)topic.len, topic.data, payload_bytes);
	wire_printf(&out->suffix, "\r\n");
}

static void delivered(struct wire_frame *out, struct span topic, size_t payload_bytes,
		      const struct wire_asked *asked)
{
	char sid[8];

	write_sid(sid, asked);
	wire_printf(&out->prefix, "MSG %.*s %s %zu\r\n", (int)topic.len, topic.data, sid,
		    payload_bytes);
	wire_printf(&out->suffix, "\r\n");
}

static struct wire_event reply(struct span in)
{
	struct wire_event e = receive(in);

	if (e.result == WIRE_MESSAGE)
		return wire_bad(SPAN("a message that nobody subscribed to"));
	return e;
}

const struct wire wire_nats = {
	.name = "nats",
	.multiplexes = true,
	.greets = true,
	.subscribe = subscribe,
	.open_publisher = open_publisher,
	.subscribed = opened,
	.subscribed_more = opened,
	.publisher_opened = opened,
	.published = published,
	.delivered = delivered,
	.any_level = "*",
	.receive = receive,
	.reply = reply,
	.pong = "PONG\r\n",
};
