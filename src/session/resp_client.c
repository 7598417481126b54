#include "session/resp.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

#include "session/gather.h"

/* What all commands need: replies, words, and how far the client is. */

enum { ERROR_BYTES_MAX = 512 };

/* ---- replies ---- */

bool resp_reply(struct connection *c, struct span text)
{
	return connection_reply(c, text);
}

void resp_error(struct connection *c, const char *text)
{
	char line[ERROR_BYTES_MAX];
	size_t n = strlen(text);

	n = n < sizeof(line) - 2 ? n : sizeof(line) - 2;
	for (size_t i = 0; i < n; i++)
		line[i] = text[i] == '\r' || text[i] == '\n' ? ' ' : text[i];
	memcpy(line + n, "\r\n", 2);
	(void)resp_reply(c, (struct span){ line, n + 2 });
}

bool resp_bulk(struct connection *c, struct span text)
{
	char head[RESP_HEAD_BYTES_MAX];
	size_t n = (size_t)(resp_put_head(head, '$', text.len) - head);

	return resp_reply(c, (struct span){ head, n }) && resp_reply(c, text) &&
	       resp_reply(c, SPAN("\r\n"));
}

char *resp_replies_room(struct resp_replies *o, size_t bytes)
{
	if (o->len + bytes > sizeof(o->bytes))
		resp_replies_flush(o);
	return o->bytes + o->len;
}

void resp_replies_put(struct resp_replies *o, const char *end)
{
	o->len = (size_t)(end - o->bytes);
}

void resp_replies_flush(struct resp_replies *o)
{
	if (o->len > 0 && o->connection->state != CONNECTION_CLOSED)
		(void)resp_reply(o->connection, (struct span){ o->bytes, o->len });
	o->len = 0;
}

/* ---- words ---- */

bool resp_is(struct span word, const char *name)
{
	return word.len == strlen(name) && strncasecmp(word.data, name, word.len) == 0;
}

struct span resp_word(struct resp_words *words)
{
	assert(words->n > 0);
	words->n--;
	return resp_next(&words->rest);
}

void resp_go_behind(struct resp_client *r, struct resp_words before, struct resp_words now)
{
	r->work->at += (uint32_t)(now.rest.data - before.rest.data);
	r->work->words = now.n;
}

/* ---- how far it is ---- */

bool resp_caught_up(struct connection *c)
{
	gather_flush(c);
	return resp_of(c)->work->published_n == 0;
}

static void tell_end(struct connection *c)
{
	const struct resp_client *r = resp_of(c);
	const struct resp_event e = { .error = r->work->error, .got = r->work->got };
	char text[RESP_ERROR_BYTES_MAX];
	size_t n = resp_put_error(text, &e);

	if (resp_reply(c, (struct span){ text, n }))
		connection_fail(c, NULL);
}

void resp_give_up(struct connection *c, enum resp_error error, char got)
{
	struct resp_client *r = resp_of(c);

	r->work->ends = true;
	r->work->error = error;
	r->work->got = got;
	intake_hold(r->intake);
	if (resp_caught_up(c))
		tell_end(c);
}

void resp_go_on(struct connection *c)
{
	struct resp_client *r = resp_of(c);

	if (!r->work->ends)
		intake_resume(r->intake);
	else if (r->work->published_n == 0)
		tell_end(c);
}
