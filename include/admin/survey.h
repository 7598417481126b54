#ifndef ADMIN_SURVEY_H
#define ADMIN_SURVEY_H

/*
 * What an operator asks all reactors about what they have: GET /topics, a page of the names that
 * come behind another, and GET /clients, how many there are of each kind and who is furthest
 * behind. One letter goes by every shard in turn, as often as it has rounds, and then back to whom
 * it was asked by, where it becomes the answer. All of that goes on over turns, and what is kept is
 * bounded, however much there is to look at. The thread of the shard that has the letter.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "admin/text.h"
#include "base/list.h"
#include "topic/letter.h"

struct broker;
struct connection;
struct shard;
struct survey;

struct survey_kind {
	unsigned rounds; /* by all shards */
	/* Some of what this shard has to say. Whether there is more; if so, reactor_spent. */
	bool (*collect)(struct shard *shard, struct survey *survey);
	/* A step of the answer; false: that was the last one. */
	bool (*write)(struct text *text, const struct survey *survey, unsigned step);
};

/* LETTER_SURVEY. A kind's own begins with it, and is counted memory in one piece. */
struct survey {
	struct letter letter;
	const struct survey_kind *kind;
	struct list link; /* among those that a shard works on */
	unsigned asking;  /* shard */
	uint32_t slot, generation, ticket;
	unsigned shard, round; /* where it is */
	bool begun;            /* there; then the kind's: */
	size_t at, left;
	struct text text; /* at the end */
	unsigned step;
};

/* Sends it round, for a connection that waits from now on; takes it over. NULL: says that there is
 * no memory. */
void survey_ask(struct connection *connection, struct survey *survey,
		const struct survey_kind *kind);
/* Goes on with those that are here, as far as there is time. Whether more is left. */
bool surveys_go_on(struct shard *shard);
void surveys_release(struct shard *shard);
/* Before the shards start. */
void surveys_init(struct broker *broker);
void survey_topics_init(struct broker *broker);
void survey_clients_init(struct broker *broker);

#endif
