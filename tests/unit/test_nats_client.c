#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/mman.h>
#include <unistd.h>

#include "base/json.h"
#include "protocol/nats.h"

enum { LINE_BYTES = 100 };

/* A copy that ends where a page does, and nothing may be read behind it. */
static struct span at_page_end(struct span s)
{
	static char *pages;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *at;

	if (pages == NULL) {
		pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
		assert_true(pages != MAP_FAILED);
		assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
	}
	assert_true(s.len <= page);
	at = pages + page - s.len;
	memcpy(at, s.data, s.len);
	return (struct span){ at, s.len };
}

/* What is said when it comes byte by byte: nothing before it is whole. */
static struct nats_said said(const char *text)
{
	struct span all = span_of(text);
	struct nats_said s = { .kind = NATS_SAID_MORE };
	size_t used = 0;

	for (size_t n = 1; n <= all.len && s.kind == NATS_SAID_MORE; n++) {
		nats_said(at_page_end((struct span){ text, n }), LINE_BYTES, &s, &used);
		if (s.kind == NATS_SAID_MORE)
			assert_int_equal(used, 0);
	}
	if (s.kind != NATS_SAID_NONSENSE && s.kind != NATS_SAID_MORE)
		assert_int_equal(used, all.len);
	return s;
}

#define assert_span(s, text) assert_true(span_equal(s, span_of(text)))

static void a_message_has_a_subject_a_sid_and_perhaps_a_reply(void **state)
{
	struct nats_said s = said("MSG live.a 17 5\r\n");

	(void)state;
	assert_int_equal(s.kind, NATS_SAID_MESSAGE);
	assert_span(s.subject, "live.a");
	assert_span(s.sid, "17");
	assert_int_equal(s.reply.len, 0);
	assert_int_equal(s.header_bytes, 0);
	assert_int_equal(s.bytes, 5);
	s = said("MSG live.a 17 _INBOX.x 5\r\n");
	assert_span(s.reply, "_INBOX.x");
	s = said("HMSG live.a 17 _INBOX.x 12 17\r\n");
	assert_span(s.reply, "_INBOX.x");
	assert_int_equal(s.header_bytes, 12);
	assert_int_equal(s.bytes, 17);
	s = said("HMSG live.a 17 12 12\n");
	assert_int_equal(s.reply.len, 0);
	assert_int_equal(s.bytes, 12);
}

static void a_message_that_cannot_be_is_nonsense(void **state)
{
	static const char *const texts[] = {
		"MSG\r\n",
		"MSG a\r\n",
		"MSG a 1\r\n",
		"MSG a 1 b c 3\r\n",
		"MSG a 1 x\r\n",
		"MSG a 1 -3\r\n",
		"HMSG a 1 3\r\n",
		"HMSG a 1 4 3\r\n",
		"HMSG a 1 r x 3\r\n",
		"MSGS a 1 3\r\n",
		"MSG a 1 9999999999\r\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		assert_int_equal(said(texts[i]).kind, NATS_SAID_NONSENSE);
}

static void a_server_says_six_other_things(void **state)
{
	struct nats_said s;

	(void)state;
	assert_int_equal(said("PING\r\n").kind, NATS_SAID_PING);
	assert_int_equal(said("PONG\r\n").kind, NATS_SAID_PONG);
	assert_int_equal(said("+OK\r\n").kind, NATS_SAID_OK);
	s = said("-ERR 'Authorization Violation'\r\n");
	assert_int_equal(s.kind, NATS_SAID_ERROR);
	assert_span(s.text, "'Authorization Violation'");
	s = said("INFO {\"max_payload\":1}\r\n");
	assert_int_equal(s.kind, NATS_SAID_INFO);
	assert_span(s.text, "{\"max_payload\":1}");
	assert_int_equal(said("HTTP/1.1 400 Bad Request\r\n").kind, NATS_SAID_NONSENSE);
}

static void a_line_may_be_as_long_as_it_may_be(void **state)
{
	char text[LINE_BYTES + 3];
	struct nats_said s;
	size_t used;

	(void)state;
	memset(text, 'x', sizeof(text));
	memcpy(text, "INFO ", 5);
	memcpy(text + LINE_BYTES, "\r\n", 2);
	nats_said(at_page_end((struct span){ text, LINE_BYTES + 2 }), LINE_BYTES, &s, &used);
	assert_int_equal(s.kind, NATS_SAID_INFO);
	memcpy(text + LINE_BYTES, "x\r\n", 3);
	nats_said(at_page_end((struct span){ text, LINE_BYTES + 3 }), LINE_BYTES, &s, &used);
	assert_int_equal(s.kind, NATS_SAID_NONSENSE);
	assert_int_equal(used, 0);
}

static void a_server_says_what_it_is(void **state)
{
	struct nats_server s;
	struct span urls, url;

	(void)state;
	assert_true(
		nats_server(SPAN("{\"server_name\":\"n1\",\"version\":\"2.9.10\",\"headers\":true,"
				 "\"max_payload\":1048576,\"jetstream\":true,"
				 "\"connect_urls\":[\"10.0.0.1:4222\",\"[::1]:5\"],\"proto\":1}"),
			    &s));
	assert_string_equal(s.name, "n1");
	assert_string_equal(s.version, "2.9.10");
	assert_int_equal(s.max_payload, 1048576);
	assert_true(s.headers && s.jetstream && !s.leaving && !s.tls_required && !s.auth_required);
	urls = span_of(s.urls);
	assert_false(s.tls_available);
	assert_true(nats_next_url(&urls, &url));
	assert_span(url, "10.0.0.1:4222");
	assert_true(nats_next_url(&urls, &url));
	assert_span(url, "[::1]:5");
	assert_false(nats_next_url(&urls, &url));
}

static void what_a_server_does_not_say_is_not_so(void **state)
{
	struct nats_server s;
	struct span urls = { NULL, 0 }, url;

	(void)state;
	assert_true(nats_server(SPAN("{\"tls_available\":true}"), &s));
	assert_true(s.tls_available && !s.tls_required);
	assert_true(nats_server(SPAN("{}"), &s));
	assert_int_equal(s.max_payload, 0);
	assert_false(s.headers);
	assert_false(nats_next_url(&urls, &url));
	assert_false(nats_server(SPAN("{\"max_payload\":\"1\"}"), &s));
	assert_false(nats_server(SPAN("{\"headers\":1}"), &s));
	assert_false(nats_server(SPAN("[]"), &s));
	assert_false(nats_server(SPAN("{"), &s));
	/* Longer than there is room for: cut off. */
	assert_true(nats_server(SPAN("{\"version\":\"0123456789012345678901234567890123456789\"}"),
				&s));
	assert_int_equal(strlen(s.version), sizeof(s.version) - 1);
}

static void a_login_is_json_whatever_the_password(void **state)
{
	const struct nats_login login = { .name = "broker", .user = "a\"b", .pass = "c\\d\n" };
	struct nats_options options;
	struct nats_credentials credentials;
	char out[NATS_LOGIN_MAX];
	size_t n = nats_login(&login, out);

	(void)state;
	assert_true(n > 10 && memcmp(out + n - 2, "\r\n", 2) == 0);
	assert_true(nats_connect((struct span){ out + 8, n - 10 }, NULL, &options, &credentials));
	assert_true(options.headers && options.echo && !options.verbose && options.no_responders);
	assert_string_equal(credentials.user, "a\"b");
	assert_string_equal(credentials.pass, "c\\d\n");
	assert_false(options.has_token);
}

static void a_login_that_is_too_long_is_none(void **state)
{
	char token[NATS_LOGIN_MAX], out[NATS_LOGIN_MAX];
	const struct nats_login login = { .token = token };

	(void)state;
	memset(token, 'x', sizeof(token));
	token[sizeof(token) - 1] = 0;
	assert_int_equal(nats_login(&login, out), 0);
	token[600] = 0;
	assert_true(nats_login(&login, out) > 600);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_has_a_subject_a_sid_and_perhaps_a_reply),
		cmocka_unit_test(a_message_that_cannot_be_is_nonsense),
		cmocka_unit_test(a_server_says_six_other_things),
		cmocka_unit_test(a_line_may_be_as_long_as_it_may_be),
		cmocka_unit_test(a_server_says_what_it_is),
		cmocka_unit_test(what_a_server_does_not_say_is_not_so),
		cmocka_unit_test(a_login_is_json_whatever_the_password),
		cmocka_unit_test(a_login_that_is_too_long_is_none),
	};

	json_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
