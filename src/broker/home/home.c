#include "broker/home.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/probe.h"
#include "broker/census.h"
#include "broker/fetch.h"
#include "broker/groups.h"
#include "broker/patterns.h"
#include "broker/retained.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "protocol/http_field.h"
#include "topic/block.h"

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

/* What it was published for has happened. */
static void delivered(struct shard *s, struct block *b, struct receivers receivers)
{
	if (b->receipt != NULL)
		send_receipt(s, b, 0, receivers);
	block_unref(b);
}

/* To every shard that it reaches. Every receiver's hold is there before the first letter leaves.
 * Takes the block over. shared: others deal it to groups (home_deal); receivers: what its
 * publisher is told. */
static void deliver(struct shard *s, const struct reach *reach, struct block *b, bool shared,
		    struct receivers receivers)
{
	uint32_t left = reach->shards_n;

	b->letter.kind = LETTER_DELIVER;
	if (left > 0)
		block_ref(b, left);
	for (unsigned word = 0; left > 0; word++) {
		for (uint64_t bits = reach->shards[word]; bits != 0; bits &= bits - 1, left--) {
			unsigned shard = word * 64 + (unsigned)__builtin_ctzll(bits);

			shard_post(s, shard, LANE_FREE, &b->letter);
		}
	}
	if (reach->groups_n == 0 || shared || groups_deal(s, reach, b))
		delivered(s, b, receivers);
	else
		s->home.undealt.receivers = receivers;
}

static void go_on(struct shard *s, bool to_the_end)
{
	struct undealt *u = &s->home.undealt;
	struct block *b = u->block;

	if (b == NULL || !groups_go_on(s, to_the_end))
		return;
	u->block = NULL;
	delivered(s, b, u->receivers);
}

void home_go_on(struct shard *s)
{
	go_on(s, false);
}

/* It finds those who want it or is gone. */
static void pass(struct shard *s, struct block *b, bool shared)
{
	struct receivers receivers = { 0 };
	const struct reach *reach;

	go_on(s, true);
	b->epoch = b->seq = 0;
	s->counters.published += b->messages;
	s->counters.blocks_in++;
	PROBE(publish, s->id, block_name(b).data, b->name_len, b->messages, b->len, b->seq);
	reach = reach_of_passing(s, block_name(b));
	if (b->receipt != NULL)
		receivers = reach_receivers(s, reach, block_name(b));
	deliver(s, reach, b, shared, receivers);
}

/* NULL with *error 0: it passes. */
static struct topic *publish_to(struct shard *s, const struct block *b, int *error)
{
	struct topic *t = home_topic(s, b->hash, block_name(b));

	*error = 0;
	if (t != NULL && t->known)
		return t;
	if (topic_leaves_nothing(s->config, block_name(b)))
		return NULL;
	return home_topic_or_new(s, b->hash, block_name(b), error);
}

static struct receivers receivers_of(struct shard *s, const struct topic *t)
{
	struct receivers r = reach_receivers(s, &t->reach, t->named.name);

	r.all += t->subscribers;
	/* Of a tapped one there may be some elsewhere. */
	r.responders += t->responders + (t->tapped != NULL);
	return r;
}

void home_deliver(struct shard *s, struct topic *t, struct block *b)
{
	uint64_t kept = s->home.history.bytes;
	struct receivers receivers = { 0 };

	/* Not all that is delivered comes in letters. */
	if (s->home.undealt.block != NULL)
		go_on(s, true);
	t->known = true;
	topic_sequence(t, b, &s->home.history, s->reactor.now_ns);
	if (b->retain)
		retained_keep(s, t, b);
	(void)home_let_history_go(s,
				  s->home.history.bytes > kept ? s->home.history.bytes - kept : 0);
	s->counters.published += b->messages;
	s->counters.blocks_in++;
	PROBE(publish, s->id, block_name(b).data, b->name_len, b->messages, b->len, b->seq);
	if (t->idle_ns != 0 || b->retain)
		home_weigh(s, t);
	if (t->reach.generation != patterns_generation(&s->home.known.table, t->bucket))
		reach_renew(s, t);
	if (b->version_len > 0 || topic_awaited(t))
		sequenced(s, t, b);
	if (b->receipt != NULL)
		receivers = receivers_of(s, t);
	deliver(s, &t->reach, b, t->tapped != NULL, receivers);
}

void home_publish(struct shard *s, struct block *b)
{
	int error;
	struct topic *t = publish_to(s, b, &error);

	if (t == NULL && error == 0) {
		if (s->broker->tap == NULL || !s->broker->tap->passes(s, b))
			pass(s, b, false);
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

void home_pass(struct shard *s, struct block *b)
{
	pass(s, b, true);
}

void home_deal(struct shard *s, struct pattern *pattern, struct block *b)
{
	s->counters.published += b->messages;
	s->counters.blocks_in++;
	groups_deal_one(s, pattern, b);
	block_unref(b);
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
	/* A shard with others there has told who has left since, perhaps this one: it takes nothing
	 * back, and tells what is too much. */
	if (topic_has_shard(t, l->shard))
		l->change = l->change_responders = 0;
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

	if (t == NULL && topic_leaves_nothing(s->config, l->name)) {
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
	/* How many want it is not known, but that it is not for nobody. */
	if (b->receipt != NULL)
		send_receipt(s, b, 0, (struct receivers){ .responders = 1 });
	block_unref(b);
}

void home_prepend(struct shard *s, struct topic *t, struct list *blocks, uint64_t floor)
{
	topic_prepend(t, blocks, floor, &s->home.history, s->reactor.now_ns);
	home_tell_history(s);
	if (t->idle_ns != 0)
		home_weigh(s, t);
}

void home_gap(struct shard *s, struct topic *t, uint64_t epoch, uint64_t number)
{
	topic_begin_anew(t, &s->home.history, epoch, number);
	home_tell_history(s);
	/* Whoever waits for what is behind it now waits in vain. */
	if (topic_awaited(t))
		home_wake(s, t);
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

void home_release(struct shard *s)
{
	struct named *n;

	if (s->home.undealt.block != NULL)
		block_unref(s->home.undealt.block);
	memory_free(s->home.undealt.of);
	for (size_t at = 0; (n = table_next(&s->home.topics, &at)) != NULL;) {
		home_forget_waiting((struct topic *)(void *)n);
		retained_release(s, (struct topic *)(void *)n);
		topic_free((struct topic *)(void *)n, &s->home.history);
	}
	(void)history_let_go(&s->home.history, UINT_MAX);
	table_release(&s->home.topics);
	known_patterns_release(&s->home.known);
}
