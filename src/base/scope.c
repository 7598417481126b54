#include "base/scope.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/memory.h"
#include "base/name.h"

/* What patterns have come to behind some of their levels; the whole is what they are before the
 * first. */
struct scope {
	struct scope **levels; /* that come next and are no wildcards, sorted */
	size_t levels_n;
	struct scope *any; /* behind a '*' */
	unsigned ends;     /* of the patterns that end here */
	unsigned and_more; /* of those with a '>' next */
	size_t name_len;
	char name[];
};

/* Takes the first level off, and the dot behind it. */
static struct span take_level(struct span *rest)
{
	const char *dot = memchr(rest->data, '.', rest->len);
	struct span level = { rest->data, dot != NULL ? (size_t)(dot - rest->data) : rest->len };

	*rest = span_skip(*rest, level.len + (dot != NULL));
	return level;
}

static bool is(struct span level, char wildcard)
{
	return level.len == 1 && *level.data == wildcard;
}

/* Of the broker itself: what no wildcard in first place stands for. */
static bool internal(struct span level)
{
	return level.len > 0 && *level.data == '$';
}

static struct scope *level_new(struct span name)
{
	struct scope *node = memory_new_zeroed(sizeof(*node) + name.len);

	if (node == NULL)
		return NULL;
	if (name.len > 0)
		memcpy(node->name, name.data, name.len);
	node->name_len = name.len;
	return node;
}

void scope_free(struct scope *node)
{
	if (node == NULL)
		return;
	for (size_t i = 0; i < node->levels_n; i++)
		scope_free(node->levels[i]);
	scope_free(node->any);
	memory_free(node->levels);
	memory_free(node);
}

static int compare(const struct scope *node, struct span level)
{
	size_t n = node->name_len < level.len ? node->name_len : level.len;
	int differs = memcmp(node->name, level.data, n);

	return differs != 0 ? differs : (node->name_len > level.len) - (node->name_len < level.len);
}

/* The place of the first that is not less. */
static size_t place_of(const struct scope *node, struct span level)
{
	size_t low = 0, high = node->levels_n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (compare(node->levels[middle], level) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static const struct scope *find(const struct scope *node, struct span level)
{
	size_t at = place_of(node, level);

	return at < node->levels_n && compare(node->levels[at], level) == 0 ? node->levels[at]
									    : NULL;
}

struct scope *scope_new(void)
{
	return level_new(SPAN(""));
}

/* Room for one more at its place; NULL: out of memory. */
static struct scope *insert(struct scope *node, struct span level)
{
	size_t at = place_of(node, level);
	struct scope **more, *child;

	if (at < node->levels_n && compare(node->levels[at], level) == 0)
		return node->levels[at];
	/* A power of two is full. */
	if ((node->levels_n & (node->levels_n - 1)) == 0) {
		size_t room = node->levels_n > 0 ? 2 * node->levels_n : 1;

		more = memory_resize(node->levels, room * sizeof(*more));
		if (more == NULL)
			return NULL;
		node->levels = more;
	}
	child = level_new(level);
	if (child == NULL)
		return NULL;
	memmove(node->levels + at + 1, node->levels + at,
		(node->levels_n - at) * sizeof(*node->levels));
	node->levels[at] = child;
	node->levels_n++;
	return child;
}

int scope_add(struct scope *s, struct span pattern, unsigned bits)
{
	struct scope *node = s;

	while (pattern.len > 0) {
		struct span level = take_level(&pattern);

		if (is(level, '>')) {
			node->and_more |= bits;
			return 0;
		}
		if (!is(level, '*')) {
			node = insert(node, level);
		} else {
			if (node->any == NULL)
				node->any = level_new(level);
			node = node->any;
		}
		/* Nodes that nothing ends at say nothing. */
		if (node == NULL)
			return -ENOMEM;
	}
	node->ends |= bits;
	return 0;
}

/* A node has one way to it: each is come to once at most. */
static unsigned matches(const struct scope *node, struct span rest, bool first)
{
	const struct scope *next;
	struct span level;
	unsigned bits = 0;

	if (rest.len == 0)
		return node->ends;
	level = take_level(&rest);
	if (!first || !internal(level)) {
		bits = node->and_more;
		if (node->any != NULL)
			bits |= matches(node->any, rest, false);
	}
	next = find(node, level);
	return next != NULL ? bits | matches(next, rest, false) : bits;
}

unsigned scope_matches(const struct scope *s, struct span name)
{
	return matches(s, name, true);
}

/*
 * The same for a name that begins like the pattern, has levels that no pattern names where that has
 * a '*', and so many of them where it has a '>': what all of its names have, these have, and the
 * other way round, for patterns name but finitely many levels.
 */
static unsigned matches_strange(const struct scope *node, struct span rest, unsigned more,
				bool first)
{
	const struct scope *next = NULL;
	bool strange = true;
	unsigned bits = 0;

	if (rest.len == 0 && more == 0)
		return node->ends;
	if (rest.len > 0) {
		struct span level = take_level(&rest);

		strange = is(level, '*');
		if (!strange)
			next = find(node, level);
		if (first && internal(level))
			return next != NULL ? matches_strange(next, rest, more, false) : 0;
	} else {
		more--;
	}
	bits = node->and_more;
	if (node->any != NULL)
		bits |= matches_strange(node->any, rest, more, false);
	return next != NULL ? bits | matches_strange(next, rest, more, false) : bits;
}

unsigned scope_covers(const struct scope *s, struct span pattern)
{
	bool open = pattern.data[pattern.len - 1] == '>';
	unsigned levels = 1, bits = UINT32_MAX;

	for (size_t i = 0; i < pattern.len; i++)
		levels += pattern.data[i] == '.';
	if (!open)
		return matches_strange(s, pattern, 0, true);
	/* Without the '>', and the dot before it. */
	pattern.len -= pattern.len > 1 ? 2 : 1;
	for (unsigned more = 1; bits != 0 && levels - 1 + more <= NAME_LEVELS_MAX; more++)
		bits &= matches_strange(s, pattern, more, true);
	return bits;
}

/* Of everything from here on; first: of what wildcards in first place stand for. */
static unsigned all_of(const struct scope *node, bool first)
{
	unsigned bits = node->and_more;

	if (node->any != NULL)
		bits |= node->any->ends | all_of(node->any, false);
	for (size_t i = 0; i < node->levels_n; i++) {
		const struct scope *next = node->levels[i];

		if (!first || next->name[0] != '$')
			bits |= next->ends | all_of(next, false);
	}
	return bits;
}

static unsigned overlaps(const struct scope *node, struct span rest, bool first)
{
	const struct scope *next;
	struct span level;
	unsigned bits;

	if (rest.len == 0)
		return node->ends;
	level = take_level(&rest);
	if (is(level, '>'))
		return all_of(node, first);
	if (first && internal(level)) {
		next = find(node, level);
		return next != NULL ? overlaps(next, rest, false) : 0;
	}
	bits = node->and_more;
	if (node->any != NULL)
		bits |= overlaps(node->any, rest, false);
	if (!is(level, '*')) {
		next = find(node, level);
		return next != NULL ? bits | overlaps(next, rest, false) : bits;
	}
	for (size_t i = 0; i < node->levels_n; i++)
		if (!first || node->levels[i]->name[0] != '$')
			bits |= overlaps(node->levels[i], rest, false);
	return bits;
}

unsigned scope_overlaps(const struct scope *s, struct span pattern)
{
	return overlaps(s, pattern, true);
}
