/* Exact scores of i8 rows and of bits with AVX-512 (F, BW), and their faster forms for CPUs with
 * VNNI and VPOPCNTDQ: those functions carry the extension in their target attribute, so that the
 * compiler cannot use it in the others. */
#include "index/kernels/tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __mmask64 tail_mask(size_t bytes)
{
    return bytes < 64 ? ((__mmask64)1 << bytes) - 1 : ~(__mmask64)0;
}

/* |q - x| fits in a u8; its square is summed in pairs of 16 bits: at most 2 x 255^2 < 2^31. */
INLINE __m512i add_squares(__m512i q, __m512i x, __m512i sum)
{
    __m512i zero = _mm512_setzero_si512();
    __m512i d = _mm512_sub_epi8(_mm512_max_epi8(q, x), _mm512_min_epi8(q, x));
    __m512i low = _mm512_unpacklo_epi8(d, zero), high = _mm512_unpackhi_epi8(d, zero);
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(low, low));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(high, high));
}

void kernel_l2_i8_avx512(KERNEL_COUNT_ARGS)
{
    const char *q = query, *row = rows;
    for (size_t r = 0; r < n; r++, row += stride) {
        __m512i even = _mm512_setzero_si512(), odd = even;
        size_t i = 0;
        for (; i + 128 <= dim; i += 128) {
            even = add_squares(_mm512_loadu_si512(q + i), _mm512_loadu_si512(row + i), even);
            odd = add_squares(_mm512_loadu_si512(q + i + 64), _mm512_loadu_si512(row + i + 64),
                              odd);
        }
        for (; i < dim; i += 64) {
            __mmask64 mask = tail_mask(dim - i);
            even = add_squares(_mm512_maskz_loadu_epi8(mask, q + i),
                               _mm512_maskz_loadu_epi8(mask, row + i), even);
        }
        out[r] = _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd));
    }
}

INLINE __m512i widen(__m256i x)
{
    return _mm512_cvtepi8_epi16(x);
}

void kernel_dot_i8_avx512(KERNEL_COUNT_ARGS)
{
    const char *q = query, *row = rows;
    for (size_t r = 0; r < n; r++, row += stride) {
        __m512i sum = _mm512_setzero_si512();
        for (size_t i = 0; i < dim; i += 64) {
            __mmask64 mask = tail_mask(dim - i);
            __m512i a = _mm512_maskz_loadu_epi8(mask, q + i);
            __m512i b = _mm512_maskz_loadu_epi8(mask, row + i);
            __m512i low = _mm512_madd_epi16(widen(_mm512_castsi512_si256(a)),
                                            widen(_mm512_castsi512_si256(b)));
            __m512i high = _mm512_madd_epi16(widen(_mm512_extracti64x4_epi64(a, 1)),
                                             widen(_mm512_extracti64x4_epi64(b, 1)));
            sum = _mm512_add_epi32(sum, _mm512_add_epi32(low, high));
        }
        out[r] = _mm512_reduce_add_epi32(sum);
    }
}

#define VNNI __attribute__((target("avx512vnni")))

/* The instruction multiplies unsigned by signed bytes: rows are shifted by 128 into unsigned
 * (a flip of the top bit), and 128 sum(q) is taken off at the end. Its sums wrap, they do not
 * saturate: |sum| <= 16,384 x 255 x 128 < 2^30. */
VNNI void kernel_dot_i8_vnni_avx512(KERNEL_COUNT_ARGS)
{
    const char *q = query, *row = rows;
    const __m512i flip = _mm512_set1_epi8(-128), zero = _mm512_setzero_si512();
    size_t whole = dim & ~(size_t)63, r = 0;
    __mmask64 mask = tail_mask(dim - whole);
    __m512i bias = zero;

    for (size_t i = 0; i < dim; i += 64)
        bias = _mm512_dpbusd_epi32(
            bias, flip, _mm512_maskz_loadu_epi8(i < whole ? ~(__mmask64)0 : mask, q + i));
    int32_t shift = _mm512_reduce_add_epi32(bias);

    for (; r + 4 <= n; r += 4, row += 4 * stride) {
        __m512i sum[4] = {zero, zero, zero, zero};
        for (size_t i = 0; i < whole; i += 64) {
            __m512i a = _mm512_loadu_si512(q + i);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                __m512i b = _mm512_xor_si512(_mm512_loadu_si512(row + j * stride + i), flip);
                sum[j] = _mm512_dpbusd_epi32(sum[j], b, a);
            }
        }
        if (whole < dim) {
            __m512i a = _mm512_maskz_loadu_epi8(mask, q + whole);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                __m512i b = _mm512_maskz_loadu_epi8(mask, row + j * stride + whole);
                sum[j] = _mm512_dpbusd_epi32(sum[j], _mm512_xor_si512(b, flip), a);
            }
        }
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++)
            out[r + j] = _mm512_reduce_add_epi32(sum[j]) - shift;
    }
    for (; r < n; r++, row += stride) {
        __m512i sum = zero;
        for (size_t i = 0; i < dim; i += 64) {
            __mmask64 m = i < whole ? ~(__mmask64)0 : mask;
            __m512i b = _mm512_xor_si512(_mm512_maskz_loadu_epi8(m, row + i), flip);
            sum = _mm512_dpbusd_epi32(sum, b, _mm512_maskz_loadu_epi8(m, q + i));
        }
        out[r] = _mm512_reduce_add_epi32(sum) - shift;
    }
}

/* Set bits of each byte by a table of nibbles, summed into 64-bit lanes. */
INLINE __m512i count_bytes(__m512i v)
{
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(v, nibble));
    __m512i high = _mm512_shuffle_epi8(
        table, _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble));
    return _mm512_sad_epu8(_mm512_add_epi8(low, high), _mm512_setzero_si512());
}

void kernel_hamming_avx512(KERNEL_COUNT_ARGS)
{
    const char *q = query, *row = rows;
    size_t bytes = dim / 8;
    for (size_t r = 0; r < n; r++, row += stride) {
        __m512i sum = _mm512_setzero_si512();
        for (size_t i = 0; i < bytes; i += 64) {
            __mmask64 mask = tail_mask(bytes - i);
            __m512i v = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, q + i),
                                         _mm512_maskz_loadu_epi8(mask, row + i));
            sum = _mm512_add_epi64(sum, count_bytes(v));
        }
        out[r] = (int32_t)_mm512_reduce_add_epi64(sum);
    }
}

#define VPOPCNTDQ __attribute__((target("avx512vpopcntdq")))

VPOPCNTDQ void kernel_hamming_vpopcntdq_avx512(KERNEL_COUNT_ARGS)
{
    const char *q = query, *row = rows;
    size_t bytes = dim / 8;
    for (size_t r = 0; r < n; r++, row += stride) {
        __m512i sum = _mm512_setzero_si512();
        for (size_t i = 0; i < bytes; i += 64) {
            __mmask64 mask = tail_mask(bytes - i);
            __m512i v = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, q + i),
                                         _mm512_maskz_loadu_epi8(mask, row + i));
            sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(v));
        }
        out[r] = (int32_t)_mm512_reduce_add_epi64(sum);
    }
}
