#include "load/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	FILLER_PERIOD = 4093, /* messages take their filler from that many places */

	RUN_AT = 0,
	SEQ_AT = 20,
	TIME_AT = 31,
};

const char *const message_fault_names[MESSAGE_FAULTS] = {
	[MESSAGE_RIGHT] = "right",
	[MESSAGE_WRONG_LENGTH] = "wrong length",
	[MESSAGE_WRONG_HEADER] = "damaged header",
	[MESSAGE_WRONG_CONTENT] = "damaged content",
	[MESSAGE_OF_ANOTHER_RUN] = "message of another run",
	[MESSAGE_MISROUTED] = "message of another topic",
	[MESSAGE_UNKNOWN_PUBLISHER] = "message of an unknown publisher",
	[MESSAGE_DUPLICATE] = "duplicate, or out of order",
	[MESSAGE_GAP] = "gap",
	[MESSAGE_WRONG_TIME] = "wrong intended time",
};

int filler_init(struct filler *f, size_t message_bytes)
{
	static const char alphabet[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t n = message_bytes - MESSAGE_HEADER_BYTES + FILLER_PERIOD;
	uint64_t x = UINT64_C(0x9e3779b97f4a7c15);

	f->message_bytes = message_bytes;
	f->text = malloc(n);
	if (f->text == NULL)
		return -ENOMEM;
	/* xorshift64, Marsaglia 2003: the same text in every run. */
	for (size_t i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		f->text[i] = alphabet[x >> 58];
	}
	return 0;
}

void filler_release(struct filler *f)
{
	free(f->text);
	f->text = NULL;
}

static const char *filler_for(const struct filler *f, const struct message *m)
{
	return f->text +
	       (m->topic * UINT64_C(97) + m->publisher * UINT64_C(31) + m->seq) % FILLER_PERIOD;
}

static void write_hex(char *to, unsigned digits, uint64_t value)
{
	static const char hex[] = "0123456789abcdef";

	while (digits-- > 0) {
		to[digits] = hex[value & 15];
		value >>= 4;
	}
}

void message_rewrite(char *to, const struct message *m, const struct filler *f)
{
	write_hex(to + SEQ_AT, 10, m->seq);
	write_hex(to + TIME_AT, 16, m->intended_ns);
	memcpy(to + MESSAGE_HEADER_BYTES, filler_for(f, m),
	       f->message_bytes - MESSAGE_HEADER_BYTES);
}

void message_write(char *to, const struct message *m, const struct filler *f)
{
	memset(to, ' ', MESSAGE_HEADER_BYTES);
	write_hex(to + RUN_AT, 8, m->run);
	write_hex(to + MESSAGE_TOPIC_AT, 5, m->topic);
	write_hex(to + MESSAGE_PUBLISHER_AT, 4, m->publisher);
	message_rewrite(to, m, f);
}

/* False: not just digits and the space behind them. */
static bool read_hex(const char *from, unsigned digits, uint64_t *value)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < digits; i++) {
		unsigned char c = (unsigned char)from[i];

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
	}
	*value = v;
	return from[digits] == ' ';
}

int message_topic(const char *at)
{
	uint64_t v;

	return read_hex(at, 5, &v) ? (int)v : -1;
}

int message_publisher(const char *at)
{
	uint64_t v;

	return read_hex(at, 4, &v) ? (int)v : -1;
}

enum message_fault message_read(struct span payload, const struct filler *f, struct message *out)
{
	const char *p = payload.data;
	uint64_t run, topic, publisher;

	if (payload.len != f->message_bytes)
		return MESSAGE_WRONG_LENGTH;
	if (!read_hex(p + RUN_AT, 8, &run) || !read_hex(p + MESSAGE_TOPIC_AT, 5, &topic) ||
	    !read_hex(p + MESSAGE_PUBLISHER_AT, 4, &publisher) ||
	    !read_hex(p + SEQ_AT, 10, &out->seq) || !read_hex(p + TIME_AT, 16, &out->intended_ns))
		return MESSAGE_WRONG_HEADER;
	out->run = (uint32_t)run;
	out->topic = (uint32_t)topic;
	out->publisher = (uint32_t)publisher;
	if (memcmp(p + MESSAGE_HEADER_BYTES, filler_for(f, out),
		   payload.len - MESSAGE_HEADER_BYTES) != 0)
		return MESSAGE_WRONG_CONTENT;
	return MESSAGE_RIGHT;
}

enum message_fault message_compare(const struct message *got, const struct message *want)
{
	if (got->run != want->run)
		return MESSAGE_OF_ANOTHER_RUN;
	if (got->topic != want->topic)
		return MESSAGE_MISROUTED;
	if (got->publisher != want->publisher)
		return MESSAGE_UNKNOWN_PUBLISHER;
	if (got->seq < want->seq)
		return MESSAGE_DUPLICATE;
	if (got->seq > want->seq)
		return MESSAGE_GAP;
	if (got->intended_ns != want->intended_ns)
		return MESSAGE_WRONG_TIME;
	return MESSAGE_RIGHT;
}
