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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shards_that_reload_one_after_another_judge_by_one_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
