#include "broker/census.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/glob.h"
#include "base/memory.h"
#include "broker/shard.h"
#include "topic/topic.h"

enum {
	NAMES_AT_ONCE = 16, /* before there is a look at the time */
	NAME_COST = 1,      /* of one, about a quarter of a microsecond */
	NAMES_BYTES_MIN = 4 << 10,
};

/* Room for the names behind the counts. */
static size_t letter_bytes(enum census_kind kind, struct span glob)
{
	size_t each = sizeof(struct census_count) + NAME_BYTES_MAX;

	return sizeof(struct census_letter) +
	       (kind == CENSUS_COUNTS ? CENSUS_COUNTS_MAX * each : glob.len);
}

struct census_letter *census_letter_new(enum census_kind kind, struct span glob)
{
	struct census_letter *l = memory_new_zeroed(letter_bytes(kind, glob));

	if (l == NULL)
		return NULL;
	l->letter.kind = LETTER_CENSUS;
	l->kind = kind;
	list_init(&l->link);
	if (glob.len > 0)
		memcpy(l->counts, glob.data, glob.len);
	l->glob = (struct span){ (char *)l->counts, glob.len };
	return l;
}

void census_add(struct census_letter *l, struct span name)
{
	char *at = (char *)(l->counts + CENSUS_COUNTS_MAX) + l->counts_n * NAME_BYTES_MAX;

	assert(l->kind == CENSUS_COUNTS && l->counts_n < CENSUS_COUNTS_MAX);
	assert(name.len <= NAME_BYTES_MAX);
	memcpy(at, name.data, name.len);
	l->counts[l->counts_n++] =
		(struct census_count){ .name = { at, name.len }, .hash = topic_hash(name) };
}

void census_letter_free(struct census_letter *l)
{
	memory_free(l->names);
	memory_free(l);
}

void census_ask(struct shard *s, struct census_letter *l)
{
	l->shard = s->id;
	shard_post(s, 0, LANE_FREE, &l->letter);
}

static void pass_on(struct shard *s, struct census_letter *l)
{
	unsigned to = s->id + 1;

	if (l->error != 0 || to == s->broker->shards_n) {
		l->letter.kind = LETTER_CENSUS_TAKEN;
		to = l->shard;
	}
	shard_post(s, to, LANE_FREE, &l->letter);
}

static void count(struct shard *s, struct census_letter *l)
{
	for (unsigned i = 0; i < l->counts_n; i++) {
		struct census_count *c = &l->counts[i];
		/* It is found at its home only. */
		const struct topic *t =
			(const struct topic *)(void *)table_find(&s->home.topics, c->hash, c->name);

		if (t != NULL)
			c->subscribers = t->subscribers;
		else if (c->name.len > 0 && topic_passes(c->name))
			c->subscribers += known_patterns_subscribers(&s->home.known, c->name);
	}
	reactor_spend(&s->reactor, l->counts_n);
}

/* -ENOMEM, -ENOSPC. */
static int add_name(struct census_letter *l, struct span name)
{
	size_t room = l->names_room;
	char *grown;

	if (l->names_len + 1 + name.len > CENSUS_NAMES_BYTES_MAX)
		return -ENOSPC;
	if (l->names_len + 1 + name.len > room) {
		room = room > 0 ? 2 * room : NAMES_BYTES_MIN;
		grown = memory_resize(l->names, room);
		if (grown == NULL)
			return -ENOMEM;
		l->names = grown;
		l->names_room = room;
	}
	l->names[l->names_len++] = (char)name.len;
	memcpy(l->names + l->names_len, name.data, name.len);
	l->names_len += name.len;
	l->topics++;
	return 0;
}

/* Some more names of this home's. True: there are more. */
static bool collect(struct shard *s, struct census_letter *l)
{
	for (unsigned n = 0; n < NAMES_AT_ONCE && l->next != &s->home.heard; n++) {
		struct topic *t = LIST_ENTRY(l->next, struct topic, heard);

		/* As for all wildcards in first place. */
		l->next = l->next->next;
		if (l->glob.len == 0 ? *t->named.name.data != '$'
				     : glob_matches(l->glob, t->named.name))
			l->error = add_name(l, t->named.name);
		if (l->error != 0)
			return false;
	}
	reactor_spend(&s->reactor, NAMES_AT_ONCE * NAME_COST);
	return l->next != &s->home.heard;
}

void census_asked(struct shard *s, struct census_letter *l)
{
	switch (l->kind) {
	case CENSUS_TOTAL:
		l->topics += s->home.heard_n;
		l->patterns += s->home.known.patterns_n;
		pass_on(s, l);
		break;
	case CENSUS_COUNTS:
		count(s, l);
		pass_on(s, l);
		break;
	case CENSUS_NAMES:
	default:
		l->next = s->home.heard.next;
		list_append(&s->home.censuses, &l->link);
		break;
	}
}

bool census_flush(struct shard *s)
{
	struct list *running = &s->home.censuses;

	if (list_empty(running))
		return false;
	reactor_part(&s->reactor, PART_TOPICS);
	do {
		struct census_letter *l = LIST_ENTRY(running->next, struct census_letter, link);

		if (collect(s, l))
			continue;
		list_remove(&l->link);
		pass_on(s, l);
	} while (!list_empty(running) && !reactor_spent(&s->reactor));
	return !list_empty(running);
}

void census_release(struct shard *s)
{
	struct list *l;

	while ((l = list_take(&s->home.censuses)) != NULL)
		census_letter_free(LIST_ENTRY(l, struct census_letter, link));
}
