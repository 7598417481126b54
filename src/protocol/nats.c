#include "protocol/nats.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/name.h"

enum { WORDS_MAX = 5, NUMBER_DIGITS_MAX = 9 };

/* ---- lines ---- */

struct verb {
	struct span word;
	int kind; /* of the one role's events or the other's */
	bool headers;
	bool alone; /* whatever may follow at once */
};

/* What clients say. */
static const struct verb verbs[] = {
	{ { "PUB", 3 }, NATS_PUBLISH, .headers = false },
	{ { "HPUB", 4 }, NATS_PUBLISH, .headers = true },
	{ { "SUB", 3 }, NATS_SUBSCRIBE, .headers = false },
	{ { "UNSUB", 5 }, NATS_UNSUBSCRIBE, .headers = false },
	{ { "PING", 4 }, NATS_PING, .alone = true },
	{ { "PONG", 4 }, NATS_PONG, .alone = true },
	{ { "CONNECT", 7 }, NATS_CONNECT, .alone = true },
};
enum { VERBS_N = sizeof(verbs) / sizeof(*verbs) };

/* What servers say. */
static const struct verb server_verbs[] = {
	{ { "MSG", 3 }, NATS_SAID_MESSAGE, .headers = false },
	{ { "HMSG", 4 }, NATS_SAID_MESSAGE, .headers = true },
	{ { "PING", 4 }, NATS_SAID_PING, .alone = true },
	{ { "PONG", 4 }, NATS_SAID_PONG, .alone = true },
	{ { "+OK", 3 }, NATS_SAID_OK, .alone = true },
	{ { "-ERR", 4 }, NATS_SAID_ERROR, .alone = true },
	{ { "INFO", 4 }, NATS_SAID_INFO, .alone = true },
};
enum { SERVER_VERBS_N = sizeof(server_verbs) / sizeof(*server_verbs) };

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Whether the line begins with the verb, or is the beginning of it. */
static bool has_verb(struct span line, const struct verb *v, bool whole)
{
	size_t n = line.len < v->word.len ? line.len : v->word.len;

	if (strncasecmp(line.data, v->word.data, n) != 0 || (whole && n < v->word.len))
		return false;
	return v->alone || line.len == n || is_space(line.data[n]);
}

static const struct verb *verb_of(struct span line, bool whole, const struct verb *all, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (has_verb(line, &all[i], whole))
			return &all[i];
	return NULL;
}

/* Words parted by spaces; returns how many, WORDS_MAX where there are more. */
static unsigned split(struct span line, struct span words[WORDS_MAX])
{
	const char *p = line.data, *end = p + line.len;
	unsigned n = 0;

	while (n < WORDS_MAX) {
		while (p < end && is_space(*p))
			p++;
		if (p == end)
			break;
		words[n].data = p;
		while (p < end && !is_space(*p))
			p++;
		words[n].len = (size_t)(p - words[n].data);
		n++;
	}
	return n;
}

static bool number(struct span word, size_t *n)
{
	*n = 0;
	if (word.len == 0 || word.len > NUMBER_DIGITS_MAX)
		return false;
	for (size_t i = 0; i < word.len; i++) {
		unsigned digit = (unsigned)(unsigned char)word.data[i] - '0';

		if (digit > 9)
			return false;
		*n = *n * 10 + digit;
	}
	return true;
}

static bool parse_publish(struct nats_event *e, const struct span *words, unsigned n)
{
	/* Behind the subject, and a reply: one number or two. */
	unsigned numbers = e->headers ? 2 : 1;

	if (n != 1 + numbers && n != 2 + numbers)
		return false;
	e->subject = words[0];
	if (n == 2 + numbers)
		e->reply = words[1];
	if (e->headers && !number(words[n - 2], &e->header_bytes))
		return false;
	return number(words[n - 1], &e->bytes) && e->header_bytes <= e->bytes;
}

static bool parse_subscribe(struct nats_event *e, const struct span *words, unsigned n)
{
	if (n != 2 && n != 3)
		return false;
	e->subject = words[0];
	if (n == 3)
		e->queue = words[1];
	e->sid = words[n - 1];
	return true;
}

static bool parse_unsubscribe(struct nats_event *e, const struct span *words, unsigned n)
{
	size_t max = 0;

	if (n != 1 && n != 2)
		return false;
	e->sid = words[0];
	if (n == 2 && !number(words[1], &max))
		return false;
	e->max = max;
	return true;
}

static bool parse(struct nats_event *e, const struct verb *v, struct span rest)
{
	struct span words[WORDS_MAX];

	e->kind = (enum nats_event_kind)v->kind;
	e->headers = v->headers;
	switch (e->kind) {
	case NATS_PUBLISH:
		return parse_publish(e, words, split(rest, words));
	case NATS_SUBSCRIBE:
		return parse_subscribe(e, words, split(rest, words));
	case NATS_UNSUBSCRIBE:
		return parse_unsubscribe(e, words, split(rest, words));
	case NATS_CONNECT:
		while (rest.len > 0 && is_space(rest.data[0]))
			rest = span_skip(rest, 1);
		e->text = rest;
		return true;
	case NATS_PING:
	case NATS_PONG:
	case NATS_MORE:
	case NATS_ERROR:
	default:
		return true;
	}
}

static void fail(struct nats_event *e, const char *text)
{
	*e = (struct nats_event){ .kind = NATS_ERROR, .text = span_of(text) };
}

/* The line that begins the bytes, as far as it is there, and how many bytes it takes with its end;
 * 0: that is not there. False: it is longer than it may be. */
static bool line_of(struct span in, size_t line_bytes, struct span *line, size_t *used)
{
	size_t look = in.len < line_bytes + 2 ? in.len : line_bytes + 2;
	const char *lf = memchr(in.data, '\n', look);

	*line = (struct span){ in.data, lf != NULL ? (size_t)(lf - in.data) : look };
	*used = lf != NULL ? line->len + 1 : 0;
	if (line->len > 0 && line->data[line->len - 1] == '\r')
		line->len--;
	return line->len <= line_bytes && (lf != NULL || look <= line_bytes + 1);
}

void nats_decode(struct span in, size_t line_bytes, struct nats_event *e, size_t *used)
{
	struct span line;
	bool fits = line_of(in, line_bytes, &line, used);
	const struct verb *v = verb_of(line, *used > 0, verbs, VERBS_N);

	*e = (struct nats_event){ .kind = NATS_MORE };
	if (v == NULL)
		fail(e, NATS_UNKNOWN);
	else if (!fits)
		fail(e, NATS_LINE_TOO_LONG);
	else if (*used > 0 && !parse(e, v, span_skip(line, v->word.len)))
		fail(e, NATS_UNKNOWN);
	if (v == NULL || !fits)
		*used = 0;
}

size_t nats_alike(struct span line, struct span in, size_t *bytes)
{
	const char *at, *digits, *end = in.data + in.len;

	/* Up to the digits, which come last. */
	while (!is_digit(line.data[line.len - 1]))
		line.len--;
	while (is_digit(line.data[line.len - 1]))
		line.len--;
	if (in.len <= line.len || memcmp(in.data, line.data, line.len) != 0)
		return 0;
	digits = at = in.data + line.len;
	for (*bytes = 0; at < end && is_digit(*at) && at - digits < NUMBER_DIGITS_MAX; at++)
		*bytes = *bytes * 10 + (size_t)(*at - '0');
	if (at == digits || *digits == '0' || end - at < 2 || memcmp(at, "\r\n", 2) != 0)
		return 0;
	return (size_t)(at + 2 - in.data);
}

/* MSG: subject, sid, perhaps a reply, then one number or two. */
static bool parse_message(struct nats_said *said, const struct verb *v, struct span rest)
{
	struct span words[WORDS_MAX];
	unsigned n = split(rest, words), numbers = v->headers ? 2 : 1;

	if (n != 2 + numbers && n != 3 + numbers)
		return false;
	said->subject = words[0];
	said->sid = words[1];
	if (n == 3 + numbers)
		said->reply = words[2];
	if (v->headers && !number(words[n - 2], &said->header_bytes))
		return false;
	return number(words[n - 1], &said->bytes) && said->header_bytes <= said->bytes;
}

void nats_said(struct span in, size_t line_bytes, struct nats_said *said, size_t *used)
{
	struct span line, rest;
	bool fits = line_of(in, line_bytes, &line, used);
	const struct verb *v = verb_of(line, *used > 0, server_verbs, SERVER_VERBS_N);

	*said = (struct nats_said){ .kind = NATS_SAID_MORE };
	if (v == NULL || !fits) {
		said->kind = NATS_SAID_NONSENSE;
		*used = 0;
		return;
	}
	if (*used == 0)
		return;
	rest = span_skip(line, v->word.len);
	said->kind = (enum nats_said_kind)v->kind;
	if (said->kind == NATS_SAID_MESSAGE) {
		if (!parse_message(said, v, rest))
			said->kind = NATS_SAID_NONSENSE;
		return;
	}
	while (rest.len > 0 && is_space(rest.data[0]))
		rest = span_skip(rest, 1);
	said->text = rest;
}

int nats_detect(struct span first)
{
	static const struct span words[] = {
		{ "CONNECT {", 9 }, { "PING", 4 }, { "PUB ", 4 }, { "HPUB ", 5 }, { "SUB ", 4 },
	};

	if (first.len == 0)
		return 0;
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		size_t n = first.len < words[i].len ? first.len : words[i].len;

		if (memcmp(first.data, words[i].data, n) == 0)
			return n == words[i].len ? 1 : 0;
	}
	return -1;
}

/* ---- CONNECT ---- */

struct connect {
	struct nats_options *options;
	struct nats_credentials *credentials;
};

static bool take_bool(const struct json_value *v, bool *out)
{
	if (v->kind == JSON_IS_BOOL)
		*out = v->truth;
	return v->kind == JSON_IS_BOOL || v->kind == JSON_IS_NULL;
}

static bool take_text(const struct json_value *v, bool *has, char *out, size_t room)
{
	if (v->kind == JSON_IS_NULL)
		return true;
	if (v->kind != JSON_IS_TEXT)
		return false;
	*has |= v->text.len > 0;
	/* One that does not fit is nobody's. */
	if (v->text.len >= room)
		out[0] = 0;
	else
		memcpy(out, v->text.data, v->text.len + 1);
	return true;
}

static bool take_option(void *context, struct span name, const struct json_value *v)
{
	const struct connect *c = context;
	struct nats_options *o = c->options;
	bool ignored = false;

	if (span_equal(name, SPAN("verbose")))
		return take_bool(v, &o->verbose);
	if (span_equal(name, SPAN("pedantic")))
		return take_bool(v, &ignored);
	if (span_equal(name, SPAN("echo")))
		return take_bool(v, &o->echo);
	if (span_equal(name, SPAN("headers")))
		return take_bool(v, &o->headers);
	if (span_equal(name, SPAN("no_responders")))
		return take_bool(v, &o->no_responders);
	if (span_equal(name, SPAN("protocol"))) {
		if (v->kind == JSON_IS_NUMBER)
			o->protocol = v->number;
		return v->kind == JSON_IS_NUMBER || v->kind == JSON_IS_NULL;
	}
	if (span_equal(name, SPAN("user")))
		return take_text(v, &o->has_user, c->credentials->user,
				 sizeof(c->credentials->user));
	if (span_equal(name, SPAN("pass")))
		return take_text(v, &ignored, c->credentials->pass, sizeof(c->credentials->pass));
	if (span_equal(name, SPAN("auth_token")))
		return take_text(v, &o->has_token, c->credentials->token,
				 sizeof(c->credentials->token));
	if (span_equal(name, SPAN("account")))
		o->account = v->kind == JSON_IS_TEXT && v->text.len > 0;
	return true;
}

bool nats_connect(struct span json, const struct nats_options *before, struct nats_options *options,
		  struct nats_credentials *credentials)
{
	struct nats_credentials unwanted;
	struct connect c = { options, credentials != NULL ? credentials : &unwanted };

	*options =
		before != NULL ? *before : (struct nats_options){ .verbose = true, .echo = true };
	*c.credentials = (struct nats_credentials){ .user = "" };
	return json_members(json, take_option, &c);
}

/* ---- subjects ---- */

/* Empty levels, and > before the end, are for nobody. */
static bool levels_sound(struct span s)
{
	size_t level = 0;

	for (size_t i = 0; i <= s.len; i++) {
		if (i < s.len && s.data[i] != '.') {
			level++;
			continue;
		}
		if (level == 0 || (level == 1 && s.data[i - 1] == '>' && i < s.len))
			return false;
		level = 0;
	}
	return true;
}

enum nats_subject nats_subject(struct span s)
{
	if (name_valid(s))
		return NATS_SUBJECT_TOPIC;
	if (name_pattern_valid(s))
		return NATS_SUBJECT_PATTERN;
	return levels_sound(s) ? NATS_SUBJECT_REFUSED : NATS_SUBJECT_INVALID;
}

static bool begins(struct span s, struct span with)
{
	return s.len >= with.len && memcmp(s.data, with.data, with.len) == 0;
}

bool nats_passing(struct span s)
{
	if (s.data[0] == '$')
		return !begins(s, SPAN("$sys."));
	return begins(s, SPAN("_INBOX."));
}

static bool decimal(struct span s, uint64_t *out)
{
	uint64_t n = 0;

	if (s.len == 0 || s.len > 20)
		return false;
	for (size_t i = 0; i < s.len; i++) {
		unsigned digit = (unsigned)(unsigned char)s.data[i] - '0';

		if (digit > 9 || __builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, digit, &n))
			return false;
	}
	*out = n;
	return true;
}

static bool hex(struct span s, uint64_t *out)
{
	*out = 0;
	for (size_t i = 0; i < s.len; i++) {
		char c = s.data[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
		*out = *out << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	return s.len == 16;
}

bool nats_replay(struct span s, struct nats_replay *r)
{
	const char *dot, *colon;
	struct span what;

	*r = (struct nats_replay){ .kind = NATS_REPLAY_NONE };
	if (!begins(s, SPAN("$replay.")))
		return true;
	s = span_skip(s, 8);
	dot = memchr(s.data, '.', s.len);
	if (dot == NULL)
		return false;
	what = (struct span){ s.data, (size_t)(dot - s.data) };
	r->topic = span_skip(s, what.len + 1);
	colon = memchr(what.data, ':', what.len);
	if (colon == NULL) {
		r->kind = NATS_REPLAY_LAST;
		return decimal(what, &r->n);
	}
	r->kind = NATS_REPLAY_FROM;
	return hex((struct span){ what.data, (size_t)(colon - what.data) }, &r->epoch) &&
	       decimal(span_skip(what, (size_t)(colon - what.data) + 1), &r->n);
}

/* ---- INFO ---- */

/* Names as they may stand between quotes. */
static void plain(struct span from, char out[256])
{
	size_t n = 0;

	for (size_t i = 0; i < from.len && n < 255; i++)
		if (from.data[i] >= ' ' && from.data[i] < 0x7f && from.data[i] != '"' &&
		    from.data[i] != '\\')
			out[n++] = from.data[i];
	out[n] = 0;
}

size_t nats_info(const struct nats_info *i, char out[NATS_INFO_MAX])
{
	char id[256], name[256], host[256], ip[256];
	int n;

	plain(i->server_id, id);
	plain(i->server_name, name);
	plain(i->host, host);
	plain(i->client_ip, ip);
	n = snprintf(
		out, NATS_INFO_MAX,
		"INFO {\"server_id\":\"%.64s\",\"server_name\":\"%.64s\",\"version\":\"2.9.0\","
		"\"proto\":1,\"headers\":true,\"host\":\"%.128s\",\"port\":%u,"
		"\"max_payload\":%" PRIu64 ",\"client_id\":%" PRIu64
		",\"client_ip\":\"%.64s\"%s%s%s%s}\r\n",
		id, name, host, i->port, i->max_payload, i->client_id, ip,
		i->auth_required ? ",\"auth_required\":true" : "",
		i->tls_required ? ",\"tls_required\":true" : "",
		i->tls_available ? ",\"tls_available\":true" : "", i->ldm ? ",\"ldm\":true" : "");
	assert(n > 0 && n < NATS_INFO_MAX);
	return (size_t)n;
}
