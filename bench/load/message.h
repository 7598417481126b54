#ifndef LOAD_MESSAGE_H
#define LOAD_MESSAGE_H

/*
 * What the load generator publishes: a header of fixed width, which says who sent it, as which of
 * its messages and when it was meant to be sent, and filler that depends on them. Text throughout,
 * so that every protocol carries it. Pure functions; any thread.
 *
 *   run:8 topic:5 publisher:4 sequence:10 intended_ns:16   hexadecimal, a space after each
 */

#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

enum {
	MESSAGE_HEADER_BYTES = 48, /* also the shortest message */
	MESSAGE_TOPIC_AT = 9,      /* where the topic's digits stand, */
	MESSAGE_PUBLISHER_AT = 15, /* where the publisher's digits stand */
	MESSAGE_TOPICS_MAX = 1 << 20,
	MESSAGE_PUBLISHERS_MAX = 1 << 16,
};

struct message {
	uint32_t run;       /* this run of the generator: traffic of another one is not ours */
	uint32_t topic;     /* its number */
	uint32_t publisher; /* its number within the topic */
	uint64_t seq;       /* from 0 */
	uint64_t intended_ns;
};

/* What all messages are filled from: a text of which each takes its own part. */
struct filler {
	size_t message_bytes;
	char *text;
};

/* -ENOMEM, or 0 and the caller releases. */
int filler_init(struct filler *filler, size_t message_bytes);
void filler_release(struct filler *filler);

/* Writes filler->message_bytes bytes. */
void message_write(char *to, const struct message *message, const struct filler *filler);
/* The same where message_write wrote an earlier message of the same publisher: cheaper. */
void message_rewrite(char *to, const struct message *message, const struct filler *filler);

enum message_fault {
	MESSAGE_RIGHT,
	MESSAGE_WRONG_LENGTH,
	MESSAGE_WRONG_HEADER,
	MESSAGE_WRONG_CONTENT,
	MESSAGE_OF_ANOTHER_RUN,
	MESSAGE_MISROUTED,
	MESSAGE_UNKNOWN_PUBLISHER,
	MESSAGE_DUPLICATE, /* or out of order */
	MESSAGE_GAP,
	MESSAGE_WRONG_TIME,
	MESSAGE_FAULTS,
};

extern const char *const message_fault_names[MESSAGE_FAULTS];

/* Takes a payload apart and checks its length, header and filler. *out is what the header says; it
 * is undefined unless the fault is MESSAGE_RIGHT or MESSAGE_WRONG_CONTENT. */
enum message_fault message_read(struct span payload, const struct filler *filler,
				struct message *out);
/* What is wrong with got where want was expected of its publisher. */
enum message_fault message_compare(const struct message *got, const struct message *want);

/* The five or four digits at this place; -1 if they are none. */
int message_topic(const char *at);
int message_publisher(const char *at);

#endif
