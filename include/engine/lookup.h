#ifndef ENGINE_LOOKUP_H
#define ENGINE_LOOKUP_H

/*
 * The addresses of a host's name (getaddrinfo(3)), asked for on a worker's thread, as a name server
 * that does not answer holds whoever asks up for many seconds. Whoever asks looks himself whether
 * they are there, and may go away before: what has begun is finished for nobody. One thread at a
 * time; lookup_now any.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/address.h"

struct lookup;
struct workers;

enum {
	LOOKUP_ADDRESSES_MAX = 16, /* of a name; there may be more, which are left out */
	LOOKUPS_MAX = 64,          /* that wait for a thread; beyond, none begins */
};

/* NULL: out of memory, or too many are waiting. */
struct lookup *lookup_new(struct workers *workers, const char *host, in_port_t port);
/* Nobody waits for it any more; NULL is harmless. */
void lookup_free(struct lookup *lookup);
bool lookup_done(const struct lookup *lookup);
/* Of one that is done: how many addresses there are, in the order in which the system would try
 * them. */
unsigned lookup_count(const struct lookup *lookup);
const struct address *lookup_address(const struct lookup *lookup, unsigned n);
/* Why there are none, for people; static. */
const char *lookup_problem(const struct lookup *lookup);

/* Waits for the answer. How many there are, at most max; 0: *problem says why. */
unsigned lookup_now(const char *host, in_port_t port, struct address *out, unsigned max,
		    const char **problem);

#endif
