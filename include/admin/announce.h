#ifndef ADMIN_ANNOUNCE_H
#define ADMIN_ANNOUNCE_H

/* What people read of a broker: what would run, and what runs. The main thread. */

struct broker;
struct config;

/* broker --check: says on standard output what a configuration would have run and who could do
 * what, or on standard error what is wrong with it. `path` is where it was read. The exit code. */
int announce_check(const char *path, const struct config *config);

/* To the log: reactors, addresses, and a command to try. */
void announce_ready(const struct broker *broker);

#endif
