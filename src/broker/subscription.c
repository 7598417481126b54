#include "broker/subscription.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/probe.h"
#include "base/tree.h"
#include "broker/connection.h"
#include "broker/groups.h"
#include "broker/home.h"
#include "broker/members.h"
#include "broker/patterns.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "topic/block.h"
#include "topic/interest.h"

enum {
	REST_AFTER_MS = 1000,
	OVERTAKE_COST = 8,  /* of a subscriber that is let go */
	LOOK_COST = 2,      /* of a stream that is looked at for what is too old */
	CONFIGURE_COST = 3, /* of an interest's settings; of a place in the table: 1 */
};

static struct shard *shard_of(const struct subscription *sub)
{
	return sub->connection->shard;
}

static void configure(struct shard *s, struct interest *i)
{
	i->settings = config_topic(s->config, i->named.name);
	i->settings_n = s->audience.settings_n;
	s->audience.unconfigured--;
}

static struct interest *find(struct shard *s, uint64_t hash, struct span name)
{
	struct interest *i =
		(struct interest *)(void *)table_find(&s->audience.interests, hash, name);

	if (i != NULL && i->settings_n != s->audience.settings_n)
		configure(s, i);
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

void subscriptions_let_go(struct shard *s, struct interest *i)
{
	struct topic_letter *l;

	if (i->subscribers > 0 || i->unanswered > 0 || i->pins > 0)
		return;
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

/* It has another subscriber, or one less; the home is told at the end of the turn. */
static void count(struct shard *s, struct subscription *sub, struct interest *i, bool more)
{
	uint32_t one = more ? 1 : UINT32_MAX;

	i->subscribers += one;
	if (subscription_is(sub, SUBSCRIPTION_REPLIES))
		i->responders += one;
	if (list_empty(&i->recount))
		list_append(&s->audience.recounts, &i->recount);
}

/* What its homes are told now. */
static void note_told(struct interest *i)
{
	i->told = i->subscribers;
	i->told_responders = i->responders;
}

static struct interest *find_or_new(struct shard *s, struct span name)
{
	uint64_t hash = topic_hash(name);
	struct interest *i = find(s, hash, name);

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
	       topic_passes(wanted->name) || config_topic(s->config, wanted->name)->passing;
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

/* It is in this stream now. */
static void joined(struct subscription *sub, struct stream *stream)
{
	struct shard *s = shard_of(sub);

	stream->owner = sub->interest;
	stream->unencodable = &s->counters.dropped[DROP_UNENCODABLE];
	sub->stream = stream;
	subscription_unset(sub, SUBSCRIPTION_ASKED);
	if (stream->wire.format->replies)
		subscription_set(sub, SUBSCRIPTION_REPLIES);
	shard_active(s, stream);
}

/* Puts the cursor where it belongs. letter: the home's answer, or NULL. */
static int join(struct subscription *sub, const struct wire *wire, struct subscribe_letter *l)
{
	struct shard *s = shard_of(sub);
	struct interest *i = sub->interest;
	struct stream *stream = interest_stream(i, wire);
	uint64_t messages = 0, unencodable = 0;
	int err;

	if (stream == NULL)
		return -ENOMEM;
	stream->unencodable = &s->counters.dropped[DROP_UNENCODABLE];
	if (l != NULL) {
		const struct past past = { .from = l->from, .next = l->seq + 1, .held = &l->past };

		err = stream_join_replay(stream, &sub->cursor, &past, &unencodable);
		messages = past.next - past.from;
	} else {
		err = stream_join(stream, &sub->cursor);
	}
	if (err != 0)
		return err;
	joined(sub, stream);
	s->counters.matched += messages;
	s->counters.dropped[DROP_UNENCODABLE] += unencodable;
	return 0;
}

/* The same, when all homes know its pattern. */
static int join_known(struct subscription *sub, struct pattern_asking *a)
{
	struct shard *s = shard_of(sub);
	struct interest *i = sub->interest;
	struct newest newest[NEWEST_MAX];
	struct stream *stream = a->stream;
	uint64_t messages = 0;
	int err;

	if (a->member != NULL) {
		stream = &a->member->stream;
		a->member = NULL;
		err = stream_join(stream, &sub->cursor);
	} else if (stream != NULL) {
		a->stream = NULL;
		list_remove(&a->link);
		err = stream_join_pinned(stream, &sub->cursor, &a->pin, newest,
					 pattern_asking_newest(a, newest), &messages);
	} else {
		stream = interest_stream(i, &a->wire);
		err = stream != NULL ? stream_join(stream, &sub->cursor) : -ENOMEM;
	}
	if (err != 0)
		return err;
	joined(sub, stream);
	s->counters.matched += messages;
	return 0;
}

/* It is in: says so. */
static void stands(struct subscription *sub, const struct subscribe_letter *l)
{
	struct connection *c = sub->connection;

	c->protocol->subscribed(c, sub, l);
	if (c->state == CONNECTION_OPEN) {
		/* What it wants of the past comes from nobody's round. */
		if (sub->connection != NULL && !stream_at_end(sub->stream, &sub->cursor))
			subscription_queue(sub);
		connection_flush(c);
	} else if (c->state == CONNECTION_FINISHING && sub->connection != NULL) {
		/* It said goodbye before it was in: what has been sequenced since the home's answer
		 * is its too. */
		connection_ask_last(c, sub);
		connection_finish(c, c->farewell);
	}
}

/* The member of a group that it is; NULL: it is in none. */
static struct member *member_for(const struct subscription *sub)
{
	const struct interest *i;

	if (subscription_is(sub, SUBSCRIPTION_ASKED))
		return NULL;
	i = sub->stream->owner;
	return i->wild != NULL && i->wild->pattern.group.len > 0 ? member_of(sub->stream) : NULL;
}

/* Messages that a subscription does not get are lost, but for those that others of its group get in
 * its place. */
static void lose(struct subscription *sub, uint64_t messages, enum drop_reason reason)
{
	struct shard *s = shard_of(sub);
	struct member *m = member_for(sub);

	if (m != NULL && messages > 0)
		messages -= member_give_back(m, s, messages);
	s->counters.dropped[reason] += messages;
}

/* A member of a group has got what its cursor has counted. */
static void note_taken(struct subscription *sub)
{
	const struct cursor *c = &sub->cursor;
	struct member *m = member_for(sub);

	if (m != NULL)
		member_settle(m,
			      (c->last_count != 0 ? c->last_count : m->stream.count) - c->counted);
}

static void settle(struct subscription *sub)
{
	shard_of(sub)->counters.delivered += stream_settle(sub->stream, &sub->cursor);
	note_taken(sub);
}

/* Where a subscription ends by itself. */
struct limit {
	struct tree_entry by_count; /* first; in its stream's: the first one to end comes first */
	struct tree_entry by_subscription; /* in its interest's: so that it is found when that ends
					    */
	struct subscription *subscription;
};

static void limit_free(struct interest *i, struct limit *limit)
{
	tree_remove(&limit->subscription->stream->limits, &limit->by_count);
	tree_remove(&i->limits, &limit->by_subscription);
	memory_free(limit);
}

static void forget_limit(struct interest *i, const struct subscription *sub)
{
	struct tree_entry *e = tree_find(&i->limits, (const uint64_t[2]){ (uintptr_t)sub, 0 });

	if (e != NULL)
		limit_free(i, LIST_ENTRY(e, struct limit, by_subscription));
}

/* It is none of its connection's any more, and nobody's as far as limits go. */
static void leave_place(struct subscription *sub)
{
	struct connection *c = sub->connection;
	struct shard *s = c->shard;
	struct interest *i = subscription_interest(sub);
	struct member *m = member_for(sub);

	if (c->middle == sub)
		c->middle = NULL;
	if (c->subscriptions == sub)
		c->subscriptions = c->subscriptions_n > 1 ? subscription_next(sub) : NULL;
	list_remove(&sub->link);
	c->subscriptions_n--;
	sub->connection = NULL;
	s->audience.subscriptions_n--;
	atomic_fetch_sub(&s->broker->subscriptions, 1);
	/* Whoever has just served its stream may look at it still. */
	if (m != NULL) {
		list_remove(&m->link);
		list_append(&s->audience.gone, &m->link);
		i->pins++;
	}
	if (subscription_is(sub, SUBSCRIPTION_UNWANTED))
		i->pins--;
	else
		count(s, sub, i, false);
	forget_limit(i, sub);
	subscriptions_let_go(s, i);
}

void subscriptions_reap(struct shard *s)
{
	struct list *l;

	while ((l = list_take(&s->audience.gone)) != NULL) {
		struct member *m = LIST_ENTRY(l, struct member, link);
		struct interest *i = m->stream.owner;

		member_free(m);
		i->pins--;
		subscriptions_let_go(s, i);
	}
}

void subscription_give_back(struct subscription *sub, struct shard *s)
{
	/* Its place in the queue refers to it. */
	if (!subscription_is(sub, SUBSCRIPTION_QUEUED))
		pool_give(&s->audience.subscription_pool, sub);
}

/* In the connection's limit, and everybody's, in one step: other shards may want the last place,
 * too. */
static int take_place(struct connection *c)
{
	struct shard *s = c->shard;

	if (budget_now(s->broker) >= BUDGET_SUBSCRIBERS) {
		s->counters.memory_refused++;
		return -ENOBUFS;
	}
	if (c->subscriptions_n >= s->config->limits.subscriptions_per_connection)
		return -ENOSPC;
	if (atomic_fetch_add(&s->broker->subscriptions, 1) >= s->config->limits.subscriptions) {
		atomic_fetch_sub(&s->broker->subscriptions, 1);
		return -ENOSPC;
	}
	return 0;
}

static struct subscription *make(struct connection *c, const struct subscription_wanted *wanted)
{
	struct shard *s = c->shard;
	struct interest *i =
		is_wild(s, wanted) ? wild_or_new(s, wanted) : find_or_new(s, wanted->name);
	struct subscription *sub = i != NULL ? pool_take(&s->audience.subscription_pool) : NULL;

	if (sub == NULL) {
		if (i != NULL)
			subscriptions_let_go(s, i);
		return NULL;
	}
	*sub = (struct subscription){ .connection = c,
				      .interest = i,
				      .session = wanted->session,
				      .cursor.owner = SUBSCRIPTION_ASKED };
	if (wanted->wire.format->replies)
		subscription_set(sub, SUBSCRIPTION_REPLIES);
	list_init(&sub->cursor.link);
	list_init(&sub->link);
	if (c->subscriptions == NULL)
		c->subscriptions = sub;
	else
		list_append(&c->subscriptions->link, &sub->link);
	c->subscriptions_n++;
	count(s, sub, i, true);
	s->audience.subscriptions_n++;
	return sub;
}

/* Whether it was asked for at its home; false: out of memory. */
static bool ask(struct subscription *sub, const struct subscription_wanted *wanted)
{
	struct connection *c = sub->connection;
	struct interest *i = sub->interest;
	struct subscribe_letter *l =
		subscribe_letter_new(wanted->name, i->named.hash, &wanted->wire);

	if (l == NULL)
		return false;
	l->shard = c->shard->id;
	l->subscription = sub;
	l->replay = wanted->replay;
	l->later = wanted->later;
	l->change = (int64_t)i->subscribers - i->told;
	l->change_responders = (int64_t)i->responders - i->told_responders;
	note_told(i);
	i->unanswered++;
	c->asked++;
	shard_post(c->shard, i->home, LANE_FREE, &l->letter);
	return true;
}

/* The same at every home that its pattern concerns. */
static bool ask_homes(struct subscription *sub, const struct subscription_wanted *wanted)
{
	struct connection *c = sub->connection;
	struct interest *i = sub->interest;
	struct wild *w = i->wild;
	struct pattern_asking *a = pattern_asking_new(&w->pattern, &wanted->wire, w->homes_n);
	struct stream *stream;

	if (a == NULL)
		return false;
	a->shard = c->shard->id;
	a->subscription = sub;
	a->interest = i;
	a->later = wanted->later && wanted->group.len == 0;
	a->newest = wanted->pattern != PATTERN_NONE && wanted->group.len == 0 &&
		    wanted->replay.kind == REPLAY_LAST;
	if (w->pattern.group.len > 0) {
		a->member = member_new(w, &wanted->wire, c->shard->id);
		if (a->member == NULL)
			goto fail;
	}
	a->subscribers = a->member != NULL ? w->members_n : i->subscribers;
	a->responders = a->member != NULL ? w->responders_n : i->responders;
	if (a->newest) {
		stream = interest_stream(i, &wanted->wire);
		if (stream == NULL || stream_pin(stream, &a->pin) != 0)
			goto fail;
		stream->owner = i;
		a->stream = stream;
		list_append(&w->askings, &a->link);
	}
	note_told(i);
	i->unanswered++;
	c->asked++;
	for (unsigned n = 0; n < w->homes_n; n++) {
		a->letters[n].home = w->home + n;
		shard_post(c->shard, w->home + n, LANE_FREE, &a->letters[n].letter);
	}
	return true;
fail:
	if (a->member != NULL) {
		w->members_n--;
		w->responders_n -= wanted->wire.format->replies;
		member_free(a->member);
	}
	pattern_asking_free(a);
	return false;
}

/* Whether nobody need be asked. */
static bool known_here(const struct interest *i, const struct subscription_wanted *wanted)
{
	if (!i->live || wanted->group.len > 0 || wanted->later)
		return false;
	return wanted->replay.kind == REPLAY_NONE ||
	       (i->wild != NULL && wanted->pattern == PATTERN_NONE);
}

int subscription_new(struct connection *c, const struct subscription_wanted *wanted,
		     struct subscription **made)
{
	struct subscription *sub;
	bool known;
	int err;

	*made = NULL;
	if (wanted->pattern != PATTERN_NONE && wanted->replay.kind != REPLAY_NONE &&
	    (wanted->replay.kind != REPLAY_LAST || wanted->replay.n != 1))
		return -EINVAL;
	err = take_place(c);
	if (err != 0)
		return err;
	sub = make(c, wanted);
	if (sub == NULL) {
		atomic_fetch_sub(&c->shard->broker->subscriptions, 1);
		return -ENOMEM;
	}
	known = known_here(sub->interest, wanted);
	if (known                         ? join(sub, &wanted->wire, NULL) != 0
	    : sub->interest->wild != NULL ? !ask_homes(sub, wanted)
					  : !ask(sub, wanted)) {
		leave_place(sub);
		subscription_give_back(sub, c->shard);
		return -ENOMEM;
	}
	if (known)
		stands(sub, NULL);
	if (c->state == CONNECTION_OPEN)
		*made = sub;
	return 0;
}

/* The connection gets its answer; the subscription may be gone then. letter: NULL: there is none
 * that says where it begins. */
static void answer(struct subscription *sub, const struct subscribe_letter *l, bool later,
		   int error)
{
	struct connection *c = sub->connection;
	void *session = sub->session;

	c->asked--;
	if (error == 0 && later) {
		subscription_set(sub, SUBSCRIPTION_HELD);
	} else if (error == 0) {
		stands(sub, l);
	} else {
		leave_place(sub);
		subscription_give_back(sub, c->shard);
		connection_refused_subscription(c, session, error);
	}
	connection_answered(c);
}

/* It has ended while a home was asked. */
static void forget_asked(struct subscription *sub, struct shard *s)
{
	subscription_unset(sub, SUBSCRIPTION_ASKED);
	subscription_give_back(sub, s);
}

void subscription_answered(struct shard *s, struct subscribe_letter *l)
{
	struct interest *i = find(s, l->hash, l->name);
	struct subscription *sub = l->subscription;

	assert(i != NULL && i->unanswered > 0);
	i->unanswered--;
	/* An error or a lack of memory may end the subscription, but not the interest under our
	 * feet. */
	i->pins++;
	/* It has not been counted where there is no topic. */
	if (l->error != 0) {
		i->told -= (uint32_t)l->change;
		i->told_responders -= (uint32_t)l->change_responders;
	}
	if (list_empty(&i->recount))
		list_append(&s->audience.recounts, &i->recount);
	if (l->error == 0) {
		i->live = true;
		i->epoch = l->epoch;
		i->number = l->number;
	}
	if (sub->connection != NULL) {
		if (l->error == 0 && !l->later)
			l->error = join(sub, &l->wire, l);
		answer(sub, l, l->later, l->error);
	} else {
		forget_asked(sub, s);
	}
	i->pins--;
	subscriptions_let_go(s, i);
	subscribe_letter_free(l);
}

int subscription_begin(struct subscription *sub, const struct wire *wire)
{
	int err;

	assert(subscription_is(sub, SUBSCRIPTION_HELD));
	err = join(sub, wire, NULL);
	if (err == 0)
		subscription_unset(sub, SUBSCRIPTION_HELD);
	return err;
}

/* What has been got ready for a subscription that is not to be. */
static void undo_asking(struct shard *s, struct pattern_asking *a)
{
	list_remove(&a->link);
	if (a->stream != NULL)
		stream_unpin(a->stream, &a->pin);
	if (a->member == NULL)
		return;
	member_leave(a->member, s);
	member_free(a->member);
}

void subscription_known(struct shard *s, struct pattern_letter *l)
{
	struct pattern_asking *a = l->asking;
	struct subscription *sub = a->subscription;
	struct interest *i = a->interest;

	if (a->error == 0)
		a->error = l->error;
	if (--a->unanswered > 0)
		return;
	i->unanswered--;
	i->pins++;
	i->live |= a->error == 0;
	if (list_empty(&i->recount))
		list_append(&s->audience.recounts, &i->recount);
	if (sub->connection != NULL && a->error == 0 && !a->later)
		a->error = join_known(sub, a);
	undo_asking(s, a);
	if (sub->connection != NULL)
		answer(sub, NULL, a->later, a->error);
	else
		forget_asked(sub, s);
	i->pins--;
	subscriptions_let_go(s, i);
	pattern_asking_free(a);
}

bool subscription_done(const struct subscription *sub)
{
	return !subscription_is(sub, SUBSCRIPTION_ASKED) && sub->cursor.last_count != 0 &&
	       !subscription_is(sub, SUBSCRIPTION_IN_FLIGHT) &&
	       stream_at_end(sub->stream, &sub->cursor);
}

void subscription_leave(struct subscription *sub)
{
	struct member *m = member_for(sub);

	if (subscription_is(sub, SUBSCRIPTION_ASKED) || sub->cursor.last_count != 0)
		return;
	if (m != NULL)
		member_leave(m, shard_of(sub));
	stream_leave(sub->stream, &sub->cursor);
}

/* Nothing of it is for its client any more but the rest of the message that it is in the middle
 * of. -ENOMEM. */
static int leave_now(struct subscription *sub, enum drop_reason reason)
{
	int err;

	settle(sub);
	subscription_leave(sub);
	lose(sub, stream_skip(sub->stream, &sub->cursor, &err), reason);
	return err;
}

/*
 * Lets a subscriber that holds up too much go: it keeps the rest of the message that it is in the
 * middle of and misses what comes after; then it goes on at the head or, if its topic wants that,
 * is told so and closed.
 */
static void let_skip(struct subscription *sub)
{
	struct connection *c = sub->connection;
	struct shard *s = c->shard;
	const struct interest *i = subscription_interest(sub);
	/* One that is about to end has nothing to go on to. */
	bool disconnect = c->state == CONNECTION_FINISHING || i->settings->slow == SLOW_DISCONNECT;
	enum drop_reason reason = disconnect ? DROP_SLOW : DROP_SKIPPED;
	uint64_t before = s->counters.dropped[reason];
	int err = 0;

	subscription_unset(sub, SUBSCRIPTION_SKIP);
	if (disconnect) {
		c->reason = DROP_SLOW;
		err = leave_now(sub, reason);
	} else {
		settle(sub);
		lose(sub, stream_skip(sub->stream, &sub->cursor, &err), reason);
	}
	PROBE(slow, s->id, c->socket.fd, i->named.name.data, i->named.name.len,
	      s->counters.dropped[reason] - before, disconnect);
	if (err != 0) {
		connection_close(c, DROP_SLOW);
	} else if (disconnect) {
		c->farewell = c->protocol->say(c, REASON_SLOW);
		connection_finish(c, c->farewell);
		connection_limit_closing(c);
	} else if (stream_wants_sends(sub->stream)) {
		shard_dirty(s, sub->stream);
		pace_hurry(s, sub->stream);
	}
	if (err == 0 && !disconnect && s->counters.dropped[reason] > before &&
	    c->protocol->missed != NULL && c->state == CONNECTION_OPEN)
		c->protocol->missed(c, sub);
}

void subscription_go_on(struct subscription *sub)
{
	stream_unhold(sub->stream, &sub->cursor);
	if (stream_wants_sends(sub->stream))
		shard_dirty(shard_of(sub), sub->stream);
}

void subscription_cut(struct subscription *sub, enum drop_reason reason)
{
	struct connection *c = sub->connection;

	if (c->middle != sub)
		subscription_free(sub, reason);
	else if (!cursor_detached(&sub->cursor) && leave_now(sub, reason) != 0)
		connection_close(c, DROP_MEMORY);
	else if (stream_wants_sends(sub->stream))
		shard_dirty(c->shard, sub->stream);
}

/* From here on it does not count, though it may still be there for a while. */
static void become_unwanted(struct subscription *sub)
{
	struct interest *i = subscription_interest(sub);

	sub->session = NULL;
	if (!subscription_is(sub, SUBSCRIPTION_UNWANTED)) {
		i->pins++;
		count(shard_of(sub), sub, i, false);
	}
	subscription_set(sub, SUBSCRIPTION_UNWANTED);
}

void subscription_end(struct subscription *sub)
{
	struct connection *c = sub->connection;
	uint32_t asked = c->asked;

	become_unwanted(sub);
	subscription_unset(sub, SUBSCRIPTION_ENOUGH);
	if (!subscription_is(sub, SUBSCRIPTION_IN_FLIGHT))
		subscription_cut(sub, DROP_CLOSED);
	/* A barrier, or a command, may have waited for this one's answer alone. */
	if (c->asked < asked && c->asked == 0 && c->state == CONNECTION_OPEN) {
		c->resumes = true;
		connection_turn(c);
	}
}

void subscription_sent(struct subscription *sub, size_t bytes)
{
	struct connection *c = sub->connection;
	struct shard *s = c->shard;
	struct stream *stream = sub->stream;
	const struct interest *i = stream->owner;
	bool whole = sub->cursor.goal_whole && bytes == sub->cursor.goal_bytes;
	uint64_t from = sub->cursor.pos;

	subscription_unset(sub, SUBSCRIPTION_IN_FLIGHT);
	PROBE(sent, s->id, c->socket.fd, i->named.name.data, i->named.name.len, bytes,
	      s->reactor.now_ns - c->socket.sent_ns);
	s->counters.delivered += stream_sent(stream, &sub->cursor, bytes);
	if (latency_reached(stream, &sub->cursor, from))
		latency_count(s, sub);
	if (stream->unnumbered)
		note_taken(sub);
	if (whole && c->middle == NULL && c->state == CONNECTION_OPEN &&
	    !(sub->cursor.owner & (SUBSCRIPTION_SKIP | SUBSCRIPTION_UNWANTED))) {
		if (stream_wants_sends(stream))
			shard_dirty(s, stream);
		return;
	}
	if (c->state == CONNECTION_CLOSED)
		return;
	if (!whole && !stream_between(stream, &sub->cursor))
		c->middle = sub;
	else if (c->middle == sub)
		c->middle = NULL;
	/* Whoever does not want it any more has nothing to go on to. */
	if (subscription_is(sub, SUBSCRIPTION_UNWANTED) &&
	    !subscription_is(sub, SUBSCRIPTION_ENOUGH)) {
		if (stream_wants_sends(stream))
			shard_dirty(s, stream);
		subscription_cut(sub, DROP_CLOSED);
		return;
	}
	if (subscription_is(sub, SUBSCRIPTION_SKIP) && !stream_at_end(stream, &sub->cursor)) {
		let_skip(sub);
		return;
	}
	/* Its send has brought it to the head after all. */
	subscription_unset(sub, SUBSCRIPTION_SKIP);
	if (stream_wants_sends(stream))
		shard_dirty(s, stream);
	if (subscription_done(sub) &&
	    (c->state == CONNECTION_FINISHING || subscription_is(sub, SUBSCRIPTION_ENOUGH)))
		subscription_free(sub, (enum drop_reason)c->reason);
}

void subscription_queue(struct subscription *sub)
{
	struct connection *c = sub->connection;

	stream_hold(sub->stream, &sub->cursor);
	/* The rest of a message goes before anybody whose turn it is. */
	if (c->middle == sub || subscription_is(sub, SUBSCRIPTION_QUEUED))
		return;
	subscription_set(sub, SUBSCRIPTION_QUEUED);
	sub->next = c->queue != NULL ? c->queue->next : sub;
	if (c->queue != NULL)
		c->queue->next = sub;
	c->queue = sub;
}

void subscription_free(struct subscription *sub, enum drop_reason reason)
{
	struct connection *c = sub->connection;
	struct shard *s = c->shard;
	bool asked = subscription_is(sub, SUBSCRIPTION_ASKED);

	assert(!subscription_is(sub, SUBSCRIPTION_IN_FLIGHT));
	if (!asked) {
		settle(sub);
		if (member_for(sub) != NULL)
			member_leave(member_for(sub), s);
		lose(sub, stream_remove(sub->stream, &sub->cursor), reason);
		subscriptions_hold(s, sub->stream);
		subscriptions_press(s, sub->stream);
	}
	leave_place(sub);
	if (asked && !subscription_is(sub, SUBSCRIPTION_HELD))
		c->asked--; /* the letter that comes back finds that it has ended */
	else
		subscription_give_back(sub, s);
}

/* Calls for each subscription of a stream whose cursor is in that list; the callback may take it
 * out of any list, and others too. */
static void each_in(struct list *list, void (*callback)(struct subscription *, void *),
		    void *argument)
{
	struct list todo, *l;

	/* No marker may stand among cursors: the callback looks at who is first. */
	list_init(&todo);
	list_splice(&todo, list);
	while ((l = list_take(&todo)) != NULL) {
		list_append(list, l);
		callback(LIST_ENTRY(l, struct subscription, cursor.link), argument);
	}
}

static void say_bye(struct subscription *sub, void *argument)
{
	struct connection *c = sub->connection;

	(void)argument;
	if (sub->cursor.last_count == 0 && c->state == CONNECTION_OPEN)
		connection_finish(c, c->protocol->farewell(c, true));
}

void subscriptions_bye(struct shard *s, struct topic_letter *l)
{
	struct interest *i = find(s, l->hash, l->name);

	if (i != NULL) {
		/* It must outlive its subscribers' leaving here. */
		i->pins++;
		for (struct stream *stream = i->streams; stream != NULL; stream = stream->next) {
			each_in(&stream->idle, say_bye, NULL);
			each_in(&stream->ready, say_bye, NULL);
			each_in(&stream->replaying, say_bye, NULL);
			each_in(&stream->busy, say_bye, NULL);
		}
		i->pins--;
		subscriptions_let_go(s, i);
	}
	free(l);
}

void subscription_overtake(struct subscription *sub)
{
	struct connection *c = sub->connection;

	if (c->state == CONNECTION_CLOSED || subscription_is(sub, SUBSCRIPTION_SKIP))
		return;
	/* One that ends and has skipped already holds nothing up any more. */
	if (c->state != CONNECTION_OPEN &&
	    (cursor_detached(&sub->cursor) || subscription_done(sub)))
		return;
	if (subscription_is(sub, SUBSCRIPTION_IN_FLIGHT) && !cursor_detached(&sub->cursor)) {
		/* Its send may never end by itself. */
		subscription_set(sub, SUBSCRIPTION_SKIP);
		socket_cancel_send(&c->shard->sockets, &c->socket);
	} else {
		let_skip(sub);
	}
}

struct bound {
	struct shard *shard;
	uint64_t bytes_max, lag_max;
	uint64_t before_ns;
	bool begun; /* somebody has been dealt with in this part of the turn, */
	bool spent; /* there is no time to deal with more, */
	bool left;  /* and there were more */
};

static void overtake(struct subscription *sub, struct bound *bound)
{
	struct reactor *r = &bound->shard->reactor;

	if (bound->spent) {
		bound->left = true;
		return;
	}
	if (!bound->begun)
		reactor_part(r, PART_CLIENTS);
	bound->begun = true;
	subscription_overtake(sub);
	reactor_spend(r, OVERTAKE_COST);
	bound->spent = reactor_spent(r);
}

static void measure(struct subscription *sub, void *argument)
{
	struct bound *bound = argument;
	uint64_t lag = cursor_lag(sub->stream, &sub->cursor);

	if (lag > bound->lag_max)
		bound->lag_max = lag;
}

static void bound_bytes(struct subscription *sub, void *argument)
{
	struct bound *bound = argument;

	if (cursor_lag(sub->stream, &sub->cursor) > bound->bytes_max)
		overtake(sub, bound);
	else
		measure(sub, argument);
}

/* Deals with those who have more bytes of this stream before them than they may. True: there are
 * more than there is time for. */
static bool bound_stream_bytes(struct stream *stream, struct bound *bound)
{
	const struct interest *i = stream->owner;

	bound->bytes_max = i->settings->backlog_bytes;
	bound->lag_max = 0;
	if (!stream_overrun(stream, bound->bytes_max))
		return false;
	/* Those with a send in flight are slow themselves, and those who replay do not get to what
	 * is live in time; the ready ones wait for us, and hold up what comes in
	 * (subscriptions_press). */
	each_in(&stream->busy, bound_bytes, bound);
	each_in(&stream->replaying, bound_bytes, bound);
	if (bound->left)
		return true;
	/* Any of them may be the furthest behind, and be busy the next time. */
	each_in(&stream->ready, measure, bound);
	stream_looked(stream,
		      bound->lag_max < bound->bytes_max ? bound->lag_max : bound->bytes_max);
	return false;
}

bool subscriptions_bound_bytes(struct shard *s)
{
	struct bound bound = { .shard = s };
	struct list *link;

	while (!bound.left && (link = list_take(&s->audience.appended)) != NULL) {
		struct stream *stream = LIST_ENTRY(link, struct stream, appended);
		struct interest *i = stream->owner;

		i->pins++;
		if (bound_stream_bytes(stream, &bound))
			list_append(&s->audience.appended, link);
		i->pins--;
		subscriptions_let_go(s, i);
	}
	return bound.left;
}

/* Whether it has passed this mark upwards, or half of it downwards. */
static bool passes(bool *above, uint64_t lag, uint64_t mark)
{
	bool before = *above;

	*above = lag > (before ? mark / 2 : mark);
	return *above != before;
}

/* One more, or one less, of a pattern's streams lags so far that publishers have to wait: those of
 * the topics that come from then on (hold_topic). */
static void hold_wild(struct shard *s, struct wild *w, bool more)
{
	w->holding += more ? 1 : UINT32_MAX;
	if (w->holding > 0 || w->held == NULL)
		return;
	shard_release_holds(s, w->held);
	memory_free(w->held);
	w->held = NULL;
}

/* Without memory for it its topic does not wait; the shard will (subscriptions_press). */
static void hold_topic(struct shard *s, struct wild *w, uint64_t hash)
{
	unsigned bucket = hash % HOLD_BUCKETS;
	uint64_t bit = UINT64_C(1) << bucket % 64;

	if (w->held == NULL)
		w->held = memory_new_zeroed(HOLD_BUCKETS / 8);
	if (w->held == NULL || (w->held[bucket / 64] & bit))
		return;
	w->held[bucket / 64] |= bit;
	shard_hold(s, bucket);
}

void subscriptions_hold(struct shard *s, struct stream *stream)
{
	const struct interest *i = stream->owner;

	if (!passes(&stream->held, stream_ready_lag(stream), i->settings->backlog_bytes / 8 * 3))
		return;
	if (i->wild != NULL)
		hold_wild(s, i->wild, stream->held);
	else if (stream->held)
		shard_hold(s, i->named.hash);
	else
		shard_release_hold(s, i->named.hash);
}

void subscriptions_press(struct shard *s, struct stream *stream)
{
	const struct interest *i = stream->owner;

	if (!passes(&stream->pressed, stream_ready_lag(stream), i->settings->backlog_bytes / 8 * 6))
		return;
	if (stream->pressed) {
		s->audience.pressed++;
	} else {
		s->audience.pressed--;
		s->audience.relieved = true;
	}
}

static uint64_t received_ns(const struct block *b)
{
	return b->stamped_ns - b->travelled_ns;
}

/* By what was there before: a block is no lag until it has had a turn. */
static void about_to_append(struct shard *s, struct stream *stream, const struct block *b)
{
	const struct interest *i = stream->owner;

	subscriptions_hold(s, stream);
	if (stream->held && i->wild != NULL)
		hold_topic(s, i->wild, b->hash);
}

static void appended(struct shard *s, struct stream *stream, uint64_t received_ns)
{
	latency_appended(stream, received_ns, s->reactor.now_ns);
	shard_active(s, stream);
	shard_dirty(s, stream);
	if (stream->pace.until_ns != 0)
		pace_appended(s, stream);
	if (list_empty(&stream->appended))
		list_append(&s->audience.appended, &stream->appended);
	subscriptions_press(s, stream);
}

/* Its stream has no words for it. */
static void say_gap(struct subscription *sub, void *argument)
{
	struct connection *c = sub->connection;
	struct shard *s = argument;

	if (sub->cursor.last_count != 0 || c->state != CONNECTION_OPEN)
		return;
	if (!c->protocol->promises_nothing) {
		connection_error(c, REASON_GAP);
		return;
	}
	s->counters.matched++;
	s->counters.dropped[DROP_GAP]++;
}

static void tell_gap(struct shard *s, struct stream *stream, const struct gap_letter *l)
{
	uint64_t receivers = stream->cursors;

	if (receivers > 0 &&
	    stream_tell_gap(stream, l->epoch, l->number + 1, l->seq + 1, s->reactor.now_ns)) {
		s->counters.matched += receivers;
		appended(s, stream, s->reactor.now_ns);
		return;
	}
	each_in(&stream->idle, say_gap, s);
	each_in(&stream->ready, say_gap, s);
	each_in(&stream->replaying, say_gap, s);
	each_in(&stream->busy, say_gap, s);
}

void subscriptions_gap(struct shard *s, struct gap_letter *l)
{
	struct interest *i = find(s, l->hash, l->name);

	if (i != NULL && i->live) {
		i->epoch = l->epoch;
		i->number = l->number;
		/* It must outlive its subscribers' leaving here. */
		i->pins++;
		for (struct stream *stream = i->streams; stream != NULL; stream = stream->next)
			tell_gap(s, stream, l);
		i->pins--;
		subscriptions_let_go(s, i);
	}
	free(l);
}

/* It has all that it is to get before it. */
static void have_enough(struct subscription *sub)
{
	struct connection *c = sub->connection;
	void *session = sub->session;

	become_unwanted(sub);
	subscription_set(sub, SUBSCRIPTION_ENOUGH);
	subscription_leave(sub);
	if (session != NULL && c->state == CONNECTION_OPEN)
		c->protocol->enough(c, session);
}

int subscription_limit(struct subscription *sub, uint64_t count)
{
	struct interest *i = subscription_interest(sub);
	struct limit *limit;

	forget_limit(i, sub);
	if (sub->stream->count >= count) {
		have_enough(sub);
		if (!subscription_is(sub, SUBSCRIPTION_IN_FLIGHT) && subscription_done(sub))
			subscription_free(sub, DROP_CLOSED);
		return 0;
	}
	limit = memory_new(sizeof(*limit));
	if (limit == NULL)
		return -ENOMEM;
	*limit = (struct limit){ .by_count.key = { count, (uintptr_t)sub },
				 .by_subscription.key = { (uintptr_t)sub, 0 },
				 .subscription = sub };
	tree_add(&sub->stream->limits, &limit->by_count);
	tree_add(&i->limits, &limit->by_subscription);
	return 0;
}

/* Those in this stream that are limited to where it is have enough. */
static void check_limits(struct interest *i, const struct stream *stream)
{
	struct tree_entry *e;

	while ((e = tree_first(&stream->limits)) != NULL && e->key[0] <= stream->count) {
		struct limit *limit = (struct limit *)(void *)e;
		struct subscription *sub = limit->subscription;

		limit_free(i, limit);
		have_enough(sub);
	}
}

/* How many of so many messages may go into the stream before somebody has enough; 1 at least. */
static uint32_t until_limit(const struct stream *stream, uint32_t n)
{
	const struct tree_entry *e = tree_first(&stream->limits);
	uint64_t left = e != NULL ? e->key[0] - stream->count : n;

	if (left >= n)
		return n;
	return left > 0 ? (uint32_t)left : 1;
}

/* In pieces that end where somebody has enough: nothing that is appended is for them then. */
static void append_limited(struct shard *s, struct stream *stream, struct block *b)
{
	struct interest *i = stream->owner;

	about_to_append(s, stream, b);
	for (uint32_t at = 0, n; at < b->messages && (stream->cursors > 0 || stream->pins > 0);
	     at += n) {
		uint64_t receivers = stream->cursors;
		uint32_t carried;
		int error;

		n = until_limit(stream, b->messages - at);
		carried = stream_append_part(stream, b, at, n, s->reactor.now_ns, &error);
		s->counters.matched += n * receivers;
		s->counters.dropped[error == 0 ? DROP_UNENCODABLE : DROP_MEMORY] +=
			(n - carried) * receivers;
		if (carried > 0)
			appended(s, stream, received_ns(b));
		check_limits(i, stream);
	}
}

static void append(struct shard *s, struct stream *stream, struct block *b)
{
	const struct wire_format *format = stream->wire.format;
	uint64_t receivers = stream->cursors;
	uint32_t carried;
	int error;

	if (format->wants != NULL && !format->wants(&stream->wire, block_name(b)))
		return;
	if (stream->limits.root != NULL) {
		append_limited(s, stream, b);
		return;
	}
	about_to_append(s, stream, b);
	carried = stream_append(stream, b, s->reactor.now_ns, &error);
	s->counters.matched += b->messages * receivers;
	s->counters.dropped[error == 0 ? DROP_UNENCODABLE : DROP_MEMORY] +=
		(b->messages - carried) * receivers;
	if (carried > 0)
		appended(s, stream, received_ns(b));
}

/* To whoever wants a pattern that its topic is matched by. */
static void deliver_wild(struct shard *s, struct block *b)
{
	struct interest *const *of;
	uint32_t n;

	of = wilds_match(&s->audience.wilds, b, &n);
	for (uint32_t k = 0; k < n; k++) {
		struct interest *i = of[k];

		if (i->settings_n != s->audience.settings_n)
			configure(s, i);
		for (struct list *l = i->wild->askings.next; l != &i->wild->askings; l = l->next)
			pattern_asking_note(LIST_ENTRY(l, struct pattern_asking, link), b);
		for (struct stream *stream = i->streams; stream != NULL; stream = stream->next)
			if (stream->cursors > 0 || stream->pins > 0)
				append(s, stream, b);
	}
}

void subscriptions_deliver(struct shard *s, struct block *b)
{
	struct interest *i = find(s, b->hash, block_name(b));

	s->counters.blocks_delivered++;
	if (i != NULL && i->live) {
		i->epoch = b->epoch;
		i->number = block_number(b) + b->messages - 1;
		for (struct stream *stream = i->streams; stream != NULL; stream = stream->next)
			if (stream->cursors > 0)
				append(s, stream, b);
	}
	if (!patterns_empty(&s->audience.wilds.patterns))
		deliver_wild(s, b);
	block_unref(b);
}

static void append_lot(struct shard *s, struct member *m, const struct deal_letter *l,
		       const struct dealt *lot)
{
	struct block *b = l->block;
	uint32_t carried;
	int error;

	about_to_append(s, &m->stream, b);
	carried = stream_append_part(&m->stream, b, lot->first, lot->n, s->reactor.now_ns, &error);
	s->counters.matched += l->matched ? 0 : lot->n;
	s->counters.dropped[error == 0 ? DROP_UNENCODABLE : DROP_MEMORY] += lot->n - carried;
	if (carried == 0)
		return;
	member_dealt(m, b, lot, l->tries);
	appended(s, &m->stream, received_ns(b));
}

/* Each alone where some have a form and some have none, for it must be known which a member lacks;
 * or where it may have enough. Returns how many it has taken. */
static uint32_t append_dealt(struct shard *s, struct member *m, const struct deal_letter *l,
			     const struct dealt *lot)
{
	struct interest *i = m->stream.owner;
	bool limited = m->stream.limits.root != NULL;
	const struct wire *wire = &m->stream.wire;
	struct run run = block_part(l->block, lot->first, lot->n);
	uint32_t n = wire->format->encodable(wire, &run);

	if ((n == 0 || n == lot->n) && !limited) {
		append_lot(s, m, l, lot);
		return lot->n;
	}
	for (uint32_t k = 0; k < lot->n; k++) {
		if (m->stream.cursors == 0)
			return k;
		append_lot(s, m, l, &(struct dealt){ lot->first + k, 1 });
		if (limited)
			check_limits(i, &m->stream);
	}
	return lot->n;
}

/* What nobody here takes goes back, to be dealt to others. */
static void refuse(struct shard *s, struct deal_letter *l)
{
	uint32_t messages = 0;

	for (uint32_t k = 0; k < l->lots_n; k++)
		messages += l->lots[k].n;
	if (!l->matched)
		s->counters.matched += messages;
	l->matched = true;
	if (l->tries == DEAL_REFUSALS_MAX || s->drain.draining) {
		s->counters.dropped[DROP_CLOSED] += messages;
		deal_letter_free(l);
		return;
	}
	l->letter.kind = LETTER_DEAL_AGAIN;
	l->shard = s->id;
	l->refused = true;
	l->tries++;
	shard_post(s, shard_home(s, l->block->hash), LANE_FREE, &l->letter);
}

void subscriptions_dealt(struct shard *s, struct deal_letter *l)
{
	struct wild *w =
		(struct wild *)(void *)table_find(&s->audience.wilds.groups, l->hash, l->key);
	uint32_t refused = 0;

	if (w != NULL && w->interest->settings_n != s->audience.settings_n)
		configure(s, w->interest);
	for (uint32_t k = 0; k < l->lots_n; k++) {
		struct member *m = w != NULL ? member_choose(w, l->block) : NULL;

		struct dealt lot = l->lots[k];
		uint32_t taken = m != NULL ? append_dealt(s, m, l, &lot) : 0;

		if (taken < lot.n)
			l->lots[refused++] = (struct dealt){ lot.first + taken, lot.n - taken };
	}
	l->lots_n = refused;
	if (refused > 0)
		refuse(s, l);
	else
		deal_letter_free(l);
}

static void bound_time(struct subscription *sub, void *argument)
{
	struct bound *bound = argument;
	uint64_t since = cursor_behind_since(&sub->cursor);

	if ((since != 0 && since < bound->before_ns) ||
	    (subscription_is(sub, SUBSCRIPTION_IN_FLIGHT) && !cursor_detached(&sub->cursor) &&
	     sub->connection->socket.sent_ns < bound->before_ns))
		overtake(sub, bound);
}

/* True: there are more to be dealt with than there is time for. */
static bool bound_stream_time(struct shard *s, struct stream *stream)
{
	const struct interest *i = stream->owner;
	uint64_t now_ns = s->reactor.now_ns, limit_ns = i->settings->backlog_seconds * NS_PER_S;
	struct bound bound = { .shard = s,
			       .begun = true,
			       .before_ns = now_ns > limit_ns ? now_ns - limit_ns : 0 };

	each_in(&stream->ready, bound_time, &bound);
	each_in(&stream->busy, bound_time, &bound);
	if (now_ns - stream->appended_ns >= REST_AFTER_MS * NS_PER_MS && stream_rest(stream))
		list_remove(&stream->active);
	return bound.left;
}

bool subscriptions_bound_time(struct shard *s)
{
	list_splice(&s->audience.untimed, &s->audience.active);
	return !list_empty(&s->audience.untimed);
}

bool subscriptions_bound_time_some(struct shard *s)
{
	struct list *l;
	bool left = false;

	while (!left && (l = list_take(&s->audience.untimed)) != NULL) {
		struct stream *stream = LIST_ENTRY(l, struct stream, active);
		struct interest *i = stream->owner;

		list_append(&s->audience.active, l);
		/* Whoever is closed may take the interest with it. */
		i->pins++;
		left = bound_stream_time(s, stream);
		if (left) {
			list_remove(l);
			list_append(&s->audience.untimed, l);
		}
		i->pins--;
		subscriptions_let_go(s, i);
		reactor_spend(&s->reactor, LOOK_COST);
		left |= reactor_spent(&s->reactor);
	}
	return !list_empty(&s->audience.untimed);
}

/* False: out of memory. */
static bool tell_topic(struct shard *s, struct interest *i)
{
	struct topic_letter *l = topic_letter_new(LETTER_RECOUNT, i->named.name, i->named.hash);

	if (l == NULL)
		return false;
	l->change = (int64_t)i->subscribers - i->told;
	l->change_responders = (int64_t)i->responders - i->told_responders;
	note_told(i);
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
	note_told(i);
	wild_tell(i->wild, l, i->subscribers, i->responders, s);
	return true;
}

void subscriptions_recount(struct shard *s)
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

void subscriptions_configure(struct shard *s)
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

bool subscriptions_configure_some(struct shard *s)
{
	struct audience *a = &s->audience;

	while (a->unconfigured > 0 && !reactor_spent(&s->reactor)) {
		struct interest *i = step(a);

		reactor_spend(&s->reactor, 1);
		if (i == NULL || i->settings_n == a->settings_n)
			continue;
		configure(s, i);
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

void subscriptions_release(struct shard *s)
{
	struct audience *a = &s->audience;
	struct named *n;

	subscriptions_reap(s);
	for (size_t at = 0; (n = table_next(&a->interests, &at)) != NULL;)
		interest_free((struct interest *)(void *)n);
	table_release(&a->interests);
	for (size_t at = 0; (n = table_next(&a->wilds.patterns.keys, &at)) != NULL; at = 0)
		release_wild(s, (struct wild *)(void *)n);
	for (size_t at = 0; (n = table_next(&a->wilds.groups, &at)) != NULL; at = 0)
		release_wild(s, (struct wild *)(void *)n);
	wilds_release(&a->wilds);
}
