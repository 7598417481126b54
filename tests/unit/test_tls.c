#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/memory.h"
#include "engine/keyring.h"
#include "engine/socket.h"

enum {
	BUFFERS = 16,
	BUFFER_BYTES = 4096,
	PEERS_MAX = 400,
	BOTH = 3, /* what a client may speak who asks for nothing, */
	HTTP = 2, /* and who asks for http/1.1 */
};

/* A secure socket on the reactor, and its client: OpenSSL's. */
struct peer {
	struct socket socket; /* first */
	int fd;
	SSL *ssl;
	char *got;            /* by the socket */
	size_t got_n, told_n; /* told: that have been sent */
	unsigned secured, ends, closes, sents;
	int error, sent;
	char *into;
	size_t into_len, into_n;
	unsigned records; /* of data, that the client has got */
	unsigned char alert;
};

static struct reactor reactor;
static struct sockets sockets;
static struct peer *peers[PEERS_MAX];
static SSL_CTX *client;
static struct keyring *keyring;
static struct config_tls config;
static char directory[] = "/tmp/test_tls.XXXXXX", chain_path[64], key_path[64];
enum { GOT_MAX = 1 << 21 };

static struct peer *peer_of(struct socket *s)
{
	return (struct peer *)(void *)s;
}

static void received(struct socket *s, const char *data, size_t len, int error)
{
	struct peer *p = peer_of(s);

	if (len == 0) {
		p->ends++;
		p->error = error;
		return;
	}
	assert_true(p->got_n + len <= GOT_MAX);
	if (p->into != NULL && data == p->into)
		p->into_n += len;
	memcpy(p->got + p->got_n, data, len);
	p->got_n += len;
}

static void sent(struct socket *s, int result)
{
	peer_of(s)->sents++;
	peer_of(s)->sent = result;
	if (result > 0)
		peer_of(s)->told_n += (size_t)result;
}

static void closed(struct socket *s)
{
	peer_of(s)->closes++;
}

static void secured(struct socket *s)
{
	peer_of(s)->secured++;
}

static const struct socket_events events = { received, sent, closed, secured };

static void letters(void *context, unsigned sender, enum mailbox_lane lane, void **list, unsigned n)
{
	(void)context;
	(void)sender;
	(void)lane;
	(void)list;
	(void)n;
}

static bool flush(void *context)
{
	(void)context;
	return sockets_flush(&sockets);
}

/* ---- certificates ---- */

static void make_certificate(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *one = X509_new();
	X509V3_CTX v3;
	X509_EXTENSION *names;
	FILE *f;

	assert_non_null(key);
	X509_set_version(one, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(one), 1);
	X509_gmtime_adj(X509_getm_notBefore(one), -60);
	X509_gmtime_adj(X509_getm_notAfter(one), 3600);
	X509_set_pubkey(one, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(one), "CN", MBSTRING_ASC,
				   (const unsigned char *)"test", -1, -1, 0);
	X509_set_issuer_name(one, X509_get_subject_name(one));
	X509V3_set_ctx(&v3, one, one, NULL, NULL, 0);
	names = X509V3_EXT_conf_nid(NULL, &v3, NID_subject_alt_name, "DNS:localhost");
	X509_add_ext(one, names, -1);
	X509_EXTENSION_free(names);
	X509_sign(one, key, EVP_sha256());
	f = fopen(chain_path, "w");
	assert_non_null(f);
	PEM_write_X509(f, one);
	fclose(f);
	umask(077);
	f = fopen(key_path, "w");
	assert_non_null(f);
	PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
	fclose(f);
	X509_free(one);
	EVP_PKEY_free(key);
}

static void load_keyring(void)
{
	static const struct keyring_protocol protocols[] = { { "http/1.1", HTTP }, { NULL, 0 } };
	static struct config_certificate certificate;
	struct config *defaults = config_defaults();
	static char title[] = "main";

	config = defaults->listens[0].tls;
	certificate =
		(struct config_certificate){ .title = title, .chain = chain_path, .key = key_path };
	config.certificates = &certificate;
	config.certificates_n = 1;
	assert_int_equal(keyring_load(&config, BOTH, protocols, NULL, &keyring, stderr), 0);
	config.certificates_n = 0;
	config_free(defaults);
}

/* ---- the world ---- */

static int begin_all(void **state)
{
	(void)state;
	keyring_begin();
	assert_non_null(mkdtemp(directory));
	snprintf(chain_path, sizeof(chain_path), "%s/chain", directory);
	snprintf(key_path, sizeof(key_path), "%s/key", directory);
	make_certificate();
	load_keyring();
	client = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_mode(client,
			 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	return 0;
}

static int end_all(void **state)
{
	(void)state;
	SSL_CTX_free(client);
	keyring_unref(keyring);
	unlink(chain_path);
	unlink(key_path);
	rmdir(directory);
	return 0;
}

static int begin(void **state)
{
	const struct reactor_owner owner = { .letters = letters, .flush = flush };
	const struct reactor_params params = {
		.completion_batch = 1024,
		.lane_batch = 1,
		.ring = { .sq_entries = 512,
			  .batch = 64,
			  .recv_buffers = BUFFERS,
			  .recv_buffer_bytes = BUFFER_BYTES },
	};

	(void)state;
	if (reactor_init(&reactor, &params, NULL, NULL, &owner) != 0)
		return -1;
	return sockets_init(&sockets, &reactor, &events, PEERS_MAX);
}

static void part(unsigned i)
{
	struct peer *p = peers[i];

	if (p == NULL)
		return;
	if (p->closes == 0) {
		socket_close(&sockets, &p->socket);
		while (p->closes == 0)
			reactor_turn(&reactor, false);
	}
	assert_int_equal(p->closes, 1);
	SSL_free(p->ssl);
	close(p->fd);
	free(p->got);
	free(p);
	peers[i] = NULL;
}

static int end(void **state)
{
	(void)state;
	for (unsigned i = 0; i < PEERS_MAX; i++)
		part(i);
	assert_int_equal(sockets.tls.counts.pending, 0);
	assert_int_equal(sockets.tls.pool_bytes, 0);
	sockets_release(&sockets);
	reactor_release(&reactor);
	return 0;
}

static void turns(void)
{
	for (int i = 0; i < 10; i++)
		reactor_turn(&reactor, false);
}

static void heard(int write, int version, int type, const void *data, size_t len, SSL *ssl,
		  void *arg)
{
	struct peer *p = arg;

	(void)version;
	(void)ssl;
	if (!write && type == SSL3_RT_ALERT && len == 2)
		p->alert = ((const unsigned char *)data)[1];
	/* Of TLS 1.2, where what a record holds shows. */
	if (!write && type == SSL3_RT_HEADER && ((const unsigned char *)data)[0] == 23)
		p->records++;
}

/* plain: not secure yet. */
static struct peer *peer_new(unsigned i, bool plain)
{
	struct peer *p = peers[i] = calloc(1, sizeof(*p));
	int pair[2];

	assert_non_null(p);
	p->got = malloc(GOT_MAX);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	p->fd = pair[1];
	fcntl(p->fd, F_SETFL, O_NONBLOCK);
	p->ssl = SSL_new(client);
	SSL_set_msg_callback(p->ssl, heard);
	SSL_set_msg_callback_arg(p->ssl, p);
	SSL_set_fd(p->ssl, p->fd);
	SSL_set_connect_state(p->ssl);
	assert_int_equal(socket_open(&sockets, &p->socket, pair[0]), 0);
	if (!plain)
		assert_int_equal(
			socket_secure(&sockets, &p->socket, keyring, (struct span){ NULL, 0 }), 0);
	socket_receive(&sockets, &p->socket);
	return p;
}

static void shake_hands(struct peer *p)
{
	for (int i = 0; i < 20 && (SSL_do_handshake(p->ssl) != 1 || p->secured == 0); i++)
		turns();
	assert_int_equal(p->secured, 1);
	turns();
	assert_false(p->socket.sending);
}

static struct peer *peer_secure(unsigned i)
{
	struct peer *p = peer_new(i, false);

	shake_hands(p);
	return p;
}

static void say(struct peer *p, const char *data, size_t n)
{
	for (int i = 0; n > 0 && i < 100000; i++) {
		int one = SSL_write(p->ssl, data, (int)n);

		if (one > 0) {
			data += one;
			n -= (size_t)one;
		}
		reactor_turn(&reactor, false);
	}
	assert_int_equal(n, 0);
	turns();
}

/* What the client hears: so many bytes, or up to now. */
static size_t hear(struct peer *p, char *out, size_t max)
{
	size_t n = 0, one;

	for (int still = 0; n < max && still < 50; still++) {
		turns();
		while (n < max && SSL_read_ex(p->ssl, out + n, max - n, &one) == 1) {
			n += one;
			still = 0;
		}
	}
	return n;
}

static char *noise(size_t n)
{
	char *data = malloc(n);
	uint32_t x = 1;

	assert_non_null(data);
	for (size_t i = 0; i < n; i++)
		data[i] = (char)((x = x * 1664525 + 1013904223) >> 24);
	return data;
}

/* Sends all of it, as the owner does: what has not gone, again. */
static void send_all(struct peer *p, const char *data, size_t n)
{
	size_t before = p->told_n;

	while (p->told_n - before < n) {
		struct iovec span = { (void *)(uintptr_t)(data + (p->told_n - before)),
				      n - (p->told_n - before) };

		if (!p->socket.sending)
			(void)socket_send(&sockets, &p->socket, &span, 1);
		reactor_turn(&reactor, false);
		if (p->socket.sending)
			return;
	}
}

/* ---- what comes and goes ---- */

static void bytes_come_and_go_as_if_they_were_plain(void **state)
{
	struct peer *p = peer_secure(0);
	struct iovec spans[] = { { (char[]){ "ab" }, 2 },
				 { (char[]){ "" }, 0 },
				 { (char[]){ "cde" }, 3 } };
	char out[100];

	(void)state;
	assert_int_equal(p->socket.tls->cipher->allows, BOTH);
	say(p, "hello", 5);
	assert_int_equal(p->got_n, 5);
	assert_memory_equal(p->got, "hello", 5);
	assert_int_equal(socket_send(&sockets, &p->socket, spans, 3), 5);
	assert_true(p->socket.sending);
	assert_int_equal(hear(p, out, 5), 5);
	assert_memory_equal(out, "abcde", 5);
	assert_int_equal(p->sent, 5);
	assert_false(p->socket.sending);
	assert_int_equal(sockets.tls.counts.records, 1);
}

static void nothing_is_sent_before_the_handshake_has_ended(void **state)
{
	struct peer *p = peer_new(0, false);

	(void)state;
	turns();
	assert_true(p->socket.sending);
	assert_true(socket_shakes_hands(&p->socket));
	assert_int_equal(sockets.tls.counts.pending, 1);
	assert_int_equal(p->sents, 0);
	shake_hands(p);
	assert_int_equal(p->sents, 1); /* now is the time */
	assert_int_equal(p->sent, 0);
	assert_int_equal(sockets.tls.counts.pending, 0);
	assert_int_equal(sockets.tls.counts.full, 1);
}

static void what_a_client_asks_for_is_what_is_left(void **state)
{
	struct peer *p = peer_new(0, false), *q = peer_new(1, false);

	(void)state;
	SSL_set_alpn_protos(p->ssl, (const unsigned char *)"\x02h2\x08http/1.1", 12);
	SSL_set_alpn_protos(q->ssl, (const unsigned char *)"\x02h2", 3);
	shake_hands(p);
	assert_int_equal(p->socket.tls->cipher->allows, HTTP);
	for (int i = 0; i < 20; i++) {
		SSL_do_handshake(q->ssl);
		turns();
	}
	assert_int_equal(q->alert, SSL_AD_NO_APPLICATION_PROTOCOL);
	assert_int_equal(q->error, -TLS_REFUSED);
	assert_int_equal(sockets.tls.counts.failed[CIPHER_FAILURE_ALPN], 1);
}

static void a_send_is_sealed_in_as_few_records_as_it_needs(void **state)
{
	static const size_t sizes[] = { 1, 100, 16384, 16385, 40000, 65536 };
	struct iovec spans[16];
	char *data = noise(1 << 16), *out = malloc(1 << 16);

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct peer *p = peer_secure((unsigned)i);
		uint64_t before = sockets.tls.counts.records;
		size_t n = sizes[i], at = 0;
		unsigned spans_n = 0;

		/* In spans of all sizes. */
		for (; spans_n < 15 && at < n; spans_n++) {
			size_t piece = n / 15 + 1 + spans_n * 7 % 13;

			piece = piece < n - at ? piece : n - at;
			spans[spans_n] = (struct iovec){ data + at, piece };
			at += piece;
		}
		if (at < n)
			spans[spans_n++] = (struct iovec){ data + at, n - at };
		assert_int_equal(socket_send(&sockets, &p->socket, spans, spans_n), n);
		assert_int_equal(hear(p, out, n), n);
		assert_memory_equal(out, data, n);
		assert_int_equal(sockets.tls.counts.records - before, (n + 16383) / 16384);
		assert_int_equal(p->told_n, n);
	}
	free(data);
	free(out);
}

static void what_is_sealed_is_sent_to_its_end_and_never_sealed_again(void **state)
{
	struct peer *p = peer_secure(0);
	const size_t n = 1 << 20;
	char *data = noise(n), *out = malloc(n);
	int small = 4096;
	size_t heard_n = 0, one;

	(void)state;
	setsockopt(p->socket.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	while (heard_n < n) {
		send_all(p, data + p->told_n, n - p->told_n);
		if (SSL_read_ex(p->ssl, out + heard_n, 1000, &one) == 1)
			heard_n += one;
	}
	turns();
	assert_memory_equal(out, data, n);
	assert_int_equal(p->told_n, n);
	assert_int_equal(sockets.tls.counts.records, n / 16384);
	free(data);
	free(out);
}

static void a_cancelled_send_goes_on_without_its_owner(void **state)
{
	struct peer *p = peer_secure(0);
	char *data = noise(60000), *out = malloc(60010);
	struct iovec span = { data, 60000 }, more = { (char[]){ "more" }, 4 };
	int small = 4096;

	(void)state;
	setsockopt(p->socket.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	assert_int_equal(socket_send(&sockets, &p->socket, &span, 1), 60000);
	turns();
	assert_int_equal(p->told_n, 0);
	socket_cancel_send(&sockets, &p->socket);
	turns();
	/* It need not be remembered, and nothing else can go yet. */
	assert_int_equal(p->told_n, 60000);
	assert_true(p->socket.sending);
	memset(data, 0, 60000);
	assert_int_equal(hear(p, out, 60000), 60000);
	free(data);
	data = noise(60000);
	assert_memory_equal(out, data, 60000);
	turns();
	assert_false(p->socket.sending);
	assert_int_equal(p->told_n, 60000);
	assert_int_equal(socket_send(&sockets, &p->socket, &more, 1), 4);
	assert_int_equal(hear(p, out, 4), 4);
	free(data);
	free(out);
}

static void those_who_take_nothing_leave_buffers_to_the_others(void **state)
{
	enum { STUCK = 300 };
	char *data = noise(65536), out[10];
	struct iovec span = { data, 65536 }, word = { (char[]){ "word" }, 4 };
	struct peer *p;

	(void)state;
	for (unsigned i = 0; i < STUCK; i++) {
		int small = 4096;

		p = peer_secure(i);
		setsockopt(p->socket.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
		(void)socket_send(&sockets, &p->socket, &span, 1);
	}
	p = peer_secure(STUCK);
	(void)socket_send(&sockets, &p->socket, &word, 1);
	for (int i = 0; i < 1000 && p->told_n == 0; i++) {
		if (!p->socket.sending)
			(void)socket_send(&sockets, &p->socket, &word, 1);
		usleep(1000);
		turns();
	}
	assert_int_equal(hear(p, out, 4), 4);
	assert_true(sockets.tls.counts.waits > 0);
	assert_true(sockets.tls.pool_bytes <= TLS_POOL_BYTES);
	/* What they have been sent is whole all the same. */
	p = peers[0];
	{
		char *all = malloc(65536);

		assert_int_equal(hear(p, all, 65536), 65536);
		assert_memory_equal(all, data, 65536);
		free(all);
	}
	free(data);
}

static void bytes_are_received_into_the_owners_memory(void **state)
{
	struct peer *p = peer_secure(0);
	char *data = noise(50000), into[40000];

	(void)state;
	socket_pause(&sockets, &p->socket);
	say(p, data, 10);
	assert_int_equal(p->got_n, 10); /* was armed */
	p->into = into;
	socket_receive_into(&sockets, &p->socket, into, 5000);
	socket_receive(&sockets, &p->socket);
	say(p, data + 10, 49990);
	assert_int_equal(p->got_n, 50000);
	assert_memory_equal(p->got, data, 50000);
	assert_true(p->into_n > 0 && p->into_n <= 5000);
	assert_memory_equal(into, data + 10, p->into_n);
	assert_null(p->socket.into);
	free(data);
}

/* Between the client and the socket, a byte at a time. */
static void it_does_not_matter_how_bytes_are_cut(void **state)
{
	struct peer *p = peer_new(0, false);
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	char bytes[4096], heard_bytes[100];
	struct iovec span = { (char[]){ "answer" }, 6 };
	ssize_t n;
	size_t one = 0;

	(void)state;
	SSL_set_bio(p->ssl, in, out);
	for (int i = 0; i < 10 && p->got_n < 8; i++) {
		if (SSL_do_handshake(p->ssl) == 1 && p->got_n == 0)
			SSL_write(p->ssl, "question", 8);
		while (BIO_read(out, bytes, 1) == 1) {
			assert_int_equal(write(p->fd, bytes, 1), 1);
			reactor_turn(&reactor, false);
			reactor_turn(&reactor, false);
		}
		turns();
		while ((n = read(p->fd, bytes, sizeof(bytes))) > 0)
			BIO_write(in, bytes, (int)n);
	}
	assert_int_equal(p->got_n, 8);
	assert_memory_equal(p->got, "question", 8);
	assert_int_equal(socket_send(&sockets, &p->socket, &span, 1), 6);
	turns();
	while (read(p->fd, bytes, 1) == 1) {
		BIO_write(in, bytes, 1);
		if (one == 0)
			(void)SSL_read_ex(p->ssl, heard_bytes, 100, &one);
	}
	assert_int_equal(one, 6);
}

static void what_came_in_clear_may_be_the_beginning(void **state)
{
	struct peer *p = peer_new(0, true);
	struct iovec span = { (char[]){ "INFO {}\r\n" }, 9 };
	char bytes[4096];

	(void)state;
	assert_int_equal(socket_send(&sockets, &p->socket, &span, 1), 9);
	turns();
	assert_int_equal(read(p->fd, bytes, sizeof(bytes)), 9);
	SSL_do_handshake(p->ssl);
	turns();
	assert_true(p->got_n > 100 && p->got[0] == 0x16);
	/* Sent in clear, while it begins. */
	assert_int_equal(socket_send(&sockets, &p->socket, &span, 1), 9);
	assert_int_equal(
		socket_secure(&sockets, &p->socket, keyring, (struct span){ p->got, p->got_n }), 0);
	p->got_n = 0;
	turns();
	assert_int_equal(p->told_n, 18);
	assert_int_equal(read(p->fd, bytes, 9), 9);
	shake_hands(p);
	say(p, "hello", 5);
	assert_memory_equal(p->got, "hello", 5);
}

/* ---- ends ---- */

static void close_notify_is_the_end_of_file(void **state)
{
	struct peer *p = peer_secure(0);
	struct iovec span = { (char[]){ "last" }, 4 };
	char out[10];

	(void)state;
	say(p, "x", 1);
	SSL_shutdown(p->ssl);
	turns();
	assert_int_equal(p->ends, 1);
	assert_int_equal(p->error, 0);
	shutdown(p->fd, SHUT_WR);
	turns();
	assert_int_equal(p->ends, 1);
	assert_int_equal(socket_send(&sockets, &p->socket, &span, 1), 4);
	turns();
	socket_finish(&sockets, &p->socket);
	assert_int_equal(hear(p, out, 4), 4);
	turns();
	assert_false(p->socket.sending);
	assert_int_equal(SSL_read(p->ssl, out, 1), 0);
	assert_int_equal(SSL_get_error(p->ssl, 0), SSL_ERROR_ZERO_RETURN);
	assert_int_equal(read(p->fd, out, 1), 0);
}

static void an_end_of_file_without_one_is_an_error(void **state)
{
	struct peer *p = peer_secure(0);

	(void)state;
	shutdown(p->fd, SHUT_WR);
	turns();
	assert_int_equal(p->ends, 1);
	assert_int_equal(p->error, -TLS_TRUNCATED);
}

static void what_is_no_tls_is_refused_with_an_alert(void **state)
{
	struct peer *p = peer_new(0, false), *q = peer_new(1, false);
	unsigned char alert[100];

	(void)state;
	assert_int_equal(write(p->fd, "GET / HTTP/1.1\r\n\r\n", 18), 18);
	assert_int_equal(write(q->fd, "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", 10), 10);
	turns();
	assert_int_equal(p->error, -TLS_REFUSED);
	assert_int_equal(p->got_n, 0);
	assert_int_equal(sockets.tls.counts.failed[CIPHER_FAILURE_NOT_TLS], 1);
	assert_false(p->socket.sending);
	assert_int_equal(q->error, -TLS_REFUSED);
	assert_true(read(q->fd, alert, sizeof(alert)) >= 7);
	assert_int_equal(alert[0], SSL3_RT_ALERT);
	assert_int_equal(sockets.tls.counts.pending, 0);
}

static void what_was_changed_on_its_way_is_the_end(void **state)
{
	struct peer *p = peer_secure(0);
	BIO *out = BIO_new(BIO_s_mem()), *in = BIO_new(BIO_s_mem());
	char bytes[200];
	struct iovec span = { (char[]){ "x" }, 1 };
	int n;

	(void)state;
	SSL_set_bio(p->ssl, in, out);
	SSL_write(p->ssl, "order", 5);
	n = BIO_read(out, bytes, sizeof(bytes));
	bytes[n - 1] ^= 1;
	assert_int_equal(write(p->fd, bytes, (size_t)n), n);
	turns();
	assert_int_equal(p->got_n, 0);
	assert_int_equal(p->error, -TLS_BROKEN);
	/* Whoever sends all the same is told. */
	assert_int_equal(socket_send(&sockets, &p->socket, &span, 1), 0);
	turns();
	assert_int_equal(p->sent, -ECONNRESET);
}

static void keys_change_now_and_then_but_not_all_the_time(void **state)
{
	struct peer *p = peer_secure(0);
	char out[10];
	struct iovec span = { (char[]){ "x" }, 1 };

	(void)state;
	for (unsigned i = 0; i < TLS_KEY_UPDATES; i++) {
		SSL_key_update(p->ssl, SSL_KEY_UPDATE_REQUESTED);
		say(p, "a", 1);
		assert_int_equal(p->got_n, i + 1);
		turns();
		if (!p->socket.sending)
			assert_int_equal(socket_send(&sockets, &p->socket, &span, 1), 1);
		assert_int_equal(hear(p, out, 1), 1);
		assert_int_equal(p->ends, 0);
	}
	SSL_key_update(p->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
	SSL_write(p->ssl, "a", 1);
	turns();
	assert_int_equal(p->error, -TLS_BROKEN);
}

static void a_turn_takes_some_steps_of_handshakes_and_no_more(void **state)
{
	unsigned before = 0;

	(void)state;
	for (unsigned i = 0; i < 10; i++) {
		SSL_do_handshake(peer_new(i, false)->ssl);
	}
	/* All have come, none is answered. */
	for (unsigned round = 0; round < 100; round++) {
		unsigned begun = 0;
		char byte;

		reactor_turn(&reactor, false);
		for (unsigned i = 0; i < 10; i++)
			begun += recv(peers[i]->fd, &byte, 1, MSG_PEEK) == 1;
		assert_true(begun - before <= TLS_STEPS);
		before = begun;
		if (begun == 10)
			return;
	}
	fail();
}

static void sessions_go_on_with_tickets(void **state)
{
	struct peer *p = peer_secure(0), *q;
	SSL_SESSION *session;
	char byte;

	(void)state;
	(void)SSL_read(p->ssl, &byte, 1);
	session = SSL_get1_session(p->ssl);
	assert_true(SSL_SESSION_is_resumable(session));
	q = peer_new(1, false);
	SSL_set_session(q->ssl, session);
	shake_hands(q);
	assert_true(SSL_session_reused(q->ssl));
	assert_true(q->socket.tls->cipher->resumed);
	assert_int_equal(sockets.tls.counts.resumed, 1);
	SSL_SESSION_free(session);
}

static void everything_is_given_back(void **state)
{
	uint64_t before = 0;

	(void)state;
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 20; i++) {
			struct peer *p = peer_secure(i);

			say(p, "hello", 5);
			/* In the middle of a handshake, too. */
			SSL_do_handshake(peer_new(100 + i, false)->ssl);
		}
		turns();
		for (unsigned i = 0; i < 200; i++)
			part(i);
		if (round == 0)
			before = memory_used();
	}
	assert_true(memory_used() <= before + 1000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
		TEST(bytes_come_and_go_as_if_they_were_plain),
		TEST(nothing_is_sent_before_the_handshake_has_ended),
		TEST(what_a_client_asks_for_is_what_is_left),
		TEST(a_send_is_sealed_in_as_few_records_as_it_needs),
		TEST(what_is_sealed_is_sent_to_its_end_and_never_sealed_again),
		TEST(a_cancelled_send_goes_on_without_its_owner),
		TEST(those_who_take_nothing_leave_buffers_to_the_others),
		TEST(bytes_are_received_into_the_owners_memory),
		TEST(it_does_not_matter_how_bytes_are_cut),
		TEST(what_came_in_clear_may_be_the_beginning),
		TEST(close_notify_is_the_end_of_file),
		TEST(an_end_of_file_without_one_is_an_error),
		TEST(what_is_no_tls_is_refused_with_an_alert),
		TEST(what_was_changed_on_its_way_is_the_end),
		TEST(keys_change_now_and_then_but_not_all_the_time),
		TEST(a_turn_takes_some_steps_of_handshakes_and_no_more),
		TEST(sessions_go_on_with_tickets),
		TEST(everything_is_given_back),
	};

	return cmocka_run_group_tests(tests, begin_all, end_all);
}
