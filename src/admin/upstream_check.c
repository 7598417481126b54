#include "admin/upstream_check.h"

#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/config.h"
#include "base/server.h"
#include "protocol/jetstream.h"
#include "protocol/nats.h"
#include "session/upstream.h"

enum {
	LINE_BYTES_MAX = 32 << 10,
	TALK_BYTES = 128 << 10,
	WAIT_SECONDS = 2,
	HEADERS_KEPT = 1 << 10
};

/* A connection to one server, and what has come from it. */
struct talk {
	int fd;
	size_t len;
	char text[TALK_BYTES];
	struct nats_server info;
};

static bool say(const struct talk *t, struct span text)
{
	while (text.len > 0) {
		ssize_t n = send(t->fd, text.data, text.len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		text = span_skip(text, (size_t)n);
	}
	return true;
}

/* The next thing said, of which `used` bytes are to be dropped (drop) when it has been looked at.
 * False: nothing more comes. */
static bool hear(struct talk *t, struct nats_said *said, struct span *body, size_t *used)
{
	for (;;) {
		struct span in = { t->text, t->len };
		ssize_t n;

		nats_said(in, LINE_BYTES_MAX, said, used);
		if (said->kind == NATS_SAID_NONSENSE)
			return false;
		if (said->kind == NATS_SAID_MESSAGE && t->len >= *used + said->bytes + 2) {
			*body = (struct span){ t->text + *used, said->bytes };
			*used += said->bytes + 2;
			return true;
		}
		if (said->kind != NATS_SAID_MORE && said->kind != NATS_SAID_MESSAGE)
			return true;
		if (t->len == sizeof(t->text))
			return false;
		n = recv(t->fd, t->text + t->len, sizeof(t->text) - t->len, 0);
		if (n <= 0)
			return false;
		t->len += (size_t)n;
	}
}

static void drop(struct talk *t, size_t used)
{
	memmove(t->text, t->text + used, t->len - used);
	t->len -= used;
}

static bool dial(struct talk *t, const struct server *server)
{
	const struct timeval wait = { .tv_sec = WAIT_SECONDS };
	struct sockaddr_storage address;
	socklen_t bytes = address_socket(&server->address, &address);

	t->len = 0;
	t->fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (t->fd < 0)
		return false;
	(void)setsockopt(t->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	(void)setsockopt(t->fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	if (connect(t->fd, (const struct sockaddr *)&address, bytes) == 0)
		return true;
	close(t->fd);
	return false;
}

/* CONNECT, and a question after the stream where there is one. */
static bool greet(struct talk *t, const struct config_upstream *u)
{
	char user[UPSTREAM_SECRET_MAX] = "", pass[UPSTREAM_SECRET_MAX] = "",
	     token[UPSTREAM_SECRET_MAX] = "", text[NATS_LOGIN_MAX];
	const struct nats_login login = {
		.name = "broker --check", .user = user, .pass = pass, .token = token
	};
	size_t n;

	snprintf(user, sizeof(user), "%s", u->user);
	if (upstream_secret(u->password_file, pass) != 0 ||
	    upstream_secret(u->token_file, token) != 0)
		return false;
	n = nats_login(&login, text);
	if (n == 0 || !say(t, (struct span){ text, n }))
		return false;
	if (u->log == CONFIG_LOG_JETSTREAM) {
		n = (size_t)snprintf(text, sizeof(text),
				     "SUB _INBOX.check 1\r\nPUB " JETSTREAM_INFO
				     "%s _INBOX.check 0\r\n\r\n",
				     u->stream);
		if (!say(t, (struct span){ text, n }))
			return false;
	}
	return say(t, SPAN("PING\r\n"));
}

/* What is wrong with the stream: false. */
static bool judge(const struct talk *t, const struct config_upstream *u, struct span json,
		  FILE *out, char *problem, size_t size)
{
	const struct jetstream_wanted wanted = { .name = u->stream,
						 .topics = u->topics,
						 .topics_n = u->topics_n,
						 .publish_prefix = u->publish_prefix,
						 .deliver_prefix = u->deliver_prefix };
	struct jetstream_stream s;

	if (!jetstream_stream(json, &s)) {
		snprintf(problem, size, "JetStream says nothing of stream %s", u->stream);
		return false;
	}
	if (s.error == JETSTREAM_NONE && u->create)
		return true;
	if (s.error != 0) {
		snprintf(problem, size, "stream %s: %s%s", u->stream, s.wrong,
			 s.error == JETSTREAM_NONE ? ", make it or use create = true" : "");
		/* One without a leader has one soon. */
		return s.error != JETSTREAM_NONE;
	}
	if (jetstream_stream_wrong(&s, &wanted, problem, size))
		return false;
	if (out != NULL && s.replicas > 1 && !jetstream_at_least(t->info.version, 2, 11))
		fprintf(out,
			"upstream: stream %s has %" PRIu64 " replicas, which nats-server %s has "
			"been seen to let disagree when a leader is cut off; use one, or 2.11\n",
			u->stream, s.replicas, t->info.version);
	return true;
}

/* Whether this server has answered; false with a problem: it is what is wrong. */
static bool ask(struct talk *t, const struct config *config, const struct server *server, FILE *out,
		char *problem, size_t size)
{
	const struct config_upstream *u = &config->upstreams[0];
	bool greeted = false, judged = u->log != CONFIG_LOG_JETSTREAM, ponged = false;
	struct nats_said said;
	struct span body;
	size_t used;

	while ((!judged || !ponged) && hear(t, &said, &body, &used)) {
		if (said.kind == NATS_SAID_INFO && !greeted) {
			greeted = nats_server(said.text, &t->info) && greet(t, u);
			if (!greeted)
				return false;
		} else if (said.kind == NATS_SAID_ERROR) {
			/* At a start it may have changed its mind a moment later. */
			if (out != NULL)
				snprintf(problem, size, "%s says %.*s", server->host,
					 (int)said.text.len, said.text.data);
			return false;
		} else if (said.kind == NATS_SAID_PONG) {
			ponged = true;
		} else if (said.kind == NATS_SAID_MESSAGE) {
			const struct span headers = { body.data, said.header_bytes };

			judged = true;
			if (jetstream_status(headers) != 0 && out == NULL)
				return false;
			if (jetstream_status(headers) != 0) {
				snprintf(problem, size, "%s has no JetStream", server->host);
				return false;
			}
			if (!judge(t, u, span_skip(body, said.header_bytes), out, problem, size))
				return false;
		}
		drop(t, used);
	}
	if (!judged || !ponged)
		return false;
	if (out == NULL)
		return true;
	fprintf(out, "upstream \"%s\": %s (%s, nats-server %s)%s%s\n", u->title, server->host,
		t->info.name, t->info.version, *u->stream != 0 ? ", stream " : "", u->stream);
	if (config->limits.message_bytes + HEADERS_KEPT > t->info.max_payload)
		fprintf(out, "upstream: messages of more than %" PRIu64 " bytes are refused\n",
			t->info.max_payload - HEADERS_KEPT);
	return true;
}

bool upstream_check(const struct config *config, FILE *out, char *problem, size_t size)
{
	static struct talk talk;
	const struct config_upstream *u = config->upstreams;

	*problem = 0;
	for (size_t i = 0; config->upstreams_n > 0 && i < u->servers_n; i++) {
		struct server server;
		bool answered;

		if (server_parse(span_of(u->servers[i]), &server) != NULL || !server.numeric ||
		    !dial(&talk, &server))
			continue;
		answered = ask(&talk, config, &server, out, problem, size);
		close(talk.fd);
		if (answered)
			return true;
		if (*problem != 0)
			return false;
	}
	if (config->upstreams_n > 0 && out != NULL)
		fprintf(out, "upstream \"%s\": no server answers\n", u->title);
	return true;
}
