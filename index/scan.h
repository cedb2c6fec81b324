/* Exact search: every row of the blocks handed in is scored against every query. Knows no files
 * and no SQLite; whoever calls it owns the bytes. A scan is one thread's at a time; several threads
 * take a scan each and merge them. See scan.c for how the results of all paths are the same. */
#ifndef MN_INDEX_SCAN_H
#define MN_INDEX_SCAN_H

#include "index/kernels/kernels.h"
#include "mneme.h"
#include "storage/base/alloc.h"

struct scan; /* one search: nq queries and their results so far */

struct scan_spec {
    mn_dtype dtype;
    mn_metric metric;
    uint32_t dim;
    const void *queries;      /* [nq][dim] of dtype (bit: [nq][dim/8]); borrowed until destroy */
    size_t nq;                /* 1 .. MN_MAX_QUERIES */
    uint32_t k;               /* 1 .. MN_MAX_K; in radius mode 0 */
    bool radius_mode;
    double radius;            /* all rows with distance <= radius */
    uint64_t max_hits;        /* per query; more are MN_FULL */
};

struct scan_block {
    const int64_t *ids;       /* [n] */
    const void *vectors;      /* [n] vectors, unpadded, contiguous */
    const float *norms;       /* [n] as scan_norms() computes them, or NULL: computed when needed */
    size_t n;
    const uint64_t *hidden;   /* bitmap [(n+63)/64]: rows whose bit is set are skipped; or NULL */
};

/* STOP ends scan_block with the status that the callback put into err. */
enum scan_verdict { SCAN_ADMIT, SCAN_REJECT, SCAN_STOP };
typedef enum scan_verdict (*scan_admit_fn)(void *ctx, int64_t id, mn_error *err);

/* Checks the queries as scan_check_vector does. All memory that a search of nearest rows needs is
 * taken here, MN_TAG_SEARCH: about nq * (16 k + 4 dim) bytes, and half a megabyte for a batch.
 * Fails with MN_INVALID (names the option or query) or MN_NOMEM; *out is then NULL. */
MN_CHECKED mn_status scan_create(struct mn_alloc *a, const struct kernels *kn,
                                 const struct scan_spec *spec, struct scan **out, mn_error *err);
void scan_destroy(struct scan *s); /* NULL is fine */

/* Begins the search anew for other queries [nq] of the same spec, which scan_check_vector() has
 * passed. Allocates nothing. Not in radius mode. */
void scan_restart(struct scan *s, const void *queries);

/* Scores a block. admit (may be NULL) is asked only for rows that would enter a result, at most
 * once per row and call. Allocates only in radius mode. After a failure the results so far may
 * be read; which rows of the failed block they cover is not defined. */
MN_CHECKED mn_status scan_block(struct scan *s, const struct scan_block *b, scan_admit_fn admit,
                                void *ctx, mn_error *err);

/* Adds what `from`, made with the same spec, has found. Fails as collector_push in radius mode. */
MN_CHECKED mn_status scan_merge(struct scan *into, const struct scan *from, mn_error *err);

size_t scan_count(const struct scan *s, size_t q);

/* Ascending by distance, ties by id; hits[scan_count(s, q)]. May be called again, and between
 * blocks. */
void scan_hits(struct scan *s, size_t q, mn_hit *hits);

/* Distances of query q to n rows (unpadded vectors), as scan_block would find them, to the bit; NaN
 * for a row that is no vector. The results so far stay as they are. */
void scan_distances(struct scan *s, size_t q, const void *rows, size_t n, double *distances);

/* Rows met that are no vectors: NaN or infinite elements, or under cosine no direction. They count
 * as not in the collection. */
uint64_t scan_invalid_rows(const struct scan *s);

/* Squared norms of n unpadded vectors; zeros for MN_BIT. */
void scan_norms(const struct kernels *kn, mn_dtype dtype, uint32_t dim, const void *vectors,
                size_t n, float *norms);

/* MN_INVALID if the vector may not stand in a collection: an element is NaN or infinite (the
 * message names `what`, the element and its value), its squared norm reaches FLT_MAX / 4, or under
 * cosine is below FLT_MIN: too short to have a direction. */
MN_CHECKED mn_status scan_check_vector(mn_dtype dtype, mn_metric metric, uint32_t dim,
                                       const void *vector, const char *what, mn_error *err);

#endif
