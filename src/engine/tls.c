#include "engine/tls.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

/* Room for what a send may carry: one small record, one record, four. */
static const uint32_t class_bytes[TLS_BUFFER_CLASSES] = {
	(2 << 10) + CIPHER_OVERHEAD_BYTES,
	CIPHER_RECORD_BYTES + CIPHER_OVERHEAD_BYTES,
	TLS_BUFFER_BYTES,
};

enum { KEEP_MIN_BYTES = 512, CRUMB_BYTES = 1 << 10 };

/* ---- buffers ---- */

static void free_idle(struct tls_shared *t, size_t upto_bytes)
{
	for (unsigned class = TLS_BUFFER_CLASSES; class -- > 0;)
		while (t->free[class] != NULL && t->pool_bytes > upto_bytes) {
			void *buffer = t->free[class];

			t->free[class] = *(void **)buffer;
			t->pool_bytes -= class_bytes[class];
			memory_free(buffer);
		}
}

static bool pool_take(struct tls_shared *t, struct sealed *s, size_t bytes)
{
	unsigned class = 0;
	void *buffer;

	while (class + 1 < TLS_BUFFER_CLASSES && bytes + CIPHER_OVERHEAD_BYTES > class_bytes[class])
		class ++;
	buffer = t->free[class];
	if (buffer != NULL) {
		t->free[class] = *(void **)buffer;
	} else {
		if (t->pool_bytes + class_bytes[class] > TLS_POOL_BYTES) {
			/* What lies idle may be of another size. */
			free_idle(t, t->used_bytes);
			if (t->pool_bytes + class_bytes[class] > TLS_POOL_BYTES)
				return false;
		}
		buffer = memory_new(class_bytes[class]);
		if (buffer == NULL)
			return false;
		t->pool_bytes += class_bytes[class];
	}
	t->used_bytes += class_bytes[class];
	if (t->used_bytes > t->used_max)
		t->used_max = t->used_bytes;
	*s = (struct sealed){ .data = buffer,
			      .capacity = class_bytes[class],
			      .pooled = (uint8_t)(class + 1) };
	return true;
}

/* Whatever it is in. */
static void sealed_release(struct tls_shared *t, struct sealed *s)
{
	if (s->pooled > 0) {
		*(void **)(void *)s->data = t->free[s->pooled - 1];
		t->free[s->pooled - 1] = s->data;
		t->used_bytes -= s->capacity;
	} else {
		memory_free(s->data);
	}
	*s = (struct sealed){ 0 };
}

/* What is left of it, in memory of its own with room for more. False: it is as it was. */
static bool sealed_move(struct tls_shared *t, struct sealed *s, size_t more)
{
	struct sealed own = { .len = s->len - s->at,
			      .capacity = (uint32_t)(s->len - s->at + more) };

	own.data = memory_new(own.capacity);
	if (own.data == NULL)
		return false;
	if (own.len > 0)
		memcpy(own.data, s->data + s->at, own.len);
	sealed_release(t, s);
	*s = own;
	return true;
}

void tls_shared_init(struct tls_shared *t, size_t received_bytes)
{
	*t = (struct tls_shared){ .scratch_bytes = received_bytes + CIPHER_RECORD_BYTES };
	list_init(&t->steps);
	list_init(&t->waiting);
	list_init(&t->failed);
	list_init(&t->flying);
}

void tls_give_back(struct tls_shared *t)
{
	free_idle(t, t->used_max);
	t->used_max = t->used_bytes;
}

void tls_shared_release(struct tls_shared *t)
{
	assert(t->open == 0 && t->pool_bytes == 0);
	(void)t;
}

size_t tls_room(const struct tls_shared *t)
{
	return (TLS_POOL_BYTES - t->used_bytes) / TLS_BUFFER_BYTES;
}

void tls_forget(struct tls *tls)
{
	sealed_release(tls->shared, &tls->out);
	if (!tls->in_kernel)
		sealed_release(tls->shared, &tls->flying);
}

/* ---- what the cipher says ---- */

static bool take_out(void *context, const char *data, size_t len)
{
	struct tls *tls = context;
	struct sealed *out = &tls->out;

	if (out->len + len > out->capacity &&
	    !sealed_move(tls->shared, out, len > KEEP_MIN_BYTES ? len : KEEP_MIN_BYTES))
		return false;
	memcpy(out->data + out->len, data, len);
	out->len += (uint32_t)len;
	return true;
}

/* ---- a connection's ---- */

struct tls *tls_new(struct tls_shared *shared, struct keyring *keyring, const char *server,
		    void *owner, uint64_t now_ns)
{
	struct tls *tls = memory_new_zeroed(sizeof(*tls));

	if (tls == NULL)
		return NULL;
	tls->cipher = cipher_new(keyring, server, take_out, tls);
	if (tls->cipher == NULL) {
		memory_free(tls);
		return NULL;
	}
	tls->shared = shared;
	tls->owner = owner;
	tls->began_ns = now_ns;
	list_init(&tls->link);
	list_init(&tls->flight);
	tls->minute_ns = now_ns;
	shared->open++;
	shared->counts.pending++;
	return tls;
}

void tls_free(struct tls *tls)
{
	struct tls_shared *t;

	if (tls == NULL)
		return;
	t = tls->shared;
	if (tls->state == TLS_HANDSHAKE)
		tls_fail(tls, CIPHER_FAILURE_CLOSED);
	list_remove(&tls->link);
	list_remove(&tls->flight);
	sealed_release(t, &tls->out);
	sealed_release(t, &tls->flying);
	cipher_free(tls->cipher);
	memory_free(tls->input);
	memory_free(tls);
	if (--t->open > 0)
		return;
	/* Nobody is left: nothing is kept for nobody. */
	free_idle(t, 0);
	memory_free(t->scratch);
	t->scratch = NULL;
}

uint64_t tls_held(const struct tls *tls)
{
	return (uint64_t)tls->out.capacity + tls->flying.capacity + tls->input_len;
}

void tls_fail(struct tls *tls, enum cipher_failure reason)
{
	struct tls_counts *counts = &tls->shared->counts;

	if (tls->state == TLS_HANDSHAKE) {
		if (tls->cipher->failure != CIPHER_FAILURE_NONE)
			reason = tls->cipher->failure;
		counts->failed[reason]++;
		counts->pending--;
	}
	tls->state = TLS_FAILED;
}

/* ---- a handshake ---- */

bool tls_keep(struct tls *tls, struct span bytes)
{
	char *input;

	if (tls->input_len + bytes.len > TLS_INPUT_BYTES_MAX)
		return false;
	input = memory_resize(tls->input, tls->input_len + bytes.len);
	if (input == NULL)
		return false;
	memcpy(input + tls->input_len, bytes.data, bytes.len);
	tls->input = input;
	tls->input_len += (uint32_t)bytes.len;
	return true;
}

enum cipher_result tls_step(struct tls *tls, uint64_t now_ns)
{
	struct tls_counts *counts = &tls->shared->counts;
	struct span in = { tls->input, tls->input_len };
	enum cipher_result result = cipher_handshake(tls->cipher, &in);

	/* What is left is the beginning of what comes then. */
	if (in.len > 0)
		memmove(tls->input, in.data, in.len);
	tls->input_len = (uint32_t)in.len;
	if (tls->input_len == 0) {
		memory_free(tls->input);
		tls->input = NULL;
	}
	if (result == CIPHER_DONE) {
		tls->state = TLS_OPEN;
		counts->pending--;
		counts->full += !tls->cipher->resumed;
		counts->resumed += tls->cipher->resumed;
		histogram_add(&counts->handshake, now_ns - tls->began_ns);
	}
	return result;
}

/* ---- what comes in ---- */

/* before: how many there were until now. */
static bool updates_too_often(struct tls *tls, unsigned before, uint64_t now_ns)
{
	if (now_ns - tls->minute_ns > 60 * NS_PER_S) {
		tls->minute_ns = now_ns;
		tls->updates_before = before;
	}
	return tls->cipher->key_updates - tls->updates_before > TLS_KEY_UPDATES;
}

enum cipher_result tls_read(struct tls *tls, struct span *in, char *out, size_t max, size_t *n,
			    uint64_t now_ns)
{
	enum cipher_result result = CIPHER_DONE;
	unsigned updates = tls->cipher->key_updates;
	size_t one;

	for (*n = 0; *n < max && result == CIPHER_DONE; *n += one)
		result = cipher_read(tls->cipher, in, out + *n, max - *n, &one);
	if (tls->cipher->key_updates != updates && updates_too_often(tls, updates, now_ns))
		return CIPHER_FAILED;
	return result;
}

/* ---- what goes out ---- */

/* Where the next record's bytes are: in one span, or put together from several. */
struct gathering {
	const struct iovec *spans;
	unsigned n, i;
	size_t at;
};

static size_t gather(struct gathering *g, size_t max, char *together, const char **data)
{
	size_t n = 0;

	*data = together;
	while (g->i < g->n && n < max) {
		const struct iovec *span = &g->spans[g->i];
		size_t left = span->iov_len - g->at, piece = left < max - n ? left : max - n;
		const char *from = (const char *)span->iov_base + g->at;

		/* It is all there is to this record, so it need not be copied. */
		if (n == 0 && (piece == max || g->i + 1 == g->n))
			*data = from;
		else
			memcpy(together + n, from, piece);
		n += piece;
		g->at += piece;
		if (g->at == span->iov_len) {
			g->i++;
			g->at = 0;
		}
	}
	return n;
}

char *tls_scratch(struct tls_shared *t)
{
	if (t->scratch == NULL)
		t->scratch = memory_new(t->scratch_bytes);
	return t->scratch;
}

size_t tls_seal(struct tls *tls, const struct iovec *spans, unsigned spans_n, bool *ok)
{
	struct gathering g = { .spans = spans, .n = spans_n };
	struct tls_shared *t = tls->shared;
	struct sealed *out = &tls->out;
	size_t total = 0, sealed = 0, n;
	const char *data;

	*ok = true;
	if (tls_has_output(tls))
		return 0;
	for (unsigned i = 0; i < spans_n; i++)
		total += spans[i].iov_len;
	if (tls_scratch(t) == NULL || !pool_take(t, out, total))
		return 0;
	tls->records_n = 0;
	while (sealed < total && tls->records_n < TLS_RECORDS_MAX) {
		size_t room = out->capacity - out->len, left = total - sealed;

		/* A crumb is not worth a record. */
		if (room < CIPHER_OVERHEAD_BYTES + (left < CRUMB_BYTES ? left : CRUMB_BYTES))
			break;
		room -= CIPHER_OVERHEAD_BYTES;
		n = gather(&g, room < CIPHER_RECORD_BYTES ? room : CIPHER_RECORD_BYTES, t->scratch,
			   &data);
		if (!cipher_write(tls->cipher, data, n)) {
			*ok = false;
			break;
		}
		sealed += n;
		tls->records[tls->records_n].sealed = out->len;
		tls->records[tls->records_n++].plain = (uint32_t)sealed;
		t->counts.records++;
	}
	t->counts.sealed_bytes += out->len;
	return sealed;
}

void tls_say_end(struct tls *tls)
{
	cipher_finish(tls->cipher);
}

struct iovec tls_take_off(struct tls *tls, size_t carries)
{
	assert(!tls->in_kernel);
	if (tls->flying.at == tls->flying.len) {
		sealed_release(tls->shared, &tls->flying);
		tls->flying = tls->out;
		tls->out = (struct sealed){ 0 };
		tls->carries = carries;
		if (carries == 0)
			tls->records_n = 0;
	}
	tls->in_kernel = true;
	if (tls->flying.pooled > 0)
		list_append(&tls->shared->flying, &tls->flight);
	return (struct iovec){ tls->flying.data + tls->flying.at,
			       tls->flying.len - tls->flying.at };
}

bool tls_landed(struct tls *tls, size_t bytes)
{
	assert(tls->in_kernel);
	tls->in_kernel = false;
	list_remove(&tls->flight);
	tls->flying.at += (uint32_t)bytes;
	assert(tls->flying.at <= tls->flying.len);
	if (tls->flying.at < tls->flying.len)
		return false;
	sealed_release(tls->shared, &tls->flying);
	return true;
}

size_t tls_carried(const struct tls *tls)
{
	size_t plain = 0;

	for (unsigned i = 0; i < tls->records_n && tls->records[i].sealed <= tls->flying.at; i++)
		plain = tls->records[i].plain;
	return plain;
}

bool tls_move(struct tls *tls)
{
	uint32_t gone = tls->flying.at;

	if (tls->flying.pooled == 0 || !sealed_move(tls->shared, &tls->flying, 0))
		return tls->flying.pooled == 0;
	for (unsigned i = 0; i < tls->records_n; i++)
		tls->records[i].sealed -=
			tls->records[i].sealed < gone ? tls->records[i].sealed : gone;
	return true;
}
