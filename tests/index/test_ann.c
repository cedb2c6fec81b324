/* Approximate search against brute force. */
#include "tests/index/ann_fixture.h"

#include "index/topk.h"

static struct fixture_spec clustered_spec(uint32_t dim, uint32_t bits)
{
    return (struct fixture_spec){.dim = dim, .bits = bits, .k_centroids = 100, .n = 8000, .nq = 50,
                                 .shape = SHAPE_CLUSTERED, .seed = 42};
}

static const struct ann_knobs careful = {.lambda = 1e-7f};

static double measure(const struct fixture_spec *spec, uint32_t k, struct ann_knobs knobs)
{
    struct ann_fixture f;
    fixture_make(&f, spec);
    double recall = fixture_recall(&f, k, knobs, NULL);
    fixture_free(&f);
    return recall;
}

/* One search with the fixture's rerank; the query is changed by the caller's fields. */
static size_t search(struct ann_fixture *f, size_t i, struct ann_query q, const mn_hit **hits)
{
    mn_error err;
    struct fixture_rerank r = {f, f->queries + i * f->dim, 0, 0, -INFINITY, 0};
    mn_error_clear(&err);
    q.vector = r.query;
    q.rerank = fixture_rerank;
    q.rerank_ctx = &r;
    CHECK_OK(ann_search(f->index, f->scratch, &q, &err), err);
    return ann_hits(f->scratch, hits);
}

TEST(smaller_lambda_finds_more)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(64, 4);
    fixture_make(&f, &spec);
    static const float lambdas[] = {1e-3f, 2e-4f, 1e-5f, 0};
    static const double floors[] = {0.85, 0.92, 0.98, 0.99};
    uint64_t codes = 0;
    for (size_t i = 0; i < 4; i++) {
        struct ann_stats s = {0};
        double recall = fixture_recall(&f, 10, (struct ann_knobs){.lambda = lambdas[i]}, &s);
        test_note("%g: recall %.4f, %.0f codes", (double)lambdas[i], recall,
                  (double)s.codes / (double)f.nq);
        CHECKF(recall >= floors[i], "lambda %g: recall %.4f", (double)lambdas[i], recall);
        CHECK(s.codes > codes && s.dropped == 0);
        CHECK(s.reranked < 30 * f.nq);
        codes = s.codes;
    }
    CHECK_EQ(codes, f.n * f.nq);
    fixture_free(&f);
}

TEST(any_dim_and_bits_find_neighbours)
{
    static const uint32_t dims[] = {1, 2, 7, 33, 100};
    for (size_t i = 0; i < 5; i++)
        for (uint32_t bits = 1; bits <= 8; bits++)
            for (int metric = ANN_L2; metric <= ANN_IP; metric++) {
                struct fixture_spec spec = clustered_spec(dims[i], bits);
                spec.n = 1500;
                spec.nq = 15;
                spec.k_centroids = 20;
                spec.metric = (enum ann_metric)metric;
                spec.exact_centroids = bits > 4;
                double recall = measure(&spec, 5, careful);
                CHECKF(recall >= 0.97, "dim %u, %u bits, metric %d: recall %.4f", dims[i], bits,
                       metric, recall);
            }
}

TEST(many_dimensions_find_neighbours)
{
    static const uint32_t dims[] = {768, 1536};
    for (size_t i = 0; i < 2; i++)
        for (int metric = ANN_L2; metric <= ANN_IP; metric++) {
            struct fixture_spec spec = clustered_spec(dims[i], 4);
            spec.n = 1500;
            spec.nq = 20;
            spec.k_centroids = 20;
            spec.metric = (enum ann_metric)metric;
            spec.normalise = metric == ANN_L2;
            double recall = measure(&spec, 10, careful);
            CHECKF(recall >= 0.98, "dim %u, metric %d: recall %.4f", dims[i], metric, recall);
        }
}

TEST(every_instruction_set_finds_neighbours)
{
    for (size_t i = 0; kernels_at(i); i++) {
        struct fixture_spec spec = clustered_spec(100, 4);
        spec.n = 3000;
        spec.nq = 30;
        spec.k_centroids = 40;
        spec.kn = kernels_at(i);
        double recall = measure(&spec, 10, careful);
        CHECKF(recall >= 0.99, "%s: recall %.4f", kernels_at(i)->name, recall);
    }
}

TEST(hard_and_far_off_data_find_neighbours)
{
    struct fixture_spec spec = clustered_spec(48, 4);
    spec.n = 4000;
    spec.shape = SHAPE_NORMAL;
    double recall = measure(&spec, 10, careful);
    CHECKF(recall >= 0.97, "normal: recall %.4f", recall);
    spec.shape = SHAPE_CLUSTERED;
    spec.offset = 50; /* the origin takes it off */
    recall = measure(&spec, 10, careful);
    CHECKF(recall >= 0.98, "far off: recall %.4f", recall);
    spec.offset = 0;
    spec.shape = SHAPE_CLUMP;
    recall = measure(&spec, 10, careful);
    CHECKF(recall >= 0.97, "clump: recall %.4f", recall);
}

TEST(duplicates_give_k_hits_at_the_right_distance)
{
    for (int shape = SHAPE_CONSTANT; shape <= SHAPE_REPEATED; shape++)
        for (uint32_t k = 1; k <= 1000; k *= 10) {
            struct fixture_spec spec = clustered_spec(20, 4);
            spec.shape = (enum fixture_shape)shape;
            spec.n = 12000;
            spec.nq = 8;
            double recall = measure(&spec, k, careful);
            CHECKF(recall >= 0.99, "shape %d, k %u: recall %.4f", shape, k, recall);
        }
}

TEST(large_k_finds_neighbours_and_all_there_are)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(32, 4);
    spec.n = 3000;
    spec.nq = 6;
    fixture_make(&f, &spec);
    static const uint32_t ks[] = {47, 48, 49, 100, 1000, 2999, 3000, 3001, 10000};
    for (size_t i = 0; i < 9; i++) {
        double recall = fixture_recall(&f, ks[i], careful, NULL);
        CHECKF(recall >= 0.99, "k %u: recall %.4f", ks[i], recall);
    }
    fixture_free(&f);
}

/* ---- Hidden rows, filters, pending rows ------------------------------------------------------ */

static bool is_odd(int64_t id)
{
    return id % 2 != 0;
}

static bool is_even(int64_t id)
{
    return id % 2 == 0;
}

static bool is_rare(int64_t id)
{
    return id % 97 == 0;
}

/* Hits against the true ones among rows that keep() takes. */
static double recall_among(struct ann_fixture *f, uint32_t k, struct ann_query q,
                           bool (*keep)(int64_t))
{
    mn_hit *truth = malloc(k * sizeof *truth);
    double found = 0, want = 0;
    q.k = k;
    for (size_t i = 0; i < f->nq; i++) {
        const mn_hit *hits;
        size_t n = search(f, i, q, &hits);
        size_t m = fixture_truth(f, f->queries + i * f->dim, k, keep, truth);
        CHECK_EQ(n, m);
        for (size_t h = 0; h < n; h++) {
            CHECK(!keep || keep(hits[h].id));
            found += hits[h].distance <= truth[m - 1].distance;
        }
        want += (double)m;
    }
    free(truth);
    return found / want;
}

TEST(hidden_rows_are_not_found)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(32, 4);
    spec.nq = 20;
    fixture_make(&f, &spec);
    fixture_hide(&f, is_odd);
    CHECK_EQ(ann_index_rows(f.index), f.n / 2);
    double recall = recall_among(&f, 10, (struct ann_query){.knobs = careful}, is_even);
    CHECKF(recall >= 0.99, "recall %.4f", recall);
    fixture_free(&f);
}

struct filter {
    bool (*keep)(int64_t);
    size_t asked;
    int64_t *seen; /* to find rows asked for twice */
    size_t room;
};

static enum ann_verdict filter(void *ctx, const struct ann_candidate *c, mn_error *err)
{
    struct filter *f = ctx;
    (void)err;
    CHECK(f->asked < f->room);
    f->seen[f->asked++] = c->id;
    return f->keep(c->id) ? ANN_ADMIT : ANN_REJECT;
}

static int by_value(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

TEST(filters_are_asked_once_and_give_k_hits_of_theirs)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(32, 4);
    spec.nq = 10;
    fixture_make(&f, &spec);
    bool (*const keep[])(int64_t) = {is_even, is_rare};
    for (size_t i = 0; i < 2; i++) {
        struct filter filters = {keep[i], 0, malloc(f.n * 8), f.n};
        struct ann_query q = {.knobs = careful, .admit = filter, .admit_ctx = &filters};
        const mn_hit *hits;
        q.k = 5;
        search(&f, 0, q, &hits);
        CHECK(i > 0 || filters.asked < 500);
        qsort(filters.seen, filters.asked, sizeof *filters.seen, by_value);
        for (size_t j = 1; j < filters.asked; j++)
            CHECK(filters.seen[j] != filters.seen[j - 1]);
        filters.room = SIZE_MAX;
        free(filters.seen);
        filters.seen = malloc(f.n * f.nq * 8);
        filters.asked = 0;
        double recall = recall_among(&f, 5, q, keep[i]);
        CHECKF(recall >= 0.99, "filter %zu: recall %.4f", i, recall);
        /* more than there are: all of them, though few postings were chosen */
        filters.asked = 0;
        q.knobs.lambda = 1;
        q.k = i ? 1000 : 5000;
        size_t n = search(&f, 0, q, &hits), there = 0;
        for (size_t j = 0; j < f.n; j++)
            there += keep[i](f.ids[j]);
        CHECK_EQ(n, there < q.k ? there : q.k);
        free(filters.seen);
    }
    fixture_free(&f);
}

/* Rows known beforehand: those that keep() says, asked of ids. */
struct matcher {
    const struct ann_fixture *f;
    bool (*keep)(int64_t);
    size_t asked;
};

static size_t match(void *ctx, uint32_t posting, uint32_t part, size_t first, size_t n,
                    uint64_t *bits)
{
    struct matcher *m = ctx;
    const struct ann_part *p = &m->f->postings[posting].parts[part];
    size_t left = 0;
    m->asked += n;
    CHECK(first % 64 == 0 && first + n <= p->view.n);
    for (size_t i = 0; i < n; i++) {
        if (m->keep(posting_id(&p->view, first + i)))
            left++;
        else
            bits[i / 64] &= ~(UINT64_C(1) << i % 64);
    }
    return left;
}

TEST(rows_known_not_to_match_are_not_scored)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(32, 4);
    spec.nq = 20;
    fixture_make(&f, &spec);
    bool (*const keep[])(int64_t) = {is_even, is_rare};
    float *expect = calloc(ann_index_lanes(f.index), sizeof *expect);
    for (size_t i = 0; i < 2; i++) {
        struct matcher m = {&f, keep[i], 0};
        size_t there = 0, barren = 0;
        for (uint32_t j = 0; j < f.k_centroids; j++) {
            const struct posting_view *v = &f.parts[j].view;
            expect[j] = 0;
            for (size_t r = 0; r < v->n; r++)
                expect[j] += keep[i](posting_id(v, r));
            there += (size_t)expect[j];
            barren += !(expect[j] > 0);
        }
        struct ann_query q = {.knobs = careful, .match = match, .match_ctx = &m,
                              .expect = expect};
        double recall = recall_among(&f, 5, q, keep[i]);
        CHECKF(recall >= 0.99, "filter %zu: recall %.4f", i, recall);
        const mn_hit *hits;
        q.k = i ? 1000 : 5000;
        q.knobs.lambda = 1;
        m.asked = 0;
        CHECK_EQ(search(&f, 0, q, &hits), there < q.k ? there : q.k);
        const struct ann_stats *did = ann_stats(f.scratch);
        CHECK_EQ(did->barren, barren);
        CHECK_EQ(did->codes, m.asked);
        CHECK(did->skipped > 0 && did->survivors <= did->codes - did->skipped);
        q.k = 5;
        q.knobs.lambda = 0;
        q.most = (float)there / 2;
        CHECK_EQ(search(&f, 0, q, &hits), 0);
        CHECK(ann_stats(f.scratch)->refused);
    }
    free(expect);
    fixture_free(&f);
}

TEST(pending_rows_are_hits_and_narrow_the_search)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(32, 4);
    spec.nq = 10;
    fixture_make(&f, &spec);
    mn_hit pending[20];
    for (size_t i = 0; i < 20; i++)
        pending[i] = (mn_hit){-1 - (int64_t)i, i < 5 ? -1.0 + (double)i * 0.1 : 1e9};
    struct ann_query q = {.k = 10, .knobs = careful, .pending = pending, .n_pending = 20};
    for (size_t i = 0; i < f.nq; i++) {
        const mn_hit *hits;
        mn_hit truth[5];
        CHECK_EQ(search(&f, i, q, &hits), 10);
        for (size_t h = 0; h < 5; h++)
            CHECK_EQ(hits[h].id, -1 - (int64_t)h);
        fixture_truth(&f, f.queries + i * f.dim, 5, NULL, truth);
        CHECK_EQ(hits[5].id, truth[0].id);
    }
    /* all of k: nothing in the index can enter */
    for (size_t i = 0; i < 20; i++)
        pending[i].distance = -1;
    const mn_hit *hits;
    CHECK_EQ(search(&f, 0, q, &hits), 10);
    CHECK_EQ(hits[0].id, -20); /* ties by id */
    CHECK_EQ(ann_stats(f.scratch)->survivors, 0);
    fixture_free(&f);
}

static mn_status gone(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                      mn_error *err)
{
    mn_status st = fixture_rerank(ctx, c, n, keys, err);
    for (size_t i = 0; i < n; i++)
        if (!is_rare(c[i].id))
            keys[i] = NAN;
    return st;
}

TEST(rows_that_are_gone_make_room_for_others)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(32, 4);
    mn_error err;
    mn_error_clear(&err);
    fixture_make(&f, &spec);
    struct fixture_rerank r = {&f, f.queries, 0, 0, -INFINITY, 0};
    struct ann_query q = {.vector = f.queries, .k = 50, .knobs = {.lambda = 1e-2f}, .rerank = gone,
                          .rerank_ctx = &r};
    const mn_hit *hits;
    CHECK_OK(ann_search(f.index, f.scratch, &q, &err), err);
    CHECK_EQ(ann_hits(f.scratch, &hits), 50);
    for (size_t i = 0; i < 50; i++)
        CHECK(is_rare(hits[i].id));
    fixture_free(&f);
}

TEST(without_rerank_hits_carry_estimates)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(64, 8);
    mn_error err;
    mn_error_clear(&err);
    spec.exact_centroids = true;
    fixture_make(&f, &spec);
    double found = 0;
    for (size_t i = 0; i < f.nq; i++) {
        const mn_hit *hits;
        mn_hit truth[10];
        struct ann_query q = {.vector = f.queries + i * f.dim, .k = 10, .knobs = careful};
        CHECK_OK(ann_search(f.index, f.scratch, &q, &err), err);
        CHECK_EQ(ann_hits(f.scratch, &hits), 10);
        fixture_truth(&f, q.vector, 10, NULL, truth);
        for (size_t h = 0; h < 10; h++) {
            double key = fixture_key(&f, q.vector, fixture_row(&f, hits[h].id));
            CHECK_NEAR(hits[h].distance, key, 0.02 * key);
            CHECK(h == 0 || hit_after(&hits[h], &hits[h - 1]));
            for (size_t t = 0; t < 10; t++)
                found += truth[t].id == hits[h].id;
        }
    }
    CHECKF(found >= 0.96 * 10 * (double)f.nq, "recall %.4f", found / 10 / (double)f.nq);
    fixture_free(&f);
}

TEST(tails_are_searched_like_bases)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(32, 4);
    spec.nq = 20;
    fixture_make(&f, &spec);
    /* posting 2 j + 1 becomes a tail of a copy of posting 2 j's place: its rows keep their codes,
     * which belong to their own centroid, so only rows of even postings are looked for */
    struct posting_encoder *e;
    mn_error err;
    mn_error_clear(&err);
    CHECK_OK(posting_encoder_create(f.a, f.rabitq, f.n, &e, &err), err);
    struct ann_part tail[2];
    uint8_t *bytes[2];
    struct ann_posting *p = &f.postings[f.of[0]];
    const struct posting_view whole = p->parts->view;
    CHECK(whole.n > 4);
    for (uint32_t t = 0; t < 2; t++) { /* the two halves of the rows of a posting */
        uint64_t *hidden = calloc(whole.n / 64 + 1, 8);
        for (uint32_t i = 0; i < whole.n; i++)
            if (i % 2 == t)
                hidden[i / 64] |= UINT64_C(1) << i % 64;
        posting_begin(e, f.centers + (size_t)f.of[0] * f.dim);
        CHECK_OK(posting_add_view(e, &whole, hidden, &err), err);
        bytes[t] = malloc(posting_encoded_bytes(e));
        posting_write(e, bytes[t]);
        tail[t] = (struct ann_part){0};
        CHECK_OK(posting_open(bytes[t], posting_encoded_bytes(e), f.rabitq->seed, &tail[t].view,
                              &err), err);
        free(hidden);
    }
    *p = (struct ann_posting){tail, 2};
    ann_index_destroy(f.a, f.index);
    struct ann_index_spec is = {f.kn, f.rabitq, f.centroids, f.postings, false};
    CHECK_OK(ann_index_create(f.a, &is, &f.index, &err), err);
    CHECK_EQ(ann_index_rows(f.index), f.n);
    double recall = fixture_recall(&f, 10, careful, NULL);
    CHECKF(recall >= 0.99, "recall %.4f", recall);
    posting_encoder_destroy(f.a, e);
    free(bytes[0]);
    free(bytes[1]);
    fixture_free(&f);
}

/* ---- Failing --------------------------------------------------------------------------------- */

static enum ann_verdict stop_filter(void *ctx, const struct ann_candidate *c, mn_error *err)
{
    (void)ctx;
    (void)c;
    mn_fail(err, MN_DEADLINE, "too late");
    return ANN_STOP;
}

static mn_status stop_tick(void *ctx, mn_error *err)
{
    int *left = ctx;
    return (*left)-- > 0 ? MN_OK : mn_fail(err, MN_INTERRUPTED, "stop");
}

static mn_status stop_rerank(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                             mn_error *err)
{
    (void)ctx;
    (void)c;
    (void)n;
    (void)keys;
    return mn_fail(err, MN_IO, "cannot read");
}

TEST(callbacks_end_a_search_and_the_scratch_stays_usable)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(16, 4);
    spec.n = 2000;
    spec.nq = 5;
    fixture_make(&f, &spec);
    int ticks = 5;
    struct ann_query ok = {.vector = f.queries, .k = 10, .knobs = careful}, q[3];
    q[0] = q[1] = q[2] = ok;
    q[0].admit = stop_filter;
    q[1].tick = stop_tick;
    q[1].tick_ctx = &ticks;
    q[2].rerank = stop_rerank;
    static const mn_status want[] = {MN_DEADLINE, MN_INTERRUPTED, MN_IO};
    for (size_t i = 0; i < 3; i++) {
        mn_error err;
        const mn_hit *hits;
        mn_error_clear(&err);
        CHECK_EQ(ann_search(f.index, f.scratch, &q[i], &err), want[i]);
        CHECK_EQ(err.code, want[i]);
        CHECK_EQ(ann_hits(f.scratch, &hits), 0);
        mn_error_clear(&err);
        CHECK_OK(ann_search(f.index, f.scratch, &ok, &err), err);
        CHECK_EQ(ann_hits(f.scratch, &hits), 10);
    }
    CHECK(fixture_recall(&f, 10, careful, NULL) > 0.99);
    fixture_free(&f);
}

TEST(bad_queries_are_refused_by_name)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(16, 4);
    spec.n = 500;
    spec.nq = 1;
    fixture_make(&f, &spec);
    float nan[16] = {NAN};
    struct {
        struct ann_query q;
        const char *says;
    } table[] = {
        {{.vector = f.queries, .k = 0}, "k is 0"},
        {{.vector = f.queries, .k = MN_MAX_K + 1}, "k is 10001"},
        {{.vector = f.queries, .k = 1, .batch = 1000}, "batch is 1000"},
        {{.vector = f.queries, .k = 1, .knobs = {.lambda = -1}}, "lambda -1"},
        {{.vector = nan, .k = 1}, "not finite"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        mn_error err;
        mn_error_clear(&err);
        CHECK_EQ(ann_search(f.index, f.scratch, &table[i].q, &err), MN_INVALID);
        CHECK_HAS(err.message, table[i].says);
    }
    fixture_free(&f);
}

TEST(searches_allocate_nothing)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(100, 4);
    fixture_make(&f, &spec);
    uint64_t before = mn_alloc_calls(f.a);
    fixture_recall(&f, 10, careful, NULL);
    fixture_recall(&f, 500, careful, NULL);
    CHECK_EQ(mn_alloc_calls(f.a), before);
    fixture_free(&f);
}

TEST(rows_go_to_their_nearest_centroid)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(64, 1);
    fixture_make(&f, &spec);
    uint32_t *got = malloc(f.n * sizeof *got), same = 0;
    ann_assign(f.index, f.scratch, f.rows, f.n, got);
    for (size_t i = 0; i < f.n; i++)
        same += got[i] == f.of[i];
    CHECKF(same > 0.97 * (double)f.n, "%u of %zu", same, f.n);
    free(got);
    fixture_free(&f);
}

/* ---- Parts that are away --------------------------------------------------------------------- */

/* Brings parts, each into memory that the next but one takes. */
struct bringer {
    const struct ann_fixture *f;
    const uint32_t *postings;
    size_t n, at, brought, lots;
    uint8_t *bytes[2];
    uint8_t tags[4 * 4096];
    mn_status fails;
};

static bool is_away(uint32_t posting)
{
    return posting % 3 != 0;
}

static mn_status bring_begin(void *ctx, const uint32_t *postings, size_t n, mn_error *err)
{
    struct bringer *b = ctx;
    (void)err;
    b->postings = postings;
    b->n = n;
    b->at = 0;
    b->lots++;
    return MN_OK;
}

static mn_status bring_next(void *ctx, struct ann_fetched *out, mn_error *err)
{
    struct bringer *b = ctx;
    while (b->at < b->n && !is_away(b->postings[b->at]))
        b->at++;
    CHECK(b->at < b->n);
    if (b->fails && b->brought > 5)
        return mn_fail(err, b->fails, "the disk is gone");
    uint32_t j = b->postings[b->at++];
    uint8_t **to = &b->bytes[b->brought++ % 2];
    const struct posting_view *like = &b->f->parts[j].view;
    size_t bytes = posting_bytes(like->dim, like->bits, like->id_bits, like->n);
    free(*to);
    *to = malloc(bytes);
    memcpy(*to, b->f->payloads[j], bytes);
    *out = (struct ann_fetched){.tags = j % 2 ? b->tags : NULL};
    return posting_open(*to, bytes, b->f->rabitq->seed, &out->view, err);
}

/* The fixture's index with two thirds of its parts away. */
static struct ann_index *send_away(const struct ann_fixture *f, struct ann_part **parts,
                                   struct ann_posting **postings)
{
    mn_error err;
    struct ann_index *x;
    *parts = malloc(f->k_centroids * sizeof **parts);
    *postings = malloc(f->k_centroids * sizeof **postings);
    for (uint32_t j = 0; j < f->k_centroids; j++) {
        struct ann_part *p = *parts + j;
        *p = f->parts[j];
        if (is_away(j))
            p->view.blocks = p->view.records = p->view.ids = NULL;
        (*postings)[j] = (struct ann_posting){p, 1};
    }
    struct ann_index_spec spec = {.kn = f->kn, .rabitq = f->rabitq, .centroids = f->centroids,
                                  .postings = *postings};
    mn_error_clear(&err);
    CHECK_OK(ann_index_create(f->a, &spec, &x, &err), err);
    return x;
}

/* Candidates carry the tag, which is the row's number less one, in postings that have tags. */
static mn_status rerank_tagged(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                               mn_error *err)
{
    const struct fixture_rerank *r = ctx;
    for (size_t i = 0; i < n; i++) {
        const struct posting_view *v = &r->f->parts[c[i].posting].view;
        bool tagged = is_away(c[i].posting) && c[i].posting % 2;
        CHECK_EQ(posting_id(v, c[i].slot + tagged), c[i].id);
    }
    return fixture_rerank(ctx, c, n, keys, err);
}

TEST(parts_that_are_away_are_found_as_if_they_were_here)
{
    static const float lambdas[] = {1e-3f, 1e-5f, 0};
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(64, 4);
    struct ann_part *parts;
    struct ann_posting *postings;
    fixture_make(&f, &spec);
    struct ann_index *x = send_away(&f, &parts, &postings);
    struct bringer b = {.f = &f};
    for (uint32_t i = 0; i < 4096; i++)
        for (uint32_t at = 0; at < 4; at++) /* of the first row -1: it wraps, as it should */
            b.tags[4 * i + at] = (uint8_t)((i - 1) >> 8 * at);
    const struct ann_fetch fetch = {bring_begin, bring_next, &b};
    for (size_t i = 0; i < f.nq * 6; i++) {
        mn_error err;
        const mn_hit *hits;
        mn_hit want[200];
        struct fixture_rerank r = {&f, f.queries + i / 6 * f.dim, 0, 0, -INFINITY, 0};
        struct ann_query q = {.k = i % 2 ? 10 : 200, .knobs = {.lambda = lambdas[i % 3]}};
        size_t n = search(&f, i / 6, q, &hits), lots = b.lots;
        memcpy(want, hits, n * sizeof *want);
        struct ann_stats here = *ann_stats(f.scratch);
        q.vector = r.query;
        q.rerank = rerank_tagged;
        q.rerank_ctx = &r;
        q.fetch = &fetch;
        mn_error_clear(&err);
        CHECK_OK(ann_search(x, f.scratch, &q, &err), err);
        CHECK_EQ(ann_hits(f.scratch, &hits), n);
        CHECK(memcmp(want, hits, n * sizeof *want) == 0);
        CHECK(memcmp(ann_stats(f.scratch), &here, sizeof here) == 0);
        CHECK(b.lots - lots <= (q.k == 10 ? 2 : 8));
    }
    free(b.bytes[0]);
    free(b.bytes[1]);
    free(parts);
    free(postings);
    ann_index_destroy(f.a, x);
    fixture_free(&f);
}

TEST(a_part_that_does_not_come_ends_the_search)
{
    struct ann_fixture f;
    struct fixture_spec spec = clustered_spec(33, 2);
    struct ann_part *parts;
    struct ann_posting *postings;
    mn_error err;
    const mn_hit *hits;
    fixture_make(&f, &spec);
    struct ann_index *x = send_away(&f, &parts, &postings);
    struct bringer b = {.f = &f, .fails = MN_IO};
    const struct ann_fetch fetch = {bring_begin, bring_next, &b};
    struct ann_query q = {.k = 10, .vector = f.queries};
    mn_error_clear(&err);
    CHECK_EQ(ann_search(x, f.scratch, &q, &err), MN_INVALID);
    CHECK(strstr(err.message, "nobody fetches"));
    q.fetch = &fetch;
    mn_error_clear(&err);
    CHECK_EQ(ann_search(x, f.scratch, &q, &err), MN_IO);
    CHECK(strstr(err.message, "the disk is gone"));
    CHECK_EQ(ann_hits(f.scratch, &hits), 0);
    free(b.bytes[0]);
    free(b.bytes[1]);
    free(parts);
    free(postings);
    ann_index_destroy(f.a, x);
    fixture_free(&f);
}

TEST_MAIN
