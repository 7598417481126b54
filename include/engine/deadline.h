#ifndef ENGINE_DEADLINE_H
#define ENGINE_DEADLINE_H

/*
 * Deadlines in classes: everything in a class waits equally long, so a class is a FIFO and every
 * operation is O(1). A deadline is embedded in what it guards. One thread.
 */

#include "base/list.h"

#include <stdint.h>

struct deadline {
	struct list link;
	uint64_t at_ns;
};

struct deadline_class {
	struct list waiting; /* in the order of at_ns */
	uint64_t after_ns;
};

static inline void deadline_class_init(struct deadline_class *c, uint64_t after_ns)
{
	list_init(&c->waiting);
	c->after_ns = after_ns;
}

/* Everything in the class waits this long from now on, also what has been started: so the order
 * stays. */
static inline void deadline_class_change(struct deadline_class *c, uint64_t after_ns)
{
	for (struct list *l = c->waiting.next; l != &c->waiting; l = l->next) {
		struct deadline *d = LIST_ENTRY(l, struct deadline, link);

		d->at_ns = d->at_ns - c->after_ns + after_ns;
	}
	c->after_ns = after_ns;
}

static inline void deadline_init(struct deadline *d)
{
	list_init(&d->link);
	d->at_ns = 0;
}

/* Starts it, or starts it again: due after_ns from now. */
static inline void deadline_start(struct deadline_class *c, struct deadline *d, uint64_t now_ns)
{
	list_remove(&d->link);
	d->at_ns = now_ns + c->after_ns;
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

	if (list_empty(&c->waiting))
		return NULL;
	d = LIST_ENTRY(c->waiting.next, struct deadline, link);
	if (d->at_ns > now_ns)
		return NULL;
	list_remove(&d->link);
	return d;
}

#endif
