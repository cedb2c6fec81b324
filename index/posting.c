/*
 * A posting's payload, version 2. All numbers little-endian.
 *
 *     0  u32  magic "MPST"          4  u16  version       6  u16  bytes of this header
 *     8  u32  dim                  12  u8   metric       13  u8   bits       14  u16  0
 *    16  u64  seed of the rotation 24  u32  n, rows      28  u32  bytes of a record
 *    32  f32  w_step     36  f32  a_base     40  f32  a_step                (1-bit code)
 *    44  f32  w2_step    48  f32  a2_base    52  f32  a2_step               (whole code)
 *    56  f32  sigma1     60  f32  sigma2     64  f32  mean |x - c|          68  u32  bits of an id
 *    72  i64  least id   80  i64  greatest id                               88  zeros
 *   128  blocks [ceil(n / 32)], each for 32 rows:
 *            pairs x 32 bytes of signs, pairs = ceil(dim / 8); i16 W[32]; i16 A[32]
 *        records [n]: planes of levels, u16 A2, u16 W2; none if bits is 1
 *        zeros up to a multiple of 8; ids [n], less the least, of so many bits each, the first in
 *        the low bits of the first byte; zeros up to a byte; CODE_GUARD zeros
 *
 * Signs. Byte 16 h + place of pair p holds 4 dimensions, 8 p + 4 h from its low bit up, of row j in
 * its low nibble and of row j + 16 in the high one; the places of rows j = 0 .. 15 are 0, 2 .. 14
 * for rows 0 .. 7 and 1, 3 .. 15 for rows 8 .. 15. So one shuffle instruction looks up the table
 * entries of 16 rows, and 16-bit lanes split the sums into rows in order.
 *
 * Levels. The bits - 1 low bits k of an element (rabitq.c) are split into planes of 4, 2 and 1
 * bits, the highest first: 3 bits are one of 2 and one of 1. A plane of b bits has ceil(b dim / 8)
 * bytes: byte i holds elements i, i + bytes, ... from its low end; the plane of 1 bit is in order.
 *
 * Factors are linear in 16 bits, at scales of the posting: scale = w_step W with W >= 0,
 * add = a_base + a_step A; the same with the unsigned W2 and A2 of records. Half a step is the most
 * that rounding can move them, which the search adds to its bounds. So one row far out makes the
 * codes of its posting's other rows less useful, never wrong.
 *
 * Ids take as many bits as the widest of them needs, which of a million rows with ids from 1 on is
 * 20 instead of 64: they stand in memory beside the codes, where each byte of a row counts. More
 * than 56 bits are 64, so that any id is within the 8 bytes from its first on.
 *
 * Rows of a last block that are not there have zero codes and factors; readers go by n. Readers may
 * read CODE_GUARD bytes past a record, which is why zeros end the payload.
 */
#include "index/posting.h"

#include "storage/base/error.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "payloads are read in place: this needs a little-endian machine"
#endif

#define MAGIC UINT32_C(0x5453504d) /* "MPST" */

/* Squared lengths beyond this could overflow in estimates. */
#define MAX_NORM 1e28

enum { VERSION = 2, FACTOR_BYTES = POSTING_BLOCK * 4 };

/* ---- Layout ---------------------------------------------------------------------------------- */

void posting_planes(uint32_t dim, uint32_t bits, struct posting_planes *out)
{
    uint32_t left = bits - 1, at = 0;
    *out = (struct posting_planes){0};
    for (uint32_t b = 4; b; b /= 2)
        if (left >= b) {
            uint32_t bytes = (dim * b + 7) / 8;
            left -= b;
            out->plane[out->n].bits = b;
            out->plane[out->n].weight = left;
            out->plane[out->n].offset = at;
            out->plane[out->n].bytes = bytes;
            out->n++;
            at += bytes;
        }
    out->bytes = at;
}

/* Offsets of a payload's parts. */
struct layout {
    uint32_t block_bytes, record_bytes;
    size_t records, ids, end;
};

static bool layout_of(uint32_t dim, uint32_t bits, uint32_t id_bits, size_t n, struct layout *l)
{
    struct posting_planes planes;
    if (dim == 0 || dim > MN_MAX_DIM || bits == 0 || bits > RABITQ_MAX_BITS ||
        n > POSTING_MAX_ROWS || (id_bits > 56 && id_bits != 64))
        return false;
    posting_planes(dim, bits, &planes);
    l->block_bytes = posting_pairs(dim) * 32 + FACTOR_BYTES;
    l->record_bytes = bits > 1 ? planes.bytes + 4 : 0;
    l->records = POSTING_HEADER + (n + POSTING_BLOCK - 1) / POSTING_BLOCK * l->block_bytes;
    l->ids = (l->records + n * l->record_bytes + 7) & ~(size_t)7;
    l->end = l->ids + (n * id_bits + 7) / 8 + CODE_GUARD;
    return true;
}

size_t posting_bytes(uint32_t dim, uint32_t bits, uint32_t id_bits, size_t n)
{
    struct layout l;
    return layout_of(dim, bits, id_bits, n, &l) ? l.end : 0;
}

uint32_t posting_id_bits(int64_t least, int64_t greatest)
{
    uint64_t span = (uint64_t)greatest - (uint64_t)least;
    uint32_t bits = span ? 64 - (uint32_t)__builtin_clzll(span) : 0;
    return bits > 56 ? 64 : bits;
}

static uint16_t get_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static int64_t get_i64(const uint8_t *p)
{
    int64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float get_f32(const uint8_t *p)
{
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void put(uint8_t *p, const void *v, size_t bytes)
{
    memcpy(p, v, bytes);
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* A scale that hardly makes an estimate overflow. */
static bool sane(float v, bool sign)
{
    return isfinite(v) && fabsf(v) < 1e30f && (sign || v >= 0);
}

static mn_status open_factors(const uint8_t *b, struct posting_view *v, mn_error *err)
{
    static const struct {
        const char *name;
        bool sign;
    } field[9] = {{"w_step", false},  {"a_base", true},   {"a_step", false},
                  {"w2_step", false}, {"a2_base", true},  {"a2_step", false},
                  {"sigma1", false},  {"sigma2", false},  {"residual", false}};
    float *to[9] = {&v->w_step,  &v->a_base,  &v->a_step, &v->w2_step, &v->a2_base,
                    &v->a2_step, &v->sigma1, &v->sigma2, &v->residual};
    for (size_t i = 0; i < 9; i++) {
        *to[i] = get_f32(b + 32 + i * 4);
        if (!sane(*to[i], field[i].sign))
            return mn_fail(err, MN_CORRUPT, "posting: %s is %g", field[i].name, (double)*to[i]);
    }
    return MN_OK;
}

mn_status posting_open(const uint8_t *bytes, size_t len, uint64_t seed, struct posting_view *out,
                       mn_error *err)
{
    struct layout l;
    uint64_t made_with;
    *out = (struct posting_view){0};
    if (len < POSTING_HEADER)
        return mn_fail(err, MN_CORRUPT, "posting: %zu bytes, fewer than its header's %d", len,
                       POSTING_HEADER);
    if (get_u32(bytes) != MAGIC)
        return mn_fail(err, MN_CORRUPT, "posting: begins with %08" PRIx32 ", not with its magic %08"
                       PRIx32, get_u32(bytes), MAGIC);
    if (get_u16(bytes + 4) > VERSION)
        return mn_fail(err, MN_NEWER, "posting: version %u; this library reads %d",
                       get_u16(bytes + 4), VERSION);
    if (get_u16(bytes + 4) != VERSION || get_u16(bytes + 6) != POSTING_HEADER)
        return mn_fail(err, MN_CORRUPT, "posting: version %u with a header of %u bytes, not %d",
                       get_u16(bytes + 4), get_u16(bytes + 6), POSTING_HEADER);

    struct posting_view v = {.dim = get_u32(bytes + 8), .metric = bytes[12], .bits = bytes[13],
                             .n = get_u32(bytes + 24), .id_base = get_i64(bytes + 72),
                             .id_max = get_i64(bytes + 80)};
    uint32_t id_bits = get_u32(bytes + 68);
    if (v.metric > ANN_IP || !layout_of(v.dim, v.bits, id_bits, v.n, &l))
        return mn_fail(err, MN_CORRUPT,
                       "posting: dim %u, metric %u, %u bits, %u rows with ids of %u bits", v.dim,
                       v.metric, v.bits, v.n, id_bits);
    if (v.id_max < v.id_base || posting_id_bits(v.id_base, v.id_max) != id_bits)
        return mn_fail(err, MN_CORRUPT, "posting: ids from %" PRId64 " to %" PRId64 " in %u bits",
                       v.id_base, v.id_max, id_bits);
    v.id_bits = (uint8_t)id_bits;
    if (l.end != len || get_u32(bytes + 28) != l.record_bytes)
        return mn_fail(err, MN_CORRUPT,
                       "posting: %zu bytes with records of %u; %u rows of %u x %u bits take %zu "
                       "and %u", len, get_u32(bytes + 28), v.n, v.dim, v.bits, l.end,
                       l.record_bytes);
    memcpy(&made_with, bytes + 16, sizeof made_with);
    if (made_with != seed)
        return mn_fail(err, MN_CORRUPT, "posting: made with rotation %016" PRIx64 ", not %016"
                       PRIx64, made_with, seed);
    mn_status st = open_factors(bytes, &v, err);
    if (st)
        return st;
    v.w_inverse = v.w_step > 0 ? 1 / (v.w_step * 32768) : 0;
    v.w_per_a = v.a_step > 0 ? v.w_step / v.a_step : INFINITY;
    v.block_bytes = l.block_bytes;
    v.record_bytes = l.record_bytes;
    v.blocks = bytes + POSTING_HEADER;
    v.records = bytes + l.records;
    v.ids = bytes + l.ids;
    *out = v;
    return MN_OK;
}

/* ---- Making ---------------------------------------------------------------------------------- */

struct row_factors {
    float w, a, w2, a2;
};

struct posting_encoder {
    struct mn_alloc *alloc;
    const struct rabitq *q;
    struct posting_planes planes;
    uint32_t block_bytes, record_bytes;
    size_t n, max_rows;
    double sum_sigma1, sum_sigma2, sum_residual; /* squares; over the rows */
    float *center, *residual;                    /* [dim] */
    uint8_t *level;                              /* [dim] */
    uint8_t *blocks, *records;                   /* as in the payload, factors left out */
    int64_t *ids;                                /* [max_rows] */
    struct row_factors *factors;                 /* [max_rows] */
};

void posting_encoder_destroy(struct mn_alloc *a, struct posting_encoder *e)
{
    if (!e)
        return;
    mn_free(a, e->center);
    mn_free(a, e->residual);
    mn_free(a, e->level);
    mn_free(a, e->blocks);
    mn_free(a, e->records);
    mn_free(a, e->ids);
    mn_free(a, e->factors);
    mn_free(a, e);
}

mn_status posting_encoder_create(struct mn_alloc *a, const struct rabitq *q, size_t max_rows,
                                 struct posting_encoder **out, mn_error *err)
{
    struct layout l;
    *out = NULL;
    if (max_rows == 0 || !layout_of(q->dim, q->bits, 64, max_rows, &l))
        return mn_fail(err, MN_INVALID, "a posting may hold 1 to %d rows, not %zu",
                       POSTING_MAX_ROWS, max_rows);
    struct posting_encoder *e = mn_alloc_array(a, 1, sizeof *e, MN_TAG_SEARCH);
    if (!e)
        goto nomem;
    e->alloc = a;
    e->q = q;
    e->max_rows = max_rows;
    e->block_bytes = l.block_bytes;
    e->record_bytes = l.record_bytes;
    posting_planes(q->dim, q->bits, &e->planes);
    e->center = mn_alloc_array(a, q->dim, sizeof(float), MN_TAG_SEARCH);
    e->residual = mn_alloc_array(a, q->dim, sizeof(float), MN_TAG_SEARCH);
    e->level = mn_alloc_array(a, q->dim, 1, MN_TAG_SEARCH);
    e->blocks = mn_alloc(a, l.records - POSTING_HEADER, MN_TAG_SEARCH);
    e->records = mn_alloc(a, max_rows * l.record_bytes, MN_TAG_SEARCH);
    e->ids = mn_alloc_array(a, max_rows, sizeof *e->ids, MN_TAG_SEARCH);
    e->factors = mn_alloc_array(a, max_rows, sizeof *e->factors, MN_TAG_SEARCH);
    if (e->center && e->residual && e->level && e->blocks && e->records && e->ids && e->factors) {
        *out = e;
        return MN_OK;
    }
    posting_encoder_destroy(a, e);
nomem:
    return mn_fail(err, MN_NOMEM, "no memory to encode a posting of %zu rows of %u elements",
                   max_rows, q->dim);
}

void posting_begin(struct posting_encoder *e, const float *centroid)
{
    e->n = 0;
    e->sum_sigma1 = e->sum_sigma2 = e->sum_residual = 0;
    rabitq_rotate(e->q, centroid, e->center);
}

size_t posting_encoded_rows(const struct posting_encoder *e)
{
    return e->n;
}

/* Least and greatest id; 0 without rows. */
static void id_range(const struct posting_encoder *e, int64_t *least, int64_t *greatest)
{
    *least = *greatest = e->n ? e->ids[0] : 0;
    for (size_t i = 1; i < e->n; i++) {
        *least = e->ids[i] < *least ? e->ids[i] : *least;
        *greatest = e->ids[i] > *greatest ? e->ids[i] : *greatest;
    }
}

size_t posting_encoded_bytes(const struct posting_encoder *e)
{
    int64_t least, greatest;
    id_range(e, &least, &greatest);
    return posting_bytes(e->q->dim, e->q->bits, posting_id_bits(least, greatest), e->n);
}

/* The next slot's block, cleared if the slot is its first. */
static uint8_t *slot_block(struct posting_encoder *e)
{
    uint8_t *block = e->blocks + e->n / POSTING_BLOCK * e->block_bytes;
    if (e->n % POSTING_BLOCK == 0)
        memset(block, 0, e->block_bytes);
    return block;
}

/* Byte and shift of the nibble of a slot, within 16 bytes. */
static size_t place(size_t slot, unsigned *shift)
{
    size_t r = slot % POSTING_BLOCK;
    *shift = r >= 16 ? 4 : 0;
    return r % 8 * 2 + r / 8 % 2;
}

static void put_signs(uint8_t *block, size_t slot, const float *r, uint32_t dim)
{
    unsigned shift;
    uint8_t *to = block + place(slot, &shift);
    for (uint32_t d = 0; d < dim; d += 4, to += 16) {
        unsigned nibble = 0;
        for (uint32_t b = 0; b < 4 && d + b < dim; b++)
            nibble |= (signbit(r[d + b]) ? 0u : 1u) << b;
        *to = (uint8_t)(*to | nibble << shift);
    }
}

static void put_levels(uint8_t *record, const struct posting_planes *planes, const uint8_t *level,
                       uint32_t dim)
{
    memset(record, 0, planes->bytes);
    for (uint32_t p = 0; p < planes->n; p++) {
        uint32_t bits = planes->plane[p].bits, bytes = planes->plane[p].bytes;
        uint32_t weight = planes->plane[p].weight, mask = (1u << bits) - 1;
        uint8_t *to = record + planes->plane[p].offset;
        for (uint32_t d = 0; bits == 1 && d < dim; d++)
            to[d / 8] = (uint8_t)(to[d / 8] | (level[d] >> weight & 1) << d % 8);
        for (uint32_t d = 0, shift = 0; bits > 1 && d < dim; shift += bits)
            for (uint32_t i = 0; i < bytes && d < dim; i++, d++)
                to[i] = (uint8_t)(to[i] | (level[d] >> weight & mask) << shift);
    }
}

static mn_status check_room(const struct posting_encoder *e, size_t n, mn_error *err)
{
    if (n <= e->max_rows - e->n)
        return MN_OK;
    return mn_fail(err, MN_FULL, "a posting of at most %zu rows has %zu and was given %zu more",
                   e->max_rows, e->n, n);
}

/* x -= c; the squared length of that, in sums that need not wait for each other. */
static double subtract(float *x, const float *c, uint32_t dim)
{
    enum { LANES = 8 };
    double lanes[LANES] = {0};
    uint32_t d = 0;
    for (; d + LANES <= dim; d += LANES)
        for (uint32_t j = 0; j < LANES; j++) {
            x[d + j] -= c[d + j];
            lanes[j] += (double)x[d + j] * (double)x[d + j];
        }
    for (; d < dim; d++) {
        x[d] -= c[d];
        lanes[0] += (double)x[d] * (double)x[d];
    }
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
           ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

mn_status posting_add(struct posting_encoder *e, const float *vectors, const int64_t *ids, size_t n,
                      mn_error *err)
{
    uint32_t dim = e->q->dim;
    mn_status st = check_room(e, n, err);
    if (st)
        return st;
    for (size_t i = 0; i < n; i++, vectors += dim, e->n++) {
        struct rabitq_factors one, all;
        rabitq_rotate(e->q, vectors, e->residual);
        double norm = subtract(e->residual, e->center, dim);
        if (!(norm < MAX_NORM))
            return mn_fail(err, MN_INVALID,
                           "row %" PRId64 ": its distance to the centroid is %g; an index holds "
                           "vectors up to %g: scale them down", ids[i], sqrt(norm),
                           sqrt(MAX_NORM));
        rabitq_encode(e->q, e->residual, e->center, e->level, &one, &all);
        put_signs(slot_block(e), e->n, e->residual, dim);
        if (e->record_bytes)
            put_levels(e->records + e->n * e->record_bytes, &e->planes, e->level, dim);
        e->ids[e->n] = ids[i];
        e->factors[e->n] = (struct row_factors){one.scale, one.add, all.scale, all.add};
        e->sum_sigma1 += (double)one.sigma * (double)one.sigma;
        e->sum_sigma2 += (double)all.sigma * (double)all.sigma;
        e->sum_residual += sqrt(norm);
    }
    return MN_OK;
}

static bool is_hidden(const uint64_t *hidden, size_t row)
{
    return hidden && (hidden[row / 64] >> row % 64 & 1);
}

static void copy_row(struct posting_encoder *e, const struct posting_view *v, size_t row)
{
    unsigned from_shift, to_shift;
    const uint8_t *from_block = v->blocks + row / POSTING_BLOCK * v->block_bytes;
    const uint8_t *f = from_block + v->block_bytes - FACTOR_BYTES;
    const uint8_t *from = from_block + place(row, &from_shift);
    uint8_t *to = slot_block(e) + place(e->n, &to_shift);
    for (uint32_t g = 0; g < 2 * posting_pairs(v->dim); g++, from += 16, to += 16)
        *to = (uint8_t)(*to | (*from >> from_shift & 15) << to_shift);

    size_t r = row % POSTING_BLOCK * 2;
    struct row_factors *to_f = &e->factors[e->n];
    to_f->w = v->w_step * (float)(int16_t)get_u16(f + r);
    to_f->a = v->a_base + v->a_step * (float)(int16_t)get_u16(f + 2 * POSTING_BLOCK + r);
    to_f->w2 = to_f->w;
    to_f->a2 = to_f->a;
    if (v->record_bytes) {
        const uint8_t *record = v->records + row * v->record_bytes;
        memcpy(e->records + e->n * e->record_bytes, record, e->planes.bytes);
        to_f->a2 = v->a2_base + v->a2_step * (float)get_u16(record + e->planes.bytes);
        to_f->w2 = v->w2_step * (float)get_u16(record + e->planes.bytes + 2);
    }
    if (to_f->w < 0)
        to_f->w = 0; /* no payload of ours has one */
    e->ids[e->n] = posting_id(v, row);
    e->sum_sigma1 += (double)v->sigma1 * (double)v->sigma1;
    e->sum_sigma2 += (double)v->sigma2 * (double)v->sigma2;
    e->sum_residual += (double)v->residual;
    e->n++;
}

mn_status posting_add_view(struct posting_encoder *e, const struct posting_view *v,
                           const uint64_t *hidden, mn_error *err)
{
    if (v->n && (v->dim != e->q->dim || v->bits != e->q->bits || v->metric != e->q->metric))
        return mn_fail(err, MN_INVALID,
                       "a posting of dim %u, %u bits, metric %u cannot join one of %u, %u, %u",
                       v->dim, v->bits, v->metric, e->q->dim, e->q->bits,
                       (unsigned)e->q->metric);
    size_t live = 0;
    for (uint32_t i = 0; i < v->n; i++)
        live += !is_hidden(hidden, i);
    mn_status st = check_room(e, live, err);
    for (uint32_t i = 0; !st && i < v->n; i++)
        if (!is_hidden(hidden, i))
            copy_row(e, v, i);
    return st;
}

/* Steps of 16-bit numbers that span the rows' factors. */
struct steps {
    float w, a_base, a, w2, a2_base, a2;
};

static struct steps find_steps(const struct posting_encoder *e)
{
    float w = 0, w2 = 0, low = 0, high = 0, low2 = 0, high2 = 0;
    for (size_t i = 0; i < e->n; i++) {
        const struct row_factors *f = &e->factors[i];
        w = fmaxf(w, f->w);
        w2 = fmaxf(w2, f->w2);
        low = i ? fminf(low, f->a) : f->a;
        high = i ? fmaxf(high, f->a) : f->a;
        low2 = i ? fminf(low2, f->a2) : f->a2;
        high2 = i ? fmaxf(high2, f->a2) : f->a2;
    }
    return (struct steps){.w = w / 32767, .a_base = low + (high - low) / 2,
                          .a = (high - low) / 2 / 32767, .w2 = w2 / 65535, .a2_base = low2,
                          .a2 = (high2 - low2) / 65535};
}

static long rounded(float v, float step, long least, long most)
{
    long n = step > 0 ? lrintf(v / step) : 0;
    return n < least ? least : n > most ? most : n;
}

static void put_factors(const struct posting_encoder *e, const struct steps *s, size_t i,
                        uint8_t *blocks, uint8_t *records)
{
    const struct row_factors *f = &e->factors[i];
    uint8_t *to = blocks + i / POSTING_BLOCK * e->block_bytes + e->block_bytes - FACTOR_BYTES;
    size_t r = i % POSTING_BLOCK * 2;
    int16_t w = (int16_t)rounded(f->w, s->w, 0, 32767);
    int16_t a = (int16_t)rounded(f->a - s->a_base, s->a, -32767, 32767);
    put(to + r, &w, 2);
    put(to + 2 * POSTING_BLOCK + r, &a, 2);
    if (e->record_bytes) {
        uint16_t w2 = (uint16_t)rounded(f->w2, s->w2, 0, 65535);
        uint16_t a2 = (uint16_t)rounded(f->a2 - s->a2_base, s->a2, 0, 65535);
        uint8_t *record = records + i * e->record_bytes;
        put(record + e->planes.bytes, &a2, 2);
        put(record + e->planes.bytes + 2, &w2, 2);
    }
}

/* The ids into zeroed bytes. */
static void put_ids(const struct posting_encoder *e, int64_t base, uint32_t bits, uint8_t *out)
{
    for (size_t i = 0, at = 0; i < e->n && bits; i++, at += bits) {
        uint64_t word;
        memcpy(&word, out + at / 8, sizeof word);
        word |= ((uint64_t)e->ids[i] - (uint64_t)base) << at % 8;
        memcpy(out + at / 8, &word, sizeof word);
    }
}

void posting_write(const struct posting_encoder *e, uint8_t *out)
{
    struct layout l;
    const struct rabitq *q = e->q;
    const struct steps s = find_steps(e);
    int64_t least, greatest;
    id_range(e, &least, &greatest);
    const uint32_t id_bits = posting_id_bits(least, greatest);
    bool fits = layout_of(q->dim, q->bits, id_bits, e->n, &l);
    assert(fits);
    (void)fits;
    double n = e->n ? (double)e->n : 1;
    const float f[9] = {s.w, s.a_base, s.a, s.w2, s.a2_base, s.a2, (float)sqrt(e->sum_sigma1 / n),
                        (float)sqrt(e->sum_sigma2 / n), (float)(e->sum_residual / n)};
    const uint32_t magic = MAGIC, rows = (uint32_t)e->n;
    const uint16_t version = VERSION, header = POSTING_HEADER;

    memset(out, 0, POSTING_HEADER);
    put(out, &magic, 4);
    put(out + 4, &version, 2);
    put(out + 6, &header, 2);
    put(out + 8, &q->dim, 4);
    out[12] = (uint8_t)q->metric;
    out[13] = (uint8_t)q->bits;
    put(out + 16, &q->seed, 8);
    put(out + 24, &rows, 4);
    put(out + 28, &l.record_bytes, 4);
    put(out + 32, f, sizeof f);
    put(out + 68, &id_bits, 4);
    put(out + 72, &least, 8);
    put(out + 80, &greatest, 8);
    memcpy(out + POSTING_HEADER, e->blocks, l.records - POSTING_HEADER);
    memcpy(out + l.records, e->records, e->n * l.record_bytes);
    for (size_t i = 0; i < e->n; i++)
        put_factors(e, &s, i, out + POSTING_HEADER, out + l.records);
    size_t written = l.records + e->n * l.record_bytes;
    memset(out + written, 0, l.end - written);
    put_ids(e, least, id_bits, out + l.ids);
}
