#ifndef BROKER_GROUPS_H
#define BROKER_GROUPS_H

/*
 * Queue groups at a topic's home: each message goes to one member of each group, over all shards.
 * Members are dealt to in turn, so that a block's messages are shared out evenly; a shard that does
 * not take its mail is passed over while there are others. The letter names the group's pattern and
 * the messages, and the shard finds the member (broker/members.h). What nobody has taken there -
 * the last member has left, or one with messages that it has not got - comes back and is dealt
 * anew. The shard's thread only.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"
#include "topic/letter.h"

struct block;
struct reach;
struct shard;
struct pattern;

/* Messages of a block, from the first-th on. */
struct dealt {
	uint32_t first, n;
};

/* LETTER_DEAL, and LETTER_DEAL_AGAIN: messages of one block for members of one pattern, each lot
 * for another one. */
struct deal_letter {
	struct letter letter;
	struct block *block; /* held */
	unsigned shard;      /* AGAIN: from where it comes back, */
	bool refused;        /* since nobody there takes it now */
	uint8_t tries;       /* how often that has happened */
	bool matched;        /* it has been counted as that */
	uint64_t hash;
	struct span key; /* of the pattern */
	uint32_t lots_n;
	struct dealt lots[]; /* then the key */
};

/* Most times that what is refused for want of somebody better is dealt anew. */
enum {
	DEAL_TRIES_MAX = 3, /* to members that skip */
	/* By shards whose last member has just left: as many as may do so at about one time. */
	DEAL_REFUSALS_MAX = 64,
};

/* NULL: out of memory. Room for so many lots; takes a hold of the block. */
struct deal_letter *deal_letter_new(const struct pattern *pattern, struct block *block,
				    uint32_t lots);
void deal_letter_free(struct deal_letter *letter);

/* Deals a block's messages to the groups among those that it reaches. */
void groups_deal(struct shard *shard, const struct reach *reach, struct block *block);
/* LETTER_DEAL_AGAIN; takes the letter over. */
void groups_deal_again(struct shard *shard, struct deal_letter *letter);

#endif
