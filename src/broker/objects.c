#include "broker/objects.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/name.h"
#include "base/table.h"
#include "topic/block.h"

#define FILE_BYTES_MAX ((size_t)64 << 20)
#define TOTAL_BYTES_MAX ((size_t)1 << 30)

struct object {
	struct named named;
	struct block *block;
};

struct objects {
	_Atomic unsigned holders;
	struct table table;
	size_t bytes;
};

static struct span type_of(const char *path)
{
	static const struct {
		const char *extension, *type;
	} types[] = {
		{ "html", "text/html; charset=utf-8" },
		{ "css", "text/css; charset=utf-8" },
		{ "js", "text/javascript; charset=utf-8" },
		{ "mjs", "text/javascript; charset=utf-8" },
		{ "json", "application/json" },
		{ "txt", "text/plain; charset=utf-8" },
		{ "md", "text/markdown; charset=utf-8" },
		{ "xml", "application/xml" },
		{ "svg", "image/svg+xml" },
		{ "png", "image/png" },
		{ "jpg", "image/jpeg" },
		{ "jpeg", "image/jpeg" },
		{ "gif", "image/gif" },
		{ "webp", "image/webp" },
		{ "ico", "image/x-icon" },
		{ "woff2", "font/woff2" },
		{ "wasm", "application/wasm" },
		{ "pdf", "application/pdf" },
		{ "mp3", "audio/mpeg" },
		{ "mp4", "video/mp4" },
		{ "m4s", "video/iso.segment" },
		{ "ts", "video/mp2t" },
		{ "m3u8", "application/vnd.apple.mpegurl" },
		{ "webm", "video/webm" },
	};
	const char *dot = strrchr(path, '.');

	for (size_t i = 0; dot != NULL && i < sizeof(types) / sizeof(*types); i++)
		if (strcasecmp(dot + 1, types[i].extension) == 0)
			return span_of(types[i].type);
	return SPAN("application/octet-stream");
}

/* Reads a regular file that is reached through no link. */
static struct block *read_file(const char *path, struct span name)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct block *b = NULL;
	struct stat st;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (size_t)st.st_size <= FILE_BYTES_MAX)
		b = block_new_labelled(name, hash_bytes(name.data, name.len), type_of(path),
				       (struct span){ NULL, 0 }, (size_t)st.st_size);
	while (b != NULL && b->len < b->capacity) {
		ssize_t n = read(fd, block_body(b) + b->len, b->capacity - b->len);

		if (n <= 0)
			break;
		b->len += (size_t)n;
	}
	if (b != NULL) {
		/* What its ETag is made from. */
		b->epoch = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
		b->seq = b->len;
		b->messages = 1;
	}
	close(fd);
	return b;
}

static void add(struct objects *o, const char *path, struct span name)
{
	struct object *object;
	struct block *b;

	if (name.len == 0 || name.len > NAME_BYTES_MAX)
		return;
	b = read_file(path, name);
	object = b != NULL ? calloc(1, sizeof(*object)) : NULL;
	if (object == NULL || o->bytes + block_bytes(b) > TOTAL_BYTES_MAX) {
		log_warn("object %s is left out: it cannot be read, or is too large", path);
		if (b != NULL)
			block_unref(b);
		free(object);
		return;
	}
	object->named = (struct named){ b->hash, block_name(b) };
	object->block = b;
	if (table_add(&o->table, &object->named) != 0) {
		block_unref(b);
		free(object);
		return;
	}
	o->bytes += block_bytes(b);
}

struct objects *objects_load(const char *directory, char *problem, size_t size)
{
	struct objects *o = calloc(1, sizeof(*o));
	size_t root = strlen(directory);
	char *paths[2] = { strdup(directory), NULL };
	FTSENT *entry;
	FTS *tree;

	if (o == NULL || paths[0] == NULL) {
		snprintf(problem, size, "out of memory");
		free(paths[0]);
		free(o);
		return NULL;
	}
	atomic_init(&o->holders, 1);
	if (root == 0) {
		free(paths[0]);
		return o;
	}
	while (root > 1 && paths[0][root - 1] == '/')
		paths[0][--root] = 0;
	tree = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	entry = tree != NULL ? fts_read(tree) : NULL;
	if (entry == NULL || entry->fts_info != FTS_D) {
		snprintf(problem, size, "http.objects_dir: %s is no directory that can be read",
			 directory);
		if (tree != NULL)
			fts_close(tree);
		free(paths[0]);
		objects_unref(o);
		return NULL;
	}
	while ((entry = fts_read(tree)) != NULL)
		if (entry->fts_info == FTS_F)
			add(o, entry->fts_path, span_of(entry->fts_path + root + 1));
	fts_close(tree);
	free(paths[0]);
	return o;
}

struct objects *objects_ref(struct objects *o)
{
	if (o != NULL)
		atomic_fetch_add(&o->holders, 1);
	return o;
}

void objects_unref(struct objects *o)
{
	struct named *n;

	if (o == NULL || atomic_fetch_sub(&o->holders, 1) != 1)
		return;
	for (size_t at = 0; (n = table_next(&o->table, &at)) != NULL;) {
		struct object *object = (struct object *)(void *)n;

		block_unref(object->block);
		free(object);
	}
	table_release(&o->table);
	free(o);
}

struct block *objects_find(const struct objects *o, struct span name)
{
	struct object *object;

	if (o == NULL)
		return NULL;
	object = (struct object *)(void *)table_find(&o->table, hash_bytes(name.data, name.len),
						     name);
	return object != NULL ? object->block : NULL;
}
