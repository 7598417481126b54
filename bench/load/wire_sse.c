#include "load/wire.h"

#include <strings.h>

/*
 * HTTP/1.1 (RFC 9112): messages go in as POST /publish/TOPIC on a connection that is kept, one
 * behind the other, and come out as server-sent events (WHATWG HTML, 9.2) of GET /subscribe/TOPIC,
 * with or without chunks around whole events.
 */

static bool begins(struct span s, const char *with)
{
	size_t n = strlen(with);

	return s.len >= n && memcmp(s.data, with, n) == 0;
}

static void subscribe(struct wire_text *out, struct span topic, const struct wire_asked *asked)
{
	(void)asked;
	wire_printf(out,
		    "GET /subscribe/%.*s HTTP/1.1\r\nHost: broker\r\nAccept: text/event-stream\r\n"
		    "\r\n",
		    (int)topic.len, topic.data);
}

static void open_publisher(struct wire_text *out, struct span topic)
{
	(void)topic;
	wire_printf(out, "GET /health HTTP/1.1\r\nHost: broker\r\n\r\n");
}

/* Lower-case name with its colon; the value without blanks around it. */
static bool header(struct span head, const char *name, struct span *value)
{
	size_t n = strlen(name), used;
	struct span line;

	for (; wire_line_in(head, &line, &used); head = span_skip(head, used)) {
		if (line.len < n || strncasecmp(line.data, name, n) != 0)
			continue;
		*value = span_skip(line, n);
		while (value->len > 0 && value->data[0] == ' ')
			*value = span_skip(*value, 1);
		while (value->len > 0 && value->data[value->len - 1] == ' ')
			value->len--;
		return true;
	}
	return false;
}

/* A response's head; WIRE_MESSAGE and the head as payload when it is all there and 2xx. */
static struct wire_event head(struct span in)
{
	struct wire_event e = { .result = WIRE_MESSAGE };
	const char *end = in.len > 0 ? memmem(in.data, in.len, "\r\n\r\n", 4) : NULL;
	struct span line;
	size_t used;

	if (in.len >= 5 && !begins(in, "HTTP/"))
		return wire_bad((struct span){ in.data, in.len < 80 ? in.len : 80 });
	if (end == NULL)
		return wire_more();
	e.used = (size_t)(end - in.data) + 4;
	e.payload = (struct span){ in.data, e.used };
	(void)wire_line_in(in, &line, &used);
	return line.len >= 12 && line.data[9] == '2' ? e : wire_bad(line);
}

/* A whole response whose body has a length. */
static struct wire_event response(struct span in)
{
	struct wire_event e = head(in);
	struct span value;
	size_t len = 0;

	if (e.result != WIRE_MESSAGE)
		return e;
	if (header(e.payload, "content-length:", &value)) {
		if (value.len == 0 || value.len > 9)
			return wire_bad(e.payload);
		for (size_t i = 0; i < value.len; i++) {
			if (value.data[i] < '0' || value.data[i] > '9')
				return wire_bad(e.payload);
			len = len * 10 + (size_t)(value.data[i] - '0');
		}
	} else if (header(e.payload, "transfer-encoding:", &value)) {
		return wire_bad(SPAN("a chunked answer where one with a length is expected"));
	}
	if (in.len < e.used + len)
		return wire_more();
	e.used += len;
	return e;
}

static struct wire_event reply(struct span in)
{
	struct wire_event e = response(in);

	if (e.result == WIRE_MESSAGE)
		e.result = WIRE_ASIDE;
	return e;
}

static void published(struct wire_frame *out, struct span topic, size_t payload_bytes)
{
	wire_printf(&out->prefix,
		    "POST /publish/%.*s HTTP/1.1\r\nHost: broker\r\nContent-Type: text/plain\r\n"
		    "Content-Length: %zu\r\n\r\n",
		    (int)topic.len, topic.data, payload_bytes);
	out->suffix.len = 0;
}

/* The line of a chunk's size, or the end of its line. */
static bool chunk_line(struct span line)
{
	for (size_t i = 0; i < line.len; i++) {
		char c = line.data[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')))
			return false;
	}
	return true;
}

/* One event up to its empty line: fields, comments, or both. */
static struct wire_event receive(struct span in)
{
	struct wire_event e = { .result = WIRE_ASIDE };
	struct span rest = in;

	for (;;) {
		const char *lf = rest.len > 0 ? memchr(rest.data, '\n', rest.len) : NULL;
		struct span line;

		if (lf == NULL)
			return wire_more();
		line = (struct span){ rest.data, (size_t)(lf - rest.data) };
		rest = span_skip(rest, line.len + 1);
		e.used = in.len - rest.len;
		if (line.len == 0)
			return e;
		if (line.data[line.len - 1] == '\r') {
			line.len--;
			if (!chunk_line(line))
				return wire_bad(line);
			if (line.len == 1 && line.data[0] == '0')
				return wire_bad(SPAN("the end of the stream"));
			/* Between two events, or before the first one. */
			return e;
		}
		if (begins(line, "data:")) {
			if (e.result == WIRE_MESSAGE)
				return wire_bad(SPAN("an event with two lines of data"));
			e.result = WIRE_MESSAGE;
			e.payload = span_skip(line, line.len > 5 && line.data[5] == ' ' ? 6 : 5);
		} else if (begins(line, "event: gap")) {
			return wire_bad(line);
		}
	}
}

const struct wire wire_sse = {
	.name = "sse",
	.subscribe = subscribe,
	.open_publisher = open_publisher,
	.subscribed = head,
	.publisher_opened = response,
	.published = published,
	.receive = receive,
	.reply = reply,
};
