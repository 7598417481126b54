#include "base/wire.h"

#include <assert.h>

size_t run_skip(const struct run *run, uint32_t n)
{
	const char *p = run->body.data, *end = p + run->body.len;

	assert(n <= run->messages);
	if (!run->lines)
		return n == 0 ? 0 : run->body.len;
	while (n-- > 0) {
		p = memchr(p, '\n', (size_t)(end - p));
		assert(p != NULL);
		p++;
	}
	return (size_t)(p - run->body.data);
}
