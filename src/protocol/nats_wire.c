#include <assert.h>
#include <string.h>
#include <strings.h>

#include "protocol/nats.h"

/*
 * Messages as MSG <subject> <sid> [reply] <bytes> and HMSG <subject> <sid> [reply] <headers>
 * <bytes>. A message that came from elsewhere with a content type has it as its only header.
 */

enum {
	DIGITS_MAX = 20,
	LENGTH_DIGITS_MAX = 10, /* of bytes in a message */
	/* The longest word and spaces, numbers, ends of lines. */
	AROUND_MAX = 5 + 4 + 2 * LENGTH_DIGITS_MAX + 2 + 2,
	ID_MAX = sizeof("Broker-Id: \r\n") + 16 + 1 + DIGITS_MAX,
	TYPE_AROUND_MAX = sizeof("NATS/1.0\r\nContent-Type: \r\n\r\n"),
};

static char *put(char *out, struct span s)
{
	if (s.len > 0)
		memcpy(out, s.data, s.len);
	return out + s.len;
}

static char *put_number(char *out, uint64_t n)
{
	char digits[DIGITS_MAX];
	size_t at = sizeof(digits);

	do
		digits[--at] = (char)('0' + n % 10);
	while ((n /= 10) > 0);
	return put(out, (struct span){ digits + at, sizeof(digits) - at });
}

static size_t digits_of(uint64_t n)
{
	size_t digits = 1;

	while ((n /= 10) > 0)
		digits++;
	return digits;
}

static char *put_id(char *out, uint64_t epoch, uint64_t seq)
{
	for (int shift = 60; shift >= 0; shift -= 4)
		*out++ = "0123456789abcdef"[epoch >> shift & 15];
	*out++ = ':';
	return put_number(out, seq);
}

/* ---- the parameter ---- */

enum { HAS_HEADERS = 1, HAS_IDS = 2, IS_FRAMED = 4 };

size_t nats_parameter(const struct nats_frame *f, char *out)
{
	out[0] = (char)((f->headers ? HAS_HEADERS : 0) | (f->ids ? HAS_IDS : 0) |
			(f->framed ? IS_FRAMED : 0));
	memcpy(out + 1, &f->except, sizeof(f->except));
	put(out + NATS_FRAME_HEAD, f->sid);
	return NATS_FRAME_HEAD + f->sid.len;
}

struct nats_frame nats_frame(struct span parameter)
{
	struct nats_frame f = { .sid = span_skip(parameter, NATS_FRAME_HEAD) };

	f.headers = parameter.data[0] & HAS_HEADERS;
	f.ids = parameter.data[0] & HAS_IDS;
	f.framed = parameter.data[0] & IS_FRAMED;
	memcpy(&f.except, parameter.data + 1, sizeof(f.except));
	return f;
}

/* ---- headers ---- */

struct span nats_header(struct span headers, struct span name)
{
	const char *lf;

	while (headers.len > 0 && (lf = memchr(headers.data, '\n', headers.len)) != NULL) {
		struct span line = { headers.data, (size_t)(lf - headers.data) };

		headers = span_skip(headers, line.len + 1);
		if (line.len <= name.len || line.data[name.len] != ':' ||
		    strncasecmp(line.data, name.data, name.len) != 0)
			continue;
		line = span_skip(line, name.len + 1);
		while (line.len > 0 && (line.data[0] == ' ' || line.data[0] == '\t'))
			line = span_skip(line, 1);
		while (line.len > 0 &&
		       (line.data[line.len - 1] == ' ' || line.data[line.len - 1] == '\r'))
			line.len--;
		return line;
	}
	return (struct span){ NULL, 0 };
}

/* What curl and HTTP libraries say when nobody has said anything. */
static bool says_nothing(struct span type)
{
	static const struct span types[] = { { "application/x-www-form-urlencoded", 33 },
					     { "application/octet-stream", 24 } };

	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
		if (type.len >= types[i].len &&
		    strncasecmp(type.data, types[i].data, types[i].len) == 0 &&
		    (type.len == types[i].len || type.data[types[i].len] == ';' ||
		     type.data[types[i].len] == ' '))
			return true;
	return type.len == 0;
}

/* The headers of a message, in so many parts of which each may be empty: its own without the last
 * line, or the beginning of new ones; what is added; the end. */
struct headers {
	struct span own, type, id, end;
	size_t len; /* 0: there are none */
	char id_text[ID_MAX];
};

static void headers_of(struct headers *h, const struct nats_frame *f, const struct run *run,
		       uint64_t seq, const struct record *r)
{
	bool typed = r->headers.len == 0 && !says_nothing(r->type);
	char *at;

	*h = (struct headers){ .len = 0 };
	if (!f->headers || (r->headers.len == 0 && !typed && !f->ids))
		return;
	if (r->headers.len > 0 && !f->ids) {
		h->own = r->headers;
		h->len = h->own.len;
		return;
	}
	h->own = SPAN("NATS/1.0\r\n");
	h->end = SPAN("\r\n");
	/* Something is added to what ends as it should, or not at all. */
	if (r->headers.len >= 12 &&
	    memcmp(r->headers.data + r->headers.len - 4, "\r\n\r\n", 4) == 0)
		h->own = (struct span){ r->headers.data, r->headers.len - 2 };
	if (typed)
		h->type = r->type;
	if (f->ids) {
		at = put(h->id_text, SPAN("Broker-Id: "));
		at = put_id(at, run->epoch, seq);
		at = put(at, SPAN("\r\n"));
		h->id = (struct span){ h->id_text, (size_t)(at - h->id_text) };
	}
	h->len = h->own.len + (typed ? 16 + r->type.len : 0) + h->id.len + h->end.len;
}

static char *put_headers(char *out, const struct headers *h)
{
	out = put(out, h->own);
	if (h->type.len > 0) {
		out = put(out, SPAN("Content-Type: "));
		out = put(out, h->type);
		out = put(out, SPAN("\r\n"));
	}
	out = put(out, h->id);
	return put(out, h->end);
}

/* ---- frames ---- */

size_t nats_websocket_head(size_t bytes, char *out)
{
	size_t n = bytes < 126 ? 0 : bytes <= UINT16_MAX ? 2 : 8;

	out[0] = (char)0x82;
	out[1] = (char)(n == 0 ? bytes : n == 2 ? 126 : 127);
	for (size_t i = 0; i < n; i++)
		out[2 + i] = (char)(bytes >> 8 * (n - 1 - i) & 0xff);
	return 2 + n;
}

/* A subject, and a word behind it, cannot hold a space here. */
static bool has_form(struct span topic)
{
	return memchr(topic.data, ' ', topic.len) == NULL;
}

static struct span reply_of(const struct record *r)
{
	return r->reply.len > 0 && has_form(r->reply) ? r->reply : (struct span){ NULL, 0 };
}

/* All that comes before the headers and the payload. */
static char *put_line(char *out, const struct nats_frame *f, struct span topic, struct span reply,
		      size_t header_bytes, size_t payload_bytes)
{
	size_t bytes = header_bytes + payload_bytes, line;

	if (f->framed) {
		line = (header_bytes > 0 ? 5 + 1 + digits_of(header_bytes) : 4) + topic.len + 1 +
		       f->sid.len + (reply.len > 0 ? 1 + reply.len : 0) + 1 + digits_of(bytes) + 2;
		out += nats_websocket_head(line + bytes + 2, out);
	}
	out = put(out, header_bytes > 0 ? SPAN("HMSG ") : SPAN("MSG "));
	out = put(out, topic);
	*out++ = ' ';
	out = put(out, f->sid);
	*out++ = ' ';
	if (reply.len > 0) {
		out = put(out, reply);
		*out++ = ' ';
	}
	if (header_bytes > 0) {
		out = put_number(out, header_bytes);
		*out++ = ' ';
	}
	out = put_number(out, bytes);
	return put(out, SPAN("\r\n"));
}

static uint32_t encodable(const struct wire *wire, const struct run *run)
{
	struct run_publisher except;

	memcpy(&except, wire->parameter.data + 1, sizeof(except));
	if (except.generation != 0 && except.generation == run->publisher.generation &&
	    except.slot == run->publisher.slot && except.shard == run->publisher.shard)
		return 0;
	return has_form(run->topic) ? run->messages : 0;
}

static size_t encoded_max(const struct wire *wire, const struct run *run)
{
	const struct nats_frame f = nats_frame(wire->parameter);
	size_t each = AROUND_MAX + run->topic.len + f.sid.len;

	if (f.framed)
		each += NATS_WEBSOCKET_HEAD_MAX;
	if (f.headers && (f.ids || run->form != RUN_LINES))
		each += TYPE_AROUND_MAX;
	if (f.ids)
		each += ID_MAX;
	/* What records say beside the message is in the body. */
	return run->messages * each + run->body.len + run->type.len;
}

/* The next message of the rest. */
static char *put_with_extras(char *out, const struct nats_frame *f, const struct run *run,
			     uint64_t seq, struct run *rest)
{
	struct headers h;
	struct record r;

	(void)run_next_record(rest, &r);
	headers_of(&h, f, run, seq, &r);
	out = put_line(out, f, run->topic, reply_of(&r), h.len, r.payload.len);
	if (h.len > 0)
		out = put_headers(out, &h);
	return put(put(out, r.payload), SPAN("\r\n"));
}

static size_t encode(const struct wire *wire, const struct run *run, char *out)
{
	const struct nats_frame f = nats_frame(wire->parameter);
	struct run rest = *run;
	/* Of the last one with nothing beside it: its line, which is often the next one's. */
	struct span line = { NULL, 0 }, payload;
	size_t bytes = 0;
	char *at = out;

	for (uint64_t seq = run_number(run); rest.messages > 0; seq++) {
		char *begin = at;

		if (f.ids || !run_next_plain(&rest, &payload)) {
			at = put_with_extras(at, &f, run, seq, &rest);
			continue;
		}
		if (line.len > 0 && payload.len == bytes)
			at = put(at, line);
		else
			at = put_line(at, &f, run->topic, SPAN(""), 0, payload.len);
		line = (struct span){ begin, (size_t)(at - begin) };
		bytes = payload.len;
		at = put(put(at, payload), SPAN("\r\n"));
	}
	return (size_t)(at - out);
}

/* Of headers that lie before the payload, and are to go out as they are, no copy is needed. */
static bool headers_in_place(const struct record *r, const struct headers *h)
{
	return h->len > 0 && h->own.data == r->headers.data &&
	       h->own.data + h->len == r->payload.data;
}

static bool enclosable(const struct wire *wire, const struct run *run)
{
	const struct nats_frame f = nats_frame(wire->parameter);
	struct run rest = *run;
	struct headers h;
	struct record r;
	size_t copied;

	(void)run_next_record(&rest, &r);
	headers_of(&h, &f, run, run_number(run), &r);
	copied = headers_in_place(&r, &h) ? 0 : h.len;
	return AROUND_MAX + NATS_WEBSOCKET_HEAD_MAX + run->topic.len + f.sid.len +
		       reply_of(&r).len + copied <=
	       WIRE_AROUND_MAX;
}

static void enclose(const struct wire *wire, const struct run *run, char *prefix,
		    size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	const struct nats_frame f = nats_frame(wire->parameter);
	struct run rest = *run;
	struct headers h;
	struct record r;
	char *at;

	(void)run_next_record(&rest, &r);
	headers_of(&h, &f, run, run_number(run), &r);
	at = put_line(prefix, &f, run->topic, reply_of(&r), h.len, r.payload.len);
	*body = r.payload;
	if (headers_in_place(&r, &h)) {
		body->data -= h.len;
		body->len += h.len;
	} else if (h.len > 0) {
		at = put_headers(at, &h);
	}
	*prefix_len = (size_t)(at - prefix);
	memcpy(suffix, "\r\n", 2);
	*suffix_len = 2;
}

/* Where a message ends that begins here. */
static size_t message_end(struct span at)
{
	size_t frame = 0, bytes = 0;
	const char *cr;

	if (at.data[0] == (char)0x82) {
		unsigned len = (unsigned char)at.data[1];

		frame = len < 126 ? 2 : len == 126 ? 4 : 10;
		if (frame == 2)
			return frame + len;
		for (size_t i = 2; i < frame; i++)
			bytes = bytes << 8 | (unsigned char)at.data[i];
		return frame + bytes;
	}
	cr = memchr(at.data, '\r', at.len);
	assert(cr != NULL);
	/* The last word of the line is how long what follows is. */
	for (const char *digit = memrchr(at.data, ' ', (size_t)(cr - at.data)); ++digit < cr;)
		bytes = bytes * 10 + (size_t)(*digit - '0');
	return (size_t)(cr - at.data) + 2 + bytes + 2;
}

static size_t boundary(struct span encoded, size_t offset)
{
	size_t at = 0;

	while (at < offset)
		at += message_end(span_skip(encoded, at));
	return at;
}

const struct wire_format nats_format = { .name = "nats",
					 .replies = true,
					 .encodable = encodable,
					 .encoded_max = encoded_max,
					 .encode = encode,
					 .enclose = enclose,
					 .enclosable = enclosable,
					 .boundary = boundary };

/* ---- messages of the broker's own ---- */

static size_t put_only_headers(char *out, struct span topic, struct span sid, struct span headers)
{
	struct nats_frame f = { .headers = true, .sid = sid };
	char *at;

	if (AROUND_MAX + topic.len + sid.len + headers.len > NATS_NOBODY_MAX)
		return 0;
	at = put_line(out, &f, topic, (struct span){ NULL, 0 }, headers.len, 0);
	at = put(at, headers);
	at = put(at, SPAN("\r\n"));
	return (size_t)(at - out);
}

size_t nats_nobody(struct span reply, struct span sid, struct span subject,
		   char out[NATS_NOBODY_MAX])
{
	char headers[NATS_NOBODY_MAX], *at;

	if (subject.len > 255)
		return 0;
	at = put(headers, SPAN("NATS/1.0 503\r\nNats-Subject: "));
	at = put(at, subject);
	at = put(at, SPAN("\r\n\r\n"));
	return put_only_headers(out, reply, sid, (struct span){ headers, (size_t)(at - headers) });
}

size_t nats_gap(struct span topic, struct span sid, uint64_t epoch, uint64_t oldest,
		char out[NATS_NOBODY_MAX])
{
	char headers[ID_MAX + 32], *at;

	at = put(headers, SPAN("NATS/1.0\r\nBroker-Gap: "));
	at = put_id(at, epoch, oldest);
	at = put(at, SPAN("\r\n\r\n"));
	return put_only_headers(out, topic, sid, (struct span){ headers, (size_t)(at - headers) });
}
