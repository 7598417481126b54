#include "topic/interest.h"

#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "topic/stream.h"

enum {
	DROPS_MAX = 8,  /* by one who looks for another: more than come with him */
	FORMS_MIN = 16, /* streams that are looked at one by one; of more there are forms */
	LOOKS_MAX = 32, /* places of forms, for one that nobody reads */
};

struct form {
	struct named named; /* first; the parameter, and both hashed */
	struct stream *stream;
};

struct interest *interest_new(struct span name, uint64_t hash, unsigned home,
			      const struct config_topic *settings)
{
	struct interest *i = memory_new_zeroed(sizeof(*i) + name.len);

	if (i == NULL)
		return NULL;
	memcpy(i->name, name.data, name.len);
	i->named = (struct named){ hash, { i->name, name.len } };
	i->home = home;
	i->settings = settings;
	list_init(&i->recount);
	return i;
}

/* ---- many forms ---- */

/* Of equal parameters that belong to several formats each has another hash. */
static uint64_t wire_hash(const struct wire *wire)
{
	return hash_bytes(wire->parameter.data, wire->parameter.len) ^
	       (uintptr_t)wire->format * UINT64_C(0x9e3779b97f4a7c15);
}

static struct form *form_find(const struct forms *f, const struct wire *wire)
{
	return (struct form *)(void *)table_find(&f->table, wire_hash(wire), wire->parameter);
}

static bool form_add(struct forms *f, struct stream *s)
{
	struct form *form = memory_new(sizeof(*form));

	if (form == NULL)
		return false;
	*form = (struct form){ { wire_hash(&s->wire), s->wire.parameter }, s };
	if (table_add(&f->table, &form->named) == 0)
		return true;
	memory_free(form);
	return false;
}

static void forms_free(struct interest *i)
{
	struct forms *f = i->forms;

	if (f == NULL)
		return;
	for (struct stream *s = i->streams; s != NULL; s = s->next) {
		struct form *form = form_find(f, &s->wire);

		if (form == NULL)
			continue;
		table_remove(&f->table, &form->named);
		memory_free(form);
	}
	i->forms = NULL;
	list_remove(&f->ending);
	table_release(&f->table);
	memory_free(f);
}

/* Without memory for them streams are looked at one by one. */
static void forms_begin(struct interest *i)
{
	i->forms = memory_new_zeroed(sizeof(*i->forms));
	if (i->forms == NULL)
		return;
	i->forms->interest = i;
	list_init(&i->forms->ending);
	for (struct stream *s = i->streams; s != NULL; s = s->next) {
		if (form_add(i->forms, s))
			continue;
		forms_free(i);
		return;
	}
}

/* ---- streams ---- */

static void put(struct stream **list, struct stream *s)
{
	s->next = *list;
	s->link = list;
	if (s->next != NULL)
		s->next->link = &s->next;
	*list = s;
}

static void take_out(struct stream *s)
{
	*s->link = s->next;
	if (s->next != NULL)
		s->next->link = s->link;
}

/* It is among the interest's streams no more. */
static void leave(struct interest *i, struct stream *s)
{
	struct form *form = i->forms != NULL ? form_find(i->forms, &s->wire) : NULL;

	if (form != NULL) {
		table_remove(&i->forms->table, &form->named);
		memory_free(form);
	}
	take_out(s);
}

static void free_streams(struct stream *s)
{
	while (s != NULL) {
		struct stream *next = s->next;

		stream_release(s);
		memory_free(s);
		s = next;
	}
}

void interest_free(struct interest *i)
{
	forms_free(i);
	free_streams(i->streams);
	free_streams(i->ended);
	list_remove(&i->recount);
	free(i->unsubscribe);
	memory_free(i);
}

bool interest_drop_unread(struct interest *i, struct stream *s)
{
	if (!stream_unread(s) || s->pressed || s->held)
		return false;
	leave(i, s);
	stream_release(s);
	memory_free(s);
	return true;
}

void interest_end_stream(struct interest *i, struct stream *s)
{
	leave(i, s);
	put(&i->ended, s);
}

void interest_free_ended(struct stream *s)
{
	take_out(s);
	stream_release(s);
	memory_free(s);
}

static struct stream *find_by_form(struct interest *i, const struct wire *wire)
{
	struct forms *f = i->forms;
	struct form *form = form_find(f, wire);
	unsigned drops = 0;

	if (form != NULL)
		return form->stream;
	for (unsigned n = 0; n < LOOKS_MAX && drops < DROPS_MAX; n++) {
		form = (struct form *)(void *)table_step(&f->table, &f->stepped);
		if (form != NULL)
			drops += interest_drop_unread(i, form->stream);
	}
	return NULL;
}

static struct stream *find_one_by_one(struct interest *i, const struct wire *wire)
{
	unsigned drops = 0, n = 0;
	struct stream *s, *next;

	for (s = i->streams; s != NULL; s = next, n++) {
		next = s->next;
		if (s->wire.format == wire->format &&
		    span_equal(s->wire.parameter, wire->parameter))
			return s;
		if (drops < DROPS_MAX)
			drops += interest_drop_unread(i, s);
	}
	if (n - drops >= FORMS_MIN)
		forms_begin(i);
	return NULL;
}

struct stream *interest_stream(struct interest *i, const struct wire *wire)
{
	struct stream *s = i->forms != NULL ? find_by_form(i, wire) : find_one_by_one(i, wire);
	struct wire own = *wire;

	if (s != NULL)
		return s;
	s = memory_new(sizeof(*s) + wire->parameter.len);
	if (s == NULL)
		return NULL;
	own.parameter.data = (char *)(s + 1);
	if (own.parameter.len > 0)
		memcpy(s + 1, wire->parameter.data, own.parameter.len);
	stream_init(s, &own);
	s->unnumbered = i->wild != NULL;
	if (i->forms != NULL && !form_add(i->forms, s)) {
		memory_free(s);
		return NULL;
	}
	put(&i->streams, s);
	return s;
}
