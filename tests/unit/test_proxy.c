#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "protocol/proxy.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define IPV4 "\xcb\0\x71\x07\x0a\0\0\x01\xdc\x04\x1f\x90"

static const unsigned char mapped[16] = { [10] = 0xff, 0xff, 203, 0, 113, 7 };

/* In memory of its own, so that a sanitizer sees who reads beyond. */
static int parse(struct span text, struct proxy_header *out)
{
	char *copy = malloc(text.len);
	int n;

	assert_non_null(copy);
	memcpy(copy, text.data, text.len);
	n = proxy_parse((struct span){ copy, text.len }, out);
	free(copy);
	return n;
}

/* Every beginning of it wants more; behind it may stand anything. */
static void assert_header(struct span header, const unsigned char *address)
{
	struct proxy_header out;
	char more[512];

	for (size_t n = 1; n < header.len; n++)
		assert_int_equal(parse((struct span){ header.data, n }, &out), 0);
	memcpy(more, header.data, header.len);
	memcpy(more + header.len, "GET / ", 6);
	assert_int_equal(parse((struct span){ more, header.len + 6 }, &out), header.len);
	assert_int_equal(parse(header, &out), header.len);
	assert_int_equal(out.named, address != NULL);
	if (address != NULL)
		assert_memory_equal(out.address, address, 16);
}

static void assert_none(struct span text)
{
	struct proxy_header out;

	assert_int_equal(parse(text, &out), -1);
}

static void version_1_names_a_client(void **state)
{
	static const unsigned char v6[16] = { 0x20, 0x01, 0x0d, 0xb8, [15] = 1 };

	(void)state;
	assert_header(SPAN("PROXY TCP4 203.0.113.7 10.0.0.1 56324 8080\r\n"), mapped);
	assert_header(SPAN("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n"), v6);
	assert_header(SPAN("PROXY UNKNOWN\r\n"), NULL);
	assert_header(SPAN("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), NULL);
}

static void version_2_names_a_client(void **state)
{
	unsigned char v6[52] = SIGNATURE "\x21\x21\0\x24";

	(void)state;
	for (unsigned i = 16; i < 52; i++)
		v6[i] = (unsigned char)i;
	assert_header(SPAN(SIGNATURE "\x21\x11\0\x0c" IPV4), mapped);
	assert_header(SPAN(SIGNATURE "\x21\x11\0\x10" IPV4 "\x04\0\x01\0"), mapped);
	assert_header((struct span){ (const char *)v6, sizeof(v6) }, v6 + 16);
	assert_header(SPAN(SIGNATURE "\x20\0\0\0"), NULL);
	assert_header(SPAN(SIGNATURE "\x20\x11\0\x0c" IPV4), NULL);
	assert_header(SPAN(SIGNATURE "\x21\0\0\0"), NULL);
}

static void what_is_no_header_is_refused(void **state)
{
	char long_line[200];

	(void)state;
	assert_none(SPAN("GET / HTTP/1.1\r\n"));
	assert_none(SPAN("PROXX "));
	assert_none(SPAN("PROXY TCP4 203.0.113.7 10.0.0.1 56324 8080\n"));
	assert_none(SPAN("PROXY TCP4 203.0.113.7 10.0.0.1 56324 65536\r\n"));
	assert_none(SPAN("PROXY TCP4 203.0.113.7 10.0.0.1 56324\r\n"));
	assert_none(SPAN("PROXY TCP4 203.0.113.7  10.0.0.1 56324 80\r\n"));
	assert_none(SPAN("PROXY TCP4 203.0.113.7 10.0.0.1 56324 80 1\r\n"));
	assert_none(SPAN("PROXY TCP4 2001:db8::1 ::1 1 2\r\n"));
	assert_none(SPAN("PROXY UDP4 203.0.113.7 10.0.0.1 1 2\r\n"));
	assert_none(SPAN("PROXY \r\n"));
	memset(long_line, 'x', sizeof(long_line));
	memcpy(long_line, "PROXY UNKNOWN ", 14);
	assert_none((struct span){ long_line, sizeof(long_line) });
	assert_none(SPAN(SIGNATURE "\x22\x11\0\x0c"));
	assert_none(SPAN(SIGNATURE "\x11\x11\0\x0c"));
	assert_none(SPAN(SIGNATURE "\x21\x11\0\x0b" IPV4));
	assert_none(SPAN(SIGNATURE "\x21\x21\0\x0c" IPV4));
	assert_none(SPAN(SIGNATURE "\x21\x11\xff\xff"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(version_1_names_a_client),
		cmocka_unit_test(version_2_names_a_client),
		cmocka_unit_test(what_is_no_header_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
