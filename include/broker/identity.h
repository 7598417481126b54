#ifndef BROKER_IDENTITY_H
#define BROKER_IDENTITY_H

/*
 * Who there is: every user's credentials and what he may, made from a configuration, immutable and
 * replaced as a whole by a reload. An identity is one credential of a user; what is signed by
 * somebody else (JWT) and tickets have identities of their own. All of it is counted by its
 * holders; any thread may hold, ask and let go.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/span.h"
#include "base/table.h"
#include "broker/access.h"
#include "protocol/jwt.h"

struct config;
struct config_jwt;
struct scope;

/* How somebody has shown who he is. */
enum access_how {
	HOW_NOBODY,    /* he has not, and would have to */
	HOW_ANONYMOUS, /* nor need he */
	HOW_PASSWORD,
	HOW_TOKEN,
	HOW_JWT,
	HOW_CERTIFICATE,
	HOW_UID,
	HOW_TICKET,
	HOWS
};
extern const char *const access_how_names[HOWS];
extern const char *const access_action_names[ACCESS_ACTIONS];

/* What a user may; shared by all his identities. */
struct rights {
	_Atomic unsigned holders;
	bool all; /* that there is to permit; then there is no scope */
	bool monitor;
	uint32_t connections_max;     /* 0: no limit */
	_Atomic uint32_t connections; /* that are his, where there is a limit */
	struct scope *scope;          /* bits: access_allows, access_denies; or NULL */
	char name[JWT_NAME_MAX + 1];
};

struct identity {
	_Atomic unsigned holders;
	enum access_how how;
	bool foreign;      /* a ticket of one whose own is somebody else's token */
	struct digest key; /* the credential's; of a JWT the key's that has signed it, of a ticket
			      that of the credential or key of whoever asked for it */
	int64_t expires_s; /* JWT_FOREVER, but of tokens */
	struct rights *rights;
	struct identity *owner; /* held: of a ticket, whoever has asked for it and must be permitted
				   the same; else NULL */
};

enum { IDENTITY_TICKET_SECRETS_MAX = 16 };

struct identities {
	_Atomic unsigned holders;
	bool any_credential, any_certificate, any_uid;
	struct table credentials; /* struct credential, by the digest of what is shown */
	struct table users;       /* struct user, by name */
	struct identity *nobody, *everybody, *anonymous; /* the last may be NULL */
	struct identity_key *keys;                       /* that JWTs are signed with */
	size_t keys_n;
	/* That tickets of all hosts with these ticket_keys are signed with, newest first; none:
	 * those of this process are signed with its own. */
	struct digest ticket_secrets[IDENTITY_TICKET_SECRETS_MAX];
	size_t ticket_secrets_n;
	const char *decoy; /* a hash that takes as long as one of a user's; NULL: none has any */
};

static inline unsigned access_allows(enum access_action action)
{
	return 1u << action;
}

static inline unsigned access_denies(enum access_action action)
{
	return 1u << (ACCESS_ACTIONS + action);
}

/* Reads the keys' files, too. NULL: the problem is said. */
struct identities *identities_new(const struct config *config, char *problem, size_t size);
struct identities *identities_hold(struct identities *identities);
/* NULL is nobody's. */
void identities_let_go(struct identities *identities);

/* Whose the credential is, or NULL; not held for the caller. */
struct identity *identity_of_token(const struct identities *identities, struct span token);
struct identity *identity_of_certificate(const struct identities *identities, struct span name);
struct identity *identity_of_uid(const struct identities *identities, uint32_t uid);
/* Completes one of HOW_TICKET that has been granted what its ticket says; NULL: nobody has asked
 * for that who is still there. */
struct identity *identity_of_ticket(const struct identities *identities,
				    const struct ticket *ticket, struct identity *made);
/* A user who has a password, with its hash; NULL: there is none of that name, but the hash is that
 * of another, or NULL when nobody has any. */
struct identity *identity_of_user(const struct identities *identities, struct span name,
				  const char **hash);
/* Of a JWT: checks it. NULL: out is held by the caller; else why not. */
const char *identity_of_jwt(const struct identities *identities, const struct config_jwt *config,
			    struct span token, int64_t now_s, struct identity **out);

/* Who somebody is now that came with this, held for the caller: the same, or another with the
 * rights of now. NULL: nobody, or out of memory. Not for nobody and anonymous. */
struct identity *identity_again(const struct identities *identities, struct identity *identity);

/* One of its own, held by the caller, to be given rights with identity_grant before anybody else
 * sees it. NULL: out of memory. */
struct identity *identity_new(enum access_how how, struct span name);
/* -ENOMEM. */
int identity_grant(struct identity *identity, enum access_action action, struct span pattern);
struct identity *identity_hold(struct identity *identity);
void identity_let_go(struct identity *identity);

/* Whether it may do that with a topic, or with everything that a pattern matches; no monitoring. */
bool identity_may(const struct identity *identity, enum access_action action, struct span name,
		  bool pattern);

#endif
