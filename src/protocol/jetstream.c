#include "protocol/jetstream.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "protocol/nats.h"

/* ---- writing ---- */

/* Text that grows in somebody's memory; at is NULL when there was not enough. */
struct writer {
	char *at, *end, *begin;
};

static struct writer writer_of(char *out, size_t room)
{
	return (struct writer){ out, out + room, out };
}

__attribute__((format(printf, 2, 3))) static void write_text(struct writer *w, const char *format,
							     ...)
{
	va_list arguments;
	int n;

	if (w->at == NULL)
		return;
	va_start(arguments, format);
	n = vsnprintf(w->at, (size_t)(w->end - w->at), format, arguments);
	va_end(arguments);
	w->at = n >= 0 && n < w->end - w->at ? w->at + n : NULL;
}

/* Within quotes. */
static void write_escaped(struct writer *w, struct span text)
{
	for (size_t i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.data[i];

		if (c < ' ' || c == '"' || c == '\\')
			write_text(w, "\\u%04x", c);
		else
			write_text(w, "%c", c);
	}
}

static size_t written(const struct writer *w)
{
	return w->at != NULL ? (size_t)(w->at - w->begin) : 0;
}

/* ---- what is said of a stream ---- */

enum { OBJECT_MAX = 16 << 10 };

typedef bool member(void *context, struct span name, const struct json_value *value);

static void take_text(const struct json_value *v, char *out, size_t room)
{
	size_t n = v->kind == JSON_IS_TEXT && v->text.len < room ? v->text.len : 0;

	memcpy(out, n > 0 ? v->text.data : "", n);
	out[n] = 0;
}

static uint64_t number_of(const struct json_value *v)
{
	return v->kind == JSON_IS_NUMBER && v->number > 0 ? (uint64_t)v->number : 0;
}

static bool is_true(const struct json_value *v)
{
	return v->kind == JSON_IS_BOOL && v->truth;
}

/* An object's members. */
static bool take_object(const struct json_value *v, member *take, void *context)
{
	char text[OBJECT_MAX];
	size_t n = v->kind == JSON_IS_OTHER ? json_write(v, text, sizeof(text)) : 0;

	return n > 0 && json_members((struct span){ text, n }, take, context);
}

static bool take_error(void *context, struct span name, const struct json_value *v)
{
	struct jetstream_stream *s = context;

	if (span_equal(name, SPAN("code")))
		s->error = number_of(v);
	else if (span_equal(name, SPAN("description")))
		take_text(v, s->wrong, sizeof(s->wrong));
	return true;
}

static bool take_republish(void *context, struct span name, const struct json_value *v)
{
	struct jetstream_stream *s = context;

	if (span_equal(name, SPAN("src")))
		take_text(v, s->from, sizeof(s->from));
	else if (span_equal(name, SPAN("dest")))
		take_text(v, s->to, sizeof(s->to));
	else if (span_equal(name, SPAN("headers_only")))
		s->headers_only = is_true(v);
	return true;
}

static bool take_config(void *context, struct span name, const struct json_value *v)
{
	struct jetstream_stream *s = context;

	if (span_equal(name, SPAN("description")))
		take_text(v, s->description, sizeof(s->description));
	else if (span_equal(name, SPAN("subjects")) && v->kind == JSON_IS_OTHER)
		s->subjects[json_write(v, s->subjects, sizeof(s->subjects) - 1)] = 0;
	else if (span_equal(name, SPAN("republish")))
		return take_object(v, take_republish, s);
	else if (span_equal(name, SPAN("allow_direct")))
		s->direct = is_true(v);
	else if (span_equal(name, SPAN("duplicate_window")))
		s->duplicates_ns = number_of(v);
	else if (span_equal(name, SPAN("num_replicas")))
		s->replicas = number_of(v);
	return true;
}

static bool take_state(void *context, struct span name, const struct json_value *v)
{
	struct jetstream_stream *s = context;

	if (span_equal(name, SPAN("first_seq")))
		s->first = number_of(v);
	else if (span_equal(name, SPAN("last_seq")))
		s->last = number_of(v);
	return true;
}

static bool take_stream(void *context, struct span name, const struct json_value *v)
{
	struct jetstream_stream *s = context;

	if (span_equal(name, SPAN("error")))
		return take_object(v, take_error, s) && s->error != 0;
	if (span_equal(name, SPAN("config")))
		return take_object(v, take_config, s);
	if (span_equal(name, SPAN("state")))
		return take_object(v, take_state, s);
	if (span_equal(name, SPAN("created")))
		take_text(v, s->created, sizeof(s->created));
	return true;
}

bool jetstream_stream(struct span json, struct jetstream_stream *s)
{
	memset(s, 0, sizeof(*s));
	return json_members(json, take_stream, s) && (s->error != 0 || s->created[0] != 0);
}

/* Whether each subject of one pattern is one of another's too: of those that end with '>', or have
 * no wildcard. */
static bool covers(struct span pattern, struct span other)
{
	size_t n = pattern.len;

	if (span_equal(pattern, other))
		return true;
	if (n == 0 || pattern.data[n - 1] != '>')
		return false;
	return other.len >= n && memcmp(pattern.data, other.data, n - 1) == 0;
}

static bool has_subject(const struct jetstream_stream *s, struct span subject)
{
	struct span rest = span_of(s->subjects), one;

	while (nats_next_url(&rest, &one))
		if (covers(one, subject))
			return true;
	return false;
}

bool jetstream_stream_wrong(const struct jetstream_stream *s, const struct jetstream_wanted *wanted,
			    char *text, size_t room)
{
	const char *from = *s->from != 0 ? s->from : ">";
	char subject[JETSTREAM_TEXT_MAX * 2], to[JETSTREAM_TEXT_MAX * 2];

	snprintf(to, sizeof(to), "%s%s", wanted->deliver_prefix, from);
	for (size_t i = 0; i < wanted->topics_n; i++) {
		snprintf(subject, sizeof(subject), "%s%s", wanted->publish_prefix,
			 wanted->topics[i]);
		if (!has_subject(s, span_of(subject))) {
			snprintf(text, room, "stream %s does not have %s among its subjects",
				 wanted->name, subject);
			return true;
		}
		if (*s->to == 0 || strcmp(s->to, to) != 0 ||
		    !covers(span_of(from), span_of(subject))) {
			snprintf(text, room,
				 "stream %s does not republish %s as %s%s; use { src: \">\", dest: "
				 "\"%s>\" }",
				 wanted->name, subject, wanted->deliver_prefix, subject,
				 wanted->deliver_prefix);
			return true;
		}
	}
	if (s->headers_only)
		snprintf(text, room, "stream %s republishes headers only; use whole messages",
			 wanted->name);
	else if (!s->direct)
		snprintf(text, room, "stream %s lacks allow_direct", wanted->name);
	else if (s->duplicates_ns < JETSTREAM_DUPLICATES_S * UINT64_C(1000000000))
		snprintf(text, room,
			 "stream %s knows duplicates for %" PRIu64 " s only; use %d s or more",
			 wanted->name, s->duplicates_ns / UINT64_C(1000000000),
			 JETSTREAM_DUPLICATES_S);
	else
		return false;
	return true;
}

size_t jetstream_create(const struct jetstream_wanted *wanted,
			const struct jetstream_limits *limits, char *out, size_t room)
{
	struct writer w = writer_of(out, room);

	write_text(&w, "{\"name\":\"");
	write_escaped(&w, span_of(wanted->name));
	write_text(&w, "\",\"subjects\":[");
	for (size_t i = 0; i < wanted->topics_n; i++) {
		write_text(&w, "%s\"", i > 0 ? "," : "");
		write_escaped(&w, span_of(wanted->publish_prefix));
		write_escaped(&w, span_of(wanted->topics[i]));
		write_text(&w, "\"");
	}
	write_text(&w,
		   "],\"retention\":\"limits\",\"discard\":\"old\",\"storage\":\"file\","
		   "\"max_consumers\":-1,\"max_msgs\":-1,\"max_bytes\":-1,\"max_msg_size\":-1,"
		   "\"max_msgs_per_subject\":%" PRId64 ",\"max_age\":%" PRIu64
		   ",\"num_replicas\":%u,\"allow_direct\":true,\"duplicate_window\":%" PRIu64,
		   limits->messages_per_subject > 0 ? (int64_t)limits->messages_per_subject : -1,
		   limits->age_s * UINT64_C(1000000000), limits->replicas,
		   /* A window cannot be longer than messages are kept. */
		   JETSTREAM_DUPLICATES_S * UINT64_C(1000000000));
	write_text(&w, ",\"republish\":{\"src\":\">\",\"dest\":\"");
	write_escaped(&w, span_of(wanted->deliver_prefix));
	write_text(&w, ">\"}}");
	return written(&w);
}

/* ---- messages ---- */

size_t jetstream_newest(struct span subject, char *out, size_t room)
{
	struct writer w = writer_of(out, room);

	write_text(&w, "{\"last_by_subj\":\"");
	write_escaped(&w, subject);
	write_text(&w, "\"}");
	return written(&w);
}

size_t jetstream_number(uint64_t number, char *out, size_t room)
{
	struct writer w = writer_of(out, room);

	write_text(&w, "{\"seq\":%" PRIu64 "}", number);
	return written(&w);
}

/* What stands behind the first of these words. Answers may carry a whole message, and such a word
 * cannot be within a text of theirs, where a quote is escaped. */
static struct span behind(struct span json, const char *word)
{
	size_t n = strlen(word);
	const char *at = json.len >= n ? memmem(json.data, json.len, word, n) : NULL;

	return at != NULL ? span_skip(json, (size_t)(at - json.data) + n)
			  : (struct span){ NULL, 0 };
}

static bool take_number(struct span *text, uint64_t *out)
{
	uint64_t n = 0;
	size_t digits = 0;

	while (text->len > 0 && *text->data == ' ')
		*text = span_skip(*text, 1);
	for (; digits < text->len && digits < 20; digits++) {
		unsigned digit = (unsigned)(unsigned char)text->data[digits] - '0';

		if (digit > 9)
			break;
		if (n > (UINT64_MAX - digit) / 10)
			return false;
		n = 10 * n + digit;
	}
	*text = span_skip(*text, digits);
	*out = n;
	return digits > 0;
}

static bool number_behind(struct span json, const char *word, uint64_t *out)
{
	struct span rest = behind(json, word);

	return rest.data != NULL && take_number(&rest, out);
}

/* The error that an answer is. */
static uint64_t error_of(struct span json)
{
	uint64_t code;

	if (behind(json, "\"error\":").data == NULL)
		return 0;
	return number_behind(json, "\"code\":", &code) && code > 0 ? code : 500;
}

bool jetstream_found(struct span json, uint64_t *number)
{
	struct span message = behind(json, "\"message\":");
	uint64_t error;

	*number = 0;
	if (message.data != NULL)
		return number_behind(message, "\"seq\":", number) && *number > 0;
	error = error_of(json);
	return error == JETSTREAM_NONE;
}

size_t jetstream_consumer(const struct jetstream_consumer *c, char *out, size_t room)
{
	struct writer w = writer_of(out, room);

	write_text(&w, "{\"stream_name\":\"");
	write_escaped(&w, span_of(c->stream));
	write_text(
		&w,
		"\",\"config\":{\"deliver_policy\":\"by_start_sequence\",\"opt_start_seq\":%" PRIu64
		",\"ack_policy\":\"none\",\"replay_policy\":\"instant\",\"num_replicas\":1,"
		"\"mem_storage\":true,\"inactive_threshold\":5000000000,\"deliver_subject\":\"",
		c->from);
	write_escaped(&w, c->deliver);
	write_text(&w, "\",\"filter_subject\":\"");
	write_escaped(&w, c->subject);
	write_text(&w, "\"}}");
	return written(&w);
}

struct span jetstream_consumer_name(struct span json)
{
	struct span rest = behind(json, "\"name\":\"");
	const char *quote = rest.len > 0 ? memchr(rest.data, '"', rest.len) : NULL;

	if (quote == NULL || error_of(json) != 0)
		return (struct span){ NULL, 0 };
	return (struct span){ rest.data, (size_t)(quote - rest.data) };
}

bool jetstream_ack(struct span json, struct jetstream_ack *ack)
{
	struct span rest = behind(json, "\"duplicate\":");

	*ack = (struct jetstream_ack){ .error = error_of(json) };
	if (ack->error != 0)
		return true;
	while (rest.len > 0 && *rest.data == ' ')
		rest = span_skip(rest, 1);
	ack->duplicate = rest.len >= 4 && memcmp(rest.data, "true", 4) == 0;
	return number_behind(json, "\"seq\":", &ack->number) && ack->number > 0;
}

unsigned jetstream_status(struct span headers)
{
	struct span rest = span_skip(headers, headers.len < 8 ? headers.len : 8);
	uint64_t status;

	if (headers.len < 12 || memcmp(headers.data, "NATS/1.0 ", 9) != 0)
		return 0;
	return take_number(&rest, &status) && status < 1000 ? (unsigned)status : 0;
}

/* The last of that name is the server's, whatever the publisher has said before it. */
static bool number_in(struct span headers, struct span name, uint64_t *out)
{
	struct span value = nats_header(headers, name), next;

	do {
		next = value.len > 0 ? span_skip(headers, (size_t)(value.data - headers.data))
				     : (struct span){ NULL, 0 };
		next = nats_header(next, name);
		value = next.len > 0 ? next : value;
	} while (next.len > 0);
	return value.len > 0 && take_number(&value, out) && value.len == 0;
}

bool jetstream_place(struct span headers, struct jetstream_place *place)
{
	return number_in(headers, SPAN("Nats-Sequence"), &place->number) && place->number > 0 &&
	       number_in(headers, SPAN("Nats-Last-Sequence"), &place->before) &&
	       place->before < place->number;
}

bool jetstream_delivery(struct span reply, struct jetstream_delivery *d)
{
	/* $JS.ACK.<stream>.<consumer>.<delivered>.<number>.<count>.<time>.<pending>, or with a
	 * domain and an account's hash behind the first two, and perhaps more at the end. */
	enum { SHORT = 9, LONG = 11, MAX = 16 };
	struct span tokens[MAX], ack = SPAN("$JS.ACK.");
	size_t n = 0, skip;
	uint64_t delivered;

	if (reply.len <= ack.len || memcmp(reply.data, ack.data, ack.len) != 0)
		return false;
	while (n < MAX) {
		const char *dot = memchr(reply.data, '.', reply.len);

		tokens[n++] = (struct span){ reply.data,
					     dot != NULL ? (size_t)(dot - reply.data) : reply.len };
		if (dot == NULL)
			break;
		reply = span_skip(reply, tokens[n - 1].len + 1);
		if (reply.len == 0)
			return false;
	}
	if (n < SHORT || n == SHORT + 1)
		return false;
	skip = n >= LONG ? 2 : 0;
	return take_number(&tokens[skip + 4], &delivered) &&
	       take_number(&tokens[skip + 5], &d->number) &&
	       take_number(&tokens[skip + 6], &d->count) &&
	       take_number(&tokens[skip + 8], &d->pending) && d->number > 0;
}

bool jetstream_at_least(const char *version, unsigned major, unsigned minor)
{
	unsigned a = 0, b = 0;

	if (sscanf(version, "%u.%u", &a, &b) != 2)
		return false;
	return a > major || (a == major && b >= minor);
}

/* ---- another log ---- */

#define COUNT SPAN(" [log ")

/* What it counts by now, and where that begins; 0: at its end. */
static uint64_t count_of(const char *description, size_t *at)
{
	struct span all = span_of(description), rest;
	uint64_t n = 0;

	for (*at = 0; *at + COUNT.len < all.len; ++*at) {
		rest = span_skip(all, *at);
		if (memcmp(rest.data, COUNT.data, COUNT.len) != 0)
			continue;
		rest = span_skip(rest, COUNT.len);
		if (take_number(&rest, &n) && span_equal(rest, SPAN("]")))
			return n;
	}
	*at = all.len;
	return 0;
}

static bool take_whole_config(void *context, struct span name, const struct json_value *v)
{
	struct writer *w = context;

	if (!span_equal(name, SPAN("config")))
		return true;
	w->at = w->begin + json_write(v, w->begin, (size_t)(w->end - w->begin));
	return w->at > w->begin;
}

size_t jetstream_count(struct span info, const char *description, char *out, size_t room)
{
	struct writer w = writer_of(out, room);
	size_t len;
	uint64_t n = count_of(description, &len);

	if (!json_members(info, take_whole_config, &w) || w.at == w.begin)
		return 0;
	/* The last of a name counts. */
	w.at--;
	write_text(&w, ",\"description\":\"");
	write_escaped(&w, (struct span){ description, len });
	write_text(&w, " [log %" PRIu64 "]\"}", n + 1);
	return written(&w);
}
