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
#include "broker/patterns.h"
#include "broker/subscription.h"
#include "topic/interest.h"
#include "topic/topic.h"

/* Patterns and groups over whole brokers, in the simulation's world (test_world.c). */

void sim_give_up(void)
{
	abort();
}

static void begin(unsigned shards)
{
	const struct sim_params params = { .seed = 1, .schedule = 1, .shards = shards };

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

static struct client *member_who_says(unsigned group, const char *text)
{
	struct client *c = world_client();

	assert_non_null(c);
	c->group = group;
	say(c, text);
	world_rest();
	return c;
}

static void publish(const char *topic, const char *messages)
{
	struct client *c = world_client();

	assert_non_null(c);
	say(c, "PUBLISH ");
	say(c, topic);
	say(c, "\r\n");
	say(c, messages);
	say(c, "BYE\r\n");
	world_rest();
}

static bool has(const struct client *c, const char *text)
{
	return memmem(c->line, c->line_n, text, strlen(text)) != NULL;
}

static void assert_heard(const struct client *c, const char *text)
{
	if (c->line_n != strlen(text) || memcmp(c->line, text, c->line_n) != 0)
		fail_msg("%.*s instead of %s", (int)c->line_n, c->line, text);
}

static void end(struct client *c)
{
	c->said_all = true;
	c->ending = END_CLOSE;
	world_rest();
}

static const struct topic *topic_of(const char *name)
{
	struct shard *any = &sim.broker.shards[0];
	uint64_t hash = topic_hash(span_of(name));

	return home_topic(&sim.broker.shards[shard_home(any, hash)], hash, span_of(name));
}

static void a_pattern_is_matched_by_topics_of_every_shard(void **state)
{
	struct client *c, *level;

	(void)state;
	begin(5);
	c = client_who_says("SUBSCRIBE a.>\r\n");
	level = client_who_says("SUBSCRIBE a.*\r\n");
	assert_heard(c, "OK\r\n");
	publish("a.1", "one\r\ntwo\r\n");
	publish("a.2.x", "three\r\n");
	publish("a", "four\r\n");
	publish("b.1", "five\r\n");
	assert_heard(c, "OK\r\na.1 one\r\na.1 two\r\na.2.x three\r\n");
	assert_heard(level, "OK\r\na.1 one\r\na.1 two\r\n");
	/* The topic was there before this one was. */
	c = client_who_says("SUBSCRIBE *.1\r\n");
	publish("a.1", "six\r\n");
	assert_heard(c, "OK\r\na.1 six\r\n");
	assert_true(has(level, "a.1 six\r\n"));
	world_end();
}

static void the_newest_of_each_topic_comes_first_and_what_is_live_behind_it(void **state)
{
	struct client *c;

	(void)state;
	begin(3);
	publish("p.a", "1\r\n2\r\n3\r\n");
	publish("p.b", "4\r\n");
	publish("other", "5\r\n");
	c = client_who_says("SUBSCRIBE p.* LAST 1\r\n");
	assert_true(has(c, "p.a 3\r\n"));
	assert_true(has(c, "p.b 4\r\n"));
	assert_int_equal(c->line_n, strlen("OK\r\np.a 3\r\np.b 4\r\n"));
	publish("p.a", "6\r\n");
	assert_true(has(c, "p.a 6\r\n"));
	/* It is there already; another one asks for the same. */
	c = client_who_says("SUBSCRIBE p.* LAST 1\r\n");
	assert_true(has(c, "p.a 6\r\n"));
	assert_true(has(c, "p.b 4\r\n"));
	assert_false(has(c, "p.a 3\r\n"));
	world_end();
}

static void a_pattern_keeps_no_topic_alive(void **state)
{
	struct client *c;

	(void)state;
	begin(2);
	c = client_who_says("SUBSCRIBE >\r\n");
	publish("none.x", "1\r\n");
	assert_non_null(topic_of("none.x"));
	world_pass(10 * NS_PER_S);
	assert_null(topic_of("none.x"));
	publish("none.x", "2\r\n");
	assert_heard(c, "OK\r\nnone.x 1\r\nnone.x 2\r\n");
	world_end();
}

static void what_passes_finds_who_subscribes_and_leaves_nothing(void **state)
{
	struct client *exact, *pattern, *all;

	(void)state;
	begin(3);
	exact = client_who_says("SUBSCRIBE _INBOX.a.1\r\n");
	pattern = client_who_says("SUBSCRIBE _INBOX.a.*\r\n");
	all = client_who_says("SUBSCRIBE _INBOX.>\r\n");
	publish("_INBOX.a.1", "1\r\n");
	publish("_INBOX.a.2", "2\r\n");
	publish("_INBOX.b.1", "3\r\n");
	assert_heard(exact, "OK\r\n1\r\n");
	assert_heard(pattern, "OK\r\n_INBOX.a.1 1\r\n_INBOX.a.2 2\r\n");
	assert_heard(all, "OK\r\n_INBOX.a.1 1\r\n_INBOX.a.2 2\r\n_INBOX.b.1 3\r\n");
	assert_null(topic_of("_INBOX.a.1"));
	assert_null(topic_of("_INBOX.b.1"));
	end(exact);
	end(pattern);
	end(all);
	for (unsigned i = 0; i < 3; i++)
		assert_true(patterns_empty(&sim.broker.shards[i].home.known.table));
	world_end();
}

static void an_inbox_is_known_to_one_home(void **state)
{
	unsigned known = 0;

	(void)state;
	begin(5);
	(void)client_who_says("SUBSCRIBE _INBOX.a.*\r\n");
	for (unsigned i = 0; i < 5; i++)
		known += !patterns_empty(&sim.broker.shards[i].home.known.table);
	assert_int_equal(known, 1);
	(void)client_who_says("SUBSCRIBE x.*\r\n");
	for (unsigned i = 0; i < 5; i++)
		assert_false(patterns_empty(&sim.broker.shards[i].home.known.table));
	world_end();
}

/* How many subscriptions a home knows of, by name. */
static uint64_t told(const char *pattern)
{
	const struct shard *s = &sim.broker.shards[0];
	struct pattern_key key;
	const struct pattern *p;

	pattern_key_make(&key, PATTERN_NATIVE, SPAN(""), span_of(pattern));
	p = patterns_find(&s->home.known.table, &key);
	return p != NULL ? ((const struct known_pattern *)(const void *)p)->subscribers_n : 0;
}

static void homes_know_how_many_subscribe_to_a_pattern(void **state)
{
	struct client *of[4];

	(void)state;
	begin(3);
	for (unsigned i = 0; i < 4; i++) {
		of[i] = client_who_says("SUBSCRIBE x.*\r\n");
		assert_int_equal(told("x.*"), i + 1);
	}
	for (unsigned i = 0; i < 4; i++) {
		end(of[i]);
		assert_int_equal(told("x.*"), 3 - i);
	}
	world_end();
}

static size_t lines_of(const struct client *c)
{
	size_t n = 0;

	for (size_t i = 0; i < c->line_n; i++)
		n += c->line[i] == '\n';
	return n;
}

static void a_message_goes_to_one_member_of_each_group(void **state)
{
	struct client *of[6], *plain;
	size_t one = 0, two = 0;

	(void)state;
	begin(3);
	for (unsigned i = 0; i < 6; i++)
		of[i] = member_who_says(1 + i % 2, i < 3 ? "SUBSCRIBE w\r\n" : "SUBSCRIBE >\r\n");
	plain = client_who_says("SUBSCRIBE w\r\n");
	for (unsigned i = 0; i < 30; i++)
		publish("w", "x\r\n");
	publish("w", "1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n");
	assert_int_equal(lines_of(plain), 1 + 36);
	for (unsigned i = 0; i < 6; i++) {
		/* Without the OK; and nobody is passed over. */
		*(i % 2 ? &two : &one) += lines_of(of[i]) - 1;
		assert_in_range(lines_of(of[i]), 1 + 9, 1 + 15);
	}
	assert_int_equal(one, 36);
	assert_int_equal(two, 36);
	world_end();
}

static void what_a_member_has_not_got_when_it_leaves_goes_to_another(void **state)
{
	struct client *slow, *other;
	char message[1001];
	unsigned got = 0;

	(void)state;
	begin(2);
	slow = member_who_says(1, "SUBSCRIBE w\r\n");
	assert_heard(slow, "OK\r\n");
	slow->stalled = true;
	slow->wire.out.max = 100;
	for (unsigned i = 0; i < 8; i++) {
		memset(message, 'a' + (char)i, 990);
		memcpy(message + 990, "\r\n", 3);
		publish("w", message);
	}
	other = member_who_says(1, "SUBSCRIBE w\r\n");
	assert_heard(other, "OK\r\n");
	kernel_reset(&slow->wire);
	slow->over = true;
	world_rest();
	for (unsigned i = 0; i < 8; i++) {
		memset(message, 'a' + (char)i, 990);
		message[990] = 0;
		got += has(other, message);
	}
	/* Of the first one some had gone out. */
	assert_in_range(got, 7, 8);
	world_end();
}

/* Its publisher is in the group, and wants nothing of its own. */
static void what_no_member_takes_is_refused_once(void **state)
{
	struct shard *s;
	struct client *c;
	uint64_t began_ns;

	(void)state;
	begin(1);
	s = &sim.broker.shards[0];
	s->broker->listeners[0].protocols |= CONFIG_PROTOCOL_NATS;
	c = client_who_says("CONNECT {\"verbose\":false,\"echo\":false}\r\nSUB w g 1\r\n");
	sim.allocation_ns = NS_PER_MS;
	began_ns = sim.now_ns;
	say(c, "PUB w 1\r\nx\r\nPING\r\n");
	while (s->counters.dropped[DROP_CLOSED] == 0)
		world_step();
	sim.allocation_ns = 0;
	/* Each time that it is dealt takes a letter. */
	assert_in_range(sim.now_ns - began_ns, 1, 32 * NS_PER_MS);
	world_rest();
	assert_true(has(c, "PONG\r\n"));
	assert_false(has(c, "MSG"));
	assert_int_equal(s->counters.matched, 1);
	world_end();
}

static void all_topics_of_a_section_have_one_order(void **state)
{
	struct config *config = config_defaults();
	struct client *c;
	char expected[400] = "OK\r\n", line[40], name[20];

	(void)state;
	assert_non_null(config);
	config->topics.order = ORDER_SECTION;
	assert_int_equal(topic_hash_sections(config), 0);
	begin(5);
	c = client_who_says("SUBSCRIBE o.*\r\n");
	for (unsigned i = 0; i < 12; i++) {
		snprintf(name, sizeof(name), "o.%u", i % 5);
		snprintf(line, sizeof(line), "%u\r\n", i);
		publish(name, line);
		snprintf(line, sizeof(line), "o.%u %u\r\n", i % 5, i);
		strcat(expected, line);
	}
	assert_heard(c, expected);
	for (unsigned i = 1; i < 5; i++) {
		snprintf(name, sizeof(name), "o.%u", i);
		assert_int_equal(shard_home(&sim.broker.shards[0], topic_hash(span_of(name))),
				 shard_home(&sim.broker.shards[0], topic_hash(SPAN("o.0"))));
	}
	world_end();
	assert_int_equal(topic_hash_sections(NULL), 0);
	config_free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_pattern_is_matched_by_topics_of_every_shard),
		cmocka_unit_test(the_newest_of_each_topic_comes_first_and_what_is_live_behind_it),
		cmocka_unit_test(a_pattern_keeps_no_topic_alive),
		cmocka_unit_test(what_passes_finds_who_subscribes_and_leaves_nothing),
		cmocka_unit_test(an_inbox_is_known_to_one_home),
		cmocka_unit_test(homes_know_how_many_subscribe_to_a_pattern),
		cmocka_unit_test(a_message_goes_to_one_member_of_each_group),
		cmocka_unit_test(what_a_member_has_not_got_when_it_leaves_goes_to_another),
		cmocka_unit_test(what_no_member_takes_is_refused_once),
		cmocka_unit_test(all_topics_of_a_section_have_one_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
