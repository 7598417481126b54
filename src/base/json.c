#include "base/json.h"

#include <jansson.h>

#include "base/hash.h"

void json_init(void)
{
	json_object_seed((size_t)hash_unique() | 1);
}

static struct json_value value_of(const json_t *json)
{
	struct json_value v = { .kind = JSON_IS_OTHER, .handle = json };

	switch (json_typeof(json)) {
	case JSON_NULL:
		v.kind = JSON_IS_NULL;
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		v.kind = JSON_IS_BOOL;
		v.truth = json_is_true(json);
		break;
	case JSON_INTEGER:
		v.kind = JSON_IS_NUMBER;
		v.number = json_integer_value(json);
		break;
	case JSON_REAL:
		v.kind = JSON_IS_NUMBER;
		/* What no integer can be, is the nearest one. */
		v.number = json_real_value(json) >= 9.2e18    ? INT64_MAX
			   : json_real_value(json) <= -9.2e18 ? INT64_MIN
							      : (int64_t)json_real_value(json);
		break;
	case JSON_STRING:
		v.kind = JSON_IS_TEXT;
		v.text = (struct span){ json_string_value(json), json_string_length(json) };
		break;
	case JSON_OBJECT:
	case JSON_ARRAY:
	default:
		break;
	}
	return v;
}

bool json_members(struct span text,
		  bool (*member)(void *context, struct span name, const struct json_value *value),
		  void *context)
{
	json_t *json = json_loadb(text.data, text.len, 0, NULL);
	bool fine = json_is_object(json);
	const char *name;
	json_t *of;

	if (fine) {
		json_object_foreach(json, name, of)
		{
			struct json_value v = value_of(of);

			fine = member(context, span_of(name), &v);
			if (!fine)
				break;
		}
	}
	json_decref(json);
	return fine;
}

size_t json_write(const struct json_value *value, char *out, size_t room)
{
	size_t n = json_dumpb(value->handle, out, room, JSON_ENCODE_ANY | JSON_COMPACT);

	return n <= room ? n : 0;
}
