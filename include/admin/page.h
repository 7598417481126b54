#ifndef ADMIN_PAGE_H
#define ADMIN_PAGE_H

/*
 * The live page at /: one file, compiled in, that draws what $sys.stats says.
 */

struct broker;

/* Adds the page, before the shards start. */
void page_init(struct broker *broker);

#endif
