#ifndef PROTOCOL_SSE_H
#define PROTOCOL_SSE_H

/*
 * What HTTP subscribers get: server-sent events (WHATWG HTML, 9.2) and plain bytes, each message as
 * one chunk (RFC 9112, 7.1), or for HTTP/1.0, which knows no chunks, until the connection ends
 * (6.3). Pure functions over runs. Any thread.
 */

#include <stdint.h>

#include "base/wire.h"

/* Events, each a chunk; the same without chunks, for HTTP/1.0; messages as they are, each a chunk
 * (an empty one is nothing: a chunk without bytes would be the last), and one behind the other,
 * for HTTP/1.0. With any parameter, events are for many topics: each says its topic instead of its
 * number. */
extern const struct wire_format sse_format, sse_plain_format, chunked_format, bytes_format;

enum { SSE_TEXT_MAX = 96 }; /* most bytes of what the following write */

/* The start of an event stream and a heartbeat, which say where it stands, so that whoever is cut
 * off comes back there; and the event that says from where on
 * the past is known. epoch 0: it stands nowhere. They return how many bytes they wrote. */
size_t sse_start(bool chunked, uint64_t epoch, uint64_t seq, char *out);
size_t sse_heartbeat(bool chunked, uint64_t epoch, uint64_t seq, char *out);
size_t sse_gap(bool chunked, uint64_t epoch, uint64_t oldest, char *out);

/* All that a client gets who is to come again later. */
#define SSE_LATER "retry: 5000\n\n"

/* The chunk that ends a body. */
#define CHUNKED_END "0\r\n\r\n"

#endif
