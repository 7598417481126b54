#ifndef ENGINE_MAILBOX_H
#define ENGINE_MAILBOX_H

/*
 * Letters (plain pointers) between threads: for every ordered pair of a sender and a reader two
 * lanes, each a Concurrency Kit SPSC ring, and for every reader one doorbell word. Pushing hands
 * the letter's ownership to the reader.
 *
 * LANE_FREE is drained by its reader whatever happens; LANE_GATED may be left alone by a reader
 * that has enough to do, and then fills up: its sender keeps the rest and is rung when there is
 * room again. What travels in LANE_FREE must therefore never have to wait for anything in
 * LANE_GATED.
 *
 * Each call says which side may make it: the sender's thread, or the reader's.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mailbox_lane { LANE_FREE, LANE_GATED, LANES };

struct mailbox;

/* Readers are the first of the senders: reader i sends as sender i. lane_entries is a power of two
 * from 2; a lane holds one less. NULL: out of memory. */
struct mailbox *mailbox_new(unsigned readers, unsigned senders, unsigned lane_entries);
/* Letters still in lanes are not freed. */
void mailbox_free(struct mailbox *mailbox);
unsigned mailbox_senders(const struct mailbox *mailbox);

/* Sender: pushes as many of the letters as there is room for and returns how many. If not all, the
 * sender will be rung once there is room. Does not ring. */
unsigned mailbox_push(struct mailbox *mailbox, unsigned reader, unsigned sender,
		      enum mailbox_lane lane, void *const *letters, unsigned n);

/* Sender: how many letters of all that were ever pushed into a lane, modulo 2^32, its reader has
 * taken out. */
uint32_t mailbox_taken(const struct mailbox *mailbox, unsigned reader, unsigned sender,
		       enum mailbox_lane lane);
/* Sender: wants to be rung when the reader has taken some more. To be called before the last look
 * at mailbox_taken. */
void mailbox_want(struct mailbox *mailbox, unsigned reader, unsigned sender,
		  enum mailbox_lane lane);

/* Sender: rings the reader's doorbell after pushing. True: the reader was parked, and this caller,
 * and no other, must wake it. */
bool mailbox_ring(struct mailbox *mailbox, unsigned reader, unsigned sender);

/* Reader: pops at most max letters in the order in which they were pushed. Sets *again if the
 * sender is waiting for room and must be rung (mailbox_ring in the other direction). */
unsigned mailbox_pop(struct mailbox *mailbox, unsigned reader, unsigned sender,
		     enum mailbox_lane lane, void **letters, unsigned max, bool *again);

/* Reader: takes the doorbell's bits and clears them, PARKED too. mailbox_bit says whose they are.
 */
uint64_t mailbox_take(struct mailbox *mailbox, unsigned reader);
/* The bit that stands for this sender. Above 63 senders several share one. */
uint64_t mailbox_bit(unsigned sender);
/* Reader: whether anybody has rung. No store. */
bool mailbox_peek(const struct mailbox *mailbox, unsigned reader);

/* Reader: parks, unless somebody has rung. True: the next one who rings will wake this reader. */
bool mailbox_park(struct mailbox *mailbox, unsigned reader);

#endif
