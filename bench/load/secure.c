#include "load/secure.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "engine/keyring.h"
#include "load/client.h"
#include "load/worker.h"

/* Keeps the ticket that has just come: the newest one is good for longest. */
static int remember(SSL *ssl, SSL_SESSION *session)
{
	const struct cipher *cipher = SSL_get_app_data(ssl);
	const struct tls *tls = cipher->context;
	const struct client *c = tls->owner;

	SSL_SESSION_free(c->worker->secure.session);
	c->worker->secure.session = session;
	return 1; /* it is ours now */
}

static _Noreturn void refuse(const char *said)
{
	const char *why = strstr(said, "ca: ");

	fprintf(stderr, "broker-load: --ca: %s", why != NULL ? why + 4 : said);
	exit(2);
}

struct keyring *secure_load(const struct options *o)
{
	static const char suites[] = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
				     "TLS_CHACHA20_POLY1305_SHA256";
	char ca[4096], none[] = "";
	struct config_upstream_tls config = { .ca = ca, .certificate = none, .key = none };
	struct keyring *keyring;
	char *said = NULL;
	size_t said_len;
	FILE *errors;
	int err = -ENOMEM;

	if (!o->tls)
		return NULL;
	keyring_begin();
	snprintf(ca, sizeof(ca), "%s", o->ca != NULL ? o->ca : "");
	errors = open_memstream(&said, &said_len);
	if (errors != NULL) {
		err = keyring_load_client(&config, &keyring, errors);
		fclose(errors);
	}
	if (err != 0)
		refuse(said != NULL ? said : "out of memory\n");
	free(said);
	/* What is fastest first, as browsers have it: servers that leave the choice to their
	 * clients are measured with the cipher of those that do not. */
	if (SSL_CTX_set_ciphersuites(keyring_library(keyring), suites) != 1)
		refuse("the library has no cipher suites\n");
	if (o->insecure)
		SSL_CTX_set_verify(keyring_library(keyring), SSL_VERIFY_NONE, NULL);
	if (o->resume) {
		SSL_CTX_set_session_cache_mode(keyring_library(keyring),
					       SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
		SSL_CTX_sess_set_new_cb(keyring_library(keyring), remember);
	}
	return keyring;
}

int secure_dial(struct worker *w, struct client *c)
{
	struct run *run = w->run;
	int err = socket_secure_dialled(&w->sockets, &c->socket, run->keyring,
					run->options->server_name);

	if (err == 0 && w->secure.session != NULL &&
	    SSL_set_session(c->socket.tls->cipher->ssl, w->secure.session) != 1)
		err = -ENOMEM;
	return err;
}

void secure_done(struct worker *w, struct client *c)
{
	const SSL *ssl = c->socket.tls->cipher->ssl;

	w->secure.version = SSL_get_version(ssl);
	w->secure.cipher_suite = SSL_CIPHER_get_name(SSL_get_current_cipher(ssl));
}

void secure_release(struct secure *s)
{
	SSL_SESSION_free(s->session);
	s->session = NULL;
}

const char *secure_problem(const struct socket *s, int error)
{
	const char *why = s->tls != NULL ? cipher_problem(s->tls->cipher) : NULL;

	switch (-error) {
	case TLS_TRUNCATED:
		return "the broker closed the connection without a close_notify";
	case TLS_REFUSED:
		return why != NULL ? why : "no TLS handshake came of it";
	case TLS_BROKEN:
		return why != NULL ? why : "what came is no TLS";
	default:
		return NULL;
	}
}
