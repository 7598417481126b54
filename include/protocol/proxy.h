#ifndef PROTOCOL_PROXY_H
#define PROTOCOL_PROXY_H

/*
 * The PROXY protocol's header, versions 1 and 2, with which a proxy says whose connection it hands
 * on (HAProxy, doc/proxy-protocol.txt). Pure; any thread.
 */

#include <stdbool.h>

#include "base/span.h"

enum { PROXY_BYTES_MAX = 4096 }; /* of a header, with what a version 2 adds to the addresses */

struct proxy_header {
	bool named; /* false: the proxy's own, as its health checks are, or unknown */
	unsigned char address[16]; /* the client's, IPv4 as IPv6 has it */
};

/* The length of the header that a connection's first bytes begin with; 0: more are needed, of fewer
 * than PROXY_BYTES_MAX; -1: they are none. */
int proxy_parse(struct span first, struct proxy_header *out);

#endif
