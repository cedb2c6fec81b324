/* What a search did, in words and sums. Used by search and recall. Opens nothing. Owner thread. */
#ifndef MN_SHELL_EXPLAIN_H
#define MN_SHELL_EXPLAIN_H

#include "mneme.h"

enum { SIDECAR_PAGE_BYTES = 4096 }; /* of mn_search_stats.reads */

void stats_add(mn_search_stats *sum, const mn_search_stats *one);

struct explained {
    uint64_t n_queries, n_hits;
    mn_search_stats sum;
    mn_metric metric;
    mn_rerank rerank;
    mn_index_info index; /* index.exists: it was loaded, in load_seconds */
    double load_seconds;
};

/* One line a fact, on stderr. */
void explain(const struct explained *e);

#endif
