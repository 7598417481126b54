#include "protocol/http_field.h"

#include <arpa/inet.h>
#include <strings.h>

#include "base/base64.h"

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

bool http_token(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (!http_token_char(s.data[i]))
			return false;
	return s.len > 0;
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

/* ---- lists ---- */

/* Up to the separator that is not within quotes, or the end. */
static size_t piece_len(struct span s, char separator)
{
	bool quoted = false;
	size_t i = 0;

	for (; i < s.len && (quoted || s.data[i] != separator); i++)
		quoted ^= s.data[i] == '"';
	return i;
}

/* On to the next line of the same name; false: there is none. */
static bool next_line(struct http_list *list)
{
	while (list->more.len > 0) {
		const char *end = memchr(list->more.data, '\r', list->more.len);
		struct span line = { list->more.data, end != NULL ? (size_t)(end - list->more.data)
								  : list->more.len };

		list->more = span_skip(list->more, line.len);
		list->more = span_skip(list->more, list->more.len < 2 ? list->more.len : 2);
		if (line.len <= list->name.len || line.data[list->name.len] != ':' ||
		    !http_equal((struct span){ line.data, list->name.len }, list->name))
			continue;
		list->value = span_skip(line, list->name.len + 1);
		return true;
	}
	return false;
}

bool http_list_next(struct http_list *list, struct span *element)
{
	do {
		while (list->value.len > 0) {
			size_t n = piece_len(list->value, ',');

			*element = http_trim((struct span){ list->value.data, n });
			list->value = span_skip(list->value, n + (n < list->value.len));
			if (element->len > 0)
				return true;
		}
	} while (next_line(list));
	return false;
}

bool http_list_has(struct http_list list, struct span word)
{
	struct span one;

	while (http_list_next(&list, &one))
		if (http_equal(one, word))
			return true;
	return false;
}

size_t http_list_join(struct http_list list, char *out)
{
	struct span element;
	size_t n = 0;

	while (http_list_next(&list, &element)) {
		if (n > 0 && out != NULL)
			out[n] = ',';
		n += n > 0;
		if (out != NULL)
			memcpy(out + n, element.data, element.len);
		n += element.len;
	}
	return n;
}

/* "0", "0.", "0.000" (RFC 9110, 12.4.2). */
static bool is_zero(struct span weight)
{
	for (size_t i = 0; i < weight.len; i++)
		if (weight.data[i] != (i == 1 ? '.' : '0'))
			return false;
	return weight.len > 0;
}

/* Cuts an element's parameters off; whether one of them is a weight of nothing. */
static bool cut_parameters(struct span *element)
{
	struct span rest = span_skip(*element, piece_len(*element, ';'));
	bool refused = false;

	*element = http_trim((struct span){ element->data, element->len - rest.len });
	while (rest.len > 0) {
		size_t n;
		struct span one;

		rest = span_skip(rest, 1);
		n = piece_len(rest, ';');
		one = http_trim((struct span){ rest.data, n });
		rest = span_skip(rest, n);
		if (one.len > 2 && strncasecmp(one.data, "q=", 2) == 0)
			refused = is_zero(span_skip(one, 2));
	}
	return refused;
}

enum http_choice http_list_says(struct http_list list, struct span choice)
{
	enum http_choice says = HTTP_UNSAID;
	struct span element;

	while (says != HTTP_WANTED && http_list_next(&list, &element)) {
		bool refused = cut_parameters(&element);

		if (http_equal(element, choice))
			says = refused ? HTTP_REFUSED : HTTP_WANTED;
	}
	return says;
}

bool http_list_refuses(struct http_list list)
{
	struct span element;

	while (http_list_next(&list, &element))
		if (cut_parameters(&element))
			return true;
	return false;
}

/* ---- hosts ---- */

struct span http_host_bare(struct span host)
{
	const char *colon = host.len > 0 ? memrchr(host.data, ':', host.len) : NULL;

	/* Not a colon within [::1]. */
	if (colon != NULL && memchr(colon, ']', host.len - (size_t)(colon - host.data)) == NULL)
		host.len = (size_t)(colon - host.data);
	return host;
}

static bool ends_in_localhost(struct span name)
{
	static const struct span localhost = { "localhost", 9 };

	/* RFC 6761, 6.3: so are all names below it. */
	if (name.len > 0 && name.data[name.len - 1] == '.')
		name.len--;
	if (name.len < localhost.len ||
	    !http_equal(span_skip(name, name.len - localhost.len), localhost))
		return false;
	return name.len == localhost.len || name.data[name.len - localhost.len - 1] == '.';
}

bool http_host_literal(struct span host)
{
	char text[INET6_ADDRSTRLEN];
	unsigned char address[sizeof(struct in6_addr)];
	bool v6;

	host = http_host_bare(host);
	v6 = host.len > 2 && host.data[0] == '[' && host.data[host.len - 1] == ']';
	if (v6)
		host = (struct span){ host.data + 1, host.len - 2 };
	else if (ends_in_localhost(host))
		return true;
	if (host.len == 0 || host.len >= sizeof(text))
		return false;
	memcpy(text, host.data, host.len);
	text[host.len] = 0;
	return inet_pton(v6 ? AF_INET6 : AF_INET, text, address) == 1;
}

bool http_same_origin(struct span origin, struct span host)
{
	static const struct {
		struct span scheme, port;
	} schemes[] = { { { "http://", 7 }, { ":80", 3 } }, { { "https://", 8 }, { ":443", 4 } } };

	for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++) {
		struct span scheme = schemes[i].scheme, port = schemes[i].port;

		if (origin.len <= scheme.len ||
		    !http_equal((struct span){ origin.data, scheme.len }, scheme))
			continue;
		origin = span_skip(origin, scheme.len);
		/* Browsers leave the scheme's own port out, others need not. */
		for (struct span *s = &origin; s != NULL; s = s == &origin ? &host : NULL)
			if (s->len > port.len &&
			    memcmp(s->data + s->len - port.len, port.data, port.len) == 0)
				s->len -= port.len;
		return http_equal(origin, host);
	}
	return false;
}

/* ---- ranges and versions ---- */

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

/* ---- credentials ---- */

bool http_cookie(struct span cookies, struct span name, struct span *value)
{
	while (cookies.len > 0) {
		const char *end = memchr(cookies.data, ';', cookies.len);
		struct span one = { cookies.data,
				    end != NULL ? (size_t)(end - cookies.data) : cookies.len };

		cookies = span_skip(cookies, one.len + (end != NULL));
		one = http_trim(one);
		if (one.len <= name.len || one.data[name.len] != '=' ||
		    memcmp(one.data, name.data, name.len) != 0)
			continue;
		*value = span_skip(one, name.len + 1);
		if (value->len >= 2 && value->data[0] == '"' && value->data[value->len - 1] == '"')
			*value = (struct span){ value->data + 1, value->len - 2 };
		return value->len > 0;
	}
	return false;
}

static bool basic_of(struct span letters, char *room, size_t room_bytes, struct span *user,
		     struct span *secret)
{
	ptrdiff_t n = letters.len / 4 * 3 <= room_bytes ? base64_get(letters, room) : -1;
	const char *colon = n > 0 ? memchr(room, ':', (size_t)n) : NULL;

	if (colon == NULL)
		return false;
	*user = (struct span){ room, (size_t)(colon - room) };
	*secret = span_skip((struct span){ room, (size_t)n }, user->len + 1);
	return secret->len > 0;
}

bool http_authorization(struct span field, char *room, size_t room_bytes, struct span *user,
			struct span *secret)
{
	const char *space = field.len > 0 ? memchr(field.data, ' ', field.len) : NULL;
	struct span scheme, rest;

	if (space == NULL)
		return false;
	scheme = (struct span){ field.data, (size_t)(space - field.data) };
	rest = http_trim(span_skip(field, scheme.len));
	if (http_equal(scheme, SPAN("Basic")))
		return basic_of(rest, room, room_bytes, user, secret);
	*user = (struct span){ NULL, 0 };
	*secret = rest;
	return http_equal(scheme, SPAN("Bearer")) && rest.len > 0 &&
	       memchr(rest.data, ' ', rest.len) == NULL;
}
