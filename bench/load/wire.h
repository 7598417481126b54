#ifndef LOAD_WIRE_H
#define LOAD_WIRE_H

/*
 * What the load generator needs to know of a protocol to be its client. A wire is a table of pure
 * functions over spans: no sockets, no state. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"

enum { WIRE_TEXT_MAX = 1024 }; /* the most that a command or what surrounds a payload takes */

enum wire_result {
	WIRE_MORE,    /* the span ends before the thing does */
	WIRE_MESSAGE, /* a message; of a handshake: all is said */
	WIRE_ASIDE,   /* something that needs no answer */
	WIRE_PING,    /* wants wire->pong */
	WIRE_BAD,     /* not the protocol, or an error that the server reports; text says what */
};

struct wire_event {
	enum wire_result result;
	size_t used;         /* bytes of the span that belong to it; 0 for WIRE_MORE and WIRE_BAD */
	struct span payload; /* of WIRE_MESSAGE: within the span; of WIRE_BAD: what it said */
};

/* Text of a protocol, ready to be sent. */
struct wire_text {
	size_t len;
	char bytes[WIRE_TEXT_MAX];
};

/* How a payload of one size travels for one topic. */
struct wire_frame {
	struct wire_text prefix, suffix;
};

/* What a subscriber asks for, beside a topic. */
struct wire_asked {
	bool many;           /* its connection has several topics, */
	unsigned number;     /* of which this one is the manyth */
	struct span pattern; /* that brings them all; empty: none */
};

struct wire {
	const char *name;
	char separator;   /* of a topic's levels; 0: '.' */
	bool multiplexes; /* a connection may subscribe to many topics */
	bool greets;      /* before TLS the server says a line in clear */

	/* Commands that open a subscription, the first of its connection or another one, and a
	 * connection that publishes. A topic that a pattern brings is the pattern. */
	void (*subscribe)(struct wire_text *out, struct span topic, const struct wire_asked *asked);
	void (*open_publisher)(struct wire_text *out, struct span topic);
	/* What the server answers to each: WIRE_MORE until WIRE_MESSAGE says that it is ready. What
	 * follows is no part of it. */
	struct wire_event (*subscribed)(struct span in);
	struct wire_event (*subscribed_more)(struct span in);
	struct wire_event (*publisher_opened)(struct span in);

	/* What surrounds a payload of this size on the way in and on the way out. delivered NULL:
	 * it is not the same for all messages of a topic. */
	void (*published)(struct wire_frame *out, struct span topic, size_t payload_bytes);
	void (*delivered)(struct wire_frame *out, struct span topic, size_t payload_bytes,
			  const struct wire_asked *asked);

	/* What stands for any one level in a pattern; NULL: there are none. */
	const char *any_level;
	/* The next thing in what a subscriber gets; the same where a pattern brings it, if that is
	 * another. */
	struct wire_event (*receive)(struct span in);
	struct wire_event (*receive_wild)(struct span in);
	/* The next thing that the server says to a publisher; never WIRE_MESSAGE. */
	struct wire_event (*reply)(struct span in);
	const char *pong;
	const char *goodbye; /* of a publisher; NULL: it just closes */
};

extern const struct wire wire_line, wire_resp, wire_nats, wire_sse, wire_mqtt, wire_ws;

/* NULL: no such protocol. */
const struct wire *wire_find(const char *name);

void wire_printf(struct wire_text *out, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* The first line in the span without its end, CR LF; false: it is not there yet. *used counts its
 * end too. A bare LF ends no line. */
bool wire_line_in(struct span in, struct span *line, size_t *used);

/* The beginning of something whose rest is still to come. Zeroed but for max is empty. */
struct wire_stash {
	char *bytes;
	size_t len, max;
};

/*
 * Takes the next thing out of *in with this parser: in place if it is whole, else its parts are
 * gathered in the stash. What is longer than the stash is WIRE_BAD. The payload is valid until the
 * next call.
 */
struct wire_event wire_next(struct wire_stash *stash, struct wire_event (*parse)(struct span in),
			    struct span *in);
/* Puts bytes behind what is there; false: no memory. */
bool wire_stash_add(struct wire_stash *stash, struct span bytes);
void wire_stash_release(struct wire_stash *stash);

static inline struct wire_event wire_more(void)
{
	return (struct wire_event){ .result = WIRE_MORE };
}

static inline struct wire_event wire_bad(struct span what)
{
	return (struct wire_event){ .result = WIRE_BAD, .payload = what };
}

#endif
