#ifndef BROKER_ACCESS_H
#define BROKER_ACCESS_H

/*
 * Who is there, and what he may: asked by sessions, once per command and never per delivery. A
 * connection begins as whoever its certificate, its peer's user or nothing says it is, and becomes
 * somebody else with a credential. The shard's thread only.
 *
 * A session checks before it publishes and before it subscribes; one whose messages name their
 * topic each keeps the last one that was allowed, and forgets it when it is told to (struct
 * protocol, still_may). What is not permitted is refused in the protocol's own words, and the
 * connection stays or ends as the protocol says.
 */

#include <stdbool.h>

#include "base/span.h"

struct connection;
struct identities;
struct identity;
struct shard;
struct subscription;

enum access_action {
	ACCESS_PUBLISH,
	ACCESS_SUBSCRIBE, /* and whatever else reads a topic or its past */
	ACCESS_MONITOR,   /* figures, the page, topics below $sys. */
	ACCESS_ACTIONS
};

enum access_result {
	ACCESS_GRANTED,
	ACCESS_WRONG, /* said half a second later: now it is refused and closed */
	ACCESS_BUSY,  /* too many passwords wait to be looked at: come again */
	ACCESS_RESULTS
};

/* What a client says of himself, valid during the call. Without a user the secret is a token. With
 * one it is his password, or a token all the same. */
struct credentials {
	struct span user, secret;
	bool ticket; /* the secret is one that the broker has given out */
};

/* Whether the connection may do that with a topic, or with all topics that a pattern matches: a
 * pattern is allowed whole or not at all. MONITOR: name may be empty. Counted and logged when not.
 */
bool access_may(struct connection *connection, enum access_action action, struct span name,
		bool pattern);
/* The same for MONITOR where a request may be another's, whom a proxy on this machine forwards. */
bool access_may_monitor(struct connection *connection, bool forwarded);
/* Whether nobody is there yet: a credential is needed before anything else. */
bool access_needed(struct connection *connection);
/* Whether nobody could show a credential, for there are none. */
bool access_open(const struct connection *connection);
/* Whether a credential could help: it has shown none, and there are some. */
bool access_could_log_in(const struct connection *connection);
/*
 * Asks whether the credentials are right and makes the connection the one whose they are. The
 * answer is the protocol's logged_in, before this returns or later; until then connection->asked
 * counts one more, and the session does nothing with what comes. One at a time.
 */
void access_login(struct connection *connection, const struct credentials *credentials);
/* It is again who it was before it logged in. */
void access_logout(struct connection *connection);

/* ---- for the core ---- */

/* What access_login has asked for is decided. */
void access_decided(struct connection *connection, enum access_result result,
		    struct identity *identity);
/* The connection is at its end, or is to be asked anew who it is. */
void access_left(struct connection *connection);
/* Whether it may still have a subscription that it has. */
bool access_still_may(struct connection *connection, const struct subscription *subscription);
/* It has to go: because its token has expired, its credential is gone, or a topic. */
#define ACCESS_EXPIRED "expired"
void access_expel(struct connection *connection, const char *why);
/* Others are who there is from now on: everybody is looked at again, some in each turn. */
void access_configure(struct shard *shard, struct identities *identities);
/* To be called once per turn. Whether more is left. */
bool access_flush(struct shard *shard);

#endif
