/* Kernels of codes: every instruction set against plain C. */
#include "index/kernels/kernels.h"
#include "index/posting.h"
#include "tests/test.h"

enum { GUARD = 128 };

static const struct kernels *plain(void)
{
    return kernels_at(0);
}

static void noise(struct test_rng *r, void *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)out)[i] = (uint8_t)test_rand(r);
}

static void normals(struct test_rng *r, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)test_normal(r);
}

/* A table of which no run overflows 8 bits. */
static void small_table(struct test_rng *r, uint8_t *lut, size_t pairs)
{
    memset(lut, 0, (pairs + 1) * 32);
    for (size_t i = 0; i < pairs * 32; i++)
        lut[i] = (uint8_t)test_below(r, 255 / CODE_RUN + 1);
}

TEST(scan_finds_the_same_rows_on_every_machine)
{
    struct test_rng r = {1};
    enum { MOST = 300, PAIRS = 40 };
    size_t block = PAIRS * 32 + 128, bytes = (MOST / 32 + 1) * block;
    uint8_t *blocks = malloc(bytes + GUARD), *lut = aligned_alloc(64, (PAIRS + 2) * 32);
    uint32_t rows[2][MOST + SCAN_SLACK];
    uint32_t sums[2][MOST + SCAN_SLACK];
    uint64_t hidden[MOST / 64 + 1];
    size_t survivors = 0;
    for (int round = 0; round < 300; round++) {
        size_t pairs = 1 + test_below(&r, round % 10 ? 17 : PAIRS);
        noise(&r, blocks, bytes);
        noise(&r, hidden, sizeof hidden);
        small_table(&r, lut, pairs);
        struct kernel_scan s = {.blocks = blocks, .lut = lut, .records = blocks,
                                .record_bytes = 1 + test_below(&r, 200),
                                .hidden = round % 3 ? NULL : hidden, .n = test_below(&r, MOST + 1),
                                .pairs = pairs, .all = round % 7 == 0,
                                .center = (int16_t)(pairs * 32), .rows = rows[0], .sums = sums[0]};
        s.shift = (int16_t)((int)test_below(&r, 6) - 1);
        s.mul = (int16_t)test_rand(&r);
        s.add = (int16_t)test_rand(&r);
        s.unit = (int16_t)test_rand(&r);
        s.limit = (int16_t)test_rand(&r);
        size_t want = plain()->scan(&s);
        survivors += want;
        for (size_t i = 1; kernels_at(i); i++) {
            s.rows = rows[1];
            s.sums = sums[1];
            size_t got = kernels_at(i)->scan(&s);
            CHECKF(got == want, "%s, round %d: %zu rows, not %zu", kernels_at(i)->name, round, got,
                   want);
            CHECK(memcmp(rows[0], rows[1], want * sizeof **rows) == 0);
            CHECK(memcmp(sums[0], sums[1], want * sizeof **sums) == 0);
        }
    }
    CHECK(survivors > 1000);
    free(blocks);
    free(lut);
}

TEST(levels_give_the_same_sums_on_every_machine)
{
    struct test_rng r = {2};
    enum { N = 7 };
    uint32_t rows[N] = {3, 0, 6, 6, 1, 5, 2};
    int32_t want[N], got[N];
    int8_t *query = calloc(1, 8 * 1024);
    uint8_t *records = malloc(N * 700 + GUARD);
    for (int round = 0; round < 200; round++) {
        uint32_t bits = 1u << round % 3, bytes = 1 + (uint32_t)test_below(&r, 128);
        uint32_t slice = bytes <= 32 ? 32 : (bytes + 63) / 64 * 64;
        memset(query, 0, 8 * 1024);
        noise(&r, records, N * 700 + GUARD);
        for (uint32_t s = 0; s < (bits == 1 ? 1 : 8 / bits); s++)
            noise(&r, query + s * slice, bits == 1 ? bytes * 8 : bytes);
        for (size_t i = 0; i < 8 * 1024; i++)
            query[i] = (int8_t)(query[i] == -128 ? 0 : query[i]);
        uint32_t weight = (uint32_t)test_below(&r, 4);
        struct kernel_plane planes[2] = {{bits, weight, 5, bytes, query, slice},
                                         {2, 1, 140, 9, query + 4096, 32}};
        noise(&r, query + 4096, 9);
        size_t record = 300 + test_below(&r, 300);
        plain()->levels(records, record, rows, N, planes, 2, want);
        for (size_t i = 1; kernels_at(i); i++) {
            kernels_at(i)->levels(records, record, rows, N, planes, 2, got);
            CHECKF(memcmp(want, got, sizeof want) == 0, "%s, round %d: %u bits, %u bytes",
                   kernels_at(i)->name, round, bits, bytes);
        }
    }
    free(query);
    free(records);
}

/* As payloads have them: every number of bits, few elements and many. */
TEST(levels_of_whole_records_are_the_same_on_every_machine)
{
    struct test_rng r = {21};
    enum { N = 5, MOST = 200 };
    uint32_t rows[N] = {2, 4, 0, 1, 3};
    int32_t got[N];
    uint8_t *records = malloc(N * MOST + GUARD);
    int8_t *query = malloc(3 * 512 * POSTING_MAX_PLANES);
    for (int round = 0; round < 400; round++) {
        uint32_t bits = 2 + (uint32_t)round % 7, dim = 1 + (uint32_t)test_below(&r, MOST);
        struct posting_planes layout;
        struct kernel_plane planes[POSTING_MAX_PLANES];
        posting_planes(dim, bits, &layout);
        int8_t q[MOST];
        noise(&r, records, N * MOST + GUARD);
        memset(query, 0, 3 * 512 * POSTING_MAX_PLANES);
        for (uint32_t d = 0; d < dim; d++)
            q[d] = (int8_t)((int)test_below(&r, 255) - 127);
        for (uint32_t i = 0; i < layout.n; i++) {
            uint32_t bytes = layout.plane[i].bytes, b = layout.plane[i].bits;
            uint32_t slice = bytes <= 32 ? 32 : (bytes + 63) / 64 * 64;
            int8_t *to = query + i * 3 * 512;
            planes[i] = (struct kernel_plane){b, layout.plane[i].weight, layout.plane[i].offset,
                                              bytes, to, slice};
            for (uint32_t d = 0; d < dim; d++)
                to[b == 1 ? d : d / bytes * slice + d % bytes] = q[d];
        }
        for (size_t i = 0; kernels_at(i); i++) {
            kernels_at(i)->levels(records, layout.bytes, rows, N, planes, layout.n, got);
            for (size_t j = 0; j < N; j++) {
                int32_t want = 0;
                for (uint32_t p = 0; p < layout.n; p++)
                    for (uint32_t d = 0; d < dim; d++) {
                        uint32_t b = planes[p].bits, bytes = planes[p].bytes;
                        const uint8_t *x = records + rows[j] * layout.bytes + planes[p].offset;
                        int level = b == 1 ? x[d / 8] >> d % 8 & 1
                                           : x[d % bytes] >> d / bytes * b & ((1 << b) - 1);
                        want += level * q[d] * (1 << planes[p].weight);
                    }
                CHECKF(got[j] == want, "%s: %u bits of %u: %d, not %d", kernels_at(i)->name, bits,
                       dim, got[j], want);
            }
        }
    }
    free(records);
    free(query);
}

TEST(query_kernels_are_the_same_to_the_bit)
{
    struct test_rng r = {3};
    enum { N = 400 };
    float x[N], y[N], a[N], b[N];
    uint8_t lut[2][N * 4];
    int8_t code[2][N];
    for (int round = 0; round < 60; round++) {
        size_t n = 1 + test_below(&r, N), padded = n / 16 * 16;
        normals(&r, x, N);
        normals(&r, y, N);
        float scale = (float)(5 + 60 * test_uniform(&r));
        uint32_t total = plain()->lut(x, padded, scale, lut[0]);
        int32_t sum = plain()->quantise(x, n, scale, code[0]);
        for (size_t i = 1; kernels_at(i); i++) {
            const struct kernels *kn = kernels_at(i);
            CHECK_EQ(kn->lut(x, padded, scale, lut[1]), total);
            CHECK(memcmp(lut[0], lut[1], padded * 4) == 0);
            CHECK_EQ(kn->quantise(x, n, scale, code[1]), sum);
            CHECK(memcmp(code[0], code[1], n) == 0);
            memcpy(a, x, sizeof a);
            memcpy(b, x, sizeof b);
            plain()->multiply(a, y, n);
            kn->multiply(b, y, n);
            CHECK(memcmp(a, b, sizeof a) == 0);
            plain()->turn(a, a + (n + 1) / 2, n / 2);
            kn->turn(b, b + (n + 1) / 2, n / 2);
            CHECK(memcmp(a, b, sizeof a) == 0);
        }
    }
}

TEST(fht_is_the_same_to_the_bit)
{
    struct test_rng r = {4};
    enum { N = 2048 };
    float x[N], a[N], b[N];
    for (size_t n = 1; n <= N; n *= 2) {
        normals(&r, x, n);
        memcpy(a, x, n * sizeof *a);
        plain()->fht(a, n);
        for (size_t i = 1; kernels_at(i); i++) {
            memcpy(b, x, n * sizeof *b);
            kernels_at(i)->fht(b, n);
            CHECKF(memcmp(a, b, n * sizeof *a) == 0, "%s, %zu", kernels_at(i)->name, n);
        }
        plain()->fht(a, n); /* twice is n times */
        for (size_t j = 0; j < n; j++)
            CHECK_NEAR(a[j] / (float)n, x[j], 1e-5);
    }
}

TEST(code_makers_agree)
{
    struct test_rng r = {5};
    enum { N = 300 };
    float x[N], dot[2], norm[2];
    uint8_t level[2][N];
    for (int round = 0; round < 60; round++) {
        size_t n = 1 + test_below(&r, N);
        float top = (float)((1 << round % 8) - 1), t = (float)(test_uniform(&r) * 60);
        normals(&r, x, n);
        x[0] = round % 2 ? -0.0f : 0.0f;
        plain()->fit(x, n, t, top, &dot[0], &norm[0]);
        plain()->level(x, n, t, top, level[0]);
        for (size_t i = 1; kernels_at(i); i++) {
            kernels_at(i)->fit(x, n, t, top, &dot[1], &norm[1]);
            CHECK_NEAR(dot[1], dot[0], 1e-5 * (double)dot[0]);
            CHECK_NEAR(norm[1], norm[0], 1e-5 * (double)norm[0]);
            kernels_at(i)->level(x, n, t, top, level[1]);
            CHECK(memcmp(level[0], level[1], n) == 0);
        }
    }
}

TEST(centroid_kernels_agree)
{
    struct test_rng r = {6};
    enum { BLOCKS = 5, QUADS = 40, N = BLOCKS * CENTROID_LANES };
    uint8_t *codes = aligned_alloc(64, BLOCKS * QUADS * 64);
    int8_t query[QUADS * 4];
    float scale[N], norm[N], want[N], got[N];
    for (int round = 0; round < 50; round++) {
        struct kernel_centroids c = {.codes = codes, .scale = scale, .norm = norm,
                                     .blocks = 1 + test_below(&r, BLOCKS),
                                     .quads = 1 + test_below(&r, QUADS), .query = query,
                                     .base = 3, .by = -0.01f, .least = -100, .out = want};
        for (size_t i = 0; i < BLOCKS * QUADS * 64; i++)
            codes[i] = (uint8_t)(1 + test_below(&r, 127));
        for (size_t i = 0; i < sizeof query; i++)
            query[i] = (int8_t)((int)test_below(&r, 255) - 127);
        for (size_t i = 0; i < c.quads * 4; i++)
            c.query_sum += query[i];
        normals(&r, scale, N);
        normals(&r, norm, N);
        plain()->centroids(&c);
        for (size_t i = 1; kernels_at(i); i++) {
            c.out = got;
            kernels_at(i)->centroids(&c);
            for (size_t j = 0; j < c.blocks * CENTROID_LANES; j++)
                CHECK_NEAR(got[j], want[j], 1e-4 * (1 + fabs((double)want[j])));
        }
    }
    free(codes);
}

TEST(gathering_kernels_agree)
{
    struct test_rng r = {8};
    enum { N = 40, STRIDE = 256 };
    uint8_t *rows = aligned_alloc(64, N * STRIDE);
    int8_t query[STRIDE];
    uint32_t which[N];
    int32_t want[N], got[N];
    for (size_t i = 0; i < N * STRIDE; i++)
        rows[i] = (uint8_t)(i % 3 ? test_below(&r, 128) : 127);
    for (int round = 0; round < 50; round++) {
        struct kernel_gather g = {.rows = rows, .stride = 64 * (1 + test_below(&r, STRIDE / 64)),
                                  .query = query, .which = which, .n = test_below(&r, N + 1),
                                  .out = want};
        for (size_t i = 0; i < STRIDE; i++)
            query[i] = (int8_t)(round % 3 ? (int)test_below(&r, 255) - 127 : 127);
        for (size_t i = 0; i < N; i++)
            which[i] = (uint32_t)test_below(&r, N);
        plain()->gather(&g);
        g.out = got;
        for (size_t i = 1; kernels_at(i); i++) {
            memset(got, 0xff, sizeof got);
            kernels_at(i)->gather(&g);
            CHECKF(memcmp(got, want, g.n * sizeof *got) == 0, "%s", kernels_at(i)->name);
        }
    }
    free(rows);
}

TEST(selecting_kernels_agree)
{
    struct test_rng r = {11};
    enum { N = 448 };
    uint16_t values[N];
    for (int round = 0; round < 300; round++) {
        size_t n = 1 + test_below(&r, N);
        uint64_t start[N / 64], want[N / 64], got[N / 64];
        struct kernel_select k = {.values = values, .n = n, .low = (uint16_t)test_below(&r, 70000),
                                  .span = (uint16_t)test_below(&r, round % 2 ? 20 : 65536),
                                  .hole = (uint16_t)test_below(&r, 65536)};
        for (size_t i = 0; i < N; i++) {
            const uint16_t near[] = {k.low, (uint16_t)(k.low + k.span), k.hole, 65535, 0,
                                     (uint16_t)(k.low - 1), (uint16_t)(k.low + k.span + 1)};
            values[i] = test_below(&r, 2) ? near[test_below(&r, 7)] : (uint16_t)test_rand(&r);
        }
        for (size_t i = 0; i < N / 64; i++)
            start[i] = test_rand(&r) | test_rand(&r);
        memcpy(want, start, sizeof want);
        k.match = want;
        plain()->select(&k);
        for (size_t i = 0; i < (n + 63) / 64 * 64; i++) { /* the words themselves */
            bool in = i < n && (values[i] == 65535 || ((uint16_t)(values[i] - k.low) <= k.span &&
                                                       values[i] != k.hole));
            CHECK_EQ(want[i / 64] >> i % 64 & 1, in && (start[i / 64] >> i % 64 & 1));
        }
        for (size_t j = 1; kernels_at(j); j++) {
            memcpy(got, start, sizeof got);
            k.match = got;
            kernels_at(j)->select(&k);
            CHECKF(memcmp(got, want, sizeof got) == 0, "%s", kernels_at(j)->name);
        }
    }
}

TEST(counting_kernels_agree)
{
    struct test_rng r = {12};
    enum { N = 96 };
    uint64_t have[N] __attribute__((aligned(64)));
    float each[N] __attribute__((aligned(64))), out[2][N] __attribute__((aligned(64)));
    for (int round = 0; round < 50; round++) {
        uint64_t may = test_rand(&r) & test_rand(&r);
        for (size_t i = 0; i < N; i++) {
            have[i] = i % 5 ? test_rand(&r) : i % 2 ? 0 : ~UINT64_C(0);
            each[i] = (float)test_uniform(&r);
            out[0][i] = (float)(i + 1);
        }
        plain()->common(have, may, each, N, out[0]);
        for (size_t i = 0; i < N; i++)
            CHECK_NEAR(out[0][i],
                       (double)each[i] * __builtin_popcountll(have[i] & may) * (double)(i + 1),
                       1e-3);
        for (size_t j = 1; kernels_at(j); j++) {
            for (size_t i = 0; i < N; i++)
                out[1][i] = (float)(i + 1);
            kernels_at(j)->common(have, may, each, N, out[1]);
            for (size_t i = 0; i < N; i++)
                CHECK_NEAR(out[1][i], out[0][i], 1e-3);
        }
    }
}

TEST(choosing_kernels_agree)
{
    struct test_rng r = {7};
    enum { N = 160 };
    float g[N] __attribute__((aligned(64))), m[N] __attribute__((aligned(64)));
    float reach[N] __attribute__((aligned(64))), count[N] __attribute__((aligned(64)));
    float out[2][N] __attribute__((aligned(64))), value[2];
    for (int round = 0; round < 50; round++) {
        size_t n = 16 * (1 + test_below(&r, N / 16));
        for (size_t i = 0; i < N; i++) {
            g[i] = (float)(0.1 + test_uniform(&r));
            m[i] = (float)test_uniform(&r);
            reach[i] = 1;
            count[i] = (float)test_below(&r, 100);
        }
        if (round % 4 == 0)
            g[n - 1] = g[0] = -1;
        if (round % 4 == 1)
            g[n / 2] = INFINITY;
        struct kernel_weigh w = {.g = g, .m = m, .r = reach, .count = count, .n = n, .limit = 0.9f,
                                 .rate = 20, .inv = round % 4 < 2 ? 0.7f : 0, .out = out[0]};
        float sum = plain()->weigh(&w);
        size_t least = plain()->least(g, n), close = plain()->closest(g, m, n, &value[0]);
        for (size_t i = 1; kernels_at(i); i++) {
            w.out = out[1];
            CHECK_NEAR(kernels_at(i)->weigh(&w), sum, 2e-2 * (double)sum);
            for (size_t j = 0; j < n; j++)
                CHECK_NEAR(out[1][j], out[0][j], 0.02 * (double)out[0][j] + 1e-6);
            CHECK_EQ(kernels_at(i)->least(g, n), least);
            CHECK_EQ(kernels_at(i)->closest(g, m, n, &value[1]), close);
            CHECK(value[1] <= value[0] && value[1] >= value[0]);
        }
        for (size_t j = 0; j < n; j++) { /* the formula itself */
            double length2 = w.inv != 0 ? 1 / (double)w.inv : (double)g[j];
            double u = fmax(0, (double)(g[j] + m[j]) - 0.9);
            double weight = isinf(g[j]) || length2 <= 0 ? 0 : exp2(-20 * u * u / length2);
            if (length2 > 0)
                CHECK_NEAR(out[0][j], weight, 0.07 * weight + 1e-6);
        }
    }
}

TEST_MAIN
