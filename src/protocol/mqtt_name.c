#include <string.h>

#include "base/name.h"
#include "protocol/mqtt.h"

/* Takes the first level off, and the '/' behind it; *last: there is none behind it. */
static struct span next_level(struct span *s, bool *last)
{
	const char *slash = s->len > 0 ? memchr(s->data, '/', s->len) : NULL;
	struct span level = { s->data, slash != NULL ? (size_t)(slash - s->data) : s->len };

	*last = slash == NULL;
	*s = span_skip(*s, level.len + (slash != NULL));
	return level;
}

/* A native level for this one, in `room`. Returns where it ends; NULL: there is not so much. */
static char *put_level(struct span level, char *room, const char *end)
{
	if (level.len == 0) {
		if (room == end)
			return NULL;
		*room++ = '/';
	}
	for (size_t i = 0; i < level.len; i++) {
		bool dot = level.data[i] == '.';

		if (end - room < 1 + dot)
			return NULL;
		if (dot)
			*room++ = '/';
		*room++ = dot ? '/' : level.data[i];
	}
	return room;
}

static bool is_wildcard(struct span level)
{
	return level.len == 1 && (level.data[0] == '+' || level.data[0] == '#');
}

/* Whether a level that is no wildcard holds a sign of one, MQTT's or a native one. */
static bool has_any(struct span level, const char *signs)
{
	for (size_t i = 0; i < level.len; i++)
		if (strchr(signs, level.data[i]) != NULL)
			return true;
	return false;
}

static enum mqtt_name convert(struct span name, bool filter, char *room, struct span *out,
			      bool *pattern)
{
	const char *end = room + NAME_BYTES_MAX;
	enum mqtt_name found = MQTT_NAME_TOPIC;
	char *at = room;
	bool last;

	*pattern = false;
	if (name.len == 0)
		return MQTT_NAME_INVALID;
	if (memchr(name.data, 0, name.len) != NULL || !utf8_valid(name))
		return MQTT_NAME_MALFORMED;
	do {
		struct span level = next_level(&name, &last);

		if (filter && is_wildcard(level)) {
			/* [MQTT-4.7.1-1] */
			if (level.data[0] == '#' && !last)
				return MQTT_NAME_INVALID;
			*pattern = true;
		} else if (has_any(level, "+#")) { /* [MQTT-4.7.1-2], [MQTT-3.3.2-2] */
			return MQTT_NAME_INVALID;
		} else if (has_any(level, "*>")) {
			found = MQTT_NAME_NO_TOPIC;
		}
		if (found != MQTT_NAME_TOPIC)
			continue;
		if (at != room && at < end)
			*at++ = '.';
		else if (at != room)
			found = MQTT_NAME_NO_TOPIC;
		if (filter && is_wildcard(level))
			level = level.data[0] == '#' ? SPAN(">") : SPAN("*");
		at = found == MQTT_NAME_TOPIC ? put_level(level, at, end) : NULL;
		if (at == NULL)
			found = MQTT_NAME_NO_TOPIC;
	} while (!last);
	if (found != MQTT_NAME_TOPIC)
		return found;
	*out = (struct span){ room, (size_t)(at - room) };
	return (filter ? name_pattern_valid(*out) : name_valid(*out)) ? MQTT_NAME_TOPIC
								      : MQTT_NAME_NO_TOPIC;
}

enum mqtt_name mqtt_topic(struct span name, char *room, struct span *out)
{
	bool pattern;

	return convert(name, false, room, out, &pattern);
}

enum mqtt_name mqtt_filter(struct span filter, char *room, struct span *out, bool *pattern)
{
	return convert(filter, true, room, out, pattern);
}

int mqtt_share(struct span *filter, struct span *group)
{
	static const struct span share = { "$share/", 7 };
	const char *slash;

	if (filter->len < share.len || memcmp(filter->data, share.data, share.len) != 0)
		return 0;
	*filter = span_skip(*filter, share.len);
	slash = filter->len > 0 ? memchr(filter->data, '/', filter->len) : NULL;
	if (slash == NULL || slash == filter->data)
		return -1;
	*group = (struct span){ filter->data, (size_t)(slash - filter->data) };
	*filter = span_skip(*filter, group->len + 1);
	return filter->len == 0 || has_any(*group, "+#") ? -1 : 1;
}

/* A native level back to MQTT's, in `room`. Returns where it ends; NULL: it has no form. */
static char *put_name_level(struct span level, char *room)
{
	if (level.len == 1 && level.data[0] == '/')
		return room;
	for (size_t i = 0; i < level.len; i++) {
		char c = level.data[i];

		if (c == '+' || c == '#')
			return NULL;
		if (c == '/') {
			if (++i == level.len || level.data[i] != '/')
				return NULL;
			c = '.';
		}
		*room++ = c;
	}
	return room;
}

bool mqtt_topic_name(struct span topic, char *room, struct span *out)
{
	char *at = room;

	for (bool last = false; !last;) {
		const char *dot = topic.len > 0 ? memchr(topic.data, '.', topic.len) : NULL;
		struct span level = { topic.data,
				      dot != NULL ? (size_t)(dot - topic.data) : topic.len };

		last = dot == NULL;
		topic = span_skip(topic, level.len + (dot != NULL));
		at = put_name_level(level, at);
		if (at == NULL)
			return false;
		if (!last)
			*at++ = '/';
	}
	*out = (struct span){ room, (size_t)(at - room) };
	return out->len > 0;
}
