/* Exact scores of i8 rows and of bits with AVX2. */
#include "index/kernels/tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* Bytes ahead of the current row that are fetched: see README.md for the measurement. */
enum { AHEAD = 2048 };

INLINE __m256i load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* The last `left` bytes, 1 to 31, then zeros. */
INLINE __m256i load_tail(const uint8_t *p, size_t left)
{
    uint8_t part[32] __attribute__((aligned(32))) = {0};
    for (size_t j = 0; j < left; j++)
        part[j] = p[j];
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

INLINE __m256i add_products(__m256i q, __m256i x, __m256i sum)
{
    __m256i low = _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(q)),
                                    _mm256_cvtepi8_epi16(_mm256_castsi256_si128(x)));
    __m256i high = _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(q, 1)),
                                     _mm256_cvtepi8_epi16(_mm256_extracti128_si256(x, 1)));
    return _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
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
            _mm_prefetch((const char *)row + AHEAD + i, _MM_HINT_T0);
        }
        for (; i + 32 <= dim; i += 32)
            even = add_squares(load(q + i), load(row + i), even);
        if (i < dim)
            odd = add_squares(load_tail(q + i, dim - i), load_tail(row + i, dim - i), odd);
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
            _mm_prefetch((const char *)row + AHEAD + i, _MM_HINT_T0);
        }
        for (; i + 32 <= dim; i += 32)
            even = add_products(load(q + i), load(row + i), even);
        if (i < dim)
            odd = add_products(load_tail(q + i, dim - i), load_tail(row + i, dim - i), odd);
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

void kernel_hamming_avx2(KERNEL_COUNT_ARGS)
{
    const uint8_t *q = query, *row = rows;
    size_t bytes = dim / 8;
    for (size_t r = 0; r < n; r++, row += stride) {
        __m256i sum = _mm256_setzero_si256();
        size_t i = 0;
        _mm_prefetch((const char *)row + AHEAD, _MM_HINT_T0);
        for (; i + 32 <= bytes; i += 32)
            sum = _mm256_add_epi64(sum,
                                   count_bytes(_mm256_xor_si256(load(q + i), load(row + i))));
        if (i < bytes) {
            const size_t left = bytes - i;
            __m256i v = _mm256_xor_si256(load_tail(q + i, left), load_tail(row + i, left));
            sum = _mm256_add_epi64(sum, count_bytes(v));
        }
        out[r] = add_lanes(sum); /* the upper halves of the 64-bit lanes are 0 */
    }
}
