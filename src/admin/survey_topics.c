#include <inttypes.h>
#include <string.h>

#include "admin/survey.h"
#include "base/clock.h"
#include "base/glob.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/connection.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "protocol/http.h"
#include "protocol/http_field.h"
#include "session/http_answer.h"
#include "session/routes.h"
#include "topic/interest.h"

/*
 * GET /topics?pattern=<pattern>|glob=<glob>&after=<name>&limit=<n>: the first n names behind that
 * one, in the order of their bytes, of topics that match; with what their homes know, and, in a
 * second round, how far behind those are whom the shards have for them.
 */

enum {
	LIMIT = 200, /* if nothing else is asked for */
	LIMIT_MAX = 500,
	PLACES_AT_ONCE = 16, /* of a table, before there is a look at the time */
	CURSORS_LOOKED = 16, /* of a list: who is slow stands at the front */
	WRITTEN_AT_ONCE = 8, /* topics */
	QUERY_BYTES_MAX = 3 * NAME_BYTES_MAX,
};

struct seen_topic {
	uint64_t hash, epoch, seq, messages, bytes, subscribers, publishers, behind;
	unsigned home;
	uint8_t name_len;
	char name[NAME_BYTES_MAX];
};

struct topics_survey {
	struct survey survey; /* first */
	bool glob;            /* how the pattern is meant */
	bool more;            /* there are names behind the last of these */
	uint8_t pattern_len, after_len;
	char pattern[NAME_BYTES_MAX], after[NAME_BYTES_MAX];
	unsigned limit, n;
	uint64_t looked;           /* at so many topics */
	size_t slots_n;            /* of the table that is just walked through */
	bool in_before;            /* in the places that it is growing out of */
	uint16_t order[LIMIT_MAX]; /* by name */
	struct seen_topic topics[];
};

static struct span name_of(const struct seen_topic *t)
{
	return (struct span){ t->name, t->name_len };
}

static int compare(struct span a, struct span b)
{
	int order = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);

	return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

/* Where a name stands, or would. */
static unsigned place_of(const struct topics_survey *v, struct span name, bool *there)
{
	unsigned low = 0, high = v->n;

	*there = false;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		int order = compare(name_of(&v->topics[v->order[middle]]), name);

		if (order == 0) {
			*there = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool wanted(const struct topics_survey *v, const struct topic *t)
{
	struct span pattern = { v->pattern, v->pattern_len }, name = t->named.name;

	if (!t->known || compare(name, (struct span){ v->after, v->after_len }) <= 0)
		return false;
	return v->glob ? glob_matches(pattern, name) : name_matches(pattern, name);
}

/* A topic, if it is one of the first; another one may have to go for it. */
static void take(struct shard *s, struct topics_survey *v, const struct topic *t)
{
	bool there;
	unsigned at, place = place_of(v, t->named.name, &there);
	uint64_t oldest = history_oldest(&t->history, &t->limits);

	if (there)
		return;
	v->more |= v->n == v->limit;
	if (place == v->limit)
		return;
	at = v->n == v->limit ? v->order[v->n - 1] : v->n++;
	memmove(&v->order[place + 1], &v->order[place], (v->n - 1 - place) * sizeof(v->order[0]));
	v->order[place] = (uint16_t)at;
	v->topics[at] = (struct seen_topic){ .hash = t->named.hash,
					     .epoch = t->epoch,
					     .seq = t->seq,
					     .messages = oldest > 0 ? t->seq + 1 - oldest : 0,
					     .bytes = t->history.bytes,
					     .subscribers = t->subscribers,
					     .publishers = t->publishers,
					     .home = s->id,
					     .name_len = (uint8_t)t->named.name.len };
	memcpy(v->topics[at].name, t->named.name.data, t->named.name.len);
}

/* What is removed moves others to lower places: who goes downwards, from one that is free, misses
 * nobody who stays. */
static void begin_places(struct survey *walk, struct named *const *slots, size_t slots_n)
{
	walk->left = walk->at = slots_n;
	while (walk->at > 0 && slots[walk->at - 1] != NULL)
		walk->at--;
}

static void look_at_places(struct shard *s, struct topics_survey *v)
{
	const struct table *topics = &s->home.topics;
	struct named *const *slots = v->in_before ? topics->before : topics->slots;
	size_t slots_n = v->in_before ? topics->before_n : topics->slots_n;
	struct survey *walk = &v->survey;

	for (unsigned n = 0; n < PLACES_AT_ONCE && walk->left > 0; n++, walk->left--) {
		struct named *named;

		walk->at = walk->at > 0 ? walk->at - 1 : slots_n - 1;
		named = slots[walk->at];
		if (named == NULL)
			continue;
		v->looked++;
		reactor_spend(&s->reactor, 1);
		if (wanted(v, (struct topic *)(void *)named))
			take(s, v, (struct topic *)(void *)named);
	}
	reactor_spend(&s->reactor, 1);
}

/* A table that grows moves what it has from where that was before, so that is looked at first; when
 * another growth begins, so does this, and a name is taken once. */
static bool collect_names(struct shard *s, struct topics_survey *v)
{
	const struct table *topics = &s->home.topics;
	struct survey *walk = &v->survey;

	if (!walk->begun || v->slots_n != topics->slots_n) {
		v->slots_n = topics->slots_n;
		v->in_before = true;
		walk->begun = true;
		begin_places(walk, topics->before, topics->before_n);
	}
	for (;;) {
		if (v->in_before && (topics->before == NULL || walk->left == 0)) {
			v->in_before = false;
			begin_places(walk, topics->slots, topics->slots_n);
		}
		if (walk->left == 0)
			return false;
		look_at_places(s, v);
		if (walk->left > 0 && reactor_spent(&s->reactor))
			return true;
	}
}

static uint64_t furthest(const struct stream *stream, const struct list *cursors)
{
	struct list *l = cursors->next;
	uint64_t most = 0;

	for (unsigned n = 0; n < CURSORS_LOOKED && l != cursors; n++, l = l->next) {
		uint64_t behind = cursor_backlog(stream, LIST_ENTRY(l, struct cursor, link));

		most = behind > most ? behind : most;
	}
	return most;
}

static uint64_t behind_of(const struct interest *i)
{
	uint64_t most = 0, behind;

	for (const struct stream *stream = i->streams; stream != NULL; stream = stream->next) {
		behind = furthest(stream, &stream->busy);
		most = behind > most ? behind : most;
		behind = furthest(stream, &stream->ready);
		most = behind > most ? behind : most;
	}
	return most;
}

static bool collect_backlogs(struct shard *s, struct topics_survey *v)
{
	struct survey *walk = &v->survey;

	if (!walk->begun)
		walk->at = 0;
	walk->begun = true;
	while (walk->at < v->n) {
		struct seen_topic *t = &v->topics[walk->at++];
		const struct interest *i = (struct interest *)(void *)table_find(
			&s->audience.interests, t->hash, name_of(t));
		uint64_t behind = i != NULL ? behind_of(i) : 0;

		t->behind = behind > t->behind ? behind : t->behind;
		reactor_spend(&s->reactor, i != NULL ? 2 : 1);
		if (walk->at < v->n && reactor_spent(&s->reactor))
			return true;
	}
	return false;
}

static bool collect(struct shard *s, struct survey *v)
{
	struct topics_survey *topics = (struct topics_survey *)(void *)v;

	return v->round == 0 ? collect_names(s, topics) : collect_backlogs(s, topics);
}

static void write_topic(struct text *text, const struct seen_topic *t, bool first)
{
	char name[6 * NAME_BYTES_MAX + 3];

	name[json_string(name_of(t), name)] = 0;
	text_add(text,
		 "%s\n{\"topic\":%s,\"home\":%u,\"epoch\":\"%016" PRIx64 "\",\"seq\":%" PRIu64
		 ",\"messages\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"subscribers\":%" PRIu64
		 ",\"publishers\":%" PRIu64 ",\"behind_bytes\":%" PRIu64 "}",
		 first ? "" : ",", name, t->home, t->epoch, t->seq, t->messages, t->bytes,
		 t->subscribers, t->publishers, t->behind);
}

static bool write(struct text *text, const struct survey *survey, unsigned step)
{
	const struct topics_survey *v = (const struct topics_survey *)(const void *)survey;
	unsigned at = step * WRITTEN_AT_ONCE;

	if (step == 0)
		text_add(text,
			 "{\"time_ms\":%" PRIu64 ",\"looked\":%" PRIu64 ",\"more\":%s,\"topics\":[",
			 clock_wall_ns() / NS_PER_MS, v->looked, v->more ? "true" : "false");
	for (unsigned n = 0; n < WRITTEN_AT_ONCE && at < v->n; n++, at++)
		write_topic(text, &v->topics[v->order[at]], at == 0);
	if (at < v->n)
		return true;
	text_add(text, "]}\n");
	return false;
}

/* A text of the query's, decoded, into out; -1: it is none. */
static ptrdiff_t text_of(struct span query, struct span key, char out[NAME_BYTES_MAX])
{
	struct span value = http_query(query, key);
	char decoded[QUERY_BYTES_MAX];
	ptrdiff_t n;

	if (value.len > sizeof(decoded))
		return -1;
	n = value.data != NULL ? http_unescape(value, true, decoded) : 0;
	if (n > NAME_BYTES_MAX)
		return -1;
	if (n > 0)
		memcpy(out, decoded, (size_t)n);
	return n;
}

/* Why the request is none, or NULL. */
static const char *read_query(struct topics_survey *v, struct span query)
{
	struct span limit = http_query(query, SPAN("limit"));
	uint64_t n = LIMIT;
	ptrdiff_t len;

	v->glob = http_query(query, SPAN("glob")).data != NULL;
	len = text_of(query, v->glob ? SPAN("glob") : SPAN("pattern"), v->pattern);
	if (len == 0 && !v->glob)
		v->pattern[len++] = '>';
	v->pattern_len = (uint8_t)len;
	if (len < 0 || (v->glob ? !glob_valid((struct span){ v->pattern, (size_t)len })
				: !name_pattern_valid((struct span){ v->pattern, (size_t)len })))
		return "bad topic";
	len = text_of(query, SPAN("after"), v->after);
	if (len < 0)
		return "malformed after";
	v->after_len = (uint8_t)len;
	if (limit.data != NULL && (!http_number(limit, &n) || n < 1 || n > LIMIT_MAX))
		return "malformed limit";
	v->limit = (unsigned)n;
	return NULL;
}

static void handle_topics(struct connection *c, const struct http_request *r, struct span rest)
{
	static const struct survey_kind kind = { .rounds = 2, .collect = collect, .write = write };
	struct topics_survey query = { .limit = 0 }, *v;
	const char *wrong = read_query(&query, r->query);

	(void)rest;
	if (wrong != NULL) {
		http_error(c, 400, wrong);
		return;
	}
	v = memory_new_zeroed(sizeof(*v) + query.limit * sizeof(v->topics[0]));
	if (v != NULL)
		*v = query;
	survey_ask(c, (struct survey *)v, &kind);
}

void survey_topics_init(struct broker *b)
{
	static const struct route topics = { .path = "/topics",
					     .local = true,
					     .methods = HTTP_VERB_GET | HTTP_VERB_HEAD,
					     .handle = handle_topics };

	routes_add(b, &topics);
}
