#ifndef BROKER_HOME_H
#define BROKER_HOME_H

/*
 * A shard as the home of its topics: gives numbers, answers subscriptions, counts publishers,
 * forgets. The shard's thread only.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/config.h"
#include "base/span.h"
#include "base/table.h"
#include "base/tree.h"
#include "base/wire.h"
#include "broker/patterns.h"
#include "engine/deadline.h"
#include "topic/history.h"
#include "topic/letter.h"
#include "topic/topic.h"

struct block;
struct shard;
struct subscription;

/* A shard's topics. */
struct home {
	struct table topics;
	struct list every; /* the same, in the order in which they came */
	struct known_patterns known;
	struct history_total history;
	struct tree retained; /* topics that have a retained message, by its number here: */
	uint64_t retained_n;  /* the last one's */
	int64_t history_told; /* to broker->history_bytes */
	_Atomic uint64_t history_oldest_ns; /* for the others; UINT64_MAX: there is none */
	struct list *idle_topics; /* topics without clients, oldest first: two lists for each topic
				     setting of the config, without history and with */
	struct list idle_before[2]; /* the same, of those that have their settings from before */
	uint32_t settings_n;        /* one more with every configuration */
	size_t unconfigured;        /* topics that have theirs from before */
	size_t configured_at;
	struct deadline_class sweep;
	struct deadline sweep_deadline;
	struct list heard; /* topics that have subscribers: so many */
	uint64_t heard_n;
	struct list censuses; /* that go through these */
	bool sweeping;        /* some of them are to be forgotten in this turn */
	uint64_t swept_ns;    /* when that was last begun */
};

/* How many lists of idle topics a configuration makes. */
static inline size_t home_idle_lists(const struct config *config)
{
	return 2 * (config->topic_n + 1);
}

/* LETTER_SUBSCRIBE and, the same letter on its way back, LETTER_SUBSCRIBED. */
struct subscribe_letter {
	struct letter letter;
	unsigned shard;                    /* who asks */
	struct subscription *subscription; /* for which one there */
	struct wire wire;                  /* in which it wants it, for that */
	uint64_t hash;
	struct replay replay;
	int64_t change;            /* in how many subscribers it has, */
	int64_t change_responders; /* and responders */
	bool later;                /* as in struct subscription_wanted */
	/* the answer */
	int error;                     /* -ENOSPC: no room for another topic; -ENOMEM */
	uint64_t epoch, seq;           /* of the newest message, */
	uint64_t number;               /* and what it is known by */
	uint64_t gap, from, after;     /* as in struct replay_answer */
	struct stretch past;           /* those from there on, held for whoever has the letter */
	struct block *retained;        /* REPLAY_RETAINED: the topic's, held likewise; or NULL */
	struct subscribe_letter *next; /* a tap's: others that it keeps */
	struct span name;
	char bytes[]; /* the name, the wire's parameter */
};

/* LETTER_UNSUBSCRIBE, LETTER_RECOUNT, LETTER_JOIN, LETTER_REFUSED, LETTER_LEAVE, LETTER_SYNC,
 * LETTER_RECEIPT, LETTER_BYE. */
struct topic_letter {
	struct letter letter;
	unsigned shard;
	bool receipt; /* LEAVE: answer when everything before it has been sequenced */
	bool joined;  /* LEAVE: its JOIN was counted. The home's to set and to look at */
	int error;    /* REFUSED: -ENOSPC: no room for another topic; -ENOMEM */
	struct topic_letter *leave; /* JOIN: what will follow it in the same lane */
	uint32_t slot, generation;
	/* UNSUBSCRIBE, RECOUNT: in how many subscribers, and responders, it has */
	int64_t change, change_responders;
	uint64_t hash;
	struct span name;
	char bytes[];
};

/* LETTER_GAP: what comes is this epoch's, from the message after this one on; some before it are
 * not known. */
struct gap_letter {
	struct letter letter;
	uint64_t hash, epoch, seq, number;
	struct span name;
	char bytes[];
};

/* LETTER_SEQUENCED: to the connection that published one message over HTTP. */
struct sequenced_letter {
	struct letter letter;
	uint32_t slot, generation;
	uint64_t tag; /* the publisher's, as it was in the letter when it was made */
	/* -ENOSPC: no room for another topic; -ENOMEM; of a tap: -EHOSTUNREACH: it is not known
	 * whether it will be; -EMSGSIZE */
	int error;
	uint64_t epoch, seq;        /* what it is known by */
	struct receivers receivers; /* subscriptions that it went to */
	struct block *block;        /* held, for its name */
};

/* NULL: out of memory. */
struct subscribe_letter *subscribe_letter_new(struct span name, uint64_t hash,
					      const struct wire *wire);
/* With what it holds. */
void subscribe_letter_free(struct subscribe_letter *letter);
void sequenced_letter_free(struct sequenced_letter *letter);
struct topic_letter *topic_letter_new(enum letter_kind kind, struct span name, uint64_t hash);
struct gap_letter *gap_letter_new(struct span name, uint64_t hash);

/* Sequences a block, keeps it and sends it to every interested shard; takes the block over. */
void home_publish(struct shard *shard, struct block *block);
/* Each takes the letter over, and answers where there is an answer. */
void home_subscribe(struct shard *shard, struct subscribe_letter *letter);
void home_unsubscribe(struct shard *shard, struct topic_letter *letter);
void home_recount(struct shard *shard, struct topic_letter *letter);
void home_join(struct shard *shard, struct topic_letter *letter);
void home_leave(struct shard *shard, struct topic_letter *letter);
void home_sync(struct shard *shard, struct topic_letter *letter);

/* The topic, if it is there; home_topic_or_new makes it: NULL with *error -ENOSPC or -ENOMEM. */
struct topic *home_topic(struct shard *shard, uint64_t hash, struct span name);
struct topic *home_topic_or_new(struct shard *shard, uint64_t hash, struct span name, int *error);
/* To be called when it may have got or lost its last client, or its last history. */
void home_weigh(struct shard *shard, struct topic *topic);
/* The same when a request waits there no more: a topic that has only been asked for is none. */
void home_waited(struct shard *shard, struct topic *topic);

/* Lets go of the oldest history while there is more in the broker than there may be, or its memory
 * is scarce: as much as there is time for. To be called once per turn; true: there is more. */
bool home_bound_history(struct shard *shard);
/* Forgets topics that have had no clients for long enough: some of them; true: there are more. */
bool home_sweep(struct shard *shard);
/* The configuration is about to change. A topic gets its settings when it is asked for, the others
 * in home_configure_some, to be called in this part of this turn, and of the next ones while it
 * says that there are more: until then some refer to configurations from before. idle_topics: for
 * as many settings as it will have; those that were there are freed. */
void home_configure(struct shard *shard, struct list *idle_topics);
bool home_configure_some(struct shard *shard);
void home_release(struct shard *shard);

#endif
