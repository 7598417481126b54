#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * What the topic room does when there is no memory: every allocation of a scenario fails once, and
 * the scenario must go on without it. The files under test are part of this one, with allocators
 * that can be told to fail.
 */
static unsigned until_failure; /* 0: none fails */

static int fails(void)
{
	return until_failure > 0 && --until_failure == 0;
}

static void *failing_malloc(size_t size)
{
	return fails() ? NULL : malloc(size);
}

static void *failing_calloc(size_t n, size_t size)
{
	return fails() ? NULL : calloc(n, size);
}

static void *failing_realloc(void *p, size_t size)
{
	return fails() ? NULL : realloc(p, size);
}

#define malloc failing_malloc
#define calloc failing_calloc
#define realloc failing_realloc
/* clang-format off: the order is the order of dependence */
#include "../../src/topic/block.c"
#undef SLOTS_MIN
#define SLOTS_MIN HISTORY_SLOTS_MIN
#include "../../src/topic/history.c"
#undef SLOTS_MIN
#define SLOTS_MIN TABLE_SLOTS_MIN
#define grow table_grow
#include "../../src/base/table.c"
#undef grow
#include "../../src/topic/chunk.c"
#include "../../src/topic/stream.c"
#include "../../src/topic/replay.c"
/* clang-format on */
#undef malloc
#undef calloc
#undef realloc

#include "protocol/line.h"
#include "protocol/sse.h"
#include "stretch.h"

static struct block *block_with(const char *body, uint32_t messages)
{
	struct block *b = block_new(SPAN("topic"), 1, strlen(body));

	assert_non_null(b);
	memcpy(block_body(b), body, strlen(body));
	b->len = strlen(body);
	b->messages = messages;
	b->form = RUN_LINES;
	return b;
}

static struct block *large_block(size_t len)
{
	struct block *b = block_new(SPAN("topic"), 1, len);

	assert_non_null(b);
	memset(block_body(b), 'x', len);
	b->len = len;
	b->messages = 1;
	return b;
}

/* Gathers and sends all there is; returns how many messages. */
static uint64_t send_all(struct stream *s, struct cursor *c)
{
	uint64_t n = 0;

	while (!stream_at_end(s, c)) {
		struct iovec spans[16];
		size_t bytes = 0;
		int spans_n = stream_gather(s, c, spans, 16);

		for (int i = 0; i < spans_n; i++)
			bytes += spans[i].iov_len;
		n += stream_sent(s, c, bytes);
	}
	return n;
}

static void append_without_memory_loses_one_block_and_nothing_else(void **state)
{
	(void)state;
	for (unsigned k = 1; k < 12; k++) {
		struct block *small = block_with("eins\r\nzwei\r\n", 2),
			     *large = large_block(20000), *medium = large_block(15000);
		struct block *const all[] = { small, large, small, medium, medium, large, small };
		uint64_t want = 0;
		struct stream s;
		struct cursor c;

		stream_init(&s, &(struct wire){ .format = &line_format });
		assert_int_equal(stream_join(&s, &c), 0);
		until_failure = k;
		for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
			int error;

			if (stream_append(&s, all[i], 1, &error))
				want += all[i]->messages;
			else
				assert_int_equal(error, -ENOMEM);
		}
		until_failure = 0;
		assert_int_equal(send_all(&s, &c), want);
		assert_true(stream_rest(&s));
		assert_int_equal(stream_remove(&s, &c), 0);
		stream_release(&s);
		block_unref(small);
		block_unref(large);
		block_unref(medium);
	}
}

/* Of what waits unencoded, too, and what is encoded when it is sent is still there later. */
static void what_grows_much_and_has_no_memory_is_lost_alone(void **state)
{
	enum { LINES = 9000 };
	char lines[2 * LINES + 1];
	bool failed = true;

	(void)state;
	for (size_t i = 0; i < 2 * LINES; i++)
		lines[i] = i % 2 == 0 ? '\r' : '\n';
	lines[2 * LINES] = 0;
	for (unsigned k = 1; failed; k++) {
		struct block *small = block_with("eins\r\nzwei\r\n", 2),
			     *flood = block_with(lines, LINES);
		struct block *const all[] = { small, flood, flood, small, flood };
		uint64_t want = 0;
		struct iovec spans[16];
		struct stream s;
		struct cursor c;

		stream_init(&s, &(struct wire){ .format = &sse_format });
		assert_int_equal(stream_join(&s, &c), 0);
		until_failure = k;
		for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
			int error;

			if (stream_append(&s, all[i], 1, &error))
				want += all[i]->messages;
			else
				assert_int_equal(error, -ENOMEM);
		}
		if (want > 0 && stream_gather(&s, &c, spans, 16) > 0)
			stream_sent(&s, &c, 0);
		failed = until_failure == 0;
		until_failure = 0;
		stream_unhold(&s, &c);
		assert_int_equal(send_all(&s, &c), want);
		assert_true(stream_rest(&s));
		assert_int_equal(stream_remove(&s, &c), 0);
		stream_release(&s);
		assert_int_equal(atomic_load(&small->holders), 1);
		assert_int_equal(atomic_load(&flood->holders), 1);
		block_unref(small);
		block_unref(flood);
	}
}

/* Seven blocks, numbered on, of ten messages. */
static void make_past(struct block **all)
{
	uint64_t seq = 1;

	for (int i = 0; i < 7; i++) {
		all[i] = i == 1 || i == 5   ? large_block(20000)
			 : i == 3 || i == 4 ? large_block(15000)
					    : block_with("eins\r\nzwei\r\n", 2);
		all[i]->seq = seq;
		seq += all[i]->messages;
	}
	assert_int_equal(seq, 11);
}

static void free_past(struct block **all)
{
	while (segments_let_go(8))
		;
	for (int i = 0; i < 7; i++) {
		assert_int_equal(atomic_load(&all[i]->holders), 1);
		block_unref(all[i]);
	}
}

static void replay_without_memory_has_not_happened(void **state)
{
	bool failed = true;

	(void)state;
	for (unsigned k = 1; failed; k++) {
		struct block *all[7], *next = block_with("eins\r\nzwei\r\n", 2);
		struct stretch held;
		const struct past past = { .from = 2, .next = 11, .held = &held };
		uint64_t formless;
		struct cursor c, other;
		struct stream s;
		int err, error;

		make_past(all);
		held = stretch_of(all, 7, 2);
		next->seq = 11;
		stream_init(&s, &(struct wire){ .format = &line_format });
		assert_int_equal(stream_join(&s, &other), 0);
		until_failure = k;
		err = stream_join_replay(&s, &c, &past, &formless);
		failed = until_failure == 0;
		until_failure = 0;
		assert_int_equal(err, failed ? -ENOMEM : 0);
		assert_int_equal(s.cursors, failed ? 1 : 2);
		assert_true(stream_append(&s, next, 1, &error));
		assert_int_equal(send_all(&s, &other), 2);
		if (err == 0) {
			assert_int_equal(formless, 0);
			assert_int_equal(send_all(&s, &c), 11);
			assert_int_equal(stream_remove(&s, &c), 0);
		}
		assert_int_equal(stream_remove(&s, &other), 0);
		assert_true(stream_rest(&s));
		stream_release(&s);
		stretch_release(&held);
		free_past(all);
		block_unref(next);
	}
}

static void past_that_there_is_no_memory_to_encode_is_still_there_later(void **state)
{
	bool failed = true;

	(void)state;
	for (unsigned k = 1; failed; k++) {
		struct block *all[7];
		struct stretch held;
		const struct past past = { .from = 1, .next = 11, .held = &held };
		struct past later = past;
		uint64_t formless;
		struct cursor c, other;
		struct iovec spans[16];
		struct stream s;
		int err, n;

		make_past(all);
		held = stretch_of(all, 7, 1);
		stream_init(&s, &(struct wire){ .format = &line_format });
		assert_int_equal(stream_join_replay(&s, &c, &past, &formless), 0);
		until_failure = k;
		/* One that begins later cuts what is pending in two, or has some of it encoded. */
		later.from = 2 + k % 8;
		err = stream_join_replay(&s, &other, &later, &formless);
		n = err == 0 ? stream_gather(&s, &c, spans, 16) : 0;
		failed = until_failure == 0;
		until_failure = 0;
		/* It may have been for what would have filled the send up. */
		assert_true(n > 0 || failed);
		if (n > 0)
			stream_sent(&s, &c, 0);
		stream_unhold(&s, &c);
		assert_int_equal(send_all(&s, &c), 10);
		if (err == 0) {
			assert_int_equal(send_all(&s, &other), 11 - later.from);
			assert_int_equal(stream_remove(&s, &other), 0);
		}
		assert_int_equal(stream_remove(&s, &c), 0);
		assert_true(stream_rest(&s));
		stream_release(&s);
		stretch_release(&held);
		free_past(all);
	}
}

static void skip_without_memory_has_not_happened(void **state)
{
	struct block *b = block_with("eins\r\nzwei\r\ndrei\r\n", 3);
	struct iovec spans[16];
	struct stream s;
	struct cursor c;
	int error;

	(void)state;
	stream_init(&s, &(struct wire){ .format = &line_format });
	assert_int_equal(stream_join(&s, &c), 0);
	assert_true(stream_append(&s, b, 1, &error));
	assert_int_equal(stream_gather(&s, &c, spans, 16), 1);
	assert_int_equal(stream_sent(&s, &c, 2), 0);
	until_failure = 1;
	assert_int_equal(stream_skip(&s, &c, &error), 0);
	assert_int_equal(error, -ENOMEM);
	until_failure = 0;
	assert_int_equal(send_all(&s, &c), 3);
	assert_int_equal(stream_remove(&s, &c), 0);
	stream_release(&s);
	block_unref(b);
}

static void history_without_memory_forgets_and_has_no_hole(void **state)
{
	const struct history_limits limits = { 1000, 1 << 20, UINT64_MAX };

	(void)state;
	for (unsigned k = 1; k < 8; k++) {
		struct history_total total;
		struct history h = { 0 };
		uint64_t seq = 1;

		history_total_init(&total, UINT64_MAX);
		for (int i = 0; i < 40; i++) {
			struct block *b = block_with("eins\r\nzwei\r\n", 2);

			b->seq = seq;
			seq += 2;
			until_failure = i == 4 * (int)k ? 1 : 0;
			history_add(&h, &total, b, &limits);
			until_failure = 0;
			block_unref(b);
			for (uint32_t j = 1; j <= h.blocks_n; j++)
				assert_int_equal(history_find(&h, seq - 2 * j)->seq, seq - 2 * j);
			assert_int_equal(history_oldest(&h, &limits),
					 h.blocks_n > 0 ? seq - 2 * h.blocks_n : 0);
		}
		history_release(&h, &total);
		assert_int_equal(total.bytes, 0);
	}
}

static void table_without_memory_stays_as_it_was(void **state)
{
	struct named entries[100];
	char names[100][8];
	struct table t = { 0 };
	size_t in = 0;

	(void)state;
	for (size_t i = 0; i < 100; i++) {
		snprintf(names[i], sizeof(names[i]), "%zu", i);
		entries[i] = (struct named){ i * 7, span_of(names[i]) };
		/* The first try fails if it needs memory. */
		until_failure = 1;
		if (table_add(&t, &entries[i]) != 0) {
			assert_null(table_find(&t, i * 7, span_of(names[i])));
			assert_int_equal(t.entries_n, i);
			until_failure = 0;
			assert_int_equal(table_add(&t, &entries[i]), 0);
		}
		until_failure = 0;
		in++;
		for (size_t j = 0; j < in; j++)
			assert_ptr_equal(table_find(&t, j * 7, span_of(names[j])), &entries[j]);
	}
	table_release(&t);
}

static void block_without_memory_is_as_it_was(void **state)
{
	struct block *b = block_with("eins\r\n", 1);

	(void)state;
	until_failure = 1;
	assert_null(block_new(SPAN("topic"), 1, 10));
	until_failure = 1;
	assert_null(block_reserve(b, 100000));
	assert_memory_equal(block_body(b), "eins\r\n", 6);
	until_failure = 0;
	b = block_reserve(b, 100000);
	assert_non_null(b);
	until_failure = 1;
	/* It keeps the room that it does not need. */
	assert_ptr_equal(block_trim(b), b);
	until_failure = 0;
	block_unref(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(append_without_memory_loses_one_block_and_nothing_else),
		cmocka_unit_test(what_grows_much_and_has_no_memory_is_lost_alone),
		cmocka_unit_test(replay_without_memory_has_not_happened),
		cmocka_unit_test(past_that_there_is_no_memory_to_encode_is_still_there_later),
		cmocka_unit_test(skip_without_memory_has_not_happened),
		cmocka_unit_test(history_without_memory_forgets_and_has_no_hole),
		cmocka_unit_test(table_without_memory_stays_as_it_was),
		cmocka_unit_test(block_without_memory_is_as_it_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
