#ifndef BASE_WIRE_H
#define BASE_WIRE_H

/*
 * What the topic room and the protocols have in common: a wire format as a table of pure functions
 * that turns runs of messages into bytes. A protocol offers one; a stream is given one and knows no
 * more about it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/run.h"
#include "base/span.h"

enum { WIRE_AROUND_MAX = 1024 }; /* most bytes of a prefix or a suffix */

struct wire_format;

/* What all who get the same bytes have in common: the format, and what stands in every frame of
 * theirs beside the message (NATS: their sid); the parameter belongs to somebody else. */
struct wire {
	const struct wire_format *format;
	struct span parameter;
};

struct wire_format {
	const char *name;
	/* Whether its subscribers are to get messages of this topic; those of others are nothing to
	 * them, and neither delivered nor dropped. NULL: of every topic. */
	bool (*wants)(const struct wire *wire, struct span topic);
	/* How many of the run's messages have a form in this format; encode leaves the others out,
	 * and is not called when it is none of them. */
	uint32_t (*encodable)(const struct wire *wire, const struct run *run);
	/* No fewer bytes than encode will write. */
	size_t (*encoded_max)(const struct wire *wire, const struct run *run);
	/* Writes the run, returns how many bytes. */
	size_t (*encode)(const struct wire *wire, const struct run *run, char *out);
	/*
	 * For a run of one message that is sent from where it lies, or of lines where these go out
	 * verbatim: what goes before and after it (at most WIRE_AROUND_MAX bytes each) and which
	 * part of the run's body goes between. NULL: this format always copies.
	 */
	void (*enclose)(const struct wire *wire, const struct run *run, char *prefix,
			size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len);
	/* Whether enclose can do it for this one; NULL: for every one. */
	bool (*enclosable)(const struct wire *wire, const struct run *run);
	/* Its clients see where a reply is wanted, and may give one. */
	bool replies;
	/* A run of lines goes out just as it is, so that it too may be sent from where it lies. */
	bool lines_verbatim;
	/* What tells its reader that messages are missing and which one comes next, as a message of
	 * its own, of at most WIRE_AROUND_MAX bytes; returns how many. NULL: it has no words for
	 * that. */
	size_t (*gap)(const struct wire *wire, uint64_t epoch, uint64_t seq, char *out);
	/* The first end of a message at or after an offset into encoded bytes; these begin with the
	 * start of a message, and 0 is an end too. NULL: they are payloads and nothing else, empty
	 * ones left out, and whoever keeps them notes where each ends. */
	size_t (*boundary)(struct span encoded, size_t offset);
};

#endif
