#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/line.h"
#include "protocol/websocket_command.h"

enum { COMMAND_BYTES = 512 };

static struct websocket_command command;

/* From memory of just its size, so that a sanitizer sees a step too far. The text stays until the
 * next one. */
static const char *read_command(const char *text)
{
	static char *own;
	size_t n = strlen(text);

	free(own);
	own = malloc(n > 0 ? n : 1);
	assert_non_null(own);
	memcpy(own, text, n);
	return websocket_command_read((struct span){ own, n }, COMMAND_BYTES, &command);
}

static void expect_span(struct span got, const char *wanted)
{
	assert_int_equal(got.len, strlen(wanted));
	assert_memory_equal(got.data, wanted, got.len);
}

static void expect_wrong(const char *text, const char *reason)
{
	const char *got = read_command(text);

	assert_non_null(got);
	assert_string_equal(got, reason);
}

/* The bytes that a text publishes. */
static void expect_published(const char *text, const void *wanted, size_t n)
{
	char *out;

	assert_null(read_command(text));
	assert_int_equal(command.verb, WEBSOCKET_PUBLISH);
	out = malloc(websocket_payload_max(&command) + 1);
	assert_non_null(out);
	assert_int_equal(websocket_payload(&command, out), n);
	assert_memory_equal(out, wanted, n);
	free(out);
}

static void expect_not_published(const char *text)
{
	char out[COMMAND_BYTES];

	assert_null(read_command(text));
	assert_int_equal(websocket_payload(&command, out), -1);
}

static void a_subscription_may_want_the_past(void **state)
{
	(void)state;
	assert_null(read_command("{\"subscribe\":\"a.b\"}"));
	assert_int_equal(command.verb, WEBSOCKET_SUBSCRIBE);
	expect_span(command.name, "a.b");
	assert_false(command.last || command.from);
	assert_null(read_command(" { \"last\" : 10 , \"subscribe\" : \"a.b\" } "));
	assert_true(command.last);
	assert_int_equal(command.n, 10);
	assert_null(read_command("{\"subscribe\":\"a\",\"from\":\"00000000deadbeef:12\"}"));
	assert_true(command.from && command.epoch == 0xdeadbeef && command.n == 12);
	assert_null(read_command("{\"unsubscribe\":\"gr\\u00fc\\u00dfe\"}"));
	assert_int_equal(command.verb, WEBSOCKET_UNSUBSCRIBE);
	expect_span(command.name, "gr\xc3\xbc\xc3\x9f"
				  "e");
}

static void what_is_published_is_any_text_or_bytes(void **state)
{
	(void)state;
	expect_published("{\"publish\":\"t\",\"data\":\"hello\"}", "hello", 5);
	expect_published("{\"data\":\"\",\"publish\":\"t\"}", "", 0);
	expect_published("{\"publish\":\"t\",\"data\":\"\\\"\\\\\\/"
			 "\\b\\f\\n\\r\\t\\u0000\\u20AC\\uD83D\\ude00\"}",
			 "\"\\/\b\f\n\r\t\0\xe2\x82\xac\xf0\x9f\x98\x80", 16);
	expect_published("{\"publish\":\"t\",\"data\":\"{\\\"data\\\":1}\"}", "{\"data\":1}", 10);
	expect_published("{\"publish\":\"t\",\"base64\":\"AP8=\"}", "\0\xff", 2);
	expect_published("{\"publish\":\"t\",\"base64\":\"\"}", "", 0);
	expect_published("{\"publish\":\"t\",\"base64\":\"\\/\\/8=\"}", "\xff\xff", 2);
	expect_published("{\"publish\":\"t\",\"ref\":{\"data\":\"not this\"},\"data\":\"this\"}",
			 "this", 4);
	expect_span(command.ref, "{\"data\":\"not this\"}");
}

static void what_is_published_may_be_longer_than_a_command(void **state)
{
	static char text[200000];
	size_t n = (size_t)sprintf(text, "{\"publish\":\"t\",\"data\":\"");

	(void)state;
	memset(text + n, 'x', 100000);
	strcpy(text + n + 100000, "\",\"ref\":1}");
	expect_published(text, text + n, 100000);
	expect_span(command.ref, "1");
	/* But nothing else may. */
	n = (size_t)sprintf(text, "{\"publish\":\"t\",\"data\":\"x\",\"ref\":\"");
	memset(text + n, 'x', COMMAND_BYTES);
	strcpy(text + n + COMMAND_BYTES, "\"}");
	expect_wrong(text, LINE_TOO_LONG);
}

static void data_is_a_string_of_json(void **state)
{
	static const char *const wrong[] = {
		"\\x",     "\\u12",          "\\u12g4",        "\\ud800",
		"\\udc00", "\\ud800\\u0041", "\\ud800\\ud800", "a\tb"
	};
	char text[100];

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		snprintf(text, sizeof(text), "{\"publish\":\"t\",\"data\":\"%s\"}", wrong[i]);
		expect_not_published(text);
	}
	expect_not_published("{\"publish\":\"t\",\"base64\":\"A\"}");
	expect_not_published("{\"publish\":\"t\",\"base64\":\"AP9=\"}");
}

static void whatever_is_to_be_said_back_may_be_any_value(void **state)
{
	static const char *const values[] = { "1",    "-1.5",           "\"text\"",   "null",
					      "true", "[1,{\"a\":[]}]", "\"\\u0001\"" };
	char text[100];

	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
		snprintf(text, sizeof(text), "{\"ping\":%s}", values[i]);
		assert_null(read_command(text));
		assert_int_equal(command.verb, WEBSOCKET_ASK);
		expect_span(command.ref, values[i]);
	}
	assert_null(read_command("{\"token\":\"secret\"}"));
	assert_int_equal(command.verb, WEBSOCKET_LOG_IN);
	expect_span(command.name, "secret");
}

static void what_is_no_command_is_malformed(void **state)
{
	static const char *const wrong[] = {
		"",
		"{",
		"{}",
		"[]",
		"\"subscribe\"",
		"{\"subscribe\":\"a\"",
		"{\"subscribe\":\"a\"}}",
		"{\"subscribe\":\"a\",}",
		"{\"subscribe\":\"a\",\"unsubscribe\":\"a\"}",
		"{\"subscribe\":\"a\",\"data\":\"x\"}",
		"{\"subscribe\":\"a\",\"last\":-1}",
		"{\"subscribe\":\"a\",\"last\":\"1\"}",
		"{\"subscribe\":\"a\",\"from\":\"1\"}",
		"{\"subscribe\":\"a\",\"last\":1,\"from\":\"00000000deadbeef:12\"}",
		"{\"publish\":\"a\"}",
		"{\"publish\":\"a\",\"data\":1}",
		"{\"publish\":\"a\",\"data\":\"x\",\"base64\":\"eA==\"}",
		"{\"publish\":\"a\",\"data\":\"x\",\"data\":\"y\"}",
		"{\"publish\":\"a\",\"data\":\"x}",
		"{\"publish\":\"a\",\"data\":\"x\\\"}",
		"{\"publish\":\"a\",\"data\":\"x\",\"last\":1}",
		"{\"publish\":\"a\",\"data\":\"x\",\"more\":1}",
		"{'publish':'a'}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		expect_wrong(wrong[i], LINE_MALFORMED);
	expect_wrong("{\"subscribe\":1}", LINE_BAD_TOPIC);
}

static void what_goes_with_an_error_is_known(void **state)
{
	(void)state;
	expect_wrong("{\"publish\":\"a\",\"ref\":7}", LINE_MALFORMED);
	expect_span(command.name, "a");
	expect_span(command.ref, "7");
}

/* ---- answers ---- */

static void expect_frame(const char *frame, size_t n, const char *wanted)
{
	size_t head = strlen(wanted) < 126 ? 2 : 4;

	assert_int_equal((unsigned char)frame[0], 0x81);
	assert_int_equal(n, head + strlen(wanted));
	assert_memory_equal(frame + head, wanted, strlen(wanted));
}

static void answers_are_frames_of_json(void **state)
{
	const struct span none = { NULL, 0 };
	char out[WEBSOCKET_ANSWER_MAX];

	(void)state;
	expect_frame(out, websocket_answer("subscribed", SPAN("a.b"), 0xabc, 7, none, out),
		     "{\"subscribed\":\"a.b\",\"id\":\"0000000000000abc:7\"}");
	expect_frame(out, websocket_answer("unsubscribed", SPAN("a\"b"), 0, 0, SPAN("[1]"), out),
		     "{\"unsubscribed\":\"a\\\"b\",\"ref\":[1]}");
	expect_frame(out, websocket_answer_gap(SPAN("a.b"), 0xabc, 3, out),
		     "{\"topic\":\"a.b\",\"gap\":\"0000000000000abc:3\"}");
	expect_frame(out, websocket_answer_error("bad topic", SPAN("a..b"), SPAN("1"), out),
		     "{\"error\":\"bad topic\",\"topic\":\"a..b\",\"ref\":1}");
	expect_frame(out, websocket_answer_error("malformed command", none, none, out),
		     "{\"error\":\"malformed command\"}");
	expect_frame(out, websocket_answer_pong(SPAN("\"x\""), out), "{\"pong\":\"x\"}");
}

static void the_longest_answer_has_room(void **state)
{
	char name[255], ref[WEBSOCKET_WORD_MAX], out[WEBSOCKET_ANSWER_MAX];

	(void)state;
	memset(name, 1, sizeof(name));
	memset(ref, '1', sizeof(ref));
	assert_true(websocket_answer("subscribed", (struct span){ name, sizeof(name) }, UINT64_MAX,
				     UINT64_MAX, (struct span){ ref, sizeof(ref) },
				     out) <= sizeof(out));
	assert_true(websocket_answer_error("x", (struct span){ name, sizeof(name) },
					   (struct span){ ref, sizeof(ref) }, out) <= sizeof(out));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_subscription_may_want_the_past),
		cmocka_unit_test(what_is_published_is_any_text_or_bytes),
		cmocka_unit_test(what_is_published_may_be_longer_than_a_command),
		cmocka_unit_test(data_is_a_string_of_json),
		cmocka_unit_test(whatever_is_to_be_said_back_may_be_any_value),
		cmocka_unit_test(what_is_no_command_is_malformed),
		cmocka_unit_test(what_goes_with_an_error_is_known),
		cmocka_unit_test(answers_are_frames_of_json),
		cmocka_unit_test(the_longest_answer_has_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
