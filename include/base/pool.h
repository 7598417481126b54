#ifndef BASE_POOL_H
#define BASE_POOL_H

/*
 * Objects of one size, handed out and taken back in O(1) from slabs of about 64 KiB that are kept
 * until the pool ends. The object freed last is the next one given, because it is warm. Each has
 * its cache lines to itself, unless it is small. One thread.
 */

#include <stddef.h>

struct pool {
	size_t object_bytes;
	void *free;  /* singly linked through the objects */
	void *slabs; /* singly linked through the slabs' first words */
	char *fresh; /* never given out yet, in the newest slab */
	size_t fresh_n;
};

/* object_bytes is rounded up to a multiple of 64. */
void pool_init(struct pool *pool, size_t object_bytes);
/* The same for what is small, and touched seldom: several share a line. Rounded up to a multiple of
 * 16. */
void pool_init_small(struct pool *pool, size_t object_bytes);
/* Gives all memory back; nothing from the pool may be in use. */
void pool_release(struct pool *pool);
/* Not zeroed; NULL: out of memory. */
void *pool_take(struct pool *pool);
void pool_give(struct pool *pool, void *object);

#endif
