/* The centroids in memory: 7-bit codes, scanned flat for every query, with a graph over them if
 * there are many. Knows no postings. Immutable after create, any thread. See centroids.c. */
#ifndef MN_INDEX_CENTROIDS_H
#define MN_INDEX_CENTROIDS_H

#include "index/rabitq.h"

struct centroids {
    uint32_t n, dim;
    uint32_t blocks, quads;  /* of CENTROID_LANES centroids, of 4 elements */
    enum ann_metric metric;
    uint8_t *codes;          /* [blocks][quads][CENTROID_LANES][4], aligned to 64 */
    float *scale, *norm;     /* [blocks * CENTROID_LANES]; norm under l2 |c'|^2, else 0 */
    float *exact;            /* [n][dim] c', or NULL */
    float noise;             /* largest scale: of the rounding of an element */
    struct centroid_graph *graph; /* or NULL: few centroids */
};

enum {
    CENTROIDS_MAX = 1 << 24,
    CENTROIDS_GRAPH = 2 << 20 /* bytes of codes from which on a graph pays: centroids.c */
};

struct centroids_spec {
    const float *vectors;    /* [n][dim] as they are: not rotated. One that begins with a NaN is
                                dead: it keeps its number, and no search finds it */
    uint32_t n;
    bool keep_exact;         /* better estimates from 5 bits on */
    uint32_t graph_from;     /* a graph if so many are alive; 0: if CENTROIDS_GRAPH says so */
    const struct centroids *before; /* an earlier version, by the same rabitq: centroids that did
                                       not change keep their numbers. Its graph is then extended in
                                       place of a new one; or NULL */
};

/* Copied into codes: (dim + 8) n bytes, 4 dim n more with keep_exact, (dim + 150) n more and some
 * 35 us of CPU each for a graph; MN_TAG_CACHE. MN_INVALID or MN_NOMEM. */
mn_status centroids_create(struct mn_alloc *a, const struct rabitq *q,
                           const struct centroids_spec *spec, struct centroids **out,
                           mn_error *err);
void centroids_destroy(struct mn_alloc *a, struct centroids *c); /* NULL is fine */

uint64_t centroids_bytes(const struct centroids *c); /* of memory, its graph's included */
uint64_t centroids_bytes_of(uint32_t n, uint32_t dim); /* that n will take, without exact ones */

/* A query as the scan takes it: rotated like a row (ip: without the origin). */
struct centroid_query {
    const int8_t *code;      /* [4 quads], zeros beyond dim */
    int32_t code_sum;
    float step;              /* of the code */
    float base;              /* l2: the query's squared length; ip: -<q, origin> */
};

/* out[j], j < blocks * CENTROID_LANES: squared distance, or minus the inner product, of centroid j;
 * beyond n, and of the dead, huge. Off by the codes' rounding. */
void centroids_scan(const struct centroids *c, const struct kernels *kn,
                    const struct centroid_query *q, float *out);

#endif
