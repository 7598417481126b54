#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/sniff.h"

/* What bytes are taken for when they come one by one. */
static enum sniffed one_by_one(const char *bytes, size_t len)
{
	enum sniffed s = SNIFF_MORE;

	for (size_t n = 0; n <= len && s == SNIFF_MORE; n++)
		s = sniff((struct span){ bytes, n });
	return s;
}

static void expect(const char *bytes, enum sniffed wanted)
{
	assert_int_equal(sniff(span_of(bytes)), wanted);
	assert_int_equal(one_by_one(bytes, strlen(bytes)), wanted);
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
	assert_int_equal(sniff((struct span){ bytes, SNIFF_BYTES_MAX - 1 }), SNIFF_MORE);
	assert_int_equal(sniff((struct span){ bytes, SNIFF_BYTES_MAX }), SNIFF_LINE);
	memcpy(bytes + SNIFF_BYTES_MAX - 2, "GET /", 5);
	assert_int_equal(sniff((struct span){ bytes, sizeof(bytes) }), SNIFF_LINE);
}

static void who_has_not_said_enough_is_likely_what_only_one_begins_like(void **state)
{
	(void)state;
	assert_int_equal(sniff_likely(SPAN("")), SNIFF_MORE);
	assert_int_equal(sniff_likely(SPAN("\r\n")), SNIFF_MORE);
	assert_int_equal(sniff_likely(SPAN("P")), SNIFF_MORE);
	assert_int_equal(sniff_likely(SPAN("HEL")), SNIFF_MORE);
	assert_int_equal(sniff_likely(SPAN("G")), SNIFF_HTTP);
	assert_int_equal(sniff_likely(SPAN("\r\nPO")), SNIFF_HTTP);
	assert_int_equal(sniff_likely(SPAN("SUB")), SNIFF_LINE);
}

static void enough_bytes_without_an_end_of_line_decide(void **state)
{
	char bytes[2 * SNIFF_BYTES_MAX];

	(void)state;
	memset(bytes, 'x', sizeof(bytes));
	assert_int_equal(sniff((struct span){ bytes, SNIFF_BYTES_MAX - 1 }), SNIFF_MORE);
	assert_int_equal(sniff((struct span){ bytes, SNIFF_BYTES_MAX }), SNIFF_LINE);
	/* What comes later changes nothing. */
	memcpy(bytes + SNIFF_BYTES_MAX, " HTTP/1.1\r\n", 11);
	assert_int_equal(sniff((struct span){ bytes, sizeof(bytes) }), SNIFF_LINE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_first_words_decide),
		cmocka_unit_test(beginnings_of_first_words_do_not),
		cmocka_unit_test(unknown_first_words_go_to_the_likelier_protocol),
		cmocka_unit_test(empty_lines_before_a_request_are_skipped),
		cmocka_unit_test(who_has_not_said_enough_is_likely_what_only_one_begins_like),
		cmocka_unit_test(enough_bytes_without_an_end_of_line_decide),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
