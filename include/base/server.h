#ifndef BASE_SERVER_H
#define BASE_SERVER_H

/*
 * A server that is dialled, as a configuration or a cluster names it: "nats://10.0.0.1:4222",
 * "nats://cluster.example:4222", "[::1]:4222"; without a port it is 4222. Any thread.
 */

#include <stdbool.h>

#include "base/address.h"
#include "base/span.h"

enum { SERVER_HOST_MAX = 253, SERVER_PORT = 4222 };

struct server {
	bool tls;
	bool numeric;           /* its address is known */
	struct address address; /* of one that is not: its port alone */
	char host[SERVER_HOST_MAX + 1];
};

/* What is wrong with the text; NULL: nothing. */
const char *server_parse(struct span text, struct server *out);
bool server_same(const struct server *a, const struct server *b);

#endif
