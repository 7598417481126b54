#include "topic/history.h"

#include <assert.h>

#include "base/memory.h"

enum { SLOTS_MIN = 4 };

void history_total_init(struct history_total *total, uint64_t bytes_max)
{
	*total = (struct history_total){ .bytes_max = bytes_max };
	list_init(&total->blocks);
}

void history_drop_oldest(struct history *h, struct history_total *total)
{
	struct block *b = history_at(h, 0);

	assert(h->blocks_n > 0);
	h->first++;
	h->blocks_n--;
	h->messages -= b->messages;
	h->bytes -= b->len;
	total->bytes -= block_bytes(b);
	list_remove(&b->age);
	block_unref(b);
	if (h->blocks_n == 0) {
		memory_free(h->blocks);
		*h = (struct history){ 0 };
	}
}

void history_release(struct history *h, struct history_total *total)
{
	while (h->blocks_n > 0)
		history_drop_oldest(h, total);
}

static bool grow(struct history *h)
{
	uint32_t n = h->slots_n == 0 ? SLOTS_MIN : 2 * h->slots_n;
	struct block **blocks = memory_new(n * sizeof(struct block *));

	if (blocks == NULL)
		return false;
	for (uint32_t i = 0; i < h->blocks_n; i++)
		blocks[i] = history_at(h, i);
	memory_free(h->blocks);
	h->blocks = blocks;
	h->slots_n = n;
	h->first = 0;
	return true;
}

void history_trim(struct history *h, struct history_total *total,
		  const struct history_limits *limits, uint64_t now_ns)
{
	while (h->blocks_n > 0) {
		struct block *b = history_at(h, 0);

		if (h->messages - b->messages < limits->messages && h->bytes <= limits->bytes &&
		    now_ns - b->stamped_ns <= limits->age_ns)
			return;
		history_drop_oldest(h, total);
	}
}

void history_add(struct history *h, struct history_total *total, struct block *b,
		 const struct history_limits *limits)
{
	if (limits->messages == 0 || b->len > limits->bytes || block_bytes(b) > total->bytes_max) {
		/* What cannot be kept must not leave a hole before what comes next. */
		history_release(h, total);
		return;
	}
	if (h->blocks_n == h->slots_n && !grow(h)) {
		history_release(h, total);
		return;
	}
	block_ref(b, 1);
	h->blocks[(h->first + h->blocks_n++) & (h->slots_n - 1)] = b;
	h->messages += b->messages;
	h->bytes += b->len;
	total->bytes += block_bytes(b);
	list_append(&total->blocks, &b->age);
	history_trim(h, total, limits, b->stamped_ns);
}

uint64_t history_oldest(const struct history *h, const struct history_limits *limits)
{
	struct block *oldest;

	if (h->blocks_n == 0)
		return 0;
	oldest = history_at(h, 0);
	return oldest->seq + (h->messages > limits->messages ? h->messages - limits->messages : 0);
}

uint32_t history_find(const struct history *h, uint64_t seq)
{
	uint32_t low = 0, high = h->blocks_n;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		struct block *b = history_at(h, middle);

		if (b->seq + b->messages <= seq)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}
