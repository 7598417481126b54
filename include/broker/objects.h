#ifndef BROKER_OBJECTS_H
#define BROKER_OBJECTS_H

/*
 * Static files, read once and served from memory: everything below http.objects_dir, never outside.
 * Made by the main thread at start and on reload, immutable from then on and shared by all shards
 * through an atomic count of holders. A file is a block without a topic: name, content type, bytes.
 */

#include <stddef.h>

#include "base/span.h"

struct block;
struct objects;

/* An empty directory name is an empty set. NULL with a message for people in problem: it cannot be
 * read, or there is no memory for all of it. Files that are too large, or too many, are left out
 * and logged. What has not changed since an earlier set was read (before; or NULL) is shared with
 * it. */
struct objects *objects_load(const char *directory, const struct objects *before, char *problem,
			     size_t size);
struct objects *objects_ref(struct objects *objects);
void objects_unref(struct objects *objects);
/* NULL: there is none; otherwise it lives as long as the set, or whoever holds the block. */
struct block *objects_find(const struct objects *objects, struct span name);

/* That the set keeps in memory; what it shares counts in full. */
size_t objects_bytes(const struct objects *objects);

#endif
