/* Scores of an f32 query against f32, f16 and bf16 rows with AVX2, FMA and F16C. As in
 * float_avx512.c: two accumulators a row, four rows at once, and a row's steps are the same in a
 * group and alone. */
#include "index/kernels/tables.h"

#include <immintrin.h>

enum op { OP_L2, OP_DOT, OP_NORM };

/* Bytes ahead of the current rows that are fetched, into the first cache for f32, which other
 * queries may have brought to the second, and into the second for narrower types, which have more
 * to do for a line: README.md has the measurement. */
enum { AHEAD_F32 = 512, AHEAD_HALF = 4096 };

#define INLINE static inline __attribute__((always_inline))

typedef uint16_t any_u16 __attribute__((aligned(1), may_alias));

INLINE __m256 widen(enum elem type, __m128i half)
{
    if (type == ELEM_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE __m256 load(enum elem type, const char *row, size_t i)
{
    if (type == ELEM_F32)
        return _mm256_loadu_ps((const float *)(const void *)(row + i * 4));
    return widen(type, _mm_loadu_si128((const __m128i *)(const void *)(row + i * 2)));
}

/* The last `left` elements, 1 to 7, of `dim`; the other lanes are zero. Vectors of 8 and more are
 * read again from 8 elements before their end: query and rows must be read alike. */
INLINE __m256 load_tail(enum elem type, const char *row, size_t dim, size_t left)
{
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    if (dim >= 8) {
        __m256i keep = _mm256_cmpgt_epi32(lanes, _mm256_set1_epi32(7 - (int)left));
        return _mm256_and_ps(load(type, row, dim - 8), _mm256_castsi256_ps(keep));
    }
    if (type == ELEM_F32)
        return _mm256_maskload_ps((const float *)(const void *)row,
                                  _mm256_cmpgt_epi32(_mm256_set1_epi32((int)left), lanes));
    const any_u16 *p = (const any_u16 *)(const void *)row;
    uint16_t part[8] __attribute__((aligned(16))) = {0};
    for (size_t j = 0; j < left; j++)
        part[j] = p[j];
    return widen(type, _mm_load_si128((const __m128i *)(const void *)part));
}

INLINE __m256 accumulate(enum op op, __m256 q, __m256 x, __m256 sum)
{
    if (op == OP_DOT)
        return _mm256_fmadd_ps(q, x, sum);
    if (op == OP_NORM)
        return _mm256_fmadd_ps(x, x, sum);
    __m256 d = _mm256_sub_ps(q, x);
    return _mm256_fmadd_ps(d, d, sum);
}

INLINE float add_lanes(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}

/* `count` rows from `row` on, count being a constant. */
INLINE void score_rows(enum op op, enum elem type, const char *q, const char *row, size_t stride,
                       const size_t count, size_t dim, float *out)
{
    __m256 even[4], odd[4], x = _mm256_setzero_ps();
    size_t i = 0, ahead = (type == ELEM_F32 ? AHEAD_F32 : AHEAD_HALF) + count * stride;
#pragma GCC unroll 4
    for (size_t r = 0; r < count; r++)
        even[r] = odd[r] = _mm256_setzero_ps();
    for (; i + 16 <= dim; i += 16) {
        __m256 q0 = op == OP_NORM ? x : load(ELEM_F32, q, i);
        __m256 q1 = op == OP_NORM ? x : load(ELEM_F32, q, i + 8);
#pragma GCC unroll 4
        for (size_t r = 0; r < count; r++) {
            const char *p = row + r * stride;
            even[r] = accumulate(op, q0, load(type, p, i), even[r]);
            odd[r] = accumulate(op, q1, load(type, p, i + 8), odd[r]);
            if (type == ELEM_F32)
                _mm_prefetch(p + ahead + i * 4, _MM_HINT_T0);
            else if (i % 32 == 0)
                _mm_prefetch(p + ahead + i * 2, _MM_HINT_T1);
        }
    }
    if (i + 8 <= dim) {
        __m256 q0 = op == OP_NORM ? x : load(ELEM_F32, q, i);
#pragma GCC unroll 4
        for (size_t r = 0; r < count; r++)
            even[r] = accumulate(op, q0, load(type, row + r * stride, i), even[r]);
        i += 8;
    }
    if (i < dim) {
        __m256 q1 = op == OP_NORM ? x : load_tail(ELEM_F32, q, dim, dim - i);
#pragma GCC unroll 4
        for (size_t r = 0; r < count; r++)
            odd[r] = accumulate(op, q1, load_tail(type, row + r * stride, dim, dim - i), odd[r]);
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < count; r++)
        out[r] = add_lanes(_mm256_add_ps(even[r], odd[r]));
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
    void kernel_##name##_avx2(KERNEL_SCORE_ARGS)                                                   \
    {                                                                                              \
        score(op, type, query, rows, stride, n, dim, out);                                         \
    }
#define NORM(name, type)                                                                           \
    void kernel_##name##_avx2(KERNEL_NORM_ARGS)                                                    \
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
