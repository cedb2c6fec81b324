/* Clustered vectors, their exact neighbours, and an index over them, for the tests of index/. */
#ifndef MN_TESTS_INDEX_ANN_FIXTURE_H
#define MN_TESTS_INDEX_ANN_FIXTURE_H

#include "index/ann.h"
#include "storage/base/error.h"
#include "tests/test.h"

/* What the rows look like. */
enum fixture_shape {
    SHAPE_CLUSTERED, /* clusters of varied size and direction, intrinsic dimension about 24 */
    SHAPE_NORMAL,    /* independent normal elements: the hardest */
    SHAPE_CONSTANT,  /* all rows the same */
    SHAPE_REPEATED,  /* a few hundred distinct rows, each many times */
    SHAPE_CLUMP      /* nine tenths of the rows within a thousandth of the others' spread */
};

struct ann_fixture {
    struct mn_alloc *a;
    const struct kernels *kn;
    uint32_t dim, bits, k_centroids;
    enum ann_metric metric;
    size_t n, nq;
    float *rows, *queries;       /* queries are drawn like the rows, and not among them */
    int64_t *ids;                /* ascending, with gaps */
    struct rabitq *rabitq;
    float *origin, *centers;
    uint32_t *of, *second;       /* second NULL: rows stand once */
    struct centroids *centroids;
    struct ann_part *parts;      /* [k_centroids], one of each posting */
    struct ann_posting *postings;
    uint8_t **payloads;          /* [k_centroids] */
    uint64_t **hidden;           /* [k_centroids] or NULL */
    struct ann_index *index;
    struct ann_scratch *scratch;
};

struct fixture_spec {
    uint32_t dim, bits, k_centroids;
    enum ann_metric metric;
    enum fixture_shape shape;
    bool normalise;              /* cosine */
    bool exact_centroids;
    uint32_t graph_from;         /* centroids_spec's */
    bool soar;                   /* rows stand twice */
    size_t n, nq;
    uint64_t seed;
    float offset;                /* added to every element of every row and query */
    const struct kernels *kn;    /* NULL: the best */
    const uint32_t *of;          /* [n] clusters given, with centers; NULL: found */
    const float *centers;
};

void fixture_make(struct ann_fixture *f, const struct fixture_spec *spec);
void fixture_free(struct ann_fixture *f);
void fixture_rows(float *out, size_t n, const struct fixture_spec *spec);

/* Hides rows: makes bitmaps, and the index anew. */
void fixture_hide(struct ann_fixture *f, bool (*hide)(int64_t id));

double fixture_key(const struct ann_fixture *f, const float *q, size_t row);
size_t fixture_row(const struct ann_fixture *f, int64_t id);

/* Ids of the k nearest rows of a vector among those that keep(id) (NULL: all), by (key, id).
 * Returns how many. */
size_t fixture_truth(const struct ann_fixture *f, const float *q, uint32_t k, bool (*keep)(int64_t),
                     mn_hit *out);

/* ann_rerank_fn over a struct fixture_rerank. */
struct fixture_rerank {
    const struct ann_fixture *f;
    const float *query;
    size_t calls, rows;
    float last_bound;
    size_t disorder;  /* candidates whose bound was less than the one before */
};
mn_status fixture_rerank(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                         mn_error *err);

/* Mean recall of k over the queries with these knobs; -1 if the results are out of order or their
 * keys wrong. `stats` (or NULL) sums up. */
double fixture_recall(struct ann_fixture *f, uint32_t k, struct ann_knobs knobs,
                      struct ann_stats *stats);

#endif
