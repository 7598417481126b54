#include "admin/upstream_check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "base/server.h"
#include "engine/cipher.h"
#include "engine/keyring.h"
#include "engine/lookup.h"
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
	struct keyring *keyring;
	struct cipher *cipher; /* NULL: in clear */
	size_t len;
	char text[TALK_BYTES];
	struct nats_server info;
};

/* Of the cipher, or in clear. */
static bool send_all(void *context, const char *data, size_t len)
{
	const struct talk *t = context;

	while (len > 0) {
		ssize_t n = send(t->fd, data, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

static bool say(struct talk *t, struct span text)
{
	return t->cipher != NULL ? cipher_write(t->cipher, text.data, text.len)
				 : send_all(t, text.data, text.len);
}

/* Some more of what it says, behind what is there. False: nothing more comes. */
static bool more(struct talk *t)
{
	char sealed[CIPHER_RECORD_BYTES];
	size_t room = sizeof(t->text) - t->len, got = 0;
	char *to = t->text + t->len;
	struct span in = { sealed, 0 };
	ssize_t n;

	if (room < sizeof(sealed))
		return false;
	n = recv(t->fd, t->cipher != NULL ? sealed : to, sizeof(sealed), 0);
	if (n <= 0)
		return false;
	if (t->cipher == NULL) {
		t->len += (size_t)n;
		return true;
	}
	in.len = (size_t)n;
	while (in.len > 0) {
		enum cipher_result result = cipher_read(t->cipher, &in, t->text + t->len,
							sizeof(t->text) - t->len, &got);

		t->len += got;
		if (result != CIPHER_DONE)
			return result == CIPHER_MORE;
	}
	return true;
}

/* Why a server goes away behind the handshake; it may do so before its word has come. */
static const char *upset(const struct cipher *cipher)
{
	const char *problem = cipher_problem(cipher);

	/* What is said to nobody has no memory to go to. */
	return problem != NULL && cipher->failure != CIPHER_FAILURE_MEMORY
		       ? problem
		       : "it has closed the connection: does it ask for a certificate?";
}

/* The handshake. NULL: it is well; else why not. */
static const char *secure(struct talk *t, const struct server *server)
{
	char bytes[CIPHER_RECORD_BYTES];
	struct span in = { NULL, 0 };
	enum cipher_result result;
	ssize_t n = 0;

	t->cipher = cipher_new(t->keyring, server->host, send_all, t);
	if (t->cipher == NULL)
		return "out of memory";
	while ((result = cipher_handshake(t->cipher, &in)) == CIPHER_MORE) {
		n = recv(t->fd, bytes, sizeof(bytes), 0);
		if (n <= 0)
			return "it does not answer";
		in = (struct span){ bytes, (size_t)n };
	}
	/* Nothing is said behind a handshake but by the library itself. */
	if (result == CIPHER_DONE && in.len > 0)
		(void)cipher_read(t->cipher, &in, t->text, sizeof(t->text), &t->len);
	return result == CIPHER_DONE ? NULL : upset(t->cipher);
}

/* The next thing said, of which `used` bytes are to be dropped (drop) when it has been looked at.
 * False: nothing more comes. */
static bool hear(struct talk *t, struct nats_said *said, struct span *body, size_t *used)
{
	for (;;) {
		struct span in = { t->text, t->len };

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
		if (!more(t))
			return false;
	}
}

static void drop(struct talk *t, size_t used)
{
	memmove(t->text, t->text + used, t->len - used);
	t->len -= used;
}

static bool dial(struct talk *t, const struct address *to)
{
	const struct timeval wait = { .tv_sec = WAIT_SECONDS };
	struct sockaddr_storage address;
	socklen_t bytes = address_socket(to, &address);
	int err;

	t->len = 0;
	t->fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (t->fd < 0)
		return false;
	(void)setsockopt(t->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	(void)setsockopt(t->fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	if (connect(t->fd, (const struct sockaddr *)&address, bytes) == 0)
		return true;
	err = errno;
	close(t->fd);
	errno = err;
	return false;
}

/* The first of its addresses that takes the connection. NULL: one did; else why not. */
static const char *reach(struct talk *t, const struct server *server)
{
	struct address addresses[LOOKUP_ADDRESSES_MAX] = { server->address };
	const char *problem = NULL;
	unsigned n = 1;

	if (!server->numeric)
		n = lookup_now(server->host, server->address.port, addresses, LOOKUP_ADDRESSES_MAX,
			       &problem);
	for (unsigned i = 0; i < n; i++) {
		if (dial(t, &addresses[i]))
			return NULL;
		problem = strerror(errno);
	}
	return problem;
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

__attribute__((format(printf, 2, 3))) static void warn(FILE *out, const char *format, ...)
{
	char text[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (out != NULL)
		fprintf(out, "%s\n", text);
	else
		log_warn("%s", text);
}

/* What is wrong with the stream: false. */
static bool judge(const struct talk *t, const struct config_upstream *u, struct span json,
		  FILE *out, char *problem, size_t size)
{
	const struct jetstream_wanted wanted = { .name = u->stream,
						 .topics = u->topics,
						 .topics_n = u->topics_kept_n,
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
	if (s.replicas > 1 && !jetstream_at_least(t->info.version, 2, 11))
		warn(out,
		     "upstream: stream %s has %" PRIu64 " replicas, which nats-server %s has "
		     "been seen to let disagree when a leader is cut off; use one, or 2.11",
		     u->stream, s.replicas, t->info.version);
	return true;
}

/* INFO has come, and nothing behind it: TLS where it is spoken, and who the broker is. */
static bool meet(struct talk *t, const struct config_upstream *u, const struct server *server,
		 struct span info, FILE *out, char *problem, size_t size)
{
	const char *wrong = NULL;

	if (!nats_server(info, &t->info))
		return false;
	t->len = 0;
	if (t->info.tls_required || (server->tls && t->info.tls_available))
		wrong = secure(t, server);
	else if (server->tls)
		wrong = "it speaks none, which tls:// asks for";
	if (wrong == NULL)
		return greet(t, u);
	/* At a start it may be mended a moment later. */
	if (out != NULL)
		snprintf(problem, size, "%s: TLS: %s", server->host, wrong);
	return false;
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
			greeted =
				t->len == used && meet(t, u, server, said.text, out, problem, size);
			if (!greeted)
				break;
			used = 0;
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
	if (!judged || !ponged) {
		/* It may not have liked what it was shown. */
		if (out != NULL && t->cipher != NULL && *problem == 0)
			snprintf(problem, size, "%s: TLS: %s", server->host, upset(t->cipher));
		return false;
	}
	if (out == NULL)
		return true;
	fprintf(out, "upstream \"%s\": %s (%s, nats-server %s)%s%s\n", u->title, server->host,
		t->info.name, t->info.version, *u->stream != 0 ? ", stream " : "", u->stream);
	if (config->limits.message_bytes + HEADERS_KEPT > t->info.max_payload)
		fprintf(out, "upstream: messages of more than %" PRIu64 " bytes are refused\n",
			t->info.max_payload - HEADERS_KEPT);
	return true;
}

/* False: this one has answered, and its answer is bad; *answered: or good. */
static bool check_server(struct talk *t, const struct config *config, const char *text, FILE *out,
			 char *problem, size_t size, bool *answered)
{
	struct server server;
	const char *unreached;

	if (server_parse(span_of(text), &server) != NULL)
		return true;
	unreached = reach(t, &server);
	if (unreached != NULL) {
		if (out != NULL)
			fprintf(out, "upstream: %s: %s\n", text, unreached);
		return true;
	}
	*answered = ask(t, config, &server, out, problem, size);
	close(t->fd);
	cipher_free(t->cipher);
	t->cipher = NULL;
	return *answered || *problem == 0;
}

bool upstream_check(const struct config *config, FILE *out, char *problem, size_t size)
{
	static struct talk talk;
	const struct config_upstream *u = config->upstreams;
	bool sound = true, answered = false;

	*problem = 0;
	if (config->upstreams_n == 0)
		return true;
	if (keyring_load_client(&u->tls, &talk.keyring, stderr) != 0) {
		snprintf(problem, size, "its tls section cannot be used");
		return false;
	}
	for (size_t i = 0; sound && !answered && i < u->servers_n; i++)
		sound = check_server(&talk, config, u->servers[i], out, problem, size, &answered);
	keyring_unref(talk.keyring);
	if (sound && !answered && out != NULL)
		fprintf(out, "upstream \"%s\": no server answers\n", u->title);
	return sound;
}
