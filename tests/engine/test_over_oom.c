/* Memory that runs out over a table that was there before: the n-th allocation of a call fails, for
 * many n, Mneme's and SQLite's counted together. The call answers MN_NOMEM and left nothing behind,
 * or did not need that memory; called again it does what it does. */
#include <sqlite3.h>

#include "src/engine/engine.h"
#include "tests/sim/oom.h"
#include "tests/test.h"

struct over {
    mn_db *db;
    mn_conn *conn;
};

static void sql(struct over *o, const char *text)
{
    char *message = NULL;
    int rc = sqlite3_exec(o->conn->sql, text, NULL, NULL, &message);
    CHECKF(rc == SQLITE_OK, "%s: %s", text, message);
}

static mn_status create(mn_conn *conn, mn_error *err)
{
    const char *const attributes[] = {"lang"};
    const mn_collection_opts opts = {
        .dim = 2, .table = "docs", .column = "emb", .attributes = attributes, .n_attributes = 1};
    return mn_create(conn, "c", &opts, err);
}

/* Two rows with vectors, one of them JSON, one without, and garbage. */
static void begin(struct over *o, bool with_collection)
{
    const mn_open_opts opts = {.allocator = oom_hooks()};
    mn_error err;
    CHECK_OK(mn_open(":memory:", &opts, &o->db, &err), err);
    CHECK_OK(mn_connect(o->db, &o->conn, &err), err);
    CHECK_OK(mn_create(o->conn, "other", &(mn_collection_opts){.dim = 2}, &err), err);
    sql(o, "CREATE TABLE docs(k INTEGER PRIMARY KEY, url UNIQUE, lang, year, emb);"
           "CREATE UNIQUE INDEX u ON docs(lower(url)) WHERE year > 0;"
           "INSERT INTO docs VALUES (1, 'a', 'en', 1, '[1, 0]'), (2, 'b', 'de', 2, "
           "x'0000000000000040'), (3, 'c', 'fr', 3, NULL), (4, 'd', NULL, 4, '[1]')");
    if (with_collection)
        CHECK_OK(create(o->conn, &err), err);
}

static void end(struct over *o)
{
    mn_error err;
    mn_disconnect(o->conn);
    CHECK_OK(mn_close(o->db, &err), err);
    CHECK_EQ(oom_balance(), 0);
}

static mn_status search(mn_conn *conn, mn_error *err)
{
    mn_hit hits[4];
    uint32_t found;
    mn_status st = mn_search(conn, "c", (float[]){1, 0}, 1, 4, NULL, hits, &found, err);
    if (st == MN_OK && (found != 2 || hits[0].id != 1 || hits[1].id != 2))
        st = mn_fail(err, MN_CORRUPT, "search found %u rows", found);
    return st;
}

static mn_status get(mn_conn *conn, mn_error *err)
{
    mn_rows *rows;
    mn_status st = mn_get(conn, "c", (mn_id[]){{.id = 1}, {.id = 4}}, 2, &rows, err);
    if (st == MN_OK && (!mn_rows_at(rows, 0)->vector || mn_rows_at(rows, 1)->vector))
        st = mn_fail(err, MN_CORRUPT, "get found other vectors");
    mn_rows_free(rows);
    return st;
}

static mn_status iterate(mn_conn *conn, mn_error *err)
{
    mn_iter *it = NULL;
    const mn_row *row = NULL;
    unsigned n = 0;
    mn_status st = mn_iter_open(conn, "c", 0, &it, err);
    while (st == MN_OK && (st = mn_iter_next(it, &row, err)) == MN_OK && row)
        n += row->vector != NULL;
    mn_iter_close(it);
    return st == MN_OK && n != 2 ? mn_fail(err, MN_CORRUPT, "iteration found %u vectors", n) : st;
}

static mn_status put(mn_conn *conn, mn_error *err)
{
    const mn_attr lang[] = {{"lang", {.type = MN_TEXT, .data = "it", .len = 2}}};
    const mn_row rows[] = {
        {.id = 3, .attrs = lang, .n_attrs = 1}, {.id = 8, .attrs = lang, .n_attrs = 1}, {.id = 9}};
    mn_status st = mn_put(conn, "c", rows, 3, NULL, err);
    return st ? st : search(conn, err);
}

static mn_status add_attribute(mn_conn *conn, mn_error *err)
{
    mn_status st = mn_add_attribute(conn, "c", "year", err);
    return st ? st : get(conn, err);
}

static mn_status info(mn_conn *conn, mn_error *err)
{
    mn_collection_info one;
    mn_collection_stats stats;
    uint64_t findings;
    mn_status st = mn_info(conn, "c", &one, err);
    if (st == MN_OK)
        st = mn_collection_stats_get(conn, "c", &stats, err);
    if (st == MN_OK && stats.vectors != 2)
        st = mn_fail(err, MN_CORRUPT, "%d vectors", (int)stats.vectors);
    if (st == MN_OK)
        st = mn_verify(conn, NULL, NULL, &findings, err);
    return st == MN_OK && findings != 1 ? mn_fail(err, MN_CORRUPT, "%d findings", (int)findings)
                                        : st;
}

static mn_status delete_none(mn_conn *conn, mn_error *err)
{
    mn_status st = mn_delete(conn, "c", &(mn_id){.id = 99}, 1, NULL, err);
    return st ? st : search(conn, err);
}

static mn_status drop(mn_conn *conn, mn_error *err)
{
    return mn_drop(conn, "c", err);
}

TEST(every_call_survives_failed_allocations)
{
    static const struct {
        const char *name, *before; /* what another hand does to the schema */
        mn_status (*call)(mn_conn *conn, mn_error *err);
        bool creates;
    } calls[] = {
        {"create", "SELECT 1", create, true},
        {"search", "SELECT 1", search, false},
        {"get", "SELECT 1", get, false},
        {"iterate", "SELECT 1", iterate, false},
        {"put", "SELECT 1", put, false},
        {"add attribute", "SELECT 1", add_attribute, false},
        {"info", "SELECT 1", info, false},
        {"search after another table", "CREATE TABLE x(y)", search, false},
        {"search after a renaming",
         "ALTER TABLE docs RENAME TO papers; ALTER TABLE papers RENAME COLUMN emb TO e", search,
         false},
        {"write after a renaming",
         "ALTER TABLE docs RENAME TO papers; ALTER TABLE papers RENAME COLUMN emb TO e",
         delete_none, false},
        {"write after the table was made anew",
         "CREATE TABLE n(k INTEGER PRIMARY KEY, lang, emb); INSERT INTO n SELECT k, lang, emb FROM "
         "docs; DROP TABLE docs; ALTER TABLE n RENAME TO docs",
         delete_none, false},
        {"drop", "SELECT 1", drop, false},
        {"drop after the table", "DROP TABLE docs", drop, false},
    };
    const uint64_t by = test_long() ? 7 : 499;
    uint64_t total = 0;
    CHECK(oom_install());
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        for (int sticky = 0; sticky < 2; sticky++) {
            bool struck = true;
            for (uint64_t n = 1 + (17 * i + 100 * (uint64_t)sticky) % by; struck; n += by) {
                struct over o;
                mn_error err;
                begin(&o, !calls[i].creates);
                sql(&o, calls[i].before);
                oom_arm(n, sticky);
                mn_status st = calls[i].call(o.conn, &err);
                struck = oom_fired() > 0;
                oom_arm(0, false);
                CHECKF(st == MN_OK || (struck && st == MN_NOMEM), "%s, allocation %d: %s, %s",
                       calls[i].name, (int)n, mn_status_name(st), err.message);
                if (st) {
                    st = calls[i].call(o.conn, &err);
                    bool done = calls[i].call == add_attribute && st == MN_EXISTS;
                    CHECKF(st == MN_OK || done, "%s after allocation %d failed: %s", calls[i].name,
                           (int)n, err.message);
                }
                end(&o);
                total++;
            }
        }
    CHECK(total > 200);
    test_note("%d allocations", (int)total);
}

TEST_MAIN
