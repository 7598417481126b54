#include "topic/stream.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "topic/block.h"
#include "topic/chunk.h"
#include "topic/pending.h"

enum {
	CHUNK_BYTES_MAX = 64 << 10,
	/* What comes to more, with what waits already, is encoded piece by piece when it is sent,
	 * if it grows so many times by that. What is small is not worth it. */
	ENCODED_AHEAD_BYTES = 256 << 10,
	GROWS = 2,
	SMALL_BYTES = 1 << 10,
	FEW_MESSAGES = 32
};

/* Numbering starts high: below is room for what is replayed. */
#define NUMBERING_START (UINT64_C(1) << 62)

void stream_init(struct stream *s, const struct wire *wire)
{
	*s = (struct stream){ .wire = *wire,
			      .pos = NUMBERING_START,
			      .count = NUMBERING_START,
			      .next_capacity = CHUNK_BYTES_MIN };
	list_init(&s->idle);
	list_init(&s->ready);
	list_init(&s->replaying);
	list_init(&s->busy);
	list_init(&s->dirty);
	list_init(&s->replays);
	list_init(&s->active);
	list_init(&s->appended);
}

void stream_release(struct stream *s)
{
	assert(list_empty(&s->idle) && list_empty(&s->ready) && list_empty(&s->replaying) &&
	       list_empty(&s->busy));
	chunk_unref(s->head);
	s->head = NULL;
	list_remove(&s->dirty);
	list_remove(&s->replays);
	list_remove(&s->active);
	list_remove(&s->appended);
}

bool stream_all_idle(const struct stream *s)
{
	return list_empty(&s->ready) && list_empty(&s->replaying) && list_empty(&s->busy) &&
	       s->pins == 0;
}

/* Puts a new chunk at the head. */
static struct chunk *add_chunk(struct stream *s, size_t capacity, bool counts)
{
	struct chunk *c = chunk_new(capacity, s->pos, s->count);

	if (c == NULL)
		return NULL;
	s->chunks++;
	if (s->head == NULL) {
		/* Cursors of a stream that held nothing stand at the start of its first chunk
		 * without knowing it. */
		if (counts)
			c->refs += s->cursors;
		s->tail = c;
	} else {
		s->head->sealed = true;
		s->head->next = c;
		s->head->next_pos = c->base;
		c->refs++;
		chunk_unref(s->head);
	}
	s->head = c;
	c->seq = s->next_seq;
	if (counts) {
		c->stream = s;
		c->live = true;
	}
	if (s->whole == NULL)
		s->whole = c;
	return c;
}

/* Whether where messages end must be noted, for their bytes do not say it. */
static bool notes_ends(const struct stream *s)
{
	return s->wire.format->boundary == NULL;
}

static size_t room_left(const struct stream *s, const struct chunk *c)
{
	return c->capacity - c->used - (notes_ends(s) ? c->messages * CHUNK_END_BYTES : 0);
}

/* A chunk at the head with room for so many bytes: the warm one, from its start if every cursor has
 * seen all of it. */
static struct chunk *room(struct stream *s, size_t need, uint64_t now_ns, bool counts)
{
	struct chunk *c = s->head;

	if (c != NULL && !c->sealed) {
		if (counts && stream_all_idle(s) && c == s->tail && c->refs == 1 + s->cursors) {
			c->base = s->pos;
			c->first = s->count;
			c->used = 0;
			c->messages = 0;
			c->seq = s->next_seq;
			c->uneven = false;
			c->opened_ns = now_ns;
			s->rewinds++;
		}
		if (room_left(s, c) >= need)
			return c;
		if (c->used > 0 && s->next_capacity < CHUNK_BYTES_MAX)
			s->next_capacity *= 2;
	}
	c = add_chunk(s, need > s->next_capacity ? need : s->next_capacity, counts);
	if (c == NULL)
		return NULL;
	c->opened_ns = now_ns;
	if (counts)
		s->bytes += chunk_bytes(c);
	return c;
}

static int append_reference(struct stream *s, const struct run *run, uint32_t messages,
			    struct block *block, uint64_t now_ns, bool counts)
{
	char prefix[WIRE_AROUND_MAX], suffix[WIRE_AROUND_MAX];
	size_t prefix_len, suffix_len;
	struct span body;
	struct chunk *c;

	s->wire.format->enclose(&s->wire, run, prefix, &prefix_len, &body, suffix, &suffix_len);
	c = add_chunk(s, prefix_len + suffix_len, counts);
	if (c == NULL)
		return -ENOMEM;
	memcpy(c->data, prefix, prefix_len);
	memcpy(c->data + prefix_len, suffix, suffix_len);
	c->prefix_len = prefix_len;
	c->suffix_len = suffix_len;
	c->body = body;
	c->bytes = prefix_len + suffix_len == 0 ? body.data : NULL;
	c->block = block;
	block_ref(block, 1);
	c->used = prefix_len + body.len + suffix_len;
	c->messages = messages;
	c->seq = run->seq;
	c->opened_ns = now_ns;
	c->sealed = true;
	if (counts)
		s->bytes += chunk_bytes(c);
	s->pos += c->used;
	s->count += c->messages;
	return 0;
}

/* Whether not copying saves more than a chunk of its own costs. */
static bool worth_referring(const struct wire *wire, const struct run *run)
{
	const struct wire_format *format = wire->format;

	if (run->form == RUN_LINES && format->lines_verbatim)
		return run->body.len >= STREAM_REFERENCE_LINES_BYTES;
	return run->messages == 1 && run->body.len >= STREAM_REFERENCE_BYTES &&
	       format->enclose != NULL &&
	       (format->enclosable == NULL || format->enclosable(wire, run));
}

/* So many of the run's messages have a form, and only these are counted: a cursor's count is then
 * what it finds by counting ends of messages (stream_settle). */
int stream_encode(struct stream *s, const struct run *run, uint32_t messages, struct block *block,
		  uint64_t now_ns, bool counts)
{
	struct chunk *c;
	size_t n;

	if (worth_referring(&s->wire, run))
		return append_reference(s, run, messages, block, now_ns, counts);
	c = room(s, s->wire.format->encoded_max(&s->wire, run), now_ns, counts);
	if (c == NULL)
		return -ENOMEM;
	if (c->messages == 0)
		c->seq = run->seq;
	if (c->seq + c->messages != run->seq || messages < run->messages)
		c->uneven = true;
	n = s->wire.format->encode(&s->wire, run, c->data + c->used);
	assert(n <= room_left(s, c));
	if (notes_ends(s))
		chunk_note_ends(c, run);
	c->used += n;
	c->messages += messages;
	s->pos += n;
	s->count += messages;
	return 0;
}

/* Whether the messages would take so much more room than where they lie that they are better kept
 * there until somebody comes to them. */
static bool worth_waiting(const struct stream *s, const struct run *run)
{
	size_t max;

	if (run->messages < FEW_MESSAGES || worth_referring(&s->wire, run))
		return false;
	max = s->wire.format->encoded_max(&s->wire, run);
	return max > SMALL_BYTES && s->bytes + max > ENCODED_AHEAD_BYTES &&
	       max / GROWS > run->body.len;
}

/* Puts a block at the head as what is still to be encoded, and an empty chunk for those who stand
 * behind it. */
static int append_pending(struct stream *s, const struct run *run, struct block *block,
			  uint64_t now_ns)
{
	struct chunk *c = add_chunk(s, 0, true);
	size_t max = s->wire.format->encoded_max(&s->wire, run);

	/* If it comes to nothing, an empty chunk is in nobody's way. */
	if (c == NULL)
		return -ENOMEM;
	c->opened_ns = now_ns;
	c->sealed = true;
	s->bytes += chunk_bytes(c);
	c->pending = pending_of_block(block);
	if (c->pending == NULL)
		return -ENOMEM;
	c->messages = run->messages;
	s->pos += max;
	s->count += run->messages;
	/* Where nobody stands the one before goes at once. */
	if (add_chunk(s, 0, true) == NULL) {
		s->pos -= max;
		s->count -= run->messages;
		pending_free(c->pending);
		c->pending = NULL;
		c->messages = 0;
		return -ENOMEM;
	}
	/* Something small may follow, and then more of this. */
	s->next_capacity = CHUNK_BYTES_MIN;
	s->head->seq = run->seq + run->messages;
	s->head->opened_ns = now_ns;
	s->bytes += chunk_bytes(s->head);
	return 0;
}

void stream_begin_anew(struct stream *s, uint64_t seq)
{
	s->next_seq = seq;
	s->whole = NULL;
	if (s->head != NULL)
		s->head->sealed = true;
}

bool stream_add_head(struct stream *s)
{
	if (s->head != NULL)
		s->head->sealed = true;
	return room(s, 1, s->appended_ns, true) != NULL;
}

/* Of the block's messages, those in the run. */
static uint32_t append_run(struct stream *s, const struct run *run, struct block *block,
			   uint64_t now_ns, int *error)
{
	uint32_t messages = s->wire.format->encodable(&s->wire, run);

	*error = 0;
	if (messages == 0) {
		s->next_seq += run->messages;
		return 0;
	}
	/* What waits is a whole block. */
	if (run->messages == block->messages && worth_waiting(s, run)) {
		messages = run->messages;
		*error = append_pending(s, run, block, now_ns);
	} else {
		*error = stream_encode(s, run, messages, block, now_ns, true);
	}
	if (*error != 0)
		return 0;
	s->next_seq += run->messages;
	s->appended_ns = now_ns;
	list_splice(&s->ready, &s->idle);
	return messages;
}

uint32_t stream_append(struct stream *s, struct block *block, uint64_t now_ns, int *error)
{
	struct run run = block_run(block);

	if (s->unnumbered)
		s->next_seq = run.seq;
	/* Something was published while nobody here wanted it, or there was no memory for it. */
	else if (run.seq != s->next_seq)
		stream_begin_anew(s, run.seq);
	return append_run(s, &run, block, now_ns, error);
}

uint32_t stream_append_part(struct stream *s, struct block *block, uint32_t first,
			    uint32_t messages, uint64_t now_ns, int *error)
{
	struct run run = block_part(block, first, messages);

	if (s->unnumbered)
		s->next_seq = run.seq;
	else if (run.seq != s->next_seq)
		stream_begin_anew(s, run.seq);
	return append_run(s, &run, block, now_ns, error);
}

bool stream_tell_gap(struct stream *s, uint64_t epoch, uint64_t number, uint64_t seq,
		     uint64_t now_ns)
{
	char text[WIRE_AROUND_MAX];
	struct chunk *c;
	size_t n;

	if (s->wire.format->gap == NULL)
		return false;
	n = s->wire.format->gap(&s->wire, epoch, number, text);
	c = room(s, n, now_ns, true);
	if (c == NULL)
		return false;
	memcpy(c->data + c->used, text, n);
	c->used += n;
	c->messages++;
	c->uneven = true;
	s->pos += n;
	s->count++;
	/* Whoever comes later and wants the past is not placed before it. */
	stream_begin_anew(s, seq);
	s->appended_ns = now_ns;
	list_splice(&s->ready, &s->idle);
	return true;
}
