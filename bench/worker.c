/* The processes that `exact` starts: one system each, answering the commands of
 * bench/peers/driver.h, or one measurement that answers once and ends. */
#include "bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/peers/driver.h"
#include "bench/stream.h"

#define COLLECTION "bench"
#define IMPORT_BATCH 1000u

/* Options of all workers; each uses some. */
struct worker_opts {
    const char *db, *base, *queries, *vec0;
    uint64_t k, threads, memory, bytes;
    mn_metric metric;
    bool from_rows;
};

static bool worker_opts_parse(struct worker_opts *o, int argc, char **argv)
{
    *o = (struct worker_opts){.k = 10, .threads = 1};
    const struct opt opts[] = {
        {"--db", OPT_TEXT, &o->db, 0, 0, "F", "database"},
        {"--base", OPT_TEXT, &o->base, 0, 0, "F", "base, fbin"},
        {"--queries", OPT_TEXT, &o->queries, 0, 0, "F", "queries, fbin"},
        {"--vec0", OPT_TEXT, &o->vec0, 0, 0, "F", "sqlite-vec's library"},
        {"--k", OPT_COUNT, &o->k, 1, MN_MAX_K, "K", "hits"},
        {"--threads", OPT_COUNT, &o->threads, 1, 256, "N", "threads"},
        {"--memory", OPT_SIZE, &o->memory, 0, INT64_MAX, "SIZE", "cap"},
        {"--bytes", OPT_SIZE, &o->bytes, 0, INT64_MAX, "SIZE", "to stream over"},
        {"--metric", OPT_METRIC, &o->metric, 0, 0, "M", "metric"},
        {"--rerank-rows", OPT_FLAG, &o->from_rows, 0, 0, NULL, "exact distances from the rows"},
    };
    return opts_parse("a worker of mneme_bench", opts, sizeof opts / sizeof *opts, argc, argv) ==
           OPTS_GO;
}

/* An open database with its connection. */
struct session {
    mn_db *db;
    mn_conn *conn;
};

static int session_open(struct session *s, const struct worker_opts *o, mn_error *err)
{
    mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND, /* exact search wants no index */
                         .memory_bytes = o->memory,
                         .threads = (uint32_t)o->threads};
    if (mn_open(o->db, &opts, &s->db, err) != MN_OK || mn_connect(s->db, &s->conn, err) != MN_OK)
        return 1;
    return 0;
}

static int session_close(struct session *s, mn_error *err)
{
    mn_disconnect(s->conn);
    s->conn = NULL;
    mn_status st = mn_close(s->db, err);
    s->db = NULL;
    return st == MN_OK ? 0 : 1;
}

/* ---- Mneme ----------------------------------------------------------------------------------- */

struct mneme_system {
    struct session session;
    mn_hit *hits; /* [room] */
    uint32_t *found;
    size_t room; /* queries of a call */
};

static int mneme_search(struct driver *d, const float *queries, size_t nq, int64_t *ids)
{
    struct mneme_system *s = d->ctx;
    mn_search_opts opts = {.recall = 1.0};
    mn_error err;
    if (nq > s->room) {
        free(s->hits);
        free(s->found);
        s->hits = calloc(nq * d->k, sizeof *s->hits);
        s->found = calloc(nq, sizeof *s->found);
        s->room = s->hits && s->found ? nq : 0;
        if (!s->room) {
            snprintf(d->message, sizeof d->message, "no memory for %zu queries", nq);
            return 1;
        }
    }
    if (mn_search(s->session.conn, COLLECTION, queries, nq, d->k, &opts, s->hits, s->found, &err) !=
        MN_OK) {
        snprintf(d->message, sizeof d->message, "%.399s", err.message);
        return 1;
    }
    for (size_t q = 0; q < nq; q++)
        for (uint32_t i = 0; i < d->k; i++)
            ids[q * d->k + i] = i < s->found[q] ? s->hits[q * d->k + i].id : -1;
    return 0;
}

static int worker_mneme(const struct worker_opts *o)
{
    struct mneme_system s = {.room = 0};
    struct driver d = {.search = mneme_search, .ctx = &s, .k = (uint32_t)o->k};
    mn_error err;
    float *queries =
        driver_read_fbin(o->queries, &d.n_queries, &d.dim, d.message, sizeof d.message);
    if (!queries)
        return driver_error(d.message);
    d.queries = queries;
    int rc = session_open(&s.session, o, &err) == 0 ? driver_run(&d) : driver_error(err.message);
    session_close(&s.session, &err);
    free(s.hits);
    free(s.found);
    free(queries);
    return rc;
}

/* Rows of an fbin file into a new collection; ids are the rows' numbers from 0. */
static int import_rows(mn_conn *conn, const float *base, size_t n, uint32_t dim,
                       const struct worker_opts *o, mn_error *err)
{
    static mn_row rows[IMPORT_BATCH];
    mn_collection_opts opts = {
        .dim = dim, .metric = o->metric, .rerank = o->from_rows ? MN_RERANK_ROWS : MN_RERANK_COPY};
    if (mn_create(conn, COLLECTION, &opts, err) != MN_OK)
        return 1;
    for (size_t i = 0; i < n; i += IMPORT_BATCH) {
        size_t now = n - i < IMPORT_BATCH ? n - i : IMPORT_BATCH;
        for (size_t j = 0; j < now; j++)
            rows[j] = (mn_row){.id = (int64_t)(i + j), .vector = base + (i + j) * dim};
        if (mn_put(conn, COLLECTION, rows, now, NULL, err) != MN_OK)
            return 1;
    }
    return 0;
}

static int worker_import(const struct worker_opts *o)
{
    struct session s = {.db = NULL};
    char message[400];
    size_t n = 0;
    uint32_t dim = 0;
    mn_error err;
    float *base = driver_read_fbin(o->base, &n, &dim, message, sizeof message);
    if (!base)
        return driver_error(message);
    double start = driver_wall_us();
    int rc = session_open(&s, o, &err) != 0 || import_rows(s.conn, base, n, dim, o, &err) != 0;
    free(base);
    if (rc != 0) {
        driver_error(err.message);
        session_close(&s, NULL);
        return 1;
    }
    if (session_close(&s, &err) != 0)
        return driver_error(err.message);
    printf("{\"wall_us\": %.0f}\n", driver_wall_us() - start);
    return 0;
}

/* The first search of a process: open, connect, search, each timed. */
static int worker_fresh(const struct worker_opts *o)
{
    struct mneme_system s = {.room = 0};
    struct driver d = {.ctx = &s, .k = (uint32_t)o->k};
    mn_error err;
    int rc = 0;
    float *queries =
        driver_read_fbin(o->queries, &d.n_queries, &d.dim, d.message, sizeof d.message);
    int64_t *ids = calloc(o->k, sizeof *ids);
    if (!queries || !ids)
        return driver_error(queries ? "no memory" : d.message);
    double start = driver_wall_us();
    if (session_open(&s.session, o, &err) != 0)
        return driver_error(err.message);
    double opened = driver_wall_us(), cpu = driver_cpu_us();
    if (mneme_search(&d, queries, 1, ids) != 0)
        rc = driver_error(d.message);
    else
        printf("{\"open_us\": %.1f, \"wall_us\": %.1f, \"cpu_us\": %.1f}\n", opened - start,
               driver_wall_us() - opened, driver_cpu_us() - cpu);
    session_close(&s.session, &err);
    free(s.hits);
    free(s.found);
    free(ids);
    free(queries);
    return rc;
}

/* ---- Plain SQLite ---------------------------------------------------------------------------- */

/* Where the collection's vectors are, asked of Mneme, which is closed again. */
static int where_vectors(const struct worker_opts *o, mn_collection_info *info)
{
    struct session s = {.db = NULL};
    mn_error err;
    int rc = session_open(&s, o, &err) != 0 || mn_info(s.conn, COLLECTION, info, &err) != MN_OK;
    if (rc != 0)
        driver_error(err.message);
    session_close(&s, NULL);
    return rc;
}

/* A stock SQLite connection reads every row's key and vector, as any client would. */
static int worker_scan(const struct worker_opts *o)
{
    mn_collection_info info;
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    char sql[400];
    uint64_t rows = 0, sum = 0;
    int rc = 1;
    if (where_vectors(o, &info) != 0)
        return 1;
    snprintf(sql, sizeof sql, "SELECT rowid, \"%s\" FROM \"%s\"", info.column, info.table);
    double start = 0, cpu = 0;
    if (sqlite3_open_v2(o->db, &db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        goto done;
    start = driver_wall_us();
    cpu = driver_cpu_us();
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const unsigned char *vector = sqlite3_column_blob(stmt, 1);
        int bytes = sqlite3_column_bytes(stmt, 1);
        if (bytes > 0)
            sum += vector[0] + vector[bytes - 1];
        sum += (uint64_t)sqlite3_column_int64(stmt, 0);
        rows++;
    }
done:
    if (rc == SQLITE_DONE)
        printf("{\"wall_us\": %.1f, \"cpu_us\": %.1f, \"rows\": %" PRIu64 ", \"sum\": \"%" PRIu64
               "\"}\n",
               driver_wall_us() - start, driver_cpu_us() - cpu, rows, sum);
    else
        driver_error(db ? sqlite3_errmsg(db) : "SQLite cannot be opened");
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return rc == SQLITE_DONE ? 0 : 1;
}

/* ---- sqlite-vec ------------------------------------------------------------------------------ */

static int vec_open(const struct worker_opts *o, int flags, sqlite3 **db, char *message,
                    size_t room)
{
    char *wrong = NULL;
    if (sqlite3_open_v2(o->db, db, flags, NULL) != SQLITE_OK) {
        snprintf(message, room, "%s: %s", o->db, sqlite3_errmsg(*db));
        return 1;
    }
    sqlite3_db_config(*db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    if (sqlite3_load_extension(*db, o->vec0, "sqlite3_vec_init", &wrong) != SQLITE_OK) {
        snprintf(message, room, "%s: %s", o->vec0, wrong ? wrong : "cannot be loaded");
        sqlite3_free(wrong);
        return 1;
    }
    return 0;
}

static int worker_import_vec(const struct worker_opts *o)
{
    char message[400], sql[200];
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    size_t n = 0;
    uint32_t dim = 0;
    int rc = 1;
    float *base = driver_read_fbin(o->base, &n, &dim, message, sizeof message);
    if (!base)
        return driver_error(message);
    if (vec_open(o, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &db, message, sizeof message) != 0)
        goto done;
    snprintf(sql, sizeof sql,
             "CREATE VIRTUAL TABLE v USING vec0(vector float[%" PRIu32 "] distance_metric=%s)", dim,
             mn_metric_name(o->metric));
    snprintf(message, sizeof message, "sqlite-vec: import failed");
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db, "BEGIN", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(db, "INSERT INTO v(rowid, vector) VALUES(?1, ?2)", -1, &stmt, NULL) !=
            SQLITE_OK)
        goto done;
    for (size_t i = 0; i < n; i++) {
        sqlite3_bind_int64(stmt, 1, (int64_t)i);
        sqlite3_bind_blob(stmt, 2, base + i * dim, (int)(dim * sizeof *base), SQLITE_STATIC);
        if (sqlite3_step(stmt) != SQLITE_DONE || sqlite3_reset(stmt) != SQLITE_OK)
            goto done;
    }
    if (sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK)
        rc = 0;
done:
    if (rc == 0)
        printf("{\"rows\": %zu}\n", n);
    else
        driver_error(message);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    free(base);
    return rc;
}

static int vec_search(struct driver *d, const float *queries, size_t nq, int64_t *ids)
{
    sqlite3_stmt *stmt = d->ctx;
    for (size_t q = 0; q < nq; q++) {
        uint32_t i = 0;
        int rc;
        sqlite3_bind_blob(stmt, 1, queries + q * d->dim, (int)(d->dim * sizeof *queries),
                          SQLITE_STATIC);
        sqlite3_bind_int64(stmt, 2, d->k);
        while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && i < d->k)
            ids[q * d->k + i++] = sqlite3_column_int64(stmt, 0);
        sqlite3_reset(stmt);
        if (rc != SQLITE_DONE) {
            snprintf(d->message, sizeof d->message, "sqlite-vec: %.300s",
                     sqlite3_errmsg(sqlite3_db_handle(stmt)));
            return 1;
        }
        while (i < d->k)
            ids[q * d->k + i++] = -1;
    }
    return 0;
}

static int worker_vec(const struct worker_opts *o)
{
    struct driver d = {.search = vec_search, .k = (uint32_t)o->k};
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    int rc = 1;
    float *queries =
        driver_read_fbin(o->queries, &d.n_queries, &d.dim, d.message, sizeof d.message);
    if (!queries || vec_open(o, SQLITE_OPEN_READONLY, &db, d.message, sizeof d.message) != 0) {
        driver_error(d.message);
        goto done;
    }
    /* The whole database mapped: without it each query copies all chunks through the page cache. */
    sqlite3_exec(db, "PRAGMA mmap_size = 8589934592", NULL, NULL, NULL);
    if (sqlite3_prepare_v2(db, "SELECT rowid, distance FROM v WHERE vector MATCH ?1 AND k = ?2", -1,
                           &stmt, NULL) != SQLITE_OK) {
        driver_error(sqlite3_errmsg(db));
        goto done;
    }
    d.queries = queries;
    d.ctx = stmt;
    rc = driver_run(&d);
done:
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    free(queries);
    return rc;
}

/* ---- The memory itself
 * --------------------------------------------------------------------------- */

struct memory_system {
    void *memory;
    size_t bytes, loop;
    unsigned threads;
};

static int memory_search(struct driver *d, const float *queries, size_t nq, int64_t *ids)
{
    struct memory_system *s = d->ctx;
    (void)queries;
    for (size_t q = 0; q < nq; q++)
        ids[q * d->k] = (int64_t)stream_sum(s->loop, s->memory, s->bytes, s->threads);
    return 0;
}

static int memory_tune(struct driver *d, size_t batch)
{
    struct memory_system *s = d->ctx;
    double best = 0;
    size_t best_loop = 0;
    int64_t id;
    (void)batch;
    for (size_t i = 0; i < 3 * stream_loops(); i++) {
        s->loop = i % stream_loops();
        double start = driver_wall_us();
        memory_search(d, NULL, 1, &id);
        double took = driver_wall_us() - start;
        if (i == 0 || took < best) {
            best = took;
            best_loop = s->loop;
        }
    }
    s->loop = best_loop;
    snprintf(d->setting, sizeof d->setting, "%s", stream_loop_name(best_loop));
    return 0;
}

static int worker_memory(const struct worker_opts *o)
{
    size_t unit = 64 * o->threads;
    struct memory_system s = {.bytes = (size_t)o->bytes / unit * unit,
                              .threads = (unsigned)o->threads};
    const float nothing = 0;
    struct driver d = {.queries = &nothing, .n_queries = 1, .dim = 1, .k = 1, .ctx = &s};
    s.bytes = s.bytes ? s.bytes : unit;
    s.memory = driver_memory(s.bytes);
    if (!s.memory)
        return driver_error("no memory to stream over");
    memset(s.memory, 1, s.bytes);
    d.search = memory_search;
    d.tune = memory_tune;
    int rc = driver_run(&d);
    free(s.memory);
    return rc;
}

int bench_worker(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct worker_opts *o);
    } kinds[] = {
        {"mneme", worker_mneme},   {"import", worker_import},         {"fresh", worker_fresh},
        {"scan", worker_scan},     {"import-vec", worker_import_vec}, {"sqlite-vec", worker_vec},
        {"memory", worker_memory},
    };
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } others[] = {
        {"put", worker_put},     {"single", worker_single},
        {"open", worker_open},   {"under-cap", worker_under_cap},
        {"ann", worker_ann},     {"fold", worker_fold},
        {"truth", worker_truth}, {"churn", worker_churn},
        {"live", worker_live},   {"reopen", worker_reopen},
        {"filter", worker_filter}, {"filter-build", worker_filter_build},
    };
    struct worker_opts o;
    for (size_t i = 0; argc >= 2 && i < sizeof others / sizeof *others; i++)
        if (strcmp(argv[1], others[i].name) == 0)
            return others[i].run(argc - 1, argv + 1);
    for (size_t i = 0; argc >= 2 && i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(argv[1], kinds[i].name) == 0)
            return worker_opts_parse(&o, argc - 1, argv + 1) ? kinds[i].run(&o) : 2;
    return bench_fail("worker: is started by the other subcommands");
}
