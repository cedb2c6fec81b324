/* Which knobs reach which recall on a given index: measured on the collection's own rows, each left
 * out of its own search. See calibrate.c for the method and its error. */
#ifndef MN_INDEX_CALIBRATE_H
#define MN_INDEX_CALIBRATE_H

#include "index/ann.h"

enum { TUNING_TARGETS = 12, TUNING_MAX_K = 4, TUNING_BYTES = 256 };

/* The recalls that are measured: 0.5 .. 0.999. */
extern const double tuning_targets[TUNING_TARGETS];

/* recall -> lambda, for a few k. Plain data: copy it. All zeros: empty. */
struct ann_tuning {
    uint32_t n_k;
    uint32_t k[TUNING_MAX_K];                        /* ascending */
    float lambda[TUNING_MAX_K][TUNING_TARGETS];      /* never rising */
    float most[TUNING_MAX_K];                        /* recall that the sample reached at most */
};

struct ann_sample {
    const float *vectors;    /* [n][dim] rows of the index, drawn at random; 500 or more */
    const int64_t *ids;      /* [n] their ids: each row is left out of its own search */
    size_t n;
    uint32_t k;              /* calibrate for so many hits */
    const mn_hit *truth;     /* [n][k] the nearest rows without the row itself (distance: the key),
                                as an exact scan finds them */
    const uint32_t *found;   /* [n] of truth: less than k if the index has not more rows */
    ann_rerank_fn rerank;    /* as searches will have it; NULL: hits carry estimates */
    void *rerank_ctx;
    void (*next)(void *rerank_ctx, size_t i); /* or NULL: sample i is searched from now on */
    ann_tick_fn tick;
    void *tick_ctx;
    const struct ann_fetch *fetch; /* as searches will have it */
};

/* Measures, and sets t's entry for sample->k. Fails with MN_INVALID (no sample), MN_FULL (a fifth
 * k), MN_NOMEM, or what a callback returned; t is then as before. */
mn_status ann_calibrate(struct mn_alloc *a, const struct ann_index *x, struct ann_scratch *s,
                        const struct ann_sample *sample, struct ann_tuning *t, mn_error *err);

/* Knobs for a recall of 0.5 .. 1, interpolated, and k, of which the next smaller and the next
 * larger one must both reach it. An empty tuning gives careful constants.
 * A recall of 1 is best asked of an exact scan. */
struct ann_knobs ann_tuning_knobs(const struct ann_tuning *t, uint32_t k, double recall);

/* Little-endian bytes of a tuning, versioned; get fails with MN_CORRUPT or MN_NEWER. */
void ann_tuning_put(const struct ann_tuning *t, uint8_t out[TUNING_BYTES]);
mn_status ann_tuning_get(const uint8_t *bytes, size_t len, struct ann_tuning *t, mn_error *err);

#endif
