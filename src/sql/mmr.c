/*
 * mmr(collection, vector [, k [, lambda [, where]]]): near rows that differ from each other, by
 * maximal marginal relevance (Carbonell and Goldstein 1998).
 *
 *   SELECT docs.*, distance FROM mmr('docs', :q, 10, 0.7) JOIN docs USING (id) ORDER BY rank
 *
 * Of the `candidates` nearest rows that meet the condition the nearest is taken, then again and
 * again the one with the greatest
 *
 *   score = (1 - lambda) (distance to the nearest row taken) - lambda (distance to the query)
 *
 * which is the formula for similarities with -distance for one, so that it holds for every metric.
 * lambda 1 is knn(); of equals the nearer is taken.
 *
 * knn_groups(collection, vector, k, column [, where]): the best row of each of the k nearest
 * groups, rows with an equal value in the column being one: the best chunk of each document.
 *
 *   SELECT value AS document, id, distance FROM knn_groups('chunks', :q, 10, 'document')
 *
 * Nearest rows are asked for in growing batches until k groups are met or there are no more rows.
 */
#include <math.h>
#include <string.h>

#include "src/sql/alive.h"
#include "src/sql/ranked.h"
#include "src/sql/sql.h"
#include "src/sql/vec_value.h"
#include "src/sql/where.h"
#include "storage/base/error.h"
#include "storage/sql.h"

enum { DEFAULT_K = 10, LEAST_CANDIDATES = 100, CANDIDATES_A_ROW = 10 };

static mn_status no_memory(mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "out of memory");
}

/* What both functions are asked. */
struct request {
    const char *collection, *where;
    sqlite3_value *vector;
    int64_t k;
    double recall;
};

/* A run of one of them. */
struct run {
    mn_conn *conn;
    struct request r;
    struct catalog_entry e;
    struct where where;
    void *query;
    struct alive alive;
    mn_hit *hits; /* [n], sqlite3_free */
    size_t n;
    struct session *s;
};

static void run_fini(struct run *run)
{
    where_fini(&run->where);
    sqlite3_free(run->query);
    sqlite3_free(run->hits);
}

static mn_search_opts search_opts(struct run *run)
{
    return (mn_search_opts){.where = run->where.conditions,
                            .n_where = run->where.n,
                            .only_ids = run->where.ids,
                            .n_only_ids = run->where.n_ids,
                            .recall = run->r.recall,
                            .filter = *run->alive.column ? alive_row : NULL,
                            .filter_ctx = &run->alive,
                            .stats = session_stats(run->s)};
}

/* The k nearest rows into run->hits. */
static mn_status search(struct run *run, size_t k, mn_error *err)
{
    mn_search_opts opts = search_opts(run);
    uint32_t found = 0;
    mn_hit *hits = sqlite3_realloc64(run->hits, k * sizeof *hits);
    if (!hits)
        return no_memory(err);
    run->hits = hits;
    mn_status st = mn_search(run->conn, run->r.collection, run->query, 1, (uint32_t)k, &opts, hits,
                             &found, err);
    session_searched(run->s);
    run->n = st == MN_OK ? found : 0;
    return st;
}

static mn_status keep_table(const struct run *run, struct ranked_rows *rows, mn_error *err)
{
    if (run->e.id_kind != MN_ID_TEXT)
        return MN_OK;
    rows->table = sqlite3_mprintf("%s", run->e.table);
    return rows->table ? MN_OK : no_memory(err);
}

/* ---- mmr ------------------------------------------------------------------------------------- */

enum mmr_column {
    MMR_ID,
    MMR_DISTANCE,
    MMR_NEAREST,
    MMR_SCORE,
    MMR_RANK,
    MMR_COLLECTION,
    MMR_VECTOR,
    MMR_K,
    MMR_LAMBDA,
    MMR_WHERE,
    MMR_CANDIDATES,
    MMR_RECALL,
    MMR_EXACT,
    MMR_COLUMNS
};

static const char *const mmr_columns[MMR_COLUMNS] = {
    "id", "distance", "nearest", "score",  "rank",       "collection", "vector",
    "k",  "lambda",   "where",   "candidates", "recall", "exact"};

static const struct ranked_function mmr;

struct pick {
    int64_t id;
    double distance, nearest, score; /* nearest: INFINITY for the first */
};

static mn_status read_common(const struct ranked_function *f, sqlite3_value **args, int collection,
                             int vector, int k, int where, int recall, int exact,
                             struct request *r, mn_error *err)
{
    double number = 0;
    *r = (struct request){.k = DEFAULT_K, .vector = args[vector]};
    mn_status st = ranked_text(f, args, collection, &r->collection, err);
    if (st == MN_OK)
        st = ranked_text(f, args, where, &r->where, err);
    if (st == MN_OK)
        st = ranked_whole(f, args, k, 0, MN_MAX_K, &r->k, err);
    if (st == MN_OK)
        st = ranked_number(f, args, recall, 0.5, 1, &r->recall, err);
    if (st == MN_OK)
        st = ranked_number(f, args, exact, 0, 1, &number, err);
    if (number != 0)
        r->recall = 1;
    return st;
}

/* The candidates' vectors and what is known of each. */
struct pool {
    const struct kernels *kn;
    mn_metric metric;
    mn_rows *rows;
    struct vec *vectors; /* [n]; data NULL: the row is gone */
    double *nearest;     /* [n] distance to the nearest row taken; negative infinity: is taken */
    size_t n;
};

static void pool_fini(struct pool *p)
{
    sqlite3_free(p->vectors);
    sqlite3_free(p->nearest);
    mn_rows_free(p->rows);
}

static mn_status pool_fill(struct run *run, struct pool *p, mn_error *err)
{
    *p = (struct pool){.kn = run->conn->db->kernels, .metric = run->e.metric, .n = run->n};
    mn_id *ids = sqlite3_malloc64((p->n + 1) * sizeof *ids);
    p->vectors = sqlite3_malloc64((p->n + 1) * sizeof *p->vectors);
    p->nearest = sqlite3_malloc64((p->n + 1) * sizeof *p->nearest);
    if (!ids || !p->vectors || !p->nearest) {
        sqlite3_free(ids);
        return no_memory(err);
    }
    for (size_t i = 0; i < p->n; i++)
        ids[i] = (mn_id){.id = run->hits[i].id};
    mn_status st = mn_get(run->conn, run->r.collection, ids, p->n, &p->rows, err);
    sqlite3_free(ids);
    for (size_t i = 0; i < p->n && st == MN_OK; i++) {
        const mn_row *row = mn_rows_at(p->rows, i);
        p->vectors[i] = (struct vec){.type = run->e.dtype, .dim = run->e.dim,
                                     .bytes = vec_bytes(run->e.dtype, run->e.dim),
                                     .data = row ? row->vector : NULL};
        p->nearest[i] = p->vectors[i].data ? INFINITY : -INFINITY;
    }
    return st;
}

/* Row `taken` was taken: all others may be nearer to it than to those before. */
static mn_status pool_take(struct pool *p, size_t taken, mn_error *err)
{
    const struct vec *a = &p->vectors[taken];
    bool half = a->type == MN_F16 || a->type == MN_BF16;
    float *floats = half ? vec_floats(p->kn, a) : NULL;
    if (half && !floats)
        return no_memory(err);
    for (size_t i = 0; i < p->n; i++) {
        if (p->nearest[i] == -INFINITY || i == taken)
            continue;
        double d = vec_distance_of(p->kn, p->metric, a, &p->vectors[i], floats);
        if (d < p->nearest[i])
            p->nearest[i] = d;
    }
    p->nearest[taken] = -INFINITY;
    sqlite3_free(floats);
    return MN_OK;
}

static mn_status pick_all(struct run *run, struct pool *p, double lambda, struct ranked_rows *rows,
                          mn_error *err)
{
    struct pick *picks = rows->rows;
    mn_status st = MN_OK;
    while (rows->n < (size_t)run->r.k && st == MN_OK) {
        struct pick best = {.score = -INFINITY};
        size_t at = p->n;
        for (size_t i = 0; i < p->n; i++) {
            double d = run->hits[i].distance, near = p->nearest[i];
            if (near == -INFINITY)
                continue;
            double score = (rows->n ? (1 - lambda) * near : 0) - lambda * d;
            if (at == p->n || score > best.score) {
                best = (struct pick){run->hits[i].id, d, near, score};
                at = i;
            }
            if (rows->n == 0)
                break; /* the nearest comes first */
        }
        if (at == p->n)
            break;
        picks[rows->n++] = best;
        st = pool_take(p, at, err);
        if (st == MN_OK)
            st = conn_tick_aside(run->conn, err);
    }
    return st;
}

static mn_status mmr_fill(struct session *s, mn_conn *conn, sqlite3_value **args,
                          struct ranked_rows *rows, mn_error *err)
{
    struct run run = {.conn = conn, .s = s};
    struct pool pool = {.n = 0};
    double lambda = 0.7;
    mn_status st = read_common(&mmr, args, MMR_COLLECTION, MMR_VECTOR, MMR_K, MMR_WHERE,
                               MMR_RECALL, MMR_EXACT, &run.r, err);
    int64_t k = run.r.k, candidates = CANDIDATES_A_ROW * k;
    candidates = candidates < LEAST_CANDIDATES ? LEAST_CANDIDATES : candidates;
    candidates = candidates > MN_MAX_K ? MN_MAX_K : candidates;
    if (st == MN_OK)
        st = ranked_number(&mmr, args, MMR_LAMBDA, 0, 1, &lambda, err);
    if (st == MN_OK)
        st = ranked_whole(&mmr, args, MMR_CANDIDATES, k > 1 ? k : 1, MN_MAX_K, &candidates, err);
    if (st == MN_OK)
        st = ranked_begin(&mmr, conn, run.r.collection, run.r.vector, run.r.where, &run.e,
                          &run.query, &run.where, err);
    if (st == MN_OK)
        st = alive_of(s, run.e.table, &run.alive, err);
    if (st == MN_OK && run.query && k > 0) {
        rows->rows = sqlite3_malloc64((sqlite3_uint64)k * sizeof(struct pick));
        st = rows->rows ? search(&run, (size_t)candidates, err) : no_memory(err);
        if (st == MN_OK)
            st = pool_fill(&run, &pool, err);
        if (st == MN_OK)
            st = pick_all(&run, &pool, lambda, rows, err);
    }
    if (st == MN_OK)
        st = keep_table(&run, rows, err);
    pool_fini(&pool);
    run_fini(&run);
    return st;
}

static void mmr_result(const void *row, int column, sqlite3_context *ctx)
{
    const struct pick *p = row;
    double value = column == MMR_DISTANCE ? p->distance
                   : column == MMR_SCORE  ? p->score
                                          : p->nearest;
    if (!isinf(value))
        sqlite3_result_double(ctx, value);
}

static const struct ranked_function mmr = {.name = "mmr",
                                           .usage = "mmr('docs', :vector, 10, 0.7)",
                                           .columns = mmr_columns,
                                           .n_columns = MMR_COLUMNS,
                                           .first_argument = MMR_COLLECTION,
                                           .n_required = 2,
                                           .score = -1,
                                           .distance = -1,
                                           .row_bytes = sizeof(struct pick),
                                           .fill = mmr_fill,
                                           .result = mmr_result};

/* ---- knn_groups ------------------------------------------------------------------------------ */

enum groups_column {
    GROUPS_ID,
    GROUPS_DISTANCE,
    GROUPS_VALUE,
    GROUPS_RANK,
    GROUPS_COLLECTION,
    GROUPS_VECTOR,
    GROUPS_K,
    GROUPS_COLUMN,
    GROUPS_WHERE,
    GROUPS_RECALL,
    GROUPS_EXACT,
    GROUPS_COLUMNS
};

static const char *const groups_columns[GROUPS_COLUMNS] = {
    "id", "distance", "value", "rank",   "collection", "vector",
    "k",  "column",   "where", "recall", "exact"};

static const struct ranked_function groups;

struct group {
    int64_t id;
    double distance;
    sqlite3_value *value;
};

enum { FIRST_BATCH = 64, GROWTH = 4 };

/* The groups met, in order, and a table of them by value. */
struct found {
    struct group *all; /* [n], of most */
    size_t n, most;
    uint32_t *slots; /* [n_slots], a power of two above 2 most: 1 + index; 0: free */
    size_t n_slots;
    sqlite3_stmt *value; /* ?1 id -> the column's value */
};

static uint64_t hash_of(sqlite3_value *v)
{
    uint64_t h = 0xcbf29ce484222325;
    int type = sqlite3_value_type(v);
    if (type == SQLITE_NULL)
        return h;
    double d = sqlite3_value_double(v);
    bool number = type == SQLITE_INTEGER || type == SQLITE_FLOAT;
    d = d == 0 ? 0 : d; /* no negative zero */
    const unsigned char *p = number ? (const unsigned char *)&d : sqlite3_value_blob(v);
    size_t n = number ? sizeof d : (size_t)sqlite3_value_bytes(v);
    for (size_t i = 0; p && i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3;
    return h;
}

/* As GROUP BY has it: numbers by value, NULLs are one group. */
static bool equal(sqlite3_value *a, sqlite3_value *b)
{
    int x = sqlite3_value_type(a), y = sqlite3_value_type(b);
    if (x == SQLITE_INTEGER && y == SQLITE_INTEGER)
        return sqlite3_value_int64(a) == sqlite3_value_int64(b);
    if ((x == SQLITE_INTEGER || x == SQLITE_FLOAT) && (y == SQLITE_INTEGER || y == SQLITE_FLOAT))
        return sqlite3_value_double(a) == sqlite3_value_double(b);
    if (x != y)
        return false;
    const void *p = sqlite3_value_blob(a), *q = sqlite3_value_blob(b);
    int n = sqlite3_value_bytes(a), m = sqlite3_value_bytes(b);
    return n == m && (n == 0 || (p && q && memcmp(p, q, (size_t)n) == 0));
}

static mn_status add_group(struct found *f, const mn_hit *hit, sqlite3_value *value, mn_error *err)
{
    size_t at = hash_of(value) & (f->n_slots - 1);
    for (; f->slots[at]; at = (at + 1) & (f->n_slots - 1))
        if (equal(f->all[f->slots[at] - 1].value, value))
            return MN_OK;
    sqlite3_value *copy = sqlite3_value_dup(value);
    if (!copy)
        return no_memory(err);
    f->all[f->n++] = (struct group){hit->id, hit->distance, copy};
    f->slots[at] = (uint32_t)f->n;
    return MN_OK;
}

static mn_status add_hits(struct run *run, struct found *f, mn_error *err)
{
    mn_status st = MN_OK;
    for (size_t i = 0; i < run->n && f->n < f->most && st == MN_OK; i++) {
        bool row = false;
        sqlite3_bind_int64(f->value, 1, run->hits[i].id);
        st = sql_step(f->value, &row, err);
        if (st == MN_OK && row)
            st = add_group(f, &run->hits[i], sqlite3_column_value(f->value, 0), err);
        sqlite3_reset(f->value);
    }
    return st;
}

/* All rows that meet the condition, exactly, when the nearest MN_MAX_K do not do. */
static mn_status search_all(struct run *run, mn_error *err)
{
    mn_search_opts opts = search_opts(run);
    mn_hit *hits = NULL;
    mn_status st = mn_search_radius(run->conn, run->r.collection, run->query, INFINITY, INT64_MAX,
                                    &opts, &hits, &run->n, err);
    session_searched(run->s);
    sqlite3_free(run->hits);
    run->hits = st == MN_OK ? sqlite3_malloc64(run->n * sizeof *hits + 1) : NULL;
    if (st == MN_OK && !run->hits)
        st = no_memory(err);
    else if (st == MN_OK)
        memcpy(run->hits, hits, run->n * sizeof *hits);
    mn_free_result(hits);
    return st;
}

static void forget_groups(struct found *f)
{
    while (f->n > 0)
        sqlite3_value_free(f->all[--f->n].value);
    memset(f->slots, 0, f->n_slots * sizeof *f->slots);
}

static mn_status find_groups(struct run *run, struct found *f, mn_error *err)
{
    size_t k = GROWTH * f->most < FIRST_BATCH ? FIRST_BATCH : GROWTH * f->most;
    bool all = false;
    for (;;) {
        k = k < MN_MAX_K ? k : MN_MAX_K;
        mn_status st = all ? search_all(run, err) : search(run, k, err);
        forget_groups(f); /* a larger search by the index may find nearer rows */
        if (st == MN_OK)
            st = add_hits(run, f, err);
        if (st != MN_OK || f->n == f->most || all || run->n < k)
            return st;
        all = k == MN_MAX_K;
        k *= GROWTH;
    }
}

static mn_status prepare_value(const struct run *run, const char *column, struct found *f,
                               mn_error *err)
{
    int rc = sqlite3_table_column_metadata(run->conn->sql, "main", run->e.table, column, NULL, NULL,
                                           NULL, NULL, NULL);
    if (rc == SQLITE_NOMEM)
        return no_memory(err);
    if (rc != SQLITE_OK)
        return mn_fail(err, MN_INVALID, "knn_groups('%s'): the table '%s' has no column '%.100s'",
                       run->r.collection, run->e.table, column);
    f->n_slots = 16;
    while (f->n_slots < 2 * f->most)
        f->n_slots *= 2;
    f->all = sqlite3_malloc64((f->most + 1) * sizeof *f->all);
    f->slots = sqlite3_malloc64(f->n_slots * sizeof *f->slots);
    if (!f->all || !f->slots)
        return no_memory(err);
    memset(f->slots, 0, f->n_slots * sizeof *f->slots);
    return sql_preparef(run->conn->sql, &f->value, err,
                        "SELECT \"%w\" FROM main.\"%w\" WHERE \"%w\" = ?1", column, run->e.table,
                        run->e.id_column);
}

static mn_status groups_fill(struct session *s, mn_conn *conn, sqlite3_value **args,
                             struct ranked_rows *rows, mn_error *err)
{
    struct run run = {.conn = conn, .s = s};
    struct found f = {.n = 0};
    const char *column = NULL;
    mn_status st = read_common(&groups, args, GROUPS_COLLECTION, GROUPS_VECTOR, GROUPS_K,
                               GROUPS_WHERE, GROUPS_RECALL, GROUPS_EXACT, &run.r, err);
    if (st == MN_OK)
        st = ranked_text(&groups, args, GROUPS_COLUMN, &column, err);
    if (st == MN_OK && !column)
        st = mn_fail(err, MN_INVALID, "knn_groups: the column's name is NULL");
    if (st == MN_OK)
        st = ranked_begin(&groups, conn, run.r.collection, run.r.vector, run.r.where, &run.e,
                          &run.query, &run.where, err);
    if (st == MN_OK)
        st = alive_of(s, run.e.table, &run.alive, err);
    f.most = (size_t)run.r.k;
    if (st == MN_OK)
        st = prepare_value(&run, column, &f, err);
    if (st == MN_OK && run.query && f.most > 0)
        st = find_groups(&run, &f, err);
    if (st == MN_OK)
        st = keep_table(&run, rows, err);
    rows->rows = f.all;
    rows->n = f.n;
    sqlite3_finalize(f.value);
    sqlite3_free(f.slots);
    run_fini(&run);
    return st;
}

static void groups_result(const void *row, int column, sqlite3_context *ctx)
{
    const struct group *g = row;
    if (column == GROUPS_DISTANCE)
        sqlite3_result_double(ctx, g->distance);
    else
        sqlite3_result_value(ctx, g->value);
}

static void groups_fini(void *row)
{
    sqlite3_value_free(((struct group *)row)->value);
}

static const struct ranked_function groups = {
    .name = "knn_groups",
    .usage = "knn_groups('chunks', :vector, 10, 'document')",
    .columns = groups_columns,
    .n_columns = GROUPS_COLUMNS,
    .first_argument = GROUPS_COLLECTION,
    .n_required = 4,
    .score = -1,
    .distance = GROUPS_DISTANCE,
    .row_bytes = sizeof(struct group),
    .fill = groups_fill,
    .result = groups_result,
    .fini_row = groups_fini};

int mmr_register(struct session *s)
{
    int rc = ranked_register(s, &mmr);
    return rc == SQLITE_OK ? ranked_register(s, &groups) : rc;
}
