#include "topic/stream.h"

#include <assert.h>
#include <errno.h>

#include "topic/block.h"
#include "topic/chunk.h"
#include "topic/pending.h"

enum {
	PAST_LOOK_BYTES =
		1 << 20, /* of what a cursor replays: many may do so, and it may be long */
	/* More cursors than that are not gone over to give back less than so much for each. */
	REST_CURSORS = 1024,
	REST_BYTES = 64,
};

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

bool stream_came_by(const struct stream *s, const struct cursor *c, uint64_t ns)
{
	const struct chunk *k = c->chunk != NULL ? c->chunk : s->tail;
	uint64_t pos = c->pos;

	if (stream_at_end(s, c))
		return false;
	while (pos == chunk_end(k) && k->pending == NULL) {
		pos = k->next_pos;
		k = k->next;
	}
	return !k->live || k->opened_ns <= ns;
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

/* So many bytes of a chunk that refers to its body, from an offset on. Returns how many spans that
 * are. */
static unsigned gather_parts(const struct chunk *k, size_t at, size_t bytes, struct iovec *spans)
{
	const struct span parts[3] = { { k->data, k->prefix_len },
				       k->body,
				       { k->data + k->prefix_len, k->suffix_len } };
	unsigned n = 0;

	for (int i = 0; i < 3 && bytes > 0; i++) {
		struct span part = parts[i];

		if (at >= part.len) {
			at -= part.len;
			continue;
		}
		part = span_skip(part, at);
		at = 0;
		if (part.len > bytes)
			part.len = bytes;
		bytes -= part.len;
		/* The data is only read by the kernel; iovec knows no const. */
		spans[n++] = (struct iovec){ (void *)(uintptr_t)part.data, part.len };
	}
	return n;
}

/* Of as many chunks as go in one send. Out of line, where what is in one does not pay for it. */
static int __attribute__((noinline))
gather_chunks(struct stream *s, struct cursor *c, struct iovec *spans, unsigned max)
{
	size_t send_bytes = STREAM_SEND_BYTES, piece_bytes = STREAM_SEND_PIECE_BYTES;
	size_t piece_max = STREAM_SEND_PIECE_MAX;
	size_t looked_at = 0;
	uint64_t pos;
	unsigned n = 0;

	c->goal_bytes = 0;
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
			size_t piece = left <= piece_max ? left : piece_bytes;

			if (c->goal_bytes > 0 && c->goal_bytes + left > send_bytes)
				break;
			/* Only what is one message is worth a longer send. */
			if (k->messages > 1 && piece > send_bytes)
				piece = send_bytes;
			n += gather_parts(k, at, piece, spans + n);
			c->goal_bytes += (uint32_t)piece;
			if (piece < left) {
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

int stream_gather(struct stream *s, struct cursor *c, struct iovec *spans, unsigned max)
{
	const struct chunk *k;
	size_t left;

	find_chunk(s, c);
	step(s, c);
	list_move(&s->busy, &c->link);
	c->goal_whole = true;
	k = c->chunk;
	/* Mostly that is what is in the last chunk. */
	if (k == NULL || k->next != NULL || k->bytes == NULL || c->pos < c->live_pos || max < 3)
		return gather_chunks(s, c, spans, max);
	left = (size_t)(chunk_end(k) - c->pos);
	if (left == 0 || left > STREAM_SEND_BYTES)
		return gather_chunks(s, c, spans, max);
	/* The data is only read by the kernel; iovec knows no const. */
	*spans = (struct iovec){ (void *)(uintptr_t)(k->bytes + (c->pos - k->base)), left };
	c->goal_bytes = (uint32_t)left;
	c->goal_count = k->first + k->messages;
	return 1;
}

/* The list that it belongs in when nothing of it is in flight. */
static inline void put_in_list(struct stream *s, struct cursor *c)
{
	find_chunk(s, c);
	step(s, c);
	if (!stream_at_end(s, c))
		list_move(c->pos < c->live_pos ? &s->replaying : &s->ready, &c->link);
	else
		list_move(c->last_count != 0 ? &s->busy : &s->idle, &c->link);
}

/* What has gone may end before the goal, or in another chunk than it began in. */
static uint64_t __attribute__((noinline))
sent_of_chunks(struct stream *s, struct cursor *c, size_t bytes)
{
	bool whole = bytes == c->goal_bytes;
	uint64_t delivered;

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
	put_in_list(s, c);
	return delivered;
}

uint64_t stream_sent(struct stream *s, struct cursor *c, size_t bytes)
{
	const struct chunk *k = c->chunk;
	uint64_t counted = c->counted;

	assert(bytes <= c->goal_bytes);
	if (bytes < c->goal_bytes || bytes == 0 || k->next != NULL)
		return sent_of_chunks(s, c, bytes);
	/* Behind the last chunk, where it stands already, there is none to go on to. */
	c->pos += bytes;
	c->goal_bytes = 0;
	if (c->goal_count > counted)
		c->counted = c->goal_count;
	if (c->pos == chunk_end(k) && c->last_count == 0)
		list_move(&s->idle, &c->link);
	else
		put_in_list(s, c);
	return c->counted - counted;
}

void stream_hold(struct stream *s, struct cursor *c)
{
	list_move(&s->busy, &c->link);
}

void stream_unhold(struct stream *s, struct cursor *c)
{
	put_in_list(s, c);
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
	c->bytes = from->bytes;
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
	if (!stream_all_idle(s))
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
