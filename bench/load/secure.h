#ifndef LOAD_SECURE_H
#define LOAD_SECURE_H

/*
 * TLS for the generator's connections: whom it trusts, and with --resume the session that a
 * worker's connections go on with. The engine's own transport does the rest (engine/tls.h), so that
 * what comes is opened by the same few calls on either side. secure.c alone knows the library.
 */

#include <stdbool.h>

#include "engine/socket.h"

struct client;
struct keyring;
struct options;
struct ssl_session_st;
struct worker;

/* What a worker knows of its secure connections. */
struct secure {
	struct ssl_session_st *session;     /* to be resumed; NULL: none yet, or none is wanted */
	const char *version, *cipher_suite; /* of the last handshake; static; NULL: none */
};

/* Reads what the options name; does not return if that cannot be used. NULL: no TLS is wanted. */
struct keyring *secure_load(const struct options *options);
/* Speaks TLS from here on; what it is told then is as in socket_secure_dialled. 0 or -ENOMEM. */
int secure_dial(struct worker *worker, struct client *client);
/* Its handshake has ended well. */
void secure_done(struct worker *worker, struct client *client);
void secure_release(struct secure *secure);
/* Why a connection has ended, for people; NULL: it is none of TLS's reasons. */
const char *secure_problem(const struct socket *socket, int error);

#endif
