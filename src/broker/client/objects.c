#include "broker/objects.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/name.h"
#include "base/table.h"
#include "topic/block.h"

#define FILE_BYTES_MAX ((size_t)64 << 20)
#define TOTAL_BYTES_MAX ((size_t)1 << 30)

/* Looked at; what links make of a directory has no natural end. */
enum { FILES_MAX = 1 << 20 };

/* What tells that a file is not the one that has been read. */
struct file_state {
	dev_t device;
	ino_t inode;
	off_t size;
	struct timespec modified, changed;
};

struct object {
	struct named named;
	struct block *block;
	struct file_state state;
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

/* The directory that is being read, and how far. */
struct walk {
	struct objects *objects;
	const struct objects *before; /* or NULL */
	int root;
	unsigned looked_at;
	char path[NAME_BYTES_MAX + 1]; /* below the root */
};

/* A directory on the way down: links may lead back up to it. */
struct level {
	const struct level *above;
	dev_t device;
	ino_t inode;
};

/* Opens what is at a path below the root, through links that stay there. -EXDEV: it leads out. */
static int open_below(const struct walk *w, const char *path)
{
	/* What is no file must not hold the start up. */
	const struct open_how how = { .flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
				      .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
	long fd = syscall(SYS_openat2, w->root, path, &how, sizeof(how));

	return fd >= 0 ? (int)fd : -errno;
}

static void leave_out(const char *path, const char *why)
{
	log_warn("object %s is left out: %s", path, why);
}

/* NULL: no memory. */
static struct block *read_file(int fd, const struct stat *st, struct span name)
{
	const struct block_labels labels = { .type = type_of(name.data) };
	struct block *b = block_new_labelled(name, hash_bytes(name.data, name.len), &labels,
					     (size_t)st->st_size);

	if (b == NULL)
		return NULL;
	while (b->len < b->capacity) {
		ssize_t n = read(fd, block_body(b) + b->len, b->capacity - b->len);

		if (n <= 0)
			break;
		b->len += (size_t)n;
	}
	/* What its ETag is made from. */
	b->epoch = (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec;
	b->seq = b->len;
	b->messages = 1;
	return b;
}

static struct file_state state_of(const struct stat *st)
{
	return (struct file_state){ .device = st->st_dev,
				    .inode = st->st_ino,
				    .size = st->st_size,
				    .modified = st->st_mtim,
				    .changed = st->st_ctim };
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static struct object *find(const struct objects *o, struct span name)
{
	return o == NULL ? NULL
			 : (struct object *)(void *)table_find(
				   &o->table, hash_bytes(name.data, name.len), name);
}

/* The file as it was read before, if it is still that one: held once for both. NULL: it is not. */
static struct block *unchanged(const struct objects *before, struct span name,
			       const struct file_state *now)
{
	const struct object *o = find(before, name);
	const struct file_state *then = o != NULL ? &o->state : NULL;

	if (then == NULL || then->device != now->device || then->inode != now->inode ||
	    then->size != now->size || !same_time(then->modified, now->modified) ||
	    !same_time(then->changed, now->changed) || o->block->len != (size_t)now->size)
		return NULL;
	block_ref(o->block, 1);
	return o->block;
}

/* Adds the file that the path leads to. 0, also for one that is left out; -ENOMEM. */
static int add_file(struct walk *w, int fd, const struct stat *st)
{
	const struct file_state state = state_of(st);
	struct objects *o = w->objects;
	struct object *object;
	struct block *b;

	if ((size_t)st->st_size > FILE_BYTES_MAX ||
	    o->bytes + (size_t)st->st_size > TOTAL_BYTES_MAX) {
		leave_out(w->path, "it is too large");
		return 0;
	}
	b = unchanged(w->before, span_of(w->path), &state);
	if (b == NULL)
		b = read_file(fd, st, span_of(w->path));
	if (b == NULL)
		return -ENOMEM;
	object = calloc(1, sizeof(*object));
	if (object != NULL) {
		object->named = (struct named){ b->hash, block_name(b) };
		object->block = b;
		object->state = state;
	}
	if (object == NULL || table_add(&o->table, &object->named) != 0) {
		block_unref(b);
		free(object);
		return -ENOMEM;
	}
	o->bytes += block_bytes(b);
	return 0;
}

static bool leads_up(const struct level *level, const struct stat *st)
{
	while (level != NULL && (level->device != st->st_dev || level->inode != st->st_ino))
		level = level->above;
	return level != NULL;
}

static int add_directory(struct walk *w, int fd, const struct level *level);

/* What the path leads to. 0, also for what is left out; -ENOMEM. */
static int add(struct walk *w, const struct level *level)
{
	int fd = open_below(w, w->path), err = 0;
	struct stat st;

	if (fd == -ENOMEM)
		return fd;
	if (fd < 0 || fstat(fd, &st) != 0) {
		leave_out(w->path, fd == -EXDEV ? "it leads out of the directory"
						: strerror(fd < 0 ? -fd : errno));
	} else if (S_ISREG(st.st_mode)) {
		err = add_file(w, fd, &st);
	} else if (S_ISDIR(st.st_mode)) {
		struct level here = { level, st.st_dev, st.st_ino };

		if (!leads_up(level, &st))
			return add_directory(w, fd, &here);
		leave_out(w->path, "it leads back to where it is");
	}
	if (fd >= 0)
		close(fd);
	return err;
}

/* Everything in a directory, which is closed. */
static int add_directory(struct walk *w, int fd, const struct level *level)
{
	size_t len = strlen(w->path), begin = len > 0 ? len + 1 : 0;
	DIR *directory = fdopendir(fd);
	struct dirent *entry;
	int err = 0;

	if (directory == NULL) {
		close(fd);
		return -ENOMEM;
	}
	while (err == 0 && (entry = readdir(directory)) != NULL) {
		const char *name = entry->d_name;

		/* Devices, pipes and sockets may mind being opened. */
		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
		    (entry->d_type != DT_REG && entry->d_type != DT_DIR &&
		     entry->d_type != DT_LNK && entry->d_type != DT_UNKNOWN))
			continue;
		if (begin + strlen(name) > NAME_BYTES_MAX || ++w->looked_at > FILES_MAX) {
			leave_out(name, "its path is too long, or there are too many");
			continue;
		}
		memcpy(w->path + begin, name, strlen(name) + 1);
		if (begin > 0)
			w->path[len] = '/';
		err = add(w, level);
		w->path[len] = 0;
	}
	closedir(directory);
	return err;
}

struct objects *objects_load(const char *root, const struct objects *before, char *problem,
			     size_t size)
{
	struct objects *o = calloc(1, sizeof(*o));
	struct walk w = { .objects = o, .before = before };
	struct level top = { .above = NULL };
	struct stat st;
	int fd, err;

	snprintf(problem, size, "out of memory");
	if (o == NULL)
		return NULL;
	atomic_init(&o->holders, 1);
	if (*root == 0)
		return o;
	/* The directory itself may be reached through links: whoever runs the broker has named it.
	 */
	w.root = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fd = w.root >= 0 ? open_below(&w, ".") : -errno;
	if (fd < 0 || fstat(fd, &st) != 0) {
		err = fd < 0 ? fd : -errno;
		snprintf(problem, size, "http.objects_dir: %s is no directory that can be read: %s",
			 root, strerror(-err));
	} else {
		top.device = st.st_dev;
		top.inode = st.st_ino;
		err = add_directory(&w, fd, &top);
		if (err != 0)
			snprintf(problem, size, "http.objects_dir: %s: %s", root, strerror(-err));
	}
	if (w.root >= 0)
		close(w.root);
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
	struct object *object = find(o, name);

	return object != NULL ? object->block : NULL;
}

size_t objects_bytes(const struct objects *o)
{
	return o->bytes;
}
