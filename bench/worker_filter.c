/* The processes that `filter` starts for Mneme: one builds the collection with its attributes, one
 * searches it under conditions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/filter.h"
#include "bench/peers/driver.h"

#define COLLECTION "bench"

enum { BATCH = 1000 };

struct filter_worker_opts {
    const char *db, *base, *queries, *attributes;
    mn_metric metric;
    uint64_t k, memory, threads;
};

static bool parse(struct filter_worker_opts *o, int argc, char **argv)
{
    *o = (struct filter_worker_opts){.k = 10, .threads = 1};
    const struct opt opts[] = {
        {"--db", OPT_TEXT, &o->db, 0, 0, "F!", "database"},
        {"--base", OPT_TEXT, &o->base, 0, 0, "F", "base, fbin"},
        {"--attributes", OPT_TEXT, &o->attributes, 0, 0, "F", "of the base's rows, f64"},
        {"--queries", OPT_TEXT, &o->queries, 0, 0, "F", "queries, fbin"},
        {"--metric", OPT_METRIC, &o->metric, 0, 0, "M", "metric"},
        {"--k", OPT_COUNT, &o->k, 1, MN_MAX_K, "K", "hits"},
        {"--threads", OPT_COUNT, &o->threads, 1, 256, "N", "threads"},
        {"--memory", OPT_SIZE, &o->memory, 0, INT64_MAX, "SIZE", "cap"},
    };
    return opts_parse("a worker of mneme_bench", opts, sizeof opts / sizeof *opts, argc, argv) ==
           OPTS_GO;
}

/* ---- Building -------------------------------------------------------------------------------- */

static int put_all(mn_conn *conn, const float *base, const double *values, size_t n, uint32_t dim,
                   mn_error *err)
{
    static mn_row rows[BATCH];
    static mn_attr attrs[BATCH][FILTER_COLUMNS];
    for (size_t i = 0; i < n; i += BATCH) {
        size_t now = n - i < BATCH ? n - i : BATCH;
        for (size_t j = 0; j < now; j++) {
            for (size_t c = 0; c < FILTER_COLUMNS; c++)
                attrs[j][c] = (mn_attr){filter_columns[c],
                                        {.type = MN_REAL,
                                         .real = values[(i + j) * FILTER_COLUMNS + c]}};
            rows[j] = (mn_row){.id = (int64_t)(i + j), .vector = base + (i + j) * dim,
                               .attrs = attrs[j], .n_attrs = FILTER_COLUMNS};
        }
        if (mn_put(conn, COLLECTION, rows, now, NULL, err) != MN_OK)
            return 1;
    }
    return 0;
}

int worker_filter_build(int argc, char **argv)
{
    struct filter_worker_opts o;
    char message[400] = "";
    size_t n = 0;
    uint32_t dim = 0;
    mn_db *db = NULL;
    mn_conn *conn = NULL;
    mn_error err = {0};
    int rc = 1;
    if (!parse(&o, argc, argv))
        return 2;
    double wall = driver_wall_us(), cpu = driver_cpu_us();
    float *base = driver_read_fbin(o.base ? o.base : "", &n, &dim, message, sizeof message);
    double *values = base ? filter_values_read(o.attributes, n) : NULL;
    const mn_collection_opts opts = {.dim = dim, .metric = o.metric, .attributes = filter_columns,
                                     .n_attributes = FILTER_COLUMNS};
    const mn_open_opts open = {.flags = MN_OPEN_NO_BACKGROUND, .durability = MN_RELAXED,
                               .memory_bytes = o.memory, .threads = (uint32_t)o.threads};
    if (!base || !values)
        driver_error(base ? "no attributes" : message);
    else if (mn_open(o.db, &open, &db, &err) || mn_connect(db, &conn, &err) ||
             mn_create(conn, COLLECTION, &opts, &err) ||
             put_all(conn, base, values, n, dim, &err) != 0 || mn_fold(conn, COLLECTION, &err))
        driver_error(err.message);
    else
        rc = 0;
    mn_disconnect(conn);
    if (mn_close(db, &err) && rc == 0)
        rc = driver_error(err.message);
    free(base);
    free(values);
    if (rc == 0)
        printf("{\"wall_us\": %.0f, \"cpu_us\": %.0f}\n", driver_wall_us() - wall,
               driver_cpu_us() - cpu);
    return rc;
}

/* ---- Searching ------------------------------------------------------------------------------- */

struct system {
    mn_db *db;
    mn_conn *conn;
    mn_hit hits[FILTER_MAX_K];
    double recall;
    struct filter_ranges ranges; /* n 0: no conditions */
    uint64_t plans[MN_PLAN_POST + 1];
    double matches;
};

static int search(struct driver *d, const float *queries, size_t nq, int64_t *ids)
{
    struct system *s = d->ctx;
    mn_search_stats stats = {.reads = 0};
    mn_error err;
    for (size_t q = 0; q < nq; q++) {
        size_t number = (size_t)(queries - d->queries) / d->dim + q;
        mn_value values[2] = {{.type = MN_REAL}, {.type = MN_REAL}};
        const char *column = filter_columns[s->ranges.column];
        const mn_condition where[2] = {{column, MN_OP_GE, &values[0], 1},
                                       {column, MN_OP_LT, &values[1], 1}};
        mn_search_opts opts = {.recall = s->recall, .stats = &stats, .where = where,
                               .n_where = s->ranges.n ? 2 : 0};
        uint32_t found;
        if (s->ranges.n) {
            values[0].real = s->ranges.bounds[2 * number];
            values[1].real = s->ranges.bounds[2 * number + 1];
        }
        if (mn_search(s->conn, COLLECTION, queries + q * d->dim, 1, d->k, &opts, s->hits, &found,
                      &err) != MN_OK) {
            snprintf(d->message, sizeof d->message, "%.399s", err.message);
            return 1;
        }
        d->reads += stats.reads;
        s->plans[stats.plan]++;
        s->matches += (double)stats.matches;
        for (uint32_t i = 0; i < d->k; i++)
            ids[q * d->k + i] = i < found ? s->hits[i].id : -1;
    }
    return 0;
}

/* "recall=0.95", "ranges=FILE" or "ranges=" for none. */
static int set(struct driver *d, const char *text)
{
    struct system *s = d->ctx;
    char *end;
    snprintf(d->setting, sizeof d->setting, "%.100s", text);
    if (strncmp(text, "recall=", 7) == 0) {
        s->recall = strtod(text + 7, &end);
        if (*end == 0 && s->recall >= 0.5 && s->recall <= 1)
            return 0;
    } else if (strncmp(text, "ranges=", 7) == 0) {
        filter_ranges_fini(&s->ranges);
        if (!text[7] || filter_ranges_read(&s->ranges, text + 7, d->n_queries) == 0)
            return 0;
    }
    snprintf(d->message, sizeof d->message, "'%.100s' is no setting", text);
    return 1;
}

/* Not a setting to be tried, but the plans since it was asked last: "probe 180 matches 20". */
static int tell_plans(struct driver *d, size_t batch)
{
    struct system *s = d->ctx;
    uint64_t most = 0;
    (void)batch;
    snprintf(d->setting, sizeof d->setting, "none");
    for (int p = 0; p <= MN_PLAN_POST; p++)
        if (s->plans[p] > most) {
            most = s->plans[p];
            snprintf(d->setting, sizeof d->setting, "%s", mn_plan_name((mn_plan)p));
        }
    memset(s->plans, 0, sizeof s->plans);
    return 0;
}

int worker_filter(int argc, char **argv)
{
    struct filter_worker_opts o;
    static struct system s = {.recall = 0.95};
    struct driver d = {.search = search, .set = set, .tune = tell_plans, .ctx = &s};
    mn_error err;
    int rc = 1;
    if (!parse(&o, argc, argv))
        return 2;
    d.k = (uint32_t)(o.k < FILTER_MAX_K ? o.k : FILTER_MAX_K);
    float *queries = driver_read_fbin(o.queries ? o.queries : "", &d.n_queries, &d.dim, d.message,
                                      sizeof d.message);
    if (!queries)
        return driver_error(d.message);
    d.queries = queries;
    const mn_open_opts open = {.flags = MN_OPEN_MUST_EXIST | MN_OPEN_NO_BACKGROUND,
                               .memory_bytes = o.memory};
    if (mn_open(o.db, &open, &s.db, &err) || mn_connect(s.db, &s.conn, &err))
        driver_error(err.message);
    else
        rc = driver_run(&d);
    filter_ranges_fini(&s.ranges);
    mn_disconnect(s.conn);
    mn_close(s.db, NULL);
    free(queries);
    return rc;
}
