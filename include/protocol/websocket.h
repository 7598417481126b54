#ifndef PROTOCOL_WEBSOCKET_H
#define PROTOCOL_WEBSOCKET_H

/*
 * WebSocket (RFC 6455), the server's side: the handshake's answer, and a client's frames to events.
 * Lengths and masks are a packaged library's; what a frame may be and where, and that text is
 * UTF-8, is looked at here. There are no extensions. Where bytes are split never changes what comes
 * of them. A reader belongs to one connection at a time; any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

enum {
	WEBSOCKET_ACCEPT_BYTES = 28,
	WEBSOCKET_CONTROL_BYTES_MAX = 125,  /* of a control frame's payload (5.5) */
	WEBSOCKET_FRAGMENTS_MAX = 16 << 10, /* of one message; beyond, the connection is ended */
	WEBSOCKET_HEAD_MAX = 10,            /* of a frame that is not masked */
};

enum websocket_opcode {
	WEBSOCKET_CONTINUATION = 0x0,
	WEBSOCKET_TEXT = 0x1,
	WEBSOCKET_BINARY = 0x2,
	WEBSOCKET_CLOSE = 0x8,
	WEBSOCKET_PING = 0x9,
	WEBSOCKET_PONG = 0xa,
};

/* What a connection ends with: whole Close frames, which hold no NUL. */
#define WEBSOCKET_CLOSED "\x88\x02\x03\xe8"
#define WEBSOCKET_DRAINING                                                                         \
	"\x88\x0a\x03\xe9"                                                                         \
	"draining"
#define WEBSOCKET_MALFORMED                                                                        \
	"\x88\x11\x03\xea"                                                                         \
	"malformed frame"
#define WEBSOCKET_TEXT_ONLY                                                                        \
	"\x88\x0b\x03\xeb"                                                                         \
	"text only"
#define WEBSOCKET_BINARY_ONLY                                                                      \
	"\x88\x0d\x03\xeb"                                                                         \
	"binary only"
#define WEBSOCKET_NOT_UTF8                                                                         \
	"\x88\x0b\x03\xef"                                                                         \
	"not UTF-8"
#define WEBSOCKET_NOT_PERMITTED                                                                    \
	"\x88\x0f\x03\xf0"                                                                         \
	"not permitted"
#define WEBSOCKET_EXPIRED                                                                          \
	"\x88\x0f\x03\xf0"                                                                         \
	"token expired"
#define WEBSOCKET_FRAGMENTS                                                                        \
	"\x88\x14\x03\xf0"                                                                         \
	"too many fragments"
#define WEBSOCKET_TOO_LONG                                                                         \
	"\x88\x0f\x03\xf1"                                                                         \
	"line too long"
#define WEBSOCKET_MESSAGE_TOO_LONG                                                                 \
	"\x88\x12\x03\xf1"                                                                         \
	"message too long"
#define WEBSOCKET_MEMORY                                                                           \
	"\x88\x0f\x03\xf3"                                                                         \
	"out of memory"
#define WEBSOCKET_SLOW                                                                             \
	"\x88\x0f\x03\xf5"                                                                         \
	"slow consumer"
#define WEBSOCKET_CONNECTIONS                                                                      \
	"\x88\x16\x03\xf5"                                                                         \
	"too many connections"
#define WEBSOCKET_SUBSCRIPTIONS                                                                    \
	"\x88\x18\x03\xf5"                                                                         \
	"too many subscriptions"
#define WEBSOCKET_TOPICS                                                                           \
	"\x88\x11\x03\xf5"                                                                         \
	"too many topics"
#define WEBSOCKET_PATTERNS                                                                         \
	"\x88\x13\x03\xf5"                                                                         \
	"too many patterns"
#define WEBSOCKET_GAP                                                                              \
	"\x88\x05\x03\xf5"                                                                         \
	"gap"
#define WEBSOCKET_UPSTREAM                                                                         \
	"\x88\x0a\x03\xf5"                                                                         \
	"upstream"
#define WEBSOCKET_TIMEOUT                                                                          \
	"\x88\x09\x03\xf5"                                                                         \
	"timeout"

/* ---- the handshake ---- */

/* The answer to a key (4.2.2). False: it is not 16 bytes in base64. */
bool websocket_accept(struct span key, char out[WEBSOCKET_ACCEPT_BYTES]);

/* ---- frames to events ---- */

enum websocket_event_kind {
	WEBSOCKET_EVENT_MORE,  /* nothing whole in what is left */
	WEBSOCKET_EVENT_PART,  /* bytes of a message; text, last */
	WEBSOCKET_EVENT_PING,  /* bytes */
	WEBSOCKET_EVENT_PONG,  /* bytes */
	WEBSOCKET_EVENT_CLOSE, /* close_code, or 0 where none was said; bytes: why */
	WEBSOCKET_EVENT_ERROR, /* last_word: the Close frame that says why it is at its end */
};

/* Spans are valid until the reader is used again. */
struct websocket_event {
	enum websocket_event_kind kind;
	struct span bytes;
	bool text; /* the message is */
	bool last; /* it ends with this part, which may be empty */
	unsigned close_code;
	const char *last_word;
};

/* NULL: out of memory. A connection needs one from the first byte of a message to its last: when it
 * is idle, it may serve another one. */
struct websocket_reader *websocket_reader_new(void);
void websocket_reader_free(struct websocket_reader *reader);
/* Whether nothing of a frame or a message has been kept. */
bool websocket_reader_idle(const struct websocket_reader *reader);
/* The answer to the Close that has come, which stays as long as the reader; NULL: none has. */
const char *websocket_reader_closing(const struct websocket_reader *reader);
/* The next event of what was kept and what is in *in, of which it takes what it reads. A message
 * may have so many bytes. After MORE all of *in is taken; it comes again with more. */
void websocket_decode(struct websocket_reader *reader, struct span *in, uint64_t message_bytes,
		      struct websocket_event *event);

/* ---- frames ---- */

/* The answer to a ping, into out, which has room for it; returns its length. */
size_t websocket_pong(struct span bytes, char *out);
/* The answer to a Close with this code, 0 where it had none: a last word, which holds no NUL. */
void websocket_close_word(unsigned code, char out[6]);

/* The head of a frame that is a whole message or control frame; returns its length. */
size_t websocket_head(enum websocket_opcode opcode, uint64_t bytes, char out[WEBSOCKET_HEAD_MAX]);
static inline size_t websocket_head_len(uint64_t bytes)
{
	return bytes < 126 ? 2 : bytes <= UINT16_MAX ? 4 : WEBSOCKET_HEAD_MAX;
}

#endif
