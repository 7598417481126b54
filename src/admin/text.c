#include "admin/text.h"

#include <stdarg.h>
#include <stdio.h>

#include "topic/block.h"

void text_init(struct text *t, struct block *b)
{
	t->block = b;
}

void text_add(struct text *t, const char *format, ...)
{
	va_list args;
	int n;

	for (int attempt = 0; attempt < 2 && t->block != NULL; attempt++) {
		struct block *b = t->block;
		size_t room = b->capacity - b->len;

		va_start(args, format);
		n = vsnprintf(block_body(b) + b->len, room, format, args);
		va_end(args);
		if (n >= 0 && (size_t)n < room) {
			b->len += (size_t)n;
			return;
		}
		/* And the NUL. */
		b = n >= 0 ? block_reserve(b, (size_t)n + 1) : NULL;
		if (b == NULL)
			text_release(t);
		else
			t->block = b;
	}
}

struct block *text_take(struct text *t)
{
	struct block *b = t->block;

	t->block = NULL;
	return b != NULL ? block_trim(b) : NULL;
}

void text_release(struct text *t)
{
	if (t->block != NULL)
		block_unref(t->block);
	t->block = NULL;
}
