#ifndef ADMIN_UPSTREAM_CHECK_H
#define ADMIN_UPSTREAM_CHECK_H

/*
 * Talks to the cluster of an upstream before anything runs, and says what is wrong with it: whether
 * a server can be reached and lets the broker in, and whether the stream is as it must be. It waits
 * for answers, some seconds at most. The main thread, before reactors start.
 */

#include <stdbool.h>
#include <stdio.h>

struct config;

/* False: the cluster cannot do what the configuration asks of it; problem says why. out: for
 * people, who are told more, and of whatever is not right just now; NULL: the broker is about to
 * start, and only a stream that is not as it must be keeps it from that. */
bool upstream_check(const struct config *config, FILE *out, char *problem, size_t size);

#endif
