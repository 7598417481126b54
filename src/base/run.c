#include "base/run.h"

size_t run_skip(const struct run *run, uint32_t n)
{
	struct run rest = *run;
	const char *end = run->body.data + run->body.len;
	struct span message;

	assert(n <= run->messages);
	if (run->form == RUN_LINES) {
		const char *p = run->body.data;

		while (n-- > 0) {
			p = memchr(p, '\n', (size_t)(end - p));
			assert(p != NULL);
			p++;
		}
		return (size_t)(p - run->body.data);
	}
	while (n-- > 0)
		(void)run_next(&rest, &message);
	return (size_t)(rest.body.data - run->body.data);
}

struct span run_only(const struct run *run)
{
	struct run rest = *run;
	struct span message;

	assert(run->messages == 1);
	(void)run_next(&rest, &message);
	return message;
}
