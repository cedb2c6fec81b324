/* Many queries in one call: each vector is read from memory once for all of them. */
#include <stdio.h>
#include <stdlib.h>

#include "mneme.h"

enum { DIM = 64, ROWS = 5000, QUERIES = 200, K = 3 };

static int fail(const char *what, const mn_error *err)
{
    fprintf(stderr, "%s: %s\n", what, err->message);
    return 1;
}

/* A vector that depends on `seed` only. */
static void fill(float *vector, unsigned seed)
{
    unsigned state = seed * 2654435761u + 1;
    for (int i = 0; i < DIM; i++) {
        state = state * 1664525u + 1013904223u;
        vector[i] = (float)(state >> 16) / 65536 - 0.5f;
    }
}

int main(void)
{
    static float vectors[ROWS][DIM], queries[QUERIES][DIM];
    static mn_row rows[ROWS];
    static mn_hit hits[QUERIES][K];
    static uint32_t found[QUERIES];
    mn_db *db;
    mn_conn *conn;
    mn_error err;
    if (mn_open(":memory:", NULL, &db, &err) || mn_connect(db, &conn, &err))
        return fail("open", &err);
    const mn_collection_opts opts = {.dim = DIM, .dtype = MN_F16, .metric = MN_IP};
    if (mn_create(conn, "items", &opts, &err))
        return fail("create", &err);

    /* One call is one transaction. The vectors are f32 here and f16 in the collection. */
    for (unsigned i = 0; i < ROWS; i++) {
        fill(vectors[i], i);
        rows[i] = (mn_row){.id = MN_AUTO_ID, .vector = vectors[i]};
    }
    const mn_put_opts from_f32 = {.from_f32 = true};
    if (mn_put(conn, "items", rows, ROWS, &from_f32, &err))
        return fail("put", &err);

    for (unsigned q = 0; q < QUERIES; q++)
        fill(queries[q], 10 * q);
    struct mn_search_stats stats;
    const mn_search_opts search = {.from_f32 = true, .threads = 2, .stats = &stats};
    if (mn_search(conn, "items", queries, QUERIES, K, &search, hits[0], found, &err))
        return fail("search", &err);

    /* Under the inner product a vector need not be nearest to itself; mostly it is. */
    int itself = 0;
    for (unsigned q = 0; q < QUERIES; q++)
        itself += hits[q][0].id == 10 * q + 1;
    printf("%d queries, %llu distances; %d of the queries found themselves\n", QUERIES,
           (unsigned long long)stats.rows_scanned, itself);

    mn_disconnect(conn);
    if (mn_close(db, &err))
        return fail("close", &err);
    return 0;
}
