#include "base/hash.h"
#include "topic/pattern.h"

#include "fuzz.h"

/*
 * A table of patterns against a slow reference that follows the contract's sentences one by one. An
 * input is lines: the last one is a name; each other one a pattern behind a letter that says how it
 * is meant (n, m, g), of which one that comes again is taken away.
 */

enum { PATTERNS_MAX = 64 };

struct own {
	struct pattern pattern; /* first */
	bool there, matched;
	char bytes[PATTERN_KEY_MAX];
};

static bool levels_match(struct span p, struct span n, bool parent)
{
	const char *p_dot = memchr(p.data, '.', p.len), *n_dot = memchr(n.data, '.', n.len);
	size_t p_len = p_dot != NULL ? (size_t)(p_dot - p.data) : p.len;
	size_t n_len = n_dot != NULL ? (size_t)(n_dot - n.data) : n.len;

	if (span_equal(p, SPAN(">")))
		return true;
	if (!(p_len == 1 && *p.data == '*') &&
	    !(p_len == n_len && memcmp(p.data, n.data, n_len) == 0))
		return false;
	if (n_dot == NULL)
		return p_dot == NULL || (parent && span_equal(span_skip(p, p_len), SPAN(".>")));
	return p_dot != NULL &&
	       levels_match(span_skip(p, p_len + 1), span_skip(n, n_len + 1), parent);
}

static bool slow(const struct pattern *p, struct span name)
{
	if (p->kind == PATTERN_GLOB)
		return glob_matches(p->text, name);
	if (*name.data == '$' && (*p->text.data == '*' || *p->text.data == '>'))
		return false;
	return levels_match(p->text, name, p->kind == PATTERN_MQTT);
}

static void mark(struct pattern *pattern, void *argument)
{
	struct own *o = (struct own *)(void *)pattern;

	(void)argument;
	check(o->there, "what has gone matches");
	check(!o->matched, "a pattern matches twice");
	o->matched = true;
}

static void change(struct patterns *p, struct own *of, unsigned *n, struct span line)
{
	enum pattern_kind kind = line.len == 0       ? PATTERN_NONE
				 : *line.data == 'n' ? PATTERN_NATIVE
				 : *line.data == 'm' ? PATTERN_MQTT
				 : *line.data == 'g' ? PATTERN_GLOB
						     : PATTERN_NONE;
	struct pattern *there;
	struct pattern_key key;

	if (kind == PATTERN_NONE || !pattern_valid(kind, span_skip(line, 1)))
		return;
	pattern_key_make(&key, kind, SPAN(""), span_skip(line, 1));
	there = patterns_find(p, &key);
	if (there != NULL) {
		patterns_remove(p, there);
		((struct own *)(void *)there)->there = false;
		return;
	}
	if (*n == PATTERNS_MAX)
		return;
	pattern_init(&of[*n].pattern, &key, of[*n].bytes);
	check(patterns_add(p, &of[*n].pattern) == 0, "a pattern is not taken");
	of[(*n)++].there = true;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct patterns p = { 0 };
	struct own *of = calloc(PATTERNS_MAX, sizeof(*of));
	char *own = exact_copy(data, size);
	struct span rest = { own, size };
	const char *lf;
	unsigned n = 0;

	hash_seed_with(1, 2);
	while (rest.len > 0 && (lf = memchr(rest.data, '\n', rest.len)) != NULL) {
		size_t len = (size_t)(lf - rest.data);

		change(&p, of, &n, (struct span){ rest.data, len });
		rest = span_skip(rest, len + 1);
	}
	if (name_valid(rest)) {
		patterns_match(&p, rest, mark, NULL);
		for (unsigned i = 0; i < n; i++)
			if (of[i].there)
				check(of[i].matched == slow(&of[i].pattern, rest),
				      "a pattern matches otherwise than alone");
	}
	for (unsigned i = 0; i < n; i++)
		if (of[i].there)
			patterns_remove(&p, &of[i].pattern);
	patterns_release(&p);
	free(own);
	free(of);
	return 0;
}
