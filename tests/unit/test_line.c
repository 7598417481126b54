#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "protocol/line.h"
#include "random.h"

/*
 * The decoder twice: the one that the broker has, with the vector instructions of this machine, and
 * the portable one, which is the same file without them. Every test of decoding runs with both.
 */
extern const struct wire_format line_format_portable, line_topic_format_portable;
void line_decode_portable(struct line_decoder *decoder, struct span in,
			  const struct line_limits *limits, struct line_event *event, size_t *used);
bool line_message_id_portable(struct span id, uint64_t *epoch, uint64_t *seq);
int line_detect_portable(struct span first);

#undef __SSE2__
#undef __ARM_NEON
#define line_decode line_decode_portable
#define line_message_id line_message_id_portable
#define line_format line_format_portable
#define line_topic_format line_topic_format_portable
#define line_detect line_detect_portable
#include "../../src/protocol/line.c"
#undef line_decode
#undef line_message_id
#undef line_format
#undef line_topic_format
#undef line_detect

typedef void decode(struct line_decoder *, struct span, const struct line_limits *,
		    struct line_event *, size_t *);

static decode *const decoders[] = { line_decode, line_decode_portable };
#define DECODERS (sizeof(decoders) / sizeof(decoders[0]))

static const struct line_limits usual = { .command_bytes = 4096, .message_bytes = 1 << 20 };

/* ---- what came out, in a form that does not depend on how the input was cut ---- */

struct text {
	char *data;
	size_t len, room;
};

static void add(struct text *t, const char *data, size_t len)
{
	if (t->len + len + 1 > t->room) {
		t->room = 2 * t->room + len + 64;
		t->data = realloc(t->data, t->room);
		assert_non_null(t->data);
	}
	memcpy(t->data + t->len, data, len);
	t->len += len;
	t->data[t->len] = 0;
}

static void add_string(struct text *t, const char *s)
{
	add(t, s, strlen(s));
}

static void add_message(struct text *t, const char *line, size_t len)
{
	char head[32];

	snprintf(head, sizeof(head), "message %zu:", len);
	add_string(t, head);
	add(t, line, len);
	add_string(t, "\n");
}

struct session {
	decode *decode;
	const struct line_limits *limits;
	struct line_decoder decoder;
	struct text kept;  /* a command that is not whole */
	struct text begun; /* a message that is not whole */
	struct text out;
	bool over;
};

static void messages(struct session *s, const struct line_event *e)
{
	const char *p, *end;
	uint32_t n = 0;

	assert_true(e->bytes.len > 0);
	add(&s->begun, e->bytes.data, e->bytes.len);
	p = s->begun.data;
	end = p + s->begun.len;
	assert_int_equal(end[-1], '\n');
	for (; p < end; n++) {
		const char *lf = memchr(p, '\n', (size_t)(end - p));
		size_t len = (size_t)(lf - p);
		bool cr = len > 0 && lf[-1] == '\r';

		if (cr)
			len--;
		if (e->canonical) {
			assert_true(cr);
			assert_null(memchr(p, '\r', len));
		}
		if (!e->inner_cr)
			assert_null(memchr(p, '\r', len));
		assert_true(len <= s->limits->message_bytes);
		add_message(&s->out, p, len);
		p = lf + 1;
	}
	assert_int_equal(n, e->messages);
	s->begun.len = 0;
}

static void handle_event(struct session *s, const struct line_event *e)
{
	char text[64];

	switch (e->kind) {
	case LINE_PUBLISH:
		add_string(&s->out, "publish ");
		add(&s->out, e->topic.data, e->topic.len);
		add_string(&s->out, "\n");
		break;
	case LINE_SUBSCRIBE:
		add_string(&s->out, e->pattern ? "subscribe to all of " : "subscribe ");
		add(&s->out, e->topic.data, e->topic.len);
		if (e->replay == LINE_REPLAY_FROM)
			snprintf(text, sizeof(text), " from %016llx:%llu\n",
				 (unsigned long long)e->epoch, (unsigned long long)e->n);
		else if (e->replay == LINE_REPLAY_LAST)
			snprintf(text, sizeof(text), " last %llu\n", (unsigned long long)e->n);
		else
			snprintf(text, sizeof(text), "\n");
		add_string(&s->out, text);
		break;
	case LINE_MESSAGES:
		messages(s, e);
		break;
	case LINE_PART:
		add(&s->begun, e->bytes.data, e->bytes.len);
		break;
	case LINE_PING:
		add_string(&s->out, "ping\n");
		break;
	case LINE_AUTH:
		add_string(&s->out, "auth <");
		add(&s->out, e->user.data, e->user.len);
		add_string(&s->out, "> <");
		add(&s->out, e->secret.data, e->secret.len);
		add_string(&s->out, ">\n");
		break;
	case LINE_BYE:
		add_string(&s->out, "bye\n");
		s->begun.len = 0;
		s->over = true;
		break;
	case LINE_ERROR:
		add_string(&s->out, "error ");
		add_string(&s->out, e->error);
		add_string(&s->out, "\n");
		s->begun.len = 0;
		s->over = true;
		break;
	case LINE_MORE:
	default:
		fail();
	}
}

/* What a connection does with what it receives. Each piece lies at the end of an allocation of its
 * own, so that a sanitizer sees a byte too many being read. */
static void feed(struct session *s, const char *data, size_t len)
{
	size_t n = s->kept.len + len;
	char *piece = malloc(n + (n == 0));
	struct span in = { piece, n };

	assert_non_null(piece);
	if (s->kept.len > 0)
		memcpy(piece, s->kept.data, s->kept.len);
	memcpy(piece + s->kept.len, data, len);
	s->kept.len = 0;
	while (in.len > 0 && !s->over) {
		struct line_event e;
		size_t used = SIZE_MAX;

		s->decode(&s->decoder, in, s->limits, &e, &used);
		assert_true(used <= in.len);
		if (e.kind == LINE_MORE) {
			assert_int_equal(used, 0);
			add(&s->kept, in.data, in.len);
			break;
		}
		assert_true(used > 0);
		handle_event(s, &e);
		in = span_skip(in, used);
	}
	free(piece);
}

/* The end of the input: what is not whole shows too. */
static struct text finish(struct session *s)
{
	if (!s->over) {
		add_string(&s->out, "rest ");
		add(&s->out, s->kept.data != NULL ? s->kept.data : "", s->kept.len);
		add(&s->out, s->begun.data != NULL ? s->begun.data : "", s->begun.len);
	}
	free(s->kept.data);
	free(s->begun.data);
	return s->out;
}

static void expect(struct text *got, const char *want, size_t want_len, const char *how, size_t at)
{
	if (got->len != want_len || memcmp(got->data, want, want_len) != 0)
		fail_msg("%s %zu:\n%.2000s\nand not\n%.2000s", how, at, got->data, want);
	free(got->data);
}

/* Whole, split in two at every byte, and byte by byte: always the same events. */
static void check(const char *in, size_t len, const char *want, size_t want_len,
		  const struct line_limits *limits)
{
	for (size_t d = 0; d < DECODERS; d++) {
		const struct session fresh = { .decode = decoders[d], .limits = limits };
		struct session s = fresh;
		struct text out;

		for (size_t at = 0; at <= len; at++) {
			s = fresh;
			feed(&s, in, at);
			feed(&s, in + at, len - at);
			out = finish(&s);
			expect(&out, want, want_len, "split at", at);
		}
		s = fresh;
		for (size_t at = 0; at < len; at++)
			feed(&s, in + at, 1);
		out = finish(&s);
		expect(&out, want, want_len, "bytes:", len);
	}
}

#define CHECK(in, want) check(in, sizeof(in) - 1, want, sizeof(want) - 1, &usual)

/* ---- commands ---- */

static void commands_are_understood(void **state)
{
	(void)state;
	CHECK("PUBLISH a\r\n", "publish a\nrest ");
	CHECK("PUBLISH a.b\n", "publish a.b\nrest ");
	CHECK("SUBSCRIBE a\r\n", "subscribe a\nrest ");
	CHECK("SUBSCRIBE a\n", "subscribe a\nrest ");
	CHECK("SUBSCRIBE FROM LAST 3\r\n", "subscribe FROM last 3\nrest ");
	CHECK("SUBSCRIBE a LAST 0\r\n", "subscribe a last 0\nrest ");
	CHECK("SUBSCRIBE a LAST 18446744073709551615\r\n",
	      "subscribe a last 18446744073709551615\nrest ");
	CHECK("SUBSCRIBE a FROM 0123456789abcdef:42\r\n",
	      "subscribe a from 0123456789abcdef:42\nrest ");
	CHECK("SUBSCRIBE a FROM ffffffffffffffff:0\n",
	      "subscribe a from ffffffffffffffff:0\nrest ");
	CHECK("BYE\r\n", "bye\n");
	CHECK("BYE\n", "bye\n");
	CHECK("", "rest ");
	CHECK("PUBLISH a", "rest PUBLISH a");
}

static void a_credential_is_a_token_or_a_user_with_a_password(void **state)
{
	(void)state;
	CHECK("AUTH token\r\n", "auth <> <token>\nrest ");
	CHECK("AUTH user pass word \r\n", "auth <user> <pass word >\nrest ");
	CHECK("AUTH user  x\n", "auth <user> < x>\nrest ");
	CHECK("AUTH t\r\nAUTH u p\r\nPUBLISH a\r\n", "auth <> <t>\nauth <u> <p>\npublish a\nrest ");
	CHECK("AUTH\r\n", "error malformed command\n");
	CHECK("AUTH \r\n", "error malformed command\n");
	CHECK("AUTH user \r\n", "error malformed command\n");
	CHECK("AUTH  p\r\n", "error malformed command\n");
	CHECK("auth t\r\n", "error malformed command\n");
	CHECK("SUBSCRIBE a\r\nAUTH t\r\n", "subscribe a\nerror malformed command\n");
}

/* A token of others may be longer than a command may be. */
static void a_credential_may_be_longer_than_a_command(void **state)
{
	struct text want = { 0 };
	char line[LINE_AUTH_BYTES_MAX + 3];

	(void)state;
	memset(line, 'x', sizeof(line));
	memcpy(line, "AUTH ", 5);
	line[LINE_AUTH_BYTES_MAX] = '\n';
	add_string(&want, "auth <> <");
	add(&want, line + 5, LINE_AUTH_BYTES_MAX - 5);
	add_string(&want, ">\nrest ");
	check(line, LINE_AUTH_BYTES_MAX + 1, want.data, want.len, &usual);
	free(want.data);
	line[LINE_AUTH_BYTES_MAX] = 'x';
	line[LINE_AUTH_BYTES_MAX + 1] = '\n';
	check(line, LINE_AUTH_BYTES_MAX + 2, "error line too long\n", 20, &usual);
}

static void malformed_commands_are_refused(void **state)
{
	static const char *const lines[] = {
		"",
		" ",
		"x",
		"PUBLISH",
		"PUBLISH ",
		" PUBLISH a",
		"publish a",
		"PUBLISH  a",
		"PUBLISH a ",
		"PUBLISH a b",
		"PUBLISHER a",
		"SUBSCRIBE",
		"SUBSCRIBE ",
		"SUBSCRIBE a ",
		"SUBSCRIBE a b",
		"SUBSCRIBE a LAST",
		"SUBSCRIBE a LAST ",
		"SUBSCRIBE a LAST x",
		"SUBSCRIBE a LAST -1",
		"SUBSCRIBE a LAST +1",
		"SUBSCRIBE a LAST 1 ",
		"SUBSCRIBE a LAST  1",
		"SUBSCRIBE a LAST 1 2",
		"SUBSCRIBE a LAST 18446744073709551616",
		"SUBSCRIBE a LAST 99999999999999999999",
		"SUBSCRIBE a LAST 000000000000000000001",
		"SUBSCRIBE a FROM",
		"SUBSCRIBE a FROM 1",
		"SUBSCRIBE a FROM 0123456789abcdef",
		"SUBSCRIBE a FROM 0123456789abcdef:",
		"SUBSCRIBE a FROM 0123456789abcde:1",
		"SUBSCRIBE a FROM 0123456789ABCDEF:1",
		"SUBSCRIBE a FROM 0123456789abcdeg:1",
		"SUBSCRIBE a FROM 0123456789abcdef:1x",
		"SUBSCRIBE a FROM 0123456789abcdef:1 ",
		"SUBSCRIBE a FROM 0123456789abcdef:18446744073709551616",
		"SUBSCRIBE a from 0123456789abcdef:1",
		"BYE ",
		"bye",
		"BYE\r",
		"GET / HTTP/1.1",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		char line[128];
		int n = snprintf(line, sizeof(line), "%s\r\n", lines[i]);
		static const char want[] = "error " LINE_MALFORMED "\n";

		check(line, (size_t)n, want, sizeof(want) - 1, &usual);
	}
}

static void names_that_cannot_be_are_refused(void **state)
{
	(void)state;
	CHECK("PUBLISH a*\r\n", "error " LINE_BAD_TOPIC "\n");
	CHECK("PUBLISH *\r\n", "error " LINE_BAD_TOPIC "\n");
	CHECK("PUBLISH a..b\r\n", "error " LINE_BAD_TOPIC "\n");
	CHECK("PUBLISH \xff\r\n", "error " LINE_BAD_TOPIC "\n");
	CHECK("PUBLISH a\tb\r\n", "error " LINE_BAD_TOPIC "\n");
	CHECK("PUBLISH a\rb\r\n", "error " LINE_BAD_TOPIC "\n");
	CHECK("SUBSCRIBE a*\r\n", "error " LINE_BAD_TOPIC "\n");
	CHECK("SUBSCRIBE a.>.b\r\n", "error " LINE_BAD_TOPIC "\n");
	CHECK("SUBSCRIBE a\x7f\r\n", "error " LINE_BAD_TOPIC "\n");
	CHECK("SUBSCRIBE a. LAST 3\r\n", "error " LINE_BAD_TOPIC "\n");
}

static void a_pattern_is_subscribed_to_with_the_last_of_each_topic_or_nothing(void **state)
{
	(void)state;
	CHECK("SUBSCRIBE >\r\n", "subscribe to all of >\nrest ");
	CHECK("SUBSCRIBE a.*.b\r\n", "subscribe to all of a.*.b\nrest ");
	CHECK("SUBSCRIBE a.> LAST 1\r\n", "subscribe to all of a.> last 1\nrest ");
	CHECK("SUBSCRIBE a.> LAST 2\r\n", "error " LINE_MALFORMED "\n");
	CHECK("SUBSCRIBE a.> LAST 0\r\n", "error " LINE_MALFORMED "\n");
	CHECK("SUBSCRIBE a.> FROM 0123456789abcdef:42\r\n", "error " LINE_MALFORMED "\n");
	CHECK("SUBSCRIBE a.> more\r\n", "error " LINE_MALFORMED "\n");
}

static void subscriber_may_only_ask_for_a_word_or_say_goodbye(void **state)
{
	(void)state;
	CHECK("SUBSCRIBE a\r\nBYE\r\n", "subscribe a\nbye\n");
	CHECK("SUBSCRIBE a\nBYE\nwhat comes after does not matter", "subscribe a\nbye\n");
	CHECK("SUBSCRIBE a\r\nhello\r\n", "subscribe a\nerror " LINE_MALFORMED "\n");
	CHECK("SUBSCRIBE a\r\n\r\n", "subscribe a\nerror " LINE_MALFORMED "\n");
	CHECK("SUBSCRIBE a\r\nPUBLISH a\r\n", "subscribe a\nerror " LINE_MALFORMED "\n");
	CHECK("SUBSCRIBE a\r\nBY", "subscribe a\nrest BY");
	CHECK("SUBSCRIBE a\r\nPING\r\nPING\nBYE\r\n", "subscribe a\nping\nping\nbye\n");
	CHECK("SUBSCRIBE a\r\nPING 1\r\n", "subscribe a\nerror " LINE_MALFORMED "\n");
	CHECK("PING\r\n", "error " LINE_MALFORMED "\n");
	CHECK("PUBLISH a\r\nPING\r\n", "publish a\nmessage 4:PING\nrest ");
}

static void command_may_be_as_long_as_the_limit_and_no_longer(void **state)
{
	const struct line_limits limits = { .command_bytes = 20, .message_bytes = 100 };
	static const char *const ends[] = { "\n", "\r\n" };
	static const char long_error[] = "error " LINE_TOO_LONG "\n";

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		for (size_t topic = 10; topic <= 14; topic++) {
			char in[64], want[64];
			int n = snprintf(in, sizeof(in), "PUBLISH %.*s%s", (int)topic,
					 "aaaaaaaaaaaaaaaaaaaa", ends[i]);
			int w = snprintf(want, sizeof(want), "publish %.*s\nrest ", (int)topic,
					 "aaaaaaaaaaaaaaaaaaaa");

			if (8 + topic <= limits.command_bytes)
				check(in, (size_t)n, want, (size_t)w, &limits);
			else
				check(in, (size_t)n, long_error, sizeof(long_error) - 1, &limits);
		}
	}
	/* Without an end, too. */
	check("aaaaaaaaaaaaaaaaaaaaa", 21, long_error, sizeof(long_error) - 1, &limits);
	check("aaaaaaaaaaaaaaaaaaaa", 20, "rest aaaaaaaaaaaaaaaaaaaa", 25, &limits);
	check("aaaaaaaaaaaaaaaaaaaa\r", 21, "rest aaaaaaaaaaaaaaaaaaaa\r", 26, &limits);
	check("aaaaaaaaaaaaaaaaaaaa\rb", 22, long_error, sizeof(long_error) - 1, &limits);
}

/* ---- messages ---- */

static void every_line_is_a_message(void **state)
{
	(void)state;
	CHECK("PUBLISH a\r\none\r\ntwo\r\n", "publish a\nmessage 3:one\nmessage 3:two\nrest ");
	CHECK("PUBLISH a\none\ntwo\n", "publish a\nmessage 3:one\nmessage 3:two\nrest ");
	CHECK("PUBLISH a\r\n\r\n\n\r\n", "publish a\nmessage 0:\nmessage 0:\nmessage 0:\nrest ");
	CHECK("PUBLISH a\r\nPUBLISH b\r\nSUBSCRIBE c\r\n",
	      "publish a\nmessage 9:PUBLISH b\nmessage 11:SUBSCRIBE c\nrest ");
	CHECK("PUBLISH a\r\none\r\ntw", "publish a\nmessage 3:one\nrest tw");
	CHECK("PUBLISH a\r\n\0\xff\r\n", "publish a\nmessage 2:\0\xff\nrest ");
}

static void carriage_returns_within_a_message_are_kept(void **state)
{
	(void)state;
	CHECK("PUBLISH a\r\no\rne\r\n\r\r\n\rx\n",
	      "publish a\nmessage 4:o\rne\nmessage 1:\r\nmessage 2:\rx\nrest ");
	CHECK("PUBLISH a\r\nend\r\r\r\n", "publish a\nmessage 5:end\r\r\nrest ");
	CHECK("PUBLISH a\r\nend\r", "publish a\nrest end\r");
}

static void goodbye_stands_alone(void **state)
{
	(void)state;
	CHECK("PUBLISH a\r\nBYE\r\n", "publish a\nbye\n");
	CHECK("PUBLISH a\nBYE\n", "publish a\nbye\n");
	CHECK("PUBLISH a\r\none\r\nBYE\r\ntwo\r\n", "publish a\nmessage 3:one\nbye\n");
	CHECK("PUBLISH a\r\none\r\nBYE\ntwo\r\nBYE\r\n", "publish a\nmessage 3:one\nbye\n");
	CHECK("PUBLISH a\r\n\nBYE\r\n", "publish a\nmessage 0:\nbye\n");
	CHECK("PUBLISH a\r\nBYE\r\r\n", "publish a\nmessage 4:BYE\r\nrest ");
	CHECK("PUBLISH a\r\nBYE \r\n", "publish a\nmessage 4:BYE \nrest ");
	CHECK("PUBLISH a\r\n BYE\r\n", "publish a\nmessage 4: BYE\nrest ");
	CHECK("PUBLISH a\r\nBYEBYE\r\n", "publish a\nmessage 6:BYEBYE\nrest ");
	CHECK("PUBLISH a\r\nxBYE\r\n", "publish a\nmessage 4:xBYE\nrest ");
	CHECK("PUBLISH a\r\nbye\r\n", "publish a\nmessage 3:bye\nrest ");
	CHECK("PUBLISH a\r\n\rBYE\r\n", "publish a\nmessage 4:\rBYE\nrest ");
	CHECK("PUBLISH a\r\nBYE", "publish a\nrest BYE");
	CHECK("PUBLISH a\r\nBYE\r", "publish a\nrest BYE\r");
}

/* Wherever the goodbye lies in the words that are looked at as one. */
static void goodbye_is_found_at_every_offset(void **state)
{
	char in[256], want[256];

	(void)state;
	for (size_t before = 0; before < 140; before++) {
		size_t n = 0, w = 0;

		n += (size_t)sprintf(in, "PUBLISH a\r\n%.*s\r\nBYE\r\nnot this\r\n", (int)before,
				     "........................................................."
				     "........................................................."
				     ".........................................................");
		w += (size_t)sprintf(want, "publish a\nmessage %zu:%.*s\nbye\n", before,
				     (int)before, in + 11);
		for (size_t d = 0; d < DECODERS; d++) {
			struct session s = { .decode = decoders[d], .limits = &usual };
			struct text out;

			feed(&s, in, n);
			out = finish(&s);
			expect(&out, want, w, "after", before);
		}
	}
}

static void message_may_be_as_long_as_the_limit_and_no_longer(void **state)
{
	const struct line_limits limits = { .command_bytes = 100, .message_bytes = 70 };
	static const char *const ends[] = { "\n", "\r\n" }, *const befores[] = { "", "one\r\n" };
	char body[80];

	(void)state;
	memset(body, 'm', sizeof(body));
	for (size_t i = 0; i < 4; i++) {
		for (size_t len = 68; len <= 72; len++) {
			const char *one = i & 2 ? "message 3:one\n" : "";
			char in[256], want[256];
			int n = snprintf(in, sizeof(in), "PUBLISH a\n%s%.*s%s", befores[i / 2],
					 (int)len, body, ends[i & 1]);
			int w = len <= limits.message_bytes
					? snprintf(want, sizeof(want),
						   "publish a\n%smessage %zu:%.*s\nrest ", one, len,
						   (int)len, body)
					: snprintf(want, sizeof(want),
						   "publish a\n%serror " LINE_TOO_LONG "\n", one);

			check(in, (size_t)n, want, (size_t)w, &limits);
		}
	}
	/* A CR that turns out to belong to the message counts. */
	memcpy(body + 70, "\rx\n", 3);
	{
		char in[128];
		int n = snprintf(in, sizeof(in), "PUBLISH a\n%.*s", 73, body);
		static const char want[] = "publish a\nerror " LINE_TOO_LONG "\n";

		check(in, (size_t)n, want, sizeof(want) - 1, &limits);
	}
}

static void long_message_comes_in_parts(void **state)
{
	const struct line_limits limits = { .command_bytes = 100, .message_bytes = 300000 };
	char *body = malloc(300002);

	(void)state;
	assert_non_null(body);
	memset(body, 'm', 300000);
	memcpy(body + 300000, "\r\n", 2);
	for (size_t d = 0; d < DECODERS; d++) {
		struct session s = { .decode = decoders[d], .limits = &limits };
		struct text out;

		feed(&s, "PUBLISH a\r\n", 11);
		for (size_t at = 0; at < 300002; at += 4096)
			feed(&s, body + at, 300002 - at < 4096 ? 300002 - at : 4096);
		out = finish(&s);
		assert_int_equal(out.len, strlen("publish a\nmessage 300000:\nrest ") + 300000);
		free(out.data);
	}
	free(body);
}

/* ---- against a decoder that is slow and simple ---- */

static struct text reference(const char *in, size_t len, const struct line_limits *limits)
{
	struct text out = { 0 };
	size_t at = 0, content;

	add_string(&out, "publish a\n");
	while (at < len) {
		size_t end = at;

		while (end < len && in[end] != '\n')
			end++;
		content = end - at;
		if (content > 0 && in[end - 1] == '\r')
			content--;
		if (content > limits->message_bytes) {
			add_string(&out, "error " LINE_TOO_LONG "\n");
			return out;
		}
		if (end == len)
			break;
		if (content == 3 && memcmp(in + at, "BYE", 3) == 0) {
			add_string(&out, "bye\n");
			return out;
		}
		add_message(&out, in + at, content);
		at = end + 1;
	}
	add_string(&out, "rest ");
	add(&out, in + at, len - at);
	return out;
}

static size_t random_input(char *in, size_t max)
{
	static const char *const pieces[] = { "\r",      "\n",      "\r\n",    "BYE",
					      "BYE\r\n", "\nBYE\n", "BY",      "E",
					      "x",       "ab",      "abc\r\n", "abcd\n",
					      "\r\r",    "\n\n",    "",        "0123456789abcdef" };
	size_t len = 0, want = below(max - 32);
	bool wild = below(4) == 0, long_lines = below(3) == 0;

	while (len < want) {
		const char *p = pieces[below(sizeof(pieces) / sizeof(pieces[0]))];
		size_t n = strlen(p);

		/* A goodbye ends everything, so it must not come too soon. */
		if (!wild && strchr(p, 'B') != NULL && below(12) != 0)
			continue;
		if (long_lines && strchr(p, '\n') != NULL && below(4) != 0)
			continue;
		memcpy(in + len, p, n);
		len += n;
	}
	return len;
}

static void events_are_those_of_a_slow_decoder(void **state)
{
	enum { INPUT_MAX = 600 };
	char in[INPUT_MAX];

	(void)state;
	for (unsigned round = 0; round < 40000; round++) {
		size_t len = random_input(in, INPUT_MAX);
		const struct line_limits limits = { .command_bytes = 64,
						    .message_bytes = below(3) == 0 ? 3 + below(60)
										   : 1 << 20 };
		struct text want = reference(in, len, &limits);

		for (size_t d = 0; d < DECODERS; d++) {
			struct session s = { .decode = decoders[d], .limits = &limits };
			struct text out;
			size_t cut = 1 + below(len + 1);

			feed(&s, "PUBLISH a\n", 10);
			for (size_t at = 0; at < len && !s.over;) {
				size_t n = below(8) == 0 ? 1 + below(5) : 1 + below(cut);

				if (n > len - at)
					n = len - at;
				feed(&s, in + at, n);
				at += n;
			}
			out = finish(&s);
			expect(&out, want.data, want.len, "random input", round);
		}
		free(want.data);
	}
}

static void canonical_is_said_whenever_it_is_so(void **state)
{
	struct line_decoder d = { .mode = LINE_PUBLISHING };
	struct line_event e;
	size_t used;

	(void)state;
	for (size_t i = 0; i < DECODERS; i++) {
		decoders[i](&d, SPAN("one\r\n\r\ntwo\r\nthr"), &usual, &e, &used);
		assert_int_equal(e.kind, LINE_MESSAGES);
		assert_true(e.canonical);
		decoders[i](&d, SPAN("thr"), &usual, &e, &used);
		assert_int_equal(e.kind, LINE_PART);
		decoders[i](&d, SPAN("ee\r"), &usual, &e, &used);
		assert_int_equal(e.kind, LINE_PART);
		decoders[i](&d, SPAN("\n"), &usual, &e, &used);
		assert_int_equal(e.kind, LINE_MESSAGES);
		assert_true(e.canonical);
		decoders[i](&d, SPAN("four\n"), &usual, &e, &used);
		assert_false(e.canonical);
		assert_false(e.inner_cr);
		decoders[i](&d, SPAN("five\r"), &usual, &e, &used);
		decoders[i](&d, SPAN("x"), &usual, &e, &used);
		decoders[i](&d, SPAN("\r\n"), &usual, &e, &used);
		assert_int_equal(e.kind, LINE_MESSAGES);
		assert_false(e.canonical);
		assert_true(e.inner_cr);
		decoders[i](&d, SPAN("six\r\n"), &usual, &e, &used);
		assert_true(e.canonical);
	}
}

/* ---- detection and identities ---- */

static void first_bytes_tell_the_protocol(void **state)
{
	static const char *const words[] = { "PUBLISH ", "SUBSCRIBE ", "BYE" };

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		size_t len = strlen(words[i]);

		for (size_t n = 0; n < len; n++)
			assert_int_equal(line_detect((struct span){ words[i], n }), 0);
		assert_int_equal(line_detect((struct span){ words[i], len }), 1);
	}
	assert_int_equal(line_detect(SPAN("PUBLISH a")), 1);
	assert_int_equal(line_detect((struct span){ NULL, 0 }), 0);
	assert_int_equal(line_detect(SPAN("GET / HTTP/1.1")), -1);
	assert_int_equal(line_detect(SPAN("PUT")), -1);
	assert_int_equal(line_detect(SPAN("P")), 0);
	assert_int_equal(line_detect(SPAN("POST")), -1);
	assert_int_equal(line_detect(SPAN("\r\n")), -1);
	assert_int_equal(line_detect(SPAN("publish a")), -1);
}

static void identity_is_epoch_and_number(void **state)
{
	uint64_t epoch = 0, seq = 0;

	(void)state;
	assert_true(line_message_id(SPAN("00000000000000ff:18446744073709551615"), &epoch, &seq));
	assert_int_equal(epoch, 255);
	assert_true(seq == UINT64_MAX);
	assert_true(line_message_id(SPAN("00000000000000ff:0"), &epoch, &seq));
	assert_false(line_message_id(SPAN("00000000000000ff:01"), &epoch, &seq));
	assert_false(line_message_id(SPAN("00000000000000ff:00"), &epoch, &seq));
	assert_false(line_message_id(SPAN("00000000000000ff-1"), &epoch, &seq));
	assert_false(line_message_id(SPAN("00000000000000ff:"), &epoch, &seq));
	assert_false(line_message_id((struct span){ NULL, 0 }, &epoch, &seq));
}

/* ---- runs to bytes ---- */

static void what_holds_an_end_of_line_has_no_form(void **state)
{
	struct run run = { .messages = 1, .body = SPAN("plain") };

	(void)state;
	assert_true(line_format.encodable(NULL, &run));
	run.body = SPAN("a\rb");
	assert_false(line_format.encodable(NULL, &run));
	run.body = SPAN("a\n");
	assert_false(line_format.encodable(NULL, &run));
	run.body = SPAN("");
	assert_true(line_format.encodable(NULL, &run));
	run = (struct run){ .messages = 2, .form = RUN_LINES, .body = SPAN("a\r\nb\r\n") };
	assert_true(line_format.encodable(NULL, &run));
}

static void runs_are_encoded_as_lines(void **state)
{
	struct run lines = { .messages = 2, .form = RUN_LINES, .body = SPAN("a\r\nb\r\n") };
	struct run single = { .messages = 1, .body = SPAN("one") };
	char out[16], prefix[WIRE_AROUND_MAX], suffix[WIRE_AROUND_MAX];
	size_t prefix_len, suffix_len, n;
	struct span body;

	(void)state;
	n = line_format.encode(NULL, &lines, out);
	assert_int_equal(n, 6);
	assert_true(n <= line_format.encoded_max(NULL, &lines));
	assert_memory_equal(out, "a\r\nb\r\n", 6);
	n = line_format.encode(NULL, &single, out);
	assert_int_equal(n, 5);
	assert_true(n <= line_format.encoded_max(NULL, &single));
	assert_memory_equal(out, "one\r\n", 5);

	line_format.enclose(NULL, &single, prefix, &prefix_len, &body, suffix, &suffix_len);
	assert_int_equal(prefix_len, 0);
	assert_true(span_equal(body, single.body));
	assert_true(span_equal((struct span){ suffix, suffix_len }, SPAN("\r\n")));
	lines = (struct run){ .messages = 1, .form = RUN_LINES, .body = SPAN("a\r\n") };
	line_format.enclose(NULL, &lines, prefix, &prefix_len, &body, suffix, &suffix_len);
	assert_int_equal(prefix_len + suffix_len, 0);
	assert_true(span_equal(body, lines.body));
}

static void of_records_those_that_are_lines_are_encoded(void **state)
{
	static const struct span messages[] = { { "a\rb", 3 }, { "one", 3 },  { "\r", 1 },
						{ "", 0 },     { "x\ny", 3 }, { "two", 3 } };
	char records[6 * RECORD_HEAD_BYTES + 13], *at = records, out[64];
	struct run run = { .messages = 6, .form = RUN_RECORDS };
	size_t n;

	(void)state;
	for (size_t i = 0; i < 6; i++)
		at = record_put(at, messages[i]);
	run.body = (struct span){ records, (size_t)(at - records) };
	assert_int_equal(line_format.encodable(NULL, &run), 3);
	n = line_format.encode(NULL, &run, out);
	assert_true(n <= line_format.encoded_max(NULL, &run));
	assert_true(span_equal((struct span){ out, n }, SPAN("one\r\n\r\ntwo\r\n")));
}

static void each_message_comes_behind_its_topic(void **state)
{
	char records[3 * RECORD_HEAD_BYTES + 9], *at = records, out[64];
	struct run run = {
		.topic = SPAN("a.b"), .messages = 2, .form = RUN_LINES, .body = SPAN("one\r\n\r\n")
	};
	char prefix[WIRE_AROUND_MAX], suffix[WIRE_AROUND_MAX];
	size_t prefix_len, suffix_len, n;
	struct span body;

	(void)state;
	assert_int_equal(line_topic_format.encodable(NULL, &run), 2);
	n = line_topic_format.encode(NULL, &run, out);
	assert_true(n <= line_topic_format.encoded_max(NULL, &run));
	assert_true(span_equal((struct span){ out, n }, SPAN("a.b one\r\na.b \r\n")));
	at = record_put(record_put(record_put(at, SPAN("one")), SPAN("x\ny")), SPAN("two"));
	run.form = RUN_RECORDS;
	run.messages = 3;
	run.body = (struct span){ records, (size_t)(at - records) };
	assert_int_equal(line_topic_format.encodable(NULL, &run), 2);
	n = line_topic_format.encode(NULL, &run, out);
	assert_true(n <= line_topic_format.encoded_max(NULL, &run));
	assert_true(span_equal((struct span){ out, n }, SPAN("a.b one\r\na.b two\r\n")));
	run = (struct run){ .topic = SPAN("a.b"), .messages = 1, .body = SPAN("one") };
	n = line_topic_format.encode(NULL, &run, out);
	assert_true(n <= line_topic_format.encoded_max(NULL, &run));
	assert_true(span_equal((struct span){ out, n }, SPAN("a.b one\r\n")));
	line_topic_format.enclose(NULL, &run, prefix, &prefix_len, &body, suffix, &suffix_len);
	assert_true(span_equal((struct span){ prefix, prefix_len }, SPAN("a.b ")));
	assert_true(span_equal(body, run.body));
	assert_true(span_equal((struct span){ suffix, suffix_len }, SPAN("\r\n")));
	/* It could not be told from its message. */
	run.topic = SPAN("a. b");
	assert_int_equal(line_topic_format.encodable(NULL, &run), 0);
}

static void boundary_is_the_end_of_the_message(void **state)
{
	const struct span encoded = SPAN("ab\r\n\r\nc\r\n");
	static const size_t want[] = { 0, 4, 4, 4, 4, 6, 6, 9, 9, 9 };

	(void)state;
	for (size_t i = 0; i <= encoded.len; i++)
		assert_int_equal(line_format.boundary(encoded, i), want[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(commands_are_understood),
		cmocka_unit_test(a_credential_is_a_token_or_a_user_with_a_password),
		cmocka_unit_test(a_credential_may_be_longer_than_a_command),
		cmocka_unit_test(malformed_commands_are_refused),
		cmocka_unit_test(names_that_cannot_be_are_refused),
		cmocka_unit_test(a_pattern_is_subscribed_to_with_the_last_of_each_topic_or_nothing),
		cmocka_unit_test(subscriber_may_only_ask_for_a_word_or_say_goodbye),
		cmocka_unit_test(command_may_be_as_long_as_the_limit_and_no_longer),
		cmocka_unit_test(every_line_is_a_message),
		cmocka_unit_test(carriage_returns_within_a_message_are_kept),
		cmocka_unit_test(goodbye_stands_alone),
		cmocka_unit_test(goodbye_is_found_at_every_offset),
		cmocka_unit_test(message_may_be_as_long_as_the_limit_and_no_longer),
		cmocka_unit_test(long_message_comes_in_parts),
		cmocka_unit_test(events_are_those_of_a_slow_decoder),
		cmocka_unit_test(canonical_is_said_whenever_it_is_so),
		cmocka_unit_test(first_bytes_tell_the_protocol),
		cmocka_unit_test(identity_is_epoch_and_number),
		cmocka_unit_test(what_holds_an_end_of_line_has_no_form),
		cmocka_unit_test(runs_are_encoded_as_lines),
		cmocka_unit_test(of_records_those_that_are_lines_are_encoded),
		cmocka_unit_test(each_message_comes_behind_its_topic),
		cmocka_unit_test(boundary_is_the_end_of_the_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
