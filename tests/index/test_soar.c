/* Second postings: the choice against the formula, and searches of rows that stand twice. */
#include "index/soar.h"
#include "tests/index/ann_fixture.h"

/* The loss of the head of soar.c, in double, over all centroids but the first. */
static double loss_of(const float *x, const float *c1, const float *c, uint32_t dim, double lambda)
{
    double away = 0, along = 0, r2 = 0;
    for (uint32_t d = 0; d < dim; d++) {
        double r = (double)x[d] - (double)c1[d], v = (double)x[d] - (double)c[d];
        away += v * v;
        along += r * v;
        r2 += r * r;
    }
    return away + (r2 > 0 ? lambda * along * along / r2 : 0);
}

TEST(the_second_posting_has_the_least_loss)
{
    static const struct {
        uint32_t dim, k;
        float lambda, offset;
        bool all; /* few centroids: all of them are tried */
    } table[] = {{8, 40, 1.5f, 0, true}, {33, 60, 0.5f, 1000, true}, {100, 300, 1, 0, false},
                 {2, 2, 1, 0, true},     {16, 50, 0, 0, true}};
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    for (size_t t = 0; t < sizeof table / sizeof *table; t++) {
        uint32_t dim = table[t].dim, k = table[t].k, same = 0, n = 300;
        float *x = malloc((size_t)(k + n) * dim * sizeof *x), *rows = x + (size_t)k * dim;
        struct fixture_spec spec = {.dim = dim, .seed = t, .offset = table[t].offset};
        struct soar *s;
        mn_error err;
        mn_error_clear(&err);
        fixture_rows(x, k + n, &spec);
        memcpy(rows, x + dim, dim * sizeof *x); /* a row that is a centroid: r = 0 */
        CHECK_OK(soar_create(a, kernels_select(ISA_COUNT), x, k, dim, table[t].lambda, &s, &err),
                 err);
        for (uint32_t i = 0; i < n; i++) {
            const float *row = rows + (size_t)i * dim;
            uint32_t first = i ? i % k : 1, best = UINT32_MAX, got;
            if (!table[t].all) {
                float d[300];
                kernels_select(ISA_COUNT)->l2[ELEM_F32](row, x, dim * sizeof *x, k, dim, d);
                for (uint32_t j = first = 0; j < k; j++)
                    first = d[j] < d[first] ? j : first;
            }
            soar_assign(s, first, row, 1, &got);
            CHECK(got < k && got != first);
            double least = INFINITY;
            for (uint32_t j = 0; j < k; j++) {
                double loss = loss_of(row, x + (size_t)first * dim, x + (size_t)j * dim, dim,
                                      (double)table[t].lambda);
                if (j != first && loss < least) {
                    least = loss;
                    best = j;
                }
            }
            double loss = loss_of(row, x + (size_t)first * dim, x + (size_t)got * dim, dim,
                                  (double)table[t].lambda);
            same += got == best;
            CHECKF(!table[t].all || loss <= least * (1 + 1e-4), "row %zu: %u costs %g, %u %g", t,
                   got, loss, best, least);
        }
        CHECKF(same >= (table[t].all ? 0.97 : 0.9) * n, "row %zu: %u of %u", t, same, n);
        soar_destroy(a, s);
        free(x);
    }
    CHECK_EQ(mn_alloc_used(a), 0);
    mn_alloc_destroy(a);
}

TEST(one_centroid_has_no_second)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    float x[3] = {1, 2, 3};
    struct soar *s;
    uint32_t second[3];
    mn_error err;
    mn_error_clear(&err);
    CHECK_OK(soar_create(a, kernels_select(ISA_COUNT), x, 1, 1, SOAR_LAMBDA, &s, &err), err);
    soar_assign(s, 0, x, 3, second);
    for (size_t i = 0; i < 3; i++)
        CHECK_EQ(second[i], UINT32_MAX);
    soar_destroy(a, s);
    mn_alloc_destroy(a);
    for (uint64_t cap = 0; cap < 3000; cap += 100) {
        a = mn_alloc_create(NULL, cap);
        CHECK_EQ(soar_create(a, kernels_select(ISA_COUNT), x, 3, 1, 1, &s, &err), MN_NOMEM);
        CHECK(!s);
        CHECK_EQ(mn_alloc_used(a), 0);
        mn_alloc_destroy(a);
    }
}

/* ---- Searches -------------------------------------------------------------------------------- */

static struct fixture_spec twice_spec(enum fixture_shape shape, bool soar)
{
    return (struct fixture_spec){.dim = 32, .bits = 4, .k_centroids = 80, .n = 6000, .nq = 40,
                                 .shape = shape, .seed = 12, .soar = soar};
}

TEST(rows_that_stand_twice_are_found_once)
{
    static const uint32_t ks[] = {1, 10, 100, 3000, 7000};
    for (int shape = SHAPE_CLUSTERED; shape <= SHAPE_CLUMP; shape++)
        for (int metric = ANN_L2; metric <= ANN_IP; metric++) {
            struct ann_fixture f;
            struct fixture_spec spec = twice_spec((enum fixture_shape)shape, true);
            spec.metric = (enum ann_metric)metric;
            fixture_make(&f, &spec);
            f.nq = 8;
            for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
                /* fixture_recall checks their number, order and that each is another */
                double recall = fixture_recall(&f, ks[i], (struct ann_knobs){.lambda = 1e-6f},
                                               NULL);
                CHECKF(recall >= 0.97, "shape %d, metric %d, k %u: recall %.4f", shape, metric,
                       ks[i], recall);
            }
            fixture_free(&f);
        }
}

/* Postings probed a query at the largest lambda (of steps of a half) that reaches the recall. */
static double probed_for(struct ann_fixture *f, double recall)
{
    for (float lambda = 1e-2f; lambda > 1e-9f; lambda /= 2) {
        struct ann_stats s = {0};
        if (fixture_recall(f, 10, (struct ann_knobs){.lambda = lambda}, &s) >= recall)
            return (double)s.probed / (double)f->nq;
    }
    return INFINITY;
}

TEST(fewer_postings_are_probed_for_the_same_recall)
{
    double probed[2];
    for (int soar = 0; soar < 2; soar++) {
        struct ann_fixture f;
        struct fixture_spec spec = twice_spec(SHAPE_NORMAL, soar);
        spec.k_centroids = 150;
        fixture_make(&f, &spec);
        probed[soar] = probed_for(&f, 0.95);
        test_note("%s: %.1f probed", soar ? "twice" : "once", probed[soar]);
        fixture_free(&f);
    }
    CHECK(probed[1] < 0.75 * probed[0]);
}

struct asked {
    uint8_t *times; /* [n] */
    const struct ann_fixture *f;
};

static enum ann_verdict ask_once(void *ctx, const struct ann_candidate *c, mn_error *err)
{
    struct asked *a = ctx;
    (void)err;
    a->times[fixture_row(a->f, c->id)]++;
    return c->id / 3 % 4 ? ANN_REJECT : ANN_ADMIT;
}

static bool hidden(int64_t id)
{
    return id / 3 % 2;
}

TEST(a_filter_is_asked_once_about_each_row)
{
    struct ann_fixture f;
    struct fixture_spec spec = twice_spec(SHAPE_CLUSTERED, true);
    mn_error err;
    const mn_hit *hits;
    mn_error_clear(&err);
    fixture_make(&f, &spec);
    fixture_hide(&f, hidden);
    struct asked a = {calloc(f.n, 1), &f};
    for (uint32_t k = 1; k <= 2000; k += 333) { /* a quarter may be admitted: half of it hidden */
        memset(a.times, 0, f.n);
        struct ann_query q = {.vector = f.queries, .k = k, .knobs = {.lambda = 1e-4f},
                              .admit = ask_once, .admit_ctx = &a};
        CHECK_OK(ann_search(f.index, f.scratch, &q, &err), err);
        size_t there = 0, n = ann_hits(f.scratch, &hits);
        for (size_t i = 0; i < f.n; i++) {
            CHECKF(a.times[i] <= 1, "k %u: row %zu %u times", k, i, a.times[i]);
            there += f.ids[i] / 3 % 4 == 0 && !hidden(f.ids[i]);
        }
        CHECK_EQ(n, k < there ? k : there);
    }
    free(a.times);
    fixture_free(&f);
}

TEST(a_scratch_must_be_made_fit)
{
    struct ann_fixture f;
    struct fixture_spec spec = twice_spec(SHAPE_CLUSTERED, true);
    struct ann_scratch *s;
    mn_error err;
    mn_error_clear(&err);
    fixture_make(&f, &spec);
    CHECK_OK(ann_scratch_create(f.a, f.dim, f.k_centroids, 10, &s, &err), err);
    struct ann_query q = {.vector = f.queries, .k = 10};
    CHECK_EQ(ann_search(f.index, s, &q, &err), MN_INVALID);
    CHECK_HAS(err.message, "twice");
    mn_error_clear(&err);
    CHECK_OK(ann_scratch_fit(f.a, s, f.index, &err), err);
    uint64_t calls = mn_alloc_calls(f.a);
    CHECK_OK(ann_scratch_fit(f.a, s, f.index, &err), err);
    CHECK_OK(ann_search(f.index, s, &q, &err), err);
    CHECK_EQ(mn_alloc_calls(f.a), calls);
    ann_scratch_destroy(f.a, s);
    fixture_free(&f);
}

TEST_MAIN
