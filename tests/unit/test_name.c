#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/name.h"

static bool valid(const char *name)
{
	return name_valid(span_of(name));
}

static bool pattern_valid(const char *pattern)
{
	return name_pattern_valid(span_of(pattern));
}

static bool matches(const char *pattern, const char *name)
{
	assert_true(pattern_valid(pattern));
	assert_true(valid(name));
	return name_matches(span_of(pattern), span_of(name));
}

/* In a buffer of just its size, so that a sanitizer sees a byte too many being read. */
static bool utf8(const char *text, size_t len)
{
	char *copy = malloc(len + (len == 0));
	bool result;

	assert_non_null(copy);
	memcpy(copy, text, len);
	result = utf8_valid((struct span){ copy, len });
	free(copy);
	return result;
}

#define UTF8(literal) utf8(literal, sizeof(literal) - 1)

static void ordinary_names_are_valid(void **state)
{
	(void)state;
	assert_true(valid("a"));
	assert_true(valid("prices.eur-usd"));
	assert_true(valid("a/b:c\"d\\e#f"));
	assert_true(valid("$sys.stats"));
	assert_true(valid("Stra\xc3\x9f"
			  "e.\xe2\x82\xac.\xf0\x9f\x98\x80"));
}

static void a_name_has_1_to_255_bytes(void **state)
{
	char name[257];

	(void)state;
	memset(name, 'x', sizeof(name));
	assert_false(name_valid((struct span){ name, 0 }));
	assert_false(name_valid((struct span){ NULL, 0 }));
	assert_true(name_valid((struct span){ name, 1 }));
	assert_true(name_valid((struct span){ name, 254 }));
	assert_true(name_valid((struct span){ name, 255 }));
	assert_false(name_valid((struct span){ name, 256 }));
	assert_false(name_pattern_valid((struct span){ name, 0 }));
	assert_true(name_pattern_valid((struct span){ name, 255 }));
	assert_false(name_pattern_valid((struct span){ name, 256 }));
}

static void a_name_has_at_most_32_levels(void **state)
{
#define LEVELS_30 "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18.19.20.21.22.23.24.25.26.27.28.29.30"
	(void)state;
	assert_true(valid(LEVELS_30 ".31"));
	assert_true(valid(LEVELS_30 ".31.32"));
	assert_false(valid(LEVELS_30 ".31.32.33"));
	assert_true(pattern_valid(LEVELS_30 ".*.>"));
	assert_false(pattern_valid(LEVELS_30 ".31.*.>"));
}

static void empty_levels_are_invalid(void **state)
{
	static const char *const names[] = { ".", "..", ".a", "a.", "a..b", "a.b." };

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_false(valid(names[i]));
		assert_false(pattern_valid(names[i]));
	}
	assert_false(pattern_valid("*."));
	assert_false(pattern_valid(".>"));
}

static void control_characters_are_invalid(void **state)
{
	(void)state;
	for (char c = 0; c < ' '; c++)
		assert_false(name_valid((struct span){ (char[]){ 'a', c, 'b' }, 3 }));
	assert_true(valid("a b"));
	assert_true(valid("a!b"));
	assert_true(valid("a~b"));
	assert_false(valid("a\x7f"));
	assert_false(valid("a\xc2\x80"));
	assert_false(valid("a\xc2\x9f"));
	assert_true(valid("a\xc2\xa0"));
}

static void names_that_are_not_utf8_are_invalid(void **state)
{
	(void)state;
	assert_false(valid("a\xff"));
	assert_false(valid("\xe2\x82"));
	assert_false(valid("\xe2.\x82\xac"));
}

static void wildcards_are_refused_in_a_name(void **state)
{
	static const char *const names[] = { "*", ">", "a.*", "a.>", "a*", "a.b>c" };

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_false(valid(names[i]));
}

static void a_wildcard_is_a_level_of_its_own(void **state)
{
	(void)state;
	assert_true(pattern_valid("*"));
	assert_true(pattern_valid(">"));
	assert_true(pattern_valid("a"));
	assert_true(pattern_valid("*.b.*"));
	assert_true(pattern_valid("a.*.>"));
	assert_false(pattern_valid("a*"));
	assert_false(pattern_valid("**"));
	assert_false(pattern_valid("a.>>"));
	assert_false(pattern_valid("a.b>"));
	assert_false(pattern_valid("*>"));
}

static void the_rest_comes_last(void **state)
{
	(void)state;
	assert_false(pattern_valid(">.a"));
	assert_false(pattern_valid("a.>.b"));
	assert_false(pattern_valid(">.>"));
}

static void a_pattern_without_wildcards_matches_itself(void **state)
{
	(void)state;
	assert_true(matches("a.b", "a.b"));
	assert_false(matches("a.b", "a.bc"));
	assert_false(matches("a.bc", "a.b"));
	assert_false(matches("a.b", "a"));
	assert_false(matches("a", "a.b"));
	assert_false(matches("a.b", "A.b"));
}

static void a_star_matches_exactly_one_level(void **state)
{
	(void)state;
	assert_true(matches("*", "a"));
	assert_false(matches("*", "a.b"));
	assert_true(matches("a.*.c", "a.b.c"));
	assert_false(matches("a.*.c", "a.c"));
	assert_false(matches("a.*.c", "a.b.b.c"));
	assert_false(matches("a.*", "a"));
	assert_true(matches("*.*", "a.b"));
}

static void the_rest_matches_one_level_or_more(void **state)
{
	(void)state;
	assert_true(matches(">", "a"));
	assert_true(matches(">", "a.b.c"));
	assert_true(matches("a.>", "a.b"));
	assert_true(matches("a.>", "a.b.c"));
	assert_false(matches("a.>", "a"));
	assert_false(matches("a.>", "b.c"));
	assert_true(matches("*.>", "a.b.c"));
	assert_false(matches("*.>", "a"));
}

static void a_wildcard_in_first_place_leaves_names_with_a_dollar_out(void **state)
{
	(void)state;
	assert_false(matches(">", "$sys.stats"));
	assert_false(matches("*", "$a"));
	assert_false(matches("*.stats", "$sys.stats"));
	assert_true(matches("$sys.>", "$sys.stats"));
	assert_true(matches("$sys.*", "$sys.stats"));
	assert_true(matches("a.*", "a.$b"));
	assert_true(matches(">", "a.$b"));
}

/* What overlaps has a name in common, which is looked for among all of few levels. */
static void patterns_overlap_where_a_name_is_matched_by_both(void **state)
{
	static const char *const levels[] = { "a", "b", "$c", "*", ">" };
	static const char *const names[] = { "a", "b", "$c" };
	char patterns[3 * 25 + 5][16], all[39][16];
	size_t patterns_n = 0, all_n = 0;

	(void)state;
	for (size_t i = 0; i < 5; i++) {
		snprintf(patterns[patterns_n++], 16, "%s", levels[i]);
		for (size_t k = 0; k < 5 && i < 4; k++)
			snprintf(patterns[patterns_n++], 16, "%s.%s", levels[i], levels[k]);
	}
	for (size_t i = 0; i < 3; i++) {
		snprintf(all[all_n++], 16, "%s", names[i]);
		for (size_t k = 0; k < 3; k++) {
			snprintf(all[all_n++], 16, "%s.%s", names[i], names[k]);
			for (size_t m = 0; m < 3; m++)
				snprintf(all[all_n++], 16, "%s.%s.%s", names[i], names[k],
					 names[m]);
		}
	}
	for (size_t i = 0; i < patterns_n; i++) {
		for (size_t k = 0; k < patterns_n; k++) {
			char text[NAME_BYTES_MAX];
			struct span meet = name_patterns_meet(span_of(patterns[i]),
							      span_of(patterns[k]), text);
			bool common = false;

			for (size_t n = 0; n < all_n; n++) {
				bool both = matches(patterns[i], all[n]) &&
					    matches(patterns[k], all[n]);

				common |= both;
				assert_int_equal(
					meet.len > 0 && name_matches(meet, span_of(all[n])), both);
			}
			assert_int_equal(
				name_patterns_overlap(span_of(patterns[i]), span_of(patterns[k])),
				common);
		}
	}
}

static void well_formed_utf8_is_valid(void **state)
{
	(void)state;
	assert_true(UTF8(""));
	assert_true(UTF8("\0"));
	assert_true(UTF8("\x7f"));
	assert_true(UTF8("\xc2\x80"));
	assert_true(UTF8("\xdf\xbf"));
	assert_true(UTF8("\xe0\xa0\x80"));
	assert_true(UTF8("\xed\x9f\xbf"));
	assert_true(UTF8("\xee\x80\x80"));
	assert_true(UTF8("\xef\xbf\xbf"));
	assert_true(UTF8("\xf0\x90\x80\x80"));
	assert_true(UTF8("\xf4\x8f\xbf\xbf"));
}

static void overlong_forms_are_invalid(void **state)
{
	(void)state;
	assert_false(UTF8("\xc0\x80"));
	assert_false(UTF8("\xc1\xbf"));
	assert_false(UTF8("\xe0\x80\x80"));
	assert_false(UTF8("\xe0\x9f\xbf"));
	assert_false(UTF8("\xf0\x8f\xbf\xbf"));
}

static void surrogates_and_what_is_beyond_unicode_are_invalid(void **state)
{
	(void)state;
	assert_false(UTF8("\xed\xa0\x80"));
	assert_false(UTF8("\xed\xbf\xbf"));
	assert_false(UTF8("\xf4\x90\x80\x80"));
	assert_false(UTF8("\xf5\x80\x80\x80"));
	assert_false(UTF8("\xf8\x90\x80\x80"));
	assert_false(UTF8("\xff\xbf\xbf\xbf"));
}

static void broken_sequences_are_invalid(void **state)
{
	(void)state;
	assert_false(UTF8("\x80"));
	assert_false(UTF8("\xbf"));
	assert_false(UTF8("\xc2"));
	assert_false(UTF8("\xc2\x41"));
	assert_false(UTF8("\xc2\xc2"));
	assert_false(UTF8("\xe2\x82"));
	assert_false(UTF8("\xe2\x82\x41"));
	assert_false(UTF8("\xf0\x9f\x98"));
	assert_false(UTF8("ok\xf0\x9f\x98\x80\x80"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ordinary_names_are_valid),
		cmocka_unit_test(a_name_has_1_to_255_bytes),
		cmocka_unit_test(a_name_has_at_most_32_levels),
		cmocka_unit_test(empty_levels_are_invalid),
		cmocka_unit_test(control_characters_are_invalid),
		cmocka_unit_test(names_that_are_not_utf8_are_invalid),
		cmocka_unit_test(wildcards_are_refused_in_a_name),
		cmocka_unit_test(a_wildcard_is_a_level_of_its_own),
		cmocka_unit_test(the_rest_comes_last),
		cmocka_unit_test(a_pattern_without_wildcards_matches_itself),
		cmocka_unit_test(a_star_matches_exactly_one_level),
		cmocka_unit_test(the_rest_matches_one_level_or_more),
		cmocka_unit_test(a_wildcard_in_first_place_leaves_names_with_a_dollar_out),
		cmocka_unit_test(patterns_overlap_where_a_name_is_matched_by_both),
		cmocka_unit_test(well_formed_utf8_is_valid),
		cmocka_unit_test(overlong_forms_are_invalid),
		cmocka_unit_test(surrogates_and_what_is_beyond_unicode_are_invalid),
		cmocka_unit_test(broken_sequences_are_invalid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
