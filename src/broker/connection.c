#include "broker/connection.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/address.h"
#include "base/memory.h"
#include "base/probe.h"
#include "broker/admission.h"
#include "broker/listener.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/block.h"
#include "topic/interest.h"
#include "topic/stream.h"

enum {
	WALK_AT_ONCE = 16, /* subscriptions, before there is a look at the time */
	WALK_COST = 16,
	TURN_COST = 2,
	FLYING_MAX = 1024,           /* subscriptions in one send */
	SPANS_OF_ONE = 3,            /* at least, that stream_gather needs */
	PACK_BYTES = 32 << 10,       /* of small spans in one send, put together */
	PACKED_BYTES_MAX = 2 << 10,  /* of one subscription there */
	KERNEL_SEND_BYTES = 1 << 10, /* that the kernel takes for a send beside what is sent */
	LOOK_BYTES = 4 << 10,        /* sent; less does not show beside what any connection takes */
};

static const unsigned may_become[] = {
	[CONNECTION_OPEN] = 1 << CONNECTION_FINISHING | 1 << CONNECTION_CLOSED,
	[CONNECTION_FINISHING] = 1 << CONNECTION_LINGERING | 1 << CONNECTION_CLOSED,
	[CONNECTION_LINGERING] = 1 << CONNECTION_CLOSED,
	[CONNECTION_CLOSED] = 0,
};

static void become(struct connection *c, enum connection_state state)
{
	assert(may_become[c->state] & 1U << state);
	c->state = (uint8_t)state;
}

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

bool connection_reply(struct connection *c, struct span text)
{
	if (text.len == 0 || output_add(&c->output, text))
		return true;
	connection_close(c, DROP_MEMORY);
	return false;
}

bool connection_reply_body(struct connection *c, struct block *block, struct span body)
{
	if (output_add_body(&c->output, block, body))
		return true;
	connection_close(c, DROP_MEMORY);
	return false;
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

/* It has no descriptor any more, and is no client as far as limits go. */
static void uncount(struct connection *c)
{
	static const unsigned char nowhere[16];

	if (c->counts == COUNTS_AS_CLIENT)
		admission_leave(c->shard->broker, c->by_address ? c->address : nowhere);
	else if (c->counts == COUNTS_AS_REFUSED)
		c->shard->clients.refused_n--;
	c->counts = COUNTS_NOT;
}

void connection_limit_closing(struct connection *c)
{
	if (c->state != CONNECTION_CLOSED)
		reactor_deadline(&c->shard->reactor, &c->shard->clients.closing, &c->deadline);
}

/* Everything has been said: wait for the client to see it, or a reset might take the last word from
 * it. */
static void linger(struct connection *c)
{
	become(c, CONNECTION_LINGERING);
	if (!c->socket.ended || c->socket.tls != NULL)
		socket_finish(&c->shard->sockets, &c->socket);
	if (c->socket.ended && !c->socket.sending) {
		connection_close(c, DROP_CLOSED);
		return;
	}
	connection_limit_closing(c);
	socket_receive(&c->shard->sockets, &c->socket);
}

/* Nothing is in flight and nothing is left to send for now: the end, if this is the end. */
static void maybe_end(struct connection *c)
{
	const char *farewell = c->farewell;

	if (c->state != CONNECTION_FINISHING || connection_waits(c) || c->subscriptions_n > 0)
		return;
	if (farewell == NULL) {
		linger(c);
		return;
	}
	c->farewell = NULL;
	connection_limit_closing(c);
	if (connection_reply(c, span_of(farewell)))
		connection_flush(c);
}

/* Whether what its protocol has to say between messages may be said where none is under way. */
static bool interjects(const struct connection *c)
{
	const struct subscription *sub = connection_subscription(c);

	return c->interjects && c->state == CONNECTION_OPEN && sub != NULL &&
	       !subscription_is(sub, SUBSCRIPTION_ASKED);
}

static bool may_interject(const struct connection *c)
{
	return interjects(c) && !c->socket.sending && c->middle == NULL;
}

static void interject(struct connection *c)
{
	if (!interjects(c))
		return;
	c->interjects = false;
	c->protocol->interject(c);
}

static void queue_if_behind(struct subscription *sub)
{
	if (subscription_is(sub, SUBSCRIPTION_ASKED) ||
	    subscription_is(sub, SUBSCRIPTION_IN_FLIGHT))
		return;
	if (!stream_at_end(sub->stream, &sub->cursor))
		subscription_queue(sub);
}

/* Whether nobody is in the queue but those in the send. */
static bool last_flies(const struct connection *c)
{
	return subscription_is(c->queue, SUBSCRIPTION_IN_FLIGHT) && c->queue->cursor.goal_whole;
}

/* So much has been given to the kernel: enough of it, and somebody has to see whether it stays
 * there. */
static void count_unlooked(struct connection *c, size_t sent_bytes)
{
	bool listed = c->unlooked_bytes >= LOOK_BYTES;

	c->unlooked_bytes += KERNEL_SEND_BYTES + (uint32_t)sent_bytes;
	if (listed || c->unlooked_bytes < LOOK_BYTES)
		return;
	list_remove(&c->link);
	list_append(&c->shard->clients.unlooked, &c->link);
}

void connection_interject(struct connection *c)
{
	c->interjects = true;
	if (may_interject(c))
		connection_flush(c);
}

/* ---- what a send carries ---- */

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

struct gathered {
	unsigned n;
	bool packing; /* the last span is in the pack */
	size_t bytes;
	size_t packed;
	struct iovec spans[RING_SPANS_MAX];
};

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

static void gather_output(struct connection *c, struct gathered *g)
{
	if (c->output == NULL || g->n == RING_SPANS_MAX)
		return;
	c->output_flies = true;
	c->output_after = c->flying;
	g->n += output_gather(c->output, g->spans + g->n, RING_SPANS_MAX - g->n);
	g->packing = false;
}

static int gather(struct connection *c, struct gathered *g)
{
	if (c->subscriptions_n == 1)
		queue_if_behind(connection_subscription(c));
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
	/* What there was when it was time for the barrier is ahead of what is said now. */
	if (c->barrier != BARRIER_QUEUED || (c->flying > 0 ? !last_flies(c) : c->queue != NULL))
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

	if (c->middle == NULL)
		gather_output(c, g);
	if (subscription_is(sub, SUBSCRIPTION_ASKED) ||
	    (c->middle == NULL && !output_all_gathered(c->output)))
		return 0;
	if (stream_at_end(sub->stream, &sub->cursor)) {
		at_end(c, sub);
		return 0;
	}
	n = stream_gather(sub->stream, &sub->cursor, g->spans + g->n, RING_SPANS_MAX - g->n);
	if (n <= 0) {
		if (n == 0)
			subscription_go_on(sub);
		return n;
	}
	sub->cursor.owner |= SUBSCRIPTION_IN_FLIGHT | SUBSCRIPTION_QUEUED;
	sub->next = c->queue = sub;
	g->n += (unsigned)n;
	c->alone = true;
	return 0;
}

/* Nothing of what was gathered is sent after all. */
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

void connection_flush(struct connection *c)
{
	struct gathered g; /* but for its head uninitialized: it is large */
	bool alone = c->subscriptions_n == 1 && c->barrier == BARRIER_NONE;
	bool barred = c->barrier == BARRIER_QUEUED;

	if (c->socket.sending || c->landing || c->state == CONNECTION_CLOSED) {
		if (c->subscriptions_n == 1)
			queue_if_behind(connection_subscription(c));
		return;
	}
	if (c->middle == NULL) {
		interject(c);
		if (c->state == CONNECTION_CLOSED)
			return;
	}
	g.n = 0;
	g.bytes = g.packed = 0;
	g.packing = false;
	if ((alone && c->queue == NULL ? gather_alone(c, &g) : gather(c, &g)) != 0) {
		connection_ground(c);
		connection_close(c, DROP_MEMORY);
		return;
	}
	if (c->state == CONNECTION_CLOSED)
		return;
	if (barred && c->barrier == BARRIER_NONE) {
		c->resumes = true;
		connection_turn(c);
	}
	if (g.n > 0)
		count_unlooked(c, socket_send(&c->shard->sockets, &c->socket, g.spans, g.n));
	else
		maybe_end(c);
}

/* ---- all subscriptions ---- */

static void visit(struct connection *c, struct subscription *sub)
{
	bool asked = subscription_is(sub, SUBSCRIPTION_ASKED);
	bool flies = subscription_is(sub, SUBSCRIPTION_IN_FLIGHT);

	if (c->reviewed && !c->shard->broker->sessions->still_may(c, sub)) {
		c->expelled = true;
		connection_turn(c);
	}
	switch ((enum connection_walk)c->walk) {
	case WALK_BARRIER:
		queue_if_behind(sub);
		break;
	case WALK_LEAVE:
		if (asked && (c->hasty || subscription_is(sub, SUBSCRIPTION_HELD)))
			subscription_free(sub, DROP_CLOSED);
		if (asked)
			break;
		subscription_leave(sub);
		/* Whoever is too slow for one topic gets no more of the others either, and who may
		 * not have them no more of any. */
		if ((c->reason == DROP_SLOW || c->expelled) && !flies)
			subscription_cut(sub, (enum drop_reason)c->reason);
		else if (subscription_done(sub))
			subscription_free(sub, (enum drop_reason)c->reason);
		break;
	case WALK_PART:
		if (!flies)
			subscription_free(sub, (enum drop_reason)c->reason);
		break;
	case WALK_REVIEW:
	case WALK_NONE:
	default:
		break;
	}
}

/* Some more of a walk. True: that was the last. */
static bool walk_on(struct connection *c, unsigned max)
{
	for (; max > 0 && c->walk_left > 0 && c->subscriptions_n > 0; max--, c->walk_left--) {
		struct subscription *sub = c->subscriptions;

		c->subscriptions = subscription_next(sub);
		visit(c, sub);
	}
	if (c->walk_left > 0 && c->subscriptions_n > 0)
		return false;
	c->walk_left = 0;
	if (c->walk == WALK_BARRIER)
		c->barrier = BARRIER_QUEUED;
	c->walk = WALK_NONE;
	c->reviewed = false;
	return true;
}

static void walk(struct connection *c, enum connection_walk walk)
{
	if (walk < c->walk)
		return;
	c->walk = (uint8_t)walk;
	c->walk_left = c->subscriptions_n;
	if (!walk_on(c, WALK_AT_ONCE))
		connection_turn(c);
}

void connection_review(struct connection *c)
{
	c->reviewed = true;
	walk(c, c->walk > WALK_REVIEW ? (enum connection_walk)c->walk : WALK_REVIEW);
}

void connection_turn(struct connection *c)
{
	if (list_empty(&c->turn))
		list_append(&c->shard->clients.turns, &c->turn);
}

/* ---- barriers ---- */

static struct topic_letter *sync_letter(struct connection *c, struct span name, uint64_t hash)
{
	struct topic_letter *l = topic_letter_new(LETTER_SYNC, name, hash);

	if (l == NULL)
		return NULL;
	l->shard = c->shard->id;
	l->slot = c->socket.slot;
	l->generation = socket_generation(&c->shard->sockets, &c->socket);
	c->syncs++;
	return l;
}

void connection_ask_last(struct connection *c, struct subscription *sub)
{
	const struct interest *i = subscription_interest(sub);
	unsigned homes = i->wild != NULL ? i->wild->homes_n : 1;

	for (unsigned n = 0; n < homes; n++) {
		struct topic_letter *l = sync_letter(c, i->named.name, i->named.hash);

		if (l != NULL)
			shard_post(c->shard, i->home + n, LANE_FREE, &l->letter);
	}
}

bool connection_sync(struct connection *c, unsigned home)
{
	struct topic_letter *l = sync_letter(c, (struct span){ NULL, 0 }, 0);

	if (l == NULL)
		return false;
	shard_post(c->shard, home, LANE_FREE, &l->letter);
	return true;
}

/* Asks every home, behind whatever of its has been posted in this lane. -ENOMEM: some. */
static int ask_all(struct connection *c, enum mailbox_lane lane)
{
	for (unsigned to = 0; to < c->shard->broker->shards_n; to++) {
		struct topic_letter *l = sync_letter(c, (struct span){ NULL, 0 }, 0);

		if (l == NULL)
			return -ENOMEM;
		shard_post(c->shard, to, lane, &l->letter);
	}
	return 0;
}

void connection_barrier(struct connection *c)
{
	assert(c->barrier == BARRIER_NONE);
	c->barrier = BARRIER_ASKED;
	if (c->published && ask_all(c, LANE_GATED) != 0) {
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
		walk(c, WALK_BARRIER);
		connection_turn(c);
	}
	if (c->state == CONNECTION_OPEN && c->protocol->resume != NULL)
		c->protocol->resume(c);
}

/* ---- ends ---- */

void connection_finish(struct connection *c, const char *farewell)
{
	if (c->state >= CONNECTION_LINGERING)
		return;
	if (c->state == CONNECTION_OPEN) {
		become(c, CONNECTION_FINISHING);
		PROBE(finish, c->shard->id, c->socket.fd, farewell);
		deadline_stop(&c->deadline);
		list_remove(&c->waiting);
		c->farewell = farewell;
		if (c->subscriptions_n == 0 && !connection_waits(c) &&
		    output_body_left(c->output) == 0)
			connection_limit_closing(c);
		memory_free(c->input);
		c->input = NULL;
		c->input_len = 0;
	}
	if (!connection_waits(c))
		walk(c, WALK_LEAVE);
	connection_flush(c);
}

void connection_hasten(struct connection *c)
{
	c->hasty = true;
	connection_finish(c, c->farewell);
}

static void stop_publishing(struct connection *c, bool receipt)
{
	if (c->protocol->stop_publishing != NULL)
		c->protocol->stop_publishing(c, receipt);
}

void connection_goodbye(struct connection *c)
{
	stop_publishing(c, true);
	if (c->subscriptions_n == 1 && c->asked == 0)
		connection_ask_last(c, connection_subscription(c));
	else if (c->subscriptions_n > 1)
		(void)ask_all(c, LANE_FREE);
	connection_finish(c, c->protocol->farewell(c, false));
}

void connection_fail(struct connection *c, const char *last_word)
{
	if (c->state == CONNECTION_OPEN) {
		c->shard->counters.errors++;
		stop_publishing(c, false);
	} else if (c->state == CONNECTION_FINISHING) {
		c->farewell = last_word;
	}
	c->hasty = true;
	connection_finish(c, last_word);
}

void connection_error(struct connection *c, enum reason reason)
{
	connection_fail(c, c->protocol->say(c, reason));
}

void connection_no_subscription(struct connection *c, int error)
{
	connection_error(c, error == -ENOSPC    ? REASON_SUBSCRIPTIONS
			    : error == -ENOBUFS ? REASON_CONNECTIONS
						: REASON_MEMORY);
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

void connection_close(struct connection *c, enum drop_reason reason)
{
	if (c->state == CONNECTION_CLOSED)
		return;
	/* There was more to say: an orderly end would be taken for that of all of it. */
	if (c->state < CONNECTION_LINGERING)
		c->socket.reset = true;
	become(c, CONNECTION_CLOSED);
	PROBE(close, c->shard->id, c->socket.fd, drop_reason_names[reason]);
	c->reason = (uint8_t)reason;
	deadline_stop(&c->deadline);
	list_remove(&c->waiting);
	stop_publishing(c, false);
	c->barrier = BARRIER_NONE;
	walk(c, WALK_PART);
	socket_close(&c->shard->sockets, &c->socket);
}

void connection_refuse(struct connection *c)
{
	connection_finish(c, c->protocol->say(c, (enum reason)c->refusal));
}

/* No client is served on it. */
static void count_refused(struct connection *c, enum reason reason)
{
	c->refusal = (uint8_t)reason;
	c->counts = COUNTS_AS_REFUSED;
	c->shard->counters.refused++;
	c->shard->clients.refused_n++;
}

void connection_speak(struct connection *c, const struct protocol *protocol, struct span bytes)
{
	c->protocol = protocol;
	memset(c->session, 0, sizeof(c->session));
	if (c->state == CONNECTION_OPEN && protocol->opened != NULL)
		protocol->opened(c);
	if (c->state == CONNECTION_OPEN && bytes.len > 0)
		protocol->received(c, bytes);
}

static bool is_local(const unsigned char peer[16])
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
	static const unsigned char unix_or_v6_loopback[15];

	if (memcmp(peer, mapped, 12) == 0)
		return peer[12] == 127;
	return memcmp(peer, unix_or_v6_loopback, 15) == 0 && peer[15] <= 1;
}

/* -ENOMEM. */
static int note_address(struct connection *c, const unsigned char address[16])
{
	if (c->address == NULL)
		c->address = memory_new(16);
	if (c->address == NULL)
		return -ENOMEM;
	memcpy(c->address, address, 16);
	return 0;
}

void connection_is_for(struct connection *c, const unsigned char address[16])
{
	struct shard *s = c->shard;

	if (note_address(c, address) != 0) {
		connection_close(c, DROP_MEMORY);
		return;
	}
	c->proxied = true;
	c->local = is_local(address);
	if (s->config->limits.connections_per_ip == 0 || c->counts != COUNTS_AS_CLIENT)
		return;
	uncount(c);
	if (!admission_enter(s->broker, s->config, address)) {
		count_refused(c, REASON_CONNECTIONS);
		return;
	}
	c->by_address = true;
	c->counts = COUNTS_AS_CLIENT;
}

/* ---- what the audience calls ---- */

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

static bool may_be_silent(const struct connection *c)
{
	return c->state == CONNECTION_OPEN && c->protocol->silent(c);
}

void connection_limit_silence(struct connection *c)
{
	struct shard *s = c->shard;

	if (clients_limit_idle(&s->clients) && list_empty(&c->waiting))
		reactor_deadline(&s->reactor, &s->clients.idle, &c->deadline);
	else
		deadline_stop(&c->deadline);
}

void connection_publish(struct connection *c, struct block *b)
{
	struct shard *s = c->shard;

	c->publishes_to = b->hash;
	c->published = true;
	shard_publish(s, b);
	if (!shard_congested(s, c->publishes_to) || !list_empty(&c->waiting))
		return;
	s->counters.pauses++;
	socket_pause(&s->sockets, &c->socket);
	list_append(&s->clients.paused, &c->waiting);
	if (c->state == CONNECTION_OPEN && c->protocol->silent(c))
		connection_limit_silence(c);
}

static void received(struct socket *socket, const char *data, size_t len, int error)
{
	struct connection *c = connection_of(socket);
	struct shard *s = c->shard;

	if (len > 0) {
		s->counters.received_bytes += len;
		if (c->state != CONNECTION_OPEN)
			return;
		if (clients_limit_idle(&s->clients) && may_be_silent(c))
			connection_limit_silence(c);
		c->protocol->received(c, (struct span){ data, len });
		return;
	}
	if (c->state == CONNECTION_OPEN && c->protocol->last != NULL)
		c->protocol->last(c);
	if (error == -TLS_REFUSED && c->state == CONNECTION_OPEN)
		connection_finish(c, NULL); /* the alert shall not be lost in a reset */
	else if (error != 0 || c->state == CONNECTION_LINGERING)
		connection_close(c, DROP_CLOSED);
	else if (c->state != CONNECTION_OPEN)
		connection_flush(c); /* finishing: it may still be reading */
	else if (c->protocol->ended != NULL)
		c->protocol->ended(c);
	else
		connection_goodbye(c);
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
		subscription_sent(sub, got);
	}
	return n;
}

static size_t middle_landed(struct connection *c, size_t n, bool *skipped)
{
	struct subscription *sub = c->middle;
	size_t got = n < sub->cursor.goal_bytes ? n : sub->cursor.goal_bytes;

	c->middle_flies = false;
	*skipped |= subscription_is(sub, SUBSCRIPTION_SKIP);
	subscription_sent(sub, got);
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
static bool all_landed(struct connection *c, size_t n)
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

/* One with a single subscription is served in its stream's round. */
static void queue_back(struct connection *c)
{
	while (c->queue != NULL) {
		struct subscription *sub = queue_take(c, NULL);

		if (sub != NULL)
			subscription_go_on(sub);
	}
}

static void go_on(struct connection *c)
{
	if (c->state != CONNECTION_LINGERING)
		connection_flush(c);
	else if (c->socket.ended)
		connection_close(c, DROP_CLOSED); /* our close_notify has gone, theirs has come */
}

static void sent(struct socket *socket, int result)
{
	struct connection *c = connection_of(socket);
	size_t n = result > 0 ? (size_t)result : 0;
	bool any = n > 0;

	c->shard->counters.sent_bytes += n;
	if ((c->alone ? alone_landed(c, n) : all_landed(c, n)) && result == -ECANCELED)
		result = 0;
	if (c->state == CONNECTION_CLOSED)
		return;
	if (result < 0 && result != -EINTR && result != -EAGAIN && result != -ENOBUFS &&
	    result != -ENOMEM) {
		connection_close(c, DROP_CLOSED);
		return;
	}
	/* A ready cursor is served in its stream's round; what else there is to say goes now. */
	if (c->output != NULL || c->state != CONNECTION_OPEN || c->barrier == BARRIER_QUEUED ||
	    may_interject(c))
		go_on(c);
	else if (c->subscriptions_n > 1 && (c->queue != NULL || c->middle != NULL))
		connection_turn(c);
	else if (c->queue != NULL)
		queue_back(c);
	else if (c->middle != NULL)
		subscription_go_on(c->middle); /* what was sealed before went first */
	if (clients_limit_idle(&c->shard->clients) && any && may_be_silent(c))
		connection_limit_silence(c);
	if (c->protocol->resume != NULL)
		c->protocol->resume(c);
}

/* All of its subscriptions have ended. */
static void release(struct connection *c)
{
	while (c->queue != NULL)
		(void)queue_take(c, NULL);
	list_remove(&c->turn);
	memory_free(c->pack);
	c->protocol->free(c);
	pool_give(&c->shard->clients.connection_pool, c);
}

static void closed(struct socket *socket)
{
	struct connection *c = connection_of(socket);
	struct shard *s = c->shard;

	uncount(c);
	memory_count(-(int64_t)c->kernel_bytes);
	s->clients.connections_n--;
	s->clients.late_n -= c->late;
	list_remove(&c->link);
	output_release(&c->output);
	memory_free(c->input);
	memory_free(c->address);
	c->shard->broker->sessions->left(c);
	c->gone = true;
	/* Sealed bytes may have waited for a buffer: no send has ended. */
	connection_ground(c);
	walk(c, WALK_PART);
	if (c->subscriptions_n == 0)
		release(c);
	else
		connection_turn(c);
}

/* Behind a barrier, or when nothing is asked any more, where nobody is in the middle of something.
 */
static void resume(struct connection *c)
{
	c->resumes = false;
	if (c->barrier == BARRIER_ASKED)
		connection_answered(c);
	else if (c->state == CONNECTION_OPEN && c->protocol->resume != NULL)
		c->protocol->resume(c);
}

bool connections_turn_some(struct shard *s)
{
	struct list *l;

	while ((l = list_take(&s->clients.turns)) != NULL) {
		struct connection *c = LIST_ENTRY(l, struct connection, turn);

		reactor_spend(&s->reactor, TURN_COST);
		while (c->walk != WALK_NONE && !walk_on(c, WALK_AT_ONCE) &&
		       !reactor_spent(&s->reactor))
			reactor_spend(&s->reactor, WALK_COST);
		if (c->walk != WALK_NONE)
			list_append(&s->clients.turns, l);
		if (c->expelled && c->state == CONNECTION_OPEN)
			c->shard->broker->sessions->expel(c, "topic");
		if (!c->gone)
			connection_flush(c);
		if (c->resumes)
			resume(c);
		if (c->gone && c->subscriptions_n == 0)
			release(c);
		if (reactor_spent(&s->reactor))
			break;
	}
	return !list_empty(&s->clients.turns);
}

void connection_secure(struct connection *c, struct span bytes)
{
	struct shard *s = c->shard;
	struct keyring *keyring = atomic_load(&s->broker->listeners[c->listener].keyring);

	if (socket_secure(&s->sockets, &c->socket, keyring, bytes) != 0)
		connection_close(c, DROP_MEMORY);
}

/* From here on it is as if it had just connected, with what its client has chosen in mind. */
static void secured(struct socket *socket)
{
	struct connection *c = connection_of(socket);
	const struct cipher *cipher = socket->tls->cipher;
	struct shard *s = c->shard;

	c->protocols &= (uint8_t)cipher->allows;
	if (c->state != CONNECTION_OPEN)
		return;
	if (c->counts == COUNTS_AS_CLIENT)
		reactor_deadline(&s->reactor, &s->clients.handshake, &c->deadline);
	/* Whoever it was taken for before, it had not shown its certificate then. */
	c->shard->broker->sessions->left(c);
	if (c->protocol->secured != NULL)
		c->protocol->secured(c);
	else if (c->counts == COUNTS_AS_REFUSED)
		c->protocol = s->broker->sessions->first(c->protocols, false);
	else
		connection_speak(c, s->broker->sessions->first(c->protocols, false),
				 (struct span){ NULL, 0 });
}

const struct socket_events connection_events = {
	.received = received, .sent = sent, .secured = secured, .closed = closed
};

/* A handshake that takes too long ends without a word. */
static bool ends_handshake(struct connection *c)
{
	if (!socket_shakes_hands(&c->socket) || c->state == CONNECTION_CLOSED)
		return false;
	tls_fail(c->socket.tls, CIPHER_FAILURE_TIMEOUT);
	connection_close(c, DROP_CLOSED);
	return true;
}

void connection_timed_out(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);

	(void)context;
	if (!ends_handshake(c))
		connection_error(c, REASON_TIMEOUT);
}

void connection_closing_timed_out(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);

	(void)context;
	if (ends_handshake(c))
		return;
	/* Refused, and it has not said what it speaks. */
	if (c->state == CONNECTION_OPEN)
		connection_refuse(c);
	else
		connection_close(c, (enum drop_reason)c->reason);
}

bool connection_peer_local(const struct connection *c)
{
	unsigned char peer[16];

	ring_peer(c->shard->reactor.ring, c->socket.fd, peer);
	return is_local(peer);
}

bool connection_local(const struct connection *c)
{
	return c->proxied ? c->local : connection_peer_local(c);
}

/* Of a unix socket's peer; false: it is another one's. */
static bool unix_peer(const struct connection *c, const unsigned char address[16], uint32_t *uid)
{
	static const unsigned char nowhere[16];

	return memcmp(address, nowhere, sizeof(nowhere)) == 0 &&
	       ring_peer_uid(c->shard->reactor.ring, c->socket.fd, uid);
}

void connection_peer(const struct connection *c, unsigned char address[16])
{
	uint32_t uid;

	if (c->proxied) {
		memcpy(address, c->address, 16);
		return;
	}
	ring_peer(c->shard->reactor.ring, c->socket.fd, address);
	if (unix_peer(c, address, &uid)) {
		address[0] = 'u';
		memcpy(address + 1, &uid, sizeof(uid));
	}
}

const char *connection_peer_text(const struct connection *c, char out[CONNECTION_PEER_MAX])
{
	unsigned char address[16];
	uint32_t uid;

	if (c->proxied)
		memcpy(address, c->address, sizeof(address));
	else
		ring_peer(c->shard->reactor.ring, c->socket.fd, address);
	if (!c->proxied && unix_peer(c, address, &uid))
		snprintf(out, CONNECTION_PEER_MAX, "unix:%u", (unsigned)uid);
	else
		address_text(address, out);
	return out;
}

/* Whether there is nothing against a handshake on it now. Who is on this machine, proxies among
 * them, is not counted. */
static bool admits(const struct connection *c, const struct listener *listener)
{
	struct shard *s = c->shard;
	unsigned char peer[16];

	if (!listener->secure || s->config->limits.accepts_per_ip == 0)
		return true;
	ring_peer(s->reactor.ring, c->socket.fd, peer);
	return is_local(peer) ||
	       admission_of_handshake(s->broker, s->config, peer, s->reactor.clock_ns);
}

/* Whether there are clients who wait for a word in clear before they begin to shake hands. */
static bool hails(const struct listener *listener)
{
	return listener->secure && (listener->protocols & CONFIG_PROTOCOL_NATS);
}

/* Whether it is secure from its first byte; a proxy's header comes in clear. */
static bool begins_secure(const struct listener *listener, bool proxied)
{
	return listener->secure && !proxied && !hails(listener);
}

/* With this socket, which it takes over. NULL: out of memory, or of places. */
static struct connection *connection_new(struct shard *s, int fd, bool late)
{
	struct connection *c = pool_take(&s->clients.connection_pool);
	struct connection fresh = { .shard = s, .late = late, .reason = DROP_CLOSED };

	if (c == NULL) {
		ring_close(s->reactor.ring, fd);
		return NULL;
	}
	*c = fresh;
	if (socket_open(&s->sockets, &c->socket, fd) != 0) {
		ring_close(s->reactor.ring, fd);
		pool_give(&s->clients.connection_pool, c);
		return NULL;
	}
	list_init(&c->waiting);
	list_init(&c->turn);
	list_init(&c->link);
	list_append(&s->clients.connections, &c->link);
	deadline_init(&c->deadline);
	s->clients.connections_n++;
	s->clients.late_n += c->late;
	return c;
}

struct connection *connection_dialled(struct shard *s, int fd, const struct protocol *protocol)
{
	/* Nobody waits for it when the broker drains. */
	struct connection *c = connection_new(s, fd, true);

	if (c == NULL)
		return NULL;
	c->protocol = protocol;
	socket_receive(&s->sockets, &c->socket);
	return c;
}

void connection_open(struct shard *s, int fd, uint32_t index)
{
	const struct listener *listener = &s->broker->listeners[index];
	struct connection *c = connection_new(s, fd, s->drain.draining);
	static const unsigned char nowhere[16];
	unsigned char address[16] = { 0 };
	enum reason refusal = REASON_NONE;
	bool proxied;

	if (c == NULL)
		return;
	c->protocols = (uint8_t)listener->protocols;
	c->listener = (uint16_t)index;
	s->counters.accepted++;
	if (s->config->limits.connections_per_ip > 0 || listener->proxy_protocol)
		ring_peer(s->reactor.ring, fd, address);
	proxied = admission_by_proxy(listener, address);
	c->protocol = s->broker->sessions->first(listener->protocols, proxied);
	if (s->config->limits.connections_per_ip == 0 || proxied)
		memset(address, 0, sizeof(address));
	c->by_address = memcmp(address, nowhere, sizeof(nowhere)) != 0;
	if (c->by_address && note_address(c, address) != 0) {
		connection_close(c, DROP_MEMORY);
		return;
	}
	if (c->late)
		refusal = REASON_DRAINING;
	else if (!admission_enter(s->broker, s->config, address))
		refusal = REASON_CONNECTIONS;
	c->counts = refusal == REASON_NONE ? COUNTS_AS_CLIENT : COUNTS_NOT;
	if (!admits(c, listener)) {
		s->accepting.refused_by_rate++;
		connection_close(c, DROP_CLOSED);
		return;
	}
	if (hails(listener) && !proxied)
		c->protocol = s->broker->sessions->hailed;
	if (begins_secure(listener, proxied)) {
		connection_secure(c, (struct span){ NULL, 0 });
		if (c->state == CONNECTION_CLOSED)
			return;
	}
	if (refusal == REASON_NONE) {
		reactor_deadline(&s->reactor, &s->clients.handshake, &c->deadline);
		socket_receive(&s->sockets, &c->socket);
		if (c->protocol->opened != NULL && !socket_shakes_hands(&c->socket))
			c->protocol->opened(c);
		return;
	}
	count_refused(c, refusal);
	if (s->clients.refused_n > REFUSED_CONNECTIONS_MAX && !c->late) {
		connection_close(c, DROP_CLOSED);
	} else if (c->protocol->refuses_at_once) {
		connection_refuse(c);
		if (c->state < CONNECTION_LINGERING)
			socket_receive(&s->sockets, &c->socket);
	} else {
		connection_limit_closing(c);
		socket_receive(&s->sockets, &c->socket);
	}
}
