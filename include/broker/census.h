#ifndef BROKER_CENSUS_H
#define BROKER_CENSUS_H

/*
 * What a connection asks all homes about their topics: how many have subscribers, which, or how
 * many some have. One letter goes by every shard in turn, each adds what it is the home of, and the
 * last one sends it back; what takes long goes on over turns. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/span.h"
#include "topic/letter.h"

struct shard;

enum census_kind {
	CENSUS_TOTAL,  /* topics that have subscribers, and patterns */
	CENSUS_NAMES,  /* theirs, of those that a glob matches */
	CENSUS_COUNTS, /* the subscribers of some */
};

enum {
	CENSUS_COUNTS_MAX = 64,            /* topics in one letter */
	CENSUS_NAMES_BYTES_MAX = 16 << 20, /* of names in one letter; there are more: -ENOSPC */
};

/* LETTER_CENSUS and, the same letter on its way back, LETTER_CENSUS_TAKEN. */
struct census_letter {
	struct letter letter;
	enum census_kind kind;
	struct list link;                  /* among those that a home is working on */
	struct list *next;                 /* the topic there that comes next */
	unsigned shard;                    /* who asks */
	uint32_t slot, generation, ticket; /* for which connection there */
	int error;                         /* -ENOMEM, -ENOSPC */
	uint64_t topics, patterns;         /* TOTAL, NAMES: so many */
	char *names;                       /* NAMES: for each a byte, its length, and itself */
	size_t names_len, names_room;
	struct span glob; /* NAMES; empty: all */
	/* COUNTS */
	unsigned counts_n;
	struct census_count {
		struct span name;
		uint64_t hash, subscribers;
	} counts[];
};

/* The glob is copied. NULL: out of memory. */
struct census_letter *census_letter_new(enum census_kind kind, struct span glob);
/* A topic to be counted, at most CENSUS_COUNTS_MAX; the name is copied. */
void census_add(struct census_letter *letter, struct span name);
void census_letter_free(struct census_letter *letter);

/* Sends it round; takes it over. */
void census_ask(struct shard *shard, struct census_letter *letter);
/* LETTER_CENSUS: adds what this home knows and passes it on; takes the letter over. */
void census_asked(struct shard *shard, struct census_letter *letter);
/* Goes on with those that are not done, as far as there is time; whether more is left. To be called
 * once per turn. */
bool census_flush(struct shard *shard);
void census_release(struct shard *shard);
/* One of these topics is about to be without subscribers: of those that go through them none may
 * stand there. */
static inline void census_skip(struct list *censuses, const struct list *heard)
{
	for (struct list *at = censuses->next; at != censuses; at = at->next) {
		struct census_letter *l = LIST_ENTRY(at, struct census_letter, link);

		if (l->next == heard)
			l->next = l->next->next;
	}
}

#endif
