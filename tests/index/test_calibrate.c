/* Recall asked for and recall got, on queries that the calibration has not seen. */
#include "index/calibrate.h"
#include "index/cluster.h"
#include "storage/base/error.h"
#include "tests/index/ann_fixture.h"

static mn_status fetch(void *ctx, const uint32_t *rows, size_t n, float *out, mn_error *err)
{
    const struct fixture_spec *spec = ctx;
    (void)err;
    for (size_t i = 0; i < n; i++) /* the centers are the rows here */
        memcpy(out + i * spec->dim, spec->centers + (size_t)rows[i] * spec->dim, spec->dim * 4);
    return MN_OK;
}

/* A fixture whose clusters are cluster()'s own. */
static void make(struct ann_fixture *f, struct fixture_spec spec)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    float *rows = malloc((spec.n + spec.nq) * spec.dim * 4);
    struct clusters c;
    mn_error err;
    mn_error_clear(&err);
    fixture_rows(rows, spec.n + spec.nq, &spec);
    spec.centers = rows;
    struct ann_source source = {spec.n, spec.dim, fetch, &spec};
    struct cluster_opts opts = {.seed = 1};
    CHECK_OK(cluster(a, kernels_select(ISA_COUNT), &source, &opts, &c, &err), err);
    spec.k_centroids = c.k;
    spec.of = c.of;
    spec.centers = c.centroids;
    fixture_make(f, &spec);
    clusters_fini(a, &c);
    free(rows);
    mn_alloc_destroy(a);
}

struct sample {
    struct ann_sample s;
    struct fixture_rerank rerank;
    float *vectors;
    int64_t *ids;
    mn_hit *truth;
    uint32_t *found;
};

static void next(void *ctx, size_t i)
{
    struct fixture_rerank *r = ctx;
    struct sample *s = (struct sample *)(void *)((char *)ctx - offsetof(struct sample, rerank));
    r->query = s->vectors + i * r->f->dim;
}

static void sample_make(struct sample *s, const struct ann_fixture *f, size_t n, uint32_t k)
{
    mn_hit *near = malloc((k + 1) * sizeof *near);
    *s = (struct sample){.rerank = {.f = f}, .vectors = malloc(n * f->dim * 4),
                         .ids = malloc(n * 8), .truth = calloc(n * k, sizeof *s->truth),
                         .found = calloc(n, sizeof *s->found)};
    for (size_t i = 0; i < n; i++) {
        size_t row = f->n * i / n;
        memcpy(s->vectors + i * f->dim, f->rows + row * f->dim, f->dim * 4);
        s->ids[i] = f->ids[row];
        size_t m = fixture_truth(f, s->vectors + i * f->dim, k + 1, NULL, near);
        for (size_t j = 0; j < m && s->found[i] < k; j++)
            if (near[j].id != s->ids[i])
                s->truth[i * k + s->found[i]++] = near[j];
    }
    s->s = (struct ann_sample){.vectors = s->vectors, .ids = s->ids, .n = n, .k = k,
                               .truth = s->truth, .found = s->found, .rerank = fixture_rerank,
                               .rerank_ctx = &s->rerank, .next = next};
    free(near);
}

static void sample_free(struct sample *s)
{
    free(s->vectors);
    free(s->ids);
    free(s->truth);
    free(s->found);
}

static void ask_and_measure(struct ann_fixture *f, const struct ann_tuning *t, uint32_t k,
                            const char *what)
{
    static const double targets[] = {0.8, 0.9, 0.95, 0.99};
    for (size_t i = 0; i < 4; i++) {
        struct ann_stats stats = {0};
        double recall = fixture_recall(f, k, ann_tuning_knobs(t, k, targets[i]), &stats);
        test_note("%s k %u: asked %.2f got %.4f, %.0f codes", what, k, targets[i], recall,
                  (double)stats.codes / (double)f->nq);
        /* 0.01, and two deviations of the mean over the test's own queries */
        double slack = 0.01 + 2 * 0.2 / sqrt((double)f->nq);
        CHECKF(recall >= targets[i] - slack, "%s, k %u: asked %.2f got %.4f", what, k, targets[i],
               recall);
    }
}

TEST(recall_asked_is_recall_got)
{
    static const struct {
        const char *name;
        enum fixture_shape shape;
        enum ann_metric metric;
        bool normalise;
        uint32_t dim;
    } table[] = {
        {"clustered l2", SHAPE_CLUSTERED, ANN_L2, false, 48},
        {"clustered cosine", SHAPE_CLUSTERED, ANN_L2, true, 64},
        {"clustered ip", SHAPE_CLUSTERED, ANN_IP, false, 32},
        {"normal l2", SHAPE_NORMAL, ANN_L2, false, 16},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct ann_fixture f;
        struct ann_tuning t = {0};
        mn_error err;
        mn_error_clear(&err);
        make(&f, (struct fixture_spec){.dim = table[i].dim, .bits = 4, .n = 8000, .nq = 300,
                                       .shape = table[i].shape, .metric = table[i].metric,
                                       .normalise = table[i].normalise, .seed = 5 + i});
        for (uint32_t k = 10; k <= 50; k += 40) {
            struct sample s;
            sample_make(&s, &f, 400, k);
            CHECK_OK(ann_calibrate(f.a, f.index, f.scratch, &s.s, &t, &err), err);
            sample_free(&s);
        }
        ask_and_measure(&f, &t, 10, table[i].name);
        ask_and_measure(&f, &t, 25, table[i].name); /* between two k */
        fixture_free(&f);
    }
}

/* Share of the true neighbours that searches without exact keys find. */
static double recall_by_estimates(struct ann_fixture *f, uint32_t k, struct ann_knobs knobs,
                                  double *codes)
{
    mn_hit *near = malloc(k * sizeof *near);
    size_t found = 0;
    mn_error err = {0};
    *codes = 0;
    for (size_t i = 0; i < f->nq; i++) {
        const float *query = f->queries + i * f->dim;
        struct ann_query q = {.vector = query, .k = k, .knobs = knobs};
        const mn_hit *hits;
        CHECK_OK(ann_search(f->index, f->scratch, &q, &err), err);
        size_t n = ann_hits(f->scratch, &hits);
        size_t m = fixture_truth(f, query, k, NULL, near);
        for (size_t a = 0; a < n; a++)
            for (size_t b = 0; b < m; b++)
                found += hits[a].id == near[b].id;
        *codes += (double)ann_stats(f->scratch)->codes / (double)f->nq;
    }
    free(near);
    return (double)found / (double)(f->nq * k);
}

TEST(estimates_find_what_is_asked_or_the_most_they_can)
{
    static const double targets[] = {0.6, 0.8, 0.9, 0.95, 0.99};
    double most_before = 0;
    for (uint32_t bits = 2; bits <= 8; bits += 3) {
        struct ann_fixture f;
        struct ann_tuning t = {0};
        struct sample s;
        mn_error err = {0};
        make(&f, (struct fixture_spec){.dim = 48, .bits = bits, .n = 8000, .nq = 300, .seed = 9,
                                       .shape = SHAPE_CLUSTERED});
        sample_make(&s, &f, 500, 10);
        s.s.rerank = NULL;
        s.s.next = NULL;
        CHECK_OK(ann_calibrate(f.a, f.index, f.scratch, &s.s, &t, &err), err);
        sample_free(&s);
        double most = (double)t.most[0], codes = 0;
        for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
            double got = recall_by_estimates(&f, 10, ann_tuning_knobs(&t, 10, targets[i]), &codes);
            double want = targets[i] < most ? targets[i] : most;
            test_note("%u bits: asked %.2f of %.3f got %.3f, %.0f codes", bits, targets[i], most,
                      got, codes);
            CHECKF(got >= want - 0.01 - 2 * 0.2 / sqrt((double)f.nq),
                   "%u bits: asked %.2f of at most %.3f got %.3f", bits, targets[i], most, got);
        }
        CHECKF(most > most_before, "%u bits give %.3f, fewer gave %.3f", bits, most, most_before);
        most_before = most;
        fixture_free(&f);
    }
    CHECK(most_before > 0.97);
}

TEST(lambda_falls_as_recall_rises)
{
    struct ann_fixture f;
    struct ann_tuning t = {0};
    struct sample s;
    mn_error err;
    mn_error_clear(&err);
    make(&f, (struct fixture_spec){.dim = 32, .bits = 4, .n = 4000, .nq = 1, .seed = 3,
                                   .shape = SHAPE_CLUSTERED});
    sample_make(&s, &f, 200, 10);
    CHECK_OK(ann_calibrate(f.a, f.index, f.scratch, &s.s, &t, &err), err);
    CHECK(t.most[0] > 0.98f);
    float before = INFINITY;
    for (double recall = 0.4; recall <= 1; recall += 0.01) {
        float lambda = ann_tuning_knobs(&t, 10, recall).lambda;
        CHECK(lambda > 0 && lambda <= before);
        before = lambda;
    }
    CHECK(before < 0.01f * ann_tuning_knobs(&t, 10, 0.5).lambda);
    /* a fifth k is refused, one that is there is replaced */
    s.s.k = 5;
    for (uint32_t k = 6; k < 9; k++) {
        struct sample more;
        sample_make(&more, &f, 20, k);
        CHECK_OK(ann_calibrate(f.a, f.index, f.scratch, &more.s, &t, &err), err);
        sample_free(&more);
    }
    CHECK_EQ(t.n_k, 4);
    CHECK_EQ(t.k[0], 6);
    CHECK_EQ(t.k[3], 10);
    CHECK_EQ(ann_calibrate(f.a, f.index, f.scratch, &s.s, &t, &err), MN_FULL);
    sample_free(&s);
    fixture_free(&f);
}

TEST(tunings_survive_their_bytes_and_bad_bytes_are_refused)
{
    struct ann_tuning t = {.n_k = 2, .k = {1, 10}}, back;
    struct test_rng r = {3};
    uint8_t bytes[TUNING_BYTES];
    mn_error err;
    mn_error_clear(&err);
    for (uint32_t i = 0; i < 2; i++) {
        t.most[i] = 0.999f;
        for (int j = 0; j < TUNING_TARGETS; j++)
            t.lambda[i][j] = 0.5f / (float)(1 << (j + (int)i));
    }
    ann_tuning_put(&t, bytes);
    CHECK_OK(ann_tuning_get(bytes, sizeof bytes, &back, &err), err);
    CHECK(memcmp(&t, &back, sizeof t) == 0);
    CHECK_EQ(ann_tuning_get(bytes, sizeof bytes - 1, &back, &err), MN_CORRUPT);
    for (int i = 0; i < 2000; i++) {
        uint8_t bad[TUNING_BYTES];
        memcpy(bad, bytes, sizeof bad);
        bad[test_below(&r, 120)] ^= (uint8_t)(1u << test_below(&r, 8));
        mn_error_clear(&err);
        mn_status st = ann_tuning_get(bad, sizeof bad, &back, &err);
        CHECK(st == MN_OK || st == MN_CORRUPT || st == MN_NEWER);
        struct ann_knobs k = ann_tuning_knobs(&back, 5, 0.9);
        CHECK(k.lambda > 0 && k.lambda <= 1);
    }
}

TEST_MAIN
