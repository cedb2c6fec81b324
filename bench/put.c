/* Writing: bulk import, single puts beside plain SQLite, and what the written database costs to
 * keep, to open and to search under a memory cap.
 *
 * Bulk: a new process makes a database and puts n rows in durable transactions of --batch rows.
 * CPU is that of the puts, the close with its checkpoint included; making up the vectors is not.
 * Bytes written are what the process handed to write(2) and its kin (wchar of /proc/self/io): log,
 * database and checkpoint. The device may see fewer; write_bytes is there for comparison.
 *
 * Single: one process, two databases in one folder, puts in alternating pairs: one row by mn_put,
 * one row by a prepared INSERT of the same columns into a plain SQLite table of the same page size
 * (WAL, synchronous=FULL). Either goes first every other time. */
#include "bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/peers/driver.h"

#define COLLECTION "bench"
#define PATH_ROOM 4200

struct put_opts {
    uint64_t n, dim, batch, memory, passes, seed;
    const char *work, *json, *label;
    mn_dtype dtype;
    bool text_ids, single;
    const char *db, *plain; /* of the workers */
};

static enum opts_result put_opts_parse(struct put_opts *o, int argc, char **argv)
{
    *o = (struct put_opts){.n = 100000, .dim = 128, .batch = 1000, .passes = 1, .seed = 1};
    const struct opt opts[] = {
        {"--n", OPT_COUNT, &o->n, 1, INT32_MAX, "N", "rows; with --single: pairs of puts"},
        {"--dim", OPT_COUNT, &o->dim, 1, MN_MAX_DIM, "D", "elements of a vector"},
        {"--dtype", OPT_DTYPE, &o->dtype, 0, 0, "T", "f32 (default), f16, bf16 or i8"},
        {"--batch", OPT_COUNT, &o->batch, 1, 1000000, "N", "rows of a transaction"},
        {"--text-ids", OPT_FLAG, &o->text_ids, 0, 0, NULL, "ids are texts of 13 bytes"},
        {"--single", OPT_FLAG, &o->single, 0, 0, NULL, "one row a transaction, beside SQLite"},
        {"--memory", OPT_SIZE, &o->memory, (uint64_t)4 << 20, INT64_MAX, "SIZE",
         "cap (default: the library's, 256 MiB)"},
        {"--passes", OPT_COUNT, &o->passes, 1, MAX_PASSES, "N", "imports, each of a new database"},
        {"--seed", OPT_COUNT, &o->seed, 0, INT64_MAX, "S", "of the vectors"},
        {"--timeout", OPT_COUNT, &worker_timeout_s, 1, 86400, "S", "seconds for one import"},
        {"--work", OPT_TEXT, &o->work, 0, 0, "DIR", "where databases lie (default: TMPDIR)"},
        {"--json", OPT_TEXT, &o->json, 0, 0, "OUT", "takes the results, one JSON object a line"},
        {"--label", OPT_TEXT, &o->label, 0, 0, "TEXT", "put into each line"},
        {"--db", OPT_TEXT, &o->db, 0, 0, NULL, NULL},
        {"--plain", OPT_TEXT, &o->plain, 0, 0, NULL, NULL},
    };
    return opts_parse(
        "usage: mneme_bench put [OPTION]...\n\n"
        "Measures durable import (CPU a row, bytes written, bytes on disk), then the\n"
        "opening of the database and searches under the memory cap, each in a new\n"
        "process. With --single: single-row puts in alternating pairs with the same\n"
        "insert into a plain SQLite table.\n",
        opts, sizeof opts / sizeof *opts, argc, argv);
}

/* ---- In the workers -------------------------------------------------------------------------- */

struct store {
    mn_db *db;
    mn_conn *conn;
};

static int store_open(struct store *s, const char *path, uint64_t memory, mn_error *err)
{
    /* Writing alone is measured: no thread makes an index meanwhile. */
    mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND, .memory_bytes = memory};
    return mn_open(path, &opts, &s->db, err) != MN_OK || mn_connect(s->db, &s->conn, err) != MN_OK;
}

static int store_close(struct store *s, mn_error *err)
{
    mn_disconnect(s->conn);
    s->conn = NULL;
    mn_status st = mn_close(s->db, err);
    s->db = NULL;
    return st != MN_OK;
}

static int store_create(struct store *s, const struct put_opts *o, mn_error *err)
{
    mn_collection_opts opts = {.dim = (uint32_t)o->dim,
                               .dtype = o->dtype,
                               .id_kind = o->text_ids ? MN_ID_TEXT : MN_ID_INTEGER};
    return mn_create(s->conn, COLLECTION, &opts, err) != MN_OK;
}

/* Numbers that no compression likes: uniform, the low bits as random as the high ones. */
static void vector_fill(struct bench_rng *r, mn_dtype dtype, float *out, size_t n)
{
    float scale = dtype == MN_I8 ? 127.0f / 0x1p23f : 1.0f / 0x1p23f;
    for (size_t i = 0; i < n; i++)
        out[i] = (float)((int32_t)(bench_rand(r) >> 40) - (1 << 23)) * scale;
}

/* What this process has written so far; false if /proc does not tell. */
static bool written(uint64_t *by_calls, uint64_t *to_device)
{
    char line[128];
    int got = 0;
    FILE *f = fopen("/proc/self/io", "r");
    *by_calls = *to_device = 0;
    while (f && fgets(line, sizeof line, f)) {
        got += sscanf(line, "wchar: %" SCNu64, by_calls) == 1;
        got += sscanf(line, "write_bytes: %" SCNu64, to_device) == 1;
    }
    if (f)
        fclose(f);
    return got == 2;
}

struct batch {
    mn_row *rows; /* [n] */
    float *vectors;
    char (*ids)[16];
};

static bool batch_init(struct batch *b, const struct put_opts *o)
{
    size_t n = (size_t)o->batch;
    b->rows = calloc(n, sizeof *b->rows);
    b->vectors = calloc(n * o->dim, sizeof *b->vectors);
    b->ids = calloc(n, sizeof *b->ids);
    return b->rows && b->vectors && b->ids;
}

static void batch_fini(struct batch *b)
{
    free(b->rows);
    free(b->vectors);
    free(b->ids);
}

static void batch_fill(struct batch *b, const struct put_opts *o, struct bench_rng *r,
                       uint64_t first, size_t n)
{
    vector_fill(r, o->dtype, b->vectors, n * o->dim);
    for (size_t i = 0; i < n; i++) {
        b->rows[i] = (mn_row){.id = (int64_t)(first + i), .vector = b->vectors + i * o->dim};
        if (o->text_ids) {
            snprintf(b->ids[i], sizeof b->ids[i], "item-%08" PRIu64, (first + i) % 100000000);
            b->rows[i].text_id = b->ids[i];
            b->rows[i].id = 0;
        }
    }
}

static int import(struct store *s, const struct put_opts *o, struct batch *b, double *wall,
                  double *cpu, mn_error *err)
{
    struct bench_rng r = {o->seed};
    mn_put_opts opts = {.from_f32 = o->dtype != MN_F32};
    for (uint64_t i = 0; i < o->n; i += o->batch) {
        size_t n = (size_t)(o->n - i < o->batch ? o->n - i : o->batch);
        batch_fill(b, o, &r, i, n);
        double wall0 = driver_wall_us(), cpu0 = driver_cpu_us();
        if (mn_put(s->conn, COLLECTION, b->rows, n, &opts, err) != MN_OK)
            return 1;
        *wall += driver_wall_us() - wall0;
        *cpu += driver_cpu_us() - cpu0;
    }
    return 0;
}

int worker_put(int argc, char **argv)
{
    struct put_opts o;
    struct store s = {.db = NULL};
    struct batch b = {.rows = NULL};
    uint64_t calls0, calls, device0, device;
    double wall = 0, cpu = 0, wall0, cpu0;
    mn_error err = {.code = MN_OK};
    int rc = 1;
    if (put_opts_parse(&o, argc, argv) != OPTS_GO)
        return 2;
    if (!batch_init(&b, &o)) {
        driver_error("no memory for a batch");
        goto done;
    }
    if (store_open(&s, o.db, o.memory, &err) != 0 || store_create(&s, &o, &err) != 0)
        goto failed;
    bool known = written(&calls0, &device0);
    if (import(&s, &o, &b, &wall, &cpu, &err) != 0)
        goto failed;
    wall0 = driver_wall_us();
    cpu0 = driver_cpu_us();
    if (store_close(&s, &err) != 0)
        goto failed;
    double close_wall = driver_wall_us() - wall0, close_cpu = driver_cpu_us() - cpu0;
    known = written(&calls, &device) && known;
    printf("{\"wall_us\": %.1f, \"cpu_us\": %.1f, \"close_wall_us\": %.1f, \"close_cpu_us\": %.1f, "
           "\"known\": %s, \"wchar\": %" PRIu64 ", \"write_bytes\": %" PRIu64
           ", \"rss_peak_kb\": %" PRIu64 "}\n",
           wall + close_wall, cpu + close_cpu, close_wall, close_cpu, known ? "true" : "false",
           calls - calls0, device - device0, driver_rss_peak_kb());
    rc = 0;
    goto done;
failed:
    driver_error(err.message);
done:
    store_close(&s, NULL);
    batch_fini(&b);
    return rc;
}

int worker_open(int argc, char **argv)
{
    struct put_opts o;
    struct store s = {.db = NULL};
    mn_rows *rows = NULL;
    mn_error err;
    int rc = 0;
    if (put_opts_parse(&o, argc, argv) != OPTS_GO)
        return 2;
    mn_id id = {.id = (int64_t)o.n / 2, .text_id = NULL};
    double start = driver_wall_us(), opened = 0;
    if (store_open(&s, o.db, o.memory, &err) != 0) {
        rc = driver_error(err.message);
        goto done;
    }
    opened = driver_wall_us();
    if (mn_get(s.conn, COLLECTION, &id, 1, &rows, &err) != MN_OK) {
        rc = driver_error(err.message);
        goto done;
    }
    double got = driver_wall_us();
    if (!mn_rows_at(rows, 0))
        rc = driver_error("the opened database lacks a row that was put");
    else
        printf("{\"open_us\": %.1f, \"get_us\": %.1f}\n", opened - start, got - opened);
done:
    mn_rows_free(rows);
    store_close(&s, NULL);
    return rc;
}

/* Searches under the cap, single and batched; says how much memory that took. */
int worker_under_cap(int argc, char **argv)
{
    enum { NQ = 20, K = 10 };
    static mn_hit hits[NQ * K];
    uint32_t found[NQ];
    struct put_opts o;
    struct store s = {.db = NULL};
    mn_search_opts opts = {.from_f32 = true};
    mn_error err;
    int rc = 0;
    if (put_opts_parse(&o, argc, argv) != OPTS_GO)
        return 2;
    opts.from_f32 = o.dtype != MN_F32;
    struct bench_rng r = {o.seed + 1};
    float *queries = calloc(NQ * o.dim, sizeof *queries);
    if (!queries)
        return driver_error("no memory for queries");
    vector_fill(&r, o.dtype, queries, NQ * o.dim);
    double start = driver_wall_us();
    if (store_open(&s, o.db, o.memory, &err) != 0 ||
        mn_search(s.conn, COLLECTION, queries, 1, K, &opts, hits, found, &err) != MN_OK ||
        mn_search(s.conn, COLLECTION, queries, 1, K, &opts, hits, found, &err) != MN_OK ||
        mn_search(s.conn, COLLECTION, queries, NQ, K, &opts, hits, found, &err) != MN_OK)
        rc = driver_error(err.message);
    else
        printf("{\"rss_peak_kb\": %" PRIu64 ", \"wall_us\": %.1f}\n", driver_rss_peak_kb(),
               driver_wall_us() - start);
    store_close(&s, NULL);
    free(queries);
    return rc;
}

/* ---- Single puts ----------------------------------------------------------------------------- */

/* The plain table: the collection's columns by name and type, nothing else. */
struct plain {
    sqlite3 *db;
    sqlite3_stmt *insert;
    int vector_parameter, version_parameter;
    int64_t page_bytes;
};

/* "CREATE TABLE t(...)" and its INSERT from the columns of the collection's table. */
static int plain_sql(const struct put_opts *o, const mn_collection_info *info, struct plain *p,
                     char *create, char *insert, size_t room)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    char sql[300];
    int n = 0;
    size_t c = (size_t)snprintf(create, room, "CREATE TABLE t("),
           i = (size_t)snprintf(insert, room, "INSERT INTO t VALUES(");
    if (sqlite3_open_v2(o->db, &db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK)
        goto done;
    snprintf(sql, sizeof sql,
             "SELECT name, type, pk, (SELECT page_size FROM pragma_page_size) "
             "FROM pragma_table_info('%s')",
             info->table);
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        goto done;
    while (sqlite3_step(stmt) == SQLITE_ROW && c < room - 200 && i < room - 20) {
        const char *name = (const char *)sqlite3_column_text(stmt, 0);
        const char *type = (const char *)sqlite3_column_text(stmt, 1);
        bool key = sqlite3_column_int(stmt, 2) != 0;
        n++;
        c += (size_t)snprintf(create + c, room - c, "%s\"%.128s\" %.20s", n > 1 ? ", " : "", name,
                              key ? "INTEGER PRIMARY KEY" : type);
        i += (size_t)snprintf(insert + i, room - i, "%s?%d", n > 1 ? ", " : "", n);
        if (strcmp(name, info->column) == 0)
            p->vector_parameter = n;
        else if (!key && strstr(name, "version"))
            p->version_parameter = n;
        else if (key && n != 1)
            p->vector_parameter = -1; /* the code below binds the id first */
        p->page_bytes = sqlite3_column_int64(stmt, 3);
    }
    snprintf(create + c, room - c, ")");
    snprintf(insert + i, room - i, ")");
done:
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return n > 1 && p->vector_parameter > 0 ? 0 : 1;
}

static int plain_open(const struct put_opts *o, const mn_collection_info *info, struct plain *p)
{
    char create[4096], insert[4096], pragmas[128];
    if (plain_sql(o, info, p, create, insert, sizeof create) != 0)
        return 1;
    snprintf(pragmas, sizeof pragmas,
             "PRAGMA page_size = %" PRId64 "; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
             p->page_bytes);
    return sqlite3_open(o->plain, &p->db) != SQLITE_OK ||
           sqlite3_exec(p->db, pragmas, NULL, NULL, NULL) != SQLITE_OK ||
           sqlite3_exec(p->db, create, NULL, NULL, NULL) != SQLITE_OK ||
           sqlite3_prepare_v2(p->db, insert, -1, &p->insert, NULL) != SQLITE_OK;
}

static int plain_put(struct plain *p, int64_t id, const void *vector, size_t bytes)
{
    sqlite3_bind_int64(p->insert, 1, id);
    sqlite3_bind_blob(p->insert, p->vector_parameter, vector, (int)bytes, SQLITE_STATIC);
    if (p->version_parameter)
        sqlite3_bind_int64(p->insert, p->version_parameter, id + 1);
    return sqlite3_step(p->insert) != SQLITE_DONE || sqlite3_reset(p->insert) != SQLITE_OK;
}

struct single {
    struct store store;
    struct plain plain;
    double *wall[2], *cpu[2]; /* [n], 0: Mneme, 1: plain SQLite */
};

static double thread_cpu_us(void)
{
    return driver_clock_us(CLOCK_THREAD_CPUTIME_ID);
}

static int single_pairs(struct single *s, const struct put_opts *o, float *vector, mn_error *err)
{
    struct bench_rng r = {o->seed};
    size_t bytes = (size_t)o->dim * sizeof *vector;
    for (uint64_t i = 0; i < o->n; i++) {
        mn_row row = {.id = (int64_t)i, .vector = vector};
        vector_fill(&r, MN_F32, vector, o->dim);
        for (uint64_t turn = 0; turn < 2; turn++) {
            int which = (int)((turn + i) & 1);
            double wall = driver_wall_us(), cpu = thread_cpu_us();
            int rc = which == 0 ? mn_put(s->store.conn, COLLECTION, &row, 1, NULL, err) != MN_OK
                                : plain_put(&s->plain, (int64_t)i, vector, bytes);
            s->cpu[which][i] = thread_cpu_us() - cpu;
            s->wall[which][i] = driver_wall_us() - wall;
            if (rc != 0)
                return which == 0 ? driver_error(err->message)
                                  : driver_error(sqlite3_errmsg(s->plain.db));
        }
    }
    return 0;
}

static double mean_of(const double *values, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    return sum / (double)n;
}

static void single_print(struct single *s, size_t n)
{
    static const char *const names[2] = {"mneme", "sqlite"};
    printf("{");
    for (int i = 0; i < 2; i++) {
        double mean_cpu = mean_of(s->cpu[i], n), mean_wall = mean_of(s->wall[i], n);
        double wall = median_of(s->wall[i], n); /* sorts */
        printf("\"%s_wall_us\": %.3f, \"%s_wall_us_p99\": %.3f, \"%s_wall_us_mean\": %.3f, "
               "\"%s_cpu_us\": %.3f, \"%s_cpu_us_mean\": %.3f, ",
               names[i], wall, names[i], s->wall[i][n * 99 / 100], names[i], mean_wall, names[i],
               median_of(s->cpu[i], n), names[i], mean_cpu);
    }
    printf("\"page_bytes\": %" PRId64 "}\n", s->plain.page_bytes);
}

int worker_single(int argc, char **argv)
{
    struct put_opts o;
    struct single s = {.store = {.db = NULL}};
    mn_collection_info info;
    mn_error err = {.code = MN_OK};
    float *vector = NULL;
    int rc = 1;
    if (put_opts_parse(&o, argc, argv) != OPTS_GO)
        return 2;
    vector = calloc(o.dim, sizeof *vector);
    for (int i = 0; i < 2; i++) {
        s.wall[i] = calloc(o.n, sizeof *s.wall[i]);
        s.cpu[i] = calloc(o.n, sizeof *s.cpu[i]);
        if (!vector || !s.wall[i] || !s.cpu[i]) {
            driver_error("no memory for the times");
            goto done;
        }
    }
    if (store_open(&s.store, o.db, o.memory, &err) != 0 || store_create(&s.store, &o, &err) != 0 ||
        mn_info(s.store.conn, COLLECTION, &info, &err) != MN_OK) {
        driver_error(err.message);
        goto done;
    }
    if (plain_open(&o, &info, &s.plain) != 0) {
        driver_error(s.plain.db ? sqlite3_errmsg(s.plain.db) : "the table has no plain columns");
        goto done;
    }
    if (single_pairs(&s, &o, vector, &err) != 0)
        goto done;
    single_print(&s, (size_t)o.n);
    rc = 0;
done:
    sqlite3_finalize(s.plain.insert);
    sqlite3_close(s.plain.db);
    store_close(&s.store, NULL);
    free(vector);
    for (int i = 0; i < 2; i++) {
        free(s.wall[i]);
        free(s.cpu[i]);
    }
    return rc;
}

/* ---- In the parent
 * ------------------------------------------------------------------------------- */

struct put_run {
    const struct put_opts *o;
    char dir[PATH_ROOM], db[PATH_ROOM], plain[PATH_ROOM];
    char n[24], dim[24], batch[24], seed[24], memory[24];
    struct results results;
};

/* Starts `worker KIND` with the options of this run and takes its answer. */
static json_t *put_worker(const struct put_run *r, const char *kind)
{
    const struct put_opts *o = r->o;
    char *argv[32] = {NULL,
                      "worker",
                      (char *)kind,
                      "--db",
                      (char *)r->db,
                      "--plain",
                      (char *)r->plain,
                      "--n",
                      (char *)r->n,
                      "--dim",
                      (char *)r->dim,
                      "--batch",
                      (char *)r->batch,
                      "--seed",
                      (char *)r->seed,
                      "--dtype",
                      (char *)mn_dtype_name(o->dtype)};
    size_t n = 17;
    if (o->text_ids)
        argv[n++] = "--text-ids";
    if (o->memory) {
        argv[n++] = "--memory";
        argv[n++] = (char *)r->memory;
    }
    return worker_once(kind, argv);
}

static double field(const json_t *answer, const char *name)
{
    return json_number_value(json_object_get(answer, name));
}

static void databases_remove(const struct put_run *r)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal", "-mneme"};
    char path[PATH_ROOM + 16];
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        snprintf(path, sizeof path, "%s%s", r->db, suffixes[i]);
        unlink(path);
    }
}

static json_t *put_line(const struct put_run *r, const char *kase)
{
    const struct put_opts *o = r->o;
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:I, s:s, s:s}", "bench", "put", "case",
                     kase, "system", "mneme", "n", (json_int_t)o->n, "dim", (json_int_t)o->dim,
                     "dtype", mn_dtype_name(o->dtype), "ids", o->text_ids ? "text" : "integer",
                     "batch", (json_int_t)(o->single ? 1 : o->batch), "durability", "full",
                     "filesystem", filesystem_name(r->dir));
}

struct bulk {
    struct figure cpu, wall, rate, bytes, device, open_ms, get_ms;
    double close_cpu, import_rss_mb, search_rss_mb;
    uint64_t db_bytes, wal_bytes;
};

static int bulk_imports(struct put_run *r, struct bulk *b)
{
    char wal[PATH_ROOM + 8];
    double n = (double)r->o->n;
    double vectors = n * (double)mn_vector_bytes(r->o->dtype, (uint32_t)r->o->dim);
    for (uint64_t p = 0; p < r->o->passes; p++) {
        databases_remove(r);
        json_t *answer = put_worker(r, "put");
        if (!answer)
            return 1;
        figure_add(&b->cpu, field(answer, "cpu_us") / n);
        figure_add(&b->wall, field(answer, "wall_us") / n);
        figure_add(&b->rate, n / field(answer, "wall_us") * 1e6);
        if (json_is_true(json_object_get(answer, "known"))) {
            figure_add(&b->bytes, field(answer, "wchar") / vectors);
            figure_add(&b->device, field(answer, "write_bytes") / vectors);
        }
        b->close_cpu = field(answer, "close_cpu_us") / n;
        b->import_rss_mb = field(answer, "rss_peak_kb") / 1024;
        json_decref(answer);
    }
    snprintf(wal, sizeof wal, "%s-wal", r->db);
    b->db_bytes = file_bytes(r->db);
    b->wal_bytes = file_bytes(wal);
    return 0;
}

/* Open times and peak memory of the database that stands there now, in new processes. */
static int bulk_opens(struct put_run *r, struct bulk *b)
{
    json_t *answer;
    for (int p = 0; p < 5; p++) {
        answer = put_worker(r, "open");
        if (!answer)
            return 1;
        figure_add(&b->open_ms, field(answer, "open_us") / 1e3);
        figure_add(&b->get_ms, field(answer, "get_us") / 1e3);
        json_decref(answer);
    }
    answer = put_worker(r, "under-cap");
    if (!answer)
        return 1;
    b->search_rss_mb = field(answer, "rss_peak_kb") / 1024;
    json_decref(answer);
    return 0;
}

static int bulk(struct put_run *r)
{
    struct bulk b = {.close_cpu = 0};
    const struct put_opts *o = r->o;
    double vectors = (double)o->n * (double)mn_vector_bytes(o->dtype, (uint32_t)o->dim);
    double cap_mb = (double)(o->memory ? o->memory : (uint64_t)256 << 20) / 0x1p20;
    double peak = 0;
    if (bulk_imports(r, &b) != 0 || bulk_opens(r, &b) != 0)
        return 1;
    peak = b.import_rss_mb > b.search_rss_mb ? b.import_rss_mb : b.search_rss_mb;
    json_t *line = put_line(r, "bulk");
    json_object_set_new(line, "passes", json_integer((json_int_t)o->passes));
    json_put_figure(line, "cpu_us_per_row", &b.cpu);
    json_put_number(line, "close_cpu_us_per_row", b.close_cpu);
    json_put_figure(line, "wall_us_per_row", &b.wall);
    json_put_figure(line, "rows_per_s", &b.rate);
    if (b.bytes.n) {
        json_put_figure(line, "bytes_written_per_vector_byte", &b.bytes);
        json_put_figure(line, "device_bytes_per_vector_byte", &b.device);
        json_object_set_new(line, "bytes_written_by", json_string("wchar of /proc/self/io"));
    }
    json_object_set_new(line, "db_bytes", json_integer((json_int_t)b.db_bytes));
    json_object_set_new(line, "wal_bytes", json_integer((json_int_t)b.wal_bytes));
    json_put_number(line, "disk_ratio", (double)(b.db_bytes + b.wal_bytes) / vectors);
    json_put_figure(line, "open_ms", &b.open_ms);
    json_put_figure(line, "first_get_ms", &b.get_ms);
    json_put_number(line, "memory_cap_mib", cap_mb);
    json_put_number(line, "import_rss_peak_mib", b.import_rss_mb);
    json_put_number(line, "search_rss_peak_mib", b.search_rss_mb);
    json_put_number(line, "rss_over_cap_mib", peak - cap_mb);
    printf("import  %.2f us CPU a row, %.0f rows/s, %.2f bytes written per vector byte\n",
           figure_median(&b.cpu), figure_median(&b.rate), figure_median(&b.bytes));
    printf("disk    %.3f of the vectors' bytes\n", (double)(b.db_bytes + b.wal_bytes) / vectors);
    printf("open    %.2f ms, the first row after %.2f ms more\n", figure_median(&b.open_ms),
           figure_median(&b.get_ms));
    printf("memory  peak RSS %.0f MiB importing, %.0f MiB searching; cap %.0f MiB\n",
           b.import_rss_mb, b.search_rss_mb, cap_mb);
    return results_line(&r->results, line);
}

static int single(struct put_run *r)
{
    json_t *answer = put_worker(r, "single"), *line;
    if (!answer)
        return 1;
    line = put_line(r, "single");
    json_put_number(line, "wall_ratio",
                    field(answer, "mneme_wall_us") / field(answer, "sqlite_wall_us"));
    json_put_number(line, "cpu_ratio",
                    field(answer, "mneme_cpu_us_mean") / field(answer, "sqlite_cpu_us_mean"));
    json_put_number(line, "cpu_ratio_of_medians",
                    field(answer, "mneme_cpu_us") / field(answer, "sqlite_cpu_us"));
    printf("single  wall %.1f us against %.1f us of plain SQLite (medians): %.2fx\n",
           field(answer, "mneme_wall_us"), field(answer, "sqlite_wall_us"),
           field(answer, "mneme_wall_us") / field(answer, "sqlite_wall_us"));
    printf("        CPU  %.1f us against %.1f us (means): %.2fx\n",
           field(answer, "mneme_cpu_us_mean"), field(answer, "sqlite_cpu_us_mean"),
           field(answer, "mneme_cpu_us_mean") / field(answer, "sqlite_cpu_us_mean"));
    json_object_update(line, answer);
    json_decref(answer);
    return results_line(&r->results, line);
}

int bench_put(int argc, char **argv)
{
    struct put_opts o;
    struct put_run r = {.o = &o};
    int rc = 1;
    enum opts_result parsed = put_opts_parse(&o, argc, argv);
    if (parsed != OPTS_GO)
        return opts_exit(parsed);
    if (o.single && (o.text_ids || o.dtype != MN_F32)) {
        bench_fail("--single compares f32 rows with integer ids: leave out --text-ids, --dtype");
        return 2;
    }
    if (results_open(&r.results, o.json, o.label, argc, argv) != 0 ||
        work_open(o.work, r.dir, sizeof r.dir - 32) != 0)
        goto done;
    snprintf(r.db, sizeof r.db, "%.4100s/bench.db", r.dir);
    snprintf(r.plain, sizeof r.plain, "%.4100s/plain.db", r.dir);
    snprintf(r.n, sizeof r.n, "%" PRIu64, o.n);
    snprintf(r.dim, sizeof r.dim, "%" PRIu64, o.dim);
    snprintf(r.batch, sizeof r.batch, "%" PRIu64, o.batch < o.n ? o.batch : o.n);
    snprintf(r.seed, sizeof r.seed, "%" PRIu64, o.seed);
    snprintf(r.memory, sizeof r.memory, "%" PRIu64, o.memory);
    rc = o.single ? single(&r) : bulk(&r);
done:
    work_close(r.dir);
    if (results_close(&r.results) != 0)
        rc = 1;
    return rc;
}
