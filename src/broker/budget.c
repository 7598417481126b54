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
	LOOKS_MAX = 1024,       /* connections looked at in one period */
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

struct eviction {
	uint64_t most; /* the largest backlog here */
	uint64_t all;  /* what all of them hold together */
	uint64_t left; /* bytes that are still to be had */
};

static void find_most(struct connection *c, void *argument)
{
	struct eviction *e = argument;
	uint64_t held = connection_held(c);

	e->all += held;
	if (held > e->most)
		e->most = held;
}

/* One of the largest: at least half of the most. Backlogs of one topic share their memory, so that
 * letting one of them go may give nothing: what is its alone is what counts. */
static void evict(struct connection *c, void *argument)
{
	struct eviction *e = argument;
	uint64_t own;

	if (e->left == 0 || connection_held(c) < e->most / 2 + 1)
		return;
	own = connection_evict(c);
	e->left -= own < e->left ? own : e->left;
}

/* The largest go first. While all are small, what stands in lanes has a period's time to go instead
 * (nobody_to_evict), and so has a message that is partly there to end; then small ones go, for many
 * of them may be all that there is. Where they are next to nothing even together, none goes in
 * vain. */
static void evict_largest(struct shard *s)
{
	struct broker *b = s->broker;
	const bool all_small = s->budget.nobody_to_evict;
	uint64_t limit = budget_limit(b), used = memory_used();
	uint64_t wanted = part(limit, entered_at[BUDGET_EVICTION] - LEFT_BELOW);
	struct eviction e = { 0 };
	bool told = atomic_load_explicit(&s->budget.largest_backlog, memory_order_relaxed) != 0;
	uint64_t most = 0;
	bool all_told = true;

	connections_each(s, find_most, &e);
	atomic_store_explicit(&s->budget.largest_backlog, e.most + 1, memory_order_relaxed);
	/* First everybody tells. */
	if (!told && b->shards_n > 1)
		return;
	for (unsigned i = 0; i < b->shards_n; i++) {
		uint64_t there = atomic_load_explicit(&b->shards[i].budget.largest_backlog,
						      memory_order_relaxed);

		all_told &= there != 0;
		most = there > most ? there : most;
	}
	s->budget.nobody_to_evict = all_told && most <= BACKLOG_MIN;
	if (most / 2 > e.most)
		return; /* that one goes first */
	if (e.most == 0 || used <= wanted)
		return;
	e.left = (used - wanted) / b->shards_n + 1;
	if (e.most < BACKLOG_MIN && (!all_small || e.all < e.left / WORTH))
		return;
	connections_each(s, evict, &e);
}

static void period(void *context, struct deadline *d)
{
	struct shard *s = context;
	bool again = connections_look(s, LOOKS_MAX);

	again |= ring_give_back(s->reactor.ring);
	s->budget.looked_sends = s->sockets.sends;
	memory_settle();
	if (budget_check(s) == BUDGET_EVICTION)
		evict_largest(s);
	else
		atomic_store_explicit(&s->budget.largest_backlog, 0, memory_order_relaxed);
	if (again || budget_now(s->broker) > BUDGET_EASY)
		reactor_deadline(&s->reactor, &s->budget.period, d);
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
