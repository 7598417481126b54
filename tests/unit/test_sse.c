#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/sse.h"

static struct run one(struct span message)
{
	return (struct run){ .body = message, .messages = 1, .epoch = 0xabc, .seq = 7 };
}

static struct run lines(struct span body, uint32_t messages)
{
	return (struct run){
		.body = body, .messages = messages, .form = RUN_LINES, .epoch = 0xabc, .seq = 7
	};
}

static const struct wire topic_alone = { .format = NULL };

/* Into memory of just the promised size, so that a sanitizer sees a byte too many. */
static struct span encode(const struct wire_format *format, const struct run *run)
{
	size_t max = format->encoded_max(&topic_alone, run), n;
	char *out = malloc(max);

	assert_non_null(out);
	n = format->encode(&topic_alone, run, out);
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

/* The content of chunks that are all there. */
static struct span unchunk(struct span s)
{
	char *out = malloc(s.len), *at = out;

	assert_non_null(out);
	while (s.len > 0) {
		char *end;
		size_t n = strtoul(s.data, &end, 16);

		assert_memory_equal(end, "\r\n", 2);
		memcpy(at, end + 2, n);
		at += n;
		assert_memory_equal(end + 2 + n, "\r\n", 2);
		s = span_skip(s, (size_t)(end + 4 + n - s.data));
	}
	return (struct span){ out, (size_t)(at - out) };
}

/* In both forms. */
static void expect_event(struct run run, struct span wanted)
{
	struct span chunks = encode(&sse_format, &run), content = unchunk(chunks);

	expect(&sse_plain_format, run, wanted);
	assert_int_equal(content.len, wanted.len);
	assert_memory_equal(content.data, wanted.data, wanted.len);
	release(chunks);
	release(content);
}

#define ID(n) "id: 0000000000000abc:" #n "\n"

static void each_message_is_an_event_with_its_id(void **state)
{
	(void)state;
	expect_event(one(SPAN("hello")), SPAN(ID(7) "data: hello\n\n"));
	expect_event(one(SPAN("")), SPAN(ID(7) "data: \n\n"));
	expect_event(lines(SPAN("a\r\n\r\nbc\r\n"), 3),
		     SPAN(ID(7) "data: a\n\n" ID(8) "data: \n\n" ID(9) "data: bc\n\n"));
	expect(&sse_format, one(SPAN("hello")), SPAN("24\r\n" ID(7) "data: hello\n\n\r\n"));
}

static void each_line_of_a_message_is_a_data_line(void **state)
{
	(void)state;
	expect_event(one(SPAN("a\nb")), SPAN(ID(7) "data: a\ndata: b\n\n"));
	expect_event(one(SPAN("\n")), SPAN(ID(7) "data: \ndata: \n\n"));
	expect_event(one(SPAN("a\n\n")), SPAN(ID(7) "data: a\ndata: \ndata: \n\n"));
}

static void what_is_not_text_is_base64(void **state)
{
	(void)state;
	expect_event(one(SPAN("a\rb")), SPAN("event: base64\n" ID(7) "data: YQ1i\n\n"));
	expect_event(one(SPAN("a\0")), SPAN("event: base64\n" ID(7) "data: YQA=\n\n"));
	expect_event(one(SPAN("\xff")), SPAN("event: base64\n" ID(7) "data: /w==\n\n"));
	expect_event(one(SPAN("12345678\r")),
		     SPAN("event: base64\n" ID(7) "data: MTIzNDU2NzgN\n\n"));
}

static void expect_with_topic(struct run run, struct span wanted)
{
	static const struct wire wire = { .parameter = { "topic", 5 } };
	size_t max, n;
	char *out;

	run.topic = SPAN("a.b");
	max = sse_plain_format.encoded_max(&wire, &run);
	out = malloc(max);
	assert_non_null(out);
	n = sse_plain_format.encode(&wire, &run, out);
	assert_true(n <= max);
	assert_true(span_equal((struct span){ out, n }, wanted));
	free(out);
}

static void an_event_of_many_topics_has_the_topic_for_its_number(void **state)
{
	(void)state;
	expect_with_topic(one(SPAN("hello")), SPAN("event: a.b\ndata: hello\n\n"));
	expect_with_topic(lines(SPAN("a\r\nb\r\n"), 2),
			  SPAN("event: a.b\ndata: a\n\nevent: a.b\ndata: b\n\n"));
	expect_with_topic(one(SPAN("a\rb")), SPAN("event: base64 a.b\ndata: YQ1i\n\n"));
}

static void what_leaves_nothing_behind_has_no_number(void **state)
{
	struct run run = one(SPAN("hello"));
	char out[SSE_TEXT_MAX];

	(void)state;
	run.epoch = run.seq = 0;
	expect_event(run, SPAN("data: hello\n\n"));
	assert_memory_equal(out, "retry: 1000\n:\n\n", sse_start(false, 0, 0, out));
	assert_memory_equal(out, ":\n\n", sse_heartbeat(false, 0, 0, out));
}

static void text_in_any_language_stays_text(void **state)
{
	(void)state;
	expect_event(one(SPAN("gr\xc3\xbc\xc3\x9f dich, 12345678 \xe2\x82\xac")),
		     SPAN(ID(7) "data: gr\xc3\xbc\xc3\x9f dich, 12345678 \xe2\x82\xac\n\n"));
}

static void every_byte_decides_by_itself(void **state)
{
	char message[40];

	(void)state;
	for (int byte = 0; byte < 256; byte++)
		for (size_t at = 0; at < sizeof(message); at += 3) {
			struct run run;
			struct span got;
			bool text = byte != 0 && byte != '\r' && byte < 0x80;

			memset(message, 'x', sizeof(message));
			message[at] = (char)byte;
			run = one((struct span){ message, sizeof(message) });
			got = encode(&sse_plain_format, &run);
			assert_int_equal(memcmp(got.data, "id", 2) == 0, text);
			release(got);
		}
}

static void a_large_line_of_text_is_sent_from_where_it_lies(void **state)
{
	static char large[20000];
	char prefix[WIRE_AROUND_MAX], suffix[WIRE_AROUND_MAX], joined[sizeof(large) + 600];
	size_t prefix_len, suffix_len;
	const struct wire_format *formats[] = { &sse_format, &sse_plain_format, &chunked_format,
						&bytes_format };
	struct run run;
	struct span body, whole;

	(void)state;
	memset(large, 'x', sizeof(large));
	for (int f = 0; f < 4; f++) {
		run = one((struct span){ large, sizeof(large) });
		assert_true(formats[f]->enclosable == NULL ||
			    formats[f]->enclosable(&topic_alone, &run));
		formats[f]->enclose(&topic_alone, &run, prefix, &prefix_len, &body, suffix,
				    &suffix_len);
		memcpy(joined, prefix, prefix_len);
		memcpy(joined + prefix_len, body.data, body.len);
		memcpy(joined + prefix_len + body.len, suffix, suffix_len);
		whole = encode(formats[f], &run);
		assert_int_equal(whole.len, prefix_len + body.len + suffix_len);
		assert_memory_equal(whole.data, joined, whole.len);
		release(whole);
	}
	large[100] = '\n';
	run = one((struct span){ large, sizeof(large) });
	assert_false(sse_format.enclosable(&topic_alone, &run));
	large[100] = '\xff';
	assert_false(sse_format.enclosable(&topic_alone, &run));
}

static void each_message_is_a_chunk(void **state)
{
	(void)state;
	expect(&chunked_format, one(SPAN("a\rb\n\0")), SPAN("5\r\na\rb\n\0\r\n"));
	expect(&chunked_format, lines(SPAN("0123456789abcdef\r\nx\r\n"), 2),
	       SPAN("10\r\n0123456789abcdef\r\n1\r\nx\r\n"));
	expect(&chunked_format, lines(SPAN("a\r\n\r\n"), 2), SPAN("1\r\na\r\n"));
}

static void without_chunks_messages_are_their_bytes(void **state)
{
	(void)state;
	expect(&bytes_format, one(SPAN("a\rb\n\0")), SPAN("a\rb\n\0"));
	expect(&bytes_format, lines(SPAN("ab\r\n\r\nc\r\n"), 3), SPAN("abc"));
}

static void records_are_encoded_as_each_alone(void **state)
{
	static const struct span messages[] = {
		{ "a\rb", 3 }, { "", 0 }, { "one\n\n", 5 }, { "\0", 1 }, { "two", 3 }
	};
	const struct wire_format *formats[] = { &sse_format, &sse_plain_format, &chunked_format,
						&bytes_format };
	char records[5 * RECORD_HEAD_BYTES + 12], *at = records;

	(void)state;
	for (size_t i = 0; i < 5; i++)
		at = record_put(at, messages[i]);
	for (int f = 0; f < 4; f++) {
		struct run run = { .body = { records, sizeof(records) },
				   .messages = 5,
				   .form = RUN_RECORDS,
				   .epoch = 0xabc,
				   .seq = 7 };
		struct span all = encode(formats[f], &run), rest = all;
		uint32_t with_form = 0;

		for (size_t i = 0; i < 5; i++) {
			struct run alone = one(messages[i]);
			struct span part;

			alone.seq += i;
			if (formats[f]->encodable(&topic_alone, &alone) == 0)
				continue;
			with_form++;
			part = encode(formats[f], &alone);
			assert_true(part.len <= rest.len);
			assert_memory_equal(part.data, rest.data, part.len);
			rest = span_skip(rest, part.len);
			release(part);
		}
		assert_int_equal(rest.len, 0);
		assert_int_equal(formats[f]->encodable(&topic_alone, &run), with_form);
		release(all);
	}
}

static void an_empty_message_has_no_chunk(void **state)
{
	struct run run = one(SPAN(""));

	(void)state;
	assert_int_equal(chunked_format.encodable(&topic_alone, &run), 0);
	run = lines(SPAN("\r\n\r\n"), 2);
	assert_int_equal(chunked_format.encodable(&topic_alone, &run), 0);
	run = lines(SPAN("\r\na\r\n\r\nb\r\n"), 4);
	assert_int_equal(chunked_format.encodable(&topic_alone, &run), 2);
	expect(&chunked_format, run, SPAN("1\r\na\r\n1\r\nb\r\n"));
	assert_int_equal(sse_format.encodable(&topic_alone, &run), 4);
}

static void boundaries_are_ends_of_messages(void **state)
{
	const struct run run =
		lines(SPAN("a\r\n\r\nbc\r\n0123456789abcdef0123456789abcdef\r\n"), 4);
	const struct wire_format *formats[] = { &sse_format, &sse_plain_format, &chunked_format };

	(void)state;
	for (int f = 0; f < 3; f++) {
		struct span all = encode(formats[f], &run);
		size_t ends[5] = { 0 }, n = 1;

		/* What a run of fewer messages takes is where a message ends. */
		for (uint32_t k = 1; k <= 4; k++) {
			struct run part = run;
			struct span s;

			part.messages = k;
			part.body.len = run_skip(&run, k);
			s = encode(formats[f], &part);
			if (s.len > ends[n - 1])
				ends[n++] = s.len;
			release(s);
		}
		for (size_t at = 0; at <= all.len; at++) {
			size_t i = 0;

			while (ends[i] < at)
				i++;
			assert_int_equal(formats[f]->boundary(all, at), ends[i]);
		}
		release(all);
	}
}

static void start_heartbeat_and_gap_tell_ids(void **state)
{
	char out[SSE_TEXT_MAX];
	size_t n;

	(void)state;
	n = sse_heartbeat(false, 0xabc, 12, out);
	assert_int_equal(n, strlen("id: 0000000000000abc:12\n\n"));
	assert_memory_equal(out, "id: 0000000000000abc:12\n\n", n);
	n = sse_heartbeat(true, 0xabc, 12, out);
	assert_memory_equal(out, "19\r\nid: 0000000000000abc:12\n\n\r\n", n);
	n = sse_gap(false, UINT64_MAX, UINT64_MAX, out);
	assert_memory_equal(out, "event: gap\ndata: ffffffffffffffff:18446744073709551615\n\n", n);
	n = sse_gap(true, UINT64_MAX, UINT64_MAX, out);
	assert_true(n <= sizeof(out));
	n = sse_start(false, 0xabc, 0, out);
	assert_int_equal(n, strlen("retry: 1000\nid: 0000000000000abc:0\n\n"));
	assert_memory_equal(out, "retry: 1000\nid: 0000000000000abc:0\n\n", n);
	n = sse_start(true, UINT64_MAX, UINT64_MAX, out);
	assert_true(n <= sizeof(out));
}

/* It is what is reserved for them. */
static void short_messages_promise_little_more_than_they_take(void **state)
{
	enum { LINES = 2000 };
	const struct span kinds[] = { SPAN("\r\n"), SPAN("a\r\n"), SPAN("12.345\r\n") };

	(void)state;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		char *body = malloc(LINES * kinds[i].len);
		struct run run = lines((struct span){ body, LINES * kinds[i].len }, LINES);
		struct span events;

		assert_non_null(body);
		for (size_t n = 0; n < LINES; n++)
			memcpy(body + n * kinds[i].len, kinds[i].data, kinds[i].len);
		events = encode(&sse_format, &run);
		assert_in_range(sse_format.encoded_max(&topic_alone, &run), events.len,
				events.len / 10 * 11);
		release(events);
		free(body);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_message_is_an_event_with_its_id),
		cmocka_unit_test(each_line_of_a_message_is_a_data_line),
		cmocka_unit_test(what_is_not_text_is_base64),
		cmocka_unit_test(an_event_of_many_topics_has_the_topic_for_its_number),
		cmocka_unit_test(what_leaves_nothing_behind_has_no_number),
		cmocka_unit_test(text_in_any_language_stays_text),
		cmocka_unit_test(every_byte_decides_by_itself),
		cmocka_unit_test(a_large_line_of_text_is_sent_from_where_it_lies),
		cmocka_unit_test(each_message_is_a_chunk),
		cmocka_unit_test(without_chunks_messages_are_their_bytes),
		cmocka_unit_test(records_are_encoded_as_each_alone),
		cmocka_unit_test(an_empty_message_has_no_chunk),
		cmocka_unit_test(boundaries_are_ends_of_messages),
		cmocka_unit_test(start_heartbeat_and_gap_tell_ids),
		cmocka_unit_test(short_messages_promise_little_more_than_they_take),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
