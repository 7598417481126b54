#include "topic/block.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"
#include "base/name.h"

enum { TRIM_BYTES = 4 << 10 };

struct block *block_new(struct span name, uint64_t hash, size_t capacity)
{
	return block_new_labelled(name, hash, &(const struct block_labels){ .type = { NULL, 0 } },
				  capacity);
}

static char *put(char *out, struct span label)
{
	if (label.len > 0)
		memcpy(out, label.data, label.len);
	return out + label.len;
}

struct block *block_new_labelled(struct span name, uint64_t hash, const struct block_labels *l,
				 size_t capacity)
{
	size_t head_len = name.len + l->type.len + l->version.len + l->encoding.len + l->key.len;
	struct block *b = memory_new(sizeof(*b) + head_len + capacity);

	assert(name.len <= NAME_BYTES_MAX && l->type.len <= BLOCK_LABEL_MAX &&
	       l->version.len <= BLOCK_LABEL_MAX && l->encoding.len <= BLOCK_LABEL_MAX &&
	       l->key.len <= BLOCK_LABEL_MAX);
	if (b == NULL)
		return NULL;
	*b = (struct block){ .letter = { LETTER_PUBLISH },
			     .holders = 1,
			     .name_len = (uint8_t)name.len,
			     .type_len = (uint8_t)l->type.len,
			     .version_len = (uint8_t)l->version.len,
			     .encoding_len = (uint8_t)l->encoding.len,
			     .key_len = (uint8_t)l->key.len,
			     .head_len = (uint32_t)head_len,
			     .hash = hash,
			     .capacity = capacity };
	list_init(&b->age);
	put(put(put(put(put(b->bytes, name), l->type), l->version), l->encoding), l->key);
	return b;
}

struct block *block_reserve(struct block *b, size_t len)
{
	size_t capacity;

	if (b->capacity - b->len >= len)
		return b;
	capacity = b->len + len;
	/* Doubling, so that a message that arrives in pieces is not moved once per piece. */
	if (capacity < 2 * b->capacity)
		capacity = 2 * b->capacity;
	b = memory_resize(b, sizeof(*b) + b->head_len + capacity);
	if (b == NULL)
		return NULL;
	list_init(&b->age);
	b->capacity = capacity;
	return b;
}

struct block *block_trim(struct block *b)
{
	size_t spare = b->capacity - b->len;
	struct block *trimmed;

	/* Small ones are not worth a call, and most have just what they need. */
	if (spare < TRIM_BYTES)
		return b;
	if (atomic_load_explicit(&b->holders, memory_order_relaxed) == 1) {
		trimmed = memory_resize(b, sizeof(*b) + b->head_len + b->len);
		if (trimmed == NULL)
			return b;
		list_init(&trimmed->age);
		trimmed->capacity = trimmed->len;
		return trimmed;
	}
	/* Somebody still looks at it, so that it cannot move: a copy, if more than half would be
	 * wasted. */
	if (spare < b->len)
		return b;
	trimmed = memory_new(sizeof(*b) + b->head_len + b->len);
	if (trimmed == NULL)
		return b;
	memcpy(trimmed, b, sizeof(*b) + b->head_len + b->len);
	list_init(&trimmed->age);
	atomic_init(&trimmed->holders, 1);
	trimmed->capacity = trimmed->len;
	block_unref(b);
	return trimmed;
}

struct run block_run(const struct block *b)
{
	return (struct run){ .topic = block_name(b),
			     .body = { b->bytes + b->head_len, b->len },
			     .messages = b->messages,
			     .form = b->form,
			     .epoch = b->epoch,
			     .seq = b->seq,
			     .shift = b->shift,
			     .type = block_type(b),
			     .publisher = { b->shard, b->slot, b->generation } };
}

/* NULL: it is not worth one, or out of memory. */
static const uint32_t *ends_of(struct block *b)
{
	uint32_t *ends = atomic_load_explicit(&b->ends, memory_order_acquire), *others = NULL;
	struct run rest = block_run(b);
	uint32_t at = 0;

	if (ends != NULL || b->messages < 2 * BLOCK_INDEX_STEP || b->len > UINT32_MAX)
		return ends;
	ends = memory_new(b->messages / BLOCK_INDEX_STEP * sizeof(*ends));
	if (ends == NULL)
		return NULL;
	for (uint32_t i = 0; i < b->messages / BLOCK_INDEX_STEP; i++) {
		size_t n = run_skip(&rest, BLOCK_INDEX_STEP);

		rest.body = span_skip(rest.body, n);
		rest.messages -= BLOCK_INDEX_STEP;
		at += (uint32_t)n;
		ends[i] = at;
	}
	if (atomic_compare_exchange_strong(&b->ends, &others, ends))
		return ends;
	memory_free(ends);
	return others;
}

/* Where a run of this block's begins to have its first-th message. */
static void skip_to(struct block *b, struct run *run, uint32_t first)
{
	uint32_t marks = first / BLOCK_INDEX_STEP, n = first;
	const uint32_t *ends = marks > 0 ? ends_of(b) : NULL;
	size_t at = 0;

	if (ends != NULL) {
		at = ends[marks - 1];
		n -= marks * BLOCK_INDEX_STEP;
	}
	run->body = span_skip(run->body, at);
	run->messages -= first - n;
	run->body = span_skip(run->body, run_skip(run, n));
	run->messages -= n;
	run->seq += first;
}

struct run block_part(struct block *b, uint32_t first, uint32_t messages)
{
	struct run part = block_run(b), after;

	assert(first + messages <= b->messages);
	if (first > 0)
		skip_to(b, &part, first);
	if (messages == part.messages)
		return part;
	after = block_run(b);
	skip_to(b, &after, first + messages);
	part.body.len = (size_t)(after.body.data - part.body.data);
	part.messages = messages;
	return part;
}

void block_unref(struct block *b)
{
	/* The last one must see what the others did before it frees the memory under them. */
	if (atomic_fetch_sub_explicit(&b->holders, 1, memory_order_acq_rel) != 1)
		return;
	free(b->receipt);
	memory_free(atomic_load_explicit(&b->ends, memory_order_relaxed));
	memory_free(b);
}
