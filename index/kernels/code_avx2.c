/* Kernels of codes with AVX2 and FMA. */
#include "index/kernels/tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE void store(void *p, __m256i v)
{
    _mm256_storeu_si256((__m256i *)p, v);
}

/* ---- 1-bit scan ------------------------------------------------------------------------------ */

/* Sums of one block's table entries: u[0] rows 0-15, u[1] rows 16-31, in order. Up to CODE_RUN
 * lookups of each half are added in 8 bits. A 16-bit lane then holds a row below 8 in its low byte
 * and the row 8 above it in its high byte. */
INLINE void sum_block(const uint8_t *codes, const uint8_t *lut, size_t pairs, __m256i u[2])
{
    const __m256i nibble = _mm256_set1_epi8(15), low = _mm256_set1_epi16(255);
    __m256i even0 = _mm256_setzero_si256(), odd0 = even0, even1 = even0, odd1 = even0;
    for (size_t p = 0; p < pairs;) {
        size_t end = pairs - p > CODE_RUN ? p + CODE_RUN : pairs;
        __m256i a = _mm256_setzero_si256(), b = a;
        for (; p < end; p++) {
            __m256i x = load(codes + p * 32), table = load(lut + p * 32);
            __m256i y = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
            a = _mm256_add_epi8(a, _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble)));
            b = _mm256_add_epi8(b, _mm256_shuffle_epi8(table, y));
        }
        even0 = _mm256_add_epi16(even0, _mm256_and_si256(a, low));
        odd0 = _mm256_add_epi16(odd0, _mm256_srli_epi16(a, 8));
        even1 = _mm256_add_epi16(even1, _mm256_and_si256(b, low));
        odd1 = _mm256_add_epi16(odd1, _mm256_srli_epi16(b, 8));
    }
    u[0] = _mm256_add_epi16(_mm256_permute2x128_si256(even0, odd0, 0x20),
                            _mm256_permute2x128_si256(even0, odd0, 0x31));
    u[1] = _mm256_add_epi16(_mm256_permute2x128_si256(even1, odd1, 0x20),
                            _mm256_permute2x128_si256(even1, odd1, 0x31));
}

INLINE __m256i passes(const struct kernel_scan *s, __m256i u, __m256i w, __m256i a, __m128i left,
                      __m128i right)
{
    __m256i v = _mm256_sub_epi16(u, _mm256_set1_epi16(s->center));
    v = _mm256_sra_epi16(_mm256_sll_epi16(v, left), right);
    __m256i x = _mm256_adds_epi16(_mm256_mulhrs_epi16(v, _mm256_set1_epi16(s->mul)),
                                  _mm256_set1_epi16(s->add));
    __m256i bar = _mm256_adds_epi16(_mm256_mulhrs_epi16(a, _mm256_set1_epi16(s->unit)),
                                    _mm256_set1_epi16(s->limit));
    return _mm256_cmpgt_epi16(_mm256_mulhrs_epi16(x, w), bar);
}

/* The rows of a block that are there. */
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

INLINE size_t scan(const struct kernel_scan *s, const size_t pairs)
{
    const size_t block_bytes = pairs * 32 + 128;
    const __m128i left = _mm_cvtsi32_si128(s->shift > 0 ? s->shift : 0);
    const __m128i right = _mm_cvtsi32_si128(s->shift < 0 ? -s->shift : 0);
    const uint8_t *block = s->blocks;
    uint16_t sums[32] __attribute__((aligned(32)));
    size_t found = 0;
    for (size_t row = 0; row < s->n; row += 32, block += block_bytes) {
        const uint8_t *f = block + pairs * 32;
        const uint32_t live = live_rows(s, row);
        __m256i u[2];
        if (!live)
            continue;
        sum_block(block, s->lut, pairs, u);
        __m256i keep0 = passes(s, u[0], load(f), load(f + 64), left, right);
        __m256i keep1 = passes(s, u[1], load(f + 32), load(f + 96), left, right);
        __m256i keep = _mm256_permute4x64_epi64(_mm256_packs_epi16(keep0, keep1), 0xd8);
        uint32_t mask = s->all ? ~0u : (uint32_t)_mm256_movemask_epi8(keep);
        mask &= live;
        if (!mask)
            continue;
        store(sums, u[0]);
        store(sums + 16, u[1]);
        for (; mask; mask &= mask - 1) {
            unsigned r = (unsigned)__builtin_ctz(mask);
            s->rows[found] = (uint32_t)row + r;
            s->sums[found++] = sums[r];
        }
    }
    fetch_ahead(s, found);
    return found;
}

size_t kernel_scan_avx2(const struct kernel_scan *s)
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

INLINE int32_t add_lanes(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

/* Sum of u8 x i8 products; u at most 15, so that pairs fit in 16 bits. */
INLINE __m256i multiply_add(__m256i sum, __m256i u, __m256i q)
{
    return _mm256_add_epi32(
        sum, _mm256_madd_epi16(_mm256_maddubs_epi16(u, q), _mm256_set1_epi16(1)));
}

/* Bytes beyond the plane meet zeros of the query. */
INLINE __m256i plane_dot(const uint8_t *x, const struct kernel_plane *p, const int bits,
                         const int slices)
{
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < p->bytes; i += 32) {
        __m256i v = load(x + i);
#pragma GCC unroll 4
        for (int s = 0; s < slices; s++) {
            __m256i level = _mm256_and_si256(_mm256_srli_epi16(v, s * bits), mask);
            sum = multiply_add(sum, level, load(p->query + (size_t)s * p->slice + i));
        }
    }
    return sum;
}

INLINE __m256i bits_dot(const uint8_t *x, const struct kernel_plane *p)
{
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                            2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < p->bytes; i += 4) {
        int32_t word;
        __builtin_memcpy(&word, x + i, sizeof word);
        __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32(word), spread);
        __m256i one = _mm256_min_epu8(_mm256_and_si256(v, bit), _mm256_set1_epi8(1));
        sum = multiply_add(sum, one, load(p->query + i * 8));
    }
    return sum;
}

void kernel_levels_avx2(KERNEL_LEVELS_ARGS)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t *record = records + rows[i] * record_bytes;
        __m256i sum = _mm256_setzero_si256();
        for (size_t j = 0; j < n_planes; j++) {
            const struct kernel_plane *p = &planes[j];
            const uint8_t *x = record + p->offset;
            __m256i part = p->bits == 4   ? plane_dot(x, p, 4, 2)
                           : p->bits == 2 ? plane_dot(x, p, 2, 4)
                                          : bits_dot(x, p);
            sum = _mm256_add_epi32(sum, _mm256_sll_epi32(part, _mm_cvtsi32_si128((int)p->weight)));
        }
        out[i] = add_lanes(sum);
    }
}

/* ---- Queries --------------------------------------------------------------------------------- */

INLINE __m256 sign_bits(unsigned lanes)
{
    int32_t m[8];
    for (unsigned i = 0; i < 8; i++)
        m[i] = lanes >> i & 1 ? 0 : INT32_MIN;
    return _mm256_castsi256_ps(_mm256_setr_epi32(m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7]));
}

uint32_t kernel_lut_avx2(KERNEL_LUT_ARGS)
{
    __m128i sum = _mm_setzero_si128();
    const __m256 not0 = sign_bits(0xaa), not1 = sign_bits(0xcc), not2 = sign_bits(0xf0);
    const __m256 all = sign_bits(0), none = sign_bits(0xff), by = _mm256_set1_ps(scale);
    for (size_t g = 0; g < dim / 4; g++, q += 4, lut += 16) {
        __m256 q0 = _mm256_set1_ps(q[0]), q1 = _mm256_set1_ps(q[1]);
        __m256 q2 = _mm256_set1_ps(q[2]), q3 = _mm256_set1_ps(q[3]);
        __m256 base = _mm256_add_ps(
            _mm256_add_ps(_mm256_andnot_ps(all, q0), _mm256_andnot_ps(all, q1)),
            _mm256_add_ps(_mm256_andnot_ps(all, q2), _mm256_andnot_ps(all, q3)));
        __m256 low = _mm256_add_ps(_mm256_xor_ps(q0, not0), _mm256_xor_ps(q1, not1));
        __m256i v[2];
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256 high = _mm256_add_ps(_mm256_xor_ps(q2, not2),
                                        _mm256_xor_ps(q3, half ? none : all));
            v[half] = _mm256_cvtps_epi32(
                _mm256_mul_ps(_mm256_add_ps(_mm256_add_ps(low, high), base), by));
        }
        __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(v[0], v[1]), 0xd8);
        __m128i b = _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
        _mm_storeu_si128((__m128i *)(void *)lut, b);
        sum = _mm_add_epi64(sum, _mm_sad_epu8(b, _mm_setzero_si128()));
    }
    return (uint32_t)(_mm_cvtsi128_si64(sum) + _mm_extract_epi64(sum, 1));
}

int32_t kernel_quantise_avx2(KERNEL_QUANTISE_ARGS)
{
    const __m256 by = _mm256_set1_ps(scale);
    const __m256i top = _mm256_set1_epi32(127), bottom = _mm256_set1_epi32(-127);
    __m256i sum = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), by));
        v = _mm256_max_epi32(_mm256_min_epi32(v, top), bottom);
        sum = _mm256_add_epi32(sum, v);
        __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        _mm_storel_epi64((__m128i *)(void *)(out + i), _mm_packs_epi16(w, w));
    }
    int32_t total = add_lanes(sum);
    for (; i < n; i++) {
        int32_t v = _mm_cvtss_si32(_mm_set_ss(x[i] * scale));
        v = v > 127 ? 127 : v < -127 ? -127 : v;
        out[i] = (int8_t)v;
        total += v;
    }
    return total;
}

/* ---- Rotation -------------------------------------------------------------------------------- */

/* Stages 1, 2 and 4 within a register. */
INLINE __m256 fht8(__m256 v)
{
    __m256 x = _mm256_permute_ps(v, 0xb1);                      /* neighbours */
    v = _mm256_blend_ps(_mm256_add_ps(v, x), _mm256_sub_ps(x, v), 0xaa);
    x = _mm256_permute_ps(v, 0x4e);
    v = _mm256_blend_ps(_mm256_add_ps(v, x), _mm256_sub_ps(x, v), 0xcc);
    x = _mm256_permute2f128_ps(v, v, 1);
    return _mm256_blend_ps(_mm256_add_ps(v, x), _mm256_sub_ps(x, v), 0xf0);
}

void kernel_fht_avx2(float *x, size_t n)
{
    if (n < 8) {
        kernel_fht_scalar(x, n);
        return;
    }
    for (size_t i = 0; i < n; i += 8)
        _mm256_storeu_ps(x + i, fht8(_mm256_loadu_ps(x + i)));
    for (size_t h = 8; h < n; h *= 2)
        for (size_t i = 0; i < n; i += 2 * h)
            for (size_t j = i; j < i + h; j += 8) {
                __m256 a = _mm256_loadu_ps(x + j), b = _mm256_loadu_ps(x + j + h);
                _mm256_storeu_ps(x + j, _mm256_add_ps(a, b));
                _mm256_storeu_ps(x + j + h, _mm256_sub_ps(a, b));
            }
}

void kernel_multiply_avx2(float *x, const float *by, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(by + i)));
    kernel_multiply_scalar(x + i, by + i, n - i);
}

void kernel_turn_avx2(float *x, float *y, size_t n)
{
    const __m256 h = _mm256_set1_ps(0.70710678f);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(y + i);
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_add_ps(a, b), h));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_sub_ps(a, b), h));
    }
    kernel_turn_scalar(x + i, y + i, n - i);
}

/* ---- Making codes ---------------------------------------------------------------------------- */

INLINE __m256 absolute(__m256 v)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

INLINE float add_floats(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

void kernel_fit_avx2(KERNEL_FIT_ARGS)
{
    const __m256 vt = _mm256_set1_ps(t), vtop = _mm256_set1_ps(top), half = _mm256_set1_ps(0.5f);
    __m256 d = _mm256_setzero_ps(), s = d;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 a = absolute(_mm256_loadu_ps(r + i));
        __m256 l = _mm256_min_ps(_mm256_floor_ps(_mm256_mul_ps(a, vt)), vtop);
        __m256 v = _mm256_add_ps(l, half);
        d = _mm256_fmadd_ps(v, a, d);
        s = _mm256_fmadd_ps(v, v, s);
    }
    kernel_fit_scalar(r + i, n - i, t, top, dot, norm);
    *dot += add_floats(d);
    *norm += add_floats(s);
}

void kernel_level_avx2(KERNEL_LEVEL_ARGS)
{
    const __m256 vt = _mm256_set1_ps(t), vtop = _mm256_set1_ps(top);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(r + i);
        __m256 l = _mm256_min_ps(_mm256_floor_ps(_mm256_mul_ps(absolute(v), vt)), vtop);
        l = _mm256_blendv_ps(l, _mm256_sub_ps(vtop, l), v);
        __m256i k = _mm256_cvtps_epi32(l);
        __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(k), _mm256_extracti128_si256(k, 1));
        _mm_storel_epi64((__m128i *)(void *)(out + i), _mm_packus_epi16(w, w));
    }
    kernel_level_scalar(r + i, n - i, t, top, out + i);
}

/* ---- Postings -------------------------------------------------------------------------------- */

/* 127 x 127 x 2 = 32,258 fits in 16 bits. */
void kernel_centroids_avx2(const struct kernel_centroids *c)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256 base = _mm256_set1_ps(c->base), by = _mm256_set1_ps(c->by);
    const __m256 least = _mm256_set1_ps(c->least);
    const uint8_t *codes = c->codes;
    for (size_t b = 0; b < c->blocks; b++) {
        __m256i sum[2];
        sum[0] = sum[1] = _mm256_set1_epi32(-CENTROID_ZERO * c->query_sum);
        for (size_t i = 0; i < c->quads; i++, codes += 64) {
            int32_t quad;
            __builtin_memcpy(&quad, c->query + i * 4, sizeof quad);
            __m256i q = _mm256_set1_epi32(quad);
#pragma GCC unroll 2
            for (size_t h = 0; h < 2; h++) {
                __m256i p = _mm256_maddubs_epi16(load(codes + h * 32), q);
                sum[h] = _mm256_add_epi32(sum[h], _mm256_madd_epi16(p, ones));
            }
        }
#pragma GCC unroll 2
        for (size_t h = 0; h < 2; h++) {
            size_t j = b * CENTROID_LANES + h * 8;
            __m256 v = _mm256_mul_ps(by, _mm256_loadu_ps(c->scale + j));
            v = _mm256_fmadd_ps(v, _mm256_cvtepi32_ps(sum[h]),
                                _mm256_add_ps(base, _mm256_loadu_ps(c->norm + j)));
            _mm256_storeu_ps(c->out + j, _mm256_max_ps(v, least));
        }
    }
}

/* As above, a row at a time. */
void kernel_gather_avx2(const struct kernel_gather *g)
{
    const __m256i ones = _mm256_set1_epi16(1);
    for (size_t i = 0; i < g->n; i++) {
        const uint8_t *row = g->rows + g->which[i] * g->stride;
        __m256i a = _mm256_setzero_si256(), b = a;
        for (size_t j = 0; j < g->stride; j += 64) {
            __m256i p = _mm256_maddubs_epi16(load(row + j), load(g->query + j));
            __m256i q = _mm256_maddubs_epi16(load(row + j + 32), load(g->query + j + 32));
            a = _mm256_add_epi32(a, _mm256_madd_epi16(p, ones));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(q, ones));
        }
        a = _mm256_add_epi32(a, b);
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
        g->out[i] = _mm_cvtsi128_si32(sum);
    }
}

float kernel_weigh_avx2(const struct kernel_weigh *w)
{
    const __m256 limit = _mm256_set1_ps(w->limit), zero = _mm256_setzero_ps();
    const __m256 rate = _mm256_set1_ps(-w->rate * 8388608.0f);
    const __m256 one = _mm256_set1_ps(127.0f * 8388608.0f), inv = _mm256_set1_ps(w->inv);
    __m256 sum = zero;
    for (size_t j = 0; j < w->n; j += 8) {
        __m256 g = _mm256_loadu_ps(w->g + j);
        __m256 u = _mm256_sub_ps(_mm256_add_ps(g, _mm256_loadu_ps(w->m + j)), limit);
        u = _mm256_mul_ps(_mm256_max_ps(u, zero), _mm256_loadu_ps(w->r + j));
        u = _mm256_mul_ps(_mm256_mul_ps(u, u), w->inv != 0 ? inv : _mm256_rcp_ps(g));
        __m256 bits = _mm256_max_ps(_mm256_fmadd_ps(u, rate, one), zero);
        __m256 v = _mm256_castsi256_ps(_mm256_cvtps_epi32(bits));
        _mm256_storeu_ps(w->out + j, v);
        sum = _mm256_fmadd_ps(v, _mm256_loadu_ps(w->count + j), sum);
    }
    return add_floats(sum);
}

size_t kernel_least_avx2(const float *x, size_t n)
{
    __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(x + 8);
    for (size_t i = 16; i < n; i += 16) {
        a = _mm256_min_ps(a, _mm256_loadu_ps(x + i));
        b = _mm256_min_ps(b, _mm256_loadu_ps(x + i + 8));
    }
    a = _mm256_min_ps(a, b);
    a = _mm256_min_ps(a, _mm256_permute2f128_ps(a, a, 1));
    a = _mm256_min_ps(a, _mm256_permute_ps(a, 0x4e));
    a = _mm256_min_ps(a, _mm256_permute_ps(a, 0xb1));
    for (size_t i = 0; i < n; i += 8) {
        int at = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + i), a, _CMP_LE_OQ));
        if (at)
            return i + (size_t)__builtin_ctz((unsigned)at);
    }
    return 0;
}

size_t kernel_closest_avx2(KERNEL_CLOSEST_ARGS)
{
    __m256 least = _mm256_sub_ps(_mm256_loadu_ps(half), _mm256_loadu_ps(dots));
    for (size_t i = 8; i < n; i += 8)
        least = _mm256_min_ps(least,
                              _mm256_sub_ps(_mm256_loadu_ps(half + i), _mm256_loadu_ps(dots + i)));
    least = _mm256_min_ps(least, _mm256_permute2f128_ps(least, least, 1));
    least = _mm256_min_ps(least, _mm256_permute_ps(least, 0x4e));
    least = _mm256_min_ps(least, _mm256_permute_ps(least, 0xb1));
    *value = _mm256_cvtss_f32(least);
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_sub_ps(_mm256_loadu_ps(half + i), _mm256_loadu_ps(dots + i));
        int at = _mm256_movemask_ps(_mm256_cmp_ps(v, least, _CMP_LE_OQ));
        if (at)
            return i + (size_t)__builtin_ctz((unsigned)at);
    }
    return 0;
}

INLINE uint64_t select_32(const uint16_t *values, __m256i low, __m256i span, __m256i hole)
{
    __m256i in[2];
    for (int i = 0; i < 2; i++) {
        __m256i v = load(values + 16 * i), d = _mm256_sub_epi16(v, low);
        __m256i within = _mm256_cmpeq_epi16(_mm256_min_epu16(d, span), d);
        within = _mm256_andnot_si256(_mm256_cmpeq_epi16(v, hole), within);
        in[i] = _mm256_or_si256(within, _mm256_cmpeq_epi16(v, _mm256_set1_epi16(-1)));
    }
    __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(in[0], in[1]), 0xd8);
    return (uint32_t)_mm256_movemask_epi8(bytes);
}

void kernel_select_avx2(const struct kernel_select *s)
{
    const __m256i low = _mm256_set1_epi16((short)s->low), span = _mm256_set1_epi16((short)s->span);
    const __m256i hole = _mm256_set1_epi16((short)s->hole);
    for (size_t i = 0; i < s->n; i += 64) {
        uint64_t in = select_32(s->values + i, low, span, hole);
        in |= select_32(s->values + i + 32, low, span, hole) << 32;
        if (s->n - i < 64)
            in &= ((uint64_t)1 << (s->n - i)) - 1;
        s->match[i / 64] &= in;
    }
}

void kernel_common_avx2(KERNEL_COMMON_ARGS)
{
    for (size_t i = 0; i < n; i++)
        out[i] *= each[i] * (float)_mm_popcnt_u64(have[i] & may);
}
