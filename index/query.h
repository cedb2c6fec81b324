/* One query against the codes of postings: prepared once, then scans parts and estimates the keys
 * of survivors. Knows no index and no results. One thread's at a time. See query.c for the
 * arithmetic. */
#ifndef MN_INDEX_QUERY_H
#define MN_INDEX_QUERY_H

#include "index/centroids.h"
#include "index/posting.h"
#include "index/rabitq.h"

enum { QUERY_SLICE = 2048 /* rows of a part that are scanned at a time; a multiple of 64 */ };

struct query {
    const struct rabitq *rabitq;
    const struct kernels *kn;
    float e1, e2;            /* bounds in standard deviations */
    float length2;           /* squared length of q' */
    float sum, abs_sum;      /* of its elements; of their magnitudes */
    float code_sum;          /* of its elements as the codes have them */
    struct centroid_query center;

    /* the 1-bit scan: <s, q'> = step (u - mean) */
    float step, mean;
    float lut_noise2;        /* variance of that */
    float rest, x_max;       /* see query.c */
    float x_scale, mul_scale;
    int16_t mid, shift;

    /* records: <k, q'> = code_step (dot_0 + dot_1 / 128) */
    struct posting_planes layout;
    uint32_t n_fine;         /* codes of the query: 1, or 2 where one is too coarse */
    float noise2;            /* variance of <y, q'> from rounding the query and the table */
    float exact_noise2;      /* the same without the table */
    struct kernel_plane plane[2][POSTING_MAX_PLANES];

    float *rotated;          /* q' [dim, padded to CODE_QUERY_PAD with zeros] */
    uint8_t *lut;            /* [pairs, padded to 2][32] */
    int8_t *code[2];         /* [dim, padded to 64, and 64 more] */
    int8_t *slices[2];       /* copies of the codes, as the planes take them */
};

/* Memory for queries of up to max_dim elements: about 20 bytes an element. */
mn_status query_create(struct mn_alloc *a, uint32_t max_dim, struct query **out, mn_error *err);
void query_destroy(struct mn_alloc *a, struct query *q); /* NULL is fine */

/* vector [dim], finite. r is borrowed until the next prepare. */
void query_prepare(struct query *q, const struct rabitq *r, const float *vector, float e1,
                   float e2);

/* Rows of a part that survived the scan of their 1-bit codes. */
struct scanned {
    const struct posting_view *view;
    const uint8_t *tags;     /* ann_fetched.tags */
    bool away;               /* the view's bytes go after this part */
    uint32_t posting, part;
    float g;                 /* the key's part that is the centroid's */
    float distance2;         /* what errors grow with: l2 |q - c|^2; ip |q|^2 */
    float g_noise;           /* how far g may be off */
    size_t first;            /* row; rows[] count from here */
    size_t n;
    uint32_t rows[QUERY_SLICE + SCAN_SLACK];
    uint32_t sums[QUERY_SLICE + SCAN_SLACK];
    int32_t dots[2][QUERY_SLICE];
    float estimate[QUERY_SLICE], bound[QUERY_SLICE];
    float high[QUERY_SLICE]; /* what the threshold may go by; see query.c */
};

/* Scans rows [s->first, s->first + count) of s->view, count <= QUERY_SLICE, first a multiple of 64,
 * all but those of the hidden bitmap (its first bit is that of s->first; or NULL): s->n survivors,
 * those whose key may be below `limit` (INFINITY: all). Of a block of 32 rows that are all hidden
 * nothing is read. */
void query_scan(const struct query *q, struct scanned *s, size_t count, const uint64_t *hidden,
                float limit);

/* Estimates the keys of the survivors by their whole codes, and bounds them. */
void query_estimate(const struct query *q, struct scanned *s, float limit);

#endif
