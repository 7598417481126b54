#include "base/table.h"

#include <assert.h>
#include <errno.h>

#include "base/memory.h"

enum {
	SLOTS_MIN = 16,
	GROW_AT_ONCE = 256, /* slots: what is kept of them beside would be a third of all */
	/* Looked at with each entry that is added: twice as many must be enough before it is full
	 * again, which takes three quarters as many entries as there were slots, or more. */
	MOVED_AT_ONCE = 8,
};

void table_release(struct table *t)
{
	memory_free(t->slots);
	memory_free(t->before);
	*t = (struct table){ .dense = t->dense };
}

static inline struct named *find_in(struct named *const *slots, size_t slots_n, uint64_t hash,
				    struct span name)
{
	for (size_t i = hash & (slots_n - 1); slots[i] != NULL; i = (i + 1) & (slots_n - 1))
		if (slots[i]->hash == hash && span_equal(slots[i]->name, name))
			return slots[i];
	return NULL;
}

/* Apart, so that what is seldom costs nothing where it is not. */
static struct named *find_before(const struct table *t, uint64_t hash, struct span name)
{
	return t->before != NULL ? find_in(t->before, t->before_n, hash, name) : NULL;
}

struct named *table_find(const struct table *t, uint64_t hash, struct span name)
{
	struct named *found;

	if (t->slots_n == 0)
		return NULL;
	found = find_in(t->slots, t->slots_n, hash, name);
	return found != NULL ? found : find_before(t, hash, name);
}

static void place(struct named **slots, size_t slots_n, struct named *entry)
{
	size_t i = entry->hash & (slots_n - 1);

	while (slots[i] != NULL)
		i = (i + 1) & (slots_n - 1);
	slots[i] = entry;
}

/* Whoever probed across the hole moves back into it. */
static void empty(struct named **slots, size_t slots_n, size_t hole)
{
	size_t mask = slots_n - 1;

	for (size_t i = (hole + 1) & mask; slots[i] != NULL; i = (i + 1) & mask) {
		size_t home = slots[i]->hash & mask;

		if (((i - home) & mask) < ((i - hole) & mask))
			continue;
		slots[hole] = slots[i];
		hole = i;
	}
	slots[hole] = NULL;
}

/* Moves what is in the next slots that were there before. Who moves back into one of them is next.
 */
static void move_some(struct table *t)
{
	for (unsigned i = 0; i < MOVED_AT_ONCE && t->moved < t->before_n; i++) {
		struct named *entry = t->before[t->moved];

		if (entry == NULL) {
			t->moved++;
			continue;
		}
		empty(t->before, t->before_n, t->moved);
		place(t->slots, t->slots_n, entry);
	}
	if (t->moved < t->before_n)
		return;
	memory_free(t->before);
	t->before = NULL;
	t->before_n = t->moved = 0;
}

static int grow(struct table *t)
{
	size_t n = t->slots_n == 0 ? SLOTS_MIN : 2 * t->slots_n;
	struct named **slots = memory_new_zeroed(n * sizeof(*slots));

	if (slots == NULL)
		return -ENOMEM;
	assert(t->before == NULL);
	t->before = t->slots;
	t->before_n = t->slots_n;
	t->slots = slots;
	t->slots_n = n;
	while (t->before != NULL && t->before_n <= GROW_AT_ONCE)
		move_some(t);
	return 0;
}

int table_add(struct table *t, struct named *entry)
{
	if ((t->entries_n + 1) * 8 > (t->dense ? 7 : 6) * t->slots_n && grow(t) != 0)
		return -ENOMEM;
	if (t->before != NULL)
		move_some(t);
	place(t->slots, t->slots_n, entry);
	t->entries_n++;
	return 0;
}

/* Where it is; slots_n: it is not there. */
static size_t place_of(struct named *const *slots, size_t slots_n, const struct named *entry)
{
	size_t i = entry->hash & (slots_n - 1);

	for (; slots[i] != entry; i = (i + 1) & (slots_n - 1))
		if (slots[i] == NULL)
			return slots_n;
	return i;
}

void table_remove(struct table *t, struct named *entry)
{
	size_t i = place_of(t->slots, t->slots_n, entry);

	if (i < t->slots_n) {
		empty(t->slots, t->slots_n, i);
	} else {
		assert(t->before != NULL);
		i = place_of(t->before, t->before_n, entry);
		assert(i < t->before_n);
		empty(t->before, t->before_n, i);
	}
	t->entries_n--;
}

struct named *table_step(const struct table *t, size_t *at)
{
	if (*at >= table_places(t))
		*at = 0;
	if (*at < t->slots_n)
		return t->slots[(*at)++];
	return table_places(t) > 0 ? t->before[(*at)++ - t->slots_n] : NULL;
}

struct named *table_next(const struct table *t, size_t *at)
{
	while (*at < table_places(t)) {
		struct named *n = table_step(t, at);

		if (n != NULL)
			return n;
	}
	return NULL;
}
