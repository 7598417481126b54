#include "base/hash.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"

static uint64_t key[2];
static atomic_uint_fast64_t unique;

void hash_seed_with(uint64_t k0, uint64_t k1)
{
	key[0] = k0;
	key[1] = k1;
	/* What is unique follows from the key, or a test could not be repeated. */
	atomic_store(&unique, 0);
}

void hash_seed(void)
{
	uint64_t k[2];

	/* Before the kernel's pool is ready, at boot, time and address must do. */
	if (getrandom(k, sizeof(k), GRND_NONBLOCK) != (ssize_t)sizeof(k)) {
		k[0] = clock_wall_ns();
		k[1] = clock_now_ns() ^ (uint64_t)(uintptr_t)&k;
	}
	hash_seed_with(k[0], k[1]);
}

static inline uint64_t rotl(uint64_t x, unsigned n)
{
	return x << n | x >> (64 - n);
}

static inline void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = rotl(v[1], 13) ^ v[0];
	v[3] = rotl(v[3], 16) ^ v[2];
	v[0] = rotl(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = rotl(v[1], 17) ^ v[2];
	v[3] = rotl(v[3], 21) ^ v[0];
	v[2] = rotl(v[2], 32);
}

uint64_t hash_bytes(const void *data, size_t len)
{
	const unsigned char *p = data;
	uint64_t v[4] = { key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du,
			  key[0] ^ 0x6c7967656e657261u, key[1] ^ 0x7465646279746573u };
	uint64_t last = (uint64_t)len << 56, word;

	for (; len >= 8; p += 8, len -= 8) {
		memcpy(&word, p, 8);
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
	}
	for (size_t i = 0; i < len; i++)
		last |= (uint64_t)p[i] << 8 * i;
	v[3] ^= last;
	sip_round(v);
	v[0] ^= last;
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t hash_unique(void)
{
	uint64_t n = atomic_fetch_add(&unique, 1), h = hash_bytes(&n, sizeof(n));

	return h != 0 ? h : 1;
}
