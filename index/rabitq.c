/*
 * RaBitQ codes: "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound" (Gao,
 * Long, SIGMOD 2024) and its extension to more bits (SIGMOD 2025).
 *
 * A row x of centroid c gives the residual r = R (x - c) under a random rotation R. Its 1-bit code
 * is s = sign(r). The whole code of B bits has the values y_i = s_i (l_i + 1/2), with the level
 * l_i = min(floor(|r_i| t), 2^(B-1) - 1); it shares the signs with the 1-bit code, and stores
 * k_i = l_i for s_i = 1 and k_i = 2^(B-1) - 1 - l_i for s_i = -1. Hence
 *
 *     y_i = 2^(B-2) s_i + k_i - 2^(B-2) + 1/2                                              (1)
 *
 * so that <y, v> = 2^(B-2) <s, v> + <k, v> - (2^(B-2) - 1/2) sum v: the sum that the scan of the
 * 1-bit codes made is used again. t is the best of some tries around its mean for normal r: within
 * 7% of the error that the best t would give.
 *
 * For any w, <r, w> is estimated without bias by (|r|^2 / <y, r>) <y, w>: the length of y does not
 * matter. The error is that of <y_perp, w>, y_perp being the part of y at right angles to r, which
 * points anywhere; its standard deviation is sigma |w| with
 *
 *     sigma = sqrt((|y|^2 - <y, r>^2 / |r|^2) / (D - 1))                                   (2)
 *
 * so 0.6 for signs (their cosine with r is 0.8) in many dimensions. Errors are normal in fact.
 *
 * Keys. For l2, with q' = R (q - o) and c' = R (c - o), o the origin:
 *
 *     |x - q|^2 = |r|^2 + |q - c|^2 - 2 <r, q' - c'>
 *               ~ [|r|^2 + w <y, c'>] + |q - c|^2 - w <y, q'>,   w = 2 |r|^2 / <y, r>
 *
 * The bracket is the row's `add`, w its `scale`; the error's deviation is w sigma |q - c|. The
 * query enters as q' only, not as q' - c', so that one table serves all postings. For ip:
 *
 *     -<q, x> = -<q, c> - <r, R q> ~ -<q, c> - w <y, R q>,       w = |r|^2 / <y, r>
 *
 * with add = 0 and deviation w sigma |q|. (Splitting q' - c' off, as for l2, would give |q - c| in
 * place of |q|: better where both are of one scale, arbitrarily bad where they are not.)
 */
#include "index/rabitq.h"

#include "storage/base/error.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Best t |r| / sqrt(D) for normal r, by bits; measured at D = 100 and 768. */
static const float best_scale[RABITQ_MAX_BITS + 1] = {0, 0, 0.98f, 1.7f, 3.0f, 5.6f, 10.5f, 21, 43};

mn_status rabitq_create(struct mn_alloc *a, const struct kernels *kn,
                        const struct rabitq_spec *spec, struct rabitq **out, mn_error *err)
{
    *out = NULL;
    if (spec->bits < 1 || spec->bits > RABITQ_MAX_BITS)
        return mn_fail(err, MN_INVALID, "bits is %u; it may be 1 to %d", spec->bits,
                       RABITQ_MAX_BITS);
    if (spec->metric != ANN_L2 && spec->metric != ANN_IP)
        return mn_fail(err, MN_INVALID, "an index has no metric number %d", (int)spec->metric);
    for (uint32_t i = 0; spec->origin && i < spec->dim && i < MN_MAX_DIM; i++)
        if (!isfinite(spec->origin[i]))
            return mn_fail(err, MN_INVALID, "origin: element %u is not finite", i);

    struct rotation *rotation;
    mn_status st = rotation_create(a, spec->dim, spec->seed, &rotation, err);
    if (st)
        return st;
    struct rabitq *q = mn_alloc(a, sizeof *q, MN_TAG_CACHE);
    float *origin = mn_alloc_array(a, spec->dim, sizeof *origin, MN_TAG_CACHE);
    if (!q || !origin) {
        mn_free(a, q);
        mn_free(a, origin);
        rotation_destroy(a, rotation);
        return mn_fail(err, MN_NOMEM, "no memory for the codes' rotation (%u elements)", spec->dim);
    }
    if (spec->origin)
        memcpy(origin, spec->origin, spec->dim * sizeof *origin);
    *q = (struct rabitq){.dim = spec->dim, .bits = spec->bits, .metric = spec->metric,
                         .seed = spec->seed, .kn = kn, .rotation = rotation, .origin = origin};
    *out = q;
    return MN_OK;
}

void rabitq_destroy(struct mn_alloc *a, struct rabitq *q)
{
    if (!q)
        return;
    rotation_destroy(a, q->rotation);
    mn_free(a, q->origin);
    mn_free(a, q);
}

void rabitq_rotate(const struct rabitq *q, const float *x, float *out)
{
    for (uint32_t i = 0; i < q->dim; i++)
        out[i] = x[i] - q->origin[i];
    rotation_apply(q->rotation, q->kn, out);
}

bool rabitq_normalise(float *x, uint32_t dim)
{
    double norm = 0;
    for (uint32_t i = 0; i < dim; i++)
        norm += (double)x[i] * x[i];
    if (!(norm >= (double)FLT_MIN) || !isfinite(norm))
        return false;
    double scale = 1 / sqrt(norm);
    for (uint32_t i = 0; i < dim; i++)
        x[i] = (float)(x[i] * scale);
    return true;
}

/* Factors from |r|^2, <y, r>, |y|^2, <y, c'>. A residual too short to have a direction counts as
 * zero: the row is its centroid, without error. */
static struct rabitq_factors factors(const struct rabitq *q, float rr, float yr, float yy, float yc)
{
    struct rabitq_factors f = {0, 0, 0};
    bool zero = rr < 1e-36f || !(yr > 0);
    if (q->metric == ANN_L2)
        f.add = rr;
    if (zero)
        return f;
    f.scale = rr / yr;
    if (q->metric == ANN_L2) {
        f.scale *= 2;
        f.add += f.scale * yc;
    }
    float perp = yy - yr / rr * yr;
    f.sigma = q->dim > 1 && perp > 0 ? sqrtf(perp / (float)(q->dim - 1)) : 0;
    return f;
}

/* The t of the code whose cosine with r is best. */
static float find_scale(const struct rabitq *q, const float *r, float rr, float max)
{
    const uint32_t top = (1u << (q->bits - 1)) - 1;
    float about = best_scale[q->bits] * sqrtf((float)q->dim / rr);
    float best = (float)(top + 1) / max * 0.9999f, most = 0;
    for (int i = -1; i < 13; i++) { /* -1: nothing is clipped, for few dimensions */
        float t = i < 0 ? best : about * (0.7f + 0.05f * (float)i), dot, norm;
        q->kn->fit(r, q->dim, t, (float)top, &dot, &norm);
        if (dot * dot > most * norm) {
            most = dot * dot / norm;
            best = t;
        }
    }
    return best;
}

/* What the code's factors need of a residual r and the rotated centroid. */
struct sums {
    float squares, sizes, max; /* of |r_i| */
    float signs;               /* sum of sign(r_i) c_i */
};

enum { LANES = 16 }; /* sums that need not wait for each other */

static float fold(float *lanes)
{
    for (uint32_t n = LANES / 2; n; n /= 2)
        for (uint32_t j = 0; j < n; j++)
            lanes[j] += lanes[j + n];
    return lanes[0];
}

static float with_sign_of(float value, float sign)
{
    uint32_t v, s;
    memcpy(&v, &value, sizeof v);
    memcpy(&s, &sign, sizeof s);
    v ^= s & 0x80000000u;
    memcpy(&value, &v, sizeof v);
    return value;
}

/* 1 if the sign bit is set, else 0. */
static float negative(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (float)-(bits >> 31);
}

static struct sums sums_of(const float *r, const float *center, uint32_t dim)
{
    float squares[LANES] = {0}, sizes[LANES] = {0}, signs[LANES] = {0}, max[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= dim; i += LANES)
        for (uint32_t j = 0; j < LANES; j++) {
            float size = fabsf(r[i + j]);
            squares[j] += size * size;
            sizes[j] += size;
            signs[j] += with_sign_of(center[i + j], r[i + j]);
            max[j] = size > max[j] ? size : max[j];
        }
    for (; i < dim; i++) {
        float size = fabsf(r[i]);
        squares[0] += size * size;
        sizes[0] += size;
        signs[0] += with_sign_of(center[i], r[i]);
        max[0] = size > max[0] ? size : max[0];
    }
    struct sums s = {.squares = fold(squares), .sizes = fold(sizes), .signs = fold(signs)};
    for (uint32_t j = 0; j < LANES; j++)
        s.max = max[j] > s.max ? max[j] : s.max;
    return s;
}

/* Product of the code's values (rabitq_value, without its branches) and the rotated centroid. */
static float code_dot(const struct rabitq *q, const float *r, const uint8_t *level,
                      const float *center)
{
    float lanes[LANES] = {0};
    const float span = (float)(1u << (q->bits - 1)); /* top + 1: what a negative one lies lower */
    uint32_t i = 0;
    for (; i + LANES <= q->dim; i += LANES)
        for (uint32_t j = 0; j < LANES; j++)
            lanes[j] += ((float)level[i + j] + 0.5f - negative(r[i + j]) * span) * center[i + j];
    for (; i < q->dim; i++)
        lanes[0] += ((float)level[i] + 0.5f - negative(r[i]) * span) * center[i];
    return fold(lanes);
}

void rabitq_encode(const struct rabitq *q, const float *r, const float *center, uint8_t *level,
                   struct rabitq_factors *one, struct rabitq_factors *all)
{
    struct sums s = sums_of(r, center, q->dim);
    *one = factors(q, s.squares, s.sizes, (float)q->dim, s.signs);
    *all = *one;
    if (q->bits == 1)
        return;
    if (one->scale == 0) {
        memset(level, 0, q->dim);
        return;
    }
    float yr, yy;
    float t = find_scale(q, r, s.squares, s.max), top = (float)((1u << (q->bits - 1)) - 1);
    q->kn->fit(r, q->dim, t, top, &yr, &yy);
    q->kn->level(r, q->dim, t, top, level);
    *all = factors(q, s.squares, yr, yy, code_dot(q, r, level, center));
}
