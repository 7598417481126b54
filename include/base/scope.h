#ifndef BASE_SCOPE_H
#define BASE_SCOPE_H

/*
 * What somebody may: patterns (base/name.h), each with bits that say what for, as one tree by
 * levels. Made once and then immutable; a question walks the tree and allocates nothing. A `*` or
 * `>` in first place stands for no name that begins with '$'. Any thread.
 */

#include <stdbool.h>

#include "base/span.h"

struct scope;

/* Counted memory. NULL: out of memory. */
struct scope *scope_new(void);
void scope_free(struct scope *scope);
/* A valid pattern. -ENOMEM: nothing is added. */
int scope_add(struct scope *scope, struct span pattern, unsigned bits);

/* The bits of all patterns that match a valid name. */
unsigned scope_matches(const struct scope *scope, struct span name);
/* The bits that every name has which a valid pattern matches: the pattern is covered whole, by one
 * of the scope's or by several together. */
unsigned scope_covers(const struct scope *scope, struct span pattern);
/* The bits that some name has which a valid pattern matches. */
unsigned scope_overlaps(const struct scope *scope, struct span pattern);

#endif
