#include "topic/topic.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/hash.h"
#include "base/memory.h"

enum { WORD_BITS = 64 };

struct topic *topic_new(struct span name, uint64_t hash, unsigned shards,
			const struct config_topic *settings)
{
	size_t words = (shards + WORD_BITS - 1) / WORD_BITS;
	struct topic *t =
		memory_new_zeroed(sizeof(*t) + name.len + WORD_BITS / 8 + words * sizeof(uint64_t));

	if (t == NULL)
		return NULL;
	memcpy(t->name, name.data, name.len);
	t->named = (struct named){ hash, { t->name, name.len } };
	/* Behind the name, rounded up. */
	t->shards = (uint64_t *)(void *)(((uintptr_t)t->name + name.len + 7) & ~(uintptr_t)7);
	t->epoch = hash_unique();
	list_init(&t->link);
	topic_configure(t, settings);
	return t;
}

void topic_free(struct topic *t, struct history_total *total)
{
	history_release(&t->history, total);
	list_remove(&t->link);
	memory_free(t);
}

void topic_configure(struct topic *t, const struct config_topic *settings)
{
	t->settings = settings;
	t->limits = (struct history_limits){ .messages = settings->history_messages,
					     .bytes = settings->history_bytes,
					     .age_ns = settings->history_seconds * NS_PER_S };
}

void topic_sequence(struct topic *t, struct block *b, struct history_total *total, uint64_t now_ns)
{
	b->epoch = t->epoch;
	b->seq = t->seq + 1;
	b->stamped_ns = now_ns;
	t->seq += b->messages;
	history_add(&t->history, total, b, &t->limits);
}

void topic_add_shard(struct topic *t, unsigned shard)
{
	if (topic_has_shard(t, shard))
		return;
	t->shards[shard / WORD_BITS] |= UINT64_C(1) << shard % WORD_BITS;
	t->shards_n++;
}

void topic_remove_shard(struct topic *t, unsigned shard)
{
	if (!topic_has_shard(t, shard))
		return;
	t->shards[shard / WORD_BITS] &= ~(UINT64_C(1) << shard % WORD_BITS);
	t->shards_n--;
}

bool topic_has_shard(const struct topic *t, unsigned shard)
{
	return t->shards[shard / WORD_BITS] >> shard % WORD_BITS & 1;
}

struct replay_answer topic_replay(const struct topic *t, const struct replay *wanted)
{
	struct replay_answer a = { .epoch = t->epoch, .from = t->seq + 1 };
	uint64_t oldest = history_oldest(&t->history, &t->limits), from;

	/* Without a past the oldest message is the next one. */
	if (oldest == 0)
		oldest = t->seq + 1;
	switch (wanted->kind) {
	case REPLAY_NONE:
		return a;
	case REPLAY_LAST:
		from = wanted->n < t->seq ? t->seq - wanted->n + 1 : 1;
		if (from < oldest)
			from = oldest;
		break;
	case REPLAY_FROM:
		if (wanted->epoch == t->epoch && wanted->n >= t->seq)
			return a;
		from = wanted->n + 1;
		if (wanted->epoch != t->epoch || from < oldest) {
			from = oldest;
			a.gap = oldest;
		}
		break;
	default:
		return a;
	}
	a.messages = t->seq + 1 - from;
	a.from = from;
	return a;
}
