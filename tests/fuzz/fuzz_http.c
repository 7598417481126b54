#include <assert.h>
#include <ctype.h>
#include <strings.h>

#include "fuzz.h"
#include "protocol/http.h"

/*
 * The HTTP decoder: what comes of bytes does not depend on how they were split, bodies are no
 * longer than what came in, and a head that is taken is one by a slow reading of RFC 9112 that
 * agrees about where the request ends. The first byte of an input says how it is split.
 */

static void add_head(struct text *out, const struct http_request *r)
{
	const struct span fields[] = { r->path,   r->query,        r->host,
				       r->origin, r->content_type, r->last_event_id,
				       r->range,  r->if_range,     r->version };
	const struct http_list lists[] = { r->accept, r->accept_encoding, r->content_encoding,
					   r->if_match, r->if_none_match };
	char head[100], joined[1024]; /* as long as a head */
	int n = snprintf(head, sizeof(head), "H%d %d%d%d%d%d%d%d %llu\n", (int)r->verb, r->http_1_0,
			 r->keep_alive, r->expect_continue, r->has_body, r->chunked, r->forwarded,
			 r->fetched, (unsigned long long)r->content_length);

	text_add(out, head, (size_t)n);
	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
		text_add(out, fields[i].data, fields[i].len);
		text_add(out, "\n", 1);
	}
	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
		size_t len = http_list_join(lists[i], joined);

		text_add(out, joined, len);
		text_add(out, "\n", 1);
	}
}

/* ---- the slow reading ---- */

/* Takes the next line off; false: there is no whole one. */
static bool next_line(struct span *in, struct span *line)
{
	const char *end = in->len >= 2 ? memmem(in->data, in->len, "\r\n", 2) : NULL;

	if (end == NULL)
		return false;
	*line = (struct span){ in->data, (size_t)(end - in->data) };
	*in = span_skip(*in, line->len + 2);
	for (size_t i = 0; i < line->len; i++)
		if (iscntrl((unsigned char)line->data[i]) && line->data[i] != '\t')
			return false;
	return true;
}

/* Whether the line is this field; its value without the space around it. */
static bool is_field(struct span line, const char *name, struct span *value)
{
	size_t n = strlen(name);

	if (line.len <= n || strncasecmp(line.data, name, n) != 0 || line.data[n] != ':')
		return false;
	*value = span_skip(line, n + 1);
	while (value->len > 0 && isblank((unsigned char)value->data[0]))
		*value = span_skip(*value, 1);
	while (value->len > 0 && isblank((unsigned char)value->data[value->len - 1]))
		value->len--;
	return true;
}

/* A later minor version than we know is one that we can talk to (RFC 9110, 6.2). */
static bool request_line(struct span line, const struct http_request *r)
{
	const char *space = memchr(line.data, ' ', line.len), *end = line.data + line.len;
	size_t method;

	if (space == NULL || line.len < 9 || memcmp(end - 9, " HTTP/1.", 8) != 0 ||
	    !isdigit((unsigned char)end[-1]) || r->http_1_0 != (end[-1] == '0'))
		return false;
	method = (size_t)(space - line.data);
	for (size_t i = 0; i < method; i++)
		if (!isupper((unsigned char)line.data[i]) && line.data[i] != '-')
			return false;
	for (const char *c = space + 1; c < end - 9; c++)
		if (!isgraph((unsigned char)*c) || *c == '#')
			return false;
	return method > 0 && method + 1 < line.len - 9;
}

/* What came of a chunked body, by the bytes from its head to the next one. */
static void check_chunks(struct span in, const struct text *body)
{
	size_t at = 0, size;
	struct span line;

	do {
		size_t digits = 0;

		check(next_line(&in, &line), "a chunk without a size");
		for (size = 0; digits < line.len && isxdigit((unsigned char)line.data[digits]);
		     digits++) {
			char c = (char)tolower((unsigned char)line.data[digits]);

			size = 16 * size + (size_t)(c <= '9' ? c - '0' : c - 'a' + 10);
			check(size <= body->len, "a size beyond the body");
		}
		check(digits > 0 && (digits == line.len || line.data[digits] == ';'),
		      "a size that is none");
		check(size <= body->len - at && size <= in.len &&
			      (size == 0 || memcmp(in.data, body->data + at, size) == 0),
		      "a chunk that is another");
		in = span_skip(in, size);
		at += size;
		if (size > 0)
			check(next_line(&in, &line) && line.len == 0, "a chunk without its end");
	} while (size > 0);
	do
		check(next_line(&in, &line), "trailers without their end");
	while (line.len > 0);
	check(at == body->len && in.len == 0, "a body that goes on behind its end");
}

/* The elements of a line's list, each with a comma before it. */
static void add_elements(struct text *out, struct span value)
{
	bool quoted = false, begun = false;
	size_t end = out->len;

	for (size_t i = 0; i < value.len; i++) {
		char c = value.data[i];

		if (c == ',' && !quoted) {
			begun = false;
			out->len = end;
			continue;
		}
		quoted ^= c == '"';
		if (!begun && isblank((unsigned char)c))
			continue;
		if (!begun)
			text_add(out, ",", 1);
		begun = true;
		text_add(out, &c, 1);
		/* What is blank at the end does not count. */
		if (!isblank((unsigned char)c))
			end = out->len;
	}
	out->len = end;
}

/* A list is that of all its lines. */
static void check_list(struct span head, const char *name, struct http_list list)
{
	struct text want = { 0 }, got = { 0 };
	struct span line, value;
	char joined[1024];

	while (next_line(&head, &line) && line.len > 0)
		if (is_field(line, name, &value))
			add_elements(&want, value);
	if (want.len > 0) {
		size_t n = http_list_join(list, joined);

		text_add(&got, ",", 1);
		text_add(&got, joined, n);
	} else {
		check(http_list_join(list, NULL) == 0, "elements that nobody sent");
	}
	text_same(&want, &got);
}

static void check_head(struct span head, const struct http_request *r)
{
	unsigned hosts = 0, lengths = 0, encodings = 0;
	struct span line, value;
	uint64_t length = 0;

	while (head.len >= 2 && memcmp(head.data, "\r\n", 2) == 0)
		head = span_skip(head, 2);
	check(next_line(&head, &line) && request_line(line, r), "a request line that is none");
	check_list(head, "accept", r->accept);
	check_list(head, "accept-encoding", r->accept_encoding);
	check_list(head, "content-encoding", r->content_encoding);
	check_list(head, "if-match", r->if_match);
	check_list(head, "if-none-match", r->if_none_match);
	for (;;) {
		const char *colon;

		check(next_line(&head, &line), "a head without its end");
		if (line.len == 0)
			break;
		colon = memchr(line.data, ':', line.len);
		check(colon != NULL && colon > line.data && !isblank((unsigned char)line.data[0]) &&
			      !isblank((unsigned char)colon[-1]),
		      "a field that is none");
		hosts += is_field(line, "host", &value);
		if (is_field(line, "transfer-encoding", &value)) {
			encodings++;
			check(value.len == 7 && strncasecmp(value.data, "chunked", 7) == 0,
			      "an unknown encoding is taken");
		}
		if (!is_field(line, "content-length", &value))
			continue;
		lengths++;
		check(value.len > 0, "a length without a number is taken");
		for (size_t i = 0; i < value.len; i++) {
			check(isdigit((unsigned char)value.data[i]), "a length that is no number");
			length = 10 * length + (uint64_t)(value.data[i] - '0');
		}
	}
	check(head.len == 0, "a head that goes on behind its end");
	check(lengths + encodings <= 1, "two ends are taken");
	check(r->http_1_0 ? hosts <= 1 && encodings == 0 : hosts == 1, "hosts or encodings");
	check(r->chunked == (encodings == 1), "chunks");
	check(r->content_length == length, "the length is another");
	check(r->has_body == (r->chunked || length > 0), "a body");
}

/* ---- the decoder ---- */

struct session {
	struct http_decoder *decoder;
	bool chunked;
	struct text body, raw, *out; /* raw: what was taken since the head */
};

/* As the broker's session does it. */
static enum taken take(void *context, struct span in, size_t *used)
{
	const struct http_limits limits = { .head_bytes = 1024,
					    .uri_bytes = 256,
					    .body_bytes = 100 };
	struct session *s = context;
	struct http_event e;
	char error[100];
	int n;

	http_decode(s->decoder, in, &limits, &e, used);
	text_add(&s->raw, in.data, *used);
	switch (e.kind) {
	case HTTP_EVENT_MORE:
		return TAKE_MORE;
	case HTTP_EVENT_HEAD:
		check_head((struct span){ in.data, *used }, &e.request);
		add_head(s->out, &e.request);
		s->chunked = e.request.chunked;
		s->raw.len = 0;
		break;
	case HTTP_EVENT_BODY:
		text_add(&s->body, e.bytes.data, e.bytes.len);
		check(s->body.len <= limits.body_bytes, "a body beyond its limit");
		break;
	case HTTP_EVENT_END:
		if (s->chunked)
			check_chunks((struct span){ s->raw.data, s->raw.len }, &s->body);
		/* Part of a body that turns out to be bad is nobody's. */
		text_add(s->out, s->body.data, s->body.len);
		s->body.len = 0;
		text_add(s->out, "\nEND\n", 5);
		break;
	case HTTP_EVENT_ERROR:
	default:
		assert(e.kind == HTTP_EVENT_ERROR && e.status >= 400);
		n = snprintf(error, sizeof(error), "\nE%u %s\n", e.status, e.reason);
		text_add(s->out, error, (size_t)n);
		return TAKE_NO_MORE;
	}
	return TAKEN;
}

static struct text decode(struct span in, unsigned step)
{
	struct text out = { 0 };
	struct session s = { .decoder = http_decoder_new(), .out = &out };

	check(s.decoder != NULL, "out of memory");
	feed(in, step, take, &s);
	free(s.body.data);
	free(s.raw.data);
	http_decoder_free(s.decoder);
	return out;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct text whole, split;
	struct span in;

	if (size < 1)
		return 0;
	in = (struct span){ (const char *)data + 1, size - 1 };
	whole = decode(in, 0);
	split = decode(in, 1 + data[0] % 80);
	/* A request takes at least 18 bytes, and what is told of it is its own fields. */
	check(whole.len <= 4 * size + 100, "more comes out than went in");
	text_same(&whole, &split);
	return 0;
}
