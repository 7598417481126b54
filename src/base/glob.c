#include "base/glob.h"

#include <string.h>

bool glob_valid(struct span glob)
{
	return glob.len <= GLOB_BYTES_MAX && utf8_valid(glob);
}

/* The bytes that the class at the start takes, which has a '[' there; *in: whether c is one of
 * those that it stands for. What is not closed is closed by the end. */
static size_t class_at(struct span class, unsigned char c, bool *in)
{
	const unsigned char *p = (const unsigned char *)class.data;
	size_t at = 1;
	bool negative = at < class.len && p[at] == '^', found = false;

	at += negative;
	while (at < class.len && p[at] != ']') {
		if (p[at] == '\\' && at + 1 < class.len) {
			found |= p[at + 1] == c;
			at += 2;
		} else if (at + 2 < class.len && p[at + 1] == '-') {
			unsigned char low = p[at], high = p[at + 2];

			found |= low <= high ? low <= c && c <= high : high <= c && c <= low;
			at += 3;
		} else {
			found |= p[at] == c;
			at++;
		}
	}
	*in = found != negative;
	return at < class.len ? at + 1 : at;
}

/* The bytes that what is at the start takes, if it stands for this byte; 0: it does not. It is no
 * '*'. */
static size_t one_at(struct span glob, unsigned char c)
{
	size_t len;
	bool in;

	switch (glob.data[0]) {
	case '?':
		return 1;
	case '[':
		len = class_at(glob, c, &in);
		return in ? len : 0;
	case '\\':
		if (glob.len > 1)
			return (unsigned char)glob.data[1] == c ? 2 : 0;
		break;
	default:
		break;
	}
	return (unsigned char)glob.data[0] == c;
}

static bool wildcard(char c)
{
	return c == '*' || c == '?' || c == '[';
}

/* Each thing but a star stands for one byte, so only the last star can be wrong about how many it
 * takes: what is before it has been found as early as can be. */
bool glob_matches(struct span glob, struct span name)
{
	struct span star = { NULL, 0 }, retry = { NULL, 0 };

	if (glob.len > 0 && name.len > 0 && wildcard(glob.data[0]) && name.data[0] == '$')
		return false;
	while (name.len > 0) {
		size_t len = 0;

		if (glob.len > 0 && glob.data[0] == '*') {
			glob = span_skip(glob, 1);
			star = glob;
			retry = name;
			continue;
		}
		if (glob.len > 0)
			len = one_at(glob, (unsigned char)name.data[0]);
		if (len > 0) {
			glob = span_skip(glob, len);
			name = span_skip(name, 1);
			continue;
		}
		if (star.data == NULL)
			return false;
		retry = span_skip(retry, 1);
		glob = star;
		name = retry;
	}
	while (glob.len > 0 && glob.data[0] == '*')
		glob = span_skip(glob, 1);
	return glob.len == 0;
}

void glob_read(struct span glob, struct glob_meaning *m)
{
	struct span text;

	m->len = 0;
	while (glob.len > 0 && !wildcard(glob.data[0])) {
		if (glob.data[0] == '\\' && glob.len > 1)
			glob = span_skip(glob, 1);
		m->text[m->len++] = glob.data[0];
		glob = span_skip(glob, 1);
	}
	text = (struct span){ m->text, m->len };
	m->kind = GLOB_OTHER;
	if (glob.len == 0) {
		if (name_valid(text))
			m->kind = GLOB_EXACT;
		return;
	}
	while (glob.len > 0 && glob.data[0] == '*')
		glob = span_skip(glob, 1);
	if (glob.len > 0)
		return;
	m->kind = GLOB_PREFIX;
	/* No topic ends in a dot: what begins with one that is followed by a dot goes on. */
	if (m->len > 1 && m->text[m->len - 1] == '.')
		text.len--;
	else if (m->len > 0)
		return;
	if (m->len > 0 && !name_valid(text))
		return;
	m->kind = GLOB_NATIVE;
	m->text[m->len++] = '>';
}

void glob_cover(struct span glob, struct glob_meaning *m)
{
	glob_read(glob, m);
	if (m->kind == GLOB_EXACT || m->kind == GLOB_NATIVE)
		return;
	/* Whole levels of what it begins with. */
	while (m->len > 0 && (m->text[m->len - 1] != '.' || m->len == sizeof(m->text)))
		m->len--;
	if (m->len > 0 && !name_valid((struct span){ m->text, m->len - 1 }))
		m->len = 0;
	m->text[m->len++] = '>';
	m->kind = GLOB_NATIVE;
}
