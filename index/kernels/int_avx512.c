/* Exact scores of i8 rows and of bits with AVX-512 (F, BW), and their faster forms for CPUs with
 * VNNI and VPOPCNTDQ: those functions carry the extension in their target attribute, so that the
 * compiler cannot use it in the others. Four rows run at once; sums are exact in any order. */
#include "index/kernels/tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

typedef uint64_t any_u64 __attribute__((aligned(1), may_alias));

/* Bytes ahead of the current rows that are fetched: see README.md for the measurement. */
enum { AHEAD = 2048 };

INLINE __mmask64 first_lanes(size_t n)
{
    return n < 64 ? ((__mmask64)1 << n) - 1 : ~(__mmask64)0;
}

/* The 32-bit lanes of each of four registers added up. */
INLINE __m128i add_lanes(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* out[i] = sum of step(sum, query, row) over 64 bytes at a time, less `less`; `length` bytes a row.
 * A macro, since the steps need different targets. */
#define COUNT_ROWS(step, length, less)                                                             \
    do {                                                                                           \
        const char *q = query, *row = rows;                                                        \
        const __m512i zero = _mm512_setzero_si512();                                               \
        const size_t end = (length), whole = end & ~(size_t)63;                                    \
        const __mmask64 mask = first_lanes(end - whole);                                           \
        const __m128i minus = _mm_set1_epi32(less);                                                \
        size_t r = 0;                                                                              \
        for (; r + 4 <= n; r += 4, row += 4 * stride) {                                            \
            __m512i sum[4] = {zero, zero, zero, zero};                                             \
            for (size_t i = 0; i < whole; i += 64) {                                               \
                const __m512i y = _mm512_loadu_si512(q + i);                                       \
                _Pragma("GCC unroll 4") for (size_t j = 0; j < 4; j++)                             \
                {                                                                                  \
                    const char *p = row + j * stride + i;                                          \
                    sum[j] = step(sum[j], y, _mm512_loadu_si512(p));                               \
                    _mm_prefetch(p + 4 * stride + AHEAD, _MM_HINT_T1);                             \
                }                                                                                  \
            }                                                                                      \
            if (whole < end) {                                                                     \
                const __m512i y = _mm512_maskz_loadu_epi8(mask, q + whole);                        \
                _Pragma("GCC unroll 4") for (size_t j = 0; j < 4; j++)                             \
                {                                                                                  \
                    const char *p = row + j * stride + whole;                                      \
                    sum[j] = step(sum[j], y, _mm512_maskz_loadu_epi8(mask, p));                    \
                    _mm_prefetch(p + 4 * stride + AHEAD, _MM_HINT_T1);                             \
                }                                                                                  \
            }                                                                                      \
            __m128i total = _mm_sub_epi32(add_lanes(sum[0], sum[1], sum[2], sum[3]), minus);       \
            _mm_storeu_si128((__m128i *)(void *)(out + r), total);                                 \
        }                                                                                          \
        for (; r < n; r++, row += stride) {                                                        \
            __m512i sum = zero;                                                                    \
            for (size_t i = 0; i < whole; i += 64)                                                 \
                sum = step(sum, _mm512_loadu_si512(q + i), _mm512_loadu_si512(row + i));           \
            if (whole < end)                                                                       \
                sum = step(sum, _mm512_maskz_loadu_epi8(mask, q + whole),                          \
                           _mm512_maskz_loadu_epi8(mask, row + whole));                            \
            __m128i total = _mm_sub_epi32(add_lanes(sum, zero, zero, zero), minus);                \
            out[r] = _mm_cvtsi128_si32(total);                                                     \
        }                                                                                          \
    } while (0)

/* |q - x| fits in a u8; its square is summed in pairs of 16 bits: at most 2 x 255^2 < 2^31. */
INLINE __m512i add_squares(__m512i sum, __m512i q, __m512i x)
{
    const __m512i zero = _mm512_setzero_si512();
    __m512i d = _mm512_sub_epi8(_mm512_max_epi8(q, x), _mm512_min_epi8(q, x));
    __m512i low = _mm512_unpacklo_epi8(d, zero), high = _mm512_unpackhi_epi8(d, zero);
    return _mm512_add_epi32(sum, _mm512_add_epi32(_mm512_madd_epi16(low, low),
                                                  _mm512_madd_epi16(high, high)));
}

void kernel_l2_i8_avx512(KERNEL_COUNT_ARGS)
{
    COUNT_ROWS(add_squares, dim, 0);
}

/* Even and odd bytes as 16-bit numbers: shifted up and down again, or down only. */
INLINE __m512i add_products(__m512i sum, __m512i q, __m512i x)
{
    __m512i q0 = _mm512_srai_epi16(_mm512_slli_epi16(q, 8), 8), q1 = _mm512_srai_epi16(q, 8);
    __m512i x0 = _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), x1 = _mm512_srai_epi16(x, 8);
    return _mm512_add_epi32(
        sum, _mm512_add_epi32(_mm512_madd_epi16(q0, x0), _mm512_madd_epi16(q1, x1)));
}

void kernel_dot_i8_avx512(KERNEL_COUNT_ARGS)
{
    COUNT_ROWS(add_products, dim, 0);
}

#define VNNI __attribute__((target("avx512vnni")))

/* The instruction multiplies unsigned by signed bytes: rows are shifted by 128 into unsigned
 * (a flip of the top bit), and 128 sum(q) is taken off at the end. Its sums wrap, they do not
 * saturate: |sum| <= 16,384 x 255 x 128 < 2^30. */
INLINE VNNI __m512i add_products_vnni(__m512i sum, __m512i q, __m512i x)
{
    return _mm512_dpbusd_epi32(sum, _mm512_xor_si512(x, _mm512_set1_epi8(-128)), q);
}

/* 128 sum(q) */
INLINE VNNI int32_t shift_of(const char *q, size_t dim)
{
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < dim; i += 64)
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(-128),
                                  _mm512_maskz_loadu_epi8(first_lanes(dim - i), q + i));
    return _mm512_reduce_add_epi32(sum);
}

VNNI void kernel_dot_i8_vnni_avx512(KERNEL_COUNT_ARGS)
{
    COUNT_ROWS(add_products_vnni, dim, shift_of(query, dim));
}

/* Set bits of each byte by a table of nibbles, summed into 64-bit lanes. */
INLINE __m512i add_bits(__m512i sum, __m512i q, __m512i x)
{
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i v = _mm512_xor_si512(q, x);
    __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(v, nibble));
    __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble));
    __m512i bytes = _mm512_add_epi8(low, high);
    return _mm512_add_epi32(sum, _mm512_sad_epu8(bytes, _mm512_setzero_si512()));
}

/* Rows of up to 32 bytes, a multiple of 8: one instruction counts 8 bytes. */
static bool hamming_short(KERNEL_COUNT_ARGS)
{
    const any_u64 *q = query;
    if (dim > 256 || dim % 64)
        return false;
    for (size_t r = 0; r < n; r++) {
        const any_u64 *x = (const any_u64 *)(const void *)((const char *)rows + r * stride);
        int32_t sum = 0;
        _mm_prefetch((const char *)x + AHEAD, _MM_HINT_T1);
        for (size_t j = 0; j < dim / 64; j++)
            sum += __builtin_popcountll(q[j] ^ x[j]);
        out[r] = sum;
    }
    return true;
}

void kernel_hamming_avx512(KERNEL_COUNT_ARGS)
{
    if (hamming_short(query, rows, stride, n, dim, out))
        return;
    COUNT_ROWS(add_bits, dim / 8, 0);
}

#define VPOPCNTDQ __attribute__((target("avx512vpopcntdq")))

INLINE VPOPCNTDQ __m512i add_bits_vpopcntdq(__m512i sum, __m512i q, __m512i x)
{
    return _mm512_add_epi32(sum, _mm512_popcnt_epi32(_mm512_xor_si512(q, x)));
}

VPOPCNTDQ void kernel_hamming_vpopcntdq_avx512(KERNEL_COUNT_ARGS)
{
    if (hamming_short(query, rows, stride, n, dim, out))
        return;
    COUNT_ROWS(add_bits_vpopcntdq, dim / 8, 0);
}
