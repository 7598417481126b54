#ifndef BASE_FEW_H
#define BASE_FEW_H

/*
 * A table of names (base/table.h) that takes the place of a pointer: the only entry is where that
 * points to, several are in a table. For what most have one of, and some have ten thousand. It owns
 * neither names nor values. One thread.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/table.h"

/* All zero is an empty one. */
struct few {
	uintptr_t of; /* the only entry; or a table, and 1 */
};

void few_release(struct few *few);
struct named *few_find(const struct few *few, uint64_t hash, struct span name);
/* The name must not be there yet. -ENOMEM. */
int few_add(struct few *few, struct named *entry);
/* The entry must be there. */
void few_remove(struct few *few, struct named *entry);
/* How many there are. */
size_t few_n(const struct few *few);
/* As table_next. */
struct named *few_next(const struct few *few, size_t *at);
/* As table_step. */
struct named *few_step(const struct few *few, size_t *at);

#endif
