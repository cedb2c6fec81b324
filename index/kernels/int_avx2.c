/* Exact scores of i8 rows and of bits with AVX2. */
#include "index/kernels/tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* Bytes ahead of the current row that are fetched: see README.md for the measurement. */
enum { AHEAD = 2048 };

typedef uint64_t any_u64 __attribute__((aligned(1), may_alias));

INLINE __m256i load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* The last `left` bytes, 1 to 31, of `length`; the other bytes of the register are zero. Long
 * vectors are read again from 32 bytes before their end. */
INLINE __m256i load_tail(const uint8_t *p, size_t length, size_t left)
{
    static const uint8_t keep[64] = {[32] = 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                     255,        255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                     255,        255, 255, 255, 255, 255, 255, 255, 255, 255};
    uint8_t part[32] __attribute__((aligned(32))) = {0};
    if (length >= 32)
        return _mm256_and_si256(load(p + length - 32), load(keep + left));
    for (size_t j = 0; j < left; j++)
        part[j] = p[length - left + j];
    return _mm256_load_si256((const __m256i *)(const void *)part);
}

INLINE int32_t add_lanes(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

/* |q - x| fits in a u8; its square is summed in pairs of 16 bits: at most 2 x 255^2 < 2^31. */
INLINE __m256i add_squares(__m256i q, __m256i x, __m256i sum)
{
    __m256i zero = _mm256_setzero_si256();
    __m256i d = _mm256_sub_epi8(_mm256_max_epi8(q, x), _mm256_min_epi8(q, x));
    __m256i low = _mm256_unpacklo_epi8(d, zero), high = _mm256_unpackhi_epi8(d, zero);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(low, low));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(high, high));
}

/* Even and odd bytes as 16-bit numbers: shifted up and down again, or down only. */
INLINE __m256i add_products(__m256i q, __m256i x, __m256i sum)
{
    __m256i q0 = _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8), q1 = _mm256_srai_epi16(q, 8);
    __m256i x0 = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), x1 = _mm256_srai_epi16(x, 8);
    return _mm256_add_epi32(
        sum, _mm256_add_epi32(_mm256_madd_epi16(q0, x0), _mm256_madd_epi16(q1, x1)));
}

void kernel_l2_i8_avx2(KERNEL_COUNT_ARGS)
{
    const uint8_t *q = query, *row = rows;
    for (size_t r = 0; r < n; r++, row += stride) {
        __m256i even = _mm256_setzero_si256(), odd = even;
        size_t i = 0;
        for (; i + 64 <= dim; i += 64) {
            even = add_squares(load(q + i), load(row + i), even);
            odd = add_squares(load(q + i + 32), load(row + i + 32), odd);
            _mm_prefetch((const char *)row + AHEAD + i, _MM_HINT_T1);
        }
        for (; i + 32 <= dim; i += 32)
            even = add_squares(load(q + i), load(row + i), even);
        if (i < dim)
            odd = add_squares(load_tail(q, dim, dim - i), load_tail(row, dim, dim - i), odd);
        out[r] = add_lanes(_mm256_add_epi32(even, odd));
    }
}

void kernel_dot_i8_avx2(KERNEL_COUNT_ARGS)
{
    const uint8_t *q = query, *row = rows;
    for (size_t r = 0; r < n; r++, row += stride) {
        __m256i even = _mm256_setzero_si256(), odd = even;
        size_t i = 0;
        for (; i + 64 <= dim; i += 64) {
            even = add_products(load(q + i), load(row + i), even);
            odd = add_products(load(q + i + 32), load(row + i + 32), odd);
            _mm_prefetch((const char *)row + AHEAD + i, _MM_HINT_T1);
        }
        for (; i + 32 <= dim; i += 32)
            even = add_products(load(q + i), load(row + i), even);
        if (i < dim)
            odd = add_products(load_tail(q, dim, dim - i), load_tail(row, dim, dim - i), odd);
        out[r] = add_lanes(_mm256_add_epi32(even, odd));
    }
}

/* Set bits of each byte by a table of nibbles, summed into 64-bit lanes. */
INLINE __m256i count_bytes(__m256i v)
{
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                           2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble));
    __m256i high = _mm256_shuffle_epi8(table,
                                       _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
    return _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256());
}

/* Rows of up to 32 bytes, a multiple of 8: one instruction counts 8 bytes. */
INLINE void hamming_short(KERNEL_COUNT_ARGS)
{
    const any_u64 *q = query;
    for (size_t r = 0; r < n; r++) {
        const any_u64 *x = (const any_u64 *)(const void *)((const uint8_t *)rows + r * stride);
        int32_t sum = 0;
        _mm_prefetch((const char *)x + AHEAD, _MM_HINT_T1);
        for (size_t j = 0; j < dim / 64; j++)
            sum += __builtin_popcountll(q[j] ^ x[j]);
        out[r] = sum;
    }
}

void kernel_hamming_avx2(KERNEL_COUNT_ARGS)
{
    const uint8_t *q = query, *row = rows;
    size_t bytes = dim / 8;
    if (bytes <= 32 && bytes % 8 == 0) {
        hamming_short(query, rows, stride, n, dim, out);
        return;
    }
    for (size_t r = 0; r < n; r++, row += stride) {
        __m256i sum = _mm256_setzero_si256();
        size_t i = 0;
        _mm_prefetch((const char *)row + AHEAD, _MM_HINT_T1);
        for (; i + 32 <= bytes; i += 32)
            sum = _mm256_add_epi64(sum,
                                   count_bytes(_mm256_xor_si256(load(q + i), load(row + i))));
        if (i < bytes) {
            const size_t left = bytes - i;
            __m256i v = _mm256_xor_si256(load_tail(q, bytes, left), load_tail(row, bytes, left));
            sum = _mm256_add_epi64(sum, count_bytes(v));
        }
        out[r] = add_lanes(sum); /* the upper halves of the 64-bit lanes are 0 */
    }
}
