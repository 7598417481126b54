#include "protocol/websocket_command.h"

#include <assert.h>
#include <string.h>

#include "base/base64.h"
#include "base/id.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/name.h"
#include "protocol/line.h"
#include "protocol/websocket.h"
#include "protocol/websocket_wire.h"

/* ---- what is published, and the rest ---- */

/* Bytes of a string from behind its quote to the next one; text.len: it does not end. */
static size_t string_bytes(struct span text)
{
	size_t n = 0;

	while (n < text.len) {
		n += json_plain_bytes(span_skip(text, n));
		if (n >= text.len || text.data[n] == '"')
			return n;
		n += text.data[n] == '\\' ? 2 : 1;
	}
	return text.len;
}

struct rest {
	char *text;
	size_t len, room;
	bool full;
};

static void rest_add(struct rest *r, struct span s)
{
	r->full |= s.len > r->room - r->len;
	if (r->full || s.len == 0)
		return;
	memcpy(r->text + r->len, s.data, s.len);
	r->len += s.len;
}

static bool is_payload(struct span key)
{
	return span_equal(key, SPAN("data")) || span_equal(key, SPAN("base64"));
}

/* Copies the text, but for the string that is the payload, of which only the quotes stay. Whatever
 * else is wrong with it the library finds out. False: a string does not end, or there are two
 * payloads. */
static bool split(struct span text, struct rest *rest, struct span *payload)
{
	struct span key = { NULL, 0 }, string;
	size_t depth = 0, copied = 0;
	bool value = false;

	*payload = (struct span){ NULL, 0 };
	for (size_t i = 0; i < text.len; i++) {
		char c = text.data[i];

		if (c == '{' || c == '[') {
			depth++;
		} else if (c == '}' || c == ']') {
			depth -= depth > 0;
		} else if (depth == 1 && (c == ':' || c == ',')) {
			value = c == ':';
		} else if (c == '"') {
			string = span_skip(text, i + 1);
			string.len = string_bytes(string);
			if (i + 1 + string.len == text.len)
				return false;
			if (depth == 1 && !value)
				key = string;
			if (depth == 1 && value && is_payload(key)) {
				if (payload->data != NULL)
					return false;
				*payload = string;
				rest_add(rest, (struct span){ text.data + copied, i + 1 - copied });
				copied = i + 1 + string.len;
			}
			i += 1 + string.len;
		}
	}
	rest_add(rest, span_skip(text, copied));
	return true;
}

/* ---- members ---- */

struct reading {
	struct websocket_command *command;
	unsigned verbs, payloads;
	bool bad_name, malformed;
};

static bool take_word(const struct json_value *v, char *bytes, struct span *out)
{
	if (v->kind != JSON_IS_TEXT || v->text.len > WEBSOCKET_WORD_MAX)
		return false;
	if (v->text.len > 0)
		memcpy(bytes, v->text.data, v->text.len);
	*out = (struct span){ bytes, v->text.len };
	return true;
}

/* Any value, to be said back. */
static bool take_any(const struct json_value *v, struct websocket_command *c)
{
	c->ref.data = c->ref_bytes;
	c->ref.len = json_write(v, c->ref_bytes, sizeof(c->ref_bytes));
	return c->ref.len > 0;
}

static bool take_number(const struct json_value *v, uint64_t *n)
{
	if (v->kind != JSON_IS_NUMBER || v->number < 0)
		return false;
	*n = (uint64_t)v->number;
	return true;
}

static bool read_member(struct reading *r, struct span name, const struct json_value *v)
{
	static const struct {
		struct span name;
		enum websocket_verb verb;
	} verbs[] = {
		{ { "subscribe", 9 }, WEBSOCKET_SUBSCRIBE },
		{ { "unsubscribe", 11 }, WEBSOCKET_UNSUBSCRIBE },
		{ { "publish", 7 }, WEBSOCKET_PUBLISH },
		{ { "token", 5 }, WEBSOCKET_LOG_IN },
	};
	struct websocket_command *c = r->command;

	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++) {
		if (!span_equal(name, verbs[i].name))
			continue;
		r->verbs++;
		c->verb = verbs[i].verb;
		r->bad_name = !take_word(v, c->name_bytes, &c->name);
		return true;
	}
	if (span_equal(name, SPAN("ping"))) {
		r->verbs++;
		c->verb = WEBSOCKET_ASK;
		return take_any(v, c);
	}
	if (span_equal(name, SPAN("ref")))
		return take_any(v, c);
	if (is_payload(name)) {
		r->payloads++;
		c->base64 = name.len == 6;
		return v->kind == JSON_IS_TEXT;
	}
	if (span_equal(name, SPAN("last"))) {
		c->last = true;
		return take_number(v, &c->n);
	}
	if (span_equal(name, SPAN("from"))) {
		c->from = true;
		return v->kind == JSON_IS_TEXT && line_message_id(v->text, &c->epoch, &c->n);
	}
	return false;
}

/* Whatever is wrong, the others are looked at: an answer says back what it can. */
static bool member(void *context, struct span name, const struct json_value *v)
{
	struct reading *r = context;

	r->malformed |= !read_member(r, name, v);
	return true;
}

const char *websocket_command_read(struct span text, size_t command_bytes,
				   struct websocket_command *c)
{
	struct reading reading = { .command = c };
	struct rest rest = { .room = text.len < command_bytes ? text.len : command_bytes };
	bool fine;

	c->name = c->ref = c->payload = (struct span){ NULL, 0 };
	c->last = c->from = c->base64 = false;
	c->epoch = c->n = 0;
	rest.text = memory_new(rest.room + 1);
	if (rest.text == NULL)
		return "out of memory";
	fine = split(text, &rest, &c->payload) && !rest.full &&
	       json_members((struct span){ rest.text, rest.len }, member, &reading);
	memory_free(rest.text);
	if (rest.full)
		return LINE_TOO_LONG;
	if (!fine || reading.malformed || reading.verbs != 1 ||
	    reading.payloads != (c->verb == WEBSOCKET_PUBLISH) || (c->last && c->from) ||
	    ((c->last || c->from) && c->verb != WEBSOCKET_SUBSCRIBE))
		return LINE_MALFORMED;
	return reading.bad_name ? LINE_BAD_TOPIC : NULL;
}

/* ---- what is published ---- */

size_t websocket_payload_max(const struct websocket_command *c)
{
	return c->payload.len;
}

/* Four hexadecimal digits; -1: they are none. */
static int32_t code_unit(struct span s)
{
	int32_t unit = 0;

	if (s.len < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = s.data[i];
		int digit = c >= '0' && c <= '9'   ? c - '0'
			    : c >= 'a' && c <= 'f' ? c - 'a' + 10
			    : c >= 'A' && c <= 'F' ? c - 'A' + 10
						   : -1;

		if (digit < 0)
			return -1;
		unit = unit << 4 | digit;
	}
	return unit;
}

static char *put_code_point(char *out, uint32_t c)
{
	if (c < 0x80) {
		*out++ = (char)c;
		return out;
	}
	if (c < 0x800) {
		*out++ = (char)(0xc0 | c >> 6);
	} else {
		if (c < 0x10000) {
			*out++ = (char)(0xe0 | c >> 12);
		} else {
			*out++ = (char)(0xf0 | c >> 18);
			*out++ = (char)(0x80 | (c >> 12 & 0x3f));
		}
		*out++ = (char)(0x80 | (c >> 6 & 0x3f));
	}
	*out++ = (char)(0x80 | (c & 0x3f));
	return out;
}

/* \uXXXX, two of them where that is one code point: takes it off. False: it is none. */
static bool take_code_point(struct span *s, char **out)
{
	int32_t unit = code_unit(span_skip(*s, 2)), low;

	if (unit < 0 || (unit >= 0xdc00 && unit < 0xe000))
		return false;
	*s = span_skip(*s, 6);
	if (unit < 0xd800 || unit >= 0xe000) {
		*out = put_code_point(*out, (uint32_t)unit);
		return true;
	}
	low = s->len >= 6 && memcmp(s->data, "\\u", 2) == 0 ? code_unit(span_skip(*s, 2)) : -1;
	if (low < 0xdc00 || low >= 0xe000)
		return false;
	*s = span_skip(*s, 6);
	*out = put_code_point(
		*out, 0x10000 + ((uint32_t)(unit - 0xd800) << 10 | (uint32_t)(low - 0xdc00)));
	return true;
}

/* What a backslash begins: takes it off. */
static bool take_escaped(struct span *s, char **out)
{
	static const char letters[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
	const char *at;

	if (s->len < 2)
		return false;
	if (s->data[1] == 'u')
		return take_code_point(s, out);
	at = s->data[1] != 0 ? strchr(letters, s->data[1]) : NULL;
	if (at == NULL)
		return false;
	*(*out)++ = bytes[at - letters];
	*s = span_skip(*s, 2);
	return true;
}

/* The bytes of a string (RFC 8259, 7), which come to no more than it has. -1: malformed. */
static ptrdiff_t unescape(struct span s, char *out)
{
	char *at = out;

	while (s.len > 0) {
		size_t n = json_plain_bytes(s);

		if (n > 0)
			memcpy(at, s.data, n);
		at += n;
		s = span_skip(s, n);
		if (s.len == 0)
			break;
		/* Else it is a control character. */
		if (*s.data != '\\' || !take_escaped(&s, &at))
			return -1;
	}
	return at - out;
}

ptrdiff_t websocket_payload(const struct websocket_command *c, char *out)
{
	ptrdiff_t n = unescape(c->payload, out);

	/* What it becomes lies behind what it is made of. */
	return n < 0 || !c->base64 ? n : base64_get((struct span){ out, (size_t)n }, out);
}

/* ---- answers ---- */

struct answer {
	char *text; /* with room for the frame's head in front of it */
	size_t len;
};

static void add(struct answer *a, struct span s)
{
	if (s.len > 0)
		memcpy(a->text + a->len, s.data, s.len);
	a->len += s.len;
}

static void add_string(struct answer *a, struct span s)
{
	a->len += websocket_json_string(s, a->text + a->len);
}

static void add_id(struct answer *a, const char *key, uint64_t epoch, uint64_t seq)
{
	add(a, span_of(key));
	a->len = (size_t)(id_put(a->text + a->len, epoch, seq) - a->text);
	add(a, SPAN("\""));
}

static void add_ref(struct answer *a, struct span ref)
{
	if (ref.len == 0)
		return;
	add(a, SPAN(",\"ref\":"));
	add(a, ref);
}

static struct answer begin(char *out)
{
	return (struct answer){ .text = out + WEBSOCKET_HEAD_MAX };
}

/* The frame, from the start of `out` on. */
static size_t end(struct answer *a, char *out)
{
	size_t head;

	add(a, SPAN("}"));
	head = websocket_head(WEBSOCKET_TEXT, a->len, out);
	memmove(out + head, a->text, a->len);
	assert(WEBSOCKET_HEAD_MAX + a->len <= WEBSOCKET_ANSWER_MAX);
	return head + a->len;
}

size_t websocket_answer(const char *verb, struct span name, uint64_t epoch, uint64_t seq,
			struct span ref, char out[WEBSOCKET_ANSWER_MAX])
{
	struct answer a = begin(out);

	add(&a, SPAN("{\""));
	add(&a, span_of(verb));
	add(&a, SPAN("\":"));
	add_string(&a, name);
	if (epoch != 0)
		add_id(&a, ",\"id\":\"", epoch, seq);
	add_ref(&a, ref);
	return end(&a, out);
}

size_t websocket_answer_gap(struct span name, uint64_t epoch, uint64_t oldest,
			    char out[WEBSOCKET_ANSWER_MAX])
{
	struct answer a = begin(out);

	add(&a, SPAN("{\"topic\":"));
	add_string(&a, name);
	if (epoch != 0)
		add_id(&a, ",\"gap\":\"", epoch, oldest);
	else
		add(&a, SPAN(",\"gap\":null"));
	return end(&a, out);
}

size_t websocket_answer_error(const char *reason, struct span name, struct span ref,
			      char out[WEBSOCKET_ANSWER_MAX])
{
	struct answer a = begin(out);

	add(&a, SPAN("{\"error\":"));
	add_string(&a, span_of(reason));
	if (name.len > 0 && name.len <= NAME_BYTES_MAX) {
		add(&a, SPAN(",\"topic\":"));
		add_string(&a, name);
	}
	add_ref(&a, ref);
	return end(&a, out);
}

size_t websocket_answer_pong(struct span ref, char out[WEBSOCKET_ANSWER_MAX])
{
	struct answer a = begin(out);

	add(&a, SPAN("{\"pong\":"));
	add(&a, ref);
	return end(&a, out);
}
