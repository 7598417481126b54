#include "fuzz.h"
#include "protocol/websocket.h"

/*
 * A client's frames. What comes out does not depend on how the bytes were split, and is what a slow
 * reader finds that has all of them before it and follows RFC 6455 by the letter. The first byte of
 * an input sets the limit, the second how it is split.
 */

/* ---- the slow reader ---- */

struct slow {
	struct span in;
	uint64_t message_bytes;
	struct text message, *out;
	bool within, text;
	unsigned fragments;
};

/* How many bytes are UTF-8, by the grammar of RFC 3629, 4. */
static size_t slow_utf8(const unsigned char *p, size_t n)
{
	static const unsigned char rows[][8] = {
		{ 0x00, 0x7f },
		{ 0xc2, 0xdf, 0x80, 0xbf },
		{ 0xe0, 0xe0, 0xa0, 0xbf, 0x80, 0xbf },
		{ 0xe1, 0xec, 0x80, 0xbf, 0x80, 0xbf },
		{ 0xed, 0xed, 0x80, 0x9f, 0x80, 0xbf },
		{ 0xee, 0xef, 0x80, 0xbf, 0x80, 0xbf },
		{ 0xf0, 0xf0, 0x90, 0xbf, 0x80, 0xbf, 0x80, 0xbf },
		{ 0xf1, 0xf3, 0x80, 0xbf, 0x80, 0xbf, 0x80, 0xbf },
		{ 0xf4, 0xf4, 0x80, 0x8f, 0x80, 0xbf, 0x80, 0xbf },
	};
	size_t at = 0, len;

	do {
		len = 0;
		for (size_t r = 0; r < sizeof(rows) / sizeof(*rows) && len == 0; r++) {
			size_t k = 0;

			while (k < 4 && at + k < n && rows[r][2 * k + 1] != 0 &&
			       p[at + k] >= rows[r][2 * k] && p[at + k] <= rows[r][2 * k + 1])
				k++;
			if (k > 0 && (k == 4 || rows[r][2 * k + 1] == 0))
				len = k;
		}
		at += len;
	} while (len > 0);
	return at;
}

/* Whether it is text, or may become text when more comes. */
static bool slow_text(const char *data, size_t n, bool last)
{
	const unsigned char *p = (const unsigned char *)data;
	size_t at = slow_utf8(p, n), rest = n - at;

	if (rest == 0)
		return true;
	if (last || p[at] < 0xc0 || rest >= (p[at] < 0xe0 ? 2U : p[at] < 0xf0 ? 3U : 4U))
		return false;
	while (--rest > 0)
		if (p[at + rest] < 0x80 || p[at + rest] > 0xbf)
			return false;
	return true;
}

static void say(struct text *out, char kind, const char *data, size_t len)
{
	text_add(out, &kind, 1);
	text_add(out, data, len);
	text_add(out, "|", 1);
}

static bool say_error(struct slow *s, const char *word)
{
	say(s->out, 'E', word, strlen(word));
	return false;
}

static bool slow_control(struct slow *s, unsigned opcode, const char *data, size_t len)
{
	unsigned code;

	if (opcode != 8) {
		say(s->out, opcode == 9 ? 'I' : 'O', data, len);
		return true;
	}
	if (len == 1)
		return say_error(s, WEBSOCKET_MALFORMED);
	if (len >= 2) {
		code = (unsigned)(unsigned char)data[0] << 8 | (unsigned char)data[1];
		if (code < 1000 || (code > 1003 && code < 1007) || (code > 1014 && code < 3000) ||
		    code > 4999)
			return say_error(s, WEBSOCKET_MALFORMED);
		if (!slow_text(data + 2, len - 2, true))
			return say_error(s, WEBSOCKET_NOT_UTF8);
	}
	say(s->out, 'C', data, len);
	return false;
}

/* One frame; false: there is none that is whole, or it is the last. */
static bool slow_frame(struct slow *s)
{
	const unsigned char *p = (const unsigned char *)s->in.data;
	size_t n = s->in.len, head = 2;
	unsigned opcode;
	uint64_t len;
	size_t there;
	char *data;
	bool fine, last;

	if (n < 2)
		return false;
	opcode = p[0] & 15;
	len = p[1] & 127;
	if (opcode >= 8 && (len > 125 || !(p[0] & 0x80)))
		return say_error(s, WEBSOCKET_MALFORMED);
	if (len >= 126) {
		head += len == 126 ? 2 : 8;
		if (n < head)
			return false;
		len = 0;
		for (size_t i = 2; i < head; i++)
			len = len << 8 | p[i];
		if (head == 4 ? len < 126 : len < 65536 || len >> 63 != 0)
			return say_error(s, WEBSOCKET_MALFORMED);
	}
	head += p[1] & 128 ? 4 : 0;
	/* Nothing is said of a frame before a byte of its payload is there. */
	if (n < head || (len > 0 && n == head))
		return false;
	if (p[0] & 0x70 || !(p[1] & 128) || (opcode > 2 && opcode < 8) || opcode > 10 ||
	    (opcode < 3 && s->within != (opcode == 0)))
		return say_error(s, WEBSOCKET_MALFORMED);
	if (opcode < 3) {
		if (opcode > 0) {
			s->text = opcode == 1;
			s->fragments = 0;
		}
		if (s->message.len + len > s->message_bytes)
			return say_error(s, WEBSOCKET_TOO_LONG);
		if (++s->fragments > WEBSOCKET_FRAGMENTS_MAX)
			return say_error(s, WEBSOCKET_FRAGMENTS);
		s->within = true;
	}
	there = n - head < len ? n - head : (size_t)len;
	data = exact_copy(p + head, there);
	for (size_t i = 0; i < there; i++)
		data[i] = (char)(data[i] ^ (char)p[head - 4 + i % 4]);
	s->in = span_skip(s->in, head + there);
	if (opcode >= 8) {
		fine = there == len && slow_control(s, opcode, data, there);
		free(data);
		return fine;
	}
	text_add(&s->message, data, there);
	free(data);
	last = there == len && p[0] & 0x80;
	if (s->text && !slow_text(s->message.data, s->message.len, last))
		return say_error(s, WEBSOCKET_NOT_UTF8);
	if (!last)
		return there == len;
	s->within = false;
	say(s->out, s->text ? 'T' : 'B', s->message.data, s->message.len);
	s->message.len = 0;
	return true;
}

static struct text slow_decode(struct span in, uint64_t message_bytes)
{
	struct text out = { 0 };
	struct slow s = { .in = in, .message_bytes = message_bytes, .out = &out };

	while (slow_frame(&s))
		;
	free(s.message.data);
	return out;
}

/* ---- ours ---- */

struct ours {
	struct websocket_reader *reader;
	uint64_t message_bytes;
	struct text message, *out;
};

static enum taken take(void *context, struct span in, size_t *used)
{
	struct ours *o = context;
	struct websocket_event e;
	char code[2];

	for (struct span rest = in;;) {
		websocket_decode(o->reader, &rest, o->message_bytes, &e);
		*used = in.len - rest.len;
		switch (e.kind) {
		case WEBSOCKET_EVENT_MORE:
			check(rest.len == 0, "it leaves bytes");
			return TAKE_MORE;
		case WEBSOCKET_EVENT_PART:
			text_add(&o->message, e.bytes.data, e.bytes.len);
			check(o->message.len <= o->message_bytes, "a message is too long");
			if (!e.last)
				break;
			say(o->out, e.text ? 'T' : 'B', o->message.data, o->message.len);
			o->message.len = 0;
			break;
		case WEBSOCKET_EVENT_PING:
			say(o->out, 'I', e.bytes.data, e.bytes.len);
			break;
		case WEBSOCKET_EVENT_PONG:
			say(o->out, 'O', e.bytes.data, e.bytes.len);
			break;
		case WEBSOCKET_EVENT_CLOSE:
			text_add(o->out, "C", 1);
			code[0] = (char)(e.close_code >> 8);
			code[1] = (char)e.close_code;
			if (e.close_code != 0)
				text_add(o->out, code, 2);
			text_add(o->out, e.bytes.data, e.bytes.len);
			text_add(o->out, "|", 1);
			return TAKE_NO_MORE;
		case WEBSOCKET_EVENT_ERROR:
		default:
			say(o->out, 'E', e.last_word, strlen(e.last_word));
			return TAKE_NO_MORE;
		}
	}
}

static struct text decode(struct span in, uint64_t message_bytes, unsigned step)
{
	struct text out = { 0 };
	struct ours o = { .message_bytes = message_bytes, .out = &out };

	o.reader = websocket_reader_new();
	check(o.reader != NULL, "out of memory");
	feed(in, step, take, &o);
	websocket_reader_free(o.reader);
	free(o.message.data);
	return out;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct text slow, whole, split;
	uint64_t message_bytes;
	struct span in;

	if (size < 2)
		return 0;
	message_bytes = data[0] < 200 ? data[0] : 100000;
	in = (struct span){ (const char *)data + 2, size - 2 };
	slow = slow_decode(in, message_bytes);
	whole = decode(in, message_bytes, 0);
	split = decode(in, message_bytes, 1 + data[1] % 80);
	check(whole.len == split.len &&
		      (whole.len == 0 || memcmp(whole.data, split.data, whole.len) == 0),
	      "where it is split changes what comes of it");
	free(split.data);
	text_same(&slow, &whole);
	return 0;
}
