#include "topic/pending.h"

#include "base/memory.h"
#include "topic/block.h"
#include "topic/history.h"

struct block *pending_block(const struct pending *p, const struct place *at)
{
	return p->segments[at->segment]->blocks[at->block];
}

void pending_go_on(const struct pending *p, struct place *at, uint64_t seq)
{
	at->seq = seq;
	while (seq < p->until) {
		const struct block *b = pending_block(p, at);

		if (seq < b->seq + b->messages)
			return;
		at->block++;
		if (at->segment + 1 < p->n && at->block == p->segments[at->segment]->n) {
			at->segment++;
			at->block = 0;
		}
	}
}

struct pending *pending_new(uint32_t segments)
{
	struct pending *p = memory_new(sizeof(*p) + segments * sizeof(p->segments[0]));

	if (p != NULL)
		*p = (struct pending){ 0 };
	return p;
}

struct pending *pending_of(const struct stretch *from, uint64_t until)
{
	const struct window *w = from->window;
	uint32_t n = 0;
	struct pending *p;

	while (from->segment + n < w->n && w->segments[from->segment + n]->seq < until)
		n++;
	p = pending_new(n);
	if (p == NULL)
		return NULL;
	p->until = until;
	p->block = from->block;
	for (; p->n < n; p->n++) {
		p->segments[p->n] = w->segments[from->segment + p->n];
		segment_ref(p->segments[p->n]);
	}
	return p;
}

struct pending *pending_of_block(struct block *b)
{
	struct pending *p = pending_new(1);

	if (p == NULL)
		return NULL;
	p->segments[0] = segment_of(b);
	if (p->segments[0] == NULL) {
		memory_free(p);
		return NULL;
	}
	p->n = 1;
	p->until = b->seq + b->messages;
	return p;
}

uint64_t pending_bytes(const struct pending *p, uint64_t max)
{
	struct place at = { p->at, p->block, p->segments[p->at]->blocks[p->block]->seq };
	uint64_t bytes = 0;

	/* How many bytes the last segment has only its home knows. */
	for (; at.segment + 1 < p->n && bytes < max; at.segment++, at.block = 0)
		bytes += p->segments[at.segment]->bytes;
	if (at.block == 0)
		at.seq = p->segments[at.segment]->seq;
	while (at.seq < p->until && bytes < max) {
		const struct block *b = pending_block(p, &at);

		bytes += block_bytes(b);
		pending_go_on(p, &at, b->seq + b->messages);
	}
	return bytes;
}

void pending_free(struct pending *p)
{
	if (p == NULL)
		return;
	while (p->at < p->n)
		segment_unref(p->segments[p->at++]);
	memory_free(p);
}
