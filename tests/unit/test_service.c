#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "admin/service.h"
#include "base/clock.h"
#include "broker/shard.h"

enum { SHARDS = 3 };

struct asked {
	unsigned times[SHARDS];
	uint64_t round;
};

static void ask(void *context, unsigned shard, uint64_t round)
{
	struct asked *a = context;

	a->times[shard]++;
	a->round = round;
}

static int setup(void **state)
{
	static struct broker b;

	b = (struct broker){ .shards_n = SHARDS, .shards = calloc(SHARDS, sizeof(*b.shards)) };
	*state = &b;
	return b.shards == NULL ? -1 : 0;
}

static int teardown(void **state)
{
	free(((struct broker *)*state)->shards);
	return 0;
}

static void answer(struct broker *b, unsigned shard, uint64_t round)
{
	atomic_store(&b->shards[shard].watched.round, round);
}

static void nobody_is_asked_when_nobody_watches(void **state)
{
	struct watchdog w = { .period_ns = 0 };
	struct asked a = { 0 };

	assert_true(watchdog_turn(&w, *state, NS_PER_S, ask, &a) == UINT64_MAX);
	assert_int_equal(a.round, 0);
}

static void round_ends_with_the_last_answer_and_the_next_keeps_the_period(void **state)
{
	struct watchdog w = { .period_ns = 10 * NS_PER_S, .due_ns = 5 };
	struct broker *b = *state;
	struct asked a = { 0 };
	uint64_t now = 5, next = watchdog_turn(&w, b, now, ask, &a);

	assert_int_equal(a.round, 1);
	assert_true(next > now && next < now + NS_PER_S);
	answer(b, 0, 1);
	answer(b, 1, 1);
	now = next;
	next = watchdog_turn(&w, b, now, ask, &a);
	assert_true(w.unanswered && next > now);
	answer(b, 2, 1);
	now = next;
	next = watchdog_turn(&w, b, now, ask, &a);
	assert_false(w.unanswered);
	assert_true(next == 5 + 10 * NS_PER_S);
	watchdog_turn(&w, b, next, ask, &a);
	assert_int_equal(a.round, 2);
	assert_int_equal(a.times[1], 2);
}

static void shard_that_hangs_is_asked_once_and_looked_at_ever_less_often(void **state)
{
	struct watchdog w = { .period_ns = 10 * NS_PER_S };
	struct broker *b = *state;
	struct asked a = { 0 };
	uint64_t now = 0;
	unsigned turns = 0;

	for (; now < 100 * NS_PER_S; turns++)
		now = watchdog_turn(&w, b, now, ask, &a);
	assert_int_equal(a.times[0], 1);
	assert_true(w.unanswered);
	assert_true(turns < 25);
}

static void shard_that_has_ended_is_neither_asked_nor_waited_for(void **state)
{
	struct watchdog w = { .period_ns = 10 * NS_PER_S };
	struct broker *b = *state;
	struct asked a = { 0 };
	uint64_t next;

	answer(b, 0, UINT64_MAX);
	next = watchdog_turn(&w, b, 0, ask, &a);
	assert_int_equal(a.times[0], 0);
	answer(b, 1, 1);
	answer(b, 2, UINT64_MAX); /* has ended instead of answering */
	watchdog_turn(&w, b, next, ask, &a);
	assert_false(w.unanswered);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nobody_is_asked_when_nobody_watches, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			round_ends_with_the_last_answer_and_the_next_keeps_the_period, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			shard_that_hangs_is_asked_once_and_looked_at_ever_less_often, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			shard_that_has_ended_is_neither_asked_nor_waited_for, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
