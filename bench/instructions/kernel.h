#ifndef INSTRUCTIONS_KERNEL_H
#define INSTRUCTIONS_KERNEL_H

/*
 * A kernel for the replay, in place of the one below liburing: rings in plain memory, sockets whose
 * peers are the replay, a clock that moves when it is read and with every send. It does at once
 * whatever it is asked, whole and always in the same order. Real are src/engine/ring.c and
 * everything above it. What the broker does not do with connections that stay open is not there,
 * and ends the replay.
 */

#include <stddef.h>
#include <stdint.h>

/* Since the start; read as differences. */
struct kernel_counts {
	uint64_t enters; /* of the kernel, for whatever reason */
	uint64_t sends, sent_bytes;
};
extern struct kernel_counts kernel_counts;

/* The fd of a shard's listener. */
int kernel_listener(unsigned shard);
/* A new connection to that shard. Returns its number, from 0. */
unsigned kernel_connect(unsigned shard);
/* Its client says this; the memory stays until the broker has read it. */
void kernel_say(unsigned connection, const char *data, size_t n);
/* The clock goes on. */
void kernel_pass(uint64_t ns);

#endif
