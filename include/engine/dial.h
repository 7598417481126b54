#ifndef ENGINE_DIAL_H
#define ENGINE_DIAL_H

/*
 * A connection that begins here: a socket and its way to an address, through the ring, one at a
 * time for each reactor. Who wants it sets the time limit, and cancels. Embedded in its owner. The
 * reactor's thread only.
 */

#include <stdbool.h>
#include <sys/socket.h>

#include "base/address.h"

struct reactor;

struct dial {
	struct reactor *reactor;
	/* It has ended: with an fd, connected, which is the owner's; or -errno. */
	void (*done)(void *context, int result);
	void *context;
	int fd; /* -1: none is under way */
	bool cancelled;
	struct sockaddr_storage address; /* while the kernel may look at it */
};

/* Takes the OP_DIAL handler of the reactor. */
void dial_init(struct dial *dial, struct reactor *reactor, void (*done)(void *context, int result),
	       void *context);
/* Whether one is under way, if only to its end after a dial_cancel: another must wait. */
static inline bool dial_busy(const struct dial *d)
{
	return d->fd >= 0;
}
/* Begins; `done` follows, not from within. The peer may take nothing of what it is sent for
 * silence_ms. -errno: it has not begun. */
int dial_begin(struct dial *dial, const struct address *address, int silence_ms);
/* Gives up: `done` is not called any more. Harmless when none is under way. */
void dial_cancel(struct dial *dial);
/* The ring takes part no more. */
void dial_release(struct dial *dial);

#endif
