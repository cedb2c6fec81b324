/* A collection in use: three measurements on one database of the base's rows.
 *
 *     search  one searcher, alone for a while, then beside a writer that puts --rate rows a second
 *             in durable batches of --batch; the library's thread folds. p99 of the two in pairs
 *     put     single-row durable puts on a connection, alone, then while another thread runs
 *             mn_fold over 20,000 pending rows
 *     reopen  a new process: open, connect, first answer, with --pending rows not folded */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"
#include "bench/live.h"
#include "bench/peers/driver.h"

enum { PATH_ROOM = 4200, MAX_SAMPLES = 1 << 20, K = 10 };

struct live_opts {
    const char *base, *queries, *work, *json, *label, *db, *data, *cases;
    uint64_t ms, rate, batch, pending, memory, passes, puts, fold_rows;
    mn_metric metric;
};

static enum opts_result parse(struct live_opts *o, int argc, char **argv)
{
    *o = (struct live_opts){.ms = 5000,
                            .rate = 5000,
                            .batch = 100,
                            .pending = 10000,
                            .passes = 3,
                            .puts = 300,
                            .fold_rows = 20000,
                            .cases = "search,put,reopen"};
    const struct opt opts[] = {
        {"--base", OPT_TEXT, &o->base, 0, 0, "F!", "rows; a tenth of them is put meanwhile"},
        {"--queries", OPT_TEXT, &o->queries, 0, 0, "F!", "query vectors"},
        {"--metric", OPT_METRIC, &o->metric, 0, 0, "M", "l2 (default), ip or cosine"},
        {"--cases", OPT_TEXT, &o->cases, 0, 0, "LIST", "what to measure"},
        {"--ms", OPT_COUNT, &o->ms, 1, 600000, "MS", "time of each search part"},
        {"--rate", OPT_COUNT, &o->rate, 1, 1000000, "N", "rows a second that the writer puts"},
        {"--batch", OPT_COUNT, &o->batch, 1, LIVE_BATCH, "N", "rows of its transactions"},
        {"--puts", OPT_COUNT, &o->puts, 1, 100000, "N",
         "single puts timed alone, and while folding"},
        {"--fold-rows", OPT_COUNT, &o->fold_rows, 1, 1000000, "N", "pending rows of each fold"},
        {"--pending", OPT_COUNT, &o->pending, 0, INT32_MAX, "N",
         "rows not folded at the reopening"},
        {"--memory", OPT_SIZE, &o->memory, (uint64_t)4 << 20, INT64_MAX, "SIZE",
         "Mneme's cap (default: the library's, 256 MiB)"},
        {"--passes", OPT_COUNT, &o->passes, 1, MAX_PASSES, "N", "pairs of parts; reopenings"},
        {"--timeout", OPT_COUNT, &worker_timeout_s, 1, 86400, "S", "seconds for one answer"},
        {"--work", OPT_TEXT, &o->work, 0, 0, "DIR", "where the database lies (default: TMPDIR)"},
        {"--json", OPT_TEXT, &o->json, 0, 0, "OUT", "takes the results, one JSON object a line"},
        {"--label", OPT_TEXT, &o->label, 0, 0, "TEXT", "put into each line"},
        {"--data", OPT_TEXT, &o->data, 0, 0, "TEXT", "put into each line: the vectors' origin"},
        {"--db", OPT_TEXT, &o->db, 0, 0, NULL, NULL},
    };
    return opts_parse("usage: mneme_bench live --base F --queries F [OPTION]...\n\n"
                      "Measures a collection in use: search beside a writer, single puts beside a\n"
                      "fold, and the first answer after opening with pending rows.\n",
                      opts, sizeof opts / sizeof *opts, argc, argv);
}

/* ---- In the worker --------------------------------------------------------------------------- */

struct in_use {
    const struct live_opts *o;
    struct live live; /* the writer's */
    float *queries;
    size_t n_queries;
    float *took; /* [MAX_SAMPLES] us */
    size_t n_took;
    size_t first, next; /* rows at the start; the row that is put next */
    size_t put;         /* rows put so far */
    _Atomic bool stop, failed;
};

static bool say_error(const mn_error *err)
{
    driver_error(err->message);
    return false;
}

/* Row `next` and on; after the base's last row it begins anew behind the first ones, which replaces
 * rows put before. */
static bool put_next(struct in_use *u, size_t n)
{
    if (u->next + n > u->live.n)
        u->next = u->first;
    if (u->next + n > u->live.n)
        n = u->live.n - u->next;
    bool good = live_put(&u->live, u->live.conn, u->next, n);
    u->next += n;
    u->put += n;
    return good;
}

/* Searches one after the other for the time given; us of each into u->took, sorted. */
static bool search_for(struct in_use *u, mn_conn *conn, uint64_t ms, size_t *at)
{
    double end = driver_wall_us() + (double)ms * 1e3, now = 0;
    mn_hit hits[K];
    uint32_t found;
    mn_error err;
    u->n_took = 0;
    for (; now < end && u->n_took < MAX_SAMPLES; ++*at) {
        double start = driver_wall_us();
        if (mn_search(conn, LIVE_COLLECTION, u->queries + *at % u->n_queries * u->live.dim, 1, K,
                      NULL, hits, &found, &err) != MN_OK)
            return say_error(&err);
        now = driver_wall_us();
        u->took[u->n_took++] = (float)(now - start);
    }
    qsort(u->took, u->n_took, sizeof *u->took, driver_compare);
    return true;
}

/* Puts batches on the beat of the rate; a batch that comes late is followed at once by the next. */
static void *writer_run(void *arg)
{
    struct in_use *u = arg;
    double start = driver_wall_us();
    for (uint64_t n = 0; !u->stop; n++) {
        double due = start + (double)(n * u->o->batch) / (double)u->o->rate * 1e6;
        double wait = due - driver_wall_us();
        if (wait > 0) {
            struct timespec t = {.tv_sec = (time_t)(wait / 1e6),
                                 .tv_nsec =
                                     (long)((wait - (double)(time_t)(wait / 1e6) * 1e6) * 1e3)};
            nanosleep(&t, NULL);
        }
        if (!put_next(u, (size_t)u->o->batch)) {
            u->failed = true;
            break;
        }
    }
    return NULL;
}

static bool case_search(struct in_use *u)
{
    mn_conn *conn = NULL;
    mn_error err;
    size_t at = 0;
    bool good = true;
    if (mn_connect(u->live.db, &conn, &err) != MN_OK)
        return say_error(&err);
    good = search_for(u, conn, u->o->ms / 4 + 1, &at); /* warm-up */
    for (uint64_t pass = 0; good && pass < u->o->passes; pass++) {
        pthread_t writer;
        size_t before = u->put;
        good = search_for(u, conn, u->o->ms, &at);
        double idle = u->n_took ? (double)u->took[u->n_took * 99 / 100] : 0;
        double idle50 = u->n_took ? (double)u->took[u->n_took / 2] : 0;
        u->stop = false;
        if (!good || pthread_create(&writer, NULL, writer_run, u) != 0)
            break;
        double start = driver_wall_us();
        good = search_for(u, conn, u->o->ms, &at);
        u->stop = true;
        pthread_join(writer, NULL);
        good = good && !u->failed;
        if (good)
            printf("{\"case\": \"search\", \"idle_p50_us\": %.2f, \"idle_p99_us\": %.2f, "
                   "\"p50_us\": %.2f, \"p99_us\": %.2f, \"searches\": %zu, \"rows_per_s\": %.1f}\n",
                   idle50, idle, (double)u->took[u->n_took / 2],
                   (double)u->took[u->n_took * 99 / 100], u->n_took,
                   (double)(u->put - before) / ((driver_wall_us() - start) / 1e6));
        fflush(stdout);
    }
    mn_disconnect(conn);
    return good;
}

struct folder {
    mn_db *db;
    _Atomic bool done;
    mn_status status;
    mn_error err;
};

static void *folder_run(void *arg)
{
    struct folder *f = arg;
    mn_conn *conn = NULL;
    f->status = mn_connect(f->db, &conn, &f->err);
    if (f->status == MN_OK)
        f->status = live_fold_patiently(conn, &f->err);
    mn_disconnect(conn);
    f->done = true;
    return NULL;
}

/* Single puts: `count` of them, or as many as fit while the folder runs. Their times go behind the
 * *n in took. */
static bool single_puts(struct in_use *u, size_t count, struct folder *f, float *took, size_t *n)
{
    for (size_t i = 0; i < count && *n < MAX_SAMPLES && !(f && f->done); i++) {
        double start = driver_wall_us();
        if (!put_next(u, 1))
            return false;
        if (!f || !f->done)
            took[(*n)++] = (float)(driver_wall_us() - start);
    }
    return true;
}

/* Puts the pending rows of one fold, then folds them beside single puts; both their times. */
static bool puts_beside_fold(struct in_use *u)
{
    struct folder f = {.db = u->live.db};
    pthread_t thread;
    for (size_t n = 0; n < u->o->fold_rows; n += LIVE_BATCH)
        if (!put_next(u, LIVE_BATCH))
            return false;
    if (pthread_create(&thread, NULL, folder_run, &f) != 0) {
        driver_error("no thread for the fold");
        return false;
    }
    bool good = single_puts(u, MAX_SAMPLES, &f, u->took, &u->n_took);
    pthread_join(thread, NULL);
    return good && (f.status == MN_OK || say_error(&f.err));
}

/* Alone and beside a fold in turn, so that a disturbance of the disk hits both. */
static bool case_put(struct in_use *u)
{
    size_t n = 0, each = (size_t)u->o->puts / 5 + 1;
    float *alone = malloc(MAX_SAMPLES * sizeof *alone);
    bool good = alone && live_fold(&u->live);
    u->n_took = 0;
    for (int fold = 0; good && fold < 50 && (fold < 5 || u->n_took < u->o->puts); fold++)
        good = single_puts(u, each, NULL, alone, &n) && puts_beside_fold(u);
    if (good && u->n_took == 0) {
        driver_error("put: folds end before a put does: give more --fold-rows");
        good = false;
    }
    if (good) {
        qsort(alone, n, sizeof *alone, driver_compare);
        qsort(u->took, u->n_took, sizeof *u->took, driver_compare);
        printf("{\"case\": \"put\", \"alone_us\": %.2f, \"alone_p99_us\": %.2f, \"folding_us\": "
               "%.2f, \"folding_p99_us\": %.2f, \"puts\": %zu}\n",
               (double)alone[n / 2], (double)alone[n * 99 / 100], (double)u->took[u->n_took / 2],
               (double)u->took[u->n_took * 99 / 100], u->n_took);
        fflush(stdout);
    }
    free(alone);
    return good;
}

/* The database as the search and put cases want it: nine tenths of the base, folded. */
static bool fill(struct in_use *u, uint32_t flags)
{
    const struct live_opts *o = u->o;
    bool good = live_open(&u->live, o->db, o->base, MN_OPEN_NO_BACKGROUND, o->memory);
    u->first = u->next = good ? u->live.n - u->live.n / 10 : 0;
    if (good && file_bytes(o->db) == 0)
        good = live_create(&u->live, o->metric) && live_put(&u->live, u->live.conn, 0, u->first);
    good = good && live_fold(&u->live);
    live_close(&u->live);
    return good && live_open(&u->live, o->db, o->base, flags, o->memory);
}

int worker_live(int argc, char **argv)
{
    struct live_opts o;
    struct in_use u = {.o = &o, .live = {.base = -1}};
    char message[400];
    uint32_t dim = 0;
    bool good = false;
    if (parse(&o, argc, argv) != OPTS_GO)
        return 2;
    bool searching = strcmp(o.cases, "search") == 0, putting = strcmp(o.cases, "put") == 0;
    u.took = malloc(MAX_SAMPLES * sizeof *u.took);
    u.queries = driver_read_fbin(o.queries, &u.n_queries, &dim, message, sizeof message);
    if (!u.took || !u.queries) {
        driver_error(u.took ? message : "no memory for the times");
        goto done;
    }
    if (!fill(&u, searching ? 0 : MN_OPEN_NO_BACKGROUND))
        goto done;
    if (dim != u.live.dim) {
        driver_error("base and queries have different dimensions");
        goto done;
    }
    good = searching ? case_search(&u) : putting ? case_put(&u) : put_next(&u, 0);
    /* Rows that the reopening finds pending. */
    for (uint64_t n = 0; good && !searching && !putting && n < o.pending;) {
        size_t now = (size_t)(o.pending - n < LIVE_BATCH ? o.pending - n : LIVE_BATCH);
        good = put_next(&u, now);
        n += now;
    }
    if (good)
        printf("{\"done\": 1}\n");
done:
    live_close(&u.live);
    free(u.queries);
    free(u.took);
    return good ? 0 : 1;
}

/* One opening by a new process. */
int worker_reopen(int argc, char **argv)
{
    struct live_opts o;
    mn_db *db = NULL;
    mn_conn *conn = NULL;
    mn_hit hits[K];
    mn_index_info info = {.exists = false};
    uint32_t found, dim;
    size_t n;
    char message[400];
    mn_error err;
    int rc = 0;
    if (parse(&o, argc, argv) != OPTS_GO)
        return 2;
    float *queries = driver_read_fbin(o.queries, &n, &dim, message, sizeof message);
    if (!queries)
        return driver_error(message);
    mn_open_opts opts = {.flags = MN_OPEN_MUST_EXIST | MN_OPEN_NO_BACKGROUND,
                         .memory_bytes = o.memory};
    mn_search_stats stats = {.rows_scanned = 0};
    mn_search_opts search = {.stats = &stats};
    double start = driver_wall_us(), opened, first, second;
    if (mn_open(o.db, &opts, &db, &err) != MN_OK || mn_connect(db, &conn, &err) != MN_OK)
        goto failed;
    opened = driver_wall_us();
    if (mn_search(conn, LIVE_COLLECTION, queries, 1, K, &search, hits, &found, &err) != MN_OK)
        goto failed;
    first = driver_wall_us();
    bool from_index = stats.from_index;
    if (mn_search(conn, LIVE_COLLECTION, queries, 1, K, NULL, hits, &found, &err) != MN_OK)
        goto failed;
    second = driver_wall_us();
    if (mn_index_stats(conn, LIVE_COLLECTION, &info, &err) != MN_OK)
        goto failed;
    printf("{\"case\": \"reopen\", \"open_ms\": %.3f, \"first_answer_ms\": %.3f, \"second_ms\": "
           "%.3f, \"pending\": %" PRIu64 ", \"rows\": %" PRIu64 ", \"from_index\": %s}\n",
           (opened - start) / 1e3, (first - start) / 1e3, (second - first) / 1e3, info.pending,
           info.rows, from_index ? "true" : "false");
    goto done;
failed:
    rc = driver_error(err.message);
done:
    mn_disconnect(conn);
    mn_close(db, NULL);
    free(queries);
    return rc;
}

/* ---- In the parent --------------------------------------------------------------------------- */

struct live_run {
    const struct live_opts *o;
    char dir[PATH_ROOM], base[PATH_ROOM], queries[PATH_ROOM], db[PATH_ROOM];
    char numbers[8][24];
    size_t n;
    uint32_t dim;
    struct results results;
};

/* Arguments of `worker KIND` for one case; argv has room for 32. */
static void worker_args(struct live_run *r, const char *kind, const char *kase, char **argv)
{
    const struct live_opts *o = r->o;
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {{"--ms", o->ms},
                   {"--rate", o->rate},
                   {"--batch", o->batch},
                   {"--pending", o->pending},
                   {"--passes", o->passes},
                   {"--puts", o->puts},
                   {"--fold-rows", o->fold_rows},
                   {"--memory", o->memory ? o->memory : 256u << 20}};
    char *head[] = {NULL,
                    "worker",
                    (char *)kind,
                    "--base",
                    r->base,
                    "--queries",
                    r->queries,
                    "--db",
                    r->db,
                    "--cases",
                    (char *)kase,
                    "--metric",
                    (char *)mn_metric_name(o->metric)};
    size_t n = sizeof head / sizeof *head;
    memcpy(argv, head, sizeof head);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(r->numbers[i], sizeof r->numbers[i], "%" PRIu64, numbers[i].value);
        argv[n++] = (char *)numbers[i].name;
        argv[n++] = r->numbers[i];
    }
    argv[n] = NULL;
}

static void take(struct figure *f, const json_t *answer, const char *name)
{
    figure_add(f, json_number_value(json_object_get(answer, name)));
}

static json_t *line_of_case(const struct live_run *r, const char *kase)
{
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s}", "bench", "live", "case", kase, "system",
                     "mneme", "n", (json_int_t)r->n, "dim", (json_int_t)r->dim, "metric",
                     mn_metric_name(r->o->metric), "filesystem", filesystem_name(r->dir));
}

/* Runs one case's worker to its end; its answers' figures by name. */
static int case_run(struct live_run *r, const char *kase, const char *const *names,
                    struct figure *figures)
{
    char *argv[40];
    struct worker w;
    json_t *answer;
    int rc = 1;
    worker_args(r, "live", kase, argv);
    if (worker_start(&w, kase, 1, argv) != 0)
        return 1;
    while ((answer = worker_answer(&w))) {
        bool done = json_object_get(answer, "done") != NULL;
        for (size_t i = 0; !done && names && names[i]; i++)
            take(&figures[i], answer, names[i]);
        json_decref(answer);
        if (done) {
            rc = 0;
            break;
        }
    }
    worker_kill(&w);
    return rc;
}

static int search_report(struct live_run *r)
{
    static const char *const names[] = {"idle_p50_us", "idle_p99_us", "p50_us",
                                        "p99_us",      "rows_per_s",  NULL};
    struct figure figures[5] = {{.n = 0}}, ratio = {.n = 0};
    if (case_run(r, "search", names, figures) != 0)
        return 1;
    for (size_t i = 0; i < figures[1].n; i++)
        figure_add(&ratio, figures[3].values[i] / figures[1].values[i]);
    json_t *line = line_of_case(r, "search");
    for (size_t i = 0; names[i]; i++)
        json_put_figure(line, names[i], &figures[i]);
    json_put_figure(line, "p99_ratio", &ratio);
    json_object_set_new(line, "rate", json_integer((json_int_t)r->o->rate));
    json_object_set_new(line, "batch", json_integer((json_int_t)r->o->batch));
    printf("search  p99 %.0f us idle, %.0f us beside %.0f rows a second: %.2fx\n",
           figure_median(&figures[1]), figure_median(&figures[3]), figure_median(&figures[4]),
           figure_median(&ratio));
    fflush(stdout);
    return results_line(&r->results, line);
}

static int put_report(struct live_run *r)
{
    static const char *const names[] = {"alone_us",       "alone_p99_us", "folding_us",
                                        "folding_p99_us", "puts",         NULL};
    struct figure figures[5] = {{.n = 0}};
    if (case_run(r, "put", names, figures) != 0)
        return 1;
    double ratio = figure_median(&figures[2]) / figure_median(&figures[0]);
    json_t *line = line_of_case(r, "put");
    for (size_t i = 0; names[i]; i++)
        json_put_number(line, names[i], figure_median(&figures[i]));
    json_put_number(line, "folding_ratio", ratio);
    printf("put     %.0f us alone, %.0f us while folding (%.0f puts): %.2fx\n",
           figure_median(&figures[0]), figure_median(&figures[2]), figure_median(&figures[4]),
           ratio);
    fflush(stdout);
    return results_line(&r->results, line);
}

static int reopen_report(struct live_run *r)
{
    struct figure opened = {.n = 0}, first = {.n = 0}, second = {.n = 0}, pending = {.n = 0};
    char *argv[40];
    bool indexed = false;
    if (case_run(r, "fill", NULL, NULL) != 0)
        return 1;
    for (uint64_t pass = 0; pass < r->o->passes; pass++) {
        worker_args(r, "reopen", "reopen", argv);
        json_t *answer = worker_once("reopen", argv);
        if (!answer)
            return 1;
        take(&opened, answer, "open_ms");
        take(&first, answer, "first_answer_ms");
        take(&second, answer, "second_ms");
        take(&pending, answer, "pending");
        indexed = json_is_true(json_object_get(answer, "from_index"));
        json_decref(answer);
    }
    json_t *line = line_of_case(r, "reopen");
    json_put_figure(line, "open_ms", &opened);
    json_put_figure(line, "first_answer_ms", &first);
    json_put_figure(line, "second_ms", &second);
    json_put_number(line, "pending", figure_median(&pending));
    json_object_set_new(line, "from_index", json_boolean(indexed));
    printf("reopen  first answer after %.1f ms, %.0f rows pending; the second takes %.2f ms\n",
           figure_median(&first), figure_median(&pending), figure_median(&second));
    fflush(stdout);
    return results_line(&r->results, line);
}

static int live_sets(struct live_run *r)
{
    struct vectors v;
    int rc = vectors_read(&v, r->o->queries) || fbin_write(r->queries, v.rows, v.n, v.dim);
    vectors_fini(&v);
    if (rc != 0)
        return 1;
    rc = vectors_read(&v, r->o->base) || fbin_write(r->base, v.rows, v.n, v.dim);
    r->n = v.n;
    r->dim = v.dim;
    vectors_fini(&v);
    if (rc == 0 && r->n < 2 * LIVE_BATCH)
        return bench_fail("%s has %zu rows; live wants %u at least", r->o->base, r->n,
                          2 * LIVE_BATCH);
    return rc;
}

int bench_live(int argc, char **argv)
{
    static const char *const words[] = {"search", "put", "reopen", NULL};
    struct live_opts o;
    struct live_run r = {.o = &o};
    int rc = 1;
    worker_timeout_s = 3600;
    enum opts_result parsed = parse(&o, argc, argv);
    if (parsed != OPTS_GO)
        return opts_exit(parsed);
    if (!list_checked("--cases", o.cases, words))
        return 2;
    r.results.data = o.data;
    if (results_open(&r.results, o.json, o.label, argc, argv) != 0 ||
        work_open(o.work, r.dir, sizeof r.dir - 32) != 0)
        goto done;
    snprintf(r.base, sizeof r.base, "%.4100s/base.fbin", r.dir);
    snprintf(r.queries, sizeof r.queries, "%.4100s/queries.fbin", r.dir);
    snprintf(r.db, sizeof r.db, "%.4100s/bench.db", r.dir);
    if (live_sets(&r) != 0 || (list_has(o.cases, "search") && search_report(&r) != 0) ||
        (list_has(o.cases, "put") && put_report(&r) != 0) ||
        (list_has(o.cases, "reopen") && reopen_report(&r) != 0))
        goto done;
    rc = 0;
done:
    work_close(r.dir);
    if (results_close(&r.results) != 0)
        rc = 1;
    return rc;
}
