#include "broker/keyrings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/log.h"
#include "broker/broker.h"
#include "broker/listener.h"
#include "engine/keyring.h"

enum { DAY_S = 24 * 3600, WARN_DAYS = 14 };

/* What a client may ask for by name (RFC 7301, 6). Whoever asks for nothing may speak whatever the
 * listener takes. */
static const struct keyring_protocol known[] = {
	{ "http/1.1", CONFIG_PROTOCOL_HTTP },
	{ "http/1.0", CONFIG_PROTOCOL_HTTP },
};
enum { KNOWN = sizeof(known) / sizeof(known[0]) };

static int load(const struct config_listen *listen, const struct keyring *before,
		struct keyring **out, FILE *errors)
{
	struct keyring_protocol protocols[KNOWN + 1] = { 0 };
	size_t n = 0;

	for (size_t i = 0; i < KNOWN; i++)
		if (known[i].allows & listen->protocols)
			protocols[n++] = known[i];
	return keyring_load(&listen->tls, listen->protocols, protocols, before, out, errors);
}

static const struct config_listen *find(const struct config *config, const char *title)
{
	for (size_t i = 0; i < config->listens_n; i++)
		if (strcmp(config->listens[i].title, title) == 0)
			return config->listens[i].tls.present ? &config->listens[i] : NULL;
	return NULL;
}

size_t keyrings_n(const struct broker *b)
{
	return b->listeners_n + 1;
}

int keyrings_load(const struct broker *b, const struct config *config, struct keyring ***out,
		  FILE *errors)
{
	struct keyring **all = calloc(keyrings_n(b), sizeof(struct keyring *));
	int err = all != NULL ? 0 : -ENOMEM;

	for (size_t i = 0; i < b->listeners_n && err == 0; i++) {
		const struct listener *l = &b->listeners[i];
		const struct config_listen *c = find(config, l->title);
		struct keyring *before = atomic_load(&l->keyring);

		if (l->secure && c != NULL)
			err = load(c, before, &all[i], errors);
		else
			all[i] = keyring_ref(before);
	}
	/* Behind those of listeners: what is shown to whom is dialled. */
	if (err == 0 && config->upstreams_n > 0)
		err = keyring_load_client(&config->upstreams[0].tls, &all[b->listeners_n], errors);
	else if (err == 0)
		all[b->listeners_n] = keyring_ref(atomic_load(&b->dials));
	if (err == -ENOMEM)
		fputs("tls: out of memory, free some\n", errors);
	if (err != 0) {
		keyrings_free(all, keyrings_n(b));
		all = NULL;
	}
	*out = all;
	return err;
}

int keyrings_check(const struct config *config, FILE *errors)
{
	int err = 0;

	for (size_t i = 0; i < config->listens_n; i++) {
		struct keyring *keyring = NULL;
		int error = 0;

		if (config->listens[i].tls.present)
			error = load(&config->listens[i], NULL, &keyring, errors);
		keyring_unref(keyring);
		err = error != 0 ? error : err;
	}
	return err;
}

void keyrings_take(struct broker *b, struct keyring **all)
{
	for (size_t i = 0; i < b->listeners_n; i++)
		all[i] = atomic_exchange(&b->listeners[i].keyring, all[i]);
	all[b->listeners_n] = atomic_exchange(&b->dials, all[b->listeners_n]);
}

void keyrings_free(struct keyring **all, size_t n)
{
	for (size_t i = 0; all != NULL && i < n; i++)
		keyring_unref(all[i]);
	free(all);
}

/* Whether the kernel could seal what is sent (tls.rst); a socket that is not connected yet is told
 * so, if it knows the name at all. */
static const char *ktls_problem(void)
{
	static char problem[128];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), err = 0;

	if (fd < 0 ||
	    (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) != 0 && errno != ENOTCONN))
		err = errno;
	if (fd >= 0)
		close(fd);
	if (err == 0)
		return NULL;
	snprintf(problem, sizeof(problem), "%s%s", strerror(err),
		 err == ENOENT ? "; try: modprobe tls" : "");
	return problem;
}

void keyrings_say(const struct config *config)
{
	for (size_t i = 0; i < config->listens_n; i++) {
		const struct config_listen *c = &config->listens[i];
		const char *problem;

		if (!c->tls.present || c->tls.ktls == KTLS_OFF)
			continue;
		problem = ktls_problem();
		log_info("listen \"%s\": ktls: the kernel has %s%s%s: records are sealed by the "
			 "broker",
			 c->title, problem == NULL ? "it, but it is not made use of yet" : "none (",
			 problem == NULL ? "" : problem, problem == NULL ? "" : ")");
	}
}

void keyrings_warn(const struct broker *b)
{
	int64_t now_s = (int64_t)(clock_wall_ns() / NS_PER_S), at_s;
	const char *title;

	for (size_t i = 0; i < b->listeners_n; i++) {
		const struct keyring *keyring = atomic_load(&b->listeners[i].keyring);

		for (size_t n = 0; keyring != NULL && keyring_expiry(keyring, n, &title, &at_s);
		     n++)
			if (at_s - now_s < WARN_DAYS * DAY_S)
				log_warn("%s: certificate \"%s\" %s %" PRId64
					 " days: renew it and send SIGHUP",
					 b->listeners[i].address, title,
					 at_s < now_s ? "has expired and nobody trusts it since"
						      : "expires in",
					 (at_s < now_s ? now_s - at_s : at_s - now_s) / DAY_S);
	}
}
