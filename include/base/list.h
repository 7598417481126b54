#ifndef BASE_LIST_H
#define BASE_LIST_H

/*
 * Intrusive doubly linked list with a head node. A link belongs to whoever embeds it; a link that
 * is in no list points at itself, so that removing it twice is harmless. Not thread-safe: one owner
 * thread per list.
 */

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next, *prev;
};

#define LIST_ENTRY(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

static inline void list_init(struct list *l)
{
	l->next = l;
	l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_append(struct list *l, struct list *link)
{
	link->prev = l->prev;
	link->next = l;
	l->prev->next = link;
	l->prev = link;
}

static inline void list_remove(struct list *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	list_init(link);
}

/* Takes the link out of the list that it is in, to the end of this one. */
static inline void list_move(struct list *l, struct list *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	list_append(l, link);
}

/* Moves all of from to the end of l in O(1); from is empty afterwards. */
static inline void list_splice(struct list *l, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = l->prev;
	l->prev->next = from->next;
	from->prev->next = l;
	l->prev = from->prev;
	list_init(from);
}

/* The first link, taken out of the list; NULL when it is empty. */
static inline struct list *list_take(struct list *l)
{
	struct list *first = l->next;

	if (first == l)
		return NULL;
	list_remove(first);
	return first;
}

#endif
