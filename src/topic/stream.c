#include "topic/stream.h"

#include <assert.h>
#include <errno.h>

#include "base/memory.h"
#include "topic/block.h"
#include "topic/chunk.h"

enum {
	CHUNK_BYTES_MIN = 2 << 10,
	CHUNK_BYTES_MAX = 64 << 10,
	PAST_LOOK_BYTES =
		1 << 20, /* of what a cursor replays: many may do so, and it may be long */
	/* What comes to more, with what waits already, is encoded piece by piece when it is sent,
	 * if it grows so many times by that. What is small is not worth it. */
	ENCODED_AHEAD_BYTES = 256 << 10,
	GROWS = 2,
	SMALL_BYTES = 1 << 10,
	FEW_MESSAGES = 32,
	/* More cursors than that are not gone over to give back less than so much for each. */
	REST_CURSORS = 1024,
	REST_BYTES = 64,
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

static bool all_idle(const struct stream *s)
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
			c->seq = s->next_seq;
			c->uneven = false;
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
	assert(n <= c->capacity - c->used);
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

int stream_pin(struct stream *s, struct cursor *pin)
{
	/* At the start of a chunk, for that is where what is put in front goes on. */
	if ((s->head == NULL || s->head->sealed || s->head->used > 0) && !stream_add_head(s))
		return -ENOMEM;
	*pin = (struct cursor){ 0 };
	stand_at_head(s, pin);
	s->pins++;
	return 0;
}

void stream_unpin(struct stream *s, struct cursor *pin)
{
	chunk_unref(pin->chunk);
	pin->chunk = NULL;
	s->pins--;
}

/* A cursor that joined or rested while the stream held nothing stands in its first chunk. */
static void find_chunk(const struct stream *s, struct cursor *c)
{
	if (c->chunk == NULL && c->last_count == 0)
		c->chunk = s->tail;
}

/* Messages between a chunk that is used up and the next one have no form; its own may not have been
 * counted yet. */
static void count_formless(const struct stream *s, struct cursor *c, const struct chunk *from)
{
	uint64_t end = from->first + from->messages;

	if (end < c->counted)
		end = c->counted;
	if (from->next->first <= end)
		return;
	c->counted += from->next->first - end;
	if (s->unencodable != NULL)
		*s->unencodable += from->next->first - end;
}

static void leave_chunk(const struct stream *s, struct cursor *c)
{
	struct chunk *from = c->chunk, *next = from->next;

	while (from->pending == NULL && from != c->last) {
		if (next->first > from->first + from->messages)
			count_formless(s, c, from);
		c->pos = from->next_pos;
		c->chunk = next;
		next->refs++;
		chunk_unref(from);
		from = next;
		next = from->next;
		if (next == NULL || c->pos != chunk_end(from))
			return;
	}
}

/* Goes on to the next chunk if this one is used up; mostly there is none. */
static inline void step(const struct stream *s, struct cursor *c)
{
	if (c->chunk != NULL && c->chunk->next != NULL && c->pos == chunk_end(c->chunk))
		leave_chunk(s, c);
}

bool stream_at_end(const struct stream *s, const struct cursor *c)
{
	const struct chunk *k = c->chunk;
	uint64_t pos = c->pos;

	if (k == NULL)
		return c->last_count != 0 || pos == s->pos;
	/* A head that was added for a replay may hold nothing. */
	while (pos == chunk_end(k) && k->pending == NULL) {
		if (k == c->last || k->next == NULL)
			return true;
		pos = k->next_pos;
		k = k->next;
	}
	return false;
}

void stream_leave(struct stream *s, struct cursor *c)
{
	assert(c->last_count == 0);
	find_chunk(s, c);
	step(s, c);
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

uint64_t stream_settle(struct stream *s, struct cursor *c)
{
	const struct chunk *k = c->chunk;
	uint64_t counted = c->counted;
	size_t at, end = 0;

	if (k == NULL)
		return 0;
	at = (size_t)(c->pos - k->base);
	counted = k->first;
	while (end < at && (end = chunk_message_end(s->wire.format, k, end)) <= at)
		counted++;
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

bool stream_between(struct stream *s, struct cursor *c)
{
	const struct chunk *k;

	assert(c->goal_bytes == 0);
	if (stream_at_end(s, c))
		return true;
	find_chunk(s, c);
	step(s, c);
	k = c->chunk;
	if (k == NULL || k->pending != NULL || c->pos == k->base)
		return k == NULL || !k->detached;
	return !k->detached && chunk_boundary(s->wire.format, k, (size_t)(c->pos - k->base)) ==
				       (size_t)(c->pos - k->base);
}

int stream_gather(struct stream *s, struct cursor *c, struct iovec *spans, unsigned max)
{
	size_t send_bytes = STREAM_SEND_BYTES, piece_bytes = STREAM_SEND_PIECE_BYTES;
	size_t piece_max = STREAM_SEND_PIECE_MAX;
	size_t looked_at = 0;
	uint64_t pos;
	unsigned n = 0;

	find_chunk(s, c);
	step(s, c);
	list_remove(&c->link);
	list_append(&s->busy, &c->link);
	c->goal_bytes = 0;
	c->goal_whole = true;
	if (c->chunk != NULL && c->chunk->pending != NULL) {
		if (stream_encode_pending(s, c->chunk) != 0)
			return -ENOMEM;
		step(s, c);
	}
	c->goal_count = c->counted;
	if (c->pos < c->live_pos)
		send_bytes = piece_bytes = piece_max = STREAM_SEND_REPLAY_BYTES;
	pos = c->pos;
	for (struct chunk *k = c->chunk; k != NULL && n + 3 <= max;
	     pos = k->next_pos, k = k->next) {
		size_t at = (size_t)(pos - k->base), left = k->used - at, before = c->goal_bytes;

		if (k->pending != NULL) {
			/* It fills the send up, as long as it brings something. */
			if (before == looked_at || before >= send_bytes ||
			    stream_encode_pending(s, k) != 0)
				break;
			looked_at = before;
		}

		if (left > 0 && k->block == NULL) {
			size_t piece = left < send_bytes ? left : send_bytes;

			if (c->goal_bytes > 0 && c->goal_bytes + left > send_bytes)
				break;
			/* The data is only read by the kernel; iovec knows no const. */
			spans[n++] = (struct iovec){ (void *)(uintptr_t)(k->data + at), piece };
			c->goal_bytes += (uint32_t)piece;
			if (piece < left) {
				c->goal_whole = false;
				break;
			}
		} else if (left > 0) {
			const struct span parts[3] = { { k->data, k->prefix_len },
						       k->body,
						       { k->data + k->prefix_len, k->suffix_len } };
			size_t piece = left <= piece_max ? left : piece_bytes;

			if (c->goal_bytes > 0 && c->goal_bytes + left > send_bytes)
				break;
			/* Only what is one message is worth a longer send. */
			if (k->messages > 1 && piece > send_bytes)
				piece = send_bytes;
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
				c->goal_bytes += (uint32_t)part.len;
				spans[n++] =
					(struct iovec){ (void *)(uintptr_t)part.data, part.len };
			}
			if (c->goal_bytes - before < left) {
				c->goal_whole = false;
				break;
			}
		}
		/* In front of an empty one there may be what has no form, which is not sent. */
		if (left > 0)
			c->goal_count = k->first + k->messages;
		/* What follows a rest may change while that is in flight (stream_skip). */
		if (k == c->last || k->detached)
			break;
	}
	return (int)n;
}

uint64_t stream_sent(struct stream *s, struct cursor *c, size_t bytes)
{
	bool whole = bytes == c->goal_bytes;
	uint64_t delivered;

	assert(bytes <= c->goal_bytes);
	while (bytes > 0) {
		size_t left = (size_t)(chunk_end(c->chunk) - c->pos),
		       n = bytes < left ? bytes : left;

		c->pos += n;
		bytes -= n;
		if (bytes > 0)
			step(s, c);
	}
	/* What has no form on the way has been counted by now. */
	delivered = c->counted;
	if (whole && c->goal_count > c->counted)
		c->counted = c->goal_count;
	if (c->chunk != NULL && c->chunk->first > c->counted)
		c->counted = c->chunk->first;
	delivered = c->counted - delivered;
	c->goal_bytes = 0;
	stream_unhold(s, c);
	return delivered;
}

void stream_hold(struct stream *s, struct cursor *c)
{
	list_remove(&c->link);
	list_append(&s->busy, &c->link);
}

void stream_unhold(struct stream *s, struct cursor *c)
{
	find_chunk(s, c);
	step(s, c);
	list_remove(&c->link);
	if (!stream_at_end(s, c))
		list_append(c->pos < c->live_pos ? &s->replaying : &s->ready, &c->link);
	else if (c->last_count != 0)
		list_append(&s->busy, &c->link);
	else
		list_append(&s->idle, &c->link);
}

/* From where on it needs what has come to the stream. */
static uint64_t chain_pos(const struct cursor *c)
{
	uint64_t pos = cursor_detached(c) ? c->chunk->next_pos : c->pos;

	return pos < c->live_pos ? c->live_pos : pos;
}

uint64_t cursor_lag(const struct stream *s, const struct cursor *c)
{
	return s->pos - chain_pos(c);
}

/* What one that replays holds of the past, as far as that need be looked at. */
static uint64_t held_past(const struct cursor *c)
{
	uint64_t bytes = 0;

	if (c->pos >= c->live_pos)
		return 0;
	for (const struct chunk *k = c->chunk; k != NULL && !k->live && !k->detached; k = k->next) {
		if (k->pending != NULL)
			bytes += pending_bytes(k->pending, PAST_LOOK_BYTES);
		bytes += chunk_bytes(k);
		if (bytes > PAST_LOOK_BYTES)
			return bytes;
	}
	return bytes;
}

uint64_t cursor_backlog(const struct stream *s, const struct cursor *c)
{
	uint64_t end = c->last_count == 0 ? s->pos : c->last != NULL ? chunk_end(c->last) : 0;
	uint64_t pos = chain_pos(c);

	return held_past(c) + (end > pos ? end - pos : 0);
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
	if (c->chunk == NULL || c->chunk->next == NULL || !c->chunk->live || c->pos < c->live_pos)
		return 0;
	return c->chunk->next->opened_ns;
}

uint64_t stream_behind_since(const struct stream *s)
{
	return s->tail != NULL && s->tail->next != NULL ? s->tail->next->opened_ns : 0;
}

bool cursor_detached(const struct cursor *c)
{
	return c->chunk != NULL && c->chunk->detached && c->pos != chunk_end(c->chunk);
}

uint64_t cursor_rest(const struct cursor *c)
{
	return cursor_detached(c) ? chunk_end(c->chunk) - c->pos : 0;
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
		c->chunk = c->last = NULL;
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
	step(s, c);
	from = c->chunk;
	if (from == NULL)
		return 0; /* it is at the head, or at its end */
	assert(c->goal_bytes == 0);
	at = (size_t)(c->pos - from->base);
	end = chunk_boundary(s->wire.format, from, at);
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

/* Whether what it holds is little beside its cursors, of which there are many. */
static bool not_worth_resting(const struct stream *s)
{
	return s->cursors > REST_CURSORS && s->bytes / REST_BYTES <= s->cursors;
}

bool stream_rest(struct stream *s)
{
	if (!all_idle(s))
		return false;
	if (not_worth_resting(s))
		return true;
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
