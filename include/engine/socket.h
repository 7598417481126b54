#ifndef ENGINE_SOCKET_H
#define ENGINE_SOCKET_H

/*
 * A connected socket on a reactor: receives into the ring's buffers, at most one send in flight,
 * and a close that waits until the kernel holds nothing of it any more: shutdown(2), cancel, count
 * down, close(2), next generation. The owner embeds struct socket as the first member of its own
 * connection. The reactor's thread only.
 *
 * Two transports: plain, and TLS from socket_secure or socket_secure_dialled on (engine/tls.h). The
 * owner's side is the same: plain bytes come up, spans go down, `sent` counts the owner's bytes.
 * Before the handshake has ended well, and while its own bytes are on their way, a secure socket is
 * `sending`.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "engine/reactor.h"
#include "engine/tls.h"

struct socket {
	int fd;
	uint32_t slot;
	uint8_t in_flight; /* requests that will complete */
	bool recv_armed;
	bool multishot; /* receives need not be stopped: armed once for many */
	bool sending;
	bool paused;   /* the owner wants nothing received for now */
	bool ended;    /* the peer's end of file, or an error, was received */
	bool nonempty; /* more may be there than has been received */
	bool greedy;   /* more was there: its next receive waits for its turn */
	bool closing;
	bool reset; /* the owner's: its close is to be a reset and nothing before */
	uint32_t into_len;
	char *into;       /* the next receive goes into the owner's memory; or NULL */
	uint64_t sent_ns; /* when the last send was queued */
	struct list link; /* hungry, or to be closed */
	struct tls *tls;  /* NULL: what goes and comes is plain */
};

struct sockets;

/* The owner's part; none of them is called from within a call of the owner's. */
struct socket_events {
	/* len > 0: bytes, valid until it returns (into the owner's memory: data is that memory).
	 * len 0: end of file, or error (-errno, -TLS_*). */
	void (*received)(struct socket *socket, const char *data, size_t len, int error);
	/* A send ended: how many of its bytes went, or -errno. A secure socket may be `sending` all
	 * the same, what the cipher has to say by itself: `sent` follows, with 0. */
	void (*sent)(struct socket *socket, int result);
	/* The fd is closed, nothing is in flight: the memory is the owner's again. */
	void (*closed)(struct socket *socket);
	/* The handshake has ended well: socket->tls->cipher knows who and what. NULL: nobody is
	 * secure. */
	void (*secured)(struct socket *socket);
};

struct sockets {
	struct reactor *reactor;
	const struct socket_events *events;
	struct socket_slot {
		struct socket *socket;
		uint32_t generation; /* never 0, which says: nobody */
		uint32_t next_free;
	} * slots;
	uint32_t slots_n, slots_max, free, open;
	/* That found no receive buffer, or of which more is there than they have been given: first
	 * come, first armed again, so many bytes in a turn. So those that send much share what
	 * those that send little leave, and none of these waits for all of them. */
	struct list hungry;
	struct list dying; /* closing with nothing in flight */
	struct tls_shared tls;
	uint64_t sends, send_bytes; /* queued, whether they went or not */
	struct histogram send_gap;  /* ns between two sends of a socket */
};

#define SOCKET_NO_SLOT UINT32_MAX

/* Takes the OP_SOCKET_* handlers of the reactor. */
int sockets_init(struct sockets *sockets, struct reactor *reactor,
		 const struct socket_events *events, uint32_t max);
/* All sockets must be closed. */
void sockets_release(struct sockets *sockets);
/* To be called once in every turn, in flush: arms some of the hungry again and ends some of the
 * dying. Returns whether it did anything: if so, there may be more. */
bool sockets_flush(struct sockets *sockets);

/* Takes over the fd (connected, blocking mode); -ENOMEM, -EMFILE (max reached): the caller still
 * owns it. */
int socket_open(struct sockets *sockets, struct socket *socket, int fd);
/* Receives until told otherwise: one buffer at a time, or, with socket->multishot, armed once for
 * many. */
void socket_receive(struct sockets *sockets, struct socket *socket);
/* The next receive goes into the owner's memory, once, when nothing is armed; the memory stays
 * until then, or until socket_pause has found it not armed yet (into is NULL then). */
void socket_receive_into(struct sockets *sockets, struct socket *socket, void *buf, size_t len);
/* Stops receiving; what is armed may still be handed over: one buffer, or with multishot as much as
 * comes until a cancellation finds it. */
void socket_pause(struct sockets *sockets, struct socket *socket);
/* Sends the spans; what they point to stays until `sent`. Not while another send is in flight.
 * Returns how many bytes that is. */
size_t socket_send(struct sockets *sockets, struct socket *socket, const struct iovec *spans,
		   unsigned spans_n);
/* Speaks TLS from here on, as a server; bytes: what has come already of the client's. What is in
 * flight is plain still. -ENOMEM, -ENOBUFS (too much has come): close it. */
int socket_secure(struct sockets *sockets, struct socket *socket, struct keyring *keyring,
		  struct span bytes);
/* The same as a client, who begins; server: as in cipher_new. */
int socket_secure_dialled(struct sockets *sockets, struct socket *socket, struct keyring *keyring,
			  const char *server);
/* Whether its handshake is still under way. */
static inline bool socket_shakes_hands(const struct socket *socket)
{
	return socket->tls != NULL && socket->tls->state == TLS_HANDSHAKE;
}
/* Nothing more will be sent: the peer is told so, by close_notify and end of file. If that takes
 * its time, the socket is `sending`, and `sent` follows. */
void socket_finish(struct sockets *sockets, struct socket *socket);
/* What it holds beside the kernel, in bytes. */
static inline uint64_t socket_held(const struct socket *socket)
{
	return socket->tls != NULL ? tls_held(socket->tls) : 0;
}
/* Ends the send in flight, if there is one: `sent` tells how far it came. */
void socket_cancel_send(struct sockets *sockets, struct socket *socket);
/* Closes, now or when nothing is in flight any more; `received` is not called again, `sent` is for
 * what is in flight. Calling it twice is harmless. */
void socket_close(struct sockets *sockets, struct socket *socket);
/* The ring takes part no more: nothing in flight will complete, and the socket closes with the next
 * sockets_flush. */
void socket_abandon(struct sockets *sockets, struct socket *socket);
/* The socket of a slot if its generation is still this one; NULL otherwise. */
struct socket *socket_at(struct sockets *sockets, uint32_t slot, uint32_t generation);
uint32_t socket_generation(const struct sockets *sockets, const struct socket *socket);
/* The next open socket from that slot on, *at is behind it then; NULL: there is none. Slots stay
 * where they are, so that a walk may take as long as it likes. */
struct socket *sockets_next(const struct sockets *sockets, uint32_t *at);

#endif
