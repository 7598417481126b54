#include "base/run.h"

#define EACH(byte) (UINT64_MAX / 255 * (uint64_t)(byte))

/* How many of eight bytes are LF. */
static inline unsigned count_lf(const char *p)
{
	uint64_t word, rest;

	memcpy(&word, p, sizeof(word));
	word ^= EACH('\n');
	/* The highest bit of each byte that is not zero. */
	rest = ((word & EACH(0x7f)) + EACH(0x7f)) | word;
	return 8 - (unsigned)((rest >> 7 & EACH(1)) * EACH(1) >> 56);
}

/* Bytes up to and with the n-th LF, which is there. Lines may be empty, so words of them are
 * counted, not each looked for. */
static size_t skip_lines(struct span lines, uint32_t n)
{
	const char *p = lines.data, *end = p + lines.len;

	while (n > 8 && end - p >= 8) {
		n -= count_lf(p);
		p += 8;
	}
	for (; n > 0; n--) {
		p = memchr(p, '\n', (size_t)(end - p));
		assert(p != NULL);
		p++;
	}
	return (size_t)(p - lines.data);
}

size_t run_skip(const struct run *run, uint32_t n)
{
	struct run rest = *run;
	struct span message;

	assert(n <= run->messages);
	if (run->form == RUN_LINES)
		return skip_lines(run->body, n);
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
