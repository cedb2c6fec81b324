/* Approximate nearest neighbours: which postings to probe, which rows to score exactly. Knows no
 * files, no SQLite, no threads: it is handed bytes and callbacks. See ann.c for the algorithm.
 *
 * Keys. Results are ordered by `key`: the squared distance under ANN_L2, minus the inner product
 * under ANN_IP. A cosine collection is ANN_L2 over vectors of length 1 (rabitq_normalise): its
 * key is twice the cosine distance. Keys of equal rows are ordered by id.
 *
 * Threads. A struct ann_index is immutable: any number of threads may search it, each with its own
 * struct ann_scratch. It borrows everything that it was made of: whoever publishes a new view keeps
 * the old one until its last search has ended. */
#ifndef MN_INDEX_ANN_H
#define MN_INDEX_ANN_H

#include "index/centroids.h"
#include "index/posting.h"
#include "index/rabitq.h"

enum {
    ANN_FIRST = 3,         /* nearest postings scanned before the others are chosen */
    ANN_MAX_BATCH = 256,
    ANN_DEFAULT_BATCH = 16
};

/* Rows of one posting that lie in one payload. */
struct ann_part {
    struct posting_view view;  /* view.n may be 0; pointers NULL: it is away, see ann_fetch */
    const uint64_t *hidden;    /* bitmap [(n+63)/64] of rows that do not exist any more; or NULL */
    uint32_t n_hidden;         /* bits set in it */
};

struct ann_posting {
    const struct ann_part *parts; /* [n_parts] */
    uint32_t n_parts;
};

struct ann_index_spec {
    const struct kernels *kn;
    const struct rabitq *rabitq;         /* metric, bits, rotation */
    const struct centroids *centroids;   /* [K] */
    const struct ann_posting *postings;  /* [K]; posting j holds the rows of centroid j */
    bool twice; /* rows may stand in a second posting too (index/soar.h), hidden in both or none */
};

struct ann_index; /* an immutable view */

/* Takes 16 bytes a posting for its own tables (MN_TAG_CACHE); borrows the rest.
 * Fails with MN_INVALID if a payload's dim, metric or bits are not the rabitq's, or MN_NOMEM. */
mn_status ann_index_create(struct mn_alloc *a, const struct ann_index_spec *spec,
                           struct ann_index **out, mn_error *err);
void ann_index_destroy(struct mn_alloc *a, struct ann_index *x); /* NULL is fine */

size_t ann_index_lanes(const struct ann_index *x); /* postings, rounded up for ann_query.expect */
uint64_t ann_index_rows(const struct ann_index *x); /* not hidden; each copy of a row counts */
const struct rabitq *ann_index_rabitq(const struct ann_index *x);

/* ---- A search -------------------------------------------------------------------------------- */

/* How much work a query may do. ann_tuning_knobs() (index/calibrate.h) knows good values. */
struct ann_knobs {
    float lambda; /* a posting is probed if a row of it is expected to be a hit with at least this
                     share of all that is expected: smaller is more; 0 probes all */
    float sigma;  /* spread of the cosine between a row's residual and the query; 0: ANN_SIGMA, or
                     1 / sqrt(dim) if that is more */
    float e1, e2; /* bounds of the 1-bit and of the whole code, in standard deviations; 0: ANN_E1,
                     ANN_E2 */
};

#define ANN_SIGMA 0.13f
#define ANN_E1 2.0f
#define ANN_E2 3.0f

/* A row that may be a hit. */
struct ann_candidate {
    int64_t id;
    uint32_t posting;
    uint32_t part;   /* of the posting's parts */
    uint32_t slot;   /* in the part; of a part that was away, its tag if it has tags */
    float bound;     /* its key is hardly below this */
    float estimate;  /* of its key */
};

/* Exact keys of n candidates, n at most ann_query.batch. NaN for a row that is gone: it is no
 * hit. A status other than MN_OK ends the search with it. */
typedef mn_status (*ann_rerank_fn)(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                                   mn_error *err);

/* A filter: asked at most once per row, only for rows that would enter the result. */
enum ann_verdict { ANN_ADMIT, ANN_REJECT, ANN_STOP }; /* STOP: with the status put into err */
typedef enum ann_verdict (*ann_admit_fn)(void *ctx, const struct ann_candidate *c, mn_error *err);

/* Which rows may be hits at all, known before they are scored: clears the bits of the others in
 * match [(n + 63) / 64], of rows first .. first + n of a posting's part, first a multiple of 64.
 * Returns how many are left. */
typedef size_t (*ann_match_fn)(void *ctx, uint32_t posting, uint32_t part, size_t first, size_t n,
                               uint64_t *match);

/* Called between postings: a status other than MN_OK (deadline, interrupt) ends the search. */
typedef mn_status (*ann_tick_fn)(void *ctx, mn_error *err);

/* A part that was away and has come. */
struct ann_fetched {
    struct posting_view view; /* its bytes stand until the next call but one */
    const uint8_t *tags;      /* [view.n] le32: what a candidate of a row has for slot; NULL: the
                                 row's number, as everywhere */
};

/* Whoever reads parts that are away: codes that memory has no room for, one read a part, many on
 * their way at once. */
struct ann_fetch {
    /* The parts of these postings [n] that are away are wanted, in this order; what was wanted
     * before is not any more. The array stands until all were taken, or the next begin. */
    mn_status (*begin)(void *ctx, const uint32_t *postings, size_t n, mn_error *err);
    /* Waits for the next one. */
    mn_status (*next)(void *ctx, struct ann_fetched *out, mn_error *err);
    void *ctx;
};

struct ann_query {
    const float *vector;      /* [dim], finite; of length 1 for cosine */
    uint32_t k;               /* 1 .. the scratch's max_k */
    struct ann_knobs knobs;
    const mn_hit *pending;    /* [n_pending] rows outside the postings which the caller has scored
                                 exactly and admitted (distance: the key); any order; they may
                                 become hits */
    size_t n_pending;
    ann_admit_fn admit;       /* NULL: all rows */
    void *admit_ctx;
    ann_rerank_fn rerank;     /* NULL: hits carry estimates */
    void *rerank_ctx;
    uint32_t batch;           /* candidates a call of rerank, 1 .. ANN_MAX_BATCH; 0: default. Small
                                 where a row costs little (memory), large where many in flight
                                 cost as one (SSD) */
    ann_tick_fn tick;         /* NULL: none */
    void *tick_ctx;
    const struct ann_fetch *fetch; /* NULL: fine if no part is away */
    ann_match_fn match;       /* NULL: any row may be a hit */
    void (*ahead)(void *ctx, uint32_t posting); /* match will soon be asked of it; or NULL */
    void *match_ctx;          /* of both */
    const float *expect;      /* [ann_index_lanes] with match: how many rows of each posting may be
                                 hits, about; 0: surely none. Zeros beyond the postings */
    float most;               /* with match: if the plan is to score more rows than this, about,
                                 there is no search: ann_stats.refused. 0: no limit */
};

struct ann_stats {
    uint64_t centroids;  /* whose distance was computed */
    uint64_t probed;     /* postings scanned */
    uint64_t codes;      /* rows whose 1-bit code was scanned */
    uint64_t survivors;  /* of those, rows whose whole code was read */
    uint64_t candidates; /* of those, rows kept for exact distances */
    uint64_t reranked;   /* rows whose exact key was asked for */
    uint64_t admitted, rejected; /* by the filter */
    uint64_t dropped;    /* candidates given up since too many rows look alike */
    uint64_t widened;    /* postings scanned beyond the plan to find k rows */
    uint64_t skipped;    /* of codes: rows that could be no hits and were not scored */
    uint64_t barren;     /* postings that hold no row that could be a hit */
    bool refused;        /* beyond ann_query.most: no search was made, there are no hits */
};

struct ann_scratch; /* one thread's memory for searches; no allocation after create */

/* For indexes of this dim with at most max_postings, k up to max_k. About 26 bytes a posting,
 * 256 max_k + 0.6 MiB, 96 dim (MN_TAG_SEARCH). MN_INVALID (names the argument) or MN_NOMEM. */
mn_status ann_scratch_create(struct mn_alloc *a, uint32_t dim, uint32_t max_postings,
                             uint32_t max_k, struct ann_scratch **out, mn_error *err);
void ann_scratch_destroy(struct mn_alloc *a, struct ann_scratch *s); /* NULL is fine */

/* Before the first search of an index whose rows stand twice, once for a scratch; for any other it
 * does nothing. 0.5 MiB and 128 max_k (MN_TAG_SEARCH). MN_NOMEM. */
mn_status ann_scratch_fit(struct mn_alloc *a, struct ann_scratch *s, const struct ann_index *x,
                          mn_error *err);

/* Finds up to q->k rows: min(k, rows there are, admitted ones with a filter), however many postings
 * that takes. The hits stand in s until its next use: ascending by key, ties by id.
 * Fails with MN_INVALID (names k, batch, a NaN in the vector, an index larger than the scratch),
 * or what a callback returned; there are then no hits. */
mn_status ann_search(const struct ann_index *x, struct ann_scratch *s, const struct ann_query *q,
                     mn_error *err);

size_t ann_hits(const struct ann_scratch *s, const mn_hit **hits); /* distance: the key */
const struct ann_stats *ann_stats(const struct ann_scratch *s); /* of the last search */

/* Of the last search: the largest lambda at which it would have probed this posting. */
float ann_share(const struct ann_scratch *s, uint32_t posting);

/* Nearest centroid of each of n vectors [n][dim], by the codes of the centroids: where a new row
 * should go. */
void ann_assign(const struct ann_index *x, struct ann_scratch *s, const float *vectors, size_t n,
                uint32_t *postings);

#endif
