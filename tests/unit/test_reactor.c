#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/reactor.h"

enum { LANE_BATCH = 4, OP_MINE = OP_USER };

/* A reactor with what its owner sees of it; one thread plays all of them. */
struct player {
	struct reactor reactor;
	char log[256]; /* what was called, a letter each */
	size_t log_n;
	uintptr_t got[LANES][256];
	size_t got_n[LANES];
	unsigned most_at_once;
	bool gate[LANES];
	bool more;
	unsigned expired;
	void (*on_expired)(struct player *p, struct deadline *d);
	struct deadline_class class;
	struct deadline deadline, other;
};

static struct player *players[3];
static struct mailbox *mailbox;
static int ring_fds[3];

static void note(struct player *p, char what)
{
	if (p->log_n < sizeof(p->log) - 1)
		p->log[p->log_n++] = what;
}

static void letters(void *context, unsigned sender, enum mailbox_lane lane, void **list, unsigned n)
{
	struct player *p = context;

	(void)sender;
	note(p, lane == LANE_FREE ? 'L' : 'G');
	if (n > p->most_at_once)
		p->most_at_once = n;
	for (unsigned i = 0; i < n; i++)
		p->got[lane][p->got_n[lane]++] = (uintptr_t)list[i];
}

static bool gate_open(void *context, enum mailbox_lane lane)
{
	const struct player *p = context;

	return p->gate[lane];
}

static bool flush(void *context)
{
	struct player *p = context;

	note(p, 'F');
	return p->more;
}

static void mine(void *context, const struct completion *c)
{
	(void)c;
	note(context, 'C');
}

static void expired(void *context, struct deadline *d)
{
	struct player *p = context;

	note(p, 'D');
	p->expired++;
	if (p->on_expired != NULL)
		p->on_expired(p, d);
}

static void begin(unsigned n, unsigned lane_entries)
{
	mailbox = mailbox_new(n, n, lane_entries);
	assert_non_null(mailbox);
	for (unsigned i = 0; i < n; i++) {
		struct player *p = calloc(1, sizeof(*p));
		const struct reactor_owner owner = {
			.letters = letters, .gate_open = gate_open, .flush = flush, .context = p
		};
		const struct reactor_params params = {
			.id = i,
			.completion_batch = 8,
			.lane_batch = LANE_BATCH,
			.ring = { .sq_entries = 64, .batch = 16 },
		};

		assert_non_null(p);
		players[i] = p;
		p->gate[LANE_FREE] = p->gate[LANE_GATED] = true;
		assert_int_equal(reactor_init(&p->reactor, &params, mailbox, ring_fds, &owner), 0);
		ring_fds[i] = ring_fd(p->reactor.ring);
		reactor_handle(&p->reactor, OP_MINE, mine, p);
		deadline_class_init(&p->class, 0);
		deadline_init(&p->deadline);
		deadline_init(&p->other);
		reactor_watch(&p->reactor, &p->class, expired, p);
	}
}

static void end(void)
{
	for (unsigned i = 0; i < 3; i++) {
		if (players[i] == NULL)
			continue;
		reactor_release(&players[i]->reactor);
		free(players[i]);
		players[i] = NULL;
	}
	mailbox_free(mailbox);
}

static unsigned post(unsigned from, unsigned to, enum mailbox_lane lane, uintptr_t first,
		     unsigned n)
{
	void *list[64];

	for (unsigned i = 0; i < n; i++)
		list[i] = (void *)(first + i);
	return reactor_post(&players[from]->reactor, to, lane, list, n);
}

static bool turn(unsigned i)
{
	return reactor_turn(&players[i]->reactor, false);
}

static void turn_reaps_then_drains_then_flushes(void **state)
{
	struct player *p;

	(void)state;
	begin(2, 16);
	p = players[1];
	/* A completion and mail in both lanes are there at once. */
	assert_int_equal(post(0, 1, LANE_GATED, 1, 1), 1);
	assert_int_equal(post(0, 1, LANE_FREE, 1, 1), 1);
	ring_wake(players[0]->reactor.ring, ring_fds[1], user_data(OP_MINE, 0, 0));
	turn(0);
	ring_enter(p->reactor.ring, false, 0);
	assert_true(turn(1));
	assert_string_equal(p->log, "CLGF");
	assert_false(turn(1));
	assert_string_equal(p->log, "CLGFF");
	end();
}

static void lane_is_drained_a_batch_a_turn(void **state)
{
	struct player *p;

	(void)state;
	begin(3, 64);
	p = players[2];
	assert_int_equal(post(0, 2, LANE_FREE, 1, 10), 10);
	assert_int_equal(post(1, 2, LANE_FREE, 101, 6), 6);
	turn(2);
	assert_int_equal(p->got_n[LANE_FREE], 2 * LANE_BATCH);
	turn(2);
	assert_int_equal(p->got_n[LANE_FREE], 14);
	turn(2);
	assert_int_equal(p->got_n[LANE_FREE], 16);
	assert_int_equal(p->most_at_once, LANE_BATCH);
	assert_int_equal(p->reactor.stats.letters_per_drain.count, 5);
	assert_int_equal(p->reactor.stats.letters_per_drain.sum, 16);
	end();
}

static void closed_gate_leaves_the_gated_lane_alone(void **state)
{
	struct player *p;

	(void)state;
	begin(2, 16);
	p = players[1];
	p->gate[LANE_GATED] = false;
	assert_int_equal(post(0, 1, LANE_GATED, 1, 3), 3);
	assert_int_equal(post(0, 1, LANE_FREE, 11, 2), 2);
	turn(1);
	turn(1);
	assert_int_equal(p->got_n[LANE_GATED], 0);
	assert_int_equal(p->got_n[LANE_FREE], 2);
	/* Nobody rings again when the gate opens: what was rung for is remembered. */
	p->gate[LANE_GATED] = true;
	turn(1);
	assert_int_equal(p->got_n[LANE_GATED], 3);
	for (uintptr_t i = 0; i < 3; i++)
		assert_int_equal(p->got[LANE_GATED][i], i + 1);
	end();
}

static void full_lane_rings_back_when_there_is_room(void **state)
{
	struct player *p;

	(void)state;
	begin(2, 4);
	p = players[0];
	assert_int_equal(post(0, 1, LANE_GATED, 1, 5), 3);
	assert_int_equal(post(0, 1, LANE_GATED, 4, 2), 0);
	turn(0);
	assert_false(mailbox_peek(mailbox, 0));
	turn(1);
	assert_true(mailbox_peek(mailbox, 0));
	assert_int_equal(post(0, 1, LANE_GATED, 4, 2), 2);
	turn(1);
	assert_int_equal(players[1]->got_n[LANE_GATED], 5);
	for (uintptr_t i = 0; i < 5; i++)
		assert_int_equal(players[1]->got[LANE_GATED][i], i + 1);
	assert_int_equal(p->reactor.stats.wakes_sent, 0);
	end();
}

static void reactor_does_not_park_with_work_left(void **state)
{
	struct player *p;

	(void)state;
	begin(2, 64);
	p = players[1];
	/* Were any of these to park, the test would hang. */
	p->more = true;
	assert_true(reactor_turn(&p->reactor, true));
	p->more = false;
	assert_int_equal(post(0, 1, LANE_FREE, 1, LANE_BATCH + 1), LANE_BATCH + 1);
	assert_true(reactor_turn(&p->reactor, true));
	/* The rest of a lane is not rung for again. */
	assert_true(reactor_turn(&p->reactor, true));
	assert_int_equal(p->reactor.stats.parks, 0);
	/* A letter that came since the look at the doorbell. */
	assert_int_equal(post(0, 1, LANE_FREE, 9, 1), 1);
	reactor_turn(&p->reactor, true);
	assert_int_equal(p->got_n[LANE_FREE], LANE_BATCH + 2);
	assert_int_equal(p->reactor.stats.parks, 0);
	reactor_stop(&p->reactor);
	reactor_run(&p->reactor);
	reactor_turn(&p->reactor, true);
	assert_int_equal(p->reactor.stats.parks, 0);
	end();
}

static bool flush_for_later(void *context)
{
	struct player *p = context;

	/* The earliest of them counts, and for this turn only. */
	if (p->log_n++ == 0) {
		reactor_wake_at(&p->reactor, p->reactor.now_ns + 1000 * NS_PER_S);
		reactor_wake_at(&p->reactor, p->reactor.now_ns + 2 * NS_PER_MS);
		reactor_wake_at(&p->reactor, p->reactor.now_ns + 3000 * NS_PER_S);
	}
	return false;
}

static void reactor_wakes_when_its_owner_asked_to_be_woken(void **state)
{
	struct player *p;
	uint64_t began;

	(void)state;
	begin(1, 16);
	p = players[0];
	p->reactor.owner.flush = flush_for_later;
	began = clock_now_ns();
	/* It would hang. */
	reactor_turn(&p->reactor, true);
	assert_int_equal(p->reactor.stats.parks, 1);
	assert_true(clock_now_ns() - began >= 2 * NS_PER_MS);
	assert_true(p->reactor.wake_at_ns != 0);
	reactor_turn(&p->reactor, false);
	assert_int_equal(p->reactor.wake_at_ns, 0);
	end();
}

static void gated_letters_behind_a_closed_gate_do_not_keep_it_awake(void **state)
{
	struct player *p;

	(void)state;
	begin(2, 16);
	p = players[1];
	p->gate[LANE_GATED] = false;
	p->class.after_ns = 1;
	assert_int_equal(post(0, 1, LANE_GATED, 1, 1), 1);
	reactor_deadline(&p->reactor, &p->class, &p->deadline);
	/* The deadline's tick ends the park. */
	while (p->expired == 0)
		reactor_turn(&p->reactor, true);
	assert_true(p->reactor.stats.parks > 0);
	assert_int_equal(p->got_n[LANE_GATED], 0);
	end();
}

static void completions_are_handled_a_batch_a_turn(void **state)
{
	struct player *p;
	size_t handled = 0;

	(void)state;
	begin(2, 16);
	p = players[1];
	for (unsigned i = 0; i < 20; i++)
		ring_wake(players[0]->reactor.ring, ring_fds[1], user_data(OP_MINE, 0, 0));
	turn(0);
	turn(1);
	turn(1);
	assert_true(strspn(p->log, "C") <= 8);
	turn(1);
	turn(1);
	for (size_t i = 0; i < p->log_n; i++)
		handled += p->log[i] == 'C';
	assert_int_equal(handled, 20);
	assert_int_equal(p->reactor.stats.completions_per_turn.max, 8);
	end();
}

/* ---- the turn's time ---- */

/* Works until its part of the turn is over, however fast the machine is. */
static void work(struct player *p)
{
	reactor_spend(&p->reactor, 1 << 20);
	while (!reactor_spent(&p->reactor))
		reactor_spend(&p->reactor, 1 << 20);
}

static void long_work(void *context, const struct completion *c)
{
	mine(context, c);
	work(context);
}

static void what_there_is_no_time_for_comes_in_the_next_turns(void **state)
{
	struct player *p;

	(void)state;
	begin(2, 16);
	p = players[1];
	p->reactor.params.turn_us = 1000;
	reactor_handle(&p->reactor, OP_MINE, long_work, p);
	for (unsigned i = 0; i < 5; i++)
		ring_wake(players[0]->reactor.ring, ring_fds[1], user_data(OP_MINE, 0, 0));
	turn(0);
	ring_enter(p->reactor.ring, false, 0);
	for (unsigned i = 0; i < 3; i++)
		assert_true(turn(1));
	/* The one that is at hand when time is over, and the one behind it that finds so. */
	assert_string_equal(p->log, "CCFCCFCF");
	end();
}

static void long_letters(void *context, unsigned sender, enum mailbox_lane lane, void **list,
			 unsigned n)
{
	letters(context, sender, lane, list, n);
	note(context, (char)('0' + sender));
	work(context);
}

static void senders_are_heard_in_turn_when_there_is_no_time_for_all(void **state)
{
	struct player *p;

	(void)state;
	begin(3, 64);
	p = players[2];
	p->reactor.params.turn_us = 1000;
	p->reactor.owner.letters = long_letters;
	assert_int_equal(post(0, 2, LANE_FREE, 1, 3 * LANE_BATCH), 3 * LANE_BATCH);
	assert_int_equal(post(1, 2, LANE_FREE, 101, LANE_BATCH), LANE_BATCH);
	assert_int_equal(post(1, 2, LANE_GATED, 201, 1), 1);
	turn(2);
	turn(2);
	turn(2);
	/* In each turn one batch of each lane at least. */
	assert_string_equal(p->log, "L0G1FL1FL0F");
	assert_true(reactor_turn(&p->reactor, true));
	assert_int_equal(p->got_n[LANE_FREE], 4 * LANE_BATCH);
	end();
}

static void long_expiry(struct player *p, struct deadline *d)
{
	(void)d;
	work(p);
}

static void deadlines_that_are_due_together_expire_in_several_turns(void **state)
{
	struct player *p;
	struct deadline many[3];

	(void)state;
	begin(1, 2);
	p = players[0];
	p->reactor.params.turn_us = 1000;
	p->class.after_ns = 1;
	p->on_expired = long_expiry;
	for (unsigned i = 0; i < 3; i++) {
		deadline_init(&many[i]);
		reactor_deadline(&p->reactor, &p->class, &many[i]);
	}
	while (p->expired == 0)
		reactor_turn(&p->reactor, true);
	assert_int_equal(p->expired, 1);
	reactor_turn(&p->reactor, true);
	assert_int_equal(p->expired, 2);
	reactor_turn(&p->reactor, true);
	assert_int_equal(p->expired, 3);
	end();
}

static void a_turn_that_takes_too_long_is_counted_with_its_cpu_time(void **state)
{
	struct player *p;

	(void)state;
	begin(2, 16);
	p = players[1];
	p->reactor.params.turn_us = 1000;
	reactor_handle(&p->reactor, OP_MINE, long_work, p);
	turn(1);
	turn(1);
	assert_int_equal(p->reactor.stats.turn.count, 1);
	assert_int_equal(p->reactor.stats.long_turn.count, p->reactor.stats.turn.max > NS_PER_MS);
	ring_wake(players[0]->reactor.ring, ring_fds[1], user_data(OP_MINE, 0, 0));
	turn(0);
	ring_enter(p->reactor.ring, false, 0);
	turn(1);
	/* It worked for half of what it might: now that is too long. */
	p->reactor.params.turn_us = 400;
	turn(1);
	assert_true(p->reactor.stats.turn.max >= 500 * NS_PER_US);
	assert_true(p->reactor.stats.long_turn.count >= 1);
	assert_true(p->reactor.stats.long_turn.max > 0);
	end();
}

static void time_in_which_the_process_was_stopped_counts_for_no_deadline(void **state)
{
	struct player *p;
	uint64_t before;

	(void)state;
	begin(1, 2);
	p = players[0];
	p->class.after_ns = 5 * NS_PER_S;
	reactor_deadline(&p->reactor, &p->class, &p->deadline);
	turn(0);
	/* As if a minute had passed between the two turns. */
	before = p->reactor.now_ns - 60 * NS_PER_S;
	p->reactor.clock_ns -= 60 * NS_PER_S;
	turn(0);
	assert_true(p->reactor.now_ns > before);
	assert_true(p->reactor.now_ns - before < 5 * NS_PER_S);
	/* Where nothing ticks a sleep of any length is just that. */
	deadline_stop(&p->deadline);
	while (p->reactor.ticking)
		reactor_turn(&p->reactor, true);
	before = p->reactor.now_ns - 60 * NS_PER_S;
	p->reactor.clock_ns -= 60 * NS_PER_S;
	turn(0);
	assert_true(p->reactor.now_ns - before >= 60 * NS_PER_S);
	end();
}

/* ---- deadlines ---- */

static void start_again(struct player *p, struct deadline *d)
{
	if (p->expired < 3)
		reactor_deadline(&p->reactor, &p->class, d);
}

static void deadline_expires_once_it_is_due_and_not_before(void **state)
{
	struct player *p;
	uint64_t started;

	(void)state;
	begin(1, 2);
	p = players[0];
	p->class.after_ns = 300 * NS_PER_MS;
	started = p->reactor.now_ns;
	reactor_deadline(&p->reactor, &p->class, &p->deadline);
	while (p->expired == 0)
		reactor_turn(&p->reactor, true);
	assert_true(p->reactor.now_ns - started >= 300 * NS_PER_MS);
	assert_false(deadline_running(&p->deadline));
	end();
}

static void another_length_holds_for_deadlines_that_run(void **state)
{
	struct deadline_class class;
	struct deadline early, late, later;

	(void)state;
	deadline_class_init(&class, 100);
	deadline_init(&early);
	deadline_init(&late);
	deadline_init(&later);
	deadline_start(&class, &early, 0);
	deadline_start(&class, &late, 50);
	deadline_class_change(&class, 10, 60);
	deadline_start(&class, &later, 60);
	assert_null(deadline_due(&class, 9));
	assert_ptr_equal(deadline_due(&class, 10), &early);
	assert_null(deadline_due(&class, 59));
	deadline_class_change(&class, 1000, 60);
	assert_null(deadline_due(&class, 1049));
	assert_ptr_equal(deadline_due(&class, 1050), &late);
	assert_null(deadline_due(&class, 1059));
	assert_ptr_equal(deadline_due(&class, 1060), &later);
	assert_null(deadline_due(&class, UINT64_MAX));
}

static void deadlines_that_were_never_due_count_from_when_they_may_be(void **state)
{
	struct deadline_class class;
	struct deadline early, late;

	(void)state;
	deadline_class_init(&class, 10);
	deadline_init(&early);
	deadline_init(&late);
	deadline_start(&class, &early, 0);
	deadline_class_change(&class, DEADLINE_NEVER, 5);
	assert_null(deadline_due(&class, 1000));
	assert_false(deadline_class_runs(&class));
	deadline_class_change(&class, 10, 1000);
	deadline_start(&class, &late, 1001);
	assert_null(deadline_due(&class, 1009));
	assert_ptr_equal(deadline_due(&class, 1010), &early);
	assert_null(deadline_due(&class, 1010));
	deadline_class_restart(&class, 5, 1010);
	assert_null(deadline_due(&class, 1014));
	assert_ptr_equal(deadline_due(&class, 1015), &late);
}

static void deadline_may_be_started_from_its_own_expiry(void **state)
{
	struct player *p;

	(void)state;
	begin(1, 2);
	p = players[0];
	p->class.after_ns = 1;
	p->on_expired = start_again;
	reactor_deadline(&p->reactor, &p->class, &p->deadline);
	while (p->expired < 3)
		reactor_turn(&p->reactor, true);
	end();
}

static void start_other(struct player *p, struct deadline *d)
{
	/* After the tick has found nothing running: as an accepted connection would. */
	(void)d;
	p->on_expired = NULL;
}

/* Takes part in the turn in which the clock stops: starts a deadline in its flush. */
static bool restarting_flush(void *context)
{
	struct player *p = context;

	if (!p->reactor.ticking && p->expired < 40)
		reactor_deadline(&p->reactor, &p->class, &p->deadline);
	return false;
}

static void clock_ticks_once_a_period_however_often_it_stops(void **state)
{
	struct player *p;
	uint64_t started, periods;

	(void)state;
	begin(1, 2);
	p = players[0];
	p->class.after_ns = 1;
	p->on_expired = start_other;
	p->reactor.owner.flush = restarting_flush;
	/* Each of its ticks finds nothing left to wait for, is stopped, and is needed again in the
	 * same turn. */
	started = clock_now_ns();
	while (p->expired < 6)
		reactor_turn(&p->reactor, true);
	periods = (clock_now_ns() - started) / (250 * NS_PER_MS);
	/* With ticks piling up there would be more of them than periods. */
	assert_true(p->expired <= periods + 1);
	end();
}

static void idle_reactor_does_not_tick(void **state)
{
	struct player *p;

	(void)state;
	begin(1, 2);
	p = players[0];
	p->class.after_ns = 1;
	reactor_deadline(&p->reactor, &p->class, &p->deadline);
	while (p->expired == 0)
		reactor_turn(&p->reactor, true);
	for (int i = 0; i < 5; i++)
		turn(0);
	assert_false(p->reactor.ticking);
	assert_false(ring_ready(p->reactor.ring));
	end();
}

static void deadlines_of_a_class_are_in_the_order_of_their_start(void **state)
{
	struct deadline_class class;
	struct deadline d[3];

	(void)state;
	deadline_class_init(&class, 100);
	for (unsigned i = 0; i < 3; i++) {
		deadline_init(&d[i]);
		assert_false(deadline_running(&d[i]));
		deadline_start(&class, &d[i], 10 * i);
		assert_true(deadline_running(&d[i]));
	}
	/* Started again, it is last. */
	deadline_start(&class, &d[0], 30);
	assert_null(deadline_due(&class, 109));
	assert_ptr_equal(deadline_due(&class, 110), &d[1]);
	assert_null(deadline_due(&class, 110));
	deadline_stop(&d[2]);
	deadline_stop(&d[2]);
	assert_null(deadline_due(&class, 129));
	assert_ptr_equal(deadline_due(&class, 130), &d[0]);
	assert_false(deadline_running(&d[0]));
	assert_null(deadline_due(&class, UINT64_MAX));
}

static void user_data_holds_op_generation_and_slot(void **state)
{
	uint64_t data = user_data(200, 0x1abcdef, 0xfedcba98);

	(void)state;
	assert_int_equal(data >> 56, 200);
	assert_int_equal(user_data_generation(data), 0xabcdef);
	assert_int_equal(user_data_slot(data), 0xfedcba98);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(turn_reaps_then_drains_then_flushes),
		cmocka_unit_test(lane_is_drained_a_batch_a_turn),
		cmocka_unit_test(closed_gate_leaves_the_gated_lane_alone),
		cmocka_unit_test(full_lane_rings_back_when_there_is_room),
		cmocka_unit_test(reactor_does_not_park_with_work_left),
		cmocka_unit_test(reactor_wakes_when_its_owner_asked_to_be_woken),
		cmocka_unit_test(gated_letters_behind_a_closed_gate_do_not_keep_it_awake),
		cmocka_unit_test(completions_are_handled_a_batch_a_turn),
		cmocka_unit_test(what_there_is_no_time_for_comes_in_the_next_turns),
		cmocka_unit_test(senders_are_heard_in_turn_when_there_is_no_time_for_all),
		cmocka_unit_test(deadlines_that_are_due_together_expire_in_several_turns),
		cmocka_unit_test(a_turn_that_takes_too_long_is_counted_with_its_cpu_time),
		cmocka_unit_test(time_in_which_the_process_was_stopped_counts_for_no_deadline),
		cmocka_unit_test(deadline_expires_once_it_is_due_and_not_before),
		cmocka_unit_test(another_length_holds_for_deadlines_that_run),
		cmocka_unit_test(deadlines_that_were_never_due_count_from_when_they_may_be),
		cmocka_unit_test(deadline_may_be_started_from_its_own_expiry),
		cmocka_unit_test(clock_ticks_once_a_period_however_often_it_stops),
		cmocka_unit_test(idle_reactor_does_not_tick),
		cmocka_unit_test(deadlines_of_a_class_are_in_the_order_of_their_start),
		cmocka_unit_test(user_data_holds_op_generation_and_slot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
