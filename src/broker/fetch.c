#include "broker/fetch.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/memory.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "topic/block.h"
#include "topic/interest.h"
#include "topic/topic.h"

enum {
	ANSWER_COST = 12,         /* of one to whoever has waited, about 3 us */
	WAITING_MAX = 256 * 1024, /* letters waiting at one home: then new ones get a 503 */
};

struct fetch_letter *fetch_letter_new(enum fetch_kind kind, struct span name, uint64_t hash)
{
	struct fetch_letter *l = memory_new_zeroed(sizeof(*l) + name.len);

	if (l == NULL)
		return NULL;
	l->letter.kind = LETTER_FETCH;
	l->kind = kind;
	l->hash = hash;
	list_init(&l->link);
	deadline_init(&l->deadline);
	memcpy(l->bytes_of_name, name.data, name.len);
	l->name = (struct span){ l->bytes_of_name, name.len };
	return l;
}

void fetch_letter_free(struct fetch_letter *l)
{
	if (l->block != NULL)
		block_unref(l->block);
	memory_free(l);
}

/* ---- at the home ---- */

static void answer(struct shard *s, struct fetch_letter *l, int error)
{
	l->letter.kind = LETTER_FETCHED;
	l->error = error;
	shard_post(s, l->shard, LANE_FREE, &l->letter);
}

/* The n-th message of a block. */
static struct span message_at(struct block *b, uint64_t n)
{
	struct run run = block_part(b, (uint32_t)n, 1);

	return run_only(&run);
}

/* Puts the message with this number, if the history has it, into the answer. */
static bool hold_message(struct shard *s, struct topic *t, uint64_t seq, struct fetch_letter *l)
{
	uint32_t i;

	history_trim(&t->history, &s->home.history, &t->limits, s->reactor.now_ns);
	if (seq == 0 || seq > t->seq || t->history.blocks_n == 0 ||
	    seq < history_oldest(&t->history, &t->limits))
		return false;
	i = history_find(&t->history, seq);
	if (i == t->history.blocks_n)
		return false;
	l->block = history_at(&t->history, i);
	block_ref(l->block, 1);
	l->body = message_at(l->block, seq - l->block->seq);
	l->epoch = t->epoch;
	l->seq = seq;
	l->max_age_s = t->settings->history_seconds;
	return true;
}

static void answer_about(struct shard *s, struct topic *t, struct fetch_letter *l)
{
	history_trim(&t->history, &s->home.history, &t->limits, s->reactor.now_ns);
	l->epoch = t->epoch;
	l->seq = t->seq;
	l->oldest = history_oldest(&t->history, &t->limits);
	l->messages = l->oldest > 0 ? t->seq + 1 - l->oldest : 0;
	l->bytes = t->history.bytes;
	l->publishers = t->publishers;
	/* Subscribers are known where they are: the letter goes by every shard. */
	l->letter.kind = LETTER_COUNT;
	shard_post(s, 0, LANE_FREE, &l->letter);
}

static bool version_reached(const struct topic *t, const uint64_t wanted[2])
{
	return t->versioned && (t->version[0] > wanted[0] ||
				(t->version[0] == wanted[0] && t->version[1] >= wanted[1]));
}

static void let_wait(struct shard *s, struct topic *t, struct fetch_letter *l)
{
	if (s->fetching.waiting_n >= WAITING_MAX || s->config->http.wait_seconds == 0) {
		answer(s, l, s->fetching.waiting_n >= WAITING_MAX ? -ENOSPC : -ETIMEDOUT);
		return;
	}
	s->fetching.waiting_n++;
	l->waited = true;
	list_append(&t->waiting, &l->link);
	reactor_deadline(&s->reactor, &s->fetching.wait, &l->deadline);
	home_weigh(s, t);
}

void home_fetch(struct shard *s, struct fetch_letter *l)
{
	bool may_wait = l->kind == FETCH_VERSION || (l->kind == FETCH_MESSAGE && l->wanted[0] > 0 &&
						     l->wanted[0] <= s->config->http.ahead);
	int error = -ENOENT;
	struct topic *t = may_wait ? home_topic_or_new(s, l->hash, l->name, &error)
				   : home_topic(s, l->hash, l->name);

	if (t == NULL)
		answer(s, l, error);
	else if (l->kind == FETCH_ABOUT)
		answer_about(s, t, l);
	else if (l->kind == FETCH_LAST)
		answer(s, l, hold_message(s, t, t->seq, l) ? 0 : -ENOENT);
	else if (l->kind == FETCH_VERSION && version_reached(t, l->wanted))
		answer(s, l, hold_message(s, t, t->seq, l) ? 0 : -ENOENT);
	else if (l->kind == FETCH_VERSION ||
		 (l->wanted[0] > t->seq && l->wanted[0] - t->seq <= s->config->http.ahead))
		let_wait(s, t, l);
	else
		answer(s, l, hold_message(s, t, l->wanted[0], l) ? 0 : -ENOENT);
}

void home_wake(struct shard *s, struct topic *t)
{
	struct fetch_letter *before = NULL;
	struct list *l = t->waiting.next, *next;

	/* One after the other: an answer to this very shard only joins a list. */
	for (; l != &t->waiting; l = next) {
		struct fetch_letter *f = LIST_ENTRY(l, struct fetch_letter, link);
		uint64_t seq = f->kind == FETCH_VERSION ? t->seq : f->wanted[0];

		next = l->next;
		if (f->kind == FETCH_VERSION ? !version_reached(t, f->wanted) : seq > t->seq)
			continue;
		list_remove(&f->link);
		deadline_stop(&f->deadline);
		s->fetching.waiting_n--;
		/* Ten thousand may wait for the same. */
		if (before != NULL && before->seq == seq) {
			f->block = before->block;
			block_ref(f->block, 1);
			f->body = before->body;
			f->epoch = before->epoch;
			f->seq = seq;
			f->max_age_s = before->max_age_s;
		} else if (!hold_message(s, t, seq, f)) {
			answer(s, f, -ENOENT);
			continue;
		}
		/* It stays readable until the next one has been filled in: the one before is
		 * posted only then. */
		if (before != NULL)
			answer(s, before, 0);
		before = f;
	}
	if (before != NULL)
		answer(s, before, 0);
	home_weigh(s, t);
}

static void wait_over(void *context, struct deadline *d)
{
	struct shard *s = context;
	struct fetch_letter *l = LIST_ENTRY(d, struct fetch_letter, deadline);
	struct topic *t = home_topic(s, l->hash, l->name);

	list_remove(&l->link);
	s->fetching.waiting_n--;
	if (t != NULL)
		home_weigh(s, t);
	answer(s, l, -ETIMEDOUT);
}

void home_forget_waiting(struct topic *t)
{
	struct list *l;

	while ((l = list_take(&t->waiting)) != NULL) {
		struct fetch_letter *f = LIST_ENTRY(l, struct fetch_letter, link);

		deadline_stop(&f->deadline);
		fetch_letter_free(f);
	}
}

void fetch_init(struct shard *s)
{
	list_init(&s->fetching.answers);
	deadline_class_init(&s->fetching.wait, s->config->http.wait_seconds * NS_PER_S);
	reactor_watch(&s->reactor, &s->fetching.wait, wait_over, s);
}

void fetch_count(struct shard *s, struct fetch_letter *l)
{
	struct interest *i =
		(struct interest *)(void *)table_find(&s->audience.interests, l->hash, l->name);

	if (i != NULL)
		l->subscribers += i->subscribers;
	if (s->id + 1 < s->broker->shards_n)
		shard_post(s, s->id + 1, LANE_FREE, &l->letter);
	else
		answer(s, l, 0);
}

/* ---- at the shard that has asked ---- */

void fetch_answered(struct shard *s, struct fetch_letter *l)
{
	if (l->waited)
		list_append(&s->fetching.answers, &l->link);
	else
		route_fetched(s, l);
}

bool fetch_flush(struct shard *s)
{
	struct list *l;

	if (list_empty(&s->fetching.answers))
		return false;
	reactor_part(&s->reactor, PART_TOPICS);
	do {
		l = list_take(&s->fetching.answers);
		route_fetched(s, LIST_ENTRY(l, struct fetch_letter, link));
		reactor_spend(&s->reactor, ANSWER_COST);
	} while (!list_empty(&s->fetching.answers) && !reactor_spent(&s->reactor));
	return !list_empty(&s->fetching.answers);
}
