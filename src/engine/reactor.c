#include "engine/reactor.h"

#include <assert.h>
#include <ck_pr.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/probe.h"

enum { TICK_MS = 250 };

static void ignore(void *context, const struct completion *completion)
{
	(void)context;
	(void)completion;
}

static bool deadlines_running(const struct reactor *r)
{
	for (unsigned i = 0; i < r->deadlines_n; i++)
		if (!list_empty(&r->deadlines[i].class->waiting))
			return true;
	return false;
}

static void expire_deadlines(struct reactor *r)
{
	for (unsigned i = 0; i < r->deadlines_n; i++) {
		struct deadline *d;

		while ((d = deadline_due(r->deadlines[i].class, r->now_ns)) != NULL)
			r->deadlines[i].expired(r->deadlines[i].context, d);
	}
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
	r->now_ns = clock_now_ns();
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

void reactor_deadline(struct reactor *r, struct deadline_class *class, struct deadline *d)
{
	deadline_start(class, d, r->now_ns);
	if (!r->ticking)
		tick(r);
}

static void dispatch(void *context, const struct completion *c)
{
	struct reactor *r = context;
	unsigned op = (unsigned)(c->user_data >> 56);

	assert(op < OPS);
	r->ops[op].handler(r->ops[op].context, c);
}

/* One bounded batch from one lane. Returns whether it may hold more. */
static bool drain_lane(struct reactor *r, unsigned sender, enum mailbox_lane lane,
		       unsigned *drained)
{
	bool again = false;
	unsigned n = mailbox_pop(r->mailbox, r->id, sender, lane, r->letters, r->params.lane_batch,
				 &again);

	if (n == 0)
		return false;
	*drained += n;
	histogram_add(&r->stats.letters_per_drain, n);
	r->owner.letters(r->owner.context, sender, lane, r->letters, n);
	if (again)
		reactor_post(r, sender, LANE_FREE, NULL, 0);
	return n == r->params.lane_batch;
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

static unsigned drain_lanes(struct reactor *r)
{
	unsigned senders, drained = 0;

	if (r->mailbox == NULL)
		return 0;
	if (mailbox_peek(r->mailbox, r->id))
		hear(r, mailbox_take(r->mailbox, r->id));
	senders = mailbox_senders(r->mailbox);
	for (enum mailbox_lane lane = 0; lane < LANES; lane++) {
		uint64_t bits = r->pending[lane], left = 0;

		if (bits == 0)
			continue;
		if (!gate_open(r, lane))
			continue;
		for (unsigned s = 0; s < senders; s++)
			if ((bits & mailbox_bit(s)) && drain_lane(r, s, lane, &drained))
				left |= mailbox_bit(s);
		r->pending[lane] = left;
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

bool reactor_turn(struct reactor *r, bool may_park)
{
	unsigned completions, letters;
	bool more;

	r->now_ns = clock_now_ns();
	r->stats.turns++;
	completions = ring_reap(r->ring, r->params.completion_batch, dispatch, r);
	if (completions > 0)
		histogram_add(&r->stats.completions_per_turn, completions);
	letters = drain_lanes(r);
	more = r->owner.flush(r->owner.context);
	if (completions + letters > 0 || more || lanes_pending(r) || !may_park || r->stop) {
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
