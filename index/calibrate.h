/* Which knobs reach which recall on a given index: measured on the collection's own rows, each left
 * out of its own search. See calibrate.c for the method and its error. */
#ifndef MN_INDEX_CALIBRATE_H
#define MN_INDEX_CALIBRATE_H

#include "index/ann.h"

enum { TUNING_TARGETS = 10, TUNING_MAX_K = 4, TUNING_BYTES = 256 };

/* recall -> lambda for a few k. Plain data: copy it. */
struct ann_tuning {
    uint32_t n_k;
    uint32_t k[TUNING_MAX_K];                        /* ascending */
    float lambda[TUNING_MAX_K][TUNING_TARGETS];      /* falling: of tuning_targets[] */
    float reached[TUNING_MAX_K];                     /* recall on the sample at the last target */
};

struct ann_sample {
    const float *vectors;    /* [n][dim] rows of the index, drawn at random; 500 or more */
    const int64_t *ids;      /* [n] their ids: each row is left out of its own search */
    size_t n;
    uint32_t k;              /* calibrate for this many hits */
    const int64_t *truth;    /* [n][k] ids of the nearest rows without the row itself; entries
                                beyond what there is are INT64_MIN */
    ann_rerank_fn rerank;    /* as searches will have it */
    void *rerank_ctx;
    void (*at)(void *rerank_ctx, size_t i); /* or NULL: sample i is searched next */
    ann_tick_fn tick;
    void *tick_ctx;
};

/* Measures and sets t's entry for sample->k (adds it; MN_FULL beyond TUNING_MAX_K). A t that is all
 * zeros is empty. Fails with MN_INVALID or what a callback returned. */
mn_status ann_calibrate(const struct ann_index *x, struct ann_scratch *s,
                        const struct ann_sample *sample, struct ann_tuning *t, mn_error *err);

/* Knobs for a recall of 0.5 .. 1 at k: interpolated. An empty tuning gives careful constants. */
struct ann_knobs ann_tuning_knobs(const struct ann_tuning *t, uint32_t k, double recall);

/* Little-endian bytes of a tuning, versioned; get fails with MN_CORRUPT or MN_NEWER. */
void ann_tuning_put(const struct ann_tuning *t, uint8_t out[TUNING_BYTES]);
mn_status ann_tuning_get(const uint8_t *bytes, size_t len, struct ann_tuning *t, mn_error *err);

#endif
