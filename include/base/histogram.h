#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

/*
 * Counts of values in buckets whose width grows with the value, after HdrHistogram (Gil Tene):
 * every value is known to about 3 %. Plain memory, no allocation: zeroed is empty. One thread
 * writes; the same thread reads, or another one that has been handed a copy.
 */

#include <stdint.h>

enum {
	HISTOGRAM_STEP_BITS = 5, /* 32 steps per power of two */
	HISTOGRAM_POWERS = 42,   /* values up to 2^42, an hour in ns; larger ones count as that */
	HISTOGRAM_BUCKETS = (HISTOGRAM_POWERS - HISTOGRAM_STEP_BITS + 1) << HISTOGRAM_STEP_BITS,
};

struct histogram {
	uint64_t count, sum, max;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

static inline unsigned histogram_bucket(uint64_t value)
{
	unsigned power;

	if (value < 1u << HISTOGRAM_STEP_BITS)
		return (unsigned)value;
	if (value >> HISTOGRAM_POWERS)
		return HISTOGRAM_BUCKETS - 1;
	power = 63 - (unsigned)__builtin_clzll(value) - HISTOGRAM_STEP_BITS;
	return (power << HISTOGRAM_STEP_BITS) + (unsigned)(value >> power);
}

static inline void histogram_add_many(struct histogram *h, uint64_t value, uint64_t times)
{
	h->count += times;
	h->sum += value * times;
	if (value > h->max)
		h->max = value;
	h->buckets[histogram_bucket(value)] += times;
}

static inline void histogram_add(struct histogram *h, uint64_t value)
{
	histogram_add_many(h, value, 1);
}

/* The value below which this part (0.0 to 1.0) of what was added lies; 0 when nothing was. */
uint64_t histogram_quantile(const struct histogram *h, double part);
/* How many values up to 2^power there were, going on from where *bucket and *count stand: both 0 to
 * begin with, and powers in rising order. */
uint64_t histogram_upto(const struct histogram *h, unsigned power, unsigned *bucket,
			uint64_t *count);
void histogram_merge(struct histogram *into, const struct histogram *from);
/* What was added to now since then, an earlier copy of it. max is now's. */
void histogram_since(struct histogram *out, const struct histogram *now,
		     const struct histogram *then);
/* The smallest value that falls into the bucket. */
uint64_t histogram_bucket_floor(unsigned bucket);

#endif
