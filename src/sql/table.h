/* The virtual table module "mneme": one table while it is connected. table.c makes, changes and
 * drops it, plan.c chooses how a query goes, cursor.c runs it. Belongs to its connection's
 * thread. */
#ifndef MN_SQL_TABLE_H
#define MN_SQL_TABLE_H

#include "src/sql/declare.h"
#include "src/sql/session.h"

/* Hidden columns, behind the declared ones: which of them a column number minus declaration.n is.
 * The first is called like the table. The full-text column, if the table has one, comes last. */
enum hidden {
    HIDDEN_COMMAND,
    HIDDEN_K,
    HIDDEN_DISTANCE,
    HIDDEN_RECALL,
    HIDDEN_EXACT,
    HIDDENS,
    HIDDEN_TEXT = HIDDENS
};

struct table {
    sqlite3_vtab base;
    struct session *s;
    struct table *next;        /* of session_tables() */
    char *name;
    struct declaration d;
    const struct kernels *kernels;
    sqlite3_stmt *row[2];      /* ?1 id -> the columns in order; [0]: NULL for vectors. NULL while a
                                  cursor has it */
    sqlite3_stmt *insert[2];   /* all columns; [1]: OR REPLACE */
    sqlite3_stmt *remove;      /* ?1 id */
    sqlite3_stmt *update;      /* of the columns in update_mask */
    uint64_t *update_mask;     /* [(n + 63) / 64] */
    int update_conflict;       /* SQLite's conflict mode that it was prepared for */
    bool changed;              /* this transaction wrote rows */
};

/* The collection over column i, which must be a vector. */
void table_collection(const struct table *t, size_t i, char name[2 * MN_MAX_NAME + 2]);

/* "NAME_rows" */
enum { ROWS_NAME = MN_MAX_NAME + 8 };
void table_rows_name(const struct table *t, char name[ROWS_NAME]);

/* "NAME_COLUMN": the FTS5 table of the full-text column. */
enum { TEXT_NAME = 2 * MN_MAX_NAME + 2 };
void table_text_name(const struct table *t, char name[TEXT_NAME]);

/* A sentence, for sqlite3_free, after SQLite refused a statement on the rows table. */
char *table_rows_trouble(const struct table *t);

/* SQLite's time of now, for TTL: seconds since 1970. */
int64_t table_now(void);

int table_register(struct session *s);

/* ---- plan.c ---------------------------------------------------------------------------------- */

/* What one constraint of a plan is; the letters stand in idxStr. */
enum step {
    STEP_MATCH = 'm',
    STEP_K = 'k',
    STEP_RECALL = 'r',
    STEP_EXACT = 'x',
    STEP_NEARER = 'd',    /* distance <, */
    STEP_NEARER_EQ = 'D', /* <=, */
    STEP_FARTHER = 'f',   /* >, */
    STEP_FARTHER_EQ = 'F',/* >= */
    STEP_LIMIT = 'z',
    STEP_OFFSET = 'o',
    STEP_EQ = 'e',        /* the following: of a column */
    STEP_NE = 'n',
    STEP_LT = 'l',
    STEP_LE = 'L',
    STEP_GT = 'g',
    STEP_GE = 'G',
    STEP_IN = 'i',
    STEP_IS = 's',
    STEP_NULL = 'u',
    STEP_NOT_NULL = 'U',
    STEP_CONTAINS = 'c',
    STEP_TEXT = 't'       /* MATCH on the full-text column */
};

enum { PLAN_VECTORS = 1 }; /* in idxNum: the statement looks at vector columns */

int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info);

/* ---- cursor.c -------------------------------------------------------------------------------- */

int table_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out);
int table_close(sqlite3_vtab_cursor *base);
int table_filter(sqlite3_vtab_cursor *base, int number, const char *plan, int argc,
                 sqlite3_value **argv);
int table_next(sqlite3_vtab_cursor *base);
int table_eof(sqlite3_vtab_cursor *base);
int table_column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int column);
int table_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out);

#endif
