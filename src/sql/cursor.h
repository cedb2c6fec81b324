/* A cursor of the module "mneme" while it runs: cursor.c reads rows and answers SQLite, near.c
 * finds the nearest, near_l1.c those by the sum of differences. */
#ifndef MN_SQL_CURSOR_H
#define MN_SQL_CURSOR_H

#include "src/sql/table.h"

/* A search, as the plan and its arguments have it. */
struct near {
    size_t column;      /* the vector's */
    void *query;        /* sqlite3_free */
    int64_t left;       /* rows that may still come: k; INT64_MAX without */
    uint32_t first;     /* size of the first batch */
    double recall;      /* 0: the collection's */
    double most, least; /* bounds of the distance */
    bool most_open, least_open;
    bool bounded;        /* `most` was given */
    int64_t now;         /* of TTL */
    mn_condition *where; /* [n_where] */
    size_t n_where;
    mn_value *values;     /* [n_values] of the conditions, into the kept values */
    sqlite3_value **kept; /* [n_values] sqlite3_value_free */
    size_t n_values, cap;
    int64_t *only; /* [n_only] ids; NULL: all rows */
    size_t n_only, only_cap;
    mn_hit *hits; /* [n] of this batch */
    size_t n, i;
    uint32_t asked; /* size of this batch; 0: none yet */
    bool last;      /* no batch comes after it */
    int64_t *seen;  /* [n_seen] ascending: ids of the batches before */
    size_t n_seen;
};

struct cursor {
    sqlite3_vtab_cursor base;
    bool by_distance;
    bool vectors; /* vector columns are looked at */
    struct near near;
    char *plan;        /* of st; sqlite3_free */
    sqlite3_stmt *st;  /* reads the rows table */
    sqlite3_stmt *row; /* the table's row[vectors], while a search runs */
    bool at_row;       /* row stands on the current hit */
    bool eof;
};

static inline struct table *cursor_table(const struct cursor *c)
{
    return (struct table *)c->base.pVtab;
}

/* Each sets the table's message and returns SQLite's code. */
int cursor_fail(struct cursor *c, mn_status st, const mn_error *err);
int cursor_fail_sqlite(struct cursor *c);
/* Takes `text`, which is finished here. */
int cursor_prepare(struct cursor *c, sqlite3_str *text, sqlite3_stmt **out);

/* The next step of idxStr at *p, which ends at a colon; false behind the last. */
bool plan_next_step(const char **p, enum step *step, size_t *column);

/* ---- near.c ---------------------------------------------------------------------------------- */

/* Reads the plan's arguments and finds the first row: near.hits[near.i], or eof. */
int near_begin(struct cursor *c, const char *plan, sqlite3_value **argv);
int near_next(struct cursor *c);
void near_fini(struct near *n);

/* ---- near_l1.c ------------------------------------------------------------------------------- */

/* All rows that match, by the sum of differences, as one batch. */
int near_search_l1(struct cursor *c);

/* Orders int64s; for qsort and bsearch. */
int near_by_id(const void *a, const void *b);

#endif
