#ifndef BROKER_BUDGET_H
#define BROKER_BUDGET_H

/*
 * The memory budget of the whole broker (limits.memory_bytes): what base/memory.h has counted, and
 * what the kernel holds of what was sent to clients who do not take it. It gets tight by degrees,
 * the same for all shards, and each has its remedy beside those of the ones before; a degree is
 * left again well below where it was entered. Each shard looks at the sum in every turn, and at its
 * sockets four times a second. The shard's thread only, unless it says otherwise.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/clients.h"
#include "engine/deadline.h"

struct broker;
struct shard;

/* A shard's part in it. */
struct budget {
	struct deadline_class period;
	struct deadline period_deadline;
	uint64_t looked_sends;            /* sends, at the last look */
	_Atomic uint64_t largest_backlog; /* while there is eviction */
	bool nobody_to_evict; /* but for small ones, as of the last look, in the whole broker */
	bool held_up;         /* publishers were told to wait for memory */
	unsigned looks_left;  /* connections that are to be looked at in this period */
	/* What is evicted is found by one walk over all connections, and goes by a second. */
	enum { EVICTION_RESTS, EVICTION_FINDS, EVICTION_GOES } eviction;
	struct connections_walk walk;
	uint64_t most; /* the largest backlog here */
	uint64_t all;  /* what all of them hold together */
	uint64_t left; /* bytes that are still to be had */
};

enum budget_level {
	BUDGET_EASY,
	BUDGET_HISTORY,     /* at 85 %: history goes, oldest first */
	BUDGET_SUBSCRIBERS, /* at 92 %: no new subscribers */
	BUDGET_EVICTION,    /* at 95 %: no new clients, publishers wait, the largest backlogs go */
	BUDGET_LEVELS
};
extern const char *const budget_level_names[BUDGET_LEVELS];

/* The level at which so many bytes of that limit (0: none) are used, coming from `now`: one is
 * entered at its part of the limit and left 5 % of the limit below. */
enum budget_level budget_level(uint64_t used, uint64_t limit, enum budget_level now);

/* From now on so many bytes (0: no limit), for all shards at once: they read a new configuration
 * one after another, and must not judge what is everybody's by limits of their own meanwhile. One
 * thread: before the shards run, and whenever it hands out a configuration. */
void budget_set_limit(struct broker *broker, uint64_t bytes);
/* Any thread. */
uint64_t budget_limit(const struct broker *broker);

/* The broker's, as of the last look. Any thread. */
enum budget_level budget_now(const struct broker *broker);

void budget_init(struct shard *shard);
/* Looks at the sum: the level is what it must be by then. */
enum budget_level budget_check(struct shard *shard);
/* The same, once per turn: accepts nobody while there is eviction. */
void budget_turn(struct shard *shard);
/* There is eviction until so many bytes are used. */
uint64_t budget_eviction_ends(const struct broker *broker);
/* Whether more history must go. */
bool budget_wants_history(struct shard *shard);
/* Whether budget_go_on has something to do. */
static inline bool budget_works(const struct budget *b)
{
	return b->looks_left > 0 || b->eviction != EVICTION_RESTS;
}
/* Looks at and evicts some, in this part of this turn. True: there are more. */
bool budget_go_on(struct shard *shard);
/* Another limit, perhaps: it is set already. */
void budget_configure(struct shard *shard);

#endif
