#include "topic/block.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"
#include "base/name.h"

enum { TRIM_BYTES = 4 << 10 };

struct block *block_new(struct span name, uint64_t hash, size_t capacity)
{
	return block_new_labelled(name, hash, (struct span){ NULL, 0 }, (struct span){ NULL, 0 },
				  capacity);
}

struct block *block_new_labelled(struct span name, uint64_t hash, struct span type,
				 struct span version, size_t capacity)
{
	size_t head_len = name.len + type.len + version.len;
	struct block *b = memory_new(sizeof(*b) + head_len + capacity);

	assert(name.len <= NAME_BYTES_MAX && type.len <= BLOCK_LABEL_MAX &&
	       version.len <= BLOCK_LABEL_MAX);
	if (b == NULL)
		return NULL;
	*b = (struct block){ .letter = { LETTER_BLOCK },
			     .holders = 1,
			     .name_len = (uint8_t)name.len,
			     .type_len = (uint8_t)type.len,
			     .version_len = (uint8_t)version.len,
			     .head_len = (uint32_t)head_len,
			     .hash = hash,
			     .capacity = capacity };
	list_init(&b->age);
	memcpy(b->bytes, name.data, name.len);
	if (type.len > 0)
		memcpy(b->bytes + name.len, type.data, type.len);
	if (version.len > 0)
		memcpy(b->bytes + name.len + type.len, version.data, version.len);
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

struct run block_run(const struct block *b, uint32_t skip)
{
	struct run run = { .topic = block_name(b),
			   .body = { b->bytes + b->head_len, b->len },
			   .messages = b->messages,
			   .form = b->form,
			   .epoch = b->epoch,
			   .seq = b->seq,
			   .type = block_type(b) };

	if (skip > 0) {
		run.body = span_skip(run.body, run_skip(&run, skip));
		run.messages -= skip;
		run.seq += skip;
	}
	return run;
}

void block_unref(struct block *b)
{
	/* The last one must see what the others did before it frees the memory under them. */
	if (atomic_fetch_sub_explicit(&b->holders, 1, memory_order_acq_rel) != 1)
		return;
	free(b->receipt);
	memory_free(b);
}
