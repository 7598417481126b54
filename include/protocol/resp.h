#ifndef PROTOCOL_RESP_H
#define PROTOCOL_RESP_H

/*
 * RESP, the protocol of Redis (redis.io/docs/reference/protocol-spec), versions 2 and 3: a client's
 * commands as arrays of bulk strings or as lines, what is answered, and messages as pushes. Errors
 * and their limits are those of Redis 7.0 (networking.c). Pure functions over spans plus a small
 * state per connection; nothing here owns memory. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "base/wire.h"

/* ---- what a client says ---- */

enum {
	RESP_LINE_BYTES_MAX = 64 << 10, /* of a line, and of the digits of a length */
	RESP_WORDS_MAX = 64 << 10,      /* of a command */
	RESP_MORE_BYTES_MAX =
		64 << 10, /* of all words of a command, beside one as long as may be */
	/* Before a client has said who it is. */
	RESP_UNKNOWN_WORDS_MAX = 10,
	RESP_UNKNOWN_WORD_BYTES_MAX = 16 << 10,
};

enum resp_kind {
	RESP_MORE,    /* nothing whole in what is left: come again with more */
	RESP_NOTHING, /* an empty command: goes unanswered */
	RESP_COMMAND, /* words, first to be walked with resp_next */
	RESP_LINE,    /* the same as a line, to be made an array by resp_array_of_line */
	RESP_ERROR,   /* error, to be told behind "-ERR Protocol error: "; the connection is at its
			 end */
};

enum resp_error {
	RESP_BAD_WORDS, /* invalid multibulk length */
	RESP_BAD_WORD,  /* invalid bulk length */
	RESP_NO_WORD,   /* expected '$', got 'x' */
	RESP_LONG_WORDS,
	RESP_LONG_WORD,
	RESP_LONG_LINE,
	RESP_UNKNOWN_WORDS, /* unauthenticated multibulk length */
	RESP_UNKNOWN_WORD,
	RESP_QUOTES,  /* unbalanced quotes in request */
	RESP_FOREIGN, /* not a line of this protocol: what browsers send, or a ClientHello */
};

struct resp_event {
	enum resp_kind kind;
	uint32_t words;   /* COMMAND */
	struct span rest; /* COMMAND: what resp_next walks; LINE: the line */
	/*
	 * MORE, and payload_at is not 0: the last word of a command is all that is not there. It
	 * has payload_bytes, from payload_at on, and CR LF; those before it are in `rest`.
	 */
	size_t payload_at, payload_bytes;
	enum resp_error error;
	char got; /* NO_WORD */
};

struct resp_limits {
	size_t word_bytes;
	bool unknown; /* the client has still to say who it is */
};

/* All zero at the start of a connection, and after each command. */
struct resp_decoder {
	uint32_t words, left; /* of the command, and of these not yet looked at; 0: none begun */
	uint32_t begin, at;   /* where its words begin, and how far they have been looked at */
	uint32_t
		word_bytes; /* of the one at `at`, whose length has been read, plus 1; 0: not yet */
	uint32_t bytes;     /* of all words so far */
};

/*
 * The next event in `in`; *used is how many bytes it took. MORE takes none of them: the caller
 * comes again with the same bytes and more behind, which are not looked at again.
 */
void resp_decode(struct resp_decoder *decoder, struct span in, const struct resp_limits *limits,
		 struct resp_event *event, size_t *used);

/* Takes the next word off those of a command; there must be one. */
struct span resp_next(struct span *rest);

enum { RESP_HEAD_BYTES_MAX = 24 }; /* most that resp_put_head writes */

/*
 * Writes the words of a line (parts in double quotes with escapes, in single quotes) as an array
 * has them, for resp_next, and returns how many; *len: their bytes, at most
 * resp_array_of_line_max(). -1: quotes are unbalanced.
 */
static inline size_t resp_array_of_line_max(struct span line)
{
	/* A word of one byte and the space behind it take six and the byte, and its own digits. */
	return 4 * (line.len + 1) + RESP_HEAD_BYTES_MAX;
}
int resp_array_of_line(struct span line, char *out, size_t *len);

/* '*', or the beginning of it: 1 surely, 0 perhaps (come again with more), -1 no. */
int resp_detect(struct span first);

/* Writes the line for an error, with what stands before it; at most RESP_ERROR_BYTES_MAX. */
enum { RESP_ERROR_BYTES_MAX = 80 };
size_t resp_put_error(char *out, const struct resp_event *event);

/* ---- what it is told ---- */

enum resp_version { RESP_2 = 2, RESP_3 = 3 };

/* "<type><n>\r\n": a number's reply, or the head of an array, a bulk string, a map or a push. */
char *resp_put_head(char *out, char type, uint64_t n);
/* "$<len>\r\n<text>\r\n". */
char *resp_put_bulk(char *out, struct span text);
/* There is no such thing. */
char *resp_put_null(char *out, enum resp_version version);

/* ---- who it is ---- */

enum {
	RESP_NAME_BYTES_MAX = 255,  /* of a client's */
	RESP_WRONG_BYTES_MAX = 200, /* of an error's line, without its end */
};

struct resp_login {
	bool given;
	struct span user, secret; /* as they were said */
};

/* What HELLO asks for. */
struct resp_hello {
	uint8_t version; /* enum resp_version; 0: as it is */
	bool names;
	struct resp_login login;
	struct span name; /* empty: it has none any more */
};

/*
 * AUTH and HELLO by the words behind them, which resp_next walks: what was said, valid as long as
 * they are. Returns NULL, or the line that says what is wrong, without its end, as Redis says it;
 * of a long option no more than the beginning. AUTH has one word at least; password_needed: an
 * AUTH with a password alone makes sense.
 */
const char *resp_auth(struct span rest, uint32_t words, bool password_needed,
		      struct resp_login *login);
const char *resp_hello(struct span rest, uint32_t words, struct resp_hello *hello,
		       char text[RESP_WRONG_BYTES_MAX]);
/* Others read lines of names, parted by spaces. */
bool resp_client_name_valid(struct span name);
#define RESP_BAD_CLIENT_NAME                                                                       \
	"-ERR Client names cannot contain spaces, newlines or special characters."

/* ---- messages ---- */

enum resp_push {
	RESP_MESSAGE,  /* message <topic> <payload> */
	RESP_SMESSAGE, /* the same of a channel of a cluster's shard */
	RESP_PMESSAGE, /* pmessage <the stream's parameter: a glob> <topic> <payload> */
	RESP_PUSHES
};

const struct wire_format *resp_format(enum resp_version version, enum resp_push push);

#endif
