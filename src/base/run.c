#include "base/run.h"

#include <stddef.h>

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

/* ---- records ---- */

enum { RECORD_RETAIN = 1 << 7 };

/* In the order in which they stand; the flag of each is its place. */
enum { EXTRAS_N = 5 };
static const size_t extras[EXTRAS_N] = {
	offsetof(struct record, reply),      offsetof(struct record, headers),
	offsetof(struct record, type),       offsetof(struct record, version),
	offsetof(struct record, properties),
};

static const struct span *extra_of(const struct record *r, int i)
{
	return (const struct span *)(const void *)((const char *)r + extras[i]);
}

static unsigned flags_of(const struct record *r)
{
	unsigned flags = r->retain ? RECORD_RETAIN : 0;

	for (int i = 0; i < EXTRAS_N; i++)
		flags |= extra_of(r, i)->len > 0 ? 1U << i : 0;
	return flags;
}

size_t record_bytes(const struct record *r)
{
	size_t n = RECORD_HEAD_BYTES + r->payload.len;

	if (flags_of(r) == 0)
		return n;
	n++;
	for (int i = 0; i < EXTRAS_N; i++)
		if (extra_of(r, i)->len > 0)
			n += RECORD_HEAD_BYTES + extra_of(r, i)->len;
	return n;
}

char *record_begin(char *out, const struct record *r)
{
	unsigned flags = flags_of(r);
	uint32_t len = (uint32_t)r->payload.len | (flags != 0 ? RECORD_HAS_EXTRAS : 0);

	assert(r->payload.len <= INT32_MAX);
	memcpy(out, &len, sizeof(len));
	out += sizeof(len);
	if (flags == 0)
		return out;
	*out++ = (char)flags;
	for (int i = 0; i < EXTRAS_N; i++)
		if (extra_of(r, i)->len > 0)
			out = record_put(out, *extra_of(r, i));
	return out;
}

char *record_write(char *out, const struct record *r)
{
	out = record_begin(out, r);
	if (r->payload.len > 0)
		memcpy(out, r->payload.data, r->payload.len);
	return out + r->payload.len;
}

struct record record_read(struct span records)
{
	struct record r = { .payload = { NULL, 0 } };
	uint32_t len;
	unsigned flags;

	memcpy(&len, records.data, sizeof(len));
	records = span_skip(records, sizeof(len));
	assert(len & RECORD_HAS_EXTRAS && records.len > 0);
	flags = (unsigned char)records.data[0];
	records = span_skip(records, 1);
	r.retain = flags & RECORD_RETAIN;
	for (int i = 0; i < EXTRAS_N; i++) {
		struct span *extra = (struct span *)(void *)((char *)&r + extras[i]);

		if (!(flags & 1U << i))
			continue;
		*extra = record_payload(records);
		records = span_skip(records, RECORD_HEAD_BYTES + extra->len);
	}
	len &= ~RECORD_HAS_EXTRAS;
	assert(len <= records.len);
	r.payload = (struct span){ records.data, len };
	return r;
}

bool run_next_record(struct run *run, struct record *r)
{
	struct span rest = run->body;
	uint32_t len;

	*r = (struct record){ .type = run->type };
	if (run->form == RUN_RECORDS && run->messages > 0) {
		memcpy(&len, rest.data, sizeof(len));
		if (len & RECORD_HAS_EXTRAS)
			*r = record_read(rest);
	}
	return run_next(run, &r->payload);
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
