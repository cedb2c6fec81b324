/* mneme recall: how much of the truth searches by the index find, measured on the collection
 * itself.
 *
 * Rows drawn at random are the queries. Each is left out of its own answer by asking for one row
 * more than wanted. What a search by the index finds is compared with the exact answer, in one
 * snapshot; a row as near as the last true neighbour counts as one, so that ties cost nothing.
 *
 * The draw reads every row once (Vitter's algorithm R): any share of the rows may lack a vector,
 * and ids may lie in clumps, so drawing ids would prefer some rows to others. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/shell/explain.h"
#include "src/shell/print.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"

enum { MOST_TARGETS = 32, MOST_SAMPLE = 10000, MOST_K = 1000 };
enum {
    EXACT_BLOCK = 100,       /* exact answers are found for so many queries at a time... */
    EXACT_TIMED = 10,        /* ...and their cost is that of so many asked one by one, */
    EXACT_TIMED_US = 2000000 /* or of fewer within this time */
};

struct recall_options {
    struct common common;
    uint64_t sample, k;
    struct option_list recall;
    struct option_integer seed;
    int format;
};

#define FIELD(name) offsetof(struct recall_options, name)
static const struct option options[] = {
    {"sample", 'n', OPTION_COUNT, FIELD(sample), "N", "Rows drawn as queries. Default 200.", NULL,
     1, MOST_SAMPLE},
    {"k", 'k', OPTION_COUNT, FIELD(k), "K", "Rows wanted of each query. Default 10.", NULL, 1,
     MOST_K},
    {"recall", 0, OPTION_LIST, FIELD(recall), "R,...",
     "Recall that the searches ask for, 0.5 to 1; several, as 0.9,0.95,0.99, are measured one "
     "after the other on the same rows. Default: the collection's, which is 0.95 unless it was "
     "said.",
     NULL, 0, 0},
    {"seed", 0, OPTION_INTEGER, FIELD(seed), "N", "Another draw of rows. Default 1.", NULL, 0, 0},
    {"format", 'f', OPTION_CHOICE, FIELD(format), NULL,
     "Default table; json is one object a line, which tools/plot-recall draws.", "table|json", 0,
     0},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

/* One way of searching, measured. */
struct measured {
    double target; /* 0: exact */
    double recall; /* mean over the queries */
    double spread; /* half of the interval that holds the true mean 19 times in 20 */
    size_t n;      /* searches timed */
    double mean_us, p50_us, p99_us;
    mn_search_stats sum;
};

struct recall {
    const struct recall_options *given;
    const char *collection;
    struct session db;
    mn_collection_info info;
    size_t bytes; /* of a vector */
    uint32_t k;
    double targets[MOST_TARGETS];
    size_t n_targets;
    uint64_t n_rows;   /* with a vector */
    uint8_t *vectors;  /* [n] of bytes, 64-aligned */
    int64_t *ids;      /* [n] */
    size_t n;          /* drawn */
    mn_hit *truth;     /* [n][k] */
    uint32_t *n_truth; /* [n] */
    mn_hit *hits;      /* [k + 1] */
    double *times;     /* [n] microseconds */
    struct progress progress;
};

/* ---- Drawing -------------------------------------------------------------------------------- */

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void draw_row(struct recall *r, const mn_row *row, size_t most, uint64_t *random)
{
    size_t at = r->n_rows++ < most ? r->n++ : draw(random) % r->n_rows;
    if (at >= most)
        return;
    memcpy(r->vectors + at * r->bytes, row->vector, r->bytes);
    r->ids[at] = row->id;
}

static int draw_rows(struct recall *r, size_t most)
{
    mn_iter *iter = NULL;
    const mn_row *row = NULL;
    mn_error err = {0};
    mn_collection_stats stats;
    uint64_t random = (uint64_t)(r->given->seed.given ? r->given->seed.value : 1);
    int code = 0;
    if (mn_collection_stats_get(r->db.conn, r->collection, &stats, &err))
        return library_error(&err);
    progress_begin(&r->progress, &r->given->common, "drawing rows", "rows");
    mn_status st = mn_iter_open(r->db.conn, r->collection, INT64_MIN, &iter, &err);
    while (!st && !code && !(st = mn_iter_next(iter, &row, &err)) && row) {
        if (row->vector)
            draw_row(r, row, most, &random);
        if (!progress_update(&r->progress, r->n_rows, stats.vectors))
            code = EXIT_INTERRUPTED;
    }
    mn_iter_close(iter);
    progress_end(&r->progress);
    if (st)
        return library_error(&err);
    if (!code && r->n_rows < 2)
        return error_exit("'%s' has %" PRIu64 " vectors; there must be another one to be found",
                          r->collection, r->n_rows);
    return code;
}

/* ---- Searching ------------------------------------------------------------------------------ */

/* Takes the row itself out of its n hits, which are one more than wanted. Returns how many stay. */
static uint32_t without(mn_hit *hits, uint32_t n, int64_t self, uint32_t k)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (hits[i].id != self)
            hits[kept++] = hits[i];
    return kept < k ? kept : k;
}

static int exact_answers(struct recall *r)
{
    mn_error err = {0};
    mn_search_opts opts = {.recall = 1};
    uint32_t found[EXACT_BLOCK];
    mn_hit *hits = need(malloc(EXACT_BLOCK * ((size_t)r->k + 1) * sizeof *hits));
    int code = 0;
    progress_begin(&r->progress, &r->given->common, "searching exactly", "queries");
    for (size_t first = 0; first < r->n && !code; first += EXACT_BLOCK) {
        size_t n = r->n - first < EXACT_BLOCK ? r->n - first : EXACT_BLOCK;
        if (mn_search(r->db.conn, r->collection, r->vectors + first * r->bytes, n, r->k + 1, &opts,
                      hits, found, &err))
            code = library_error(&err);
        for (size_t i = 0; i < n && !code; i++) {
            mn_hit *of = hits + i * (r->k + 1);
            r->n_truth[first + i] = without(of, found[i], r->ids[first + i], r->k);
            memcpy(r->truth + (first + i) * r->k, of, r->n_truth[first + i] * sizeof *of);
        }
        if (!code && !progress_update(&r->progress, first + n, r->n))
            code = EXIT_INTERRUPTED;
    }
    progress_end(&r->progress);
    free(hits);
    return code;
}

static bool among(const mn_hit *hits, uint32_t n, int64_t id)
{
    for (uint32_t i = 0; i < n; i++)
        if (hits[i].id == id)
            return true;
    return false;
}

/* Part of query i's true neighbours among the hits. Estimated distances tell nothing: ids do. */
static double found_part(const struct recall *r, size_t i, uint32_t n)
{
    const mn_hit *truth = r->truth + i * r->k;
    uint32_t n_truth = r->n_truth[i], good = 0;
    if (n_truth == 0)
        return 1;
    for (uint32_t h = 0; h < n && h < n_truth; h++)
        good += r->info.rerank == MN_RERANK_NONE
                    ? among(truth, n_truth, r->hits[h].id)
                    : r->hits[h].distance <= truth[n_truth - 1].distance;
    return (double)good / n_truth;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void times_of(struct recall *r, struct measured *m)
{
    double sum = 0;
    qsort(r->times, m->n, sizeof *r->times, by_value);
    for (size_t i = 0; i < m->n; i++)
        sum += r->times[i];
    m->mean_us = sum / (double)m->n;
    m->p50_us = r->times[m->n / 2];
    m->p99_us = r->times[(m->n - 1) * 99 / 100];
}

/* Asks for row i's neighbours and adds what it cost to m. */
static int ask(struct recall *r, struct measured *m, size_t i, uint32_t *found)
{
    mn_error err = {0};
    mn_search_stats stats = {0};
    mn_search_opts opts = {.recall = m->target > 0 ? m->target : 1, .stats = &stats};
    double start = now_seconds();
    if (mn_search(r->db.conn, r->collection, r->vectors + i * r->bytes, 1, r->k + 1, &opts, r->hits,
                  found, &err))
        return library_error(&err);
    r->times[m->n++] = (now_seconds() - start) * 1e6;
    stats_add(&m->sum, &stats);
    return 0;
}

static int measure_exact(struct recall *r, struct measured *m)
{
    uint32_t found;
    int code = 0;
    *m = (struct measured){.recall = 1};
    for (size_t i = 0; i < r->n && i < EXACT_TIMED && !code; i++) {
        code = m->sum.wall_us < EXACT_TIMED_US ? ask(r, m, i, &found) : 0;
        if (!code && interrupted())
            code = EXIT_INTERRUPTED;
    }
    if (!code)
        times_of(r, m);
    return code;
}

static int measure(struct recall *r, double target, struct measured *m)
{
    uint32_t found;
    double sum = 0, squares = 0;
    *m = (struct measured){.target = target};
    /* The first search loads what it needs; that is no part of the others' cost. */
    int code = ask(r, m, 0, &found);
    *m = (struct measured){.target = target};
    progress_begin(&r->progress, &r->given->common, "searching", "queries");
    for (size_t i = 0; i < r->n && !code; i++) {
        code = ask(r, m, i, &found);
        if (code)
            break;
        double part = found_part(r, i, without(r->hits, found, r->ids[i], r->k));
        sum += part;
        squares += part * part;
        if (!progress_update(&r->progress, i + 1, r->n))
            code = EXIT_INTERRUPTED;
    }
    progress_end(&r->progress);
    if (code)
        return code;
    double n = (double)r->n, variance = n > 1 ? (squares - sum * sum / n) / (n - 1) : 0;
    m->recall = sum / n;
    m->spread = 1.96 * sqrt(variance > 0 ? variance / n : 0);
    times_of(r, m);
    return 0;
}

/* ---- Showing -------------------------------------------------------------------------------- */

static void show_json(const struct recall *r, const struct measured *m)
{
    struct text t = {0};
    double n = (double)m->n;
    text_puts(&t, "{\"system\":\"mneme\",\"dataset\":");
    text_json(&t, r->collection, strlen(r->collection));
    text_printf(&t, ",\"n\":%" PRIu64 ",\"dim\":%" PRIu32 ",\"metric\":\"%s\",\"k\":%" PRIu32,
                r->n_rows, r->info.dim, mn_metric_name(r->info.metric), r->k);
    if (m->target > 0)
        text_printf(&t, ",\"param\":\"recall=%g\"", m->target);
    else
        text_puts(&t, ",\"param\":\"exact\"");
    text_printf(&t, ",\"sample\":%zu,\"from_index\":%s,\"recall\":%.5f,\"spread\":%.5f", r->n,
                m->sum.from_index ? "true" : "false", m->recall, m->spread);
    text_printf(&t,
                ",\"threads\":%" PRIu64 ",\"qps_wall\":%.1f,\"cpu_us_per_query\":%.1f,"
                "\"p50_us\":%.1f,\"p99_us\":%.1f",
                r->given->common.threads ? r->given->common.threads : 1, 1e6 / m->mean_us,
                (double)m->sum.cpu_us / n, m->p50_us, m->p99_us);
    text_printf(&t,
                ",\"probed_per_query\":%.1f,\"codes_per_query\":%.1f,\"reranked_per_query\":%.1f",
                (double)m->sum.probed / n, (double)m->sum.codes / n, (double)m->sum.reranked / n);
    text_printf(&t,
                ",\"compared_per_query\":%.1f,\"ios_per_query\":%.2f,\"bytes_per_query\":%.0f}\n",
                (double)m->sum.rows_scanned / n,
                (double)(m->sum.reads + m->sum.parts_read) / n,
                (double)(m->sum.reads * SIDECAR_PAGE_BYTES + m->sum.part_bytes) / n);
    out_write(t.data, t.len);
    text_free(&t);
}

static void table_begin(struct table *t)
{
    table_column_add(t, "search", false);
    table_column_add(t, "recall", true);
    table_column_add(t, "+-", true);
    table_column_add(t, "median", true);
    table_column_add(t, "p99", true);
    table_column_add(t, "CPU", true);
    table_column_add(t, "codes", true);
    table_column_add(t, "vectors", true);
    table_column_add(t, "reads", true);
}

static void table_add(struct table *t, const struct measured *m)
{
    char time[UNITS_TEXT], count[UNITS_TEXT];
    double n = (double)m->n;
    if (m->target > 0)
        table_cellf(t, "recall %g", m->target);
    else
        table_cellf(t, "exact");
    table_cellf(t, "%.4f", m->recall);
    table_cellf(t, "%.4f", m->spread);
    table_cellf(t, "%s", duration_format(time, m->p50_us * 1e-6));
    table_cellf(t, "%s", duration_format(time, m->p99_us * 1e-6));
    table_cellf(t, "%s", duration_format(time, (double)m->sum.cpu_us * 1e-6 / n));
    table_cellf(t, "%s", count_format(count, (uint64_t)((double)m->sum.codes / n + 0.5)));
    table_cellf(
        t, "%s",
        count_format(count, (uint64_t)((double)(m->sum.reranked + m->sum.rows_scanned) / n + 0.5)));
    table_cellf(t, "%.1f", (double)(m->sum.reads + m->sum.parts_read) / n);
}

static void show_table(const struct recall *r, const struct measured *all, size_t n)
{
    char rows[UNITS_TEXT], sample[UNITS_TEXT];
    struct table t = {0};
    bool by_index = false;
    table_begin(&t);
    for (size_t i = 0; i < n; i++) {
        table_add(&t, &all[i]);
        by_index |= all[i].sum.from_index;
    }
    table_print(&t);
    table_free(&t);
    if (r->given->common.quiet)
        return;
    out_printf("%s%s of %s vectors drawn, k %" PRIu32 "; time, codes, vectors and pages of one "
               "query%s%s\n",
               out_colour(COLOUR_DIM), count_format(sample, r->n), count_format(rows, r->n_rows),
               r->k, by_index ? "" : "; there is no index, all are exact", out_colour(COLOUR_NONE));
}

/* ---- The command ---------------------------------------------------------------------------- */

static int add_target(struct recall *r, const char *word)
{
    double value;
    if (!real_parse(word, &value) || value < 0.5 || value > 1)
        return usage_error("recall: --recall %s is not a number from 0.5 to 1, or several "
                           "separated by commas",
                           word);
    if (r->n_targets == MOST_TARGETS)
        return usage_error("recall: more than %d values of --recall", MOST_TARGETS);
    r->targets[r->n_targets++] = value;
    return 0;
}

static int read_targets(struct recall *r)
{
    int code = 0;
    for (size_t i = 0; i < r->given->recall.n && !code; i++) {
        char *copy = need(strdup(r->given->recall.items[i])), *rest = copy, *word;
        while (!code && (word = strsep(&rest, ",")))
            code = add_target(r, word);
        free(copy);
    }
    return code;
}

static int prepare(struct recall *r)
{
    size_t most = r->given->sample ? r->given->sample : 200;
    int code = session_collection(&r->db, r->collection, &r->info);
    if (code)
        return code;
    if (r->n_targets == 0)
        r->targets[r->n_targets++] = r->info.recall;
    r->bytes = mn_vector_bytes(r->info.dtype, r->info.dim);
    r->vectors = need(aligned_alloc(64, (most * r->bytes + 63) / 64 * 64));
    r->ids = need(malloc(most * sizeof *r->ids));
    code = draw_rows(r, most);
    if (code)
        return code;
    if (r->n_rows <= r->k)
        r->k = (uint32_t)(r->n_rows - 1);
    r->truth = need(malloc(r->n * r->k * sizeof *r->truth));
    r->n_truth = need(calloc(r->n, sizeof *r->n_truth));
    r->hits = need(malloc(((size_t)r->k + 1) * sizeof *r->hits));
    r->times = need(malloc((r->n + 1) * sizeof *r->times));
    return 0;
}

/* All in one snapshot. */
static int measure_all(struct recall *r)
{
    struct measured all[MOST_TARGETS + 1];
    mn_error err = {0};
    if (mn_begin_read(r->db.conn, &err))
        return library_error(&err);
    int code = prepare(r);
    if (!code)
        code = exact_answers(r);
    if (!code)
        code = measure_exact(r, &all[r->n_targets]);
    for (size_t i = 0; i < r->n_targets && !code; i++)
        code = measure(r, r->targets[i], &all[i]);
    (void)mn_rollback(r->db.conn, NULL);
    for (size_t i = 0; i <= r->n_targets && !code && r->given->format == 2; i++)
        show_json(r, &all[i]);
    if (!code && r->given->format != 2)
        show_table(r, all, r->n_targets + 1);
    return code;
}

static int run(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    (void)n;
    const struct recall_options *g = given;
    struct recall r = {.given = g, .collection = args[1], .k = g->k ? (uint32_t)g->k : 10};
    int code = read_targets(&r);
    if (code)
        return code;
    code = session_open(&r.db, &g->common, args[0], MN_OPEN_READONLY);
    if (!code)
        code = measure_all(&r);
    free(r.vectors);
    free(r.ids);
    free(r.truth);
    free(r.n_truth);
    free(r.hits);
    free(r.times);
    int closed = session_close(&r.db);
    return code ? code : closed;
}

const struct command cmd_recall = {
    .name = "recall",
    .arguments = "DB COLLECTION",
    .summary = "measure what searches by the index find, and their cost",
    .about = "Draws rows of the collection at random, searches for the neighbours of each, itself\n"
             "left out, by the index and exactly, and prints which part of the exact answer the\n"
             "index found, and what both cost. \"+-\" is the uncertainty of the mean that comes\n"
             "from the draw: half of an interval that holds the true value 19 times in 20.\n"
             "\n"
             "All belongs to one state of the database; nothing is written. Queries are asked\n"
             "one by one, after a first one that loads what is needed. Reads every row once.",
    .examples = "  mneme recall app.db words\n"
                "  mneme recall app.db words --sample 1000 --k 100 --recall 0.99\n"
                "  mneme recall app.db words --recall 0.8,0.9,0.95,0.99 --format json\n",
    .options = options,
    .size = sizeof(struct recall_options),
    .run = run,
};
