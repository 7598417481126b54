#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "broker/shard.h"
#include "engine/socket.h"
#include "session/mqtt.h"
#include "session/shared.h"

static struct table *identities_of(const struct shard *s)
{
	return &session_shared(s)->mqtt.identities;
}

/* The claim of the connection that has it. */
static struct identity_letter *find(const struct shard *s, const struct named *id)
{
	struct named *n = table_find(identities_of(s), id->hash, id->name);

	return n != NULL ? LIST_ENTRY(n, struct identity_letter, named) : NULL;
}

struct mqtt_session *mqtt_session_at(struct shard *s, uint32_t slot, uint32_t generation)
{
	struct socket *socket = socket_at(&s->sockets, slot, generation);

	return socket != NULL ? mqtt_of(connection_of(socket)) : NULL;
}

static void post(struct shard *s, unsigned to, enum letter_kind kind, struct identity_letter *l)
{
	l->letter.kind = kind;
	shard_post(s, to, LANE_FREE, &l->letter);
}

int mqtt_claim(struct mqtt_session *m, struct span id)
{
	struct connection *c = mqtt_connection(m);
	struct identity_letter *l = memory_new_zeroed(sizeof(*l));
	char salted[sizeof(l->named.hash) + MQTT_CLIENT_ID_MAX];

	if (l == NULL)
		return -ENOMEM;
	l->named.hash = hash_bytes(id.data, id.len);
	memcpy(salted, &l->named.hash, sizeof(l->named.hash));
	memcpy(salted + sizeof(l->named.hash), id.data, id.len);
	l->more = hash_bytes(salted, sizeof(l->named.hash) + id.len);
	l->named.name = (struct span){ (const char *)&l->more, sizeof(l->more) };
	l->shard = c->shard->id;
	l->slot = c->socket.slot;
	l->generation = socket_generation(&c->shard->sockets, &c->socket);
	post(c->shard, shard_home(c->shard, l->named.hash), LETTER_CLAIM, l);
	return 0;
}

void mqtt_unclaim(struct mqtt_session *m)
{
	struct identity_letter *l = m->identity;
	struct shard *s = mqtt_connection(m)->shard;

	m->identity = NULL;
	if (l != NULL)
		post(s, shard_home(s, l->named.hash), LETTER_UNCLAIM, l);
}

void mqtt_claim_came(struct shard *s, struct identity_letter *l)
{
	struct identity_letter *old = find(s, &l->named);
	int err;

	if (old != NULL)
		table_remove(identities_of(s), &old->named);
	err = table_add(identities_of(s), &l->named);
	if (old == NULL) {
		l->error = err;
		post(s, l->shard, LETTER_CLAIMED, l);
		return;
	}
	/* It has the other one's place. */
	assert(err == 0);
	l->old.slot = old->slot;
	l->old.generation = old->generation;
	post(s, old->shard, LETTER_TAKE_OVER, l);
}

void mqtt_take_over_came(struct shard *s, struct identity_letter *l)
{
	struct mqtt_session *m = mqtt_session_at(s, l->old.slot, l->old.generation);

	/* Its will goes before the other one is told that it is in. */
	if (m != NULL)
		mqtt_taken_over(m);
	l->error = 0;
	post(s, l->shard, LETTER_CLAIMED, l);
}

void mqtt_unclaim_came(struct shard *s, struct identity_letter *l)
{
	/* Somebody else may have it by now. */
	if (find(s, &l->named) == l)
		table_remove(identities_of(s), &l->named);
	memory_free(l);
}

void mqtt_clients_release(struct shard *s)
{
	/* The claims are their connections', which have gone. */
	table_release(identities_of(s));
}
