#include "base/address.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *path_parse(const char *path, struct address *out)
{
	out->path = path;
	if (*path != '/')
		return "has no absolute path";
	if (strlen(path) > ADDRESS_PATH_MAX)
		return "has too long a path";
	return NULL;
}

const char *address_parse(const char *text, struct address *out)
{
	const char *colon = strrchr(text, ':');
	bool bracketed = *text == '[' && colon != NULL && colon > text + 1 && colon[-1] == ']';
	char host[INET6_ADDRSTRLEN];
	unsigned long port;
	int len;

	*out = (struct address){ .path = NULL };
	if (strncmp(text, "unix:", 5) == 0)
		return path_parse(text + 5, out);
	if (colon == NULL)
		return "has no port";

	len = (int)(colon - text) - 2 * bracketed;
	if (snprintf(host, sizeof(host), "%.*s", len, text + bracketed) >= (int)sizeof(host))
		return "has no numeric host";
	out->v4 = !bracketed;
	if (out->v4)
		memcpy(out->host.s6_addr + 10, "\xff\xff", 2);
	if (inet_pton(out->v4 ? AF_INET : AF_INET6, host, out->host.s6_addr + (out->v4 ? 12 : 0)) !=
	    1)
		return "has no numeric host";

	len = (int)strspn(colon + 1, "0123456789");
	if (len == 0 || len > 5 || colon[1 + len] != '\0')
		return "has no numeric port";
	port = strtoul(colon + 1, NULL, 10);
	out->port = (in_port_t)port;
	return port <= UINT16_MAX ? NULL : "has too high a port";
}

const char *network_parse(const char *text, struct network *out)
{
	const char *slash = strchr(text, '/');
	bool v6 = strchr(text, ':') != NULL;
	unsigned long most = v6 ? 128 : 32, bits = most;
	char host[INET6_ADDRSTRLEN], *end;
	int len = slash != NULL ? (int)(slash - text) : (int)strlen(text);

	*out = (struct network){ .bits = 0 };
	if (!v6)
		memcpy(out->address + 10, "\xff\xff", 2);
	if (snprintf(host, sizeof(host), "%.*s", len, text) >= (int)sizeof(host) ||
	    inet_pton(v6 ? AF_INET6 : AF_INET, host, out->address + (v6 ? 0 : 12)) != 1)
		return "is no address or network";
	if (slash != NULL) {
		bits = strtoul(slash + 1, &end, 10);
		if (slash[1] < '0' || slash[1] > '9' || *end != 0 || bits > most)
			return "has no number of bits";
	}
	out->bits = (unsigned)(bits + 128 - most);
	return NULL;
}

bool network_has(const struct network *n, const unsigned char address[16])
{
	unsigned whole = n->bits / 8, rest = n->bits % 8;

	return memcmp(n->address, address, whole) == 0 &&
	       (rest == 0 || (n->address[whole] ^ address[whole]) >> (8 - rest) == 0);
}

bool address_covers(const struct address *a, const struct address *b)
{
	static const struct in6_addr every_ipv4 = { { { [10] = 0xff, [11] = 0xff } } };

	if (a->path != NULL || b->path != NULL)
		return a->path != NULL && b->path != NULL && strcmp(a->path, b->path) == 0;
	if (a->port != b->port || a->port == 0)
		return false;
	return memcmp(&a->host, &b->host, sizeof(a->host)) == 0 ||
	       (IN6_IS_ADDR_UNSPECIFIED(&a->host) &&
		!(a->v6only && IN6_IS_ADDR_V4MAPPED(&b->host))) ||
	       (memcmp(&a->host, &every_ipv4, sizeof(a->host)) == 0 &&
		IN6_IS_ADDR_V4MAPPED(&b->host));
}

bool address_local(const struct address *a)
{
	return a->path != NULL || IN6_IS_ADDR_LOOPBACK(&a->host) ||
	       (IN6_IS_ADDR_V4MAPPED(&a->host) && a->host.s6_addr[12] == 127);
}

socklen_t address_socket(const struct address *a, struct sockaddr_storage *out)
{
	struct sockaddr_un *un = (struct sockaddr_un *)(void *)out;
	struct sockaddr_in *in = (struct sockaddr_in *)(void *)out;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)out;

	memset(out, 0, sizeof(*out));
	if (a->path != NULL) {
		un->sun_family = AF_UNIX;
		strcpy(un->sun_path, a->path);
		return sizeof(*un);
	}
	if (a->v4) {
		in->sin_family = AF_INET;
		in->sin_port = htons(a->port);
		memcpy(&in->sin_addr, a->host.s6_addr + 12, sizeof(in->sin_addr));
		return sizeof(*in);
	}
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(a->port);
	in6->sin6_addr = a->host;
	return sizeof(*in6);
}

void address_text(const unsigned char address[16], char out[ADDRESS_TEXT_MAX])
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
	bool v4 = memcmp(address, mapped, sizeof(mapped)) == 0;

	(void)inet_ntop(v4 ? AF_INET : AF_INET6, address + (v4 ? 12 : 0), out, ADDRESS_TEXT_MAX);
}
