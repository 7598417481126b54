#include "admin/snapshot.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "topic/topic.h"

enum { RANKED_TOPICS_MAX = 20000 }; /* with more of them none are ranked */

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

static void rank_topics(struct shard *s, struct snapshot *snap)
{
	uint64_t elapsed_ns = s->reactor.now_ns - s->figures.ranked_ns;
	struct named *n;

	if (elapsed_ns == 0 || s->home.topics.entries_n > RANKED_TOPICS_MAX)
		return;
	s->figures.ranked_ns = s->reactor.now_ns;
	for (size_t at = 0; (n = table_next(&s->home.topics, &at)) != NULL;) {
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
	snap->topics = s->home.topics.entries_n;
	snap->history_bytes = s->home.history.bytes;
	snap->letters_waiting =
		mail_letters(&s->mail, LANE_FREE) + mail_letters(&s->mail, LANE_GATED);
	snap->connections = s->clients.connections_n;
	snap->subscriptions = s->audience.subscriptions_n;
	snap->waiting = s->fetching.waiting_n;
}

struct snapshots *snapshots_new(struct shard *asking,
				void (*done)(struct shard *, const struct snapshots *))
{
	struct snapshots *all =
		calloc(1, sizeof(*all) + asking->broker->shards_n * sizeof(all->by_shard[0]));

	if (all == NULL)
		return NULL;
	all->letter.kind = LETTER_FIGURES;
	all->asking = asking->id;
	all->done = done;
	return all;
}

void snapshots_ask(struct snapshots *all, struct shard *asking)
{
	shard_post(asking, 0, LANE_FREE, &all->letter);
}

void snapshots_collect(struct shard *s, struct letter *letter)
{
	struct snapshots *all = (struct snapshots *)(void *)letter;
	unsigned n = s->broker->shards_n;

	if (all->collected == n) {
		all->done(s, all);
		free(all);
		return;
	}
	take(s, &all->by_shard[s->id]);
	if (all->ranked)
		rank_topics(s, &all->by_shard[s->id]);
	all->collected++;
	shard_post(s, all->collected < n ? all->collected : all->asking, LANE_FREE, letter);
}
