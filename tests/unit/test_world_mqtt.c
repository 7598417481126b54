#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "../sim/sim.h"

/* What MQTT clients hear of whole brokers, in the simulation's world (test_world.c). */

#define PACKET(text) text, sizeof(text) - 1
#define CONNECT_3 PACKET("\x10\x0c\0\4MQTT\4\2\0\0\0\0")
#define CONNECT_5 PACKET("\x10\x0d\0\4MQTT\5\2\0\0\0\0\0")

void sim_give_up(void)
{
	abort();
}

static void begin(void)
{
	const struct sim_params params = { .seed = 1, .schedule = 1, .shards = 2 };

	world_adjust = NULL;
	world_begin(&params, false);
}

static void say(struct client *c, const char *text, size_t n)
{
	client_say(c, text, n);
	world_rest();
}

static struct client *client_who_says(const char *text, size_t n)
{
	struct client *c = world_client();

	assert_non_null(c);
	say(c, text, n);
	return c;
}

static const char *heard(const struct client *c, const char *text)
{
	return memmem(c->line, c->line_n, text, strlen(text));
}

/* Subscribes, and again while the first message is on its way and the second one behind it. */
static struct client *subscribe_twice(const char *connect, size_t connect_n, const char *first,
				      const char *second, size_t n)
{
	struct client *c = client_who_says(connect, connect_n);
	struct client *publisher = client_who_says(CONNECT_3);

	say(c, first, n);
	c->stalled = true;
	c->wire.out.max = 4;
	say(publisher, PACKET("\x30\7\0\1tone\n"));
	say(publisher, PACKET("\x30\7\0\1ttwo\n"));
	client_say(c, second, n);
	/* Its answer cannot be heard yet. */
	world_halt();
	say(publisher, PACKET("\x30\x09\0\1tthree\n"));
	c->stalled = false;
	world_rest();
	return c;
}

static void assert_in_order(const struct client *c)
{
	const char *one = heard(c, "one"), *two = heard(c, "two"), *three = heard(c, "three");

	assert_non_null(one);
	assert_non_null(two);
	assert_non_null(three);
	assert_true(one < two && two < three);
	assert_null(memmem(three + 5, (size_t)(c->line + c->line_n - three) - 5, "three", 5));
}

static void what_a_client_has_asked_for_twice_comes_in_order(void **state)
{
	(void)state;
	begin();
	assert_in_order(
		subscribe_twice(CONNECT_3, "\x82\6\0\1\0\1t\0", PACKET("\x82\6\0\2\0\1t\0")));
	world_end();
}

static void what_is_asked_for_otherwise_comes_behind_what_came_before(void **state)
{
	struct client *c;

	(void)state;
	begin();
	/* The second time without what it publishes itself. */
	c = subscribe_twice(CONNECT_5, "\x82\7\0\1\0\0\1t\0", PACKET("\x82\7\0\2\0\0\1t\4"));
	assert_in_order(c);
	/* And it is the second one that it has. */
	say(c, PACKET("\x30\x0a\0\1t\0itself"));
	say(c, PACKET("\xc0\0"));
	assert_null(heard(c, "itself"));
	world_end();
}

static void what_is_retained_comes_once_more_for_a_second_subscribe(void **state)
{
	struct client *c;

	(void)state;
	begin();
	(void)client_who_says(PACKET("\x10\x0c\0\4MQTT\4\2\0\0\0\0\x31\x08\0\1tkept\n"));
	c = client_who_says(PACKET("\x10\x0c\0\4MQTT\4\2\0\0\0\0\x82\6\0\1\0\1t\0"));
	assert_non_null(heard(c, "kept"));
	c->line_n = 0;
	say(c, PACKET("\x82\6\0\2\0\1t\0"));
	assert_memory_equal(c->line, "\x90\3\0\2\0\x31\x08\0\1tkept\n", 15);
	assert_int_equal(c->line_n, 15);
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_client_has_asked_for_twice_comes_in_order),
		cmocka_unit_test(what_is_asked_for_otherwise_comes_behind_what_came_before),
		cmocka_unit_test(what_is_retained_comes_once_more_for_a_second_subscribe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
