#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>

#include "base/json.h"
#include "base/name.h"
#include "fuzz.h"
#include "protocol/nats.h"

/*
 * The NATS decoder and what goes out. A command is what a slow reader, who knows the grammar only,
 * finds in its line; nothing is decided before enough is there, and nothing else when more is. What
 * is encoded is what a client's reader finds again. The first byte of an input sets the limit of a
 * line, the second how it is split.
 */

/* ---- a slow reader of commands ---- */

struct slow {
	char words[9][512]; /* the last one stays empty */
	size_t len[9];
	unsigned n;
};

static bool blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static void split_slowly(struct slow *s, const char *line, size_t len)
{
	size_t at = 0;

	memset(s, 0, sizeof(*s));
	for (size_t i = 0; i <= len; i++) {
		if (i < len && !blank(line[i])) {
			if (s->n < 8 && at < 511)
				s->words[s->n][at++] = line[i];
			continue;
		}
		s->len[s->n] = at;
		if (at > 0 && s->n < 8)
			s->n++;
		at = 0;
	}
}

static bool is_size(const struct slow *s, unsigned at, size_t *n)
{
	const char *word = s->words[at];

	if (s->len[at] == 0 || s->len[at] > 9 || strspn(word, "0123456789") != s->len[at])
		return false;
	*n = strtoul(word, NULL, 10);
	return true;
}

/* Whether the span is that word; NONE: empty. */
enum { NONE = 8 };
static bool same(struct span span, const struct slow *s, unsigned word)
{
	return span_equal(span, (struct span){ s->words[word], s->len[word] });
}

static void check_publish(const struct slow *s, const struct nats_event *e, bool headers)
{
	unsigned numbers = headers ? 2 : 1;
	size_t h = 0, n = 0;
	bool fine = s->n >= 2 + numbers && s->n <= 3 + numbers && is_size(s, s->n - 1, &n) &&
		    (!headers || (is_size(s, s->n - 2, &h) && h <= n));

	check(fine == (e->kind == NATS_PUBLISH), "PUB is read otherwise");
	if (!fine)
		return;
	check(same(e->subject, s, 1) && e->bytes == n && e->header_bytes == h &&
		      e->headers == headers,
	      "PUB says something else");
	check(same(e->reply, s, s->n == 3 + numbers ? 2 : NONE), "another reply");
}

static void check_line(const char *line, size_t len, const struct nats_event *e)
{
	struct slow s;
	size_t max = 0;
	bool fine;

	split_slowly(&s, line, len);
	for (char *c = s.words[0]; *c != 0; c++)
		*c = (char)toupper((unsigned char)*c);
	if (len > 0 && blank(line[0])) {
		check(e->kind == NATS_ERROR, "a line that begins with a space");
	} else if (strncmp(s.words[0], "PING", 4) == 0) {
		check(e->kind == NATS_PING, "PING");
	} else if (strncmp(s.words[0], "PONG", 4) == 0) {
		check(e->kind == NATS_PONG, "PONG");
	} else if (strncmp(s.words[0], "CONNECT", 7) == 0) {
		check(e->kind == NATS_CONNECT, "CONNECT");
	} else if (strcmp(s.words[0], "PUB") == 0 || strcmp(s.words[0], "HPUB") == 0) {
		check_publish(&s, e, s.words[0][0] == 'H');
	} else if (strcmp(s.words[0], "SUB") == 0) {
		fine = s.n == 3 || s.n == 4;
		check(fine == (e->kind == NATS_SUBSCRIBE), "SUB is read otherwise");
		check(!fine || (same(e->subject, &s, 1) && same(e->sid, &s, s.n - 1) &&
				same(e->queue, &s, s.n == 4 ? 2 : NONE)),
		      "SUB says something else");
	} else if (strcmp(s.words[0], "UNSUB") == 0) {
		fine = s.n == 2 || (s.n == 3 && is_size(&s, 2, &max));
		check(fine == (e->kind == NATS_UNSUBSCRIBE), "UNSUB is read otherwise");
		check(!fine || (same(e->sid, &s, 1) && e->max == max), "UNSUB");
	} else {
		check(e->kind == NATS_ERROR, "what is no command is taken for one");
	}
}

/* ---- a slow reader of CONNECT (RFC 8259) ---- */

struct json {
	struct span in;
	bool bad;
};

enum { BAD = 1, TEXT, NUMBER, BOOL, NOTHING, OTHER };

/* The next byte, which is taken if it is one of these; 0: it is none. */
static char one_of(struct json *j, const char *these)
{
	char c = j->in.len > 0 ? j->in.data[0] : 0;

	if (c == 0 || strchr(these, c) == NULL)
		return 0;
	j->in = span_skip(j->in, 1);
	return c;
}

static void must(struct json *j, const char *these)
{
	j->bad |= one_of(j, these) == 0;
}

static void skip(struct json *j, const char *these)
{
	while (one_of(j, these) != 0)
		;
}

static unsigned four_digits(struct json *j)
{
	char hex[5] = "";

	for (int i = 0; i < 4; i++)
		hex[i] = one_of(j, "0123456789abcdefABCDEF");
	j->bad |= strlen(hex) != 4;
	return (unsigned)strtoul(hex, NULL, 16);
}

/* RFC 3629 says which code points there are. */
static void add_utf8(struct json *j, struct text *out, unsigned point)
{
	char c[4] = { (char)point };
	size_t n = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;

	j->bad |= point == 0 || point > 0x10ffff || (point >= 0xd800 && point < 0xe000);
	for (size_t i = n; n > 1 && i-- > 0; point >>= 6)
		c[i] = (char)(i > 0 ? 0x80 | (point & 0x3f) : (0xf0U << (4 - n)) | point);
	text_add(out, c, n);
}

static void escape(struct json *j, struct text *out)
{
	static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
	unsigned point, low;
	char c = one_of(j, "\"\\/bfnrtu");

	if (c != 'u') {
		j->bad |= c == 0;
		if (!j->bad)
			text_add(out, bytes + (strchr(names, c) - names), 1);
		return;
	}
	point = four_digits(j);
	if (point >= 0xd800 && point < 0xdc00) {
		must(j, "\\");
		must(j, "u");
		low = four_digits(j);
		j->bad |= low < 0xdc00 || low > 0xdfff;
		point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
	}
	add_utf8(j, out, point);
}

/* A code point as it stands there; encoded again it must be the same bytes. */
static void plain(struct json *j, struct text *out)
{
	const unsigned char *p = (const unsigned char *)j->in.data;
	size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4, at = out->len;
	unsigned point = n == 1 ? p[0] : p[0] & (0x7fU >> n);

	j->bad |= p[0] < 0x20 || (p[0] >= 0x80 && p[0] < 0xc0) || p[0] >= 0xf8 || j->in.len < n;
	if (j->bad)
		return;
	for (size_t i = 1; i < n; i++)
		point = point << 6 | (p[i] & 0x3f);
	add_utf8(j, out, point);
	j->bad |= out->len - at != n || memcmp(out->data + at, p, n) != 0;
	j->in = span_skip(j->in, n);
}

/* Behind its first quotation mark. */
static void slow_text(struct json *j, struct text *out)
{
	out->len = 0;
	text_add(out, "", 0);
	while (!j->bad && one_of(j, "\"") == 0) {
		if (j->in.len == 0)
			j->bad = true;
		else if (one_of(j, "\\") != 0)
			escape(j, out);
		else
			plain(j, out);
	}
}

static void slow_number(struct json *j)
{
	struct text text = { 0 };
	bool real = false;
	struct span from = j->in;

	(void)one_of(j, "-");
	if (one_of(j, "0") == 0) {
		must(j, "123456789");
		skip(j, "0123456789");
	}
	if (one_of(j, ".") != 0) {
		real = true;
		must(j, "0123456789");
		skip(j, "0123456789");
	}
	if (one_of(j, "eE") != 0) {
		real = true;
		(void)one_of(j, "+-");
		must(j, "0123456789");
		skip(j, "0123456789");
	}
	/* What no number of ours can be is none. */
	text_add(&text, from.data, from.len - j->in.len);
	errno = 0;
	if (real)
		j->bad |= fabs(strtod(text.data, NULL)) == HUGE_VAL;
	else
		j->bad |= strtoll(text.data, NULL, 10) != 0 && errno == ERANGE;
	free(text.data);
}

static bool word(struct json *j, const char *is)
{
	size_t n = strlen(is);

	if (j->in.len < n || memcmp(j->in.data, is, n) != 0)
		return false;
	j->in = span_skip(j->in, n);
	return true;
}

/* What CONNECT says, as far as it counts: of a name that comes twice the last one. */
struct said {
	struct text user, pass, token, account, name;
	int kinds[10]; /* 0: it does not say that */
};
static const char *const counted[10] = { "verbose",       "pedantic", "echo", "headers",
					 "no_responders", "protocol", "user", "pass",
					 "auth_token",    "account" };

static int slow_value(struct json *j, struct text *out, struct said *said);

/* Behind its first bracket; said: the outermost one's members. */
static void slow_members(struct json *j, bool named, struct said *said)
{
	const char *end = named ? "}" : "]";
	struct text ignored = { 0 }, name = { 0 };

	skip(j, " \t\r\n");
	if (one_of(j, end) != 0)
		return;
	do {
		struct text *out = &ignored;
		int kind, at = -1;

		skip(j, " \t\r\n");
		if (named) {
			must(j, "\"");
			slow_text(j, &name);
			skip(j, " \t\r\n");
			must(j, ":");
			skip(j, " \t\r\n");
			for (int i = 0; said != NULL && i < 10; i++)
				at = strcmp(name.data, counted[i]) == 0 ? i : at;
		}
		if (at >= 6)
			out = at == 6   ? &said->user
			      : at == 7 ? &said->pass
			      : at == 8 ? &said->token
					: &said->account;
		kind = j->bad ? BAD : slow_value(j, out, NULL);
		if (at >= 0)
			said->kinds[at] = kind;
		skip(j, " \t\r\n");
	} while (!j->bad && one_of(j, ",") != 0);
	must(j, end);
	free(ignored.data);
	free(name.data);
}

static int slow_value(struct json *j, struct text *out, struct said *said)
{
	if (one_of(j, "\"") != 0) {
		slow_text(j, out);
		return TEXT;
	}
	if (one_of(j, "{") != 0) {
		slow_members(j, true, said);
		return OTHER;
	}
	if (one_of(j, "[") != 0) {
		slow_members(j, false, NULL);
		return OTHER;
	}
	if (word(j, "null"))
		return NOTHING;
	if (word(j, "true") || word(j, "false"))
		return BOOL;
	slow_number(j);
	return NUMBER;
}

/* Whether there is one. */
static bool slow_credential(const char *got, size_t room, const struct text *want, int kind)
{
	bool there = kind == TEXT && want->len > 0;

	/* Longer than anybody's it is nobody's. */
	check(strcmp(got, there && want->len < room ? want->data : "") == 0, "a credential");
	return there;
}

static void check_connect(struct span in)
{
	struct json j = { in, false };
	struct said said = { 0 };
	struct nats_options o = { 0 };
	struct nats_credentials got;
	bool fine, broad = false;

	skip(&j, " \t\r\n");
	if (one_of(&j, "{") != 0)
		slow_members(&j, true, &said);
	else
		j.bad = true;
	skip(&j, " \t\r\n");
	for (int i = 0; i < 10; i++) {
		int wanted = i < 5 ? BOOL : i == 5 ? NUMBER : TEXT;

		broad |= i < 9 && said.kinds[i] != 0 && said.kinds[i] != wanted &&
			 said.kinds[i] != NOTHING;
	}
	fine = !j.bad && j.in.len == 0 && !broad;
	check(nats_connect(in, NULL, &o, &got) == fine, "a CONNECT is read in two ways");
	if (fine) {
		check(o.has_user == slow_credential(got.user, sizeof(got.user), &said.user,
						    said.kinds[6]),
		      "whether there is a user");
		(void)slow_credential(got.pass, sizeof(got.pass), &said.pass, said.kinds[7]);
		check(o.has_token == slow_credential(got.token, sizeof(got.token), &said.token,
						     said.kinds[8]),
		      "whether there is a token");
		check(o.account == (said.kinds[9] == TEXT && said.account.len > 0), "an account");
	}
	free(said.user.data);
	free(said.pass.data);
	free(said.token.data);
	free(said.account.data);
}

/* ---- in pieces ---- */

struct session {
	size_t line_bytes, payload;
	struct text *out;
};

static void add(struct text *out, const struct nats_event *e)
{
	char head[120];
	int n = snprintf(head, sizeof(head), "%d %d %zu %zu %" PRIu64, e->kind, e->headers,
			 e->header_bytes, e->bytes, e->max);
	const struct span spans[] = { e->subject, e->reply, e->queue, e->sid, e->text };

	text_add(out, head, (size_t)n);
	for (size_t i = 0; i < sizeof(spans) / sizeof(*spans); i++) {
		text_add(out, "|", 1);
		text_add(out, spans[i].data, spans[i].len);
	}
	text_add(out, "\n", 1);
}

static enum taken take(void *context, struct span in, size_t *used)
{
	struct session *s = context;
	struct nats_event e;
	const char *lf;

	if (s->payload > 0) {
		*used = in.len < s->payload ? in.len : s->payload;
		s->payload -= *used;
		return TAKEN;
	}
	nats_decode(in, s->line_bytes, &e, used);
	lf = memchr(in.data, '\n', in.len);
	if (e.kind == NATS_MORE) {
		check(*used == 0 && lf == NULL, "a whole line is left");
		check(in.len <= s->line_bytes + 1, "too long a line is waited for");
		return TAKE_MORE;
	}
	if (e.kind != NATS_ERROR || (lf != NULL && *used > 0)) {
		size_t len = lf != NULL ? (size_t)(lf - in.data) : 0;

		check(lf != NULL && *used == len + 1, "not just a line is taken");
		check_line(in.data, len, &e);
	}
	add(s->out, &e);
	if (e.kind == NATS_ERROR)
		return TAKE_NO_MORE;
	if (e.kind == NATS_PUBLISH)
		s->payload = e.bytes + 2;
	return TAKEN;
}

static struct text decode(struct span in, size_t line_bytes, unsigned step)
{
	struct text out = { 0 };
	struct session s = { .line_bytes = line_bytes, .out = &out };

	feed(in, step, take, &s);
	return out;
}

/* It decides once, and what comes behind does not change its mind. */
static void check_detect(struct span in)
{
	int decided = 0;

	for (size_t n = 0; n <= in.len && n < 40; n++) {
		char *own = exact_copy(in.data, n);
		int now = nats_detect((struct span){ own, n });
		struct nats_event e;
		size_t used;

		check(decided == 0 || now == decided, "more bytes change the protocol");
		decided = now;
		if (now == 1) {
			nats_decode((struct span){ own, n }, 4096, &e, &used);
			check(e.kind != NATS_ERROR || memchr(own, '\n', n) != NULL,
			      "what is taken for NATS is none");
		}
		free(own);
	}
}

/* ---- what goes out ---- */

/* The next piece of the input that has a length of its own. */
static struct span piece(struct span *in)
{
	struct span s = { in->data, 0 };

	if (in->len == 0)
		return s;
	s.len = (unsigned char)in->data[0];
	*in = span_skip(*in, 1);
	s.data = in->data;
	s.len = s.len < in->len ? s.len : in->len;
	*in = span_skip(*in, s.len);
	return s;
}

/* Reads one message as a client does. Returns how long it is. */
static size_t read_message(struct span at, const struct nats_frame *f, const struct record *r)
{
	const char *cr;
	struct slow s;
	size_t frame = 0, h = 0, n = 0, line;
	bool headers;

	if (f->framed) {
		size_t len = (unsigned char)at.data[1];

		check((unsigned char)at.data[0] == 0x82, "no binary frame");
		frame = len == 127 ? 10 : len == 126 ? 4 : 2;
	}
	cr = memmem(at.data + frame, at.len - frame, "\r\n", 2);
	check(cr != NULL, "a line without an end");
	line = (size_t)(cr - at.data) - frame;
	split_slowly(&s, at.data + frame, line);
	headers = strcmp(s.words[0], "HMSG") == 0;
	check(headers || strcmp(s.words[0], "MSG") == 0, "neither MSG nor HMSG");
	check(strcmp(s.words[1], "a.b") == 0 && same(f->sid, &s, 2), "subject or sid");
	check(is_size(&s, s.n - 1, &n), "no length");
	check(!headers || (is_size(&s, s.n - 2, &h) && f->headers), "no length of headers");
	check(s.n == 4U + headers + (r->reply.len > 0), "words");
	check(r->reply.len == 0 || same(r->reply, &s, 3), "reply");
	check(n >= h && frame + line + 2 + n + 2 <= at.len, "it goes beyond its end");
	check(n - h == r->payload.len &&
		      (n == h || memcmp(cr + 2 + h, r->payload.data, n - h) == 0),
	      "payload");
	check(memcmp(cr + 2 + n, "\r\n", 2) == 0, "its end");
	if (headers && r->headers.len > 0 && !f->ids)
		check(h == r->headers.len && memcmp(cr + 2, r->headers.data, h) == 0, "headers");
	return frame + line + 2 + n + 2;
}

static bool is_word(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (blank(s.data[i]) || s.data[i] == '\n' || s.data[i] == 0)
			return false;
	return s.len > 0;
}

static void check_encode(struct span in, unsigned how)
{
	enum { MESSAGES_MAX = 20 };
	struct record r[MESSAGES_MAX] = { 0 };
	struct nats_frame f = {
		.headers = how & 1, .ids = how & 2, .framed = how & 4, .sid = SPAN("17")
	};
	char parameter[64];
	struct wire wire = { &nats_format, { parameter, nats_parameter(&f, parameter) } };
	struct run run = { .topic = SPAN("a.b"), .form = RUN_RECORDS, .seq = 1 };
	struct text body = { 0 };
	size_t max, n, at = 0, ends[MESSAGES_MAX + 1] = { 0 };
	char *room, *out;

	while (in.len > 0 && run.messages < MESSAGES_MAX) {
		struct record *one = &r[run.messages++];

		one->payload = piece(&in);
		one->reply = piece(&in);
		one->headers = piece(&in);
		if (!is_word(one->reply))
			one->reply.len = 0;
		room = malloc(record_bytes(one));
		text_add(&body, room, (size_t)(record_write(room, one) - room));
		free(room);
	}
	if (run.messages == 0)
		return;
	run.body = (struct span){ body.data, body.len };
	max = nats_format.encoded_max(&wire, &run);
	out = malloc(max);
	check(out != NULL, "out of memory");
	n = nats_format.encode(&wire, &run, out);
	check(n <= max, "more is written than was said");
	for (uint32_t i = 0; i < run.messages; i++)
		ends[i + 1] = at += read_message((struct span){ out + at, n - at }, &f, &r[i]);
	check(at == n, "something is left");
	for (uint32_t i = 0; i < run.messages; i++) {
		struct span all = { out, n };

		check(nats_format.boundary(all, ends[i]) == ends[i], "a boundary moves");
		check(nats_format.boundary(all, ends[i] + 1) == ends[i + 1], "another boundary");
	}
	free(out);
	free(body.data);
}

/* What is taken for a PUB like the one before is what would be decoded of it. */
static void check_alike(struct span in, size_t line_bytes)
{
	struct nats_event first, next;
	size_t line, used, bytes, n;

	nats_decode(in, line_bytes, &first, &line);
	if (first.kind != NATS_PUBLISH || first.headers || first.reply.len > 0)
		return;
	n = nats_alike((struct span){ in.data, line }, span_skip(in, line), &bytes);
	if (n == 0 || n - 2 > line_bytes)
		return;
	nats_decode(span_skip(in, line), line_bytes, &next, &used);
	check(next.kind == NATS_PUBLISH && !next.headers && next.reply.len == 0, "not alike");
	check(span_equal(next.subject, first.subject), "another subject");
	check(used == n && next.bytes == bytes, "another length");
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct nats_replay replay;
	struct text whole, split;
	struct span in;
	size_t line_bytes;

	if (size < 2)
		return 0;
	line_bytes = data[0] < 128 ? 16U + data[0] : 400;
	in = (struct span){ (const char *)data + 2, size - 2 };
	check_detect(in);
	whole = decode(in, line_bytes, 0);
	split = decode(in, line_bytes, 1 + data[1] % 80);
	text_same(&whole, &split);
	check_encode(in, data[0]);
	check_alike(in, line_bytes);
	check_connect(in);
	(void)nats_header(in, SPAN("Content-Type"));
	(void)nats_replay(in, &replay);
	check((nats_subject(in) <= NATS_SUBJECT_PATTERN) == name_pattern_valid(in), "a subject");
	return 0;
}
