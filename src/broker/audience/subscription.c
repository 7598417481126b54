#include "broker/subscription.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/probe.h"
#include "base/tree.h"
#include "broker/connection.h"
#include "broker/interests.h"
#include "broker/members.h"
#include "broker/patterns.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "topic/interest.h"

static struct shard *shard_of(const struct subscription *sub)
{
	return sub->connection->shard;
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

void subscription_leave_place(struct subscription *sub)
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
		interests_count(s, sub, i, false);
	forget_limit(i, sub);
	interests_let_go(s, i);
}

void subscription_give_back(struct subscription *sub, struct shard *s)
{
	/* Its place in the queue refers to it. */
	if (!subscription_is(sub, SUBSCRIPTION_QUEUED))
		pool_give(&s->audience.subscription_pool, sub);
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
		s->audience.events->broken(c, DROP_SLOW);
	} else if (disconnect) {
		s->audience.events->slow(c);
	} else if (stream_wants_sends(sub->stream)) {
		audience_dirty(s, sub->stream);
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
		audience_dirty(shard_of(sub), sub->stream);
}

void subscription_cut(struct subscription *sub, enum drop_reason reason)
{
	struct connection *c = sub->connection;

	if (c->middle != sub)
		subscription_free(sub, reason);
	else if (!cursor_detached(&sub->cursor) && leave_now(sub, reason) != 0)
		c->shard->audience.events->broken(c, DROP_MEMORY);
	else if (stream_wants_sends(sub->stream))
		audience_dirty(c->shard, sub->stream);
}

/* From here on it does not count, though it may still be there for a while. */
static void become_unwanted(struct subscription *sub)
{
	struct interest *i = subscription_interest(sub);

	sub->session = NULL;
	if (!subscription_is(sub, SUBSCRIPTION_UNWANTED)) {
		i->pins++;
		interests_count(shard_of(sub), sub, i, false);
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
	if (c->asked < asked && c->asked == 0 && c->state == CONNECTION_OPEN)
		c->shard->audience.events->waits_no_more(c);
}

/* ---- barriers ---- */

enum { BARRIER_TICK_BITS = 22 }; /* 4 ms: a barrier that waits for over four minutes waits on */

void subscription_barrier(struct connection *c)
{
	c->barrier_at = (uint16_t)(c->shard->reactor.now_ns >> BARRIER_TICK_BITS);
}

bool subscription_barred(const struct subscription *sub)
{
	uint64_t now = shard_of(sub)->reactor.now_ns >> BARRIER_TICK_BITS;
	uint64_t at = now - (uint16_t)(now - sub->connection->barrier_at);

	return !subscription_is(sub, SUBSCRIPTION_ASKED) &&
	       stream_came_by(sub->stream, &sub->cursor, ((at + 1) << BARRIER_TICK_BITS) - 1);
}

/* ---- sends ---- */

/* It has not all gone, or something ends: what becomes of it. Whether it is still there. Out of
 * line, where what goes as a whole does not pay for it. */
static bool __attribute__((noinline)) sent_in_part(struct subscription *sub, bool whole)
{
	struct connection *c = sub->connection;
	struct shard *s = c->shard;
	struct stream *stream = sub->stream;

	if (c->state == CONNECTION_CLOSED)
		return false;
	if (!whole && !stream_between(stream, &sub->cursor))
		c->middle = sub;
	else if (c->middle == sub)
		c->middle = NULL;
	/* Whoever does not want it any more has nothing to go on to. */
	if (subscription_is(sub, SUBSCRIPTION_UNWANTED) &&
	    !subscription_is(sub, SUBSCRIPTION_ENOUGH)) {
		if (stream_wants_sends(stream))
			audience_dirty(s, stream);
		subscription_cut(sub, DROP_CLOSED);
		return false;
	}
	if (subscription_is(sub, SUBSCRIPTION_SKIP) && !stream_at_end(stream, &sub->cursor)) {
		let_skip(sub);
		return false;
	}
	/* Its send has brought it to the head after all. */
	subscription_unset(sub, SUBSCRIPTION_SKIP);
	if (stream_wants_sends(stream))
		audience_dirty(s, stream);
	if (subscription_done(sub) &&
	    (c->state == CONNECTION_FINISHING || subscription_is(sub, SUBSCRIPTION_ENOUGH))) {
		subscription_free(sub, (enum drop_reason)c->reason);
		return false;
	}
	return true;
}

/* Whether it is still there. */
static inline __attribute__((always_inline)) bool sent(struct subscription *sub, size_t bytes)
{
	struct connection *c = sub->connection;
	struct shard *s = c->shard;
	struct stream *stream = sub->stream;
	const struct interest *i = stream->owner;
	bool whole = sub->cursor.goal_whole && bytes == sub->cursor.goal_bytes;

	subscription_unset(sub, SUBSCRIPTION_IN_FLIGHT);
	PROBE(sent, s->id, c->socket.fd, i->named.name.data, i->named.name.len, bytes,
	      s->reactor.now_ns - c->socket.sent_ns);
	if (stream->followed.left > 0)
		latency_sent(s, sub, bytes);
	s->counters.delivered += stream_sent(stream, &sub->cursor, bytes);
	if (stream->unnumbered)
		note_taken(sub);
	if (!whole || c->middle != NULL || c->state != CONNECTION_OPEN ||
	    (sub->cursor.owner & (SUBSCRIPTION_SKIP | SUBSCRIPTION_UNWANTED)))
		return sent_in_part(sub, whole);
	if (stream_wants_sends(stream))
		audience_dirty(s, stream);
	return true;
}

void subscription_sent(struct subscription *sub, size_t bytes)
{
	(void)sent(sub, bytes);
}

void subscription_sent_barred(struct subscription *sub, size_t bytes)
{
	if (sent(sub, bytes) && subscription_barred(sub))
		subscription_queue(sub);
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

void subscription_queue_if_behind(struct subscription *sub)
{
	if (subscription_is(sub, SUBSCRIPTION_ASKED) ||
	    subscription_is(sub, SUBSCRIPTION_IN_FLIGHT))
		return;
	if (!stream_at_end(sub->stream, &sub->cursor))
		subscription_queue(sub);
}

void subscription_hold(struct subscription *sub)
{
	stream_hold(sub->stream, &sub->cursor);
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
		audience_hold(s, sub->stream);
		audience_press(s, sub->stream);
	}
	subscription_leave_place(sub);
	if (asked && !subscription_is(sub, SUBSCRIPTION_HELD))
		c->asked--; /* the letter that comes back finds that it has ended */
	else
		subscription_give_back(sub, s);
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

/* Whether it is gone. */
static bool end_with_enough(struct subscription *sub)
{
	have_enough(sub);
	if (subscription_is(sub, SUBSCRIPTION_IN_FLIGHT) || !subscription_done(sub))
		return false;
	subscription_free(sub, DROP_CLOSED);
	return true;
}

bool subscription_retire(struct subscription *sub)
{
	sub->session = NULL;
	if (!subscription_is(sub, SUBSCRIPTION_ASKED))
		return end_with_enough(sub);
	subscription_end(sub);
	return true;
}

int subscription_limit(struct subscription *sub, uint64_t count)
{
	struct interest *i = subscription_interest(sub);
	struct limit *limit;

	forget_limit(i, sub);
	if (sub->stream->count >= count) {
		(void)end_with_enough(sub);
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

void subscriptions_enough(struct interest *i, const struct stream *stream)
{
	struct tree_entry *e;

	while ((e = tree_first(&stream->limits)) != NULL && e->key[0] <= stream->count) {
		struct limit *limit = (struct limit *)(void *)e;
		struct subscription *sub = limit->subscription;

		limit_free(i, limit);
		have_enough(sub);
	}
}

uint32_t subscriptions_until_enough(const struct stream *stream, uint32_t n)
{
	const struct tree_entry *e = tree_first(&stream->limits);
	uint64_t left = e != NULL ? e->key[0] - stream->count : n;

	if (left >= n)
		return n;
	return left > 0 ? (uint32_t)left : 1;
}
