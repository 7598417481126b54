#include "protocol/line.h"

#include <assert.h>
#include <stdbool.h>

#include "base/name.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { WORD = 64 }; /* bytes looked at in one step, one bit each */

/* Bit i: byte i is this one. Finding ends of lines is the only work per byte that the broker does.
 */
#if defined(__x86_64__)
static inline uint64_t find(const char *p, char wanted)
{
	const __m128i every = _mm_set1_epi8(wanted);
	uint64_t found = 0;

	for (int i = 0; i < WORD / 16; i++) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i));

		found |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, every)) << 16 * i;
	}
	return found;
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
static inline uint64_t find(const char *p, char wanted)
{
	static const uint8_t weights[16] = { 1, 2, 4, 8, 16, 32, 64, 128,
					     1, 2, 4, 8, 16, 32, 64, 128 };
	const uint8x16_t every = vdupq_n_u8((uint8_t)wanted), w = vld1q_u8(weights);
	const uint8_t *u = (const uint8_t *)p;
	uint8x16_t ab = vpaddq_u8(vandq_u8(vceqq_u8(vld1q_u8(u), every), w),
				  vandq_u8(vceqq_u8(vld1q_u8(u + 16), every), w));
	uint8x16_t cd = vpaddq_u8(vandq_u8(vceqq_u8(vld1q_u8(u + 32), every), w),
				  vandq_u8(vceqq_u8(vld1q_u8(u + 48), every), w));

	ab = vpaddq_u8(ab, cd);
	ab = vpaddq_u8(ab, ab);
	return vgetq_lane_u64(vreinterpretq_u64_u8(ab), 0);
}
#else
static inline uint64_t find(const char *p, char wanted)
{
	uint64_t found = 0;

	for (unsigned i = 0; i < WORD; i++)
		found |= (uint64_t)(p[i] == wanted) << i;
	return found;
}
#endif

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2,popcnt,bmi,lzcnt")))

WIDE static inline uint64_t find_wide(const char *p, char wanted)
{
	const __m256i every = _mm256_set1_epi8(wanted);
	uint64_t found = 0;

	for (int i = 0; i < WORD / 32; i++) {
		__m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32 * i));

		found |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, every))
			 << 32 * i;
	}
	return found;
}
#endif

struct scan {
	size_t whole; /* bytes up to and with the last LF; 0: none */
	uint32_t messages;
	bool canonical;   /* CR and LF come only as CRLF, as far as `whole` goes */
	bool inner_cr;    /* as far as that some CR comes otherwise */
	bool tail_cr;     /* behind the last LF a CR that is not the last byte */
	bool short_lines; /* some line may be a goodbye */
};

/* What one word of a scan leaves to the next. */
struct scanned {
	struct scan scan;
	uint64_t stray_cr; /* CRs followed by something else than LF since the last LF */
};

/* "BYE\n" or "BYE\r\n" is that long, up to its end from the one before. */
static inline bool goodbye_fits(size_t bytes)
{
	return bytes - 4 <= 1;
}

/* A word with a LF without a CR before it, or the other way round. */
static inline __attribute__((always_inline)) void scan_odd(struct scanned *s, uint64_t lf,
							   uint64_t after_cr)
{
	uint64_t upto = lf != 0 ? UINT64_MAX >> __builtin_clzll(lf) : 0;

	if (lf == 0) {
		s->stray_cr |= after_cr;
		return;
	}
	if (s->stray_cr != 0 || ((lf ^ after_cr) & upto) != 0) {
		s->scan.canonical = false;
		s->scan.inner_cr |= s->stray_cr != 0 || (after_cr & ~lf & upto) != 0;
	}
	s->stray_cr = after_cr & ~upto;
}

/* The word at this offset: bits of its LFs, and of the bytes that follow on a CR. */
static inline __attribute__((always_inline)) void scan_word(struct scanned *s, size_t at,
							    uint64_t lf, uint64_t after_cr)
{
	size_t whole;

	/* Where there is nothing but CRLF, as with nearly everybody, the two are the same. */
	if (__builtin_expect(((lf ^ after_cr) | s->stray_cr) != 0, 0))
		scan_odd(s, lf, after_cr);
	if (lf == 0)
		return;
	whole = at + WORD - (unsigned)__builtin_clzll(lf);
	if ((lf & (lf - 1)) == 0) {
		s->scan.messages++;
		s->scan.short_lines |= goodbye_fits(whole - s->scan.whole);
	} else {
		size_t first = at + (unsigned)__builtin_ctzll(lf) + 1;

		s->scan.messages += (uint32_t)__builtin_popcountll(lf);
		s->scan.short_lines |=
			(lf & (lf << 4 | lf << 5)) != 0 || goodbye_fits(first - s->scan.whole);
	}
	s->scan.whole = whole;
}

static inline __attribute__((always_inline)) struct scan
scan_with(uint64_t (*in_word)(const char *, char), struct span in, bool cr_before)
{
	struct scanned s = { .scan.canonical = true };
	const char *p = in.data;
	size_t at = WORD, rest;

	if (in.len < WORD) {
		char word[WORD] = { 0 };

		memcpy(word, p, in.len);
		scan_word(&s, 0, in_word(word, '\n'),
			  (in_word(word, '\r') << 1 | cr_before) & ((UINT64_C(1) << in.len) - 1));
	} else {
		scan_word(&s, 0, in_word(p, '\n'), in_word(p, '\r') << 1 | cr_before);
		for (; in.len - at >= WORD; at += WORD)
			scan_word(&s, at, in_word(p + at, '\n'), in_word(p + at - 1, '\r'));
		rest = in.len - at;
		/* The last bytes together with some that have been looked at. */
		if (rest > 0)
			scan_word(&s, at, in_word(p + in.len - WORD, '\n') >> (WORD - rest),
				  in_word(p + in.len - WORD - 1, '\r') >> (WORD - rest));
	}
	s.scan.tail_cr = s.stray_cr != 0;
	return s.scan;
}

#if defined(__x86_64__)
WIDE static struct scan scan_wide(struct span in, bool cr_before)
{
	return scan_with(find_wide, in, cr_before);
}
#endif

/* cr_before: the byte before `in` was a CR. */
static struct scan scan_lines(struct span in, bool cr_before)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		return scan_wide(in, cr_before);
#endif
	return scan_with(find, in, cr_before);
}

/* "BYE" with an end of line behind it: its length; otherwise 0. */
static size_t goodbye(const char *p, size_t len)
{
	if (len >= 4 && memcmp(p, "BYE\n", 4) == 0)
		return 4;
	if (len >= 5 && memcmp(p, "BYE\r\n", 5) == 0)
		return 5;
	return 0;
}

/* Bytes before the first goodbye that is not the first line. */
static size_t before_goodbye(struct span in, size_t whole)
{
	const char *p = in.data, *end = in.data + whole;

	while ((p = memchr(p, '\n', (size_t)(end - p))) != NULL) {
		p++;
		if (goodbye(p, (size_t)(end - p)) > 0)
			return (size_t)(p - in.data);
	}
	return whole;
}

/* Bytes of whole lines before the first that is too long; the first continues what the decoder has
 * seen. */
static size_t before_too_long(const struct line_decoder *d, struct span in, size_t whole,
			      size_t max)
{
	const char *line = in.data, *end = in.data + whole;
	size_t part = d->part;
	bool cr = d->cr;

	while (line < end) {
		const char *lf = memchr(line, '\n', (size_t)(end - line));
		size_t len = part + (size_t)(lf - line);

		if (lf > line ? lf[-1] == '\r' : cr)
			len--;
		if (len > max)
			break;
		part = 0;
		cr = false;
		line = lf + 1;
	}
	return (size_t)(line - in.data);
}

static uint32_t count_lines(struct span s)
{
	return scan_lines(s, false).messages;
}

static void remember_part(struct line_decoder *d, struct span part)
{
	for (size_t i = 0; i < part.len && d->part + i < sizeof(d->begun); i++)
		d->begun[d->part + i] = (uint8_t)part.data[i];
	d->part += part.len;
	d->cr = part.data[part.len - 1] == '\r';
}

/* Whether the line begun before and ended by `in` is a goodbye: how many bytes of `in` it takes, or
 * 0. */
static size_t goodbye_in_parts(const struct line_decoder *d, struct span in)
{
	char line[8];
	size_t n = d->part, take;

	if (n >= sizeof(d->begun) + 1)
		return 0;
	memcpy(line, d->begun, n < sizeof(d->begun) ? n : sizeof(d->begun));
	for (take = 0; n < 5 && take < in.len; take++) {
		line[n++] = in.data[take];
		if (in.data[take] == '\n') {
			take++;
			break;
		}
	}
	return goodbye(line, n) == n ? take : 0;
}

/* Whether the line that is partly there may become a goodbye, which no limit concerns. */
static bool begins_goodbye(const struct line_decoder *d)
{
	return d->part <= sizeof(d->begun) && memcmp(d->begun, "BYE\r", d->part) == 0;
}

static void publishing(struct line_decoder *d, struct span in, const struct line_limits *limits,
		       struct line_event *e, size_t *used)
{
	struct scan s;
	size_t bye = goodbye_in_parts(d, in);

	if (bye > 0) {
		*e = (struct line_event){ .kind = LINE_BYE };
		*used = bye;
		*d = (struct line_decoder){ .mode = d->mode };
		return;
	}
	s = scan_lines(in, d->cr);
	if (s.whole > 0 && (s.short_lines || d->part + in.len > limits->message_bytes)) {
		size_t whole = s.short_lines ? before_goodbye(in, s.whole) : s.whole;

		if (d->part + in.len > limits->message_bytes) {
			whole = before_too_long(d, in, whole, limits->message_bytes);
			if (whole == 0)
				goto too_long;
		}
		if (whole < s.whole) {
			s.whole = whole;
			s.messages = count_lines((struct span){ in.data, whole });
		}
	}
	if (s.whole > 0) {
		*e = (struct line_event){ .kind = LINE_MESSAGES,
					  .bytes = { in.data, s.whole },
					  .messages = s.messages,
					  .canonical = s.canonical && !d->inner_cr,
					  .inner_cr = s.inner_cr || d->inner_cr };
		*used = s.whole;
		*d = (struct line_decoder){ .mode = d->mode };
		return;
	}
	d->inner_cr |= s.tail_cr;
	remember_part(d, in);
	if (d->part - (d->cr ? 1 : 0) > limits->message_bytes && !begins_goodbye(d))
		goto too_long;
	*e = (struct line_event){ .kind = LINE_PART, .bytes = in };
	*used = in.len;
	return;
too_long:
	*e = (struct line_event){ .kind = LINE_ERROR, .error = LINE_TOO_LONG };
	*used = in.len;
}

/* Takes the next word off a command line. Words are separated by one space. */
static struct span next_word(struct span *line)
{
	const char *space = line->len > 0 ? memchr(line->data, ' ', line->len) : NULL;
	struct span word = { line->data, space != NULL ? (size_t)(space - line->data) : line->len };

	*line = span_skip(*line, space != NULL ? word.len + 1 : word.len);
	return word;
}

static bool decimal(struct span s, uint64_t *out)
{
	uint64_t n = 0;

	if (s.len == 0 || s.len > 20)
		return false;
	for (size_t i = 0; i < s.len; i++) {
		unsigned digit = (unsigned)(unsigned char)s.data[i] - '0';

		if (digit > 9 || __builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, digit, &n))
			return false;
	}
	*out = n;
	return true;
}

bool line_message_id(struct span id, uint64_t *epoch, uint64_t *seq)
{
	struct span number = span_skip(id, id.len < 17 ? id.len : 17);
	uint64_t e = 0;

	if (id.len < 18 || id.data[16] != ':' || (number.len > 1 && number.data[0] == '0'))
		return false;
	for (int i = 0; i < 16; i++) {
		char c = id.data[i];
		int digit = c >= '0' && c <= '9'   ? c - '0'
			    : c >= 'a' && c <= 'f' ? c - 'a' + 10
						   : -1;

		if (digit < 0)
			return false;
		e = e << 4 | (uint64_t)digit;
	}
	*epoch = e;
	return decimal(number, seq);
}

static const char *parse_subscribe(struct span line, struct line_event *e)
{
	struct span word;

	e->pattern = !name_valid(e->topic);
	if (e->pattern && !name_pattern_valid(e->topic))
		return LINE_BAD_TOPIC;
	if (line.data == NULL)
		return NULL;
	word = next_word(&line);
	if (span_equal(word, SPAN("FROM")) && line_message_id(line, &e->epoch, &e->n))
		e->replay = LINE_REPLAY_FROM;
	else if (span_equal(word, SPAN("LAST")) && decimal(line, &e->n))
		e->replay = LINE_REPLAY_LAST;
	else
		return LINE_MALFORMED;
	/* Of all that it matches there is the last message of each. */
	if (e->pattern && (e->replay != LINE_REPLAY_LAST || e->n != 1))
		return LINE_MALFORMED;
	return NULL;
}

/* "AUTH <token>" or "AUTH <user> <password>"; a password may be anything that goes in a line. */
static void parse_auth(struct span rest, struct line_event *e)
{
	const char *space = rest.len > 0 ? memchr(rest.data, ' ', rest.len) : NULL;
	size_t user_len = space != NULL ? (size_t)(space - rest.data) : 0;

	e->kind = LINE_AUTH;
	e->user = (struct span){ rest.data, user_len };
	e->secret = space != NULL ? span_skip(rest, user_len + 1) : rest;
	if (e->secret.len > 0 && (space == NULL || user_len > 0))
		return;
	*e = (struct line_event){ .kind = LINE_ERROR, .error = LINE_MALFORMED };
}

/* How long a command may be that begins so. */
static size_t command_max(struct span line, const struct line_limits *limits)
{
	bool auth = line.len >= 5 && memcmp(line.data, "AUTH ", 5) == 0;

	return auth && limits->command_bytes < LINE_AUTH_BYTES_MAX ? LINE_AUTH_BYTES_MAX
								   : limits->command_bytes;
}

static void command(struct line_decoder *d, struct span in, const struct line_limits *limits,
		    struct line_event *e, size_t *used)
{
	const char *lf = in.len > 0 ? memchr(in.data, '\n', in.len) : NULL;
	struct span line = { in.data, lf != NULL ? (size_t)(lf - in.data) : in.len }, word;
	bool more_words;

	*e = (struct line_event){ .kind = LINE_MORE };
	*used = 0;
	if (line.len > 0 && line.data[line.len - 1] == '\r')
		line.len--;
	if (line.len > limits->command_bytes && line.len > command_max(line, limits)) {
		*e = (struct line_event){ .kind = LINE_ERROR, .error = LINE_TOO_LONG };
		*used = in.len;
		return;
	}
	if (lf == NULL)
		return;
	*used = (size_t)(lf - in.data) + 1;
	if (span_equal(line, SPAN("BYE"))) {
		e->kind = LINE_BYE;
		return;
	}
	if (d->mode == LINE_SUBSCRIBED && span_equal(line, SPAN("PING"))) {
		e->kind = LINE_PING;
		return;
	}
	e->kind = LINE_ERROR;
	e->error = LINE_MALFORMED;
	if (d->mode == LINE_SUBSCRIBED)
		return;
	word = next_word(&line);
	if (span_equal(word, SPAN("AUTH"))) {
		parse_auth(line, e);
		return;
	}
	more_words = line.len > 0;
	e->topic = next_word(&line);
	/* A space at the end is as wrong as a word too many. */
	if (!more_words)
		return;
	if (e->topic.data + e->topic.len == line.data && line.len == 0)
		line.data = NULL;
	if (span_equal(word, SPAN("PUBLISH"))) {
		if (line.data != NULL)
			return;
		e->error = name_valid(e->topic) ? NULL : LINE_BAD_TOPIC;
		if (e->error == NULL) {
			e->kind = LINE_PUBLISH;
			d->mode = LINE_PUBLISHING;
		}
	} else if (span_equal(word, SPAN("SUBSCRIBE"))) {
		e->error = parse_subscribe(line, e);
		if (e->error == NULL) {
			e->kind = LINE_SUBSCRIBE;
			d->mode = LINE_SUBSCRIBED;
		}
	}
}

void line_decode(struct line_decoder *d, struct span in, const struct line_limits *limits,
		 struct line_event *e, size_t *used)
{
	if (d->mode == LINE_PUBLISHING && in.len > 0)
		publishing(d, in, limits, e, used);
	else
		command(d, in, limits, e, used);
}

int line_detect(struct span first)
{
	static const struct span words[] = {
		{ "PUBLISH ", 8 }, { "SUBSCRIBE ", 10 }, { "AUTH ", 5 }, { "BYE", 3 }
	};

	/* An empty span may point nowhere. */
	if (first.len == 0)
		return 0;
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		size_t n = first.len < words[i].len ? first.len : words[i].len;

		if (memcmp(first.data, words[i].data, n) == 0)
			return n == words[i].len ? 1 : 0;
	}
	return -1;
}

/* ---- runs to bytes ---- */

static bool is_line(struct span message)
{
	return message.len == 0 || (memchr(message.data, '\n', message.len) == NULL &&
				    memchr(message.data, '\r', message.len) == NULL);
}

static uint32_t encodable(const struct wire *wire, const struct run *run)
{
	struct run rest = *run;
	struct span message;
	uint32_t n = 0;

	(void)wire;
	if (run->form == RUN_LINES)
		return run->messages;
	while (run_next(&rest, &message))
		n += is_line(message);
	return n;
}

/* A record's head takes more than an end of line. */
static size_t encoded_max(const struct wire *wire, const struct run *run)
{
	(void)wire;
	return run->body.len + 2;
}

static size_t encode(const struct wire *wire, const struct run *run, char *out)
{
	struct run rest = *run;
	struct span message;
	char *at = out;

	(void)wire;
	if (run->form == RUN_LINES) {
		memcpy(out, run->body.data, run->body.len);
		return run->body.len;
	}
	while (run_next(&rest, &message)) {
		if (run->form != RUN_ONE && !is_line(message))
			continue;
		if (message.len > 0)
			memcpy(at, message.data, message.len);
		memcpy(at + message.len, "\r\n", 2);
		at += message.len + 2;
	}
	return (size_t)(at - out);
}

static void enclose(const struct wire *wire, const struct run *run, char *prefix,
		    size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	(void)wire;
	(void)prefix;
	*prefix_len = 0;
	*body = run->form == RUN_LINES ? run->body : run_only(run);
	*suffix_len = run->form == RUN_LINES ? 0 : 2;
	memcpy(suffix, "\r\n", *suffix_len);
}

static size_t boundary(struct span encoded, size_t offset)
{
	const char *lf;

	if (offset == 0 || encoded.data[offset - 1] == '\n')
		return offset;
	lf = memchr(encoded.data + offset, '\n', encoded.len - offset);
	return lf != NULL ? (size_t)(lf - encoded.data) + 1 : encoded.len;
}

const struct wire_format line_format = { .name = "line",
					 .encodable = encodable,
					 .encoded_max = encoded_max,
					 .encode = encode,
					 .enclose = enclose,
					 .lines_verbatim = true,
					 .boundary = boundary };

/* ---- with the topic ---- */

/* Where the name has a space in it, nobody could tell where the message begins. */
static uint32_t topic_encodable(const struct wire *wire, const struct run *run)
{
	if (memchr(run->topic.data, ' ', run->topic.len) != NULL)
		return 0;
	return encodable(wire, run);
}

static size_t topic_encoded_max(const struct wire *wire, const struct run *run)
{
	return encoded_max(wire, run) + run->messages * (run->topic.len + 1);
}

static char *put_topic(char *out, const struct run *run)
{
	memcpy(out, run->topic.data, run->topic.len);
	out[run->topic.len] = ' ';
	return out + run->topic.len + 1;
}

static size_t topic_encode(const struct wire *wire, const struct run *run, char *out)
{
	struct run rest = *run;
	struct span message;
	char *at = out;

	(void)wire;
	while (run_next(&rest, &message)) {
		if (run->form != RUN_LINES && !is_line(message))
			continue;
		at = put_topic(at, run);
		if (message.len > 0)
			memcpy(at, message.data, message.len);
		memcpy(at + message.len, "\r\n", 2);
		at += message.len + 2;
	}
	return (size_t)(at - out);
}

static void topic_enclose(const struct wire *wire, const struct run *run, char *prefix,
			  size_t *prefix_len, struct span *body, char *suffix, size_t *suffix_len)
{
	(void)wire;
	*prefix_len = (size_t)(put_topic(prefix, run) - prefix);
	*body = run_only(run);
	*suffix_len = 2;
	memcpy(suffix, "\r\n", *suffix_len);
}

const struct wire_format line_topic_format = { .name = "line-topic",
					       .encodable = topic_encodable,
					       .encoded_max = topic_encoded_max,
					       .encode = topic_encode,
					       .enclose = topic_enclose,
					       .boundary = boundary };
