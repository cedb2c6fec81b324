/* Open iterators, as row.c makes them and a connection closes them. */
#ifndef MN_ENGINE_ITER_H
#define MN_ENGINE_ITER_H

#include "src/engine/engine.h"

struct mn_iter {
    mn_iter *next;      /* in conn->iters */
    mn_conn *conn;
    struct coll coll;   /* a copy; attrs point into names; no statements of it are used */
    char *names;
    const char **attr_names; /* [coll.n_attrs] */
    mn_attr *attrs;          /* [coll.n_attrs] */
    sqlite3_stmt *st;        /* keeps the snapshot while it has rows left */
    mn_row row;
    bool ahead; /* st stands on a row not handed out yet */
    bool ended;
};

void iter_free(mn_iter *it); /* not in a list any more; NULL is fine */

#endif
