/* Full text over columns of an ordinary table: an FTS5 table beside it, kept right by triggers on
 * the table, whoever writes to that. Knows no vectors. On the connection's thread. */
#ifndef MN_SQL_FTS_H
#define MN_SQL_FTS_H

#include <sqlite3.h>

#include "mneme.h"

struct fts_spec {
    const char *table;           /* in main; has an INTEGER PRIMARY KEY */
    const char *id_column;       /* that key */
    const char *name;            /* of the FTS5 table to make */
    const char *const *columns;  /* [n], at least 1 */
    size_t n;
    const char *tokenize;        /* FTS5's option; NULL: "unicode61 remove_diacritics 2" */
    const char *prefix;          /* FTS5's option, as "2 3"; NULL: none */
    const char *weights;         /* of the columns in bm25(), as "10,1"; NULL: all 1 */
    bool view;                   /* reads the table through a view: see fts.c */
};

/* Makes it and reads all rows. Undoes nothing if it fails: that is the statement's or the caller's.
 * Fails with MN_INVALID: SQLite has no FTS5, no such column, an unknown tokenizer, a unique index
 * over an expression. */
MN_CHECKED mn_status fts_create(sqlite3 *db, const struct fts_spec *spec, mn_error *err);

/* What people say of a full text: options of mneme_index() and mneme_fts(), FTS(...) of a table. */
struct fts_options {
    char *columns;  /* "title,body"; each for sqlite3_free */
    char *tokenize, *prefix, *weights;
};

/* Takes an option fts=, tokenize=, prefix= or weights=; false: it is none of these. *st is MN_OK or
 * MN_NOMEM then. */
bool fts_option(struct fts_options *o, const char *word, size_t len, const char *value,
                size_t value_len, mn_status *st, mn_error *err);
void fts_options_fini(struct fts_options *o);

/* fts_create() of them; removes what it made if it fails. MN_EXISTS if the table has a full text,
 * or the name is taken. */
MN_CHECKED mn_status fts_make(sqlite3 *db, const char *table, const char *id_column,
                              const char *name, const struct fts_options *o, bool view,
                              mn_error *err);

/* The FTS5 table over a table, for sqlite3_free; NULL if there is none. Fails with MN_CORRUPT if
 * there is one that has lost its triggers, or the table has other unique indexes than when it was
 * made: what it says is not to be trusted; the sentence names mneme_fts_rebuild(). */
MN_CHECKED mn_status fts_find(sqlite3 *db, const char *table, char **name, mn_error *err);

/* Compares the FTS5 table `name` with its table; false if they differ. Takes the write lock. */
MN_CHECKED mn_status fts_check(sqlite3 *db, const char *name, bool *good, mn_error *err);

/* Makes triggers and contents anew; MN_NOTFOUND if the table has no full text. */
MN_CHECKED mn_status fts_rebuild(sqlite3 *db, const char *table, const char *id_column,
                                 mn_error *err);

/* Removes all FTS5 tables over a table, with their triggers; none is no error. */
MN_CHECKED mn_status fts_drop(sqlite3 *db, const char *table, mn_error *err);

/* Around ALTER TABLE of a virtual table of ours, where SQLite drops no table and leaves old names
 * in views and triggers: begin takes away those of the FTS5 table `name`, end makes them anew over
 * `table`, with the FTS5 table called `to`. *view is handed from one to the other, and for
 * sqlite3_free. */
MN_CHECKED mn_status fts_rename_begin(sqlite3 *db, const char *name, char **view, mn_error *err);
MN_CHECKED mn_status fts_rename_end(sqlite3 *db, const char *table, const char *id_column,
                                    const char *name, const char *to, const char *view,
                                    mn_error *err);

/* An FTS5 query for the words of a text as people write it, each quoted, joined by OR; at most
 * FTS_MOST_WORDS of them, each once. *out is for sqlite3_free, NULL if there is no word. With the
 * FTS5 table `name` (NULL: without) of FTS_MANY_ROWS rows or more, words that more than half of the
 * rows have are left out if there are others: BM25 gives nothing for them, and they cost most. */
enum { FTS_MOST_WORDS = 64, FTS_MANY_ROWS = 10000 };
MN_CHECKED mn_status fts_query(sqlite3 *db, const char *name, const char *text, size_t len,
                               char **out, mn_error *err);

#endif
