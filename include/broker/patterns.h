#ifndef BROKER_PATTERNS_H
#define BROKER_PATTERNS_H

/*
 * What a home knows of patterns: which shards have subscribers to each, in the whole broker, and so
 * whom a name's messages go to beside those who asked for that very name. That is found out when a
 * message comes and the patterns have changed since it was last (topic/pattern.h), never per
 * message. The shard's thread only.
 *
 * A shard tells its first subscriber to a pattern to every home, one letter to each, and the
 * subscription stands when all have answered: each home answers in the lane in which its blocks
 * come, so that what it has sequenced before is there before the answer. A pattern all of whose
 * names have one home is told to that one only (topic_hash_of_pattern). How many subscribers there
 * are is told with that, or at the end of a turn. Members of a queue group are told one by one,
 * whatever the name is, since each counts when messages are dealt.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/wire.h"
#include "topic/letter.h"
#include "topic/pattern.h"
#include "topic/stream.h"
#include "topic/topic.h"

struct block;
struct interest;
struct member;
struct shard;
struct subscription;

/* A pattern that some shard wants. */
struct known_pattern {
	struct pattern pattern; /* first */
	uint32_t *subscribers;  /* on each shard; and responders */
	uint32_t *responders;
	uint64_t subscribers_n, responders_n; /* on all of them */
	uint32_t turn;     /* the owner of groups: which of its members is next */
	uint64_t shards[]; /* bit per shard that has some; then subscribers, and the key */
};

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
	struct list link;      /* the home's walks */
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

/* Subscriptions that messages go to, a group as one; and those of them whose clients see where a
 * reply is wanted. */
struct receivers {
	uint64_t all, responders;
};

/* What a home has of them. */
struct known_patterns {
	struct patterns table;
	uint32_t patterns_n;  /* each of the broker's at one home */
	struct reach passing; /* of the name last published to that leaves nothing behind */
	uint32_t passing_slots;
	/* Who wants the newest message of every topic: letters, the first of which is at `mark` in
	 * the home's topics. */
	struct list walks;
	struct list mark;
};

/* -ENOMEM. */
int known_patterns_init(struct known_patterns *known, unsigned shards);
void known_patterns_release(struct known_patterns *known);

/* Subscribers to a name that leaves nothing behind: it is known as a pattern. */
uint64_t known_patterns_subscribers(const struct known_patterns *known, struct span name);

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

/* LETTER_PATTERN, LETTER_PATTERN_COUNT: takes the letter over, and answers the former. */
void home_pattern(struct shard *shard, struct pattern_letter *letter);
void home_pattern_count(struct shard *shard, struct pattern_count *letter);
/* Looks for newest messages, as far as there is time. True: there is more to look at. */
bool home_walk_some(struct shard *shard);

/* Finds out anew whom a topic's messages go to. */
void reach_renew(struct shard *shard, struct topic *topic);
/* The same of a name that has no topic; valid until patterns change or another one is asked for. */
const struct reach *reach_of_passing(struct shard *shard, struct span name);
/* Subscriptions to patterns, and groups, that a message of that name goes to. */
struct receivers reach_receivers(struct shard *shard, const struct reach *reach, struct span name);
/* The one or the other. */
const struct reach *reach_of(struct shard *shard, uint64_t hash, struct span name);

#endif
