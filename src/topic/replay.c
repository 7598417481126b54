#include <assert.h>
#include <errno.h>
#include <string.h>

#include "topic/block.h"
#include "topic/chunk.h"
#include "topic/pending.h"
#include "topic/stream.h"

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
	*begin =
		stream_put_in_front(s, p, past->from, next->first - (next->seq - past->from), next);
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
		err = stream_split_pending(s, c, past->from);
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
	c = stream_put_in_front(s, p, of->seq, first, next);
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
