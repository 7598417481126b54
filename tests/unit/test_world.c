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
#include "base/memory.h"
#include "broker/budget.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_who_waits_holds_a_drain_up),
		cmocka_unit_test(shards_that_reload_one_after_another_judge_by_one_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
