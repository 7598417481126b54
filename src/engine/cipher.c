#include "engine/cipher.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <string.h>

#include "base/memory.h"
#include "engine/keyring.h"

const char *const cipher_failure_names[CIPHER_FAILURES] = {
	[CIPHER_FAILURE_NONE] = "none",       [CIPHER_FAILURE_TIMEOUT] = "timeout",
	[CIPHER_FAILURE_CLOSED] = "closed",   [CIPHER_FAILURE_NOT_TLS] = "not_tls",
	[CIPHER_FAILURE_VERSION] = "version", [CIPHER_FAILURE_CIPHERS] = "ciphers",
	[CIPHER_FAILURE_ALPN] = "alpn",       [CIPHER_FAILURE_CERTIFICATE] = "certificate",
	[CIPHER_FAILURE_ALERT] = "alert",     [CIPHER_FAILURE_MEMORY] = "memory",
	[CIPHER_FAILURE_OTHER] = "other",
};

/* ---- the library's bytes ---- */

static int bio_read(BIO *bio, char *to, size_t max, size_t *n)
{
	struct cipher *c = BIO_get_data(bio);

	*n = max < c->in.len ? max : c->in.len;
	BIO_clear_retry_flags(bio);
	if (*n == 0) {
		BIO_set_retry_read(bio);
		return 0;
	}
	memcpy(to, c->in.data, *n);
	c->in = span_skip(c->in, *n);
	return 1;
}

static int bio_write(BIO *bio, const char *data, size_t len, size_t *n)
{
	struct cipher *c = BIO_get_data(bio);

	*n = len;
	BIO_clear_retry_flags(bio);
	if (c->out(c->context, data, len))
		return 1;
	c->failure = CIPHER_FAILURE_MEMORY;
	*n = 0;
	return 0;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	(void)bio;
	(void)number;
	(void)pointer;
	return command == BIO_CTRL_FLUSH;
}

/* All connections' and all reactors'; whoever finds none makes it. NULL: out of memory, now. */
static BIO_METHOD *method(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static BIO_METHOD *made;
	BIO_METHOD *m;

	pthread_mutex_lock(&lock);
	if (made == NULL &&
	    (made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "broker")) != NULL) {
		(void)BIO_meth_set_read_ex(made, bio_read);
		(void)BIO_meth_set_write_ex(made, bio_write);
		(void)BIO_meth_set_ctrl(made, bio_ctrl);
	}
	m = made;
	pthread_mutex_unlock(&lock);
	return m;
}

/* ---- what the library tells ---- */

/* No renegotiation: the library refuses it and would go on; and key updates cost, so they are
 * counted. */
static void heard(int write, int version, int type, const void *data, size_t len, SSL *ssl,
		  void *argument)
{
	struct cipher *c = argument;
	const unsigned char *bytes = data;

	(void)version;
	(void)ssl;
	if (type == SSL3_RT_ALERT && write && len == 2 && bytes[1] == SSL_AD_NO_RENEGOTIATION)
		c->renegotiates = true;
	if (type == SSL3_RT_HANDSHAKE && !write && len > 0 && bytes[0] == SSL3_MT_KEY_UPDATE)
		c->key_updates++;
}

/* What the library's reason for a failed handshake means. */
static enum cipher_failure failure_of(unsigned long error)
{
	int reason = ERR_GET_REASON(error);

	if (ERR_GET_LIB(error) != ERR_LIB_SSL)
		return reason == ERR_R_MALLOC_FAILURE ? CIPHER_FAILURE_MEMORY
						      : CIPHER_FAILURE_OTHER;
	switch (reason) {
	case SSL_R_HTTP_REQUEST:
	case SSL_R_HTTPS_PROXY_REQUEST:
	case SSL_R_WRONG_VERSION_NUMBER:
	case SSL_R_UNEXPECTED_MESSAGE:
	case SSL_R_PACKET_LENGTH_TOO_LONG:
	case SSL_R_RECORD_LENGTH_MISMATCH:
		return CIPHER_FAILURE_NOT_TLS;
	case SSL_R_UNSUPPORTED_PROTOCOL:
	case SSL_R_VERSION_TOO_LOW:
	case SSL_R_UNKNOWN_PROTOCOL:
		return CIPHER_FAILURE_VERSION;
	case SSL_R_NO_SHARED_CIPHER:
	case SSL_R_NO_SUITABLE_KEY_SHARE:
	case SSL_R_NO_SUITABLE_GROUPS:
	case SSL_R_NO_SHARED_GROUPS:
	case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
		return CIPHER_FAILURE_CIPHERS;
	case SSL_R_NO_APPLICATION_PROTOCOL:
		return CIPHER_FAILURE_ALPN;
	case SSL_R_CERTIFICATE_VERIFY_FAILED:
	case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
	case SSL_R_NO_CERTIFICATES_RETURNED:
		return CIPHER_FAILURE_CERTIFICATE;
	case ERR_R_MALLOC_FAILURE:
		return CIPHER_FAILURE_MEMORY;
	default:
		return reason >= SSL_AD_REASON_OFFSET ? CIPHER_FAILURE_ALERT : CIPHER_FAILURE_OTHER;
	}
}

static enum cipher_result failed(struct cipher *c)
{
	unsigned long error = ERR_peek_error();

	if (c->failure == CIPHER_FAILURE_NONE)
		c->failure = failure_of(error);
	if (c->said == NULL)
		c->said = ERR_reason_error_string(error);
	ERR_clear_error();
	return CIPHER_FAILED;
}

static enum cipher_result result_of(struct cipher *c, int returned)
{
	switch (SSL_get_error(c->ssl, returned)) {
	case SSL_ERROR_WANT_READ:
		return c->renegotiates ? failed(c) : CIPHER_MORE;
	case SSL_ERROR_ZERO_RETURN:
		return CIPHER_CLOSED;
	default:
		return failed(c);
	}
}

/* ---- a connection's ---- */

/* Shows the name and wants it in the certificate; addresses are only looked for there (RFC 6066,
 * 3).
 */
static bool set_server(SSL *ssl, const char *server)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

	SSL_set_connect_state(ssl);
	if (X509_VERIFY_PARAM_set1_ip_asc(param, server) == 1)
		return true;
	ERR_clear_error();
	/* It is only read; the macro has no const. */
	return SSL_set1_host(ssl, server) == 1 &&
	       SSL_set_tlsext_host_name(ssl, (void *)(uintptr_t)server) == 1;
}

struct cipher *cipher_new(struct keyring *keyring, const char *server, cipher_out *out,
			  void *context)
{
	struct cipher *c = memory_new_zeroed(sizeof(*c));
	BIO_METHOD *m = method();
	BIO *bio = NULL;

	if (c == NULL)
		return NULL;
	c->keyring = keyring_ref(keyring);
	c->out = out;
	c->context = context;
	c->allows = keyring_choices(keyring);
	c->ssl = SSL_new(keyring_library(keyring));
	if (c->ssl != NULL && m != NULL && SSL_set_app_data(c->ssl, c) == 1 &&
	    (server == NULL || set_server(c->ssl, server)))
		bio = BIO_new(m);
	if (bio == NULL) {
		ERR_clear_error();
		cipher_free(c);
		return NULL;
	}
	BIO_set_data(bio, c);
	BIO_set_init(bio, 1);
	SSL_set_bio(c->ssl, bio, bio);
	SSL_set_msg_callback(c->ssl, heard);
	SSL_set_msg_callback_arg(c->ssl, c);
	if (server == NULL)
		SSL_set_accept_state(c->ssl);
	return c;
}

void cipher_free(struct cipher *c)
{
	if (c == NULL)
		return;
	SSL_free(c->ssl);
	keyring_unref(c->keyring);
	memory_free(c->client);
	memory_free(c);
}

/* Who the peer is, as its certificate says; one that is not good has ended the handshake. */
static enum cipher_result know_peer(struct cipher *c)
{
	X509 *certificate = SSL_get0_peer_certificate(c->ssl);

	if (certificate == NULL || !SSL_is_server(c->ssl))
		return CIPHER_DONE;
	/* A session that goes on is not looked at again by the library. 0: it cannot tell. */
	if (c->resumed && X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0) {
		c->failure = CIPHER_FAILURE_CERTIFICATE;
		return CIPHER_FAILED;
	}
	c->client = keyring_client_name(SSL_get_SSL_CTX(c->ssl), certificate);
	return CIPHER_DONE;
}

const char *cipher_problem(const struct cipher *c)
{
	long verified = SSL_get_verify_result(c->ssl);

	if (c->failure == CIPHER_FAILURE_NONE)
		return NULL;
	if (c->failure == CIPHER_FAILURE_CERTIFICATE && verified != X509_V_OK)
		return X509_verify_cert_error_string(verified);
	return c->said != NULL ? c->said : cipher_failure_names[c->failure];
}

enum cipher_result cipher_handshake(struct cipher *c, struct span *in)
{
	enum cipher_result result;
	int returned;

	c->in = *in;
	ERR_clear_error();
	returned = SSL_do_handshake(c->ssl);
	*in = c->in;
	result = returned == 1 ? CIPHER_DONE : result_of(c, returned);
	if (result != CIPHER_DONE)
		return result == CIPHER_CLOSED ? failed(c) : result;
	c->resumed = SSL_session_reused(c->ssl);
	return know_peer(c);
}

enum cipher_result cipher_read(struct cipher *c, struct span *in, char *out, size_t max, size_t *n)
{
	enum cipher_result result;
	int returned;

	c->in = *in;
	*n = 0;
	ERR_clear_error();
	returned = SSL_read_ex(c->ssl, out, max, n);
	*in = c->in;
	result = returned == 1 ? CIPHER_DONE : result_of(c, returned);
	return result == CIPHER_DONE && c->renegotiates ? failed(c) : result;
}

bool cipher_write(struct cipher *c, const char *data, size_t len)
{
	size_t n;

	ERR_clear_error();
	if (SSL_write_ex(c->ssl, data, len, &n) == 1)
		return true;
	(void)failed(c);
	return false;
}

void cipher_finish(struct cipher *c)
{
	ERR_clear_error();
	(void)SSL_shutdown(c->ssl);
	ERR_clear_error();
}

bool cipher_still_trusted(const struct cipher *c, const struct keyring *keyring)
{
	X509 *certificate = SSL_get0_peer_certificate(c->ssl);

	return certificate == NULL ||
	       keyring_trust(keyring, certificate, SSL_get_peer_cert_chain(c->ssl));
}
