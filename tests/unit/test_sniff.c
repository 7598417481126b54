#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/config.h"
#include "protocol/sniff.h"

#define BOTH (CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_HTTP)
#define WITH_NATS (BOTH | CONFIG_PROTOCOL_RESP | CONFIG_PROTOCOL_NATS)

/* What bytes are taken for when they come one by one. */
static enum sniffed one_by_one(const char *bytes, size_t len, unsigned protocols)
{
	enum sniffed s = SNIFF_MORE;

	for (size_t n = 0; n <= len && s == SNIFF_MORE; n++)
		s = sniff((struct span){ bytes, n }, protocols);
	return s;
}

static void expect_of(const char *bytes, unsigned protocols, enum sniffed wanted)
{
	assert_int_equal(sniff(span_of(bytes), protocols), wanted);
	assert_int_equal(one_by_one(bytes, strlen(bytes), protocols), wanted);
}

/* The same wherever these two are spoken. */
static void expect(const char *bytes, enum sniffed wanted)
{
	expect_of(bytes, BOTH, wanted);
	expect_of(bytes, WITH_NATS, wanted);
}

static void known_first_words_decide(void **state)
{
	(void)state;
	expect("PUBLISH a\r\n", SNIFF_LINE);
	expect("SUBSCRIBE a\r\n", SNIFF_LINE);
	expect("BYE\r\n", SNIFF_LINE);
	expect("GET / HTTP/1.1\r\n", SNIFF_HTTP);
	expect("HEAD /", SNIFF_HTTP);
	expect("POST /publish/a HTTP/1.1\r\n", SNIFF_HTTP);
	expect("OPTIONS *", SNIFF_HTTP);
	expect("PUT /a", SNIFF_HTTP);
}

static void beginnings_of_first_words_do_not(void **state)
{
	(void)state;
	expect("", SNIFF_MORE);
	expect("P", SNIFF_MORE);
	expect("PU", SNIFF_MORE);
	expect("GET", SNIFF_MORE);
	expect("SUBSCRIBE", SNIFF_MORE);
}

static void unknown_first_words_go_to_the_likelier_protocol(void **state)
{
	(void)state;
	expect("HELLO\r\n", SNIFF_LINE);
	expect("HELLO", SNIFF_MORE);
	expect("BREW /pot HTTP/1.1\r\n", SNIFF_HTTP);
	expect("get / HTTP/1.1\r\n", SNIFF_HTTP);
	expect("PRI * HTTP/2.0\r\n", SNIFF_HTTP);
	expect("\n", SNIFF_LINE);
	expect("\x16\x03\x01", SNIFF_HTTP);
}

static void empty_lines_before_a_request_are_skipped(void **state)
{
	char bytes[SNIFF_BYTES_MAX + 32];

	(void)state;
	expect("\r", SNIFF_MORE);
	expect("\r\n", SNIFF_MORE);
	expect("\r\n\r\nGET / HTTP/1.1\r\n", SNIFF_HTTP);
	expect("\r\nBREW / HTTP/1.1\r\n", SNIFF_HTTP);
	expect("\r\nPUBLISH a\r\n", SNIFF_LINE);
	expect("\r\nHELLO\r\n", SNIFF_LINE);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = "\r\n"[i % 2];
	assert_int_equal(sniff((struct span){ bytes, SNIFF_BYTES_MAX - 1 }, BOTH), SNIFF_MORE);
	assert_int_equal(sniff((struct span){ bytes, SNIFF_BYTES_MAX }, BOTH), SNIFF_LINE);
	memcpy(bytes + SNIFF_BYTES_MAX - 2, "GET /", 5);
	assert_int_equal(sniff((struct span){ bytes, sizeof(bytes) }, BOTH), SNIFF_LINE);
}

static void who_has_not_said_enough_is_likely_what_only_one_begins_like(void **state)
{
	(void)state;
	assert_int_equal(sniff_likely(SPAN(""), BOTH), SNIFF_MORE);
	assert_int_equal(sniff_likely(SPAN("\r\n"), BOTH), SNIFF_MORE);
	assert_int_equal(sniff_likely(SPAN("P"), BOTH), SNIFF_MORE);
	assert_int_equal(sniff_likely(SPAN("HEL"), BOTH), SNIFF_MORE);
	assert_int_equal(sniff_likely(SPAN("G"), BOTH), SNIFF_HTTP);
	assert_int_equal(sniff_likely(SPAN("\r\nPO"), BOTH), SNIFF_HTTP);
	assert_int_equal(sniff_likely(SPAN("SUB"), BOTH), SNIFF_LINE);
}

static void enough_bytes_without_an_end_of_line_decide(void **state)
{
	char bytes[2 * SNIFF_BYTES_MAX];

	(void)state;
	memset(bytes, 'x', sizeof(bytes));
	assert_int_equal(sniff((struct span){ bytes, SNIFF_BYTES_MAX - 1 }, BOTH), SNIFF_MORE);
	assert_int_equal(sniff((struct span){ bytes, SNIFF_BYTES_MAX }, BOTH), SNIFF_LINE);
	/* What comes later changes nothing. */
	memcpy(bytes + SNIFF_BYTES_MAX, " HTTP/1.1\r\n", 11);
	assert_int_equal(sniff((struct span){ bytes, sizeof(bytes) }, BOTH), SNIFF_LINE);
}

/* What each protocol's clients begin with, where all of them are spoken, and where some are. */
static void what_one_begins_with_is_no_other_s(void **state)
{
	static const struct {
		const char *bytes;
		enum sniffed what;
		unsigned bit;
	} begins[] = {
		{ "PUBLISH a\r\n", SNIFF_LINE, CONFIG_PROTOCOL_LINE },
		{ "SUBSCRIBE a\r\n", SNIFF_LINE, CONFIG_PROTOCOL_LINE },
		{ "GET / HTTP/1.1\r\n", SNIFF_HTTP, CONFIG_PROTOCOL_HTTP },
		{ "\r\nPOST / HTTP/1.1\r\n", SNIFF_HTTP, CONFIG_PROTOCOL_HTTP },
		{ "*1\r\n$4\r\nPING\r\n", SNIFF_RESP, CONFIG_PROTOCOL_RESP },
		{ "*", SNIFF_RESP, CONFIG_PROTOCOL_RESP },
		{ "\x10", SNIFF_MQTT, CONFIG_PROTOCOL_MQTT },
		{ "\x10\x0c\0\4MQTT", SNIFF_MQTT, CONFIG_PROTOCOL_MQTT },
	};

	(void)state;
	for (unsigned protocols = 0; protocols < 1 << CONFIG_PROTOCOLS; protocols++)
		for (size_t i = 0; i < sizeof(begins) / sizeof(*begins); i++) {
			struct span first = span_of(begins[i].bytes);

			if (!(protocols & begins[i].bit) || protocols == begins[i].bit)
				continue;
			assert_int_equal(sniff(first, protocols), begins[i].what);
			assert_int_equal(sniff_likely(first, protocols), begins[i].what);
		}
}

static void what_is_not_spoken_is_answered_by_what_is(void **state)
{
	(void)state;
	assert_int_equal(sniff(SPAN("*1\r\n"), BOTH), SNIFF_LINE);
	assert_int_equal(sniff(SPAN("PUBLISH a\r\n"), CONFIG_PROTOCOL_HTTP | CONFIG_PROTOCOL_RESP),
			 SNIFF_HTTP);
	assert_int_equal(
		sniff(SPAN("GET / HTTP/1.1\r\n"), CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_RESP),
		SNIFF_LINE);
}

static void nats_clients_are_told_from_the_others(void **state)
{
	(void)state;
	expect_of("CONNECT {\"verbose\":false}\r\n", WITH_NATS, SNIFF_NATS);
	expect_of("PING\r\n", WITH_NATS, SNIFF_NATS);
	expect_of("PUB a 1\r\n", WITH_NATS, SNIFF_NATS);
	expect_of("HPUB a 12 12\r\n", WITH_NATS, SNIFF_NATS);
	expect_of("SUB a 1\r\n", WITH_NATS, SNIFF_NATS);
	expect_of("CONNECT ", WITH_NATS, SNIFF_MORE);
	expect_of("CONNECT a:80 HTTP/1.1\r\n", WITH_NATS, SNIFF_HTTP);
	expect_of("PUB", WITH_NATS, SNIFF_MORE);
	expect_of("SUB", WITH_NATS, SNIFF_MORE);
	/* Where there are none these words mean nothing. */
	expect_of("PUB a 1\r\n", BOTH, SNIFF_LINE);
	expect_of("CONNECT {", BOTH, SNIFF_HTTP);
	expect_of("HELLO\r\n", CONFIG_PROTOCOL_HTTP | CONFIG_PROTOCOL_NATS, SNIFF_HTTP);
	expect_of("HELLO\r\n", CONFIG_PROTOCOL_RESP | CONFIG_PROTOCOL_NATS, SNIFF_RESP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_one_begins_with_is_no_other_s),
		cmocka_unit_test(what_is_not_spoken_is_answered_by_what_is),
		cmocka_unit_test(known_first_words_decide),
		cmocka_unit_test(beginnings_of_first_words_do_not),
		cmocka_unit_test(unknown_first_words_go_to_the_likelier_protocol),
		cmocka_unit_test(empty_lines_before_a_request_are_skipped),
		cmocka_unit_test(who_has_not_said_enough_is_likely_what_only_one_begins_like),
		cmocka_unit_test(nats_clients_are_told_from_the_others),
		cmocka_unit_test(enough_bytes_without_an_end_of_line_decide),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
