#include "broker/budget.h"

#include <inttypes.h>

#include "base/clock.h"
#include "base/log.h"
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

static const unsigned entered_at[BUDGET_LEVELS] = { 0, 85, 92, 95 }; /* % of the limit */
enum { LEFT_BELOW = 5 };                                             /* % less */

const char *const budget_level_names[BUDGET_LEVELS] = { "easy", "history", "subscribers",
							"eviction" };

static const char *const remedies[BUDGET_LEVELS] = {
	[BUDGET_EASY] = "nothing is held back",
	[BUDGET_HISTORY] = "the oldest history goes",
	[BUDGET_SUBSCRIBERS] = "history goes and no new subscribers are taken",
	[BUDGET_EVICTION] =
		"history goes, nothing is taken in and the largest backlogs are evicted",
};

static uint64_t part(uint64_t limit, unsigned percent)
{
	return limit / 100 * percent + limit % 100 * percent / 100;
}

enum budget_level budget_level(uint64_t used, uint64_t limit, enum budget_level now)
{
	enum budget_level level = BUDGET_EVICTION;

	if (limit == 0)
		return BUDGET_EASY;
	for (; level > BUDGET_EASY; level--)
		if (used >= part(limit, entered_at[level] - (level <= now ? LEFT_BELOW : 0)))
			return level;
	return BUDGET_EASY;
}

void budget_set_limit(struct broker *b, uint64_t bytes)
{
	atomic_store_explicit(&b->memory_limit, bytes, memory_order_relaxed);
}

uint64_t budget_limit(const struct broker *b)
{
	return atomic_load_explicit(&b->memory_limit, memory_order_relaxed);
}

enum budget_level budget_now(const struct broker *b)
{
	return (enum budget_level)atomic_load_explicit(&b->memory_level, memory_order_relaxed);
}

/* One shard tells, whoever saw it first. */
static void announce(struct shard *s, enum budget_level from, enum budget_level to, uint64_t used,
		     uint64_t limit)
{
	for (enum budget_level l = from + 1; l <= to; l++)
		s->counters.memory_crossings[l]++;
	/* One that sleeps may hold what has to go. */
	for (unsigned i = 0; i < s->broker->shards_n; i++)
		if (i != s->id)
			reactor_post(&s->reactor, i, LANE_FREE, NULL, 0);
	log_write(to > from ? LOG_WARN : LOG_INFO,
		  "memory: %" PRIu64 " of %" PRIu64 " bytes (limits.memory_bytes) are used: %s",
		  used, limit, remedies[to]);
}

enum budget_level budget_check(struct shard *s)
{
	unsigned now = atomic_load_explicit(&s->broker->memory_level, memory_order_relaxed);
	uint64_t used = memory_used(), limit = budget_limit(s->broker);
	enum budget_level level = budget_level(used, limit, (enum budget_level)now);

	if ((level > BUDGET_EASY || s->sockets.sends != s->budget.looked_sends) &&
	    !deadline_running(&s->budget.period_deadline) && limit > 0)
		reactor_deadline(&s->reactor, &s->budget.period, &s->budget.period_deadline);
	if (level != now && atomic_compare_exchange_strong(&s->broker->memory_level, &now, level))
		announce(s, (enum budget_level)now, level, used, limit);
	if ((level == BUDGET_EVICTION) != s->accepting.stopped) {
		listeners_hold(s, level == BUDGET_EVICTION);
		s->budget.nobody_to_evict = false;
	}
	/* It may have come and gone between two looks from here. */
	if (s->budget.held_up && level < BUDGET_EVICTION) {
		s->budget.held_up = false;
		s->audience.relieved = true;
	}
	return level;
}

bool budget_wants_history(struct shard *s)
{
	/* Just to where the level begins: so it stays, and says so once, while history comes and
	 * goes. */
	return budget_check(s) >= BUDGET_HISTORY &&
	       memory_used() >= part(budget_limit(s->broker), entered_at[BUDGET_HISTORY]);
}

/* ---- eviction ---- */

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
	uint64_t limit = budget_limit(b), used = memory_used();
	uint64_t wanted = part(limit, entered_at[BUDGET_EVICTION] - LEFT_BELOW);
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
	e->nobody_to_evict = all_told && most <= BACKLOG_MIN;
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

void budget_configure(struct shard *s)
{
	if (budget_limit(s->broker) == 0)
		deadline_stop(&s->budget.period_deadline);
	else if (!deadline_running(&s->budget.period_deadline))
		reactor_deadline(&s->reactor, &s->budget.period, &s->budget.period_deadline);
}
