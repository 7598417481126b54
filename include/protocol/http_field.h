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
/* RFC 9110, 5.6.2: letters, digits and some signs, at least one. */
static inline bool http_token_char(char c)
{
	/* A bit for each of the first 128 bytes: !#$%&'*+-. and digits; letters and ^_`|~. */
	static const uint64_t are[4] = { 0x03ff6cfa00000000, 0x57ffffffc7fffffe };
	unsigned char at = (unsigned char)c;

	return are[at / 64] >> at % 64 & 1;
}
bool http_token(struct span text);
/* Digits and nothing else, no larger than *n can be. */
bool http_number(struct span text, uint64_t *n);

/* Percent-decodes into out, which has room for text.len bytes; plus: '+' is a space. The length, or
 * -1: malformed. */
ptrdiff_t http_unescape(struct span text, bool plus, char *out);
/* The undecoded value of a key in a query string; data NULL: not there. */
struct span http_query(struct span query, struct span key);

/*
 * A field that is a list. It may stand in several lines of a head, which make one list (RFC 9110,
 * 5.3): where there are more than one, `more` is what of the head is behind the first.
 */
struct http_list {
	struct span name, value, more;
};

/* Takes the next element off, with its parameters; false: there is none left. A comma within quotes
 * ends no element, and empty ones are none (RFC 9110, 5.6.1). */
bool http_list_next(struct http_list *list, struct span *element);
/* Whether a word is an element, in any case of letters. */
bool http_list_has(struct http_list list, struct span word);
/* The elements with commas between them, into out unless that is NULL. Returns the length, which is
 * no more than that of value and more. */
size_t http_list_join(struct http_list list, char *out);

enum http_choice { HTTP_UNSAID, HTTP_WANTED, HTTP_REFUSED };

/* What a list of choices says of this one, in any case of letters: "a;q=0, b" wants B and refuses A
 * (RFC 9110, 12.4.2). */
enum http_choice http_list_says(struct http_list list, struct span choice);
/* Whether any choice is refused. */
bool http_list_refuses(struct http_list list);

/* A Host without its port. */
struct span http_host_bare(struct span host);
/* Whether a Host is an address, or localhost: what no foreign name server can have made up. */
bool http_host_literal(struct span host);
/* Whether an Origin, by http or https, is the one of this very Host. */
bool http_same_origin(struct span origin, struct span host);

/* The value of the first cookie of that name (RFC 6265, 5.4), without quotes around it. False:
 * there is none, or an empty one. */
bool http_cookie(struct span cookies, struct span name, struct span *value);
/* What Authorization shows, the scheme in any case of letters: "Bearer <token>", which has no user,
 * or "Basic <user:password in Base64>" (RFC 7617), which is decoded into the room; without a user
 * it is a token too. False: neither, or there is no secret in it. */
bool http_authorization(struct span field, char *room, size_t room_bytes, struct span *user,
			struct span *secret);

enum http_range { HTTP_RANGE_NONE, HTTP_RANGE_PART, HTTP_RANGE_UNSATISFIABLE };

/* What a Range field asks for of len bytes. Several ranges and other units count as none. */
enum http_range http_range(struct span field, uint64_t len, uint64_t *first, uint64_t *n);

/* "<a>" or "<a>.<b>" (X-Version); without the second part it is the greatest there is. */
bool http_version_parse(struct span text, uint64_t version[2]);

#endif
