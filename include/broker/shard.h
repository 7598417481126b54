#ifndef BROKER_SHARD_H
#define BROKER_SHARD_H

/*
 * A shard: a reactor with the topics it is home of, its interests in everybody's topics, its
 * connections, and its mail. It belongs to its thread; what several threads share is in broker.h.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "broker/audience.h"
#include "broker/broker.h"
#include "broker/budget.h"
#include "broker/connection.h"
#include "broker/counters.h"
#include "broker/drain.h"
#include "broker/fetch.h"
#include "broker/home.h"
#include "broker/latency.h"
#include "broker/listener.h"
#include "broker/login.h"
#include "broker/mail.h"
#include "broker/pace.h"
#include "broker/subscription.h"
#include "engine/reactor.h"
#include "engine/socket.h"
#include "topic/letter.h"

struct block;
struct objects;
struct press;
struct snapshots;
struct stats;
struct stream;

/* The shard's own parts of a turn (engine/reactor.h); docs/TRACING.md has all of them. */
enum shard_part { PART_CLIENTS = TURN_OWNER, PART_TOPICS, PART_FAN_OUT };

/* What of a shard is about figures; floor 5's, but for the deadlines. */
struct figures {
	struct stats *stats;       /* admin/stats.c */
	uint64_t ranked_ns;        /* admin/snapshot.c: when topics were last ranked by rate */
	struct snapshots *ranking; /* what they are just ranked for, or NULL */
	bool working;              /* there is something to do in each turn */
	/* admin/survey.c: those that are here; and so many were asked by clients of this shard. */
	struct list surveys;
	unsigned surveys_n;
	/* admin/figures.c, at the home of what it publishes */
	enum {
		FIGURES_IDLE,
		FIGURES_COLLECTING, /* a letter is on its way round */
		FIGURES_WRITING,
		FIGURES_TELLING,
	} state;
	struct list asked;   /* requests that the next collection will be for */
	struct list served;  /* those that the last one is for */
	unsigned asked_n;    /* in both */
	unsigned wanted;     /* by those who have asked: bits of what */
	uint64_t began_ns;   /* the last collection */
	struct press *press; /* while writing and telling */

	struct deadline_class report, second;
	struct deadline report_deadline, second_deadline;
};

/* How the main thread sees that a shard turns. */
struct watched {
	/* The last LETTER_HEARTBEAT's round; UINT64_MAX: has ended. */
	_Atomic uint64_t round;
	/* The main thread's, which sends the next one only when this one has been read. */
	struct heartbeat_letter {
		struct letter letter;
		uint64_t round;
	} letter;
};

/* Each module's part is its own: it alone writes there, but for what its header says. */
struct shard {
	unsigned id;
	struct broker *broker;
	const struct config *config;
	struct reactor reactor;
	struct sockets sockets;
	struct mail mail;
	struct shard_counters counters;

	struct home home;
	struct fetching fetching;
	struct audience audience;
	struct pace pace;
	struct latencies *latencies; /* plain memory of its own: most of it is never touched */
	struct clients clients;
	struct logins logins;
	void *sessions;          /* what the protocols keep for a shard: src/session */
	struct objects *objects; /* static files */
	struct accepting accepting;
	struct budget budget;
	struct drain drain;
	struct figures figures;
	struct watched watched;
	struct reload_letter *reloads; /* whose configurations before are still referred to */
};

/* To be called on the shard's own, bound thread: makes its ring. -errno as ring_new. */
int shard_init(struct shard *shard, struct broker *broker, unsigned id,
	       const struct config *config);
/* Turns until it has drained. */
void shard_run(struct shard *shard);
/* After every shard has ended. */
void shard_release(struct shard *shard);

/* The home of a topic: the upper bits choose the shard, the lower ones the place in its table. */
static inline unsigned shard_home(const struct shard *s, uint64_t hash)
{
	return (unsigned)((hash >> 32) * s->broker->shards_n >> 32);
}

/* Who reads which letters, and frees them unread; but for those to sessions. */
extern const struct letter_use shard_letter_uses[LETTER_KINDS];

/* Sends a letter: it is handed over at the end of the turn, and one to this very shard is read by
 * then. */
static inline void shard_post(struct shard *s, unsigned to, enum mailbox_lane lane,
			      struct letter *letter)
{
	if (to == s->id)
		mail_post_own(&s->mail, letter);
	else
		mail_post(&s->mail, to, lane, letter);
}
/*
 * While fan-out is far behind with some stream, though its own publishers wait, nothing is taken in
 * from other shards: that needs nobody's mail to get better. While neighbours do not take what is
 * delivered to them, only what is to be published waits; likewise while there is no memory, but
 * when nobody is left to evict, what is in the lanes may be all that can still go.
 */
bool shard_gate_open(void *shard, enum mailbox_lane lane);
static inline struct hold_place shard_hold_place(const struct shard *s, uint64_t hash)
{
	return (struct hold_place){ (uint16_t)shard_home(s, hash), hash % HOLD_BUCKETS };
}
/* Whether publishers of a topic there must wait. */
bool shard_congested(struct shard *shard, struct hold_place place);
/* Fan-out does not keep up with a stream of that topic: its publishers on all shards wait. */
void shard_hold(struct shard *shard, uint64_t hash);
/* It has caught up: the end of one shard_hold. */
void shard_release_hold(struct shard *shard, uint64_t hash);
/* The same for all of these buckets, a bit for each of broker->held. */
void shard_release_holds(struct shard *shard, const uint64_t *buckets);
/* Whether some topic's publishers need wait no more, since the last look. */
bool shard_holds_ended(struct shard *shard);

/* A block of new messages on its way to its home; takes the block over. */
void shard_publish(struct shard *shard, struct block *block);

/* LETTER_RELOAD: the last shard that refers to what was before frees it. */
struct reload_letter {
	struct letter letter;
	struct reload_letter *next;
	const struct config *config;
	struct objects *objects;       /* held for the reader */
	struct identities *identities; /* likewise */
	struct list *idle_topics;      /* as in struct shard, for that configuration */
	struct reload {
		_Atomic unsigned left;
		struct config *before;
		struct keyring **keyrings; /* of the listeners, before */
		size_t keyrings_n;
	} * reload;
};

/* With all that its reader will need, so that a reload fails before it begins or not at all; refers
 * to the objects and identities. NULL: out of memory. */
struct reload_letter *reload_letter_new(const struct config *config, struct objects *objects,
					struct identities *identities, struct reload *reload);
void reload_letter_free(struct reload_letter *letter);

#endif
