#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/name.h"
#include "broker/home.h"
#include "broker/patterns.h"
#include "broker/shard.h"
#include "broker/tap.h"
#include "session/upstream.h"
#include "topic/pattern.h"
#include "topic/topic.h"

/*
 * Subscribers to patterns, to which every home listens for its own topics: one subscription
 * upstream for each pattern's subject. What comes of a topic that somebody has asked for by its
 * name comes by that subscription, too, and is left alone here. Other topics are borne by the first
 * subscription that brings something of theirs (bearer): they stand with it, until nothing has come
 * for linger_seconds, and are caught up by their names when the connection was lost meanwhile.
 *
 * With a log what a pattern's topics got while the connection was gone is fetched by a consumer for
 * the pattern, for nobody else may know of them.
 *
 * Names that leave nothing behind have subscriptions of their own kind (passing): these have no
 * topic, so that the name itself is a pattern, and no log. A group has one for each of its members,
 * up to MEMBERS_MAX, so that the servers share messages out among hosts as among members; only one
 * home subscribes for it (upstream_passing.c has what comes of both).
 */

enum {
	SUBSCRIBE_COST = 4,
	MEMBERS_MAX = 8,
	KEY_MAX = 2 + PATTERN_KEY_MAX + NAME_BYTES_MAX,
};

/* What is subscribed to. */
struct wanted {
	struct span subject;
	bool passing; /* the names leave nothing behind */
	struct pattern
		*members; /* a group's, for the nth member of it; NULL: for all subscribers */
	unsigned nth;
};

struct upstream_pattern {
	struct named named; /* first: what tells it apart (key_of) */
	struct list link;   /* wanted, asked or standing */
	struct list passes; /* the upstream's: those for names that leave nothing behind */
	struct named by_sid;
	struct wanted wanted;
	uint64_t sid, ping;
	uint32_t users;     /* patterns of the home's that need it */
	uint64_t from;      /* what came from that number on has to be fetched; 0: nothing */
	uint64_t fetch_sid; /* of the subscription for that; 0: it is not under way */
	uint64_t count;     /* of messages that it has brought */
	char key[];
};

static struct upstream_pattern *pattern_of_sid(const struct upstream *u, uint64_t sid)
{
	struct named *n = table_find(&u->patterns_by_sid, hash_bytes(&sid, sizeof(sid)),
				     (struct span){ (const char *)&sid, sizeof(sid) });

	return n != NULL ? (struct upstream_pattern *)(void *)((char *)n -
							       offsetof(struct upstream_pattern,
									by_sid))
			 : NULL;
}

/* The subject comes last. */
static struct span key_of(const struct wanted *w, char out[KEY_MAX])
{
	struct span of = w->members != NULL ? w->members->named.name : (struct span){ NULL, 0 };

	out[0] = (char)w->nth;
	out[1] = w->passing;
	if (of.len > 0)
		memcpy(out + 2, of.data, of.len);
	memcpy(out + 2 + of.len, w->subject.data, w->subject.len);
	return (struct span){ out, 2 + of.len + w->subject.len };
}

static struct upstream_pattern *find(const struct upstream *u, const struct wanted *w)
{
	char text[KEY_MAX];
	struct span key = key_of(w, text);

	return (struct upstream_pattern *)(void *)table_find(&u->patterns,
							     hash_bytes(key.data, key.len), key);
}

/* ---- which subjects a pattern is ---- */

typedef int wanted_use(struct upstream *u, const struct wanted *w);

/* As far as it is the cluster's. */
static int use_text(struct upstream *u, const struct pattern *p, struct span text, struct wanted *w,
		    wanted_use *use)
{
	int err = 0;

	for (size_t i = 0; i < u->config->topics_n && err == 0; i++) {
		struct span topics = span_of(u->config->topics[i]);
		char meet[NAME_BYTES_MAX];

		w->passing = i >= u->config->topics_kept_n;
		w->subject =
			p->kind == PATTERN_GLOB ? topics : name_patterns_meet(topics, text, meet);
		/* A name is a topic's. A space has no place in a subject. */
		if (w->subject.len == 0 || memchr(w->subject.data, ' ', w->subject.len) != NULL ||
		    (!w->passing && w->members == NULL && p->kind != PATTERN_GLOB &&
		     !pattern_wild(text)))
			continue;
		err = use(u, w);
	}
	return err;
}

/* nth: of a group's members; 0: it is of none. */
static int each_subject(struct upstream *u, struct pattern *p, unsigned nth, wanted_use *use)
{
	struct wanted w = { .members = nth > 0 ? p : NULL, .nth = nth };
	struct span text = p->text, above = { text.data, text.len - 2 };
	int err = use_text(u, p, text, &w, use);

	/* Of MQTT: "a/#" is "a" as well. */
	if (err == 0 && p->kind == PATTERN_MQTT && text.len > 2 && text.data[text.len - 1] == '>')
		err = use_text(u, p, above, &w, use);
	return err;
}

/* ---- who wants them ---- */

static int use_subject(struct upstream *u, const struct wanted *w)
{
	struct upstream_pattern *p = find(u, w);
	char text[KEY_MAX];
	struct span key = key_of(w, text);

	if (p == NULL) {
		p = memory_new_zeroed(sizeof(*p) + key.len);
		if (p == NULL)
			return -ENOMEM;
		memcpy(p->key, key.data, key.len);
		p->named = (struct named){ hash_bytes(key.data, key.len), { p->key, key.len } };
		p->wanted = *w;
		p->wanted.subject.data = p->key + key.len - w->subject.len;
		if (table_add(&u->patterns, &p->named) != 0) {
			memory_free(p);
			return -ENOMEM;
		}
		list_init(&p->link);
		list_init(&p->passes);
		list_append(&u->patterns_wanted, &p->link);
		if (w->passing && w->members == NULL)
			list_append(&u->patterns_passing, &p->passes);
		u->apart_n += w->passing || w->members != NULL;
	}
	p->users++;
	return 0;
}

/* A member has one of its own. */
static int use_member(struct upstream *u, const struct wanted *w)
{
	return find(u, w) == NULL ? use_subject(u, w) : 0;
}

static void put_unsub(struct upstream *u, uint64_t sid)
{
	char text[48];
	int n = snprintf(text, sizeof(text), "UNSUB %" PRIu64 "\r\n", sid);

	upstream_put(u, (struct span){ text, (size_t)n });
}

static void forget_sid(struct upstream *u, struct upstream_pattern *p)
{
	if (p->sid != 0)
		table_remove(&u->patterns_by_sid, &p->by_sid);
	p->sid = p->fetch_sid = 0;
}

static int drop_subject(struct upstream *u, const struct wanted *w)
{
	struct upstream_pattern *p = find(u, w);

	/* There may have been no memory for it. */
	if (p == NULL || --p->users > 0)
		return 0;
	if (p->sid != 0)
		put_unsub(u, p->sid);
	if (p->fetch_sid != 0)
		put_unsub(u, p->fetch_sid);
	forget_sid(u, p);
	list_remove(&p->link);
	list_remove(&p->passes);
	table_remove(&u->patterns, &p->named);
	u->apart_n -= w->passing || w->members != NULL;
	memory_free(p);
	/* What topics at rest get from now on is missed, whoever else listens. */
	u->patterns_left += !w->passing && w->members == NULL;
	return 0;
}

int upstream_pattern_appeared(struct upstream *u, struct pattern *pattern)
{
	return pattern->group.len == 0 ? each_subject(u, pattern, 0, use_subject) : 0;
}

void upstream_pattern_gone(struct upstream *u, struct pattern *pattern)
{
	if (pattern->group.len == 0)
		(void)each_subject(u, pattern, 0, drop_subject);
	else
		upstream_pattern_members(u, pattern, 0);
}

/* Of those homes that know the pattern one. */
static bool subscribes(const struct upstream *u, const struct pattern *pattern)
{
	uint64_t hash;

	return topic_hash_of_pattern(pattern->text, &hash) ||
	       shard_home(u->shard, pattern->named.hash) == u->shard->id;
}

void upstream_pattern_members(struct upstream *u, struct pattern *pattern, uint64_t members)
{
	if (!subscribes(u, pattern))
		return;
	/* Without memory for one the others share what comes. */
	for (unsigned nth = 1; nth <= MEMBERS_MAX; nth++)
		(void)each_subject(u, pattern, nth, nth <= members ? use_member : drop_subject);
}

/* Whether the server has not got it yet. */
static int lacks(struct upstream *u, const struct wanted *w)
{
	const struct upstream_pattern *p = find(u, w);

	return p != NULL && (p->sid == 0 || p->ping > u->pongs);
}

bool upstream_pattern_keeps(struct upstream *u, struct pattern *pattern, struct pattern_letter *l)
{
	unsigned last = pattern->group.len > 0 ? MEMBERS_MAX : 0, nth = last > 0;
	bool waits = false;

	if (list_empty(&u->patterns_wanted) && list_empty(&u->patterns_asked))
		return false;
	for (; nth <= last && !waits; nth++)
		waits = each_subject(u, pattern, nth, lacks) != 0;
	/* What is this host's own waits for nobody. */
	if (!waits)
		return false;
	l->ticket = 0;
	list_append(&u->patterns_letters, &l->link);
	return true;
}

static struct pattern_letter *first_letter(const struct upstream *u)
{
	return list_empty(&u->patterns_letters)
		       ? NULL
		       : LIST_ENTRY(u->patterns_letters.next, struct pattern_letter, link);
}

/* ---- up and down ---- */

static bool write_pattern(struct upstream *u, struct upstream_pattern *p)
{
	char sid[32];
	int n;

	p->sid = ++u->sids;
	p->by_sid = (struct named){ hash_bytes(&p->sid, sizeof(p->sid)),
				    { (const char *)&p->sid, sizeof(p->sid) } };
	if (table_add(&u->patterns_by_sid, &p->by_sid) != 0) {
		p->sid = 0;
		return false;
	}
	p->ping = u->pings + 1;
	u->unpinged = true;
	list_remove(&p->link);
	list_append(&u->patterns_asked, &p->link);
	n = snprintf(sid, sizeof(sid), " %" PRIu64 "\r\n", p->sid);
	upstream_put(u, SPAN("SUB "));
	if (u->log && !p->wanted.passing)
		upstream_put(u, span_of(u->config->deliver_prefix));
	upstream_put(u, upstream_prefix(u, p->wanted.subject));
	upstream_put(u, p->wanted.subject);
	if (p->wanted.members != NULL) {
		upstream_put(u, SPAN(" "));
		upstream_put(u, p->wanted.members->group);
	}
	upstream_put(u, (struct span){ sid, (size_t)n });
	return true;
}

bool upstream_patterns_write(struct upstream *u)
{
	while (!list_empty(&u->patterns_wanted)) {
		if (!write_pattern(u, LIST_ENTRY(u->patterns_wanted.next, struct upstream_pattern,
						 link))) {
			u->overrun = true;
			return false;
		}
		reactor_spend(&u->shard->reactor, SUBSCRIBE_COST);
		if (reactor_spent(&u->shard->reactor))
			return true;
	}
	for (struct list *l = u->patterns_letters.prev; l != &u->patterns_letters; l = l->prev) {
		struct pattern_letter *letter = LIST_ENTRY(l, struct pattern_letter, link);

		if (letter->ticket != 0)
			break;
		letter->ticket = u->pings + 1;
		u->unpinged = true;
	}
	return false;
}

/* What came of it while nobody here listened. */
static void fetch(struct upstream *u, struct upstream_pattern *p)
{
	if (p->fetch_sid != 0)
		put_unsub(u, p->fetch_sid);
	p->fetch_sid =
		upstream_consume(u, 'w', p->wanted.subject, p->from, "q", (struct span){ NULL, 0 });
	p->count = 0;
}

void upstream_patterns_answered(struct upstream *u)
{
	struct pattern_letter *letter;

	while (!list_empty(&u->patterns_asked)) {
		struct upstream_pattern *p =
			LIST_ENTRY(u->patterns_asked.next, struct upstream_pattern, link);

		if (p->ping > u->pongs)
			break;
		list_remove(&p->link);
		list_append(&u->patterns_standing, &p->link);
		if (p->from != 0)
			fetch(u, p);
	}
	while ((letter = first_letter(u)) != NULL && letter->ticket != 0 &&
	       letter->ticket <= u->pongs) {
		list_remove(&letter->link);
		home_pattern_stands(u->shard, letter);
	}
}

void upstream_patterns_lost(struct upstream *u)
{
	struct list *lists[] = { &u->patterns_asked, &u->patterns_standing };

	for (unsigned i = 0; i < 2; i++)
		for (struct list *l = lists[i]->next; l != lists[i]; l = l->next) {
			struct upstream_pattern *p = LIST_ENTRY(l, struct upstream_pattern, link);

			/* Up to what the log had some seconds ago all has come. */
			if (u->log && i == 1 && p->from == 0 && !p->wanted.passing &&
			    p->wanted.members == NULL)
				p->from = u->stream_before + 1;
			forget_sid(u, p);
		}
	list_splice(&u->patterns_wanted, &u->patterns_asked);
	list_splice(&u->patterns_wanted, &u->patterns_standing);
	for (struct list *l = u->patterns_letters.next; l != &u->patterns_letters; l = l->next)
		LIST_ENTRY(l, struct pattern_letter, link)->ticket = 0;
}

void upstream_patterns_expire(struct upstream *u)
{
	struct pattern_letter *letter;

	while (upstream_gives_up(u) && (letter = first_letter(u)) != NULL) {
		list_remove(&letter->link);
		letter->error = -EHOSTUNREACH;
		home_pattern_stands(u->shard, letter);
	}
}

/* ---- what comes ---- */

/* A topic of this home's that some pattern here matches; made if it is not there. */
static struct upstream_topic *topic_for(struct upstream *u, struct span name)
{
	struct shard *s = u->shard;
	uint64_t hash;
	struct topic *t;
	int error;

	if (!name_valid(name) || topic_leaves_nothing(s->config, name))
		return NULL;
	hash = topic_hash(name);
	if (shard_home(s, hash) != s->id)
		return NULL;
	t = home_topic(s, hash, name);
	if (t == NULL && reach_of(s, hash, name)->shards_n > 0)
		t = home_topic_or_new(s, hash, name, &error);
	return t != NULL ? t->tapped : NULL;
}

bool upstream_pattern_bears(struct upstream *u, struct upstream_topic *ut, uint64_t sid)
{
	if (ut->state > UPSTREAM_ASKED && ut->sid != 0)
		return false;
	if (ut->state == UPSTREAM_ASKED && ut->bearer == 0)
		return false;
	if (ut->bearer != sid && (ut->bearer == 0 || pattern_of_sid(u, ut->bearer) == NULL))
		ut->bearer = sid;
	return ut->bearer == sid;
}

bool upstream_pattern_stands(const struct upstream *u, uint64_t sid)
{
	return u->patterns_by_sid.entries_n > 0 && pattern_of_sid(u, sid) != NULL;
}

bool upstream_pattern_covers(const struct upstream *u, struct span name)
{
	for (struct list *l = u->patterns_standing.next; l != &u->patterns_standing; l = l->next) {
		const struct upstream_pattern *p = LIST_ENTRY(l, struct upstream_pattern, link);

		if (p->wanted.members == NULL && name_matches(p->wanted.subject, name))
			return true;
	}
	return false;
}

struct upstream_topic *upstream_pattern_topic(struct upstream *u, uint64_t sid, struct span name)
{
	return upstream_pattern_stands(u, sid) ? topic_for(u, name) : NULL;
}

struct upstream_topic *upstream_pattern_fetched(struct upstream *u, uint64_t sid, struct span name,
						const struct nats_said *said, uint64_t *number)
{
	struct jetstream_delivery d;
	struct list *l = u->patterns_standing.next;
	struct upstream_pattern *p;
	struct upstream_topic *ut;

	/* Few are, and only behind a loss. */
	while (l != &u->patterns_standing &&
	       LIST_ENTRY(l, struct upstream_pattern, link)->fetch_sid != sid)
		l = l->next;
	if (l == &u->patterns_standing || !jetstream_delivery(said->reply, &d))
		return NULL;
	p = LIST_ENTRY(l, struct upstream_pattern, link);
	if (++p->count != d.count) {
		/* Some of its messages have been lost on the way. */
		fetch(u, p);
		return NULL;
	}
	p->from = d.number + 1;
	*number = d.number;
	if (d.pending == 0) {
		put_unsub(u, p->fetch_sid);
		p->fetch_sid = p->from = 0;
	}
	ut = topic_for(u, name);
	if (ut != NULL)
		ut->bearer = ut->state == UPSTREAM_REST ? p->sid : ut->bearer;
	/* Others catch up by themselves. */
	return ut != NULL && ut->state == UPSTREAM_REST ? ut : NULL;
}

/* ---- what leaves nothing behind, and groups ---- */

/* One that has been answered for is certain to bring what another one brings as well. */
static bool is_before(const struct upstream *u, const struct upstream_pattern *a,
		      const struct upstream_pattern *b)
{
	bool a_stands = a->ping <= u->pongs, b_stands = b->ping <= u->pongs;

	return a_stands != b_stands ? a_stands : a->sid < b->sid;
}

/* Of the copies that several subscriptions bring one counts. */
static bool is_chosen(const struct upstream *u, const struct upstream_pattern *p, struct span name)
{
	for (struct list *l = u->patterns_passing.next; l != &u->patterns_passing; l = l->next) {
		const struct upstream_pattern *other =
			LIST_ENTRY(l, struct upstream_pattern, passes);

		if (other != p && other->sid != 0 && is_before(u, other, p) &&
		    name_matches(other->wanted.subject, name))
			return false;
	}
	return true;
}

bool upstream_pattern_apart(struct upstream *u, uint64_t sid, struct span subject,
			    struct span *name, struct pattern **members)
{
	const struct upstream_pattern *p = u->apart_n > 0 ? pattern_of_sid(u, sid) : NULL;
	struct shard *s = u->shard;
	struct span of = subject;

	if (p == NULL || (!p->wanted.passing && p->wanted.members == NULL))
		return false;
	if (u->log && !p->wanted.passing)
		of = upstream_behind(of, u->config->deliver_prefix);
	if (of.len > 0 && !topic_passes(of))
		of = upstream_behind(of, u->config->publish_prefix);
	*members = p->wanted.members;
	if (!name_valid(of) || topic_leaves_nothing(s->config, of) != p->wanted.passing ||
	    (*members == NULL && (shard_home(s, topic_hash(of)) != s->id || !is_chosen(u, p, of))))
		of.len = 0;
	*name = of;
	return true;
}

/* ---- begin and end ---- */

void upstream_patterns_init(struct upstream *u)
{
	list_init(&u->patterns_wanted);
	list_init(&u->patterns_asked);
	list_init(&u->patterns_standing);
	list_init(&u->patterns_letters);
	list_init(&u->patterns_passing);
}

void upstream_patterns_release(struct upstream *u)
{
	struct pattern_letter *letter;
	struct named *n;

	while ((letter = first_letter(u)) != NULL) {
		list_remove(&letter->link);
		pattern_letter_discard(letter);
	}
	for (size_t at = 0; (n = table_next(&u->patterns, &at)) != NULL; at = 0) {
		struct upstream_pattern *p = (struct upstream_pattern *)(void *)n;

		list_remove(&p->link);
		list_remove(&p->passes);
		forget_sid(u, p);
		table_remove(&u->patterns, n);
		memory_free(p);
	}
	table_release(&u->patterns);
	table_release(&u->patterns_by_sid);
}
