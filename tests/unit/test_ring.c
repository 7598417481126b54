#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/ring.h"

enum { BUFFERS = 4, BUFFER_BYTES = 128 };

static struct ring_params usual = {
	.sq_entries = 64, .batch = 16, .recv_buffers = BUFFERS, .recv_buffer_bytes = BUFFER_BYTES
};

/* ---- what completed ---- */

static struct ring *ring;
static int pair[2]; /* of connected sockets: the ring has the first, the test the other */
static struct completion done[4096];
static char received[1 << 16];
static size_t done_n, received_n;

static void note(void *context, const struct completion *c)
{
	(void)context;
	assert_true(done_n < sizeof(done) / sizeof(done[0]));
	done[done_n++] = *c;
	if (c->data != NULL && c->result > 0) {
		assert_true(received_n + (size_t)c->result <= sizeof(received));
		memcpy(received + received_n, c->data, (size_t)c->result);
		received_n += (size_t)c->result;
	}
}

/* Everything that is there without waiting. */
static void settle(void)
{
	for (int i = 0; i < 5; i++) {
		ring_enter(ring, false, 0);
		ring_reap(ring, 1000, note, NULL);
	}
}

/* Sleeps until something has completed. */
static void await(size_t n)
{
	while (done_n < n) {
		ring_enter(ring, true, 0);
		ring_reap(ring, 1000, note, NULL);
	}
}

static const struct completion *completion(uint64_t user_data)
{
	for (size_t i = 0; i < done_n; i++)
		if (done[i].user_data == user_data)
			return &done[i];
	return NULL;
}

static size_t completions(uint64_t user_data)
{
	size_t n = 0;

	for (size_t i = 0; i < done_n; i++)
		n += done[i].user_data == user_data;
	return n;
}

static void forget(void)
{
	done_n = received_n = 0;
}

static int begin(void **state)
{
	(void)state;
	forget();
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
		return -errno;
	return ring_new(&usual, &ring);
}

static int end(void **state)
{
	(void)state;
	close(pair[0]);
	close(pair[1]);
	ring_free(ring);
	ring = NULL;
	return 0;
}

static size_t drain(int fd)
{
	static char buf[1 << 16];
	size_t n = 0;
	ssize_t got;

	while ((got = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		n += (size_t)got;
	return n;
}

/* ---- receiving ---- */

static void receive_goes_on_by_itself(void **state)
{
	(void)state;
	ring_recv(ring, pair[0], 7);
	settle();
	assert_int_equal(done_n, 0);
	for (size_t i = 1; i <= 20; i++) {
		assert_int_equal(write(pair[1], "hello", 5), 5);
		settle();
		assert_int_equal(done_n, i);
		assert_int_equal(done[i - 1].result, 5);
		assert_true(done[i - 1].more);
	}
	assert_int_equal(received_n, 100);
	shutdown(pair[1], SHUT_WR);
	settle();
	assert_int_equal(done[20].result, 0);
	assert_false(done[20].more);
	assert_null(done[20].data);
}

static void lack_of_buffers_ends_a_receive_and_hides_the_end_of_file(void **state)
{
	char much[3 * BUFFERS * BUFFER_BYTES];
	int rounds = 0;

	(void)state;
	memset(much, 'x', sizeof(much));
	assert_int_equal(write(pair[1], much, sizeof(much)), sizeof(much));
	shutdown(pair[1], SHUT_WR);
	ring_recv(ring, pair[0], 7);
	ring_enter(ring, false, 0);
	ring_reap(ring, 1000, note, NULL);
	assert_true(done_n > 0);
	assert_int_equal(done[done_n - 1].result, -ENOBUFS);
	assert_false(done[done_n - 1].more);
	assert_int_equal(received_n, BUFFERS * BUFFER_BYTES);
	/* The buffers are back; armed again it goes on where it was. */
	while (done[done_n - 1].result != 0) {
		assert_int_equal(done[done_n - 1].result, -ENOBUFS);
		assert_true(++rounds < 100);
		ring_recv(ring, pair[0], 7);
		settle();
	}
	assert_int_equal(received_n, sizeof(much));
	assert_true(ring_counts(ring)->no_buffers > 0);
}

static void buffers_come_back_however_often_they_are_used(void **state)
{
	(void)state;
	ring_recv(ring, pair[0], 7);
	for (unsigned i = 0; i < 1000; i++) {
		forget();
		assert_int_equal(write(pair[1], &i, sizeof(i)), sizeof(i));
		settle();
		assert_int_equal(received_n, sizeof(i));
		assert_memory_equal(received, &i, sizeof(i));
	}
	assert_int_equal(ring_counts(ring)->no_buffers, 0);
}

static void a_receive_that_waits_first_misses_nothing(void **state)
{
	char memory[8];

	(void)state;
	/* It was thought to be empty, and was not. */
	assert_int_equal(write(pair[1], "early", 5), 5);
	ring_recv_once(ring, pair[0], true, 7);
	settle();
	assert_int_equal(done_n, 1);
	assert_memory_equal(received, "early", 5);
	assert_false(done[0].nonempty);
	ring_recv_into(ring, pair[0], memory, sizeof(memory), true, 8);
	settle();
	assert_int_equal(done_n, 1);
	assert_int_equal(write(pair[1], "late", 4), 4);
	await(2);
	assert_int_equal(completion(8)->result, 4);
	assert_memory_equal(memory, "late", 4);
	/* The end that was there before. */
	shutdown(pair[1], SHUT_WR);
	ring_recv_once(ring, pair[0], true, 9);
	await(3);
	assert_int_equal(completion(9)->result, 0);
}

/* Several peers say something at the same time. */
static void all_say(int (*pairs)[2], unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(write(pairs[i][1], "x", 1), 1);
		ring_recv_once(ring, pairs[i][0], true, i);
	}
	forget();
	settle();
	/* Those that found no buffer ask again. */
	for (unsigned i = 0; i < n; i++)
		if (completion(i)->result == -ENOBUFS)
			ring_recv_once(ring, pairs[i][0], false, 100 + i);
	settle();
	assert_int_equal(received_n, n);
}

/* All that there is to give at this time: some at once, so that no call is long. */
static bool give_back(void)
{
	bool more = ring_give_back(ring);
	unsigned calls = 1;

	for (; ring_giving_back(ring); calls++)
		more = ring_give_back(ring);
	assert_true(calls >= (more ? 1 : 256 / 32));
	return more;
}

static void buffers_that_are_needed_over_and_over_are_kept(void **state)
{
	enum { PEERS = 48 };
	static const struct ring_params many = {
		.sq_entries = 64, .batch = 64, .recv_buffers = 256, .recv_buffer_bytes = 4096
	};
	uint64_t no_buffers;
	int pairs[PEERS][2];

	(void)state;
	ring_free(ring);
	assert_int_equal(ring_new(&many, &ring), 0);
	for (unsigned i = 0; i < PEERS; i++)
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]), 0);
	all_say(pairs, PEERS);
	no_buffers = ring_counts(ring)->no_buffers;
	assert_true(no_buffers > 0);
	for (unsigned round = 0; round < 4; round++) {
		assert_true(give_back());
		all_say(pairs, PEERS);
	}
	assert_int_equal(ring_counts(ring)->no_buffers, no_buffers);
	/* A time in which they were not. */
	assert_true(give_back());
	assert_false(give_back());
	all_say(pairs, PEERS); /* with those that the kernel still has */
	all_say(pairs, PEERS);
	assert_true(ring_counts(ring)->no_buffers > no_buffers);
	for (unsigned i = 0; i < PEERS; i++) {
		close(pairs[i][0]);
		close(pairs[i][1]);
	}
}

static void caller_memory_is_received_into_once(void **state)
{
	char memory[8] = "";
	(void)state;
	assert_int_equal(write(pair[1], "0123456789", 10), 10);
	ring_recv_into(ring, pair[0], memory, sizeof(memory), false, 7);
	settle();
	assert_int_equal(done_n, 1);
	assert_int_equal(done[0].result, 8);
	assert_false(done[0].more);
	assert_null(done[0].data);
	assert_memory_equal(memory, "01234567", 8);
}

static void reaping_stops_at_its_bound(void **state)
{
	(void)state;
	ring_recv(ring, pair[0], 7);
	settle();
	for (unsigned i = 0; i < BUFFERS; i++) {
		assert_int_equal(write(pair[1], "x", 1), 1);
		ring_enter(ring, false, 0);
	}
	assert_int_equal(ring_reap(ring, 1, note, NULL), 1);
	assert_true(ring_ready(ring));
	while (ring_ready(ring)) {
		ring_enter(ring, false, 0);
		ring_reap(ring, 1, note, NULL);
	}
	assert_int_equal(received_n, BUFFERS);
}

/* ---- sending ---- */

static char large[8 << 20];

static void spans_go_out_as_one_and_in_order(void **state)
{
	char out[RING_SPANS_MAX][4], got[256];
	(void)state;
	for (unsigned n = 1; n <= RING_SPANS_MAX; n++) {
		struct iovec spans[RING_SPANS_MAX];

		for (unsigned i = 0; i < n; i++) {
			snprintf(out[i], sizeof(out[i]), "%03u", i);
			spans[i] = (struct iovec){ out[i], 3 };
		}
		ring_send(ring, pair[0], spans, n, n);
		/* The array may go at once. */
		memset(spans, 0xff, sizeof(spans));
		settle();
		assert_int_equal(completion(n)->result, 3 * n);
		assert_int_equal(read(pair[1], got, sizeof(got)), 3 * n);
		for (unsigned i = 0; i < n; i++)
			assert_memory_equal(got + 3 * i, out[i], 3);
	}
}

static void many_sends_with_headers_do_not_mix(void **state)
{
	enum { SENDS = 200 };
	static unsigned numbers[SENDS][3];
	(void)state;
	/* More than a batch, and more than the queue. */
	for (unsigned i = 0; i < SENDS; i++) {
		struct iovec spans[3];

		for (unsigned k = 0; k < 3; k++) {
			numbers[i][k] = 3 * i + k;
			spans[k] = (struct iovec){ &numbers[i][k], sizeof(unsigned) };
		}
		ring_send(ring, pair[0], spans, 3, 1000 + i);
		assert_true(ring_queued(ring) <= usual.batch);
	}
	settle();
	assert_int_equal(ring_queued(ring), 0);
	assert_int_equal(done_n, SENDS);
	for (unsigned i = 0; i < 3 * SENDS; i++) {
		unsigned got;

		assert_int_equal(read(pair[1], &got, sizeof(got)), sizeof(got));
		assert_int_equal(got, i);
	}
	assert_int_equal(ring_counts(ring)->submitted, SENDS);
}

static void stalled_send_goes_on_when_there_is_room(void **state)
{
	const struct iovec span = { large, sizeof(large) };
	size_t got = 0;
	(void)state;
	ring_send(ring, pair[0], &span, 1, 7);
	settle();
	assert_int_equal(done_n, 0);
	while (done_n == 0) {
		got += drain(pair[1]);
		settle();
	}
	got += drain(pair[1]);
	assert_true(done[0].result > 0);
	/* It may be short; then just so much has gone. */
	assert_int_equal(done[0].result, got);
}

static void cancelled_send_reports_its_progress(void **state)
{
	const struct iovec span = { large, sizeof(large) };
	(void)state;
	ring_send(ring, pair[0], &span, 1, 7);
	settle();
	assert_int_equal(done_n, 0);
	ring_cancel(ring, 7, 8);
	settle();
	assert_int_equal(done_n, 2);
	assert_int_equal(completion(8)->result, 0);
	assert_true(completion(7)->result > 0);
	assert_int_equal(completion(7)->result, drain(pair[1]));
	/* There is nothing to cancel any more. */
	ring_cancel(ring, 7, 9);
	settle();
	assert_int_equal(completion(9)->result, -ENOENT);
}

static void cancelling_a_descriptor_ends_all_that_is_armed_on_it(void **state)
{
	const struct iovec span = { large, sizeof(large) };
	(void)state;
	ring_recv(ring, pair[0], 1);
	ring_send(ring, pair[0], &span, 1, 2);
	settle();
	assert_int_equal(done_n, 0);
	ring_cancel_fd(ring, pair[0], 3);
	settle();
	assert_int_equal(completion(1)->result, -ECANCELED);
	assert_false(completion(1)->more);
	assert_true(completion(2)->result > 0);
	assert_int_equal(completion(3)->result, 2);
}

static void sending_to_nobody_is_an_error_and_no_signal(void **state)
{
	const struct iovec span = { large, 10 };
	(void)state;
	close(pair[1]);
	pair[1] = -1;
	ring_send(ring, pair[0], &span, 1, 7);
	settle();
	assert_int_equal(completion(7)->result, -EPIPE);
	assert_int_equal(ring_send_now(ring, pair[0], "x", 1), -EPIPE);
}

static void sending_now_never_waits(void **state)
{
	int n;

	(void)state;
	assert_int_equal(ring_send_now(ring, pair[0], "hello", 5), 5);
	do
		n = ring_send_now(ring, pair[0], large, 65536);
	while (n > 0);
	assert_int_equal(n, -EAGAIN);
}

/* ---- accepting ---- */

static int listen_on(struct sockaddr_in *address)
{
	socklen_t len = sizeof(*address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*address = (struct sockaddr_in){ .sin_family = AF_INET,
					 .sin_addr = { htonl(INADDR_LOOPBACK) } };
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)address, sizeof(*address)), 0);
	assert_int_equal(listen(fd, 64), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)address, &len), 0);
	return fd;
}

static int connect_to(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
	return fd;
}

static void accept_goes_on_by_itself(void **state)
{
	static const unsigned char local[16] = { [10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1 };
	struct sockaddr_in address;
	unsigned char peer[16];
	int fd = listen_on(&address), clients[10];

	(void)state;
	ring_accept(ring, fd, 7);
	for (unsigned i = 0; i < 10; i++)
		clients[i] = connect_to(&address);
	await(10);
	for (unsigned i = 0; i < 10; i++) {
		assert_true(done[i].result >= 0);
		assert_true(done[i].more);
		ring_peer(ring, done[i].result, peer);
		assert_memory_equal(peer, local, 16);
		ring_close(ring, done[i].result);
		close(clients[i]);
	}
	ring_cancel_fd(ring, fd, 8);
	await(12);
	assert_int_equal(done[10].user_data == 7 ? done[10].result : done[11].result, -ECANCELED);
	close(fd);
}

static void lack_of_descriptors_ends_accepting(void **state)
{
	struct sockaddr_in address;
	struct rlimit before, less;
	int fd = listen_on(&address), client = connect_to(&address);

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	less = before;
	less.rlim_cur = (rlim_t)client + 1;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &less), 0);
	ring_accept(ring, fd, 7);
	await(1);
	assert_int_equal(done[0].result, -EMFILE);
	assert_false(done[0].more);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	/* Nothing is lost: the connection still waits. */
	ring_accept(ring, fd, 7);
	await(2);
	assert_true(done[1].result >= 0);
	ring_close(ring, done[1].result);
	close(client);
	close(fd);
}

static void address_of_a_unix_socket_is_all_zero(void **state)
{
	static const unsigned char zero[16];
	unsigned char peer[16];
	(void)state;
	memset(peer, 1, sizeof(peer));
	ring_peer(ring, pair[0], peer);
	assert_memory_equal(peer, zero, 16);
}

/* ---- time ---- */

static void tick_ticks_until_it_is_stopped(void **state)
{
	(void)state;
	ring_tick(ring, 2 * NS_PER_MS, 7);
	await(3);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(done[i].result, -ETIME);
		assert_int_equal(done[i].user_data, 7);
	}
	if (done[2].more) {
		ring_tick_stop(ring, 7, 8);
		while (completion(8) == NULL)
			await(done_n + 1);
		settle();
		assert_int_equal(completion(8)->result, 0);
		assert_int_equal(done[done_n - 1].user_data == 7 || done[done_n - 2].user_data == 7,
				 1);
	}
	forget();
	settle();
	assert_int_equal(completions(7), 0);
}

static void refusal_of_something_else_does_not_end_the_tick(void **state)
{
	struct sockaddr_in address;
	int fd = listen_on(&address);

	(void)state;
	/* A listener cannot be received from, and a socket that does not listen not accepted. */
	ring_accept(ring, fd, 1);
	settle();
	shutdown(fd, SHUT_RDWR);
	await(1);
	assert_int_equal(done[0].result, -EINVAL);
	forget();
	ring_tick(ring, NS_PER_MS, 7);
	await(1);
	assert_int_equal(done[0].result, -ETIME);
	assert_true(done[0].more);
	ring_tick_stop(ring, 7, 8);
	close(fd);
}

static void alarm_rings_once_at_its_time(void **state)
{
	uint64_t at_ns = clock_now_ns() + 3 * NS_PER_MS;

	(void)state;
	ring_alarm(ring, at_ns, 7);
	await(1);
	assert_true(clock_now_ns() >= at_ns);
	assert_int_equal(done[0].result, -ETIME);
	assert_false(done[0].more);
}

/* ---- entering ---- */

static void entering_with_nothing_to_do_makes_no_system_call(void **state)
{
	uint64_t enters = ring_counts(ring)->enters;

	(void)state;
	if (strstr(ring_describe(ring), "taskrun_flag") == NULL)
		skip();
	for (int i = 0; i < 10; i++)
		ring_enter(ring, false, 0);
	assert_int_equal(ring_counts(ring)->enters, enters);
	assert_int_equal(ring_submit(ring), 0);
	assert_int_equal(ring_counts(ring)->enters, enters);
}

static void lingering_waits_for_one_at_least(void **state)
{
	(void)state;
	ring_recv(ring, pair[0], 7);
	ring_tick(ring, 50 * NS_PER_MS, 8);
	while (completion(8) == NULL) {
		ring_enter(ring, true, 100);
		ring_reap(ring, 100, note, NULL);
	}
	/* One sleep, not one for every 100 us of it. */
	assert_true(ring_counts(ring)->enters < 20);
}

static void a_sleep_ends_at_its_moment_or_before_it_with_a_completion(void **state)
{
	uint64_t at_ns = clock_now_ns() + 3 * NS_PER_MS;
	const struct iovec span = { large, 5 };

	(void)state;
	ring_recv(ring, pair[0], 7);
	ring_enter_until(ring, at_ns, 0);
	assert_true(clock_now_ns() >= at_ns);
	assert_int_equal(ring_reap(ring, 100, note, NULL), 0);
	assert_int_equal(ring_counts(ring)->enter_errors, 0);
	/* Nobody would wait for this one to end. */
	ring_send(ring, pair[1], &span, 1, 8);
	ring_enter_until(ring, clock_now_ns() + 1000 * NS_PER_S, 0);
	assert_true(ring_ready(ring));
	/* One that is over has never begun. */
	settle();
	ring_enter_until(ring, clock_now_ns(), 0);
}

static void bad_request_does_not_hold_up_the_others(void **state)
{
	const struct iovec span = { large, 5 };
	(void)state;
	ring_recv(ring, 9999, 1);
	ring_send(ring, pair[0], &span, 1, 2);
	ring_enter(ring, false, 0);
	assert_int_equal(ring_queued(ring), 0);
	settle();
	assert_int_equal(completion(1)->result, -EBADF);
	assert_int_equal(completion(2)->result, 5);
}

/* ---- waking ---- */

struct sleeper {
	pthread_t thread;
	pthread_barrier_t ready;
	_Atomic int fd;
	_Atomic uint64_t slept; /* how often */
	uint64_t woken;
	int error;
};

static void count(void *context, const struct completion *c)
{
	struct sleeper *s = context;

	if (c->user_data == 42)
		s->woken++;
}

enum { WAKES = 20000 };

static void *sleep_and_count(void *context)
{
	const struct ring_params params = { .sq_entries = 16, .batch = 4 };
	struct sleeper *s = context;
	struct ring *mine;

	s->error = ring_new(&params, &mine);
	if (s->error == 0)
		atomic_store(&s->fd, ring_fd(mine));
	pthread_barrier_wait(&s->ready);
	if (s->error != 0)
		return NULL;
	/* A wake-up that is lost leaves it asleep for ever. */
	while (s->woken < WAKES) {
		ring_enter(mine, true, 0);
		ring_reap(mine, 8, count, s);
		atomic_store(&s->slept, s->woken);
	}
	pthread_barrier_wait(&s->ready);
	ring_free(mine);
	return NULL;
}

static void every_wake_from_another_ring_arrives(void **state)
{
	struct sleeper s = { 0 };

	(void)state;
	pthread_barrier_init(&s.ready, NULL, 2);
	assert_int_equal(pthread_create(&s.thread, NULL, sleep_and_count, &s), 0);
	pthread_barrier_wait(&s.ready);
	assert_int_equal(s.error, 0);
	for (unsigned i = 0; i < WAKES; i++) {
		ring_wake(ring, atomic_load(&s.fd), 42);
		ring_enter(ring, false, 0);
		/* Every other one finds it asleep, or nearly. */
		while (i % 2 == 0 && atomic_load(&s.slept) <= i)
			sched_yield();
	}
	pthread_barrier_wait(&s.ready);
	pthread_join(s.thread, NULL);
	assert_int_equal(s.woken, WAKES);
	/* Only failures would be told of here. */
	settle();
	assert_int_equal(done_n, 0);
	pthread_barrier_destroy(&s.ready);
}

static void waking_a_ring_that_has_ended_is_harmless(void **state)
{
	int fd = dup(0);

	(void)state;
	close(fd);
	ring_wake(ring, fd, 42);
	settle();
	assert_int_equal(done_n, 0);
}

/* ---- making one ---- */

static void ring_says_what_it_runs_with(void **state)
{
	const char *text = ring_describe(ring);

	(void)state;
	assert_int_equal(ring_restricted(ring), usual.restricted);
	assert_non_null(strstr(text, "sq 64 cq 256"));
	assert_null(strstr(text, "less than asked for"));
}

static void submission_thread_is_optional(void **state)
{
	const struct ring_params params = { .sq_entries = 16, .batch = 4, .sqpoll_idle_ms = 10 };
	const struct iovec spans[2] = { { large, 3 }, { large, 4 } };
	struct ring *plain = ring;
	size_t got;
	(void)state;
	assert_int_equal(ring_new(&params, &ring), 0);
	assert_non_null(strstr(ring_describe(ring), "sqpoll"));
	for (uint64_t i = 1; i <= 100; i++) {
		forget();
		ring_send(ring, pair[0], spans, 2, i);
		await(1);
		assert_int_equal(done[0].user_data, i);
		got = drain(pair[1]);
		assert_int_equal(done[0].result, got);
		assert_true(got == 3 || got == 7);
	}
	ring_free(ring);
	ring = plain;
}

/* What one turn asks for has no bound that is the ring's: thousands of connections may come at
 * once. */
static void more_requests_than_entries_are_taken(void **state)
{
	enum { ENTRIES = 16, REQUESTS = 50 * ENTRIES };
	static const unsigned idle_ms[] = { 0, 1, 1000 };
	struct ring *plain = ring;

	(void)state;
	for (size_t i = 0; i < sizeof(idle_ms) / sizeof(*idle_ms); i++) {
		const struct ring_params params = { .sq_entries = ENTRIES,
						    .batch = ENTRIES,
						    .sqpoll_idle_ms = idle_ms[i] };

		assert_int_equal(ring_new(&params, &ring), 0);
		for (int turn = 0; turn < 3; turn++) {
			forget();
			for (uint64_t n = 1; n <= REQUESTS; n++)
				ring_cancel(ring, UINT64_MAX, n);
			await(REQUESTS);
			for (uint64_t n = 1; n <= REQUESTS; n++)
				assert_int_equal(completion(n)->result, -ENOENT);
			/* The submission thread of one goes to sleep. */
			usleep(3000);
		}
		ring_free(ring);
	}
	ring = plain;
}

static void freeing_nothing_is_harmless(void **state)
{
	(void)state;
	ring_free(NULL);
}

/* In a child without privileges, because root's locked memory is not counted. Rings that other
 * programs of that user have count too, so the user is one that nobody is
 * or was. */
static int child_with_little_memory(rlim_t bytes, unsigned rings, unsigned sq_entries,
				    unsigned recv_buffers)
{
	const struct ring_params params = { .rings = rings,
					    .sq_entries = sq_entries,
					    .batch = 4,
					    .recv_buffers = recv_buffers,
					    .recv_buffer_bytes = 64 };
	const struct rlimit limit = { bytes, bytes };
	struct ring *mine;
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		const uid_t user = 1000000 + (uid_t)getpid();

		if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || setresuid(user, user, user) != 0)
			_exit(100);
		for (unsigned i = 0; i < rings; i++) {
			if (ring_new(&params, &mine) != 0)
				_exit(1);
			if (strstr(ring_describe(mine), "less than asked for: RLIMIT_MEMLOCK") ==
			    NULL)
				_exit(2);
		}
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void without_memory_for_a_large_ring_a_smaller_one_must_do(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(child_with_little_memory(1 << 20, 1, 16384, 0), 0);
	/* Its receive buffers need some of that too. */
	assert_int_equal(child_with_little_memory(600 << 10, 1, 4096, 8192), 0);
	assert_int_equal(child_with_little_memory(4096, 1, 4096, 0), 1);
}

static void all_rings_of_a_process_share_the_memory_there_is(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	/* What a user has by default, on a host of many cores. */
	assert_int_equal(child_with_little_memory(8 << 20, 32, 4096, 1024), 0);
	assert_int_equal(child_with_little_memory(8 << 20, 128, 4096, 1024), 0);
}

static void refusal_is_explained(void **state)
{
	static const struct {
		int error;
		const char *part;
	} want[] = { { -EPERM, "io_uring is" },
		     { -EACCES, "seccomp" },
		     { -ENOSYS, "6.1" },
		     { -ENOMEM, "RLIMIT_MEMLOCK" },
		     { -EINVAL, "too old" },
		     { -EMFILE, "RLIMIT_NOFILE" },
		     { -ENFILE, "file descriptor" },
		     { -EIO, "Input/output error" } };
	char text[512];

	(void)state;
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		ring_explain(want[i].error, text, sizeof(text));
		assert_non_null(strstr(text, want[i].part));
		assert_null(strchr(text, '\n'));
	}
	/* What does not fit is cut off. */
	memset(text, 'x', sizeof(text));
	ring_explain(-EPERM, text, 10);
	assert_int_equal(strlen(text), 9);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(receive_goes_on_by_itself),
		TEST(lack_of_buffers_ends_a_receive_and_hides_the_end_of_file),
		TEST(buffers_come_back_however_often_they_are_used),
		TEST(a_receive_that_waits_first_misses_nothing),
		TEST(buffers_that_are_needed_over_and_over_are_kept),
		TEST(caller_memory_is_received_into_once),
		TEST(reaping_stops_at_its_bound),
		TEST(spans_go_out_as_one_and_in_order),
		TEST(many_sends_with_headers_do_not_mix),
		TEST(stalled_send_goes_on_when_there_is_room),
		TEST(cancelled_send_reports_its_progress),
		TEST(cancelling_a_descriptor_ends_all_that_is_armed_on_it),
		TEST(sending_to_nobody_is_an_error_and_no_signal),
		TEST(sending_now_never_waits),
		TEST(accept_goes_on_by_itself),
		TEST(lack_of_descriptors_ends_accepting),
		TEST(address_of_a_unix_socket_is_all_zero),
		TEST(tick_ticks_until_it_is_stopped),
		TEST(refusal_of_something_else_does_not_end_the_tick),
		TEST(alarm_rings_once_at_its_time),
		TEST(entering_with_nothing_to_do_makes_no_system_call),
		TEST(lingering_waits_for_one_at_least),
		TEST(a_sleep_ends_at_its_moment_or_before_it_with_a_completion),
		TEST(bad_request_does_not_hold_up_the_others),
		TEST(every_wake_from_another_ring_arrives),
		TEST(waking_a_ring_that_has_ended_is_harmless),
		TEST(ring_says_what_it_runs_with),
		TEST(submission_thread_is_optional),
		TEST(more_requests_than_entries_are_taken),
		cmocka_unit_test(freeing_nothing_is_harmless),
		cmocka_unit_test(without_memory_for_a_large_ring_a_smaller_one_must_do),
		cmocka_unit_test(all_rings_of_a_process_share_the_memory_there_is),
		cmocka_unit_test(refusal_is_explained),
	};

	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	/* And what a ring does that takes no other requests than these. */
	usual.restricted = true;
	return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
