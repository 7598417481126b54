#include "session/opening.h"

#include <string.h>

#include "base/config.h"
#include "base/memory.h"
#include "broker/broker.h"
#include "broker/connection.h"
#include "broker/listener.h"
#include "broker/shard.h"
#include "protocol/proxy.h"
#include "protocol/sniff.h"
#include "session/shared.h"

static const struct protocol *of(const struct connection *c, unsigned protocols)
{
	return c->shard->broker->sessions->first(protocols, false);
}

/* Goes on with another protocol, unless that tells one who is refused at once. */
static void speak(struct connection *c, const struct protocol *protocol, struct span bytes)
{
	bool refused = c->counts == COUNTS_AS_REFUSED && protocol->refuses_at_once;

	connection_speak(c, protocol, refused ? (struct span){ NULL, 0 } : bytes);
	if (refused)
		connection_refuse(c);
}

/* Keeps what has come, at most so many bytes in all. False: out of memory, the connection is
 * closed. */
static bool keep(struct connection *c, struct span bytes, size_t max)
{
	char *kept = memory_resize(c->input, max);

	if (kept == NULL) {
		connection_close(c, DROP_MEMORY);
		return false;
	}
	c->input = kept;
	memcpy(kept + c->input_len, bytes.data, bytes.len);
	c->input_len += (uint32_t)bytes.len;
	return true;
}

/* ---- a proxy's header ---- */

void proxied_received(struct connection *c, struct span bytes)
{
	size_t room = PROXY_BYTES_MAX - c->input_len, before = c->input_len;
	bool secure = c->shard->broker->listeners[c->listener].secure;
	struct proxy_header header;
	int len;

	if (!keep(c, (struct span){ bytes.data, bytes.len < room ? bytes.len : room },
		  PROXY_BYTES_MAX))
		return;
	len = proxy_parse((struct span){ c->input, c->input_len }, &header);
	if (len < 0) {
		c->socket.reset = true;
		connection_close(c, DROP_CLOSED);
		return;
	}
	if (len == 0)
		return;
	bytes = span_skip(bytes, (size_t)len - before);
	memory_free(c->input);
	c->input = NULL;
	c->input_len = 0;
	if (header.named)
		connection_is_for(c, header.address);
	/* NATS's clients may wait for a word in clear, as they may without a proxy. */
	if (secure && (c->protocols & CONFIG_PROTOCOL_NATS))
		speak(c, c->shard->broker->sessions->hailed, bytes);
	else if (secure)
		connection_secure(c, bytes);
	else
		speak(c, of(c, c->protocols), bytes);
}

/* ---- the first bytes ---- */

static const unsigned bits[] = { [SNIFF_LINE] = CONFIG_PROTOCOL_LINE,
				 [SNIFF_HTTP] = CONFIG_PROTOCOL_HTTP,
				 [SNIFF_RESP] = CONFIG_PROTOCOL_RESP,
				 [SNIFF_NATS] = CONFIG_PROTOCOL_NATS,
				 [SNIFF_MQTT] = CONFIG_PROTOCOL_MQTT };

void undecided_opened(struct connection *c)
{
	if (c->protocols & CONFIG_PROTOCOL_NATS)
		reactor_deadline(&c->shard->reactor, &session_shared(c->shard)->hello,
				 &c->deadline);
}

void undecided_is_silent(void *context, struct deadline *d)
{
	struct connection *c = LIST_ENTRY(d, struct connection, deadline);

	(void)context;
	/* The rest of its first command has its time all the same. */
	reactor_deadline(&c->shard->reactor, &c->shard->clients.handshake, d);
	if (c->input_len == 0)
		speak(c, of(c, CONFIG_PROTOCOL_NATS), (struct span){ NULL, 0 });
}

void undecided_received(struct connection *c, struct span bytes)
{
	char first[SNIFF_BYTES_MAX];
	struct span all = bytes;
	enum sniffed sniffed;

	if (c->input_len > 0) {
		size_t rest = sizeof(first) - c->input_len;

		memcpy(first, c->input, c->input_len);
		memcpy(first + c->input_len, bytes.data, bytes.len < rest ? bytes.len : rest);
		all = (struct span){ first, c->input_len + (bytes.len < rest ? bytes.len : rest) };
	}
	sniffed = sniff(all, c->protocols);
	if (sniffed != SNIFF_MORE)
		speak(c, of(c, bits[sniffed]), bytes);
	else
		(void)keep(c, bytes, SNIFF_BYTES_MAX);
}

void hailed_received(struct connection *c, struct span bytes)
{
	struct shard *s = c->shard;

	reactor_deadline(&s->reactor, &s->clients.handshake, &c->deadline);
	if (bytes.data[0] == CLIENT_HELLO)
		connection_secure(c, bytes);
	else if (c->protocols == CONFIG_PROTOCOL_NATS)
		speak(c, of(c, CONFIG_PROTOCOL_NATS), bytes);
	else
		connection_close(c, DROP_CLOSED); /* whatever it is, it is in clear */
}

const char *undecided_say(struct connection *c, enum reason reason)
{
	enum sniffed likely = sniff_likely((struct span){ c->input, c->input_len }, c->protocols);

	return likely != SNIFF_MORE ? of(c, bits[likely])->say(c, reason) : NULL;
}

const char *opening_farewell(const struct connection *c, bool bye)
{
	(void)c;
	(void)bye;
	return NULL;
}

bool opening_silent(const struct connection *c)
{
	(void)c;
	return false;
}

void opening_free(struct connection *c)
{
	(void)c;
}
