#ifndef PROTOCOL_SNIFF_H
#define PROTOCOL_SNIFF_H

/*
 * Which protocol a connection speaks, from its first bytes; decided once. Pure; any thread.
 */

#include "base/span.h"

enum sniffed { SNIFF_MORE, SNIFF_LINE, SNIFF_HTTP, SNIFF_RESP, SNIFF_NATS, SNIFF_MQTT, SNIFFED };

enum { SNIFF_BYTES_MAX = 1024 }; /* enough to decide, whatever they are */

/*
 * What the connection's first bytes, all of them so far, are taken for. What begins like neither
 * protocol is for the one that its first line looks like, and will be refused in its way. Empty
 * lines before a request are skipped (RFC 9112, 2.2). Only what is among these protocols
 * (CONFIG_PROTOCOL_*), two at least, is answered. SNIFF_MORE never comes when there are
 * SNIFF_BYTES_MAX of them.
 */
enum sniffed sniff(struct span first, unsigned protocols);
/* What they begin like when that is only one of them, else SNIFF_MORE. */
enum sniffed sniff_likely(struct span first, unsigned protocols);

#endif
