#ifndef PROTOCOL_WEBSOCKET_COMMAND_H
#define PROTOCOL_WEBSOCKET_COMMAND_H

/*
 * What a client says on a WebSocket of many topics, and what it is answered: one JSON object (RFC
 * 8259) in a text frame. What is published may be long and is never looked at by the library that
 * reads the rest, which is as short as a command may be. Pure; any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

enum websocket_verb {
	WEBSOCKET_SUBSCRIBE,
	WEBSOCKET_UNSUBSCRIBE,
	WEBSOCKET_PUBLISH,
	WEBSOCKET_ASK, /* {"ping":...} */
	WEBSOCKET_LOG_IN,
};

enum { WEBSOCKET_WORD_MAX = 1024 }; /* of a name, a token or what is said back */

struct websocket_command {
	enum websocket_verb verb;
	struct span name;  /* of the topic; or the token */
	struct span ref;   /* JSON as it is to be said back; empty: there is none */
	bool last, from;   /* SUBSCRIBE: the newest n, or what came after an id */
	uint64_t epoch, n; /* of the id; n: its number */
	bool base64;
	struct span payload; /* PUBLISH: as it stands between its quotes, in the frame's text */
	char name_bytes[WEBSOCKET_WORD_MAX], ref_bytes[WEBSOCKET_WORD_MAX];
};

/* Reads a command, which without what is published has so many bytes at most. NULL, or the reason
 * of the line protocol (protocol/line.h) why it is none; name and ref are there even then, if they
 * could be read. */
const char *websocket_command_read(struct span text, size_t command_bytes,
				   struct websocket_command *command);
/* No fewer bytes than a payload has, and its bytes: how many, or -1 where it is malformed. */
size_t websocket_payload_max(const struct websocket_command *command);
ptrdiff_t websocket_payload(const struct websocket_command *command, char *out);

/* ---- answers: whole frames; each returns its length ---- */

enum { WEBSOCKET_ANSWER_MAX = 256 + 6 * WEBSOCKET_WORD_MAX };

/* {"<verb>":"<name>","id":"...","ref":...}: without an id where epoch is 0, without a ref where
 * that is empty. */
size_t websocket_answer(const char *verb, struct span name, uint64_t epoch, uint64_t seq,
			struct span ref, char out[WEBSOCKET_ANSWER_MAX]);
/* {"topic":"<name>","gap":"<id>"}; without an id, where epoch is 0, null in its place. */
size_t websocket_answer_gap(struct span name, uint64_t epoch, uint64_t oldest,
			    char out[WEBSOCKET_ANSWER_MAX]);
/* {"error":"<reason>","topic":"<name>","ref":...}: without what is empty. */
size_t websocket_answer_error(const char *reason, struct span name, struct span ref,
			      char out[WEBSOCKET_ANSWER_MAX]);
/* {"pong":...} */
size_t websocket_answer_pong(struct span ref, char out[WEBSOCKET_ANSWER_MAX]);

#endif
