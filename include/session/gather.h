#ifndef SESSION_GATHER_H
#define SESSION_GATHER_H

/*
 * What one connection publishes while what has come from it is worked through: messages for the
 * same topic that follow each other become one block of records, a message alone a block of one.
 * There is one for each shard; it belongs to the connection whose intake runs. A block goes out
 * (connection_publish) when the next message is for another topic, when enough is together, or when
 * it is told to; at the latest when the intake has done what it could. The shard's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/run.h"
#include "base/span.h"

struct block;
struct connection;
struct shard;

enum {
	GATHER_BYTES_MAX = 256 << 10,  /* in one block, unless one message is longer */
	GATHER_ALIKE_BYTES = 16 << 10, /* that are taken together, before it is others' turn */
	GATHER_ALIKE_COST_BYTES = 512, /* of them, about a quarter of a microsecond */
};

struct gather {
	struct connection *connection; /* whose turn it is; or NULL */
	void (*publishing)(struct connection *connection, struct block *block);
	struct block *block; /* under construction, or NULL */
	bool extras;         /* some record of it has any */
	size_t usual;        /* bytes that have lately been in a block */
};

/* It is this connection's from now on; publishing is called for each block before it goes: to want
 * a receipt, perhaps. It may be NULL. */
void gather_begin(struct connection *connection,
		  void (*publishing)(struct connection *connection, struct block *block));
/* A message for a topic whose name is valid. -ENOMEM: it is not published; what was before is. */
int gather_add(struct connection *connection, struct span topic, const struct record *message);
/* One more for the topic of the last message, with nothing beside its payload. False: there is no
 * such message, or no room: as gather_add, then. */
bool gather_more(struct connection *connection, struct span payload);
/*
 * What a client says next is often said as what it has just said: but for the payload, not a byte
 * of it has to be looked at again. done: a command that has been gathered, with nothing beside its
 * payload, which begins behind so many bytes and stands before CRLF, where `ends` says so. Takes
 * those that begin `rest` and differ from it in their payload's bytes alone; returns how many bytes
 * that is, GATHER_ALIKE_BYTES or a little more at most.
 */
size_t gather_alike(struct connection *connection, struct span done, size_t head, bool ends,
		    struct span rest);
/* Whether a message for that topic would go into the block that is under construction. */
bool gather_goes_to(const struct connection *connection, struct span topic);
/* A block that has been made elsewhere, with form and number of messages: goes behind what is
 * there. Takes it over. */
void gather_block(struct connection *connection, struct block *block);
/* Publishes what is there: to be called where something has to come behind it. */
void gather_flush(struct connection *connection);
/* The same, and it is nobody's. */
void gather_end(struct connection *connection);

#endif
