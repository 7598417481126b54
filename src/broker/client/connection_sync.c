#include "broker/connection_parts.h"

#include <errno.h>

#include "broker/letters.h"
#include "broker/shard.h"
#include "topic/interest.h"

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

int connection_sync_all(struct connection *c, enum mailbox_lane lane)
{
	for (unsigned to = 0; to < c->shard->broker->shards_n; to++) {
		struct topic_letter *l = sync_letter(c, (struct span){ NULL, 0 }, 0);

		if (l == NULL)
			return -ENOMEM;
		shard_post(c->shard, to, lane, &l->letter);
	}
	return 0;
}
