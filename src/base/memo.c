#include "base/memo.h"

#include <string.h>

#include "base/hash.h"

enum { EXPIRED_AT_ONCE = 4 }; /* more than come, so that they get fewer */

void memo_init(struct memo *m, size_t max, void (*forget)(struct memo_entry *entry))
{
	*m = (struct memo){ .max = max, .forget = forget };
	list_init(&m->order);
}

void memo_remove(struct memo *m, struct memo_entry *e)
{
	table_remove(&m->table, &e->named);
	list_remove(&e->link);
	m->forget(e);
}

static struct memo_entry *first(const struct memo *m)
{
	return LIST_ENTRY(m->order.next, struct memo_entry, link);
}

void memo_release(struct memo *m)
{
	while (m->table.entries_n > 0)
		memo_remove(m, first(m));
	table_release(&m->table);
}

static struct memo_entry *find(const struct memo *m, struct span key, uint64_t hash)
{
	return (struct memo_entry *)(void *)table_find(&m->table, hash, key);
}

struct memo_entry *memo_find(const struct memo *m, const void *key, uint64_t now_ns)
{
	struct span name = { key, MEMO_KEY_BYTES };
	struct memo_entry *e = find(m, name, hash_bytes(key, MEMO_KEY_BYTES));

	return e != NULL && now_ns < e->until_ns ? e : NULL;
}

int memo_add(struct memo *m, struct memo_entry *e, const void *key, uint64_t until_ns)
{
	struct span name = { (const char *)e->key, MEMO_KEY_BYTES };
	struct memo_entry *before;
	int err;

	memcpy(e->key, key, MEMO_KEY_BYTES);
	e->named = (struct named){ hash_bytes(key, MEMO_KEY_BYTES), name };
	e->until_ns = until_ns;
	before = find(m, name, e->named.hash);
	if (before != NULL)
		memo_remove(m, before);
	else if (m->table.entries_n >= m->max)
		memo_remove(m, first(m));
	err = table_add(&m->table, &e->named);
	if (err != 0)
		return err;
	list_init(&e->link);
	list_append(&m->order, &e->link);
	return 0;
}

void memo_expire(struct memo *m, uint64_t now_ns)
{
	for (int i = 0; i < EXPIRED_AT_ONCE && m->table.entries_n > 0; i++) {
		struct memo_entry *e = first(m);

		if (now_ns < e->until_ns)
			return;
		memo_remove(m, e);
	}
}
