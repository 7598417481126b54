#ifndef BROKER_LISTENER_H
#define BROKER_LISTENER_H

/*
 * Where clients come in: for every listen section one SO_REUSEPORT socket per shard (socket(7)),
 * bound by the main thread before the shards start, so that a wrong address ends the start, and
 * listened on when all of them are there: whoever the kernel takes is served. A unix socket cannot
 * be shared so: shard 0 has it.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/deadline.h"

struct broker;
struct config;
struct keyring;
struct network;
struct shard;

/* A shard's share of accepting. */
struct accepting {
	struct deadline_class again;
	struct deadline again_deadline;
	uint64_t waiting; /* bit per listener (modulo 64): not armed for want of file descriptors */
	uint64_t crowded; /* the same for too many handshakes */
	uint64_t refused_by_rate;
	uint64_t warned_ns;  /* of certificates: shard 0, once a day */
	bool stopped, ended; /* for now; for good */
};

struct listener {
	char *title;
	char *address;      /* as bound: with the port that the kernel chose for port 0 */
	unsigned protocols; /* CONFIG_PROTOCOL_* */
	bool secure;        /* speaks TLS, */
	struct keyring *_Atomic keyring; /* with this */
	int *fds;                        /* by shard; -1: none there */
	char *unix_path; /* to be removed at the end, if it is still this file; or NULL */
	bool proxy_protocol;
	struct network *proxies; /* whose connections begin with a header */
	size_t proxies_n;
	dev_t unix_device;
	ino_t unix_inode;
};

/* Binds everything the configuration wants. On failure -errno and a message for people in problem.
 */
int listeners_open(struct broker *broker, const struct config *config, char *problem, size_t size);
/* Takes clients from now on, who wait for a shard to accept them. */
int listeners_listen(struct broker *broker, const struct config *config, char *problem,
		     size_t size);
/* Removes the files of unix sockets that are still ours. */
void listeners_unlink(const struct broker *broker);
/* Removes these files and closes all. */
void listeners_close(struct broker *broker);

/* On the shard's thread: accepts from now on, and no more. */
void listeners_init(struct shard *shard);
void listeners_start(struct shard *shard);
void listeners_stop(struct shard *shard); /* harmless twice */
/* Accepts nobody while held: clients wait in the kernel's queue. */
void listeners_hold(struct shard *shard, bool hold);

/* Accepts again where too many handshakes were under way, if there are fewer by now. */
void listeners_resume(struct shard *shard);

/* What the configuration says of sockets is so for connections accepted from now on. */
void listeners_configure(struct shard *shard);

#endif
