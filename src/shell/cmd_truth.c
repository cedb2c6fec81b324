/* mneme truth: the exact neighbours of a file of queries, as ivecs, to measure others against. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/faiss/truth.h"
#include "src/formats/formats.h"
#include "storage/base/number.h"
#include "src/shell/print.h"
#include "src/shell/queries.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"

struct truth_options {
    struct common common;
    const char *queries, *out, *distances, *vector_column;
    int query_format, by;
    uint64_t k, limit;
    bool positions;
};

#define FIELD(name) offsetof(struct truth_options, name)
static const struct option options[] = {
    {"queries", 'Q', OPTION_TEXT, FIELD(queries), "FILE",
     "Vectors to search for, in any format that import reads.", NULL, 0, 0},
    {"k", 'k', OPTION_COUNT, FIELD(k), "K", "Neighbours of each query. Default 100.", NULL, 1,
     MN_MAX_K},
    {"out", 'o', OPTION_TEXT, FIELD(out), "FILE",
     "Where the ids go, k int32 a query; .ivecs, or .npy by its name.", NULL, 0, 0},
    {"distances", 0, OPTION_TEXT, FIELD(distances), "FILE",
     "Also write the distances, k f32 a query; .fvecs, .fbin or .npy.", NULL, 0, 0},
    {"positions", 0, OPTION_FLAG, FIELD(positions), NULL,
     "Write positions instead of ids: the first row is 0. For text ids, or ids beyond int32.", NULL,
     0, 0},
    {"limit", 'n', OPTION_COUNT, FIELD(limit), "N", "Only the first N queries.", NULL, 1, 1e18},
    {"by", 0, OPTION_CHOICE, FIELD(by), NULL,
     "Who finds them: mneme, or FAISS's flat index, to hold the one against the other. FAISS is an "
     "optional part (tools/faiss builds it), and keeps all vectors in memory beside the cap.",
     "mneme|faiss", 0, 0},
    {"query-format", 0, OPTION_CHOICE, FIELD(query_format), "F",
     "Format of the file of queries, as for import.", FORMAT_CHOICES, 0, 0},
    {"vector-column", 0, OPTION_TEXT, FIELD(vector_column), "C",
     "Member or column of the file with the vector.", NULL, 0, 0},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

struct truth {
    const struct truth_options *given;
    const char *collection;
    struct session db;
    mn_collection_info info;
    uint32_t k;
    struct queries queries;
    struct format_writer *ids, *distances;
    int64_t *rows; /* [n_rows] ids ascending, with --positions */
    size_t n_rows;
    mn_hit *hits;    /* [queries.most][k] */
    uint32_t *found; /* [queries.most] */
    struct faiss_truth *faiss; /* NULL: Mneme finds them */
    float *wide;               /* [queries.most][dim] for FAISS */
    int32_t *line;   /* [k] */
    float *line_distances;
    uint64_t n; /* queries answered */
    struct progress progress;
};

static int positions_load(struct truth *t)
{
    mn_iter *iter = NULL;
    const mn_row *row = NULL;
    mn_error err = {0};
    mn_status st = mn_iter_open(t->db.conn, t->collection, INT64_MIN, &iter, &err);
    while (!st && !(st = mn_iter_next(iter, &row, &err)) && row && !interrupted()) {
        if ((t->n_rows & (t->n_rows - 1)) == 0)
            t->rows = need(realloc(t->rows, (t->n_rows ? t->n_rows * 2 : 1) * sizeof *t->rows));
        t->rows[t->n_rows++] = row->id;
    }
    mn_iter_close(iter);
    return st ? library_error(&err) : interrupted() ? EXIT_INTERRUPTED : 0;
}

static int64_t position_of(const struct truth *t, int64_t id)
{
    size_t low = 0, high = t->n_rows;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (t->rows[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return (int64_t)low;
}

/* One query's line of each file. */
static int write_answer(struct truth *t, const mn_hit *hits, uint32_t found)
{
    mn_error err = {0};
    if (found < t->k)
        return error_exit("'%s' has only %" PRIu32 " vectors, fewer than --k %" PRIu32,
                          t->collection, found, t->k);
    for (uint32_t i = 0; i < t->k; i++) {
        int64_t id = t->given->positions ? position_of(t, hits[i].id) : hits[i].id;
        if (id < INT32_MIN || id > INT32_MAX)
            return error_exit("id %" PRId64 " does not fit the int32 of the file; use --positions",
                              id);
        t->line[i] = (int32_t)id;
        t->line_distances[i] = (float)hits[i].distance;
    }
    struct format_record rec = {.dtype = FORMAT_I32, .dim = t->k, .vector = t->line};
    if (format_writer_put(t->ids, &rec, &err))
        return library_error(&err);
    rec = (struct format_record){.dtype = FORMAT_F32, .dim = t->k, .vector = t->line_distances};
    if (t->distances && format_writer_put(t->distances, &rec, &err))
        return library_error(&err);
    return 0;
}

/* An element of a query as the collection's type holds it; the library rounds so too. */
static float round_to(mn_dtype dtype, float x)
{
    uint32_t bits;
    switch (dtype) {
    case MN_F16:
        return number_from_half(number_to_half(x));
    case MN_BF16:
        memcpy(&bits, &x, sizeof bits);
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
        memcpy(&x, &bits, sizeof x);
        return x;
    case MN_I8:
        return rintf(x);
    default:
        return x;
    }
}

static mn_status search_by_faiss(struct truth *t, mn_error *err)
{
    const struct queries *q = &t->queries;
    uint32_t dim = t->info.dim;
    for (size_t i = 0; i < q->n; i++) {
        const uint8_t *from = q->vectors + i * q->plan.bytes;
        float *to = t->wide + i * dim;
        if (!q->plan.from_f32) {
            vector_to_f32(t->info.dtype, dim, from, to);
            continue;
        }
        memcpy(to, from, dim * sizeof *to);
        for (uint32_t d = 0; d < dim; d++)
            to[d] = round_to(t->info.dtype, to[d]);
    }
    return faiss_truth_search(t->faiss, t->wide, q->n, t->k, t->hits, t->found, err);
}

static mn_status search(struct truth *t, mn_error *err)
{
    const struct queries *q = &t->queries;
    mn_search_opts opts = {.recall = 1, .from_f32 = q->plan.from_f32};
    return t->faiss ? search_by_faiss(t, err)
                    : mn_search(t->db.conn, t->collection, q->vectors, q->n, t->k, &opts, t->hits,
                                t->found, err);
}

static int answer_block(struct truth *t)
{
    mn_error err = {0};
    const struct queries *q = &t->queries;
    if (search(t, &err))
        return library_error(&err);
    int code = 0;
    for (size_t i = 0; !code && i < q->n; i++)
        code = write_answer(t, t->hits + i * t->k, t->found[i]);
    t->n += q->n;
    return code;
}

static int writer_open(const char *path, enum format_kind preferred, enum format_dtype dtype,
                       uint32_t k, struct format_writer **out)
{
    mn_error err = {0};
    struct format_write_opts opts = {.dtype = dtype, .dim = k};
    const char *dot = strrchr(path, '.');
    if (!dot || strchr(dot, '/'))
        opts.format = preferred;
    return format_writer_open(path, &opts, out, &err) ? library_error(&err) : 0;
}

static int faiss_open(struct truth *t)
{
    mn_error err = {0};
    struct faiss_truth_opts opts = {.threads = (uint32_t)t->given->common.threads,
                                    .widen = vector_to_f32};
    if (faiss_truth_open(t->db.conn, t->collection, &opts, &t->faiss, &err))
        return library_error(&err);
    t->wide = need(malloc(t->queries.most * t->info.dim * sizeof *t->wide));
    return 0;
}

/* All answers of one snapshot. */
static int answer_all(struct truth *t)
{
    mn_error err = {0};
    const struct truth_options *g = t->given;
    struct format_opts read = {.format = (enum format_kind)g->query_format,
                               .vector_column = g->vector_column};
    struct queries_want want = {.k = t->k, .memory = g->common.memory, .limit = g->limit};
    int code = session_collection(&t->db, t->collection, &t->info);
    if (!code)
        code = queries_open(&t->queries, g->queries, &read, &t->info, &want);
    if (code)
        return code;
    t->hits = need(malloc(t->queries.most * t->k * sizeof *t->hits));
    t->found = need(malloc(t->queries.most * sizeof *t->found));
    t->line = need(malloc(t->k * sizeof *t->line));
    t->line_distances = need(malloc(t->k * sizeof *t->line_distances));
    if (mn_begin_read(t->db.conn, &err))
        return library_error(&err);
    if (g->by == 2)
        code = faiss_open(t);
    if (!code && g->positions)
        code = positions_load(t);
    if (!code)
        code = writer_open(g->out, FORMAT_IVECS, FORMAT_I32, t->k, &t->ids);
    if (!code && g->distances)
        code = writer_open(g->distances, FORMAT_FVECS, FORMAT_F32, t->k, &t->distances);
    while (!code && !(code = queries_next(&t->queries)) && t->queries.n) {
        code = answer_block(t);
        if (!code && !progress_update(&t->progress, t->n, 0))
            code = EXIT_INTERRUPTED;
    }
    (void)mn_rollback(t->db.conn, NULL);
    return code;
}

/* The files appear when all is well. */
static int writers_close(struct truth *t, int code)
{
    mn_error err = {0};
    if (code) {
        format_writer_abort(t->ids);
        format_writer_abort(t->distances);
        return code;
    }
    if (t->distances && format_writer_close(t->distances, &err)) {
        format_writer_abort(t->ids);
        return library_error(&err);
    }
    return format_writer_close(t->ids, &err) ? library_error(&err) : 0;
}

static int run(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    (void)n;
    const struct truth_options *g = given;
    if (!g->queries)
        return usage_error("truth: for which vectors? give --queries FILE");
    if (!g->out)
        return usage_error("truth: where to? give --out FILE.ivecs");
    struct truth t = {.given = g, .collection = args[1], .k = g->k ? (uint32_t)g->k : 100};
    double start = now_seconds();
    int code = session_open(&t.db, &g->common, args[0], MN_OPEN_READONLY);
    if (!code) {
        progress_begin(&t.progress, &g->common, "searching", "queries");
        code = writers_close(&t, answer_all(&t));
        progress_end(&t.progress);
    }
    queries_close(&t.queries);
    free(t.rows);
    free(t.hits);
    free(t.found);
    free(t.line);
    free(t.line_distances);
    free(t.wide);
    faiss_truth_close(t.faiss);
    int closed = session_close(&t.db);
    char queries[UNITS_TEXT], time[UNITS_TEXT];
    if (!code && !g->common.quiet)
        out_printf("wrote %" PRIu32 " exact neighbours of %s queries to %s in %s\n", t.k,
                   count_format(queries, t.n), g->out,
                   duration_format(time, now_seconds() - start));
    return code ? code : closed;
}

const struct command cmd_truth = {
    .name = "truth",
    .arguments = "DB COLLECTION",
    .summary = "write the exact neighbours of a file of queries",
    .about =
        "Writes the ids of the k nearest rows of each query, nearest first, found by comparing\n"
        "with every vector. All answers belong to one state of the database. The files appear\n"
        "when they are complete.\n"
        "\n"
        "--by faiss asks FAISS instead, which shares no code with Mneme: both files should\n"
        "agree, but for rows whose distances differ in the last digit of a float.",
    .examples = "  mneme truth app.db sift --queries sift_query.fvecs --k 100 --out truth.ivecs\n"
                "  mneme truth app.db words --queries held.npy --k 10 --out t.ivecs --positions\n"
                "  mneme truth app.db sift --queries q.fbin --out t.ivecs --distances d.fvecs\n"
                "  mneme truth app.db sift --queries q.fbin --out f.ivecs --by faiss\n",
    .options = options,
    .size = sizeof(struct truth_options),
    .run = run,
};
