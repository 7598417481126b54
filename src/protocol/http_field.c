#include "protocol/http_field.h"

#include <strings.h>

struct span http_trim(struct span s)
{
	while (s.len > 0 && (s.data[0] == ' ' || s.data[0] == '\t'))
		s = span_skip(s, 1);
	while (s.len > 0 && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t'))
		s.len--;
	return s;
}

bool http_equal(struct span a, struct span b)
{
	return a.len == b.len && strncasecmp(a.data, b.data, a.len) == 0;
}

bool http_number(struct span s, uint64_t *n)
{
	*n = 0;
	for (size_t i = 0; i < s.len; i++) {
		unsigned digit = (unsigned)(unsigned char)s.data[i] - '0';

		if (digit > 9 || __builtin_mul_overflow(*n, 10, n) ||
		    __builtin_add_overflow(*n, digit, n))
			return false;
	}
	return s.len > 0;
}

static int hex(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

ptrdiff_t http_unescape(struct span text, bool plus, char *out)
{
	ptrdiff_t n = 0;

	for (size_t i = 0; i < text.len; i++) {
		char c = text.data[i];

		if (c == '%') {
			int high = i + 2 < text.len ? hex(text.data[i + 1]) : -1;
			int low = i + 2 < text.len ? hex(text.data[i + 2]) : -1;

			if (high < 0 || low < 0)
				return -1;
			c = (char)(high << 4 | low);
			i += 2;
		} else if (plus && c == '+') {
			c = ' ';
		}
		out[n++] = c;
	}
	return n;
}

struct span http_query(struct span query, struct span key)
{
	while (query.len > 0) {
		const char *amp = memchr(query.data, '&', query.len);
		struct span pair = { query.data,
				     amp != NULL ? (size_t)(amp - query.data) : query.len };

		query = span_skip(query, pair.len + (amp != NULL));
		if (pair.len < key.len || memcmp(pair.data, key.data, key.len) != 0)
			continue;
		if (pair.len == key.len)
			return (struct span){ pair.data + pair.len, 0 };
		if (pair.data[key.len] == '=')
			return span_skip(pair, key.len + 1);
	}
	return (struct span){ NULL, 0 };
}

bool http_list_has(struct span list, struct span element)
{
	while (list.len > 0) {
		const char *comma = memchr(list.data, ',', list.len);
		struct span one = { list.data,
				    comma != NULL ? (size_t)(comma - list.data) : list.len };
		const char *semicolon;

		list = span_skip(list, one.len + (comma != NULL));
		semicolon = one.len > 0 ? memchr(one.data, ';', one.len) : NULL;
		if (semicolon != NULL)
			one.len = (size_t)(semicolon - one.data);
		if (http_equal(http_trim(one), element))
			return true;
	}
	return false;
}

enum http_range http_range(struct span field, uint64_t len, uint64_t *first, uint64_t *n)
{
	const char *dash;
	struct span from, to;
	uint64_t last;

	if (field.len < 7 || strncasecmp(field.data, "bytes=", 6) != 0)
		return HTTP_RANGE_NONE;
	field = http_trim(span_skip(field, 6));
	dash = field.len > 0 ? memchr(field.data, '-', field.len) : NULL;
	if (dash == NULL || memchr(field.data, ',', field.len) != NULL)
		return HTTP_RANGE_NONE;
	from = (struct span){ field.data, (size_t)(dash - field.data) };
	to = span_skip(field, from.len + 1);
	if (from.len == 0) {
		/* The last so many. */
		if (!http_number(to, n))
			return HTTP_RANGE_NONE;
		if (*n == 0 || len == 0)
			return HTTP_RANGE_UNSATISFIABLE;
		*n = *n < len ? *n : len;
		*first = len - *n;
		return HTTP_RANGE_PART;
	}
	if (!http_number(from, first))
		return HTTP_RANGE_NONE;
	if (to.len == 0)
		last = UINT64_MAX;
	else if (!http_number(to, &last) || last < *first)
		return HTTP_RANGE_NONE;
	if (*first >= len)
		return HTTP_RANGE_UNSATISFIABLE;
	*n = (last < len ? last + 1 : len) - *first;
	return HTTP_RANGE_PART;
}

bool http_version_parse(struct span text, uint64_t version[2])
{
	const char *dot = text.len > 0 ? memchr(text.data, '.', text.len) : NULL;
	struct span major = { text.data, dot != NULL ? (size_t)(dot - text.data) : text.len };

	version[1] = UINT64_MAX;
	return http_number(major, &version[0]) &&
	       (dot == NULL || http_number(span_skip(text, major.len + 1), &version[1]));
}
