/* Exact scores of i8 rows and of bits, in plain C. */
#include "index/kernels/tables.h"

typedef int32_t any_i32 __attribute__((aligned(1), may_alias));
typedef uint64_t any_u64 __attribute__((aligned(1), may_alias));

void kernel_l2_i8_scalar(KERNEL_COUNT_ARGS)
{
    const int8_t *q = query;
    for (size_t i = 0; i < n; i++) {
        const int8_t *x = (const int8_t *)rows + i * stride;
        int32_t sum = 0;
        for (size_t j = 0; j < dim; j++)
            sum += (q[j] - x[j]) * (q[j] - x[j]);
        out[i] = sum;
    }
}

void kernel_dot_i8_scalar(KERNEL_COUNT_ARGS)
{
    const int8_t *q = query;
    for (size_t i = 0; i < n; i++) {
        const int8_t *x = (const int8_t *)rows + i * stride;
        int32_t sum = 0;
        for (size_t j = 0; j < dim; j++)
            sum += q[j] * x[j];
        out[i] = sum;
    }
}

/* Set bits by adding neighbours: pairs, nibbles, then all bytes by one multiplication. */
static int32_t ones(uint64_t v)
{
    v -= (v >> 1) & 0x5555555555555555u;
    v = (v & 0x3333333333333333u) + ((v >> 2) & 0x3333333333333333u);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (int32_t)((v * 0x0101010101010101u) >> 56);
}

void kernel_hamming_scalar(KERNEL_COUNT_ARGS)
{
    const uint8_t *q = query;
    size_t bytes = dim / 8;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *x = (const uint8_t *)rows + i * stride;
        int32_t sum = 0;
        size_t j = 0;
        for (; j + 8 <= bytes; j += 8)
            sum += ones(*(const any_u64 *)(q + j) ^ *(const any_u64 *)(x + j));
        for (; j < bytes; j++)
            sum += ones((uint64_t)(q[j] ^ x[j]));
        out[i] = sum;
    }
}

void kernel_i8_to_f32_scalar(const void *from, size_t n, float *to)
{
    const int8_t *x = from;
    for (size_t i = 0; i < n; i++)
        to[i] = (float)x[i];
}

void kernel_i32_to_f32_scalar(const void *from, size_t n, float *to)
{
    const any_i32 *x = from;
    for (size_t i = 0; i < n; i++)
        to[i] = (float)x[i];
}
