#ifndef BASE_ADDRESS_H
#define BASE_ADDRESS_H

/*
 * Where a listener listens, as a configuration writes it: "127.0.0.1:8080", "[::1]:8080",
 * "unix:/path" (ip(7), ipv6(7), unix(7)). No names are resolved. Any thread.
 */

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ADDRESS_STANDARD "127.0.0.1:8080"

enum { ADDRESS_PATH_MAX = sizeof(((struct sockaddr_un *)0)->sun_path) - 1 };

struct address {
	struct in6_addr host; /* IPv4 as IPv6 has it (RFC 4291, 2.5.5.2), so that equal is equal */
	in_port_t port;       /* in the order of the host */
	bool v4;
	bool v6only;      /* of [::]: it takes no IPv4; nothing that is read from a text */
	const char *path; /* of a Unix socket; NULL: TCP */
};

/* What is wrong with the text; NULL: nothing, and *out is its address, which borrows the text. */
const char *address_parse(const char *text, struct address *out);
/* Addresses with the same first bits: "10.0.0.0/8", "2001:db8::/32", or one alone. */
struct network {
	unsigned char address[16]; /* IPv4 as IPv6 has it */
	unsigned bits;             /* of these 16 bytes */
};

/* What is wrong with the text; NULL: nothing. */
const char *network_parse(const char *text, struct network *out);
/* An address of 16 bytes, IPv4 as IPv6 has it, for people. */
enum { ADDRESS_TEXT_MAX = INET6_ADDRSTRLEN };
void address_text(const unsigned char address[16], char out[ADDRESS_TEXT_MAX]);
bool network_has(const struct network *network, const unsigned char address[16]);

/* Whether a listener on a would also get what is meant for b. [::] takes IPv4 as well,
 * unless it is v6only. */
bool address_covers(const struct address *a, const struct address *b);
/* Whether only clients of this very host can come: loopback, or a unix socket. */
bool address_local(const struct address *address);
/* The same for the kernel; returns its length. */
socklen_t address_socket(const struct address *address, struct sockaddr_storage *out);

#endif
