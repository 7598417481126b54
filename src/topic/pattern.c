#include "topic/pattern.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"

/* Those with the same prefix. */
struct pattern_prefix {
	struct named named; /* first */
	struct pattern *patterns;
	char bytes[];
};

/* ---- keys ---- */

static void append(struct pattern_key *k, struct span bytes)
{
	assert(bytes.len <= sizeof(k->bytes) - k->len);
	if (bytes.len > 0)
		memcpy(k->bytes + k->len, bytes.data, bytes.len);
	k->len += bytes.len;
}

void pattern_key_make(struct pattern_key *k, enum pattern_kind kind, struct span group,
		      struct span text)
{
	assert(kind < PATTERN_KINDS && group.len <= PATTERN_GROUP_MAX);
	k->bytes[0] = (char)kind;
	k->bytes[1] = (char)group.len;
	k->len = 2;
	append(k, group);
	append(k, text);
	k->hash = hash_bytes(k->bytes, k->len);
}

/* Takes the first level off, and the dot behind it. */
static struct span level_next(struct span *text)
{
	const char *dot = text->len > 0 ? memchr(text->data, '.', text->len) : NULL;
	struct span level = { text->data, dot != NULL ? (size_t)(dot - text->data) : text->len };

	*text = span_skip(*text, level.len + (dot != NULL));
	return level;
}

static bool is_star(struct span level)
{
	return level.len == 1 && *level.data == '*';
}

static bool is_rest(struct span level)
{
	return level.len == 1 && *level.data == '>';
}

/* No secret: whoever makes two meet has them matched anew more often. */
uint8_t pattern_bucket(struct span name)
{
	struct span level = level_next(&name);
	uint32_t n = 2166136261u; /* FNV-1a */

	for (size_t i = 0; i < level.len; i++)
		n = (n ^ (unsigned char)level.data[i]) * 16777619u;
	return (uint8_t)(n ^ n >> 8 ^ n >> 16 ^ n >> 24);
}

/* What all names that it matches begin with is known up to here; the first level counts if it is
 * whole in it. */
static void find_bucket(struct pattern *p, struct span beginning)
{
	struct span rest = beginning, level = level_next(&rest);

	p->counted_apart = level.len < beginning.len && !is_star(level);
	p->bucket = pattern_bucket(level);
}

void pattern_init(struct pattern *p, const struct pattern_key *key, char *bytes)
{
	size_t group_len = (unsigned char)key->bytes[1];
	struct glob_meaning meaning;

	memcpy(bytes, key->bytes, key->len);
	p->named = (struct named){ key->hash, { bytes, key->len } };
	p->group = (struct span){ bytes + 2, group_len };
	p->text = span_skip(p->named.name, 2 + group_len);
	p->kind = (uint8_t)bytes[0];
	if (p->kind != PATTERN_GLOB) {
		struct span rest = p->text, first = level_next(&rest);

		p->form = GLOB_NATIVE;
		find_bucket(p, p->text);
		/* A name of one level; but "a.>" matches "a" in MQTT, which is in its bucket too.
		 */
		if (rest.len == 0)
			p->counted_apart = !is_star(first) && !is_rest(first);
		return;
	}
	glob_read(p->text, &meaning);
	p->form = (uint8_t)meaning.kind;
	find_bucket(p, (struct span){ meaning.text, meaning.len });
	if (p->form == GLOB_PREFIX)
		p->prefix_len = (uint8_t)meaning.len;
	if (p->form == GLOB_EXACT)
		p->counted_apart = true;
}

bool pattern_valid(enum pattern_kind kind, struct span text)
{
	switch (kind) {
	case PATTERN_NONE:
		return name_valid(text);
	case PATTERN_NATIVE:
	case PATTERN_MQTT:
		return name_pattern_valid(text);
	case PATTERN_GLOB:
		return glob_valid(text);
	case PATTERN_KINDS:
	default:
		return false;
	}
}

bool pattern_wild(struct span text)
{
	while (text.len > 0) {
		struct span level = level_next(&text);

		if (is_star(level) || is_rest(level))
			return true;
	}
	return false;
}

/* ---- the trie ---- */

struct edge {
	size_t len;
	char bytes[sizeof(struct pattern_node *) + NAME_BYTES_MAX];
};

static void edge_make(struct edge *e, const struct pattern_node *parent, struct span level)
{
	memcpy(e->bytes, &parent, sizeof(parent));
	memcpy(e->bytes + sizeof(parent), level.data, level.len);
	e->len = sizeof(parent) + level.len;
}

static struct pattern_node *child(const struct patterns *p, const struct pattern_node *parent,
				  struct span level)
{
	struct edge e;

	if (parent->children == 0)
		return NULL;
	edge_make(&e, parent, level);
	return (struct pattern_node *)(void *)table_find(&p->nodes, hash_bytes(e.bytes, e.len),
							 (struct span){ e.bytes, e.len });
}

static struct pattern_node *node_new(struct pattern_node *parent, const struct edge *e)
{
	struct pattern_node *n = memory_new_zeroed(sizeof(*n) + e->len);

	if (n == NULL)
		return NULL;
	n->parent = parent;
	memcpy(n + 1, e->bytes, e->len);
	n->named = (struct named){ hash_bytes(e->bytes, e->len), { (char *)(n + 1), e->len } };
	return n;
}

/* NULL: out of memory. */
static struct pattern_node *child_or_new(struct patterns *p, struct pattern_node *parent,
					 struct span level)
{
	struct pattern_node *n = is_star(level) ? parent->star : child(p, parent, level);
	struct edge e = { 0 };

	if (n != NULL)
		return n;
	if (is_star(level)) {
		parent->star = node_new(parent, &e);
		return parent->star;
	}
	edge_make(&e, parent, level);
	n = node_new(parent, &e);
	if (n == NULL)
		return NULL;
	if (table_add(&p->nodes, &n->named) != 0) {
		memory_free(n);
		return NULL;
	}
	parent->children++;
	return n;
}

/* This node goes; nothing stands there, and none is below. */
static void walk_around(struct pattern_walk *w, const struct pattern_node *n)
{
	if (w->at.node == n)
		w->at.node = NULL;
	for (unsigned i = 0; i < w->waiting_n; i++)
		if (w->waiting[i].node == n)
			w->waiting[i].node = NULL;
}

/* Nodes that lead nowhere go, from this one up. */
static void prune(struct patterns *p, struct pattern_node *n)
{
	while (n != &p->root && n->here == NULL && n->below == NULL && n->from == NULL &&
	       n->star == NULL && n->children == 0) {
		struct pattern_node *parent = n->parent;

		if (p->walk != NULL)
			walk_around(p->walk, n);
		if (parent->star == n) {
			parent->star = NULL;
		} else {
			table_remove(&p->nodes, &n->named);
			parent->children--;
		}
		memory_free(n);
		n = parent;
	}
}

static void put(struct pattern **list, struct pattern *pattern)
{
	pattern->next = *list;
	pattern->link = list;
	if (*list != NULL)
		(*list)->link = &pattern->next;
	*list = pattern;
}

static void take_out(struct pattern *pattern)
{
	*pattern->link = pattern->next;
	if (pattern->next != NULL)
		pattern->next->link = pattern->link;
	pattern->next = NULL;
	pattern->link = NULL;
}

static int add_levels(struct patterns *p, struct pattern *pattern, struct span text)
{
	struct pattern_node *n = &p->root, *next;
	struct pattern **list;

	for (;;) {
		struct span level = level_next(&text);

		if (is_rest(level)) {
			list = pattern->kind == PATTERN_MQTT ? &n->from : &n->below;
			break;
		}
		next = child_or_new(p, n, level);
		if (next == NULL) {
			prune(p, n);
			return -ENOMEM;
		}
		n = next;
		if (text.len == 0) {
			list = &n->here;
			break;
		}
	}
	pattern->node = n;
	put(list, pattern);
	return 0;
}

/* ---- globs ---- */

static struct pattern_prefix *prefix_find(const struct patterns *p, struct span prefix)
{
	return (struct pattern_prefix *)(void *)table_find(
		&p->prefixes, hash_bytes(prefix.data, prefix.len), prefix);
}

static int add_prefix(struct patterns *p, struct pattern *pattern, struct span prefix)
{
	struct pattern_prefix *at = prefix_find(p, prefix);

	if (at == NULL) {
		at = memory_new(sizeof(*at) + prefix.len);
		if (at == NULL)
			return -ENOMEM;
		memcpy(at->bytes, prefix.data, prefix.len);
		at->patterns = NULL;
		at->named = (struct named){ hash_bytes(prefix.data, prefix.len),
					    { at->bytes, prefix.len } };
		if (table_add(&p->prefixes, &at->named) != 0) {
			memory_free(at);
			return -ENOMEM;
		}
		p->prefixes_n[prefix.len]++;
	}
	put(&at->patterns, pattern);
	return 0;
}

static void remove_prefix(struct patterns *p, struct pattern *pattern, struct span prefix)
{
	struct pattern_prefix *at = prefix_find(p, prefix);

	take_out(pattern);
	if (at->patterns != NULL)
		return;
	p->prefixes_n[prefix.len]--;
	table_remove(&p->prefixes, &at->named);
	memory_free(at);
}

static int add_glob(struct patterns *p, struct pattern *pattern)
{
	struct glob_meaning meaning;
	struct span text;

	glob_read(pattern->text, &meaning);
	text = (struct span){ meaning.text, meaning.len };
	switch (meaning.kind) {
	case GLOB_EXACT:
	case GLOB_NATIVE:
		return add_levels(p, pattern, text);
	case GLOB_PREFIX:
		return add_prefix(p, pattern, text);
	case GLOB_OTHER:
	default:
		put(&p->globs, pattern);
		p->globs_n++;
		return 0;
	}
}

/* ---- the table ---- */

void patterns_release(struct patterns *p)
{
	assert(patterns_empty(p) && p->nodes.entries_n == 0 && p->prefixes.entries_n == 0);
	table_release(&p->keys);
	table_release(&p->nodes);
	table_release(&p->prefixes);
}

struct pattern *patterns_find(const struct patterns *p, const struct pattern_key *key)
{
	return (struct pattern *)(void *)table_find(&p->keys, key->hash,
						    (struct span){ key->bytes, key->len });
}

void patterns_touch(struct patterns *p, const struct pattern *pattern)
{
	if (pattern->counted_apart)
		p->generations[pattern->bucket]++;
	else
		p->generation++;
}

int patterns_add(struct patterns *p, struct pattern *pattern)
{
	int err = table_add(&p->keys, &pattern->named);

	if (err != 0)
		return err;
	err = pattern->kind == PATTERN_GLOB ? add_glob(p, pattern)
					    : add_levels(p, pattern, pattern->text);
	if (err != 0) {
		table_remove(&p->keys, &pattern->named);
		return err;
	}
	patterns_touch(p, pattern);
	return 0;
}

void patterns_remove(struct patterns *p, struct pattern *pattern)
{
	table_remove(&p->keys, &pattern->named);
	if (p->walk != NULL && p->walk->next == pattern)
		p->walk->next = pattern->next;
	if (pattern->form == GLOB_PREFIX) {
		struct glob_meaning meaning;

		glob_read(pattern->text, &meaning);
		remove_prefix(p, pattern, (struct span){ meaning.text, meaning.len });
	} else {
		take_out(pattern);
		p->globs_n -= pattern->form == GLOB_OTHER;
		if (pattern->node != NULL)
			prune(p, pattern->node);
		pattern->node = NULL;
	}
	patterns_touch(p, pattern);
}

/* ---- matching ---- */

struct match {
	void (*matched)(struct pattern *, void *);
	void *argument;
};

static void tell(const struct match *m, struct pattern *list)
{
	for (struct pattern *p = list; p != NULL; p = p->next)
		m->matched(p, m->argument);
}

static bool wildcards(const struct pattern_walk *w)
{
	return w->at.levels > 0 || *w->name.data != '$';
}

static void arrive(struct pattern_walk *w, struct pattern_visit at)
{
	w->at = at;
	w->ends_seen = false;
	w->next = at.node != NULL && wildcards(w) ? at.node->from : NULL;
}

void pattern_walk_begin(struct pattern_walk *w, struct span name)
{
	w->name = name;
	w->levels_n = w->waiting_n = 0;
	while (name.len > 0 && w->levels_n < NAME_LEVELS_MAX)
		w->levels[w->levels_n++] = level_next(&name);
	w->at = (struct pattern_visit){ NULL, 0 };
	w->next = NULL;
	w->ends_seen = false;
}

/* Those that end with the name at the node that it is at, or go on from there. */
static struct pattern *ends_here(const struct pattern_walk *w)
{
	if (w->at.node == NULL)
		return NULL;
	if (w->at.levels == w->levels_n)
		return w->at.node->here;
	return wildcards(w) ? w->at.node->below : NULL;
}

/* To the next node. False: there is none. */
static bool move_on(const struct patterns *p, struct pattern_walk *w)
{
	const struct pattern_node *node = w->at.node, *next = NULL;
	unsigned levels = w->at.levels + 1;

	if (node != NULL && w->at.levels < w->levels_n) {
		next = child(p, node, w->levels[w->at.levels]);
		if (wildcards(w) && node->star != NULL)
			w->waiting[w->waiting_n++] = (struct pattern_visit){ node->star, levels };
	}
	if (next != NULL)
		arrive(w, (struct pattern_visit){ next, levels });
	else if (w->waiting_n > 0)
		arrive(w, w->waiting[--w->waiting_n]);
	else
		return false;
	return true;
}

/* Whether it has been at all nodes. */
static bool match_levels(const struct patterns *p, struct pattern_walk *w, unsigned steps,
			 const struct match *m)
{
	for (; steps > 0; steps--) {
		struct pattern *pattern = w->next;

		if (pattern != NULL) {
			w->next = pattern->next;
			m->matched(pattern, m->argument);
		} else if (!w->ends_seen) {
			w->ends_seen = true;
			w->next = ends_here(w);
		} else if (!move_on(p, w)) {
			return true;
		}
	}
	return false;
}

static void match_prefixes(const struct patterns *p, struct span name, const struct match *m)
{
	if (p->prefixes.entries_n == 0)
		return;
	for (size_t len = 1; len <= name.len; len++) {
		const struct pattern_prefix *at;

		if (p->prefixes_n[len] == 0)
			continue;
		at = prefix_find(p, (struct span){ name.data, len });
		if (at != NULL)
			tell(m, at->patterns);
	}
}

bool pattern_matches(const struct pattern *p, struct span name)
{
	if (p->kind == PATTERN_GLOB)
		return glob_matches(p->text, name);
	if (name_matches(p->text, name))
		return true;
	/* Whatever is above the rest, without it. */
	return p->kind == PATTERN_MQTT && p->text.len > 2 &&
	       memcmp(p->text.data + p->text.len - 2, ".>", 2) == 0 &&
	       name_matches((struct span){ p->text.data, p->text.len - 2 }, name);
}

static bool match_some(const struct patterns *p, struct pattern_walk *w, unsigned steps,
		       const struct match *m)
{
	if (!match_levels(p, w, steps, m))
		return false;
	match_prefixes(p, w->name, m);
	for (struct pattern *g = p->globs; g != NULL; g = g->next)
		if (glob_matches(g->text, w->name))
			m->matched(g, m->argument);
	return true;
}

bool pattern_walk_on(struct patterns *p, struct pattern_walk *w, unsigned steps,
		     void (*matched)(struct pattern *, void *), void *argument)
{
	const struct match m = { matched, argument };
	bool all;

	assert(p->walk == NULL || p->walk == w);
	if (p->walk == NULL)
		arrive(w, (struct pattern_visit){ &p->root, 0 });
	all = match_some(p, w, steps, &m);
	p->walk = all ? NULL : w;
	return all;
}

void pattern_walk_forget(struct patterns *p)
{
	p->walk = NULL;
}

void patterns_match(const struct patterns *p, struct span name,
		    void (*matched)(struct pattern *, void *), void *argument)
{
	const struct match m = { matched, argument };
	struct pattern_walk w;

	if (patterns_empty(p))
		return;
	pattern_walk_begin(&w, name);
	arrive(&w, (struct pattern_visit){ &p->root, 0 });
	(void)match_some(p, &w, UINT_MAX, &m);
}
