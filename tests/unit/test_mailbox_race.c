#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <ck_pr.h>

/*
 * The one moment that matters between a sender that finds no room and its reader is a few
 * nanoseconds long. Here the reader is called in just that moment: the mailbox is part of this
 * file, and its stores to `wanted` and full fences stop at it.
 */
static void (*interrupt)(void);

static void moment(void)
{
	void (*call)(void) = interrupt;

	interrupt = NULL;
	if (call != NULL)
		call();
}

static void store_32(uint32_t *to, uint32_t value)
{
	moment();
	ck_pr_store_32(to, value);
}

static void fence_memory(void)
{
	ck_pr_fence_memory();
	moment();
}

#undef ck_pr_store_32
#define ck_pr_store_32 store_32
#define ck_pr_fence_memory fence_memory
#include "../../src/engine/mailbox.c"

enum { READER = 0, SENDER = 1 };

static struct mailbox *m;
static unsigned popped;
static bool again;

static void read_all(void)
{
	void *letters[8];

	popped += mailbox_pop(m, READER, SENDER, LANE_FREE, letters, 8, &again);
}

static unsigned push_n(unsigned n)
{
	static int something;
	void *letters[8];

	for (unsigned i = 0; i < n; i++)
		letters[i] = &something;
	return mailbox_push(m, READER, SENDER, LANE_FREE, letters, n);
}

static int begin(void **state)
{
	(void)state;
	m = mailbox_new(2, 2, 4);
	popped = 0;
	again = false;
	interrupt = NULL;
	return m != NULL ? 0 : -1;
}

static int end(void **state)
{
	(void)state;
	mailbox_free(m);
	return 0;
}

/* The reader empties the lane after the sender saw it full and before it said so: nobody will ring
 * the sender, so it must see the room itself. */
static void room_made_before_the_sender_asks_is_seen_by_the_sender(void **state)
{
	(void)state;
	assert_int_equal(push_n(3), 3);
	interrupt = read_all;
	assert_int_equal(push_n(2), 2);
	assert_int_equal(popped, 3);
	assert_false(again);
}

/* The reader empties the lane right after it was asked: then it rings. */
static void room_made_after_the_sender_has_asked_is_rung_for(void **state)
{
	(void)state;
	assert_int_equal(push_n(4), 3);
	read_all();
	assert_int_equal(popped, 3);
	assert_true(again);
	/* And only once. */
	again = false;
	assert_int_equal(push_n(1), 1);
	read_all();
	assert_false(again);
}

static void fill_up(void)
{
	(void)push_n(3);
}

/* The sender fills the lane and asks for more while the reader is between making room and looking
 * whether it was asked: the reader may ring too often, never too rarely. */
static void asking_while_the_reader_makes_room_is_rung_for(void **state)
{
	(void)state;
	assert_int_equal(push_n(3), 3);
	interrupt = fill_up;
	read_all();
	assert_int_equal(push_n(1), 0);
	read_all();
	assert_int_equal(popped, 6);
	assert_true(again);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			room_made_before_the_sender_asks_is_seen_by_the_sender, begin, end),
		cmocka_unit_test_setup_teardown(room_made_after_the_sender_has_asked_is_rung_for,
						begin, end),
		cmocka_unit_test_setup_teardown(asking_while_the_reader_makes_room_is_rung_for,
						begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
