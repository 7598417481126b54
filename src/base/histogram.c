#include "base/histogram.h"

uint64_t histogram_bucket_floor(unsigned bucket)
{
	unsigned power;

	if (bucket < 2u << HISTOGRAM_STEP_BITS)
		return bucket;
	power = (bucket >> HISTOGRAM_STEP_BITS) - 1;
	return (uint64_t)(bucket - (power << HISTOGRAM_STEP_BITS)) << power;
}

uint64_t histogram_quantile(const struct histogram *h, double part)
{
	uint64_t seen = 0, rank;

	if (h->count == 0)
		return 0;
	rank = (uint64_t)(part * (double)h->count);
	if (rank >= h->count)
		return h->max;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS - 1; i++) {
		uint64_t ceiling = histogram_bucket_floor(i + 1) - 1;

		seen += h->buckets[i];
		if (seen > rank)
			return ceiling < h->max ? ceiling : h->max;
	}
	return h->max;
}

uint64_t histogram_upto(const struct histogram *h, unsigned power, unsigned *bucket,
			uint64_t *count)
{
	while (*bucket + 1 < HISTOGRAM_BUCKETS &&
	       histogram_bucket_floor(*bucket + 1) - 1 <= UINT64_C(1) << power)
		*count += h->buckets[(*bucket)++];
	return *count;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	into->count += from->count;
	into->sum += from->sum;
	if (from->max > into->max)
		into->max = from->max;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		into->buckets[i] += from->buckets[i];
}

void histogram_since(struct histogram *out, const struct histogram *now,
		     const struct histogram *then)
{
	out->count = now->count - then->count;
	out->sum = now->sum - then->sum;
	out->max = now->max;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		out->buckets[i] = now->buckets[i] - then->buckets[i];
}
