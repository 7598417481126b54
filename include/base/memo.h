#ifndef BASE_MEMO_H
#define BASE_MEMO_H

/*
 * What is to be remembered for a while and by a key, so many of them at most: when there are more,
 * the one that has been there longest goes. Entries are embedded in what they stand for. One
 * thread, or whoever has the lock.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/table.h"

enum { MEMO_KEY_BYTES = 32 };

struct memo_entry {
	struct named named;
	struct list link;
	uint64_t until_ns;
	unsigned char key[MEMO_KEY_BYTES];
};

struct memo {
	struct table table;
	struct list order; /* the longest there first */
	size_t max;
	void (*forget)(struct memo_entry *entry); /* frees one that has been taken out */
};

void memo_init(struct memo *memo, size_t max, void (*forget)(struct memo_entry *entry));
void memo_release(struct memo *memo);
/* NULL: there is none, or its time is over. */
struct memo_entry *memo_find(const struct memo *memo, const void *key, uint64_t now_ns);
/* Takes the entry over; one with that key is forgotten for it. -ENOMEM: the entry is the caller's
 * still. */
int memo_add(struct memo *memo, struct memo_entry *entry, const void *key, uint64_t until_ns);
void memo_remove(struct memo *memo, struct memo_entry *entry);
/* Forgets those at the front whose time is over, a few at most. */
void memo_expire(struct memo *memo, uint64_t now_ns);

#endif
