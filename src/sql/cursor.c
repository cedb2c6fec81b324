/*
 * Running a query over a table: either SQLite reads the rows table, or a search gives the rows by
 * distance.
 *
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
#include "src/sql/table.h"
#include "storage/base/error.h"

enum { FIRST_BATCH = 32, GROWTH = 4 };

/* A search, as the plan and its arguments have it. */
struct near {
    size_t column;      /* the vector's */
    void *query;        /* sqlite3_free */
    int64_t left;       /* rows that may still come: k; INT64_MAX without */
    uint32_t first;     /* size of the first batch */
    double recall;      /* 0: the collection's */
    double most, least; /* bounds of the distance */
    bool most_open, least_open;
    bool bounded;        /* `most` was given */
    int64_t now;         /* of TTL */
    mn_condition *where; /* [n_where] */
    size_t n_where;
    mn_value *values;     /* [n_values] of the conditions, into the kept values */
    sqlite3_value **kept; /* [n_values] sqlite3_value_free */
    size_t n_values, cap;
    int64_t *only; /* [n_only] ids; NULL: all rows */
    size_t n_only, only_cap;
    mn_hit *hits; /* [n] of this batch */
    size_t n, i;
    uint32_t asked; /* size of this batch; 0: none yet */
    bool last;      /* no batch comes after it */
    int64_t *seen;  /* [n_seen] ascending: ids of the batches before */
    size_t n_seen;
};

struct cursor {
    sqlite3_vtab_cursor base;
    bool by_distance;
    bool vectors; /* vector columns are looked at */
    struct near near;
    char *plan;        /* of st; sqlite3_free */
    sqlite3_stmt *st;  /* reads the rows table */
    sqlite3_stmt *row; /* the table's row[vectors], while a search runs */
    bool at_row;       /* row stands on the current hit */
    bool eof;
};

static struct table *table_of(const struct cursor *c)
{
    return (struct table *)c->base.pVtab;
}

static int fail(struct cursor *c, mn_status st, const mn_error *err)
{
    return session_refuse(c->base.pVtab, st, err);
}

static int fail_sqlite(struct cursor *c)
{
    sqlite3 *sql = session_sql(table_of(c)->s);
    sqlite3_free(c->base.pVtab->zErrMsg);
    c->base.pVtab->zErrMsg = sqlite3_mprintf("%s", sqlite3_errmsg(sql));
    return sqlite3_errcode(sql);
}

/* ---- Statements ------------------------------------------------------------------------------ */

/* SELECT id, ... FROM rows: all columns in order, NULL for vectors that nobody looks at. */
static void append_select(const struct table *t, bool vectors, sqlite3_str *sql)
{
    char rows[ROWS_NAME];
    table_rows_name(t, rows);
    sqlite3_str_appendall(sql, "SELECT ");
    for (size_t i = 0; i < t->d.n; i++) {
        if (t->d.columns[i].kind == COLUMN_VECTOR && !vectors)
            sqlite3_str_appendf(sql, "%sNULL", i ? ", " : "");
        else
            sqlite3_str_appendf(sql, "%s\"%w\"", i ? ", " : "", t->d.columns[i].name);
    }
    sqlite3_str_appendf(sql, " FROM main.\"%w\"", rows);
}

static int prepare(struct cursor *c, sqlite3_str *text, sqlite3_stmt **out)
{
    char *sql = sqlite3_str_finish(text);
    int rc = sql ? sqlite3_prepare_v3(session_sql(table_of(c)->s), sql, -1,
                                      SQLITE_PREPARE_PERSISTENT, out, NULL)
                 : SQLITE_NOMEM;
    sqlite3_free(sql);
    return rc == SQLITE_OK ? rc : fail_sqlite(c);
}

/* Takes the table's statement for one row, or one of our own if another cursor has it. */
static int take_row(struct cursor *c)
{
    struct table *t = table_of(c);
    c->row = t->row[c->vectors];
    t->row[c->vectors] = NULL;
    if (c->row)
        return SQLITE_OK;
    sqlite3_str *sql = sqlite3_str_new(session_sql(t->s));
    append_select(t, c->vectors, sql);
    sqlite3_str_appendf(sql, " WHERE \"%w\" = ?1", t->d.columns[0].name);
    return prepare(c, sql, &c->row);
}

static void give_row(struct cursor *c)
{
    struct table *t = table_of(c);
    if (c->row)
        sqlite3_reset(c->row);
    if (c->row && !t->row[c->vectors])
        t->row[c->vectors] = c->row;
    else
        sqlite3_finalize(c->row);
    c->row = NULL;
    c->at_row = false;
}

/* ---- Steps of a plan ------------------------------------------------------------------------- */

/* The next step of idxStr at *p, which ends at a colon. */
static bool next_step(const char **p, enum step *step, size_t *column)
{
    while (**p == ' ')
        ++*p;
    if (!**p || **p == ':')
        return false;
    *step = (enum step)(unsigned char)*(*p)++;
    *column = strtoul(*p, (char **)p, 10);
    return true;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void append_condition(const struct table *t, sqlite3_str *sql, enum step step, size_t column,
                             int parameter)
{
    static const struct {
        enum step step;
        const char *op;
    } ops[] = {{STEP_EQ, "="}, {STEP_NE, "<>"}, {STEP_LT, "<"}, {STEP_LE, "<="},
               {STEP_GT, ">"}, {STEP_GE, ">="}, {STEP_IS, "IS"}};
    const char *name = t->d.columns[column].name;
    if (step == STEP_NULL || step == STEP_NOT_NULL)
        sqlite3_str_appendf(sql, "\"%w\" IS %sNULL", name, step == STEP_NULL ? "" : "NOT ");
    else if (step == STEP_CONTAINS)
        sqlite3_str_appendf(sql, "json_contains(\"%w\", ?%d)", name, parameter);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (ops[i].step == step)
            sqlite3_str_appendf(sql, "\"%w\" %s ?%d", name, ops[i].op, parameter);
}

static int prepare_rows(struct cursor *c, const char *plan)
{
    struct table *t = table_of(c);
    const char *p = plan;
    enum step step;
    size_t column;
    int parameter = 0;
    sqlite3_str *sql = sqlite3_str_new(session_sql(t->s));
    append_select(t, c->vectors, sql);
    while (next_step(&p, &step, &column)) {
        sqlite3_str_appendall(sql, parameter++ ? " AND " : " WHERE ");
        append_condition(t, sql, step, column, parameter);
    }
    if (t->d.ttl)
        sqlite3_str_appendf(sql, "%s (\"%w\" IS NULL OR \"%w\" > ?%d)",
                            parameter ? " AND" : " WHERE", t->d.columns[t->d.ttl].name,
                            t->d.columns[t->d.ttl].name, parameter + 1);
    sqlite3_finalize(c->st);
    c->st = NULL;
    sqlite3_free(c->plan);
    c->plan = sqlite3_mprintf("%s", plan);
    if (!c->plan) {
        sqlite3_free(sqlite3_str_finish(sql));
        return SQLITE_NOMEM;
    }
    return prepare(c, sql, &c->st);
}

static int step_row(struct cursor *c)
{
    int rc = sqlite3_step(c->st);
    c->eof = rc != SQLITE_ROW;
    if (rc == SQLITE_ROW)
        return SQLITE_OK;
    if (rc == SQLITE_DONE) {
        sqlite3_reset(c->st);
        return SQLITE_OK;
    }
    rc = fail_sqlite(c);
    sqlite3_reset(c->st);
    return rc;
}

static int filter_rows(struct cursor *c, const char *plan, int argc, sqlite3_value **argv)
{
    int rc = SQLITE_OK;
    if (!c->st || strcmp(c->plan, plan) != 0)
        rc = prepare_rows(c, plan);
    for (int i = 0; i < argc && rc == SQLITE_OK; i++)
        rc = sqlite3_bind_value(c->st, i + 1, argv[i]);
    if (rc == SQLITE_OK && table_of(c)->d.ttl)
        rc = sqlite3_bind_int64(c->st, argc + 1, table_now());
    return rc == SQLITE_OK ? step_row(c) : rc;
}

/* ---- The nearest: arguments ------------------------------------------------------------------ */

static void near_fini(struct near *n)
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
    const struct column *col = &table_of(c)->d.columns[column];
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

static mn_status take_query(struct cursor *c, mn_conn *conn, size_t column, sqlite3_value *v,
                            mn_error *err)
{
    struct table *t = table_of(c);
    char what[2 * MN_MAX_NAME + 16];
    sqlite3_snprintf(sizeof what, what, "%s.%s MATCH", t->name, t->d.columns[column].name);
    c->near.column = column;
    mn_status st =
        value_vector(conn->db->kernels, &t->d.columns[column].vector, v, what, &c->near.query, err);
    if (st == MN_OK && !c->near.query)
        c->near.left = 0; /* nothing is near to NULL */
    return st;
}

/* One step of the plan. Returns SQLite's code; a message is set. */
static int take_step(struct cursor *c, mn_conn *conn, enum step step, size_t column,
                     sqlite3_value *arg)
{
    struct near *n = &c->near;
    mn_error err = {0};
    mn_status st = MN_OK;
    double number = 0;
    bool id = step == STEP_EQ || step == STEP_IN;
    switch (step) {
    case STEP_MATCH:
        st = take_query(c, conn, column, arg, &err);
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
    default:
        /* One set of ids is given to the search as such; a second is a condition. */
        if (id && column == 0 && !n->only)
            return take_ids(n, arg, step == STEP_IN);
        return take_condition(c, step, column, arg);
    }
    return st ? fail(c, st, &err) : SQLITE_OK;
}

/* ---- The nearest: batches -------------------------------------------------------------------- */

/* A mn_filter_fn over a cursor: the row is there still. */
static bool is_alive(void *ctx, const mn_row *row)
{
    const struct cursor *c = ctx;
    const struct table *t = table_of(c);
    const mn_value *v = mn_row_attr(row, t->d.columns[t->d.ttl].name);
    if (!v || v->type == MN_NULL)
        return true;
    if (v->type == MN_INTEGER)
        return v->integer > c->near.now;
    return v->type != MN_REAL || v->real > (double)c->near.now;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Takes out of the batch the rows of earlier ones, and remembers the rest if another may come. */
static int leave_out_seen(struct near *n)
{
    size_t kept = 0, before = n->n_seen;
    for (size_t i = 0; i < n->n; i++)
        if (!before || !bsearch(&n->hits[i].id, n->seen, before, sizeof *n->seen, by_value))
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
    qsort(seen, n->n_seen, sizeof *seen, by_value);
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
    struct table *t = table_of(c);
    struct near *n = &c->near;
    mn_error err = {0};
    mn_conn *conn;
    char name[2 * MN_MAX_NAME + 2];
    uint32_t k = n->asked ? n->asked * GROWTH : n->first ? n->first : FIRST_BATCH;
    bool counted = n->left <= MN_MAX_K;
    table_collection(t, n->column, name);
    if (counted && !n->asked)
        k = (uint32_t)n->left;
    mn_status st = session_enter(t->s, &conn, &err);
    if (st)
        return fail(c, st, &err);
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
        return fail(c, st, &err);
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

static int filter_near(struct cursor *c, const char *plan, int argc, sqlite3_value **argv)
{
    struct table *t = table_of(c);
    struct near *n = &c->near;
    mn_error err = {0};
    mn_conn *conn;
    enum step step;
    size_t column;
    mn_status st = session_enter(t->s, &conn, &err);
    if (st)
        return fail(c, st, &err);
    session_leave(t->s);
    *n = (struct near){.left = INT64_MAX, .most = INFINITY, .least = -INFINITY};
    n->now = t->d.ttl ? table_now() : 0;
    n->where = sqlite3_malloc64(((sqlite3_uint64)argc + 1) * sizeof *n->where);
    if (!n->where)
        return SQLITE_NOMEM;
    int rc = SQLITE_OK;
    for (int i = 0; next_step(&plan, &step, &column) && rc == SQLITE_OK; i++)
        rc = take_step(c, conn, step, column, argv[i]);
    const mn_value *v = n->values;
    for (size_t i = 0; i < n->n_where; v += n->where[i++].n_values)
        n->where[i].values = v;
    if (rc == SQLITE_OK)
        rc = take_row(c);
    c->eof = false;
    return rc == SQLITE_OK ? settle_hit(c) : rc;
}

/* ---- Methods --------------------------------------------------------------------------------- */

int table_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    struct cursor *c = sqlite3_malloc(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    *out = &c->base;
    return SQLITE_OK;
}

/* What the last xFilter left. */
static void finish(struct cursor *c)
{
    if (c->st)
        sqlite3_reset(c->st);
    give_row(c);
    near_fini(&c->near);
    c->eof = true;
}

int table_close(sqlite3_vtab_cursor *base)
{
    struct cursor *c = (struct cursor *)base;
    finish(c);
    sqlite3_finalize(c->st);
    sqlite3_free(c->plan);
    sqlite3_free(c);
    return SQLITE_OK;
}

int table_filter(sqlite3_vtab_cursor *base, int number, const char *plan, int argc,
                 sqlite3_value **argv)
{
    struct cursor *c = (struct cursor *)base;
    finish(c);
    c->vectors = number & PLAN_VECTORS;
    c->by_distance = *plan == STEP_MATCH;
    return c->by_distance ? filter_near(c, plan, argc, argv) : filter_rows(c, plan, argc, argv);
}

int table_next(sqlite3_vtab_cursor *base)
{
    struct cursor *c = (struct cursor *)base;
    if (!c->by_distance)
        return step_row(c);
    c->near.i++;
    if (c->near.left != INT64_MAX)
        c->near.left--;
    return settle_hit(c);
}

int table_eof(sqlite3_vtab_cursor *base)
{
    return ((struct cursor *)base)->eof;
}

int table_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out)
{
    struct cursor *c = (struct cursor *)base;
    *out = c->by_distance ? c->near.hits[c->near.i].id : sqlite3_column_int64(c->st, 0);
    return SQLITE_OK;
}

/* Makes c->row stand on the current hit. */
static int read_row(struct cursor *c)
{
    if (c->at_row)
        return SQLITE_OK;
    sqlite3_reset(c->row);
    sqlite3_bind_int64(c->row, 1, c->near.hits[c->near.i].id);
    int rc = sqlite3_step(c->row);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return fail_sqlite(c);
    c->at_row = rc == SQLITE_ROW;
    return SQLITE_OK;
}

/* Functions over vectors tell their type by this. */
static unsigned subtype_of(mn_dtype dtype)
{
    static const unsigned subtypes[] = {
        [MN_F32] = 223, [MN_BIT] = 224, [MN_I8] = 225, [MN_F16] = 226, [MN_BF16] = 227};
    return subtypes[dtype];
}

int table_column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int column)
{
    struct cursor *c = (struct cursor *)base;
    const struct table *t = table_of(c);
    size_t i = (size_t)column;
    if (i == t->d.n + HIDDEN_DISTANCE && c->by_distance)
        sqlite3_result_double(ctx, c->near.hits[c->near.i].distance);
    if (i >= t->d.n)
        return SQLITE_OK;
    if (sqlite3_vtab_nochange(ctx))
        return SQLITE_OK;
    if (c->by_distance && i == 0) {
        sqlite3_result_int64(ctx, c->near.hits[c->near.i].id);
        return SQLITE_OK;
    }
    int rc = c->by_distance ? read_row(c) : SQLITE_OK;
    if (rc != SQLITE_OK || (c->by_distance && !c->at_row))
        return rc;
    sqlite3_result_value(ctx, sqlite3_column_value(c->by_distance ? c->row : c->st, column));
    if (t->d.columns[i].kind == COLUMN_VECTOR)
        sqlite3_result_subtype(ctx, subtype_of(t->d.columns[i].vector.dtype));
    return SQLITE_OK;
}
