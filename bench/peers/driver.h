/* What every system under measurement has in common: it is a process that holds one set of
 * vectors, reads commands on its standard input and answers each with one line of JSON. C and C++.
 *
 *     search FIRST COUNT BATCH        searches COUNT queries from FIRST on, BATCH a call
 *                                     -> {"wall_us": w, "cpu_us": c}
 *     answers FIRST COUNT BATCH PATH  the same, and writes the ids, int64 [COUNT][k], to PATH
 *     tune BATCH                      tries the system's settings for such calls, keeps the best
 *                                     -> {"setting": "..."}
 *     quit                            -> {"rss_peak_kb": n}
 *
 * A system says {"ready": 1} when its data is loaded, and {"error": "..."} instead of an answer
 * when something failed. The time of a search command is that of the calls alone. CPU time is user
 * and system time of the whole process, all threads. */
#ifndef MN_BENCH_PEERS_DRIVER_H
#define MN_BENCH_PEERS_DRIVER_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* A system. `search` writes ids [nq][k] (-1 where there are fewer) and returns 0, or puts a
 * sentence into d->message and returns another number. `tune` may be NULL; it fills d->setting,
 * which otherwise says how the system works in any case. */
struct driver {
    const float *queries; /* [n_queries][dim] */
    size_t n_queries;
    uint32_t dim, k;
    int (*search)(struct driver *d, const float *queries, size_t nq, int64_t *ids);
    int (*tune)(struct driver *d, size_t batch);
    void *ctx;
    char message[400];
    char setting[200];
};

static inline double driver_clock_us(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static inline double driver_wall_us(void)
{
    return driver_clock_us(CLOCK_MONOTONIC);
}

/* User and system time of all threads, as getrusage tells it but to the nanosecond. */
static inline double driver_cpu_us(void)
{
    return driver_clock_us(CLOCK_PROCESS_CPUTIME_ID);
}

/* The process's highest resident size in KiB, 0 if /proc is not there. */
static inline uint64_t driver_rss_peak_kb(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    uint64_t kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %" SCNu64, &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb;
}

/* Memory for vectors, aligned to 64 and on large pages where the kernel has them. */
static inline void *driver_memory(size_t bytes)
{
    size_t round = (size_t)2 << 20;
    size_t whole = (bytes + round - 1) / round * round;
    void *p = aligned_alloc(round, whole ? whole : round);
    if (p)
        madvise(p, whole, MADV_HUGEPAGE);
    return p;
}

/* Reads an fbin file: u32 n, u32 dim, then n x dim f32, little-endian. NULL and a sentence in
 * message (of `room` bytes) if it is not one; else the caller frees. */
static inline float *driver_read_fbin(const char *path, size_t *n, uint32_t *dim, char *message,
                                      size_t room)
{
    uint32_t head[2] = {0, 0};
    float *rows = NULL;
    size_t bytes = 0;
    long size = 0;
    FILE *f = fopen(path, "rb");
    if (!f) {
        snprintf(message, room, "%s: cannot be opened", path);
        return NULL;
    }
    if (fread(head, sizeof head, 1, f) != 1 || head[1] == 0 || head[1] > 16384) {
        snprintf(message, room, "%s: is no fbin file", path);
        goto done;
    }
    bytes = (size_t)head[0] * head[1] * sizeof(float);
    if (fseek(f, 0, SEEK_END) != 0 || (size = ftell(f)) < 0 || (size_t)size != bytes + 8) {
        snprintf(message, room, "%s: has %ld bytes, %u x %u f32 need %zu", path, size,
                 (unsigned)head[0], (unsigned)head[1], bytes + 8);
        goto done;
    }
    rows = (float *)driver_memory(bytes);
    if (!rows) {
        snprintf(message, room, "%s: no memory for %zu bytes", path, bytes);
        goto done;
    }
    if (fseek(f, 8, SEEK_SET) != 0 || fread(rows, 1, bytes, f) != bytes) {
        snprintf(message, room, "%s: cannot be read", path);
        free(rows);
        rows = NULL;
        goto done;
    }
    *n = head[0];
    *dim = head[1];
done:
    fclose(f);
    return rows;
}

static inline int driver_error(const char *message)
{
    printf("{\"error\": \"");
    for (const char *c = message; *c; c++)
        if ((unsigned char)*c >= ' ')
            printf(*c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
    printf("\"}\n");
    fflush(stdout);
    return 1;
}

/* One search or answers command. path NULL: the answers are dropped. */
static inline int driver_search(struct driver *d, size_t first, size_t count, size_t batch,
                                const char *path)
{
    int rc = 1;
    double wall = 0, cpu = 0, wall0, cpu0;
    int64_t *ids = NULL;
    FILE *out = NULL;
    if (batch == 0 || count == 0 || batch > d->n_queries) {
        snprintf(d->message, sizeof d->message, "search: no such range of queries");
        goto done;
    }
    ids = (int64_t *)malloc(batch * d->k * sizeof *ids);
    if (!ids || (path && !(out = fopen(path, "wb")))) {
        snprintf(d->message, sizeof d->message, "%s", ids ? "answers: file" : "no memory");
        goto done;
    }
    for (size_t i = 0; i < count; i += batch) {
        size_t nq = count - i < batch ? count - i : batch;
        size_t at = (first + i) % d->n_queries;
        if (at + nq > d->n_queries)
            at = 0;
        wall0 = driver_wall_us();
        cpu0 = driver_cpu_us();
        if (d->search(d, d->queries + at * d->dim, nq, ids) != 0)
            goto done;
        cpu += driver_cpu_us() - cpu0;
        wall += driver_wall_us() - wall0;
        if (out && fwrite(ids, sizeof *ids * d->k, nq, out) != nq) {
            snprintf(d->message, sizeof d->message, "%.300s: cannot be written", path);
            goto done;
        }
    }
    rc = 0;
done:
    if (out && fclose(out) != 0 && rc == 0) {
        snprintf(d->message, sizeof d->message, "%.300s: cannot be written", path);
        rc = 1;
    }
    if (rc == 0) { /* only now: the file is complete when the answer is there */
        printf("{\"wall_us\": %.3f, \"cpu_us\": %.3f}\n", wall, cpu);
        fflush(stdout);
    }
    free(ids);
    return rc;
}

/* Answers commands until quit or the end of the input. The process's exit status. */
static inline int driver_run(struct driver *d)
{
    char line[4400], path[4097];
    size_t first, count, batch;
    printf("{\"ready\": 1, \"rss_kb\": %" PRIu64 "}\n", driver_rss_peak_kb());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        d->message[0] = 0;
        if (strncmp(line, "quit", 4) == 0)
            break;
        if (sscanf(line, "search %zu %zu %zu", &first, &count, &batch) == 3) {
            if (driver_search(d, first, count, batch, NULL) != 0)
                return driver_error(d->message);
        } else if (sscanf(line, "answers %zu %zu %zu %4096[^\n]", &first, &count, &batch, path) ==
                   4) {
            if (driver_search(d, first, count, batch, path) != 0)
                return driver_error(d->message);
        } else if (sscanf(line, "tune %zu", &batch) == 1) {
            if (d->tune && d->tune(d, batch) != 0)
                return driver_error(d->message);
            printf("{\"setting\": \"%s\"}\n", d->setting);
            fflush(stdout);
        } else {
            return driver_error("a command that no system knows");
        }
    }
    printf("{\"rss_peak_kb\": %" PRIu64 "}\n", driver_rss_peak_kb());
    fflush(stdout);
    return 0;
}

/* ---- For peers that are programs of their own ---------------------------------------------- */

/* --base F --queries F --metric M --k K --threads N, all in that order of pairs or another. */
struct driver_args {
    const char *base, *queries, *metric;
    unsigned k, threads;
};

static inline bool driver_args(int argc, char **argv, struct driver_args *a)
{
    memset(a, 0, sizeof *a);
    a->metric = "l2";
    a->k = 10;
    a->threads = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--base") == 0)
            a->base = argv[i + 1];
        else if (strcmp(argv[i], "--queries") == 0)
            a->queries = argv[i + 1];
        else if (strcmp(argv[i], "--metric") == 0)
            a->metric = argv[i + 1];
        else if (strcmp(argv[i], "--k") == 0)
            a->k = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--threads") == 0)
            a->threads = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else
            return false;
    }
    return a->base && a->queries && a->k > 0 && a->threads > 0 && argc % 2 == 1 &&
           (strcmp(a->metric, "l2") == 0 || strcmp(a->metric, "ip") == 0 ||
            strcmp(a->metric, "cosine") == 0);
}

#endif
