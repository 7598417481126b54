#include "admin/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIZE_MIN = 4096 };

void text_add(struct text *t, const char *format, ...)
{
	va_list args;
	int n;

	for (int attempt = 0; attempt < 2 && !t->failed; attempt++) {
		size_t room = t->size - t->len, size;
		char *data;

		va_start(args, format);
		n = vsnprintf(t->data != NULL ? t->data + t->len : NULL, room, format, args);
		va_end(args);
		if (n >= 0 && (size_t)n < room) {
			t->len += (size_t)n;
			return;
		}
		size = 2 * t->size + (size_t)n + SIZE_MIN;
		data = realloc(t->data, size);
		if (data == NULL) {
			t->failed = true;
			return;
		}
		t->data = data;
		t->size = size;
	}
}

void text_release(struct text *t)
{
	free(t->data);
	*t = (struct text){ 0 };
}
