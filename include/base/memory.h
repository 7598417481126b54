#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

/*
 * Allocators that count: whatever a client can make the broker keep (blocks, chunks, topics,
 * connections, replies) is taken and given back here, so that the broker knows what it holds. What
 * one thread allocates another may free: each thread counts what it took less what it gave back in
 * a plain integer, and moves it to the broker's sum in steps, so that an allocation costs an
 * addition. Any thread. Failure is NULL, as with malloc(3).
 */

#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { MEMORY_STEP_BYTES = 64 << 10 }; /* what a thread may know and the sum may not */

extern _Thread_local int64_t memory_unsettled;

/* Moves this thread's count to the sum. */
void memory_settle(void);
/* The sum, and what this thread has not moved there yet. */
uint64_t memory_used(void);

/* Takes note of memory that was not allocated here, the kernel's for example; negative: it is
 * gone. */
static inline void memory_count(int64_t bytes)
{
	memory_unsettled += bytes;
	if (memory_unsettled > MEMORY_STEP_BYTES || memory_unsettled < -MEMORY_STEP_BYTES)
		memory_settle();
}

static inline void *memory_counted(void *p)
{
	if (p != NULL)
		memory_count((int64_t)malloc_usable_size(p));
	return p;
}

static inline void *memory_new(size_t bytes)
{
	return memory_counted(malloc(bytes));
}

static inline void *memory_new_zeroed(size_t bytes)
{
	return memory_counted(calloc(1, bytes));
}

/* p may be NULL. On failure it is as it was. */
static inline void *memory_resize(void *p, size_t bytes)
{
	int64_t before = p != NULL ? (int64_t)malloc_usable_size(p) : 0;

	p = realloc(p, bytes);
	if (p != NULL)
		memory_count((int64_t)malloc_usable_size(p) - before);
	return p;
}

/* p may be NULL; it must come from one of the above. */
static inline void memory_free(void *p)
{
	if (p != NULL)
		memory_count(-(int64_t)malloc_usable_size(p));
	free(p);
}

#endif
