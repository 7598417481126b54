#include "admin/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "admin/metrics.h"
#include "admin/text.h"
#include "base/clock.h"
#include "base/hash.h"
#include "broker/home.h"
#include "topic/block.h"
#include "topic/topic.h"

enum { RANKED_TOPICS_MAX = 20000 }; /* with more of them none are ranked */

static const struct span stats_topic = { "$sys.stats", sizeof("$sys.stats") - 1 };

struct snapshots {
	_Atomic bool watched; /* somebody subscribes to $sys.stats */
	uint64_t hash;        /* of its name */
	struct slot {
		pthread_mutex_t lock;
		struct snapshot snapshot;
		uint64_t ranked_ns;
	} slots[];
};

int snapshots_init(struct broker *b)
{
	struct snapshots *all = calloc(1, sizeof(*all) + b->shards_n * sizeof(struct slot));

	if (all == NULL)
		return -ENOMEM;
	atomic_init(&all->watched, false);
	all->hash = hash_bytes(stats_topic.data, stats_topic.len);
	for (unsigned i = 0; i < b->shards_n; i++)
		pthread_mutex_init(&all->slots[i].lock, NULL);
	b->snapshots = all;
	b->second = snapshot_second;
	return 0;
}

void snapshots_release(struct broker *b)
{
	for (unsigned i = 0; b->snapshots != NULL && i < b->shards_n; i++)
		pthread_mutex_destroy(&b->snapshots->slots[i].lock);
	free(b->snapshots);
	b->snapshots = NULL;
}

/* Puts a topic among the busiest, if it is one of them. */
static void rank(struct snapshot *snap, const struct topic *t, uint64_t per_second)
{
	struct snapshot_topic *place = &snap->busiest[snap->busiest_n];

	if (snap->busiest_n == SNAPSHOT_TOPICS) {
		place = snap->busiest;
		for (unsigned i = 1; i < SNAPSHOT_TOPICS; i++)
			if (snap->busiest[i].per_second < place->per_second)
				place = &snap->busiest[i];
		if (place->per_second >= per_second)
			return;
	} else {
		snap->busiest_n++;
	}
	place->per_second = per_second;
	place->shards = t->shards_n;
	place->name_len = (uint8_t)t->named.name.len;
	memcpy(place->name, t->named.name.data, t->named.name.len);
}

static void rank_topics(struct shard *s, struct slot *slot)
{
	struct snapshot *snap = &slot->snapshot;
	uint64_t elapsed_ns = s->reactor.now_ns - slot->ranked_ns;
	struct named *n;

	slot->ranked_ns = s->reactor.now_ns;
	snap->busiest_n = 0;
	if (!atomic_load_explicit(&s->broker->snapshots->watched, memory_order_relaxed) ||
	    s->topics.entries_n > RANKED_TOPICS_MAX)
		return;
	for (size_t at = 0; (n = table_next(&s->topics, &at)) != NULL;) {
		struct topic *t = (struct topic *)(void *)n;

		if (t->seq != t->ranked_seq && !topic_internal(n->name))
			rank(snap, t,
			     (uint64_t)((double)(t->seq - t->ranked_seq) * (double)NS_PER_S /
						(double)elapsed_ns +
					0.5));
		t->ranked_seq = t->seq;
	}
}

static void take(struct shard *s, struct snapshot *snap)
{
	snap->at_ns = s->reactor.now_ns;
	snap->counters = s->counters;
	snap->reactor = s->reactor.stats;
	snap->ring = *ring_counts(s->reactor.ring);
	snap->send_gap = s->sockets.send_gap;
	snap->sends = s->sockets.sends;
	snap->topics = s->topics.entries_n;
	snap->history_bytes = s->history.bytes;
	snap->letters_waiting = s->waiting[LANE_FREE].letters + s->waiting[LANE_GATED].letters;
	snap->connections = s->connections_n;
	snap->subscriptions = s->subscriptions_n;
	snap->waiting = s->waiting_n;
}

/* At the home of $sys.stats: publishes while anybody listens. */
static void publish(struct shard *s)
{
	struct snapshots *all = s->broker->snapshots;
	struct topic *t = home_topic(s, all->hash, stats_topic);
	struct text text = { 0 };
	struct block *b = NULL;

	atomic_store_explicit(&all->watched, t != NULL && t->shards_n > 0, memory_order_relaxed);
	if (t == NULL || t->shards_n == 0 || s->draining)
		return;
	stats_json(s, &text);
	if (!text.failed)
		b = block_new_labelled(stats_topic, all->hash, SPAN("application/json"),
				       (struct span){ NULL, 0 }, text.len);
	if (b != NULL) {
		memcpy(block_body(b), text.data, text.len);
		b->len = text.len;
		b->messages = 1;
		home_publish(s, b);
	}
	text_release(&text);
}

void snapshot_second(struct shard *s)
{
	struct snapshots *all = s->broker->snapshots;
	struct slot *slot = &all->slots[s->id];

	pthread_mutex_lock(&slot->lock);
	take(s, &slot->snapshot);
	rank_topics(s, slot);
	pthread_mutex_unlock(&slot->lock);
	if (shard_home(s, all->hash) == s->id)
		publish(s);
}

void snapshot_read(struct shard *asking, unsigned shard, struct snapshot *out)
{
	struct slot *slot = &asking->broker->snapshots->slots[shard];

	pthread_mutex_lock(&slot->lock);
	if (shard == asking->id)
		take(asking, &slot->snapshot);
	*out = slot->snapshot;
	pthread_mutex_unlock(&slot->lock);
}
