/* Scores of an f32 query against f32, f16 and bf16 rows, in plain C: the reference of the other
 * instruction sets, and what a CPU without AVX2 runs. Eight running sums a row, so that a compiler
 * may keep them in two SSE registers. */
#include "index/kernels/tables.h"

#include <string.h>

enum op { OP_L2, OP_DOT, OP_NORM };
enum { SUMS = 8 };

#define INLINE static inline __attribute__((always_inline))

typedef float any_f32 __attribute__((aligned(1), may_alias));
typedef uint16_t any_u16 __attribute__((aligned(1), may_alias));

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* Shifts the half's exponent and mantissa into place and rebases the exponent by a multiplication
 * that also normalises subnormals: 2^112 = 2^(127 - 15). */
static float f16_value(uint16_t h)
{
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    float f = from_bits(magnitude) * 0x1p112f;
    if ((h & 0x7c00) == 0x7c00) /* infinity, NaN (made quiet) */
        f = from_bits(0x7f800000 | magnitude | ((h & 0x3ff) ? 0x400000u : 0));
    return from_bits(to_bits(f) | (uint32_t)(h & 0x8000) << 16);
}

static uint16_t f16_bits(float f)
{
    uint32_t bits = to_bits(f), magnitude = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
    if (magnitude >= 0x47800000) /* 2^16 and up */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* below 2^-14: f + 0.5 rounds to units of 2^-24 */
        uint32_t units = to_bits(from_bits(magnitude) + 0.5f) - 0x3f000000;
        return (uint16_t)(sign | units);
    }
    uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000) >> 13)); /* a carry may give infinity: right */
}

static uint16_t bf16_bits(float f)
{
    uint32_t bits = to_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE float element(enum elem type, const void *row, size_t i)
{
    if (type == ELEM_F32)
        return ((const any_f32 *)row)[i];
    uint16_t bits = ((const any_u16 *)row)[i];
    return type == ELEM_F16 ? f16_value(bits) : from_bits((uint32_t)bits << 16);
}

INLINE float term(enum op op, float q, float x)
{
    if (op == OP_DOT)
        return q * x;
    if (op == OP_NORM)
        return x * x;
    float d = q - x;
    return d * d;
}

INLINE float score_row(enum op op, enum elem type, const float *query, const void *row, size_t dim)
{
    const any_f32 *q = query;
    float sum[SUMS] = {0};
    size_t i = 0;
    for (; i + SUMS <= dim; i += SUMS)
        for (size_t j = 0; j < SUMS; j++)
            sum[j] += term(op, op == OP_NORM ? 0 : q[i + j], element(type, row, i + j));
    for (size_t j = 0; i < dim; i++, j++)
        sum[j] += term(op, op == OP_NORM ? 0 : q[i], element(type, row, i));
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

INLINE void score(enum op op, enum elem type, KERNEL_SCORE_ARGS)
{
    for (size_t i = 0; i < n; i++)
        out[i] = score_row(op, type, query, (const char *)rows + i * stride, dim);
}

#define SCORE(name, op, type)                                                                      \
    void kernel_##name##_scalar(KERNEL_SCORE_ARGS)                                                 \
    {                                                                                              \
        score(op, type, query, rows, stride, n, dim, out);                                         \
    }
#define NORM(name, type)                                                                           \
    void kernel_##name##_scalar(KERNEL_NORM_ARGS)                                                  \
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

void kernel_f16_to_f32_scalar(const void *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = element(ELEM_F16, from, i);
}

void kernel_bf16_to_f32_scalar(const void *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = element(ELEM_BF16, from, i);
}

void kernel_f32_to_f16_scalar(const float *from, size_t n, uint16_t *to)
{
    const any_f32 *x = from;
    any_u16 *y = to;
    for (size_t i = 0; i < n; i++)
        y[i] = f16_bits(x[i]);
}

void kernel_f32_to_bf16_scalar(const float *from, size_t n, uint16_t *to)
{
    const any_f32 *x = from;
    any_u16 *y = to;
    for (size_t i = 0; i < n; i++)
        y[i] = bf16_bits(x[i]);
}
