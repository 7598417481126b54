#ifndef BROKER_BROKER_H
#define BROKER_BROKER_H

/*
 * What all shards share. Made and released by the main thread; read-only once they run, but for
 * what is atomic or has a lock.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/mail.h"
#include "engine/placement.h"
#include "topic/letter.h"

struct address_book;
struct fetch_letter;
struct identities;
struct letter;
struct listener;
struct login_desk;
struct mailbox;
struct objects;
struct route;
struct sessions;
struct shard;
struct tap;

/* Topics are held by hash: one in so many waits for another's sake. */
enum { HOLD_BUCKETS = 1024 };

/* What floor 5 does about figures, on the thread of the shard that it is handed. */
struct figures_use {
	/* At the home of an internal topic every second while it says that it wants to be called,
	 * beginning when a shard subscribes. */
	bool (*second)(struct shard *shard);
	/* A request for them, at its home; takes it over. */
	void (*asked)(struct shard *shard, struct fetch_letter *letter);
	/* In each turn in which figures.working is set: does some work. Whether more is left that
	 * needs no waiting. */
	bool (*go_on)(struct shard *shard);
	/* After every shard has ended. */
	void (*release)(struct shard *shard);
};

struct broker {
	unsigned shards_n;
	struct shard *shards;
	struct placement placement;
	struct mailbox *mailbox; /* senders: the shards, then the main thread */
	int *ring_fds;
	struct listener *listeners;
	size_t listeners_n;
	_Atomic uint32_t connections;
	_Atomic uint64_t subscriptions;
	_Atomic uint64_t client_ids;   /* given so far to clients that have one */
	_Atomic uint32_t running;      /* shards that have not ended */
	_Atomic bool lame;             /* it serves as ever, but is about to end */
	_Atomic uint32_t cut_off;      /* shards whose upstream has not been there for a while */
	_Atomic unsigned memory_level; /* enum budget_level */
	_Atomic uint64_t memory_limit; /* what it is judged by: budget_set_limit */
	_Atomic int64_t history_bytes; /* of all shards, but for what they have not told yet */
	struct address_book *addresses;
	struct login_desk *desk;       /* broker/login.h */
	struct workers *names;         /* of servers that are dialled: lookup.h */
	struct keyring *_Atomic dials; /* what they are shown; NULL: none is dialled */
	struct identities *identities; /* that shards start with */
	struct letter_use letter_uses[LETTER_KINDS]; /* by kind */
	/* Set behind broker_init, and their letters in letter_uses: sessions_register. */
	const struct sessions *sessions;
	const struct tap *tap;          /* broker/tap.h; NULL: all topics are this host's */
	const struct route *routes[32]; /* session/routes.h */
	unsigned routes_n;
	struct objects *objects; /* what shards start with */
	/* Called on a shard's thread every stats_seconds and at its end. Set by floor 5. */
	void (*report)(struct shard *shard, bool last);
	/* Set by floor 5; NULL: nobody is told any figures. */
	const struct figures_use *figures;
	/* Streams whose topics' publishers wait, wherever they are, until fan-out has caught up;
	 * and how often one of them has. Read with each publish, and so apart from what changes all
	 * the time. */
	_Atomic uint32_t held[HOLD_BUCKETS];
	_Atomic uint64_t hold_ends;
};

/* Makes room for so many shards, and knows the routes of its own. What floor 5 sets, and the
 * placement, is left as it is; the rest must be all zero. -ENOMEM: release it all the same. */
int broker_init(struct broker *broker, unsigned shards_n, unsigned lane_entries);
/* With its shards, which have ended, and what lies in their lanes. */
void broker_release(struct broker *broker);

#endif
