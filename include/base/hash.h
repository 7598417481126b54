#ifndef BASE_HASH_H
#define BASE_HASH_H

/*
 * SipHash-1-3 (Aumasson, Bernstein: "SipHash: a fast short-input PRF") with a key of this process,
 * so that nobody who chooses names can choose collisions. Any thread once hash_seed has been
 * called.
 */

#include <stddef.h>
#include <stdint.h>

/* Draws the key from getrandom(2); called once before threads start. A test may give its own. */
void hash_seed(void);
void hash_seed_with(uint64_t k0, uint64_t k1);

uint64_t hash_bytes(const void *data, size_t len);

/* Unpredictable and never 0: for epochs. Not a secret. Any thread. */
uint64_t hash_unique(void);

#endif
