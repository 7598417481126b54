#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/socket.h"

enum { BUFFERS = 4, BUFFER_BYTES = 64, SOCKETS_MAX = 80 };

/* One end of a socket pair on the reactor, the other one in the test's hands. */
struct client {
	struct socket socket; /* first */
	int peer;
	char got[1 << 16];
	size_t got_n;
	unsigned ends, closes, sends;
	int error, sent;
	unsigned order; /* when it received last */
	void (*on_received)(struct client *c);
};

static struct reactor reactor;
static struct sockets sockets;
static struct client *clients[SOCKETS_MAX];
static unsigned received_n;

static struct client *client_of(struct socket *s)
{
	return (struct client *)(void *)s;
}

static void received(struct socket *s, const char *data, size_t len, int error)
{
	struct client *c = client_of(s);

	if (len > 0) {
		assert_true(c->got_n + len <= sizeof(c->got));
		memcpy(c->got + c->got_n, data, len);
		c->got_n += len;
	} else {
		c->ends++;
		c->error = error;
	}
	c->order = ++received_n;
	if (c->on_received != NULL)
		c->on_received(c);
}

static void sent(struct socket *s, int result)
{
	client_of(s)->sends++;
	client_of(s)->sent = result;
}

static void closed(struct socket *s)
{
	client_of(s)->closes++;
}

static const struct socket_events events = { received, sent, closed, NULL };

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
	return sockets_flush(&sockets);
}

static int begin(void **state)
{
	const struct reactor_owner owner = { .letters = letters, .flush = flush };
	const struct reactor_params params = {
		.completion_batch = 256,
		.lane_batch = 1,
		.ring = { .sq_entries = 256,
			  .batch = 64,
			  .recv_buffers = BUFFERS,
			  .recv_buffer_bytes = BUFFER_BYTES },
	};

	(void)state;
	received_n = 0;
	if (reactor_init(&reactor, &params, NULL, NULL, &owner) != 0)
		return -1;
	return sockets_init(&sockets, &reactor, &events, SOCKETS_MAX - 2);
}

static int end(void **state)
{
	(void)state;
	for (unsigned i = 0; i < SOCKETS_MAX; i++) {
		if (clients[i] == NULL)
			continue;
		if (clients[i]->closes == 0) {
			socket_close(&sockets, &clients[i]->socket);
			while (clients[i]->closes == 0)
				reactor_turn(&reactor, false);
		}
		assert_int_equal(clients[i]->closes, 1);
		close(clients[i]->peer);
		free(clients[i]);
		clients[i] = NULL;
	}
	sockets_release(&sockets);
	reactor_release(&reactor);
	return 0;
}

/* Turns until what was asked for has had time to happen: nothing here takes time in the kernel. */
static void turns(void)
{
	for (int i = 0; i < 20; i++)
		reactor_turn(&reactor, false);
}

static struct client *client_with(unsigned i, int fd, int peer)
{
	clients[i] = calloc(1, sizeof(*clients[i]));
	assert_non_null(clients[i]);
	clients[i]->peer = peer;
	assert_int_equal(socket_open(&sockets, &clients[i]->socket, fd), 0);
	return clients[i];
}

static struct client *client_new(unsigned i)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	return client_with(i, pair[0], pair[1]);
}

static struct client *tcp_client_new(unsigned i)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0), peer = socket(AF_INET, SOCK_STREAM, 0), fd;
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);

	assert_int_equal(bind(listener, (struct sockaddr *)&at, len), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &len), 0);
	assert_int_equal(connect(peer, (struct sockaddr *)&at, len), 0);
	fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	close(listener);
	return client_with(i, fd, peer);
}

static void say(struct client *c, const char *text)
{
	assert_int_equal(write(c->peer, text, strlen(text)), (ssize_t)strlen(text));
}

static void check_got(struct client *c, const char *text)
{
	assert_int_equal(c->got_n, strlen(text));
	assert_memory_equal(c->got, text, c->got_n);
}

/* A send so large that the peer's buffer cannot take it. */
static size_t stall(struct client *c)
{
	static char much[4 << 20];
	const struct iovec span = { much, sizeof(much) };

	socket_send(&sockets, &c->socket, &span, 1);
	turns();
	assert_int_equal(c->sends, 0);
	return sizeof(much);
}

static void nothing_is_received_before_it_is_asked_for(void **state)
{
	struct client *c = client_new(0);

	(void)state;
	say(c, "hello");
	turns();
	assert_int_equal(c->got_n, 0);
	socket_receive(&sockets, &c->socket);
	turns();
	check_got(c, "hello");
}

static void end_of_file_is_told_once(void **state)
{
	struct client *c = client_new(0);

	(void)state;
	socket_receive(&sockets, &c->socket);
	say(c, "last words");
	shutdown(c->peer, SHUT_WR);
	turns();
	check_got(c, "last words");
	assert_int_equal(c->ends, 1);
	assert_int_equal(c->error, 0);
	socket_receive(&sockets, &c->socket);
	turns();
	assert_int_equal(c->ends, 1);
	assert_int_equal(c->socket.in_flight, 0);
}

static void half_closed_socket_can_still_send(void **state)
{
	struct client *c = client_new(0);
	const char *text = "answer";
	const struct iovec span = { (void *)(uintptr_t)text, 6 };
	char buf[16];

	(void)state;
	socket_receive(&sockets, &c->socket);
	shutdown(c->peer, SHUT_WR);
	turns();
	socket_send(&sockets, &c->socket, &span, 1);
	turns();
	assert_int_equal(c->sent, 6);
	assert_int_equal(read(c->peer, buf, sizeof(buf)), 6);
}

static void end_of_file_behind_a_lack_of_buffers_is_not_lost(void **state)
{
	struct client *c = client_new(0);
	char much[40 * BUFFER_BYTES];

	(void)state;
	memset(much, 'x', sizeof(much));
	assert_int_equal(write(c->peer, much, sizeof(much)), sizeof(much));
	shutdown(c->peer, SHUT_WR);
	c->socket.multishot = true;
	socket_receive(&sockets, &c->socket);
	while (c->ends == 0)
		reactor_turn(&reactor, false);
	assert_int_equal(c->got_n, sizeof(much));
	assert_true(ring_counts(reactor.ring)->no_buffers > 0);
}

static void starved_sockets_are_served_in_the_order_in_which_they_starved(void **state)
{
	char much[3 * BUFFERS * BUFFER_BYTES];

	(void)state;
	memset(much, 'x', sizeof(much));
	for (unsigned i = 0; i < 10; i++) {
		struct client *c = client_new(i);

		assert_int_equal(write(c->peer, much, sizeof(much)), sizeof(much));
		socket_receive(&sockets, &c->socket);
	}
	for (int round = 0; round < 1000; round++) {
		bool all = true;

		reactor_turn(&reactor, false);
		for (unsigned i = 0; i < 10; i++)
			all &= clients[i]->got_n == sizeof(much);
		if (all)
			break;
	}
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(clients[i]->got_n, sizeof(much));
	/* Nobody came last who was first in the queue. */
	assert_true(clients[0]->order < clients[9]->order);
	assert_true(list_empty(&sockets.hungry));
}

/* The bytes of one turn, in pieces of so many, and a few more. */
enum { MUCH_ROOM = 32 << 10, MUCH_N = 40 };

static char much_room[MUCH_N][MUCH_ROOM], much_text[3 * MUCH_ROOM];

static void receive_much(struct client *c)
{
	unsigned i = 0;

	while (clients[i] != c)
		i++;
	c->got_n = 0;
	/* There is always more. */
	(void)send(c->peer, much_text, sizeof(much_text), MSG_DONTWAIT);
	if (!c->socket.paused)
		socket_receive_into(&sockets, &c->socket, much_room[i], MUCH_ROOM);
}

static void those_that_send_much_are_received_from_in_turn_and_others_at_once(void **state)
{
	struct client *little = client_new(MUCH_N);
	unsigned before, n;

	(void)state;
	socket_receive(&sockets, &little->socket);
	turns();
	for (unsigned i = 0; i < MUCH_N; i++) {
		struct client *c = client_new(i);

		c->on_received = receive_much;
		assert_true(send(c->peer, much_text, sizeof(much_text), MSG_DONTWAIT) > 0);
		socket_receive(&sockets, &c->socket);
	}
	for (n = 0; n < 2 * MUCH_N; n++)
		reactor_turn(&reactor, false);
	assert_int_equal(write(little->peer, "x", 1), 1);
	for (n = 0; little->got_n == 0; n++) {
		before = received_n;
		reactor_turn(&reactor, false);
		assert_true(received_n - before <= 512 * 1024 / MUCH_ROOM + 1);
	}
	assert_true(n <= 3);
	before = received_n;
	for (n = 0; n < MUCH_N; n++)
		reactor_turn(&reactor, false);
	for (unsigned i = 0; i < MUCH_N; i++) {
		assert_true(clients[i]->order > before);
		clients[i]->on_received = NULL;
		socket_pause(&sockets, &clients[i]->socket);
	}
}

static void pause_takes_back_the_memory_of_a_receive_that_is_not_armed_yet(void **state)
{
	static char text[4 * BUFFER_BYTES];
	struct client *c = client_new(0);

	(void)state;
	assert_int_equal(write(c->peer, text, sizeof(text)), sizeof(text));
	socket_pause(&sockets, &c->socket);
	socket_receive(&sockets, &c->socket);
	while (c->got_n == 0)
		reactor_turn(&reactor, false);
	assert_true(c->socket.greedy);
	socket_pause(&sockets, &c->socket);
	turns();
	/* It waits for its turn, and then does not want it any more. */
	c->socket.paused = false;
	socket_receive_into(&sockets, &c->socket, much_room[0], MUCH_ROOM);
	assert_false(c->socket.recv_armed);
	assert_false(list_empty(&sockets.hungry));
	socket_pause(&sockets, &c->socket);
	assert_null(c->socket.into);
	assert_true(list_empty(&sockets.hungry));
	socket_receive(&sockets, &c->socket);
	turns();
	assert_int_equal(c->got_n, sizeof(text));
}

static void paused_socket_receives_at_most_the_buffer_that_is_armed(void **state)
{
	struct client *c = client_new(0);
	char much[8 * BUFFER_BYTES];

	(void)state;
	memset(much, 'x', sizeof(much));
	socket_receive(&sockets, &c->socket);
	turns();
	socket_pause(&sockets, &c->socket);
	assert_int_equal(write(c->peer, much, sizeof(much)), sizeof(much));
	turns();
	assert_int_equal(c->got_n, BUFFER_BYTES);
	assert_int_equal(c->socket.in_flight, 0);
	socket_receive(&sockets, &c->socket);
	turns();
	assert_int_equal(c->got_n, sizeof(much));
}

static void paused_multishot_socket_receives_nothing_more(void **state)
{
	struct client *c = client_new(0);

	(void)state;
	c->socket.multishot = true;
	socket_receive(&sockets, &c->socket);
	turns();
	socket_pause(&sockets, &c->socket);
	socket_pause(&sockets, &c->socket);
	turns();
	say(c, "later");
	turns();
	assert_int_equal(c->got_n, 0);
	assert_int_equal(c->socket.in_flight, 0);
	socket_receive(&sockets, &c->socket);
	turns();
	check_got(c, "later");
}

static void pause_undone_before_it_took_effect_changes_nothing(void **state)
{
	struct client *c = client_new(0);

	(void)state;
	socket_receive(&sockets, &c->socket);
	turns();
	for (int i = 0; i < 100; i++) {
		socket_pause(&sockets, &c->socket);
		socket_receive(&sockets, &c->socket);
		reactor_turn(&reactor, false);
	}
	say(c, "hello");
	turns();
	check_got(c, "hello");
	assert_int_equal(c->socket.in_flight, 1);
}

static void pause_it(struct client *c)
{
	socket_pause(&sockets, &c->socket);
}

/* The receive ends for want of buffers before its cancellation comes: it must not be armed again
 * as one that starves. */
static void socket_that_starves_while_it_is_paused_stays_paused(void **state)
{
	struct client *c = client_new(0);
	char much[40 * BUFFER_BYTES];
	size_t got;

	(void)state;
	memset(much, 'x', sizeof(much));
	c->on_received = pause_it;
	assert_int_equal(write(c->peer, much, sizeof(much)), sizeof(much));
	socket_receive(&sockets, &c->socket);
	turns();
	got = c->got_n;
	assert_true(got > 0);
	assert_true(got <= BUFFERS * BUFFER_BYTES);
	assert_true(c->socket.paused);
	assert_int_equal(c->socket.in_flight, 0);
	c->on_received = NULL;
	socket_receive(&sockets, &c->socket);
	while (c->got_n < sizeof(much))
		reactor_turn(&reactor, false);
}

static void starved_socket_that_is_paused_leaves_the_queue(void **state)
{
	struct client *c = client_new(0);
	char much[40 * BUFFER_BYTES];
	size_t got;

	(void)state;
	memset(much, 'x', sizeof(much));
	assert_int_equal(write(c->peer, much, sizeof(much)), sizeof(much));
	socket_receive(&sockets, &c->socket);
	ring_enter(reactor.ring, false, 0);
	/* Starved in the reaping of this turn, paused before the flush that would arm it again. */
	reactor_turn(&reactor, false);
	socket_pause(&sockets, &c->socket);
	turns();
	got = c->got_n;
	turns();
	assert_int_equal(c->got_n, got);
	assert_int_equal(c->socket.in_flight, 0);
	assert_true(list_empty(&sockets.hungry));
}

static void caller_memory_receives_once(void **state)
{
	struct client *c = client_new(0);
	static char memory[100];

	(void)state;
	socket_receive_into(&sockets, &c->socket, memory, sizeof(memory));
	say(c, "into place");
	turns();
	assert_memory_equal(memory, "into place", 10);
	check_got(c, "into place");
	say(c, "!");
	turns();
	check_got(c, "into place");
	socket_receive(&sockets, &c->socket);
	turns();
	check_got(c, "into place!");
}

static void closing_waits_for_what_is_in_flight(void **state)
{
	struct client *c = client_new(0);

	(void)state;
	socket_receive(&sockets, &c->socket);
	stall(c);
	assert_int_equal(c->socket.in_flight, 2);
	socket_close(&sockets, &c->socket);
	socket_close(&sockets, &c->socket);
	assert_int_equal(c->closes, 0);
	turns();
	assert_int_equal(c->sends, 1);
	assert_int_equal(c->closes, 1);
	/* Its end of the pair is closed: the other one sees the end behind what was sent. */
	{
		struct pollfd p = { .fd = c->peer, .events = POLLHUP };

		assert_int_equal(poll(&p, 1, 0), 1);
	}
	/* And it received nothing that it was not to. */
	assert_int_equal(c->ends, 0);
}

/* Beyond what the peer's kernel has, it sees neither the rest of what it was sent nor an end of
 * file, which would be a receipt. */
static void what_is_reset_ends_in_nothing_but_a_reset(void **state)
{
	static char much[4 << 20];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct client *c = tcp_client_new(i);
		size_t sent_n = i == 0 ? 0 : stall(c), got_n = 0;
		ssize_t n;

		c->socket.reset = true;
		socket_receive(&sockets, &c->socket);
		socket_close(&sockets, &c->socket);
		turns();
		assert_int_equal(c->closes, 1);
		while ((n = read(c->peer, much, sizeof(much))) > 0)
			got_n += (size_t)n;
		assert_int_equal(n, -1);
		assert_int_equal(errno, ECONNRESET);
		assert_true(got_n < sent_n || sent_n == 0);
	}
}

static void close_it(struct client *c)
{
	socket_close(&sockets, &c->socket);
}

static void close_in_a_callback_is_the_last_that_is_heard_of_it(void **state)
{
	struct client *c = client_new(0);
	char much[3 * BUFFER_BYTES];

	(void)state;
	memset(much, 'x', sizeof(much));
	c->on_received = close_it;
	assert_int_equal(write(c->peer, much, sizeof(much)), sizeof(much));
	socket_receive(&sockets, &c->socket);
	turns();
	assert_int_equal(c->got_n, BUFFER_BYTES);
	assert_int_equal(c->ends, 0);
	assert_int_equal(c->closes, 1);
}

static void socket_with_nothing_in_flight_closes_at_the_flush(void **state)
{
	struct client *c = client_new(0);

	(void)state;
	socket_close(&sockets, &c->socket);
	assert_int_equal(c->closes, 0);
	assert_true(sockets_flush(&sockets));
	assert_int_equal(c->closes, 1);
	assert_false(sockets_flush(&sockets));
}

static unsigned closed_so_far(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SOCKETS_MAX; i++)
		n += clients[i] != NULL && clients[i]->closes == 1;
	return n;
}

/* However many are to close at once, others have their turn in between. */
static void closes_are_spread_over_turns(void **state)
{
	enum { MANY = SOCKETS_MAX - 2 };

	(void)state;
	for (unsigned i = 0; i < MANY; i++)
		socket_close(&sockets, &client_new(i)->socket);
	assert_true(sockets_flush(&sockets));
	assert_in_range(closed_so_far(), 1, MANY - 1);
	while (sockets_flush(&sockets))
		;
	assert_int_equal(closed_so_far(), MANY);
}

static void paused_or_starved_socket_closes_too(void **state)
{
	struct client *paused = client_new(0), *starved = client_new(1);
	char much[40 * BUFFER_BYTES];

	(void)state;
	memset(much, 'x', sizeof(much));
	assert_int_equal(write(starved->peer, much, sizeof(much)), sizeof(much));
	socket_receive(&sockets, &paused->socket);
	socket_receive(&sockets, &starved->socket);
	reactor_turn(&reactor, false);
	socket_pause(&sockets, &paused->socket);
	socket_close(&sockets, &paused->socket);
	reactor_turn(&reactor, false);
	socket_close(&sockets, &starved->socket);
	turns();
	assert_int_equal(paused->closes, 1);
	assert_int_equal(starved->closes, 1);
	assert_true(list_empty(&sockets.hungry));
}

static void cancelled_send_tells_how_far_it_came(void **state)
{
	struct client *c = client_new(0);
	char buf[65536];
	size_t there = 0, whole = stall(c);
	ssize_t n;

	(void)state;
	socket_cancel_send(&sockets, &c->socket);
	turns();
	assert_int_equal(c->sends, 1);
	assert_int_equal(c->socket.in_flight, 0);
	while ((n = recv(c->peer, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		there += (size_t)n;
	assert_true(there > 0 && there < whole);
	assert_int_equal(c->sent, there);
	/* And without one in flight there is nothing to cancel. */
	socket_cancel_send(&sockets, &c->socket);
	assert_int_equal(c->socket.in_flight, 0);
}

static void send_to_a_peer_that_is_gone_fails(void **state)
{
	struct client *c = client_new(0);
	char text[] = "hello";
	const struct iovec span = { text, 5 };

	(void)state;
	close(c->peer);
	c->peer = dup(0);
	socket_send(&sockets, &c->socket, &span, 1);
	turns();
	assert_int_equal(c->sent, -EPIPE);
}

/* What the kernel would say of a request that was armed for the slot's owner before. */
static void late_completion_is_ignored(void **state)
{
	struct client *old = client_new(0), *fresh;
	uint32_t slot = old->socket.slot, generation = socket_generation(&sockets, &old->socket);
	static const unsigned ops[] = { OP_SOCKET_RECV, OP_SOCKET_SEND, OP_SOCKET_CANCEL };

	(void)state;
	socket_close(&sockets, &old->socket);
	turns();
	assert_int_equal(old->closes, 1);
	assert_null(socket_at(&sockets, slot, generation));
	fresh = client_new(1);
	assert_int_equal(fresh->socket.slot, slot);
	assert_int_equal(socket_generation(&sockets, &fresh->socket), generation + 1);
	assert_null(socket_at(&sockets, slot, generation));
	assert_ptr_equal(socket_at(&sockets, slot, generation + 1), &fresh->socket);
	for (unsigned i = 0; i < 3; i++) {
		const struct completion late = {
			.user_data = user_data(ops[i], generation, slot),
			.result = 5,
			.data = "late!",
		};

		reactor.ops[ops[i]].handler(reactor.ops[ops[i]].context, &late);
	}
	assert_int_equal(reactor.stats.late_completions, 3);
	assert_int_equal(fresh->got_n, 0);
	assert_int_equal(fresh->sends, 0);
	assert_null(socket_at(&sockets, 1000000, 0));
}

static void generation_wraps_at_24_bits(void **state)
{
	struct client *c = client_new(0);
	uint32_t slot = c->socket.slot;

	(void)state;
	sockets.slots[slot].generation = REACTOR_GENERATION_MASK;
	socket_receive(&sockets, &c->socket);
	say(c, "hello");
	turns();
	check_got(c, "hello");
	socket_close(&sockets, &c->socket);
	turns();
	/* 0 says that it is nobody. */
	assert_int_equal(sockets.slots[slot].generation, 1);
}

static void slots_are_limited_and_come_back(void **state)
{
	struct socket one_more;

	(void)state;
	for (unsigned i = 0; i < SOCKETS_MAX - 2; i++)
		client_new(i);
	assert_int_equal(sockets.open, SOCKETS_MAX - 2);
	assert_int_equal(socket_open(&sockets, &one_more, 0), -EMFILE);
	socket_close(&sockets, &clients[17]->socket);
	turns();
	client_new(SOCKETS_MAX - 1);
	assert_int_equal(socket_open(&sockets, &one_more, 0), -EMFILE);
}

static void time_between_two_sends_is_noted(void **state)
{
	struct client *c = client_new(0);
	char text[] = "x";
	const struct iovec span = { text, 1 };

	(void)state;
	for (int i = 0; i < 3; i++) {
		socket_send(&sockets, &c->socket, &span, 1);
		turns();
	}
	assert_int_equal(sockets.sends, 3);
	assert_int_equal(sockets.send_gap.count, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_is_received_before_it_is_asked_for),
		TEST(end_of_file_is_told_once),
		TEST(half_closed_socket_can_still_send),
		TEST(end_of_file_behind_a_lack_of_buffers_is_not_lost),
		TEST(starved_sockets_are_served_in_the_order_in_which_they_starved),
		TEST(those_that_send_much_are_received_from_in_turn_and_others_at_once),
		TEST(pause_takes_back_the_memory_of_a_receive_that_is_not_armed_yet),
		TEST(paused_socket_receives_at_most_the_buffer_that_is_armed),
		TEST(paused_multishot_socket_receives_nothing_more),
		TEST(pause_undone_before_it_took_effect_changes_nothing),
		TEST(socket_that_starves_while_it_is_paused_stays_paused),
		TEST(starved_socket_that_is_paused_leaves_the_queue),
		TEST(caller_memory_receives_once),
		TEST(closing_waits_for_what_is_in_flight),
		TEST(what_is_reset_ends_in_nothing_but_a_reset),
		TEST(close_in_a_callback_is_the_last_that_is_heard_of_it),
		TEST(socket_with_nothing_in_flight_closes_at_the_flush),
		TEST(closes_are_spread_over_turns),
		TEST(paused_or_starved_socket_closes_too),
		TEST(cancelled_send_tells_how_far_it_came),
		TEST(send_to_a_peer_that_is_gone_fails),
		TEST(late_completion_is_ignored),
		TEST(generation_wraps_at_24_bits),
		TEST(slots_are_limited_and_come_back),
		TEST(time_between_two_sends_is_noted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
