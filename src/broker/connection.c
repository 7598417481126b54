#include "broker/connection.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/probe.h"
#include "broker/listener.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/block.h"
#include "topic/stream.h"

enum {
	PONGS_AT_ONCE = 16,
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
	struct connection *c;

	free(l);
	if (socket == NULL)
		return;
	c = connection_of(socket);
	c->awaiting = false;
	if (c->state == CONNECTION_FINISHING)
		connection_finish(c, c->farewell);
}

bool connection_reply(struct connection *c, struct span text)
{
	if (output_add(&c->output, text))
		return true;
	connection_close(c, DROP_MEMORY);
	return false;
}

/* It has no descriptor any more, and is no client as far as limits go. */
static void uncount(struct connection *c)
{
	if (c->counts == COUNTS_AS_CLIENT)
		listener_leave(c->shard->broker, c->address);
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
	if (c->socket.ended) {
		connection_close(c, DROP_CLOSED);
		return;
	}
	ring_shutdown(c->shard->reactor.ring, c->socket.fd, SHUT_WR);
	connection_limit_closing(c);
	socket_receive(&c->shard->sockets, &c->socket);
}

/* Nothing is in flight and nothing is left to send for now: the end, if this is the end. */
static void maybe_end(struct connection *c)
{
	const char *farewell = c->farewell;

	if (c->state != CONNECTION_FINISHING || c->awaiting)
		return;
	if (c->subscription != NULL) {
		if (!subscription_done(c->subscription))
			return;
		subscription_free(c->subscription, c->reason);
	}
	if (farewell == NULL) {
		linger(c);
		return;
	}
	c->farewell = NULL;
	connection_limit_closing(c);
	if (connection_reply(c, span_of(farewell)))
		connection_flush(c);
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

/* Whether no message of its subscription is under way. */
static bool between_messages(const struct connection *c)
{
	struct subscription *sub = c->subscription;

	return c->state == CONNECTION_OPEN && sub != NULL && sub->stream != NULL &&
	       !sub->in_flight && stream_between(sub->stream, &sub->cursor);
}

void connection_interject(struct connection *c)
{
	c->interjects = true;
	if (!c->socket.sending && between_messages(c))
		connection_flush(c);
}

void connection_flush(struct connection *c)
{
	struct subscription *sub = c->subscription;
	struct iovec spans[RING_SPANS_MAX];
	unsigned n = 0;

	if (c->socket.sending || c->state == CONNECTION_CLOSED) {
		if (sub != NULL && sub->stream != NULL && !sub->in_flight)
			stream_hold(sub->stream, &sub->cursor);
		return;
	}
	if (c->interjects && between_messages(c)) {
		c->interjects = false;
		c->protocol->interject(c);
		if (c->state == CONNECTION_CLOSED)
			return;
	}
	if (c->output.waits)
		n = output_gather(&c->output, spans, RING_SPANS_MAX);
	/* A reply that has not left yet comes first. */
	if (sub != NULL && sub->stream != NULL &&
	    (!c->output.waits || output_all_gathered(&c->output)) &&
	    !stream_at_end(sub->stream, &sub->cursor)) {
		int gathered =
			stream_gather(sub->stream, &sub->cursor, spans + n, RING_SPANS_MAX - n);

		if (gathered < 0) {
			connection_close(c, DROP_MEMORY);
			return;
		}
		if (gathered > 0)
			sub->in_flight = true;
		else
			subscription_go_on(sub);
		n += (unsigned)gathered;
	}
	if (n > 0)
		count_unlooked(c, socket_send(&c->shard->sockets, &c->socket, spans, n));
	else
		maybe_end(c);
}

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
		if (c->subscription == NULL && !c->awaiting && c->output.body == NULL)
			connection_limit_closing(c);
		memory_free(c->input);
		c->input = NULL;
		c->input_len = 0;
	}
	if (c->subscription != NULL && !c->awaiting)
		subscription_leave(c->subscription);
	connection_flush(c);
}

static void stop_publishing(struct connection *c, bool receipt)
{
	if (c->protocol->stop_publishing != NULL)
		c->protocol->stop_publishing(c, receipt);
}

void connection_goodbye(struct connection *c)
{
	stop_publishing(c, true);
	if (c->subscription != NULL && !c->awaiting)
		c->awaiting = subscription_ask_last(c->subscription);
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
	c->awaiting = false;
	if (c->subscription != NULL && c->subscription->stream == NULL)
		subscription_free(c->subscription, DROP_CLOSED);
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

void connection_no_topic(struct connection *c, int error)
{
	connection_error(c, error == -ENOSPC ? REASON_TOPICS : REASON_MEMORY);
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
	c->reason = reason;
	deadline_stop(&c->deadline);
	list_remove(&c->waiting);
	stop_publishing(c, false);
	if (c->subscription != NULL) {
		subscription_leave(c->subscription);
		if (!c->subscription->in_flight)
			subscription_free(c->subscription, reason);
	}
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

void connection_is_for(struct connection *c, const unsigned char address[16])
{
	struct shard *s = c->shard;

	c->proxied = true;
	c->local = is_local(address);
	if (s->config->limits.connections_per_ip == 0 || c->counts != COUNTS_AS_CLIENT)
		return;
	uncount(c);
	if (!listener_enter(s->broker, s->config, address)) {
		count_refused(c, REASON_CONNECTIONS);
		return;
	}
	memcpy(c->address, address, sizeof(c->address));
	c->counts = COUNTS_AS_CLIENT;
}

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
	if (error != 0 || c->state == CONNECTION_LINGERING)
		connection_close(c, DROP_CLOSED);
	else if (c->state != CONNECTION_OPEN)
		connection_flush(c); /* finishing: it may still be reading */
	else if (c->protocol->ended != NULL)
		c->protocol->ended(c);
	else
		connection_goodbye(c);
}

static void sent(struct socket *socket, int result)
{
	struct connection *c = connection_of(socket);
	size_t n = result > 0 ? (size_t)result : 0, body = 0;
	bool any = n > 0;

	c->shard->counters.sent_bytes += n;
	if (c->output.waits)
		n = output_sent(&c->output, n, &body);
	if (body > 0)
		c->protocol->body_went(c, c->output.body == NULL);
	if (c->subscription != NULL) {
		bool skip = c->subscription->skip;

		if (c->subscription->in_flight)
			subscription_sent(c->subscription, n);
		else if (c->subscription->stream != NULL && c->state != CONNECTION_CLOSED) {
			stream_unhold(c->subscription->stream, &c->subscription->cursor);
			if (stream_wants_sends(c->subscription->stream))
				shard_dirty(c->shard, c->subscription->stream);
		}
		if (skip && result == -ECANCELED)
			result = 0;
	}
	if (c->state == CONNECTION_CLOSED)
		return;
	if (result < 0 && result != -EINTR && result != -EAGAIN && result != -ENOBUFS &&
	    result != -ENOMEM) {
		connection_close(c, DROP_CLOSED);
		return;
	}
	/* A ready cursor is served in its stream's round; what else there is to say goes now. */
	if (c->output.waits || c->state == CONNECTION_FINISHING ||
	    (c->interjects && between_messages(c)))
		connection_flush(c);
	if (clients_limit_idle(&c->shard->clients) && any && may_be_silent(c))
		connection_limit_silence(c);
	if (c->protocol->resume != NULL)
		c->protocol->resume(c);
}

static void closed(struct socket *socket)
{
	struct connection *c = connection_of(socket);
	struct shard *s = c->shard;

	if (c->subscription != NULL)
		subscription_free(c->subscription, c->reason);
	uncount(c);
	memory_count(-(int64_t)c->kernel_bytes);
	s->clients.connections_n--;
	s->clients.late_n -= c->late;
	list_remove(&c->link);
	output_release(&c->output);
	memory_free(c->input);
	c->protocol->free(c);
	pool_give(&s->clients.connection_pool, c);
}

const struct socket_events connection_events = { .received = received,
						 .sent = sent,
						 .closed = closed };

void connection_timed_out(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);

	(void)context;
	connection_error(c, REASON_TIMEOUT);
}

void connection_closing_timed_out(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);

	(void)context;
	/* Refused, and it has not said what it speaks. */
	if (c->state == CONNECTION_OPEN)
		connection_refuse(c);
	else
		connection_close(c, c->reason);
}

bool connection_local(const struct connection *c)
{
	unsigned char peer[16];

	if (c->proxied)
		return c->local;
	ring_peer(c->shard->reactor.ring, c->socket.fd, peer);
	return is_local(peer);
}

void connection_open(struct shard *s, int fd, const struct listener *listener)
{
	struct connection *c = pool_take(&s->clients.connection_pool);
	enum reason refusal = REASON_NONE;
	bool proxied;
	struct connection fresh = { .shard = s,
				    .late = s->drain.draining,
				    .protocols = (uint8_t)listener->protocols,
				    .reason = DROP_CLOSED };

	if (c == NULL) {
		ring_close(s->reactor.ring, fd);
		return;
	}
	*c = fresh;
	if (socket_open(&s->sockets, &c->socket, fd) != 0) {
		ring_close(s->reactor.ring, fd);
		pool_give(&s->clients.connection_pool, c);
		return;
	}
	list_init(&c->waiting);
	list_init(&c->link);
	list_append(&s->clients.connections, &c->link);
	deadline_init(&c->deadline);
	s->clients.connections_n++;
	s->clients.late_n += c->late;
	s->counters.accepted++;
	if (s->config->limits.connections_per_ip > 0 || listener->proxy_protocol)
		ring_peer(s->reactor.ring, fd, c->address);
	proxied = listener_proxied(listener, c->address);
	c->protocol = s->broker->sessions->first(listener->protocols, proxied);
	if (s->config->limits.connections_per_ip == 0 || proxied)
		memset(c->address, 0, sizeof(c->address));
	if (c->late)
		refusal = REASON_DRAINING;
	else if (!listener_enter(s->broker, s->config, c->address))
		refusal = REASON_CONNECTIONS;
	c->counts = COUNTS_AS_CLIENT;
	if (refusal == REASON_NONE) {
		reactor_deadline(&s->reactor, &s->clients.handshake, &c->deadline);
		socket_receive(&s->sockets, &c->socket);
		return;
	}
	count_refused(c, refusal);
	if (s->clients.refused_n > REFUSED_CONNECTIONS_MAX && !c->late) {
		connection_close(c, DROP_CLOSED);
	} else if (c->protocol->refuses_at_once) {
		connection_refuse(c);
	} else {
		connection_limit_closing(c);
		socket_receive(&s->sockets, &c->socket);
	}
}
