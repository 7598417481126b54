#ifndef BROKER_RETAINED_H
#define BROKER_RETAINED_H

/*
 * Retained messages: of each topic the newest that was published as such is kept at its home,
 * beside the history, exempt from its count and age, until another takes its place, an empty one
 * removes it, it is over, or memory is short and no shard has any history left. A topic that has
 * one is not forgotten. Whoever subscribes to a topic gets it with the home's answer
 * (REPLAY_RETAINED); whoever is subscribed to it asks its home again; whoever subscribes to a
 * pattern asks each home for those that match, some at a time. The home's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "topic/letter.h"
#include "topic/pattern.h"

struct block;
struct shard;
struct topic;

enum { RETAINED_AT_ONCE = 32 };

/* LETTER_RETAIN_FETCH, shard -> home, and LETTER_RETAINED, back: some of the topics that match, or
 * that of one topic (PATTERN_NONE). To be sent again, as it is but for the blocks, until `whole`.
 */
struct retained_letter {
	struct letter letter;
	unsigned shard, home;
	uint32_t slot, generation; /* of whose connection it is */
	struct pattern pattern;
	uint64_t from, until; /* numbers of what is still to be looked at; 0: all there is now */
	bool whole;           /* there is no more */
	struct retained_letter *next; /* its session's */
	uint32_t n;
	struct block *blocks[RETAINED_AT_ONCE]; /* held */
	char bytes[];                           /* the pattern's */
};

/* For one connection, and one home. NULL: out of memory. */
struct retained_letter *retained_letter_new(enum pattern_kind kind, struct span text);
/* With what it holds. */
void retained_letter_free(struct retained_letter *letter);

/* A block of one message that is to be retained has been sequenced. The topic is to be weighed
 * behind it, and behind retained_of (home_weigh). */
void retained_keep(struct shard *shard, struct topic *topic, struct block *block);
/* The topic's, if it has one: held for the caller. One that is over is let go of. */
struct block *retained_of(struct shard *shard, struct topic *topic);
/* Answers; takes the letter over. */
void retained_fetch(struct shard *shard, struct retained_letter *letter);
/* Lets go of the oldest, and says whose it was, to be weighed anew. NULL: there is none. */
struct topic *retained_drop_oldest(struct shard *shard);
/* The topic goes, and its message with it. */
void retained_release(struct shard *shard, struct topic *topic);

#endif
