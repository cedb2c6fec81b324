/* Brute force in double over rows as a plain SELECT gives them: what every search is compared
 * with. Independent of index/ and of the engine, but for mn_vector_bytes.
 *
 * Tolerance. Mneme computes in f32 (index/kernels/kernels.h), so a distance may be off by `slack`:
 *   l2      (dim + 8) 2^-24 of the distance
 *   ip      (dim + 8) 2^-24 of the sum of |q_i x_i|
 *   cosine  3 (dim + 16) 2^-24
 *   none for hamming, for i8 under l2 and ip, and where the test says that elements are small
 *   integers: then distances, order and ties by id must agree exactly.
 * Rows whose distances differ by less than their slacks may stand in either order. */
#ifndef MN_TESTS_ENGINE_BRUTE_H
#define MN_TESTS_ENGINE_BRUTE_H

#include <float.h>
#include <stdarg.h>
#include <sqlite3.h>

#include "mneme.h"
#include "tests/test.h"

struct brute {
    mn_dtype dtype;
    mn_metric metric;
    uint32_t dim;
    bool small_integers; /* every element of rows and queries is a small integer */
    size_t n, cap;       /* rows with a valid vector */
    int64_t *ids;        /* [n] ascending */
    char *vectors;       /* [n][mn_vector_bytes] */
    uint64_t invalid;    /* rows whose vector is neither NULL nor valid */
};

typedef bool (*brute_keep_fn)(void *ctx, int64_t id);

static inline double brute_half(uint16_t h)
{
    int exponent = h >> 10 & 31;
    double mantissa = h & 1023, sign = h & 0x8000 ? -1 : 1;
    if (exponent == 31)
        return mantissa != 0 ? (double)NAN : sign * (double)INFINITY;
    return sign * (exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24));
}

static inline double brute_element(mn_dtype dtype, const void *vector, size_t i)
{
    float f;
    uint16_t h;
    uint32_t bits;
    switch (dtype) {
    case MN_F32:
        memcpy(&f, (const char *)vector + 4 * i, 4);
        return (double)f;
    case MN_F16:
        memcpy(&h, (const char *)vector + 2 * i, 2);
        return brute_half(h);
    case MN_BF16:
        memcpy(&h, (const char *)vector + 2 * i, 2);
        bits = (uint32_t)h << 16;
        memcpy(&f, &bits, 4);
        return (double)f;
    case MN_I8:
        return (double)((const int8_t *)vector)[i];
    default:
        return ((const uint8_t *)vector)[i / 8] >> (i % 8) & 1;
    }
}

static inline bool brute_valid(const struct brute *b, const void *vector)
{
    double norm = 0;
    for (size_t i = 0; i < b->dim; i++) {
        double x = brute_element(b->dtype, vector, i);
        norm += x * x;
    }
    return norm < (double)FLT_MAX / 4 && (b->metric != MN_COSINE || norm >= (double)FLT_MIN);
}

static inline double brute_distance(const struct brute *b, const void *q, const void *x,
                                    double *slack)
{
    double l2 = 0, dot = 0, sum = 0, nq = 0, nx = 0;
    const double u = 0x1p-24, dim = b->dim;
    bool exact = b->small_integers || b->dtype == MN_I8 || b->dtype == MN_BIT;
    for (size_t i = 0; i < b->dim; i++) {
        double y = brute_element(b->dtype, q, i), z = brute_element(b->dtype, x, i);
        l2 += (y - z) * (y - z);
        dot += y * z;
        sum += fabs(y * z);
        nq += y * y;
        nx += z * z;
    }
    switch (b->metric) {
    case MN_L2:
        *slack = exact ? 0 : (dim + 8) * u * sqrt(l2) + 1e-30;
        return sqrt(l2);
    case MN_IP:
        *slack = exact ? 0 : (dim + 8) * u * sum + 1e-30;
        return -dot;
    case MN_COSINE:
        *slack = 3 * (dim + 16) * u;
        return 1 - dot / sqrt(nq * nx);
    default:
        *slack = 0;
        return l2;
    }
}

static inline void brute_add(struct brute *b, int64_t id, const void *vector)
{
    size_t bytes = mn_vector_bytes(b->dtype, b->dim);
    if (!brute_valid(b, vector)) {
        b->invalid++;
        return;
    }
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->ids = realloc(b->ids, b->cap * sizeof *b->ids);
        b->vectors = realloc(b->vectors, b->cap * bytes);
        CHECK(b->ids && b->vectors);
    }
    b->ids[b->n] = id;
    memcpy(b->vectors + b->n++ * bytes, vector, bytes);
}

/* Reads the rows of `table` through `sql`, in whatever snapshot that is in. Shape, metric and
 * small_integers are the caller's; brute_free() gives the memory back. */
static inline void brute_load(struct brute *b, sqlite3 *sql, const char *table, const char *column)
{
    sqlite3_stmt *st = NULL;
    size_t bytes = mn_vector_bytes(b->dtype, b->dim);
    char *text = sqlite3_mprintf("SELECT id, \"%w\" FROM \"%w\" ORDER BY id", column, table);
    int rc = sqlite3_prepare_v2(sql, text, -1, &st, NULL);
    sqlite3_free(text);
    CHECKF(rc == SQLITE_OK, "%s", sqlite3_errmsg(sql));
    b->n = 0;
    b->invalid = 0;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        int type = sqlite3_column_type(st, 1);
        if (type == SQLITE_BLOB && (size_t)sqlite3_column_bytes(st, 1) == bytes)
            brute_add(b, sqlite3_column_int64(st, 0), sqlite3_column_blob(st, 1));
        else if (type != SQLITE_NULL)
            b->invalid++;
    }
    CHECKF(rc == SQLITE_DONE, "%s", sqlite3_errmsg(sql));
    sqlite3_finalize(st);
}

/* The same of the database at `path`, as a plain client sees it now. */
static inline void brute_load_file(struct brute *b, const char *path, const char *table,
                                   const char *column)
{
    sqlite3 *sql = NULL;
    CHECK(sqlite3_open_v2(path, &sql, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK);
    brute_load(b, sql, table, column);
    sqlite3_close(sql);
}

static inline void brute_free(struct brute *b)
{
    free(b->ids);
    free(b->vectors);
    b->ids = NULL;
    b->vectors = NULL;
    b->n = b->cap = 0;
}

static inline __attribute__((format(printf, 1, 2))) const char *brute_says(const char *format, ...)
{
    static _Thread_local char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return text;
}

/* Hits must be ordered by (distance, id), be kept rows, each once, with the right distances. Marks
 * them in `is_hit`, [b->n]. NULL if so, else what is wrong. */
static inline const char *brute_check_hits(const struct brute *b, const void *q, brute_keep_fn keep,
                                           void *ctx, const mn_hit *hits, size_t found,
                                           bool *is_hit)
{
    size_t bytes = mn_vector_bytes(b->dtype, b->dim);
    for (size_t i = 0; i < found; i++) {
        size_t first = 0, end = b->n;
        double slack;
        while (first < end) {
            size_t mid = (first + end) / 2;
            if (b->ids[mid] < hits[i].id)
                first = mid + 1;
            else
                end = mid;
        }
        if (first == b->n || b->ids[first] != hits[i].id || (keep && !keep(ctx, hits[i].id)))
            return brute_says("hit %zu is id %" PRId64 ", which is no row to be found", i,
                              hits[i].id);
        double want = brute_distance(b, q, b->vectors + first * bytes, &slack);
        if (!(fabs(hits[i].distance - want) <= slack))
            return brute_says("hit %zu, id %" PRId64 ": distance %.17g, want %.17g +- %g", i,
                              hits[i].id, hits[i].distance, want, slack);
        if (i && !(hits[i - 1].distance < hits[i].distance ||
                   (hits[i - 1].distance == hits[i].distance && hits[i - 1].id < hits[i].id)))
            return brute_says("hits %zu and %zu are out of order: ids %" PRId64 ", %" PRId64
                              ", distances %.17g, %.17g",
                              i - 1, i, hits[i - 1].id, hits[i].id, hits[i - 1].distance,
                              hits[i].distance);
        is_hit[first] = true;
    }
    return NULL;
}

/* Compares the answer of a search for the k nearest (k > 0), or within the radius (k == 0), with
 * brute force. NULL if they agree, else what is wrong. keep NULL: all rows. */
static inline const char *brute_compare(const struct brute *b, const void *q, uint32_t k,
                                        double radius, brute_keep_fn keep, void *ctx,
                                        const mn_hit *hits, size_t found)
{
    size_t bytes = mn_vector_bytes(b->dtype, b->dim), kept = 0;
    bool *is_hit = calloc(b->n + 1, sizeof *is_hit);
    CHECK(is_hit);
    const char *wrong = brute_check_hits(b, q, keep, ctx, hits, found, is_hit);
    for (size_t i = 0; i < b->n; i++)
        kept += !keep || keep(ctx, b->ids[i]);
    if (!wrong && k && found != (kept < k ? kept : k))
        wrong = brute_says("%zu hits, want min(k = %u, %zu rows)", found, k, kept);
    double limit = k ? (found ? hits[found - 1].distance : 0) : radius;
    for (size_t i = 0; i < b->n && !wrong; i++) {
        double slack, d = brute_distance(b, q, b->vectors + i * bytes, &slack);
        bool in = is_hit[i];
        if (keep && !keep(ctx, b->ids[i]))
            continue;
        if (!k && in && d > radius + slack)
            wrong = brute_says("id %" PRId64 " at %.17g is beyond the radius %.17g", b->ids[i], d,
                               radius);
        if (!in && (k ? d + slack < limit : d + slack <= limit))
            wrong = brute_says("id %" PRId64 " at %.17g is missing; the last hit is at %.17g",
                               b->ids[i], d, limit);
        if (!in && k && found && slack == 0 && d == limit && b->ids[i] < hits[found - 1].id)
            wrong = brute_says("id %" PRId64 " is missing: it ties with id %" PRId64, b->ids[i],
                               hits[found - 1].id);
    }
    free(is_hit);
    return wrong;
}

#endif
