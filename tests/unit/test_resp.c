#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/resp.h"

static const struct resp_limits usual = { .word_bytes = 1 << 20 };

/* ---- what came out, in a form that does not depend on how the input was cut ---- */

struct text {
	char *data;
	size_t len, room;
};

static void add(struct text *t, struct span s)
{
	if (t->len + s.len + 1 > t->room) {
		t->room = 2 * t->room + s.len + 64;
		t->data = realloc(t->data, t->room);
		assert_non_null(t->data);
	}
	if (s.len > 0)
		memcpy(t->data + t->len, s.data, s.len);
	t->len += s.len;
	t->data[t->len] = 0;
}

/* In memory of just its size, so that a sanitizer sees a byte too many being read. */
static struct span own(struct span s)
{
	char *copy = malloc(s.len + (s.len == 0));

	assert_non_null(copy);
	if (s.len > 0)
		memcpy(copy, s.data, s.len);
	return (struct span){ copy, s.len };
}

static void release(struct span s)
{
	free((void *)(uintptr_t)s.data);
}

/* "<word>|<word>|\n" */
static void add_words(struct text *out, struct span rest, uint32_t words)
{
	for (; words > 0; words--) {
		add(out, resp_next(&rest));
		add(out, SPAN("|"));
	}
	assert_int_equal(rest.len, 0);
	add(out, SPAN("\n"));
}

static bool add_line(struct text *out, struct span line)
{
	char *array = malloc(resp_array_of_line_max(line));
	size_t len;
	int words;

	assert_non_null(array);
	words = resp_array_of_line(line, array, &len);
	if (words >= 0) {
		struct span exact = own((struct span){ array, len });

		add_words(out, exact, (uint32_t)words);
		release(exact);
	}
	free(array);
	return words >= 0;
}

static void add_error(struct text *out, const struct resp_event *e)
{
	char error[RESP_ERROR_BYTES_MAX];

	add(out, (struct span){ error, resp_put_error(error, e) });
}

/* Handed over in pieces of `step` bytes, 0: at once. */
static struct text decoded(struct span in, const struct resp_limits *limits, size_t step)
{
	struct resp_decoder d = { .words = 0 };
	struct text out = { 0 };
	size_t there = 0;
	bool over = false;

	add(&out, SPAN(""));
	while (!over && there < in.len) {
		there = step == 0 || in.len - there < step ? in.len : there + step;
		for (;;) {
			struct span bytes = own((struct span){ in.data, there });
			struct resp_event e;
			size_t used;

			resp_decode(&d, bytes, limits, &e, &used);
			assert_true(used <= there);
			if (e.kind == RESP_COMMAND)
				add_words(&out, e.rest, e.words);
			if (e.kind == RESP_ERROR)
				add_error(&out, &e);
			over = e.kind == RESP_ERROR;
			if (e.kind == RESP_LINE && !add_line(&out, e.rest)) {
				e.error = RESP_QUOTES;
				add_error(&out, &e);
				over = true;
			}
			release(bytes);
			in = span_skip(in, used);
			there -= used;
			if (over || e.kind == RESP_MORE)
				break;
		}
	}
	return out;
}

static void expect_limited(struct span in, const struct resp_limits *limits, const char *wanted)
{
	for (size_t step = 0; step < 20 && step <= in.len; step++) {
		struct text out = decoded(in, limits, step);

		assert_string_equal(out.data, wanted);
		free(out.data);
	}
}

static void expect(struct span in, const char *wanted)
{
	expect_limited(in, &usual, wanted);
}

#define PROTOCOL_ERROR(text) "-ERR Protocol error: " text "\r\n"

/* ---- commands ---- */

static void an_array_of_bulk_strings_is_a_command(void **state)
{
	(void)state;
	expect(SPAN("*1\r\n$4\r\nPING\r\n"), "PING|\n");
	expect(SPAN("*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$0\r\n\r\n*2\r\n$4\r\nECHO\r\n$"
		    "2\r\n\r\n\r\n"),
	       "PUBLISH|a||\nECHO|\r\n|\n");
	expect(SPAN("*2\r\n$1\r\na\r\n$1\r\nb\r"), "");
}

static void a_line_is_a_command_too(void **state)
{
	(void)state;
	expect(SPAN("PING\r\nPING x\n"), "PING|\nPING|x|\n");
	expect(SPAN("  PUBLISH\ta  \"b c\"\r\n"), "PUBLISH|a|b c|\n");
	expect(SPAN("a \"\\x41\\n\\r\\t\\q\\\\\\\"\" 'b\\'c\\n' d\"e\"\r\n"),
	       "a|A\n\r\tq\\\"|b'c\\n|de|\n");
	expect(SPAN("\"\" ''\r\n"), "||\n");
	expect(SPAN("*1\r\n$1\r\na\r\nb\r\n*1\r\n$1\r\nc\r\n"), "a|\nb|\nc|\n");
}

static void empty_commands_are_nothing(void **state)
{
	(void)state;
	expect(SPAN("\r\n\n  \r\n*0\r\n*-1\r\n*-77\r\nPING\r\n"), "PING|\n");
}

static void a_line_of_another_protocol_is_the_end(void **state)
{
	static const char *const lines[] = {
		"POST / HTTP/1.1\r\na\r\n", "PUT /x HTTP/1.0\r\na\r\n", "post x\r\na\r\n",
		"hOST: x\r\na\r\n",         "\x16\x03\x01\r\na\r\n",    "ECHO \"\x01\"\r\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++)
		expect(span_of(lines[i]), PROTOCOL_ERROR("not a command"));
	expect(SPAN("ECHO HTTP/1.\r\n"), "ECHO|HTTP/1.|\n");
}

static void quotes_must_be_balanced(void **state)
{
	static const char wanted[] = PROTOCOL_ERROR("unbalanced quotes in request");

	(void)state;
	expect(SPAN("a\r\na \"b\r\nc\r\n"), "a|\n" PROTOCOL_ERROR("unbalanced quotes in request"));
	expect(SPAN("a 'b\r\n"), wanted);
	expect(SPAN("a \"b\"c\r\n"), wanted);
	expect(SPAN("a \"b\\\"\r\n"), wanted);
}

static void a_length_is_digits_without_leading_zeros(void **state)
{
	static const char bad_words[] = PROTOCOL_ERROR("invalid multibulk length");
	static const char bad_word[] = PROTOCOL_ERROR("invalid bulk length");

	(void)state;
	expect(SPAN("*\r\n"), bad_words);
	expect(SPAN("*01\r\n"), bad_words);
	expect(SPAN("*+1\r\n"), bad_words);
	expect(SPAN("* 1\r\n"), bad_words);
	expect(SPAN("*1x\r\n"), bad_words);
	expect(SPAN("*-0\r\n"), bad_words);
	expect(SPAN("*1\rx"), bad_words);
	expect(SPAN("*1000000000000000000000\r\n"), bad_words);
	expect(SPAN("*65537\r\n"), bad_words);
	expect(SPAN("*1\r\n$\r\n"), bad_word);
	expect(SPAN("*1\r\n$04\r\nPING\r\n"), bad_word);
	expect(SPAN("*1\r\n$-1\r\n"), bad_word);
	expect(SPAN("*1\r\n$1048577\r\n"), bad_word);
	expect(SPAN("*1\r\n$4\r\nPINGxx"), bad_word);
	expect(SPAN("*1\r\n$3\r\nPING\r\n"), bad_word);
}

static void what_is_no_bulk_string_is_named(void **state)
{
	(void)state;
	expect(SPAN("*1\r\n:1\r\n"), PROTOCOL_ERROR("expected '$', got ':'"));
	expect(SPAN("*1\r\n\r\n"), PROTOCOL_ERROR("expected '$', got ' '"));
	expect(SPAN("*1\r\n$1\r\na\r\n*1\r\n*1\r\n"),
	       "a|\n" PROTOCOL_ERROR("expected '$', got '*'"));
}

/* So many bytes behind a beginning. */
static struct span filled(const char *begin, char with, size_t n, const char *end)
{
	size_t len = strlen(begin) + n + strlen(end);
	char *data = malloc(len + 1);

	assert_non_null(data);
	memcpy(data, begin, strlen(begin));
	memset(data + strlen(begin), with, n);
	memcpy(data + strlen(begin) + n, end, strlen(end) + 1);
	return (struct span){ data, len };
}

/* At once, and the last bytes one by one. */
static void expect_long(struct span in, const char *wanted)
{
	for (size_t cut = 0; cut < 5; cut++) {
		struct text out = decoded(in, &usual, in.len - cut);

		assert_string_equal(out.data, wanted);
		free(out.data);
	}
	release(in);
}

static void a_line_has_64_kib_and_so_have_digits(void **state)
{
	(void)state;
	expect_long(filled("", ' ', 65532, "PING\n"), "PING|\n");
	expect_long(filled("", ' ', 65533, "PING\n"), PROTOCOL_ERROR("too big inline request"));
	expect_long(filled("", 'x', 65537, ""), PROTOCOL_ERROR("too big inline request"));
	expect_long(filled("*", '1', 65534, "\r\n"), PROTOCOL_ERROR("invalid multibulk length"));
	expect_long(filled("*", '1', 65535, "\r\n"), PROTOCOL_ERROR("too big mbulk count string"));
	expect_long(filled("*", '1', 65536, ""), PROTOCOL_ERROR("too big mbulk count string"));
	expect_long(filled("*1\r\n$", '1', 65536, ""), PROTOCOL_ERROR("too big bulk count string"));
	expect_long(filled("*", '1', 65000, ""), "");
}

static void a_command_has_64_kib_beside_a_word_as_long_as_may_be(void **state)
{
	const struct resp_limits limits = { .word_bytes = 10 };
	struct text in = { 0 }, out;

	(void)state;
	expect_limited(SPAN("*1\r\n$10\r\n0123456789\r\n"), &limits, "0123456789|\n");
	expect_limited(SPAN("*1\r\n$11\r\n"), &limits, PROTOCOL_ERROR("invalid bulk length"));
	add(&in, SPAN("*6555\r\n"));
	for (unsigned i = 0; i < 6554; i++)
		add(&in, SPAN("$10\r\n0123456789\r\n"));
	add(&in, SPAN("$6\r\n012345\r\n"));
	out = decoded((struct span){ in.data, in.len }, &limits, 0);
	assert_int_equal(out.len, 6554 * 11 + 7 + 1);
	free(out.data);
	in.len -= strlen("$6\r\n012345\r\n");
	add(&in, SPAN("$7\r\n"));
	out = decoded((struct span){ in.data, in.len }, &limits, 0);
	assert_string_equal(out.data, PROTOCOL_ERROR("invalid bulk length"));
	free(out.data);
	free(in.data);
}

static void who_has_not_said_who_it_is_has_ten_words(void **state)
{
	const struct resp_limits unknown = { .word_bytes = 1 << 20, .unknown = true };

	(void)state;
	expect_limited(SPAN("*11\r\n"), &unknown,
		       PROTOCOL_ERROR("unauthenticated multibulk length"));
	expect_limited(SPAN("*10\r\n$16385\r\n"), &unknown,
		       PROTOCOL_ERROR("unauthenticated bulk length"));
	expect_limited(SPAN("*10\r\n$16384\r\n"), &unknown, "");
}

/* What has been looked at is not looked at again: a command that comes in small pieces costs what
 * it has bytes. */
static void the_last_word_is_announced_when_all_before_it_is_there(void **state)
{
	static const char in[] = "*3\r\n$7\r\nPUBLISH\r\n$2\r\nab\r\n$5\r\nhello\r\n";
	size_t payload = strlen(in) - 7;

	(void)state;
	for (size_t n = 1; n < sizeof(in) - 1; n++) {
		struct span bytes = own((struct span){ in, n });
		struct resp_decoder d = { .words = 0 };
		struct resp_event e;
		size_t used;

		resp_decode(&d, bytes, &usual, &e, &used);
		assert_int_equal(e.kind, RESP_MORE);
		assert_int_equal(e.payload_at, n < payload ? 0 : payload);
		if (n >= payload) {
			assert_int_equal(e.payload_bytes, 5);
			assert_int_equal(e.words, 2);
			assert_true(span_equal(resp_next(&e.rest), SPAN("PUBLISH")));
			assert_true(span_equal(resp_next(&e.rest), SPAN("ab")));
		}
		release(bytes);
	}
}

static void only_a_star_is_taken_for_it(void **state)
{
	(void)state;
	assert_int_equal(resp_detect(SPAN("")), 0);
	assert_int_equal(resp_detect(SPAN("*")), 1);
	assert_int_equal(resp_detect(SPAN("PING\r\n")), -1);
}

/* ---- replies ---- */

static void replies_are_as_the_protocol_has_them(void **state)
{
	char out[200], *at = out;

	(void)state;
	at = resp_put_head(at, ':', 0);
	at = resp_put_head(at, '*', UINT64_MAX);
	at = resp_put_bulk(at, SPAN("a\r\n"));
	at = resp_put_bulk(at, (struct span){ NULL, 0 });
	at = resp_put_null(at, RESP_2);
	at = resp_put_null(at, RESP_3);
	*at = 0;
	assert_string_equal(out,
			    ":0\r\n*18446744073709551615\r\n$3\r\na\r\n\r\n$0\r\n\r\n$-1\r\n_\r\n");
}

/* ---- messages ---- */

static void encodes(enum resp_version version, enum resp_push push, const struct run *run,
		    const char *wanted)
{
	const struct wire wire = { resp_format(version, push), SPAN("g*") };
	size_t max = wire.format->encoded_max(&wire, run), n;
	char *out = malloc(max);

	assert_non_null(out);
	assert_int_equal(wire.format->encodable(&wire, run), run->messages);
	n = wire.format->encode(&wire, run, out);
	assert_true(n <= max);
	assert_int_equal(n, strlen(wanted));
	assert_memory_equal(out, wanted, n);
	free(out);
}

static void every_message_says_its_topic(void **state)
{
	const struct run run = { .topic = SPAN("a.b"), .body = SPAN("hello"), .messages = 1 };

	(void)state;
	encodes(RESP_2, RESP_MESSAGE, &run, "*3\r\n$7\r\nmessage\r\n$3\r\na.b\r\n$5\r\nhello\r\n");
	encodes(RESP_3, RESP_MESSAGE, &run, ">3\r\n$7\r\nmessage\r\n$3\r\na.b\r\n$5\r\nhello\r\n");
	encodes(RESP_2, RESP_SMESSAGE, &run,
		"*3\r\n$8\r\nsmessage\r\n$3\r\na.b\r\n$5\r\nhello\r\n");
	encodes(RESP_3, RESP_SMESSAGE, &run,
		">3\r\n$8\r\nsmessage\r\n$3\r\na.b\r\n$5\r\nhello\r\n");
	encodes(RESP_2, RESP_PMESSAGE, &run,
		"*4\r\n$8\r\npmessage\r\n$2\r\ng*\r\n$3\r\na.b\r\n$5\r\nhello\r\n");
	encodes(RESP_3, RESP_PMESSAGE, &run,
		">4\r\n$8\r\npmessage\r\n$2\r\ng*\r\n$3\r\na.b\r\n$5\r\nhello\r\n");
}

#define FRAME(payload) "*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n" payload "\r\n"

static void messages_of_every_form_are_framed(void **state)
{
	const struct record second = { .payload = SPAN("\r\n"), .reply = SPAN("inbox") };
	struct run run = { .topic = SPAN("t"),
			   .body = SPAN("a\r\n\r\nbc\r\n"),
			   .messages = 3,
			   .form = RUN_LINES };
	char records[100], *end;

	(void)state;
	encodes(RESP_2, RESP_MESSAGE, &run, FRAME("$1\r\na") FRAME("$0\r\n") FRAME("$2\r\nbc"));
	end = record_put(records, SPAN("0123456789"));
	end = record_write(end, &second);
	run.body = (struct span){ records, (size_t)(end - records) };
	run.messages = 2;
	run.form = RUN_RECORDS;
	encodes(RESP_2, RESP_MESSAGE, &run, FRAME("$10\r\n0123456789") FRAME("$2\r\n\r\n"));
}

static void what_is_sent_from_where_it_lies_is_framed_alike(void **state)
{
	char name[256], glob[256], prefix[WIRE_AROUND_MAX], suffix[WIRE_AROUND_MAX], whole[2000];
	struct run run = { .topic = { name, 255 }, .body = SPAN("hello"), .messages = 1 };
	size_t prefix_len, suffix_len, n;
	struct span body;

	(void)state;
	memset(name, 'n', sizeof(name));
	memset(glob, 'g', sizeof(glob));
	for (enum resp_push push = RESP_MESSAGE; push < RESP_PUSHES; push++) {
		const struct wire wire = { resp_format(RESP_3, push), { glob, 255 } };

		n = wire.format->encode(&wire, &run, whole);
		wire.format->enclose(&wire, &run, prefix, &prefix_len, &body, suffix, &suffix_len);
		assert_int_equal(prefix_len + body.len + suffix_len, n);
		assert_memory_equal(whole, prefix, prefix_len);
		assert_memory_equal(whole + prefix_len, body.data, body.len);
		assert_memory_equal(whole + prefix_len + body.len, suffix, suffix_len);
	}
}

static void ends_of_messages_are_found(void **state)
{
	static const char text[] =
		FRAME("$4\r\n*3\r\n") ">4\r\n$8\r\npmessage\r\n$1\r\ng\r\n$1\r\nt"
				      "\r\n$0\r\n\r\n";
	const struct wire_format *format = resp_format(RESP_2, RESP_MESSAGE);
	size_t first = sizeof(FRAME("$4\r\n*3\r\n")) - 1, all = sizeof(text) - 1;

	(void)state;
	for (size_t at = 0; at <= all; at++)
		assert_int_equal(format->boundary(SPAN(text), at), at == 0       ? 0
								   : at <= first ? first
										 : all);
}

/* ---- who it is ---- */

/* What is behind the first word of a line; NULL: nothing is wrong. */
static const char *hello(const char *line, struct resp_hello *h)
{
	static char array[2000], text[RESP_WRONG_BYTES_MAX];
	struct span rest = { array, 0 };
	int words = resp_array_of_line(span_of(line), array, &rest.len);

	assert_true(words > 0);
	(void)resp_next(&rest);
	return resp_hello(rest, (uint32_t)words - 1, h, text);
}

static void assert_hello_wrong(const char *line, const char *wrong)
{
	struct resp_hello h;
	const char *is = hello(line, &h);

	assert_non_null(is);
	assert_string_equal(is, wrong);
}

static void hello_asks_for_a_version_a_login_and_a_name(void **state)
{
	struct resp_hello h;

	(void)state;
	assert_null(hello("HELLO", &h));
	assert_int_equal(h.version, 0);
	assert_false(h.login.given || h.names);
	assert_null(hello("HELLO 3 auth joe 'a b' SetName me", &h));
	assert_int_equal(h.version, RESP_3);
	assert_true(h.login.given && h.names);
	assert_true(span_equal(h.login.user, SPAN("joe")));
	assert_true(span_equal(h.login.secret, SPAN("a b")));
	assert_true(span_equal(h.name, SPAN("me")));
	/* The last one counts; a name may be none. */
	assert_null(hello("HELLO 2 AUTH a b AUTH c '' SETNAME x SETNAME ''", &h));
	assert_int_equal(h.version, RESP_2);
	assert_true(span_equal(h.login.user, SPAN("c")));
	assert_int_equal(h.login.secret.len, 0);
	assert_true(h.names);
	assert_int_equal(h.name.len, 0);
}

static void what_is_wrong_with_hello_is_said_as_redis_says_it(void **state)
{
	static const char *const no_numbers[] = { "''",
						  "x",
						  "-",
						  "-0",
						  "03",
						  "+3",
						  "3.0",
						  "'3 '",
						  "\"3\\x00\"",
						  "9223372036854775808",
						  "-9223372036854775809",
						  "99999999999999999999" };
	static const char *const others[] = {
		"0", "1", "4", "33", "-2", "9223372036854775807", "-9223372036854775808"
	};
	char line[300];

	(void)state;
	for (size_t i = 0; i < sizeof(no_numbers) / sizeof(*no_numbers); i++) {
		snprintf(line, sizeof(line), "HELLO %s", no_numbers[i]);
		assert_hello_wrong(line, "-ERR Protocol version is not an integer or out of range");
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
		snprintf(line, sizeof(line), "HELLO %s", others[i]);
		assert_hello_wrong(line, "-NOPROTO unsupported protocol version");
	}
	assert_hello_wrong("HELLO 3 AUTH joe", "-ERR Syntax error in HELLO option 'AUTH'");
	assert_hello_wrong("HELLO 3 setname", "-ERR Syntax error in HELLO option 'setname'");
	assert_hello_wrong("HELLO 3 SETNAME a more", "-ERR Syntax error in HELLO option 'more'");
	/* An option ends with a NUL, as a string of C's does. */
	assert_hello_wrong("HELLO 3 \"a\\x00b\"", "-ERR Syntax error in HELLO option 'a'");
	assert_hello_wrong("HELLO 3 SETNAME 'a b'", RESP_BAD_CLIENT_NAME);
	/* The first that is wrong is told of. */
	assert_hello_wrong("HELLO 5 more", "-NOPROTO unsupported protocol version");
	memset(line, 'o', sizeof(line));
	memcpy(line, "HELLO 2 ", 8);
	line[8 + 200] = 0;
	assert_int_equal(strlen(hello(line, &(struct resp_hello){ 0 })),
			 strlen("-ERR Syntax error in HELLO option ''") + 128);
}

static void auth_has_a_password_or_a_name_in_front_of_it(void **state)
{
	static const char one[] = "$1\r\nx\r\n", two[] = "$1\r\nx\r\n$1\r\ny\r\n";
	struct resp_login l;

	(void)state;
	assert_null(resp_auth(SPAN(two), 2, false, &l));
	assert_true(span_equal(l.user, SPAN("x")) && span_equal(l.secret, SPAN("y")));
	assert_null(resp_auth(SPAN(one), 1, true, &l));
	assert_true(span_equal(l.user, SPAN("default")) && span_equal(l.secret, SPAN("x")));
	assert_string_equal(resp_auth(SPAN(one), 1, false, &l),
			    "-ERR AUTH <password> called without any password configured for the "
			    "default user. Are you sure your configuration is correct?");
	assert_false(l.given);
	assert_string_equal(resp_auth(SPAN(two), 3, true, &l), "-ERR syntax error");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_array_of_bulk_strings_is_a_command),
		cmocka_unit_test(a_line_is_a_command_too),
		cmocka_unit_test(empty_commands_are_nothing),
		cmocka_unit_test(a_line_of_another_protocol_is_the_end),
		cmocka_unit_test(quotes_must_be_balanced),
		cmocka_unit_test(a_length_is_digits_without_leading_zeros),
		cmocka_unit_test(what_is_no_bulk_string_is_named),
		cmocka_unit_test(a_line_has_64_kib_and_so_have_digits),
		cmocka_unit_test(a_command_has_64_kib_beside_a_word_as_long_as_may_be),
		cmocka_unit_test(who_has_not_said_who_it_is_has_ten_words),
		cmocka_unit_test(the_last_word_is_announced_when_all_before_it_is_there),
		cmocka_unit_test(only_a_star_is_taken_for_it),
		cmocka_unit_test(replies_are_as_the_protocol_has_them),
		cmocka_unit_test(every_message_says_its_topic),
		cmocka_unit_test(messages_of_every_form_are_framed),
		cmocka_unit_test(what_is_sent_from_where_it_lies_is_framed_alike),
		cmocka_unit_test(ends_of_messages_are_found),
		cmocka_unit_test(hello_asks_for_a_version_a_login_and_a_name),
		cmocka_unit_test(what_is_wrong_with_hello_is_said_as_redis_says_it),
		cmocka_unit_test(auth_has_a_password_or_a_name_in_front_of_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
