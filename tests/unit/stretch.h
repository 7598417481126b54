#ifndef STRETCH_H
#define STRETCH_H

/* What the unit tests of streams replay: blocks as a home hands them out. */

#include <assert.h>
#include <limits.h>

#include "topic/history.h"

/* These blocks, which follow one another, from the one with this number on; the caller releases
 * it. */
static inline struct stretch stretch_of(struct block *const *blocks, size_t n, uint64_t from)
{
	static const struct history_limits unlimited = { UINT64_MAX, UINT64_MAX, UINT64_MAX };
	struct history_total total;
	struct history h = { 0 };
	struct stretch s;

	history_total_init(&total, UINT64_MAX);
	for (size_t i = 0; i < n; i++)
		history_add(&h, &total, blocks[i], &unlimited);
	assert(h.blocks_n == n);
	s = history_hold(&h, from);
	assert(n == 0 || s.window != NULL);
	history_release(&h, &total);
	(void)history_let_go(&total, UINT_MAX);
	return s;
}

#endif
