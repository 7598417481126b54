#ifndef PROTOCOL_LINE_H
#define PROTOCOL_LINE_H

/*
 * The line protocol (AUTH, PUBLISH, SUBSCRIBE, PING, BYE): bytes to events, runs to bytes. Pure
 * functions over spans plus a small state per connection; nothing here owns memory. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "base/wire.h"

enum line_event_kind {
	LINE_MORE,      /* nothing whole in what is left: come again with more */
	LINE_PUBLISH,   /* topic */
	LINE_SUBSCRIBE, /* topic, replay */
	LINE_BYE,       /* what has come of this line before, as LINE_PART, belongs to it and is no
			   message */
	LINE_PING,      /* a subscriber wants to hear something */
	LINE_AUTH,      /* user (empty: none), secret */
	LINE_MESSAGES,  /* bytes: the rest of a message begun by LINE_PART, if there was one, and
			   whole ones */
	LINE_PART,  /* bytes: the beginning, or more of it, of a message whose end is not there yet
		     */
	LINE_ERROR, /* error: the reason; the connection is at its end */
};

enum line_replay { LINE_REPLAY_NONE, LINE_REPLAY_FROM, LINE_REPLAY_LAST };

struct line_event {
	enum line_event_kind kind;
	struct span topic, user, secret;
	bool pattern; /* SUBSCRIBE: it is one */
	enum line_replay replay;
	uint64_t epoch, n;
	struct span bytes;
	uint32_t messages;
	bool canonical; /* with what came before as LINE_PART, every message ends in CRLF and holds
			   no other CR */
	bool inner_cr;  /* perhaps some message holds one; never if canonical */
	const char *error;
};

struct line_limits {
	size_t command_bytes, message_bytes;
};

enum line_mode { LINE_COMMAND, LINE_PUBLISHING, LINE_SUBSCRIBED };

/* All zero at the start of a connection. */
struct line_decoder {
	uint8_t mode;     /* enum line_mode */
	uint8_t begun[4]; /* the first bytes of the line that is partly there */
	bool cr;          /* its last byte so far is a CR */
	bool inner_cr;    /* it holds a CR that does not belong to its end */
	size_t part;      /* how many bytes of it are there */
};

/*
 * The next event in `in`; *used is how many bytes it took. In LINE_COMMAND and LINE_SUBSCRIBED mode
 * a line that is not whole takes none of them: the caller keeps them and comes again with more
 * behind. While publishing everything is taken at once.
 */
void line_decode(struct line_decoder *decoder, struct span in, const struct line_limits *limits,
		 struct line_event *event, size_t *used);

/* "<epoch>:<seq>", 16 lower-case hexadecimal digits and a decimal number without leading zeros. */
bool line_message_id(struct span id, uint64_t *epoch, uint64_t *seq);

extern const struct wire_format line_format;
/* For subscribers to a pattern: each message behind its topic and a space. */
extern const struct wire_format line_topic_format;

/* A token is longer than a command. */
enum { LINE_AUTH_BYTES_MAX = 8 + (8 << 10) };

/* "PUBLISH ", "SUBSCRIBE ", "AUTH " or "BYE", or the beginning of one of them: 1 surely, 0 perhaps
 * (come again with more), -1 no. */
int line_detect(struct span first);

/* Reasons after "ERROR ". */
#define LINE_MALFORMED "malformed command"
#define LINE_BAD_TOPIC "bad topic"
#define LINE_TOO_LONG "line too long"

#endif
