#ifndef ADMIN_OFFICE_H
#define ADMIN_OFFICE_H

/*
 * What the main thread does while reactors run: waits for signals, reads the configuration again,
 * asks for heartbeats, and brings the end about: lame for a while, draining, or at once.
 */

#include <signal.h>

struct broker;
struct config;
struct ring;

/* Until the last reactor has ended. `signals` are blocked in every thread; `ring` is the main
 * thread's own, to wake reactors with; the configuration was read at `path`. Returns the one that
 * is in force at the end, the caller's to free. */
struct config *office_serve(struct broker *broker, struct ring *ring, const char *path,
			    struct config *config, const sigset_t *signals);

#endif
