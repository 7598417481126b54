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

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "broker/pattern_letters.h"
#include "topic/pattern.h"
#include "topic/topic.h"

struct shard;

/* A pattern that some shard wants. */
struct known_pattern {
	struct pattern pattern; /* first */
	uint32_t *subscribers;  /* on each shard; and responders */
	uint32_t *responders;
	uint64_t subscribers_n, responders_n; /* on all of them */
	uint32_t turn;     /* the owner of groups: which of its members is next */
	uint64_t shards[]; /* bit per shard that has some; then subscribers, and the key */
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

/* LETTER_PATTERN, LETTER_PATTERN_COUNT: takes the letter over, and answers the former. */
void home_pattern(struct shard *shard, struct pattern_letter *letter);
/* The tap has kept it until now. */
void home_pattern_stands(struct shard *shard, struct pattern_letter *letter);
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
