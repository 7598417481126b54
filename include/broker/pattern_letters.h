#ifndef BROKER_PATTERN_LETTERS_H
#define BROKER_PATTERN_LETTERS_H

/*
 * What shards and homes tell each other about patterns and queue groups (topic/letter.h has all
 * kinds). Whoever posts a letter gives it up.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/span.h"
#include "base/table.h"
#include "base/wire.h"
#include "topic/letter.h"
#include "topic/pattern.h"
#include "topic/stream.h"

struct block;
struct interest;
struct member;
struct subscription;

/* Most of them that one subscription gets. */
enum { NEWEST_MAX = 1024 };

/* LETTER_PATTERN and, the same letter on its way back, LETTER_PATTERN_KNOWN: to one home. */
struct pattern_letter {
	struct letter letter;
	unsigned home;
	struct pattern_asking *asking;
	/* the answer */
	int error; /* -ENOMEM; -E2BIG: too many globs */
	uint32_t newest_n;
	struct newest *newest; /* of each topic that matches, held, if that was asked for */
	struct list link;      /* the home's walks; before that the tap's, as long as it keeps it */
	uint64_t ticket;       /* the tap's */
};

/* One question to all homes that a pattern concerns: made by who asks, who alone changes it while
 * letters are under way. */
struct pattern_asking {
	unsigned shard;
	/* That the shard has, with this one; of a group: members. */
	uint32_t subscribers, responders;
	bool newest; /* the newest message of each topic is wanted */
	bool later;  /* as in struct subscription_wanted */
	struct subscription *subscription;
	struct interest *interest;
	struct wire wire;      /* in which that wants it */
	struct member *member; /* of a group, that it is to be */
	/* newest: where it is to go on, in which stream; */
	struct cursor pin;
	struct stream *stream;
	struct list link;       /* the interest's, meanwhile; */
	struct table delivered; /* and what has come of each topic since: struct delivered */
	unsigned unanswered;    /* letters that are under way */
	int error;
	struct pattern_key key;
	unsigned letters_n;
	struct pattern_letter letters[]; /* then the wire's parameter */
};

/* The first that came of a topic. */
struct delivered {
	struct named named; /* first */
	uint64_t epoch, seq;
	char name[];
};

/* LETTER_PATTERN_COUNT, the same letter to every home: a shard has so many subscribers to a
 * pattern, or members of a group, from now on. */
struct pattern_count {
	struct letter letter;
	_Atomic uint32_t holders;
	unsigned shard;
	uint32_t subscribers, responders;
	uint64_t hash;
	struct span key;
	char bytes[];
};

/* Messages of a block, from the first-th on. */
struct dealt {
	uint32_t first, n;
};

/* There are members of this pattern on this shard, and it is for none of them. */
struct refusal {
	uint64_t pattern; /* its key's hash */
	unsigned shard;
};

/* LETTER_DEAL, and LETTER_DEAL_AGAIN: messages of one block for members of one pattern, each lot
 * for another one. */
struct deal_letter {
	struct letter letter;
	struct block *block;      /* held */
	unsigned shard;           /* AGAIN: from where it comes back, */
	bool refused;             /* since nobody there takes it now */
	uint8_t tries;            /* how often that has happened */
	bool matched;             /* it has been counted as that */
	struct refusal *refusals; /* or NULL */
	uint32_t refusals_n;
	uint64_t hash;
	struct span key; /* of the pattern */
	uint32_t lots_n;
	struct dealt lots[]; /* then the key */
};

/* NULL: out of memory. homes: how many letters. */
struct pattern_asking *pattern_asking_new(const struct pattern *pattern, const struct wire *wire,
					  unsigned homes);
/* With the messages that letters hold. */
void pattern_asking_free(struct pattern_asking *asking);
/* A block has come meanwhile. Without memory to take note of it the question fails. */
void pattern_asking_note(struct pattern_asking *asking, const struct block *block);
/* What letters hold, and has not come as well, into `all`, in any order; how many. */
uint32_t pattern_asking_newest(const struct pattern_asking *asking, struct newest all[NEWEST_MAX]);
/* The letter will not be read. */
void pattern_letter_discard(struct pattern_letter *letter);
struct pattern_count *pattern_count_new(const struct pattern *pattern, unsigned shard);
void pattern_count_unref(struct pattern_count *letter);

/* NULL: out of memory. Room for so many lots; takes a hold of the block. */
struct deal_letter *deal_letter_new(const struct pattern *pattern, struct block *block,
				    uint32_t lots);
/* These go behind those that it has. False: out of memory. */
bool deal_letter_refused(struct deal_letter *letter, const struct refusal *refusals, uint32_t n);
void deal_letter_free(struct deal_letter *letter);

#endif
