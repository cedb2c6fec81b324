/* Scores of an f32 query against f32, f16 and bf16 rows with AVX-512.
 *
 * Each row has two accumulators, for even and odd registers of 16 elements; four rows run at once,
 * so that eight sums hide the latency of the multiply-add and a loaded register of the query
 * serves four rows. A row of its own takes the same steps in the same order: results do not depend
 * on the grouping. */
#include "index/kernels/tables.h"

#include <immintrin.h>

enum op { OP_L2, OP_DOT, OP_NORM };

/* Bytes ahead of the current row that are fetched: see README.md for the measurement. */
enum { AHEAD = 4096 };

#define INLINE static inline __attribute__((always_inline))

INLINE __m512 load(enum elem type, const char *row, size_t i)
{
    if (type == ELEM_F32)
        return _mm512_loadu_ps(row + i * 4);
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)(row + i * 2));
    if (type == ELEM_F16)
        return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE __m512 load_tail(enum elem type, const char *row, size_t i, __mmask16 mask)
{
    if (type == ELEM_F32)
        return _mm512_maskz_loadu_ps(mask, row + i * 4);
    __m256i half = _mm256_maskz_loadu_epi16(mask, row + i * 2);
    if (type == ELEM_F16)
        return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
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

/* `count` rows from `row` on, count being a constant. */
INLINE void score_rows(enum op op, enum elem type, const char *q, const char *row, size_t stride,
                       const size_t count, size_t dim, float *out)
{
    __m512 even[4], odd[4], x = _mm512_setzero_ps();
    size_t i = 0, ahead = AHEAD + count * stride;
#pragma GCC unroll 4
    for (size_t r = 0; r < count; r++)
        even[r] = odd[r] = _mm512_setzero_ps();
    for (; i + 32 <= dim; i += 32) {
        __m512 q0 = op == OP_NORM ? x : _mm512_loadu_ps(q + i * 4);
        __m512 q1 = op == OP_NORM ? x : _mm512_loadu_ps(q + i * 4 + 64);
#pragma GCC unroll 4
        for (size_t r = 0; r < count; r++) {
            const char *p = row + r * stride;
            even[r] = accumulate(op, q0, load(type, p, i), even[r]);
            odd[r] = accumulate(op, q1, load(type, p, i + 16), odd[r]);
            _mm_prefetch(p + ahead + i * (type == ELEM_F32 ? 4 : 2), _MM_HINT_T0);
            if (type == ELEM_F32)
                _mm_prefetch(p + ahead + i * 4 + 64, _MM_HINT_T0);
        }
    }
    if (i + 16 <= dim) {
        __m512 q0 = op == OP_NORM ? x : _mm512_loadu_ps(q + i * 4);
#pragma GCC unroll 4
        for (size_t r = 0; r < count; r++)
            even[r] = accumulate(op, q0, load(type, row + r * stride, i), even[r]);
        i += 16;
    }
    if (i < dim) {
        __mmask16 mask = (__mmask16)((1u << (dim - i)) - 1);
        __m512 q1 = op == OP_NORM ? x : _mm512_maskz_loadu_ps(mask, q + i * 4);
#pragma GCC unroll 4
        for (size_t r = 0; r < count; r++)
            odd[r] = accumulate(op, q1, load_tail(type, row + r * stride, i, mask), odd[r]);
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < count; r++)
        out[r] = _mm512_reduce_add_ps(_mm512_add_ps(even[r], odd[r]));
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
