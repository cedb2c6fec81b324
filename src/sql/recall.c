/*
 * mneme_recall(collection [, sample [, k]]): what share of the true nearest k (10) rows searches
 * find, measured on `sample` (100) rows drawn at random, each left out of its own answer. A row as
 * near as the last true neighbour counts as one, so that ties cost nothing.
 */
#include <string.h>

#include "src/engine/engine.h"
#include "src/sql/sql.h"
#include "storage/base/error.h"
#include "storage/sql.h"

enum { SAMPLE = 100, MOST_SAMPLE = 10000, K = 10, MOST_K = 1000 };

struct measure {
    mn_conn *conn;
    const char *name;
    uint32_t k;
    size_t sample;
    int64_t *ids;  /* [n] */
    char *vectors; /* [n] of bytes */
    size_t n, bytes;
    mn_hit *truth, *hits;       /* [n][k + 1] */
    uint32_t *n_truth, *n_hits; /* [n] */
};

static void measure_fini(struct measure *m)
{
    sqlite3_free(m->ids);
    sqlite3_free(m->vectors);
    sqlite3_free(m->truth);
    sqlite3_free(m->hits);
    sqlite3_free(m->n_truth);
    sqlite3_free(m->n_hits);
}

static mn_status measure_init(struct measure *m, mn_error *err)
{
    size_t hits = m->sample * (m->k + 1);
    m->ids = sqlite3_malloc64(m->sample * sizeof *m->ids);
    m->vectors = sqlite3_malloc64(m->sample * m->bytes);
    m->truth = sqlite3_malloc64(hits * sizeof *m->truth);
    m->hits = sqlite3_malloc64(hits * sizeof *m->hits);
    m->n_truth = sqlite3_malloc64(m->sample * sizeof *m->n_truth);
    m->n_hits = sqlite3_malloc64(m->sample * sizeof *m->n_hits);
    bool good = m->ids && m->vectors && m->truth && m->hits && m->n_truth && m->n_hits;
    return good ? MN_OK : mn_fail(err, MN_NOMEM, "mneme_recall: out of memory");
}

/* The rows drawn, with their vectors; those whose value is no vector are passed over. */
static mn_status draw(struct measure *m, struct coll *c, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    struct row_vector v;
    mn_status status =
        sql_preparef(m->conn->sql, &st, err,
                     "SELECT \"%w\" FROM main.\"%w\" WHERE \"%w\" IS NOT NULL ORDER "
                     "BY random() LIMIT %lld",
                     c->entry.id_column, c->entry.table, c->entry.column, (long long)m->sample);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        m->ids[m->n] = sqlite3_column_int64(st, 0);
        status = row_vector_get(m->conn, c, m->ids[m->n], &v, err);
        if (status)
            break;
        if (v.bytes)
            memcpy(m->vectors + m->n++ * m->bytes, v.bytes, m->bytes);
        row_vector_end(&v);
        status = conn_tick(m->conn, err);
    }
    sqlite3_finalize(st);
    return status;
}

/* Takes the row itself out of its hits, or the last one of too many. */
static uint32_t without(mn_hit *hits, uint32_t n, int64_t self, uint32_t k)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n && kept < k; i++)
        if (hits[i].id != self)
            hits[kept++] = hits[i];
    return kept;
}

static double compare(struct measure *m)
{
    uint64_t wanted = 0, found = 0;
    for (size_t q = 0; q < m->n; q++) {
        mn_hit *truth = m->truth + q * (m->k + 1), *hits = m->hits + q * (m->k + 1);
        uint32_t n = without(truth, m->n_truth[q], m->ids[q], m->k);
        uint32_t got = without(hits, m->n_hits[q], m->ids[q], m->k), good = 0;
        for (uint32_t i = 0; i < got; i++)
            good += n && hits[i].distance <= truth[n - 1].distance;
        wanted += n;
        found += good < n ? good : n;
    }
    return wanted ? (double)found / (double)wanted : 1;
}

static mn_status run(struct measure *m, double *recall, mn_error *err)
{
    struct coll *c;
    mn_search_opts exact = {.recall = 1};
    mn_status st = conn_enter(m->conn, err);
    if (st)
        return st;
    st = scope_read(m->conn, err);
    if (st)
        return conn_leave(m->conn, st, err);
    st = coll_get(m->conn, m->name, &c, err);
    if (st == MN_OK) {
        m->bytes = c->vector_bytes;
        st = measure_init(m, err);
    }
    if (st == MN_OK)
        st = draw(m, c, err);
    st = conn_leave(m->conn, scope_end(m->conn, st, err), err);
    if (st == MN_OK && m->n)
        st = mn_search(m->conn, m->name, m->vectors, m->n, m->k + 1, &exact, m->truth, m->n_truth,
                       err);
    for (size_t q = 0; q < m->n && st == MN_OK; q++)
        st = mn_search(m->conn, m->name, m->vectors + q * m->bytes, 1, m->k + 1, NULL,
                       m->hits + q * (m->k + 1), &m->n_hits[q], err);
    *recall = st == MN_OK ? compare(m) : 0;
    return st;
}

static mn_status number(sqlite3_value *v, const char *what, int64_t most, int64_t *out,
                        mn_error *err)
{
    *out = sqlite3_value_int64(v);
    if (sqlite3_value_numeric_type(v) == SQLITE_INTEGER && *out >= 1 && *out <= most)
        return MN_OK;
    return mn_fail(err, MN_INVALID, "mneme_recall: the %s must be 1 to %lld", what,
                   (long long)most);
}

static void call_recall(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    struct session *s = sqlite3_user_data(ctx);
    struct measure m = {.name = (const char *)sqlite3_value_text(args[0])};
    int64_t sample = SAMPLE, k = K;
    double recall = 0;
    mn_error err = {0};
    mn_status st =
        m.name ? MN_OK : mn_fail(&err, MN_INVALID, "mneme_recall: the collection's name is NULL");
    if (st == MN_OK && n > 1)
        st = number(args[1], "sample", MOST_SAMPLE, &sample, &err);
    if (st == MN_OK && n > 2)
        st = number(args[2], "number of neighbours", MOST_K, &k, &err);
    m.sample = (size_t)sample;
    m.k = (uint32_t)k;
    if (st == MN_OK)
        st = session_call(s, &m.conn, &err);
    if (st == MN_OK)
        st = run(&m, &recall, &err);
    measure_fini(&m);
    if (st)
        session_fail(ctx, st, &err);
    else
        sqlite3_result_double(ctx, recall);
}

int recall_register(struct session *s)
{
    static const struct sql_function functions[] = {
        {"mneme_recall", 1, 0, call_recall},
        {"mneme_recall", 2, 0, call_recall},
        {"mneme_recall", 3, 0, call_recall},
    };
    return sql_register_functions(s, functions, sizeof functions / sizeof *functions);
}
