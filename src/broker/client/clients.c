#include "broker/connection.h"

#include "base/clock.h"
#include "base/memory.h"
#include "broker/protocol.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "topic/stream.h"

enum {
	CLOSING_SECONDS = 5, /* for a client to take a last word and close */
	RESUME_COST = 2,
	BACKLOGS_MAX = 16, /* of one connection's subscriptions that are looked at */
	CALL_COST = 8,     /* of what is done with one in a walk: 2 us */
	VERIFY_COST = 400,
};

static uint64_t idle_ns(const struct shard *s)
{
	unsigned seconds = s->config->limits.idle_seconds;

	return seconds > 0 ? seconds * NS_PER_S : DEADLINE_NEVER;
}

static void watch(struct shard *s)
{
	reactor_watch(&s->reactor, &s->clients.handshake, connection_timed_out, s);
	reactor_watch(&s->reactor, &s->clients.idle, connection_timed_out, s);
	reactor_watch(&s->reactor, &s->clients.closing, connection_closing_timed_out, s);
}

void connections_init(struct shard *s)
{
	/* Refused ones need a slot too, for as long as it takes to say so. */
	sockets_init(&s->sockets, &s->reactor, &connection_events, SOCKET_NO_SLOT);
	pool_init(&s->clients.connection_pool, sizeof(struct connection));
	s->audience.events = &connection_audience_events;
	pool_init(&s->audience.subscription_pool, sizeof(struct subscription));
	list_init(&s->clients.paused);
	list_init(&s->clients.resumed);
	list_init(&s->clients.turns);
	deadline_class_init(&s->clients.handshake, s->config->limits.handshake_seconds * NS_PER_S);
	deadline_class_init(&s->clients.idle, idle_ns(s));
	deadline_class_init(&s->clients.closing, CLOSING_SECONDS * NS_PER_S);
	watch(s);
}

static void look(struct connection *c)
{
	size_t bytes = ring_kernel_bytes(c->shard->reactor.ring, c->socket.fd);
	uint32_t now = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;

	memory_count((int64_t)now - c->kernel_bytes);
	c->kernel_bytes = now;
	c->unlooked_bytes = 0;
}

bool connections_look(struct shard *s, unsigned max)
{
	struct list *l, looked;

	list_init(&looked);
	for (; max > 0 && (l = list_take(&s->clients.unlooked)) != NULL; max--) {
		struct connection *c = LIST_ENTRY(l, struct connection, link);

		look(c);
		list_append(c->socket.sending || c->kernel_bytes > 0 ? &looked
								     : &s->clients.connections,
			    l);
	}
	list_splice(&s->clients.unlooked, &looked);
	return !list_empty(&s->clients.unlooked);
}

/* What goes when it goes. */
static uint64_t held_alone(const struct connection *c)
{
	uint64_t held =
		c->kernel_bytes + output_held(c->output) + c->input_len + socket_held(&c->socket);

	if (c->protocol->held != NULL)
		held += c->protocol->held(c);
	/* One that skips is in the middle of a message, and may never take the rest. */
	if (c->middle != NULL)
		held += cursor_rest(&c->middle->cursor);
	return held;
}

static uint64_t backlog(const struct connection *c)
{
	uint64_t bytes = output_body_left(c->output);
	const struct subscription *sub = c->subscriptions;

	for (unsigned n = 0; n < c->subscriptions_n && n < BACKLOGS_MAX; n++) {
		if (!subscription_is(sub, SUBSCRIPTION_ASKED))
			bytes += cursor_backlog(sub->stream, &sub->cursor);
		sub = subscription_next(sub);
	}
	return bytes;
}

uint64_t connection_held(const struct connection *c)
{
	return c->state != CONNECTION_CLOSED ? held_alone(c) + backlog(c) : 0;
}

uint64_t connection_evict(struct connection *c)
{
	uint64_t alone = held_alone(c);

	c->shard->counters.memory_evicted++;
	if (c->subscriptions_n == 1 && backlog(c) > alone) {
		subscription_overtake(connection_subscription(c));
		return 0;
	}
	/* What the kernel holds for the client must go with it. */
	c->socket.reset = true;
	connection_close(c, DROP_MEMORY);
	return alone;
}

bool connections_rush(const struct shard *s)
{
	return s->drain.draining && s->clients.refused_n >= REFUSED_CONNECTIONS_MAX;
}

void connections_resume(struct shard *s)
{
	list_splice(&s->clients.resumed, &s->clients.paused);
}

static void resume(struct connection *c)
{
	struct shard *s = c->shard;

	if (shard_congested(s, c->publishes_to)) {
		list_append(&s->clients.paused, &c->waiting);
		return;
	}
	socket_receive(&s->sockets, &c->socket);
	if (c->state == CONNECTION_OPEN && c->protocol->silent(c))
		connection_limit_silence(c);
	if (c->protocol->resume != NULL)
		c->protocol->resume(c);
}

bool connections_resume_some(struct shard *s)
{
	struct list *l;

	while ((l = list_take(&s->clients.resumed)) != NULL) {
		resume(LIST_ENTRY(l, struct connection, waiting));
		reactor_spend(&s->reactor, RESUME_COST);
		if (reactor_spent(&s->reactor))
			break;
	}
	return !list_empty(&s->clients.resumed);
}

void connections_each(struct shard *s, void (*callback)(struct connection *, void *),
		      void *argument)
{
	struct socket *socket;

	for (uint32_t at = 0; (socket = sockets_next(&s->sockets, &at)) != NULL;)
		callback(connection_of(socket), argument);
}

bool connections_walk(struct shard *s, struct connections_walk *walk,
		      void (*callback)(struct connection *, void *), void *argument)
{
	uint32_t from = walk->at;
	struct socket *socket;

	for (; walk->left > 0; walk->left--) {
		socket = sockets_next(&s->sockets, &walk->at);
		if (socket == NULL) {
			walk->left = 0;
			break;
		}
		callback(connection_of(socket), argument);
		reactor_spend(&s->reactor, walk->at - from + CALL_COST);
		from = walk->at;
		if (reactor_spent(&s->reactor)) {
			walk->left--;
			return true;
		}
	}
	return false;
}

/* Nothing else is timed: now this is. */
static void start_idle(struct connection *c, void *argument)
{
	(void)argument;
	if (c->state == CONNECTION_OPEN && c->protocol->silent(c) &&
	    !deadline_running(&c->deadline))
		connection_limit_silence(c);
}

/* Whoever the new keyring would not have let in is not let stay. */
static void look_at_certificate(struct connection *c, void *argument)
{
	struct shard *s = c->shard;
	const struct keyring *keyring = atomic_load(&s->broker->listeners[c->listener].keyring);

	(void)argument;
	if (c->socket.tls == NULL || c->socket.tls->state != TLS_OPEN)
		return;
	reactor_spend(&s->reactor, VERIFY_COST);
	if (!cipher_still_trusted(c->socket.tls->cipher, keyring))
		connection_close(c, DROP_CLOSED);
}

void connections_configure(struct shard *s)
{
	bool limited = clients_limit_idle(&s->clients);

	reactor_deadlines_change(&s->reactor, &s->clients.handshake,
				 s->config->limits.handshake_seconds * NS_PER_S);
	reactor_deadlines_change(&s->reactor, &s->clients.idle, idle_ns(s));
	if (!limited)
		s->clients.configured = connections_all();
	connections_tell(s);
	if (s->sockets.tls.open > 0)
		s->clients.trusted = connections_all();
}

bool connections_configure_some(struct shard *s)
{
	bool more = clients_limit_idle(&s->clients) &&
		    connections_walk(s, &s->clients.configured, start_idle, NULL);

	return connections_walk(s, &s->clients.trusted, look_at_certificate, NULL) || more;
}

static void tell(struct connection *c, void *argument)
{
	(void)argument;
	if (c->state == CONNECTION_OPEN && c->protocol->news != NULL)
		c->protocol->news(c);
}

void connections_tell(struct shard *s)
{
	s->clients.told = connections_all();
}

bool connections_tell_some(struct shard *s)
{
	return connections_walk(s, &s->clients.told, tell, NULL);
}

static void end_now(struct connection *c, void *argument)
{
	(void)argument;
	connection_ground(c);
	socket_abandon(&c->shard->sockets, &c->socket);
	connection_close(c, DROP_CLOSED);
}

void connections_release(struct shard *s)
{
	connections_each(s, end_now, NULL);
	while (sockets_flush(&s->sockets) || connections_turn_some(s))
		;
	sockets_release(&s->sockets);
	pool_release(&s->clients.connection_pool);
	pool_release(&s->audience.subscription_pool);
}
