#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../sim/sim.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/hash.h"
#include "base/memory.h"
#include "broker/admission.h"
#include "broker/budget.h"
#include "broker/connection.h"
#include "broker/listener.h"
#include "protocol/websocket.h"
#include "session/http_answer.h"
#include "session/intake.h"
#include "session/shared.h"
#include "topic/block.h"
#include "topic/interest.h"

/*
 * Whole brokers in the simulation's world, at whose clock and buffers a script can stand exactly:
 * what decides here is never who was faster.
 */

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
	if (text[0] != 0)
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

static void publish(struct client *c, size_t bytes)
{
	for (; bytes > 2; bytes--)
		client_say(c, "m", 1);
	say(c, "\r\n");
	world_rest();
}

/* A subscriber that reads no more, once it has its OK. */
static struct client *stalled(const char *command)
{
	struct client *c = client_who_says(command);

	assert_memory_equal(c->line, "OK\r\n", 4);
	c->stalled = true;
	c->wire.out.max = 64;
	return c;
}

static void leave(struct client *c)
{
	c->stalled = false;
	c->said_all = true;
	c->ending = END_CLOSE;
}

/* ---- the memory budget ---- */

static size_t memory_limit;

static void limit_memory(struct config *c)
{
	c->limits.memory_bytes = memory_limit;
	c->limits.message_bytes = 1 << 20;
}

static uint64_t crossings(enum budget_level level)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		n += sim.broker.shards[i].counters.memory_crossings[level];
	return n;
}

static void shards_that_reload_one_after_another_judge_by_one_limit(void **state)
{
	struct client *slow, *publisher;

	(void)state;
	world_adjust = limit_memory;
	memory_limit = 1 << 30;
	begin(3);
	slow = stalled("SUBSCRIBE t\r\n");
	publisher = client_who_says("PUBLISH t\r\n");
	publish(publisher, 100);
	for (unsigned i = 0; i < 4; i++)
		publish(publisher, 300000);
	memory_limit = memory_used() / 96 * 100;
	world_reload();
	world_pass(2 * NS_PER_S);
	for (enum budget_level l = BUDGET_HISTORY; l < BUDGET_LEVELS; l++)
		assert_int_equal(crossings(l), 1);
	memory_limit = 1 << 30;
	world_reload();
	assert_int_equal(budget_now(&sim.broker), BUDGET_EASY);
	leave(slow);
	leave(publisher);
	world_rest();
	for (enum budget_level l = BUDGET_HISTORY; l < BUDGET_LEVELS; l++)
		assert_int_equal(crossings(l), 1);
	world_end();
}

static uint64_t evicted(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		n += sim.broker.shards[i].counters.memory_evicted;
	return n;
}

/* A little more is used than what publishers wait at; for as long as a quarter of a minute. */
static void lack_memory(void)
{
	memory_limit = memory_used() / 96 * 100;
	world_reload();
	assert_true(crossings(BUDGET_EVICTION) > 0);
	world_pass(15 * NS_PER_S);
}

static void little_memory(struct config *c)
{
	limit_memory(c);
	c->engine.recv_buffers = 4;
	c->engine.recv_buffer_bytes = 16 << 10;
	c->topics.slow = SLOW_SKIP;
	c->topics.backlog_seconds = 1000;
	c->limits.handshake_seconds = 1000;
	c->topics.history_messages = 0;
}

enum { HOLDERS = 7 };

/* Some of them have gone, some have only skipped, and the broker takes in what comes. */
static void some_have_gone(struct client **holders, unsigned skipped)
{
	struct client *next;
	unsigned gone = HOLDERS;

	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		gone -= sim.broker.shards[i].clients.connections_n;
	assert_int_equal(gone + skipped, evicted());
	assert_true(gone > 0 && gone < HOLDERS);
	assert_true(budget_now(&sim.broker) < BUDGET_EVICTION);
	assert_int_equal(crossings(BUDGET_EVICTION), 1);
	next = client_who_says("PUBLISH next\r\nm\r\nBYE\r\n");
	assert_true(next->over && !next->cut_short);
	for (unsigned i = 0; i < HOLDERS; i++)
		if (!holders[i]->over)
			leave(holders[i]);
	world_end();
}

/* Of a message, or a head. */
static void say_part(struct client *c)
{
	for (unsigned i = 0; i < 5000; i++)
		client_say(c, "m", 1);
	world_rest();
}

/* Each holds too little to be worth a client, and none of them says another word. */
static void what_many_hold_a_little_of_goes_when_nothing_else_can(void **state)
{
	struct client *holders[HOLDERS];

	(void)state;
	world_adjust = little_memory;
	memory_limit = 1 << 30;
	begin(2);
	for (unsigned i = 0; i < HOLDERS; i++) {
		holders[i] = client_who_says(
			i % 2 ? "GET / HTTP/1.1\r\nx: "
			      : "POST /publish/t HTTP/1.1\r\nHost: x\r\nContent-Length: "
				"9999\r\n\r\n");
		say_part(holders[i]);
	}
	lack_memory();
	some_have_gone(holders, 0);
}

/* Not even all of it were a step towards what is wanted. */
static void who_holds_next_to_nothing_stays(void **state)
{
	struct client *holder, *idle;

	(void)state;
	world_adjust = little_memory;
	memory_limit = 1 << 30;
	begin(2);
	idle = client_who_says("SUBSCRIBE t\r\n");
	holder = client_who_says("GET / HTTP/1.1\r\nx: ");
	lack_memory();
	assert_int_equal(budget_now(&sim.broker), BUDGET_EVICTION);
	assert_int_equal(evicted(), 0);
	assert_false(holder->over || idle->over);
	memory_limit = 1 << 30;
	world_reload();
	leave(holder);
	leave(idle);
	world_end();
}

/* One that has skipped to the head holds what it is in the middle of, and may never take it. */
static void who_has_nothing_left_to_skip_goes(void **state)
{
	struct client *holders[HOLDERS], *publisher;
	char command[32];

	(void)state;
	world_adjust = little_memory;
	memory_limit = 1 << 30;
	begin(2);
	for (unsigned i = 0; i < HOLDERS; i++) {
		snprintf(command, sizeof(command), "SUBSCRIBE t.%u\r\n", i);
		holders[i] = stalled(command);
		snprintf(command, sizeof(command), "PUBLISH t.%u\r\n", i);
		publisher = client_who_says(command);
		publish(publisher, 100000);
		leave(publisher);
		world_rest();
	}
	lack_memory();
	some_have_gone(holders, HOLDERS);
}

static void little_memory_and_history(struct config *c)
{
	little_memory(c);
	c->topics.history_messages = 1000;
}

/* It is in nobody's history any more. */
static void what_one_replays_is_its_backlog(void **state)
{
	struct client *publisher, *replays, *small;

	(void)state;
	world_adjust = little_memory_and_history;
	memory_limit = 1 << 30;
	begin(2);
	publisher = client_who_says("PUBLISH t\r\n");
	for (unsigned i = 0; i < 10; i++)
		publish(publisher, 50000);
	small = client_who_says("GET /");
	say_part(small);
	replays = world_client();
	replays->stalled = true;
	replays->wire.out.max = 64;
	say(replays, "SUBSCRIBE t LAST 100\r\n");
	world_rest();
	lack_memory();
	assert_int_equal(evicted(), 1);
	assert_int_equal(budget_now(&sim.broker), BUDGET_EASY);
	assert_false(small->over);
	leave(small);
	leave(publisher);
	leave(replays);
	world_end();
}

/* ---- draining ---- */

static void few_entries(struct config *c)
{
	c->engine.lane_entries = 2;
}

static bool hears(const struct client *c, const char *text)
{
	return c->line_n > 0 && memmem(c->line, c->line_n, text, strlen(text)) != NULL;
}

/* Whatever a client waits for when the drain begins: an answer that goes by every shard, a message
 * that is still to come, a number, a place, its last messages. */
static void nobody_who_waits_holds_a_drain_up(void **state)
{
	static const char *const words[] = {
		"GET /topic/t HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /topic/u HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /topic/t/3 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /topic/t/last HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /publish/t HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nm",
		"GET /subscribe/u HTTP/1.1\r\nHost: x\r\n\r\n",
		"SUBSCRIBE u\r\n",
		"SUBSCRIBE v LAST 5\r\nBYE\r\n",
		"PUBLISH w\r\nm\r\n",
		"PUBLISH w\r\nm\r\nBYE\r\n",
	};
	enum { WORDS = sizeof(words) / sizeof(*words) };

	(void)state;
	world_adjust = few_entries;
	for (unsigned schedule = 0; schedule < 300; schedule++) {
		const struct sim_params params = { .seed = 1,
						   .schedule = schedule,
						   .shards = 1 + schedule % 4 };
		struct client *clients[WORDS], *in, *waits;
		uint64_t begun;

		world_begin(&params, false);
		in = client_who_says("SUBSCRIBE t\r\n");
		waits = client_who_says("GET /topic/t/3 HTTP/1.1\r\nHost: x\r\n\r\n");
		for (unsigned i = 0; i < WORDS; i++) {
			clients[i] = world_client();
			say(clients[i], words[i]);
		}
		for (unsigned steps = schedule; steps > 0; steps--)
			world_step();
		say(in, "BYE\r\n");
		begun = sim.now_ns;
		world_drain();
		assert_true(hears(waits, " 503 ") && hears(waits, "draining"));
		for (unsigned i = 0; i < WORDS; i++)
			assert_true(clients[i]->over);
		world_end();
		assert_true(sim.now_ns - begun < NS_PER_S);
	}
}

/* ---- limits of the whole broker ---- */

static void two_subscriptions(struct config *c)
{
	c->limits.subscriptions = 2;
}

static void shards_that_take_the_last_place_at_once_do_not_all_get_it(void **state)
{
	enum { CLIENTS = 8 };

	(void)state;
	world_adjust = two_subscriptions;
	for (unsigned schedule = 0; schedule < 100; schedule++) {
		const struct sim_params params = {
			.seed = 1, .schedule = schedule, .shards = 4, .faults = 1u << FAULT_PREEMPT
		};
		struct client *clients[CLIENTS];
		unsigned in = 0;

		world_begin(&params, false);
		sim.rate[FAULT_PREEMPT] = 2;
		for (unsigned i = 0; i < CLIENTS; i++) {
			clients[i] = world_client();
			say(clients[i], "SUBSCRIBE t\r\n");
		}
		world_rest();
		for (unsigned i = 0; i < CLIENTS; i++) {
			in += hears(clients[i], "OK\r\n");
			assert_true(hears(clients[i], "OK\r\n") ||
				    hears(clients[i], "ERROR too many subscriptions\r\n"));
		}
		assert_int_equal(in, 2);
		world_end();
	}
}

static size_t history_limit;

static void limit_history(struct config *c)
{
	c->topics.history_messages = 1000;
	c->topics.linger_seconds = 1000;
	c->limits.history_total_bytes = history_limit;
}

static uint64_t oldest_ns(const struct shard *s)
{
	const struct list *blocks = &s->home.history.blocks;

	return list_empty(blocks) ? UINT64_MAX
				  : LIST_ENTRY(blocks->next, struct block, age)->stamped_ns;
}

/* When there may be less history of all shards, one of them knows it before the others do. */
static void a_smaller_total_takes_the_oldest_history_wherever_it_is(void **state)
{
	enum { TOPICS = 12, MESSAGES = 120, SHARDS = 3 };
	struct client *publisher;
	char command[32];
	uint64_t begun_ns[MESSAGES], bytes = 0;
	unsigned left = 0;

	(void)state;
	world_adjust = limit_history;
	history_limit = 1 << 20;
	begin(SHARDS);
	publisher = client_who_says("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
	for (unsigned i = 0; i < MESSAGES; i++) {
		world_pass(10 * NS_PER_MS);
		snprintf(command, sizeof(command), "POST /publish/t.%u", i % TOPICS);
		say(publisher, command);
		say(publisher, " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
		begun_ns[i] = sim.now_ns;
		publish(publisher, 1000);
	}
	history_limit = 60000;
	world_reload();
	for (unsigned i = 0; i < SHARDS; i++) {
		const struct shard *s = &sim.broker.shards[i];

		bytes += s->home.history.bytes;
		for (struct list *l = s->home.history.blocks.next; l != &s->home.history.blocks;
		     l = l->next)
			left++;
	}
	/* A sixteenth may not be told of. */
	assert_true(bytes <= history_limit && bytes > history_limit * 7 / 8);
	for (unsigned i = 0; i < SHARDS; i++)
		assert_true(oldest_ns(&sim.broker.shards[i]) >= begun_ns[MESSAGES - left]);
	leave(publisher);
	world_end();
}

/* ---- a reload, where there is much that gets other settings ---- */

enum { MANY_TOPICS = 200000, SOME_TOPICS = 10000, TOPICS_IN_A_TURN = 512 };

static unsigned kept_messages, topics_n;

static void keep_messages(struct config *c)
{
	c->limits.topics = 2 * topics_n;
	c->limits.memory_bytes = 0;
	c->topics.linger_seconds = 1000000;
	c->topics.history_messages = kept_messages;
}

static struct span topic_name(char *buf, size_t size, unsigned i)
{
	return (struct span){ buf, (size_t)snprintf(buf, size, "many.%u", i) };
}

static struct topic *many_topic(struct shard *s, unsigned i)
{
	char buf[32];
	struct span name = topic_name(buf, sizeof(buf), i);
	int error;
	struct topic *t = home_topic_or_new(s, hash_bytes(name.data, name.len), name, &error);

	assert_non_null(t);
	return t;
}

/* And one who subscribes to the seventh. */
static struct shard *begin_topics(unsigned n, struct client **subscriber)
{
	world_adjust = keep_messages;
	kept_messages = 10;
	topics_n = n;
	begin(1);
	for (unsigned i = 0; i < topics_n; i++)
		(void)many_topic(&sim.broker.shards[0], i);
	*subscriber = client_who_says("SUBSCRIBE many.7\r\n");
	assert_memory_equal((*subscriber)->line, "OK\r\n", 4);
	return &sim.broker.shards[0];
}

/* The shard has read the letter and has so many topics before it. */
static void begin_reload(const struct shard *s, size_t unconfigured)
{
	const struct reload_letter *before = s->reloads;

	world_begin_reload();
	while (s->reloads == before)
		world_step();
	while (s->home.unconfigured > unconfigured)
		world_step();
	assert_true(s->home.unconfigured > 0);
}

/* Everything has the settings of this very configuration. */
static void assert_all_keep(const struct shard *s, unsigned messages)
{
	const struct named *n;

	assert_null(s->reloads);
	assert_int_equal(s->config->topics.history_messages, messages);
	for (size_t at = 0; (n = table_next(&s->home.topics, &at)) != NULL;) {
		const struct topic *t = (const struct topic *)(const void *)n;

		assert_ptr_equal(t->settings, config_topic(s->config, n->name));
		assert_int_equal(t->limits.messages, t->settings->history_messages);
	}
	for (size_t at = 0; (n = table_next(&s->audience.interests, &at)) != NULL;)
		assert_ptr_equal(((const struct interest *)(const void *)n)->settings,
				 config_topic(s->config, n->name));
}

static void a_reload_gives_some_topics_their_settings_in_each_turn(void **state)
{
	struct client *subscriber;
	struct shard *s = begin_topics(MANY_TOPICS, &subscriber);

	(void)state;
	kept_messages = 20;
	begin_reload(s, MANY_TOPICS);
	while (s->reloads != NULL) {
		size_t before = s->home.unconfigured;
		uint64_t turns = s->reactor.stats.turns;

		world_step();
		assert_true(before - s->home.unconfigured <=
			    TOPICS_IN_A_TURN * (s->reactor.stats.turns - turns + 1));
	}
	assert_true(s->reactor.stats.turns > MANY_TOPICS / TOPICS_IN_A_TURN);
	assert_all_keep(s, 20);
	leave(subscriber);
	world_end();
}

static void topics_come_and_go_in_the_middle_of_a_reload(void **state)
{
	struct client *subscriber;
	struct shard *s = begin_topics(SOME_TOPICS, &subscriber);
	struct topic *t;

	(void)state;
	kept_messages = 20;
	begin_reload(s, SOME_TOPICS / 2);
	/* Some that have their settings already, some that have not; the table grows. */
	for (unsigned i = 0; i < SOME_TOPICS; i += 16) {
		t = many_topic(s, i);
		assert_int_equal(t->limits.messages, 20);
	}
	for (unsigned i = 0; i < SOME_TOPICS; i++)
		(void)many_topic(s, SOME_TOPICS + i);
	/* There may be no more: those that have been idle for longest go. */
	for (unsigned i = 0; i < 1000; i++)
		(void)many_topic(s, 2 * SOME_TOPICS + i);
	world_rest();
	assert_all_keep(s, 20);
	leave(subscriber);
	world_end();
}

static void the_last_of_two_reloads_holds(void **state)
{
	struct client *subscriber;
	struct shard *s = begin_topics(SOME_TOPICS, &subscriber);

	(void)state;
	kept_messages = 20;
	begin_reload(s, SOME_TOPICS / 2);
	kept_messages = 30;
	begin_reload(s, SOME_TOPICS / 2);
	assert_int_equal(many_topic(s, 0)->limits.messages, 30);
	world_rest();
	assert_all_keep(s, 30);
	leave(subscriber);
	world_end();
}

static void a_broker_may_end_in_the_middle_of_a_reload(void **state)
{
	struct client *subscriber;
	struct shard *s = begin_topics(SOME_TOPICS, &subscriber);

	(void)state;
	kept_messages = 20;
	begin_reload(s, SOME_TOPICS / 2);
	leave(subscriber);
	world_end();
}

static void a_smaller_total_takes_some_history_in_each_turn(void **state)
{
	enum { BLOCKS = 1000, BLOCKS_IN_A_TURN = 512 };
	const struct span name = SPAN("t");
	struct client *publisher;
	const struct topic *t;
	struct shard *s;

	(void)state;
	world_adjust = limit_history;
	history_limit = 1 << 20;
	begin(1);
	s = &sim.broker.shards[0];
	publisher = client_who_says("PUBLISH t\r\n");
	for (unsigned i = 0; i < BLOCKS; i++)
		publish(publisher, 100);
	t = home_topic(s, hash_bytes(name.data, name.len), name);
	assert_int_equal(t->history.blocks_n, BLOCKS);
	history_limit = 1000;
	world_begin_reload();
	while (s->home.history.bytes > history_limit) {
		uint32_t before = t->history.blocks_n;
		uint64_t turns = s->reactor.stats.turns;

		world_step();
		assert_true(before - t->history.blocks_n <=
			    BLOCKS_IN_A_TURN * (s->reactor.stats.turns - turns + 1));
	}
	assert_true(t->history.blocks_n > 0);
	leave(publisher);
	world_end();
}

/* Letters to nobody, which ask for one more each. */
static void what_a_shard_writes_to_itself_is_read_over_turns(void **state)
{
	enum { LETTERS = 1000, LETTERS_IN_A_TURN = 128 };
	const struct span name = SPAN("t");
	struct client *client;
	struct shard *s;
	uint64_t turns;

	(void)state;
	world_adjust = NULL;
	begin(1);
	s = &sim.broker.shards[0];
	client = client_who_says("SUBSCRIBE t\r\n");
	for (unsigned i = 0; i < LETTERS; i++) {
		struct topic_letter *l = topic_letter_new(LETTER_SYNC, name, 0);

		assert_non_null(l);
		l->slot = SOCKET_NO_SLOT;
		shard_post(s, 0, LANE_FREE, &l->letter);
	}
	turns = s->reactor.stats.turns;
	say(client, "PING\r\n");
	world_rest();
	assert_false(mail_own_waits(&s->mail));
	assert_true(s->reactor.stats.turns - turns >= 2 * LETTERS / LETTERS_IN_A_TURN);
	leave(client);
	world_end();
}

/* ---- what is done with every connection ---- */

enum { SOME_CLIENTS = 12, SLOTS = 64, CLIENTS_IN_A_TURN = 8 };

static unsigned visits[SLOTS];

static void visit(struct connection *c, void *argument)
{
	(void)argument;
	assert_true(c->socket.slot < SLOTS);
	visits[c->socket.slot]++;
}

static bool visit_some(struct shard *s, struct connections_walk *walk)
{
	reactor_part(&s->reactor, PART_CLIENTS);
	return connections_walk(s, walk, visit, NULL);
}

static void a_walk_takes_turns_and_comes_to_all_who_stay(void **state)
{
	struct connections_walk walk = connections_all();
	struct client *clients[SOME_CLIENTS];
	struct shard *s;
	unsigned turns = 1, seen = 0;

	(void)state;
	world_adjust = NULL;
	memset(visits, 0, sizeof(visits));
	begin(1);
	s = &sim.broker.shards[0];
	for (unsigned i = 0; i < SOME_CLIENTS; i++)
		clients[i] = client_who_says("SUBSCRIBE t\r\n");
	while (visit_some(s, &walk)) {
		turns++;
		/* One goes and another comes, who may be called for or not. */
		leave(clients[turns]);
		world_rest();
		(void)client_who_says("SUBSCRIBE t\r\n");
	}
	assert_true(turns > SOME_CLIENTS / CLIENTS_IN_A_TURN);
	for (unsigned i = 0; i < SLOTS; i++) {
		assert_true(visits[i] <= 1);
		seen += visits[i];
	}
	assert_true(seen >= SOME_CLIENTS - turns);
	world_end();
}

static void a_drain_tells_some_in_each_turn(void **state)
{
	const struct shard *s;

	(void)state;
	begin(1);
	s = &sim.broker.shards[0];
	for (unsigned i = 0; i < SOME_CLIENTS; i++)
		(void)client_who_says("PUBLISH t\r\n");
	world_begin_drain();
	while (s->counters.errors < SOME_CLIENTS) {
		uint64_t before = s->counters.errors, turns = s->reactor.stats.turns;

		world_step();
		assert_true(s->counters.errors - before <=
			    CLIENTS_IN_A_TURN * (s->reactor.stats.turns - turns + 1));
	}
	world_end();
}

/* ---- limits that time or the kernel's buffers decide ---- */

enum { BACKLOG_BYTES = 1000, BACKLOG_SECONDS = 3, HANDSHAKE_SECONDS = 2, LOOK_MS = 250 };

static void limit_backlogs(struct config *c)
{
	c->topics.backlog_bytes = BACKLOG_BYTES;
	c->topics.backlog_seconds = BACKLOG_SECONDS;
	c->limits.handshake_seconds = HANDSHAKE_SECONDS;
}

/* Time passes up to the next moment at which some shard looks at it. */
static void pass_to_next_look(void)
{
	world_pass(kernel_next_timer() - sim.now_ns);
}

static uint64_t dropped_slow(void)
{
	return sim.broker.shards[0].counters.dropped[DROP_SLOW];
}

/* One who does not read, and one who publishes to it. */
static void begin_stalled(struct client **slow, struct client **publisher)
{
	world_adjust = limit_backlogs;
	begin(1);
	*slow = stalled("SUBSCRIBE t\r\n");
	*publisher = client_who_says("PUBLISH t\r\n");
}

/* A send of the first message is stuck, for which there is less room: both lie before it. */
static void fall_behind_by(int over)
{
	struct client *slow, *publisher;

	begin_stalled(&slow, &publisher);
	publish(publisher, 100);
	publish(publisher, (size_t)(BACKLOG_BYTES - 100 + over));
	assert_int_equal(dropped_slow(), over > 0);
	slow->stalled = false;
	world_rest();
	assert_int_equal(hears(slow, "ERROR slow consumer\r\n"), over > 0);
	assert_int_equal(slow->line_n,
			 over > 0 ? strlen("OK\r\n") + 100 + strlen("ERROR slow consumer\r\n")
				  : strlen("OK\r\n") + BACKLOG_BYTES + (size_t)over);
	leave(slow);
	leave(publisher);
	world_end();
}

static void a_backlog_may_be_as_long_as_it_may_be_and_no_longer(void **state)
{
	(void)state;
	for (int over = -1; over <= 1; over++)
		fall_behind_by(over);
}

static void a_subscriber_may_be_behind_for_its_time_and_until_the_next_look(void **state)
{
	struct client *slow, *publisher;
	uint64_t sent_ns, last_ns = 0;

	(void)state;
	begin_stalled(&slow, &publisher);
	/* So that it is not stuck at a look. */
	world_pass(123 * NS_PER_MS);
	publish(publisher, 100);
	publish(publisher, 100);
	sent_ns = sim.now_ns;
	while (dropped_slow() == 0) {
		last_ns = sim.now_ns;
		pass_to_next_look();
		assert_true(sim.now_ns < sent_ns + 2 * BACKLOG_SECONDS * NS_PER_S);
	}
	assert_true(last_ns <= sent_ns + BACKLOG_SECONDS * NS_PER_S);
	assert_true(sim.now_ns > sent_ns + BACKLOG_SECONDS * NS_PER_S - NS_PER_MS);
	slow->stalled = false;
	world_rest();
	assert_true(hears(slow, "ERROR slow consumer\r\n"));
	leave(slow);
	leave(publisher);
	world_end();
}

/* Who catches up in time stays, also at the last look before its time is over. */
static void count_let_go(struct connection *c, void *argument)
{
	unsigned *n = argument;

	const struct subscription *sub = connection_subscription(c);

	*n += sub == NULL || subscription_is(sub, SUBSCRIPTION_SKIP);
}

/* Whose sends are cancelled, or were: the one who publishes has no subscription. */
static unsigned let_go(struct shard *s)
{
	unsigned n = SOME_CLIENTS + 1 - s->clients.connections_n;

	connections_each(s, count_let_go, &n);
	return n - 1;
}

static void the_slow_are_let_go_some_in_each_turn(void **state)
{
	struct client *slow[SOME_CLIENTS], *publisher;
	struct shard *s;

	(void)state;
	world_adjust = limit_backlogs;
	begin(1);
	s = &sim.broker.shards[0];
	/* There is time for next to nothing in a turn. */
	s->reactor.params.turn_us = 1;
	for (unsigned i = 0; i < SOME_CLIENTS; i++)
		slow[i] = stalled("SUBSCRIBE t\r\n");
	publisher = client_who_says("PUBLISH t\r\n");
	publish(publisher, 200);
	world_pass(BACKLOG_SECONDS * NS_PER_S - LOOK_MS * NS_PER_MS);
	assert_int_equal(let_go(s), 0);
	while (let_go(s) < SOME_CLIENTS) {
		unsigned before = let_go(s);
		uint64_t turns = s->reactor.stats.turns;

		world_step();
		assert_true(let_go(s) <=
			    before + CLIENTS_IN_A_TURN * (s->reactor.stats.turns - turns));
	}
	for (unsigned i = 0; i < SOME_CLIENTS; i++)
		leave(slow[i]);
	leave(publisher);
	world_end();
}

static void a_subscriber_that_reads_again_in_time_stays(void **state)
{
	struct client *slow, *publisher;
	uint64_t sent_ns;

	(void)state;
	begin_stalled(&slow, &publisher);
	world_pass(123 * NS_PER_MS);
	publish(publisher, 100);
	sent_ns = sim.now_ns;
	while (sim.now_ns + LOOK_MS * NS_PER_MS < sent_ns + BACKLOG_SECONDS * NS_PER_S)
		pass_to_next_look();
	assert_true(sim.now_ns > sent_ns + (BACKLOG_SECONDS - 1) * NS_PER_S);
	slow->stalled = false;
	world_rest();
	world_pass(10 * NS_PER_S);
	assert_false(slow->over);
	assert_int_equal(dropped_slow(), 0);
	leave(slow);
	leave(publisher);
	world_end();
}

/* Whatever it has said before: who is cut in the middle of a message must not take it for the end
 * of all that there was. */
static void who_cannot_be_told_that_it_is_cut_is_reset(void **state)
{
	static const char *const goodbyes[] = { "", "BYE\r\n" };

	(void)state;
	for (size_t i = 0; i < sizeof(goodbyes) / sizeof(*goodbyes); i++) {
		struct client *slow, *publisher;

		begin_stalled(&slow, &publisher);
		publish(publisher, 100);
		publish(publisher, 100);
		say(slow, goodbyes[i]);
		world_pass((BACKLOG_SECONDS + 1) * NS_PER_S);
		assert_int_equal(dropped_slow(), 1);
		assert_false(slow->wire.broker_fin);
		world_pass(6 * NS_PER_S);
		assert_true(slow->wire.reset);
		leave(slow);
		leave(publisher);
		world_end();
	}
}

/* By its deadline, not by its progress: one that dribbles ends with the silent one beside it. */
static void whoever_does_not_get_to_the_point_ends_at_one_time(void **state)
{
	static const struct {
		const char *first, *drop, *answer;
	} cases[] = {
		/* They may be about to ask for anything, and would take words for its answer. */
		{ "", "", "" },
		{ "P", "", "" },
		{ "\r\n", "", "" },
		{ "PUB", "", "ERROR timeout\r\n" },
		{ "G", "", "HTTP/1.1 408 " },
		{ "SUBSCRIBE ", "", "ERROR timeout\r\n" },
		{ "SUBSCRIBE ", "x", "ERROR timeout\r\n" },
		{ "GET / HTTP/1.1\r\n", "", "HTTP/1.1 408 " },
		{ "GET / HTTP/1.1\r\n", "x: y\r\n", "HTTP/1.1 408 " },
	};
	enum { CASES = sizeof(cases) / sizeof(*cases), DROP_MS = 90 };
	struct client *clients[CASES];
	uint64_t begun_ns, left_ns;

	(void)state;
	world_adjust = limit_backlogs;
	begin(1);
	for (unsigned i = 0; i < CASES; i++)
		clients[i] = client_who_says(cases[i].first);
	begun_ns = sim.now_ns;
	while (sim.now_ns + DROP_MS * NS_PER_MS < begun_ns + HANDSHAKE_SECONDS * NS_PER_S) {
		for (unsigned i = 0; i < CASES; i++)
			say(clients[i], cases[i].drop);
		world_pass(DROP_MS * NS_PER_MS);
		for (unsigned i = 0; i < CASES; i++)
			assert_false(clients[i]->over || clients[i]->line_n > 0);
	}
	left_ns = begun_ns + (HANDSHAKE_SECONDS * 1000 + LOOK_MS) * NS_PER_MS - sim.now_ns;
	world_pass(left_ns);
	for (unsigned i = 0; i < CASES; i++) {
		assert_true(clients[i]->over);
		if (cases[i].answer[0] == 0)
			assert_int_equal(clients[i]->line_n, 0);
		assert_memory_equal(clients[i]->line, cases[i].answer, strlen(cases[i].answer));
	}
	world_end();
}

/* ---- silence ---- */

enum { IDLE_SECONDS = 3 };

static void limit_silence(struct config *c)
{
	limit_memory(c);
	c->limits.idle_seconds = IDLE_SECONDS;
}

static void it_is_silent_when_neither_side_says_anything(void **state)
{
	static const char *const hellos[] = { "SUBSCRIBE quiet\r\n", "PUBLISH quiet\r\n",
					      "GET /health HTTP/1.1\r\nHost: x\r\n\r\n" };
	enum { HELLOS = sizeof(hellos) / sizeof(*hellos) };
	struct client *hears_all, *asks, *publisher, *silent[HELLOS];

	(void)state;
	world_adjust = limit_silence;
	memory_limit = 1 << 30;
	begin(1);
	hears_all = client_who_says("SUBSCRIBE t\r\n");
	asks = client_who_says("SUBSCRIBE quiet\r\n");
	publisher = client_who_says("PUBLISH t\r\n");
	for (unsigned i = 0; i < HELLOS; i++)
		silent[i] = client_who_says(hellos[i]);
	for (unsigned i = 0; i < 4 * IDLE_SECONDS; i++) {
		for (unsigned j = 0; j < HELLOS; j++)
			assert_true(silent[j]->over == (i > IDLE_SECONDS) || i == IDLE_SECONDS);
		publish(publisher, 3);
		say(asks, "PING\r\n");
		world_pass(NS_PER_S);
		assert_false(hears_all->over || asks->over || publisher->over);
	}
	world_pass((IDLE_SECONDS + 1) * NS_PER_S);
	assert_true(hears_all->over && asks->over && publisher->over);
	assert_true(hears(hears_all, "ERROR timeout\r\n"));
	assert_int_equal(asks->line_n, strlen("OK\r\n") + 4 * IDLE_SECONDS * strlen("PONG\r\n") +
					       strlen("ERROR timeout\r\n"));
	world_end();
}

static void whoever_is_not_listened_to_is_not_silent(void **state)
{
	struct client *publisher;

	(void)state;
	world_adjust = limit_silence;
	memory_limit = 1 << 30;
	begin(1);
	publisher = client_who_says("PUBLISH t\r\n");
	memory_limit = memory_used() / 96 * 100;
	world_reload();
	publish(publisher, 3);
	world_pass(3 * IDLE_SECONDS * NS_PER_S);
	memory_limit = 1 << 30;
	world_reload();
	world_pass((IDLE_SECONDS - 1) * NS_PER_S);
	assert_false(publisher->over);
	world_pass(2 * NS_PER_S);
	assert_true(publisher->over && hears(publisher, "ERROR timeout\r\n"));
	world_end();
}

static void limit_no_silence(struct config *c)
{
	limit_memory(c);
	c->limits.idle_seconds = 0;
}

static struct client *mqtt_client(char id, unsigned keep_alive)
{
	const char connect[] = {
		0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, (char)(keep_alive >> 8), (char)keep_alive,
		0,    1,  id
	};
	struct client *c = world_client();

	client_say(c, connect, sizeof(connect));
	world_rest();
	assert_int_equal(c->line_n, 4);
	return c;
}

/* Whatever its keep alive; who is sent something is not silent, as elsewhere. The limit may be new.
 */
static void an_mqtt_client_is_silent_as_long_as_others(void **state)
{
	static const char subscribe[] = { (char)0x82, 6, 0, 1, 0, 1, 't', 0 };
	static const char ping[] = { (char)0xc0, 0 };
	struct client *hears_all, *asks, *silent, *timeless, *publisher, *lines;

	(void)state;
	world_adjust = limit_no_silence;
	memory_limit = 1 << 30;
	begin(1);
	sim.broker.listeners[0].protocols |= CONFIG_PROTOCOL_MQTT;
	hears_all = mqtt_client('h', 3600);
	client_say(hears_all, subscribe, sizeof(subscribe));
	asks = mqtt_client('a', 3600);
	silent = mqtt_client('s', 3600);
	timeless = mqtt_client('t', 0);
	publisher = client_who_says("PUBLISH t\r\n");
	lines = client_who_says("SUBSCRIBE quiet\r\n");
	world_pass(100 * NS_PER_S);
	assert_false(silent->over || timeless->over);
	world_adjust = limit_silence;
	world_reload();
	for (unsigned i = 0; i < 4 * IDLE_SECONDS; i++) {
		if (i != IDLE_SECONDS && i != IDLE_SECONDS + 1) {
			assert_true(silent->over == (i > IDLE_SECONDS));
			assert_true(timeless->over == (i > IDLE_SECONDS));
		}
		publish(publisher, 3);
		client_say(asks, ping, sizeof(ping));
		/* The world counts ends of lines, which an MQTT message has none of. */
		say(lines, "PING\r\n");
		world_pass(NS_PER_S);
		assert_false(hears_all->over || asks->over);
	}
	world_pass((IDLE_SECONDS + 2) * NS_PER_S);
	assert_true(hears_all->over && asks->over);
	world_end();
}

enum { BODY_BYTES = 100000, MOUTHFUL = 10, PAUSE_SECONDS = 20 };

static void take_long_bodies(struct config *c)
{
	limit_memory(c);
	c->limits.idle_seconds = 0;
}

/* However long the whole takes; and not for ever when nothing is taken any more. */
static void a_body_waits_for_a_slow_reader_as_long_as_it_reads(void **state)
{
	static const char head[] = "POST /publish/t HTTP/1.1\r\nHost: x\r\n"
				   "Content-Length: 100000\r\n\r\n";
	struct client *publisher, *reader;
	char bytes[MOUTHFUL];

	(void)state;
	world_adjust = take_long_bodies;
	memory_limit = 1 << 30;
	begin(1);
	publisher = client_who_says(head);
	for (unsigned i = 0; i < BODY_BYTES; i++)
		client_say(publisher, "m", 1);
	world_rest();
	assert_true(hears(publisher, "HTTP/1.1 200 OK\r\n"));
	reader = world_client();
	reader->stalled = true;
	reader->wire.out.max = 64;
	say(reader, "GET /topic/t/last HTTP/1.1\r\nHost: x\r\n\r\n");
	world_rest();
	for (unsigned i = 0; i < 20; i++) {
		world_pass(PAUSE_SECONDS * NS_PER_S);
		assert_false(reader->wire.reset || reader->wire.broker_fin);
		assert_int_equal(pipe_read(&reader->wire.out, bytes, MOUTHFUL), MOUTHFUL);
	}
	world_pass(28 * NS_PER_S);
	assert_false(reader->wire.reset);
	world_pass(20 * NS_PER_S);
	assert_true(reader->wire.reset);
	leave(publisher);
	leave(reader);
	world_end();
}

/* ---- who counts as a connection ---- */

static void allow_two_connections(struct config *c)
{
	c->limits.connections = 2;
}

static void allow_one_connection_of_an_address(struct config *c)
{
	c->limits.connections_per_ip = 1;
}

/* With a descriptor, and one for all the time that its client takes to close. */
static void whoever_has_been_told_the_last_word_counts_until_it_has_gone(void **state)
{
	struct client *told[2], *refused, *next;

	(void)state;
	world_adjust = allow_two_connections;
	begin(1);
	for (unsigned i = 0; i < 2; i++) {
		told[i] = world_client();
		told[i]->stalled = true;
		say(told[i], "nonsense\r\n");
		world_rest();
	}
	refused = client_who_says("SUBSCRIBE t\r\n");
	assert_true(hears(refused, "ERROR too many connections\r\n"));
	told[0]->stalled = false;
	world_rest();
	assert_true(hears(told[0], "ERROR malformed command\r\n"));
	leave(refused);
	world_rest();
	next = client_who_says("SUBSCRIBE t\r\n");
	assert_true(hears(next, "OK\r\n"));
	leave(told[1]);
	leave(next);
	world_end();
}

static bool enter(const char *text)
{
	unsigned char address[16];

	assert_int_equal(inet_pton(AF_INET6, text, address), 1);
	return admission_enter(&sim.broker, sim.broker.shards[0].config, address);
}

static void exit_from(const char *text)
{
	unsigned char address[16];

	assert_int_equal(inet_pton(AF_INET6, text, address), 1);
	admission_leave(&sim.broker, address);
}

static void an_ipv6_network_counts_as_one_address(void **state)
{
	static const char *const apart[] = { "::1", "::ffff:10.0.0.1", "::ffff:10.0.0.2",
					     "2001:db8:0:1::1", "2001:db8:0:2::1" };
	static const char *const together[] = { "::2", "2001:db8:0:1:8000::1", "2001:db8:0:2::" };
	enum { APART = sizeof(apart) / sizeof(*apart) };

	(void)state;
	world_adjust = allow_one_connection_of_an_address;
	begin(1);
	for (unsigned i = 0; i < APART; i++)
		assert_true(enter(apart[i]));
	for (unsigned i = 0; i < sizeof(together) / sizeof(*together); i++)
		assert_false(enter(together[i]));
	for (unsigned i = 0; i < APART; i++)
		assert_false(enter(apart[i]));
	exit_from("2001:db8:0:1::1");
	assert_true(enter("2001:db8:0:1:8000::1"));
	exit_from("2001:db8:0:1:8000::2");
	for (unsigned i = 0; i < APART; i++)
		if (i != 3)
			exit_from(apart[i]);
	world_end();
}

/* ---- event streams, which never come back after an answer that is not 200 ---- */

#define EVENTS(topic)                                                                              \
	"GET /subscribe/" topic " HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"

static void one_subscription(struct config *c)
{
	c->limits.subscriptions = 1;
}

static void one_topic(struct config *c)
{
	c->limits.topics = 1;
}

static void one_connection(struct config *c)
{
	c->limits.connections = 1;
}

static void an_event_stream_beyond_a_limit_is_sent_away_for_a_while(void **state)
{
	static const struct {
		void (*limit)(struct config *);
		const char *first, *reason;
	} cases[] = { { one_subscription, "SUBSCRIBE u\r\n", "too many subscriptions" },
		      { one_topic, "SUBSCRIBE u\r\n", "too many topics" },
		      { one_connection, "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n",
			"too many connections" } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct client *first, *away, *told;

		world_adjust = cases[i].limit;
		begin(1);
		first = client_who_says(cases[i].first);
		away = client_who_says(EVENTS("t"));
		assert_memory_equal(away->line, "HTTP/1.1 200 ", 13);
		assert_true(hears(away, "Content-Type: text/event-stream\r\n"));
		assert_true(hears(away, "\r\n\r\nretry: 5000\n\n") && away->over);
		told = client_who_says("GET /subscribe/t HTTP/1.1\r\nHost: x\r\n\r\n");
		assert_memory_equal(told->line, "HTTP/1.1 503 ", 13);
		assert_true(hears(told, cases[i].reason) && told->over);
		leave(first);
		world_rest();
		world_end();
	}
}

/* A stream that has begun ends in order; one that has not, and whoever may be about to ask for one,
 * hears nothing; any other request is told. */
static void a_drain_says_nothing_to_who_may_want_events(void **state)
{
	static const struct {
		const char *words, *first;
	} cases[] = { { EVENTS("u"), "HTTP/1.1 200 " },
		      { "", "" },
		      { "GET /subscribe/u HTTP/1.1\r\nAccept: text/event", "" },
		      { "POST /publish/u HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx",
			"HTTP/1.1 503 " },
		      { "GET /topic/u/1 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 503 " } };
	enum { CASES = sizeof(cases) / sizeof(*cases) };
	struct client *clients[CASES], *slow, *late, *late_reader;

	(void)state;
	world_adjust = NULL;
	begin(1);
	slow = stalled("SUBSCRIBE t\r\n");
	publish(client_who_says("PUBLISH t\r\n"), 1000);
	for (unsigned i = 0; i < CASES; i++)
		clients[i] = client_who_says(cases[i].words);
	world_drain();
	world_rest();
	for (unsigned i = 0; i < CASES; i++) {
		size_t n = strlen(cases[i].first);

		assert_true(clients[i]->over && (n > 0 || clients[i]->line_n == 0));
		assert_memory_equal(clients[i]->line, cases[i].first, n);
	}
	assert_true(hears(clients[0], "\r\n0\r\n\r\n"));
	late = client_who_says(EVENTS("u"));
	assert_true(late->over && late->line_n == 0);
	late_reader = client_who_says("GET /topic/u HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_true(hears(late_reader, "HTTP/1.1 503 ") && hears(late_reader, "draining"));
	leave(slow);
	world_end();
}

/* ---- WebSockets ---- */

#define HANDSHAKE(path)                                                                            \
	"GET " path                                                                                \
	" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"            \
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
/* Frames whose mask changes nothing. */
#define MASKED(first, length) first length "\0\0\0\0"

enum { PING_SECONDS = 3 };

static void ping_soon(struct config *c)
{
	limit_memory(c);
	c->ws.ping_seconds = PING_SECONDS;
	c->limits.idle_seconds = 1;
}

/* A client whose WebSocket stands; it has read the answer. */
static struct client *socket_for(const char *handshake)
{
	struct client *c = client_who_says(handshake);
	const char *end = memmem(c->line, c->line_n, "\r\n\r\n", 4);

	assert_memory_equal(c->line, "HTTP/1.1 101", 12);
	assert_non_null(end);
	assert_ptr_equal(end + 4, c->line + c->line_n);
	c->line_n = 0;
	return c;
}

static void assert_hears(const struct client *c, const char *bytes, size_t n)
{
	assert_int_equal(c->line_n, n);
	assert_memory_equal(c->line, bytes, n);
}

static void a_silent_websocket_is_asked_and_closed_when_it_is_to_be_asked_again(void **state)
{
	struct client *silent, *alive;

	(void)state;
	world_adjust = ping_soon;
	memory_limit = 1 << 30;
	begin(1);
	silent = socket_for(HANDSHAKE("/ws/t"));
	alive = socket_for(HANDSHAKE("/ws/t"));
	for (unsigned i = 1; i < 2 * PING_SECONDS; i++) {
		world_pass(NS_PER_S);
		client_say(alive, MASKED("\x8a", "\x80"), 6);
		world_rest();
		assert_false(silent->over);
		if (i != PING_SECONDS)
			assert_int_equal(silent->line_n, i < PING_SECONDS ? 0 : 2);
	}
	assert_hears(silent, "\x89\0", 2);
	world_pass(2 * NS_PER_S);
	assert_hears(silent, "\x89\0" WEBSOCKET_TIMEOUT, 2 + strlen(WEBSOCKET_TIMEOUT));
	assert_int_equal(alive->line_n, 0);
	world_end();
}

static void a_websocket_that_is_not_listened_to_is_not_silent(void **state)
{
	struct client *c;

	(void)state;
	world_adjust = ping_soon;
	memory_limit = 1 << 30;
	begin(1);
	c = socket_for(HANDSHAKE("/ws/t"));
	memory_limit = memory_used() / 96 * 100;
	world_reload();
	client_say(c, MASKED("\x81", "\x81") "x", 7);
	world_rest();
	world_pass((uint64_t)10 * PING_SECONDS * NS_PER_S);
	assert_false(c->over);
	memory_limit = 1 << 30;
	world_reload();
	world_pass((uint64_t)3 * PING_SECONDS * NS_PER_S);
	assert_true(c->over);
	world_end();
}

static void pings_are_not_taken_from_one_who_does_not_take_the_answers(void **state)
{
	enum { PINGS = 64, ROUNDS = 1000, REPLIES_MAX = 300 << 10 };
	struct client *c;
	char pings[PINGS * 7];
	uint64_t before;

	(void)state;
	world_adjust = ping_soon;
	memory_limit = 1 << 30;
	begin(1);
	for (unsigned i = 0; i < PINGS; i++)
		memcpy(pings + i * 7, MASKED("\x89", "\x81") "p", 7);
	c = socket_for(HANDSHAKE("/ws/t"));
	c->stalled = true;
	c->wire.out.max = 64;
	before = memory_used();
	for (unsigned i = 0; i < ROUNDS; i++) {
		client_say(c, pings, sizeof(pings));
		world_rest();
	}
	assert_true(memory_used() - before < REPLIES_MAX + INTAKE_WAITING_BYTES);
	assert_false(c->over);
	world_pass((uint64_t)2 * PING_SECONDS * NS_PER_S + NS_PER_S);
	c->stalled = false;
	world_rest();
	assert_true(hears(c, WEBSOCKET_TIMEOUT));
	world_end();
}

/* ---- how long a topic lives ---- */

enum { LINGER_S = 1, HISTORY_S = 10, WAIT_S = 3 };

static void short_lives(struct config *c)
{
	c->topics.linger_seconds = LINGER_S;
	c->topics.history_seconds = HISTORY_S;
	c->http.wait_seconds = WAIT_S;
	c->http.ahead = 3;
}

#define GET(target) "GET " target " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
#define POST_X(topic, more)                                                                        \
	"POST /publish/" topic " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" more                \
	"Content-Length: 1\r\n\r\nx"

static bool is_told(const char *words, const char *status)
{
	struct client *c = client_who_says(words);

	return c->line_n > 13 && memcmp(c->line + 9, status, 3) == 0;
}

static uint64_t topics(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		n += sim.broker.shards[i].home.topics.entries_n;
	return n;
}

/* What was handed out as immutable has no other message for as long as that was said. */
static void a_topic_lives_as_long_as_its_history(void **state)
{
	struct client *first, *later, *again;
	char id[48];

	(void)state;
	world_adjust = short_lives;
	begin(2);
	first = client_who_says(POST_X("t", ""));
	assert_true(hears(first, "\"id\":\""));
	memcpy(id, memmem(first->line, first->line_n, "\"id\":\"", 6), 23);
	id[23] = 0;
	world_pass((HISTORY_S - 1) * NS_PER_S);
	later = client_who_says(GET("/topic/t/1"));
	assert_true(hears(later, " 200 ") && hears(later, "max-age=1, immutable"));
	assert_true(is_told(POST_X("t", ""), "200"));
	world_pass((HISTORY_S - 1) * NS_PER_S);
	assert_true(is_told(GET("/topic/t/1"), "404"));
	assert_true(is_told(GET("/topic/t/2"), "200"));
	again = client_who_says(POST_X("t", ""));
	assert_true(hears(again, id) && hears(again, ":3\""));
	world_pass((HISTORY_S + LINGER_S + 3) * NS_PER_S);
	assert_int_equal(topics(), 0);
	again = client_who_says(POST_X("t", ""));
	assert_true(!hears(again, id) && hears(again, ":1\""));
	world_end();
}

static void no_history(struct config *c)
{
	short_lives(c);
	c->limits.history_total_bytes = 0;
}

/* A limit that takes the history leaves no topic for ever. */
static void a_topic_whose_history_was_taken_is_forgotten(void **state)
{
	(void)state;
	world_adjust = short_lives;
	begin(1);
	assert_true(is_told(POST_X("t", ""), "200"));
	world_adjust = no_history;
	world_reload();
	world_pass((HISTORY_S + LINGER_S + 3) * NS_PER_S);
	assert_int_equal(topics(), 0);
	world_end();
}

static void asking_for_what_is_not_there_makes_no_topic(void **state)
{
	struct client *waits, *playlist;

	(void)state;
	world_adjust = short_lives;
	begin(2);
	assert_true(is_told(GET("/topic/t"), "404"));
	assert_true(is_told(GET("/topic/t/last"), "404"));
	assert_true(is_told(GET("/topic/t/9"), "404"));
	assert_int_equal(topics(), 0);
	waits = client_who_says(GET("/topic/t/1"));
	playlist = client_who_says(GET("/topic/u/last?_HLS_msn=1"));
	assert_true(is_told(GET("/topic/t"), "404") && is_told(GET("/topic/u"), "404"));
	world_pass((WAIT_S + 1) * NS_PER_S);
	assert_true(hears(waits, " 503 ") && hears(playlist, " 503 "));
	assert_int_equal(topics(), 0);
	waits = client_who_says(GET("/topic/t/1"));
	assert_true(is_told(POST_X("t", ""), "200"));
	assert_true(hears(waits, " 200 "));
	assert_true(is_told(GET("/topic/t"), "200"));
	world_end();
}

static void a_playlist_is_waited_for_that_may_be_next(void **state)
{
	struct client *next, *now;

	(void)state;
	world_adjust = short_lives;
	begin(2);
	assert_true(is_told(POST_X("l", "X-Version: 10.0\r\n"), "200"));
	assert_true(is_told(GET("/topic/l/last?_HLS_msn=13"), "400"));
	assert_true(is_told(GET("/topic/l/last?_HLS_msn=18446744073709551615&_HLS_part=0"), "400"));
	next = client_who_says(GET("/topic/l/last?_HLS_msn=12"));
	now = client_who_says(GET("/topic/l/last?_HLS_msn=10&_HLS_part=0"));
	assert_true(hears(now, " 200 ") && hears(now, "Cache-Control: public, max-age=36\r\n"));
	assert_int_equal(next->line_n, 0);
	assert_true(is_told(POST_X("l", "X-Version: 12\r\n"), "200"));
	assert_true(hears(next, " 200 "));
	now = client_who_says(GET("/topic/l/last"));
	assert_true(hears(now, "Cache-Control: no-store\r\n"));
	world_end();
}

/* ---- a topic that fan-out does not keep up with ---- */

enum { CROWD = 13, FLOOD_MESSAGES = 200, FLOOD_BYTES = 250, MOST_SHARDS = 4 };

static void serve_one_in_a_turn(struct config *c)
{
	c->topics.backlog_bytes = 4000;
	c->topics.slow = SLOW_SKIP;
	c->engine.turn_sends = 1;
	c->engine.lane_entries = 64;
	c->limits.message_bytes = 1024;
}

static bool stands_in(struct list *waiting, const struct client *client)
{
	for (struct list *l = waiting->next; l != waiting; l = l->next) {
		const struct connection *c = LIST_ENTRY(l, struct connection, waiting);

		if (&sim.clients[kernel_client_of(c->socket.fd)] == client)
			return true;
	}
	return false;
}

static bool waits(const struct client *client)
{
	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		struct shard *s = &sim.broker.shards[i];

		if (stands_in(&s->clients.paused, client) || stands_in(&s->clients.resumed, client))
			return true;
	}
	return false;
}

/* Whoever publishes to it waits, wherever that is, and nobody else. */
static void a_topic_that_lags_makes_its_own_publishers_wait(void **state)
{
	unsigned waited[MOST_SHARDS + 1] = { 0 };

	(void)state;
	world_adjust = serve_one_in_a_turn;
	for (unsigned schedule = 0; schedule < 40; schedule++) {
		const struct sim_params params = { .seed = 1,
						   .schedule = schedule,
						   .shards = 1 + schedule % MOST_SHARDS };
		struct client *clients[CROWD + 3], *pair, *reader, *flood;
		unsigned left = FLOOD_MESSAGES;

		world_begin(&params, false);
		for (unsigned i = 0; i < CROWD; i++)
			clients[i] = client_who_says("SUBSCRIBE flood\r\n");
		clients[CROWD] = reader = client_who_says("SUBSCRIBE pair\r\n");
		clients[CROWD + 1] = pair = client_who_says("PUBLISH pair\r\n");
		clients[CROWD + 2] = flood = client_who_says("PUBLISH flood\r\n");
		for (unsigned steps = 0; steps < 100 * FLOOD_MESSAGES; steps++) {
			for (unsigned n = 2; left > 0 && n < FLOOD_BYTES; n++)
				say(flood, "f");
			if (left > 0 && left-- > 0) {
				say(flood, "\r\n");
				say(pair, "p\r\n");
			}
			world_step();
			waited[params.shards] += waits(flood);
			assert_false(waits(pair));
		}
		world_rest();
		assert_int_equal(reader->line_n, strlen("OK\r\n") + 3 * FLOOD_MESSAGES);
		for (unsigned i = 0; i < CROWD + 3; i++)
			leave(clients[i]);
		world_end();
	}
	for (unsigned shards = 1; shards <= MOST_SHARDS; shards++)
		assert_true(waited[shards] > 0);
}

/* ---- what becomes much more when it is sent ---- */

static void large_buffers(struct config *c)
{
	c->engine.recv_buffer_bytes = 16 << 10;
}

/* An empty line is 2 bytes, and its event 42. */
static void short_messages_wait_for_slow_event_streams_where_they_lie(void **state)
{
	enum { LINES = 120000, EVENT_BYTES = 42, AT_ONCE = 500, READERS = 3 };
	struct client *readers[READERS], *publisher;
	char lines[2 * AT_ONCE];

	(void)state;
	for (unsigned i = 0; i < sizeof(lines); i++)
		lines[i] = i % 2 == 0 ? '\r' : '\n';
	world_adjust = large_buffers;
	/* In few blocks, and in many that are small. */
	for (size_t at_most = 16 << 10; at_most >= 128; at_most /= 128) {
		uint64_t before;

		begin(1);
		for (unsigned i = 0; i < READERS; i++) {
			readers[i] = client_who_says("GET /subscribe/t HTTP/1.1\r\nHost: x\r\n"
						     "Accept: text/event-stream\r\n\r\n");
			readers[i]->stalled = true;
			readers[i]->wire.out.max = 64;
		}
		publisher = client_who_says("PUBLISH t\r\n");
		publisher->wire.in.max = at_most;
		before = memory_used();
		for (unsigned i = 0; i < LINES / AT_ONCE; i++)
			client_say(publisher, lines, sizeof(lines));
		world_rest();
		assert_int_equal(sim.broker.shards[0].counters.published, LINES);
		assert_true(memory_used() - before < LINES * EVENT_BYTES / 2);
		for (unsigned i = 0; i < READERS; i++) {
			readers[i]->stalled = false;
			readers[i]->wire.out.max = 1 << 20;
		}
		world_rest();
		for (unsigned i = 0; i < READERS; i++) {
			assert_true(hears(readers[i], ":1\ndata: \n\n\r\n"));
			assert_true(hears(readers[i], ":120000\ndata: \n\n\r\n"));
			leave(readers[i]);
		}
		leave(publisher);
		world_end();
	}
}

/* ---- what comes together ---- */

/* Other kinds of messages in turn, all with a LF at their end: they stay together, and who follows
 * gets those that it can. */
static void what_comes_together_is_one_block_whatever_it_holds(void **state)
{
	enum { ROUNDS = 400 };
	struct client *lines, *events, *publisher, *reader;

	(void)state;
	begin(1);
	lines = client_who_says("SUBSCRIBE t\r\n");
	events = client_who_says("GET /subscribe/t HTTP/1.1\r\nHost: x\r\n"
				 "Accept: text/event-stream\r\n\r\n");
	publisher = client_who_says("PUBLISH t\r\n");
	for (unsigned i = 0; i < ROUNDS; i++)
		say(publisher, "a\n\rb\n\r\n");
	world_rest();
	assert_int_equal(sim.broker.shards[0].counters.published, 3 * ROUNDS);
	/* As many as there were receives, whose sizes are drawn; not one for each change of kind.
	 */
	assert_true(sim.broker.shards[0].counters.blocks_in < ROUNDS / 10);
	assert_int_equal(lines->line_n, strlen("OK\r\n") + ROUNDS * strlen("a\r\n\r\n"));
	assert_int_equal(sim.broker.shards[0].counters.dropped[DROP_UNENCODABLE], ROUNDS);
	assert_true(hears(events, ":2\ndata: DWI=\n\n\r\n"));
	assert_true(hears(events, ":1199\ndata: DWI=\n\n\r\n"));
	assert_true(hears(events, ":1200\ndata: \n\n\r\n"));
	reader = client_who_says("GET /topic/t/1199 HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_true(hears(reader, "Content-Length: 2\r\n"));
	assert_true(hears(reader, "\r\n\r\n\rb"));
	leave(lines);
	leave(events);
	leave(publisher);
	leave(reader);
	world_end();
}

/* ---- the pace of a topic ---- */

enum { PACED = 4 /* subscribers */ };

/* A pass costs 2.5 us for each of them, and a rest is a hundred times as long. */
static void pace_a_hundred(struct config *c)
{
	c->topics.pace = 100 * 100;
	c->topics.slow = SLOW_SKIP;
	c->topics.backlog_bytes = 16 << 10;
	c->engine.turn_sends = 64;
	c->limits.message_bytes = 8 << 10;
}

static struct paced {
	struct client *subscribers[PACED], *publisher;
} paced;

static void begin_paced(void (*adjust)(struct config *c))
{
	world_adjust = adjust;
	begin(1);
	for (unsigned i = 0; i < PACED; i++)
		paced.subscribers[i] = client_who_says("SUBSCRIBE t\r\n");
	paced.publisher = client_who_says("PUBLISH t\r\n");
}

static void end_paced(void)
{
	for (unsigned i = 0; i < PACED; i++)
		leave(paced.subscribers[i]);
	leave(paced.publisher);
	world_end();
}

static uint64_t delivered(void)
{
	return sim.broker.shards[0].counters.delivered;
}

static uint64_t sends(void)
{
	return sim.broker.shards[0].sockets.sends;
}

/* And the clock stands still. */
static void publish_now(const char *text)
{
	say(paced.publisher, text);
	world_halt();
}

static void a_cold_topic_is_served_at_once(void **state)
{
	(void)state;
	begin_paced(pace_a_hundred);
	for (unsigned i = 1; i <= 3; i++) {
		publish_now("m\r\n");
		assert_int_equal(delivered(), PACED * i);
		world_pass(2 * NS_PER_MS);
	}
	end_paced();
}

static void a_hot_topic_rests_and_what_comes_meanwhile_is_merged(void **state)
{
	uint64_t before;

	(void)state;
	begin_paced(pace_a_hundred);
	publish_now("first\r\n");
	before = sends();
	for (unsigned i = 0; i < 10; i++)
		publish_now("m\r\n");
	assert_int_equal(delivered(), PACED);
	/* As long as the clock says, and no message is needed for it to end. */
	world_rest();
	assert_int_equal(delivered(), PACED * 11);
	assert_int_equal(sends(), before + PACED);
	end_paced();
}

static void pace_two(struct config *c)
{
	pace_a_hundred(c);
	c->topics.pace = 200;
}

/* Of 20 us. */
static void a_rest_that_would_be_short_is_none(void **state)
{
	(void)state;
	begin_paced(pace_two);
	for (unsigned i = 1; i <= 10; i++) {
		publish_now("m\r\n");
		assert_int_equal(delivered(), PACED * i);
	}
	end_paced();
}

static void no_pace(struct config *c)
{
	pace_a_hundred(c);
	c->topics.pace = 0;
}

static void a_topic_without_a_pace_never_rests(void **state)
{
	(void)state;
	begin_paced(no_pace);
	for (unsigned i = 1; i <= 10; i++) {
		publish_now("m\r\n");
		assert_int_equal(delivered(), PACED * i);
	}
	end_paced();
}

static void while_a_topic_rests_others_do_not(void **state)
{
	struct client *other, *publisher;

	(void)state;
	begin_paced(pace_a_hundred);
	other = client_who_says("SUBSCRIBE other\r\n");
	publisher = client_who_says("PUBLISH other\r\n");
	publish_now("first\r\n");
	publish_now("m\r\n");
	say(publisher, "m\r\n");
	world_halt();
	assert_int_equal(delivered(), PACED + 1);
	world_rest();
	assert_int_equal(delivered(), 2 * PACED + 1);
	leave(other);
	leave(publisher);
	end_paced();
}

static void a_rest_ends_when_there_is_enough_to_send(void **state)
{
	char text[3 << 10];

	(void)state;
	begin_paced(pace_a_hundred);
	publish_now("first\r\n");
	memset(text, 'm', sizeof(text));
	memcpy(text + sizeof(text) - 3, "\r\n", 3);
	publish_now("m\r\n");
	assert_int_equal(delivered(), PACED);
	publish_now(text);
	assert_int_equal(delivered(), 3 * PACED);
	end_paced();
}

static void whoever_leaves_does_not_wait_for_the_end_of_a_rest(void **state)
{
	(void)state;
	begin_paced(pace_a_hundred);
	publish_now("first\r\n");
	publish_now("m\r\n");
	say(paced.subscribers[0], "BYE\r\n");
	world_halt();
	assert_int_equal(delivered(), PACED + 1);
	world_rest();
	assert_int_equal(delivered(), 2 * PACED);
	end_paced();
}

static void a_replay_does_not_wait_for_the_end_of_a_rest(void **state)
{
	struct client *late;

	(void)state;
	begin_paced(pace_a_hundred);
	publish_now("first\r\n");
	publish_now("m\r\n");
	late = world_client();
	assert_non_null(late);
	say(late, "SUBSCRIBE t LAST 2\r\n");
	world_halt();
	assert_int_equal(delivered(), PACED + 2);
	world_rest();
	assert_int_equal(delivered(), 2 * PACED + 2);
	leave(late);
	end_paced();
}

/* What the main thread posts is read while time stands still, and so is all that comes of it. */
static void nobody_rests_while_the_broker_drains(void **state)
{
	uint64_t now_ns;

	(void)state;
	begin_paced(pace_a_hundred);
	publish_now("first\r\n");
	publish_now("m\r\n");
	assert_int_equal(delivered(), PACED);
	now_ns = sim.now_ns;
	world_drain();
	assert_int_equal(delivered(), 2 * PACED);
	assert_true(sim.now_ns - now_ns < 500 * NS_PER_US);
	end_paced();
}

/* ---- turns ---- */

static void whoever_asks_for_much_at_once_is_answered_in_turn_with_others(void **state)
{
	enum { REQUESTS = 500 };
	struct client *many, *other;
	const char *ask = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
	bool waited = false;

	(void)state;
	world_adjust = large_buffers;
	begin(1);
	/* There is time for next to nothing in a turn. */
	sim.broker.shards[0].reactor.params.turn_us = 1;
	many = client_who_says("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
	other = world_client();
	/* All of them are there before any is received. */
	client_calm(many);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(pipe_write(&many->wire.in, ask, strlen(ask)), strlen(ask));
	for (unsigned steps = 0; steps < 100000 && !waited; steps++) {
		world_step();
		waited = !list_empty(&http_shared(&sim.broker.shards[0])->runnable);
	}
	assert_true(waited);
	say(other, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
	while (!hears(other, " 200 "))
		world_step();
	world_rest();
	assert_true(sim.broker.shards[0].sockets.sends > REQUESTS / 64);
	leave(many);
	leave(other);
	world_end();
}

static void the_names_of_one_command_are_looked_at_over_turns(void **state)
{
	enum { NAMES = 5200 };
	static const char *const verbs[] = { "$9\r\nSUBSCRIBE", "$11\r\nUNSUBSCRIBE" };
	static char text[NAMES * 16];

	(void)state;
	for (unsigned v = 0; v < sizeof(verbs) / sizeof(*verbs); v++) {
		size_t n = (size_t)sprintf(text, "*%d\r\n%s\r\n", NAMES + 2, verbs[v]);
		struct client *c, *other;
		struct shard *s;
		bool waited = false;

		for (unsigned i = 0; i < NAMES; i++)
			n += (size_t)sprintf(text + n, "$6\r\nc.%04u\r\n", i);
		n += (size_t)sprintf(text + n, "$4\r\na..b\r\n");
		world_adjust = large_buffers;
		begin(1);
		s = &sim.broker.shards[0];
		c = client_who_says("*1\r\n$4\r\nPING\r\n");
		other = client_who_says("*1\r\n$4\r\nPING\r\n");
		/* There is time for next to nothing in a turn. */
		s->reactor.params.turn_us = 1;
		client_calm(c);
		assert_int_equal(pipe_write(&c->wire.in, text, n), n);
		while (!hears(c, "-ERR bad topic")) {
			world_step();
			if (!list_empty(&session_shared(s)->intakes.runnable) && !waited) {
				waited = true;
				say(other, "*2\r\n$4\r\nECHO\r\n$3\r\nhow\r\n");
			}
		}
		assert_true(waited);
		world_rest();
		assert_true(hears(other, "how"));
		leave(c);
		leave(other);
		world_end();
	}
}

static void those_who_wait_cost_a_publish_nothing_and_are_told_in_turn(void **state)
{
	enum { WAITING = 12 };
	struct client *waiting[WAITING], *next, *publisher;
	bool told_later = false;
	struct fetching *f;

	(void)state;
	world_adjust = NULL;
	begin(1);
	f = &sim.broker.shards[0].fetching;
	for (unsigned i = 0; i < WAITING; i++)
		waiting[i] = client_who_says("GET /topic/t/1 HTTP/1.1\r\nHost: x\r\n\r\n");
	next = client_who_says("GET /topic/t/2 HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_int_equal(f->waiting_n, WAITING + 1);
	sim.broker.shards[0].reactor.params.turn_us = 1;
	publisher = world_client();
	say(publisher, "PUBLISH t\r\none\r\n");
	for (unsigned steps = 0; steps < 100000 && !told_later; steps++) {
		world_step();
		told_later = f->waiting_n > 1 && !list_empty(&f->due);
	}
	assert_true(told_later);
	world_rest();
	assert_int_equal(f->waiting_n, 1);
	for (unsigned i = 0; i < WAITING; i++)
		assert_true(hears(waiting[i], "\r\n\r\none"));
	assert_false(hears(next, " 200 "));
	publish(publisher, 4);
	assert_true(hears(next, "\r\n\r\nmm"));
	for (unsigned i = 0; i < WAITING; i++)
		leave(waiting[i]);
	leave(next);
	leave(publisher);
	world_end();
}

/* ---- figures ---- */

static void let_all_see_figures(struct config *c)
{
	c->http.page_local_only = false;
}

static void ask_figures(struct client *c, const char *page)
{
	char text[64];

	snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", page);
	say(c, text);
}

/* When the figures that it has were collected; 0: it has none. */
static unsigned long long collected_at(struct client *c)
{
	unsigned long long at = 0;
	const char *from;

	from = c->line_n > 0 ? memmem(c->line, c->line_n, "\"time_ms\":", 10) : NULL;
	if (from != NULL)
		sscanf(from, "\"time_ms\":%llu", &at);
	return at;
}

static void many_who_ask_for_figures_wait_for_one_collection(void **state)
{
	enum { ASKING = 200, FEW = 16 };
	struct client *alone, *asking[ASKING];
	unsigned long long early[ASKING], first = 0, last = 0;
	unsigned served = 0;

	(void)state;
	world_adjust = let_all_see_figures;
	begin(3);
	alone = client_who_says("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_true(hears(alone, "broker_turns_total{reactor=\"2\"}"));
	for (unsigned i = 0; i < ASKING; i++) {
		asking[i] = world_client();
		ask_figures(asking[i], "/stats.json");
	}
	world_halt();
	for (unsigned i = 0; i < ASKING; i++) {
		early[i] = collected_at(asking[i]);
		first = early[i] > first ? early[i] : first;
		served += early[i] > 0;
	}
	assert_true(served <= FEW);
	world_rest();
	for (unsigned i = 0; i < ASKING; i++) {
		if (early[i] > 0)
			continue;
		assert_true(collected_at(asking[i]) > 0);
		assert_true(last == 0 || collected_at(asking[i]) == last);
		last = collected_at(asking[i]);
	}
	assert_true(last >= first + 1000);
	for (unsigned i = 0; i < ASKING; i++)
		leave(asking[i]);
	leave(alone);
	world_end();
}

static void few_who_ask_for_figures_need_not_wait_for_long(void **state)
{
	struct client *c;
	uint64_t begun_ns;

	(void)state;
	world_adjust = let_all_see_figures;
	begin(2);
	c = client_who_says("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
	begun_ns = sim.now_ns;
	ask_figures(c, "/stats.json");
	world_rest();
	assert_true(collected_at(c) > 0);
	assert_true(sim.now_ns < begun_ns + 200 * NS_PER_MS);
	leave(c);
	world_end();
}

static void all_who_do_not_take_their_figures_hold_one_text(void **state)
{
	enum { ASKING = 200 };
	struct client *first, *asking[ASKING];
	uint64_t before;
	size_t text;

	(void)state;
	world_adjust = let_all_see_figures;
	begin(2);
	first = client_who_says("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
	text = first->line_n;
	assert_true(text > 20000);
	for (unsigned i = 0; i < ASKING; i++) {
		asking[i] = client_who_says("");
		asking[i]->stalled = true;
		asking[i]->wire.out.max = 64;
	}
	before = memory_used();
	for (unsigned i = 0; i < ASKING; i++)
		ask_figures(asking[i], "/metrics");
	world_rest();
	/* A text, and for each the state of a session. */
	assert_true(memory_used() > before + text);
	assert_true(memory_used() < before + 2 * text + ASKING * 2500);
	for (unsigned i = 0; i < ASKING; i++)
		leave(asking[i]);
	leave(first);
	world_end();
}

static void busy_topics_are_found_in_as_many_turns_as_it_takes(void **state)
{
	enum { TOPICS = 200 };
	struct client *watches, *publisher;
	bool ranked_later = false;
	char text[64];

	(void)state;
	world_adjust = let_all_see_figures;
	begin(1);
	watches = client_who_says("SUBSCRIBE $sys.stats\r\n");
	for (unsigned i = 0; i < TOPICS; i++) {
		snprintf(text, sizeof(text), "PUBLISH busy.%u\r\none\r\nBYE\r\n", i);
		(void)client_who_says(text);
	}
	publisher = client_who_says("PUBLISH busiest\r\none\r\ntwo\r\nthree\r\n");
	sim.broker.shards[0].reactor.params.turn_us = 1;
	for (unsigned steps = 0; steps < 400000 && !hears(watches, "\"busiest\""); steps++) {
		if (steps % 2000 == 0)
			sim.now_ns = kernel_next_timer();
		world_step();
		ranked_later |= sim.broker.shards[0].figures.ranking != NULL;
	}
	assert_true(hears(watches, "\"busiest\""));
	assert_true(ranked_later);
	leave(watches);
	leave(publisher);
	world_end();
}

/* ---- Redis clients ---- */

static void say_words(struct client *c, unsigned n, const char *const words[])
{
	char text[200];

	snprintf(text, sizeof(text), "*%u\r\n", n);
	say(c, text);
	for (unsigned i = 0; i < n; i++) {
		snprintf(text, sizeof(text), "$%zu\r\n%s\r\n", strlen(words[i]), words[i]);
		say(c, text);
	}
}

#define SAY(c, ...)                                                                                \
	say_words(c, sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *),                \
		  (const char *const[]){ __VA_ARGS__ })

static struct span heard(const struct client *c)
{
	return (struct span){ c->line, c->line_n };
}

/* Where it first heard that; its end if it has not. */
static size_t heard_at(const struct client *c, const char *text)
{
	const char *at = c->line_n > 0 ? memmem(c->line, c->line_n, text, strlen(text)) : NULL;

	return at != NULL ? (size_t)(at - c->line) : c->line_n;
}

/* What was asked for first is confirmed first, whichever home answers first, and nothing is heard
 * before that. */
static void redis_subscriptions_are_confirmed_in_order_before_their_messages(void **state)
{
	(void)state;
	for (unsigned schedule = 0; schedule < 60; schedule++) {
		const struct sim_params params = { .seed = 1,
						   .schedule = schedule,
						   .shards = 1 + schedule % 4 };
		struct client *sub, *pub;
		size_t confirmed[4];

		world_begin(&params, false);
		sub = world_client();
		pub = world_client();
		SAY(sub, "SUBSCRIBE", "a", "b", "c", "d");
		for (unsigned i = 0; i < 10; i++)
			for (unsigned topic = 0; topic < 4; topic++)
				SAY(pub, "PUBLISH", (const char *[]){ "a", "b", "c", "d" }[topic],
				    "x");
		for (unsigned steps = schedule * 3; steps > 0; steps--)
			world_step();
		SAY(sub, "UNSUBSCRIBE", "b");
		SAY(sub, "PING");
		world_rest();
		for (unsigned topic = 0; topic < 4; topic++) {
			char text[100];

			snprintf(text, sizeof(text), "$9\r\nsubscribe\r\n$1\r\n%c\r\n:%u\r\n",
				 'a' + (char)topic, topic + 1);
			confirmed[topic] = heard_at(sub, text);
			assert_true(confirmed[topic] < sub->line_n);
			assert_true(topic == 0 || confirmed[topic - 1] < confirmed[topic]);
			snprintf(text, sizeof(text), "$7\r\nmessage\r\n$1\r\n%c\r\n",
				 'a' + (char)topic);
			assert_true(heard_at(sub, text) > confirmed[topic]);
		}
		/* Nothing of it stands behind the one of its end. */
		confirmed[1] = heard_at(sub, "$11\r\nunsubscribe\r\n$1\r\nb\r\n:3\r\n");
		assert_true(confirmed[1] < sub->line_n);
		assert_null(memmem(sub->line + confirmed[1], sub->line_n - confirmed[1],
				   "message\r\n$1\r\nb", 14));
		world_end();
	}
}

/* Whoever has seen a confirmation is counted by whoever publishes, and whoever has seen the one of
 * its end is not; replies come in the order of the commands, whichever home is first. */
static void redis_publishers_are_told_how_many_it_went_to(void **state)
{
	(void)state;
	for (unsigned schedule = 0; schedule < 60; schedule++) {
		const struct sim_params params = { .seed = 1,
						   .schedule = schedule,
						   .shards = 1 + schedule % 4 };
		struct client *subs[3], *pub, *line, *globs;

		world_begin(&params, false);
		pub = world_client();
		SAY(pub, "PING");
		for (unsigned i = 0; i < 3; i++) {
			subs[i] = world_client();
			SAY(subs[i], "SUBSCRIBE", "a", "b");
		}
		line = client_who_says("SUBSCRIBE b\r\n");
		globs = world_client();
		SAY(globs, "PSUBSCRIBE", "[ab]");
		world_rest();
		for (unsigned i = 0; i < 3; i++) {
			SAY(pub, "PUBLISH", "a", "x");
			SAY(pub, "PUBLISH", "b", "x");
			SAY(pub, "PUBLISH", "c", "x");
			SAY(pub, "PUBSUB", "NUMSUB", "b", "c");
		}
		world_rest();
#define ROUND ":4\r\n:5\r\n:0\r\n*4\r\n$1\r\nb\r\n:4\r\n$1\r\nc\r\n:0\r\n"
		assert_true(span_equal(heard(pub), SPAN("+PONG\r\n" ROUND ROUND ROUND)));
#undef ROUND
		pub->line_n = 0;
		/* As soon as its end has been heard of. */
		SAY(subs[0], "UNSUBSCRIBE");
		for (unsigned steps = 0; heard_at(subs[0], "$1\r\nb\r\n:0\r\n") == subs[0]->line_n;
		     steps++) {
			assert_true(steps < 100000);
			world_step();
		}
		SAY(pub, "PUBLISH", "a", "x");
		SAY(pub, "PUBLISH", "b", "x");
		world_rest();
		assert_true(span_equal(heard(pub), SPAN(":3\r\n:4\r\n")));
		pub->line_n = globs->line_n = 0;
		SAY(globs, "PUNSUBSCRIBE");
		for (unsigned steps = 0; globs->line_n < SPAN("*3\r\n$12\r\npunsubscribe").len;
		     steps++) {
			assert_true(steps < 100000);
			world_step();
		}
		SAY(pub, "PUBLISH", "a", "x");
		SAY(pub, "PUBSUB", "NUMPAT");
		world_rest();
		assert_true(span_equal(heard(pub), SPAN(":2\r\n:0\r\n")));
		leave(line);
		world_end();
	}
}

/* A block of one topic, a block of another, a command that waits for both, and the end. */
static void whatever_a_redis_client_has_said_before_its_end_is_answered(void **state)
{
	(void)state;
	for (unsigned schedule = 0; schedule < 40; schedule++) {
		const struct sim_params params = { .seed = 1,
						   .schedule = schedule,
						   .shards = 1 + schedule % 4 };
		struct client *c;

		world_begin(&params, false);
		c = world_client();
		SAY(c, "PUBLISH", "a", "x");
		SAY(c, "PUBLISH", "a", "x");
		SAY(c, "PUBLISH", "b", "x");
		SAY(c, "PUBLISH", "no topic*", "x");
		SAY(c, "PUBLISH", "c", "x");
		if (schedule % 2 == 0)
			say(c, "*x\r\n");
		c->said_all = true;
		c->ending = END_FIN;
		world_rest();
		if (schedule % 2 == 0)
			assert_true(span_equal(
				heard(c),
				SPAN(":0\r\n:0\r\n:0\r\n-ERR bad topic\r\n:0\r\n"
				     "-ERR Protocol error: invalid multibulk length\r\n")));
		else
			assert_true(span_equal(heard(c),
					       SPAN(":0\r\n:0\r\n:0\r\n-ERR bad topic\r\n:0\r\n")));
		world_end();
	}
}

/* Names that many have are told in as many turns as it takes, each of them once. */
static void channels_that_come_and_go_are_listed_once(void **state)
{
	struct client *sub, *asker;
	char name[20];
	size_t n = 0;

	(void)state;
	begin(3);
	sub = world_client();
	for (unsigned i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "c.%03u", i);
		SAY(sub, "SUBSCRIBE", name);
	}
	world_rest();
	asker = world_client();
	SAY(asker, "PUBSUB", "CHANNELS", "c.*");
	/* Some end, and others begin, while they are gone through. */
	for (unsigned i = 0; i < 250; i++) {
		snprintf(name, sizeof(name), "c.%03u", 2 * i);
		SAY(sub, "UNSUBSCRIBE", name);
		world_step();
	}
	world_rest();
	for (unsigned i = 1; i < 500; i += 2) {
		const char *first;
		char text[20];

		snprintf(text, sizeof(text), "c.%03u\r\n", i);
		first = memmem(asker->line, asker->line_n, text, strlen(text));
		assert_non_null(first);
		n = asker->line_n - (size_t)(first + 1 - asker->line);
		assert_null(memmem(first + 1, n, text, strlen(text)));
	}
	leave(sub);
	world_end();
}

/* ---- sealing ---- */

static void who_goes_while_it_waits_for_a_buffer_leaves_nothing_behind(void **state)
{
	const struct sim_params params = {
		.seed = 1, .schedule = 1, .shards = 1, .faults = 1u << FAULT_TLS
	};
	struct client *subscriber, *publisher;
	struct tls_shared *sealing;
	void *idle[TLS_BUFFER_CLASSES];
	struct shard *s;
	size_t taken;

	(void)state;
	world_begin(&params, false);
	s = &sim.broker.shards[0];
	sealing = &s->sockets.tls;
	subscriber = client_who_says("SUBSCRIBE t\r\n");
	publisher = client_who_says("PUBLISH t\r\n");
	assert_memory_equal(subscriber->line, "OK\r\n", 4);
	/* Others have all buffers. */
	taken = TLS_POOL_BYTES - sealing->pool_bytes;
	memcpy(idle, sealing->free, sizeof(idle));
	memset(sealing->free, 0, sizeof(idle));
	sealing->pool_bytes += taken;
	sealing->used_bytes += taken;
	say(publisher, "m\r\n");
	world_halt();
	assert_false(list_empty(&sealing->waiting));
	leave(subscriber);
	subscriber->ending = END_RESET;
	world_halt();
	assert_int_equal(s->clients.connections_n, 1);
	assert_int_equal(s->audience.subscriptions_n, 0);
	memcpy(sealing->free, idle, sizeof(idle));
	sealing->pool_bytes -= taken;
	sealing->used_bytes -= taken;
	leave(publisher);
	world_end();
}

/* Both sides say their end at about the same time: theirs is no reason to take ours back. */
static void a_close_notify_goes_out_whole_though_the_other_has_come(void **state)
{
	const struct sim_params params = {
		.seed = 1, .schedule = 1, .shards = 1, .faults = 1u << FAULT_TLS
	};
	struct client *publisher;
	struct shard *s;
	size_t room;

	(void)state;
	world_begin(&params, false);
	s = &sim.broker.shards[0];
	publisher = client_who_says("PUBLISH t\r\n");
	assert_memory_equal(publisher->line, "OK\r\n", 4);
	/* The kernel has no room for it yet. */
	room = publisher->wire.out.max;
	publisher->wire.out.max = 0;
	say(publisher, "BYE\r\n");
	world_halt();
	publisher->said_all = true;
	publisher->ending = END_FIN;
	world_halt();
	assert_int_equal(s->clients.connections_n, 1);
	publisher->wire.out.max = room;
	world_rest();
	assert_true(sim_tls_ended(publisher->wire.tls));
	assert_int_equal(s->clients.connections_n, 0);
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_close_notify_goes_out_whole_though_the_other_has_come),
		cmocka_unit_test(many_who_ask_for_figures_wait_for_one_collection),
		cmocka_unit_test(few_who_ask_for_figures_need_not_wait_for_long),
		cmocka_unit_test(all_who_do_not_take_their_figures_hold_one_text),
		cmocka_unit_test(busy_topics_are_found_in_as_many_turns_as_it_takes),
		cmocka_unit_test(those_who_wait_cost_a_publish_nothing_and_are_told_in_turn),
		cmocka_unit_test(whoever_asks_for_much_at_once_is_answered_in_turn_with_others),
		cmocka_unit_test(the_names_of_one_command_are_looked_at_over_turns),
		cmocka_unit_test(what_comes_together_is_one_block_whatever_it_holds),
		cmocka_unit_test(a_backlog_may_be_as_long_as_it_may_be_and_no_longer),
		cmocka_unit_test(a_subscriber_may_be_behind_for_its_time_and_until_the_next_look),
		cmocka_unit_test(a_subscriber_that_reads_again_in_time_stays),
		cmocka_unit_test(the_slow_are_let_go_some_in_each_turn),
		cmocka_unit_test(who_cannot_be_told_that_it_is_cut_is_reset),
		cmocka_unit_test(whoever_does_not_get_to_the_point_ends_at_one_time),
		cmocka_unit_test(whoever_has_been_told_the_last_word_counts_until_it_has_gone),
		cmocka_unit_test(it_is_silent_when_neither_side_says_anything),
		cmocka_unit_test(whoever_is_not_listened_to_is_not_silent),
		cmocka_unit_test(an_mqtt_client_is_silent_as_long_as_others),
		cmocka_unit_test(a_body_waits_for_a_slow_reader_as_long_as_it_reads),
		cmocka_unit_test(an_ipv6_network_counts_as_one_address),
		cmocka_unit_test(an_event_stream_beyond_a_limit_is_sent_away_for_a_while),
		cmocka_unit_test(short_messages_wait_for_slow_event_streams_where_they_lie),
		cmocka_unit_test(a_drain_says_nothing_to_who_may_want_events),
		cmocka_unit_test(
			a_silent_websocket_is_asked_and_closed_when_it_is_to_be_asked_again),
		cmocka_unit_test(a_websocket_that_is_not_listened_to_is_not_silent),
		cmocka_unit_test(pings_are_not_taken_from_one_who_does_not_take_the_answers),
		cmocka_unit_test(a_topic_lives_as_long_as_its_history),
		cmocka_unit_test(a_topic_whose_history_was_taken_is_forgotten),
		cmocka_unit_test(asking_for_what_is_not_there_makes_no_topic),
		cmocka_unit_test(redis_subscriptions_are_confirmed_in_order_before_their_messages),
		cmocka_unit_test(redis_publishers_are_told_how_many_it_went_to),
		cmocka_unit_test(whatever_a_redis_client_has_said_before_its_end_is_answered),
		cmocka_unit_test(channels_that_come_and_go_are_listed_once),
		cmocka_unit_test(a_playlist_is_waited_for_that_may_be_next),
		cmocka_unit_test(a_topic_that_lags_makes_its_own_publishers_wait),
		cmocka_unit_test(a_cold_topic_is_served_at_once),
		cmocka_unit_test(a_hot_topic_rests_and_what_comes_meanwhile_is_merged),
		cmocka_unit_test(a_rest_that_would_be_short_is_none),
		cmocka_unit_test(a_topic_without_a_pace_never_rests),
		cmocka_unit_test(while_a_topic_rests_others_do_not),
		cmocka_unit_test(a_rest_ends_when_there_is_enough_to_send),
		cmocka_unit_test(whoever_leaves_does_not_wait_for_the_end_of_a_rest),
		cmocka_unit_test(a_replay_does_not_wait_for_the_end_of_a_rest),
		cmocka_unit_test(nobody_rests_while_the_broker_drains),
		cmocka_unit_test(nobody_who_waits_holds_a_drain_up),
		cmocka_unit_test(shards_that_take_the_last_place_at_once_do_not_all_get_it),
		cmocka_unit_test(a_smaller_total_takes_the_oldest_history_wherever_it_is),
		cmocka_unit_test(a_reload_gives_some_topics_their_settings_in_each_turn),
		cmocka_unit_test(topics_come_and_go_in_the_middle_of_a_reload),
		cmocka_unit_test(the_last_of_two_reloads_holds),
		cmocka_unit_test(a_broker_may_end_in_the_middle_of_a_reload),
		cmocka_unit_test(a_smaller_total_takes_some_history_in_each_turn),
		cmocka_unit_test(what_a_shard_writes_to_itself_is_read_over_turns),
		cmocka_unit_test(a_walk_takes_turns_and_comes_to_all_who_stay),
		cmocka_unit_test(a_drain_tells_some_in_each_turn),
		cmocka_unit_test(shards_that_reload_one_after_another_judge_by_one_limit),
		cmocka_unit_test(what_many_hold_a_little_of_goes_when_nothing_else_can),
		cmocka_unit_test(who_holds_next_to_nothing_stays),
		cmocka_unit_test(who_has_nothing_left_to_skip_goes),
		cmocka_unit_test(what_one_replays_is_its_backlog),
		cmocka_unit_test(who_goes_while_it_waits_for_a_buffer_leaves_nothing_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
