#ifndef BASE_NAME_H
#define BASE_NAME_H

/*
 * Topic names and the patterns that match them: 1 to 255 bytes of valid UTF-8 without control
 * characters (C0, DEL, C1), levels separated by '.', at most 32 levels, none of them empty. A space
 * is a character like any other, though lines and NATS cannot say it.
 * In a pattern '*' alone as a level stands for exactly one level, '>' alone as the last level for
 * one or more; both are refused anywhere in a name that is published to, and in first place neither
 * matches a name that begins with '$'. Pure functions over spans; any thread.
 */

#include "base/span.h"

enum { NAME_BYTES_MAX = 255, NAME_LEVELS_MAX = 32 };

bool name_valid(struct span name);
bool name_pattern_valid(struct span pattern);

/* Whether a valid name is matched by a valid pattern. */
bool name_matches(struct span pattern, struct span name);
/* Whether two valid patterns, each of which may be a name, match one name. */
bool name_patterns_overlap(struct span a, struct span b);
/* The pattern of all names that two valid patterns both match, into out; empty: there is none. */
struct span name_patterns_meet(struct span a, struct span b, char out[NAME_BYTES_MAX]);

/* Whether the bytes are well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms). */
bool utf8_valid(struct span text);

#endif
