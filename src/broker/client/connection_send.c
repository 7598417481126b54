#include "broker/connection_parts.h"

#include <errno.h>
#include <string.h>

#include "base/memory.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "topic/stream.h"

enum {
	FLYING_MAX = 1024,          /* subscriptions in one send */
	SPANS_OF_ONE = 3,           /* at least, that stream_gather needs */
	PACK_BYTES = 32 << 10,      /* of small spans in one send, put together */
	PACKED_BYTES_MAX = 2 << 10, /* of one subscription there */
};

/* What a connection with one subscription, and nothing but its messages to say, shall not pay for.
 */
#define COLD __attribute__((noinline))

/* Whether a barrier has to wait for more than what is in the send. */
static bool holds_up(const struct subscription *sub)
{
	return sub->connection != NULL && subscription_barred(sub) &&
	       !(subscription_is(sub, SUBSCRIPTION_IN_FLIGHT) &&
		 stream_brings_to_end(sub->stream, &sub->cursor));
}

/* What there was when it was time for the barrier is ahead of what is said now. */
static bool barrier_is_due(const struct connection *c)
{
	const struct subscription *sub = c->queue;
	unsigned left = FLYING_MAX;

	if (c->barrier != BARRIER_QUEUED || (c->middle != NULL && holds_up(c->middle)))
		return false;
	while (sub != NULL && left-- > 0) {
		sub = sub->next;
		if (holds_up(sub))
			return false;
		if (sub == c->queue)
			sub = NULL;
	}
	return sub == NULL;
}

/* Takes whoever is behind `last` (NULL: the first) out of the queue. */
static struct subscription *queue_take(struct connection *c, struct subscription *last)
{
	struct subscription *before = last != NULL ? last : c->queue, *sub = before->next;

	before->next = sub->next;
	if (sub == before)
		c->queue = NULL;
	else if (c->queue == sub)
		c->queue = before;
	subscription_unset(sub, SUBSCRIPTION_QUEUED);
	if (sub->connection != NULL)
		return sub;
	subscription_give_back(sub, c->shard);
	return NULL;
}

/* Moves small spans together, or a send would carry those of a few subscriptions only. */
static void pack(struct connection *c, struct gathered *g, unsigned from)
{
	size_t bytes = 0;
	char *at;

	for (unsigned i = from; i < g->n; i++)
		bytes += g->spans[i].iov_len;
	if (bytes > PACKED_BYTES_MAX || g->packed + bytes > PACK_BYTES) {
		g->packing = false;
		return;
	}
	if (c->pack == NULL)
		c->pack = memory_new(PACK_BYTES);
	if (c->pack == NULL)
		return;
	at = c->pack + g->packed;
	for (unsigned i = from; i < g->n; i++) {
		memcpy(c->pack + g->packed, g->spans[i].iov_base, g->spans[i].iov_len);
		g->packed += g->spans[i].iov_len;
	}
	g->n = from;
	if (g->packing)
		g->spans[g->n - 1].iov_len += bytes;
	else
		g->spans[g->n++] = (struct iovec){ at, bytes };
	g->packing = true;
}

/* It has been let go on meanwhile, or that was all. */
static void at_end(struct connection *c, struct subscription *sub)
{
	stream_unhold(sub->stream, &sub->cursor);
	if ((c->state == CONNECTION_FINISHING || subscription_is(sub, SUBSCRIPTION_ENOUGH)) &&
	    subscription_done(sub))
		subscription_free(sub, (enum drop_reason)c->reason);
}

/* What there is of one. 0: nothing for now; -ENOMEM. */
static int gather_one(struct connection *c, struct subscription *sub, struct gathered *g)
{
	unsigned from = g->n;
	int n;

	if (stream_at_end(sub->stream, &sub->cursor)) {
		at_end(c, sub);
		return 0;
	}
	n = stream_gather(sub->stream, &sub->cursor, g->spans + g->n, RING_SPANS_MAX - g->n);
	if (n < 0)
		return n;
	if (n == 0) {
		/* What was left may have had no form. */
		if (stream_at_end(sub->stream, &sub->cursor))
			at_end(c, sub);
		else
			subscription_go_on(sub);
		return 0;
	}
	subscription_set(sub, SUBSCRIPTION_IN_FLIGHT);
	g->n += (unsigned)n;
	g->bytes += sub->cursor.goal_bytes;
	if (c->subscriptions_n > 1)
		pack(c, g, from);
	else
		g->packing = false;
	return n;
}

/* Of those whose turn it is, as long as each ends with a whole message. Whoever is behind `last`
 * has not been gathered. -ENOMEM. */
static int gather_queue(struct connection *c, struct gathered *g)
{
	struct subscription *last = NULL;

	while (c->queue != NULL && c->queue != last && g->n + SPANS_OF_ONE <= RING_SPANS_MAX &&
	       g->bytes < STREAM_SEND_BYTES && c->flying < FLYING_MAX) {
		struct subscription *sub = last != NULL ? last->next : c->queue->next;
		int n = sub->connection != NULL ? gather_one(c, sub, g) : 0;

		if (n < 0)
			return n;
		if (n == 0) {
			(void)queue_take(c, last);
			continue;
		}
		last = sub;
		c->flying++;
		if (!sub->cursor.goal_whole)
			break;
	}
	return 0;
}

COLD static void gather_output(struct connection *c, struct gathered *g)
{
	if (c->output == NULL || g->n == RING_SPANS_MAX)
		return;
	c->output_flies = true;
	c->output_after = c->flying;
	g->n += output_gather(c->output, g->spans + g->n, RING_SPANS_MAX - g->n);
	g->packing = false;
}

/* Whether what its protocol has to say between messages may be said where none is under way: not
 * before the answer to its only subscription, which among many is about others, nor behind its last
 * word. */
static bool interjects(const struct connection *c)
{
	const struct subscription *sub = connection_subscription(c);
	bool speaks = c->state == CONNECTION_OPEN ||
		      (c->state == CONNECTION_FINISHING && c->farewell != NULL);

	return c->interjects && speaks && sub != NULL &&
	       (c->subscriptions_n > 1 || !subscription_is(sub, SUBSCRIPTION_ASKED));
}

bool connection_may_interject(const struct connection *c)
{
	return interjects(c) && !c->socket.sending && c->middle == NULL;
}

COLD static void interject(struct connection *c)
{
	if (!interjects(c))
		return;
	c->interjects = false;
	c->protocol->interject(c);
}

COLD static int gather(struct connection *c, struct gathered *g)
{
	g->bytes = g->packed = 0;
	if (c->subscriptions_n == 1)
		subscription_queue_if_behind(connection_subscription(c));
	if (c->middle != NULL) {
		int n = gather_one(c, c->middle, g);

		if (n < 0)
			return n;
		/* There is more of that message than goes in one send, or none for now. */
		c->middle_flies = n > 0;
		if (c->middle != NULL && (n == 0 || !c->middle->cursor.goal_whole))
			return 0;
		/* Before anything else of what it is about. */
		interject(c);
		if (c->state == CONNECTION_CLOSED)
			return 0;
	}
	gather_output(c, g);
	if (!output_all_gathered(c->output))
		return 0;
	if (gather_queue(c, g) != 0)
		return -ENOMEM;
	if (!barrier_is_due(c))
		return 0;
	c->barrier = BARRIER_NONE;
	c->protocol->barrier(c);
	if (c->state != CONNECTION_CLOSED && !c->output_flies)
		gather_output(c, g);
	return 0;
}

/* The same where there is one subscription only and nobody in the queue, as with most. */
static int gather_alone(struct connection *c, struct gathered *g)
{
	struct subscription *sub = connection_subscription(c);
	int n;

	if (c->output != NULL && c->middle == NULL) {
		gather_output(c, g);
		if (!output_all_gathered(c->output))
			return 0;
	}
	if (subscription_is(sub, SUBSCRIPTION_ASKED))
		return 0;
	n = stream_gather(sub->stream, &sub->cursor, g->spans + g->n, RING_SPANS_MAX - g->n);
	if (n <= 0) {
		if (n == 0 && stream_at_end(sub->stream, &sub->cursor))
			at_end(c, sub);
		else if (n == 0)
			subscription_go_on(sub);
		return n;
	}
	sub->cursor.owner |= SUBSCRIPTION_IN_FLIGHT | SUBSCRIPTION_QUEUED;
	sub->next = c->queue = sub;
	g->n += (unsigned)n;
	c->alone = true;
	return 0;
}

void connection_flies_among_others(struct connection *c)
{
	if (!c->alone)
		return;
	c->alone = false;
	c->flying = 1;
	c->output_after = 0;
}

void connection_ground(struct connection *c)
{
	struct subscription *sub = c->queue;

	c->middle_flies = c->output_flies = false;
	if (c->alone)
		c->flying = 1;
	c->alone = false;
	for (; c->flying > 0; c->flying--) {
		sub = sub->next;
		subscription_unset(sub, SUBSCRIPTION_IN_FLIGHT);
	}
	if (c->middle != NULL)
		subscription_unset(c->middle, SUBSCRIPTION_IN_FLIGHT);
}

/* So many bytes of a send that it was in went. Returns how many of them were behind it. */
static size_t output_landed(struct connection *c, size_t bytes)
{
	size_t body;

	c->output_flies = false;
	bytes = output_sent(&c->output, bytes, &body);
	if (body > 0)
		c->protocol->body_went(c, output_body_left(c->output) == 0);
	return bytes;
}

static void one_landed(const struct connection *c, struct subscription *sub, size_t bytes)
{
	if (c->barrier >= BARRIER_WALKS)
		subscription_sent_barred(sub, bytes);
	else
		subscription_sent(sub, bytes);
}

/* So many of a send's bytes went: the first `upto` of the queue that fly get theirs. Returns how
 * many are left; *skipped: some of them wait for the send to end to be let go. */
static size_t landed(struct connection *c, uint32_t *flying, uint32_t upto, size_t n, bool *skipped)
{
	for (; *flying > 0 && upto > 0; upto--, --*flying) {
		struct subscription *sub = queue_take(c, NULL);
		size_t got = n < sub->cursor.goal_bytes ? n : sub->cursor.goal_bytes;

		*skipped |= subscription_is(sub, SUBSCRIPTION_SKIP);
		n -= got;
		one_landed(c, sub, got);
	}
	return n;
}

static size_t middle_landed(struct connection *c, size_t n, bool *skipped)
{
	struct subscription *sub = c->middle;
	size_t got = n < sub->cursor.goal_bytes ? n : sub->cursor.goal_bytes;

	c->middle_flies = false;
	*skipped |= subscription_is(sub, SUBSCRIPTION_SKIP);
	one_landed(c, sub, got);
	return n - got;
}

/* What gather_alone has gathered. */
static bool alone_landed(struct connection *c, size_t n)
{
	struct subscription *sub = c->queue->next;
	bool skipped = subscription_is(sub, SUBSCRIPTION_SKIP);

	c->alone = false;
	c->landing = true;
	if (c->queue != sub) {
		(void)queue_take(c, NULL);
	} else {
		c->queue = NULL;
		subscription_unset(sub, SUBSCRIPTION_QUEUED);
	}
	if (c->output_flies)
		n = output_landed(c, n);
	subscription_sent(sub, n);
	c->landing = false;
	return skipped;
}

/* In the order in which it was gathered. */
COLD static bool all_landed(struct connection *c, size_t n)
{
	uint32_t flying = c->flying, after = c->output_after;
	bool skipped = false;

	c->landing = true;
	c->flying = c->output_after = 0;
	if (c->pack != NULL) {
		memory_free(c->pack);
		c->pack = NULL;
	}
	if (c->middle_flies)
		n = middle_landed(c, n, &skipped);
	n = landed(c, &flying, after, n, &skipped);
	if (c->output_flies)
		n = output_landed(c, n);
	(void)landed(c, &flying, flying, n, &skipped);
	c->landing = false;
	return skipped;
}

void connection_queue_back(struct connection *c)
{
	while (c->queue != NULL) {
		struct subscription *sub = queue_take(c, NULL);

		if (sub != NULL)
			subscription_go_on(sub);
	}
}

int connection_gather(struct connection *c, struct gathered *g)
{
	g->n = 0;
	g->packing = false;
	if (c->interjects && c->middle == NULL) {
		interject(c);
		if (c->state == CONNECTION_CLOSED)
			return 0;
	}
	if (c->subscriptions_n == 1 && c->barrier == BARRIER_NONE && c->queue == NULL)
		return gather_alone(c, g);
	return gather(c, g);
}

bool connection_landed(struct connection *c, size_t bytes)
{
	return c->alone ? alone_landed(c, bytes) : all_landed(c, bytes);
}

void connection_forget_queue(struct connection *c)
{
	while (c->queue != NULL)
		(void)queue_take(c, NULL);
	memory_free(c->pack);
	c->pack = NULL;
}
