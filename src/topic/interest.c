#include "topic/interest.h"

#include <string.h>

#include "base/memory.h"
#include "topic/stream.h"

enum { DROPS_MAX = 8 }; /* by one who looks for another: more than come with him */

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
	free_streams(i->streams);
	free_streams(i->ended);
	list_remove(&i->recount);
	free(i->unsubscribe);
	memory_free(i);
}

bool interest_drop_unread(struct stream **at)
{
	struct stream *s = *at;

	if (!stream_unread(s) || s->pressed || s->held)
		return false;
	*at = s->next;
	stream_release(s);
	memory_free(s);
	return true;
}

struct stream *interest_stream(struct interest *i, const struct wire *wire)
{
	struct wire own = *wire;
	unsigned drops = 0;
	struct stream *s;

	for (struct stream **at = &i->streams; (s = *at) != NULL;) {
		if (s->wire.format == wire->format &&
		    span_equal(s->wire.parameter, wire->parameter))
			return s;
		if (drops < DROPS_MAX && interest_drop_unread(at))
			drops++;
		else
			at = &s->next;
	}
	s = memory_new(sizeof(*s) + wire->parameter.len);
	if (s == NULL)
		return NULL;
	own.parameter.data = (char *)(s + 1);
	if (own.parameter.len > 0)
		memcpy(s + 1, wire->parameter.data, own.parameter.len);
	stream_init(s, &own);
	s->unnumbered = i->wild != NULL;
	s->next = i->streams;
	i->streams = s;
	return s;
}
