#include "session/intake.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"
#include "broker/connection.h"
#include "broker/shard.h"
#include "session/gather.h"
#include "session/shared.h"
#include "topic/block.h"

enum {
	TAKE_COST = 2,              /* of one call, about 0.5 us */
	COPY_BYTES = 4 << 10,       /* collected in about a quarter of a microsecond */
	JOIN_BYTES = 256,           /* put behind the beginning of a command at first */
	KEPT_BYTES_MIN = 64,        /* of memory for what is kept */
	BODY_ROOM_BYTES = 64 << 10, /* for what comes next of a block, or as much as has come */
	REPLY_BYTES_MAX =
		256 << 10, /* that the client does not take: then nothing is done for it */
};

static size_t kept_n(const struct intake *in)
{
	return in->end - in->at;
}

static struct span kept_span(const struct intake *in)
{
	return (struct span){ in->kept + in->at, kept_n(in) };
}

static void forget_kept(struct intake *in)
{
	memory_free(in->kept);
	in->kept = NULL;
	in->at = in->end = in->room = in->refused = 0;
}

/* Puts bytes behind what is kept. False: out of memory, the connection is closed. Memory grows by
 * doubling and is moved in when at least half of it is free, so that each byte is copied a few
 * times at most, however it comes. */
static bool keep(struct intake *in, struct span bytes)
{
	size_t n = kept_n(in), room = in->room;
	char *grown;

	if (in->end + bytes.len > in->room && n + bytes.len > in->room / 2) {
		room = n + bytes.len > 2 * room ? n + bytes.len : 2 * room;
		room = room < KEPT_BYTES_MIN ? KEPT_BYTES_MIN : room;
	}
	if (in->end + bytes.len > in->room && in->at > 0) {
		memmove(in->kept, in->kept + in->at, n);
		in->at = 0;
		in->end = n;
	}
	if (room > in->room) {
		grown = memory_resize(in->kept, room);
		if (grown == NULL) {
			connection_close(in->connection, DROP_MEMORY);
			return false;
		}
		in->kept = grown;
		in->room = room;
	}
	memcpy(in->kept + in->end, bytes.data, bytes.len);
	in->end += bytes.len;
	return true;
}

void intake_init(struct intake *in, struct connection *c, const struct intake_use *use)
{
	*in = (struct intake){ .use = use, .connection = c };
	list_init(&in->runnable);
	in->kept = c->input;
	in->end = in->room = c->input_len;
	c->input = NULL;
	c->input_len = 0;
}

void intake_release(struct intake *in)
{
	list_remove(&in->runnable);
	forget_kept(in);
	if (in->block != NULL)
		block_unref(in->block);
	in->block = NULL;
}

static struct intakes *intakes_of(const struct connection *c)
{
	return &session_shared(c->shard)->intakes;
}

bool intake_take(struct intake **place, struct connection *c, const struct intake_use *use)
{
	struct intakes *all = intakes_of(c);
	void *memory = all->spare;

	if (*place != NULL)
		return true;
	if (memory != NULL) {
		all->spare = *(void **)memory;
		all->spare_n--;
		memset(memory, 0, INTAKE_BYTES_MAX);
	} else {
		memory = memory_new_zeroed(INTAKE_BYTES_MAX);
	}
	if (memory == NULL) {
		connection_close(c, DROP_MEMORY);
		return false;
	}
	*place = memory;
	intake_init(*place, c, use);
	(*place)->place = place;
	return true;
}

void intake_give_back(struct intake *in)
{
	struct intakes *all;

	if (in == NULL)
		return;
	all = intakes_of(in->connection);
	if (in->use->release != NULL)
		in->use->release(in);
	intake_release(in);
	*in->place = NULL;
	if (all->spare_n == INTAKES_SPARE_MAX) {
		memory_free(in);
		return;
	}
	*(void **)in = all->spare;
	all->spare = in;
	all->spare_n++;
}

/* A client who has to wait, or has sent its last, has one until that is over. */
static void give_back_if_idle(struct intake *in)
{
	const struct connection *c = in->connection;

	if (in->place == NULL || in->running || in->held || in->ended || kept_n(in) > 0 ||
	    in->block != NULL || !list_empty(&in->runnable) || c->socket.paused ||
	    !list_empty(&c->waiting))
		return;
	if (in->use->idle == NULL || in->use->idle(c))
		intake_give_back(in);
}

void intake_hold(struct intake *in)
{
	in->held = true;
}

void intake_again(struct intake *in)
{
	in->again = true;
}

void intake_need(struct intake *in, size_t bytes)
{
	in->needed = bytes;
}

void intake_collect(struct intake *in, struct block *b, size_t bytes)
{
	assert(in->block == NULL && bytes > 0);
	in->block = b;
	in->left = bytes;
}

/* ---- collecting ---- */

/* Adds to the block what there is of it at the beginning of the bytes. Returns how many; fewer than
 * there are when it is whole, or when there is no memory and the connection is closed. */
static size_t collect(struct intake *in, struct span bytes)
{
	size_t n = bytes.len < in->left ? bytes.len : in->left;
	struct block *b = block_reserve(in->block, n);

	if (b == NULL) {
		connection_error(in->connection, REASON_MEMORY);
		return 0;
	}
	/* It may have been received where it belongs. */
	if (bytes.data != block_body(b) + b->len) {
		memcpy(block_body(b) + b->len, bytes.data, n);
		reactor_spend(&in->connection->shard->reactor, n / COPY_BYTES);
	}
	b->len += n;
	in->block = b;
	in->left -= n;
	if (in->left == 0) {
		in->block = NULL;
		in->use->collected(in->connection, b);
	}
	return n;
}

/*
 * While more of a block is to come than a receive buffer holds, it is received straight into it.
 * Room is made for as much again as has come: a length that is only announced costs nothing.
 */
static void receive_in_place(struct intake *in)
{
	struct connection *c = in->connection;
	size_t room;
	struct block *b;

	if (in->block == NULL || in->wrapped || in->ended || kept_n(in) > 0 || c->socket.paused ||
	    c->socket.recv_armed || c->socket.into != NULL || c->socket.multishot ||
	    in->left < c->shard->config->engine.recv_buffer_bytes)
		return;
	room = in->block->len > BODY_ROOM_BYTES ? in->block->len : BODY_ROOM_BYTES;
	room = room < in->left ? room : in->left;
	b = block_reserve(in->block, room);
	if (b == NULL)
		return;
	in->block = b;
	room = b->capacity - b->len;
	socket_receive_into(&c->shard->sockets, &c->socket, block_body(b) + b->len,
			    room < in->left ? room : in->left);
}

/* ---- commands ---- */

/* Whether there is no reason to wait with the next command. */
static bool ready(const struct intake *in)
{
	const struct connection *c = in->connection;

	return c->state == CONNECTION_OPEN && !in->held && list_empty(&c->waiting) &&
	       output_unsaid(c->output) < REPLY_BYTES_MAX;
}

static size_t give(struct intake *in, struct span bytes)
{
	size_t used;

	in->needed = 0;
	in->again = false;
	used = in->use->take(in->connection, bytes);
	assert(used <= bytes.len);
	return used;
}

/* The next piece of work on what is kept, to which some of the bytes are joined where that is not
 * enough: no more than it takes to end what has begun, or the next few of that. Returns how many
 * bytes are done with. *more: whether there may be more to do. */
static size_t go_on_with_kept(struct intake *in, struct span bytes, bool *more)
{
	size_t before = kept_n(in), joined = 0, used;

	if (in->block == NULL && (before <= in->refused || before < in->needed)) {
		joined = before > JOIN_BYTES ? before : JOIN_BYTES;
		if (in->needed > before + joined)
			joined = in->needed - before;
		joined = joined < bytes.len ? joined : bytes.len;
		*more = joined > 0 && keep(in, (struct span){ bytes.data, joined }) &&
			kept_n(in) >= in->needed;
		if (!*more)
			return joined;
	}
	used = in->block != NULL ? collect(in, kept_span(in)) : give(in, kept_span(in));
	*more = used > 0 || in->again || joined < bytes.len;
	in->refused = used > 0 || in->held || in->again ? 0 : kept_n(in);
	if (used < before) {
		in->at += used;
		return joined;
	}
	/* What is left of it is where it came from, too. */
	forget_kept(in);
	return used - before;
}

/* Works through what is kept and then the bytes, as far as it may and there is time. Returns the
 * rest of the bytes. */
static struct span work(struct intake *in, struct span bytes)
{
	struct reactor *r = &in->connection->shard->reactor;
	bool more = true;
	size_t used;

	while (more && ready(in) && (kept_n(in) > 0 || bytes.len > 0)) {
		if (kept_n(in) > 0) {
			used = go_on_with_kept(in, bytes, &more);
		} else if (in->block != NULL) {
			used = collect(in, bytes);
		} else {
			used = bytes.len >= in->needed ? give(in, bytes) : 0;
			more = used > 0 || in->again;
			in->refused = more || in->held ? 0 : bytes.len;
		}
		bytes = span_skip(bytes, used);
		reactor_spend(r, TAKE_COST);
		if (reactor_spent(r) && more) {
			list_append(&intakes_of(in->connection)->runnable, &in->runnable);
			break;
		}
	}
	return bytes;
}

/* Sees to how much may come. */
static void settle(struct intake *in)
{
	struct connection *c = in->connection;
	struct sockets *sockets = &c->shard->sockets;
	bool waits = !ready(in) || !list_empty(&in->runnable);

	if (waits && kept_n(in) >= INTAKE_WAITING_BYTES)
		socket_pause(sockets, &c->socket);
	else if (c->socket.paused && list_empty(&c->waiting))
		socket_receive(sockets, &c->socket);
	receive_in_place(in);
}

static void run(struct intake *in, struct span bytes)
{
	struct connection *c = in->connection;

	in->running = true;
	gather_begin(c, in->use->publishing);
	if (list_empty(&in->runnable))
		bytes = work(in, bytes);
	gather_end(c);
	in->running = false;
	if (c->state == CONNECTION_OPEN && bytes.len > 0)
		(void)keep(in, bytes);
	if (c->state != CONNECTION_OPEN) {
		list_remove(&in->runnable);
		forget_kept(in);
		return;
	}
	settle(in);
	/* Half a command at the end of everything is no command. */
	if (in->ended && ready(in) && list_empty(&in->runnable))
		connection_goodbye(c);
	else if (!c->socket.sending && c->output != NULL)
		connection_turn(c);
}

void intake_received(struct intake *in, struct span bytes)
{
	run(in, bytes);
	give_back_if_idle(in);
}

void intake_ended(struct intake *in)
{
	in->ended = true;
	intake_resume(in);
}

void intake_resume(struct intake *in)
{
	if (in == NULL)
		return;
	in->held = false;
	if (in->running || !list_empty(&in->runnable) || in->connection->state != CONNECTION_OPEN)
		return;
	if (ready(in) && (kept_n(in) > 0 || in->ended))
		run(in, (struct span){ "", 0 });
	else
		settle(in);
	give_back_if_idle(in);
}

uint64_t intake_held(const struct intake *in)
{
	return in->room + (in->block != NULL ? block_bytes(in->block) : 0);
}

void intakes_init(struct shard *s)
{
	list_init(&session_shared(s)->intakes.runnable);
}

void intakes_release(struct shard *s)
{
	struct intakes *all = &session_shared(s)->intakes;
	void *next;

	for (void *memory = all->spare; memory != NULL; memory = next) {
		next = *(void **)memory;
		memory_free(memory);
	}
	*all = (struct intakes){ .spare = NULL };
}

bool intakes_go_on(struct shard *s)
{
	struct list *runnable = &session_shared(s)->intakes.runnable, *l;

	if (list_empty(runnable))
		return false;
	reactor_part(&s->reactor, PART_CLIENTS);
	do {
		l = list_take(runnable);
		intake_received(LIST_ENTRY(l, struct intake, runnable), (struct span){ "", 0 });
	} while (!list_empty(runnable) && !reactor_spent(&s->reactor));
	return !list_empty(runnable);
}
