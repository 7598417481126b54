#include "broker/counters.h"

const char *const auth_result_names[AUTH_RESULTS] = {
	[AUTH_OK] = "ok", [AUTH_WRONG] = "wrong", [AUTH_BUSY] = "busy"
};

const char *const upstream_gap_names[UPSTREAM_GAPS] = {
	[UPSTREAM_GAP_LOST] = "lost",   [UPSTREAM_GAP_MEMORY] = "memory",
	[UPSTREAM_GAP_GONE] = "gone",   [UPSTREAM_GAP_TIME] = "time",
	[UPSTREAM_GAP_BYTES] = "bytes", [UPSTREAM_GAP_CHANGED] = "changed",
};

const char *const drop_reason_names[DROP_REASONS] = {
	[DROP_SLOW] = "slow",     [DROP_SKIPPED] = "skipped",
	[DROP_CLOSED] = "closed", [DROP_UNENCODABLE] = "unencodable",
	[DROP_MEMORY] = "memory", [DROP_GAP] = "gap"
};
