#include "base/server.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static bool begins(struct span text, struct span with)
{
	return text.len >= with.len && memcmp(text.data, with.data, with.len) == 0;
}

/* How much of it is the host, brackets included. */
static size_t host_bytes(struct span text)
{
	const char *end = text.len > 0 && text.data[0] == '[' ? memchr(text.data, ']', text.len)
							      : memchr(text.data, ':', text.len);

	if (end == NULL)
		return text.len;
	return (size_t)(end - text.data) + (*end == ']');
}

static bool host_sound(struct span host)
{
	for (size_t i = 0; i < host.len; i++) {
		char c = host.data[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '-' || c == '_' || c == '.' || c == ':' || c == '[' || c == ']'))
			return false;
	}
	return host.len > 0;
}

static const char *port_parse(struct span text, in_port_t *port)
{
	unsigned long n = 0;

	*port = SERVER_PORT;
	if (text.len == 0)
		return NULL;
	if (text.data[0] != ':' || text.len == 1 || text.len > 6)
		return "has no numeric port";
	for (size_t i = 1; i < text.len; i++) {
		if (text.data[i] < '0' || text.data[i] > '9')
			return "has no numeric port";
		n = 10 * n + (unsigned long)(text.data[i] - '0');
	}
	*port = (in_port_t)n;
	return n > 0 && n <= UINT16_MAX ? NULL : "has a port that cannot be";
}

const char *server_parse(struct span text, struct server *out)
{
	char numeric[SERVER_HOST_MAX + 8];
	struct span host;
	in_port_t port;
	const char *wrong;

	*out = (struct server){ .tls = begins(text, SPAN("tls://")) };
	if (out->tls || begins(text, SPAN("nats://")))
		text = span_skip(text, out->tls ? 6 : 7);
	if (text.len > 0 && text.data[text.len - 1] == '/')
		text.len--;
	if (memchr(text.data, '@', text.len) != NULL)
		return "holds a credential";
	host = (struct span){ text.data, host_bytes(text) };
	if (!host_sound(host) || host.len > SERVER_HOST_MAX)
		return "has no host";
	wrong = port_parse(span_skip(text, host.len), &port);
	if (wrong != NULL)
		return wrong;
	snprintf(numeric, sizeof(numeric), "%.*s:%u", (int)host.len, host.data, port);
	out->numeric = address_parse(numeric, &out->address) == NULL;
	if (!out->numeric && host.data[0] == '[')
		return "has no host";
	out->address.port = port;
	memcpy(out->host, host.data, host.len);
	return NULL;
}

bool server_same(const struct server *a, const struct server *b)
{
	return a->tls == b->tls && a->address.port == b->address.port &&
	       strcmp(a->host, b->host) == 0;
}
