#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/config.h"
#include "broker/broker.h"
#include "broker/listener.h"

/* What listeners need of a broker. */
enum { SHARDS = 2 };

static char directory[] = "/tmp/broker-listener-XXXXXX", path[64], problem[512];
static char address[80], title[] = "main", none[] = "";
static struct config_listen section = { .title = title,
					.address = address,
					.protocols = CONFIG_PROTOCOL_LINE,
					.owner = none,
					.group = none };
static const struct config config = { .listens = &section,
				      .listens_n = 1,
				      .limits = { .send_buffer_bytes = 65536 } };

static int make_directory(void **state)
{
	(void)state;
	strcpy(directory + strlen(directory) - 6, "XXXXXX");
	if (mkdtemp(directory) == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/socket", directory);
	return 0;
}

static int remove_directory(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(directory);
}

static int open_at(struct broker *b, const char *where)
{
	*b = (struct broker){ .shards_n = SHARDS };
	snprintf(address, sizeof(address), "%s", where);
	return listeners_open(b, &config, problem, sizeof(problem));
}

static int listen_at(struct broker *b)
{
	return listeners_listen(b, &config, problem, sizeof(problem));
}

/* 0, or the error of somebody who connects. */
static int connect_to(const struct broker *b)
{
	struct sockaddr_storage at;
	socklen_t len = sizeof(at);
	int fd, err;

	assert_int_equal(getsockname(b->listeners[0].fds[0], (struct sockaddr *)&at, &len), 0);
	fd = socket(at.ss_family, SOCK_STREAM, 0);
	err = connect(fd, (struct sockaddr *)&at, len) == 0 ? 0 : errno;
	close(fd);
	return err;
}

static void nobody_is_taken_before_it_listens(void **state)
{
	struct broker b;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		char where[80] = "127.0.0.1:0";

		if (i == 1)
			snprintf(where, sizeof(where), "unix:%s", path);
		assert_int_equal(open_at(&b, where), 0);
		assert_int_equal(connect_to(&b), ECONNREFUSED);
		assert_int_equal(listen_at(&b), 0);
		assert_int_equal(connect_to(&b), 0);
		listeners_close(&b);
	}
}

static void address_that_somebody_listens_on_is_not_shared(void **state)
{
	struct broker first, second, third;
	char where[80];

	(void)state;
	assert_int_equal(open_at(&first, "127.0.0.1:0"), 0);
	snprintf(where, sizeof(where), "%s", first.listeners[0].address);
	/* Both begin at the same time. */
	assert_int_equal(open_at(&second, where), 0);
	assert_int_equal(listen_at(&first), 0);
	assert_int_equal(listen_at(&second), -EADDRINUSE);
	assert_non_null(strstr(problem, "in use"));
	assert_int_equal(open_at(&third, where), -EADDRINUSE);
	listeners_close(&third);
	listeners_close(&second);
	assert_int_equal(connect_to(&first), 0);
	listeners_close(&first);
}

static void file_of_a_successor_is_left_alone(void **state)
{
	struct broker first, second;
	char where[80];
	struct stat st;

	(void)state;
	snprintf(where, sizeof(where), "unix:%s", path);
	assert_int_equal(open_at(&first, where), 0);
	/* It does not listen any more, and so is stale. */
	assert_int_equal(open_at(&second, where), 0);
	listeners_close(&first);
	assert_int_equal(stat(path, &st), 0);
	listeners_close(&second);
	assert_int_equal(stat(path, &st), -1);
}

static void owner_with_a_full_queue_is_there(void **state)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int owner = socket(AF_UNIX, SOCK_STREAM, 0), clients[8];
	struct broker b;
	char where[80];

	(void)state;
	strcpy(at.sun_path, path);
	assert_int_equal(bind(owner, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(owner, 0), 0);
	for (unsigned i = 0; i < 8; i++) {
		clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)connect(clients[i], (struct sockaddr *)&at, sizeof(at));
	}
	snprintf(where, sizeof(where), "unix:%s", path);
	assert_int_equal(open_at(&b, where), -EADDRINUSE);
	listeners_close(&b);
	for (unsigned i = 0; i < 8; i++)
		close(clients[i]);
	close(owner);
}

#define TEST(claim) cmocka_unit_test_setup_teardown(claim, make_directory, remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nobody_is_taken_before_it_listens),
		TEST(address_that_somebody_listens_on_is_not_shared),
		TEST(file_of_a_successor_is_left_alone),
		TEST(owner_with_a_full_queue_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
