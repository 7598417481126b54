#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "protocol/line.h"
#include "protocol/sse.h"
#include "topic/block.h"
#include "topic/chunk.h"
#include "topic/history.h"
#include "topic/stream.h"
#include "random.h"
#include "stretch.h"

/*
 * Streams against a naive model: every subscriber has a queue of its own with every message that it
 * must still get. Two formats: each message is "[number]body\n", and one of them never references;
 * a message that begins with '!' has no form in them. A third, of the protocols', is bodies alone.
 */

/* ---- the formats ---- */

static bool has_form(struct span message)
{
	return message.len == 0 || message.data[0] != '!';
}

static uint32_t tagged_encodable(const struct wire *wire, const struct run *run)
{
	struct run rest = *run;
	struct span message;
	uint32_t n = 0;

	(void)wire;
	while (run_next(&rest, &message))
		n += has_form(message);
	return n;
}

static size_t tagged_max(const struct wire *wire, const struct run *run)
{
	(void)wire;
	return run->body.len + (size_t)run->messages * 24;
}

static unsigned encoded_runs;
static size_t encoded_bytes;

static size_t tagged_encode(const struct wire *wire, const struct run *run, char *out)
{
	struct run rest = *run;
	struct span message;
	char *to = out;

	(void)wire;
	encoded_runs++;
	while (run_next(&rest, &message)) {
		if (!has_form(message))
			continue;
		to += sprintf(to, "[%llu]", (unsigned long long)(rest.seq - 1));
		memcpy(to, message.data, message.len);
		to += message.len;
		*to++ = '\n';
	}
	encoded_bytes += (size_t)(to - out);
	return (size_t)(to - out);
}

static void tagged_enclose(const struct wire *wire, const struct run *run, char *prefix,
			   size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	(void)wire;
	*prefix_len = (size_t)sprintf(prefix, "[%llu]", (unsigned long long)run->seq);
	*body = run_only(run);
	suffix[0] = '\n';
	*suffix_len = 1;
}

static size_t tagged_boundary(struct span encoded, size_t offset)
{
	const char *lf;

	assert_true(offset <= encoded.len);
	if (offset == 0 || encoded.data[offset - 1] == '\n')
		return offset;
	lf = memchr(encoded.data + offset, '\n', encoded.len - offset);
	assert_non_null(lf);
	return (size_t)(lf - encoded.data) + 1;
}

static const struct wire_format referencing = { .name = "referencing",
						.encodable = tagged_encodable,
						.encoded_max = tagged_max,
						.encode = tagged_encode,
						.enclose = tagged_enclose,
						.boundary = tagged_boundary };
static const struct wire_format copying = { .name = "copying",
					    .encodable = tagged_encodable,
					    .encoded_max = tagged_max,
					    .encode = tagged_encode,
					    .boundary = tagged_boundary };

static bool one_in(size_t n)
{
	return below(n) == 0;
}

/* ---- the model ---- */

enum {
	CURSORS = 12,
	BLOCKS_KEPT = 40,
	FLOOD_MESSAGES = 12000 /* short ones, of more than 256 KiB as far as their form can tell */
};

struct message {
	char *bytes; /* encoded; NULL: has no form */
	size_t len;
};

struct reader {
	struct cursor cursor; /* first */
	bool here, in_flight, held, leaving, detached;
	uint32_t *queue; /* numbers of messages it must get */
	size_t first, last, room;
	size_t live;              /* what is in the queue before this one is a replay */
	size_t offset;            /* bytes of the first that it has */
	uint64_t completed, told; /* messages: all of their bytes went, and the stream said so */
	struct iovec flying[16];
	unsigned flying_n;
	size_t flying_bytes;
};

static struct world {
	struct stream stream;
	struct message *messages; /* by number - 1 */
	size_t messages_n, messages_room;
	struct block *kept[BLOCKS_KEPT]; /* the newest blocks, oldest first */
	size_t kept_n;
	struct reader readers[CURSORS];
	uint64_t now_ns;
	uint64_t matched, delivered, dropped; /* as the owner counts */
} world;

static struct block *block_of(const char *body, size_t len, uint32_t messages, enum run_form form)
{
	struct block *b = block_new(SPAN("topic"), 1, len);

	assert_non_null(b);
	memcpy(block_body(b), body, len);
	b->len = len;
	b->messages = messages;
	b->form = (uint8_t)form;
	b->seq = world.messages_n + 1;
	return b;
}

static bool payloads_only(void)
{
	return world.stream.wire.format->boundary == NULL;
}

static void remember(const char *body, size_t len, bool formless)
{
	struct message m = { 0 };

	if (payloads_only())
		formless = len == 0;
	if (world.messages_n == world.messages_room) {
		world.messages_room = 2 * world.messages_room + 64;
		world.messages =
			realloc(world.messages, world.messages_room * sizeof(struct message));
		assert_non_null(world.messages);
	}
	if (!formless) {
		m.bytes = malloc(len + 32);
		assert_non_null(m.bytes);
		if (!payloads_only())
			m.len = (size_t)sprintf(m.bytes, "[%llu]",
						(unsigned long long)(world.messages_n + 1));
		memcpy(m.bytes + m.len, body, len);
		m.len += len;
		if (!payloads_only())
			m.bytes[m.len++] = '\n';
	}
	world.messages[world.messages_n++] = m;
}

static void fill(char *p, size_t len)
{
	uint64_t r = next_random();

	for (size_t i = 0; i < len; i++) {
		p[i] = (char)('a' + (r >> (i % 13)) % 26);
		if (i % 61 == 0)
			r = r * 6364136223846793005u + 1442695040888963407u;
	}
}

static size_t random_len(void)
{
	return one_in(30) ? below(4000) : below(40);
}

/* A block of messages, one of which may be large, and some of which may have no form: of lines, or
 * of records, that may hold a CR. */
static struct block *random_messages(uint32_t n, size_t large, bool formless, enum run_form form)
{
	size_t *lens = malloc(n * sizeof(*lens)), len = 0;
	uint32_t big = (uint32_t)below(n);
	struct block *b;
	char *body, *text, *p;

	assert_non_null(lens);
	for (uint32_t i = 0; i < n; i++) {
		lens[i] = large > 0 && i == big ? large : random_len();
		len += lens[i] + RECORD_HEAD_BYTES;
	}
	body = malloc(len);
	text = malloc(len);
	assert_non_null(body);
	assert_non_null(text);
	p = body;
	for (uint32_t i = 0; i < n; i++) {
		fill(text, lens[i]);
		if (form == RUN_RECORDS && lens[i] > 0 && one_in(2))
			text[below(lens[i])] = '\r';
		if (formless && lens[i] > 0 && one_in(20))
			*text = '!';
		remember(text, lens[i], lens[i] > 0 && *text == '!');
		if (form == RUN_RECORDS) {
			p = record_put(p, (struct span){ text, lens[i] });
			continue;
		}
		memcpy(p, text, lens[i]);
		memcpy(p + lens[i], "\r\n", 2);
		p += lens[i] + 2;
	}
	b = block_of(body, (size_t)(p - body), n, form);
	b->seq -= n;
	free(text);
	free(body);
	free(lens);
	return b;
}

static struct block *random_lines(uint32_t n, size_t large, bool formless)
{
	return random_messages(n, large, formless, RUN_LINES);
}

static struct block *random_single(size_t len, bool formless)
{
	char *body = malloc(len + 1);
	struct block *b;

	assert_non_null(body);
	fill(body, len);
	if (formless)
		body[0] = '!';
	b = block_of(body, len, 1, RUN_ONE);
	remember(body, len, formless);
	free(body);
	return b;
}

/* So many short messages that what they come to is not encoded before it is sent. */
static struct block *random_flood(size_t messages)
{
	uint32_t n = (uint32_t)messages;
	bool formless = one_in(2);
	char *body = malloc((size_t)n * 4), *p = body;
	struct block *b;

	assert_non_null(body);
	for (uint32_t i = 0; i < n; i++) {
		size_t len = below(3);

		fill(p, len);
		if (formless && len > 0 && one_in(20))
			*p = '!';
		remember(p, len, len > 0 && *p == '!');
		memcpy(p + len, "\r\n", 2);
		p += len + 2;
	}
	b = block_of(body, (size_t)(p - body), n, RUN_LINES);
	b->seq -= n;
	free(body);
	return b;
}

static struct block *random_block(void)
{
	if (one_in(400))
		return random_flood(FLOOD_MESSAGES + below(one_in(4) ? 30000 : 3000));
	if (one_in(10))
		return random_flood(100 + below(500));
	switch (below(40)) {
	case 0:
		return random_single(STREAM_REFERENCE_BYTES + below(40000), false);
	case 1:
		return random_lines(1, STREAM_REFERENCE_BYTES - 2 + below(3), one_in(2));
	case 2:
		return random_single(1 + below(50), true);
	case 3:
		return random_single(STREAM_REFERENCE_BYTES - 1 + below(3), false);
	case 4:
		return random_lines(1 + (uint32_t)below(600), 0, one_in(2));
	case 5:
		return one_in(4) ? random_single(below(3 * STREAM_SEND_PIECE_BYTES), false)
				 : random_single(below(3000), false);
	case 6:
		return random_messages(2 + (uint32_t)below(20), below(one_in(4) ? 700000 : 20000),
				       true, one_in(3) ? RUN_RECORDS : RUN_LINES);
	case 7:
	case 8:
	case 9:
		return random_single(below(300), false);
	default:
		return random_messages(1 + (uint32_t)below(12), 0, one_in(2),
				       one_in(4) ? RUN_RECORDS : RUN_LINES);
	}
}

static void enqueue(struct reader *r, uint32_t number)
{
	if (r->last == r->room) {
		r->room = 2 * r->room + 64;
		r->queue = realloc(r->queue, r->room * sizeof(*r->queue));
		assert_non_null(r->queue);
	}
	r->queue[r->last++] = number;
}

static const struct message *message_at(const struct reader *r, size_t i)
{
	return &world.messages[r->queue[i] - 1];
}

static bool at_end(const struct reader *r)
{
	return r->first == r->last;
}

/* Puts the messages of a block from skip on into a queue. */
static uint64_t enqueue_block(struct reader *r, const struct block *b, uint32_t skip,
			      uint64_t *formless)
{
	uint64_t n = 0;

	for (uint32_t i = skip; i < b->messages; i++) {
		uint32_t number = (uint32_t)b->seq + i;

		if (world.messages[number - 1].bytes == NULL) {
			++*formless;
			continue;
		}
		enqueue(r, number);
		n++;
	}
	return n;
}

/* Lets the model's reader have so many more bytes. */
static void advance(struct reader *r, size_t bytes)
{
	while (bytes > 0) {
		size_t left = message_at(r, r->first)->len - r->offset;

		if (bytes < left) {
			r->offset += bytes;
			break;
		}
		bytes -= left;
		r->offset = 0;
		r->first++;
		r->completed++;
		r->detached = false;
	}
}

/* The stream has told of so many whole messages. */
static void tell(struct reader *r, uint64_t delivered)
{
	r->told += delivered;
	assert_true(r->told <= r->completed);
	world.delivered += delivered;
}

/* And now it must have told of all. */
static void settle_count(struct reader *r)
{
	tell(r, stream_settle(&world.stream, &r->cursor));
	assert_int_equal(r->told, r->completed);
}

/* The spans hold exactly what the model's reader gets next. */
static void check_spans(const struct reader *r)
{
	size_t i = r->first, at = r->offset;

	for (unsigned s = 0; s < r->flying_n; s++) {
		const char *p = r->flying[s].iov_base;
		size_t len = r->flying[s].iov_len;

		assert_true(len > 0);
		while (len > 0) {
			const struct message *m;
			size_t n;

			assert_true(i < r->last);
			m = message_at(r, i);
			n = m->len - at < len ? m->len - at : len;
			if (memcmp(p, m->bytes + at, n) != 0)
				fail_msg("wrong bytes in message %u", r->queue[i]);
			p += n;
			len -= n;
			at += n;
			if (at == m->len) {
				at = 0;
				i++;
			}
		}
	}
}

/* From where on the reader has something to come in the stream's chain. */
static const struct chunk *ahead(const struct reader *r)
{
	/* One that joined when it held nothing stands in its first chunk without knowing it. */
	if (r->cursor.chunk == NULL && !r->leaving)
		return world.stream.tail;
	return r->detached ? r->cursor.chunk->next : r->cursor.chunk;
}

/* Whether there may be messages before it of which the stream finds only then that they have no
 * form. */
static bool is_vague(const struct reader *r)
{
	for (const struct chunk *k = ahead(r); k != NULL; k = k->next)
		if (k->pending != NULL ||
		    (k->next != NULL && k->next->first > k->first + k->messages))
			return true;
	return false;
}

/* What is reserved for live messages before it, beyond what they came to. */
static uint64_t reserved(const struct reader *r)
{
	uint64_t bytes = 0;

	for (const struct chunk *k = ahead(r); k != NULL && k->next != NULL; k = k->next)
		if (k->live)
			bytes += k->next->base - chunk_end(k);
	return bytes;
}

/* Bytes that were appended live and have not been sent; a leaving one's lag is nobody's business.
 */
static void check_lag(const struct reader *r)
{
	uint64_t lag = 0, most = reserved(r);

	if (r->leaving)
		return;
	for (size_t i = r->first; i < r->last; i++)
		if (i >= r->live && !(r->detached && i == r->first))
			lag += message_at(r, i)->len - (i == r->first ? r->offset : 0);
	/* Its position moves when its send has ended. */
	assert_in_range(cursor_lag(&world.stream, &r->cursor), lag, lag + most);
}

static size_t length(const struct list *list)
{
	size_t n = 0;

	for (const struct list *l = list->next; l != list; l = l->next)
		n++;
	return n;
}

/* How far behind the furthest is. */
static uint64_t lag_max(void)
{
	uint64_t max = 0;

	for (size_t i = 0; i < CURSORS; i++) {
		const struct reader *r = &world.readers[i];

		if (r->here && !r->leaving && cursor_lag(&world.stream, &r->cursor) > max)
			max = cursor_lag(&world.stream, &r->cursor);
	}
	return max;
}

/* Whether the stream has nothing more for it: the model knows from the start which messages have no
 * form, the stream, of the past, when it comes to them. */
static bool ends(const struct reader *r)
{
	bool end = stream_at_end(&world.stream, &r->cursor);

	if (end || !is_vague(r))
		assert_int_equal(end, at_end(r));
	return end;
}

static void check_world(void)
{
	struct stream *s = &world.stream;
	size_t idle = 0, ready = 0, busy = 0, staying = 0;

	for (size_t i = 0; i < CURSORS; i++) {
		const struct reader *r = &world.readers[i];

		if (!r->here)
			continue;
		staying += !r->leaving;
		assert_int_equal(cursor_detached(&r->cursor), r->detached);
		check_lag(r);
		if (r->in_flight || r->held || (r->leaving && ends(r)))
			busy++;
		else if (ends(r))
			idle++;
		else
			ready++;
	}
	assert_int_equal(length(&s->idle), idle);
	assert_int_equal(length(&s->ready) + length(&s->replaying), ready);
	assert_int_equal(length(&s->busy), busy);
	assert_int_equal(s->cursors, staying);
	/* It may be wrong only towards yes. */
	if (lag_max() > 0)
		assert_true(stream_overrun(s, lag_max() - 1));
}

/* ---- what can happen ---- */

/* Whether a block that was appended live is not encoded yet. */
static bool is_pending(const struct block *b)
{
	for (const struct chunk *k = world.stream.tail; k != NULL; k = k->next)
		if (k->pending != NULL && k->seq == b->seq)
			return true;
	return false;
}

static void do_append(void)
{
	struct block *b = random_block();
	uint32_t formless = 0, carried = b->messages;
	int error = 1;
	uint64_t unused = 0;

	for (uint32_t i = 0; i < b->messages; i++)
		formless += world.messages[b->seq - 1 + i].bytes == NULL;

	world.now_ns += below(1000);
	/* Nobody wants it, so that nobody gives it to the stream, though somebody may come who
	 * does. */
	if (world.stream.cursors > 0 || one_in(2)) {
		carried = stream_append(&world.stream, b, world.now_ns, &error);
		/* Of what is not encoded yet each cursor is told later. */
		if (is_pending(b) || (world.stream.cursors == 0 && carried == b->messages))
			formless = 0;
		assert_int_equal(carried, b->messages - formless);
		assert_int_equal(error, 0);
	}
	for (size_t i = 0; i < CURSORS; i++) {
		struct reader *r = &world.readers[i];

		if (!r->here || r->leaving)
			continue;
		world.matched += b->messages;
		world.dropped += b->messages - carried;
		enqueue_block(r, b, 0, &unused);
	}
	if (world.kept_n == BLOCKS_KEPT) {
		block_unref(world.kept[0]);
		memmove(world.kept, world.kept + 1, --world.kept_n * sizeof(world.kept[0]));
	}
	world.kept[world.kept_n++] = b;
}

static void reset(struct reader *r)
{
	free(r->queue);
	memset(r, 0, sizeof(*r));
	/* What is there before joining must not matter. */
	memset(&r->cursor, 0xa5, sizeof(r->cursor));
	r->here = true;
}

static void do_join(struct reader *r)
{
	reset(r);
	assert_int_equal(stream_join(&world.stream, &r->cursor), 0);
}

static void do_join_replay(struct reader *r)
{
	size_t n = below(one_in(2) ? world.kept_n + 1 : 1 + world.kept_n / 4);
	size_t first = world.kept_n - n;
	uint32_t skip = n > 0 && one_in(2) ? (uint32_t)below(world.kept[first]->messages) : 0;
	uint64_t formless = 77, want = 0, want_formless = 0;
	struct past past = { .next = world.messages_n + 1 };
	struct stretch held;

	past.from = n > 0 ? world.kept[first]->seq + skip : past.next;
	/* There may be more of it than is wanted. */
	held = stretch_of(world.kept, n > 0 ? world.kept_n : 0, past.from);
	past.held = &held;
	reset(r);
	for (size_t i = 0; i < n; i++)
		want += enqueue_block(r, world.kept[first + i], i == 0 ? skip : 0, &want_formless);
	assert_int_equal(stream_join_replay(&world.stream, &r->cursor, &past, &formless), 0);
	assert_int_equal(want + want_formless, past.next - past.from);
	/* It is told of the others when the cursor comes to them. */
	assert_true(formless <= want_formless);
	stretch_release(&held);
	r->live = r->last;
	world.matched += want + want_formless;
	world.dropped += formless;
}

static unsigned gather_from(struct cursor *c, struct iovec *spans, unsigned max)
{
	int n = stream_gather(&world.stream, c, spans, max);

	assert_true(n >= 0);
	return (unsigned)n;
}

static void do_gather(struct reader *r)
{
	unsigned max = one_in(3) ? 3 + (unsigned)below(13) : 16;
	size_t bytes = 0;

	r->flying_n = gather_from(&r->cursor, r->flying, max);
	/* Where nothing has a form it goes on after a while. */
	for (unsigned n = 0; r->flying_n == 0 && !stream_at_end(&world.stream, &r->cursor); n++) {
		assert_true(n < 1000);
		stream_unhold(&world.stream, &r->cursor);
		r->flying_n = gather_from(&r->cursor, r->flying, max);
	}
	assert_true(r->flying_n <= max);
	for (unsigned i = 0; i < r->flying_n; i++)
		bytes += r->flying[i].iov_len;
	r->held = false;
	assert_int_equal(bytes > 0, r->first < r->last);
	check_spans(r);
	assert_true(bytes <= STREAM_SEND_PIECE_MAX);
	/* More than 256 KiB is a piece of a single message. */
	if (bytes > STREAM_SEND_BYTES)
		assert_true(bytes <= message_at(r, r->first)->len - r->offset);
	r->flying_bytes = bytes;
	r->in_flight = bytes > 0;
	r->held = bytes == 0;
}

static void do_sent(struct reader *r)
{
	size_t bytes = r->flying_bytes;
	uint64_t delivered;

	/* Whatever happened meanwhile, the memory has stayed. */
	check_spans(r);
	if (one_in(3))
		bytes = one_in(4) ? 0 : one_in(4) ? 1 : below(bytes + 1);
	delivered = stream_sent(&world.stream, &r->cursor, bytes);
	advance(r, bytes);
	tell(r, delivered);
	r->in_flight = false;
	if (ends(r))
		assert_int_equal(r->told, r->completed);
}

static void do_skip(struct reader *r)
{
	size_t keep = r->offset > 0 || r->detached;
	bool vague = is_vague(r), end = stream_at_end(&world.stream, &r->cursor);
	int error = 1;
	uint64_t skipped;

	settle_count(r);
	skipped = stream_skip(&world.stream, &r->cursor, &error);
	assert_int_equal(error, 0);
	world.dropped += skipped;
	if (!end && !r->detached)
		r->held = false;
	if (at_end(r))
		keep = 0;
	if (vague)
		assert_true(skipped >= r->last - r->first - keep);
	else
		assert_int_equal(skipped, r->last - r->first - keep);
	r->last = r->first + keep;
	if (r->live > r->last)
		r->live = r->last;
	r->detached = keep > 0;
}

static void do_remove(struct reader *r)
{
	bool vague = is_vague(r);
	uint64_t left;

	settle_count(r);
	left = stream_remove(&world.stream, &r->cursor);
	if (vague)
		assert_true(left >= r->last - r->first);
	else
		assert_int_equal(left, r->last - r->first);
	world.dropped += left;
	free(r->queue);
	memset(r, 0, sizeof(*r));
}

static void do_rest(void)
{
	struct stream *s = &world.stream;
	bool all_idle = !stream_wants_sends(s) && list_empty(&s->busy);

	assert_int_equal(stream_rest(s), all_idle);
	if (all_idle) {
		assert_null(s->head);
		assert_null(s->tail);
		assert_int_equal(s->bytes, 0);
	}
}

static void do_something(struct reader *r)
{
	switch (below(25)) {
	case 0:
	case 1:
		if (!r->here)
			do_join(r);
		break;
	case 2:
	case 24:
		if (!r->here)
			do_join_replay(r);
		break;
	case 3:
		if (r->here && !r->leaving && one_in(3)) {
			stream_leave(&world.stream, &r->cursor);
			r->leaving = true;
		}
		break;
	case 4:
		if (r->here && !r->in_flight && one_in(4))
			do_remove(r);
		break;
	case 5:
		/* One that has skipped already may do so again while its send is stuck. */
		if (r->here && (!r->in_flight || r->detached) && one_in(2))
			do_skip(r);
		break;
	case 6:
		if (r->here && !r->in_flight) {
			stream_hold(&world.stream, &r->cursor);
			r->held = true;
		}
		break;
	case 7:
	case 8:
		if (r->here && r->held) {
			stream_unhold(&world.stream, &r->cursor);
			r->held = false;
		}
		break;
	case 9:
		if (one_in(2))
			do_rest();
		else
			stream_looked(&world.stream, lag_max());
		break;
	case 10:
	case 11:
		do_append();
		break;
	default:
		if (r->here && r->in_flight)
			do_sent(r);
		else if (r->here && !r->held)
			do_gather(r);
		break;
	}
}

/* Everybody gets all there is; then nothing is left anywhere. */
static void settle(void)
{
	for (size_t i = 0; i < CURSORS; i++) {
		struct reader *r = &world.readers[i];

		while (r->here && (r->in_flight || !ends(r))) {
			if (r->in_flight)
				do_sent(r);
			else
				do_gather(r);
		}
		if (r->here && r->held) {
			stream_unhold(&world.stream, &r->cursor);
			r->held = false;
		}
		if (r->here && r->leaving)
			do_remove(r);
	}
	check_world();
	assert_int_equal(world.matched, world.delivered + world.dropped);
	do_rest();
	assert_int_equal(world.stream.bytes, 0);
}

static void world_begin(const struct wire_format *format, uint64_t number)
{
	memset(&world, 0, sizeof(world));
	seed = number * 0x9e3779b97f4a7c15u + 1;
	stream_init(&world.stream, &(struct wire){ .format = format });
	world.stream.unencodable = &world.dropped;
}

static void world_end(void)
{
	for (size_t i = 0; i < CURSORS; i++)
		if (world.readers[i].here)
			do_remove(&world.readers[i]);
	stream_release(&world.stream);
	assert_int_equal(world.stream.bytes, 0);
	for (size_t i = 0; i < world.kept_n; i++) {
		/* No chunk holds one any more. */
		(void)segments_let_go(UINT_MAX);
		assert_int_equal(atomic_load(&world.kept[i]->holders), 1);
		block_unref(world.kept[i]);
	}
	for (size_t i = 0; i < world.messages_n; i++)
		free(world.messages[i].bytes);
	free(world.messages);
}

static int begin_referencing(void **state)
{
	(void)state;
	world_begin(&referencing, 1);
	return 0;
}

static int begin_copying(void **state)
{
	(void)state;
	world_begin(&copying, 1);
	return 0;
}

static int end(void **state)
{
	(void)state;
	world_end();
	return 0;
}

static void play(const struct wire_format *format, unsigned games, unsigned moves)
{
	for (unsigned game = 1; game <= games; game++) {
		size_t crowd;

		world_begin(format, game);
		crowd = 1 + below(CURSORS);
		for (unsigned i = 0; i < moves; i++) {
			do_something(&world.readers[below(crowd)]);
			check_world();
			if (one_in(200))
				settle();
		}
		settle();
		world_end();
	}
}

static void every_cursor_gets_what_its_own_queue_would_hold(void **state)
{
	(void)state;
	play(&referencing, 150, 1500);
}

static void so_it_does_when_everything_is_copied(void **state)
{
	(void)state;
	play(&copying, 80, 1500);
}

static void so_it_does_where_no_byte_says_where_a_message_ends(void **state)
{
	(void)state;
	play(&bytes_format, 80, 1500);
}

/* ---- single claims ---- */

static struct reader *reader(size_t i)
{
	return &world.readers[i];
}

static void append(struct block *b)
{
	uint64_t formless = 0;
	int error;

	assert_true(stream_append(&world.stream, b, ++world.now_ns, &error));
	for (size_t i = 0; i < CURSORS; i++)
		if (world.readers[i].here && !world.readers[i].leaving)
			world.matched += enqueue_block(&world.readers[i], b, 0, &formless);
	block_unref(b);
}

static void append_text(const char *body)
{
	uint32_t n = 0;
	struct block *b;

	for (const char *p = body; *p != 0; p++)
		n += *p == '\n';
	b = block_of(body, strlen(body), n, RUN_LINES);
	for (const char *p = body; *p != 0;) {
		const char *stop = strchr(p, '\r');

		remember(p, (size_t)(stop - p), false);
		p = stop + 2;
	}
	append(b);
}

static void append_single(size_t len)
{
	append(random_single(len, false));
}

/* So many of the gathered bytes went out. */
static uint64_t sent(struct reader *r, size_t bytes)
{
	uint64_t delivered = stream_sent(&world.stream, &r->cursor, bytes);

	advance(r, bytes);
	tell(r, delivered);
	r->in_flight = false;
	return delivered;
}

static void gather(struct reader *r)
{
	r->flying_n = gather_from(&r->cursor, r->flying, 16);
	r->flying_bytes = 0;
	for (unsigned i = 0; i < r->flying_n; i++)
		r->flying_bytes += r->flying[i].iov_len;
	check_spans(r);
	r->in_flight = true;
}

static void send_all(struct reader *r)
{
	while (!at_end(r)) {
		gather(r);
		sent(r, r->flying_bytes);
	}
}

static void leave(struct reader *r)
{
	stream_leave(&world.stream, &r->cursor);
	r->leaving = true;
}

static void what_was_appended_goes_out_in_one_span(void **state)
{
	(void)state;
	do_join(reader(0));
	for (int i = 0; i < 20; i++)
		append_text("eins\r\nzwei\r\n");
	gather(reader(0));
	assert_int_equal(reader(0)->flying_n, 1);
	assert_int_equal(sent(reader(0), reader(0)->flying_bytes), 40);
	check_world();
}

static void warm_chunk_is_used_again_when_all_stand_at_the_head(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++)
		do_join(reader(i));
	for (int round = 0; round < 1000; round++) {
		append_text("a message\r\n");
		for (size_t i = 0; i < 3; i++)
			send_all(reader(i));
	}
	assert_int_equal(world.stream.chunks, 1);
	assert_int_equal(world.stream.rewinds, 999);
}

static void large_payload_is_referenced_and_not_copied(void **state)
{
	struct block *b;

	(void)state;
	do_join(reader(0));
	do_join(reader(1));
	b = random_single(STREAM_REFERENCE_BYTES, false);
	block_ref(b, 1);
	append(b);
	assert_int_equal(atomic_load(&b->holders), 2);
	gather(reader(0));
	assert_int_equal(reader(0)->flying_n, 3);
	assert_ptr_equal(reader(0)->flying[1].iov_base, block_body(b));
	assert_int_equal(reader(0)->flying[1].iov_len, STREAM_REFERENCE_BYTES);
	sent(reader(0), reader(0)->flying_bytes);
	assert_int_equal(atomic_load(&b->holders), 2);
	send_all(reader(1));
	assert_true(stream_rest(&world.stream));
	(void)segments_let_go(UINT_MAX);
	assert_int_equal(atomic_load(&b->holders), 1);
	block_unref(b);
}

static void large_message_goes_out_in_pieces_of_a_mebibyte(void **state)
{
	struct reader *r = reader(0);

	(void)state;
	do_join(r);
	append_single(3 * STREAM_SEND_PIECE_BYTES);
	gather(r);
	assert_int_equal(r->flying_bytes, STREAM_SEND_PIECE_BYTES);
	/* A piece is short: the next one begins there. */
	assert_int_equal(sent(r, r->flying_bytes - 500), 0);
	gather(r);
	assert_int_equal(r->flying_bytes, STREAM_SEND_PIECE_BYTES);
	assert_int_equal(sent(r, r->flying_bytes), 0);
	gather(r);
	/* The rest, with what would have been a crumb. */
	assert_true(r->flying_bytes > STREAM_SEND_PIECE_BYTES);
	assert_true(r->flying_bytes <= STREAM_SEND_PIECE_MAX);
	assert_int_equal(sent(r, r->flying_bytes), 1);
}

static void one_send_of_small_messages_is_256_kib_at_most(void **state)
{
	struct reader *r = reader(0);
	uint32_t n = 40000;
	struct block *b;

	(void)state;
	do_join(r);
	/* In one block, and so in one chunk. */
	b = random_lines(n, 0, false);
	assert_true(b->len > STREAM_SEND_BYTES);
	append(b);
	while (!at_end(r)) {
		gather(r);
		assert_true(r->flying_bytes <= STREAM_SEND_BYTES);
		sent(r, r->flying_bytes);
	}
	assert_int_equal(r->told, n);
}

/* Referenced where the block has them, as what it took in while its publisher had to wait. */
static void one_send_of_lines_as_they_came_is_256_kib_at_most(void **state)
{
	static const char line[] = "what has been gathered\r\n";
	enum { LINE = sizeof(line) - 1, LINES = 3 * STREAM_SEND_BYTES / LINE };
	char *lines = memory_new(LINES * LINE);
	struct iovec spans[16];
	struct cursor cursor;
	struct block *b;
	uint64_t told = 0;
	int error;

	(void)state;
	world_begin(&line_format, 1);
	for (unsigned i = 0; i < LINES; i++)
		memcpy(lines + (size_t)i * LINE, line, LINE);
	b = block_of(lines, LINES * LINE, LINES, RUN_LINES);
	assert_int_equal(stream_join(&world.stream, &cursor), 0);
	assert_true(stream_append(&world.stream, b, 1, &error));
	while (!stream_at_end(&world.stream, &cursor)) {
		size_t bytes = 0;
		unsigned n = gather_from(&cursor, spans, 16);

		for (unsigned i = 0; i < n; i++)
			bytes += spans[i].iov_len;
		assert_in_range(bytes, 1, STREAM_SEND_BYTES);
		told += stream_sent(&world.stream, &cursor, bytes);
	}
	assert_int_equal(told, LINES);
	assert_int_equal(stream_remove(&world.stream, &cursor), 0);
	assert_true(stream_rest(&world.stream));
	block_unref(b);
	memory_free(lines);
}

static void slow_cursor_holds_the_backlog_until_it_is_removed(void **state)
{
	struct stream *s = &world.stream;

	(void)state;
	do_join(reader(0));
	do_join(reader(1));
	for (int i = 0; i < 100; i++) {
		append_single(10000);
		send_all(reader(0));
	}
	assert_true(s->bytes >= 1000000);
	assert_int_equal(cursor_lag(s, &reader(0)->cursor), 0);
	assert_int_equal(cursor_lag(s, &reader(1)->cursor), stream_ready_lag(s));
	assert_true(stream_overrun(s, 1000000));
	do_remove(reader(1));
	assert_true(s->bytes < 200000);
	assert_true(stream_rest(s));
	assert_false(stream_overrun(s, 0));
}

static void overrun_is_asked_again_only_when_it_may_be_so_again(void **state)
{
	struct stream *s = &world.stream;

	(void)state;
	do_join(reader(0));
	append_single(1000);
	append_single(1000);
	assert_true(stream_overrun(s, 1500));
	gather(reader(0));
	sent(reader(0), 1200);
	stream_looked(s, cursor_lag(s, &reader(0)->cursor));
	assert_false(stream_overrun(s, 1500));
	append_single(1000);
	assert_true(stream_overrun(s, 1500));
}

static void replay_does_not_count_as_lag(void **state)
{
	struct stream *s = &world.stream;
	struct block *b;
	struct stretch held;
	uint64_t formless;

	(void)state;
	do_join(reader(0));
	b = random_single(50000, false);
	held = stretch_of(&b, 1, 1);
	block_ref(b, 1);
	append(b);
	/* Somebody else is behind, so that the live chain begins before the newcomer. */
	reset(reader(1));
	assert_int_equal(stream_join_replay(s, &reader(1)->cursor,
					    &(struct past){ .from = 1, .next = 2, .held = &held },
					    &formless),
			 0);
	stretch_release(&held);
	enqueue_block(reader(1), b, 0, &formless);
	reader(1)->live = 1;
	assert_int_equal(cursor_lag(s, &reader(1)->cursor), 0);
	append_single(10);
	assert_int_equal(cursor_lag(s, &reader(1)->cursor), sizeof("[2]\n") - 1 + 10);
	block_unref(b);
}

static void skipping_finishes_the_message_begun_and_goes_on_at_the_head(void **state)
{
	struct reader *r = reader(0);
	int error;

	(void)state;
	do_join(r);
	append_text("eins\r\nzwei\r\ndrei\r\nvier\r\n");
	gather(r);
	sent(r, sizeof("[1]eins\n[2]z") - 1);
	settle_count(r);
	assert_int_equal(r->told, 1);
	assert_int_equal(stream_skip(&world.stream, &r->cursor, &error), 2);
	assert_true(cursor_detached(&r->cursor));
	r->last = r->first + 1;
	append_text("neu\r\n");
	gather(r);
	assert_memory_equal(r->flying[0].iov_base, "wei\n", 4);
	sent(r, r->flying_bytes);
	assert_false(cursor_detached(&r->cursor));
	gather(r);
	assert_memory_equal(r->flying[0].iov_base, "[5]neu\n", 7);
	assert_int_equal(sent(r, r->flying_bytes), 1);
}

static void one_that_skips_to_its_end_lacks_nothing_and_looks_at_nothing(void **state)
{
	struct reader *r = reader(0);

	(void)state;
	do_join(r);
	append_text("eins\r\nzwei\r\ndrei\r\n");
	gather(r);
	sent(r, sizeof("[1]eins\n") - 1);
	settle_count(r);
	leave(r);
	assert_true(cursor_backlog(&world.stream, &r->cursor) > 0);
	do_skip(r);
	/* The chunk that it was to end in has gone. */
	assert_null(r->cursor.last);
	assert_int_equal(cursor_backlog(&world.stream, &r->cursor), 0);
}

/* What a stuck send carries then is the rest of one message and nothing that skipping again would
 * throw away. */
static void skipping_again_leaves_a_send_in_flight_alone(void **state)
{
	struct reader *r = reader(0);

	(void)state;
	do_join(r);
	do_join(reader(1));
	append_text("eins\r\nzwei\r\n");
	gather(r);
	sent(r, 2);
	do_skip(r);
	append_text("drei\r\n");
	gather(r);
	for (int i = 0; i < 5; i++) {
		append_single(30000);
		send_all(reader(1));
		do_skip(r);
	}
	check_spans(r);
	sent(r, r->flying_bytes);
	check_world();
	append_text("vier\r\n");
	send_all(r);
	settle();
}

static void nothing_is_skipped_at_the_end(void **state)
{
	struct reader *r = reader(0);

	(void)state;
	do_join(r);
	do_skip(r);
	append_text("eins\r\n");
	send_all(r);
	do_skip(r);
	check_world();
	leave(r);
	do_skip(r);
	check_world();
}

static void leaving_cursor_that_skips_gets_nothing_of_what_came_later(void **state)
{
	struct reader *r = reader(0);

	(void)state;
	do_join(r);
	do_join(reader(1));
	append_text("eins\r\nzwei\r\n");
	gather(r);
	sent(r, 2);
	leave(r);
	append_text("drei\r\n");
	do_skip(r);
	assert_int_equal(r->last - r->first, 1);
	check_world();
	send_all(r);
	check_world();
	settle();
}

static void leaving_cursor_gets_nothing_appended_later(void **state)
{
	struct reader *r = reader(0);

	(void)state;
	do_join(r);
	do_join(reader(1));
	append_text("eins\r\n");
	leave(r);
	append_text("zwei\r\n");
	assert_int_equal(r->last - r->first, 1);
	settle();
	assert_false(r->here);
}

static void behind_since_the_chunk_after_its_own_was_opened(void **state)
{
	struct reader *r = reader(0);

	(void)state;
	do_join(r);
	assert_int_equal(cursor_behind_since(&r->cursor), 0);
	world.now_ns = 1000;
	append_single(1500);
	gather(r);
	/* All it lacks may be new. */
	assert_int_equal(cursor_behind_since(&r->cursor), 0);
	world.now_ns = 5000;
	append_single(3000);
	assert_int_equal(cursor_behind_since(&r->cursor), 5001);
	world.now_ns = 9000;
	append_single(60000);
	assert_int_equal(cursor_behind_since(&r->cursor), 5001);
	sent(r, r->flying_bytes);
	send_all(r);
	assert_int_equal(cursor_behind_since(&r->cursor), 0);
}

static void idle_stream_holds_no_chunk(void **state)
{
	(void)state;
	for (size_t i = 0; i < CURSORS; i++)
		do_join(reader(i));
	append_text("eins\r\n");
	assert_false(stream_rest(&world.stream));
	settle();
	assert_null(world.stream.head);
	/* And those who stood there find the next one. */
	append_text("zwei\r\n");
	settle();
}

static void stream_that_nobody_reads_can_be_released(void **state)
{
	(void)state;
	append_single(100);
	append_single(100000);
	append_single(100);
}

static void thousand_slow_cursors_cost_one_backlog(void **state)
{
	struct cursor *cursors = calloc(1000, sizeof(*cursors));
	struct block *b;
	int error;

	(void)state;
	assert_non_null(cursors);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(stream_join(&world.stream, &cursors[i]), 0);
	b = random_single(STREAM_SEND_PIECE_BYTES, false);
	assert_true(stream_append(&world.stream, b, 1, &error));
	assert_true(world.stream.bytes < STREAM_SEND_PIECE_BYTES + 4096);
	assert_int_equal(atomic_load(&b->holders), 2);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(stream_remove(&world.stream, &cursors[i]), 1);
	block_unref(b);
	free(cursors);
}

/* ---- replays ---- */

/* A history of blocks and what all of it is when encoded. */
struct past_of {
	struct block **blocks;
	struct stretch held;
	size_t n;
	uint64_t messages;
	char *bytes;
	size_t len, *starts; /* of each message */
};

static struct past_of make_past(size_t blocks, uint32_t lines, size_t large)
{
	struct past_of p = { .n = blocks };

	p.blocks = calloc(blocks, sizeof(struct block *));
	assert_non_null(p.blocks);
	for (size_t i = 0; i < blocks; i++)
		p.blocks[i] = random_lines(lines, large, false);
	p.held = stretch_of(p.blocks, blocks, 1);
	p.messages = world.messages_n;
	p.starts = calloc(p.messages, sizeof(size_t));
	assert_non_null(p.starts);
	for (size_t i = 0; i < p.messages; i++) {
		p.starts[i] = p.len;
		p.len += world.messages[i].len;
	}
	p.bytes = malloc(p.len);
	assert_non_null(p.bytes);
	for (size_t i = 0; i < p.messages; i++)
		memcpy(p.bytes + p.starts[i], world.messages[i].bytes, world.messages[i].len);
	return p;
}

static void free_past(struct past_of *p)
{
	stretch_release(&p->held);
	for (size_t i = 0; i < p->n; i++) {
		(void)segments_let_go(UINT_MAX);
		assert_int_equal(atomic_load(&p->blocks[i]->holders), 1);
		block_unref(p->blocks[i]);
	}
	free(p->blocks);
	free(p->bytes);
	free(p->starts);
}

static void join_past(struct cursor *c, const struct past_of *p, uint64_t from)
{
	struct stretch held = stretch_of(p->blocks, p->n, from);
	const struct past past = { .from = from, .next = p->messages + 1, .held = &held };
	uint64_t formless;

	assert_int_equal(stream_join_replay(&world.stream, c, &past, &formless), 0);
	assert_int_equal(formless, 0);
	assert_int_equal(world.stream.count - c->counted, p->messages + 1 - from);
	stretch_release(&held);
}

/* One send of a replay, which goes out whole; returns where that leads in the encoded bytes. */
static size_t walk(struct cursor *c, const struct past_of *p, size_t at)
{
	struct iovec spans[16];
	unsigned n = gather_from(c, spans, 16);
	size_t bytes = 0;

	assert_true(n > 0);
	for (unsigned i = 0; i < n; i++) {
		assert_true(at + bytes + spans[i].iov_len <= p->len);
		assert_memory_equal(spans[i].iov_base, p->bytes + at + bytes, spans[i].iov_len);
		bytes += spans[i].iov_len;
	}
	assert_true(bytes <= STREAM_SEND_REPLAY_BYTES);
	stream_sent(&world.stream, c, bytes);
	return at + bytes;
}

static void thousand_replays_share_one_encoding(void **state)
{
	enum { READERS = 1000, BLOCKS = 400, LINES = 40 };
	struct cursor *cursors = calloc(READERS, sizeof(*cursors));
	size_t *at = calloc(READERS, sizeof(*at)), left = READERS;
	struct past_of past;

	(void)state;
	assert_non_null(cursors);
	assert_non_null(at);
	past = make_past(BLOCKS, LINES, 0);
	encoded_runs = 0;
	for (size_t i = 0; i < READERS; i++) {
		/* The history need not be given twice to who begins where somebody stands. */
		uint64_t from = i % 3 == 0 ? 1 + below(past.messages) : 1 + i % 3 * LINES;

		join_past(&cursors[i], &past, from);
		at[i] = past.starts[from - 1];
	}
	while (left > 0) {
		size_t i = below(READERS);

		for (; at[i] == past.len; i = (i + 1) % READERS)
			;
		at[i] = walk(&cursors[i], &past, at[i]);
		if (at[i] < past.len)
			continue;
		assert_true(stream_at_end(&world.stream, &cursors[i]));
		left--;
	}
	/* Each block once, and in as many pieces more as somebody has begun in the middle of one
	 * that was not encoded yet. */
	assert_true(encoded_runs >= BLOCKS && encoded_runs <= BLOCKS + READERS / 3 + 2);
	for (size_t i = 0; i < READERS; i++)
		assert_int_equal(stream_remove(&world.stream, &cursors[i]), 0);
	free_past(&past);
	free(at);
	free(cursors);
}

static void past_is_encoded_as_far_as_somebody_has_come(void **state)
{
	struct past_of past;
	struct cursor c;
	size_t at = 0;

	(void)state;
	past = make_past(64, 4, 100000);
	encoded_bytes = 0;
	join_past(&c, &past, 1);
	assert_int_equal(encoded_bytes, 0);
	while (at < past.len) {
		at = walk(&c, &past, at);
		assert_in_range(encoded_bytes, at, at + 110000 + (256 << 10));
	}
	assert_int_equal(encoded_bytes, past.len);
	assert_int_equal(stream_remove(&world.stream, &c), 0);
	free_past(&past);
}

/* Once for everybody, who comes back in the middle of it too; until then it takes up next to
 * nothing. */
static void what_grows_much_is_encoded_when_the_first_comes_to_it(void **state)
{
	enum { BLOCKS = 5, MESSAGES = 40000, MIDDLE = 2 * MESSAGES + 12345, AHEAD = 600 << 10 };
	struct stream *s = &world.stream;
	struct reader *first = &world.readers[0], *last = &world.readers[1],
		      *back = &world.readers[2];
	struct block *blocks[BLOCKS];
	struct past past = { .from = MIDDLE, .next = BLOCKS * MESSAGES + 1 };
	uint64_t formless = 0, unknown;
	struct stretch held;
	size_t len = 0;

	(void)state;
	do_join(first);
	do_join(last);
	encoded_bytes = 0;
	for (unsigned i = 0; i < BLOCKS; i++) {
		blocks[i] = random_flood(MESSAGES);
		block_ref(blocks[i], 1);
		append(blocks[i]);
	}
	held = stretch_of(blocks, BLOCKS, past.from);
	past.held = &held;
	reset(back);
	for (unsigned i = 2; i < BLOCKS; i++)
		enqueue_block(back, blocks[i], i == 2 ? MIDDLE - 2 * MESSAGES - 1 : 0, &formless);
	back->live = back->last;
	assert_int_equal(stream_join_replay(s, &back->cursor, &past, &unknown), 0);
	stretch_release(&held);
	for (size_t i = 0; i < world.messages_n; i++)
		len += world.messages[i].len;
	assert_int_equal(encoded_bytes, 0);
	assert_true(s->bytes < 4096);
	for (size_t at = 0; !at_end(first);) {
		uint32_t block = (first->queue[first->first] - 1) / MESSAGES;

		check_lag(first);
		gather(first);
		assert_in_range(cursor_behind_since(&first->cursor), block + 1, block + 2);
		assert_in_range(first->flying_bytes, 1, STREAM_SEND_BYTES);
		at += first->flying_bytes;
		assert_in_range(encoded_bytes, at, at + AHEAD);
		sent(first, first->flying_bytes);
		assert_true(s->bytes <= 2 * encoded_bytes + (64 << 10));
	}
	assert_int_equal(cursor_lag(s, &first->cursor), 0);
	check_lag(last);
	send_all(back);
	send_all(last);
	assert_int_equal(encoded_bytes, len);
	assert_true(stream_rest(s));
	for (unsigned i = 0; i < BLOCKS; i++) {
		(void)segments_let_go(UINT_MAX);
		assert_int_equal(atomic_load(&blocks[i]->holders), 1);
		block_unref(blocks[i]);
	}
}

static void replay_becomes_live_where_it_joined(void **state)
{
	struct stream *s = &world.stream;
	struct past_of past;
	struct cursor c;
	size_t at = 0;

	(void)state;
	past = make_past(8, 2, 40000);
	join_past(&c, &past, 1);
	/* Too much to go out with the last of the past. */
	append_single(STREAM_SEND_REPLAY_BYTES);
	while (at < past.len) {
		assert_int_equal(length(&s->replaying), 1);
		assert_int_equal(length(&s->ready), 0);
		at = walk(&c, &past, at);
	}
	assert_int_equal(length(&s->replaying), 0);
	assert_int_equal(length(&s->ready), 1);
	assert_int_equal(stream_remove(s, &c), 1);
	free_past(&past);
}

/* What others hold is not made again, and what nobody needs any more is let go. */
static void replays_share_what_is_pending(void **state)
{
	struct past_of past;
	struct cursor first, second, third;

	(void)state;
	past = make_past(10, 5, 0);
	stretch_release(&past.held);
	join_past(&first, &past, 26);
	/* By segments. */
	(void)segments_let_go(UINT_MAX);
	assert_int_equal(atomic_load(&past.blocks[3]->holders), 1);
	assert_int_equal(world.stream.whole->seq, 26);
	join_past(&second, &past, 3);
	assert_int_equal(world.stream.whole->seq, 3);
	join_past(&third, &past, 31);
	assert_int_equal(world.stream.whole->seq, 3);
	assert_int_equal(stream_remove(&world.stream, &second), 48);
	assert_int_equal(world.stream.whole->seq, 26);
	assert_int_equal(stream_remove(&world.stream, &first), 25);
	assert_int_equal(world.stream.whole->seq, 31);
	assert_int_equal(stream_remove(&world.stream, &third), 20);
	assert_int_equal(world.stream.cursors, 0);
	assert_true(stream_rest(&world.stream));
	free_past(&past);
}

/* Not before: there may be very many, and none of them is looked at when a cursor joins. */
static void what_has_no_form_is_counted_when_the_cursor_comes_to_it(void **state)
{
	enum { BLOCKS = 20000 };
	struct block **blocks = calloc(BLOCKS, sizeof(*blocks));
	struct past past = { .from = 1, .next = BLOCKS + 1 };
	struct stretch held;
	struct iovec spans[16];
	struct cursor c;
	uint64_t formless;
	unsigned gathers = 0, n;

	(void)state;
	assert_non_null(blocks);
	for (size_t i = 0; i < BLOCKS; i++)
		blocks[i] = random_single(10, i + 1 < BLOCKS);
	held = stretch_of(blocks, BLOCKS, 1);
	past.held = &held;
	assert_int_equal(stream_join_replay(&world.stream, &c, &past, &formless), 0);
	assert_int_equal(formless, 0);
	assert_int_equal(world.dropped, 0);
	for (; (n = gather_from(&c, spans, 16)) == 0; gathers++) {
		uint64_t before = world.dropped;

		stream_unhold(&world.stream, &c);
		/* Some at a time. */
		assert_true(world.dropped - before < BLOCKS / 4);
	}
	assert_true(gathers > 3);
	assert_int_equal(n, 1);
	assert_int_equal(world.dropped, BLOCKS - 1);
	assert_int_equal(stream_sent(&world.stream, &c, c.goal_bytes), 1);
	assert_int_equal(stream_remove(&world.stream, &c), 0);
	stretch_release(&held);
	for (size_t i = 0; i < BLOCKS; i++)
		block_unref(blocks[i]);
	free(blocks);
}

/* A format in which an empty line has no bytes. */
static uint32_t silencing_encodable(const struct wire *wire, const struct run *run)
{
	struct run rest = *run;
	struct span message;
	uint32_t n = 0;

	(void)wire;
	while (run_next(&rest, &message))
		n += message.len > 0;
	return n;
}

static size_t silencing_encode(const struct wire *wire, const struct run *run, char *out)
{
	struct run rest = *run;
	struct span message;
	size_t n = 0;

	(void)wire;
	while (run_next(&rest, &message)) {
		const struct run one = { .body = message, .messages = 1, .seq = rest.seq - 1 };

		if (message.len > 0)
			n += tagged_encode(wire, &one, out + n);
	}
	return n;
}

static void replay_from_among_messages_without_bytes_begins_where_it_should(void **state)
{
	static const struct wire_format silencing = { .name = "silencing",
						      .encodable = silencing_encodable,
						      .encoded_max = tagged_max,
						      .encode = silencing_encode,
						      .boundary = tagged_boundary };
	struct block *b[2];

	(void)state;
	world_begin(&silencing, 1);
	b[0] = block_of("a\r\n\r\nc\r\n\r\ne\r\n", 13, 5, RUN_LINES);
	world.messages_n = 5;
	b[1] = block_of("f\r\n", 3, 1, RUN_LINES);
	world.messages_n = 6;
	/* All that is live, all of the past, and what others have already. */
	for (int shared = 0; shared < 3; shared++) {
		struct cursor first;
		int error;

		assert_int_equal(stream_join(&world.stream, &first), 0);
		if (shared > 0) {
			assert_true(stream_append(&world.stream, b[0], 1, &error));
			assert_true(stream_append(&world.stream, b[1], 1, &error));
		}
		for (uint64_t from = 1; from <= 6; from++) {
			static const char *const expected[] = { "[1]a\n[3]c\n[5]e\n[6]f\n",
								"[3]c\n[5]e\n[6]f\n",
								"[3]c\n[5]e\n[6]f\n",
								"[5]e\n[6]f\n",
								"[5]e\n[6]f\n",
								"[6]f\n" };
			struct stretch held = stretch_of(b, 2, from);
			const struct past past = { .from = from, .next = 7, .held = &held };
			uint64_t formless, later = 0;
			struct cursor c;
			char got[64] = "";
			size_t n = 0;

			assert_int_equal(stream_join_replay(&world.stream, &c, &past, &formless),
					 0);
			stretch_release(&held);
			world.stream.unencodable = &later;
			while (!stream_at_end(&world.stream, &c)) {
				struct iovec spans[16];
				unsigned spans_n = gather_from(&c, spans, 16);
				size_t bytes = 0;

				for (unsigned i = 0; i < spans_n; i++) {
					memcpy(got + n + bytes, spans[i].iov_base,
					       spans[i].iov_len);
					bytes += spans[i].iov_len;
				}
				stream_sent(&world.stream, &c, bytes);
				n += bytes;
			}
			assert_string_equal(got, expected[from - 1]);
			assert_int_equal(formless + later, (from <= 2) + (from <= 4));
			assert_int_equal(stream_remove(&world.stream, &c), 0);
		}
		(void)stream_remove(&world.stream, &first);
		assert_true(stream_rest(&world.stream));
	}
	world.messages_n = 0;
	block_unref(b[0]);
	block_unref(b[1]);
	world_end();
}

#define REFERENCING(name) cmocka_unit_test_setup_teardown(name, begin_referencing, end)
#define COPYING(name) cmocka_unit_test_setup_teardown(name, begin_copying, end)

static size_t tagged_gap(const struct wire *wire, uint64_t epoch, uint64_t seq, char *out)
{
	(void)wire;
	return (size_t)sprintf(out, "gap %llx:%llu\n", (unsigned long long)epoch,
			       (unsigned long long)seq);
}

static void stream_with_gaps_append(struct stream *s, const char *text, uint64_t seq)
{
	struct block *b = block_new(SPAN("topic"), 1, strlen(text));
	int error;

	memcpy(block_body(b), text, strlen(text));
	b->len = strlen(text);
	b->messages = 1;
	b->form = RUN_ONE;
	b->seq = seq;
	assert_int_equal(stream_append(s, b, 1, &error), 1);
	block_unref(b);
}

static void take_all(struct stream *s, struct cursor *c, const char *expected, uint64_t messages)
{
	struct iovec spans[16];
	char got[256];
	size_t n = 0;
	uint64_t told = 0;

	while (!stream_at_end(s, c)) {
		int count = stream_gather(s, c, spans, 16);
		size_t bytes = 0;

		assert_true(count > 0);
		for (int i = 0; i < count; i++) {
			memcpy(got + n + bytes, spans[i].iov_base, spans[i].iov_len);
			bytes += spans[i].iov_len;
		}
		n += bytes;
		told += stream_sent(s, c, bytes);
	}
	got[n] = 0;
	assert_string_equal(got, expected);
	assert_int_equal(told, messages);
}

static void a_gap_is_told_in_its_place_and_counts_as_a_message(void **state)
{
	struct wire_format format = copying;
	const struct wire wire = { .format = &format };
	struct cursor early, late;
	struct stream s;

	(void)state;
	format.gap = tagged_gap;
	stream_init(&s, &wire);
	assert_int_equal(stream_join(&s, &early), 0);
	stream_with_gaps_append(&s, "a", 1);
	assert_true(stream_tell_gap(&s, 0xab, 2, 2, 1));
	assert_int_equal(stream_join(&s, &late), 0);
	stream_with_gaps_append(&s, "b", 2);
	take_all(&s, &early, "[1]a\ngap ab:2\n[2]b\n", 3);
	/* Whoever comes behind it misses nothing. */
	take_all(&s, &late, "[2]b\n", 1);
	assert_int_equal(stream_remove(&s, &early), 0);
	assert_int_equal(stream_remove(&s, &late), 0);
	stream_release(&s);
	/* Where there are no words for it, nothing is said. */
	stream_init(&s, &(struct wire){ .format = &copying });
	assert_false(stream_tell_gap(&s, 0xab, 2, 2, 1));
	stream_release(&s);
}

/* Of those that are not gone over the chunk stays known. */
static size_t that_stand_in_a_chunk(const struct cursor *cursors, size_t n)
{
	size_t in = 0;

	for (size_t i = 0; i < n; i++)
		in += cursors[i].chunk != NULL;
	return in;
}

static void send_to_all(struct stream *s, struct cursor *cursors, size_t n, struct block *b)
{
	struct iovec spans[8];
	int error;

	assert_int_equal(stream_append(s, b, 1, &error), 1);
	for (size_t i = 0; i < n; i++) {
		assert_true(stream_gather(s, &cursors[i], spans, 8) > 0);
		assert_int_equal(stream_sent(s, &cursors[i], cursors[i].goal_bytes), 1);
	}
	b->seq++;
}

static void a_stream_of_many_cursors_rests_without_going_over_them(void **state)
{
	enum { MANY = 2000, LARGE = 1 << 20 };
	const struct wire wire = { &line_format, { NULL, 0 } };
	struct cursor *cursors = calloc(MANY, sizeof(*cursors));
	struct block *small = block_of("m\r\n", 3, 1, RUN_LINES), *large;
	char *lines = malloc(LARGE);
	struct stream s;

	(void)state;
	assert_non_null(cursors);
	stream_init(&s, &wire);
	for (size_t i = 0; i < MANY; i++)
		assert_int_equal(stream_join(&s, &cursors[i]), 0);
	send_to_all(&s, cursors, MANY, small);
	assert_true(stream_rest(&s));
	assert_int_equal(that_stand_in_a_chunk(cursors, MANY), MANY);
	assert_non_null(lines);
	memset(lines, 'm', LARGE);
	memcpy(lines + LARGE - 2, "\r\n", 2);
	large = block_of(lines, LARGE, 1, RUN_LINES);
	large->seq = small->seq;
	send_to_all(&s, cursors, MANY, large);
	/* This is worth it. */
	assert_true(stream_rest(&s));
	assert_int_equal(that_stand_in_a_chunk(cursors, MANY), 0);
	(void)segments_let_go(UINT_MAX);
	assert_int_equal(atomic_load(&large->holders), 1);
	for (size_t i = 0; i < MANY; i++)
		(void)stream_remove(&s, &cursors[i]);
	stream_release(&s);
	block_unref(small);
	block_unref(large);
	free(lines);
	free(cursors);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_of_many_cursors_rests_without_going_over_them),
		REFERENCING(what_was_appended_goes_out_in_one_span),
		REFERENCING(warm_chunk_is_used_again_when_all_stand_at_the_head),
		REFERENCING(large_payload_is_referenced_and_not_copied),
		REFERENCING(large_message_goes_out_in_pieces_of_a_mebibyte),
		REFERENCING(one_send_of_small_messages_is_256_kib_at_most),
		REFERENCING(slow_cursor_holds_the_backlog_until_it_is_removed),
		REFERENCING(overrun_is_asked_again_only_when_it_may_be_so_again),
		REFERENCING(replay_does_not_count_as_lag),
		REFERENCING(skipping_finishes_the_message_begun_and_goes_on_at_the_head),
		REFERENCING(one_that_skips_to_its_end_lacks_nothing_and_looks_at_nothing),
		REFERENCING(skipping_again_leaves_a_send_in_flight_alone),
		REFERENCING(nothing_is_skipped_at_the_end),
		REFERENCING(leaving_cursor_that_skips_gets_nothing_of_what_came_later),
		REFERENCING(leaving_cursor_gets_nothing_appended_later),
		REFERENCING(behind_since_the_chunk_after_its_own_was_opened),
		REFERENCING(idle_stream_holds_no_chunk),
		REFERENCING(stream_that_nobody_reads_can_be_released),
		REFERENCING(thousand_slow_cursors_cost_one_backlog),
		COPYING(thousand_replays_share_one_encoding),
		COPYING(what_grows_much_is_encoded_when_the_first_comes_to_it),
		COPYING(past_is_encoded_as_far_as_somebody_has_come),
		REFERENCING(replay_becomes_live_where_it_joined),
		REFERENCING(what_has_no_form_is_counted_when_the_cursor_comes_to_it),
		COPYING(replays_share_what_is_pending),
		cmocka_unit_test(one_send_of_lines_as_they_came_is_256_kib_at_most),
		cmocka_unit_test(replay_from_among_messages_without_bytes_begins_where_it_should),
		cmocka_unit_test(a_gap_is_told_in_its_place_and_counts_as_a_message),
		cmocka_unit_test(every_cursor_gets_what_its_own_queue_would_hold),
		cmocka_unit_test(so_it_does_when_everything_is_copied),
		cmocka_unit_test(so_it_does_where_no_byte_says_where_a_message_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
