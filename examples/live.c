/* Live rows: several connections on one file. What one commits the next search of another finds; a
 * read transaction keeps its snapshot; a second writer is told to wait. */
#include <stdio.h>

#include "mneme.h"

static int fail(const char *what, const mn_error *err)
{
    fprintf(stderr, "%s: %s\n", what, err->message);
    return 1;
}

static mn_status put(mn_conn *conn, int64_t id, float x, mn_error *err)
{
    const float vector[] = {x};
    return mn_put(conn, "line", &(mn_row){.id = id, .vector = vector}, 1, NULL, err);
}

static mn_status show(mn_conn *conn, const char *who, mn_error *err)
{
    const float query[] = {0};
    mn_hit hits[10];
    uint32_t found;
    mn_status st = mn_search(conn, "line", query, 1, 10, NULL, hits, &found, err);
    if (st == MN_OK) {
        printf("%-8s", who);
        for (uint32_t i = 0; i < found; i++)
            printf(" %lld", (long long)hits[i].id);
        printf("\n");
    }
    return st;
}

int main(void)
{
    mn_db *db;
    mn_conn *writer, *reader;
    mn_error err;
    const mn_open_opts opts = {.busy_timeout_ms = MN_NO_WAIT};
    if (mn_open("live.db", &opts, &db, &err))
        return fail("open", &err);
    /* One connection a thread; here both are used by one. */
    if (mn_connect(db, &writer, &err) || mn_connect(db, &reader, &err))
        return fail("connect", &err);
    if (mn_create(writer, "line", &(mn_collection_opts){.dim = 1}, &err))
        return fail("create", &err);

    if (put(writer, 1, 1, &err) || show(reader, "reader", &err))
        return fail("first row", &err);

    /* The writer sees its own uncommitted row, nobody else does. */
    if (mn_begin_write(writer, &err) || put(writer, 2, 0.5f, &err) ||
        show(writer, "writer", &err) || show(reader, "reader", &err))
        return fail("second row", &err);

    /* One writer at a time. With a timeout this would wait instead. */
    mn_status st = put(reader, 3, 0, &err);
    printf("a second writer: %s\n", mn_status_name(st));

    /* The snapshot of a read transaction stays what it was. */
    if (mn_begin_read(reader, &err) || mn_commit(writer, &err) || show(reader, "snapshot", &err) ||
        mn_commit(reader, &err) || show(reader, "reader", &err))
        return fail("commit", &err);

    mn_disconnect(reader);
    mn_disconnect(writer);
    if (mn_close(db, &err))
        return fail("close", &err);
    return 0;
}
