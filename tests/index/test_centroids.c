/* The graph over centroids: reachability, what walks find beside the flat scan, and searches that
 * use it beside those that do not. */
#include "index/centroid_graph.h"
#include "index/query.h"
#include "tests/index/ann_fixture.h"

struct set {
    struct mn_alloc *a;
    const struct kernels *kn;
    struct rabitq *rabitq;
    struct centroids *c;
    struct query *query;
    struct centroid_walk walk;
    float *vectors, *queries, *scanned, *key;
    uint32_t n, nq, dim;
    enum ann_metric metric;
};

struct set_spec {
    uint32_t n, dim;
    enum ann_metric metric;
    enum fixture_shape shape;
    const bool *dead;
    uint64_t seed;
};

static void set_make(struct set *s, const struct set_spec *spec)
{
    mn_error err;
    mn_error_clear(&err);
    *s = (struct set){.a = mn_alloc_create(NULL, UINT64_MAX), .kn = kernels_select(ISA_COUNT),
                      .n = spec->n, .nq = 100, .dim = spec->dim, .metric = spec->metric};
    s->vectors = malloc((size_t)(s->n + s->nq) * s->dim * sizeof(float));
    s->queries = s->vectors + (size_t)s->n * s->dim;
    struct fixture_spec rows = {.dim = s->dim, .shape = spec->shape, .seed = spec->seed + 3};
    fixture_rows(s->vectors, s->n + s->nq, &rows);
    for (uint32_t j = 0; spec->dead && j < s->n; j++)
        if (spec->dead[j])
            s->vectors[(size_t)j * s->dim] = NAN;
    struct rabitq_spec rs = {.dim = s->dim, .metric = s->metric, .bits = 1, .seed = spec->seed};
    CHECK_OK(rabitq_create(s->a, s->kn, &rs, &s->rabitq, &err), err);
    struct centroids_spec cs = {.vectors = s->vectors, .n = s->n, .graph_from = 1};
    CHECK_OK(centroids_create(s->a, s->rabitq, &cs, &s->c, &err), err);
    CHECK_OK(query_create(s->a, s->dim, &s->query, &err), err);
    CHECK(centroid_walk_init(&s->walk, s->a, s->n));
    s->scanned = mn_alloc_array(s->a, s->n + CENTROID_LANES, sizeof(float), MN_TAG_SEARCH);
    s->key = mn_alloc_array(s->a, s->n, sizeof(float), MN_TAG_SEARCH);
}

static void set_free(struct set *s)
{
    centroid_walk_fini(&s->walk, s->a);
    query_destroy(s->a, s->query);
    centroids_destroy(s->a, s->c);
    rabitq_destroy(s->a, s->rabitq);
    mn_free(s->a, s->scanned);
    mn_free(s->a, s->key);
    free(s->vectors);
    CHECK_EQ(mn_alloc_used(s->a), 0);
    mn_alloc_destroy(s->a);
}

static bool begin(struct set *s, uint32_t i, const struct centroid_reach *reach, uint32_t beam)
{
    query_prepare(s->query, s->rabitq, s->queries + (size_t)i * s->dim, 2, 3);
    return centroid_walk_begin(&s->walk, s->c->graph, s->kn, &s->query->center, reach, beam,
                               s->key);
}

/* Follows everything: what is met then is what can be reached. */
static bool meet_all(struct set *s, uint32_t i)
{
    struct centroid_reach *any = calloc(s->n, sizeof *any);
    const struct centroid_rule rule = {.limit = 0, .bar = 0, .length = 1, .most = s->n};
    bool room = begin(s, i, any, 1) && centroid_walk_follow(&s->walk, &rule);
    free(any);
    return room;
}

/* `all`: a walk that starts anywhere meets all. Equal centroids may hang on one another so that
 * only some entry points lead to them. */
static void check_reached(struct set *s, uint32_t live, bool all)
{
    mn_error err;
    mn_error_clear(&err);
    CHECK_OK(centroid_graph_check(s->c->graph, s->a, &err), err);
    CHECK(meet_all(s, 0));
    CHECKF(all ? s->walk.n == live : s->walk.n <= live, "%u of %u, dim %u", s->walk.n, live,
           s->dim);
    uint8_t *met = calloc(s->n, 1);
    for (uint32_t i = 0; i < s->walk.n; i++) {
        CHECK(s->walk.at[i] < s->n && !met[s->walk.at[i]]);
        met[s->walk.at[i]] = 1;
    }
    free(met);
}

TEST(every_centroid_is_reached)
{
    static const struct {
        uint32_t n, dim;
    } table[] = {{1, 8}, {2, 8}, {3, 1}, {17, 7}, {300, 1}, {1000, 7}, {2000, 100}, {150, 1536}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        for (int shape = SHAPE_CLUSTERED; shape <= SHAPE_CLUMP; shape++)
            for (int metric = ANN_L2; metric <= ANN_IP; metric++) {
                struct set s;
                struct set_spec spec = {.n = table[i].n, .dim = table[i].dim, .seed = i,
                                        .metric = (enum ann_metric)metric,
                                        .shape = (enum fixture_shape)shape};
                set_make(&s, &spec);
                check_reached(&s, s.n,
                              s.dim > 1 && (shape == SHAPE_CLUSTERED || shape == SHAPE_NORMAL));
                set_free(&s);
            }
}

TEST(the_same_seed_makes_the_same_graph)
{
    struct set a, b, c;
    struct set_spec spec = {.n = 2000, .dim = 24, .seed = 5};
    set_make(&a, &spec);
    set_make(&b, &spec);
    uint32_t same = 0, met = 0;
    for (uint32_t i = 0; i < a.nq; i++) {
        CHECK(begin(&a, i, NULL, 16) && begin(&b, i, NULL, 16));
        CHECK_EQ(a.walk.n, b.walk.n);
        CHECK(memcmp(a.walk.at, b.walk.at, a.walk.n * sizeof *a.walk.at) == 0);
        CHECK(memcmp(a.key, b.key, a.walk.n * sizeof *a.key) == 0);
    }
    struct rabitq_spec rs = {.dim = 24, .metric = ANN_L2, .bits = 1, .seed = 6};
    mn_error err;
    mn_error_clear(&err);
    c = b; /* another seed over the same vectors: another graph */
    CHECK_OK(rabitq_create(b.a, b.kn, &rs, &c.rabitq, &err), err);
    struct centroids_spec cs = {.vectors = b.vectors, .n = b.n, .graph_from = 1};
    CHECK_OK(centroids_create(b.a, c.rabitq, &cs, &c.c, &err), err);
    for (uint32_t i = 0; i < a.nq; i++) {
        CHECK(begin(&a, i, NULL, 16) && begin(&c, i, NULL, 16));
        met += a.walk.n;
        for (uint32_t j = 0; j < a.walk.n && j < c.walk.n; j++)
            same += a.walk.at[j] == c.walk.at[j];
    }
    CHECK(same < met / 2);
    centroids_destroy(b.a, c.c);
    rabitq_destroy(b.a, c.rabitq);
    set_free(&a);
    set_free(&b);
}

/* Share of queries whose nearest centroid by exact distance a walk puts first, and of the
 * `of` nearest by the codes those that it meets. */
static void measure(struct set *s, uint32_t beam, uint32_t of, double *first, double *met)
{
    float *exact = malloc(s->n * sizeof *exact);
    uint8_t *has = malloc(s->n);
    *first = *met = 0;
    for (uint32_t i = 0; i < s->nq; i++) {
        const float *q = s->queries + (size_t)i * s->dim;
        CHECK(begin(s, i, NULL, beam));
        (s->metric == ANN_L2 ? s->kn->l2 : s->kn->dot)[ELEM_F32](q, s->vectors, s->dim * 4u, s->n,
                                                                 s->dim, exact);
        uint32_t least = 0;
        for (uint32_t j = 1; j < s->n; j++)
            if (s->metric == ANN_L2 ? exact[j] < exact[least] : exact[j] > exact[least])
                least = j;
        *first += s->walk.at[s->walk.beam[0].entry] == least;
        centroids_scan(s->c, s->kn, &s->query->center, s->scanned);
        memset(has, 0, s->n);
        for (uint32_t j = 0; j < s->walk.n; j++) {
            float scanned = s->scanned[s->walk.at[j]];
            CHECK_NEAR(s->key[j], scanned, 1e-5 * (fabs((double)scanned) + s->dim));
            has[s->walk.at[j]] = 1;
        }
        for (size_t j = s->n; j < (size_t)s->c->blocks * CENTROID_LANES; j++)
            s->scanned[j] = INFINITY;
        for (uint32_t j = 0; j < of; j++) {
            size_t at = s->kn->least(s->scanned, (size_t)s->c->blocks * CENTROID_LANES);
            *met += (double)has[at] / of;
            s->scanned[at] = INFINITY;
        }
    }
    *first /= s->nq;
    *met /= s->nq;
    free(exact);
    free(has);
}

TEST(walks_find_the_nearest)
{
    static const struct {
        uint32_t dim;
        enum ann_metric metric;
        double first, met;
    } table[] = {{1, ANN_L2, 0.5, 0.97},  {7, ANN_L2, 0.85, 0.97},   {100, ANN_L2, 0.9, 0.97},
                 {1536, ANN_L2, 0.9, 0.95}, {7, ANN_IP, 0.85, 0.95}, {100, ANN_IP, 0.85, 0.85}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct set s;
        struct set_spec spec = {.n = table[i].dim > 1000 ? 600 : 3000, .dim = table[i].dim,
                                .metric = table[i].metric, .seed = 9};
        double first, met;
        set_make(&s, &spec);
        measure(&s, 48, 24, &first, &met);
        test_note("dim %u, metric %d: the nearest %.3f, 24 nearest %.4f", spec.dim, spec.metric,
                  first, met);
        CHECKF(first >= table[i].first && met >= table[i].met, "dim %u, metric %d: %.3f, %.4f",
               spec.dim, spec.metric, first, met);
        set_free(&s);
    }
}

TEST(the_dead_are_never_met)
{
    enum { N = 1000 };
    bool dead[N];
    for (int kind = 0; kind < 4; kind++) /* some, all but one, all, whole regions */
        for (int metric = ANN_L2; metric <= ANN_IP; metric++) {
            struct set s;
            struct set_spec spec = {.n = N, .dim = 16, .metric = (enum ann_metric)metric,
                                    .dead = dead, .seed = 2};
            uint32_t live = 0;
            for (uint32_t j = 0; j < N; j++) {
                dead[j] = kind == 0 ? j % 3 == 0 : kind == 1 ? j != 700 : kind == 2 || j < 900;
                live += !dead[j];
            }
            set_make(&s, &spec);
            CHECK((s.c->graph != NULL) == (live > 0));
            query_prepare(s.query, s.rabitq, s.queries, 2, 3);
            centroids_scan(s.c, s.kn, &s.query->center, s.scanned);
            for (uint32_t j = 0; j < N; j++)
                CHECK(!dead[j] || s.scanned[j] > 1e29f);
            if (s.c->graph)
                check_reached(&s, live, true);
            for (uint32_t j = 0; s.c->graph && j < s.walk.n; j++)
                CHECK(!dead[s.walk.at[j]]);
            set_free(&s);
        }
}

TEST(a_graph_is_extended)
{
    enum { BEFORE = 1500, N = 2500 };
    bool dead[N] = {false};
    struct set s, plain;
    struct centroids *more = NULL, *again = NULL;
    mn_error err;
    mn_error_clear(&err);
    for (int metric = ANN_L2; metric <= ANN_IP; metric++) {
        struct set_spec spec = {.n = N, .dim = 24, .metric = (enum ann_metric)metric, .seed = 7};
        set_make(&plain, &spec);
        set_make(&s, &spec);
        for (uint32_t j = 0; j < N; j++)
            dead[j] = j % 5 == 0 || (j > 200 && j < 300);
        struct centroids_spec cs = {.vectors = s.vectors, .n = BEFORE, .graph_from = 1};
        centroids_destroy(s.a, s.c);
        CHECK_OK(centroids_create(s.a, s.rabitq, &cs, &s.c, &err), err);
        for (uint32_t j = 0; j < N; j++)
            if (dead[j])
                s.vectors[(size_t)j * s.dim] = NAN;
        /* It grows; the dead die with the first step, and some come back elsewhere; some move. */
        for (uint32_t n = BEFORE + 100; n <= N; n += 300) {
            for (uint32_t j = n % 7; j < BEFORE; j += 50) {
                float *x = s.vectors + (size_t)j * s.dim, *near = x + (size_t)s.dim * BEFORE / 2;
                near = j >= BEFORE / 2 ? x - (size_t)s.dim * BEFORE / 2 : near;
                for (uint32_t d = 0; d < s.dim; d++)
                    x[d] = isnan(near[d]) ? 0.1f * (float)j : near[d] + 0.01f;
                dead[j] = false;
            }
            cs.n = n;
            cs.before = s.c;
            CHECK_OK(centroids_create(s.a, s.rabitq, &cs, &more, &err), err);
            CHECK_OK(centroids_create(s.a, s.rabitq, &cs, &again, &err), err);
            centroids_destroy(s.a, s.c);
            s.c = more;
            CHECK_OK(centroid_graph_check(more->graph, s.a, &err), err);
            CHECK(begin(&s, 0, NULL, 16));
            uint32_t met = s.walk.n;
            float first = s.key[met - 1];
            s.c = again; /* the same arguments, the same graph */
            CHECK(begin(&s, 0, NULL, 16) && s.walk.n == met && !(s.key[met - 1] != first));
            s.c = more;
            centroids_destroy(s.a, again);
        }
        uint32_t live = 0;
        s.n = cs.n;
        for (uint32_t j = 0; j < s.n; j++)
            live += !dead[j];
        check_reached(&s, live, true);
        for (uint32_t j = 0; j < s.walk.n; j++)
            CHECK(!dead[s.walk.at[j]]);
        double first, met, fresh, fresh_met;
        measure(&s, 48, 24, &first, &met);
        measure(&plain, 48, 24, &fresh, &fresh_met);
        test_note("metric %d: meets %.4f, a graph made at once %.4f", metric, met, fresh_met);
        CHECK(met > fresh_met - 0.02);
        set_free(&s);
        set_free(&plain);
    }
}

TEST(a_walk_ends_where_a_scan_is_cheaper)
{
    struct set s;
    struct set_spec spec = {.n = 9000, .dim = 4, .seed = 1};
    set_make(&s, &spec);
    CHECK(!meet_all(&s, 0));
    CHECK(s.walk.n <= centroid_walk_room(9000) && s.walk.n > 4096);
    CHECK(begin(&s, 1, NULL, 16)); /* and the next one works */
    set_free(&s);
}

TEST(a_graph_is_made_where_it_pays)
{
    enum { DIM = 1024, N = CENTROIDS_GRAPH / DIM };
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    float *vectors = calloc((size_t)N * DIM, sizeof *vectors);
    struct rabitq *q;
    mn_error err;
    mn_error_clear(&err);
    for (size_t i = 0; i < N; i++)
        vectors[i * DIM] = (float)i;
    struct rabitq_spec rs = {.dim = DIM, .metric = ANN_L2, .bits = 1};
    CHECK_OK(rabitq_create(a, kernels_select(ISA_COUNT), &rs, &q, &err), err);
    for (uint32_t i = 0; i < 3; i++) { /* one too few, enough, one too few since one is dead */
        struct centroids *c;
        struct centroids_spec spec = {.vectors = vectors, .n = N - (i == 0)};
        vectors[0] = i == 2 ? NAN : 0;
        CHECK_OK(centroids_create(a, q, &spec, &c, &err), err);
        CHECK((c->graph != NULL) == (i == 1));
        centroids_destroy(a, c);
    }
    rabitq_destroy(a, q);
    free(vectors);
    CHECK_EQ(mn_alloc_used(a), 0);
    mn_alloc_destroy(a);
}

TEST(memory_running_out_is_told_and_leaks_nothing)
{
    float vectors[500 * 8];
    struct fixture_spec rows = {.dim = 8, .seed = 1};
    fixture_rows(vectors, 500, &rows);
    struct centroids_spec spec = {.vectors = vectors, .n = 500, .graph_from = 1};
    int failures = 0;
    for (uint64_t cap = 2000;; cap += 2000) {
        struct mn_alloc *a = mn_alloc_create(NULL, cap);
        struct rabitq *q = NULL;
        struct centroids *c = NULL;
        mn_error err;
        mn_error_clear(&err);
        struct rabitq_spec rs = {.dim = 8, .metric = ANN_L2, .bits = 1};
        mn_status st = rabitq_create(a, kernels_select(ISA_COUNT), &rs, &q, &err);
        if (!st)
            st = centroids_create(a, q, &spec, &c, &err);
        CHECK(st == MN_OK || (st == MN_NOMEM && !c));
        failures += st != MN_OK;
        if (c) { /* held to the cap while it lives */
            double used = (double)mn_alloc_used_by(a, MN_TAG_CACHE);
            CHECK_NEAR((double)centroids_bytes(c), used, 0.05 * used);
        }
        centroids_destroy(a, c);
        rabitq_destroy(a, q);
        CHECK_EQ(mn_alloc_used(a), 0);
        mn_alloc_destroy(a);
        if (!st)
            break;
    }
    CHECK(failures > 20);
    CHECK_EQ(centroids_bytes_of(500, 8), 500 * (8 + 8)); /* without a graph: too few */
    CHECK(centroids_bytes_of(3000, 1536) > 3000 * 2 * 1536);
}

/* ---- Searches -------------------------------------------------------------------------------- */

static struct fixture_spec search_spec(enum ann_metric metric, bool graph)
{
    return (struct fixture_spec){.dim = 32, .bits = 4, .k_centroids = 500, .metric = metric,
                                 .n = 10000, .nq = 60, .seed = 4,
                                 .graph_from = graph ? 1 : UINT32_MAX};
}

TEST(searches_by_the_graph_find_what_scans_find)
{
    static const float lambdas[] = {1e-3f, 1e-4f, 1e-5f, 1e-7f, 0};
    for (int metric = ANN_L2; metric <= ANN_IP; metric++) {
        struct ann_fixture f[2];
        for (int graph = 0; graph < 2; graph++) {
            struct fixture_spec spec = search_spec((enum ann_metric)metric, graph);
            fixture_make(&f[graph], &spec);
        }
        CHECK(!f[0].centroids->graph && f[1].centroids->graph);
        for (size_t i = 0; i < sizeof lambdas / sizeof *lambdas; i++) {
            struct ann_stats s[2] = {{0}};
            double recall[2];
            for (int graph = 0; graph < 2; graph++)
                recall[graph] = fixture_recall(&f[graph], 10,
                                               (struct ann_knobs){.lambda = lambdas[i]}, &s[graph]);
            test_note("metric %d, %g: %.4f and %.4f, probed %.1f and %.1f, met %.0f", metric,
                      (double)lambdas[i], recall[0], recall[1], (double)s[0].probed / 60,
                      (double)s[1].probed / 60, (double)s[1].centroids / 60);
            CHECKF(recall[1] >= recall[0] - 0.02, "metric %d, %g: %.4f, by a scan %.4f", metric,
                   (double)lambdas[i], recall[1], recall[0]);
            CHECK(s[1].centroids < s[0].centroids || lambdas[i] < 1e-4f);
            CHECK(lambdas[i] > 0 || s[1].codes == f[1].n * f[1].nq); /* 0 probes all */
        }
        fixture_free(&f[0]);
        fixture_free(&f[1]);
    }
}

static enum ann_verdict one_in_hundred(void *ctx, const struct ann_candidate *c, mn_error *err)
{
    (void)ctx;
    (void)err;
    return c->id / 3 % 100 == 0 ? ANN_ADMIT : ANN_REJECT;
}

static bool hidden(int64_t id)
{
    return id / 3 % 1000 != 0;
}

TEST(searches_by_the_graph_widen_to_all)
{
    struct ann_fixture f;
    struct fixture_spec spec = search_spec(ANN_L2, true);
    const struct ann_knobs few = {.lambda = 0.1f};
    mn_error err;
    const mn_hit *hits;
    mn_error_clear(&err);
    fixture_make(&f, &spec);
    struct ann_query q = {.vector = f.queries, .k = 90, .knobs = few, .admit = one_in_hundred};
    CHECK_OK(ann_search(f.index, f.scratch, &q, &err), err);
    CHECK_EQ(ann_hits(f.scratch, &hits), 90);
    q = (struct ann_query){.vector = f.queries, .k = 5000, .knobs = few};
    CHECK_OK(ann_search(f.index, f.scratch, &q, &err), err);
    CHECK_EQ(ann_hits(f.scratch, &hits), 5000);
    fixture_hide(&f, hidden);
    for (uint32_t k = 1; k <= 20; k += 3) {
        q = (struct ann_query){.vector = f.queries, .k = k, .knobs = few};
        CHECK_OK(ann_search(f.index, f.scratch, &q, &err), err);
        CHECK_EQ(ann_hits(f.scratch, &hits), k < 10 ? k : 10);
    }
    fixture_free(&f);
}

TEST(rows_go_to_the_centroid_that_a_scan_finds)
{
    struct ann_fixture f[2];
    uint32_t *to[2], same = 0;
    for (int graph = 0; graph < 2; graph++) {
        struct fixture_spec spec = search_spec(ANN_L2, graph);
        fixture_make(&f[graph], &spec);
        to[graph] = calloc(f[graph].n, sizeof **to);
        ann_assign(f[graph].index, f[graph].scratch, f[graph].rows, f[graph].n, to[graph]);
    }
    for (size_t i = 0; i < f[0].n; i++)
        same += to[0][i] == to[1][i];
    test_note("%.4f", same / (double)f[0].n);
    CHECKF(same >= 0.995 * (double)f[0].n, "%u of %zu", same, f[0].n);
    for (int graph = 0; graph < 2; graph++) {
        free(to[graph]);
        fixture_free(&f[graph]);
    }
}

TEST_MAIN
