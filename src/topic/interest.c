#include "topic/interest.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"
#include "topic/stream.h"

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
	return i;
}

void interest_free(struct interest *i)
{
	for (unsigned f = 0; f < INTEREST_FORMATS; f++) {
		if (i->streams[f] == NULL)
			continue;
		stream_release(i->streams[f]);
		memory_free(i->streams[f]);
	}
	free(i->unsubscribe);
	memory_free(i);
}

struct stream *interest_stream(struct interest *i, unsigned index, const struct wire_format *format)
{
	struct stream *s;

	assert(index < INTEREST_FORMATS);
	if (i->streams[index] != NULL)
		return i->streams[index];
	s = memory_new(sizeof(*s));
	if (s == NULL)
		return NULL;
	stream_init(s, format);
	i->streams[index] = s;
	return s;
}
