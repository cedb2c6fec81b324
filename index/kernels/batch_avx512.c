/* Dot products of query batches with AVX-512, the tests that thin out their results, and the
 * conversions.
 *
 * The batch kernel keeps 12 rows x 2 slabs of 16 queries in 24 registers: per element it loads two
 * registers of queries, spreads 12 elements of rows, and does 24 multiply-adds. Queries are packed
 * once for a whole scan; rows are used as they lie. */
#include "index/kernels/tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { L = KERNEL_LANES, ROWS = 12 };

typedef float any_f32 __attribute__((aligned(1), may_alias));

INLINE __mmask16 first_lanes(size_t n)
{
    unsigned mask = n < 16 ? (1u << n) - 1 : 0xffff;
    return (__mmask16)mask;
}

/* `count` rows by `slabs` slabs, both constants; slabs 1 or 2. */
INLINE void block(const size_t count, const size_t slabs, const float *queries, size_t slab_stride,
                  const char *rows, size_t stride, size_t k, float *out, size_t ld, bool add)
{
    __m512 sum[ROWS][2];
#pragma GCC unroll 12
    for (size_t r = 0; r < count; r++)
#pragma GCC unroll 2
        for (size_t s = 0; s < slabs; s++)
            sum[r][s] = _mm512_setzero_ps();
    for (size_t j = 0; j < k; j++) {
        __m512 q0 = _mm512_load_ps(queries + j * L);
        __m512 q1 = slabs > 1 ? _mm512_load_ps(queries + slab_stride + j * L) : q0;
#pragma GCC unroll 12
        for (size_t r = 0; r < count; r++) {
            __m512 x = _mm512_set1_ps(*(const any_f32 *)(rows + r * stride + j * 4));
            sum[r][0] = _mm512_fmadd_ps(q0, x, sum[r][0]);
            if (slabs > 1)
                sum[r][1] = _mm512_fmadd_ps(q1, x, sum[r][1]);
        }
    }
#pragma GCC unroll 12
    for (size_t r = 0; r < count; r++)
#pragma GCC unroll 2
        for (size_t s = 0; s < slabs; s++) {
            float *o = out + r * ld + s * L;
            _mm512_store_ps(o, add ? _mm512_add_ps(_mm512_load_ps(o), sum[r][s]) : sum[r][s]);
        }
}

INLINE void strip(const size_t slabs, const float *queries, size_t slab_stride, const char *rows,
                  size_t stride, size_t n, size_t k, float *out, size_t ld, bool add)
{
    size_t i = 0;
    for (; i + ROWS <= n; i += ROWS)
        block(ROWS, slabs, queries, slab_stride, rows + i * stride, stride, k, out + i * ld, ld,
              add);
    for (; i + 4 <= n; i += 4)
        block(4, slabs, queries, slab_stride, rows + i * stride, stride, k, out + i * ld, ld, add);
    for (; i < n; i++)
        block(1, slabs, queries, slab_stride, rows + i * stride, stride, k, out + i * ld, ld, add);
}

void kernel_gemm_avx512(KERNEL_GEMM_ARGS)
{
    const char *bytes = (const char *)rows;
    size_t s = 0;
    for (; s + 2 <= nslabs; s += 2)
        strip(2, queries + s * slab_stride, slab_stride, bytes, stride, n, k, out + s * L, ld, add);
    if (s < nslabs)
        strip(1, queries + s * slab_stride, slab_stride, bytes, stride, n, k, out + s * L, ld, add);
}

size_t kernel_filter_avx512(KERNEL_FILTER_ARGS)
{
    const __m512 va = _mm512_set1_ps(a), vb = _mm512_set1_ps(b), vl = _mm512_set1_ps(limit);
    const __m512 inf = _mm512_set1_ps(__builtin_inff());
    __m512i at = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    size_t found = 0;
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = first_lanes(n - i);
        __m512 v = _mm512_maskz_loadu_ps(live, x + i);
        __m512 t = r ? _mm512_fmadd_ps(vb, v, _mm512_mul_ps(va, _mm512_maskz_loadu_ps(live, r + i)))
                     : _mm512_mul_ps(vb, v);
        unsigned below = _mm512_mask_cmp_ps_mask(live, t, vl, _CMP_NGT_UQ);
        unsigned infinite = _mm512_mask_cmp_ps_mask(live, _mm512_abs_ps(v), inf, _CMP_EQ_OQ);
        __mmask16 pass = (__mmask16)(below | infinite);
        if (pass) {
            _mm512_mask_compressstoreu_epi32(index + found, pass, at);
            found += (size_t)__builtin_popcount(pass);
        }
        at = _mm512_add_epi32(at, _mm512_set1_epi32(16));
    }
    return found;
}

size_t kernel_sieve_avx512(KERNEL_SIEVE_ARGS)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        const float *d = dots + i * ld;
        __m512 vr = _mm512_set1_ps(r[i]);
        for (size_t s = 0; s < nslabs; s++) {
            __m512 t = _mm512_fmsub_ps(_mm512_loadu_ps(a + s * L), vr, _mm512_loadu_ps(d + s * L));
            __mmask16 pass = _mm512_cmp_ps_mask(t, _mm512_loadu_ps(limit + s * L), _CMP_NGT_UQ);
            if (pass) {
                __m512i pair = _mm512_add_epi32(lanes, _mm512_set1_epi32((int)(i << 16 | s * L)));
                _mm512_mask_compressstoreu_epi32(pairs + found, pass, pair);
                found += (size_t)__builtin_popcount(pass);
            }
        }
    }
    return found;
}

void kernel_f16_to_f32_avx512(const void *from, size_t n, float *to)
{
    const char *x = from;
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = first_lanes(n - i);
        _mm512_mask_storeu_ps(to + i, live,
                              _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(live, x + i * 2)));
    }
}

void kernel_bf16_to_f32_avx512(const void *from, size_t n, float *to)
{
    const char *x = from;
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = first_lanes(n - i);
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(live, x + i * 2));
        _mm512_mask_storeu_epi32(to + i, live, _mm512_slli_epi32(wide, 16));
    }
}

void kernel_i8_to_f32_avx512(const void *from, size_t n, float *to)
{
    const char *x = from;
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = first_lanes(n - i);
        __m512i wide = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(live, x + i));
        _mm512_mask_storeu_ps(to + i, live, _mm512_cvtepi32_ps(wide));
    }
}

void kernel_i32_to_f32_avx512(const void *from, size_t n, float *to)
{
    const char *x = from;
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = first_lanes(n - i);
        _mm512_mask_storeu_ps(to + i, live,
                              _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(live, x + i * 4)));
    }
}

void kernel_f32_to_f16_avx512(const float *from, size_t n, uint16_t *to)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = first_lanes(n - i);
        __m256i half = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(live, from + i),
                                       _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16(to + i, live, half);
    }
}

void kernel_f32_to_bf16_avx512(const float *from, size_t n, uint16_t *to)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = first_lanes(n - i);
        __m512 x = _mm512_maskz_loadu_ps(live, from + i);
        __m512i bits = _mm512_castps_si512(x);
        __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even);
        __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
        _mm256_mask_storeu_epi16(to + i, live,
                                 _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
    }
}
