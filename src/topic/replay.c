#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/memory.h"
#include "topic/block.h"
#include "topic/chunk.h"
#include "topic/history.h"
#include "topic/stream.h"

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

/* ---- what is pending ---- */

/* A place in what is pending: a number, and the block that holds it. */
struct place {
	uint32_t segment, block;
	uint64_t seq;
};

static struct block *block_at(const struct pending *p, const struct place *at)
{
	return p->segments[at->segment]->blocks[at->block];
}

/* Moves to a later number, to which everything before it has been looked at. How many blocks the
 * last segment has only its home knows, but there is one for each number before `until`. */
static void go_on(const struct pending *p, struct place *at, uint64_t seq)
{
	at->seq = seq;
	while (seq < p->until) {
		const struct block *b = block_at(p, at);

		if (seq < b->seq + b->messages)
			return;
		at->block++;
		if (at->segment + 1 < p->n && at->block == p->segments[at->segment]->n) {
			at->segment++;
			at->block = 0;
		}
	}
}

/* The messages from a place on that are in its block, or fewer: as many as are encoded at once. */
static struct run next_run(const struct stream *s, const struct pending *p, const struct place *at)
{
	struct block *b = block_at(p, at);
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

static struct pending *pending_new(uint32_t segments)
{
	struct pending *p = memory_new(sizeof(*p) + segments * sizeof(p->segments[0]));

	if (p != NULL)
		*p = (struct pending){ 0 };
	return p;
}

/* What a stretch, which begins with the block of number seq, holds before another number. */
static struct pending *pending_of(const struct stretch *from, uint64_t until)
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

/* A chunk of what is still to be encoded, in front of another one; takes the pending over. */
static struct chunk *put_in_front(struct stream *s, struct pending *p, uint64_t seq, uint64_t first,
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

/* Cuts what is pending in two before this number. -EAGAIN: there is not room for what both may come
 * to in what is reserved for them together. */
static int split(struct stream *s, struct chunk *c, uint64_t seq)
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
	go_on(front, &at, seq);
	back = pending_new(front->n - at.segment);
	if (back == NULL)
		return -ENOMEM;
	back->until = front->until;
	back->block = at.block;
	second = put_in_front(s, back, seq, c->first + (seq - c->seq), c->next);
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
		    stream_encode(chain, &run, messages, block_at(p, at), 0, false) != 0)
			return -ENOMEM;
		/* The first chunk is held on to, or adding the second would free it. */
		if (*begin == NULL && chain->head != NULL) {
			*begin = chain->head;
			(*begin)->refs++;
		}
		chain->count += run.messages - messages;
		looked_at += BLOCK_BYTES + (messages < run.messages ? run.body.len : 0);
		chain->work += run.messages + run.body.len / WORK_BYTES;
		go_on(p, at, run.seq + run.messages);
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
		rest = put_in_front(s, p, at.seq, chain.count, c->next);
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
		const struct block *b = block_at(p, &at);

		bytes += block_bytes(b);
		go_on(p, &at, b->seq + b->messages);
	}
	return bytes;
}

/* ---- joining ---- */

/* The last chunk that begins with this number or before it; NULL: none does. */
static struct chunk *chunk_at(const struct stream *s, uint64_t seq)
{
	struct chunk *found = NULL;

	for (struct chunk *c = s->whole; c != NULL && c->seq <= seq; c = c->next)
		found = c;
	return found;
}

/* Puts the past in front of a chunk as far as that begins later: a chunk of what is to be encoded.
 * Held. */
static int reach_back(struct stream *s, struct chunk *next, const struct past *past,
		      struct chunk **begin)
{
	struct pending *p = pending_of(past->held, next->seq);

	if (p == NULL)
		return -ENOMEM;
	*begin = put_in_front(s, p, past->from, next->first - (next->seq - past->from), next);
	if (*begin == NULL) {
		pending_free(p);
		return -ENOMEM;
	}
	if (s->whole == next)
		s->whole = *begin;
	return 0;
}

/* The chunk to begin in, held: one that there is, or a new one in front. */
static int find_begin(struct stream *s, const struct past *past, struct chunk **begin)
{
	struct chunk *c = chunk_at(s, past->from), *next;
	int err;

	if (c == NULL)
		return reach_back(s, s->whole, past, begin);
	if (c->pending != NULL && c->seq < past->from) {
		err = split(s, c, past->from);
		if (err != 0 && err != -EAGAIN)
			return err;
		c = err == 0 ? c->next : c;
	}
	if (c->seq >= past->from || (!c->uneven && c->pending == NULL)) {
		*begin = c;
		c->refs++;
		return 0;
	}
	/* Nobody can say where in it that is: a way of its own, to where the next one begins. */
	next = c->next;
	if (next == NULL) {
		/* It may go with that, if nobody stands in it. */
		if (!stream_add_head(s))
			return -ENOMEM;
		next = s->head;
	}
	return reach_back(s, next, past, begin);
}

/* Where a cursor stands that begins with this number in a chunk: how many messages of it have gone
 * before, by what is sent and, with those that have no form, by what is counted. */
static void stand_in(const struct stream *s, struct cursor *c, struct chunk *begin, uint64_t seq)
{
	uint64_t before = begin->pending == NULL ? seq - begin->seq : 0;
	uint64_t end = begin->next != NULL ? begin->next->first : s->count;
	uint64_t skip = before < begin->messages ? before : begin->messages;

	*c = (struct cursor){ .chunk = begin,
			      .pos = begin->base + chunk_skip(s->wire.format, begin, skip),
			      .live_pos = s->pos,
			      .counted = begin->first + before };
	/* What is published now counts those that have a form only. */
	if (c->counted > end)
		c->counted = end;
	list_init(&c->link);
}

int stream_join_replay(struct stream *s, struct cursor *c, const struct past *past,
		       uint64_t *unencodable)
{
	struct chunk *begin = NULL;
	int err;

	*unencodable = 0;
	if (past->from == past->next)
		return stream_join(s, c);
	if (s->next_seq != past->next)
		stream_begin_anew(s, past->next);
	if (s->whole == NULL && !stream_add_head(s))
		return -ENOMEM;
	err = find_begin(s, past, &begin);
	if (err != 0)
		return err;
	stand_in(s, c, begin, past->from);
	*unencodable = past->next - past->from - (s->count - c->counted);
	s->cursors++;
	stream_unhold(s, c);
	return 0;
}

/* A chunk with one message that is still to be encoded, in front of another one, whose hold by the
 * caller it takes over. NULL: out of memory. */
static struct chunk *one_in_front(struct stream *s, const struct newest *of, uint64_t first,
				  struct chunk *next)
{
	struct pending *p = pending_of_block(of->block);
	struct chunk *c;

	if (p == NULL)
		return NULL;
	p->until = of->seq + 1;
	c = put_in_front(s, p, of->seq, first, next);
	if (c == NULL)
		pending_free(p);
	else
		chunk_unref(next);
	return c;
}

int stream_join_pinned(struct stream *s, struct cursor *c, struct cursor *pin,
		       const struct newest *newest, uint32_t n, uint64_t *messages)
{
	struct chunk *begin = pin->chunk;
	uint64_t first = pin->counted - n;

	pin->chunk = NULL;
	s->pins--;
	for (uint32_t i = n; i-- > 0;) {
		struct chunk *front = one_in_front(s, &newest[i], first + i, begin);

		if (front == NULL) {
			chunk_unref(begin);
			return -ENOMEM;
		}
		begin = front;
	}
	*messages = s->count - first;
	*c = (struct cursor){ .chunk = begin,
			      .pos = n > 0 ? begin->base : pin->pos,
			      .live_pos = pin->pos,
			      .counted = first };
	list_init(&c->link);
	s->cursors++;
	stream_unhold(s, c);
	return 0;
}
