/* Kernels of codes: rotation, making and reading RaBitQ codes, choosing postings. Part of
 * kernels.h, whose rules hold here too. Integer results are the same on every instruction set; so
 * are those of fht, multiply, turn, level and lut, whose floating point steps are fixed. The others
 * differ by rounding. The formulas stand in index/rabitq.c and index/ann.c, layouts in
 * index/posting.c and index/centroids.c. */
#ifndef MN_INDEX_KERNELS_CODES_H
#define MN_INDEX_KERNELS_CODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CODE_PAIR_DIMS = 8,     /* elements of a pair: two groups of 4 sign bits */
    CODE_QUERY_PAD = 16,    /* queries are padded with zeros to a multiple of this */
    CODE_RUN = 8,           /* table entries that are added in 8 bits */
    SCAN_SLACK = 16,        /* entries beyond the last survivor that a scan may write */
    CODE_GUARD = 64,        /* bytes after the last record of a payload that may be read */
    CENTROID_LANES = 16,    /* centroids of a block */
    CENTROID_ZERO = 64      /* code of 0: codes are 1 .. 127 */
};

/* The sums of 1-bit codes that a scan adds up in 8 bits, at most CODE_RUN entries: those of pairs
 * [8i, 8i + 8) and those of the even and of the odd pairs of [16i, 16i + 16), each of one half of
 * the pair. None of them, nor the whole sum in 16 bits, may overflow: index/ann.c sees to it. */
struct kernel_scan {
    const uint8_t *blocks;   /* of 32 rows: 32 bytes a pair, 32 x i16 W, 32 x i16 A */
    const uint8_t *lut;      /* [pairs, rounded up to even][2][16] */
    const uint64_t *hidden;  /* rows to leave out; or NULL */
    const uint8_t *records;  /* of survivors, fetched ahead; never NULL */
    size_t record_bytes;     /* at least 1 */
    size_t n, pairs;
    bool all;                /* every row survives; the rest of the test is void */
    int16_t center, shift;   /* v = (u - center) << shift, >> if negative */
    int16_t mul, add;        /* x = v mul / 2^15 + add */
    int16_t unit, limit;     /* a row survives if x W / 2^15 > A unit / 2^15 + limit */
    uint32_t *rows;          /* out [n + SCAN_SLACK]: survivors, ascending; then anything */
    uint32_t *sums;          /* out [n + SCAN_SLACK]: their u, the sum of table entries */
};
typedef size_t (*kernel_scan_fn)(const struct kernel_scan *s);

/* Bits of a level that lie in one plane of a record: of 4, 2 or 1 bits. Byte i of a plane of b bits
 * holds, from its low end, elements i, i + bytes, i + 2 bytes ..; that of 1 bit 8i .. 8i + 7. */
struct kernel_plane {
    uint32_t bits, weight;   /* the plane's value counts 2^weight */
    uint32_t offset, bytes;  /* in the record */
    const int8_t *query;     /* [8 / bits][slice], zeros beyond the elements; 1 bit: as it is */
    uint32_t slice;          /* bytes rounded up to a multiple of 64; to 32 if that is enough */
};

/* out[i] = sum of level * query over the elements of record rows[i]; up to CODE_GUARD bytes past a
 * record are read. */
typedef void (*kernel_levels_fn)(const uint8_t *records, size_t record_bytes, const uint32_t *rows,
                                 size_t n, const struct kernel_plane *planes, size_t n_planes,
                                 int32_t *out);

/* Table of the sums of +-q over groups of 4 elements, shifted to minimum 0, in units 1 / scale:
 * lut[dim / 4][16]; dim a multiple of CODE_QUERY_PAD. Returns the sum of all entries. */
typedef uint32_t (*kernel_lut_fn)(const float *q, size_t dim, float scale, uint8_t *lut);

/* out[i] = round(x[i] scale) within +-127; the sum of all. */
typedef int32_t (*kernel_quantise_fn)(const float *x, size_t n, float scale, int8_t *out);

/* Hadamard transform in place, not scaled; n a power of two. */
typedef void (*kernel_fht_fn)(float *x, size_t n);
typedef void (*kernel_multiply_fn)(float *x, const float *by, size_t n);
/* (x, y) = (x + y, x - y) sqrt(1/2) */
typedef void (*kernel_turn_fn)(float *x, float *y, size_t n);

/* With v = min(floor(|r| t), top) + 1/2: sums of v |r| and of v^2. */
typedef void (*kernel_fit_fn)(const float *r, size_t n, float t, float top, float *dot,
                              float *norm);
/* min(floor(|r| t), top), for negative r (the sign bit decides) subtracted from top. */
typedef void (*kernel_level_fn)(const float *r, size_t n, float t, float top, uint8_t *out);

/* out[j] = max(least, base + norm[j] + by scale[j] (codes of j - CENTROID_ZERO) . query) */
struct kernel_centroids {
    const uint8_t *codes;    /* [blocks][quads][CENTROID_LANES][4] */
    const float *scale, *norm;
    size_t blocks, quads;
    const int8_t *query;     /* [4 quads], aligned to 4 */
    int32_t query_sum;
    float base, by, least;
    float *out;              /* [CENTROID_LANES blocks] */
};
typedef void (*kernel_centroids_fn)(const struct kernel_centroids *c);

/* out[i] = codes of row which[i] . query; codes below 128. */
struct kernel_gather {
    const uint8_t *rows;     /* stride bytes each, aligned to 64 */
    size_t stride;           /* a multiple of 64 */
    const int8_t *query;     /* [stride] */
    const uint32_t *which;   /* [n] */
    size_t n;
    int32_t *out;            /* [n] */
};
typedef void (*kernel_gather_fn)(const struct kernel_gather *g);

/* out[j] = exp2(-rate u^2), about, at most 1, with u = max(0, g[j] + m[j] - limit) r[j] / length;
 * length^2 is g[j], or 1 / inv if inv is not 0. Returns the sum of out[j] count[j]; n a multiple of
 * 16, arrays aligned to 64. */
struct kernel_weigh {
    const float *g, *m, *r, *count;
    size_t n;
    float limit, rate, inv;
    float *out;
};
typedef float (*kernel_weigh_fn)(const struct kernel_weigh *w);

/* Index of the least half[j] - dots[j], the first of equals, and that value; n a multiple of 16,
 * arrays aligned to 64. With half the squared norms of centroids: the nearest one. */
typedef size_t (*kernel_closest_fn)(const float *dots, const float *half, size_t n, float *value);

/* Leaves those bits of match that belong to rows whose value v has v - low <= span in 16 bits and
 * is not `hole`, or is 65535, which stands for any. Values may be read up to a multiple of 64, and
 * bits beyond n are cleared. */
struct kernel_select {
    const uint16_t *values;
    size_t n;
    uint16_t low, span, hole;
    uint64_t *match;         /* [(n + 63) / 64], in and out */
};
typedef void (*kernel_select_fn)(const struct kernel_select *s);

/* out[i] *= each[i] times the number of bits that have[i] and `may` have in common; n a multiple of
 * 16, arrays aligned to 64. */
typedef void (*kernel_common_fn)(const uint64_t *have, uint64_t may, const float *each, size_t n,
                                 float *out);

/* Index of the least of n values, the first of equals; n a multiple of 16, x aligned to 64. */
typedef size_t (*kernel_least_fn)(const float *x, size_t n);

#endif
