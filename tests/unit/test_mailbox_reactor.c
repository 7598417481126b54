#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/reactor.h"

/*
 * Two reactors on two threads, on real rings, that send each other letters through parks. A lost
 * wake-up leaves both asleep; then the whole program hangs, and whoever runs it says so.
 */

enum { LETTERS = 200000 };

struct player {
	pthread_t thread;
	pthread_barrier_t *ready;
	struct mailbox *mailbox;
	int *ring_fds;
	struct reactor reactor;
	unsigned id, window, lane_entries;
	bool oversubscribed;
	uintptr_t sent, got;
	bool disordered;
	uint64_t parks, wakes_sent;
	int error;
};

static void letters(void *context, unsigned sender, enum mailbox_lane lane, void **list, unsigned n)
{
	struct player *p = context;

	p->disordered |= sender != 1 - p->id || lane != LANE_GATED;
	for (unsigned i = 0; i < n; i++)
		p->disordered |= (uintptr_t)list[i] != ++p->got;
}

/* At most a window ahead of the other one, so that both run dry all the time. */
static bool flush(void *context)
{
	struct player *p = context;

	while (p->sent < LETTERS && p->sent < p->got + p->window) {
		void *list[64];
		unsigned n = 0, pushed;

		while (n < p->window && n < 64 && p->sent + n < LETTERS &&
		       p->sent + n < p->got + p->window) {
			list[n] = (void *)(p->sent + n + 1);
			n++;
		}
		pushed = reactor_post(&p->reactor, 1 - p->id, LANE_GATED, list, n);
		p->sent += pushed;
		if (pushed < n)
			break; /* rung when there is room */
	}
	if (p->sent == LETTERS && p->got == LETTERS)
		reactor_stop(&p->reactor);
	return false;
}

static void *run(void *context)
{
	struct player *p = context;
	const struct reactor_owner owner = { .letters = letters, .flush = flush, .context = p };
	const struct reactor_params params = { .id = p->id,
					       .completion_batch = 64,
					       .lane_batch = 16,
					       .oversubscribed = p->oversubscribed,
					       .ring = { .sq_entries = 64, .batch = 16 } };

	p->error = reactor_init(&p->reactor, &params, p->mailbox, p->ring_fds, &owner);
	if (p->error == 0)
		p->ring_fds[p->id] = ring_fd(p->reactor.ring);
	pthread_barrier_wait(p->ready);
	if (p->error == 0)
		reactor_run(&p->reactor);
	/* Neither ring may end while the other one may still wake it. */
	pthread_barrier_wait(p->ready);
	if (p->error == 0) {
		p->parks = p->reactor.stats.parks;
		p->wakes_sent = p->reactor.stats.wakes_sent;
		reactor_release(&p->reactor);
	}
	return NULL;
}

static uint64_t play(unsigned window, unsigned lane_entries, bool oversubscribed)
{
	struct mailbox *mailbox = mailbox_new(2, 2, lane_entries);
	struct player *players = calloc(2, sizeof(*players));
	pthread_barrier_t ready;
	int ring_fds[2] = { -1, -1 };
	uint64_t parks = 0;

	assert_non_null(mailbox);
	assert_non_null(players);
	pthread_barrier_init(&ready, NULL, 2);
	for (unsigned i = 0; i < 2; i++) {
		players[i].ready = &ready;
		players[i].mailbox = mailbox;
		players[i].ring_fds = ring_fds;
		players[i].id = i;
		players[i].window = window;
		players[i].oversubscribed = oversubscribed;
		assert_int_equal(pthread_create(&players[i].thread, NULL, run, &players[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(players[i].thread, NULL);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(players[i].error, 0);
		assert_false(players[i].disordered);
		assert_int_equal(players[i].got, LETTERS);
		/* Nobody is woken who was not parked. */
		assert_true(players[i].wakes_sent <= players[1 - i].parks);
		parks += players[i].parks;
	}
	print_message("%llu parks\n", (unsigned long long)parks);
	pthread_barrier_destroy(&ready);
	mailbox_free(mailbox);
	free(players);
	return parks;
}

static void no_wake_up_is_lost_between_two_reactors(void **state)
{
	(void)state;
	assert_true(play(1, 16, false) > 0);
}

static void nor_with_lanes_of_two_entries(void **state)
{
	(void)state;
	play(64, 2, false);
}

static void nor_when_they_yield_before_they_park(void **state)
{
	(void)state;
	play(16, 8, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_wake_up_is_lost_between_two_reactors),
		cmocka_unit_test(nor_with_lanes_of_two_entries),
		cmocka_unit_test(nor_when_they_yield_before_they_park),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
