#include "broker/admission.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/hash.h"
#include "base/table.h"
#include "broker/broker.h"
#include "broker/listener.h"

enum { RATE_PLACES = 4096 }; /* addresses that share one are counted together */

/* How many clients each address has, or each network. Entered and left when clients come and go,
 * never on a message's way. */
struct address_book {
	pthread_mutex_t lock;
	struct table table;
	/* Of those who want a handshake: a second's lower half, and how many in it. */
	_Atomic uint64_t rates[RATE_PLACES];
};

struct address_entry {
	struct named named;
	uint32_t connections;
	unsigned char whose[16];
};

struct address_book *address_book_new(void)
{
	struct address_book *book = calloc(1, sizeof(*book));

	if (book != NULL)
		pthread_mutex_init(&book->lock, NULL);
	return book;
}

void address_book_free(struct address_book *book)
{
	if (book == NULL)
		return;
	table_release(&book->table);
	pthread_mutex_destroy(&book->lock);
	free(book);
}

/* A unix socket's peers, and everybody where addresses are not counted. */
static bool nowhere(const unsigned char address[16])
{
	static const unsigned char zero[16];

	return memcmp(address, zero, sizeof(zero)) == 0;
}

/* An address of IPv4, or the network of 64 bits that the address is in: nobody has less of IPv6
 * (RFC 4291, 2.5.4), and whoever has one has all its addresses. */
void admission_whose(const unsigned char address[16], unsigned char out[16])
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };

	memcpy(out, address, 16);
	if (memcmp(address, mapped, sizeof(mapped)) == 0)
		return;
	memset(out + 8, 0, 8);
	/* Loopback's is a network like others, and not nowhere. */
	out[15] = 1;
}

bool admission_of_handshake(struct broker *b, const struct config *config,
			    const unsigned char address[16], uint64_t now_ns)
{
	uint64_t second = now_ns / NS_PER_S << 32, seen;
	unsigned char key[16];
	_Atomic uint64_t *rate;

	if (config->limits.accepts_per_ip == 0 || nowhere(address))
		return true;
	admission_whose(address, key);
	rate = &b->addresses->rates[hash_bytes((const char *)key, sizeof(key)) % RATE_PLACES];
	seen = atomic_load(rate);
	if (seen >> 32 != second >> 32) {
		(void)atomic_compare_exchange_strong(rate, &seen, second);
	}
	return (uint32_t)atomic_fetch_add(rate, 1) < config->limits.accepts_per_ip;
}

bool admission_by_proxy(const struct listener *l, const unsigned char address[16])
{
	bool proxied = nowhere(address);

	for (size_t i = 0; i < l->proxies_n && !proxied; i++)
		proxied = network_has(&l->proxies[i], address);
	return l->proxy_protocol && proxied;
}

bool admission_enter(struct broker *b, const struct config *config, const unsigned char address[16])
{
	struct address_book *book = b->addresses;
	unsigned char key[16];
	struct span name = { (const char *)key, sizeof(key) };
	bool enters = true;
	struct address_entry *e;
	uint64_t hash;

	if (atomic_fetch_add(&b->connections, 1) >= config->limits.connections) {
		atomic_fetch_sub(&b->connections, 1);
		return false;
	}
	if (config->limits.connections_per_ip == 0 || nowhere(address))
		return true;
	admission_whose(address, key);
	hash = hash_bytes(key, sizeof(key));
	pthread_mutex_lock(&book->lock);
	e = (struct address_entry *)(void *)table_find(&book->table, hash, name);
	if (e == NULL && (e = calloc(1, sizeof(*e))) != NULL) {
		memcpy(e->whose, key, sizeof(key));
		e->named = (struct named){ hash, { (const char *)e->whose, sizeof(key) } };
		if (table_add(&book->table, &e->named) != 0) {
			free(e);
			e = NULL;
		}
	}
	if (e == NULL || e->connections >= config->limits.connections_per_ip)
		enters = false;
	else
		e->connections++;
	pthread_mutex_unlock(&book->lock);
	if (!enters)
		atomic_fetch_sub(&b->connections, 1);
	return enters;
}

void admission_leave(struct broker *b, const unsigned char address[16])
{
	struct address_book *book = b->addresses;
	struct address_entry *e;
	unsigned char key[16];

	atomic_fetch_sub(&b->connections, 1);
	if (nowhere(address))
		return;
	admission_whose(address, key);
	pthread_mutex_lock(&book->lock);
	e = (struct address_entry *)(void *)table_find(
		&book->table, hash_bytes(key, sizeof(key)),
		(struct span){ (const char *)key, sizeof(key) });
	if (e != NULL && --e->connections == 0) {
		table_remove(&book->table, &e->named);
		free(e);
	}
	pthread_mutex_unlock(&book->lock);
}
