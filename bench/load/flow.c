#include "load/flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum {
	CACHE_BYTES = 64 * 1024, /* of a paced flow's messages, at least 4 */
	TRACKED_SECONDS = 16,    /* of a paced flow: falling behind by more fails the run */
	TRACKED_MAX = 1 << 20,
};

static uint64_t power_of_two(uint64_t least)
{
	uint64_t n = 1;

	while (n < least)
		n *= 2;
	return n;
}

static char *ring_new(const struct flow *f, const struct wire_frame *frame, size_t slot_bytes)
{
	const struct message m = { .run = f->run, .topic = f->topic, .publisher = f->publisher };
	char *ring = malloc(f->slots * slot_bytes);

	for (uint64_t i = 0; ring != NULL && i < f->slots; i++) {
		char *at = ring + i * slot_bytes;

		memcpy(at, frame->prefix.bytes, frame->prefix.len);
		at += frame->prefix.len;
		message_write(at, &m, f->filler);
		memcpy(at + f->filler->message_bytes, frame->suffix.bytes, frame->suffix.len);
	}
	return ring;
}

static bool text_equal(const struct wire_text *a, const struct wire_text *b)
{
	return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

int flow_init(struct flow *f, const struct flow_params *p)
{
	struct wire_frame out, in;
	size_t bytes = p->filler->message_bytes;

	*f = (struct flow){ .topic = p->topic,
			    .publisher = p->publisher,
			    .run = p->run,
			    .filler = p->filler,
			    .period_ns = p->period_ns,
			    .threads = p->threads,
			    .owner = p->owner };
	atomic_init(&f->built, 0);
	atomic_init(&f->end, FLOW_UNENDED);
	p->wire->published(&out, p->topic_name, bytes);
	f->out_prefix = out.prefix.len;
	f->out_bytes = out.prefix.len + bytes + out.suffix.len;
	if (p->window > 0) {
		f->slots = power_of_two(p->window);
		f->tracked = f->slots;
		f->intended_ns = calloc(f->slots, sizeof(*f->intended_ns));
		if (f->intended_ns == NULL)
			return -ENOMEM;
	} else {
		double behind = (double)(TRACKED_SECONDS * NS_PER_S) / p->period_ns + 64;

		f->slots = power_of_two(CACHE_BYTES / f->out_bytes);
		if (f->slots < 4)
			f->slots = 4;
		f->tracked =
			behind < (double)TRACKED_MAX ? power_of_two((uint64_t)behind) : TRACKED_MAX;
		if (f->tracked < f->slots)
			f->tracked = f->slots;
	}
	f->out = ring_new(f, &out, f->out_bytes);
	if (f->out == NULL)
		return -ENOMEM;
	if (p->threads > 1) {
		f->left = malloc(f->tracked * sizeof(*f->left));
		if (f->left == NULL)
			return -ENOMEM;
		for (uint64_t i = 0; i < f->tracked; i++)
			atomic_init(&f->left[i], p->threads);
	}
	if (p->wire->delivered == NULL)
		return 0;
	p->wire->delivered(&in, p->delivered_name, bytes, &p->asked);
	f->in_prefix = in.prefix.len;
	f->in_bytes = in.prefix.len + bytes + in.suffix.len;
	if (text_equal(&in.prefix, &out.prefix) && text_equal(&in.suffix, &out.suffix))
		f->in = f->out;
	else
		f->in = ring_new(f, &in, f->in_bytes);
	return f->in != NULL ? 0 : -ENOMEM;
}

void flow_release(struct flow *f)
{
	if (f->in != f->out)
		free(f->in);
	free(f->out);
	free(f->intended_ns);
	free(f->left);
}

int flow_view_init(struct flow_view *v, struct flow *f, uint32_t subscribers)
{
	*v = (struct flow_view){ .flow = f, .subscribers = subscribers };
	atomic_init(&v->done, 0);
	if (subscribers == 0)
		return 0;
	v->arrived = calloc(f->tracked, sizeof(*v->arrived));
	return v->arrived != NULL ? 0 : -ENOMEM;
}

void flow_view_release(struct flow_view *v)
{
	free(v->arrived);
}

static struct message message_of(const struct flow *f, uint64_t seq)
{
	return (struct message){ .run = f->run,
				 .topic = f->topic,
				 .publisher = f->publisher,
				 .seq = seq,
				 .intended_ns = flow_intended_ns(f, seq) };
}

void flow_build(struct flow *f, unsigned n, uint64_t now_ns)
{
	uint64_t seq = atomic_load_explicit(&f->built, memory_order_relaxed);

	for (unsigned i = 0; i < n; i++, seq++) {
		uint64_t slot = seq & (f->slots - 1);
		char *out = f->out + slot * f->out_bytes + f->out_prefix;
		struct message m;

		if (f->intended_ns != NULL)
			f->intended_ns[slot] = now_ns;
		m = message_of(f, seq);
		message_rewrite(out, &m, f->filler);
		if (f->in != NULL && f->in != f->out)
			memcpy(f->in + slot * f->in_bytes + f->in_prefix, out,
			       f->filler->message_bytes);
	}
	atomic_store_explicit(&f->built, seq, memory_order_release);
}

void flow_rebuild(const struct flow *f, uint64_t seq, char *buf)
{
	const struct message m = message_of(f, seq);

	/* What surrounds the payload is the same in every slot. */
	memcpy(buf, f->in, f->in_prefix);
	memcpy(buf + f->in_prefix + f->filler->message_bytes,
	       f->in + f->in_prefix + f->filler->message_bytes,
	       f->in_bytes - f->in_prefix - f->filler->message_bytes);
	message_write(buf + f->in_prefix, &m, f->filler);
}
