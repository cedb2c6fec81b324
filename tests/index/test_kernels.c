/* Every kernel of every table that this CPU can run, against double and against the scalar table:
 * random dimensions, tails, row counts, alignments and extreme values. Buffers end where the data
 * ends, so that the address sanitizer sees a kernel that reads too far. */
#include "index/kernels/kernels.h"
#include "tests/test.h"

#include <float.h>

static const char *const elem_names[ELEM_COUNT] = {"f32", "f16", "bf16"};

/* Tables, asked for once: CPUID is slow in virtual machines. */
static const struct kernels *tables[8];
static size_t ntables;

static void load_tables(void)
{
    for (ntables = 0; ntables < 8 && (tables[ntables] = kernels_at(ntables)); ntables++) {
    }
}

static size_t size_of(enum elem type)
{
    return type == ELEM_F32 ? 4 : 2;
}

/* A block that ends at its last byte and starts `shift` bytes off an aligned address. */
struct block {
    char *memory, *data;
};

static struct block block_make(size_t bytes, size_t shift)
{
    struct block b = {.memory = malloc(bytes + shift + 1)};
    b.data = b.memory + shift;
    return b;
}

static double as_double(enum elem type, const char *p, size_t i)
{
    float f;
    uint16_t h;
    if (type == ELEM_F32) {
        memcpy(&f, p + i * 4, 4);
        return (double)f;
    }
    memcpy(&h, p + i * 2, 2);
    if (type == ELEM_BF16) {
        uint32_t bits = (uint32_t)h << 16;
        memcpy(&f, &bits, 4);
        return (double)f;
    }
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double v = exponent ? ldexp(mantissa + 1024, exponent - 25) : ldexp(mantissa, -24);
    return h >> 15 ? -v : v;
}

static void put(enum elem type, char *p, size_t i, float x)
{
    uint16_t h;
    if (type == ELEM_F32) {
        memcpy(p + i * 4, &x, 4);
        return;
    }
    (type == ELEM_F16 ? tables[0]->f32_to_f16 : tables[0]->f32_to_bf16)(&x, 1, &h);
    memcpy(p + i * 2, &h, 2);
}

/* What a float case needs and its reference results. */
struct floats {
    enum elem type;
    size_t dim, n, stride;
    struct block query, rows;
    double *l2, *dot, *norm, *scale; /* [n]; scale: sum |q_i x_i| */
};

static struct floats floats_make(struct test_rng *r, enum elem type, size_t dim, size_t n,
                                 float magnitude)
{
    struct floats f = {.type = type, .dim = dim, .n = n, .stride = dim * size_of(type)};
    f.query = block_make(dim * 4, test_below(r, 64));
    f.rows = block_make(n * f.stride, test_below(r, 64));
    f.l2 = calloc(n + 1, sizeof(double));
    f.dot = calloc(n + 1, sizeof(double));
    f.norm = calloc(n + 1, sizeof(double));
    f.scale = calloc(n + 1, sizeof(double));
    for (size_t j = 0; j < dim; j++)
        put(ELEM_F32, f.query.data, j, magnitude * (float)test_normal(r));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < dim; j++) {
            put(type, f.rows.data + i * f.stride, j, magnitude * (float)(test_normal(r) + 0.5));
            double q = as_double(ELEM_F32, f.query.data, j);
            double x = as_double(type, f.rows.data + i * f.stride, j);
            f.l2[i] += (q - x) * (q - x);
            f.dot[i] += q * x;
            f.norm[i] += x * x;
            f.scale[i] += fabs(q * x);
        }
    return f;
}

static void floats_free(struct floats *f)
{
    free(f->query.memory);
    free(f->rows.memory);
    free(f->l2);
    free(f->dot);
    free(f->norm);
    free(f->scale);
}

static void near_all(const struct floats *f, const char *table, const char *op, const float *got,
                     const double *want, const double *scale)
{
    double limit = ((double)f->dim + 8) * 0x1p-24; /* kernels.h, "Accuracy" */
    for (size_t i = 0; i < f->n; i++)
        CHECKF(fabs((double)got[i] - want[i]) <= limit * scale[i] + (double)FLT_MIN,
               "%s %s %s dim %zu row %zu of %zu: %.9g, not %.9g", table, op, elem_names[f->type],
               f->dim, i, f->n, (double)got[i], want[i]);
}

static void check_floats(const struct kernels *kn, const struct floats *f)
{
    const float *q = (const float *)(const void *)f->query.data;
    float *out = malloc((f->n + 1) * sizeof *out), alone, squared;
    kn->l2[f->type](q, f->rows.data, f->stride, f->n, f->dim, out);
    near_all(f, kn->name, "l2", out, f->l2, f->l2);
    kn->norm[f->type](f->rows.data, f->stride, f->n, f->dim, out);
    near_all(f, kn->name, "norm", out, f->norm, f->norm);
    kn->dot[f->type](q, f->rows.data, f->stride, f->n, f->dim, out);
    near_all(f, kn->name, "dot", out, f->dot, f->scale);
    /* a row alone gives the same bits as in a group, and norm is dot with itself */
    float *wide = malloc((f->dim + 1) * sizeof *wide);
    for (size_t i = 0; i < f->n; i++) {
        const char *row = f->rows.data + i * f->stride;
        kn->dot[f->type](q, row, f->stride, 1, f->dim, &alone);
        CHECKF(memcmp(&alone, &out[i], sizeof alone) == 0, "%s dot %s dim %zu: row %zu alone",
               kn->name, elem_names[f->type], f->dim, i);
        for (size_t j = 0; j < f->dim; j++)
            wide[j] = (float)as_double(f->type, row, j);
        kn->norm[f->type](row, f->stride, 1, f->dim, &squared);
        kn->dot[f->type](wide, row, f->stride, 1, f->dim, &alone);
        CHECKF(memcmp(&alone, &squared, sizeof alone) == 0, "%s norm %s dim %zu: row %zu", kn->name,
               elem_names[f->type], f->dim, i);
    }
    free(wide);
    free(out);
}

TEST(float_kernels_match_double)
{
    struct test_rng r = {11};
    load_tables();
    for (size_t round = 0; round < test_budget(120); round++)
        for (enum elem type = 0; type < ELEM_COUNT; type++) {
            size_t dim = round < 70 ? round + 1 : 1 + test_below(&r, 1100);
            float magnitude = round % 5 ? 1.0f : type == ELEM_F16 ? 100.0f : 1e12f;
            struct floats f = floats_make(&r, type, dim, test_below(&r, 14), magnitude);
            for (size_t t = 0; t < ntables; t++)
                check_floats(tables[t], &f);
            floats_free(&f);
        }
}

TEST(float_kernels_hold_their_accuracy_at_the_largest_dimension)
{
    struct test_rng r = {12};
    load_tables();
    for (enum elem type = 0; type < ELEM_COUNT; type++) {
        struct floats f = floats_make(&r, type, KERNEL_MAX_DIM, 5, 1.0f);
        for (size_t t = 0; t < ntables; t++)
            check_floats(tables[t], &f);
        floats_free(&f);
    }
}

TEST(float_kernels_carry_infinity_and_nan)
{
    struct test_rng r = {13};
    load_tables();
    for (size_t t = 0; t < ntables; t++)
        for (enum elem type = 0; type < ELEM_COUNT; type++)
            for (size_t dim = 1; dim < 70; dim++) {
                struct floats f = floats_make(&r, type, dim, 5, 1.0f);
                const float *q = (const float *)(const void *)f.query.data;
                float out[5];
                size_t at = test_below(&r, dim);
                put(type, f.rows.data + 1 * f.stride, at, NAN);
                put(type, f.rows.data + 3 * f.stride, at, INFINITY);
                tables[t]->l2[type](q, f.rows.data, f.stride, 5, dim, out);
                CHECK(isfinite(out[0]) && isnan(out[1]) && isfinite(out[2]) && isinf(out[3]));
                tables[t]->norm[type](f.rows.data, f.stride, 5, dim, out);
                CHECK(isfinite(out[0]) && isnan(out[1]) && isfinite(out[2]) && isinf(out[3]));
                tables[t]->dot[type](q, f.rows.data, f.stride, 5, dim, out);
                CHECK(isfinite(out[0]) && isnan(out[1]) && isfinite(out[2]) && !isfinite(out[3]));
                floats_free(&f);
            }
}

/* Scores in int64 as reference; `extreme` bytes are all -128 or 127. */
static void check_counts(struct test_rng *r, size_t dim, size_t n, bool extreme)
{
    struct block q = block_make(dim, test_below(r, 64));
    struct block x = block_make(n * dim, test_below(r, 64));
    int32_t *out = malloc((n + 1) * sizeof *out);
    for (size_t i = 0; i < dim; i++)
        q.data[i] = extreme ? (char)-128 : (char)test_rand(r);
    for (size_t i = 0; i < n * dim; i++)
        x.data[i] = extreme ? (i / dim % 2 ? 127 : (char)-128) : (char)test_rand(r);
    for (size_t t = 0; t < ntables; t++)
        for (int op = 0; op < 3; op++) {
            const struct kernels *kn = tables[t];
            kernel_count_fn f = op == 0 ? kn->l2_i8 : op == 1 ? kn->dot_i8 : kn->hamming;
            f(q.data, x.data, dim, n, op == 2 ? dim * 8 : dim, out);
            for (size_t i = 0; i < n; i++) {
                int64_t want = 0;
                for (size_t j = 0; j < dim; j++) {
                    int a = (int8_t)q.data[j], b = (int8_t)x.data[i * dim + j];
                    want += op == 0   ? (a - b) * (a - b)
                            : op == 1 ? a * b
                                      : __builtin_popcount((unsigned)(a ^ b) & 255);
                }
                CHECKF(out[i] == want, "%s op %d dim %zu row %zu of %zu: %d, not %" PRId64,
                       kn->name, op, dim, i, n, out[i], want);
            }
        }
    free(q.memory);
    free(x.memory);
    free(out);
}

TEST(integer_kernels_are_exact)
{
    struct test_rng r = {14};
    load_tables();
    for (size_t round = 0; round < test_budget(300); round++)
        check_counts(&r, round < 200 ? round + 1 : 1 + test_below(&r, 1500), test_below(&r, 14),
                     round % 7 == 0);
}

TEST(integer_kernels_do_not_overflow_at_the_largest_dimension)
{
    struct test_rng r = {15};
    load_tables();
    check_counts(&r, KERNEL_MAX_DIM, 5, true);
    check_counts(&r, KERNEL_MAX_DIM, 5, false);
}

/* Any f16 value widens to what its bits say, and comes back. */
TEST(f16_converts_both_ways_for_all_values)
{
    load_tables();
    uint16_t *h = malloc(65536 * sizeof *h), *back = malloc(65536 * sizeof *back);
    float *f = malloc(65536 * sizeof *f);
    for (size_t i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    for (size_t t = 0; t < ntables; t++) {
        tables[t]->f16_to_f32(h, 65536, f);
        tables[t]->f32_to_f16(f, 65536, back);
        for (size_t i = 0; i < 65536; i++) {
            bool special = (i & 0x7c00) == 0x7c00, nan = special && (i & 1023);
            if (!special)
                CHECKF((double)f[i] == as_double(ELEM_F16, (const char *)h, i), "%s f16 %04zx",
                       tables[t]->name, i);
            CHECKF(nan ? isnan(f[i]) && (back[i] & 0x7e00) == 0x7e00 : back[i] == i,
                   "%s f16 %04zx comes back as %04x", tables[t]->name, i, back[i]);
        }
        tables[t]->bf16_to_f32(h, 65536, f);
        tables[t]->f32_to_bf16(f, 65536, back);
        for (size_t i = 0; i < 65536; i++)
            CHECKF(isnan(f[i]) ? back[i] == (i | 0x40) : back[i] == i,
                   "%s bf16 %04zx comes back as %04x", tables[t]->name, i, back[i]);
    }
    free(h);
    free(back);
    free(f);
}

TEST(narrowing_rounds_to_nearest_even)
{
    static const struct {
        float from;
        uint16_t f16, bf16;
    } rows[] = {
        {1.0f, 0x3c00, 0x3f80},
        {1.0f + 0x1p-11f, 0x3c00, 0x3f80},          /* f16: halfway, down to even */
        {1.0f + 0x3p-11f, 0x3c02, 0x3f80},          /* f16: halfway, up to even */
        {1.0f + 0x1p-8f, 0x3c04, 0x3f80},           /* bf16: halfway, down to even */
        {1.0f + 0x3p-8f, 0x3c0c, 0x3f82},           /* bf16: halfway, up to even */
        {65519.0f, 0x7bff, 0x4780},
        {65520.0f, 0x7c00, 0x4780},                 /* f16: halfway to 2^16, overflows */
        {-1e30f, 0xfc00, 0xf14a},
        {0x1p-24f, 0x0001, 0x3380},                 /* f16's least subnormal */
        {0x1p-25f, 0x0000, 0x3300},                 /* halfway to it, down to even */
        {0x1.8p-25f, 0x0001, 0x3340},
        {0x1.ff8p-15f, 0x03ff, 0x3880},             /* f16's largest subnormal */
        {0x1.ffcp-15f, 0x0400, 0x3880},             /* f16: halfway to 2^-14, up to even */
        {-0.0f, 0x8000, 0x8000},
        {FLT_MAX, 0x7c00, 0x7f80},
        {INFINITY, 0x7c00, 0x7f80},
    };
    load_tables();
    for (size_t t = 0; t < ntables; t++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            uint16_t h, b;
            tables[t]->f32_to_f16(&rows[i].from, 1, &h);
            tables[t]->f32_to_bf16(&rows[i].from, 1, &b);
            CHECKF(h == rows[i].f16, "%s f16 of %a: %04x, not %04x", tables[t]->name,
                   (double)rows[i].from, h, rows[i].f16);
            CHECKF(b == rows[i].bf16, "%s bf16 of %a: %04x, not %04x", tables[t]->name,
                   (double)rows[i].from, b, rows[i].bf16);
        }
}

TEST(conversions_of_all_tables_agree_on_random_bits_and_tails)
{
    struct test_rng r = {16};
    load_tables();
    for (size_t n = 0; n < 200; n++) {
        struct block from = block_make(n * 4, 2 * test_below(&r, 16));
        for (size_t i = 0; i < n * 4; i++)
            from.data[i] = (char)test_rand(&r);
        for (size_t t = 1; t < ntables; t++) {
            const struct kernels *a = tables[0], *b = tables[t];
            uint16_t *x = calloc(n + 1, 2), *y = calloc(n + 1, 2);
            float *v = calloc(n + 1, 4), *w = calloc(n + 1, 4);
            const float *f = (const float *)(const void *)from.data;
            a->f32_to_f16(f, n, x);
            b->f32_to_f16(f, n, y);
            CHECKF(memcmp(x, y, (n + 1) * 2) == 0, "%s f16, %zu elements", b->name, n);
            a->f32_to_bf16(f, n, x);
            b->f32_to_bf16(f, n, y);
            CHECKF(memcmp(x, y, (n + 1) * 2) == 0, "%s bf16, %zu elements", b->name, n);
            a->f16_to_f32(from.data, n, v);
            b->f16_to_f32(from.data, n, w);
            CHECKF(memcmp(v, w, (n + 1) * 4) == 0, "%s from f16, %zu elements", b->name, n);
            a->bf16_to_f32(from.data, n, v);
            b->bf16_to_f32(from.data, n, w);
            CHECKF(memcmp(v, w, (n + 1) * 4) == 0, "%s from bf16, %zu elements", b->name, n);
            a->i8_to_f32(from.data, n, v);
            b->i8_to_f32(from.data, n, w);
            CHECKF(memcmp(v, w, (n + 1) * 4) == 0, "%s from i8, %zu elements", b->name, n);
            a->i32_to_f32(from.data, n, v);
            b->i32_to_f32(from.data, n, w);
            CHECKF(memcmp(v, w, (n + 1) * 4) == 0, "%s from i32, %zu elements", b->name, n);
            free(x);
            free(y);
            free(v);
            free(w);
        }
        free(from.memory);
    }
}

static float *aligned_floats(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 63) / 64 * 64);
    memset(p, 0, (n * sizeof *p + 63) / 64 * 64);
    return p;
}

TEST(gemm_gives_dot_products_in_slices)
{
    struct test_rng r = {17};
    load_tables();
    for (size_t round = 0; round < test_budget(60); round++) {
        size_t nslabs = 1 + test_below(&r, 4), n = test_below(&r, 30), k = 1 + test_below(&r, 300);
        size_t ld = (nslabs + test_below(&r, 2)) * KERNEL_LANES, cut = test_below(&r, k);
        float *queries = aligned_floats(nslabs * k * KERNEL_LANES);
        float *out = aligned_floats(n * ld + 1);
        struct block rows = block_make(n * k * 4, test_below(&r, 64));
        for (size_t i = 0; i < nslabs * k * KERNEL_LANES; i++)
            queries[i] = (float)test_normal(&r);
        for (size_t i = 0; i < n * k; i++)
            put(ELEM_F32, rows.data, i, (float)test_normal(&r));
        for (size_t t = 0; t < ntables; t++) {
            const float *x = (const float *)(const void *)rows.data;
            const float *rest = (const float *)(const void *)(rows.data + cut * 4);
            tables[t]->gemm(queries, nslabs, k * KERNEL_LANES, x, k * 4, n, cut, out, ld, false);
            tables[t]->gemm(queries + cut * KERNEL_LANES, nslabs, k * KERNEL_LANES, rest, k * 4, n,
                            k - cut, out, ld, true);
            for (size_t i = 0; i < n; i++)
                for (size_t q = 0; q < nslabs * KERNEL_LANES; q++) {
                    double want = 0, scale = 0;
                    for (size_t j = 0; j < k; j++) {
                        const float *slab = queries + q / KERNEL_LANES * k * KERNEL_LANES;
                        double term = (double)slab[j * KERNEL_LANES + q % KERNEL_LANES] *
                                      as_double(ELEM_F32, rows.data, i * k + j);
                        want += term;
                        scale += fabs(term);
                    }
                    double limit = ((double)k + 8) * 0x1p-24 * scale;
                    CHECKF(fabs((double)out[i * ld + q] - want) <= limit,
                           "%s gemm k %zu row %zu query %zu: %g, not %g", tables[t]->name, k, i, q,
                           (double)out[i * ld + q], want);
                }
        }
        free(queries);
        free(out);
        free(rows.memory);
    }
}

TEST(filters_list_what_may_pass_and_what_is_not_finite)
{
    struct test_rng r = {18};
    load_tables();
    for (size_t n = 0; n < 100; n++) {
        float *x = aligned_floats(n + 1), *norms = aligned_floats(n + 1);
        uint32_t *index = malloc((n + 1) * sizeof *index);
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)test_normal(&r);
            norms[i] = i % 11 == 3 ? NAN : (float)test_uniform(&r);
            if (i % 9 == 4)
                x[i] = i % 2 ? INFINITY : -INFINITY;
            if (i % 13 == 5)
                x[i] = NAN;
        }
        for (size_t t = 0; t < ntables; t++)
            for (int with = 0; with < 2; with++) {
                const float *rs = with ? norms : NULL;
                size_t found = tables[t]->filter(x, rs, n, 0.5f, -1.0f, 0.1f, index), at = 0;
                for (size_t i = 0; i < n; i++) {
                    double v = -(double)x[i] + (with ? 0.5 * (double)norms[i] : 0);
                    bool pass = !(v > (double)0.1f) || !isfinite(x[i]);
                    CHECKF(pass == (at < found && index[at] == i), "%s filter %zu of %zu",
                           tables[t]->name, i, n);
                    at += pass;
                }
                CHECK_EQ(found, at);
            }
        free(x);
        free(norms);
        free(index);
    }
}

TEST(sieves_list_pairs_by_row_then_query)
{
    struct test_rng r = {19};
    load_tables();
    enum { N = 13, SLABS = 3, Q = SLABS * KERNEL_LANES, LD = Q + KERNEL_LANES };
    float *dots = aligned_floats(N * LD), *norms = aligned_floats(N);
    float *a = aligned_floats(Q), *limit = aligned_floats(Q);
    uint32_t *pairs = malloc(N * Q * sizeof *pairs);
    for (size_t i = 0; i < N * LD; i++)
        dots[i] = (float)test_normal(&r);
    for (size_t i = 0; i < N; i++)
        norms[i] = i == 7 ? NAN : (float)test_uniform(&r);
    for (size_t q = 0; q < Q; q++) {
        a[q] = (float)test_normal(&r);
        limit[q] = q == 20 ? -INFINITY : q == 21 ? INFINITY : (float)test_normal(&r);
    }
    for (size_t t = 0; t < ntables; t++) {
        size_t found = tables[t]->sieve(dots, LD, norms, N, a, limit, SLABS, pairs), at = 0;
        for (size_t i = 0; i < N; i++)
            for (size_t q = 0; q < Q; q++) {
                double v = (double)a[q] * (double)norms[i] - (double)dots[i * LD + q];
                bool pass = !(v > (double)limit[q]);
                CHECKF(pass == (at < found && pairs[at] == (i << 16 | q)), "%s row %zu query %zu",
                       tables[t]->name, i, q);
                at += pass;
            }
        CHECK_EQ(found, at);
    }
    free(dots);
    free(norms);
    free(a);
    free(limit);
    free(pairs);
}

TEST(selection_obeys_cap_and_environment)
{
    load_tables();
    unsetenv("MNEME_ISA");
    CHECK(kernels_select(ISA_COUNT) == tables[ntables - 1]);
    CHECK(kernels_select(ISA_COUNT)->isa == kernels_detect());
    CHECK(kernels_select(ISA_SCALAR)->isa == ISA_SCALAR);
    CHECK(kernels_select(ISA_AVX2)->isa <= ISA_AVX2);
    setenv("MNEME_ISA", "scalar", 1);
    CHECK(kernels_select(ISA_COUNT)->isa == ISA_SCALAR);
    setenv("MNEME_ISA", "avx2", 1);
    CHECK(kernels_select(ISA_COUNT)->isa <= ISA_AVX2);
    CHECK(kernels_select(ISA_SCALAR)->isa == ISA_SCALAR);
    setenv("MNEME_ISA", "nonsense", 1);
    CHECK(kernels_select(ISA_COUNT) == tables[ntables - 1]);
    unsetenv("MNEME_ISA");
    for (size_t t = 0; t < ntables; t++)
        test_note("%s", tables[t]->name);
}

TEST_MAIN
