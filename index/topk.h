/* The best k hits of one query by (distance, then id), and all hits of a radius search. Not
 * thread-safe: one thread at a time. Knows no metrics: a distance is any ordered double, no NaN. */
#ifndef MN_INDEX_TOPK_H
#define MN_INDEX_TOPK_H

#include "mneme.h"
#include "storage/base/alloc.h"

#include <math.h>

/* At most k hits in the caller's memory. Fields are for the functions below. */
struct topk {
    mn_hit *hits;   /* [k]; while n < k in order of arrival, then a heap with the worst first */
    uint32_t k, n;
};

/* True if a stands behind b. */
static inline bool hit_after(const mn_hit *a, const mn_hit *b)
{
    return a->distance > b->distance || (a->distance == b->distance && a->id > b->id);
}

/* k at least 1; hits [k], uninitialised. */
static inline void topk_init(struct topk *t, mn_hit *hits, uint32_t k)
{
    *t = (struct topk){.hits = hits, .k = k};
}

/* Distances above this cannot enter; infinity while there is room. */
static inline double topk_limit(const struct topk *t)
{
    return t->n < t->k ? INFINITY : t->hits[0].distance;
}

static inline bool topk_would_take(const struct topk *t, double distance, int64_t id)
{
    const mn_hit hit = {id, distance};
    return t->n < t->k || hit_after(&t->hits[0], &hit);
}

/* Only for hits that topk_would_take. */
void topk_push(struct topk *t, double distance, int64_t id);

bool topk_check(const struct topk *t); /* O(k); for asserts */

/* All hits, growing through the allocator up to `max`. */
struct collector {
    mn_hit *hits;   /* [cap], n used, in order of arrival */
    size_t n, cap;
    uint64_t max;
};

static inline void collector_init(struct collector *c, uint64_t max)
{
    *c = (struct collector){.max = max};
}

void collector_fini(struct collector *c, struct mn_alloc *a);

/* MN_FULL when there are `max` already, MN_NOMEM: nothing was added; says so in err. */
mn_status collector_push(struct collector *c, struct mn_alloc *a, double distance, int64_t id,
                         mn_error *err);

/* Ascending by distance, ties by id. In place, no allocation. */
void hits_sort(mn_hit *hits, size_t n);

#endif
