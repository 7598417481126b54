#ifndef PROTOCOL_WEBSOCKET_WIRE_H
#define PROTOCOL_WEBSOCKET_WIRE_H

/*
 * What WebSocket subscribers get: each message as one frame (RFC 6455, 5.6), the same for
 * everybody. Pure functions over runs. Any thread.
 */

#include "base/wire.h"

/* As it is: a text frame where it is UTF-8, else a binary one; always a binary one; a text frame
 * {"topic":...,"id":...,"data":...}, or "base64" where it is not UTF-8; its parameter is
 * what it leaves out (protocol/websocket_left_out.h). */
extern const struct wire_format websocket_format, websocket_binary_format, websocket_json_format;

/* The first end of a frame at or after an offset (struct wire_format, boundary). */
size_t websocket_boundary(struct span encoded, size_t offset);
/* How many bytes at the start stand in a JSON string as they are, whatever code points they are of.
 */
size_t json_plain_bytes(struct span text);
/* Text as a JSON string with its quotes, into out, which has room for 6 bytes for each and 2.
 * Returns the length. */
size_t websocket_json_string(struct span text, char *out);

#endif
