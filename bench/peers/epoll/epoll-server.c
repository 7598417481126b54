/*
 * The honest simple answer to fan-out: one thread, one epoll, blocking nowhere. All complete lines
 * of one read go to every subscriber in one write, and what a socket does not take waits in that
 * subscriber's own buffer for EPOLLOUT. It speaks the line protocol without replay, and trusts its
 * publishers to end lines with CR LF: bytes are forwarded as they came.
 *
 *     epoll-server [--one-write-per-message] PORT
 */

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	READ_BYTES = 128 * 1024, /* first size of a read buffer; doubles for a longer line */
	LINE_BYTES_MAX = 2 * 1024 * 1024,     /* a longer line closes its publisher */
	COMMAND_BYTES_MAX = 4096,             /* the same for a longer command */
	PENDING_BYTES_MAX = 64 * 1024 * 1024, /* a subscriber further behind is closed */
	TOPIC_BYTES_MAX = 255,
	TOPIC_BUCKETS = 4096,
	EVENTS_MAX = 256,
};

enum role { ROLE_COMMAND, ROLE_PUBLISHER, ROLE_SUBSCRIBER, ROLE_CLOSED };

struct buffer {
	char *data;
	size_t from, len, size; /* len bytes wait at data + from */
};

struct conn {
	int fd;
	enum role role;
	size_t slot; /* of a subscriber: its index in the topic's list */
	struct topic *topic;
	struct conn *next_closed;
	struct buffer in, out;
};

struct topic {
	struct topic *next;
	struct conn **subscribers;
	size_t count, size;
	char name[TOPIC_BYTES_MAX + 1];
};

static struct topic *topics[TOPIC_BUCKETS];
static struct conn *closed; /* freed after the batch of events that may still name them */
static int epoll_fd;
static bool one_write_per_message;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "epoll-server: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *grow(void *old, size_t bytes)
{
	void *new = realloc(old, bytes);

	if (!new)
		die("memory");
	return new;
}

static void buffer_reserve(struct buffer *b, size_t bytes)
{
	size_t size = b->size ? b->size : READ_BYTES;

	while (size < b->from + b->len + bytes)
		size *= 2;
	if (size != b->size)
		b->data = grow(b->data, size);
	b->size = size;
}

static void buffer_release(struct buffer *b)
{
	free(b->data);
	*b = (struct buffer){ 0 };
}

static struct topic *topic_find(const char *name, size_t len)
{
	uint32_t hash = 2166136261u;
	struct topic *t;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (unsigned char)name[i]) * 16777619u;
	for (t = topics[hash % TOPIC_BUCKETS]; t; t = t->next)
		if (strlen(t->name) == len && memcmp(t->name, name, len) == 0)
			return t;
	t = grow(NULL, sizeof(*t));
	*t = (struct topic){ .next = topics[hash % TOPIC_BUCKETS] };
	memcpy(t->name, name, len);
	return topics[hash % TOPIC_BUCKETS] = t;
}

static void topic_subscribe(struct topic *t, struct conn *c)
{
	if (t->count == t->size) {
		t->size = t->size ? t->size * 2 : 8;
		t->subscribers = grow(t->subscribers, t->size * sizeof(struct conn *));
	}
	c->slot = t->count;
	t->subscribers[t->count++] = c;
}

static void conn_close(struct conn *c)
{
	if (c->role == ROLE_CLOSED)
		return;
	if (c->role == ROLE_SUBSCRIBER) {
		struct conn *last = c->topic->subscribers[--c->topic->count];

		c->topic->subscribers[c->slot] = last;
		last->slot = c->slot;
	}
	close(c->fd);
	buffer_release(&c->in);
	buffer_release(&c->out);
	c->role = ROLE_CLOSED;
	c->next_closed = closed;
	closed = c;
}

static void conn_watch(struct conn *c, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = c };

	if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) < 0)
		die("epoll_ctl");
}

/* Writes what the socket takes and keeps the rest; too much of it, or an error, closes. */
static void conn_send(struct conn *c, const char *data, size_t len)
{
	ssize_t n = 0;

	if (c->out.len == 0) {
		n = send(c->fd, data, len, MSG_NOSIGNAL);
		if (n == (ssize_t)len)
			return;
		if (n < 0 && errno != EAGAIN) {
			conn_close(c);
			return;
		}
		n = n < 0 ? 0 : n;
		conn_watch(c, EPOLLIN | EPOLLOUT);
	}
	len -= (size_t)n;
	if (c->out.len + len > PENDING_BYTES_MAX) {
		conn_close(c);
		return;
	}
	if (c->out.from > c->out.len) {
		memcpy(c->out.data, c->out.data + c->out.from, c->out.len);
		c->out.from = 0;
	}
	buffer_reserve(&c->out, len);
	memcpy(c->out.data + c->out.from + c->out.len, data + n, len);
	c->out.len += len;
}

static void conn_flush(struct conn *c)
{
	ssize_t n = send(c->fd, c->out.data + c->out.from, c->out.len, MSG_NOSIGNAL);

	if (n < 0) {
		if (errno != EAGAIN)
			conn_close(c);
		return;
	}
	c->out.from += (size_t)n;
	c->out.len -= (size_t)n;
	if (c->out.len > 0)
		return;
	c->out.from = 0;
	conn_watch(c, EPOLLIN);
}

static void topic_forward(struct topic *t, const char *data, size_t len)
{
	/* From the end: a subscriber that is closed on the way is replaced by one that was served.
	 */
	for (size_t i = t->count; len > 0 && i-- > 0;)
		conn_send(t->subscribers[i], data, len);
}

static bool line_is(const char *line, size_t len, const char *word)
{
	return len == strlen(word) && memcmp(line, word, len) == 0;
}

/* A topic's name is 1 to 255 bytes without a space or a control character. */
static bool name_is_good(const char *name, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)name[i] <= ' ' || name[i] == 0x7f)
			return false;
	return len > 0 && len <= TOPIC_BYTES_MAX;
}

static bool conn_command(struct conn *c, const char *line, size_t len)
{
	bool publish = len > 8 && memcmp(line, "PUBLISH ", 8) == 0;
	bool subscribe = len > 10 && memcmp(line, "SUBSCRIBE ", 10) == 0;
	size_t skip = publish ? 8 : 10;

	if (!publish && !subscribe) {
		conn_send(c, "ERROR malformed command\r\n", 25);
		return false;
	}
	if (!name_is_good(line + skip, len - skip)) {
		conn_send(c, "ERROR bad topic\r\n", 17);
		return false;
	}
	c->topic = topic_find(line + skip, len - skip);
	conn_send(c, "OK\r\n", 4);
	if (c->role == ROLE_CLOSED)
		return false;
	c->role = publish ? ROLE_PUBLISHER : ROLE_SUBSCRIBER;
	if (subscribe)
		topic_subscribe(c->topic, c);
	return true;
}

/* Takes the complete lines of what came and returns their bytes; false closes the connection. */
static bool conn_lines(struct conn *c, size_t *taken)
{
	const char *base = c->in.data, *line = base, *end = base + c->in.len, *forward = base, *eol;
	bool open = true;

	while (open && (eol = memchr(line, '\n', (size_t)(end - line)))) {
		size_t len = (size_t)(eol - line);

		len -= len > 0 && line[len - 1] == '\r';
		if (c->role == ROLE_COMMAND) {
			open = conn_command(c, line, len);
			forward = eol + 1;
		} else if (line_is(line, len, "BYE")) {
			open = false;
			break;
		} else if (c->role == ROLE_PUBLISHER && one_write_per_message) {
			topic_forward(c->topic, line, (size_t)(eol + 1 - line));
		}
		line = eol + 1;
	}
	if (c->role == ROLE_PUBLISHER && !one_write_per_message)
		topic_forward(c->topic, forward, (size_t)(line - forward));
	*taken = (size_t)(line - base);
	return open;
}

static void conn_read(struct conn *c)
{
	size_t taken = 0;
	ssize_t n;

	if (c->in.len == c->in.size)
		buffer_reserve(&c->in, 1);
	n = recv(c->fd, c->in.data + c->in.len, c->in.size - c->in.len, 0);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		goto close;
	c->in.len += (size_t)n;
	/* A long line comes in many reads: look only at what is new for its end. */
	if (memchr(c->in.data + c->in.len - n, '\n', (size_t)n) && !conn_lines(c, &taken))
		goto close;
	c->in.len -= taken;
	if (c->in.len > (c->role == ROLE_PUBLISHER ? LINE_BYTES_MAX : COMMAND_BYTES_MAX))
		goto close;
	if (c->in.len > 0)
		memmove(c->in.data, c->in.data + taken, c->in.len);
	else if (c->role == ROLE_SUBSCRIBER)
		buffer_release(&c->in);
	return;
close:
	conn_close(c);
}

static void accept_all(int listener)
{
	int fd;

	/* cppcheck-suppress nullPointer ; nobody asks for the address */
	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct conn *c = grow(NULL, sizeof(*c));
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };

		*c = (struct conn){ .fd = fd };
		if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
			die("epoll_ctl");
	}
	if (errno != EAGAIN && errno != ECONNABORTED)
		die("accept");
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 || /* inherited */
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4096) < 0)
		die("listen");
	return fd;
}

int main(int argc, char **argv)
{
	long port = argc > 1 ? strtol(argv[argc - 1], NULL, 10) : 0;
	struct epoll_event events[EVENTS_MAX], listening = { .events = EPOLLIN };
	struct rlimit files;
	int listener;

	one_write_per_message = argc == 3 && strcmp(argv[1], "--one-write-per-message") == 0;
	if (argc != 2 + one_write_per_message || port <= 0 || port > 65535) {
		fprintf(stderr, "usage: epoll-server [--one-write-per-message] PORT\n");
		return 2;
	}
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	listener = listen_on((uint16_t)port);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &listening) < 0)
		die("epoll");
	fprintf(stderr, "ready\n");

	for (;;) {
		int n = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);

		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;

			if (!c) {
				accept_all(listener);
				continue;
			}
			if (c->role != ROLE_CLOSED && (events[i].events & EPOLLOUT))
				conn_flush(c);
			if (c->role != ROLE_CLOSED && (events[i].events & ~(uint32_t)EPOLLOUT))
				conn_read(c);
		}
		while (closed) {
			struct conn *c = closed;

			closed = c->next_closed;
			free(c);
		}
	}
}
