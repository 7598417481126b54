#ifndef SESSION_OPENING_H
#define SESSION_OPENING_H

/*
 * What comes before a connection's protocol is known: a proxy's header (protocol/proxy.h), and the
 * first bytes, which decide once (protocol/sniff.h). The shard's thread only.
 */

#include <stdbool.h>

#include "base/span.h"
#include "broker/protocol.h"

struct deadline;

enum { CLIENT_HELLO = 0x16 }; /* the first byte of a TLS record with one (RFC 8446, 5.1) */

/* What struct protocol has of them. */
void proxied_received(struct connection *connection, struct span bytes);
void undecided_opened(struct connection *connection);
void undecided_received(struct connection *connection, struct span bytes);
/* What comes to a secure listener of NATS before INFO: a handshake, or nothing that counts. */
void hailed_received(struct connection *connection, struct span bytes);
/* To whoever has not said what he speaks nothing is said, if that may be several: he would take it
 * for the answer to what he is about to ask. */
const char *undecided_say(struct connection *connection, enum reason reason);
const char *opening_farewell(const struct connection *connection, bool bye);
bool opening_silent(const struct connection *connection);
/* A NATS client waits for the first word: the deadline's, where NATS is spoken among others. */
void undecided_is_silent(void *context, struct deadline *deadline);
void opening_free(struct connection *connection);

#endif
