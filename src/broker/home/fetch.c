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
	VERSIONS_AHEAD = 2,       /* most that one may ask for (RFC 8216bis, 6.2.5.2) */
	TELL_COST = 2,            /* of one letter, about half a microsecond */
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

void fetch_answer(struct shard *s, struct fetch_letter *l, int error)
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

/* Puts the message that is known by this number, if the history has it, into the answer. */
static bool hold_message(struct shard *s, struct topic *t, uint64_t number, struct fetch_letter *l)
{
	struct block *b;

	history_trim(&t->history, &s->home.history, &t->limits, s->reactor.now_ns);
	if (number == 0 || number > t->number || t->history.blocks_n == 0)
		return false;
	b = history_find_number(&t->history, number);
	if (b == NULL || number < block_number(b) ||
	    number - b->shift < history_oldest(&t->history, &t->limits))
		return false;
	l->block = b;
	block_ref(b, 1);
	l->body = message_at(b, number - block_number(b));
	l->epoch = t->epoch;
	l->seq = number;
	/* As long as it will be here: then another message may have its number. */
	l->max_age_s =
		(l->block->stamped_ns + t->limits.age_ns - s->reactor.now_ns + NS_PER_S - 1) /
		NS_PER_S;
	return true;
}

/* The same with the first message from this number on, if nothing before it can be missing. */
static bool hold_next(struct shard *s, struct topic *t, uint64_t number, struct fetch_letter *l)
{
	struct block *b;

	history_trim(&t->history, &s->home.history, &t->limits, s->reactor.now_ns);
	if (t->history.blocks_n == 0 || number <= topic_floor(t))
		return false;
	b = history_find_number(&t->history, number);
	if (b == NULL)
		return false;
	return hold_message(s, t, number > block_number(b) ? number : block_number(b), l);
}

static void answer_about(struct shard *s, struct topic *t, struct fetch_letter *l)
{
	history_trim(&t->history, &s->home.history, &t->limits, s->reactor.now_ns);
	l->epoch = t->epoch;
	l->seq = t->number;
	l->oldest = history_oldest(&t->history, &t->limits);
	l->messages = l->oldest > 0 ? t->seq + 1 - l->oldest : 0;
	if (l->oldest > 0)
		l->oldest += history_first(&t->history)->shift;
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

/* Nobody plays that far ahead: it is no more than the next one soon. */
static bool version_far(const struct topic *t, const uint64_t wanted[2])
{
	return t->versioned && wanted[0] > t->version[0] &&
	       wanted[0] - t->version[0] > VERSIONS_AHEAD;
}

/* ---- those who wait ---- */

/* A message as it is answered with. */
struct found {
	int error;
	struct block *block;
	struct span body;
	uint64_t epoch, seq, max_age_s;
};

/* What some requests wait for. When it has come, one of them that have come together carries all of
 * these, and the message that they are told. */
struct awaited {
	struct tree_entry place; /* first: at the topic, or among those that have come */
	struct list letters;
	struct list due;
	struct tree come;
	struct found found;
};

static struct awaited *awaited_of(struct tree_entry *e)
{
	return (struct awaited *)(void *)e;
}

/* By version, or by number: of one message, then of the first one from there on. */
static void key_of(const struct fetch_letter *l, uint64_t key[2])
{
	key[0] = l->wanted[0];
	key[1] = l->kind == FETCH_VERSION ? l->wanted[1] : l->kind == FETCH_NEXT;
}

static struct tree *tree_of(struct topic *t, const struct fetch_letter *l)
{
	return l->kind == FETCH_VERSION ? &t->awaited_versions : &t->awaited_numbers;
}

static struct awaited *awaited_new(const uint64_t key[2])
{
	struct awaited *a = memory_new_zeroed(sizeof(*a));

	if (a == NULL)
		return NULL;
	a->place.key[0] = key[0];
	a->place.key[1] = key[1];
	list_init(&a->letters);
	list_init(&a->due);
	return a;
}

static void let_wait(struct shard *s, struct topic *t, struct fetch_letter *l)
{
	struct tree *tree = tree_of(t, l);
	struct awaited *a;
	uint64_t key[2];

	key_of(l, key);
	if (s->fetching.waiting_n >= WAITING_MAX || s->config->http.wait_seconds == 0) {
		home_waited(s, t);
		fetch_answer(s, l, s->fetching.waiting_n >= WAITING_MAX ? -ENOSPC : -ETIMEDOUT);
		return;
	}
	a = awaited_of(tree_find(tree, key));
	if (a == NULL) {
		a = awaited_new(key);
		if (a == NULL) {
			home_waited(s, t);
			fetch_answer(s, l, -ENOMEM);
			return;
		}
		tree_add(tree, &a->place);
	}
	s->fetching.waiting_n++;
	l->waited = true;
	l->awaited = a;
	list_append(&a->letters, &l->link);
	reactor_deadline(&s->reactor, &s->fetching.wait, &l->deadline);
	home_weigh(s, t);
}

/* Whether it may come soon. Of a topic whose numbers have holes the next one is any distance away.
 */
static bool is_near(const struct shard *s, const struct fetch_letter *l, uint64_t newest)
{
	return l->wanted[0] > newest &&
	       (l->wanted[0] - newest <= s->config->http.ahead ||
		(l->kind == FETCH_NEXT && config_upstream(s->config, l->name) != NULL));
}

static bool is_numbered(const struct fetch_letter *l)
{
	return l->kind == FETCH_MESSAGE || l->kind == FETCH_NEXT;
}

void home_fetch(struct shard *s, struct fetch_letter *l)
{
	bool may_wait = l->kind == FETCH_VERSION || (is_numbered(l) && is_near(s, l, 0));
	int error = -ENOENT;
	struct topic *t;

	if (l->kind == FETCH_FIGURES) {
		s->broker->figures->asked(s, l);
		return;
	}
	t = may_wait ? home_topic_or_new(s, l->hash, l->name, &error)
		     : home_topic(s, l->hash, l->name);
	if (t == NULL)
		fetch_answer(s, l, error);
	else if (l->kind == FETCH_ABOUT && !t->known)
		fetch_answer(s, l, -ENOENT);
	else if (l->kind == FETCH_ABOUT)
		answer_about(s, t, l);
	else if (l->kind == FETCH_LAST)
		fetch_answer(s, l, hold_message(s, t, t->number, l) ? 0 : -ENOENT);
	else if (l->kind == FETCH_VERSION && version_reached(t, l->wanted))
		fetch_answer(s, l, hold_message(s, t, t->number, l) ? 0 : -ENOENT);
	else if (l->kind == FETCH_VERSION && version_far(t, l->wanted))
		fetch_answer(s, l, -ERANGE);
	else if (l->kind == FETCH_VERSION || is_near(s, l, t->number))
		let_wait(s, t, l);
	else if (l->kind == FETCH_NEXT)
		fetch_answer(s, l, hold_next(s, t, l->wanted[0], l) ? 0 : -ENOENT);
	else
		fetch_answer(s, l, hold_message(s, t, l->wanted[0], l) ? 0 : -ENOENT);
}

/* Those of these that are to be told of this message, or the next one from there on; the first of
 * them carries it. */
static void come(struct shard *s, struct topic *t, struct tree all, uint64_t seq, bool next)
{
	struct fetch_letter found = { .block = NULL };
	struct awaited *carrier = awaited_of(all.root);
	bool held;

	if (carrier == NULL)
		return;
	held = next ? hold_next(s, t, seq, &found) : hold_message(s, t, seq, &found);
	carrier->found.error = held ? 0 : -ENOENT;
	carrier->found.block = found.block;
	carrier->found.body = found.body;
	carrier->found.epoch = found.epoch;
	carrier->found.seq = found.seq;
	carrier->found.max_age_s = found.max_age_s;
	carrier->come = all;
	list_append(&s->fetching.due, &carrier->due);
}

void home_wake(struct shard *s, struct topic *t)
{
	struct tree_entry *e;

	/* Few: numbers are not further ahead than http.ahead, or of a log's. */
	while ((e = tree_first(&t->awaited_numbers)) != NULL && e->key[0] <= t->number)
		come(s, t, tree_split(&t->awaited_numbers, e->key), e->key[0], e->key[1] != 0);
	if (t->versioned)
		come(s, t, tree_split(&t->awaited_versions, t->version), t->number, false);
	home_weigh(s, t);
}

static void tell(struct shard *s, const struct found *found, struct fetch_letter *l)
{
	list_remove(&l->link);
	deadline_stop(&l->deadline);
	s->fetching.waiting_n--;
	if (found->block != NULL) {
		l->block = found->block;
		block_ref(l->block, 1);
	}
	l->body = found->body;
	l->epoch = found->epoch;
	l->seq = found->seq;
	l->max_age_s = found->max_age_s;
	fetch_answer(s, l, found->error);
	reactor_spend(&s->reactor, TELL_COST);
}

static void awaited_free(struct awaited *carrier)
{
	if (carrier->found.block != NULL)
		block_unref(carrier->found.block);
	list_remove(&carrier->due);
	memory_free(carrier);
}

/* Tells one of those that are due, or finds that all have been told of a message. */
static void tell_next(struct shard *s)
{
	struct awaited *carrier = LIST_ENTRY(s->fetching.due.next, struct awaited, due), *a;

	a = awaited_of(tree_first(&carrier->come));
	if (a == NULL) {
		awaited_free(carrier);
		return;
	}
	if (!list_empty(&a->letters)) {
		tell(s, &carrier->found, LIST_ENTRY(a->letters.next, struct fetch_letter, link));
		return;
	}
	tree_remove(&carrier->come, &a->place);
	if (a != carrier)
		memory_free(a);
}

bool fetch_flush(struct shard *s)
{
	if (list_empty(&s->fetching.due))
		return false;
	reactor_part(&s->reactor, PART_TOPICS);
	do {
		tell_next(s);
		reactor_spend(&s->reactor, 1);
	} while (!list_empty(&s->fetching.due) && !reactor_spent(&s->reactor));
	return !list_empty(&s->fetching.due);
}

static void wait_over(void *context, struct deadline *d)
{
	struct shard *s = context;
	struct fetch_letter *l = LIST_ENTRY(d, struct fetch_letter, deadline);
	struct topic *t = home_topic(s, l->hash, l->name);
	struct awaited *a = l->awaited;

	list_remove(&l->link);
	s->fetching.waiting_n--;
	/* What has come meanwhile is freed when all have been told. */
	if (t != NULL && list_empty(&a->letters) &&
	    tree_find(tree_of(t, l), a->place.key) == &a->place) {
		tree_remove(tree_of(t, l), &a->place);
		memory_free(a);
		home_waited(s, t);
	}
	fetch_answer(s, l, -ETIMEDOUT);
}

static void forget_all(struct tree *tree)
{
	struct tree_entry *e;
	struct list *l;

	while ((e = tree->root) != NULL) {
		struct awaited *a = awaited_of(e);

		while ((l = list_take(&a->letters)) != NULL) {
			struct fetch_letter *f = LIST_ENTRY(l, struct fetch_letter, link);

			deadline_stop(&f->deadline);
			fetch_letter_free(f);
		}
		tree_remove(tree, e);
		/* One that carries others is freed with what it carries. */
		if (list_empty(&a->due))
			memory_free(a);
	}
}

void home_forget_waiting(struct topic *t)
{
	forget_all(&t->awaited_numbers);
	forget_all(&t->awaited_versions);
}

void fetch_release(struct shard *s)
{
	while (!list_empty(&s->fetching.due)) {
		struct awaited *carrier = LIST_ENTRY(s->fetching.due.next, struct awaited, due);

		forget_all(&carrier->come);
		awaited_free(carrier);
	}
}

void fetch_init(struct shard *s)
{
	list_init(&s->fetching.due);
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
		fetch_answer(s, l, 0);
}
