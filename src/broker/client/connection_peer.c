#include "broker/connection_parts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/address.h"
#include "base/memory.h"
#include "broker/shard.h"

bool connection_address_local(const unsigned char peer[16])
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
	static const unsigned char unix_or_v6_loopback[15];

	if (memcmp(peer, mapped, 12) == 0)
		return peer[12] == 127;
	return memcmp(peer, unix_or_v6_loopback, 15) == 0 && peer[15] <= 1;
}

int connection_note_address(struct connection *c, const unsigned char address[16])
{
	if (c->address == NULL)
		c->address = memory_new(16);
	if (c->address == NULL)
		return -ENOMEM;
	memcpy(c->address, address, 16);
	return 0;
}

bool connection_peer_local(const struct connection *c)
{
	unsigned char peer[16];

	ring_peer(c->shard->reactor.ring, c->socket.fd, peer);
	return connection_address_local(peer);
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
