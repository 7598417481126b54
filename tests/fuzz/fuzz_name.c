#include "base/name.h"

#include "fuzz.h"

/*
 * Names and patterns against a slow reference that follows the contract's sentences one by one. An
 * input is two texts with a newline between them: a name, and a pattern that may match it.
 */

/* RFC 3629's table, as ranges of code points that are encoded again and compared. */
static size_t character(struct span s, unsigned long *code)
{
	for (size_t n = 1; n <= 4 && n <= s.len; n++) {
		const unsigned char *p = (const unsigned char *)s.data;
		unsigned char again[4];
		unsigned long c = n == 1   ? p[0]
				  : n == 2 ? p[0] & 0x1fUL
				  : n == 3 ? p[0] & 0x0fUL
					   : p[0] & 0x07UL;

		for (size_t i = 1; i < n; i++)
			c = c << 6 | (p[i] & 0x3fUL);
		if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
			continue;
		if (n != (c < 0x80 ? 1U : c < 0x800 ? 2U : c < 0x10000 ? 3U : 4U))
			continue;
		for (size_t i = n; i-- > 1;)
			again[i] = (unsigned char)(0x80 | ((c >> 6 * (n - 1 - i)) & 0x3f));
		again[0] = (unsigned char)(n == 1   ? c
					   : n == 2 ? 0xc0 | c >> 6
					   : n == 3 ? 0xe0 | c >> 12
						    : 0xf0 | c >> 18);
		if (memcmp(again, p, n) == 0) {
			*code = c;
			return n;
		}
	}
	return 0;
}

static bool valid(struct span s, bool pattern)
{
	unsigned levels = 1;
	size_t level_len = 0;

	if (s.len < 1 || s.len > 255)
		return false;
	for (size_t at = 0, n; at < s.len; at += n) {
		unsigned long c;
		bool alone = (at == 0 || s.data[at - 1] == '.') &&
			     (at + 1 == s.len || s.data[at + 1] == '.');

		n = character((struct span){ s.data + at, s.len - at }, &c);
		if (n == 0 || c < ' ' || (c >= 0x7f && c <= 0x9f))
			return false;
		if (c == '*' && !(pattern && alone))
			return false;
		if (c == '>' && !(pattern && alone && at + 1 == s.len))
			return false;
		if (c != '.') {
			level_len += n;
			continue;
		}
		if (level_len == 0 || at + 1 == s.len)
			return false;
		level_len = 0;
		if (++levels > 32)
			return false;
	}
	return true;
}

/* Level by level, recursively. */
static bool matches(struct span pattern, struct span name)
{
	const char *pattern_dot = memchr(pattern.data, '.', pattern.len);
	const char *name_dot = memchr(name.data, '.', name.len);
	struct span p = { pattern.data,
			  pattern_dot ? (size_t)(pattern_dot - pattern.data) : pattern.len };
	struct span n = { name.data, name_dot ? (size_t)(name_dot - name.data) : name.len };

	if (span_equal(p, SPAN(">")))
		return true;
	if (!span_equal(p, SPAN("*")) && !span_equal(p, n))
		return false;
	if (pattern_dot == NULL || name_dot == NULL)
		return pattern_dot == NULL && name_dot == NULL;
	return matches(span_skip(pattern, p.len + 1), span_skip(name, n.len + 1));
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	char *own = exact_copy(data, size);
	const char *lf = size > 0 ? memchr(own, '\n', size) : NULL;
	struct span name, pattern;

	name = (struct span){ own, lf != NULL ? (size_t)(lf - own) : size };
	pattern = lf != NULL ? (struct span){ lf + 1, size - name.len - 1 } : name;
	check(name_valid(name) == valid(name, false), "name_valid differs");
	check(name_pattern_valid(pattern) == valid(pattern, true), "name_pattern_valid differs");
	if (valid(name, false) && valid(pattern, true))
		check(name_matches(pattern, name) ==
			      (matches(pattern, name) &&
			       !(name.data[0] == '$' && memchr("*>", pattern.data[0], 2) != NULL)),
		      "name_matches differs");
	free(own);
	return 0;
}
