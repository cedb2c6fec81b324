/* A second posting for each row: the one that serves the queries which the first serves badly.
 * Knows no postings, only centroids. One thread's at a time. See soar.c. */
#ifndef MN_INDEX_SOAR_H
#define MN_INDEX_SOAR_H

#include "index/kernels/kernels.h"
#include "mneme.h"
#include "storage/base/alloc.h"

#define SOAR_LAMBDA 1.5f /* 0.5 to 2 differ by little; 0: the second nearest centroid */

struct soar;

/* Borrows centroids [n][dim] (under cosine: of rows of length 1). About 0.8 KB dim and 8 n bytes
 * of memory (MN_TAG_SEARCH). MN_NOMEM. */
mn_status soar_create(struct mn_alloc *a, const struct kernels *kn, const float *centroids,
                      uint32_t n, uint32_t dim, float lambda, struct soar **out, mn_error *err);
void soar_destroy(struct mn_alloc *a, struct soar *s); /* NULL is fine */

/* second[i]: of the centroids near `first`, the best other one for rows[i]; rows [n][dim] whose
 * first is `first`. UINT32_MAX if there is only one centroid. Cheapest for all rows of a posting at
 * once: its neighbours are sought anew whenever `first` changes. */
void soar_assign(struct soar *s, uint32_t first, const float *rows, size_t n, uint32_t *second);

#endif
