/* Rows written by a stock SQLite client, without Mneme, under a live database with vectors in
 * memory: the next search must answer as brute force over the rows does, every change must give
 * the row a new version, and verify must say what is wrong, and only that. */
#include <sqlite3.h>
#include <unistd.h>

#include "src/engine/engine.h"
#include "storage/fs_mem.h"
#include "storage/vfs.h"
#include "tests/engine/brute.h"
#include "tests/test.h"

static mn_error err;

enum { DIM = 4, ROWS = 40, MAX_ROWS = 4096 };

#define V1 "x'0000803f000000000000000000000000'" /* 1 0 0 0 */
#define V2 "x'00000040000040400000004000000000'" /* 2 3 2 0 */
#define V3 "x'0000803f0000803f0000803f0000803f'" /* 1 1 1 1 */
#define NAN_VECTOR "x'0000c07f000000000000000000000000'"

/* What a row looked like: version, and a digest of the columns that the table was made with. */
struct seen {
    int64_t id, version;
    uint64_t digest;
};

struct fix {
    const char *path;
    const char *vfs; /* NULL: a file on disk */
    char vfs_name[32];
    struct mn_alloc *alloc;
    struct mn_fs *fs; /* under vfs */
    mn_db *db;
    mn_conn *conn;
    sqlite3 *plain; /* the stock client */
    bool text_ids;
    bool versions_lie; /* the test wrote the version column itself */
    struct brute b;
    size_t n;
    struct seen seen[MAX_ROWS]; /* [n] by id, as of the last check */
    int64_t highest;            /* version ever seen */
};

static void say(const char *name, const char *what)
{
    test_fail(__FILE__, __LINE__, "case '%s': %s", name, what);
}

/* Runs SQL as the stock client. It must succeed unless `may_fail`. */
static void sql(struct fix *f, const char *text)
{
    char *message = NULL;
    int rc = sqlite3_exec(f->plain, text, NULL, NULL, &message);
    CHECKF(rc == SQLITE_OK, "%s: %s", text, message);
}

static int64_t sql_number(struct fix *f, const char *text)
{
    sqlite3_stmt *st;
    int64_t value = -1;
    CHECKF(sqlite3_prepare_v2(f->plain, text, -1, &st, NULL) == SQLITE_OK, "%s: %s", text,
           sqlite3_errmsg(f->plain));
    if (sqlite3_step(st) == SQLITE_ROW)
        value = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return value;
}

static void put_row(struct fix *f, int64_t id, const char *text_id, int n)
{
    const float v[DIM] = {(float)(n % 7), (float)(n % 5), (float)(n % 3), (float)n};
    char word[32];
    snprintf(word, sizeof word, "lang%d", n);
    const mn_attr attrs[] = {{"lang", {.type = MN_TEXT, .data = word, .len = strlen(word)}},
                             {"n", {.type = MN_INTEGER, .integer = n}}};
    const mn_row row = {.id = id,
                        .text_id = text_id,
                        .vector = v,
                        .attrs = attrs,
                        .n_attrs = 2,
                        .payload = "p",
                        .payload_len = 1};
    CHECK_OK(mn_put(f->conn, "c", &row, 1, NULL, &err), err);
}

static void connect_both(struct fix *f)
{
    const mn_open_opts opts = {.durability = MN_RELAXED};
    CHECK_OK(db_open_vfs(f->path, &opts, f->vfs, &f->db, &err), err);
    CHECK_OK(mn_connect(f->db, &f->conn, &err), err);
    CHECK(sqlite3_open_v2(f->path, &f->plain, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, f->vfs) ==
          SQLITE_OK);
    sql(f, "PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON");
}

/* A database with ROWS rows in collection "c"; in memory, where nothing waits for a disk, or in a
 * file that other programs can open. */
static void fix_open(struct fix *f, bool text_ids, bool on_disk)
{
    const char *attributes[] = {"lang", "n"};
    mn_collection_opts opts = {.dim = DIM,
                               .id_kind = text_ids ? MN_ID_TEXT : MN_ID_INTEGER,
                               .attributes = attributes,
                               .n_attributes = 2};
    memset(f, 0, sizeof *f);
    f->path = on_disk ? test_path("f.db") : "f.db";
    if (!on_disk) {
        static unsigned n;
        snprintf(f->vfs_name, sizeof f->vfs_name, "foreign-%u", ++n);
        f->vfs = f->vfs_name;
        f->alloc = mn_alloc_create(NULL, UINT64_MAX);
        f->fs = fs_mem_create(f->alloc);
        CHECK_OK(vfs_register(f->vfs, f->fs, NULL, &err), err);
    }
    f->text_ids = text_ids;
    f->b = (struct brute){.dtype = MN_F32, .metric = MN_L2, .dim = DIM, .small_integers = true};
    connect_both(f);
    CHECK_OK(mn_create(f->conn, "c", &opts, &err), err);
    CHECK_OK(mn_begin_write(f->conn, &err), err);
    for (int i = 1; i <= ROWS; i++) {
        char text_id[16];
        snprintf(text_id, sizeof text_id, "t%d", i);
        put_row(f, i, text_ids ? text_id : NULL, i);
    }
    CHECK_OK(mn_commit(f->conn, &err), err);
}

static void disconnect_both(struct fix *f)
{
    mn_disconnect(f->conn);
    CHECK_OK(mn_close(f->db, &err), err);
    CHECK(sqlite3_close(f->plain) == SQLITE_OK);
}

static void fix_close(struct fix *f)
{
    brute_free(&f->b);
    disconnect_both(f);
    if (f->vfs) {
        CHECK_OK(vfs_unregister(f->vfs, &err), err);
        fs_mem_destroy(f->fs);
        mn_alloc_destroy(f->alloc);
    }
}

/* ---- Checks --------------------------------------------------------------------------------- */

/* One search of each kind against brute force. */
static void check_search(struct fix *f, const char *name)
{
    static const float queries[2][DIM] = {{1, 0, 0, 0}, {2, 3, 2, 20}};
    static mn_hit hits[2 * 50], *near;
    uint32_t found[2];
    size_t n_near;
    brute_load(&f->b, f->plain, "c", "vector"); /* nobody writes between here and the searches */
    mn_status st = mn_search(f->conn, "c", queries, 2, 50, NULL, hits, found, &err);
    CHECKF(st == MN_OK, "case '%s': %s", name, err.message);
    for (size_t q = 0; q < 2; q++) {
        const char *wrong =
            brute_compare(&f->b, queries[q], 50, 0, NULL, NULL, hits + 50 * q, found[q]);
        if (wrong)
            say(name, wrong);
    }
    st = mn_search_radius(f->conn, "c", queries[1], 9, 0, NULL, &near, &n_near, &err);
    CHECKF(st == MN_OK, "case '%s': %s", name, err.message);
    const char *wrong = brute_compare(&f->b, queries[1], 0, 9, NULL, NULL, near, n_near);
    mn_free_result(near);
    if (wrong)
        say(name, wrong);
}

static uint64_t digest_row(sqlite3_stmt *st)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 2; i < sqlite3_column_count(st); i++) {
        const unsigned char *p = sqlite3_column_blob(st, i);
        int n = sqlite3_column_bytes(st, i);
        h = (h ^ (uint64_t)sqlite3_column_type(st, i)) * 0x100000001b3u;
        for (int j = 0; j < n; j++)
            h = (h ^ p[j]) * 0x100000001b3u;
    }
    return h;
}

/* A row that is new or differs must have a version above all that were ever seen; versions are
 * unique. */
static void check_versions(struct fix *f, const char *name)
{
    sqlite3_stmt *st;
    static struct seen now[MAX_ROWS];
    size_t n = 0, old = 0;
    int64_t highest = f->highest;
    const char *text =
        f->text_ids ? "SELECT id, version, lang, n, payload, vector, text_id FROM c ORDER BY id"
                    : "SELECT id, version, lang, n, payload, vector FROM c ORDER BY id";
    CHECK(sqlite3_prepare_v2(f->plain, text, -1, &st, NULL) == SQLITE_OK);
    while (sqlite3_step(st) == SQLITE_ROW) {
        CHECK(n < MAX_ROWS);
        struct seen *s = &now[n++];
        *s =
            (struct seen){sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1), digest_row(st)};
        while (old < f->n && f->seen[old].id < s->id)
            old++;
        bool same = old < f->n && f->seen[old].id == s->id && f->seen[old].digest == s->digest;
        if (!f->versions_lie && !same && s->version <= f->highest)
            say(name, brute_says("row %" PRId64 " changed and has version %" PRId64 "; %" PRId64
                                 " was given out before",
                                 s->id, s->version, f->highest));
        if (s->version > highest)
            highest = s->version;
    }
    sqlite3_finalize(st);
    memcpy(f->seen, now, n * sizeof *now);
    f->n = n;
    f->highest = highest;
    int64_t twice = sql_number(f, "SELECT count(version) - count(DISTINCT version) FROM c");
    if (twice && !f->versions_lie)
        say(name, brute_says("%" PRId64 " versions stand in two rows", twice));
}

static void on_finding(void *ctx, const char *where, const char *what)
{
    char *all = ctx;
    size_t n = strlen(all);
    snprintf(all + n, 4096 - n, "%s: %s\n", where, what);
}

/* `want` NULL: no finding; else a part of the findings. */
static void check_verify(struct fix *f, const char *name, const char *want)
{
    char all[4096] = "";
    uint64_t findings = 0;
    CHECK_OK(mn_verify(f->conn, on_finding, all, &findings, &err), err);
    if (!want && findings)
        say(name, brute_says("verify says: %.200s", all));
    if (want && !strstr(all, want))
        say(name, brute_says("verify says '%.150s', not '%s'", all, want));
}

/* Twice, so that both what mends and what was mended is seen. */
static void settle(struct fix *f, const char *name)
{
    check_search(f, name);
    check_versions(f, name);
    check_search(f, name);
}

/* ---- One statement ------------------------------------------------------------------------------
 */

struct statement {
    const char *name;
    const char *before; /* run first, with a search in between or not; may be NULL */
    const char *sql;
    const char *finding; /* what verify must say; NULL: nothing */
    bool text_only;      /* needs text ids */
};

static const struct statement statements[] = {
    {"insert", NULL, "INSERT INTO c(id, text_id, n, vector) VALUES (100, 'x', 5, " V1 ")", NULL,
     true},
    {"insert int", NULL, "INSERT INTO c(id, n, vector) VALUES (-5, 5, " V1 ")", NULL, false},
    {"insert without vector", NULL, "INSERT INTO c(text_id) VALUES ('x')", NULL, true},
    {"insert many", NULL,
     "WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < 300) "
     "INSERT INTO c(text_id, vector) SELECT 'many' || i, " V2 " FROM k",
     NULL, true},
    {"insert with a version", NULL,
     "INSERT INTO c(text_id, version, vector) VALUES ('x', 3, " V1 ")", NULL, true},
    {"update vector", NULL, "UPDATE c SET vector = " V2 " WHERE id % 3 = 0", NULL, false},
    {"update every row", NULL, "UPDATE c SET vector = " V2, NULL, false},
    {"update to no vector", NULL, "UPDATE c SET vector = NULL WHERE id = 1", NULL, false},
    {"update attribute", NULL, "UPDATE c SET n = n + 1", NULL, false},
    {"update vector and version", NULL, "UPDATE c SET vector = " V3 ", version = 1 WHERE id = 2",
     NULL, false},
    {"update id", NULL, "UPDATE c SET id = id + 1000 WHERE id % 2 = 0", NULL, false},
    {"update id upwards by one", NULL, "UPDATE c SET id = -id; UPDATE c SET id = 1 - id", NULL,
     false},
    {"update text id", NULL, "UPDATE c SET text_id = text_id || '!', vector = " V1 " WHERE id < 5",
     NULL, true},
    {"swap vectors", NULL,
     "UPDATE c SET vector = (SELECT d.vector FROM c d WHERE d.id = 3 - c.id) WHERE id IN (1, 2)",
     NULL, false},
    {"delete", NULL, "DELETE FROM c WHERE id BETWEEN 10 AND 20", NULL, false},
    {"delete all", NULL, "DELETE FROM c", NULL, false},
    {"delete and insert again", NULL,
     "DELETE FROM c; INSERT INTO c(id, text_id, vector) VALUES (1, 't1', " V3 ")", NULL, true},
    {"replace by id", NULL,
     "INSERT OR REPLACE INTO c(id, text_id, vector) VALUES (7, 'new', " V1 ")", NULL, true},
    {"replace by id, integer", NULL, "REPLACE INTO c(id, vector) VALUES (7, " V1 ")", NULL, false},
    {"replace by text id", NULL, "INSERT OR REPLACE INTO c(text_id, vector) VALUES ('t7', " V1 ")",
     NULL, true},
    {"replace by both", NULL,
     "INSERT OR REPLACE INTO c(id, text_id, vector) VALUES (8, 't7', " V1 ")", NULL, true},
    {"replace several", NULL,
     "INSERT OR REPLACE INTO c(id, text_id, vector) SELECT id + 1, text_id, " V2
     " FROM c WHERE id < 9",
     NULL, true},
    {"update or replace id", NULL, "UPDATE OR REPLACE c SET id = 5 WHERE id = 9", NULL, false},
    {"update or replace text id", NULL,
     "UPDATE OR REPLACE c SET text_id = 't5', vector = " V3 " WHERE id = 9", NULL, true},
    {"update or replace both", NULL,
     "UPDATE OR REPLACE c SET id = 4, text_id = 't5', vector = " V3 " WHERE id = 9", NULL, true},
    {"insert or ignore", NULL,
     "INSERT OR IGNORE INTO c(id, text_id, vector) VALUES (7, 'y', " V1 "), (200, 't3', " V1
     "), (201, 'z', " V2 ")",
     NULL, true},
    {"update or ignore", NULL, "UPDATE OR IGNORE c SET id = id + 1, vector = " V1, NULL, false},
    {"upsert", NULL,
     "INSERT INTO c(text_id, vector) VALUES ('t9', " V3 "), ('u', " V2 ") ON CONFLICT(text_id) DO "
     "UPDATE SET vector = excluded.vector",
     NULL, true},
    {"upsert by id", NULL,
     "INSERT INTO c(id, vector) VALUES (9, " V3 "), (300, " V2 ") ON CONFLICT(id) DO UPDATE SET "
     "vector = excluded.vector, id = 9000",
     NULL, false},
    {"upsert that does nothing", NULL,
     "INSERT INTO c(id, vector) VALUES (9, " V3 "), (301, " V2 ") ON CONFLICT DO NOTHING", NULL,
     false},
    {"savepoints", NULL,
     "BEGIN; UPDATE c SET vector = " V1 " WHERE id = 1; SAVEPOINT s; DELETE FROM c; ROLLBACK TO s; "
     "UPDATE c SET vector = " V2 " WHERE id = 2; RELEASE s; COMMIT",
     NULL, false},
    {"rolled back", NULL, "BEGIN; DELETE FROM c; UPDATE c SET vector = " V1 "; ROLLBACK", NULL,
     false},
    {"unique index", "CREATE UNIQUE INDEX u ON c(n)",
     "INSERT OR REPLACE INTO c(n, vector) VALUES (11, " V1 "), (12, " V2 ")", NULL, false},
    {"unique index, update", "CREATE UNIQUE INDEX u ON c(n)",
     "UPDATE OR REPLACE c SET n = 11, vector = " V1 " WHERE n = 12", NULL, false},
    {"unique index, unchanged column", "CREATE UNIQUE INDEX u ON c(n)",
     "UPDATE OR REPLACE c SET vector = " V1, NULL, false},
    {"unique index of two columns", "CREATE UNIQUE INDEX u ON c(n, lang)",
     "INSERT OR REPLACE INTO c(n, lang, vector) VALUES (11, 'lang11', " V1 "), (12, 'x', " V2 ")",
     NULL, false},
    {"unique index NOCASE", "CREATE UNIQUE INDEX u ON c(lang COLLATE NOCASE)",
     "INSERT OR REPLACE INTO c(lang, vector) VALUES ('LANG11', " V1 ")", NULL, false},
    {"unique index RTRIM", "CREATE UNIQUE INDEX u ON c(lang COLLATE RTRIM)",
     "INSERT OR REPLACE INTO c(lang, vector) VALUES ('lang11   ', " V1 ")", NULL, false},
    {"partial unique index", "CREATE UNIQUE INDEX u ON c(n) WHERE n > 10",
     "INSERT OR REPLACE INTO c(n, vector) VALUES (11, " V1 "), (3, " V2 ")", NULL, false},
    {"unique index over an expression", "CREATE UNIQUE INDEX u ON c(n + 1)",
     "INSERT OR REPLACE INTO c(n, vector) VALUES (11, " V1 ")", NULL, false},
    {"unique index over the vector",
     "DELETE FROM c WHERE id > 5; CREATE UNIQUE INDEX u ON c(vector)",
     "INSERT OR REPLACE INTO c(vector) SELECT vector FROM c WHERE id = 3", NULL, false},
    {"unique index over a generated column",
     "ALTER TABLE c ADD COLUMN g AS (n * 2); CREATE UNIQUE INDEX u ON c(g)",
     "INSERT OR REPLACE INTO c(n, vector) VALUES (11, " V1 ")", NULL, false},
    {"unique index over a typed column",
     "ALTER TABLE c ADD COLUMN i INTEGER; UPDATE c SET i = n; CREATE UNIQUE INDEX u ON c(i)",
     "INSERT OR REPLACE INTO c(i, vector) VALUES ('11', " V1 ")", NULL, false},
    {"index created", NULL, "CREATE INDEX i ON c(n)", NULL, false},
    {"column added", NULL, "ALTER TABLE c ADD COLUMN extra; UPDATE c SET vector = " V1, NULL,
     false},
    {"column added and changed", "ALTER TABLE c ADD COLUMN extra", "UPDATE c SET vector = " V1,
     NULL, false},
    {"another table dropped", NULL,
     "CREATE TABLE other(x); DELETE FROM c WHERE id = 3; DROP TABLE other", NULL, false},
    {"cascading delete",
     "CREATE TABLE parent(p INTEGER PRIMARY KEY); INSERT INTO parent VALUES (1), (2); ALTER TABLE "
     "c "
     "ADD COLUMN owner INTEGER REFERENCES parent(p) ON DELETE CASCADE ON UPDATE CASCADE; UPDATE c "
     "SET owner = 1 + id % 2",
     "DELETE FROM parent WHERE p = 1; UPDATE parent SET p = 5 WHERE p = 2", NULL, false},
    {"own trigger on insert",
     "CREATE TRIGGER own AFTER INSERT ON c BEGIN UPDATE c SET vector = " V3
     " WHERE id = NEW.id % 40 + 1; END",
     "INSERT INTO c(id, vector) VALUES (500, " V1 "), (501, " V2 ")", NULL, false},
    {"own trigger before insert",
     "CREATE TRIGGER own BEFORE INSERT ON c BEGIN DELETE FROM c WHERE id = 3; END",
     "INSERT INTO c(id, vector) VALUES (500, " V1 ")", NULL, false},
    {"own trigger on update",
     "CREATE TRIGGER own AFTER UPDATE ON c BEGIN UPDATE c SET n = n + 1 WHERE id = NEW.id; END",
     "UPDATE c SET vector = " V1 " WHERE id < 4", NULL, false},
    {"own trigger on delete",
     "CREATE TRIGGER own AFTER DELETE ON c BEGIN INSERT INTO c(id, vector) VALUES (OLD.id + "
     "900, " V1 "); END",
     "DELETE FROM c WHERE id < 4", NULL, false},
    {"trigger of another table",
     "CREATE TABLE feed(x); CREATE TRIGGER own AFTER INSERT ON feed BEGIN UPDATE c SET vector = " V1
     " WHERE id = NEW.x; DELETE FROM c WHERE id = NEW.x + 1; END",
     "INSERT INTO feed VALUES (4), (9)", NULL, false},
    {"vacuum", NULL, "DELETE FROM c WHERE id % 2; VACUUM", NULL, false},
    {"log emptied", NULL, "DELETE FROM mneme_log_1; UPDATE c SET vector = " V1 " WHERE id = 4",
     NULL, false},
    {"log emptied at the end", NULL,
     "UPDATE c SET vector = " V1 " WHERE id = 4; DELETE FROM "
     "mneme_log_1",
     NULL, false},
    {"log table dropped", "UPDATE c SET n = 0 WHERE id = 40; DROP TABLE mneme_log_1", "SELECT 1",
     NULL, false},
    {"vector of a wrong size", "PRAGMA ignore_check_constraints = ON",
     "UPDATE c SET vector = x'0102' WHERE id = 4", "2 bytes, not 16", false},
    {"vector that is a text", "PRAGMA ignore_check_constraints = ON",
     "UPDATE c SET vector = '0123456789abcdef' WHERE id = 4", "CHECK constraint failed", false},
    {"vector with NaN", NULL, "UPDATE c SET vector = " NAN_VECTOR " WHERE id = 4", "element 0 is",
     false},
};

enum { STATEMENTS = sizeof statements / sizeof *statements };

/* Text-id tables refuse rows without one: the statement's failure is no case. */
static bool try_sql(struct fix *f, const char *text)
{
    if (sqlite3_exec(f->plain, text, NULL, NULL, NULL) == SQLITE_OK)
        return true;
    if (!sqlite3_get_autocommit(f->plain))
        sql(f, "ROLLBACK");
    return false;
}

static void run_statement(const struct statement *s, bool text_ids, bool search_between,
                          bool recursive, size_t *ran)
{
    static struct fix f;
    fix_open(&f, text_ids, false);
    settle(&f, s->name);
    if (recursive)
        sql(&f, "PRAGMA recursive_triggers = ON");
    bool good = !s->before || try_sql(&f, s->before);
    if (good && search_between)
        settle(&f, s->name);
    good = good && try_sql(&f, s->sql);
    CHECKF(good || text_ids || recursive, "case '%s': %s", s->name, sqlite3_errmsg(f.plain));
    settle(&f, s->name);
    *ran += good;
    check_verify(&f, s->name, good ? s->finding : NULL);
    put_row(&f, 7001, text_ids ? "after" : NULL, 3001);
    settle(&f, s->name);
    check_verify(&f, s->name, good ? s->finding : NULL);
    fix_close(&f);
}

static void run_all(bool search_between, bool recursive)
{
    size_t ran = 0, step = test_budget(10) < 10 ? 3 : 1; /* every third under sanitizers */
    for (size_t i = 0; i < STATEMENTS; i += step) {
        for (int text = statements[i].text_only; text < 2; text++)
            run_statement(&statements[i], text, search_between, recursive, &ran);
    }
    CHECK(ran >= STATEMENTS / step);
    test_note("%zu cases", ran);
}

TEST(every_statement_is_seen_by_the_next_search)
{
    run_all(true, false);
}

TEST(every_statement_is_seen_though_nobody_searched_since_the_schema_changed)
{
    run_all(false, false);
}

TEST(every_statement_is_seen_with_recursive_triggers)
{
    run_all(true, true);
}

/* ---- Longer stories -----------------------------------------------------------------------------
 */

static bool from_cache(struct fix *f)
{
    static const float query[DIM] = {1, 0, 0, 0};
    mn_hit hit;
    uint32_t found;
    mn_search_stats stats;
    for (int i = 0; i < 3; i++) /* the first may mend, the second load */
        CHECK_OK(mn_search(f->conn, "c", query, 1, 1, &(mn_search_opts){.stats = &stats}, &hit,
                           &found, &err),
                 err);
    return stats.from_cache;
}

TEST(triggers_of_the_user_that_leave_the_rows_alone_cost_nothing)
{
    static struct fix f;
    fix_open(&f, false, false);
    sql(&f, "CREATE TABLE words(id INTEGER PRIMARY KEY, w);"
            "CREATE TRIGGER a AFTER INSERT ON c BEGIN INSERT INTO words VALUES (NEW.id, NEW.lang); "
            "END;"
            "CREATE TRIGGER b AFTER UPDATE ON c BEGIN UPDATE words SET w = NEW.lang WHERE id = "
            "NEW.id; END;"
            "CREATE TRIGGER d AFTER DELETE ON c BEGIN DELETE FROM words WHERE id = OLD.id; END;"
            "ALTER TABLE c ADD COLUMN changed;"
            "CREATE TRIGGER t AFTER UPDATE OF vector, lang ON c BEGIN UPDATE c SET changed = 'now' "
            "WHERE id = NEW.id; END");
    settle(&f, "benign");
    CHECK(from_cache(&f));
    sql(&f, "UPDATE c SET vector = " V1 " WHERE id < 9; INSERT INTO c(id, vector) VALUES (99, " V2
            "); DELETE FROM c WHERE id = 11");
    settle(&f, "benign");
    put_row(&f, 5, NULL, 6);
    settle(&f, "benign");
    CHECK(from_cache(&f));
    check_verify(&f, "benign", NULL);
    fix_close(&f);
}

/* No trigger of ours fires inside itself, so what these change from in there is in no log: such
 * tables are read row by row. The versions of those rows stay behind. */
TEST(rows_changed_from_inside_our_own_triggers_are_found)
{
    static const char *const triggers[] = {
        "CREATE TRIGGER own AFTER UPDATE OF version ON c BEGIN UPDATE c SET vector = " V2
        " WHERE id = NEW.id + 1; END",
        "CREATE TRIGGER own AFTER UPDATE OF version ON c BEGIN INSERT OR IGNORE INTO c(id, vector) "
        "VALUES (NEW.id + 1000, " V2 "); END",
        "CREATE TRIGGER own AFTER UPDATE ON c BEGIN UPDATE OR IGNORE c SET id = NEW.id + 1000 "
        "WHERE "
        "id = NEW.id + 1; END",
        "CREATE TABLE feed(x); CREATE TRIGGER own AFTER UPDATE OF version ON c BEGIN INSERT INTO "
        "feed VALUES (NEW.id); END; CREATE TRIGGER feeds AFTER INSERT ON feed BEGIN UPDATE C SET "
        "vector = " V3 " WHERE id = NEW.x + 2; END"};
    for (size_t i = 0; i < sizeof triggers / sizeof *triggers; i++) {
        static struct fix f;
        fix_open(&f, false, false);
        f.versions_lie = true;
        settle(&f, "nested");
        CHECK(from_cache(&f));
        sql(&f, triggers[i]);
        settle(&f, triggers[i]);
        CHECKF(!from_cache(&f), "%s", triggers[i]);
        sql(&f, "UPDATE c SET vector = " V1
                " WHERE id = 4; INSERT INTO c(id, vector) VALUES (99, " V2 ")");
        settle(&f, triggers[i]);
        sql(&f, "DROP TRIGGER own");
        settle(&f, triggers[i]);
        CHECKF(from_cache(&f), "%s", triggers[i]);
        fix_close(&f);
    }
}

TEST(a_unique_index_over_an_expression_of_the_key_is_streamed_until_it_goes)
{
    static struct fix f;
    fix_open(&f, false, false);
    sql(&f, "CREATE UNIQUE INDEX u ON c(n + id)");
    settle(&f, "expression");
    CHECK(!from_cache(&f));
    sql(&f, "DROP INDEX u");
    settle(&f, "expression");
    CHECK(from_cache(&f));
    fix_close(&f);
}

TEST(a_client_that_only_reads_in_transactions_gets_its_vectors_back_into_memory)
{
    static struct fix f;
    static const float query[DIM] = {1, 0, 0, 0};
    mn_hit hit;
    uint32_t found;
    mn_search_stats stats;
    fix_open(&f, false, false);
    sql(&f, "CREATE INDEX i ON c(n)");
    for (int i = 0; i < 4; i++) {
        CHECK_OK(mn_begin_read(f.conn, &err), err);
        CHECK_OK(mn_search(f.conn, "c", query, 1, 1, &(mn_search_opts){.stats = &stats}, &hit,
                           &found, &err),
                 err);
        CHECK_OK(mn_commit(f.conn, &err), err);
    }
    CHECK(stats.from_cache);
    fix_close(&f);
}

TEST(rows_changed_while_the_triggers_were_gone_are_found)
{
    static struct fix f;
    char text[1024];
    fix_open(&f, true, false);
    settle(&f, "triggers gone");
    CHECK(from_cache(&f));
    sqlite3_stmt *st;
    CHECK(sqlite3_prepare_v2(f.plain, "SELECT sql FROM sqlite_master WHERE name = 'mneme_1_update'",
                             -1, &st, NULL) == SQLITE_OK);
    CHECK(sqlite3_step(st) == SQLITE_ROW);
    snprintf(text, sizeof text, "%s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    f.versions_lie = true; /* nobody was there to give new ones */
    sql(&f, "DROP TRIGGER mneme_1_update; UPDATE c SET vector = " V2 " WHERE id < 20");
    check_verify(&f, "triggers gone", "triggers");
    sql(&f, text);
    settle(&f, "triggers back");
    f.versions_lie = false;
    sql(&f, "UPDATE c SET vector = " V3 " WHERE id < 5");
    settle(&f, "triggers back");
    CHECK(from_cache(&f));
    check_verify(&f, "triggers back", NULL);
    fix_close(&f);
}

TEST(a_column_added_by_hand_is_an_attribute_and_its_changes_count)
{
    static struct fix f;
    mn_rows *rows;
    fix_open(&f, false, false);
    sql(&f, "ALTER TABLE c ADD COLUMN extra");
    settle(&f, "added");
    int64_t before = sql_number(&f, "SELECT max(version) FROM c");
    sql(&f, "UPDATE c SET extra = 'x' WHERE id = 3");
    CHECK(sql_number(&f, "SELECT version FROM c WHERE id = 3") > before);
    CHECK_OK(mn_get(f.conn, "c", &(mn_id){.id = 3}, 1, &rows, &err), err);
    const mn_value *v = mn_row_attr(mn_rows_at(rows, 0), "extra");
    CHECK(v && v->type == MN_TEXT);
    mn_rows_free(rows);
    fix_close(&f);
}

static mn_status search_status(struct fix *f)
{
    static const float query[DIM] = {1, 0, 0, 0};
    mn_hit hit;
    uint32_t found;
    return mn_search(f->conn, "c", query, 1, 1, NULL, &hit, &found, &err);
}

TEST(a_table_renamed_by_hand_is_missed_and_found_again)
{
    static struct fix f;
    fix_open(&f, true, false);
    settle(&f, "renamed");
    sql(&f, "ALTER TABLE c RENAME TO elsewhere");
    CHECK_EQ(search_status(&f), MN_CORRUPT);
    CHECK_HAS(err.message, "dropped, renamed or changed");
    check_verify(&f, "renamed", "needs table 'c'");
    sql(&f, "UPDATE elsewhere SET vector = " V2 " WHERE id = 4; ALTER TABLE elsewhere RENAME TO c");
    settle(&f, "renamed back");
    CHECK(from_cache(&f));
    check_verify(&f, "renamed back", NULL);
    sql(&f, "ALTER TABLE c RENAME COLUMN vector TO v");
    CHECK_EQ(search_status(&f), MN_CORRUPT);
    sql(&f, "ALTER TABLE c RENAME COLUMN v TO vector");
    settle(&f, "column renamed back");
    fix_close(&f);
}

TEST(a_table_dropped_by_hand_can_be_dropped_for_good)
{
    for (int beside = 0; beside < 2; beside++) {
        static struct fix f;
        fix_open(&f, false, false);
        mn_collection_opts second = {.dim = 2, .beside = "c"};
        if (beside)
            CHECK_OK(mn_create(f.conn, "d", &second, &err), err);
        settle(&f, "dropped");
        sql(&f, "DROP TABLE c");
        CHECK_EQ(search_status(&f), MN_CORRUPT);
        check_verify(&f, "dropped", "needs table 'c'");
        CHECK_EQ(mn_create(f.conn, "c", &(mn_collection_opts){.dim = DIM}, &err), MN_EXISTS);
        CHECK_OK(mn_drop(f.conn, "c", &err), err);
        if (beside)
            CHECK_OK(mn_drop(f.conn, "d", &err), err);
        check_verify(&f, "dropped", NULL);
        const char *attributes[] = {"lang", "n"};
        mn_collection_opts again = {.dim = DIM, .attributes = attributes, .n_attributes = 2};
        CHECK_OK(mn_create(f.conn, "c", &again, &err), err);
        f.n = 0;
        f.highest = 0;
        put_row(&f, 1, NULL, 1);
        settle(&f, "made anew");
        fix_close(&f);
    }
}

TEST(a_table_of_the_user_under_a_collections_name_is_not_dropped_with_it)
{
    static struct fix f;
    fix_open(&f, false, false);
    sql(&f, "ALTER TABLE c RENAME TO mine; CREATE TABLE c(precious)");
    CHECK_EQ(search_status(&f), MN_CORRUPT);
    CHECK_OK(mn_drop(f.conn, "c", &err), err);
    CHECK_EQ(sql_number(&f, "SELECT count(*) FROM c"), 0);
    CHECK_EQ(sql_number(&f, "SELECT count(*) FROM mine"), ROWS);
    sql(&f, "INSERT INTO mine(vector) VALUES (" V1 ")"); /* no trigger of ours stayed behind */
    fix_close(&f);
}

TEST(zero_vectors_are_no_rows_under_cosine)
{
    static struct fix f;
    static const float query[2] = {1, 0};
    mn_hit hits[9];
    uint32_t found;
    mn_search_stats stats;
    fix_open(&f, false, false);
    CHECK_OK(mn_create(f.conn, "z", &(mn_collection_opts){.dim = 2, .metric = MN_COSINE}, &err),
             err);
    sql(&f, "INSERT INTO z(id, vector) VALUES (1, zeroblob(8)), (2, x'0000803f00000000'), (3, "
            "x'000000000000c07f')");
    for (int i = 0; i < 3; i++) {
        CHECK_OK(mn_search(f.conn, "z", query, 1, 9, &(mn_search_opts){.stats = &stats}, hits,
                           &found, &err),
                 err);
        CHECK_EQ(found, 1);
        CHECK_EQ(hits[0].id, 2);
        CHECK_EQ(stats.rows_invalid, 2);
    }
    CHECK(stats.from_cache);
    check_verify(&f, "zeros", "z, row 1");
    check_verify(&f, "zeros", "z, row 3");
    fix_close(&f);
}

/* Rows of a wrong size are reported by every search, wherever its vectors come from. */
TEST(rows_of_a_wrong_size_are_counted)
{
    static struct fix f;
    static const float query[DIM] = {1, 0, 0, 0};
    mn_hit hits[9];
    uint32_t found;
    mn_search_stats stats;
    fix_open(&f, false, false);
    sql(&f, "PRAGMA ignore_check_constraints = ON; UPDATE c SET vector = x'01' WHERE id < 4");
    for (int i = 0; i < 4; i++) {
        CHECK_OK(mn_search(f.conn, "c", query, 1, 9, &(mn_search_opts){.stats = &stats}, hits,
                           &found, &err),
                 err);
        CHECKF(stats.rows_invalid == 3, "search %d: %" PRIu64 " invalid rows", i,
               stats.rows_invalid);
        if (i == 2) /* from memory, with a row that was mended and one that was broken */
            sql(&f,
                "UPDATE c SET vector = " V1 " WHERE id = 2; UPDATE c SET vector = x'' WHERE id = "
                "9");
    }
    CHECK(stats.from_cache);
    mn_rows *rows;
    CHECK_EQ(mn_get(f.conn, "c", &(mn_id){.id = 1}, 1, &rows, &err), MN_CORRUPT);
    CHECK_HAS(err.message, "row 1");
    put_row(&f, 1, NULL, 1);
    CHECK_OK(mn_get(f.conn, "c", &(mn_id){.id = 1}, 1, &rows, &err), err);
    mn_rows_free(rows);
    fix_close(&f);
}

/* ---- The sqlite3 program
 * ------------------------------------------------------------------------- */

static void need_program(void)
{
    if (system("sqlite3 --version >/dev/null 2>&1") != 0)
        test_skip("needs the sqlite3 program");
}

__attribute__((format(printf, 1, 2))) static void shell(const char *format, ...)
{
    char command[1500];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    CHECKF(system(command) == 0, "%s", command);
}

TEST(the_sqlite3_program_writes_under_a_live_database)
{
    static struct fix f;
    need_program();
    fix_open(&f, true, true);
    settle(&f, "program");
    shell(
        "sqlite3 -bail %s \"INSERT OR REPLACE INTO c(text_id, vector) VALUES ('t4', %s), ('p', " V2
        ")\"",
        f.path, V3);
    settle(&f, "program");
    shell("sqlite3 -bail %s \"DELETE FROM c WHERE id %% 2 = 0\"", f.path);
    settle(&f, "program");
    shell("sqlite3 -bail %s VACUUM", f.path);
    settle(&f, "program");
    check_verify(&f, "program", NULL);
    CHECK(from_cache(&f));
    fix_close(&f);
}

TEST(a_dump_restored_into_a_new_file_is_the_same_database)
{
    static struct fix f;
    need_program();
    fix_open(&f, true, true);
    sql(&f, "UPDATE c SET vector = " V3 " WHERE id < 5; DELETE FROM c WHERE id = 9");
    settle(&f, "dump");
    int64_t version = f.highest;
    const char *copy = test_path("copy.db");
    shell("sqlite3 -bail %s .dump | sqlite3 -bail %s", f.path, copy);
    disconnect_both(&f);
    f.path = copy;
    connect_both(&f);
    CHECK_EQ(sql_number(&f, "SELECT count(*) FROM c"), ROWS - 1);
    settle(&f, "restored dump");
    CHECK_EQ(f.highest, version);
    put_row(&f, 0, "new", 77);
    settle(&f, "restored dump");
    check_verify(&f, "restored dump", NULL);
    CHECK(from_cache(&f));
    fix_close(&f);
}

/* ---- A backup restored over the open database
 * ------------------------------------------------------ */

static void restore(struct fix *f, const char *from)
{
    sqlite3 *source;
    CHECK(sqlite3_open(from, &source) == SQLITE_OK);
    sqlite3_backup *b = sqlite3_backup_init(f->plain, "main", source, "main");
    CHECKF(b, "%s", sqlite3_errmsg(f->plain));
    CHECK_EQ(sqlite3_backup_step(b, -1), SQLITE_DONE);
    CHECK_EQ(sqlite3_backup_finish(b), SQLITE_OK);
    sqlite3_close(source);
    f->n = 0; /* another history: its versions are its own */
    f->highest = 0;
}

TEST(a_backup_restored_over_the_open_database_is_what_is_searched)
{
    static struct fix f;
    fix_open(&f, false, true);
    const char *backup = test_path("backup.db");
    settle(&f, "before");
    CHECK_OK(mn_backup(f.conn, backup, &err), err);
    for (int round = 0; round < 3; round++) {
        /* As many changes after each restore: the logs count up to the same numbers. */
        for (int i = 0; i < 5; i++)
            put_row(&f, 1 + i, NULL, 100 * (round + 1) + i);
        settle(&f, "changed");
        CHECK(from_cache(&f));
        restore(&f, backup);
        if (round) /* with and without a search between restoring and changing */
            settle(&f, "restored");
        for (int i = 0; i < 5; i++)
            put_row(&f, 1 + i, NULL, 50 * (round + 1) + i);
        settle(&f, "changed again");
        restore(&f, backup);
        settle(&f, "restored");
    }
    for (int i = 0; i < 40; i++)
        settle(&f, "restored");
    CHECK(from_cache(&f));
    check_verify(&f, "restored", NULL);
    fix_close(&f);
}

TEST(another_database_restored_over_the_open_one_is_what_is_searched)
{
    static struct fix f;
    fix_open(&f, false, true);
    settle(&f, "first");
    const char *other = test_path("other.db");
    mn_db *db;
    mn_conn *conn;
    const float v[2] = {1, 2};
    const mn_row row = {.id = 5, .vector = v};
    CHECK_OK(mn_open(other, NULL, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    CHECK_OK(mn_create(conn, "c", &(mn_collection_opts){.dim = 2, .metric = MN_IP}, &err), err);
    CHECK_OK(mn_put(conn, "c", &row, 1, NULL, &err), err);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
    restore(&f, other);
    for (int i = 0; i < 30; i++) {
        mn_hit hit;
        uint32_t found;
        CHECK_OK(mn_search(f.conn, "c", v, 1, 1, NULL, &hit, &found, &err), err);
        CHECK_EQ(found, 1);
        CHECK_EQ(hit.id, 5);
        CHECK_NEAR(hit.distance, -5, 0);
    }
    check_verify(&f, "other", NULL);
    fix_close(&f);
}

/* ---- Random clients
 * ---------------------------------------------------------------------------------- */

static void random_vector(struct test_rng *r, char *out, size_t size)
{
    snprintf(out, size, "%s", test_below(r, 3) == 0 ? V1 : test_below(r, 2) ? V2 : V3);
}

static void random_statement(struct fix *f, struct test_rng *r, char *text, size_t size)
{
    char v[48];
    int id = (int)test_below(r, 60), other = (int)test_below(r, 60);
    static const char *const ors[] = {"", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ROLLBACK"};
    const char *or_what = ors[test_below(r, 5)];
    random_vector(r, v, sizeof v);
    switch (test_below(r, 9)) {
    case 0:
        snprintf(text, size, "INSERT %s INTO c(id, text_id, n, vector) VALUES (%d, 't%d', %d, %s)",
                 or_what, id, other, id, v);
        break;
    case 1:
        snprintf(text, size, "INSERT %s INTO c(text_id, n, vector) VALUES ('t%d', %d, %s)", or_what,
                 other, other, v);
        break;
    case 2:
        snprintf(text, size, "UPDATE %s c SET id = %d, vector = %s WHERE id = %d", or_what, other,
                 v, id);
        break;
    case 3:
        snprintf(text, size, "UPDATE %s c SET text_id = 't%d' WHERE id IN (%d, %d)", or_what, other,
                 id, id + 1);
        break;
    case 4:
        snprintf(text, size, "DELETE FROM c WHERE id BETWEEN %d AND %d", id, id + 3);
        break;
    case 5:
        snprintf(
            text, size,
            "INSERT INTO c(id, text_id, vector) VALUES (%d, 't%d', %s) ON CONFLICT DO UPDATE SET "
            "vector = excluded.vector, n = n + 1",
            id, other, v);
        break;
    case 6:
        snprintf(text, size, "%s",
                 sqlite3_get_autocommit(f->plain) ? "BEGIN"
                 : test_below(r, 3)               ? "COMMIT"
                                                  : "ROLLBACK");
        break;
    case 7:
        snprintf(text, size, "%s",
                 test_below(r, 2)   ? "SAVEPOINT s"
                 : test_below(r, 2) ? "ROLLBACK TO s"
                                    : "RELEASE s");
        break;
    default:
        snprintf(text, size, "%s",
                 test_below(r, 4)   ? "UPDATE c SET n = n + 1 WHERE id % 7 = 3"
                 : test_below(r, 2) ? "PRAGMA recursive_triggers = ON"
                 : test_below(r, 2) ? "CREATE UNIQUE INDEX IF NOT EXISTS u ON c(n)"
                                    : "DROP INDEX IF EXISTS u");
    }
}

TEST(random_statements_are_seen)
{
    size_t scripts = test_budget(30);
    const char *only = getenv("MNEME_FOREIGN_SEED");
    for (size_t seed = only ? (size_t)atoll(only) : 1, end = only ? seed + 1 : scripts + 1;
         seed < end; seed++) {
        static struct fix f;
        struct test_rng r = {seed};
        char text[512], name[700];
        fix_open(&f, true, false);
        for (int step = 0; step < 60; step++) {
            random_statement(&f, &r, text, sizeof text);
            sqlite3_exec(f.plain, text, NULL, NULL,
                         NULL); /* may fail: conflicts are its business */
            if (only)
                printf("%d: %s\n", step, text);
            snprintf(name, sizeof name, "MNEME_FOREIGN_SEED=%zu, step %d: %s", seed, step, text);
            if (!sqlite3_get_autocommit(f.plain))
                continue; /* uncommitted: Mneme must not see it, and brute force here would */
            if (test_below(&r, 2))
                settle(&f, name);
        }
        if (!sqlite3_get_autocommit(f.plain))
            sql(&f, "ROLLBACK");
        settle(&f, "end");
        put_row(&f, 0, "after", 4000);
        settle(&f, "end");
        check_verify(&f, "end", NULL);
        fix_close(&f);
    }
    test_note("%zu scripts", only ? 1 : scripts);
}

TEST_MAIN
