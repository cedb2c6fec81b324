/* mneme search: the nearest rows to vectors of a file, to rows by id or word, or to a vector typed.
 *
 * Queries come in blocks. The answers of a block and the rows that it shows belong to one snapshot:
 * a read transaction lies around both. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/shell/explain.h"
#include "src/shell/print.h"
#include "src/shell/queries.h"
#include "src/shell/rows.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"
#include "src/shell/where.h"

enum output { OUTPUT_TABLE = 1, OUTPUT_JSON, OUTPUT_CSV };

struct search_options {
    struct common common;
    const char *queries, *vector_column;
    struct option_list id, word, vector, where;
    int query_format, format;
    uint64_t k, limit, deadline;
    struct option_real recall, radius;
    bool ids_only, explain, exact;
};

#define FIELD(name) offsetof(struct search_options, name)
static const struct option options[] = {
    {"queries", 'Q', OPTION_TEXT, FIELD(queries), "FILE",
     "Vectors to search for, in any format that import reads; - is standard input. Queries are "
     "numbered from 0.",
     NULL, 0, 0},
    {"id", 'i', OPTION_LIST, FIELD(id), "ID",
     "The neighbours of this row, without itself. May be given many times.", NULL, 0, 0},
    {"word", 'w', OPTION_LIST, FIELD(word), "W", "The same, in a collection of words.", NULL, 0, 0},
    {"vector", 'v', OPTION_LIST, FIELD(vector), "V",
     "A vector as '[0.1, 0.2, ...]'. May be given many times.", NULL, 0, 0},
    {"k", 'k', OPTION_COUNT, FIELD(k), "K", "Rows wanted of each query. Default 10.", NULL, 1,
     MN_MAX_K},
    {"limit", 'n', OPTION_COUNT, FIELD(limit), "N", "Only the first N queries of the file.", NULL,
     1, 1e18},
    {"radius", 'r', OPTION_REAL, FIELD(radius), "R",
     "All rows within this distance instead of k; with --k at most so many.", NULL, 0, 0},
    {"where", 0, OPTION_LIST, FIELD(where), "COND",
     "Only rows that meet this, as 'year>=1990' or 'lang=en'; = != < <= > >=. May be given many "
     "times; all must hold.",
     NULL, 0, 0},
    {"recall", 0, OPTION_REAL, FIELD(recall), "R",
     "Part of the true neighbours that is wanted, where an index answers: less is faster. Default: "
     "the collection's, which is 0.95 unless it was said; 1 is exact.",
     NULL, 0.5, 1},
    {"exact", 0, OPTION_FLAG, FIELD(exact), NULL,
     "Compare with every vector, whether there is an index or not: --recall 1.", NULL, 0, 0},
    {"deadline", 0, OPTION_TIME, FIELD(deadline), "TIME", "Longest time for a block of queries.",
     NULL, 1, 4e12},
    {"format", 'f', OPTION_CHOICE, FIELD(format), NULL,
     "Default table; json is one object a line, csv has a header.", "table|json|csv", 0, 0},
    {"ids-only", 0, OPTION_FLAG, FIELD(ids_only), NULL,
     "Leave out attributes and payloads: faster with many hits.", NULL, 0, 0},
    {"explain", 0, OPTION_FLAG, FIELD(explain), NULL,
     "What the search did, on stderr: by the index or exactly, postings probed, codes scanned, "
     "vectors compared, reads, time.",
     NULL, 0, 0},
    {"query-format", 0, OPTION_CHOICE, FIELD(query_format), "F",
     "Format of the file of queries, as for import.", FORMAT_CHOICES, 0, 0},
    {"vector-column", 0, OPTION_TEXT, FIELD(vector_column), "C",
     "Member or column of the file with the vector.", NULL, 0, 0},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

/* Hits of one query. */
struct answer {
    const mn_hit *hits;
    uint32_t n;
};

struct search {
    const struct search_options *given;
    const char *collection;
    struct session db;
    mn_collection_info info;
    struct names names; /* attributes */
    struct where where;
    enum output output;
    uint32_t k;
    mn_search_opts opts;
    /* Totals for the end. */
    uint64_t n_queries, n_hits;
    mn_search_stats stats;
    double seconds;      /* in the library's search */
    mn_index_info index; /* with --explain */
    double load_seconds;
    struct text line;
    struct table table; /* of the answer being shown */
};

/* Where one query came from. */
struct origin {
    const char *word;  /* as typed; NULL: the query of a file */
    uint64_t number;   /* from 0 */
    const mn_id *self; /* the row that is left out, or NULL */
    int64_t self_id;   /* its integer id */
};

/* ---- Showing -------------------------------------------------------------------------------- */

static void hit_id_show(struct text *t, const mn_hit *hit, const mn_row *row)
{
    if (row)
        row_id_show(t, row);
    else
        text_printf(t, "%" PRId64, hit->id);
}

static void show_heading(struct search *s, const struct origin *o, uint32_t n)
{
    struct text t = {0};
    text_puts(&t, s->n_queries ? "\n" : "");
    if (o->word) {
        text_puts(&t, out_colour(COLOUR_BOLD));
        text_visible(&t, o->word, strlen(o->word), 60);
        text_puts(&t, out_colour(COLOUR_NONE));
    } else {
        text_printf(&t, "%squery %" PRIu64 "%s", out_colour(COLOUR_BOLD), o->number,
                    out_colour(COLOUR_NONE));
    }
    out_printf("%s%s\n", t.data, n ? "" : ": no row");
    text_free(&t);
}

static void table_begin(struct search *s)
{
    table_column_add(&s->table, "rank", true);
    table_column_add(&s->table, "id", s->info.id_kind == MN_ID_INTEGER);
    table_column_add(&s->table, "distance", true);
    if (!s->given->ids_only)
        row_columns_add(&s->names, &s->table);
}

static void table_add(struct search *s, uint32_t rank, const mn_hit *hit, const mn_row *row)
{
    bool whole = s->info.metric == MN_HAMMING;
    table_cellf(&s->table, "%" PRIu32, rank);
    text_clear(&s->line);
    hit_id_show(&s->line, hit, row);
    table_cell(&s->table, s->line.data, s->line.len, 40);
    table_cellf(&s->table, whole ? "%.0f" : "%.5f", hit->distance);
    if (!s->given->ids_only)
        row_cells_add(&s->names, &s->table, row);
}

static void show_json(struct search *s, const struct origin *o, uint32_t rank, const mn_hit *hit,
                      const mn_row *row)
{
    struct text *t = &s->line;
    text_clear(t);
    text_puts(t, "{\"query\":");
    if (o->word)
        text_json(t, o->word, strlen(o->word));
    else
        text_printf(t, "%" PRIu64, o->number);
    text_printf(t, ",\"rank\":%" PRIu32 ",\"id\":", rank);
    if (row)
        row_id_json(t, row);
    else
        text_printf(t, "%" PRId64, hit->id);
    text_puts(t, ",\"distance\":");
    text_float(t, (float)hit->distance);
    if (row && !s->given->ids_only)
        row_members_json(t, row);
    text_puts(t, "}\n");
    out_write(t->data, t->len);
}

static void csv_header(struct search *s)
{
    struct text *t = &s->line;
    text_clear(t);
    text_puts(t, "query,rank,id,distance");
    for (size_t i = 0; i < s->names.n && !s->given->ids_only; i++) {
        text_puts(t, ",");
        text_csv(t, s->names.items[i], strlen(s->names.items[i]));
    }
    text_puts(t, s->given->ids_only ? "\n" : ",text\n");
    out_write(t->data, t->len);
}

static void csv_members(struct search *s, const mn_row *row)
{
    for (size_t i = 0; i < s->names.n; i++) {
        const mn_value *v = row ? mn_row_attr(row, s->names.items[i]) : NULL;
        text_puts(&s->line, ",");
        if (v)
            value_csv(&s->line, v);
    }
    text_puts(&s->line, ",");
    if (row && row->payload)
        text_csv(&s->line, row->payload, row->payload_len);
}

static void show_csv(struct search *s, const struct origin *o, uint32_t rank, const mn_hit *hit,
                     const mn_row *row)
{
    struct text *t = &s->line;
    text_clear(t);
    if (o->word)
        text_csv(t, o->word, strlen(o->word));
    else
        text_printf(t, "%" PRIu64, o->number);
    text_printf(t, ",%" PRIu32 ",", rank);
    if (row && row->text_id)
        text_csv(t, row->text_id, strlen(row->text_id));
    else
        text_printf(t, "%" PRId64, hit->id);
    text_puts(t, ",");
    text_float(t, (float)hit->distance);
    if (!s->given->ids_only)
        csv_members(s, row);
    text_puts(t, "\n");
    out_write(t->data, t->len);
}

static void show_hit(struct search *s, const struct origin *o, uint32_t rank, const mn_hit *hit,
                     const mn_row *row)
{
    if (s->output == OUTPUT_TABLE)
        table_add(s, rank, hit, row);
    else if (s->output == OUTPUT_JSON)
        show_json(s, o, rank, hit, row);
    else
        show_csv(s, o, rank, hit, row);
}

/* Rows are fetched a few at a time: their vectors come along, and count to the memory cap. */
static int show_hits(struct search *s, const struct origin *o, const struct answer *a)
{
    enum { FETCH_ROWS = 256 };
    mn_id ids[FETCH_ROWS];
    int code = 0;
    /* Integer ids are all that is to be shown: no need to read the rows. */
    bool bare = s->given->ids_only && s->info.id_kind == MN_ID_INTEGER;
    for (size_t first = 0, n; !code && first < a->n && out_fine(); first += n) {
        mn_rows *rows = NULL;
        n = a->n - first < FETCH_ROWS ? a->n - first : FETCH_ROWS;
        for (size_t i = 0; i < n; i++)
            ids[i] = (mn_id){.id = a->hits[first + i].id};
        if (!bare)
            code = rows_get(&s->db, s->collection, ids, &n, false, &rows);
        for (size_t i = 0; !code && i < n; i++)
            show_hit(s, o, (uint32_t)(first + i + 1), &a->hits[first + i],
                     bare ? NULL : mn_rows_at(rows, i));
        mn_rows_free(rows);
    }
    return code;
}

static int show(struct search *s, const struct origin *o, const struct answer *a)
{
    if (s->output == OUTPUT_TABLE)
        show_heading(s, o, a->n);
    else if (s->output == OUTPUT_CSV && s->n_queries == 0)
        csv_header(s);
    int code = show_hits(s, o, a);
    if (!code && s->output == OUTPUT_TABLE && a->n)
        table_print(&s->table);
    table_clear(&s->table);
    s->n_queries++;
    s->n_hits += a->n;
    return code;
}

static void show_footer(const struct search *s)
{
    char rows[UNITS_TEXT], time[UNITS_TEXT], hits[UNITS_TEXT], queries[UNITS_TEXT],
        codes[UNITS_TEXT];
    if (s->output != OUTPUT_TABLE || s->given->common.quiet)
        return;
    out_printf("%s%s row%s", out_colour(COLOUR_DIM), count_format(hits, s->n_hits),
               s->n_hits == 1 ? "" : "s");
    if (s->n_queries > 1)
        out_printf(" for %s queries", count_format(queries, s->n_queries));
    if (s->stats.from_index)
        out_printf(", %s codes and %s vectors compared in %s%s\n",
                   count_format(codes, s->stats.codes),
                   count_format(rows, s->stats.reranked + s->stats.rows_scanned),
                   duration_format(time, s->seconds), out_colour(COLOUR_NONE));
    else
        out_printf(", %s vectors compared in %s%s\n", count_format(rows, s->stats.rows_scanned),
                   duration_format(time, s->seconds), out_colour(COLOUR_NONE));
}

/* ---- Searching ------------------------------------------------------------------------------ */

/* Takes the query's own row out of its hits, which are one more than wanted. */
static uint32_t without_self(mn_hit *hits, uint32_t n, const struct origin *o, uint32_t k)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!o->self || hits[i].id != o->self_id)
            hits[kept++] = hits[i];
    return kept < k ? kept : k;
}

static int search_k(struct search *s, const void *vectors, size_t n, const struct origin *origins)
{
    mn_error err = {0};
    uint32_t k = s->k + (origins[0].self && s->k < MN_MAX_K);
    mn_hit *hits = need(malloc(n * k * sizeof *hits));
    uint32_t *found = need(malloc(n * sizeof *found));
    mn_search_stats stats = {0};
    mn_search_opts opts = s->opts;
    opts.stats = &stats;
    double start = now_seconds();
    int code = 0;
    if (mn_search(s->db.conn, s->collection, vectors, n, k, &opts, hits, found, &err))
        code = library_error(&err);
    s->seconds += now_seconds() - start;
    stats_add(&s->stats, &stats);
    for (size_t i = 0; !code && i < n && out_fine(); i++) {
        uint32_t kept = without_self(hits + i * k, found[i], &origins[i], s->k);
        struct answer a = {.hits = hits + i * k, .n = kept};
        code = interrupted() ? EXIT_INTERRUPTED : show(s, &origins[i], &a);
    }
    free(hits);
    free(found);
    return code;
}

static int search_radius(struct search *s, const void *vector, const struct origin *o)
{
    mn_error err = {0};
    mn_hit *hits = NULL;
    size_t n = 0;
    mn_search_stats stats = {0};
    mn_search_opts opts = s->opts;
    opts.stats = &stats;
    double start = now_seconds();
    if (mn_search_radius(s->db.conn, s->collection, vector, s->given->radius.value, 0, &opts, &hits,
                         &n, &err))
        return library_error(&err);
    s->seconds += now_seconds() - start;
    stats_add(&s->stats, &stats);
    uint32_t most = s->given->k ? s->k : UINT32_MAX;
    struct answer a = {.hits = hits, .n = without_self(hits, (uint32_t)n, o, most)};
    int code = show(s, o, &a);
    mn_free_result(hits);
    return code;
}

/* One block, of one snapshot. */
static int search_block(struct search *s, const uint8_t *vectors, size_t bytes, size_t n,
                        const struct origin *origins)
{
    mn_error err = {0};
    int code = 0;
    if (mn_begin_read(s->db.conn, &err))
        return library_error(&err);
    if (!s->given->radius.given)
        code = search_k(s, vectors, n, origins);
    for (size_t i = 0; s->given->radius.given && !code && i < n && out_fine(); i++)
        code = search_radius(s, vectors + i * bytes, &origins[i]);
    (void)mn_rollback(s->db.conn, NULL);
    out_flush();
    return code;
}

static int search_file(struct search *s)
{
    const struct search_options *g = s->given;
    struct format_opts read = {.format = (enum format_kind)g->query_format,
                               .vector_column = g->vector_column};
    struct queries q;
    struct origin *origins = NULL;
    struct queries_want want = {.k = s->k, .memory = g->common.memory, .limit = g->limit};
    int code = queries_open(&q, g->queries, &read, &s->info, &want);
    s->opts.from_f32 = q.plan.from_f32;
    if (!code)
        origins = need(calloc(q.most, sizeof *origins));
    while (!code && out_fine() && !(code = queries_next(&q)) && q.n) {
        for (size_t i = 0; i < q.n; i++)
            origins[i].number = q.done + i;
        code = search_block(s, q.vectors, q.plan.bytes, q.n, origins);
    }
    free(origins);
    queries_close(&q);
    return code;
}

/* Words are likely to be stored in lower case. */
static int no_row(struct search *s, const mn_id *id)
{
    char quoted[MN_MAX_TEXT_ID + 3], lower[MN_MAX_TEXT_ID + 1];
    mn_rows *rows = NULL;
    id_quote(id, quoted, sizeof quoted);
    bool other = false;
    if (id->text_id) {
        size_t n = strlen(id->text_id);
        for (size_t i = 0; i <= n; i++) {
            char c = id->text_id[i];
            lower[i] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
        }
        mn_id lower_id = {.text_id = lower};
        if (strcmp(lower, id->text_id) != 0 &&
            mn_get_meta(s->db.conn, s->collection, &lower_id, 1, &rows, NULL) == MN_OK)
            other = mn_rows_at(rows, 0) != NULL;
        mn_rows_free(rows);
    }
    if (other)
        (void)error_exit("no row %s in '%s', but '%s' is there", quoted, s->collection, lower);
    else
        (void)error_exit("no row %s in '%s'", quoted, s->collection);
    return EXIT_FOUND;
}

/* A row's own vector is the query, in the collection's type. */
static int search_row(struct search *s, const char *word)
{
    mn_error err = {0};
    mn_id id;
    mn_rows *rows = NULL;
    int code = id_parse(&s->info, word, &id);
    if (code)
        return code;
    if (mn_get(s->db.conn, s->collection, &id, 1, &rows, &err))
        return library_error(&err);
    const mn_row *row = mn_rows_at(rows, 0);
    char quoted[MN_MAX_TEXT_ID + 3];
    if (!row) {
        code = no_row(s, &id);
    } else if (!row->vector) {
        code = error_exit("row %s has no vector in '%s'", id_quote(&id, quoted, sizeof quoted),
                          s->collection);
    } else {
        struct origin o = {.word = word, .self = &id, .self_id = row->id};
        s->opts.from_f32 = false;
        code = search_block(s, row->vector, 0, 1, &o);
    }
    mn_rows_free(rows);
    return code;
}

static int search_vector(struct search *s, const char *text, uint64_t number)
{
    char why[160];
    float *x = need(calloc(s->info.dim, sizeof *x));
    struct vector_plan plan;
    uint8_t *vector = need(calloc(s->info.dim, sizeof(float)));
    const char *wrong = vector_parse(text, s->info.dim, x, why, sizeof why);
    if (!wrong && !vector_plan_make(&plan, s->info.dtype, s->info.dim, FORMAT_F32, s->info.dim, why,
                                    sizeof why))
        wrong = why;
    struct format_record rec = {.dtype = FORMAT_F32, .dim = s->info.dim, .vector = x};
    if (!wrong)
        wrong = vector_take(&plan, &rec, vector);
    int code;
    if (wrong) {
        code = error_exit("--vector: %s", wrong);
    } else {
        struct origin o = {.number = number};
        s->opts.from_f32 = plan.from_f32;
        code = search_block(s, vector, 0, 1, &o);
    }
    free(x);
    free(vector);
    return code;
}

/* ---- The command ---------------------------------------------------------------------------- */

static int check_sources(const struct search_options *g)
{
    int sources = (g->queries != NULL) + (g->id.n > 0) + (g->word.n > 0) + (g->vector.n > 0);
    if (sources == 0)
        return usage_error("search: what for? give --queries FILE, --id ID, --word W or --vector "
                           "'[...]'");
    if (sources > 1)
        return usage_error("search: only one of --queries, --id, --word and --vector at a time");
    if (g->limit && !g->queries)
        return usage_error("search: --limit goes with --queries; --k says how many rows");
    if (g->exact && g->recall.given && g->recall.value < 1)
        return usage_error("search: --exact and --recall %g exclude each other", g->recall.value);
    return 0;
}

static int search_all(struct search *s)
{
    const struct search_options *g = s->given;
    if (g->word.n && s->info.id_kind != MN_ID_TEXT)
        return error_exit("'%s' has integer ids, no words; use --id", s->collection);
    if (g->queries)
        return search_file(s);
    const struct option_list *rows = g->word.n ? &g->word : &g->id;
    int code = 0;
    /* A word that is not there does not keep the others from being answered. */
    for (size_t i = 0; i < rows->n && out_fine() && code <= EXIT_FOUND; i++) {
        int one = search_row(s, rows->items[i]);
        code = one > code ? one : code;
    }
    for (size_t i = 0; i < g->vector.n && out_fine() && !code; i++)
        code = search_vector(s, g->vector.items[i], i);
    return code;
}

/* Loads the index before the search does, so that its time is told apart. */
static int load_index(struct search *s)
{
    mn_error err = {0};
    double start = now_seconds();
    if (mn_index_stats(s->db.conn, s->collection, &s->index, &err))
        return library_error(&err);
    s->load_seconds = now_seconds() - start;
    return 0;
}

static void show_explained(const struct search *s)
{
    struct explained e = {
        .n_queries = s->n_queries,
        .n_hits = s->n_hits,
        .sum = s->stats,
        .metric = s->info.metric,
        .rerank = s->info.rerank,
        .index = s->index,
        .load_seconds = s->load_seconds,
    };
    if (s->given->explain)
        explain(&e);
}

static int search_run(struct search *s)
{
    const struct search_options *g = s->given;
    struct progress progress;
    int code = session_collection(&s->db, s->collection, &s->info);
    if (!code && (g->where.n || s->output != OUTPUT_JSON))
        code = names_load(&s->names, &s->db, s->collection);
    if (!code && g->where.n)
        code = where_parse(&s->where, &g->where, &s->names);
    if (code)
        return code;
    table_begin(s);
    s->opts = (mn_search_opts){
        .filter = g->where.n ? where_match : NULL,
        .filter_ctx = &s->where,
        .deadline_us = g->deadline,
        .recall = g->exact ? 1 : g->recall.value,
    };
    progress_begin(&progress, &g->common, "searching", NULL);
    progress.on = progress.on && !out_is_terminal(); /* answers are progress enough */
    mn_set_progress(s->db.conn, progress_library, &progress);
    if (g->explain && s->opts.recall < 1)
        code = load_index(s);
    if (!code)
        code = search_all(s);
    progress_end(&progress);
    if (code <= EXIT_FOUND && s->n_queries && out_fine()) {
        show_footer(s);
        show_explained(s);
    }
    return code;
}

static int run(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    (void)n;
    const struct search_options *g = given;
    int code = check_sources(g);
    if (code)
        return code;
    struct search s = {
        .given = g,
        .collection = args[1],
        .output = g->format ? (enum output)g->format : OUTPUT_TABLE,
        .k = g->k ? (uint32_t)g->k : 10,
    };
    code = session_open(&s.db, &g->common, args[0], MN_OPEN_READONLY);
    if (!code)
        code = search_run(&s);
    where_free(&s.where);
    names_free(&s.names);
    text_free(&s.line);
    table_free(&s.table);
    int closed = session_close(&s.db);
    return code ? code : closed;
}

const struct command cmd_search = {
    .name = "search",
    .arguments = "DB COLLECTION",
    .summary = "find the nearest rows to vectors, rows or words",
    .about = "Finds the rows of COLLECTION nearest to each query, nearest first. Distances: l2\n"
             "is the root of the sum of squares, cosine 1 - cos, ip the negative inner product,\n"
             "hamming the number of bits that differ.\n"
             "\n"
             "A collection that has an index (`mneme fold`) is searched by it, to find the part\n"
             "of the true neighbours that --recall asks for, with their exact distances. Without\n"
             "one, and with --exact, every vector is compared. `mneme recall` measures.\n"
             "\n"
             "An answer belongs to one state of the database. Nothing is written to it.",
    .examples = "  mneme search app.db words --word ocean --k 5\n"
                "  mneme search app.db docs --id 17 --where 'year>=1990' --where lang=en\n"
                "  mneme search app.db docs --vector '[0.1, 0.7, 0.2]' --radius 0.5\n"
                "  mneme search app.db sift --queries sift_query.fvecs --k 100 --format json\n"
                "  mneme search app.db sift --queries q.npy --limit 10 --threads 4 --explain\n"
                "  mneme search app.db sift --queries q.npy --recall 0.99 --format csv\n",
    .options = options,
    .size = sizeof(struct search_options),
    .run = run,
};
