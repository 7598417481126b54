#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/hash.h"
#include "broker/broker.h"
#include "broker/shard.h"
#include "engine/dial.h"
#include "engine/lookup.h"
#include "session/upstream.h"

/*
 * The servers of the cluster that are known: those of the configuration, and those that one of
 * these has named. A name is looked up anew each time that it is dialled, and its addresses are
 * tried one behind the other, beginning with another one than the last time.
 */

static const uint64_t look_ns = 5 * NS_PER_MS; /* so often whether a name is known */

enum { DEAF_PINGS = 5 }; /* halves: not heard for so long, it is gone */

uint64_t upstream_deaf_ns(const struct upstream *u)
{
	return u->config->ping_seconds * NS_PER_S / 2 * DEAF_PINGS;
}

static const struct server *server_of(const struct upstream *u)
{
	return &u->servers[u->server];
}

const char *upstream_server_host(const struct upstream *u)
{
	return server_of(u)->host;
}

bool upstream_server_secure(const struct upstream *u)
{
	return server_of(u)->tls;
}

const char *upstream_server_certified(const struct upstream *u)
{
	return u->servers[u->taught_by[u->server]].host;
}

void upstream_servers_init(struct upstream *u)
{
	for (size_t i = 0; i < u->config->servers_n && i < UPSTREAM_SERVERS_MAX; i++) {
		(void)server_parse(span_of(u->config->servers[i]), &u->servers[i]);
		u->taught_by[i] = (uint8_t)i;
		u->servers_n++;
	}
	/* Each begins somewhere else. */
	u->server = (unsigned)(hash_unique() % u->servers_n);
	u->address = (unsigned)hash_unique();
}

void upstream_servers_next(struct upstream *u)
{
	u->server = (u->server + 1) % u->servers_n;
}

void upstream_servers_learn(struct upstream *u)
{
	struct span urls = span_of(u->info.urls), url;
	uint8_t teacher = u->taught_by[u->server];

	while (u->servers_n < UPSTREAM_SERVERS_MAX && nats_next_url(&urls, &url)) {
		struct server *next = &u->servers[u->servers_n];
		bool known = server_parse(url, next) != NULL;

		next->tls = server_of(u)->tls;
		for (unsigned i = 0; i < u->servers_n && !known; i++)
			known = server_same(&u->servers[i], next);
		if (known)
			continue;
		/* By an address alone nobody is certified who has a name. */
		u->taught_by[u->servers_n] = next->numeric ? teacher : (uint8_t)u->servers_n;
		u->servers_n++;
	}
}

/* ---- dialling ---- */

static int begin(struct upstream *u, const struct address *address)
{
	return dial_begin(&u->dial, address, (int)(upstream_deaf_ns(u) / NS_PER_MS));
}

int upstream_servers_again(struct upstream *u)
{
	unsigned n = u->lookup != NULL ? lookup_count(u->lookup) : 0;
	int err = -EHOSTUNREACH;

	while (err != 0 && u->tries > 0) {
		u->tries--;
		err = begin(u, lookup_address(u->lookup, u->address++ % n));
	}
	return err;
}

const char *upstream_servers_dial(struct upstream *u)
{
	const struct server *server = server_of(u);
	int err;

	if (!server->numeric) {
		u->lookup = lookup_new(u->shard->broker->names, server->host, server->address.port);
		u->looking = u->lookup != NULL;
		return u->looking ? NULL : "names cannot be looked up now";
	}
	err = begin(u, &server->address);
	return err == 0 ? NULL : strerror(-err);
}

const char *upstream_servers_look(struct upstream *u, uint64_t *next_ns)
{
	uint64_t at_ns = upstream_now(u) + look_ns;
	int err;

	if (!u->looking)
		return NULL;
	if (!lookup_done(u->lookup)) {
		*next_ns = at_ns < *next_ns ? at_ns : *next_ns;
		return NULL;
	}
	u->looking = false;
	u->tries = lookup_count(u->lookup);
	if (u->tries == 0)
		return lookup_problem(u->lookup);
	err = upstream_servers_again(u);
	return err == 0 ? NULL : strerror(-err);
}

void upstream_servers_leave(struct upstream *u)
{
	dial_cancel(&u->dial);
	lookup_free(u->lookup);
	u->lookup = NULL;
	u->looking = false;
	u->tries = 0;
}
