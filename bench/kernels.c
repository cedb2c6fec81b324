/* The rate at which each kernel of each instruction set reads rows, in GB/s, beside the rate of a
 * plain streaming sum over the same memory in the same run: first over memory well beyond the
 * caches, then over a piece that stays in them. The passes of sum and kernel alternate; a ratio is
 * the median of those of the passes. One thread and its CPU time, so that others who use the
 * machine count only as far as they use its memory; GB are 10^9 bytes. */
#include "bench/kernels.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"
#include "bench/stream.h"
#include "index/kernels/kernels.h"

enum { ROWS = 192, PATTERN = 1 << 20 }; /* rows of a call, as in exact search; bytes */

#define SLOW_S 0.25  /* a kernel that takes longer for all of the memory reads a part of it */
#define CACHE_S 0.02 /* how long one pass over the piece in the cache goes on */

struct kernels_opts {
    uint64_t bytes, cache, dim, passes;
    const char *json, *label, *isa;
};

enum shape { SCORE, NORM, COUNT };

/* One kernel, found in a table by its offset. */
struct kernel {
    const char *op, *dtype;
    mn_dtype type;
    enum shape shape;
    size_t offset;
};

#define AT(member) offsetof(struct kernels, member)
#define AT_TYPE(member, type) (AT(member) + (type) * sizeof(kernel_score_fn))

static const struct kernel list[] = {
    {"l2", "f32", MN_F32, SCORE, AT_TYPE(l2, ELEM_F32)},
    {"dot", "f32", MN_F32, SCORE, AT_TYPE(dot, ELEM_F32)},
    {"norm", "f32", MN_F32, NORM, AT_TYPE(norm, ELEM_F32)},
    {"l2", "f16", MN_F16, SCORE, AT_TYPE(l2, ELEM_F16)},
    {"dot", "f16", MN_F16, SCORE, AT_TYPE(dot, ELEM_F16)},
    {"norm", "f16", MN_F16, NORM, AT_TYPE(norm, ELEM_F16)},
    {"l2", "bf16", MN_BF16, SCORE, AT_TYPE(l2, ELEM_BF16)},
    {"dot", "bf16", MN_BF16, SCORE, AT_TYPE(dot, ELEM_BF16)},
    {"norm", "bf16", MN_BF16, NORM, AT_TYPE(norm, ELEM_BF16)},
    {"l2", "i8", MN_I8, COUNT, AT(l2_i8)},
    {"dot", "i8", MN_I8, COUNT, AT(dot_i8)},
    {"hamming", "bit", MN_BIT, COUNT, AT(hamming)},
};

/* What all measurements share. */
struct run {
    const struct kernels_opts *opts;
    struct results results;
    char *memory;     /* [bytes], aligned to 4096 */
    float *query_f32; /* [dim] */
    void *query;      /* [dim] bytes: of i8 or bits */
    size_t loop;      /* the streaming loop that was fastest here */
    uint64_t sink;    /* so that sums are computed */
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static size_t row_bytes(const struct kernel *k, uint64_t dim)
{
    return (size_t)(k->type == MN_F32   ? dim * 4
                    : k->type == MN_I8  ? dim
                    : k->type == MN_BIT ? dim / 8
                                        : dim * 2);
}

static void call(const struct run *run, const struct kernels *kn, const struct kernel *k,
                 const char *rows, size_t stride, size_t n)
{
    static float scores[ROWS];
    static int32_t counts[ROWS];
    const char *slot = (const char *)kn + k->offset;
    size_t dim = (size_t)run->opts->dim;
    if (k->shape == SCORE)
        (*(const kernel_score_fn *)(const void *)slot)(run->query_f32, rows, stride, n, dim,
                                                       scores);
    else if (k->shape == NORM)
        (*(const kernel_norm_fn *)(const void *)slot)(rows, stride, n, dim, scores);
    else
        (*(const kernel_count_fn *)(const void *)slot)(run->query, rows, stride, n, dim, counts);
}

/* GB/s of one kernel over `bytes` of memory, once if `seconds` is 0, else again until they are
 * over. Ends early after SLOW_S. */
static double kernel_rate(const struct run *run, const struct kernels *kn, const struct kernel *k,
                          size_t bytes, double seconds)
{
    size_t stride = row_bytes(k, run->opts->dim), n = bytes / stride;
    double start = now_s(), end, done = 0;
    do {
        for (size_t i = 0; i < n; i += ROWS) {
            size_t rows = n - i < ROWS ? n - i : ROWS;
            call(run, kn, k, run->memory + i * stride, stride, rows);
            done += (double)(rows * stride);
            if (i / ROWS % 256 == 255 && now_s() - start > SLOW_S)
                break;
        }
        end = now_s();
    } while (end - start < seconds);
    return done / (end - start) * 1e-9;
}

static double stream_rate(struct run *run, size_t loop, size_t bytes, double seconds)
{
    double start = now_s(), end, done = 0;
    bytes = bytes / 64 * 64;
    do {
        run->sink += stream_sum(loop, run->memory, bytes, 1);
        done += (double)bytes;
        end = now_s();
    } while (end - start < seconds);
    return done / (end - start) * 1e-9;
}

/* The fastest loop over the whole memory: two passes of each, the better counts. */
static void choose_loop(struct run *run)
{
    double best = 0;
    for (size_t loop = 0; loop < stream_loops(); loop++)
        for (int pass = 0; pass < 2; pass++) {
            double rate = stream_rate(run, loop, (size_t)run->opts->bytes, 0);
            if (rate > best) {
                best = rate;
                run->loop = loop;
            }
        }
}

/* Fills the memory with rows of a type: a piece of numbers near 1, over and over. */
static void fill(const struct run *run, const struct kernel *k)
{
    const struct kernels *kn = kernels_at(0);
    struct bench_rng rng = {1};
    char *piece = run->memory;
    if (k->type == MN_I8 || k->type == MN_BIT) {
        for (size_t i = 0; i < PATTERN; i++)
            piece[i] = (char)bench_rand(&rng);
    } else {
        size_t size = k->type == MN_F32 ? 4 : 2;
        for (size_t i = 0; i < PATTERN / size; i++) {
            float x = (float)bench_normal(&rng) / 65536;
            if (k->type == MN_F32)
                memcpy(piece + i * size, &x, size);
            else
                (k->type == MN_F16 ? kn->f32_to_f16 : kn->f32_to_bf16)(
                    &x, 1, (uint16_t *)(void *)(piece + i * size));
        }
    }
    for (size_t at = PATTERN; at < run->opts->bytes; at += PATTERN) {
        size_t left = (size_t)run->opts->bytes - at;
        memcpy(run->memory + at, piece, left < PATTERN ? left : PATTERN);
    }
}

/* Measures and reports one kernel over `bytes`. 0, or 1 after a sentence. */
static int measure(struct run *run, const struct kernels *kn, const struct kernel *k,
                   const char *where, size_t bytes, double seconds)
{
    struct figure rate = {.n = 0}, stream = {.n = 0}, ratio = {.n = 0};
    for (uint64_t pass = 0; pass < run->opts->passes; pass++) {
        double s = stream_rate(run, run->loop, bytes, seconds);
        double r = kernel_rate(run, kn, k, bytes, seconds);
        figure_add(&stream, s);
        figure_add(&rate, r);
        figure_add(&ratio, r / s);
    }
    printf("  %-8s %-5s %-22s %-6s %8.1f %8.1f %7.2f\n", k->op, k->dtype, kn->name, where,
           figure_median(&rate), figure_median(&stream), figure_median(&ratio));
    json_t *line = json_object();
    if (!line)
        return bench_fail("out of memory");
    json_object_set_new(line, "bench", json_string("kernels"));
    json_object_set_new(line, "kernel", json_string(k->op));
    json_object_set_new(line, "dtype", json_string(k->dtype));
    json_object_set_new(line, "isa", json_string(kn->name));
    json_object_set_new(line, "dim", json_integer((json_int_t)run->opts->dim));
    json_object_set_new(line, "where", json_string(where));
    json_object_set_new(line, "bytes", json_integer((json_int_t)bytes));
    json_put_figure(line, "gbps", &rate);
    json_put_figure(line, "stream_gbps", &stream);
    json_put_figure(line, "ratio", &ratio);
    json_object_set_new(line, "stream_loop", json_string(stream_loop_name(run->loop)));
    return results_line(&run->results, line);
}

/* Whether the table before has the same function here: variants share most of theirs. */
static bool is_repeated(size_t table, const struct kernel *k)
{
    const struct kernels *a = table ? kernels_at(table - 1) : NULL, *b = kernels_at(table);
    return a && memcmp((const char *)a + k->offset, (const char *)b + k->offset,
                       sizeof(kernel_score_fn)) == 0;
}

static int measure_all(struct run *run)
{
    const struct kernels_opts *o = run->opts;
    mn_dtype filled = MN_BIT;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const struct kernel *k = &list[i];
        if (k->type == MN_BIT && o->dim % 8)
            continue;
        if (i == 0 || k->type != filled)
            fill(run, k);
        filled = k->type;
        for (size_t table = 0; kernels_at(table); table++) {
            const struct kernels *kn = kernels_at(table);
            if (is_repeated(table, k) || (o->isa && strcmp(o->isa, kernels_isa_name(kn->isa)) != 0))
                continue;
            if (measure(run, kn, k, "memory", (size_t)o->bytes, 0) ||
                measure(run, kn, k, "cache", (size_t)o->cache, CACHE_S))
                return 1;
        }
    }
    return 0;
}

static enum opts_result opts_read(struct kernels_opts *o, int argc, char **argv)
{
    *o = (struct kernels_opts){
        .bytes = (uint64_t)1 << 30, .cache = 256 << 10, .dim = 128, .passes = 3};
    const struct opt opts[] = {
        {"--bytes", OPT_SIZE, &o->bytes, PATTERN, (uint64_t)1 << 40, "SIZE",
         "memory to read (default: 1GiB; well beyond the caches)"},
        {"--cache", OPT_SIZE, &o->cache, 4096, 1 << 30, "SIZE",
         "what is read over and over for the rate in the cache (default: 256KiB)"},
        {"--dim", OPT_COUNT, &o->dim, 1, KERNEL_MAX_DIM, "D", "elements of a row"},
        {"--isa", OPT_TEXT, &o->isa, 0, 0, "NAME", "only scalar, avx2 or avx512"},
        {"--passes", OPT_COUNT, &o->passes, 1, MAX_PASSES, "N", "of which the median counts"},
        {"--json", OPT_TEXT, &o->json, 0, 0, "OUT", "takes the results, one JSON object a line"},
        {"--label", OPT_TEXT, &o->label, 0, 0, "TEXT", "put into each line"},
    };
    return opts_parse("usage: mneme_bench kernels [OPTION]...\n\n"
                      "Measures in GB/s how fast each kernel reads rows, with every instruction\n"
                      "set that this processor has, beside a streaming sum over the same memory.\n"
                      "Variants that share a function are measured once.\n",
                      opts, sizeof opts / sizeof *opts, argc, argv);
}

int bench_kernels(int argc, char **argv)
{
    struct kernels_opts o;
    int status = 1;
    enum opts_result r = opts_read(&o, argc, argv);
    if (r != OPTS_GO)
        return opts_exit(r);
    if (o.cache > o.bytes)
        o.cache = o.bytes;

    struct run run = {.opts = &o};
    run.memory = aligned_alloc(4096, (size_t)(o.bytes + 4095) / 4096 * 4096);
    run.query_f32 = calloc((size_t)o.dim, sizeof(float));
    run.query = calloc((size_t)o.dim, 1);
    if (!run.memory || !run.query_f32 || !run.query) {
        bench_fail("no memory for %" PRIu64 " bytes: choose fewer with --bytes", o.bytes);
        goto done;
    }
    for (uint64_t i = 0; i < o.dim; i++) {
        run.query_f32[i] = (float)(i % 7) - 3;
        ((char *)run.query)[i] = (char)(i * 37);
    }
    if (results_open(&run.results, o.json, o.label, argc, argv))
        goto done;
    memset(run.memory, 1, (size_t)o.bytes);
    choose_loop(&run);
    printf("dim %" PRIu64 ", %" PRIu64 " MiB in memory, %" PRIu64
           " KiB in the cache; streaming by %s\n",
           o.dim, o.bytes >> 20, o.cache >> 10, stream_loop_name(run.loop));
    printf("  %-8s %-5s %-22s %-6s %8s %8s %7s\n", "kernel", "type", "instructions", "from", "GB/s",
           "stream", "ratio");
    status = measure_all(&run);
    if (results_close(&run.results))
        status = 1;
done:
    free(run.memory);
    free(run.query_f32);
    free(run.query);
    return status;
}
