#include "broker/interests.h"

#include <stdlib.h>

#include "broker/home.h"
#include "broker/members.h"
#include "broker/patterns.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/interest.h"

enum { CONFIGURE_COST = 3 }; /* of an interest's settings; of a place in the table: 1 */

void interests_configure_one(struct shard *s, struct interest *i)
{
	i->settings = config_topic(s->config, i->named.name);
	i->settings_n = s->audience.settings_n;
	s->audience.unconfigured--;
}

struct interest *interests_find(struct shard *s, uint64_t hash, struct span name)
{
	struct interest *i =
		(struct interest *)(void *)table_find(&s->audience.interests, hash, name);

	if (i != NULL && i->settings_n != s->audience.settings_n)
		interests_configure_one(s, i);
	return i;
}

/* Members of a group have said themselves that they leave. */
static void let_wild_go(struct shard *s, struct wild *w)
{
	struct pattern_count *l = w->left;

	w->left = NULL;
	if (l != NULL)
		wild_tell(w, l, 0, 0, s);
	wilds_remove(&s->audience.wilds, w);
	wild_free(w);
}

static bool wanted(const struct interest *i)
{
	return i->subscribers > 0 || i->unanswered > 0 || i->pins > 0;
}

static void end(struct shard *s, struct interest *i)
{
	struct topic_letter *l;

	s->audience.unconfigured -= i->settings_n != s->audience.settings_n;
	if (i->wild != NULL) {
		let_wild_go(s, i->wild);
		return;
	}
	l = i->unsubscribe;
	i->unsubscribe = NULL;
	l->shard = s->id;
	l->change = -(int64_t)i->told;
	l->change_responders = -(int64_t)i->told_responders;
	shard_post(s, i->home, LANE_FREE, &l->letter);
	table_remove(&s->audience.interests, &i->named);
	interest_free(i);
}

void interests_let_go(struct shard *s, struct interest *i)
{
	if (wanted(i))
		return;
	/* Very many streams are freed over turns. */
	if (i->forms == NULL || i->streams == NULL)
		end(s, i);
	else if (list_empty(&i->forms->ending))
		list_append(&s->audience.forms, &i->forms->ending);
}

/* False: there are more than there is time for. */
static bool drop_streams(struct shard *s, struct interest *i)
{
	for (struct stream *stream = i->streams, *next; stream != NULL; stream = next) {
		next = stream->next;
		(void)interest_drop_unread(i, stream);
		reactor_spend(&s->reactor, 1);
		if (reactor_spent(&s->reactor))
			return false;
	}
	return true;
}

void interests_end_some(struct shard *s)
{
	struct list *l;
	bool all = true;

	reactor_part(&s->reactor, PART_CLIENTS);
	while (all && (l = list_take(&s->audience.forms)) != NULL) {
		struct interest *i = LIST_ENTRY(l, struct forms, ending)->interest;

		if (wanted(i))
			continue;
		all = drop_streams(s, i);
		if (all)
			end(s, i);
		else
			list_append(&s->audience.forms, l);
	}
}

void interests_count(struct shard *s, struct subscription *sub, struct interest *i, bool more)
{
	uint32_t one = more ? 1 : UINT32_MAX;

	i->subscribers += one;
	if (subscription_is(sub, SUBSCRIPTION_REPLIES))
		i->responders += one;
	if (list_empty(&i->recount))
		list_append(&s->audience.recounts, &i->recount);
}

void interest_note_told(struct interest *i)
{
	i->told = i->subscribers;
	i->told_responders = i->responders;
}

static struct interest *find_or_new(struct shard *s, struct span name)
{
	uint64_t hash = topic_hash(name);
	struct interest *i = interests_find(s, hash, name);

	if (i != NULL)
		return i;
	i = interest_new(name, hash, shard_home(s, hash), config_topic(s->config, name));
	if (i == NULL)
		return NULL;
	i->unsubscribe = topic_letter_new(LETTER_UNSUBSCRIBE, name, hash);
	if (i->unsubscribe == NULL || table_add(&s->audience.interests, &i->named) != 0) {
		interest_free(i);
		return NULL;
	}
	i->settings_n = s->audience.settings_n;
	return i;
}

/* Whether it is kept as a pattern: it is one, it is in a group, or its name leaves nothing behind.
 */
static bool is_wild(const struct shard *s, const struct subscription_wanted *wanted)
{
	return wanted->pattern != PATTERN_NONE || wanted->group.len > 0 ||
	       topic_leaves_nothing(s->config, wanted->name);
}

static struct interest *wild_or_new(struct shard *s, const struct subscription_wanted *wanted)
{
	enum pattern_kind kind = wanted->pattern != PATTERN_NONE ? wanted->pattern : PATTERN_NATIVE;
	struct pattern_key key;
	struct interest *i;
	struct wild *w;
	uint64_t hash;

	pattern_key_make(&key, kind, wanted->group, wanted->name);
	w = wilds_find(&s->audience.wilds, &key);
	if (w != NULL)
		return w->interest;
	i = wild_new(&key, s->id);
	if (i == NULL)
		return NULL;
	w = i->wild;
	w->homes_n = s->broker->shards_n;
	if (kind != PATTERN_GLOB && topic_hash_of_pattern(wanted->name, &hash)) {
		w->home = shard_home(s, hash);
		w->homes_n = 1;
	}
	i->home = w->home;
	i->settings = config_topic(s->config, wanted->name);
	i->settings_n = s->audience.settings_n;
	if (wilds_add(&s->audience.wilds, w) == 0)
		return i;
	wild_free(w);
	return NULL;
}

void interests_reap(struct shard *s)
{
	struct list *l;

	while ((l = list_take(&s->audience.gone)) != NULL) {
		struct member *m = LIST_ENTRY(l, struct member, link);
		struct interest *i = m->stream.owner;

		member_free(m);
		i->pins--;
		interests_let_go(s, i);
	}
}

/* False: out of memory. */
static bool tell_topic(struct shard *s, struct interest *i)
{
	struct topic_letter *l = topic_letter_new(LETTER_RECOUNT, i->named.name, i->named.hash);

	if (l == NULL)
		return false;
	l->change = (int64_t)i->subscribers - i->told;
	l->change_responders = (int64_t)i->responders - i->told_responders;
	interest_note_told(i);
	shard_post(s, i->home, LANE_FREE, &l->letter);
	return true;
}

static bool tell_pattern(struct shard *s, struct interest *i)
{
	struct pattern_count *l;

	/* Members of a group have said so themselves, and the last one's end is told with the
	 * interest's. */
	if (i->wild->pattern.group.len > 0 || i->subscribers == 0)
		return true;
	l = pattern_count_new(&i->wild->pattern, s->id);
	if (l == NULL)
		return false;
	interest_note_told(i);
	wild_tell(i->wild, l, i->subscribers, i->responders, s);
	return true;
}

void interests_recount(struct shard *s)
{
	struct list later, *link;

	list_init(&later);
	while ((link = list_take(&s->audience.recounts)) != NULL) {
		struct interest *i = LIST_ENTRY(link, struct interest, recount);

		/* One that is not live yet tells with what asks for it, or when that is answered.
		 */
		if (!i->live || (i->told == i->subscribers && i->told_responders == i->responders))
			continue;
		if (!(i->wild != NULL ? tell_pattern(s, i) : tell_topic(s, i)))
			list_append(&later, link);
	}
	list_splice(&s->audience.recounts, &later);
}

void interests_configure(struct shard *s)
{
	s->audience.settings_n++;
	s->audience.unconfigured = s->audience.interests.entries_n +
				   s->audience.wilds.patterns.keys.entries_n +
				   s->audience.wilds.groups.entries_n;
}

/* What is in the next place of all tables, or NULL. */
static struct interest *step(struct audience *a)
{
	struct table *const tables[] = { &a->interests, &a->wilds.patterns.keys, &a->wilds.groups };
	struct table *table = tables[a->configured_in];
	bool wild = a->configured_in > 0;
	struct named *n = table_step(table, &a->configured_at);

	if (a->configured_at >= table_places(table)) {
		a->configured_in = (a->configured_in + 1) % 3;
		a->configured_at = 0;
	}
	if (n == NULL || !wild)
		return (struct interest *)(void *)n;
	return ((struct wild *)(void *)n)->interest;
}

bool interests_configure_some(struct shard *s)
{
	struct audience *a = &s->audience;

	while (a->unconfigured > 0 && !reactor_spent(&s->reactor)) {
		struct interest *i = step(a);

		reactor_spend(&s->reactor, 1);
		if (i == NULL || i->settings_n == a->settings_n)
			continue;
		interests_configure_one(s, i);
		reactor_spend(&s->reactor, CONFIGURE_COST);
	}
	return a->unconfigured > 0;
}

/* A home had still to answer. */
static void release_wild(struct shard *s, struct wild *w)
{
	struct list *l;

	while ((l = list_take(&w->askings)) != NULL) {
		struct pattern_asking *a = LIST_ENTRY(l, struct pattern_asking, link);

		stream_unpin(a->stream, &a->pin);
		a->stream = NULL;
	}
	while ((l = list_take(&w->members)) != NULL)
		member_free(LIST_ENTRY(l, struct member, link));
	wilds_remove(&s->audience.wilds, w);
	wild_free(w);
}

void interests_release(struct shard *s)
{
	struct audience *a = &s->audience;
	struct named *n;

	interests_reap(s);
	for (size_t at = 0; (n = table_next(&a->interests, &at)) != NULL;)
		interest_free((struct interest *)(void *)n);
	table_release(&a->interests);
	for (size_t at = 0; (n = table_next(&a->wilds.patterns.keys, &at)) != NULL; at = 0)
		release_wild(s, (struct wild *)(void *)n);
	for (size_t at = 0; (n = table_next(&a->wilds.groups, &at)) != NULL; at = 0)
		release_wild(s, (struct wild *)(void *)n);
	wilds_release(&a->wilds);
}

struct interest *interests_wanted(struct shard *s, const struct subscription_wanted *wanted)
{
	return is_wild(s, wanted) ? wild_or_new(s, wanted) : find_or_new(s, wanted->name);
}
