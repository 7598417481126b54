#include "broker/home.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/probe.h"
#include "broker/census.h"
#include "broker/fetch.h"
#include "broker/groups.h"
#include "broker/patterns.h"
#include "broker/retained.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "broker/tap.h"
#include "protocol/http_field.h"
#include "topic/block.h"

enum {
	SWEEP_COST = 4,     /* of a topic that is forgotten */
	DROPS_AT_ONCE = 64, /* of history, before there is a look at the time */
	/* A history that is over later than this wakes nobody for it: the next turn finds it. */
	SOON_SECONDS = 60,
	CONFIGURE_COST = 6, /* of a topic's settings; of a place in the table: 1 */
};

struct subscribe_letter *subscribe_letter_new(struct span name, uint64_t hash,
					      const struct wire *wire)
{
	struct subscribe_letter *l = calloc(1, sizeof(*l) + name.len + wire->parameter.len);

	if (l == NULL)
		return NULL;
	l->letter.kind = LETTER_SUBSCRIBE;
	l->hash = hash;
	memcpy(l->bytes, name.data, name.len);
	l->name = (struct span){ l->bytes, name.len };
	l->wire = (struct wire){ wire->format, { l->bytes + name.len, wire->parameter.len } };
	if (wire->parameter.len > 0)
		memcpy(l->bytes + name.len, wire->parameter.data, wire->parameter.len);
	return l;
}

void subscribe_letter_free(struct subscribe_letter *l)
{
	stretch_release(&l->past);
	if (l->retained != NULL)
		block_unref(l->retained);
	free(l);
}

struct topic_letter *topic_letter_new(enum letter_kind kind, struct span name, uint64_t hash)
{
	struct topic_letter *l = calloc(1, sizeof(*l) + name.len);

	if (l == NULL)
		return NULL;
	l->letter.kind = kind;
	l->hash = hash;
	if (name.len > 0)
		memcpy(l->bytes, name.data, name.len);
	l->name = (struct span){ l->bytes, name.len };
	return l;
}

struct gap_letter *gap_letter_new(struct span name, uint64_t hash)
{
	struct gap_letter *l = calloc(1, sizeof(*l) + name.len);

	if (l == NULL)
		return NULL;
	l->letter.kind = LETTER_GAP;
	l->hash = hash;
	memcpy(l->bytes, name.data, name.len);
	l->name = (struct span){ l->bytes, name.len };
	return l;
}

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

/* The subscribers that it has, as far as shards have told, are so many more; or fewer. */
static void recount(struct shard *s, struct topic *t, int64_t change, int64_t responders)
{
	uint64_t before = t->subscribers;

	t->subscribers += (uint64_t)change;
	t->responders += (uint64_t)responders;
	assert(t->subscribers <= UINT32_MAX * (uint64_t)s->broker->shards_n);
	if (before == 0 && t->subscribers > 0) {
		list_append(&s->home.heard, &t->heard);
		s->home.heard_n++;
	} else if (before > 0 && t->subscribers == 0) {
		census_skip(&s->home.censuses, &t->heard);
		list_remove(&t->heard);
		s->home.heard_n--;
	}
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

/* What a shard may hold back from the others of how its history has changed. */
static uint64_t history_step(const struct shard *s)
{
	return s->home.history.bytes_max / 16 / s->broker->shards_n;
}

/* Tells the other shards how much history there is here, and from when the oldest is. */
static void tell_history(struct shard *s)
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
	struct topic *t = find(s, b->hash, block_name(b));

	assert(t != NULL && history_first(&t->history) == b);
	history_drop_oldest(&t->history, &s->home.history);
	if (t->history.blocks_n == 0 && t->idle_ns != 0)
		home_weigh(s, t);
	tell_history(s);
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

/* Lets go of as much as was added, if it must, and of some more. True: there may be more still. */
static bool bound_history(struct shard *s, uint64_t added)
{
	uint64_t before = s->home.history.bytes, gone = 0;

	tell_history(s);
	for (unsigned n = 0; n < DROPS_AT_ONCE || gone < added; n++) {
		if (list_empty(&s->home.history.blocks)) {
			struct topic *t = retained_must_go(s) ? retained_drop_oldest(s) : NULL;

			if (t == NULL)
				return false;
			weigh(s, t);
			tell_history(s);
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
	bool more = bound_history(s, 0);

	if (!more)
		return false;
	reactor_part(&s->reactor, PART_TOPICS);
	while (more && !reactor_spent(&s->reactor)) {
		more = bound_history(s, 0);
		reactor_spend(&s->reactor, DROPS_AT_ONCE);
	}
	return more;
}

void sequenced_letter_free(struct sequenced_letter *l)
{
	block_unref(l->block);
	free(l);
}

/* Tells the publisher of a message its number, or why it has none. */
static void send_receipt(struct shard *s, struct block *b, int error, struct receivers receivers)
{
	struct sequenced_letter *l = (struct sequenced_letter *)(void *)b->receipt;

	b->receipt = NULL;
	*l = (struct sequenced_letter){ .letter = { LETTER_SEQUENCED },
					.slot = b->slot,
					.generation = b->generation,
					.tag = l->tag,
					.error = error,
					.epoch = b->epoch,
					.seq = block_number(b),
					.receivers = receivers,
					.block = b };
	block_ref(b, 1);
	shard_post(s, b->shard, LANE_FREE, &l->letter);
}

/* What only messages with labels or waiting readers need. */
static void sequenced(struct shard *s, struct topic *t, struct block *b)
{
	uint64_t v[2];

	if (b->version_len > 0 && http_version_parse(block_version(b), v) &&
	    (!t->versioned || v[0] > t->version[0] ||
	     (v[0] == t->version[0] && v[1] > t->version[1]))) {
		t->versioned = true;
		t->version[0] = v[0];
		t->version[1] = v[1];
	}
	if (topic_awaited(t))
		home_wake(s, t);
}

/* Whether messages of a name leave nothing behind, of which there is no topic. */
static bool passes(const struct shard *s, struct span name)
{
	return topic_passes(name) || config_topic(s->config, name)->passing;
}

/* To every shard that it reaches. Every receiver's hold is there before the first letter leaves. */
static void deliver(struct shard *s, const struct reach *reach, struct block *b)
{
	uint32_t left = reach->shards_n;

	if (reach->groups_n > 0)
		groups_deal(s, reach, b);
	b->letter.kind = LETTER_DELIVER;
	if (left > 0)
		block_ref(b, left);
	for (unsigned word = 0; left > 0; word++) {
		for (uint64_t bits = reach->shards[word]; bits != 0; bits &= bits - 1, left--) {
			unsigned shard = word * 64 + (unsigned)__builtin_ctzll(bits);

			shard_post(s, shard, LANE_FREE, &b->letter);
		}
	}
}

/* It finds those who want it or is gone. */
static void pass(struct shard *s, struct block *b)
{
	const struct reach *reach;

	b->epoch = b->seq = 0;
	s->counters.published += b->messages;
	s->counters.blocks_in++;
	PROBE(publish, s->id, block_name(b).data, b->name_len, b->messages, b->len, b->seq);
	reach = reach_of_passing(s, block_name(b));
	deliver(s, reach, b);
	if (b->receipt != NULL)
		send_receipt(s, b, 0, reach_receivers(s, reach, block_name(b)));
	block_unref(b);
}

/* NULL with *error 0: it passes. */
static struct topic *publish_to(struct shard *s, const struct block *b, int *error)
{
	struct topic *t = home_topic(s, b->hash, block_name(b));

	*error = 0;
	if (t != NULL && t->known)
		return t;
	if (passes(s, block_name(b)))
		return NULL;
	return home_topic_or_new(s, b->hash, block_name(b), error);
}

static struct receivers receivers_of(struct shard *s, const struct topic *t)
{
	struct receivers r = reach_receivers(s, &t->reach, t->named.name);

	r.all += t->subscribers;
	r.responders += t->responders;
	return r;
}

void home_deliver(struct shard *s, struct topic *t, struct block *b)
{
	uint64_t kept = s->home.history.bytes;

	t->known = true;
	topic_sequence(t, b, &s->home.history, s->reactor.now_ns);
	if (b->retain)
		retained_keep(s, t, b);
	(void)bound_history(s, s->home.history.bytes > kept ? s->home.history.bytes - kept : 0);
	s->counters.published += b->messages;
	s->counters.blocks_in++;
	PROBE(publish, s->id, block_name(b).data, b->name_len, b->messages, b->len, b->seq);
	if (t->idle_ns != 0 || b->retain)
		home_weigh(s, t);
	if (t->reach.generation != patterns_generation(&s->home.known.table, t->bucket))
		reach_renew(s, t);
	deliver(s, &t->reach, b);
	if (b->receipt != NULL)
		send_receipt(s, b, 0, receivers_of(s, t));
	if (b->version_len > 0 || topic_awaited(t))
		sequenced(s, t, b);
	block_unref(b);
}

void home_publish(struct shard *s, struct block *b)
{
	int error;
	struct topic *t = publish_to(s, b, &error);

	if (t == NULL && error == 0) {
		pass(s, b);
	} else if (t == NULL) {
		/* No room for the topic: nobody can be subscribed to it. */
		if (b->receipt != NULL)
			send_receipt(s, b, error, (struct receivers){ 0 });
		block_unref(b);
	} else if (t->tapped != NULL) {
		s->broker->tap->publish(s, t, b);
	} else {
		home_deliver(s, t, b);
	}
}

void home_refuse(struct shard *s, struct block *b, int error)
{
	struct topic_letter *l;

	if (b->receipt != NULL) {
		send_receipt(s, b, error, (struct receivers){ 0 });
	} else if (b->generation != 0 &&
		   (l = topic_letter_new(LETTER_REFUSED, block_name(b), b->hash)) != NULL) {
		l->slot = b->slot;
		l->generation = b->generation;
		l->error = error;
		shard_post(s, b->shard, LANE_FREE, &l->letter);
	}
	block_unref(b);
}

/* A hold on all of it, however long it is: the asking shard takes what it has not got already. */
static void hold_replay(struct shard *s, struct topic *t, struct subscribe_letter *l)
{
	struct replay_answer a;

	history_trim(&t->history, &s->home.history, &t->limits, s->reactor.now_ns);
	a = topic_replay(t, &l->replay);
	l->gap = a.gap;
	l->from = a.from;
	l->after = a.after;
	if (l->replay.kind == REPLAY_RETAINED)
		l->retained = retained_of(s, t);
	if (a.messages > 0)
		l->past = history_hold(&t->history, a.from);
}

void home_stands(struct shard *s, struct topic *t, struct subscribe_letter *l)
{
	t->known = true;
	l->epoch = t->epoch;
	l->seq = t->seq;
	l->number = t->number;
	hold_replay(s, t, l);
	topic_add_shard(t, l->shard);
	home_weigh(s, t);
	l->letter.kind = LETTER_SUBSCRIBED;
	shard_post(s, l->shard, LANE_FREE, &l->letter);
}

/* Its answer: why it is not to be. */
static void refuse_subscriber(struct shard *s, struct subscribe_letter *l, int error)
{
	l->error = error;
	l->letter.kind = LETTER_SUBSCRIBED;
	shard_post(s, l->shard, LANE_FREE, &l->letter);
}

void home_refuse_subscriber(struct shard *s, struct topic *t, struct subscribe_letter *l, int error)
{
	recount(s, t, -l->change, -l->change_responders);
	refuse_subscriber(s, l, error);
}

void home_subscribe(struct shard *s, struct subscribe_letter *l)
{
	struct topic *t = home_topic_or_new(s, l->hash, l->name, &l->error);

	if (t == NULL) {
		refuse_subscriber(s, l, l->error);
		return;
	}
	/* In the order in which its shard has counted. */
	recount(s, t, l->change, l->change_responders);
	if (t->tapped != NULL && s->broker->tap->keeps(s, t, l))
		return;
	home_stands(s, t, l);
	if (topic_internal(t->named.name) && s->broker->figures != NULL &&
	    !deadline_running(&s->figures.second_deadline))
		reactor_deadline(&s->reactor, &s->figures.second, &s->figures.second_deadline);
}

void home_unsubscribe(struct shard *s, struct topic_letter *l)
{
	struct topic *t = home_topic(s, l->hash, l->name);

	if (t != NULL) {
		topic_remove_shard(t, l->shard);
		recount(s, t, l->change, l->change_responders);
		home_weigh(s, t);
	}
	free(l);
}

void home_recount(struct shard *s, struct topic_letter *l)
{
	struct topic *t = home_topic(s, l->hash, l->name);

	assert(t != NULL);
	recount(s, t, l->change, l->change_responders);
	free(l);
}

void home_join(struct shard *s, struct topic_letter *l)
{
	struct topic *t = home_topic(s, l->hash, l->name);

	if (t == NULL && passes(s, l->name)) {
		free(l);
		return;
	}
	if (t == NULL)
		t = home_topic_or_new(s, l->hash, l->name, &l->error);
	if (t == NULL) {
		l->letter.kind = LETTER_REFUSED;
		shard_post(s, l->shard, LANE_FREE, &l->letter);
		return;
	}
	/* Whoever was not counted must not be taken off when it leaves: by then the topic may be
	 * there, and others publish to it. */
	l->leave->joined = true;
	t->known = true;
	t->publishers++;
	home_weigh(s, t);
	free(l);
}

/* The last publisher has left a topic that says goodbye then. */
static void say_bye(struct shard *s, struct topic *t)
{
	for (unsigned shard = 0; shard < s->broker->shards_n; shard++) {
		struct topic_letter *l;

		if (!topic_has_shard(t, shard))
			continue;
		l = topic_letter_new(LETTER_BYE, t->named.name, t->named.hash);
		/* Without memory for it this shard's subscribers just stay. */
		if (l != NULL)
			shard_post(s, shard, LANE_FREE, &l->letter);
	}
}

void home_leave(struct shard *s, struct topic_letter *l)
{
	struct topic *t = l->joined ? home_topic(s, l->hash, l->name) : NULL;

	if (l->joined) {
		assert(t != NULL && t->publishers > 0);
		t->publishers--;
		/* Of a tapped one there may be others elsewhere. */
		if (t->publishers == 0 && t->tapped == NULL &&
		    t->settings->on_last_publisher == LAST_PUBLISHER_BYE)
			say_bye(s, t);
		home_weigh(s, t);
	}
	if (l->receipt)
		home_sync(s, l);
	else
		free(l);
}

void home_receipt(struct shard *s, struct topic_letter *l)
{
	l->letter.kind = LETTER_RECEIPT;
	shard_post(s, l->shard, LANE_FREE, &l->letter);
}

void home_refuse_receipt(struct shard *s, struct topic_letter *l, int error)
{
	l->letter.kind = LETTER_REFUSED;
	l->error = error;
	shard_post(s, l->shard, LANE_FREE, &l->letter);
}

void home_sync(struct shard *s, struct topic_letter *l)
{
	if (s->broker->tap == NULL || !s->broker->tap->keeps_receipt(s, l))
		home_receipt(s, l);
}

void home_acknowledge(struct shard *s, struct block *b, uint64_t epoch, uint64_t number)
{
	b->epoch = epoch;
	b->seq = number;
	if (b->receipt != NULL)
		send_receipt(s, b, 0, (struct receivers){ 0 });
	block_unref(b);
}

void home_gap(struct shard *s, struct topic *t, uint64_t epoch, uint64_t number)
{
	topic_begin_anew(t, &s->home.history, epoch, number);
	tell_history(s);
	for (unsigned shard = 0; shard < s->broker->shards_n; shard++) {
		struct gap_letter *l;

		if (!topic_has_shard(t, shard))
			continue;
		l = gap_letter_new(t->named.name, t->named.hash);
		if (l == NULL)
			continue;
		l->epoch = t->epoch;
		l->seq = t->seq;
		l->number = t->number;
		shard_post(s, shard, LANE_FREE, &l->letter);
	}
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

void home_release(struct shard *s)
{
	struct named *n;

	for (size_t at = 0; (n = table_next(&s->home.topics, &at)) != NULL;) {
		home_forget_waiting((struct topic *)(void *)n);
		retained_release(s, (struct topic *)(void *)n);
		topic_free((struct topic *)(void *)n, &s->home.history);
	}
	table_release(&s->home.topics);
	known_patterns_release(&s->home.known);
}
