#include "admin/figures.h"

#include <assert.h>
#include <errno.h>

#include "admin/metrics.h"
#include "admin/snapshot.h"
#include "admin/survey.h"
#include "admin/text.h"
#include "base/clock.h"
#include "base/memory.h"
#include "broker/connection.h"
#include "broker/fetch.h"
#include "broker/home.h"
#include "broker/shard.h"
#include "protocol/http.h"
#include "protocol/http_field.h"
#include "session/http_answer.h"
#include "session/routes.h"
#include "topic/block.h"
#include "topic/topic.h"

enum {
	ASKED_MAX = 64 * 1024, /* requests that wait: then new ones get a 503 */
	FEW = 16,              /* requests that need not wait for a second */
	FEW_WAIT_MS = 20,      /* but no more than this */
	TELL_COST = 2,         /* of one of them, about half a microsecond */
	STEP_COST = 16,        /* of a text, about 4 us */
	TEXT_BYTES = 16 << 10, /* at first */
};

enum page { PAGE_METRICS, PAGE_OPENMETRICS, PAGE_STATS, PAGES };

static const struct page_kind {
	const char *topic; /* that it is published to, too; NULL: to none */
	const char *type;
	bool (*write)(struct text *, const struct shard *, const struct snapshot *all,
		      unsigned step);
} page_kinds[PAGES] = {
	[PAGE_METRICS] = { NULL, "text/plain; version=0.0.4; charset=utf-8", metrics_write },
	[PAGE_OPENMETRICS] = { NULL, "application/openmetrics-text; version=1.0.0; charset=utf-8",
			       openmetrics_write },
	[PAGE_STATS] = { "$sys.stats", "application/json", stats_write },
};

/* What has been collected on its way to those who wait for it. */
struct press {
	struct snapshots *all;
	struct block *made[PAGES]; /* held; NULL: not wanted, or out of memory */
	struct text text;          /* of this page */
	unsigned page, step;
};

static struct span stats_topic(void)
{
	return span_of(page_kinds[PAGE_STATS].topic);
}

static uint64_t stats_hash(void)
{
	return topic_hash(stats_topic());
}

static void press_free(struct press *p)
{
	for (unsigned page = 0; page < PAGES; page++)
		if (p->made[page] != NULL)
			block_unref(p->made[page]);
	text_release(&p->text);
	memory_free(p->all);
	memory_free(p);
}

/* ---- at the home ---- */

/* Whether anybody subscribes. */
static bool watched(struct shard *s)
{
	const struct topic *t = home_topic(s, stats_hash(), stats_topic());

	return t != NULL && t->shards_n > 0 && !s->drain.draining;
}

static void collected(struct shard *s, struct snapshots *all)
{
	struct press *p = memory_new_zeroed(sizeof(*p));

	assert(s->figures.state == FIGURES_COLLECTING);
	s->figures.state = p != NULL ? FIGURES_WRITING : FIGURES_TELLING;
	s->figures.press = p;
	s->figures.working = true;
	if (p == NULL)
		memory_free(all);
	else
		p->all = all;
}

/* When there may be a collection for those who wait: at once, if not much is asked for. */
static uint64_t due_ns(const struct figures *f)
{
	if (f->began_ns == 0)
		return 0;
	return f->began_ns + (f->asked_n <= FEW ? FEW_WAIT_MS * NS_PER_MS : NS_PER_S);
}

/* Figures for all who have asked until now, and for subscribers. */
static void begin(struct shard *s, bool publish)
{
	struct figures *f = &s->figures;
	unsigned wanted = f->wanted | (publish ? 1u << PAGE_STATS : 0);
	struct snapshots *all = snapshots_new(s, collected);

	assert(f->state == FIGURES_IDLE);
	f->began_ns = s->reactor.now_ns;
	list_splice(&f->served, &f->asked);
	f->wanted = 0;
	f->state = all != NULL ? FIGURES_COLLECTING : FIGURES_TELLING;
	f->working |= all == NULL;
	if (all == NULL)
		return;
	all->published = publish;
	all->wanted = wanted;
	snapshots_ask(all, s);
}

static bool second(struct shard *s)
{
	if (!watched(s))
		return false;
	/* A shard that is behind gets to it later: it has enough to do with one collection. */
	if (s->figures.state == FIGURES_IDLE)
		begin(s, true);
	return true;
}

static void asked(struct shard *s, struct fetch_letter *l)
{
	struct figures *f = &s->figures;

	if (f->asked_n >= ASKED_MAX) {
		fetch_answer(s, l, -ENOSPC);
		return;
	}
	l->waited = true;
	f->asked_n++;
	f->wanted |= 1u << l->wanted[0];
	list_append(&f->asked, &l->link);
	f->working = true;
}

/* A page is written. */
static void made(struct shard *s, struct press *p)
{
	struct block *b = text_take(&p->text);

	p->made[p->page] = b;
	if (b == NULL || page_kinds[p->page].topic == NULL || !p->all->published || !watched(s))
		return;
	b->messages = 1;
	block_ref(b, 1);
	home_publish(s, b);
}

static void begin_page(struct press *p)
{
	const struct page_kind *kind = &page_kinds[p->page];
	struct span topic = kind->topic != NULL ? span_of(kind->topic) : SPAN("");

	text_init(&p->text,
		  block_new_labelled(topic, topic_hash(topic),
				     &(const struct block_labels){ .type = span_of(kind->type) },
				     TEXT_BYTES));
}

/* A step of the text. False: all have been written. */
static bool write_on(struct shard *s)
{
	struct press *p = s->figures.press;

	while (p->page < PAGES && !(p->all->wanted & 1u << p->page))
		p->page++;
	if (p->page == PAGES)
		return false;
	if (p->step == 0)
		begin_page(p);
	if (page_kinds[p->page].write(&p->text, s, p->all->by_shard, p->step++))
		return true;
	made(s, p);
	p->page++;
	p->step = 0;
	return true;
}

/* Sends the text to one of those who wait for it. False: all have it. */
static bool tell(struct shard *s)
{
	struct list *link = list_take(&s->figures.served);
	struct fetch_letter *l;

	if (link == NULL)
		return false;
	l = LIST_ENTRY(link, struct fetch_letter, link);
	s->figures.asked_n--;
	if (s->figures.press != NULL)
		l->block = s->figures.press->made[l->wanted[0]];
	if (l->block != NULL) {
		block_ref(l->block, 1);
		l->body = (struct span){ block_body(l->block), l->block->len };
	}
	fetch_answer(s, l, l->block != NULL ? 0 : -ENOMEM);
	return true;
}

static void told_all(struct figures *f)
{
	if (f->press != NULL)
		press_free(f->press);
	f->press = NULL;
	f->state = FIGURES_IDLE;
}

/* Writes and tells as far as there is time. Whether more is left. */
static bool press_on(struct shard *s)
{
	struct figures *f = &s->figures;

	while (f->state == FIGURES_WRITING || f->state == FIGURES_TELLING) {
		if (f->state == FIGURES_WRITING && !write_on(s))
			f->state = FIGURES_TELLING;
		else if (f->state == FIGURES_TELLING && !tell(s))
			told_all(f);
		reactor_spend(&s->reactor, f->state == FIGURES_WRITING ? STEP_COST : TELL_COST);
		if (reactor_spent(&s->reactor))
			break;
	}
	return f->state == FIGURES_WRITING || f->state == FIGURES_TELLING;
}

/* Whoever waits for a collection is served when it is time. */
static void serve(struct shard *s)
{
	struct figures *f = &s->figures;

	if (f->state != FIGURES_IDLE || list_empty(&f->asked))
		return;
	if (s->reactor.now_ns >= due_ns(f)) {
		begin(s, false);
		return;
	}
	f->working = true;
	reactor_wake_at(&s->reactor, due_ns(f));
}

static bool go_on(struct shard *s)
{
	bool more;

	reactor_part(&s->reactor, PART_TOPICS);
	s->figures.working = false;
	more = snapshots_rank(s);
	more |= press_on(s);
	more |= surveys_go_on(s);
	serve(s);
	s->figures.working |= more;
	return more;
}

static void forget(struct list *letters)
{
	struct list *l;

	while ((l = list_take(letters)) != NULL)
		fetch_letter_free(LIST_ENTRY(l, struct fetch_letter, link));
}

static void release(struct shard *s)
{
	forget(&s->figures.asked);
	forget(&s->figures.served);
	if (s->figures.press != NULL)
		press_free(s->figures.press);
	memory_free(s->figures.ranking);
	surveys_release(s);
}

/* ---- pages ---- */

static void ask(struct connection *c, enum page page)
{
	struct fetch_letter *l = fetch_letter_new(FETCH_FIGURES, stats_topic(), stats_hash());

	if (l == NULL) {
		http_error(c, 503, "out of memory");
		return;
	}
	l->wanted[0] = page;
	routes_fetch(c, l);
}

static void handle_metrics(struct connection *c, const struct http_request *r, struct span rest)
{
	(void)rest;
	ask(c, http_list_says(r->accept, SPAN("application/openmetrics-text")) == HTTP_WANTED
		       ? PAGE_OPENMETRICS
		       : PAGE_METRICS);
}

static void handle_stats(struct connection *c, const struct http_request *r, struct span rest)
{
	(void)r;
	(void)rest;
	ask(c, PAGE_STATS);
}

void figures_init(struct broker *b)
{
	static const struct figures_use use = {
		.second = second,
		.asked = asked,
		.go_on = go_on,
		.release = release,
	};
	static const struct route metrics = { .path = "/metrics",
					      .scraped = true,
					      .probed = true,
					      .methods = HTTP_VERB_GET | HTTP_VERB_HEAD,
					      .handle = handle_metrics };
	static const struct route stats = { .path = "/stats.json",
					    .local = true,
					    .methods = HTTP_VERB_GET | HTTP_VERB_HEAD,
					    .handle = handle_stats };

	b->letter_uses[LETTER_FIGURES].read = snapshots_collect;
	b->figures = &use;
	routes_add(b, &metrics);
	routes_add(b, &stats);
	surveys_init(b);
	survey_topics_init(b);
	survey_clients_init(b);
}
