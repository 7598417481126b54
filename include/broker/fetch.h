#ifndef BROKER_FETCH_H
#define BROKER_FETCH_H

/*
 * Messages as resources: a connection's shard asks a topic's home for one message, or about the
 * topic; the answer carries a hold on the block. What is not there yet but soon will be waits at
 * the topic, together with all who wait for the same: the letter itself is the record, and it is
 * answered when the message has come or its time is over.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/span.h"
#include "engine/deadline.h"
#include "topic/letter.h"

struct block;
struct shard;
struct topic;

/* Those who wait at this home. */
struct fetching {
	struct deadline_class wait;
	struct list due; /* what others wait for here is there: they are told in the next turns */
	uint32_t waiting_n; /* requests that wait at topics here */
};

enum fetch_kind {
	FETCH_ABOUT,   /* the topic */
	FETCH_MESSAGE, /* by number */
	FETCH_NEXT,    /* the first from that number on */
	FETCH_LAST,
	FETCH_VERSION, /* the newest, once one with this version or a newer one is there */
	FETCH_FIGURES, /* what floor 5 makes for operators; wanted[0] says which */
};

/* LETTER_FETCH, LETTER_COUNT and, the same letter on its way back, LETTER_FETCHED. */
struct fetch_letter {
	struct letter letter;
	enum fetch_kind kind;
	struct list link;         /* waiting with others, or among the shard's answers */
	struct awaited *awaited;  /* at the home: what it waits for */
	struct deadline deadline; /* at the home */
	unsigned shard;           /* who asks */
	uint32_t slot, generation, ticket;
	uint64_t hash;
	uint64_t wanted[2]; /* number, or version */
	/* the answer */
	int error; /* -ENOENT, -ETIMEDOUT, -ENOSPC, -ENOMEM; -ERANGE: too far ahead */
	bool waited;
	struct block *block; /* held for whoever has the letter */
	struct span body;
	uint64_t epoch, seq; /* what the message is known by; ABOUT: the newest */
	uint64_t max_age_s;
	uint64_t oldest, messages, bytes, publishers, subscribers;
	struct span name;
	char bytes_of_name[];
};

/* NULL: out of memory. */
struct fetch_letter *fetch_letter_new(enum fetch_kind kind, struct span name, uint64_t hash);
void fetch_letter_free(struct fetch_letter *letter);

void fetch_init(struct shard *shard);
/* Frees what is still to be told. */
void fetch_release(struct shard *shard);
/* Home: answers, or keeps it until there is an answer; takes the letter over. */
void home_fetch(struct shard *shard, struct fetch_letter *letter);
/* Home: sends the letter back, with what it has found or this error; takes it over. */
void fetch_answer(struct shard *shard, struct fetch_letter *letter, int error);
/* Home: a block has been sequenced and somebody waits. Costs a few steps, however many wait: those
 * who are due are told in the next turns, what the message was then. */
void home_wake(struct shard *shard, struct topic *topic);
/* Home: frees what still waits. */
void home_forget_waiting(struct topic *topic);
/* Adds this shard's subscribers and passes the letter on. */
void fetch_count(struct shard *shard, struct fetch_letter *letter);

/* Tells those who are due, as many as there is time for; whether more are left. To be called once
 * per turn. */
bool fetch_flush(struct shard *shard);

#endif
