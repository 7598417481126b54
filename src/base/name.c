#include "base/name.h"

#include <stdint.h>

/* The bytes of the first code point, 0 if they are not well-formed (the table of RFC 3629, 4). */
static size_t utf8_next(struct span s, uint32_t *code)
{
	const unsigned char *p = (const unsigned char *)s.data;
	size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	uint32_t c = n == 1 ? p[0] : p[0] & (0x7fu >> n);

	if (n > s.len || (n > 1 && p[0] < 0xc2) || p[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	/* Two bytes cannot be overlong here: 0xc0 and 0xc1 never start a sequence. */
	if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000))
		return 0;
	if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*code = c;
	return n;
}

static bool printable(uint32_t c)
{
	return c >= ' ' && (c < 0x7f || c > 0x9f);
}

/* Takes the first level off s, and the dot behind it. */
static struct span level_next(struct span *s)
{
	const char *dot = s->len > 0 ? memchr(s->data, '.', s->len) : NULL;
	struct span level = { s->data, dot ? (size_t)(dot - s->data) : s->len };

	*s = span_skip(*s, level.len + (dot != NULL));
	return level;
}

static bool level_valid(struct span level, bool wildcard_here)
{
	bool alone = level.len == 1;
	uint32_t c = 0;

	if (level.len == 0)
		return false;
	for (size_t n; level.len > 0; level = span_skip(level, n)) {
		n = utf8_next(level, &c);
		if (n == 0 || !printable(c))
			return false;
		if ((c == '*' || c == '>') && !(alone && wildcard_here))
			return false;
	}
	return true;
}

static bool levels_valid(struct span s, bool pattern)
{
	size_t levels = 1;

	if (s.len == 0 || s.len > NAME_BYTES_MAX)
		return false;
	if (s.data[s.len - 1] == '.')
		return false;
	for (; s.len > 0; levels++) {
		struct span level = level_next(&s);
		bool rest = level.len == 1 && *level.data == '>';

		if (levels > NAME_LEVELS_MAX || !level_valid(level, pattern))
			return false;
		if (rest && s.len > 0)
			return false;
	}
	return true;
}

bool name_valid(struct span name)
{
	return levels_valid(name, false);
}

bool name_pattern_valid(struct span pattern)
{
	return levels_valid(pattern, true);
}

static bool wild(struct span level)
{
	return level.len == 1 && (*level.data == '*' || *level.data == '>');
}

bool name_matches(struct span pattern, struct span name)
{
	struct span rest = pattern;

	if (name.len > 0 && *name.data == '$' && wild(level_next(&rest)))
		return false;
	while (pattern.len > 0 && name.len > 0) {
		struct span wanted = level_next(&pattern);
		struct span level = level_next(&name);

		if (span_equal(wanted, SPAN(">")))
			return true;
		if (!span_equal(wanted, SPAN("*")) && !span_equal(wanted, level))
			return false;
	}
	return pattern.len == 0 && name.len == 0;
}

bool name_patterns_overlap(struct span a, struct span b)
{
	bool first = true;

	for (; a.len > 0 && b.len > 0; first = false) {
		struct span x = level_next(&a), y = level_next(&b);

		if (first && ((wild(x) && *y.data == '$') || (wild(y) && *x.data == '$')))
			return false;
		if (span_equal(x, SPAN(">")) || span_equal(y, SPAN(">")))
			return true;
		if (!wild(x) && !wild(y) && !span_equal(x, y))
			return false;
	}
	return a.len == 0 && b.len == 0;
}

/* Behind a dot where something is there already. False: there is no room. */
static bool level_add(char out[NAME_BYTES_MAX], size_t *len, struct span level)
{
	size_t dot = *len > 0;

	if (*len + dot + level.len > NAME_BYTES_MAX)
		return false;
	if (dot)
		out[*len] = '.';
	memcpy(out + *len + dot, level.data, level.len);
	*len += dot + level.len;
	return true;
}

struct span name_patterns_meet(struct span a, struct span b, char out[NAME_BYTES_MAX])
{
	bool fits = name_patterns_overlap(a, b);
	size_t len = 0;

	while (fits && a.len > 0 && b.len > 0) {
		struct span rest_a = a, rest_b = b, x = level_next(&a), y = level_next(&b);

		/* What the other one says of the rest. */
		if (span_equal(x, SPAN(">")) || span_equal(y, SPAN(">"))) {
			fits = level_add(out, &len, span_equal(x, SPAN(">")) ? rest_b : rest_a);
			break;
		}
		fits = level_add(out, &len, wild(x) ? y : x);
	}
	return (struct span){ out, fits ? len : 0 };
}

enum { WORD = 8 }; /* bytes looked at together */

static inline uint64_t word_at(const char *at)
{
	uint64_t word;

	memcpy(&word, at, WORD);
	return word;
}

static inline bool ascii(uint64_t word)
{
	return (word & UINT64_MAX / 255 * 0x80) == 0;
}

/* Most text is ASCII: how many bytes, in words of eight, are nothing else. */
static size_t ascii_words(struct span text)
{
	size_t n = 0;

	for (; n + 4 * WORD <= text.len; n += 4 * WORD) {
		const char *at = text.data + n;

		if (!ascii(word_at(at) | word_at(at + WORD) | word_at(at + 2 * WORD) |
			   word_at(at + 3 * WORD)))
			break;
	}
	for (; n + WORD <= text.len; n += WORD)
		if (!ascii(word_at(text.data + n)))
			break;
	return n;
}

bool utf8_valid(struct span text)
{
	uint32_t code;

	while (text.len > 0) {
		size_t n = ascii_words(text);

		if (n == 0)
			n = utf8_next(text, &code);
		if (n == 0)
			return false;
		text = span_skip(text, n);
	}
	return true;
}
