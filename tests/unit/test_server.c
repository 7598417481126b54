#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/server.h"

static struct server parsed(const char *text)
{
	struct server s;

	assert_null(server_parse(span_of(text), &s));
	return s;
}

static void a_server_has_a_host_and_a_port(void **state)
{
	struct server s = parsed("nats://10.0.0.1:4333");

	(void)state;
	assert_string_equal(s.host, "10.0.0.1");
	assert_int_equal(s.address.port, 4333);
	assert_true(s.numeric && s.address.v4 && !s.tls);
	s = parsed("tls://[::1]:5");
	assert_string_equal(s.host, "[::1]");
	assert_int_equal(s.address.port, 5);
	assert_true(s.numeric && !s.address.v4 && s.tls);
	s = parsed("cluster.example:4223/");
	assert_string_equal(s.host, "cluster.example");
	assert_int_equal(s.address.port, 4223);
	assert_false(s.numeric);
}

static void without_a_port_it_is_that_of_nats(void **state)
{
	(void)state;
	assert_int_equal(parsed("10.0.0.1").address.port, 4222);
	assert_true(parsed("10.0.0.1").numeric);
	assert_int_equal(parsed("nats://[::1]").address.port, 4222);
	assert_int_equal(parsed("nats://a").address.port, 4222);
}

static void what_is_no_server_is_refused(void **state)
{
	static const char *const texts[] = {
		"",        "nats://",        "nats://:4222", "a:",         "a:x",   "a:0",
		"a:65536", "a:1234567",      "[::1",         "[::1]x",     "[x]:1", "a b:1",
		"a\n:1",   "nats://u:p@a:1", "http://a:1",   "nats://a,b", "a:1:2",
	};
	struct server s;

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		assert_non_null(server_parse(span_of(texts[i]), &s));
}

static void a_host_that_is_too_long_is_refused(void **state)
{
	char text[SERVER_HOST_MAX + 2];
	struct server s;

	(void)state;
	memset(text, 'a', sizeof(text));
	assert_null(server_parse((struct span){ text, SERVER_HOST_MAX }, &s));
	assert_int_equal(strlen(s.host), SERVER_HOST_MAX);
	assert_non_null(server_parse((struct span){ text, SERVER_HOST_MAX + 1 }, &s));
}

static void the_same_server_is_known_again(void **state)
{
	struct server a = parsed("nats://10.0.0.1:4222"), b = parsed("10.0.0.1"),
		      c = parsed("10.0.0.1:4223"), d = parsed("tls://10.0.0.1");

	(void)state;
	assert_true(server_same(&a, &b));
	assert_false(server_same(&a, &c));
	assert_false(server_same(&a, &d));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_server_has_a_host_and_a_port),
		cmocka_unit_test(without_a_port_it_is_that_of_nats),
		cmocka_unit_test(what_is_no_server_is_refused),
		cmocka_unit_test(a_host_that_is_too_long_is_refused),
		cmocka_unit_test(the_same_server_is_known_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
