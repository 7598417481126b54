#include "broker/patterns.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "topic/block.h"
#include "topic/history.h"

enum {
	WALK_COST = 2,   /* of a topic that is looked at; */
	NEWEST_COST = 4, /* and of one whose newest message is taken */
	NEWEST_SLOTS_MIN = 16,
	GROUPS_SLOTS_MIN = 4,
};

/* ---- what a home knows ---- */

int known_patterns_init(struct known_patterns *k, unsigned shards)
{
	list_init(&k->walks);
	list_init(&k->mark);
	k->passing.shards = calloc(shard_words(shards), sizeof(uint64_t));
	return k->passing.shards != NULL ? 0 : -ENOMEM;
}

void known_patterns_release(struct known_patterns *k)
{
	struct pattern *p;
	struct list *l;

	while (k->walks.next != NULL && (l = list_take(&k->walks)) != NULL)
		pattern_letter_discard(LIST_ENTRY(l, struct pattern_letter, link));
	for (size_t at = 0; (p = (struct pattern *)(void *)table_next(&k->table.keys, &at)) != NULL;
	     at = 0) {
		patterns_remove(&k->table, p);
		memory_free(p);
	}
	patterns_release(&k->table);
	memory_free(k->passing.groups);
	free(k->passing.shards);
}

static struct known_pattern *find(struct shard *s, uint64_t hash, struct span key)
{
	return (struct known_pattern *)(void *)table_find(&s->home.known.table.keys, hash, key);
}

static struct known_pattern *known_new(struct shard *s, const struct pattern_key *key)
{
	unsigned shards = s->broker->shards_n;
	size_t words = shard_words(shards);
	struct known_pattern *k =
		memory_new_zeroed(sizeof(*k) + words * sizeof(k->shards[0]) +
				  2 * shards * sizeof(k->subscribers[0]) + key->len);

	if (k == NULL)
		return NULL;
	k->subscribers = (uint32_t *)(void *)(k->shards + words);
	k->responders = k->subscribers + shards;
	pattern_init(&k->pattern, key, (char *)(k->responders + shards));
	return k;
}

static bool in_group(const struct known_pattern *k)
{
	return k->pattern.group.len > 0;
}

uint64_t known_patterns_subscribers(const struct known_patterns *known, struct span name)
{
	const struct span none = { NULL, 0 };
	const struct known_pattern *k;
	struct pattern_key key;

	pattern_key_make(&key, PATTERN_NATIVE, none, name);
	k = (const struct known_pattern *)(const void *)patterns_find(&known->table, &key);
	return k != NULL ? k->subscribers_n : 0;
}

/* How many it is among the broker's patterns here: names and groups are none, and one that all
 * homes know is counted by the first. */
static uint32_t counts(const struct shard *s, const struct known_pattern *k)
{
	const struct pattern *p = &k->pattern;
	uint64_t hash;

	if (in_group(k) || (p->kind != PATTERN_GLOB && !pattern_wild(p->text)))
		return 0;
	return s->id == 0 || (p->kind != PATTERN_GLOB && topic_hash_of_pattern(p->text, &hash));
}

/* NULL with *error: -ENOMEM; -E2BIG: too many globs. */
static struct known_pattern *find_or_new(struct shard *s, const struct pattern_key *key, int *error)
{
	struct patterns *table = &s->home.known.table;
	struct known_pattern *k = find(s, key->hash, (struct span){ key->bytes, key->len });

	if (k != NULL)
		return k;
	k = known_new(s, key);
	*error = k == NULL ? -ENOMEM : 0;
	if (k != NULL && k->pattern.form == GLOB_OTHER && table->globs_n >= s->config->limits.globs)
		*error = -E2BIG;
	if (*error == 0)
		*error = patterns_add(table, &k->pattern);
	if (*error == 0 && s->broker->tap != NULL &&
	    s->broker->tap->pattern_appeared(s, &k->pattern) != 0) {
		s->broker->tap->pattern_gone(s, &k->pattern);
		patterns_remove(table, &k->pattern);
		*error = -ENOMEM;
	}
	if (*error == 0) {
		s->home.known.patterns_n += counts(s, k);
		return k;
	}
	memory_free(k);
	return NULL;
}

/* A shard has so many subscribers from now on. Where they are the first or the last, it is another
 * pattern for those who keep what it matched; it goes with the very last. */
static void recount(struct shard *s, struct known_pattern *k, unsigned shard, uint32_t subscribers,
		    uint32_t responders)
{
	uint64_t bit = UINT64_C(1) << shard % 64;
	bool before = k->subscribers[shard] > 0, now = subscribers > 0;

	k->subscribers_n += (uint64_t)subscribers - k->subscribers[shard];
	k->responders_n += (uint64_t)responders - k->responders[shard];
	k->subscribers[shard] = subscribers;
	k->responders[shard] = responders;
	if (in_group(k) && s->broker->tap != NULL)
		s->broker->tap->members(s, &k->pattern, k->subscribers_n);
	if (before != now) {
		k->shards[shard / 64] ^= bit;
		patterns_touch(&s->home.known.table, &k->pattern);
	}
	if (k->subscribers_n > 0)
		return;
	s->home.known.patterns_n -= counts(s, k);
	if (s->broker->tap != NULL)
		s->broker->tap->pattern_gone(s, &k->pattern);
	patterns_remove(&s->home.known.table, &k->pattern);
	memory_free(k);
}

static void answer(struct shard *s, struct pattern_letter *l)
{
	l->letter.kind = LETTER_PATTERN_KNOWN;
	shard_post(s, l->asking->shard, LANE_FREE, &l->letter);
}

/* Its walk begins. */
static void place_mark(struct shard *s)
{
	list_append(s->home.every.next, &s->home.known.mark);
}

void home_pattern(struct shard *s, struct pattern_letter *l)
{
	struct known_pattern *k = find_or_new(s, &l->asking->key, &l->error);

	if (k != NULL)
		recount(s, k, l->asking->shard, l->asking->subscribers, l->asking->responders);
	if (k == NULL || s->broker->tap == NULL ||
	    !s->broker->tap->keeps_pattern(s, &k->pattern, l))
		home_pattern_stands(s, l);
}

void home_pattern_stands(struct shard *s, struct pattern_letter *l)
{
	struct known_patterns *known = &s->home.known;

	if (l->error != 0 || !l->asking->newest ||
	    find(s, l->asking->key.hash,
		 (struct span){ l->asking->key.bytes, l->asking->key.len }) == NULL) {
		answer(s, l);
		return;
	}
	if (list_empty(&known->walks))
		place_mark(s);
	list_append(&known->walks, &l->link);
}

void home_pattern_count(struct shard *s, struct pattern_count *l)
{
	/* If there was no memory for it, it is not there. */
	struct known_pattern *k = find(s, l->hash, l->key);

	if (k != NULL)
		recount(s, k, l->shard, l->subscribers, l->responders);
	pattern_count_unref(l);
}

/* ---- whom messages go to ---- */

struct collecting {
	struct reach *reach;
	size_t words;
	bool internal, lost;
};

/* False: out of memory. */
static bool add_group(struct reach *r, struct known_pattern *k)
{
	uint32_t n = r->groups_n;

	if (n == 0 || (n >= GROUPS_SLOTS_MIN && (n & (n - 1)) == 0)) {
		size_t slots = n == 0 ? GROUPS_SLOTS_MIN : 2 * n;
		struct known_pattern **groups =
			memory_resize(r->groups, slots * sizeof(*r->groups));

		if (groups == NULL)
			return false;
		r->groups = groups;
	}
	r->groups[r->groups_n++] = k;
	return true;
}

/* Puts those of one group side by side: each into the list of its group, which a table knows by its
 * last, and then list by list. False: out of memory. */
static bool sort_groups(struct reach *r)
{
	uint32_t n = r->groups_n, slots = 2, at = 0;
	struct known_pattern **groups = r->groups, **sorted;
	uint32_t *before, *last; /* 0: none; else one more than where it is */

	while (slots < 2 * n)
		slots *= 2;
	sorted = memory_new(n * sizeof(struct known_pattern *));
	before = memory_new_zeroed((n + (size_t)slots) * sizeof(uint32_t));
	if (sorted == NULL || before == NULL) {
		memory_free(sorted);
		memory_free(before);
		/* One that comes twice would be dealt to twice. */
		r->groups_n = 0;
		return false;
	}
	last = before + n;
	for (uint32_t i = 0; i < n; i++) {
		struct span group = groups[i]->pattern.group;
		uint64_t slot = hash_bytes(group.data, group.len) & (slots - 1);

		while (last[slot] != 0 && !span_equal(groups[last[slot] - 1]->pattern.group, group))
			slot = (slot + 1) & (slots - 1);
		before[i] = last[slot];
		last[slot] = i + 1;
	}
	for (uint32_t slot = 0; slot < slots; slot++)
		for (uint32_t i = last[slot]; i != 0; i = before[i - 1])
			sorted[at++] = groups[i - 1];
	assert(at == n);
	memory_free(before);
	memory_free(groups);
	r->groups = sorted;
	return true;
}

static void collect(struct pattern *pattern, void *argument)
{
	struct known_pattern *k = (struct known_pattern *)(void *)pattern;
	struct collecting *c = argument;

	/* What is the broker's own is for those who ask for it by its name. */
	if (c->internal && !topic_internal(pattern->text))
		return;
	if (in_group(k)) {
		c->lost |= !add_group(c->reach, k);
		return;
	}
	for (size_t i = 0; i < c->words; i++)
		c->reach->shards[i] |= k->shards[i];
}

/* Adds what patterns match to what is there. False: out of memory. */
static bool add_patterns(struct shard *s, struct reach *r, struct span name)
{
	struct collecting c = { .reach = r,
				.words = shard_words(s->broker->shards_n),
				.internal = topic_internal(name) };

	memory_free(r->groups);
	r->groups = NULL;
	r->groups_n = 0;
	patterns_match(&s->home.known.table, name, collect, &c);
	c.lost |= r->groups_n > 1 && !sort_groups(r);
	r->shards_n = 0;
	for (size_t i = 0; i < c.words; i++)
		r->shards_n += (uint32_t)__builtin_popcountll(r->shards[i]);
	return !c.lost;
}

void reach_renew(struct shard *s, struct topic *t)
{
	uint64_t generation = patterns_generation(&s->home.known.table, t->bucket);

	memcpy(t->reach.shards, t->shards, shard_words(s->broker->shards_n) * sizeof(t->shards[0]));
	t->reach.generation =
		add_patterns(s, &t->reach, t->named.name) ? generation : REACH_UNKNOWN;
}

const struct reach *reach_of_passing(struct shard *s, struct span name)
{
	struct reach *r = &s->home.known.passing;

	memset(r->shards, 0, shard_words(s->broker->shards_n) * sizeof(r->shards[0]));
	(void)add_patterns(s, r, name);
	return r;
}

static void add_subscribers(struct pattern *pattern, void *argument)
{
	const struct known_pattern *k = (const struct known_pattern *)(const void *)pattern;
	struct receivers *r = argument;

	if (in_group(k))
		return;
	r->all += k->subscribers_n;
	r->responders += k->responders_n;
}

struct receivers reach_receivers(struct shard *s, const struct reach *reach, struct span name)
{
	struct receivers r = { 0 };
	bool responds = false;

	if (patterns_empty(&s->home.known.table))
		return r;
	/* For receipts only; it is not kept. */
	if (!topic_internal(name))
		patterns_match(&s->home.known.table, name, add_subscribers, &r);
	for (uint32_t i = 0; i < reach->groups_n; i++) {
		const struct known_pattern *k = reach->groups[i];
		bool first = i == 0 ||
			     !span_equal(k->pattern.group, reach->groups[i - 1]->pattern.group);

		r.all += first;
		responds = (responds && !first) || k->responders_n > 0;
		r.responders += responds && (i + 1 == reach->groups_n ||
					     !span_equal(k->pattern.group,
							 reach->groups[i + 1]->pattern.group));
	}
	return r;
}

const struct reach *reach_of(struct shard *s, uint64_t hash, struct span name)
{
	struct topic *t = (struct topic *)(void *)table_find(&s->home.topics, hash, name);

	if (t == NULL)
		return reach_of_passing(s, name);
	if (t->reach.generation != patterns_generation(&s->home.known.table, t->bucket))
		reach_renew(s, t);
	return &t->reach;
}

/* ---- newest messages ---- */

/* False: out of memory. */
static bool add_newest(struct pattern_letter *l, struct block *b, uint64_t seq)
{
	uint32_t n = l->newest_n;

	if (n == 0 || (n >= NEWEST_SLOTS_MIN && (n & (n - 1)) == 0)) {
		size_t slots = n == 0 ? NEWEST_SLOTS_MIN : 2 * n;
		struct newest *newest = memory_resize(l->newest, slots * sizeof(*newest));

		if (newest == NULL)
			return false;
		l->newest = newest;
	}
	block_ref(b, 1);
	l->newest[l->newest_n++] = (struct newest){ b, seq };
	return true;
}

static void look(struct shard *s, struct pattern_letter *l, struct topic *t)
{
	static const struct replay last = { .kind = REPLAY_LAST, .n = 1 };
	const struct pattern *pattern =
		&find(s, l->asking->key.hash,
		      (struct span){ l->asking->key.bytes, l->asking->key.len })
			 ->pattern;
	struct replay_answer a;
	struct block *b;

	reactor_spend(&s->reactor, WALK_COST);
	if ((topic_internal(t->named.name) && !topic_internal(pattern->text)) ||
	    !pattern_matches(pattern, t->named.name))
		return;
	reactor_spend(&s->reactor, NEWEST_COST);
	a = topic_replay(t, &last);
	b = a.messages > 0 ? history_find(&t->history, a.from) : NULL;
	if (b == NULL || s->reactor.now_ns - b->stamped_ns > t->limits.age_ns)
		return;
	if (!add_newest(l, b, a.from))
		l->error = -ENOMEM;
}

bool home_walk_some(struct shard *s)
{
	struct known_patterns *known = &s->home.known;

	while (!list_empty(&known->walks) && !reactor_spent(&s->reactor)) {
		struct pattern_letter *l =
			LIST_ENTRY(known->walks.next, struct pattern_letter, link);
		struct list *at = known->mark.next;

		list_remove(&known->mark);
		if (at != &s->home.every && l->error == 0 && l->newest_n < NEWEST_MAX) {
			list_append(at->next, &known->mark);
			look(s, l, LIST_ENTRY(at, struct topic, every));
			continue;
		}
		list_remove(&l->link);
		answer(s, l);
		if (!list_empty(&known->walks))
			place_mark(s);
	}
	return !list_empty(&known->walks);
}
