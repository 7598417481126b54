#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config.h"
#include "broker/broker.h"
#include "broker/shard.h"
#include "engine/lookup.h"
#include "engine/worker.h"
#include "session/upstream.h"

/* ---- names, in place of the C library's ---- */

static pthread_mutex_t slow = PTHREAD_MUTEX_INITIALIZER; /* held: slow.test is not answered */
static atomic_uint asked;

static struct addrinfo *found(const char *text, struct addrinfo *next)
{
	struct {
		struct addrinfo info;
		struct sockaddr_in address;
	} *one = calloc(1, sizeof(*one));

	one->address.sin_family = AF_INET;
	assert_int_equal(inet_pton(AF_INET, text, &one->address.sin_addr), 1);
	one->info = (struct addrinfo){ .ai_family = AF_INET,
				       .ai_addr = (struct sockaddr *)(void *)&one->address,
				       .ai_addrlen = sizeof(one->address),
				       .ai_next = next };
	return &one->info;
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *wanted,
		struct addrinfo **out)
{
	(void)service;
	assert_int_equal(wanted->ai_socktype, SOCK_STREAM);
	atomic_fetch_add(&asked, 1);
	if (strcmp(name, "none.test") == 0)
		return EAI_NONAME;
	if (strcmp(name, "slow.test") == 0) {
		pthread_mutex_lock(&slow);
		pthread_mutex_unlock(&slow);
	}
	*out = found("127.0.0.9", found("127.0.0.1", NULL));
	return 0;
}

void freeaddrinfo(struct addrinfo *info)
{
	while (info != NULL) {
		struct addrinfo *next = info->ai_next;

		free(info);
		info = next;
	}
}

/* ---- lookups ---- */

static void wait_for(const struct lookup *l)
{
	while (!lookup_done(l))
		usleep(1000);
}

static void a_name_has_addresses_with_the_port(void **state)
{
	struct workers *w = workers_new();
	struct lookup *l;

	(void)state;
	assert_int_equal(workers_start(w, 1), 0);
	l = lookup_new(w, "two.test", 4223);
	wait_for(l);
	assert_int_equal(lookup_count(l), 2);
	for (unsigned i = 0; i < 2; i++) {
		struct address expected;

		assert_null(address_parse(i == 0 ? "127.0.0.9:4223" : "127.0.0.1:4223", &expected));
		assert_memory_equal(&lookup_address(l, i)->host, &expected.host,
				    sizeof(expected.host));
		assert_int_equal(lookup_address(l, i)->port, expected.port);
		assert_int_equal(lookup_address(l, i)->v4, expected.v4);
	}
	lookup_free(l);
	workers_free(w);
}

static void a_name_without_addresses_says_why(void **state)
{
	struct workers *w = workers_new();
	struct lookup *l = lookup_new(w, "none.test", 1);

	(void)state;
	/* No thread is there: it is done at once. */
	assert_true(lookup_done(l));
	assert_int_equal(lookup_count(l), 0);
	assert_string_equal(lookup_problem(l), gai_strerror(EAI_NONAME));
	lookup_free(l);
	workers_free(w);
}

static void a_lookup_that_nobody_waits_for_is_not_made(void **state)
{
	struct workers *w = workers_new();
	struct lookup *first, *last;
	unsigned before;

	(void)state;
	assert_int_equal(workers_start(w, 1), 0);
	pthread_mutex_lock(&slow);
	before = atomic_load(&asked);
	first = lookup_new(w, "slow.test", 1);
	while (atomic_load(&asked) == before)
		usleep(1000);
	lookup_free(lookup_new(w, "two.test", 1));
	/* Nor is who went away while it was made. */
	lookup_free(first);
	last = lookup_new(w, "two.test", 1);
	assert_false(lookup_done(last));
	pthread_mutex_unlock(&slow);
	wait_for(last);
	assert_int_equal(atomic_load(&asked) - before, 2);
	lookup_free(last);
	workers_free(w);
}

static void no_more_wait_than_may(void **state)
{
	struct workers *w = workers_new();
	struct lookup *all[LOOKUPS_MAX + 1];
	unsigned before = atomic_load(&asked);

	(void)state;
	assert_int_equal(workers_start(w, 1), 0);
	pthread_mutex_lock(&slow);
	all[0] = lookup_new(w, "slow.test", 1);
	while (atomic_load(&asked) == before)
		usleep(1000);
	for (unsigned i = 1; i <= LOOKUPS_MAX; i++)
		assert_non_null(all[i] = lookup_new(w, "two.test", 1));
	assert_null(lookup_new(w, "two.test", 1));
	pthread_mutex_unlock(&slow);
	for (unsigned i = 0; i <= LOOKUPS_MAX; i++) {
		wait_for(all[i]);
		lookup_free(all[i]);
	}
	workers_free(w);
}

/* ---- servers by name ---- */

static struct shard shard;
static struct broker broker;
static struct upstream upstream;
static int result;
static bool over;

static void dialled(void *context, int r)
{
	(void)context;
	if (r < 0 && upstream_servers_again(&upstream) == 0)
		return;
	result = r;
	over = true;
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

/* Dials this server; whatever address of its is first. */
static int dial(char *server, unsigned first)
{
	const struct reactor_owner owner = { .letters = letters, .flush = flush };
	const struct reactor_params params = { .completion_batch = 16,
					       .lane_batch = 1,
					       .ring = { .sq_entries = 16,
							 .batch = 16,
							 .recv_buffers = 4,
							 .recv_buffer_bytes = 1024 } };
	char *servers[] = { server };
	const struct config_upstream config = { .servers = servers,
						.servers_n = 1,
						.ping_seconds = 2 };
	uint64_t next_ns = UINT64_MAX;

	broker.names = workers_new();
	shard.broker = &broker;
	upstream = (struct upstream){ .shard = &shard, .config = &config };
	assert_int_equal(reactor_init(&shard.reactor, &params, NULL, NULL, &owner), 0);
	dial_init(&upstream.dial, &shard.reactor, dialled, NULL);
	upstream_servers_init(&upstream);
	upstream.address = first;
	over = false;
	assert_null(upstream_servers_dial(&upstream));
	assert_null(upstream_servers_look(&upstream, &next_ns));
	while (!over)
		reactor_turn(&shard.reactor, true);
	upstream_servers_leave(&upstream);
	dial_release(&upstream.dial);
	reactor_release(&shard.reactor);
	workers_free(broker.names);
	return result;
}

static void a_names_addresses_are_tried_until_one_answers(void **state)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char server[64];

	(void)state;
	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
	snprintf(server, sizeof(server), "nats://two.test:%u", ntohs(in.sin_port));
	for (unsigned first = 0; first < 2; first++)
		assert_int_equal(dial(server, first), -ECONNREFUSED);
	assert_int_equal(listen(fd, 2), 0);
	for (unsigned first = 0; first < 2; first++) {
		assert_true(dial(server, first) >= 0);
		close(result);
	}
	close(fd);
}

static void a_server_that_another_names_is_certified_as_that(void **state)
{
	char a[] = "tls://a.test:4222", b[] = "nats://10.0.0.1";
	char *servers[] = { a, b };
	const struct config_upstream config = { .servers = servers,
						.servers_n = 2,
						.ping_seconds = 2 };
	static const char *const expected[][2] = { { "a.test", "a.test" },
						   { "10.0.0.1", "10.0.0.1" },
						   { "10.0.0.7", "a.test" },
						   { "b.test", "b.test" } };

	(void)state;
	upstream = (struct upstream){ .config = &config };
	upstream_servers_init(&upstream);
	upstream.server = 0;
	snprintf(upstream.info.urls, sizeof(upstream.info.urls),
		 "[\"a.test:4222\",\"10.0.0.7:4222\",\"b.test:4222\"]");
	upstream_servers_learn(&upstream);
	upstream_servers_learn(&upstream);
	assert_int_equal(upstream.servers_n, 4);
	for (unsigned i = 0; i < 4; i++) {
		assert_string_equal(upstream_server_host(&upstream), expected[i][0]);
		assert_string_equal(upstream_server_certified(&upstream), expected[i][1]);
		assert_int_equal(upstream_server_secure(&upstream), i != 1);
		upstream_servers_next(&upstream);
	}
	assert_int_equal(upstream.server, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_has_addresses_with_the_port),
		cmocka_unit_test(a_name_without_addresses_says_why),
		cmocka_unit_test(a_lookup_that_nobody_waits_for_is_not_made),
		cmocka_unit_test(no_more_wait_than_may),
		cmocka_unit_test(a_names_addresses_are_tried_until_one_answers),
		cmocka_unit_test(a_server_that_another_names_is_certified_as_that),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
