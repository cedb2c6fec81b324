/*
 * Exact search over blocks of rows.
 *
 * A block is cut into tiles of TILE rows. A tile is read from memory once and stays in the cache
 * while all queries visit it, in one of two ways:
 *
 *   direct   the kernel of the metric scores the tile for one query, a filter kernel lists the rows
 *            that may enter the query's result, and those are considered one by one.
 *   batch    dot products of all rows of the tile with up to QUERY_BLOCK queries by the gemm
 *            kernel, in slices of DEPTH elements; a sieve kernel lists the pairs of row and query
 *            that may enter, and those are scored anew by the kernel of the direct way.
 *
 * Results are the same to the bit whichever way a row took, however rows are cut into blocks and
 * threads, because (1) a distance is always what the direct kernel says for that row and query,
 * and its result does not depend on the neighbours; (2) results are ordered by (distance, id),
 * which is a total order; and (3) filter and sieve leave out only rows that certainly cannot enter.
 * For (3) let u = 2^-24, g = (dim + 16) u / (1 - (dim + 16) u), which bounds the relative error of
 * a sum of dim products in f32 in any order (against the sum of magnitudes). With N = |q|^2 + |x|^2
 * and hats for computed values:
 *
 *   l2       |d2 - (N^ - 2 dot^)| <= 2 g N, as 2 sum |q_i x_i| <= N and the norms are off by g N;
 *            and the kernel's d2^ >= d2 (1 - g). A row with d2^ <= T therefore has
 *            (1 - e) |x|^2 / 2 - dot^ <= (T (1 + 2 g) - (1 - e) |q|^2) / 2, e = 2.1 g + 8 u.
 *   ip       both dot products are off by g |q||x|: dot^ >= -T - (2.1 g + 8 u) |q||x|.
 *   cosine   likewise dot^ >= (1 - T - (2.1 g + 8 u) (1 + 3 g)) sqrt(|q|^2^ |x|^2^).
 *
 * The 8 u cover the rounding of the terms themselves; the limits are rounded outwards; `tiny` in
 * set_limits() covers underflow, also on a thread that flushes subnormals to zero. For i8 the
 * direct kernel is exact, and the batch way works on f32 copies of the elements: the same bounds
 * hold.
 * All three have the form a_q r_x - dot <= limit_q of kernel_sieve_fn. Where the bound proves
 * nothing (NaN, infinity, a norm that overflows) r_x is NaN, and NaN always passes: the exact way
 * decides.
 *
 * Rows with NaN or infinite elements (written by another program) make the kernel's result NaN or
 * infinite, which the filters pass; consider() then looks at the elements. So they are found, and
 * left out, in every way; likewise rows without a direction under cosine. A finite row whose
 * result overflowed gets its distance in double.
 *
 * Keys. Results are kept by `key`: the squared distance for l2, the distance itself otherwise.
 * Square roots of distinct floats are distinct doubles, so the order is that of the distance.
 */
#include "index/scan.h"

#include "index/topk.h"
#include "storage/base/error.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    TILE = 192,          /* rows; a multiple of 64 (bitmap words) and 12 (gemm's rows) */
    DEPTH = 256,         /* elements of a gemm slice: TILE x DEPTH floats are 192 KiB of L2 */
    QUERY_BLOCK = 128,   /* queries whose dot products are held at once */
    LANES = KERNEL_LANES,
    BATCH_MIN = 8,       /* fewer queries go the direct way; index/README.md, "Crossover" */
    BATCH_MIN_I8 = 14,   /* whose direct kernel does four times as much at a step */
    SPARSE = 4           /* below 1/SPARSE visible rows, each is scored alone */
};

static_assert((int)ELEM_F32 == MN_F32 && (int)ELEM_F16 == MN_F16 && (int)ELEM_BF16 == MN_BF16,
              "the float types index the kernel tables");
static_assert(TILE % 64 == 0 && QUERY_BLOCK % LANES == 0, "tiles hold whole words and lanes");

struct query {
    const void *vector;    /* as its direct kernel takes it; borrowed */
    double norm;           /* the squared norm as the kernel computes it */
    float a, limit;        /* of the direct filter; follow the results */
    struct topk top;       /* k nearest */
    struct collector all;  /* radius mode */
};

/* What is known about a row of the current tile; shared by all queries. */
enum row_state { ROW_NEW, ROW_ADMITTED, ROW_REJECTED, ROW_INVALID };

struct scan {
    struct mn_alloc *alloc;
    const struct kernels *kn;
    struct scan_spec spec;
    size_t bytes;              /* of one vector */
    bool is_float;             /* f32, f16, bf16: scores are float, else int32 */
    double slack;              /* 2.1 g + 8 u of the head comment */
    double tiny;               /* bound of what underflow can add up to */
    float *queries_f32;        /* [nq][dim] for f16 and bf16; NULL otherwise */
    struct query *queries;     /* [nq] */
    mn_hit *heaps;             /* [nq][k]; NULL in radius mode */

    size_t batch_nq;           /* the first so many queries can go the batch way; 0: none */
    float *packed;             /* [slabs][dim][LANES] queries of the batch */
    float *sieve_a;            /* [slabs * LANES] */
    float *sieve_limit;        /* [slabs * LANES] */
    float *dots;               /* [TILE][QUERY_BLOCK] */
    uint32_t *pairs;           /* [TILE * QUERY_BLOCK] */
    float *wide;               /* [TILE][DEPTH] rows as f32; NULL for f32 rows */

    uint64_t seen;             /* visible rows so far */
    uint32_t rest;             /* tiles to go the direct way, since too many pairs passed */
    uint64_t invalid;          /* rows found to be no vectors */

    float scores[TILE];
    int32_t counts[TILE];
    float norms[TILE];         /* where the block brings none */
    float r[TILE];             /* r_x of the head comment */
    uint32_t index[TILE];
    uint8_t state[TILE];       /* enum row_state */
};

/* TILE rows of a block, or its last ones. */
struct tile {
    const int64_t *ids;
    const char *rows;
    const float *norms;        /* NULL if the block has none and none are needed */
    const uint64_t *hidden;    /* from the tile's first row on, or NULL */
    size_t n, visible;
    scan_admit_fn admit;
    void *ctx;
    mn_error *err;             /* never NULL */
};

/* ---- Vectors ------------------------------------------------------------------------------- */

static size_t vector_bytes(mn_dtype dtype, uint32_t dim)
{
    static const uint8_t bits[] = {
        [MN_F32] = 32, [MN_F16] = 16, [MN_BF16] = 16, [MN_I8] = 8, [MN_BIT] = 1};
    return (size_t)dim * bits[dtype] / 8;
}

static bool is_float_type(mn_dtype dtype)
{
    return dtype == MN_F32 || dtype == MN_F16 || dtype == MN_BF16;
}

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Element i as f32; exact for every type. Any alignment. For checks and rare rows. */
static inline float element(mn_dtype dtype, const void *vector, size_t i)
{
    float f;
    uint16_t h;
    if (dtype == MN_F32) {
        memcpy(&f, (const char *)vector + i * sizeof f, sizeof f);
        return f;
    }
    if (dtype == MN_I8)
        return (float)((const int8_t *)vector)[i];
    memcpy(&h, (const char *)vector + i * sizeof h, sizeof h);
    if (dtype == MN_BF16)
        return from_bits((uint32_t)h << 16);
    if ((h & 0x7c00) == 0x7c00)
        return h & 0x3ff ? NAN : h & 0x8000 ? -INFINITY : INFINITY;
    /* exponent and mantissa in place; 2^112 rebases the exponent, subnormals too */
    f = from_bits((uint32_t)(h & 0x7fff) << 13) * 0x1p112f;
    return h & 0x8000 ? -f : f;
}

/* The squared norm in double; NaN or infinite exactly if an element is: squares of f32 do not
 * overflow a double. Four sums, so that they need not wait for each other. */
static inline double norm_of(mn_dtype dtype, const void *vector, size_t dim)
{
    double sum[4] = {0, 0, 0, 0};
    size_t i = 0;
    for (; i + 4 <= dim; i += 4)
        for (size_t j = 0; j < 4; j++) {
            double x = (double)element(dtype, vector, i + j);
            sum[j] += x * x;
        }
    for (; i < dim; i++) {
        double x = (double)element(dtype, vector, i);
        sum[0] += x * x;
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static double double_norm(mn_dtype dtype, const void *vector, size_t dim)
{
    switch (dtype) {
    case MN_F32:
        return norm_of(MN_F32, vector, dim);
    case MN_F16:
        return norm_of(MN_F16, vector, dim);
    case MN_BF16:
        return norm_of(MN_BF16, vector, dim);
    default:
        return norm_of(MN_I8, vector, dim);
    }
}

static mn_status fail_not_finite(mn_dtype dtype, uint32_t dim, const void *vector,
                                 const char *what, mn_error *err)
{
    size_t i = 0;
    while (i + 1 < dim && isfinite(element(dtype, vector, i)))
        i++;
    float x = element(dtype, vector, i);
    return mn_fail(err, MN_INVALID, "%s: element %zu is %s; elements must be finite", what, i,
                   isnan(x) ? "NaN" : x > 0 ? "infinity" : "-infinity");
}

mn_status scan_check_vector(mn_dtype dtype, mn_metric metric, uint32_t dim, const void *vector,
                            const char *what, mn_error *err)
{
    if (dtype == MN_BIT)
        return MN_OK;
    double norm = double_norm(dtype, vector, dim);
    if (!isfinite(norm))
        return fail_not_finite(dtype, dim, vector, what, err);
    if (norm >= (double)FLT_MAX / 4)
        return mn_fail(err, MN_INVALID,
                       "%s: its length %g is beyond %g, where distances overflow: scale the "
                       "vectors down",
                       what, sqrt(norm), sqrt((double)FLT_MAX / 4));
    if (metric == MN_COSINE && norm == 0)
        return mn_fail(err, MN_INVALID, "%s: a zero vector has no direction, which cosine needs",
                       what);
    if (metric == MN_COSINE && norm < (double)FLT_MIN)
        return mn_fail(err, MN_INVALID,
                       "%s: its length %g is below %g, too short to have a direction, which cosine "
                       "needs: scale the vectors up",
                       what, sqrt(norm), sqrt((double)FLT_MIN));
    return MN_OK;
}

/* Squared norms of n rows, n at most TILE. */
static void tile_norms(const struct kernels *kn, mn_dtype dtype, uint32_t dim, const char *rows,
                       size_t n, float *norms)
{
    size_t bytes = vector_bytes(dtype, dim);
    int32_t exact[TILE];
    assert(n <= TILE);
    if (is_float_type(dtype)) {
        kn->norm[dtype](rows, bytes, n, dim, norms);
    } else if (dtype == MN_I8) {
        for (size_t i = 0; i < n; i++)
            kn->dot_i8(rows + i * bytes, rows + i * bytes, bytes, 1, dim, exact + i);
        kn->i32_to_f32(exact, n, norms);
    } else {
        memset(norms, 0, n * sizeof *norms);
    }
}

void scan_norms(const struct kernels *kn, mn_dtype dtype, uint32_t dim, const void *vectors,
                size_t n, float *norms)
{
    for (size_t i = 0; i < n; i += TILE)
        tile_norms(kn, dtype, dim, (const char *)vectors + i * vector_bytes(dtype, dim),
                   n - i < TILE ? n - i : TILE, norms + i);
}

/* ---- Keys and limits ----------------------------------------------------------------------- */

static double distance_of(const struct scan *s, double key)
{
    return s->spec.metric == MN_L2 ? sqrt(key) : key;
}

/* A norm with which the f32 arithmetic of cosine stands. Half of FLT_MIN, since
 * scan_check_vector() sums in double and lets pass what f32 may find a little smaller. */
static bool has_direction(double norm)
{
    return norm >= (double)FLT_MIN / 2 && norm <= (double)FLT_MAX;
}

/* cos in double: dot(x, x) / sqrt(norm^2) is exactly 1, as norm^2 of a float is exact. */
static double cosine_key(double dot, double qnorm, double xnorm)
{
    double d = 1 - dot / sqrt(qnorm * xnorm);
    return d < 0 ? 0 : d > 2 ? 2 : d;
}

/* The key of a row whose f32 result is of no use, in double. False if the row is no vector. */
static bool slow_key(const struct scan *s, const struct query *q, const char *row, double *key)
{
    mn_dtype type = is_float_type(s->spec.dtype) ? MN_F32 : s->spec.dtype;
    double dot = 0, l2 = 0, norm = 0;
    for (size_t i = 0; i < s->spec.dim; i++) {
        double x = (double)element(s->spec.dtype, row, i);
        double y = (double)element(type, q->vector, i);
        if (!isfinite(x))
            return false;
        dot += x * y;
        norm += x * x;
        l2 += (x - y) * (x - y);
    }
    if (s->spec.metric == MN_COSINE) {
        if (norm < (double)FLT_MIN / 2)
            return false;
        double d = 1 - dot / (sqrt(q->norm) * sqrt(norm));
        *key = d < 0 ? 0 : d > 2 ? 2 : d;
        return true;
    }
    *key = s->spec.metric == MN_L2 ? l2 : 0.0 - dot;
    return true;
}

/* The key of row i of the tile, `raw` being the direct kernel's result. False: no vector. */
static bool key_of(const struct scan *s, const struct tile *t, const struct query *q, size_t i,
                   double raw, double *key)
{
    const char *row = t->rows + i * s->bytes;
    if (!isfinite(raw))
        return slow_key(s, q, row, key);
    switch (s->spec.metric) {
    case MN_IP:
        *key = 0.0 - raw; /* not -raw: no -0 */
        return true;
    case MN_COSINE: {
        double norm = t->norms[i];
        if (s->spec.dtype == MN_I8) { /* the float norm is rounded above 2^24 */
            int32_t exact;
            s->kn->dot_i8(row, row, s->bytes, 1, s->spec.dim, &exact);
            norm = exact;
        }
        if (!has_direction(norm))
            return slow_key(s, q, row, key);
        *key = cosine_key(raw, q->norm, norm);
        return true;
    }
    default:
        *key = raw;
        return true;
    }
}

/* To f32 towards +infinity. */
static float round_up(double x)
{
    if (x > (double)FLT_MAX)
        return INFINITY;
    if (x < -(double)FLT_MAX)
        return -FLT_MAX;
    float f = (float)x;
    return (double)f < x ? nextafterf(f, INFINITY) : f;
}

static float round_down(double x)
{
    return -round_up(-x);
}

/* Recomputes the filters of query q for keys up to `top`. */
static void set_limits(struct scan *s, size_t q, double top)
{
    struct query *p = &s->queries[q];
    const double u = 0x1p-24, slack = s->slack, root = sqrt(p->norm);
    double exact = s->is_float ? top : top + fabs(top) * 2 * u; /* int32 rounded to f32 */
    float a = 0, limit = INFINITY;

    p->a = 0;
    p->limit = round_up(exact);
    switch (s->spec.metric) {
    case MN_L2:
        a = round_down(0.5 * (1 - slack));
        limit = round_up(0.5 * (top * (1 + slack) - (1 - slack) * p->norm) + s->tiny);
        break;
    case MN_IP:
        a = round_down(-slack * (1 + slack) * root);
        limit = round_up(top + s->tiny);
        break;
    case MN_COSINE:
        p->a = round_down((1 - top - 16 * u) * root);
        p->limit = round_up(s->tiny);
        a = round_down((1 - top - slack * (1 + 2 * slack)) * root);
        limit = round_up(s->tiny);
        break;
    case MN_HAMMING:
        break;
    }
    if (q < s->batch_nq) {
        s->sieve_a[q] = a;
        s->sieve_limit[q] = limit;
    }
}

/* The highest key that a result of radius mode may have. l2: a little more than radius^2, the
 * exact test is on the distance. */
static double radius_key(const struct scan *s)
{
    double r = s->spec.radius;
    if (s->spec.metric != MN_L2)
        return r;
    return r < 0 ? -1 : r * r * (1 + 0x1p-40) + DBL_MIN;
}

/* ---- Creating ------------------------------------------------------------------------------ */

static mn_status check_spec(const struct scan_spec *p, mn_error *err)
{
    if ((unsigned)p->dtype > MN_BIT || (unsigned)p->metric > MN_HAMMING)
        return mn_fail(err, MN_INVALID, "dtype %d or metric %d is none that exists", (int)p->dtype,
                       (int)p->metric);
    if ((p->dtype == MN_BIT) != (p->metric == MN_HAMMING))
        return mn_fail(err, MN_INVALID, "hamming goes with bit vectors, and only with them");
    if (p->dim == 0 || p->dim > MN_MAX_DIM || (p->dtype == MN_BIT && p->dim % 8))
        return mn_fail(err, MN_INVALID,
                       "dimension %u: must be 1 to %u, for bit vectors a multiple of 8", p->dim,
                       MN_MAX_DIM);
    if (p->nq == 0 || p->nq > MN_MAX_QUERIES || !p->queries)
        return mn_fail(err, MN_INVALID, "%zu queries: must be 1 to %u", p->nq, MN_MAX_QUERIES);
    if (p->radius_mode ? p->k != 0 : p->k == 0 || p->k > MN_MAX_K)
        return mn_fail(err, MN_INVALID, "k is %u: must be %s", p->k,
                       p->radius_mode ? "0 in a radius search" : "1 to 10000");
    if (p->radius_mode && isnan(p->radius))
        return mn_fail(err, MN_INVALID, "the radius is NaN");
    for (size_t q = 0; q < p->nq; q++) {
        char what[32] = "query";
        if (p->nq > 1)
            snprintf(what, sizeof what, "query %zu", q);
        mn_status st = scan_check_vector(
            p->dtype, p->metric, p->dim,
            (const char *)p->queries + q * vector_bytes(p->dtype, p->dim), what, err);
        if (st)
            return st;
    }
    return MN_OK;
}

/* How many of nq queries the batch way takes. A last slab that would be mostly empty costs more
 * than scoring its queries directly. */
static size_t batch_share(const struct scan_spec *p)
{
    size_t least = p->dtype == MN_I8 ? BATCH_MIN_I8 : BATCH_MIN;
    if (p->dtype == MN_BIT || p->nq < least)
        return 0;
    return p->nq % LANES < least ? p->nq - p->nq % LANES : p->nq;
}

/* Memory of the batch way. False if there is too little: the direct way needs none. */
static bool batch_alloc(struct scan *s, size_t batch_nq)
{
    size_t padded = (batch_nq + LANES - 1) / LANES * LANES;
    s->packed = mn_alloc_array(s->alloc, padded, s->spec.dim * sizeof(float), MN_TAG_SEARCH);
    s->sieve_a = mn_alloc_array(s->alloc, padded, sizeof(float), MN_TAG_SEARCH);
    s->sieve_limit = mn_alloc_array(s->alloc, padded, sizeof(float), MN_TAG_SEARCH);
    s->dots = mn_alloc(s->alloc, sizeof(float) * TILE * QUERY_BLOCK, MN_TAG_SEARCH);
    s->pairs = mn_alloc(s->alloc, sizeof(uint32_t) * TILE * QUERY_BLOCK, MN_TAG_SEARCH);
    if (s->spec.dtype != MN_F32)
        s->wide = mn_alloc(s->alloc, sizeof(float) * TILE * DEPTH, MN_TAG_SEARCH);
    if (!s->packed || !s->sieve_a || !s->sieve_limit || !s->dots || !s->pairs ||
        (s->spec.dtype != MN_F32 && !s->wide))
        return false;
    for (size_t q = batch_nq; q < padded; q++)
        s->sieve_limit[q] = -INFINITY;
    return true;
}

static void batch_free(struct scan *s)
{
    mn_free(s->alloc, s->packed);
    mn_free(s->alloc, s->sieve_a);
    mn_free(s->alloc, s->sieve_limit);
    mn_free(s->alloc, s->dots);
    mn_free(s->alloc, s->pairs);
    mn_free(s->alloc, s->wide);
    s->packed = s->sieve_a = s->sieve_limit = s->dots = s->wide = NULL;
    s->pairs = NULL;
    s->batch_nq = 0;
}

static void batch_pack(struct scan *s)
{
    size_t dim = s->spec.dim;
    mn_dtype type = s->spec.dtype == MN_I8 ? MN_I8 : MN_F32; /* of struct query's vectors */
    for (size_t q = 0; q < s->batch_nq; q++) {
        const char *v = s->queries[q].vector;
        float *lane = s->packed + q / LANES * LANES * dim + q % LANES;
        for (size_t i = 0; i < dim; i++)
            lane[i * LANES] = element(type, v, i);
    }
}

static void queries_init(struct scan *s)
{
    const struct scan_spec *p = &s->spec;
    const char *given = p->queries;
    if (p->dtype == MN_F16)
        s->kn->f16_to_f32(given, p->nq * p->dim, s->queries_f32);
    if (p->dtype == MN_BF16)
        s->kn->bf16_to_f32(given, p->nq * p->dim, s->queries_f32);
    for (size_t q = 0; q < p->nq; q++) {
        struct query *y = &s->queries[q];
        float norm;
        tile_norms(s->kn, p->dtype, p->dim, given + q * s->bytes, 1, &norm);
        y->norm = norm;
        y->vector = given + q * s->bytes;
        if (s->queries_f32)
            y->vector = s->queries_f32 + q * p->dim;
        if (p->dtype == MN_I8) {
            int32_t exact;
            s->kn->dot_i8(y->vector, y->vector, s->bytes, 1, p->dim, &exact);
            y->norm = exact;
        }
        if (p->radius_mode)
            collector_init(&y->all, p->max_hits);
        else
            topk_init(&y->top, s->heaps + q * p->k, p->k);
    }
}

/* All that depends on the queries; there are no results yet. */
static void begin(struct scan *s)
{
    queries_init(s);
    batch_pack(s);
    for (size_t q = 0; q < s->spec.nq; q++)
        set_limits(s, q, s->spec.radius_mode ? radius_key(s) : INFINITY);
}

mn_status scan_create(struct mn_alloc *a, const struct kernels *kn, const struct scan_spec *spec,
                      struct scan **out, mn_error *err)
{
    *out = NULL;
    mn_status st = check_spec(spec, err);
    if (st)
        return st;

    struct scan *s = mn_alloc_array(a, 1, sizeof *s, MN_TAG_SEARCH);
    if (!s)
        return mn_fail(err, MN_NOMEM, "no memory for a search");
    s->alloc = a;
    s->kn = kn;
    s->spec = *spec;
    s->bytes = vector_bytes(spec->dtype, spec->dim);
    s->is_float = is_float_type(spec->dtype);
    const double u = 0x1p-24, n = spec->dim + 16.0, g = n * u / (1 - n * u);
    s->slack = 2.1 * g + 8 * u;
    s->tiny = 16 * n * (double)FLT_MIN;

    size_t nhits = 0;
    bool fits = spec->radius_mode || mn_mul(spec->nq, spec->k, &nhits);
    s->queries = mn_alloc_array(a, spec->nq, sizeof *s->queries, MN_TAG_SEARCH);
    if (!spec->radius_mode && fits && mn_mul(nhits, sizeof *s->heaps, &nhits))
        s->heaps = mn_alloc(a, nhits, MN_TAG_SEARCH);
    if (spec->dtype == MN_F16 || spec->dtype == MN_BF16)
        s->queries_f32 = mn_alloc_array(a, spec->nq, spec->dim * sizeof(float), MN_TAG_SEARCH);
    if (!s->queries || (!spec->radius_mode && !s->heaps) ||
        ((spec->dtype == MN_F16 || spec->dtype == MN_BF16) && !s->queries_f32)) {
        scan_destroy(s);
        return mn_fail(err, MN_NOMEM,
                       "no memory for %zu queries with k = %u: ask fewer at once, or raise the "
                       "memory cap",
                       spec->nq, spec->k);
    }
    s->batch_nq = batch_share(spec);
    if (s->batch_nq && !batch_alloc(s, s->batch_nq))
        batch_free(s);
    begin(s);
    *out = s;
    return MN_OK;
}

void scan_restart(struct scan *s, const void *queries)
{
    assert(!s->spec.radius_mode);
    s->spec.queries = queries;
    s->seen = s->invalid = 0;
    s->rest = 0;
    begin(s);
}

void scan_destroy(struct scan *s)
{
    if (!s)
        return;
    for (size_t q = 0; s->queries && q < s->spec.nq; q++)
        collector_fini(&s->queries[q].all, s->alloc);
    batch_free(s);
    mn_free(s->alloc, s->queries);
    mn_free(s->alloc, s->heaps);
    mn_free(s->alloc, s->queries_f32);
    mn_free(s->alloc, s);
}

/* ---- Considering one row for one query ----------------------------------------------------- */

/* Adds a hit that passed all tests, and tightens the filters. */
static mn_status add_hit(struct scan *s, size_t q, double key, int64_t id, mn_error *err)
{
    struct query *p = &s->queries[q];
    if (s->spec.radius_mode)
        return collector_push(&p->all, s->alloc, key, id, err);
    topk_push(&p->top, key, id);
    if (p->top.n == p->top.k)
        set_limits(s, q, topk_limit(&p->top));
    return MN_OK;
}

static bool would_enter(const struct scan *s, const struct query *p, double key, int64_t id)
{
    return s->spec.radius_mode ? distance_of(s, key) <= s->spec.radius
                               : topk_would_take(&p->top, key, id);
}

static bool is_hidden(const struct tile *t, size_t i)
{
    return t->hidden && (t->hidden[i / 64] >> (i % 64) & 1);
}

/* Row i of the tile, with the direct kernel's result for query q. */
static mn_status consider(struct scan *s, const struct tile *t, size_t q, size_t i, double raw)
{
    struct query *p = &s->queries[q];
    double key;
    if (is_hidden(t, i) || s->state[i] >= ROW_REJECTED)
        return MN_OK;
    if (!key_of(s, t, p, i, raw, &key)) {
        s->state[i] = ROW_INVALID;
        s->invalid++;
        return MN_OK;
    }
    if (!would_enter(s, p, key, t->ids[i]))
        return MN_OK;
    if (s->state[i] == ROW_NEW) {
        enum scan_verdict v = t->admit ? t->admit(t->ctx, t->ids[i], t->err) : SCAN_ADMIT;
        if (v == SCAN_STOP)
            return t->err->code ? t->err->code
                                : mn_fail(t->err, MN_INTERRUPTED, "the search was stopped");
        s->state[i] = v == SCAN_ADMIT ? ROW_ADMITTED : ROW_REJECTED;
        if (v != SCAN_ADMIT)
            return MN_OK;
    }
    return add_hit(s, q, key, t->ids[i], t->err);
}

/* ---- The direct way ------------------------------------------------------------------------ */

/* The kernel's results for rows [first, first + n) of the tile, into s->scores or s->counts. */
static void score(struct scan *s, const struct tile *t, const struct query *p, size_t first,
                  size_t n)
{
    const char *rows = t->rows + first * s->bytes;
    const struct kernels *kn = s->kn;
    uint32_t dim = s->spec.dim;
    if (s->is_float) {
        kernel_score_fn f = (s->spec.metric == MN_L2 ? kn->l2 : kn->dot)[s->spec.dtype];
        f(p->vector, rows, s->bytes, n, dim, s->scores + first);
        return;
    }
    kernel_count_fn f = s->spec.metric == MN_HAMMING ? kn->hamming
                        : s->spec.metric == MN_L2    ? kn->l2_i8
                                                     : kn->dot_i8;
    f(p->vector, rows, s->bytes, n, dim, s->counts + first);
}

static mn_status consider_scored(struct scan *s, const struct tile *t, size_t q, size_t i)
{
    return consider(s, t, q, i, s->is_float ? (double)s->scores[i] : (double)s->counts[i]);
}

static mn_status score_one(struct scan *s, const struct tile *t, size_t q, size_t i)
{
    score(s, t, &s->queries[q], i, 1);
    return consider_scored(s, t, q, i);
}

/* Few rows are visible: each is scored alone. */
static mn_status direct_sparse(struct scan *s, const struct tile *t, size_t q)
{
    for (size_t w = 0; w * 64 < t->n; w++) {
        uint64_t visible = ~t->hidden[w];
        for (; visible; visible &= visible - 1) {
            size_t i = w * 64 + (size_t)__builtin_ctzll(visible);
            if (i >= t->n)
                break;
            mn_status st = score_one(s, t, q, i);
            if (st)
                return st;
        }
    }
    return MN_OK;
}

static mn_status direct_tile(struct scan *s, const struct tile *t, size_t q)
{
    struct query *p = &s->queries[q];
    bool cosine = s->spec.metric == MN_COSINE;
    if (t->visible * SPARSE < t->n)
        return direct_sparse(s, t, q);
    score(s, t, p, 0, t->n);
    if (!s->is_float)
        s->kn->i32_to_f32(s->counts, t->n, s->scores);
    size_t found = s->kn->filter(s->scores, cosine ? s->r : NULL, t->n, p->a,
                                 s->spec.metric == MN_IP || cosine ? -1.0f : 1.0f, p->limit,
                                 s->index);
    for (size_t j = 0; j < found; j++) {
        mn_status st = consider_scored(s, t, q, s->index[j]);
        if (st)
            return st;
    }
    return MN_OK;
}

/* ---- The batch way ------------------------------------------------------------------------- */

/* Dot products of all rows of the tile with nslabs slabs from `slab` on, into s->dots. */
static void batch_dots(struct scan *s, const struct tile *t, size_t slab, size_t nslabs)
{
    size_t dim = s->spec.dim, slab_stride = dim * LANES;
    const float *queries = s->packed + slab * slab_stride;
    for (size_t first = 0; first < dim; first += DEPTH) {
        size_t depth = dim - first < DEPTH ? dim - first : DEPTH;
        const char *rows = t->rows + first * (s->bytes / dim);
        size_t stride = s->bytes;
        if (s->wide) {
            kernel_widen_fn widen = s->spec.dtype == MN_I8    ? s->kn->i8_to_f32
                                    : s->spec.dtype == MN_F16 ? s->kn->f16_to_f32
                                                              : s->kn->bf16_to_f32;
            for (size_t i = 0; i < t->n; i++)
                widen(rows + i * stride, depth, s->wide + i * DEPTH);
            rows = (const char *)s->wide;
            stride = DEPTH * sizeof(float);
        }
        s->kn->gemm(queries + first * LANES, nslabs, slab_stride, (const void *)rows, stride, t->n,
                    depth, s->dots, QUERY_BLOCK, first > 0);
    }
}

static mn_status batch_tile(struct scan *s, const struct tile *t)
{
    size_t slabs = (s->batch_nq + LANES - 1) / LANES, passed = 0;
    for (size_t slab = 0; slab < slabs; slab += QUERY_BLOCK / LANES) {
        size_t nslabs = slabs - slab < QUERY_BLOCK / LANES ? slabs - slab : QUERY_BLOCK / LANES;
        size_t base = slab * LANES;
        batch_dots(s, t, slab, nslabs);
        size_t found = s->kn->sieve(s->dots, QUERY_BLOCK, s->r, t->n, s->sieve_a + base,
                                    s->sieve_limit + base, nslabs, s->pairs);
        passed += found;
        for (size_t j = 0; j < found; j++) {
            size_t i = s->pairs[j] >> 16, q = base + (s->pairs[j] & 0xffff);
            if (q >= s->batch_nq || is_hidden(t, i))
                continue;
            mn_status st = score_one(s, t, q, i);
            if (st)
                return st;
        }
    }
    /* One pair in 16 scored anew costs about what the direct way does. */
    s->rest = passed > t->n * s->batch_nq / 16 ? 31 : 0;
    return MN_OK;
}

/* Whether the batch way is worth it for this tile: while results fill, nearly every row enters. */
static bool batch_pays(struct scan *s, const struct tile *t)
{
    if (s->batch_nq == 0 || t->visible * 2 < t->n)
        return false;
    if (s->rest) {
        s->rest--;
        return false;
    }
    if (s->spec.radius_mode)
        return true;
    if (s->seen < 16 * (uint64_t)s->spec.k)
        return false;
    for (size_t q = 0; q < s->batch_nq; q++)
        if (s->queries[q].top.n < s->queries[q].top.k)
            return false;
    return true;
}

/* ---- Blocks -------------------------------------------------------------------------------- */

/* Fills in norms where they are missing and needed, and r_x. */
static void prepare_rows(struct scan *s, struct tile *t, bool batch)
{
    bool cosine = s->spec.metric == MN_COSINE;
    if (!cosine && !batch)
        return;
    if (!t->norms) {
        tile_norms(s->kn, s->spec.dtype, s->spec.dim, t->rows, t->n, s->norms);
        t->norms = s->norms;
    }
    const float low = cosine ? FLT_MIN / 2 : 0;
    for (size_t i = 0; i < t->n; i++) {
        float norm = t->norms[i];
        float r = s->spec.metric == MN_L2 ? norm : sqrtf(norm);
        s->r[i] = norm >= low && norm <= FLT_MAX ? r : NAN;
    }
}

static size_t count_visible(const struct tile *t)
{
    if (!t->hidden)
        return t->n;
    size_t hidden = 0;
    for (size_t w = 0; w * 64 < t->n; w++) {
        uint64_t bits = t->hidden[w];
        if (t->n - w * 64 < 64)
            bits &= ((uint64_t)1 << (t->n - w * 64)) - 1;
        hidden += (size_t)__builtin_popcountll(bits);
    }
    return t->n - hidden;
}

static mn_status scan_tile(struct scan *s, struct tile *t)
{
    mn_status st = MN_OK;
    t->visible = count_visible(t);
    if (t->visible == 0)
        return MN_OK;
    bool batch = batch_pays(s, t);
    memset(s->state, ROW_NEW, t->n);
    prepare_rows(s, t, batch);
    if (batch)
        st = batch_tile(s, t);
    for (size_t q = batch ? s->batch_nq : 0; !st && q < s->spec.nq; q++)
        st = direct_tile(s, t, q);
    s->seen += t->visible;
    return st;
}

mn_status scan_block(struct scan *s, const struct scan_block *b, scan_admit_fn admit, void *ctx,
                     mn_error *err)
{
    mn_error unheard;
    if (!err) {
        mn_error_clear(&unheard);
        err = &unheard;
    }
    for (size_t first = 0; first < b->n; first += TILE) {
        struct tile t = {
            .ids = b->ids + first,
            .rows = (const char *)b->vectors + first * s->bytes,
            .norms = b->norms ? b->norms + first : NULL,
            .hidden = b->hidden ? b->hidden + first / 64 : NULL,
            .n = b->n - first < TILE ? b->n - first : TILE,
            .admit = admit, .ctx = ctx, .err = err,
        };
        mn_status st = scan_tile(s, &t);
        if (st)
            return st;
    }
    return MN_OK;
}

/* ---- Results ------------------------------------------------------------------------------- */

static const mn_hit *results(const struct query *p, bool radius_mode, size_t *n)
{
    *n = radius_mode ? p->all.n : p->top.n;
    return radius_mode ? p->all.hits : p->top.hits;
}

mn_status scan_merge(struct scan *into, const struct scan *from, mn_error *err)
{
    assert(into->spec.nq == from->spec.nq && into->spec.k == from->spec.k &&
           into->spec.dim == from->spec.dim && into->spec.metric == from->spec.metric &&
           into->spec.radius_mode == from->spec.radius_mode);
    for (size_t q = 0; q < from->spec.nq; q++) {
        size_t n;
        const mn_hit *hits = results(&from->queries[q], from->spec.radius_mode, &n);
        for (size_t i = 0; i < n; i++) {
            if (!would_enter(into, &into->queries[q], hits[i].distance, hits[i].id))
                continue;
            mn_status st = add_hit(into, q, hits[i].distance, hits[i].id, err);
            if (st)
                return st;
        }
    }
    into->seen += from->seen;
    into->invalid += from->invalid;
    return MN_OK;
}

size_t scan_count(const struct scan *s, size_t q)
{
    size_t n;
    assert(q < s->spec.nq);
    results(&s->queries[q], s->spec.radius_mode, &n);
    return n;
}

void scan_hits(struct scan *s, size_t q, mn_hit *hits)
{
    size_t n;
    assert(q < s->spec.nq);
    const mn_hit *kept = results(&s->queries[q], s->spec.radius_mode, &n);
    for (size_t i = 0; i < n; i++)
        hits[i] = (mn_hit){kept[i].id, distance_of(s, kept[i].distance)};
    hits_sort(hits, n);
}

uint64_t scan_invalid_rows(const struct scan *s)
{
    return s->invalid;
}

void scan_distances(struct scan *s, size_t q, const void *rows, size_t n, double *distances)
{
    const struct query *p = &s->queries[q];
    float norms[TILE];
    for (size_t first = 0; first < n; first += TILE) {
        struct tile t = {.rows = (const char *)rows + first * s->bytes,
                         .norms = norms,
                         .n = n - first < TILE ? n - first : TILE};
        tile_norms(s->kn, s->spec.dtype, s->spec.dim, t.rows, t.n, norms);
        score(s, &t, p, 0, t.n);
        for (size_t i = 0; i < t.n; i++) {
            double raw = s->is_float ? (double)s->scores[i] : (double)s->counts[i], key;
            distances[first + i] = key_of(s, &t, p, i, raw, &key) ? distance_of(s, key) : NAN;
        }
    }
}
