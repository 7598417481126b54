#ifndef BROKER_AUDIT_H
#define BROKER_AUDIT_H

/*
 * Lines of the log about who came and what was refused: one each, at most so many a second of a
 * kind, and the next one says how many were left out. What clients chose is escaped and cut, and a
 * secret never comes here. Any thread.
 */

#include "base/span.h"

enum audit_kind { AUDIT_LOGIN, AUDIT_FAILURE, AUDIT_DENIAL, AUDIT_REVOCATION, AUDIT_KINDS };

enum { AUDIT_LINES_MAX = 10, AUDIT_NAME_MAX = 128, AUDIT_TEXT_MAX = 4 * AUDIT_NAME_MAX + 4 };

/* A name as it stands in such a line: printable and without blanks, at most AUDIT_NAME_MAX bytes of
 * it. Returns out. */
const char *audit_name(struct span name, char out[AUDIT_TEXT_MAX]);
void audit(enum audit_kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
