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
#include "broker/broker.h"
#include "broker/connection.h"
#include "broker/home.h"
#include "broker/latency.h"
#include "broker/listener.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "broker/tap.h"
#include "topic/interest.h"
#include "topic/stream.h"
#include "topic/topic.h"

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

/* ---- gaps ---- */

static void a_gap_is_said_over_turns_to_those_whose_format_has_no_words_for_it(void **state)
{
	struct client *subscribers[GOODBYES], *events, *nats, *publisher;
	const struct span name = SPAN("t");
	struct shard *s = begin(no_pace, 1);
	struct topic *t;

	(void)state;
	sim.broker.listeners[0].protocols |= CONFIG_PROTOCOL_NATS;
	for (unsigned i = 0; i < GOODBYES; i++)
		subscribers[i] = client_who_says("SUBSCRIBE t\r\n");
	events = client_who_says("GET /subscribe/t HTTP/1.1\r\nHost: x\r\n"
				 "Accept: text/event-stream\r\n\r\n");
	nats = client_who_says("CONNECT {\"verbose\":false}\r\nSUB t 1\r\nPING\r\n");
	publisher = client_who_says("PUBLISH t\r\nbefore\r\n");
	t = home_topic(s, topic_hash(name), name);
	assert_non_null(t);
	home_gap(s, t, t->epoch + 1, 7);
	while (leaving(s) < GOODBYES) {
		unsigned before = leaving(s);
		uint64_t turns = s->reactor.stats.turns;

		world_step();
		assert_true(leaving(s) <=
			    before + GOODBYES_IN_A_TURN * (s->reactor.stats.turns - turns + 1));
	}
	say(publisher, "after\r\n");
	for (unsigned i = 0; i < GOODBYES; i++) {
		const struct client *c = subscribers[i];

		assert_true(c->line_n > 20);
		assert_memory_equal(c->line, "OK\r\nbefore\r\nERROR gap\r\n", 23);
		assert_null(memmem(c->line, c->line_n, "after", 5));
	}
	assert_non_null(memmem(events->line, events->line_n, "event: gap\n", 11));
	assert_non_null(memmem(events->line, events->line_n, "data: after\n", 12));
	assert_non_null(memmem(nats->line, nats->line_n, "after\r\n", 7));
	assert_int_equal(s->counters.dropped[DROP_GAP], 1);
	leave(events);
	leave(nats);
	leave(publisher);
	world_end();
}

/* ---- who is too far behind ---- */

enum { BUSY = 200, LOOKS_IN_A_TURN = 12 };

static void small_backlogs(struct config *c)
{
	no_pace(c);
	c->topics.backlog_bytes = 64 << 10;
	for (size_t i = 0; i < c->topic_n; i++)
		c->topic[i].backlog_bytes = 64 << 10;
}

static unsigned looked_at(struct stream *stream)
{
	unsigned n = 0;

	for (struct list *l = stream->busy.next; l != &stream->busy; l = l->next)
		n += LIST_ENTRY(l, struct cursor, link)->round == stream->round;
	return n;
}

static void stall(struct client *c)
{
	c->stalled = true;
	c->wire.out.max = 64;
}

/* A message of so many bytes. */
static const char *text_of(size_t bytes)
{
	static char text[4096];

	memset(text, 'm', bytes - 2);
	memcpy(text + bytes - 2, "\r\n", 2);
	return text;
}

static void say_much(struct client *publisher, unsigned messages, size_t bytes)
{
	for (unsigned i = 0; i < messages; i++) {
		client_say(publisher, text_of(bytes), bytes);
		world_rest();
	}
}

/* While others are far behind, but not too far. */
static void those_who_are_busy_are_looked_at_over_turns(void **state)
{
	struct client *busy[BUSY], *first, *publisher;
	struct shard *s = begin(small_backlogs, 1);
	struct stream *stream;
	unsigned most = 0;

	(void)state;
	first = client_who_says("SUBSCRIBE t\r\n");
	stream = connection_subscription(
			 LIST_ENTRY(s->clients.connections.next, struct connection, link))
			 ->stream;
	publisher = client_who_says("PUBLISH t\r\n");
	stall(first);
	say_much(publisher, 20, 2048);
	for (unsigned i = 0; i < BUSY; i++) {
		busy[i] = client_who_says("SUBSCRIBE t\r\n");
		stall(busy[i]);
	}
	/* There is time for next to nothing in a turn. */
	s->reactor.params.turn_us = 1;
	for (unsigned i = 0; i < 20 && !first->over; i++) {
		uint64_t published = s->counters.published;

		client_say(publisher, text_of(2048), 2048);
		while (s->counters.published == published || !list_empty(&s->audience.appended)) {
			unsigned before = looked_at(stream);
			uint16_t round = stream->round;
			uint64_t turns = s->reactor.stats.turns;

			world_step();
			if (stream->round != round)
				before = 0;
			assert_true(looked_at(stream) <=
				    before +
					    LOOKS_IN_A_TURN * (s->reactor.stats.turns - turns + 1));
			if (looked_at(stream) > most)
				most = looked_at(stream);
		}
	}
	/* All of them were, and one went. */
	assert_true(most >= BUSY);
	assert_int_equal(stream->cursors, BUSY);
	for (unsigned i = 0; i < BUSY; i++)
		leave(busy[i]);
	leave(first);
	leave(publisher);
	world_end();
}

/* ---- lines ---- */

/* As if its client had said all of that at once; then it does say the line. */
static int64_t take(struct shard *s, struct client *client, const char *line, size_t lines)
{
	struct connection *c = LIST_ENTRY(s->clients.connections.prev, struct connection, link);
	size_t n = strlen(line);
	char *text = malloc(lines * n);
	int64_t before = s->reactor.turn.unlooked, spent;

	assert_non_null(text);
	/* A receive of its own is under way. */
	c->socket.paused = true;
	for (size_t i = 0; i < lines; i++)
		memcpy(text + i * n, line, n);
	c->protocol->received(c, (struct span){ text, lines * n });
	spent = before - s->reactor.turn.unlooked;
	c->socket.paused = false;
	free(text);
	say(client, line);
	return spent;
}

/* A completion that brought thousands of commands is not one unit of work. */
static void what_lines_take_is_taken_off_the_turn(void **state)
{
	struct client *subscriber;
	struct shard *s = begin(no_pace, 1);

	(void)state;
	subscriber = client_who_says("SUBSCRIBE t\r\n");
	assert_true(take(s, subscriber, "PING\n", 1000) >= 1000);
	leave(subscriber);
	world_end();
}

/* ---- drains ---- */

static void spread_goodbyes(struct config *c)
{
	no_pace(c);
	c->lame_duck_seconds = 1;
	c->drain_seconds = 60;
}

/* Who has a subscription stays until it is his turn; what he publishes by then is not said to have
 * gone anywhere. */
static void nothing_is_taken_for_published_in_a_drain(void **state)
{
	static const char mqtt_connect[] = "\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01m";
	static const char mqtt_subscribe[] = "\x82\x0a\0\x01\0\x05other\0";
	static const char resp_publish[] = "*3\r\n$7\r\nPUBLISH\r\n$1\r\nt\r\n$2\r\nxy\r\n";
	static const char mqtt_publish[] = "\x32\x07\0\x01t\0\x07xy";
	struct client *first, *mqtt, *resp, *subscriber;
	struct shard *s = begin(spread_goodbyes, 1);
	size_t mqtt_n, resp_n;

	(void)state;
	sim.broker.listeners[0].protocols |= CONFIG_PROTOCOL_MQTT | CONFIG_PROTOCOL_RESP;
	first = client_who_says("SUBSCRIBE first\r\n");
	mqtt = world_client();
	client_say(mqtt, mqtt_connect, sizeof(mqtt_connect) - 1);
	client_say(mqtt, mqtt_subscribe, sizeof(mqtt_subscribe) - 1);
	world_rest();
	resp = client_who_says("*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"
			       "*2\r\n$9\r\nSUBSCRIBE\r\n$5\r\nother\r\n");
	subscriber = client_who_says("SUBSCRIBE t\r\n");
	assert_int_equal(s->audience.subscriptions_n, 4);
	world_begin_drain();
	while (leaving(s) == 0)
		world_step();
	mqtt_n = mqtt->line_n;
	resp_n = resp->line_n;
	client_say(mqtt, mqtt_publish, sizeof(mqtt_publish) - 1);
	client_say(resp, resp_publish, sizeof(resp_publish) - 1);
	while (!list_empty(&s->clients.connections)) {
		assert_int_equal(s->counters.published, 0);
		world_pass(100 * NS_PER_MS);
	}
	assert_int_equal(mqtt->line_n, mqtt_n);
	assert_null(memmem(resp->line + resp_n, resp->line_n - resp_n, ":", 1));
	assert_non_null(memmem(subscriber->line, subscriber->line_n, "ERROR draining", 14));
	assert_true(first->over && mqtt->over && resp->over);
	world_end();
}

/* ---- handshakes ---- */

/* Until all of them are done; returns how many steps a turn made at most. */
static unsigned steps_in_a_turn(struct client *c[], unsigned n)
{
	const struct shard *s = &sim.broker.shards[0];
	unsigned most = 0;

	for (unsigned i = 0; i < n; i++) {
		c[i] = world_client();
		assert_non_null(c[i]);
	}
	while (s->sockets.tls.counts.full < n) {
		unsigned before = sim.handshake_steps;

		world_step();
		most = sim.handshake_steps - before > most ? sim.handshake_steps - before : most;
	}
	return most;
}

static void handshakes_take_as_much_of_a_turn_whatever_one_costs(void **state)
{
	const struct sim_params params = {
		.seed = 1, .schedule = 1, .shards = 1, .faults = 1u << FAULT_TLS
	};
	struct client *c[20];
	unsigned steps;

	(void)state;
	for (unsigned us = 0; us <= 600; us += 300) {
		world_adjust = NULL;
		world_begin(&params, false);
		sim.handshake_step_ns = us * NS_PER_US;
		steps = steps_in_a_turn(c, 20);
		if (us == 0)
			assert_in_range(steps, 3, TLS_STEPS);
		else
			assert_int_equal(steps, us == 300 ? 2 : 1);
		sim.handshake_step_ns = 0;
		for (unsigned i = 0; i < 20; i++)
			leave(c[i]);
		world_end();
	}
}

/* ---- very many forms and groups of one topic ---- */

enum { FORMS = 300, MESSAGE_US = 20 };

/* One subscription for each form, or member of each group. */
static struct client *nats_who_subscribes(bool groups)
{
	struct client *c = client_who_says("CONNECT {\"verbose\":false}\r\n");
	char line[64];

	for (unsigned i = 1; i <= FORMS; i++) {
		if (groups)
			(void)snprintf(line, sizeof(line), "SUB t g%u %u\r\n", i, i);
		else
			(void)snprintf(line, sizeof(line), "SUB t %u\r\n", i);
		client_say(c, line, strlen(line));
	}
	say(c, "PING\r\n");
	assert_non_null(memmem(c->line, c->line_n, "PONG\r\n", 6));
	c->line_n = 0;
	return c;
}

static unsigned times(const struct client *c, const char *text)
{
	const char *at = c->line, *end = c->line + c->line_n;
	unsigned n = 0;

	while ((at = memmem(at, (size_t)(end - at), text, strlen(text))) != NULL) {
		at += strlen(text);
		n++;
	}
	return n;
}

/* Others get their turns meanwhile, and nothing that comes later is ahead of it. */
static void one_message_goes_to_very_many_over_turns(bool groups)
{
	struct shard *s = begin(no_pace, 1);
	static const char publish[] = "PUB t 1\r\nx\r\nPUB other 1\r\ny\r\nPING\r\n";
	static const char come[] = "CONNECT {\"verbose\":false}\r\nSUB t 7\r\nSUB t 301\r\n";
	struct client *many, *publisher, *late = NULL;
	uint64_t turns;

	sim.broker.listeners[0].protocols |= CONFIG_PROTOCOL_NATS;
	many = nats_who_subscribes(groups);
	publisher = client_who_says("CONNECT {\"verbose\":false}\r\nSUB other 1\r\n");
	sim.allocation_ns = MESSAGE_US * NS_PER_US;
	turns = s->reactor.stats.turns;
	client_say(publisher, publish, strlen(publish));
	while (times(publisher, "PONG") == 0) {
		world_step();
		if (late != NULL || s->mail.stalls == 0)
			continue;
		assert_int_equal(times(publisher, "MSG other"), 0);
		late = world_client();
		assert_non_null(late);
		client_say(late, come, strlen(come));
	}
	assert_non_null(late);
	assert_true(s->reactor.stats.turns - turns >= FORMS * MESSAGE_US / 1000);
	assert_int_equal(times(publisher, "MSG other 1 1\r\ny\r\nPONG\r\n"), 1);
	sim.allocation_ns = 0;
	world_rest();
	assert_int_equal(times(many, "\r\nx\r\n"), FORMS);
	assert_int_equal(times(late, "MSG"), 0);
	many->line_n = 0;
	say(publisher, "PUB t 1\r\nz\r\n");
	assert_int_equal(times(many, "\r\nz\r\n"), FORMS);
	assert_int_equal(times(late, "\r\nz\r\n"), 2);
	leave(many);
	leave(publisher);
	leave(late);
	world_end();
}

static void a_message_goes_to_very_many_forms_of_a_topic_over_turns(void **state)
{
	(void)state;
	one_message_goes_to_very_many_over_turns(false);
}

static void a_message_is_dealt_to_very_many_groups_over_turns(void **state)
{
	(void)state;
	one_message_goes_to_very_many_over_turns(true);
}

/* ---- very many patterns ---- */

enum { PATTERN_LEVELS = 9, PATTERNS = 1 << PATTERN_LEVELS, FOUND_IN_A_TURN = 40 };

/* Of each level either its name or a star: all match the one without stars. */
static const char *pattern_of(unsigned stars, const char *command, const char *rest)
{
	static char line[128];
	size_t n = (size_t)snprintf(line, sizeof(line), "%s ", command);

	for (unsigned i = 0; i < PATTERN_LEVELS; i++)
		n += (size_t)snprintf(line + n, sizeof(line) - n, stars >> i & 1 ? "%s*" : "%s%u",
				      i > 0 ? "." : "", i);
	(void)snprintf(line + n, sizeof(line) - n, " %s\r\n", rest);
	return line;
}

static void say_pattern(struct client *c, unsigned stars, const char *command, const char *rest)
{
	const char *line = pattern_of(stars, command, rest);

	client_say(c, line, strlen(line));
}

static struct client *nats_who_wants_all_patterns(void)
{
	struct client *c = client_who_says("CONNECT {\"verbose\":false}\r\n");
	char sid[12];

	for (unsigned i = 1; i < PATTERNS; i++) {
		(void)snprintf(sid, sizeof(sid), "%u", i);
		say_pattern(c, i, "SUB", sid);
	}
	say(c, "PING\r\n");
	assert_int_equal(times(c, "PONG"), 1);
	c->line_n = 0;
	return c;
}

/* Who comes meanwhile is behind the message, and who leaves does without it. */
static void the_patterns_that_match_a_name_are_found_over_turns(void **state)
{
	struct shard *s = begin(no_pace, 1);
	const struct wilds *w = &s->audience.wilds;
	struct client *many, *publisher, *late = NULL;
	uint32_t most = 0;

	(void)state;
	sim.broker.listeners[0].protocols |= CONFIG_PROTOCOL_NATS;
	many = nats_who_wants_all_patterns();
	publisher = client_who_says("CONNECT {\"verbose\":false}\r\n");
	s->reactor.params.turn_us = 1;
	say_pattern(publisher, 0, "PUB", "1\r\nx\r\nPING");
	while (times(publisher, "PONG") == 0) {
		uint32_t before = s->audience.undelivered.matching ? w->found_n : 0;
		uint64_t turns = s->reactor.stats.turns;

		world_step();
		assert_true(!s->audience.undelivered.matching ||
			    w->found_n <= before + FOUND_IN_A_TURN *
							   (s->reactor.stats.turns - turns + 1));
		most = w->found_n > most ? w->found_n : most;
		if (late != NULL || !s->audience.undelivered.matching)
			continue;
		late = world_client();
		assert_non_null(late);
		say_pattern(late, 0, "CONNECT {\"verbose\":false}\r\nSUB", "1");
		say_pattern(late, PATTERNS - 1, "SUB", "2");
		client_say(many, "UNSUB 1\r\nUNSUB 511\r\n", 20);
	}
	assert_non_null(late);
	world_rest();
	assert_true(most >= PATTERNS - 3);
	assert_in_range(times(many, "\r\nx\r\n"), PATTERNS - 3, PATTERNS - 1);
	assert_int_equal(times(late, "MSG"), 0);
	many->line_n = 0;
	say_pattern(publisher, 0, "PUB", "1\r\nz");
	world_rest();
	assert_int_equal(times(many, "\r\nz\r\n"), PATTERNS - 3);
	assert_int_equal(times(late, "\r\nz\r\n"), 2);
	leave(many);
	leave(publisher);
	leave(late);
	world_end();
}

/* ---- very many streams that end ---- */

static size_t streams_of_t(const struct shard *s)
{
	const struct interest *i = (const struct interest *)(const void *)table_find(
		&s->audience.interests, topic_hash(SPAN("t")), SPAN("t"));
	size_t n = 0;

	for (const struct stream *at = i != NULL ? i->streams : NULL; at != NULL; at = at->next)
		n++;
	return n;
}

static void very_many_forms_of_a_topic_that_ends_are_freed_over_turns(void **state)
{
	struct shard *s = begin(no_pace, 1);
	struct client *many;

	(void)state;
	sim.broker.listeners[0].protocols |= CONFIG_PROTOCOL_NATS;
	many = nats_who_subscribes(false);
	assert_int_equal(streams_of_t(s), FORMS);
	s->reactor.params.turn_us = 1;
	leave(many);
	while (streams_of_t(s) > 0) {
		size_t before = streams_of_t(s);
		uint64_t turns = s->reactor.stats.turns;

		world_step();
		assert_true(before - streams_of_t(s) <=
			    LOOKS_IN_A_TURN * (s->reactor.stats.turns - turns + 1));
	}
	world_rest();
	assert_null(table_find(&s->audience.interests, topic_hash(SPAN("t")), SPAN("t")));
	world_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(handshakes_take_as_much_of_a_turn_whatever_one_costs),
		cmocka_unit_test(latency_is_counted_for_each_subscriber_by_door_and_section),
		cmocka_unit_test(one_message_in_a_tenth_of_a_second_is_followed),
		cmocka_unit_test(who_takes_long_is_counted_as_long),
		cmocka_unit_test(sections_that_have_changed_begin_anew),
		cmocka_unit_test(goodbyes_are_said_over_turns_to_those_who_were_there),
		cmocka_unit_test(
			a_gap_is_said_over_turns_to_those_whose_format_has_no_words_for_it),
		cmocka_unit_test(those_who_are_busy_are_looked_at_over_turns),
		cmocka_unit_test(what_lines_take_is_taken_off_the_turn),
		cmocka_unit_test(nothing_is_taken_for_published_in_a_drain),
		cmocka_unit_test(a_message_goes_to_very_many_forms_of_a_topic_over_turns),
		cmocka_unit_test(the_patterns_that_match_a_name_are_found_over_turns),
		cmocka_unit_test(very_many_forms_of_a_topic_that_ends_are_freed_over_turns),
		cmocka_unit_test(a_message_is_dealt_to_very_many_groups_over_turns),
		cmocka_unit_test(a_pass_whose_sends_take_long_goes_on_in_the_next_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
