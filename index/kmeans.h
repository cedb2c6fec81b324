/* Plain k-means on vectors in memory, and the nearest of a set of centroids by matrix products.
 * Knows no budget and no balance: that is cluster.h. */
#ifndef MN_INDEX_KMEANS_H
#define MN_INDEX_KMEANS_H

#include "index/kernels/kernels.h"
#include "mneme.h"
#include "storage/base/alloc.h"

enum { KMEANS_TILE = 64 /* rows whose products are held at once */ };

/* Centroids laid out as the gemm kernel takes its queries. */
struct packed {
    uint32_t n, dim;
    size_t nslabs;        /* of KERNEL_LANES centroids */
    float *slabs;         /* [nslabs][dim][KERNEL_LANES], aligned to 64 */
    float *half;          /* [nslabs * KERNEL_LANES] half the squared norms; huge beyond n */
};

/* Room for up to max_n centroids; false when memory runs out. fini takes what init left. */
bool packed_init(struct packed *p, struct mn_alloc *a, uint32_t max_n, uint32_t dim);
void packed_fini(struct packed *p, struct mn_alloc *a);

/* centroids[which[i]], or centroids[i] if which is NULL; n at most max_n. */
void packed_set(struct packed *p, const struct kernels *kn, const float *centroids,
                const uint32_t *which, uint32_t n);

static inline size_t packed_lanes(const struct packed *p)
{
    return p->nslabs * KERNEL_LANES;
}

/* dots [n][packed_lanes(p)], aligned to 64: products of rows [n][dim] with the centroids. */
void packed_dots(const struct packed *p, const struct kernels *kn, const float *rows, size_t n,
                 float *dots);

/* k centroids [k][dim] of rows [n][dim], n at least 1, after `rounds` rounds from rows drawn by
 * seed. Clusters that lose all rows start anew at a row. MN_NOMEM. */
mn_status kmeans(struct mn_alloc *a, const struct kernels *kn, const float *rows, size_t n,
                 uint32_t dim, uint32_t k, uint32_t rounds, uint64_t seed, float *centroids,
                 mn_error *err);

#endif
