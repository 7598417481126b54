#include "broker/connection_parts.h"

#include <errno.h>

#include "base/memory.h"
#include "broker/protocol.h"
#include "broker/shard.h"

enum { WALK_COST = 16, TURN_COST = 2 };

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

	c->publishes_to = shard_hold_place(s, b->hash);
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
	else if (error != 0 || (c->state == CONNECTION_LINGERING && !socket->sending))
		connection_close(c, DROP_CLOSED);
	else if (c->state == CONNECTION_LINGERING)
		return; /* their close_notify has come, ours goes out whole */
	else if (c->state != CONNECTION_OPEN)
		connection_flush(c); /* finishing: it may still be reading */
	else if (c->protocol->ended != NULL)
		c->protocol->ended(c);
	else
		connection_goodbye(c);
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
	if (connection_landed(c, n) && result == -ECANCELED)
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
	    (c->interjects && connection_may_interject(c)))
		go_on(c);
	else if (c->subscriptions_n > 1 && (c->queue != NULL || c->middle != NULL))
		connection_turn(c);
	else if (c->queue != NULL)
		connection_queue_back(c);
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
	connection_forget_queue(c);
	list_remove(&c->turn);
	c->protocol->free(c);
	pool_give(&c->shard->clients.connection_pool, c);
}

static void closed(struct socket *socket)
{
	struct connection *c = connection_of(socket);
	struct shard *s = c->shard;

	connection_uncount(c);
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
	connection_walk(c, WALK_PART);
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
		while (c->walk != WALK_NONE && !connection_walk_on(c) &&
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
