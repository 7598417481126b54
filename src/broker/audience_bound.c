#include "broker/audience.h"

#include "base/clock.h"
#include "broker/connection.h"
#include "broker/interests.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/interest.h"

enum {
	REST_AFTER_MS = 1000,
	OVERTAKE_COST = 8, /* of a subscriber that is let go */
	LOOK_COST = 2,     /* of a stream that is looked at for what is too old */
};

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
	 * (audience_press). */
	audience_each(&stream->busy, bound_bytes, bound);
	audience_each(&stream->replaying, bound_bytes, bound);
	if (bound->left)
		return true;
	/* Any of them may be the furthest behind, and be busy the next time. */
	audience_each(&stream->ready, measure, bound);
	stream_looked(stream,
		      bound->lag_max < bound->bytes_max ? bound->lag_max : bound->bytes_max);
	return false;
}

bool audience_bound_bytes(struct shard *s)
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
		interests_let_go(s, i);
	}
	return bound.left;
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
	uint64_t since = stream_behind_since(stream);

	if (since != 0 && since < bound.before_ns)
		audience_each(&stream->ready, bound_time, &bound);
	audience_each(&stream->busy, bound_time, &bound);
	if (now_ns - stream->appended_ns >= REST_AFTER_MS * NS_PER_MS && stream_rest(stream))
		list_remove(&stream->active);
	return bound.left;
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
		left = bound_stream_time(s, stream);
		if (left) {
			list_remove(l);
			list_append(&s->audience.untimed, l);
		}
		i->pins--;
		interests_let_go(s, i);
		reactor_spend(&s->reactor, LOOK_COST);
		left |= reactor_spent(&s->reactor);
	}
	return !list_empty(&s->audience.untimed);
}
