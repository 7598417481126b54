#include "protocol/sniff.h"

#include "base/config.h"
#include "protocol/http.h"
#include "protocol/line.h"
#include "protocol/resp.h"

enum { TLS_HANDSHAKE = 0x16 };

static struct span skip_empty_lines(struct span first)
{
	while (first.len >= 2 && memcmp(first.data, "\r\n", 2) == 0)
		first = span_skip(first, 2);
	return first;
}

/* It, or the first of those that there are. */
static enum sniffed among(unsigned protocols, enum sniffed s)
{
	static const unsigned bits[] = { [SNIFF_LINE] = CONFIG_PROTOCOL_LINE,
					 [SNIFF_HTTP] = CONFIG_PROTOCOL_HTTP,
					 [SNIFF_RESP] = CONFIG_PROTOCOL_RESP };

	if (s == SNIFF_MORE || protocols & bits[s])
		return s;
	for (s = SNIFF_LINE; s < SNIFF_RESP && !(protocols & bits[s]); s++)
		;
	return s;
}

static int detect_line(struct span first, unsigned protocols)
{
	return protocols & CONFIG_PROTOCOL_LINE ? line_detect(first) : -1;
}

static int detect_http(struct span first, unsigned protocols)
{
	return protocols & CONFIG_PROTOCOL_HTTP ? http_detect(first) : -1;
}

/* No other begins with it, so that there is nothing to wait for. */
static bool is_resp(struct span first, unsigned protocols)
{
	return protocols & CONFIG_PROTOCOL_RESP && resp_detect(first) > 0;
}

enum sniffed sniff_likely(struct span first, unsigned protocols)
{
	int line, http;

	if (is_resp(first, protocols))
		return SNIFF_RESP;
	first = skip_empty_lines(first);
	if (first.len == 0)
		return SNIFF_MORE;
	line = detect_line(first, protocols);
	http = detect_http(first, protocols);
	if ((line >= 0) == (http >= 0))
		return SNIFF_MORE;
	return line >= 0 ? SNIFF_LINE : SNIFF_HTTP;
}

enum sniffed sniff(struct span first, unsigned protocols)
{
	bool full = first.len >= SNIFF_BYTES_MAX;
	int line, http;
	const char *lf;

	if (is_resp(first, protocols))
		return SNIFF_RESP;
	if (full)
		first.len = SNIFF_BYTES_MAX;
	first = skip_empty_lines(first);
	if (first.len == 0 || span_equal(first, SPAN("\r")))
		return full ? among(protocols, SNIFF_LINE) : SNIFF_MORE;
	line = detect_line(first, protocols);
	http = detect_http(first, protocols);
	if (line > 0)
		return SNIFF_LINE;
	if (http > 0)
		return SNIFF_HTTP;
	if (line == 0 || http == 0)
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
