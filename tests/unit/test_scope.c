#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "base/scope.h"
#include "random.h"

/* What the tree says is held against trying all names there are of a small world. */

enum { PATTERNS_MAX = 6, NAMES_MAX = 4000, WORLD_LEVELS = 5, PATTERN_LEVELS = 3 };

/* One of each kind: named by patterns, never named, and the broker's own. */
static const char *const words[] = { "a", "b", "strange", "$s" };
enum { WORDS = sizeof(words) / sizeof(words[0]) };

static char names[NAMES_MAX][64];
static unsigned names_n;

static void make_names(const char *before, unsigned levels)
{
	for (unsigned i = 0; i < WORDS; i++) {
		char *name = names[names_n];

		assert_true(names_n < NAMES_MAX);
		snprintf(name, sizeof(names[0]), "%s%s%s", before, *before != '\0' ? "." : "",
			 words[i]);
		names_n++;
		if (levels > 1)
			make_names(name, levels - 1);
	}
}

/* Slow, and by another way: name_matches, and the rule for what begins with '$'. */
static bool fits(const char *pattern, const char *name)
{
	if (*name == '$' && (*pattern == '*' || *pattern == '>'))
		return false;
	return name_matches(span_of(pattern), span_of(name));
}

static void make_pattern(char *out)
{
	static const char *const levels[] = { "a", "b", "*", "*", "$s" };
	unsigned n = 1 + (unsigned)below(PATTERN_LEVELS);

	*out = '\0';
	for (unsigned i = 0; i < n; i++) {
		const char *level = levels[below(5)];

		if (i + 1 == n && below(3) == 0)
			level = ">";
		strcat(strcat(out, i > 0 ? "." : ""), level);
	}
}

static void the_tree_says_what_trying_every_name_says(void **state)
{
	(void)state;
	names_n = 0;
	make_names("", WORLD_LEVELS);
	for (unsigned round = 0; round < 1000; round++) {
		char patterns[PATTERNS_MAX][16], asked[16];
		unsigned bits[PATTERNS_MAX], n = (unsigned)below(PATTERNS_MAX + 1);
		unsigned covers = UINT32_MAX, overlaps = 0;
		struct scope *scope = scope_new();

		assert_non_null(scope);
		for (unsigned i = 0; i < n; i++) {
			make_pattern(patterns[i]);
			bits[i] = 1u << below(2);
			assert_int_equal(scope_add(scope, span_of(patterns[i]), bits[i]), 0);
		}
		make_pattern(asked);
		for (unsigned k = 0; k < names_n; k++) {
			unsigned has = 0;

			for (unsigned i = 0; i < n; i++)
				has |= fits(patterns[i], names[k]) ? bits[i] : 0;
			if (k % 7 == round % 7)
				assert_int_equal(scope_matches(scope, span_of(names[k])), has);
			if (!fits(asked, names[k]))
				continue;
			covers &= has;
			overlaps |= has;
		}
		if (scope_covers(scope, span_of(asked)) != covers ||
		    scope_overlaps(scope, span_of(asked)) != overlaps) {
			for (unsigned i = 0; i < n; i++)
				print_message("%u %s\n", bits[i], patterns[i]);
			fail_msg("%s: covers %u, not %u; overlaps %u, not %u", asked,
				 scope_covers(scope, span_of(asked)), covers,
				 scope_overlaps(scope, span_of(asked)), overlaps);
		}
		scope_free(scope);
	}
}

static struct scope *scope_of(const char *const *patterns)
{
	struct scope *scope = scope_new();

	assert_non_null(scope);
	for (; *patterns != NULL; patterns++)
		assert_int_equal(scope_add(scope, span_of(*patterns), 1), 0);
	return scope;
}

static void a_pattern_is_covered_whole_or_not_at_all(void **state)
{
	struct scope *scope = scope_of((const char *[]){ "a.b", "c.*", "c.*.>", "d.>", NULL });

	(void)state;
	assert_int_equal(scope_covers(scope, SPAN("a.b")), 1);
	assert_int_equal(scope_covers(scope, SPAN("a.>")), 0);
	assert_int_equal(scope_covers(scope, SPAN("a.*")), 0);
	/* By two together. */
	assert_int_equal(scope_covers(scope, SPAN("c.>")), 1);
	assert_int_equal(scope_covers(scope, SPAN("*.b")), 0);
	assert_int_equal(scope_covers(scope, SPAN("d.*.*.x")), 1);
	assert_int_equal(scope_covers(scope, SPAN("d.>")), 1);
	assert_int_equal(scope_covers(scope, SPAN(">")), 0);
	assert_int_equal(scope_overlaps(scope, SPAN("*.b")), 1);
	assert_int_equal(scope_overlaps(scope, SPAN("x.>")), 0);
	scope_free(scope);
}

static void nothing_covers_nothing(void **state)
{
	struct scope *scope = scope_of((const char *[]){ NULL });

	(void)state;
	assert_int_equal(scope_matches(scope, SPAN("a")), 0);
	assert_int_equal(scope_covers(scope, SPAN(">")), 0);
	assert_int_equal(scope_overlaps(scope, SPAN(">")), 0);
	scope_free(scope);
}

static void everything_is_not_what_is_the_brokers_own(void **state)
{
	struct scope *scope = scope_of((const char *[]){ ">", NULL });

	(void)state;
	assert_int_equal(scope_covers(scope, SPAN(">")), 1);
	assert_int_equal(scope_matches(scope, SPAN("a.b")), 1);
	assert_int_equal(scope_matches(scope, SPAN("$sys.stats")), 0);
	assert_int_equal(scope_covers(scope, SPAN("$sys.>")), 0);
	assert_int_equal(scope_overlaps(scope, SPAN("$sys.>")), 0);
	scope_free(scope);
}

/* 16,384 paths lead through such a tree for a slow reader; each of its levels is looked at once. */
static void the_deepest_and_widest_are_found(void **state)
{
	char pattern[2 * NAME_LEVELS_MAX], name[2 * NAME_LEVELS_MAX], wide[16];
	struct scope *scope = scope_new();

	(void)state;
	for (int i = 0; i < NAME_LEVELS_MAX; i++) {
		memcpy(pattern + 2 * i, i % 2 == 0 ? "*." : "a.", 2);
		memcpy(name + 2 * i, "a.", 2);
	}
	assert_int_equal(scope_add(scope, (struct span){ pattern, sizeof(pattern) - 1 }, 2), 0);
	assert_int_equal(scope_matches(scope, (struct span){ name, sizeof(name) - 1 }), 2);
	for (int i = 0; i < 20000; i++) {
		snprintf(wide, sizeof(wide), "w%d", i * 7919 % 20000);
		assert_int_equal(scope_add(scope, span_of(wide), 4), 0);
	}
	for (int i = 0; i < 20000; i++) {
		snprintf(wide, sizeof(wide), "w%d", i);
		assert_int_equal(scope_matches(scope, span_of(wide)), 4);
	}
	scope_free(scope);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_tree_says_what_trying_every_name_says),
		cmocka_unit_test(a_pattern_is_covered_whole_or_not_at_all),
		cmocka_unit_test(nothing_covers_nothing),
		cmocka_unit_test(everything_is_not_what_is_the_brokers_own),
		cmocka_unit_test(the_deepest_and_widest_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
