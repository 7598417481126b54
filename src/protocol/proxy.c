#include "protocol/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

enum {
	V1_BYTES_MAX = 107, /* 2.1: with the line's end */
	V2_FIXED_BYTES = 16,
	V2_LOCAL = 0x20,
	V2_PROXY = 0x21,
};

static const char v1[] = "PROXY ";
static const char v2[] = "\r\n\r\n\0\r\nQUIT\n";

/* Whether what is there of the bytes begins, or may go on to begin, with this. */
static bool may_begin(struct span first, const char *with, size_t len)
{
	return memcmp(first.data, with, first.len < len ? first.len : len) == 0;
}

static void set_ipv4(struct proxy_header *out, const void *ipv4)
{
	memset(out->address, 0, 10);
	memset(out->address + 10, 0xff, 2);
	memcpy(out->address + 12, ipv4, 4);
	out->named = true;
}

/* The next word of a line, up to a single space or its end; empty: there is none. */
static struct span word(struct span *line)
{
	const char *space = memchr(line->data, ' ', line->len);
	size_t n = space != NULL ? (size_t)(space - line->data) : line->len;
	struct span w = { line->data, n };

	*line = span_skip(*line, space != NULL ? n + 1 : n);
	return w;
}

static bool address(struct span text, int family, void *out)
{
	char copy[INET6_ADDRSTRLEN];

	if (text.len >= sizeof(copy) || memchr(text.data, 0, text.len) != NULL)
		return false;
	memcpy(copy, text.data, text.len);
	copy[text.len] = 0;
	return inet_pton(family, copy, out) == 1;
}

static bool port(struct span text)
{
	unsigned value = 0;

	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] < '0' || text.data[i] > '9')
			return false;
		value = value * 10 + (unsigned)(text.data[i] - '0');
	}
	return text.len > 0 && text.len <= 5 && value <= UINT16_MAX;
}

static int parse_v1(struct span first, struct proxy_header *out)
{
	size_t len = first.len < V1_BYTES_MAX ? first.len : V1_BYTES_MAX;
	const char *end = memchr(first.data, '\n', len);
	unsigned char from[16], to[16];
	struct span line, kind;
	int family;

	if (end == NULL)
		return len < V1_BYTES_MAX ? 0 : -1;
	if (end[-1] != '\r')
		return -1;
	line = (struct span){ first.data, (size_t)(end - 1 - first.data) };
	line = span_skip(line, sizeof(v1) - 1);
	kind = word(&line);
	if (span_equal(kind, SPAN("UNKNOWN")))
		return (int)(end + 1 - first.data);
	if (!span_equal(kind, SPAN("TCP4")) && !span_equal(kind, SPAN("TCP6")))
		return -1;
	family = kind.data[3] == '4' ? AF_INET : AF_INET6;
	if (!address(word(&line), family, from) || !address(word(&line), family, to) ||
	    !port(word(&line)) || !port(word(&line)) || line.len > 0)
		return -1;
	out->named = true;
	if (family == AF_INET)
		set_ipv4(out, from);
	else
		memcpy(out->address, from, sizeof(from));
	return (int)(end + 1 - first.data);
}

static int parse_v2(struct span first, struct proxy_header *out)
{
	const unsigned char *p = (const unsigned char *)first.data;
	size_t rest;

	if (first.len < V2_FIXED_BYTES)
		return 0;
	rest = (size_t)p[14] << 8 | p[15];
	if ((p[12] != V2_LOCAL && p[12] != V2_PROXY) || V2_FIXED_BYTES + rest > PROXY_BYTES_MAX)
		return -1;
	if (first.len < V2_FIXED_BYTES + rest)
		return 0;
	/* Family and protocol: other ones than TCP and UDP over IP name nobody. */
	if (p[12] == V2_PROXY && p[13] >> 4 == 1) {
		if (rest < 12)
			return -1;
		set_ipv4(out, p + V2_FIXED_BYTES);
	} else if (p[12] == V2_PROXY && p[13] >> 4 == 2) {
		if (rest < 36)
			return -1;
		memcpy(out->address, p + V2_FIXED_BYTES, sizeof(out->address));
		out->named = true;
	}
	return (int)(V2_FIXED_BYTES + rest);
}

int proxy_parse(struct span first, struct proxy_header *out)
{
	*out = (struct proxy_header){ .named = false };
	if (first.len == 0)
		return 0;
	if (may_begin(first, v1, sizeof(v1) - 1))
		return first.len < sizeof(v1) - 1 ? 0 : parse_v1(first, out);
	if (may_begin(first, v2, sizeof(v2) - 1))
		return parse_v2(first, out);
	return -1;
}
