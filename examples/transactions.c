/* Transactions, savepoints and conditional writes. */
#include <stdio.h>

#include "mneme.h"

static int fail(const char *what, const mn_error *err)
{
    fprintf(stderr, "%s: %s\n", what, err->message);
    return 1;
}

static mn_status put(mn_conn *conn, const char *id, float x, float y, mn_error *err)
{
    const float vector[] = {x, y};
    return mn_put(conn, "points", &(mn_row){.text_id = id, .vector = vector}, 1, NULL, err);
}

static mn_status count(mn_conn *conn, const char *when, mn_error *err)
{
    mn_collection_stats stats;
    mn_status st = mn_collection_stats_get(conn, "points", &stats, err);
    if (st == MN_OK)
        printf("%s: %llu rows\n", when, (unsigned long long)stats.rows);
    return st;
}

int main(void)
{
    mn_db *db;
    mn_conn *conn;
    mn_error err;
    if (mn_open(":memory:", NULL, &db, &err) || mn_connect(db, &conn, &err))
        return fail("open", &err);
    const mn_collection_opts opts = {.dim = 2, .id_kind = MN_ID_TEXT};
    if (mn_create(conn, "points", &opts, &err))
        return fail("create", &err);

    /* All of a transaction, or nothing of it. What came after a savepoint can be undone alone. */
    if (mn_begin_write(conn, &err) || put(conn, "a", 1, 0, &err) || put(conn, "b", 0, 1, &err) ||
        mn_savepoint(conn, "maybe", &err) || put(conn, "c", 5, 5, &err))
        return fail("put", &err);
    if (count(conn, "inside", &err) || mn_rollback_to(conn, "maybe", &err) ||
        mn_commit(conn, &err) || count(conn, "committed", &err))
        return fail("commit", &err);
    if (mn_begin_write(conn, &err) || put(conn, "d", 9, 9, &err) || mn_rollback(conn, &err) ||
        count(conn, "rolled back", &err))
        return fail("rollback", &err);

    /* Insert only what is not there. */
    const float vector[] = {2, 2};
    mn_row row = {.text_id = "a", .vector = vector};
    mn_put_opts absent = {.mode = MN_PUT_IF_ABSENT};
    mn_status st = mn_put(conn, "points", &row, 1, &absent, &err);
    printf("put 'a' if absent: %s\n", mn_status_name(st));

    /* Read, change, write back unless somebody was faster: the version says so. */
    mn_rows *rows;
    if (mn_get(conn, "points", &(mn_id){.text_id = "a"}, 1, &rows, &err))
        return fail("get", &err);
    row.version = mn_rows_at(rows, 0)->version;
    mn_rows_free(rows);
    mn_put_opts same = {.mode = MN_PUT_IF_VERSION};
    for (int i = 0; i < 2; i++) {
        st = mn_put(conn, "points", &row, 1, &same, &err);
        printf("put 'a' if unchanged: %s\n", mn_status_name(st));
    }

    mn_disconnect(conn);
    if (mn_close(db, &err))
        return fail("close", &err);
    return 0;
}
