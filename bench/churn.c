/* Content replaced under search. The collection begins with the first n / (1 + turnover) rows of
 * the base, folded; then batches of 1,000 old rows (the oldest, or any) are deleted and 1,000
 * further rows of the base put, each batch one durable transaction, while the library's own thread
 * folds. At ten steps queries are asked, and the same by exact search, which the recall is of. At
 * the end a fresh database of the same rows, folded once, answers the same queries.
 *
 * Bytes written are wchar of /proc/self/io over those of the vectors put: log, database, checkpoint
 * and sidecar, from the first batch until the database is closed. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/live.h"
#include "bench/peers/driver.h"

enum { PATH_ROOM = 4200, STEPS = 10 };

struct churn_opts {
    const char *base, *queries, *order, *work, *json, *label, *db, *fresh, *turnover;
    uint64_t k, memory, max_queries;
    double share, recall;
    const char *recall_text;
    mn_metric metric;
    const char *data;
};

static enum opts_result parse(struct churn_opts *o, int argc, char **argv)
{
    *o = (struct churn_opts){
        .k = 10, .order = "oldest", .turnover = "0.3", .recall_text = "0.95", .max_queries = 500};
    const struct opt opts[] = {
        {"--base", OPT_TEXT, &o->base, 0, 0, "F!", "rows at first, and those that replace them"},
        {"--queries", OPT_TEXT, &o->queries, 0, 0, "F!", "query vectors"},
        {"--metric", OPT_METRIC, &o->metric, 0, 0, "M", "l2 (default), ip or cosine"},
        {"--turnover", OPT_TEXT, &o->turnover, 0, 0, "X", "share of the rows that is replaced"},
        {"--order", OPT_TEXT, &o->order, 0, 0, "WHICH", "rows that go first: oldest or random"},
        {"--recall", OPT_TEXT, &o->recall_text, 0, 0, "R", "target of the searches"},
        {"--k", OPT_COUNT, &o->k, 1, MN_MAX_K, "K", "hits of a query"},
        {"--memory", OPT_SIZE, &o->memory, (uint64_t)4 << 20, INT64_MAX, "SIZE",
         "Mneme's cap (default: the library's, 256 MiB)"},
        {"--max-queries", OPT_COUNT, &o->max_queries, 1, 1u << 30, "N", "queries of a step"},
        {"--timeout", OPT_COUNT, &worker_timeout_s, 1, 86400, "S", "seconds for one step"},
        {"--work", OPT_TEXT, &o->work, 0, 0, "DIR", "where databases lie (default: TMPDIR)"},
        {"--json", OPT_TEXT, &o->json, 0, 0, "OUT", "takes the results, one JSON object a line"},
        {"--label", OPT_TEXT, &o->label, 0, 0, "TEXT", "put into each line"},
        {"--data", OPT_TEXT, &o->data, 0, 0, "TEXT", "put into each line: the vectors' origin"},
        {"--db", OPT_TEXT, &o->db, 0, 0, NULL, NULL},
        {"--fresh", OPT_TEXT, &o->fresh, 0, 0, NULL, NULL},
    };
    enum opts_result result =
        opts_parse("usage: mneme_bench churn --base F --queries F [OPTION]...\n\n"
                   "Replaces rows in batches of 1,000 while the library's thread folds, and tells\n"
                   "recall, cost and bytes written along the way, and the recall of a fresh index\n"
                   "of the rows that stand at the end.\n",
                   opts, sizeof opts / sizeof *opts, argc, argv);
    if (result != OPTS_GO)
        return result;
    o->share = strtod(o->turnover, NULL);
    o->recall = strtod(o->recall_text, NULL);
    if (!(o->share > 0 && o->share <= 10)) {
        bench_fail("--turnover is '%s'; it may be 0.01 to 10", o->turnover);
        return OPTS_WRONG;
    }
    if (!(o->recall >= 0.5 && o->recall < 1)) {
        bench_fail("--recall is '%s'; it may be 0.5 to 0.999", o->recall_text);
        return OPTS_WRONG;
    }
    if (strcmp(o->order, "oldest") != 0 && strcmp(o->order, "random") != 0) {
        bench_fail("--order is '%s'; it may be oldest or random", o->order);
        return OPTS_WRONG;
    }
    return OPTS_GO;
}

/* ---- In the worker --------------------------------------------------------------------------- */

struct churn {
    const struct churn_opts *o;
    struct live live;
    float *queries;
    size_t n_queries;
    mn_hit *hits, *exact; /* [k] */
    float *took;
    int64_t *alive;               /* [n_alive] ids, in the order of their putting */
    size_t n_alive, oldest, next; /* next: row of the base that is put next */
    double search_cpu_us;         /* of this thread, so far */
    struct bench_rng rng;
};

struct step_result {
    double recall, cpu_us, p99_us;
};

static double thread_us(void)
{
    return driver_clock_us(CLOCK_THREAD_CPUTIME_ID);
}

static uint32_t common(const mn_hit *a, uint32_t na, const mn_hit *b, uint32_t nb)
{
    double most = nb ? b[nb - 1].distance : 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < na; i++)
        n += a[i].distance <= most + 1e-5 * fabs(most) + 1e-6;
    return n < nb ? n : nb;
}

/* Asks all queries by recall target, then exactly. */
static bool step_search(struct churn *c, mn_conn *conn, struct step_result *out)
{
    mn_search_opts by_target = {.recall = c->o->recall}, exactly = {.recall = 1.0};
    uint32_t k = (uint32_t)c->o->k, found, all;
    uint64_t right = 0, wanted = 0;
    double cpu = 0;
    mn_error err;
    for (size_t q = 0; q < c->n_queries; q++) {
        const float *query = c->queries + q * c->live.dim;
        double wall0 = driver_wall_us(), cpu0 = thread_us();
        if (mn_search(conn, LIVE_COLLECTION, query, 1, k, &by_target, c->hits, &found, &err) !=
            MN_OK)
            goto failed;
        double used = thread_us() - cpu0;
        c->took[q] = (float)(driver_wall_us() - wall0);
        cpu += used;
        cpu0 = thread_us();
        if (mn_search(conn, LIVE_COLLECTION, query, 1, k, &exactly, c->exact, &all, &err) != MN_OK)
            goto failed;
        c->search_cpu_us += used + thread_us() - cpu0;
        right += common(c->hits, found, c->exact, all);
        wanted += all;
    }
    qsort(c->took, c->n_queries, sizeof *c->took, driver_compare);
    *out = (struct step_result){.recall = wanted ? (double)right / (double)wanted : 1,
                                .cpu_us = cpu / (double)c->n_queries,
                                .p99_us = (double)c->took[c->n_queries * 99 / 100]};
    return true;
failed:
    driver_error(err.message);
    return false;
}

/* Takes one live id out; the oldest, or any. */
static int64_t victim(struct churn *c)
{
    if (strcmp(c->o->order, "oldest") == 0)
        return c->alive[c->oldest++];
    size_t at = c->oldest + (size_t)(bench_rand(&c->rng) % (c->n_alive - c->oldest));
    int64_t id = c->alive[at];
    c->alive[at] = c->alive[--c->n_alive];
    return id;
}

/* One transaction: n rows go, n come. */
static bool replace(struct churn *c, size_t n)
{
    static mn_id ids[LIVE_BATCH];
    mn_error err;
    for (size_t i = 0; i < n; i++)
        ids[i] = (mn_id){.id = victim(c)};
    if (mn_begin_write(c->live.conn, &err) != MN_OK ||
        mn_delete(c->live.conn, LIVE_COLLECTION, ids, n, NULL, &err) != MN_OK) {
        driver_error(err.message);
        return false;
    }
    if (!live_put(&c->live, c->live.conn, c->next, n))
        return false;
    if (mn_commit(c->live.conn, &err) != MN_OK) {
        driver_error(err.message);
        return false;
    }
    for (size_t i = 0; i < n; i++)
        c->alive[c->n_alive++] = (int64_t)c->next++;
    return true;
}

/* The rows that stand now in a new database, folded once; its recall. */
static bool fresh_recall(struct churn *c, double *recall)
{
    struct step_result result;
    struct live fresh;
    mn_conn *conn;
    mn_error err;
    bool good = live_open(&fresh, c->o->fresh, c->o->base, MN_OPEN_NO_BACKGROUND, c->o->memory) &&
                live_create(&fresh, c->o->metric);
    size_t open = 0; /* rows of the open transaction: runs are short where random rows went */
    for (size_t i = c->oldest; good && i < c->n_alive;) {
        size_t n = 1; /* a run of neighbours in the file is put at once */
        while (i + n < c->n_alive && n < LIVE_BATCH && c->alive[i + n] == c->alive[i] + (int64_t)n)
            n++;
        good = (open || mn_begin_write(fresh.conn, &err) == MN_OK) &&
               live_put(&fresh, fresh.conn, (size_t)c->alive[i], n);
        i += n;
        open += n;
        if (good && (open >= 10 * LIVE_BATCH || i == c->n_alive)) {
            good = mn_commit(fresh.conn, &err) == MN_OK;
            open = 0;
        }
    }
    good = good && live_fold(&fresh);
    conn = fresh.conn;
    good = good && step_search(c, conn, &result);
    if (good)
        *recall = result.recall;
    live_close(&fresh);
    return good;
}

static int compare_ids(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static bool churn_open(struct churn *c, size_t *first)
{
    const struct churn_opts *o = c->o;
    char message[400];
    uint32_t dim = 0;
    struct live filling;
    bool good = live_open(&filling, o->db, o->base, MN_OPEN_NO_BACKGROUND, o->memory);
    *first = good ? (size_t)((double)filling.n / (1 + o->share)) : 0;
    good = good && live_create(&filling, o->metric) &&
           live_put(&filling, filling.conn, 0, *first) && live_fold(&filling);
    live_close(&filling);
    if (!good || !live_open(&c->live, o->db, o->base, 0, o->memory))
        return false;
    c->queries = driver_read_fbin(o->queries, &c->n_queries, &dim, message, sizeof message);
    if (!c->queries || dim != c->live.dim) {
        driver_error(c->queries ? "base and queries have different dimensions" : message);
        return false;
    }
    if (c->n_queries > o->max_queries)
        c->n_queries = (size_t)o->max_queries;
    c->hits = calloc(o->k, sizeof *c->hits);
    c->exact = calloc(o->k, sizeof *c->exact);
    c->took = calloc(c->n_queries, sizeof *c->took);
    c->alive = calloc(2 * c->live.n, sizeof *c->alive);
    if (!c->hits || !c->exact || !c->took || !c->alive) {
        driver_error("no memory for the answers");
        return false;
    }
    for (size_t i = 0; i < *first; i++)
        c->alive[i] = (int64_t)i;
    c->n_alive = c->next = *first;
    return true;
}

static void step_say(const struct churn *c, int step, size_t first, const struct step_result *s,
                     double write_cpu_us, uint64_t written)
{
    double put = (double)(c->next - first);
    double bytes = put * c->live.dim * sizeof(float);
    char sidecar[PATH_ROOM + 8], wal[PATH_ROOM + 8];
    mn_stats_info info = {.page_bytes = 0};
    (void)!mn_stats(c->live.conn, &info, NULL);
    snprintf(sidecar, sizeof sidecar, "%s-mneme", c->o->db);
    snprintf(wal, sizeof wal, "%s-wal", c->o->db);
    printf("{\"step\": %d, \"turnover\": %.5f, \"recall\": %.5f, \"cpu_us_per_query\": %.3f, "
           "\"p99_us\": %.3f, \"inserts_per_cpu_s\": %.1f, \"rss_bytes\": %" PRIu64
           ", \"db_bytes\": %" PRIu64 ", \"sidecar_bytes\": %" PRIu64
           ", \"write_amplification\": %.4f, \"page_bytes\": %" PRIu64 ", \"n\": %zu}\n",
           step, put / (double)first, s->recall, s->cpu_us, s->p99_us,
           put > 0 ? put / (write_cpu_us / 1e6) : 0, driver_rss_peak_kb() * 1024,
           file_bytes(c->o->db) + file_bytes(wal), file_bytes(sidecar),
           put > 0 ? (double)written / bytes : 0, info.page_bytes, first);
    fflush(stdout);
}

static bool churn_run(struct churn *c, size_t first)
{
    size_t total = (size_t)((double)first * c->o->share);
    uint64_t wchar = driver_proc("/proc/self/io", "wchar");
    double cpu = driver_cpu_us(), fresh = 0;
    struct step_result s;
    total = total < c->live.n - first ? total : c->live.n - first;
    for (int step = 0; step <= STEPS; step++) {
        while (c->next - first < total * (size_t)step / STEPS) {
            size_t left = total * (size_t)step / STEPS - (c->next - first);
            if (!replace(c, left < LIVE_BATCH ? left : LIVE_BATCH))
                return false;
        }
        double searched = c->search_cpu_us;
        double used = driver_cpu_us() - cpu - searched;
        if (!step_search(c, c->live.conn, &s))
            return false;
        step_say(c, step, first, &s, used, driver_proc("/proc/self/io", "wchar") - wchar);
    }
    /* What is pending still is folded and written too, before the sum is drawn. */
    if (!live_fold(&c->live) || !step_search(c, c->live.conn, &s))
        return false;
    live_close(&c->live);
    uint64_t written = driver_proc("/proc/self/io", "wchar") - wchar;
    double used = driver_cpu_us() - cpu - c->search_cpu_us;
    if (!live_open(&c->live, c->o->db, c->o->base, 0, c->o->memory))
        return false;
    step_say(c, STEPS + 1, first, &s, used, written);
    qsort(c->alive + c->oldest, c->n_alive - c->oldest, sizeof *c->alive, compare_ids);
    if (!fresh_recall(c, &fresh))
        return false;
    printf("{\"done\": 1, \"fresh_recall\": %.5f}\n", fresh);
    return true;
}

int worker_churn(int argc, char **argv)
{
    struct churn_opts o;
    struct churn c = {.o = &o, .live = {.base = -1}, .rng = {7}};
    size_t first = 0;
    if (parse(&o, argc, argv) != OPTS_GO)
        return 2;
    bool good = churn_open(&c, &first) && churn_run(&c, first);
    live_close(&c.live);
    free(c.queries);
    free(c.hits);
    free(c.exact);
    free(c.took);
    free(c.alive);
    return good ? 0 : 1;
}

/* ---- In the parent --------------------------------------------------------------------------- */

static int churn_lines(struct results *results, const struct churn_opts *o, struct worker *w)
{
    json_t *last = NULL, *answer;
    int rc = 1;
    for (;;) {
        if (!(answer = worker_answer(w)))
            goto done;
        if (json_object_get(answer, "done"))
            break;
        printf("turnover %.3f  recall %.4f  %.1f us CPU, p99 %.0f us  %.0f rows/CPU s  %.2f bytes "
               "written per vector byte\n",
               json_number_value(json_object_get(answer, "turnover")),
               json_number_value(json_object_get(answer, "recall")),
               json_number_value(json_object_get(answer, "cpu_us_per_query")),
               json_number_value(json_object_get(answer, "p99_us")),
               json_number_value(json_object_get(answer, "inserts_per_cpu_s")),
               json_number_value(json_object_get(answer, "write_amplification")));
        fflush(stdout);
        json_object_set_new(answer, "bench", json_string("churn"));
        json_object_set_new(answer, "system", json_string("mneme"));
        json_object_set_new(answer, "case", json_string(last ? "step" : "start"));
        json_object_set_new(answer, "order", json_string(o->order));
        if (last && results_line(results, last) != 0) {
            last = NULL;
            json_decref(answer);
            goto done;
        }
        last = answer;
    }
    double fresh = json_number_value(json_object_get(answer, "fresh_recall"));
    json_decref(answer);
    json_object_set_new(last, "case", json_string("end"));
    json_put_number(last, "fresh_recall", fresh);
    json_put_number(last, "below_fresh",
                    fresh - json_number_value(json_object_get(last, "recall")));
    printf("a fresh index of the same rows: recall %.4f\n", fresh);
    rc = results_line(results, last);
    last = NULL;
done:
    json_decref(last);
    return rc;
}

int bench_churn(int argc, char **argv)
{
    struct churn_opts o;
    struct results results = {.label = NULL};
    struct vectors v = {.n = 0};
    struct worker w = {.pid = 0, .to = -1, .from = -1};
    char dir[PATH_ROOM] = "", base[PATH_ROOM], queries[PATH_ROOM], db[PATH_ROOM], fresh[PATH_ROOM];
    char memory[24], k[24], most[24];
    int rc = 1;
    worker_timeout_s = 3600;
    enum opts_result parsed = parse(&o, argc, argv);
    if (parsed != OPTS_GO)
        return opts_exit(parsed);
    results.data = o.data;
    if (results_open(&results, o.json, o.label, argc, argv) != 0 ||
        work_open(o.work, dir, sizeof dir - 32) != 0)
        goto done;
    snprintf(base, sizeof base, "%.4100s/base.fbin", dir);
    snprintf(queries, sizeof queries, "%.4100s/queries.fbin", dir);
    snprintf(db, sizeof db, "%.4100s/bench.db", dir);
    snprintf(fresh, sizeof fresh, "%.4100s/fresh.db", dir);
    snprintf(memory, sizeof memory, "%" PRIu64, o.memory ? o.memory : (uint64_t)256 << 20);
    snprintf(k, sizeof k, "%" PRIu64, o.k);
    snprintf(most, sizeof most, "%" PRIu64, o.max_queries);
    if (vectors_read(&v, o.queries) != 0 || fbin_write(queries, v.rows, v.n, v.dim) != 0)
        goto done;
    vectors_fini(&v);
    if (vectors_read(&v, o.base) != 0 || fbin_write(base, v.rows, v.n, v.dim) != 0)
        goto done;
    vectors_fini(&v);
    if (worker_start(&w, "churn", 1,
                     (char *[]){NULL,
                                "worker",
                                "churn",
                                "--base",
                                base,
                                "--queries",
                                queries,
                                "--db",
                                db,
                                "--fresh",
                                fresh,
                                "--metric",
                                (char *)mn_metric_name(o.metric),
                                "--turnover",
                                (char *)o.turnover,
                                "--order",
                                (char *)o.order,
                                "--recall",
                                (char *)o.recall_text,
                                "--k",
                                k,
                                "--memory",
                                memory,
                                "--max-queries",
                                most,
                                NULL}) == 0)
        rc = churn_lines(&results, &o, &w);
    worker_kill(&w);
done:
    vectors_fini(&v);
    work_close(dir);
    if (results_close(&results) != 0)
        rc = 1;
    return rc;
}
