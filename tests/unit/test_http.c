#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/http.h"
#include "protocol/http_field.h"

#define LEN(array) (sizeof(array) / sizeof(*(array)))

static const struct http_limits limits = { .head_bytes = 512, .uri_bytes = 64, .body_bytes = 32 };

/* What came of some bytes, as text: the same for every way to split them. */
struct transcript {
	char text[4096];
	size_t len;
	bool in_body, dead;
};

static void note(struct transcript *t, const char *data, size_t len)
{
	assert_true(len < sizeof(t->text) - t->len);
	memcpy(t->text + t->len, data, len);
	t->len += len;
	t->text[t->len] = 0;
}

static void note_span(struct transcript *t, const char *name, struct span s)
{
	if (s.data == NULL)
		return;
	note(t, " ", 1);
	note(t, name, strlen(name));
	note(t, "=", 1);
	note(t, s.data, s.len);
}

static void note_list(struct transcript *t, const char *name, struct http_list list)
{
	char joined[512];

	if (list.value.data != NULL)
		note_span(t, name, (struct span){ joined, http_list_join(list, joined) });
}

static void note_request(struct transcript *t, const struct http_request *r)
{
	char buf[160];

	note(t, "[", 1);
	note(t, r->path.data, r->path.len);
	snprintf(buf, sizeof(buf), " verb=%u%s%s%s%s length=%llu", (unsigned)r->verb,
		 r->http_1_0 ? " 1.0" : "", r->keep_alive ? " keep" : "",
		 r->expect_continue ? " expect" : "", r->chunked ? " chunked" : "",
		 (unsigned long long)r->content_length);
	note(t, buf, strlen(buf));
	note_span(t, "query", r->query);
	note_span(t, "origin", r->origin);
	note_span(t, "type", r->content_type);
	note_list(t, "accept", r->accept);
	note_list(t, "coding", r->content_encoding);
	note_span(t, "id", r->last_event_id);
	note_list(t, "match", r->if_match);
	note_list(t, "none", r->if_none_match);
	note_span(t, "range", r->range);
	note_span(t, "version", r->version);
	if (r->forwarded)
		note(t, " forwarded", 10);
	if (r->fetched)
		note(t, " fetched", 8);
	note(t, "]", 1);
}

static void note_event(struct transcript *t, const struct http_event *e)
{
	char buf[80];

	switch (e->kind) {
	case HTTP_EVENT_HEAD:
		note_request(t, &e->request);
		break;
	case HTTP_EVENT_BODY:
		assert_true(e->bytes.len > 0);
		note(t, e->bytes.data, e->bytes.len);
		break;
	case HTTP_EVENT_END:
		note(t, "<end>", 5);
		break;
	case HTTP_EVENT_ERROR:
		snprintf(buf, sizeof(buf), "!%u %s", e->status, e->reason);
		note(t, buf, strlen(buf));
		t->dead = true;
		break;
	case HTTP_EVENT_MORE:
	default:
		break;
	}
}

/* A connection: keeps what was not taken, in memory that ends with its last byte. */
struct feed {
	struct http_decoder *decoder;
	struct http_limits limits;
	char *kept;
	size_t kept_n;
	struct transcript t;
};

static void feed(struct feed *f, const char *data, size_t len)
{
	char *joined = malloc(f->kept_n + len);
	struct span in = { joined, f->kept_n + len };
	struct http_event e;
	size_t used;

	if (f->kept_n > 0)
		memcpy(joined, f->kept, f->kept_n);
	memcpy(joined + f->kept_n, data, len);
	free(f->kept);
	f->kept = NULL;
	do {
		http_decode(f->decoder, in, &f->limits, &e, &used);
		assert_true(used <= in.len);
		note_event(&f->t, &e);
		in = span_skip(in, used);
	} while (!f->t.dead && e.kind != HTTP_EVENT_MORE);
	f->kept_n = f->t.dead ? 0 : in.len;
	if (f->kept_n > 0) {
		f->kept = malloc(in.len);
		memcpy(f->kept, in.data, in.len);
	}
	free(joined);
}

/* Feeds two parts, or with step > 0 pieces of so many bytes. */
static struct transcript transcribe(const char *bytes, size_t len, size_t split, size_t step)
{
	struct feed f = { .decoder = http_decoder_new(), .limits = limits };

	assert_non_null(f.decoder);
	if (step == 0) {
		feed(&f, bytes, split);
		if (!f.t.dead)
			feed(&f, bytes + split, len - split);
	}
	for (size_t at = 0; step > 0 && at < len && !f.t.dead; at += step)
		feed(&f, bytes + at, len - at < step ? len - at : step);
	free(f.kept);
	http_decoder_free(f.decoder);
	return f.t;
}

static void expect_bytes(const char *bytes, size_t len, const char *text)
{
	for (size_t split = 0; split <= len; split++)
		assert_string_equal(transcribe(bytes, len, split, 0).text, text);
	for (size_t step = 1; step < 8; step++)
		assert_string_equal(transcribe(bytes, len, 0, step).text, text);
}

static void expect(const char *bytes, const char *text)
{
	expect_bytes(bytes, strlen(bytes), text);
}

#define GET "GET /a HTTP/1.1\r\nHost: h\r\n"
#define POST "POST /a HTTP/1.1\r\nHost: h\r\n"

static void requests_are_understood_however_they_are_split(void **state)
{
	(void)state;
	expect(GET "\r\n", "[/a verb=1 keep length=0]");
	expect("HEAD /a?b=c&d HTTP/1.1\r\nhOST:h\r\n\r\n", "[/a verb=2 keep length=0 query=b=c&d]");
	expect("GET /a HTTP/1.0\r\n\r\n", "[/a verb=1 1.0 length=0]");
	expect("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
	       "[/a verb=1 1.0 keep length=0]");
	expect(GET "Connection: close\r\n\r\n", "[/a verb=1 length=0]");
	expect(GET "Accept: \t text/event-stream \t\r\nLast-Event-ID:x:1\r\nX-Version: 1.2\r\n\r\n",
	       "[/a verb=1 keep length=0 accept=text/event-stream id=x:1 version=1.2]");
	expect("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "[* verb=8 keep length=0]");
	expect("GET http://h:1/p?q HTTP/1.1\r\nHost: h\r\n\r\n",
	       "[/p verb=1 keep length=0 query=q]");
	expect("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", "[/ verb=1 keep length=0]");
	expect("GET /a HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "[/a verb=1 keep length=0]");
	expect("GET /a HTTP/1.1\r\nHost:\r\n\r\n", "[/a verb=1 keep length=0]");
	expect("DELETE /a HTTP/1.1\r\nHost: h\r\n\r\n", "[/a verb=16 keep length=0]");
	expect("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
	       "[/a verb=32 keep length=1]x<end>");
	expect("\r\n\r\n" GET "\r\n", "[/a verb=1 keep length=0]");
	expect(GET "X: \xc3\xa9\xff\r\nEmpty:\r\n\r\n", "[/a verb=1 keep length=0]");
}

static void bodies_are_understood_however_they_are_split(void **state)
{
	(void)state;
	expect(POST "Content-Length: 5\r\nContent-Type: a/b\r\n\r\nhello",
	       "[/a verb=4 keep length=5 type=a/b]hello<end>");
	expect(POST "Content-Length: 0\r\n\r\n", "[/a verb=4 keep length=0]");
	expect(POST "Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
	       "[/a verb=4 keep expect length=1]x<end>");
	expect(POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n",
	       "[/a verb=4 keep chunked length=0]hello!<end>");
	expect(POST
	       "Transfer-Encoding: Chunked\r\n\r\n05;a=\"b c\"\r\nhello\r\n00\r\nAge: 1 2\r\n\r\n",
	       "[/a verb=4 keep chunked length=0]hello<end>");
	expect(POST "Transfer-Encoding: Chunked\r\n\r\n0\r\nTrailer: t\r\n\r\n",
	       "[/a verb=4 keep chunked length=0]<end>");
	expect(POST "Transfer-Encoding: chunked\r\n\r\n3\r\n\r\n\n\r\n0\r\n\r\n",
	       "[/a verb=4 keep chunked length=0]\r\n\n<end>");
}

static void pipelined_requests_come_one_by_one(void **state)
{
	(void)state;
	expect(GET "\r\n" POST "Content-Length: 2\r\n\r\nhi\r\n" GET "\r\n",
	       "[/a verb=1 keep length=0][/a verb=4 keep length=2]hi<end>"
	       "[/a verb=1 keep length=0]");
	expect(POST "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" GET "\r\n",
	       "[/a verb=4 keep chunked length=0]x<end>[/a verb=1 keep length=0]");
}

static void malformed_requests_are_refused_and_what_is_behind_them_is_not_read(void **state)
{
	static const struct {
		const char *bytes, *text;
	} cases[] = {
		{ POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "!400" },
		{ POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", "!400" },
		{ POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "!400" },
		{ POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "!400" },
		{ POST "Content-Length: 3, 3\r\n\r\nabc", "!400" },
		{ POST "Content-Length: +3\r\n\r\nabc", "!400" },
		{ POST "Content-Length: -3\r\n\r\nabc", "!400" },
		{ POST "Content-Length: 0x3\r\n\r\nabc", "!400" },
		{ POST "Content-Length:\r\n\r\nabc", "!400" },
		{ POST "Content-Length: 3 3\r\n\r\nabc", "!400" },
		{ POST "Content-Length: 18446744073709551616\r\n\r\n", "!400" },
		{ POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "!400" },
		{ POST "Transfer-Encoding: gzip\r\n\r\n", "!501" },
		{ POST "Transfer-Encoding: gzip, chunked\r\n\r\n", "!501" },
		{ POST "Transfer-Encoding:\r\n\r\n", "!501" },
		{ "POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "!400" },
		{ "GET /a HTTP/1.1\nHost: h\r\n\r\n", "!400 bare LF" },
		{ "GET /a HTTP/1.1\r\nHost: h\n\r\n", "!400 bare LF" },
		{ "GET /a HTTP/1.1\r\nHost: h\r\n\n", "!400 bare LF" },
		{ "GET /a HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", "!400 bare CR" },
		{ GET "X: a\r\n b\r\n\r\n", "!400 malformed head" },
		{ GET "X: a\r\n\tb\r\n\r\n", "!400 malformed head" },
		{ "GET /a HTTP/1.1\r\n Host: h\r\n\r\n", "!400 malformed head" },
		{ GET "X : a\r\n\r\n", "!400 malformed head" },
		{ GET "X\t: a\r\n\r\n", "!400 malformed head" },
		{ GET ": a\r\n\r\n", "!400 malformed head" },
		{ GET "no colon\r\n\r\n", "!400 malformed head" },
		{ GET "X(: a\r\n\r\n", "!400 malformed head" },
		{ GET "X: \x01\r\n\r\n", "!400 malformed head" },
		{ "GET /a HTTP/1.1\r\n\r\n", "!400 no Host" },
		{ GET "Host: h\r\n\r\n", "!400" },
		{ "GET /a HTTP/1.1\r\nHost: h i\r\n\r\n", "!400 malformed Host" },
		{ "GET /a HTTP/1.1\r\nHost: u@h\r\n\r\n", "!400 malformed Host" },
		{ "GET /a HTTP/1.1\r\nHost: h/i\r\n\r\n", "!400 malformed Host" },
		{ "GET http://u@h/a HTTP/1.1\r\nHost: h\r\n\r\n", "!400" },
		{ GET "Origin: a\r\nOrigin: b\r\n\r\n", "!400" },
		{ "GET  /a HTTP/1.1\r\nHost: h\r\n\r\n", "!400" },
		{ "GET a HTTP/1.1\r\nHost: h\r\n\r\n", "!400" },
		{ "GET /a\x01 HTTP/1.1\r\nHost: h\r\n\r\n", "!400" },
		{ "GET /a\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n", "!400 malformed head" },
		{ "GET /a?\xff HTTP/1.1\r\nHost: h\r\n\r\n", "!400 malformed head" },
		{ "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", "!400 malformed head" },
		{ "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", "!400" },
		{ "GET\r\n\r\n", "!400" },
		{ "G T /a HTTP/1.1\r\nHost: h\r\n\r\n", "!400" },
		{ "get /a HTTP/1.1\r\nHost: h\r\n\r\n", "!400" },
		{ "CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", "!400" },
		{ "GET /a HTTP/2.0\r\nHost: h\r\n\r\n", "!505" },
		{ "GET /a HTTP/x\r\nHost: h\r\n\r\n", "!400" },
		{ "GET /a HTTX/1.1\r\nHost: h\r\n\r\n", "!400 malformed head" },
		{ "BREW /a HTTP/1.1\r\nHost: h\r\n\r\n", "!501 unknown method" },
		{ "BREW /a HTTP/1.0\r\n\r\n", "!501 unknown method" },
		{ "PROPFIND /a HTTP/1.1\r\nHost: h\r\n\r\n", "!501 unknown method" },
		{ "M-SEARCH * HTTP/1.1\r\nHost: h\r\n\r\n", "!501 unknown method" },
		{ "GETS /a HTTP/1.1\r\nHost: h\r\n\r\n", "!501 unknown method" },
		{ "BREW /a HTTP/x\r\nHost: h\r\n\r\n", "!400" },
		{ GET "Expect: magic\r\n\r\n", "!417" },
		{ POST "Content-Length: 33\r\n\r\n", "!413" },
	};

	(void)state;
	for (size_t i = 0; i < LEN(cases); i++) {
		char whole[512];
		struct transcript t;
		size_t n = (size_t)snprintf(whole, sizeof(whole), "%s" GET "\r\n", cases[i].bytes);

		t = transcribe(whole, n, n, 0);
		if (strncmp(t.text, cases[i].text, strlen(cases[i].text)) != 0)
			fail_msg("%s gives %s", cases[i].bytes, t.text);
		expect(whole, t.text);
		/* Cut anywhere it is either not whole yet or the same error. */
		for (size_t cut = 0; cut < n; cut++) {
			struct transcript part = transcribe(whole, cut, cut, 0);

			assert_true(part.len == 0 || strcmp(part.text, t.text) == 0);
		}
	}
}

static void what_cannot_begin_a_request_is_refused_at_once(void **state)
{
	(void)state;
	/* A greeting of TLS, which may hold no end of a line. */
	expect_bytes("\x16\x03\x01\x02\x00", 5, "!400 malformed head");
	expect_bytes("\x00", 1, "!400 malformed head");
	expect_bytes(" GET / HTTP/1.1", 15, "!400 malformed head");
}

static void a_host_in_the_target_counts_for_more_than_the_field(void **state)
{
	static const char bytes[] = "GET http://a:1/p HTTP/1.1\r\nHost: b\r\n\r\n";
	struct http_decoder *d = http_decoder_new();
	struct http_event e;
	size_t used;

	(void)state;
	http_decode(d, (struct span){ bytes, sizeof(bytes) - 1 }, &limits, &e, &used);
	assert_int_equal(e.kind, HTTP_EVENT_HEAD);
	assert_int_equal(e.request.host.len, 3);
	assert_memory_equal(e.request.host.data, "a:1", 3);
	http_decoder_free(d);
}

static void malformed_chunks_are_refused(void **state)
{
	static const char *const bodies[] = {
		"5\nhello\r\n0\r\n\r\n",        "5\r\nhello\n0\r\n\r\n",
		"5\r\nhelloX\r\n0\r\n\r\n",     "x\r\nhello\r\n0\r\n\r\n",
		"-5\r\nhello\r\n0\r\n",         "5;\nx\r\nhello\r\n0\r\n\r\n",
		"5\r\nhello\r\n0\r\n\n",        "5\r\nhello\r\n0\n\r\n",
		" 5\r\nhello\r\n0\r\n\r\n",     "0\r\nX: y\r\n z\r\n\r\n",
		"0\r\nX: y\nZ: z\r\n\r\n",      "5;a\rb\r\nhello\r\n0\r\n\r\n",
		"fffffffffffffffff\r\nhello",   "0\r\nX : y\r\n\r\n",
		"0\r\nX: y\r\nZ : z\r\n\r\n",   "5 \r\nhello\r\n0\r\n\r\n",
		"5\t\r\nhello\r\n0\r\n\r\n",    "5 ;a=b\r\nhello\r\n0\r\n\r\n",
		"5;\x01\r\nhello\r\n0\r\n\r\n", "0\r\nX: \x01\r\n\r\n",
		"5\r\nhelloXY0\r\n\r\n",        "5 5\r\nhello\r\n0\r\n\r\n",
		"5\r\nhello\r\n0 \r\n\r\n"
	};

	(void)state;
	for (size_t i = 0; i < LEN(bodies); i++) {
		char whole[512];
		struct transcript t;
		size_t n = (size_t)snprintf(whole, sizeof(whole),
					    POST "Transfer-Encoding: chunked\r\n\r\n%s" GET "\r\n",
					    bodies[i]);
		const char *end = "!400 malformed chunk";

		t = transcribe(whole, n, n, 0);
		if (t.len < strlen(end) || strcmp(t.text + t.len - strlen(end), end) != 0)
			fail_msg("%s gives %s", bodies[i], t.text);
		for (size_t split = 0; split <= n; split++) {
			t = transcribe(whole, n, split, 0);
			assert_string_equal(t.text + t.len - strlen(end), end);
		}
	}
}

static void limits_have_a_status_each(void **state)
{
	char bytes[2048];
	size_t n;

	(void)state;
	n = (size_t)snprintf(bytes, sizeof(bytes), GET "X: %0600d\r\n\r\n", 0);
	expect_bytes(bytes, n, "!431 request head too large");
	n = (size_t)snprintf(bytes, sizeof(bytes), "GET /%0100d HTTP/1.1\r\nHost: h\r\n\r\n", 0);
	expect_bytes(bytes, n, "!414 request target too long");
	/* A head without end is refused as soon as it is too large. */
	n = (size_t)snprintf(bytes, sizeof(bytes), GET "X: %0600d", 0);
	expect_bytes(bytes, n, "!431 request head too large");
	expect(POST "Transfer-Encoding: chunked\r\n\r\n21\r\n",
	       "[/a verb=4 keep chunked length=0]!413 message too large");
	expect(POST "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1f\r\n",
	       "[/a verb=4 keep chunked length=0]ab!413 message too large");
	n = (size_t)snprintf(bytes, sizeof(bytes),
			     POST "Transfer-Encoding: chunked\r\n\r\n1;%0600d\r\nx\r\n0\r\n\r\n",
			     0);
	expect_bytes(bytes, n, "[/a verb=4 keep chunked length=0]!400 malformed chunk");
}

static void a_body_keeps_the_limit_that_its_head_was_read_with(void **state)
{
	static const char head[] =
		POST "Transfer-Encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n";
	static const char fits[] = "10\r\n0123456789abcdef\r\n", over[] = "1\r\nx\r\n";
	struct feed f = { .decoder = http_decoder_new(), .limits = limits };

	(void)state;
	feed(&f, head, sizeof(head) - 1);
	f.limits.body_bytes = 2;
	feed(&f, fits, sizeof(fits) - 1);
	feed(&f, over, sizeof(over) - 1);
	assert_string_equal(f.t.text, "[/a verb=4 keep chunked length=0]0123456789abcdef"
				      "0123456789abcdef!413 message too large");
	free(f.kept);
	http_decoder_free(f.decoder);
}

static void a_token_is_of_letters_digits_and_some_signs(void **state)
{
	static const char tokens[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
				     "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

	(void)state;
	for (int c = 0; c < 256; c++) {
		const char one = (char)c;
		bool is = memchr(tokens, one, sizeof(tokens) - 1) != NULL;

		assert_int_equal(http_token((struct span){ &one, 1 }), is);
	}
}

static void percent_escapes_are_decoded_once(void **state)
{
	char out[64];

	(void)state;
	assert_int_equal(http_unescape(SPAN("a%2Fb%2f%25%32+"), false, out), 7);
	assert_memory_equal(out, "a/b/%2+", 7);
	assert_int_equal(http_unescape(SPAN("a+b"), true, out), 3);
	assert_memory_equal(out, "a b", 3);
	assert_int_equal(http_unescape(SPAN("%"), false, out), -1);
	assert_int_equal(http_unescape(SPAN("%4"), false, out), -1);
	assert_int_equal(http_unescape(SPAN("%4g"), false, out), -1);
	assert_int_equal(http_unescape(SPAN(""), false, out), 0);
}

static void query_values_are_found_by_their_whole_key(void **state)
{
	const struct span query = SPAN("last=3&last_event_id=x%3A1&flag&e=");

	(void)state;
	assert_true(span_equal(http_query(query, SPAN("last")), SPAN("3")));
	assert_true(span_equal(http_query(query, SPAN("last_event_id")), SPAN("x%3A1")));
	assert_non_null(http_query(query, SPAN("flag")).data);
	assert_non_null(http_query(query, SPAN("e")).data);
	assert_null(http_query(query, SPAN("las")).data);
	assert_null(http_query(query, SPAN("x")).data);
}

static void lists_in_several_lines_are_one(void **state)
{
	(void)state;
	expect(GET "Accept: text/html\r\nX: Accept: no\r\naccept:\ttext/event-stream \r\n"
		   "Accepts: no\r\nACCEPT: , a , ,\r\nAccept:\r\nAccept:b\r\n\r\n",
	       "[/a verb=1 keep length=0 accept=text/html,text/event-stream,a,b]");
	expect(GET "If-None-Match: \"a,b\", W/\"c\"\r\nIf-Match: *\r\nIf-None-Match: \"d\"\r\n\r\n",
	       "[/a verb=1 keep length=0 match=* none=\"a,b\",W/\"c\",\"d\"]");
	expect("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Encoding: "
	       "br\r\n\r\n" GET "\r\n",
	       "[/a verb=32 keep length=0 coding=gzip,br][/a verb=1 keep length=0]");
}

static void who_hands_requests_on_and_who_browses_is_noticed(void **state)
{
	static const char *const proxies[] = { "Forwarded: for=1.2.3.4", "x-forwarded-for: 1.2.3.4",
					       "X-Forwarded-Host: h",    "X-Real-IP: 1.2.3.4",
					       "via: 1.1 edge",          "Forwarded:" };
	static const char *const nobody[] = { "X-Forward: a", "Viable: b", "X-Sec-Fetch-Site: c" };
	char bytes[128];

	(void)state;
	for (size_t i = 0; i < LEN(proxies); i++) {
		snprintf(bytes, sizeof(bytes), GET "%s\r\n\r\n", proxies[i]);
		expect(bytes, "[/a verb=1 keep length=0 forwarded]");
	}
	for (size_t i = 0; i < LEN(nobody); i++) {
		snprintf(bytes, sizeof(bytes), GET "%s\r\n\r\n", nobody[i]);
		expect(bytes, "[/a verb=1 keep length=0]");
	}
	expect(GET "sec-fetch-mode: cors\r\n\r\n", "[/a verb=1 keep length=0 fetched]");
}

static enum http_choice says(const char *list, const char *choice)
{
	return http_list_says((struct http_list){ .value = span_of(list) }, span_of(choice));
}

static void a_weight_of_nothing_refuses_a_choice(void **state)
{
	static const struct {
		const char *list, *choice;
		enum http_choice says;
	} cases[] = {
		{ "text/html, Text/Event-Stream;q=0.9", "text/event-stream", HTTP_WANTED },
		{ "text/event-streams", "text/event-stream", HTTP_UNSAID },
		{ "", "gzip", HTTP_UNSAID },
		{ "gzip;q=0", "gzip", HTTP_REFUSED },
		{ "gzip ; Q=0.000 , br", "gzip", HTTP_REFUSED },
		{ "gzip;q=0.", "gzip", HTTP_REFUSED },
		{ "gzip;q=0.001", "gzip", HTTP_WANTED },
		{ "gzip;q=00", "gzip", HTTP_WANTED },
		{ "gzip;q=", "gzip", HTTP_WANTED },
		{ "gzip;q=0;q=1", "gzip", HTTP_WANTED },
		{ "br, gzip;x=\";q=0\"", "gzip", HTTP_WANTED },
		{ "gzip;q=0, gzip", "gzip", HTTP_WANTED },
		{ "a;x=\"gzip, gzip\", b", "gzip", HTTP_UNSAID },
		{ "*;q=0", "gzip", HTTP_UNSAID },
		{ "*;q=0", "*", HTTP_REFUSED },
	};

	(void)state;
	for (size_t i = 0; i < LEN(cases); i++)
		if (says(cases[i].list, cases[i].choice) != cases[i].says)
			fail_msg("%s says %d of %s", cases[i].list,
				 (int)says(cases[i].list, cases[i].choice), cases[i].choice);
	assert_true(http_list_refuses((struct http_list){ .value = SPAN("a, b;q=0") }));
	assert_false(http_list_refuses((struct http_list){ .value = SPAN("a, b;q=1") }));
}

static void addresses_and_localhost_are_hosts_that_nobody_made_up(void **state)
{
	static const char *const literal[] = {
		"127.0.0.1",   "10.0.0.1:8080", "[::1]",      "[fe80::1]:80",      "localhost",
		"LOCALHOST:1", "a.localhost",   "localhost.", "[::ffff:1.2.3.4]:1"
	};
	static const char *const name[] = { "",
					    ":80",
					    "evil.example",
					    "127.0.0.1.evil.example",
					    "1.2.3",
					    "[::1",
					    "::1",
					    "[]",
					    "evillocalhost",
					    "localhost.evil",
					    "[evil.example]",
					    "256.1.1.1",
					    "0x7f.1" };

	(void)state;
	for (size_t i = 0; i < LEN(literal); i++)
		if (!http_host_literal(span_of(literal[i])))
			fail_msg("%s is none", literal[i]);
	for (size_t i = 0; i < LEN(name); i++)
		if (http_host_literal(span_of(name[i])))
			fail_msg("%s is one", name[i]);
}

static void an_origin_is_the_hosts_own_with_scheme_and_port(void **state)
{
	static const struct {
		const char *origin, *host;
		bool same;
	} cases[] = {
		{ "http://127.0.0.1:8080", "127.0.0.1:8080", true },
		{ "http://[::1]:8080", "[::1]:8080", true },
		{ "https://Live.example", "live.EXAMPLE", true },
		{ "https://live.example", "live.example:443", true },
		{ "http://live.example:80", "live.example", true },
		{ "http://live.example", "live.example:443", false },
		{ "http://live.example", "live.example:8080", false },
		{ "http://live.example:8080", "live.example", false },
		{ "http://live.example.evil", "live.example", false },
		{ "null", "null", false },
		{ "ftp://a", "a", false },
		{ "http://", "", false },
		{ "", "", false },
	};

	(void)state;
	for (size_t i = 0; i < LEN(cases); i++)
		if (http_same_origin(span_of(cases[i].origin), span_of(cases[i].host)) !=
		    cases[i].same)
			fail_msg("%s and %s", cases[i].origin, cases[i].host);
}

static void ranges_are_cut_to_what_there_is(void **state)
{
	uint64_t first, n;

	(void)state;
	assert_int_equal(http_range(SPAN("bytes=0-0"), 10, &first, &n), HTTP_RANGE_PART);
	assert_true(first == 0 && n == 1);
	assert_int_equal(http_range(SPAN("bytes=2-"), 10, &first, &n), HTTP_RANGE_PART);
	assert_true(first == 2 && n == 8);
	assert_int_equal(http_range(SPAN("bytes=2-99"), 10, &first, &n), HTTP_RANGE_PART);
	assert_true(first == 2 && n == 8);
	assert_int_equal(http_range(SPAN("bytes=-3"), 10, &first, &n), HTTP_RANGE_PART);
	assert_true(first == 7 && n == 3);
	assert_int_equal(http_range(SPAN("bytes=-30"), 10, &first, &n), HTTP_RANGE_PART);
	assert_true(first == 0 && n == 10);
	assert_int_equal(http_range(SPAN("bytes=10-"), 10, &first, &n), HTTP_RANGE_UNSATISFIABLE);
	assert_int_equal(http_range(SPAN("bytes=-0"), 10, &first, &n), HTTP_RANGE_UNSATISFIABLE);
	assert_int_equal(http_range(SPAN("bytes=3-2"), 10, &first, &n), HTTP_RANGE_NONE);
	assert_int_equal(http_range(SPAN("bytes=1-2,4-5"), 10, &first, &n), HTTP_RANGE_NONE);
	assert_int_equal(http_range(SPAN("lines=1-2"), 10, &first, &n), HTTP_RANGE_NONE);
	assert_int_equal(http_range(SPAN("bytes=a-b"), 10, &first, &n), HTTP_RANGE_NONE);
	assert_int_equal(http_range(SPAN("bytes=-"), 10, &first, &n), HTTP_RANGE_NONE);
}

static void versions_without_a_part_are_after_all_its_parts(void **state)
{
	uint64_t v[2];

	(void)state;
	assert_true(http_version_parse(SPAN("7.2"), v) && v[0] == 7 && v[1] == 2);
	assert_true(http_version_parse(SPAN("7"), v) && v[0] == 7 && v[1] == UINT64_MAX);
	assert_false(http_version_parse(SPAN("7."), v));
	assert_false(http_version_parse(SPAN(".7"), v));
	assert_false(http_version_parse(SPAN(""), v));
	assert_false(http_version_parse(SPAN("-1"), v));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_are_understood_however_they_are_split),
		cmocka_unit_test(bodies_are_understood_however_they_are_split),
		cmocka_unit_test(pipelined_requests_come_one_by_one),
		cmocka_unit_test(
			malformed_requests_are_refused_and_what_is_behind_them_is_not_read),
		cmocka_unit_test(what_cannot_begin_a_request_is_refused_at_once),
		cmocka_unit_test(a_host_in_the_target_counts_for_more_than_the_field),
		cmocka_unit_test(malformed_chunks_are_refused),
		cmocka_unit_test(a_body_keeps_the_limit_that_its_head_was_read_with),
		cmocka_unit_test(limits_have_a_status_each),
		cmocka_unit_test(a_token_is_of_letters_digits_and_some_signs),
		cmocka_unit_test(percent_escapes_are_decoded_once),
		cmocka_unit_test(query_values_are_found_by_their_whole_key),
		cmocka_unit_test(lists_in_several_lines_are_one),
		cmocka_unit_test(who_hands_requests_on_and_who_browses_is_noticed),
		cmocka_unit_test(a_weight_of_nothing_refuses_a_choice),
		cmocka_unit_test(addresses_and_localhost_are_hosts_that_nobody_made_up),
		cmocka_unit_test(an_origin_is_the_hosts_own_with_scheme_and_port),
		cmocka_unit_test(ranges_are_cut_to_what_there_is),
		cmocka_unit_test(versions_without_a_part_are_after_all_its_parts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
