#include "broker/connection_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "broker/letters.h"
#include "broker/protocol.h"
#include "broker/shard.h"

void connection_receipt(struct shard *s, struct topic_letter *l)
{
	struct socket *socket = socket_at(&s->sockets, l->slot, l->generation);
	struct connection *c = socket != NULL ? connection_of(socket) : NULL;

	if (c != NULL && l->receipt)
		c->awaiting = false; /* of a publisher's end */
	else if (c != NULL && c->syncs > 0)
		c->syncs--;
	free(l);
	if (c != NULL)
		connection_answered(c);
}

void connection_sequenced(struct shard *s, struct sequenced_letter *l)
{
	struct socket *socket = socket_at(&s->sockets, l->slot, l->generation);
	struct connection *c = socket != NULL ? connection_of(socket) : NULL;

	if (c != NULL && c->state != CONNECTION_CLOSED && c->protocol->sequenced != NULL)
		c->protocol->sequenced(c, l);
	sequenced_letter_free(l);
}

void connection_barrier(struct connection *c)
{
	assert(c->barrier == BARRIER_NONE);
	c->barrier = BARRIER_ASKED;
	if (c->published && connection_sync_all(c, LANE_GATED) != 0) {
		connection_error(c, REASON_MEMORY);
		return;
	}
	c->published = false;
	connection_answered(c);
}

void connection_answered(struct connection *c)
{
	if (c->state == CONNECTION_CLOSED || connection_waits(c))
		return;
	if (c->state == CONNECTION_FINISHING) {
		connection_finish(c, c->farewell);
		return;
	}
	if (c->barrier == BARRIER_ASKED) {
		c->barrier = BARRIER_WALKS;
		subscription_barrier(c);
		connection_flies_among_others(c);
		connection_walk(c, WALK_BARRIER);
		connection_turn(c);
	}
	if (c->state == CONNECTION_OPEN && c->protocol->resume != NULL)
		c->protocol->resume(c);
}

/* Why there is no place for its topic, or for a message there. */
static enum reason topic_reason(int error)
{
	switch (error) {
	case -ENOSPC:
		return REASON_TOPICS;
	case -E2BIG:
		return REASON_PATTERNS;
	case -EHOSTUNREACH:
		return REASON_UPSTREAM;
	case -EMSGSIZE:
		return REASON_TOO_LONG;
	default:
		return REASON_MEMORY;
	}
}

void connection_no_topic(struct connection *c, int error)
{
	connection_error(c, topic_reason(error));
}

void connection_refused_subscription(struct connection *c, void *session, int error)
{
	if (c->state == CONNECTION_CLOSED)
		return;
	if (c->protocol->refused != NULL && c->state == CONNECTION_OPEN)
		c->protocol->refused(c, session, topic_reason(error));
	else
		connection_no_topic(c, error);
}

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

static void waits_no_more(struct connection *c)
{
	c->resumes = true;
	connection_turn(c);
}

static void bye(struct connection *c)
{
	connection_finish(c, c->protocol->farewell(c, true));
}

static void gap(struct connection *c)
{
	connection_error(c, REASON_GAP);
}

static void slow(struct connection *c)
{
	c->farewell = c->protocol->say(c, REASON_SLOW);
	connection_finish(c, c->farewell);
	connection_limit_closing(c);
}

const struct audience_events connection_audience_events = {
	.stands = stands,
	.refused = connection_refused_subscription,
	.answered = connection_answered,
	.waits_no_more = waits_no_more,
	.bye = bye,
	.gap = gap,
	.slow = slow,
	.broken = connection_close,
};
