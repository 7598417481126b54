#ifndef TESTS_UNIT_RANDOM_H
#define TESTS_UNIT_RANDOM_H

/* Numbers that look random and are the same in every run (xorshift64; Marsaglia, 2003). */

#include <stddef.h>
#include <stdint.h>

static uint64_t seed = 88172645463325252u;

static inline uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static inline size_t below(size_t n)
{
	return (size_t)(next_random() % n);
}

#endif
