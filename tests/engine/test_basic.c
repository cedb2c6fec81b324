/* A database from the outside: create, put, get, search, transactions, reopen. */
#include <unistd.h>

#include "mneme.h"
#include "tests/test.h"

static mn_error err;

static mn_conn *open_at(const char *path, mn_db **db)
{
    mn_conn *conn;
    CHECK_OK(mn_open(path, NULL, db, &err), err);
    CHECK_OK(mn_connect(*db, &conn, &err), err);
    return conn;
}

static void shut(mn_conn *conn, mn_db *db)
{
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

static void put3(mn_conn *conn, const char *name, int64_t id, float a, float b, float c)
{
    const float v[] = {a, b, c};
    const mn_row row = {.id = id, .vector = v};
    CHECK_OK(mn_put(conn, name, &row, 1, NULL, &err), err);
}

/* Finds the 3 nearest of (1, 0, 0) and compares their ids with the list, which ends in 0. */
static void expect(mn_conn *conn, const char *name, const int64_t *ids)
{
    const float q[] = {1, 0, 0};
    mn_hit hits[3];
    uint32_t found = 99, want = 0;
    CHECK_OK(mn_search(conn, name, q, 1, 3, NULL, hits, &found, &err), err);
    while (ids[want])
        want++;
    CHECK_EQ(found, want);
    for (uint32_t i = 0; i < found; i++)
        CHECK_EQ(hits[i].id, ids[i]);
}

static void walk_through(const char *path)
{
    mn_db *db;
    mn_conn *conn = open_at(path, &db);
    CHECK_OK(mn_create(conn, "c", &(mn_collection_opts){.dim = 3}, &err), err);
    expect(conn, "c", (int64_t[]){0});
    put3(conn, "c", 1, 1, 0, 0);
    put3(conn, "c", 2, 0, 1, 0);
    put3(conn, "c", 3, 0.9f, 0, 0);
    expect(conn, "c", (int64_t[]){1, 3, 2, 0});
    put3(conn, "c", 2, 1, 0, 0);
    expect(conn, "c", (int64_t[]){1, 2, 3, 0});
    CHECK_OK(mn_delete(conn, "c", &(mn_id){.id = 1}, 1, NULL, &err), err);
    expect(conn, "c", (int64_t[]){2, 3, 0});

    CHECK_OK(mn_begin_write(conn, &err), err);
    put3(conn, "c", 7, 1, 0, 0);
    expect(conn, "c", (int64_t[]){2, 7, 3, 0});
    CHECK_OK(mn_savepoint(conn, "s", &err), err);
    put3(conn, "c", 1, 1, 0, 0);
    expect(conn, "c", (int64_t[]){1, 2, 7, 0});
    CHECK_OK(mn_rollback_to(conn, "s", &err), err);
    expect(conn, "c", (int64_t[]){2, 7, 3, 0});
    CHECK_OK(mn_rollback(conn, &err), err);
    expect(conn, "c", (int64_t[]){2, 3, 0});
    shut(conn, db);
}

TEST(rows_come_and_go_on_disk)
{
    const char *path = test_path("a.db");
    walk_through(path);
    mn_db *db;
    mn_conn *conn = open_at(path, &db);
    expect(conn, "c", (int64_t[]){2, 3, 0});
    uint64_t findings = 9;
    CHECK_OK(mn_verify(conn, NULL, NULL, &findings, &err), err);
    CHECK_EQ(findings, 0);
    shut(conn, db);
}

TEST(rows_come_and_go_in_memory)
{
    walk_through(":memory:");
}

TEST(text_ids_attributes_and_payload_come_back)
{
    mn_db *db;
    mn_conn *conn = open_at(test_path("a.db"), &db);
    const char *attributes[] = {"lang", "year"};
    mn_collection_opts opts = {
        .dim = 2, .id_kind = MN_ID_TEXT, .metric = MN_COSINE, .attributes = attributes,
        .n_attributes = 2};
    CHECK_OK(mn_create(conn, "docs", &opts, &err), err);
    const float v[] = {3, 4};
    const mn_attr attrs[] = {{"year", {.type = MN_INTEGER, .integer = 1999}},
                             {"lang", {.type = MN_TEXT, .data = "en", .len = 2}}};
    const mn_row row = {.text_id = "one", .vector = v, .attrs = attrs, .n_attrs = 2,
                        .payload = "hello", .payload_len = SIZE_MAX};
    int64_t id = 0, version = 0;
    CHECK_OK(mn_put(conn, "docs", &row, 1, &(mn_put_opts){.ids = &id, .versions = &version}, &err),
             err);
    CHECK_EQ(id, 1);
    mn_rows *rows;
    const mn_id ids[] = {{.text_id = "two"}, {.text_id = "one"}, {.id = 1}};
    CHECK_OK(mn_get(conn, "docs", ids, 3, &rows, &err), err);
    CHECK(mn_rows_at(rows, 0) == NULL);
    for (size_t i = 1; i < 3; i++) {
        const mn_row *r = mn_rows_at(rows, i);
        CHECK(r);
        CHECK_STR(r->text_id, "one");
        CHECK_EQ(r->version, version);
        CHECK_EQ(mn_row_attr(r, "year")->integer, 1999);
        CHECK_STR((const char *)mn_row_attr(r, "lang")->data, "en");
        CHECK_STR(r->payload, "hello");
        CHECK(memcmp(r->vector, v, sizeof v) == 0);
    }
    mn_rows_free(rows);
    mn_iter *it;
    const mn_row *r;
    CHECK_OK(mn_iter_open(conn, "docs", INT64_MIN, &it, &err), err);
    CHECK_OK(mn_iter_next(it, &r, &err), err);
    CHECK_STR(r->text_id, "one");
    CHECK_EQ(mn_put(conn, "docs", &row, 1, NULL, &err), MN_MISUSE);
    CHECK_OK(mn_iter_next(it, &r, &err), err);
    CHECK(!r);
    mn_iter_close(it);
    mn_put_opts if_absent = {.mode = MN_PUT_IF_ABSENT};
    CHECK_EQ(mn_put(conn, "docs", &row, 1, &if_absent, &err), MN_CONFLICT);
    mn_row again = row;
    again.version = version + 1;
    mn_put_opts if_version = {.mode = MN_PUT_IF_VERSION, .versions = &again.version};
    CHECK_EQ(mn_put(conn, "docs", &again, 1, &if_version, &err), MN_CONFLICT);
    again.version = version;
    CHECK_OK(mn_put(conn, "docs", &again, 1, &if_version, &err), err);
    CHECK(again.version > version);
    shut(conn, db);
}

TEST(a_second_connection_sees_commits_only)
{
    mn_db *db;
    mn_conn *a = open_at(test_path("a.db"), &db), *b;
    CHECK_OK(mn_connect(db, &b, &err), err);
    CHECK_OK(mn_create(a, "c", &(mn_collection_opts){.dim = 3}, &err), err);
    put3(a, "c", 1, 1, 0, 0);
    expect(b, "c", (int64_t[]){1, 0});
    CHECK_OK(mn_begin_read(b, &err), err);
    expect(b, "c", (int64_t[]){1, 0});
    CHECK_OK(mn_begin_write(a, &err), err);
    put3(a, "c", 2, 0.9f, 0, 0);
    expect(a, "c", (int64_t[]){1, 2, 0});
    CHECK_OK(mn_commit(a, &err), err);
    expect(a, "c", (int64_t[]){1, 2, 0});
    expect(b, "c", (int64_t[]){1, 0});
    CHECK_OK(mn_commit(b, &err), err);
    expect(b, "c", (int64_t[]){1, 2, 0});
    mn_disconnect(b);
    shut(a, db);
}

TEST(a_collection_beside_another_shares_its_rows)
{
    mn_db *db;
    mn_conn *conn = open_at(test_path("a.db"), &db);
    CHECK_OK(mn_create(conn, "c", &(mn_collection_opts){.dim = 3}, &err), err);
    put3(conn, "c", 1, 1, 0, 0);
    CHECK_OK(mn_create(conn, "d", &(mn_collection_opts){.dim = 3, .beside = "c"}, &err), err);
    put3(conn, "d", 1, 0, 0, 1);
    put3(conn, "d", 2, 1, 0, 0);
    expect(conn, "c", (int64_t[]){1, 0});
    expect(conn, "d", (int64_t[]){2, 1, 0});
    CHECK_OK(mn_drop(conn, "c", &err), err);
    expect(conn, "d", (int64_t[]){2, 1, 0});
    put3(conn, "d", 3, 1, 0, 0);
    expect(conn, "d", (int64_t[]){2, 3, 1, 0});
    CHECK_OK(mn_drop(conn, "d", &err), err);
    shut(conn, db);
}

TEST_MAIN
