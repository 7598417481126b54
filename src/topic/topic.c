#include "topic/topic.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/name.h"
#include "topic/pattern.h"

enum { WORD_BITS = 64 };

#define INBOX SPAN("_INBOX.")

/* Sections of the configuration, in their order; the last one matches everything. */
static struct section {
	char *pattern; /* NULL: the last */
	bool ordered;
} * sections;

/* ---- names ---- */

static bool begins_with(struct span name, struct span with)
{
	return name.len > with.len && memcmp(name.data, with.data, with.len) == 0;
}

bool topic_passes(struct span name)
{
	if (*name.data == '$')
		return !topic_internal(name);
	return *name.data == '_' && begins_with(name, INBOX);
}

bool topic_leaves_nothing(const struct config *config, struct span name)
{
	return topic_passes(name) || config_topic(config, name)->passing;
}

/* The first two levels of an inbox. */
static struct span inbox_of(struct span name)
{
	const char *dot = memchr(name.data + INBOX.len, '.', name.len - INBOX.len);

	return dot != NULL ? (struct span){ name.data, (size_t)(dot - name.data) } : name;
}

static const struct section *section_of(struct span name)
{
	const struct section *s = sections;

	while (s->pattern != NULL && !name_matches(span_of(s->pattern), name))
		s++;
	return s;
}

/* The same place in tables, where the others of that name are. */
static uint64_t at_home_of(uint64_t hash, struct span home)
{
	return (hash & UINT32_MAX) | (hash_bytes(home.data, home.len) & ~(uint64_t)UINT32_MAX);
}

uint64_t topic_hash(struct span name)
{
	uint64_t hash = hash_bytes(name.data, name.len);
	const struct section *s;

	if (*name.data == '_' && begins_with(name, INBOX))
		return at_home_of(hash, inbox_of(name));
	if (sections == NULL)
		return hash;
	s = section_of(name);
	if (!s->ordered)
		return hash;
	return at_home_of(hash, s->pattern != NULL ? span_of(s->pattern) : SPAN(""));
}

static bool is_wild(struct span text)
{
	return memchr(text.data, '*', text.len) != NULL || memchr(text.data, '>', text.len) != NULL;
}

bool topic_hash_of_pattern(struct span pattern, uint64_t *hash)
{
	if (begins_with(pattern, INBOX) && !is_wild(inbox_of(pattern)) &&
	    inbox_of(pattern).len < pattern.len) {
		*hash = topic_hash(pattern);
		return true;
	}
	if (is_wild(pattern))
		return false;
	*hash = topic_hash(pattern);
	return true;
}

static void free_sections(void)
{
	for (struct section *s = sections; s != NULL && s->pattern != NULL; s++)
		free(s->pattern);
	free(sections);
	sections = NULL;
}

int topic_hash_sections(const struct config *config)
{
	bool any = config != NULL && config->topics.order == ORDER_SECTION;

	free_sections();
	for (size_t i = 0; config != NULL && i < config->topic_n; i++)
		any |= config->topic[i].order == ORDER_SECTION;
	if (!any)
		return 0;
	sections = calloc(config->topic_n + 1, sizeof(*sections));
	if (sections == NULL)
		return -ENOMEM;
	sections[config->topic_n].ordered = config->topics.order == ORDER_SECTION;
	for (size_t i = 0; i < config->topic_n; i++) {
		sections[i].ordered = config->topic[i].order == ORDER_SECTION;
		sections[i].pattern = strdup(config->topic[i].pattern);
		if (sections[i].pattern == NULL) {
			free_sections();
			return -ENOMEM;
		}
	}
	return 0;
}

/* ---- topics ---- */

struct topic *topic_new(struct span name, uint64_t hash, unsigned shards,
			const struct config_topic *settings)
{
	size_t words = shard_words(shards);
	struct topic *t = memory_new_zeroed(sizeof(*t) + name.len + WORD_BITS / 8 +
					    2 * words * sizeof(uint64_t));

	if (t == NULL)
		return NULL;
	memcpy(t->name, name.data, name.len);
	t->named = (struct named){ hash, { t->name, name.len } };
	/* Behind the name, rounded up. */
	t->shards = (uint64_t *)(void *)(((uintptr_t)t->name + name.len + 7) & ~(uintptr_t)7);
	t->reach.shards = t->shards + words;
	t->bucket = pattern_bucket(name);
	t->epoch = hash_unique();
	list_init(&t->link);
	list_init(&t->heard);
	list_init(&t->every);
	topic_configure(t, settings);
	return t;
}

void topic_free(struct topic *t, struct history_total *total)
{
	history_release(&t->history, total);
	list_remove(&t->link);
	list_remove(&t->every);
	memory_free(t->reach.groups);
	memory_free(t);
}

void topic_configure(struct topic *t, const struct config_topic *settings)
{
	t->settings = settings;
	t->limits = (struct history_limits){ .messages = settings->history_messages,
					     .bytes = settings->history_bytes,
					     .age_ns = settings->history_seconds * NS_PER_S };
}

static uint32_t travelled(const struct block *b, uint64_t now_ns)
{
	uint64_t ns = b->stamped_ns != 0 && now_ns > b->stamped_ns ? now_ns - b->stamped_ns : 0;

	return ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

void topic_sequence(struct topic *t, struct block *b, struct history_total *total, uint64_t now_ns)
{
	b->epoch = t->epoch;
	b->seq = t->seq + 1;
	b->shift = t->shift;
	b->travelled_ns = travelled(b, now_ns);
	b->stamped_ns = now_ns;
	if (t->history.blocks_n == 0)
		t->history.floor = t->number;
	t->seq += b->messages;
	t->number = t->seq + t->shift;
	history_add(&t->history, total, b, &t->limits);
}

void topic_prepend(struct topic *t, struct list *blocks, uint64_t floor,
		   struct history_total *total, uint64_t now_ns)
{
	struct history *h = &t->history;
	uint64_t seq = h->blocks_n > 0 ? history_first(h)->seq : t->seq + 1, messages = 0;

	for (struct list *l = blocks->next; l != blocks; l = l->next)
		messages += LIST_ENTRY(l, struct block, age)->messages;
	assert(seq > messages);
	seq -= messages;
	/* As old as what is behind them: ages grow from the newest on. */
	if (h->blocks_n > 0)
		now_ns = history_first(h)->stamped_ns;
	for (struct list *l = blocks->next; l != blocks; l = l->next) {
		struct block *b = LIST_ENTRY(l, struct block, age);

		b->epoch = t->epoch;
		b->shift -= seq;
		b->seq = seq;
		b->stamped_ns = now_ns;
		seq += b->messages;
	}
	history_prepend(h, total, blocks, floor, &t->limits);
}

void topic_begin_anew(struct topic *t, struct history_total *total, uint64_t epoch, uint64_t number)
{
	history_release(&t->history, total);
	t->epoch = epoch != 0 ? epoch : hash_unique();
	t->number = number;
	t->shift = number - t->seq;
}

/* Whether the bit was not there. */
static bool set_bit(uint64_t *bits, unsigned at)
{
	bool before = bits[at / WORD_BITS] >> at % WORD_BITS & 1;

	bits[at / WORD_BITS] |= UINT64_C(1) << at % WORD_BITS;
	return !before;
}

void topic_add_shard(struct topic *t, unsigned shard)
{
	t->shards_n += set_bit(t->shards, shard);
	t->reach.shards_n += set_bit(t->reach.shards, shard);
}

void topic_remove_shard(struct topic *t, unsigned shard)
{
	if (!topic_has_shard(t, shard))
		return;
	t->shards[shard / WORD_BITS] &= ~(UINT64_C(1) << shard % WORD_BITS);
	t->shards_n--;
	/* A pattern may have it there still. */
	t->reach.generation = REACH_UNKNOWN;
}

bool topic_has_shard(const struct topic *t, unsigned shard)
{
	return t->shards[shard / WORD_BITS] >> shard % WORD_BITS & 1;
}

uint64_t topic_floor(const struct topic *t)
{
	const struct history *h = &t->history;
	uint64_t oldest = history_oldest(h, &t->limits);

	if (oldest == 0)
		return t->number;
	return oldest > history_first(h)->seq ? oldest - 1 + history_first(h)->shift : h->floor;
}

/* The place of the first message behind a number; of the next one if there is none. */
static uint64_t place_after(const struct topic *t, uint64_t number)
{
	const struct block *b = history_find_number(&t->history, number + 1);

	if (b == NULL)
		return t->seq + 1;
	return number < block_number(b) ? b->seq : number + 1 - b->shift;
}

/* What the message at a place in the history is known by; or the next one, if it is not there. */
static uint64_t number_at(const struct topic *t, uint64_t seq)
{
	const struct block *b = history_find(&t->history, seq);

	return seq + (b != NULL ? b->shift : t->shift);
}

struct replay_answer topic_replay(const struct topic *t, const struct replay *wanted)
{
	struct replay_answer a = { .epoch = t->epoch, .from = t->seq + 1, .after = t->number };
	uint64_t oldest = history_oldest(&t->history, &t->limits), from;

	/* Without a past the oldest message is the next one. */
	if (oldest == 0)
		oldest = t->seq + 1;
	switch (wanted->kind) {
	case REPLAY_NONE:
	case REPLAY_RETAINED:
		return a;
	case REPLAY_LAST:
		from = wanted->n < t->seq ? t->seq - wanted->n + 1 : 1;
		if (from < oldest)
			from = oldest;
		break;
	case REPLAY_FROM:
		if (wanted->epoch == t->epoch && wanted->n >= t->number)
			return a;
		from = place_after(t, wanted->n);
		/* Nothing is missing if what is there begins behind that message, or follows on
		 * it. */
		if (wanted->epoch != t->epoch || from < oldest || wanted->n < topic_floor(t)) {
			from = oldest;
			a.gap = number_at(t, oldest);
		}
		break;
	default:
		return a;
	}
	a.messages = t->seq + 1 - from;
	a.from = from;
	a.after = number_at(t, from) - 1;
	return a;
}
