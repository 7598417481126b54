#include "load/wire.h"

/*
 * Redis as a client sees it: RESP, https://redis.io/docs/reference/protocol-spec, SUBSCRIBE and
 * PUBLISH.
 */

enum { LENGTH_DIGITS_MAX = 12 };

/* "$5\r\n" or ":1\r\n" or "*3\r\n" at *in: the number behind this type. */
static enum wire_result number(struct span *in, char type, size_t *value)
{
	struct span line;
	size_t used;

	if (in->len > 0 && in->data[0] != type)
		return WIRE_BAD;
	if (!wire_line_in((struct span){ in->data, in->len < LENGTH_DIGITS_MAX
							   ? in->len
							   : LENGTH_DIGITS_MAX },
			  &line, &used))
		return in->len < LENGTH_DIGITS_MAX ? WIRE_MORE : WIRE_BAD;
	*value = 0;
	for (size_t i = 1; i < line.len; i++) {
		if (line.data[i] < '0' || line.data[i] > '9')
			return WIRE_BAD;
		*value = *value * 10 + (size_t)(line.data[i] - '0');
	}
	*in = span_skip(*in, used);
	return line.len > 1 ? WIRE_ASIDE : WIRE_BAD;
}

static enum wire_result bulk(struct span *in, struct span *text)
{
	size_t len;
	enum wire_result result = number(in, '$', &len);

	if (result != WIRE_ASIDE)
		return result;
	if (in->len < len + 2)
		return WIRE_MORE;
	if (memcmp(in->data + len, "\r\n", 2) != 0)
		return WIRE_BAD;
	*text = (struct span){ in->data, len };
	*in = span_skip(*in, len + 2);
	return WIRE_ASIDE;
}

static void subscribe(struct wire_text *out, struct span topic, const struct wire_asked *asked)
{
	wire_printf(out, "*2\r\n%s\r\n$%zu\r\n%.*s\r\n",
		    asked->pattern.len > 0 ? "$10\r\nPSUBSCRIBE" : "$9\r\nSUBSCRIBE", topic.len,
		    (int)topic.len, topic.data);
}

static void open_publisher(struct wire_text *out, struct span topic)
{
	(void)topic;
	wire_printf(out, "*1\r\n$4\r\nPING\r\n");
}

static struct wire_event bad_line(struct span in)
{
	struct span line;
	size_t used;

	if (wire_line_in(in, &line, &used))
		return wire_bad(line);
	/* An error is worth waiting for its end. */
	return in.data[0] == '-' && in.len < 200 ? wire_more() : wire_bad(in);
}

/* The items of a push: three, whose last is a number where the kind is not "message", or the four
 * of a pattern's message. */
static struct wire_event receive(struct span in)
{
	struct wire_event e = { .result = WIRE_MESSAGE };
	struct span rest = in, kind = { NULL, 0 }, topic, pattern;
	enum wire_result result;
	size_t n = 0;

	result = number(&rest, '*', &n);
	if (result == WIRE_ASIDE && n != 3 && n != 4)
		result = WIRE_BAD;
	if (result == WIRE_ASIDE)
		result = bulk(&rest, &kind);
	if (result == WIRE_ASIDE && (n == 4) != span_equal(kind, SPAN("pmessage")))
		result = WIRE_BAD;
	if (result == WIRE_ASIDE && n == 4)
		result = bulk(&rest, &pattern);
	if (result == WIRE_ASIDE)
		result = bulk(&rest, &topic);
	if (result == WIRE_ASIDE && (n == 4 || span_equal(kind, SPAN("message"))))
		result = bulk(&rest, &e.payload);
	else if (result == WIRE_ASIDE) {
		e.result = WIRE_ASIDE;
		result = number(&rest, ':', &n);
	}
	if (result == WIRE_MORE)
		return wire_more();
	if (result == WIRE_BAD)
		return bad_line(in);
	e.used = in.len - rest.len;
	return e;
}

static struct wire_event subscribed(struct span in)
{
	struct wire_event e = receive(in);

	if (e.result == WIRE_ASIDE)
		e.result = WIRE_MESSAGE;
	else if (e.result == WIRE_MESSAGE)
		return wire_bad(SPAN("a message before the subscription"));
	return e;
}

static struct wire_event publisher_opened(struct span in)
{
	struct wire_event e = { .result = WIRE_MESSAGE };
	struct span line;

	if (!wire_line_in(in, &line, &e.used))
		return wire_more();
	return span_equal(line, SPAN("+PONG")) ? e : wire_bad(line);
}

static void published(struct wire_frame *out, struct span topic, size_t payload_bytes)
{
	wire_printf(&out->prefix, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%.*s\r\n$%zu\r\n", topic.len,
		    (int)topic.len, topic.data, payload_bytes);
	wire_printf(&out->suffix, "\r\n");
}

static void delivered(struct wire_frame *out, struct span topic, size_t payload_bytes,
		      const struct wire_asked *asked)
{
	struct span pattern = asked->pattern;

	if (pattern.len > 0)
		wire_printf(&out->prefix,
			    "*4\r\n$8\r\npmessage\r\n$%zu\r\n%.*s\r\n$%zu\r\n%.*s\r\n$%zu\r\n",
			    pattern.len, (int)pattern.len, pattern.data, topic.len, (int)topic.len,
			    topic.data, payload_bytes);
	else
		wire_printf(&out->prefix, "*3\r\n$7\r\nmessage\r\n$%zu\r\n%.*s\r\n$%zu\r\n",
			    topic.len, (int)topic.len, topic.data, payload_bytes);
	wire_printf(&out->suffix, "\r\n");
}

/* How many subscribers each message went to; or an error. */
static struct wire_event reply(struct span in)
{
	struct wire_event e = { .result = WIRE_ASIDE };
	struct span line;

	if (!wire_line_in(in, &line, &e.used))
		return wire_more();
	return line.len > 0 && line.data[0] == ':' ? e : wire_bad(line);
}

const struct wire wire_resp = {
	.name = "resp",
	.multiplexes = true,
	.subscribe = subscribe,
	.open_publisher = open_publisher,
	.subscribed = subscribed,
	.subscribed_more = subscribed,
	.publisher_opened = publisher_opened,
	.published = published,
	.delivered = delivered,
	.any_level = "*",
	.receive = receive,
	.reply = reply,
};
