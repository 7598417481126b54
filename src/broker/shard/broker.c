#include "broker/broker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/identity.h"
#include "broker/listener.h"
#include "broker/login.h"
#include "broker/mail.h"
#include "broker/objects.h"
#include "broker/shard.h"
#include "engine/keyring.h"
#include "engine/mailbox.h"
#include "engine/worker.h"

int broker_init(struct broker *b, unsigned shards_n, unsigned lane_entries)
{
	b->shards_n = shards_n;
	b->shards = calloc(shards_n, sizeof(*b->shards));
	b->ring_fds = calloc(shards_n, sizeof(*b->ring_fds));
	/* The main thread is one more sender. */
	b->mailbox = mailbox_new(shards_n, shards_n + 1, lane_entries);
	b->desk = login_desk_new();
	b->names = workers_new();
	memcpy(b->letter_uses, shard_letter_uses, sizeof(b->letter_uses));
	return b->shards != NULL && b->ring_fds != NULL && b->mailbox != NULL && b->desk != NULL &&
			       b->names != NULL
		       ? 0
		       : -ENOMEM;
}

void broker_release(struct broker *b)
{
	for (unsigned i = 0; b->shards != NULL && i < b->shards_n; i++)
		shard_release(&b->shards[i]);
	if (b->mailbox != NULL)
		letters_discard(b->letter_uses, b->mailbox, b->shards_n);
	mailbox_free(b->mailbox);
	listeners_close(b);
	login_desk_free(b->desk);
	workers_leave(b->names);
	keyring_unref(b->dials);
	identities_let_go(b->identities);
	placement_release(&b->placement);
	free(b->ring_fds);
	free(b->shards);
	objects_unref(b->objects);
}
