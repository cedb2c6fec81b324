/* The catalog: which collections there are, in tables of the database itself. Knows names, types
 * and columns; reads and writes no vector. Each call runs inside the caller's transaction on the
 * caller's connection. The format stands in catalog.c. */
#ifndef MN_STORAGE_CATALOG_H
#define MN_STORAGE_CATALOG_H

#include <sqlite3.h>

#include "mneme.h"
#include "storage/changelog.h"

enum {
    CATALOG_FORMAT = 2,     /* the newest that this version reads and writes; the oldest is 1 */
    CATALOG_FORMAT_OVER = 2 /* of a database with collections over tables that were there before */
};

struct catalog_entry {
    int64_t number; /* of the collection; never used again after a drop */
    int64_t table_number;
    char name[MN_MAX_NAME + 1];
    char table[MN_MAX_NAME + 1];
    char column[MN_MAX_NAME + 1];
    char id_column[MN_MAX_NAME +
                   1]; /* the table's INTEGER PRIMARY KEY; "": it has none, or is gone */
    bool foreign;      /* Mneme did not make the table: no version, no payload */
    uint32_t dim;
    mn_dtype dtype;
    mn_metric metric;
    mn_id_kind id_kind;
    mn_rerank rerank;
    uint32_t bits; /* 0: the index chooses */
    double recall; /* 0: the default */
};

enum catalog_state { CATALOG_ABSENT, CATALOG_PRESENT };

/* Says whether the database has a catalog, and checks its format: MN_NEWER names both formats,
 * MN_CORRUPT a catalog that contradicts itself. Writes nothing. */
mn_status catalog_check(sqlite3 *db, enum catalog_state *out, mn_error *err);

/* Bytes of a page of a new database whose rows carry `vector_bytes` of vector. */
uint32_t catalog_page_bytes(size_t vector_bytes);

mn_status catalog_init(sqlite3 *db, mn_error *err);

/* MN_NOTFOUND names the collection, and the likeliest one meant. */
mn_status catalog_find(sqlite3 *db, const char *name, struct catalog_entry *out, mn_error *err);

/* Calls fn for each collection in order of name; its status other than MN_OK ends the walk. */
typedef mn_status (*catalog_fn)(void *ctx, const struct catalog_entry *e, mn_error *err);
mn_status catalog_walk(sqlite3 *db, catalog_fn fn, void *ctx, mn_error *err);

/* Name and options alone: what mn_create refuses whatever the database holds. */
mn_status catalog_check_opts(const char *name, const mn_collection_opts *opts, mn_error *err);

/* Creates the collection with its table, change log and attributes, or beside another's rows. */
mn_status catalog_create(sqlite3 *db, const char *name, const mn_collection_opts *opts,
                         mn_error *err);
mn_status catalog_drop(sqlite3 *db, const struct catalog_entry *e, mn_error *err);
/* Gives the collection another name; its table keeps its own. MN_EXISTS, MN_INVALID. */
mn_status catalog_rename(sqlite3 *db, struct catalog_entry *e, const char *to, mn_error *err);
/* Gives the table under the collection another name, and its triggers with it, whatever SQLite's
 * PRAGMA legacy_alter_table says. Nothing of the change log is lost. */
mn_status catalog_rename_table(sqlite3 *db, struct catalog_entry *e, const char *to, mn_error *err);
mn_status catalog_add_attribute(sqlite3 *db, const struct catalog_entry *e, const char *attribute,
                                mn_error *err);

/* Names of the table's attribute columns in order, each ending in NUL, in one block for
 * sqlite3_free; *n counts them. Vector columns and Mneme's own columns are no attributes. */
mn_status catalog_attributes(sqlite3 *db, const struct catalog_entry *e, char **names, size_t *n,
                             mn_error *err);

/* Whether the table that the catalog names is still there, with the columns that the collection
 * needs. A foreign hand may have dropped or renamed it, and may have put a table of its own in its
 * place. If not, `missing` takes the column that it lacks; "": all of them. */
mn_status catalog_table_fits(sqlite3 *db, const struct catalog_entry *e, bool *fits,
                             char missing[MN_MAX_NAME + 1], mn_error *err);

/* Sets `name` to the first column of the collection that is computed from others, which cannot be
 * written; "": none is. */
mn_status catalog_computed(sqlite3 *db, const struct catalog_entry *e, char name[MN_MAX_NAME + 1],
                           mn_error *err);

/* The collection's table as its change log knows it. */
struct catalog_log {
    struct changelog_table table; /* borrows from the entry and from below: not to be copied */
    char key[2 * MN_MAX_NAME + 3];
    char *watched; /* for sqlite3_free */
};
mn_status catalog_log_of(sqlite3 *db, const struct catalog_entry *e, struct catalog_log *out,
                         mn_error *err);

/* The schema's version number now, and the one that our last own change left. They differ after a
 * foreign hand changed the schema; catalog_reconcile() mends triggers and logs then. */
mn_status catalog_schema(sqlite3 *db, int64_t *now, int64_t *ours, mn_error *err);

/* *whole: what was done to the schema since can be told, and it left the triggers and logs of all
 * tables as they were, so that no change of a row escaped. */
mn_status catalog_logs_whole(sqlite3 *db, bool *whole, mn_error *err);

/* To be called at the end of each transaction in which Mneme changed the schema. */
mn_status catalog_schema_keep(sqlite3 *db, mn_error *err);

/* The same where a version is known to come: SQLite sets the number when DROP TABLE or ALTER TABLE
 * of a virtual table has called its module, to one more than before the statement, whatever the
 * module has done to the schema meanwhile. */
mn_status catalog_schema_keep_as(sqlite3 *db, int64_t version, mn_error *err);

/* In a write transaction: restarts every change log that is not whole, writes down new names and
 * keeps the schema's number. A table that is gone is left alone: its collections answer with an
 * error that says so. */
mn_status catalog_reconcile(sqlite3 *db, mn_error *err);

#endif
