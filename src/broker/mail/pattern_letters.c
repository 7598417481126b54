#include "broker/pattern_letters.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "topic/block.h"

struct pattern_asking *pattern_asking_new(const struct pattern *of, const struct wire *wire,
					  unsigned homes)
{
	struct pattern_asking *a =
		calloc(1, sizeof(*a) + homes * sizeof(a->letters[0]) + wire->parameter.len);
	char *parameter;

	if (a == NULL)
		return NULL;
	parameter = (char *)&a->letters[homes];
	if (wire->parameter.len > 0)
		memcpy(parameter, wire->parameter.data, wire->parameter.len);
	a->wire = (struct wire){ wire->format, { parameter, wire->parameter.len } };
	a->key.hash = of->named.hash;
	a->key.len = of->named.name.len;
	memcpy(a->key.bytes, of->named.name.data, a->key.len);
	a->letters_n = a->unanswered = homes;
	list_init(&a->link);
	for (unsigned i = 0; i < homes; i++) {
		a->letters[i].letter.kind = LETTER_PATTERN;
		a->letters[i].asking = a;
		list_init(&a->letters[i].link);
	}
	return a;
}

void pattern_asking_free(struct pattern_asking *a)
{
	struct named *d;
	size_t at = 0;

	for (unsigned i = 0; i < a->letters_n; i++) {
		struct pattern_letter *l = &a->letters[i];

		while (l->newest_n > 0)
			block_unref(l->newest[--l->newest_n].block);
		memory_free(l->newest);
	}
	while ((d = table_next(&a->delivered, &at)) != NULL)
		memory_free(d);
	table_release(&a->delivered);
	free(a);
}

void pattern_asking_note(struct pattern_asking *a, const struct block *b)
{
	struct span name = block_name(b);
	struct delivered *d;

	if (table_find(&a->delivered, b->hash, name) != NULL)
		return;
	d = memory_new(sizeof(*d) + name.len);
	if (d != NULL) {
		*d = (struct delivered){ .named = { b->hash, { d->name, name.len } },
					 .epoch = b->epoch,
					 .seq = b->seq };
		memcpy(d->name, name.data, name.len);
	}
	if (d == NULL || table_add(&a->delivered, &d->named) != 0) {
		memory_free(d);
		a->error = -ENOMEM;
	}
}

/* Whether it comes live as well, or something newer than it. */
static bool came(const struct pattern_asking *a, const struct newest *n)
{
	const struct delivered *d = (const struct delivered *)(const void *)table_find(
		&a->delivered, n->block->hash, block_name(n->block));

	return d != NULL && (d->epoch != n->block->epoch || d->seq <= n->seq);
}

uint32_t pattern_asking_newest(const struct pattern_asking *a, struct newest all[NEWEST_MAX])
{
	uint32_t n = 0;

	for (unsigned i = 0; i < a->letters_n; i++) {
		const struct pattern_letter *l = &a->letters[i];

		for (uint32_t k = 0; k < l->newest_n && n < NEWEST_MAX; k++)
			if (!came(a, &l->newest[k]))
				all[n++] = l->newest[k];
	}
	return n;
}

void pattern_letter_discard(struct pattern_letter *l)
{
	/* Nobody else does anything with it when letters are discarded. */
	if (--l->asking->unanswered == 0)
		pattern_asking_free(l->asking);
}

struct pattern_count *pattern_count_new(const struct pattern *of, unsigned shard)
{
	struct span key = of->named.name;
	struct pattern_count *l = malloc(sizeof(*l) + key.len);

	if (l == NULL)
		return NULL;
	*l = (struct pattern_count){ .letter = { LETTER_PATTERN_COUNT },
				     .holders = 1,
				     .shard = shard,
				     .hash = of->named.hash,
				     .key = { l->bytes, key.len } };
	memcpy(l->bytes, key.data, key.len);
	return l;
}

void pattern_count_unref(struct pattern_count *l)
{
	if (atomic_fetch_sub_explicit(&l->holders, 1, memory_order_acq_rel) == 1)
		free(l);
}

/* ---- groups ---- */

struct deal_letter *deal_letter_new(const struct pattern *p, struct block *b, uint32_t lots)
{
	struct span key = p->named.name;
	struct deal_letter *l = malloc(sizeof(*l) + lots * sizeof(l->lots[0]) + key.len);
	char *bytes;

	if (l == NULL)
		return NULL;
	bytes = (char *)&l->lots[lots];
	memcpy(bytes, key.data, key.len);
	*l = (struct deal_letter){ .letter = { LETTER_DEAL },
				   .block = b,
				   .hash = p->named.hash,
				   .key = { bytes, key.len } };
	block_ref(b, 1);
	return l;
}

bool deal_letter_refused(struct deal_letter *l, const struct refusal *refusals, uint32_t n)
{
	struct refusal *all = realloc(l->refusals, (l->refusals_n + n) * sizeof(*all));

	if (all == NULL)
		return false;
	memcpy(all + l->refusals_n, refusals, n * sizeof(*all));
	l->refusals = all;
	l->refusals_n += n;
	return true;
}

void deal_letter_free(struct deal_letter *l)
{
	block_unref(l->block);
	free(l->refusals);
	free(l);
}
