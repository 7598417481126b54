#include "broker/shard.h"

#include "broker/budget.h"
#include "topic/block.h"

/* Nothing more is taken in while backlogs are evicted, or they would grow faster than they go. */
static bool no_memory(const struct shard *s)
{
	return !s->drain.draining && budget_now(s->broker) == BUDGET_EVICTION;
}

bool shard_gate_open(void *context, enum mailbox_lane lane)
{
	const struct shard *s = context;

	return s->audience.pressed == 0 && !mail_stalls(&s->mail) &&
	       (lane == LANE_FREE ||
		(!mail_lags(&s->mail) && (!no_memory(s) || s->budget.nobody_to_evict)));
}

bool shard_congested(struct shard *s, struct hold_place place)
{
	if (no_memory(s)) {
		s->budget.held_up = true;
		return true;
	}
	if (atomic_load(&s->broker->held[place.bucket]) > 0)
		return true;
	return place.home == s->id ? mail_lags(&s->mail) : mail_congested(&s->mail, place.home);
}

void shard_hold(struct shard *s, uint64_t hash)
{
	atomic_fetch_add(&s->broker->held[hash % HOLD_BUCKETS], 1);
}

static void ring_all(struct shard *s)
{
	/* With nothing to read: they are to look at their paused publishers. */
	for (unsigned to = 0; to < s->broker->shards_n; to++)
		if (to != s->id)
			reactor_post(&s->reactor, to, LANE_FREE, NULL, 0);
}

void shard_release_hold(struct shard *s, uint64_t hash)
{
	atomic_fetch_sub(&s->broker->held[hash % HOLD_BUCKETS], 1);
	atomic_fetch_add(&s->broker->hold_ends, 1);
	ring_all(s);
}

void shard_release_holds(struct shard *s, const uint64_t *buckets)
{
	for (unsigned word = 0; word < HOLD_BUCKETS / 64; word++)
		for (uint64_t bits = buckets[word]; bits != 0; bits &= bits - 1)
			atomic_fetch_sub(
				&s->broker->held[word * 64 + (unsigned)__builtin_ctzll(bits)], 1);
	atomic_fetch_add(&s->broker->hold_ends, 1);
	ring_all(s);
}

bool shard_holds_ended(struct shard *s)
{
	uint64_t ends = atomic_load(&s->broker->hold_ends);
	bool any = ends != s->audience.hold_ends;

	s->audience.hold_ends = ends;
	return any;
}

void shard_publish(struct shard *s, struct block *b)
{
	b->stamped_ns = s->reactor.now_ns;
	shard_post(s, shard_home(s, b->hash), LANE_GATED, &b->letter);
}
