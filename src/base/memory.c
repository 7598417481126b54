#include "base/memory.h"

#include <stdatomic.h>

_Thread_local int64_t memory_unsettled;

/* Signed: a thread may tell what it freed before another tells what it allocated. */
static _Atomic int64_t settled;

void memory_settle(void)
{
	if (memory_unsettled == 0)
		return;
	atomic_fetch_add_explicit(&settled, memory_unsettled, memory_order_relaxed);
	memory_unsettled = 0;
}

uint64_t memory_used(void)
{
	int64_t used = atomic_load_explicit(&settled, memory_order_relaxed) + memory_unsettled;

	return used > 0 ? (uint64_t)used : 0;
}
