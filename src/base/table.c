#include "base/table.h"

#include <assert.h>
#include <errno.h>

#include "base/memory.h"

enum { SLOTS_MIN = 16 };

void table_release(struct table *t)
{
	memory_free(t->slots);
	*t = (struct table){ 0 };
}

struct named *table_find(const struct table *t, uint64_t hash, struct span name)
{
	if (t->slots_n == 0)
		return NULL;
	for (size_t i = hash & (t->slots_n - 1); t->slots[i] != NULL;
	     i = (i + 1) & (t->slots_n - 1))
		if (t->slots[i]->hash == hash && span_equal(t->slots[i]->name, name))
			return t->slots[i];
	return NULL;
}

static void place(struct named **slots, size_t slots_n, struct named *entry)
{
	size_t i = entry->hash & (slots_n - 1);

	while (slots[i] != NULL)
		i = (i + 1) & (slots_n - 1);
	slots[i] = entry;
}

int table_add(struct table *t, struct named *entry)
{
	if (4 * (t->entries_n + 1) > 3 * t->slots_n) {
		size_t n = t->slots_n == 0 ? SLOTS_MIN : 2 * t->slots_n;
		struct named **slots = memory_new_zeroed(n * sizeof(*slots));

		if (slots == NULL)
			return -ENOMEM;
		for (size_t i = 0; i < t->slots_n; i++)
			if (t->slots[i] != NULL)
				place(slots, n, t->slots[i]);
		memory_free(t->slots);
		t->slots = slots;
		t->slots_n = n;
	}
	place(t->slots, t->slots_n, entry);
	t->entries_n++;
	return 0;
}

void table_remove(struct table *t, struct named *entry)
{
	size_t mask = t->slots_n - 1, hole = entry->hash & mask;

	while (t->slots[hole] != entry) {
		assert(t->slots[hole] != NULL);
		hole = (hole + 1) & mask;
	}
	/* Whoever probed across the hole moves back into it. */
	for (size_t i = (hole + 1) & mask; t->slots[i] != NULL; i = (i + 1) & mask) {
		size_t home = t->slots[i]->hash & mask;

		if (((i - home) & mask) < ((i - hole) & mask))
			continue;
		t->slots[hole] = t->slots[i];
		hole = i;
	}
	t->slots[hole] = NULL;
	t->entries_n--;
}

struct named *table_step(const struct table *t, size_t *at)
{
	if (*at >= t->slots_n)
		*at = 0;
	return t->slots_n > 0 ? t->slots[(*at)++] : NULL;
}

struct named *table_next(const struct table *t, size_t *at)
{
	while (*at < t->slots_n)
		if (t->slots[(*at)++] != NULL)
			return t->slots[*at - 1];
	return NULL;
}
