#include "protocol/sniff.h"

#include "protocol/http.h"
#include "protocol/line.h"

enum { TLS_HANDSHAKE = 0x16 };

enum sniffed sniff(struct span first)
{
	int line, http;
	const char *lf;

	if (first.len == 0)
		return SNIFF_MORE;
	line = line_detect(first);
	http = http_detect(first);
	if (line > 0)
		return SNIFF_LINE;
	if (http > 0)
		return SNIFF_HTTP;
	if (line == 0 || http == 0)
		return SNIFF_MORE;
	/* A browser that was told https. */
	if (first.data[0] == TLS_HANDSHAKE)
		return SNIFF_HTTP;
	if (first.len > SNIFF_BYTES_MAX)
		first.len = SNIFF_BYTES_MAX;
	lf = memchr(first.data, '\n', first.len);
	if (lf != NULL)
		first.len = (size_t)(lf - first.data);
	if (memmem(first.data, first.len, " HTTP/", 6) != NULL)
		return SNIFF_HTTP;
	return lf != NULL || first.len == SNIFF_BYTES_MAX ? SNIFF_LINE : SNIFF_MORE;
}
