#include "admin/survey.h"

#include "base/memory.h"
#include "broker/connection.h"
#include "broker/shard.h"
#include "engine/socket.h"
#include "session/http_answer.h"
#include "topic/block.h"

enum {
	ASKED_MAX = 16, /* by the clients of one shard; then new ones get a 503 */
	TEXT_BYTES = 16 << 10,
	STEP_COST = 16, /* of a text, about 4 us */
};

void survey_ask(struct connection *c, struct survey *v, const struct survey_kind *kind)
{
	struct shard *s = c->shard;

	if (v == NULL || s->figures.surveys_n >= ASKED_MAX) {
		http_error(c, 503, v == NULL ? "out of memory" : "too many waiting requests");
		memory_free(v);
		return;
	}
	v->letter.kind = LETTER_SURVEY;
	v->kind = kind;
	v->asking = s->id;
	v->slot = c->socket.slot;
	v->generation = socket_generation(&s->sockets, &c->socket);
	v->ticket = http_wait(c);
	list_init(&v->link);
	s->figures.surveys_n++;
	shard_post(s, 0, LANE_FREE, &v->letter);
}

static void read_survey(struct shard *s, struct letter *letter)
{
	struct survey *v = (struct survey *)(void *)letter;

	list_append(&s->figures.surveys, &v->link);
	s->figures.working = true;
}

static void pass_on(struct shard *s, struct survey *v)
{
	v->begun = false;
	if (++v->shard == s->broker->shards_n) {
		v->shard = 0;
		v->round++;
	}
	shard_post(s, v->round < v->kind->rounds ? v->shard : v->asking, LANE_FREE, &v->letter);
}

static void answer(struct shard *s, struct survey *v)
{
	struct connection *c = http_waited(s, v->slot, v->generation, v->ticket);
	struct block *b = text_take(&v->text);

	s->figures.surveys_n--;
	if (c != NULL && b == NULL)
		http_error(c, 503, "out of memory");
	else if (c != NULL)
		http_answer(c, &(struct http_answer){ .status = 200,
						      .type = SPAN("application/json"),
						      .headers = "Cache-Control: no-store\r\n",
						      .body = { block_body(b), b->len },
						      .hold = b });
	if (b != NULL)
		block_unref(b);
	memory_free(v);
}

static void write_on(struct shard *s, struct survey *v)
{
	if (v->step == 0)
		text_init(&v->text, block_new(SPAN(""), 0, TEXT_BYTES));
	if (v->kind->write(&v->text, v, v->step++))
		return;
	list_remove(&v->link);
	answer(s, v);
}

bool surveys_go_on(struct shard *s)
{
	struct list *all = &s->figures.surveys;

	while (!list_empty(all)) {
		struct survey *v = LIST_ENTRY(all->next, struct survey, link);

		if (v->round == v->kind->rounds) {
			write_on(s, v);
			reactor_spend(&s->reactor, STEP_COST);
		} else if (!v->kind->collect(s, v)) {
			list_remove(&v->link);
			pass_on(s, v);
		}
		if (reactor_spent(&s->reactor))
			break;
	}
	return !list_empty(all);
}

void surveys_release(struct shard *s)
{
	struct list *l;

	while ((l = list_take(&s->figures.surveys)) != NULL) {
		struct survey *v = LIST_ENTRY(l, struct survey, link);

		text_release(&v->text);
		memory_free(v);
	}
}

void surveys_init(struct broker *b)
{
	b->letter_uses[LETTER_SURVEY].read = read_survey;
}
