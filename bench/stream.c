/* Streaming sums: one load and one add for each vector, eight sums side by side, so that nothing
 * but memory holds them up. How memory likes to be asked differs between machines: with vectors of
 * 16, 32 or 64 bytes; as one run or as four runs side by side, which occupy more of the hardware's
 * prefetchers; with or without prefetches ahead in software. All are there to choose from. */
#include "bench/stream.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#define MAX_THREADS 256
#define AHEAD 2048 /* bytes: far enough to hide memory's latency at tens of GB/s, within a page */

/* `runs` is 1 or 4, `ahead` in bytes, 0 for none. Constants, so that the compiler cuts the rest. */
#define LOOP(name, bytes_of_vector, runs, ahead, attribute)                                        \
    attribute static uint64_t name(const void *memory, size_t bytes)                               \
    {                                                                                              \
        typedef uint64_t vec __attribute__((vector_size(bytes_of_vector)));                        \
        const vec *p = __builtin_assume_aligned(memory, bytes_of_vector);                          \
        const vec *end = p + bytes / sizeof *p;                                                    \
        const size_t run = bytes / sizeof *p / runs / 8 * 8;                                       \
        const vec *q = p + run * (runs > 1), *r = q + run * (runs > 1), *s = r + run * (runs > 1); \
        vec a = {0}, b = {0}, c = {0}, d = {0}, e = {0}, f = {0}, g = {0}, h = {0};                \
        uint64_t sum = 0;                                                                          \
        size_t i = 0;                                                                              \
        for (; runs == 1 && i < run; i += 8) {                                                     \
            for (size_t line = 0; ahead && line < 8 * sizeof *p; line += 64)                       \
                __builtin_prefetch((const char *)(p + i) + ahead + line);                          \
            a += p[i], b += p[i + 1], c += p[i + 2], d += p[i + 3];                                \
            e += p[i + 4], f += p[i + 5], g += p[i + 6], h += p[i + 7];                            \
        }                                                                                          \
        for (; runs == 4 && i < run; i += 2) {                                                     \
            if (ahead) {                                                                           \
                __builtin_prefetch((const char *)(p + i) + ahead);                                 \
                __builtin_prefetch((const char *)(q + i) + ahead);                                 \
                __builtin_prefetch((const char *)(r + i) + ahead);                                 \
                __builtin_prefetch((const char *)(s + i) + ahead);                                 \
            }                                                                                      \
            a += p[i], b += q[i], c += r[i], d += s[i];                                            \
            e += p[i + 1], f += q[i + 1], g += r[i + 1], h += s[i + 1];                            \
        }                                                                                          \
        for (p += run * runs; p < end; p++)                                                        \
            a += *p;                                                                               \
        a += b + c + d + e + f + g + h;                                                            \
        for (i = 0; i < sizeof a / sizeof sum; i++)                                                \
            sum += a[i];                                                                           \
        return sum;                                                                                \
    }

#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f")))

LOOP(plain_1, 16, 1, 0, )
LOOP(plain_4, 16, 4, 0, )
LOOP(plain_1p, 16, 1, AHEAD, )
LOOP(plain_4p, 16, 4, AHEAD, )
#if defined(__x86_64__)
LOOP(avx2_1, 32, 1, 0, AVX2)
LOOP(avx2_4, 32, 4, 0, AVX2)
LOOP(avx2_1p, 32, 1, AHEAD, AVX2)
LOOP(avx2_4p, 32, 4, AHEAD, AVX2)
LOOP(avx512_1, 64, 1, 0, AVX512)
LOOP(avx512_4, 64, 4, 0, AVX512)
LOOP(avx512_1p, 64, 1, AHEAD, AVX512)
LOOP(avx512_4p, 64, 4, AHEAD, AVX512)
#endif

static const struct {
    const char *name;
    uint64_t (*sum)(const void *memory, size_t bytes);
} loops[] = {
    {"16-byte loads", plain_1},
    {"16-byte loads, 4 runs", plain_4},
    {"16-byte loads, prefetched", plain_1p},
    {"16-byte loads, 4 runs, prefetched", plain_4p},
#if defined(__x86_64__)
    {"32-byte loads", avx2_1},
    {"32-byte loads, 4 runs", avx2_4},
    {"32-byte loads, prefetched", avx2_1p},
    {"32-byte loads, 4 runs, prefetched", avx2_4p},
    {"64-byte loads", avx512_1},
    {"64-byte loads, 4 runs", avx512_4},
    {"64-byte loads, prefetched", avx512_1p},
    {"64-byte loads, 4 runs, prefetched", avx512_4p},
#endif
};

size_t stream_loops(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") ? 12 : __builtin_cpu_supports("avx2") ? 8 : 4;
#else
    return 4;
#endif
}

const char *stream_loop_name(size_t loop)
{
    return loops[loop].name;
}

struct part {
    pthread_t thread;
    bool started;
    size_t loop, bytes;
    const char *memory;
    uint64_t sum;
};

static void *part_run(void *arg)
{
    struct part *p = arg;
    p->sum = loops[p->loop].sum(p->memory, p->bytes);
    return NULL;
}

uint64_t stream_sum(size_t loop, const void *memory, size_t bytes, unsigned threads)
{
    struct part parts[MAX_THREADS];
    uint64_t sum = 0;
    threads = threads == 0 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    for (unsigned i = 0; i < threads; i++) {
        parts[i] = (struct part){.loop = loop,
                                 .bytes = bytes / threads,
                                 .memory = (const char *)memory + bytes / threads * i};
        if (i + 1 < threads)
            parts[i].started = pthread_create(&parts[i].thread, NULL, part_run, &parts[i]) == 0;
    }
    for (unsigned i = threads; i-- > 0;) {
        if (parts[i].started)
            pthread_join(parts[i].thread, NULL);
        else
            part_run(&parts[i]);
        sum += parts[i].sum;
    }
    return sum;
}
