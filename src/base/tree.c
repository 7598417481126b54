#include "base/tree.h"

#include <assert.h>

/* Below, at, or above: -1, 0, 1. */
static int compare(const uint64_t a[2], const uint64_t b[2])
{
	if (a[0] != b[0])
		return a[0] < b[0] ? -1 : 1;
	return a[1] < b[1] ? -1 : a[1] > b[1];
}

struct tree_entry *tree_find(const struct tree *o, const uint64_t key[2])
{
	struct tree_entry *e = o->root;
	int side;

	while (e != NULL && (side = compare(key, e->key)) != 0)
		e = side < 0 ? e->less : e->more;
	return e;
}

struct tree_entry *tree_first(const struct tree *o)
{
	struct tree_entry *e = o->root;

	while (e != NULL && e->less != NULL)
		e = e->less;
	return e;
}

/* What hangs at t goes to *less as far as it is up to the key, the rest to *more. */
static void part(struct tree_entry *t, const uint64_t key[2], struct tree_entry **less,
		 struct tree_entry **more)
{
	while (t != NULL) {
		if (compare(t->key, key) <= 0) {
			*less = t;
			less = &t->more;
			t = t->more;
		} else {
			*more = t;
			more = &t->less;
			t = t->less;
		}
	}
	*less = *more = NULL;
}

void tree_add(struct tree *o, struct tree_entry *e)
{
	struct tree_entry **at = &o->root;

	/* Whoever chooses the keys does not choose where the entries lie. */
	e->weight = (uint32_t)((uint64_t)(uintptr_t)e * UINT64_C(0x9e3779b97f4a7c15) >> 32);
	while (*at != NULL && (*at)->weight >= e->weight)
		at = compare(e->key, (*at)->key) < 0 ? &(*at)->less : &(*at)->more;
	part(*at, e->key, &e->less, &e->more);
	*at = e;
}

void tree_remove(struct tree *o, struct tree_entry *e)
{
	struct tree_entry **at = &o->root, *less = e->less, *more = e->more;

	while (*at != e) {
		assert(*at != NULL);
		at = compare(e->key, (*at)->key) < 0 ? &(*at)->less : &(*at)->more;
	}
	while (less != NULL && more != NULL) {
		if (less->weight >= more->weight) {
			*at = less;
			at = &less->more;
			less = less->more;
		} else {
			*at = more;
			at = &more->less;
			more = more->less;
		}
	}
	*at = less != NULL ? less : more;
}

struct tree tree_split(struct tree *o, const uint64_t key[2])
{
	struct tree upto;

	part(o->root, key, &upto.root, &o->root);
	return upto;
}
