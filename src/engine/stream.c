/*
 * The rows are taken by a function in the statement's WHERE, which SQLite calls for each row in the
 * order of the scan:
 *
 *     SELECT 1 FROM "table" NOT INDEXED WHERE mneme_take(id, "vector") ORDER BY id
 *
 * It is true when the caller's memory is full, so that sqlite3_step() returns once in hundreds of
 * rows rather than for each. Against a step a row with `vector IS NOT NULL` this saves 0.05 of
 * 0.21 us a row of 512 bytes (an aggregate in its place, measured alone): the way in and out, and
 * the value's second copy for the condition.
 * NOT INDEXED: an index over id and vector, were there one, would be no faster.
 */
#include "src/engine/stream.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "storage/sql.h"

enum { STREAM_PAGE_CACHE = 512 << 10 }; /* bytes; see set_page_cache() */

/* Each page is read once, so SQLite's page cache holds nothing of use to a stream, and a large one
 * sends all pages through memory beyond the second-level cache: 8 MiB cost 0.03 us a row of 512
 * bytes. What it held would be pushed out all the same. Failure is of no consequence. */
static void set_page_cache(mn_conn *conn, size_t bytes)
{
    char sql[48];
    snprintf(sql, sizeof sql, "PRAGMA cache_size = -%zu", bytes / 1024);
    sqlite3_exec(conn->sql, sql, NULL, NULL, NULL);
}

/* The value as a vector of the collection; NULL: it is none, or SQLite cannot hand it out. */
static const void *vector_of(const mn_db *db, const struct stream *s, sqlite3_value *value,
                             bool *nomem)
{
    int type = sqlite3_value_type(value);
    const void *bytes = NULL;
    if (type == SQLITE_BLOB && (size_t)sqlite3_value_bytes(value) == s->vector_bytes)
        bytes = sqlite3_value_blob(value);
    else if (type == SQLITE_TEXT && s->c->json)
        bytes = sqlite3_value_text(value);
    else
        return NULL;
    *nomem = !bytes;
    if (type == SQLITE_BLOB)
        return bytes;
    return row_vector_json(db, s->c, bytes, (size_t)sqlite3_value_bytes(value));
}

static void on_row(sqlite3_context *context, int n, sqlite3_value **args)
{
    mn_conn *conn = sqlite3_user_data(context);
    struct stream *s = conn->stream;
    if (!s || n != 2 || s->n >= s->stop) {
        sqlite3_result_error(context, "mneme_take: is only for searches", -1);
        return;
    }
    bool nomem = false;
    const void *vector = vector_of(conn->db, s, args[1], &nomem);
    if (nomem) {
        sqlite3_result_error_nomem(context);
        return;
    }
    if (vector) {
        memcpy(s->vectors + s->n * s->vector_bytes, vector, s->vector_bytes);
        s->ids[s->n++] = sqlite3_value_int64(args[0]);
    } else if (sqlite3_value_type(args[1]) != SQLITE_NULL) {
        s->bad(s->ctx, sqlite3_value_int64(args[0]));
    }
    sqlite3_result_int(context, s->n == s->stop);
}

mn_status stream_register(mn_conn *conn, mn_error *err)
{
    int rc = sqlite3_create_function_v2(conn->sql, "mneme_take", 2,
                                        SQLITE_UTF8 | SQLITE_DIRECTONLY, conn, on_row, NULL, NULL,
                                        NULL);
    return rc == SQLITE_OK ? MN_OK : sql_fail(conn->sql, rc, err, "connect");
}

mn_status stream_begin(mn_conn *conn, struct coll *c, struct stream *s, mn_error *err)
{
    s->n = s->stop = 0;
    s->c = c;
    s->vector_bytes = c->vector_bytes;
    s->st = NULL;
    /* Unwritten pages stay in the cache while they can; an application's cache is its own. */
    s->small = !conn->hosted && !conn_may_be_dirty(conn);
    if (s->small)
        set_page_cache(conn, STREAM_PAGE_CACHE);
    return coll_stmt(conn, c, STMT_STREAM, &s->st, err);
}

mn_status stream_fill(mn_conn *conn, struct stream *s, bool *more, mn_error *err)
{
    assert(s->n < s->stop);
    conn->stream = s;
    mn_status st = sql_step(s->st, more, err);
    conn->stream = NULL;
    return st;
}

void stream_end(mn_conn *conn, struct stream *s)
{
    if (s->st)
        sqlite3_reset(s->st);
    if (s->small)
        set_page_cache(conn, conn->page_cache);
}
