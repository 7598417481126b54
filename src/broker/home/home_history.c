#include "broker/home.h"

#include <assert.h>

#include "broker/budget.h"
#include "broker/retained.h"
#include "broker/shard.h"
#include "topic/block.h"

enum { DROPS_AT_ONCE = 64 }; /* of history, before there is a look at the time */

/* What a shard may hold back from the others of how its history has changed. */
static uint64_t history_step(const struct shard *s)
{
	return s->home.history.bytes_max / 16 / s->broker->shards_n;
}

void home_tell_history(struct shard *s)
{
	int64_t change = (int64_t)s->home.history.bytes - s->home.history_told;
	uint64_t oldest = UINT64_MAX;

	if (change > (int64_t)history_step(s) || -change > (int64_t)history_step(s)) {
		atomic_fetch_add_explicit(&s->broker->history_bytes, change, memory_order_relaxed);
		s->home.history_told += change;
	}
	if (!list_empty(&s->home.history.blocks))
		oldest = LIST_ENTRY(s->home.history.blocks.next, struct block, age)->stamped_ns;
	if (oldest != atomic_load_explicit(&s->home.history_oldest_ns, memory_order_relaxed))
		atomic_store_explicit(&s->home.history_oldest_ns, oldest, memory_order_relaxed);
}

/* All shards' history, and as much more as the others may not have told. */
static uint64_t history_bytes(const struct shard *s)
{
	int64_t bytes = atomic_load_explicit(&s->broker->history_bytes, memory_order_relaxed) +
			(int64_t)s->home.history.bytes - s->home.history_told;

	return (bytes > 0 ? (uint64_t)bytes : 0) + (s->broker->shards_n - 1) * history_step(s);
}

/* Whether no shard has older history. Whoever has is rung, for it may be asleep. */
static bool oldest_is_here(struct shard *s)
{
	uint64_t oldest = atomic_load_explicit(&s->home.history_oldest_ns, memory_order_relaxed);
	unsigned at = s->id;

	for (unsigned i = 0; i < s->broker->shards_n; i++) {
		uint64_t there = atomic_load_explicit(&s->broker->shards[i].home.history_oldest_ns,
						      memory_order_relaxed);

		if (there >= oldest)
			continue;
		oldest = there;
		at = i;
	}
	if (at != s->id)
		(void)reactor_post(&s->reactor, at, LANE_FREE, NULL, 0);
	return at == s->id;
}

/* The oldest history of all topics goes first, wherever it is. More than there may be is borne with
 * until whoever has it lets go; but from an eighth on, which a smaller limit makes it at once,
 * whoever adds to it lets go of as much. */
static bool must_go(struct shard *s, uint64_t added)
{
	uint64_t max = s->home.history.bytes_max, bytes = history_bytes(s);

	if (bytes > max)
		return (added > 0 && bytes > max + max / 8) || oldest_is_here(s);
	if (!budget_wants_history(s) || !oldest_is_here(s))
		return false;
	s->counters.memory_history++;
	return true;
}

static void drop_oldest(struct shard *s)
{
	struct block *b = LIST_ENTRY(s->home.history.blocks.next, struct block, age);
	struct topic *t =
		(struct topic *)(void *)table_find(&s->home.topics, b->hash, block_name(b));

	assert(t != NULL && history_first(&t->history) == b);
	history_drop_oldest(&t->history, &s->home.history);
	if (t->history.blocks_n == 0 && t->idle_ns != 0)
		home_weigh(s, t);
	home_tell_history(s);
}

/* They are the last to go: when nobody has any history left. */
static bool retained_must_go(struct shard *s)
{
	if (history_bytes(s) <= s->home.history.bytes_max && !budget_wants_history(s))
		return false;
	for (unsigned i = 0; i < s->broker->shards_n; i++)
		if (atomic_load_explicit(&s->broker->shards[i].home.history_oldest_ns,
					 memory_order_relaxed) != UINT64_MAX)
			return false;
	return true;
}

bool home_let_history_go(struct shard *s, uint64_t added)
{
	uint64_t before = s->home.history.bytes, gone = 0;

	home_tell_history(s);
	for (unsigned n = 0; n < DROPS_AT_ONCE || gone < added; n++) {
		if (!list_empty(&s->home.history.going)) {
			(void)history_let_go(&s->home.history, 1);
			home_tell_history(s);
		} else if (list_empty(&s->home.history.blocks)) {
			struct topic *t = retained_must_go(s) ? retained_drop_oldest(s) : NULL;

			if (t == NULL)
				return false;
			home_weigh(s, t);
			home_tell_history(s);
		} else {
			if (!must_go(s, gone < added ? added - gone : 0))
				return false;
			drop_oldest(s);
		}
		gone = before - s->home.history.bytes;
	}
	return true;
}

bool home_bound_history(struct shard *s)
{
	bool more = home_let_history_go(s, 0);

	if (!more)
		return false;
	reactor_part(&s->reactor, PART_TOPICS);
	while (more && !reactor_spent(&s->reactor)) {
		more = home_let_history_go(s, 0);
		reactor_spend(&s->reactor, DROPS_AT_ONCE);
	}
	return more;
}
