/* Search under conditions, beside searches without, exact ones, and other systems.
 *
 * Each row has two attributes (filter.h): `a`, independent of its vector, and `p`, the rank of its
 * projection on one random direction. A query asks for a share of the rows, its selectivity:
 *   independent  a random range of `a`
 *   positive     the range of `p` around the query's own projection: the matches are near
 *   negative     the range of `p` at the end that is farther from it: the matches are far
 *
 * True neighbours come from searches for recall 1.0, which compare the vectors of all matches; the
 * first few queries' are checked against plain loops here. Hits are right if their distance, in
 * double precision, is not beyond the true k-th one's and their attribute is in the range; a hit
 * outside it ends the run. A row is missing where fewer than min(k, matches) come back.
 *
 * Mneme's cells are measured in passes, each beside a pass without conditions; medians stand. A
 * peer's knob doubles for each cell until it reaches the recall asked for, tried with some of the
 * queries; if it does not, its largest setting stands. It is then measured once. */
#include "bench/filter.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/sweep.h"

enum { PATH_ROOM = 4200, MAX_CELLS = 60, CHECKED = 3, TRIED = 50 };

const char *const filter_columns[FILTER_COLUMNS] = {"a", "p"};

/* ---- Files ----------------------------------------------------------------------------------- */

double *filter_values_read(const char *path, size_t n)
{
    double *values = malloc(n * FILTER_COLUMNS * sizeof *values);
    FILE *f = path ? fopen(path, "rb") : NULL;
    bool good = values && f && fread(values, FILTER_COLUMNS * sizeof *values, n, f) == n;
    if (f)
        fclose(f);
    if (good)
        return values;
    bench_fail("%s: cannot be read", path ? path : "no --attributes");
    free(values);
    return NULL;
}

int filter_ranges_read(struct filter_ranges *r, const char *path, size_t n)
{
    double column = 0;
    FILE *f = fopen(path, "rb");
    *r = (struct filter_ranges){.n = n, .bounds = malloc(n * 2 * sizeof(double))};
    bool good = f && r->bounds && fread(&column, sizeof column, 1, f) == 1 && column >= 0 &&
                column < FILTER_COLUMNS && fread(r->bounds, 2 * sizeof(double), n, f) == n;
    if (f)
        fclose(f);
    r->column = (uint32_t)column;
    if (good)
        return 0;
    filter_ranges_fini(r);
    return bench_fail("%s: cannot be read", path);
}

int filter_ranges_write(const struct filter_ranges *r, const char *path)
{
    double column = r->column;
    FILE *f = fopen(path, "wb");
    bool good = f && fwrite(&column, sizeof column, 1, f) == 1 &&
                fwrite(r->bounds, 2 * sizeof(double), r->n, f) == r->n;
    if ((f && fclose(f) != 0) || !good)
        return bench_fail("%s: cannot be written", path);
    return 0;
}

void filter_ranges_fini(struct filter_ranges *r)
{
    free(r->bounds);
    *r = (struct filter_ranges){0};
}

/* ---- Attributes ------------------------------------------------------------------------------ */

enum correlation { INDEPENDENT, POSITIVE, NEGATIVE, CORRELATIONS };
static const char *const correlation_words[] = {"independent", "positive", "negative"};

enum cell_figure { CPU, CPU_UNFILTERED, READS, RECALL, MISSING, CELL_FIGURES };

struct cell {
    double selectivity;
    enum correlation correlation;
    struct filter_ranges ranges;
    char path[PATH_ROOM]; /* of their file */
    size_t *matches;      /* [queries] */
    double *kth;          /* [queries] the true k-th distance, or that of the last match */
    double cpu_exact;
    struct figure figures[CELL_FIGURES];
    char plan[32];
};

struct filter_opts {
    const char *base, *queries, *peers, *peers_dir, *work, *json, *label, *selectivity;
    mn_metric metric;
    uint64_t k, memory, passes, queries_asked;
    double recall;
    bool correlated;
};

struct filter_run {
    const struct filter_opts *o;
    char dir[PATH_ROOM], base[PATH_ROOM], queries[PATH_ROOM], values_path[PATH_ROOM],
        db[PATH_ROOM], answers[PATH_ROOM], dataset[128], memory[24], k[24];
    struct vectors rows, asked;
    double *values;                  /* [rows][FILTER_COLUMNS] */
    double *sorted[FILTER_COLUMNS];  /* [rows] */
    double *place;                   /* [asked] of their projections, 0 .. 1 */
    struct cell cells[MAX_CELLS];
    size_t n_cells;
    struct worker mneme;
    struct results results;
};

static int by_number(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* How many of n ascending numbers are below x. */
static size_t below(const double *sorted, size_t n, double x)
{
    size_t first = 0, end = n;
    while (first < end) {
        size_t mid = first + (end - first) / 2;
        if (sorted[mid] < x)
            first = mid + 1;
        else
            end = mid;
    }
    return first;
}

static double uniform(struct bench_rng *r)
{
    return (double)(bench_rand(r) >> 11) * 0x1p-53;
}

static double project(const float *v, const double *direction, uint32_t dim)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++)
        sum += (double)v[i] * direction[i];
    return sum;
}

static int values_make(struct filter_run *r)
{
    size_t n = r->rows.n;
    uint32_t dim = r->rows.dim;
    struct bench_rng rng = {11};
    double *direction = malloc(dim * sizeof *direction), *projected = malloc(n * sizeof *projected);
    r->values = malloc(n * FILTER_COLUMNS * sizeof *r->values);
    r->place = malloc(r->asked.n * sizeof *r->place);
    for (int c = 0; c < FILTER_COLUMNS; c++)
        r->sorted[c] = malloc(n * sizeof(double));
    if (!direction || !projected || !r->values || !r->place || !r->sorted[0] || !r->sorted[1]) {
        free(direction);
        free(projected);
        return bench_fail("no memory for attributes");
    }
    for (uint32_t i = 0; i < dim; i++)
        direction[i] = (double)bench_normal(&rng);
    for (size_t i = 0; i < n; i++)
        projected[i] = project(r->rows.rows + i * dim, direction, dim);
    memcpy(r->sorted[FILTER_P], projected, n * sizeof *projected);
    qsort(r->sorted[FILTER_P], n, sizeof(double), by_number);
    for (size_t i = 0; i < n; i++) {
        r->values[i * FILTER_COLUMNS + FILTER_A] = uniform(&rng);
        r->values[i * FILTER_COLUMNS + FILTER_P] =
            (double)below(r->sorted[FILTER_P], n, projected[i]) / (double)n;
    }
    for (size_t q = 0; q < r->asked.n; q++)
        r->place[q] = (double)below(r->sorted[FILTER_P], n,
                                    project(r->asked.rows + q * dim, direction, dim)) /
                      (double)n;
    for (int c = 0; c < FILTER_COLUMNS; c++) {
        for (size_t i = 0; i < n; i++)
            r->sorted[c][i] = r->values[i * FILTER_COLUMNS + (size_t)c];
        qsort(r->sorted[c], n, sizeof(double), by_number);
    }
    free(direction);
    free(projected);
    FILE *f = fopen(r->values_path, "wb");
    bool good = f && fwrite(r->values, FILTER_COLUMNS * sizeof(double), n, f) == n;
    if ((f && fclose(f) != 0) || !good)
        return bench_fail("%s: cannot be written", r->values_path);
    return 0;
}

/* ---- Cells ----------------------------------------------------------------------------------- */

static int cell_make(struct filter_run *r, struct cell *c, double selectivity,
                     enum correlation correlation)
{
    size_t nq = r->asked.n;
    struct bench_rng rng = {1000 + r->n_cells};
    *c = (struct cell){.selectivity = selectivity, .correlation = correlation,
                       .ranges = {.column = correlation == INDEPENDENT ? FILTER_A : FILTER_P,
                                  .n = nq, .bounds = malloc(nq * 2 * sizeof(double))},
                       .matches = calloc(nq, sizeof *c->matches),
                       .kth = calloc(nq, sizeof *c->kth)};
    if (!c->ranges.bounds || !c->matches || !c->kth)
        return bench_fail("no memory for ranges");
    const double *sorted = r->sorted[c->ranges.column];
    for (size_t q = 0; q < nq; q++) {
        double most = 1 - selectivity, low = uniform(&rng) * most;
        if (correlation == POSITIVE)
            low = fmin(fmax(r->place[q] - selectivity / 2, 0), most);
        else if (correlation == NEGATIVE)
            low = r->place[q] < 0.5 ? most : 0;
        c->ranges.bounds[2 * q] = low;
        c->ranges.bounds[2 * q + 1] = selectivity < 1 ? low + selectivity : 2;
        c->matches[q] = below(sorted, r->rows.n, c->ranges.bounds[2 * q + 1]) -
                        below(sorted, r->rows.n, low);
    }
    snprintf(c->path, sizeof c->path, "%.4000s/ranges-%zu", r->dir, r->n_cells);
    return filter_ranges_write(&c->ranges, c->path);
}

static int cells_make(struct filter_run *r)
{
    for (const char *p = r->o->selectivity; *p; p += *p == ',') {
        char *end;
        double s = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !(s > 0 && s <= 1) ||
            r->n_cells + CORRELATIONS > MAX_CELLS)
            return bench_fail("--selectivity is '%s'; it may be up to %d numbers above 0 up to 1",
                              r->o->selectivity, MAX_CELLS / CORRELATIONS);
        for (int c = 0; c < (r->o->correlated ? CORRELATIONS : 1); c++) {
            if (cell_make(r, &r->cells[r->n_cells], s, (enum correlation)c) != 0)
                return 1;
            r->n_cells++;
        }
        p = end;
    }
    return 0;
}

static bool in_range(const struct filter_run *r, const struct cell *c, size_t q, size_t row)
{
    double v = r->values[row * FILTER_COLUMNS + c->ranges.column];
    return v >= c->ranges.bounds[2 * q] && v < c->ranges.bounds[2 * q + 1];
}

static double distance(const struct filter_run *r, size_t q, size_t row)
{
    uint32_t dim = r->rows.dim;
    return truth_distance(r->asked.rows + q * dim, r->rows.rows + row * dim, dim, r->o->metric);
}

static size_t wanted(const struct filter_run *r, const struct cell *c, size_t q)
{
    return c->matches[q] < r->o->k ? c->matches[q] : (size_t)r->o->k;
}

/* ---- Answers --------------------------------------------------------------------------------- */

/* Of the first nq queries. */
static int64_t *answers_read(const struct filter_run *r, size_t nq)
{
    size_t n = nq * r->o->k;
    int64_t *ids = malloc(n * sizeof *ids);
    FILE *f = fopen(r->answers, "rb");
    bool good = ids && f && fread(ids, sizeof *ids, n, f) == n;
    if (f)
        fclose(f);
    if (good)
        return ids;
    free(ids);
    bench_fail("%s: cannot be read", r->answers);
    return NULL;
}

/* Hits of one query that are right; those that meet the conditions count as found. */
static size_t score_query(const struct filter_run *r, const struct cell *c, size_t q,
                          const int64_t *ids, size_t *found, size_t *wrong)
{
    size_t right = 0;
    *found = 0;
    for (size_t i = 0; i < r->o->k; i++) {
        bool good = ids[i] >= 0 && (size_t)ids[i] < r->rows.n && in_range(r, c, q, (size_t)ids[i]);
        *wrong += ids[i] >= 0 && !good;
        *found += good;
        right += good && distance(r, q, (size_t)ids[i]) <= c->kth[q];
    }
    return right;
}

/* Share of right hits, and rows missing, of the answers to nq queries in the file. */
static int answers_score(const struct filter_run *r, const struct cell *c, const char *system,
                         size_t nq, double *recall, double *missing)
{
    double right = 0, all = 0;
    size_t wrong = 0;
    int64_t *ids = answers_read(r, nq);
    *recall = *missing = 0;
    if (!ids)
        return 1;
    for (size_t q = 0; q < nq; q++) {
        size_t want = wanted(r, c, q), found;
        right += (double)score_query(r, c, q, ids + q * r->o->k, &found, &wrong);
        all += (double)want;
        *missing += (double)(want - (found < want ? found : want));
    }
    free(ids);
    *recall = all > 0 ? right / all : 1;
    if (wrong && strcmp(system, "mneme") == 0)
        return bench_fail("%zu hits do not meet the conditions", wrong);
    return 0;
}

/* The k-th distances of the answers in the file, which are exact ones; some are checked. */
static int truth_take(const struct filter_run *r, struct cell *c)
{
    int64_t *ids = answers_read(r, r->asked.n);
    size_t n = r->rows.n, k = r->o->k;
    double *all = malloc(n * sizeof *all);
    int rc = ids && all ? 0 : 1;
    for (size_t q = 0; q < r->asked.n && rc == 0; q++) {
        size_t want = wanted(r, c, q);
        for (size_t i = 0; i < want && rc == 0; i++) {
            if (ids[q * k + i] < 0)
                rc = bench_fail("exact search: query %zu has no hit %zu", q, i);
            else
                c->kth[q] = fmax(i ? c->kth[q] : -INFINITY,
                                 distance(r, q, (size_t)ids[q * k + i]));
        }
        if (q >= CHECKED || want == 0 || rc)
            continue;
        size_t m = 0;
        for (size_t i = 0; i < n; i++)
            if (in_range(r, c, q, i))
                all[m++] = distance(r, q, i);
        qsort(all, m, sizeof *all, by_number);
        if (m != c->matches[q] || c->kth[q] > all[want - 1] * (1 + 1e-5) + 1e-9)
            rc = bench_fail("exact search: query %zu: the last hit is at %.9g, not %.9g", q,
                            c->kth[q], all[want - 1]);
    }
    free(ids);
    free(all);
    return rc;
}

/* ---- Mneme ----------------------------------------------------------------------------------- */

static double field(const json_t *answer, const char *name)
{
    return json_number_value(json_object_get(answer, name));
}

static int say(struct worker *w, const char *what, const char *value)
{
    json_t *answer = worker_ask(w, "set %s%s", what, value);
    json_decref(answer);
    return answer ? 0 : 1;
}

/* The first nq queries; *cpu_us of one, *reads of one. */
static int ask_some(struct filter_run *r, struct worker *w, size_t nq, double *cpu_us,
                    double *reads)
{
    json_t *answer = worker_ask(w, "measure 0 %zu 1 %s", nq, r->answers);
    if (!answer)
        return 1;
    *cpu_us = field(answer, "cpu_us") / (double)nq;
    *reads = field(answer, "reads") / (double)nq;
    json_decref(answer);
    return 0;
}

static int mneme_start(struct filter_run *r)
{
    char *metric = (char *)mn_metric_name(r->o->metric);
    printf("building %zu x %" PRIu32 "\n", r->rows.n, r->rows.dim);
    fflush(stdout);
    json_t *built = worker_once(
        "filter-build",
        (char *[]){NULL, "worker", "filter-build", "--db", r->db, "--base", r->base,
                   "--attributes", r->values_path, "--metric", metric, "--memory", r->memory,
                   NULL});
    json_decref(built);
    if (!built || worker_start(&r->mneme, "mneme", 1,
                               (char *[]){NULL, "worker", "filter", "--db", r->db, "--queries",
                                          r->queries, "--k", r->k, "--memory", r->memory,
                                          NULL}) != 0)
        return 1;
    json_t *ready = worker_answer(&r->mneme);
    json_decref(ready);
    return ready ? 0 : 1;
}

static int ask_all(struct filter_run *r, struct worker *w, double *cpu_us, double *reads)
{
    return ask_some(r, w, r->asked.n, cpu_us, reads);
}

/* What is kept from search to search is there afterwards: vectors, attributes. */
static int mneme_warm(struct filter_run *r)
{
    double cpu = 0, reads = 0;
    if (say(&r->mneme, "recall=", "0.9") != 0 || say(&r->mneme, "ranges=", "") != 0 ||
        ask_all(r, &r->mneme, &cpu, &reads) != 0)
        return 1;
    for (size_t i = 0; i < r->n_cells; i++)
        if (say(&r->mneme, "ranges=", r->cells[i].path) != 0 ||
            ask_all(r, &r->mneme, &cpu, &reads) != 0)
            return 1;
    return 0;
}

/* True neighbours of all cells, and what finding them costs. */
static int mneme_truth(struct filter_run *r)
{
    double reads = 0;
    if (mneme_warm(r) != 0 || say(&r->mneme, "recall=", "1") != 0)
        return 1;
    for (size_t i = 0; i < r->n_cells; i++) {
        struct cell *c = &r->cells[i];
        if (say(&r->mneme, "ranges=", c->path) != 0)
            return 1;
        if (ask_all(r, &r->mneme, &c->cpu_exact, &reads) != 0 || truth_take(r, c) != 0)
            return 1;
    }
    return 0;
}

static int mneme_cell(struct filter_run *r, struct cell *c, double unfiltered)
{
    double cpu = 0, reads = 0, recall = 0, missing = 0;
    json_t *plan;
    if (say(&r->mneme, "ranges=", c->path) != 0)
        return 1;
    json_decref(worker_ask(&r->mneme, "tune 1"));
    if (ask_all(r, &r->mneme, &cpu, &reads) != 0 ||
        answers_score(r, c, "mneme", r->asked.n, &recall, &missing) != 0 ||
        !(plan = worker_ask(&r->mneme, "tune 1")))
        return 1;
    snprintf(c->plan, sizeof c->plan, "%s", json_string_value(json_object_get(plan, "setting")));
    json_decref(plan);
    figure_add(&c->figures[CPU], cpu);
    figure_add(&c->figures[CPU_UNFILTERED], unfiltered);
    figure_add(&c->figures[READS], reads);
    figure_add(&c->figures[RECALL], recall);
    figure_add(&c->figures[MISSING], missing);
    return 0;
}

static int mneme_measure(struct filter_run *r)
{
    char recall[24];
    double before = 0, after = 0, reads = 0;
    snprintf(recall, sizeof recall, "%g", r->o->recall);
    if (say(&r->mneme, "recall=", recall) != 0 || say(&r->mneme, "ranges=", "") != 0 ||
        ask_all(r, &r->mneme, &before, &reads) != 0)
        return 1;
    for (uint64_t pass = 0; pass < r->o->passes; pass++)
        for (size_t i = 0; i < r->n_cells; i++) {
            if (say(&r->mneme, "ranges=", "") != 0 ||
                ask_all(r, &r->mneme, &after, &reads) != 0 ||
                mneme_cell(r, &r->cells[i], after) != 0)
                return 1;
        }
    return 0;
}

/* ---- Results --------------------------------------------------------------------------------- */

static int report(struct filter_run *r, const char *system, const struct cell *c,
                  const struct figure *f, const char *plan)
{
    bool mneme = strcmp(system, "mneme") == 0;
    json_t *line = json_object();
    json_object_set_new(line, "bench", json_string("filter"));
    json_object_set_new(line, "system", json_string(system));
    json_object_set_new(line, "dataset", json_string(r->dataset));
    json_object_set_new(line, "n", json_integer((json_int_t)r->rows.n));
    json_object_set_new(line, "dim", json_integer(r->rows.dim));
    json_object_set_new(line, "metric", json_string(mn_metric_name(r->o->metric)));
    json_object_set_new(line, "k", json_integer((json_int_t)r->o->k));
    json_put_number(line, "asked", r->o->recall);
    json_put_number(line, "selectivity", c->selectivity);
    json_object_set_new(line, "correlation", json_string(correlation_words[c->correlation]));
    json_put_number(line, "recall", figure_median(&f[RECALL]));
    json_put_number(line, "rows_missing", figure_max(&f[MISSING]));
    json_put_figure(line, "cpu_us_per_query", &f[CPU]);
    if (mneme) {
        json_put_number(line, "cpu_us_unfiltered", figure_median(&f[CPU_UNFILTERED]));
        json_put_number(line, "cpu_us_exact", c->cpu_exact);
    }
    json_put_number(line, "ios_per_query", figure_median(&f[READS]));
    json_object_set_new(line, "plan", json_string(plan));
    json_object_set_new(line, "queries", json_integer((json_int_t)r->asked.n));
    printf("%-8s %-6g %-11s recall %.4f missing %.0f  %9.1f us CPU", system, c->selectivity,
           correlation_words[c->correlation], figure_median(&f[RECALL]), figure_max(&f[MISSING]),
           figure_median(&f[CPU]));
    if (mneme)
        printf("  %.2fx unfiltered (%.1f)  %.2fx exact (%.1f)  %s",
               figure_median(&f[CPU]) / figure_median(&f[CPU_UNFILTERED]),
               figure_median(&f[CPU_UNFILTERED]), figure_median(&f[CPU]) / c->cpu_exact,
               c->cpu_exact, plan);
    else
        printf("  %s", plan);
    printf("\n");
    fflush(stdout);
    return results_line(&r->results, line);
}

/* ---- Peers ----------------------------------------------------------------------------------- */

static int peer_start(struct filter_run *r, struct build *b)
{
    char program[PATH_ROOM];
    if (!peer_path(r->o->peers_dir, peer_file(b->system), program, sizeof program))
        return bench_fail("%s is not there: tools/peers %s builds it", program, b->system);
    printf("building %s %s\n", b->system, b->text);
    fflush(stdout);
    if (worker_start(&b->worker, b->system, 1,
                     (char *[]){program, "--base", r->base, "--queries", r->queries, "--metric",
                                (char *)mn_metric_name(r->o->metric), "--k", r->k, "--threads",
                                "1", "--build", b->text, "--attributes", r->values_path,
                                NULL}) != 0)
        return 1;
    json_t *ready = worker_answer(&b->worker);
    json_decref(ready);
    return ready ? 0 : 1;
}

/* Tries settings until the recall is reached, then measures. */
static int peer_cell(struct filter_run *r, struct build *b, const struct curve *curve,
                     const struct cell *c)
{
    struct figure figures[CELL_FIGURES] = {{.n = 0}};
    size_t tried = r->asked.n < TRIED ? r->asked.n : TRIED;
    char knob[24], setting[100];
    double cpu = 0, reads = 0, recall = 0, missing = 0;
    uint64_t value = b->knob_first;
    if (say(&b->worker, "ranges=", c->path) != 0)
        return 1;
    for (;; value = value * 2 < b->knob_most ? value * 2 : b->knob_most) {
        snprintf(knob, sizeof knob, "%" PRIu64, value);
        if (say(&b->worker, curve->fixed, knob) != 0 ||
            ask_some(r, &b->worker, tried, &cpu, &reads) != 0 ||
            answers_score(r, c, b->system, tried, &recall, &missing) != 0)
            return 1;
        if (recall >= r->o->recall || value == b->knob_most)
            break;
    }
    if (ask_all(r, &b->worker, &cpu, &reads) != 0 ||
        answers_score(r, c, b->system, r->asked.n, &recall, &missing) != 0)
        return 1;
    figure_add(&figures[CPU], cpu);
    figure_add(&figures[READS], reads);
    figure_add(&figures[RECALL], recall);
    figure_add(&figures[MISSING], missing);
    snprintf(setting, sizeof setting, "%s%s", curve->fixed, knob);
    return report(r, b->system, c, figures, setting);
}

/* One after the other, each with its last curve: the one with more refinement. */
static int peers_measure(struct filter_run *r)
{
    for (size_t p = 0; peer_names()[p]; p++) {
        static struct build builds[16];
        const char *name = peer_names()[p];
        if (!list_has(r->o->peers, name))
            continue;
        builds_of(name, r->rows.n, r->rows.dim, builds, 16);
        struct build *b = &builds[0];
        int rc = peer_start(r, b);
        for (size_t i = 0; i < r->n_cells && rc == 0; i++)
            rc = peer_cell(r, b, &b->curves[b->n_curves - 1], &r->cells[i]);
        worker_kill(&b->worker);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* ---- The run --------------------------------------------------------------------------------- */

static int run_open(struct filter_run *r)
{
    const struct filter_opts *o = r->o;
    if (vectors_read(&r->rows, o->base) != 0 || vectors_read(&r->asked, o->queries) != 0)
        return 1;
    if (r->rows.dim != r->asked.dim)
        return bench_fail("%s has vectors of %" PRIu32 " elements, %s of %" PRIu32, o->base,
                          r->rows.dim, o->queries, r->asked.dim);
    if (o->queries_asked < r->asked.n)
        r->asked.n = (size_t)o->queries_asked;
    if (work_open(o->work, r->dir, sizeof r->dir - 32) != 0)
        return 1;
    const char *name = strrchr(o->base, '/');
    snprintf(r->dataset, sizeof r->dataset, "%.100s", name ? name + 1 : o->base);
    r->dataset[strcspn(r->dataset, ".")] = 0;
    snprintf(r->base, sizeof r->base, "%.4100s/base.fbin", r->dir);
    snprintf(r->queries, sizeof r->queries, "%.4100s/queries.fbin", r->dir);
    snprintf(r->values_path, sizeof r->values_path, "%.4100s/attributes", r->dir);
    snprintf(r->db, sizeof r->db, "%.4100s/bench.db", r->dir);
    snprintf(r->answers, sizeof r->answers, "%.4100s/answers", r->dir);
    /* Exact searches of nearly all rows have a copy of the vectors too. */
    uint64_t bytes = (uint64_t)r->rows.n * r->rows.dim * sizeof(float);
    snprintf(r->memory, sizeof r->memory, "%" PRIu64,
             o->memory ? o->memory : 3 * bytes + ((uint64_t)256 << 20));
    snprintf(r->k, sizeof r->k, "%" PRIu64, o->k);
    return fbin_write(r->base, r->rows.rows, r->rows.n, r->rows.dim) ||
           fbin_write(r->queries, r->asked.rows, r->asked.n, r->asked.dim) ||
           values_make(r) || cells_make(r);
}

static void run_close(struct filter_run *r)
{
    worker_kill(&r->mneme);
    for (size_t i = 0; i < r->n_cells; i++) {
        filter_ranges_fini(&r->cells[i].ranges);
        free(r->cells[i].matches);
        free(r->cells[i].kth);
    }
    for (int c = 0; c < FILTER_COLUMNS; c++)
        free(r->sorted[c]);
    free(r->values);
    free(r->place);
    work_close(r->dir);
    vectors_fini(&r->rows);
    vectors_fini(&r->asked);
    free(r);
}

static int run_all(struct filter_run *r)
{
    if (run_open(r) != 0 || mneme_start(r) != 0 || mneme_truth(r) != 0 || mneme_measure(r) != 0)
        return 1;
    for (size_t i = 0; i < r->n_cells; i++)
        if (report(r, "mneme", &r->cells[i], r->cells[i].figures, r->cells[i].plan) != 0)
            return 1;
    if (worker_stop(&r->mneme, NULL) != 0)
        return 1;
    return peers_measure(r);
}

int bench_filter(int argc, char **argv)
{
    uint64_t recall_1000 = 950;
    struct filter_opts o = {.k = 10, .passes = 3, .queries_asked = 200, .peers = "",
                            .selectivity = "0.001,0.01,0.1,0.5,1"};
    struct filter_run *r = calloc(1, sizeof *r);
    int rc = 1;
    if (!r)
        return bench_fail("no memory");
    r->o = &o;
    worker_timeout_s = 3600;
    const struct opt opts[] = {
        {"--base", OPT_TEXT, &o.base, 0, 0, "F!", "base vectors, any format that import reads"},
        {"--queries", OPT_TEXT, &o.queries, 0, 0, "F!", "query vectors"},
        {"--selectivity", OPT_TEXT, &o.selectivity, 0, 0, "LIST", "shares of the rows that match"},
        {"--correlated", OPT_FLAG, &o.correlated, 0, 0, NULL,
         "and attributes that go with the vectors"},
        {"--metric", OPT_METRIC, &o.metric, 0, 0, "M", "l2 (default), ip or cosine"},
        {"--k", OPT_COUNT, &o.k, 1, FILTER_MAX_K, "K", "hits of a query"},
        {"--recall", OPT_COUNT, &recall_1000, 500, 999, "N", "asked for, in thousandths"},
        {"--memory", OPT_SIZE, &o.memory, (uint64_t)4 << 20, INT64_MAX, "SIZE",
         "Mneme's cap (default: enough to hold all)"},
        {"--peers", OPT_TEXT, &o.peers, 0, 0, "LIST", "of zvec,lancedb"},
        {"--peers-dir", OPT_TEXT, &o.peers_dir, 0, 0, "DIR",
         "what tools/peers built (default: peers beside this program)"},
        {"--passes", OPT_COUNT, &o.passes, 1, MAX_PASSES, "N", "passes over all cells"},
        {"--max-queries", OPT_COUNT, &o.queries_asked, 1, 1u << 30, "N",
         "the first N queries only (default: 200)"},
        {"--timeout", OPT_COUNT, &worker_timeout_s, 1, 86400, "S", "seconds for one answer"},
        {"--work", OPT_TEXT, &o.work, 0, 0, "DIR", "where databases lie (default: TMPDIR)"},
        {"--json", OPT_TEXT, &o.json, 0, 0, "OUT", "takes the results, one JSON object a line"},
        {"--label", OPT_TEXT, &o.label, 0, 0, "TEXT", "put into each line"},
        {"--data", OPT_TEXT, &r->results.data, 0, 0, "TEXT",
         "put into each line: the vectors' origin"},
    };
    enum opts_result parsed =
        opts_parse("usage: mneme_bench filter --base F --queries F [OPTION]...\n\n"
                   "Measures search under conditions on attributes, over selectivities and\n"
                   "correlations, beside searches without conditions and exact ones.\n",
                   opts, sizeof opts / sizeof *opts, argc, argv);
    o.recall = (double)recall_1000 / 1000;
    static const char *const peers[] = {"zvec", "lancedb", NULL};
    if (parsed != OPTS_GO)
        rc = opts_exit(parsed);
    else if (!list_checked("--peers", o.peers, peers))
        rc = 2;
    else if (results_open(&r->results, o.json, o.label, argc, argv) == 0) {
        rc = run_all(r);
        if (results_close(&r->results) != 0)
            rc = 1;
    }
    run_close(r);
    return rc;
}
