#include "broker/budget.h"

#include "base/clock.h"
#include "base/memory.h"
#include "broker/connection.h"
#include "broker/listener.h"
#include "broker/shard.h"

enum {
	PERIOD_MS = 250,
	LOOKS_MAX = 1024,       /* connections looked at in one period, */
	LOOKS_AT_ONCE = 32,     /* and before there is a look at the time */
	LOOK_COST = 3,          /* of a system call */
	BACKLOG_MIN = 64 << 10, /* smaller ones go when nothing else is left to go, */
	WORTH = 8               /* and together are this part of what is wanted, or more */
};

void budget_turn(struct shard *s)
{
	bool evicts = budget_check(s) == BUDGET_EVICTION;

	if (evicts == s->accepting.stopped)
		return;
	listeners_hold(s, evicts);
	s->budget.nobody_to_evict = false;
}

static void find_most(struct connection *c, void *argument)
{
	struct budget *b = argument;
	uint64_t held = connection_held(c);

	b->all += held;
	if (held > b->most)
		b->most = held;
}

/* One of the largest: at least half of the most. Backlogs of one topic share their memory, so that
 * letting one of them go may give nothing: what is its alone is what counts. */
static void evict(struct connection *c, void *argument)
{
	struct budget *b = argument;
	uint64_t own;

	if (b->left == 0 || connection_held(c) < b->most / 2 + 1)
		return;
	own = connection_evict(c);
	b->left -= own < b->left ? own : b->left;
}

/* The largest go first. While all are small, what stands in lanes has a period's time to go instead
 * (nobody_to_evict), and so has a message that is partly there to end; then small ones go, for many
 * of them may be all that there is. Where they are next to nothing even together, none goes in
 * vain. Returns whether any is to go here. */
static bool evict_largest(struct shard *s)
{
	struct broker *b = s->broker;
	struct budget *e = &s->budget;
	const bool all_small = e->nobody_to_evict;
	uint64_t used = memory_used(), wanted = budget_eviction_ends(b);
	bool told = atomic_load_explicit(&e->largest_backlog, memory_order_relaxed) != 0;
	uint64_t most = 0;
	bool all_told = true;

	atomic_store_explicit(&e->largest_backlog, e->most + 1, memory_order_relaxed);
	/* First everybody tells. */
	if (!told && b->shards_n > 1)
		return false;
	for (unsigned i = 0; i < b->shards_n; i++) {
		uint64_t there = atomic_load_explicit(&b->shards[i].budget.largest_backlog,
						      memory_order_relaxed);

		all_told &= there != 0;
		most = there > most ? there : most;
	}
	/* One who has had no turn since may have the largest. */
	if (!all_told)
		return false;
	e->nobody_to_evict = most <= BACKLOG_MIN;
	if (most / 2 > e->most)
		return false; /* that one goes first */
	if (e->most == 0 || used <= wanted)
		return false;
	e->left = (used - wanted) / b->shards_n + 1;
	return e->most >= BACKLOG_MIN || (all_small && e->all >= e->left / WORTH);
}

static bool look_at_some(struct shard *s)
{
	unsigned *left = &s->budget.looks_left;

	while (*left > 0 && !list_empty(&s->clients.unlooked) && !reactor_spent(&s->reactor)) {
		unsigned n = *left < LOOKS_AT_ONCE ? *left : LOOKS_AT_ONCE;

		(void)connections_look(s, n);
		reactor_spend(&s->reactor, n * LOOK_COST);
		*left -= n;
	}
	if (*left > 0 && !list_empty(&s->clients.unlooked))
		return true;
	*left = 0;
	if (!list_empty(&s->clients.unlooked) && !deadline_running(&s->budget.period_deadline))
		reactor_deadline(&s->reactor, &s->budget.period, &s->budget.period_deadline);
	return false;
}

bool budget_go_on(struct shard *s)
{
	struct budget *b = &s->budget;

	reactor_part(&s->reactor, PART_CLIENTS);
	if (b->looks_left > 0 && look_at_some(s))
		return true;
	if (b->eviction == EVICTION_FINDS) {
		if (connections_walk(s, &b->walk, find_most, b))
			return true;
		b->eviction = evict_largest(s) ? EVICTION_GOES : EVICTION_RESTS;
		b->walk = connections_all();
	}
	if (b->eviction == EVICTION_GOES) {
		if (connections_walk(s, &b->walk, evict, b))
			return true;
		b->eviction = EVICTION_RESTS;
	}
	return false;
}

static void period(void *context, struct deadline *d)
{
	struct shard *s = context;
	struct budget *b = &s->budget;
	bool again = ring_give_back(s->reactor.ring);

	tls_give_back(&s->sockets.tls);
	b->looks_left = list_empty(&s->clients.unlooked) ? 0 : LOOKS_MAX;
	b->looked_sends = s->sockets.sends;
	memory_settle();
	if (budget_check(s) != BUDGET_EVICTION) {
		atomic_store_explicit(&b->largest_backlog, 0, memory_order_relaxed);
	} else if (b->eviction == EVICTION_RESTS) {
		b->eviction = EVICTION_FINDS;
		b->most = b->all = 0;
		b->walk = connections_all();
	}
	if (again || budget_now(s->broker) > BUDGET_EASY)
		reactor_deadline(&s->reactor, &b->period, d);
}

void budget_init(struct shard *s)
{
	deadline_class_init(&s->budget.period, PERIOD_MS * NS_PER_MS);
	deadline_init(&s->budget.period_deadline);
	reactor_watch(&s->reactor, &s->budget.period, period, s);
}
