#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "load/counters.h"
#include "load/wire.h"

typedef struct wire_event parser(struct span in);

/* In a buffer of just its size, so that a sanitizer sees a byte too many being read. */
static struct wire_event parse(parser *p, const char *text, size_t len, char *payload, size_t max)
{
	char *copy = malloc(len + (len == 0));
	struct wire_event e;

	assert_non_null(copy);
	memcpy(copy, text, len);
	e = p((struct span){ copy, len });
	assert_true(e.used <= len);
	if (payload != NULL) {
		assert_true(e.payload.len < max);
		memcpy(payload, e.payload.len > 0 ? e.payload.data : "", e.payload.len);
		payload[e.payload.len] = 0;
	}
	free(copy);
	return e;
}

/* The text is one thing with this payload, and nothing shorter is. */
static void whole(parser *p, const char *text, enum wire_result result, const char *payload)
{
	char got[256];
	size_t len = strlen(text);
	struct wire_event e;

	for (size_t n = 0; n < len; n++)
		assert_int_equal(parse(p, text, n, NULL, 0).result, WIRE_MORE);
	e = parse(p, text, len, got, sizeof(got));
	assert_int_equal(e.result, result);
	assert_int_equal(e.used, len);
	if (payload != NULL)
		assert_string_equal(got, payload);
}

static void bad(parser *p, const char *text)
{
	assert_int_equal(parse(p, text, strlen(text), NULL, 0).result, WIRE_BAD);
}

static void line_messages(void **state)
{
	(void)state;
	whole(wire_line.receive, "hello\r\n", WIRE_MESSAGE, "hello");
	whole(wire_line.receive, "a\rb\nc\r\n", WIRE_MESSAGE, "a\rb\nc");
	whole(wire_line.receive, "\r\n", WIRE_MESSAGE, "");
	bad(wire_line.receive, "BYE\r\n");
	bad(wire_line.receive, "ERROR slow consumer\r\n");
	whole(wire_line.subscribed, "OK\r\n", WIRE_MESSAGE, NULL);
	bad(wire_line.subscribed, "ERROR bad topic\r\n");
	bad(wire_line.reply, "ERROR line too long\r\n");
}

static void resp_pushes(void **state)
{
	(void)state;
	whole(wire_resp.receive, "*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$5\r\na\r\nbc\r\n",
	      WIRE_MESSAGE, "a\r\nbc");
	whole(wire_resp.receive, "*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$0\r\n\r\n", WIRE_MESSAGE, "");
	whole(wire_resp.receive, "*3\r\n$9\r\nsubscribe\r\n$1\r\nt\r\n:1\r\n", WIRE_ASIDE, NULL);
	whole(wire_resp.subscribed, "*3\r\n$9\r\nsubscribe\r\n$1\r\nt\r\n:1\r\n", WIRE_MESSAGE,
	      NULL);
	bad(wire_resp.receive, "-ERR max number of clients reached\r\n");
	bad(wire_resp.receive, "*2\r\n$7\r\nmessage\r\n");
	bad(wire_resp.receive, "*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$1\r\nabc");
	bad(wire_resp.receive, "*3\r\n$-1\r\n");
	bad(wire_resp.receive, "*99999999999999999999");
	whole(wire_resp.reply, ":100\r\n", WIRE_ASIDE, NULL);
	bad(wire_resp.reply, "-ERR unknown command\r\n");
	whole(wire_resp.publisher_opened, "+PONG\r\n", WIRE_MESSAGE, NULL);
}

static void nats_messages(void **state)
{
	(void)state;
	whole(wire_nats.receive, "MSG t.u 1 5\r\na\r\nbc\r\n", WIRE_MESSAGE, "a\r\nbc");
	whole(wire_nats.receive, "MSG t.u 1 0\r\n\r\n", WIRE_MESSAGE, "");
	whole(wire_nats.receive, "PING\r\n", WIRE_PING, NULL);
	whole(wire_nats.receive, "INFO {}\r\n", WIRE_ASIDE, NULL);
	bad(wire_nats.receive, "-ERR 'Slow Consumer'\r\n");
	bad(wire_nats.receive, "MSG t.u 1 x\r\n");
	bad(wire_nats.receive, "MSG t.u 1 99999999999999999999\r\n");
	bad(wire_nats.receive, "MSG t 1 2\r\nabcd");
	whole(wire_nats.subscribed, "INFO {}\r\nPING\r\nPONG\r\n", WIRE_MESSAGE, NULL);
	bad(wire_nats.subscribed, "INFO {}\r\n-ERR 'Authorization Violation'\r\n");
}

static void sse_events(void **state)
{
	(void)state;
	whole(wire_sse.receive, "id: 1:2\ndata: hello\n\n", WIRE_MESSAGE, "hello");
	whole(wire_sse.receive, "data:hello\nid: 1\n\n", WIRE_MESSAGE, "hello");
	whole(wire_sse.receive, ": hi\n\n", WIRE_ASIDE, NULL);
	whole(wire_sse.receive, "retry: 2000\n\n", WIRE_ASIDE, NULL);
	whole(wire_sse.receive, "1f\r\n", WIRE_ASIDE, NULL);
	whole(wire_sse.receive, "\r\n", WIRE_ASIDE, NULL);
	bad(wire_sse.receive, "0\r\n");
	bad(wire_sse.receive, "data: a\ndata: b\n\n");
	bad(wire_sse.receive, "event: gap\ndata: 7\n\n");
	whole(wire_sse.subscribed, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
	      WIRE_MESSAGE, NULL);
	bad(wire_sse.subscribed, "HTTP/1.1 404 Not Found\r\n\r\n");
	bad(wire_sse.subscribed, "OK\r\n\r\n");
	whole(wire_sse.reply, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", WIRE_ASIDE, NULL);
	whole(wire_sse.reply, "HTTP/1.1 202 Accepted\r\nContent-Length:0\r\n\r\n", WIRE_ASIDE,
	      NULL);
	bad(wire_sse.reply, "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n");
	bad(wire_sse.reply, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
}

static struct wire_event parse_bytes(parser *p, const char *bytes, size_t len)
{
	return parse(p, bytes, len, NULL, 0);
}

static void mqtt_packets(void **state)
{
	static const char publish[] = "\x30\x06\0\1txyz", acks[] = "\x20\2\0\0\x90\3\0\1\0";
	char payload[8];
	struct wire_event e;

	(void)state;
	for (size_t n = 0; n < 8; n++)
		assert_int_equal(parse_bytes(wire_mqtt.receive, publish, n).result, WIRE_MORE);
	e = parse(wire_mqtt.receive, publish, 8, payload, sizeof(payload));
	assert_int_equal(e.result, WIRE_MESSAGE);
	assert_string_equal(payload, "xyz");
	for (size_t n = 0; n < 9; n++)
		assert_int_equal(parse_bytes(wire_mqtt.subscribed, acks, n).result, WIRE_MORE);
	e = parse_bytes(wire_mqtt.subscribed, acks, 9);
	assert_int_equal(e.result, WIRE_MESSAGE);
	assert_int_equal(e.used, 9);
	assert_int_equal(parse_bytes(wire_mqtt.subscribed, "\x20\2\0\5", 4).result, WIRE_BAD);
	assert_int_equal(parse_bytes(wire_mqtt.receive, "\x30\2\0\7", 4).result, WIRE_BAD);
	assert_int_equal(parse_bytes(wire_mqtt.receive, "\x30\xff\xff\xff\xff\x01", 6).result,
			 WIRE_BAD);
}

static void websocket_frames(void **state)
{
	struct wire_frame in, out;

	(void)state;
	whole(wire_ws.receive, "\x81\5hello", WIRE_MESSAGE, "hello");
	whole(wire_ws.receive, "\x82\1x", WIRE_MESSAGE, "x");
	whole(wire_ws.receive, "\x89\2hi", WIRE_PING, NULL);
	whole(wire_ws.receive, "\x8a\1x", WIRE_ASIDE, NULL);
	whole(wire_ws.reply, "\x81\5hello", WIRE_ASIDE, NULL);
	bad(wire_ws.receive, "\x01\5hello");
	bad(wire_ws.receive, "\xc1\5hello");
	bad(wire_ws.receive, "\x81\x85\1\1\1\1hello");
	bad(wire_ws.receive, "\x88\7\3\xf5gone!");
	bad(wire_ws.receive, "\x83\1x");
	whole(wire_ws.subscribed, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
	      WIRE_MESSAGE, NULL);
	bad(wire_ws.subscribed, "HTTP/1.1 403 Forbidden\r\n\r\n");
	for (size_t n = 125; n <= 70000; n += n < 127 ? 1 : n == 127 ? 65408 : 4465) {
		size_t wide = n < 126 ? 0 : n < 65536 ? 2 : 8;

		wire_ws.published(&in, SPAN("t"), n);
		assert_int_equal(in.prefix.len, 2 + wide + 4);
		assert_true(in.prefix.bytes[1] & 0x80);
		wire_ws.delivered(&out, SPAN("t"), n, &(struct wire_asked){ .many = false });
		assert_int_equal(out.prefix.len, 2 + wide);
		assert_int_equal(
			wire_ws.receive((struct span){ out.prefix.bytes, out.prefix.len }).result,
			WIRE_MORE);
	}
}

static void what_a_pattern_brings(void **state)
{
	static const char pmessage[] =
		"*4\r\n$8\r\npmessage\r\n$3\r\nt.*\r\n$3\r\nt.a\r\n$1\r\nx\r\n";
	static const struct wire_asked asked = { .pattern = { "t.*", 3 } };
	struct wire_frame out;

	(void)state;
	whole(wire_line.receive_wild, "t.a hello you\r\n", WIRE_MESSAGE, "hello you");
	bad(wire_line.receive_wild, "hello\r\n");
	whole(wire_resp.receive, pmessage, WIRE_MESSAGE, "x");
	bad(wire_resp.receive, "*4\r\n$7\r\nmessage\r\n$1\r\nt\r\n$1\r\nt\r\n$1\r\nx\r\n");
	wire_resp.delivered(&out, SPAN("t.a"), 1, &asked);
	assert_memory_equal(out.prefix.bytes, pmessage, out.prefix.len);
	wire_line.delivered(&out, SPAN("t.a"), 1, &asked);
	assert_memory_equal(out.prefix.bytes, "t.a ", out.prefix.len);
}

/* What stands before a message is equally long for all topics of a connection. */
static void subscriptions_of_one_connection_have_numbers(void **state)
{
	struct wire_asked asked = { .many = true, .number = 8 };
	struct wire_frame ninth, tenth;
	struct wire_text text;

	(void)state;
	wire_nats.subscribe(&text, SPAN("t"), &asked);
	assert_memory_equal(text.bytes, "SUB t 00009\r\nPING\r\n", text.len);
	wire_nats.delivered(&ninth, SPAN("t"), 5, &asked);
	asked.number++;
	wire_nats.delivered(&tenth, SPAN("u"), 5, &asked);
	assert_int_equal(ninth.prefix.len, tenth.prefix.len);
	assert_memory_equal(tenth.prefix.bytes, "MSG u 00010 5\r\n", tenth.prefix.len);
	wire_mqtt.subscribe(&text, SPAN("t"), &asked);
	assert_int_equal((unsigned char)text.bytes[0], 0x82);
	asked.number = 0;
	wire_mqtt.subscribe(&text, SPAN("t"), &asked);
	assert_int_equal(text.bytes[0], 0x10);
}

/* Fed in pieces of every size, a stream falls into the same things. */
static void stream_in_pieces(void **state)
{
	static const char stream[] = "PING\r\nMSG t 1 3\r\nabc\r\nMSG t 1 0\r\n\r\nPING\r\n";

	(void)state;
	for (size_t piece = 1; piece < sizeof(stream); piece++) {
		struct wire_stash stash = { .max = 64 };
		char seen[64] = "";
		size_t n = 0;

		for (size_t at = 0; at < sizeof(stream) - 1; at += piece) {
			size_t left = sizeof(stream) - 1 - at;
			struct span in = { stream + at, left < piece ? left : piece };

			while (in.len > 0) {
				struct wire_event e = wire_next(&stash, wire_nats.receive, &in);

				if (e.result == WIRE_PING)
					seen[n++] = 'P';
				if (e.result == WIRE_MESSAGE)
					n += (size_t)snprintf(seen + n, 16, "<%.*s>",
							      (int)e.payload.len, e.payload.data);
				assert_int_not_equal(e.result, WIRE_BAD);
			}
		}
		assert_string_equal(seen, "P<abc><>P");
		assert_int_equal(stash.len, 0);
		wire_stash_release(&stash);
	}
}

static void what_is_longer_than_the_stash_is_bad(void **state)
{
	struct wire_stash stash = { .max = 8 };
	struct span in = SPAN("MSG topic 1 3\r\n");

	(void)state;
	in.len = 8;
	assert_int_equal(wire_next(&stash, wire_nats.receive, &in).result, WIRE_BAD);
	wire_stash_release(&stash);
}

static void counters_are_summed_over_their_labels(void **state)
{
	static const char text[] = "# TYPE a_total counter\na_total{reactor=\"0\"} 3\n"
				   "a_total{reactor=\"1\"} 4.5\na_total_more 100\nb 7\na_total 1";

	(void)state;
	assert_true(counters_sum(SPAN(text), "a_total") == 7.5); /* the last line has no end */
	assert_true(counters_sum(SPAN(text), "b") == 7);
	assert_true(counters_sum(SPAN(text), "c") == 0);
	assert_true(counters_sum(SPAN(""), "c") == 0);
}

static void protocols_are_found_by_name(void **state)
{
	(void)state;
	assert_ptr_equal(wire_find("nats"), &wire_nats);
	assert_ptr_equal(wire_find("sse"), &wire_sse);
	assert_null(wire_find("smtp"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(line_messages),
		cmocka_unit_test(resp_pushes),
		cmocka_unit_test(nats_messages),
		cmocka_unit_test(sse_events),
		cmocka_unit_test(mqtt_packets),
		cmocka_unit_test(websocket_frames),
		cmocka_unit_test(what_a_pattern_brings),
		cmocka_unit_test(subscriptions_of_one_connection_have_numbers),
		cmocka_unit_test(stream_in_pieces),
		cmocka_unit_test(what_is_longer_than_the_stash_is_bad),
		cmocka_unit_test(counters_are_summed_over_their_labels),
		cmocka_unit_test(protocols_are_found_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
