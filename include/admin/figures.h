#ifndef ADMIN_FIGURES_H
#define ADMIN_FIGURES_H

/*
 * /metrics, /stats.json and the topic $sys.stats, where its home publishes once a second what
 * /stats.json says, with the busiest topics, while anybody subscribes.
 *
 * That home answers for all: it has figures collected of every reactor when somebody asks. Whoever
 * asks meanwhile waits for the next collection, so that figures are of the moment of asking or
 * later; many who wait, for a second since the last one. All who have waited are sent one text,
 * which is held while it is and counted once. Nothing is done while nobody asks.
 */

struct broker;

/* Adds the pages and the topic, before the shards start. */
void figures_init(struct broker *broker);

#endif
