/* Exact search against brute force in double, and its ways against each other to the bit. */
#include "index/scan.h"
#include "storage/base/error.h"
#include "tests/test.h"

#include <float.h>

static const char *const dtype_names[] = {"f32", "f16", "bf16", "i8", "bit"};
static const char *const metric_names[] = {"l2", "ip", "cosine", "hamming"};
/* A random collection and queries of one type, with what the checks need. */
struct fixture {
    struct mn_alloc *a;
    const struct kernels *kn;
    mn_dtype dtype;
    mn_metric metric;
    uint32_t dim;
    size_t n, nq, bytes;
    char *rows, *queries;
    int64_t *ids;
    float *norms;
    double *row_values, *query_values;
};

static size_t bytes_of(mn_dtype dtype, uint32_t dim)
{
    return dtype == MN_F32 ? dim * 4u : dtype == MN_I8 ? dim : dtype == MN_BIT ? dim / 8 : dim * 2u;
}

static void fill(struct test_rng *r, const struct kernels *kn, mn_dtype dtype, uint32_t dim,
                 size_t n, char *out)
{
    size_t bytes = bytes_of(dtype, dim);
    float *v = malloc(dim * sizeof *v);
    for (size_t i = 0; i < n; i++, out += bytes) {
        for (uint32_t j = 0; j < dim; j++)
            v[j] = (float)(test_normal(r) + 0.25);
        if (dtype == MN_F32)
            memcpy(out, v, bytes);
        else if (dtype == MN_F16)
            kn->f32_to_f16(v, dim, (uint16_t *)(void *)out);
        else if (dtype == MN_BF16)
            kn->f32_to_bf16(v, dim, (uint16_t *)(void *)out);
        else
            for (size_t j = 0; j < bytes; j++)
                out[j] = (char)test_rand(r);
    }
    free(v);
}

/* n elements of vectors as doubles, exactly; the caller frees. */
static double *as_doubles(const struct fixture *f, const char *vectors, size_t n)
{
    size_t count = n * f->dim;
    double *out = malloc((count + 1) * sizeof *out);
    float *wide = malloc((count + 1) * sizeof *wide);
    if (f->dtype == MN_F32)
        memcpy(wide, vectors, count * sizeof *wide);
    else if (f->dtype == MN_F16)
        f->kn->f16_to_f32(vectors, count, wide);
    else if (f->dtype == MN_BF16)
        f->kn->bf16_to_f32(vectors, count, wide);
    for (size_t i = 0; i < count; i++)
        out[i] = f->dtype == MN_I8    ? (double)(int8_t)vectors[i]
                 : f->dtype == MN_BIT ? (double)((unsigned char)vectors[i / 8] >> (i % 8) & 1)
                                      : (double)wide[i];
    free(wide);
    return out;
}

static double reference(const struct fixture *f, size_t q, size_t row)
{
    const double *y = f->query_values + q * f->dim, *x = f->row_values + row * f->dim;
    double dot = 0, l2 = 0, nx = 0, ny = 0;
    for (size_t i = 0; i < f->dim; i++) {
        double a = y[i], b = x[i];
        dot += a * b;
        l2 += (a - b) * (a - b);
        ny += a * a;
        nx += b * b;
    }
    switch (f->metric) {
    case MN_L2:
        return sqrt(l2);
    case MN_IP:
        return -dot;
    case MN_COSINE:
        return 1 - dot / sqrt(nx * ny);
    default:
        return l2;
    }
}

static void setup(struct fixture *f, const struct kernels *kn, mn_dtype dtype, mn_metric metric,
                  uint32_t dim, size_t n, size_t nq, uint64_t seed)
{
    struct test_rng r = {seed};
    *f = (struct fixture){.a = mn_alloc_create(NULL, UINT64_MAX), .kn = kn, .dtype = dtype,
                          .metric = metric, .dim = dim, .n = n, .nq = nq,
                          .bytes = bytes_of(dtype, dim)};
    f->rows = malloc(n * f->bytes + 1);
    f->queries = malloc(nq * f->bytes + 1);
    f->ids = malloc(n * sizeof *f->ids);
    f->norms = malloc(n * sizeof *f->norms);
    fill(&r, kn, dtype, dim, n, f->rows);
    fill(&r, kn, dtype, dim, nq, f->queries);
    for (size_t i = 0; i < n; i++)
        f->ids[i] = (int64_t)(i * 7 + 3) - 1000;
    /* i8 at dim 1 may draw zero vectors, which cosine refuses */
    for (size_t i = 0; dtype == MN_I8 && i < (n > nq ? n : nq); i++) {
        if (i < n)
            f->rows[i * f->bytes] |= 1;
        if (i < nq)
            f->queries[i * f->bytes] |= 1;
    }
    scan_norms(kn, dtype, dim, f->rows, n, f->norms);
    f->row_values = as_doubles(f, f->rows, n);
    f->query_values = as_doubles(f, f->queries, nq);
}

static void teardown(struct fixture *f)
{
    free(f->rows);
    free(f->queries);
    free(f->ids);
    free(f->norms);
    free(f->row_values);
    free(f->query_values);
    CHECK_EQ(mn_alloc_used(f->a), 0);
    mn_alloc_destroy(f->a);
}

static struct scan_spec spec_of(const struct fixture *f, uint32_t k)
{
    return (struct scan_spec){.dtype = f->dtype, .metric = f->metric, .dim = f->dim,
                              .queries = f->queries, .nq = f->nq, .k = k};
}

static struct scan *make(const struct fixture *f, const struct scan_spec *spec)
{
    struct scan *s;
    mn_error err;
    mn_error_clear(&err);
    CHECK_OK(scan_create(f->a, f->kn, spec, &s, &err), err);
    return s;
}

/* Rows [first, end) as one block. */
static void feed(const struct fixture *f, struct scan *s, size_t first, size_t end, bool norms,
                 const uint64_t *hidden, scan_admit_fn admit, void *ctx)
{
    mn_error err;
    mn_error_clear(&err);
    const struct scan_block b = {.ids = f->ids + first, .vectors = f->rows + first * f->bytes,
                                 .norms = norms ? f->norms + first : NULL, .n = end - first,
                                 .hidden = hidden};
    CHECK_OK(scan_block(s, &b, admit, ctx, &err), err);
}

static mn_hit *hits_of(struct scan *s, size_t q)
{
    mn_hit *hits = malloc((scan_count(s, q) + 1) * sizeof *hits);
    scan_hits(s, q, hits);
    return hits;
}

static double tolerance(const struct fixture *f, double distance)
{
    if (f->dtype == MN_I8 || f->dtype == MN_BIT)
        return 1e-12 * (1 + fabs(distance));
    return 1e-6 * (f->dim + 8) * (f->metric == MN_COSINE ? 1 : 1 + fabs(distance));
}

/* Ascending by (distance, id), right distances, and no row left out that is clearly nearer. */
static void check_against_double(const struct fixture *f, struct scan *s, size_t q, size_t k,
                                 const char *what)
{
    mn_hit *hits = hits_of(s, q);
    bool *in = calloc(f->n, sizeof *in);
    size_t n = scan_count(s, q);
    CHECKF(n == (k < f->n ? k : f->n), "%s: %zu hits", what, n);
    for (size_t i = 0; i < n; i++) {
        size_t row = (size_t)(hits[i].id + 1000 - 3) / 7;
        double want = reference(f, q, row);
        CHECKF(row < f->n && !in[row], "%s: id %" PRId64 " twice or never", what, hits[i].id);
        in[row] = true;
        CHECKF(fabs(hits[i].distance - want) <= tolerance(f, want), "%s: hit %zu at %.17g, not %.17g",
               what, i, hits[i].distance, want);
        CHECKF(i == 0 || hits[i - 1].distance < hits[i].distance ||
                   (hits[i - 1].distance == hits[i].distance && hits[i - 1].id < hits[i].id),
               "%s: hit %zu is out of order", what, i);
    }
    for (size_t row = 0; row < f->n; row++)
        if (!in[row] && n) {
            double d = reference(f, q, row), worst = hits[n - 1].distance;
            CHECKF(d >= worst - 2 * tolerance(f, worst), "%s: row %zu at %.9g is missing", what, row,
                   d);
        }
    free(in);
    free(hits);
}

static void check_same(struct scan *a, size_t qa, struct scan *b, size_t qb, const char *what)
{
    mn_hit *x = hits_of(a, qa), *y = hits_of(b, qb);
    CHECKF(scan_count(a, qa) == scan_count(b, qb), "%s: %zu and %zu hits", what,
           scan_count(a, qa), scan_count(b, qb));
    for (size_t i = 0; i < scan_count(a, qa); i++)
        CHECKF(x[i].id == y[i].id && memcmp(&x[i].distance, &y[i].distance, sizeof(double)) == 0,
               "%s: hit %zu is %" PRId64 " at %.17g here, %" PRId64 " at %.17g there", what, i,
               x[i].id, x[i].distance, y[i].id, y[i].distance);
    free(x);
    free(y);
}

/* One fixture: a batch against double, its queries alone, and two merged halves, to the bit. */
static void run_case(const struct kernels *kn, mn_dtype dtype, mn_metric metric, uint32_t dim,
                     size_t nq, uint32_t k)
{
    struct fixture f;
    char what[128];
    size_t n = dim >= 512 ? 450 : 900;
    snprintf(what, sizeof what, "%s %s %s dim %u nq %zu k %u", kn->name, dtype_names[dtype],
             metric_names[metric], dim, nq, k);
    setup(&f, kn, dtype, metric, dim, n, nq, dim * 1000 + nq * 10 + k);
    struct scan_spec spec = spec_of(&f, k);
    struct scan *s = make(&f, &spec), *left = make(&f, &spec), *right = make(&f, &spec);
    mn_error err;
    mn_error_clear(&err);
    feed(&f, s, 0, n, true, NULL, NULL, NULL);
    feed(&f, left, 0, 131, false, NULL, NULL, NULL);
    feed(&f, right, 131, 133, true, NULL, NULL, NULL);
    feed(&f, right, 133, n, false, NULL, NULL, NULL);
    CHECK_OK(scan_merge(left, right, &err), err);
    for (size_t q = 0; q < nq; q++) {
        if (q % 17 == 0)
            check_against_double(&f, s, q, k, what);
        check_same(s, q, left, q, what);
        struct scan_spec one = spec;
        one.queries = f.queries + q * f.bytes;
        one.nq = 1;
        struct scan *alone = make(&f, &one);
        feed(&f, alone, 0, n, true, NULL, NULL, NULL);
        check_same(s, q, alone, 0, what);
        scan_destroy(alone);
    }
    scan_destroy(s);
    scan_destroy(left);
    scan_destroy(right);
    teardown(&f);
}

static void run_all(mn_dtype dtype)
{
    static const uint32_t dims[] = {1, 7, 8, 100, 128, 768};
    static const size_t nqs[] = {1, 3, 29, 100};
    static const uint32_t ks[] = {1, 10, 2000};
    for (size_t isa = 0; kernels_at(isa); isa++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
            for (size_t i = 0; i < sizeof nqs / sizeof *nqs; i++)
                for (size_t j = 0; j < sizeof ks / sizeof *ks; j++) {
                    if (dtype == MN_BIT && dims[d] % 8)
                        continue;
                    if ((isa + d + i + j) % 3 != 0 && !test_long()) /* one k of three */
                        continue;
                    if (dtype == MN_BIT) {
                        run_case(kernels_at(isa), dtype, MN_HAMMING, dims[d], nqs[i], ks[j]);
                        continue;
                    }
                    for (int m = MN_L2; m <= MN_COSINE; m++)
                        run_case(kernels_at(isa), dtype, (mn_metric)m, dims[d], nqs[i], ks[j]);
                }
}

TEST(f32_answers_as_brute_force_in_double)
{
    run_all(MN_F32);
}

TEST(f16_answers_as_brute_force_in_double)
{
    run_all(MN_F16);
}

TEST(bf16_answers_as_brute_force_in_double)
{
    run_all(MN_BF16);
}

TEST(i8_answers_as_brute_force_exactly)
{
    run_all(MN_I8);
}

TEST(bits_answer_as_brute_force_exactly)
{
    run_all(MN_BIT);
}

TEST_MAIN
