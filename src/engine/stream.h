/* All vectors of a collection in id order, out of SQLite into the caller's memory, many rows a
 * step. Of the connection's thread; within a read scope. */
#ifndef MN_ENGINE_STREAM_H
#define MN_ENGINE_STREAM_H

#include "src/engine/engine.h"

struct stream {
    int64_t *ids;  /* [stop] where the rows go; the caller's */
    char *vectors; /* [stop][vector_bytes] */
    size_t n;      /* rows there */
    size_t stop;   /* stream_fill() returns when there are so many; more than n */
    void (*bad)(void *ctx, int64_t id); /* told of a row whose value is no vector */
    void *ctx;
    const struct coll *c; /* set by stream_begin(), as the rest */
    size_t vector_bytes;
    sqlite3_stmt *st;
    bool small; /* with a small page cache, to be set back */
};

/* Makes the function mneme_take() of the statement STMT_STREAM on the connection. */
mn_status stream_register(mn_conn *conn, mn_error *err);

/* The caller has set bad and ctx, and before each stream_fill() the room. */
mn_status stream_begin(mn_conn *conn, struct coll *c, struct stream *s, mn_error *err);
/* Adds rows until n == stop or, *more then false, all have been read. */
mn_status stream_fill(mn_conn *conn, struct stream *s, bool *more, mn_error *err);
void stream_end(mn_conn *conn, struct stream *s); /* after a failed begin too */

#endif
