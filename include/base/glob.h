#ifndef BASE_GLOB_H
#define BASE_GLOB_H

/*
 * Globs, as Redis has them in PSUBSCRIBE: '*' stands for any bytes, '?' for one, "[a-c]" for one of
 * these, "[^a]" for any other, and '\' takes the meaning from the byte behind it. They are compared
 * with names when a name or a glob appears, never with each message. Pure; any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"
#include "base/span.h"

enum { GLOB_BYTES_MAX = NAME_BYTES_MAX };

/* Whether it may be asked for: so many bytes of UTF-8. */
bool glob_valid(struct span glob);

/* Whether it matches a name. One that begins with a wildcard matches none that begins with '$'.
 * Takes at most as many steps as the product of both lengths, and no stack. */
bool glob_matches(struct span glob, struct span name);

enum glob_kind {
	GLOB_EXACT,  /* the one topic `text` */
	GLOB_NATIVE, /* what the native pattern `text` matches */
	GLOB_PREFIX, /* what begins with `text` */
	GLOB_OTHER,  /* must be compared; what it matches begins with `text`, which may be empty */
};

struct glob_meaning {
	enum glob_kind kind;
	size_t len;
	char text[GLOB_BYTES_MAX];
};

/* What a valid glob comes to, for valid names. */
void glob_read(struct span glob, struct glob_meaning *meaning);

/* The same as a name (EXACT) or as a native pattern (NATIVE), which may match more than the glob
 * does: for permissions. */
void glob_cover(struct span glob, struct glob_meaning *meaning);

#endif
