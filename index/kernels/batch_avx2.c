/* Dot products of query batches with AVX2, the tests that thin out their results, and the
 * conversions. The batch kernel keeps 6 rows x 16 queries in 12 registers. */
#include "index/kernels/tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { L = KERNEL_LANES, ROWS = 6 };

typedef float any_f32 __attribute__((aligned(1), may_alias));
typedef int32_t any_i32 __attribute__((aligned(1), may_alias));
typedef uint16_t any_u16 __attribute__((aligned(1), may_alias));

/* `count` rows, a constant. */
INLINE void block(const size_t count, const float *queries, const char *rows, size_t stride,
                  size_t k, float *out, size_t ld, bool add)
{
    __m256 low[ROWS], high[ROWS];
#pragma GCC unroll 6
    for (size_t r = 0; r < count; r++)
        low[r] = high[r] = _mm256_setzero_ps();
    for (size_t j = 0; j < k; j++) {
        __m256 q0 = _mm256_load_ps(queries + j * L), q1 = _mm256_load_ps(queries + j * L + 8);
#pragma GCC unroll 6
        for (size_t r = 0; r < count; r++) {
            __m256 x = _mm256_set1_ps(*(const any_f32 *)(rows + r * stride + j * 4));
            low[r] = _mm256_fmadd_ps(q0, x, low[r]);
            high[r] = _mm256_fmadd_ps(q1, x, high[r]);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < count; r++) {
        float *o = out + r * ld;
        _mm256_store_ps(o, add ? _mm256_add_ps(_mm256_load_ps(o), low[r]) : low[r]);
        _mm256_store_ps(o + 8, add ? _mm256_add_ps(_mm256_load_ps(o + 8), high[r]) : high[r]);
    }
}

void kernel_gemm_avx2(KERNEL_GEMM_ARGS)
{
    for (size_t s = 0; s < nslabs; s++) {
        const float *slab = queries + s * slab_stride;
        const char *row = (const char *)rows;
        size_t i = 0;
        for (; i + ROWS <= n; i += ROWS)
            block(ROWS, slab, row + i * stride, stride, k, out + i * ld + s * L, ld, add);
        for (; i + 2 <= n; i += 2)
            block(2, slab, row + i * stride, stride, k, out + i * ld + s * L, ld, add);
        for (; i < n; i++)
            block(1, slab, row + i * stride, stride, k, out + i * ld + s * L, ld, add);
    }
}

/* Bit i of the result: v is not above limit, or not comparable. */
INLINE unsigned not_above(__m256 v, __m256 limit)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(v, limit, _CMP_NGT_UQ));
}

size_t kernel_filter_avx2(KERNEL_FILTER_ARGS)
{
    const any_f32 *xs = x, *rs = r;
    const __m256 va = _mm256_set1_ps(a), vb = _mm256_set1_ps(b), vl = _mm256_set1_ps(limit);
    const __m256 inf = _mm256_set1_ps(__builtin_inff()), sign = _mm256_set1_ps(-0.0f);
    size_t found = 0, i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        __m256 t = r ? _mm256_fmadd_ps(vb, v, _mm256_mul_ps(va, _mm256_loadu_ps(r + i)))
                     : _mm256_mul_ps(vb, v);
        unsigned pass = not_above(t, vl);
        pass |= (unsigned)_mm256_movemask_ps(
            _mm256_cmp_ps(_mm256_andnot_ps(sign, v), inf, _CMP_EQ_OQ));
        for (; pass; pass &= pass - 1)
            index[found++] = (uint32_t)(i + (size_t)__builtin_ctz(pass));
    }
    for (; i < n; i++) {
        float t = b * xs[i] + (r ? a * rs[i] : 0), magnitude = xs[i] < 0 ? -xs[i] : xs[i];
        index[found] = (uint32_t)i;
        found += (!(t > limit) || magnitude == __builtin_inff()) ? 1u : 0u;
    }
    return found;
}

size_t kernel_sieve_avx2(KERNEL_SIEVE_ARGS)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        const float *d = dots + i * ld;
        __m256 vr = _mm256_set1_ps(r[i]);
        for (size_t q = 0; q < nslabs * L; q += 8) {
            __m256 t = _mm256_fmsub_ps(_mm256_loadu_ps(a + q), vr, _mm256_loadu_ps(d + q));
            unsigned pass = not_above(t, _mm256_loadu_ps(limit + q));
            for (; pass; pass &= pass - 1)
                pairs[found++] = (uint32_t)(i << 16 | (q + (size_t)__builtin_ctz(pass)));
        }
    }
    return found;
}

INLINE __m128i load_halves(const any_u16 *p, size_t n)
{
    uint16_t part[8] __attribute__((aligned(16))) = {0};
    if (n >= 8)
        return _mm_loadu_si128((const __m128i *)(const void *)p);
    for (size_t j = 0; j < n; j++)
        part[j] = p[j];
    return _mm_load_si128((const __m128i *)(const void *)part);
}

INLINE void store_halves(any_u16 *p, size_t n, __m128i v)
{
    uint16_t part[8] __attribute__((aligned(16)));
    if (n >= 8) {
        _mm_storeu_si128((__m128i *)(void *)p, v);
        return;
    }
    _mm_store_si128((__m128i *)(void *)part, v);
    for (size_t j = 0; j < n; j++)
        p[j] = part[j];
}

INLINE __m256 load_floats(const any_f32 *p, size_t n)
{
    float part[8] __attribute__((aligned(32))) = {0};
    if (n >= 8)
        return _mm256_loadu_ps((const float *)p);
    for (size_t j = 0; j < n; j++)
        part[j] = p[j];
    return _mm256_load_ps(part);
}

INLINE void store_floats(any_f32 *p, size_t n, __m256 v)
{
    float part[8] __attribute__((aligned(32)));
    if (n >= 8) {
        _mm256_storeu_ps((float *)p, v);
        return;
    }
    _mm256_store_ps(part, v);
    for (size_t j = 0; j < n; j++)
        p[j] = part[j];
}

void kernel_f16_to_f32_avx2(const void *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i += 8)
        store_floats(to + i, n - i, _mm256_cvtph_ps(load_halves((const any_u16 *)from + i, n - i)));
}

void kernel_bf16_to_f32_avx2(const void *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i += 8) {
        __m256i wide = _mm256_cvtepu16_epi32(load_halves((const any_u16 *)from + i, n - i));
        store_floats(to + i, n - i, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
    }
}

void kernel_i8_to_f32_avx2(const void *from, size_t n, float *to)
{
    const int8_t *x = from;
    any_f32 *y = to;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i v = _mm_loadl_epi64((const __m128i *)(const void *)(x + i));
        store_floats(y + i, 8, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)));
    }
    for (; i < n; i++)
        y[i] = (float)x[i];
}

void kernel_i32_to_f32_avx2(const void *from, size_t n, float *to)
{
    const any_i32 *x = from;
    any_f32 *y = to;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(x + i));
        store_floats(y + i, 8, _mm256_cvtepi32_ps(v));
    }
    for (; i < n; i++)
        y[i] = (float)x[i];
}

void kernel_f32_to_f16_avx2(const float *from, size_t n, uint16_t *to)
{
    for (size_t i = 0; i < n; i += 8)
        store_halves(to + i, n - i,
                     _mm256_cvtps_ph(load_floats(from + i, n - i),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

void kernel_f32_to_bf16_avx2(const float *from, size_t n, uint16_t *to)
{
    for (size_t i = 0; i < n; i += 8) {
        __m256 x = load_floats(from + i, n - i);
        __m256i bits = _mm256_castps_si256(x);
        __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), even);
        __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        up = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
        store_halves(to + i, n - i, _mm_packus_epi32(_mm256_castsi256_si128(up),
                                                     _mm256_extracti128_si256(up, 1)));
    }
}
