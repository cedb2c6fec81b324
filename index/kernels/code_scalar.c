/* Kernels of codes in plain C: what the others must equal. */
#include "index/kernels/tables.h"

#include <math.h>
#include <string.h>

static int16_t load_i16(const uint8_t *p)
{
    int16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static int32_t clamp16(int32_t v)
{
    return v > INT16_MAX ? INT16_MAX : v < INT16_MIN ? INT16_MIN : v;
}

/* pmulhrsw: the product / 2^15, rounded; wraps for -2^15 squared. */
static int32_t mulhrs(int32_t a, int32_t b)
{
    return (int16_t)(((a * b >> 14) + 1) >> 1);
}

/* Place of row r of 32 within 16 bytes: even bytes hold rows 0-7, odd ones 8-15. */
static size_t place(size_t r)
{
    return (r % 8) * 2 + r / 8 % 2;
}

size_t kernel_scan_scalar(const struct kernel_scan *s)
{
    size_t found = 0, block_bytes = s->pairs * 32 + 128;
    const uint8_t *block = s->blocks;
    for (size_t row = 0; row < s->n; row++) {
        size_t r = row % 32, high = r >= 16 ? 4 : 0;
        if (row && r == 0)
            block += block_bytes;
        if (s->hidden && (s->hidden[row / 64] >> row % 64 & 1))
            continue;
        uint32_t u = 0;
        for (size_t p = 0; p < s->pairs; p++)
            for (size_t half = 0; half < 2; half++) {
                uint8_t code = block[p * 32 + half * 16 + place(r)];
                u += s->lut[p * 32 + half * 16 + (code >> high & 15)];
            }
        const uint8_t *factors = block + s->pairs * 32;
        int32_t w = load_i16(factors + r * 2), a = load_i16(factors + 64 + r * 2);
        int16_t v = (int16_t)(uint16_t)(u - (uint16_t)s->center);
        v = (int16_t)(s->shift >= 0 ? (uint32_t)v << s->shift : (uint32_t)(v >> -s->shift));
        int32_t x = clamp16(mulhrs(v, s->mul) + s->add);
        if (s->all || mulhrs(x, w) > clamp16(mulhrs(a, s->unit) + s->limit)) {
            s->rows[found] = (uint32_t)row;
            s->sums[found++] = (uint16_t)u; /* u as lanes of 16 bits have it */
        }
    }
    return found;
}

static int32_t plane_dot(const uint8_t *x, const struct kernel_plane *p)
{
    int32_t sum = 0;
    if (p->bits == 1) {
        for (size_t i = 0; i < (size_t)p->bytes * 8; i++)
            sum += (x[i / 8] >> i % 8 & 1) ? p->query[i] : 0;
        return sum;
    }
    for (uint32_t s = 0; s < 8 / p->bits; s++)
        for (uint32_t i = 0; i < p->bytes; i++)
            sum += (x[i] >> s * p->bits & ((1 << p->bits) - 1)) * p->query[s * p->slice + i];
    return sum;
}

void kernel_levels_scalar(KERNEL_LEVELS_ARGS)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t *record = records + rows[i] * record_bytes;
        int32_t sum = 0;
        for (size_t p = 0; p < n_planes; p++)
            sum += plane_dot(record + planes[p].offset, &planes[p]) * (1 << planes[p].weight);
        out[i] = sum;
    }
}

uint32_t kernel_lut_scalar(KERNEL_LUT_ARGS)
{
    uint32_t sum = 0;
    for (size_t g = 0; g < dim / 4; g++, q += 4, lut += 16) {
        float base = (fabsf(q[0]) + fabsf(q[1])) + (fabsf(q[2]) + fabsf(q[3]));
        for (unsigned m = 0; m < 16; m++) {
            float low = (m & 1 ? q[0] : -q[0]) + (m & 2 ? q[1] : -q[1]);
            float high = (m & 4 ? q[2] : -q[2]) + (m & 8 ? q[3] : -q[3]);
            float v = rintf(((low + high) + base) * scale);
            lut[m] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
            sum += lut[m];
        }
    }
    return sum;
}

int32_t kernel_quantise_scalar(KERNEL_QUANTISE_ARGS)
{
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        float v = rintf(x[i] * scale);
        out[i] = (int8_t)(v < -127 ? -127 : v > 127 ? 127 : v);
        sum += out[i];
    }
    return sum;
}

void kernel_fht_scalar(float *x, size_t n)
{
    for (size_t h = 1; h < n; h *= 2)
        for (size_t i = 0; i < n; i += 2 * h)
            for (size_t j = i; j < i + h; j++) {
                float a = x[j], b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
}

void kernel_multiply_scalar(float *x, const float *by, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= by[i];
}

void kernel_turn_scalar(float *x, float *y, size_t n)
{
    const float h = 0.70710678f;
    for (size_t i = 0; i < n; i++) {
        float a = x[i], b = y[i];
        x[i] = (a + b) * h;
        y[i] = (a - b) * h;
    }
}

static float level_of(float r, float t, float top)
{
    float l = floorf(fabsf(r) * t);
    return l < top ? l : top;
}

void kernel_fit_scalar(KERNEL_FIT_ARGS)
{
    float d = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        float v = level_of(r[i], t, top) + 0.5f;
        d += v * fabsf(r[i]);
        s += v * v;
    }
    *dot = d;
    *norm = s;
}

void kernel_level_scalar(KERNEL_LEVEL_ARGS)
{
    for (size_t i = 0; i < n; i++) {
        float l = level_of(r[i], t, top);
        out[i] = (uint8_t)(signbit(r[i]) ? top - l : l);
    }
}

void kernel_centroids_scalar(const struct kernel_centroids *c)
{
    const uint8_t *codes = c->codes;
    for (size_t b = 0; b < c->blocks; b++, codes += c->quads * CENTROID_LANES * 4)
        for (size_t lane = 0; lane < CENTROID_LANES; lane++) {
            int32_t dot = -CENTROID_ZERO * c->query_sum;
            for (size_t i = 0; i < c->quads * 4; i++)
                dot += codes[(i / 4 * CENTROID_LANES + lane) * 4 + i % 4] * c->query[i];
            size_t j = b * CENTROID_LANES + lane;
            float v = c->base + c->norm[j] + c->by * c->scale[j] * (float)dot;
            c->out[j] = v > c->least ? v : c->least;
        }
}

void kernel_gather_scalar(const struct kernel_gather *g)
{
    for (size_t i = 0; i < g->n; i++) {
        const uint8_t *row = g->rows + g->which[i] * g->stride;
        int32_t dot = 0;
        for (size_t j = 0; j < g->stride; j++)
            dot += row[j] * g->query[j];
        g->out[i] = dot;
    }
}

float kernel_weigh_scalar(const struct kernel_weigh *w)
{
    float sum = 0;
    for (size_t j = 0; j < w->n; j++) {
        float u = w->g[j] + w->m[j] - w->limit;
        u = u > 0 ? u * w->r[j] : 0;
        /* the exponent's bits and a line for the mantissa: 4% off at most */
        float e = u * u * (w->inv != 0 ? w->inv : 1 / w->g[j]) * w->rate;
        float bits = (127.0f - e) * 8388608.0f;
        int32_t i = bits > 0 ? (int32_t)bits : 0;
        memcpy(&w->out[j], &i, sizeof i);
        sum += w->out[j] * w->count[j];
    }
    return sum;
}

size_t kernel_least_scalar(const float *x, size_t n)
{
    size_t at = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] < x[at])
            at = i;
    return at;
}

size_t kernel_closest_scalar(KERNEL_CLOSEST_ARGS)
{
    size_t at = 0;
    float least = half[0] - dots[0];
    for (size_t i = 1; i < n; i++)
        if (half[i] - dots[i] < least) {
            least = half[i] - dots[i];
            at = i;
        }
    *value = least;
    return at;
}

void kernel_select_scalar(const struct kernel_select *s)
{
    for (size_t i = 0; i < s->n; i += 64) {
        uint64_t good = 0;
        for (size_t j = i; j < s->n && j < i + 64; j++) {
            uint16_t v = s->values[j];
            bool in = (uint16_t)(v - s->low) <= s->span && v != s->hole;
            good |= (uint64_t)(in || v == 65535) << (j - i);
        }
        s->match[i / 64] &= good;
    }
}

/* Without the library's popcount, which counts with a table. */
static uint32_t bits_of(uint64_t v)
{
    v -= v >> 1 & UINT64_C(0x5555555555555555);
    v = (v & UINT64_C(0x3333333333333333)) + (v >> 2 & UINT64_C(0x3333333333333333));
    v = (v + (v >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (uint32_t)(v * UINT64_C(0x0101010101010101) >> 56);
}

void kernel_common_scalar(KERNEL_COMMON_ARGS)
{
    for (size_t i = 0; i < n; i++)
        out[i] *= each[i] * (float)bits_of(have[i] & may);
}
