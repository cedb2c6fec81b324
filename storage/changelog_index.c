/*
 * The condition of one unique index over columns a and b:
 *
 *   ("a" = NEW."a" COLLATE "BINARY" AND "b" = NEW."b" COLLATE "NOCASE")
 *
 * Where a column may not be NULL and has a default, REPLACE puts that: ifnull(NEW."a", (default)).
 * An expression stands in no pragma: it is cut out of the text of CREATE INDEX, where it names
 * columns without a table. For the row NEW the same words are read in a place where those names are
 * NEW's:
 *
 *   (lower(a)) = (SELECT lower(a) FROM (SELECT NEW."a" AS "a")) COLLATE "BINARY"
 *
 * A partial index holds rows that meet its own condition, which follows as it is: with it SQLite
 * can use the index, without it each insert would read the whole table.
 */
#include "storage/changelog_index.h"

#include <string.h>

#include "storage/base/error.h"
#include "storage/sql.h"

/* ---- The text of CREATE INDEX ---------------------------------------------------------------- */

struct token {
    const char *text;
    size_t len; /* 0: the end */
};

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == '$' || (unsigned char)c >= 0x80;
}

/* Behind blanks and comments. */
static const char *skip_blanks(const char *p)
{
    for (;;) {
        const char *end = NULL;
        if (*p && strchr(" \t\r\n\f", *p))
            end = p + 1;
        else if (p[0] == '-' && p[1] == '-')
            end = strchr(p, '\n') ? strchr(p, '\n') : p + strlen(p);
        else if (p[0] == '/' && p[1] == '*')
            end = strstr(p + 2, "*/") ? strstr(p + 2, "*/") + 2 : p + strlen(p);
        if (!end)
            return p;
        p = end;
    }
}

/* The token at *p, which moves behind it: a word, a text in quotes, or one character. */
static struct token next_token(const char **p)
{
    const char *s = skip_blanks(*p), *e = s;
    if (*s && strchr("\"'`[", *s)) {
        char close = *s == '[' ? ']' : *s;
        for (e = s + 1; *e; e++) {
            if (*e == close && (close == ']' || e[1] != close))
                break;
            e += *e == close;
        }
        e += *e != '\0';
    } else if (is_word(*s)) {
        while (is_word(*e))
            e++;
    } else if (*s) {
        e++;
    }
    *p = e;
    return (struct token){s, (size_t)(e - s)};
}

static bool token_is(struct token t, const char *word)
{
    return strlen(word) == t.len && sqlite3_strnicmp(t.text, word, (int)t.len) == 0;
}

/* Whether the token is that name, in quotes of any kind or none. */
static bool token_names(struct token t, const char *name)
{
    size_t i = 1, n = strlen(name), at = 0;
    if (!strchr("\"`[", *t.text))
        return token_is(t, name);
    for (; i + 1 < t.len && at < n; i++, at++) {
        if (sqlite3_strnicmp(&t.text[i], &name[at], 1) != 0)
            return false;
        i += t.text[i] == *t.text && *t.text != '[';
    }
    return at == n && i + 1 == t.len;
}

/* One term of the index, or its condition: a piece of the text. */
struct piece {
    const char *text;
    size_t len;
};

/* Term number `at` between the parentheses, without ASC or DESC, or with at < 0 what follows WHERE;
 * len 0: there is none. */
static struct piece find_piece(const char *sql, int at)
{
    int depth = 0, term = 0;
    struct piece found = {NULL, 0};
    const char *p = sql;
    for (struct token t = next_token(&p); t.len; t = next_token(&p)) {
        bool inside = depth > 0;
        depth += token_is(t, "(") ? 1 : token_is(t, ")") ? -1 : 0;
        if (inside && depth == 0 && at >= 0)
            break; /* the list's end */
        if (inside && depth == 1 && token_is(t, ",")) {
            term++;
        } else if (inside && term == at && !token_is(t, "asc") && !token_is(t, "desc")) {
            found.text = found.text ? found.text : t.text;
            found.len = (size_t)(t.text + t.len - found.text);
        } else if (!inside && depth == 0 && at < 0 && token_is(t, "where")) {
            found.text = skip_blanks(p);
            for (t = next_token(&p); t.len; t = next_token(&p))
                found.len = (size_t)(t.text + t.len - found.text);
            break;
        }
    }
    return found;
}

/* Whether the piece names the column. */
static bool piece_names(struct piece s, const char *column)
{
    const char *p = s.text;
    while (s.text && p < s.text + s.len) {
        struct token t = next_token(&p);
        if (t.len == 0 || t.text >= s.text + s.len)
            break;
        if (token_names(t, column))
            return true;
    }
    return false;
}

/* ---- Conditions ------------------------------------------------------------------------------ */

/* What stands in the column `name` of the row that will be there. */
static void append_new(sqlite3_str *out, const char *name, const char *otherwise)
{
    if (otherwise)
        sqlite3_str_appendf(out, "ifnull(NEW.\"%w\", (%s))", name, otherwise);
    else
        sqlite3_str_appendf(out, "NEW.\"%w\"", name);
}

/* Appends `(SELECT NEW."a" AS "a", ...)`: those columns of the row that the piece names. *unknown:
 * a key is among them. */
static mn_status append_row(sqlite3 *db, const char *name, struct piece piece, sqlite3_str *out,
                            bool *unknown, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false, first = true;
    *unknown =
        piece_names(piece, "rowid") || piece_names(piece, "oid") || piece_names(piece, "_rowid_");
    mn_status status = sql_preparef(db, &st, err,
                                    "SELECT name, iif(\"notnull\", dflt_value, NULL), pk FROM "
                                    "pragma_table_xinfo(%Q, 'main') WHERE hidden <> 1",
                                    name);
    sqlite3_str_appendall(out, "(SELECT ");
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        const char *column = (const char *)sqlite3_column_text(st, 0);
        if (!column || !piece_names(piece, column))
            continue;
        *unknown = *unknown || sqlite3_column_int(st, 2) > 0;
        sqlite3_str_appendall(out, first ? "" : ", ");
        append_new(out, column, (const char *)sqlite3_column_text(st, 1));
        sqlite3_str_appendf(out, " AS \"%w\"", column);
        first = false;
    }
    sqlite3_str_appendall(out, first ? "1)" : ")");
    sqlite3_finalize(st);
    return status;
}

/* Appends the condition of a term that is an expression. */
static mn_status append_expression(sqlite3 *db, const char *name, struct piece term,
                                   const char *collation, sqlite3_str *out, bool *plain,
                                   mn_error *err)
{
    bool unknown = false;
    if (!term.len) {
        *plain = false;
        sqlite3_str_appendall(out, "0");
        return MN_OK;
    }
    sqlite3_str_appendf(out, "(%.*s) = (SELECT %.*s FROM ", (int)term.len, term.text, (int)term.len,
                        term.text);
    mn_status st = append_row(db, name, term, out, &unknown, err);
    sqlite3_str_appendf(out, ") COLLATE \"%w\"", collation);
    *plain = *plain && !unknown;
    return st;
}

/* One unique index, `sql` NULL: of a constraint. */
static mn_status append_index(sqlite3 *db, const char *name, const char *index, const char *sql,
                              sqlite3_str *out, bool *plain, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false, first = true;
    struct piece where = {NULL, 0};
    mn_status status = sql_preparef(
        db, &st, err,
        "SELECT x.name, x.coll, c.dflt_value FROM pragma_index_xinfo(%Q, 'main') x LEFT JOIN "
        "pragma_table_xinfo(%Q, 'main') c ON c.cid = x.cid AND c.\"notnull\" WHERE x.key = 1",
        index, name);
    for (int term = 0; status == MN_OK; term++) {
        status = sql_step(st, &row, err);
        if (status || !row)
            break;
        const char *column = (const char *)sqlite3_column_text(st, 0);
        const char *collation = (const char *)sqlite3_column_text(st, 1);
        collation = collation ? collation : "BINARY";
        sqlite3_str_appendall(out, first ? "(" : " AND ");
        first = false;
        if (!column) {
            struct piece piece = sql ? find_piece(sql, term) : where;
            status = append_expression(db, name, piece, collation, out, plain, err);
            continue;
        }
        sqlite3_str_appendf(out, "\"%w\" = ", column);
        append_new(out, column, (const char *)sqlite3_column_text(st, 2));
        sqlite3_str_appendf(out, " COLLATE \"%w\"", collation);
    }
    if (sql)
        where = find_piece(sql, -1);
    if (where.len)
        sqlite3_str_appendf(out, " AND (%.*s)", (int)where.len, where.text);
    sqlite3_str_appendall(out, first ? "(0)" : ")");
    sqlite3_finalize(st);
    return status;
}

mn_status changelog_append_conflicts(sqlite3 *db, const char *name, sqlite3_str *out, int *n,
                                     bool *plain, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    *n = 0;
    *plain = true;
    mn_status status =
        sql_preparef(db, &st, err,
                     "SELECT l.name, m.sql FROM pragma_index_list(%Q, 'main') l LEFT JOIN "
                     "sqlite_master m ON m.type = 'index' AND m.name = l.name WHERE l.\"unique\" = "
                     "1 ORDER BY l.name",
                     name);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        if ((*n)++)
            sqlite3_str_appendall(out, " OR ");
        status = append_index(db, name, (const char *)sqlite3_column_text(st, 0),
                              (const char *)sqlite3_column_text(st, 1), out, plain, err);
    }
    sqlite3_finalize(st);
    return status;
}

mn_status changelog_append_unique(sqlite3 *db, const char *name, sqlite3_str *out, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false, first = true, all = false;
    /* A column that is computed, an expression or a condition depends on others. Those come first.
     */
    mn_status status = sql_preparef(
        db, &st, err,
        "SELECT DISTINCT c.name, c.name IS NULL OR c.hidden OR l.partial AS other FROM "
        "pragma_index_list(%Q, 'main') l JOIN pragma_index_xinfo(l.name, 'main') x LEFT JOIN "
        "pragma_table_xinfo(%Q, 'main') c ON c.cid = x.cid WHERE l.\"unique\" = 1 AND x.key = 1 "
        "ORDER BY other DESC, c.cid",
        name, name);
    while (status == MN_OK && !all && (status = sql_step(st, &row, err)) == MN_OK && row) {
        all = sqlite3_column_int(st, 1) != 0;
        if (!all)
            sqlite3_str_appendf(out, "%s\"%w\"", first ? " OF " : ", ",
                                (const char *)sqlite3_column_text(st, 0));
        first = false;
    }
    sqlite3_finalize(st);
    return status;
}
