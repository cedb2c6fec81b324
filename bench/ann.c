/* Search by recall target on a committed database, through the public API, beside other systems.
 *
 * Mneme imports the rows, folds them into its index (that is its build: from committed rows, the
 * reading and the sidecar's writing included) and is asked by recall target, each step a process of
 * its own that opens the database anew. Peers are built in theirs, swept until they bracket the
 * recall (sweep.c), and interpolated: the logarithm of each figure over the recall. Where Mneme's
 * answers have less than the recall that was asked for, peers are compared at what it reached.
 *
 * Passes alternate: each asks every system for all queries at every recall, the system that begins
 * changes from pass to pass; medians stand. An id is right if its distance, in double precision, is
 * not beyond the true k-th one's. */
#include "bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/sweep.h"

enum { PATH_ROOM = 4200, MAX_BUILDS = 64, MAX_SYSTEMS = 6, POINT_FIGURES = 8 };

enum point_figure { CPU, WALL, P50, P99, READS, BYTES, DISK, RECALL };

struct ann_opts {
    const char *base, *queries, *truth, *peers, *peers_dir, *work, *json, *label, *recall, *name,
        *variants;
    mn_metric metric;
    uint64_t k, threads, memory, build_memory, passes, sweep, batch, queries_asked, at_once;
    bool cold, curve, truth_by_faiss, from_rows;
};

/* A setting that is measured in each pass. */
struct point {
    char text[128]; /* of the set command */
    struct figure figures[POINT_FIGURES];
};

/* A system at one recall: Mneme has one point, a peer the two around the recall. */
struct pair {
    struct worker *worker;
    struct build *build;  /* NULL: Mneme */
    double asked, recall; /* what was asked for; what the figures are interpolated at */
    struct point points[2];
    size_t n_points;
};

struct ann_run {
    const struct ann_opts *o;
    char dir[PATH_ROOM], base[PATH_ROOM], queries[PATH_ROOM], db[PATH_ROOM], answers[PATH_ROOM];
    char dataset[128], memory[24], build_memory[24], threads[24], k[24];
    struct vectors rows, asked;
    struct truth truth;
    double targets[MAX_TARGETS], reached[MAX_TARGETS];
    size_t n_targets;
    struct worker mneme;
    uint64_t mneme_rss_kb, build_rss_kb, db_bytes, sidecar_bytes;
    double build_wall_s, build_cpu_s;
    struct build builds[MAX_BUILDS];
    size_t n_builds;
    struct choice choices[MAX_SYSTEMS][MAX_TARGETS];
    struct pair pairs[MAX_SYSTEMS * MAX_TARGETS];
    size_t n_pairs;
    struct results results;
};

/* ---- The sets and the truth ------------------------------------------------------------------ */

/* Of all bytes, eight at a time: tells one set from another. */
static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint64_t word;
    for (; bytes >= sizeof word; bytes -= sizeof word, p += sizeof word) {
        memcpy(&word, p, sizeof word);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    for (; bytes; bytes--)
        hash = (hash ^ *p++) * 0x100000001b3u;
    return hash;
}

static uint64_t hash_sets(const struct ann_run *r)
{
    uint64_t hash = hash_bytes(r->rows.n, r->rows.rows, r->rows.n * r->rows.dim * sizeof(float));
    return hash_bytes(hash ^ r->asked.n, r->asked.rows, r->asked.n * r->asked.dim * sizeof(float));
}

static int once(const char *name, char *const argv[])
{
    json_t *answer = worker_once(name, argv);
    json_decref(answer);
    return answer ? 0 : 1;
}

/* From --truth; else from the file of that content beside the base; else by exact search, or by
 * FAISS, whose file has another name. */
static int truth_get(struct ann_run *r)
{
    char cached[PATH_ROOM];
    const char *path = r->o->truth ? r->o->truth : cached;
    int64_t *ids = NULL;
    size_t n, per_query;
    int rc;
    const char *by = r->o->truth_by_faiss ? "faiss-" : "";
    snprintf(cached, sizeof cached, "%.3900s.truth-%s%s-k%s-%016" PRIx64 ".ivecs", r->o->base, by,
             mn_metric_name(r->o->metric), r->k, hash_sets(r));
    if (!r->o->truth && access(cached, R_OK) != 0) {
        printf("true neighbours of %zu queries, into %s\n", r->asked.n, cached);
        fflush(stdout);
        if (once("truth", (char *[]){NULL, "worker", "truth", "--db", r->db, "--queries",
                                     r->queries, "--k", r->k, "--memory", r->build_memory, "--out",
                                     cached, r->o->truth_by_faiss ? "--by-faiss" : NULL, NULL}) !=
            0)
            return 1;
    }
    if (truth_read(path, &ids, &n, &per_query) != 0)
        return 1;
    rc = n < r->asked.n ? bench_fail("%s: has %zu queries, %zu are asked", path, n, r->asked.n)
                        : truth_from_ids(&r->truth, ids, n, per_query);
    free(ids);
    return rc;
}

static bool targets_parse(struct ann_run *r, const char *list)
{
    for (const char *p = list; *p; p += *p == ',') {
        char *end;
        double recall = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !(recall >= 0.5 && recall < 1) ||
            r->n_targets == MAX_TARGETS) {
            bench_fail("--recall is '%s'; it may be up to %d numbers from 0.5 to 0.999, as in "
                       "0.9,0.95",
                       list, MAX_TARGETS);
            return false;
        }
        r->targets[r->n_targets++] = recall;
        p = end;
    }
    return r->n_targets > 0;
}

static void dataset_name(struct ann_run *r)
{
    const char *name = strrchr(r->o->base, '/');
    name = r->o->name ? r->o->name : name ? name + 1 : r->o->base;
    snprintf(r->dataset, sizeof r->dataset, "%.100s", name);
    if (!r->o->name)
        r->dataset[strcspn(r->dataset, ".")] = 0;
}

static int run_open(struct ann_run *r)
{
    const struct ann_opts *o = r->o;
    uint64_t bytes;
    if (vectors_read(&r->rows, o->base) != 0 || vectors_read(&r->asked, o->queries) != 0)
        return 1;
    if (r->rows.dim != r->asked.dim)
        return bench_fail("%s has vectors of %" PRIu32 " elements, %s of %" PRIu32, o->base,
                          r->rows.dim, o->queries, r->asked.dim);
    if (o->queries_asked && o->queries_asked < r->asked.n)
        r->asked.n = (size_t)o->queries_asked;
    if (work_open(o->work, r->dir, sizeof r->dir - 32) != 0)
        return 1;
    dataset_name(r);
    snprintf(r->base, sizeof r->base, "%.4100s/base.fbin", r->dir);
    snprintf(r->queries, sizeof r->queries, "%.4100s/queries.fbin", r->dir);
    snprintf(r->db, sizeof r->db, "%.4100s/bench.db", r->dir);
    snprintf(r->answers, sizeof r->answers, "%.4100s/answers", r->dir);
    bytes = (uint64_t)r->rows.n * r->rows.dim * sizeof(float);
    bytes += bytes + ((uint64_t)256 << 20); /* vectors, codes, and what a search takes */
    snprintf(r->memory, sizeof r->memory, "%" PRIu64, o->memory ? o->memory : bytes);
    snprintf(r->build_memory, sizeof r->build_memory, "%" PRIu64,
             o->build_memory ? o->build_memory
             : o->memory     ? o->memory
                             : bytes);
    snprintf(r->threads, sizeof r->threads, "%" PRIu64, o->threads);
    snprintf(r->k, sizeof r->k, "%" PRIu64, o->k);
    r->truth = (struct truth){
        .base = &r->rows, .queries = &r->asked, .k = (size_t)o->k, .metric = o->metric};
    return fbin_write(r->base, r->rows.rows, r->rows.n, r->rows.dim) ||
           fbin_write(r->queries, r->asked.rows, r->asked.n, r->asked.dim);
}

/* ---- Mneme ----------------------------------------------------------------------------------- */

static double field(const json_t *answer, const char *name)
{
    return json_number_value(json_object_get(answer, name));
}

/* Drops a file from the system's page cache, so that cold means cold where O_DIRECT is refused. */
static void drop_cached(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (fsync(fd) == 0)
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static int mneme_build(struct ann_run *r)
{
    char sidecar[PATH_ROOM + 8], wal[PATH_ROOM + 8];
    json_t *answer;
    bool made;
    printf("importing %zu x %" PRIu32 " f32\n", r->rows.n, r->rows.dim);
    fflush(stdout);
    if (once("import", (char *[]){NULL, "worker", "import", "--db", r->db, "--base", r->base,
                                  "--metric", (char *)mn_metric_name(r->o->metric),
                                  r->o->from_rows ? "--rerank-rows" : NULL, NULL}) != 0)
        return 1;
    answer = worker_once("fold", (char *[]){NULL, "worker", "fold", "--db", r->db, "--memory",
                                            r->build_memory, "--threads", r->threads, NULL});
    if (!answer)
        return 1;
    r->build_wall_s = field(answer, "wall_us") / 1e6;
    r->build_cpu_s = field(answer, "cpu_us") / 1e6;
    r->build_rss_kb = (uint64_t)field(answer, "rss_peak_kb");
    made = json_is_true(json_object_get(answer, "index"));
    printf("index   %.1f s CPU, %.1f s wall, %.0f postings, peak RSS %.0f MiB\n", r->build_cpu_s,
           r->build_wall_s, field(answer, "postings"), (double)r->build_rss_kb / 1024);
    json_decref(answer);
    if (!made)
        printf("so few rows need no index: Mneme searches exactly\n");
    snprintf(sidecar, sizeof sidecar, "%s-mneme", r->db);
    snprintf(wal, sizeof wal, "%s-wal", r->db);
    r->db_bytes = file_bytes(r->db) + file_bytes(wal);
    r->sidecar_bytes = file_bytes(sidecar);
    if (r->o->cold) {
        drop_cached(r->db);
        drop_cached(sidecar);
    }
    return 0;
}

static int mneme_start(struct ann_run *r)
{
    char *argv[] = {NULL,       "worker",
                    "ann",      "--db",
                    r->db,      "--queries",
                    r->queries, "--k",
                    r->k,       "--memory",
                    r->memory,  "--threads",
                    r->threads, r->o->cold ? "--cold" : NULL,
                    NULL};
    json_t *ready;
    if (worker_start(&r->mneme, "mneme", r->o->threads, argv) != 0)
        return 1;
    ready = worker_answer(&r->mneme);
    json_decref(ready);
    return ready ? 0 : 1;
}

/* ---- Points ---------------------------------------------------------------------------------- */

/* Measures one point over all queries. *rss_kb: what the process holds afterwards. */
static int point_measure(struct ann_run *r, struct worker *w, struct point *p, uint64_t *rss_kb)
{
    double n = (double)r->asked.n, recall;
    json_t *answer = worker_ask(w, "set %s", p->text);
    if (!answer)
        return 1;
    json_decref(answer);
    answer = worker_ask(w, "measure 0 %zu %" PRIu64 " %s", r->asked.n, r->o->batch, r->answers);
    if (!answer || truth_recall_of_file(&r->truth, w->name, r->answers, &recall) != 0) {
        json_decref(answer);
        return 1;
    }
    figure_add(&p->figures[CPU], field(answer, "cpu_us") / n);
    figure_add(&p->figures[WALL], field(answer, "wall_us") / n);
    figure_add(&p->figures[P50], field(answer, "p50_us"));
    figure_add(&p->figures[P99], field(answer, "p99_us"));
    figure_add(&p->figures[READS], field(answer, "reads") / n);
    figure_add(&p->figures[BYTES], field(answer, "bytes") / n);
    figure_add(&p->figures[DISK], field(answer, "read_bytes") / n);
    figure_add(&p->figures[RECALL], recall);
    *rss_kb = (uint64_t)field(answer, "rss_kb");
    json_decref(answer);
    return 0;
}

static int pair_measure(struct ann_run *r, struct pair *p)
{
    uint64_t rss_kb;
    for (size_t i = 0; i < p->n_points; i++)
        if (point_measure(r, p->worker, &p->points[i], p->build ? &p->build->rss_kb : &rss_kb) != 0)
            return 1;
    return 0;
}

/* One unrecorded measurement of Mneme at each target: a warm-up, and what peers must reach. */
static int mneme_reach(struct ann_run *r)
{
    uint64_t rss_kb;
    for (size_t t = 0; t < r->n_targets; t++) {
        struct point p = {.text = ""};
        snprintf(p.text, sizeof p.text, "recall=%g", r->targets[t]);
        if (point_measure(r, &r->mneme, &p, &rss_kb) != 0)
            return 1;
        double got = figure_median(&p.figures[RECALL]);
        r->reached[t] = got < r->targets[t] ? got : r->targets[t];
        struct pair *pair = &r->pairs[r->n_pairs++];
        *pair = (struct pair){
            .worker = &r->mneme, .asked = r->targets[t], .recall = got, .n_points = 1};
        memcpy(pair->points[0].text, p.text, sizeof p.text);
    }
    return 0;
}

/* ---- Peers ----------------------------------------------------------------------------------- */

static bool chosen(const struct ann_run *r, size_t system, const struct build *b)
{
    for (size_t t = 0; t < r->n_targets; t++)
        if (r->choices[system][t].build == b)
            return true;
    return false;
}

static int build_start(struct ann_run *r, struct build *b)
{
    char program[PATH_ROOM];
    if (!peer_path(r->o->peers_dir, peer_file(b->system), program, sizeof program))
        return bench_fail("%s is not there: tools/peers --ann %s builds it", program, b->system);
    return worker_start(&b->worker, b->system, r->o->threads,
                        (char *[]){program, "--base", r->base, "--queries", r->queries, "--metric",
                                   (char *)mn_metric_name(r->o->metric), "--k", r->k, "--threads",
                                   r->threads, "--build", b->text, NULL});
}

/* Waits for one of builds [0, n) that is started and not taken yet; its answer is there to read. */
static struct build *build_wait(struct build *builds, const bool *taken, size_t n)
{
    struct pollfd fds[MAX_BUILDS];
    for (size_t i = 0; i < n; i++)
        fds[i] = (struct pollfd){.fd = taken[i] ? -1 : builds[i].worker.from, .events = POLLIN};
    if (poll(fds, (nfds_t)n, (int)worker_timeout_s * 1000) <= 0) {
        bench_fail("no peer has ended its build for %" PRIu64 " s", worker_timeout_s);
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        if (fds[i].revents)
            return &builds[i];
    return NULL;
}

static int build_take(struct build *b)
{
    json_t *ready = worker_answer(&b->worker);
    if (!ready)
        return 1;
    b->wall_s = field(ready, "build_wall_us") / 1e6;
    b->cpu_s = field(ready, "build_cpu_us") / 1e6;
    b->db_bytes = (uint64_t)field(ready, "db_bytes");
    json_decref(ready);
    printf("%-14s %s: built in %.1f s CPU\n", b->system, b->text, b->cpu_s);
    fflush(stdout);
    return 0;
}

static size_t system_of(const char *peer)
{
    size_t i = 0;
    while (strcmp(peer_names()[i], peer) != 0)
        i++;
    return i;
}

/* Sweeps a build that is ready. Of those swept, the ones that are best at no recall end at once. */
static int build_sweep(struct ann_run *r, struct build *b, const bool *taken)
{
    const struct sweep s = {.truth = &r->truth,
                            .queries = (size_t)r->o->sweep,
                            .batch = (size_t)r->o->batch,
                            .answers = r->answers};
    size_t system = system_of(b->system);
    if (sweep_build(&s, b, r->reached, r->n_targets, r->choices[system]) != 0)
        return 1;
    for (size_t i = 0; i < r->n_builds; i++) {
        struct build *other = &r->builds[i];
        if (taken[i] && other->worker.pid && system_of(other->system) == system &&
            !chosen(r, system, other) && worker_stop(&other->worker, NULL) != 0)
            return 1;
    }
    return 0;
}

/* Builds and sweeps all variants of all peers, --builds of them at once. */
static int peers_build(struct ann_run *r)
{
    bool taken[MAX_BUILDS] = {false};
    size_t started = 0;
    for (size_t done = 0; done < r->n_builds; done++) {
        for (; started < r->n_builds && started - done < r->o->at_once; started++)
            if (build_start(r, &r->builds[started]) != 0)
                return 1;
        struct build *b = build_wait(r->builds, taken, started);
        if (!b)
            return 1;
        taken[b - r->builds] = true;
        if (build_take(b) != 0 || build_sweep(r, b, taken) != 0)
            return 1;
    }
    return 0;
}

static void pair_add(struct ann_run *r, size_t system, size_t t, const char *peer)
{
    const struct choice *c = &r->choices[system][t];
    struct pair *p = &r->pairs[r->n_pairs];
    if (!c->build) {
        printf("%-14s reaches no recall of %.4f with any setting\n", peer, r->reached[t]);
        return;
    }
    r->n_pairs++;
    *p = (struct pair){.worker = &c->build->worker,
                       .build = c->build,
                       .asked = r->targets[t],
                       .recall = r->reached[t],
                       .n_points = c->low == c->high ? 1 : 2};
    snprintf(p->points[0].text, sizeof p->points[0].text, "%s%" PRIu64, c->curve->fixed, c->low);
    snprintf(p->points[1].text, sizeof p->points[1].text, "%s%" PRIu64, c->curve->fixed, c->high);
}

/* Of a peer's several builds, those in --variants stay. Their number. */
static size_t variants_keep(const char *variants, struct build *builds, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        const char *at = n > 1 && variants ? strstr(variants, builds[i].text) : builds[i].text;
        size_t len = strlen(builds[i].text);
        if (at && (at[len] == 0 || at[len] == ';'))
            builds[kept++] = builds[i];
    }
    return kept;
}

static int peers_start(struct ann_run *r)
{
    const char *const *peers = peer_names();
    for (size_t i = 0; peers[i]; i++)
        if (list_has(r->o->peers, peers[i])) {
            struct build *first = r->builds + r->n_builds;
            size_t n = builds_of(peers[i], r->rows.n, r->rows.dim, first, MAX_BUILDS - r->n_builds);
            r->n_builds += variants_keep(r->o->variants, first, n);
        }
    if (peers_build(r) != 0)
        return 1;
    for (size_t i = 0; peers[i]; i++)
        for (size_t t = 0; list_has(r->o->peers, peers[i]) && t < r->n_targets; t++)
            pair_add(r, i, t, peers[i]);
    return 0;
}

/* ---- Results --------------------------------------------------------------------------------- */

/* A figure at the pair's recall, between its points. */
static double pair_figure(const struct pair *p, enum point_figure f)
{
    double a = figure_median(&p->points[0].figures[f]), b;
    if (f == RECALL && p->build && p->n_points == 2)
        return p->recall;
    if (p->n_points == 1)
        return a;
    b = figure_median(&p->points[1].figures[f]);
    if (!(a > 0) || !(b > 0))
        return b;
    return interpolate(figure_median(&p->points[0].figures[RECALL]), a,
                       figure_median(&p->points[1].figures[RECALL]), b, p->recall);
}

/* The knob's numbers of a peer's two points, as in "nprobe=20..23". */
static void pair_param(const struct pair *p, char *out, size_t room)
{
    const char *last = strrchr(p->points[1].text, '=');
    int len = snprintf(out, room, "%s%s%s", p->build ? p->build->text : "", p->build ? "," : "",
                       p->points[0].text);
    if (p->n_points == 2 && last && (size_t)len < room)
        snprintf(out + len, room - (size_t)len, "..%s", last + 1);
}

static int pair_report(struct ann_run *r, const struct pair *p)
{
    const struct build *b = p->build;
    char param[256];
    double cpu = pair_figure(p, CPU);
    json_t *line = json_object();
    pair_param(p, param, sizeof param);
    json_object_set_new(line, "bench", json_string("ann"));
    json_object_set_new(line, "system", json_string(b ? b->system : "mneme"));
    json_object_set_new(line, "dataset", json_string(r->dataset));
    json_object_set_new(line, "n", json_integer((json_int_t)r->rows.n));
    json_object_set_new(line, "dim", json_integer(r->rows.dim));
    json_object_set_new(line, "metric", json_string(mn_metric_name(r->o->metric)));
    json_object_set_new(line, "k", json_integer((json_int_t)r->o->k));
    json_object_set_new(line, "threads", json_integer((json_int_t)r->o->threads));
    json_object_set_new(line, "param", json_string(param));
    json_put_number(line, "asked", p->asked);
    json_put_number(line, "recall", pair_figure(p, RECALL));
    json_put_number(line, "qps_wall", 1e6 / pair_figure(p, WALL));
    json_put_number(line, "cpu_us_per_query", cpu);
    json_put_number(line, "p50_us", pair_figure(p, P50));
    json_put_number(line, "p99_us", pair_figure(p, P99));
    json_put_number(line, "ios_per_query", pair_figure(p, READS));
    json_put_number(line, "bytes_per_query", pair_figure(p, BYTES));
    json_put_number(line, "disk_bytes_per_query", pair_figure(p, DISK));
    json_put_number(line, "rss_bytes", (double)(b ? b->rss_kb : r->mneme_rss_kb) * 1024);
    json_put_number(line, "build_rss_bytes", (double)(b ? 0 : r->build_rss_kb) * 1024);
    json_object_set_new(line, "db_bytes",
                        json_integer((json_int_t)(b ? b->db_bytes : r->db_bytes)));
    json_object_set_new(line, "sidecar_bytes",
                        json_integer((json_int_t)(b ? 0 : r->sidecar_bytes)));
    json_put_number(line, "build_wall_s", b ? b->wall_s : r->build_wall_s);
    json_put_number(line, "build_cpu_s", b ? b->cpu_s : r->build_cpu_s);
    json_object_set_new(line, "memory", json_integer((json_int_t)strtoull(r->memory, NULL, 10)));
    json_object_set_new(line, "passes", json_integer((json_int_t)r->o->passes));
    json_object_set_new(line, "queries", json_integer((json_int_t)r->asked.n));
    json_object_set_new(line, "cold", json_boolean(r->o->cold));
    if (!b)
        json_object_set_new(line, "rerank", json_string(r->o->from_rows ? "rows" : "copy"));
    printf("%-14s %-46s recall %.4f %9.1f us CPU  p50 %.0f p99 %.0f us", b ? b->system : "mneme",
           param, pair_figure(p, RECALL), cpu, pair_figure(p, P50), pair_figure(p, P99));
    if (!b && pair_figure(p, READS) > 0)
        printf("  %.1f reads", pair_figure(p, READS));
    printf("\n");
    return results_line(&r->results, line);
}

/* The cost of Mneme's knob: its settings along the scale as points of their own. What the best
 * fixed setting costs at a target is read off them. */
static int curve_measure(struct ann_run *r)
{
    static const double asked[] = {0.6,  0.7,  0.8,  0.85,  0.9,  0.92,  0.94,  0.95,
                                   0.96, 0.97, 0.98, 0.985, 0.99, 0.993, 0.995, 0.998};
    uint64_t rss_kb;
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        struct pair p = {.worker = &r->mneme, .asked = asked[i], .n_points = 1};
        snprintf(p.points[0].text, sizeof p.points[0].text, "recall=%g", asked[i]);
        for (uint64_t pass = 0; pass < 3; pass++)
            if (point_measure(r, &r->mneme, &p.points[0], &rss_kb) != 0)
                return 1;
        r->results.label = "curve";
        int rc = pair_report(r, &p);
        r->results.label = r->o->label;
        if (rc != 0)
            return 1;
    }
    return 0;
}

static int measure(struct ann_run *r)
{
    for (uint64_t pass = 0; pass < r->o->passes; pass++)
        for (size_t turn = 0; turn < r->n_pairs; turn++)
            if (pair_measure(r, &r->pairs[(turn + pass) % r->n_pairs]) != 0)
                return 1;
    return 0;
}

/* Ends all; Mneme's figure is its peak, a peer's what it held after its last search. */
static int stop(struct ann_run *r)
{
    if (worker_stop(&r->mneme, &r->mneme_rss_kb) != 0)
        return 1;
    for (size_t i = 0; i < r->n_builds; i++)
        if (r->builds[i].worker.pid && worker_stop(&r->builds[i].worker, NULL) != 0)
            return 1;
    return 0;
}

static int run_all(struct ann_run *r)
{
    int rc = 1;
    if (run_open(r) != 0 || mneme_build(r) != 0 || truth_get(r) != 0 || mneme_start(r) != 0 ||
        mneme_reach(r) != 0 || peers_start(r) != 0 || measure(r) != 0 ||
        (r->o->curve && curve_measure(r) != 0) || stop(r) != 0)
        goto done;
    rc = 0;
    for (size_t t = 0; t < r->n_targets && rc == 0; t++)
        for (size_t i = 0; i < r->n_pairs && rc == 0; i++)
            if (r->pairs[i].asked == r->targets[t])
                rc = pair_report(r, &r->pairs[i]);
done:
    worker_kill(&r->mneme);
    for (size_t i = 0; i < r->n_builds; i++)
        worker_kill(&r->builds[i].worker);
    return rc;
}

int bench_ann(int argc, char **argv)
{
    struct ann_opts o = {.k = 10,
                         .threads = 1,
                         .passes = 5,
                         .sweep = 2000,
                         .at_once = 1,
                         .peers = "",
                         .recall = "0.90,0.95,0.99"};
    struct ann_run *r = calloc(1, sizeof *r);
    int rc = 1;
    if (!r)
        return bench_fail("no memory");
    r->o = &o;
    worker_timeout_s = 3600; /* peers take their time to build */
    const struct opt opts[] = {
        {"--base", OPT_TEXT, &o.base, 0, 0, "F!", "base vectors, any format that import reads"},
        {"--queries", OPT_TEXT, &o.queries, 0, 0, "F!", "query vectors"},
        {"--truth", OPT_TEXT, &o.truth, 0, 0, "F",
         "true neighbours, ivecs (default: found by "
         "exact search, kept beside the base)"},
        {"--truth-by-faiss", OPT_FLAG, &o.truth_by_faiss, 0, 0, NULL,
         "they are found by FAISS's flat index (tools/faiss builds it)"},
        {"--metric", OPT_METRIC, &o.metric, 0, 0, "M", "l2 (default), ip or cosine"},
        {"--k", OPT_COUNT, &o.k, 1, MN_MAX_K, "K", "hits of a query"},
        {"--threads", OPT_COUNT, &o.threads, 1, 256, "N", "threads of a search, peers' too"},
        {"--memory", OPT_SIZE, &o.memory, (uint64_t)4 << 20, INT64_MAX, "SIZE",
         "Mneme's cap (default: enough to hold all)"},
        {"--build-memory", OPT_SIZE, &o.build_memory, (uint64_t)4 << 20, INT64_MAX, "SIZE",
         "its cap while it builds (default: --memory)"},
        {"--cold", OPT_FLAG, &o.cold, 0, 0, NULL, "vectors are read from the disk for each query"},
        {"--rerank-rows", OPT_FLAG, &o.from_rows, 0, 0, NULL,
         "Mneme takes exact distances from the rows, not from a copy"},
        {"--recall", OPT_TEXT, &o.recall, 0, 0, "LIST", "recall targets"},
        {"--curve", OPT_FLAG, &o.curve, 0, 0, NULL,
         "and Mneme at further targets from 0.6 to 0.998"},
        {"--peers", OPT_TEXT, &o.peers, 0, 0, "LIST",
         "of hnswlib,faiss-ivfpqfs,usearch,zvec,lancedb"},
        {"--peers-dir", OPT_TEXT, &o.peers_dir, 0, 0, "DIR",
         "what tools/peers built (default: peers beside this program)"},
        {"--passes", OPT_COUNT, &o.passes, 1, MAX_PASSES, "N", "passes over all systems"},
        {"--builds", OPT_COUNT, &o.at_once, 1, MAX_BUILDS, "N",
         "peers' builds that run at once, each a process"},
        {"--variants", OPT_TEXT, &o.variants, 0, 0, "LIST",
         "of a peer with several builds these only: \"nlist=500,by_residual=0;...\""},
        {"--sweep", OPT_COUNT, &o.sweep, 1, 1000000, "N",
         "queries that a peer's setting is tried with"},
        {"--batch", OPT_COUNT, &o.batch, 1, MN_MAX_QUERIES, "N",
         "queries a call (default: 1; with threads, 32 for each)"},
        {"--max-queries", OPT_COUNT, &o.queries_asked, 1, 1u << 30, "N",
         "the first N queries only"},
        {"--dataset", OPT_TEXT, &o.name, 0, 0, "NAME", "put into each line (default: the base's)"},
        {"--timeout", OPT_COUNT, &worker_timeout_s, 1, 86400, "S", "seconds for one answer"},
        {"--work", OPT_TEXT, &o.work, 0, 0, "DIR", "where databases lie (default: TMPDIR)"},
        {"--json", OPT_TEXT, &o.json, 0, 0, "OUT", "takes the results, one JSON object a line"},
        {"--label", OPT_TEXT, &o.label, 0, 0, "TEXT", "put into each line"},
        {"--data", OPT_TEXT, &r->results.data, 0, 0, "TEXT",
         "put into each line: the vectors' origin"},
    };
    enum opts_result parsed =
        opts_parse("usage: mneme_bench ann --base F --queries F [OPTION]...\n\n"
                   "Measures search by recall target on a committed database opened anew, and\n"
                   "peers at their cheapest setting of the same recall. Each system runs in a\n"
                   "process of its own, passes in turn, medians; answers are checked.\n",
                   opts, sizeof opts / sizeof *opts, argc, argv);
    if (parsed != OPTS_GO) {
        rc = opts_exit(parsed);
        goto done;
    }
    o.batch = o.batch ? o.batch : o.threads > 1 ? 32 * o.threads : 1;
    if (!targets_parse(r, o.recall) || !list_checked("--peers", o.peers, peer_names())) {
        rc = 2;
        goto done;
    }
    if (results_open(&r->results, o.json, o.label, argc, argv) == 0)
        rc = run_all(r);
    if (results_close(&r->results) != 0)
        rc = 1;
done:
    work_close(r->dir);
    vectors_fini(&r->rows);
    vectors_fini(&r->asked);
    truth_fini(&r->truth);
    free(r);
    return rc;
}
