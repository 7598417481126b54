#include "protocol/websocket.h"

#include <assert.h>
#include <string.h>
#include <wslay/wslay.h>

#include "base/base64.h"
#include "base/digest.h"
#include "base/memory.h"
#include "base/name.h"

/* ---- the handshake ---- */

static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

enum { KEY_BYTES = 24 }; /* 16 in base64 */

bool websocket_accept(struct span key, char out[WEBSOCKET_ACCEPT_BYTES])
{
	char bytes[KEY_BYTES / 4 * 3], text[KEY_BYTES + sizeof(guid) - 1];
	unsigned char digest[DIGEST_SHA1_BYTES];

	if (key.len != KEY_BYTES || base64_get(key, bytes) != 16)
		return false;
	memcpy(text, key.data, KEY_BYTES);
	memcpy(text + KEY_BYTES, guid, sizeof(guid) - 1);
	if (!digest_sha1((struct span){ text, sizeof(text) }, digest))
		return false;
	base64_put(out, (struct span){ (const char *)digest, sizeof(digest) });
	return true;
}

/* ---- text in parts ---- */

/* The beginning of a code point whose rest is still to come. */
struct begun {
	char bytes[4];
	uint8_t n;
};

/* Bytes of a code point that begins so; what begins none is found out by utf8_valid. */
static size_t code_point_bytes(char first)
{
	unsigned char c = (unsigned char)first;

	return c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

static bool continues(char c)
{
	return ((unsigned char)c & 0xc0) == 0x80;
}

/* How many bytes at the end begin a code point and are not all of it. */
static size_t begun_at_end(struct span part)
{
	for (size_t n = 1; n <= 3 && n <= part.len; n++) {
		char c = part.data[part.len - n];

		if (!continues(c))
			return code_point_bytes(c) > n ? n : 0;
	}
	return 0;
}

/* Whether a text can go on with this part, or end with it. Wherever it is split, it is found out at
 * the same byte that it is none. */
static bool text_goes_on(struct begun *begun, struct span part, bool last)
{
	size_t rest;

	while (begun->n > 0 && part.len > 0) {
		if (!continues(*part.data))
			return false;
		begun->bytes[begun->n++] = *part.data;
		part = span_skip(part, 1);
		if (begun->n < code_point_bytes(begun->bytes[0]))
			continue;
		if (!utf8_valid((struct span){ begun->bytes, begun->n }))
			return false;
		begun->n = 0;
	}
	if (begun->n > 0)
		return !last;
	rest = last ? 0 : begun_at_end(part);
	part.len -= rest;
	if (!utf8_valid(part))
		return false;
	if (rest > 0)
		memcpy(begun->bytes, part.data + part.len, rest);
	begun->n = (uint8_t)rest;
	return true;
}

/* ---- frames ---- */

enum {
	LIBRARY_BYTES = 4500, /* of wslay's context, most of it what it reads ahead into */
	MASK_BYTES = 4,
};

struct websocket_reader {
	wslay_frame_context_ptr frames;
	struct span in;  /* what the library may still read */
	size_t held;     /* bytes that it has read and not told us of */
	uint64_t left;   /* of the frame's payload */
	bool in_frame;   /* some of it has been looked at */
	bool in_control; /* it is a control frame */
	bool in_message; /* a message has begun and not ended */
	bool text;
	uint32_t fragments;
	uint64_t message_bytes;
	struct begun begun;
	uint8_t control_len;
	char control[WEBSOCKET_CONTROL_BYTES_MAX];
	char closing[6]; /* what a Close that has come is answered with; or "" */
};

/* The library's way to come to the bytes. */
static ssize_t give(uint8_t *out, size_t room, int flags, void *context)
{
	struct websocket_reader *r = context;
	size_t n = r->in.len < room ? r->in.len : room;

	(void)flags;
	if (n == 0)
		return -1;
	memcpy(out, r->in.data, n);
	r->in = span_skip(r->in, n);
	r->held += n;
	return (ssize_t)n;
}

struct websocket_reader *websocket_reader_new(void)
{
	static const struct wslay_frame_callbacks callbacks = { .recv_callback = give };
	struct websocket_reader *r = memory_new_zeroed(sizeof(*r));

	if (r == NULL)
		return NULL;
	if (wslay_frame_context_init(&r->frames, &callbacks, r) != 0) {
		memory_free(r);
		return NULL;
	}
	memory_count(LIBRARY_BYTES);
	return r;
}

void websocket_reader_free(struct websocket_reader *r)
{
	if (r == NULL)
		return;
	wslay_frame_context_free(r->frames);
	memory_count(-LIBRARY_BYTES);
	memory_free(r);
}

bool websocket_reader_idle(const struct websocket_reader *r)
{
	return r->held == 0 && !r->in_frame && !r->in_message;
}

const char *websocket_reader_closing(const struct websocket_reader *r)
{
	return r->closing[0] != 0 ? r->closing : NULL;
}

static void fail(struct websocket_event *e, const char *last_word)
{
	*e = (struct websocket_event){ .kind = WEBSOCKET_EVENT_ERROR, .last_word = last_word };
}

/* A frame of a message begins. NULL, or the last word if it may not be there. */
static const char *begin_data(struct websocket_reader *r, const struct wslay_frame_iocb *frame,
			      uint64_t message_bytes)
{
	if (r->in_message != (frame->opcode == WEBSOCKET_CONTINUATION))
		return WEBSOCKET_MALFORMED;
	if (!r->in_message) {
		r->text = frame->opcode == WEBSOCKET_TEXT;
		r->message_bytes = 0;
		r->fragments = 0;
	}
	r->in_message = true;
	if (r->message_bytes > message_bytes ||
	    frame->payload_length > message_bytes - r->message_bytes)
		return WEBSOCKET_TOO_LONG;
	r->message_bytes += frame->payload_length;
	if (++r->fragments > WEBSOCKET_FRAGMENTS_MAX)
		return WEBSOCKET_FRAGMENTS;
	return NULL;
}

/* What a frame must be before any of its payload is looked at; lengths have been, and that control
 * frames are short and whole. */
static const char *begin_frame(struct websocket_reader *r, const struct wslay_frame_iocb *frame,
			       uint64_t message_bytes)
{
	r->in_frame = true;
	r->in_control = false;
	r->left = frame->payload_length;
	r->held -= websocket_head_len(frame->payload_length) + (frame->mask ? MASK_BYTES : 0);
	if (frame->rsv != 0 || !frame->mask)
		return WEBSOCKET_MALFORMED;
	switch (frame->opcode) {
	case WEBSOCKET_CONTINUATION:
	case WEBSOCKET_TEXT:
	case WEBSOCKET_BINARY:
		return begin_data(r, frame, message_bytes);
	case WEBSOCKET_CLOSE:
	case WEBSOCKET_PING:
	case WEBSOCKET_PONG:
		r->in_control = true;
		r->control_len = 0;
		return NULL;
	default:
		return WEBSOCKET_MALFORMED;
	}
}

/* Codes that may stand in a frame (7.4, and the registry that it makes). */
static bool close_code_valid(unsigned code)
{
	return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
	       (code >= 3000 && code <= 4999);
}

static void end_close(struct websocket_reader *r, struct span bytes, struct websocket_event *e)
{
	if (bytes.len > 0) {
		e->close_code = (unsigned)(unsigned char)bytes.data[0] << 8;
		e->close_code |= bytes.len > 1 ? (unsigned char)bytes.data[1] : 0;
		e->bytes = span_skip(bytes, bytes.len > 1 ? 2 : 1);
	}
	if (bytes.len == 1 || (bytes.len > 1 && !close_code_valid(e->close_code)))
		fail(e, WEBSOCKET_MALFORMED);
	else if (!utf8_valid(e->bytes))
		fail(e, WEBSOCKET_NOT_UTF8);
	else
		websocket_close_word(e->close_code, r->closing);
}

static void end_control(struct websocket_reader *r, uint8_t opcode, struct websocket_event *e)
{
	struct span bytes = { r->control, r->control_len };

	e->bytes = bytes;
	e->kind = opcode == WEBSOCKET_PING   ? WEBSOCKET_EVENT_PING
		  : opcode == WEBSOCKET_PONG ? WEBSOCKET_EVENT_PONG
					     : WEBSOCKET_EVENT_CLOSE;
	if (opcode == WEBSOCKET_CLOSE)
		end_close(r, bytes, e);
}

/* A part of a frame's payload; true: it makes an event. */
static bool take_part(struct websocket_reader *r, const struct wslay_frame_iocb *frame,
		      struct websocket_event *e)
{
	struct span part = { (const char *)frame->data, frame->data_length };
	bool last = frame->fin && r->left == part.len;

	r->held -= part.len;
	r->left -= part.len;
	r->in_frame = r->left > 0;
	if (r->in_control) {
		memcpy(r->control + r->control_len, part.data, part.len);
		r->control_len += (uint8_t)part.len;
		if (!r->in_frame)
			end_control(r, frame->opcode, e);
		return !r->in_frame;
	}
	r->in_message = !last;
	if (r->text && !text_goes_on(&r->begun, part, last)) {
		fail(e, WEBSOCKET_NOT_UTF8);
		return true;
	}
	*e = (struct websocket_event){
		.kind = WEBSOCKET_EVENT_PART, .bytes = part, .text = r->text, .last = last
	};
	return part.len > 0 || last;
}

void websocket_decode(struct websocket_reader *r, struct span *in, uint64_t message_bytes,
		      struct websocket_event *e)
{
	struct wslay_frame_iocb frame;
	const char *wrong;
	ssize_t n;

	r->in = *in;
	do {
		*e = (struct websocket_event){ .kind = WEBSOCKET_EVENT_MORE };
		memset(&frame, 0, sizeof(frame));
		n = wslay_frame_recv(r->frames, &frame);
		if (n == WSLAY_ERR_WANT_READ)
			break;
		wrong = n < 0 ? WEBSOCKET_MALFORMED : NULL;
		if (wrong == NULL && !r->in_frame)
			wrong = begin_frame(r, &frame, message_bytes);
		if (wrong != NULL) {
			fail(e, wrong);
			break;
		}
	} while (!take_part(r, &frame, e));
	*in = r->in;
}

size_t websocket_head(enum websocket_opcode opcode, uint64_t bytes, char out[WEBSOCKET_HEAD_MAX])
{
	size_t n = websocket_head_len(bytes);

	out[0] = (char)(0x80 | opcode);
	out[1] = (char)(n == 2 ? bytes : n == 4 ? 126 : 127);
	for (size_t i = n; i-- > 2; bytes >>= 8)
		out[i] = (char)(bytes & 0xff);
	return n;
}

size_t websocket_pong(struct span bytes, char *out)
{
	size_t n = websocket_head(WEBSOCKET_PONG, bytes.len, out);

	if (bytes.len > 0)
		memcpy(out + n, bytes.data, bytes.len);
	return n + bytes.len;
}

void websocket_close_word(unsigned code, char out[6])
{
	memcpy(out, WEBSOCKET_CLOSED, sizeof(WEBSOCKET_CLOSED));
	if ((code & 0xff) == 0)
		return;
	out[2] = (char)(code >> 8);
	out[3] = (char)code;
}
