/* Random statements against a plain table.
 *
 * Three tables are kept in step: v USING mneme, o an ordinary table under mneme_index(), and m,
 * which Mneme knows nothing of. What a statement changes it changes in all three, and fails in all
 * or in none. What a query over v or o gives is compared with m, read by plain SQL and a distance
 * in double: exactly the same rows in the same order where the search is exact; by the index as
 * many rows, all of them matching, at the right distances, in order.
 *
 * Every statement is kept: a failure prints the seed and the statement. MNEME_TEST_LONG=1 runs
 * more worlds; SEED=n one world. */
#include "src/engine/engine.h"
#include "tests/engine/indexed.h"
#include "tests/sql/steps.h"

enum { DIM = 8, MOST_HITS = 4096, SQL_BYTES = 8192, PART = 1500, LITERAL = 400 };

static mn_error err;
static mn_metric metric; /* of the world at hand, for test_distance() */

struct hit {
    int64_t group, id;
    double distance;
};

struct answer {
    size_t n;
    struct hit hits[MOST_HITS];
};

struct world {
    uint64_t seed;
    struct test_rng rng;
    mn_db *keeper; /* has the limits */
    sqlite3 *db;
    bool indexed;
    uint64_t ids; /* most are below it */
    bool renamed_v, renamed_o;
    int depth; /* savepoints; in a transaction if > 0 or begun */
    bool begun;
    uint64_t statements, queries, folded;
    double found, wanted;
    uint64_t back; /* rows that came later than a farther one */
    char path[600];
};

/* ---- Distances and answers ------------------------------------------------------------------- */

static double distance_of(const float *a, const float *b)
{
    double sum = 0, aa = 0, bb = 0;
    for (int i = 0; i < DIM; i++) {
        double x = (double)a[i], y = (double)b[i];
        sum += metric == MN_L2 ? (x - y) * (x - y) : x * y;
        aa += x * x;
        bb += y * y;
    }
    return metric == MN_L2 ? sqrt(sum) : metric == MN_IP ? -sum : 1 - sum / sqrt(aa * bb);
}

static void call_distance(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    float a[DIM], b[DIM];
    CHECK_EQ(n, 2);
    if (sqlite3_value_type(args[0]) == SQLITE_NULL || sqlite3_value_type(args[1]) == SQLITE_NULL)
        return;
    CHECK_EQ(sqlite3_value_bytes(args[0]), sizeof a);
    CHECK_EQ(sqlite3_value_bytes(args[1]), sizeof b);
    memcpy(a, sqlite3_value_blob(args[0]), sizeof a);
    memcpy(b, sqlite3_value_blob(args[1]), sizeof b);
    sqlite3_result_double(ctx, distance_of(a, b));
}

__attribute__((noreturn, format(printf, 3, 4))) static void
lost(const struct world *w, const char *sql, const char *format, ...)
{
    char text[2000];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    test_fail(__FILE__, __LINE__, "SEED=%" PRIu64 ", statement %" PRIu64 ": %s\n    %s", w->seed,
              w->statements, sql, text);
}

/* Columns group, id, distance. */
static void ask(struct world *w, const char *sql, struct answer *out)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(w->db, sql, -1, &st, NULL);
    out->n = 0;
    w->statements++;
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(st);
        if (rc != SQLITE_ROW)
            break;
        CHECK(out->n < MOST_HITS);
        out->hits[out->n++] = (struct hit){sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1),
                                           sqlite3_column_double(st, 2)};
    }
    if (rc != SQLITE_DONE)
        lost(w, sql, "%s", sqlite3_errmsg(w->db));
    sqlite3_finalize(st);
}

/* ---- Grammar --------------------------------------------------------------------------------- */

static uint64_t below(struct world *w, uint64_t n)
{
    return test_below(&w->rng, n);
}

static bool one_in(struct world *w, uint64_t n)
{
    return below(w, n) == 0;
}

/* Writes behind the `at` bytes that are there; returns how many there are then. */
__attribute__((format(printf, 4, 5))) static size_t put(char *to, size_t size, size_t at,
                                                        const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(to + at, size - at, format, args);
    va_end(args);
    CHECK(n >= 0 && at + (size_t)n < size);
    return at + (size_t)n;
}

#define PICK(w, words) ((words)[below(w, sizeof(words) / sizeof *(words))])

static const char *literal(struct world *w)
{
    static const char *const literals[] = {"0",
                                           "1",
                                           "2",
                                           "3",
                                           "4",
                                           "5",
                                           "'1'",
                                           "'3'",
                                           "2.5",
                                           "3.0",
                                           "-1",
                                           "'a'",
                                           "'b'",
                                           "'A'",
                                           "'ab'",
                                           "''",
                                           "NULL",
                                           "x'61'",
                                           "'2.5'",
                                           "(1 + 1)",
                                           "(SELECT 2)",
                                           "abs(-3)",
                                           "9007199254740993"};
    return PICK(w, literals);
}

static void random_vector(struct world *w, float *v)
{
    for (int i = 0; i < DIM; i++)
        v[i] = (float)below(w, 19) - 9;
    v[0] = v[0] == 0 ? 1 : v[0];
}

/* As a blob, or in JSON. */
static void vector_literal(const float *v, bool json, char *to)
{
    size_t n = 0;
    for (int i = 0; i < DIM; i++) {
        uint32_t bits;
        memcpy(&bits, &v[i], 4);
        if (json)
            n = put(to, LITERAL, n, "%s%d", i ? ", " : "'[", (int)v[i]);
        else
            n = put(to, LITERAL, n, "%s%02X%02X%02X%02X", i ? "" : "x'", bits & 255,
                    bits >> 8 & 255, bits >> 16 & 255, bits >> 24);
    }
    put(to, LITERAL, n, "%s", json ? "]'" : "'");
}

static const char *const columns[] = {"i", "r", "x", "n", "i", "x", "id"};

/* A condition that is checked inside a search, whatever stands beside it. */
static void atom(struct world *w, char *to)
{
    static const char *const ops[] = {"=", "<>", "<", "<=", ">", ">=", "IS", "=", "=", "!="};
    const char *c = PICK(w, columns);
    switch (below(w, 9)) {
    case 0:
        snprintf(to, PART, "%s IN (%s, %s, %s)", c, literal(w), literal(w), literal(w));
        break;
    case 1:
        snprintf(to, PART, "%s BETWEEN %s AND %s", c, literal(w), literal(w));
        break;
    case 2:
        snprintf(to, PART, "%s IS%s NULL", c, one_in(w, 2) ? "" : " NOT");
        break;
    case 3:
        snprintf(to, PART, "json_contains(j, %s)", literal(w));
        break;
    case 4:
        snprintf(to, PART, "%s IN (SELECT %s FROM p WHERE n < %" PRIu64 ")", c,
                 one_in(w, 2) ? "+n" : "+word", below(w, 9));
        break;
    case 5:
        snprintf(to, PART, "id %s %" PRIu64, PICK(w, ops), below(w, w->ids));
        break;
    default:
        snprintf(to, PART, "%s %s %s", c, PICK(w, ops), literal(w));
    }
}

/* Some of them, by AND; "" or " AND ..." */
static void atoms(struct world *w, char *to)
{
    size_t n = below(w, 4), at = 0;
    to[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        char one[PART];
        atom(w, one);
        at += (size_t)snprintf(to + at, PART - at, " AND %s", one);
    }
}

/* A condition that SQLite keeps for itself. */
static void hard(struct world *w, char *to)
{
    char a[PART], b[PART];
    atom(w, a);
    atom(w, b);
    switch (below(w, 9)) {
    case 0:
        snprintf(to, PART, "length(x) > 0");
        break;
    case 1:
        snprintf(to, PART, "i + 0 = %" PRIu64, below(w, 6));
        break;
    case 2:
        snprintf(to, PART, "NOT coalesce(%.500s, 0)", a);
        break;
    case 3:
        snprintf(to, PART, "x LIKE '%%a%%'");
        break;
    case 4:
        snprintf(to, PART, "(%.500s OR length(a) = 2 OR %.500s)", a, b);
        break;
    case 5:
        snprintf(to, PART, "a = 'aux%" PRIu64 "'", below(w, 4));
        break;
    case 6:
        snprintf(to, PART, "x COLLATE NOCASE = 'A'");
        break;
    case 7:
        snprintf(to, PART, "EXISTS (SELECT 1 FROM p WHERE p.n = i AND p.n > %" PRIu64 ")",
                 below(w, 4));
        break;
    default:
        snprintf(to, PART, "CASE WHEN %.500s THEN 1 ELSE %.500s END", a, b);
    }
}

/* Any of both kinds, nested. */
static void any_predicate(struct world *w, int depth, char *to)
{
    char a[PART], b[PART];
    uint64_t kind = depth > 2 ? below(w, 2) : below(w, 6);
    if (kind == 0) {
        atom(w, to);
    } else if (kind == 1) {
        hard(w, to);
    } else {
        any_predicate(w, depth + 1, a);
        any_predicate(w, depth + 1, b);
        if (kind == 2)
            snprintf(to, PART, "NOT (%.700s)", a);
        else
            snprintf(to, PART, "(%.700s) %s (%.700s)", a, kind == 3 ? "OR" : "AND", b);
    }
}

/* ---- Changes --------------------------------------------------------------------------------- */

static const char *table_v(const struct world *w)
{
    return w->renamed_v ? "w" : "v";
}

static const char *table_o(const struct world *w)
{
    return w->renamed_o ? "q" : "o";
}

static int run(struct world *w, const char *sql)
{
    w->statements++;
    return sqlite3_exec(w->db, sql, NULL, NULL, NULL);
}

static void must(struct world *w, const char *sql)
{
    if (run(w, sql) != SQLITE_OK)
        lost(w, sql, "%s", sqlite3_errmsg(w->db));
}

/* `sql` with the table's name for $, and of {a|b|c} the part of that table: v, o, m. */
static void for_table(const struct world *w, const char *sql, int which, char *to)
{
    const char *name = which == 0 ? table_v(w) : which == 1 ? table_o(w) : "m";
    size_t n = 0;
    int part = -1;
    for (const char *p = sql; *p; p++) {
        if (*p == '{') {
            part = 0;
        } else if (*p == '}') {
            part = -1;
        } else if (*p == '|' && part >= 0) {
            part++;
        } else if (part < 0 || part == which) {
            if (*p == '$')
                n = put(to, SQL_BYTES, n, "%s", name);
            else
                to[n++] = *p;
        }
        CHECK(n + 8 < SQL_BYTES);
    }
    to[n] = '\0';
}

/* The same change of all three tables. */
static void change(struct world *w, const char *sql)
{
    static char each[3][SQL_BYTES];
    int rc[3];
    int changes[3];
    char message[3][300];
    for (int which = 0; which < 3; which++) {
        for_table(w, sql, which, each[which]);
        rc[which] = run(w, each[which]);
        changes[which] = sqlite3_changes(w->db);
        snprintf(message[which], sizeof message[which], "%s", sqlite3_errmsg(w->db));
    }
    for (int which = 0; which < 2; which++) {
        if ((rc[which] & 255) != (rc[2] & 255))
            lost(w, each[which], "gives %d, %s; the plain table %d, %s", rc[which], message[which],
                 rc[2], message[2]);
        if (rc[2] == SQLITE_OK && changes[which] != changes[2])
            lost(w, each[which], "changes %d rows, in the plain table %d", changes[which],
                 changes[2]);
    }
}

static void a_value(struct world *w, const char *column, char *to)
{
    static const char *const lists[] = {
        "'[]'", "'[1,2]'", "'[\"a\",3]'", "NULL", "'[2.5,\"b\"]'", "'x'", "json_object('a', 1)",
        "'[1'", "5"};
    static const char *const words[] = {"'a'", "'b'", "'A'", "'ab'", "''", "NULL", "3", "2.5"};
    if (*column == 'j')
        snprintf(to, 100, "%s", PICK(w, lists));
    else if (*column == 'x')
        snprintf(to, 100, "%s", PICK(w, words));
    else if (*column == 'u')
        snprintf(to, 100, one_in(w, 3) ? "NULL" : "'u%" PRIu64 "'", below(w, 80));
    else if (*column == 'a')
        snprintf(to, 100, "'aux%" PRIu64 "'", below(w, 6));
    else if (*column == 'n')
        snprintf(to, 100, "%s", literal(w));
    else
        snprintf(to, 100, one_in(w, 8) ? "NULL" : "%" PRIu64, below(w, 7));
}

/* What v, o and m take for the same vector. */
static void a_vector(struct world *w, char *to)
{
    float v[DIM];
    char blob[LITERAL], json[LITERAL];
    random_vector(w, v);
    vector_literal(v, false, blob);
    vector_literal(v, true, json);
    if (one_in(w, 12))
        snprintf(to, 4 * LITERAL, "{NULL|%s|NULL}", one_in(w, 2) ? "NULL" : "'no vector'");
    else
        snprintf(to, 4 * LITERAL, "{%s|%s|%s}", one_in(w, 2) ? blob : json,
                 one_in(w, 2) ? blob : json, blob);
}

static const char *conflict(struct world *w)
{
    static const char *const words[] = {"",           "",         "OR REPLACE ",
                                        "OR IGNORE ", "OR FAIL ", "OR ABORT "};
    return PICK(w, words);
}

static void insert_rows(struct world *w, size_t rows, bool fresh)
{
    static char sql[3 * SQL_BYTES];
    size_t n = put(sql, sizeof sql, 0, "INSERT %sINTO $(id, e, i, r, x, j, n, u, a) VALUES ",
                   fresh ? "OR IGNORE " : conflict(w));
    for (size_t row = 0; row < rows; row++) {
        char id[32] = "NULL", vector[4 * LITERAL];
        if (!fresh && one_in(w, 3))
            snprintf(id, sizeof id, "%" PRIu64, below(w, w->ids));
        a_vector(w, vector);
        n = put(sql, sizeof sql, n, "%s(%s, %s", row ? ", " : "", id, vector);
        for (const char *c = "irxjnua"; *c; c++) {
            char value[100];
            a_value(w, c, value);
            n = put(sql, sizeof sql, n, ", %s", value);
        }
        n = put(sql, sizeof sql, n, ")");
        CHECK(n < 2 * SQL_BYTES);
    }
    change(w, sql);
}

static void update_rows(struct world *w)
{
    char sql[SQL_BYTES], where[PART], value[100], vector[4 * LITERAL];
    static const char *const set[] = {"i", "r", "x", "j", "n", "a", "u"};
    const char *c = PICK(w, set);
    a_value(w, c, value);
    a_vector(w, vector);
    switch (below(w, 5)) {
    case 0: /* a row's id */
        snprintf(sql, sizeof sql, "UPDATE %s$ SET id = %" PRIu64 ", %s = %s WHERE id = %" PRIu64,
                 conflict(w), below(w, w->ids), c, value, below(w, w->ids));
        break;
    case 1:
        snprintf(sql, sizeof sql, "UPDATE %s$ SET e = %s, %s = %s WHERE id = %" PRIu64, conflict(w),
                 vector, c, value, below(w, w->ids));
        break;
    case 2:
        snprintf(sql, sizeof sql,
                 "UPDATE $ SET id = id + 1000 WHERE id BETWEEN %" PRIu64 " AND %" PRIu64,
                 below(w, w->ids), below(w, w->ids));
        break;
    default:
        any_predicate(w, 1, where);
        snprintf(sql, sizeof sql, "UPDATE $ SET %s = %s WHERE id < %" PRIu64 " AND (%s)",
                 *c == 'u' ? "i" : c, *c == 'u' ? "i + 1" : value, below(w, w->ids), where);
    }
    change(w, sql);
}

static void delete_rows(struct world *w)
{
    char sql[SQL_BYTES], where[PART];
    any_predicate(w, 1, where);
    if (one_in(w, 40) && !w->indexed)
        snprintf(sql, sizeof sql, "DELETE FROM $ WHERE %s", where);
    else
        snprintf(sql, sizeof sql,
                 "DELETE FROM $ WHERE id BETWEEN %" PRIu64 " AND %" PRIu64 " AND (%s)",
                 below(w, w->ids), below(w, w->ids) / (w->indexed ? 4 : 1), where);
    change(w, sql);
}

static void transaction(struct world *w)
{
    bool inside = w->begun || w->depth;
    uint64_t kind = below(w, 6);
    if (!inside) {
        must(w, kind < 3 ? "BEGIN" : kind < 5 ? "SAVEPOINT s0" : "BEGIN IMMEDIATE");
        w->begun = kind < 3 || kind == 5;
        w->depth = !w->begun;
        return;
    }
    char sql[64];
    if (kind < 2 && w->depth < 5) {
        snprintf(sql, sizeof sql, "SAVEPOINT s%d", w->depth++);
        must(w, sql);
    } else if (kind < 4 && w->depth) {
        int to = (int)below(w, (uint64_t)w->depth);
        snprintf(sql, sizeof sql, "%s s%d", kind == 2 ? "ROLLBACK TO" : "RELEASE", to);
        must(w, sql);
        w->depth = kind == 2 ? to + 1 : to;
    } else {
        must(w, kind == 4 ? "ROLLBACK" : "COMMIT");
        w->depth = 0;
        w->begun = false;
    }
    if (!w->depth && !w->begun)
        CHECK(sqlite3_get_autocommit(w->db));
}

/* Of a savepoint that is undone the names are undone too: only outside. */
static void rename_one(struct world *w)
{
    char sql[100];
    if (w->begun || w->depth)
        return;
    bool *renamed = one_in(w, 2) ? &w->renamed_v : &w->renamed_o;
    const char *from = renamed == &w->renamed_v ? table_v(w) : table_o(w);
    char was[8];
    snprintf(was, sizeof was, "%s", from);
    *renamed = !*renamed;
    snprintf(sql, sizeof sql, "ALTER TABLE %s RENAME TO %s", was,
             renamed == &w->renamed_v ? table_v(w) : table_o(w));
    must(w, sql);
}

/* ---- Queries --------------------------------------------------------------------------------- */

struct query {
    const char *sql;
    const char *all;    /* over m: every row that matches, nearest first */
    size_t first, most; /* of those: OFFSET, and LIMIT or k */
    bool exact;
    bool cut;      /* k rows by the index, then those within the distance */
    bool streamed; /* may come out of order where the index missed some at first */
};

static size_t find(const struct answer *all, int64_t id)
{
    size_t i = 0;
    while (i < all->n && all->hits[i].id != id)
        i++;
    return i;
}

static void check_rows(struct world *w, const struct query *q, const struct answer *got,
                       const struct answer *all, bool exact)
{
    double tolerance = metric == MN_COSINE ? 1e-5 : 1e-6;
    size_t have = all->n > q->first ? all->n - q->first : 0;
    size_t want = have < q->most ? have : q->most;
    if (got->n > want || (got->n < want && (exact || !q->cut)))
        lost(w, q->sql, "%zu rows, want %zu: %zu match, by\n    %s", got->n, want, all->n, q->all);
    for (size_t i = 0; i < got->n; i++) {
        const struct hit *h = &got->hits[i], *best = &all->hits[q->first + i];
        size_t at = find(all, h->id);
        if (at == all->n)
            lost(w, q->sql, "row %zu: id %" PRId64 " does not match, by\n    %s", i, h->id, q->all);
        double d = all->hits[at].distance;
        if (fabs(d - h->distance) > tolerance * (1 + fabs(d)))
            lost(w, q->sql, "row %zu: id %" PRId64 " is at %.9g, it says %.9g", i, h->id, d,
                 h->distance);
        for (size_t j = 0; j < i; j++)
            if (got->hits[j].id == h->id)
                lost(w, q->sql, "id %" PRId64 " comes twice", h->id);
        bool back = i && h->distance < got->hits[i - 1].distance;
        if (back && (exact || !q->streamed))
            lost(w, q->sql, "row %zu, id %" PRId64 ", is nearer than the one before", i, h->id);
        w->back += back;
        bool same = metric == MN_COSINE ? fabs(d - best->distance) <= tolerance : h->id == best->id;
        if (exact && !same)
            lost(w, q->sql, "row %zu: id %" PRId64 " at %.9g, want %" PRId64 " at %.9g, by\n    %s",
                 i, h->id, h->distance, best->id, best->distance, q->all);
        w->found += d <= all->hits[q->first + got->n - 1].distance + tolerance;
    }
    w->wanted += (double)want;
    w->queries++;
}

static void check(struct world *w, const struct query *q)
{
    static struct answer got, all;
    ask(w, q->all, &all);
    ask(w, q->sql, &got);
    check_rows(w, q, &got, &all, q->exact || !w->indexed);
}

/* "blob or JSON" for the query, and the blob. */
static void query_vector(struct world *w, char *match, char *blob)
{
    float v[DIM];
    random_vector(w, v);
    vector_literal(v, false, blob);
    if (one_in(w, 2))
        vector_literal(v, true, match);
    else
        put(match, LITERAL, 0, "%s", blob);
}

static const char all_format[] =
    "SELECT 0, id, test_distance(e, %s) AS d FROM m WHERE d IS NOT NULL AND (%s) ORDER BY d, id";

/* e MATCH and k, with conditions that are taken over. */
static void query_k(struct world *w, const char *extra, bool exact)
{
    char match[LITERAL], blob[LITERAL], where[PART], sql[SQL_BYTES], all[SQL_BYTES];
    size_t k = below(w, 40);
    query_vector(w, match, blob);
    atoms(w, where);
    snprintf(sql, sizeof sql, "SELECT 0, id, distance FROM %s WHERE e MATCH %s AND k = %zu%s%s",
             table_v(w), match, k, extra, where);
    snprintf(all, sizeof all, all_format, blob, *where ? where + 5 : "1");
    check(w, &(struct query){sql, all, 0, k, exact, false, false});
}

/* Any predicate, with LIMIT and OFFSET. */
static void query_limit(struct world *w)
{
    char match[LITERAL], blob[LITERAL], where[PART], sql[SQL_BYTES], all[SQL_BYTES];
    size_t limit = 1 + below(w, one_in(w, 10) ? 2000 : 40),
           offset = one_in(w, 2) ? 0 : below(w, 30);
    query_vector(w, match, blob);
    any_predicate(w, 0, where);
    bool sorted = one_in(w, 6);
    snprintf(sql, sizeof sql,
             "SELECT 0, id, distance FROM %s WHERE e MATCH %s AND (%s) ORDER BY distance%s LIMIT "
             "%zu OFFSET %zu",
             table_v(w), match, where, sorted ? ", id" : "", limit, offset);
    snprintf(all, sizeof all, all_format, blob, "1");
    snprintf(all, sizeof all, all_format, blob, where);
    check(w, &(struct query){sql, all, offset, limit, false, false, !sorted});
}

/* Bounds of the distance, between the distances that there are. */
static void query_bounds(struct world *w)
{
    char match[LITERAL], blob[LITERAL], where[PART], bounds[200] = "", sql[SQL_BYTES];
    char all[SQL_BYTES], cut[PART + 600];
    size_t k = 1 + below(w, 30);
    double far = metric == MN_COSINE ? test_uniform(&w->rng)
                                     : (double)below(w, 30) - (metric == MN_L2 ? 0 : 200) + 0.4999;
    double near = far - (metric == MN_COSINE ? 0.3 : 5.00003);
    bool upper = one_in(w, 2), lower = !upper || one_in(w, 2), counted = one_in(w, 2);
    query_vector(w, match, blob);
    atoms(w, where);
    size_t n = 0;
    if (upper)
        n = (size_t)snprintf(bounds, sizeof bounds, " AND distance <%s %.8f",
                             one_in(w, 2) ? "=" : "", far);
    if (lower)
        snprintf(bounds + n, sizeof bounds - n, " AND distance >%s %.8f", one_in(w, 2) ? "=" : "",
                 near);
    snprintf(cut, sizeof cut, "d < %.8f AND d > %.8f%s", upper ? far : 1e300, lower ? near : -1e300,
             where);
    n = (size_t)snprintf(sql, sizeof sql, "SELECT 0, id, distance FROM %s WHERE e MATCH %s%s%s",
                         table_v(w), match, bounds, where);
    if (counted)
        snprintf(sql + n, sizeof sql - n, " AND k = %zu", k);
    snprintf(all, sizeof all, all_format, blob, cut);
    check(w, &(struct query){sql, all, 0, counted ? k : MOST_HITS, false, counted && upper, true});
}

/* knn() over the ordinary table, with text of either kind. */
static void query_knn(struct world *w)
{
    char match[LITERAL], blob[LITERAL], where[PART], sql[SQL_BYTES], all[SQL_BYTES];
    const char *collection = "o"; /* a renamed table's keeps its name */
    size_t k = 1 + below(w, 40);
    query_vector(w, match, blob);
    if (one_in(w, 3)) {
        any_predicate(w, 0, where);
    } else {
        char some[PART];
        atoms(w, some);
        snprintf(where, sizeof where, "%s", *some ? some + 5 : "");
    }
    bool exact = one_in(w, 4);
    sqlite3_snprintf(sizeof sql, sql, "SELECT 0, rowid, distance FROM knn('%s', %s, %d, %Q)%s",
                     collection, match, (int)k, where, exact ? " WHERE exact = 1" : "");
    snprintf(all, sizeof all, all_format, blob, *where ? where : "1");
    check(w, &(struct query){sql, all, 0, k, exact, false, false});
}

/* Several queries in one statement. */
static void query_join(struct world *w)
{
    static struct answer got, all, part;
    char where[PART], sql[SQL_BYTES], text[SQL_BYTES];
    size_t k = 1 + below(w, 10);
    atoms(w, where);
    snprintf(sql, sizeof sql,
             "SELECT number, id, distance FROM ask, %s WHERE e MATCH vector AND k = %zu%s "
             "ORDER BY number, distance, id",
             table_v(w), k, where);
    ask(w, sql, &got);
    for (int64_t n = 0; n < 3; n++) {
        part.n = 0;
        for (size_t i = 0; i < got.n; i++)
            if (got.hits[i].group == n)
                part.hits[part.n++] = got.hits[i];
        snprintf(text, sizeof text,
                 "SELECT 0, id, test_distance(e, (SELECT vector FROM ask WHERE number = %d)) AS d "
                 "FROM m WHERE "
                 "d IS NOT NULL%s ORDER BY d, id",
                 (int)n, where);
        ask(w, text, &all);
        check_rows(w, &(struct query){sql, text, 0, k, false, false, false}, &part, &all,
                   !w->indexed);
    }
}

/* With k, what SQLite keeps is checked on the k rows. */
static void query_k_hard(struct world *w)
{
    char match[LITERAL], blob[LITERAL], where[PART], sql[SQL_BYTES], all[SQL_BYTES];
    size_t k = 1 + below(w, 30);
    query_vector(w, match, blob);
    atoms(w, where);
    snprintf(sql, sizeof sql,
             "SELECT 0, id, distance FROM %s WHERE e MATCH %s AND k = %zu%s AND exact = 1 AND "
             "(i + 0) %% 2 = 0",
             table_v(w), match, k, where);
    snprintf(all, sizeof all,
             "SELECT 0, id, d FROM (SELECT id, i, test_distance(e, %s) AS d FROM m WHERE d IS NOT "
             "NULL%s ORDER BY d, id LIMIT %zu) WHERE (i + 0) %% 2 = 0 ORDER BY d, id",
             blob, where, k);
    check(w, &(struct query){sql, all, 0, k, true, false, false});
}

/* Words, beside a vector or alone. */
static void query_words(struct world *w)
{
    static struct answer got, all;
    char match[LITERAL], blob[LITERAL], where[PART], sql[SQL_BYTES], text[SQL_BYTES];
    char words[100], same[100];
    size_t k = 1 + below(w, 30), a = below(w, 6), b = below(w, 6);
    query_vector(w, match, blob);
    atoms(w, where);
    put(words, sizeof words, 0, "words MATCH 'aux%zu OR aux%zu'", a, b);
    put(same, sizeof same, 0, "a IN ('aux%zu', 'aux%zu')", a, b);
    if (one_in(w, 2)) {
        put(sql, sizeof sql, 0,
            "SELECT 0, id, distance FROM %s WHERE e MATCH %s AND k = %zu AND %s%s", table_v(w),
            match, k, words, where);
        put(text, sizeof text, 0,
            "SELECT 0, id, test_distance(e, %s) AS d FROM m WHERE d IS NOT NULL AND %s%s ORDER BY "
            "d, "
            "id",
            blob, same, where);
        check(w, &(struct query){sql, text, 0, k, false, false, false});
        return;
    }
    any_predicate(w, 0, where);
    put(sql, sizeof sql, 0, "SELECT length(e), id, r FROM %s WHERE %s AND (%s) ORDER BY id",
        table_v(w), words, where);
    put(text, sizeof text, 0, "SELECT length(e), id, r FROM m WHERE %s AND (%s) ORDER BY id", same,
        where);
    ask(w, sql, &got);
    ask(w, text, &all);
    if (got.n != all.n || memcmp(got.hits, all.hits, got.n * sizeof *got.hits) != 0)
        lost(w, sql, "%zu rows, or other ones; the plain table %zu", got.n, all.n);
    w->queries++;
}

/* The rows as a table. */
static void query_rows(struct world *w)
{
    static struct answer got, all;
    char where[PART], sql[SQL_BYTES], text[SQL_BYTES];
    any_predicate(w, 0, where);
    snprintf(sql, sizeof sql, "SELECT length(e), id, r FROM %s WHERE %s ORDER BY id", table_v(w),
             where);
    snprintf(text, sizeof text, "SELECT length(e), id, r FROM m WHERE %s ORDER BY id", where);
    ask(w, sql, &got);
    ask(w, text, &all);
    if (got.n != all.n || memcmp(got.hits, all.hits, got.n * sizeof *got.hits) != 0)
        lost(w, sql, "%zu rows, or other ones; the plain table %zu", got.n, all.n);
    w->queries++;
}

/* What a search finds is changed. */
static void change_near(struct world *w)
{
    char match[LITERAL], blob[LITERAL], where[PART], sql[SQL_BYTES * 2], of_m[SQL_BYTES];
    size_t k = 1 + below(w, 5);
    query_vector(w, match, blob);
    atoms(w, where);
    snprintf(of_m, sizeof of_m,
             "id IN (SELECT id FROM (SELECT id, test_distance(e, %s) AS d FROM m WHERE d IS NOT "
             "NULL%s ORDER BY d, id LIMIT %zu))",
             blob, where, k);
    char quoted[PART * 2];
    sqlite3_snprintf(sizeof quoted, quoted, "%Q", *where ? where + 5 : "");
    if (strchr(where, '|') || strchr(where, '{'))
        return;
    snprintf(
        sql, sizeof sql,
        "%s WHERE {e MATCH %s AND k = %zu AND exact = 1%s|id IN (SELECT rowid FROM knn('o', %s,"
        " %zu, %s) WHERE exact = 1)|%s}",
        one_in(w, 3) ? "DELETE FROM $" : "UPDATE $ SET i = 6, x = 'near'", match, k, where, match,
        k, quoted, of_m);
    if (metric != MN_COSINE) /* ties by rounding */
        change(w, sql);
}

/* ---- Worlds ---------------------------------------------------------------------------------- */

static void open_world(struct world *w)
{
    w->db = steps_open(w->path);
    CHECK_EQ(sqlite3_create_function(w->db, "test_distance", 2, SQLITE_UTF8 | SQLITE_DETERMINISTIC,
                                     NULL, call_distance, NULL, NULL),
             SQLITE_OK);
    w->depth = 0;
    w->begun = false;
}

static void make_world(struct world *w, uint64_t seed)
{
    static const char *const names[] = {"l2", "ip", "cosine"};
    static const mn_metric metrics[] = {MN_L2, MN_IP, MN_COSINE};
    char sql[1000];
    *w = (struct world){.seed = seed, .rng = {seed * 2654435761 + 1}};
    test_rand(&w->rng);
    size_t which = seed % 3;
    metric = metrics[which];
    w->indexed = seed % 2;
    w->ids = w->indexed ? 1500 : 100;
    char name[40];
    snprintf(name, sizeof name, "world%" PRIu64 ".db", seed);
    snprintf(w->path, sizeof w->path, "%s", test_path(name));
    const mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND, .durability = MN_RELAXED};
    struct db_stage stage = {.limits = INDEXED_LIMITS};
    CHECK_OK(db_open_on(w->path, &opts, &stage, &w->keeper, &err), err);
    open_world(w);
    must(w, "PRAGMA synchronous = OFF");
    snprintf(sql, sizeof sql,
             "CREATE VIRTUAL TABLE v USING mneme(id INTEGER PRIMARY KEY, e float[8] metric=%s, i "
             "INTEGER, r REAL, x TEXT, j JSON, n, u TEXT UNIQUE, +a TEXT, words FTS(a))",
             names[which]);
    must(w, sql);
    must(w,
         "CREATE TABLE o(id INTEGER PRIMARY KEY, e, i INTEGER, r REAL, x TEXT, j JSON, n, u TEXT "
         "UNIQUE, a TEXT)");
    must(w,
         "CREATE TABLE m(id INTEGER PRIMARY KEY, e, i INTEGER, r REAL, x TEXT, j JSON, n, u TEXT "
         "UNIQUE, a TEXT)");
    must(w, "CREATE TABLE p(n INTEGER PRIMARY KEY, word)");
    must(w, "INSERT INTO p VALUES (1, 'a'), (2, '2'), (3, 3), (5, NULL), (7, 'A')");
    must(w, "CREATE TABLE ask(number INTEGER PRIMARY KEY, vector)");
    snprintf(sql, sizeof sql, "SELECT mneme_index('o', 'e', 'dim=8 metric=%s filter=i,r,x,j,n')",
             names[which]);
    must(w, sql);
    for (int i = 0; i < 3; i++) {
        char match[LITERAL], blob[LITERAL];
        query_vector(w, match, blob);
        snprintf(sql, sizeof sql, "INSERT INTO ask VALUES (%d, %s)", i, blob);
        must(w, sql);
    }
    must(w, "BEGIN");
    for (size_t i = w->indexed ? 400 : 5; i > 0; i--)
        insert_rows(w, 1 + below(w, 6), true);
    must(w, "COMMIT");
}

static void fold(struct world *w)
{
    if (!w->indexed || w->begun || w->depth)
        return;
    must(w, "SELECT mneme_fold('o')");
    char sql[64];
    snprintf(sql, sizeof sql, "SELECT mneme_fold('%s')", table_v(w));
    must(w, sql);
    snprintf(sql, sizeof sql, "SELECT '%s', mneme_stats('%s') ->> 'indexed'", table_v(w),
             table_v(w));
    w->folded += strstr(steps_ask(w->db, sql), "|1") != NULL;
}

static void reopen(struct world *w)
{
    if (w->begun || w->depth)
        return;
    steps_close(w->db);
    open_world(w);
}

static void step(struct world *w)
{
    switch (below(w, 30)) {
    case 0:
    case 1:
        insert_rows(w, 1 + below(w, 5), false);
        break;
    case 2:
    case 3:
        update_rows(w);
        break;
    case 4:
        delete_rows(w);
        break;
    case 5:
    case 6:
    case 7:
        transaction(w);
        break;
    case 8:
        change_near(w);
        break;
    case 9:
        if (one_in(w, 4))
            rename_one(w);
        break;
    case 10:
        if (one_in(w, 4))
            reopen(w);
        break;
    case 11:
        if (one_in(w, 4))
            fold(w);
        break;
    case 12:
        query_words(w);
        break;
    case 13:
        query_rows(w);
        break;
    case 14:
    case 15:
    case 16:
        query_limit(w);
        break;
    case 17:
    case 18:
        query_bounds(w);
        break;
    case 19:
    case 20:
        query_join(w);
        break;
    case 21:
        query_k_hard(w);
        break;
    case 22:
    case 23:
    case 24:
        query_knn(w);
        break;
    case 25:
        query_k(w, " AND exact = 1", true);
        break;
    case 26:
        query_k(w, " AND recall = 0.9", false);
        break;
    default:
        query_k(w, "", false);
    }
}

static void end_world(struct world *w)
{
    if (w->begun || w->depth)
        must(w, "COMMIT");
    w->begun = false;
    w->depth = 0;
    char sql[400];
    snprintf(sql, sizeof sql, "UPDATE %s SET e = NULL WHERE e = 'no vector'", table_o(w));
    must(w, sql);
    fold(w); /* two renames in a row may have cost an index: docs/decisions.md */
    STEP(w->db, "SELECT mneme_verify()", "ok");
    for (int which = 0; which < 2; which++) {
        const char *name = which ? table_o(w) : table_v(w);
        snprintf(
            sql, sizeof sql,
            "SELECT count(*) FROM (SELECT id, i, r, x, j, n, u, a FROM %s EXCEPT "
            "SELECT id, i, r, x, j, n, u, a FROM m UNION ALL SELECT id, i, r, x, j, n, u, a FROM "
            "m EXCEPT SELECT id, i, r, x, j, n, u, a FROM %s)",
            name, name);
        STEP(w->db, sql, "0");
    }
    snprintf(sql, sizeof sql, "DROP TABLE %s", table_v(w));
    must(w, sql);
    snprintf(sql, sizeof sql, "SELECT mneme_unindex('%s')", table_o(w));
    must(w, sql);
    STEP(w->db, "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'", "0");
    steps_close(w->db);
    CHECK_OK(mn_close(w->keeper, &err), err);
}

static void play(uint64_t seed, size_t steps, struct world *w)
{
    make_world(w, seed);
    fold(w);
    for (size_t i = 0; i < steps; i++)
        step(w);
    end_world(w);
}

TEST(statements_give_what_a_plain_table_gives)
{
    static struct world w;
    uint64_t queries = 0, back = 0, folded = 0;
    double found = 0, wanted = 0;
    const char *only = getenv("SEED");
    uint64_t first = only ? strtoull(only, NULL, 10) : 1, worlds = only ? 1 : test_budget(10);
    for (uint64_t seed = first; seed < first + worlds; seed++) {
        play(seed, 300, &w);
        queries += w.queries;
        if (!w.indexed)
            continue;
        back += w.back;
        folded += w.folded;
        found += w.found;
        wanted += w.wanted;
    }
    test_note("%" PRIu64 " queries; with an index %.3f of the nearest found, %" PRIu64
              " rows after farther ones, %" PRIu64 " folds",
              queries, wanted > 0 ? found / wanted : 1, back, folded);
    CHECK(only || folded > 0);
    CHECK(found >= 0.95 * wanted);
}

TEST_MAIN
