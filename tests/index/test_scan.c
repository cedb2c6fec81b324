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
        CHECKF(fabs(hits[i].distance - want) <= tolerance(f, want),
               "%s: hit %zu at %.17g, not %.17g", what, i, hits[i].distance, want);
        CHECKF(i == 0 || hits[i - 1].distance < hits[i].distance ||
                   (hits[i - 1].distance == hits[i].distance && hits[i - 1].id < hits[i].id),
               "%s: hit %zu is out of order", what, i);
    }
    for (size_t row = 0; row < f->n; row++)
        if (!in[row] && n) {
            double d = reference(f, q, row), worst = hits[n - 1].distance;
            CHECKF(d >= worst - 2 * tolerance(f, worst), "%s: row %zu at %.9g is missing", what,
                   row, d);
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
    size_t n = dim >= 512 ? 300 : 600;
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
        if (q % 3 && q < nq - 5) /* the last ones may go another way than the rest */
            continue;
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
    const struct kernels *kn;
    for (size_t isa = 0; (kn = kernels_at(isa)) != NULL; isa++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
            for (size_t i = 0; i < sizeof nqs / sizeof *nqs; i++)
                for (size_t j = 0; j < sizeof ks / sizeof *ks; j++) {
                    if (dtype == MN_BIT && dims[d] % 8)
                        continue;
                    if ((isa + d + i + j) % 3 != 0 && !test_long()) /* one k of three */
                        continue;
                    if (isa > 2 && dtype < MN_I8) /* variants of AVX-512 differ in integers */
                        continue;
                    if (dtype == MN_BIT) {
                        run_case(kn, dtype, MN_HAMMING, dims[d], nqs[i], ks[j]);
                        continue;
                    }
                    for (int m = MN_L2; m <= MN_COSINE; m++)
                        run_case(kn, dtype, (mn_metric)m, dims[d], nqs[i], ks[j]);
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

/* ---- What rows may be hits ----------------------------------------------------------------- */

/* Vectors drawn from `distinct` different ones: nearly every distance is a tie. */
static void make_ties(struct fixture *f, size_t distinct)
{
    for (size_t i = distinct; i < f->n; i++)
        memcpy(f->rows + i * f->bytes, f->rows + i % distinct * f->bytes, f->bytes);
    /* ids against the order of arrival */
    for (size_t i = 0; i < f->n; i++)
        f->ids[i] = -(int64_t)i;
    scan_norms(f->kn, f->dtype, f->dim, f->rows, f->n, f->norms);
}

TEST(ties_are_ordered_by_id_in_every_way)
{
    for (size_t isa = 0; kernels_at(isa); isa++)
        for (int m = MN_L2; m <= MN_COSINE; m++)
            for (size_t nq = 1; nq <= 40; nq += 39) {
                struct fixture f;
                setup(&f, kernels_at(isa), MN_F32, (mn_metric)m, 24, 3000, nq, 5);
                make_ties(&f, 10);
                struct scan_spec spec = spec_of(&f, 7);
                struct scan *s = make(&f, &spec);
                feed(&f, s, 0, f.n, true, NULL, NULL, NULL);
                for (size_t q = 0; q < nq; q++) {
                    mn_hit *hits = hits_of(s, q);
                    /* the nearest of the ten, its latest copies first */
                    int64_t residue = -hits[0].id % 10;
                    for (int64_t i = 0; i < 7; i++)
                        CHECKF(hits[i].id == -(2990 + residue - 10 * i) &&
                                   hits[i].distance == hits[0].distance,
                               "%s metric %d query %zu: hit %" PRId64 " is %" PRId64,
                               f.kn->name, m, q, i, hits[i].id);
                    free(hits);
                }
                scan_destroy(s);
                teardown(&f);
            }
}

/* Scanning with hidden rows is scanning a collection without them. */
static void check_hidden(mn_dtype dtype, mn_metric metric, size_t nq, unsigned hidden_of_16)
{
    struct fixture f;
    struct test_rng r = {hidden_of_16 + 1};
    char what[64];
    snprintf(what, sizeof what, "%s nq %zu, %u of 16 hidden", dtype_names[dtype], nq, hidden_of_16);
    setup(&f, kernels_select(ISA_COUNT), dtype, metric, 32, 1500, nq, 6);
    uint64_t *hidden = calloc((f.n + 63) / 64, sizeof *hidden);
    struct scan_spec spec = spec_of(&f, 9);
    struct scan *all = make(&f, &spec), *rest = make(&f, &spec);
    for (size_t i = 0; i < f.n; i++)
        if (test_below(&r, 16) < hidden_of_16 || (i >= 640 && i < 1000))
            hidden[i / 64] |= (uint64_t)1 << (i % 64);
    feed(&f, all, 0, f.n, true, hidden, NULL, NULL);
    for (size_t i = 0; i < f.n; i++)
        if (!(hidden[i / 64] >> (i % 64) & 1))
            feed(&f, rest, i, i + 1, true, NULL, NULL, NULL);
    for (size_t q = 0; q < nq; q++)
        check_same(all, q, rest, q, what);
    free(hidden);
    scan_destroy(all);
    scan_destroy(rest);
    teardown(&f);
}

TEST(hidden_rows_are_not_there)
{
    static const unsigned shares[] = {0, 3, 9, 13, 15, 16};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        for (size_t nq = 1; nq <= 40; nq += 39) {
            check_hidden(MN_F32, MN_L2, nq, shares[i]);
            check_hidden(MN_F16, MN_COSINE, nq, shares[i]);
            check_hidden(MN_I8, MN_IP, nq, shares[i]);
            check_hidden(MN_BIT, MN_HAMMING, nq, shares[i]);
        }
}

/* Admits ids divisible by 3, counts how often it was asked for each, stops at `stop_at`. */
struct door {
    unsigned *asked; /* by (id + 1000 - 3) / 7 */
    int64_t stop_at;
    bool stop;
    size_t total;
};

static enum scan_verdict ask_door(void *ctx, int64_t id, mn_error *err)
{
    struct door *d = ctx;
    d->asked[(id + 1000 - 3) / 7]++;
    d->total++;
    if (d->stop && id == d->stop_at) {
        mn_fail(err, MN_DEADLINE, "the deadline passed");
        return SCAN_STOP;
    }
    return id % 3 == 0 ? SCAN_ADMIT : SCAN_REJECT;
}

static void check_admit(mn_dtype dtype, mn_metric metric, size_t nq)
{
    struct fixture f;
    setup(&f, kernels_select(ISA_COUNT), dtype, metric, 48, 4000, nq, 7);
    struct door d = {.asked = calloc(f.n, sizeof *d.asked)};
    uint64_t *hidden = calloc((f.n + 63) / 64, sizeof *hidden);
    struct scan_spec spec = spec_of(&f, 5);
    struct scan *admitted = make(&f, &spec), *shown = make(&f, &spec);
    feed(&f, admitted, 0, f.n, true, NULL, ask_door, &d);
    for (size_t i = 0; i < f.n; i++)
        if (f.ids[i] % 3)
            hidden[i / 64] |= (uint64_t)1 << (i % 64);
    feed(&f, shown, 0, f.n, true, hidden, NULL, NULL);
    for (size_t q = 0; q < nq; q++)
        check_same(admitted, q, shown, q, dtype_names[dtype]);
    for (size_t i = 0; i < f.n; i++)
        CHECKF(d.asked[i] <= 1, "row %zu was asked about %u times", i, d.asked[i]);
    if (nq == 1)
        CHECKF(d.total < f.n / 10, "%zu of %zu rows were asked about", d.total, f.n);
    free(d.asked);
    free(hidden);
    scan_destroy(admitted);
    scan_destroy(shown);
    teardown(&f);
}

TEST(admit_is_asked_once_and_only_for_near_rows)
{
    for (size_t nq = 1; nq <= 40; nq += 39) {
        check_admit(MN_F32, MN_L2, nq);
        check_admit(MN_F32, MN_COSINE, nq);
        check_admit(MN_BF16, MN_IP, nq);
        check_admit(MN_I8, MN_COSINE, nq);
        check_admit(MN_BIT, MN_HAMMING, nq);
    }
}

TEST(a_stop_ends_the_scan_with_the_callbacks_error)
{
    struct fixture f;
    setup(&f, kernels_select(ISA_COUNT), MN_F32, MN_L2, 16, 300, 1, 8);
    struct door d = {.asked = calloc(f.n, sizeof *d.asked), .stop = true, .stop_at = f.ids[10]};
    struct scan_spec spec = spec_of(&f, 300);
    struct scan *s = make(&f, &spec);
    mn_error err;
    mn_error_clear(&err);
    const struct scan_block b = {.ids = f.ids, .vectors = f.rows, .n = f.n};
    CHECK_EQ(scan_block(s, &b, ask_door, &d, &err), MN_DEADLINE);
    CHECK_HAS(err.message, "deadline passed");
    CHECK_EQ(scan_block(s, &b, ask_door, &d, NULL), MN_DEADLINE);
    free(d.asked);
    scan_destroy(s);
    teardown(&f);
}

/* ---- Radius -------------------------------------------------------------------------------- */

static void check_radius(mn_dtype dtype, mn_metric metric, size_t nq)
{
    struct fixture f;
    setup(&f, kernels_select(ISA_COUNT), dtype, metric, 40, 2000, nq, 9);
    /* the distance of the 50th hit of query 0: the search must include it exactly */
    struct scan_spec spec = spec_of(&f, 50);
    struct scan *near = make(&f, &spec);
    feed(&f, near, 0, f.n, true, NULL, NULL, NULL);
    mn_hit *hits = hits_of(near, 0);
    spec.k = 0;
    spec.radius_mode = true;
    spec.radius = hits[49].distance;
    spec.max_hits = f.n;
    struct scan *s = make(&f, &spec), *left = make(&f, &spec), *right = make(&f, &spec);
    mn_error err;
    mn_error_clear(&err);
    feed(&f, s, 0, f.n, true, NULL, NULL, NULL);
    feed(&f, left, 0, 700, true, NULL, NULL, NULL);
    feed(&f, right, 700, f.n, false, NULL, NULL, NULL);
    CHECK_OK(scan_merge(left, right, &err), err);
    CHECK(scan_count(s, 0) >= 50);
    for (size_t q = 0; q < nq; q++) {
        mn_hit *all = hits_of(s, q);
        check_same(s, q, left, q, dtype_names[dtype]);
        size_t sure = 0;
        for (size_t row = 0; row < f.n; row++)
            sure += reference(&f, q, row) <= spec.radius - 2 * tolerance(&f, spec.radius);
        CHECKF(scan_count(s, q) >= sure, "%s query %zu: %zu hits of %zu", dtype_names[dtype], q,
               scan_count(s, q), sure);
        for (size_t i = 0; i < scan_count(s, q); i++) {
            CHECK(all[i].distance <= spec.radius);
            CHECK(i == 0 || all[i - 1].distance <= all[i].distance);
            if (q == 0 && i < 50)
                CHECK(all[i].id == hits[i].id && all[i].distance == hits[i].distance);
        }
        free(all);
    }
    free(hits);
    scan_destroy(near);
    scan_destroy(s);
    scan_destroy(left);
    scan_destroy(right);
    teardown(&f);
}

TEST(radius_search_finds_all_within_the_distance)
{
    for (size_t nq = 1; nq <= 40; nq += 39) {
        for (int m = MN_L2; m <= MN_COSINE; m++) {
            check_radius(MN_F32, (mn_metric)m, nq);
            check_radius(MN_F16, (mn_metric)m, nq);
            check_radius(MN_I8, (mn_metric)m, nq);
        }
        check_radius(MN_BIT, MN_HAMMING, nq);
    }
}

TEST(radius_search_has_a_limit)
{
    struct fixture f;
    setup(&f, kernels_select(ISA_COUNT), MN_F32, MN_L2, 16, 300, 2, 10);
    struct scan_spec spec = spec_of(&f, 0);
    mn_error err;
    mn_error_clear(&err);
    spec.radius_mode = true;
    spec.radius = INFINITY;
    spec.max_hits = 299;
    struct scan *s = make(&f, &spec);
    const struct scan_block b = {.ids = f.ids, .vectors = f.rows, .n = f.n};
    CHECK_EQ(scan_block(s, &b, NULL, NULL, &err), MN_FULL);
    CHECK_HAS(err.message, "more than 299 rows");
    scan_destroy(s);
    spec.max_hits = 300;
    s = make(&f, &spec);
    feed(&f, s, 0, f.n, true, NULL, NULL, NULL);
    CHECK_EQ(scan_count(s, 1), 300);
    scan_destroy(s);
    spec.radius = -1;
    s = make(&f, &spec);
    feed(&f, s, 0, f.n, true, NULL, NULL, NULL);
    CHECK_EQ(scan_count(s, 0), 0);
    scan_destroy(s);
    teardown(&f);
}

/* ---- Rows and queries that are no vectors, and extreme ones -------------------------------- */

TEST(rows_that_are_no_vectors_are_left_out_and_counted)
{
    for (size_t isa = 0; kernels_at(isa); isa++)
        for (int m = MN_L2; m <= MN_COSINE; m++)
            for (size_t nq = 1; nq <= 40; nq += 39)
                for (int norms = 0; norms < 2; norms++) {
                    struct fixture f;
                    char what[64];
                    setup(&f, kernels_at(isa), MN_F32, (mn_metric)m, 20, 1200, nq, 11);
                    snprintf(what, sizeof what, "%s metric %d nq %zu norms %d", f.kn->name, m, nq,
                             norms);
                    float *x = (float *)(void *)f.rows;
                    uint64_t hidden[19] = {0}, bad = 0;
                    for (size_t i = 5; i < f.n; i += 60, bad++) {
                        float v[] = {NAN, INFINITY, -INFINITY};
                        x[i * f.dim + i % f.dim] = v[i % 7 % 3];
                        hidden[i / 64] |= (uint64_t)1 << (i % 64);
                    }
                    if (m == MN_COSINE) { /* no direction */
                        memset(x + 601 * f.dim, 0, f.bytes);
                        hidden[601 / 64] |= (uint64_t)1 << (601 % 64);
                        bad++;
                    }
                    scan_norms(f.kn, f.dtype, f.dim, f.rows, f.n, f.norms);
                    struct scan_spec spec = spec_of(&f, 8);
                    struct scan *s = make(&f, &spec), *without = make(&f, &spec);
                    feed(&f, s, 0, f.n, norms, NULL, NULL, NULL);
                    feed(&f, without, 0, f.n, norms, hidden, NULL, NULL);
                    for (size_t q = 0; q < nq; q++)
                        check_same(s, q, without, q, what);
                    CHECKF(scan_invalid_rows(s) == bad, "%s: %" PRIu64 " of %" PRIu64, what,
                           scan_invalid_rows(s), bad);
                    CHECK_EQ(scan_invalid_rows(without), 0);
                    scan_destroy(s);
                    scan_destroy(without);
                    teardown(&f);
                }
}

/* All magnitudes that scan_check_vector lets pass, and finite rows beyond it: batch and single
 * answers agree to the bit, and order by double holds. */
TEST(extreme_magnitudes_are_scored_alike_in_every_way)
{
    static const float scales[] = {1e-19f, 1e-10f, 1.0f, 1e10f, 4e17f, 1e30f};
    for (int m = MN_L2; m <= MN_COSINE; m++)
        for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
            for (int mixed = 0; mixed < 2; mixed++) {
                struct fixture f;
                char what[64];
                snprintf(what, sizeof what, "metric %d scale %g mixed %d", m, (double)scales[i],
                         mixed);
                setup(&f, kernels_select(ISA_COUNT), MN_F32, (mn_metric)m, 20, 1500, 40, 12);
                float *x = (float *)(void *)f.rows, *y = (float *)(void *)f.queries;
                for (size_t j = 0; j < f.n * f.dim; j++)
                    x[j] *= mixed && j / f.dim % 3 ? 1.0f : scales[i];
                for (size_t j = 0; j < f.nq * f.dim && scales[i] < 1e18f; j++)
                    y[j] *= mixed && j / f.dim % 2 ? 1.0f : scales[i];
                scan_norms(f.kn, f.dtype, f.dim, f.rows, f.n, f.norms);
                struct scan_spec spec = spec_of(&f, 6);
                struct scan *s = make(&f, &spec);
                feed(&f, s, 0, f.n, true, NULL, NULL, NULL);
                for (size_t q = 0; q < f.nq; q++) {
                    struct scan_spec one = spec;
                    one.queries = f.queries + q * f.bytes;
                    one.nq = 1;
                    struct scan *alone = make(&f, &one);
                    feed(&f, alone, 0, f.n, false, NULL, NULL, NULL);
                    check_same(s, q, alone, 0, what);
                    mn_hit *hits = hits_of(s, q);
                    for (size_t h = 0; h < 6; h++)
                        CHECKF(isfinite(hits[h].distance), "%s query %zu hit %zu: %g", what, q, h,
                               hits[h].distance);
                    free(hits);
                    scan_destroy(alone);
                }
                CHECK_EQ(scan_invalid_rows(s), 0);
                scan_destroy(s);
                teardown(&f);
            }
}

/* Vectors far from the origin and close together: the batch way's bounds prove little. */
TEST(crowded_far_vectors_are_told_apart)
{
    struct fixture f;
    setup(&f, kernels_select(ISA_COUNT), MN_F32, MN_L2, 64, 4000, 40, 13);
    float *x = (float *)(void *)f.rows, *y = (float *)(void *)f.queries;
    for (size_t j = 0; j < f.n * f.dim; j++)
        x[j] = 1000 + x[j] * 0.01f;
    for (size_t j = 0; j < f.nq * f.dim; j++)
        y[j] = 1000 + y[j] * 0.01f;
    for (size_t j = 0; j < f.n * f.dim; j++)
        f.row_values[j] = (double)x[j];
    for (size_t j = 0; j < f.nq * f.dim; j++)
        f.query_values[j] = (double)y[j];
    scan_norms(f.kn, f.dtype, f.dim, f.rows, f.n, f.norms);
    struct scan_spec spec = spec_of(&f, 10);
    struct scan *s = make(&f, &spec);
    feed(&f, s, 0, f.n, true, NULL, NULL, NULL);
    for (size_t q = 0; q < f.nq; q++) {
        mn_hit *hits = hits_of(s, q);
        size_t nearer = 0;
        for (size_t row = 0; row < f.n; row++)
            nearer += reference(&f, q, row) < hits[9].distance * (1 - 1e-6);
        CHECKF(nearer <= 9, "query %zu: %zu rows are nearer than the tenth hit", q, nearer);
        free(hits);
    }
    scan_destroy(s);
    teardown(&f);
}

/* A vector's distance to itself is exactly 0 under l2 and cosine. */
TEST(a_vector_is_at_distance_zero_of_itself)
{
    for (size_t isa = 0; kernels_at(isa); isa++)
        for (int dtype = MN_F32; dtype <= MN_I8; dtype++)
            for (int m = MN_L2; m <= MN_COSINE; m += MN_COSINE - MN_L2) {
                struct fixture f;
                setup(&f, kernels_at(isa), (mn_dtype)dtype, (mn_metric)m, 777, 20, 1, 14);
                memcpy(f.queries, f.rows + 13 * f.bytes, f.bytes);
                struct scan_spec spec = spec_of(&f, 1);
                struct scan *s = make(&f, &spec);
                feed(&f, s, 0, f.n, true, NULL, NULL, NULL);
                mn_hit hit;
                scan_hits(s, 0, &hit);
                CHECKF(hit.id == f.ids[13] && hit.distance == 0, "%s %s: %g", f.kn->name,
                       dtype_names[dtype], hit.distance);
                scan_destroy(s);
                teardown(&f);
            }
}

TEST(check_vector_names_what_is_wrong)
{
    float v[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const uint16_t inf_f16[2] = {0x3c00, 0xfc00}, nan_bf16[2] = {0x7fc0, 0};
    mn_error err;
    mn_error_clear(&err);
    CHECK_OK(scan_check_vector(MN_F32, MN_L2, 8, v, "row 7", &err), err);
    v[5] = NAN;
    CHECK_EQ(scan_check_vector(MN_F32, MN_L2, 8, v, "row 7", &err), MN_INVALID);
    CHECK_HAS(err.message, "row 7: element 5 is NaN");
    mn_error_clear(&err);
    v[5] = -INFINITY;
    CHECK_EQ(scan_check_vector(MN_F32, MN_IP, 8, v, "row 7", &err), MN_INVALID);
    CHECK_HAS(err.message, "element 5 is -infinity");
    mn_error_clear(&err);
    CHECK_EQ(scan_check_vector(MN_F16, MN_L2, 2, inf_f16, "q", &err), MN_INVALID);
    CHECK_HAS(err.message, "q: element 1 is -infinity");
    mn_error_clear(&err);
    CHECK_EQ(scan_check_vector(MN_BF16, MN_L2, 2, nan_bf16, "q", &err), MN_INVALID);
    CHECK_HAS(err.message, "q: element 0 is NaN");
    mn_error_clear(&err);
    v[5] = 1e19f;
    CHECK_EQ(scan_check_vector(MN_F32, MN_L2, 8, v, "q", &err), MN_INVALID);
    CHECK_HAS(err.message, "scale the vectors down");
    mn_error_clear(&err);
    memset(v, 0, sizeof v);
    CHECK_OK(scan_check_vector(MN_F32, MN_L2, 8, v, "q", &err), err);
    CHECK_EQ(scan_check_vector(MN_F32, MN_COSINE, 8, v, "q", &err), MN_INVALID);
    CHECK_HAS(err.message, "zero vector");
    mn_error_clear(&err);
    v[2] = 1e-20f;
    CHECK_EQ(scan_check_vector(MN_F32, MN_COSINE, 8, v, "q", &err), MN_INVALID);
    CHECK_HAS(err.message, "too short");
    mn_error_clear(&err);
    CHECK_EQ(scan_check_vector(MN_I8, MN_COSINE, 8, "\0\0\0\0\0\0\0\0", "q", &err), MN_INVALID);
    CHECK_OK(scan_check_vector(MN_BIT, MN_HAMMING, 8, "\0", "q", NULL), err);
}

TEST(create_refuses_what_makes_no_sense)
{
    float v[16] = {1, 2, 3, 4, 5, 6, 7, 8, NAN};
    const struct scan_spec good = {.dtype = MN_F32, .metric = MN_L2, .dim = 8, .queries = v,
                                   .nq = 1, .k = 1};
    struct scan_spec bad[9];
    static const char *const says[] = {
        "k is 0", "k is 10001", "dimension 0", "dimension 20000", "0 queries", "hamming goes",
        "NaN", "query 1: element 0", "must be 0 in a radius",
    };
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    for (size_t i = 0; i < 9; i++)
        bad[i] = good;
    bad[0].k = 0;
    bad[1].k = 10001;
    bad[2].dim = 0;
    bad[3].dim = 20000;
    bad[4].nq = 0;
    bad[5].metric = MN_HAMMING;
    bad[6].radius_mode = true;
    bad[6].k = 0;
    bad[6].radius = NAN;
    bad[7].nq = 2;
    bad[8].radius_mode = true;
    for (size_t i = 0; i < 9; i++) {
        struct scan *s = (struct scan *)v;
        mn_error err;
        mn_error_clear(&err);
        CHECK_EQ(scan_create(a, kernels_select(ISA_COUNT), &bad[i], &s, &err), MN_INVALID);
        CHECK(s == NULL);
        CHECK_HAS(err.message, says[i]);
    }
    scan_destroy(NULL);
    mn_alloc_destroy(a);
}

/* ---- Memory -------------------------------------------------------------------------------- */

/* Lets `left` allocations pass. */
struct ration {
    long left;
};

static void *ration_alloc(void *ctx, size_t size)
{
    struct ration *r = ctx;
    return r->left-- > 0 ? malloc(size) : NULL;
}

static void ration_free(void *ctx, void *memory, size_t size)
{
    (void)ctx;
    (void)size;
    free(memory);
}

TEST(every_failed_allocation_is_reported_or_gone_around)
{
    struct fixture f;
    setup(&f, kernels_select(ISA_COUNT), MN_F16, MN_L2, 24, 1000, 40, 15);
    struct scan_spec spec = spec_of(&f, 5);
    struct scan *want = make(&f, &spec);
    feed(&f, want, 0, f.n, true, NULL, NULL, NULL);
    struct mn_alloc *kept = f.a;
    unsigned refused = 0, answered = 0;
    for (long n = 1; n < 16; n++) {
        struct ration ration = {n};
        const mn_allocator hooks = {ration_alloc, ration_free, &ration};
        struct scan *s;
        mn_error err;
        mn_error_clear(&err);
        f.a = mn_alloc_create(&hooks, UINT64_MAX);
        CHECK(f.a != NULL);
        mn_status st = scan_create(f.a, f.kn, &spec, &s, &err);
        if (st) {
            CHECK_EQ(st, MN_NOMEM);
            CHECK_HAS(err.message, "no memory");
            refused++;
        } else { /* without memory for the batch way, the direct way answers */
            feed(&f, s, 0, f.n, true, NULL, NULL, NULL);
            for (size_t q = 0; q < f.nq; q++)
                check_same(s, q, want, q, "after a failed allocation");
            answered++;
        }
        scan_destroy(s);
        CHECK_EQ(mn_alloc_used(f.a), 0);
        mn_alloc_destroy(f.a);
    }
    CHECK(refused >= 3 && answered >= 5);
    f.a = kept;
    scan_destroy(want);
    teardown(&f);
}

TEST(scanning_allocates_nothing)
{
    struct fixture f;
    setup(&f, kernels_select(ISA_COUNT), MN_BF16, MN_COSINE, 24, 2000, 40, 16);
    struct scan_spec spec = spec_of(&f, 50);
    struct scan *s = make(&f, &spec);
    uint64_t before = mn_alloc_calls(f.a);
    feed(&f, s, 0, f.n, false, NULL, NULL, NULL);
    mn_hit hits[50];
    scan_hits(s, 39, hits);
    CHECK_EQ(mn_alloc_calls(f.a), before);
    scan_destroy(s);
    teardown(&f);
}

TEST(a_scan_restarted_is_as_a_new_one)
{
    static const struct {
        mn_dtype dtype;
        mn_metric metric;
        size_t nq;
    } cases[] = {{MN_F32, MN_L2, 1}, {MN_BF16, MN_COSINE, 20}, {MN_I8, MN_IP, 16}};
    for (size_t i = 0; i < 3; i++) {
        struct fixture f;
        setup(&f, kernels_select(ISA_COUNT), cases[i].dtype, cases[i].metric, 24, 1500,
              2 * cases[i].nq, 16);
        struct scan_spec spec = spec_of(&f, 30);
        spec.nq = cases[i].nq;
        struct scan *again = make(&f, &spec);
        feed(&f, again, 0, f.n, false, NULL, NULL, NULL);
        spec.queries = (const char *)spec.queries + spec.nq * mn_vector_bytes(cases[i].dtype, 24);
        uint64_t before = mn_alloc_calls(f.a);
        scan_restart(again, spec.queries);
        CHECK_EQ(scan_count(again, 0), 0);
        feed(&f, again, 0, f.n, false, NULL, NULL, NULL);
        CHECK_EQ(mn_alloc_calls(f.a), before);
        struct scan *fresh = make(&f, &spec);
        feed(&f, fresh, 0, f.n, false, NULL, NULL, NULL);
        for (size_t q = 0; q < spec.nq; q++)
            check_same(again, q, fresh, q, "restarted");
        scan_destroy(again);
        scan_destroy(fresh);
        teardown(&f);
    }
}

TEST_MAIN
