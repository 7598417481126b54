#include "load/client.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load/secure.h"
#include "load/worker.h"

enum { ANSWER_MAX = 4096 }; /* bytes; more than any broker says before it is ready */

struct handshake {
	struct wire_event (*opened)(struct span in);
	struct wire_event (*opened_more)(struct span in);
	unsigned more; /* answers that are still to come behind the first */
	void (*ready)(struct client *client);
	char *hello;
	size_t hello_len, said; /* so many bytes of it have left */
	char *answer;
	size_t answer_len;
};

static void handshake_free(struct handshake *h)
{
	if (h != NULL) {
		free(h->answer);
		free(h->hello);
	}
	free(h);
}

void client_fail(struct client *c, const char *format, ...)
{
	char what[384];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	run_fail(c->worker->run, "%s %u of topic %u: %s", c->kind, c->number, c->topic, what);
}

void client_lost(struct client *c, int error)
{
	const char *why = secure_problem(&c->socket, error);

	if (why != NULL)
		client_fail(c, "TLS: %s", why);
	else if (error != 0)
		client_fail(c, "the connection broke: %s", strerror(-error));
	else
		client_fail(c, "the broker closed the connection");
}

/* While the cipher has something to say itself, `sent` follows. */
static void say_hello(struct client *c)
{
	struct handshake *h = c->handshake;
	struct iovec span = { h->hello + h->said, h->hello_len - h->said };

	if (!c->socket.sending)
		socket_send(&c->worker->sockets, &c->socket, &span, 1);
}

/* Takes the answers that have come but for the last. */
static struct wire_event next_answer(struct handshake *h)
{
	struct wire_event e = h->opened((struct span){ h->answer, h->answer_len });

	while (e.result == WIRE_MESSAGE && h->more > 0) {
		h->answer_len -= e.used;
		memmove(h->answer, h->answer + e.used, h->answer_len);
		h->opened = h->opened_more;
		h->more--;
		if (h->answer_len == 0)
			return wire_more();
		e = h->opened((struct span){ h->answer, h->answer_len });
	}
	return e;
}

/* The client is its owner's once the hello has left and the broker has agreed. */
static void handshake_advance(struct client *c)
{
	struct handshake *h = c->handshake;
	struct wire_event e;

	if (h->answer_len == 0)
		return;
	e = next_answer(h);
	if (e.result == WIRE_BAD || (e.result == WIRE_MORE && h->answer_len > ANSWER_MAX)) {
		if (e.result == WIRE_MORE)
			e.payload = (struct span){ h->answer, h->answer_len };
		client_fail(c, "the broker refuses: %.*s",
			    (int)(e.payload.len < 200 ? e.payload.len : 200), e.payload.data);
		return;
	}
	if (e.result != WIRE_MESSAGE || h->said < h->hello_len)
		return;
	c->handshake = NULL;
	c->worker->handshakes--;
	h->ready(c);
	/* What came behind the answer. */
	if (h->answer_len > e.used && !c->socket.closing)
		c->received(c, h->answer + e.used, h->answer_len - e.used, 0);
	handshake_free(h);
}

static void handshake_sent(struct client *c, int result)
{
	struct handshake *h = c->handshake;

	/* 0: it is secure now, and may speak. */
	if (result < 0) {
		client_lost(c, result);
		return;
	}
	h->said += (size_t)result;
	if (h->said < h->hello_len)
		say_hello(c);
	else
		handshake_advance(c);
}

/* Adds what has come to the answer; false: that is the end. */
static bool take_answer(struct client *c, const char *data, size_t len, int error)
{
	struct handshake *h = c->handshake;
	char *answer;

	if (len == 0) {
		client_lost(c, error);
		return false;
	}
	answer = realloc(h->answer, h->answer_len + len);
	if (answer == NULL) {
		client_fail(c, "out of memory");
		return false;
	}
	memcpy(answer + h->answer_len, data, len);
	h->answer = answer;
	h->answer_len += len;
	return true;
}

static void handshake_received(struct client *c, const char *data, size_t len, int error)
{
	if (take_answer(c, data, len, error))
		handshake_advance(c);
}

/* One that fails here is closed with all the others. */
static void go_secure(struct client *c)
{
	int err = secure_dial(c->worker, c);

	c->received = handshake_received;
	if (err != 0)
		client_fail(c, "TLS: %s", strerror(-err));
}

/* What the server says in clear; then it waits for a ClientHello. */
static void greeting_received(struct client *c, const char *data, size_t len, int error)
{
	struct handshake *h = c->handshake;
	struct span line;
	size_t used;

	if (!take_answer(c, data, len, error))
		return;
	if (!wire_line_in((struct span){ h->answer, h->answer_len }, &line, &used)) {
		if (h->answer_len > ANSWER_MAX)
			client_fail(c, "the broker greets without end");
		return;
	}
	if (used < h->answer_len) {
		client_fail(c, "the broker says more than a greeting before TLS");
		return;
	}
	h->answer_len = 0;
	go_secure(c);
}

static int dial(const struct address *to)
{
	int one = 1, fd = socket(to->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int err;

	if (fd < 0)
		return -errno;
	while (connect(fd, (const struct sockaddr *)&to->storage, to->len) != 0) {
		if (errno == EINTR)
			continue;
		err = -errno;
		close(fd);
		return err;
	}
	if (to->storage.ss_family != AF_UNIX)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void explain_dial(struct client *c, const char *endpoint, int err)
{
	const char *hint = "";

	if (err == -EMFILE || err == -ENFILE)
		hint = "; raise the limit of open files (ulimit -n)";
	else if (err == -EADDRNOTAVAIL)
		hint = "; no local port is left: see net.ipv4.ip_local_port_range";
	else if (err == -ECONNREFUSED || err == -ENOENT)
		hint = "; is the broker running there?";
	run_fail(c->worker->run, "cannot connect to %s: %s%s", endpoint, strerror(-err), hint);
}

bool client_open(struct worker *w, struct client *c, const struct client_handshake *p)
{
	const struct options *o = w->run->options;
	struct handshake *h = calloc(1, sizeof(*h));
	bool elsewhere = p->publishes && o->publish_to != NULL;
	int fd, err;

	c->worker = w;
	if (h != NULL)
		h->hello = malloc(p->hello.len);
	if (h == NULL || h->hello == NULL) {
		run_fail(w->run, "out of memory");
		handshake_free(h);
		return false;
	}
	fd = dial(elsewhere ? &o->publish_address : &o->address);
	if (fd < 0) {
		explain_dial(c, elsewhere ? o->publish_to : o->endpoint, fd);
		handshake_free(h);
		return false;
	}
	err = socket_open(&w->sockets, &c->socket, fd);
	if (err != 0) {
		run_fail(w->run, "cannot take another connection: %s", strerror(-err));
		close(fd);
		handshake_free(h);
		return false;
	}
	h->opened = p->opened;
	h->ready = p->ready;
	h->opened_more = p->opened_more;
	h->more = p->more;
	memcpy(h->hello, p->hello.data, p->hello.len);
	h->hello_len = p->hello.len;
	c->handshake = h;
	c->received = handshake_received;
	c->sent = handshake_sent;
	c->open = true;
	w->handshakes++;
	if (w->run->keyring == NULL)
		say_hello(c);
	else if (w->run->options->wire->greets)
		c->received = greeting_received;
	else
		go_secure(c);
	socket_receive(&w->sockets, &c->socket);
	return true;
}

bool client_pong(struct client *c)
{
	const char *pong = c->worker->run->options->wire->pong;
	struct iovec span;
	char *bytes;

	if (!c->pong || c->socket.sending || c->socket.closing)
		return c->answering;
	/* An iovec wants bytes that may be written to; nobody does. */
	memcpy(&bytes, &pong, sizeof(bytes));
	span = (struct iovec){ bytes, strlen(pong) };
	c->pong = false;
	c->answering = true;
	socket_send(&c->worker->sockets, &c->socket, &span, 1);
	return true;
}

static void received(struct socket *socket, const char *data, size_t len, int error)
{
	struct client *c = (struct client *)(void *)socket;

	c->received(c, data, len, error);
}

static void sent(struct socket *socket, int result)
{
	struct client *c = (struct client *)(void *)socket;

	if (socket->closing)
		return;
	/* Nothing of it has gone: there was no buffer to seal it in. */
	c->pong |= c->answering && result == 0;
	c->sent(c, result);
}

static void closed(struct socket *socket)
{
	struct client *c = (struct client *)(void *)socket;

	c->open = false;
	handshake_free(c->handshake);
	c->handshake = NULL;
	if (c->closed != NULL)
		c->closed(c);
}

static void secured(struct socket *socket)
{
	struct client *c = (struct client *)(void *)socket;

	secure_done(c->worker, c);
}

const struct socket_events client_events = {
	.received = received, .sent = sent, .closed = closed, .secured = secured
};
