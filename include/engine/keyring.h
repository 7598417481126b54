#ifndef ENGINE_KEYRING_H
#define ENGINE_KEYRING_H

/*
 * What is shown over TLS, and what is asked of the other side. A listener's: certificates with
 * their keys, chosen by the name that the client wants (RFC 6066, 3), who may sign clients'
 * certificates, and the keys of session tickets (RFC 5077, RFC 8446 4.6.1), which are the process's
 * and not a reactor's. One for dialling servers: who may sign theirs, and a certificate to show.
 * Made by the main thread, for good: a reload makes another one, and a connection keeps what it
 * began with. Counted; any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct config_tls;
struct config_upstream_tls;
struct keyring;
struct ssl_ctx_st;
struct stack_st_X509;
struct x509_st;

/* One of the protocols that a client may ask for (ALPN, RFC 7301), and what is left of the
 * listener's own choices then. */
struct keyring_protocol {
	const char *name;
	unsigned allows;
};

/* Before anything else here, once: the library's memory is counted from then on. */
void keyring_begin(void);
/*
 * Reads the files that the section names. choices: what a client who asks for nothing may speak;
 * protocols: with an entry without a name at the end. before: those that this listener had, whose
 * tickets go on; or NULL. On failure -EINVAL or -ENOMEM, and lines "file:line: key: what is wrong,
 * what would be right" to errors.
 */
int keyring_load(const struct config_tls *config, unsigned choices,
		 const struct keyring_protocol *protocols, const struct keyring *before,
		 struct keyring **out, FILE *errors);
/* The other side's: whom to trust, what to show where a certificate is asked for. The same of
 * errors. */
int keyring_load_client(const struct config_upstream_tls *config, struct keyring **out,
			FILE *errors);
struct keyring *keyring_ref(struct keyring *keyring);
void keyring_unref(struct keyring *keyring);

/* Whether clients are asked for a certificate. */
bool keyring_ask(const struct keyring *keyring);
/* The n-th certificate's title and the end of its time, in seconds since 1970; false: there are
 * not so many. */
bool keyring_expiry(const struct keyring *keyring, size_t n, const char **title, int64_t *at_s);

/* ---- for cipher.c ---- */

struct ssl_ctx_st *keyring_library(const struct keyring *keyring);
unsigned keyring_choices(const struct keyring *keyring);
/* The name in a client's certificate, of the kind that its listener wants; counted memory. NULL:
 * there is none. */
char *keyring_client_name(struct ssl_ctx_st *library, struct x509_st *certificate);
bool keyring_trust(const struct keyring *keyring, struct x509_st *certificate,
		   struct stack_st_X509 *chain);

#endif
