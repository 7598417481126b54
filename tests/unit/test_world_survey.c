#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../sim/sim.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/memory.h"
#include "broker/shard.h"

/* What operators ask all reactors about, over whole brokers, in the simulation's world
 * (test_world.c). */

void sim_give_up(void)
{
	abort();
}

static void let_all_see(struct config *c)
{
	c->http.page_local_only = false;
	c->limits.topics = 10000;
	c->limits.history_total_bytes = 16 << 20;
}

static void begin(unsigned shards, uint64_t schedule)
{
	const struct sim_params params = { .seed = 1, .schedule = schedule, .shards = shards };

	world_adjust = let_all_see;
	world_begin(&params, false);
}

static void say(struct client *c, const char *text)
{
	client_say(c, text, strlen(text));
}

static struct client *client_who_says(const char *text)
{
	struct client *c = world_client();

	assert_non_null(c);
	say(c, text);
	world_rest();
	return c;
}

static bool hears(const struct client *c, const char *text)
{
	return c->line_n > 0 && memmem(c->line, c->line_n, text, strlen(text)) != NULL;
}

static void leave(struct client *c)
{
	c->stalled = false;
	c->said_all = true;
	c->ending = END_CLOSE;
}

#define TOPICS_OF(query) "GET /topics" query " HTTP/1.1\r\nHost: x\r\n\r\n"
#define CLIENTS "GET /clients HTTP/1.1\r\nHost: x\r\n\r\n"

enum { MANY = 300 };

static void publish_many(void)
{
	struct client *publisher = world_client();
	char text[128];

	for (unsigned i = 0; i < MANY; i++) {
		snprintf(text, sizeof(text),
			 "POST /publish/many.%03u HTTP/1.1\r\nHost: x\r\nContent-Length: "
			 "3\r\n\r\none",
			 i);
		say(publisher, text);
		world_rest();
	}
	assert_true(hears(publisher, "many.299"));
	leave(publisher);
	leave(publisher);
}

static void a_page_of_topics_is_the_next_names_in_order_from_all_homes(void **state)
{
	struct client *asks;
	const char *at;

	(void)state;
	begin(3, 1);
	publish_many();
	asks = client_who_says(TOPICS_OF("?after=many.099&limit=100"));
	at = asks->line;
	for (unsigned i = 100; i < 200; i++) {
		char name[32];
		size_t rest = asks->line_n - (size_t)(at - asks->line);

		snprintf(name, sizeof(name), "{\"topic\":\"many.%03u\"", i);
		at = memmem(at, rest, name, strlen(name));
		assert_non_null(at);
	}
	assert_false(hears(asks, "many.099\"") || hears(asks, "many.200"));
	assert_true(hears(asks, "\"more\":true"));
	leave(asks);
	world_end();
}

/* With no more time in a turn than for a few of them. */
static void a_survey_takes_as_many_turns_as_there_is_to_look_at(void **state)
{
	struct client *asks, *subscriber;
	bool later = false;
	struct shard *s;

	(void)state;
	begin(1, 1);
	publish_many();
	subscriber = client_who_says("SUBSCRIBE many.007\r\n");
	asks = world_client();
	s = &sim.broker.shards[0];
	s->reactor.params.turn_us = 1;
	say(asks, TOPICS_OF("?limit=500"));
	for (unsigned steps = 0; steps < 400000 && !hears(asks, "]}\n"); steps++) {
		world_step();
		later |= s->figures.surveys_n > 0 && !list_empty(&s->figures.surveys);
	}
	assert_true(hears(asks, "{\"topic\":\"many.299\""));
	assert_true(later);
	assert_int_equal(s->figures.surveys_n, 0);
	leave(asks);
	leave(subscriber);
	world_end();
}

/* The table grows, more than once, while it is looked at. */
static void topics_that_come_meanwhile_hide_none_that_was_there(void **state)
{
	struct client *asks, *publisher;
	char text[128];

	(void)state;
	begin(1, 1);
	publish_many();
	asks = world_client();
	publisher = world_client();
	sim.broker.shards[0].reactor.params.turn_us = 1;
	say(asks, TOPICS_OF("?pattern=many.*&limit=500"));
	for (unsigned i = 0; i < 1500 || !hears(asks, "]}\n"); i++) {
		if (i < 1500) {
			snprintf(text, sizeof(text),
				 "POST /publish/other.%u HTTP/1.1\r\nHost: x\r\n"
				 "Content-Length: 3\r\n\r\none",
				 i);
			say(publisher, text);
		}
		world_step();
	}
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(text, sizeof(text), "{\"topic\":\"many.%03u\"", i);
		assert_true(hears(asks, text));
	}
	leave(asks);
	leave(publisher);
	world_end();
}

static void those_who_are_behind_are_named_with_how_far(void **state)
{
	struct client *slow, *publisher, *asks;

	(void)state;
	begin(2, 1);
	slow = client_who_says("SUBSCRIBE t\r\n");
	slow->stalled = true;
	slow->wire.out.max = 64;
	publisher = client_who_says("PUBLISH t\r\n");
	for (unsigned i = 0; i < 3000; i++)
		say(publisher, "a message of some length\r\n");
	world_rest();
	asks = client_who_says(CLIENTS);
	assert_true(hears(asks, "\"protocol\":\"line\",\"user\":"));
	assert_true(hears(asks, "\"topic\":\"t\",\"bytes\":"));
	say(asks, TOPICS_OF("?pattern=t"));
	world_rest();
	assert_true(hears(asks, "\"subscribers\":1,\"publishers\":1,\"behind_bytes\":"));
	assert_false(hears(asks, "\"behind_bytes\":0}"));
	leave(slow);
	leave(publisher);
	leave(asks);
	world_end();
}

/* Each at another moment of its way, and none leaves anything behind. */
static void who_asks_may_leave_and_the_broker_may_end_at_any_moment(void **state)
{
	(void)state;
	for (unsigned steps = 0; steps < 40; steps++) {
		struct client *asks[4];

		begin(1 + steps % 3, 1 + steps);
		(void)client_who_says("PUBLISH some.topic\r\none\r\nBYE\r\n");
		for (unsigned i = 0; i < 4; i++) {
			asks[i] = world_client();
			say(asks[i], i % 2 ? CLIENTS : TOPICS_OF(""));
		}
		for (unsigned i = 0; i < steps * 3; i++)
			world_step();
		if (steps % 2) {
			for (unsigned i = 0; i < 4; i++)
				leave(asks[i]);
			world_rest();
		} else {
			world_drain();
		}
		world_end();
	}
}

static void more_than_some_at_a_time_are_told_to_come_again(void **state)
{
	enum { ASKING = 40 };
	struct client *asks[ASKING];
	unsigned answered = 0, refused = 0;

	(void)state;
	begin(1, 1);
	publish_many();
	sim.broker.shards[0].reactor.params.turn_us = 1;
	for (unsigned i = 0; i < ASKING; i++) {
		asks[i] = world_client();
		say(asks[i], TOPICS_OF(""));
	}
	world_rest();
	for (unsigned i = 0; i < ASKING; i++) {
		answered += hears(asks[i], " 200 ");
		refused += hears(asks[i], "too many waiting requests");
	}
	assert_int_equal(answered + refused, ASKING);
	assert_true(answered >= 16 && refused > 0);
	for (unsigned i = 0; i < ASKING; i++)
		leave(asks[i]);
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_of_topics_is_the_next_names_in_order_from_all_homes),
		cmocka_unit_test(a_survey_takes_as_many_turns_as_there_is_to_look_at),
		cmocka_unit_test(topics_that_come_meanwhile_hide_none_that_was_there),
		cmocka_unit_test(those_who_are_behind_are_named_with_how_far),
		cmocka_unit_test(who_asks_may_leave_and_the_broker_may_end_at_any_moment),
		cmocka_unit_test(more_than_some_at_a_time_are_told_to_come_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
