#include "base/key.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "sizes are stored like any other number");

static const char *number_parse(const struct key *key, const char *text, uint64_t *value)
{
	const unsigned base = key->kind == KIND_MODE ? 8 : 10;
	const char *p = text;
	unsigned shift = 0;

	*value = 0;
	if (key->words != NULL && strcmp(text, key->words) == 0)
		return NULL;
	for (; *p >= '0' && *p < '0' + (char)base; p++) {
		if (__builtin_mul_overflow(*value, base, value) ||
		    __builtin_add_overflow(*value, (unsigned)(*p - '0'), value))
			return "is out of range";
	}
	if (p != text && key->kind == KIND_SIZE)
		shift = *p == 'K' ? 10 : *p == 'M' ? 20 : *p == 'G' ? 30 : 0;
	if (p == text || p[shift != 0] != '\0')
		return key->kind == KIND_SIZE   ? "is not a size"
		       : key->kind == KIND_MODE ? "is not an octal number"
						: "is not a number";
	if (*value > UINT64_MAX >> shift)
		return "is out of range";
	*value <<= shift;
	if (*value < key->min || *value > key->max)
		return "is out of range";
	if (key->kind == KIND_POWER && (*value & (*value - 1)) != 0)
		return "is not a power of two";
	return NULL;
}

static const char *decimal_parse(const struct key *key, const char *text, uint64_t *value)
{
	const char *p = text;
	unsigned decimals = 0;
	bool point = false;

	*value = 0;
	for (; isdigit((unsigned char)*p) || (*p == '.' && !point && p != text); p++) {
		if (*p == '.') {
			point = true;
			continue;
		}
		if (__builtin_mul_overflow(*value, 10, value) ||
		    __builtin_add_overflow(*value, (unsigned)(*p - '0'), value))
			return "is out of range";
		decimals += point;
	}
	if (p == text || *p != '\0' || (point && decimals == 0))
		return "is not a number";
	if (decimals > 2)
		return "has more than two decimals";
	for (; decimals < 2; decimals++)
		if (__builtin_mul_overflow(*value, 10, value))
			return "is out of range";
	return *value < key->min || *value > key->max ? "is out of range" : NULL;
}

/* Looks a word up in "one|two|three". */
static const char *word_parse(const char *words, const char *text, uint64_t *index)
{
	size_t len = strlen(text);

	for (*index = 0;; ++*index) {
		size_t n = strcspn(words, "|");

		if (n == len && memcmp(words, text, n) == 0)
			return NULL;
		if (words[n] == '\0')
			return "is unknown";
		words += n + 1;
	}
}

const char *key_parse(const struct key *key, const char *text, uint64_t *number)
{
	struct address address;
	struct network network;
	const char *wrong;

	switch (key->kind) {
	case KIND_NUMBER:
	case KIND_POWER:
	case KIND_SIZE:
	case KIND_MODE:
		return number_parse(key, text, number);
	case KIND_DECIMAL:
		return decimal_parse(key, text, number);
	case KIND_WORD:
		return word_parse(key->words, text, number);
	case KIND_WORDS:
		wrong = word_parse(key->words, text, number);
		*number = (uint64_t)1 << *number;
		return wrong;
	case KIND_TEXT:
		return key->check != NULL && *text != '\0' ? key->check(text) : NULL;
	case KIND_TEXTS:
		if (*text == '\0')
			return "is empty";
		return key->check != NULL ? key->check(text) : NULL;
	case KIND_ADDRESS:
		return address_parse(text, &address);
	case KIND_NETWORKS:
		return network_parse(text, &network);
	}
	return NULL;
}

static void print_size(FILE *to, uint64_t n)
{
	static const char *const suffixes[] = { "", "K", "M", "G" };
	const char *const *suffix = suffixes;

	for (; n != 0 && n % 1024 == 0 && suffix < suffixes + 3; suffix++)
		n /= 1024;
	fprintf(to, "%llu%s", (unsigned long long)n, *suffix);
}

void key_print_right(FILE *to, const struct key *key)
{
	switch (key->kind) {
	case KIND_NUMBER:
	case KIND_POWER:
		fprintf(to, "use a %s from %llu to %llu",
			key->kind == KIND_POWER ? "power of two" : "number",
			(unsigned long long)key->min, (unsigned long long)key->max);
		break;
	case KIND_DECIMAL:
		fprintf(to, "use a number from %g to %g with up to two decimals",
			(double)key->min / 100, (double)key->max / 100);
		break;
	case KIND_SIZE:
		fprintf(to, "use a size from ");
		print_size(to, key->min);
		fprintf(to, " to ");
		print_size(to, key->max);
		break;
	case KIND_MODE:
		fprintf(to, "use an octal number like \"0660\"");
		return;
	case KIND_WORD:
	case KIND_WORDS:
		fprintf(to, "use one of %s", key->words);
		return;
	case KIND_TEXT:
	case KIND_TEXTS:
		fputs(key->right != NULL ? key->right : "use some text", to);
		break;
	case KIND_NETWORKS:
		fprintf(to, "use some like 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32");
		break;
	case KIND_ADDRESS:
		fprintf(to, "use one like %s, [::1]:8080 or unix:/path (a path of up to %zu bytes)",
			ADDRESS_STANDARD, (size_t)ADDRESS_PATH_MAX);
		break;
	}
	if (key->words != NULL)
		fprintf(to, ", or \"%s\"", key->words);
}

/* ---- Values in their struct ---- */

/* Like strchr, these leave it to the caller not to write to what is const. */
static void *value_at(const struct key *key, const void *base)
{
	return (void *)((uintptr_t)base + key->offset);
}

static size_t *value_count(const struct key *key, const void *base)
{
	return (void *)((uintptr_t)base + key->count_offset);
}

static int text_add(const struct key *key, void *base, char *copy)
{
	char ***texts = value_at(key, base);
	size_t *n = value_count(key, base);
	char **more = realloc(*texts, (*n + 1) * sizeof(*more));

	if (more == NULL) {
		free(copy);
		return -ENOMEM;
	}
	more[(*n)++] = copy;
	*texts = more;
	return 0;
}

static bool is_list(const struct key *key)
{
	return key->kind == KIND_TEXTS || key->kind == KIND_NETWORKS;
}

int key_store(const struct key *key, void *base, const char *text)
{
	void *field = value_at(key, base);
	bool textual = key->kind == KIND_TEXT || key->kind == KIND_ADDRESS || is_list(key);
	uint64_t number = 0;
	const char *wrong = key_parse(key, text, &number);
	char *copy;

	assert(wrong == NULL);
	if (textual) {
		copy = strdup(text);
		if (copy == NULL)
			return -ENOMEM;
		if (is_list(key))
			return text_add(key, base, copy);
		*(char **)field = copy;
	} else if (key->kind == KIND_WORDS) {
		*(unsigned *)field |= (unsigned)number;
	} else if (key->size == sizeof(bool)) {
		*(bool *)field = number != 0;
	} else if (key->size == sizeof(unsigned)) {
		*(unsigned *)field = (unsigned)number;
	} else {
		assert(key->size == sizeof(uint64_t));
		*(uint64_t *)field = number;
	}
	return 0;
}

/* "line|http". */
static void store_words(const struct key *key, void *base, const char *words)
{
	char word[32];

	for (size_t len; *words != '\0'; words += len + (words[len] == '|')) {
		len = strcspn(words, "|");
		assert(len < sizeof(word));
		memcpy(word, words, len);
		word[len] = '\0';
		(void)key_store(key, base, word);
	}
}

int key_store_default(const struct key *key, void *base)
{
	if (key->kind == KIND_WORDS) {
		store_words(key, base, key->standard);
		return 0;
	}
	return key->standard != NULL ? key_store(key, base, key->standard) : 0;
}

void key_clear(const struct key *key, void *base)
{
	if (key->kind == KIND_TEXT || key->kind == KIND_ADDRESS)
		free(*(char **)value_at(key, base));
	if (is_list(key)) {
		char **texts = *(char ***)value_at(key, base);

		while (*value_count(key, base) > 0)
			free(texts[--*value_count(key, base)]);
		free(texts);
	}
	memset(value_at(key, base), 0, key->size);
}

bool key_same(const struct key *key, const void *a, const void *b)
{
	if (is_list(key)) {
		char *const *these = *(char ***)value_at(key, a);
		char *const *those = *(char ***)value_at(key, b);
		size_t n = *value_count(key, a);
		bool same = n == *value_count(key, b);

		for (size_t i = 0; same && i < n; i++)
			same = strcmp(these[i], those[i]) == 0;
		return same;
	}
	if (key->kind == KIND_TEXT || key->kind == KIND_ADDRESS)
		return strcmp(*(char **)value_at(key, a), *(char **)value_at(key, b)) == 0;
	return memcmp(value_at(key, a), value_at(key, b), key->size) == 0;
}
