#ifndef BROKER_LETTERS_H
#define BROKER_LETTERS_H

/*
 * What shards and homes tell each other about topics, their subscribers and their publishers
 * (topic/letter.h has all kinds). Whoever posts a letter gives it up.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "base/wire.h"
#include "broker/patterns.h"
#include "topic/history.h"
#include "topic/letter.h"
#include "topic/topic.h"

struct block;
struct subscription;

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

#endif
