#include "broker/budget.h"

#include <inttypes.h>

#include "base/log.h"
#include "base/memory.h"
#include "broker/shard.h"

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
	/* It may have come and gone between two looks from here. */
	if (s->budget.held_up && level < BUDGET_EVICTION) {
		s->budget.held_up = false;
		s->audience.relieved = true;
	}
	return level;
}

uint64_t budget_eviction_ends(const struct broker *b)
{
	return part(budget_limit(b), entered_at[BUDGET_EVICTION] - LEFT_BELOW);
}

bool budget_wants_history(struct shard *s)
{
	/* Just to where the level begins: so it stays, and says so once, while history comes and
	 * goes. */
	return budget_check(s) >= BUDGET_HISTORY &&
	       memory_used() >= part(budget_limit(s->broker), entered_at[BUDGET_HISTORY]);
}

void budget_configure(struct shard *s)
{
	if (budget_limit(s->broker) == 0)
		deadline_stop(&s->budget.period_deadline);
	else if (!deadline_running(&s->budget.period_deadline))
		reactor_deadline(&s->reactor, &s->budget.period, &s->budget.period_deadline);
}
