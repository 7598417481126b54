#ifndef BROKER_MEMBERS_H
#define BROKER_MEMBERS_H

/*
 * A member of a queue group on its shard: a stream of its own, for what is dealt to it is for
 * nobody else, and the messages that it has not got yet, so that they can be dealt anew when it
 * leaves. The shard's thread only.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "broker/groups.h"
#include "topic/stream.h"

struct block;
struct pattern_count;
struct shard;
struct wild;

/* Messages of a block that have been dealt to a member; it holds the block. */
struct lot {
	struct block *block;
	struct dealt messages;
	uint8_t tries; /* as in struct deal_letter */
};

struct member {
	struct stream stream;       /* first */
	struct list link;           /* the wild's */
	struct pattern_count *left; /* for its end; NULL: it has left */
	/* What its cursor has not counted yet, round: slots_n is a power of two, or 0. */
	struct lot *lots;
	uint32_t first, n, slots_n;
	uint64_t messages; /* in them */
	bool unknown;      /* they are not what its cursor lacks: there was no memory for some */
	char parameter[];
};

/* Of a group here, in its list. NULL: out of memory. */
struct member *member_new(struct wild *wild, const struct wire *wire, unsigned shard);
/* Tells the homes that it is none any more: nothing more is dealt to it. Harmless twice. */
void member_leave(struct member *member, struct shard *shard);
/* It has left, or the shard ends. No cursor may be left in its stream. */
void member_free(struct member *member);

static inline struct member *member_of(struct stream *stream)
{
	return (struct member *)(void *)stream;
}

/* Whom of a group the next lot of this block is for: one who has nothing before it if there is one
 * among the first few. It becomes the last. NULL: there is none who takes it. */
struct member *member_choose(struct wild *wild, const struct block *block);
/* Whether there is one that neither leaves nor has still to come. */
bool members_stand(const struct wild *wild);
/* These have been put into its stream too, each in its form. */
void member_dealt(struct member *member, struct block *block, const struct dealt *messages,
		  uint8_t tries);
/* Its cursor has so many before it: what was before these it has got. */
void member_settle(struct member *member, uint64_t left);
/* The last of them, so many messages, which it does not get, go back to be dealt anew, rather not
 * to its shard. Returns how many did: the others are lost. */
uint64_t member_give_back(struct member *member, struct shard *shard, uint64_t messages);

#endif
