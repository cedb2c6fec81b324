/* What an embedder writes first: a database, a few rows, the nearest of them, all in the file that
 * the argument names. Exit 0 only if every answer is right. */
#include <mneme.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

static mn_error err;

static int say(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, err.message[0] ? err.message : "not the answer expected");
    return 1;
}

static int colours(mn_conn *conn)
{
    static const float red[] = {1, 0, 0}, pink[] = {1, 0.6f, 0.7f}, blue[] = {0, 0, 1};
    const char *const attributes[] = {"warmth"};
    mn_collection_opts opts = {.dim = 3, .attributes = attributes, .n_attributes = 1};
    mn_attr warm = {"warmth", {.type = MN_INTEGER, .integer = 9}};
    mn_row rows[] = {
        {.id = 1, .vector = red, .attrs = &warm, .n_attrs = 1},
        {.id = 2, .vector = pink, .payload = "a pale red", .payload_len = SIZE_MAX},
        {.id = 3, .vector = blue},
    };
    mn_id ids[] = {{.id = 2}, {.id = 4}};
    mn_rows *got = NULL;
    mn_hit hits[2];
    uint32_t found;

    if (mn_create(conn, "colours", &opts, &err) || mn_put(conn, "colours", rows, 3, NULL, &err))
        return say("put");
    if (mn_search(conn, "colours", red, 1, 2, NULL, hits, &found, &err))
        return say("search");
    if (found != 2 || hits[0].id != 1 || hits[0].distance != 0 || hits[1].id != 2 ||
        fabs(hits[1].distance - sqrt(0.85)) > 1e-6)
        return say("hits");
    if (mn_get(conn, "colours", ids, 2, &got, &err))
        return say("get");
    const mn_row *row = mn_rows_at(got, 0);
    int right = mn_rows_count(got) == 2 && row && !mn_rows_at(got, 1) && row->payload_len == 10 &&
                memcmp(row->payload, "a pale red", 10) == 0;
    mn_rows_free(got);
    return right ? 0 : say("rows");
}

int main(int argc, char **argv)
{
    mn_db *db = NULL;
    mn_conn *conn = NULL;
    char built[32];

    if (argc != 2) {
        fprintf(stderr, "usage: %s NEW-DATABASE\n", argv[0]);
        return 2;
    }
    snprintf(built, sizeof built, "%d.%d.%d", MN_VERSION_MAJOR, MN_VERSION_MINOR, MN_VERSION_PATCH);
    if (strcmp(built, mn_version()) != 0)
        return say("the header's version is not the library's");
    if (mn_open(argv[1], NULL, &db, &err) || mn_connect(db, &conn, &err))
        return say("open");
    int rc = colours(conn);
    mn_disconnect(conn);
    if (mn_close(db, &err))
        return say("close");
    return rc;
}
