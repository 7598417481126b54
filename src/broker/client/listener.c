#include "broker/listener.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/log.h"
#include "broker/admission.h"
#include "broker/connection.h"
#include "broker/shard.h"
#include "engine/keyring.h"
#include "engine/steering.h"

enum {
	OP_ACCEPT = OP_USER,
	BACKLOG = 4096,        /* the kernel cuts it to net.core.somaxconn */
	KEEPALIVE_IDLE_S = 60, /* a dead peer is found after 60 + 6 x 10 seconds */
	KEEPALIVE_INTERVAL_S = 10,
	KEEPALIVE_PROBES = 6,
	/* The same while something is on its way to it, when there is no keep-alive. */
	SILENCE_S = KEEPALIVE_IDLE_S + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL_S,
	SILENCE_MARGIN_S = 10, /* so that whoever may be slow for longer is told that he was */
	ACCEPT_COST = 40,      /* of one, about 10 us */
	ACCEPT_PAUSE_MS = 250, /* without file descriptors left */
};

static int set(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) == 0 ? 0 : -errno;
}

/* How long a peer may take nothing of what it has been sent. The kernel counts also a peer that is
 * there and has closed its window, so that must be no less than how far one may fall behind. */
static int silence_ms(const struct config *config)
{
	uint64_t most_s = SILENCE_S;

	for (size_t i = 0; i <= config->topic_n; i++) {
		const struct config_topic *t =
			i < config->topic_n ? &config->topic[i] : &config->topics;

		if (t->backlog_seconds + SILENCE_MARGIN_S > most_s)
			most_s = t->backlog_seconds + SILENCE_MARGIN_S;
	}
	return most_s < INT_MAX / 1000 ? (int)most_s * 1000 : INT_MAX;
}

/* Options that accepted sockets inherit (tcp(7)): no system call per connection. */
static void set_inherited(int fd, const struct config *config)
{
	ring_listen_options(fd, config->limits.send_buffer_bytes, silence_ms(config));
	(void)set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	(void)set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	(void)set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
	(void)set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
	(void)set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}

static int bind_to(const struct sockaddr_storage *at, socklen_t len, bool v6only, bool shared)
{
	int fd = socket(at->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), err;

	if (fd < 0)
		return -errno;
	err = set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (err == 0 && shared)
		err = set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	/* What it is otherwise is the host's choice (net.ipv6.bindv6only). */
	if (err == 0 && at->ss_family == AF_INET6)
		err = set(fd, IPPROTO_IPV6, IPV6_V6ONLY, v6only);
	if (err == 0 && bind(fd, (const struct sockaddr *)at, len) != 0)
		err = -errno;
	if (err == 0)
		return fd;
	close(fd);
	return err;
}

/*
 * With SO_REUSEPORT a second broker would silently share the port, so ask for it alone. An address
 * that somebody listens on cannot be bound without SO_REUSEPORT, whatever he has set; and to be
 * bound is enough to know: whoever listens takes clients.
 */
static int ask_alone(const struct sockaddr_storage *at, socklen_t len, bool v6only)
{
	int fd = bind_to(at, len, v6only, false);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? fd : 0;
}

static unsigned port_of(const struct sockaddr_storage *at)
{
	return at->ss_family == AF_INET6
		       ? ntohs(((const struct sockaddr_in6 *)(const void *)at)->sin6_port)
		       : ntohs(((const struct sockaddr_in *)(const void *)at)->sin_port);
}

static int open_tcp(struct listener *l, unsigned shards, const struct address *address,
		    const struct config_listen *c, const struct config *config)
{
	struct sockaddr_storage at;
	socklen_t len = address_socket(address, &at);
	int err = ask_alone(&at, len, c->v6only);

	for (unsigned i = 0; i < shards && err == 0; i++) {
		int fd = bind_to(&at, len, c->v6only, true);

		if (fd < 0)
			return fd;
		l->fds[i] = fd;
		/* With port 0 the first one's port is everybody's. */
		if (getsockname(fd, (struct sockaddr *)&at, &len) != 0)
			err = -errno;
		set_inherited(fd, config);
	}
	if (err != 0)
		return err;
	if (asprintf(&l->address, "%.*s:%u", (int)(strrchr(c->address, ':') - c->address),
		     c->address, port_of(&at)) < 0)
		l->address = NULL;
	return l->address != NULL ? 0 : -ENOMEM;
}

/* A socket file that nobody listens on any more is in the way: what a crash left behind. Whoever
 * has a full queue is there. */
static void remove_stale(const struct sockaddr_un *addr)
{
	struct stat st;
	int fd;

	if (stat(addr->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) != 0 && errno == ECONNREFUSED)
		(void)unlink(addr->sun_path);
	close(fd);
}

/* The number of a user or group that is known by its name or number; -1: as it is. False: there is
 * none of that name. */
static bool find_user(const char *name, uid_t *uid)
{
	const struct passwd *user = *name != 0 ? getpwnam(name) : NULL;
	char *end;

	*uid = user != NULL ? user->pw_uid : (uid_t)-1;
	if (*name == 0 || user != NULL)
		return true;
	*uid = (uid_t)strtoul(name, &end, 10);
	return *end == 0;
}

static bool find_group(const char *name, gid_t *gid)
{
	const struct group *group = *name != 0 ? getgrnam(name) : NULL;
	char *end;

	*gid = group != NULL ? group->gr_gid : (gid_t)-1;
	if (*name == 0 || group != NULL)
		return true;
	*gid = (gid_t)strtoul(name, &end, 10);
	return *end == 0;
}

/* Before anybody can connect, which takes a socket that listens. */
static int set_access(const char *path, const struct config_listen *c, const char **what)
{
	uid_t uid;
	gid_t gid;

	*what = "owner: there is no such user";
	if (!find_user(c->owner, &uid))
		return -EINVAL;
	*what = "group: there is no such group";
	if (!find_group(c->group, &gid))
		return -EINVAL;
	*what = "owner and group of its file";
	if ((uid != (uid_t)-1 || gid != (gid_t)-1) && chown(path, uid, gid) != 0)
		return -errno;
	*what = "mode of its file";
	if (c->mode != 0 && chmod(path, c->mode) != 0)
		return -errno;
	return 0;
}

/* what: an error is about, where its number says too little. */
static int open_unix(struct listener *l, const struct address *address,
		     const struct config_listen *c, const struct config *config, const char **what)
{
	struct sockaddr_storage at;
	socklen_t len = address_socket(address, &at);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct stat st;

	if (fd < 0)
		return -errno;
	l->fds[0] = fd;
	remove_stale((const struct sockaddr_un *)(const void *)&at);
	set(fd, SOL_SOCKET, SO_SNDBUF, (int)config->limits.send_buffer_bytes);
	if (bind(fd, (const struct sockaddr *)&at, len) != 0 || stat(address->path, &st) != 0)
		return -errno;
	l->unix_device = st.st_dev;
	l->unix_inode = st.st_ino;
	l->unix_path = strdup(address->path);
	l->address = strdup(c->address);
	if (l->unix_path == NULL || l->address == NULL)
		return -ENOMEM;
	return set_access(address->path, c, what);
}

/* Never a reason not to start: without it connections are spread evenly. */
static void steer(struct broker *b, const struct listener *l)
{
	int err = steering_attach(l->fds[0], &b->placement);

	if (err == 0)
		log_info("%s: connections go to the reactor on the cpu that their packets arrive "
			 "on",
			 l->address);
	else
		log_warn("%s: engine.steer has no effect and connections are spread evenly: %s",
			 l->address,
			 err == -EINVAL ? "the reactors do not have a cpu each" : strerror(-err));
}

static void say_problem(const struct config_listen *c, int err, const char *what, char *problem,
			size_t size)
{
	snprintf(problem, size, "cannot listen on %s (listen \"%s\"): %s%s%s%s", c->address,
		 c->title, what != NULL ? what : "", what != NULL ? ": " : "", strerror(-err),
		 err == -EADDRINUSE ? "; is another broker running? choose another port or stop it"
				    : "");
}

static int set_proxies(struct listener *l, const struct config_listen *c)
{
	l->proxy_protocol = c->proxy_protocol;
	l->proxies = calloc(c->proxy_from_n + 1, sizeof(*l->proxies));
	if (l->proxies == NULL)
		return -ENOMEM;
	for (; l->proxies_n < c->proxy_from_n; l->proxies_n++)
		(void)network_parse(c->proxy_from[l->proxies_n], &l->proxies[l->proxies_n]);
	return 0;
}

int listeners_open(struct broker *b, const struct config *config, char *problem, size_t size)
{
	b->addresses = address_book_new();
	b->listeners = calloc(config->listens_n, sizeof(*b->listeners));
	if (b->listeners == NULL || b->addresses == NULL) {
		snprintf(problem, size, "out of memory");
		return -ENOMEM;
	}
	for (size_t i = 0; i < config->listens_n; i++) {
		const struct config_listen *c = &config->listens[i];
		struct listener *l = &b->listeners[i];
		const char *what = NULL;
		struct address address;
		int err;

		b->listeners_n++;
		l->protocols = c->protocols;
		l->secure = c->tls.present;
		l->title = strdup(c->title);
		l->fds = malloc(b->shards_n * sizeof(int));
		if (l->fds == NULL || l->title == NULL)
			return -ENOMEM;
		for (unsigned shard = 0; shard < b->shards_n; shard++)
			l->fds[shard] = -1;
		if (address_parse(c->address, &address) != NULL)
			err = -EINVAL;
		else if ((err = set_proxies(l, c)) != 0)
			;
		else if (address.path != NULL)
			err = open_unix(l, &address, c, config, &what);
		else
			err = open_tcp(l, b->shards_n, &address, c, config);
		if (err == 0)
			continue;
		say_problem(c, err, what, problem, size);
		return err;
	}
	return 0;
}

/* Somebody may have begun to listen there since it was bound. */
static int listen_all(const struct broker *b, const struct listener *l,
		      const struct config_listen *c)
{
	struct sockaddr_storage at;
	socklen_t len = sizeof(at);
	int err = 0;

	if (l->unix_path == NULL) {
		if (getsockname(l->fds[0], (struct sockaddr *)&at, &len) != 0)
			return -errno;
		err = ask_alone(&at, len, c->v6only);
	}
	for (unsigned shard = 0; shard < b->shards_n && err == 0; shard++)
		if (l->fds[shard] >= 0 && listen(l->fds[shard], BACKLOG) != 0)
			err = -errno;
	return err;
}

int listeners_listen(struct broker *b, const struct config *config, char *problem, size_t size)
{
	for (size_t i = 0; i < b->listeners_n; i++) {
		const struct listener *l = &b->listeners[i];
		int err = listen_all(b, l, &config->listens[i]);

		if (err != 0) {
			say_problem(&config->listens[i], err, NULL, problem, size);
			return err;
		}
		if (l->unix_path == NULL && config->engine.steer == STEER_CPU)
			steer(b, l);
	}
	return 0;
}

/* The file may be a successor's by now. Ours cannot have had its number taken while the socket is
 * open. */
void listeners_unlink(const struct broker *b)
{
	struct stat st;

	for (size_t i = 0; i < b->listeners_n; i++) {
		const struct listener *l = &b->listeners[i];

		if (l->unix_path != NULL && lstat(l->unix_path, &st) == 0 &&
		    st.st_dev == l->unix_device && st.st_ino == l->unix_inode)
			(void)unlink(l->unix_path);
	}
}

void listeners_close(struct broker *b)
{
	listeners_unlink(b);
	for (size_t i = 0; i < b->listeners_n; i++) {
		struct listener *l = &b->listeners[i];

		for (unsigned shard = 0; l->fds != NULL && shard < b->shards_n; shard++)
			if (l->fds[shard] >= 0)
				close(l->fds[shard]);
		keyring_unref(atomic_load(&l->keyring));
		free(l->title);
		free(l->proxies);
		free(l->unix_path);
		free(l->address);
		free(l->fds);
	}
	free(b->listeners);
	address_book_free(b->addresses);
	b->listeners = NULL;
	b->listeners_n = 0;
	b->addresses = NULL;
}

static void arm(struct shard *s, uint32_t index)
{
	int fd = s->broker->listeners[index].fds[s->id];

	if (fd >= 0)
		ring_accept(s->reactor.ring, fd, user_data(OP_ACCEPT, 0, index));
}

static void cancel(struct shard *s, uint32_t index)
{
	ring_cancel(s->reactor.ring, user_data(OP_ACCEPT, 0, index), user_data(OP_IGNORE, 0, 0));
}

/* Arms it again in a while. */
static void wait_to_accept(struct shard *s, uint32_t index)
{
	s->accepting.waiting |= UINT64_C(1) << index % 64;
	if (!deadline_running(&s->accepting.again_deadline))
		reactor_deadline(&s->reactor, &s->accepting.again, &s->accepting.again_deadline);
}

static bool held(const struct shard *s)
{
	return s->accepting.stopped || connections_rush(s);
}

/* So many handshakes are under way that who comes next waits in the kernel's queue. */
static bool is_crowded(const struct shard *s, uint32_t index)
{
	return s->broker->listeners[index].secure &&
	       s->sockets.tls.counts.pending >= s->config->limits.tls_handshakes;
}

static void accepted(void *context, const struct completion *c)
{
	struct shard *s = context;
	uint32_t index = user_data_slot(c->user_data);

	if (c->result >= 0) {
		connection_open(s, c->result, index);
		reactor_spend(&s->reactor, ACCEPT_COST);
	}
	if (s->accepting.ended)
		return;
	if (held(s)) {
		/* The first cancellation may have come while it was not to be found. */
		if (c->more)
			cancel(s, index);
		else
			wait_to_accept(s, index);
		return;
	}
	if (is_crowded(s, index)) {
		if (c->more)
			cancel(s, index);
		else
			s->accepting.crowded |= UINT64_C(1) << index % 64;
		return;
	}
	if (c->more)
		return;
	/* -ECANCELED: held, but not any more. */
	if (c->result >= 0 || c->result == -ECONNABORTED || c->result == -EAGAIN ||
	    c->result == -EINTR || c->result == -ECANCELED) {
		arm(s, index);
		return;
	}
	/* Armed again at once it would fail at once: wait until somebody has left, or whatever it
	 * is is over. */
	if (!deadline_running(&s->accepting.again_deadline))
		log_warn("reactor %u: cannot accept: %s; trying again every %d ms", s->id,
			 strerror(-c->result), ACCEPT_PAUSE_MS);
	wait_to_accept(s, index);
}

static void accept_again(void *context, struct deadline *d)
{
	struct shard *s = context;
	uint64_t waiting = s->accepting.waiting;

	if (s->accepting.ended)
		return;
	if (held(s)) {
		reactor_deadline(&s->reactor, &s->accepting.again, d);
		return;
	}
	s->accepting.waiting = 0;
	for (uint32_t i = 0; i < s->broker->listeners_n; i++)
		if (waiting & UINT64_C(1) << i % 64)
			arm(s, i);
}

void listeners_resume(struct shard *s)
{
	uint64_t crowded = s->accepting.crowded;

	if (crowded == 0 || s->accepting.ended ||
	    s->sockets.tls.counts.pending > s->config->limits.tls_handshakes / 2)
		return;
	s->accepting.crowded = 0;
	for (uint32_t i = 0; i < s->broker->listeners_n; i++)
		if (crowded & UINT64_C(1) << i % 64 && s->broker->listeners[i].secure)
			arm(s, i);
}

void listeners_init(struct shard *s)
{
	reactor_handle(&s->reactor, OP_ACCEPT, accepted, s);
	deadline_class_init(&s->accepting.again, ACCEPT_PAUSE_MS * NS_PER_MS);
	deadline_init(&s->accepting.again_deadline);
	reactor_watch(&s->reactor, &s->accepting.again, accept_again, s);
}

void listeners_start(struct shard *s)
{
	for (uint32_t i = 0; i < s->broker->listeners_n; i++)
		arm(s, i);
}

void listeners_stop(struct shard *s)
{
	if (s->accepting.ended)
		return;
	s->accepting.ended = true;
	deadline_stop(&s->accepting.again_deadline);
	for (uint32_t i = 0; i < s->broker->listeners_n; i++) {
		int *fd = &s->broker->listeners[i].fds[s->id];

		if (*fd < 0)
			continue;
		/* A closed listener with an accept armed would go on accepting. */
		cancel(s, i);
		ring_shutdown(s->reactor.ring, *fd, SHUT_RDWR);
	}
}

void listeners_hold(struct shard *s, bool hold)
{
	s->accepting.stopped = hold;
	if (s->accepting.ended || !hold)
		return; /* accept_again finds it */
	for (uint32_t i = 0; i < s->broker->listeners_n; i++)
		if (s->broker->listeners[i].fds[s->id] >= 0)
			cancel(s, i);
}

void listeners_configure(struct shard *s)
{
	for (uint32_t i = 0; i < s->broker->listeners_n; i++) {
		int fd = s->broker->listeners[i].fds[s->id];

		if (fd >= 0)
			ring_listen_options(fd, s->config->limits.send_buffer_bytes,
					    silence_ms(s->config));
	}
}
