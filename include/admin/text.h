#ifndef ADMIN_TEXT_H
#define ADMIN_TEXT_H

/*
 * Text that grows in the body of a block, so that it is counted, and sent from there to everybody
 * who wants it. Out of memory it has no block any more. One thread.
 */

#include <stddef.h>

struct block;

struct text {
	struct block *block; /* held; NULL: out of memory, or taken */
};

/* What it grows in; takes the block over, which may be NULL. */
void text_init(struct text *text, struct block *block);
void text_add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The finished text, which is the caller's now; NULL: out of memory. */
struct block *text_take(struct text *text);
void text_release(struct text *text);

#endif
