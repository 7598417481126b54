#include <strings.h>

#include "../sim/sim.h"
#include "base/clock.h"
#include "fuzz.h"

/*
 * Whole connections: an input is a script for a few clients of a simulated broker. It is played
 * twice, with other numbers of reactors, sizes of buffers and lanes, pieces that bytes come in and
 * orders in which things happen. Every client must hear the same; nothing may be left over; and
 * what is heard is bounded by what was said. The world's own checks hold as in the simulation.
 *
 * A script is records, each ended by 0xff. The first byte of a record says who and what:
 *   'a' to 'h'  this client says the rest of the record, connecting first if it has to
 *   'A' to 'H'  it sends no more
 *   '0' to '7'  it closes
 *   1 to 31     so many steps of time pass
 */

enum {
	RECORD_END = 0xff,
	SLOTS = 8,
	/* Time goes in steps of which no multiple is close to a time-out: 5, 10, 15, 20 or 30 s. */
	STEP_MS = 1400,
	STEPS_MAX = 25,
	/* Of a head and a body in which nothing is the client's own. */
	ANSWER_BYTES_MAX = 1000,
};

void sim_give_up(void)
{
	abort();
}

struct played {
	struct text heard[2 * SIM_TOPICS_MAX];
	unsigned clients_n, steps;
	size_t said;
};

/* One that says no more, or that has been closed, gives its place to another. */
static struct client *client_in(struct client **slot)
{
	if (*slot == NULL || (*slot)->over)
		*slot = world_client();
	return *slot;
}

static void play_record(struct span record, struct client **slots, struct played *played)
{
	unsigned char what = (unsigned char)record.data[0];
	struct client **slot = &slots[what % SLOTS], *c;

	record = span_skip(record, 1);
	if (what >= 'a' && what <= 'h') {
		c = client_in(slot);
		if (c == NULL || c->said_all)
			return;
		if (record.len > 0)
			client_say(c, record.data, record.len);
		played->said += record.len;
	} else if (what >= 'A' && what <= 'H' && *slot != NULL) {
		(*slot)->said_all = true;
		(*slot)->ending = END_FIN;
	} else if (what >= '0' && what <= '7' && *slot != NULL) {
		(*slot)->said_all = true;
		(*slot)->ending = END_CLOSE;
	} else if (what >= 1 && what <= 31 && played->steps + what <= STEPS_MAX) {
		played->steps += what;
		world_pass(what * (uint64_t)STEP_MS * NS_PER_MS);
	}
	world_rest();
}

/* An error may come before the answer of a home that is under way. */
static struct span last_error(struct span heard)
{
	static const struct span error = SPAN("\r\nERROR ");
	const char *at = heard.len > 0 && heard.data[0] == 'O'
				 ? memmem(heard.data, heard.len, error.data, error.len)
				 : NULL;

	return at != NULL ? span_skip(heard, (size_t)(at - heard.data) + 2) : heard;
}

/* Of an id's epoch, which says only which topic's beginning it is from; 0: none begins here. */
static size_t epoch_bytes(struct span rest)
{
	enum { DIGITS = 16 };

	if (rest.len <= DIGITS || rest.data[DIGITS] != ':')
		return 0;
	for (size_t i = 0; i < DIGITS; i++)
		if (strchr("0123456789abcdef", rest.data[i]) == NULL || rest.data[i] == 0)
			return 0;
	return DIGITS;
}

/* What may differ: whether a client is asked to go on that has gone on already, how much memory the
 * pieces took, the second of an answer that a deadline gives, which takes turns, and how many
 * topics began before this one. */
static void add_heard(struct text *heard, struct span rest)
{
	static const struct span go_on = SPAN("HTTP/1.1 100 Continue\r\n\r\n"),
				 bytes = SPAN("\"bytes\":"),
				 date = SPAN("\r\nDate: Thu, 01 Jan 1970 00:16:48 GMT");
	enum { DATE_NAME = 8 }; /* bytes of it that are always the same */

	rest = last_error(rest);
	while (rest.len > 0) {
		if (rest.len >= go_on.len && memcmp(rest.data, go_on.data, go_on.len) == 0) {
			rest = span_skip(rest, go_on.len);
			continue;
		}
		if (rest.len >= date.len && memcmp(rest.data, date.data, DATE_NAME) == 0) {
			rest = span_skip(rest, date.len);
			continue;
		}
		if (rest.len >= bytes.len && memcmp(rest.data, bytes.data, bytes.len) == 0) {
			text_add(heard, bytes.data, bytes.len);
			rest = span_skip(rest, bytes.len);
			while (rest.len > 0 && rest.data[0] >= '0' && rest.data[0] <= '9')
				rest = span_skip(rest, 1);
			continue;
		}
		rest = span_skip(rest, epoch_bytes(rest));
		text_add(heard, rest.data, 1);
		rest = span_skip(rest, 1);
	}
}

/* ---- what Redis clients hear ---- */

/* Bytes of the reply at the start, with all that is in it; 0: it is none, or not all of it. */
static size_t reply_bytes(struct span heard)
{
	const char *end = heard.len > 0 ? memmem(heard.data, heard.len, "\r\n", 2) : NULL;
	size_t at, n, left;

	if (end == NULL || strchr("+-:_$=*>%", heard.data[0]) == NULL)
		return 0;
	at = (size_t)(end - heard.data) + 2;
	if (strchr("+-:_", heard.data[0]) != NULL || heard.data[1] == '-')
		return at;
	n = strtoul(heard.data + 1, NULL, 10);
	if (strchr("$=", heard.data[0]) != NULL)
		return heard.len - at >= n + 2 ? at + n + 2 : 0;
	for (n *= heard.data[0] == '%' ? 2 : 1; n > 0; n--) {
		left = reply_bytes(span_skip(heard, at));
		if (left == 0)
			return 0;
		at += left;
	}
	return at;
}

static int compare_spans(const void *a, const void *b)
{
	const struct span *x = a, *y = b;
	int order = memcmp(x->data, y->data, x->len < y->len ? x->len : y->len);

	return order != 0 ? order : (x->len > y->len) - (x->len < y->len);
}

/* Messages stand between replies wherever they come, and those of several topics, and names of
 * channels, in any order: so what is heard is a set of replies. False: they are no replies. */
static bool add_replies(struct text *heard, struct span raw)
{
	struct span *replies = calloc(raw.len + 1, sizeof(*replies));
	size_t n = 0, len;

	check(replies != NULL, "out of memory");
	for (; (len = reply_bytes(raw)) > 0; raw = span_skip(raw, len))
		replies[n++] = (struct span){ raw.data, len };
	qsort(replies, n, sizeof(*replies), compare_spans);
	for (size_t i = 0; i < n && raw.len == 0; i++)
		text_add(heard, replies[i].data, replies[i].len);
	free(replies);
	return n > 0 && raw.len == 0;
}

static struct played play(struct span script, unsigned shards, uint64_t schedule)
{
	const struct sim_params params = { .seed = 1, .schedule = schedule, .shards = shards };
	struct client *slots[SLOTS] = { NULL };
	struct played played = { .clients_n = 0 };
	struct span raw[2 * SIM_TOPICS_MAX];
	size_t heard = 0;

	world_begin(&params, false);
	while (script.len > 0) {
		const char *end = memchr(script.data, RECORD_END, script.len);
		struct span record = { script.data,
				       end != NULL ? (size_t)(end - script.data) : script.len };

		script = span_skip(script, record.len + (end != NULL));
		if (record.len > 0)
			play_record(record, slots, &played);
	}
	played.clients_n = sim.clients_n;
	for (unsigned i = 0; i < sim.clients_n; i++) {
		struct client *c = &sim.clients[i];

		heard += c->line_n;
		raw[i] = (struct span){ c->line, c->line_n };
		c->line = NULL;
		c->line_n = c->line_slots = 0;
	}
	/* The shortest request of a message is its number; each can be asked for again and again.
	 */
	check(heard <= (played.said + played.steps + 1) * (ANSWER_BYTES_MAX + played.said),
	      "more is heard than said");
	world_end();
	/* Not before: in the world, memory is counted. */
	for (unsigned i = 0; i < played.clients_n; i++) {
		if (!add_replies(&played.heard[i], raw[i]))
			add_heard(&played.heard[i], raw[i]);
		sim_free((char *)(uintptr_t)raw[i].data);
	}
	return played;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	const struct span script = { (const char *)data, size };
	struct played one, other;

	/* An array of names in any order. */
	for (size_t i = 0; i + 8 <= size; i++)
		if (strncasecmp(script.data + i, "channels", 8) == 0)
			return 0;
	one = play(script, 1, 1);
	other = play(script, 3, size + 2);
	check(one.clients_n == other.clients_n, "other clients");
	for (unsigned i = 0; i < one.clients_n; i++)
		text_same(&one.heard[i], &other.heard[i]);
	return 0;
}
