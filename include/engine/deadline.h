#ifndef ENGINE_DEADLINE_H
#define ENGINE_DEADLINE_H

/*
 * Deadlines in classes: everything in a class waits equally long, so a class is a FIFO and every
 * operation is O(1), another length for all that wait too. A deadline is embedded in what it
 * guards. One thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

/* As a class's length: nothing in it is ever due. */
#define DEADLINE_NEVER UINT64_MAX

struct deadline {
	struct list link;
	uint64_t started_ns;
};

struct deadline_class {
	struct list waiting; /* in the order in which they were started */
	uint64_t after_ns;
	uint64_t from_ns; /* what was started before that counts as started then */
};

static inline void deadline_class_init(struct deadline_class *c, uint64_t after_ns)
{
	list_init(&c->waiting);
	c->after_ns = after_ns;
	c->from_ns = 0;
}

/* From now on the class waits this long, and all that is in it as if started now. */
static inline void deadline_class_restart(struct deadline_class *c, uint64_t after_ns,
					  uint64_t now_ns)
{
	c->from_ns = now_ns;
	c->after_ns = after_ns;
}

/* Everything in the class waits this long, also what has been started: so the order stays. What
 * could never be due is as if started now. */
static inline void deadline_class_change(struct deadline_class *c, uint64_t after_ns,
					 uint64_t now_ns)
{
	if (c->after_ns == DEADLINE_NEVER)
		c->from_ns = now_ns;
	c->after_ns = after_ns;
}

/* Whether anything in it is due at some time. */
static inline bool deadline_class_runs(const struct deadline_class *c)
{
	return c->after_ns != DEADLINE_NEVER && !list_empty(&c->waiting);
}

static inline void deadline_init(struct deadline *d)
{
	list_init(&d->link);
	d->started_ns = 0;
}

/* Starts it, or starts it again: due after_ns from now. */
static inline void deadline_start(struct deadline_class *c, struct deadline *d, uint64_t now_ns)
{
	list_remove(&d->link);
	d->started_ns = now_ns;
	list_append(&c->waiting, &d->link);
}

/* Harmless when it is not running. */
static inline void deadline_stop(struct deadline *d)
{
	list_remove(&d->link);
}

static inline bool deadline_running(const struct deadline *d)
{
	return !list_empty(&d->link);
}

/* Takes out the first that is due; NULL when none is. */
static inline struct deadline *deadline_due(struct deadline_class *c, uint64_t now_ns)
{
	struct deadline *d;
	uint64_t from_ns;

	if (!deadline_class_runs(c))
		return NULL;
	d = LIST_ENTRY(c->waiting.next, struct deadline, link);
	from_ns = d->started_ns > c->from_ns ? d->started_ns : c->from_ns;
	if (now_ns - from_ns < c->after_ns)
		return NULL;
	list_remove(&d->link);
	return d;
}

#endif
