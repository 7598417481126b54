#ifndef BASE_KEY_H
#define BASE_KEY_H

/*
 * A key of a configuration: how its value is read, checked, stored in a field of a struct and said
 * to people. What a section's keys are fields of is called base. Any thread, one struct each.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum key_kind {
	KIND_NUMBER,  /* min to max, or the one of words that stands for 0 */
	KIND_POWER,   /* a number, and a power of two */
	KIND_SIZE,    /* a number with K, M or G */
	KIND_DECIMAL, /* a number with up to two decimals; it, min and max are in hundredths */
	KIND_MODE,    /* a number in octal */
	KIND_WORD,    /* one of words, stored as its index */
	KIND_WORDS,   /* a list of words, stored as their bits; `standard` may be several, too */
	KIND_TEXT,
	KIND_TEXTS,
	KIND_ADDRESS,
	KIND_NETWORKS, /* texts that are addresses or networks */
};

struct key {
	const char *section;
	const char *name;
	const char *standard; /* the default; NULL: none */
	enum key_kind kind;
	uint64_t min;
	uint64_t max;
	const char *words;
	/* What is wrong with a text or one of texts, and what would be right; NULL: any is right.
	 */
	const char *(*check)(const char *text);
	const char *right;
	bool restart; /* a reload cannot change it */
	bool secret;  /* is not to be repeated where something is wrong with it */
	size_t offset;
	size_t size;
	size_t count_offset; /* of a list of texts */
};

/* What is wrong with a value; NULL: nothing, and a number is in *number. */
const char *key_parse(const struct key *key, const char *text, uint64_t *number);
/* What would be right. */
void key_print_right(FILE *to, const struct key *key);

/* Stores a value that key_parse has nothing against; a list grows by it. -ENOMEM. */
int key_store(const struct key *key, void *base, const char *text);
/* Stores the default, if there is one. -ENOMEM. */
int key_store_default(const struct key *key, void *base);
/* Back to zero; frees what was stored. */
void key_clear(const struct key *key, void *base);
bool key_same(const struct key *key, const void *a, const void *b);

#endif
