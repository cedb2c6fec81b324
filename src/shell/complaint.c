/* What is wrong with a statement: SQLite's sentence, the line with a mark under the place, and the
 * nearest name where one was mistyped. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "src/shell/repl.h"
#include "src/shell/sqltext.h"

/* ---- The line and the mark ------------------------------------------------------------------ */

/* Cuts sql[start, end) around `at` to what a terminal line holds. */
static void excerpt(const char *sql, size_t *start, size_t *end, size_t at)
{
    enum { BEFORE = 50, MOST = 76 };
    if (at != SIZE_MAX && at > *start + BEFORE + 10) {
        *start = at - BEFORE;
        while (*start < at && (sql[*start] & 0xc0) == 0x80)
            ++*start;
    }
    if (*end > *start + MOST) {
        *end = *start + MOST;
        while (*end > *start && (sql[*end] & 0xc0) == 0x80)
            --*end;
    }
}

/* The line of sql that holds byte `at`, and a mark under it. */
static void show_place(const char *sql, size_t len, size_t at, bool mark)
{
    size_t start = at < len ? at : len, end;
    while (start > 0 && sql[start - 1] != '\n')
        start--;
    const char *stop = memchr(sql + start, '\n', len - start);
    end = stop ? (size_t)(stop - sql) : len;
    size_t line_start = start, line_end = end;
    excerpt(sql, &start, &end, mark ? at : SIZE_MAX);
    struct text line = {0}, before = {0};
    text_puts(&line, start > line_start ? "…" : "");
    text_visible(&line, sql + start, end - start, 0);
    text_puts(&line, end < line_end ? "…" : "");
    fprintf(stderr, "  %s\n", line.data);
    if (mark) {
        text_puts(&before, start > line_start ? "…" : "");
        text_visible(&before, sql + start, (at < end ? at : end) - start, 0);
        fprintf(stderr, "  %*s%s^%s\n", (int)text_width(before.data, before.len), "",
                err_colour(COLOUR_RED), err_colour(COLOUR_NONE));
    }
    text_free(&line);
    text_free(&before);
}

/* ---- Hints ---------------------------------------------------------------------------------- */

/* The columns of the tables that the statement names; of all tables if it names none. */
static void columns_in_sight(sqlite3 *db, const char *sql, size_t len, struct words *columns)
{
    struct words tables = {0};
    schema_tables(db, &tables);
    for (size_t i = 0; i < tables.n; i++)
        if (sql_find_name(sql, len, tables.items[i]) >= 0)
            schema_columns(db, tables.items[i], columns);
    if (!columns->n)
        schema_columns(db, NULL, columns);
    words_free(&tables);
}

struct mistake {
    const char *begins; /* SQLite's sentence */
    void (*near)(sqlite3 *db, const char *sql, size_t len, struct words *w);
};

static void near_tables(sqlite3 *db, const char *sql, size_t len, struct words *w)
{
    (void)sql, (void)len;
    schema_tables(db, w);
}

static void near_functions(sqlite3 *db, const char *sql, size_t len, struct words *w)
{
    (void)sql, (void)len;
    schema_functions(db, w);
}

static void near_modules(sqlite3 *db, const char *sql, size_t len, struct words *w)
{
    (void)sql, (void)len;
    schema_query(db, "SELECT name FROM pragma_module_list", NULL, w);
}

static void near_keywords(sqlite3 *db, const char *sql, size_t len, struct words *w)
{
    (void)db, (void)sql, (void)len;
    schema_keywords(w);
}

static const struct mistake mistakes[] = {
    {"no such table: ", near_tables},
    {"no such column: ", columns_in_sight},
    {"no such function: ", near_functions},
    {"no such module: ", near_modules},
    {" has no column named ", columns_in_sight},
    {"near \"", near_keywords},
};

/* The name that the message complains of into `name`. */
static const struct mistake *mistake_of(const char *message, char *name, size_t size)
{
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        const char *at = strstr(message, mistakes[i].begins);
        if (!at)
            continue;
        at += strlen(mistakes[i].begins);
        size_t n = strcspn(at, "\"\n");
        snprintf(name, size, "%.*s", (int)n, at);
        return &mistakes[i];
    }
    return NULL;
}

static void say_hint(const char *before, const char *word, const char *after)
{
    struct text t = {0};
    text_visible(&t, word, strlen(word), 80);
    fprintf(stderr, "  %s%s%s%s%s\n", err_colour(COLOUR_DIM), before, t.data, after,
            err_colour(COLOUR_NONE));
    text_free(&t);
}

/* The hint in words of one's own, or the nearest name. */
static void hint(struct repl *r, int rc, const char *message, const char *sql, size_t len)
{
    char name[128];
    const struct mistake *m = mistake_of(message, name, sizeof name);
    struct words w = {0};
    if (rc == SQLITE_READONLY && r->set.readonly)
        say_hint("the shell was started with -readonly", "", "");
    else if (rc == SQLITE_BUSY)
        say_hint("another process writes; -timeout TIME waits longer", "", "");
    else if (strstr(message, "incomplete input"))
        say_hint("the statement ends too soon", "", "");
    else if (strstr(message, "not authorized") && r->set.safe)
        say_hint("-safe allows no other files", "", "");
    if (!m)
        return;
    const char *dot = strrchr(name, '.');
    const char *wanted = dot ? dot + 1 : name;
    m->near(r->db, sql, len, &w);
    const char *near = words_nearest(&w, wanted);
    if (near && strcasecmp(near, wanted) != 0)
        say_hint("did you mean ", near, "?");
    words_free(&w);
}

/* ---- All of it ------------------------------------------------------------------------------ */

static uint64_t line_at(const char *sql, size_t at, struct place place)
{
    uint64_t line = place.line;
    for (size_t i = 0; i < at; i++)
        line += sql[i] == '\n';
    return line;
}

int complain(struct repl *r, const char *sql, size_t len, size_t offset, struct place place)
{
    int rc = sqlite3_errcode(r->db) & 0xff, byte = sqlite3_error_offset(r->db);
    if (rc == SQLITE_INTERRUPT || interrupted())
        return interrupted_exit("interrupted");
    char *message = need(strdup(sqlite3_errmsg(r->db))), name[128];
    size_t at = SIZE_MAX;
    if (byte >= 0 && (size_t)byte <= len - offset) {
        at = offset + (size_t)byte;
    } else if (mistake_of(message, name, sizeof name)) {
        const char *dot = strrchr(name, '.');
        long found = sql_find_name(sql + offset, len - offset, dot ? dot + 1 : name);
        at = found >= 0 ? offset + (size_t)found : SIZE_MAX;
    }
    struct sql_token first = sql_token_next(sql, len, offset);
    size_t where = at != SIZE_MAX ? at : first.start;
    if (place.name)
        (void)error_exit("%s:%" PRIu64 ": %s", place.name, line_at(sql, where, place), message);
    else
        (void)error_exit("%s", message);
    show_place(sql, len, where, at != SIZE_MAX);
    hint(r, rc, message, sql + offset, len - offset);
    free(message);
    return EXIT_ERROR;
}
