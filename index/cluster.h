/* Balanced clustering of many vectors within a memory budget. Knows no files: rows come through a
 * callback. Deterministic: the same rows, options and kernels give the same clusters, whatever the
 * number of threads. See cluster.c. */
#ifndef MN_INDEX_CLUSTER_H
#define MN_INDEX_CLUSTER_H

#include "index/kernels/kernels.h"
#include "index/parallel.h"
#include "mneme.h"
#include "storage/base/alloc.h"

/* Rows with random access. */
struct ann_source {
    size_t n;
    uint32_t dim;
    /* out [n][dim]: the rows named, which ascend within a call. Called on the thread of cluster()
     * only. */
    mn_status (*fetch)(void *ctx, const uint32_t *rows, size_t n, float *out, mn_error *err);
    void *ctx;
};

struct cluster_opts {
    uint32_t k;              /* clusters wanted; 0: cluster_count() of the source */
    uint64_t seed;
    uint64_t budget_bytes;   /* for everything but the result and 8 bytes a row; 0: 64 MiB. Fewer
                                clusters are made if it is small for the dim */
    const struct parallel *parallel; /* NULL: this thread alone */
    mn_status (*tick)(void *ctx, uint64_t done, uint64_t total, mn_error *err); /* or NULL */
    void *tick_ctx;
    mn_train_fn train;       /* chooses the k centroids in place of steps 2 and 3 of cluster.c, from
                                as much of the sample as half the budget holds; NULL: they do */
    void *train_ctx;
};

struct clusters {
    uint32_t k, dim;       /* k need not be what was asked for: big clusters are split, small ones
                              dissolved */
    float *centroids;      /* [k][dim] */
    uint32_t *of;          /* [n] cluster of each row */
    uint32_t *sizes;       /* [k] */
};

/* Fails with MN_INVALID (no rows, dim, a trainer's centroids that are not finite), MN_NOMEM (the
 * allocator's cap), or what a callback returned; *out is then empty. MN_TAG_SEARCH. */
mn_status cluster(struct mn_alloc *a, const struct kernels *kn, const struct ann_source *source,
                  const struct cluster_opts *opts, struct clusters *out, mn_error *err);
void clusters_fini(struct mn_alloc *a, struct clusters *c);

/* A good number of clusters for n rows; cluster.c has the measurements. */
uint32_t cluster_count(size_t n, uint32_t dim);

#endif
