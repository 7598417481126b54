#include "protocol/resp.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { NUMBER_DIGITS_MAX = 18 }; /* more are refused anyway */

/* ---- a client's commands ---- */

static void fail(struct resp_event *e, enum resp_error error)
{
	e->kind = RESP_ERROR;
	e->error = error;
}

/* A whole number without leading zeros or a sign, but for a minus where that is no number of
 * anything: then *n is 0. */
static bool number(struct span s, bool negative_too, uint64_t *n)
{
	bool negative = negative_too && s.len > 1 && s.data[0] == '-';

	if (negative)
		s = span_skip(s, 1);
	if (s.len == 0 || s.len > NUMBER_DIGITS_MAX ||
	    (s.data[0] == '0' && (s.len > 1 || negative)))
		return false;
	*n = 0;
	for (size_t i = 0; i < s.len; i++) {
		if (s.data[i] < '0' || s.data[i] > '9')
			return false;
		*n = *n * 10 + (uint64_t)(s.data[i] - '0');
	}
	if (negative)
		*n = 0;
	return true;
}

/*
 * What stands behind the first byte of the line at `from`, which ends in CR LF, if that is a
 * number; else nothing. *used: all of the line. Whether its end is there.
 */
static bool length_line(struct span in, size_t from, struct span *digits, size_t *used)
{
	const char *start = in.data + from, *cr;
	size_t len = in.len - from, near = len < RESP_LINE_BYTES_MAX ? len : RESP_LINE_BYTES_MAX;

	cr = len > 0 ? memchr(start, '\r', near) : NULL;
	if (cr == NULL || (size_t)(cr - start) + 1 == len)
		return false;
	*used = (size_t)(cr - start) + 2;
	*digits = (struct span){ start, 0 };
	if (cr > start && cr[1] == '\n')
		*digits = (struct span){ start + 1, *used - 3 };
	return true;
}

/* Whether a line that has no end yet cannot get a good one. */
static bool too_long(struct span in, size_t from)
{
	return in.len - from > RESP_LINE_BYTES_MAX;
}

/* "*<words>\r\n". Whether there is more to be looked at. */
static bool begin_array(struct resp_decoder *d, struct span in, const struct resp_limits *limits,
			struct resp_event *e, size_t *used)
{
	struct span digits;
	uint64_t n = 0;
	size_t len;

	if (!length_line(in, 0, &digits, &len)) {
		if (too_long(in, 0))
			fail(e, RESP_LONG_WORDS);
		return false;
	}
	if (!number(digits, true, &n) || n > RESP_WORDS_MAX) {
		fail(e, RESP_BAD_WORDS);
		return false;
	}
	if (limits->unknown && n > RESP_UNKNOWN_WORDS_MAX) {
		fail(e, RESP_UNKNOWN_WORDS);
		return false;
	}
	if (n == 0) {
		e->kind = RESP_NOTHING;
		*used = len;
		return false;
	}
	*d = (struct resp_decoder){ .words = (uint32_t)n,
				    .left = (uint32_t)n,
				    .begin = (uint32_t)len,
				    .at = (uint32_t)len };
	return true;
}

/* "$<bytes>\r\n" where the decoder stands. Whether there is more to be looked at. */
static bool begin_word(struct resp_decoder *d, struct span in, const struct resp_limits *limits,
		       struct resp_event *e)
{
	size_t bytes_max = limits->word_bytes + RESP_MORE_BYTES_MAX, len;
	struct span digits;
	uint64_t n = 0;

	if (!length_line(in, d->at, &digits, &len)) {
		if (too_long(in, d->at))
			fail(e, RESP_LONG_WORD);
		return false;
	}
	if (in.data[d->at] != '$') {
		fail(e, RESP_NO_WORD);
		e->got = in.data[d->at];
		return false;
	}
	if (!number(digits, false, &n) || n > limits->word_bytes || n > bytes_max - d->bytes) {
		fail(e, RESP_BAD_WORD);
		return false;
	}
	if (limits->unknown && n > RESP_UNKNOWN_WORD_BYTES_MAX) {
		fail(e, RESP_UNKNOWN_WORD);
		return false;
	}
	d->at += (uint32_t)len;
	d->bytes += (uint32_t)n;
	d->word_bytes = (uint32_t)n + 1;
	return true;
}

/* The word whose length has been read. Whether it is there. */
static bool end_word(struct resp_decoder *d, struct span in, struct resp_event *e)
{
	size_t n = d->word_bytes - 1;

	if (in.len - d->at < n + 2)
		return false;
	if (memcmp(in.data + d->at + n, "\r\n", 2) != 0) {
		fail(e, RESP_BAD_WORD);
		return false;
	}
	d->at += (uint32_t)n + 2;
	d->word_bytes = 0;
	d->left--;
	return true;
}

static void array(struct resp_decoder *d, struct span in, const struct resp_limits *limits,
		  struct resp_event *e, size_t *used)
{
	if (d->words == 0 && !begin_array(d, in, limits, e, used))
		return;
	while (d->left > 0) {
		if (d->word_bytes == 0 && !begin_word(d, in, limits, e))
			return;
		if (!end_word(d, in, e)) {
			if (e->kind != RESP_MORE || d->left > 1)
				return;
			e->words = d->words - 1;
			e->rest = (struct span){ in.data + d->begin, d->at - d->begin };
			e->payload_at = d->at;
			e->payload_bytes = d->word_bytes - 1;
			return;
		}
	}
	e->kind = RESP_COMMAND;
	e->words = d->words;
	e->rest = (struct span){ in.data + d->begin, d->at - d->begin };
	*used = d->at;
	*d = (struct resp_decoder){ .words = 0 };
}

static bool blank(char c)
{
	return isspace((unsigned char)c) || c == 0;
}

static bool begins_with(struct span text, struct span word)
{
	return text.len >= word.len && strncasecmp(text.data, word.data, word.len) == 0;
}

/* A line that a browser sends to wherever a page tells it to, or the beginning of TLS: what stands
 * behind it may be somebody else's words, and is no command of this client's. */
static bool is_foreign(struct span text)
{
	const struct span version = SPAN("HTTP/1.");

	if (begins_with(text, SPAN("POST ")) || begins_with(text, SPAN("Host:")))
		return true;
	if (text.len > version.len &&
	    memcmp(text.data + text.len - version.len - 1, version.data, version.len) == 0)
		return true;
	for (size_t i = 0; i < text.len; i++)
		if (iscntrl((unsigned char)text.data[i]) && !isspace((unsigned char)text.data[i]))
			return true;
	return false;
}

static void line(struct resp_decoder *d, struct span in, struct resp_event *e, size_t *used)
{
	/* What was looked at before had no end in it. */
	const char *lf = memchr(in.data + d->at, '\n', in.len - d->at);
	struct span text;

	if (lf == NULL) {
		d->at = (uint32_t)in.len;
		if (too_long(in, 0))
			fail(e, RESP_LONG_LINE);
		return;
	}
	d->at = 0;
	text = (struct span){ in.data, (size_t)(lf - in.data) };
	*used = text.len + 1;
	if (text.len > RESP_LINE_BYTES_MAX) {
		fail(e, RESP_LONG_LINE);
		return;
	}
	if (text.len > 0 && text.data[text.len - 1] == '\r')
		text.len--;
	while (text.len > 0 && blank(text.data[0]))
		text = span_skip(text, 1);
	if (is_foreign(text)) {
		fail(e, RESP_FOREIGN);
		return;
	}
	e->kind = text.len > 0 ? RESP_LINE : RESP_NOTHING;
	e->rest = text;
}

void resp_decode(struct resp_decoder *d, struct span in, const struct resp_limits *limits,
		 struct resp_event *e, size_t *used)
{
	*e = (struct resp_event){ .kind = RESP_MORE };
	*used = 0;
	if (in.len == 0)
		return;
	if (in.data[0] == '*')
		array(d, in, limits, e, used);
	else
		line(d, in, e, used);
	if (e->kind == RESP_ERROR)
		*used = in.len;
}

struct span resp_next(struct span *rest)
{
	size_t at = 1, n = 0;
	struct span word;

	assert(rest->len > 0);
	for (; rest->data[at] != '\r'; at++)
		n = n * 10 + (size_t)(rest->data[at] - '0');
	word = (struct span){ rest->data + at + 2, n };
	*rest = span_skip(*rest, at + 2 + n + 2);
	return word;
}

/* ---- lines, as sdssplitargs of Redis reads them ---- */

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* What is escaped behind a backslash at the start; *len: with it. */
static char escaped(struct span s, size_t *len)
{
	static const char names[] = "nrtba", values[] = "\n\r\t\b\a";
	const char *name;

	if (s.len >= 4 && s.data[1] == 'x' && hex(s.data[2]) >= 0 && hex(s.data[3]) >= 0) {
		*len = 4;
		return (char)(hex(s.data[2]) << 4 | hex(s.data[3]));
	}
	*len = 2;
	name = memchr(names, s.data[1], sizeof(names) - 1);
	return name != NULL ? values[name - names] : s.data[1];
}

/* What is in quotes, from behind the one that opens them, to `out`; *line: goes on behind the one
 * that closes them. NULL: nothing closes them, or something is stuck to them. */
static char *quoted(struct span *line, char quote, char *out)
{
	struct span s = *line;

	for (;;) {
		size_t len = 1;
		char c;

		if (s.len == 0)
			return NULL;
		c = s.data[0];
		if (c == quote)
			break;
		if (c == '\\' && s.len > 1 && quote == '"') {
			c = escaped(s, &len);
		} else if (c == '\\' && s.len > 1 && s.data[1] == '\'') {
			c = '\'';
			len = 2;
		}
		*out++ = c;
		s = span_skip(s, len);
	}
	s = span_skip(s, 1);
	if (s.len > 0 && !blank(s.data[0]))
		return NULL;
	*line = s;
	return out;
}

/* One word; NULL: quotes are unbalanced. */
static char *word(struct span *line, char *out)
{
	while (line->len > 0 && !blank(line->data[0])) {
		char c = line->data[0];

		*line = span_skip(*line, 1);
		if (c == '"' || c == '\'')
			return quoted(line, c, out);
		*out++ = c;
	}
	return out;
}

int resp_array_of_line(struct span line, char *out, size_t *len)
{
	char *at = out;
	int words = 0;

	for (;;) {
		char head[RESP_HEAD_BYTES_MAX], *text, *end;
		size_t head_len, text_len;

		while (line.len > 0 && blank(line.data[0]))
			line = span_skip(line, 1);
		if (line.len == 0)
			break;
		/* Its length is known only behind it. */
		text = at + RESP_HEAD_BYTES_MAX;
		end = word(&line, text);
		if (end == NULL)
			return -1;
		text_len = (size_t)(end - text);
		head_len = (size_t)(resp_put_head(head, '$', text_len) - head);
		memcpy(at, head, head_len);
		memmove(at + head_len, text, text_len);
		at += head_len + text_len;
		memcpy(at, "\r\n", 2);
		at += 2;
		words++;
	}
	*len = (size_t)(at - out);
	return words;
}

int resp_detect(struct span first)
{
	if (first.len == 0)
		return 0;
	return first.data[0] == '*' ? 1 : -1;
}

size_t resp_put_error(char *out, const struct resp_event *e)
{
	static const char *const texts[] = {
		[RESP_BAD_WORDS] = "invalid multibulk length",
		[RESP_BAD_WORD] = "invalid bulk length",
		[RESP_NO_WORD] = "expected '$', got '",
		[RESP_LONG_WORDS] = "too big mbulk count string",
		[RESP_LONG_WORD] = "too big bulk count string",
		[RESP_LONG_LINE] = "too big inline request",
		[RESP_UNKNOWN_WORDS] = "unauthenticated multibulk length",
		[RESP_UNKNOWN_WORD] = "unauthenticated bulk length",
		[RESP_QUOTES] = "unbalanced quotes in request",
		[RESP_FOREIGN] = "not a command",
	};
	int n = snprintf(out, RESP_ERROR_BYTES_MAX, "-ERR Protocol error: %s", texts[e->error]);

	assert(n > 0 && n < RESP_ERROR_BYTES_MAX - 4);
	if (e->error == RESP_NO_WORD) {
		out[n++] = e->got == '\r' || e->got == '\n' ? ' ' : e->got;
		out[n++] = '\'';
	}
	memcpy(out + n, "\r\n", 2);
	return (size_t)n + 2;
}

/* ---- what it is told ---- */

char *resp_put_head(char *out, char type, uint64_t n)
{
	char digits[20];
	size_t i = sizeof(digits);

	*out++ = type;
	do
		digits[--i] = (char)('0' + n % 10);
	while ((n /= 10) > 0);
	memcpy(out, digits + i, sizeof(digits) - i);
	out += sizeof(digits) - i;
	*out++ = '\r';
	*out++ = '\n';
	return out;
}

char *resp_put_bulk(char *out, struct span text)
{
	out = resp_put_head(out, '$', text.len);
	if (text.len > 0)
		memcpy(out, text.data, text.len);
	memcpy(out + text.len, "\r\n", 2);
	return out + text.len + 2;
}

char *resp_put_null(char *out, enum resp_version version)
{
	struct span text = version == RESP_3 ? SPAN("_\r\n") : SPAN("$-1\r\n");

	memcpy(out, text.data, text.len);
	return out + text.len;
}
