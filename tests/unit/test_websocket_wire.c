#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/name.h"
#include "protocol/websocket.h"
#include "protocol/mqtt.h"
#include "protocol/websocket_framed.h"
#include "protocol/websocket_left_out.h"
#include "protocol/websocket_wire.h"

static struct run one(struct span message)
{
	return (struct run){
		.topic = SPAN("a.b"), .body = message, .messages = 1, .epoch = 0xabc, .seq = 7
	};
}

static struct run lines(struct span body, uint32_t messages)
{
	struct run run = one(body);

	run.messages = messages;
	run.form = RUN_LINES;
	return run;
}

/* Into memory of just the promised size, so that a sanitizer sees a byte too many. */
static struct span encode(const struct wire_format *format, const struct run *run)
{
	const struct wire wire = { .format = format };
	size_t max = format->encoded_max(&wire, run), n;
	char *out = malloc(max);

	assert_non_null(out);
	n = format->encode(&wire, run, out);
	assert_true(n <= max);
	return (struct span){ out, n };
}

static void release(struct span s)
{
	free((void *)(uintptr_t)s.data);
}

static void expect(const struct wire_format *format, struct run run, struct span wanted)
{
	struct span got = encode(format, &run);

	assert_int_equal(got.len, wanted.len);
	assert_memory_equal(got.data, wanted.data, wanted.len);
	release(got);
}

/* The payload of the only frame, which is text. */
static void expect_json(struct run run, const char *wanted)
{
	struct span got = encode(&websocket_json_format, &run);
	size_t head = websocket_head_len(strlen(wanted));
	char want[WEBSOCKET_HEAD_MAX];

	assert_int_equal(got.len, head + strlen(wanted));
	assert_int_equal(websocket_head(WEBSOCKET_TEXT, strlen(wanted), want), head);
	assert_memory_equal(got.data, want, head);
	assert_memory_equal(got.data + head, wanted, strlen(wanted));
	release(got);
}

static void each_message_is_a_frame(void **state)
{
	(void)state;
	expect(&websocket_format, one(SPAN("hello")), SPAN("\x81\x05hello"));
	expect(&websocket_format, one(SPAN("")), SPAN("\x81\x00"));
	expect(&websocket_format, lines(SPAN("a\r\n\r\nbc\r\n"), 3),
	       SPAN("\x81\x01"
		    "a\x81\x00\x81\x02"
		    "bc"));
}

static void what_is_not_utf8_is_binary(void **state)
{
	(void)state;
	expect(&websocket_format, one(SPAN("\xff")), SPAN("\x82\x01\xff"));
	expect(&websocket_format, one(SPAN("\xc3\xbc\0")), SPAN("\x81\x03\xc3\xbc\0"));
	expect(&websocket_binary_format, one(SPAN("hello")), SPAN("\x82\x05hello"));
}

static void records_go_out_without_what_was_said_beside_them(void **state)
{
	char body[200], *at = body;
	struct run run;

	(void)state;
	at = record_put(at, SPAN("plain"));
	at = record_write(at, &(struct record){ .payload = SPAN("more"), .reply = SPAN("r") });
	run = one((struct span){ body, (size_t)(at - body) });
	run.form = RUN_RECORDS;
	run.messages = 2;
	expect(&websocket_format, run, SPAN("\x81\x05plain\x81\x04more"));
}

static void every_length_has_its_head(void **state)
{
	static const size_t lengths[] = { 125, 126, 65535, 65536 };
	static char message[65536];

	(void)state;
	memset(message, 'x', sizeof(message));
	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		struct run run = one((struct span){ message, lengths[i] });
		struct span got = encode(&websocket_format, &run);
		size_t head = websocket_head_len(lengths[i]);

		assert_int_equal(got.len, head + lengths[i]);
		assert_memory_equal(got.data + head, message, lengths[i]);
		assert_int_equal(websocket_format.boundary(got, 1), got.len);
		release(got);
	}
}

static void frames_are_found_from_any_offset(void **state)
{
	struct run run = lines(SPAN("a\r\n\r\nbc\r\n"), 3);
	struct span got = encode(&websocket_format, &run);
	static const size_t ends[] = { 0, 3, 3, 3, 5, 5, 9, 9, 9, 9 };

	(void)state;
	for (size_t at = 0; at <= got.len; at++)
		assert_int_equal(websocket_format.boundary(got, at), ends[at]);
	release(got);
}

/* Prefix, body and suffix are what encode writes. */
static void expect_enclosed(const struct wire_format *format, struct run run)
{
	const struct wire wire = { .format = format };
	char prefix[WIRE_AROUND_MAX], suffix[WIRE_AROUND_MAX];
	struct span whole = encode(format, &run), body;
	size_t before, after;

	assert_true(format->enclosable == NULL || format->enclosable(&wire, &run));
	format->enclose(&wire, &run, prefix, &before, &body, suffix, &after);
	assert_int_equal(before + body.len + after, whole.len);
	assert_memory_equal(whole.data, prefix, before);
	assert_memory_equal(whole.data + before, body.data, body.len);
	assert_memory_equal(whole.data + before + body.len, suffix, after);
	release(whole);
}

static void a_large_message_is_sent_from_where_it_lies(void **state)
{
	static char message[70000];
	const struct wire wire = { .format = &websocket_json_format };
	struct run run;

	(void)state;
	memset(message, 'x', sizeof(message));
	run = one((struct span){ message, sizeof(message) });
	expect_enclosed(&websocket_format, run);
	expect_enclosed(&websocket_binary_format, run);
	expect_enclosed(&websocket_json_format, run);
	run.epoch = 0;
	expect_enclosed(&websocket_json_format, run);
	message[5] = '"';
	assert_false(websocket_json_format.enclosable(&wire, &run));
	message[5] = (char)0xff;
	assert_false(websocket_json_format.enclosable(&wire, &run));
	expect_enclosed(&websocket_format, run);
}

static void the_longest_topic_fits_around_a_message(void **state)
{
	static char topic[NAME_BYTES_MAX], message[20000];
	struct run run = one((struct span){ message, sizeof(message) });

	(void)state;
	memset(topic, '"', sizeof(topic));
	memset(message, 'x', sizeof(message));
	run.topic = (struct span){ topic, sizeof(topic) };
	run.seq = UINT64_MAX;
	expect_enclosed(&websocket_json_format, run);
}

static void json_says_topic_id_and_data(void **state)
{
	struct run run = one(SPAN("hello"));

	(void)state;
	expect_json(run, "{\"topic\":\"a.b\",\"id\":\"0000000000000abc:7\",\"data\":\"hello\"}");
	run.topic = SPAN("say \"hi\"\\");
	run.seq = 1234567890123;
	expect_json(run,
		    "{\"topic\":\"say \\\"hi\\\"\\\\\",\"id\":\"0000000000000abc:1234567890123\","
		    "\"data\":\"hello\"}");
}

static void a_topic_without_numbers_has_no_ids(void **state)
{
	struct run run = one(SPAN(""));

	(void)state;
	run.epoch = 0;
	expect_json(run, "{\"topic\":\"a.b\",\"data\":\"\"}");
}

static void json_escapes_what_it_must(void **state)
{
	struct run run = one(SPAN("1234567\"\\\n\r\t\x01\x1f\x7f 12345678 \xe2\x82\xac"));

	(void)state;
	expect_json(run, "{\"topic\":\"a.b\",\"id\":\"0000000000000abc:7\",\"data\":"
			 "\"1234567\\\"\\\\\\n\\r\\t\\u0001\\u001f\x7f 12345678 \xe2\x82\xac\"}");
}

static void what_is_not_utf8_is_base64(void **state)
{
	(void)state;
	expect_json(one(SPAN("a\xff")),
		    "{\"topic\":\"a.b\",\"id\":\"0000000000000abc:7\",\"base64\":\"Yf8=\"}");
}

static void numbers_go_on_in_json(void **state)
{
	struct run run = lines(SPAN("a\r\nb\r\n"), 2);
	static const char wanted[] =
		"\x81\x34{\"topic\":\"a.b\",\"id\":\"0000000000000abc:9\",\"data\":\"a\"}"
		"\x81\x35{\"topic\":\"a.b\",\"id\":\"0000000000000abc:10\",\"data\":\"b\"}";

	(void)state;
	run.seq = 9;
	expect(&websocket_json_format, run, SPAN(wanted));
}

static void every_byte_is_escaped_wherever_it_stands(void **state)
{
	char message[20];

	(void)state;
	for (int byte = 0; byte < 0x80; byte++)
		for (size_t at = 0; at < sizeof(message); at++) {
			char out[6 * sizeof(message) + 2], wanted[8], *end;
			struct span text = { message, sizeof(message) };
			int n = byte == '"' || byte == '\\' ? sprintf(wanted, "\\%c", byte)
				: byte == '\n'              ? sprintf(wanted, "\\n")
				: byte == '\r'              ? sprintf(wanted, "\\r")
				: byte == '\t'              ? sprintf(wanted, "\\t")
				: byte < ' '                ? sprintf(wanted, "\\u%04x", byte)
							    : sprintf(wanted, "%c", byte);

			memset(message, 'x', sizeof(message));
			message[at] = (char)byte;
			assert_int_equal(websocket_json_string(text, out),
					 sizeof(message) - 1 + (size_t)n + 2);
			end = out + 1 + at;
			assert_memory_equal(end, wanted, (size_t)n);
		}
}

/* ---- MQTT inside ---- */

static void each_packet_of_mqtt_is_a_frame(void **state)
{
	struct run run = lines(SPAN("a\r\nbc\r\n"), 2);

	(void)state;
	expect(&websocket_mqtt_format, run,
	       SPAN("\x82\x08\x30\x06\0\x03"
		    "a/ba\x82\x09\x30\x07\0\x03"
		    "a/bbc"));
	expect(&websocket_mqtt5_format, run,
	       SPAN("\x82\x09\x30\x07\0\x03"
		    "a/b\0a\x82\x0a\x30\x08\0\x03"
		    "a/b\0bc"));
}

static void a_large_packet_is_sent_from_where_it_lies(void **state)
{
	static char message[70000];
	struct run run;

	(void)state;
	memset(message, 'x', sizeof(message));
	run = one((struct span){ message, sizeof(message) });
	expect_enclosed(&websocket_mqtt_format, run);
	expect_enclosed(&websocket_mqtt5_format, run);
}

static void what_has_no_name_in_mqtt_is_left_out(void **state)
{
	const struct wire wire = { .format = &websocket_mqtt_format };
	struct run run = one(SPAN("x"));

	(void)state;
	assert_int_equal(websocket_mqtt_format.encodable(&wire, &run), 1);
	run.topic = SPAN("a.b+");
	assert_int_equal(websocket_mqtt_format.encodable(&wire, &run), 0);
}

static bool wants(struct span parameter, struct span topic)
{
	const struct wire wire = { &websocket_json_format, parameter };

	return websocket_json_format.wants(&wire, topic);
}

static void what_another_subscription_brings_is_left_out(void **state)
{
	static struct left_out l;
	char names[LEFT_OUT_NAMES_MAX][8];
	char *parameter;
	size_t bytes;

	(void)state;
	assert_int_equal(left_out_bytes(&l), 0);
	assert_true(wants(SPAN(""), SPAN("a.b")));
	for (unsigned i = 0; i < LEFT_OUT_NAMES_MAX; i++) {
		/* In no order, and every second number only. */
		snprintf(names[i], sizeof(names[i]), "t.%u",
			 i * 2 * 617 % (2 * LEFT_OUT_NAMES_MAX));
		l.names[l.names_n++] = span_of(names[i]);
	}
	l.patterns[l.patterns_n++] = SPAN("a.*");
	l.patterns[l.patterns_n++] = SPAN("b.>");
	bytes = left_out_bytes(&l);
	parameter = malloc(bytes);
	assert_non_null(parameter);
	left_out_put(&l, parameter);
	for (unsigned i = 0; i < 2 * LEFT_OUT_NAMES_MAX; i++) {
		char name[16];

		snprintf(name, sizeof(name), "t.%u", i);
		assert_int_equal(wants((struct span){ parameter, bytes }, span_of(name)), i % 2);
	}
	assert_false(wants((struct span){ parameter, bytes }, SPAN("a.b")));
	assert_true(wants((struct span){ parameter, bytes }, SPAN("a.b.c")));
	assert_false(wants((struct span){ parameter, bytes }, SPAN("b.c.d")));
	assert_true(wants((struct span){ parameter, bytes }, SPAN("t")));
	free(parameter);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_message_is_a_frame),
		cmocka_unit_test(what_is_not_utf8_is_binary),
		cmocka_unit_test(records_go_out_without_what_was_said_beside_them),
		cmocka_unit_test(every_length_has_its_head),
		cmocka_unit_test(frames_are_found_from_any_offset),
		cmocka_unit_test(a_large_message_is_sent_from_where_it_lies),
		cmocka_unit_test(the_longest_topic_fits_around_a_message),
		cmocka_unit_test(json_says_topic_id_and_data),
		cmocka_unit_test(a_topic_without_numbers_has_no_ids),
		cmocka_unit_test(json_escapes_what_it_must),
		cmocka_unit_test(what_is_not_utf8_is_base64),
		cmocka_unit_test(numbers_go_on_in_json),
		cmocka_unit_test(every_byte_is_escaped_wherever_it_stands),
		cmocka_unit_test(what_another_subscription_brings_is_left_out),
		cmocka_unit_test(each_packet_of_mqtt_is_a_frame),
		cmocka_unit_test(a_large_packet_is_sent_from_where_it_lies),
		cmocka_unit_test(what_has_no_name_in_mqtt_is_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
