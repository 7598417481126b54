#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "broker/connection.h"
#include "broker/shard.h"
#include "random.h"
#include "session/gather.h"
#include "session/intake.h"
#include "session/shared.h"
#include "topic/block.h"

/*
 * A session with words of its own on a connection without a core:
 *
 *   say <text>\n            one command
 *   hold\n                  what stands behind it waits for a resume
 *   pub <topic> <n>\n<n bytes>
 *   in pieces\n             takes three turns
 *   end\n                   the connection finishes
 */

static struct shard shard;
static struct session_shared shared;
static struct config config;
static struct connection connection;
static struct intake *intake;

static char told[2 << 20]; /* what the session did */
static size_t told_n;
static unsigned takes, blocks, messages, goodbyes, pieces;
static size_t taken_most; /* bytes that `take` has been given, in one call and in all */
static uint64_t given;
static bool congested; /* what is published next is too much */
static bool spent;     /* no time is left */
static size_t collect_from;

static void tell(const char *what, struct span text)
{
	size_t n = strlen(what);

	assert_true(told_n + n + text.len + 2 < sizeof(told));
	memcpy(told + told_n, what, n);
	told_n += n;
	if (text.len > 0)
		memcpy(told + told_n, text.data, text.len);
	told_n += text.len;
	told[told_n++] = '\n';
	told[told_n] = 0;
}

/* ---- the core's part ---- */

void connection_close(struct connection *c, enum drop_reason reason)
{
	(void)reason;
	c->state = CONNECTION_CLOSED;
}

void connection_error(struct connection *c, enum reason reason)
{
	(void)reason;
	c->state = CONNECTION_FINISHING;
}

void connection_goodbye(struct connection *c)
{
	goodbyes++;
	c->state = CONNECTION_FINISHING;
}

void connection_turn(struct connection *c)
{
	(void)c;
}

void connection_publish(struct connection *c, struct block *b)
{
	struct run run = block_run(b);
	struct record r;

	assert_int_equal(b->shard, 0);
	blocks++;
	while (run_next_record(&run, &r)) {
		tell("published ", r.payload);
		if (r.reply.len > 0)
			tell("with reply ", r.reply);
		messages++;
	}
	assert_int_equal(run.body.len, 0);
	block_unref(b);
	if (congested && list_empty(&c->waiting)) {
		list_append(&shard.clients.paused, &c->waiting);
		c->socket.paused = true;
	}
}

void socket_pause(struct sockets *sockets, struct socket *s)
{
	(void)sockets;
	s->paused = true;
}

void socket_receive(struct sockets *sockets, struct socket *s)
{
	(void)sockets;
	s->paused = false;
}

void socket_receive_into(struct sockets *sockets, struct socket *s, void *buf, size_t len)
{
	(void)sockets;
	s->into = buf;
	s->into_len = (uint32_t)len;
}

uint32_t socket_generation(const struct sockets *sockets, const struct socket *s)
{
	(void)sockets;
	(void)s;
	return 1;
}

bool reactor_look(struct reactor *r)
{
	(void)r;
	return spent;
}

void reactor_part(struct reactor *r, unsigned part)
{
	(void)part;
	r->turn.unlooked = 100;
}

/* ---- the session ---- */

static size_t take_publish(struct connection *c, struct span line, size_t used, struct span bytes)
{
	const char *space = memchr(line.data, ' ', line.len);
	struct span topic = { line.data, (size_t)(space - line.data) };
	size_t n = strtoul(space + 1, NULL, 10);
	struct record r = { .payload = { NULL, n } };

	if (n >= collect_from && n > 0) {
		struct block *b = block_new(topic, hash_bytes(topic.data, topic.len), 0);

		b->messages = 1;
		intake_collect(intake, b, n);
		return used;
	}
	if (bytes.len < used + n) {
		intake_need(intake, used + n);
		return 0;
	}
	r.payload.data = bytes.data + used;
	assert_int_equal(gather_add(c, topic, &r), 0);
	return used + n;
}

static size_t take(struct connection *c, struct span bytes)
{
	const char *lf;
	struct span line;
	size_t used;

	assert_true(bytes.len > 0 && c->state == CONNECTION_OPEN);
	takes++;
	given += bytes.len;
	if (bytes.len > taken_most)
		taken_most = bytes.len;
	lf = memchr(bytes.data, '\n', bytes.len);
	if (lf == NULL)
		return 0;
	line = (struct span){ bytes.data, (size_t)(lf - bytes.data) };
	used = line.len + 1;
	if (line.len >= 4 && memcmp(line.data, "pub ", 4) == 0)
		return take_publish(c, span_skip(line, 4), used, bytes);
	if (line.len >= 4 && memcmp(line.data, "say ", 4) == 0) {
		gather_flush(c);
		tell("said ", span_skip(line, 4));
	} else if (span_equal(line, SPAN("hold"))) {
		intake_hold(intake);
	} else if (span_equal(line, SPAN("in pieces")) && ++pieces < 3) {
		tell("a piece", (struct span){ "", 0 });
		intake_again(intake);
		return 0;
	} else if (span_equal(line, SPAN("in pieces"))) {
		pieces = 0;
	} else if (span_equal(line, SPAN("end"))) {
		c->state = CONNECTION_FINISHING;
	} else {
		fail_msg("%.*s", (int)line.len, line.data);
	}
	return used;
}

static void collected(struct connection *c, struct block *b)
{
	gather_block(c, b);
}

static const struct intake_use use = { .take = take, .collected = collected };

static void begin(void)
{
	memset(&shard, 0, sizeof(shard));
	memset(&connection, 0, sizeof(connection));
	memset(&shared, 0, sizeof(shared));
	shard.config = &config;
	shard.sessions = &shared;
	config.engine.recv_buffer_bytes = 16 << 10;
	intakes_init(&shard);
	list_init(&shard.clients.paused);
	list_init(&connection.waiting);
	connection.shard = &shard;
	told_n = 0;
	told[0] = 0;
	takes = blocks = messages = goodbyes = 0;
	taken_most = 0;
	given = 0;
	congested = spent = false;
	collect_from = 100;
	shard.reactor.turn.unlooked = 1 << 30;
	assert_true(intake_take(&intake, &connection, &use));
}

static void end(void)
{
	intake_give_back(intake);
	intakes_release(&shard);
}

static void receive(const char *bytes, size_t n)
{
	assert_true(intake_take(&intake, &connection, &use));
	intake_received(intake, (struct span){ bytes, n });
}

static uint64_t held(void)
{
	return intake != NULL ? intake_held(intake) : 0;
}

static void say(const char *text)
{
	receive(text, strlen(text));
}

static void expect(const char *text)
{
	assert_string_equal(told, text);
	told_n = 0;
	told[0] = 0;
}

/* ---- commands ---- */

static void commands_are_done_in_order_however_they_come(void **state)
{
	const char *text = "say a\nsay b\npub t 3\nxyzsay c\n";
	size_t len = strlen(text);

	(void)state;
	for (size_t first = 1; first < len; first++)
		for (size_t second = first; second < len; second++) {
			begin();
			receive(text, first);
			if (second > first)
				receive(text + first, second - first);
			receive(text + second, len - second);
			expect("said a\nsaid b\npublished xyz\nsaid c\n");
			assert_null(intake);
			end();
		}
}

static void what_was_kept_before_it_was_known_for_whom_comes_first(void **state)
{
	(void)state;
	begin();
	end();
	connection.input = memory_new(4);
	memcpy(connection.input, "say ", 4);
	connection.input_len = 4;
	assert_true(intake_take(&intake, &connection, &use));
	assert_null(connection.input);
	say("hello\n");
	expect("said hello\n");
	end();
}

static void an_intake_that_is_of_no_use_is_the_next_ones(void **state)
{
	struct intake *first;

	(void)state;
	begin();
	first = intake;
	say("say a\n");
	assert_null(intake);
	say("sa");
	assert_ptr_equal(intake, first);
	assert_int_equal(shared.intakes.spare_n, 0);
	say("y b\n");
	assert_null(intake);
	assert_int_equal(shared.intakes.spare_n, 1);
	expect("said a\nsaid b\n");
	end();
}

static bool needed;

static bool not_needed(const struct connection *c)
{
	(void)c;
	return !needed;
}

static void what_its_session_keeps_there_stays_as_long_as_that_needs_it(void **state)
{
	static const struct intake_use needy = { .take = take, .idle = not_needed };

	(void)state;
	begin();
	end();
	needed = true;
	assert_true(intake_take(&intake, &connection, &needy));
	say("say a\n");
	assert_non_null(intake);
	needed = false;
	intake_resume(intake);
	assert_null(intake);
	expect("said a\n");
	end();
}

static void who_waits_keeps_it(void **state)
{
	(void)state;
	begin();
	say("hold\n");
	assert_non_null(intake);
	intake_resume(intake);
	assert_null(intake);
	congested = true;
	say("pub a 1\n1");
	assert_true(connection.socket.paused);
	assert_non_null(intake);
	list_remove(&connection.waiting);
	intake_resume(intake);
	assert_false(connection.socket.paused);
	assert_null(intake);
	end();
}

static void what_stands_behind_a_hold_waits_for_a_resume(void **state)
{
	(void)state;
	begin();
	say("say a\nhold\nsay b\nsa");
	expect("said a\n");
	say("y c\n");
	expect("");
	intake_resume(intake);
	expect("said b\nsaid c\n");
	end();
}

static void a_client_whose_commands_have_to_wait_is_not_received_from(void **state)
{
	char text[1001];

	(void)state;
	begin();
	say("hold\n");
	memset(text, 'x', 1000);
	memcpy(text, "say ", 4);
	text[999] = '\n';
	text[1000] = 0;
	for (unsigned i = 0; i < INTAKE_WAITING_BYTES / 1000; i++) {
		say(text);
		assert_false(connection.socket.paused);
	}
	say(text);
	assert_true(connection.socket.paused);
	assert_true(held() >= INTAKE_WAITING_BYTES);
	intake_resume(intake);
	assert_false(connection.socket.paused);
	assert_null(intake);
	end();
}

static void a_long_beginning_of_a_command_does_not_stop_the_rest_of_it(void **state)
{
	char *text = malloc(300000);

	(void)state;
	begin();
	memset(text, 'x', 300000);
	memcpy(text, "say ", 4);
	text[299999] = '\n';
	receive(text, 200000);
	assert_false(connection.socket.paused);
	receive(text + 200000, 100000);
	assert_int_equal(told_n, 300000 + 1);
	free(text);
	end();
}

static void what_comes_behind_the_end_is_thrown_away(void **state)
{
	(void)state;
	begin();
	say("say a\nend\nsay b\n");
	expect("said a\n");
	assert_int_equal(held(), 0);
	end();
}

static void a_client_that_takes_no_replies_gets_nothing_done(void **state)
{
	(void)state;
	begin();
	connection.output = &(struct output){ .len = 256 << 10 };
	say("say a\n");
	expect("");
	connection.output = NULL;
	intake_resume(intake);
	expect("said a\n");
	end();
}

static void goodbye_comes_behind_everything(void **state)
{
	(void)state;
	begin();
	say("hold\nsay a\nsay");
	intake_ended(intake);
	assert_int_equal(goodbyes, 1); /* intake_ended resumes what was held */
	expect("said a\n");
	end();
	begin();
	connection.output = &(struct output){ .len = 256 << 10 };
	say("say a\n");
	intake_ended(intake);
	assert_int_equal(goodbyes, 0);
	connection.output = NULL;
	intake_resume(intake);
	assert_int_equal(goodbyes, 1);
	expect("said a\n");
	end();
}

/* ---- turns ---- */

static void when_time_is_over_the_rest_waits_for_its_turn(void **state)
{
	(void)state;
	begin();
	spent = true;
	shard.reactor.turn.unlooked = 0;
	say("say a\nsay b\nsay c\n");
	expect("said a\n");
	say("say d\n");
	expect("");
	shard.reactor.turn.unlooked = 0;
	spent = false;
	assert_false(intakes_go_on(&shard));
	expect("said b\nsaid c\nsaid d\n");
	assert_false(intakes_go_on(&shard));
	end();
}

static void a_command_may_take_several_turns(void **state)
{
	(void)state;
	begin();
	say("in pieces\nsay a\nin pie");
	expect("a piece\na piece\nsaid a\n");
	spent = true;
	shard.reactor.turn.unlooked = 0;
	say("ces\nsay b\n");
	expect("a piece\n");
	intake_resume(intake);
	expect("");
	spent = false;
	assert_false(intakes_go_on(&shard));
	expect("a piece\nsaid b\n");
	end();
}

static void goodbye_waits_for_what_has_its_turn_later(void **state)
{
	(void)state;
	begin();
	spent = true;
	shard.reactor.turn.unlooked = 0;
	say("say a\nsay b\n");
	intake_ended(intake);
	assert_int_equal(goodbyes, 0);
	spent = false;
	assert_false(intakes_go_on(&shard));
	expect("said a\nsaid b\n");
	assert_int_equal(goodbyes, 1);
	end();
}

static void publishing_that_has_to_wait_holds_the_rest_back(void **state)
{
	(void)state;
	begin();
	congested = true;
	collect_from = 1;
	say("pub a 2\nxypub b 2\nzw");
	expect("published xy\n");
	list_remove(&connection.waiting);
	connection.socket.paused = false;
	congested = false;
	intake_resume(intake);
	expect("published zw\n");
	end();
}

/* ---- work that is not done twice ---- */

static void bytes_that_come_one_by_one_are_not_moved_each_time(void **state)
{
	enum { BYTES = 20000 };
	char *text = malloc(BYTES);

	(void)state;
	begin();
	collect_from = SIZE_MAX;
	snprintf(text, BYTES, "pub t %d\n", BYTES - 12);
	memset(text + 12, 'p', BYTES - 12);
	for (size_t i = 0; i < BYTES; i++)
		receive(text + i, 1);
	assert_int_equal(messages, 1);
	/* The line byte by byte, and then once for all of the rest. */
	assert_int_equal(takes, 13);
	free(text);
	end();
}

static void little_is_joined_to_the_beginning_of_a_command(void **state)
{
	static char text[16 << 10];
	size_t n = 0;

	(void)state;
	begin();
	while (n + 40 < sizeof(text))
		n += (size_t)snprintf(text + n, sizeof(text) - n, "pub t 20\n%020zu", n);
	receive(text, 5);
	taken_most = 0;
	given = 0;
	receive(text + 5, n - 5);
	assert_true(taken_most > 256 + 5);
	assert_int_equal(blocks, 1);
	assert_true(messages > 500);
	assert_int_equal(held(), 0);
	end();
}

/* ---- payloads ---- */

static void a_payload_is_collected_as_it_comes(void **state)
{
	char payload[5001];

	(void)state;
	begin();
	memset(payload, 'p', 5000);
	payload[5000] = 0;
	say("pub t 5000\n");
	assert_non_null(intake->block);
	for (unsigned i = 0; i < 5000; i += 1000) {
		assert_non_null(intake);
		receive(payload + i, 1000);
	}
	assert_int_equal(messages, 1);
	assert_int_equal(told_n, 5000 + 11);
	assert_null(intake);
	say("say a\n");
	assert_int_equal(told_n, 5000 + 11 + 7);
	end();
}

static void what_is_announced_costs_nothing_before_it_comes(void **state)
{
	static char payload[1 << 20];
	size_t come = 0;

	(void)state;
	begin();
	memset(payload, 'p', sizeof(payload));
	say("pub t 60000000\n");
	assert_true(held() < 256 << 10);
	while (come < sizeof(payload)) {
		size_t n = connection.socket.into != NULL ? connection.socket.into_len : 16 << 10;
		char *into = connection.socket.into;

		n = n < sizeof(payload) - come ? n : sizeof(payload) - come;
		connection.socket.into = NULL;
		if (into != NULL)
			memcpy(into, payload + come, n);
		receive(into != NULL ? into : payload + come, n);
		come += n;
		assert_true(held() <= 2 * come + (256 << 10));
	}
	end();
}

static void a_long_payload_is_received_where_it_belongs(void **state)
{
	enum { BYTES = 1 << 20 };
	size_t left = BYTES;
	char *into;

	(void)state;
	begin();
	say("pub t 1048576\n");
	while (left > 0) {
		size_t n = connection.socket.into_len;

		into = connection.socket.into;
		assert_non_null(into);
		assert_true(n <= left);
		memset(into, 'p', n);
		connection.socket.into = NULL;
		receive(into, n);
		left -= n;
		if (left < config.engine.recv_buffer_bytes)
			break;
	}
	while (left > 0) {
		assert_null(connection.socket.into);
		say("p");
		left--;
	}
	assert_int_equal(messages, 1);
	end();
}

static void what_comes_wrapped_is_not_received_in_place(void **state)
{
	(void)state;
	begin();
	intake->wrapped = true;
	say("pub t 1048576\n");
	assert_null(connection.socket.into);
	end();
}

static void random_commands_in_random_pieces_do_the_same(void **state)
{
	static char text[100000], whole[sizeof(told)];
	size_t n, whole_n;

	(void)state;
	for (unsigned round = 0; round < 200; round++) {
		for (n = 0; n < sizeof(text) - 3000;) {
			size_t bytes = below(20) == 0 ? below(2000) : below(150);

			if (below(4) == 0) {
				n += (size_t)snprintf(text + n, 40, "say %zu\n", n);
				continue;
			}
			n += (size_t)snprintf(text + n, 40, "pub %c %zu\n", 'a' + (int)below(2),
					      bytes);
			for (; bytes > 0; bytes--)
				text[n++] = (char)('0' + (int)below(60));
		}
		begin();
		receive(text, n);
		assert_null(intake);
		end();
		whole_n = told_n;
		memcpy(whole, told, told_n);
		begin();
		for (size_t at = 0, piece; at < n; at += piece) {
			piece = 1 + below(below(3) == 0 ? 20 : 3000);
			piece = piece < n - at ? piece : n - at;
			spent = below(3) == 0;
			shard.reactor.turn.unlooked = (int64_t)below(50);
			receive(text + at, piece);
			spent = false;
			if (below(3) == 0)
				(void)intakes_go_on(&shard);
		}
		while (intakes_go_on(&shard))
			;
		assert_null(intake);
		assert_int_equal(told_n, whole_n);
		assert_memory_equal(told, whole, told_n);
		end();
	}
}

/* ---- gathering ---- */

static void messages_for_one_topic_become_one_block(void **state)
{
	(void)state;
	begin();
	say("pub a 1\n1pub a 1\n2pub b 1\n3pub a 1\n4");
	expect("published 1\npublished 2\npublished 3\npublished 4\n");
	assert_int_equal(blocks, 3);
	end();
}

static void publish_many(size_t bytes, unsigned n)
{
	char *text = malloc((bytes + 30) * n), *at = text;

	for (unsigned i = 0; i < n; i++) {
		at += sprintf(at, "pub a %zu\n", bytes);
		memset(at, 'p', bytes);
		at += bytes;
	}
	receive(text, (size_t)(at - text));
	free(text);
}

static void no_more_are_together_than_may_be(void **state)
{
	(void)state;
	begin();
	collect_from = SIZE_MAX;
	publish_many(100000, 5);
	assert_int_equal(messages, 5);
	assert_int_equal(blocks, 3);
	end();
}

static enum run_form form_seen;
static uint32_t messages_seen;

static void look(struct connection *c, struct block *b)
{
	(void)c;
	form_seen = b->form;
	messages_seen = b->messages;
}

static void a_message_alone_is_a_block_of_one_unless_it_has_more_to_say(void **state)
{
	const struct record plain = { .payload = SPAN("hello") };
	const struct record asks = { .payload = SPAN("hello"), .reply = SPAN("inbox") };

	(void)state;
	begin();
	gather_begin(&connection, look);
	assert_int_equal(gather_add(&connection, SPAN("a"), &plain), 0);
	gather_flush(&connection);
	assert_int_equal(form_seen, RUN_ONE);
	expect("published hello\n");
	assert_int_equal(gather_add(&connection, SPAN("a"), &asks), 0);
	gather_flush(&connection);
	assert_int_equal(form_seen, RUN_RECORDS);
	expect("published hello\nwith reply inbox\n");
	assert_int_equal(gather_add(&connection, SPAN("a"), &plain), 0);
	assert_int_equal(gather_add(&connection, SPAN("a"), &plain), 0);
	gather_end(&connection);
	assert_int_equal(form_seen, RUN_RECORDS);
	assert_int_equal(messages_seen, 2);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(commands_are_done_in_order_however_they_come),
		cmocka_unit_test(what_was_kept_before_it_was_known_for_whom_comes_first),
		cmocka_unit_test(an_intake_that_is_of_no_use_is_the_next_ones),
		cmocka_unit_test(what_its_session_keeps_there_stays_as_long_as_that_needs_it),
		cmocka_unit_test(who_waits_keeps_it),
		cmocka_unit_test(what_stands_behind_a_hold_waits_for_a_resume),
		cmocka_unit_test(a_client_whose_commands_have_to_wait_is_not_received_from),
		cmocka_unit_test(a_long_beginning_of_a_command_does_not_stop_the_rest_of_it),
		cmocka_unit_test(what_comes_behind_the_end_is_thrown_away),
		cmocka_unit_test(a_client_that_takes_no_replies_gets_nothing_done),
		cmocka_unit_test(goodbye_comes_behind_everything),
		cmocka_unit_test(when_time_is_over_the_rest_waits_for_its_turn),
		cmocka_unit_test(a_command_may_take_several_turns),
		cmocka_unit_test(goodbye_waits_for_what_has_its_turn_later),
		cmocka_unit_test(publishing_that_has_to_wait_holds_the_rest_back),
		cmocka_unit_test(bytes_that_come_one_by_one_are_not_moved_each_time),
		cmocka_unit_test(little_is_joined_to_the_beginning_of_a_command),
		cmocka_unit_test(a_payload_is_collected_as_it_comes),
		cmocka_unit_test(what_is_announced_costs_nothing_before_it_comes),
		cmocka_unit_test(a_long_payload_is_received_where_it_belongs),
		cmocka_unit_test(what_comes_wrapped_is_not_received_in_place),
		cmocka_unit_test(random_commands_in_random_pieces_do_the_same),
		cmocka_unit_test(messages_for_one_topic_become_one_block),
		cmocka_unit_test(no_more_are_together_than_may_be),
		cmocka_unit_test(a_message_alone_is_a_block_of_one_unless_it_has_more_to_say),
	};

	hash_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
