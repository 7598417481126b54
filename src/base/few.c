#include "base/few.h"

#include <errno.h>

#include "base/memory.h"

enum { IS_TABLE = 1 };

/* NULL: there is one entry at most. */
static struct table *table_of(const struct few *f)
{
	return f->of & IS_TABLE ? (struct table *)(f->of - IS_TABLE) : NULL;
}

static struct named *only(const struct few *f)
{
	return (struct named *)f->of;
}

void few_release(struct few *f)
{
	struct table *t = table_of(f);

	if (t != NULL) {
		table_release(t);
		memory_free(t);
	}
	f->of = 0;
}

struct named *few_find(const struct few *f, uint64_t hash, struct span name)
{
	const struct table *t = table_of(f);
	struct named *n = only(f);

	if (t != NULL)
		return table_find(t, hash, name);
	return n != NULL && n->hash == hash && span_equal(n->name, name) ? n : NULL;
}

int few_add(struct few *f, struct named *entry)
{
	struct table *t = table_of(f);

	if (t != NULL)
		return table_add(t, entry);
	if (f->of == 0) {
		f->of = (uintptr_t)entry;
		return 0;
	}
	t = memory_new_zeroed(sizeof(*t));
	if (t != NULL)
		t->dense = true;
	if (t == NULL || table_add(t, only(f)) != 0) {
		memory_free(t);
		return -ENOMEM;
	}
	f->of = (uintptr_t)t + IS_TABLE;
	/* It has room for some. */
	return table_add(t, entry);
}

void few_remove(struct few *f, struct named *entry)
{
	struct table *t = table_of(f);

	if (t == NULL) {
		f->of = 0;
		return;
	}
	table_remove(t, entry);
	if (t->entries_n == 0)
		few_release(f);
}

size_t few_n(const struct few *f)
{
	const struct table *t = table_of(f);

	return t != NULL ? t->entries_n : f->of != 0;
}

struct named *few_next(const struct few *f, size_t *at)
{
	const struct table *t = table_of(f);

	if (t != NULL)
		return table_next(t, at);
	return (*at)++ == 0 ? only(f) : NULL;
}

struct named *few_step(const struct few *f, size_t *at)
{
	const struct table *t = table_of(f);

	return t != NULL ? table_step(t, at) : only(f);
}
