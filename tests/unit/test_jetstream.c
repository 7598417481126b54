#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "protocol/jetstream.h"

static struct span text_of(const char *text)
{
	return (struct span){ text, strlen(text) };
}

static char live[] = "live.>", chat[] = "chat.room";
static char *topics[] = { live, chat };

static const struct jetstream_wanted wanted = { .name = "LIVE",
						.topics = topics,
						.topics_n = 1,
						.publish_prefix = "",
						.deliver_prefix = "fan." };

/* As nats-server 2.9.10 says it. */
#define CONFIG                                                                                     \
	"\"config\":{\"name\":\"LIVE\",\"description\":\"ours\",\"subjects\":[\"live.\\u003e\"],"  \
	"\"retention\":\"limits\",\"num_replicas\":3,\"duplicate_window\":120000000000,"           \
	"\"republish\":{\"src\":\"\\u003e\",\"dest\":\"fan.\\u003e\"},\"allow_direct\":true}"
#define STREAM                                                                                     \
	"{\"type\":\"io.nats.jetstream.api.v1.stream_info_response\",\"total\":0," CONFIG          \
	",\"created\":\"2026-11-30T13:32:29.985266553Z\",\"state\":{\"messages\":3,\"bytes\":199," \
	"\"first_seq\":7,\"last_seq\":9,\"consumer_count\":0}}"

static void a_stream_is_read(void **state)
{
	struct jetstream_stream s;
	char wrong[256];

	(void)state;
	assert_true(jetstream_stream(text_of(STREAM), &s));
	assert_int_equal(s.error, 0);
	assert_string_equal(s.created, "2026-11-30T13:32:29.985266553Z");
	assert_string_equal(s.description, "ours");
	assert_string_equal(s.from, ">");
	assert_string_equal(s.to, "fan.>");
	assert_true(s.direct && !s.headers_only);
	assert_int_equal(s.duplicates_ns, UINT64_C(120000000000));
	assert_int_equal(s.replicas, 3);
	assert_int_equal(s.first, 7);
	assert_int_equal(s.last, 9);
	assert_false(jetstream_stream_wrong(&s, &wanted, wrong, sizeof(wrong)));
}

static void a_stream_becomes_another_one_by_a_count_in_its_description(void **state)
{
	static const char *const steps[][2] = { { "ours", "ours [log 1]" },
						{ "ours [log 1]", "ours [log 2]" },
						{ "ours [log x]", "ours [log x] [log 1]" },
						{ "", " [log 1]" },
						{ " [log 9]", " [log 10]" } };
	struct jetstream_stream s;
	char out[4096], again[5000];
	size_t n = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		n = jetstream_count(text_of(STREAM), steps[i][0], out, sizeof(out));
		snprintf(again, sizeof(again), "{\"config\":%.*s,\"created\":\"x\"}", (int)n, out);
		assert_true(jetstream_stream(text_of(again), &s));
		assert_string_equal(s.description, steps[i][1]);
		assert_string_equal(s.to, "fan.>");
		assert_int_equal(s.duplicates_ns, UINT64_C(120000000000));
	}
	for (size_t room = 0; room < n; room++)
		assert_int_equal(jetstream_count(text_of(STREAM), " [log 9]", out, room), 0);
	assert_int_equal(jetstream_count(text_of("{}"), "", out, sizeof(out)), 0);
}

static void an_error_is_told_from_a_stream(void **state)
{
	struct jetstream_stream s;

	(void)state;
	assert_true(jetstream_stream(
		text_of("{\"type\":\"x\",\"error\":{\"code\":404,\"err_code\":10059,"
			"\"description\":\"stream not found\"},\"total\":0}"),
		&s));
	assert_int_equal(s.error, JETSTREAM_NONE);
	assert_string_equal(s.wrong, "stream not found");
	assert_false(jetstream_stream(text_of("{}"), &s));
	assert_false(jetstream_stream(text_of("{\"error\":7}"), &s));
	assert_false(jetstream_stream(text_of("nonsense"), &s));
}

static void what_is_wrong_with_a_stream_is_said(void **state)
{
	static const struct {
		const char *subjects, *from, *to, *said;
		bool headers_only, direct;
		uint64_t duplicates_s;
	} cases[] = {
		{ "[\"other.>\"]", ">", "fan.>", "subjects", false, true, 120 },
		{ "[\"live.*\"]", ">", "fan.>", "subjects", false, true, 120 },
		{ "[\"live.>\"]", "", "", "republish", false, true, 120 },
		{ "[\"live.>\"]", ">", "out.>", "republish", false, true, 120 },
		{ "[\"live.>\"]", "live.a.>", "fan.live.a.>", "republish", false, true, 120 },
		{ "[\"live.>\"]", ">", "fan.>", "headers only", true, true, 120 },
		{ "[\"live.>\"]", ">", "fan.>", "allow_direct", false, false, 120 },
		{ "[\"live.>\"]", ">", "fan.>", "119 s", false, true, 119 },
		{ "[\"live.>\"]", ">", "fan.>", NULL, false, true, 120 },
		{ "[\">\"]", "live.>", "fan.live.>", NULL, false, true, 3600 },
		{ "[\"a\",\"live.>\"]", "", "fan.>", NULL, false, true, 120 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct jetstream_stream s = { .headers_only = cases[i].headers_only,
					      .direct = cases[i].direct,
					      .duplicates_ns = cases[i].duplicates_s * 1000000000 };
		char wrong[256];

		strcpy(s.subjects, cases[i].subjects);
		strcpy(s.from, cases[i].from);
		strcpy(s.to, cases[i].to);
		if (cases[i].said == NULL) {
			assert_false(jetstream_stream_wrong(&s, &wanted, wrong, sizeof(wrong)));
			continue;
		}
		assert_true(jetstream_stream_wrong(&s, &wanted, wrong, sizeof(wrong)));
		assert_non_null(strstr(wrong, cases[i].said));
	}
}

static void a_stream_that_is_made_is_right(void **state)
{
	const struct jetstream_limits limits = { .messages_per_subject = 128,
						 .age_s = 3600,
						 .replicas = 3 };
	const struct jetstream_wanted both = { .name = "LIVE",
					       .topics = topics,
					       .topics_n = 2,
					       .publish_prefix = "site.",
					       .deliver_prefix = "fan." };
	char body[1024], answer[1200], wrong[256];
	struct jetstream_stream s;
	size_t n = jetstream_create(&both, &limits, body, sizeof(body));

	(void)state;
	assert_in_range(n, 1, sizeof(body));
	snprintf(answer, sizeof(answer), "{\"config\":%.*s,\"created\":\"now\"}", (int)n, body);
	assert_true(jetstream_stream(text_of(answer), &s));
	assert_false(jetstream_stream_wrong(&s, &both, wrong, sizeof(wrong)));
	assert_int_equal(s.replicas, 3);
	assert_int_equal(jetstream_create(&both, &limits, body, n), 0);
}

static void a_message_is_found_or_not(void **state)
{
	uint64_t number;

	(void)state;
	/* A subject may hold quotes. */
	assert_true(jetstream_found(
		text_of("{\"type\":\"x\",\"message\":{\"subject\":\"live.\\\"seq\\\":9\",\"seq\":3,"
			"\"data\":\"aGVsbG8y\"}}"),
		&number));
	assert_int_equal(number, 3);
	assert_true(jetstream_found(text_of("{\"type\":\"x\",\"error\":{\"code\":404,"
					    "\"description\":\"no message found\"}}"),
				    &number));
	assert_int_equal(number, 0);
	assert_false(jetstream_found(text_of("{\"error\":{\"code\":503}}"), &number));
	assert_false(jetstream_found(text_of("{}"), &number));
	assert_false(jetstream_found(text_of(""), &number));
}

static void an_acknowledgement_is_read(void **state)
{
	struct jetstream_ack a;

	(void)state;
	assert_true(jetstream_ack(text_of("{\"stream\":\"LIVE\", \"seq\":17}"), &a));
	assert_true(a.error == 0 && a.number == 17 && !a.duplicate);
	assert_true(
		jetstream_ack(text_of("{\"stream\":\"LIVE\", \"seq\":1,\"duplicate\": true}"), &a));
	assert_true(a.error == 0 && a.number == 1 && a.duplicate);
	assert_true(jetstream_ack(text_of("{\"error\":{\"code\":503,\"description\":\"x\"},"
					  "\"stream\":\"LIVE\",\"seq\":0}"),
				  &a));
	assert_int_equal(a.error, 503);
	assert_false(jetstream_ack(text_of("{\"stream\":\"LIVE\"}"), &a));
	assert_false(jetstream_ack(text_of("{\"seq\":99999999999999999999999}"), &a));
}

static void a_place_is_what_the_server_says_not_what_a_publisher_says(void **state)
{
	struct jetstream_place p;

	(void)state;
	assert_true(jetstream_place(
		text_of("NATS/1.0\r\nNats-Sequence: 1\r\nNats-Last-Sequence: 0\r\n"
			"Nats-Stream: LIVE\r\nNats-Subject: live.a\r\nNats-Sequence: 12\r\n"
			"Nats-Last-Sequence: 9\r\n\r\n"),
		&p));
	assert_int_equal(p.number, 12);
	assert_int_equal(p.before, 9);
	assert_false(jetstream_place(text_of("NATS/1.0\r\nNats-Sequence: 12\r\n\r\n"), &p));
	assert_false(jetstream_place(
		text_of("NATS/1.0\r\nNats-Sequence: 9\r\nNats-Last-Sequence: 9\r\n\r\n"), &p));
	assert_false(jetstream_place(
		text_of("NATS/1.0\r\nNats-Sequence: x\r\nNats-Last-Sequence: 9\r\n\r\n"), &p));
	assert_false(jetstream_place(text_of(""), &p));
}

static void a_delivery_is_read_in_both_lengths(void **state)
{
	struct jetstream_delivery d;

	(void)state;
	assert_true(jetstream_delivery(text_of("$JS.ACK.LIVE.z8R91ox3.1.42.7.1732973550.5"), &d));
	assert_true(d.number == 42 && d.count == 7 && d.pending == 5);
	assert_true(jetstream_delivery(
		text_of("$JS.ACK.hub.ABCDEF.LIVE.z8R91ox3.1.42.7.1732973550.5.token"), &d));
	assert_true(d.number == 42 && d.count == 7 && d.pending == 5);
	assert_false(jetstream_delivery(text_of("$JS.ACK.LIVE.z8R91ox3.1.42.7.1732973550"), &d));
	assert_false(jetstream_delivery(text_of("$JS.ACK.LIVE.z.1.x.7.17.5"), &d));
	assert_false(jetstream_delivery(text_of("$JS.ACK."), &d));
	assert_false(jetstream_delivery(text_of("_INBOX.x"), &d));
	assert_false(jetstream_delivery(text_of(""), &d));
}

static void a_consumer_is_asked_for_and_has_a_name(void **state)
{
	const struct jetstream_consumer c = { .stream = "LIVE",
					      .subject = SPAN("live.\"a"),
					      .deliver = SPAN("_INBOX.x.1"),
					      .from = 8 };
	char body[1024];
	size_t n = jetstream_consumer(&c, body, sizeof(body));
	struct span name;

	(void)state;
	body[n] = 0;
	assert_non_null(strstr(body, "\"opt_start_seq\":8,"));
	assert_non_null(strstr(body, "\"filter_subject\":\"live.\\u0022a\""));
	assert_non_null(strstr(body, "\"deliver_subject\":\"_INBOX.x.1\""));
	name = jetstream_consumer_name(
		text_of("{\"type\":\"x\",\"stream_name\":\"LIVE\",\"name\":\"z8R91ox3\"}"));
	assert_true(span_equal(name, SPAN("z8R91ox3")));
	assert_int_equal(
		jetstream_consumer_name(text_of("{\"error\":{\"code\":503},\"name\":\"a\"}")).len,
		0);
}

static void versions_and_statuses_are_read(void **state)
{
	(void)state;
	assert_true(jetstream_at_least("2.11.0", 2, 11));
	assert_true(jetstream_at_least("3.0.1", 2, 11));
	assert_false(jetstream_at_least("2.9.10", 2, 11));
	assert_false(jetstream_at_least("", 2, 11));
	assert_int_equal(jetstream_status(text_of("NATS/1.0 503\r\n\r\n")), 503);
	assert_int_equal(jetstream_status(text_of("NATS/1.0\r\nA: b\r\n\r\n")), 0);
	assert_int_equal(jetstream_status(text_of("")), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_is_read),
		cmocka_unit_test(a_stream_becomes_another_one_by_a_count_in_its_description),
		cmocka_unit_test(an_error_is_told_from_a_stream),
		cmocka_unit_test(what_is_wrong_with_a_stream_is_said),
		cmocka_unit_test(a_stream_that_is_made_is_right),
		cmocka_unit_test(a_message_is_found_or_not),
		cmocka_unit_test(an_acknowledgement_is_read),
		cmocka_unit_test(a_place_is_what_the_server_says_not_what_a_publisher_says),
		cmocka_unit_test(a_delivery_is_read_in_both_lengths),
		cmocka_unit_test(a_consumer_is_asked_for_and_has_a_name),
		cmocka_unit_test(versions_and_statuses_are_read),
	};

	json_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
