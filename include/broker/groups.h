#ifndef BROKER_GROUPS_H
#define BROKER_GROUPS_H

/*
 * Queue groups at a topic's home: each message goes to one member of each group, over all shards.
 * Members are dealt to in turn, so that a block's messages are shared out evenly; a shard that does
 * not take its mail is passed over while there are others. The letter names the group's pattern and
 * the messages, and the shard finds the member (broker/members.h). What nobody has taken there -
 * the last member has left, or one with messages that it has not got - comes back and is dealt
 * anew. What is for none of a pattern's members on a shard (the only one is its publisher) comes
 * there once. The shard's thread only.
 */

#include "broker/patterns.h"

struct block;
struct pattern;
struct reach;
struct shard;

/* Most times that what is refused for want of somebody better is dealt anew. */
enum {
	DEAL_TRIES_MAX = 3, /* to members that skip */
	/* By shards whose last member has just left: as many as may do so at about one time. */
	DEAL_REFUSALS_MAX = 64,
};

/* A block that has not been dealt to all groups yet: there are too many for one turn. */
struct undealt {
	struct block *block;       /* NULL: there is none */
	struct known_pattern **of; /* patterns of the groups that it is still for; its own memory */
	uint32_t of_n, at;
	struct receivers receivers; /* what its publisher is told then */
};

/* Deals a block's messages to the groups among those that it reaches. False: what there is no time
 * for in this turn is undealt, and no letter is read before it is not; the block is held. */
bool groups_deal(struct shard *shard, const struct reach *reach, struct block *block);
/* In each turn in which something is undealt. True: nothing is now, but that the block is the
 * caller's. */
bool groups_go_on(struct shard *shard, bool to_the_end);
/* Deals them to the members of this one of the home's patterns. */
void groups_deal_one(struct shard *shard, struct pattern *pattern, struct block *block);
/* LETTER_DEAL_AGAIN; takes the letter over. */
void groups_deal_again(struct shard *shard, struct deal_letter *letter);

#endif
