#include "broker/objects.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

/* Reads a regular file that is reached through no link. NULL with an errno of ENOMEM: no memory;
 * with any other: no such file, or too large a one. */
static struct block *read_file(const char *path, struct span name)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct block *b = NULL;
	struct stat st;

	if (fd < 0)
		return NULL;
	errno = 0;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (size_t)st.st_size <= FILE_BYTES_MAX)
		b = block_new_labelled(name, hash_bytes(name.data, name.len),
				       &(const struct block_labels){ .type = type_of(path) },
				       (size_t)st.st_size);
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

/* 0, also for a file that is left out; -ENOMEM. */
static int add(struct objects *o, const char *path, struct span name)
{
	struct object *object;
	struct block *b;

	if (name.len == 0 || name.len > NAME_BYTES_MAX)
		return 0;
	b = read_file(path, name);
	if (b == NULL && errno == ENOMEM)
		return -ENOMEM;
	if (b == NULL || o->bytes + block_bytes(b) > TOTAL_BYTES_MAX) {
		log_warn("object %s is left out: it cannot be read, or is too large", path);
		if (b != NULL)
			block_unref(b);
		return 0;
	}
	object = calloc(1, sizeof(*object));
	if (object != NULL) {
		object->named = (struct named){ b->hash, block_name(b) };
		object->block = b;
	}
	if (object == NULL || table_add(&o->table, &object->named) != 0) {
		block_unref(b);
		free(object);
		return -ENOMEM;
	}
	o->bytes += block_bytes(b);
	return 0;
}

/* Like what is in it, a directory is reached through no link. */
static DIR *open_directory(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;

	if (fd >= 0 && directory == NULL)
		close(fd);
	return directory;
}

/* Adds the files below a directory, and closes it. The path has PATH_MAX bytes and is written to.
 * 0, also for what is left out; -ENOMEM. */
static int add_below(struct objects *o, DIR *directory, char *path, size_t root)
{
	size_t len = strlen(path);
	struct dirent *entry;
	struct stat st;
	int err = 0;

	while (err == 0 && (entry = readdir(directory)) != NULL) {
		const char *name = entry->d_name;
		DIR *below;

		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
			continue;
		/* Too long for a path, or already too long for a name. */
		if (len + 1 + strlen(name) >= PATH_MAX || len - root > NAME_BYTES_MAX)
			continue;
		path[len] = '/';
		memcpy(path + len + 1, name, strlen(name) + 1);
		if (lstat(path, &st) != 0)
			continue;
		if (S_ISREG(st.st_mode))
			err = add(o, path, span_of(path + root + 1));
		if (!S_ISDIR(st.st_mode))
			continue;
		below = open_directory(path);
		if (below != NULL)
			err = add_below(o, below, path, root);
		else if (errno == ENOMEM)
			err = -ENOMEM;
		else
			log_warn("objects below %s are left out: %s", path, strerror(errno));
	}
	closedir(directory);
	return err;
}

struct objects *objects_load(const char *root, char *problem, size_t size)
{
	struct objects *o = calloc(1, sizeof(*o));
	char path[PATH_MAX];
	DIR *directory = NULL;
	size_t len = 0;
	int err = 0;

	snprintf(problem, size, "out of memory");
	if (o == NULL)
		return NULL;
	atomic_init(&o->holders, 1);
	if (*root == 0)
		return o;
	/* The directory itself may be reached through links: whoever runs the broker has named it.
	 */
	if (realpath(root, path) != NULL) {
		directory = open_directory(path);
		len = strlen(path);
	}
	if (directory == NULL) {
		err = -errno;
		snprintf(problem, size, "http.objects_dir: %s is no directory that can be read: %s",
			 root, strerror(errno));
	} else {
		err = add_below(o, directory, path, len);
		if (err != 0)
			snprintf(problem, size, "http.objects_dir: %s: %s", root, strerror(-err));
	}
	if (err == 0)
		return o;
	objects_unref(o);
	return NULL;
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
