/* threads */
/* Conditions of a search against SQLite's own WHERE over the same rows, and brute force over those:
 * every operator and class of value, by the rows, by the index, while rows change, inside
 * transactions, under little memory. */
#include "tests/engine/indexed.h"

#include <unistd.h>

#include "src/engine/columns.h"
#include "tests/sim/oom.h"

enum { DIM = 16, K = 10, MAX_TERMS = 3, MAX_VALUES = 6, MAX_ROWS = 8000 };

static mn_error err;

static const char *const attributes[] = {"mixed", "small", "tags", "z"};
enum { MIXED, SMALL, TAGS, Z, N_ATTRIBUTES };

struct world {
    bool away; /* codes and vectors stay in the sidecar */
    mn_db *db;
    mn_conn *conn;
    struct test_rng rng;
    struct brute b;
    int64_t next;
    struct indexed_recall sum;
    uint64_t plans[MN_PLAN_POST + 1];
};

/* ---- Rows ------------------------------------------------------------------------------------ */

static const char *const words[] = {"", "a", "A", "ab", "b", "10", "\xc3\xa9", "zebra"};
static const char *const lists[] = {
    "[]", "[1]", "[1,2.5,\"a\"]", "[\"a\",[\"b\"],{\"k\":\"zebra\"}]", "[null,true,1e0]",
    "{\"a\":1}", "[1,", "1", "\"a\"", "[ \"\\u00e9\" , \"\\ud83d\\ude00\" ] ", "[-0.0, 10]",
    "[9007199254740993]", "[\"10\"]", "x", "[01]", "[\"a\"] []", "[\"\\x\"]",
    "[12345678901234567890]"};
enum { N_WORDS = sizeof words / sizeof *words, N_LISTS = sizeof lists / sizeof *lists };

static mn_value text_value(const char *text)
{
    return (mn_value){.type = MN_TEXT, .data = text, .len = strlen(text)};
}

static mn_value any_value(struct test_rng *r)
{
    static const int64_t odd[] = {0, 1, -1, 10, INT64_MAX, INT64_MIN, 9007199254740993,
                                  9007199254740992};
    static const double reals[] = {0, -0.0, 1, 2.5, 10, 1e300, -1e300, 9007199254740992.0,
                                   9223372036854775808.0, -9223372036854775808.0};
    switch (test_below(r, 8)) {
    case 0:
        return (mn_value){.type = MN_NULL};
    case 1:
    case 2:
        return (mn_value){.type = MN_INTEGER, .integer = odd[test_below(r, 8)]};
    case 3:
        return (mn_value){.type = MN_INTEGER, .integer = (int64_t)test_below(r, 12)};
    case 4:
    case 5:
        return (mn_value){.type = MN_REAL, .real = reals[test_below(r, 10)]};
    case 6:
        return text_value(words[test_below(r, N_WORDS)]);
    default: {
        mn_value v = text_value(words[test_below(r, N_WORDS)]);
        v.type = MN_BLOB;
        return v;
    }
    }
}

static void draw_attributes(struct world *w, const float *vector, mn_attr *to)
{
    struct test_rng *r = &w->rng;
    to[MIXED] = (mn_attr){attributes[MIXED], any_value(r)};
    to[SMALL] = (mn_attr){attributes[SMALL],
                          {.type = MN_INTEGER, .integer = (int64_t)test_below(r, 4)}};
    if (test_below(r, 10) == 0)
        to[SMALL].value.type = MN_NULL;
    to[TAGS] = (mn_attr){attributes[TAGS], text_value(lists[test_below(r, N_LISTS)])};
    to[Z] = (mn_attr){attributes[Z], {.type = MN_REAL, .real = (double)vector[0]}};
}

static void put_ids(struct world *w, const int64_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float v[DIM];
        mn_attr attrs[N_ATTRIBUTES];
        indexed_vector(MN_F32, DIM, 1, test_rand(&w->rng) % 100000, v);
        draw_attributes(w, v, attrs);
        const mn_row row = {.id = ids[i], .vector = test_below(&w->rng, 30) ? v : NULL,
                            .attrs = attrs, .n_attrs = N_ATTRIBUTES};
        CHECK_OK(mn_put(w->conn, "c", &row, 1, NULL, &err), err);
    }
}

static void put_new(struct world *w, size_t n)
{
    bool own = w->conn->txn == TXN_NONE;
    if (own)
        CHECK_OK(mn_begin_write(w->conn, &err), err);
    for (size_t i = 0; i < n; i++, w->next++)
        put_ids(w, &w->next, 1);
    if (own)
        CHECK_OK(mn_commit(w->conn, &err), err);
}

static void world_reopen(struct world *w, uint32_t flags, uint64_t memory)
{
    struct db_stage stage = {.limits = INDEXED_LIMITS};
    stage.limits.cold = stage.limits.away = w->away;
    const mn_open_opts opts = {.flags = flags | MN_OPEN_NO_BACKGROUND,
                               .durability = MN_RELAXED, .memory_bytes = memory};
    if (w->db) {
        mn_disconnect(w->conn);
        CHECK_OK(mn_close(w->db, &err), err);
    }
    CHECK_OK(db_open_on(test_path("w.db"), &opts, &stage, &w->db, &err), err);
    CHECK_OK(mn_connect(w->db, &w->conn, &err), err);
}

static struct world world_of(size_t rows, mn_rerank rerank, bool fold)
{
    struct world w = {.rng = {rows * 31 + 7}, .next = 1,
                      .b = {.dtype = MN_F32, .metric = MN_L2, .dim = DIM}};
    const mn_collection_opts opts = {.dim = DIM, .attributes = attributes,
                                     .n_attributes = N_ATTRIBUTES, .rerank = rerank};
    world_reopen(&w, 0, 0);
    CHECK_OK(mn_create(w.conn, "c", &opts, &err), err);
    put_new(&w, rows);
    if (fold)
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
    return w;
}

static void world_end(struct world *w)
{
    brute_free(&w->b);
    mn_disconnect(w->conn);
    CHECK_OK(mn_close(w->db, &err), err);
}

/* ---- Conditions, and SQLite's opinion -------------------------------------------------------- */

struct asked {
    mn_condition terms[MAX_TERMS];
    mn_value values[MAX_TERMS][MAX_VALUES];
    size_t n;
    char sql[2000];
    int64_t *ids; /* [n_ids] that SQLite finds */
    size_t n_ids;
};

static void sql_add(char *sql, const char *text)
{
    strncat(sql, text, 1999 - strlen(sql));
}

/* Every column is asked without its affinity, and bytewise. */
static bool plus;

static void sql_term(char *sql, const mn_condition *c)
{
    static const char *const ops[] = {"", "=", "<>", "<", "<=", ">", ">=", "IN"};
    char column[64];
    /* The id has the affinity of integers, which the plus takes away. */
    bool hide = plus || strcmp(c->attribute, "id") == 0;
    snprintf(column, sizeof column, "%s\"%s\"%s", hide ? "+" : "", c->attribute,
             hide ? " COLLATE BINARY" : "");
    if (c->op == MN_OP_CONTAINS) {
        char text[600];
        bool is_text = c->values->type == MN_TEXT;
        bool number = c->values->type == MN_INTEGER || c->values->type == MN_REAL;
        snprintf(text, sizeof text,
                 "CASE WHEN typeof(%s) <> 'text' OR NOT json_valid(%s) THEN 0 WHEN "
                 "json_type(%s) <> 'array' THEN 0 ELSE EXISTS(SELECT 1 FROM json_each(%s) j WHERE "
                 "j.value = ? AND j.type IN (%s)) END",
                 column, column, column, column,
                 is_text ? "'text'" : number ? "'integer','real'" : "");
        sql_add(sql, text);
        return;
    }
    sql_add(sql, column);
    if (c->op == MN_OP_IS_NULL || c->op == MN_OP_NOT_NULL) {
        sql_add(sql, c->op == MN_OP_IS_NULL ? " IS NULL" : " IS NOT NULL");
        return;
    }
    sql_add(sql, " ");
    sql_add(sql, ops[c->op]);
    if (c->op == MN_OP_IN) {
        sql_add(sql, " (");
        for (size_t i = 0; i < c->n_values; i++)
            sql_add(sql, i ? ",?" : "?");
        sql_add(sql, ")");
    } else {
        sql_add(sql, " ?");
    }
}

static void bind(sqlite3_stmt *st, int at, const mn_value *v)
{
    if (v->type == MN_INTEGER)
        sqlite3_bind_int64(st, at, v->integer);
    else if (v->type == MN_REAL)
        sqlite3_bind_double(st, at, v->real);
    else if (v->type == MN_TEXT)
        sqlite3_bind_text(st, at, v->data, (int)v->len, SQLITE_STATIC);
    else if (v->type == MN_BLOB)
        sqlite3_bind_blob(st, at, v->data, (int)v->len, SQLITE_STATIC);
}

static void ask_sqlite(struct world *w, struct asked *a)
{
    sqlite3_stmt *st = NULL;
    int rc, at = 1;
    snprintf(a->sql, sizeof a->sql, "SELECT id FROM c WHERE vector IS NOT NULL");
    for (size_t i = 0; i < a->n; i++) {
        sql_add(a->sql, " AND ");
        sql_term(a->sql, &a->terms[i]);
    }
    sql_add(a->sql, " ORDER BY id");
    CHECKF(sqlite3_prepare_v2(w->conn->sql, a->sql, -1, &st, NULL) == SQLITE_OK, "%s: %s", a->sql,
           sqlite3_errmsg(w->conn->sql));
    for (size_t i = 0; i < a->n; i++)
        for (size_t j = 0; j < a->terms[i].n_values; j++)
            bind(st, at++, &a->terms[i].values[j]);
    a->n_ids = 0;
    a->ids = malloc(MAX_ROWS * sizeof *a->ids);
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        CHECK(a->n_ids < MAX_ROWS);
        a->ids[a->n_ids++] = sqlite3_column_int64(st, 0);
    }
    CHECKF(rc == SQLITE_DONE, "%s: %s", a->sql, sqlite3_errmsg(w->conn->sql));
    sqlite3_finalize(st);
}

static bool among(const int64_t *ids, size_t n, int64_t id)
{
    size_t first = 0, end = n;
    while (first < end) {
        size_t mid = (first + end) / 2;
        if (ids[mid] < id)
            first = mid + 1;
        else
            end = mid;
    }
    return first < n && ids[first] == id;
}

static bool keep(void *ctx, int64_t id)
{
    const struct asked *a = ctx;
    return among(a->ids, a->n_ids, id);
}

/* Both recalls, against brute force over what SQLite finds. The rows of this snapshot must be in
 * w->b. */
static void check_one(struct world *w, struct asked *a, const float *vector, uint32_t k)
{
    static const double recalls[] = {1.0, 0.95};
    ask_sqlite(w, a);
    for (int i = 0; i < 2; i++) {
        mn_search_stats stats = {0};
        struct indexed_query q = {.name = "c", .vector = vector, .k = k, .keep = keep,
                                  .keep_ctx = a,
                                  .opts = {.recall = recalls[i], .where = a->terms,
                                           .n_where = a->n}};
        const char *wrong = indexed_check(w->conn, &w->b, &q, &w->sum);
        CHECKF(!wrong, "%s (%zu rows), recall %g: %s", a->sql, a->n_ids, recalls[i], wrong);
        mn_hit hits[K];
        uint32_t found;
        q.opts.stats = &stats;
        CHECK_OK(mn_search(w->conn, "c", vector, 1, K, &q.opts, hits, &found, &err), err);
        w->plans[stats.plan]++;
    }
    free(a->ids);
}

static void draw_term(struct world *w, struct asked *a)
{
    struct test_rng *r = &w->rng;
    mn_condition *c = &a->terms[a->n];
    mn_value *v = a->values[a->n++];
    size_t column = test_below(r, N_ATTRIBUTES + 1);
    *c = (mn_condition){.attribute = column == N_ATTRIBUTES ? "id" : attributes[column],
                        .op = (mn_op)(1 + test_below(r, 10)), .values = v};
    if (column == TAGS && test_below(r, 2))
        c->op = MN_OP_CONTAINS;
    c->n_values = c->op == MN_OP_IN ? test_below(r, MAX_VALUES + 1)
                  : c->op == MN_OP_IS_NULL || c->op == MN_OP_NOT_NULL ? 0 : 1;
    for (size_t i = 0; i < c->n_values; i++) {
        v[i] = any_value(r);
        if (column == SMALL && test_below(r, 4))
            v[i] = (mn_value){.type = MN_INTEGER, .integer = (int64_t)test_below(r, 5)};
        if (column == N_ATTRIBUTES && test_below(r, 4))
            v[i] = (mn_value){.type = MN_INTEGER,
                              .integer = (int64_t)test_below(r, (uint64_t)w->next)};
        if (column == TAGS && c->op != MN_OP_CONTAINS && test_below(r, 2))
            v[i] = text_value(lists[test_below(r, N_LISTS)]);
        if (column == TAGS && c->op == MN_OP_CONTAINS && test_below(r, 2))
            v[i] = text_value(test_below(r, 2) ? "a" : "\xf0\x9f\x98\x80");
        if (column == Z && test_below(r, 4))
            v[i] = (mn_value){.type = MN_REAL, .real = 3 * test_uniform(r) - 1.5};
    }
}

/* Some random conditions in the connection's snapshot. */
static void check_random(struct world *w, size_t n)
{
    bool own = w->conn->txn == TXN_NONE;
    if (own)
        CHECK_OK(mn_begin_read(w->conn, &err), err);
    brute_load(&w->b, w->conn->sql, "c", "vector");
    for (size_t i = 0; i < n; i++) {
        struct asked a = {.n = 0};
        float v[DIM];
        size_t terms = 1 + test_below(&w->rng, MAX_TERMS);
        for (size_t t = 0; t < terms; t++)
            draw_term(w, &a);
        indexed_vector(MN_F32, DIM, 2, test_rand(&w->rng) % 1000, v);
        check_one(w, &a, v, test_below(&w->rng, 4) ? K : 200);
    }
    if (own)
        CHECK_OK(mn_rollback(w->conn, &err), err);
}

static void note(const struct world *w)
{
    test_note("recall %.3f by index (%d), %d by rows; plans %d matches, %d probe, %d post",
              w->sum.wanted > 0 ? w->sum.found / w->sum.wanted : 1.0, (int)w->sum.by_index,
              (int)w->sum.by_rows, (int)w->plans[MN_PLAN_MATCHES], (int)w->plans[MN_PLAN_PROBE],
              (int)w->plans[MN_PLAN_POST]);
}

/* ---- Tests ----------------------------------------------------------------------------------- */

TEST(conditions_mean_what_they_mean_in_sqlite)
{
    struct world w = world_of(200, MN_RERANK_COPY, false);
    check_random(&w, test_budget(600));
    note(&w);
    world_end(&w);
}

/* More rows than are read one by one: then SQLite is asked, with and without an index on them. */
TEST(without_an_index_sqlite_finds_the_rows)
{
    struct world w = world_of(2500, MN_RERANK_COPY, false);
    check_random(&w, test_budget(150));
    CHECK(w.plans[MN_PLAN_MATCHES] > 0);
    char *wrong = NULL;
    CHECKF(sqlite3_exec(w.conn->sql, "CREATE INDEX by_small ON c(small); CREATE INDEX by_mixed ON "
                        "c(mixed, z)", NULL, NULL, &wrong) == SQLITE_OK, "%s", wrong);
    world_reopen(&w, 0, 0);
    check_random(&w, test_budget(150));
    note(&w);
    world_end(&w);
}

/* Columns of every affinity, and one with another collation: values are taken as they are. */
TEST(declared_types_change_nothing)
{
    struct world w = {.rng = {5}, .next = 2001,
                      .b = {.dtype = MN_F32, .metric = MN_L2, .dim = DIM}};
    sqlite3 *sql = NULL;
    sqlite3_stmt *put = NULL;
    CHECK(sqlite3_open(test_path("w.db"), &sql) == SQLITE_OK);
    CHECK(sqlite3_exec(sql, "PRAGMA journal_mode = wal; CREATE TABLE c(id INTEGER PRIMARY KEY, "
                       "mixed TEXT COLLATE NOCASE, small INT, tags, z REAL, vector BLOB); CREATE "
                       "INDEX a ON c(mixed); CREATE INDEX b ON c(small); BEGIN",
                       NULL, NULL, NULL) == SQLITE_OK);
    CHECK(sqlite3_prepare_v2(sql, "INSERT INTO c VALUES (?, ?, ?, ?, ?, ?)", -1, &put, NULL) ==
          SQLITE_OK);
    for (int id = 1; id < w.next; id++) {
        float v[DIM];
        mn_attr attrs[N_ATTRIBUTES];
        indexed_vector(MN_F32, DIM, 1, (uint64_t)id, v);
        draw_attributes(&w, v, attrs);
        sqlite3_reset(put);
        sqlite3_clear_bindings(put);
        sqlite3_bind_int(put, 1, id);
        for (int i = 0; i < N_ATTRIBUTES; i++)
            bind(put, 2 + i, &attrs[i].value);
        sqlite3_bind_blob(put, 6, v, sizeof v, SQLITE_TRANSIENT);
        CHECK(sqlite3_step(put) == SQLITE_DONE);
    }
    sqlite3_finalize(put);
    CHECK(sqlite3_exec(sql, "COMMIT", NULL, NULL, NULL) == SQLITE_OK);
    CHECK(sqlite3_close(sql) == SQLITE_OK);
    const mn_collection_opts opts = {.dim = DIM, .table = "c", .column = "vector",
                                     .attributes = attributes, .n_attributes = N_ATTRIBUTES};
    world_reopen(&w, 0, 0);
    CHECK_OK(mn_create(w.conn, "c", &opts, &err), err);
    plus = true;
    check_random(&w, test_budget(200));
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    check_random(&w, test_budget(200));
    plus = false;
    CHECK(w.sum.by_index > 0);
    note(&w);
    world_end(&w);
}

TEST(an_index_answers_with_all_rows_that_meet_them)
{
    static const mn_rerank reranks[] = {MN_RERANK_COPY, MN_RERANK_ROWS};
    for (int i = 0; i < 2; i++) {
        struct world w = world_of(1500, reranks[i], true);
        check_random(&w, test_budget(500));
        note(&w);
        CHECK(w.sum.by_index > 0);
        CHECK(w.sum.found >= 0.93 * w.sum.wanted);
        world_end(&w);
        CHECK(unlink(test_path("w.db")) == 0 && unlink(test_path("w.db-mneme")) == 0);
    }
}

/* Shares of rows by their first element, with queries at both ends. */
TEST(matches_far_from_the_query_are_all_found)
{
    static const double shares[] = {0, 0.0007, 0.01, 0.1, 0.5, 0.9, 1};
    struct world w = world_of(3000, MN_RERANK_COPY, true);
    CHECK_OK(mn_begin_read(w.conn, &err), err);
    brute_load(&w.b, w.conn->sql, "c", "vector");
    double *z = malloc(w.b.n * sizeof *z);
    for (size_t i = 0; i < w.b.n; i++)
        z[i] = brute_element(MN_F32, w.b.vectors + i * DIM * 4, 0);
    qsort(z, w.b.n, sizeof *z, indexed_ascending);
    for (size_t s = 0; s < sizeof shares / sizeof *shares; s++)
        for (int high = 0; high < 2; high++)
            for (int q = 0; q < 6; q++) {
                size_t at = (size_t)(shares[s] * (double)(w.b.n - 1));
                struct asked a = {.n = 1};
                float v[DIM];
                double limit = shares[s] == 0 ? -1e9 : z[high ? w.b.n - 1 - at : at];
                a.values[0][0] = (mn_value){.type = MN_REAL,
                                            .real = high && shares[s] == 0 ? 1e9 : limit};
                a.terms[0] = (mn_condition){"z", high ? MN_OP_GE : MN_OP_LE, a.values[0], 1};
                indexed_vector(MN_F32, DIM, 3, (uint64_t)q, v);
                v[0] = q % 2 ? 2 : -2;
                check_one(&w, &a, v, K);
            }
    free(z);
    note(&w);
    CHECK(w.sum.found >= 0.85 * w.sum.wanted);
    CHECK_OK(mn_rollback(w.conn, &err), err);
    world_end(&w);
}

/* Live rows of the newest version whose code of `small` is not known, -1: it has no such column.
 * Known ones must be right. */
static int unknown_codes(struct world *w)
{
    struct ivf *x = cache_take_index(w->db, 1);
    int unknown = 0;
    sqlite3_stmt *st = NULL;
    CHECK(x);
    const struct version_column *v = atomic_load(&x->columns);
    while (v && strcmp(v->column->name, "small") != 0)
        v = v->next;
    CHECK(sqlite3_prepare_v2(w->conn->sql, "SELECT small FROM c WHERE id = ?", -1, &st, NULL) ==
          SQLITE_OK);
    for (uint32_t i = 0; v && i < x->n_uses; i++)
        for (uint32_t row = 0; row < ivf_use_part(&x->uses[i])->view.n; row++) {
            if (ivf_hides(&x->uses[i], row))
                continue;
            uint16_t code = v->codes[i] ? v->codes[i][row] : CODE_UNKNOWN;
            sqlite3_reset(st);
            sqlite3_bind_int64(st, 1, posting_id(&ivf_use_part(&x->uses[i])->view, row));
            CHECK(sqlite3_step(st) == SQLITE_ROW);
            mn_value is = row_value(st, 0);
            CHECK(code == CODE_UNKNOWN || code == column_code(v->column, &is));
            unknown += code == CODE_UNKNOWN;
        }
    sqlite3_finalize(st);
    ivf_release(w->db, x);
    return v ? unknown : -1;
}

TEST(folds_take_attributes_along)
{
    struct world w = world_of(1000, MN_RERANK_COPY, true);
    struct asked a = {.n = 1};
    float v[DIM] = {1};
    a.values[0][0] = (mn_value){.type = MN_INTEGER, .integer = 2};
    a.terms[0] = (mn_condition){"small", MN_OP_EQ, a.values[0], 1};
    CHECK_EQ(unknown_codes(&w), -1);
    brute_load(&w.b, w.conn->sql, "c", "vector");
    check_one(&w, &a, v, K);
    CHECK_EQ(unknown_codes(&w), 0);
    for (int i = 0; i < 12; i++) {
        char sql[100];
        put_new(&w, 40);
        snprintf(sql, sizeof sql, "UPDATE c SET small = small + 1 WHERE id %% 50 = %d", i);
        CHECK(sqlite3_exec(w.conn->sql, sql, NULL, NULL, NULL) == SQLITE_OK);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        CHECK_EQ(unknown_codes(&w), i < 11 ? 0 : -1); /* it has grown by half: made anew */
        if (i == 10)
            put_new(&w, 200);
    }
    brute_load(&w.b, w.conn->sql, "c", "vector");
    check_one(&w, &a, v, K);
    CHECK_EQ(unknown_codes(&w), 0);
    world_end(&w);
}

static int64_t some_id(struct world *w)
{
    return 1 + (int64_t)test_below(&w->rng, (uint64_t)w->next);
}

/* One change of rows, by any way there is. */
static void change(struct world *w, sqlite3 *plain)
{
    mn_attr attr = {attributes[test_below(&w->rng, 2)], any_value(&w->rng)};
    const mn_put_opts keep_rest = {.keep_rest = true};
    char sql[200];
    int64_t id = some_id(w);
    mn_row row = {.id = id, .attrs = &attr, .n_attrs = 1};
    switch (test_below(&w->rng, 6)) {
    case 0:
        put_new(w, 1 + test_below(&w->rng, 30));
        break;
    case 1:
        put_ids(w, &id, 1);
        break;
    case 2:
        CHECK_OK(mn_delete(w->conn, "c", &(mn_id){.id = id}, 1, NULL, &err), err);
        break;
    case 3:
        CHECK_OK(mn_put(w->conn, "c", &row, 1, &keep_rest, &err), err);
        break;
    default:
        if (!plain)
            return;
        snprintf(sql, sizeof sql,
                 test_below(&w->rng, 2)
                     ? "UPDATE c SET small = small + 1, tags = '[1,\"a\"]' WHERE id %% 97 = %d"
                     : "UPDATE c SET mixed = %d WHERE id %% 89 = 3",
                 (int)test_below(&w->rng, 89));
        CHECKF(sqlite3_exec(plain, sql, NULL, NULL, NULL) == SQLITE_OK, "%s",
               sqlite3_errmsg(plain));
        break;
    }
}

TEST(changed_rows_are_found_by_what_they_are_now)
{
    struct world w = world_of(1200, MN_RERANK_COPY, true);
    sqlite3 *plain = NULL;
    CHECK(sqlite3_open(test_path("w.db"), &plain) == SQLITE_OK);
    for (size_t i = 0; i < test_budget(60); i++) {
        for (uint64_t n = test_below(&w.rng, 6); n-- > 0;)
            change(&w, plain);
        if (test_below(&w.rng, 4) == 0)
            CHECK_OK(mn_fold(w.conn, "c", &err), err);
        if (test_below(&w.rng, 15) == 0)
            world_reopen(&w, 0, 0);
        if (test_below(&w.rng, 25) == 0)
            CHECK_OK(mn_rebuild(w.conn, "c", &err), err);
        check_random(&w, 8);
    }
    CHECK(sqlite3_close(plain) == SQLITE_OK);
    note(&w);
    world_end(&w);
}

TEST(a_transaction_finds_its_own_writes)
{
    struct world w = world_of(800, MN_RERANK_COPY, true);
    mn_conn *other;
    CHECK_OK(mn_connect(w.db, &other, &err), err);
    for (size_t i = 0; i < test_budget(10); i++) {
        CHECK_OK(mn_begin_write(w.conn, &err), err);
        for (int n = 0; n < 12; n++)
            change(&w, NULL);
        check_random(&w, 12);
        struct world beside = w; /* which does not see them */
        beside.conn = other;
        beside.b = (struct brute){.dtype = MN_F32, .metric = MN_L2, .dim = DIM};
        check_random(&beside, 6);
        brute_free(&beside.b);
        CHECK_OK(test_below(&w.rng, 2) ? mn_commit(w.conn, &err) : mn_rollback(w.conn, &err), err);
        check_random(&w, 6);
    }
    mn_disconnect(other);
    world_end(&w);
}

/* A reader keeps an old state while others change the rows, fold, and search with conditions. */
TEST(an_old_snapshot_finds_what_its_rows_were)
{
    struct world w = world_of(900, MN_RERANK_COPY, true), old = w;
    CHECK_OK(mn_connect(w.db, &old.conn, &err), err);
    old.b = (struct brute){.dtype = MN_F32, .metric = MN_L2, .dim = DIM};
    for (size_t i = 0; i < test_budget(10); i++) {
        CHECK_OK(mn_begin_read(old.conn, &err), err);
        if (i % 2)
            check_random(&old, 3);
        for (int n = 0; n < 8; n++)
            change(&w, NULL);
        if (i % 3 == 0)
            check_random(&w, 4);
        check_random(&old, 4);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        check_random(&w, 4);
        check_random(&old, 4);
        CHECK_OK(mn_rollback(old.conn, &err), err);
    }
    brute_free(&old.b);
    mn_disconnect(old.conn);
    world_end(&w);
}

/* Threads search under conditions, and count what SQLite counts in the same snapshot, while rows
 * change and are folded. */
struct searcher {
    mn_db *db;
    _Atomic bool stop; /* relaxed */
    _Atomic uint64_t searches;
    char wrong[200];
};

static void *search_on(void *ctx)
{
    struct searcher *s = ctx;
    mn_error own = {0};
    mn_conn *conn = NULL;
    float v[DIM] = {0.3f, 0.2f};
    static const char *const sql[] = {
        "SELECT count(*) FROM c WHERE vector IS NOT NULL AND small = 2",
        "SELECT count(*) FROM c WHERE vector IS NOT NULL AND z < 0"};
    const mn_value two = {.type = MN_INTEGER, .integer = 2}, zero = {.type = MN_INTEGER};
    const mn_condition c[] = {{"small", MN_OP_EQ, &two, 1}, {"z", MN_OP_LT, &zero, 1}};
    mn_hit *hits = malloc(MAX_ROWS * sizeof *hits);
    if (mn_connect(s->db, &conn, &own))
        snprintf(s->wrong, sizeof s->wrong, "%.180s", own.message);
    for (int i = 0; !*s->wrong && !atomic_load(&s->stop); i ^= 1) {
        const mn_search_opts opts = {.where = &c[i], .n_where = 1};
        sqlite3_stmt *st = NULL;
        uint32_t found = 0;
        if (mn_begin_read(conn, &own) ||
            mn_search(conn, "c", v, 1, MAX_ROWS, &opts, hits, &found, &own)) {
            snprintf(s->wrong, sizeof s->wrong, "%.180s", own.message);
            break;
        }
        sqlite3_prepare_v2(conn->sql, sql[i], -1, &st, NULL);
        if (sqlite3_step(st) != SQLITE_ROW || sqlite3_column_int(st, 0) != (int)found)
            snprintf(s->wrong, sizeof s->wrong, "%s: %d, %u were found", sql[i],
                     sqlite3_column_int(st, 0), found);
        sqlite3_finalize(st);
        if (mn_rollback(conn, &own))
            break;
        atomic_fetch_add(&s->searches, 1);
    }
    mn_disconnect(conn);
    free(hits);
    return NULL;
}

TEST(threads_search_while_rows_change)
{
    enum { SEARCHERS = 3 };
    struct world w = world_of(900, MN_RERANK_COPY, true);
    static struct searcher s[SEARCHERS];
    pthread_t threads[SEARCHERS];
    for (int i = 0; i < SEARCHERS; i++) {
        s[i] = (struct searcher){.db = w.db};
        CHECK(pthread_create(&threads[i], NULL, search_on, &s[i]) == 0);
    }
    for (size_t i = 0; i < test_budget(30); i++) {
        for (int n = 0; n < 5; n++)
            change(&w, NULL);
        if (i % 3 == 0)
            CHECK_OK(mn_fold(w.conn, "c", &err), err);
        if (i % 10 == 9)
            CHECK_OK(mn_rebuild(w.conn, "c", &err), err);
    }
    uint64_t searches = 0;
    for (int i = 0; i < SEARCHERS; i++) {
        atomic_store(&s[i].stop, true);
        pthread_join(threads[i], NULL);
        searches += s[i].searches;
    }
    for (int i = 0; i < SEARCHERS; i++)
        CHECKF(!*s[i].wrong, "%s", s[i].wrong);
    test_note("%d searches", (int)searches);
    world_end(&w);
}

TEST(a_read_only_database_is_searched_alike)
{
    struct world w = world_of(1000, MN_RERANK_COPY, true);
    world_reopen(&w, MN_OPEN_READONLY, 0);
    check_random(&w, test_budget(150));
    CHECK(w.sum.by_index > 0);
    world_end(&w);
}

TEST(little_memory_makes_it_slower_not_wrong)
{
    struct world w = world_of(3500, MN_RERANK_COPY, true);
    world_reopen(&w, 0, 4 << 20);
    check_random(&w, test_budget(100));
    note(&w);
    world_end(&w);
}

static void check_away(mn_rerank rerank)
{
    struct world w = world_of(1500, rerank, true);
    w.away = true;
    world_reopen(&w, 0, 0);
    check_random(&w, test_budget(60));
    put_new(&w, 200); /* their codes are in memory, and so are their attributes */
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    check_random(&w, test_budget(60));
    note(&w);
    world_end(&w);
}

TEST(codes_that_are_read_from_the_disk_change_nothing)
{
    check_away(MN_RERANK_COPY);
}

TEST(nor_do_they_with_vectors_in_rows)
{
    check_away(MN_RERANK_ROWS);
}

TEST(a_radius_search_keeps_to_them)
{
    struct world w = world_of(700, MN_RERANK_COPY, true);
    CHECK_OK(mn_begin_read(w.conn, &err), err);
    brute_load(&w.b, w.conn->sql, "c", "vector");
    for (size_t i = 0; i < test_budget(100); i++) {
        struct asked a = {.n = 0};
        mn_hit *hits;
        size_t n;
        float v[DIM];
        draw_term(&w, &a);
        ask_sqlite(&w, &a);
        indexed_vector(MN_F32, DIM, 4, i, v);
        const mn_search_opts opts = {.where = a.terms, .n_where = a.n};
        CHECK_OK(mn_search_radius(w.conn, "c", v, 2.5, 0, &opts, &hits, &n, &err), err);
        const char *wrong = brute_compare(&w.b, v, 0, 2.5, keep, &a, hits, n);
        CHECKF(!wrong, "%s: %s", a.sql, wrong);
        mn_free_result(hits);
        free(a.ids);
    }
    CHECK_OK(mn_rollback(w.conn, &err), err);
    world_end(&w);
}

static bool odd_only(void *ctx, const mn_row *row)
{
    (void)ctx;
    return row->id % 2;
}

TEST(they_go_together_with_filter_and_ids)
{
    struct world w = world_of(1200, MN_RERANK_COPY, true);
    int64_t some[400];
    for (int i = 0; i < 400; i++)
        some[i] = 3 * i + 1;
    CHECK_OK(mn_begin_read(w.conn, &err), err);
    brute_load(&w.b, w.conn->sql, "c", "vector");
    for (size_t i = 0; i < test_budget(120); i++) {
        struct asked a = {.n = 0};
        bool ids = i & 1, filter = i & 2;
        size_t kept = 0;
        float v[DIM];
        draw_term(&w, &a);
        ask_sqlite(&w, &a);
        for (size_t j = 0; j < a.n_ids; j++)
            if ((!ids || (a.ids[j] % 3 == 1 && a.ids[j] < 1200)) && (!filter || a.ids[j] % 2))
                a.ids[kept++] = a.ids[j];
        a.n_ids = kept;
        indexed_vector(MN_F32, DIM, 5, i, v);
        struct indexed_query q = {.name = "c", .vector = v, .k = K, .keep = keep, .keep_ctx = &a,
                                  .opts = {.where = a.terms, .n_where = a.n,
                                           .recall = i % 3 ? 0.95 : 1,
                                           .filter = filter ? odd_only : NULL,
                                           .only_ids = ids ? some : NULL,
                                           .n_only_ids = ids ? 400 : 0}};
        const char *wrong = indexed_check(w.conn, &w.b, &q, &w.sum);
        CHECKF(!wrong, "%s, ids %d, filter %d: %s", a.sql, ids, filter, wrong);
        free(a.ids);
    }
    CHECK_OK(mn_rollback(w.conn, &err), err);
    world_end(&w);
}

TEST(conditions_that_are_none_are_refused)
{
    struct world w = world_of(20, MN_RERANK_COPY, false);
    const mn_value one[2] = {{.type = MN_INTEGER, .integer = 1}, {.type = MN_INTEGER}};
    const mn_value bad = {.type = (mn_value_type)9}, hollow = {.type = MN_TEXT, .len = 3};
    const struct {
        mn_condition c;
        mn_status want;
        const char *says;
    } cases[] = {
        {{"nothing", MN_OP_EQ, one, 1}, MN_NOTFOUND, "'nothing'"},
        {{NULL, MN_OP_EQ, one, 1}, MN_NOTFOUND, "(null)"},
        {{"text_id", MN_OP_EQ, one, 1}, MN_NOTFOUND, "'text_id'"},
        {{"small", (mn_op)0, one, 1}, MN_INVALID, "no operator"},
        {{"small", (mn_op)11, one, 1}, MN_INVALID, "no operator"},
        {{"small", MN_OP_EQ, one, 2}, MN_INVALID, "2 values, not 1"},
        {{"small", MN_OP_EQ, NULL, 0}, MN_INVALID, "0 values, not 1"},
        {{"small", MN_OP_IS_NULL, one, 1}, MN_INVALID, "1 values, not 0"},
        {{"small", MN_OP_IN, NULL, 3}, MN_INVALID, "3 values at NULL"},
        {{"small", MN_OP_EQ, &bad, 1}, MN_INVALID, "type 9"},
        {{"small", MN_OP_EQ, &hollow, 1}, MN_INVALID, "3 bytes at NULL"},
    };
    mn_hit hits[K];
    uint32_t found;
    float v[DIM] = {1};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const mn_search_opts opts = {.where = &cases[i].c, .n_where = 1};
        CHECK_EQ(mn_search(w.conn, "c", v, 1, K, &opts, hits, &found, &err), cases[i].want);
        CHECK_HAS(err.message, cases[i].says);
    }
    const mn_search_opts none = {.n_where = 1};
    CHECK_EQ(mn_search(w.conn, "c", v, 1, K, &none, hits, &found, &err), MN_INVALID);
    CHECK_HAS(err.message, "1 conditions at NULL");
    world_end(&w);
}

TEST(each_plan_has_a_name)
{
    static const char *const names[] = {"none", "scan", "ids", "index", "matches", "probe", "post"};
    for (int p = MN_PLAN_NONE; p <= MN_PLAN_POST; p++)
        CHECK_STR(mn_plan_name((mn_plan)p), names[p]);
    CHECK(mn_plan_name((mn_plan)(MN_PLAN_POST + 1)) == NULL);
}

/* More rows than are listed, and no view holds them, as the index was there first. */
TEST(exact_searches_find_all_where_nearly_all_match)
{
    struct world w = world_of(7000, MN_RERANK_COPY, true);
    brute_load(&w.b, w.conn->sql, "c", "vector");
    for (int pass = 0; pass < 8; pass++) { /* four bring the vectors into memory */
        struct asked a = {.n = 1};
        const float v[DIM] = {0.2f, 0.1f};
        a.terms[0] = pass % 2 ? (mn_condition){"z", MN_OP_NOT_NULL, NULL, 0}
                              : (mn_condition){"small", MN_OP_NE, a.values[0], 1};
        a.values[0][0] = (mn_value){.type = MN_INTEGER, .integer = 77};
        ask_sqlite(&w, &a);
        struct indexed_query q = {.name = "c", .vector = v, .k = K, .keep = keep, .keep_ctx = &a,
                                  .opts = {.recall = pass < 4 ? 0.9 : 1, .where = a.terms,
                                           .n_where = 1}};
        const char *wrong = indexed_check(w.conn, &w.b, &q, &w.sum);
        CHECKF(!wrong, "%s: %s", a.sql, wrong);
        mn_hit *hits = NULL;
        size_t n = 0;
        if (pass >= 4)
            CHECK_OK(mn_search_radius(w.conn, "c", v, 2.5, 0, &q.opts, &hits, &n, &err), err);
        if (pass >= 4)
            wrong = brute_compare(&w.b, v, 0, 2.5, keep, &a, hits, n);
        CHECKF(!wrong, "radius, %s: %s", a.sql, wrong);
        mn_free_result(hits);
        free(a.ids);
    }
    world_end(&w);
}

/* What each plan reports: a few rows listed, some probed, nearly all checked last. */
TEST(plans_follow_how_many_rows_match)
{
    struct world w = world_of(3500, MN_RERANK_COPY, true);
    const struct {
        mn_condition c;
        mn_plan want;
    } cases[] = {{{"id", MN_OP_EQ, &(mn_value){.type = MN_INTEGER, .integer = 7}, 1}, MN_PLAN_IDS},
                 {{"z", MN_OP_GT, &(mn_value){.type = MN_REAL, .real = 1e9}, 1}, MN_PLAN_MATCHES},
                 {{"z", MN_OP_LT, &(mn_value){.type = MN_REAL, .real = 0.3}, 1}, MN_PLAN_PROBE},
                 {{"z", MN_OP_NOT_NULL, NULL, 0}, MN_PLAN_POST}};
    float v[DIM] = {0.1f};
    mn_hit hits[K];
    uint32_t found;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            mn_search_stats stats = {0};
            const mn_search_opts opts = {.where = &cases[i].c, .n_where = 1, .recall = 0.9,
                                         .stats = &stats};
            CHECK_OK(mn_search(w.conn, "c", v, 1, K, &opts, hits, &found, &err), err);
            /* vectors come into memory with the second searches */
            CHECKF(pass == 0 || stats.plan == cases[i].want, "case %zu: plan %s", i,
                   mn_plan_name(stats.plan));
        }
    world_end(&w);
}

TEST(text_ids_have_conditions_too)
{
    struct world w = {.db = NULL};
    world_reopen(&w, 0, 0);
    CHECK_OK(mn_create(w.conn, "t", &(mn_collection_opts){.dim = 2, .id_kind = MN_ID_TEXT}, &err),
             err);
    const float v[2] = {1, 2};
    for (int i = 0; i < 5; i++) {
        char id[16];
        snprintf(id, sizeof id, "r%d", i);
        CHECK_OK(mn_put(w.conn, "t", &(mn_row){.text_id = id, .vector = v}, 1, NULL, &err), err);
    }
    const mn_value values[] = {text_value("r1"), text_value("r3")};
    const mn_condition c[] = {{"TEXT_ID", MN_OP_IN, values, 2}, {"id", MN_OP_NOT_NULL, NULL, 0}};
    const mn_search_opts opts = {.where = c, .n_where = 2};
    mn_hit hits[K];
    uint32_t found;
    CHECK_OK(mn_search(w.conn, "t", v, 1, K, &opts, hits, &found, &err), err);
    CHECK_EQ(found, 2);
    CHECK(hits[0].id == 2 && hits[1].id == 4);
    world_end(&w);
}

/* The n-th allocation of a first search with conditions fails, for every n. */
TEST(memory_that_runs_out_is_an_error_or_no_matter)
{
    struct world w = world_of(600, MN_RERANK_COPY, true);
    const mn_value two = {.type = MN_INTEGER, .integer = 2};
    const mn_condition c[] = {{"small", MN_OP_EQ, &two, 1}, {"mixed", MN_OP_NOT_NULL, NULL, 0}};
    const mn_search_opts where = {.where = c, .n_where = 2};
    mn_hit want[K], hits[K];
    uint32_t wanted = 0, found;
    float v[DIM] = {0.5f, -0.5f};
    const mn_search_opts exact = {.where = c, .n_where = 2, .recall = 1};
    CHECK_OK(mn_search(w.conn, "c", v, 1, K, &exact, want, &wanted, &err), err);
    mn_disconnect(w.conn);
    CHECK_OK(mn_close(w.db, &err), err);
    CHECK(oom_install());
    for (uint64_t n = 0, step = test_long() ? 1 : 7;; n += step) {
        struct db_stage stage = {.limits = INDEXED_LIMITS};
        const mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND, .allocator = oom_hooks()};
        CHECK_OK(db_open_on(test_path("w.db"), &opts, &stage, &w.db, &err), err);
        CHECK_OK(mn_connect(w.db, &w.conn, &err), err);
        oom_arm(n, n % 2);
        mn_status st = mn_search(w.conn, "c", v, 1, K, &where, hits, &found, &err);
        bool struck = oom_fired() > 0;
        oom_arm(0, false);
        CHECKF(st == MN_OK || (struck && st == MN_NOMEM), "allocation %d: %s", (int)n,
               err.message);
        if (st)
            CHECK_OK(mn_search(w.conn, "c", v, 1, K, &where, hits, &found, &err), err);
        CHECK_EQ(found, wanted);
        for (uint32_t i = 0; i < found; i++)
            CHECK(hits[i].distance >= want[i].distance);
        mn_disconnect(w.conn);
        CHECK_OK(mn_close(w.db, &err), err);
        CHECK_EQ(oom_balance(), 0);
        if (n && !struck)
            break;
    }
}

TEST_MAIN
