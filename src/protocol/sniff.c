#include "protocol/sniff.h"

#include "protocol/http.h"
#include "protocol/line.h"

enum { TLS_HANDSHAKE = 0x16 };

static struct span skip_empty_lines(struct span first)
{
	while (first.len >= 2 && memcmp(first.data, "\r\n", 2) == 0)
		first = span_skip(first, 2);
	return first;
}

enum sniffed sniff_likely(struct span first)
{
	int line, http;

	first = skip_empty_lines(first);
	if (first.len == 0)
		return SNIFF_MORE;
	line = line_detect(first);
	http = http_detect(first);
	if ((line >= 0) == (http >= 0))
		return SNIFF_MORE;
	return line >= 0 ? SNIFF_LINE : SNIFF_HTTP;
}

enum sniffed sniff(struct span first)
{
	bool full = first.len >= SNIFF_BYTES_MAX;
	int line, http;
	const char *lf;

	if (full)
		first.len = SNIFF_BYTES_MAX;
	first = skip_empty_lines(first);
	if (first.len == 0 || span_equal(first, SPAN("\r")))
		return full ? SNIFF_LINE : SNIFF_MORE;
	line = line_detect(first);
	http = http_detect(first);
	if (line > 0)
		return SNIFF_LINE;
	if (http > 0)
		return SNIFF_HTTP;
	if (line == 0 || http == 0)
		return full ? SNIFF_LINE : SNIFF_MORE;
	/* A browser that was told https. */
	if (first.data[0] == TLS_HANDSHAKE)
		return SNIFF_HTTP;
	lf = memchr(first.data, '\n', first.len);
	if (lf != NULL)
		first.len = (size_t)(lf - first.data);
	if (memmem(first.data, first.len, " HTTP/", 6) != NULL)
		return SNIFF_HTTP;
	return lf != NULL || full ? SNIFF_LINE : SNIFF_MORE;
}
