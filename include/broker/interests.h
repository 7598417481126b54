#ifndef BROKER_INTERESTS_H
#define BROKER_INTERESTS_H

/*
 * What a shard's subscribers want: its interests in topics, patterns and groups. The homes are told
 * when there are more or fewer subscribers. The shard's thread only.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"

struct interest;
struct shard;
struct subscription;
struct subscription_wanted;

/* With its settings; NULL: nobody here wants that topic. */
struct interest *interests_find(struct shard *shard, uint64_t hash, struct span name);
/* In what is wanted; made if it is not there. NULL: out of memory. */
struct interest *interests_wanted(struct shard *shard, const struct subscription_wanted *wanted);
/* It has another subscriber, or one less; the home is told at the end of the turn. */
void interests_count(struct shard *shard, struct subscription *subscription,
		     struct interest *interest, bool more);
/* Its homes are told now of as many as there are. */
void interest_note_told(struct interest *interest);
/* One that nobody has any more ends, once no answer is under way that counts on it. */
void interests_let_go(struct shard *shard, struct interest *interest);
/* In each turn in which there are some (audience.forms): frees streams of interests that end. */
void interests_end_some(struct shard *shard);
/* Once per turn: frees members of groups that have left in the last one. */
void interests_reap(struct shard *shard);
/* Tells the homes where there are more or fewer subscribers than they know. To be called at the end
 * of each turn. */
void interests_recount(struct shard *shard);
/* The configuration is about to change. An interest gets its settings when it is asked for, the
 * others in interests_configure_some, to be called as home_configure_some. */
void interests_configure(struct shard *shard);
bool interests_configure_some(struct shard *shard);
/* Those of one, if they are from before: it has been found in another way. */
void interests_configure_one(struct shard *shard, struct interest *interest);
/* Frees those that are left when all connections are gone. */
void interests_release(struct shard *shard);

#endif
