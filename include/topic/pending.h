#ifndef TOPIC_PENDING_H
#define TOPIC_PENDING_H

/*
 * What a chunk has still to encode: blocks that its stream holds as segments of history. Belongs to
 * its chunk. One thread.
 */

#include <stdint.h>

struct block;
struct segment;
struct stretch;

/* What is still to be encoded, held as segments of history: numbers from the chunk's seq to before
 * `until`. Which of them have a form is not known, so the chunk counts them all. */
struct pending {
	uint64_t until;
	uint32_t at, n; /* segments: those before `at` are no longer here */
	uint32_t block; /* in the first of them, that holds the chunk's seq */
	struct segment *segments[];
};

/* A place in what is pending: a number, and the block that holds it. */
struct place {
	uint32_t segment, block;
	uint64_t seq;
};

/* With room for so many segments; none is in it yet. NULL: out of memory. */
struct pending *pending_new(uint32_t segments);
/* What a stretch, which begins with the block of number seq, holds before another number. NULL: out
 * of memory.
 */
struct pending *pending_of(const struct stretch *from, uint64_t until);
/* All of a block, of which it takes a hold. NULL: out of memory. */
struct pending *pending_of_block(struct block *block);
/* What is held by it, as far as that need be looked at. */
uint64_t pending_bytes(const struct pending *pending, uint64_t max);
/* Lets go of what is left in it. */
void pending_free(struct pending *pending);
struct block *pending_block(const struct pending *pending, const struct place *at);
/* Moves to a later number, to which everything before it has been looked at. How many blocks the
 * last segment has only its home knows, but there is one for each number before `until`. */
void pending_go_on(const struct pending *pending, struct place *at, uint64_t seq);

#endif
