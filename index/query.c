/*
 * The arithmetic of a query. Symbols as in rabitq.c; u is the sum of a row's table entries.
 *
 * Table. For a group of 4 elements the 16 sums of +-q'_i are shifted to minimum 0 and rounded in
 * units of `step`. The mean of <s, q'> over all s is 0, so <s, q'> = step (u - mean), with the mean
 * of the rounded entries: off by step sqrt(groups / 12), without bias. The step is the least for
 * which no sum of CODE_RUN entries that a kernel adds in 8 bits, nor u in 16, overflows.
 *
 * Test of the 1-bit code, in 16 bits. A row survives if estimate - e1 sd < limit, that is, if
 *
 *     w (<s, q'> + e1 sqrt(sigma1^2 d + lut_noise2)) > add + g - limit - slack
 *
 * with d = |q - c|^2 (ip: |q|^2), w and add the row's factors. The kernel computes
 * v = (u - mid) 2^shift, x = v mul / 2^15 + add', and x W / 2^15 > A unit / 2^15 + lim, where x is
 * in units 1 / x_scale, and both sides in units 1 / scale, scale = x_scale / (2^15 w_step). x_scale
 * is the largest for which nothing overflows:
 *   - x within +-32,000: x_scale <= 32000 / (sum |q'| + rounding + e1 sd);
 *   - mul = 2^15 step / 2^shift x_scale below 2^15;
 *   - unit = 2^15 a_step scale below 2^15: x_scale <= 2^15 w_step / a_step;
 *   - lim above -2^15 (one that is too large by saturation would lose rows; one that is too small
 *     keeps some more).
 * Slack covers the rounding of factors, of x and of products, and the centroid's error.
 *
 * Estimate by the whole code, from (1) in rabitq.c:
 *
 *     <y, q'> = 2^(B-2) <s, q'> + <k - (2^(B-2) - 1/2), q'>
 *
 * The query is rounded to 8 bits for the second product, from 6 bits on to two times 7; the
 * constant in it, the mean of k, meets the rounded query too, lest its error be common to all rows.
 * Up to 4 bits the table's error, 2^(B-2) step sqrt(groups / 12), is small enough beside the code's
 * own, and is added to the bound's deviation. From 5 bits on <s, q'> is computed anew from the
 * row's signs, for rows that the bound with that error lets through.
 *
 * High. The k-th least estimate of many rows is below the k-th least key, the more so the larger
 * the errors are against what sets the rows apart. A threshold taken from estimates would then
 * drop true neighbours whose bound is above it. With 4 bits and more that costs nothing to speak
 * of; with fewer the threshold goes by estimate + a part of the deviation (`lift`). And where the
 * rounding of the query dominates (a clump of rows far from the origin), or that of the centroid,
 * all of that is added: there codes tell nothing, and exact keys must decide.
 */
#include "index/query.h"

#include "storage/base/error.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

enum {
    TWO_CODES = 6,  /* bits from which one 8-bit code of the query is too coarse */
    EXACT_SIGNS = 5 /* bits from which the table is too coarse */
};

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

void query_destroy(struct mn_alloc *a, struct query *q)
{
    if (!q)
        return;
    for (int i = 0; i < 2; i++) {
        mn_free(a, q->code[i]);
        mn_free(a, q->slices[i]);
    }
    mn_free(a, q->rotated);
    mn_free(a, q->lut);
    mn_free(a, q);
}

mn_status query_create(struct mn_alloc *a, uint32_t max_dim, struct query **out, mn_error *err)
{
    size_t dims = round_up(max_dim, 64);
    struct query *q = mn_alloc_array(a, 1, sizeof *q, MN_TAG_SEARCH);
    bool ok = q;
    *out = NULL;
    for (int i = 0; ok && i < 2; i++) {
        q->code[i] = mn_alloc_array(a, dims + 64, 1, MN_TAG_SEARCH);
        /* planes of 4 and 2 bits: 2 and 4 slices, each padded to 64 */
        q->slices[i] = mn_alloc_array(a, 2 * dims + 6 * 64, 1, MN_TAG_SEARCH);
        ok = q->code[i] && q->slices[i];
    }
    if (ok) {
        q->rotated = mn_alloc_array(a, dims, sizeof(float), MN_TAG_SEARCH);
        q->lut = mn_alloc_array(a, dims / CODE_PAIR_DIMS * 32, 1, MN_TAG_SEARCH);
        ok = q->rotated && q->lut;
    }
    if (!ok) {
        query_destroy(a, q);
        return mn_fail(err, MN_NOMEM, "no memory for queries of %u elements", max_dim);
    }
    *out = q;
    return MN_OK;
}

/* ---- Preparing ------------------------------------------------------------------------------- */

/* Most of a run's entries, added up: twice the magnitudes of the elements that they stand for. */
static float longest_run(const float *x, uint32_t dim)
{
    float near[2] = {0, 0}, apart[2][2] = {{0, 0}, {0, 0}}, most = 0;
    for (uint32_t d = 0, p = 0; d < dim; d += CODE_PAIR_DIMS, p++) {
        if (p % CODE_RUN == 0)
            near[0] = near[1] = 0;
        if (p % (2 * CODE_RUN) == 0)
            memset(apart, 0, sizeof apart);
        for (uint32_t half = 0; half < 2; half++) {
            const float *v = x + d + half * 4;
            float size = (fabsf(v[0]) + fabsf(v[1])) + (fabsf(v[2]) + fabsf(v[3]));
            near[half] += size;
            apart[p % 2][half] += size;
            most = fmaxf(most, fmaxf(near[half], apart[p % 2][half]));
        }
    }
    return 2 * most;
}

static void prepare_lut(struct query *q, uint32_t dim)
{
    float groups = (float)((dim + 3) / 4);
    /* each entry rounds up by at most 1/2 */
    float step = fmaxf(longest_run(q->rotated, dim) / (255 - 0.5f * CODE_RUN - 0.5f),
                       2 * q->abs_sum / (65000 - 0.5f * groups));
    step = fmaxf(step, FLT_MIN * 16);
    uint32_t total =
        q->kn->lut(q->rotated, round_up(dim, CODE_QUERY_PAD), 1 / step, q->lut);
    q->mean = (float)total / 16;
    float mid = rintf(q->mean), half = q->abs_sum / step + 0.5f * groups + 2;
    q->step = step;
    q->lut_noise2 = step * step * groups / 12;
    q->mid = (int16_t)mid;
    q->rest = (mid - q->mean) * step;
    q->shift = 0;
    while (half * 2 <= 32767) {
        half *= 2;
        q->shift++;
    }
    while (half > 32767) {
        half /= 2;
        q->shift--;
    }
    q->x_max = q->abs_sum + (0.5f * groups + 2) * step;
    q->mul_scale = ldexpf(step, 15 - q->shift);
    q->x_scale = 32700 / q->mul_scale;
}

/* The query's codes, cut and padded as planes take them. */
static void prepare_planes(struct query *q, uint32_t dim, uint32_t fine)
{
    int8_t *to = q->slices[fine];
    for (uint32_t i = 0; i < q->layout.n; i++) {
        uint32_t bits = q->layout.plane[i].bits, bytes = q->layout.plane[i].bytes;
        struct kernel_plane *p = &q->plane[fine][i];
        *p = (struct kernel_plane){.bits = bits, .weight = q->layout.plane[i].weight,
                                   .offset = q->layout.plane[i].offset, .bytes = bytes,
                                   .query = q->code[fine]};
        if (bits == 1)
            continue;
        p->query = to;
        p->slice = (uint32_t)round_up(bytes, bytes <= 32 ? 32 : 64);
        for (uint32_t d = 0; d < 8 / bits * bytes; d += bytes, to += p->slice) {
            uint32_t n = d >= dim ? 0 : dim - d < bytes ? dim - d : bytes;
            memcpy(to, q->code[fine] + d, n);
            memset(to + n, 0, p->slice - n);
        }
    }
}

static void prepare_codes(struct query *q, uint32_t dim, uint32_t bits, float max)
{
    float step = fmaxf(max / 127, FLT_MIN * 256);
    uint32_t padded = (uint32_t)round_up(dim, 64) + 64;
    q->center.code = q->code[0];
    q->center.code_sum = q->kn->quantise(q->rotated, dim, 1 / step, q->code[0]);
    q->center.step = step;
    q->code_sum = step * (float)q->center.code_sum;
    memset(q->code[0] + dim, 0, padded - dim);
    if (bits == 1)
        return;
    posting_planes(dim, bits, &q->layout);
    prepare_planes(q, dim, 0);
    q->n_fine = bits >= TWO_CODES ? 2 : 1;
    if (q->n_fine == 2) {
        int32_t sum = 0;
        for (uint32_t i = 0; i < dim; i++) {
            float rest = q->rotated[i] / step - (float)q->code[0][i];
            q->code[1][i] = (int8_t)lrintf(rest * 127);
            sum += q->code[1][i];
        }
        q->code_sum += step / 127 * (float)sum;
        memset(q->code[1] + dim, 0, padded - dim);
        prepare_planes(q, dim, 1);
        step /= 127;
    }
    /* levels are about uniform: their mean square is a third of the largest's */
    float top = (float)(1u << (bits - 1));
    q->exact_noise2 = top * top / 3 * (float)dim * step * step / 12;
    q->noise2 = q->exact_noise2 + top * top / 4 * q->lut_noise2;
}

void query_prepare(struct query *q, const struct rabitq *r, const float *vector, float e1, float e2)
{
    uint32_t dim = r->dim, padded = (uint32_t)round_up(dim, CODE_QUERY_PAD);
    float max = 0, sum = 0, abs_sum = 0, base = 0;
    q->rabitq = r;
    q->kn = r->kn;
    q->e1 = r->bits == 1 ? fmaxf(e1, e2) : e1; /* of one bit, it is the last bound */
    q->e2 = e2;
    if (r->metric == ANN_L2) {
        rabitq_rotate(r, vector, q->rotated);
    } else {
        memcpy(q->rotated, vector, dim * sizeof *vector);
        rotation_apply(r->rotation, r->kn, q->rotated);
        r->kn->dot[ELEM_F32](vector, r->origin, dim * sizeof *vector, 1, dim, &base);
    }
    for (uint32_t i = dim; i < padded; i++)
        q->rotated[i] = 0;
    for (uint32_t i = 0; i < dim; i++) {
        float size = fabsf(q->rotated[i]);
        max = size > max ? size : max;
        sum += q->rotated[i];
        abs_sum += size;
    }
    r->kn->norm[ELEM_F32](q->rotated, dim * sizeof(float), 1, dim, &q->length2);
    q->center.base = r->metric == ANN_L2 ? q->length2 : -base;
    q->sum = sum;
    q->abs_sum = abs_sum;
    prepare_lut(q, dim);
    prepare_codes(q, dim, r->bits, max);
}

/* ---- Scanning -------------------------------------------------------------------------------- */

/* How much the rounding of a part's 1-bit factors may move an estimate. */
static float factor_slack(const struct query *q, const struct posting_view *v)
{
    return 0.5f * (v->a_step + v->w_step * q->x_max);
}

/* Rounded, within 16 bits. Without libm, whose calls were a tenth of the cost of a small part. */
static int16_t to_i16(float v)
{
    v = v > 32767 ? 32767 : v < -32768 ? -32768 : v;
    return (int16_t)((int32_t)(v + 32768.5f) - 32768);
}

static float least(float a, float b)
{
    return a < b ? a : b;
}

/* The constants of the test; false if no row can pass. */
static bool set_test(const struct query *q, const struct scanned *s, float limit,
                     struct kernel_scan *k)
{
    const struct posting_view *v = s->view;
    float spread = q->e1 * sqrtf(v->sigma1 * v->sigma1 * s->distance2 + q->lut_noise2);
    float x_max = q->x_max + spread, bar = s->g + v->a_base - limit;
    float reach = 32767 * v->w_step * x_max, a_range = 32767 * v->a_step;
    float slack = factor_slack(q, v) + s->g_noise;
    k->all = false;
    if (bar - a_range - slack > reach)
        return false;
    if (!(bar + a_range > -reach) || !(v->w_step > 0)) {
        k->all = true; /* also where limit is infinite */
        return true;
    }
    float scale = least(least(q->x_scale, 32000 / x_max), 32700 * v->w_per_a);
    float unit = scale * v->w_inverse; /* of both sides */
    if (bar - slack < 0 && (slack - bar) * unit > 32000) {
        scale *= 32000 / ((slack - bar) * unit);
        unit = scale * v->w_inverse;
    }
    k->mul = to_i16(q->mul_scale * scale);
    k->add = to_i16((spread + q->rest) * scale);
    k->unit = to_i16(32768 * v->a_step * unit);
    k->limit = to_i16((bar - slack) * unit - 2.5f); /* the roundings of the products */
    return true;
}

void query_scan(const struct query *q, struct scanned *s, size_t count, const uint64_t *hidden,
                float limit)
{
    const struct posting_view *v = s->view;
    struct kernel_scan k = {.lut = q->lut, .n = count, .pairs = posting_pairs(v->dim),
                            .center = q->mid, .shift = q->shift, .rows = s->rows,
                            .sums = s->sums};
    assert(s->first % 64 == 0 && count <= QUERY_SLICE && s->first + count <= v->n);
    s->n = 0;
    if (!set_test(q, s, limit, &k))
        return;
    k.blocks = v->blocks + s->first / POSTING_BLOCK * v->block_bytes;
    k.hidden = hidden;
    k.record_bytes = v->record_bytes ? v->record_bytes : v->id_bits / 8u + 1;
    k.records = (v->record_bytes ? v->records : v->ids) + s->first * k.record_bytes;
    s->n = q->kn->scan(&k);
}

/* ---- Estimating ------------------------------------------------------------------------------ */

static uint16_t get_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Deviations of an estimate by which `high` lies above it, by bits. */
static const float lift[RABITQ_MAX_BITS + 1] = {0, 1.5f, 1, 0.5f};

/* What a part's rows have in common: deviations of <y, q'> times e2, and how far g may be off. */
struct spread {
    float bound, high; /* times the row's scale */
    float g_bound, g_high;
};

/* `own` is the code's variance, `noise` that of rounding the query, `scale` a typical row's. */
static struct spread spread_of(const struct query *q, const struct scanned *s, float own,
                               float noise, float scale)
{
    float pure = sqrtf(own), all = sqrtf(own + noise);
    struct spread p = {.bound = q->e2 * all, .high = lift[s->view->bits] * pure,
                       .g_bound = s->g_noise};
    if (all > 1.5f * pure)
        p.high += q->e2 * (all - 1.5f * pure);
    if (3 * s->g_noise > scale * p.bound) {
        p.g_bound = 3 * s->g_noise;
        p.g_high = 3 * s->g_noise - scale * p.bound;
    }
    return p;
}

static void estimate_signs(const struct query *q, struct scanned *s)
{
    const struct posting_view *v = s->view;
    struct spread p = spread_of(q, s, v->sigma1 * v->sigma1 * s->distance2, q->lut_noise2,
                                v->w_step * 16384);
    float slack = factor_slack(q, v) + p.g_bound;
    for (size_t i = 0; i < s->n; i++) {
        size_t row = s->first + s->rows[i], r = row % POSTING_BLOCK * 2;
        const uint8_t *f = v->blocks + (row / POSTING_BLOCK + 1) * v->block_bytes - 128;
        float w = v->w_step * (float)(int16_t)get_u16(f + r);
        float a = v->a_base + v->a_step * (float)(int16_t)get_u16(f + 64 + r);
        float x = q->step * ((float)s->sums[i] - q->mean);
        s->estimate[i] = a + s->g - w * x;
        s->bound[i] = s->estimate[i] - w * p.bound - slack;
        s->high[i] = s->estimate[i] + w * p.high + p.g_high;
    }
}

/* <s, q'> of a row from its signs. */
static float sign_dot(const struct query *q, const struct posting_view *v, size_t row)
{
    size_t r = row % POSTING_BLOCK;
    unsigned shift = r >= 16 ? 4 : 0;
    const uint8_t *p = v->blocks + row / POSTING_BLOCK * v->block_bytes + r % 8 * 2 + r / 8 % 2;
    float sum = 0;
    for (uint32_t d = 0; d < v->dim; d += 4, p += 16) {
        unsigned nibble = *p >> shift;
        const float *x = q->rotated + d;
        sum += ((nibble & 1 ? x[0] : 0) + (nibble & 2 ? x[1] : 0)) +
               ((nibble & 4 ? x[2] : 0) + (nibble & 8 ? x[3] : 0));
    }
    return 2 * sum - q->sum;
}

void query_estimate(const struct query *q, struct scanned *s, float limit)
{
    const struct posting_view *v = s->view;
    if (v->bits == 1) {
        estimate_signs(q, s);
        return;
    }
    const uint8_t *records = v->records + s->first * v->record_bytes;
    for (uint32_t i = 0; i < q->n_fine; i++)
        q->kn->levels(records, v->record_bytes, s->rows, s->n, q->plane[i], q->layout.n,
                      s->dots[i]);

    bool again = v->bits >= EXACT_SIGNS;
    float own = v->sigma2 * v->sigma2 * s->distance2, typical = v->w2_step * 32768;
    struct spread p = spread_of(q, s, own, q->noise2, typical);
    struct spread exact = again ? spread_of(q, s, own, q->exact_noise2, typical) : p;
    float high = (float)(1u << (v->bits - 1)) / 2; /* 2^(B-2) */
    float center = (high - 0.5f) * q->code_sum, base = -high * q->step * q->mean - center;
    float slack = p.g_bound + 0.5f * (v->a2_step + v->w2_step * 2 * high * q->x_max);
    float a_base = v->a2_base + s->g, by_u = high * q->step, by_dot = q->center.step;
    for (size_t i = 0; i < s->n; i++) {
        const uint8_t *f = records + s->rows[i] * v->record_bytes + q->layout.bytes;
        float w = v->w2_step * (float)get_u16(f + 2);
        float a = a_base + v->a2_step * (float)get_u16(f);
        float dot = (float)s->dots[0][i];
        if (q->n_fine == 2)
            dot += (float)s->dots[1][i] * (1.0f / 127);
        float levels = by_dot * dot, y = by_u * (float)s->sums[i] + levels + base;
        float estimate = a - w * y, bound = estimate - w * p.bound - slack;
        if (again && bound < limit) {
            y = high * sign_dot(q, v, s->first + s->rows[i]) + levels - center;
            estimate = a - w * y;
            bound = estimate - w * exact.bound - slack;
        }
        s->estimate[i] = estimate;
        s->bound[i] = bound;
        s->high[i] = estimate + w * exact.high + p.g_high;
    }
}
