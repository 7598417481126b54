#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/name.h"

#define D "[0-9]"
#define TIME D D D D "-" D D "-" D D "T" D D ":" D D ":" D D "." D D D "Z"

/* Where the message of an info line begins. */
#define TEXT_START "2026-11-22T10:00:00.123Z INFO  "
#define JSON_START "{\"time\":\"2026-11-22T10:00:00.123Z\",\"level\":\"info\",\"message\":\""

enum { TEXT_AT = sizeof(TEXT_START) - 1, JSON_AT = sizeof(JSON_START) - 1 };

/*
 * Standard error is a datagram socket while a test runs: what comes out of it at once is what one
 * write(2) wrote.
 */
static int real_stderr = -1, receiver = -1;
static char line[16384];

static int capture(void **state)
{
	int pair[2];

	(void)state;
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) != 0)
		return -1;
	real_stderr = dup(STDERR_FILENO);
	dup2(pair[1], STDERR_FILENO);
	close(pair[1]);
	receiver = pair[0];
	log_configure(LOG_INFO, LOG_TEXT);
	return 0;
}

static int restore(void **state)
{
	(void)state;
	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	close(receiver);
	return 0;
}

/* The next thing written, without its end of line; NULL: nothing. */
static const char *written(void)
{
	ssize_t n = recv(receiver, line, sizeof(line) - 1, MSG_DONTWAIT);

	if (n < 0)
		return NULL;
	assert_in_range(n, 1, 4000);
	assert_int_equal(line[n - 1], '\n');
	line[n - 1] = '\0';
	assert_int_equal(strlen(line), n - 1);
	return line;
}

static void assert_like(const char *text, const char *pattern)
{
	assert_non_null(text);
	if (fnmatch(pattern, text, 0) != 0)
		fail_msg("%s is not like %s", text, pattern);
}

static void a_text_line_has_time_level_and_message(void **state)
{
	(void)state;
	log_info("hello %d", 42);
	assert_like(written(), TIME " INFO  hello 42");
	log_warn("x");
	assert_like(written(), TIME " WARN  x");
	log_error("x");
	assert_like(written(), TIME " ERROR x");
	log_configure(LOG_DEBUG, LOG_TEXT);
	log_debug("x");
	assert_like(written(), TIME " DEBUG x");
	assert_null(written());
}

static void a_json_line_has_time_level_and_message(void **state)
{
	(void)state;
	log_configure(LOG_INFO, LOG_JSON);
	log_warn("hello %s", "world");
	assert_like(written(),
		    "{\"time\":\"" TIME "\",\"level\":\"warn\",\"message\":\"hello world\"}");
	log_error("%s", "");
	assert_like(written(), "{\"time\":\"" TIME "\",\"level\":\"error\",\"message\":\"\"}");
	assert_null(written());
}

static void what_is_below_the_level_is_not_written(void **state)
{
	(void)state;
	log_configure(LOG_WARN, LOG_TEXT);
	assert_true(log_enabled(LOG_ERROR));
	assert_true(log_enabled(LOG_WARN));
	assert_false(log_enabled(LOG_INFO));
	assert_false(log_enabled(LOG_DEBUG));
	log_info("not this");
	log_debug("nor this");
	assert_null(written());
	log_configure(LOG_ERROR, LOG_TEXT);
	log_warn("nor that");
	assert_null(written());
	log_error("but this");
	assert_like(written(), "*but this");
}

static void newlines_and_control_characters_become_spaces(void **state)
{
	(void)state;
	log_info("%s", "a\nb\rc\td\x1b[31m\x7f"
		       "e\xc2\x9b"
		       "f\xc2\xa0g");
	assert_string_equal(written() + TEXT_AT, "a b c d [31m e f\xc2\xa0g");
	log_configure(LOG_INFO, LOG_JSON);
	log_info("a\nb\x01");
	assert_string_equal(written() + JSON_AT, "a b \"}");
}

static void json_escapes_quotes_and_backslashes(void **state)
{
	(void)state;
	log_configure(LOG_INFO, LOG_JSON);
	log_info("say \"C:\\\" / \xc3\xa4");
	assert_string_equal(written() + JSON_AT, "say \\\"C:\\\\\\\" / \xc3\xa4\"}");
	log_configure(LOG_INFO, LOG_TEXT);
	log_info("say \"C:\\\"");
	assert_string_equal(written() + TEXT_AT, "say \"C:\\\"");
}

static void bytes_that_are_not_utf8_are_replaced(void **state)
{
	(void)state;
	log_configure(LOG_INFO, LOG_JSON);
	log_info("%s", "a\xff"
		       "b\xe2\x82"
		       "c\xed\xa0\x80\xf0\x9f\x98\x80\xc2");
	assert_string_equal(written() + JSON_AT,
			    "a\xef\xbf\xbd"
			    "b\xef\xbf\xbd\xef\xbf\xbd"
			    "c\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xf0\x9f\x98\x80\xef\xbf\xbd\"}");
}

static void a_line_is_cut_at_4000_bytes(void **state)
{
	char message[5001];
	const size_t fits = 4000 - TEXT_AT - 1;

	(void)state;
	memset(message, 'x', sizeof(message));
	for (size_t n = fits - 1; n <= fits + 1; n++) {
		message[n] = '\0';
		log_info("%s", message);
		assert_int_equal(strlen(written()), TEXT_AT + (n < fits ? n : fits));
		message[n] = 'x';
	}
	message[5000] = '\0';
	log_info("%s", message);
	assert_int_equal(strlen(written()), 3999);
}

static void a_line_is_cut_between_characters(void **state)
{
	char message[5001];

	(void)state;
	for (size_t shift = 0; shift < 3; shift++) {
		memset(message, 'x', 3);
		for (size_t i = shift; i + 3 < sizeof(message); i += 3)
			memcpy(message + i, "\xe2\x82\xac", 4);
		log_info("%s", message);
		assert_true(utf8_valid(span_of(written())));
		assert_null(strstr(line, "\xef\xbf\xbd"));
	}
}

static void a_json_line_that_is_cut_is_still_whole(void **state)
{
	char message[5001];

	(void)state;
	log_configure(LOG_INFO, LOG_JSON);
	for (size_t shift = 0; shift < 2; shift++) {
		memset(message, '"', sizeof(message));
		memset(message, 'x', shift);
		message[5000] = '\0';
		log_info("%s", message);
		assert_in_range(strlen(written()), 3997, 3999);
		assert_string_equal(line + strlen(line) - 4, "\\\"\"}");
	}
}

static void errno_is_left_alone(void **state)
{
	int kept = dup(STDERR_FILENO);

	(void)state;
	errno = ENOENT;
	log_info("somebody reads this");
	assert_int_equal(errno, ENOENT);
	assert_like(written(), "*somebody reads this");
	close(STDERR_FILENO);
	errno = ENOENT;
	log_info("nobody reads this");
	assert_int_equal(errno, ENOENT);
	dup2(kept, STDERR_FILENO);
	close(kept);
	log_info("somebody does again");
	assert_like(written(), "*somebody does again");
	assert_like(written(), "* WARN  log: 1 lines are lost*");
}

static void *write_lines(void *letter)
{
	for (int i = 0; i < 1000; i++)
		log_info("%0500d%s", i, (const char *)letter);
	return NULL;
}

static void threads_do_not_mix_their_lines(void **state)
{
	static char letters[4][2] = { "a", "b", "c", "d" };
	pthread_t threads[4];
	unsigned seen[4] = { 0 };

	(void)state;
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_lines, letters[i]), 0);
	for (size_t i = 0; i < 4000; i++) {
		ssize_t n = recv(receiver, line, sizeof(line), 0);

		assert_int_equal(n, TEXT_AT + 500 + 2);
		assert_in_range(line[n - 2], 'a', 'd');
		assert_int_equal(strtoul(line + TEXT_AT, NULL, 10), seen[line[n - 2] - 'a']++);
	}
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_null(written());
}

/* Standard error becomes a pipe that is full; returns where it can be read from. */
static int capture_in_full_pipe(void)
{
	int ends[2];
	char byte = '.';

	assert_int_equal(pipe(ends), 0);
	assert_in_range(fcntl(ends[1], F_SETPIPE_SZ, 8192), 8192, 65536);
	fcntl(ends[1], F_SETFL, O_NONBLOCK);
	while (write(ends[1], &byte, 1) == 1)
		;
	fcntl(ends[1], F_SETFL, 0);
	dup2(ends[1], STDERR_FILENO);
	close(ends[1]);
	return ends[0];
}

/* The next line in the pipe, without its end. */
static const char *read_line(FILE *from)
{
	assert_non_null(fgets(line, sizeof(line), from));
	line[strcspn(line, "\n")] = '\0';
	return line + strspn(line, ".");
}

static void nobody_waits_while_nobody_reads_and_what_is_lost_is_said(void **state)
{
	enum { LINES = 2000 };
	FILE *from = fdopen(capture_in_full_pipe(), "r");
	uint64_t before = log_dropped(), lost;
	unsigned lines = 0, error_at = 0;

	(void)state;
	assert_int_equal(log_start(), 0);
	for (int i = 0; i < LINES; i++)
		log_info("%0200d", i);
	log_error("the one that matters");
	lost = log_dropped() - before;
	assert_in_range(lost, 1, LINES - 1);
	for (; strstr(read_line(from), "are lost") == NULL; lines++)
		if (strstr(line, "the one that matters") != NULL)
			error_at = lines;
	assert_int_equal(strtoull(strstr(line, "log: ") + 5, NULL, 10), lost);
	assert_int_equal(lines, LINES + 1 - lost);
	/* One line at most was under way when it came. */
	assert_in_range(error_at, 0, 1);
	log_info("flows again");
	assert_like(read_line(from), TIME " INFO  flows again");
	log_info("the last one");
	log_stop();
	assert_like(read_line(from), "*the last one");
	fclose(from);
}

static void without_the_writer_a_line_waits_once_for_a_reader(void **state)
{
	uint64_t before = log_dropped();
	int from = capture_in_full_pipe();
	char filling[8192];

	(void)state;
	for (int i = 0; i < 1000; i++)
		log_info("not read");
	assert_int_equal(log_dropped() - before, 1000);
	assert_int_equal(read(from, filling, sizeof(filling)), sizeof(filling));
	log_info("read");
	assert_in_range(read(from, line, sizeof(line)), 1, sizeof(line) - 1);
	assert_non_null(strstr(line, "read\n"));
	assert_non_null(strstr(line, "log: 1000 lines are lost"));
	close(from);
}

static void end_does_not_wait_for_a_reader_for_ever(void **state)
{
	int from = capture_in_full_pipe();

	(void)state;
	assert_int_equal(log_start(), 0);
	log_info("nobody reads this");
	log_stop();
	close(from);
}

#define TEST(claim) cmocka_unit_test_setup_teardown(claim, capture, restore)

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		TEST(a_text_line_has_time_level_and_message),
		TEST(a_json_line_has_time_level_and_message),
		TEST(what_is_below_the_level_is_not_written),
		TEST(newlines_and_control_characters_become_spaces),
		TEST(json_escapes_quotes_and_backslashes),
		TEST(bytes_that_are_not_utf8_are_replaced),
		TEST(a_line_is_cut_at_4000_bytes),
		TEST(a_line_is_cut_between_characters),
		TEST(a_json_line_that_is_cut_is_still_whole),
		TEST(errno_is_left_alone),
		TEST(threads_do_not_mix_their_lines),
		TEST(nobody_waits_while_nobody_reads_and_what_is_lost_is_said),
		TEST(without_the_writer_a_line_waits_once_for_a_reader),
		TEST(end_does_not_wait_for_a_reader_for_ever),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
