/* Clustering: balance, quality against plain k-means, determinism, budgets, and what it does with
 * rows that cannot be told apart. */
/* threads */
#include "index/cluster.h"
#include "index/kmeans.h"
#include "storage/base/error.h"
#include "tests/index/ann_fixture.h"

#include <pthread.h>

struct rows {
    float *x;
    size_t n, fetched, calls;
    uint32_t dim;
    size_t fail_at; /* call that fails; 0: none */
};

static mn_status fetch(void *ctx, const uint32_t *rows, size_t n, float *out, mn_error *err)
{
    struct rows *r = ctx;
    CHECK(n > 0);
    for (size_t i = 0; i < n; i++) {
        CHECK(rows[i] < r->n && (i == 0 || rows[i] > rows[i - 1]));
        memcpy(out + i * r->dim, r->x + (size_t)rows[i] * r->dim, r->dim * 4);
    }
    r->fetched += n;
    if (++r->calls == r->fail_at)
        return mn_fail(err, MN_IO, "row %u cannot be read", rows[0]);
    return MN_OK;
}

static struct rows make(size_t n, uint32_t dim, enum fixture_shape shape)
{
    struct rows r = {.x = malloc(n * dim * 4), .n = n, .dim = dim};
    struct fixture_spec spec = {.dim = dim, .shape = shape, .seed = 8};
    fixture_rows(r.x, n, &spec);
    return r;
}

static struct clusters run(struct mn_alloc *a, struct rows *r, struct cluster_opts opts)
{
    struct clusters c;
    mn_error err;
    mn_error_clear(&err);
    struct ann_source source = {r->n, r->dim, fetch, r};
    CHECK_OK(cluster(a, kernels_select(ISA_COUNT), &source, &opts, &c, &err), err);
    return c;
}

/* Mean squared distance to the row's own centroid, and to the nearest one. */
static void spread(const struct rows *r, const struct clusters *c, double *own, double *nearest)
{
    float *d = malloc(c->k * sizeof *d);
    const struct kernels *kn = kernels_select(ISA_COUNT);
    *own = *nearest = 0;
    for (size_t i = 0; i < r->n; i += 7) {
        float least = INFINITY;
        kn->l2[ELEM_F32](r->x + i * r->dim, c->centroids, r->dim * 4u, c->k, r->dim, d);
        for (uint32_t j = 0; j < c->k; j++)
            least = fminf(least, d[j]);
        *own += (double)d[c->of[i]] * 7 / (double)r->n;
        *nearest += (double)least * 7 / (double)r->n;
    }
    free(d);
}

static void check_whole(const struct rows *r, const struct clusters *c, uint32_t most)
{
    uint32_t *sizes = calloc(c->k, sizeof *sizes);
    for (size_t i = 0; i < r->n; i++) {
        CHECK(c->of[i] < c->k);
        sizes[c->of[i]]++;
    }
    for (uint32_t j = 0; j < c->k; j++) {
        CHECK_EQ(sizes[j], c->sizes[j]);
        CHECKF(sizes[j] > 0 && sizes[j] <= most, "cluster %u has %u rows", j, sizes[j]);
    }
    free(sizes);
}

TEST(clusters_are_balanced_and_rows_are_near_theirs)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct rows r = make(12000, 32, SHAPE_CLUSTERED);
    struct clusters c = run(a, &r, (struct cluster_opts){.k = 150, .seed = 3});
    double own, nearest, plain_own, plain_nearest;
    check_whole(&r, &c, 2 * 3 * (12000 / 150 + 1));
    CHECKF(c.k > 100 && c.k < 225, "%u clusters of 150 wanted", c.k);
    spread(&r, &c, &own, &nearest);
    CHECKF(own < 1.02 * nearest, "rows %g from their centroids, %g from the nearest", own, nearest);
    /* plain k-means on all rows, of as many clusters */
    struct clusters plain = {c.k, r.dim, malloc(c.k * r.dim * 4), c.of, NULL};
    mn_error err;
    mn_error_clear(&err);
    const struct kmeans_spec spec = {
        .rows = r.x, .n = r.n, .dim = r.dim, .k = c.k, .rounds = 10, .seed = 5};
    CHECK_OK(kmeans(a, kernels_select(ISA_COUNT), &spec, plain.centroids, &err), err);
    spread(&r, &plain, &plain_own, &plain_nearest);
    test_note("%u clusters, spread %.3f, plain k-means %.3f", c.k, own, plain_nearest);
    CHECK(own < 1.15 * plain_nearest);
    free(plain.centroids);
    clusters_fini(a, &c);
    free(r.x);
    CHECK_EQ(mn_alloc_used(a), 0);
    mn_alloc_destroy(a);
}

/* Threads for real, but for the last worker, who never comes. */
struct worker {
    void (*fn)(void *arg, unsigned worker);
    void *arg;
    unsigned number;
    pthread_t thread;
};

static void *work(void *p)
{
    struct worker *w = p;
    w->fn(w->arg, w->number);
    return NULL;
}

static void run_threads(void *ctx, unsigned n, void (*fn)(void *arg, unsigned worker), void *arg)
{
    struct worker workers[16];
    ++*(int *)ctx;
    CHECK(n > 1 && n <= 16);
    for (unsigned i = 1; i < n - 1; i++) {
        workers[i] = (struct worker){.fn = fn, .arg = arg, .number = i};
        CHECK_EQ(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    fn(arg, 0);
    for (unsigned i = 1; i < n - 1; i++)
        pthread_join(workers[i].thread, NULL);
}

static void check_alike(const struct clusters *x, const struct clusters *y, size_t n, uint32_t t)
{
    CHECK_EQ(x->k, y->k);
    CHECKF(memcmp(x->of, y->of, n * sizeof *x->of) == 0, "%u threads: other clusters", t);
    CHECKF(memcmp(x->centroids, y->centroids, (size_t)x->k * x->dim * sizeof(float)) == 0,
           "%u threads: other centroids", t);
}

TEST(clusters_do_not_depend_on_threads)
{
    static const struct {
        size_t n;
        uint32_t dim, k;
        enum fixture_shape shape;
        uint64_t budget;
    } cases[] = {{9000, 20, 90, SHAPE_CLUSTERED, 0},
                 {20000, 48, 300, SHAPE_CLUSTERED, 2 << 20}, /* the sample is not kept */
                 {6000, 8, 60, SHAPE_CLUMP, 0},              /* splits */
                 {3000, 400, 40, SHAPE_NORMAL, 9 << 20}};    /* fewer workers than threads */
    static const uint32_t threads[] = {2, 3, 7};
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rows r = make(cases[i].n, cases[i].dim, cases[i].shape);
        struct cluster_opts opts = {.k = cases[i].k, .seed = 3, .budget_bytes = cases[i].budget};
        struct clusters one = run(a, &r, opts);
        int used = 0;
        for (size_t t = 0; t < 3; t++) {
            struct parallel p = {run_threads, &used, threads[t]};
            opts.parallel = &p;
            struct clusters more = run(a, &r, opts);
            check_alike(&one, &more, r.n, threads[t]);
            clusters_fini(a, &more);
        }
        CHECK(used > 0);
        opts.parallel = NULL;
        opts.seed = 4;
        struct clusters other = run(a, &r, opts);
        CHECK(one.k != other.k || memcmp(one.of, other.of, r.n * sizeof *one.of) != 0);
        clusters_fini(a, &one);
        clusters_fini(a, &other);
        free(r.x);
    }
    mn_alloc_destroy(a);
}

TEST(plain_k_means_does_not_depend_on_threads)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct rows r = make(7000, 64, SHAPE_CLUSTERED);
    struct kmeans_spec spec = {
        .rows = r.x, .n = r.n, .dim = r.dim, .k = 50, .rounds = 6, .seed = 5};
    static float one[50 * 64], more[50 * 64];
    mn_error err = {0};
    int used = 0;
    CHECK_OK(kmeans(a, kernels_select(ISA_COUNT), &spec, one, &err), err);
    for (uint32_t t = 2; t < 8; t++) {
        struct parallel p = {run_threads, &used, t};
        spec.parallel = &p;
        CHECK_OK(kmeans(a, kernels_select(ISA_COUNT), &spec, more, &err), err);
        CHECKF(memcmp(one, more, sizeof one) == 0, "%u threads: other centroids", t);
    }
    CHECK_EQ(used, 6 * 6);
    free(r.x);
    CHECK_EQ(mn_alloc_used(a), 0);
    mn_alloc_destroy(a);
}

TEST(a_small_budget_is_kept)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct rows r = make(20000, 64, SHAPE_CLUSTERED);
    const uint64_t budget = 2 << 20; /* the rows are 5 MB */
    struct clusters c = run(a, &r, (struct cluster_opts){.k = 64, .seed = 1,
                                                         .budget_bytes = budget});
    uint64_t result = (uint64_t)(64 + 32 + 64) * (64 * 4 + 4) + r.n * 4;
    CHECKF(mn_alloc_peak(a) <= budget + result + r.n * 8, "peak %" PRIu64, mn_alloc_peak(a));
    check_whole(&r, &c, 2 * 3 * (20000 / 64 + 1));
    clusters_fini(a, &c);
    free(r.x);
    mn_alloc_destroy(a);
    /* many clusters of many elements: fewer are made */
    a = mn_alloc_create(NULL, UINT64_MAX);
    r = make(3000, 1000, SHAPE_NORMAL);
    c = run(a, &r, (struct cluster_opts){.k = 1000, .seed = 1, .budget_bytes = 4 << 20});
    CHECK(c.k < 300);
    result = (uint64_t)(150 + 75 + 64) * (1000 * 4 + 4) + r.n * 4;
    uint64_t task = 2 * 512 * 1000 * 4; /* a chunk of rows: the least there is */
    CHECKF(mn_alloc_peak(a) <= (4 << 20) + result + r.n * 8 + task, "peak %" PRIu64,
           mn_alloc_peak(a));
    clusters_fini(a, &c);
    free(r.x);
    mn_alloc_destroy(a);
}

TEST(rows_that_are_alike_are_cut_evenly)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    static const enum fixture_shape shapes[] = {SHAPE_CONSTANT, SHAPE_REPEATED, SHAPE_CLUMP};
    for (size_t i = 0; i < 3; i++) {
        struct rows r = make(6000, 8, shapes[i]);
        struct clusters c = run(a, &r, (struct cluster_opts){.k = 60, .seed = 1});
        check_whole(&r, &c, 2 * 3 * (6000 / 60 + 1));
        clusters_fini(a, &c);
        free(r.x);
    }
    mn_alloc_destroy(a);
}

TEST(few_rows_and_dims_cluster)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    static const size_t n[] = {1, 2, 3, 5, 40, 700};
    static const uint32_t dims[] = {1, 2, 7, 300};
    for (size_t i = 0; i < 6; i++)
        for (size_t d = 0; d < 4; d++)
            for (uint32_t k = 0; k < 30; k += 14) {
                struct rows r = make(n[i], dims[d], SHAPE_NORMAL);
                struct clusters c = run(a, &r, (struct cluster_opts){.k = k, .seed = k});
                check_whole(&r, &c, UINT32_MAX);
                clusters_fini(a, &c);
                free(r.x);
            }
    CHECK_EQ(mn_alloc_used(a), 0);
    mn_alloc_destroy(a);
}

static mn_status stop(void *ctx, uint64_t done, uint64_t total, mn_error *err)
{
    int *left = ctx;
    CHECK(done <= total);
    return (*left)-- > 0 ? MN_OK : mn_fail(err, MN_INTERRUPTED, "stop");
}

TEST(failures_leave_nothing_behind)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct rows r = make(3000, 16, SHAPE_CLUSTERED);
    struct ann_source source = {r.n, r.dim, fetch, &r};
    const struct kernels *kn = kernels_select(ISA_COUNT);
    struct clusters c;
    mn_error err;
    size_t failed = 0;
    for (size_t at = 1; at < 200; at += 1 + at / 10) { /* every early call, some later ones */
        struct cluster_opts opts = {.k = 40, .seed = 1};
        int ticks = (int)at;
        mn_error_clear(&err);
        r.calls = 0;
        r.fail_at = at;
        mn_status st = cluster(a, kn, &source, &opts, &c, &err);
        CHECK(st == MN_OK || (st == MN_IO && err.code == MN_IO && !c.centroids));
        failed += st != MN_OK;
        clusters_fini(a, &c);
        mn_error_clear(&err);
        r.fail_at = 0;
        opts.tick = stop;
        opts.tick_ctx = &ticks;
        st = cluster(a, kn, &source, &opts, &c, &err);
        CHECK(st == MN_OK || st == MN_INTERRUPTED);
        clusters_fini(a, &c);
        CHECK_EQ(mn_alloc_used(a), 0);
    }
    CHECKF(failed > 8, "%zu", failed);
    mn_alloc_destroy(a);
    uint64_t most = 3 << 20;
    for (uint64_t cap = 1000; cap < most; cap += cap / 3) { /* memory runs out everywhere */
        struct cluster_opts opts = {.k = 40, .seed = 1};
        a = mn_alloc_create(NULL, cap);
        mn_error_clear(&err);
        mn_status st = cluster(a, kn, &source, &opts, &c, &err);
        CHECK(st == MN_OK || st == MN_NOMEM);
        clusters_fini(a, &c);
        CHECK_EQ(mn_alloc_used(a), 0);
        mn_alloc_destroy(a);
    }
    a = mn_alloc_create(NULL, UINT64_MAX);
    source.n = 0;
    mn_error_clear(&err);
    struct cluster_opts none = {0};
    CHECK_EQ(cluster(a, kn, &source, &none, &c, &err), MN_INVALID);
    mn_alloc_destroy(a);
    free(r.x);
}

/* What a trainer from outside was given, and what it is to answer. */
struct trained {
    const char *name;
    mn_status status;   /* that it returns */
    const char *why;    /* its sentence */
    bool leave_one_out; /* of the centroids */
    float element;      /* written into the last one, if not 0 */
    int stop_at;        /* tick that fails; 0: none */
    mn_status want;
    const char *says;
    size_t n, asked;
};

static mn_status tick_at(void *ctx, uint64_t done, uint64_t total, mn_error *err)
{
    struct trained *t = ctx;
    (void)done, (void)total;
    return t->stop_at && --t->stop_at == 0 ? mn_fail(err, MN_INTERRUPTED, "enough") : MN_OK;
}

/* Every n/k-th row of the sample is a centroid. */
static mn_status pick(void *ctx, const mn_training *t, mn_error *err)
{
    struct trained *want = ctx;
    want->n = t->n;
    want->asked++;
    if (!t->go_on(t->go_on_ctx))
        return MN_BUSY; /* anything: the tick's own failure counts */
    if (want->status) {
        if (want->why)
            snprintf(err->message, sizeof err->message, "%s", want->why);
        return want->status;
    }
    for (size_t j = 0; j < t->k - want->leave_one_out; j++)
        memcpy(t->centroids + j * t->dim, t->vectors + t->n * j / t->k * t->dim,
               t->dim * sizeof(float));
    if (want->element != 0)
        t->centroids[(size_t)t->k * t->dim - 1] = want->element;
    return MN_OK;
}

TEST(a_trainer_chooses_centroids_and_the_rest_is_ours)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct rows r = make(20000, 32, SHAPE_CLUSTERED);
    struct trained t = {.name = "picked"};
    static const struct {
        uint64_t budget;
        size_t n; /* rows that the trainer gets */
    } cases[] = {{0, 100 * 48}, {800 << 10, (400 << 10) / (32 * 4)}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        t.asked = 0;
        struct clusters c = run(a, &r, (struct cluster_opts){.k = 100, .seed = 1,
                                                             .budget_bytes = cases[i].budget,
                                                             .train = pick, .train_ctx = &t});
        CHECK_EQ(t.asked, 1);
        CHECK_EQ(t.n, cases[i].n);
        check_whole(&r, &c, 6 * (uint32_t)(r.n / 100));
        clusters_fini(a, &c);
        CHECK_EQ(mn_alloc_used(a), 0);
    }
    mn_alloc_destroy(a);
    free(r.x);
}

TEST(a_trainer_that_fails_says_why)
{
    static struct trained table[] = {
        {.name = "its sentence", .status = MN_NOMEM, .why = "no room on the card",
         .want = MN_NOMEM, .says = "the trainer failed: no room on the card"},
        {.name = "no sentence", .status = MN_IO, .want = MN_IO, .says = "the trainer failed: io"},
        {.name = "too few", .leave_one_out = true, .want = MN_INVALID,
         .says = "the trainer gave no good centroid 39 of 40: its element 0 is missing"},
        {.name = "infinite", .element = INFINITY, .want = MN_INVALID,
         .says = "no good centroid 39 of 40: its element 15"},
        {.name = "NaN", .element = NAN, .want = MN_INVALID, .says = "its element 15"},
        {.name = "interrupted", .stop_at = 1, .want = MN_INTERRUPTED, .says = "enough"},
    };
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct rows r = make(3000, 16, SHAPE_CLUSTERED);
    struct ann_source source = {r.n, r.dim, fetch, &r};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct clusters c;
        mn_error err = {0};
        struct cluster_opts opts = {.k = 40, .seed = 1, .tick = tick_at, .tick_ctx = &table[i],
                                    .train = pick, .train_ctx = &table[i]};
        mn_status st = cluster(a, kernels_select(ISA_COUNT), &source, &opts, &c, &err);
        CHECKF(st == table[i].want && err.code == st && strstr(err.message, table[i].says),
               "%s: status %d, %s", table[i].name, (int)st, err.message);
        CHECKF(!c.centroids && mn_alloc_used(a) == 0, "%s", table[i].name);
    }
    mn_alloc_destroy(a);
    free(r.x);
}

TEST_MAIN
