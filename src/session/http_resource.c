#include "session/http_resource.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/connection.h"
#include "protocol/http.h"
#include "protocol/nats.h"
#include "session/http.h"
#include "session/http_answer.h"
#include "topic/block.h"

struct http_conditions http_conditions_of(const struct http_request *r)
{
	return (struct http_conditions){ .match = r->if_match,
					 .none_match = r->if_none_match,
					 .encodings = r->accept_encoding,
					 .range = r->range,
					 .if_range = r->if_range };
}

/* Whether a tag, all of which are strong, is in the list; weak: as W/"..." too (RFC 9110, 8.8.3.2).
 */
static bool matches(struct http_list list, struct span etag, bool weak)
{
	struct span one;

	while (http_list_next(&list, &one)) {
		if (weak && one.len > 2 && memcmp(one.data, "W/", 2) == 0)
			one = span_skip(one, 2);
		if (span_equal(one, etag) || span_equal(one, SPAN("*")))
			return true;
	}
	return false;
}

/* Whether the client has said that it cannot read what is coded so: nothing here recodes. */
static bool refuses(struct http_list encodings, struct span coding)
{
	enum http_choice says =
		http_list_says(encodings, coding.len > 0 ? coding : SPAN("identity"));

	return says == HTTP_REFUSED ||
	       (says == HTTP_UNSAID && http_list_says(encodings, SPAN("*")) == HTTP_REFUSED);
}

/* The status that the client's conditions make of it, in the order of RFC 9110, 13.2.2. */
static unsigned condition_status(const struct http_conditions *wanted, struct span etag)
{
	if (wanted->match.value.data != NULL && !matches(wanted->match, etag, false))
		return 412;
	return matches(wanted->none_match, etag, true) ? 304 : 200;
}

/* What its publisher has called the message's type: over HTTP for its block, elsewhere beside it or
 * in its headers. Empty: nothing, or nothing that may stand in a head. */
static struct span type_of(struct block *b, uint64_t number)
{
	const struct span none = { NULL, 0 };
	struct record r;
	struct run run;

	if (b->form != RUN_RECORDS)
		return block_type(b);
	run = block_part(b, (uint32_t)(number - block_number(b)), 1);
	(void)run_next_record(&run, &r);
	if (r.type.len == 0)
		r.type = nats_header(r.headers, SPAN("Content-Type"));
	for (size_t i = 0; i < r.type.len; i++)
		if (r.type.data[i] < ' ' || r.type.data[i] > '~')
			return none;
	return r.type.len <= BLOCK_LABEL_MAX ? r.type : none;
}

void http_answer_resource(struct connection *c, struct block *b, struct span body, uint64_t epoch,
			  uint64_t number, const char *cache, const char *more,
			  const struct http_conditions *wanted)
{
	struct http_answer a = { .type = type_of(b, number), .body = body, .hold = b };
	struct span version = block_version(b), encoding = block_encoding(b), etag;
	uint64_t first = 0, n = body.len;
	char headers[1024], tag[48];
	int len;

	if (refuses(wanted->encodings, encoding)) {
		http_error(c, 406, "its Content-Encoding is not accepted");
		return;
	}
	len = snprintf(tag, sizeof(tag), "\"%016" PRIx64 ":%" PRIu64 "\"", epoch, number);
	etag = (struct span){ tag, (size_t)len };
	if (a.type.len == 0)
		a.type = SPAN("application/octet-stream");
	a.status = condition_status(wanted, etag);
	if (a.status != 200) {
		a.body.len = 0;
	} else if (!http_of(c)->head_only && wanted->range.len > 0 &&
		   (wanted->if_range.len == 0 || span_equal(wanted->if_range, etag))) {
		switch (http_range(wanted->range, body.len, &first, &n)) {
		case HTTP_RANGE_PART:
			a.status = 206;
			a.body = (struct span){ body.data + first, n };
			break;
		case HTTP_RANGE_UNSATISFIABLE:
			a.status = 416;
			a.body.len = 0;
			break;
		case HTTP_RANGE_NONE:
		default:
			break;
		}
	}
	len = snprintf(headers, sizeof(headers),
		       "ETag: %s\r\nCache-Control: %s\r\nAccept-Ranges: bytes\r\n%s", tag, cache,
		       more);
	if (version.len > 0)
		len += snprintf(headers + len, sizeof(headers) - (size_t)len, "X-Version: %.*s\r\n",
				(int)version.len, version.data);
	/* Caches must not give it to those who refuse it. */
	a.coded = encoding.len > 0;
	if (a.coded && (a.status == 200 || a.status == 206))
		len += snprintf(headers + len, sizeof(headers) - (size_t)len,
				"Content-Encoding: %.*s\r\n", (int)encoding.len, encoding.data);
	if (a.status == 206)
		len += snprintf(headers + len, sizeof(headers) - (size_t)len,
				"Content-Range: bytes %" PRIu64 "-%" PRIu64 "/%zu\r\n", first,
				first + n - 1, body.len);
	else if (a.status == 416)
		len += snprintf(headers + len, sizeof(headers) - (size_t)len,
				"Content-Range: bytes */%zu\r\n", body.len);
	assert((size_t)len < sizeof(headers));
	a.headers = headers;
	http_answer(c, &a);
}

enum { KEPT_LISTS = 3, KEPT_FIELDS = 5 };

bool http_conditions_keep(struct connection *c, const struct http_request *r)
{
	const struct http_list lists[KEPT_LISTS] = {
		r->if_match, r->if_none_match,
		/* Nearly everybody says what is wanted, and hardly anybody what is not. */
		http_list_refuses(r->accept_encoding) ? r->accept_encoding
						      : (struct http_list){ .value = { NULL, 0 } }
	};
	const struct span fields[] = { r->range, r->if_range };
	size_t n = r->range.len + r->if_range.len;
	bool matching = r->if_match.value.data != NULL;
	char *at;

	for (int i = 0; i < KEPT_LISTS; i++)
		n += http_list_join(lists[i], NULL);
	if (n == 0 && !matching)
		return true;
	at = malloc(n + KEPT_FIELDS + 1);
	if (at == NULL)
		return false;
	http_of(c)->reading->fields = at;
	/* An empty If-Match is one that nothing matches. */
	*at++ = matching;
	for (int i = 0; i < KEPT_LISTS; i++) {
		at += http_list_join(lists[i], at);
		*at++ = 0;
	}
	for (int i = 0; i < KEPT_FIELDS - KEPT_LISTS; i++) {
		if (fields[i].len > 0)
			memcpy(at, fields[i].data, fields[i].len);
		at += fields[i].len;
		*at++ = 0;
	}
	return true;
}

static struct span next_kept(const char **at)
{
	struct span one = span_of(*at);

	*at += one.len + 1;
	return one;
}

struct http_conditions http_conditions_kept(const struct connection *c)
{
	struct http_conditions k = { .range = { NULL, 0 } };
	const char *at = http_of(c)->reading->fields;
	bool matching;

	if (at == NULL)
		return k;
	matching = *at++;
	k.match.value = next_kept(&at);
	if (!matching)
		k.match.value.data = NULL;
	k.none_match.value = next_kept(&at);
	k.encodings.value = next_kept(&at);
	k.range = next_kept(&at);
	k.if_range = next_kept(&at);
	return k;
}
