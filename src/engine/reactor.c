#include "engine/reactor.h"

#include <assert.h>
#include <ck_pr.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/probe.h"

enum {
	TICK_MS = 250,
	STOPPED_MS = 1000,   /* between two turns with a tick running: the process was not */
	LOOKS = 16,          /* at the clock in a turn's time, of work that takes what it should */
	CPU_LOOK_US = 200,   /* between two looks at the clock that is dear */
	LETTERS_AT_ONCE = 8, /* between two questions whether there is time for more */
};

static void ignore(void *context, const struct completion *completion)
{
	(void)context;
	(void)completion;
}

static bool deadlines_running(const struct reactor *r)
{
	for (unsigned i = 0; i < r->deadlines_n; i++)
		if (deadline_class_runs(r->deadlines[i].class))
			return true;
	return false;
}

/* Ten thousand may be due at once. */
static void expire_deadlines(struct reactor *r)
{
	unsigned before = r->turn.part;
	bool spent = false;

	reactor_part(r, TURN_DEADLINES);
	for (unsigned i = 0; i < r->deadlines_n && !spent; i++) {
		struct deadline *d;

		while (!spent && (d = deadline_due(r->deadlines[i].class, r->now_ns)) != NULL) {
			r->deadlines[i].expired(r->deadlines[i].context, d);
			reactor_spend(r, 1);
			spent = reactor_spent(r);
		}
	}
	r->expiring = spent;
	reactor_part(r, before);
}

static void tick(struct reactor *r)
{
	ring_tick(r->ring, TICK_MS * NS_PER_MS, user_data(OP_TICK, r->tick_generation, 0));
	r->ticking = true;
}

static void ticked(void *context, const struct completion *c)
{
	struct reactor *r = context;

	/* The end of one that was stopped must not arm another beside the one that runs now. */
	if (user_data_generation(c->user_data) != r->tick_generation) {
		/* One that is just firing cannot be stopped and goes on. */
		if (c->more)
			ring_tick_stop(r->ring, c->user_data, user_data(OP_IGNORE, 0, 0));
		return;
	}
	if (c->result == -ETIME)
		expire_deadlines(r);
	else if (c->result == -ENOMEM)
		ring_back_off(r->ring);
	if (deadlines_running(r)) {
		if (!c->more)
			tick(r);
		return;
	}
	if (c->more)
		ring_tick_stop(r->ring, c->user_data, user_data(OP_IGNORE, 0, 0));
	r->tick_generation = (r->tick_generation + 1) & REACTOR_GENERATION_MASK;
	r->ticking = false;
}

int reactor_init(struct reactor *r, const struct reactor_params *params, struct mailbox *mailbox,
		 const int *ring_fds, const struct reactor_owner *owner)
{
	int err;

	memset(r, 0, sizeof(*r));
	r->id = params->id;
	r->params = *params;
	r->owner = *owner;
	r->mailbox = mailbox;
	r->ring_fds = ring_fds;
	r->letters = malloc(params->lane_batch * sizeof(*r->letters));
	if (r->letters == NULL)
		return -ENOMEM;
	err = ring_new(&params->ring, &r->ring);
	if (err != 0) {
		free(r->letters);
		return err;
	}
	for (unsigned op = 0; op < OPS; op++)
		reactor_handle(r, op, ignore, NULL);
	reactor_handle(r, OP_TICK, ticked, r);
	r->clock_ns = r->now_ns = clock_now_ns();
	r->stats.started_ns = r->now_ns;
	return 0;
}

void reactor_release(struct reactor *r)
{
	ring_free(r->ring);
	free(r->letters);
}

void reactor_handle(struct reactor *r, unsigned op, reactor_handler *handler, void *context)
{
	assert(op < OPS);
	r->ops[op].handler = handler;
	r->ops[op].context = context;
}

void reactor_watch(struct reactor *r, struct deadline_class *class,
		   void (*expired)(void *context, struct deadline *), void *context)
{
	assert(r->deadlines_n < REACTOR_DEADLINE_CLASSES);
	r->deadlines[r->deadlines_n].class = class;
	r->deadlines[r->deadlines_n].expired = expired;
	r->deadlines[r->deadlines_n].context = context;
	r->deadlines_n++;
}

void reactor_deadlines_change(struct reactor *r, struct deadline_class *class, uint64_t after_ns)
{
	deadline_class_change(class, after_ns, r->now_ns);
	if (!r->ticking && deadline_class_runs(class))
		tick(r);
}

void reactor_deadline(struct reactor *r, struct deadline_class *class, struct deadline *d)
{
	deadline_start(class, d, r->now_ns);
	if (!r->ticking)
		tick(r);
}

/* ---- the turn's time ---- */

static uint64_t share_ns(const struct reactor *r, unsigned part)
{
	if (r->params.turn_us == 0)
		return UINT64_MAX / 2;
	if (part == r->params.main_part && part >= TURN_OWNER)
		return r->params.turn_us * NS_PER_US;
	return r->params.turn_us * NS_PER_US / (part == TURN_COMPLETIONS ? 2 : 4);
}

/* How much work there may be between two looks at the clock. */
static int64_t unlooked(const struct reactor *r)
{
	return r->params.turn_us > 0 ? r->params.turn_us / LOOKS + 1 : INT64_MAX / 2;
}

static void begin_part(struct reactor *r, unsigned part, uint64_t now_ns)
{
	r->turn.ns[r->turn.part] += now_ns - r->turn.part_ns;
	r->turn.part = part;
	r->turn.part_ns = now_ns;
	r->turn.ends_ns = now_ns + share_ns(r, part);
	r->turn.unlooked = unlooked(r);
}

void reactor_part(struct reactor *r, unsigned part)
{
	begin_part(r, part, clock_now_ns());
}

bool reactor_look(struct reactor *r)
{
	if (clock_now_ns() >= r->turn.ends_ns)
		return true;
	r->turn.unlooked = unlooked(r);
	return false;
}

/* It took longer than it may: says why. */
static void turn_was_long(struct reactor *r, uint64_t ns)
{
	uint64_t cpu_ns = clock_cpu_ns() - r->turn.cpu_ns;
	unsigned most = TURN_COMPLETIONS;

	for (unsigned part = TURN_COMPLETIONS + 1; part < TURN_PARTS; part++)
		if (r->turn.ns[part] > r->turn.ns[most])
			most = part;
	histogram_add(&r->stats.long_turn, cpu_ns);
	PROBE(long_turn, r->id, ns, cpu_ns, most, r->turn.ns[most], r->turn.completions);
}

/* Sleep comes after, or the next turn. */
static void end_turn(struct reactor *r, uint64_t now_ns)
{
	uint64_t ns = now_ns - r->clock_ns;

	r->turn.running = false;
	histogram_add(&r->stats.turn, ns);
	if (ns <= r->params.turn_us * NS_PER_US || r->params.turn_us == 0)
		return;
	r->turn.ns[r->turn.part] += now_ns - r->turn.part_ns;
	turn_was_long(r, ns);
}

/*
 * Reads the clock. With a tick running nobody sleeps for longer than that: when it has gone on for
 * much longer the process was stopped, or its machine was. Nobody could be served meanwhile, so
 * that nobody is to be judged by that time, and it does not count.
 */
static void read_clock(struct reactor *r)
{
	uint64_t now_ns = clock_now_ns(), passed_ns = now_ns - r->clock_ns;

	if (r->turn.running)
		end_turn(r, now_ns);
	if (r->ticking && passed_ns > STOPPED_MS * NS_PER_MS) {
		r->stopped_ns += passed_ns - TICK_MS * NS_PER_MS;
		log_warn("reactor %u could not run for %.1f s, which counts for no time limit",
			 r->id, (double)passed_ns / (double)NS_PER_S);
	}
	r->clock_ns = now_ns;
	r->now_ns = now_ns - r->stopped_ns;
}

static void begin_turn(struct reactor *r)
{
	read_clock(r);
	r->wake_at_ns = 0;
	r->stats.turns++;
	memset(r->turn.ns, 0, sizeof(r->turn.ns));
	r->turn.part_ns = r->clock_ns;
	r->turn.part = TURN_COMPLETIONS;
	r->turn.ends_ns = r->clock_ns + share_ns(r, TURN_COMPLETIONS);
	r->turn.unlooked = unlooked(r);
	if (r->clock_ns - r->turn.cpu_at_ns < CPU_LOOK_US * NS_PER_US)
		return;
	r->turn.cpu_ns = clock_cpu_ns();
	r->turn.cpu_at_ns = r->clock_ns;
}

/* ---- work ---- */

static void handle(struct reactor *r, const struct completion *c)
{
	unsigned op = (unsigned)(c->user_data >> 56);

	assert(op < OPS);
	r->ops[op].handler(r->ops[op].context, c);
}

/* This one is handled in any case, or there would be no end. */
static void __attribute__((noinline)) handle_and_look(struct reactor *r, const struct completion *c)
{
	if (reactor_look(r))
		ring_enough(r->ring);
	handle(r, c);
}

static void dispatch(void *context, const struct completion *c)
{
	struct reactor *r = context;

	/* Apart, so that what is seldom costs nothing here. */
	if (--r->turn.unlooked > 0)
		handle(r, c);
	else
		handle_and_look(r, c);
}

/* One batch from one lane, bounded in letters and in time. Returns whether it may hold more. */
static bool drain_lane(struct reactor *r, unsigned sender, enum mailbox_lane lane,
		       unsigned *drained)
{
	bool again = false;
	unsigned left = r->params.lane_batch, max, n;

	do {
		max = left < LETTERS_AT_ONCE ? left : LETTERS_AT_ONCE;
		n = mailbox_pop(r->mailbox, r->id, sender, lane, r->letters, max, &again);
		if (n > 0)
			r->owner.letters(r->owner.context, sender, lane, r->letters, n);
		left -= n;
		reactor_spend(r, n);
	} while (n == max && left > 0 && !reactor_spent(r));
	if (left == r->params.lane_batch)
		return false;
	*drained += r->params.lane_batch - left;
	histogram_add(&r->stats.letters_per_drain, r->params.lane_batch - left);
	if (again)
		reactor_post(r, sender, LANE_FREE, NULL, 0);
	return n == max;
}

static void hear(struct reactor *r, uint64_t rung)
{
	for (enum mailbox_lane lane = 0; lane < LANES; lane++)
		r->pending[lane] |= rung;
}

static bool gate_open(const struct reactor *r, enum mailbox_lane lane)
{
	return r->owner.gate_open == NULL || r->owner.gate_open(r->owner.context, lane);
}

/* A batch of each sender, as far as there is time: the next turn begins with whom this one has not
 * come to. */
static void drain_senders(struct reactor *r, enum mailbox_lane lane, unsigned *drained)
{
	unsigned senders = mailbox_senders(r->mailbox), first = r->first[lane];
	const unsigned before = *drained;
	uint64_t bits = r->pending[lane], left = 0;
	bool spent = false;

	for (unsigned i = 0; i < senders; i++) {
		unsigned s = first + i < senders ? first + i : first + i - senders;

		if (!(bits & mailbox_bit(s)))
			continue;
		if (spent || drain_lane(r, s, lane, drained))
			left |= mailbox_bit(s);
		if (spent || *drained == before || !reactor_spent(r))
			continue;
		spent = true;
		r->first[lane] = s + 1 < senders ? s + 1 : 0;
	}
	r->pending[lane] = left;
}

static unsigned drain_lanes(struct reactor *r)
{
	unsigned drained = 0;
	bool begun = false;

	if (r->mailbox == NULL)
		return 0;
	if (mailbox_peek(r->mailbox, r->id))
		hear(r, mailbox_take(r->mailbox, r->id));
	for (enum mailbox_lane lane = 0; lane < LANES; lane++) {
		if (r->pending[lane] == 0 || !gate_open(r, lane))
			continue;
		if (!begun)
			reactor_part(r, TURN_LETTERS);
		begun = true;
		drain_senders(r, lane, &drained);
	}
	return drained;
}

static bool lanes_pending(const struct reactor *r)
{
	for (enum mailbox_lane lane = 0; lane < LANES; lane++)
		if (r->pending[lane] != 0 && gate_open(r, lane))
			return true;
	return false;
}

static bool anything_ready(const struct reactor *r)
{
	return ring_ready(r->ring) || (r->mailbox != NULL && mailbox_peek(r->mailbox, r->id));
}

/* Looks again for a while, if the recent idle times say that it is likely to pay. */
static bool spin(struct reactor *r)
{
	uint64_t limit_ns = r->params.spin_us * NS_PER_US, start;

	if (limit_ns == 0 || r->gap_ns > limit_ns)
		return false;
	start = clock_now_ns();
	do {
		if (anything_ready(r))
			return true;
		ck_pr_stall();
	} while (clock_now_ns() - start < limit_ns);
	return false;
}

static void enter(struct reactor *r, bool wait)
{
	const struct ring_counts *counts = ring_counts(r->ring);
	uint64_t before = counts->submitted;

	if (wait && r->wake_at_ns != 0)
		ring_enter_until(r->ring, r->wake_at_ns + r->stopped_ns, r->params.linger_us);
	else
		ring_enter(r->ring, wait, r->params.linger_us);
	if (counts->submitted != before)
		histogram_add(&r->stats.requests_per_submit, counts->submitted - before);
}

/* Looks once more before sleeping, in the ways that are asked for. Work that the kernel has put off
 * is run. */
static bool look_again(struct reactor *r)
{
	bool ready = spin(r);

	if (!ready && r->params.oversubscribed) {
		/* Whoever has letters for us may be waiting for this very core. */
		sched_yield();
		ready = anything_ready(r);
	}
	if (ready)
		enter(r, false);
	return ready;
}

static void park(struct reactor *r)
{
	uint64_t start = clock_now_ns(), idle_ns;

	end_turn(r, start);
	if (!look_again(r)) {
		if (r->mailbox != NULL && !mailbox_park(r->mailbox, r->id))
			return;
		PROBE(park, r->id);
		enter(r, true);
		/* Whoever woke us, from now on nobody needs to. */
		if (r->mailbox != NULL)
			hear(r, mailbox_take(r->mailbox, r->id));
		idle_ns = clock_now_ns() - start;
		r->stats.parks++;
		r->stats.parked_ns += idle_ns;
		PROBE(wake, r->id, idle_ns);
		histogram_add(&r->stats.parked, idle_ns);
	} else {
		idle_ns = clock_now_ns() - start;
	}
	r->gap_ns += (idle_ns >> 3) - (r->gap_ns >> 3);
}

void reactor_wake_at(struct reactor *r, uint64_t at_ns)
{
	if (r->wake_at_ns == 0 || at_ns < r->wake_at_ns)
		r->wake_at_ns = at_ns;
}

bool reactor_turn(struct reactor *r, bool may_park)
{
	unsigned completions, letters;
	bool expiring, more;

	begin_turn(r);
	expiring = r->expiring;
	completions = ring_reap(r->ring, r->params.completion_batch, dispatch, r);
	if (completions > 0)
		histogram_add(&r->stats.completions_per_turn, completions);
	r->turn.completions = completions;
	if (expiring)
		expire_deadlines(r);
	letters = drain_lanes(r);
	more = r->owner.flush(r->owner.context);
	more |= r->expiring;
	if (completions + letters > 0 || more || lanes_pending(r) || !may_park || r->stop) {
		reactor_part(r, TURN_KERNEL);
		r->turn.running = true;
		enter(r, false);
		return completions + letters > 0 || more;
	}
	park(r);
	return false;
}

void reactor_run(struct reactor *r)
{
	while (!r->stop)
		reactor_turn(r, true);
}

void reactor_stop(struct reactor *r)
{
	r->stop = true;
}

unsigned reactor_post(struct reactor *r, unsigned to, enum mailbox_lane lane, void *const *letters,
		      unsigned n)
{
	unsigned pushed = n > 0 ? mailbox_push(r->mailbox, to, r->id, lane, letters, n) : 0;

	if (pushed < n)
		PROBE(lane_full, r->id, to, lane, n - pushed);
	if (n > 0 && pushed == 0)
		return 0;
	if (pushed > 0)
		PROBE(letters_pushed, r->id, to, lane, pushed);
	if (mailbox_ring(r->mailbox, to, r->id)) {
		ring_wake(r->ring, r->ring_fds[to], user_data(OP_WAKE, 0, 0));
		r->stats.wakes_sent++;
		PROBE(wake_sent, r->id, to);
	}
	return pushed;
}
