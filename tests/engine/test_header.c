/* What the header says in prose, held against what the library does. */
#include <sqlite3.h>
#include <sys/stat.h>

#include "mneme.h"
#include "tests/test.h"

static mn_error err;

static char *read_header(void)
{
    FILE *f = fopen(test_source("include/mneme.h"), "r");
    char *text = calloc(1, 1 << 20);
    CHECK(f && text && fread(text, 1, (1 << 20) - 1, f) > 1000);
    fclose(f);
    return text;
}

/* The table in the header's head and mn_defaults() are the same, line by line. */
TEST(the_headers_table_of_defaults_is_the_librarys)
{
    char line[200], *text = read_header();
    const char *p = strstr(text, "\n * Defaults ");
    CHECK(p);
    p = strstr(p, "\n *\n") + 4;
    for (const mn_default *d = mn_defaults(); d->name; d++) {
        snprintf(line, sizeof line, " *     %-19s%-12s%s\n", d->name, d->value, d->meaning);
        CHECKF(strncmp(p, line, strlen(line)) == 0, "'%s' is not at '%.60s'", line, p);
        p += strlen(line);
    }
    CHECKF(strncmp(p, " *\n", 3) == 0, "the header has one more: '%.60s'", p);
    free(text);
}

TEST(a_missing_file_is_made_empty)
{
    mn_db *db;
    struct stat st;
    CHECK_OK(mn_open(test_path("new.db"), NULL, &db, &err), err);
    CHECK(stat(test_path("new.db"), &st) == 0);
    CHECK_EQ(st.st_size, 0);
    CHECK_OK(mn_close(db, &err), err);
    CHECK(stat(test_path("new.db"), &st) == 0 && st.st_size == 0);
}

TEST(a_databases_first_collection_is_made_outside_a_transaction)
{
    mn_db *db;
    mn_conn *conn;
    const mn_collection_opts opts = {.dim = 2};
    CHECK_OK(mn_open(test_path("a.db"), NULL, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    CHECK_OK(mn_begin_write(conn, &err), err);
    CHECK_EQ(mn_create(conn, "c", &opts, &err), MN_MISUSE);
    CHECK_HAS(err.message, "create it before");
    CHECK_OK(mn_rollback(conn, &err), err);
    CHECK_OK(mn_create(conn, "c", &opts, &err), err);
    CHECK_OK(mn_begin_write(conn, &err), err);
    CHECK_OK(mn_create(conn, "d", &opts, &err), err);
    CHECK_OK(mn_rollback(conn, &err), err);
    CHECK_EQ(mn_info(conn, "d", &(mn_collection_info){0}, &err), MN_NOTFOUND);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

/* The page size is chosen by the first collection that is made, not by the first that is asked. */
TEST(a_collection_that_is_refused_leaves_the_file_empty)
{
    static const struct {
        const char *name;
        mn_collection_opts opts;
    } bad[] = {{"c", {.dim = 0}},
               {"c", {.dim = MN_MAX_DIM + 1}},
               {"c'", {.dim = 3}},
               {"mneme_c", {.dim = 3}},
               {"c", {.dim = 8, .dtype = MN_BIT}}};
    mn_db *db;
    mn_conn *conn;
    struct stat st;
    mn_stats_info stats;
    CHECK_OK(mn_open(test_path("a.db"), NULL, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ(mn_create(conn, bad[i].name, &bad[i].opts, &err), MN_INVALID);
        CHECKF(stat(test_path("a.db"), &st) == 0 && st.st_size == 0, "bad[%zu]", i);
    }
    CHECK_OK(mn_create(conn, "c", &(mn_collection_opts){.dim = 1536}, &err), err);
    CHECK_OK(mn_stats(conn, &stats, &err), err);
    CHECK_EQ(stats.page_bytes, 32768);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

/* SQLite cannot change a table under an open statement, and says that it is locked. */
TEST(schema_changes_under_an_iterator_are_told)
{
    mn_db *db;
    mn_conn *conn;
    mn_iter *it;
    const mn_row *row;
    const float x[] = {1, 2};
    const mn_row rows[] = {{.id = 1, .vector = x}, {.id = 2, .vector = x}};
    CHECK_OK(mn_open(test_path("a.db"), NULL, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    CHECK_OK(mn_create(conn, "c", &(mn_collection_opts){.dim = 2}, &err), err);
    CHECK_OK(mn_put(conn, "c", rows, 2, NULL, &err), err);
    CHECK_OK(mn_begin_write(conn, &err), err);
    CHECK_OK(mn_iter_open(conn, "c", 0, &it, &err), err);
    CHECK_EQ(mn_drop(conn, "c", &err), MN_MISUSE);
    CHECK_HAS(err.message, "iterator");
    CHECK_EQ(mn_add_attribute(conn, "c", "a", &err), MN_MISUSE);
    const mn_collection_opts beside = {.dim = 2, .beside = "c"};
    CHECK_EQ(mn_create(conn, "d", &beside, &err), MN_MISUSE);
    CHECK_OK(mn_iter_next(it, &row, &err), err);
    CHECK_EQ(row->id, 1);
    mn_iter_close(it);
    CHECK_OK(mn_add_attribute(conn, "c", "a", &err), err);
    CHECK_OK(mn_drop(conn, "c", &err), err);
    CHECK_OK(mn_commit(conn, &err), err);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

struct progress {
    uint64_t done, total; /* as last heard of */
};

static bool on_progress(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    struct progress *p = ctx;
    CHECK_STR(stage, "verify");
    CHECK(done >= p->done && (total == 0 || done <= total));
    *p = (struct progress){done, total};
    return true;
}

TEST(verify_tells_how_many_vectors_there_are)
{
    enum { ROWS = 9000 };
    static const int8_t x[] = {1, 2};
    static mn_row rows[ROWS];
    mn_db *db;
    mn_conn *conn;
    struct progress p = {0};
    const mn_collection_opts opts = {.dim = 2, .dtype = MN_I8};
    const mn_collection_opts beside = {.dim = 2, .dtype = MN_I8, .beside = "c"};
    for (size_t i = 0; i < ROWS; i++)
        rows[i] = (mn_row){.id = (int64_t)i, .vector = x};
    CHECK_OK(mn_open(":memory:", NULL, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    CHECK_OK(mn_create(conn, "c", &opts, &err), err);
    CHECK_OK(mn_create(conn, "d", &beside, &err), err);
    CHECK_OK(mn_put(conn, "c", rows, ROWS, NULL, &err), err);
    CHECK_OK(mn_put(conn, "d", rows, 10, NULL, &err), err);
    mn_set_progress(conn, on_progress, &p);
    CHECK_OK(mn_verify(conn, NULL, NULL, NULL, &err), err);
    CHECK_EQ(p.total, ROWS + 10);
    CHECK(p.done > ROWS / 2);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

TEST_MAIN
