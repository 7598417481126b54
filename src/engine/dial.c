#include "engine/dial.h"

#include <assert.h>

#include "engine/reactor.h"
#include "engine/ring.h"

enum { DIAL = 1, CANCEL = 2 }; /* as slots */

static void completed(void *context, const struct completion *c)
{
	struct dial *d = context;
	int fd = d->fd;

	if (user_data_slot(c->user_data) != DIAL)
		return;
	d->fd = -1;
	if (d->cancelled || c->result < 0)
		ring_close(d->reactor->ring, fd);
	if (!d->cancelled)
		d->done(d->context, c->result < 0 ? c->result : fd);
}

void dial_init(struct dial *d, struct reactor *reactor, void (*done)(void *, int), void *context)
{
	*d = (struct dial){ .reactor = reactor, .done = done, .context = context, .fd = -1 };
	reactor_handle(reactor, OP_DIAL, completed, d);
}

int dial_begin(struct dial *d, const struct address *address, int silence_ms)
{
	socklen_t bytes = address_socket(address, &d->address);

	assert(!dial_busy(d));
	d->fd = ring_socket(d->reactor->ring, d->address.ss_family, silence_ms);
	if (d->fd < 0) {
		int err = d->fd;

		d->fd = -1;
		return err;
	}
	d->cancelled = false;
	ring_connect(d->reactor->ring, d->fd, &d->address, bytes, user_data(OP_DIAL, 0, DIAL));
	return 0;
}

void dial_cancel(struct dial *d)
{
	if (!dial_busy(d) || d->cancelled)
		return;
	d->cancelled = true;
	ring_cancel(d->reactor->ring, user_data(OP_DIAL, 0, DIAL), user_data(OP_DIAL, 0, CANCEL));
}

void dial_release(struct dial *d)
{
	if (dial_busy(d))
		ring_close(d->reactor->ring, d->fd);
	d->fd = -1;
}
