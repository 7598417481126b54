#ifndef BASE_TREE_H
#define BASE_TREE_H

/*
 * Entries in the order of their keys, embedded in what they stand for: a treap (Aragon and Seidel,
 * "Randomized search trees", 1989), each operation of which takes O(log n) steps. Keys are pairs of
 * numbers and no two are the same. Plain memory, no allocation; all zero is empty. One thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tree_entry {
	uint64_t key[2];
	struct tree_entry *less, *more;
	uint32_t weight;
};

struct tree {
	struct tree_entry *root;
};

/* NULL: none has this key. */
struct tree_entry *tree_find(const struct tree *tree, const uint64_t key[2]);
/* The one with the smallest key; NULL: there is none. */
struct tree_entry *tree_first(const struct tree *tree);
/* The entry's key is set, and is not there yet. */
void tree_add(struct tree *tree, struct tree_entry *entry);
void tree_remove(struct tree *tree, struct tree_entry *entry);
/* Takes out all entries up to this key, and that one too. */
struct tree tree_split(struct tree *tree, const uint64_t key[2]);

#endif
