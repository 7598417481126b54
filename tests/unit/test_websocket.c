#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "protocol/websocket.h"

enum { MESSAGE_BYTES = 100000, PAGE = 4096 };

/* ---- frames as a client writes them ---- */

struct bytes {
	char data[400000];
	size_t len;
};

static const unsigned char mask[4] = { 0x11, 0xfe, 0x80, 0x3c };

static void add(struct bytes *b, struct span s)
{
	assert_true(b->len + s.len <= sizeof(b->data));
	if (s.len > 0)
		memcpy(b->data + b->len, s.data, s.len);
	b->len += s.len;
}

/* First byte (FIN, RSV, opcode), payload; a mask unless that is forbidden here. */
static void frame_of(struct bytes *b, unsigned first, struct span payload, bool masked)
{
	unsigned char head[10] = { (unsigned char)first };
	size_t n = 2;

	if (payload.len < 126) {
		head[1] = (unsigned char)payload.len;
	} else if (payload.len < 65536) {
		head[1] = 126;
		head[2] = (unsigned char)(payload.len >> 8);
		head[3] = (unsigned char)payload.len;
		n = 4;
	} else {
		head[1] = 127;
		for (int i = 0; i < 8; i++)
			head[2 + i] = (unsigned char)((uint64_t)payload.len >> (56 - 8 * i));
		n = 10;
	}
	head[1] |= masked ? 0x80 : 0;
	add(b, (struct span){ (const char *)head, n });
	if (masked)
		add(b, (struct span){ (const char *)mask, 4 });
	for (size_t i = 0; i < payload.len; i++) {
		char c = (char)(payload.data[i] ^ (masked ? mask[i % 4] : 0));

		add(b, (struct span){ &c, 1 });
	}
}

static void frame(struct bytes *b, unsigned first, struct span payload)
{
	frame_of(b, first, payload, true);
}

/* ---- what comes of them, as text ---- */

static size_t note(char *out, size_t n, const struct websocket_event *e, bool *within)
{
	switch (e->kind) {
	case WEBSOCKET_EVENT_PART:
		if (!*within)
			out[n++] = e->text ? 'T' : 'B';
		*within = !e->last;
		memcpy(out + n, e->bytes.data, e->bytes.len);
		n += e->bytes.len;
		if (e->last)
			out[n++] = '|';
		return n;
	case WEBSOCKET_EVENT_PING:
	case WEBSOCKET_EVENT_PONG:
		/* May stand in the middle of a message. */
		out[n++] = e->kind == WEBSOCKET_EVENT_PING ? '<' : '{';
		memcpy(out + n, e->bytes.data, e->bytes.len);
		n += e->bytes.len;
		out[n++] = '>';
		return n;
	case WEBSOCKET_EVENT_CLOSE:
		return n + (size_t)sprintf(out + n, "C%u%.*s", e->close_code, (int)e->bytes.len,
					   e->bytes.data);
	case WEBSOCKET_EVENT_ERROR:
		return n + (size_t)sprintf(out + n, "E%u%s",
					   (unsigned)(unsigned char)e->last_word[2] << 8 |
						   (unsigned char)e->last_word[3],
					   e->last_word + 4);
	case WEBSOCKET_EVENT_MORE:
	default:
		return n;
	}
}

static char noted[500000];

/* Each piece lies at a page's end, with nothing to read behind it. */
static char *page_end(struct span s)
{
	static char *pages;
	static size_t room = (size_t)128 * PAGE;

	if (pages == NULL) {
		pages = mmap(NULL, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
		assert_true(pages != MAP_FAILED);
		assert_int_equal(mprotect(pages + room, PAGE, PROT_NONE), 0);
	}
	assert_true(s.len <= room);
	if (s.len > 0)
		memcpy(pages + room - s.len, s.data, s.len);
	return pages + room - s.len;
}

/* What comes of the bytes in two pieces, and then in pieces of `step`. */
static const char *decode(struct span in, size_t split, size_t step)
{
	struct websocket_reader *r = websocket_reader_new();
	struct websocket_event e = { .kind = WEBSOCKET_EVENT_MORE };
	bool within = false, over = false;
	size_t n = 0;

	assert_non_null(r);
	assert_true(websocket_reader_idle(r));
	for (size_t at = 0; at < in.len && !over;) {
		size_t len = at < split ? split - at : step;
		struct span piece;

		if (len > in.len - at)
			len = in.len - at;
		piece = (struct span){ page_end((struct span){ in.data + at, len }), len };
		at += len;
		do {
			websocket_decode(r, &piece, MESSAGE_BYTES, &e);
			n = note(noted, n, &e, &within);
			over = e.kind == WEBSOCKET_EVENT_CLOSE || e.kind == WEBSOCKET_EVENT_ERROR;
		} while (e.kind != WEBSOCKET_EVENT_MORE && !over);
		if (!over)
			assert_int_equal(piece.len, 0);
	}
	if (!over && n > 0 && noted[n - 1] == '|')
		assert_true(websocket_reader_idle(r));
	websocket_reader_free(r);
	noted[n] = 0;
	return noted;
}

/* However it is split. */
static void expect(const struct bytes *b, const char *wanted)
{
	struct span in = { b->data, b->len };

	for (size_t split = 0; split <= (b->len < 300 ? b->len : 20); split++)
		assert_string_equal(decode(in, split, b->len), wanted);
	assert_string_equal(decode(in, 0, 1), wanted);
	assert_string_equal(decode(in, 0, 7), wanted);
}

static void expect_one(unsigned first, struct span payload, const char *wanted)
{
	static struct bytes b;

	b.len = 0;
	frame(&b, first, payload);
	expect(&b, wanted);
}

/* ---- the handshake ---- */

static void the_key_of_the_rfc_has_the_answer_of_the_rfc(void **state)
{
	char out[WEBSOCKET_ACCEPT_BYTES];

	(void)state;
	assert_true(websocket_accept(SPAN("dGhlIHNhbXBsZSBub25jZQ=="), out));
	assert_memory_equal(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", sizeof(out));
}

static void a_key_is_sixteen_bytes(void **state)
{
	static const char *const keys[] = { "",
					    "dGhlIHNhbXBsZSBub25jZQ",
					    "dGhlIHNhbXBsZSBub25jZQ=",
					    "dGhlIHNhbXBsZSBub25jZTE=",
					    "dGhlIHNhbXBsZSBub25jZTEy",
					    "dGhlIHNhbXBsZSBub25jZR==",
					    "dGhlIHNhbXBs SBub25jZQ==",
					    "dGhlIHNhbXBsZSBub25jZQ==AAAA" };
	char out[WEBSOCKET_ACCEPT_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		assert_false(websocket_accept(span_of(keys[i]), out));
}

/* ---- messages ---- */

static void a_frame_is_a_message(void **state)
{
	(void)state;
	expect_one(0x81, SPAN("hello"), "Thello|");
	expect_one(0x82, SPAN("hello"), "Bhello|");
	expect_one(0x81, SPAN(""), "T|");
	expect_one(0x82, SPAN(""), "B|");
}

static void fragments_are_one_message_with_control_frames_between_them(void **state)
{
	static struct bytes b;

	(void)state;
	b.len = 0;
	frame(&b, 0x01, SPAN("he"));
	frame(&b, 0x89, SPAN("are you there"));
	frame(&b, 0x00, SPAN(""));
	frame(&b, 0x00, SPAN("ll"));
	frame(&b, 0x8a, SPAN(""));
	frame(&b, 0x80, SPAN("o"));
	frame(&b, 0x82, SPAN("next"));
	expect(&b, "The<are you there>ll{>o|Bnext|");
}

static void a_message_may_begin_and_end_with_nothing(void **state)
{
	static struct bytes b;

	(void)state;
	b.len = 0;
	frame(&b, 0x02, SPAN(""));
	frame(&b, 0x00, SPAN("x"));
	frame(&b, 0x80, SPAN(""));
	expect(&b, "Bx|");
}

static void every_length_has_its_head(void **state)
{
	static const size_t lengths[] = { 125, 126, 127, 4095, 4096, 65535, 65536, MESSAGE_BYTES };
	static char payload[MESSAGE_BYTES], wanted[MESSAGE_BYTES + 3];
	static struct bytes b;

	(void)state;
	memset(payload, 'x', sizeof(payload));
	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		b.len = 0;
		frame(&b, 0x81, (struct span){ payload, lengths[i] });
		wanted[0] = 'T';
		memcpy(wanted + 1, payload, lengths[i]);
		memcpy(wanted + 1 + lengths[i], "|", 2);
		expect(&b, wanted);
	}
}

static void what_is_behind_a_message_is_kept_for_the_next_call(void **state)
{
	struct websocket_reader *r = websocket_reader_new();
	struct websocket_event e;
	static struct bytes b;
	struct span in;

	(void)state;
	b.len = 0;
	frame(&b, 0x81, SPAN("one"));
	frame(&b, 0x81, SPAN("two"));
	in = (struct span){ b.data, b.len };
	websocket_decode(r, &in, MESSAGE_BYTES, &e);
	assert_true(e.last && span_equal(e.bytes, SPAN("one")));
	assert_false(websocket_reader_idle(r));
	in.len = 0;
	websocket_decode(r, &in, MESSAGE_BYTES, &e);
	assert_true(e.last && span_equal(e.bytes, SPAN("two")));
	assert_true(websocket_reader_idle(r));
	websocket_reader_free(r);
}

/* ---- what ends a connection ---- */

static void a_frame_without_a_mask_is_malformed(void **state)
{
	static struct bytes b;

	(void)state;
	b.len = 0;
	frame_of(&b, 0x81, SPAN("hello"), false);
	expect(&b, "E1002malformed frame");
	b.len = 0;
	frame_of(&b, 0x89, SPAN(""), false);
	expect(&b, "E1002malformed frame");
}

static void reserved_bits_and_opcodes_are_malformed(void **state)
{
	(void)state;
	for (unsigned bit = 0x10; bit <= 0x40; bit <<= 1) {
		expect_one(0x81 | bit, SPAN("x"), "E1002malformed frame");
		expect_one(0x89 | bit, SPAN(""), "E1002malformed frame");
	}
	for (unsigned opcode = 0; opcode < 16; opcode++)
		if ((opcode >= 3 && opcode <= 7) || opcode >= 11)
			expect_one(0x80 | opcode, SPAN("x"), "E1002malformed frame");
}

static void control_frames_are_short_and_whole(void **state)
{
	static char payload[126];

	(void)state;
	memset(payload, 'p', sizeof(payload));
	expect_one(0x89, (struct span){ payload, 126 }, "E1002malformed frame");
	expect_one(0x09, SPAN("x"), "E1002malformed frame");
	expect_one(0x08, SPAN(""), "E1002malformed frame");
	payload[125] = 0;
	expect_one(0x8a, (struct span){ payload, 125 },
		   "{ppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp"
		   "pppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp>");
}

static void lengths_are_as_short_as_they_can_be(void **state)
{
	static const struct span heads[] = {
		{ "\x81\xfe\x00\x05", 4 },
		{ "\x81\xfe\x00\x7d", 4 },
		{ "\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff", 10 },
		{ "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00", 10 },
	};
	static struct bytes b;

	(void)state;
	for (size_t i = 0; i < sizeof(heads) / sizeof(*heads); i++) {
		b.len = 0;
		add(&b, heads[i]);
		add(&b, SPAN("maskpayload"));
		expect(&b, "E1002malformed frame");
	}
}

static void a_message_begins_once_and_goes_on_only_then(void **state)
{
	static struct bytes b;

	(void)state;
	expect_one(0x80, SPAN("x"), "E1002malformed frame");
	expect_one(0x00, SPAN("x"), "E1002malformed frame");
	b.len = 0;
	frame(&b, 0x01, SPAN("a"));
	frame(&b, 0x81, SPAN("b"));
	expect(&b, "TaE1002malformed frame");
}

static void a_message_has_its_limits(void **state)
{
	static char payload[MESSAGE_BYTES + 1];
	static struct bytes b;
	static char wanted[WEBSOCKET_FRAGMENTS_MAX + 100];

	(void)state;
	expect_one(0x82, (struct span){ payload, MESSAGE_BYTES + 1 }, "E1009line too long");
	b.len = 0;
	memset(payload, 'x', sizeof(payload));
	frame(&b, 0x02, (struct span){ payload, 10 });
	frame(&b, 0x80, (struct span){ payload, MESSAGE_BYTES - 9 });
	expect(&b, "BxxxxxxxxxxE1009line too long");
	/* A length that cannot be is no less too long. */
	b.len = 0;
	add(&b, (struct span){ "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 10 });
	add(&b, SPAN("maskx"));
	expect(&b, "E1009line too long");
	b.len = 0;
	frame(&b, 0x01, SPAN("x"));
	for (size_t i = 1; i < WEBSOCKET_FRAGMENTS_MAX; i++)
		frame(&b, 0x00, SPAN("x"));
	wanted[0] = 'T';
	memset(wanted + 1, 'x', WEBSOCKET_FRAGMENTS_MAX);
	strcpy(wanted + 1 + WEBSOCKET_FRAGMENTS_MAX, "");
	assert_string_equal(decode((struct span){ b.data, b.len }, 0, b.len), wanted);
	frame(&b, 0x80, SPAN(""));
	strcpy(wanted + 1 + WEBSOCKET_FRAGMENTS_MAX, "E1008too many fragments");
	assert_string_equal(decode((struct span){ b.data, b.len }, 0, b.len), wanted);
}

static void text_is_utf8_over_fragments_too(void **state)
{
	static const char whole[] = "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80";
	static struct bytes b;
	char wanted[64];

	(void)state;
	snprintf(wanted, sizeof(wanted), "T%s|", whole);
	for (size_t i = 0; i < sizeof(whole); i++) {
		b.len = 0;
		frame(&b, 0x01, (struct span){ whole, i });
		frame(&b, 0x80, (struct span){ whole + i, sizeof(whole) - 1 - i });
		expect(&b, wanted);
	}
}

static void text_that_is_not_utf8_ends_it(void **state)
{
	static const struct span wrong[] = { { "\xff", 1 },         { "\xc3", 1 },
					     { "\xc0\xaf", 2 },     { "\xe2\x82", 2 },
					     { "\xed\xa0\x80", 3 }, { "\xf4\x90\x80\x80", 4 },
					     { "\xf0\x9f\x98", 3 }, { "\x80", 1 },
					     { "\xf5", 1 } };
	struct websocket_event e;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		for (size_t at = 0; at <= wrong[i].len; at++) {
			struct websocket_reader *r = websocket_reader_new();
			static struct bytes b;
			struct span in;

			b.len = 0;
			frame(&b, 0x01, (struct span){ wrong[i].data, at });
			frame(&b, 0x80, span_skip(wrong[i], at));
			in = (struct span){ b.data, b.len };
			do
				websocket_decode(r, &in, MESSAGE_BYTES, &e);
			while (e.kind == WEBSOCKET_EVENT_PART && !e.last);
			assert_int_equal(e.kind, WEBSOCKET_EVENT_ERROR);
			assert_string_equal(e.last_word, WEBSOCKET_NOT_UTF8);
			websocket_reader_free(r);
		}
	expect_one(0x82, SPAN("\xff\xc3"), "B\xff\xc3|");
}

static void a_close_says_why_or_nothing(void **state)
{
	(void)state;
	expect_one(0x88, SPAN(""), "C0");
	expect_one(0x88, SPAN("\x03\xe8"), "C1000");
	expect_one(0x88, SPAN("\x0f\xa0gone"), "C4000gone");
	expect_one(0x88, SPAN("\x03\xe8\xff"), "E1007not UTF-8");
	expect_one(0x88, SPAN("\x03"), "E1002malformed frame");
	for (unsigned code = 0; code < 5100; code++) {
		char text[2] = { (char)(code >> 8), (char)code }, wanted[40];
		bool valid = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
			     (code >= 3000 && code < 5000);
		static struct bytes b;

		snprintf(wanted, sizeof(wanted), valid ? "C%u" : "E1002malformed frame", code);
		b.len = 0;
		frame(&b, 0x88, (struct span){ text, 2 });
		assert_string_equal(decode((struct span){ b.data, b.len }, 0, b.len), wanted);
	}
}

static void every_last_word_is_a_close_frame(void **state)
{
	static const char *const words[] = {
		WEBSOCKET_CLOSED,        WEBSOCKET_DRAINING,
		WEBSOCKET_MALFORMED,     WEBSOCKET_TEXT_ONLY,
		WEBSOCKET_NOT_UTF8,      WEBSOCKET_NOT_PERMITTED,
		WEBSOCKET_FRAGMENTS,     WEBSOCKET_TOO_LONG,
		WEBSOCKET_MEMORY,        WEBSOCKET_SLOW,
		WEBSOCKET_TOPICS,        WEBSOCKET_CONNECTIONS,
		WEBSOCKET_SUBSCRIPTIONS, WEBSOCKET_TIMEOUT,
		WEBSOCKET_BINARY_ONLY,   WEBSOCKET_PATTERNS,
		WEBSOCKET_GAP,           WEBSOCKET_UPSTREAM,
		WEBSOCKET_EXPIRED,       WEBSOCKET_MESSAGE_TOO_LONG,
	};

	(void)state;
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		size_t len = strlen(words[i]);

		assert_int_equal((unsigned char)words[i][0], 0x88);
		assert_int_equal(words[i][1], len - 2);
	}
}

/* ---- heads ---- */

static void heads_are_as_short_as_they_can_be(void **state)
{
	char out[WEBSOCKET_HEAD_MAX];

	(void)state;
	assert_int_equal(websocket_head(WEBSOCKET_TEXT, 125, out), 2);
	assert_memory_equal(out, "\x81\x7d", 2);
	assert_int_equal(websocket_head(WEBSOCKET_BINARY, 126, out), 4);
	assert_memory_equal(out, "\x82\x7e\x00\x7e", 4);
	assert_int_equal(websocket_head(WEBSOCKET_BINARY, 65535, out), 4);
	assert_memory_equal(out, "\x82\x7e\xff\xff", 4);
	assert_int_equal(websocket_head(WEBSOCKET_PONG, 65536, out), 10);
	assert_memory_equal(out, "\x8a\x7f\0\0\0\0\0\x01\0\0", 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_key_of_the_rfc_has_the_answer_of_the_rfc),
		cmocka_unit_test(a_key_is_sixteen_bytes),
		cmocka_unit_test(a_frame_is_a_message),
		cmocka_unit_test(fragments_are_one_message_with_control_frames_between_them),
		cmocka_unit_test(a_message_may_begin_and_end_with_nothing),
		cmocka_unit_test(every_length_has_its_head),
		cmocka_unit_test(what_is_behind_a_message_is_kept_for_the_next_call),
		cmocka_unit_test(a_frame_without_a_mask_is_malformed),
		cmocka_unit_test(reserved_bits_and_opcodes_are_malformed),
		cmocka_unit_test(control_frames_are_short_and_whole),
		cmocka_unit_test(lengths_are_as_short_as_they_can_be),
		cmocka_unit_test(a_message_begins_once_and_goes_on_only_then),
		cmocka_unit_test(a_message_has_its_limits),
		cmocka_unit_test(text_is_utf8_over_fragments_too),
		cmocka_unit_test(text_that_is_not_utf8_ends_it),
		cmocka_unit_test(a_close_says_why_or_nothing),
		cmocka_unit_test(every_last_word_is_a_close_frame),
		cmocka_unit_test(heads_are_as_short_as_they_can_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
