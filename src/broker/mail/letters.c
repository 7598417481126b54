#include "broker/letters.h"

#include <stdlib.h>
#include <string.h>

#include "topic/block.h"

struct subscribe_letter *subscribe_letter_new(struct span name, uint64_t hash,
					      const struct wire *wire)
{
	struct subscribe_letter *l = calloc(1, sizeof(*l) + name.len + wire->parameter.len);

	if (l == NULL)
		return NULL;
	l->letter.kind = LETTER_SUBSCRIBE;
	l->hash = hash;
	memcpy(l->bytes, name.data, name.len);
	l->name = (struct span){ l->bytes, name.len };
	l->wire = (struct wire){ wire->format, { l->bytes + name.len, wire->parameter.len } };
	if (wire->parameter.len > 0)
		memcpy(l->bytes + name.len, wire->parameter.data, wire->parameter.len);
	return l;
}

void subscribe_letter_free(struct subscribe_letter *l)
{
	stretch_release(&l->past);
	if (l->retained != NULL)
		block_unref(l->retained);
	free(l);
}

struct topic_letter *topic_letter_new(enum letter_kind kind, struct span name, uint64_t hash)
{
	struct topic_letter *l = calloc(1, sizeof(*l) + name.len);

	if (l == NULL)
		return NULL;
	l->letter.kind = kind;
	l->hash = hash;
	if (name.len > 0)
		memcpy(l->bytes, name.data, name.len);
	l->name = (struct span){ l->bytes, name.len };
	return l;
}

struct gap_letter *gap_letter_new(struct span name, uint64_t hash)
{
	struct gap_letter *l = calloc(1, sizeof(*l) + name.len);

	if (l == NULL)
		return NULL;
	l->letter.kind = LETTER_GAP;
	l->hash = hash;
	memcpy(l->bytes, name.data, name.len);
	l->name = (struct span){ l->bytes, name.len };
	return l;
}

void sequenced_letter_free(struct sequenced_letter *l)
{
	block_unref(l->block);
	free(l);
}
