#include "protocol/sse.h"

#include <assert.h>
#include <stdio.h>

#include "base/base64.h"
#include "base/id.h"
#include "base/name.h"

enum {
	CHUNK_AROUND_MAX = 16 + 4, /* size and two ends of line */
};

static const char event_field[] = "event: ";
static const char event_base64[] = "base64";
static const char id_field[] = "id: ";
static const char data_field[] = "data: ";

enum {
	/* All of an event but its data and what comes once per line of it. */
	EVENT_AROUND_MAX = CHUNK_AROUND_MAX + sizeof(event_field) + sizeof(event_base64) +
			   NAME_BYTES_MAX + 1 + sizeof(id_field) + ID_BYTES_MAX +
			   sizeof(data_field) + 3,
	PER_LINE = sizeof(data_field) - 1 + 1,
	/* Of so many messages of at most so many bytes it is worth knowing whether they are text.
	 */
	MANY = 64,
	SHORT_BYTES = 32,
};

/* ---- chunks ---- */

static size_t hex_digits(size_t n)
{
	size_t digits = 1;

	while (n >>= 4)
		digits++;
	return digits;
}

/* "<size>\r\n" */
static char *put_size(char *out, size_t n)
{
	static const char hex[] = "0123456789abcdef";
	size_t digits = hex_digits(n);

	for (size_t i = digits; i-- > 0; n >>= 4)
		out[i] = hex[n & 15];
	memcpy(out + digits, "\r\n", 2);
	return out + digits + 2;
}

/* The first end of a chunk at or after the offset. */
static size_t chunk_boundary(struct span encoded, size_t offset)
{
	size_t at = 0;

	while (at < offset && at < encoded.len) {
		size_t size = 0;

		for (; encoded.data[at] != '\r'; at++) {
			char c = encoded.data[at];

			size = size << 4 | (size_t)(c <= '9' ? c - '0' : c - 'a' + 10);
		}
		at += 2 + size + 2;
	}
	assert(at <= encoded.len);
	return at;
}

/* ---- events ---- */

#define EACH(byte) (UINT64_MAX / 255 * (byte))

/* Whether the message can stand in data fields: UTF-8 without CR or NUL. Most are ASCII, eight
 * bytes at a time. */
static bool is_text(struct span message)
{
	size_t i = 0;

	for (; i + 8 <= message.len; i += 8) {
		uint64_t word, cr;

		memcpy(&word, message.data + i, 8);
		cr = word ^ EACH('\r');
		if (((word - EACH(1)) | (cr - EACH(1)) | word) & EACH(0x80))
			break;
	}
	if (memchr(message.data + i, 0, message.len - i) != NULL ||
	    memchr(message.data + i, '\r', message.len - i) != NULL)
		return false;
	return utf8_valid(span_skip(message, i));
}

static char *put(char *out, const char *data, size_t len)
{
	memcpy(out, data, len);
	return out + len;
}

static size_t count_lf(struct span s)
{
	size_t n = 0;
	const char *lf;

	while (s.len > 0 && (lf = memchr(s.data, '\n', s.len)) != NULL) {
		n++;
		s = span_skip(s, (size_t)(lf - s.data) + 1);
	}
	return n;
}

/* Where the stream has a parameter it is for many topics, and an event says which; then there is no
 * number that whoever is cut off could come back with. Nor is there of what leaves nothing behind.
 */
static bool says_topic(const struct wire *wire)
{
	return wire->parameter.len > 0;
}

/* What of an event comes before its data. */
static char *put_event(char *out, const struct wire *wire, const struct run *run, bool text,
		       uint64_t seq)
{
	bool topic = says_topic(wire);

	if (!text || topic)
		out = put(out, event_field, sizeof(event_field) - 1);
	if (!text)
		out = put(out, event_base64, sizeof(event_base64) - 1);
	if (!text && topic)
		*out++ = ' ';
	if (topic)
		out = put(out, run->topic.data, run->topic.len);
	if (!text || topic)
		*out++ = '\n';
	if (topic || run->epoch == 0)
		return out;
	out = put(out, id_field, sizeof(id_field) - 1);
	out = id_put(out, run->epoch, seq);
	*out++ = '\n';
	return out;
}

static char *put_text(char *out, struct span message)
{
	for (;;) {
		const char *lf = message.len > 0 ? memchr(message.data, '\n', message.len) : NULL;
		size_t n = lf != NULL ? (size_t)(lf - message.data) : message.len;

		out = put(out, data_field, sizeof(data_field) - 1);
		out = put(out, message.data, n);
		*out++ = '\n';
		if (lf == NULL)
			return out;
		message = span_skip(message, n + 1);
	}
}

static size_t sse_tell_gap(const struct wire *wire, uint64_t epoch, uint64_t seq, char *out)
{
	(void)wire;
	return sse_gap(true, epoch, seq, out);
}

static size_t sse_plain_tell_gap(const struct wire *wire, uint64_t epoch, uint64_t seq, char *out)
{
	(void)wire;
	return sse_gap(false, epoch, seq, out);
}

static uint32_t every_message(const struct wire *wire, const struct run *run)
{
	(void)wire;
	return run->messages;
}

/* Whether lines are text without looking at each: most are ASCII. */
static bool are_text(struct span lines)
{
	uint64_t others = 0;
	size_t i = 0;

	for (; i + 8 <= lines.len && others == 0; i += 8) {
		uint64_t word;

		memcpy(&word, lines.data + i, 8);
		others = ((word - EACH(1)) | word) & EACH(0x80);
	}
	for (; i < lines.len && others == 0; i++)
		others = (signed char)lines.data[i] <= 0;
	return others == 0;
}

/* Of the messages of a run, all together. */
static size_t payload_bytes(const struct run *run)
{
	size_t around = run->form == RUN_ONE ? 0 : run->form == RUN_LINES ? 2 : RECORD_HEAD_BYTES;

	return run->body.len - run->messages * around;
}

/* Most of what comes with the data of one event of a run. */
static size_t event_around(const struct wire *wire, const struct run *run, size_t data, bool text)
{
	uint64_t last = run_number(run) + run->messages;
	size_t n = sizeof(id_field) - 1 + 16 + 1 + 1 + 1 + 1;

	for (; last >= 10; last /= 10)
		n++;
	if (!text)
		n += sizeof(event_field) - 1 + sizeof(event_base64) - 1 + 1;
	if (says_topic(wire))
		n += sizeof(event_field) + run->topic.len + 1;
	return hex_digits(n + data) + 4 + n;
}

/* Many short messages come to many times what they are, and nearly to this: it is what is reserved
 * for them. */
static size_t sse_encoded_max(const struct wire *wire, const struct run *run)
{
	size_t m = run->messages, payload = payload_bytes(run), data = payload + m * PER_LINE;
	/* Four for three, and what each is filled up by. */
	size_t base64 = base64_len(payload) + m * (PER_LINE + 4);
	bool text = run->form == RUN_LINES && m >= MANY && payload <= m * SHORT_BYTES &&
		    are_text(run->body);

	/* Of records it counts those in their heads too. */
	if (run->form != RUN_LINES)
		data += count_lf(run->body) * PER_LINE;
	if (!text && data < base64)
		data = base64;
	return m * event_around(wire, run, data - (m - 1) * PER_LINE, text) + data;
}

static size_t encode_events(const struct wire *wire, const struct run *run, char *out, bool chunked)
{
	struct run rest = *run;
	struct span message;
	char *at = out;

	for (uint64_t seq = run_number(run); run_next(&rest, &message); seq++) {
		bool text = is_text(message);
		char head[EVENT_AROUND_MAX];
		size_t n = (size_t)(put_event(head, wire, run, text, seq) - head);
		/* Each LF within is the end of a line and not counted twice. */
		size_t lf = run->form == RUN_LINES || !text ? 0 : count_lf(message);
		size_t data = (text ? message.len + lf * (PER_LINE - 1) : base64_len(message.len)) +
			      PER_LINE;

		if (chunked)
			at = put_size(at, n + data + 1);
		at = put(at, head, n);
		if (text) {
			at = put_text(at, message);
		} else {
			at = put(at, data_field, sizeof(data_field) - 1);
			at = base64_put(at, message);
			*at++ = '\n';
		}
		*at++ = '\n';
		if (chunked)
			at = put(at, "\r\n", 2);
	}
	return (size_t)(at - out);
}

static size_t sse_encode(const struct wire *wire, const struct run *run, char *out)
{
	return encode_events(wire, run, out, true);
}

static size_t sse_plain_encode(const struct wire *wire, const struct run *run, char *out)
{
	return encode_events(wire, run, out, false);
}

/* Only one line of text lies in its block as it is sent. */
static bool sse_enclosable(const struct wire *wire, const struct run *run)
{
	struct span message = run_only(run);

	(void)wire;
	return is_text(message) && memchr(message.data, '\n', message.len) == NULL;
}

static void enclose_event(const struct wire *wire, const struct run *run, bool chunked,
			  char *prefix, size_t *prefix_len, struct span *body, char *suffix,
			  size_t *suffix_len)
{
	char head[EVENT_AROUND_MAX], *at = prefix;
	size_t n = (size_t)(put_event(head, wire, run, true, run_number(run)) - head);

	*body = run_only(run);
	if (chunked)
		at = put_size(at, n + PER_LINE + body->len + 1);
	at = put(at, head, n);
	at = put(at, data_field, sizeof(data_field) - 1);
	*prefix_len = (size_t)(at - prefix);
	*suffix_len = chunked ? 4 : 2;
	memcpy(suffix, "\n\n\r\n", *suffix_len);
}

static void sse_enclose(const struct wire *wire, const struct run *run, char *prefix,
			size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	enclose_event(wire, run, true, prefix, prefix_len, body, suffix, suffix_len);
}

static void sse_plain_enclose(const struct wire *wire, const struct run *run, char *prefix,
			      size_t *prefix_len, struct span *body, char *suffix,
			      size_t *suffix_len)
{
	enclose_event(wire, run, false, prefix, prefix_len, body, suffix, suffix_len);
}

/* An event ends at its empty line, and no line of data is empty. */
static size_t event_boundary(struct span encoded, size_t offset)
{
	const char *end;

	if (offset == 0)
		return 0;
	if (offset >= 2 && memcmp(encoded.data + offset - 2, "\n\n", 2) == 0)
		return offset;
	/* The first of the two may be the byte before. */
	end = memmem(encoded.data + offset - 1, encoded.len - offset + 1, "\n\n", 2);
	return end != NULL ? (size_t)(end - encoded.data) + 2 : encoded.len;
}

const struct wire_format sse_format = { .name = "sse",
					.encodable = every_message,
					.encoded_max = sse_encoded_max,
					.encode = sse_encode,
					.enclosable = sse_enclosable,
					.enclose = sse_enclose,
					.gap = sse_tell_gap,
					.boundary = chunk_boundary };

const struct wire_format sse_plain_format = { .name = "sse-plain",
					      .encodable = every_message,
					      .encoded_max = sse_encoded_max,
					      .encode = sse_plain_encode,
					      .enclosable = sse_enclosable,
					      .enclose = sse_plain_enclose,
					      .gap = sse_plain_tell_gap,
					      .boundary = event_boundary };

static size_t put_whole(bool chunked, const char *text, size_t n, char *out)
{
	char *at = chunked ? put_size(out, n) : out;

	at = put(at, text, n);
	if (chunked)
		at = put(at, "\r\n", 2);
	assert(at - out <= SSE_TEXT_MAX);
	return (size_t)(at - out);
}

/* An id of its own: it sets what a client comes back with, and is no event (WHATWG HTML, 9.2.6). */
static char *put_place(char *out, uint64_t epoch, uint64_t seq)
{
	/* Nowhere: a comment, then. */
	if (epoch == 0)
		return put(out, ":\n\n", 3);
	out = put(out, id_field, sizeof(id_field) - 1);
	out = id_put(out, epoch, seq);
	return put(out, "\n\n", 2);
}

size_t sse_start(bool chunked, uint64_t epoch, uint64_t seq, char *out)
{
	char text[80], *at = put_place(put(text, "retry: 1000\n", 12), epoch, seq);

	return put_whole(chunked, text, (size_t)(at - text), out);
}

size_t sse_heartbeat(bool chunked, uint64_t epoch, uint64_t seq, char *out)
{
	char text[64], *at = put_place(text, epoch, seq);

	return put_whole(chunked, text, (size_t)(at - text), out);
}

size_t sse_gap(bool chunked, uint64_t epoch, uint64_t oldest, char *out)
{
	char text[80], *at = put(text, "event: gap\ndata: ", 17);

	at = id_put(at, epoch, oldest);
	at = put(at, "\n\n", 2);
	return put_whole(chunked, text, (size_t)(at - text), out);
}

/* ---- plain bytes ---- */

/* An empty chunk is the end of a body (RFC 9112, 7.1): an empty message has no form. */
static uint32_t chunked_encodable(const struct wire *wire, const struct run *run)
{
	struct run rest = *run;
	struct span message;
	uint32_t n = 0;

	(void)wire;
	while (run_next(&rest, &message))
		n += message.len > 0;
	return n;
}

static size_t chunked_encoded_max(const struct wire *wire, const struct run *run)
{
	(void)wire;
	return run->body.len + run->messages * (size_t)CHUNK_AROUND_MAX;
}

static size_t chunked_encode(const struct wire *wire, const struct run *run, char *out)
{
	struct run rest = *run;
	struct span message;
	char *at = out;

	(void)wire;
	while (run_next(&rest, &message)) {
		if (message.len == 0)
			continue;
		at = put_size(at, message.len);
		at = put(at, message.data, message.len);
		at = put(at, "\r\n", 2);
	}
	return (size_t)(at - out);
}

static void chunked_enclose(const struct wire *wire, const struct run *run, char *prefix,
			    size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	(void)wire;
	*body = run_only(run);
	*prefix_len = (size_t)(put_size(prefix, body->len) - prefix);
	*suffix_len = 2;
	memcpy(suffix, "\r\n", 2);
}

const struct wire_format chunked_format = { .name = "chunked",
					    .encodable = chunked_encodable,
					    .encoded_max = chunked_encoded_max,
					    .encode = chunked_encode,
					    .enclose = chunked_enclose,
					    .boundary = chunk_boundary };

/* Whoever keeps them notes four bytes for each. */
static size_t bytes_encoded_max(const struct wire *wire, const struct run *run)
{
	(void)wire;
	return run->body.len + run->messages * sizeof(uint32_t);
}

static size_t bytes_encode(const struct wire *wire, const struct run *run, char *out)
{
	struct run rest = *run;
	struct span message;
	char *at = out;

	(void)wire;
	while (run_next(&rest, &message))
		if (message.len > 0)
			at = put(at, message.data, message.len);
	return (size_t)(at - out);
}

static void bytes_enclose(const struct wire *wire, const struct run *run, char *prefix,
			  size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	(void)wire;
	(void)prefix;
	(void)suffix;
	*body = run_only(run);
	*prefix_len = *suffix_len = 0;
}

const struct wire_format bytes_format = { .name = "bytes",
					  .encodable = chunked_encodable,
					  .encoded_max = bytes_encoded_max,
					  .encode = bytes_encode,
					  .enclose = bytes_enclose };
