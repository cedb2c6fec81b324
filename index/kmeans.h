/* Plain k-means on vectors in memory, and the nearest of a set of centroids by matrix products.
 * Knows no budget and no balance: that is cluster.h. */
#ifndef MN_INDEX_KMEANS_H
#define MN_INDEX_KMEANS_H

#include "index/kernels/kernels.h"
#include "index/parallel.h"
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

struct kmeans_spec {
    const float *rows;    /* [n][dim] */
    size_t n;             /* at least 1 */
    uint32_t dim, k;
    uint32_t rounds;      /* from rows drawn by the seed */
    uint64_t seed;
    const struct parallel *parallel; /* NULL: this thread alone; the result is the same */
};

/* centroids [k][dim]. Clusters that lose all rows start anew at a row. MN_NOMEM. */
mn_status kmeans(struct mn_alloc *a, const struct kernels *kn, const struct kmeans_spec *spec,
                 float *centroids, mn_error *err);

#endif
