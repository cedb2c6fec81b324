/* The functions behind each table, declared and gathered by instruction set; for this folder only.
 * Prototypes and initialisers, no inline functions: an inline compiled for AVX-512 here and merged
 * by the linker with a copy elsewhere would crash older CPUs. */
#ifndef MN_INDEX_KERNELS_TABLES_H
#define MN_INDEX_KERNELS_TABLES_H

#include "index/kernels/kernels.h"

#define KERNEL_SCORE_ARGS                                                                          \
    const float *query, const void *rows, size_t stride, size_t n, size_t dim, float *out
#define KERNEL_NORM_ARGS const void *rows, size_t stride, size_t n, size_t dim, float *out
#define KERNEL_COUNT_ARGS                                                                          \
    const void *query, const void *rows, size_t stride, size_t n, size_t dim, int32_t *out
#define KERNEL_GEMM_ARGS                                                                           \
    const float *queries, size_t nslabs, size_t slab_stride, const float *rows, size_t stride,     \
        size_t n, size_t k, float *out, size_t ld, bool add
#define KERNEL_FILTER_ARGS                                                                         \
    const float *x, const float *r, size_t n, float a, float b, float limit, uint32_t *index
#define KERNEL_SIEVE_ARGS                                                                          \
    const float *dots, size_t ld, const float *r, size_t n, const float *a, const float *limit,    \
        size_t nslabs, uint32_t *pairs

#define KERNELS_DECLARE(isa)                                                                       \
    void kernel_l2_f32_##isa(KERNEL_SCORE_ARGS);                                                   \
    void kernel_l2_f16_##isa(KERNEL_SCORE_ARGS);                                                   \
    void kernel_l2_bf16_##isa(KERNEL_SCORE_ARGS);                                                  \
    void kernel_dot_f32_##isa(KERNEL_SCORE_ARGS);                                                  \
    void kernel_dot_f16_##isa(KERNEL_SCORE_ARGS);                                                  \
    void kernel_dot_bf16_##isa(KERNEL_SCORE_ARGS);                                                 \
    void kernel_norm_f32_##isa(KERNEL_NORM_ARGS);                                                  \
    void kernel_norm_f16_##isa(KERNEL_NORM_ARGS);                                                  \
    void kernel_norm_bf16_##isa(KERNEL_NORM_ARGS);                                                 \
    void kernel_l2_i8_##isa(KERNEL_COUNT_ARGS);                                                    \
    void kernel_dot_i8_##isa(KERNEL_COUNT_ARGS);                                                   \
    void kernel_hamming_##isa(KERNEL_COUNT_ARGS);                                                  \
    void kernel_f16_to_f32_##isa(const void *from, size_t n, float *to);                           \
    void kernel_bf16_to_f32_##isa(const void *from, size_t n, float *to);                          \
    void kernel_i8_to_f32_##isa(const void *from, size_t n, float *to);                            \
    void kernel_i32_to_f32_##isa(const void *from, size_t n, float *to);                           \
    void kernel_f32_to_f16_##isa(const float *from, size_t n, uint16_t *to);                       \
    void kernel_f32_to_bf16_##isa(const float *from, size_t n, uint16_t *to);                      \
    void kernel_gemm_##isa(KERNEL_GEMM_ARGS);                                                      \
    size_t kernel_filter_##isa(KERNEL_FILTER_ARGS);                                                \
    size_t kernel_sieve_##isa(KERNEL_SIEVE_ARGS)

/* dot_i8_fn and hamming_fn apart, since CPUs of one instruction set differ in them. */
#define KERNELS_TABLE(isa_, name_, suffix, dot_i8_fn, hamming_fn)                                  \
    {                                                                                              \
        .isa = isa_, .name = name_,                                                                \
        .l2 = {kernel_l2_f32_##suffix, kernel_l2_f16_##suffix, kernel_l2_bf16_##suffix},           \
        .dot = {kernel_dot_f32_##suffix, kernel_dot_f16_##suffix, kernel_dot_bf16_##suffix},       \
        .norm = {kernel_norm_f32_##suffix, kernel_norm_f16_##suffix, kernel_norm_bf16_##suffix},   \
        .l2_i8 = kernel_l2_i8_##suffix, .dot_i8 = dot_i8_fn, .hamming = hamming_fn,                \
        .f16_to_f32 = kernel_f16_to_f32_##suffix, .bf16_to_f32 = kernel_bf16_to_f32_##suffix,      \
        .i8_to_f32 = kernel_i8_to_f32_##suffix, .i32_to_f32 = kernel_i32_to_f32_##suffix,          \
        .f32_to_f16 = kernel_f32_to_f16_##suffix, .f32_to_bf16 = kernel_f32_to_bf16_##suffix,      \
        .gemm = kernel_gemm_##suffix, .filter = kernel_filter_##suffix,                            \
        .sieve = kernel_sieve_##suffix,                                                            \
    }

KERNELS_DECLARE(scalar);
#if defined(__x86_64__)
KERNELS_DECLARE(avx2);
KERNELS_DECLARE(avx512);
void kernel_dot_i8_vnni_avx512(KERNEL_COUNT_ARGS);         /* needs AVX512_VNNI */
void kernel_hamming_vpopcntdq_avx512(KERNEL_COUNT_ARGS);   /* needs AVX512_VPOPCNTDQ */
#endif

#endif
