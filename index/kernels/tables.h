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
#define KERNEL_LEVELS_ARGS                                                                         \
    const uint8_t *records, size_t record_bytes, const uint32_t *rows, size_t n,                   \
        const struct kernel_plane *planes, size_t n_planes, int32_t *out
#define KERNEL_LUT_ARGS const float *q, size_t dim, float scale, uint8_t *lut
#define KERNEL_COMMON_ARGS                                                                         \
    const uint64_t *have, uint64_t may, const float *each, size_t n, float *out
#define KERNEL_CLOSEST_ARGS const float *dots, const float *half, size_t n, float *value
#define KERNEL_QUANTISE_ARGS const float *x, size_t n, float scale, int8_t *out
#define KERNEL_FIT_ARGS const float *r, size_t n, float t, float top, float *dot, float *norm
#define KERNEL_LEVEL_ARGS const float *r, size_t n, float t, float top, uint8_t *out

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
    size_t kernel_sieve_##isa(KERNEL_SIEVE_ARGS);                                                  \
    size_t kernel_scan_##isa(const struct kernel_scan *s);                                         \
    void kernel_levels_##isa(KERNEL_LEVELS_ARGS);                                                  \
    uint32_t kernel_lut_##isa(KERNEL_LUT_ARGS);                                                    \
    int32_t kernel_quantise_##isa(KERNEL_QUANTISE_ARGS);                                           \
    void kernel_fht_##isa(float *x, size_t n);                                                     \
    void kernel_multiply_##isa(float *x, const float *by, size_t n);                               \
    void kernel_turn_##isa(float *x, float *y, size_t n);                                          \
    void kernel_fit_##isa(KERNEL_FIT_ARGS);                                                        \
    void kernel_level_##isa(KERNEL_LEVEL_ARGS);                                                    \
    void kernel_centroids_##isa(const struct kernel_centroids *c);                                 \
    void kernel_gather_##isa(const struct kernel_gather *g);                                       \
    float kernel_weigh_##isa(const struct kernel_weigh *w);                                        \
    size_t kernel_least_##isa(const float *x, size_t n);                                           \
    void kernel_select_##isa(const struct kernel_select *s);                                       \
    void kernel_common_##isa(KERNEL_COMMON_ARGS);                                                  \
    size_t kernel_closest_##isa(KERNEL_CLOSEST_ARGS)

/* Functions of i8 (vnni) and hamming_fn apart: CPUs of one instruction set differ in them. */
#define KERNELS_TABLE(isa_, name_, suffix, vnni, hamming_fn)                                       \
    {                                                                                              \
        .isa = isa_, .name = name_,                                                                \
        .l2 = {kernel_l2_f32_##suffix, kernel_l2_f16_##suffix, kernel_l2_bf16_##suffix},           \
        .dot = {kernel_dot_f32_##suffix, kernel_dot_f16_##suffix, kernel_dot_bf16_##suffix},       \
        .norm = {kernel_norm_f32_##suffix, kernel_norm_f16_##suffix, kernel_norm_bf16_##suffix},   \
        .l2_i8 = kernel_l2_i8_##suffix, .dot_i8 = kernel_dot_i8_##vnni,                            \
        .hamming = hamming_fn,                                                                     \
        .f16_to_f32 = kernel_f16_to_f32_##suffix, .bf16_to_f32 = kernel_bf16_to_f32_##suffix,      \
        .i8_to_f32 = kernel_i8_to_f32_##suffix, .i32_to_f32 = kernel_i32_to_f32_##suffix,          \
        .f32_to_f16 = kernel_f32_to_f16_##suffix, .f32_to_bf16 = kernel_f32_to_bf16_##suffix,      \
        .gemm = kernel_gemm_##suffix, .filter = kernel_filter_##suffix,                            \
        .sieve = kernel_sieve_##suffix, .scan = kernel_scan_##suffix,                              \
        .levels = kernel_levels_##vnni, .lut = kernel_lut_##suffix,                                \
        .quantise = kernel_quantise_##suffix, .fht = kernel_fht_##suffix,                          \
        .multiply = kernel_multiply_##suffix, .turn = kernel_turn_##suffix,                        \
        .fit = kernel_fit_##suffix, .level = kernel_level_##suffix,                                \
        .centroids = kernel_centroids_##vnni, .gather = kernel_gather_##vnni,                      \
        .weigh = kernel_weigh_##suffix, .least = kernel_least_##suffix,                            \
        .closest = kernel_closest_##suffix, .select = kernel_select_##suffix,                      \
        .common = kernel_common_##suffix,                                                          \
    }

KERNELS_DECLARE(scalar);
#if defined(__x86_64__)
KERNELS_DECLARE(avx2);
KERNELS_DECLARE(avx512);
void kernel_dot_i8_vnni_avx512(KERNEL_COUNT_ARGS);         /* these need AVX512_VNNI */
void kernel_levels_vnni_avx512(KERNEL_LEVELS_ARGS);
void kernel_centroids_vnni_avx512(const struct kernel_centroids *c);
void kernel_gather_vnni_avx512(const struct kernel_gather *g);
void kernel_hamming_vpopcntdq_avx512(KERNEL_COUNT_ARGS);   /* needs AVX512_VPOPCNTDQ */
#endif

#endif
