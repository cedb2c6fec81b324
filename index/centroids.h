/* The centroids in memory: 7-bit codes scanned flat for every query, and what a posting's place
 * means for it. Knows no postings. Immutable after create, any thread. See centroids.c. */
#ifndef MN_INDEX_CENTROIDS_H
#define MN_INDEX_CENTROIDS_H

#include "index/rabitq.h"

struct centroids;

/* centroids [n][dim] as they are (not rotated), copied into codes: (dim + 12) n bytes, and 4 dim n
 * more with keep_exact (better estimates from 5 bits on); MN_TAG_CACHE. MN_INVALID or MN_NOMEM. */
mn_status centroids_create(struct mn_alloc *a, const struct rabitq *q, const float *centroids,
                           uint32_t n, bool keep_exact, struct centroids **out, mn_error *err);
void centroids_destroy(struct mn_alloc *a, struct centroids *c); /* NULL is fine */
uint32_t centroids_count(const struct centroids *c);

#endif
