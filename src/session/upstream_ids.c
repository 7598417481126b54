#include "base/hash.h"
#include "base/memory.h"
#include "session/upstream.h"

/*
 * Ids that messages of a log have come with. A message that was acknowledged, and is not where it
 * should be, goes up again under its id and "~1", then "~2": if it was there after all, somewhere,
 * it comes twice, and each host drops the second one. So each remembers the last ids of each topic;
 * what the stream itself drops as a repetition does not come here at all. Only a repetition is
 * compared with what has come, and what comes with those: a key that its publisher uses again when
 * the stream has forgotten it is another message.
 */

enum {
	IDS_MIN = 16,
	IDS_MAX = 4096, /* of a topic; older ones are forgotten */
};

struct span upstream_id_first(struct span id)
{
	bool again = id.len > 2 && id.data[id.len - 2] == '~' && id.data[id.len - 1] >= '1' &&
		     id.data[id.len - 1] <= '0' + UPSTREAM_REPETITIONS_MAX;

	return (struct span){ id.data, again ? id.len - 2 : id.len };
}

static bool has(const struct upstream_topic *ut, uint64_t hash, bool again)
{
	uint32_t n = ut->ids_n < ut->ids_slots ? ut->ids_n : ut->ids_slots;

	for (uint32_t i = 0; i < n; i++)
		if (ut->ids[i] == (hash | 1) || (again && ut->ids[i] == hash))
			return true;
	return false;
}

/* Without memory for more it remembers fewer. */
static void make_room(struct upstream_topic *ut)
{
	uint32_t slots = ut->ids_slots > 0 ? 2 * ut->ids_slots : IDS_MIN;
	uint64_t *ids;

	if (ut->ids_n < ut->ids_slots || ut->ids_slots == IDS_MAX)
		return;
	/* They are in their order as long as none was forgotten. */
	ids = ut->ids_n == ut->ids_slots ? memory_resize(ut->ids, slots * sizeof(*ids)) : NULL;
	if (ids == NULL)
		return;
	ut->ids = ids;
	ut->ids_slots = slots;
}

bool upstream_id_came(struct upstream_topic *ut, struct span id)
{
	struct span first = upstream_id_first(id);
	bool again = first.len < id.len;
	uint64_t hash;

	if (id.len == 0)
		return false;
	hash = hash_bytes(first.data, first.len) & ~UINT64_C(1);
	if ((again || ut->repeated) && has(ut, hash, again))
		return true;
	make_room(ut);
	if (ut->ids_slots == 0)
		return false;
	ut->ids[ut->ids_n++ & (ut->ids_slots - 1)] = hash | again;
	ut->repeated |= again;
	/* It counts how many there are, then goes round. */
	if (ut->ids_n == 2 * IDS_MAX)
		ut->ids_n = IDS_MAX;
	return false;
}

void upstream_ids_release(struct upstream_topic *ut)
{
	memory_free(ut->ids);
	ut->ids = NULL;
	ut->ids_n = ut->ids_slots = 0;
	ut->repeated = false;
}
