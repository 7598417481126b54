#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "../sim/sim.h"

/* What WebSockets of many topics hear of brokers, in the simulation's world (test_world.c). */

void sim_give_up(void)
{
	abort();
}

static void skips(struct config *c)
{
	c->topics.slow = SLOW_SKIP;
	c->topics.backlog_bytes = 4000;
}

static void begin(void (*adjust)(struct config *))
{
	const struct sim_params params = { .seed = 1, .schedule = 1, .shards = 2 };

	world_adjust = adjust;
	world_begin(&params, false);
}

static void end(void)
{
	world_end();
	world_adjust = NULL;
}

/* A short text, in a frame whose mask changes nothing. */
static void say_json(struct client *c, const char *text)
{
	const char head[] = { '\x81', (char)(0x80 | strlen(text)), 0, 0, 0, 0 };

	assert_true(strlen(text) < 126);
	client_say(c, head, sizeof(head));
	client_say(c, text, strlen(text));
}

static void command(struct client *c, const char *text)
{
	say_json(c, text);
	world_rest();
}

static struct client *socket_of_many(void)
{
	static const char request[] =
		"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
	struct client *c = world_client();

	assert_non_null(c);
	c->speech = SPEAKS_WEBSOCKET;
	client_say(c, request, sizeof(request) - 1);
	world_rest();
	return c;
}

static struct client *publisher_of(const char *command_line)
{
	struct client *c = world_client();

	assert_non_null(c);
	client_say(c, command_line, strlen(command_line));
	world_rest();
	return c;
}

static void publish(struct client *c, const char *line)
{
	client_say(c, line, strlen(line));
	world_halt();
}

static const char *heard(const struct client *c, const char *text)
{
	const char *at = memmem(c->line, c->line_n, text, strlen(text));

	assert_non_null(at);
	/* Once. */
	assert_null(memmem(at + 1, (size_t)(c->line + c->line_n - at) - 1, text, strlen(text)));
	return at;
}

/* Unsubscribes while two messages are on their way that another subscription has left out. */
static struct client *who_unsubscribes(struct client **publisher)
{
	struct client *c = socket_of_many();

	*publisher = publisher_of("PUBLISH t\r\n");
	command(c, "{\"subscribe\":\"t\"}");
	command(c, "{\"subscribe\":\"*\"}");
	c->stalled = true;
	c->wire.out.max = 4;
	publish(*publisher, "one\r\n");
	publish(*publisher, "two\r\n");
	say_json(c, "{\"unsubscribe\":\"t\"}");
	world_halt();
	return c;
}

static void others_take_over_behind_what_is_on_its_way(void **state)
{
	struct client *c, *publisher;

	(void)state;
	begin(NULL);
	c = who_unsubscribes(&publisher);
	publish(publisher, "three\r\n");
	c->stalled = false;
	world_rest();
	assert_true(heard(c, "\"one\"") < heard(c, "\"two\""));
	assert_true(heard(c, "\"two\"") < heard(c, "\"three\""));
	assert_true(heard(c, "\"two\"") < heard(c, "\"unsubscribed\""));
	end();
}

/* What it goes on with is said, and that comes once and behind what there is of before. */
static void what_is_skipped_while_others_take_over_is_a_gap(void **state)
{
	struct client *c, *publisher;

	(void)state;
	begin(skips);
	c = who_unsubscribes(&publisher);
	for (unsigned i = 0; i < 2000; i++)
		publish(publisher, "far too much for a slow one\r\n");
	c->stalled = false;
	world_rest();
	publish(publisher, "last\r\n");
	world_rest();
	assert_true(heard(c, "\"one\"") < heard(c, "\"gap\":null"));
	assert_true(heard(c, "\"gap\":null") < heard(c, "\"last\""));
	assert_true(heard(c, "\"unsubscribed\"") < heard(c, "\"last\""));
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(others_take_over_behind_what_is_on_its_way),
		cmocka_unit_test(what_is_skipped_while_others_take_over_is_a_gap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
