#include "engine/lookup.h"

#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "engine/worker.h"

enum { HOST_MAX = 253 };

struct lookup {
	struct work work;
	atomic_uint refs; /* who asked, and the thread */
	atomic_bool done; /* what is above `host` is the thread's until then */
	unsigned n;
	const char *problem;
	struct address addresses[LOOKUP_ADDRESSES_MAX];
	in_port_t port;
	char host[HOST_MAX + 1];
};

/* False: it is of a family that is not dialled. */
static bool address_take(struct address *a, const struct addrinfo *info, in_port_t port)
{
	const void *from = info->ai_addr;
	struct sockaddr_in6 v6;
	struct sockaddr_in v4;

	*a = (struct address){ .port = port };
	if (info->ai_family == AF_INET6) {
		memcpy(&v6, from, sizeof(v6));
		a->host = v6.sin6_addr;
		return true;
	}
	if (info->ai_family != AF_INET)
		return false;
	memcpy(&v4, from, sizeof(v4));
	a->v4 = true;
	a->host.s6_addr[10] = a->host.s6_addr[11] = 0xff;
	memcpy(a->host.s6_addr + 12, &v4.sin_addr, sizeof(v4.sin_addr));
	return true;
}

unsigned lookup_now(const char *host, in_port_t port, struct address *out, unsigned max,
		    const char **problem)
{
	const struct addrinfo wanted = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct addrinfo *all = NULL;
	int err = getaddrinfo(host, NULL, &wanted, &all);
	unsigned n = 0;

	*problem = err != EAI_SYSTEM ? gai_strerror(err) : strerror(errno);
	if (err != 0)
		return 0;
	for (const struct addrinfo *info = all; info != NULL && n < max; info = info->ai_next)
		n += address_take(&out[n], info, port);
	freeaddrinfo(all);
	*problem = n == 0 ? "it has no address" : NULL;
	return n;
}

static void look(struct work *work)
{
	struct lookup *l = LIST_ENTRY(work, struct lookup, work);

	if (atomic_load(&l->refs) > 1) {
		l->n = lookup_now(l->host, l->port, l->addresses, LOOKUP_ADDRESSES_MAX,
				  &l->problem);
		atomic_store(&l->done, true);
	}
	lookup_free(l);
}

struct lookup *lookup_new(struct workers *workers, const char *host, in_port_t port)
{
	struct lookup *l = calloc(1, sizeof(*l));

	if (l == NULL)
		return NULL;
	l->work.run = look;
	l->port = port;
	snprintf(l->host, sizeof(l->host), "%s", host);
	atomic_init(&l->done, false);
	atomic_init(&l->refs, 2);
	if (workers_give(workers, &l->work, LOOKUPS_MAX))
		return l;
	free(l);
	return NULL;
}

void lookup_free(struct lookup *l)
{
	if (l != NULL && atomic_fetch_sub(&l->refs, 1) == 1)
		free(l);
}

bool lookup_done(const struct lookup *l)
{
	return atomic_load(&l->done);
}

unsigned lookup_count(const struct lookup *l)
{
	return l->n;
}

const struct address *lookup_address(const struct lookup *l, unsigned n)
{
	return &l->addresses[n];
}

const char *lookup_problem(const struct lookup *l)
{
	return l->problem;
}
