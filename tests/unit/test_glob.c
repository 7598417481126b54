#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/glob.h"
#include "random.h"

/* In buffers of just their sizes, so that a sanitizer sees a byte too many being read. */
static bool matches_spans(struct span glob, struct span name)
{
	char *g = malloc(glob.len + (glob.len == 0)), *n = malloc(name.len + (name.len == 0));
	bool result;

	assert_non_null(g);
	assert_non_null(n);
	memcpy(g, glob.data, glob.len);
	memcpy(n, name.data, name.len);
	result = glob_matches((struct span){ g, glob.len }, (struct span){ n, name.len });
	free(g);
	free(n);
	return result;
}

static bool matches(const char *glob, const char *name)
{
	return matches_spans(span_of(glob), span_of(name));
}

static void a_star_stands_for_any_bytes_dots_too(void **state)
{
	(void)state;
	assert_true(matches("*", "a"));
	assert_true(matches("*", "a.b.c"));
	assert_true(matches("a*", "a"));
	assert_true(matches("a*c", "abbc"));
	assert_true(matches("a*c", "ac"));
	assert_true(matches("a*b.*d", "a.b.b.c.d"));
	assert_true(matches("**a**", "a"));
	assert_false(matches("a*", "ba"));
	assert_false(matches("a*c", "acb"));
	assert_false(matches("a*bb*c", "abc"));
}

static void a_question_mark_is_one_byte(void **state)
{
	(void)state;
	assert_true(matches("h?llo", "hello"));
	assert_true(matches("a??", "a\xc3\xbc"));
	assert_false(matches("a?", "a"));
	assert_false(matches("a?", "abc"));
}

static void a_class_is_one_of_its_bytes(void **state)
{
	(void)state;
	assert_true(matches("h[ae]llo", "hallo"));
	assert_false(matches("h[ae]llo", "hillo"));
	assert_true(matches("h[a-c]llo", "hbllo"));
	assert_true(matches("h[c-a]llo", "hbllo"));
	assert_false(matches("h[a-c]llo", "hdllo"));
	assert_false(matches("h[^e]llo", "hello"));
	assert_true(matches("h[^e]llo", "hxllo"));
	assert_true(matches("a[\\]]b", "a]b"));
	assert_true(matches("a[\\^x]b", "a^b"));
}

/* What is strange is as Redis has it. */
static void a_class_that_is_not_closed_ends_with_the_glob(void **state)
{
	(void)state;
	assert_true(matches("a[bc", "ab"));
	assert_false(matches("a[bc", "ad"));
	assert_false(matches("a[", "ab"));
	assert_true(matches("a[^", "ab"));
	assert_false(matches("a[]b", "ab"));
	assert_true(matches("a[^]b", "axb"));
	assert_true(matches("a[\\", "a\\"));
	assert_true(matches("a[b-", "a-"));
}

static void a_backslash_takes_the_meaning_away(void **state)
{
	(void)state;
	assert_true(matches("a\\*", "a*"));
	assert_false(matches("a\\*", "ab"));
	assert_true(matches("a\\\\", "a\\"));
	assert_true(matches("a\\", "a\\"));
	assert_true(matches("\\a\\b", "ab"));
}

static void a_wildcard_in_front_matches_no_internal_name(void **state)
{
	(void)state;
	assert_false(matches("*", "$sys.stats"));
	assert_false(matches("?sys*", "$sys.stats"));
	assert_false(matches("[$]sys*", "$sys.stats"));
	assert_true(matches("$*", "$sys.stats"));
	assert_true(matches("\\$sys.s*", "$sys.stats"));
	assert_true(matches("a*", "a$"));
}

/* CVE-2024-31228: such a glob took the whole of a stack. This would take years, too, if every star
 * were tried again. */
static void many_stars_cost_no_stack_and_little_time(void **state)
{
	char glob[GLOB_BYTES_MAX], name[NAME_BYTES_MAX];

	(void)state;
	memset(name, 'a', sizeof(name));
	for (size_t i = 0; i < sizeof(glob); i++)
		glob[i] = i % 2 == 0 ? '*' : 'a';
	glob[sizeof(glob) - 1] = 'b';
	for (unsigned i = 0; i < 1000; i++)
		assert_false(glob_matches((struct span){ glob, sizeof(glob) },
					  (struct span){ name, sizeof(name) }));
}

/* ---- the same, slowly, sentence by sentence ---- */

static bool slow(struct span g, struct span n);

static bool slow_class(struct span g, struct span n)
{
	bool negative = false, in = false;

	g = span_skip(g, 1);
	if (g.len > 0 && g.data[0] == '^') {
		negative = true;
		g = span_skip(g, 1);
	}
	for (;;) {
		if (g.len == 0)
			break;
		if (g.len >= 2 && g.data[0] == '\\') {
			in |= g.data[1] == n.data[0];
			g = span_skip(g, 2);
			continue;
		}
		if (g.data[0] == ']') {
			g = span_skip(g, 1);
			break;
		}
		if (g.len >= 3 && g.data[1] == '-') {
			for (int c = 0; c < 256; c++) {
				int a = (unsigned char)g.data[0], b = (unsigned char)g.data[2];

				if (((a <= c && c <= b) || (b <= c && c <= a)) &&
				    c == (unsigned char)n.data[0])
					in = true;
			}
			g = span_skip(g, 3);
			continue;
		}
		in |= g.data[0] == n.data[0];
		g = span_skip(g, 1);
	}
	return in != negative && slow(g, span_skip(n, 1));
}

static bool slow(struct span g, struct span n)
{
	if (g.len == 0)
		return n.len == 0;
	if (g.data[0] == '*') {
		for (size_t taken = 0; taken <= n.len; taken++)
			if (slow(span_skip(g, 1), span_skip(n, taken)))
				return true;
		return false;
	}
	if (n.len == 0)
		return false;
	if (g.data[0] == '?')
		return slow(span_skip(g, 1), span_skip(n, 1));
	if (g.data[0] == '[')
		return slow_class(g, n);
	if (g.data[0] == '\\' && g.len > 1)
		g = span_skip(g, 1);
	return g.data[0] == n.data[0] && slow(span_skip(g, 1), span_skip(n, 1));
}

static bool slow_matches(struct span g, struct span n)
{
	if (g.len > 0 && n.len > 0 && strchr("*?[", g.data[0]) != NULL && n.data[0] == '$')
		return false;
	return slow(g, n);
}

static size_t random_text(char *out, const char *letters, size_t max)
{
	size_t len = below(max + 1);

	for (size_t i = 0; i < len; i++)
		out[i] = letters[below(strlen(letters))];
	return len;
}

/* Whether what it was read as says the same of a name as the glob itself. */
static bool by_meaning(const struct glob_meaning *m, struct span glob, struct span name)
{
	struct span text = { m->text, m->len };

	switch (m->kind) {
	case GLOB_EXACT:
		assert_true(name_valid(text));
		return span_equal(text, name);
	case GLOB_NATIVE:
		assert_true(name_pattern_valid(text));
		return name_matches(text, name) && (m->len > 1 || name.data[0] != '$');
	case GLOB_PREFIX:
		assert_true(m->len > 0);
		return name.len >= m->len && memcmp(name.data, m->text, m->len) == 0;
	case GLOB_OTHER:
	default:
		return name.len >= m->len && memcmp(name.data, m->text, m->len) == 0 &&
		       glob_matches(glob, name);
	}
}

static void it_agrees_with_a_slow_reference_and_with_its_meaning(void **state)
{
	unsigned matched = 0, kinds[4] = { 0 };

	(void)state;
	for (unsigned i = 0; i < 300000; i++) {
		char g[12], n[10];
		struct span glob = { g, random_text(g, "aab.c$*?[]^-\\>", sizeof(g)) };
		struct span name = { n, random_text(n, "aab.c$-", sizeof(n)) };
		struct glob_meaning m;
		bool wanted = slow_matches(glob, name);

		assert_int_equal(matches_spans(glob, name), wanted);
		if (name.len == 0 || !name_valid(name))
			continue;
		glob_read(glob, &m);
		assert_int_equal(by_meaning(&m, glob, name), wanted);
		matched += wanted;
		kinds[m.kind]++;
	}
	assert_true(matched > 1000);
	for (unsigned kind = 0; kind < 4; kind++)
		assert_true(kinds[kind] > 100);
}

/* ---- what it comes to ---- */

static void reads(const char *glob, enum glob_kind kind, const char *text)
{
	struct glob_meaning m;

	glob_read(span_of(glob), &m);
	assert_int_equal(m.kind, kind);
	assert_int_equal(m.len, strlen(text));
	assert_memory_equal(m.text, text, m.len);
}

static void a_glob_is_read_as_the_cheapest_thing_that_means_the_same(void **state)
{
	char longest[GLOB_BYTES_MAX + 1] = { 0 }, pattern[GLOB_BYTES_MAX + 1];

	(void)state;
	reads("a.b", GLOB_EXACT, "a.b");
	reads("a\\.b", GLOB_EXACT, "a.b");
	reads("*", GLOB_NATIVE, ">");
	reads("***", GLOB_NATIVE, ">");
	reads("a.b.*", GLOB_NATIVE, "a.b.>");
	reads("a.b*", GLOB_PREFIX, "a.b");
	reads("socket.io#/#*", GLOB_PREFIX, "socket.io#/#");
	reads("a**", GLOB_PREFIX, "a");
	reads("a..*", GLOB_PREFIX, "a..");
	reads(".*", GLOB_PREFIX, ".");
	reads("a.*.b", GLOB_OTHER, "a.");
	reads("a?", GLOB_OTHER, "a");
	reads("*a", GLOB_OTHER, "");
	reads("[a]", GLOB_OTHER, "");
	/* Nothing is called that. */
	reads("", GLOB_OTHER, "");
	reads("a\\*", GLOB_OTHER, "a*");
	memset(longest, 'a', GLOB_BYTES_MAX);
	longest[GLOB_BYTES_MAX - 2] = '.';
	longest[GLOB_BYTES_MAX - 1] = '*';
	assert_true(glob_valid(span_of(longest)));
	memcpy(pattern, longest, sizeof(pattern));
	pattern[GLOB_BYTES_MAX - 1] = '>';
	reads(longest, GLOB_NATIVE, pattern);
}

static void covers(const char *glob, enum glob_kind kind, const char *text)
{
	struct glob_meaning m;

	glob_cover(span_of(glob), &m);
	assert_int_equal(m.kind, kind);
	assert_int_equal(m.len, strlen(text));
	assert_memory_equal(m.text, text, m.len);
}

static void a_glob_is_covered_by_a_native_pattern(void **state)
{
	(void)state;
	covers("a.b", GLOB_EXACT, "a.b");
	covers("a.*", GLOB_NATIVE, "a.>");
	covers("a.b*", GLOB_NATIVE, "a.>");
	covers("a.b.c?", GLOB_NATIVE, "a.b.>");
	covers("a.*.c", GLOB_NATIVE, "a.>");
	covers("ab*", GLOB_NATIVE, ">");
	covers("[a].b", GLOB_NATIVE, ">");
	covers("*", GLOB_NATIVE, ">");
	covers("a..b*", GLOB_NATIVE, ">");
	covers("", GLOB_NATIVE, ">");
}

static void what_is_too_long_or_no_text_is_no_glob(void **state)
{
	char glob[GLOB_BYTES_MAX + 1];

	(void)state;
	memset(glob, '*', sizeof(glob));
	assert_true(glob_valid((struct span){ glob, GLOB_BYTES_MAX }));
	assert_false(glob_valid((struct span){ glob, GLOB_BYTES_MAX + 1 }));
	assert_false(glob_valid(SPAN("a\xff*")));
	assert_true(glob_valid(SPAN("gr\xc3\xbc\xc3\x9f*")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_star_stands_for_any_bytes_dots_too),
		cmocka_unit_test(a_question_mark_is_one_byte),
		cmocka_unit_test(a_class_is_one_of_its_bytes),
		cmocka_unit_test(a_class_that_is_not_closed_ends_with_the_glob),
		cmocka_unit_test(a_backslash_takes_the_meaning_away),
		cmocka_unit_test(a_wildcard_in_front_matches_no_internal_name),
		cmocka_unit_test(many_stars_cost_no_stack_and_little_time),
		cmocka_unit_test(it_agrees_with_a_slow_reference_and_with_its_meaning),
		cmocka_unit_test(a_glob_is_read_as_the_cheapest_thing_that_means_the_same),
		cmocka_unit_test(a_glob_is_covered_by_a_native_pattern),
		cmocka_unit_test(what_is_too_long_or_no_text_is_no_glob),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
