#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/mailbox.h"

/* Letters are numbers here: nobody follows the pointers. */
static void *letter(uintptr_t n)
{
	return (void *)n;
}

static unsigned push(struct mailbox *m, unsigned reader, unsigned sender, uintptr_t first,
		     unsigned n)
{
	void *letters[64];

	assert_true(n <= 64);
	for (unsigned i = 0; i < n; i++)
		letters[i] = letter(first + i);
	return mailbox_push(m, reader, sender, LANE_FREE, letters, n);
}

/* Pops and checks that they are first, first + 1, and so on. */
static unsigned pop(struct mailbox *m, unsigned reader, unsigned sender, uintptr_t first,
		    unsigned max, bool *again)
{
	void *letters[64];
	unsigned n = mailbox_pop(m, reader, sender, LANE_FREE, letters, max, again);

	assert_true(n <= max);
	for (unsigned i = 0; i < n; i++)
		assert_ptr_equal(letters[i], letter(first + i));
	return n;
}

static void lane_holds_one_less_than_its_entries(void **state)
{
	(void)state;
	for (unsigned entries = 2; entries <= 64; entries *= 2) {
		struct mailbox *m = mailbox_new(2, 3, entries);
		bool again = false;

		assert_non_null(m);
		assert_int_equal(mailbox_senders(m), 3);
		assert_int_equal(push(m, 1, 0, 1, entries), entries - 1);
		assert_int_equal(push(m, 1, 0, 1, 1), 0);
		assert_int_equal(pop(m, 1, 0, 1, 64, &again), entries - 1);
		assert_int_equal(pop(m, 1, 0, 1, 64, &again), 0);
		mailbox_free(m);
	}
}

/* 64 reactors have 8,320 lanes, and most of them are never used. */
static void only_what_is_touched_of_a_lane_counts(void **state)
{
	enum { ENTRIES = 4096, LANE_BYTES = ENTRIES * sizeof(void *), PAGE_BYTES = 4096 };
	uint64_t before = memory_used();
	struct mailbox *m = mailbox_new(4, 5, ENTRIES);
	bool again;

	(void)state;
	assert_non_null(m);
	assert_int_equal(memory_used(), before);
	push(m, 1, 0, 1, 1);
	assert_int_equal(memory_used() - before, PAGE_BYTES);
	for (unsigned i = 0; i < ENTRIES / 2 + 1; i++)
		push(m, 2, 3, 1, 1);
	assert_int_equal(memory_used() - before, 2 * PAGE_BYTES + LANE_BYTES / 2);
	for (unsigned i = 0; i < 3 * ENTRIES; i++) {
		push(m, 1, 0, i + 2, 1);
		pop(m, 1, 0, i + 1, 1, &again);
	}
	assert_int_equal(memory_used() - before, PAGE_BYTES + LANE_BYTES / 2 + LANE_BYTES);
	mailbox_free(m);
	assert_int_equal(memory_used(), before);
}

static void letters_come_in_the_order_in_which_they_were_pushed(void **state)
{
	struct mailbox *m = mailbox_new(1, 1, 8);
	uintptr_t pushed = 1, popped = 1;
	uint64_t r = 1;
	bool again;

	(void)state;
	assert_non_null(m);
	for (int i = 0; i < 100000; i++) {
		r = r * 6364136223846793005u + 1442695040888963407u;
		pushed += push(m, 0, 0, pushed, (unsigned)(r >> 33) % 10);
		popped += pop(m, 0, 0, popped, (unsigned)(r >> 43) % 10, &again);
		assert_true(pushed - popped <= 7);
	}
	popped += pop(m, 0, 0, popped, 64, &again);
	assert_int_equal(pushed, popped);
	mailbox_free(m);
}

static void lanes_are_separate(void **state)
{
	struct mailbox *m = mailbox_new(3, 4, 4);
	void *out[4];
	bool again;

	(void)state;
	assert_non_null(m);
	for (unsigned reader = 0; reader < 3; reader++)
		for (unsigned sender = 0; sender < 4; sender++)
			for (enum mailbox_lane lane = 0; lane < LANES; lane++) {
				void *l = letter(100 * reader + 10 * sender + lane + 1);

				assert_int_equal(mailbox_push(m, reader, sender, lane, &l, 1), 1);
			}
	for (unsigned reader = 0; reader < 3; reader++)
		for (unsigned sender = 0; sender < 4; sender++)
			for (enum mailbox_lane lane = 0; lane < LANES; lane++) {
				assert_int_equal(
					mailbox_pop(m, reader, sender, lane, out, 4, &again), 1);
				assert_ptr_equal(out[0],
						 letter(100 * reader + 10 * sender + lane + 1));
			}
	mailbox_free(m);
}

static void sender_that_found_no_room_is_rung_once(void **state)
{
	struct mailbox *m = mailbox_new(2, 2, 4);
	bool again = false;

	(void)state;
	assert_non_null(m);
	assert_int_equal(push(m, 0, 1, 1, 3), 3);
	assert_int_equal(pop(m, 0, 1, 1, 1, &again), 1);
	assert_false(again);
	assert_int_equal(push(m, 0, 1, 4, 3), 1);
	/* The reader tells with the first room there is. */
	assert_int_equal(pop(m, 0, 1, 2, 1, &again), 1);
	assert_true(again);
	again = false;
	assert_int_equal(pop(m, 0, 1, 3, 1, &again), 1);
	assert_false(again);
	mailbox_free(m);
}

static void sender_that_wants_room_knows_what_was_taken_and_is_rung_once(void **state)
{
	struct mailbox *m = mailbox_new(2, 2, 8);
	bool again = false;

	(void)state;
	assert_non_null(m);
	assert_int_equal(mailbox_taken(m, 0, 1, LANE_FREE), 0);
	assert_int_equal(push(m, 0, 1, 1, 4), 4);
	assert_int_equal(mailbox_taken(m, 0, 1, LANE_FREE), 0);
	mailbox_want(m, 0, 1, LANE_FREE);
	assert_int_equal(pop(m, 0, 1, 1, 3, &again), 3);
	assert_true(again);
	assert_int_equal(mailbox_taken(m, 0, 1, LANE_FREE), 3);
	again = false;
	assert_int_equal(pop(m, 0, 1, 4, 3, &again), 1);
	assert_false(again);
	assert_int_equal(mailbox_taken(m, 0, 1, LANE_FREE), 4);
	assert_int_equal(mailbox_taken(m, 0, 1, LANE_GATED), 0);
	mailbox_free(m);
}

static void sender_that_reads_no_mail_is_never_rung(void **state)
{
	struct mailbox *m = mailbox_new(2, 3, 2);
	bool again = false;

	(void)state;
	assert_non_null(m);
	assert_int_equal(push(m, 0, 2, 1, 2), 1);
	assert_int_equal(pop(m, 0, 2, 1, 2, &again), 1);
	assert_false(again);
	mailbox_free(m);
}

static void only_the_first_to_ring_wakes_who_is_parked(void **state)
{
	struct mailbox *m = mailbox_new(1, 3, 2);

	(void)state;
	assert_non_null(m);
	assert_false(mailbox_peek(m, 0));
	assert_true(mailbox_park(m, 0));
	/* Nobody has rung a reader that is merely parked. */
	assert_false(mailbox_peek(m, 0));
	assert_true(mailbox_ring(m, 0, 1));
	assert_false(mailbox_ring(m, 0, 1));
	assert_false(mailbox_ring(m, 0, 2));
	assert_true(mailbox_peek(m, 0));
	assert_int_equal(mailbox_take(m, 0), mailbox_bit(1) | mailbox_bit(2));
	assert_int_equal(mailbox_take(m, 0), 0);
	/* Awake again: nobody needs to wake it. */
	assert_false(mailbox_ring(m, 0, 0));
	mailbox_free(m);
}

static void nobody_parks_who_has_been_rung(void **state)
{
	struct mailbox *m = mailbox_new(1, 1, 2);

	(void)state;
	assert_non_null(m);
	assert_false(mailbox_ring(m, 0, 0));
	assert_false(mailbox_park(m, 0));
	assert_int_equal(mailbox_take(m, 0), mailbox_bit(0));
	assert_true(mailbox_park(m, 0));
	/* Taking unparks. */
	assert_int_equal(mailbox_take(m, 0), 0);
	assert_false(mailbox_ring(m, 0, 0));
	mailbox_free(m);
}

static void many_senders_share_bits_and_none_is_taken_for_parked(void **state)
{
	enum { SENDERS = 200 };
	struct mailbox *m = mailbox_new(1, SENDERS, 2);

	(void)state;
	assert_non_null(m);
	for (unsigned s = 0; s < SENDERS; s++) {
		uint64_t bit = mailbox_bit(s);

		assert_true(bit != 0 && (bit & (bit - 1)) == 0);
		assert_false(mailbox_ring(m, 0, s));
		assert_int_equal(mailbox_take(m, 0), bit);
		assert_true(mailbox_park(m, 0));
		assert_true(mailbox_ring(m, 0, s));
		assert_int_equal(mailbox_take(m, 0), bit);
	}
	assert_int_equal(mailbox_bit(0), mailbox_bit(63));
	mailbox_free(m);
}

static void freeing_nothing_is_harmless(void **state)
{
	(void)state;
	mailbox_free(NULL);
}

/* ---- threads ---- */

/*
 * Wake-ups as a counter: who parks waits until it grows. If all senders have ended and somebody
 * still waits with letters under way, a wake-up was lost; that is a fact and no matter of time.
 */
#define ENDED UINT64_MAX

struct player {
	pthread_t thread;
	struct mailbox *mailbox;
	unsigned id, to;
	uintptr_t letters; /* to send, and to get */
	unsigned burst;    /* most pushed at once */
	unsigned lane_batch;
	struct player *players;
	unsigned players_n;
	_Atomic uint64_t woken;
	_Atomic uint64_t asleep; /* woken + 1 when it fell asleep; 0: awake; ENDED */
	uintptr_t sent, got;
	uint64_t parks;
	bool lost;
};

static void wake(struct player *p)
{
	atomic_fetch_add(&p->woken, 1);
}

/* Whether nothing will come from it until somebody wakes it. */
static bool asleep(struct player *p)
{
	uint64_t since = atomic_load(&p->asleep);

	return since == ENDED || (since != 0 && atomic_load(&p->woken) == since - 1);
}

/* Sleeps until woken. False: everybody sleeps, so nobody will ever do that. */
static bool sleep_until_woken(struct player *p, uint64_t seen)
{
	bool all;

	atomic_store(&p->asleep, seen + 1);
	do {
		sched_yield();
		all = true;
		for (unsigned i = 0; i < p->players_n; i++)
			all &= asleep(&p->players[i]);
		if (atomic_load(&p->woken) != seen) {
			atomic_store(&p->asleep, 0);
			return true;
		}
	} while (!all);
	return false;
}

static bool receive(struct player *p, uint64_t bits)
{
	struct mailbox *m = p->mailbox;
	bool more = false;

	for (unsigned s = 0; s < mailbox_senders(m); s++) {
		void *letters[64];
		bool again = false;
		unsigned n;

		if (!(bits & mailbox_bit(s)))
			continue;
		n = mailbox_pop(m, p->id, s, LANE_GATED, letters, p->lane_batch, &again);
		for (unsigned i = 0; i < n; i++)
			if (letters[i] != letter(p->got + i + 1))
				p->lost = true;
		p->got += n;
		more |= n == p->lane_batch;
		if (again && mailbox_ring(m, s, p->id))
			wake(&p->players[s]);
	}
	return more;
}

/* What a reactor does, with as little around it as can be: send what may be sent, read, park. */
static void *play(void *context)
{
	struct player *p = context;
	uint64_t pending = 0, r = p->id + 1;

	while (!p->lost && (p->sent < p->letters || p->got < p->letters)) {
		uint64_t seen;
		bool may_send;

		pending |= mailbox_take(p->mailbox, p->id);
		if (!receive(p, pending))
			pending = 0;
		/* Never further ahead of what has come than a burst: so both park all the time. */
		may_send = p->sent < p->letters && p->sent < p->got + p->burst;
		if (may_send) {
			void *letters[64];
			unsigned n = 1, pushed;

			r = r * 6364136223846793005u + 1442695040888963407u;
			if (p->burst > 1)
				n += (unsigned)(r >> 40) % p->burst;
			if (n > p->letters - p->sent)
				n = (unsigned)(p->letters - p->sent);
			for (unsigned i = 0; i < n; i++)
				letters[i] = letter(p->sent + i + 1);
			pushed = mailbox_push(p->mailbox, p->to, p->id, LANE_GATED, letters, n);
			p->sent += pushed;
			if (pushed > 0 && mailbox_ring(p->mailbox, p->to, p->id))
				wake(&p->players[p->to]);
			/* With room left it may go on; without, the other one rings. */
			if (pushed == n)
				continue;
		}
		if (pending != 0 || p->got == p->letters)
			continue;
		seen = atomic_load(&p->woken);
		/* Parking and ringing must meet in every possible way, not always in the same. */
		r = r * 6364136223846793005u + 1442695040888963407u;
		for (volatile unsigned wait = (unsigned)(r >> 40) % 256; wait > 0; wait--)
			;
		if (!mailbox_park(p->mailbox, p->id))
			continue;
		p->parks++;
		if (!sleep_until_woken(p, seen))
			p->lost = true;
	}
	/* Whoever has all it wants reads no more, and needs no wake-up. */
	atomic_store(&p->asleep, ENDED);
	return NULL;
}

static uint64_t run_players(uintptr_t letters, unsigned burst, unsigned lane_entries,
			    unsigned lane_batch)
{
	struct mailbox *m = mailbox_new(2, 2, lane_entries);
	struct player players[2];

	assert_non_null(m);
	memset(players, 0, sizeof(players));
	for (unsigned i = 0; i < 2; i++) {
		players[i].mailbox = m;
		players[i].id = i;
		players[i].to = 1 - i;
		players[i].letters = letters;
		players[i].burst = burst;
		players[i].lane_batch = lane_batch;
		players[i].players = players;
		players[i].players_n = 2;
	}
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&players[i].thread, NULL, play, &players[i]), 0);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(players[i].thread, NULL);
	mailbox_free(m);
	for (unsigned i = 0; i < 2; i++) {
		assert_false(players[i].lost);
		assert_int_equal(players[i].got, letters);
		assert_int_equal(players[i].sent, letters);
	}
	return players[0].parks + players[1].parks;
}

static void parking_a_hundred_thousand_times_loses_no_wake_up(void **state)
{
	uint64_t parks = 0;

	(void)state;
	for (unsigned i = 0; parks < 300000 && i < 20; i++)
		parks += run_players(100000, 1, 2, 1);
	print_message("%llu parks\n", (unsigned long long)parks);
}

static void full_lanes_in_both_directions_lose_nothing(void **state)
{
	(void)state;
	run_players(200000, 16, 2, 1);
	run_players(200000, 64, 4, 2);
	run_players(200000, 64, 16, 64);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lane_holds_one_less_than_its_entries),
		cmocka_unit_test(only_what_is_touched_of_a_lane_counts),
		cmocka_unit_test(letters_come_in_the_order_in_which_they_were_pushed),
		cmocka_unit_test(lanes_are_separate),
		cmocka_unit_test(sender_that_found_no_room_is_rung_once),
		cmocka_unit_test(sender_that_wants_room_knows_what_was_taken_and_is_rung_once),
		cmocka_unit_test(sender_that_reads_no_mail_is_never_rung),
		cmocka_unit_test(only_the_first_to_ring_wakes_who_is_parked),
		cmocka_unit_test(nobody_parks_who_has_been_rung),
		cmocka_unit_test(many_senders_share_bits_and_none_is_taken_for_parked),
		cmocka_unit_test(freeing_nothing_is_harmless),
		cmocka_unit_test(parking_a_hundred_thousand_times_loses_no_wake_up),
		cmocka_unit_test(full_lanes_in_both_directions_lose_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
