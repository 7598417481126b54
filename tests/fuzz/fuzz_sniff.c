#include "base/config.h"
#include "fuzz.h"
#include "protocol/sniff.h"

/*
 * The first bytes of a connection at a port that speaks several protocols. The first byte of an
 * input says which; the rest is what comes. However it comes in pieces, the same is made of it:
 * what has been decided for a beginning is decided for everything that begins so. Only what the
 * port speaks is answered, and no later than after SNIFF_BYTES_MAX. A ClientHello at a port that is
 * no TLS's is told so in HTTP, where there is that, with its first byte.
 */

enum { TLS_HANDSHAKE = 0x16 };

static const unsigned bits[SNIFFED] = {
	[SNIFF_LINE] = CONFIG_PROTOCOL_LINE, [SNIFF_HTTP] = CONFIG_PROTOCOL_HTTP,
	[SNIFF_RESP] = CONFIG_PROTOCOL_RESP, [SNIFF_NATS] = CONFIG_PROTOCOL_NATS,
	[SNIFF_MQTT] = CONFIG_PROTOCOL_MQTT,
};

/* At least two of them. */
static unsigned protocols_of(unsigned char byte)
{
	unsigned all = 0, n = 0;

	for (unsigned s = SNIFF_LINE; s < SNIFFED; s++)
		if (byte >> s & 1) {
			all |= bits[s];
			n++;
		}
	return n >= 2 ? all : CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_HTTP;
}

static void check_answer(enum sniffed s, unsigned protocols, size_t n)
{
	check(s < SNIFFED, "it is no protocol at all");
	check(s == SNIFF_MORE || (protocols & bits[s]) != 0, "the port does not speak that");
	check(s != SNIFF_MORE || n < SNIFF_BYTES_MAX, "it does not come to an end");
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	enum sniffed decided = SNIFF_MORE;
	unsigned protocols;

	if (size == 0 || size > SNIFF_BYTES_MAX + 64)
		return 0;
	protocols = protocols_of(*data++);
	size--;
	for (size_t n = 0; n <= size; n++) {
		/* The sanitizer sees a look behind it. */
		char *own = exact_copy(data, n);
		struct span first = { own, n };
		enum sniffed s = sniff(first, protocols), likely = sniff_likely(first, protocols);

		check_answer(s, protocols, n);
		check(likely < SNIFFED && (likely == SNIFF_MORE || protocols & bits[likely]),
		      "it is like nothing that the port speaks");
		check(decided == SNIFF_MORE || s == decided, "it is something else by now");
		if (n > 0 && data[0] == TLS_HANDSHAKE && protocols & CONFIG_PROTOCOL_HTTP)
			check(s == SNIFF_HTTP, "a ClientHello is not told");
		decided = s;
		free(own);
	}
	return 0;
}
