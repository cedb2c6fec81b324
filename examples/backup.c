/* Looking after a database: statistics, verify, a backup while it is used. */
#include <stdio.h>

#include "mneme.h"

static int fail(const char *what, const mn_error *err)
{
    fprintf(stderr, "%s: %s\n", what, err->message);
    return 1;
}

static void on_finding(void *ctx, const char *where, const char *what)
{
    (void)ctx;
    printf("  %s: %s\n", where, what);
}

/* Called now and then; false would stop the call. */
static bool on_progress(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    (void)ctx;
    if (total)
        fprintf(stderr, "%s: %llu of %llu\n", stage, (unsigned long long)done,
                (unsigned long long)total);
    return true;
}

static int check(const char *path, mn_error *err)
{
    mn_db *db;
    mn_conn *conn;
    mn_collection_stats stats;
    uint64_t findings;
    const mn_open_opts opts = {.flags = MN_OPEN_READONLY};
    if (mn_open(path, &opts, &db, err) || mn_connect(db, &conn, err))
        return fail("open", err);
    if (mn_collection_stats_get(conn, "points", &stats, err) ||
        mn_verify(conn, on_finding, NULL, &findings, err))
        return fail("verify", err);
    printf("%s: %llu rows, %llu bytes of vectors, %llu findings\n", path,
           (unsigned long long)stats.rows, (unsigned long long)stats.vector_bytes,
           (unsigned long long)findings);
    mn_disconnect(conn);
    return mn_close(db, err) ? fail("close", err) : 0;
}

int main(void)
{
    mn_db *db;
    mn_conn *conn;
    mn_error err;
    if (mn_open("points.db", NULL, &db, &err) || mn_connect(db, &conn, &err))
        return fail("open", &err);
    if (mn_create(conn, "points", &(mn_collection_opts){.dim = 2}, &err))
        return fail("create", &err);
    if (mn_begin_write(conn, &err))
        return fail("begin", &err);
    for (int i = 0; i < 1000; i++) {
        const float vector[] = {(float)i, 1};
        const mn_row row = {.id = i, .vector = vector};
        if (mn_put(conn, "points", &row, 1, NULL, &err))
            return fail("put", &err);
    }
    if (mn_commit(conn, &err))
        return fail("commit", &err);

    /* The copy is the database of this moment, complete under its name or not there at all. */
    mn_set_progress(conn, on_progress, NULL);
    if (mn_backup(conn, "copy.db", &err))
        return fail("backup", &err);
    mn_set_progress(conn, NULL, NULL);
    if (mn_delete(conn, "points", &(mn_id){.id = 5}, 1, NULL, &err))
        return fail("delete", &err);

    /* A file that is there is not overwritten. */
    mn_status st = mn_backup(conn, "copy.db", &err);
    printf("again: %s\n", mn_status_name(st));
    mn_disconnect(conn);
    if (mn_close(db, &err))
        return fail("close", &err);
    return check("points.db", &err) || check("copy.db", &err);
}
