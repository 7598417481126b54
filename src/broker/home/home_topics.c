#include "broker/home.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "broker/retained.h"
#include "broker/shard.h"
#include "broker/tap.h"

enum {
	SWEEP_COST = 4, /* of a topic that is forgotten */
	/* A history that is over later than this wakes nobody for it: the next turn finds it. */
	SOON_SECONDS = 60,
	CONFIGURE_COST = 6, /* of a topic's settings; of a place in the table: 1 */
};

static struct topic *find(const struct shard *s, uint64_t hash, struct span name)
{
	return (struct topic *)(void *)table_find(&s->home.topics, hash, name);
}

/* The list of topics without clients that are forgotten after as long as this one, or whose history
 * is as old as its own. */
static struct list *idle_list(const struct shard *s, const struct topic *t)
{
	const struct config *config = s->config;
	size_t setting = t->settings == &config->topics ? config->topic_n
							: (size_t)(t->settings - config->topic);

	return &s->home.idle_topics[2 * setting + (t->history.blocks_n > 0)];
}

static void forget(struct shard *s, struct topic *t)
{
	assert(t->subscribers == 0);
	if (t->tapped != NULL)
		s->broker->tap->forgotten(s, t);
	s->home.unconfigured -= t->settings_n != s->home.settings_n;
	table_remove(&s->home.topics, &t->named);
	retained_release(s, t);
	topic_free(t, &s->home.history);
}

static void weigh(struct shard *s, struct topic *t)
{
	bool idle = t->publishers == 0 && t->shards_n == 0 && t->pins == 0 && !topic_awaited(t) &&
		    t->retained == NULL;

	list_remove(&t->link);
	t->idle_ns = idle ? s->reactor.now_ns : 0;
	if (t->tapped != NULL)
		s->broker->tap->weighed(s, t, idle);
	if (!idle)
		return;
	list_append(idle_list(s, t), &t->link);
	if (!deadline_running(&s->home.sweep_deadline))
		reactor_deadline(&s->reactor, &s->home.sweep, &s->home.sweep_deadline);
}

static void configure(struct shard *s, struct topic *t)
{
	topic_configure(t, config_topic(s->config, t->named.name));
	t->settings_n = s->home.settings_n;
	s->home.unconfigured--;
	history_trim(&t->history, &s->home.history, &t->limits, s->reactor.now_ns);
	weigh(s, t);
}

/* Puts a topic on the list to be forgotten, or takes it off, as it has clients or not. */
void home_weigh(struct shard *s, struct topic *t)
{
	if (t->settings_n == s->home.settings_n)
		weigh(s, t);
	else
		configure(s, t);
}

struct topic *home_topic(struct shard *s, uint64_t hash, struct span name)
{
	struct topic *t = find(s, hash, name);

	if (t != NULL && t->settings_n != s->home.settings_n)
		configure(s, t);
	return t;
}

void home_waited(struct shard *s, struct topic *t)
{
	if (t->known || topic_awaited(t))
		home_weigh(s, t);
	else
		forget(s, t);
}

/* The oldest topic of every second list, from this one on. */
static struct topic *oldest_idle(const struct shard *s, size_t from)
{
	struct topic *oldest = NULL;

	for (size_t i = from; i < home_idle_lists(s->config); i += 2) {
		struct topic *t;

		if (list_empty(&s->home.idle_topics[i]))
			continue;
		t = LIST_ENTRY(s->home.idle_topics[i].next, struct topic, link);
		if (oldest == NULL || t->idle_ns < oldest->idle_ns)
			oldest = t;
	}
	return oldest;
}

/* The oldest of those that have their settings from before: about, where there are several. */
static struct topic *oldest_before(const struct list *before)
{
	return list_empty(before) ? NULL : LIST_ENTRY(before->next, struct topic, link);
}

/* The oldest of the topics that nobody uses makes room, those with history last. */
static bool forget_one(struct shard *s)
{
	for (size_t history = 0; history < 2; history++) {
		struct topic *t = oldest_before(&s->home.idle_before[history]);

		if (t == NULL)
			t = oldest_idle(s, history);
		if (t == NULL)
			continue;
		forget(s, t);
		return true;
	}
	return false;
}

struct topic *home_topic_or_new(struct shard *s, uint64_t hash, struct span name, int *error)
{
	struct topic *t = home_topic(s, hash, name);
	uint64_t max = (s->config->limits.topics + s->broker->shards_n - 1) / s->broker->shards_n;

	*error = 0;
	if (t != NULL)
		return t;
	if (s->home.topics.entries_n >= max && !forget_one(s)) {
		*error = -ENOSPC;
		return NULL;
	}
	t = topic_new(name, hash, s->broker->shards_n, config_topic(s->config, name));
	if (t == NULL || table_add(&s->home.topics, &t->named) != 0) {
		if (t != NULL)
			topic_free(t, &s->home.history);
		*error = -ENOMEM;
		return NULL;
	}
	t->settings_n = s->home.settings_n;
	if (s->broker->tap != NULL && s->broker->tap->appeared(s, t) != 0) {
		forget(s, t);
		*error = -ENOMEM;
		return NULL;
	}
	list_append(&s->home.every, &t->every);
	if (s->home.known.table.keys.entries_n > 0)
		t->reach.generation = REACH_UNKNOWN;
	weigh(s, t);
	return t;
}

/* Nobody has used it for so long that it is forgotten or, with history, that this is over. */
static void sweep_one(struct shard *s, struct topic *t, bool history)
{
	if (!history) {
		forget(s, t);
		return;
	}
	history_trim(&t->history, &s->home.history, &t->limits, s->reactor.now_ns);
	home_weigh(s, t);
}

bool home_sweep(struct shard *s)
{
	bool any = false;

	s->home.swept_ns = s->reactor.now_ns;
	for (size_t i = 0; i < home_idle_lists(s->config); i++) {
		struct list *list = &s->home.idle_topics[i];
		bool history = i % 2 == 1;

		while (!list_empty(list)) {
			struct topic *t = LIST_ENTRY(list->next, struct topic, link);
			uint64_t idle_ns = s->reactor.now_ns - t->idle_ns;

			if (history && idle_ns <= t->limits.age_ns) {
				any |= t->limits.age_ns - idle_ns <= SOON_SECONDS * NS_PER_S;
				break;
			}
			if (!history && idle_ns < t->settings->linger_seconds * NS_PER_S) {
				any = true;
				break;
			}
			sweep_one(s, t, history);
			reactor_spend(&s->reactor, SWEEP_COST);
			if (reactor_spent(&s->reactor))
				return true;
		}
	}
	if (any)
		reactor_deadline(&s->reactor, &s->home.sweep, &s->home.sweep_deadline);
	return false;
}

void home_configure(struct shard *s, struct list *idle_topics)
{
	struct home *h = &s->home;

	for (size_t i = 0; i < home_idle_lists(s->config); i++)
		list_splice(&h->idle_before[i % 2], &h->idle_topics[i]);
	free(h->idle_topics);
	h->idle_topics = idle_topics;
	h->settings_n++;
	h->unconfigured = h->topics.entries_n;
}

bool home_configure_some(struct shard *s)
{
	struct home *h = &s->home;

	while (h->unconfigured > 0 && !reactor_spent(&s->reactor)) {
		struct topic *t = (struct topic *)(void *)table_step(&h->topics, &h->configured_at);

		reactor_spend(&s->reactor, 1);
		if (t == NULL || t->settings_n == h->settings_n)
			continue;
		configure(s, t);
		reactor_spend(&s->reactor, CONFIGURE_COST);
	}
	return h->unconfigured > 0;
}
