#include "session/resp.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/memory.h"
#include "broker/census.h"
#include "broker/shard.h"
#include "engine/ring.h"
#include "session/gather.h"
#include "session/shared.h"
#include "topic/block.h"

enum {
	REPLY_BYTES = 512, /* of most replies */
	ERROR_BYTES_MAX = 512,
	ARGUMENTS_BYTES_MAX = 128,    /* of an unknown command's, that are repeated */
	COLLECT_BYTES_MIN = 16 << 10, /* of a payload that goes straight into its block */
	COLLECT_BYTES = 64 << 10,     /* that it has room for at first */
	END_BYTES = 2,                /* CR LF behind a word */
	FULL_NAME_BYTES = 64,
	VERBS = 19,
};

#define NOAUTH "-NOAUTH Authentication required."
#define WRONGPASS "-WRONGPASS invalid username-password pair or user is disabled."

/* ---- replies ---- */

__attribute__((format(printf, 2, 3))) static void error(struct connection *c, const char *format,
							...)
{
	char text[ERROR_BYTES_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	resp_error(c, text);
}

static void ok(struct connection *c)
{
	(void)resp_reply(c, SPAN("+OK\r\n"));
}

static void bulk(struct connection *c, struct span text)
{
	(void)resp_bulk(c, text);
}

static void nothing(struct connection *c)
{
	char text[RESP_HEAD_BYTES_MAX];
	size_t n = (size_t)(resp_put_null(text, resp_of(c)->version) - text);

	(void)resp_reply(c, (struct span){ text, n });
}

static void number(struct connection *c, uint64_t n)
{
	char text[RESP_HEAD_BYTES_MAX];

	(void)resp_reply(c, (struct span){ text, (size_t)(resp_put_head(text, ':', n) - text) });
}

/* ---- who it is ---- */

static void set_name(struct connection *c, struct span name)
{
	struct resp_client *r = resp_of(c);
	char *own = NULL;

	if (name.len > 0) {
		own = memory_new(name.len + 1);
		if (own == NULL) {
			connection_close(c, DROP_MEMORY);
			return;
		}
		memcpy(own, name.data, name.len);
		own[name.len] = 0;
	}
	memory_free(r->name);
	r->name = own;
}

/* Asks whether a user and a password are right. DONE: r->work->login says so. */
static enum resp_done login(struct connection *c, struct span user, struct span secret)
{
	struct resp_client *r = resp_of(c);

	if (r->work->step == 1)
		return RESP_DONE;
	r->work->step = 1;
	if (access_open(c)) {
		r->work->login = resp_is(user, "default") ? ACCESS_GRANTED : ACCESS_WRONG;
		return RESP_DONE;
	}
	/* A token is nobody's by name. */
	if (resp_is(user, "default"))
		user.len = 0;
	r->work->step = 2;
	access_login(c, &(struct credentials){ .user = user, .secret = secret });
	return r->work->step == 1 ? RESP_DONE : RESP_WAITS;
}

void resp_session_logged_in(struct connection *c, enum access_result result)
{
	struct resp_client *r = resp_of(c);

	r->work->login = (uint8_t)result;
	r->work->step = 1;
}

/* Whether it has come in; else it has been told. Where credentials are asked for, whoever has wrong
 * ones is closed. */
static bool is_in(struct connection *c)
{
	struct resp_client *r = resp_of(c);

	if (r->work->login == ACCESS_GRANTED)
		return true;
	if (r->work->login == ACCESS_WRONG)
		resp_error(c, WRONGPASS);
	if (!access_open(c) && c->state == CONNECTION_OPEN)
		connection_finish(c, NULL);
	return false;
}

static enum resp_done run_auth(struct connection *c, struct resp_words words)
{
	struct resp_login l;
	const char *wrong = resp_auth(words.rest, words.n, !access_open(c), &l);

	if (wrong != NULL) {
		resp_error(c, wrong);
		return RESP_DONE;
	}
	if (login(c, l.user, l.secret) != RESP_DONE)
		return RESP_WAITS;
	if (is_in(c))
		ok(c);
	return RESP_DONE;
}

static void tell_hello(struct connection *c)
{
	struct resp_client *r = resp_of(c);
	char text[REPLY_BYTES], *at = text;

	at = r->version == RESP_3 ? resp_put_head(at, '%', 7) : resp_put_head(at, '*', 14);
	at = resp_put_bulk(at, SPAN("server"));
	at = resp_put_bulk(at, SPAN("broker"));
	at = resp_put_bulk(at, SPAN("version"));
	at = resp_put_bulk(at, SPAN(RESP_SERVER_VERSION));
	at = resp_put_bulk(at, SPAN("proto"));
	at = resp_put_head(at, ':', r->version);
	at = resp_put_bulk(at, SPAN("id"));
	at = resp_put_head(at, ':', resp_id(r));
	at = resp_put_bulk(at, SPAN("mode"));
	at = resp_put_bulk(at, SPAN("standalone"));
	at = resp_put_bulk(at, SPAN("role"));
	at = resp_put_bulk(at, SPAN("master"));
	at = resp_put_bulk(at, SPAN("modules"));
	at = resp_put_head(at, '*', 0);
	(void)resp_reply(c, (struct span){ text, (size_t)(at - text) });
}

static enum resp_done run_hello(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	char text[RESP_WRONG_BYTES_MAX];
	struct resp_hello h;
	const char *wrong = resp_hello(words.rest, words.n, &h, text);

	if (wrong != NULL) {
		resp_error(c, wrong);
		return RESP_DONE;
	}
	if (h.login.given) {
		if (login(c, h.login.user, h.login.secret) != RESP_DONE)
			return RESP_WAITS;
		if (!is_in(c))
			return RESP_DONE;
	} else if (access_needed(c)) {
		resp_error(c,
			   "-NOAUTH HELLO must be called with the client already authenticated, "
			   "otherwise the HELLO <proto> AUTH <user> <pass> option can be used to "
			   "authenticate the client and select the RESP protocol version at the "
			   "same time");
		return RESP_DONE;
	}
	if (h.names)
		set_name(c, h.name);
	if (c->state == CONNECTION_CLOSED)
		return RESP_DONE;
	if (h.version != 0)
		r->version = h.version;
	tell_hello(c);
	return RESP_DONE;
}

/* ---- small commands ---- */

static enum resp_done run_ping(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);
	struct span text = words.n > 0 ? resp_word(&words) : (struct span){ NULL, 0 };

	if (words.n > 0) {
		resp_error(c, "-ERR wrong number of arguments for 'ping' command");
	} else if (r->version == RESP_2 &&
		   resp_count(r, RESP_MESSAGE) + resp_count(r, RESP_SMESSAGE) > 0) {
		if (resp_reply(c, SPAN("*2\r\n$4\r\npong\r\n")))
			bulk(c, text);
	} else if (text.data == NULL) {
		(void)resp_reply(c, SPAN("+PONG\r\n"));
	} else {
		bulk(c, text);
	}
	return RESP_DONE;
}

static enum resp_done run_echo(struct connection *c, struct resp_words words)
{
	bulk(c, resp_word(&words));
	return RESP_DONE;
}

static enum resp_done run_select(struct connection *c, struct resp_words words)
{
	struct span db = resp_word(&words), number = db;
	size_t digits = 0;

	if (db.len > 0 && db.data[0] == '-')
		number = span_skip(db, 1);
	while (digits < number.len && isdigit((unsigned char)number.data[digits]))
		digits++;
	if (span_equal(db, SPAN("0")))
		ok(c);
	else if (digits == number.len && digits > 0 && digits < 10 && number.data[0] != '0')
		resp_error(c, "-ERR DB index is out of range");
	else
		resp_error(c, "-ERR value is not an integer or out of range");
	return RESP_DONE;
}

static enum resp_done run_command(struct connection *c, struct resp_words words)
{
	struct span what = words.n > 0 ? resp_word(&words) : SPAN("");

	if (resp_is(what, "count"))
		number(c, VERBS);
	else if (resp_is(what, "docs") && resp_of(c)->version == RESP_3)
		(void)resp_reply(c, SPAN("%0\r\n"));
	else if (what.len == 0 || resp_is(what, "docs") || resp_is(what, "info") ||
		 resp_is(what, "list"))
		(void)resp_reply(c, SPAN("*0\r\n"));
	else
		error(c, "-ERR unknown subcommand '%.*s'. Try COMMAND HELP.",
		      (int)(what.len < 128 ? what.len : 128), what.data);
	return RESP_DONE;
}

static void put_address(const struct connection *c, char *out, size_t size)
{
	unsigned char address[16];

	ring_peer(c->shard->reactor.ring, c->socket.fd, address);
	if (c->proxied)
		memcpy(address, c->address, sizeof(address));
	if (address[10] == 0xff && address[11] == 0xff)
		inet_ntop(AF_INET, address + 12, out, (socklen_t)size);
	else
		inet_ntop(AF_INET6, address, out, (socklen_t)size);
}

static void tell_client(struct connection *c)
{
	const struct resp_client *r = resp_of(c);
	char text[REPLY_BYTES + RESP_NAME_BYTES_MAX], address[64];
	int n;

	put_address(c, address, sizeof(address));
	n = snprintf(text, sizeof(text),
		     "id=%" PRIu64 " addr=%s:0 name=%s db=0 sub=%" PRIu32 " psub=%" PRIu32
		     " ssub=%" PRIu32 " resp=%u\n",
		     resp_id(r), address, r->name != NULL ? r->name : "",
		     r->subscribed->counts[RESP_MESSAGE], r->subscribed->counts[RESP_PMESSAGE],
		     r->subscribed->counts[RESP_SMESSAGE], r->version);
	bulk(c, (struct span){ text, (size_t)n });
}

static enum resp_done run_client(struct connection *c, struct resp_words words)
{
	static const struct {
		const char *name;
		uint32_t words;
	} known[] = {
		{ "setname", 1 }, { "getname", 0 }, { "id", 0 }, { "setinfo", 2 }, { "info", 0 }
	};
	struct resp_client *r = resp_of(c);
	struct span what = resp_word(&words);
	size_t i = 0;

	while (i < sizeof(known) / sizeof(*known) && !resp_is(what, known[i].name))
		i++;
	if (i == sizeof(known) / sizeof(*known)) {
		error(c, "-ERR unknown subcommand '%.*s'. Try CLIENT HELP.",
		      (int)(what.len < 128 ? what.len : 128), what.data);
	} else if (words.n != known[i].words) {
		error(c, "-ERR wrong number of arguments for 'client|%s' command", known[i].name);
	} else if (resp_is(what, "setname")) {
		struct span name = resp_word(&words);

		if (!resp_client_name_valid(name)) {
			resp_error(c, RESP_BAD_CLIENT_NAME);
			return RESP_DONE;
		}
		set_name(c, name);
		if (c->state == CONNECTION_OPEN)
			ok(c);
	} else if (resp_is(what, "getname") && r->name != NULL) {
		bulk(c, span_of(r->name));
	} else if (resp_is(what, "getname")) {
		nothing(c);
	} else if (resp_is(what, "id")) {
		number(c, resp_id(r));
	} else if (resp_is(what, "setinfo")) {
		ok(c);
	} else {
		tell_client(c);
	}
	return RESP_DONE;
}

static enum resp_done run_reset(struct connection *c, struct resp_words words)
{
	struct resp_client *r = resp_of(c);

	(void)words;
	if (!resp_end_subscriptions(c))
		return resp_ends_are_due(c) ? RESP_WAITS : RESP_AGAIN;
	access_logout(c);
	set_name(c, SPAN(""));
	r->version = RESP_2;
	(void)resp_reply(c, SPAN("+RESET\r\n"));
	return RESP_DONE;
}

static enum resp_done run_quit(struct connection *c, struct resp_words words)
{
	(void)words;
	if (resp_reply(c, SPAN("+OK\r\n")))
		connection_finish(c, NULL);
	return RESP_DONE;
}

/* Its name is the first of the words. */
static enum resp_done run_unknown(struct connection *c, struct resp_words words)
{
	char arguments[ARGUMENTS_BYTES_MAX + 8];
	struct span name = resp_word(&words);
	size_t n = 0;

	while (words.n > 0 && n < ARGUMENTS_BYTES_MAX) {
		struct span word = resp_word(&words);
		size_t room = ARGUMENTS_BYTES_MAX - n;
		size_t len = strnlen(word.data, word.len < room ? word.len : room);

		arguments[n++] = '\'';
		memcpy(arguments + n, word.data, len);
		n += len;
		memcpy(arguments + n, "' ", 2);
		n += 2;
	}
	error(c, "-ERR unknown command '%.*s', with args beginning with: %.*s",
	      (int)(name.len < 128 ? name.len : 128), name.data, (int)n, arguments);
	return RESP_DONE;
}

/* Redis may know it: its name is the first of the words. */
static const struct resp_verb unknown = {
	.name = "", .words = -1, .has_parts = true, .before_known = true, .run = run_unknown
};

static const struct resp_verb verbs[VERBS] = {
	{ "publish", 3, .publishes = true, .run = resp_publish },
	{ "spublish", 3, .publishes = true, .run = resp_publish },
	{ "ping", -1, .while_subscribed = true, .run = run_ping },
	{ "echo", 2, .run = run_echo },
	{ "subscribe", -2, .while_subscribed = true, .push = RESP_MESSAGE, .run = resp_subscribe },
	{ "ssubscribe", -2, .while_subscribed = true, .push = RESP_SMESSAGE,
	  .run = resp_subscribe },
	{ "psubscribe", -2, .while_subscribed = true, .push = RESP_PMESSAGE,
	  .run = resp_subscribe },
	{ "punsubscribe", -1, .while_subscribed = true, .push = RESP_PMESSAGE,
	  .run = resp_unsubscribe },
	{ "unsubscribe", -1, .while_subscribed = true, .push = RESP_MESSAGE,
	  .run = resp_unsubscribe },
	{ "sunsubscribe", -1, .while_subscribed = true, .push = RESP_SMESSAGE,
	  .run = resp_unsubscribe },
	{ "pubsub", -2, .has_parts = true, .run = resp_pubsub },
	{ "info", -1, .run = resp_info },
	{ "client", -2, .has_parts = true, .run = run_client },
	{ "hello", -1, .before_known = true, .run = run_hello },
	{ "auth", -2, .before_known = true, .run = run_auth },
	{ "select", 2, .run = run_select },
	{ "command", -1, .has_parts = true, .run = run_command },
	{ "reset", 1, .while_subscribed = true, .before_known = true, .run = run_reset },
	{ "quit", -1, .while_subscribed = true, .before_known = true, .run = run_quit },
};

/* ---- commands, one by one ---- */

/* "client|id": with the second word, where that is part of the name. */
static void put_full_name(char out[FULL_NAME_BYTES], const struct resp_verb *verb,
			  struct resp_words words)
{
	int n = snprintf(out, FULL_NAME_BYTES, "%s", verb->name);
	struct span part;

	if (!verb->has_parts || words.n == 0)
		return;
	part = resp_word(&words);
	if (n > 0)
		out[n++] = '|';
	for (size_t i = 0; i < part.len && n < FULL_NAME_BYTES - 1; i++)
		out[n++] = (char)tolower((unsigned char)part.data[i]);
	out[n] = '\0';
}

/* Why it is not done, in text; NULL: it may be. words: behind its name. */
static const char *refused(struct connection *c, const struct resp_verb *verb,
			   struct resp_words words, char text[ERROR_BYTES_MAX])
{
	struct resp_client *r = resp_of(c);
	char name[FULL_NAME_BYTES];
	bool fits = verb->words >= 0 ? words.n + 1 == (uint32_t)verb->words
				     : words.n + 1 >= (uint32_t)-verb->words;

	if (!fits) {
		snprintf(text, ERROR_BYTES_MAX, "-ERR wrong number of arguments for '%s' command",
			 verb->name);
		return text;
	}
	if (!verb->before_known && access_needed(c))
		return NOAUTH;
	if (r->version == RESP_2 && !verb->while_subscribed &&
	    resp_count(r, RESP_MESSAGE) + resp_count(r, RESP_SMESSAGE) > 0) {
		put_full_name(name, verb, words);
		snprintf(text, ERROR_BYTES_MAX,
			 "-ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / "
			 "QUIT / RESET are allowed in this context",
			 name);
		return text;
	}
	return NULL;
}

static const struct resp_verb *find(struct span name)
{
	for (size_t i = 0; i < VERBS; i++)
		if (resp_is(name, verbs[i].name))
			return &verbs[i];
	return &unknown;
}

/* These words are the next command, of so many bytes. */
static void begin(struct connection *c, struct span words, uint32_t n, const char *base,
		  size_t bytes)
{
	struct resp_client *r = resp_of(c);
	struct span rest = words;

	r->work->verb = find(resp_next(&rest));
	r->work->words = n - 1;
	if (r->work->verb == &unknown) {
		rest = words;
		r->work->words = n;
	}
	r->work->at = (uint32_t)(rest.data - base);
	r->work->bytes = (uint32_t)bytes;
	r->work->end = (uint32_t)(words.data + words.len - base);
	r->work->run = NULL;
	r->work->step = r->work->asked = 0;
	r->work->looked = r->work->looked_bytes = 0;
	r->work->allowed = false;
	if (!r->spoken) {
		r->spoken = true;
		connection_limit_silence(c);
	}
}

static void end(struct resp_client *r)
{
	r->work->verb = NULL;
	memory_free(r->work->line);
	r->work->line = NULL;
}

/* The rest of a long payload goes where it belongs. Returns the bytes that are done with. */
static size_t collect(struct connection *c, const struct resp_event *e)
{
	struct resp_client *r = resp_of(c);
	struct span rest = e->rest, topic;
	size_t room = e->payload_bytes + END_BYTES;
	char text[ERROR_BYTES_MAX];
	const struct resp_verb *verb;
	struct block *b;

	if (e->payload_at == 0 || e->payload_bytes < COLLECT_BYTES_MIN || e->words != 2)
		return 0;
	verb = find(resp_next(&rest));
	topic = resp_next(&rest);
	if (!verb->publishes || refused(c, verb, (struct resp_words){ e->rest, 2 }, text) != NULL ||
	    resp_not_published(c, topic) != NULL)
		return 0;
	room = room < COLLECT_BYTES ? room : COLLECT_BYTES;
	b = block_new(topic, hash_bytes(topic.data, topic.len), room);
	if (b == NULL)
		return 0;
	r->work->decoder = (struct resp_decoder){ .words = 0 };
	intake_collect(r->intake, b, e->payload_bytes + END_BYTES);
	return e->payload_at;
}

static void collected(struct connection *c, struct block *b)
{
	if (memcmp(block_body(b) + b->len - END_BYTES, "\r\n", END_BYTES) != 0) {
		block_unref(b);
		resp_give_up(c, RESP_BAD_WORD, 0);
		return;
	}
	b->len -= END_BYTES;
	b->messages = 1;
	b->form = RUN_ONE;
	gather_block(c, b);
}

/* The words of a line, which become the next command. */
static void begin_line(struct connection *c, struct span line, size_t bytes)
{
	struct resp_client *r = resp_of(c);
	int words;
	size_t len;

	r->work->line = memory_new(resp_array_of_line_max(line));
	if (r->work->line == NULL) {
		connection_close(c, DROP_MEMORY);
		return;
	}
	words = resp_array_of_line(line, r->work->line, &len);
	if (words > 0) {
		begin(c, (struct span){ r->work->line, len }, (uint32_t)words, r->work->line,
		      bytes);
		return;
	}
	end(r);
	resp_give_up(c, RESP_QUOTES, 0);
}

/* Reads the next command. Returns how many bytes are done with already. */
static size_t read_command(struct connection *c, struct span bytes)
{
	struct resp_client *r = resp_of(c);
	const struct resp_limits limits = { .word_bytes = c->shard->config->limits.message_bytes,
					    .unknown = access_needed(c) };
	struct resp_event e;
	size_t used;

	resp_decode(&r->work->decoder, bytes, &limits, &e, &used);
	switch (e.kind) {
	case RESP_NOTHING:
		return used;
	case RESP_COMMAND:
		begin(c, e.rest, e.words, bytes.data, used);
		return 0;
	case RESP_LINE:
		begin_line(c, e.rest, used);
		return 0;
	case RESP_ERROR:
		resp_give_up(c, e.error, e.got);
		return 0;
	case RESP_MORE:
	default:
		return collect(c, &e);
	}
}

/* Goes on with the command that has begun. */
static enum resp_done go_on(struct connection *c, struct span bytes)
{
	struct resp_client *r = resp_of(c);
	const char *base = r->work->line != NULL ? r->work->line : bytes.data;
	struct resp_words words = { { base + r->work->at, r->work->end - r->work->at },
				    r->work->words };
	char text[ERROR_BYTES_MAX];
	const char *why;

	if (connection_refused(c) || c->late) {
		connection_refuse(c);
		return RESP_DONE;
	}
	if (!r->work->verb->publishes && !resp_caught_up(c))
		return RESP_WAITS;
	/* It would be counted and reach nobody. */
	if (r->work->verb->publishes && c->shard->drain.draining)
		return RESP_WAITS;
	if (!r->work->allowed) {
		why = refused(c, r->work->verb, words, text);
		if (why != NULL && !resp_caught_up(c))
			return RESP_WAITS;
		if (why != NULL) {
			resp_error(c, why);
			return RESP_DONE;
		}
		r->work->allowed = true;
	}
	return r->work->verb->run(c, words);
}

static size_t take(struct connection *c, struct span bytes)
{
	struct resp_client *r = resp_of(c);
	size_t used;

	if (r->work->lost) {
		connection_close(c, DROP_MEMORY);
		return 0;
	}
	if (r->work->ends) {
		intake_hold(r->intake);
		return 0;
	}
	if (r->work->verb == NULL) {
		used = read_command(c, bytes);
		if (r->work->verb == NULL)
			return used;
	}
	switch (go_on(c, bytes)) {
	case RESP_AGAIN:
		intake_again(r->intake);
		return 0;
	case RESP_WAITS:
		intake_hold(r->intake);
		return 0;
	case RESP_DONE:
	default:
		break;
	}
	used = r->work->bytes;
	if (r->work->verb->publishes && r->work->allowed && r->work->line == NULL &&
	    c->state == CONNECTION_OPEN)
		used += resp_publish_alike(c, bytes, used,
					   (struct resp_words){ { bytes.data + r->work->at,
								  r->work->end - r->work->at },
								r->work->words });
	end(r);
	return used;
}

/* ---- the connection ---- */

/* All that was said has been answered. */
static bool idle(const struct connection *c)
{
	const struct resp_work *w = resp_of(c)->work;

	return w->verb == NULL && w->published_n == 0 && !w->ends && !w->lost &&
	       w->decoder.words == 0;
}

static void release(struct intake *in)
{
	struct resp_work *w = (struct resp_work *)(void *)in;

	memory_free(w->line);
	memory_free(w->published);
	if (w->census != NULL)
		census_letter_free(w->census);
}

static const struct intake_use use = { .take = take,
				       .collected = collected,
				       .publishing = resp_publishing,
				       .idle = idle,
				       .release = release };

static bool open_session(struct connection *c)
{
	struct resp_client *r = resp_of(c);
	uint64_t id;

	r->subscribed = memory_new_zeroed(sizeof(*r->subscribed));
	if (r->subscribed == NULL) {
		connection_close(c, DROP_MEMORY);
		return false;
	}
	id = 1 + atomic_fetch_add(&c->shard->broker->client_ids, 1);
	r->id = (uint32_t)id;
	r->id_upper = (uint16_t)(id >> 32);
	r->version = RESP_2;
	return true;
}

void resp_session_received(struct connection *c, struct span bytes)
{
	struct resp_client *r = resp_of(c);

	if ((r->subscribed != NULL || open_session(c)) && intake_take(&r->intake, c, &use))
		intake_received(r->intake, bytes);
}

void resp_session_ended(struct connection *c)
{
	if (resp_of(c)->intake != NULL)
		intake_ended(resp_of(c)->intake);
	else
		connection_goodbye(c);
}

/* The command that waits for it goes on with its connection. */
void resp_session_barrier(struct connection *c)
{
	(void)c;
}

void resp_session_resume(struct connection *c)
{
	intake_resume(resp_of(c)->intake);
}

/* Who is refused at the door is told so, in words that clients know, for he has said something and
 * waits for an answer. Whoever has been served is just closed: to what nobody has asked for there
 * is no answer, and clients come again. */
const char *resp_session_say(struct connection *c, enum reason reason)
{
	if (c->counts != COUNTS_AS_REFUSED)
		return NULL;
	return reason == REASON_DRAINING ? "-ERR draining\r\n"
					 : "-ERR max number of clients reached\r\n";
}

const char *resp_session_farewell(const struct connection *c, bool bye)
{
	(void)c;
	(void)bye;
	return NULL;
}

bool resp_session_silent(const struct connection *c)
{
	return resp_of(c)->spoken;
}

uint64_t resp_session_held(const struct connection *c)
{
	const struct resp_client *r = resp_of(c);

	return r->intake != NULL ? intake_held(r->intake) : 0;
}

void resp_session_free(struct connection *c)
{
	struct resp_client *r = resp_of(c);

	intake_give_back(r->intake);
	resp_subscriptions_free(r);
	memory_free(r->name);
	r->name = NULL;
}
