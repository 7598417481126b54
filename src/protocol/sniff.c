#include "protocol/sniff.h"

#include <stdbool.h>

#include "base/config.h"
#include "protocol/http.h"
#include "protocol/line.h"
#include "protocol/mqtt.h"
#include "protocol/nats.h"
#include "protocol/resp.h"

enum { TLS_HANDSHAKE = 0x16 };

static const struct door {
	unsigned protocol;
	/* 1: surely, 0: perhaps, -1: not. */
	int (*detect)(struct span first);
	bool at_once; /* empty lines before it are not for it */
} doors[SNIFFED] = {
	[SNIFF_LINE] = { CONFIG_PROTOCOL_LINE, line_detect, false },
	[SNIFF_HTTP] = { CONFIG_PROTOCOL_HTTP, http_detect, false },
	[SNIFF_RESP] = { CONFIG_PROTOCOL_RESP, resp_detect, true },
	[SNIFF_NATS] = { CONFIG_PROTOCOL_NATS, nats_detect, false },
	[SNIFF_MQTT] = { CONFIG_PROTOCOL_MQTT, mqtt_detect, true },
};

static struct span skip_empty_lines(struct span first)
{
	while (first.len >= 2 && memcmp(first.data, "\r\n", 2) == 0)
		first = span_skip(first, 2);
	return first;
}

/* It, or the first of those that there are. */
static enum sniffed among(unsigned protocols, enum sniffed s)
{
	if (s == SNIFF_MORE || protocols & doors[s].protocol)
		return s;
	for (s = SNIFF_LINE; s + 1 < SNIFFED && !(protocols & doors[s].protocol); s++)
		;
	return s;
}

/* How many of these protocols the bytes may be the beginning of; *is: one of them; *surely: the one
 * that they are. "CONNECT {" is the beginning of no request, whatever begins with "CONNECT ". */
static unsigned begin_like(struct span first, unsigned protocols, enum sniffed *is,
			   enum sniffed *surely)
{
	struct span line = skip_empty_lines(first);
	unsigned n = 0;

	*is = *surely = SNIFF_MORE;
	for (unsigned s = SNIFF_MORE + 1; s < SNIFFED; s++) {
		const struct door *door = &doors[s];
		struct span from = door->at_once ? first : line;
		int like = protocols & door->protocol && from.len > 0 ? door->detect(from) : -1;

		if (like < 0)
			continue;
		n++;
		*is = (enum sniffed)s;
		if (like > 0)
			*surely = (enum sniffed)s;
	}
	return n;
}

enum sniffed sniff_likely(struct span first, unsigned protocols)
{
	enum sniffed is, surely;

	return begin_like(first, protocols, &is, &surely) == 1 ? is : SNIFF_MORE;
}

enum sniffed sniff(struct span first, unsigned protocols)
{
	bool full = first.len >= SNIFF_BYTES_MAX;
	enum sniffed is, surely;
	const char *lf;
	unsigned n;

	if (full)
		first.len = SNIFF_BYTES_MAX;
	n = begin_like(first, protocols, &is, &surely);
	if (surely != SNIFF_MORE && (n == 1 || surely == SNIFF_NATS))
		return surely;
	first = skip_empty_lines(first);
	if (n > 0 || first.len == 0 || span_equal(first, SPAN("\r")))
		return full ? among(protocols, SNIFF_LINE) : SNIFF_MORE;
	/* A browser that was told https. */
	if (first.data[0] == TLS_HANDSHAKE)
		return among(protocols, SNIFF_HTTP);
	lf = memchr(first.data, '\n', first.len);
	if (lf != NULL)
		first.len = (size_t)(lf - first.data);
	if (memmem(first.data, first.len, " HTTP/", 6) != NULL)
		return among(protocols, SNIFF_HTTP);
	return lf != NULL || full ? among(protocols, SNIFF_LINE) : SNIFF_MORE;
}
