#ifndef TOPIC_HISTORY_H
#define TOPIC_HISTORY_H

/*
 * The newest blocks of a topic, for replay: bounded by messages, bytes and age per topic, and by
 * bytes over all topics of a shard, where the oldest goes first. Whole blocks come and go, so up to
 * one block more than the messages asked for may be kept; what is handed out is exact. The home
 * shard's thread only.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "topic/block.h"

struct history_limits {
	uint64_t messages, bytes, age_ns;
};

/* All histories of a shard. */
struct history_total {
	struct list blocks;        /* by age: oldest first */
	uint64_t bytes, bytes_max; /* of memory */
};

struct history {
	struct block **blocks; /* ring of power-of-two size, oldest at first */
	uint32_t slots_n, first, blocks_n;
	uint64_t messages, bytes; /* bytes of messages, line ends included */
};

void history_total_init(struct history_total *total, uint64_t bytes_max);
void history_release(struct history *history, struct history_total *total);

/* Keeps a stamped block (takes a hold of its own) and lets go of what is beyond the limits. Out of
 * memory: it is not kept. */
void history_add(struct history *history, struct history_total *total, struct block *block,
		 const struct history_limits *limits);
/* Lets go of what is beyond the limits at this time. */
void history_trim(struct history *history, struct history_total *total,
		  const struct history_limits *limits, uint64_t now_ns);
/* Lets go of the oldest block. */
void history_drop_oldest(struct history *history, struct history_total *total);

static inline struct block *history_at(const struct history *h, uint32_t i)
{
	return h->blocks[(h->first + i) & (h->slots_n - 1)];
}

/* Number of the oldest message that a reader may have: within the limits, though its block may
 * begin earlier. 0: none. */
uint64_t history_oldest(const struct history *history, const struct history_limits *limits);
/* Index of the block that holds this number or, if there is none, of the first after it; blocks_n
 * if there is none either. */
uint32_t history_find(const struct history *history, uint64_t seq);

#endif
