#include "topic/stream.h"

#include <assert.h>
#include <errno.h>

#include "base/memory.h"
#include "topic/block.h"

enum { CHUNK_BYTES_MIN = 2 << 10, CHUNK_BYTES_MAX = 64 << 10 };

/* Numbering starts high, so that a replay can number backwards from where it joins. */
#define NUMBERING_START (UINT64_C(1) << 62)

struct chunk {
	struct chunk *next;
	struct stream *stream; /* in whose backlog it counts; NULL: a replay's, or a cursor's own */
	uint32_t refs;
	bool sealed;    /* nothing more will be written */
	bool detached;  /* a cursor's own, in front of wherever the head will be then */
	uint64_t base;  /* position of its first byte */
	uint64_t first; /* messages before it */
	uint64_t messages;
	uint64_t next_pos; /* where its reader goes on in next */
	uint64_t opened_ns;
	size_t used, capacity; /* used: readable bytes, the referenced body included */
	/* One referenced message: data holds prefix and suffix, the body lies in the block between
	 * them. */
	struct block *block;
	struct span body;
	size_t prefix_len, suffix_len;
	char data[];
};

static size_t chunk_bytes(const struct chunk *c)
{
	return sizeof(*c) + c->capacity + c->body.len;
}

static uint64_t chunk_end(const struct chunk *c)
{
	return c->base + c->used;
}

static struct chunk *chunk_new(size_t capacity, uint64_t base, uint64_t first)
{
	struct chunk *c = memory_new(sizeof(*c) + capacity);

	if (c == NULL)
		return NULL;
	*c = (struct chunk){ .refs = 1, .base = base, .first = first, .capacity = capacity };
	return c;
}

static void chunk_unref(struct chunk *c)
{
	while (c != NULL) {
		struct chunk *next = c->next;

		assert(c->refs > 0);
		if (--c->refs > 0)
			return;
		if (c->stream != NULL) {
			assert(c->stream->tail == c);
			c->stream->tail = next;
			c->stream->bytes -= chunk_bytes(c);
		}
		if (c->block != NULL)
			block_unref(c->block);
		memory_free(c);
		c = next;
	}
}

void stream_init(struct stream *s, const struct wire_format *format)
{
	*s = (struct stream){ .format = format,
			      .pos = NUMBERING_START,
			      .count = NUMBERING_START,
			      .next_capacity = CHUNK_BYTES_MIN };
	list_init(&s->idle);
	list_init(&s->ready);
	list_init(&s->busy);
	list_init(&s->dirty);
	list_init(&s->active);
	list_init(&s->appended);
}

void stream_release(struct stream *s)
{
	assert(list_empty(&s->idle) && list_empty(&s->ready) && list_empty(&s->busy));
	chunk_unref(s->head);
	s->head = NULL;
	list_remove(&s->dirty);
	list_remove(&s->active);
	list_remove(&s->appended);
}

static bool all_idle(const struct stream *s)
{
	return list_empty(&s->ready) && list_empty(&s->busy);
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
	if (counts)
		c->stream = s;
	return c;
}

/* A chunk at the head with room for so many bytes: the warm one, from its start if every cursor has
 * seen all of it. */
static struct chunk *room(struct stream *s, size_t need, uint64_t now_ns, bool counts)
{
	struct chunk *c = s->head;

	if (c != NULL && !c->sealed) {
		if (counts && all_idle(s) && c == s->tail && c->refs == 1 + s->cursors) {
			c->base = s->pos;
			c->first = s->count;
			c->used = 0;
			c->messages = 0;
			c->opened_ns = now_ns;
			s->rewinds++;
		}
		if (c->capacity - c->used >= need)
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

static int append_reference(struct stream *s, const struct run *run, struct block *block,
			    uint64_t now_ns, bool counts)
{
	char prefix[WIRE_AROUND_MAX], suffix[WIRE_AROUND_MAX];
	size_t prefix_len, suffix_len;
	struct span body;
	struct chunk *c;

	s->format->enclose(run, prefix, &prefix_len, &body, suffix, &suffix_len);
	c = add_chunk(s, prefix_len + suffix_len, counts);
	if (c == NULL)
		return -ENOMEM;
	memcpy(c->data, prefix, prefix_len);
	memcpy(c->data + prefix_len, suffix, suffix_len);
	c->prefix_len = prefix_len;
	c->suffix_len = suffix_len;
	c->body = body;
	c->block = block;
	block_ref(block, 1);
	c->used = prefix_len + body.len + suffix_len;
	c->messages = run->messages;
	c->opened_ns = now_ns;
	c->sealed = true;
	if (counts)
		s->bytes += chunk_bytes(c);
	s->pos += c->used;
	s->count += c->messages;
	return 0;
}

/* Whether not copying saves more than a chunk of its own costs. */
static bool worth_referring(const struct wire_format *format, const struct run *run)
{
	if (run->lines && format->lines_verbatim)
		return run->body.len >= STREAM_REFERENCE_LINES_BYTES;
	return run->messages == 1 && run->body.len >= STREAM_REFERENCE_BYTES &&
	       format->enclose != NULL && (format->enclosable == NULL || format->enclosable(run));
}

static int append_run(struct stream *s, const struct run *run, struct block *block, uint64_t now_ns,
		      bool counts)
{
	struct chunk *c;
	size_t n;

	if (worth_referring(s->format, run))
		return append_reference(s, run, block, now_ns, counts);
	c = room(s, s->format->encoded_max(run), now_ns, counts);
	if (c == NULL)
		return -ENOMEM;
	n = s->format->encode(run, c->data + c->used);
	assert(n <= c->capacity - c->used);
	c->used += n;
	c->messages += run->messages;
	s->pos += n;
	s->count += run->messages;
	return 0;
}

bool stream_append(struct stream *s, struct block *block, uint64_t now_ns, int *error)
{
	struct run run = block_run(block, 0);

	*error = 0;
	if (!s->format->encodable(&run))
		return false;
	*error = append_run(s, &run, block, now_ns, true);
	if (*error != 0)
		return false;
	s->appended_ns = now_ns;
	list_splice(&s->ready, &s->idle);
	return true;
}

/* Puts the cursor at the head, holding it. */
static void stand_at_head(struct stream *s, struct cursor *c)
{
	c->chunk = s->head;
	if (s->head != NULL)
		s->head->refs++;
	c->pos = s->pos;
	c->counted = s->count;
}

int stream_join(struct stream *s, struct cursor *c)
{
	*c = (struct cursor){ 0 };
	stand_at_head(s, c);
	s->cursors++;
	list_append(&s->idle, &c->link);
	return 0;
}

/* A live chunk for a replay to lead into. */
static bool hold_head(struct stream *s, uint64_t now_ns)
{
	return s->head != NULL || room(s, 1, now_ns, true) != NULL;
}

int stream_join_replay(struct stream *s, struct cursor *c, struct block *const *blocks,
		       size_t blocks_n, uint32_t skip, uint64_t *messages, uint64_t *unencodable)
{
	struct stream chain;
	struct chunk *first;
	uint64_t bytes;

	*messages = 0;
	*unencodable = 0;
	stream_init(&chain, s->format);
	for (size_t i = 0; i < blocks_n; i++) {
		struct run run = block_run(blocks[i], i == 0 ? skip : 0);

		if (!s->format->encodable(&run)) {
			*unencodable += run.messages;
			continue;
		}
		/* The first chunk is held on to, or adding the second would free it. */
		if (append_run(&chain, &run, blocks[i], 0, false) != 0)
			goto fail;
		if (*messages == 0)
			chain.tail->refs++;
		*messages += run.messages;
	}
	if (*messages == 0)
		return stream_join(s, c);
	if (!hold_head(s, s->appended_ns))
		goto fail;
	first = chain.tail;
	bytes = chain.pos - NUMBERING_START;
	for (struct chunk *k = first; k != NULL; k = k->next) {
		k->base = k->base - NUMBERING_START + s->pos - bytes;
		k->first = k->first - NUMBERING_START + s->count - *messages;
		if (k->next != NULL)
			k->next_pos = chunk_end(k);
	}
	chain.head->sealed = true;
	chain.head->next = s->head;
	chain.head->next_pos = s->pos;
	s->head->refs++;
	*c = (struct cursor){
		.chunk = first, .pos = first->base, .live_pos = s->pos, .counted = first->first
	};
	chunk_unref(chain.head);
	s->cursors++;
	list_append(&s->ready, &c->link);
	return 0;
fail:
	if (*messages > 0)
		chunk_unref(chain.tail);
	chunk_unref(chain.head);
	return -ENOMEM;
}

/* A cursor that joined or rested while the stream held nothing stands in its first chunk. */
static void find_chunk(const struct stream *s, struct cursor *c)
{
	if (c->chunk == NULL && c->last_count == 0)
		c->chunk = s->tail;
}

/* Goes on to the next chunk if this one is used up. */
static void step(struct cursor *c)
{
	while (c->chunk != NULL && c->pos == chunk_end(c->chunk) && c->chunk->next != NULL &&
	       c->chunk != c->last) {
		struct chunk *from = c->chunk;

		c->pos = from->next_pos;
		c->chunk = from->next;
		c->chunk->refs++;
		chunk_unref(from);
	}
}

bool stream_at_end(const struct stream *s, const struct cursor *c)
{
	if (c->chunk == NULL)
		return c->last_count != 0 || c->pos == s->pos;
	if (c->pos != chunk_end(c->chunk))
		return false;
	return c->chunk == c->last || c->chunk->next == NULL;
}

void stream_leave(struct stream *s, struct cursor *c)
{
	assert(c->last_count == 0);
	find_chunk(s, c);
	step(c);
	s->cursors--;
	if (stream_at_end(s, c)) {
		c->last_count = s->count;
		chunk_unref(c->chunk);
		c->chunk = NULL;
		stream_hold(s, c);
		return;
	}
	c->last_count = s->count;
	/* What is appended from now on goes elsewhere. */
	s->head->sealed = true;
	c->last = s->head;
}

/* The first end of a message at or after an offset into a chunk. */
static size_t boundary(const struct stream *s, const struct chunk *k, size_t at)
{
	struct span lines = k->block == NULL ? (struct span){ k->data, k->used } : k->body;

	/* One message, between prefix and suffix or what is left of one. */
	if (k->detached || (k->block != NULL && k->messages == 1))
		return at == 0 ? 0 : k->used;
	return s->format->boundary(lines, at);
}

uint64_t stream_settle(struct stream *s, struct cursor *c)
{
	const struct chunk *k = c->chunk;
	uint64_t counted = c->counted;
	size_t at, end = 0;

	if (k == NULL)
		return 0;
	at = (size_t)(c->pos - k->base);
	for (counted = k->first; end < at && (end = boundary(s, k, end + 1)) <= at; counted++)
		;
	if (counted <= c->counted)
		return 0;
	counted -= c->counted;
	c->counted += counted;
	return counted;
}

uint64_t stream_remove(struct stream *s, struct cursor *c)
{
	uint64_t end = c->last_count != 0 ? c->last_count : s->count;

	find_chunk(s, c);
	list_remove(&c->link);
	if (c->last_count == 0)
		s->cursors--;
	chunk_unref(c->chunk);
	c->chunk = NULL;
	return end - c->counted;
}

unsigned stream_gather(struct stream *s, struct cursor *c, struct iovec *spans, unsigned max)
{
	uint64_t pos;
	unsigned n = 0;

	find_chunk(s, c);
	step(c);
	list_remove(&c->link);
	list_append(&s->busy, &c->link);
	c->goal_bytes = 0;
	c->goal_count = c->counted;
	pos = c->pos;
	for (const struct chunk *k = c->chunk; k != NULL && n + 3 <= max;
	     pos = k->next_pos, k = k->next) {
		size_t at = (size_t)(pos - k->base), left = k->used - at, before = c->goal_bytes;

		if (left > 0 && k->block == NULL) {
			size_t piece = left < STREAM_SEND_BYTES ? left : STREAM_SEND_BYTES;

			if (c->goal_bytes > 0 && c->goal_bytes + left > STREAM_SEND_BYTES)
				break;
			/* The data is only read by the kernel; iovec knows no const. */
			spans[n++] = (struct iovec){ (void *)(uintptr_t)(k->data + at), piece };
			c->goal_bytes += piece;
			if (piece < left)
				break;
		} else if (left > 0) {
			const struct span parts[3] = { { k->data, k->prefix_len },
						       k->body,
						       { k->data + k->prefix_len, k->suffix_len } };
			size_t piece =
				left <= STREAM_SEND_PIECE_MAX ? left : STREAM_SEND_PIECE_BYTES;

			if (c->goal_bytes > 0 && c->goal_bytes + left > STREAM_SEND_BYTES)
				break;
			for (int i = 0; i < 3 && piece > 0; i++) {
				struct span part = parts[i];

				if (at >= part.len) {
					at -= part.len;
					continue;
				}
				part = span_skip(part, at);
				at = 0;
				if (part.len > piece)
					part.len = piece;
				piece -= part.len;
				c->goal_bytes += part.len;
				spans[n++] =
					(struct iovec){ (void *)(uintptr_t)part.data, part.len };
			}
			if (c->goal_bytes - before < left)
				break;
		}
		c->goal_count = k->first + k->messages;
		/* What follows a rest may change while that is in flight (stream_skip). */
		if (k == c->last || k->detached)
			break;
	}
	return n;
}

uint64_t stream_sent(struct stream *s, struct cursor *c, size_t bytes)
{
	bool whole = bytes == c->goal_bytes;
	uint64_t before = c->counted;

	assert(bytes <= c->goal_bytes);
	while (bytes > 0) {
		size_t left = (size_t)(chunk_end(c->chunk) - c->pos),
		       n = bytes < left ? bytes : left;

		c->pos += n;
		bytes -= n;
		if (bytes > 0)
			step(c);
	}
	if (whole)
		c->counted = c->goal_count;
	else if (c->chunk->first > c->counted)
		c->counted = c->chunk->first;
	c->goal_bytes = 0;
	stream_unhold(s, c);
	return c->counted - before;
}

void stream_hold(struct stream *s, struct cursor *c)
{
	list_remove(&c->link);
	list_append(&s->busy, &c->link);
}

void stream_unhold(struct stream *s, struct cursor *c)
{
	find_chunk(s, c);
	step(c);
	list_remove(&c->link);
	if (!stream_at_end(s, c))
		list_append(&s->ready, &c->link);
	else if (c->last_count != 0)
		list_append(&s->busy, &c->link);
	else
		list_append(&s->idle, &c->link);
}

uint64_t cursor_lag(const struct stream *s, const struct cursor *c)
{
	uint64_t pos = cursor_detached(c) ? c->chunk->next_pos : c->pos;

	return s->pos - (pos < c->live_pos ? c->live_pos : pos);
}

uint64_t cursor_backlog(const struct stream *s, const struct cursor *c)
{
	if (c->last_count != 0)
		return c->last != NULL ? chunk_end(c->last) - c->pos : 0;
	return s->pos - c->pos;
}

uint64_t stream_ready_lag(const struct stream *s)
{
	if (list_empty(&s->ready))
		return 0;
	return cursor_lag(s, LIST_ENTRY(s->ready.next, struct cursor, link));
}

bool stream_overrun(const struct stream *s, size_t bytes_max)
{
	uint64_t oldest = s->oldest_pos;

	if (s->tail == NULL)
		return false;
	if (oldest < s->tail->base)
		oldest = s->tail->base;
	return s->pos - oldest > bytes_max;
}

void stream_looked(struct stream *s, uint64_t lag_max)
{
	s->oldest_pos = s->pos - lag_max;
}

uint64_t cursor_behind_since(const struct cursor *c)
{
	if (c->chunk == NULL || c->chunk->next == NULL || c->chunk->stream == NULL)
		return 0;
	return c->chunk->next->opened_ns;
}

bool cursor_detached(const struct cursor *c)
{
	return c->chunk != NULL && c->chunk->detached && c->pos != chunk_end(c->chunk);
}

/* The same referenced message again. */
static struct chunk *chunk_again(const struct chunk *from)
{
	struct chunk *c = chunk_new(from->prefix_len + from->suffix_len, from->base, from->first);

	if (c == NULL)
		return NULL;
	memcpy(c->data, from->data, c->capacity);
	c->prefix_len = from->prefix_len;
	c->suffix_len = from->suffix_len;
	c->body = from->body;
	c->block = from->block;
	c->used = from->used;
	block_ref(c->block, 1);
	return c;
}

/* A copy of bytes in which one message ends. */
static struct chunk *chunk_copy(const struct chunk *from, size_t at, size_t end)
{
	struct chunk *c = chunk_new(end - at, from->base + at, from->first);

	if (c == NULL)
		return NULL;
	memcpy(c->data, (from->block != NULL ? from->body.data : from->data) + at, end - at);
	c->used = end - at;
	return c;
}

/* Has the reader of a cursor's own chunk go on at the head, or end there if it is leaving, and
 * numbers it so that nothing lies between. Returns by how much that is later. */
static uint64_t lead_to_head(struct stream *s, struct cursor *c)
{
	struct chunk *own = c->chunk, *before = own->next;
	uint64_t end = c->last_count != 0 ? c->last_count : s->count;
	uint64_t skipped = end - own->messages - own->first;
	uint64_t at = c->pos - own->base;

	if (c->last_count != 0) {
		/* What comes after its last message is not for it. */
		c->last = own;
		own->next = NULL;
	} else {
		own->next = s->head;
		own->next->refs++;
	}
	own->next_pos = s->pos;
	own->base = s->pos - own->used;
	own->first += skipped;
	c->pos = own->base + at;
	c->counted += skipped;
	c->goal_count += skipped;
	chunk_unref(before);
	return skipped;
}

/* At the end of a message there is nothing to keep. */
static uint64_t jump(struct stream *s, struct cursor *c)
{
	struct chunk *from = c->chunk;
	uint64_t before = c->counted;

	if (c->last_count != 0) {
		c->chunk = NULL;
		c->counted = c->last_count;
	} else {
		stand_at_head(s, c);
	}
	chunk_unref(from);
	return c->counted - before;
}

uint64_t stream_skip(struct stream *s, struct cursor *c, int *error)
{
	struct chunk *from, *own;
	size_t at, end;
	uint64_t skipped;

	*error = 0;
	if (cursor_detached(c))
		return lead_to_head(s, c);
	if (stream_at_end(s, c))
		return 0;
	find_chunk(s, c);
	step(c);
	from = c->chunk;
	if (from == NULL)
		return 0; /* it is at the head, or at its end */
	assert(c->goal_bytes == 0);
	at = (size_t)(c->pos - from->base);
	end = boundary(s, from, at);
	if (end == at) {
		skipped = jump(s, c);
		stream_unhold(s, c);
		return skipped;
	}
	own = from->block != NULL && from->messages == 1 ? chunk_again(from)
							 : chunk_copy(from, at, end);
	if (own == NULL) {
		*error = -ENOMEM;
		return 0;
	}
	own->sealed = own->detached = true;
	own->messages = 1;
	own->first = c->counted;
	c->chunk = own;
	skipped = lead_to_head(s, c);
	chunk_unref(from);
	stream_unhold(s, c);
	return skipped;
}

bool stream_rest(struct stream *s)
{
	if (!all_idle(s))
		return false;
	for (struct list *l = s->idle.next; l != &s->idle; l = l->next) {
		struct cursor *c = LIST_ENTRY(l, struct cursor, link);

		find_chunk(s, c);
		chunk_unref(c->chunk);
		c->chunk = NULL;
		c->pos = s->pos;
	}
	chunk_unref(s->head);
	s->head = NULL;
	assert(s->tail == NULL && s->bytes == 0);
	s->next_capacity = CHUNK_BYTES_MIN;
	return true;
}
