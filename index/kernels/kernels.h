/*
 * Vector kernels, one table of functions per instruction set, chosen once per open database.
 * Pure functions: they take no lock, allocate nothing and report no error. Thread-safe.
 *
 * Shapes. A kernel scores one query against n rows of dim elements that lie `stride` bytes apart.
 * Rows and query may have any alignment; any dim from 1 to KERNEL_MAX_DIM; nothing outside a row
 * is read (prefetch instructions aside). n may be 0.
 *
 * Accuracy
 *
 *   operation                  accumulator             result
 *   l2, dot, norm of f32,      f32, 16 lanes or more   relative error of a sum of non-negative
 *     f16, bf16 rows           (scalar: 8)             terms (l2, norm) at most (dim + 8) 2^-24;
 *                                                      dot: at most (dim + 8) 2^-24 sum |q_i x_i|.
 *                                                      Overflows to inf, NaN stays NaN
 *   l2, dot, norm of i8        int32                   exact: dim 16,384 gives at most
 *                                                      16,384 x 255^2 < 2^30
 *   hamming                    int32                   exact
 *   gemm                       f32                     as dot, in another order of summation
 *   f32 to f16, bf16           -                       to nearest, ties to even; overflow gives
 *                                                      inf, NaN stays NaN (quiet)
 *
 * A row's result depends on the row, the query, dim and the instruction set only: not on n, on its
 * neighbours or on alignment. norm(x) equals dot(x, x) to the bit for the float types. The exact
 * scan builds on both. Different instruction sets may differ within the accuracy above.
 *
 * A new instruction set is: files index/kernels/<what>_<isa>.c with their flags in CMakeLists.txt,
 * an enumerator, and its table in kernels.c. Nothing outside this folder names one.
 */
#ifndef MN_INDEX_KERNELS_KERNELS_H
#define MN_INDEX_KERNELS_KERNELS_H

#include "index/kernels/codes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum isa { ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_COUNT };

enum { KERNEL_MAX_DIM = 16384, KERNEL_LANES = 16 };

/* Element types of rows that an f32 query meets; also the index of the tables below. */
enum elem { ELEM_F32, ELEM_F16, ELEM_BF16, ELEM_COUNT };

/* The query is f32, the rows are of the table's type; out[n]. */
typedef void (*kernel_score_fn)(const float *query, const void *rows, size_t stride, size_t n,
                                size_t dim, float *out);
/* Query and rows are of one type, the result is an exact integer; out[n]. */
typedef void (*kernel_count_fn)(const void *query, const void *rows, size_t stride, size_t n,
                                size_t dim, int32_t *out);
typedef void (*kernel_norm_fn)(const void *rows, size_t stride, size_t n, size_t dim, float *out);
typedef void (*kernel_widen_fn)(const void *from, size_t n, float *to);
typedef void (*kernel_narrow_fn)(const float *from, size_t n, uint16_t *to);

/* Dot products of a batch of queries with n rows of f32, k elements of each.
 *   queries  nslabs slabs of KERNEL_LANES queries, slab_stride floats apart; within a slab element
 *            j of query i stands at [j * KERNEL_LANES + i]; aligned to 64 bytes
 *   rows     stride bytes apart, any alignment
 *   out      [n][ld], 16 nslabs of each row written; aligned to 64, ld a multiple of KERNEL_LANES
 *   add      add to what stands in out (the next k elements of the same rows) */
typedef void (*kernel_gemm_fn)(const float *queries, size_t nslabs, size_t slab_stride,
                               const float *rows, size_t stride, size_t n, size_t k, float *out,
                               size_t ld, bool add);

/* Writes the indices i for which not (a * r[i] + b * x[i] > limit), or x[i] is NaN or infinite,
 * in ascending order; r NULL stands for zeros. Returns how many; index[n]. */
typedef size_t (*kernel_filter_fn)(const float *x, const float *r, size_t n, float a, float b,
                                   float limit, uint32_t *index);

/* For all n rows and 16 nslabs queries of a gemm's output: writes row << 16 | query where not
 * (a[query] * r[row] - dot > limit[query]), by row, then query. Returns how many;
 * pairs[n * 16 * nslabs]. n and 16 nslabs are at most 65,536. */
typedef size_t (*kernel_sieve_fn)(const float *dots, size_t ld, const float *r, size_t n,
                                  const float *a, const float *limit, size_t nslabs,
                                  uint32_t *pairs);

struct kernels {
    enum isa isa;
    const char *name;                    /* "avx512+vnni+vpopcntdq" */
    kernel_score_fn l2[ELEM_COUNT];      /* sum (q_i - x_i)^2 */
    kernel_score_fn dot[ELEM_COUNT];     /* sum q_i x_i */
    kernel_norm_fn norm[ELEM_COUNT];     /* sum x_i^2 */
    kernel_count_fn l2_i8;
    kernel_count_fn dot_i8;
    kernel_count_fn hamming;             /* dim in bits, a multiple of 8 */
    kernel_widen_fn f16_to_f32, bf16_to_f32, i8_to_f32, i32_to_f32;
    kernel_narrow_fn f32_to_f16, f32_to_bf16;
    kernel_gemm_fn gemm;
    kernel_filter_fn filter;
    kernel_sieve_fn sieve;
    kernel_scan_fn scan;                 /* this and the following: codes.h */
    kernel_levels_fn levels;
    kernel_lut_fn lut;
    kernel_quantise_fn quantise;
    kernel_fht_fn fht;
    kernel_multiply_fn multiply;
    kernel_turn_fn turn;
    kernel_fit_fn fit;
    kernel_level_fn level;
    kernel_centroids_fn centroids;
    kernel_gather_fn gather;
    kernel_weigh_fn weigh;
    kernel_least_fn least;
    kernel_select_fn select;
    kernel_common_fn common;
    kernel_closest_fn closest;
};

/* The best instruction set that this CPU and its operating system can run. */
enum isa kernels_detect(void);

/* The best table at most `cap` (ISA_COUNT: no cap). The environment's MNEME_ISA=scalar|avx2 lowers
 * it for a whole process. Never NULL. */
const struct kernels *kernels_select(enum isa cap);

/* Every table that this CPU can run, variants of one instruction set included, from the plainest;
 * NULL past the last. For tests and the bench; MNEME_ISA does not count. */
const struct kernels *kernels_at(size_t i);

const char *kernels_isa_name(enum isa isa); /* "scalar", "avx2", "avx512" */

#endif
