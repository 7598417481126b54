#ifndef ADMIN_TEXT_H
#define ADMIN_TEXT_H

/*
 * Text that grows. Out of memory it stops growing and says so. One thread.
 */

#include <stdbool.h>
#include <stddef.h>

struct text {
	char *data;
	size_t len, size;
	bool failed;
};

/* All zero is empty. */
void text_add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_release(struct text *text);

#endif
