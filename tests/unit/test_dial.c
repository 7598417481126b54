#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/dial.h"
#include "engine/reactor.h"

enum { SILENCE_MS = 5000 };

static struct reactor reactor;
static struct dial dial;
static unsigned calls;
static int result;

static void done(void *context, int r)
{
	assert_ptr_equal(context, &calls);
	calls++;
	result = r;
}

static void letters(void *context, unsigned sender, enum mailbox_lane lane, void **list, unsigned n)
{
	(void)context;
	(void)sender;
	(void)lane;
	(void)list;
	(void)n;
}

static bool flush(void *context)
{
	(void)context;
	return false;
}

static int begin(void **state)
{
	const struct reactor_owner owner = { .letters = letters, .flush = flush };
	const struct reactor_params params = { .completion_batch = 16,
					       .lane_batch = 1,
					       .ring = { .sq_entries = 16,
							 .batch = 16,
							 .recv_buffers = 4,
							 .recv_buffer_bytes = 1024,
							 .restricted = true } };

	(void)state;
	calls = 0;
	if (reactor_init(&reactor, &params, NULL, NULL, &owner) != 0)
		return -1;
	dial_init(&dial, &reactor, done, &calls);
	return 0;
}

static int end(void **state)
{
	(void)state;
	dial_release(&dial);
	reactor_release(&reactor);
	return 0;
}

/* A socket on a free port of loopback, and that as an address. */
static int listener(struct address *address)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char text[32];

	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
	snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(in.sin_port));
	assert_null(address_parse(text, address));
	return fd;
}

static void turns_until_done(void)
{
	for (int i = 0; i < 1000 && calls == 0; i++)
		reactor_turn(&reactor, true);
	assert_int_equal(calls, 1);
}

static void a_dial_ends_with_a_connected_socket(void **state)
{
	struct address address;
	int fd = listener(&address), peer;
	char byte = 0;

	(void)state;
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(dial_begin(&dial, &address, SILENCE_MS), 0);
	assert_true(dial_busy(&dial));
	turns_until_done();
	assert_false(dial_busy(&dial));
	assert_true(result >= 0);
	peer = accept(fd, NULL, NULL);
	assert_int_equal(write(result, "x", 1), 1);
	assert_int_equal(read(peer, &byte, 1), 1);
	assert_int_equal(byte, 'x');
	close(result);
	close(peer);
	close(fd);
}

static void a_dial_that_is_refused_says_so(void **state)
{
	struct address address;
	int fd = listener(&address);

	(void)state;
	/* Nobody listens there. */
	assert_int_equal(dial_begin(&dial, &address, SILENCE_MS), 0);
	turns_until_done();
	assert_int_equal(result, -ECONNREFUSED);
	assert_false(dial_busy(&dial));
	close(fd);
}

static void a_cancelled_dial_is_not_heard_of(void **state)
{
	struct address address;
	int fd = listener(&address);

	(void)state;
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(dial_begin(&dial, &address, SILENCE_MS), 0);
	dial_cancel(&dial);
	dial_cancel(&dial);
	for (int i = 0; i < 1000 && dial_busy(&dial); i++)
		reactor_turn(&reactor, true);
	assert_false(dial_busy(&dial));
	assert_int_equal(calls, 0);
	/* Another one may follow. */
	assert_int_equal(dial_begin(&dial, &address, SILENCE_MS), 0);
	turns_until_done();
	assert_true(result >= 0);
	close(result);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_dial_ends_with_a_connected_socket, begin, end),
		cmocka_unit_test_setup_teardown(a_dial_that_is_refused_says_so, begin, end),
		cmocka_unit_test_setup_teardown(a_cancelled_dial_is_not_heard_of, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
