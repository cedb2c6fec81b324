/* Exact search on a committed database, through the public API, beside other systems.
 *
 * Every system is a process of its own that holds the same rows. Passes alternate: each pass asks
 * every system for the same queries, one system after the other, so that a disturbance of the
 * machine hits all alike; ratios are taken within a pass, and medians over passes are reported
 * with the least and the most. Beside the systems runs a process that only reads memory: its rate
 * over as many bytes as the vectors have is what `streaming_ratio` compares with.
 *
 *     single   one query a call
 *     batch    --batch queries a call
 *     fresh    a new process's first search, when the rows are not yet in its memory, against a
 *              stock SQLite connection that reads the same rows in a new process
 *
 * Answers are checked against distances computed here in double precision: an id counts if its
 * distance is not beyond the k-th least. */
#include "bench/bench.h"
#include "bench/peers/driver.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_SYSTEMS 5
#define PATH_ROOM 4200

enum { CASE_SINGLE, CASE_BATCH, CASES };
static const char *const case_names[CASES] = {"single", "batch"};

struct exact_opts {
    const char *base, *queries, *peers, *peers_dir, *work, *json, *label, *cases;
    mn_metric metric;
    uint64_t k, threads, memory, batch, single_queries, batch_queries, passes, fresh_passes, check;
};

struct system {
    char name[16];
    struct worker worker;
    struct figure wall[CASES], cpu[CASES]; /* us per query */
    struct figure slower[CASES];           /* CPU of this system over Mneme's, within a pass */
    double recall[CASES];
    char setting[CASES][200];
    uint64_t rss_peak_kb, db_bytes;
};

struct run {
    const struct exact_opts *o;
    char dir[PATH_ROOM], base[PATH_ROOM], queries[PATH_ROOM], db[PATH_ROOM], vec_db[PATH_ROOM];
    char memory[24], bytes[24], threads[24], k[24];
    struct vectors rows, asked;
    struct truth truth;                 /* .n queries are checked */
    struct system systems[MAX_SYSTEMS]; /* [0] is Mneme, [1] the memory */
    size_t n_systems;
    struct figure stream[CASES];              /* us for one reading of all bytes */
    struct figure streaming_ratio[CASES];     /* Mneme's rate over it, within a pass */
    struct figure streaming_ratio_cpu[CASES]; /* the same by CPU time: on a busy machine */
    struct results results;
};

/* ---- Systems --------------------------------------------------------------------------------- */

static int system_start(struct run *r, const char *name, char *const argv[])
{
    struct system *s = &r->systems[r->n_systems];
    json_t *ready;
    snprintf(s->name, sizeof s->name, "%s", name);
    if (worker_start(&s->worker, name, r->o->threads, argv) != 0)
        return 1;
    r->n_systems++;
    ready = worker_answer(&s->worker);
    if (!ready)
        return 1;
    json_decref(ready);
    return 0;
}

static int once(const char *name, char *const argv[])
{
    json_t *answer = worker_once(name, argv);
    json_decref(answer);
    return answer ? 0 : 1;
}

static int start_mneme(struct run *r)
{
    const char *metric = mn_metric_name(r->o->metric);
    printf("importing %zu x %" PRIu32 " f32 into a database\n", r->rows.n, r->rows.dim);
    fflush(stdout);
    if (once("import", (char *[]){NULL, "worker", "import", "--db", r->db, "--base", r->base,
                                  "--metric", (char *)metric, NULL}) != 0 ||
        system_start(r, "mneme",
                     (char *[]){NULL, "worker", "mneme", "--db", r->db, "--queries", r->queries,
                                "--k", r->k, "--threads", r->threads, "--memory", r->memory,
                                NULL}) != 0)
        return 1;
    r->systems[0].db_bytes = file_bytes(r->db);
    return system_start(
        r, "memory",
        (char *[]){NULL, "worker", "memory", "--bytes", r->bytes, "--threads", r->threads, NULL});
}

static int start_sqlite_vec(struct run *r, char *vec0)
{
    const char *metric = mn_metric_name(r->o->metric);
    if (once("sqlite-vec", (char *[]){NULL, "worker", "import-vec", "--db", r->vec_db, "--base",
                                      r->base, "--metric", (char *)metric, "--vec0", vec0, NULL}) !=
            0 ||
        system_start(r, "sqlite-vec",
                     (char *[]){NULL, "worker", "sqlite-vec", "--db", r->vec_db, "--queries",
                                r->queries, "--k", r->k, "--vec0", vec0, NULL}) != 0)
        return 1;
    r->systems[r->n_systems - 1].db_bytes = file_bytes(r->vec_db);
    return 0;
}

static int start_peers(struct run *r)
{
    static const struct {
        const char *name, *file;
    } peers[] = {{"faiss", "faiss_flat"}, {"usearch", "usearch_exact"}, {"sqlite-vec", "vec0.so"}};
    char path[PATH_ROOM];
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        const char *name = peers[i].name;
        bool vec = strcmp(name, "sqlite-vec") == 0;
        if (!list_has(r->o->peers, name))
            continue;
        if (!peer_path(r->o->peers_dir, peers[i].file, path, sizeof path))
            return bench_fail("%s is not there: tools/peers %s builds it", path, name);
        if (vec && r->o->metric == MN_IP) {
            printf("sqlite-vec: has no inner product, left out\n");
            continue;
        }
        if (vec ? start_sqlite_vec(r, path) != 0
                : system_start(r, name,
                               (char *[]){path, "--base", r->base, "--queries", r->queries,
                                          "--metric", (char *)mn_metric_name(r->o->metric), "--k",
                                          r->k, "--threads", r->threads, NULL}) != 0)
            return 1;
    }
    return 0;
}

/* ---- Measuring ------------------------------------------------------------------------------- */

static size_t batch_of(const struct run *r, int kase)
{
    size_t batch = kase == CASE_BATCH ? (size_t)r->o->batch : 1;
    return batch < r->asked.n ? batch : r->asked.n;
}

/* Settings, warm-up and answers of one system for one case: at least one call of full size, and
 * all checked queries. */
static int system_prepare(struct run *r, struct system *s, int kase)
{
    char path[PATH_ROOM + 16];
    size_t batch = batch_of(r, kase), asked = batch > r->truth.n ? batch : r->truth.n;
    json_t *answer = worker_ask(&s->worker, "tune %zu", batch);
    if (!answer)
        return 1;
    snprintf(s->setting[kase], sizeof s->setting[kase], "%s",
             json_string_value(json_object_get(answer, "setting")));
    json_decref(answer);
    if (s == &r->systems[1])
        return 0;
    snprintf(path, sizeof path, "%s/answers", r->dir);
    answer = worker_ask(&s->worker, "answers 0 %zu %zu %s", asked, batch, path);
    if (!answer)
        return 1;
    json_decref(answer);
    return truth_recall_of_file(&r->truth, s->name, path, &s->recall[kase]);
}

static int prepare(struct run *r, int kase)
{
    if (!r->truth.kth && truth_compute(&r->truth, (size_t)r->o->check) != 0)
        return 1;
    for (size_t i = 0; i < r->n_systems; i++)
        if (system_prepare(r, &r->systems[i], kase) != 0)
            return 1;
    return 0;
}

/* One pass: every system, the same queries. The system that begins changes from pass to pass. */
static int pass(struct run *r, int kase, size_t number)
{
    size_t count = (size_t)(kase == CASE_BATCH ? r->o->batch_queries : r->o->single_queries);
    double wall[MAX_SYSTEMS], cpu[MAX_SYSTEMS];
    for (size_t turn = 0; turn < r->n_systems; turn++) {
        size_t i = (turn + number) % r->n_systems;
        struct system *s = &r->systems[i];
        size_t asked = i == 1 ? (count < 8 ? count : 8) : count; /* the memory: readings of all */
        json_t *answer = worker_ask(&s->worker, "search %zu %zu %zu", number * count % r->asked.n,
                                    asked, i == 1 ? 1 : batch_of(r, kase));
        if (!answer)
            return 1;
        wall[i] = json_number_value(json_object_get(answer, "wall_us")) / (double)asked;
        cpu[i] = json_number_value(json_object_get(answer, "cpu_us")) / (double)asked;
        json_decref(answer);
        figure_add(&s->wall[kase], wall[i]);
        figure_add(&s->cpu[kase], cpu[i]);
    }
    figure_add(&r->streaming_ratio[kase], wall[1] / wall[0]);
    figure_add(&r->streaming_ratio_cpu[kase], cpu[1] / cpu[0]);
    for (size_t i = 0; i < r->n_systems; i++)
        figure_add(&r->systems[i].slower[kase], cpu[i] / cpu[0]);
    return 0;
}

static json_t *line_start(const struct run *r, const char *kase, const char *system)
{
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:I, s:I, s:I}", "bench", "exact", "case",
                     kase, "system", system, "n", (json_int_t)r->rows.n, "dim",
                     (json_int_t)r->rows.dim, "dtype", "f32", "metric",
                     mn_metric_name(r->o->metric), "k", (json_int_t)r->o->k, "threads",
                     (json_int_t)r->o->threads, "passes", (json_int_t)r->o->passes);
}

static int report_system(struct run *r, int kase, const struct system *s)
{
    json_t *line = line_start(r, case_names[kase], s->name);
    double bytes = (double)r->rows.n * r->rows.dim * sizeof(float);
    double us = figure_median(&s->wall[kase]);
    struct figure qps = {.n = 0};
    for (size_t i = 0; i < s->wall[kase].n; i++)
        figure_add(&qps, 1e6 / s->wall[kase].values[i]);
    json_object_set_new(line, "batch", json_integer((json_int_t)batch_of(r, kase)));
    json_object_set_new(line, "queries",
                        json_integer((json_int_t)(kase == CASE_BATCH ? r->o->batch_queries
                                                                     : r->o->single_queries)));
    json_put_figure(line, "qps_wall", &qps);
    json_put_figure(line, "cpu_us_per_query", &s->cpu[kase]);
    json_put_number(line, "gb_per_s", bytes / us / 1e3);
    if (s == &r->systems[0]) {
        json_put_figure(line, "streaming_ratio", &r->streaming_ratio[kase]);
        json_put_figure(line, "streaming_ratio_cpu", &r->streaming_ratio_cpu[kase]);
        json_put_number(line, "streaming_gb_per_s",
                        bytes / figure_median(&r->systems[1].wall[kase]) / 1e3);
    }
    if (s != &r->systems[0] && s != &r->systems[1])
        json_put_figure(line, "cpu_over_mneme", &s->slower[kase]);
    if (s != &r->systems[1])
        json_object_set_new(line, "recall", json_real(s->recall[kase]));
    if (s->setting[kase][0])
        json_object_set_new(line, "setting", json_string(s->setting[kase]));
    json_put_number(line, "rss_peak_mb", (double)s->rss_peak_kb * 1024 / 1e6);
    if (s->db_bytes)
        json_object_set_new(line, "db_bytes", json_integer((json_int_t)s->db_bytes));
    printf("%-7s %-11s %10.1f queries/s %11.1f us CPU %8.2f GB/s", case_names[kase], s->name,
           1e6 / us, figure_median(&s->cpu[kase]), bytes / us / 1e3);
    if (s != &r->systems[1])
        printf("  recall %.4f", s->recall[kase]);
    if (s != &r->systems[0] && s != &r->systems[1])
        printf("  CPU %.2fx Mneme's", figure_median(&s->slower[kase]));
    if (s == &r->systems[0])
        printf("  %.2f of streaming", figure_median(&r->streaming_ratio[kase]));
    printf("\n");
    return results_line(&r->results, line);
}

static int measure_cases(struct run *r)
{
    int rc = 1;
    if (start_mneme(r) != 0 || start_peers(r) != 0)
        goto done;
    for (int kase = 0; kase < CASES; kase++) {
        if (!list_has(r->o->cases, case_names[kase]))
            continue;
        if (prepare(r, kase) != 0)
            goto done;
        for (size_t p = 0; p < r->o->passes; p++)
            if (pass(r, kase, p) != 0)
                goto done;
    }
    for (size_t i = 0; i < r->n_systems; i++)
        if (worker_stop(&r->systems[i].worker, &r->systems[i].rss_peak_kb) != 0)
            goto done;
    for (int kase = 0; kase < CASES; kase++)
        for (size_t i = 0; i < r->n_systems && list_has(r->o->cases, case_names[kase]); i++)
            if (report_system(r, kase, &r->systems[i]) != 0)
                goto done;
    rc = 0;
done:
    for (size_t i = 0; i < r->n_systems; i++)
        worker_kill(&r->systems[i].worker);
    return rc;
}

/* ---- A fresh process
 * ------------------------------------------------------------------------------ */

/* On a virtual machine the host may take back what is free, and gives it back at 2 ms for 2 MiB: no
 * system's doing, so as much as the vectors take is touched, and freed, before each process. */
static void warm_memory(size_t bytes)
{
    void *memory = driver_memory(bytes);
    if (memory)
        memset(memory, 1, bytes);
    free(memory);
}

static int measure_fresh(struct run *r)
{
    char *const fresh[] = {NULL,        "worker",   "fresh",   "--db", r->db,
                           "--queries", r->queries, "--k",     r->k,   "--threads",
                           r->threads,  "--memory", r->memory, NULL};
    char *const scan[] = {NULL, "worker", "scan", "--db", r->db, NULL};
    struct figure first = {.n = 0}, cpu = {.n = 0}, opened = {.n = 0}, scans = {.n = 0},
                  scan_cpu = {.n = 0}, ratio = {.n = 0}, ratio_cpu = {.n = 0};
    double n = (double)r->rows.n;
    for (size_t p = 0; p < r->o->fresh_passes; p++) {
        double ours = 0, theirs = 0, ours_cpu = 1, theirs_cpu = 0;
        for (size_t turn = 0; turn < 2; turn++) {
            bool scanning = (turn + p) % 2 == 1;
            warm_memory(r->rows.n * r->rows.dim * sizeof(float));
            json_t *answer = worker_once(scanning ? "scan" : "fresh", scanning ? scan : fresh);
            if (!answer)
                return 1;
            double us = json_number_value(json_object_get(answer, "wall_us"));
            double cpu_us = json_number_value(json_object_get(answer, "cpu_us"));
            *(scanning ? &theirs : &ours) = us;
            *(scanning ? &theirs_cpu : &ours_cpu) = cpu_us;
            figure_add(scanning ? &scans : &first, n / us * 1e6);
            figure_add(scanning ? &scan_cpu : &cpu, cpu_us);
            if (!scanning)
                figure_add(&opened, json_number_value(json_object_get(answer, "open_us")) / 1e3);
            json_decref(answer);
        }
        figure_add(&ratio, theirs / ours);
        figure_add(&ratio_cpu, theirs_cpu / ours_cpu);
    }
    json_t *line = line_start(r, "fresh", "mneme");
    json_put_figure(line, "rows_per_s", &first);
    json_put_figure(line, "cpu_us", &cpu);
    json_put_number(line, "first_search_ms", n / figure_median(&first) * 1e3);
    json_put_figure(line, "open_ms", &opened);
    json_put_figure(line, "sqlite_rows_per_s", &scans);
    json_put_figure(line, "sqlite_cpu_us", &scan_cpu);
    json_put_figure(line, "sqlite_ratio", &ratio);
    json_put_figure(line, "sqlite_ratio_cpu", &ratio_cpu);
    json_object_set_new(line, "files", json_string("in the system's page cache"));
    printf("fresh   mneme       first search %.1f ms, %.2f M rows/s; SQLite scans %.2f M rows/s: "
           "%.2f of it, %.2f by CPU\n",
           n / figure_median(&first) * 1e3, figure_median(&first) / 1e6,
           figure_median(&scans) / 1e6, figure_median(&ratio), figure_median(&ratio_cpu));
    return results_line(&r->results, line);
}

/* ---- The subcommand
 * -------------------------------------------------------------------------------- */

static int run_open(struct run *r)
{
    const struct exact_opts *o = r->o;
    uint64_t bytes;
    if (vectors_read(&r->rows, o->base) != 0 || vectors_read(&r->asked, o->queries) != 0)
        return 1;
    if (r->rows.dim != r->asked.dim)
        return bench_fail("%s has vectors of %" PRIu32 " elements, %s of %" PRIu32, o->base,
                          r->rows.dim, o->queries, r->asked.dim);
    r->truth = (struct truth){
        .base = &r->rows, .queries = &r->asked, .k = (size_t)o->k, .metric = o->metric};
    if (work_open(o->work, r->dir, sizeof r->dir - 32) != 0)
        return 1;
    snprintf(r->base, sizeof r->base, "%.4100s/base.fbin", r->dir);
    snprintf(r->queries, sizeof r->queries, "%.4100s/queries.fbin", r->dir);
    snprintf(r->db, sizeof r->db, "%.4100s/bench.db", r->dir);
    snprintf(r->vec_db, sizeof r->vec_db, "%.4100s/vec.db", r->dir);
    bytes = (uint64_t)r->rows.n * r->rows.dim * sizeof(float);
    snprintf(r->bytes, sizeof r->bytes, "%" PRIu64, bytes);
    snprintf(r->memory, sizeof r->memory, "%" PRIu64,
             o->memory ? o->memory : bytes + bytes / 4 + ((uint64_t)256 << 20));
    snprintf(r->threads, sizeof r->threads, "%" PRIu64, o->threads);
    snprintf(r->k, sizeof r->k, "%" PRIu64, o->k);
    return fbin_write(r->base, r->rows.rows, r->rows.n, r->rows.dim) ||
           fbin_write(r->queries, r->asked.rows, r->asked.n, r->asked.dim);
}

int bench_exact(int argc, char **argv)
{
    struct exact_opts o = {.k = 10,
                           .threads = 1,
                           .batch = 100,
                           .single_queries = 20,
                           .batch_queries = 100,
                           .passes = 5,
                           .fresh_passes = 3,
                           .check = 20,
                           .peers = "",
                           .cases = "single,batch,fresh"};
    struct run r = {.o = &o};
    const struct opt opts[] = {
        {"--base", OPT_TEXT, &o.base, 0, 0, "F!", "base vectors, any format that import reads"},
        {"--queries", OPT_TEXT, &o.queries, 0, 0, "F!", "query vectors"},
        {"--metric", OPT_METRIC, &o.metric, 0, 0, "M", "l2 (default), ip or cosine"},
        {"--k", OPT_COUNT, &o.k, 1, MN_MAX_K, "K", "hits of a query"},
        {"--threads", OPT_COUNT, &o.threads, 1, 256, "N", "threads of a search, peers' too"},
        {"--memory", OPT_SIZE, &o.memory, (uint64_t)4 << 20, INT64_MAX, "SIZE",
         "Mneme's cap (default: enough to hold the vectors)"},
        {"--peers", OPT_TEXT, &o.peers, 0, 0, "LIST", "of faiss,usearch,sqlite-vec"},
        {"--peers-dir", OPT_TEXT, &o.peers_dir, 0, 0, "DIR",
         "what tools/peers built (default: peers beside this program)"},
        {"--cases", OPT_TEXT, &o.cases, 0, 0, "LIST", "what to measure"},
        {"--batch", OPT_COUNT, &o.batch, 1, MN_MAX_QUERIES, "N", "queries a call, case batch"},
        {"--single-queries", OPT_COUNT, &o.single_queries, 1, 1000000, "N",
         "queries a pass, case single"},
        {"--batch-queries", OPT_COUNT, &o.batch_queries, 1, 1000000, "N",
         "queries a pass, case batch"},
        {"--passes", OPT_COUNT, &o.passes, 1, MAX_PASSES, "N", "passes over all systems"},
        {"--fresh-passes", OPT_COUNT, &o.fresh_passes, 1, MAX_PASSES, "N", "pairs of processes"},
        {"--check", OPT_COUNT, &o.check, 1, 100000, "N", "queries whose answers are checked"},
        {"--timeout", OPT_COUNT, &worker_timeout_s, 1, 86400, "S", "seconds for one answer"},
        {"--work", OPT_TEXT, &o.work, 0, 0, "DIR", "where databases lie (default: TMPDIR)"},
        {"--json", OPT_TEXT, &o.json, 0, 0, "OUT", "takes the results, one JSON object a line"},
        {"--label", OPT_TEXT, &o.label, 0, 0, "TEXT", "put into each line"},
        {"--data", OPT_TEXT, &r.results.data, 0, 0, "TEXT",
         "put into each line: the vectors' origin"},
    };
    static const char *const case_words[] = {"single", "batch", "fresh", NULL};
    static const char *const peer_words[] = {"faiss", "usearch", "sqlite-vec", NULL};
    int rc = 1;
    enum opts_result parsed =
        opts_parse("usage: mneme_bench exact --base F --queries F [OPTION]...\n\n"
                   "Measures exact search on a committed database: one query a call, batches,\n"
                   "and the first search of a fresh process; peers each in their own process,\n"
                   "passes in turn, medians. Every answer is checked in double precision.\n",
                   opts, sizeof opts / sizeof *opts, argc, argv);
    if (parsed != OPTS_GO)
        return opts_exit(parsed);
    if (!list_checked("--cases", o.cases, case_words) ||
        !list_checked("--peers", o.peers, peer_words))
        return 2;
    if (results_open(&r.results, o.json, o.label, argc, argv) != 0 || run_open(&r) != 0 ||
        measure_cases(&r) != 0 || (list_has(o.cases, "fresh") && measure_fresh(&r) != 0))
        goto done;
    rc = 0;
done:
    work_close(r.dir);
    vectors_fini(&r.rows);
    vectors_fini(&r.asked);
    truth_fini(&r.truth);
    if (results_close(&r.results) != 0)
        rc = 1;
    return rc;
}
