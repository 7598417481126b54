#include "topic/stream.h"

#include <errno.h>
#include <string.h>

#include "base/memory.h"
#include "topic/block.h"
#include "topic/chunk.h"
#include "topic/history.h"
#include "topic/pending.h"

enum {
	/* Encoded at once, when the first cursor comes to it: about as much as a few sends of it
	 * take. */
	PORTION_BYTES = 256 << 10,
	/* At most so much of it into a chunk that may have no more room than that: of chunks of
	 * 64 KiB little is wasted then, however much more than they need messages ask for. */
	RUN_BYTES = 16 << 10,
	RUN_MESSAGES = 1024,
	WORK_BYTES = 64,
	LIVE_CHUNK_BYTES = 64 << 10, /* if it is live, of which it is known how much it is */
	BLOCK_BYTES = 64, /* what a block costs beside its bytes, as if it were some more */
};

/* The messages from a place on that are in its block, or fewer: as many as are encoded at once. */
static struct run next_run(const struct stream *s, const struct pending *p, const struct place *at)
{
	struct block *b = pending_block(p, at);
	uint64_t end = b->seq + b->messages < p->until ? b->seq + b->messages : p->until;
	uint32_t first = (uint32_t)(at->seq - b->seq), n = (uint32_t)(end - at->seq);
	struct run run;

	/* What is sent from where it lies takes no room. */
	if (s->wire.format->lines_verbatim && b->form == RUN_LINES)
		return block_part(b, first, n);
	run = block_part(b, first, n < RUN_MESSAGES ? n : RUN_MESSAGES);
	while (run.messages > 1 && s->wire.format->encoded_max(&s->wire, &run) > RUN_BYTES) {
		size_t max = s->wire.format->encoded_max(&s->wire, &run);
		size_t fit = (size_t)run.messages * RUN_BYTES / max;

		n = fit < 1 ? 1 : fit < run.messages / 2 ? (uint32_t)fit : run.messages / 2;
		run = block_part(b, first, n);
	}
	return run;
}

/* Most bytes that what is live and pending from a number on, in one block, may come to. */
static size_t reserve(const struct stream *s, const struct pending *p, uint64_t seq, uint64_t until)
{
	struct block *b = p->segments[p->at]->blocks[p->block];
	struct run run = block_part(b, (uint32_t)(seq - b->seq), (uint32_t)(until - seq));

	return s->wire.format->encoded_max(&s->wire, &run);
}

/* A chunk in the stream's backlog from now on, as old as another one. */
static void make_live(struct stream *s, struct chunk *c, const struct chunk *like)
{
	c->live = true;
	c->opened_ns = like->opened_ns;
	s->bytes += chunk_bytes(c);
}

struct chunk *stream_put_in_front(struct stream *s, struct pending *p, uint64_t seq, uint64_t first,
				  struct chunk *next)
{
	struct chunk *c = chunk_new(0, 0, first);

	if (c == NULL)
		return NULL;
	c->stream = s;
	c->sealed = true;
	c->seq = seq;
	c->messages = p->until - seq;
	c->pending = p;
	c->next = next;
	c->next_pos = next->base;
	next->refs++;
	return c;
}

int stream_split_pending(struct stream *s, struct chunk *c, uint64_t seq)
{
	struct pending *front = c->pending, *back;
	struct place at = { front->at, front->block, c->seq };
	uint64_t base = 0;
	struct chunk *second;

	if (c->live) {
		base = c->next->base - reserve(s, front, seq, front->until);
		if (base < c->base + reserve(s, front, c->seq, seq))
			return -EAGAIN;
	}
	/* By segments first: there are many blocks in one. */
	while (at.segment + 1 < front->n && front->segments[at.segment + 1]->seq <= seq) {
		at.segment++;
		at.block = 0;
	}
	pending_go_on(front, &at, seq);
	back = pending_new(front->n - at.segment);
	if (back == NULL)
		return -ENOMEM;
	back->until = front->until;
	back->block = at.block;
	second = stream_put_in_front(s, back, seq, c->first + (seq - c->seq), c->next);
	if (second == NULL) {
		memory_free(back);
		return -ENOMEM;
	}
	second->base = base;
	if (c->live)
		make_live(s, second, c);
	second->messages = back->until - seq;
	back->n = front->n - at.segment;
	memcpy(back->segments, front->segments + at.segment, back->n * sizeof(back->segments[0]));
	/* The one it is cut in both need. */
	segment_ref(back->segments[0]);
	front->n = at.segment + 1;
	front->until = seq;
	c->messages -= second->messages;
	chunk_unref(c->next);
	c->next = second;
	c->next_pos = second->base;
	return 0;
}

/* Encodes from a place on into a chain of its own, as much as is worth doing at once, and moves the
 * place. *begin: the first chunk, held; NULL: none. -ENOMEM. */
static int encode_portion(struct stream *chain, const struct pending *p, struct place *at,
			  struct chunk **begin)
{
	uint64_t start = chain->pos;
	size_t looked_at = 0;

	*begin = NULL;
	while (at->seq < p->until && looked_at + (chain->pos - start) < PORTION_BYTES) {
		struct run run = next_run(chain, p, at);
		uint32_t messages = chain->wire.format->encodable(&chain->wire, &run);

		if (messages > 0 &&
		    stream_encode(chain, &run, messages, pending_block(p, at), 0, false) != 0)
			return -ENOMEM;
		/* The first chunk is held on to, or adding the second would free it. */
		if (*begin == NULL && chain->head != NULL) {
			*begin = chain->head;
			(*begin)->refs++;
		}
		chain->count += run.messages - messages;
		looked_at += BLOCK_BYTES + (messages < run.messages ? run.body.len : 0);
		chain->work += run.messages + run.body.len / WORK_BYTES;
		pending_go_on(p, at, run.seq + run.messages);
	}
	return 0;
}

/* Where what is left of live messages begins: as far behind as it may come to, if there is room. */
static uint64_t rest_base(const struct stream *s, const struct chunk *c, const struct place *at,
			  uint64_t end)
{
	uint64_t room = c->next->base - end;
	size_t most = reserve(s, c->pending, at->seq, c->pending->until);

	return most < room ? c->next->base - most : end;
}

static size_t live_capacity(const struct chunk *c)
{
	uint64_t reserved = c->next->base - c->base;

	return reserved < LIVE_CHUNK_BYTES ? (size_t)reserved : LIVE_CHUNK_BYTES;
}

int stream_encode_pending(struct stream *s, struct chunk *c)
{
	struct pending *p = c->pending;
	struct place at = { p->at, p->block, c->seq };
	struct chunk *begin, *rest = NULL;
	struct stream chain;

	stream_init(&chain, &s->wire);
	/* What is not live is below everything that is. */
	chain.pos = c->base;
	chain.count = c->first;
	if (c->live)
		chain.next_capacity = live_capacity(c);
	if (encode_portion(&chain, p, &at, &begin) != 0)
		goto fail;
	s->work += chain.work;
	if (at.seq < p->until) {
		rest = stream_put_in_front(s, p, at.seq, chain.count, c->next);
		if (rest == NULL)
			goto fail;
		if (c->live) {
			rest->base = rest_base(s, c, &at, chain.pos);
			make_live(s, rest, c);
		}
		while (p->at < at.segment)
			segment_unref(p->segments[p->at++]);
		p->block = at.block;
	} else {
		pending_free(p);
		rest = c->next;
		rest->refs++;
	}
	c->pending = NULL;
	c->messages = 0;
	chunk_unref(c->next);
	if (begin == NULL) {
		c->next = rest;
		c->next_pos = rest->base;
		return 0;
	}
	chain.head->sealed = true;
	chain.head->next = rest;
	for (struct chunk *k = begin; k != rest; k = k->next) {
		k->stream = s;
		k->next_pos = k->next->base;
		if (c->live)
			make_live(s, k, c);
	}
	c->next = begin;
	c->next_pos = begin->base;
	chunk_unref(chain.head);
	return 0;
fail:
	chunk_unref(begin);
	chunk_unref(chain.head);
	return -ENOMEM;
}
