#include "protocol/websocket_wire.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "base/base64.h"
#include "base/id.h"
#include "base/name.h"
#include "protocol/websocket.h"
#include "protocol/websocket_left_out.h"

static char *put(char *out, const char *data, size_t len)
{
	if (len > 0)
		memcpy(out, data, len);
	return out + len;
}

static uint32_t every_message(const struct wire *wire, const struct run *run)
{
	(void)wire;
	return run->messages;
}

size_t websocket_boundary(struct span encoded, size_t offset)
{
	const unsigned char *data = (const unsigned char *)encoded.data;
	size_t at = 0;

	while (at < offset && at < encoded.len) {
		size_t len = data[at + 1], n = len < 126 ? 0 : len == 126 ? 2 : 8;

		if (n > 0)
			len = 0;
		for (size_t i = 0; i < n; i++)
			len = len << 8 | data[at + 2 + i];
		at += 2 + n + len;
	}
	assert(at <= encoded.len);
	return at;
}

/* ---- messages as they are ---- */

/* Of the messages of a run, all together; records may have extras beside them. */
static size_t payload_bytes_max(const struct run *run)
{
	size_t around = run->form == RUN_ONE ? 0 : run->form == RUN_LINES ? 2 : RECORD_HEAD_BYTES;

	return run->body.len - run->messages * around;
}

static size_t plain_encoded_max(const struct wire *wire, const struct run *run)
{
	size_t payload = payload_bytes_max(run);

	(void)wire;
	return payload + run->messages * websocket_head_len(payload);
}

static size_t encode_plain(const struct run *run, bool binary, char *out)
{
	struct run rest = *run;
	struct span message;
	char *at = out;

	while (run_next(&rest, &message)) {
		bool text = !binary && utf8_valid(message);

		at += websocket_head(text ? WEBSOCKET_TEXT : WEBSOCKET_BINARY, message.len, at);
		at = put(at, message.data, message.len);
	}
	return (size_t)(at - out);
}

static size_t plain_encode(const struct wire *wire, const struct run *run, char *out)
{
	(void)wire;
	return encode_plain(run, false, out);
}

static size_t binary_encode(const struct wire *wire, const struct run *run, char *out)
{
	(void)wire;
	return encode_plain(run, true, out);
}

static void plain_enclose(const struct wire *wire, const struct run *run, char *prefix,
			  size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	(void)wire;
	(void)suffix;
	*body = run_only(run);
	*prefix_len = websocket_head(utf8_valid(*body) ? WEBSOCKET_TEXT : WEBSOCKET_BINARY,
				     body->len, prefix);
	*suffix_len = 0;
}

static void binary_enclose(const struct wire *wire, const struct run *run, char *prefix,
			   size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	(void)wire;
	(void)suffix;
	*body = run_only(run);
	*prefix_len = websocket_head(WEBSOCKET_BINARY, body->len, prefix);
	*suffix_len = 0;
}

const struct wire_format websocket_format = { .name = "websocket",
					      .encodable = every_message,
					      .encoded_max = plain_encoded_max,
					      .encode = plain_encode,
					      .enclose = plain_enclose,
					      .boundary = websocket_boundary };

const struct wire_format websocket_binary_format = { .name = "websocket-binary",
						     .encodable = every_message,
						     .encoded_max = plain_encoded_max,
						     .encode = binary_encode,
						     .enclose = binary_enclose,
						     .boundary = websocket_boundary };

/* ---- JSON ---- */

#define EACH(byte) (UINT64_MAX / 255 * (uint64_t)(byte))

/* What stands for a byte in a JSON string, RFC 8259, 7; 1: it itself. */
static size_t escaped_len(char c)
{
	if (c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t')
		return 2;
	return (unsigned char)c < ' ' ? 6 : 1;
}

size_t json_plain_bytes(struct span text)
{
	size_t n = 0;

	for (uint64_t word; n + sizeof(word) <= text.len; n += sizeof(word)) {
		uint64_t quote, backslash, special;

		memcpy(&word, text.data + n, sizeof(word));
		word = le64toh(word);
		quote = word ^ EACH('"');
		backslash = word ^ EACH('\\');
		/* What is smaller than what is subtracted borrows from its byte's highest bit; the
		 * lowest byte that shows it does so itself. */
		special = ((word - EACH(' ')) & ~word) | ((quote - EACH(1)) & ~quote) |
			  ((backslash - EACH(1)) & ~backslash);
		special &= EACH(0x80);
		if (special != 0)
			return n + (size_t)__builtin_ctzll(special) / 8;
	}
	while (n < text.len && escaped_len(text.data[n]) == 1)
		n++;
	return n;
}

static size_t string_len(struct span text)
{
	size_t len = 2;

	while (text.len > 0) {
		size_t n = json_plain_bytes(text);

		len += n;
		text = span_skip(text, n);
		if (text.len == 0)
			break;
		len += escaped_len(*text.data);
		text = span_skip(text, 1);
	}
	return len;
}

static char *put_escaped(char *out, char c)
{
	static const char hex[] = "0123456789abcdef";

	*out++ = '\\';
	if (escaped_len(c) == 2) {
		*out++ = c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c;
		return out;
	}
	out = put(out, "u00", 3);
	*out++ = hex[(unsigned char)c >> 4];
	*out++ = hex[(unsigned char)c & 15];
	return out;
}

static char *put_string(char *out, struct span text)
{
	*out++ = '"';
	while (text.len > 0) {
		size_t n = json_plain_bytes(text);

		out = put(out, text.data, n);
		text = span_skip(text, n);
		if (text.len == 0)
			break;
		out = put_escaped(out, *text.data);
		text = span_skip(text, 1);
	}
	*out++ = '"';
	return out;
}

size_t websocket_json_string(struct span text, char *out)
{
	return (size_t)(put_string(out, text) - out);
}

static const char topic_field[] = "{\"topic\":";
static const char id_field[] = ",\"id\":\"";
static const char data_field[] = ",\"data\":";
static const char base64_field[] = ",\"base64\":\"";

/* What is the same in the frames of a run: up to the number of a message. */
struct opening {
	char text[sizeof(topic_field) + 2 * NAME_BYTES_MAX + 2 + sizeof(id_field) + 16 + 1];
	size_t len;
};

/* A topic that keeps no history has no ids. */
static bool has_ids(const struct run *run)
{
	return run->epoch != 0;
}

static void open_run(const struct run *run, struct opening *o)
{
	char *at = put(o->text, topic_field, sizeof(topic_field) - 1);

	at = put_string(at, run->topic);
	if (has_ids(run)) {
		at = put(at, id_field, sizeof(id_field) - 1);
		/* The number is each message's own. */
		at = id_put(at, run->epoch, 0) - 1;
	}
	o->len = (size_t)(at - o->text);
}

/* Bytes of a frame's payload beside the data and what the run opens with. */
static size_t fields_len(bool ids, uint64_t seq, bool text)
{
	return (ids ? decimal_digits(seq) + 1 : 0) +
	       (text ? sizeof(data_field) - 1 : sizeof(base64_field) - 1 + 1) + 1;
}

static size_t data_len(struct span message, bool text)
{
	return text ? string_len(message) : base64_len(message.len);
}

/* Up to the data. */
static char *put_fields(char *out, const struct opening *o, bool ids, uint64_t seq, bool text)
{
	out = put(out, o->text, o->len);
	if (ids) {
		out = decimal_put(out, seq);
		*out++ = '"';
	}
	return text ? put(out, data_field, sizeof(data_field) - 1)
		    : put(out, base64_field, sizeof(base64_field) - 1);
}

static size_t json_encoded_max(const struct wire *wire, const struct run *run)
{
	struct run rest = *run;
	struct span message;
	struct opening o;
	size_t bytes = 0;

	(void)wire;
	open_run(run, &o);
	for (uint64_t seq = run_number(run); run_next(&rest, &message); seq++) {
		bool text = utf8_valid(message);
		size_t n = o.len + fields_len(has_ids(run), seq, text) + data_len(message, text);

		bytes += websocket_head_len(n) + n;
	}
	return bytes;
}

static size_t json_encode(const struct wire *wire, const struct run *run, char *out)
{
	struct run rest = *run;
	struct span message;
	struct opening o;
	bool ids = has_ids(run);
	char *at = out;

	(void)wire;
	open_run(run, &o);
	for (uint64_t seq = run_number(run); run_next(&rest, &message); seq++) {
		bool text = utf8_valid(message);

		at += websocket_head(WEBSOCKET_TEXT,
				     o.len + fields_len(ids, seq, text) + data_len(message, text),
				     at);
		at = put_fields(at, &o, ids, seq, text);
		at = text ? put_string(at, message) : base64_put(at, message);
		if (!text)
			*at++ = '"';
		*at++ = '}';
	}
	return (size_t)(at - out);
}

/* Only text with nothing to escape lies in its block as it is sent. */
static bool json_enclosable(const struct wire *wire, const struct run *run)
{
	struct span message = run_only(run);

	(void)wire;
	return utf8_valid(message) && string_len(message) == message.len + 2;
}

static void json_enclose(const struct wire *wire, const struct run *run, char *prefix,
			 size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	struct opening o;
	bool ids = has_ids(run);
	char *at = prefix;

	(void)wire;
	open_run(run, &o);
	*body = run_only(run);
	at += websocket_head(WEBSOCKET_TEXT,
			     o.len + fields_len(ids, run_number(run), true) + body->len + 2, at);
	at = put_fields(at, &o, ids, run_number(run), true);
	*at++ = '"';
	*prefix_len = (size_t)(at - prefix);
	memcpy(suffix, "\"}", 2);
	*suffix_len = 2;
	assert(*prefix_len <= WIRE_AROUND_MAX);
}

static bool json_wants(const struct wire *wire, struct span topic)
{
	return !left_out_has(wire->parameter, topic);
}

const struct wire_format websocket_json_format = { .name = "websocket-json",
						   .wants = json_wants,
						   .encodable = every_message,
						   .encoded_max = json_encoded_max,
						   .encode = json_encode,
						   .enclosable = json_enclosable,
						   .enclose = json_enclose,
						   .boundary = websocket_boundary };
