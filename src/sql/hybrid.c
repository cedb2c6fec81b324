/*
 * hybrid(collection, text, vector [, k [, where]]): the best rows by words and by vector together.
 *
 *   SELECT docs.*, score FROM hybrid('docs', :text, :vector, 10) JOIN docs USING (id)
 *
 * Candidates are the `candidates` best rows by BM25 and as many by distance, of those that meet
 * the condition; each of them gets both parts exactly, whichever list it came from:
 *
 *   text_score    w = BM25 / the best BM25 of the candidates; 0 if no word is in the row
 *   vector_score  v = (far - distance) / (far - near), 0 to 1; near and far are the first and the
 *                 last of the candidates by distance; 0 for a row without vector
 *
 *   method 'sum'  score = weight v + (1 - weight) w
 *   method 'rrf'  score = weight / (rrf_k + vector_rank) + (1 - weight) / (rrf_k + text_rank), a
 *                 rank counting from 1, and only where the row is in the list
 *
 * Words that more than half of many rows have are left out, if there are others (fts.h). If the
 * text or the vector is NULL, the score is the other part alone. Equal scores come by id.
 * The sum is the default since it finds more (docs/decisions.md, 2026-11-25).
 */
#include <stdlib.h>
#include <string.h>

#include "src/sql/alive.h"
#include "src/sql/fts.h"
#include "src/sql/ranked.h"
#include "src/sql/sql.h"
#include "src/sql/where.h"
#include "storage/base/error.h"
#include "storage/sql.h"

enum { DEFAULT_K = 10, LEAST_CANDIDATES = 100, CANDIDATES_A_ROW = 10, DEFAULT_RRF_K = 10 };

enum column {
    COLUMN_ID,
    COLUMN_SCORE,
    COLUMN_TEXT_SCORE,
    COLUMN_VECTOR_SCORE,
    COLUMN_BM25,
    COLUMN_DISTANCE,
    COLUMN_TEXT_RANK,
    COLUMN_VECTOR_RANK,
    COLUMN_RANK,
    ARGUMENT_COLLECTION,
    ARGUMENT_TEXT,
    ARGUMENT_VECTOR,
    ARGUMENT_K,
    ARGUMENT_WHERE,
    ARGUMENT_METHOD,
    ARGUMENT_WEIGHT,
    ARGUMENT_CANDIDATES,
    ARGUMENT_RRF_K,
    ARGUMENT_RECALL,
    ARGUMENT_EXACT,
    COLUMNS
};

static const char *const columns[COLUMNS] = {
    "id",        "score",       "text_score", "vector_score", "bm25",
    "distance",  "text_rank",   "vector_rank", "rank",        "collection",
    "text",      "vector",      "k",          "where",        "method",
    "weight",    "candidates",  "rrf_k",      "recall",       "exact"};

static const struct ranked_function hybrid;

/* A candidate. */
struct part {
    int64_t id;
    double bm25;          /* positive; 0: no word is in it */
    double distance;
    bool measured;        /* it has a distance */
    uint32_t text_rank, vector_rank; /* from 1; 0: not in that list */
    double w, v, score;
};

/* ---- Arguments ------------------------------------------------------------------------------- */

struct request {
    const char *collection, *where, *text;
    size_t text_len;
    sqlite3_value *vector;
    int64_t k, candidates;
    bool rrf;
    double weight, rrf_k, recall;
};

static mn_status read_method(sqlite3_value **args, struct request *r, mn_error *err)
{
    const char *method = "sum";
    mn_status st = ranked_text(&hybrid, args, ARGUMENT_METHOD, &method, err);
    r->rrf = st == MN_OK && sqlite3_stricmp(method, "rrf") == 0;
    if (st == MN_OK && !r->rrf && sqlite3_stricmp(method, "sum") != 0)
        st = mn_fail(err, MN_INVALID, "hybrid: method is '%.40s'; it may be sum or rrf", method);
    return st;
}

static mn_status read_request(sqlite3_value **args, struct request *r, mn_error *err)
{
    double exact = 0;
    *r = (struct request){.k = DEFAULT_K, .weight = 0.5, .rrf_k = DEFAULT_RRF_K,
                          .vector = args[ARGUMENT_VECTOR]};
    mn_status st = ranked_text(&hybrid, args, ARGUMENT_COLLECTION, &r->collection, err);
    if (st == MN_OK)
        st = ranked_text(&hybrid, args, ARGUMENT_TEXT, &r->text, err);
    if (st == MN_OK)
        st = ranked_text(&hybrid, args, ARGUMENT_WHERE, &r->where, err);
    if (st == MN_OK)
        st = read_method(args, r, err);
    if (st == MN_OK)
        st = ranked_whole(&hybrid, args, ARGUMENT_K, 0, MN_MAX_K, &r->k, err);
    r->candidates = CANDIDATES_A_ROW * r->k;
    if (r->candidates < LEAST_CANDIDATES)
        r->candidates = LEAST_CANDIDATES;
    if (r->candidates > MN_MAX_K)
        r->candidates = MN_MAX_K;
    if (st == MN_OK)
        st = ranked_whole(&hybrid, args, ARGUMENT_CANDIDATES, r->k > 1 ? r->k : 1, MN_MAX_K,
                          &r->candidates, err);
    if (st == MN_OK)
        st = ranked_number(&hybrid, args, ARGUMENT_WEIGHT, 0, 1, &r->weight, err);
    if (st == MN_OK)
        st = ranked_number(&hybrid, args, ARGUMENT_RRF_K, 0, 1e6, &r->rrf_k, err);
    if (st == MN_OK)
        st = ranked_number(&hybrid, args, ARGUMENT_RECALL, 0.5, 1, &r->recall, err);
    if (st == MN_OK)
        st = ranked_number(&hybrid, args, ARGUMENT_EXACT, 0, 1, &exact, err);
    if (st == MN_OK && exact != 0)
        r->recall = 1;
    if (st == MN_OK && !r->text && !r->vector)
        st = mn_fail(err, MN_INVALID, "hybrid: the text and the vector are both NULL");
    r->text_len = r->text ? (size_t)sqlite3_value_bytes(args[ARGUMENT_TEXT]) : 0;
    return st;
}

/* ---- Candidates ------------------------------------------------------------------------------ */

/* A run of the function. */
struct run {
    const struct request *r;
    mn_conn *conn;
    struct catalog_entry e;
    struct where where;
    struct alive alive;
    void *query;             /* the vector, of the collection's type; NULL */
    struct part *parts;      /* [n]; those by distance first */
    size_t n, by_distance;
    size_t *by_id;           /* [by_distance] of parts, ascending by id */
    sqlite3_stmt *meets;     /* ?1 id: a row if the row is there and meets the condition */
    struct session *s;
};

static mn_status no_memory(mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "out of memory");
}

/* Searches for the nearest among `ids` (NULL: all rows that meet the condition). */
static mn_status nearest(struct run *run, const int64_t *ids, size_t n_ids, mn_hit *hits, size_t k,
                         uint32_t *found, mn_error *err)
{
    mn_search_opts opts = {.recall = ids ? 1 : run->r->recall,
                           .only_ids = ids,
                           .n_only_ids = n_ids,
                           .stats = session_stats(run->s)};
    if (!ids) {
        opts.where = run->where.conditions;
        opts.n_where = run->where.n;
        opts.only_ids = run->where.ids;
        opts.n_only_ids = run->where.n_ids;
        opts.filter = *run->alive.column ? alive_row : NULL;
        opts.filter_ctx = &run->alive;
    }
    mn_status st = mn_search(run->conn, run->r->collection, run->query, 1, (uint32_t)k, &opts,
                             hits, found, err);
    session_searched(run->s);
    return st;
}

static int by_part_id(const void *a, const void *b, void *ctx)
{
    const struct part *parts = ctx;
    int64_t x = parts[*(const size_t *)a].id, y = parts[*(const size_t *)b].id;
    return (x > y) - (x < y);
}

static mn_status take_nearest(struct run *run, mn_error *err)
{
    size_t most = (size_t)run->r->candidates;
    uint32_t found = 0;
    mn_hit *hits = sqlite3_malloc64(most * sizeof *hits);
    run->by_id = sqlite3_malloc64(most * sizeof *run->by_id);
    mn_status st = hits && run->by_id ? nearest(run, NULL, 0, hits, most, &found, err)
                                      : no_memory(err);
    for (uint32_t i = 0; i < found; i++) {
        run->parts[i] = (struct part){.id = hits[i].id, .distance = hits[i].distance,
                                      .measured = true, .vector_rank = i + 1};
        run->by_id[i] = i;
    }
    run->n = run->by_distance = found;
    if (st == MN_OK)
        qsort_r(run->by_id, found, sizeof *run->by_id, by_part_id, run->parts);
    sqlite3_free(hits);
    return st;
}

/* The candidate by distance with that id, or NULL. */
static struct part *known(const struct run *run, int64_t id)
{
    size_t first = 0, end = run->by_distance;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        struct part *p = &run->parts[run->by_id[middle]];
        if (p->id == id)
            return p;
        if (p->id < id)
            first = middle + 1;
        else
            end = middle;
    }
    return NULL;
}

/* The SQL behind ?1 = id: the condition, and that the row's time is not over. */
static char *meets_sql(const struct run *run)
{
    const char *where = run->r->where;
    sqlite3_str *sql = sqlite3_str_new(run->conn->sql);
    sqlite3_str_appendf(sql, "SELECT 1 FROM main.\"%w\" WHERE \"%w\" = ?1", run->e.table,
                        run->e.id_column);
    if (*run->alive.column)
        sqlite3_str_appendf(sql, " AND (\"%w\" IS NULL OR \"%w\" > %lld)", run->alive.column,
                            run->alive.column, (long long)run->alive.now);
    if (where && where[strspn(where, " \t\r\n")])
        sqlite3_str_appendf(sql, " AND (%s\n)", where);
    return sqlite3_str_finish(sql);
}

static mn_status prepare_meets(struct run *run, mn_error *err)
{
    const char *tail = NULL;
    char *text = meets_sql(run);
    int rc = text ? sqlite3_prepare_v2(run->conn->sql, text, -1, &run->meets, &tail) : SQLITE_NOMEM;
    mn_status st = rc == SQLITE_OK      ? MN_OK
                   : rc == SQLITE_NOMEM ? no_memory(err)
                                        : mn_fail(err, MN_INVALID, "where '%.200s': %s",
                                                  run->r->where ? run->r->where : "",
                                                  sqlite3_errmsg(run->conn->sql));
    if (st == MN_OK && (!sqlite3_stmt_readonly(run->meets) || (tail && *tail)))
        st = mn_fail(err, MN_INVALID, "where '%.200s' is no expression", run->r->where);
    sqlite3_free(text);
    return st;
}

/* Rows decide: what FTS5 still has of one that is gone does not count. */
static mn_status meets(struct run *run, int64_t id, bool *yes, mn_error *err)
{
    sqlite3_bind_int64(run->meets, 1, id);
    mn_status st = sql_step(run->meets, yes, err);
    sqlite3_reset(run->meets);
    return st;
}

/* Reads all rows with one of the words, best first: the first of them that meet the condition are
 * candidates, and of those that are candidates already the BM25 is taken. */
static mn_status take_words(struct run *run, sqlite3_stmt *st, mn_error *err)
{
    bool row = false, yes = false;
    uint32_t rank = 0, most = (uint32_t)run->r->candidates;
    size_t left = run->by_distance;
    mn_status status;
    while ((status = sql_step(st, &row, err)) == MN_OK && row && (rank < most || left > 0)) {
        int64_t id = sqlite3_column_int64(st, 0);
        double bm25 = -sqlite3_column_double(st, 1);
        struct part *p = known(run, id);
        if (p) {
            left--;
        } else if (rank < most) {
            status = meets(run, id, &yes, err);
            if (status != MN_OK)
                return status;
            if (!yes)
                continue;
            p = &run->parts[run->n++];
            *p = (struct part){.id = id};
        } else {
            continue;
        }
        p->bm25 = bm25;
        p->text_rank = rank < most ? ++rank : 0;
    }
    return status;
}

static mn_status take_texts(struct run *run, mn_error *err)
{
    char *name = NULL, *query = NULL;
    sqlite3_stmt *st = NULL;
    mn_status status = fts_find(run->conn->sql, run->e.table, &name, err);
    if (status == MN_OK && !name)
        status = mn_fail(err, MN_INVALID,
                         "hybrid('%s'): the collection has no full text; SELECT mneme_fts('%s', "
                         "'COLUMN,COLUMN') makes it",
                         run->r->collection, run->r->collection);
    if (status == MN_OK)
        status = fts_query(run->conn->sql, name, run->r->text, run->r->text_len, &query, err);
    if (status == MN_OK && query)
        status = prepare_meets(run, err);
    if (status == MN_OK && query)
        status = sql_preparef(run->conn->sql, &st, err,
                              "SELECT rowid, rank FROM main.\"%w\" WHERE \"%w\" MATCH ?1 ORDER BY "
                              "rank",
                              name, name);
    if (status == MN_OK && query) {
        int rc = sqlite3_bind_text(st, 1, query, -1, SQLITE_STATIC);
        status = rc == SQLITE_OK ? take_words(run, st, err) : no_memory(err);
    }
    sqlite3_finalize(st);
    sqlite3_free(query);
    sqlite3_free(name);
    return status;
}

static int by_their_id(const void *a, const void *b)
{
    int64_t x = ((const struct part *)a)->id, y = ((const struct part *)b)->id;
    return (x > y) - (x < y);
}

/* Distances of the candidates that only words have found. */
static mn_status measure(struct run *run, mn_error *err)
{
    size_t n = run->n - run->by_distance;
    uint32_t found = 0;
    if (n == 0)
        return MN_OK;
    struct part *parts = run->parts + run->by_distance;
    qsort(parts, n, sizeof *parts, by_their_id);
    int64_t *ids = sqlite3_malloc64(n * sizeof *ids);
    mn_hit *hits = sqlite3_malloc64(n * sizeof *hits);
    mn_status st = ids && hits ? MN_OK : no_memory(err);
    for (size_t i = 0; i < n && st == MN_OK; i++)
        ids[i] = parts[i].id;
    if (st == MN_OK)
        st = nearest(run, ids, n, hits, n, &found, err);
    for (uint32_t h = 0; h < found; h++) {
        struct part key = {.id = hits[h].id},
                    *p = bsearch(&key, parts, n, sizeof *parts, by_their_id);
        p->distance = hits[h].distance;
        p->measured = true;
    }
    sqlite3_free(ids);
    sqlite3_free(hits);
    return st;
}

/* ---- Fusion ---------------------------------------------------------------------------------- */

static double inverse(double rrf_k, uint32_t rank)
{
    return rank ? 1 / (rrf_k + rank) : 0;
}

static void score(struct run *run)
{
    const struct request *r = run->r;
    size_t last = run->by_distance;
    double best = 0, near = last ? run->parts[0].distance : 0,
           far = last ? run->parts[last - 1].distance : 0,
           vector = !r->text ? 1 : run->query ? r->weight : 0, text = 1 - vector;
    for (size_t i = 0; i < run->n; i++)
        best = run->parts[i].bm25 > best ? run->parts[i].bm25 : best;
    for (size_t i = 0; i < run->n; i++) {
        struct part *p = &run->parts[i];
        p->w = best > 0 ? p->bm25 / best : 0;
        if (p->measured && far > near)
            p->v = p->distance >= far ? 0 : (far - p->distance) / (far - near);
        else if (p->measured && last)
            p->v = p->distance <= near;
        p->score = r->rrf ? vector * inverse(r->rrf_k, p->vector_rank) +
                                text * inverse(r->rrf_k, p->text_rank)
                          : vector * p->v + text * p->w;
    }
}

static int by_score(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static mn_status run_all(struct run *run, mn_error *err)
{
    const struct request *r = run->r;
    mn_status st = ranked_begin(&hybrid, run->conn, r->collection, r->vector, r->where, &run->e,
                                &run->query, r->vector ? &run->where : NULL, err);
    if (st == MN_OK)
        st = alive_of(run->s, run->e.table, &run->alive, err);
    if (st)
        return st;
    run->parts = sqlite3_malloc64(2 * (sqlite3_uint64)r->candidates * sizeof *run->parts);
    if (!run->parts)
        return no_memory(err);
    if (run->query)
        st = take_nearest(run, err);
    if (st == MN_OK && r->text)
        st = take_texts(run, err);
    if (st == MN_OK && run->query)
        st = measure(run, err);
    if (st)
        return st;
    score(run);
    qsort(run->parts, run->n, sizeof *run->parts, by_score);
    return MN_OK;
}

static mn_status fill(struct session *s, mn_conn *conn, sqlite3_value **args,
                      struct ranked_rows *rows, mn_error *err)
{
    struct request r;
    struct run run = {.r = &r, .conn = conn, .s = s};
    mn_status st = read_request(args, &r, err);
    if (st == MN_OK)
        st = run_all(&run, err);
    if (st == MN_OK && run.e.id_kind == MN_ID_TEXT) {
        rows->table = sqlite3_mprintf("%s", run.e.table);
        st = rows->table ? MN_OK : no_memory(err);
    }
    sqlite3_finalize(run.meets);
    where_fini(&run.where);
    sqlite3_free(run.query);
    sqlite3_free(run.by_id);
    rows->rows = run.parts;
    if (st == MN_OK)
        rows->n = run.n < (size_t)r.k ? run.n : (size_t)r.k;
    return st;
}

static void result(const void *row, int column, sqlite3_context *ctx)
{
    const struct part *p = row;
    const double numbers[] = {[COLUMN_SCORE] = p->score,       [COLUMN_TEXT_SCORE] = p->w,
                              [COLUMN_VECTOR_SCORE] = p->v,    [COLUMN_BM25] = p->bm25,
                              [COLUMN_DISTANCE] = p->distance};
    uint32_t rank = column == COLUMN_TEXT_RANK ? p->text_rank : p->vector_rank;
    if (column > COLUMN_DISTANCE && rank)
        sqlite3_result_int64(ctx, rank);
    else if (column <= COLUMN_VECTOR_SCORE || (column == COLUMN_BM25 && p->bm25 > 0) ||
             (column == COLUMN_DISTANCE && p->measured))
        sqlite3_result_double(ctx, numbers[column]);
}

static const struct ranked_function hybrid = {.name = "hybrid",
                                              .usage = "hybrid('docs', :text, :vector, 10)",
                                              .columns = columns,
                                              .n_columns = COLUMNS,
                                              .first_argument = ARGUMENT_COLLECTION,
                                              .n_required = 2,
                                              .score = COLUMN_SCORE,
                                              .distance = -1,
                                              .row_bytes = sizeof(struct part),
                                              .fill = fill,
                                              .result = result};

int hybrid_register(struct session *s)
{
    return ranked_register(s, &hybrid);
}
