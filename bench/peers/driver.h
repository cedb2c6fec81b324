/* What every system under measurement has in common: it is a process that holds one set of
 * vectors, reads commands on its standard input and answers each with one line of JSON. C and C++.
 *
 *     search FIRST COUNT BATCH        searches COUNT queries from FIRST on, BATCH a call
 *                                     -> {"wall_us": w, "cpu_us": c}
 *     answers FIRST COUNT BATCH PATH  the same, and writes the ids, int64 [COUNT][k], to PATH
 *     measure FIRST COUNT BATCH PATH  the same, each call timed; PATH "-": no answers are written
 *                                     -> {"wall_us": w, "cpu_us": c, "p50_us": p, "p99_us": q,
 *                                         "reads": r, "bytes": a, "read_bytes": b, "rss_kb": n}
 *     tune BATCH                      tries the system's settings for such calls, keeps the best
 *                                     -> {"setting": "..."}
 *     set TEXT                        a setting, as in "nprobe=20,k_factor=5" -> {"setting": "..."}
 *     quit                            -> {"rss_peak_kb": n}
 *
 * A system says {"ready": 1} when its data is loaded, with what its building cost, and
 * {"error": "..."} instead of an answer when something failed. The time of a search command is that
 * of the calls alone. CPU time is user and system time of the whole process, all threads. */
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
    int (*set)(struct driver *d, const char *text); /* NULL: nothing can be set */
    void *ctx;
    double build_wall_us, build_cpu_us;
    uint64_t reads, bytes; /* from the disk so far, by the system's own count */
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

/* A figure of a file like /proc/self/status, "NAME: 123 kB"; 0 if it is not there. */
static inline uint64_t driver_proc(const char *path, const char *name)
{
    FILE *f = fopen(path, "r");
    size_t len = strlen(name);
    char line[256];
    uint64_t value = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, name, len) == 0 && line[len] == ':') {
            value = strtoull(line + len + 1, NULL, 10);
            break;
        }
    if (f)
        fclose(f);
    return value;
}

/* The process's highest resident size in KiB, 0 if /proc is not there. */
static inline uint64_t driver_rss_peak_kb(void)
{
    return driver_proc("/proc/self/status", "VmHWM");
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

static inline int driver_compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The calls of one measure command; each call's wall time into took[0 .. calls). */
static inline int driver_calls(struct driver *d, size_t first, size_t count, size_t batch,
                               int64_t *ids, float *took, size_t *calls)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i += batch, n++) {
        size_t nq = count - i < batch ? count - i : batch;
        size_t at = (first + i) % d->n_queries;
        double start = driver_wall_us();
        if (at + nq > d->n_queries)
            nq = d->n_queries - at;
        if (d->search(d, d->queries + at * d->dim, nq, ids + i * d->k) != 0)
            return 1;
        took[n] = (float)(driver_wall_us() - start);
    }
    *calls = n;
    return 0;
}

/* One measure command. Ids are kept, and written when the time is taken. */
static inline int driver_measure(struct driver *d, size_t first, size_t count, size_t batch,
                                 const char *path)
{
    static const char io[] = "/proc/self/io";
    int rc = 1;
    size_t calls = 0;
    int64_t *ids = NULL;
    float *took = NULL;
    FILE *out = NULL;
    uint64_t reads = d->reads, asked = d->bytes, bytes = driver_proc(io, "read_bytes");
    double wall, cpu;
    bool good;
    snprintf(d->message, sizeof d->message, "measure: no such range of queries");
    if (batch == 0 || count == 0 || count > d->n_queries || first + count > d->n_queries)
        return 1;
    snprintf(d->message, sizeof d->message, "no memory for the answers");
    ids = (int64_t *)malloc(count * d->k * sizeof *ids);
    took = (float *)malloc((count / batch + 1) * sizeof *took);
    if (!ids || !took)
        goto done;
    wall = driver_wall_us();
    cpu = driver_cpu_us();
    if (driver_calls(d, first, count, batch, ids, took, &calls) != 0)
        goto done;
    cpu = driver_cpu_us() - cpu;
    wall = driver_wall_us() - wall;
    bytes = driver_proc(io, "read_bytes") - bytes;
    qsort(took, calls, sizeof *took, driver_compare);
    if (strcmp(path, "-") != 0) {
        snprintf(d->message, sizeof d->message, "%.300s: cannot be written", path);
        out = fopen(path, "wb");
        good = out && fwrite(ids, sizeof *ids * d->k, count, out) == count;
        if ((out && fclose(out) != 0) || !good)
            goto done;
    }
    printf("{\"wall_us\": %.3f, \"cpu_us\": %.3f, \"p50_us\": %.3f, \"p99_us\": %.3f, "
           "\"reads\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"read_bytes\": %" PRIu64
           ", \"rss_kb\": %" PRIu64 "}\n",
           wall, cpu, (double)took[calls / 2], (double)took[calls * 99 / 100], d->reads - reads,
           d->bytes - asked, bytes, driver_proc("/proc/self/status", "VmRSS"));
    fflush(stdout);
    rc = 0;
done:
    free(ids);
    free(took);
    return rc;
}

/* Answers commands until quit or the end of the input. The process's exit status. */
static inline int driver_run(struct driver *d)
{
    char line[4400], path[4097];
    size_t first, count, batch;
    printf("{\"ready\": 1, \"rss_kb\": %" PRIu64 ", \"build_wall_us\": %.0f, "
           "\"build_cpu_us\": %.0f}\n",
           driver_rss_peak_kb(), d->build_wall_us, d->build_cpu_us);
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
        } else if (sscanf(line, "measure %zu %zu %zu %4096[^\n]", &first, &count, &batch, path) ==
                   4) {
            if (driver_measure(d, first, count, batch, path) != 0)
                return driver_error(d->message);
        } else if (sscanf(line, "set %4096[^\n]", path) == 1 && d->set) {
            if (d->set(d, path) != 0)
                return driver_error(d->message);
            printf("{\"setting\": \"%s\"}\n", d->setting);
            fflush(stdout);
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

/* "name=12" anywhere in "a=1,name=12"; `otherwise` if it is not there. */
static inline unsigned driver_number(const char *text, const char *name, unsigned otherwise)
{
    size_t len = strlen(name);
    for (const char *p = text; *p; p += strcspn(p, ","), p += *p == ',')
        if (strncmp(p, name, len) == 0 && p[len] == '=')
            return (unsigned)strtoul(p + len + 1, NULL, 10);
    return otherwise;
}

/* Threads of a build: MNEME_BUILD_THREADS, else `otherwise`. */
static inline unsigned driver_build_threads(unsigned otherwise)
{
    const char *text = getenv("MNEME_BUILD_THREADS");
    unsigned n = text ? (unsigned)strtoul(text, NULL, 10) : 0;
    return n > 0 ? n : otherwise;
}

/* ---- For peers that are programs of their own ---------------------------------------------- */

/* --base F --queries F --metric M --k K --threads N --build TEXT, pairs in any order. */
struct driver_args {
    const char *base, *queries, *metric, *build;
    unsigned k, threads;
};

static inline bool driver_args(int argc, char **argv, struct driver_args *a)
{
    memset(a, 0, sizeof *a);
    a->metric = "l2";
    a->build = "";
    a->k = 10;
    a->threads = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--base") == 0)
            a->base = argv[i + 1];
        else if (strcmp(argv[i], "--queries") == 0)
            a->queries = argv[i + 1];
        else if (strcmp(argv[i], "--metric") == 0)
            a->metric = argv[i + 1];
        else if (strcmp(argv[i], "--build") == 0)
            a->build = argv[i + 1];
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

/* Reads the queries, for d->queries and d->k, and the base [*n][d->dim]; both are for free(). NULL:
 * d->message says why not. */
static inline float *driver_load(struct driver *d, const struct driver_args *a, size_t *n)
{
    uint32_t dim = 0;
    float *queries =
        driver_read_fbin(a->queries, &d->n_queries, &d->dim, d->message, sizeof d->message);
    float *base =
        queries ? driver_read_fbin(a->base, n, &dim, d->message, sizeof d->message) : NULL;
    d->queries = queries;
    d->k = a->k;
    if (base && dim != d->dim) {
        snprintf(d->message, sizeof d->message, "base and queries have different dimensions");
        free(base);
        base = NULL;
    }
    return base;
}

/* Answers commands until the end, then frees the queries; the exit status. */
static inline int driver_serve(struct driver *d, void *ctx,
                               int (*search)(struct driver *, const float *, size_t, int64_t *))
{
    d->ctx = ctx;
    d->search = search;
    int rc = driver_run(d);
    free((void *)d->queries);
    return rc;
}

#endif
