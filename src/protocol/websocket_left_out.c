#include "protocol/websocket_left_out.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"

/* The parameter: how many names and patterns there are, where each text begins and, behind the
 * last, ends; the texts. */
enum { WORD_BYTES = sizeof(uint32_t) };

static uint32_t word_at(struct span parameter, size_t n)
{
	uint32_t word;

	memcpy(&word, parameter.data + n * WORD_BYTES, WORD_BYTES);
	return word;
}

static char *put_word(char *out, size_t word)
{
	uint32_t narrow = (uint32_t)word;

	memcpy(out, &narrow, WORD_BYTES);
	return out + WORD_BYTES;
}

static struct span text_at(struct span parameter, size_t n)
{
	uint32_t at = word_at(parameter, 2 + n), end = word_at(parameter, 3 + n);

	return (struct span){ parameter.data + at, end - at };
}

static size_t head_bytes(const struct left_out *l)
{
	return (3 + (size_t)l->names_n + l->patterns_n) * WORD_BYTES;
}

static size_t texts_bytes(const struct span *texts, unsigned n)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < n; i++)
		bytes += texts[i].len;
	return bytes;
}

size_t left_out_bytes(const struct left_out *l)
{
	if (left_out_empty(l))
		return 0;
	return head_bytes(l) + texts_bytes(l->names, l->names_n) +
	       texts_bytes(l->patterns, l->patterns_n);
}

static int compare(struct span a, struct span b)
{
	int differs = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);

	return differs != 0 ? differs : (a.len > b.len) - (a.len < b.len);
}

static int compare_spans(const void *a, const void *b)
{
	return compare(*(const struct span *)a, *(const struct span *)b);
}

void left_out_put(struct left_out *l, char *out)
{
	size_t at = head_bytes(l);
	char *words;

	if (left_out_empty(l))
		return;
	words = put_word(put_word(out, l->names_n), l->patterns_n);
	qsort(l->names, l->names_n, sizeof(*l->names), compare_spans);
	for (unsigned i = 0; i < l->names_n + l->patterns_n; i++) {
		struct span text = i < l->names_n ? l->names[i] : l->patterns[i - l->names_n];

		words = put_word(words, at);
		memcpy(out + at, text.data, text.len);
		at += text.len;
	}
	(void)put_word(words, at);
}

bool left_out_has(struct span parameter, struct span name)
{
	size_t names_n, patterns_n, low = 0, high;

	if (parameter.len == 0)
		return false;
	names_n = high = word_at(parameter, 0);
	patterns_n = word_at(parameter, 1);
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int differs = compare(text_at(parameter, middle), name);

		if (differs == 0)
			return true;
		if (differs < 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (size_t i = 0; i < patterns_n; i++)
		if (name_matches(text_at(parameter, names_n + i), name))
			return true;
	return false;
}
