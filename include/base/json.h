#ifndef BASE_JSON_H
#define BASE_JSON_H

/*
 * One JSON object (RFC 8259), member by member. What a member holds is only looked into where it is
 * a plain value. Off the hot path; any thread. A library does the work, and only json.c knows it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

enum json_kind { JSON_IS_NULL, JSON_IS_BOOL, JSON_IS_NUMBER, JSON_IS_TEXT, JSON_IS_OTHER };

/* Valid while it is called for. */
struct json_value {
	enum json_kind kind;
	bool truth;         /* of a BOOL */
	int64_t number;     /* of a NUMBER, towards zero */
	struct span text;   /* of a TEXT: UTF-8, no NUL */
	const void *handle; /* for json_write */
};

/* To be called once before threads start: from then on no file is opened. */
void json_init(void);
/* Calls for each member in its order, the last one only where a name comes again. False: it is no
 * object, or member has said false. */
bool json_members(struct span text,
		  bool (*member)(void *context, struct span name, const struct json_value *value),
		  void *context);
/* Writes a value as text of at most `room` bytes; returns how many, 0 where there is not enough. */
size_t json_write(const struct json_value *value, char *out, size_t room);

#endif
