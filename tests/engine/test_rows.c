/* Rows written and read in part: mn_put_opts.keep_rest, mn_get_meta, mn_attributes. */
#include "mneme.h"
#include "tests/test.h"

static mn_error err;
static mn_db *db;
static mn_conn *conn;

static const char *const attributes[] = {"lang", "year", "a,b"};

/* Collection "docs" of 2 x f32 with three attributes, "titles" of 1 x f32 beside it. */
static void begin(mn_id_kind kind)
{
    CHECK_OK(mn_open(test_path("a.db"), NULL, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    const mn_collection_opts docs = {
        .dim = 2, .id_kind = kind, .attributes = attributes, .n_attributes = 3};
    const mn_collection_opts titles = {.dim = 1, .beside = "docs"};
    CHECK_OK(mn_create(conn, "docs", &docs, &err), err);
    CHECK_OK(mn_create(conn, "titles", &titles, &err), err);
}

static void end(void)
{
    uint64_t findings = 1;
    CHECK_OK(mn_verify(conn, NULL, NULL, &findings, &err), err);
    CHECK_EQ(findings, 0);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

static void put(const char *collection, mn_row row, bool keep)
{
    int64_t version = 0, before = 0;
    mn_rows *rows;
    const mn_id id = {.id = row.id, .text_id = row.text_id};
    CHECK_OK(mn_get_meta(conn, collection, &id, 1, &rows, &err), err);
    if (mn_rows_at(rows, 0))
        before = mn_rows_at(rows, 0)->version;
    mn_rows_free(rows);
    const mn_put_opts opts = {.keep_rest = keep, .versions = &version};
    CHECK_OK(mn_put(conn, collection, &row, 1, &opts, &err), err);
    CHECK(version > before);
}

/* Row 1 (or "one") as collection `name` shows it. */
static mn_rows *one(const char *name, bool vectors)
{
    mn_rows *rows;
    mn_collection_info info;
    CHECK_OK(mn_info(conn, name, &info, &err), err);
    mn_id id = {.id = 1, .text_id = info.id_kind == MN_ID_TEXT ? "one" : NULL};
    CHECK_OK(vectors ? mn_get(conn, name, &id, 1, &rows, &err)
                     : mn_get_meta(conn, name, &id, 1, &rows, &err),
             err);
    CHECK(mn_rows_at(rows, 0));
    return rows;
}

static void check_docs(float x, const char *lang, int64_t year, const char *payload)
{
    mn_rows *rows = one("docs", true);
    const mn_row *row = mn_rows_at(rows, 0);
    CHECK_NEAR(((const float *)row->vector)[0], x, 0);
    const mn_value *l = mn_row_attr(row, "lang"), *y = mn_row_attr(row, "year");
    CHECK(lang ? l->type == MN_TEXT && strcmp(l->data, lang) == 0 : l->type == MN_NULL);
    CHECK_EQ(y->type, MN_INTEGER);
    CHECK_EQ(y->integer, year);
    CHECK(payload ? row->payload && strcmp(row->payload, payload) == 0 : !row->payload);
    mn_rows_free(rows);
}

static void keep_in_parts(mn_id_kind kind)
{
    const float x[] = {1, 2}, y[] = {3, 4}, title[] = {9};
    const char *text = kind == MN_ID_TEXT ? "one" : NULL;
    const mn_attr all[] = {{"lang", {.type = MN_TEXT, .data = "en", .len = 2}},
                           {"year", {.type = MN_INTEGER, .integer = 1990}}};
    const mn_attr year = {"YEAR", {.type = MN_INTEGER, .integer = 2001}}, none = {"lang", {0}};
    begin(kind);
    mn_row row = {.id = 1, .text_id = text, .vector = x, .payload = "p", .payload_len = SIZE_MAX};
    row.attrs = all;
    row.n_attrs = 2;
    put("docs", row, true); /* a new row: nothing to keep */
    check_docs(1, "en", 1990, "p");
    row = (mn_row){.id = 1, .text_id = text, .vector = title};
    put("titles", row, true); /* the other vector alone */
    check_docs(1, "en", 1990, "p");
    row = (mn_row){.id = 1, .text_id = text, .attrs = &year, .n_attrs = 1};
    put("docs", row, true);
    check_docs(1, "en", 2001, "p");
    row = (mn_row){.id = 1, .text_id = text, .attrs = &none, .n_attrs = 1, .payload = ""};
    put("docs", row, true); /* NULL and empty can be given, too */
    check_docs(1, NULL, 2001, "");
    row = (mn_row){.id = 1, .text_id = text, .vector = y};
    put("docs", row, true);
    check_docs(3, NULL, 2001, "");
    mn_rows *rows = one("titles", true);
    CHECK_NEAR(((const float *)mn_rows_at(rows, 0)->vector)[0], 9, 0);
    mn_rows_free(rows);
    row = (mn_row){.id = 1, .text_id = text, .vector = x};
    put("docs", row, false);
    rows = one("docs", true);
    CHECK_EQ(mn_row_attr(mn_rows_at(rows, 0), "year")->type, MN_NULL);
    CHECK(!mn_rows_at(rows, 0)->payload);
    mn_rows_free(rows);
    end();
}

TEST(a_row_put_in_parts_keeps_the_rest)
{
    keep_in_parts(MN_ID_INTEGER);
}

TEST(a_row_with_a_text_id_put_in_parts_keeps_the_rest)
{
    keep_in_parts(MN_ID_TEXT);
}

/* Old and new rows in one call, with the condition that they have. */
TEST(rows_are_kept_in_part_within_batches)
{
    float x[20];
    mn_row rows[10] = {0};
    mn_rows *got;
    begin(MN_ID_INTEGER);
    for (int i = 0; i < 10; i++) {
        x[2 * i] = x[2 * i + 1] = (float)i;
        rows[i] = (mn_row){.id = i, .vector = &x[2 * i], .payload = "old", .payload_len = SIZE_MAX};
    }
    CHECK_OK(mn_put(conn, "docs", rows, 5, NULL, &err), err);
    for (int i = 0; i < 10; i++) {
        rows[i].payload = i % 2 ? "new" : NULL;
        rows[i].vector = NULL;
    }
    CHECK_OK(mn_put(conn, "docs", rows, 10, &(mn_put_opts){.keep_rest = true}, &err), err);
    for (int i = 0; i < 10; i++) {
        const char *want = i % 2 ? "new" : i < 5 ? "old" : NULL;
        CHECK_OK(mn_get(conn, "docs", &(mn_id){.id = i}, 1, &got, &err), err);
        const mn_row *row = mn_rows_at(got, 0);
        CHECKF(want ? row->payload && strcmp(row->payload, want) == 0 : !row->payload, "row %d", i);
        CHECKF((row->vector != NULL) == (i < 5), "row %d", i);
        mn_rows_free(got);
    }
    mn_put_opts opts = {.keep_rest = true, .mode = MN_PUT_IF_VERSION};
    rows[0].version = 1;
    CHECK_EQ(mn_put(conn, "docs", rows, 1, &opts, &err), MN_CONFLICT);
    end();
}

TEST(rows_are_read_without_their_vectors)
{
    const float x[] = {1, 2};
    begin(MN_ID_TEXT);
    put("docs", (mn_row){.text_id = "one", .vector = x, .payload = "p", .payload_len = 1}, false);
    mn_rows *rows = one("docs", false);
    const mn_row *row = mn_rows_at(rows, 0);
    CHECK(!row->vector);
    CHECK_STR(row->text_id, "one");
    CHECK_STR(row->payload, "p");
    CHECK_EQ(row->n_attrs, 3);
    mn_rows_free(rows);
    CHECK_OK(mn_get_meta(conn, "docs", &(mn_id){.text_id = "two"}, 1, &rows, &err), err);
    CHECK(mn_rows_count(rows) == 1 && !mn_rows_at(rows, 0));
    mn_rows_free(rows);
    CHECK_EQ(mn_get_meta(conn, "dogs", NULL, 0, &rows, &err), MN_NOTFOUND);
    CHECK(!rows);
    end();
}

TEST(attributes_at_null_are_told)
{
    const mn_collection_opts opts = {.dim = 1, .n_attributes = 2};
    const mn_row rows[] = {{.id = 1}, {.id = 2, .n_attrs = 3}};
    begin(MN_ID_INTEGER);
    CHECK_EQ(mn_create(conn, "c", &opts, &err), MN_INVALID);
    CHECK_HAS(err.message, "collection 'c': 2 attributes at NULL");
    CHECK_EQ(mn_put(conn, "docs", rows, 2, NULL, &err), MN_INVALID);
    CHECK_HAS(err.message, "put: row 1: 3 attributes at NULL");
    end();
}

TEST(attributes_are_listed_by_name)
{
    const char **names;
    size_t n;
    char name[MN_MAX_NAME + 1];
    begin(MN_ID_INTEGER);
    CHECK_OK(mn_attributes(conn, "titles", &names, &n, &err), err);
    CHECK_EQ(n, 3);
    for (size_t i = 0; i < n; i++)
        CHECK_STR(names[i], attributes[i]);
    mn_free_result(names);
    for (int i = 3; i < (int)MN_MAX_ATTRIBUTES; i++) {
        snprintf(name, sizeof name, "%0*d", 100, i); /* together longer than mn_collection_info's */
        CHECK_OK(mn_add_attribute(conn, "docs", name, &err), err);
    }
    CHECK_OK(mn_attributes(conn, "docs", &names, &n, &err), err);
    CHECK_EQ(n, MN_MAX_ATTRIBUTES);
    CHECK_STR(names[n - 1], name);
    mn_free_result(names);
    CHECK_OK(mn_create(conn, "bare", &(mn_collection_opts){.dim = 1}, &err), err);
    CHECK_OK(mn_attributes(conn, "bare", &names, &n, &err), err);
    CHECK_EQ(n, 0);
    mn_free_result(names);
    CHECK_EQ(mn_attributes(conn, "dogs", &names, &n, &err), MN_NOTFOUND);
    CHECK(!names && n == 0);
    CHECK_EQ(mn_attributes(conn, "docs", NULL, &n, &err), MN_INVALID);
    end();
}

TEST_MAIN
