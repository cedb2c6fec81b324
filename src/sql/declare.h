/* What CREATE VIRTUAL TABLE t USING mneme(...) says. Knows no database. */
#ifndef MN_SQL_DECLARE_H
#define MN_SQL_DECLARE_H

#include <sqlite3.h>

#include "src/sql/fts.h"
#include "src/sql/value.h"

enum column_kind {
    COLUMN_ID,        /* INTEGER PRIMARY KEY: the rows table's rowid */
    COLUMN_VECTOR,
    COLUMN_ATTRIBUTE, /* may be filtered on inside a search */
    COLUMN_AUXILIARY, /* +name: kept beside the row */
};

struct column {
    enum column_kind kind;
    char *name;
    char *type;             /* as declared; "" if not. Not of vectors */
    enum affinity affinity; /* of attributes and auxiliary columns */
    bool not_null, unique;
    bool partition;         /* PARTITION KEY: has an index of SQLite's */
    bool ttl;               /* TTL: seconds since 1970 from which on the row is no longer there */
    struct vector_type vector;
    bool l1;                /* metric=l1: sums of differences, by an exact scan, without an index */
    mn_rerank rerank;       /* of vectors: options of the index */
    uint32_t bits;
    double recall;
};

struct declaration {
    struct column *columns; /* [n] in the order of the statement, the id first */
    size_t n;
    size_t ttl;             /* which column is TTL; 0: none */
    char *text;             /* name of the full-text column, behind all others; NULL: none */
    struct fts_options fts; /* what it is over */
    size_t first_vector;    /* the one whose collection has the table's name; 0: all are l1 */
};

enum { MOST_VECTOR_COLUMNS = 16 };

/* A vector column that the engine searches: all but those of metric l1. */
bool column_has_collection(const struct column *c);

/* Parses `n` arguments as SQLite hands them over. A table without INTEGER PRIMARY KEY gets a
 * column "id". Fails with MN_INVALID (names the argument), MN_NOMEM; *d is then empty. */
mn_status declaration_parse(const char *const *args, int n, struct declaration *d, mn_error *err);
void declaration_fini(struct declaration *d);

/* The options word=value of a vector column or of mneme_index(): metric, recall, rerank, bits.
 * False: no such option. */
bool declaration_option(struct column *c, const char *word, size_t len, const char *value,
                        size_t value_len, const char *what, mn_status *st, mn_error *err);

/* "float", "f16", "bfloat16", ...: false if it is none. */
bool declaration_dtype(const char *word, size_t len, mn_dtype *out);

#endif
