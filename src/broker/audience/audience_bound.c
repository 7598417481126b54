#include "broker/audience.h"

#include "base/clock.h"
#include "broker/connection.h"
#include "broker/interests.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/interest.h"

enum {
	REST_AFTER_MS = 1000,
	OVERTAKE_COST = 8,   /* of a subscriber that is let go */
	LOOK_COST = 2,       /* of a stream that is looked at for what is too old */
	MEASURED_MAX = 1024, /* ready cursors; of more nobody knows who is furthest behind */
	MISSED_PART = 8,     /* of a backlog that may come until those who were missed are found */
};

struct bound {
	struct shard *shard;
	uint64_t bytes_max, lag_max;
	uint64_t before_ns;
};

static void overtake(struct subscription *sub, const struct bound *bound)
{
	subscription_overtake(sub);
	reactor_spend(&bound->shard->reactor, OVERTAKE_COST);
}

static bool too_old(const struct subscription *sub, const struct bound *bound)
{
	uint64_t since = cursor_behind_since(&sub->cursor);

	return (since != 0 && since < bound->before_ns) ||
	       (subscription_is(sub, SUBSCRIPTION_IN_FLIGHT) && !cursor_detached(&sub->cursor) &&
		sub->connection->socket.sent_ns < bound->before_ns);
}

static void look(struct subscription *sub, void *argument)
{
	struct bound *bound = argument;
	uint64_t lag = cursor_lag(sub->stream, &sub->cursor);

	if (lag > bound->bytes_max || too_old(sub, bound))
		overtake(sub, bound);
	else if (lag > bound->lag_max)
		bound->lag_max = lag;
}

/* Those who have waited longest come first; of the others each has its turn soon, and is slow
 * itself if it does not end. False: there are more than there is time for. */
static bool let_old_ready_go(struct stream *stream, struct bound *bound)
{
	struct reactor *r = &bound->shard->reactor;

	while (!list_empty(&stream->ready)) {
		struct subscription *sub =
			LIST_ENTRY(stream->ready.next, struct subscription, cursor.link);

		if (!too_old(sub, bound))
			return true;
		overtake(sub, bound);
		/* There was no memory to skip with. */
		if (stream->ready.next == &sub->cursor.link)
			return true;
		if (reactor_spent(r))
			return false;
	}
	return true;
}

/* Whether it is known how far behind the furthest of those is who wait for us. Any of them may be
 * busy the next time. */
static bool measure_ready(struct stream *stream, struct bound *bound)
{
	unsigned n = 0;

	for (struct list *l = stream->ready.next; l != &stream->ready; l = l->next) {
		uint64_t lag = cursor_lag(stream, LIST_ENTRY(l, struct cursor, link));

		if (++n > MEASURED_MAX)
			return false;
		if (lag > bound->lag_max)
			bound->lag_max = lag;
	}
	return true;
}

/*
 * Looks at all of a stream's cursors and deals with those who are too far behind, some in each
 * turn. Those with a send in flight are slow themselves, and those who replay do not get to what is
 * live in time; the ready ones wait for us, and hold up what comes in (audience_press). False:
 * there are more than there is time for.
 */
static bool bound_stream(struct shard *s, struct stream *stream)
{
	const struct interest *i = stream->owner;
	uint64_t now_ns = s->reactor.now_ns, limit_ns = i->settings->backlog_seconds * NS_PER_S;
	struct bound bound = { .shard = s,
			       .bytes_max = i->settings->backlog_bytes,
			       .before_ns = now_ns > limit_ns ? now_ns - limit_ns : 0 };
	bool whole = !stream->rounding;

	if (whole)
		audience_begin_round(stream);
	stream->rounding = true;
	if (!audience_go_round(s, stream, &stream->busy, look, &bound) ||
	    !audience_go_round(s, stream, &stream->replaying, look, &bound) ||
	    !let_old_ready_go(stream, &bound))
		return false;
	stream->rounding = false;
	/* Over turns some may have been missed; they are looked for when some more has come. */
	if (!whole || !measure_ready(stream, &bound))
		bound.lag_max = bound.bytes_max - bound.bytes_max / MISSED_PART;
	stream_looked(stream, bound.lag_max < bound.bytes_max ? bound.lag_max : bound.bytes_max);
	return true;
}

bool audience_bound_bytes(struct shard *s)
{
	bool begun = false, left = false;
	struct list *link;

	while (!left && (link = list_take(&s->audience.appended)) != NULL) {
		struct stream *stream = LIST_ENTRY(link, struct stream, appended);
		struct interest *i = stream->owner;

		if (!stream_overrun(stream, i->settings->backlog_bytes))
			continue;
		if (!begun)
			reactor_part(&s->reactor, PART_CLIENTS);
		begun = true;
		i->pins++;
		left = !bound_stream(s, stream);
		if (left && list_empty(link))
			list_append(&s->audience.appended, link);
		i->pins--;
		interests_let_go(s, i);
	}
	return left;
}

bool audience_bound_time(struct shard *s)
{
	list_splice(&s->audience.untimed, &s->audience.active);
	return !list_empty(&s->audience.untimed);
}

bool audience_bound_time_some(struct shard *s)
{
	struct list *l;
	bool left = false;

	while (!left && (l = list_take(&s->audience.untimed)) != NULL) {
		struct stream *stream = LIST_ENTRY(l, struct stream, active);
		struct interest *i = stream->owner;

		list_append(&s->audience.active, l);
		/* Whoever is closed may take the interest with it. */
		i->pins++;
		left = !bound_stream(s, stream);
		if (left) {
			list_remove(l);
			list_append(&s->audience.untimed, l);
		} else if (s->reactor.now_ns - stream->appended_ns >= REST_AFTER_MS * NS_PER_MS &&
			   stream_rest(stream)) {
			list_remove(l);
		}
		i->pins--;
		interests_let_go(s, i);
		reactor_spend(&s->reactor, LOOK_COST);
		left |= reactor_spent(&s->reactor);
	}
	return !list_empty(&s->audience.untimed);
}
