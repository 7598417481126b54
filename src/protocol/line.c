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

/* Bit i of *lf: byte i is a LF; likewise *cr. Finding ends of lines is the only work per byte that
 * the broker does. */
#if defined(__x86_64__)
static inline void masks(const char *p, uint64_t *lf, uint64_t *cr)
{
	const __m128i newline = _mm_set1_epi8('\n'), ret = _mm_set1_epi8('\r');

	*lf = *cr = 0;
	for (int i = 0; i < WORD / 16; i++) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i));

		*lf |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, newline)) << 16 * i;
		*cr |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, ret)) << 16 * i;
	}
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
static inline uint64_t bits(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d)
{
	static const uint8_t weights[16] = { 1, 2, 4, 8, 16, 32, 64, 128,
					     1, 2, 4, 8, 16, 32, 64, 128 };
	const uint8x16_t w = vld1q_u8(weights);
	uint8x16_t ab = vpaddq_u8(vandq_u8(a, w), vandq_u8(b, w));
	uint8x16_t cd = vpaddq_u8(vandq_u8(c, w), vandq_u8(d, w));

	ab = vpaddq_u8(ab, cd);
	ab = vpaddq_u8(ab, ab);
	return vgetq_lane_u64(vreinterpretq_u64_u8(ab), 0);
}

static inline void masks(const char *p, uint64_t *lf, uint64_t *cr)
{
	const uint8x16_t newline = vdupq_n_u8('\n'), ret = vdupq_n_u8('\r');
	const uint8_t *u = (const uint8_t *)p;
	uint8x16_t a = vld1q_u8(u), b = vld1q_u8(u + 16), c = vld1q_u8(u + 32),
		   d = vld1q_u8(u + 48);

	*lf = bits(vceqq_u8(a, newline), vceqq_u8(b, newline), vceqq_u8(c, newline),
		   vceqq_u8(d, newline));
	*cr = bits(vceqq_u8(a, ret), vceqq_u8(b, ret), vceqq_u8(c, ret), vceqq_u8(d, ret));
}
#else
static inline void masks(const char *p, uint64_t *lf, uint64_t *cr)
{
	*lf = *cr = 0;
	for (unsigned i = 0; i < WORD; i++) {
		*lf |= (uint64_t)(p[i] == '\n') << i;
		*cr |= (uint64_t)(p[i] == '\r') << i;
	}
}
#endif

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2,popcnt,bmi,lzcnt")))

WIDE static inline void masks_wide(const char *p, uint64_t *lf, uint64_t *cr)
{
	const __m256i newline = _mm256_set1_epi8('\n'), ret = _mm256_set1_epi8('\r');

	*lf = *cr = 0;
	for (int i = 0; i < WORD / 32; i++) {
		__m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32 * i));

		*lf |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, newline))
		       << 32 * i;
		*cr |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, ret))
		       << 32 * i;
	}
}
#endif

struct scan {
	size_t whole; /* bytes up to and with the last LF; 0: none */
	uint32_t messages;
	bool canonical;   /* CR and LF come only as CRLF, as far as `whole` goes */
	bool inner_cr;    /* as far as that some CR comes otherwise */
	bool tail_cr;     /* behind the last LF a CR that is not the last byte */
	bool short_lines; /* some line but the first may be a goodbye */
};

static inline __attribute__((always_inline)) struct scan
scan_with(void (*find)(const char *, uint64_t *, uint64_t *), struct span in, bool cr_before_in)
{
	struct scan s = { .canonical = true };
	uint64_t lf_before = 0;            /* the previous word's */
	uint64_t cr_before = cr_before_in; /* 1: the byte before this word was a CR */
	uint64_t stray_cr = 0; /* CRs followed by something else than LF since the last LF */
	char tail[WORD];

	for (size_t at = 0; at < in.len; at += WORD) {
		const char *p = in.data + at;
		uint64_t lf, cr, after_cr, valid = UINT64_MAX;

		if (in.len - at < WORD) {
			valid = (UINT64_C(1) << (in.len - at)) - 1;
			memset(tail, 0, sizeof(tail));
			memcpy(tail, p, in.len - at);
			p = tail;
		}
		find(p, &lf, &cr);
		after_cr = (cr << 1 | cr_before) & valid;
		cr_before = cr >> 63;
		if (lf != 0) {
			unsigned top = 63 - (unsigned)__builtin_clzll(lf);
			uint64_t upto = top == 63 ? UINT64_MAX : (UINT64_C(2) << top) - 1;

			/* A LF without a CR before it, or the other way round. */
			if (stray_cr != 0 || ((lf ^ after_cr) & upto) != 0) {
				s.canonical = false;
				s.inner_cr |= stray_cr != 0 || (after_cr & ~lf & upto) != 0;
			}
			stray_cr = after_cr & ~upto;
			s.messages += (uint32_t)__builtin_popcountll(lf);
			s.whole = at + top + 1;
			/* Line ends four or five bytes apart: "BYE\n" or "BYE\r\n". */
			if (lf & (lf << 4 | lf_before >> 60 | lf << 5 | lf_before >> 59))
				s.short_lines = true;
		} else {
			stray_cr |= after_cr;
		}
		lf_before = lf;
	}
	s.tail_cr = stray_cr != 0;
	return s;
}

#if defined(__x86_64__)
WIDE static struct scan scan_wide(struct span in, bool cr_before)
{
	return scan_with(masks_wide, in, cr_before);
}
#endif

/* cr_before: the byte before `in` was a CR. */
static struct scan scan_lines(struct span in, bool cr_before)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		return scan_wide(in, cr_before);
#endif
	return scan_with(masks, in, cr_before);
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
