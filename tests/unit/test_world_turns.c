#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "../sim/sim.h"
#include "base/clock.h"
#include "base/config.h"
#include "broker/broker.h"
#include "broker/connection.h"
#include "broker/latency.h"
#include "broker/shard.h"

/* What a turn of whole brokers does at most, and how long messages are in them, in the simulation's
 * world (test_world.c). */

void sim_give_up(void)
{
	abort();
}

static struct shard *begin(void (*adjust)(struct config *), unsigned shards)
{
	const struct sim_params params = { .seed = 1, .schedule = 1, .shards = shards };

	world_adjust = adjust;
	world_begin(&params, false);
	return &sim.broker.shards[0];
}

static void say(struct client *c, const char *text)
{
	client_say(c, text, strlen(text));
	world_rest();
}

static struct client *client_who_says(const char *text)
{
	struct client *c = world_client();

	assert_non_null(c);
	say(c, text);
	return c;
}

static void leave(struct client *c)
{
	c->said_all = true;
	c->ending = END_CLOSE;
}

/* ---- latency ---- */

static const char *second_pattern = "few.>";

/* The world's topics: these are its first two sections. */
static void no_pace(struct config *c)
{
	c->topics.pace = 0;
	for (size_t i = 0; i < c->topic_n; i++)
		c->topic[i].pace = 0;
	free(c->topic[1].pattern);
	c->topic[1].pattern = strdup(second_pattern);
	for (size_t i = 0; i < c->topic_n; i++)
		c->topic[i].section = i + 1;
}

static uint64_t at_door(enum door door)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		n += sim.broker.shards[i].latencies->doors[door].count;
	return n;
}

static uint64_t in_section(unsigned section)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		n += sim.broker.shards[i].latencies->sections[section].count;
	return n;
}

static void latency_is_counted_for_each_subscriber_by_door_and_section(void **state)
{
	struct client *in[4], *publisher;

	(void)state;
	second_pattern = "few.>";
	begin(no_pace, 3);
	in[0] = client_who_says("SUBSCRIBE few.t\r\n");
	in[1] = client_who_says("SUBSCRIBE few.t\r\n");
	in[2] = client_who_says("GET /subscribe/few.t HTTP/1.1\r\nHost: x\r\n"
				"Accept: text/event-stream\r\n\r\n");
	in[3] = client_who_says("SUBSCRIBE none\r\n");
	world_pass(NS_PER_S);
	publisher = client_who_says("PUBLISH few.t\r\nm\r\n");
	assert_int_equal(at_door(DOOR_LINE), 2);
	assert_int_equal(at_door(DOOR_HTTP), 1);
	assert_int_equal(in_section(2), 3);
	assert_int_equal(in_section(0), 0);
	say(client_who_says("PUBLISH none\r\n"), "m\r\n");
	assert_int_equal(at_door(DOOR_LINE), 3);
	assert_int_equal(in_section(0), 1);
	for (unsigned i = 0; i < 4; i++)
		leave(in[i]);
	leave(publisher);
	world_end();
}

static void one_message_in_a_tenth_of_a_second_is_followed(void **state)
{
	struct client *subscriber, *publisher;
	uint64_t begun_ns;

	(void)state;
	begin(no_pace, 1);
	subscriber = client_who_says("SUBSCRIBE t\r\n");
	publisher = client_who_says("PUBLISH t\r\n");
	world_pass(NS_PER_S);
	begun_ns = sim.now_ns;
	for (unsigned i = 0; i < 20; i++)
		say(publisher, "m\r\n");
	assert_true(sim.now_ns - begun_ns < LATENCY_EVERY_MS * NS_PER_MS);
	assert_int_equal(at_door(DOOR_LINE), 1);
	world_pass(LATENCY_EVERY_MS * NS_PER_MS);
	say(publisher, "m\r\n");
	assert_int_equal(at_door(DOOR_LINE), 2);
	leave(subscriber);
	leave(publisher);
	world_end();
}

/* Nothing else is followed before it has what is, but for a second. */
static void who_takes_long_is_counted_as_long(void **state)
{
	struct client *slow, *publisher;
	const struct shard *s = begin(no_pace, 1);

	(void)state;
	slow = client_who_says("SUBSCRIBE t\r\n");
	publisher = client_who_says("PUBLISH t\r\n");
	slow->stalled = true;
	slow->wire.out.max = 64;
	world_pass(NS_PER_S);
	for (unsigned i = 0; i < 9; i++) {
		for (unsigned k = 0; k < 100; k++)
			client_say(publisher, "m", 1);
		say(publisher, "\r\n");
		world_pass(LATENCY_EVERY_MS * NS_PER_MS);
	}
	assert_int_equal(at_door(DOOR_LINE), 0);
	slow->stalled = false;
	world_rest();
	assert_int_equal(at_door(DOOR_LINE), 1);
	assert_in_range(s->latencies->doors[DOOR_LINE].max, 900 * NS_PER_MS, 1000 * NS_PER_MS);
	leave(slow);
	leave(publisher);
	world_end();
}

static void sections_that_have_changed_begin_anew(void **state)
{
	struct client *subscriber, *publisher;

	(void)state;
	second_pattern = "few.>";
	begin(no_pace, 1);
	subscriber = client_who_says("SUBSCRIBE few.t\r\n");
	world_pass(NS_PER_S);
	publisher = client_who_says("PUBLISH few.t\r\nm\r\n");
	assert_int_equal(in_section(2), 1);
	world_reload();
	assert_int_equal(in_section(2), 1);
	second_pattern = "fewer.>";
	world_reload();
	assert_int_equal(in_section(2), 0);
	assert_int_equal(at_door(DOOR_LINE), 1);
	leave(subscriber);
	leave(publisher);
	world_end();
}

/* ---- fan-out ---- */

static void a_pass_whose_sends_take_long_goes_on_in_the_next_turn(void **state)
{
	enum { SUBSCRIBERS = 250, SENDS_IN_A_TURN = 128, SEND_US = 50 };
	struct client *subscribers[SUBSCRIBERS], *publisher;
	const struct shard *s = begin(no_pace, 1);

	(void)state;
	for (unsigned i = 0; i < SUBSCRIBERS; i++)
		subscribers[i] = client_who_says("SUBSCRIBE t\r\n");
	publisher = client_who_says("PUBLISH t\r\n");
	client_say(publisher, "m\r\n", 3);
	sim.send_ns = SEND_US * NS_PER_US;
	while (s->counters.delivered < SUBSCRIBERS) {
		uint64_t sends = s->sockets.sends, turns = s->reactor.stats.turns;

		world_step();
		assert_true(s->sockets.sends - sends <=
			    SENDS_IN_A_TURN * (s->reactor.stats.turns - turns + 1));
	}
	sim.send_ns = 0;
	for (unsigned i = 0; i < SUBSCRIBERS; i++)
		leave(subscribers[i]);
	leave(publisher);
	world_end();
}

/* ---- goodbyes ---- */

enum { GOODBYES = 250, GOODBYES_IN_A_TURN = 64 };

static void says_goodbye(struct config *c)
{
	no_pace(c);
	c->topics.on_last_publisher = LAST_PUBLISHER_BYE;
	c->topics.slow = SLOW_SKIP;
}

static unsigned told_bye(struct client *const *clients, unsigned n)
{
	unsigned told = 0;

	for (unsigned i = 0; i < n; i++)
		told += clients[i]->line_n >= 5 &&
			memmem(clients[i]->line, clients[i]->line_n, "BYE\r\n", 5) != NULL;
	return told;
}

static unsigned leaving(struct shard *s)
{
	unsigned n = 0;

	for (struct list *l = s->clients.connections.next; l != &s->clients.connections;
	     l = l->next)
		n += LIST_ENTRY(l, struct connection, link)->state != CONNECTION_OPEN;
	return n;
}

static void goodbyes_are_said_over_turns_to_those_who_were_there(void **state)
{
	struct client *subscribers[GOODBYES], *publisher, *late = NULL;
	struct shard *s = begin(says_goodbye, 1);

	(void)state;
	for (unsigned i = 0; i < GOODBYES; i++)
		subscribers[i] = client_who_says("SUBSCRIBE t\r\n");
	publisher = client_who_says("PUBLISH t\r\n");
	/* Some have a send under way. */
	for (unsigned i = 0; i < GOODBYES; i += 50) {
		subscribers[i]->stalled = true;
		subscribers[i]->wire.out.max = 64;
	}
	for (unsigned i = 0; i < 100; i++)
		client_say(publisher, "m", 1);
	say(publisher, "\r\n");
	client_say(publisher, "BYE\r\n", 5);
	while (told_bye(subscribers, GOODBYES) == 0) {
		unsigned before = leaving(s);
		uint64_t turns = s->reactor.stats.turns;

		world_step();
		assert_true(leaving(s) <=
			    before + GOODBYES_IN_A_TURN * (s->reactor.stats.turns - turns + 1));
		if (late != NULL || leaving(s) < 2)
			continue;
		late = world_client();
		assert_non_null(late);
		client_say(late, "SUBSCRIBE t\r\n", 13);
	}
	for (unsigned i = 0; i < GOODBYES; i++)
		subscribers[i]->stalled = false;
	world_pass(NS_PER_S);
	assert_int_equal(told_bye(subscribers, GOODBYES), GOODBYES);
	assert_non_null(late);
	assert_false(late->over);
	say(client_who_says("PUBLISH t\r\n"), "again\r\n");
	assert_non_null(memmem(late->line, late->line_n, "again\r\n", 7));
	assert_int_equal(told_bye(&late, 1), 0);
	assert_true(list_empty(&s->audience.ending) && list_empty(&s->audience.ended));
	leave(late);
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(latency_is_counted_for_each_subscriber_by_door_and_section),
		cmocka_unit_test(one_message_in_a_tenth_of_a_second_is_followed),
		cmocka_unit_test(who_takes_long_is_counted_as_long),
		cmocka_unit_test(sections_that_have_changed_begin_anew),
		cmocka_unit_test(goodbyes_are_said_over_turns_to_those_who_were_there),
		cmocka_unit_test(a_pass_whose_sends_take_long_goes_on_in_the_next_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
