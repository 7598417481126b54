#ifndef BROKER_KEYRINGS_H
#define BROKER_KEYRINGS_H

/*
 * The keyrings (engine/keyring.h) of all listeners that have a tls section: read by the main thread
 * before anybody is served and again with each reload, where all of them are taken or none.
 */

#include <stddef.h>
#include <stdio.h>

struct broker;
struct config;
struct keyring;

/* How many there are: one for each of the broker's listeners, and what is shown to those whom it
 * dials. */
size_t keyrings_n(const struct broker *broker);
/* All of them, those of listeners found by their title; NULL for one without TLS. One that
 * the configuration does not know any more keeps what it has, until the restart that it takes. On
 * failure -EINVAL or -ENOMEM, with lines for people in errors. The caller frees. */
int keyrings_load(const struct broker *broker, const struct config *config, struct keyring ***out,
		  FILE *errors);
/* The same for nobody: whether they could be loaded. */
int keyrings_check(const struct config *config, FILE *errors);
/* The listeners have these from now on; what they had before is in the array then, and must stay
 * until every shard has seen that. */
void keyrings_take(struct broker *broker, struct keyring **keyrings);
void keyrings_free(struct keyring **keyrings, size_t n);
/* Says what came of the wish for the kernel's TLS, before the sandbox. */
void keyrings_say(const struct config *config);
/* Warns of certificates that end within two weeks; any thread. */
void keyrings_warn(const struct broker *broker);

#endif
