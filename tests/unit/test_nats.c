#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/mman.h>
#include <unistd.h>

#include "base/json.h"
#include "protocol/nats.h"

/* ---- commands ---- */

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

/* What the command is when it comes byte by byte: nothing before it is whole. */
static struct nats_event decode(const char *text)
{
	struct span all = span_of(text);
	struct nats_event e = { .kind = NATS_MORE };
	size_t used = 0;

	for (size_t n = 1; n <= all.len; n++) {
		nats_decode(at_page_end((struct span){ text, n }), LINE_BYTES, &e, &used);
		if (e.kind != NATS_MORE)
			break;
		assert_int_equal(used, 0);
	}
	if (e.kind != NATS_ERROR && e.kind != NATS_MORE)
		assert_int_equal(used, all.len);
	return e;
}

#define assert_span(s, text)                                                                       \
	do {                                                                                       \
		assert_int_equal((s).len, strlen(text));                                           \
		assert_memory_equal((s).data, text, (s).len);                                      \
	} while (0)

static void expect_error(const char *text, const char *error)
{
	struct nats_event e = decode(text);

	if (e.kind != NATS_ERROR)
		fail_msg("%s is no error", text);
	assert_span(e.text, error);
}

static void words_are_parted_by_any_spaces(void **state)
{
	static const char *const forms[] = { "SUB a.b 7\r\n", "SUB a.b 7\n", "sub a.b  7\r\n",
					     "SUB a.b\t7 \r\n", "SuB  a.b   7\t\r\n" };

	(void)state;
	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		struct nats_event e = decode(forms[i]);

		assert_int_equal(e.kind, NATS_SUBSCRIBE);
		assert_span(e.subject, "a.b");
		assert_span(e.queue, "");
		assert_span(e.sid, "7");
	}
}

static void any_word_is_a_sid(void **state)
{
	struct nats_event e = decode("SUB a q x-\xff\r\n");

	(void)state;
	assert_span(e.queue, "q");
	assert_span(e.sid, "x-\xff");
	expect_error("SUB a\r\n", NATS_UNKNOWN);
	expect_error("SUB a b c d\r\n", NATS_UNKNOWN);
	expect_error("SUB\r\n", NATS_UNKNOWN);
}

static void unsubscribe_has_a_sid_and_perhaps_a_number(void **state)
{
	struct nats_event e = decode("UNSUB 1 \r\n");

	(void)state;
	assert_int_equal(e.kind, NATS_UNSUBSCRIBE);
	assert_span(e.sid, "1");
	assert_int_equal(e.max, 0);
	e = decode("unsub 1 5\r\n");
	assert_int_equal(e.max, 5);
	expect_error("UNSUB\r\n", NATS_UNKNOWN);
	expect_error("UNSUB 1 x\r\n", NATS_UNKNOWN);
	expect_error("UNSUB 1 -1\r\n", NATS_UNKNOWN);
	expect_error("UNSUB 1 1 1\r\n", NATS_UNKNOWN);
}

static void publish_says_how_much_follows(void **state)
{
	struct nats_event e = decode("PUB a 0\r\n");

	(void)state;
	assert_int_equal(e.kind, NATS_PUBLISH);
	assert_false(e.headers);
	assert_span(e.subject, "a");
	assert_span(e.reply, "");
	assert_int_equal(e.bytes, 0);
	e = decode("pub a.b _INBOX.1  1048576\r\n");
	assert_span(e.reply, "_INBOX.1");
	assert_int_equal(e.bytes, 1048576);
	expect_error("PUB a\r\n", NATS_UNKNOWN);
	expect_error("PUB a b c 1\r\n", NATS_UNKNOWN);
	expect_error("PUB a x\r\n", NATS_UNKNOWN);
	expect_error("PUB a -1\r\n", NATS_UNKNOWN);
	expect_error("PUB a 1234567890\r\n", NATS_UNKNOWN);
}

static void publish_with_headers_says_how_long_these_are(void **state)
{
	struct nats_event e = decode("HPUB a 12 15\r\n");

	(void)state;
	assert_int_equal(e.kind, NATS_PUBLISH);
	assert_true(e.headers);
	assert_int_equal(e.header_bytes, 12);
	assert_int_equal(e.bytes, 15);
	e = decode("HPUB a r 12 12\r\n");
	assert_span(e.reply, "r");
	expect_error("HPUB a 12\r\n", NATS_UNKNOWN);
	expect_error("HPUB a 13 12\r\n", NATS_UNKNOWN);
	expect_error("HPUB a b c 1 1\r\n", NATS_UNKNOWN);
}

static void what_follows_ping_and_pong_does_not_count(void **state)
{
	(void)state;
	assert_int_equal(decode("PING\r\n").kind, NATS_PING);
	assert_int_equal(decode("ping\n").kind, NATS_PING);
	assert_int_equal(decode("PING hello\r\n").kind, NATS_PING);
	assert_int_equal(decode("PINGhello\r\n").kind, NATS_PING);
	assert_int_equal(decode("PONG\r\n").kind, NATS_PONG);
	assert_int_equal(decode("PIN").kind, NATS_MORE);
}

static void another_protocol_is_seen_at_its_first_wrong_byte(void **state)
{
	(void)state;
	expect_error("\r\n", NATS_UNKNOWN);
	expect_error("GET / HTTP/1.1\r\n", NATS_UNKNOWN);
	expect_error("G", NATS_UNKNOWN);
	expect_error("PUBLISH a\r\n", NATS_UNKNOWN);
	expect_error("PUBL", NATS_UNKNOWN);
	expect_error("SUBSCRIBE", NATS_UNKNOWN);
	expect_error("P\r\n", NATS_UNKNOWN);
	expect_error("\n", NATS_UNKNOWN);
}

static void lines_have_a_limit(void **state)
{
	char line[LINE_BYTES + 10];

	(void)state;
	memset(line, 'x', sizeof(line));
	memcpy(line, "SUB a ", 6);
	memcpy(line + LINE_BYTES, "\r\n", 3);
	assert_int_equal(decode(line).kind, NATS_SUBSCRIBE);
	memcpy(line + LINE_BYTES, "\n", 2);
	assert_int_equal(decode(line).kind, NATS_SUBSCRIBE);
	memcpy(line + LINE_BYTES, "x\r\n", 4);
	expect_error(line, NATS_LINE_TOO_LONG);
	memcpy(line + LINE_BYTES, "xx", 3);
	expect_error(line, NATS_LINE_TOO_LONG);
}

static void what_is_kept_back_may_come_behind(void **state)
{
	struct nats_event e;
	size_t used;

	(void)state;
	nats_decode(SPAN("PUB a 5\r\nhello\r\nPING\r\n"), LINE_BYTES, &e, &used);
	assert_int_equal(e.kind, NATS_PUBLISH);
	assert_int_equal(used, 9);
}

static void the_first_words_of_a_client_are_known(void **state)
{
	(void)state;
	assert_int_equal(nats_detect(SPAN("CONNECT {")), 1);
	assert_int_equal(nats_detect(SPAN("CONNECT ")), 0);
	assert_int_equal(nats_detect(SPAN("CONNECT host:80 HTTP/1.1")), -1);
	assert_int_equal(nats_detect(SPAN("PING\r\n")), 1);
	assert_int_equal(nats_detect(SPAN("PUB ")), 1);
	assert_int_equal(nats_detect(SPAN("PUB")), 0);
	assert_int_equal(nats_detect(SPAN("PUBLISH a")), -1);
	assert_int_equal(nats_detect(SPAN("SUB a 1")), 1);
	assert_int_equal(nats_detect(SPAN("SUBSCRIBE a")), -1);
	assert_int_equal(nats_detect(SPAN("")), 0);
}

/* ---- CONNECT ---- */

static struct nats_options options(const char *json)
{
	struct nats_options o = { 0 };

	assert_true(nats_connect(span_of(json), NULL, &o, NULL));
	return o;
}

static void what_connect_does_not_say_is_as_ever(void **state)
{
	struct nats_options o = options("{}");

	(void)state;
	assert_true(o.verbose && o.echo);
	assert_false(o.headers || o.no_responders || o.account || o.has_user || o.has_token);
	assert_int_equal(o.protocol, 0);
	o = options("{\"verbose\":false,\"echo\":false,\"headers\":true,\"no_responders\":true,"
		    "\"protocol\":1,\"pedantic\":true,\"tls_required\":false,\"unknown\":[1,{}]}");
	assert_false(o.verbose || o.echo);
	assert_true(o.headers && o.no_responders);
	assert_int_equal(o.protocol, 1);
	assert_true(options("{\"verbose\":null}").verbose);
	assert_true(options("{\"account\":\"A\"}").account);
}

static void what_a_later_connect_does_not_say_stays(void **state)
{
	struct nats_options before = options("{\"verbose\":false,\"headers\":true,\"protocol\":1}");
	struct nats_options o = before;

	(void)state;
	assert_true(
		nats_connect(SPAN("{\"no_responders\":true,\"protocol\":0}"), &before, &o, NULL));
	assert_true(o.headers && o.no_responders && o.echo);
	assert_false(o.verbose);
	assert_int_equal(o.protocol, 0);
}

static void credentials_are_taken_as_they_are(void **state)
{
	struct nats_credentials c;
	struct nats_options o = { 0 };
	char json[600];

	(void)state;
	assert_true(nats_connect(SPAN("{\"user\":\"me\",\"pass\":\"\\u00fc\"}"), NULL, &o, &c));
	assert_true(o.has_user && !o.has_token);
	assert_string_equal(c.user, "me");
	assert_string_equal(c.pass, "\xc3\xbc");
	assert_true(nats_connect(SPAN("{\"auth_token\":\"t\"}"), NULL, &o, &c));
	assert_true(o.has_token);
	assert_string_equal(c.token, "t");
	/* One that does not fit is wrong, not another one. */
	memset(json, 'u', sizeof(json));
	memcpy(json, "{\"user\":\"", 9);
	memcpy(json + 400, "\"}", 3);
	assert_true(nats_connect(span_of(json), NULL, &o, &c));
	assert_true(o.has_user);
	assert_string_equal(c.user, "");
}

static void malformed_options_are_refused(void **state)
{
	static const char *const wrong[] = { "",
					     "{",
					     "[]",
					     "1",
					     "{} x",
					     "{\"verbose\":1}",
					     "{\"protocol\":\"1\"}",
					     "{\"user\":1}",
					     "{\"user\":\"\xff\"}",
					     "{\"user\":\"\\u0000\"}" };
	struct nats_options o = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		if (nats_connect(span_of(wrong[i]), NULL, &o, NULL))
			fail_msg("%s", wrong[i]);
}

/* ---- subjects ---- */

static void subjects_are_topics_or_patterns_or_neither(void **state)
{
	static const struct {
		const char *subject;
		enum nats_subject is;
	} cases[] = {
		{ "a", NATS_SUBJECT_TOPIC },
		{ "a.b.c", NATS_SUBJECT_TOPIC },
		{ "$JS.API.INFO", NATS_SUBJECT_TOPIC },
		{ "a.*", NATS_SUBJECT_PATTERN },
		{ "*", NATS_SUBJECT_PATTERN },
		{ ">", NATS_SUBJECT_PATTERN },
		{ "a.*.c.>", NATS_SUBJECT_PATTERN },
		{ "a..b", NATS_SUBJECT_INVALID },
		{ ".a", NATS_SUBJECT_INVALID },
		{ "a.", NATS_SUBJECT_INVALID },
		{ "a.>.b", NATS_SUBJECT_INVALID },
		{ "a*", NATS_SUBJECT_REFUSED },
		{ "a>.b", NATS_SUBJECT_REFUSED },
		{ "a\xff", NATS_SUBJECT_REFUSED },
		{ "a\x01", NATS_SUBJECT_REFUSED },
	};
	char long_one[257];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		if (nats_subject(span_of(cases[i].subject)) != cases[i].is)
			fail_msg("%s", cases[i].subject);
	memset(long_one, 'a', 256);
	assert_int_equal(nats_subject((struct span){ long_one, 256 }), NATS_SUBJECT_REFUSED);
}

static void inboxes_and_what_begins_with_a_dollar_pass(void **state)
{
	(void)state;
	assert_true(nats_passing(SPAN("_INBOX.a")));
	assert_true(nats_passing(SPAN("$JS.API.INFO")));
	assert_true(nats_passing(SPAN("$SYS.x")));
	assert_false(nats_passing(SPAN("$sys.stats")));
	assert_false(nats_passing(SPAN("_INBOX")));
	assert_false(nats_passing(SPAN("_INBOXES.a")));
	assert_false(nats_passing(SPAN("a")));
}

static void replays_name_a_topic_and_what_of_its_past(void **state)
{
	struct nats_replay r;

	(void)state;
	assert_true(nats_replay(SPAN("a.b"), &r));
	assert_int_equal(r.kind, NATS_REPLAY_NONE);
	assert_true(nats_replay(SPAN("$replay.10.chat.room"), &r));
	assert_int_equal(r.kind, NATS_REPLAY_LAST);
	assert_int_equal(r.n, 10);
	assert_span(r.topic, "chat.room");
	assert_true(nats_replay(SPAN("$replay.00000000000000ab:7.a"), &r));
	assert_int_equal(r.kind, NATS_REPLAY_FROM);
	assert_int_equal(r.epoch, 0xab);
	assert_int_equal(r.n, 7);
	assert_span(r.topic, "a");
	assert_false(nats_replay(SPAN("$replay.10"), &r));
	assert_false(nats_replay(SPAN("$replay.x.a"), &r));
	assert_false(nats_replay(SPAN("$replay.ab:7.a"), &r));
	assert_false(nats_replay(SPAN("$replay.00000000000000ab:.a"), &r));
}

/* ---- what is said ---- */

static void info_says_what_is_so_and_no_more(void **state)
{
	struct nats_info i = { .server_id = SPAN("NX"),
			       .server_name = SPAN("host\"-1"),
			       .host = SPAN("127.0.0.1"),
			       .client_ip = SPAN("10.0.0.1"),
			       .port = 4222,
			       .max_payload = 1048576,
			       .client_id = 7 };
	char out[NATS_INFO_MAX];
	size_t n = nats_info(&i, out);

	(void)state;
	assert_span(((struct span){ out, n }),
		    "INFO {\"server_id\":\"NX\",\"server_name\":\"host-1\",\"version\":\"2.9.0\","
		    "\"proto\":1,\"headers\":true,\"host\":\"127.0.0.1\",\"port\":4222,"
		    "\"max_payload\":1048576,\"client_id\":7,\"client_ip\":\"10.0.0.1\"}\r\n");
	i.auth_required = i.tls_required = i.tls_available = i.ldm = true;
	n = nats_info(&i, out);
	assert_non_null(memmem(out, n,
			       ",\"auth_required\":true,\"tls_required\":true,"
			       "\"tls_available\":true,\"ldm\":true}\r\n",
			       76));
}

static void headers_are_found_by_name(void **state)
{
	const struct span h = SPAN("NATS/1.0\r\nA:1\r\ncontent-type:  text/plain \r\nB: \r\n\r\n");

	(void)state;
	assert_span(nats_header(h, SPAN("Content-Type")), "text/plain");
	assert_span(nats_header(h, SPAN("a")), "1");
	assert_span(nats_header(h, SPAN("B")), "");
	assert_null(nats_header(h, SPAN("C")).data);
	assert_null(nats_header(h, SPAN("NATS/1.0")).data);
}

static void nobody_is_there_is_said_as_503(void **state)
{
	char out[NATS_NOBODY_MAX], sid[700];
	size_t n = nats_nobody(SPAN("_INBOX.1"), SPAN("9"), SPAN("help"), out);

	(void)state;
	assert_span(((struct span){ out, n }), "HMSG _INBOX.1 9 36 36\r\nNATS/1.0 503\r\n"
					       "Nats-Subject: help\r\n\r\n\r\n");
	memset(sid, 's', sizeof(sid));
	assert_int_equal(nats_nobody(SPAN("r"), (struct span){ sid, 700 }, SPAN("s"), out), 0);
	n = nats_gap(SPAN("t"), SPAN("9"), 0xab, 12, out);
	assert_span(((struct span){ out, n }),
		    "HMSG t 9 45 45\r\nNATS/1.0\r\nBroker-Gap: 00000000000000ab:12\r\n\r\n\r\n");
}

/* ---- messages ---- */

static struct nats_frame frame = { .headers = true, .sid = { "9", 1 } };
static char parameter[5000];

static struct wire wire(void)
{
	return (struct wire){ .format = &nats_format,
			      .parameter = { parameter, nats_parameter(&frame, parameter) } };
}

static struct run one(struct span message)
{
	return (struct run){
		.topic = SPAN("a.b"), .body = message, .messages = 1, .epoch = 0xabc, .seq = 7
	};
}

/* Records in memory of the test's. */
static struct run records(const struct record *r, uint32_t n, char *room)
{
	char *at = room;

	for (uint32_t i = 0; i < n; i++)
		at = record_write(at, &r[i]);
	return (struct run){ .topic = SPAN("a.b"),
			     .body = { room, (size_t)(at - room) },
			     .messages = n,
			     .form = RUN_RECORDS,
			     .epoch = 0xabc,
			     .seq = 7 };
}

/* Into memory of just the promised size, so that a sanitizer sees a byte too many; and what is put
 * together around what lies where it lies must be the same. */
static struct span encode(const struct run *run)
{
	const struct wire w = wire();
	size_t max = nats_format.encoded_max(&w, run), n, prefix_len, suffix_len;
	char *out = malloc(max), prefix[WIRE_AROUND_MAX], suffix[WIRE_AROUND_MAX];
	struct span body;

	assert_non_null(out);
	assert_int_equal(nats_format.encodable(&w, run), run->messages);
	n = nats_format.encode(&w, run, out);
	assert_true(n <= max);
	if (run->messages != 1 || !nats_format.enclosable(&w, run))
		return (struct span){ out, n };
	nats_format.enclose(&w, run, prefix, &prefix_len, &body, suffix, &suffix_len);
	assert_int_equal(prefix_len + body.len + suffix_len, n);
	assert_memory_equal(out, prefix, prefix_len);
	if (body.len > 0)
		assert_memory_equal(out + prefix_len, body.data, body.len);
	assert_memory_equal(out + prefix_len + body.len, suffix, suffix_len);
	assert_true(body.data >= run->body.data &&
		    body.data + body.len <= run->body.data + run->body.len);
	return (struct span){ out, n };
}

static void expect(struct run run, const char *wanted)
{
	struct span got = encode(&run);

	assert_span(got, wanted);
	free((void *)(uintptr_t)got.data);
}

static void a_message_has_its_subject_the_sid_and_its_length(void **state)
{
	(void)state;
	expect(one(SPAN("hello")), "MSG a.b 9 5\r\nhello\r\n");
	expect(one(SPAN("")), "MSG a.b 9 0\r\n\r\n");
	frame.sid = SPAN("other");
	expect(one(SPAN("x")), "MSG a.b other 1\r\nx\r\n");
	frame.sid = SPAN("9");
}

static void lines_are_messages(void **state)
{
	struct run run = one(SPAN("a\r\n\r\nbc\r\n"));

	(void)state;
	run.form = RUN_LINES;
	run.messages = 3;
	expect(run, "MSG a.b 9 1\r\na\r\nMSG a.b 9 0\r\n\r\nMSG a.b 9 2\r\nbc\r\n");
}

static void replies_and_headers_go_with_their_message(void **state)
{
	const struct record r[] = {
		{ .payload = SPAN("x"), .reply = SPAN("_INBOX.1") },
		{ .payload = SPAN("y"), .headers = SPAN("NATS/1.0\r\nA: 1\r\n\r\n") },
		{ .payload = SPAN(""), .reply = SPAN("r"), .headers = SPAN("NATS/1.0\r\n\r\n") },
		{ .payload = SPAN("z") },
	};
	char room[500];

	(void)state;
	expect(records(r, 4, room), "MSG a.b 9 _INBOX.1 1\r\nx\r\n"
				    "HMSG a.b 9 18 19\r\nNATS/1.0\r\nA: 1\r\n\r\ny\r\n"
				    "HMSG a.b 9 r 12 12\r\nNATS/1.0\r\n\r\n\r\n"
				    "MSG a.b 9 1\r\nz\r\n");
	for (uint32_t i = 0; i < 4; i++) {
		struct run run = records(r + i, 1, room);
		struct span got = encode(&run);

		free((void *)(uintptr_t)got.data);
	}
	frame.headers = false;
	expect(records(r, 4, room), "MSG a.b 9 _INBOX.1 1\r\nx\r\nMSG a.b 9 1\r\ny\r\n"
				    "MSG a.b 9 r 0\r\n\r\nMSG a.b 9 1\r\nz\r\n");
	frame.headers = true;
}

static void a_content_type_becomes_a_header(void **state)
{
	struct run run = one(SPAN("{}"));

	(void)state;
	run.type = SPAN("application/json");
	expect(run, "HMSG a.b 9 44 46\r\nNATS/1.0\r\nContent-Type: application/json\r\n\r\n{}\r\n");
	run.type = SPAN("application/octet-stream");
	expect(run, "MSG a.b 9 2\r\n{}\r\n");
	run.type = SPAN("application/x-www-form-urlencoded; charset=utf-8");
	expect(run, "MSG a.b 9 2\r\n{}\r\n");
	frame.headers = false;
	run.type = SPAN("application/json");
	expect(run, "MSG a.b 9 2\r\n{}\r\n");
	frame.headers = true;
}

static void ids_are_headers_for_those_who_replay(void **state)
{
	const struct record r[] = {
		{ .payload = SPAN("y"), .headers = SPAN("NATS/1.0\r\nA: 1\r\n\r\n") },
		{ .payload = SPAN("z") },
	};
	char room[500];

	(void)state;
	frame.ids = true;
	expect(records(r, 2, room),
	       "HMSG a.b 9 49 50\r\nNATS/1.0\r\nA: 1\r\nBroker-Id: 0000000000000abc:7\r\n\r\ny\r\n"
	       "HMSG a.b 9 43 44\r\nNATS/1.0\r\nBroker-Id: 0000000000000abc:8\r\n\r\nz\r\n");
	frame.ids = false;
}

static void what_is_one_s_own_is_left_out_without_echo(void **state)
{
	struct run run = one(SPAN("x"));
	struct wire w;

	(void)state;
	run.publisher = (struct run_publisher){ .shard = 1, .slot = 2, .generation = 3 };
	frame.except = run.publisher;
	w = wire();
	assert_int_equal(nats_format.encodable(&w, &run), 0);
	run.publisher.slot = 3;
	assert_int_equal(nats_format.encodable(&w, &run), 1);
	frame.except = (struct run_publisher){ .generation = 0 };
	run.publisher = frame.except;
	w = wire();
	assert_int_equal(nats_format.encodable(&w, &run), 1);
}

static void a_topic_with_a_space_has_no_form(void **state)
{
	struct run run = one(SPAN("x"));
	struct wire w = wire();
	struct record r = { .payload = SPAN("x"), .reply = SPAN("a b") };
	char room[100];

	(void)state;
	run.topic = SPAN("a b");
	assert_int_equal(nats_format.encodable(&w, &run), 0);
	expect(records(&r, 1, room), "MSG a.b 9 1\r\nx\r\n");
}

static void messages_end_where_they_end(void **state)
{
	const struct record r[] = {
		{ .payload = SPAN("x\r\nMSG a 1 5\r\n"), .reply = SPAN("_INBOX.1") },
		{ .payload = SPAN("y"), .headers = SPAN("NATS/1.0\r\nA: 1\r\n\r\n") },
		{ .payload = SPAN("") },
	};
	char room[500];
	struct run run = records(r, 3, room);

	(void)state;
	for (int framed = 0; framed < 2; framed++) {
		struct span all;
		size_t ends[4] = { 0 };

		frame.framed = framed;
		for (uint32_t i = 0; i < 3; i++) {
			char single[500];
			struct run alone = records(r + i, 1, single);

			all = encode(&alone);
			ends[i + 1] = ends[i] + all.len;
			free((void *)(uintptr_t)all.data);
		}
		all = encode(&run);
		assert_int_equal(all.len, ends[3]);
		for (size_t at = 0, i = 0; at <= all.len; at++) {
			i += at > ends[i];
			assert_int_equal(nats_format.boundary(all, at), ends[i]);
		}
		free((void *)(uintptr_t)all.data);
	}
	frame.framed = false;
}

static void each_message_is_a_frame_where_there_are_frames(void **state)
{
	static char large[70000];
	struct run run;
	struct span got;

	(void)state;
	frame.framed = true;
	expect(one(SPAN("hello")), "\x82\x14MSG a.b 9 5\r\nhello\r\n");
	run = one((struct span){ large, 300 });
	got = encode(&run);
	assert_memory_equal(got.data, "\x82\x7e\x01\x3dMSG a.b 9 300\r\n", 19);
	free((void *)(uintptr_t)got.data);
	run = one((struct span){ large, sizeof(large) });
	got = encode(&run);
	assert_memory_equal(got.data, "\x82\x7f\0\0\0\0\0\x01\x11\x83MSG a.b 9 70000\r\n", 27);
	free((void *)(uintptr_t)got.data);
	frame.framed = false;
}

static void what_would_be_too_long_around_a_message_is_copied(void **state)
{
	char sid[1100];
	struct run run = one(SPAN("x"));
	struct wire w;

	(void)state;
	memset(sid, 's', sizeof(sid));
	frame.sid = (struct span){ sid, sizeof(sid) };
	w = wire();
	assert_false(nats_format.enclosable(&w, &run));
	frame.sid = SPAN("9");
	w = wire();
	assert_true(nats_format.enclosable(&w, &run));
}

static void headers_are_sent_from_where_they_lie(void **state)
{
	static char long_headers[3000], room[8000];
	const struct record r = { .payload = SPAN("payload"),
				  .reply = SPAN("r"),
				  .headers = { long_headers, sizeof(long_headers) } };
	struct run run = records(&r, 1, room);
	struct wire w = wire();
	struct span got;

	(void)state;
	memset(long_headers, 'h', sizeof(long_headers));
	assert_true(nats_format.enclosable(&w, &run));
	got = encode(&run);
	free((void *)(uintptr_t)got.data);
}

static void a_line_that_says_the_same_has_a_length_of_its_own(void **state)
{
	static const struct {
		const char *line, *next;
		size_t n, bytes;
	} all[] = {
		{ "PUB a 5\r\n", "PUB a 5\r\nhello", 9, 5 },
		{ "PUB a 5\r\n", "PUB a 123456789\r\n", 17, 123456789 },
		{ "PUB  5\t5 \n", "PUB  5\t12\r\n", 11, 12 },
		{ "PUB a 5\r\n", "PUB a 1234567890\r\n", 0, 0 },
		{ "PUB a 5\r\n", "PUB a 0\r\n", 0, 0 },
		{ "PUB a 5\r\n", "PUB a 05\r\n", 0, 0 },
		{ "PUB a 5\r\n", "PUB a 5\n", 0, 0 },
		{ "PUB a 5\r\n", "PUB a 5 \r\n", 0, 0 },
		{ "PUB a 5\r\n", "PUB a 5 5\r\n", 0, 0 },
		{ "PUB a 5\r\n", "PUB a r\r\n", 0, 0 },
		{ "PUB a 5\r\n", "PUB b 5\r\n", 0, 0 },
		{ "PUB a 5\r\n", "pub a 5\r\n", 0, 0 },
		{ "PUB a 5\r\n", "PUB a 5\r", 0, 0 },
		{ "PUB a 5\r\n", "PUB a 5", 0, 0 },
		{ "PUB a 5\r\n", "PUB a ", 0, 0 },
		{ "PUB a 5\r\n", "", 0, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		size_t bytes = 0, n = nats_alike(span_of(all[i].line),
						 at_page_end(span_of(all[i].next)), &bytes);

		assert_int_equal(n, all[i].n);
		if (n > 0)
			assert_int_equal(bytes, all[i].bytes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_are_parted_by_any_spaces),
		cmocka_unit_test(any_word_is_a_sid),
		cmocka_unit_test(unsubscribe_has_a_sid_and_perhaps_a_number),
		cmocka_unit_test(publish_says_how_much_follows),
		cmocka_unit_test(publish_with_headers_says_how_long_these_are),
		cmocka_unit_test(what_follows_ping_and_pong_does_not_count),
		cmocka_unit_test(another_protocol_is_seen_at_its_first_wrong_byte),
		cmocka_unit_test(lines_have_a_limit),
		cmocka_unit_test(what_is_kept_back_may_come_behind),
		cmocka_unit_test(the_first_words_of_a_client_are_known),
		cmocka_unit_test(what_connect_does_not_say_is_as_ever),
		cmocka_unit_test(what_a_later_connect_does_not_say_stays),
		cmocka_unit_test(credentials_are_taken_as_they_are),
		cmocka_unit_test(malformed_options_are_refused),
		cmocka_unit_test(subjects_are_topics_or_patterns_or_neither),
		cmocka_unit_test(inboxes_and_what_begins_with_a_dollar_pass),
		cmocka_unit_test(replays_name_a_topic_and_what_of_its_past),
		cmocka_unit_test(info_says_what_is_so_and_no_more),
		cmocka_unit_test(headers_are_found_by_name),
		cmocka_unit_test(nobody_is_there_is_said_as_503),
		cmocka_unit_test(a_message_has_its_subject_the_sid_and_its_length),
		cmocka_unit_test(lines_are_messages),
		cmocka_unit_test(replies_and_headers_go_with_their_message),
		cmocka_unit_test(a_content_type_becomes_a_header),
		cmocka_unit_test(ids_are_headers_for_those_who_replay),
		cmocka_unit_test(what_is_one_s_own_is_left_out_without_echo),
		cmocka_unit_test(a_topic_with_a_space_has_no_form),
		cmocka_unit_test(messages_end_where_they_end),
		cmocka_unit_test(each_message_is_a_frame_where_there_are_frames),
		cmocka_unit_test(what_would_be_too_long_around_a_message_is_copied),
		cmocka_unit_test(headers_are_sent_from_where_they_lie),
		cmocka_unit_test(a_line_that_says_the_same_has_a_length_of_its_own),
	};

	json_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
