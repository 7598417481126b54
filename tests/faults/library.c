/*
 * OpenSSL's part of faults.so: the calls of it that the broker makes and that can fail. What the
 * library calls of itself goes through, or the test would be one of the library; the memory for it
 * may fail (faults.c).
 *
 * A call fails as the library's own would: with the value that its manual names, nothing done, and
 * an error in the thread's queue.
 */

#include "faults.h"

#include <dlfcn.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <sys/auxv.h>

static bool by_broker(void *caller)
{
	static void *executable;
	Dl_info info;

	if (executable == NULL && dladdr((void *)getauxval(AT_ENTRY), &info) != 0)
		executable = info.dli_fbase;
	return dladdr(caller, &info) != 0 && info.dli_fbase == executable;
}

static bool fails(void *caller)
{
	int error = by_broker(caller) ? refuse(KIND_LIBRARY) : 0;

	if (error != 0)
		ERR_raise(ERR_LIB_SSL,
			  error == LIBRARY_MEMORY ? ERR_R_MALLOC_FAILURE : ERR_R_INTERNAL_ERROR);
	return error != 0;
}

#define MAY_FAIL(type, name, value, parameters, arguments)                                         \
	type name parameters                                                                       \
	{                                                                                          \
		static type(*real) parameters;                                                     \
                                                                                                   \
		NEXT(real, #name);                                                                 \
		return fails(__builtin_return_address(0)) ? (value) : real arguments;              \
	}

/* clang-format off */

/* ---- the library as a whole ---- */

MAY_FAIL(int, OPENSSL_init_crypto, 0, (uint64_t o, const OPENSSL_INIT_SETTINGS *s), (o, s))
MAY_FAIL(OSSL_LIB_CTX *, OSSL_LIB_CTX_get0_global_default, NULL, (void), ())
MAY_FAIL(int, RAND_bytes, 0, (unsigned char *out, int n), (out, n))
MAY_FAIL(OPENSSL_STACK *, OPENSSL_sk_new_null, NULL, (void), ())
MAY_FAIL(int, OPENSSL_sk_push, 0, (OPENSSL_STACK *s, const void *one), (s, one))

/* ---- bytes ---- */

MAY_FAIL(BIO *, BIO_new, NULL, (const BIO_METHOD *m), (m))
MAY_FAIL(BIO *, BIO_new_file, NULL, (const char *path, const char *mode), (path, mode))
MAY_FAIL(BIO *, BIO_new_mem_buf, NULL, (const void *from, int n), (from, n))
MAY_FAIL(BIO_METHOD *, BIO_meth_new, NULL, (int type, const char *name), (type, name))
MAY_FAIL(int, BIO_read, -1, (BIO *b, void *to, int n), (b, to, n))
MAY_FAIL(int, BIO_write, -1, (BIO *b, const void *from, int n), (b, from, n))

/* ---- digests, signatures, tickets ---- */

MAY_FAIL(unsigned char *, SHA1, NULL, (const unsigned char *d, size_t n, unsigned char *out), (d, n, out))
MAY_FAIL(unsigned char *, SHA256, NULL, (const unsigned char *d, size_t n, unsigned char *out), (d, n, out))
MAY_FAIL(unsigned char *, HMAC, NULL, (const EVP_MD *md, const void *key, int key_len, const unsigned char *d, size_t n, unsigned char *out, unsigned *len), (md, key, key_len, d, n, out, len))
MAY_FAIL(EVP_MD_CTX *, EVP_MD_CTX_new, NULL, (void), ())
MAY_FAIL(int, EVP_DigestInit_ex, 0, (EVP_MD_CTX *c, const EVP_MD *md, ENGINE *e), (c, md, e))
MAY_FAIL(int, EVP_DigestUpdate, 0, (EVP_MD_CTX *c, const void *d, size_t n), (c, d, n))
MAY_FAIL(int, EVP_DigestFinal_ex, 0, (EVP_MD_CTX *c, unsigned char *out, unsigned *n), (c, out, n))
MAY_FAIL(int, EVP_DigestVerifyInit, 0, (EVP_MD_CTX *c, EVP_PKEY_CTX **p, const EVP_MD *md, ENGINE *e, EVP_PKEY *key), (c, p, md, e, key))
MAY_FAIL(int, EVP_DigestVerify, -1, (EVP_MD_CTX *c, const unsigned char *s, size_t s_n, const unsigned char *d, size_t n), (c, s, s_n, d, n))
MAY_FAIL(int, EVP_CipherInit_ex, 0, (EVP_CIPHER_CTX *c, const EVP_CIPHER *cipher, ENGINE *e, const unsigned char *key, const unsigned char *iv, int enc), (c, cipher, e, key, iv, enc))
MAY_FAIL(int, EVP_MAC_CTX_set_params, 0, (EVP_MAC_CTX *c, const OSSL_PARAM params[]), (c, params))
MAY_FAIL(int, EVP_PKEY_get_group_name, 0, (const EVP_PKEY *key, char *name, size_t max, size_t *n), (key, name, max, n))
MAY_FAIL(ECDSA_SIG *, ECDSA_SIG_new, NULL, (void), ())
MAY_FAIL(int, ECDSA_SIG_set0, 0, (ECDSA_SIG *s, BIGNUM *r, BIGNUM *t), (s, r, t))
MAY_FAIL(BIGNUM *, BN_bin2bn, NULL, (const unsigned char *from, int n, BIGNUM *to), (from, n, to))
MAY_FAIL(int, i2d_ECDSA_SIG, -1, (const ECDSA_SIG *s, unsigned char **out), (s, out))

/* ---- certificates and keys ---- */

MAY_FAIL(X509 *, PEM_read_bio_X509, NULL, (BIO *b, X509 **to, pem_password_cb *ask, void *u), (b, to, ask, u))
MAY_FAIL(X509_CRL *, PEM_read_bio_X509_CRL, NULL, (BIO *b, X509_CRL **to, pem_password_cb *ask, void *u), (b, to, ask, u))
MAY_FAIL(EVP_PKEY *, PEM_read_bio_PrivateKey, NULL, (BIO *b, EVP_PKEY **to, pem_password_cb *ask, void *u), (b, to, ask, u))
MAY_FAIL(EVP_PKEY *, PEM_read_bio_PUBKEY, NULL, (BIO *b, EVP_PKEY **to, pem_password_cb *ask, void *u), (b, to, ask, u))
MAY_FAIL(EVP_PKEY *, X509_get_pubkey, NULL, (X509 *one), (one))
MAY_FAIL(int, X509_check_issued, X509_V_ERR_UNSPECIFIED, (X509 *by, X509 *one), (by, one))
MAY_FAIL(int, X509_check_private_key, 0, (const X509 *one, const EVP_PKEY *key), (one, key))
MAY_FAIL(int, X509_cmp_current_time, 0, (const ASN1_TIME *at), (at))
MAY_FAIL(int, ASN1_TIME_to_tm, 0, (const ASN1_TIME *at, struct tm *tm), (at, tm))
MAY_FAIL(int, ASN1_STRING_to_UTF8, -1, (unsigned char **out, const ASN1_STRING *from), (out, from))
MAY_FAIL(char *, X509_NAME_oneline, NULL, (const X509_NAME *name, char *to, int max), (name, to, max))
MAY_FAIL(X509_STORE *, X509_STORE_new, NULL, (void), ())
MAY_FAIL(int, X509_STORE_add_cert, 0, (X509_STORE *s, X509 *one), (s, one))
MAY_FAIL(int, X509_STORE_add_crl, 0, (X509_STORE *s, X509_CRL *one), (s, one))
MAY_FAIL(int, X509_STORE_set_flags, 0, (X509_STORE *s, unsigned long flags), (s, flags))
MAY_FAIL(X509_STORE_CTX *, X509_STORE_CTX_new, NULL, (void), ())
MAY_FAIL(int, X509_STORE_CTX_init, 0, (X509_STORE_CTX *c, X509_STORE *s, X509 *one, STACK_OF(X509) *chain), (c, s, one, chain))
MAY_FAIL(int, X509_STORE_CTX_set_default, 0, (X509_STORE_CTX *c, const char *name), (c, name))
MAY_FAIL(int, X509_verify_cert, -1, (X509_STORE_CTX *c), (c))

/* The fault leaves what it would say of a field that is not there. */
MAY_FAIL(void *, X509_get_ext_d2i, NULL, (const X509 *one, int nid, int *critical, int *index), (one, nid, critical, index))

/* ---- what all connections have in common ---- */

MAY_FAIL(SSL_CTX *, SSL_CTX_new, NULL, (const SSL_METHOD *m), (m))
MAY_FAIL(int, SSL_CTX_set_cipher_list, 0, (SSL_CTX *c, const char *list), (c, list))
MAY_FAIL(int, SSL_CTX_set_ciphersuites, 0, (SSL_CTX *c, const char *list), (c, list))
MAY_FAIL(STACK_OF(SSL_CIPHER) *, SSL_CTX_get_ciphers, NULL, (const SSL_CTX *c), (c))
MAY_FAIL(int, SSL_CTX_set_max_early_data, 0, (SSL_CTX *c, uint32_t n), (c, n))
MAY_FAIL(int, SSL_CTX_set_num_tickets, 0, (SSL_CTX *c, size_t n), (c, n))
MAY_FAIL(int, SSL_CTX_set_tlsext_ticket_key_evp_cb, 0, (SSL_CTX *c, int (*f)(SSL *, unsigned char *, unsigned char *, EVP_CIPHER_CTX *, EVP_MAC_CTX *, int)), (c, f))
MAY_FAIL(int, SSL_CTX_set_session_id_context, 0, (SSL_CTX *c, const unsigned char *id, unsigned n), (c, id, n))
MAY_FAIL(int, SSL_CTX_set_ex_data, 0, (SSL_CTX *c, int i, void *data), (c, i, data))
MAY_FAIL(int, SSL_CTX_use_certificate, 0, (SSL_CTX *c, X509 *one), (c, one))
MAY_FAIL(int, SSL_CTX_use_PrivateKey, 0, (SSL_CTX *c, EVP_PKEY *key), (c, key))
MAY_FAIL(int, SSL_CTX_add_client_CA, 0, (SSL_CTX *c, X509 *one), (c, one))
MAY_FAIL(long, SSL_CTX_callback_ctrl, 0, (SSL_CTX *c, int command, void (*f)(void)), (c, command, f))

/* ---- a connection ---- */

MAY_FAIL(SSL *, SSL_new, NULL, (SSL_CTX *c), (c))
MAY_FAIL(int, SSL_set_ex_data, 0, (SSL *s, int i, void *data), (s, i, data))
MAY_FAIL(int, SSL_do_handshake, -1, (SSL *s), (s))
MAY_FAIL(int, SSL_read_ex, 0, (SSL *s, void *to, size_t max, size_t *n), (s, to, max, n))
MAY_FAIL(int, SSL_write_ex, 0, (SSL *s, const void *from, size_t len, size_t *n), (s, from, len, n))
MAY_FAIL(int, SSL_shutdown, -1, (SSL *s), (s))
MAY_FAIL(int, SSL_set1_host, 0, (SSL *s, const char *name), (s, name))
MAY_FAIL(int, X509_VERIFY_PARAM_set1_ip_asc, 0, (X509_VERIFY_PARAM *p, const char *ip), (p, ip))
MAY_FAIL(SSL_CTX *, SSL_set_SSL_CTX, NULL, (SSL *s, SSL_CTX *c), (s, c))

/* clang-format on */

/* Some of these say what there was before, and never fail. */
long SSL_CTX_ctrl(SSL_CTX *c, int command, long number, void *pointer)
{
	static long (*real)(SSL_CTX *, int, long, void *);
	bool always = command == SSL_CTRL_MODE || command == SSL_CTRL_SET_SESS_CACHE_MODE;

	NEXT(real, "SSL_CTX_ctrl");
	return !always && fails(__builtin_return_address(0)) ? 0
							     : real(c, command, number, pointer);
}
