#include <inttypes.h>
#include <strings.h>

#include "base/base64.h"
#include "fuzz.h"
#include "protocol/http.h"
#include "protocol/http_field.h"
#include "protocol/line.h"

/*
 * What stands in requests and their fields: message identities, ranges, versions, escapes, queries.
 * Each is read by a slow reference too, which must agree. An input is one such text; a newline in
 * it ends the first part, which is then the query's key.
 */

/* ---- numbers ---- */

/* All of it, as far as 64 bits go. */
static bool number(struct span s, uint64_t *n)
{
	size_t zeros = 0;
	char text[24];

	for (size_t i = 0; i < s.len; i++)
		if (s.data[i] < '0' || s.data[i] > '9')
			return false;
	while (zeros + 1 < s.len && s.data[zeros] == '0')
		zeros++;
	if (s.len == 0 || s.len - zeros > 20 ||
	    (s.len - zeros == 20 && memcmp(s.data + zeros, "18446744073709551615", 20) > 0))
		return false;
	memcpy(text, s.data + zeros, s.len - zeros);
	text[s.len - zeros] = 0;
	*n = strtoull(text, NULL, 10);
	return true;
}

static struct span until(struct span s, char c)
{
	const char *at = s.len > 0 ? memchr(s.data, c, s.len) : NULL;

	return (struct span){ s.data, at != NULL ? (size_t)(at - s.data) : s.len };
}

/* "<epoch>:<seq>": there is one way to write a number. */
static void check_id(struct span id)
{
	uint64_t epoch, seq, n = 0;
	bool expected = id.len >= 18 && id.len <= 37 && id.data[16] == ':' &&
			number(span_skip(id, 17), &n) && (id.len == 18 || id.data[17] != '0');
	char digits[20];

	for (size_t i = 0; expected && i < 16; i++)
		expected = id.data[i] != 0 && strchr("0123456789abcdef", id.data[i]) != NULL;
	check(line_message_id(id, &epoch, &seq) == expected, "line_message_id differs");
	if (!expected)
		return;
	snprintf(digits, sizeof(digits), "%016" PRIx64, epoch);
	check(memcmp(digits, id.data, 16) == 0 && seq == n, "line_message_id is another");
}

static void check_version(struct span text)
{
	struct span major = until(text, '.');
	uint64_t version[2], a, b = UINT64_MAX;
	bool expected = number(major, &a) &&
			(major.len == text.len || number(span_skip(text, major.len + 1), &b));

	check(http_version_parse(text, version) == expected, "http_version_parse differs");
	check(!expected || (version[0] == a && version[1] == b), "http_version_parse is another");
}

/* RFC 9110, 14.1.2, of one range of bytes. */
static void check_range(struct span field, uint64_t len)
{
	uint64_t first = 0, n = 0, a = 0, b = UINT64_MAX, want = 0;
	enum http_range expected = HTTP_RANGE_NONE, got = http_range(field, len, &first, &n);
	struct span spec, from, to;

	check(got != HTTP_RANGE_PART || (n > 0 && first < len && n <= len - first),
	      "a range beyond the end");
	if (field.len < 6 || strncasecmp(field.data, "bytes=", 6) != 0) {
		check(got == HTTP_RANGE_NONE, "a range of something else");
		return;
	}
	spec = span_skip(field, 6);
	while (spec.len > 0 && (spec.data[0] == ' ' || spec.data[0] == '\t'))
		spec = span_skip(spec, 1);
	while (spec.len > 0 && (spec.data[spec.len - 1] == ' ' || spec.data[spec.len - 1] == '\t'))
		spec.len--;
	from = until(spec, '-');
	if (from.len < spec.len) {
		to = span_skip(spec, from.len + 1);
		if (from.len == 0 && number(to, &b)) {
			want = b < len ? b : len;
			a = len - want;
			expected = want > 0 ? HTTP_RANGE_PART : HTTP_RANGE_UNSATISFIABLE;
		} else if (number(from, &a) && (to.len == 0 || number(to, &b)) && a <= b) {
			want = a < len ? (b < len ? b + 1 : len) - a : 0;
			expected = want > 0 ? HTTP_RANGE_PART : HTTP_RANGE_UNSATISFIABLE;
		}
	}
	check(got == expected, "http_range differs");
	check(got != HTTP_RANGE_PART || (first == a && n == want), "http_range is another");
}

/* ---- escapes ---- */

static int digit(char c)
{
	const char *digits = "0123456789abcdef0123456789ABCDEF", *at = strchr(digits, c);

	return c != 0 && at != NULL ? (int)((at - digits) % 16) : -1;
}

static void check_unescape(struct span text, bool plus)
{
	char *out = exact_copy(text.data, text.len), *want = exact_copy(text.data, text.len);
	ptrdiff_t got = http_unescape(text, plus, out), n = 0;

	for (size_t i = 0; i < text.len && n >= 0; i++) {
		if (text.data[i] != '%') {
			want[n++] = plus && text.data[i] == '+' ? ' ' : text.data[i];
		} else if (text.len - i < 3 || digit(text.data[i + 1]) < 0 ||
			   digit(text.data[i + 2]) < 0) {
			n = -1;
		} else {
			want[n++] = (char)(16 * digit(text.data[i + 1]) + digit(text.data[i + 2]));
			i += 2;
		}
	}
	check(got == n && (n <= 0 || memcmp(out, want, (size_t)n) == 0), "http_unescape differs");
	free(out);
	free(want);
}

/* Whatever is escaped comes back. */
static void check_escape(struct span text)
{
	struct text escaped = { 0 };
	char *out = malloc(3 * text.len + 1), three[4];
	struct span again;

	check(out != NULL, "out of memory");
	for (size_t i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.data[i];

		snprintf(three, sizeof(three), c & 1 ? "%%%02x" : "%%%02X", c);
		text_add(&escaped, three, 3);
	}
	again = (struct span){ escaped.data, escaped.len };
	check(http_unescape(again, false, out) == (ptrdiff_t)text.len &&
		      (text.len == 0 || memcmp(out, text.data, text.len) == 0),
	      "what was escaped is lost");
	free(out);
	free(escaped.data);
}

/* The first pair with that key decides. */
static void check_query(struct span query, struct span key)
{
	struct span value = http_query(query, key), want = { NULL, 0 };

	while (query.len > 0 && want.data == NULL) {
		struct span pair = until(query, '&'), name = until(pair, '=');

		query = span_skip(query, pair.len < query.len ? pair.len + 1 : pair.len);
		if (span_equal(name, key))
			want = span_skip(pair, name.len < pair.len ? name.len + 1 : name.len);
	}
	check((value.data != NULL) == (want.data != NULL) && span_equal(value, want),
	      "http_query differs");
}

/* ---- lists ---- */

static struct span trimmed(struct span s)
{
	while (s.len > 0 && (s.data[0] == ' ' || s.data[0] == '\t'))
		s = span_skip(s, 1);
	while (s.len > 0 && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t'))
		s.len--;
	return s;
}

/* Up to the separator outside of quotes. */
static struct span piece(struct span s, char separator)
{
	size_t quotes = 0;

	for (size_t i = 0; i < s.len; i++) {
		if (s.data[i] == separator && quotes % 2 == 0)
			return (struct span){ s.data, i };
		quotes += s.data[i] == '"';
	}
	return s;
}

/* Whether the last weight that an element has is nothing. */
static bool weightless(struct span parameters)
{
	bool nothing = false;

	while (parameters.len > 0) {
		struct span one;

		parameters = span_skip(parameters, 1);
		one = piece(parameters, ';');
		parameters = span_skip(parameters, one.len);
		one = trimmed(one);
		if (one.len < 3 || (one.data[0] != 'q' && one.data[0] != 'Q') || one.data[1] != '=')
			continue;
		nothing = one.data[2] == '0' && (one.len == 3 || one.data[3] == '.');
		for (size_t i = 4; i < one.len; i++)
			nothing &= one.data[i] == '0';
	}
	return nothing;
}

/* Any element that wants it decides, else any that refuses it. */
static void check_choice(struct span list, struct span choice)
{
	enum http_choice got = http_list_says((struct http_list){ .value = list }, choice);
	bool wanted = false, refused = false, any = false;

	for (struct span rest = list; rest.len > 0;) {
		struct span element = piece(rest, ','), name = piece(element, ';');
		bool nothing = weightless(span_skip(element, name.len));

		rest = span_skip(rest, element.len + (element.len < rest.len));
		if (trimmed(element).len == 0)
			continue;
		name = trimmed(name);
		any |= nothing;
		if (name.len != choice.len || strncasecmp(name.data, choice.data, name.len) != 0)
			continue;
		wanted |= !nothing;
		refused |= nothing;
	}
	check(got == (wanted    ? HTTP_WANTED
		      : refused ? HTTP_REFUSED
				: HTTP_UNSAID),
	      "http_list_says differs");
	check(http_list_refuses((struct http_list){ .value = list }) == any,
	      "http_list_refuses differs");
}

/* ---- hosts ---- */

/* Whoever has the scheme put before his own host is of the same origin; nothing longer is. */
static void check_origin(struct span host)
{
	struct text origin = { 0 };

	text_add(&origin, "http://", 7);
	text_add(&origin, host.data, host.len);
	check(http_same_origin((struct span){ origin.data, origin.len }, host) == (host.len > 0),
	      "an origin is not the host's");
	text_add(&origin, "x", 1);
	check(!http_same_origin((struct span){ origin.data, origin.len }, host),
	      "an origin is another host's");
	check(!http_host_literal(host) || http_host_bare(host).len > 0, "a host without a name");
	free(origin.data);
}

/* ---- credentials ---- */

/* From each ';' on, by hand: the first one with that name, whatever its value. */
static void check_cookie(struct span cookies, struct span name)
{
	struct span value = { NULL, 0 }, expected = { NULL, 0 };
	bool found = false;

	if (name.len == 0)
		return;
	for (size_t at = 0; at <= cookies.len && !found; at++) {
		struct span one;

		if (at > 0 && cookies.data[at - 1] != ';')
			continue;
		one = until(span_skip(cookies, at), ';');
		while (one.len > 0 && (*one.data == ' ' || *one.data == '\t'))
			one = span_skip(one, 1);
		while (one.len > 0 && strchr(" \t", one.data[one.len - 1]) != NULL &&
		       one.data[one.len - 1] != 0)
			one.len--;
		if (one.len > name.len && one.data[name.len] == '=' &&
		    span_equal((struct span){ one.data, name.len }, name)) {
			found = true;
			expected = span_skip(one, name.len + 1);
		}
	}
	if (expected.len > 1 && *expected.data == '"' && expected.data[expected.len - 1] == '"')
		expected = (struct span){ expected.data + 1, expected.len - 2 };
	check(http_cookie(cookies, name, &value) == (expected.len > 0), "http_cookie differs");
	check(expected.len == 0 || (value.data == expected.data && value.len == expected.len),
	      "http_cookie is another");
}

/* Bytes that these letters are the way to write; -1: there are none. */
static ptrdiff_t unletter(struct span letters, char *out)
{
	static const char alphabet[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char *again = malloc(letters.len + 4);
	size_t n = 0;
	bool same;

	check(again != NULL, "out of memory");
	for (size_t bit = 0; bit + 8 <= 6 * letters.len; bit += 8) {
		unsigned byte = 0;
		bool padded = false;

		for (size_t b = bit; b < bit + 8; b++) {
			char c = letters.data[b / 6];
			const char *at = c != 0 ? strchr(alphabet, c) : NULL;

			padded |= c == '=';
			byte = byte << 1 |
			       (at != NULL ? (unsigned)(at - alphabet) >> (5 - b % 6) & 1 : 0);
		}
		if (!padded)
			out[n++] = (char)byte;
	}
	same = letters.len % 4 == 0 &&
	       (size_t)(base64_put(again, (struct span){ out, n }) - again) == letters.len &&
	       memcmp(again, letters.data, letters.len) == 0;
	free(again);
	return same ? (ptrdiff_t)n : -1;
}

static void check_authorization(struct span field)
{
	char *room = malloc(field.len + 4), *decoded = malloc(field.len + 4);
	struct span user, secret, scheme = until(field, ' '), rest = span_skip(field, scheme.len);
	bool taken, basic = scheme.len == 5 && strncasecmp(scheme.data, "basic", 5) == 0,
		    bearer = scheme.len == 6 && strncasecmp(scheme.data, "bearer", 6) == 0;
	ptrdiff_t n;
	size_t colon = 0;

	check(room != NULL && decoded != NULL, "out of memory");
	taken = http_authorization(field, room, field.len + 4, &user, &secret);
	rest = trimmed(rest);
	n = basic && scheme.len < field.len ? unletter(rest, decoded) : -1;
	while (n >= 0 && colon < (size_t)n && decoded[colon] != ':')
		colon++;
	if (bearer) {
		check(taken == (rest.len > 0 && until(rest, ' ').len == rest.len),
		      "http_authorization differs on a token");
		check(!taken ||
			      (user.len == 0 && secret.data == rest.data && secret.len == rest.len),
		      "http_authorization is another token");
	} else {
		check(taken == (n >= 0 && colon + 1 < (size_t)n), "http_authorization differs");
		check(!taken || (user.len == colon && secret.len == (size_t)n - colon - 1 &&
				 memcmp(user.data, decoded, colon) == 0 &&
				 memcmp(secret.data, decoded + colon + 1, secret.len) == 0),
		      "http_authorization is another password");
	}
	free(room);
	free(decoded);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	char *own = exact_copy(data, size);
	struct span all = { own, size }, key = until(all, '\n');
	struct span rest = span_skip(all, key.len < size ? key.len + 1 : key.len);

	check_id(all);
	check_version(all);
	check_range(all, 0);
	check_range(all, 10);
	check_range(all, UINT64_MAX);
	check_unescape(all, false);
	check_unescape(all, true);
	check_escape(all);
	if (memchr(key.data, '=', key.len) == NULL && memchr(key.data, '&', key.len) == NULL)
		check_query(rest, key);
	check_choice(rest, trimmed(key));
	check_origin(all);
	check_cookie(rest, key);
	check_authorization(all);
	free(own);
	return 0;
}
