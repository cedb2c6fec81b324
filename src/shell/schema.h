/* Names of a database for completion and hints, and which of its columns hold vectors: asked of
 * SQLite on the shell's own connection, so that an open transaction's are among them. */
#ifndef MN_SHELL_SCHEMA_H
#define MN_SHELL_SCHEMA_H

#include <sqlite3.h>

#include "mneme.h"

/* Words, each once; the list owns them. */
struct words {
    char **items; /* [n] */
    size_t n, cap;
};

void words_add(struct words *w, const char *word, size_t len);
void words_free(struct words *w);

/* Each adds what there is; a database that cannot be read adds nothing. */
void schema_tables(sqlite3 *db, struct words *w);                     /* and views */
void schema_columns(sqlite3 *db, const char *table, struct words *w); /* NULL: of all tables */
void schema_functions(sqlite3 *db, struct words *w);
void schema_keywords(struct words *w); /* in lower case */
/* The first column of every row of `sql`. `argument`, if not NULL, is bound to ?1. */
void schema_query(sqlite3 *db, const char *sql, const char *argument, struct words *w);

/* "main", 'main' or another schema has a table or view of this name. */
bool schema_has_table(sqlite3 *db, const char *table);
bool schema_has_function(sqlite3 *db, const char *name);

/* The nearest of the words, or NULL; borrowed from w. */
const char *words_nearest(const struct words *w, const char *word);

/* ---- Vectors -------------------------------------------------------------------------------- */

/* Elements of a blob, if it is known to be a vector. */
struct shape {
    bool known;
    mn_dtype dtype;
    uint32_t dim;
};

struct vector_column {
    char collection[MN_MAX_NAME + 1], table[MN_MAX_NAME + 1], column[MN_MAX_NAME + 1];
    mn_id_kind id_kind;
    bool foreign; /* over a table that SQL writes: not one that mn_create made */
    struct shape shape;
};

/* The collections of the database as of schema version `version`. */
struct collections {
    struct vector_column *items; /* [n] */
    size_t n;
    int64_t version;
    bool loaded;
};

/* Reads them again if the schema has changed. A catalog that cannot be read is none. */
void collections_load(struct collections *c, sqlite3 *db);
void collections_free(struct collections *c);
const struct vector_column *collections_find(const struct collections *c, const char *name);
struct shape collections_shape(const struct collections *c, const char *table, const char *column);

#endif
