#include "broker/wild.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "broker/patterns.h"
#include "broker/shard.h"
#include "topic/block.h"
#include "topic/interest.h"

enum {
	FOUND_SLOTS_MIN = 16,
	MATCHED_KEPT = 1024,   /* names, whether they come again or not; */
	MATCHED_MAX = 1 << 18, /* and never more than this */
	MATCHED_LOOKED_AT = 2, /* for each one that is added */
	FORGOTTEN_AT_ONCE = 64,
	MATCH_STEPS = 8, /* that cost about as much as a letter */
};

/* ---- interests ---- */

struct interest *wild_new(const struct pattern_key *key, unsigned shard)
{
	struct wild *w = memory_new_zeroed(sizeof(*w) + key->len);

	if (w == NULL)
		return NULL;
	pattern_init(&w->pattern, key, w->key);
	list_init(&w->askings);
	list_init(&w->members);
	w->interest = interest_new(w->pattern.text, key->hash, 0, NULL);
	if (w->pattern.group.len == 0)
		w->left = pattern_count_new(&w->pattern, shard);
	if (w->interest == NULL || (w->pattern.group.len == 0 && w->left == NULL)) {
		if (w->interest != NULL)
			interest_free(w->interest);
		free(w->left);
		memory_free(w);
		return NULL;
	}
	w->interest->wild = w;
	return w->interest;
}

void wild_free(struct wild *w)
{
	assert(list_empty(&w->askings) && list_empty(&w->members) && w->holding == 0);
	interest_free(w->interest);
	free(w->left);
	memory_free(w->held);
	memory_free(w);
}

void wild_tell(const struct wild *w, struct pattern_count *l, uint32_t subscribers,
	       uint32_t responders, struct shard *s)
{
	l->subscribers = subscribers;
	l->responders = responders;
	atomic_init(&l->holders, w->homes_n);
	for (unsigned n = 0; n < w->homes_n; n++)
		shard_post(s, w->home + n, LANE_FREE, &l->letter);
}

struct wild *wilds_find(const struct wilds *w, const struct pattern_key *key)
{
	const struct table *table = key->bytes[1] != 0 ? &w->groups : &w->patterns.keys;

	return (struct wild *)(void *)table_find(table, key->hash,
						 (struct span){ key->bytes, key->len });
}

int wilds_add(struct wilds *w, struct wild *wild)
{
	return wild->pattern.group.len > 0 ? table_add(&w->groups, &wild->pattern.named)
					   : patterns_add(&w->patterns, &wild->pattern);
}

void wilds_remove(struct wilds *w, struct wild *wild)
{
	if (w->patterns.walk != NULL && wild->found_at < w->found_n &&
	    w->found[wild->found_at] == wild->interest) {
		w->found[wild->found_at] = NULL;
		w->gone = true;
	}
	if (wild->pattern.group.len > 0)
		table_remove(&w->groups, &wild->pattern.named);
	else
		patterns_remove(&w->patterns, &wild->pattern);
}

/* ---- what matches a name ---- */

static void find(struct pattern *pattern, void *argument)
{
	struct wild *wild = (struct wild *)(void *)pattern;
	struct wilds *w = argument;

	if (w->found_n == w->found_slots) {
		uint32_t slots = w->found_slots > 0 ? 2 * w->found_slots : FOUND_SLOTS_MIN;
		struct interest **found = memory_resize(w->found, slots * sizeof(*found));

		if (found == NULL) {
			w->lost = true;
			return;
		}
		w->found = found;
		w->found_slots = slots;
	}
	wild->found_at = w->found_n;
	w->found[w->found_n++] = wild->interest;
}

static void forget(struct wilds *w, struct matched *m)
{
	table_remove(&w->matched, &m->named);
	memory_free(m);
}

/* Some of those that have not come again go. */
static void make_room(struct wilds *w)
{
	for (unsigned i = 0; i < MATCHED_LOOKED_AT && w->matched.entries_n >= MATCHED_KEPT; i++) {
		struct matched *m = (struct matched *)(void *)table_step(&w->matched, &w->stepped);

		if (m == NULL)
			continue;
		if (!m->used)
			forget(w, m);
		else
			m->used = false;
	}
}

/* Without memory for it, it is matched again the next time. */
static void keep(struct wilds *w, const struct block *b)
{
	uint8_t bucket = pattern_bucket(block_name(b));
	struct span name = block_name(b);
	size_t list_bytes = w->found_n * sizeof(struct interest *);
	struct matched *m;

	make_room(w);
	if (w->lost || w->matched.entries_n >= MATCHED_MAX ||
	    w->generation != patterns_generation(&w->patterns, bucket))
		return;
	m = memory_new(sizeof(*m) + list_bytes + name.len);
	if (m == NULL)
		return;
	*m = (struct matched){ .named = { b->hash, { (char *)&m->of[w->found_n], name.len } },
			       .generation = patterns_generation(&w->patterns, bucket),
			       .bucket = bucket,
			       .used = true,
			       .n = w->found_n };
	if (list_bytes > 0)
		memcpy(m->of, w->found, list_bytes);
	memcpy(&m->of[w->found_n], name.data, name.len);
	if (table_add(&w->matched, &m->named) != 0)
		memory_free(m);
}

/* What is kept of this name, as long as it is right. */
static struct matched *kept(struct wilds *w, const struct block *b)
{
	struct matched *m =
		(struct matched *)(void *)table_find(&w->matched, b->hash, block_name(b));

	if (m == NULL)
		return NULL;
	if (m->generation == patterns_generation(&w->patterns, m->bucket))
		return m;
	forget(w, m);
	return NULL;
}

static void leave_out_gone(struct wilds *w)
{
	uint32_t n = 0;

	for (uint32_t i = 0; w->gone && i < w->found_n; i++)
		if (w->found[i] != NULL)
			w->found[n++] = w->found[i];
	if (w->gone)
		w->found_n = n;
	w->gone = false;
}

struct interest *const *wilds_match_on(struct shard *s, const struct block *b, uint32_t *n)
{
	static struct interest *const none[1];
	struct wilds *w = &s->audience.wilds;

	while (!pattern_walk_on(&w->patterns, &w->walk, MATCH_STEPS, find, w)) {
		reactor_spend(&s->reactor, 1);
		if (reactor_spent(&s->reactor))
			return NULL;
	}
	leave_out_gone(w);
	/* What leaves nothing behind does not come again. */
	if (b->seq != 0)
		keep(w, b);
	*n = w->found_n;
	return w->found_n > 0 ? w->found : none;
}

struct interest *const *wilds_match(struct shard *s, const struct block *b, uint32_t *n)
{
	struct wilds *w = &s->audience.wilds;
	struct matched *m = b->seq != 0 ? kept(w, b) : NULL;

	if (m != NULL) {
		m->used = true;
		*n = m->n;
		return m->of;
	}
	w->found_n = 0;
	w->lost = w->gone = false;
	w->generation = patterns_generation(&w->patterns, pattern_bucket(block_name(b)));
	pattern_walk_begin(&w->walk, block_name(b));
	return wilds_match_on(s, b, n);
}

void wilds_match_forget(struct wilds *w)
{
	pattern_walk_forget(&w->patterns);
}

void wilds_forget_some(struct wilds *w)
{
	struct matched *m;

	for (unsigned i = 0; i < FORGOTTEN_AT_ONCE && w->matched.entries_n > 0; i++) {
		m = (struct matched *)(void *)table_step(&w->matched, &w->stepped);
		if (m != NULL)
			forget(w, m);
	}
	if (w->matched.entries_n > 0)
		return;
	table_release(&w->matched);
	memory_free(w->found);
	w->found = NULL;
	w->found_n = w->found_slots = 0;
	w->gone = false;
}

void wilds_release(struct wilds *w)
{
	while (w->matched.entries_n > 0)
		wilds_forget_some(w);
	memory_free(w->found);
	table_release(&w->matched);
	table_release(&w->groups);
	patterns_release(&w->patterns);
}
