#ifndef BASE_TABLE_H
#define BASE_TABLE_H

/*
 * Hash table from names to pointers: open addressing with linear probing, deletion by shifting back
 * (Knuth 6.4, algorithm R), at most three quarters full, or seven eighths a dense one. One with
 * many entries grows a little with each that is added: what has not moved yet stays findable in the
 * places it was in before. It owns neither names nor values. One thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

/* What is in a table begins with this. */
struct named {
	uint64_t hash;    /* hash_bytes of the name */
	struct span name; /* lives as long as the entry */
};

struct table {
	struct named **slots;
	size_t slots_n, entries_n; /* slots_n is a power of two, or 0 */
	/* While it grows: the slots before, all of them empty up to `moved`. NULL: it does not. */
	struct named **before;
	size_t before_n, moved;
	bool dense; /* for many tables of names that are seldom looked for; set before the first */
};

/* Places that entries are in. */
static inline size_t table_places(const struct table *table)
{
	return table->slots_n + table->before_n;
}

/* All zero is an empty table. */
void table_release(struct table *table);
struct named *table_find(const struct table *table, uint64_t hash, struct span name);
/* The name must not be there yet. -ENOMEM. */
int table_add(struct table *table, struct named *entry);
/* The entry must be there. */
void table_remove(struct table *table, struct named *entry);
/* Every entry in turn: start with *at = 0; NULL at the end. Nothing may be added or removed in
 * between. */
struct named *table_next(const struct table *table, size_t *at);
/* What is in the next place, or NULL; at the end (table_places) it begins anew. Whoever goes on
 * from *at comes to every entry that stays, though not always in the first round when something has
 * been added or removed meanwhile. */
struct named *table_step(const struct table *table, size_t *at);

#endif
