#include <assert.h>
#include <string.h>

#include "base/memory.h"
#include "engine/cipher.h"
#include "engine/socket.h"
#include "sim.h"

/*
 * A cipher that hides nothing, in place of the library's, and the client's side of it, which stands
 * in the simulated kernel. Records are numbered and what they hold depends on their number, so that
 * one that comes twice, or after another one than it was made after, is found.
 *
 *   client: hello   broker: hello   client: finished   broker: ticket   then data, until a notice
 */

enum { RECORD_HELLO = 22, RECORD_DATA = 23, RECORD_NOTICE = 21, HEAD_BYTES = 4 };
enum { RECORD_MAX = HEAD_BYTES + CIPHER_RECORD_BYTES };

const char *const cipher_failure_names[CIPHER_FAILURES];

/* Records of one direction. */
struct records {
	uint32_t number;
	char bytes[RECORD_MAX]; /* of one: what has come of it, or is still to go */
	size_t at, n;
};

static unsigned char pad(uint32_t number, size_t i)
{
	return (unsigned char)(number * 31 + i * 7 + 90);
}

static void seal(struct records *r, unsigned char type, const char *data, size_t n)
{
	assert(n <= CIPHER_RECORD_BYTES);
	r->bytes[0] = (char)type;
	r->bytes[1] = (char)(n >> 8);
	r->bytes[2] = (char)n;
	r->bytes[3] = (char)pad(r->number, n);
	for (size_t i = 0; i < n; i++)
		r->bytes[HEAD_BYTES + i] = (char)(data[i] ^ pad(r->number, i));
	r->number++;
	r->at = 0;
	r->n = HEAD_BYTES + n;
}

/* Takes what it needs of the bytes for the next record. 0: there is not all of it; otherwise its
 * type, and its bytes are there in clear, *n of them. */
static unsigned open(struct records *r, struct span *in, size_t *n)
{
	size_t want = HEAD_BYTES, piece;

	for (;;) {
		if (r->n >= HEAD_BYTES)
			want = HEAD_BYTES + ((size_t)(unsigned char)r->bytes[1] << 8) +
			       (unsigned char)r->bytes[2];
		if (want > RECORD_MAX)
			sim_fail("a record of %zu bytes", want);
		if (r->n == want)
			break;
		piece = want - r->n < in->len ? want - r->n : in->len;
		if (piece == 0)
			return 0;
		memcpy(r->bytes + r->n, in->data, piece);
		*in = span_skip(*in, piece);
		r->n += piece;
	}
	*n = want - HEAD_BYTES;
	if ((unsigned char)r->bytes[3] != pad(r->number, *n))
		sim_fail("a record that is not number %u", r->number);
	for (size_t i = 0; i < *n; i++)
		r->bytes[HEAD_BYTES + i] = (char)(r->bytes[HEAD_BYTES + i] ^ pad(r->number, i));
	r->number++;
	r->n = 0;
	return (unsigned char)r->bytes[0];
}

/* ---- the broker's side ---- */

struct ssl_st {
	struct records in, out;
	unsigned hellos;
	size_t open_at, open_n; /* what of the last record has not been handed over */
	bool ended, receiving;
};

struct cipher *cipher_new(struct keyring *keyring, const char *server, cipher_out *out,
			  void *context)
{
	struct cipher *c = memory_new_zeroed(sizeof(*c));

	(void)keyring;
	if (server != NULL)
		sim_fail("nobody is dialled here by TLS");
	if (c == NULL)
		return NULL;
	*c = (struct cipher){ .out = out, .context = context, .allows = UINT32_MAX };
	c->ssl = sim_alloc(sizeof(*c->ssl));
	return c;
}

void cipher_free(struct cipher *c)
{
	sim_free(c->ssl);
	memory_free(c);
}

const char *cipher_problem(const struct cipher *c)
{
	return c->failure != CIPHER_FAILURE_NONE ? cipher_failure_names[c->failure] : NULL;
}

static bool say(struct cipher *c, unsigned char type, const char *data, size_t n)
{
	seal(&c->ssl->out, type, data, n);
	return c->out(c->context, c->ssl->out.bytes, c->ssl->out.n);
}

enum cipher_result cipher_handshake(struct cipher *c, struct span *in)
{
	static const char hello[200];
	unsigned type;
	size_t n;

	sim.handshake_steps++;
	sim.now_ns += sim.handshake_step_ns;
	while ((type = open(&c->ssl->in, in, &n)) != 0) {
		if (type != RECORD_HELLO)
			sim_fail("a handshake with a record of type %u", type);
		if (!say(c, RECORD_HELLO, hello, sizeof(hello))) {
			c->failure = CIPHER_FAILURE_MEMORY;
			return CIPHER_FAILED;
		}
		if (++c->ssl->hellos == 2)
			return CIPHER_DONE;
	}
	return CIPHER_MORE;
}

/* Whose bytes these are: what came behind a handshake is looked at when no request completes. */
static void receive_for(struct cipher *c, bool begins)
{
	const struct tls *tls = c->context;
	const struct socket *socket = tls->owner;

	if (begins && kernel_receiving() < 0) {
		c->ssl->receiving = true;
		(void)kernel_receive_as(kernel_client_of(socket->fd));
	} else if (!begins && c->ssl->receiving) {
		c->ssl->receiving = false;
		(void)kernel_receive_as(-1);
	}
}

enum cipher_result cipher_read(struct cipher *c, struct span *in, char *out, size_t max, size_t *n)
{
	struct ssl_st *s = c->ssl;

	receive_for(c, true);
	*n = 0;
	while (s->open_n == 0 && !s->ended) {
		unsigned type = open(&s->in, in, &s->open_n);

		s->open_at = HEAD_BYTES;
		if (type == 0) {
			receive_for(c, false);
			return CIPHER_MORE;
		}
		s->ended = type == RECORD_NOTICE;
	}
	if (s->ended) {
		receive_for(c, false);
		return CIPHER_CLOSED;
	}
	*n = s->open_n < max ? s->open_n : max;
	memcpy(out, s->in.bytes + s->open_at, *n);
	s->open_at += *n;
	s->open_n -= *n;
	return CIPHER_DONE;
}

bool cipher_write(struct cipher *c, const char *data, size_t len)
{
	if (fault(FAULT_MEMORY))
		return false;
	/* Whose they are does not show here: of some any byte may end a message. */
	for (size_t i = 0; i < len; i++)
		sim.lines += data[i] == '\n' || sim.params.many > 1;
	return say(c, RECORD_DATA, data, len);
}

void cipher_finish(struct cipher *c)
{
	(void)say(c, RECORD_NOTICE, "", 0);
}

bool cipher_still_trusted(const struct cipher *c, const struct keyring *keyring)
{
	(void)c;
	(void)keyring;
	return true;
}

/* ---- the client's side, in the kernel ---- */

struct sim_tls {
	struct records in, out; /* as the broker sees it */
	unsigned hellos_said, hellos_heard;
	bool notice_said, notice_heard;
};

struct sim_tls *sim_tls_new(void)
{
	return sim_alloc(sizeof(struct sim_tls));
}

bool sim_tls_secure(const struct sim_tls *t)
{
	return t->hellos_said == 2;
}

bool sim_tls_ended(const struct sim_tls *t)
{
	return t->notice_heard;
}

bool sim_tls_has(const struct sim_tcp *w)
{
	const struct sim_tls *t = w->tls;

	if (t->in.at < t->in.n || t->hellos_said == 0)
		return true;
	if (t->hellos_said == 1)
		return t->hellos_heard > 0;
	return w->in.len > 0 || (w->client_fin && !t->notice_said);
}

bool sim_tls_at_end(const struct sim_tcp *w)
{
	return !sim_tls_has(w) && (w->tls->notice_said || w->client_closed);
}

size_t sim_tls_say(struct sim_tcp *w, char *to, size_t max)
{
	struct sim_tls *t = w->tls;
	char plain[1500];
	size_t n;

	if (t->in.at == t->in.n) {
		if (t->hellos_said < 2) {
			memset(plain, 'h', 300);
			seal(&t->in, RECORD_HELLO, plain, random_size(&sim.random, 300));
			t->hellos_said++;
		} else if (w->in.len > 0) {
			n = pipe_read(&w->in, plain, random_size(&sim.random, sizeof(plain)));
			seal(&t->in, RECORD_DATA, plain, n);
		} else {
			seal(&t->in, RECORD_NOTICE, "", 0);
			t->notice_said = true;
		}
	}
	n = t->in.n - t->in.at < max ? t->in.n - t->in.at : max;
	memcpy(to, t->in.bytes + t->in.at, n);
	t->in.at += n;
	return n;
}

size_t sim_tls_room(const struct sim_tcp *w)
{
	size_t room = w->out.max > w->out.len ? w->out.max - w->out.len : 0;
	size_t left = SIM_PIPE_BYTES_MAX - w->out.len;

	/* What is part of a record goes there at once when that is whole. */
	left = left > w->tls->out.n ? left - w->tls->out.n : 0;
	return room < left ? room : left;
}

void sim_tls_hear(struct sim_tcp *w, const char *data, size_t n)
{
	struct sim_tls *t = w->tls;
	struct span in = { data, n };
	size_t max = w->out.max, len;
	unsigned type;

	while ((type = open(&t->out, &in, &len)) != 0) {
		if (t->notice_heard)
			sim_fail("something comes behind a close_notify");
		t->hellos_heard += type == RECORD_HELLO;
		t->notice_heard |= type == RECORD_NOTICE;
		if (type != RECORD_DATA)
			continue;
		w->out.max = SIM_PIPE_BYTES_MAX;
		if (pipe_write(&w->out, t->out.bytes + HEAD_BYTES, len) != len)
			sim_fail("no room for a record");
		w->out.max = max;
	}
}
