#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "topic/block.h"
#include "topic/history.h"
#include "topic/interest.h"
#include "topic/stream.h"
#include "topic/topic.h"
#include "random.h"

/* A block of so many messages "m\r\n", with this much room. */
static struct block *block_of(uint32_t messages, size_t room)
{
	size_t len = (size_t)messages * 3;
	struct block *b = block_new(SPAN("a.topic"), 4711, len + room);

	assert_non_null(b);
	for (uint32_t i = 0; i < messages; i++)
		memcpy(block_body(b) + 3 * i, "m\r\n", 3);
	b->len = len;
	b->messages = messages;
	b->form = RUN_LINES;
	return b;
}

/* ---- block ---- */

static void block_carries_its_topic_and_grows_in_place(void **state)
{
	struct block *b = block_new(SPAN("a.topic"), 4711, 4);
	size_t moves = 0;

	(void)state;
	assert_non_null(b);
	for (size_t i = 0; i < 100000; i++) {
		size_t capacity = b->capacity;

		b = block_reserve(b, 1);
		assert_non_null(b);
		moves += b->capacity != capacity;
		block_body(b)[b->len++] = (char)('a' + i % 26);
	}
	/* Not once for every piece that comes. */
	assert_true(moves < 20);
	for (size_t i = 0; i < 100000; i++)
		assert_int_equal(block_body(b)[i], 'a' + i % 26);
	assert_true(span_equal(block_name(b), SPAN("a.topic")));
	assert_int_equal(b->hash, 4711);
	assert_int_equal(b->letter.kind, LETTER_PUBLISH);
	assert_true(list_empty(&b->age));
	b = block_trim(b);
	assert_true(b->capacity < 100000 + 4096);
	assert_int_equal(block_body(b)[99999], 'a' + 99999 % 26);
	assert_true(list_empty(&b->age));
	assert_int_equal(block_bytes(b), sizeof(*b) + 7 + b->capacity);
	block_unref(b);
}

static void last_holder_frees_a_block(void **state)
{
	struct block *b = block_of(1, 0);

	(void)state;
	block_ref(b, 3);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(block_body(b)[0], 'm');
		block_unref(b);
	}
}

static void run_of_a_block_begins_at_any_of_its_messages(void **state)
{
	struct block *b = block_of(5, 0);
	struct run run;

	(void)state;
	b->seq = 100;
	b->epoch = 7;
	for (uint32_t skip = 0; skip <= 5; skip++) {
		run = block_part(b, skip, 5 - skip);
		assert_int_equal(run.seq, 100 + skip);
		assert_int_equal(run.messages, 5 - skip);
		assert_int_equal(run.body.len, 3 * (5 - skip));
		assert_int_equal(run.epoch, 7);
		assert_int_equal(run.form, RUN_LINES);
	}
	block_unref(b);
}

/* Against a walk from the start, for lines that are mostly empty and for records. */
static void check_parts(enum run_form form, uint32_t messages)
{
	struct block *b = block_new(SPAN("a.topic"), 4711, (size_t)messages * 12);
	size_t *starts = calloc(messages + 1, sizeof(*starts));
	char *at;

	assert_non_null(b);
	assert_non_null(starts);
	at = block_body(b);
	for (uint32_t i = 0; i < messages; i++) {
		const struct span message = { "12345678", below(3) == 0 ? below(9) : 0 };

		if (form == RUN_RECORDS) {
			at = record_put(at, message);
		} else {
			memcpy(at, message.data, message.len);
			memcpy(at + message.len, "\r\n", 2);
			at += message.len + 2;
		}
		starts[i + 1] = (size_t)(at - block_body(b));
	}
	b->len = starts[messages];
	b->messages = messages;
	b->form = (uint8_t)form;
	b->seq = 1000;
	for (uint32_t first = 0; first <= messages; first += 1 + (uint32_t)below(70)) {
		uint32_t n = (uint32_t)below(messages - first + 1);
		struct run part = block_part(b, first, n);

		assert_ptr_equal(part.body.data, block_body(b) + starts[first]);
		assert_int_equal(part.body.len, starts[first + n] - starts[first]);
		assert_int_equal(part.messages, n);
		assert_int_equal(part.seq, 1000 + first);
		assert_int_equal(part.form, form);
	}
	/* No message is looked for from the start of many. */
	assert_int_equal(b->ends != NULL, messages >= 2 * BLOCK_INDEX_STEP);
	block_unref(b);
	free(starts);
}

static void part_of_a_long_block_is_what_a_walk_finds(void **state)
{
	static const uint32_t sizes[] = { 1, 63, 64, 127, 128, 129, 640, 5000 };

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		check_parts(RUN_LINES, sizes[i]);
		check_parts(RUN_RECORDS, sizes[i]);
	}
}

/* ---- history ---- */

/* The i-th, by walking from the oldest. */
static struct block *nth(const struct history *h, uint32_t i)
{
	struct block *b = history_first(h);

	while (i-- > 0) {
		b = history_find(h, b->seq + b->messages);
		assert_non_null(b);
	}
	return b;
}

static const struct history_limits unlimited = { UINT64_MAX, UINT64_MAX, UINT64_MAX };

/* Whatever is held is without a hole and ends with the newest; sums are right. */
static void check_history(const struct history *h, uint64_t newest)
{
	uint64_t messages = 0, bytes = 0, next = 0;

	for (uint32_t i = 0; i < h->blocks_n; i++) {
		const struct block *b = nth(h, i);

		if (i > 0)
			assert_int_equal(b->seq, next);
		next = b->seq + b->messages;
		messages += b->messages;
		bytes += b->len;
	}
	if (h->blocks_n > 0)
		assert_int_equal(next, newest + 1);
	assert_int_equal(h->messages, messages);
	assert_int_equal(h->bytes, bytes);
}

static void check_total(const struct history_total *total, const struct history *const *histories,
			size_t n)
{
	uint64_t bytes = 0, last = 0;
	size_t blocks = 0, listed = 0;

	for (size_t k = 0; k < n; k++) {
		blocks += histories[k]->blocks_n;
		for (uint32_t i = 0; i < histories[k]->blocks_n; i++)
			bytes += block_bytes(nth(histories[k], i));
	}
	assert_int_equal(total->bytes, bytes);
	for (struct list *l = total->blocks.next; l != &total->blocks; l = l->next) {
		const struct block *b = LIST_ENTRY(l, struct block, age);

		assert_true(b->stamped_ns >= last);
		last = b->stamped_ns;
		listed++;
	}
	assert_int_equal(listed, blocks);
}

static void history_keeps_to_its_limits_and_never_has_a_hole(void **state)
{
	(void)state;
	for (int round = 0; round < 300; round++) {
		const struct history_limits limits = {
			.messages = below(4) == 0 ? UINT64_MAX : below(200),
			.bytes = below(2) == 0 ? UINT64_MAX : below(2000),
			.age_ns = below(2) == 0 ? UINT64_MAX : below(5000),
		};
		struct history_total total;
		struct history h[2] = { { 0 }, { 0 } };
		const struct history *const both[2] = { &h[0], &h[1] };
		uint64_t newest[2] = { 0, 0 }, now_ns = 1000;

		history_total_init(&total, below(3) == 0 ? 5000 : UINT64_MAX);
		for (int i = 0; i < 200; i++) {
			unsigned k = (unsigned)below(2);
			struct block *b = block_of(1 + (uint32_t)below(30), below(50));

			now_ns += below(300);
			b->seq = newest[k] + 1;
			b->stamped_ns = now_ns;
			newest[k] += b->messages;
			history_add(&h[k], &total, b, &limits);
			(void)history_let_go(&total, UINT_MAX);
			/* The total is bounded by its owner, who knows whose the oldest is. */
			while (total.bytes > total.bytes_max) {
				struct list *oldest = total.blocks.next;

				history_drop_oldest(
					h[0].blocks_n > 0 && &history_first(&h[0])->age == oldest
						? &h[0]
						: &h[1],
					&total);
			}
			check_history(&h[k], newest[k]);
			check_total(&total, both, 2);
			assert_true(h[k].bytes <= limits.bytes);
			if (h[k].blocks_n > 0) {
				const struct block *oldest = history_first(&h[k]);

				assert_true(now_ns - oldest->stamped_ns <= limits.age_ns);
				/* One block less would be too few. */
				assert_true(h[k].messages - oldest->messages < limits.messages);
			} else if (limits.messages > 0 && b->len <= limits.bytes) {
				assert_true(block_bytes(b) > total.bytes_max);
			}
			block_unref(b);
			if (below(10) == 0) {
				now_ns += below(3000);
				history_trim(&h[k], &total, &limits, now_ns);
				(void)history_let_go(&total, UINT_MAX);
				check_history(&h[k], newest[k]);
				check_total(&total, both, 2);
			}
		}
		history_release(&h[0], &total);
		history_release(&h[1], &total);
		(void)history_let_go(&total, UINT_MAX);
		check_total(&total, both, 2);
		assert_int_equal(total.bytes, 0);
	}
}

enum { DEEP = 3000 };

static void deepen(struct history *h, struct history_total *total)
{
	const struct history_limits none = { UINT64_MAX, UINT64_MAX, UINT64_MAX };
	uint64_t seq = 1;

	for (unsigned i = 0; i < DEEP; i++) {
		struct block *b = block_of(1 + (uint32_t)below(4), below(20));

		b->seq = seq;
		b->stamped_ns = 1000 + i;
		seq += b->messages;
		history_add(h, total, b, &none);
		block_unref(b);
	}
}

/* What is left when one block after the other goes. */
static struct history one_by_one(const struct history *h, const struct history_limits *limits,
				 uint64_t now_ns)
{
	struct history left = *h;

	while (left.blocks_n > 0) {
		const struct block *b = history_first(&left);

		if (left.messages - b->messages < limits->messages && left.bytes <= limits->bytes &&
		    now_ns - b->stamped_ns <= limits->age_ns)
			break;
		left.blocks_n--;
		left.messages -= b->messages;
		left.bytes -= b->len;
		if (++left.block < left.window->segments[left.segment]->n)
			continue;
		left.segment++;
		left.block = 0;
	}
	return left;
}

static void many_blocks_go_in_few_steps_and_are_let_go_of_in_parts(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 60; round++) {
		const struct history_limits limits = {
			.messages = round % 3 == 0 ? below(3 * DEEP) : UINT64_MAX,
			.bytes = round % 3 == 1 ? below(10 * DEEP) : UINT64_MAX,
			.age_ns = round % 3 == 2 ? below(DEEP) : UINT64_MAX,
		};
		struct stretch held = { 0 };
		struct history_total total;
		struct history h = { 0 }, left;
		uint64_t newest, before;

		history_total_init(&total, UINT64_MAX);
		deepen(&h, &total);
		newest = history_first(&h)->seq + h.messages - 1;
		if (round % 2 == 0)
			held = history_hold(&h, newest / 2);
		left = one_by_one(&h, &limits, 1000 + DEEP);
		before = total.bytes;
		history_trim(&h, &total, &limits, 1000 + DEEP);
		assert_int_equal(h.blocks_n, left.blocks_n);
		assert_int_equal(h.messages, left.messages);
		assert_int_equal(h.bytes, left.bytes);
		if (h.blocks_n > 0) {
			check_history(&h, newest);
			assert_ptr_equal(history_first(&h), history_first(&left));
			assert_int_equal(h.floor, history_first(&h)->seq - 1);
		}
		/* A block of so few bytes takes a few hundred. */
		assert_true(before - total.bytes < 2 * HISTORY_DROPS * 300);
		while (before = total.bytes, history_let_go(&total, 10))
			assert_true(before - total.bytes < 10 * 300);
		if (round % 3 == 0)
			history_release(&h, &total);
		while (history_let_go(&total, 10))
			;
		assert_true(round % 3 != 0 || total.bytes == 0);
		history_release(&h, &total);
		(void)history_let_go(&total, UINT_MAX);
		assert_int_equal(total.bytes, 0);
		assert_true(list_empty(&total.blocks));
		if (held.window != NULL)
			assert_true(held.window->segments[held.segment]->blocks[held.block]->seq <=
				    newest / 2);
		stretch_release(&held);
	}
}

/* However long a history is, it costs a few steps to put something before it. */
static void what_is_put_before_others_leaves_their_segments_as_they_are(void **state)
{
	enum { PUT = 300 };
	const struct history_limits none = { UINT64_MAX, UINT64_MAX, UINT64_MAX };
	const struct segment *second, *last;
	struct history_total total;
	struct history h = { 0 };
	struct list past;
	unsigned listed = 0, kept = 0;
	uint64_t newest;

	(void)state;
	history_total_init(&total, UINT64_MAX);
	list_init(&past);
	deepen(&h, &total);
	newest = history_first(&h)->seq + h.messages - 1;
	for (unsigned i = 0; i < PUT; i++) {
		struct block *b = history_first(&h), *again = block_of(b->messages, 5);

		again->seq = b->seq;
		again->stamped_ns = 1000;
		list_append(&past, &again->age);
		history_drop_oldest(&h, &total);
	}
	second = h.window->segments[h.segment + 1];
	last = h.window->segments[h.window->n - 1];
	history_prepend(&h, &total, &past, 0, &none);
	assert_true(list_empty(&past));
	assert_int_equal(h.blocks_n, DEEP);
	assert_int_equal(history_first(&h)->seq, 1);
	assert_int_equal(h.floor, 0);
	check_history(&h, newest);
	for (struct list *l = total.blocks.next; l != &total.blocks; l = l->next) {
		assert_ptr_equal(LIST_ENTRY(l, struct block, age), nth(&h, listed));
		listed++;
	}
	assert_int_equal(listed, DEEP);
	for (uint32_t i = 0; i < h.window->n; i++)
		kept += h.window->segments[i] == second || h.window->segments[i] == last;
	assert_int_equal(kept, 2);
	history_release(&h, &total);
	(void)history_let_go(&total, UINT_MAX);
	assert_int_equal(total.bytes, 0);
}

/* Whoever replays may be the last to hold what its home has let go of long ago. */
static void what_a_replay_held_last_is_let_go_of_in_parts(void **state)
{
	enum { AT_ONCE = 10 };
	struct history_total total;
	struct history h = { 0 };
	struct stretch held;
	unsigned steps = 1;

	(void)state;
	(void)segments_let_go(UINT_MAX);
	history_total_init(&total, UINT64_MAX);
	deepen(&h, &total);
	held = history_hold(&h, 1);
	history_release(&h, &total);
	(void)history_let_go(&total, UINT_MAX);
	assert_false(segments_going());
	stretch_release(&held);
	assert_true(segments_going());
	while (segments_let_go(AT_ONCE))
		steps++;
	/* But for what was left of a segment with a few. */
	assert_in_range(steps, DEEP / AT_ONCE - 1, DEEP / AT_ONCE + 1);
	assert_false(segments_going());
}

static void what_cannot_be_kept_takes_what_came_before_with_it(void **state)
{
	const struct history_limits limits = { 100, 30, UINT64_MAX };
	struct history_total total;
	struct history h = { 0 };
	struct block *small = block_of(5, 0), *large = block_of(11, 0);

	(void)state;
	history_total_init(&total, UINT64_MAX);
	small->seq = 1;
	large->seq = 6;
	history_add(&h, &total, small, &limits);
	assert_int_equal(history_oldest(&h, &limits), 1);
	history_add(&h, &total, large, &limits);
	assert_int_equal(h.blocks_n, 0);
	assert_int_equal(history_oldest(&h, &limits), 0);
	(void)segments_let_go(UINT_MAX);
	assert_int_equal(atomic_load(&small->holders), 1);
	assert_int_equal(atomic_load(&large->holders), 1);
	block_unref(small);
	block_unref(large);
}

static void number_is_found_in_its_block_or_the_one_after(void **state)
{
	struct history_total total;
	struct history h = { 0 };
	uint64_t seq = 1000;

	(void)state;
	history_total_init(&total, UINT64_MAX);
	assert_null(history_find(&h, 5));
	for (uint32_t i = 0; i < 100; i++) {
		struct block *b = block_of(1 + i % 7, 0);

		b->seq = seq;
		seq += b->messages;
		history_add(&h, &total, b, &unlimited);
		block_unref(b);
	}
	assert_ptr_equal(history_find(&h, 1), history_first(&h));
	for (uint64_t n = 1000; n < seq; n++) {
		const struct block *b = history_find(&h, n);

		assert_true(b->seq <= n && n < b->seq + b->messages);
	}
	assert_null(history_find(&h, seq));
	assert_null(history_find(&h, UINT64_MAX));
	history_release(&h, &total);
	(void)history_let_go(&total, UINT_MAX);
}

/* When this thread has let go of what it was the last to hold. */
static uint32_t holders(const struct block *b)
{
	(void)segments_let_go(UINT_MAX);
	return atomic_load(&b->holders);
}

static void add_numbered(struct history *h, struct history_total *total, struct block **blocks,
			 uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		blocks[i] = block_of(1, 0);
		blocks[i]->seq = i + 1;
		history_add(h, total, blocks[i], &unlimited);
	}
}

static void a_history_is_handed_out_by_one_hold_however_long_it_is(void **state)
{
	enum { BLOCKS = 5000 };
	static struct block *blocks[BLOCKS + 1];
	struct history_total total;
	struct history h = { 0 };
	struct stretch held[100];

	(void)state;
	history_total_init(&total, UINT64_MAX);
	add_numbered(&h, &total, blocks, 0, BLOCKS);
	for (uint32_t i = 0; i < 100; i++)
		held[i] = history_hold(&h, 1 + 40 * i);
	assert_int_equal(atomic_load(&h.window->holders), 101);
	for (uint32_t i = 0; i < h.window->n; i++)
		assert_int_equal(atomic_load(&h.window->segments[i]->holders), 1);
	for (uint32_t i = 0; i < 100; i++) {
		const struct segment *s = held[i].window->segments[held[i].segment];

		assert_ptr_equal(s->blocks[held[i].block], blocks[40 * i]);
		stretch_release(&held[i]);
	}
	history_release(&h, &total);
	(void)history_let_go(&total, UINT_MAX);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		assert_int_equal(holders(blocks[i]), 1);
		block_unref(blocks[i]);
	}
}

/* What is handed out stays as it was, whatever comes and goes; what nobody holds goes at once. */
static void what_is_held_stays_and_what_is_not_goes_at_once(void **state)
{
	enum { BLOCKS = 3000, FIRST = 1000, LAST = 2000 };
	static struct block *blocks[BLOCKS];
	struct history_total total;
	struct history h = { 0 };
	struct stretch held;
	uint32_t segment, block;

	(void)state;
	history_total_init(&total, UINT64_MAX);
	add_numbered(&h, &total, blocks, 0, LAST);
	while (h.blocks_n > LAST - FIRST)
		history_drop_oldest(&h, &total);
	for (uint32_t i = 0; i < LAST; i++)
		assert_int_equal(holders(blocks[i]), i < FIRST ? 1 : 2);
	held = history_hold(&h, FIRST + 1);
	add_numbered(&h, &total, blocks, LAST, BLOCKS);
	while (h.blocks_n > 1)
		history_drop_oldest(&h, &total);
	segment = held.segment;
	block = held.block;
	for (uint32_t i = FIRST; i < LAST; i++) {
		const struct segment *s = held.window->segments[segment];

		assert_ptr_equal(s->blocks[block], blocks[i]);
		assert_int_equal(holders(blocks[i]), 2);
		if (++block < s->n)
			continue;
		segment++;
		block = 0;
	}
	/* Of what came later as many as share a segment with what is held. */
	for (uint32_t i = LAST + SEGMENT_BLOCKS; i + 1 < BLOCKS; i++)
		assert_int_equal(holders(blocks[i]), 1);
	stretch_release(&held);
	for (uint32_t i = 0; i + 1 < BLOCKS; i++) {
		assert_int_equal(holders(blocks[i]), 1);
		block_unref(blocks[i]);
	}
	history_release(&h, &total);
	assert_int_equal(total.bytes, 0);
	block_unref(blocks[BLOCKS - 1]);
}

/* Large blocks do not wait for each other's readers. */
static void a_segment_holds_few_bytes_or_one_block(void **state)
{
	struct history_total total;
	struct history h = { 0 };

	(void)state;
	history_total_init(&total, UINT64_MAX);
	for (uint32_t i = 0; i < 300; i++) {
		struct block *b = block_of(1, below(3) == 0 ? 100000 : below(20000));

		b->seq = i + 1;
		history_add(&h, &total, b, &unlimited);
		block_unref(b);
	}
	for (uint32_t i = 0; i < h.window->n; i++) {
		const struct segment *s = h.window->segments[i];

		assert_true(s->n == 1 || s->bytes <= SEGMENT_BYTES);
	}
	history_release(&h, &total);
	(void)history_let_go(&total, UINT_MAX);
}

/* ---- topic ---- */

static struct config_topic settings = { .history_messages = 10,
					.history_bytes = 1 << 20,
					.history_seconds = 3600 };

static struct topic *topic_of(struct history_total *total, uint64_t history_messages)
{
	struct topic *t;

	history_total_init(total, UINT64_MAX);
	settings.history_messages = history_messages;
	t = topic_new(SPAN("a.topic"), 4711, 3, &settings);
	assert_non_null(t);
	return t;
}

static void publish(struct topic *t, struct history_total *total, uint32_t messages)
{
	struct block *b = block_of(messages, 0);
	uint64_t before = t->seq;

	topic_sequence(t, b, total, 1);
	assert_int_equal(b->seq, before + 1);
	assert_int_equal(b->epoch, t->epoch);
	assert_int_equal(t->seq, before + messages);
	block_unref(b);
}

/* What a subscriber gets, number for number, is what a naive model says. */
static void check_replay(const struct topic *t, enum replay_kind kind, uint64_t epoch, uint64_t n)
{
	const struct replay wanted = { .kind = kind, .epoch = epoch, .n = n };
	struct replay_answer a = topic_replay(t, &wanted);
	uint64_t held =
		t->history.messages < t->limits.messages ? t->history.messages : t->limits.messages;
	/* Numbers that may be had: oldest .. t->seq. */
	uint64_t oldest = t->seq + 1 - held, from = t->seq + 1, gap = 0, got = 0;

	switch (kind) {
	case REPLAY_NONE:
	case REPLAY_RETAINED:
		break;
	case REPLAY_LAST:
		while (from > oldest && n > 0) {
			from--;
			n--;
		}
		break;
	case REPLAY_FROM:
	default:
		if (epoch != t->epoch) {
			gap = oldest;
			from = oldest;
		} else if (n < t->seq) {
			gap = n + 1 < oldest ? oldest : 0;
			from = gap != 0 ? oldest : n + 1;
		}
	}
	assert_int_equal(a.epoch, t->epoch);
	assert_int_equal(a.gap, gap);
	assert_int_equal(a.messages, t->seq + 1 - from);
	while (a.messages > got) {
		struct block *b = history_find(&t->history, from + got);

		assert_non_null(b);
		assert_true(b->seq <= from + got);
		got = b->seq + b->messages - from;
	}
	assert_int_equal(got, a.messages);
}

static void check_all_replays(const struct topic *t)
{
	check_replay(t, REPLAY_NONE, 0, 0);
	for (uint64_t n = 0; n <= t->seq + 3; n++) {
		check_replay(t, REPLAY_LAST, 0, n);
		check_replay(t, REPLAY_FROM, t->epoch, n);
		check_replay(t, REPLAY_FROM, t->epoch + 1, n);
	}
	check_replay(t, REPLAY_LAST, 0, UINT64_MAX);
	check_replay(t, REPLAY_FROM, t->epoch, UINT64_MAX);
	check_replay(t, REPLAY_FROM, t->epoch + 1, UINT64_MAX);
}

static void replay_is_what_is_held_after_an_identity_or_the_newest(void **state)
{
	static const uint64_t limits[] = { 0, 1, 2, 7, 10, 1000 };

	(void)state;
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		for (int round = 0; round < 20; round++) {
			struct history_total total;
			struct topic *t = topic_of(&total, limits[i]);

			check_all_replays(t);
			for (int k = 0; k < 12; k++) {
				publish(t, &total, 1 + (uint32_t)below(6));
				check_all_replays(t);
			}
			/* The shard needs its memory back. */
			while (t->history.blocks_n > 0) {
				history_drop_oldest(&t->history, &total);
				check_all_replays(t);
			}
			publish(t, &total, 3);
			check_all_replays(t);
			topic_free(t, &total);
			assert_int_equal(total.bytes, 0);
		}
	}
}

static void replay_answers(void **state)
{
	static const struct {
		enum replay_kind kind;
		bool same_epoch;
		uint64_t n, gap, messages;
	} cases[] = {
		/* Twenty published, in blocks of four; ten may be had: 11 to 20. */
		{ REPLAY_NONE, true, 0, 0, 0 },    { REPLAY_LAST, true, 0, 0, 0 },
		{ REPLAY_LAST, true, 1, 0, 1 },    { REPLAY_LAST, true, 10, 0, 10 },
		{ REPLAY_LAST, true, 11, 0, 10 },  { REPLAY_LAST, true, 20, 0, 10 },
		{ REPLAY_FROM, true, 20, 0, 0 },   { REPLAY_FROM, true, 21, 0, 0 },
		{ REPLAY_FROM, true, 19, 0, 1 },   { REPLAY_FROM, true, 10, 0, 10 },
		{ REPLAY_FROM, true, 9, 11, 10 },  { REPLAY_FROM, true, 0, 11, 10 },
		{ REPLAY_FROM, false, 0, 11, 10 }, { REPLAY_FROM, false, 20, 11, 10 },
	};
	struct history_total total;
	struct topic *t = topic_of(&total, 10);

	(void)state;
	for (int i = 0; i < 5; i++)
		publish(t, &total, 4);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct replay wanted = { .kind = cases[i].kind,
					       .epoch = t->epoch + !cases[i].same_epoch,
					       .n = cases[i].n };
		struct replay_answer a = topic_replay(t, &wanted);

		assert_int_equal(a.gap, cases[i].gap);
		assert_int_equal(a.messages, cases[i].messages);
	}
	topic_free(t, &total);
}

/* In a log that others write to as well a topic's numbers have holes: whoever knows one of them
 * gets those after it, and is told of a gap only when one of these has gone. */
static void a_topic_whose_numbers_have_holes_replays_by_them(void **state)
{
	enum { BLOCKS = 700, MESSAGES_MAX = 3 * BLOCKS };
	uint64_t numbers[MESSAGES_MAX], number = 1000, n = 0;
	struct history_total total;
	struct topic *t = topic_of(&total, 600);

	(void)state;
	for (unsigned i = 0; i < BLOCKS; i++) {
		uint32_t messages = 1 + (uint32_t)below(3);

		number += 1 + below(3) * 50;
		topic_shift(t, number);
		publish(t, &total, messages);
		for (uint32_t m = 0; m < messages; m++)
			numbers[n++] = number++;
		number--;
		assert_int_equal(t->number, number);
	}
	for (uint64_t after = 990; after <= number + 2; after++) {
		const struct replay wanted = { .kind = REPLAY_FROM, .epoch = t->epoch, .n = after };
		struct replay_answer a = topic_replay(t, &wanted);
		uint64_t have = n - 600, first = 0;

		while (first < n && numbers[first] <= after)
			first++;
		assert_int_equal(a.gap, first < have ? numbers[have] : 0);
		assert_int_equal(a.messages, first < have ? 600 : n - first);
		assert_int_equal(a.from, t->seq + 1 - a.messages);
		if (a.messages > 0)
			assert_int_equal(a.after, numbers[n - a.messages] - 1);
		else
			assert_int_equal(a.after, number);
	}
	for (uint64_t i = n - 600; i < n; i++) {
		struct block *b = history_find_number(&t->history, numbers[i]);

		assert_non_null(b);
		assert_in_range(numbers[i], block_number(b), block_number(b) + b->messages - 1);
	}
	topic_free(t, &total);
	(void)history_let_go(&total, UINT_MAX);
}

/* What was fetched later stands before what is here, as if it had come first. */
static void a_past_is_put_before_what_is_known(void **state)
{
	struct history_total total;
	struct topic *t = topic_of(&total, 10);
	struct list past;

	(void)state;
	t->seq = 1000;
	t->shift = 0 - t->seq;
	for (uint64_t number = 50; number <= 56; number += 2) {
		topic_shift(t, number);
		publish(t, &total, 1);
	}
	t->history.floor = 48;
	list_init(&past);
	for (uint64_t number = 30; number <= 48; number += 2) {
		struct block *b = block_of(1, 0);

		b->shift = number;
		list_append(&past, &b->age);
	}
	/* Later than those that are here have come. */
	topic_prepend(t, &past, 29, &total, 99);
	for (uint64_t after = 20; after <= 56; after++) {
		const struct replay wanted = { .kind = REPLAY_FROM, .epoch = t->epoch, .n = after };
		struct replay_answer a = topic_replay(t, &wanted);

		/* Ten are kept: from 38 on. */
		assert_int_equal(a.gap, after < 36 ? 38 : 0);
		assert_int_equal(a.messages, after < 38 ? 10 : (57 - after) / 2);
		assert_int_equal(a.from, 1005 - a.messages);
	}
	assert_int_equal(t->history.messages, 10);
	topic_free(t, &total);
	assert_int_equal(total.bytes, 0);
}

static void topic_knows_its_interested_shards(void **state)
{
	static const unsigned counts[] = { 1, 63, 64, 65, 200 };

	(void)state;
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		unsigned n = counts[i];
		struct history_total total;
		struct topic *t = topic_new(SPAN("a"), 1, n, &settings);

		assert_non_null(t);
		history_total_init(&total, 1);
		assert_int_equal((uintptr_t)t->shards % sizeof(uint64_t), 0);
		for (unsigned s = 0; s < n; s++) {
			assert_false(topic_has_shard(t, s));
			topic_add_shard(t, s);
			topic_add_shard(t, s);
			assert_true(topic_has_shard(t, s));
			assert_int_equal(t->shards_n, s + 1);
		}
		for (unsigned s = n; s-- > 0;) {
			topic_remove_shard(t, s);
			topic_remove_shard(t, s);
			assert_false(topic_has_shard(t, s));
			assert_int_equal(t->shards_n, s);
		}
		assert_true(span_equal(t->named.name, SPAN("a")));
		topic_free(t, &total);
	}
}

static void epochs_differ_from_topic_to_topic(void **state)
{
	struct history_total total;
	struct topic *a = topic_of(&total, 1), *b = topic_of(&total, 1);

	(void)state;
	assert_true(a->epoch != b->epoch);
	assert_true(a->epoch != 0);
	topic_free(a, &total);
	topic_free(b, &total);
}

static void other_settings_are_other_limits(void **state)
{
	const struct config_topic other = { .history_messages = 3,
					    .history_bytes = 1 << 20,
					    .history_seconds = 2 };
	struct history_total total;
	struct topic *t = topic_of(&total, 10);

	(void)state;
	for (int i = 0; i < 5; i++)
		publish(t, &total, 2);
	topic_configure(t, &other);
	assert_int_equal(t->limits.age_ns, 2 * NS_PER_S);
	/* Before anything is let go, no more than that is handed out. */
	check_all_replays(t);
	history_trim(&t->history, &total, &t->limits, 1);
	assert_int_equal(t->history.blocks_n, 2);
	check_all_replays(t);
	topic_free(t, &total);
}

/* ---- interest ---- */

static const struct wire_format some_format = { .name = "some" };
static const struct wire_format other_format = { .name = "other" };

enum { MANY_FORMS = 1000 };

static struct wire wire_of(unsigned n, char text[12])
{
	int len = snprintf(text, 12, "%u", n);

	return (struct wire){ .format = n % 2 ? &some_format : &other_format,
			      .parameter = { text, (size_t)len } };
}

static size_t streams_of(const struct interest *i)
{
	size_t n = 0;

	for (const struct stream *s = i->streams; s != NULL; s = s->next)
		n++;
	return n;
}

static void interest_finds_each_of_very_many_forms_and_lets_go_of_those_unread(void **state)
{
	struct interest *i = interest_new(SPAN("a.topic"), 4711, 2, &settings);
	struct stream *streams[MANY_FORMS];
	char text[12];

	(void)state;
	assert_non_null(i);
	for (unsigned n = 0; n < MANY_FORMS; n++) {
		const struct wire wire = wire_of(n, text);

		streams[n] = interest_stream(i, &wire);
		assert_non_null(streams[n]);
		streams[n]->pins++;
	}
	for (unsigned n = 0; n < MANY_FORMS; n++) {
		struct wire wire = wire_of(n, text);

		assert_ptr_equal(interest_stream(i, &wire), streams[n]);
		wire.parameter.data = "other";
		wire.parameter.len = 5;
		assert_true(interest_stream(i, &wire) != streams[n]);
	}
	assert_non_null(i->forms);
	/* Whoever comes has another one each time, and leaves. */
	for (unsigned n = MANY_FORMS; n < 20 * MANY_FORMS; n++) {
		const struct wire wire = wire_of(n, text);

		assert_non_null(interest_stream(i, &wire));
	}
	assert_in_range(streams_of(i), MANY_FORMS, 2 * MANY_FORMS);
	for (unsigned n = 0; n < MANY_FORMS; n++)
		streams[n]->pins--;
	interest_free(i);
}

static void interest_makes_a_stream_for_a_format_once(void **state)
{
	struct interest *i = interest_new(SPAN("a.topic"), 4711, 2, &settings);
	struct cursor reader;
	struct stream *first;

	(void)state;
	assert_non_null(i);
	assert_true(span_equal(i->named.name, SPAN("a.topic")));
	assert_int_equal(i->named.hash, 4711);
	assert_int_equal(i->home, 2);
	assert_false(i->live);
	first = interest_stream(i, &(struct wire){ .format = &some_format });
	assert_non_null(first);
	assert_ptr_equal(first->wire.format, &some_format);
	assert_int_equal(stream_join(first, &reader), 0);
	assert_ptr_equal(interest_stream(i, &(struct wire){ .format = &some_format }), first);
	assert_true(interest_stream(i, &(struct wire){ .format = &other_format }) != first);
	(void)stream_remove(first, &reader);
	interest_free(i);
}

static void what_stands_in_every_frame_parts_streams_of_a_format(void **state)
{
	char sid[] = "7";
	const struct wire seven = { &some_format, { sid, 1 } }, also = { &some_format, SPAN("7") };
	struct interest *i = interest_new(SPAN("a.topic"), 4711, 2, &settings);
	struct cursor reader;
	struct stream *first;

	(void)state;
	assert_non_null(i);
	first = interest_stream(i, &seven);
	assert_non_null(first);
	assert_int_equal(stream_join(first, &reader), 0);
	sid[0] = '8';
	assert_true(span_equal(first->wire.parameter, SPAN("7")));
	assert_ptr_equal(interest_stream(i, &also), first);
	assert_true(interest_stream(i, &seven) != first);
	assert_true(interest_stream(i, &(struct wire){ .format = &some_format }) != first);
	(void)stream_remove(first, &reader);
	interest_free(i);
}

static void a_stream_that_nobody_reads_goes_when_another_is_looked_for(void **state)
{
	static const char *const sids[] = { "1", "2", "3", "4" };
	struct interest *i = interest_new(SPAN("a.topic"), 4711, 2, &settings);
	struct cursor reader, pin;
	struct stream *read = NULL, *pinned = NULL, *last = NULL;

	(void)state;
	assert_non_null(i);
	for (unsigned n = 0; n < 4; n++) {
		last = interest_stream(i, &(struct wire){ &some_format, span_of(sids[n]) });
		assert_non_null(last);
		if (n == 0) {
			read = last;
			assert_int_equal(stream_join(read, &reader), 0);
		} else if (n == 1) {
			pinned = last;
			assert_int_equal(stream_pin(pinned, &pin), 0);
		}
	}
	assert_ptr_equal(i->streams, last);
	assert_ptr_equal(last->next, pinned);
	assert_ptr_equal(pinned->next, read);
	assert_null(read->next);
	assert_true(interest_drop_unread(i, i->streams));
	assert_false(interest_drop_unread(i, i->streams));
	stream_unpin(pinned, &pin);
	stream_leave(read, &reader);
	assert_true(interest_drop_unread(i, i->streams));
	assert_ptr_equal(i->streams, read);
	assert_false(interest_drop_unread(i, i->streams));
	(void)stream_remove(read, &reader);
	assert_true(interest_drop_unread(i, i->streams));
	assert_null(i->streams);
	interest_free(i);
}

/* ---- names ---- */

static uint32_t home_of(const char *name)
{
	return (uint32_t)(topic_hash(span_of(name)) >> 32);
}

static uint32_t place_of(const char *name)
{
	return (uint32_t)topic_hash(span_of(name));
}

static void inboxes_of_one_client_have_one_home(void **state)
{
	uint64_t hash;

	(void)state;
	assert_int_equal(home_of("_INBOX.a.1"), home_of("_INBOX.a.2.3"));
	assert_int_equal(home_of("_INBOX.a.1"), home_of("_INBOX.a"));
	assert_int_not_equal(place_of("_INBOX.a.1"), place_of("_INBOX.a.2"));
	assert_int_not_equal(home_of("_INBOX.a.1"), home_of("_INBOX.b.1"));
	assert_int_not_equal(home_of("INBOX.a.1"), home_of("INBOX.a.2"));
	assert_int_not_equal(home_of("_INBOX"), home_of("_INBOX.a"));
	assert_true(topic_hash_of_pattern(SPAN("_INBOX.a.*"), &hash));
	assert_int_equal(hash >> 32, home_of("_INBOX.a.1"));
	assert_true(topic_hash_of_pattern(SPAN("_INBOX.a.>"), &hash));
	assert_true(topic_hash_of_pattern(SPAN("_INBOX.a.*.b"), &hash));
	assert_false(topic_hash_of_pattern(SPAN("_INBOX.*"), &hash));
	assert_false(topic_hash_of_pattern(SPAN("_INBOX.>"), &hash));
	assert_false(topic_hash_of_pattern(SPAN("_INBOX.*.a"), &hash));
	assert_false(topic_hash_of_pattern(SPAN("a.*"), &hash));
	assert_true(topic_hash_of_pattern(SPAN("a.b"), &hash));
	assert_true(hash == topic_hash(SPAN("a.b")));
}

static void topics_of_a_section_with_one_order_have_one_home(void **state)
{
	struct config *config = config_defaults();
	uint32_t elsewhere = home_of("orders.a");

	(void)state;
	assert_non_null(config);
	config->topic_n = 2;
	config->topic = calloc(2, sizeof(*config->topic));
	assert_non_null(config->topic);
	config->topic[0].pattern = strdup("orders.*.log");
	config->topic[1].pattern = strdup("orders.>");
	config->topic[1].order = ORDER_SECTION;
	assert_int_equal(topic_hash_sections(config), 0);
	assert_int_equal(home_of("orders.a"), home_of("orders.b.c"));
	assert_int_not_equal(place_of("orders.a"), place_of("orders.b.c"));
	/* The first section that matches says so. */
	assert_int_not_equal(home_of("orders.a.log"), home_of("orders.a"));
	assert_int_not_equal(home_of("a"), home_of("b"));
	config->topics.order = ORDER_SECTION;
	assert_int_equal(topic_hash_sections(config), 0);
	assert_int_equal(home_of("a"), home_of("b.c"));
	assert_int_not_equal(home_of("a"), home_of("orders.a"));
	assert_int_equal(topic_hash_sections(NULL), 0);
	assert_int_equal(home_of("orders.a"), elsewhere);
	config_free(config);
}

static void inboxes_and_what_is_internal_to_a_service_pass(void **state)
{
	(void)state;
	assert_true(topic_passes(SPAN("_INBOX.a")));
	assert_true(topic_passes(SPAN("$SRV.PING")));
	assert_true(topic_passes(SPAN("$JS.API.INFO")));
	assert_false(topic_passes(SPAN("$sys.stats")));
	assert_false(topic_passes(SPAN("_INBOX")));
	assert_false(topic_passes(SPAN("_INBOXES.a")));
	assert_false(topic_passes(SPAN("a.$b")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(block_carries_its_topic_and_grows_in_place),
		cmocka_unit_test(last_holder_frees_a_block),
		cmocka_unit_test(run_of_a_block_begins_at_any_of_its_messages),
		cmocka_unit_test(part_of_a_long_block_is_what_a_walk_finds),
		cmocka_unit_test(history_keeps_to_its_limits_and_never_has_a_hole),
		cmocka_unit_test(what_is_put_before_others_leaves_their_segments_as_they_are),
		cmocka_unit_test(what_a_replay_held_last_is_let_go_of_in_parts),
		cmocka_unit_test(many_blocks_go_in_few_steps_and_are_let_go_of_in_parts),
		cmocka_unit_test(what_cannot_be_kept_takes_what_came_before_with_it),
		cmocka_unit_test(number_is_found_in_its_block_or_the_one_after),
		cmocka_unit_test(a_history_is_handed_out_by_one_hold_however_long_it_is),
		cmocka_unit_test(what_is_held_stays_and_what_is_not_goes_at_once),
		cmocka_unit_test(a_segment_holds_few_bytes_or_one_block),
		cmocka_unit_test(replay_is_what_is_held_after_an_identity_or_the_newest),
		cmocka_unit_test(replay_answers),
		cmocka_unit_test(a_topic_whose_numbers_have_holes_replays_by_them),
		cmocka_unit_test(a_past_is_put_before_what_is_known),
		cmocka_unit_test(topic_knows_its_interested_shards),
		cmocka_unit_test(epochs_differ_from_topic_to_topic),
		cmocka_unit_test(other_settings_are_other_limits),
		cmocka_unit_test(
			interest_finds_each_of_very_many_forms_and_lets_go_of_those_unread),
		cmocka_unit_test(interest_makes_a_stream_for_a_format_once),
		cmocka_unit_test(what_stands_in_every_frame_parts_streams_of_a_format),
		cmocka_unit_test(a_stream_that_nobody_reads_goes_when_another_is_looked_for),
		cmocka_unit_test(inboxes_of_one_client_have_one_home),
		cmocka_unit_test(topics_of_a_section_with_one_order_have_one_home),
		cmocka_unit_test(inboxes_and_what_is_internal_to_a_service_pass),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
