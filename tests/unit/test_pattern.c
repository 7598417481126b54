#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "random.h"
#include "topic/pattern.h"

/* ---- a table of patterns that are told apart by their number ---- */

struct own {
	struct pattern pattern; /* first */
	unsigned matched;
	char bytes[PATTERN_KEY_MAX];
};

static struct own *own_new(struct patterns *p, enum pattern_kind kind, const char *group,
			   const char *text)
{
	struct own *o = calloc(1, sizeof(*o));
	struct pattern_key key;

	assert_non_null(o);
	assert_true(pattern_valid(kind, span_of(text)));
	pattern_key_make(&key, kind, span_of(group), span_of(text));
	pattern_init(&o->pattern, &key, o->bytes);
	assert_null(patterns_find(p, &key));
	assert_int_equal(patterns_add(p, &o->pattern), 0);
	assert_ptr_equal(patterns_find(p, &key), &o->pattern);
	return o;
}

static void own_free(struct patterns *p, struct own *o)
{
	patterns_remove(p, &o->pattern);
	free(o);
}

static void count(struct pattern *pattern, void *argument)
{
	((struct own *)(void *)pattern)->matched++;
	++*(unsigned *)argument;
}

/* How many patterns match. */
static unsigned matches(struct patterns *p, const char *name)
{
	unsigned n = 0;

	assert_true(name_valid(span_of(name)));
	patterns_match(p, span_of(name), count, &n);
	return n;
}

static bool one_matches(enum pattern_kind kind, const char *text, const char *name)
{
	struct patterns p = { 0 };
	struct own *o = own_new(&p, kind, "", text);
	unsigned n = matches(&p, name);

	own_free(&p, o);
	patterns_release(&p);
	assert_true(n <= 1);
	return n == 1;
}

/* ---- a slow reference ---- */

static bool slow_levels(const char *pattern, const char *name, bool parent)
{
	size_t p = strcspn(pattern, "."), n = strcspn(name, ".");

	if (strcmp(pattern, ">") == 0)
		return true;
	if (!(p == 1 && *pattern == '*') && (p != n || memcmp(pattern, name, n) != 0))
		return false;
	if (name[n] == '\0')
		return pattern[p] == '\0' || (parent && strcmp(pattern + p, ".>") == 0);
	return pattern[p] != '\0' && slow_levels(pattern + p + 1, name + n + 1, parent);
}

static bool slow(enum pattern_kind kind, const char *text, const char *name)
{
	if (*name == '$' && strchr("*>?[", *text) != NULL)
		return false;
	if (kind == PATTERN_GLOB)
		return glob_matches(span_of(text), span_of(name));
	return slow_levels(text, name, kind == PATTERN_MQTT);
}

/* ---- claims ---- */

static void native_wildcards_stand_for_levels(void **state)
{
	(void)state;
	assert_true(one_matches(PATTERN_NATIVE, "a.*", "a.b"));
	assert_false(one_matches(PATTERN_NATIVE, "a.*", "a"));
	assert_false(one_matches(PATTERN_NATIVE, "a.*", "a.b.c"));
	assert_true(one_matches(PATTERN_NATIVE, "a.>", "a.b.c"));
	assert_false(one_matches(PATTERN_NATIVE, "a.>", "a"));
	assert_true(one_matches(PATTERN_NATIVE, ">", "a"));
	assert_true(one_matches(PATTERN_NATIVE, "*.b.>", "a.b.c"));
	assert_true(one_matches(PATTERN_NATIVE, "a.b", "a.b"));
	assert_false(one_matches(PATTERN_NATIVE, "a.b", "a.bb"));
}

static void the_rest_of_mqtt_matches_the_parent_too(void **state)
{
	(void)state;
	assert_true(one_matches(PATTERN_MQTT, "a.>", "a"));
	assert_true(one_matches(PATTERN_MQTT, "a.>", "a.b.c"));
	assert_false(one_matches(PATTERN_MQTT, "a.>", "ab"));
	assert_true(one_matches(PATTERN_MQTT, "*.>", "a"));
	assert_true(one_matches(PATTERN_MQTT, ">", "a"));
	assert_false(one_matches(PATTERN_MQTT, "a.*", "a"));
}

static void globs_match_bytes(void **state)
{
	(void)state;
	assert_true(one_matches(PATTERN_GLOB, "a*", "a"));
	assert_true(one_matches(PATTERN_GLOB, "a*", "a.b.c"));
	assert_true(one_matches(PATTERN_GLOB, "ab*", "abc.d"));
	assert_false(one_matches(PATTERN_GLOB, "ab*", "a"));
	assert_true(one_matches(PATTERN_GLOB, "a.b.*", "a.b.c.d"));
	assert_false(one_matches(PATTERN_GLOB, "a.b.*", "a.b"));
	assert_true(one_matches(PATTERN_GLOB, "*", "a.b"));
	assert_true(one_matches(PATTERN_GLOB, "a[b-d]?e", "ac.e"));
	assert_true(one_matches(PATTERN_GLOB, "a\\.b", "a.b"));
}

static void a_wildcard_in_first_place_leaves_names_with_a_dollar_out(void **state)
{
	static const struct {
		enum pattern_kind kind;
		const char *text;
	} of[] = { { PATTERN_NATIVE, ">" },     { PATTERN_NATIVE, "*.stats" },
		   { PATTERN_MQTT, ">" },       { PATTERN_MQTT, "*.>" },
		   { PATTERN_GLOB, "*" },       { PATTERN_GLOB, "?sys.stats" },
		   { PATTERN_GLOB, "[$]sys.*" } };

	(void)state;
	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++)
		assert_false(one_matches(of[i].kind, of[i].text, "$sys.stats"));
	assert_true(one_matches(PATTERN_NATIVE, "$sys.>", "$sys.stats"));
	assert_true(one_matches(PATTERN_GLOB, "$s*", "$sys.stats"));
	assert_true(one_matches(PATTERN_NATIVE, "*.*", "a.$b"));
}

static void equal_texts_of_other_kinds_and_groups_are_other_patterns(void **state)
{
	struct patterns p = { 0 };
	struct own *of[] = { own_new(&p, PATTERN_NATIVE, "", "a.>"),
			     own_new(&p, PATTERN_NATIVE, "g", "a.>"),
			     own_new(&p, PATTERN_NATIVE, "h", "a.>"),
			     own_new(&p, PATTERN_MQTT, "", "a.>"),
			     own_new(&p, PATTERN_GLOB, "", "a.>") };

	(void)state;
	assert_int_equal(matches(&p, "a.b"), 4);
	assert_int_equal(matches(&p, "a"), 1);
	assert_true(span_equal(of[1]->pattern.group, SPAN("g")));
	assert_true(span_equal(of[1]->pattern.text, SPAN("a.>")));
	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++)
		own_free(&p, of[i]);
	assert_true(patterns_empty(&p));
	patterns_release(&p);
}

static void a_change_moves_the_generation_of_names_that_it_may_concern(void **state)
{
	struct patterns p = { 0 };
	const uint8_t a = pattern_bucket(SPAN("a.b")), c = pattern_bucket(SPAN("c"));
	uint64_t of_a = patterns_generation(&p, a), of_c = patterns_generation(&p, c);
	static const struct {
		enum pattern_kind kind;
		const char *text;
	} apart[] = { { PATTERN_NATIVE, "a" },  { PATTERN_NATIVE, "a.*" }, { PATTERN_MQTT, "a.>" },
		      { PATTERN_GLOB, "a.*" },  { PATTERN_GLOB, "a.b*" },  { PATTERN_GLOB, "a.?" },
		      { PATTERN_GLOB, "a\\.b" } },
	  all[] = { { PATTERN_NATIVE, "*" },  { PATTERN_NATIVE, ">" }, { PATTERN_MQTT, "*.>" },
		    { PATTERN_GLOB, "a*" },   { PATTERN_GLOB, "a?" },  { PATTERN_GLOB, "*" },
		    { PATTERN_GLOB, "?.a.b" } };

	(void)state;
	assert_int_not_equal(a, c);
	for (size_t i = 0; i < sizeof(apart) / sizeof(apart[0]); i++) {
		struct own *o = own_new(&p, apart[i].kind, "", apart[i].text);

		assert_true(patterns_generation(&p, a) > of_a);
		of_a = patterns_generation(&p, a);
		patterns_touch(&p, &o->pattern);
		assert_true(patterns_generation(&p, a) > of_a);
		of_a = patterns_generation(&p, a);
		own_free(&p, o);
		assert_true(patterns_generation(&p, a) > of_a);
		of_a = patterns_generation(&p, a);
		assert_int_equal(patterns_generation(&p, c), of_c);
	}
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct own *o = own_new(&p, all[i].kind, "", all[i].text);

		assert_true(patterns_generation(&p, a) > of_a);
		assert_true(patterns_generation(&p, c) > of_c);
		own_free(&p, o);
		of_a = patterns_generation(&p, a);
		of_c = patterns_generation(&p, c);
	}
	patterns_release(&p);
}

static const char *random_text(char out[64], const char *alphabet, size_t levels_max)
{
	size_t levels = 1 + below(levels_max), n = 0;

	for (size_t i = 0; i < levels; i++) {
		size_t len = 1 + below(2);

		if (i > 0)
			out[n++] = '.';
		for (size_t k = 0; k < len; k++)
			out[n++] = alphabet[below(strlen(alphabet))];
	}
	out[n] = '\0';
	return out;
}

static const char *random_pattern(char out[64], enum pattern_kind kind)
{
	do {
		random_text(out, kind == PATTERN_GLOB ? "ab$*?[]^-\\" : "ab$**>", 5);
	} while (!pattern_valid(kind, span_of(out)));
	return out;
}

static void many_patterns_match_as_each_alone_does(void **state)
{
	enum { PATTERNS = 200, ROUNDS = 60, NAMES = 60 };
	struct patterns p = { 0 };
	struct own *of[PATTERNS] = { 0 };
	char text[64];

	(void)state;
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < PATTERNS; i++) {
			enum pattern_kind kind = PATTERN_NATIVE + (enum pattern_kind)below(3);
			struct pattern_key key;

			if (of[i] != NULL && below(3) > 0)
				continue;
			if (of[i] != NULL)
				own_free(&p, of[i]);
			of[i] = NULL;
			random_pattern(text, kind);
			pattern_key_make(&key, kind, SPAN(""), span_of(text));
			if (patterns_find(&p, &key) == NULL)
				of[i] = own_new(&p, kind, "", text);
		}
		for (unsigned k = 0; k < NAMES; k++) {

			for (unsigned i = 0; i < PATTERNS; i++)
				if (of[i] != NULL)
					of[i]->matched = 0;
			do {
				random_text(text, "ab$", 5);
			} while (!name_valid(span_of(text)));
			matches(&p, text);
			for (unsigned i = 0; i < PATTERNS; i++) {
				char pattern[64];
				bool hit;

				if (of[i] == NULL)
					continue;
				memcpy(pattern, of[i]->pattern.text.data, of[i]->pattern.text.len);
				pattern[of[i]->pattern.text.len] = '\0';
				hit = slow((enum pattern_kind)of[i]->pattern.kind, pattern, text);
				assert_int_equal(pattern_matches(&of[i]->pattern, span_of(text)),
						 hit);
				if (of[i]->matched != hit)
					fail_msg("%s and %s: %u instead of %d", pattern, text,
						 of[i]->matched, hit);
			}
		}
	}
	for (unsigned i = 0; i < PATTERNS; i++)
		if (of[i] != NULL)
			own_free(&p, of[i]);
	patterns_release(&p);
}

static void a_table_that_is_empty_again_holds_no_memory(void **state)
{
	struct patterns p = { 0 };
	struct own *of[300];
	uint64_t before = memory_used();
	char text[64];

	(void)state;
	for (unsigned i = 0; i < 300; i++) {
		snprintf(text, sizeof(text), i % 3 == 0 ? "_INBOX.%u.*" : "a%u.b.*.>", i);
		of[i] = own_new(&p, i % 2 ? PATTERN_NATIVE : PATTERN_MQTT, "", text);
	}
	for (unsigned i = 300; i-- > 0;)
		own_free(&p, of[i]);
	patterns_release(&p);
	assert_int_equal(memory_used(), before);
}

static void the_deepest_names_and_patterns_fit(void **state)
{
	struct patterns p = { 0 };
	char name[64] = "a", stars[64] = "*";
	struct own *of[4];

	(void)state;
	for (unsigned i = 1; i < NAME_LEVELS_MAX; i++) {
		strcat(name, ".a");
		strcat(stars, ".*");
	}
	of[0] = own_new(&p, PATTERN_NATIVE, "", name);
	of[1] = own_new(&p, PATTERN_NATIVE, "", stars);
	of[2] = own_new(&p, PATTERN_MQTT, "", ">");
	/* The last of its levels is a star, and nothing is below. */
	stars[strlen(stars) - 1] = '>';
	of[3] = own_new(&p, PATTERN_NATIVE, "", stars);
	assert_int_equal(matches(&p, name), 4);
	for (unsigned i = 0; i < 4; i++)
		own_free(&p, of[i]);
	patterns_release(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(native_wildcards_stand_for_levels),
		cmocka_unit_test(the_rest_of_mqtt_matches_the_parent_too),
		cmocka_unit_test(globs_match_bytes),
		cmocka_unit_test(a_wildcard_in_first_place_leaves_names_with_a_dollar_out),
		cmocka_unit_test(equal_texts_of_other_kinds_and_groups_are_other_patterns),
		cmocka_unit_test(a_change_moves_the_generation_of_names_that_it_may_concern),
		cmocka_unit_test(many_patterns_match_as_each_alone_does),
		cmocka_unit_test(a_table_that_is_empty_again_holds_no_memory),
		cmocka_unit_test(the_deepest_names_and_patterns_fit),
	};

	hash_seed_with(1, 2);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
