#include "topic/chunk.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"
#include "base/wire.h"
#include "topic/block.h"
#include "topic/pending.h"
#include "topic/stream.h"

struct chunk *chunk_new(size_t capacity, uint64_t base, uint64_t first)
{
	struct chunk *c = memory_new(sizeof(*c) + capacity);

	if (c == NULL)
		return NULL;
	*c = (struct chunk){ .refs = 1, .base = base, .first = first, .capacity = capacity };
	c->bytes = c->data;
	return c;
}

void chunk_unref(struct chunk *c)
{
	while (c != NULL) {
		struct chunk *next = c->next;

		assert(c->refs > 0);
		if (--c->refs > 0)
			return;
		if (c->stream != NULL && c->stream->whole == c)
			c->stream->whole = next;
		if (c->live) {
			assert(c->stream->tail == c);
			c->stream->tail = next;
			c->stream->bytes -= chunk_bytes(c);
		}
		if (c->block != NULL)
			block_unref(c->block);
		pending_free(c->pending);
		memory_free(c);
		c = next;
	}
}

/* What its ends of messages are looked for in. */
static struct span readable(const struct chunk *c)
{
	return c->block == NULL ? (struct span){ c->data, c->used } : c->body;
}

/* Whether it holds one message, between prefix and suffix or what is left of one. */
static bool is_one(const struct chunk *c)
{
	return c->detached || (c->block != NULL && c->messages == 1);
}

/* ---- ends that the bytes do not say ---- */

static char *noted(const struct chunk *c, uint64_t n)
{
	return (char *)(uintptr_t)c->data + c->capacity - (n + 1) * CHUNK_END_BYTES;
}

static size_t noted_end(const struct chunk *c, uint64_t n)
{
	uint32_t end;

	memcpy(&end, noted(c, n), CHUNK_END_BYTES);
	return end;
}

void chunk_note_ends(struct chunk *c, const struct run *run)
{
	struct run rest = *run;
	uint64_t n = c->messages;
	size_t end = c->used;
	struct span message;

	while (run_next(&rest, &message)) {
		uint32_t at;

		if (message.len == 0)
			continue;
		end += message.len;
		assert(end <= UINT32_MAX && c->data + end <= noted(c, n));
		at = (uint32_t)end;
		memcpy(noted(c, n++), &at, CHUNK_END_BYTES);
	}
}

/* The first end at or after an offset. */
static size_t find_noted(const struct chunk *c, size_t at)
{
	uint64_t low = 0, high = c->messages;

	if (at == 0)
		return 0;
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (noted_end(c, middle) < at)
			low = middle + 1;
		else
			high = middle;
	}
	return low < c->messages ? noted_end(c, low) : c->used;
}

/* ---- ends ---- */

size_t chunk_boundary(const struct wire_format *format, const struct chunk *c, size_t at)
{
	if (is_one(c))
		return at == 0 ? 0 : c->used;
	if (format->boundary == NULL)
		return find_noted(c, at);
	return format->boundary(readable(c), at);
}

size_t chunk_message_end(const struct wire_format *format, const struct chunk *c, size_t at)
{
	if (is_one(c))
		return c->used;
	if (format->boundary == NULL)
		return find_noted(c, at + 1);
	/* From there, or a format whose ends are found from the start would look at it all again.
	 */
	return at + format->boundary(span_skip(readable(c), at), 1);
}

size_t chunk_skip(const struct wire_format *format, const struct chunk *c, uint64_t n)
{
	size_t at = 0;

	assert(n <= c->messages);
	if (n > 0 && c->block != NULL && !is_one(c))
		return block_part(c->block, (uint32_t)(c->seq - c->block->seq), (uint32_t)n)
			.body.len;
	if (n > 0 && format->boundary == NULL && !is_one(c))
		return noted_end(c, n - 1);
	while (n-- > 0)
		at = chunk_message_end(format, c, at);
	return at;
}
