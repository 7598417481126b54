#ifndef TOPIC_HISTORY_H
#define TOPIC_HISTORY_H

/*
 * The newest blocks of a topic, for replay: bounded by messages, bytes and age per topic, and by
 * bytes over all topics of a shard, where the oldest goes first. Whole blocks come and go, so up to
 * one block more than the messages asked for may be kept; what is handed out is exact. The home
 * shard's thread only.
 *
 * The blocks lie in segments, the segments in a window, and both are counted by those who hold
 * them, so that all of a history is handed out by holding its window, however long it is. A
 * window that somebody else holds does not change: its home makes itself another one before it adds
 * a segment. The newest segment is filled all the time, so whoever holds one looks only at blocks
 * up to the number that came with it; what others hold is not let go of before them.
 *
 * Many blocks that go at once are only taken off, by segments, with the window that they are in:
 * they lie with the shard's others that go, until it has let go of them a few at a time. A segment
 * that only others held - replays - goes with the last of them, in whose thread it lies until that
 * has let go of its blocks a few at a time.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "topic/block.h"

struct history_limits {
	uint64_t messages, bytes, age_ns;
};

/* All histories of a shard. */
struct history_total {
	struct list blocks;        /* by age: oldest first; those that go still among them */
	uint64_t bytes, bytes_max; /* of memory */
	struct list going;         /* what many blocks were taken off with */
};

enum {
	SEGMENT_BLOCKS = 256,
	SEGMENT_BYTES = 64 << 10, /* more only if it is one block: as much is held too long */
	HISTORY_DROPS = 64,       /* blocks let go of at once */
};

struct segment {
	_Atomic uint32_t holders;
	struct segment *next; /* that goes after it */
	uint32_t n, slots_n;
	uint32_t gone; /* blocks before this one are not held any more */
	uint64_t seq;  /* of its first message */
	size_t bytes;  /* of memory, all blocks that ever were in it; changes as n does */
	size_t bodies; /* bytes of theirs */
	struct block *blocks[];
};

struct window {
	_Atomic uint32_t holders;
	uint32_t n, slots_n;
	uint32_t gone; /* segments before this one are not held any more */
	struct segment *segments[];
};

struct history {
	struct window *window;   /* NULL: there is no block */
	uint32_t segment, block; /* where in it the oldest block is */
	uint32_t blocks_n;
	uint64_t messages, bytes; /* bytes of bodies */
	uint64_t floor;           /* number of the message before the oldest block */
};

/* A history from some block on, held by whoever has it, in any thread. All zero: nothing. */
struct stretch {
	struct window *window;
	uint32_t segment, block; /* where it begins */
};

void history_total_init(struct history_total *total, uint64_t bytes_max);
void history_release(struct history *history, struct history_total *total);
/* Lets go of so many blocks that were taken off, at most. Whether there are more; before that is so
 * the oldest block of all may be one that no history has any more. */
bool history_let_go(struct history_total *total, unsigned blocks);

/* Keeps a stamped block (takes a hold of its own) and lets go of what is beyond the limits. Out of
 * memory: it is not kept. */
void history_add(struct history *history, struct history_total *total, struct block *block,
		 const struct history_limits *limits);
/* Puts stamped blocks (list of their age) before the others, which costs nothing for those but the
 * ones of the oldest segment; takes them over. floor: number of the message before the first. Out
 * of memory: they are let go. */
void history_prepend(struct history *history, struct history_total *total, struct list *blocks,
		     uint64_t floor, const struct history_limits *limits);
/* Lets go of what is beyond the limits at this time. */
void history_trim(struct history *history, struct history_total *total,
		  const struct history_limits *limits, uint64_t now_ns);
/* Lets go of the oldest block. */
void history_drop_oldest(struct history *history, struct history_total *total);

/* The oldest block; there must be one. */
static inline struct block *history_first(const struct history *h)
{
	return h->window->segments[h->segment]->blocks[h->block];
}

/* Number of the oldest message that a reader may have: within the limits, though its block may
 * begin earlier. 0: none. */
uint64_t history_oldest(const struct history *history, const struct history_limits *limits);
/* The block that holds this place (seq) or, if there is none, the first after it; NULL: there is
 * none either. */
struct block *history_find(const struct history *history, uint64_t seq);
/* The same by what clients know it by. */
struct block *history_find_number(const struct history *history, uint64_t number);
/* Hands out the history from the block on that history_find has for this number. */
struct stretch history_hold(const struct history *history, uint64_t seq);

/* A segment of this block alone. NULL: out of memory. */
struct segment *segment_of(struct block *block);
void segment_ref(struct segment *segment);
void segment_unref(struct segment *segment);
/* Lets go of so many blocks, at most, of segments whose last holder was in this thread. Whether
 * there are more. */
bool segments_let_go(unsigned blocks);
/* Whether there are any. */
bool segments_going(void);
void stretch_release(struct stretch *stretch);

#endif
