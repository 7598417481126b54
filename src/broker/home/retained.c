#include "broker/retained.h"

#include <string.h>

#include "base/memory.h"
#include "broker/shard.h"
#include "protocol/mqtt.h"
#include "topic/block.h"
#include "topic/topic.h"

enum {
	LOOKED_AT_ONCE = 512, /* topics, for one letter */
	LOOK_COST = 1,
};

struct retained_letter *retained_letter_new(enum pattern_kind kind, struct span text)
{
	struct retained_letter *l = memory_new_zeroed(sizeof(*l) + PATTERN_KEY_MAX);
	struct pattern_key key;

	if (l == NULL)
		return NULL;
	l->letter.kind = LETTER_RETAIN_FETCH;
	pattern_key_make(&key, kind, (struct span){ NULL, 0 }, text);
	pattern_init(&l->pattern, &key, l->bytes);
	return l;
}

static void let_go(struct retained_letter *l)
{
	for (uint32_t i = 0; i < l->n; i++)
		block_unref(l->blocks[i]);
	l->n = 0;
}

void retained_letter_free(struct retained_letter *l)
{
	let_go(l);
	memory_free(l);
}

static struct topic *topic_of(struct tree_entry *e)
{
	return LIST_ENTRY(e, struct topic, retained_entry);
}

static void forget(struct shard *s, struct topic *t)
{
	struct block *b = t->retained;

	if (b == NULL)
		return;
	t->retained = NULL;
	tree_remove(&s->home.retained, &t->retained_entry);
	s->home.history.bytes -= block_bytes(b);
	block_unref(b);
}

void retained_release(struct shard *s, struct topic *t)
{
	forget(s, t);
}

void retained_keep(struct shard *s, struct topic *t, struct block *b)
{
	struct run run = block_run(b);

	forget(s, t);
	/* [MQTT-3.3.1-6], [MQTT-3.3.1-7] */
	if (run_only(&run).len == 0)
		return;
	t->retained = b;
	block_ref(b, 1);
	s->home.history.bytes += block_bytes(b);
	t->retained_entry = (struct tree_entry){ .key = { ++s->home.retained_n } };
	tree_add(&s->home.retained, &t->retained_entry);
}

static bool is_over(struct shard *s, struct block *b)
{
	struct run run = block_run(b);
	struct record r;

	(void)run_next_record(&run, &r);
	return mqtt_expired(r.properties, s->reactor.now_ns);
}

struct block *retained_of(struct shard *s, struct topic *t)
{
	if (t->retained == NULL)
		return NULL;
	if (is_over(s, t->retained)) {
		forget(s, t);
		return NULL;
	}
	block_ref(t->retained, 1);
	return t->retained;
}

struct topic *retained_drop_oldest(struct shard *s)
{
	struct tree_entry *e = tree_first(&s->home.retained);

	if (e == NULL)
		return NULL;
	forget(s, topic_of(e));
	return topic_of(e);
}

/* The first with this number or a greater one. */
static struct tree_entry *first_from(const struct tree *tree, uint64_t number)
{
	struct tree_entry *e = tree->root, *found = NULL;

	while (e != NULL) {
		bool fits = e->key[0] >= number;

		found = fits ? e : found;
		e = fits ? e->less : e->more;
	}
	return found;
}

static void answer(struct shard *s, struct retained_letter *l)
{
	l->letter.kind = LETTER_RETAINED;
	shard_post(s, l->shard, LANE_FREE, &l->letter);
}

static void fetch_of_one(struct shard *s, struct retained_letter *l)
{
	struct span name = l->pattern.text;
	struct topic *t =
		(struct topic *)(void *)table_find(&s->home.topics, topic_hash(name), name);

	l->blocks[0] = t != NULL ? retained_of(s, t) : NULL;
	l->n = l->blocks[0] != NULL;
	l->whole = true;
	answer(s, l);
}

void retained_fetch(struct shard *s, struct retained_letter *l)
{
	struct tree_entry *e;
	unsigned looked = 0;

	if (l->pattern.kind == PATTERN_NONE) {
		fetch_of_one(s, l);
		return;
	}
	/* What is published from now on comes to the subscriber as it is. */
	if (l->until == 0)
		l->until = s->home.retained_n;
	for (; (e = first_from(&s->home.retained, l->from)) != NULL && e->key[0] <= l->until;
	     looked++) {
		struct topic *t = topic_of(e);

		if (looked == LOOKED_AT_ONCE || l->n == RETAINED_AT_ONCE)
			break;
		l->from = e->key[0] + 1;
		if (!pattern_matches(&l->pattern, t->named.name) || is_over(s, t->retained))
			continue;
		block_ref(t->retained, 1);
		l->blocks[l->n++] = t->retained;
	}
	l->whole = e == NULL || e->key[0] > l->until;
	reactor_spend(&s->reactor, looked * LOOK_COST);
	answer(s, l);
}
