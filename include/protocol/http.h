#ifndef PROTOCOL_HTTP_H
#define PROTOCOL_HTTP_H

/*
 * HTTP/1.1 requests (RFC 9110, RFC 9112): bytes to events. The parsing is a packaged library's; in
 * front of it stand rules that are stricter than the RFC's, because whoever reads a head in a more
 * lenient way than the proxy before it can be made to see requests that the proxy has not seen.
 * Where bytes are split never changes what comes of them. Any thread, one connection each.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "protocol/http_field.h"

enum http_verb {
	HTTP_VERB_GET = 1 << 0,
	HTTP_VERB_HEAD = 1 << 1,
	HTTP_VERB_POST = 1 << 2,
	HTTP_VERB_OPTIONS = 1 << 3,
	HTTP_VERB_OTHER = 1 << 4, /* known to HTTP, not to us */
	HTTP_VERB_PUT = 1 << 5,
};

/* A request's head. Spans point into the bytes that were decoded; an absent field is empty. */
struct http_request {
	enum http_verb verb;
	bool http_1_0;
	bool keep_alive;
	bool expect_continue;
	bool has_body, chunked;
	bool forwarded; /* a proxy says that it hands somebody else's request on */
	bool websocket; /* it asks for one (RFC 6455, 4.1) */
	bool fetched;   /* a browser says what it is for (Sec-Fetch-...) */
	uint64_t content_length;
	struct span path; /* as sent: still percent-encoded, begins with '/' or is "*" */
	struct span query;
	struct span host, origin, content_type, last_event_id, range, if_range,
		version;                        /* X-Version */
	struct span idempotency_key;            /* draft-ietf-httpapi-idempotency-key-header */
	struct span socket_key, socket_version; /* Sec-WebSocket-... */
	struct span authorization, cookie, fetch_site;
	struct http_list accept, accept_encoding, content_encoding, if_match, if_none_match;
	struct http_list connection, upgrade, socket_protocols;
};

enum http_event_kind {
	HTTP_EVENT_MORE,  /* nothing whole in what is left: come again with more behind it */
	HTTP_EVENT_HEAD,  /* request; if it has a body, HTTP_EVENT_BODY and HTTP_EVENT_END follow */
	HTTP_EVENT_BODY,  /* bytes */
	HTTP_EVENT_END,   /* of the body */
	HTTP_EVENT_ERROR, /* status, reason: the connection is at its end */
};

/* Of what is not said of its kind there is nothing in it. */
struct http_event {
	enum http_event_kind kind;
	union {
		struct http_request request;
		struct span bytes;
		struct {
			unsigned status;
			const char *reason;
		};
	};
};

struct http_limits {
	size_t head_bytes, uri_bytes, body_bytes;
};

struct http_decoder;

/* NULL: out of memory. */
struct http_decoder *http_decoder_new(void);
void http_decoder_free(struct http_decoder *decoder);

/*
 * The next event in `in`; *used is how many bytes it took. A head that is not whole takes none of
 * them: the caller keeps them and comes again with more behind. Of a body everything is taken.
 */
void http_decode(struct http_decoder *decoder, struct span in, const struct http_limits *limits,
		 struct http_event *event, size_t *used);

/* Whether the bytes begin with a method of HTTP and a space: 1 surely, 0 perhaps, -1 no. */
int http_detect(struct span first);

#endif
