#include <assert.h>
#include <errno.h>

#include "base/memory.h"
#include "topic/block.h"
#include "topic/chunk.h"
#include "topic/stream.h"

/* Encoded at once, when the first cursor comes to it: about as much as a few sends of it take. */
enum { PORTION_BYTES = 256 << 10 };

/* Those messages of a block whose numbers are from `from` to before `until`. */
static struct run piece(struct block *b, uint64_t from, uint64_t until)
{
	uint32_t first = from > b->seq ? (uint32_t)(from - b->seq) : 0;
	uint64_t end = b->seq + b->messages;

	return block_part(b, first, (uint32_t)((until < end ? until : end) - b->seq) - first);
}

static struct pending *pending_new(size_t n)
{
	struct pending *p = memory_new(sizeof(*p) + n * sizeof(p->blocks[0]));

	if (p != NULL)
		*p = (struct pending){ 0 };
	return p;
}

/* A chunk of what is still to be encoded, in front of another one; takes the pending over. */
static struct chunk *put_in_front(struct stream *s, struct pending *p, uint64_t seq, uint64_t first,
				  uint64_t messages, struct chunk *next)
{
	struct chunk *c = chunk_new(0, 0, first);

	if (c == NULL)
		return NULL;
	c->stream = s;
	c->sealed = true;
	c->seq = seq;
	c->messages = messages;
	c->pending = p;
	c->next = next;
	c->next_pos = next->base;
	next->refs++;
	return c;
}

/* Cuts what is pending in two before its i-th block: the second half begins with this number. */
static int split(struct stream *s, struct chunk *c, size_t i, uint64_t seq)
{
	struct pending *front = c->pending, *back = pending_new(front->n - i);
	struct chunk *second;
	uint64_t messages = 0;

	if (back == NULL)
		return -ENOMEM;
	back->until = front->until;
	for (size_t k = i; k < front->n; k++) {
		struct run run = piece(front->blocks[k], seq, front->until);

		messages += s->format->encodable(&run);
	}
	second = put_in_front(s, back, seq, c->first + c->messages - messages, messages, c->next);
	if (second == NULL) {
		memory_free(back);
		return -ENOMEM;
	}
	while (i + back->n < front->n) {
		back->blocks[back->n] = front->blocks[i + back->n];
		back->n++;
	}
	front->n = i;
	front->until = seq;
	c->messages -= messages;
	chunk_unref(c->next);
	c->next = second;
	c->next_pos = second->base;
	return 0;
}

int stream_encode_pending(struct stream *s, struct chunk *c)
{
	struct pending *p = c->pending;
	struct chunk *encoded = NULL, *rest = NULL;
	struct stream chain;
	size_t i = p->at;

	stream_init(&chain, s->format);
	/* Below everything that is live. */
	chain.pos = 0;
	chain.count = c->first;
	for (; i < p->n && chain.pos < PORTION_BYTES; i++) {
		struct run run = piece(p->blocks[i], c->seq, p->until);
		uint32_t messages = s->format->encodable(&run);

		/* The first chunk is held on to, or adding the second would free it. */
		if (stream_encode(&chain, &run, messages, p->blocks[i], 0, false) != 0)
			goto fail;
		if (encoded == NULL) {
			encoded = chain.head;
			encoded->refs++;
		}
	}
	if (i < p->n) {
		rest = put_in_front(s, p, p->blocks[i]->seq, chain.count,
				    c->first + c->messages - chain.count, c->next);
		if (rest == NULL)
			goto fail;
	}
	while (p->at < i)
		block_unref(p->blocks[p->at++]);
	if (rest == NULL)
		pending_free(p);
	c->pending = NULL;
	c->messages = 0;
	if (rest == NULL && encoded == NULL)
		return 0;
	if (rest == NULL) {
		rest = c->next;
		rest->refs++;
	}
	chain.head->sealed = true;
	chain.head->next = rest;
	for (struct chunk *k = encoded; k != rest; k = k->next) {
		k->stream = s;
		k->next_pos = k->next->base;
	}
	chunk_unref(c->next);
	c->next = encoded;
	c->next_pos = encoded->base;
	chunk_unref(chain.head);
	return 0;
fail:
	chunk_unref(encoded);
	chunk_unref(chain.head);
	return -ENOMEM;
}

uint64_t stream_whole_from(const struct stream *s)
{
	return s->whole != NULL ? s->whole->seq : 0;
}

/* The last chunk that begins with this number or before it; NULL: none does. */
static struct chunk *chunk_at(const struct stream *s, uint64_t seq)
{
	struct chunk *found = NULL;

	for (struct chunk *c = s->whole; c != NULL && c->seq <= seq; c = c->next)
		found = c;
	return found;
}

/* Has a number that lies within what a chunk has pending begin a chunk, or be within an encoded
 * one. */
static int single_out(struct stream *s, struct chunk *c, uint64_t seq)
{
	struct pending *p = c->pending;
	size_t i = p->at;

	while (p->blocks[i]->seq + p->blocks[i]->messages <= seq)
		i++;
	if (i == p->at)
		return stream_encode_pending(s, c);
	return split(s, c, i, p->blocks[i]->seq < seq ? p->blocks[i]->seq : seq);
}

/* Whether all that a chunk has pending comes before this number. */
static bool is_past(const struct pending *p, uint64_t seq)
{
	const struct block *b = p->blocks[p->n - 1];

	return b->seq + b->messages <= seq;
}

/* Puts the past in front of a chunk as far as that begins later: a chunk of what is to be encoded,
 * or, if none of it can be, that chunk itself. Held. */
static int reach_back(struct stream *s, struct chunk *next, const struct past *past,
		      struct chunk **begin)
{
	struct pending *p = pending_new(past->blocks_n);
	uint64_t messages = 0, covered = past->from;

	if (p == NULL)
		return -ENOMEM;
	p->until = next->seq;
	for (size_t i = 0; i < past->blocks_n; i++) {
		struct block *b = past->blocks[i];
		struct run run;
		uint32_t n;

		if (b->seq >= next->seq)
			break;
		if (b->seq + b->messages <= past->from)
			continue;
		covered = b->seq + b->messages;
		run = piece(b, past->from, next->seq);
		n = s->format->encodable(&run);
		if (n == 0)
			continue;
		block_ref(b, 1);
		p->blocks[p->n++] = b;
		messages += n;
	}
	if (covered < next->seq || p->n == 0) {
		pending_free(p);
		*begin = next;
		next->refs++;
		return covered < next->seq ? -EAGAIN : 0;
	}
	*begin = put_in_front(s, p, past->from, next->first - messages, messages, next);
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
	struct chunk *c, *next;
	int err;

	while ((c = chunk_at(s, past->from)) != NULL && c->pending != NULL && c->seq < past->from) {
		if (is_past(c->pending, past->from)) {
			/* What is left before the next one has no form. */
			c = c->next;
			break;
		}
		err = single_out(s, c, past->from);
		if (err != 0)
			return err;
	}
	if (c == NULL)
		return reach_back(s, s->whole, past, begin);
	if (!c->uneven || c->seq >= past->from) {
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

int stream_join_replay(struct stream *s, struct cursor *c, const struct past *past,
		       uint64_t *messages, uint64_t *unencodable)
{
	struct chunk *begin = NULL;
	size_t at;
	uint64_t skip;
	int err;

	*messages = *unencodable = 0;
	if (past->from == past->next)
		return stream_join(s, c);
	if (s->next_seq != past->next)
		stream_begin_anew(s, past->next);
	if (s->whole == NULL && !stream_add_head(s))
		return -ENOMEM;
	err = find_begin(s, past, &begin);
	if (err != 0) {
		chunk_unref(begin);
		return err;
	}
	/* Begins later: what comes before has no form. */
	skip = past->from > begin->seq && begin->pending == NULL ? past->from - begin->seq : 0;
	if (skip > begin->messages)
		skip = begin->messages;
	at = chunk_skip(s->format, begin, skip);
	*c = (struct cursor){ .chunk = begin,
			      .pos = begin->base + at,
			      .live_pos = s->pos,
			      .counted = begin->first + skip };
	list_init(&c->link);
	s->cursors++;
	*messages = s->count - c->counted;
	*unencodable = past->next - past->from - *messages;
	stream_unhold(s, c);
	return 0;
}
