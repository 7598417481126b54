#include "broker/output.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"
#include "topic/block.h"

enum { BODY_PIECE_BYTES = 256 << 10 }; /* of one send */

bool output_add(struct output *o, struct span text)
{
	char *reply;

	if (text.len == 0)
		return true;
	reply = memory_resize(o->reply, o->reply_len + text.len);
	if (reply == NULL)
		return false;
	memcpy(reply + o->reply_len, text.data, text.len);
	o->reply = reply;
	o->reply_len += (uint32_t)text.len;
	o->waits = true;
	return true;
}

void output_add_body(struct output *o, struct block *block, struct span body)
{
	assert(o->body == NULL);
	block_ref(block, 1);
	o->body = block;
	o->left = body;
	o->waits = true;
}

unsigned output_gather(struct output *o, struct iovec *spans, unsigned max)
{
	unsigned n = 0;

	if (o->flying_len == 0 && o->reply_len > 0) {
		o->flying = o->reply;
		o->flying_len = o->reply_len;
		o->flown = 0;
		o->reply = NULL;
		o->reply_len = 0;
	}
	if (o->flying_len > 0)
		spans[n++] = (struct iovec){ o->flying + o->flown, o->flying_len - o->flown };
	if (o->body != NULL && o->reply_len == 0 && n < max) {
		size_t piece = o->left.len < BODY_PIECE_BYTES ? o->left.len : BODY_PIECE_BYTES;

		/* Only read by the kernel; iovec knows no const. */
		spans[n++] = (struct iovec){ (void *)(uintptr_t)o->left.data, piece };
	}
	return n;
}

size_t output_sent(struct output *o, size_t bytes, size_t *body)
{
	*body = 0;
	if (o->flying_len > 0) {
		size_t left = o->flying_len - o->flown, n = bytes < left ? bytes : left;

		o->flown += (uint32_t)n;
		bytes -= n;
		if (o->flown == o->flying_len) {
			memory_free(o->flying);
			o->flying = NULL;
			o->flying_len = 0;
		}
	}
	if (o->body != NULL && bytes > 0) {
		*body = bytes < o->left.len ? bytes : o->left.len;
		o->left = span_skip(o->left, *body);
		if (o->left.len == 0) {
			block_unref(o->body);
			o->body = NULL;
		}
	}
	o->waits = o->reply_len > 0 || o->flying_len > 0 || o->body != NULL;
	return bytes - *body;
}

void output_release(struct output *o)
{
	memory_free(o->reply);
	memory_free(o->flying);
	if (o->body != NULL)
		block_unref(o->body);
}
