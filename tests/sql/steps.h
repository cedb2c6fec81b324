/* SQL as tests write it: a statement and what it must answer, one line each.
 *
 *     static const struct step steps[] = {
 *         {"SELECT id, lang FROM docs", "1|en 2|de"},   rows by blanks, columns by |
 *         {"SELECT nonsense", "!no such column"},       an error that has these words
 *         {"EXPLAIN QUERY PLAN ...", "~nearest by"},    an answer that has these words
 *         {"INSERT ...", ""},                           no rows
 *     };
 *     STEPS(db, steps);
 *
 * Words are separated by &. NULL stands as NULL, a blob as x'00FF', a real as %.6g. */
#ifndef MN_TESTS_SQL_STEPS_H
#define MN_TESTS_SQL_STEPS_H

#include <sqlite3.h>

#include "mneme.h"
#include "mneme_sql.h"
#include "tests/test.h"

struct step {
    const char *sql, *want;
};

static inline sqlite3 *steps_open_plain(const char *path)
{
    sqlite3 *db = NULL;
    int rc = sqlite3_open_v2(path, &db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, NULL);
    CHECKF(rc == SQLITE_OK, "%s: %s", path, sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 5000);
    return db;
}

static inline sqlite3 *steps_open(const char *path)
{
    sqlite3 *db = steps_open_plain(path);
    char *message = NULL;
    int rc = mn_sql_register(db, &message);
    CHECKF(rc == SQLITE_OK, "%s: %s", path, message ? message : "no message");
    return db;
}

static inline void steps_append_value(sqlite3_str *out, sqlite3_stmt *st, int i)
{
    switch (sqlite3_column_type(st, i)) {
    case SQLITE_NULL:
        sqlite3_str_appendall(out, "NULL");
        break;
    case SQLITE_FLOAT:
        sqlite3_str_appendf(out, "%.6g", sqlite3_column_double(st, i));
        break;
    case SQLITE_BLOB: {
        const unsigned char *p = sqlite3_column_blob(st, i);
        sqlite3_str_appendall(out, "x'");
        for (int b = 0; b < sqlite3_column_bytes(st, i); b++)
            sqlite3_str_appendf(out, "%02X", p[b]);
        sqlite3_str_appendall(out, "'");
        break;
    }
    default:
        sqlite3_str_appendall(out, (const char *)sqlite3_column_text(st, i));
    }
}

/* All rows of all statements, or "!" and the error. Valid until the next call of the thread. */
static inline const char *steps_ask(sqlite3 *db, const char *sql)
{
    static _Thread_local char text[1 << 16];
    sqlite3_str *out = sqlite3_str_new(NULL);
    sqlite3_stmt *st;
    const char *tail = sql;
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && *tail) {
        rc = sqlite3_prepare_v2(db, tail, -1, &st, &tail);
        if (rc != SQLITE_OK || !st)
            continue;
        while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
            if (sqlite3_str_length(out))
                sqlite3_str_appendchar(out, 1, ' ');
            for (int i = 0; i < sqlite3_column_count(st); i++) {
                sqlite3_str_appendall(out, i ? "|" : "");
                steps_append_value(out, st, i);
            }
        }
        rc = sqlite3_finalize(st);
    }
    char *all = sqlite3_str_finish(out);
    if (rc == SQLITE_OK)
        snprintf(text, sizeof text, "%s", all ? all : "");
    else
        snprintf(text, sizeof text, "!%s", sqlite3_errmsg(db));
    sqlite3_free(all);
    return text;
}

/* Whether `text` has every one of the words. */
static inline bool steps_has(const char *text, const char *words)
{
    char word[256];
    for (const char *p = words; *p; p += *p == '&') {
        size_t n = strcspn(p, "&");
        snprintf(word, sizeof word, "%.*s", (int)n, p);
        if (!strstr(text, word))
            return false;
        p += n;
    }
    return true;
}

static inline bool steps_fits(const char *got, const char *want)
{
    if (*want == '!')
        return *got == '!' && steps_has(got, want + 1);
    if (*want == '~')
        return *got != '!' && steps_has(got, want + 1);
    return strcmp(got, want) == 0;
}

static inline void steps_run(sqlite3 *db, const struct step *steps, size_t n, const char *file,
                             int line)
{
    for (size_t i = 0; i < n; i++) {
        const char *got = steps_ask(db, steps[i].sql);
        if (!steps_fits(got, steps[i].want))
            test_fail(file, line, "step %zu: %s\n    gives \"%s\"\n    want  \"%s\"", i,
                      steps[i].sql, got, steps[i].want);
        if (!sqlite3_get_autocommit(db))
            continue;
        /* Nothing of ours holds a snapshot or a lock behind a statement's back. */
        if (sqlite3_txn_state(db, "main") != SQLITE_TXN_NONE)
            test_fail(file, line, "step %zu: %s: leaves a transaction open", i, steps[i].sql);
    }
}

#define STEPS(db, steps) steps_run(db, steps, sizeof(steps) / sizeof *(steps), __FILE__, __LINE__)

/* One of them. */
#define STEP(db, sql, want) steps_run(db, &(const struct step){sql, want}, 1, __FILE__, __LINE__)

static inline void steps_close(sqlite3 *db)
{
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

#endif
