#include "tests/index/ann_fixture.h"

#include "index/soar.h"
#include "index/topk.h"

#include <math.h>

enum { INTRINSIC = 24, CLUSTERS = 60 };

static void *take(size_t n, size_t each)
{
    void *p = calloc(n ? n : 1, each);
    CHECK(p);
    return p;
}

/* Clusters on a common subspace, each with a subspace of its own mixed in; sizes fall as a power,
 * rows spread lognormally, and a little noise fills the other dimensions. */
static void clustered(float *out, size_t n, uint32_t dim, struct test_rng *r)
{
    uint32_t m = dim < INTRINSIC ? dim : INTRINSIC;
    float *common = take((size_t)m * dim, 4), *basis = take((size_t)CLUSTERS * m * dim, 4);
    float *centers = take((size_t)CLUSTERS * dim, 4);
    double weight[CLUSTERS], total = 0;
    for (size_t i = 0; i < (size_t)m * dim; i++)
        common[i] = (float)(test_normal(r) / sqrt(m));
    for (size_t c = 0; c < CLUSTERS; c++) {
        float *own = basis + c * m * dim;
        for (size_t i = 0; i < (size_t)m * dim; i++)
            own[i] = 0.7f * common[i] + 0.7f * (float)(test_normal(r) / sqrt(m));
        for (uint32_t j = 0; j < m; j++) {
            float z = (float)test_normal(r);
            for (uint32_t d = 0; d < dim; d++)
                centers[c * dim + d] += z * common[j * dim + d];
        }
        total += weight[c] = pow((double)c + 1, -0.8);
    }
    for (size_t i = 0; i < n; i++, out += dim) {
        double at = test_uniform(r) * total, scale = exp(0.3 * test_normal(r));
        size_t c = 0;
        while (c + 1 < CLUSTERS && at > weight[c])
            at -= weight[c++];
        for (uint32_t d = 0; d < dim; d++)
            out[d] = centers[c * dim + d] + 0.02f * (float)test_normal(r);
        for (uint32_t j = 0; j < m; j++) {
            float z = (float)(test_normal(r) * scale);
            const float *axis = basis + (c * m + j) * dim;
            for (uint32_t d = 0; d < dim; d++)
                out[d] += z * axis[d];
        }
    }
    free(common);
    free(basis);
    free(centers);
}

void fixture_rows(float *out, size_t n, const struct fixture_spec *spec)
{
    struct test_rng r = {spec->seed};
    uint32_t dim = spec->dim;
    size_t distinct = 300;
    if (spec->shape == SHAPE_CLUSTERED)
        clustered(out, n, dim, &r);
    for (size_t i = 0; spec->shape != SHAPE_CLUSTERED && i < n * dim; i++)
        out[i] = (float)test_normal(&r);
    for (size_t i = 0; i < n; i++)
        for (uint32_t d = 0; d < dim; d++) {
            float *x = out + i * dim + d;
            if (spec->shape == SHAPE_CONSTANT)
                *x = out[d];
            else if (spec->shape == SHAPE_REPEATED && i >= distinct)
                *x = out[(i * 7919 % distinct) * dim + d];
            else if (spec->shape == SHAPE_CLUMP && i % 10)
                *x *= 0.001f;
        }
    for (size_t i = 0; i < n * dim; i++)
        out[i] += spec->offset;
    for (size_t i = 0; spec->normalise && i < n; i++)
        rabitq_normalise(out + i * dim, dim);
}

double fixture_key(const struct ann_fixture *f, const float *q, size_t row)
{
    const float *x = f->rows + row * f->dim;
    double sum = 0;
    for (uint32_t d = 0; d < f->dim; d++) {
        double diff = (double)q[d] - (double)x[d];
        sum += f->metric == ANN_L2 ? diff * diff : -(double)q[d] * (double)x[d];
    }
    return sum;
}

size_t fixture_row(const struct ann_fixture *f, int64_t id)
{
    (void)f;
    return (size_t)((id - 5) / 3);
}

size_t fixture_truth(const struct ann_fixture *f, const float *q, uint32_t k, bool (*keep)(int64_t),
                     mn_hit *out)
{
    struct topk top;
    topk_init(&top, out, k);
    float *near = take(f->n, sizeof *near);
    (f->metric == ANN_L2 ? f->kn->l2 : f->kn->dot)[ELEM_F32](q, f->rows, f->dim * 4u, f->n, f->dim,
                                                             near);
    for (size_t i = 0; i < f->n; i++) {
        double about = f->metric == ANN_L2 ? near[i] : -near[i];
        if (about > topk_limit(&top) + 1e-3 * fabs(topk_limit(&top)) + 1e-3)
            continue;
        if (keep && !keep(f->ids[i]))
            continue;
        double key = fixture_key(f, q, i);
        if (topk_would_take(&top, key, f->ids[i]))
            topk_push(&top, key, f->ids[i]);
    }
    free(near);
    hits_sort(out, top.n);
    return top.n;
}

mn_status fixture_rerank(void *ctx, const struct ann_candidate *c, size_t n, double *keys,
                         mn_error *err)
{
    struct fixture_rerank *r = ctx;
    (void)err;
    r->calls++;
    for (size_t i = 0; i < n; i++) {
        r->disorder += c[i].bound < r->last_bound;
        r->last_bound = c[i].bound;
        keys[i] = fixture_key(r->f, r->query, fixture_row(r->f, c[i].id));
    }
    r->rows += n;
    return MN_OK;
}

/* Centroids: rows drawn at random, moved once to the mean of what is nearest. */
static void find_clusters(struct ann_fixture *f, struct test_rng *r)
{
    uint32_t dim = f->dim, k = f->k_centroids;
    float *d = take(k, sizeof *d);
    for (uint32_t j = 0; j < k; j++)
        memcpy(f->centers + (size_t)j * dim, f->rows + test_below(r, f->n) * dim, dim * 4u);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < f->n; i++) {
            f->kn->l2[ELEM_F32](f->rows + i * dim, f->centers, dim * 4u, k, dim, d);
            for (uint32_t j = f->of[i] = 0; j < k; j++)
                if (d[j] < d[f->of[i]])
                    f->of[i] = j;
        }
        if (round == 2)
            break;
        uint32_t *count = take(k, sizeof *count);
        memset(f->centers, 0, (size_t)k * dim * 4);
        for (size_t i = 0; i < f->n; i++) {
            count[f->of[i]]++;
            for (uint32_t j = 0; j < dim; j++)
                f->centers[(size_t)f->of[i] * dim + j] += f->rows[i * dim + j];
        }
        for (size_t i = 0; i < (size_t)k * dim; i++)
            f->centers[i] /= (float)(count[i / dim] ? count[i / dim] : 1);
        free(count);
    }
    free(d);
}

static void find_second(struct ann_fixture *f)
{
    struct soar *s;
    mn_error err;
    mn_error_clear(&err);
    f->second = take(f->n, sizeof *f->second);
    CHECK_OK(soar_create(f->a, f->kn, f->centers, f->k_centroids, f->dim, SOAR_LAMBDA, &s, &err),
             err);
    for (size_t i = 0; i < f->n; i++)
        soar_assign(s, f->of[i], f->rows + i * f->dim, 1, &f->second[i]);
    soar_destroy(f->a, s);
}

static void encode(struct ann_fixture *f)
{
    mn_error err;
    struct posting_encoder *e;
    mn_error_clear(&err);
    CHECK_OK(posting_encoder_create(f->a, f->rabitq, f->n, &e, &err), err);
    for (uint32_t j = 0; j < f->k_centroids; j++) {
        posting_begin(e, f->centers + (size_t)j * f->dim);
        for (size_t i = 0; i < f->n; i++)
            if (f->of[i] == j || (f->second && f->second[i] == j))
                CHECK_OK(posting_add(e, f->rows + i * f->dim, &f->ids[i], 1, &err), err);
        size_t bytes = posting_encoded_bytes(e);
        f->payloads[j] = take(bytes, 1);
        posting_write(e, f->payloads[j]);
        CHECK_OK(posting_open(f->payloads[j], bytes, f->rabitq->seed, &f->parts[j].view,
                              &err), err);
    }
    posting_encoder_destroy(f->a, e);
}

static void make_index(struct ann_fixture *f)
{
    mn_error err;
    mn_error_clear(&err);
    ann_index_destroy(f->a, f->index);
    struct ann_index_spec spec = {f->kn, f->rabitq, f->centroids, f->postings, f->second != NULL};
    CHECK_OK(ann_index_create(f->a, &spec, &f->index, &err), err);
}

void fixture_make(struct ann_fixture *f, const struct fixture_spec *spec)
{
    mn_error err;
    struct test_rng r = {spec->seed ^ 0x5eed};
    mn_error_clear(&err);
    *f = (struct ann_fixture){.a = mn_alloc_create(NULL, UINT64_MAX),
                              .kn = spec->kn ? spec->kn : kernels_select(ISA_COUNT),
                              .dim = spec->dim, .bits = spec->bits, .n = spec->n, .nq = spec->nq,
                              .metric = spec->metric, .k_centroids = spec->k_centroids};
    f->rows = take((f->n + f->nq) * f->dim, 4);
    f->queries = f->rows + f->n * f->dim;
    fixture_rows(f->rows, f->n + f->nq, spec);
    f->ids = take(f->n, sizeof *f->ids);
    for (size_t i = 0; i < f->n; i++)
        f->ids[i] = (int64_t)i * 3 + 5;
    f->of = take(f->n, sizeof *f->of);
    f->centers = take((size_t)f->k_centroids * f->dim, 4);
    if (spec->of) {
        memcpy(f->of, spec->of, f->n * sizeof *f->of);
        memcpy(f->centers, spec->centers, (size_t)f->k_centroids * f->dim * 4);
    } else {
        find_clusters(f, &r);
    }
    f->origin = take(f->dim, sizeof *f->origin);
    for (size_t i = 0; i < (size_t)f->k_centroids * f->dim; i++)
        f->origin[i % f->dim] += f->centers[i] / (float)f->k_centroids;
    struct rabitq_spec rs = {f->dim, f->metric, f->bits, spec->seed, f->origin};
    CHECK_OK(rabitq_create(f->a, f->kn, &rs, &f->rabitq, &err), err);
    struct centroids_spec cs = {.vectors = f->centers, .n = f->k_centroids,
                                .keep_exact = spec->exact_centroids,
                                .graph_from = spec->graph_from};
    CHECK_OK(centroids_create(f->a, f->rabitq, &cs, &f->centroids, &err), err);
    f->parts = take(f->k_centroids, sizeof *f->parts);
    f->postings = take(f->k_centroids, sizeof *f->postings);
    for (uint32_t j = 0; j < f->k_centroids; j++)
        f->postings[j] = (struct ann_posting){&f->parts[j], 1};
    f->payloads = take(f->k_centroids, sizeof *f->payloads);
    if (spec->soar)
        find_second(f);
    encode(f);
    make_index(f);
    CHECK_EQ(ann_index_rows(f->index), f->k_centroids > 1 && spec->soar ? 2 * f->n : f->n);
    CHECK_OK(ann_scratch_create(f->a, f->dim, f->k_centroids, MN_MAX_K, &f->scratch, &err), err);
    CHECK_OK(ann_scratch_fit(f->a, f->scratch, f->index, &err), err);
}

void fixture_free(struct ann_fixture *f)
{
    ann_scratch_destroy(f->a, f->scratch);
    ann_index_destroy(f->a, f->index);
    centroids_destroy(f->a, f->centroids);
    rabitq_destroy(f->a, f->rabitq);
    for (uint32_t j = 0; j < f->k_centroids; j++) {
        free(f->payloads[j]);
        if (f->hidden)
            free(f->hidden[j]);
    }
    free(f->hidden);
    free(f->payloads);
    free(f->parts);
    free(f->postings);
    free(f->rows);
    free(f->ids);
    free(f->of);
    free(f->second);
    free(f->centers);
    free(f->origin);
    CHECK_EQ(mn_alloc_used(f->a), 0);
    mn_alloc_destroy(f->a);
}

void fixture_hide(struct ann_fixture *f, bool (*hide)(int64_t id))
{
    if (!f->hidden)
        f->hidden = take(f->k_centroids, sizeof *f->hidden);
    for (uint32_t j = 0; j < f->k_centroids; j++) {
        struct ann_part *part = &f->parts[j];
        free(f->hidden[j]);
        f->hidden[j] = take(part->view.n / 64 + 1, sizeof **f->hidden);
        part->n_hidden = 0;
        for (uint32_t i = 0; i < part->view.n; i++)
            if (hide(posting_id(&part->view, i))) {
                f->hidden[j][i / 64] |= UINT64_C(1) << i % 64;
                part->n_hidden++;
            }
        part->hidden = f->hidden[j];
    }
    make_index(f);
}

static void add_stats(struct ann_stats *to, const struct ann_stats *s)
{
    to->centroids += s->centroids;
    to->probed += s->probed;
    to->codes += s->codes;
    to->survivors += s->survivors;
    to->candidates += s->candidates;
    to->reranked += s->reranked;
    to->dropped += s->dropped;
    to->widened += s->widened;
}

double fixture_recall(struct ann_fixture *f, uint32_t k, struct ann_knobs knobs,
                      struct ann_stats *stats)
{
    mn_error err;
    mn_hit *truth = take(k, sizeof *truth);
    double found = 0, want = 0;
    mn_error_clear(&err);
    for (size_t i = 0; i < f->nq; i++) {
        const mn_hit *hits;
        struct fixture_rerank r = {f, f->queries + i * f->dim, 0, 0, -INFINITY, 0};
        struct ann_query q = {.vector = r.query, .k = k, .knobs = knobs, .rerank = fixture_rerank,
                              .rerank_ctx = &r};
        CHECK_OK(ann_search(f->index, f->scratch, &q, &err), err);
        CHECK(r.disorder == 0 || r.rows > 8000); /* again from the start when room ran out */
        size_t n = ann_hits(f->scratch, &hits), wanted = fixture_truth(f, r.query, k, NULL, truth);
        CHECK_EQ(n, wanted);
        for (size_t h = 0; h < n; h++) {
            CHECK_NEAR(hits[h].distance, fixture_key(f, r.query, fixture_row(f, hits[h].id)), 0);
            CHECK(h == 0 || hit_after(&hits[h], &hits[h - 1]));
            found += hits[h].distance <= truth[wanted - 1].distance;
        }
        want += (double)wanted;
        if (stats)
            add_stats(stats, ann_stats(f->scratch));
    }
    free(truth);
    return found / want;
}
