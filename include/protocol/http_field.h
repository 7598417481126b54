#ifndef PROTOCOL_HTTP_FIELD_H
#define PROTOCOL_HTTP_FIELD_H

/*
 * What stands in the fields and targets of HTTP: numbers, lists, ranges, queries (RFC 9110, RFC
 * 3986). Pure functions; what they return points into what they were given.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

/* Without blanks and tabs at its ends. */
struct span http_trim(struct span text);
/* In any case. */
bool http_equal(struct span a, struct span b);
/* Digits and nothing else, no larger than *n can be. */
bool http_number(struct span text, uint64_t *n);

/* Percent-decodes into out, which has room for text.len bytes; plus: '+' is a space. The length, or
 * -1: malformed. */
ptrdiff_t http_unescape(struct span text, bool plus, char *out);
/* The undecoded value of a key in a query string; data NULL: not there. */
struct span http_query(struct span query, struct span key);
/* The element of a list of media types or tags, in any case: "a, b;q=1" holds "B". */
bool http_list_has(struct span list, struct span element);

enum http_range { HTTP_RANGE_NONE, HTTP_RANGE_PART, HTTP_RANGE_UNSATISFIABLE };

/* What a Range field asks for of len bytes. Several ranges and other units count as none. */
enum http_range http_range(struct span field, uint64_t len, uint64_t *first, uint64_t *n);

/* "<a>" or "<a>.<b>" (X-Version); without the second part it is the greatest there is. */
bool http_version_parse(struct span text, uint64_t version[2]);

#endif
