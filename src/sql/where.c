#include "src/sql/where.h"

#include <ctype.h>
#include <string.h>

#include "src/sql/value.h"
#include "storage/base/error.h"
#include "storage/sql.h"

void where_fini(struct where *w)
{
    for (size_t i = 0; i < w->n_values; i++)
        sqlite3_value_free(w->kept[i]);
    for (size_t i = 0; i < w->n; i++)
        sqlite3_free(w->names[i]);
    sqlite3_free(w->names);
    sqlite3_free(w->conditions);
    sqlite3_free(w->values);
    sqlite3_free(w->kept);
    sqlite3_free(w->ids);
    *w = (struct where){0};
}

/* ---- Conditions ------------------------------------------------------------------------------ */

enum { MOST_CONDITIONS = 64, MOST_VALUES = 4096 };

enum token_kind { TOKEN_END, TOKEN_NAME, TOKEN_LITERAL, TOKEN_OP, TOKEN_OTHER };

struct token {
    enum token_kind kind;
    const char *text;
    size_t len;
    bool quoted; /* a name in double quotes, which text and len are without */
};

/* Everything that leaves this grammar ends the reading with false: SQLite does it then. */
struct reader {
    mn_conn *conn;
    struct coll *c;
    const char *p;
    struct token t; /* the current one */
    struct where *out;
    sqlite3_stmt *literal; /* SELECT the literal being read: its value is SQLite's */
    bool no_memory;
};

static bool is_name(int c)
{
    return isalnum(c) || c == '_' || c == '$' || c >= 0x80;
}

static const char *skip_quoted(const char *p, char quote)
{
    for (p++; *p; p++) {
        if (*p == quote && p[1] == quote)
            p++;
        else if (*p == quote)
            return p + 1;
    }
    return NULL;
}

/* A number as SQL writes it: digits, a point, an exponent, or 0x. */
static const char *skip_number(const char *p)
{
    while (isalnum((unsigned char)*p) || *p == '.' ||
           ((*p == '+' || *p == '-') && (p[-1] == 'e' || p[-1] == 'E')))
        p++;
    return p;
}

static void advance(struct reader *r)
{
    const char *p = r->p, *end = NULL;
    struct token *t = &r->t;
    while (isspace((unsigned char)*p))
        p++;
    *t = (struct token){.kind = TOKEN_OTHER, .text = p};
    unsigned char c = (unsigned char)*p;
    if (!c) {
        t->kind = TOKEN_END;
        end = p;
    } else if ((c == 'x' || c == 'X') && p[1] == '\'') {
        t->kind = TOKEN_LITERAL;
        end = skip_quoted(p + 1, '\'');
    } else if (c == '"') {
        end = skip_quoted(p, '"');
        t->kind = TOKEN_NAME;
        t->quoted = true;
    } else if (c == '\'') {
        t->kind = TOKEN_LITERAL;
        end = skip_quoted(p, '\'');
    } else if (isdigit(c) || (c == '.' && isdigit((unsigned char)p[1])) ||
               ((c == '-' || c == '+') && isdigit((unsigned char)p[1]))) {
        t->kind = TOKEN_LITERAL;
        end = skip_number(p + 1);
    } else if (is_name(c)) {
        t->kind = TOKEN_NAME;
        for (end = p; is_name((unsigned char)*end);)
            end++;
    } else if (strchr("<>=!", c)) {
        t->kind = TOKEN_OP;
        end = p + strspn(p, "<>=!");
    } else if (c == '(' || c == ')' || c == ',') {
        t->kind = TOKEN_OP;
        end = p + 1;
    }
    if (!end) { /* a comment, a parameter, arithmetic, or no SQL */
        t->kind = TOKEN_OTHER;
        end = p + strlen(p);
    }
    t->len = (size_t)(end - p);
    if (t->quoted && t->len >= 2) {
        t->text++;
        t->len -= 2;
    }
    r->p = end;
}

static bool is(const struct reader *r, const char *word)
{
    const struct token *t = &r->t;
    return (t->kind == TOKEN_NAME || t->kind == TOKEN_OP) && !t->quoted && t->len == strlen(word) &&
           sqlite3_strnicmp(t->text, word, (int)t->len) == 0;
}

static bool expect(struct reader *r, const char *word)
{
    if (!is(r, word))
        return false;
    advance(r);
    return true;
}

/* The attribute that the current token names, or NULL. "id" is one; *affinity is its column's. A
 * column that does not compare bytewise is left to SQLite. */
static const char *attribute(struct reader *r, enum affinity *affinity)
{
    const char *type = NULL, *collation = NULL, *name = NULL;
    const struct catalog_entry *e = &r->c->entry;
    if (r->t.kind != TOKEN_NAME)
        return NULL;
    for (size_t i = 0; i < r->c->n_attrs && !name; i++)
        if (strlen(r->c->attrs[i]) == r->t.len &&
            sqlite3_strnicmp(r->c->attrs[i], r->t.text, (int)r->t.len) == 0)
            name = r->c->attrs[i];
    if (!name || sqlite3_table_column_metadata(r->conn->sql, "main", e->table, name, &type,
                                               &collation, NULL, NULL, NULL) != SQLITE_OK)
        return NULL;
    if (collation && sqlite3_stricmp(collation, "BINARY") != 0)
        return NULL;
    *affinity = affinity_of(type ? type : "", type ? strlen(type) : 0);
    return name;
}

static bool add_value(struct reader *r, sqlite3_value *v, enum affinity affinity)
{
    struct where *w = r->out;
    if (w->n_values == MOST_VALUES)
        return false;
    sqlite3_value *copy = sqlite3_value_dup(v);
    r->no_memory = !copy;
    if (!copy)
        return false;
    w->kept[w->n_values] = copy;
    w->values[w->n_values++] = value_under(copy, affinity);
    return true;
}

/* A literal: SQLite itself says what it is worth. */
static bool literal(struct reader *r, enum affinity affinity)
{
    sqlite3_stmt *st = NULL;
    if (r->t.kind != TOKEN_LITERAL && !is(r, "NULL"))
        return false;
    char *sql = sqlite3_mprintf("SELECT %.*s", (int)r->t.len, r->t.text);
    r->no_memory = !sql;
    bool good = sql && sqlite3_prepare_v2(r->conn->sql, sql, -1, &st, NULL) == SQLITE_OK &&
                sqlite3_step(st) == SQLITE_ROW &&
                add_value(r, sqlite3_column_value(st, 0), affinity);
    sqlite3_finalize(st);
    sqlite3_free(sql);
    if (good)
        advance(r);
    return good;
}

static bool add(struct reader *r, const char *name, mn_op op, size_t first_value)
{
    struct where *w = r->out;
    if (w->n == MOST_CONDITIONS)
        return false;
    char *copy = sqlite3_mprintf("%s", name);
    r->no_memory = !copy;
    if (!copy)
        return false;
    w->names[w->n] = copy;
    w->conditions[w->n++] = (mn_condition){.attribute = copy,
                                           .op = op,
                                           .values = w->values + first_value,
                                           .n_values = w->n_values - first_value};
    return true;
}

static bool comparison(struct reader *r, const char *name, enum affinity affinity)
{
    static const struct {
        const char *word;
        mn_op op;
    } ops[] = {{"=", MN_OP_EQ}, {"==", MN_OP_EQ}, {"<>", MN_OP_NE}, {"!=", MN_OP_NE},
               {"<", MN_OP_LT}, {"<=", MN_OP_LE}, {">", MN_OP_GT},  {">=", MN_OP_GE}};
    size_t first = r->out->n_values;
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (is(r, ops[i].word)) {
            advance(r);
            return literal(r, affinity) && add(r, name, ops[i].op, first);
        }
    return false;
}

static bool in_list(struct reader *r, const char *name, enum affinity affinity)
{
    size_t first = r->out->n_values;
    if (!expect(r, "("))
        return false;
    do {
        if (!literal(r, affinity))
            return false;
    } while (expect(r, ","));
    return expect(r, ")") && add(r, name, MN_OP_IN, first);
}

static bool between(struct reader *r, const char *name, enum affinity affinity)
{
    size_t first = r->out->n_values;
    if (!literal(r, affinity) || !expect(r, "AND") || !add(r, name, MN_OP_GE, first))
        return false;
    first = r->out->n_values;
    return literal(r, affinity) && add(r, name, MN_OP_LE, first);
}

static bool is_null(struct reader *r, const char *name)
{
    mn_op op = expect(r, "NOT") ? MN_OP_NOT_NULL : MN_OP_IS_NULL;
    return expect(r, "NULL") && add(r, name, op, r->out->n_values);
}

static bool contains(struct reader *r)
{
    enum affinity affinity;
    size_t first = r->out->n_values;
    if (!expect(r, "("))
        return false;
    const char *name = attribute(r, &affinity);
    if (!name)
        return false;
    advance(r);
    return expect(r, ",") && literal(r, AFFINITY_BLOB) && expect(r, ")") &&
           add(r, name, MN_OP_CONTAINS, first);
}

static bool condition(struct reader *r)
{
    enum affinity affinity = AFFINITY_BLOB;
    if (expect(r, "json_contains"))
        return contains(r);
    const char *name = attribute(r, &affinity);
    if (!name)
        return false;
    advance(r);
    if (expect(r, "IN"))
        return in_list(r, name, affinity);
    if (expect(r, "BETWEEN"))
        return between(r, name, affinity);
    if (expect(r, "IS"))
        return is_null(r, name);
    return comparison(r, name, affinity);
}

/* False: the text is not of this grammar, or memory ran out. */
static bool read_conditions(struct reader *r)
{
    do {
        if (!condition(r))
            return false;
    } while (expect(r, "AND"));
    return r->t.kind == TOKEN_END;
}

/* ---- Ids ------------------------------------------------------------------------------------- */

static mn_status read_ids(mn_conn *conn, const struct coll *c, const char *text, struct where *out,
                          mn_error *err)
{
    sqlite3_stmt *st = NULL;
    const char *tail = NULL;
    size_t cap = 1024;
    int rc;
    char *sql = sqlite3_mprintf("SELECT \"%w\" FROM main.\"%w\" WHERE (%s\n)", c->entry.id_column,
                                c->entry.table, text);
    out->ids = sqlite3_malloc64(cap * sizeof *out->ids);
    rc = sql && out->ids ? sqlite3_prepare_v2(conn->sql, sql, -1, &st, &tail) : SQLITE_NOMEM;
    const char *wrong = NULL;
    if (rc == SQLITE_OK && (!sqlite3_stmt_readonly(st) || (tail && *tail)))
        wrong = "that is more than an expression";
    else if (rc == SQLITE_OK && sqlite3_bind_parameter_count(st))
        wrong = "there is a parameter in it, which has no value here: write the value, as with "
                "format('lang = %Q', :lang)";
    if (wrong)
        rc = SQLITE_ERROR;
    while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        if (out->n_ids == cap) {
            int64_t *more = sqlite3_realloc64(out->ids, 2 * cap * sizeof *more);
            if (!more) {
                rc = SQLITE_NOMEM;
                break;
            }
            out->ids = more;
            cap *= 2;
        }
        out->ids[out->n_ids++] = sqlite3_column_int64(st, 0);
        rc = SQLITE_OK;
    }
    mn_status status = rc == SQLITE_DONE    ? MN_OK
                       : rc == SQLITE_NOMEM ? mn_fail(err, MN_NOMEM, "where: out of memory")
                       : rc == SQLITE_INTERRUPT
                           ? mn_fail(err, MN_INTERRUPTED, "interrupted")
                           : mn_fail(err, MN_INVALID, "where '%.200s': %s", text,
                                     wrong ? wrong : sqlite3_errmsg(conn->sql));
    sqlite3_finalize(st);
    sqlite3_free(sql);
    return status;
}

mn_status where_read(mn_conn *conn, struct coll *c, const char *text, struct where *out,
                     mn_error *err)
{
    struct reader r = {.conn = conn, .c = c, .p = text, .out = out};
    *out = (struct where){0};
    if (!text || text[strspn(text, " \t\r\n")] == 0)
        return MN_OK;
    out->conditions = sqlite3_malloc64(MOST_CONDITIONS * sizeof *out->conditions);
    out->names = sqlite3_malloc64(MOST_CONDITIONS * sizeof *out->names);
    out->values = sqlite3_malloc64(MOST_VALUES * sizeof *out->values);
    out->kept = sqlite3_malloc64(MOST_VALUES * sizeof *out->kept);
    mn_status st = MN_OK;
    if (!out->conditions || !out->names || !out->values || !out->kept)
        st = mn_fail(err, MN_NOMEM, "where: out of memory");
    advance(&r);
    if (st == MN_OK && !read_conditions(&r)) {
        where_fini(out);
        st = r.no_memory ? mn_fail(err, MN_NOMEM, "where: out of memory")
                         : read_ids(conn, c, text, out, err);
    }
    if (st)
        where_fini(out);
    return st;
}
