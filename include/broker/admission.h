#ifndef BROKER_ADMISSION_H
#define BROKER_ADMISSION_H

/*
 * Who is let in: how many clients there are in the broker and of each address or network, and how
 * many of one want a handshake in a second. Counted when clients come and go, never on a message's
 * way. Any thread.
 */

#include <stdbool.h>
#include <stdint.h>

struct address_book;
struct broker;
struct config;
struct listener;

/* NULL: out of memory. */
struct address_book *address_book_new(void);
/* NULL: there is none. */
void address_book_free(struct address_book *book);

/* Counts a client in until it has left; false: the limits do not allow it. */
bool admission_enter(struct broker *broker, const struct config *config,
		     const unsigned char address[16]);
/* Counts a connection to a secure listener that is about to cost a handshake; false: there were too
 * many from there in this second. */
bool admission_of_handshake(struct broker *broker, const struct config *config,
			    const unsigned char address[16], uint64_t now_ns);
/* Whether whoever connects from there is a proxy, which says first whose connection it is. A unix
 * socket's peers all are. */
bool admission_by_proxy(const struct listener *listener, const unsigned char address[16]);
/* Whose an address is, as far as limits go: an IPv4 address, or the network of 64 bits. */
void admission_whose(const unsigned char address[16], unsigned char out[16]);
void admission_leave(struct broker *broker, const unsigned char address[16]);

#endif
