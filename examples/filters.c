/* Attributes, and searches that look only at some of the rows: by a function of a row's attributes,
 * by a set of ids, by distance. */
#include <stdio.h>
#include <string.h>

#include "mneme.h"

static int fail(const char *what, const mn_error *err)
{
    fprintf(stderr, "%s: %s\n", what, err->message);
    return 1;
}

/* Keeps books of a language from a year on. Called only for rows near enough to be hits. */
struct wanted {
    const char *language;
    int64_t since;
};

static bool keep(void *ctx, const mn_row *row)
{
    const struct wanted *w = ctx;
    const mn_value *language = mn_row_attr(row, "language");
    const mn_value *year = mn_row_attr(row, "year");
    return language->type == MN_TEXT && year->type == MN_INTEGER && year->integer >= w->since &&
           strlen(w->language) == language->len &&
           memcmp(language->data, w->language, language->len) == 0;
}

static void print(const char *what, const mn_hit *hits, size_t n)
{
    printf("%s:", what);
    for (size_t i = 0; i < n; i++)
        printf(" %lld (%.2f)", (long long)hits[i].id, hits[i].distance);
    printf("\n");
}

int main(void)
{
    static const struct {
        float x, y;
        const char *language;
        int64_t year;
    } books[] = {{0, 0, "en", 1999}, {1, 0, "de", 2005}, {2, 0, "en", 2010},
                 {3, 0, "en", 2020}, {4, 0, "fr", 2021}, {5, 0, "en", 2022}};
    mn_db *db;
    mn_conn *conn;
    mn_error err;
    if (mn_open(":memory:", NULL, &db, &err) || mn_connect(db, &conn, &err))
        return fail("open", &err);
    const char *attributes[] = {"language", "year"};
    const mn_collection_opts opts = {.dim = 2, .attributes = attributes, .n_attributes = 2};
    if (mn_create(conn, "books", &opts, &err))
        return fail("create", &err);
    for (int i = 0; i < 6; i++) {
        const float vector[] = {books[i].x, books[i].y};
        const mn_attr attrs[] = {
            {"language", {.type = MN_TEXT, .data = books[i].language, .len = 2}},
            {"year", {.type = MN_INTEGER, .integer = books[i].year}}};
        const mn_row row = {.id = i + 1, .vector = vector, .attrs = attrs, .n_attrs = 2};
        if (mn_put(conn, "books", &row, 1, NULL, &err))
            return fail("put", &err);
    }

    const float query[] = {0, 0};
    mn_hit hits[2];
    uint32_t found;
    if (mn_search(conn, "books", query, 1, 2, NULL, hits, &found, &err))
        return fail("search", &err);
    print("the 2 nearest", hits, found);

    struct wanted english = {.language = "en", .since = 2000};
    const mn_search_opts filtered = {.filter = keep, .filter_ctx = &english};
    if (mn_search(conn, "books", query, 1, 2, &filtered, hits, &found, &err))
        return fail("search", &err);
    print("in English since 2000", hits, found);

    const int64_t shelf[] = {6, 5, 2};
    const mn_search_opts listed = {.only_ids = shelf, .n_only_ids = 3};
    if (mn_search(conn, "books", query, 1, 2, &listed, hits, &found, &err))
        return fail("search", &err);
    print("on the shelf", hits, found);

    mn_hit *within;
    size_t n;
    if (mn_search_radius(conn, "books", query, 2.5, 0, &filtered, &within, &n, &err))
        return fail("search", &err);
    print("the same within 2.5", within, n);
    mn_free_result(within);

    mn_disconnect(conn);
    if (mn_close(db, &err))
        return fail("close", &err);
    return 0;
}
