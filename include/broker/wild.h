#ifndef BROKER_WILD_H
#define BROKER_WILD_H

/*
 * A shard's interests in patterns, and in queue groups whatever their name is: the local half of
 * what homes know (broker/patterns.h). Which of them match a name is found out when a message of
 * it comes here and they have changed since, and kept: for names of topics, which come again, and
 * as long as they do. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/table.h"
#include "topic/pattern.h"

struct block;
struct interest;
struct pattern_count;
struct shard;

/* What an interest in a pattern has beside what one in a topic has. */
struct wild {
	struct pattern pattern; /* first */
	struct interest *interest;
	unsigned home, homes_n; /* that know it: this one and as many as follow on it */
	struct list askings;    /* for newest messages, that homes have still to answer */
	struct list members;    /* of a group; the next one is dealt to first */
	/* Members, and those who see where a reply is wanted, as the homes are told. */
	uint32_t members_n, responders_n;
	struct pattern_count *left; /* not of a group: for its end */
	/* Topics, as bits of their buckets in broker->held, whose publishers wait until fan-out has
	 * caught up with its streams; how many of these lag so far. */
	uint64_t *held;
	uint32_t holding;
	uint32_t found_at; /* where it was found last in what is being matched */
	char key[];
};

/* What a name is matched by, as long as their generation is this one. */
struct matched {
	struct named named; /* first */
	uint64_t generation;
	uint8_t bucket;
	bool used; /* since it was last looked at whether it is to be kept */
	uint32_t n;
	struct interest *of[]; /* then the name */
};

struct wilds {
	struct patterns patterns;
	struct table groups;  /* struct wild, by key */
	struct table matched; /* struct matched, by name */
	size_t stepped;       /* in it */
	/* What is just being matched. */
	struct interest **found;
	uint32_t found_n, found_slots;
	bool lost; /* there was no memory for all */
	bool gone; /* some have gone since: they are NULL */
	struct pattern_walk walk;
	uint64_t generation; /* when that began */
};

/* An interest in a pattern; it is in no table yet. NULL: out of memory. */
struct interest *wild_new(const struct pattern_key *key, unsigned shard);
/* With the interest; it is in no table any more. */
void wild_free(struct wild *wild);
/* Tells its homes how many subscribers it has here, and responders; takes the letter over. */
void wild_tell(const struct wild *wild, struct pattern_count *letter, uint32_t subscribers,
	       uint32_t responders, struct shard *shard);
struct wild *wilds_find(const struct wilds *wilds, const struct pattern_key *key);
/* -ENOMEM: it is not there. */
int wilds_add(struct wilds *wilds, struct wild *wild);
void wilds_remove(struct wilds *wilds, struct wild *wild);

/* The interests in patterns that match a block's name, *n of them; valid until the next call. NULL:
 * it is not known yet, for want of time in this turn; wilds_match_on goes on. */
struct interest *const *wilds_match(struct shard *shard, const struct block *block, uint32_t *n);
struct interest *const *wilds_match_on(struct shard *shard, const struct block *block, uint32_t *n);
/* The block is forgotten. */
void wilds_match_forget(struct wilds *wilds);

/* Whether something is kept that nobody needs any more; then some of it is to be forgotten in each
 * turn. */
static inline bool wilds_left(const struct wilds *w)
{
	return w->matched.entries_n > 0 && patterns_empty(&w->patterns);
}
void wilds_forget_some(struct wilds *wilds);
/* Nothing may be in it but what is kept. */
void wilds_release(struct wilds *wilds);

#endif
