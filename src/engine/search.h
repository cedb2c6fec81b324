/* A search while it runs: what the parts of search share. search.c takes the arguments and scans
 * exactly; search_indexed.c asks the hybrid index. */
#ifndef MN_ENGINE_SEARCH_H
#define MN_ENGINE_SEARCH_H

#include "index/scan.h"
#include "src/engine/cache.h"
#include "src/engine/conditions.h"
#include "src/engine/engine.h"
#include "src/engine/selection.h"

enum { FEW_IDS = 2048 }; /* so many are looked up one by one rather than searched for */

struct search {
    mn_conn *conn;
    struct coll *c;
    mn_search_opts opts; /* the caller's, or zeros */
    const char *queries; /* of the collection's dtype */
    size_t nq;
    uint32_t k; /* 0: radius search */
    double radius;
    uint64_t max_hits;
    int64_t *ids; /* [n_ids] ascending, each once; NULL: all rows */
    size_t n_ids;
    struct conditions where;
    struct view *over;         /* what `selected` is of; NULL: the conditions are asked of rows */
    struct selection selected;
    uint64_t patience;         /* rows that admission may read before SQLite is asked for all; 0:
                                  any number */
    bool impatient;            /* it read more: the scan ended */
    mn_attr *attrs; /* [n_attrs], for filter and conditions */
    mn_search_stats stats;
    struct scan_spec spec; /* of the running group */
};

/* Rows must be read to know whether they may be hits. */
static inline bool search_reads_rows(const struct search *s)
{
    return s->opts.filter || s->where.n;
}

/* Whether the row may be a hit, by the caller's ids, conditions and filter. A scan_admit_fn over a
 * struct search; search_admit_fn says NULL when there is nothing to ask. */
enum scan_verdict search_admit(void *ctx, int64_t id, mn_error *err);
scan_admit_fn search_admit_fn(const struct search *s);
/* The same of a row that is known to meet the conditions. */
enum scan_verdict search_admit_met(struct search *s, int64_t id, mn_error *err);

/* s->ids from only_ids and from the conditions that name ids, which are then met and go. */
mn_status search_take_ids(struct search *s, mn_error *err);
/* s->ids are those of the rows that meet the conditions, of all that SQLite finds; then there are
 * no conditions left. */
mn_status search_ids_by_sql(struct search *s, mn_error *err);

/* With conditions: makes s->selected over the view, which is shared with s->over. */
mn_status search_select(struct search *s, struct view *v, mn_error *err);

/* Answers all queries of a nearest search by the hybrid index, if this snapshot has one and the
 * search allows it; else *answered is false and nothing was done. hits [nq][k], found [nq]. */
mn_status search_indexed(struct search *s, mn_hit *hits, uint32_t *found, bool *answered,
                         mn_error *err);

#endif
