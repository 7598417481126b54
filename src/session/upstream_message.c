#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "session/upstream.h"
#include "topic/block.h"

/* How a message of ours goes up: HPUB and PUB, with what is said of it as headers. */

enum { ID_MAX = UPSTREAM_NONCE + 24 };

static void put_field(struct upstream_bytes *to, const char *name, struct span value)
{
	if (value.len == 0)
		return;
	to->len += (size_t)snprintf(to->data + to->len, to->room - to->len, "%s: %.*s\r\n", name,
				    (int)value.len, value.data);
}

/* Under an id of its publisher's, or the next one. */
static void put_id(struct upstream_bytes *to, struct span id, unsigned repetition)
{
	char behind[8] = "";

	if (repetition > 0)
		snprintf(behind, sizeof(behind), "~%u", repetition);
	to->len += (size_t)snprintf(to->data + to->len, to->room - to->len,
				    "Nats-Msg-Id: %.*s%s\r\n", (int)id.len, id.data, behind);
}

bool upstream_scratch(struct upstream *u, size_t bytes)
{
	char *data;

	u->scratch.len = 0;
	if (bytes <= u->scratch.room)
		return true;
	data = memory_resize(u->scratch.data, bytes);
	if (data == NULL)
		return false;
	u->scratch.data = data;
	u->scratch.room = bytes;
	return true;
}

struct span upstream_key(const struct block *b, const struct record *r)
{
	return b->key_len > 0 ? block_key(b) : nats_header(r->headers, SPAN("Nats-Msg-Id"));
}

/* What its publisher says beside a message, as headers: its own, without the empty line at their
 * end, then ours. Empty: there is nothing to say. */
static struct span headers_up(struct upstream *u, const struct upstream_up *up,
			      const struct record *r, uint64_t id)
{
	const struct block *b = up->block;
	bool one = b->form == RUN_ONE,
	     named = b->unechoed || (!up->passing && (u->log || b->receipt != NULL));
	struct span version = one ? block_version(b) : r->version,
		    encoding = one ? block_encoding(b) : (struct span){ NULL, 0 };
	struct span own = r->headers, line = SPAN("NATS/1.0\r\n"), key = upstream_key(b, r);
	bool says = own.len >= 4 && b->key_len == 0 && key.len > 0;
	char text[ID_MAX];

	if (own.len == 0 && r->type.len == 0 && version.len == 0 && encoding.len == 0 && !named)
		return (struct span){ NULL, 0 };
	if (!upstream_scratch(u,
			      own.len + r->type.len + version.len + encoding.len + key.len + 256)) {
		/* Without its id it would be another message. */
		u->overrun = true;
		return (struct span){ NULL, 0 };
	}
	if (own.len >= 4)
		line.len = (size_t)((const char *)memchr(own.data, '\n', own.len) - own.data) + 1;
	memcpy(u->scratch.data, own.len >= 4 ? own.data : line.data, line.len);
	u->scratch.len = line.len;
	if (named && key.len == 0) {
		snprintf(text, sizeof(text), "%s-%" PRIu64, u->nonce, id);
		key = span_of(text);
	}
	/* The first one counts. */
	if (named && (!says || up->repetition > 0))
		put_id(&u->scratch, key, up->repetition);
	if (own.len >= 4) {
		memcpy(u->scratch.data + u->scratch.len, own.data + line.len,
		       own.len - line.len - 2);
		u->scratch.len += own.len - line.len - 2;
	} else {
		/* Headers of their own say these themselves. */
		put_field(&u->scratch, "Content-Type", r->type);
		put_field(&u->scratch, "X-Version", version);
		put_field(&u->scratch, "Content-Encoding", encoding);
	}
	memcpy(u->scratch.data + u->scratch.len, "\r\n", 2);
	u->scratch.len += 2;
	return (struct span){ u->scratch.data, u->scratch.len };
}

void upstream_put_message(struct upstream *u, const struct upstream_up *up, const struct record *r,
			  uint64_t id)
{
	struct span headers = headers_up(u, up, r, id);
	char text[48];
	int n;

	/* What this says comes first. */
	struct span reply = upstream_reply(u, up->block, r->reply);

	upstream_put(u, headers.len > 0 ? SPAN("HPUB ") : SPAN("PUB "));
	upstream_put(u, upstream_prefix(u, block_name(up->block)));
	upstream_put(u, block_name(up->block));
	upstream_put(u, SPAN(" "));
	if (u->log && !up->passing) {
		n = snprintf(text, sizeof(text), "a.%" PRIu64 " ", id);
		upstream_put(u, span_of(u->inbox));
		upstream_put(u, (struct span){ text, (size_t)n });
	} else if (reply.len > 0) {
		upstream_put(u, reply);
		upstream_put(u, SPAN(" "));
	}
	n = headers.len > 0 ? snprintf(text, sizeof(text), "%zu %zu\r\n", headers.len,
				       headers.len + r->payload.len)
			    : snprintf(text, sizeof(text), "%zu\r\n", r->payload.len);
	upstream_put(u, (struct span){ text, (size_t)n });
	upstream_put(u, headers);
	upstream_put(u, r->payload);
	upstream_put(u, SPAN("\r\n"));
}
