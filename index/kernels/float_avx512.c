/* Scores of an f32 query against f32, f16 and bf16 rows with AVX-512.
 *
 * Each row has two accumulators of 16 lanes and advances 32 elements a step; four rows run at
 * once, so that eight sums hide the latency of the multiply-add and a loaded register of the query
 * serves four rows. A row of its own takes the same steps in the same order: results do not depend
 * on the grouping. 32 elements of bf16 are widened where they stand, even ones by a shift, odd ones
 * by a mask, and meet a query that is parted in the same way. */
#include "index/kernels/tables.h"

#include <immintrin.h>

enum op { OP_L2, OP_DOT, OP_NORM };

/* Bytes ahead of the current rows that are fetched, into the first cache for f32, which other
 * queries may have brought to the second, and into the second for narrower types, which have more
 * to do for a line: README.md has the measurement. */
enum { AHEAD_F32 = 512, AHEAD_HALF = 4096 };

#define INLINE static inline __attribute__((always_inline))

INLINE __mmask32 first_lanes(size_t n)
{
    return n < 32 ? ((__mmask32)1 << n) - 1 : ~(__mmask32)0;
}

/* The lanes of `mask`, of 32 elements from i on, in two registers; other lanes are zero and their
 * memory is not touched. The first holds elements 0 to 15, of bf16 the even ones. */
INLINE void load(enum elem type, const char *row, size_t i, __mmask32 mask, bool whole, __m512 x[2])
{
    __mmask16 low = (__mmask16)mask, high = (__mmask16)(mask >> 16);
    if (type == ELEM_F32) {
        const char *p = row + i * 4;
        x[0] = whole ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(low, p);
        x[1] = whole ? _mm512_loadu_ps(p + 64) : _mm512_maskz_loadu_ps(high, p + 64);
    } else if (type == ELEM_F16) {
        const char *p = row + i * 2;
        x[0] = _mm512_cvtph_ps(whole ? _mm256_loadu_si256((const __m256i *)(const void *)p)
                                     : _mm256_maskz_loadu_epi16(low, p));
        x[1] = _mm512_cvtph_ps(whole ? _mm256_loadu_si256((const __m256i *)(const void *)(p + 32))
                                     : _mm256_maskz_loadu_epi16(high, p + 32));
    } else {
        const char *p = row + i * 2;
        __m512i v = whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(mask, p);
        x[0] = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
        x[1] = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
    }
}

/* 32 elements of the query in the order that load() gives rows of `type`. */
INLINE void load_query(enum elem type, const char *q, size_t i, __mmask32 mask, bool whole,
                       __m512 y[2])
{
    load(ELEM_F32, q, i, mask, whole, y);
    if (type != ELEM_BF16)
        return;
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    __m512 first = y[0];
    y[0] = _mm512_permutex2var_ps(first, even, y[1]);
    y[1] = _mm512_permutex2var_ps(first, odd, y[1]);
}

INLINE __m512 accumulate(enum op op, __m512 q, __m512 x, __m512 sum)
{
    if (op == OP_DOT)
        return _mm512_fmadd_ps(q, x, sum);
    if (op == OP_NORM)
        return _mm512_fmadd_ps(x, x, sum);
    __m512 d = _mm512_sub_ps(q, x);
    return _mm512_fmadd_ps(d, d, sum);
}

/* The lanes of each of four registers added up, all in the same order. */
INLINE __m128 add_lanes(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* 32 elements of `count` rows. */
INLINE void step(enum op op, enum elem type, const char *q, const char *row, size_t stride,
                 const size_t count, size_t i, __mmask32 mask, bool whole, __m512 sum[4][2])
{
    __m512 y[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, x[2];
    if (op != OP_NORM)
        load_query(type, q, i, mask, whole, y);
#pragma GCC unroll 4
    for (size_t r = 0; r < count; r++) {
        load(type, row + r * stride, i, mask, whole, x);
        sum[r][0] = accumulate(op, y[0], x[0], sum[r][0]);
        sum[r][1] = accumulate(op, y[1], x[1], sum[r][1]);
    }
}

/* `count` rows, 1 or 4, from `row` on. */
INLINE void score_rows(enum op op, enum elem type, const char *q, const char *row, size_t stride,
                       const size_t count, size_t dim, float *out)
{
    const char *ahead = row + count * stride + (type == ELEM_F32 ? AHEAD_F32 : AHEAD_HALF);
    __m512 sum[4][2];
    size_t i = 0;
#pragma GCC unroll 4
    for (size_t r = 0; r < 4; r++)
        sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (; i + 32 <= dim; i += 32) {
        step(op, type, q, row, stride, count, i, first_lanes(32), true, sum);
#pragma GCC unroll 4
        for (size_t r = 0; r < count; r++) {
            if (type == ELEM_F32) {
                _mm_prefetch(ahead + r * stride + i * 4, _MM_HINT_T0);
                _mm_prefetch(ahead + r * stride + i * 4 + 64, _MM_HINT_T0);
            } else {
                _mm_prefetch(ahead + r * stride + i * 2, _MM_HINT_T1);
            }
        }
    }
    if (i < dim)
        step(op, type, q, row, stride, count, i, first_lanes(dim - i), false, sum);
    __m128 total = add_lanes(_mm512_add_ps(sum[0][0], sum[0][1]),
                             _mm512_add_ps(sum[1][0], sum[1][1]),
                             _mm512_add_ps(sum[2][0], sum[2][1]),
                             _mm512_add_ps(sum[3][0], sum[3][1]));
    if (count == 4)
        _mm_storeu_ps(out, total);
    else
        _mm_store_ss(out, total);
}

INLINE void score(enum op op, enum elem type, KERNEL_SCORE_ARGS)
{
    const char *q = (const char *)query, *row = rows;
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        score_rows(op, type, q, row + i * stride, stride, 4, dim, out + i);
    for (; i < n; i++)
        score_rows(op, type, q, row + i * stride, stride, 1, dim, out + i);
}

#define SCORE(name, op, type)                                                                      \
    void kernel_##name##_avx512(KERNEL_SCORE_ARGS)                                                 \
    {                                                                                              \
        score(op, type, query, rows, stride, n, dim, out);                                         \
    }
#define NORM(name, type)                                                                           \
    void kernel_##name##_avx512(KERNEL_NORM_ARGS)                                                  \
    {                                                                                              \
        score(OP_NORM, type, NULL, rows, stride, n, dim, out);                                     \
    }

SCORE(l2_f32, OP_L2, ELEM_F32)
SCORE(l2_f16, OP_L2, ELEM_F16)
SCORE(l2_bf16, OP_L2, ELEM_BF16)
SCORE(dot_f32, OP_DOT, ELEM_F32)
SCORE(dot_f16, OP_DOT, ELEM_F16)
SCORE(dot_bf16, OP_DOT, ELEM_BF16)
NORM(norm_f32, ELEM_F32)
NORM(norm_f16, ELEM_F16)
NORM(norm_bf16, ELEM_BF16)
