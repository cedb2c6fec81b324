/* Dot products of query batches, and the tests that thin out their results, in plain C. */
#include "index/kernels/tables.h"

#include <float.h>

enum { L = KERNEL_LANES };

typedef float any_f32 __attribute__((aligned(1), may_alias));

void kernel_gemm_scalar(KERNEL_GEMM_ARGS)
{
    for (size_t s = 0; s < nslabs; s++) {
        const float *slab = queries + s * slab_stride;
        for (size_t i = 0; i < n; i++) {
            const any_f32 *x = (const any_f32 *)((const char *)rows + i * stride);
            float *o = out + i * ld + s * L;
            float sum[L] = {0};
            for (size_t j = 0; j < k; j++)
                for (size_t q = 0; q < L; q++)
                    sum[q] += slab[j * L + q] * x[j];
            for (size_t q = 0; q < L; q++)
                o[q] = add ? o[q] + sum[q] : sum[q];
        }
    }
}

static bool infinite(float x)
{
    return x > FLT_MAX || x < -FLT_MAX;
}

size_t kernel_filter_scalar(KERNEL_FILTER_ARGS)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        float t = b * x[i] + (r ? a * r[i] : 0);
        index[found] = (uint32_t)i;
        found += (!(t > limit) || infinite(x[i])) ? 1u : 0u;
    }
    return found;
}

size_t kernel_sieve_scalar(KERNEL_SIEVE_ARGS)
{
    size_t found = 0, nqueries = nslabs * L;
    for (size_t i = 0; i < n; i++)
        for (size_t q = 0; q < nqueries; q++) {
            float t = a[q] * r[i] - dots[i * ld + q];
            if (!(t > limit[q]))
                pairs[found++] = (uint32_t)(i << 16 | q);
        }
    return found;
}
