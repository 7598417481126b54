#ifndef BROKER_LOGIN_H
#define BROKER_LOGIN_H

/*
 * How credentials are looked at (broker/access.h asks). Tokens are a look-up; signatures are
 * checked by the reactor, a few in each turn, and the right ones remembered; passwords go to
 * threads beside the reactors, where those who show the same one share one hash. An answer that is
 * no comes half a second later, whatever was wrong, and an address that has caused many of them is
 * refused without a look.
 *
 * What all shards share is the desk, which has a lock: it is taken when somebody shows a password,
 * and when somebody is refused. Everything else is a shard's own.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/histogram.h"
#include "base/list.h"
#include "base/memo.h"
#include "broker/access.h"
#include "broker/clients.h"
#include "broker/identity.h"

struct connection;
struct shard;
struct workers;

enum {
	LOGIN_WRONG_MS = 500,
	LOGIN_SIGNATURES = 8,        /* looked at in a turn */
	LOGIN_TOKENS_MAX = 4096,     /* good ones of others that a shard remembers */
	LOGIN_PASSWORDS_MAX = 4096,  /* good ones */
	LOGIN_ADDRESSES_MAX = 65536, /* that something wrong has come from */
	LOGIN_TICKETS_MAX = 65536,   /* that have been used; beyond, a ticket may be so again */
};

/* Of the broker. */
struct login_desk {
	pthread_mutex_t lock;
	struct workers *workers;
	struct list jobs; /* passwords that are not decided yet */
	struct memo passwords, addresses, tickets;
	unsigned char secret[32];  /* of this process: what it remembers and signs with */
	_Atomic uint64_t decided;  /* passwords so far: shards look again when it moves */
	_Atomic unsigned refusing; /* addresses that are refused, perhaps */
};

/* NULL: out of memory, or no random bytes. */
struct login_desk *login_desk_new(void);
void login_desk_free(struct login_desk *desk);

/* A shard's part. */
/* What became of a login: broker/access.c's. Takes the identity over. */
typedef void logins_decided(struct connection *connection, enum access_result result,
			    struct identity *identity);

struct logins {
	logins_decided *decide;
	struct identities *identities; /* held: who there is now */
	struct list signatures;        /* tokens to be looked at in the next turns */
	struct list passwords;         /* struct login_group: whom a hash will be the answer for */
	struct list told;              /* the same, decided: told in the next turns */
	struct list wrong;             /* to be told in half a second, first come first */
	struct memo tokens;
	unsigned signatures_n; /* looked at in this turn */
	uint64_t decided;      /* the desk's, at the last look */
	uint32_t waiting_n;    /* in all lists */
	struct histogram hash; /* ns that they took */

	/* broker/access.c: everybody is looked at again, */
	struct connections_walk review;
	bool reviewing, changed; /* because who there is has changed, */
	uint64_t reviewed_ns, review_again_ns;
	int64_t expires_s, next_expires_s; /* or because somebody may have come to his end */
};

void logins_init(struct shard *shard, struct identities *identities, logins_decided *decide);
void logins_release(struct shard *shard);
/* Others are who there is from now on; held for the shard. */
void logins_configure(struct shard *shard, struct identities *identities);
/* Once per turn, if logins.waiting_n is not 0. Whether more is left to be done at once. */
bool logins_flush(struct shard *shard);

/* What access_login asks for. The connection gets its answer by what logins_init was given. */
void login_begin(struct connection *connection, const struct credentials *credentials);

/* A ticket for whoever the connection is: its text, to be freed, or NULL: out of memory. */
char *login_ticket_new(struct connection *connection, struct span const *patterns,
		       size_t patterns_n, int64_t *expires_s);

#endif
