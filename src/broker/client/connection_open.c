#include "broker/connection_parts.h"

#include <string.h>

#include "base/address.h"
#include "broker/admission.h"
#include "broker/listener.h"
#include "broker/protocol.h"
#include "broker/shard.h"

void connection_uncount(struct connection *c)
{
	static const unsigned char nowhere[16];

	if (c->counts == COUNTS_AS_CLIENT)
		admission_leave(c->shard->broker, c->by_address ? c->address : nowhere);
	else if (c->counts == COUNTS_AS_REFUSED)
		c->shard->clients.refused_n--;
	c->counts = COUNTS_NOT;
}

/* No client is served on it. */
static void count_refused(struct connection *c, enum reason reason)
{
	c->refusal = (uint8_t)reason;
	c->counts = COUNTS_AS_REFUSED;
	c->shard->counters.refused++;
	c->shard->clients.refused_n++;
}

void connection_is_for(struct connection *c, const unsigned char address[16])
{
	struct shard *s = c->shard;

	if (connection_note_address(c, address) != 0) {
		connection_close(c, DROP_MEMORY);
		return;
	}
	c->proxied = true;
	c->local = connection_address_local(address);
	if (s->config->limits.connections_per_ip == 0 || c->counts != COUNTS_AS_CLIENT)
		return;
	connection_uncount(c);
	if (!admission_enter(s->broker, s->config, address)) {
		count_refused(c, REASON_CONNECTIONS);
		return;
	}
	c->by_address = true;
	c->counts = COUNTS_AS_CLIENT;
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
	return connection_address_local(peer) ||
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

int connection_secure_dialled(struct connection *c, const char *name)
{
	return socket_secure_dialled(&c->shard->sockets, &c->socket, c->shard->broker->dials, name);
}

void connection_secure(struct connection *c, struct span bytes)
{
	struct shard *s = c->shard;
	struct keyring *keyring = atomic_load(&s->broker->listeners[c->listener].keyring);

	if (socket_secure(&s->sockets, &c->socket, keyring, bytes) != 0)
		connection_close(c, DROP_MEMORY);
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
	if (c->by_address && connection_note_address(c, address) != 0) {
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
