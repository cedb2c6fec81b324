/* The bytes of one posting's payload: codes, factors and ids of the rows of one centroid. Made
 * once, never changed in place; knows no files and no checksums (its extent has those), yet checks
 * everything that a scan relies on. See posting.c for the layout. */
#ifndef MN_INDEX_POSTING_H
#define MN_INDEX_POSTING_H

#include "index/rabitq.h"

enum {
    POSTING_BLOCK = 32,           /* rows of a block */
    POSTING_MAX_ROWS = 1 << 20,
    POSTING_HEADER = 128,         /* bytes */
    POSTING_MAX_PLANES = 3
};

/* A payload opened: pointers into the bytes, which must outlive it. */
struct posting_view {
    const uint8_t *blocks;   /* [ceil(n / 32)][block_bytes] */
    const uint8_t *records;  /* [n][record_bytes]; none if bits is 1 */
    const uint8_t *ids;      /* [n] of id_bits each: posting_id() */
    int64_t id_base, id_max; /* least and greatest id; 0 without rows */
    uint32_t n;
    uint32_t block_bytes, record_bytes;
    uint32_t dim;
    uint8_t bits, metric;    /* enum ann_metric */
    uint8_t id_bits;         /* of an id less id_base: 0 to 56, or 64 */
    float w_step;                       /* 1-bit factors: scale = w_step W, */
    float a_base, a_step;               /*                add = a_base + a_step A */
    float w2_step, a2_base, a2_step;    /* the same of the whole code */
    float sigma1, sigma2;    /* of both codes: rabitq_factors.sigma */
    float residual;          /* mean length of x - c */
    float w_inverse, w_per_a; /* 1 / (2^15 w_step), w_step / a_step */
};

/* Where the bits of a record's levels lie; see struct kernel_plane. */
struct posting_planes {
    uint32_t n;                /* 0 if bits is 1 */
    struct {
        uint32_t bits, weight, offset, bytes;
    } plane[POSTING_MAX_PLANES];
    uint32_t bytes;            /* of all planes: the factors follow */
};

static inline int64_t posting_id(const struct posting_view *v, size_t slot)
{
    uint64_t word, at = (uint64_t)slot * v->id_bits;
    __builtin_memcpy(&word, v->ids + at / 8, sizeof word);
    word = v->id_bits == 64 ? word : (word >> at % 8) & ((UINT64_C(1) << v->id_bits) - 1);
    return (int64_t)((uint64_t)v->id_base + word);
}

/* Pairs of a block: 8 sign bits a row each. */
static inline uint32_t posting_pairs(uint32_t dim)
{
    return (dim + CODE_PAIR_DIMS - 1) / CODE_PAIR_DIMS;
}

void posting_planes(uint32_t dim, uint32_t bits, struct posting_planes *out);

/* Bytes of a payload of n rows with ids of id_bits; 0 if an argument is out of range. */
size_t posting_bytes(uint32_t dim, uint32_t bits, uint32_t id_bits, size_t n);

/* Bits of each id in a payload whose ids lie within [least, greatest]. */
uint32_t posting_id_bits(int64_t least, int64_t greatest);

/* Checks the payload. Fails with MN_CORRUPT (says what was found and expected) or MN_NEWER. `seed`
 * is that of the rotation which it must have been made with. */
mn_status posting_open(const uint8_t *bytes, size_t len, uint64_t seed, struct posting_view *out,
                       mn_error *err);

struct posting_encoder; /* memory for making payloads; one thread's at a time */

/* For payloads of up to max_rows rows: about (32 + bits/8 dim) bytes a row, MN_TAG_SEARCH. Borrows
 * q. MN_INVALID or MN_NOMEM. */
mn_status posting_encoder_create(struct mn_alloc *a, const struct rabitq *q, size_t max_rows,
                                 struct posting_encoder **out, mn_error *err);
void posting_encoder_destroy(struct mn_alloc *a, struct posting_encoder *e); /* NULL is fine */

/* Starts a payload for the rows of a centroid [dim] (as it is, not rotated). */
void posting_begin(struct posting_encoder *e, const float *centroid);

/* Adds n rows: vectors [n][dim], finite (under cosine: of length 1), ids [n]. Slots count up in
 * this order. MN_FULL beyond max_rows: nothing was added. MN_INVALID for a row farther than 1e14
 * from the centroid, whose estimates could overflow: the rows before it were added. */
mn_status posting_add(struct posting_encoder *e, const float *vectors, const int64_t *ids, size_t n,
                      mn_error *err);

/* Adds the rows of another payload of the same centroid that are not in its hidden bitmap (NULL:
 * all), without their vectors: how folds join a base and its tails. Factors are rounded once more,
 * to 16 bits. MN_FULL, or MN_INVALID if its dim, bits or metric differ: nothing was added. */
mn_status posting_add_view(struct posting_encoder *e, const struct posting_view *v,
                           const uint64_t *hidden, mn_error *err);

size_t posting_encoded_rows(const struct posting_encoder *e);
size_t posting_encoded_bytes(const struct posting_encoder *e); /* of what was added */

/* Writes the payload: posting_encoded_bytes() at out, any alignment (64 is fastest to scan). The
 * encoder may be filled further, or begun anew. */
void posting_write(const struct posting_encoder *e, uint8_t *out);

#endif
