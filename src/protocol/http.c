#include "protocol/http.h"

#include <strings.h>

#include "base/memory.h"
#include "protocol/http_field.h"

/* ---- the library: http-parser, or its successor llhttp with the same callbacks ---- */

#ifdef HAVE_LIBLLHTTP
#include <llhttp.h>

typedef llhttp_t parser;
typedef llhttp_settings_t parser_settings;

static void parser_start(parser *p, const parser_settings *settings)
{
	llhttp_init(p, HTTP_REQUEST, settings);
}

/* Other callbacks from now on. */
static void parser_settle(parser *p, const parser_settings *settings)
{
	p->settings = (void *)(uintptr_t)settings;
}

static int parser_stop(parser *p)
{
	(void)p;
	return HPE_PAUSED;
}

/* How many bytes it took; *ok: it is ready for more, though a callback may have stopped it. */
static size_t parser_run(parser *p, const parser_settings *settings, struct span in, bool *ok)
{
	enum llhttp_errno error;

	(void)settings;
	if (llhttp_get_errno(p) == HPE_PAUSED)
		llhttp_resume(p);
	error = llhttp_execute(p, in.data, in.len);
	*ok = error == HPE_OK || error == HPE_PAUSED || error == HPE_PAUSED_UPGRADE;
	return error == HPE_OK ? in.len : (size_t)(llhttp_get_error_pos(p) - in.data);
}
#else
#include <http_parser.h>
#include <pthread.h>

typedef http_parser parser;
typedef http_parser_settings parser_settings;

static void unlimit(void)
{
	/* Limits are this file's. */
	http_parser_set_max_header_size(UINT32_MAX);
}

static void parser_start(parser *p, const parser_settings *settings)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	(void)settings;
	pthread_once(&once, unlimit);
	http_parser_init(p, HTTP_REQUEST);
}

static void parser_settle(parser *p, const parser_settings *settings)
{
	(void)p;
	(void)settings;
}

static int parser_stop(parser *p)
{
	http_parser_pause(p, 1);
	return 0;
}

static size_t parser_run(parser *p, const parser_settings *settings, struct span in, bool *ok)
{
	size_t n;

	if (HTTP_PARSER_ERRNO(p) == HPE_PAUSED)
		http_parser_pause(p, 0);
	n = http_parser_execute(p, settings, in.data, in.len);
	*ok = HTTP_PARSER_ERRNO(p) == HPE_OK || HTTP_PARSER_ERRNO(p) == HPE_PAUSED;
	return n;
}
#endif

enum mode { MODE_HEAD, MODE_LENGTH, MODE_CHUNKED, MODE_DEAD };

struct http_decoder {
	enum mode mode;
	bool cr;        /* the last byte looked at in a head or between chunks is a CR */
	bool word;      /* between chunks: still in what a line begins with, a size or a name */
	bool ended;     /* a chunk's data may be over, and its line end is next */
	size_t scanned; /* bytes of the head that have been looked at */
	size_t line;    /* where its current line begins */
	size_t lines;
	uint64_t left; /* of a body of known length */
	uint64_t body; /* bytes of a chunked one so far: never more than */
	uint64_t body_max;
	size_t framing;   /* bytes since the last one that belonged to a body */
	parser parser;    /* of a chunked body; a head is parsed in one go */
	struct span data; /* what a callback found */
	bool complete, too_large;
};

struct http_decoder *http_decoder_new(void)
{
	return memory_new_zeroed(sizeof(struct http_decoder));
}

void http_decoder_free(struct http_decoder *d)
{
	memory_free(d);
}

static void fail(struct http_decoder *d, struct http_event *e, unsigned status, const char *reason)
{
	d->mode = MODE_DEAD;
	e->kind = HTTP_EVENT_ERROR;
	e->status = status;
	e->reason = reason;
}

/* ---- heads ---- */

static inline bool control(char c)
{
	return ((unsigned char)c < ' ' && c != '\t') || c == 0x7f;
}

static bool field_line_valid(struct span line)
{
	size_t i = 0;

	while (i < line.len && http_token_char(line.data[i]))
		i++;
	/* Also refuses space before the colon, and folded lines, which begin with space. */
	if (i == 0 || i == line.len || line.data[i] != ':')
		return false;
	for (i++; i < line.len; i++)
		if (control(line.data[i]))
			return false;
	return true;
}

/* Method, target and version with one space between them. What RFC 3986 has no place for, and
 * proxies refuse or cut off, ends the request. The parser does not look at every letter of "HTTP".
 */
static bool request_line_valid(struct span line)
{
	unsigned spaces = 0;
	size_t version = 0;

	for (size_t i = 0; i < line.len; i++) {
		unsigned char c = (unsigned char)line.data[i];

		if (c > ' ' && c < 0x7f && c != '#')
			continue;
		if (c != ' ' || i == version || ++spaces > 2)
			return false;
		version = i + 1;
	}
	return spaces == 2 && line.len - version >= 5 &&
	       memcmp(line.data + version, "HTTP/", 5) == 0;
}

/* To the next byte that ends a line, or from which on something is too long. */
static size_t ordinary_upto(const struct http_decoder *d, struct span in,
			    const struct http_limits *limits)
{
	const uint64_t each = 0x0101010101010101; /* of eight bytes */
	size_t at = d->scanned, end = in.len < limits->head_bytes ? in.len : limits->head_bytes;
	uint64_t eight;

	if (d->cr)
		return at;
	if (d->lines == 0 && end - d->line > limits->uri_bytes)
		end = d->line + limits->uri_bytes + 1;
	/* Eight at a time, as long as none of them is less than 16. */
	while (at + sizeof(eight) <= end) {
		memcpy(&eight, in.data + at, sizeof(eight));
		if (((eight - each * 16) & ~eight & each * 128) != 0)
			break;
		at += sizeof(eight);
	}
	while (at < end && in.data[at] != '\r' && in.data[at] != '\n')
		at++;
	return at;
}

/*
 * Looks at the bytes that have come since the last time, one by one, so that what is wrong first is
 * found first however they are split. True: the head is whole, or an error is in *e.
 */
static bool scan_head(struct http_decoder *d, struct span in, const struct http_limits *limits,
		      struct http_event *e)
{
	/* No request begins like this: TLS, say, which may never send the end of a line. */
	if (d->scanned == 0 && in.len > 0 && !http_token_char(in.data[0])) {
		fail(d, e, 400, "malformed head");
		return true;
	}
	for (; (d->scanned = ordinary_upto(d, in, limits)) < in.len; d->scanned++) {
		size_t at = d->scanned;
		char c = in.data[at];

		if (at >= limits->head_bytes) {
			fail(d, e, 431, "request head too large");
			return true;
		}
		if (c == '\n' && !d->cr) {
			fail(d, e, 400, "bare LF");
			return true;
		}
		if (c != '\n' && d->cr) {
			fail(d, e, 400, "bare CR");
			return true;
		}
		d->cr = c == '\r';
		if (c == '\n') {
			struct span line = { in.data + d->line, at - 1 - d->line };

			d->line = at + 1;
			if (d->lines++ == 0 ? !request_line_valid(line)
					    : line.len > 0 && !field_line_valid(line)) {
				fail(d, e, 400, "malformed head");
				return true;
			}
			if (line.len == 0) {
				d->scanned++;
				return true;
			}
		} else if (d->lines == 0 && at - d->line > limits->uri_bytes) {
			fail(d, e, 414, "request target too long");
			return true;
		}
	}
	return false;
}

/* What the callbacks fill in. */
struct head {
	parser parser;
	struct http_request request;
	struct span target, name;
	const char *end; /* of all of it */
	struct span length, encoding, expect;
	bool duplicate; /* of a field that may come only once */
	bool complete;
};

static int on_target(parser *p, const char *data, size_t len)
{
	struct head *h = p->data;

	h->target = (struct span){ data, len };
	return 0;
}

static int on_field(parser *p, const char *data, size_t len)
{
	struct head *h = p->data;

	h->name = (struct span){ data, len };
	return 0;
}

struct field {
	struct span name;
	size_t offset; /* in struct head */
};

#define FIELD(text, member)                                                                        \
	{                                                                                          \
		{ text, sizeof(text) - 1 }, offsetof(struct head, member)                          \
	}

/* A field that is a list, and may come in several lines. */
static void note_list(struct head *h, struct span value)
{
	static const struct field fields[] = {
		FIELD("accept", request.accept),
		FIELD("accept-encoding", request.accept_encoding),
		FIELD("content-encoding", request.content_encoding),
		FIELD("if-match", request.if_match),
		FIELD("if-none-match", request.if_none_match),
		FIELD("connection", request.connection),
		FIELD("upgrade", request.upgrade),
		FIELD("sec-websocket-protocol", request.socket_protocols),
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
		struct http_list *list = (void *)((char *)h + fields[i].offset);

		if (!http_equal(h->name, fields[i].name))
			continue;
		if (list->value.data == NULL)
			*list = (struct http_list){ fields[i].name, http_trim(value), { NULL, 0 } };
		else if (list->more.data == NULL)
			/* The decoder has seen that it is a line of its own. */
			list->more = (struct span){ h->name.data, (size_t)(h->end - h->name.data) };
	}
}

static bool begins(struct span name, const char *with)
{
	size_t n = strlen(with);

	return name.len >= n && strncasecmp(name.data, with, n) == 0;
}

/* What only proxies say (RFC 7239, RFC 9110, 7.6.3, and what was there before), and only browsers.
 */
static void note_sender(struct head *h, struct span value)
{
	struct http_request *r = &h->request;

	r->forwarded |= http_equal(h->name, SPAN("forwarded")) ||
			http_equal(h->name, SPAN("via")) ||
			http_equal(h->name, SPAN("x-real-ip")) || begins(h->name, "x-forwarded-");
	r->fetched |= begins(h->name, "sec-fetch-");
	if (http_equal(h->name, SPAN("sec-fetch-site")))
		r->fetch_site = value;
}

static int on_value(parser *p, const char *data, size_t len)
{
	static const struct field fields[] = {
		FIELD("host", request.host),
		FIELD("content-length", length),
		FIELD("transfer-encoding", encoding),
		FIELD("origin", request.origin),
		FIELD("authorization", request.authorization),
		FIELD("cookie", request.cookie),
		FIELD("content-type", request.content_type),
		FIELD("last-event-id", request.last_event_id),
		FIELD("range", request.range),
		FIELD("if-range", request.if_range),
		FIELD("expect", expect),
		FIELD("x-version", request.version),
		FIELD("idempotency-key", request.idempotency_key),
		FIELD("sec-websocket-key", request.socket_key),
		FIELD("sec-websocket-version", request.socket_version),
	};
	struct head *h = p->data;

	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
		struct span *field = (struct span *)(void *)((char *)h + fields[i].offset);

		if (!http_equal(h->name, fields[i].name))
			continue;
		/* Of the first five no two readers may see different ones. */
		if (field->data != NULL && i < 5)
			h->duplicate = true;
		*field = http_trim((struct span){ data, len });
		return 0;
	}
	note_list(h, (struct span){ data, len });
	note_sender(h, http_trim((struct span){ data, len }));
	return 0;
}

static int on_head_complete(parser *p)
{
	struct head *h = p->data;

	h->complete = true;
#ifdef HAVE_LIBLLHTTP
	h->request.keep_alive = llhttp_should_keep_alive(p) != 0;
#else
	h->request.keep_alive = http_should_keep_alive(p) != 0;
#endif
	return 0;
}

/* A name or address, with a port or without (RFC 9110, 4.2.3 and 7.2). */
static bool host_valid(struct span host)
{
	for (size_t i = 0; i < host.len; i++) {
		char c = host.data[i];

		if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') &&
		    (c == 0 || strchr("-._~%!$&'()*+,;=:[]", c) == NULL))
			return false;
	}
	return true;
}

/* Path and query of a request target in any of its forms (RFC 9112, 3.2); a host that it names
 * counts for more than the field. */
static bool split_target(struct http_request *r, struct span target)
{
	const char *end = target.data + target.len, *p = target.data, *question;

	if (r->verb == HTTP_VERB_OPTIONS && span_equal(target, SPAN("*"))) {
		r->path = target;
		return true;
	}
	if (target.len > 7 && strncasecmp(p, "http://", 7) == 0)
		p += 7;
	else if (target.len > 8 && strncasecmp(p, "https://", 8) == 0)
		p += 8;
	if (p != target.data) {
		r->host.data = p;
		while (p < end && *p != '/' && *p != '?')
			p++;
		r->host.len = (size_t)(p - r->host.data);
		if (!host_valid(r->host))
			return false;
		if (p == end || *p == '?') {
			r->path = SPAN("/");
			if (p < end)
				r->query = (struct span){ p + 1, (size_t)(end - p) - 1 };
			return true;
		}
	}
	if (p == end || *p != '/')
		return false;
	question = memchr(p, '?', (size_t)(end - p));
	r->path = (struct span){ p, (size_t)((question != NULL ? question : end) - p) };
	if (question != NULL)
		r->query = (struct span){ question + 1, (size_t)(end - question) - 1 };
	return true;
}

/* 0: it is not known. */
static enum http_verb method_of(struct span head)
{
	static const struct {
		struct span name;
		enum http_verb verb;
	} methods[] = {
		{ { "GET ", 4 }, HTTP_VERB_GET },         { { "HEAD ", 5 }, HTTP_VERB_HEAD },
		{ { "POST ", 5 }, HTTP_VERB_POST },       { { "PUT ", 4 }, HTTP_VERB_PUT },
		{ { "OPTIONS ", 8 }, HTTP_VERB_OPTIONS }, { { "DELETE ", 7 }, HTTP_VERB_OTHER },
		{ { "PATCH ", 6 }, HTTP_VERB_OTHER },     { { "TRACE ", 6 }, HTTP_VERB_OTHER },
		{ { "CONNECT ", 8 }, HTTP_VERB_OTHER }
	};

	for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++)
		if (head.len > methods[i].name.len &&
		    memcmp(head.data, methods[i].name.data, methods[i].name.len) == 0)
			return methods[i].verb;
	return 0;
}

/* Whether the head, whose method we do not know, is one of HTTP/1.x all the same: the library knows
 * some more methods, and of the others it does not look at the version. */
static bool unknown_method(struct span head)
{
	const char *end = memchr(head.data, '\r', head.len);
	size_t i = 0;

	while (i < head.len &&
	       ((head.data[i] >= 'A' && head.data[i] <= 'Z') || head.data[i] == '-'))
		i++;
	return i > 0 && head.data[i] == ' ' && end - head.data > 9 &&
	       memcmp(end - 9, " HTTP/1.", 8) == 0 && end[-1] >= '0' && end[-1] <= '9';
}

static const parser_settings head_settings = { .on_url = on_target,
					       .on_header_field = on_field,
					       .on_header_value = on_value,
					       .on_headers_complete = on_head_complete };

static int on_body(parser *p, const char *data, size_t len)
{
	struct http_decoder *d = p->data;

	d->data = (struct span){ data, len };
	return parser_stop(p);
}

static int on_complete(parser *p)
{
	struct http_decoder *d = p->data;

	d->complete = true;
	return parser_stop(p);
}

static int on_chunk(parser *p)
{
	struct http_decoder *d = p->data;

	if (p->content_length <= d->body_max - d->body)
		return 0;
	d->too_large = true;
	return parser_stop(p);
}

static const parser_settings chunk_settings = { .on_chunk_header = on_chunk,
						.on_body = on_body,
						.on_message_complete = on_complete };

/* Framing: what says where this request ends, and so where the next one begins. */
static void decode_framing(struct http_decoder *d, struct head *h, const struct http_limits *limits,
			   struct http_event *e)
{
	struct http_request *r = &h->request;

	if (h->duplicate || (h->length.data != NULL && h->encoding.data != NULL)) {
		fail(d, e, 400, "ambiguous head");
	} else if (h->length.data != NULL && !http_number(h->length, &r->content_length)) {
		fail(d, e, 400, "malformed Content-Length");
	} else if (h->encoding.data != NULL && r->http_1_0) {
		fail(d, e, 400, "Transfer-Encoding in HTTP/1.0");
	} else if (r->content_length > limits->body_bytes) {
		fail(d, e, 413, "message too large");
	} else {
		r->chunked = h->encoding.data != NULL;
		r->has_body = r->chunked || r->content_length > 0;
		e->kind = HTTP_EVENT_HEAD;
	}
}

static void decode_head(struct http_decoder *d, struct span in, const struct http_limits *limits,
			struct http_event *e, size_t *used)
{
	struct head h = { .complete = false };
	struct http_request *r = &h.request;
	struct span head;
	bool ok;

	*used = 0;
	/* Empty lines before a request are somebody's old mistake (RFC 9112, 2.2). */
	while (d->scanned == 0 && in.len >= 2 && memcmp(in.data, "\r\n", 2) == 0) {
		in = span_skip(in, 2);
		*used += 2;
	}
	if (d->scanned == 0 && span_equal(in, SPAN("\r")))
		return;
	if (!scan_head(d, in, limits, e) || e->kind == HTTP_EVENT_ERROR)
		return;
	head = (struct span){ in.data, d->scanned };
	*used += head.len;
	h.end = head.data + head.len;
	parser_start(&h.parser, &head_settings);
	h.parser.data = &h;
	(void)parser_run(&h.parser, &head_settings, head, &ok);
	r->verb = method_of(head);
	r->http_1_0 = h.parser.http_minor == 0;
	if (r->verb == 0 && unknown_method(head)) {
		fail(d, e, 501, "unknown method");
	} else if (h.encoding.data != NULL && h.length.data == NULL && h.complete &&
		   !http_equal(h.encoding, SPAN("chunked"))) {
		fail(d, e, 501, "unknown Transfer-Encoding");
	} else if (h.parser.http_major > 1 || (h.complete && h.parser.http_major == 0)) {
		fail(d, e, 505, "HTTP/1.1 only");
	} else if (!h.complete || !ok) {
		fail(d, e, 400, "malformed request");
	} else if (!r->http_1_0 && r->host.data == NULL) {
		fail(d, e, 400, "no Host");
	} else if (!host_valid(r->host)) {
		fail(d, e, 400, "malformed Host");
	} else if (!split_target(r, h.target)) {
		fail(d, e, 400, "malformed request target");
	} else if (h.expect.data != NULL && !http_equal(h.expect, SPAN("100-continue"))) {
		fail(d, e, 417, "unknown expectation");
	} else {
		r->websocket =
			r->verb == HTTP_VERB_GET && http_list_has(r->upgrade, SPAN("websocket"));
		r->expect_continue = h.expect.data != NULL && !r->http_1_0;
		decode_framing(d, &h, limits, e);
	}
	if (e->kind == HTTP_EVENT_ERROR)
		return;
	e->request = *r;
	*d = (struct http_decoder){ .mode = MODE_HEAD };
	if (r->chunked) {
		d->mode = MODE_CHUNKED;
		/* It goes on where the head ends, when the head is gone. */
		d->parser = h.parser;
		parser_settle(&d->parser, &chunk_settings);
		d->word = true;
		/* A smaller limit that comes later is for later requests. */
		d->body_max = limits->body_bytes;
	} else if (r->has_body) {
		d->mode = MODE_LENGTH;
		d->left = r->content_length;
	}
}

/* ---- bodies ---- */

static void decode_length(struct http_decoder *d, struct span in, struct http_event *e,
			  size_t *used)
{
	*used = 0;
	if (d->left == 0) {
		d->mode = MODE_HEAD;
		e->kind = HTTP_EVENT_END;
	} else if (in.len > 0) {
		*used = in.len < d->left ? in.len : (size_t)d->left;
		d->left -= *used;
		e->kind = HTTP_EVENT_BODY;
		e->bytes = (struct span){ in.data, *used };
	}
}

/* Between the data of chunks every LF must follow a CR and every CR precede a LF; a chunk's size or
 * a trailer's name goes to its end without a space, and data end where their size says. The library
 * lets more through, and takes bytes above 0x7f for the digit 0. */
static bool framing_valid(struct http_decoder *d, struct span bytes)
{
	for (size_t i = 0; i < bytes.len; i++) {
		char c = bytes.data[i];

		if ((c == '\n') != d->cr || (d->ended && c != '\r') ||
		    (control(c) && c != '\r' && c != '\n'))
			return false;
		if (d->word && !http_token_char(c)) {
			if (c != ':' && c != ';' && c != '\r')
				return false;
			d->word = false;
		}
		d->ended = false;
		d->cr = c == '\r';
		d->word |= c == '\n';
	}
	return true;
}

static void decode_chunked(struct http_decoder *d, struct span in, const struct http_limits *limits,
			   struct http_event *e, size_t *used)
{
	struct span before, after;
	bool ok;

	*used = 0;
	if (in.len == 0)
		return;
	d->parser.data = d;
	d->data = (struct span){ NULL, 0 };
	*used = parser_run(&d->parser, &chunk_settings, in, &ok);
	before = (struct span){ in.data,
				d->data.data != NULL ? (size_t)(d->data.data - in.data) : *used };
	after = (struct span){ in.data + before.len + d->data.len,
			       *used - before.len - d->data.len };
	ok = ok && framing_valid(d, before);
	d->framing += before.len;
	if (d->data.len > 0) {
		ok = ok && d->framing <= limits->head_bytes;
		d->framing = after.len;
		d->cr = d->word = false;
		d->ended = true;
	}
	if (!ok || !framing_valid(d, after) || d->framing > limits->head_bytes) {
		fail(d, e, 400, "malformed chunk");
	} else if (d->too_large) {
		fail(d, e, 413, "message too large");
	} else if (d->data.len > 0) {
		d->body += d->data.len;
		e->kind = HTTP_EVENT_BODY;
		e->bytes = d->data;
	} else if (d->complete) {
		*d = (struct http_decoder){ .mode = MODE_HEAD };
		e->kind = HTTP_EVENT_END;
	}
}

void http_decode(struct http_decoder *d, struct span in, const struct http_limits *limits,
		 struct http_event *e, size_t *used)
{
	e->kind = HTTP_EVENT_MORE;
	switch (d->mode) {
	case MODE_HEAD:
		decode_head(d, in, limits, e, used);
		break;
	case MODE_LENGTH:
		decode_length(d, in, e, used);
		break;
	case MODE_CHUNKED:
		decode_chunked(d, in, limits, e, used);
		break;
	case MODE_DEAD:
	default:
		*used = in.len;
		break;
	}
	if (e->kind == HTTP_EVENT_ERROR)
		*used = in.len;
}

int http_detect(struct span first)
{
	static const struct span methods[] = {
		{ "GET ", 4 },     { "HEAD ", 5 },  { "POST ", 5 },
		{ "OPTIONS ", 8 }, { "PUT ", 4 },   { "DELETE ", 7 },
		{ "CONNECT ", 8 }, { "TRACE ", 6 }, { "PATCH ", 6 }
	};
	int best = -1;

	for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
		size_t n = first.len < methods[i].len ? first.len : methods[i].len;

		if (memcmp(first.data, methods[i].data, n) != 0)
			continue;
		if (n == methods[i].len)
			return 1;
		best = 0;
	}
	return best;
}
