#include "session/gather.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "broker/connection.h"
#include "broker/shard.h"
#include "session/shared.h"
#include "topic/block.h"
#include "topic/topic.h"

static struct gather *gather_of(const struct connection *c)
{
	struct gather *g = &session_shared(c->shard)->gather;

	assert(g->connection == c);
	return g;
}

void gather_begin(struct connection *c, void (*publishing)(struct connection *, struct block *))
{
	struct gather *g = &session_shared(c->shard)->gather;

	assert(g->connection == NULL && g->block == NULL);
	g->connection = c;
	g->publishing = publishing;
}

static void publish(struct connection *c, struct block *b)
{
	struct gather *g = gather_of(c);

	b->shard = c->shard->id;
	b->slot = c->socket.slot;
	b->generation = socket_generation(&c->shard->sockets, &c->socket);
	if (g->publishing != NULL)
		g->publishing(c, b);
	connection_publish(c, block_trim(b));
}

void gather_flush(struct connection *c)
{
	struct gather *g = gather_of(c);
	struct block *b = g->block;

	if (b == NULL)
		return;
	g->block = NULL;
	g->usual -= g->usual / 8;
	if (g->usual < b->len)
		g->usual = b->len;
	b->form = RUN_RECORDS;
	if (b->messages == 1 && !g->extras) {
		b->form = RUN_ONE;
		b->len -= RECORD_HEAD_BYTES;
		memmove(block_body(b), block_body(b) + RECORD_HEAD_BYTES, b->len);
	}
	publish(c, b);
}

/* The block that a record of so many bytes goes into. NULL: out of memory. */
static struct block *room_for(struct connection *c, struct span topic, size_t bytes)
{
	struct gather *g = gather_of(c);

	if (g->block != NULL &&
	    (!span_equal(block_name(g->block), topic) || g->block->len + bytes > GATHER_BYTES_MAX))
		gather_flush(c);
	if (g->block != NULL)
		return block_reserve(g->block, bytes);
	g->extras = false;
	return block_new(topic, topic_hash(topic), bytes > g->usual ? bytes : g->usual);
}

int gather_add(struct connection *c, struct span topic, const struct record *r)
{
	struct gather *g = gather_of(c);
	size_t bytes = record_bytes(r);
	struct block *b = room_for(c, topic, bytes);

	if (b == NULL)
		return -ENOMEM;
	record_write(block_body(b) + b->len, r);
	b->len += bytes;
	b->messages++;
	g->block = b;
	g->extras |= bytes > RECORD_HEAD_BYTES + r->payload.len;
	return 0;
}

bool gather_more(struct connection *c, struct span payload)
{
	struct gather *g = gather_of(c);
	size_t bytes = RECORD_HEAD_BYTES + payload.len;
	struct block *b = g->block;

	if (b == NULL || b->len + bytes > GATHER_BYTES_MAX)
		return false;
	if (b->capacity - b->len < bytes)
		b = block_reserve(b, bytes);
	if (b == NULL)
		return false;
	(void)record_put(block_body(b) + b->len, payload);
	b->len += bytes;
	b->messages++;
	g->block = b;
	return true;
}

size_t gather_alike(struct connection *c, struct span done, size_t head, bool ends,
		    struct span rest)
{
	size_t tail = ends ? 2 : 0, payload_len = done.len - head - tail;
	const char *at = rest.data, *end = at + rest.len;

	while (at - rest.data < GATHER_ALIKE_BYTES && (size_t)(end - at) >= done.len &&
	       memcmp(at, done.data, head) == 0 &&
	       (!ends || memcmp(at + done.len - 2, "\r\n", 2) == 0) &&
	       gather_more(c, (struct span){ at + head, payload_len }))
		at += done.len;
	return (size_t)(at - rest.data);
}

bool gather_goes_to(const struct connection *c, struct span topic)
{
	const struct gather *g = gather_of(c);

	return g->block != NULL && span_equal(block_name(g->block), topic);
}

void gather_block(struct connection *c, struct block *b)
{
	gather_flush(c);
	publish(c, b);
}

void gather_end(struct connection *c)
{
	gather_flush(c);
	gather_of(c)->connection = NULL;
}
