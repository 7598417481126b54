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
#include "broker/listener.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/interest.h"
#include "topic/stream.h"

/* NATS clients of whole brokers, in the simulation's world (test_world.c). */

#define HELLO "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n"

void sim_give_up(void)
{
	abort();
}

static void begin(unsigned shards)
{
	const struct sim_params params = { .seed = 1, .schedule = 1, .shards = shards };

	world_begin(&params, false);
	sim.broker.listeners[0].protocols = CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_NATS;
}

static void say(struct client *c, const char *text)
{
	client_say(c, text, strlen(text));
	world_rest();
}

/* What it has heard since the last look, behind INFO. */
static const char *heard(struct client *c)
{
	static char text[4096];
	size_t n = c->line_n < sizeof(text) - 1 ? c->line_n : sizeof(text) - 1;
	char *info;

	memcpy(text, c->line, n);
	text[n] = 0;
	c->line_n = 0;
	info = strncmp(text, "INFO ", 5) == 0 ? strchr(text, '\n') : NULL;
	return info != NULL ? info + 1 : text;
}

static struct client *nats_client(const char *text)
{
	struct client *c = world_client();

	assert_non_null(c);
	say(c, text);
	return c;
}

static void end(struct client *c)
{
	c->said_all = true;
	c->ending = END_CLOSE;
	world_rest();
}

static uint64_t subscriptions(void)
{
	return atomic_load(&sim.broker.subscriptions);
}

static unsigned streams_of(const char *topic)
{
	const struct span name = span_of(topic);
	unsigned n = 0;

	for (unsigned i = 0; i < sim.broker.shards_n; i++) {
		const struct interest *of = (const struct interest *)(const void *)table_find(
			&sim.broker.shards[i].audience.interests, topic_hash(name), name);

		for (const struct stream *s = of != NULL ? of->streams : NULL; s != NULL;
		     s = s->next)
			n++;
	}
	return n;
}

/* Each subscription has a sid of its own, and its messages a form of their own. */
static void what_was_subscribed_to_before_leaves_nothing_behind(void **state)
{
	char text[128];
	struct client *stays, *c;

	(void)state;
	begin(1);
	stays = nats_client(HELLO "SUB room 1\r\nPING\r\n");
	c = nats_client(HELLO "PING\r\n");
	for (unsigned sid = 2; sid < 200; sid++) {
		(void)snprintf(text, sizeof(text), "SUB room %u\r\n%sUNSUB %u\r\n", sid,
			       sid % 2 == 0 ? "PUB room 1\r\nx\r\n" : "", sid);
		say(c, text);
	}
	assert_in_range(streams_of("room"), 1, 2);
	end(c);
	end(stays);
	world_end();
}

static void a_limit_is_kept_within_a_block(void **state)
{
	struct client *c, *other;

	(void)state;
	begin(3);
	c = nats_client(HELLO "SUB a 1\r\nSUB a 2\r\nUNSUB 1 2\r\nPING\r\n");
	assert_string_equal(heard(c), "PONG\r\n");
	other = nats_client(HELLO "PUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\nPING\r\n");
	assert_string_equal(heard(other), "PONG\r\n");
	{
		const char *text = heard(c);
		unsigned ones = 0, twos = 0;

		for (const char *m = text; (m = strstr(m, "MSG a ")) != NULL; m++) {
			ones += m[6] == '1';
			twos += m[6] == '2';
		}
		assert_int_equal(ones, 2);
		assert_int_equal(twos, 3);
		assert_null(strstr(text, "MSG a 1 1\r\n3"));
	}
	/* The sid is free again. */
	assert_int_equal(subscriptions(), 1);
	say(c, "SUB b 1\r\nPUB b 1\r\nx\r\nPING\r\n");
	assert_string_equal(heard(c), "MSG b 1 1\r\nx\r\nPONG\r\n");
	end(c);
	end(other);
	assert_int_equal(subscriptions(), 0);
	world_end();
}

static void a_limit_that_has_been_reached_ends_at_once(void **state)
{
	struct client *c;

	(void)state;
	begin(2);
	c = nats_client(HELLO "SUB a 1\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPING\r\n");
	assert_string_equal(heard(c), "MSG a 1 1\r\n1\r\nMSG a 1 1\r\n2\r\nPONG\r\n");
	say(c, "UNSUB 1 2\r\nPUB a 1\r\n3\r\nPING\r\n");
	assert_string_equal(heard(c), "PONG\r\n");
	assert_int_equal(subscriptions(), 0);
	end(c);
	world_end();
}

static void a_member_that_has_enough_leaves_the_rest_to_others(void **state)
{
	struct client *a, *b, *publisher;
	unsigned n = 0;

	(void)state;
	begin(2);
	a = nats_client(HELLO "SUB t q 1\r\nUNSUB 1 3\r\nPING\r\n");
	b = nats_client(HELLO "SUB t q 2\r\nPING\r\n");
	(void)heard(a);
	(void)heard(b);
	publisher = nats_client(HELLO);
	for (unsigned i = 0; i < 20; i++)
		say(publisher, "PUB t 1\r\nx\r\nPUB t 1\r\ny\r\n");
	for (const char *m = heard(a); (m = strstr(m, "MSG t 1 ")) != NULL; m++)
		n++;
	assert_int_equal(n, 3);
	for (const char *m = heard(b); (m = strstr(m, "MSG t 2 ")) != NULL; m++)
		n++;
	assert_int_equal(n, 40);
	end(a);
	end(b);
	end(publisher);
	world_end();
}

static void what_was_published_before_an_unsub_still_comes(void **state)
{
	struct client *c;

	(void)state;
	begin(4);
	c = nats_client(HELLO "SUB a 1\r\nPUB a 1\r\nx\r\nUNSUB 1\r\nPUB a 1\r\ny\r\nPING\r\n");
	assert_string_equal(heard(c), "MSG a 1 1\r\nx\r\nPONG\r\n");
	end(c);
	world_end();
}

static void what_was_published_before_a_sub_does_not(void **state)
{
	struct client *c;

	(void)state;
	begin(4);
	c = nats_client(HELLO "PUB a 1\r\nx\r\nSUB a 1\r\nPUB a 1\r\ny\r\nPING\r\n");
	assert_string_equal(heard(c), "MSG a 1 1\r\ny\r\nPONG\r\n");
	end(c);
	world_end();
}

static void nobody_is_there_but_those_who_see_replies(void **state)
{
	struct client *c, *line, *server;
	const char *nobody = "HMSG r.1 9 33 33\r\nNATS/1.0 503\r\nNats-Subject: t\r\n\r\n\r\n";

	(void)state;
	begin(3);
	c = nats_client(HELLO "SUB r.* 9\r\nPUB t r.1 0\r\n\r\nPING\r\n");
	assert_non_null(strstr(heard(c), nobody));
	line = nats_client("SUBSCRIBE t\r\n");
	say(c, "PUB t r.1 0\r\n\r\nPING\r\n");
	assert_non_null(strstr(heard(c), nobody));
	server = nats_client(HELLO "SUB > 1\r\nPING\r\n");
	say(c, "PUB t r.1 0\r\n\r\nPING\r\n");
	assert_null(strstr(heard(c), "503"));
	/* Whoever has nowhere to hear it is told nothing. */
	end(server);
	say(c, "UNSUB 9\r\nPUB t r.1 0\r\n\r\nPING\r\n");
	assert_string_equal(heard(c), "PONG\r\n");
	end(line);
	end(c);
	world_end();
}

static void each_of_many_inboxes_hears_that_nobody_is_there(void **state)
{
	enum { INBOXES = 300 };
	struct client *c;
	char text[128], nobody[128];

	(void)state;
	begin(3);
	c = nats_client(HELLO);
	for (unsigned i = 0; i < INBOXES; i++) {
		snprintf(text, sizeof(text), "SUB r%u.*%s %u\r\n", i, i % 2 == 0 ? "" : " q", i);
		say(c, text);
	}
	(void)heard(c);
	/* By turns, the oldest too; a group's is none. */
	for (unsigned i = 0; i < INBOXES; i += 7) {
		snprintf(text, sizeof(text), "PUB t r%u.1 0\r\n\r\nPING\r\n", i);
		say(c, text);
		snprintf(nobody, sizeof(nobody), "HMSG r%u.1 %u 33 33\r\n", i, i);
		if (i % 2 == 0)
			assert_non_null(strstr(heard(c), nobody));
		else
			assert_string_equal(heard(c), "PONG\r\n");
	}
	/* One that has gone is none, one that has come is. */
	say(c, "UNSUB 14\r\nPUB t r14.1 0\r\n\r\nPING\r\n");
	assert_string_equal(heard(c), "PONG\r\n");
	say(c, "SUB n.> new\r\nPUB t n.1.2 0\r\n\r\nPING\r\n");
	assert_non_null(strstr(heard(c), "HMSG n.1.2 new 33 33\r\n"));
	end(c);
	world_end();
}

static void a_request_is_answered_before_its_inbox_goes(void **state)
{
	struct client *c;

	(void)state;
	begin(3);
	c = nats_client(HELLO "SUB r 1\r\nPUB t r 0\r\n\r\nUNSUB 1\r\nPING\r\n");
	assert_string_equal(heard(c),
			    "HMSG r 1 33 33\r\nNATS/1.0 503\r\nNats-Subject: t\r\n\r\n\r\n"
			    "PONG\r\n");
	end(c);
	world_end();
}

static void a_subscription_that_goes_before_it_stands_holds_nothing_up(void **state)
{
	struct client *c;

	(void)state;
	begin(3);
	for (unsigned i = 0; i < 8; i++) {
		char text[128];

		snprintf(text, sizeof(text),
			 HELLO "SUB a%u 1\r\nPING\r\nUNSUB 1\r\nPUB a%u 0\r\n\r\nPING\r\n", i, i);
		c = nats_client(text);
		assert_string_equal(heard(c), "PONG\r\nPONG\r\n");
		end(c);
	}
	world_end();
}

static void what_went_before_an_error_comes_before_it(void **state)
{
	struct client *c;

	(void)state;
	begin(4);
	c = nats_client(HELLO
			"SUB a 1\r\nPUB a 1\r\nx\r\nPING\r\nPUB a 1\r\ny\r\nPUB a 1\r\nzz\r\n");
	assert_string_equal(heard(c), "MSG a 1 1\r\nx\r\nMSG a 1 1\r\ny\r\nPONG\r\n"
				      "-ERR 'Unknown Protocol Operation'\r\n");
	end(c);
	c = nats_client(HELLO "PING\r\nPUB a..b 1\r\nx\r\nPING\r\nSUB a..b 1\r\n");
	assert_string_equal(heard(c), "PONG\r\n-ERR 'Invalid Publish Subject'\r\nPONG\r\n"
				      "-ERR 'Invalid Subject'\r\n");
	end(c);
	world_end();
}

static void limits_of_many_clients_are_each_kept(void **state)
{
	enum { CLIENTS = 40 };
	struct client *clients[CLIENTS], *publisher;
	char text[128];

	(void)state;
	begin(2);
	/* In no order, and some of them leave before. */
	for (unsigned i = 0; i < CLIENTS; i++) {
		snprintf(text, sizeof(text), HELLO "SUB a 1\r\nUNSUB 1 %u\r\nPING\r\n",
			 1 + i * 7 % 20);
		clients[i] = nats_client(text);
		(void)heard(clients[i]);
	}
	for (unsigned i = 0; i < CLIENTS; i += 5)
		say(clients[i], "UNSUB 1\r\n");
	publisher = nats_client(HELLO);
	for (unsigned n = 0; n < 10; n++)
		say(publisher, "PUB a 1\r\nx\r\nPUB a 1\r\ny\r\nPUB a 1\r\nz\r\n");
	for (unsigned i = 0; i < CLIENTS; i++) {
		unsigned n = 0;

		for (const char *m = heard(clients[i]); (m = strstr(m, "MSG a 1 1")) != NULL; m++)
			n++;
		assert_int_equal(n, i % 5 == 0 ? 0 : 1 + i * 7 % 20);
		end(clients[i]);
	}
	assert_int_equal(subscriptions(), 0);
	end(publisher);
	world_end();
}

static void passing_topics_leave_nothing(void **state)
{
	struct client *c;

	(void)state;
	begin(3);
	c = nats_client(HELLO
			"SUB _INBOX.1.* 1\r\nPUB _INBOX.1.x 1\r\nx\r\nPUB $a.b 1\r\nx\r\nPING\r\n");
	assert_string_equal(heard(c), "MSG _INBOX.1.x 1 1\r\nx\r\nPONG\r\n");
	for (unsigned i = 0; i < sim.broker.shards_n; i++)
		assert_int_equal(sim.broker.shards[i].home.topics.entries_n, 0);
	end(c);
	world_end();
}

static void a_silent_client_hears_info_and_then_pings(void **state)
{
	struct client *c;

	(void)state;
	begin(1);
	c = world_client();
	assert_non_null(c);
	world_rest();
	world_pass(NS_PER_S);
	assert_int_equal(strncmp(c->line, "INFO {", 6), 0);
	(void)heard(c);
	say(c, HELLO "PING\r\n");
	assert_string_equal(heard(c), "PONG\r\n");
	world_pass(300 * NS_PER_S);
	assert_string_equal(heard(c), "PING\r\n");
	say(c, "PONG\r\n");
	world_pass(600 * NS_PER_S);
	assert_non_null(strstr(heard(c), "-ERR 'Stale Connection'\r\n"));
	end(c);
	world_end();
}

#define NEWER "CONNECT {\"verbose\":false,\"protocol\":1}\r\n"

/* Since the last look, INFO included. */
static bool has_heard(const struct client *c, const char *text)
{
	return memmem(c->line, c->line_n, text, strlen(text)) != NULL;
}

static void a_lame_duck_says_so_and_serves_on(void **state)
{
	struct client *newer, *older, *late;
	const char *text;

	(void)state;
	begin(2);
	newer = nats_client(NEWER "SUB a 1\r\nPING\r\n");
	older = nats_client("CONNECT {\"verbose\":false,\"protocol\":0}\r\nPING\r\n");
	(void)heard(newer);
	(void)heard(older);
	world_lame();
	assert_int_equal(strncmp(newer->line, "INFO {", 6), 0);
	assert_true(has_heard(newer, "\"ldm\":true"));
	(void)heard(newer);
	assert_string_equal(heard(older), "");
	say(newer, "SUB b 2\r\nPUB b 1\r\nx\r\nPING\r\n");
	assert_string_equal(heard(newer), "MSG b 2 1\r\nx\r\nPONG\r\n");
	/* Whoever comes now hears it first, and not again. */
	late = nats_client(NEWER "PING\r\nPING\r\n");
	assert_true(has_heard(late, "\"ldm\":true"));
	assert_string_equal(heard(late), "PONG\r\nPONG\r\n");
	world_drain();
	text = heard(newer);
	assert_string_equal(text, "");
	world_end();
}

static void what_is_new_comes_behind_the_answer_to_the_first_ping(void **state)
{
	struct client *c;

	(void)state;
	begin(2);
	c = nats_client(NEWER);
	(void)heard(c);
	world_lame();
	assert_string_equal(heard(c), "");
	say(c, "PING\r\n");
	assert_int_equal(strncmp(c->line, "PONG\r\nINFO {", 12), 0);
	end(c);
	world_end();
}

/* Whatever comes together, and whether one PUB says what the one before it did or something else.
 */
static void what_is_said_alike_is_published_as_if_it_were_not(void **state)
{
	static const char text[] =
		"PUB t 3\r\nabc\r\nPUB t 3\r\nabd\r\nPUB t 5\r\n\r\n\r\nx\r\n"
		"PUB t 12\r\nPUB t 3\r\nabX\r\nPUB t 0\r\n\r\nPUB t 3 \r\nabe\r\n"
		"pub t 3\r\nabf\r\nPUB u 3\r\nabg\r\nPUB u 3\r\nabh\r\n"
		"PUB t r 3\r\nabi\r\nPUB t r 3\r\nabj\r\nPUB t 03\r\nabk\r\n"
		"PUB t 3\r\nabl\r\nPUB t 3\r\nabmPUB t 3\r\nabn\r\n";
	static const char expected[] = "MSG t 1 3\r\nabc\r\nMSG t 1 3\r\nabd\r\n"
				       "MSG t 1 5\r\n\r\n\r\nx\r\nMSG t 1 12\r\nPUB t 3\r\nabX\r\n"
				       "MSG t 1 0\r\n\r\nMSG t 1 3\r\nabe\r\nMSG t 1 3\r\nabf\r\n"
				       "MSG t 1 r 3\r\nabi\r\nMSG t 1 r 3\r\nabj\r\n"
				       "MSG t 1 3\r\nabk\r\nMSG t 1 3\r\nabl\r\n";

	(void)state;
	for (size_t piece = 1; piece <= sizeof(text); piece = 3 * piece) {
		struct client *c, *other;

		begin(2);
		c = nats_client(HELLO "SUB t 1\r\nPING\r\n");
		assert_string_equal(heard(c), "PONG\r\n");
		other = nats_client(HELLO);
		(void)heard(other);
		for (size_t at = 0; at < sizeof(text) - 1; at += piece) {
			size_t left = sizeof(text) - 1 - at;

			client_say(other, text + at, left < piece ? left : piece);
			world_rest();
		}
		assert_string_equal(heard(other), "-ERR 'Unknown Protocol Operation'\r\n");
		assert_string_equal(heard(c), expected);
		end(c);
		end(other);
		world_end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_subscribed_to_before_leaves_nothing_behind),
		cmocka_unit_test(a_limit_is_kept_within_a_block),
		cmocka_unit_test(a_limit_that_has_been_reached_ends_at_once),
		cmocka_unit_test(a_member_that_has_enough_leaves_the_rest_to_others),
		cmocka_unit_test(what_was_published_before_an_unsub_still_comes),
		cmocka_unit_test(what_was_published_before_a_sub_does_not),
		cmocka_unit_test(nobody_is_there_but_those_who_see_replies),
		cmocka_unit_test(each_of_many_inboxes_hears_that_nobody_is_there),
		cmocka_unit_test(a_request_is_answered_before_its_inbox_goes),
		cmocka_unit_test(a_subscription_that_goes_before_it_stands_holds_nothing_up),
		cmocka_unit_test(what_went_before_an_error_comes_before_it),
		cmocka_unit_test(limits_of_many_clients_are_each_kept),
		cmocka_unit_test(passing_topics_leave_nothing),
		cmocka_unit_test(a_silent_client_hears_info_and_then_pings),
		cmocka_unit_test(a_lame_duck_says_so_and_serves_on),
		cmocka_unit_test(what_is_said_alike_is_published_as_if_it_were_not),
		cmocka_unit_test(what_is_new_comes_behind_the_answer_to_the_first_ping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
