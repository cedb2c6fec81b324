/*
 * The nearest rows come in batches, since before SQLite 3.41 a table is not told the LIMIT, and a
 * condition that SQLite keeps for itself may drop any number of them: 32, then four times as many
 * each time, and beyond what one search may return all rows, exactly. A batch repeats the ones
 * before it, whose rows are left out; four times the size makes that a third of the work. All
 * batches belong to the snapshot of the statement.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/engine.h"
#include "src/sql/alive.h"
#include "src/sql/cursor.h"
#include "storage/base/error.h"

enum { FIRST_BATCH = 32, GROWTH = 4 };

/* ---- The nearest: arguments ------------------------------------------------------------------ */

void near_fini(struct near *n)
{
    for (size_t i = 0; i < n->n_values; i++)
        sqlite3_value_free(n->kept[i]);
    sqlite3_free(n->query);
    sqlite3_free(n->where);
    sqlite3_free(n->values);
    sqlite3_free(n->kept);
    sqlite3_free(n->only);
    sqlite3_free(n->hits);
    sqlite3_free(n->seen);
    *n = (struct near){0};
}

/* Keeps a copy of a value, since batches come after xFilter has returned. */
static int keep_value(struct near *n, sqlite3_value *v, enum affinity affinity)
{
    if (n->n_values == n->cap) {
        size_t cap = n->cap ? 2 * n->cap : 8;
        mn_value *values = sqlite3_realloc64(n->values, cap * sizeof *values);
        if (values)
            n->values = values;
        sqlite3_value **kept = values ? sqlite3_realloc64(n->kept, cap * sizeof *kept) : NULL;
        if (!kept)
            return SQLITE_NOMEM;
        n->kept = kept;
        n->cap = cap;
    }
    sqlite3_value *copy = sqlite3_value_dup(v);
    if (!copy)
        return SQLITE_NOMEM;
    n->kept[n->n_values] = copy;
    n->values[n->n_values++] = value_under(copy, affinity);
    return SQLITE_OK;
}

static int add_id(struct near *n, int64_t id)
{
    if (n->n_only == n->only_cap) {
        size_t cap = n->only_cap ? 2 * n->only_cap : 64;
        int64_t *more = sqlite3_realloc64(n->only, cap * sizeof *more);
        if (!more)
            return SQLITE_NOMEM;
        n->only = more;
        n->only_cap = cap;
    }
    n->only[n->n_only++] = id;
    return SQLITE_OK;
}

/* An id is an integer, or a number or text that is one. */
static bool is_id(sqlite3_value *v, int64_t *out)
{
    int type = sqlite3_value_numeric_type(v);
    double real = sqlite3_value_double(v);
    *out = sqlite3_value_int64(v);
    return type == SQLITE_INTEGER || (type == SQLITE_FLOAT && real >= -0x1p63 && real < 0x1p63 &&
                                      (double)(int64_t)real == real);
}

/* `list`: an IN; else one value. */
static int take_ids(struct near *n, sqlite3_value *arg, bool list)
{
    sqlite3_value *v = arg;
    int64_t id;
    int rc = SQLITE_OK, more = SQLITE_OK;
    if (!n->only && !(n->only = sqlite3_malloc64((n->only_cap = 64) * sizeof *n->only)))
        return SQLITE_NOMEM;
    if (list)
        more = sqlite3_vtab_in_first(arg, &v);
    while (more == SQLITE_OK && v && rc == SQLITE_OK) {
        if (is_id(v, &id))
            rc = add_id(n, id);
        if (!list)
            break;
        more = sqlite3_vtab_in_next(arg, &v);
    }
    return rc != SQLITE_OK ? rc : more == SQLITE_DONE ? SQLITE_OK : more;
}

/* Keeps of `a` the ids that are in `b`. */
static void intersect(int64_t *a, size_t *n, int64_t *b, size_t m)
{
    size_t kept = 0;
    qsort(b, m, sizeof *b, near_by_id);
    for (size_t i = 0; i < *n; i++)
        if (bsearch(&a[i], b, m, sizeof *b, near_by_id))
            a[kept++] = a[i];
    *n = kept;
}

/* Rows whose text matches an FTS5 query: the search is among them. */
static int take_text(struct cursor *c, sqlite3_value *query)
{
    struct near *n = &c->near;
    struct table *t = cursor_table(c);
    int64_t *others = n->only;
    size_t n_others = n->n_only;
    char text[TEXT_NAME];
    sqlite3_stmt *st = NULL;
    table_text_name(t, text);
    n->n_only = 0;
    n->only = sqlite3_malloc64((n->only_cap = 64) * sizeof *n->only);
    sqlite3_str *sql = sqlite3_str_new(session_sql(t->s));
    sqlite3_str_appendf(sql, "SELECT rowid FROM main.\"%w\" WHERE \"%w\" MATCH ?1", text, text);
    int rc = cursor_prepare(c, sql, &st);
    if (rc == SQLITE_OK)
        rc = n->only ? sqlite3_bind_value(st, 1, query) : SQLITE_NOMEM;
    while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW)
        rc = add_id(n, sqlite3_column_int64(st, 0));
    if (rc == SQLITE_DONE)
        rc = SQLITE_OK;
    else if (rc != SQLITE_NOMEM)
        rc = cursor_fail_sqlite(c);
    sqlite3_finalize(st);
    if (rc == SQLITE_OK && others)
        intersect(n->only, &n->n_only, others, n_others);
    sqlite3_free(others);
    return rc;
}

static mn_op op_of(enum step step, sqlite3_value *v)
{
    switch (step) {
    case STEP_EQ:
        return MN_OP_EQ;
    case STEP_NE:
        return MN_OP_NE;
    case STEP_LT:
        return MN_OP_LT;
    case STEP_LE:
        return MN_OP_LE;
    case STEP_GT:
        return MN_OP_GT;
    case STEP_GE:
        return MN_OP_GE;
    case STEP_IN:
        return MN_OP_IN;
    case STEP_IS:
        return sqlite3_value_type(v) == SQLITE_NULL ? MN_OP_IS_NULL : MN_OP_EQ;
    case STEP_NULL:
        return MN_OP_IS_NULL;
    case STEP_NOT_NULL:
        return MN_OP_NOT_NULL;
    default:
        return MN_OP_CONTAINS;
    }
}

/* One condition; `values` of it is set when all are known, as their array moves. */
static int take_condition(struct cursor *c, enum step step, size_t column, sqlite3_value *arg)
{
    struct near *n = &c->near;
    const struct column *col = &cursor_table(c)->d.columns[column];
    mn_op op = op_of(step, arg);
    mn_condition *w = &n->where[n->n_where++];
    size_t before = n->n_values;
    int rc = SQLITE_OK, more;
    sqlite3_value *v;
    /* A member of an array is compared as it is. */
    enum affinity affinity = op == MN_OP_CONTAINS ? AFFINITY_BLOB : col->affinity;
    *w = (mn_condition){.attribute = col->kind == COLUMN_ID ? "id" : col->name, .op = op};
    if (op == MN_OP_IN) {
        for (more = sqlite3_vtab_in_first(arg, &v); more == SQLITE_OK && v && rc == SQLITE_OK;
             more = sqlite3_vtab_in_next(arg, &v))
            rc = keep_value(n, v, affinity);
        if (rc == SQLITE_OK && more != SQLITE_DONE && more != SQLITE_OK)
            rc = more;
    } else if (op != MN_OP_IS_NULL && op != MN_OP_NOT_NULL) {
        rc = keep_value(n, arg, affinity);
    }
    w->n_values = n->n_values - before;
    return rc;
}

static mn_status take_k(struct near *n, sqlite3_value *v, mn_error *err)
{
    if (sqlite3_value_type(v) == SQLITE_NULL) {
        n->left = 0;
        return MN_OK;
    }
    int64_t k = sqlite3_value_int64(v);
    if (sqlite3_value_numeric_type(v) != SQLITE_INTEGER || k < 0 || k > MN_MAX_K)
        return mn_fail(err, MN_INVALID, "k = '%.20s'; it must be a whole number from 0 to %u",
                       (const char *)sqlite3_value_text(v), MN_MAX_K);
    n->left = k < n->left ? k : n->left;
    return MN_OK;
}

static mn_status take_bound(struct near *n, enum step step, sqlite3_value *v, mn_error *err)
{
    int type = sqlite3_value_numeric_type(v);
    double d = sqlite3_value_double(v);
    if (type == SQLITE_NULL)
        n->left = 0; /* nothing compares with NULL */
    else if (type != SQLITE_INTEGER && type != SQLITE_FLOAT)
        return mn_fail(err, MN_INVALID, "the distance is compared with '%.40s', no number",
                       (const char *)sqlite3_value_text(v));
    bool most = step == STEP_NEARER || step == STEP_NEARER_EQ;
    bool open = step == STEP_NEARER || step == STEP_FARTHER;
    if (most && (d < n->most || (d == n->most && open))) {
        n->most = d;
        n->most_open = open;
    } else if (!most && (d > n->least || (d == n->least && open))) {
        n->least = d;
        n->least_open = open;
    }
    n->bounded = n->bounded || most;
    return MN_OK;
}

static mn_status take_number(const char *what, sqlite3_value *v, double *out, mn_error *err)
{
    int type = sqlite3_value_numeric_type(v);
    if (type != SQLITE_INTEGER && type != SQLITE_FLOAT)
        return mn_fail(err, MN_INVALID, "%s = '%.40s' is no number", what,
                       sqlite3_value_type(v) == SQLITE_NULL ? "NULL"
                                                            : (const char *)sqlite3_value_text(v));
    *out = sqlite3_value_double(v);
    return MN_OK;
}

static mn_status take_query(struct cursor *c, size_t column, sqlite3_value *v, mn_error *err)
{
    struct table *t = cursor_table(c);
    char what[2 * MN_MAX_NAME + 16];
    sqlite3_snprintf(sizeof what, what, "%s.%s MATCH", t->name, t->d.columns[column].name);
    c->near.column = column;
    mn_status st =
        value_vector(t->kernels, &t->d.columns[column].vector, v, what, &c->near.query, err);
    if (st == MN_OK && !c->near.query)
        c->near.left = 0; /* nothing is near to NULL */
    return st;
}

/* One step of the plan. Returns SQLite's code; a message is set. */
static int take_step(struct cursor *c, enum step step, size_t column, sqlite3_value *arg)
{
    struct near *n = &c->near;
    mn_error err = {0};
    mn_status st = MN_OK;
    double number = 0;
    bool id = step == STEP_EQ || step == STEP_IN;
    switch (step) {
    case STEP_MATCH:
        st = take_query(c, column, arg, &err);
        break;
    case STEP_K:
        st = take_k(n, arg, &err);
        break;
    case STEP_RECALL:
        st = take_number("recall", arg, &n->recall, &err);
        break;
    case STEP_EXACT:
        st = take_number("exact", arg, &number, &err);
        n->recall = number != 0 ? 1 : n->recall;
        break;
    case STEP_NEARER:
    case STEP_NEARER_EQ:
    case STEP_FARTHER:
    case STEP_FARTHER_EQ:
        st = take_bound(n, step, arg, &err);
        break;
    case STEP_LIMIT:
    case STEP_OFFSET:
        number = sqlite3_value_double(arg);
        if (number >= 0 && number + n->first <= MN_MAX_K)
            n->first += (uint32_t)number;
        break;
    case STEP_TEXT:
        return take_text(c, arg);
    default:
        /* One set of ids is given to the search as such; a second is a condition. */
        if (id && column == 0 && !n->only)
            return take_ids(n, arg, step == STEP_IN);
        return take_condition(c, step, column, arg);
    }
    return st ? cursor_fail(c, st, &err) : SQLITE_OK;
}

/* ---- The nearest: batches -------------------------------------------------------------------- */

/* A mn_filter_fn over a cursor: the row is there still. */
static bool is_alive(void *ctx, const mn_row *row)
{
    const struct cursor *c = ctx;
    const struct table *t = cursor_table(c);
    return alive_value(mn_row_attr(row, t->d.columns[t->d.ttl].name), c->near.now);
}

int near_by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Takes out of the batch the rows of earlier ones, and remembers the rest if another may come. */
static int leave_out_seen(struct near *n)
{
    size_t kept = 0, before = n->n_seen;
    for (size_t i = 0; i < n->n; i++)
        if (!before || !bsearch(&n->hits[i].id, n->seen, before, sizeof *n->seen, near_by_id))
            n->hits[kept++] = n->hits[i];
    n->n = kept;
    if (n->last)
        return SQLITE_OK;
    int64_t *seen = sqlite3_realloc64(n->seen, (before + kept) * sizeof *seen);
    if (!seen && before + kept)
        return SQLITE_NOMEM;
    n->seen = seen;
    for (size_t i = 0; i < kept; i++)
        seen[before + i] = n->hits[i].id;
    n->n_seen = before + kept;
    qsort(seen, n->n_seen, sizeof *seen, near_by_id);
    return SQLITE_OK;
}

/* All rows within the radius, exactly. */
static mn_status search_all(struct cursor *c, mn_conn *conn, const char *name,
                            const mn_search_opts *opts, double radius, mn_error *err)
{
    struct near *n = &c->near;
    mn_hit *hits = NULL;
    size_t found = 0;
    mn_status st =
        mn_search_radius(conn, name, n->query, radius, INT64_MAX, opts, &hits, &found, err);
    if (st)
        return st;
    sqlite3_free(n->hits);
    n->hits = sqlite3_malloc64(found * sizeof *hits + 1);
    if (n->hits && found)
        memcpy(n->hits, hits, found * sizeof *hits);
    mn_free_result(hits);
    n->n = n->hits ? found : 0;
    n->last = true;
    return n->hits ? MN_OK : mn_fail(err, MN_NOMEM, "out of memory for %zu rows", found);
}

static mn_status search_some(struct cursor *c, mn_conn *conn, const char *name,
                             const mn_search_opts *opts, uint32_t k, mn_error *err)
{
    struct near *n = &c->near;
    uint32_t found = 0;
    mn_hit *hits = sqlite3_realloc64(n->hits, k * sizeof *hits);
    if (!hits)
        return mn_fail(err, MN_NOMEM, "out of memory for %u rows", k);
    n->hits = hits;
    mn_status st = mn_search(conn, name, n->query, 1, k, opts, hits, &found, err);
    n->n = st == MN_OK ? found : 0;
    n->last = found < k;
    return st;
}

static int next_batch(struct cursor *c)
{
    struct table *t = cursor_table(c);
    struct near *n = &c->near;
    mn_error err = {0};
    mn_conn *conn;
    char name[2 * MN_MAX_NAME + 2];
    if (t->d.columns[n->column].l1)
        return near_search_l1(c);
    uint32_t k = n->asked ? n->asked * GROWTH : n->first ? n->first : FIRST_BATCH;
    bool counted = n->left <= MN_MAX_K;
    table_collection(t, n->column, name);
    if (counted && !n->asked)
        k = (uint32_t)n->left;
    mn_status st = session_enter(t->s, &conn, &err);
    if (st)
        return cursor_fail(c, st, &err);
    mn_search_opts opts = {.where = n->where,
                           .n_where = n->n_where,
                           .only_ids = n->only,
                           .n_only_ids = n->n_only,
                           .recall = n->recall,
                           .filter = t->d.ttl ? is_alive : NULL,
                           .filter_ctx = c,
                           .stats = session_stats(t->s)};
    if (n->bounded && !counted)
        st = search_all(c, conn, name, &opts, n->most, &err);
    else if (n->asked == MN_MAX_K)
        st = search_all(c, conn, name, &opts, INFINITY, &err);
    else
        st = search_some(c, conn, name, &opts, k < MN_MAX_K ? k : MN_MAX_K, &err);
    session_searched(t->s);
    session_leave(t->s);
    if (st)
        return cursor_fail(c, st, &err);
    if (counted && n->least == -INFINITY)
        n->last = true; /* that was all that was asked for */
    n->asked = k < MN_MAX_K ? k : MN_MAX_K;
    n->i = 0;
    return leave_out_seen(n);
}

/* Goes on to the next hit within the bounds, from the current one. */
static int settle_hit(struct cursor *c)
{
    struct near *n = &c->near;
    c->at_row = false;
    for (;;) {
        if (n->left <= 0)
            break;
        if (n->i == n->n) {
            if (n->last)
                break;
            int rc = next_batch(c);
            if (rc != SQLITE_OK)
                return rc;
            continue;
        }
        double d = n->hits[n->i].distance;
        if (d > n->most || (d == n->most && n->most_open))
            break;
        if (d > n->least || (d == n->least && !n->least_open))
            return SQLITE_OK;
        n->i++;
    }
    c->eof = true;
    return SQLITE_OK;
}

int near_begin(struct cursor *c, const char *plan, sqlite3_value **argv)
{
    struct table *t = cursor_table(c);
    struct near *n = &c->near;
    enum step step;
    size_t column;
    *n = (struct near){.left = INT64_MAX, .most = INFINITY, .least = -INFINITY};
    n->now = t->d.ttl ? table_now() : 0;
    n->where = sqlite3_malloc64((strlen(plan) + 1) * sizeof *n->where);
    if (!n->where)
        return SQLITE_NOMEM;
    int rc = SQLITE_OK;
    for (int i = 0; plan_next_step(&plan, &step, &column) && rc == SQLITE_OK; i++)
        rc = take_step(c, step, column, argv[i]);
    const mn_value *v = n->values;
    for (size_t i = 0; i < n->n_where; v += n->where[i++].n_values)
        n->where[i].values = v;
    c->eof = false;
    return rc == SQLITE_OK ? settle_hit(c) : rc;
}

int near_next(struct cursor *c)
{
    c->near.i++;
    if (c->near.left != INT64_MAX)
        c->near.left--;
    return settle_hit(c);
}
