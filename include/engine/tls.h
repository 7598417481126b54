#ifndef ENGINE_TLS_H
#define ENGINE_TLS_H

/*
 * What a socket has beside itself when it speaks TLS: its cipher, what has been sealed and not gone
 * yet, and what has come of a handshake and waits for its turn. What goes out in one send is sealed
 * in as few records as it needs into a buffer that belongs to the send until all of it has gone; it
 * is never sealed twice. Buffers come from the reactor's pool; where none is left the sender waits,
 * and those whose sends have stood longest give theirs back for memory of just their size. It knows
 * no socket: engine/socket.c moves the bytes. The reactor's thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/histogram.h"
#include "base/list.h"
#include "engine/cipher.h"

enum {
	/* Sealed bytes of a send: four records. */
	TLS_BUFFER_BYTES = 4 * (CIPHER_RECORD_BYTES + CIPHER_OVERHEAD_BYTES),
	TLS_BUFFER_CLASSES = 3, /* smaller ones, for what is small */
	TLS_POOL_BYTES = 8 << 20,
	TLS_STEPS = 4, /* of handshakes, in a turn: 0.2 to 0.3 ms each, 0.6 with an RSA key */
	TLS_STEPS_NS = 500000, /* none begins after that */
	/* What has come of a handshake and waits; beyond: it fails. */
	TLS_INPUT_BYTES_MAX = 128 << 10,
	TLS_KEY_UPDATES = 16, /* in a minute; beyond: the end */
	TLS_RECORDS_MAX = 8,
};

/* Why bytes have not come as they should: what `received` is told beside -errno. */
enum {
	TLS_TRUNCATED = 1000, /* an end of file that the peer has not announced */
	TLS_REFUSED,          /* no handshake came of it */
	TLS_BROKEN,           /* what came is no TLS, or not allowed */
};

struct tls_counts {
	uint64_t full, resumed; /* handshakes that ended well */
	uint64_t failed[CIPHER_FAILURES];
	uint64_t records, sealed_bytes;
	uint64_t waits;             /* times that a sender found no buffer */
	struct histogram handshake; /* ns, from the first byte's buffer to the end */
	uint32_t pending;           /* handshakes under way */
};

/* A reactor's. */
struct tls_shared {
	struct list steps;   /* handshakes that can go on, first come first */
	struct list waiting; /* senders that found no buffer */
	struct list failed;  /* that are to be told so */
	struct list flying;  /* pooled buffers that the kernel has, by when it got them */
	void *free[TLS_BUFFER_CLASSES];
	size_t pool_bytes, used_bytes, used_max; /* all, those in use, and the most since the last
						    tls_give_back */
	char *scratch;                           /* where what has come is opened */
	size_t scratch_bytes;
	uint32_t open; /* those that have any of this */
	struct tls_counts counts;
};

enum tls_state { TLS_HANDSHAKE, TLS_OPEN, TLS_FAILED };

/* Sealed bytes. */
struct sealed {
	char *data;
	uint32_t at, len, capacity;
	uint8_t pooled; /* its class + 1; 0: memory of its own */
};

struct tls {
	struct cipher *cipher;
	struct tls_shared *shared;
	void *owner; /* its socket */
	uint8_t state;
	bool in_kernel;     /* `flying` is there */
	bool plain;         /* what the kernel has is from before the handshake */
	bool cancelled;     /* the owner does not wait for the rest of its send */
	bool moving;        /* cancelled, so that its buffer comes back */
	bool finishing;     /* the stream ends with what is sealed: shutdown(2) then */
	bool reading;       /* its owner is being told of what has come */
	struct list link;   /* steps, waiting or failed */
	struct list flight; /* in shared->flying */
	struct sealed out, flying;
	/* The owner's bytes in what flies, and where in it each record ends. */
	size_t carries;
	struct {
		uint32_t sealed, plain;
	} records[TLS_RECORDS_MAX];
	unsigned records_n;
	char *input; /* what waits for its step */
	uint32_t input_len;
	uint64_t began_ns, minute_ns;
	unsigned updates_before; /* key updates until this minute */
};

/* received_bytes: that come at once. */
void tls_shared_init(struct tls_shared *shared, size_t received_bytes);
/* No socket may have any of it. */
void tls_shared_release(struct tls_shared *shared);
/* Gives memory back that has not been needed since the last call. */
void tls_give_back(struct tls_shared *shared);

/* A handshake begins; server: as in cipher_new. NULL: out of memory. */
struct tls *tls_new(struct tls_shared *shared, struct keyring *keyring, const char *server,
		    void *owner, uint64_t now_ns);
void tls_free(struct tls *tls);
/* What it holds, in bytes, but for what is the cipher's. */
uint64_t tls_held(const struct tls *tls);

/* What has come of a handshake waits for its step. False: it is too much, or out of memory. */
bool tls_keep(struct tls *tls, struct span bytes);
/* A step of the handshake, with what has come. CIPHER_DONE: it has ended well; what is left of the
 * input is there to be read. */
enum cipher_result tls_step(struct tls *tls, uint64_t now_ns);
/* It has failed, for this reason if the cipher knows none. */
void tls_fail(struct tls *tls, enum cipher_failure reason);

/* Room for what comes at once, opened. NULL: out of memory. */
char *tls_scratch(struct tls_shared *shared);
/* Opens what has come into that memory, as much as there is. */
enum cipher_result tls_read(struct tls *tls, struct span *in, char *out, size_t max, size_t *n,
			    uint64_t now_ns);

/*
 * Seals the spans, as far as there is room in a buffer. Returns how many bytes; 0: there is no
 * buffer, or something else is to go out first. False in *ok: it has failed.
 */
size_t tls_seal(struct tls *tls, const struct iovec *spans, unsigned spans_n, bool *ok);
void tls_say_end(struct tls *tls);
/* Whether anything is sealed that the kernel has not got. */
static inline bool tls_has_output(const struct tls *tls)
{
	return tls->out.len > 0 || tls->flying.at < tls->flying.len;
}
/* What is to be sent now, with so many of the owner's bytes in it; it belongs to the kernel. */
struct iovec tls_take_off(struct tls *tls, size_t carries);
/* So many bytes of it went, and the kernel has none of it any more. Returns whether that is all. */
bool tls_landed(struct tls *tls, size_t bytes);
/* How many of the owner's bytes are in records that have gone whole. */
size_t tls_carried(const struct tls *tls);
/* What is left of what flew goes into memory of its own. False: there is none. */
bool tls_move(struct tls *tls);
/* Nothing that is not in the kernel will ever go. */
void tls_forget(struct tls *tls);
/* How many senders would get a buffer. */
size_t tls_room(const struct tls_shared *shared);
/* Whether nothing more is to be received for now: what has come is being looked at, or waits. */
static inline bool tls_is_busy(const struct tls *tls)
{
	return tls->reading || (tls->state == TLS_HANDSHAKE && !list_empty(&tls->link));
}

#endif
