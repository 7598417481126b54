#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/name.h"
#include "protocol/mqtt.h"
#include "random.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- bytes ---- */

/* A page's end, behind which nothing may be read. */
static char *page_end;

static int make_page(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), n = 16 * page;
	char *room =
		mmap(NULL, n + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	if (room == MAP_FAILED || mprotect(room + n, page, PROT_NONE) != 0)
		return -1;
	page_end = room + n;
	return 0;
}

static struct span at_page_end(struct span s)
{
	if (s.len > 0)
		memcpy(page_end - s.len, s.data, s.len);
	return (struct span){ page_end - s.len, s.len };
}

/* Bytes written as hexadecimal digits, and 'text' between apostrophes; spaces do not count. */
static struct span bytes_of(const char *text)
{
	static char room[1024];
	size_t n = 0;
	bool quoted = false;

	for (; *text != 0; text++) {
		unsigned byte;

		assert_true(n < sizeof(room));
		if (*text == '\'') {
			quoted = !quoted;
		} else if (quoted) {
			room[n++] = *text;
		} else if (*text != ' ') {
			assert_int_equal(sscanf(text, "%2x", &byte), 1);
			room[n++] = (char)byte;
			text++;
		}
	}
	return (struct span){ room, n };
}

static void expect_bytes(struct span got, const char *wanted)
{
	struct span w = bytes_of(wanted);

	assert_int_equal(got.len, w.len);
	assert_memory_equal(got.data, w.data, w.len);
}

/* What a packet is found to be: MQTT_SUCCESS, what is wrong, or -1: more is wanted. */
static int verdict(unsigned level, struct span in)
{
	struct mqtt_head head;
	struct mqtt_connect connect;
	struct mqtt_answer answer;
	struct mqtt_subscribe subscribe;
	struct mqtt_publish publish;
	struct span body;
	int got = mqtt_head(level, in, &head);

	if (got <= 0)
		return got == 0 ? -1 : -got;
	body = span_skip(in, head.bytes);
	if (head.type == MQTT_PUBLISH) {
		char room[MQTT_NATIVE_MAX];
		struct span name;
		int64_t n = mqtt_publish_head(level, &head, body, &publish);

		if (n <= 0)
			return n == 0 ? -1 : -(int)n;
		if (mqtt_topic(publish.topic, room, &name) >= MQTT_NAME_INVALID)
			return MQTT_BAD_TOPIC;
		return body.len < head.remaining ? -1 : MQTT_SUCCESS;
	}
	if (body.len < head.remaining)
		return -1;
	body.len = head.remaining;
	switch (head.type) {
	case MQTT_CONNECT:
		return (int)mqtt_connect(&head, body, &connect);
	case MQTT_SUBSCRIBE:
	case MQTT_UNSUBSCRIBE:
		return (int)mqtt_subscribe(level, &head, body, &subscribe);
	case MQTT_PUBACK:
	case MQTT_PUBREC:
	case MQTT_PUBREL:
	case MQTT_PUBCOMP:
	case MQTT_DISCONNECT:
		return (int)mqtt_answer(level, &head, body, &answer);
	default:
		return (int)mqtt_empty(&head);
	}
}

/* ---- what the specification demands of packets ---- */

enum { BOTH = 0 };

/* Statements as 5.0 numbers them; where 3.1.1 alone has one, as that does. A level of BOTH: bytes
 * that are the same in both. */
static const struct statement {
	const char *number;
	unsigned level;
	const char *packet;
	int verdict;
} statements[] = {
	/* 1.5.4: UTF-8 encoded strings */
	{ "1.5.4-1", 5, "10 10 0004'MQTT' 05 02 0000 00 0003 eda080", MQTT_MALFORMED },
	{ "1.5.3-1", 4, "10 0f 0004'MQTT' 04 02 0000 0003 eda080", MQTT_MALFORMED },
	{ "1.5.4-2", 5, "10 10 0004'MQTT' 05 02 0000 00 0003 'a'00'b'", MQTT_MALFORMED },
	{ "1.5.3-2", 4, "10 0f 0004'MQTT' 04 02 0000 0003 'a'00'b'", MQTT_MALFORMED },
	{ "1.5.4-3", 5, "10 10 0004'MQTT' 05 02 0000 00 0003 efbbbf", MQTT_SUCCESS },
	{ "1.5.4 overlong", 5, "10 0f 0004'MQTT' 05 02 0000 00 0002 c080", MQTT_MALFORMED },
	/* 1.5.5: variable byte integers */
	{ "1.5.5-1", 5, "c0 80 00", MQTT_MALFORMED },
	{ "1.5.5-1", 5, "82 08 0001 8000 0001'a'00", MQTT_MALFORMED },
	{ "2.2.3", 4, "c0 80 00", MQTT_SUCCESS },
	{ "1.5.5 five bytes", BOTH, "c0 80808080 00", MQTT_MALFORMED },
	/* 2.1: fixed header */
	{ "2.1.2 type 0", BOTH, "00 00", MQTT_MALFORMED },
	{ "2.2.2-2 type 15", 4, "f0 00", MQTT_MALFORMED },
	{ "2.1.3-1", BOTH, "12 00", MQTT_MALFORMED },
	{ "2.1.3-1", BOTH, "41 02 0001", MQTT_MALFORMED },
	{ "2.1.3-1", BOTH, "50 02 0001", MQTT_SUCCESS },
	{ "3.6.1-1", BOTH, "60 02 0001", MQTT_MALFORMED },
	{ "3.6.1-1", BOTH, "62 02 0001", MQTT_SUCCESS },
	{ "3.8.1-1", BOTH, "80 06 0001 0001'a'00", MQTT_MALFORMED },
	{ "3.10.1-1", BOTH, "a0 05 0001 0001'a'", MQTT_MALFORMED },
	{ "3.12", BOTH, "c1 00", MQTT_MALFORMED },
	{ "3.12", BOTH, "c0 00", MQTT_SUCCESS },
	{ "3.12", BOTH, "c0 01 00", MQTT_MALFORMED },
	{ "3.14.1-1", BOTH, "e1 00", MQTT_MALFORMED },
	{ "3.15.1-1", 5, "f1 00", MQTT_MALFORMED },
	/* 2.2.1: packet identifiers */
	{ "2.2.1-3", 4, "32 06 0001'a' 0000 'x'", MQTT_PROTOCOL_ERROR },
	{ "2.2.1-3", 5, "32 07 0001'a' 0000 00 'x'", MQTT_PROTOCOL_ERROR },
	{ "2.2.1-3", 4, "82 06 0000 0001'a'00", MQTT_PROTOCOL_ERROR },
	{ "2.2.1-3", 5, "82 07 0000 00 0001'a'00", MQTT_PROTOCOL_ERROR },
	{ "2.2.1-3", 4, "a2 05 0000 0001'a'", MQTT_PROTOCOL_ERROR },
	{ "2.2.1", BOTH, "62 02 0000", MQTT_PROTOCOL_ERROR },
	/* 2.2.2: properties */
	{ "2.2.2.2 unknown", 5, "82 09 0001 02 0400 0001'a'00", MQTT_MALFORMED },
	{ "2.2.2.2 not its", 5, "82 09 0001 02 0101 0001'a'00", MQTT_MALFORMED },
	{ "2.2.2.2 short", 5, "30 08 0001'a' 04 02 0000 'x'", MQTT_MALFORMED },
	{ "2.2.2 beyond", 5, "30 04 0001'a' 01", MQTT_MALFORMED },
	{ "2.2.2-1", 5, "30 04 0001'a' 00", MQTT_SUCCESS },
	{ "2.2.2-1", 5, "30 03 0001'a'", MQTT_MALFORMED },
	/* 3.1: CONNECT */
	{ "3.1.2-1", 5, "10 0d 0004'MQTX' 05 02 0000 00 0000", MQTT_UNSUPPORTED_VERSION },
	{ "3.1.2-2", 4, "10 0e 0006'MQIsdp' 03 02 0000 0000", MQTT_UNSUPPORTED_VERSION },
	{ "3.1.2-2", 5, "10 0d 0004'MQTT' 06 02 0000 00 0000", MQTT_UNSUPPORTED_VERSION },
	{ "3.1.2-3", 5, "10 0d 0004'MQTT' 05 03 0000 00 0000", MQTT_MALFORMED },
	{ "3.1.2-3", 4, "10 0c 0004'MQTT' 04 03 0000 0000", MQTT_MALFORMED },
	{ "3.1.2-11", 5, "10 0d 0004'MQTT' 05 0a 0000 00 0000", MQTT_MALFORMED },
	{ "3.1.2-12", 5, "10 13 0004'MQTT' 05 1e 0000 00 0000 00 0001'w' 0000", MQTT_MALFORMED },
	{ "3.1.2-13", 5, "10 0d 0004'MQTT' 05 22 0000 00 0000", MQTT_MALFORMED },
	{ "3.1.2-9", 5, "10 0d 0004'MQTT' 05 06 0000 00 0000", MQTT_MALFORMED },
	{ "3.1.2-9", 5, "10 13 0004'MQTT' 05 06 0000 00 0000 00 0001'w' 0000", MQTT_SUCCESS },
	{ "3.1.2-17", 5, "10 0d 0004'MQTT' 05 82 0000 00 0000", MQTT_MALFORMED },
	{ "3.1.2-16", 5, "10 10 0004'MQTT' 05 02 0000 00 0000 0001'u'", MQTT_MALFORMED },
	{ "3.1.2-22 of 3.1.1", 4, "10 0f 0004'MQTT' 04 42 0000 0000 0001'p'", MQTT_MALFORMED },
	{ "3.1.2-19", 5, "10 10 0004'MQTT' 05 42 0000 00 0000 0001'p'", MQTT_SUCCESS },
	{ "3.1.2.11.3", 5, "10 10 0004'MQTT' 05 02 0000 03 210000 0000", MQTT_PROTOCOL_ERROR },
	{ "3.1.2.11.4", 5, "10 12 0004'MQTT' 05 02 0000 05 2700000000 0000", MQTT_PROTOCOL_ERROR },
	{ "3.1.2.11.6", 5, "10 0f 0004'MQTT' 05 02 0000 02 1902 0000", MQTT_PROTOCOL_ERROR },
	{ "3.1.2.11.7", 5, "10 0f 0004'MQTT' 05 02 0000 02 1702 0000", MQTT_PROTOCOL_ERROR },
	{ "3.1.2.11.7", 5, "10 11 0004'MQTT' 05 02 0000 04 17001700 0000", MQTT_PROTOCOL_ERROR },
	{ "3.1.2.11.8", 5, "10 1b 0004'MQTT' 05 02 0000 0e 260001'a'0001'b'260001'a'0001'c' 0000",
	  MQTT_SUCCESS },
	{ "3.1.2.11.10", 5, "10 11 0004'MQTT' 05 02 0000 04 160001'x' 0000", MQTT_PROTOCOL_ERROR },
	{ "3.1.3-3", 5, "10 0b 0004'MQTT' 05 02 0000 00", MQTT_MALFORMED },
	{ "3.1.3.2.3", 5, "10 15 0004'MQTT' 05 06 0000 00 0000 02 0102 0001'w' 0000",
	  MQTT_PROTOCOL_ERROR },
	{ "3.1.3 more", 5, "10 0e 0004'MQTT' 05 02 0000 00 0000 00", MQTT_MALFORMED },
	{ "3.1.3 more", 4, "10 0d 0004'MQTT' 04 02 0000 0000 00", MQTT_MALFORMED },
	{ "3.1", 4, "10 0c 0004'MQTT' 04 02 0000 0000", MQTT_SUCCESS },
	{ "3.1", 5, "10 0d 0004'MQTT' 05 02 0000 00 0000", MQTT_SUCCESS },
	/* 3.3: PUBLISH */
	{ "3.3.1-2", BOTH, "38 03 0001'a'", MQTT_MALFORMED },
	{ "3.3.1-4", BOTH, "36 06 0001'a' 0001 00", MQTT_MALFORMED },
	{ "3.3.2-1", 4, "30 02 0000", MQTT_BAD_TOPIC },
	{ "3.3.2-1", 4, "30 03 0001ff", MQTT_BAD_TOPIC },
	{ "3.3.2-1", 4, "30 03 0002'a'", MQTT_MALFORMED },
	{ "3.3.2-2", 4, "30 03 0001'#'", MQTT_BAD_TOPIC },
	{ "3.3.2-2", 5, "30 06 0003'a/+' 00", MQTT_BAD_TOPIC },
	{ "3.3.2-8", 5, "30 07 0001'a' 03 230001", MQTT_BAD_ALIAS },
	{ "3.3.2-8", 5, "30 07 0001'a' 03 230000", MQTT_BAD_ALIAS },
	{ "3.3.2-14", 5, "30 08 0001'a' 04 080001'#'", MQTT_PROTOCOL_ERROR },
	{ "3.3.2.3.2", 5, "30 06 0001'a' 02 0102", MQTT_PROTOCOL_ERROR },
	{ "3.3.4-6", 5, "30 06 0001'a' 02 0b01", MQTT_PROTOCOL_ERROR },
	{ "3.3.2", 4, "32 04 0001'a' 00", MQTT_MALFORMED },
	{ "3.3.3", 4, "30 03 0001'a'", MQTT_SUCCESS },
	/* 3.4 to 3.7: the acknowledgements */
	{ "3.4", 4, "40 03 0001 00", MQTT_MALFORMED },
	{ "3.4.2-1", 5, "40 03 0001 01", MQTT_PROTOCOL_ERROR },
	{ "3.4.2-1", 5, "40 03 0001 10", MQTT_SUCCESS },
	{ "3.4.2.2", 5, "40 04 0001 00 00", MQTT_SUCCESS },
	{ "3.4.2.2", 5, "40 08 0001 00 04 1f0001'r'", MQTT_SUCCESS },
	{ "3.6.2-1", 5, "62 03 0001 10", MQTT_PROTOCOL_ERROR },
	{ "3.6.2-1", 5, "62 03 0001 92", MQTT_SUCCESS },
	{ "3.7.2-1", 5, "70 03 0001 80", MQTT_PROTOCOL_ERROR },
	{ "3.4.2", BOTH, "40 01 00", MQTT_MALFORMED },
	/* 3.8: SUBSCRIBE */
	{ "3.8.3-1", 4, "82 06 0001 0001 ff 00", MQTT_MALFORMED },
	{ "3.8.3-2", 5, "82 03 0001 00", MQTT_PROTOCOL_ERROR },
	{ "3.8.3-3 of 3.1.1", 4, "82 02 0001", MQTT_PROTOCOL_ERROR },
	{ "3-8.3-4 of 3.1.1", 4, "82 06 0001 0001'a' 04", MQTT_MALFORMED },
	{ "3-8.3-4 of 3.1.1", 4, "82 06 0001 0001'a' 03", MQTT_PROTOCOL_ERROR },
	{ "3.8.3-4", 5, "82 10 0001 00 000a'$share/g/t' 04", MQTT_PROTOCOL_ERROR },
	{ "3.8.3-4", 5, "82 10 0001 00 000a'$share/g/t' 00", MQTT_SUCCESS },
	{ "3.8.3-5", 5, "82 07 0001 00 0001'a' 40", MQTT_MALFORMED },
	{ "3.8.3.1 QoS 3", 5, "82 07 0001 00 0001'a' 03", MQTT_PROTOCOL_ERROR },
	{ "3.8.3.1 handling 3", 5, "82 07 0001 00 0001'a' 30", MQTT_PROTOCOL_ERROR },
	{ "3.8.3.1", 5, "82 07 0001 00 0001'a' 2e", MQTT_SUCCESS },
	{ "3.8.2.1.2", 5, "82 09 0001 02 0b00 0001'a' 00", MQTT_PROTOCOL_ERROR },
	{ "3.8.2.1.2", 5, "82 0b 0001 04 0b010b02 0001'a' 00", MQTT_PROTOCOL_ERROR },
	{ "3.8.2.1.2", 5, "82 09 0001 02 0b01 0001'a' 00", MQTT_SUCCESS },
	{ "3.8.3", 4, "82 05 0001 0001'a'", MQTT_MALFORMED },
	/* 3.10: UNSUBSCRIBE */
	{ "3.10.3-1", 4, "a2 05 0001 0001ff", MQTT_MALFORMED },
	{ "3.10.3-2", 4, "a2 02 0001", MQTT_PROTOCOL_ERROR },
	{ "3.10.3-2", 5, "a2 03 0001 00", MQTT_PROTOCOL_ERROR },
	{ "3.10", 5, "a2 09 0001 00 0001'a'0001'b'", MQTT_SUCCESS },
	/* 3.14: DISCONNECT */
	{ "3.14", 4, "e0 00", MQTT_SUCCESS },
	{ "3.14", 4, "e0 01 00", MQTT_MALFORMED },
	{ "3.14.2-1", 5, "e0 01 04", MQTT_SUCCESS },
	{ "3.14.2-1", 5, "e0 01 8e", MQTT_PROTOCOL_ERROR },
	{ "3.14.2.2.2", 5, "e0 07 00 05 11 00000001", MQTT_SUCCESS },
	{ "3.14.2.2", 5, "e0 07 00 05 02 00000001", MQTT_MALFORMED },
};

static void packets_are_what_the_specification_says(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(statements); i++) {
		const struct statement *s = &statements[i];

		for (unsigned level = MQTT_3_1_1; level <= MQTT_5; level++) {
			int got;

			if (s->level != BOTH && s->level != level)
				continue;
			got = verdict(level, at_page_end(bytes_of(s->packet)));
			if (got != s->verdict)
				fail_msg("%s, level %u: 0x%02x, not 0x%02x", s->number, level,
					 (unsigned)got, (unsigned)s->verdict);
		}
	}
}

/* A part of a packet is never taken for something else than the whole is, nor for all of it. */
static void part_of_a_packet_wants_more_or_is_as_wrong_as_the_whole(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(statements); i++) {
		const struct statement *s = &statements[i];
		struct span whole = bytes_of(s->packet);
		unsigned level = s->level == BOTH ? MQTT_5 : s->level;

		for (size_t n = 0; n < whole.len; n++) {
			int got = verdict(level, at_page_end((struct span){ whole.data, n }));

			if (got != -1 && (got == MQTT_SUCCESS || got != s->verdict))
				fail_msg("%s: 0x%02x after %zu bytes", s->number, (unsigned)got, n);
		}
	}
}

static void connect_is_read_whole(void **state)
{
	struct span in = at_page_end(
		bytes_of("10 46 0004'MQTT' 05 f6 003c"
			 "14 11 0000000a 21 0014 22 0005 27 00001000 17 00 19 01"
			 "0002'me' 0f 18 00000005 01 01 02 00000007 03 0000 0003'a/b' 0002 00ff"
			 "0004'user' 0002'pw'"));
	struct mqtt_head head;
	struct mqtt_connect c;

	(void)state;
	assert_int_equal(mqtt_head(0, in, &head), 1);
	assert_int_equal(head.remaining, in.len - 2);
	assert_int_equal(mqtt_connect(&head, span_skip(in, 2), &c), MQTT_SUCCESS);
	assert_int_equal(c.level, MQTT_5);
	assert_true(c.clean && c.has_will && c.has_user && c.has_password);
	assert_int_equal(c.keep_alive, 60);
	assert_int_equal(c.properties.session_expiry, 10);
	assert_int_equal(c.properties.receive_maximum, 20);
	assert_int_equal(c.properties.maximum_packet, 4096);
	assert_int_equal(c.properties.request_problem, 0);
	assert_true(span_equal(c.client_id, SPAN("me")));
	assert_int_equal(c.will.qos, 2);
	assert_true(c.will.retain);
	assert_int_equal(c.will.properties.message_expiry, 7);
	assert_true(span_equal(c.will.topic, SPAN("a/b")));
	assert_true(span_equal(c.will.payload, SPAN("\x00\xff")));
	assert_true(span_equal(c.user, SPAN("user")));
	assert_true(span_equal(c.password, SPAN("pw")));
}

static void filters_come_one_by_one(void **state)
{
	struct span in = bytes_of("82 0e 0007 00 0003'a/+'01 0002'b#'2c");
	struct mqtt_head head;
	struct mqtt_subscribe s;
	struct mqtt_filter f;

	(void)state;
	assert_int_equal(mqtt_head(MQTT_5, in, &head), 1);
	assert_int_equal(mqtt_subscribe(MQTT_5, &head, span_skip(in, 2), &s), MQTT_SUCCESS);
	assert_int_equal(s.id, 7);
	assert_int_equal(s.filters_n, 2);
	assert_true(mqtt_next_filter(&s.filters, true, &f));
	assert_true(span_equal(f.filter, SPAN("a/+")) && f.qos == 1 && !f.no_local);
	assert_true(mqtt_next_filter(&s.filters, true, &f));
	assert_true(span_equal(f.filter, SPAN("b#")) && f.qos == 0 && f.no_local &&
		    f.retain_as_published && f.retain_handling == 2);
	assert_false(mqtt_next_filter(&s.filters, true, &f));
}

/* ---- names ---- */

static void names_are_converted_one_to_one(void **state)
{
	static const char *const pairs[][2] = {
		{ "a/b", "a.b" },       { "/a", "/.a" },
		{ "a//b", "a./.b" },    { "v1.0/x", "v1//0.x" },
		{ "a/", "a./" },        { "/", "/./" },
		{ ".", "//" },          { "..", "////" },
		{ "./", "//./" },       { "a", "a" },
		{ "$SYS/x", "$SYS.x" }, { "\xc3\xa4/\xe2\x82\xac", "\xc3\xa4.\xe2\x82\xac" },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(pairs); i++) {
		char room[MQTT_NATIVE_MAX], back[MQTT_NATIVE_MAX];
		struct span native, name;

		assert_int_equal(mqtt_topic(at_page_end(span_of(pairs[i][0])), room, &native),
				 MQTT_NAME_TOPIC);
		assert_true(span_equal(native, span_of(pairs[i][1])));
		assert_true(mqtt_topic_name(native, back, &name));
		assert_true(span_equal(name, span_of(pairs[i][0])));
	}
}

static void no_two_names_meet(void **state)
{
	static const char signs[] = "a./";

	(void)state;
	for (int round = 0; round < 20000; round++) {
		char name[12], room[MQTT_NATIVE_MAX], back[MQTT_NATIVE_MAX];
		struct span in = { name, 1 + below(sizeof(name)) }, native, again;

		for (size_t i = 0; i < in.len; i++)
			name[i] = signs[below(3)];
		if (mqtt_topic(in, room, &native) == MQTT_NAME_TOPIC) {
			assert_true(name_valid(native));
			assert_true(mqtt_topic_name(native, back, &again));
			assert_true(span_equal(again, in));
		}
		/* The other way, of whatever is a topic. */
		if (name_valid(in) && mqtt_topic_name(in, back, &again)) {
			assert_int_equal(mqtt_topic(again, room, &native), MQTT_NAME_TOPIC);
			assert_true(span_equal(native, in));
		}
	}
}

static void what_is_no_topic_is_told_from_what_is_wrong(void **state)
{
	char room[MQTT_NATIVE_MAX], longest[300];
	struct span out;

	(void)state;
	assert_int_equal(mqtt_topic(SPAN(""), room, &out), MQTT_NAME_INVALID);
	assert_int_equal(mqtt_topic(SPAN("a/+"), room, &out), MQTT_NAME_INVALID);
	assert_int_equal(mqtt_topic(SPAN("a#b"), room, &out), MQTT_NAME_INVALID);
	assert_int_equal(mqtt_topic(SPAN("a\xff"), room, &out), MQTT_NAME_MALFORMED);
	assert_int_equal(mqtt_topic(SPAN("a\0b"), room, &out), MQTT_NAME_MALFORMED);
	assert_int_equal(mqtt_topic(SPAN("a*"), room, &out), MQTT_NAME_NO_TOPIC);
	assert_int_equal(mqtt_topic(SPAN("a/>"), room, &out), MQTT_NAME_NO_TOPIC);
	assert_int_equal(mqtt_topic(SPAN("*/+"), room, &out), MQTT_NAME_INVALID);
	assert_int_equal(mqtt_topic(SPAN("a\nb"), room, &out), MQTT_NAME_NO_TOPIC);
	memset(longest, 'x', sizeof(longest));
	assert_int_equal(mqtt_topic((struct span){ longest, 255 }, room, &out), MQTT_NAME_TOPIC);
	assert_int_equal(mqtt_topic((struct span){ longest, 256 }, room, &out), MQTT_NAME_NO_TOPIC);
	memset(longest, '.', sizeof(longest));
	assert_int_equal(mqtt_topic((struct span){ longest, 127 }, room, &out), MQTT_NAME_TOPIC);
	assert_int_equal(mqtt_topic((struct span){ longest, 128 }, room, &out), MQTT_NAME_NO_TOPIC);
	memset(longest, '/', sizeof(longest));
	assert_int_equal(mqtt_topic((struct span){ longest, 200 }, room, &out), MQTT_NAME_NO_TOPIC);
}

static void topics_without_a_name_are_told(void **state)
{
	static const char *const none[] = { "a/b", "/a", "a/", "///", "a+", "#", "a.+.b", "/" };
	char room[MQTT_NATIVE_MAX];
	struct span out;

	(void)state;
	for (size_t i = 0; i < COUNT(none); i++)
		assert_false(mqtt_topic_name(span_of(none[i]), room, &out));
}

static void filters_are_patterns(void **state)
{
	static const struct {
		const char *filter, *native;
		enum mqtt_name found;
		bool pattern;
	} cases[] = {
		{ "a/b", "a.b", MQTT_NAME_TOPIC, false },
		{ "+", "*", MQTT_NAME_TOPIC, true },
		{ "#", ">", MQTT_NAME_TOPIC, true },
		{ "a/+/b", "a.*.b", MQTT_NAME_TOPIC, true },
		{ "a/#", "a.>", MQTT_NAME_TOPIC, true },
		{ "/+", "/.*", MQTT_NAME_TOPIC, true },
		{ "+/", "*./", MQTT_NAME_TOPIC, true },
		{ "v1.0/#", "v1//0.>", MQTT_NAME_TOPIC, true },
		{ "a+", "", MQTT_NAME_INVALID, false },
		{ "a/#/b", "", MQTT_NAME_INVALID, false },
		{ "a#", "", MQTT_NAME_INVALID, false },
		{ "##", "", MQTT_NAME_INVALID, false },
		{ "", "", MQTT_NAME_INVALID, false },
		{ "a/*", "", MQTT_NAME_NO_TOPIC, false },
		{ ">", "", MQTT_NAME_NO_TOPIC, false },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		char room[MQTT_NATIVE_MAX];
		bool pattern;
		struct span out;
		enum mqtt_name found =
			mqtt_filter(at_page_end(span_of(cases[i].filter)), room, &out, &pattern);

		assert_int_equal(found, cases[i].found);
		if (found != MQTT_NAME_TOPIC)
			continue;
		assert_true(span_equal(out, span_of(cases[i].native)));
		assert_int_equal(pattern, cases[i].pattern);
	}
}

static void shared_filters_have_a_group(void **state)
{
	static const struct {
		const char *filter, *group, *rest;
		int found;
	} cases[] = {
		{ "$share/g/a/+", "g", "a/+", 1 }, { "$share/g//a", "g", "/a", 1 },
		{ "$shared/g/a", "", "", 0 },      { "a/b", "", "", 0 },
		{ "$share", "", "", 0 },           { "$share/g", "", "", -1 },
		{ "$share//a", "", "", -1 },       { "$share/g/", "", "", -1 },
		{ "$share/g+/a", "", "", -1 },     { "$share/#/a", "", "", -1 },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct span filter = at_page_end(span_of(cases[i].filter)), group;

		assert_int_equal(mqtt_share(&filter, &group), cases[i].found);
		if (cases[i].found != 1)
			continue;
		assert_true(span_equal(group, span_of(cases[i].group)));
		assert_true(span_equal(filter, span_of(cases[i].rest)));
	}
}

/* ---- messages ---- */

static char encoded[4096];

static struct span encode(const struct wire *wire, const struct run *run)
{
	size_t max = wire->format->encoded_max(wire, run), n;
	char *out = malloc(max);

	assert_non_null(out);
	n = wire->format->encode(wire, run, out);
	assert_true(n <= max && n <= sizeof(encoded));
	memcpy(encoded, out, n);
	free(out);
	return (struct span){ encoded, n };
}

static const struct wire plain = { &mqtt_format, { NULL, 0 } };
static const struct wire five = { &mqtt5_format, { NULL, 0 } };

static void messages_are_publish_packets(void **state)
{
	const struct run one = { .topic = SPAN("a.b"), .body = SPAN("xyz"), .messages = 1 };
	const struct run lines = {
		.topic = SPAN("a.b"), .body = SPAN("x\r\n\r\n"), .messages = 2, .form = RUN_LINES
	};

	(void)state;
	expect_bytes(encode(&plain, &one), "30 08 0003'a/b' 'xyz'");
	expect_bytes(encode(&five, &one), "30 09 0003'a/b' 00 'xyz'");
	expect_bytes(encode(&plain, &lines), "30 06 0003'a/b' 'x' 30 05 0003'a/b'");
	expect_bytes(encode(&five, &lines), "30 07 0003'a/b' 00 'x' 30 06 0003'a/b' 00");
}

static void content_type_of_a_run_is_shown(void **state)
{
	const struct run one = {
		.topic = SPAN("a"), .body = SPAN("x"), .messages = 1, .type = SPAN("text/html")
	};
	const struct run bad = {
		.topic = SPAN("a"), .body = SPAN("x"), .messages = 1, .type = SPAN("\xff")
	};

	(void)state;
	expect_bytes(encode(&five, &one), "30 11 0001'a' 0c 030009'text/html' 'x'");
	expect_bytes(encode(&plain, &one), "30 04 0001'a' 'x'");
	expect_bytes(encode(&five, &bad), "30 05 0001'a' 00 'x'");
}

/* The properties of a PUBLISH as a record keeps them. */
static struct span keep(const char *properties, bool reply, uint64_t now_ns)
{
	static char room[256];
	struct span all = bytes_of(properties);
	char packet[256] = { 0x30, (char)(4 + all.len), 0, 1, 'a', (char)all.len };
	struct mqtt_head head;
	struct mqtt_publish p;

	memcpy(packet + 6, all.data, all.len);
	assert_int_equal(mqtt_head(MQTT_5, (struct span){ packet, 6 + all.len }, &head), 1);
	assert_true(mqtt_publish_head(MQTT_5, &head, (struct span){ packet + 2, 4 + all.len }, &p) >
		    0);
	return (struct span){ room, mqtt_keep_properties(&p.properties, reply, now_ns, room) };
}

static struct run record_run(char *room, const struct record *r)
{
	return (struct run){ .topic = SPAN("t"),
			     .body = { room, (size_t)(record_write(room, r) - room) },
			     .messages = 1,
			     .form = RUN_RECORDS };
}

static void properties_go_through_in_order(void **state)
{
	char room[512];
	struct record r = { .payload = SPAN("x"), .type = SPAN("c"), .reply = SPAN("r.s") };
	struct run run;

	(void)state;
	r.properties = keep("26 0001'b'0001'1' 0101 03 0001'c' 26 0001'a'0001'2' 08 0003'r/s'"
			    "09 0002 00ff",
			    true, 0);
	run = record_run(room, &r);
	expect_bytes(encode(&five, &run),
		     "30 24 0001't' 1f 03 0001'c' 08 0003'r/s'"
		     "26 0001'b'0001'1' 0101 26 0001'a'0001'2' 09 0002 00ff 'x'");
	expect_bytes(encode(&plain, &run), "30 04 0001't' 'x'");
}

static void response_topic_that_is_none_stays_a_property(void **state)
{
	char room[512];
	struct record r = { .payload = SPAN("x") };
	struct run run;

	(void)state;
	r.properties = keep("08 0003'a*b'", false, 0);
	run = record_run(room, &r);
	expect_bytes(encode(&five, &run), "30 0b 0001't' 06 08 0003'a*b' 'x'");
}

static void what_a_message_waited_is_taken_off_its_expiry(void **state)
{
	char room[512];
	struct record r = { .payload = SPAN("x") };
	uint64_t now = clock_now_ns();
	struct span got;
	struct run run;

	(void)state;
	/* It came 100 s ago: the rest of an hour is between 3400 and 3500 s, whoever looks. */
	r.properties = keep("02 00000e10", false, now - 100 * NS_PER_S);
	assert_false(mqtt_expired(r.properties, now));
	assert_true(mqtt_expired(r.properties, now + 3500 * NS_PER_S));
	assert_false(mqtt_expired((struct span){ NULL, 0 }, UINT64_MAX - 1));
	run = record_run(room, &r);
	got = encode(&five, &run);
	assert_int_equal(got.len, 12);
	assert_int_equal(got.data[6], MQTT_MESSAGE_EXPIRY);
	assert_int_equal(got.data[9] & 0xff, 3500 >> 8);
	assert_in_range(got.data[10] & 0xff, 3400 & 0xff, 3500 & 0xff);
}

static void retain_is_shown_to_those_who_asked_for_it(void **state)
{
	const struct mqtt_wire w = { .retain_as_published = true };
	char parameter[MQTT_PARAMETER_MAX], room[64];
	const struct wire as_published = { &mqtt5_format,
					   { parameter, mqtt_parameter(&w, parameter) } };
	const struct record r = { .payload = SPAN("x"), .retain = true };
	struct run run = record_run(room, &r);

	(void)state;
	expect_bytes(encode(&five, &run), "30 05 0001't' 00 'x'");
	expect_bytes(encode(&as_published, &run), "31 05 0001't' 00 'x'");
	assert_int_equal(mqtt_retained(MQTT_3_1_1, 0, &run, encoded), 6);
	expect_bytes((struct span){ encoded, 6 }, "31 04 0001't' 'x'");
	assert_int_equal(mqtt_retained(MQTT_5, 6, &run, encoded), 0);
}

static void too_large_packets_are_left_out(void **state)
{
	const struct mqtt_wire w = { .maximum_packet = 9 };
	char parameter[MQTT_PARAMETER_MAX];
	const struct wire small = { &mqtt5_format, { parameter, mqtt_parameter(&w, parameter) } };
	const struct run run = { .topic = SPAN("t"),
				 .body = SPAN("abc\r\nabcd\r\n\r\n"),
				 .messages = 3,
				 .form = RUN_LINES };

	(void)state;
	assert_int_equal(mqtt5_format.encodable(&five, &run), 3);
	assert_int_equal(mqtt5_format.encodable(&small, &run), 2);
	expect_bytes(encode(&small, &run), "30 07 0001't' 00 'abc' 30 04 0001't' 00");
}

static void own_messages_are_left_out(void **state)
{
	const struct mqtt_wire w = { .not_local = { 1, 2, 3 } };
	char parameter[MQTT_PARAMETER_MAX];
	const struct wire others = { &mqtt5_format, { parameter, mqtt_parameter(&w, parameter) } };
	struct run run = { .topic = SPAN("t"), .body = SPAN("x"), .messages = 1 };

	(void)state;
	assert_int_equal(mqtt5_format.encodable(&others, &run), 1);
	run.publisher = (struct run_publisher){ 1, 2, 3 };
	assert_int_equal(mqtt5_format.encodable(&others, &run), 0);
	assert_int_equal(mqtt5_format.encodable(&five, &run), 1);
	run.publisher.slot = 5;
	assert_int_equal(mqtt5_format.encodable(&others, &run), 1);
}

static void topic_without_a_name_has_no_form(void **state)
{
	const struct run run = { .topic = SPAN("a/b"), .body = SPAN("x"), .messages = 1 };

	(void)state;
	assert_int_equal(mqtt_format.encodable(&plain, &run), 0);
	assert_int_equal(mqtt5_format.encodable(&five, &run), 0);
}

static void what_is_enclosed_is_what_is_encoded(void **state)
{
	(void)state;
	for (int round = 0; round < 2000; round++) {
		char room[2048], payload[200], prefix[WIRE_AROUND_MAX], suffix[WIRE_AROUND_MAX];
		char type[900];
		const struct record r = { .payload = { payload, below(sizeof(payload)) },
					  .type = { type, below(4) == 0 ? below(sizeof(type)) : 0 },
					  .reply = below(2) ? SPAN("r") : SPAN(""),
					  .retain = below(2) };
		struct run run;
		const struct wire *wire = below(2) ? &plain : &five;
		size_t prefix_len, suffix_len;
		struct span body, all;

		memset(payload, 'p', sizeof(payload));
		memset(type, 't', sizeof(type));
		run = record_run(room, &r);
		all = encode(wire, &run);
		assert_int_equal(wire->format->boundary(all, 1), all.len);
		if (!wire->format->enclosable(wire, &run))
			continue;
		wire->format->enclose(wire, &run, prefix, &prefix_len, &body, suffix, &suffix_len);
		assert_true(prefix_len <= WIRE_AROUND_MAX);
		assert_int_equal(prefix_len + body.len + suffix_len, all.len);
		assert_memory_equal(prefix, all.data, prefix_len);
		assert_memory_equal(body.data, all.data + prefix_len, body.len);
		assert_true(body.data >= run.body.data);
	}
}

static void boundaries_are_ends_of_packets(void **state)
{
	const struct run run = { .topic = SPAN("t"),
				 .body = SPAN("abc\r\nabcd\r\n\r\n"),
				 .messages = 3,
				 .form = RUN_LINES };
	struct span all = encode(&plain, &run);
	static const size_t ends[] = { 0, 8, 17, 22 };

	(void)state;
	for (size_t offset = 0; offset <= all.len; offset++) {
		size_t i = 0;

		while (ends[i] < offset)
			i++;
		assert_int_equal(mqtt_format.boundary(all, offset), ends[i]);
	}
}

/* ---- answers ---- */

static void answers_are_as_each_level_has_them(void **state)
{
	const struct mqtt_connack none = { .keep_alive = 0 };
	const struct mqtt_connack much = { .maximum_packet = 65536,
					   .session_ends = true,
					   .no_shared = true,
					   .keep_alive = 60,
					   .assigned_id = SPAN("id") };
	char out[MQTT_CONNACK_MAX];
#define PUT(call) ((struct span){ out, (call) })

	(void)state;
	expect_bytes(PUT(mqtt_put_connack(MQTT_3_1_1, 0, &much, out)), "20 02 00 00");
	expect_bytes(PUT(mqtt_put_connack(MQTT_3_1_1, MQTT_NOT_AUTHORIZED, &none, out)),
		     "20 02 00 05");
	expect_bytes(PUT(mqtt_put_connack(MQTT_3_1_1, MQTT_MALFORMED, &none, out)), "");
	expect_bytes(PUT(mqtt_put_connack(3, MQTT_UNSUPPORTED_VERSION, &none, out)), "20 02 00 01");
	expect_bytes(PUT(mqtt_put_connack(MQTT_5, 0, &none, out)), "20 05 00 00 02 2900");
	expect_bytes(PUT(mqtt_put_connack(6, MQTT_UNSUPPORTED_VERSION, &none, out)),
		     "20 03 00 84 00");
	expect_bytes(PUT(mqtt_put_connack(MQTT_5, 0, &much, out)),
		     "20 19 00 00 16 11 00000000 27 00010000 12 0002'id' 13 003c 2900 2a00");
	expect_bytes(PUT(mqtt_put_answer(MQTT_3_1_1, MQTT_PUBACK, 258, 0x90, out)), "40 02 0102");
	expect_bytes(PUT(mqtt_put_answer(MQTT_5, MQTT_PUBACK, 258, 0x90, out)), "40 03 0102 90");
	expect_bytes(PUT(mqtt_put_answer(MQTT_5, MQTT_PUBREL, 1, 0, out)), "62 02 0001");
	expect_bytes(PUT(mqtt_put_suback(MQTT_5, MQTT_SUBACK, 1, 2, out)), "90 05 0001 00");
	expect_bytes(PUT(mqtt_put_suback(MQTT_3_1_1, MQTT_UNSUBACK, 1, 2, out)), "b0 02 0001");
	expect_bytes(PUT(mqtt_put_suback(MQTT_3_1_1, MQTT_SUBACK, 1, 200, out)), "90 ca01 0001");
	expect_bytes(PUT(mqtt_put_disconnect(0x8b, (struct span){ NULL, 0 }, out)), "e0 01 8b");
	expect_bytes(PUT(mqtt_put_disconnect(0x81, SPAN("why"), out)), "e0 08 81 06 1f 0003'why'");
#undef PUT
}

static void connect_is_known_by_its_first_byte(void **state)
{
	static const struct {
		const char *bytes;
		int found;
	} cases[] = {
		{ "", 0 },    { "10", 1 },     { "10 0c 0004'MQTT'", 1 },
		{ "11", -1 }, { "30 00", -1 }, { "'GET'", -1 },
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++)
		assert_int_equal(mqtt_detect(at_page_end(bytes_of(cases[i].bytes))),
				 cases[i].found);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packets_are_what_the_specification_says),
		cmocka_unit_test(part_of_a_packet_wants_more_or_is_as_wrong_as_the_whole),
		cmocka_unit_test(connect_is_read_whole),
		cmocka_unit_test(filters_come_one_by_one),
		cmocka_unit_test(names_are_converted_one_to_one),
		cmocka_unit_test(no_two_names_meet),
		cmocka_unit_test(what_is_no_topic_is_told_from_what_is_wrong),
		cmocka_unit_test(topics_without_a_name_are_told),
		cmocka_unit_test(filters_are_patterns),
		cmocka_unit_test(shared_filters_have_a_group),
		cmocka_unit_test(messages_are_publish_packets),
		cmocka_unit_test(content_type_of_a_run_is_shown),
		cmocka_unit_test(properties_go_through_in_order),
		cmocka_unit_test(response_topic_that_is_none_stays_a_property),
		cmocka_unit_test(what_a_message_waited_is_taken_off_its_expiry),
		cmocka_unit_test(retain_is_shown_to_those_who_asked_for_it),
		cmocka_unit_test(too_large_packets_are_left_out),
		cmocka_unit_test(own_messages_are_left_out),
		cmocka_unit_test(topic_without_a_name_has_no_form),
		cmocka_unit_test(what_is_enclosed_is_what_is_encoded),
		cmocka_unit_test(boundaries_are_ends_of_packets),
		cmocka_unit_test(answers_are_as_each_level_has_them),
		cmocka_unit_test(connect_is_known_by_its_first_byte),
	};

	return cmocka_run_group_tests(tests, make_page, NULL);
}
