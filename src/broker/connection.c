#include "broker/connection.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/probe.h"
#include "broker/home.h"
#include "broker/http_answer.h"
#include "broker/http_session.h"
#include "broker/line_session.h"
#include "broker/listener.h"
#include "broker/subscription.h"
#include "broker/shard.h"
#include "protocol/proxy.h"
#include "protocol/sniff.h"
#include "topic/block.h"

enum {
	CLOSING_SECONDS = 5, /* for a client to take a last word and close */
	/* That are told why at a time. Beyond, they are just closed; while draining they wait in
	 * the kernel's queue. */
	REFUSED_CONNECTIONS_MAX = 64,
	PONGS_AT_ONCE = 16,
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

void connection_receipt(struct shard *s, struct topic_letter *l)
{
	struct socket *socket = socket_at(&s->sockets, l->slot, l->generation);
	struct connection *c;

	free(l);
	if (socket == NULL)
		return;
	c = connection_of(socket);
	c->awaiting = false;
	if (c->state == CONNECTION_FINISHING)
		connection_finish(c, c->farewell);
}

bool connection_reply(struct connection *c, struct span text)
{
	char *reply = memory_resize(c->reply, c->reply_len + text.len);

	if (reply == NULL) {
		connection_close(c, DROP_MEMORY);
		return false;
	}
	memcpy(reply + c->reply_len, text.data, text.len);
	c->reply = reply;
	c->reply_len += (uint32_t)text.len;
	return true;
}

/* It has no descriptor any more, and is no client as far as limits go. */
static void uncount(struct connection *c)
{
	if (c->counts == COUNTS_AS_CLIENT)
		listener_leave(c->shard->broker, c->address);
	else if (c->counts == COUNTS_AS_REFUSED)
		c->shard->clients.refused_n--;
	c->counts = COUNTS_NOT;
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
	if (c->socket.ended) {
		connection_close(c, DROP_CLOSED);
		return;
	}
	ring_shutdown(c->shard->reactor.ring, c->socket.fd, SHUT_WR);
	connection_limit_closing(c);
	socket_receive(&c->shard->sockets, &c->socket);
}

/* Nothing is in flight and nothing is left to send for now: the end, if this is the end. */
static void maybe_end(struct connection *c)
{
	const char *farewell = c->farewell;

	if (c->state != CONNECTION_FINISHING || c->awaiting)
		return;
	if (c->subscription != NULL) {
		if (!subscription_done(c->subscription))
			return;
		subscription_free(c->subscription, c->reason);
	}
	if (farewell == NULL) {
		linger(c);
		return;
	}
	c->farewell = NULL;
	connection_limit_closing(c);
	if (connection_reply(c, span_of(farewell)))
		connection_flush(c);
}

/* So much has been given to the kernel: enough of it, and somebody has to see whether it stays
 * there. */
static void count_unlooked(struct connection *c, size_t sent_bytes)
{
	bool listed = c->unlooked_bytes >= LOOK_BYTES;

	c->unlooked_bytes += KERNEL_SEND_BYTES + (uint32_t)sent_bytes;
	if (listed || c->unlooked_bytes < LOOK_BYTES)
		return;
	list_remove(&c->link);
	list_append(&c->shard->clients.unlooked, &c->link);
}

/* Whether PONGs can be said now: no message is under way. */
static bool between_messages(const struct connection *c, struct subscription *sub)
{
	return c->state == CONNECTION_OPEN && sub->stream != NULL && !sub->in_flight &&
	       stream_between(sub->stream, &sub->cursor);
}

/* False: there was no memory, and it has been closed. */
static bool say_pongs(struct connection *c, struct subscription *sub)
{
#define PONGS_4 "PONG\r\nPONG\r\nPONG\r\nPONG\r\n"
	static const char text[] = PONGS_4 PONGS_4 PONGS_4 PONGS_4;
	uint32_t n = sub->pongs < PONGS_AT_ONCE ? sub->pongs : PONGS_AT_ONCE;

	if (!between_messages(c, sub))
		return true;
	sub->pongs -= n;
	return connection_reply(c, (struct span){ text, n * (sizeof(text) - 1) / PONGS_AT_ONCE });
}

void connection_pong(struct connection *c)
{
	struct subscription *sub = c->subscription;

	/* However many are asked for by somebody who does not read, they are but a number. */
	if (sub->pongs < UINT32_MAX)
		sub->pongs++;
	if (!c->socket.sending && between_messages(c, sub))
		connection_flush(c);
}

void connection_flush(struct connection *c)
{
	struct subscription *sub = c->subscription;
	struct iovec spans[RING_SPANS_MAX];
	unsigned n = 0;

	if (c->socket.sending || c->state == CONNECTION_CLOSED) {
		if (sub != NULL && sub->stream != NULL && !sub->in_flight)
			stream_hold(sub->stream, &sub->cursor);
		return;
	}
	if (sub != NULL && sub->pongs > 0 && !say_pongs(c, sub))
		return;
	if (c->reply_flying_len == 0 && c->reply_len > 0) {
		c->reply_flying = c->reply;
		c->reply_flying_len = c->reply_len;
		c->reply_flown = 0;
		c->reply = NULL;
		c->reply_len = 0;
	}
	if (c->reply_flying_len > 0)
		spans[n++] = (struct iovec){ c->reply_flying + c->reply_flown,
					     c->reply_flying_len - c->reply_flown };
	if (c->http != NULL && c->reply_len == 0)
		n += http_answer_gather(c, spans + n, RING_SPANS_MAX - n);
	/* A reply that has not left yet comes first. */
	if (sub != NULL && sub->stream != NULL && c->reply_len == 0 &&
	    !stream_at_end(sub->stream, &sub->cursor)) {
		int gathered =
			stream_gather(sub->stream, &sub->cursor, spans + n, RING_SPANS_MAX - n);

		if (gathered < 0) {
			connection_close(c, DROP_MEMORY);
			return;
		}
		if (gathered > 0)
			sub->in_flight = true;
		else
			subscription_go_on(sub);
		n += (unsigned)gathered;
	}
	if (n > 0)
		count_unlooked(c, socket_send(&c->shard->sockets, &c->socket, spans, n));
	else
		maybe_end(c);
}

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
		if (c->subscription == NULL && !c->awaiting && !http_answer_sending(c))
			connection_limit_closing(c);
		memory_free(c->input);
		c->input = NULL;
		c->input_len = 0;
	}
	if (c->subscription != NULL && !c->awaiting)
		subscription_leave(c->subscription);
	connection_flush(c);
}

void connection_goodbye(struct connection *c)
{
	publisher_end(c, true);
	if (c->subscription != NULL && !c->awaiting)
		c->awaiting = subscription_ask_last(c->subscription);
	connection_finish(c, c->http != NULL ? http_answer_farewell(c) : NULL);
}

/* The error as its protocol says it, or NULL. To whoever has not said what he speaks nothing is
 * said, if that may be several: he would take it for the answer to what he is about to ask. */
static const char *put_in_its_words(struct connection *c, const char *error_line)
{
	unsigned protocol = c->protocols;

	if (c->http == NULL && protocol != CONFIG_PROTOCOL_LINE &&
	    protocol != CONFIG_PROTOCOL_HTTP) {
		enum sniffed likely = sniff_likely((struct span){ c->input, c->input_len });

		if (likely == SNIFF_MORE)
			return NULL;
		protocol = likely == SNIFF_HTTP ? CONFIG_PROTOCOL_HTTP : CONFIG_PROTOCOL_LINE;
	}
	return c->http != NULL || protocol == CONFIG_PROTOCOL_HTTP ? http_answer_end(c, error_line)
								   : error_line;
}

void connection_error(struct connection *c, const char *error_line)
{
	error_line = put_in_its_words(c, error_line);
	if (c->state == CONNECTION_OPEN) {
		c->shard->counters.errors++;
		publisher_end(c, false);
	} else if (c->state == CONNECTION_FINISHING) {
		c->farewell = error_line;
	}
	c->awaiting = false;
	if (c->subscription != NULL && c->subscription->stream == NULL)
		subscription_free(c->subscription, DROP_CLOSED);
	connection_finish(c, error_line);
}

void connection_no_subscription(struct connection *c, int error)
{
	connection_error(c, error == -ENOSPC    ? LINE_ERROR_TEXT("too many subscriptions")
			    : error == -ENOBUFS ? LINE_ERROR_TEXT("too many connections")
						: LINE_ERROR_TEXT("out of memory"));
}

void connection_no_topic(struct connection *c, int error)
{
	connection_error(c, error == -ENOSPC ? LINE_ERROR_TEXT("too many topics")
					     : LINE_ERROR_TEXT("out of memory"));
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
	c->reason = reason;
	deadline_stop(&c->deadline);
	list_remove(&c->waiting);
	publisher_end(c, false);
	if (c->subscription != NULL) {
		subscription_leave(c->subscription);
		if (!c->subscription->in_flight)
			subscription_free(c->subscription, reason);
	}
	socket_close(&c->shard->sockets, &c->socket);
}

/* Says why, in the client's own protocol where that is known. */
static void refuse(struct connection *c)
{
	connection_finish(c, put_in_its_words(c, c->farewell));
}

/* The first bytes decide, once. */
static void received_first(struct connection *c, struct span bytes)
{
	char first[SNIFF_BYTES_MAX], *kept;
	struct span all = bytes;

	if (c->input_len > 0) {
		size_t rest = sizeof(first) - c->input_len;

		memcpy(first, c->input, c->input_len);
		memcpy(first + c->input_len, bytes.data, bytes.len < rest ? bytes.len : rest);
		all = (struct span){ first, c->input_len + (bytes.len < rest ? bytes.len : rest) };
	}
	switch (sniff(all)) {
	case SNIFF_LINE:
		c->protocols = CONFIG_PROTOCOL_LINE;
		if (c->counts == COUNTS_AS_REFUSED)
			refuse(c);
		else
			line_session_received(c, bytes);
		break;
	case SNIFF_HTTP:
		c->protocols = CONFIG_PROTOCOL_HTTP;
		http_session_received(c, bytes);
		break;
	case SNIFF_MORE:
	default:
		kept = memory_resize(c->input, SNIFF_BYTES_MAX);
		if (kept == NULL) {
			connection_close(c, DROP_MEMORY);
			return;
		}
		c->input = kept;
		memcpy(c->input + c->input_len, bytes.data, bytes.len);
		c->input_len += (uint32_t)bytes.len;
	}
}

static bool is_local(const unsigned char peer[16])
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
	static const unsigned char unix_or_v6_loopback[15];

	if (memcmp(peer, mapped, 12) == 0)
		return peer[12] == 127;
	return memcmp(peer, unix_or_v6_loopback, 15) == 0 && peer[15] <= 1;
}

/* Whoever a proxy speaks for is who counts. False: it is refused. */
static bool count_again(struct connection *c, const unsigned char address[16])
{
	struct shard *s = c->shard;

	c->proxied = true;
	c->local = is_local(address);
	if (s->config->limits.connections_per_ip == 0 || c->counts != COUNTS_AS_CLIENT)
		return true;
	uncount(c);
	c->farewell = listener_enter(s->broker, s->config, address);
	if (c->farewell != NULL) {
		c->counts = COUNTS_AS_REFUSED;
		s->counters.refused++;
		s->clients.refused_n++;
		return false;
	}
	memcpy(c->address, address, sizeof(c->address));
	c->counts = COUNTS_AS_CLIENT;
	return true;
}

static void received(struct socket *socket, const char *data, size_t len, int error);

/* A proxy's first bytes, until its header is whole; what is behind is its client's. */
static void received_header(struct connection *c, struct span bytes)
{
	size_t room = PROXY_BYTES_MAX - c->input_len, n = bytes.len < room ? bytes.len : room;
	char *kept = memory_resize(c->input, PROXY_BYTES_MAX);
	struct proxy_header header;
	int len;

	if (kept == NULL) {
		connection_close(c, DROP_MEMORY);
		return;
	}
	c->input = kept;
	memcpy(kept + c->input_len, bytes.data, n);
	len = proxy_parse((struct span){ kept, c->input_len + n }, &header);
	if (len < 0) {
		c->socket.reset = true;
		connection_close(c, DROP_CLOSED);
		return;
	}
	if (len == 0) {
		c->input_len += (uint32_t)n;
		return;
	}
	bytes = span_skip(bytes, (size_t)len - c->input_len);
	memory_free(c->input);
	c->input = NULL;
	c->input_len = 0;
	c->header = false;
	if (header.named && !count_again(c, header.address) &&
	    (c->protocols == CONFIG_PROTOCOL_LINE || c->protocols == CONFIG_PROTOCOL_HTTP))
		refuse(c);
	if (bytes.len == 0 || c->state != CONNECTION_OPEN)
		return;
	c->shard->counters.received_bytes -= bytes.len; /* these are counted again */
	received(&c->socket, bytes.data, bytes.len, 0);
}

/* It is nobody's turn to say something, and nothing else is timed. */
static bool may_be_silent(const struct connection *c)
{
	const struct http_session *http = c->http;

	if (c->state != CONNECTION_OPEN)
		return false;
	return http != NULL ? http->state == HTTP_READING && http->answered_any && !http->timing &&
				      http->sending == NULL
			    : c->publisher != NULL || c->subscription != NULL;
}

void connection_limit_silence(struct connection *c)
{
	struct shard *s = c->shard;

	if (clients_limit_idle(&s->clients) && list_empty(&c->waiting))
		reactor_deadline(&s->reactor, &s->clients.idle, &c->deadline);
	else
		deadline_stop(&c->deadline);
}

static void received(struct socket *socket, const char *data, size_t len, int error)
{
	struct connection *c = connection_of(socket);
	struct shard *s = c->shard;

	if (len > 0) {
		s->counters.received_bytes += len;
		if (c->state != CONNECTION_OPEN)
			return;
		if (c->header) {
			received_header(c, (struct span){ data, len });
			return;
		}
		if (c->protocols == CONFIG_PROTOCOL_HTTP) {
			http_session_received(c, (struct span){ data, len });
			return;
		}
		if (c->protocols != CONFIG_PROTOCOL_LINE) {
			received_first(c, (struct span){ data, len });
			return;
		}
		if (clients_limit_idle(&s->clients) && may_be_silent(c))
			connection_limit_silence(c);
		line_session_received(c, (struct span){ data, len });
		return;
	}
	if (c->state == CONNECTION_OPEN)
		line_session_ended(c);
	if (error != 0 || c->state == CONNECTION_LINGERING) {
		connection_close(c, DROP_CLOSED);
	} else if (c->state == CONNECTION_OPEN && c->http != NULL) {
		http_session_ended(c);
	} else if (c->state == CONNECTION_OPEN) {
		connection_goodbye(c);
	} else {
		/* Finishing: it may still be reading. */
		connection_flush(c);
	}
}

static void sent(struct socket *socket, int result)
{
	struct connection *c = connection_of(socket);
	size_t n = result > 0 ? (size_t)result : 0, left;
	bool any = n > 0;

	c->shard->counters.sent_bytes += n;
	if (c->reply_flying_len > 0) {
		left = c->reply_flying_len - c->reply_flown;
		left = n < left ? n : left;
		c->reply_flown += (uint32_t)left;
		n -= left;
		if (c->reply_flown == c->reply_flying_len) {
			memory_free(c->reply_flying);
			c->reply_flying = NULL;
			c->reply_flying_len = 0;
		}
	}
	if (c->http != NULL)
		n -= http_answer_sent(c, n);
	if (c->subscription != NULL) {
		bool skip = c->subscription->skip;

		if (c->subscription->in_flight)
			subscription_sent(c->subscription, n);
		else if (c->subscription->stream != NULL && c->state != CONNECTION_CLOSED) {
			stream_unhold(c->subscription->stream, &c->subscription->cursor);
			if (stream_wants_sends(c->subscription->stream))
				shard_dirty(c->shard, c->subscription->stream);
		}
		if (skip && result == -ECANCELED)
			result = 0;
	}
	if (c->state == CONNECTION_CLOSED)
		return;
	if (result < 0 && result != -EINTR && result != -EAGAIN && result != -ENOBUFS &&
	    result != -ENOMEM) {
		connection_close(c, DROP_CLOSED);
		return;
	}
	/* A ready cursor is served in its stream's round; what else there is to say goes now. */
	if (c->reply_len > 0 || c->reply_flying_len > 0 || c->state == CONNECTION_FINISHING ||
	    (c->http != NULL && http_answer_sending(c)) ||
	    (c->subscription != NULL && c->subscription->pongs > 0 &&
	     between_messages(c, c->subscription)))
		connection_flush(c);
	if (clients_limit_idle(&c->shard->clients) && any && may_be_silent(c))
		connection_limit_silence(c);
	if (c->http != NULL)
		http_session_resume(c);
}

static void closed(struct socket *socket)
{
	struct connection *c = connection_of(socket);
	struct shard *s = c->shard;

	if (c->subscription != NULL)
		subscription_free(c->subscription, c->reason);
	if (c->receiving_into != NULL)
		block_unref(c->receiving_into);
	uncount(c);
	memory_count(-(int64_t)c->kernel_bytes);
	s->clients.connections_n--;
	s->clients.late_n -= c->late;
	list_remove(&c->link);
	memory_free(c->reply);
	memory_free(c->reply_flying);
	memory_free(c->input);
	http_session_free(c);
	pool_give(&s->clients.connection_pool, c);
}

static const struct socket_events events = { .received = received, .sent = sent, .closed = closed };

static void timed_out(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);

	(void)context;
	connection_error(c, LINE_ERROR_TEXT("timeout"));
}

static void closing_timed_out(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);

	(void)context;
	/* Refused, and it has not said what it speaks. */
	if (c->state == CONNECTION_OPEN)
		refuse(c);
	else
		connection_close(c, c->reason);
}

static uint64_t idle_ns(const struct shard *s)
{
	unsigned seconds = s->config->limits.idle_seconds;

	return seconds > 0 ? seconds * NS_PER_S : DEADLINE_NEVER;
}

static void watch(struct shard *s)
{
	reactor_watch(&s->reactor, &s->clients.handshake, timed_out, s);
	reactor_watch(&s->reactor, &s->clients.idle, timed_out, s);
	reactor_watch(&s->reactor, &s->clients.closing, closing_timed_out, s);
}

void connections_init(struct shard *s)
{
	/* Refused ones need a slot too, for as long as it takes to say so. */
	sockets_init(&s->sockets, &s->reactor, &events, SOCKET_NO_SLOT);
	pool_init(&s->clients.connection_pool, sizeof(struct connection));
	pool_init(&s->audience.subscription_pool, sizeof(struct subscription));
	list_init(&s->clients.paused);
	deadline_class_init(&s->clients.handshake, s->config->limits.handshake_seconds * NS_PER_S);
	deadline_class_init(&s->clients.idle, idle_ns(s));
	s->clients.configured_at = UINT32_MAX;
	deadline_class_init(&s->clients.closing, CLOSING_SECONDS * NS_PER_S);
	watch(s);
	http_answers_init(s);
}

static void look(struct connection *c)
{
	size_t bytes = ring_kernel_bytes(c->shard->reactor.ring, c->socket.fd);
	uint32_t now = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;

	memory_count((int64_t)now - c->kernel_bytes);
	c->kernel_bytes = now;
	c->unlooked_bytes = 0;
}

bool connections_look(struct shard *s, unsigned max)
{
	struct list *l, looked;

	list_init(&looked);
	for (; max > 0 && (l = list_take(&s->clients.unlooked)) != NULL; max--) {
		struct connection *c = LIST_ENTRY(l, struct connection, link);

		look(c);
		list_append(c->socket.sending || c->kernel_bytes > 0 ? &looked
								     : &s->clients.connections,
			    l);
	}
	list_splice(&s->clients.unlooked, &looked);
	return !list_empty(&s->clients.unlooked);
}

/* What goes when it goes. */
static uint64_t held_alone(const struct connection *c)
{
	uint64_t held =
		(uint64_t)c->kernel_bytes + c->reply_len + c->reply_flying_len + c->input_len;

	if (c->publisher != NULL && c->publisher->carry != NULL)
		held += block_bytes(c->publisher->carry);
	if (c->http != NULL && c->http->receiving != NULL)
		held += block_bytes(c->http->receiving);
	/* One that skips is in the middle of a message, and may never take the rest. */
	if (c->subscription != NULL)
		held += cursor_rest(&c->subscription->cursor);
	return held;
}

static uint64_t backlog(const struct connection *c)
{
	const struct subscription *sub = c->subscription;

	if (sub != NULL && sub->stream != NULL)
		return cursor_backlog(sub->stream, &sub->cursor);
	return c->http != NULL ? c->http->left.len : 0;
}

uint64_t connection_held(const struct connection *c)
{
	return c->state != CONNECTION_CLOSED ? held_alone(c) + backlog(c) : 0;
}

uint64_t connection_evict(struct connection *c)
{
	uint64_t alone = held_alone(c);

	c->shard->counters.memory_evicted++;
	if (c->subscription != NULL && backlog(c) > alone) {
		subscription_overtake(c->subscription);
		return 0;
	}
	/* What the kernel holds for the client must go with it. */
	c->socket.reset = true;
	connection_close(c, DROP_MEMORY);
	return alone;
}

bool connection_local(const struct connection *c)
{
	unsigned char peer[16];

	if (c->proxied)
		return c->local;
	ring_peer(c->shard->reactor.ring, c->socket.fd, peer);
	return is_local(peer);
}

void connection_open(struct shard *s, int fd, const struct listener *listener)
{
	struct connection *c = pool_take(&s->clients.connection_pool);
	const char *refusal;
	struct connection fresh = { .shard = s,
				    .late = s->drain.draining,
				    .protocols = (uint8_t)listener->protocols,
				    .reason = DROP_CLOSED };

	if (c == NULL) {
		ring_close(s->reactor.ring, fd);
		return;
	}
	*c = fresh;
	if (socket_open(&s->sockets, &c->socket, fd) != 0) {
		ring_close(s->reactor.ring, fd);
		pool_give(&s->clients.connection_pool, c);
		return;
	}
	list_init(&c->waiting);
	list_init(&c->link);
	list_append(&s->clients.connections, &c->link);
	deadline_init(&c->deadline);
	s->clients.connections_n++;
	s->clients.late_n += c->late;
	s->counters.accepted++;
	if (s->config->limits.connections_per_ip > 0 || listener->proxy_protocol)
		ring_peer(s->reactor.ring, fd, c->address);
	c->header = listener_proxied(listener, c->address);
	if (s->config->limits.connections_per_ip == 0 || c->header)
		memset(c->address, 0, sizeof(c->address));
	refusal = c->late ? LINE_ERROR_TEXT("draining")
			  : listener_enter(s->broker, s->config, c->address);
	c->counts = refusal == NULL ? COUNTS_AS_CLIENT : COUNTS_AS_REFUSED;
	if (refusal == NULL) {
		reactor_deadline(&s->reactor, &s->clients.handshake, &c->deadline);
		socket_receive(&s->sockets, &c->socket);
		return;
	}
	s->counters.refused++;
	c->farewell = refusal;
	if (s->clients.refused_n++ >= REFUSED_CONNECTIONS_MAX && !c->late) {
		connection_close(c, DROP_CLOSED);
	} else if (c->protocols == CONFIG_PROTOCOL_LINE) {
		refuse(c);
	} else {
		connection_limit_closing(c);
		socket_receive(&s->sockets, &c->socket);
	}
}

bool connections_rush(const struct shard *s)
{
	return s->drain.draining && s->clients.refused_n >= REFUSED_CONNECTIONS_MAX;
}

void connections_resume(struct shard *s)
{
	struct list waiting, *l;

	list_init(&waiting);
	list_splice(&waiting, &s->clients.paused);
	while ((l = list_take(&waiting)) != NULL) {
		struct connection *c = LIST_ENTRY(l, struct connection, waiting);

		if (shard_congested(s, c->publisher != NULL ? c->publisher->hash : c->http->hash)) {
			list_append(&s->clients.paused, &c->waiting);
			continue;
		}
		socket_receive(&s->sockets, &c->socket);
		if (c->http != NULL)
			http_session_resume(c);
		else
			connection_limit_silence(c);
	}
}

void connections_each(struct shard *s, void (*callback)(struct connection *, void *),
		      void *argument)
{
	struct socket *socket;

	for (uint32_t at = 0; (socket = sockets_next(&s->sockets, &at)) != NULL;)
		callback(connection_of(socket), argument);
}

bool connections_walk(struct shard *s, uint32_t *at, void (*callback)(struct connection *, void *),
		      void *argument)
{
	uint32_t from = *at;
	struct socket *socket;

	while ((socket = sockets_next(&s->sockets, at)) != NULL) {
		callback(connection_of(socket), argument);
		reactor_spend(&s->reactor, *at - from);
		from = *at;
		if (reactor_spent(&s->reactor))
			return true;
	}
	return false;
}

void connections_some(struct shard *s, unsigned n, void (*callback)(struct connection *, void *),
		      void *argument)
{
	struct list *lists[] = { &s->clients.unlooked, &s->clients.connections };

	for (unsigned i = 0; i < 2; i++) {
		struct list rest, *l;

		list_init(&rest);
		list_splice(&rest, lists[i]);
		for (; n > 0 && (l = list_take(&rest)) != NULL; n--) {
			list_append(lists[i], l);
			callback(LIST_ENTRY(l, struct connection, link), argument);
		}
		/* Those who have been called for stand behind all others. */
		list_splice(&rest, lists[i]);
		list_splice(lists[i], &rest);
	}
}

/* Nothing else is timed: now this is. */
static void start_idle(struct connection *c, void *argument)
{
	(void)argument;
	if (may_be_silent(c) && !deadline_running(&c->deadline))
		connection_limit_silence(c);
}

void connections_configure(struct shard *s)
{
	bool limited = clients_limit_idle(&s->clients);

	reactor_deadlines_change(&s->reactor, &s->clients.handshake,
				 s->config->limits.handshake_seconds * NS_PER_S);
	reactor_deadlines_change(&s->reactor, &s->clients.idle, idle_ns(s));
	if (!limited)
		s->clients.configured_at = 0;
}

bool connections_configure_some(struct shard *s)
{
	return clients_limit_idle(&s->clients) &&
	       connections_walk(s, &s->clients.configured_at, start_idle, NULL);
}

static void end_now(struct connection *c, void *argument)
{
	(void)argument;
	if (c->subscription != NULL)
		c->subscription->in_flight = false;
	socket_abandon(&c->shard->sockets, &c->socket);
	connection_close(c, DROP_CLOSED);
}

void connections_release(struct shard *s)
{
	connections_each(s, end_now, NULL);
	while (sockets_flush(&s->sockets))
		;
	sockets_release(&s->sockets);
	pool_release(&s->clients.connection_pool);
	pool_release(&s->audience.subscription_pool);
}
