/* Nearest neighbours: create a collection, put vectors, search. */
#include <stdio.h>

#include "mneme.h"

static int fail(const char *what, const mn_error *err)
{
    fprintf(stderr, "%s: %s\n", what, err->message);
    return 1;
}

int main(void)
{
    mn_db *db;
    mn_conn *conn;
    mn_error err;
    if (mn_open(":memory:", NULL, &db, &err) || mn_connect(db, &conn, &err))
        return fail("open", &err);

    const mn_collection_opts opts = {.dim = 3, .metric = MN_COSINE, .id_kind = MN_ID_TEXT};
    if (mn_create(conn, "colours", &opts, &err))
        return fail("create", &err);

    const float vectors[][3] = {{1, 0, 0}, {1, 0.6f, 0.7f}, {0, 0, 1}, {1, 0.5f, 0}};
    const mn_row rows[] = {{.text_id = "red", .vector = vectors[0]},
                           {.text_id = "pink", .vector = vectors[1]},
                           {.text_id = "blue", .vector = vectors[2]},
                           {.text_id = "orange", .vector = vectors[3]}};
    if (mn_put(conn, "colours", rows, 4, NULL, &err))
        return fail("put", &err);

    mn_hit hits[3];
    uint32_t found;
    if (mn_search(conn, "colours", vectors[0], 1, 3, NULL, hits, &found, &err))
        return fail("search", &err);
    for (uint32_t i = 0; i < found; i++) {
        mn_rows *row;
        if (mn_get(conn, "colours", &(mn_id){.id = hits[i].id}, 1, &row, &err))
            return fail("get", &err);
        printf("%-8s %.3f\n", mn_rows_at(row, 0)->text_id, hits[i].distance);
        mn_rows_free(row);
    }

    mn_disconnect(conn);
    if (mn_close(db, &err))
        return fail("close", &err);
    return 0;
}
