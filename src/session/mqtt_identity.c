#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "broker/shard.h"
#include "engine/socket.h"
#include "session/mqtt.h"
#include "session/shared.h"

/* At its home: which connection has an identifier. */
struct claim {
	struct named named; /* first */
	uint32_t shard, slot, generation;
	char id[];
};

static struct table *identities_of(const struct shard *s)
{
	return &session_shared(s)->mqtt.identities;
}

static struct claim *find(const struct shard *s, const struct identity_letter *l)
{
	return (struct claim *)(void *)table_find(identities_of(s), l->hash, l->id);
}

static void set(struct claim *i, const struct identity_letter *l)
{
	i->shard = l->shard;
	i->slot = l->slot;
	i->generation = l->generation;
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
	struct identity_letter *l = memory_new_zeroed(sizeof(*l) + id.len);

	if (l == NULL)
		return -ENOMEM;
	memcpy(l->bytes, id.data, id.len);
	l->id = (struct span){ l->bytes, id.len };
	l->hash = hash_bytes(id.data, id.len);
	l->shard = c->shard->id;
	l->slot = c->socket.slot;
	l->generation = socket_generation(&c->shard->sockets, &c->socket);
	post(c->shard, shard_home(c->shard, l->hash), LETTER_CLAIM, l);
	return 0;
}

void mqtt_unclaim(struct mqtt_session *m)
{
	struct identity_letter *l = m->identity;
	struct shard *s = mqtt_connection(m)->shard;

	m->identity = NULL;
	if (l != NULL)
		post(s, shard_home(s, l->hash), LETTER_UNCLAIM, l);
}

static struct claim *claim_new(struct shard *s, const struct identity_letter *l)
{
	struct claim *i = memory_new_zeroed(sizeof(*i) + l->id.len);

	if (i == NULL)
		return NULL;
	memcpy(i->id, l->id.data, l->id.len);
	i->named = (struct named){ l->hash, { i->id, l->id.len } };
	if (table_add(identities_of(s), &i->named) == 0)
		return i;
	memory_free(i);
	return NULL;
}

void mqtt_claim_came(struct shard *s, struct identity_letter *l)
{
	struct claim *i = find(s, l);
	unsigned old;

	if (i == NULL) {
		i = claim_new(s, l);
		l->error = i != NULL ? 0 : -ENOMEM;
		if (i != NULL)
			set(i, l);
		post(s, l->shard, LETTER_CLAIMED, l);
		return;
	}
	old = i->shard;
	l->old_slot = i->slot;
	l->old_generation = i->generation;
	set(i, l);
	post(s, old, LETTER_TAKE_OVER, l);
}

void mqtt_take_over_came(struct shard *s, struct identity_letter *l)
{
	struct mqtt_session *m = mqtt_session_at(s, l->old_slot, l->old_generation);

	/* Its will goes before the other one is told that it is in. */
	if (m != NULL)
		mqtt_taken_over(m);
	post(s, l->shard, LETTER_CLAIMED, l);
}

void mqtt_unclaim_came(struct shard *s, struct identity_letter *l)
{
	struct claim *i = find(s, l);

	/* Somebody else may have it by now. */
	if (i != NULL && i->shard == l->shard && i->slot == l->slot &&
	    i->generation == l->generation) {
		table_remove(identities_of(s), &i->named);
		memory_free(i);
	}
	memory_free(l);
}

void mqtt_clients_release(struct shard *s)
{
	struct named *n;

	for (size_t at = 0; (n = table_next(identities_of(s), &at)) != NULL;)
		memory_free(n);
	table_release(identities_of(s));
}
