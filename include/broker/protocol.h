#ifndef BROKER_PROTOCOL_H
#define BROKER_PROTOCOL_H

/*
 * What the core asks of a protocol: a table of functions for each, all called on the connection's
 * thread. Sessions (src/session) fill it in and stand above the core, which knows no protocol by
 * name: it says a reason, and the protocol has the words.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "broker/access.h"
#include "broker/latency.h"

struct connection;
struct shard;
struct identities;
struct sequenced_letter;
struct subscribe_letter;
struct subscription;

/* Why the broker ends a connection, or does not do what it asks for. */
enum reason {
	REASON_NONE,
	REASON_TIMEOUT,
	REASON_SLOW,        /* it has not taken what it was sent */
	REASON_CONNECTIONS, /* there are as many clients as there may be, or no memory for more */
	REASON_SUBSCRIPTIONS,
	REASON_TOPICS,
	REASON_PATTERNS, /* that have to be compared one by one */
	REASON_MEMORY,
	REASON_DRAINING,
	REASON_NOT_PERMITTED, /* it is not who it says, or may not do that, or not any more */
	REASON_EXPIRED,       /* its token has come to its end */
	REASON_GAP,           /* messages are missing, and its streams have no words for that */
	REASON_UPSTREAM,      /* who its topic belongs to cannot be reached */
	REASON_TOO_LONG,      /* for whom its topic belongs to */
	REASONS
};

struct protocol {
	const char *name;
	enum door door; /* of its subscribers */
	/* A client who is refused is told so before he has said anything. */
	bool refuses_at_once;
	/* Its subscribers are promised nothing, and not told where messages are missing. */
	bool promises_nothing;
	/* It is the broker's own, and goes last when that drains. */
	bool stays;

	/* It is spoken from now on, and nothing has come of it yet: may speak first. The connection
	 * is open. NULL: the client does. */
	void (*opened)(struct connection *connection);
	/* Bytes from the client, valid until it returns; the connection is open. */
	void (*received)(struct connection *connection, struct span bytes);
	/* The handshake that the session began (connection_secure) has ended well. NULL: a
	 * listener's clients are secure before they have a protocol. */
	void (*secured)(struct connection *connection);
	/* Nothing more will come: what has come is all. The connection is open. NULL: it looks at
	 * everything as it comes. */
	void (*last)(struct connection *connection);
	/* The client's end of file, behind `last`; the connection is open. NULL: that is its
	 * goodbye (connection_goodbye). */
	void (*ended)(struct connection *connection);
	/* What it publishes has come to its end. receipt: the connection is to wait until all of it
	 * has been sequenced (connection->awaiting). NULL: it has no end of its own. */
	void (*stop_publishing)(struct connection *connection, bool receipt);
	/* A subscription stands: says so, before anything of it is sent. letter: the home's answer,
	 * with what was asked for of the past; NULL: there was nothing to ask. */
	void (*subscribed)(struct connection *connection, struct subscription *subscription,
			   const struct subscribe_letter *letter);
	/* One with this session (struct subscription_wanted) is not to be: its topic has no place.
	 * NULL: the connection ends for that. */
	void (*refused)(struct connection *connection, void *session, enum reason reason);
	/* One with this session has got as many messages as it was to get (subscription_limit), or
	 * will, and is to be forgotten. NULL: none is limited. */
	void (*enough)(struct connection *connection, void *session);
	/* Messages were left out of a subscription that goes on with what comes next. NULL: it does
	 * not tell its clients. */
	void (*missed)(struct connection *connection, struct subscription *subscription);
	/* The receipt for a block that asked for one. NULL: none does. */
	void (*sequenced)(struct connection *connection, const struct sequenced_letter *letter);
	/* What connection_barrier was waiting for has come: it says so (connection_reply). NULL: it
	 * asks for none. */
	void (*barrier)(struct connection *connection);
	/* The connection ends for this reason: says now what is to be said at once
	 * (connection_reply) and returns the last word, which comes behind all that its
	 * subscription has still to get; static text, or NULL. */
	const char *(*say)(struct connection *connection, enum reason reason);
	/* The last word of one that ends in good order; bye: because its topic's last publisher has
	 * left. Static text, or NULL. */
	const char *(*farewell)(const struct connection *connection, bool bye);
	/* Says what may only be said where no message is under way (connection_interject). NULL:
	 * there is no such thing. */
	void (*interject)(struct connection *connection);
	/* Some of a body (output_add_body) has gone out, or the last of it. NULL: it has none.
	 */
	void (*body_went)(struct connection *connection, bool whole);
	/* What access_login was asked for is decided (enum access_result). NULL: it never asks. */
	void (*logged_in)(struct connection *connection, enum access_result result);
	/* What it may has changed: forgets what it was once allowed (the topic that it last
	 * published to), and says whether it still may do what it goes on doing without asking;
	 * its subscriptions are the core's to look at. NULL: there is nothing of that. */
	bool (*still_may)(struct connection *connection);
	/* A send has ended, publishing need not wait any more, or all subscriptions that were asked
	 * for stand: it may go on with what has come. In any state but closed. NULL: it keeps
	 * nothing back. */
	void (*resume)(struct connection *connection);
	/* The broker is about to end (broker->lame), or its configuration has changed: says so if
	 * it has words for that. The connection is open. NULL: it has none. */
	void (*news)(struct connection *connection);
	/* The broker drains: whoever is not to be told so ends here in another way. The connection
	 * is open. NULL: everybody is told. */
	void (*drain)(struct connection *connection);
	/* Whether it is nobody's turn to say something, and nothing else is timed. Open. */
	bool (*silent)(const struct connection *connection);
	/* Bytes of memory that go when it goes, beside those that the core knows. */
	uint64_t (*held)(const struct connection *connection);
	/* The kernel writes to the connection's memory no more: frees what the session has. */
	void (*free)(struct connection *connection);
};

/* What a protocol keeps of a connection lies in it, all zero to begin with; what is larger, behind
 * a pointer there. */
enum { SESSION_BYTES = 48 };

/* All protocols together, as the core sees them. */
struct sessions {
	/* What they keep for a shard (shard->sessions). -ENOMEM: release it all the same. */
	int (*init)(struct shard *shard);
	void (*release)(struct shard *shard);
	/* The configuration has changed. */
	void (*configure)(struct shard *shard);
	/* Once per turn, before fan-out: goes on where there was no time. Whether more is left. */
	bool (*flush)(struct shard *shard);
	/* Others are known from now on, with the configuration that comes next. */
	void (*identify)(struct shard *shard, struct identities *identities);
	/* Of a connection's identity: it has ended; it still may have this subscription; it may
	 * not, and goes. */
	void (*left)(struct connection *connection);
	bool (*still_may)(struct connection *connection, const struct subscription *subscription);
	void (*expel)(struct connection *connection, const char *why);
	/* What a connection speaks to begin with, on a listener of these protocols
	 * (CONFIG_PROTOCOL_*); proxied: a proxy's header comes first. */
	const struct protocol *(*first)(unsigned protocols, bool proxied);
	/* The same on a secure listener whose clients wait for a word in clear. */
	const struct protocol *hailed;
};

#endif
