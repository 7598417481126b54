#ifndef SESSION_UPSTREAM_H
#define SESSION_UPSTREAM_H

/*
 * A cluster of NATS servers that several brokers share topics through: each shard has one
 * connection to it, for those topics that it is home of. What is published to them goes up first;
 * what comes back is delivered, on every host in the same way. So a loop cannot form, and whoever
 * is cut off does not go on alone.
 *
 *   DOWN -> DIALLING -> GREETING (INFO comes) -> JOINING (PONG comes) -> UP -> DOWN
 *
 * Nothing of a message is known to be in the cluster before the PONG behind it has come, and by
 * then it has come back as well: a server answers in order. A connection that is lost has lost
 * something, perhaps: its publishers are told, and the subscribers of all its topics, as soon as
 * these stand again.
 *
 *   A topic:  REST -> WANTED -> ASKED (SUB has gone) -> STANDS -> REST
 *
 * The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/server.h"
#include "base/span.h"
#include "broker/protocol.h"
#include "engine/dial.h"
#include "protocol/nats.h"
#include "session/intake.h"

struct block;
struct config_upstream;
struct connection;
struct shard;
struct subscribe_letter;
struct topic;

enum upstream_state {
	UPSTREAM_DOWN,
	UPSTREAM_DIALLING,
	UPSTREAM_GREETING,
	UPSTREAM_JOINING,
	UPSTREAM_UP
};

enum {
	UPSTREAM_SERVERS_MAX = 64, /* that are known; more are not learnt */
	UPSTREAM_SECRET_MAX = 512,
	UPSTREAM_NONCE = 12, /* characters that messages of this shard are known by */
};

/* Bytes that are to go up, or that one message is made of. */
struct upstream_bytes {
	char *data;
	size_t len, room;
};

struct upstream {
	const struct protocol *protocol;
	/* Adds to what is said upstream with the next flush. False: out of memory, it is lost. */
	bool (*write)(struct upstream *upstream, struct span bytes);
	struct shard *shard;
	const struct config_upstream *config;
	struct dial dial;
	struct connection *connection; /* NULL: none; it has been lost, or is not there yet */
	struct intake intake;          /* the last connection's */
	enum upstream_state state;
	uint64_t act_ns;     /* DOWN: dials then; up to JOINING: gives up then */
	uint64_t backoff_ns; /* the next one, without its jitter */
	uint64_t down_ns;    /* since when it is not UP */
	bool cut_off;        /* for so long that the broker is not ready */
	bool told;           /* that it is down is in the log */
	uint64_t heard_ns, pinged_ns;
	uint64_t pings, pongs; /* on this connection */
	bool unpinged;         /* something was written that waits for the next PONG */
	uint64_t nth;          /* which of its connections this is */
	uint64_t rtt_ns;
	struct nats_server info;
	struct server servers[UPSTREAM_SERVERS_MAX];
	unsigned servers_n, server; /* the one that is, or was, dialled */
	char user[UPSTREAM_SECRET_MAX], pass[UPSTREAM_SECRET_MAX], token[UPSTREAM_SECRET_MAX];
	struct upstream_bytes out; /* written in this turn */

	/* Topics, each in the list of its state. */
	struct list wanted, asked, standing;
	struct list lingering; /* that nobody wants any more, by when */
	struct list held;      /* whose publishers wait */
	struct list awaited;   /* whose subscribers wait for them to stand */
	uint64_t sids;

	/* What was published here: not sent yet, and not answered yet; in order. */
	struct list unwritten, unanswered;
	struct list receipts;     /* of the latter, messages that are waited for one by one */
	uint64_t messages, bytes; /* of both */
	uint64_t ids;
	char nonce[UPSTREAM_NONCE + 1];

	/* Messages that have come back, of one topic, and are to be delivered together. */
	struct upstream_topic *gathered;
	struct block *block;
	bool extras;
	struct upstream_bytes scratch; /* headers of the message under way */
};

/* A topic's (topic->tapped). */
struct upstream_topic {
	struct topic *topic;
	enum { UPSTREAM_REST, UPSTREAM_WANTED, UPSTREAM_ASKED, UPSTREAM_STANDS } state;
	bool idle;     /* it has no clients, since idle_ns */
	bool missed;   /* some messages, of which its subscribers have not been told */
	uint64_t nth;  /* ASKED, STANDS: on which connection; on any other it is WANTED */
	uint64_t sid;  /* of its subscription */
	uint64_t ping; /* ASKED: it stands when so many have been answered */
	uint64_t idle_ns;
	struct list link;                      /* by its state */
	struct list linger, held, awaited;     /* the upstream's */
	struct subscribe_letter *first, *last; /* subscribers that wait for it to stand */
};

/* -ENOMEM, or what is wrong with its files; release it all the same. */
int upstream_init(struct shard *shard, const struct protocol *protocol);
void upstream_release(struct shard *shard);
/* Once per turn. Whether there is more to do at once. */
bool upstream_go_on(struct shard *shard);

/* ---- its protocol (session/registry.c) ---- */

extern const struct protocol upstream_protocol;
void upstream_received(struct connection *connection, struct span bytes);
void upstream_ends(struct connection *connection, bool receipt);
const char *upstream_say(struct connection *connection, enum reason reason);
const char *upstream_farewell(const struct connection *connection, bool bye);
void upstream_resume(struct connection *connection);
bool upstream_silent(const struct connection *connection);
uint64_t upstream_held(const struct connection *connection);
void upstream_free(struct connection *connection);

/* ---- between upstream.c, which has the connection, and upstream_topics.c ---- */

/* The connection is of no use any more. */
void upstream_lose(struct upstream *upstream, const char *why);

int upstream_topics_init(struct upstream *upstream);
void upstream_topics_release(struct upstream *upstream);
/* The connection is lost, with whatever was on its way. */
void upstream_topics_lost(struct upstream *upstream);
/* So many PINGs have been answered now. */
void upstream_topics_answered(struct upstream *upstream);
/* A message has come. */
void upstream_topics_message(struct upstream *upstream, const struct nats_said *said,
			     struct span headers, struct span payload);
/* Delivers what has been gathered. */
void upstream_topics_deliver(struct upstream *upstream);
/* Writes what is to go up, as far as there is time. True: there is more. */
bool upstream_topics_write(struct upstream *upstream);
/* What is over by now; when the next will be: in *next_ns if that is earlier. */
void upstream_topics_expire(struct upstream *upstream, uint64_t *next_ns);

#endif
