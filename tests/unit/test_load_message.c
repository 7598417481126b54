#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "load/flow.h"
#include "load/message.h"
#include "load/wire.h"

static const struct message sample = {
	.run = 0xdeadbeef, .topic = 0x12345, .publisher = 7, .seq = 1u << 31, .intended_ns = 99
};

static struct filler filler;

static int set_up(void **state)
{
	(void)state;
	return filler_init(&filler, 200);
}

static int tear_down(void **state)
{
	(void)state;
	filler_release(&filler);
	return 0;
}

static enum message_fault read_back(const char *bytes, size_t len, struct message *out)
{
	/* In a buffer of just its size, so that a sanitizer sees a byte too many being read. */
	char *copy = malloc(len + (len == 0));
	enum message_fault fault;

	assert_non_null(copy);
	memcpy(copy, bytes, len);
	fault = message_read((struct span){ copy, len }, &filler, out);
	free(copy);
	return fault;
}

static void message_reads_back_as_it_was_written(void **state)
{
	char bytes[200];
	struct message got;

	(void)state;
	message_write(bytes, &sample, &filler);
	assert_int_equal(read_back(bytes, 200, &got), MESSAGE_RIGHT);
	assert_int_equal(message_compare(&got, &sample), MESSAGE_RIGHT);
	assert_int_equal(message_publisher(bytes + MESSAGE_PUBLISHER_AT), 7);
}

static void rewritten_message_is_as_if_written(void **state)
{
	char written[200], rewritten[200];
	struct message earlier = sample;

	(void)state;
	earlier.seq = 3;
	earlier.intended_ns = 12345678;
	message_write(written, &sample, &filler);
	message_write(rewritten, &earlier, &filler);
	message_rewrite(rewritten, &sample, &filler);
	assert_memory_equal(written, rewritten, 200);
}

static void any_flipped_byte_is_found(void **state)
{
	char bytes[200];

	(void)state;
	message_write(bytes, &sample, &filler);
	for (size_t i = 0; i < sizeof(bytes); i++) {
		struct message got;
		enum message_fault fault;

		bytes[i] ^= 1;
		fault = read_back(bytes, sizeof(bytes), &got);
		if (fault == MESSAGE_RIGHT)
			fault = message_compare(&got, &sample);
		assert_int_not_equal(fault, MESSAGE_RIGHT);
		bytes[i] ^= 1;
	}
}

static void neighbours_differ_in_their_filler(void **state)
{
	struct message next = sample;
	char a[200], b[200];

	(void)state;
	next.seq++;
	message_write(a, &sample, &filler);
	message_write(b, &next, &filler);
	assert_memory_not_equal(a + MESSAGE_HEADER_BYTES, b + MESSAGE_HEADER_BYTES,
				200 - MESSAGE_HEADER_BYTES);
}

static void faults_are_told_apart(void **state)
{
	struct message got = sample;

	(void)state;
	got.seq = sample.seq - 1;
	assert_int_equal(message_compare(&got, &sample), MESSAGE_DUPLICATE);
	got.seq = sample.seq + 2;
	assert_int_equal(message_compare(&got, &sample), MESSAGE_GAP);
	got = sample;
	got.topic++;
	assert_int_equal(message_compare(&got, &sample), MESSAGE_MISROUTED);
	got = sample;
	got.run++;
	assert_int_equal(message_compare(&got, &sample), MESSAGE_OF_ANOTHER_RUN);
	got = sample;
	got.intended_ns++;
	assert_int_equal(message_compare(&got, &sample), MESSAGE_WRONG_TIME);
	got = sample;
	got.publisher++;
	assert_int_equal(message_compare(&got, &sample), MESSAGE_UNKNOWN_PUBLISHER);
}

static void length_and_header_are_checked(void **state)
{
	char bytes[200];
	struct message got;

	(void)state;
	message_write(bytes, &sample, &filler);
	assert_int_equal(read_back(bytes, 199, &got), MESSAGE_WRONG_LENGTH);
	assert_int_equal(read_back(bytes, 0, &got), MESSAGE_WRONG_LENGTH);
	bytes[2] = 'G';
	assert_int_equal(read_back(bytes, 200, &got), MESSAGE_WRONG_HEADER);
}

/* ---- flows ---- */

static struct flow_params window_of(unsigned window, const struct wire *wire)
{
	return (struct flow_params){ .run = 1,
				     .topic = 2,
				     .publisher = 3,
				     .filler = &filler,
				     .wire = wire,
				     .topic_name = SPAN("load.1.2"),
				     .delivered_name = SPAN("load.1.2"),
				     .window = window,
				     .threads = 1 };
}

static void flow_knows_what_comes_back(void **state)
{
	static const struct wire *const wires[] = { &wire_line, &wire_resp, &wire_nats,
						    &wire_mqtt };

	(void)state;
	for (size_t i = 0; i < sizeof(wires) / sizeof(*wires); i++) {
		const struct flow_params params = window_of(5, wires[i]);
		struct wire_event e;
		struct message got;
		struct flow f;
		char *again;

		assert_int_equal(flow_init(&f, &params), 0);
		assert_int_equal(f.slots, 8);
		flow_build(&f, 5, 111);
		flow_build(&f, 5, 222);
		e = wires[i]->receive((struct span){ f.in + f.in_bytes, f.in_bytes });
		assert_int_equal(e.result, WIRE_MESSAGE);
		assert_int_equal(e.used, f.in_bytes);
		assert_int_equal(message_read(e.payload, &filler, &got), MESSAGE_RIGHT);
		assert_int_equal(got.seq, 9);
		assert_int_equal(got.intended_ns, 222);
		again = malloc(f.in_bytes);
		assert_non_null(again);
		flow_rebuild(&f, 9, again);
		assert_memory_equal(again, f.in + f.in_bytes, f.in_bytes);
		free(again);
		flow_release(&f);
	}
}

static void message_is_through_when_the_last_subscriber_has_it(void **state)
{
	const struct flow_params params = window_of(4, &wire_line);
	struct flow f;
	struct flow_view v;

	(void)state;
	assert_int_equal(flow_init(&f, &params), 0);
	assert_int_equal(flow_view_init(&v, &f, 2), 0);
	assert_false(flow_arrived(&v, 0));
	assert_false(flow_arrived(&v, 1));
	assert_int_equal(atomic_load(&v.done), 0);
	assert_true(flow_arrived(&v, 0));
	assert_int_equal(atomic_load(&v.done), 1);
	assert_true(flow_arrived(&v, 1));
	assert_int_equal(atomic_load(&v.done), 2);
	flow_view_release(&v);
	flow_release(&f);
}

static void message_is_through_when_the_last_thread_has_seen_it(void **state)
{
	struct flow_params params = window_of(2, &wire_line);
	struct flow_view a, b;
	struct flow f;

	(void)state;
	params.threads = 2;
	assert_int_equal(flow_init(&f, &params), 0);
	assert_int_equal(flow_view_init(&a, &f, 1), 0);
	assert_int_equal(flow_view_init(&b, &f, 1), 0);
	for (uint64_t seq = 0; seq < 6; seq++) {
		assert_false(flow_arrived(seq & 1 ? &a : &b, seq));
		assert_true(flow_arrived(seq & 1 ? &b : &a, seq));
	}
	flow_view_release(&a);
	flow_view_release(&b);
	flow_release(&f);
}

static void paced_flow_is_due_by_the_clock_alone(void **state)
{
	struct flow_params params = window_of(0, &wire_line);
	struct flow f;

	(void)state;
	params.period_ns = 1e9 / 3;
	assert_int_equal(flow_init(&f, &params), 0);
	f.first_ns = 1000;
	assert_int_equal(flow_due_ns(&f, 0), 1000);
	assert_int_equal(flow_due_ns(&f, 3), 1000000000 + 1000);
	flow_build(&f, 2, 77);
	assert_int_equal(flow_intended_ns(&f, 1), 1000 + 333333333);
	flow_release(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(message_reads_back_as_it_was_written),
		cmocka_unit_test(rewritten_message_is_as_if_written),
		cmocka_unit_test(any_flipped_byte_is_found),
		cmocka_unit_test(neighbours_differ_in_their_filler),
		cmocka_unit_test(faults_are_told_apart),
		cmocka_unit_test(length_and_header_are_checked),
		cmocka_unit_test(flow_knows_what_comes_back),
		cmocka_unit_test(message_is_through_when_the_last_subscriber_has_it),
		cmocka_unit_test(message_is_through_when_the_last_thread_has_seen_it),
		cmocka_unit_test(paced_flow_is_due_by_the_clock_alone),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
