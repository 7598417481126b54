#include "broker/output.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"
#include "topic/block.h"

enum { BODY_PIECE_BYTES = 256 << 10 }; /* of one send */

/* Behind an OUTPUT_BODY. */
struct body {
	struct block *block; /* held */
	struct span left;
};

static struct body *body_of(const struct output *o)
{
	return (struct body *)(void *)(uintptr_t)(o + 1);
}

/* The place behind the last one. */
static struct output **end_of(struct output **at)
{
	while (*at != NULL)
		at = &(*at)->next;
	return at;
}

bool output_add(struct output **at, struct span text)
{
	struct output *o;
	uint32_t len;

	while (*at != NULL && ((*at)->kind != OUTPUT_REPLY || (*at)->next != NULL))
		at = &(*at)->next;
	len = *at != NULL ? (*at)->len : 0;
	o = memory_resize(*at, offsetof(struct output, text) + len + text.len);
	if (o == NULL)
		return false;
	if (*at == NULL) {
		o->next = NULL;
		o->flown = 0;
		o->kind = OUTPUT_REPLY;
	}
	*at = o;
	memcpy(o->text + len, text.data, text.len);
	o->len = len + (uint32_t)text.len;
	return true;
}

bool output_add_body(struct output **at, struct block *block, struct span body)
{
	struct output *o = memory_new(sizeof(*o) + sizeof(struct body));

	assert(output_body_left(*at) == 0);
	if (o == NULL)
		return false;
	block_ref(block, 1);
	o->next = NULL;
	o->kind = OUTPUT_BODY;
	*body_of(o) = (struct body){ block, body };
	*end_of(at) = o;
	return true;
}

unsigned output_gather(struct output *o, struct iovec *spans, unsigned max)
{
	unsigned n = 0;

	for (; o != NULL && n < max; o = o->next) {
		if (o->kind == OUTPUT_BODY) {
			struct span left = body_of(o)->left;
			size_t piece = left.len < BODY_PIECE_BYTES ? left.len : BODY_PIECE_BYTES;

			/* Only read by the kernel; iovec knows no const. */
			spans[n++] = (struct iovec){ (void *)(uintptr_t)left.data, piece };
			break;
		}
		o->kind = OUTPUT_FLYING;
		spans[n++] = (struct iovec){ o->text + o->flown, o->len - o->flown };
	}
	return n;
}

/* Whether all of the first one is gone, with these bytes. */
static bool first_sent(struct output *o, size_t *bytes, size_t *body)
{
	struct body *b = body_of(o);
	size_t left = o->kind == OUTPUT_BODY ? b->left.len : o->len - o->flown;
	size_t n = *bytes < left ? *bytes : left;

	*bytes -= n;
	if (o->kind == OUTPUT_BODY) {
		*body = n;
		b->left = span_skip(b->left, n);
	} else {
		o->flown += (uint32_t)n;
	}
	return n == left;
}

static void free_first(struct output **at)
{
	struct output *o = *at;

	*at = o->next;
	if (o->kind == OUTPUT_BODY)
		block_unref(body_of(o)->block);
	memory_free(o);
}

size_t output_sent(struct output **at, size_t bytes, size_t *body)
{
	*body = 0;
	while (*at != NULL && (*at)->kind != OUTPUT_REPLY && first_sent(*at, &bytes, body))
		free_first(at);
	return bytes;
}

void output_release(struct output **at)
{
	while (*at != NULL)
		free_first(at);
}

size_t output_unsaid(const struct output *o)
{
	size_t n = 0;

	for (; o != NULL; o = o->next)
		n += o->kind == OUTPUT_REPLY ? o->len : 0;
	return n;
}

size_t output_held(const struct output *o)
{
	size_t n = 0;

	for (; o != NULL; o = o->next)
		n += o->kind != OUTPUT_BODY ? o->len : 0;
	return n;
}

size_t output_body_left(const struct output *o)
{
	while (o != NULL && o->kind != OUTPUT_BODY)
		o = o->next;
	return o != NULL ? body_of(o)->left.len : 0;
}
