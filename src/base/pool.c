#include "base/pool.h"

#include <stdint.h>

#include "base/memory.h"

#include "base/poison.h"

enum { SLAB_BYTES = 64 << 10, LINE_BYTES = 64 };

static size_t on_lines(size_t n)
{
	return (n + LINE_BYTES - 1) & ~(size_t)(LINE_BYTES - 1);
}

void pool_init(struct pool *pool, size_t object_bytes)
{
	*pool = (struct pool){ .object_bytes = on_lines(object_bytes) };
}

void pool_init_small(struct pool *pool, size_t object_bytes)
{
	*pool = (struct pool){ .object_bytes = (object_bytes + 15) & ~(size_t)15 };
}

void pool_release(struct pool *pool)
{
	while (pool->slabs != NULL) {
		void *slab = pool->slabs;

		pool->slabs = *(void **)slab;
		memory_free(slab);
	}
	*pool = (struct pool){ .object_bytes = pool->object_bytes };
}

static int add_slab(struct pool *pool)
{
	/* The header and what is lost before the first line take a line together. */
	size_t n = (SLAB_BYTES - LINE_BYTES) / pool->object_bytes;
	void **slab;

	if (n == 0)
		n = 1;
	slab = memory_new(2 * LINE_BYTES + n * pool->object_bytes);
	if (slab == NULL)
		return -1;
	*slab = pool->slabs;
	pool->slabs = slab;
	pool->fresh = (char *)on_lines((uintptr_t)(slab + 1));
	pool->fresh_n = n;
	POISON(pool->fresh, n * pool->object_bytes);
	return 0;
}

void *pool_take(struct pool *pool)
{
	void *object = pool->free;

	if (object != NULL) {
		UNPOISON(object, pool->object_bytes);
		pool->free = *(void **)object;
		return object;
	}
	if (pool->fresh_n == 0 && add_slab(pool) != 0)
		return NULL;
	object = pool->fresh;
	UNPOISON(object, pool->object_bytes);
	pool->fresh += pool->object_bytes;
	pool->fresh_n--;
	return object;
}

void pool_give(struct pool *pool, void *object)
{
	*(void **)object = pool->free;
	pool->free = object;
	POISON(object, pool->object_bytes);
}
