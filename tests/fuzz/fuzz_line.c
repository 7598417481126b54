#include <assert.h>
#include <inttypes.h>

#include "fuzz.h"
#include "protocol/http.h"
#include "protocol/line.h"
#include "protocol/nats.h"
#include "base/config.h"
#include "protocol/resp.h"
#include "protocol/sniff.h"

#define ALL                                                                                        \
	(CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_HTTP | CONFIG_PROTOCOL_RESP | CONFIG_PROTOCOL_NATS)

/*
 * The line decoder, and what decides that bytes are for it. What comes out does not depend on how
 * the bytes were split, there is no more of it than went in, and a command that is taken is what a
 * reader of the contract would write for what it was taken for. The first byte of an input sets the
 * limits, the second how it is split.
 */

/* Messages, one by one, without the end of the line. */
static size_t add_messages(struct text *out, const struct text *carry, const struct line_event *e)
{
	struct text all = { 0 };
	size_t n = 0;

	text_add(&all, carry->data, carry->len);
	text_add(&all, e->bytes.data, e->bytes.len);
	for (char *line = all.data, *lf; line < all.data + all.len; line = lf + 1) {
		size_t len;

		lf = memchr(line, '\n', (size_t)(all.data + all.len - line));
		assert(lf != NULL);
		len = (size_t)(lf - line);
		if (e->canonical)
			assert(len > 0 && lf[-1] == '\r' &&
			       memchr(line, '\r', len) == (void *)(lf - 1));
		if (len > 0 && lf[-1] == '\r')
			len--;
		assert(e->inner_cr || memchr(line, '\r', len) == NULL);
		text_add(out, "M", 1);
		text_add(out, line, len);
		text_add(out, "\n", 1);
		n++;
	}
	assert(n == e->messages);
	free(all.data);
	return n;
}

static void add_command(struct text *out, const struct line_event *e)
{
	char head[100];
	int n = snprintf(head, sizeof(head), "C%d %d %llx %llu ", e->kind, e->replay,
			 (unsigned long long)e->epoch, (unsigned long long)e->n);

	text_add(out, head, (size_t)n);
	text_add(out, e->topic.data, e->topic.len);
	text_add(out, e->user.data, e->user.len);
	text_add(out, e->secret.data, e->secret.len);
	text_add(out, "\n", 1);
}

/* The number that ends a line, as somebody else reads it. */
static bool is_number(struct span text, uint64_t n)
{
	char digits[24];
	int len = snprintf(digits, sizeof(digits), "%" PRIu64, n);

	while (text.len > (size_t)len && text.data[0] == '0')
		text = span_skip(text, 1);
	return span_equal(text, (struct span){ digits, (size_t)len });
}

/* The command that the contract has for this event. */
static void check_command(struct span line, const struct line_event *e)
{
	struct text again = { 0 };
	char id[24];
	bool numbered = true;

	if (line.len > 0 && line.data[line.len - 1] == '\r')
		line.len--;
	if (e->kind == LINE_AUTH) {
		text_add(&again, "AUTH ", 5);
		text_add(&again, e->user.data, e->user.len);
		text_add(&again, " ", e->user.len > 0);
		text_add(&again, e->secret.data, e->secret.len);
		assert(memchr(e->user.data, ' ', e->user.len) == NULL && e->secret.len > 0);
	} else if (e->kind == LINE_PUBLISH)
		text_add(&again, "PUBLISH ", 8);
	else
		text_add(&again, "SUBSCRIBE ", 10);
	if (e->kind != LINE_AUTH)
		text_add(&again, e->topic.data, e->topic.len);
	if (e->kind == LINE_SUBSCRIBE && e->replay == LINE_REPLAY_FROM) {
		text_add(&again, " FROM ", 6);
		snprintf(id, sizeof(id), "%016" PRIx64 ":", e->epoch);
		text_add(&again, id, 17);
	} else if (e->kind == LINE_SUBSCRIBE && e->replay == LINE_REPLAY_LAST) {
		text_add(&again, " LAST ", 6);
	} else {
		numbered = false;
	}
	/* Credentials have none, and an empty span may point nowhere. */
	check(e->pattern ==
		      (e->topic.len > 0 && (memchr(e->topic.data, '*', e->topic.len) != NULL ||
					    memchr(e->topic.data, '>', e->topic.len) != NULL)),
	      "a topic is taken for a pattern, or the other way round");
	check(!e->pattern || e->replay == LINE_REPLAY_NONE ||
		      (e->replay == LINE_REPLAY_LAST && e->n == 1),
	      "a pattern has more of the past than there is");
	check(line.len >= again.len && memcmp(line.data, again.data, again.len) == 0,
	      "a command is taken for another");
	line = span_skip(line, again.len);
	check(numbered ? is_number(line, e->n) : line.len == 0, "a command is taken with more");
	free(again.data);
}

struct session {
	struct line_decoder decoder;
	const struct line_limits *limits;
	struct text carry, *out;
};

/* As the broker's session does it. */
static enum taken take(void *context, struct span in, size_t *used)
{
	struct session *s = context;
	struct line_event e;

	line_decode(&s->decoder, in, s->limits, &e, used);
	switch (e.kind) {
	case LINE_MORE:
		assert(*used == 0);
		return TAKE_MORE;
	case LINE_PART:
		text_add(&s->carry, e.bytes.data, e.bytes.len);
		break;
	case LINE_MESSAGES:
		add_messages(s->out, &s->carry, &e);
		s->carry.len = 0;
		break;
	case LINE_AUTH:
	case LINE_PUBLISH:
	case LINE_SUBSCRIBE:
		check_command((struct span){ in.data, *used - 1 }, &e);
		add_command(s->out, &e);
		break;
	case LINE_PING:
		check(span_equal((struct span){ in.data, 4 }, SPAN("PING")), "no PING");
		text_add(s->out, "P\n", 2);
		break;
	case LINE_BYE:
		text_add(s->out, "B\n", 2);
		return TAKE_NO_MORE;
	case LINE_ERROR:
	default:
		text_add(s->out, "E", 1);
		text_add(s->out, e.error, strlen(e.error));
		return TAKE_NO_MORE;
	}
	assert(*used > 0);
	return TAKEN;
}

static struct text decode(struct span in, const struct line_limits *limits, unsigned step)
{
	struct text out = { 0 };
	struct session s = { .limits = limits, .out = &out };

	feed(in, step, take, &s);
	free(s.carry.data);
	return out;
}

/* It decides as soon as it can and in time, and what comes behind does not change its mind. */
static void check_sniff(struct span in)
{
	enum sniffed decided = SNIFF_MORE;

	for (size_t n = 0; n <= in.len && n <= SNIFF_BYTES_MAX + 10; n++) {
		char *own = exact_copy(in.data, n);
		struct span first = { own, n };
		enum sniffed now = sniff(first, ALL);

		check(decided == SNIFF_MORE || now == decided, "more bytes change the protocol");
		check(now != SNIFF_MORE || n < SNIFF_BYTES_MAX, "it does not decide in time");
		check(line_detect(first) <= 0 || now == SNIFF_LINE, "a command goes elsewhere");
		check(resp_detect(first) <= 0 || now == SNIFF_RESP, "RESP goes elsewhere");
		check(http_detect(first) <= 0 || now == SNIFF_HTTP || nats_detect(first) >= 0,
		      "a request goes elsewhere");
		check(nats_detect(first) <= 0 || now == SNIFF_NATS, "a NATS client goes elsewhere");
		decided = now;
		free(own);
	}
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct line_limits limits;
	struct text whole, split;
	struct span in;

	if (size < 2)
		return 0;
	limits = (struct line_limits){ .command_bytes = 512,
				       .message_bytes = data[0] < 200 ? data[0] : 100000 };
	in = (struct span){ (const char *)data + 2, size - 2 };
	check_sniff((struct span){ in.data, in.len < 200 ? in.len : 200 });
	whole = decode(in, &limits, 0);
	split = decode(in, &limits, 1 + data[1] % 80);
	/* A message costs at least its end, and a command has a head of bounded size. */
	assert(whole.len <= 2 * size + 200);
	text_same(&whole, &split);
	return 0;
}
