/* Every public function: what it is for, its limits, NULLs, and the words it fails with. */
#include <float.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/engine/engine.h"
#include "tests/test.h"

static mn_error err;

struct fix {
    mn_db *db;
    mn_conn *conn;
};

static struct fix open_at(const char *path, const mn_open_opts *opts)
{
    struct fix f;
    CHECK_OK(mn_open(path, opts, &f.db, &err), err);
    CHECK_OK(mn_connect(f.db, &f.conn, &err), err);
    return f;
}

static void shut(struct fix *f)
{
    mn_disconnect(f->conn);
    CHECK_OK(mn_close(f->db, &err), err);
}

/* In memory, with collection "c" of two dimensions and rows 1 .. n at (id, 0). */
static struct fix with_rows(int n)
{
    struct fix f = open_at(":memory:", NULL);
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), err);
    CHECK_OK(mn_begin_write(f.conn, &err), err);
    for (int i = 1; i <= n; i++) {
        const float v[] = {(float)i, 0};
        CHECK_OK(mn_put(f.conn, "c", &(mn_row){.id = i, .vector = v}, 1, NULL, &err), err);
    }
    CHECK_OK(mn_commit(f.conn, &err), err);
    return f;
}

static const float origin[2] = {0, 0};

static int64_t pragma(struct fix *f, const char *sql)
{
    sqlite3_stmt *st;
    CHECK(sqlite3_prepare_v2(f->conn->sql, sql, -1, &st, NULL) == SQLITE_OK);
    CHECK(sqlite3_step(st) == SQLITE_ROW);
    int64_t value = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return value;
}

#define FAILS(call, status, words)                                                                 \
    do {                                                                                           \
        CHECK_EQ(call, status);                                                                    \
        CHECK_EQ(err.code, status);                                                                \
        CHECK_HAS(err.message, words);                                                             \
    } while (0)

/* ---- Names and numbers ----------------------------------------------------------------------- */

TEST(types_have_names_and_sizes)
{
    static const struct {
        mn_dtype dtype;
        const char *name;
        size_t bytes; /* of 16 elements */
    } dtypes[] = {{MN_F32, "f32", 64},
                  {MN_F16, "f16", 32},
                  {MN_BF16, "bf16", 32},
                  {MN_I8, "i8", 16},
                  {MN_BIT, "bit", 2}};
    static const char *const metrics[] = {"l2", "ip", "cosine", "hamming"};
    mn_dtype dtype;
    mn_metric metric;
    for (size_t i = 0; i < 5; i++) {
        CHECK_STR(mn_dtype_name(dtypes[i].dtype), dtypes[i].name);
        CHECK(mn_dtype_parse(dtypes[i].name, &dtype) && dtype == dtypes[i].dtype);
        CHECK_EQ(mn_vector_bytes(dtype, 16), dtypes[i].bytes);
        CHECK_EQ(mn_vector_bytes(dtype, 0), 0);
        CHECK_EQ(mn_vector_bytes(dtype, MN_MAX_DIM + 1), 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK_STR(mn_metric_name((mn_metric)i), metrics[i]);
        CHECK(mn_metric_parse(metrics[i], &metric) && metric == (mn_metric)i);
    }
    CHECK_EQ(mn_vector_bytes(MN_BIT, 12), 0);
    CHECK_EQ(mn_vector_bytes((mn_dtype)9, 12), 0);
    CHECK(!mn_dtype_name((mn_dtype)5) && !mn_metric_name((mn_metric)-1));
    CHECK(!mn_dtype_parse("F32", &dtype) && !mn_dtype_parse(NULL, &dtype));
    CHECK(!mn_metric_parse("", &metric) && !mn_metric_parse(NULL, &metric));
}

TEST(statuses_and_versions_have_words)
{
    char version[32];
    for (int i = MN_OK; i <= MN_MISUSE; i++)
        CHECK(strcmp(mn_status_name((mn_status)i), "unknown") != 0);
    CHECK_STR(mn_status_name(MN_CONFLICT), "conflict");
    CHECK_STR(mn_status_name((mn_status)(MN_MISUSE + 1)), "unknown");
    CHECK_STR(mn_status_name((mn_status)-1), "unknown");
    snprintf(version, sizeof version, "%d.%d.%d", MN_VERSION_MAJOR, MN_VERSION_MINOR,
             MN_VERSION_PATCH);
    CHECK_STR(mn_version(), version);
}

static const char *default_of(const char *name)
{
    for (const mn_default *d = mn_defaults(); d->name; d++) {
        CHECK(d->value && *d->value && d->meaning && *d->meaning);
        if (strcmp(d->name, name) == 0)
            return d->value;
    }
    test_fail(__FILE__, __LINE__, "no default '%s'", name);
}

TEST(defaults_are_what_their_table_says)
{
    struct fix f = open_at(test_path("a.db"), NULL);
    mn_collection_info info;
    mn_stats_info stats;
    char text[32];
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 3}, &err), err);
    CHECK_OK(mn_info(f.conn, "c", &info, &err), err);
    CHECK_OK(mn_stats(f.conn, &stats, &err), err);
    CHECK_STR(default_of("metric"), mn_metric_name(info.metric));
    CHECK_STR(default_of("dtype"), mn_dtype_name(info.dtype));
    CHECK_STR(default_of("ids"), info.id_kind == MN_ID_INTEGER ? "integer" : "text");
    snprintf(text, sizeof text, "%" PRIu64 "MiB", stats.memory_cap >> 20);
    CHECK_STR(default_of("memory"), text);
    snprintf(text, sizeof text, "%ums", f.db->opts.busy_timeout_ms);
    CHECK_STR(default_of("busy timeout"), text);
    snprintf(text, sizeof text, "%u", f.db->opts.threads);
    CHECK_STR(default_of("threads"), text);
    CHECK_STR(default_of("durability"), "full");
    CHECK_EQ(pragma(&f, "PRAGMA synchronous"), 2);
    CHECK_STR(default_of("log"), "off");
    CHECK(!f.db->opts.log);
    CHECK_STR(default_of("deadline"), "none");
    CHECK_STR(default_of("max hits"), "1000000");
    shut(&f);
    f = open_at(test_path("a.db"), &(mn_open_opts){.durability = MN_RELAXED});
    CHECK_EQ(pragma(&f, "PRAGMA synchronous"), 1);
    shut(&f);
}

/* ---- NULL
 * ----------------------------------------------------------------------------------------- */

TEST(no_call_falls_over_null)
{
    mn_db *db;
    mn_conn *conn;
    size_t n;
    uint32_t found;
    mn_hit hit, *hits;
    mn_iter *it;
    const mn_row *row;
    CHECK_EQ(mn_open(NULL, NULL, &db, &err), MN_INVALID);
    CHECK_EQ(mn_open("", NULL, &db, NULL), MN_INVALID);
    CHECK(!db);
    CHECK_EQ(mn_open(":memory:", NULL, NULL, &err), MN_MISUSE);
    CHECK_EQ(mn_connect(NULL, &conn, &err), MN_MISUSE);
    CHECK_EQ(mn_close(NULL, &err), MN_OK);
    mn_disconnect(NULL);
    mn_abandon(NULL);
    mn_interrupt(NULL);
    mn_set_progress(NULL, NULL, NULL);
    mn_set_trainer(NULL, NULL, NULL);
    CHECK(!mn_path(NULL));
    mn_free_result(NULL);
    mn_rows_free(NULL);
    mn_iter_close(NULL);
    CHECK_EQ(mn_rows_count(NULL), 0);
    CHECK(!mn_rows_at(NULL, 0) && !mn_row_attr(NULL, "x"));
    CHECK_EQ(mn_list(NULL, NULL, NULL, &err), MN_MISUSE);
    CHECK_EQ(mn_search(NULL, "c", origin, 1, 1, NULL, &hit, &found, NULL), MN_MISUSE);
    CHECK_EQ(mn_iter_next(NULL, &row, &err), MN_MISUSE);
    struct fix f = with_rows(3);
    CHECK_EQ(mn_connect(f.db, NULL, &err), MN_MISUSE);
    CHECK_EQ(mn_create(f.conn, NULL, NULL, &err), MN_INVALID);
    CHECK_EQ(mn_create(f.conn, "d", NULL, &err), MN_INVALID);
    CHECK_EQ(mn_drop(f.conn, NULL, &err), MN_INVALID);
    CHECK_EQ(mn_list(f.conn, NULL, &n, &err), MN_INVALID);
    CHECK_EQ(mn_info(f.conn, "c", NULL, &err), MN_INVALID);
    CHECK_EQ(mn_info(f.conn, NULL, &(mn_collection_info){0}, &err), MN_INVALID);
    CHECK_EQ(mn_add_attribute(f.conn, "c", NULL, &err), MN_INVALID);
    CHECK_EQ(mn_put(f.conn, "c", NULL, 1, NULL, &err), MN_INVALID);
    CHECK_OK(mn_put(f.conn, "c", NULL, 0, NULL, &err), err);
    CHECK_EQ(mn_get(f.conn, "c", NULL, 1, NULL, &err), MN_INVALID);
    CHECK_EQ(mn_delete(f.conn, "c", NULL, 1, NULL, &err), MN_INVALID);
    CHECK_OK(mn_delete(f.conn, "c", NULL, 0, NULL, &err), err);
    CHECK_EQ(mn_delete_if_version(f.conn, "c", NULL, 1, &err), MN_INVALID);
    CHECK_EQ(mn_iter_open(f.conn, "c", 0, NULL, &err), MN_INVALID);
    CHECK_EQ(mn_savepoint(f.conn, NULL, &err), MN_INVALID);
    CHECK_EQ(mn_search(f.conn, NULL, origin, 1, 1, NULL, &hit, &found, &err), MN_INVALID);
    CHECK_EQ(mn_search(f.conn, "c", NULL, 1, 1, NULL, &hit, &found, &err), MN_INVALID);
    CHECK_EQ(mn_search(f.conn, "c", origin, 1, 1, NULL, NULL, &found, &err), MN_INVALID);
    CHECK_EQ(mn_search(f.conn, "c", origin, 1, 1, NULL, &hit, NULL, &err), MN_INVALID);
    CHECK_EQ(mn_search_radius(f.conn, "c", NULL, 1, 0, NULL, &hits, &n, &err), MN_INVALID);
    CHECK_EQ(mn_search_radius(f.conn, "c", origin, 1, 0, NULL, NULL, &n, &err), MN_INVALID);
    CHECK_EQ(mn_stats(f.conn, NULL, &err), MN_INVALID);
    CHECK_EQ(mn_collection_stats_get(f.conn, "c", NULL, &err), MN_INVALID);
    CHECK_OK(mn_verify(f.conn, NULL, NULL, NULL, NULL), err);
    CHECK_EQ(mn_backup(f.conn, NULL, &err), MN_INVALID);
    CHECK_OK(mn_iter_open(f.conn, "c", 0, &it, &err), err);
    CHECK_EQ(mn_iter_next(it, NULL, &err), MN_MISUSE);
    mn_iter_close(it);
    shut(&f);
}

/* ---- Opening
 * ------------------------------------------------------------------------------------- */

TEST(open_refuses_options_that_make_no_sense)
{
    static const struct {
        mn_open_opts opts;
        const char *says;
    } bad[] = {{{.flags = 64}, "unknown flags 0x40"},
               {{.flags = MN_OPEN_IMMUTABLE}, "needs MN_OPEN_READONLY"},
               {{.memory_bytes = (4 << 20) - 1}, "at least 4194304"},
               {{.threads = 257}, "at most 256"},
               {{.durability = (mn_durability)2}, "no durability"}};
    mn_db *db;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FAILS(mn_open(":memory:", &bad[i].opts, &db, &err), MN_INVALID, bad[i].says);
        CHECK(!db);
    }
    struct fix f = open_at(":memory:", &(mn_open_opts){.memory_bytes = 4 << 20, .threads = 256});
    shut(&f);
}

TEST(one_path_is_one_handle)
{
    char other[600];
    mn_db *again, *db;
    struct fix f = open_at(test_path("a.db"), NULL);
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), err);
    snprintf(other, sizeof other, "%s/../%s/./a.db", test_dir(), strrchr(test_dir(), '/') + 1);
    CHECK_OK(mn_open(other, NULL, &again, &err), err);
    CHECK(again == f.db);
    CHECK_STR(mn_path(again), mn_path(f.db));
    FAILS(mn_open(other, &(mn_open_opts){.threads = 2}, &db, &err), MN_MISUSE, "another threads");
    FAILS(mn_open(other, &(mn_open_opts){.flags = MN_OPEN_READONLY}, &db, &err), MN_MISUSE,
          "flags");
    CHECK_OK(mn_open(other, &(mn_open_opts){.flags = MN_OPEN_MUST_EXIST}, &db, &err), err);
    CHECK_OK(mn_close(db, &err), err);
    CHECK_OK(mn_close(again, &err), err);
    FAILS(mn_close(f.db, &err), MN_MISUSE, "1 connections are open");
    shut(&f);
    mn_db *memory[2];
    CHECK_OK(mn_open(":memory:", NULL, &memory[0], &err), err);
    CHECK_OK(mn_open(":memory:", NULL, &memory[1], &err), err);
    CHECK(memory[0] != memory[1]); /* each its own */
    CHECK_STR(mn_path(memory[0]), ":memory:");
    CHECK_OK(mn_close(memory[0], &err), err);
    CHECK_OK(mn_close(memory[1], &err), err);
}

TEST(opening_alone_makes_an_empty_file)
{
    mn_db *db;
    mn_conn *conn;
    mn_collection_info *list;
    size_t n = 9;
    const char *path = test_path("a.db");
    FAILS(mn_open(path, &(mn_open_opts){.flags = MN_OPEN_MUST_EXIST}, &db, &err), MN_NOTFOUND,
          "no such file");
    FAILS(mn_open(path, &(mn_open_opts){.flags = MN_OPEN_READONLY}, &db, &err), MN_NOTFOUND,
          "no such file");
    FAILS(mn_open("/nowhere/at/all.db", NULL, &db, &err), MN_NOTFOUND, "folder");
    FAILS(mn_open(test_dir(), NULL, &db, &err), MN_INVALID, "is a folder");
    CHECK_OK(mn_open(path, NULL, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    CHECK_OK(mn_list(conn, &list, &n, &err), err);
    CHECK_EQ(n, 0);
    mn_free_result(list);
    FAILS(mn_info(conn, "c", &(mn_collection_info){0}, &err), MN_NOTFOUND, "create it first");
    FAILS(mn_drop(conn, "c", &err), MN_NOTFOUND, "create it first");
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
    struct stat st;
    CHECK(stat(path, &st) == 0 && st.st_size == 0);
}

TEST(a_plain_sqlite_database_is_fine_and_stays_what_it_is)
{
    sqlite3 *sql;
    const char *path = test_path("plain.db");
    CHECK(sqlite3_open(path, &sql) == SQLITE_OK);
    CHECK(sqlite3_exec(sql, "CREATE TABLE t(x); INSERT INTO t VALUES (1)", 0, 0, 0) == SQLITE_OK);
    sqlite3_close(sql);
    struct fix f = open_at(path, NULL);
    FAILS(mn_create(f.conn, "T", &(mn_collection_opts){.dim = 2}, &err), MN_EXISTS,
          "a table called");
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), err);
    CHECK_EQ(pragma(&f, "SELECT count(*) FROM t"), 1);
    shut(&f);
}

TEST(a_read_only_database_is_read_and_not_written)
{
    const char *path = test_path("a.db");
    struct fix f = open_at(path, NULL);
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), err);
    CHECK_OK(mn_put(f.conn, "c", &(mn_row){.id = 1, .vector = origin}, 1, NULL, &err), err);
    shut(&f);
    static const uint32_t flags[] = {MN_OPEN_READONLY, MN_OPEN_READONLY | MN_OPEN_IMMUTABLE};
    for (int i = 0; i < 2; i++) {
        mn_hit hit;
        uint32_t found;
        f = open_at(path, &(mn_open_opts){.flags = flags[i]});
        CHECK_OK(mn_search(f.conn, "c", origin, 1, 1, NULL, &hit, &found, &err), err);
        CHECK_EQ(found, 1);
        FAILS(mn_put(f.conn, "c", &(mn_row){.id = 1}, 1, NULL, &err), MN_READONLY, "read-only");
        FAILS(mn_create(f.conn, "d", &(mn_collection_opts){.dim = 2}, &err), MN_READONLY,
              "read-only");
        FAILS(mn_drop(f.conn, "c", &err), MN_READONLY, "read-only");
        FAILS(mn_begin_write(f.conn, &err), MN_READONLY, "read-only");
        CHECK_OK(mn_verify(f.conn, NULL, NULL, NULL, &err), err);
        shut(&f);
    }
}

/* ---- Collections
 * ------------------------------------------------------------------------------------ */

TEST(shapes_have_limits)
{
    static const struct {
        mn_collection_opts opts;
        const char *says;
    } bad[] = {{{.dim = 0}, "dimension 0; it must be 1 to 16384"},
               {{.dim = 16385}, "dimension 16385"},
               {{.dim = 12, .dtype = MN_BIT, .metric = MN_HAMMING}, "multiple of 8"},
               {{.dim = 8, .dtype = MN_BIT}, "hamming goes with bit"},
               {{.dim = 8, .metric = MN_HAMMING}, "hamming goes with bit"},
               {{.dim = 8, .dtype = (mn_dtype)5}, "5 is no dtype"},
               {{.dim = 8, .metric = (mn_metric)4}, "4 is no metric"},
               {{.dim = 8, .id_kind = (mn_id_kind)2}, "2 is no kind of id"},
               {{.dim = 8, .beside = "nothing"}, "no collection 'nothing'"}};
    struct fix f = with_rows(1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        FAILS(mn_create(f.conn, "x", &bad[i].opts, &err),
              bad[i].opts.beside ? MN_NOTFOUND : MN_INVALID, bad[i].says);
    shut(&f);
}

TEST(the_smallest_and_the_largest_vectors_work)
{
    struct fix f = open_at(":memory:", NULL);
    static char a[4 * MN_MAX_DIM], b[4 * MN_MAX_DIM];
    for (int t = 0; t < 5; t++) {
        for (int large = 0; large < 2; large++) {
            char name[32];
            mn_dtype dtype = (mn_dtype)t;
            uint32_t dim = large ? MN_MAX_DIM : dtype == MN_BIT ? 8 : 1;
            size_t bytes = mn_vector_bytes(dtype, dim);
            mn_collection_opts opts = {
                .dim = dim, .dtype = dtype, .metric = dtype == MN_BIT ? MN_HAMMING : MN_L2};
            mn_hit hits[2];
            uint32_t found;
            snprintf(name, sizeof name, "c%d%d", t, large);
            memset(a, 0, bytes);
            memset(b, 0, bytes);
            b[bytes - 1] = dtype == MN_BIT || dtype == MN_I8 ? 1 : 0x3c; /* the last element */
            const mn_row rows[] = {{.id = 1, .vector = a}, {.id = 2, .vector = b}};
            CHECK_OK(mn_create(f.conn, name, &opts, &err), err);
            CHECK_OK(mn_put(f.conn, name, rows, 2, NULL, &err), err);
            CHECK_OK(mn_search(f.conn, name, b, 1, 2, NULL, hits, &found, &err), err);
            CHECK_EQ(found, 2);
            CHECK_EQ(hits[0].id, 2);
            CHECK_NEAR(hits[0].distance, 0, 0);
            CHECK(hits[1].distance > 0);
        }
    }
    shut(&f);
}

TEST(names_are_checked)
{
    static const struct {
        const char *name, *says;
    } bad[] = {{"", "is empty"},
               {"mneme_x", "reserved"},
               {"SQLite_x", "reserved"},
               {"a\"b", "quote or control character at byte 1"},
               {"a'b", "quote"},
               {"a`b", "quote"},
               {"a\nb", "control"},
               {"ab\x7f", "byte 2"},
               {"a\xff", "no valid UTF-8 at byte 1"}};
    static const char *const good[] = {
        "select", "a b", "na\xc3\xafve \xf0\x9f\x98\x80", "x;--", "table.column", "[x]", "%s%n",
        "1",      "-"};
    char name[MN_MAX_NAME + 2];
    struct fix f = with_rows(0);
    mn_collection_opts opts = {.dim = 2};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FAILS(mn_create(f.conn, bad[i].name, &opts, &err), MN_INVALID, bad[i].says);
        FAILS(mn_add_attribute(f.conn, "c", bad[i].name, &err), MN_INVALID, bad[i].says);
    }
    memset(name, 'n', sizeof name);
    name[MN_MAX_NAME + 1] = '\0';
    FAILS(mn_create(f.conn, name, &opts, &err), MN_INVALID, "has 128 bytes; at most 127");
    name[MN_MAX_NAME] = '\0';
    CHECK_OK(mn_create(f.conn, name, &opts, &err), err);
    mn_collection_info info;
    CHECK_OK(mn_info(f.conn, name, &info, &err), err);
    CHECK_STR(info.name, name);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        mn_hit hit;
        uint32_t found;
        CHECK_OK(mn_create(f.conn, good[i], &opts, &err), err);
        CHECK_OK(mn_add_attribute(f.conn, good[i], good[i], &err), err);
        const mn_attr attr = {good[i], {.type = MN_INTEGER, .integer = 5}};
        const mn_row row = {.id = 1, .vector = origin, .attrs = &attr, .n_attrs = 1};
        CHECK_OK(mn_put(f.conn, good[i], &row, 1, NULL, &err), err);
        CHECK_OK(mn_put(f.conn, good[i], &row, 1, NULL, &err), err);
        CHECK_OK(mn_search(f.conn, good[i], origin, 1, 1, NULL, &hit, &found, &err), err);
        CHECK_EQ(found, 1);
        mn_collection_opts beside = {.dim = 2, .beside = good[i]};
        snprintf(name, sizeof name, "%s beside", good[i]);
        CHECK_OK(mn_create(f.conn, name, &beside, &err), err);
        CHECK_OK(mn_put(f.conn, name, &row, 1, NULL, &err), err);
        CHECK_OK(mn_drop(f.conn, good[i], &err), err);
        CHECK_OK(mn_drop(f.conn, name, &err), err);
    }
    FAILS(mn_create(f.conn, "C", &opts, &err), MN_EXISTS, "a collection called 'C'");
    FAILS(mn_info(f.conn, "d", &info, &err), MN_NOTFOUND, "no collection 'd'");
    CHECK_OK(mn_create(f.conn, "colours", &opts, &err), err);
    FAILS(mn_info(f.conn, "colors", &info, &err), MN_NOTFOUND, "did you mean 'colours'?");
    uint64_t findings = 9;
    CHECK_OK(mn_verify(f.conn, NULL, NULL, &findings, &err), err);
    CHECK_EQ(findings, 0);
    shut(&f);
}

TEST(list_and_info_tell_what_there_is)
{
    struct fix f = open_at(":memory:", NULL);
    const char *attributes[] = {"lang", "year"};
    mn_collection_opts docs = {.dim = 8,
                               .dtype = MN_BIT,
                               .metric = MN_HAMMING,
                               .id_kind = MN_ID_TEXT,
                               .attributes = attributes,
                               .n_attributes = 2};
    CHECK_OK(mn_create(f.conn, "docs", &docs, &err), err);
    CHECK_OK(mn_create(f.conn, "abc", &(mn_collection_opts){.dim = 3, .beside = "docs"}, &err),
             err);
    mn_collection_info *list, info;
    size_t n;
    CHECK_OK(mn_list(f.conn, &list, &n, &err), err);
    CHECK_EQ(n, 2);
    CHECK_STR(list[0].name, "abc");
    CHECK_STR(list[0].table, "docs");
    CHECK_STR(list[0].column, "abc");
    CHECK_EQ(list[0].id_kind, MN_ID_TEXT);
    CHECK_EQ(list[0].dim, 3);
    CHECK_STR(list[1].name, "docs");
    CHECK_STR(list[1].column, "vector");
    CHECK_EQ(list[1].metric, MN_HAMMING);
    CHECK_STR(list[1].attributes, "lang,year");
    CHECK_EQ(list[1].n_attributes, 2);
    mn_free_result(list);
    for (int i = 0; i < 40; i++) {
        char name[32];
        snprintf(name, sizeof name, "attribute number %d", i);
        CHECK_OK(mn_add_attribute(f.conn, "abc", name, &err), err);
    }
    CHECK_OK(mn_info(f.conn, "DOCS", &info, &err), err);
    CHECK_EQ(info.n_attributes, 42);
    CHECK_HAS(info.attributes, "lang,year,attribute number 0,");
    CHECK(strlen(info.attributes) < sizeof info.attributes);
    CHECK_STR(info.attributes + strlen(info.attributes) - 3, "...");
    shut(&f);
}

TEST(attributes_have_limits)
{
    struct fix f = with_rows(0);
    static char names[MN_MAX_ATTRIBUTES + 1][8];
    const char *list[MN_MAX_ATTRIBUTES + 1];
    for (size_t i = 0; i <= MN_MAX_ATTRIBUTES; i++) {
        snprintf(names[i], sizeof names[i], "a%zu", i);
        list[i] = names[i];
    }
    mn_collection_opts opts = {.dim = 2, .attributes = list, .n_attributes = MN_MAX_ATTRIBUTES + 1};
    FAILS(mn_create(f.conn, "many", &opts, &err), MN_INVALID, "201 attributes; at most 200");
    opts.n_attributes = MN_MAX_ATTRIBUTES;
    CHECK_OK(mn_create(f.conn, "many", &opts, &err), err);
    FAILS(mn_add_attribute(f.conn, "many", "more", &err), MN_FULL, "at most 200");
    FAILS(mn_add_attribute(f.conn, "many", "A7", &err), MN_EXISTS, "column 'A7'");
    static mn_attr attrs[MN_MAX_ATTRIBUTES];
    for (size_t i = 0; i < MN_MAX_ATTRIBUTES; i++)
        attrs[i] =
            (mn_attr){list[MN_MAX_ATTRIBUTES - 1 - i], {.type = MN_INTEGER, .integer = (int64_t)i}};
    mn_row row = {.id = 1, .vector = origin, .attrs = attrs, .n_attrs = MN_MAX_ATTRIBUTES};
    CHECK_OK(mn_put(f.conn, "many", &row, 1, NULL, &err), err);
    mn_rows *rows;
    CHECK_OK(mn_get(f.conn, "many", &(mn_id){.id = 1}, 1, &rows, &err), err);
    CHECK_EQ(mn_row_attr(mn_rows_at(rows, 0), "a0")->integer, MN_MAX_ATTRIBUTES - 1);
    CHECK_EQ(mn_row_attr(mn_rows_at(rows, 0), "A199")->integer, 0);
    mn_rows_free(rows);
    static const char *const own[] = {"id",     "VERSION", "text_id", "payload",
                                      "vector", "rowid",   "oid",     "_rowid_"};
    for (size_t i = 0; i < 8; i++) {
        mn_collection_opts one = {.dim = 2, .attributes = &own[i], .n_attributes = 1};
        FAILS(mn_create(f.conn, "own", &one, &err), MN_INVALID, "Mneme's own");
    }
    const char *twice[] = {"x", "X"};
    mn_collection_opts two = {.dim = 2, .attributes = twice, .n_attributes = 2};
    FAILS(mn_create(f.conn, "two", &two, &err), MN_INVALID, "stands twice");
    shut(&f);
}

/* ---- Rows
 * ------------------------------------------------------------------------------------------- */

static struct fix with_attributes(mn_id_kind kind)
{
    static const char *const attributes[] = {"a", "b"};
    struct fix f = open_at(":memory:", NULL);
    mn_collection_opts opts = {
        .dim = 2, .id_kind = kind, .attributes = attributes, .n_attributes = 2};
    CHECK_OK(mn_create(f.conn, "c", &opts, &err), err);
    return f;
}

TEST(values_of_every_type_come_back_as_they_were)
{
    static const struct {
        const char *name;
        mn_value value;
    } values[] = {
        {"null", {.type = MN_NULL}},
        {"zero", {.type = MN_INTEGER}},
        {"least", {.type = MN_INTEGER, .integer = INT64_MIN}},
        {"greatest", {.type = MN_INTEGER, .integer = INT64_MAX}},
        {"whole real", {.type = MN_REAL, .real = 3.0}},
        {"small real", {.type = MN_REAL, .real = DBL_TRUE_MIN}},
        {"infinity", {.type = MN_REAL, .real = -(double)INFINITY}},
        {"text", {.type = MN_TEXT, .data = "na\xc3\xafve", .len = 6}},
        {"text like a number", {.type = MN_TEXT, .data = "12", .len = 2}},
        {"empty text", {.type = MN_TEXT, .data = "", .len = 0}},
        {"empty text at NULL", {.type = MN_TEXT}},
        {"text with NUL", {.type = MN_TEXT, .data = "a\0b", .len = 3}},
        {"blob", {.type = MN_BLOB, .data = "\xff\x00\x80", .len = 3}},
        {"empty blob", {.type = MN_BLOB, .data = "", .len = 0}},
    };
    struct fix f = with_attributes(MN_ID_INTEGER);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        const mn_value *v = &values[i].value;
        const mn_attr attrs[] = {{"a", *v}, {"B", *v}};
        const mn_row row = {.id = 1, .vector = origin, .attrs = attrs, .n_attrs = 2};
        mn_rows *rows;
        CHECK_OK(mn_put(f.conn, "c", &row, 1, NULL, &err), err);
        CHECK_OK(mn_get(f.conn, "c", &(mn_id){.id = 1}, 1, &rows, &err), err);
        for (int j = 0; j < 2; j++) {
            const mn_value *got = mn_row_attr(mn_rows_at(rows, 0), j ? "b" : "A");
            CHECKF(got && got->type == v->type && got->len == v->len, "%s", values[i].name);
            CHECKF(v->type != MN_INTEGER || got->integer == v->integer, "%s", values[i].name);
            CHECKF(v->type != MN_REAL || memcmp(&got->real, &v->real, 8) == 0, "%s",
                   values[i].name);
            CHECKF(v->len == 0 || memcmp(got->data, v->data, v->len) == 0, "%s", values[i].name);
        }
        mn_rows_free(rows);
    }
    CHECK(!mn_row_attr(&(mn_row){0}, "a"));
    shut(&f);
}

TEST(values_that_cannot_be_stored_are_refused)
{
    static const struct {
        mn_attr attr;
        mn_status status;
        const char *says;
    } bad[] = {{{"a", {.type = MN_REAL, .real = (double)NAN}}, MN_INVALID, "attribute 'a' is NaN"},
               {{"a", {.type = (mn_value_type)5}}, MN_INVALID, "type 5"},
               {{"a", {.type = MN_TEXT, .data = "x\xff", .len = 2}}, MN_INVALID, "UTF-8 at byte 1"},
               {{"a", {.type = MN_BLOB, .len = 4}}, MN_INVALID, "4 bytes at NULL"},
               {{"z", {.type = MN_NULL}}, MN_NOTFOUND, "no attribute 'z'"},
               {{NULL, {.type = MN_NULL}}, MN_NOTFOUND, "no attribute"}};
    struct fix f = with_attributes(MN_ID_INTEGER);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const mn_row rows[] = {{.id = 1, .vector = origin},
                               {.id = 2, .attrs = &bad[i].attr, .n_attrs = 1}};
        FAILS(mn_put(f.conn, "c", rows, 2, NULL, &err), bad[i].status, bad[i].says);
        CHECK_HAS(err.message, "row 1");
    }
    const mn_attr twice[] = {{"a", {0}}, {"A", {0}}};
    const mn_row row = {.id = 1, .attrs = twice, .n_attrs = 2};
    FAILS(mn_put(f.conn, "c", &row, 1, NULL, &err), MN_INVALID, "given twice");
    mn_collection_stats stats;
    CHECK_OK(mn_collection_stats_get(f.conn, "c", &stats, &err), err);
    CHECK_EQ(stats.rows, 0); /* all or none */
    shut(&f);
}

TEST(payloads_may_be_large)
{
    struct fix f = with_attributes(MN_ID_INTEGER);
    size_t n = 8 << 20;
    char *text = malloc(n);
    CHECK(text);
    memset(text, 'x', n);
    text[5] = '\0'; /* SQLite keeps what the length says */
    const mn_attr attr = {"a", {.type = MN_BLOB, .data = text, .len = n}};
    mn_row row = {.id = 1, .payload = text, .payload_len = n, .attrs = &attr, .n_attrs = 1};
    mn_rows *rows;
    CHECK_OK(mn_put(f.conn, "c", &row, 1, NULL, &err), err);
    CHECK_OK(mn_get(f.conn, "c", &(mn_id){.id = 1}, 1, &rows, &err), err);
    CHECK_EQ(mn_rows_at(rows, 0)->payload_len, n);
    CHECK(memcmp(mn_rows_at(rows, 0)->payload, text, n) == 0);
    CHECK(!mn_rows_at(rows, 0)->vector);
    mn_rows_free(rows);
    text[n - 1] = (char)0xff;
    FAILS(mn_put(f.conn, "c", &row, 1, NULL, &err), MN_INVALID, "payload is no valid UTF-8");
    row = (mn_row){.id = 2, .payload = "", .payload_len = SIZE_MAX};
    CHECK_OK(mn_put(f.conn, "c", &row, 1, NULL, &err), err);
    CHECK_OK(mn_get(f.conn, "c", &(mn_id){.id = 2}, 1, &rows, &err), err);
    CHECK(mn_rows_at(rows, 0)->payload);
    CHECK_EQ(mn_rows_at(rows, 0)->payload_len, 0);
    mn_rows_free(rows);
    free(text);
    shut(&f);
}

TEST(text_ids_have_limits)
{
    struct fix f = with_attributes(MN_ID_TEXT);
    char id[MN_MAX_TEXT_ID + 2];
    memset(id, 'i', sizeof id);
    id[MN_MAX_TEXT_ID + 1] = '\0';
    FAILS(mn_put(f.conn, "c", &(mn_row){.text_id = id}, 1, NULL, &err), MN_INVALID,
          "longer than 255 bytes");
    id[MN_MAX_TEXT_ID] = '\0';
    CHECK_OK(mn_put(f.conn, "c", &(mn_row){.text_id = id}, 1, NULL, &err), err);
    FAILS(mn_put(f.conn, "c", &(mn_row){.text_id = ""}, 1, NULL, &err), MN_INVALID, "empty");
    FAILS(mn_put(f.conn, "c", &(mn_row){.id = 7}, 1, NULL, &err), MN_INVALID, "missing");
    FAILS(mn_put(f.conn, "c", &(mn_row){.text_id = "\xc0"}, 1, NULL, &err), MN_INVALID, "UTF-8");
    const mn_row twice[] = {{.text_id = "x"}, {.text_id = "y"}, {.text_id = "x"}};
    FAILS(mn_put(f.conn, "c", twice, 3, NULL, &err), MN_INVALID, "rows 0 and 2");
    const mn_row cases[] = {{.text_id = "Key"}, {.text_id = "key"}, {.text_id = "12"}};
    int64_t ids[3];
    CHECK_OK(mn_put(f.conn, "c", cases, 3, &(mn_put_opts){.ids = ids}, &err), err);
    CHECK(ids[0] != ids[1]);
    mn_rows *rows;
    const mn_id names[] = {{.text_id = id}, {.text_id = "KEY"}, {.id = ids[2]}};
    CHECK_OK(mn_get(f.conn, "c", names, 3, &rows, &err), err);
    CHECK_STR(mn_rows_at(rows, 0)->text_id, id);
    CHECK(!mn_rows_at(rows, 1));
    CHECK_STR(mn_rows_at(rows, 2)->text_id, "12");
    CHECK(!mn_rows_at(rows, 3));
    mn_rows_free(rows);
    shut(&f);
    f = with_rows(1);
    FAILS(mn_put(f.conn, "c", &(mn_row){.text_id = "x"}, 1, NULL, &err), MN_INVALID, "integer ids");
    FAILS(mn_get(f.conn, "c", &(mn_id){.text_id = "x"}, 1, &rows, &err), MN_INVALID, "integer ids");
    shut(&f);
}

TEST(ids_are_given_or_assigned_ascending)
{
    struct fix f = with_rows(0);
    int64_t ids[2];
    mn_put_opts opts = {.ids = ids};
    const mn_row automatic[] = {{.id = MN_AUTO_ID}, {.id = MN_AUTO_ID}};
    CHECK_OK(mn_put(f.conn, "c", automatic, 2, &opts, &err), err);
    CHECK(ids[0] == 1 && ids[1] == 2);
    const mn_row given[] = {{.id = 100}, {.id = -7}};
    CHECK_OK(mn_put(f.conn, "c", given, 2, &opts, &err), err);
    CHECK(ids[0] == 100 && ids[1] == -7);
    CHECK_OK(mn_put(f.conn, "c", automatic, 1, &opts, &err), err);
    CHECK_EQ(ids[0], 101);
    const mn_row mixed[] = {{.id = 5}, {.id = MN_AUTO_ID}};
    FAILS(mn_put(f.conn, "c", mixed, 2, &opts, &err), MN_INVALID, "two calls");
    const mn_row twice[] = {{.id = 5}, {.id = 5}};
    FAILS(mn_put(f.conn, "c", twice, 2, &opts, &err), MN_INVALID, "the id 5 stands twice");
    FAILS(mn_put(f.conn, "c", automatic, 1, &(mn_put_opts){.mode = MN_PUT_IF_VERSION}, &err),
          MN_INVALID, "needs its id");
    FAILS(mn_put(f.conn, "c", automatic, 1, &(mn_put_opts){.mode = (mn_put_mode)3}, &err),
          MN_INVALID, "no mode");
    CHECK_OK(mn_put(f.conn, "c", &(mn_row){.id = INT64_MAX}, 1, NULL, &err), err);
    FAILS(mn_put(f.conn, "c", automatic, 1, NULL, &err), MN_FULL, "greatest integer id");
    uint64_t deleted;
    const mn_id all[] = {{.id = 1}, {.id = 2}, {.id = 2}, {.id = 3}, {.id = -7}};
    CHECK_OK(mn_delete(f.conn, "c", all, 5, &deleted, &err), err);
    CHECK_EQ(deleted, 3);
    shut(&f);
}

TEST(conditions_of_writes_hold_or_nothing_is_written)
{
    struct fix f = with_rows(2);
    int64_t version;
    mn_row row = {.id = 1, .vector = origin};
    mn_put_opts absent = {.mode = MN_PUT_IF_ABSENT};
    mn_put_opts match = {.mode = MN_PUT_IF_VERSION, .versions = &version};
    FAILS(mn_put(f.conn, "c", &row, 1, &absent, &err), MN_CONFLICT, "has id 1 already");
    FAILS(mn_put(f.conn, "c", &row, 1, &match, &err), MN_CONFLICT, "read it again");
    row.id = 9;
    FAILS(mn_put(f.conn, "c", &row, 1, &match, &err), MN_CONFLICT, "no such row");
    const mn_row pair[] = {{.id = 8}, {.id = 2}};
    FAILS(mn_put(f.conn, "c", pair, 2, &absent, &err), MN_CONFLICT, "row 1");
    mn_rows *rows;
    CHECK_OK(mn_get(f.conn, "c", (mn_id[]){{.id = 8}, {.id = 1}}, 2, &rows, &err), err);
    CHECK(!mn_rows_at(rows, 0));
    row = (mn_row){.id = 1, .vector = origin, .version = mn_rows_at(rows, 1)->version};
    mn_rows_free(rows);
    CHECK_OK(mn_put(f.conn, "c", &row, 1, &match, &err), err);
    CHECK(version > row.version);
    FAILS(mn_delete_if_version(f.conn, "c", &(mn_id){.id = 1}, row.version, &err), MN_CONFLICT,
          "has version");
    CHECK_OK(mn_delete_if_version(f.conn, "c", &(mn_id){.id = 1}, version, &err), err);
    FAILS(mn_delete_if_version(f.conn, "c", &(mn_id){.id = 1}, version, &err), MN_CONFLICT,
          "no such row");
    shut(&f);
}

TEST(versions_are_those_that_stand_in_the_rows_whatever_triggers_do)
{
    static const char *const triggers[] = {
        NULL,
        "CREATE TRIGGER a AFTER INSERT ON c BEGIN UPDATE c SET b = 'x' WHERE id = NEW.id; END",
        "CREATE TRIGGER a AFTER UPDATE OF vector ON c BEGIN UPDATE c SET b = 'y' WHERE id = "
        "NEW.id; "
        "END",
        "CREATE TRIGGER a BEFORE INSERT ON c BEGIN DELETE FROM c WHERE id = NEW.id - 1; END"};
    for (size_t i = 0; i < 4; i++) {
        struct fix f = with_attributes(MN_ID_INTEGER);
        if (triggers[i])
            CHECK(sqlite3_exec(f.conn->sql, triggers[i], 0, 0, 0) == SQLITE_OK);
        int64_t versions[3], last = 0;
        const mn_row rows[] = {
            {.id = 1, .vector = origin}, {.id = 5, .vector = origin}, {.id = 9, .vector = origin}};
        for (int round = 0; round < 3; round++) {
            CHECK_OK(mn_put(f.conn, "c", rows, 3, &(mn_put_opts){.versions = versions}, &err), err);
            for (int j = 0; j < 3; j++) {
                mn_rows *got;
                CHECK_OK(mn_get(f.conn, "c", &(mn_id){.id = rows[j].id}, 1, &got, &err), err);
                CHECKF(mn_rows_at(got, 0)->version == versions[j] && versions[j] > last,
                       "trigger %zu, round %d, row %d", i, round, j);
                mn_rows_free(got);
            }
            last = versions[2];
        }
        uint64_t findings;
        CHECK_OK(mn_verify(f.conn, NULL, NULL, &findings, &err), err);
        CHECK_EQ(findings, 0);
        shut(&f);
    }
}

TEST(f32_is_rounded_to_the_collections_type)
{
    struct fix f = open_at(":memory:", NULL);
    mn_collection_opts i8 = {.dim = 2, .dtype = MN_I8}, f16 = {.dim = 2, .dtype = MN_F16};
    mn_collection_opts bit = {.dim = 8, .dtype = MN_BIT, .metric = MN_HAMMING};
    mn_put_opts opts = {.from_f32 = true};
    mn_search_opts from = {.from_f32 = true};
    mn_hit hit;
    uint32_t found;
    CHECK_OK(mn_create(f.conn, "i8", &i8, &err), err);
    CHECK_OK(mn_create(f.conn, "f16", &f16, &err), err);
    CHECK_OK(mn_create(f.conn, "bit", &bit, &err), err);
    const float good[] = {-128.4f, 126.5f}, large[] = {0, 127.6f}, beyond[] = {65520, 0};
    CHECK_OK(mn_put(f.conn, "i8", &(mn_row){.id = 1, .vector = good}, 1, &opts, &err), err);
    mn_rows *rows;
    CHECK_OK(mn_get(f.conn, "i8", &(mn_id){.id = 1}, 1, &rows, &err), err);
    CHECK(memcmp(mn_rows_at(rows, 0)->vector, (int8_t[]){-128, 126}, 2) == 0);
    mn_rows_free(rows);
    CHECK_OK(mn_search(f.conn, "i8", good, 1, 1, &from, &hit, &found, &err), err);
    CHECK_NEAR(hit.distance, 0, 0);
    FAILS(mn_put(f.conn, "i8", &(mn_row){.id = 1, .vector = large}, 1, &opts, &err), MN_INVALID,
          "element 1 is 127.6");
    FAILS(mn_search(f.conn, "i8", large, 1, 1, &from, &hit, &found, &err), MN_INVALID, "query 0");
    FAILS(mn_put(f.conn, "f16", &(mn_row){.id = 1, .vector = beyond}, 1, &opts, &err), MN_INVALID,
          "65,504");
    FAILS(mn_put(f.conn, "bit", &(mn_row){.id = 1, .vector = good}, 1, &opts, &err), MN_INVALID,
          "bit vectors");
    shut(&f);
}

/* ---- Iterators
 * ------------------------------------------------------------------------------------------ */

TEST(an_iterator_sees_one_snapshot_while_others_write)
{
    struct fix f = with_rows(20);
    mn_conn *other;
    mn_iter *it, *second;
    const mn_row *row;
    CHECK_OK(mn_connect(f.db, &other, &err), err);
    CHECK_OK(mn_iter_open(f.conn, "c", INT64_MIN, &it, &err), err);
    for (int64_t id = 1; id <= 20; id++) {
        CHECK_OK(mn_iter_next(it, &row, &err), err);
        CHECK_EQ(row->id, id);
        CHECK_NEAR(((const float *)row->vector)[0], (double)id, 0);
        const mn_row change = {.id = 21 - id, .vector = origin};
        CHECK_OK(mn_put(other, "c", &change, 1, NULL, &err), err);
        if (id == 10)
            CHECK_OK(mn_drop(other, "c", &err), err);
        if (id == 10)
            CHECK_OK(mn_create(other, "c", &(mn_collection_opts){.dim = 2}, &err), err);
        FAILS(mn_put(f.conn, "c", &change, 1, NULL, &err), MN_MISUSE, "iterator is open");
        FAILS(mn_begin_write(f.conn, &err), MN_MISUSE, "iterator is open");
    }
    CHECK_OK(mn_iter_next(it, &row, &err), err);
    CHECK(!row);
    CHECK_OK(mn_iter_next(it, &row, &err), err);
    CHECK(!row);
    CHECK_OK(mn_iter_open(f.conn, "c", 5, &second, &err), err); /* of the new collection */
    CHECK_OK(mn_iter_next(second, &row, &err), err);
    CHECK(row && row->id == 5);
    mn_iter_close(it);
    mn_disconnect(f.conn); /* closes what is open */
    CHECK_OK(mn_connect(f.db, &f.conn, &err), err);
    mn_disconnect(other);
    shut(&f);
}

TEST(an_iterator_lives_in_a_transaction_of_its_connection)
{
    struct fix f = with_rows(5);
    mn_iter *it;
    const mn_row *row;
    CHECK_OK(mn_begin_write(f.conn, &err), err);
    CHECK_OK(mn_iter_open(f.conn, "c", 2, &it, &err), err);
    CHECK_OK(mn_iter_next(it, &row, &err), err);
    CHECK_EQ(row->id, 2);
    CHECK_OK(mn_put(f.conn, "c", &(mn_row){.id = 30, .vector = origin}, 1, NULL, &err), err);
    CHECK_OK(mn_iter_next(it, &row, &err), err);
    CHECK_EQ(row->id, 3);
    CHECK_OK(mn_rollback(f.conn, &err), err);
    mn_status st = mn_iter_next(it, &row, &err); /* the snapshot is gone, or still whole */
    CHECK(st == MN_MISUSE || (st == MN_OK && row && row->id == 4));
    mn_iter_close(it);
    CHECK_OK(mn_begin_read(f.conn, &err), err);
    CHECK_OK(mn_iter_open(f.conn, "c", INT64_MAX, &it, &err), err);
    CHECK_OK(mn_iter_next(it, &row, &err), err);
    CHECK(!row);
    mn_iter_close(it);
    CHECK_OK(mn_commit(f.conn, &err), err);
    FAILS(mn_iter_open(f.conn, "d", 0, &it, &err), MN_NOTFOUND, "no collection 'd'");
    CHECK(!it);
    CHECK_OK(mn_put(f.conn, "c", &(mn_row){.id = 30, .vector = origin}, 1, NULL, &err), err);
    shut(&f);
}

/* ---- Transactions
 * ----------------------------------------------------------------------------------------- */

TEST(calls_in_the_wrong_order_are_told)
{
    struct fix f = with_rows(2);
    FAILS(mn_commit(f.conn, &err), MN_MISUSE, "no transaction");
    FAILS(mn_rollback(f.conn, &err), MN_MISUSE, "no transaction");
    FAILS(mn_savepoint(f.conn, "s", &err), MN_MISUSE, "need a write transaction");
    CHECK_OK(mn_begin_read(f.conn, &err), err);
    FAILS(mn_begin_read(f.conn, &err), MN_MISUSE, "a transaction is open");
    FAILS(mn_begin_write(f.conn, &err), MN_MISUSE, "a transaction is open");
    FAILS(mn_put(f.conn, "c", &(mn_row){.id = 1}, 1, NULL, &err), MN_MISUSE, "for reading");
    FAILS(mn_savepoint(f.conn, "s", &err), MN_MISUSE, "need a write transaction");
    CHECK_OK(mn_rollback(f.conn, &err), err);
    CHECK_OK(mn_begin_write(f.conn, &err), err);
    CHECK_OK(mn_savepoint(f.conn, "a \"b\"", &err), err);
    FAILS(mn_release(f.conn, "other", &err), MN_NOTFOUND, "no savepoint 'other'");
    FAILS(mn_rollback_to(f.conn, "mneme_call", &err), MN_NOTFOUND, "no savepoint");
    CHECK_OK(mn_release(f.conn, "A \"B\"", &err), err);
    FAILS(mn_backup(f.conn, test_path("x.db"), &err), MN_MISUSE, "write transaction is open");
    CHECK_OK(mn_commit(f.conn, &err), err);
    shut(&f);
    f = open_at(":memory:", NULL);
    CHECK_OK(mn_begin_read(f.conn, &err), err);
    FAILS(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), MN_MISUSE,
          "first collection");
    CHECK_OK(mn_commit(f.conn, &err), err);
    shut(&f);
}

TEST(a_call_that_fails_leaves_its_transaction_as_it_was)
{
    struct fix f = with_rows(3);
    mn_collection_stats stats;
    CHECK_OK(mn_begin_write(f.conn, &err), err);
    CHECK_OK(mn_put(f.conn, "c", &(mn_row){.id = 50, .vector = origin}, 1, NULL, &err), err);
    const float nan[] = {0, NAN};
    const mn_row rows[] = {{.id = 51, .vector = origin}, {.id = 52, .vector = nan}};
    FAILS(mn_put(f.conn, "c", rows, 2, NULL, &err), MN_INVALID, "row 1: element 1 is");
    CHECK_EQ(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), MN_EXISTS);
    CHECK_OK(mn_collection_stats_get(f.conn, "c", &stats, &err), err);
    CHECK_EQ(stats.rows, 4);
    CHECK_OK(mn_commit(f.conn, &err), err);
    CHECK_OK(mn_collection_stats_get(f.conn, "c", &stats, &err), err);
    CHECK_EQ(stats.rows, 4);
    shut(&f);
}

/* ---- Search
 * -------------------------------------------------------------------------------------------------
 */

TEST(searches_have_limits)
{
    struct fix f = with_rows(5);
    static mn_hit hits[MN_MAX_K];
    uint32_t found = 7;
    const float nan[] = {1, 2, 0, NAN};
    static const struct {
        size_t nq;
        uint32_t k;
        const char *says;
    } bad[] = {{0, 1, "0 queries; it must be 1 to 65536"},
               {MN_MAX_QUERIES + 1, 1, "65537 queries"},
               {1, 0, "k is 0; it must be 1 to 10000"},
               {1, MN_MAX_K + 1, "k is 10001"}};
    for (size_t i = 0; i < 4; i++)
        FAILS(mn_search(f.conn, "c", origin, bad[i].nq, bad[i].k, NULL, hits, &found, &err),
              MN_INVALID, bad[i].says);
    CHECK_OK(mn_search(f.conn, "c", origin, 1, MN_MAX_K, NULL, hits, &found, &err), err);
    CHECK_EQ(found, 5);
    FAILS(mn_search(f.conn, "c", nan, 2, 1, NULL, hits, &found, &err), MN_INVALID,
          "query 1: element 1 is");
    mn_search_opts recall = {.recall = 0.3}, threads = {.threads = 257}, ids = {.n_only_ids = 4};
    FAILS(mn_search(f.conn, "c", origin, 1, 1, &recall, hits, &found, &err), MN_INVALID,
          "recall 0.3");
    recall.recall = (double)NAN;
    CHECK_EQ(mn_search(f.conn, "c", origin, 1, 1, &recall, hits, &found, &err), MN_INVALID);
    recall.recall = 0.99;
    CHECK_OK(mn_search(f.conn, "c", origin, 1, 1, &recall, hits, &found, &err), err);
    FAILS(mn_search(f.conn, "c", origin, 1, 1, &threads, hits, &found, &err), MN_INVALID,
          "257 threads");
    FAILS(mn_search(f.conn, "c", origin, 1, 1, &ids, hits, &found, &err), MN_INVALID,
          "4 ids at NULL");
    FAILS(mn_search(f.conn, "x", origin, 1, 1, NULL, hits, &found, &err), MN_NOTFOUND,
          "no collection 'x'");
    CHECK_OK(mn_create(f.conn, "z", &(mn_collection_opts){.dim = 2, .metric = MN_COSINE}, &err),
             err);
    FAILS(mn_search(f.conn, "z", origin, 1, 1, NULL, hits, &found, &err), MN_INVALID, "query 0");
    CHECK_OK(mn_search(f.conn, "z", nan, 1, 1, NULL, hits, &found, &err), err);
    CHECK_EQ(found, 0);
    shut(&f);
}

TEST(more_queries_than_one_group_are_all_answered)
{
    enum { N = 2500 };
    struct fix f = with_rows(30);
    static float queries[N][2];
    static mn_hit hits[N][2];
    static uint32_t found[N];
    for (int q = 0; q < N; q++)
        queries[q][0] = (float)(q % 30 + 1);
    CHECK_OK(mn_search(f.conn, "c", queries, N, 2, NULL, hits[0], found, &err), err);
    for (int q = 0; q < N; q++) {
        CHECK_EQ(found[q], 2);
        CHECK_EQ(hits[q][0].id, q % 30 + 1);
    }
    shut(&f);
}

TEST(radius_searches_have_limits)
{
    struct fix f = with_rows(9);
    mn_hit *hits;
    size_t n;
    static const struct {
        double radius;
        size_t want;
    } radii[] = {{-1, 0}, {0, 0}, {1, 1}, {4.5, 4}, {1e300, 9}, {(double)INFINITY, 9}};
    for (size_t i = 0; i < 6; i++) {
        mn_status st =
            mn_search_radius(f.conn, "c", origin, radii[i].radius, 0, NULL, &hits, &n, &err);
        CHECK_OK(st, err);
        CHECK_EQ(n, radii[i].want);
        mn_free_result(hits);
    }
    FAILS(mn_search_radius(f.conn, "c", origin, (double)NAN, 0, NULL, &hits, &n, &err), MN_INVALID,
          "NaN");
    FAILS(mn_search_radius(f.conn, "c", origin, 9, 8, NULL, &hits, &n, &err), MN_FULL, "8");
    CHECK(!hits && n == 0);
    CHECK_OK(mn_search_radius(f.conn, "c", origin, 9, 9, NULL, &hits, &n, &err), err);
    CHECK_EQ(n, 9);
    mn_free_result(hits);
    shut(&f);
}

struct filtered {
    mn_conn *conn;
    int asked;
    mn_status inside;
};

static bool every_third(void *ctx, const mn_row *row)
{
    struct filtered *t = ctx;
    mn_hit hit;
    uint32_t found;
    t->asked++;
    t->inside = mn_search(t->conn, "c", origin, 1, 1, NULL, &hit, &found, NULL);
    return row->id % 3 == 0;
}

TEST(a_filter_is_asked_late_and_may_not_call_back)
{
    struct fix f = with_rows(3000);
    mn_hit hits[4];
    uint32_t found;
    mn_search_stats stats;
    struct filtered t = {.conn = f.conn};
    mn_search_opts opts = {.filter = every_third, .filter_ctx = &t, .stats = &stats};
    CHECK_OK(mn_search(f.conn, "c", origin, 1, 4, &opts, hits, &found, &err), err);
    CHECK_EQ(found, 4);
    for (uint32_t i = 0; i < found; i++)
        CHECK_EQ(hits[i].id, 3 * (i + 1));
    CHECK_EQ(t.inside, MN_MISUSE);
    CHECK_EQ(stats.rows_filtered, t.asked);
    CHECKF(t.asked < 3000, "asked about every row");
    CHECK_EQ(stats.rows_scanned, 3000);
    shut(&f);
}

/* ---- Progress, interrupts, deadlines, logs, memory
 * -------------------------------------------------------- */

struct heard {
    int calls, stop_at; /* 0: never */
    char stages[200];
    bool beyond; /* done was more than total */
};

static bool on_progress(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    struct heard *h = ctx;
    size_t n = strlen(h->stages);
    if (!strstr(h->stages, stage))
        snprintf(h->stages + n, sizeof h->stages - n, "%s ", stage);
    h->beyond = h->beyond || (total && done > total);
    return ++h->calls != h->stop_at;
}

TEST(everything_long_tells_its_progress_and_can_be_stopped)
{
    struct fix f = with_rows(6000);
    struct heard h = {0};
    mn_hit hit;
    uint32_t found;
    char path[64];
    static mn_row rows[3000];
    for (int i = 0; i < 3000; i++)
        rows[i] = (mn_row){.id = 10000 + i, .vector = origin};
    mn_set_progress(f.conn, on_progress, &h);
    CHECK_OK(mn_verify(f.conn, NULL, NULL, NULL, &err), err);
    CHECK_HAS(h.stages, "verify");
    CHECK_OK(mn_search(f.conn, "c", origin, 1, 1, NULL, &hit, &found, &err), err);
    CHECK_HAS(h.stages, "search");
    CHECK_OK(mn_put(f.conn, "c", rows, 3000, NULL, &err), err);
    CHECK_HAS(h.stages, "put");
    CHECK_OK(mn_backup(f.conn, test_path("0.db"), &err), err);
    CHECK_HAS(h.stages, "backup");
    CHECK(!h.beyond);
    for (int what = 0; what < 4; what++) {
        h = (struct heard){.stop_at = 1};
        snprintf(path, sizeof path, "stopped-%d.db", what);
        mn_status st = what == 0   ? mn_verify(f.conn, NULL, NULL, NULL, &err)
                       : what == 1 ? mn_search(f.conn, "c", origin, 1, 1, NULL, &hit, &found, &err)
                       : what == 2 ? mn_put(f.conn, "c", rows, 3000, NULL, &err)
                                   : mn_backup(f.conn, test_path(path), &err);
        CHECKF(st == MN_INTERRUPTED, "%d: %s", what, mn_status_name(st));
        CHECK_HAS(err.message, "interrupted");
        CHECK(access(test_path(path), F_OK) != 0);
    }
    mn_set_progress(f.conn, NULL, NULL);
    mn_interrupt(f.conn); /* nothing runs: nothing happens */
    CHECK_OK(mn_search(f.conn, "c", origin, 1, 1, NULL, &hit, &found, &err), err);
    CHECK_EQ(found, 1);
    shut(&f);
}

TEST(a_deadline_ends_a_search)
{
    struct fix f = with_rows(20000);
    mn_hit hit;
    uint32_t found;
    mn_search_opts opts = {.deadline_us = 1};
    FAILS(mn_search(f.conn, "c", origin, 1, 1, &opts, &hit, &found, &err), MN_DEADLINE, "deadline");
    opts.deadline_us = 60000000;
    CHECK_OK(mn_search(f.conn, "c", origin, 1, 1, &opts, &hit, &found, &err), err);
    opts.deadline_us = 1;
    FAILS(mn_search(f.conn, "c", origin, 1, 1, &opts, &hit, &found, &err), MN_DEADLINE, "deadline");
    CHECK_OK(mn_search(f.conn, "c", origin, 1, 1, NULL, &hit, &found, &err), err);
    shut(&f);
}

struct logged {
    int lines;
    mn_log_level worst;
    char topic[32], line[512];
};

static void on_log(void *ctx, mn_log_level level, const char *topic, const char *line)
{
    struct logged *l = ctx;
    l->lines++;
    if (!l->worst || level < l->worst)
        l->worst = level;
    snprintf(l->topic, sizeof l->topic, "%s", topic);
    snprintf(l->line, sizeof l->line, "%s", line);
}

TEST(the_log_hook_hears_what_was_mended)
{
    struct logged l = {0};
    mn_hit hit;
    uint32_t found;
    struct fix f = open_at(test_path("a.db"), &(mn_open_opts){.log = on_log, .log_ctx = &l});
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), err);
    CHECK(sqlite3_exec(f.conn->sql, "CREATE TABLE mine(x); DROP TABLE mine", 0, 0,
                       0) == SQLITE_OK);
    l.lines = 0;
    CHECK_OK(mn_search(f.conn, "c", origin, 1, 1, NULL, &hit, &found, &err), err);
    CHECK_EQ(l.lines, 1);
    CHECK_STR(l.topic, "schema");
    CHECK_HAS(l.line, "schema was changed");
    CHECK(!strchr(l.line, '\n'));
    CHECK_EQ(l.worst, MN_LOG_WARN);
    CHECK(sqlite3_exec(f.conn->sql, "PRAGMA journal_mode = DELETE", 0, 0, 0) == SQLITE_OK);
    shut(&f);
    sqlite3 *sql; /* back to a rollback journal */
    CHECK(sqlite3_open(test_path("a.db"), &sql) == SQLITE_OK);
    CHECK(sqlite3_exec(sql, "PRAGMA journal_mode = DELETE", 0, 0, 0) == SQLITE_OK);
    sqlite3_close(sql);
    l.lines = 0;
    f = open_at(test_path("a.db"), &(mn_open_opts){.log = on_log, .log_ctx = &l});
    CHECK_HAS(l.line, "switched to WAL");
    shut(&f);
}

struct counted {
    _Atomic int64_t bytes, blocks, calls;
};

static void *count_alloc(void *ctx, size_t size)
{
    struct counted *c = ctx;
    size_t *p = malloc(size + 16);
    if (!p)
        return NULL;
    *p = size;
    c->bytes += (int64_t)size;
    c->blocks++;
    c->calls++;
    return (char *)p + 16;
}

static void count_free(void *ctx, void *memory, size_t size)
{
    struct counted *c = ctx;
    size_t *p = (void *)((char *)memory - 16);
    if (*p != size)
        abort(); /* the size handed back must be the one asked for */
    c->bytes -= (int64_t)size;
    c->blocks--;
    free(p);
}

TEST(all_memory_goes_through_the_hooks_and_comes_back)
{
    struct counted c = {0};
    mn_allocator hooks = {count_alloc, count_free, &c};
    mn_rows *rows;
    mn_iter *it;
    mn_hit hit;
    uint32_t found;
    mn_stats_info stats;
    struct fix f = open_at(test_path("a.db"), &(mn_open_opts){.allocator = &hooks});
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), err);
    CHECK_OK(mn_put(f.conn, "c", &(mn_row){.id = 1, .vector = origin}, 1, NULL, &err), err);
    CHECK_OK(mn_search(f.conn, "c", origin, 1, 1, NULL, &hit, &found, &err), err);
    CHECK_OK(mn_get(f.conn, "c", &(mn_id){.id = 1}, 1, &rows, &err), err);
    CHECK_OK(mn_iter_open(f.conn, "c", 0, &it, &err), err);
    CHECK_OK(mn_stats(f.conn, &stats, &err), err);
    CHECK(c.calls > 10 && c.bytes > 0);
    CHECK(stats.memory_used > 0 && stats.memory_used <= (uint64_t)c.bytes);
    CHECK(stats.cache_bytes > 0 && stats.cache_bytes <= stats.memory_used);
    mn_rows_free(rows);
    mn_iter_close(it);
    shut(&f);
    CHECK_EQ(c.blocks, 0);
    CHECK_EQ(c.bytes, 0);
}

/* ---- Statistics, verify, backup
 * ------------------------------------------------------------------------------ */

TEST(statistics_count_what_happened)
{
    struct fix f = open_at(test_path("a.db"), NULL);
    mn_stats_info s;
    mn_collection_stats c;
    mn_hit hit;
    uint32_t found;
    mn_conn *other;
    int64_t version;
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), err);
    CHECK_OK(mn_put(f.conn, "c", (mn_row[]){{.id = 1, .vector = origin}, {.id = 2}}, 2, NULL, &err),
             err);
    CHECK_OK(mn_put(f.conn, "c", &(mn_row){.id = 3, .vector = origin}, 1,
                    &(mn_put_opts){.versions = &version}, &err),
             err);
    CHECK_OK(mn_collection_stats_get(f.conn, "c", &c, &err), err);
    CHECK_EQ(c.rows, 3);
    CHECK_EQ(c.vectors, 2);
    CHECK_EQ(c.vector_bytes, 16);
    CHECK_EQ(c.last_version, version);
    CHECK(c.log_entries >= 3);
    CHECK_EQ(c.cached_rows, 0);
    for (int i = 0; i < 2; i++)
        CHECK_OK(mn_search(f.conn, "c", origin, 1, 1, NULL, &hit, &found, &err), err);
    CHECK_OK(mn_put(f.conn, "c", &(mn_row){.id = 4, .vector = origin}, 1, NULL, &err), err);
    CHECK_OK(mn_search(f.conn, "c", origin, 1, 1, NULL, &hit, &found, &err), err);
    CHECK_OK(mn_connect(f.db, &other, &err), err);
    CHECK_OK(mn_stats(f.conn, &s, &err), err);
    CHECK_EQ(s.searches, 3);
    CHECK_EQ(s.cache_loads, 1);
    CHECK_EQ(s.streamed_searches, 1);
    CHECK_EQ(s.cache_catchups, 1);
    CHECK_EQ(s.connections, 2);
    CHECK(s.db_bytes + s.wal_bytes > 0 && s.page_bytes >= 4096);
    CHECK(s.memory_peak >= s.memory_used);
    CHECK_OK(mn_collection_stats_get(f.conn, "c", &c, &err), err);
    CHECK_EQ(c.cached_rows, 3);
    mn_disconnect(other);
    shut(&f);
}

TEST(a_backup_is_the_database_at_that_moment)
{
    mn_hit hits[9];
    uint32_t found;
    const char *copy = test_path("copy.db");
    struct fix f = with_rows(5);
    CHECK_OK(mn_backup(f.conn, copy, &err), err);
    FAILS(mn_backup(f.conn, copy, &err), MN_EXISTS, "is there already");
    FAILS(mn_backup(f.conn, "/nowhere/x.db", &err), MN_NOTFOUND, "/nowhere/x.db");
    CHECK_OK(mn_begin_read(f.conn, &err), err);
    mn_conn *other;
    CHECK_OK(mn_connect(f.db, &other, &err), err);
    CHECK_OK(mn_put(other, "c", &(mn_row){.id = 6, .vector = origin}, 1, NULL, &err), err);
    CHECK_OK(mn_backup(f.conn, test_path("old.db"), &err), err); /* of the open snapshot */
    CHECK_OK(mn_commit(f.conn, &err), err);
    mn_disconnect(other);
    shut(&f);
    for (int i = 0; i < 2; i++) {
        uint64_t findings = 9;
        f = open_at(i ? test_path("old.db") : copy, NULL);
        CHECK_OK(mn_search(f.conn, "c", origin, 1, 9, NULL, hits, &found, &err), err);
        CHECK_EQ(found, 5);
        CHECK_OK(mn_verify(f.conn, NULL, NULL, &findings, &err), err);
        CHECK_EQ(findings, 0);
        CHECK_OK(mn_put(f.conn, "c", &(mn_row){.id = 6, .vector = origin}, 1, NULL, &err), err);
        shut(&f);
    }
}

TEST_MAIN
