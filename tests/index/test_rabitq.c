/* Codes: the estimator has no bias, its error is what the factors say, payloads keep it all, and
 * damaged payloads do no harm. */
#include "index/posting.h"
#include "index/query.h"
#include "index/topk.h"
#include "storage/base/error.h"
#include "tests/test.h"

#include <float.h>

enum { MAX_DIM = 1536 };

static struct mn_alloc *memory;

static struct rabitq *make(uint32_t dim, uint32_t bits, enum ann_metric metric, const float *origin)
{
    struct rabitq *q;
    mn_error err;
    mn_error_clear(&err);
    struct rabitq_spec spec = {dim, metric, bits, 77, origin};
    CHECK_OK(rabitq_create(memory, kernels_select(ISA_COUNT), &spec, &q, &err), err);
    return q;
}

/* A payload of rows around a centroid, and a query. */
struct payload {
    struct rabitq *q;
    struct posting_encoder *e;
    uint32_t dim, n;
    float *rows, *center, *query;
    int64_t *ids;
    uint8_t *bytes;
    size_t len;
    struct posting_view view;
};

static void payload_write(struct payload *p)
{
    mn_error err;
    mn_error_clear(&err);
    p->len = posting_encoded_bytes(p->e);
    p->bytes = malloc(p->len); /* to the byte: a sanitizer sees what is read beyond */
    posting_write(p->e, p->bytes);
    CHECK_OK(posting_open(p->bytes, p->len, 77, &p->view, &err), err);
    CHECK_EQ(p->len, posting_bytes(p->dim, p->q->bits, p->view.id_bits,
                                   posting_encoded_rows(p->e)));
}

static void payload_make(struct payload *p, uint32_t dim, uint32_t bits, enum ann_metric metric,
                         uint32_t n, uint64_t seed)
{
    struct test_rng r = {seed};
    mn_error err;
    mn_error_clear(&err);
    memory = mn_alloc_create(NULL, UINT64_MAX);
    float origin[MAX_DIM];
    *p = (struct payload){.dim = dim, .n = n, .rows = malloc((size_t)n * dim * 4 + 4),
                          .center = malloc(dim * 4), .query = malloc(dim * 4),
                          .ids = malloc(n * 8u + 8)};
    for (uint32_t d = 0; d < dim; d++) {
        origin[d] = 0.3f;
        p->center[d] = 0.3f + 0.5f * (float)test_normal(&r);
        p->query[d] = 0.3f + 0.7f * (float)test_normal(&r);
    }
    for (uint32_t i = 0; i < n; i++) {
        float spread = (float)exp(0.3 * test_normal(&r));
        p->ids[i] = (int64_t)test_rand(&r);
        for (uint32_t d = 0; d < dim; d++)
            p->rows[(size_t)i * dim + d] = p->center[d] + 0.6f * spread * (float)test_normal(&r);
    }
    p->q = make(dim, bits, metric, origin);
    CHECK_OK(posting_encoder_create(memory, p->q, n ? n : 1, &p->e, &err), err);
    posting_begin(p->e, p->center);
    CHECK_OK(posting_add(p->e, p->rows, p->ids, n, &err), err);
    payload_write(p);
}

static void payload_free(struct payload *p)
{
    posting_encoder_destroy(memory, p->e);
    rabitq_destroy(memory, p->q);
    free(p->rows);
    free(p->center);
    free(p->query);
    free(p->ids);
    free(p->bytes);
    CHECK_EQ(mn_alloc_used(memory), 0);
    mn_alloc_destroy(memory);
}

static double key_of(const struct payload *p, const float *x)
{
    double l2 = 0, ip = 0;
    for (uint32_t d = 0; d < p->dim; d++) {
        double a = (double)p->query[d], b = (double)x[d];
        l2 += (a - b) * (a - b);
        ip += a * b;
    }
    return p->q->metric == ANN_L2 ? l2 : -ip;
}

/* Scans all rows and estimates them. */
static struct scanned *estimate_all(const struct payload *p, float e2, struct query **query)
{
    mn_error err;
    mn_error_clear(&err);
    struct scanned *s = calloc(1, sizeof *s);
    CHECK_OK(query_create(memory, p->dim, query, &err), err);
    query_prepare(*query, p->q, p->query, 3, e2);
    s->view = &p->view;
    s->g = (float)key_of(p, p->center);
    s->distance2 = p->q->metric == ANN_L2 ? s->g : (*query)->length2;
    CHECK(p->view.n <= QUERY_SLICE);
    query_scan(*query, s, p->view.n, NULL, INFINITY);
    CHECK_EQ(s->n, p->view.n);
    query_estimate(*query, s, INFINITY);
    return s;
}

static const uint32_t dims[] = {24, 100, 768, 1536};

/* Errors in units of the deviation that the bound stands for: mean 0, deviation 1. */
TEST(estimates_have_no_bias_and_the_deviation_that_bounds_assume)
{
    for (size_t i = 0; i < 4; i++)
        for (uint32_t bits = 1; bits <= 8; bits++)
            for (int metric = ANN_L2; metric <= ANN_IP; metric++) {
                struct payload p;
                struct query *q;
                uint32_t n = dims[i] > 100 ? 300 : 1000;
                payload_make(&p, dims[i], bits, (enum ann_metric)metric, n, 9 + bits);
                struct scanned *s = estimate_all(&p, 1, &q);
                double sum = 0, squares = 0, outside = 0;
                for (uint32_t r = 0; r < n; r++) {
                    double key = key_of(&p, p.rows + (size_t)r * p.dim);
                    double z = (s->estimate[r] - key) / (double)(s->estimate[r] - s->bound[r]);
                    sum += z;
                    squares += z * z;
                    outside += z > 3;
                }
                double mean = sum / n, deviation = sqrt(squares / n - mean * mean);
                CHECKF(fabs(mean) < 0.2, "dim %u, %u bits, metric %d: bias %.3f", p.dim, bits,
                       metric, mean);
                CHECKF(deviation > (bits > 5 ? 0.3 : 0.6) && deviation < 1.2,
                       "dim %u, %u bits, metric %d: deviation %.3f", p.dim, bits, metric,
                       deviation);
                CHECKF(outside <= 0.008 * n, "dim %u, %u bits: %g beyond 3", p.dim, bits, outside);
                free(s);
                query_destroy(memory, q);
                payload_free(&p);
            }
}

TEST(each_bit_halves_the_error)
{
    double before = 1e9;
    for (uint32_t bits = 1; bits <= 8; bits++) {
        struct payload p;
        struct query *q;
        payload_make(&p, 128, bits, ANN_L2, 500, 5);
        struct scanned *s = estimate_all(&p, 1, &q);
        double squares = 0;
        for (uint32_t r = 0; r < p.n; r++)
            squares += pow((double)s->estimate[r] - key_of(&p, p.rows + r * p.dim), 2);
        double error = sqrt(squares / p.n);
        CHECKF(error < 0.72 * before, "%u bits: error %g, one bit less %g", bits, error, before);
        before = error;
        free(s);
        query_destroy(memory, q);
        payload_free(&p);
    }
}

/* A row is lost by the 1-bit test no more often than its bound says. */
TEST(scan_keeps_rows_below_the_limit)
{
    for (size_t i = 0; i < 4; i++) {
        struct payload p;
        struct query *q;
        uint64_t hidden[QUERY_SLICE / 64] = {5};
        uint32_t n = 1000, lost = 0, below = 0, at = 0;
        payload_make(&p, dims[i], 4, ANN_L2, n, 3);
        struct scanned *s = estimate_all(&p, 1, &q);
        for (double part = 0.8; part < 1.5; part += 0.02) {
            float limit = (float)((double)s->g * part);
            query_scan(q, s, n, hidden, limit);
            for (uint32_t r = at = 0; r < n; r++) {
                bool kept = at < s->n && s->rows[at] == r;
                at += kept;
                if (key_of(&p, p.rows + (size_t)r * p.dim) >= (double)limit)
                    continue;
                CHECK(!kept || (r != 0 && r != 2));
                below++;
                lost += !kept && r != 0 && r != 2;
            }
            CHECK_EQ(at, s->n);
        }
        CHECK(below > 1000);
        CHECKF(lost < 0.01 * below, "dim %u: %u of %u lost at 3 deviations", p.dim, lost, below);
        free(s);
        query_destroy(memory, q);
        payload_free(&p);
    }
}

TEST(few_dimensions_and_flat_rows_encode)
{
    static const uint32_t few[] = {1, 2, 3, 7, 8, 9};
    for (size_t i = 0; i < 6; i++)
        for (uint32_t bits = 1; bits <= 8; bits++) {
            struct payload p;
            struct query *q;
            payload_make(&p, few[i], bits, ANN_L2, 70, 21);
            mn_error err;
            mn_error_clear(&err);
            free(p.bytes);
            memcpy(p.rows, p.center, p.dim * 4); /* the centroid itself */
            posting_begin(p.e, p.center);
            CHECK_OK(posting_add(p.e, p.rows, p.ids, 70, &err), err);
            payload_write(&p);
            struct scanned *s = estimate_all(&p, 3, &q);
            for (uint32_t r = 0; r < 70; r++) {
                double key = key_of(&p, p.rows + r * p.dim);
                CHECK(isfinite(s->estimate[r]));
                if (p.dim == 1 || r == 0)
                    CHECK_NEAR(s->estimate[r], key, 0.02 * (1 + key));
            }
            free(s);
            query_destroy(memory, q);
            payload_free(&p);
        }
}

TEST(normalise_refuses_what_has_no_direction)
{
    float x[3] = {3, 0, 4}, zero[3] = {0, 0, 0};
    CHECK(rabitq_normalise(x, 3));
    CHECK_NEAR(x[0], 0.6, 1e-6);
    CHECK_NEAR(x[2], 0.8, 1e-6);
    CHECK(!rabitq_normalise(zero, 3));
    x[1] = INFINITY;
    CHECK(!rabitq_normalise(x, 3));
}

/* ---- Payloads -------------------------------------------------------------------------------- */

TEST(payloads_open_as_they_were_made)
{
    static const uint32_t rows[] = {0, 1, 31, 32, 33, 100};
    for (size_t i = 0; i < 6; i++)
        for (uint32_t bits = 1; bits <= 8; bits++) {
            struct payload p;
            payload_make(&p, 7 + 13 * bits, bits, ANN_IP, rows[i], 2);
            CHECK_EQ(p.view.n, rows[i]);
            CHECK_EQ(p.view.dim, p.dim);
            CHECK_EQ(p.view.bits, bits);
            CHECK_EQ(p.view.metric, ANN_IP);
            for (uint32_t r = 0; r < rows[i]; r++)
                CHECK(posting_id(&p.view, r) == p.ids[r]);
            payload_free(&p);
        }
}

TEST(ids_take_the_bits_that_the_widest_needs)
{
    static const struct {
        int64_t ids[3];
        uint32_t bits;
    } rows[] = {{{5, 5, 5}, 0},
                {{7, 8, 7}, 1},
                {{1000000, 1, 500}, 20},
                {{-3, 4, 0}, 3},
                {{0, (INT64_C(1) << 56) - 1, 77}, 56},
                {{0, INT64_C(1) << 56, 77}, 64},
                {{INT64_MIN, INT64_MAX, -1}, 64}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct payload p;
        payload_make(&p, 8, 2, ANN_L2, 3, 4);
        free(p.bytes);
        posting_begin(p.e, p.center);
        CHECK_EQ(posting_add(p.e, p.rows, rows[i].ids, 3, NULL), MN_OK);
        payload_write(&p);
        CHECK_EQ(p.view.id_bits, rows[i].bits);
        int64_t least = INT64_MAX, greatest = INT64_MIN;
        for (size_t j = 0; j < 3; j++) {
            CHECK_EQ(posting_id(&p.view, j), rows[i].ids[j]);
            least = rows[i].ids[j] < least ? rows[i].ids[j] : least;
            greatest = rows[i].ids[j] > greatest ? rows[i].ids[j] : greatest;
        }
        CHECK_EQ(p.view.id_base, least);
        CHECK_EQ(p.view.id_max, greatest);
        payload_free(&p);
    }
}

TEST(payloads_join_without_vectors)
{
    for (uint32_t bits = 1; bits <= 8; bits++) {
        struct payload p;
        struct query *q;
        mn_error err;
        mn_error_clear(&err);
        payload_make(&p, 100, bits, ANN_L2, 150, 4);
        struct scanned *whole = estimate_all(&p, 3, &q);
        query_destroy(memory, q);
        /* the rows in two payloads, joined with every third row left out */
        struct posting_view part[2];
        uint8_t *bytes[2];
        for (size_t i = 0; i < 2; i++) {
            posting_begin(p.e, p.center);
            CHECK_OK(posting_add(p.e, p.rows + i * 70 * p.dim, p.ids + i * 70, i ? 80 : 70, &err),
                     err);
            bytes[i] = malloc(posting_encoded_bytes(p.e));
            posting_write(p.e, bytes[i]);
            CHECK_OK(posting_open(bytes[i], posting_encoded_bytes(p.e), 77, &part[i], &err), err);
        }
        uint64_t hidden[2][2] = {{0}};
        uint32_t live = 0;
        for (uint32_t i = 0; i < 150; i++)
            if (i % 3 == 0)
                hidden[i >= 70][(i - (i >= 70 ? 70 : 0)) / 64] |= UINT64_C(1)
                                                                  << (i - (i >= 70 ? 70 : 0)) % 64;
        posting_begin(p.e, p.center);
        CHECK_OK(posting_add_view(p.e, &part[0], hidden[0], &err), err);
        CHECK_OK(posting_add_view(p.e, &part[1], hidden[1], &err), err);
        free(p.bytes);
        payload_write(&p);
        CHECK_EQ(p.view.n, 100);
        struct scanned *joined = estimate_all(&p, 3, &q);
        for (uint32_t i = 0; i < 150; i++) {
            if (i % 3 == 0)
                continue;
            CHECK(posting_id(&p.view, live) == p.ids[i]);
            float scale = fabsf(whole->estimate[i]);
            CHECK_NEAR(joined->estimate[live], whole->estimate[i], 2e-3 * (double)scale);
            live++;
        }
        free(whole);
        free(joined);
        free(bytes[0]);
        free(bytes[1]);
        query_destroy(memory, q);
        payload_free(&p);
    }
}

TEST(encoder_refuses_what_does_not_fit)
{
    struct payload p, other;
    mn_error err;
    mn_error_clear(&err);
    payload_make(&p, 16, 4, ANN_L2, 10, 4);
    CHECK_EQ(posting_add(p.e, p.rows, p.ids, 1, &err), MN_FULL);
    mn_error_clear(&err);
    struct mn_alloc *mine = memory;
    payload_make(&other, 16, 3, ANN_L2, 5, 4);
    posting_begin(p.e, p.center);
    CHECK_EQ(posting_add_view(p.e, &other.view, NULL, &err), MN_INVALID);
    payload_free(&other);
    memory = mine;
    mn_error_clear(&err);
    p.rows[3] = 1e20f;
    CHECK_EQ(posting_add(p.e, p.rows, p.ids, 1, &err), MN_INVALID);
    CHECK_HAS(err.message, "scale them down");
    payload_free(&p);
}

/* Flips, cuts and random headers: refused, or scanned without harm. */
TEST(damaged_payloads_do_no_harm)
{
    struct test_rng r = {11};
    size_t refused = 0, opened = 0;
    for (uint32_t bits = 1; bits <= 8; bits += 3) {
        struct payload p;
        struct query *q;
        payload_make(&p, 30, bits, ANN_L2, 77, 6);
        CHECK_OK(query_create(memory, 30, &q, NULL), (mn_error){0});
        query_prepare(q, p.q, p.query, 2, 3);
        struct scanned *s = calloc(1, sizeof *s);
        for (size_t round = 0; round < test_budget(3000); round++) {
            struct posting_view v;
            mn_error err;
            mn_error_clear(&err);
            size_t len = round % 9 ? p.len : test_below(&r, p.len + 1);
            uint8_t *copy = malloc(len ? len : 1);
            memcpy(copy, p.bytes, len);
            for (size_t i = 0; len && i < 1 + test_below(&r, 4); i++)
                copy[test_below(&r, round % 2 && len > 128 ? 128 : len)] ^=
                    (uint8_t)(1u << test_below(&r, 8));
            mn_status st = posting_open(copy, len, 77, &v, &err);
            CHECK(st == MN_OK || st == MN_CORRUPT || st == MN_NEWER);
            CHECK((st == MN_OK) == (err.code == MN_OK));
            refused += st != MN_OK;
            if (st == MN_OK && v.dim == 30 && v.bits == bits) {
                opened++;
                s->view = &v;
                s->g = s->distance2 = 3;
                for (int i = 0; i < 3; i++) {
                    query_scan(q, s, v.n, NULL, i ? (float)i * 5 : INFINITY);
                    CHECK(s->n <= v.n);
                    query_estimate(q, s, INFINITY);
                }
            }
            free(copy);
        }
        free(s);
        query_destroy(memory, q);
        payload_free(&p);
    }
    CHECK(refused > 0 && opened > 0);
    test_note("%zu refused, %zu scanned", refused, opened);
}

TEST(payloads_of_another_rotation_are_refused)
{
    struct payload p;
    struct posting_view v;
    mn_error err;
    mn_error_clear(&err);
    payload_make(&p, 16, 2, ANN_L2, 3, 4);
    CHECK_EQ(posting_open(p.bytes, p.len, 78, &v, &err), MN_CORRUPT);
    CHECK_HAS(err.message, "rotation");
    mn_error_clear(&err);
    p.bytes[4] = 9;
    CHECK_EQ(posting_open(p.bytes, p.len, 77, &v, &err), MN_NEWER);
    payload_free(&p);
}

TEST_MAIN
