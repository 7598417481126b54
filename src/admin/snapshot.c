#include "admin/snapshot.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "session/shared.h"
#include "session/upstream.h"
#include "topic/topic.h"

enum {
	RANKED_TOPICS_MAX = 20000, /* with more of them none are ranked */
	RANKED_AT_ONCE = 64,       /* places in the table between two looks whether there is time */
};

/* Its place among the busiest, if it has one already. */
static struct snapshot_topic *ranked(struct snapshot *snap, struct span name)
{
	for (unsigned i = 0; i < snap->busiest_n; i++)
		if (span_equal((struct span){ snap->busiest[i].name, snap->busiest[i].name_len },
			       name))
			return &snap->busiest[i];
	return NULL;
}

/* Where the next one is to stand: free, or that of the least busy of them. */
static struct snapshot_topic *place_for(struct snapshot *snap)
{
	struct snapshot_topic *least = snap->busiest;

	if (snap->busiest_n < SNAPSHOT_TOPICS)
		return &snap->busiest[snap->busiest_n++];
	for (unsigned i = 1; i < SNAPSHOT_TOPICS; i++)
		if (snap->busiest[i].per_second < least->per_second)
			least = &snap->busiest[i];
	return least;
}

/* Puts a topic among the busiest, if it is one of them. */
static void rank(struct snapshot *snap, const struct topic *t, uint64_t per_second)
{
	struct snapshot_topic *place = ranked(snap, t->named.name);

	if (place != NULL) {
		place->per_second += per_second;
		return;
	}
	place = place_for(snap);
	if (place->name_len > 0 && place->per_second >= per_second)
		return;
	place->per_second = per_second;
	place->shards = t->shards_n;
	place->name_len = (uint8_t)t->named.name.len;
	memcpy(place->name, t->named.name.data, t->named.name.len);
}

static void take_latency(const struct histogram *h, struct snapshot_latency *l)
{
	unsigned bucket = 0;
	uint64_t count = 0;

	if (h->count == 0)
		return;
	l->count = h->count;
	l->sum = h->sum;
	l->max = h->max;
	l->p50 = histogram_quantile(h, 0.5);
	l->p99 = histogram_quantile(h, 0.99);
	for (unsigned i = 0; i < LATENCY_POWERS; i++)
		l->upto[i] = histogram_upto(h, LATENCY_FIRST_POWER + i, &bucket, &count);
}

static void take(struct shard *s, struct snapshot *snap)
{
	snap->at_ns = s->reactor.now_ns;
	snap->counters = s->counters;
	snap->reactor = s->reactor.stats;
	snap->ring = *ring_counts(s->reactor.ring);
	snap->send_gap = s->sockets.send_gap;
	snap->tls = s->sockets.tls.counts;
	snap->accepts_refused_by_rate = s->accepting.refused_by_rate;
	snap->hash = s->logins.hash;
	if (session_shared(s)->upstream != NULL)
		snap->upstream_publish = session_shared(s)->upstream->publish_time;
	for (unsigned i = 0; i < DOORS; i++)
		take_latency(&s->latencies->doors[i], &snap->doors[i]);
	for (unsigned i = 0; i < LATENCY_SECTIONS; i++)
		take_latency(&s->latencies->sections[i], &snap->sections[i]);
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
				void (*done)(struct shard *, struct snapshots *))
{
	struct snapshots *all = memory_new_zeroed(sizeof(*all) + asking->broker->shards_n *
									 sizeof(all->by_shard[0]));

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

static void pass_on(struct shard *s, struct snapshots *all)
{
	all->collected++;
	shard_post(s, all->collected < s->broker->shards_n ? all->collected : all->asking,
		   LANE_FREE, &all->letter);
}

static void begin_ranking(struct shard *s, struct snapshots *all)
{
	uint64_t since_ns = s->figures.ranked_ns;

	assert(s->figures.ranking == NULL);
	if (since_ns == 0)
		since_ns = s->reactor.stats.started_ns;
	all->elapsed_ns = s->reactor.now_ns > since_ns ? s->reactor.now_ns - since_ns : 1;
	all->rank_at = 0;
	all->rank_slots_n = table_places(&s->home.topics);
	s->figures.ranked_ns = s->reactor.now_ns;
	s->figures.ranking = all;
	s->figures.working = true;
}

void snapshots_collect(struct shard *s, struct letter *letter)
{
	struct snapshots *all = (struct snapshots *)(void *)letter;

	if (all->collected == s->broker->shards_n) {
		all->done(s, all);
		return;
	}
	take(s, &all->by_shard[s->id]);
	if (all->published && s->home.topics.entries_n <= RANKED_TOPICS_MAX)
		begin_ranking(s, all);
	else
		pass_on(s, all);
}

static void rank_topic(const struct shard *s, struct snapshots *all, struct topic *t)
{
	double messages = (double)(t->seq - t->ranked_seq);

	if (t->seq != t->ranked_seq && !topic_internal(t->named.name))
		rank(&all->by_shard[s->id], t,
		     (uint64_t)(messages * (double)NS_PER_S / (double)all->elapsed_ns + 0.5));
	t->ranked_seq = t->seq;
}

bool snapshots_rank(struct shard *s)
{
	const struct table *topics = &s->home.topics;
	struct snapshots *all = s->figures.ranking;

	if (all == NULL)
		return false;
	/* In a table that has grown meanwhile they stand elsewhere; who is seen twice has little to
	 * add. */
	if (all->rank_slots_n != table_places(topics))
		all->rank_at = 0;
	all->rank_slots_n = table_places(topics);
	while (all->rank_at < table_places(topics)) {
		struct named *n = table_step(topics, &all->rank_at);

		if (n != NULL) {
			rank_topic(s, all, (struct topic *)(void *)n);
			reactor_spend(&s->reactor, 1);
		}
		if (all->rank_at % RANKED_AT_ONCE != 0)
			continue;
		reactor_spend(&s->reactor, 1);
		if (reactor_spent(&s->reactor))
			return true;
	}
	s->figures.ranking = NULL;
	pass_on(s, all);
	return false;
}
