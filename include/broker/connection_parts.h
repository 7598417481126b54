#ifndef BROKER_CONNECTION_PARTS_H
#define BROKER_CONNECTION_PARTS_H

/*
 * What the files that a connection is made of have for each other: each calls those before it only.
 * Nobody else includes this.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "broker/connection.h"
#include "engine/mailbox.h"
#include "engine/ring.h"

/* ---- connection_send.c: what a send carries, and what becomes of it ---- */

/* What is put together for one. */
struct gathered {
	unsigned n;
	bool packing; /* the last span is in the pack */
	size_t bytes;
	size_t packed;
	struct iovec spans[RING_SPANS_MAX];
};

/* The rest of a message, what there is to say, and what there is of those whose turn it is.
 * -ENOMEM: connection_ground and close it. */
int connection_gather(struct connection *connection, struct gathered *gathered);
/* What is in the send alone lands as one of several: something is to be done with it then. */
void connection_flies_among_others(struct connection *connection);
/* Whether what its protocol has to say between messages may be said now. */
bool connection_may_interject(const struct connection *connection);
/* Its send has ended, so many bytes of it went. True: a subscription waited for that to be let go.
 */
bool connection_landed(struct connection *connection, size_t bytes);
/* One with a single subscription is served in its stream's round. */
void connection_queue_back(struct connection *connection);
/* It is gone, and nobody has a turn any more. */
void connection_forget_queue(struct connection *connection);

/* ---- connection_walk.c: all subscriptions, some at a time ---- */

/* Begins a walk, but for one that a later one is under way. */
void connection_walk(struct connection *connection, enum connection_walk walk);
/* Some more of it. True: that was the last. */
bool connection_walk_on(struct connection *connection);

/* ---- connection_sync.c: what homes are asked ---- */

/* Asks every home, behind whatever of its has been posted in this lane. -ENOMEM: some. */
int connection_sync_all(struct connection *connection, enum mailbox_lane lane);

/* ---- connection_peer.c: who is at the other end ---- */

/* Whether an address is of this very machine: loopback's, or a unix socket's peer. */
bool connection_address_local(const unsigned char address[16]);
/* Of whom it is, as far as limits go, or for whom a proxy speaks. -ENOMEM. */
int connection_note_address(struct connection *connection, const unsigned char address[16]);

/* ---- connection_open.c: how it begins ---- */

/* It has no descriptor any more, and is no client as far as limits go. */
void connection_uncount(struct connection *connection);

/* ---- connection_told.c: what homes and the audience say; connection_io.c: what the socket does
 * ---- */

#endif
