/* SQL beside the C API: the same searches by a prepared SELECT, by one that is prepared each time,
 * and by mn_search; and inserts into an indexed table beside the same into a plain one.
 *
 * One process and one database, opened anew after it was filled and folded; passes alternate. CPU
 * is the process's; while rows are inserted nothing is folded: that is counted apart. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/peers/driver.h"
#include "mneme_sql.h"

enum { PATH_ROOM = 4200, K = 10, BATCH = 1000 };

struct sql_run {
    uint64_t rows, passes, batches;
    const char *base_path, *queries_path, *work, *json, *label, *data;
    mn_metric metric;
    char dir[PATH_ROOM], path[PATH_ROOM];
    struct vectors base, queries;
    sqlite3 *db;
    mn_db *mdb;
    mn_conn *conn;
    struct results results;
};

#define SELECT "SELECT id, distance FROM docs WHERE embedding MATCH ?1 AND k = 10"

static int sql_fail_here(struct sql_run *r, const char *what)
{
    return bench_fail("%s: %s", what, sqlite3_errmsg(r->db));
}

static int execute(struct sql_run *r, const char *sql)
{
    return sqlite3_exec(r->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : sql_fail_here(r, sql);
}

static int database_open(struct sql_run *r)
{
    char *message = NULL;
    mn_error err;
    /* Vectors in memory, or the disk would be what is measured. */
    const mn_open_opts opts = {
        .memory_bytes = ((uint64_t)512 << 20) + 2 * (uint64_t)r->base.n * r->base.dim * 4};
    if (sqlite3_open(r->path, &r->db) != SQLITE_OK || sqlite3_busy_timeout(r->db, 60000))
        return sql_fail_here(r, "open");
    if (mn_sql_register(r->db, &message) != SQLITE_OK) {
        bench_fail("%s", message);
        sqlite3_free(message);
        return 1;
    }
    if (mn_open(r->path, &opts, &r->mdb, &err) || mn_connect(r->mdb, &r->conn, &err))
        return bench_fail("%s", err.message);
    return 0;
}

static void database_close(struct sql_run *r)
{
    mn_disconnect(r->conn);
    sqlite3_close(r->db);
    if (r->mdb)
        mn_close(r->mdb, NULL);
    r->conn = NULL;
    r->mdb = NULL;
    r->db = NULL;
}

/* ---- Inserts --------------------------------------------------------------------------------- */

/* One transaction of rows [first, first + BATCH) of the base; *cpu_us takes the thread's time. */
static int insert_batch(struct sql_run *r, sqlite3_stmt *st, size_t first, double *cpu_us)
{
    size_t bytes = r->base.dim * sizeof(float);
    double start = driver_cpu_us();
    if (execute(r, "BEGIN") != 0)
        return 1;
    for (size_t i = 0; i < BATCH; i++) {
        size_t row = (first + i) % r->base.n;
        sqlite3_bind_int64(st, 1, (sqlite3_int64)(first + i + 1));
        sqlite3_bind_int64(st, 2, (sqlite3_int64)(row % 100));
        sqlite3_bind_blob(st, 3, r->base.rows + row * r->base.dim, (int)bytes, SQLITE_STATIC);
        if (sqlite3_step(st) != SQLITE_DONE)
            return sql_fail_here(r, "insert");
        sqlite3_reset(st);
    }
    if (execute(r, "COMMIT") != 0)
        return 1;
    *cpu_us = driver_cpu_us() - start;
    return 0;
}

static int insert_measure(struct sql_run *r)
{
    static const char *const tables[] = {"plain", "indexed"};
    struct figure cpu[2] = {{.n = 0}, {.n = 0}};
    sqlite3_stmt *st[2] = {NULL, NULL};
    double us, fold = 0;
    char sql[200];
    int rc = 0;
    mn_pause(r->mdb, true); /* the fold's cost is told apart from the insert's */
    for (int t = 0; t < 2 && rc == 0; t++) {
        snprintf(sql, sizeof sql,
                 "CREATE TABLE %s(id INTEGER PRIMARY KEY, year INTEGER, embedding BLOB)",
                 tables[t]);
        rc = execute(r, sql);
    }
    snprintf(sql, sizeof sql,
             "SELECT mneme_index('indexed', 'embedding', 'dim=%u metric=%s "
             "filter=year')",
             r->base.dim, mn_metric_name(r->metric));
    rc = rc ? rc : execute(r, sql);
    for (int t = 0; t < 2 && rc == 0; t++) {
        snprintf(sql, sizeof sql, "INSERT INTO %s VALUES (?1, ?2, ?3)", tables[t]);
        if (sqlite3_prepare_v2(r->db, sql, -1, &st[t], NULL) != SQLITE_OK)
            rc = sql_fail_here(r, sql);
    }
    for (uint64_t b = 0; b < r->batches && rc == 0; b++)
        for (int t = 0; t < 2 && rc == 0; t++) {
            int which = (int)((b + (uint64_t)t) % 2); /* either goes first every other time */
            rc = insert_batch(r, st[which], b * BATCH, &us);
            if (rc == 0 && b > 0 && cpu[which].n < MAX_PASSES) /* the first one warms up */
                figure_add(&cpu[which], us / BATCH);
        }
    sqlite3_finalize(st[0]);
    sqlite3_finalize(st[1]);
    mn_pause(r->mdb, false);
    if (rc == 0) {
        mn_error err;
        fold = driver_cpu_us();
        if (mn_fold(r->conn, "indexed", &err))
            return bench_fail("%s", err.message);
        fold = (driver_cpu_us() - fold) / (double)(r->batches * BATCH);
    }
    if (rc)
        return rc;
    double ratio = figure_median(&cpu[1]) / figure_median(&cpu[0]);
    printf("insert    plain %.2f us a row, indexed %.2f (%.2fx); its fold %.2f us a row\n",
           figure_median(&cpu[0]), figure_median(&cpu[1]), ratio, fold);
    json_t *line = json_pack("{s:s, s:s, s:I, s:I}", "bench", "sql", "case", "insert", "dim",
                             (json_int_t)r->base.dim, "batch", (json_int_t)BATCH);
    json_put_figure(line, "plain_cpu_us_per_row", &cpu[0]);
    json_put_figure(line, "indexed_cpu_us_per_row", &cpu[1]);
    json_put_number(line, "ratio", ratio);
    json_put_number(line, "fold_cpu_us_per_row", fold);
    return results_line(&r->results, line);
}

/* ---- Searches -------------------------------------------------------------------------------- */

static int docs_fill(struct sql_run *r)
{
    char sql[200];
    sqlite3_stmt *st = NULL;
    double us;
    int rc = 0;
    snprintf(
        sql, sizeof sql,
        "CREATE VIRTUAL TABLE docs USING mneme(id INTEGER PRIMARY KEY, year INTEGER, embedding "
        "float[%u] metric=%s)",
        r->base.dim, mn_metric_name(r->metric));
    if (execute(r, sql) != 0)
        return 1;
    if (sqlite3_prepare_v2(r->db, "INSERT INTO docs(id, year, embedding) VALUES (?1, ?2, ?3)", -1,
                           &st, NULL) != SQLITE_OK)
        return sql_fail_here(r, "insert");
    for (size_t first = 0; first + BATCH <= r->rows && rc == 0; first += BATCH)
        rc = insert_batch(r, st, first, &us);
    sqlite3_finalize(st);
    return rc ? rc : execute(r, "SELECT mneme_fold('docs')");
}

static int step_all(struct sql_run *r, sqlite3_stmt *st, const float *query, int64_t *sum)
{
    int rc;
    sqlite3_bind_blob(st, 1, query, (int)(r->queries.dim * sizeof *query), SQLITE_STATIC);
    while ((rc = sqlite3_step(st)) == SQLITE_ROW)
        *sum += sqlite3_column_int64(st, 0) + (sqlite3_column_double(st, 1) < 0);
    sqlite3_reset(st);
    return rc == SQLITE_DONE ? 0 : sql_fail_here(r, SELECT);
}

enum way { BY_C, BY_PREPARED, BY_SQL, WAYS };

static int search_all(struct sql_run *r, enum way way, sqlite3_stmt *prepared, struct figure *out,
                      int64_t *sum)
{
    mn_hit hits[K];
    uint32_t found;
    mn_error err;
    int rc = 0;
    *sum = 0;
    double start = driver_cpu_us();
    for (size_t q = 0; q < r->queries.n && rc == 0; q++) {
        const float *query = r->queries.rows + q * r->queries.dim;
        sqlite3_stmt *st = prepared;
        if (way == BY_C) {
            if (mn_search(r->conn, "docs", query, 1, K, NULL, hits, &found, &err))
                return bench_fail("%s", err.message);
            for (uint32_t i = 0; i < found; i++)
                *sum += hits[i].id;
            continue;
        }
        if (way == BY_SQL && sqlite3_prepare_v2(r->db, SELECT, -1, &st, NULL) != SQLITE_OK)
            return sql_fail_here(r, SELECT);
        rc = step_all(r, st, query, sum);
        if (way == BY_SQL)
            sqlite3_finalize(st);
    }
    figure_add(out, (driver_cpu_us() - start) / (double)r->queries.n);
    return rc;
}

static int search_measure(struct sql_run *r)
{
    struct figure cpu[WAYS] = {{.n = 0}, {.n = 0}, {.n = 0}};
    struct figure warm_up = {.n = 0};
    sqlite3_stmt *st = NULL;
    int64_t sum[WAYS];
    int rc = 0;
    if (sqlite3_prepare_v2(r->db, SELECT, -1, &st, NULL) != SQLITE_OK)
        return sql_fail_here(r, SELECT);
    for (uint64_t pass = 0; pass <= r->passes && rc == 0; pass++)
        for (int i = 0; i < WAYS && rc == 0; i++) {
            int way = (int)((pass + (uint64_t)i) % WAYS);
            rc = search_all(r, (enum way)way, st, pass ? &cpu[way] : &warm_up, &sum[way]);
        }
    sqlite3_finalize(st);
    if (rc == 0 && (sum[BY_C] != sum[BY_PREPARED] || sum[BY_C] != sum[BY_SQL]))
        rc = bench_fail("SQL and the C API found different rows");
    if (rc)
        return rc;
    double c = figure_median(&cpu[BY_C]), prepared = figure_median(&cpu[BY_PREPARED]) - c,
           whole = figure_median(&cpu[BY_SQL]) - c;
    printf(
        "search    mn_search %.1f us of CPU; prepared SELECT %.1f us more, with its prepare %.1f "
        "us more\n",
        c, prepared, whole);
    json_t *line = json_pack("{s:s, s:s, s:I, s:I, s:s, s:I}", "bench", "sql", "case", "search",
                             "n", (json_int_t)r->rows, "dim", (json_int_t)r->base.dim, "metric",
                             mn_metric_name(r->metric), "k", (json_int_t)K);
    json_put_figure(line, "c_cpu_us_per_query", &cpu[BY_C]);
    json_put_figure(line, "prepared_cpu_us_per_query", &cpu[BY_PREPARED]);
    json_put_figure(line, "sql_cpu_us_per_query", &cpu[BY_SQL]);
    json_put_number(line, "prepared_over_c_us", prepared);
    json_put_number(line, "sql_over_c_us", whole);
    return results_line(&r->results, line);
}

/* ---- All of it ------------------------------------------------------------------------------- */

static int sql_measure(struct sql_run *r)
{
    if (vectors_read(&r->base, r->base_path) || vectors_read(&r->queries, r->queries_path))
        return 1;
    if (r->base.dim != r->queries.dim)
        return bench_fail("%s has dimension %u, %s %u", r->base_path, r->base.dim, r->queries_path,
                          r->queries.dim);
    if (!r->rows || r->rows > r->base.n)
        r->rows = r->base.n;
    r->rows -= r->rows % BATCH;
    if (r->rows == 0)
        return bench_fail("%s has fewer than %d rows", r->base_path, BATCH);
    if (work_open(r->work, r->dir, sizeof r->dir - 16) != 0)
        return 1;
    snprintf(r->path, sizeof r->path, "%.4100s/sql.db", r->dir);
    if (database_open(r) || docs_fill(r))
        return 1;
    database_close(r);
    return database_open(r) || search_measure(r) || insert_measure(r);
}

int bench_sql(int argc, char **argv)
{
    struct sql_run r = {.passes = 5, .batches = 21};
    const struct opt opts[] = {
        {"--base", OPT_TEXT, &r.base_path, 0, 0, "FILE!", "the rows"},
        {"--queries", OPT_TEXT, &r.queries_path, 0, 0, "FILE!", "the queries"},
        {"--metric", OPT_METRIC, &r.metric, 0, 0, "M", "l2 (default), ip or cosine"},
        {"--rows", OPT_COUNT, &r.rows, 1, INT32_MAX, "N", "rows searched (default: all)"},
        {"--passes", OPT_COUNT, &r.passes, 1, MAX_PASSES, "N", "over the queries, each way"},
        {"--batches", OPT_COUNT, &r.batches, 2, MAX_PASSES, "N",
         "transactions of 1,000 inserts into each table"},
        {"--work", OPT_TEXT, &r.work, 0, 0, "DIR", "where the database lies (default: TMPDIR)"},
        {"--data", OPT_TEXT, &r.data, 0, 0, "TEXT",
         "put into each line: where the vectors come "
         "from"},
        {"--json", OPT_TEXT, &r.json, 0, 0, "OUT", "takes the results, one JSON object a line"},
        {"--label", OPT_TEXT, &r.label, 0, 0, "TEXT", "put into each line"},
    };
    enum opts_result parsed =
        opts_parse("usage: mneme_bench sql --base FILE --queries FILE [OPTION]...\n\n"
                   "Measures what SQL costs over the C API for the same search, and inserts into\n"
                   "an indexed table beside the same into a plain one.\n",
                   opts, sizeof opts / sizeof *opts, argc, argv);
    if (parsed != OPTS_GO)
        return opts_exit(parsed);
    r.results.data = r.data;
    int rc = results_open(&r.results, r.json, r.label, argc, argv) || sql_measure(&r);
    database_close(&r);
    vectors_fini(&r.base);
    vectors_fini(&r.queries);
    work_close(r.dir);
    return results_close(&r.results) || rc;
}
