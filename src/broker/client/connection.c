#include "broker/connection_parts.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/memory.h"
#include "base/probe.h"
#include "broker/protocol.h"
#include "broker/shard.h"

enum {
	KERNEL_SEND_BYTES = 1 << 10, /* that the kernel takes for a send beside what is sent */
	LOOK_BYTES = 4 << 10,        /* sent; less does not show beside what any connection takes */
};

static const unsigned may_become[] = {
	[CONNECTION_OPEN] = 1 << CONNECTION_FINISHING | 1 << CONNECTION_CLOSED,
	[CONNECTION_FINISHING] = 1 << CONNECTION_LINGERING | 1 << CONNECTION_CLOSED,
	[CONNECTION_LINGERING] = 1 << CONNECTION_CLOSED,
	[CONNECTION_CLOSED] = 0,
};

static void become(struct connection *c, enum connection_state state)
{
	assert(may_become[c->state] & 1U << state);
	c->state = (uint8_t)state;
}

bool connection_reply(struct connection *c, struct span text)
{
	if (text.len == 0 || output_add(&c->output, text))
		return true;
	connection_close(c, DROP_MEMORY);
	return false;
}

bool connection_reply_body(struct connection *c, struct block *block, struct span body)
{
	if (output_add_body(&c->output, block, body))
		return true;
	connection_close(c, DROP_MEMORY);
	return false;
}

void connection_limit_closing(struct connection *c)
{
	if (c->state != CONNECTION_CLOSED)
		reactor_deadline(&c->shard->reactor, &c->shard->clients.closing, &c->deadline);
}

/* Everything has been said: wait for the client to see it, or a reset might take the last word from
 * it. */
static void linger(struct connection *c)
{
	become(c, CONNECTION_LINGERING);
	if (!c->socket.ended || c->socket.tls != NULL)
		socket_finish(&c->shard->sockets, &c->socket);
	if (c->socket.ended && !c->socket.sending) {
		connection_close(c, DROP_CLOSED);
		return;
	}
	connection_limit_closing(c);
	socket_receive(&c->shard->sockets, &c->socket);
}

/* Nothing is in flight and nothing is left to send for now: the end, if this is the end. */
static void maybe_end(struct connection *c)
{
	const char *farewell = c->farewell;

	if (c->state != CONNECTION_FINISHING || connection_waits(c) || c->subscriptions_n > 0)
		return;
	if (farewell == NULL) {
		linger(c);
		return;
	}
	c->farewell = NULL;
	connection_limit_closing(c);
	if (connection_reply(c, span_of(farewell)))
		connection_flush(c);
}

void connection_interject(struct connection *c)
{
	c->interjects = true;
	if (connection_may_interject(c))
		connection_flush(c);
}

/* So much has been given to the kernel: enough of it, and somebody has to see whether it stays
 * there. */
static void count_unlooked(struct connection *c, size_t sent_bytes)
{
	size_t bytes = c->unlooked_bytes + KERNEL_SEND_BYTES + sent_bytes;

	if (c->unlooked_bytes == LOOK_BYTES)
		return;
	c->unlooked_bytes = bytes < LOOK_BYTES ? (uint16_t)bytes : LOOK_BYTES;
	if (bytes < LOOK_BYTES)
		return;
	list_remove(&c->link);
	list_append(&c->shard->clients.unlooked, &c->link);
}

void connection_flush(struct connection *c)
{
	struct gathered g; /* uninitialized: it is large */
	bool barred = c->barrier == BARRIER_QUEUED;

	if (c->socket.sending || c->landing || c->state == CONNECTION_CLOSED) {
		if (c->subscriptions_n == 1)
			subscription_queue_if_behind(connection_subscription(c));
		return;
	}
	if (connection_gather(c, &g) != 0) {
		connection_ground(c);
		connection_close(c, DROP_MEMORY);
		return;
	}
	if (c->state == CONNECTION_CLOSED)
		return;
	if (barred && c->barrier == BARRIER_NONE) {
		c->resumes = true;
		connection_turn(c);
	}
	if (g.n > 0)
		count_unlooked(c, socket_send(&c->shard->sockets, &c->socket, g.spans, g.n));
	else
		maybe_end(c);
}

/* ---- ends ---- */

void connection_finish(struct connection *c, const char *farewell)
{
	if (c->state >= CONNECTION_LINGERING)
		return;
	if (c->state == CONNECTION_OPEN) {
		become(c, CONNECTION_FINISHING);
		PROBE(finish, c->shard->id, c->socket.fd, farewell);
		deadline_stop(&c->deadline);
		list_remove(&c->waiting);
		c->farewell = farewell;
		if (c->subscriptions_n == 0 && !connection_waits(c) &&
		    output_body_left(c->output) == 0)
			connection_limit_closing(c);
		memory_free(c->input);
		c->input = NULL;
		c->input_len = 0;
	}
	if (!connection_waits(c))
		connection_walk(c, WALK_LEAVE);
	connection_flush(c);
}

void connection_hasten(struct connection *c)
{
	c->hasty = true;
	connection_finish(c, c->farewell);
}

static void stop_publishing(struct connection *c, bool receipt)
{
	if (c->protocol->stop_publishing != NULL)
		c->protocol->stop_publishing(c, receipt);
}

void connection_goodbye(struct connection *c)
{
	stop_publishing(c, true);
	if (c->subscriptions_n == 1 && c->asked == 0)
		connection_ask_last(c, connection_subscription(c));
	else if (c->subscriptions_n > 1)
		(void)connection_sync_all(c, LANE_FREE);
	connection_finish(c, c->protocol->farewell(c, false));
}

void connection_fail(struct connection *c, const char *last_word)
{
	if (c->state == CONNECTION_OPEN) {
		c->shard->counters.errors++;
		stop_publishing(c, false);
	} else if (c->state == CONNECTION_FINISHING) {
		c->farewell = last_word;
	}
	c->hasty = true;
	connection_finish(c, last_word);
}

void connection_error(struct connection *c, enum reason reason)
{
	connection_fail(c, c->protocol->say(c, reason));
}

void connection_no_subscription(struct connection *c, int error)
{
	connection_error(c, error == -ENOSPC    ? REASON_SUBSCRIPTIONS
			    : error == -ENOBUFS ? REASON_CONNECTIONS
						: REASON_MEMORY);
}

void connection_close(struct connection *c, enum drop_reason reason)
{
	if (c->state == CONNECTION_CLOSED)
		return;
	/* There was more to say: an orderly end would be taken for that of all of it. */
	if (c->state < CONNECTION_LINGERING)
		c->socket.reset = true;
	become(c, CONNECTION_CLOSED);
	PROBE(close, c->shard->id, c->socket.fd, drop_reason_names[reason]);
	c->reason = (uint8_t)reason;
	deadline_stop(&c->deadline);
	list_remove(&c->waiting);
	stop_publishing(c, false);
	c->barrier = BARRIER_NONE;
	connection_walk(c, WALK_PART);
	socket_close(&c->shard->sockets, &c->socket);
}

void connection_refuse(struct connection *c)
{
	connection_finish(c, c->protocol->say(c, (enum reason)c->refusal));
}

void connection_speak(struct connection *c, const struct protocol *protocol, struct span bytes)
{
	c->protocol = protocol;
	memset(c->session, 0, sizeof(c->session));
	if (c->state == CONNECTION_OPEN && protocol->opened != NULL)
		protocol->opened(c);
	if (c->state == CONNECTION_OPEN && bytes.len > 0)
		protocol->received(c, bytes);
}
