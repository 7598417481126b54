#ifndef BASE_CONFIG_KEYS_H
#define BASE_CONFIG_KEYS_H

/*
 * The keys and sections that a configuration has: config.c holds the tables, config_file.c reads a
 * file by them. Both end with an entry that has no name.
 */

#include "base/config.h"
#include "base/key.h"

struct config_section {
	const char *name;
	const char *keys; /* the section in the table of keys that it takes its keys from */
	bool titled;      /* may stand in a file any number of times, each with its title */
	const char *in;   /* the section that it stands in; NULL: it is the file itself */
	size_t offset;    /* where its struct lies in that of `in`, unless titled */
};

#define CONFIG_ROOT "root" /* what libconfuse calls the file itself */

extern const struct key config_keys[];
extern const struct config_section config_sections[]; /* the first is the file itself */

/* What it is called in a file: what stands behind the last dot of its name. */
const char *config_section_word(const struct config_section *section);
/* Whether a section may be absent altogether, which is something else than its defaults. */
bool config_section_optional(const struct config_section *section);
/* Whether a section, which must exist, has this key. */
bool config_key_in(const struct key *key, const char *section);

/* Its place among the keys of its section. */
size_t config_key_index(const char *section, const char *key);

/* Room for n listeners that have their defaults but no title or address yet. -ENOMEM. */
int config_listens_new(struct config *config, size_t n);
/* The same for users, and for upstreams. */
int config_users_new(struct config *config, size_t n);
/* The same for a listener's certificates. */
int config_certificates_new(struct config_tls *tls, size_t n);
int config_upstreams_new(struct config *config, size_t n);
void config_listens_free(struct config *config);

#endif
