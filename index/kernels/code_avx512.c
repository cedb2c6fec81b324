/* Kernels of codes with AVX-512 (F, BW, DQ, VL); those of i8 products also with VNNI, as functions
 * that carry the extension in their target attribute. */
#include "index/kernels/tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define VNNI __attribute__((target("avx512vnni")))

INLINE __m512i load(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* The first n of 16 lanes. */
INLINE __mmask16 lanes16(size_t n)
{
    return (__mmask16)(n < 16 ? (1u << n) - 1 : 0xffff);
}

INLINE __mmask64 lanes64(size_t n)
{
    return n < 64 ? ((__mmask64)1 << n) - 1 : ~(__mmask64)0;
}

/* ---- 1-bit scan ------------------------------------------------------------------------------ */

/* Sums the four 128-bit lanes of each of four vectors: lane i of the result is vector i's. */
INLINE __m512i fold(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i ab = _mm512_add_epi16(_mm512_shuffle_i32x4(a, b, 0x44),
                                  _mm512_shuffle_i32x4(a, b, 0xee));
    __m512i cd = _mm512_add_epi16(_mm512_shuffle_i32x4(c, d, 0x44),
                                  _mm512_shuffle_i32x4(c, d, 0xee));
    return _mm512_add_epi16(_mm512_shuffle_i32x4(ab, cd, 0x88),
                            _mm512_shuffle_i32x4(ab, cd, 0xdd));
}

/* Sums of one block's table entries, 32 rows in order. Two pairs a step, so 2 x CODE_RUN pairs are
 * added in 8 bits. If the number of pairs is odd, the last step reads 32 bytes of the factors,
 * which meet zeros of the table. */
INLINE __m512i sum_block(const uint8_t *codes, const uint8_t *lut, size_t pairs)
{
    const __m512i nibble = _mm512_set1_epi8(15), low = _mm512_set1_epi16(255);
    __m512i even0 = _mm512_setzero_si512(), odd0 = even0, even1 = even0, odd1 = even0;
    for (size_t p = 0; p < pairs;) {
        size_t end = pairs - p > 2 * CODE_RUN ? p + 2 * CODE_RUN : pairs;
        __m512i a = _mm512_setzero_si512(), b = a;
        for (; p < end; p += 2) {
            __m512i x = load(codes + p * 32), table = load(lut + p * 32);
            __m512i y = _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble);
            a = _mm512_add_epi8(a, _mm512_shuffle_epi8(table, _mm512_and_si512(x, nibble)));
            b = _mm512_add_epi8(b, _mm512_shuffle_epi8(table, y));
        }
        even0 = _mm512_add_epi16(even0, _mm512_and_si512(a, low));
        odd0 = _mm512_add_epi16(odd0, _mm512_srli_epi16(a, 8));
        even1 = _mm512_add_epi16(even1, _mm512_and_si512(b, low));
        odd1 = _mm512_add_epi16(odd1, _mm512_srli_epi16(b, 8));
    }
    return fold(even0, odd0, even1, odd1);
}

INLINE uint32_t live_rows(const struct kernel_scan *s, size_t row)
{
    uint32_t live = s->n - row < 32 ? (1u << (s->n - row)) - 1 : ~0u;
    if (s->hidden)
        live &= ~(uint32_t)(s->hidden[row / 64] >> row % 64);
    return live;
}

/* The survivors' records will be read soon. */
INLINE void fetch_ahead(const struct kernel_scan *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char *p = (const char *)s->records + s->rows[i] * s->record_bytes;
        const char *last = p + s->record_bytes - 1;
        for (; p < last; p += 64)
            _mm_prefetch(p, _MM_HINT_T0);
        _mm_prefetch(last, _MM_HINT_T0);
    }
}

/* Appends 16 rows and their sums by mask: the survivors in front, then anything. */
INLINE size_t append(const struct kernel_scan *s, size_t found, __mmask16 mask, __m512i rows,
                     __m256i sums)
{
    __m512i wide = _mm512_maskz_compress_epi32(mask, _mm512_cvtepu16_epi32(sums));
    _mm512_storeu_si512(s->rows + found, _mm512_maskz_compress_epi32(mask, rows));
    _mm512_storeu_si512(s->sums + found, wide);
    return found + (size_t)__builtin_popcount(mask);
}

INLINE size_t scan(const struct kernel_scan *s, const size_t pairs)
{
    const size_t block_bytes = pairs * 32 + 128;
    const __m128i left = _mm_cvtsi32_si128(s->shift > 0 ? s->shift : 0);
    const __m128i right = _mm_cvtsi32_si128(s->shift < 0 ? -s->shift : 0);
    const __m512i center = _mm512_set1_epi16(s->center), mul = _mm512_set1_epi16(s->mul);
    const __m512i add = _mm512_set1_epi16(s->add), unit = _mm512_set1_epi16(s->unit);
    const __m512i limit = _mm512_set1_epi16(s->limit);
    const uint8_t *block = s->blocks;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    size_t found = 0;
    for (size_t row = 0; row < s->n; row += 32, block += block_bytes) {
        const uint8_t *f = block + pairs * 32;
        const uint32_t live = live_rows(s, row);
        if (!live)
            continue;
        __m512i u = sum_block(block, s->lut, pairs);
        __m512i v = _mm512_sra_epi16(_mm512_sll_epi16(_mm512_sub_epi16(u, center), left), right);
        __m512i x = _mm512_adds_epi16(_mm512_mulhrs_epi16(v, mul), add);
        __m512i bar = _mm512_adds_epi16(_mm512_mulhrs_epi16(load(f + 64), unit), limit);
        uint32_t mask = _mm512_cmpgt_epi16_mask(_mm512_mulhrs_epi16(x, load(f)), bar);
        mask = (s->all ? ~0u : mask) & live;
        if (!mask)
            continue;
        __m512i rows = _mm512_add_epi32(lanes, _mm512_set1_epi32((int)row));
        found = append(s, found, (__mmask16)mask, rows, _mm512_castsi512_si256(u));
        rows = _mm512_add_epi32(rows, _mm512_set1_epi32(16));
        found = append(s, found, (__mmask16)(mask >> 16), rows, _mm512_extracti64x4_epi64(u, 1));
    }
    fetch_ahead(s, found);
    return found;
}

size_t kernel_scan_avx512(const struct kernel_scan *s)
{
    switch (s->pairs) { /* frequent sizes with the inner loop unrolled */
    case 12:
        return scan(s, 12);
    case 13:
        return scan(s, 13);
    case 16:
        return scan(s, 16);
    default:
        return scan(s, s->pairs);
    }
}

/* ---- Records --------------------------------------------------------------------------------- */

/* Sum of u8 x i8 products, u at most 15; the second one also with a plain u8. */
INLINE __m512i multiply_add(__m512i sum, __m512i u, __m512i q)
{
    return _mm512_add_epi32(
        sum, _mm512_madd_epi16(_mm512_maddubs_epi16(u, q), _mm512_set1_epi16(1)));
}

VNNI INLINE __m512i multiply_add_vnni(__m512i sum, __m512i u, __m512i q)
{
    return _mm512_dpbusd_epi32(sum, u, q);
}

/* n is a constant after unrolling: 0, 2, 4 or 6. The compilers differ in the type of a shift. */
INLINE __m512i shift_right(__m512i v, unsigned n)
{
    return n == 2   ? _mm512_srli_epi16(v, 2)
           : n == 4 ? _mm512_srli_epi16(v, 4)
           : n == 6 ? _mm512_srli_epi16(v, 6)
                    : v;
}

/* The sum of the planes' bits if there are at most 128 elements and the weights those of whole
 * levels: which of the functions for few elements serves. 0: none. */
INLINE uint32_t few_planes(const struct kernel_plane *planes, size_t n)
{
    uint32_t bits = 0, left = 0;
    for (size_t i = 0; i < n; i++) {
        if (planes[i].bytes > 16 * planes[i].bits || planes[i].bits & bits)
            return 0;
        bits += planes[i].bits;
    }
    for (size_t i = n; i-- > 0; left += planes[i].bits)
        if (planes[i].weight != left)
            return 0;
    return bits;
}

/* One plane of one record, and all of them. Bytes beyond a plane meet zeros of the query. */
#define LEVELS(name, target, madd)                                                                 \
    target INLINE __m512i plane_##name(const uint8_t *x, const struct kernel_plane *p,             \
                                       const unsigned bits, const unsigned slices)                 \
    {                                                                                              \
        const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));                            \
        __m512i sum = _mm512_setzero_si512();                                                      \
        for (size_t i = 0; i < p->bytes; i += 64) {                                                \
            __m512i v = _mm512_maskz_loadu_epi8(lanes64(p->bytes - i), x + i);                     \
            _Pragma("GCC unroll 4") for (unsigned s = 0; s < slices; s++)                          \
            {                                                                                      \
                __m512i level = _mm512_and_si512(shift_right(v, s * bits), mask);                  \
                sum = madd(sum, level, load(p->query + s * p->slice + i));                         \
            }                                                                                      \
        }                                                                                          \
        return sum;                                                                                \
    }                                                                                              \
    target INLINE __m512i bits_##name(const uint8_t *x, const struct kernel_plane *p)              \
    {                                                                                              \
        const __m512i one = _mm512_set1_epi8(1);                                                   \
        __m512i sum = _mm512_setzero_si512();                                                      \
        for (size_t i = 0; i < p->bytes; i += 8) {                                                 \
            uint64_t word;                                                                         \
            __builtin_memcpy(&word, x + i, sizeof word);                                           \
            sum = madd(sum, one, _mm512_maskz_loadu_epi8(word, p->query + i * 8));                 \
        }                                                                                          \
        return sum;                                                                                \
    }                                                                                              \
    /* Up to 128 elements, planes of the bits given: at most 64 bytes of 4 bits, 32 of 2, 16 of 1; \
     * two slices of 2 bits go into one vector. */                                                 \
    target INLINE void few_##name(const bool four, const bool two, const bool one,                 \
                                  KERNEL_LEVELS_ARGS)                                              \
    {                                                                                              \
        const struct kernel_plane *p4 = planes, *p2 = planes + four, *p1 = planes + four + two;    \
        const __m512i ones = _mm512_set1_epi8(1), low2 = _mm512_set1_epi8(3);                      \
        const __m512i low4 = _mm512_set1_epi8(15), zero = _mm512_setzero_si512(), q0 = zero;       \
        const __m512i first = _mm512_inserti64x4(zero, _mm256_set1_epi16(2), 1);                   \
        const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(4));                      \
        const __mmask64 m4 = four ? lanes64(p4->slice) : 0;                                        \
        const __m512i a4 = _mm512_maskz_loadu_epi8(m4, p4->query);                                 \
        const __m512i b4 = _mm512_maskz_loadu_epi8(m4, p4->query + p4->slice);                     \
        const __m512i a2 = two ? load(p2->query) : q0, b2 = two ? load(p2->query + 64) : q0;       \
        const __m512i a1 = one ? load(p1->query) : q0, b1 = one ? load(p1->query + 64) : q0;       \
        const __m128i w4 = _mm_cvtsi32_si128(four ? (int)p4->weight : 0);                          \
        const __m128i w2 = _mm_cvtsi32_si128(two ? (int)p2->weight : 0);                           \
        (void)n_planes;                                                                            \
        for (size_t i = 0; i < n; i++) {                                                           \
            const uint8_t *record = records + rows[i] * record_bytes;                              \
            __m512i sum = zero;                                                                    \
            if (four) {                                                                            \
                __m512i x = load(record + p4->offset);                                             \
                __m512i part = madd(zero, _mm512_and_si512(x, low4), a4);                          \
                x = _mm512_and_si512(_mm512_srli_epi16(x, 4), low4);                               \
                sum = _mm512_sll_epi32(madd(part, x, b4), w4);                                     \
            }                                                                                      \
            if (two) {                                                                             \
                const __m256i *from = (const __m256i *)(const void *)(record + p2->offset);        \
                __m512i x = _mm512_broadcast_i64x4(_mm256_loadu_si256(from));                      \
                __m512i y = _mm512_and_si512(_mm512_srlv_epi16(x, second), low2);                  \
                x = _mm512_and_si512(_mm512_srlv_epi16(x, first), low2);                           \
                x = madd(madd(zero, x, a2), y, b2);                                                \
                sum = _mm512_add_epi32(sum, _mm512_sll_epi32(x, w2));                              \
            }                                                                                      \
            if (one) {                                                                             \
                uint64_t word[2];                                                                  \
                __builtin_memcpy(word, record + p1->offset, sizeof word);                          \
                sum = madd(sum, _mm512_maskz_mov_epi8(word[0], ones), a1);                         \
                sum = madd(sum, _mm512_maskz_mov_epi8(word[1], ones), b1);                         \
            }                                                                                      \
            out[i] = _mm512_reduce_add_epi32(sum);                                                 \
        }                                                                                          \
    }                                                                                              \
    target void kernel_levels_##name(KERNEL_LEVELS_ARGS)                                           \
    {                                                                                              \
        switch (few_planes(planes, n_planes)) {                                                    \
        case 1:                                                                                    \
            few_##name(false, false, true, records, record_bytes, rows, n, planes, n_planes, out); \
            return;                                                                                \
        case 2:                                                                                    \
            few_##name(false, true, false, records, record_bytes, rows, n, planes, n_planes, out); \
            return;                                                                                \
        case 3:                                                                                    \
            few_##name(false, true, true, records, record_bytes, rows, n, planes, n_planes, out);  \
            return;                                                                                \
        case 7:                                                                                    \
            few_##name(true, true, true, records, record_bytes, rows, n, planes, n_planes, out);   \
            return;                                                                                \
        default:                                                                                   \
            break;                                                                                 \
        }                                                                                          \
        for (size_t i = 0; i < n; i++) {                                                           \
            const uint8_t *record = records + rows[i] * record_bytes;                              \
            __m512i sum = _mm512_setzero_si512();                                                  \
            for (size_t j = 0; j < n_planes; j++) {                                                \
                const struct kernel_plane *p = &planes[j];                                         \
                const uint8_t *x = record + p->offset;                                             \
                __m512i part = p->bits == 4   ? plane_##name(x, p, 4, 2)                           \
                               : p->bits == 2 ? plane_##name(x, p, 2, 4)                           \
                                              : bits_##name(x, p);                                 \
                __m128i weight = _mm_cvtsi32_si128((int)p->weight);                                \
                sum = _mm512_add_epi32(sum, _mm512_sll_epi32(part, weight));                       \
            }                                                                                      \
            out[i] = _mm512_reduce_add_epi32(sum);                                                 \
        }                                                                                          \
    }

LEVELS(avx512, , multiply_add)
LEVELS(vnni_avx512, VNNI, multiply_add_vnni)

/* ---- Queries --------------------------------------------------------------------------------- */

uint32_t kernel_lut_avx512(KERNEL_LUT_ARGS)
{
    __m128i sum = _mm_setzero_si128();
    const __m512 sign = _mm512_set1_ps(-0.0f), by = _mm512_set1_ps(scale);
    for (size_t g = 0; g < dim / 4; g++, q += 4, lut += 16) {
        __m512 q0 = _mm512_set1_ps(q[0]), q1 = _mm512_set1_ps(q[1]);
        __m512 q2 = _mm512_set1_ps(q[2]), q3 = _mm512_set1_ps(q[3]);
        __m512 base = _mm512_add_ps(_mm512_add_ps(_mm512_abs_ps(q0), _mm512_abs_ps(q1)),
                                    _mm512_add_ps(_mm512_abs_ps(q2), _mm512_abs_ps(q3)));
        __m512 low = _mm512_add_ps(_mm512_mask_xor_ps(q0, 0x5555, q0, sign),
                                   _mm512_mask_xor_ps(q1, 0x3333, q1, sign));
        __m512 high = _mm512_add_ps(_mm512_mask_xor_ps(q2, 0x0f0f, q2, sign),
                                    _mm512_mask_xor_ps(q3, 0x00ff, q3, sign));
        __m512 v = _mm512_mul_ps(_mm512_add_ps(_mm512_add_ps(low, high), base), by);
        __m512i k = _mm512_max_epi32(_mm512_cvtps_epi32(v), _mm512_setzero_si512());
        __m128i b = _mm512_cvtusepi32_epi8(k);
        _mm_storeu_si128((__m128i *)(void *)lut, b);
        sum = _mm_add_epi64(sum, _mm_sad_epu8(b, _mm_setzero_si128()));
    }
    return (uint32_t)(_mm_cvtsi128_si64(sum) + _mm_extract_epi64(sum, 1));
}

int32_t kernel_quantise_avx512(KERNEL_QUANTISE_ARGS)
{
    const __m512i top = _mm512_set1_epi32(127), bottom = _mm512_set1_epi32(-127);
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = lanes16(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(live, x + i), _mm512_set1_ps(scale));
        __m512i k = _mm512_max_epi32(_mm512_min_epi32(_mm512_cvtps_epi32(v), top), bottom);
        sum = _mm512_add_epi32(sum, k);
        _mm512_mask_cvtepi32_storeu_epi8(out + i, live, k);
    }
    return _mm512_reduce_add_epi32(sum);
}

/* ---- Rotation -------------------------------------------------------------------------------- */

/* Stages 1 to 8 within a register. */
INLINE __m512 fht16(__m512 v)
{
    __m512 x = _mm512_permute_ps(v, 0xb1);
    v = _mm512_mask_sub_ps(_mm512_add_ps(v, x), 0xaaaa, x, v);
    x = _mm512_permute_ps(v, 0x4e);
    v = _mm512_mask_sub_ps(_mm512_add_ps(v, x), 0xcccc, x, v);
    x = _mm512_shuffle_f32x4(v, v, 0xb1);
    v = _mm512_mask_sub_ps(_mm512_add_ps(v, x), 0xf0f0, x, v);
    x = _mm512_shuffle_f32x4(v, v, 0x4e);
    return _mm512_mask_sub_ps(_mm512_add_ps(v, x), 0xff00, x, v);
}

void kernel_fht_avx512(float *x, size_t n)
{
    if (n < 16) {
        kernel_fht_scalar(x, n);
        return;
    }
    for (size_t i = 0; i < n; i += 16)
        _mm512_storeu_ps(x + i, fht16(_mm512_loadu_ps(x + i)));
    for (size_t h = 16; h < n; h *= 2)
        for (size_t i = 0; i < n; i += 2 * h)
            for (size_t j = i; j < i + h; j += 16) {
                __m512 a = _mm512_loadu_ps(x + j), b = _mm512_loadu_ps(x + j + h);
                _mm512_storeu_ps(x + j, _mm512_add_ps(a, b));
                _mm512_storeu_ps(x + j + h, _mm512_sub_ps(a, b));
            }
}

void kernel_multiply_avx512(float *x, const float *by, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = lanes16(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(live, x + i),
                                 _mm512_maskz_loadu_ps(live, by + i));
        _mm512_mask_storeu_ps(x + i, live, v);
    }
}

void kernel_turn_avx512(float *x, float *y, size_t n)
{
    const __m512 h = _mm512_set1_ps(0.70710678f);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = lanes16(n - i);
        __m512 a = _mm512_maskz_loadu_ps(live, x + i), b = _mm512_maskz_loadu_ps(live, y + i);
        _mm512_mask_storeu_ps(x + i, live, _mm512_mul_ps(_mm512_add_ps(a, b), h));
        _mm512_mask_storeu_ps(y + i, live, _mm512_mul_ps(_mm512_sub_ps(a, b), h));
    }
}

/* ---- Making codes ---------------------------------------------------------------------------- */

INLINE __m512 level_of(__m512 a, __m512 t, __m512 top)
{
    __m512 l = _mm512_roundscale_ps(_mm512_mul_ps(a, t), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    return _mm512_min_ps(l, top);
}

void kernel_fit_avx512(KERNEL_FIT_ARGS)
{
    const __m512 vt = _mm512_set1_ps(t), vtop = _mm512_set1_ps(top), half = _mm512_set1_ps(0.5f);
    __m512 d = _mm512_setzero_ps(), s = d;
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = lanes16(n - i);
        __m512 a = _mm512_abs_ps(_mm512_maskz_loadu_ps(live, r + i));
        __m512 v = _mm512_maskz_add_ps(live, level_of(a, vt, vtop), half);
        d = _mm512_fmadd_ps(v, a, d);
        s = _mm512_fmadd_ps(v, v, s);
    }
    *dot = _mm512_reduce_add_ps(d);
    *norm = _mm512_reduce_add_ps(s);
}

void kernel_level_avx512(KERNEL_LEVEL_ARGS)
{
    const __m512 vt = _mm512_set1_ps(t), vtop = _mm512_set1_ps(top);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 live = lanes16(n - i);
        __m512 v = _mm512_maskz_loadu_ps(live, r + i);
        __m512 l = level_of(_mm512_abs_ps(v), vt, vtop);
        l = _mm512_mask_sub_ps(l, _mm512_movepi32_mask(_mm512_castps_si512(v)), vtop, l);
        _mm512_mask_cvtepi32_storeu_epi8(out + i, live, _mm512_cvtps_epi32(l));
    }
}

/* ---- Postings -------------------------------------------------------------------------------- */

/* Two blocks a step, so that a quad of the query is spread once for both. */
#define CENTROIDS(name, target, madd)                                                              \
    target INLINE void centroid_out_##name(const struct kernel_centroids *c, size_t block,         \
                                           __m512i sum)                                            \
    {                                                                                              \
        size_t j = block * CENTROID_LANES;                                                         \
        __m512 v = _mm512_mul_ps(_mm512_set1_ps(c->by), _mm512_loadu_ps(c->scale + j));            \
        __m512 base = _mm512_add_ps(_mm512_set1_ps(c->base), _mm512_loadu_ps(c->norm + j));        \
        v = _mm512_fmadd_ps(v, _mm512_cvtepi32_ps(sum), base);                                     \
        _mm512_storeu_ps(c->out + j, _mm512_max_ps(v, _mm512_set1_ps(c->least)));                  \
    }                                                                                              \
    target void kernel_centroids_##name(const struct kernel_centroids *c)                          \
    {                                                                                              \
        const __m512i shift = _mm512_set1_epi32(-CENTROID_ZERO * c->query_sum);                    \
        const size_t bytes = c->quads * 64;                                                        \
        const uint8_t *codes = c->codes;                                                           \
        size_t b = 0;                                                                              \
        for (; b + 2 <= c->blocks; b += 2, codes += 2 * bytes) {                                   \
            __m512i one = shift, two = shift;                                                      \
            for (size_t i = 0; i < c->quads; i++) {                                                \
                int32_t quad;                                                                      \
                __builtin_memcpy(&quad, c->query + i * 4, sizeof quad);                            \
                __m512i q = _mm512_set1_epi32(quad);                                               \
                one = madd(one, load(codes + i * 64), q);                                          \
                two = madd(two, load(codes + bytes + i * 64), q);                                  \
            }                                                                                      \
            centroid_out_##name(c, b, one);                                                        \
            centroid_out_##name(c, b + 1, two);                                                    \
        }                                                                                          \
        if (b < c->blocks) {                                                                       \
            __m512i one = shift;                                                                   \
            for (size_t i = 0; i < c->quads; i++) {                                                \
                int32_t quad;                                                                      \
                __builtin_memcpy(&quad, c->query + i * 4, sizeof quad);                            \
                one = madd(one, load(codes + i * 64), _mm512_set1_epi32(quad));                    \
            }                                                                                      \
            centroid_out_##name(c, b, one);                                                        \
        }                                                                                          \
    }

CENTROIDS(avx512, , multiply_add) /* 127 x 127 x 2 fits in 16 bits */
CENTROIDS(vnni_avx512, VNNI, multiply_add_vnni)

/* A row at a time: the rows come from memory faster than a second one would help. */
#define GATHER(name, target, madd)                                                                 \
    target void kernel_gather_##name(const struct kernel_gather *g)                                \
    {                                                                                              \
        for (size_t i = 0; i < g->n; i++) {                                                        \
            const uint8_t *row = g->rows + g->which[i] * g->stride;                                \
            __m512i sum = _mm512_setzero_si512();                                                  \
            for (size_t j = 0; j < g->stride; j += 64)                                             \
                sum = madd(sum, load(row + j), load(g->query + j));                                \
            g->out[i] = _mm512_reduce_add_epi32(sum);                                              \
        }                                                                                          \
    }

GATHER(avx512, , multiply_add)
GATHER(vnni_avx512, VNNI, multiply_add_vnni)

float kernel_weigh_avx512(const struct kernel_weigh *w)
{
    const __m512 limit = _mm512_set1_ps(w->limit), zero = _mm512_setzero_ps();
    const __m512 rate = _mm512_set1_ps(-w->rate * 8388608.0f);
    const __m512 one = _mm512_set1_ps(127.0f * 8388608.0f), inv = _mm512_set1_ps(w->inv);
    __m512 sum = zero;
    for (size_t j = 0; j < w->n; j += 16) {
        __m512 g = _mm512_loadu_ps(w->g + j);
        __m512 u = _mm512_sub_ps(_mm512_add_ps(g, _mm512_loadu_ps(w->m + j)), limit);
        u = _mm512_mul_ps(_mm512_max_ps(u, zero), _mm512_loadu_ps(w->r + j));
        u = _mm512_mul_ps(_mm512_mul_ps(u, u), w->inv != 0 ? inv : _mm512_rcp14_ps(g));
        __m512 bits = _mm512_max_ps(_mm512_fmadd_ps(u, rate, one), zero);
        __m512 v = _mm512_castsi512_ps(_mm512_cvtps_epi32(bits));
        _mm512_storeu_ps(w->out + j, v);
        sum = _mm512_fmadd_ps(v, _mm512_loadu_ps(w->count + j), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

size_t kernel_least_avx512(const float *x, size_t n)
{
    __m512 least = _mm512_loadu_ps(x);
    for (size_t i = 16; i < n; i += 16)
        least = _mm512_min_ps(least, _mm512_loadu_ps(x + i));
    __m512 all = _mm512_set1_ps(_mm512_reduce_min_ps(least));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 at = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), all, _CMP_LE_OQ);
        if (at)
            return i + (size_t)__builtin_ctz(at);
    }
    return 0;
}

size_t kernel_closest_avx512(KERNEL_CLOSEST_ARGS)
{
    __m512 least = _mm512_sub_ps(_mm512_loadu_ps(half), _mm512_loadu_ps(dots));
    for (size_t i = 16; i < n; i += 16)
        least = _mm512_min_ps(least,
                              _mm512_sub_ps(_mm512_loadu_ps(half + i), _mm512_loadu_ps(dots + i)));
    *value = _mm512_reduce_min_ps(least);
    __m512 all = _mm512_set1_ps(*value);
    for (size_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_sub_ps(_mm512_loadu_ps(half + i), _mm512_loadu_ps(dots + i));
        __mmask16 at = _mm512_cmp_ps_mask(v, all, _CMP_LE_OQ);
        if (at)
            return i + (size_t)__builtin_ctz(at);
    }
    return 0;
}

INLINE uint64_t select_32(const uint16_t *values, __m512i low, __m512i span, __m512i hole)
{
    __m512i v = load(values);
    __mmask32 in = _mm512_cmple_epu16_mask(_mm512_sub_epi16(v, low), span);
    in = _mm512_mask_cmpneq_epi16_mask(in, v, hole);
    return in | _mm512_cmpeq_epi16_mask(v, _mm512_set1_epi16(-1));
}

void kernel_select_avx512(const struct kernel_select *s)
{
    const __m512i low = _mm512_set1_epi16((short)s->low), span = _mm512_set1_epi16((short)s->span);
    const __m512i hole = _mm512_set1_epi16((short)s->hole);
    for (size_t i = 0; i < s->n; i += 64) {
        uint64_t in = select_32(s->values + i, low, span, hole);
        in |= select_32(s->values + i + 32, low, span, hole) << 32;
        if (s->n - i < 64)
            in &= ((uint64_t)1 << (s->n - i)) - 1;
        s->match[i / 64] &= in;
    }
}

/* Bits of each of 8 numbers: nibbles looked up, bytes added. */
INLINE __m256 count_bits(__m512i v)
{
    const __m512i counts = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i low = _mm512_shuffle_epi8(counts, _mm512_and_si512(v, nibble));
    __m512i high =
        _mm512_shuffle_epi8(counts, _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble));
    __m512i sums = _mm512_sad_epu8(_mm512_add_epi8(low, high), _mm512_setzero_si512());
    return _mm256_cvtepi32_ps(_mm512_cvtepi64_epi32(sums));
}

void kernel_common_avx512(KERNEL_COMMON_ARGS)
{
    const __m512i by = _mm512_set1_epi64((int64_t)may);
    for (size_t i = 0; i < n; i += 8) {
        __m256 bits = count_bits(_mm512_and_si512(load(have + i), by));
        bits = _mm256_mul_ps(bits, _mm256_loadu_ps(each + i));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(bits, _mm256_loadu_ps(out + i)));
    }
}
