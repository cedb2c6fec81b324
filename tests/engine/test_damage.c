/* Databases damaged at any page: whole pages of garbage or zeros, pages in each other's place,
 * flipped bits, bytes of the header, missing ends. Opening one changes nothing in it if it is
 * refused, and opening it read-only never does. An answer is what brute force over plainly SELECTed
 * rows gives, or a failure that says so. Verify finds what SQLite finds. Nothing crashes. */
#include "tests/test.h"

#include <sqlite3.h>

#include "src/engine/engine.h"
#include "tests/engine/brute.h"
#include "tests/sim/sim.h"

enum { DIM = 8, ROWS = 150, PAGE = 4096, MAX_FILE = 60 * PAGE };

/* The two files of a database. */
struct image {
    unsigned char db[MAX_FILE], wal[MAX_FILE];
    size_t n_db, n_wal;
};

struct counts {
    unsigned refused, errors, answers, found;
};

static size_t read_file(struct sim_proc *p, const char *path, unsigned char *out)
{
    struct mn_file *f;
    size_t got = 0;
    if (io_open(sim_fs(p), path, 0, &f) == 0)
        io_read(f, out, MAX_FILE, 0, &got);
    io_close(f);
    return got;
}

static void write_file(struct sim_proc *p, const char *path, const unsigned char *data, size_t n)
{
    struct mn_file *f;
    CHECK_EQ(io_open(sim_fs(p), path, IO_WRITE | IO_CREATE, &f), 0);
    if (n)
        CHECK_EQ(io_write(f, data, n, 0), 0);
    io_close(f);
}

static void take_image(struct sim_proc *p, struct image *out)
{
    out->n_db = read_file(p, "app.db", out->db);
    out->n_wal = read_file(p, "app.db-wal", out->wal);
}

static void fill(mn_conn *conn, int first, int n)
{
    static const char *const attributes[] = {"lang", "size"};
    static char payload[9000];
    mn_error err;
    if (first == 0) {
        mn_collection_opts c = {.dim = DIM, .attributes = attributes, .n_attributes = 2};
        mn_collection_opts t = {.dim = DIM, .id_kind = MN_ID_TEXT, .metric = MN_COSINE};
        CHECK_OK(mn_create(conn, "c", &c, &err), err);
        CHECK_OK(mn_create(conn, "t", &t, &err), err);
        memset(payload, 'x', sizeof payload - 1);
    }
    for (int i = first; i < first + n; i++) {
        float v[DIM];
        char text[24];
        for (int j = 0; j < DIM; j++)
            v[j] = (float)((i * (j + 3) + j) % 37) - 18;
        const mn_attr attrs[] = {{"size", {.type = MN_INTEGER, .integer = i}},
                                 {"lang", {.type = MN_TEXT, .data = "en", .len = 2}}};
        snprintf(text, sizeof text, "id-%d", i * 7919 % 1000);
        /* A few payloads span pages. */
        mn_row row = {.id = i + 1, .vector = v, .attrs = attrs, .n_attrs = 2, .payload = payload,
                      .payload_len = i % 50 == 7 ? 8999 : (size_t)(i % 40)};
        CHECK_OK(mn_put(conn, "c", &row, 1, NULL, &err), err);
        row.text_id = text;
        row.n_attrs = 0;
        row.payload = NULL;
        CHECK_OK(mn_put(conn, "t", &row, 1, NULL, &err), err);
    }
}

/* A sound database: checkpointed; or with a log that a killed process left. */
static void make_image(bool with_log, struct image *out)
{
    struct sim *disk = sim_create(NULL);
    struct sim_proc *p = sim_start(disk);
    mn_db *db;
    mn_conn *conn;
    mn_error err;
    for (int part = 0; part < 2; part++) {
        CHECK_OK(db_open_vfs("app.db", NULL, sim_vfs(p), &db, &err), err);
        CHECK_OK(mn_connect(db, &conn, &err), err);
        fill(conn, part * ROWS / 2, part ? ROWS - ROWS / 2 : ROWS / 2);
        if (part && with_log)
            take_image(p, out);
        mn_disconnect(conn);
        CHECK_OK(mn_close(db, &err), err);
    }
    if (!with_log)
        take_image(p, out);
    CHECK(out->n_db > 8 * PAGE && out->n_db < MAX_FILE);
    CHECK((out->n_wal > 0) == with_log);
    sim_stop(p);
    sim_destroy(disk);
}

/* ---- One damaged image ----------------------------------------------------------------------- */

static bool is_damage(mn_status st)
{
    return st == MN_CORRUPT || st == MN_NOTADB;
}

/* The rows as a plain SELECT gives them; false if it fails. Vectors of another size are no rows. */
static bool select_rows(sqlite3 *sql, const char *table, struct brute *b)
{
    sqlite3_stmt *st = NULL;
    char text[80];
    snprintf(text, sizeof text, "SELECT id, vector FROM %s WHERE vector IS NOT NULL", table);
    int rc = sqlite3_prepare_v2(sql, text, -1, &st, NULL);
    b->n = 0;
    while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        rc = SQLITE_OK;
        if (sqlite3_column_type(st, 1) == SQLITE_BLOB &&
            (size_t)sqlite3_column_bytes(st, 1) == mn_vector_bytes(b->dtype, b->dim))
            brute_add(b, sqlite3_column_int64(st, 0), sqlite3_column_blob(st, 1));
    }
    sqlite3_finalize(st);
    return rc == SQLITE_DONE;
}

/* Ids that stand twice or out of order are damage that a scan does not see: no comparison then. */
static bool ids_ascend(const struct brute *b)
{
    for (size_t i = 1; i < b->n; i++)
        if (b->ids[i] <= b->ids[i - 1])
            return false;
    return true;
}

static bool catalog_says(sqlite3 *sql, const char *collection, const char *table)
{
    sqlite3_stmt *st = NULL;
    bool yes = false;
    if (sqlite3_prepare_v2(sql,
                           "SELECT 1 FROM mneme_collections c JOIN mneme_tables t ON t.number = "
                           "c.table_number WHERE c.name = ?1 AND t.name = ?2 AND c.dim = 8 AND "
                           "c.dtype = 'f32' AND c.metric IN ('l2', 'cosine')",
                           -1, &st, NULL) == SQLITE_OK) {
        sqlite3_bind_text(st, 1, collection, -1, SQLITE_STATIC);
        sqlite3_bind_text(st, 2, table, -1, SQLITE_STATIC);
        yes = sqlite3_step(st) == SQLITE_ROW;
    }
    sqlite3_finalize(st);
    return yes;
}

static mn_metric metric_of(mn_conn *conn, const char *name)
{
    mn_collection_info info;
    return mn_info(conn, name, &info, NULL) == MN_OK ? info.metric : MN_L2;
}

static void search_one(mn_conn *conn, sqlite3 *sql, const char *name, const char *what,
                       struct counts *n)
{
    struct brute b = {.dim = DIM, .metric = metric_of(conn, name)};
    bool readable = select_rows(sql, name, &b);
    for (int i = 0; i < 2; i++) {
        float q[DIM] = {3, (float)i, -4, 5, 1, 0, 2, 7};
        mn_hit hits[7];
        uint32_t found = 0;
        mn_error err;
        mn_status st = mn_search(conn, name, q, 1, 7, NULL, hits, &found, &err);
        if (st) {
            bool known = is_damage(st) || (st == MN_NOTFOUND && !catalog_says(sql, name, name));
            /* The shape itself may be what was damaged: then this query does not fit it. */
            known = known || !catalog_says(sql, name, name);
            CHECKF(known && err.message[0], "%s: search of %s: %s, %s", what, name,
                   mn_status_name(st), err.message);
            n->errors++;
            continue;
        }
        CHECKF(readable, "%s: search of %s answers, SELECT fails", what, name);
        n->answers++;
        if (!ids_ascend(&b) || !catalog_says(sql, name, name))
            continue;
        const char *wrong = brute_compare(&b, q, 7, 0, NULL, NULL, hits, found);
        CHECKF(!wrong, "%s: search of %s: %s", what, name, wrong);
    }
    brute_free(&b);
}

static void walk_rows(mn_conn *conn, const char *name)
{
    mn_iter *it;
    const mn_row *row;
    mn_error err;
    mn_rows *rows = NULL;
    const mn_id ids[] = {{.id = 1}, {.id = 58}, {.id = ROWS}};
    if (mn_iter_open(conn, name, INT64_MIN, &it, &err) == MN_OK) {
        for (int i = 0; i < 10 * ROWS && mn_iter_next(it, &row, &err) == MN_OK && row; i++) {
        }
        mn_iter_close(it);
    }
    if (mn_get(conn, name, ids, 3, &rows, &err) == MN_OK)
        mn_rows_free(rows);
}

static bool sqlite_is_happy(sqlite3 *sql)
{
    sqlite3_stmt *st = NULL;
    bool ok = sqlite3_prepare_v2(sql, "PRAGMA integrity_check(1)", -1, &st, NULL) == SQLITE_OK &&
              sqlite3_step(st) == SQLITE_ROW &&
              strcmp((const char *)sqlite3_column_text(st, 0), "ok") == 0;
    sqlite3_finalize(st);
    return ok;
}

static void use(mn_db *db, const char *vfs, bool readonly, const char *what, struct counts *n)
{
    mn_conn *conn;
    mn_error err;
    sqlite3 *sql = NULL;
    uint64_t findings = 0;
    mn_status st = mn_connect(db, &conn, &err);
    CHECKF(st == MN_OK || is_damage(st), "%s: connect: %s", what, err.message);
    if (st)
        return;
    CHECK_EQ(sqlite3_open_v2("app.db", &sql, SQLITE_OPEN_READONLY, vfs), SQLITE_OK);
    sqlite3_db_config(sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    search_one(conn, sql, "c", what, n);
    search_one(conn, sql, "t", what, n);
    walk_rows(conn, "c");
    walk_rows(conn, "t");
    st = mn_verify(conn, NULL, NULL, &findings, &err);
    CHECKF(st == MN_OK || is_damage(st), "%s: verify: %s, %s", what, mn_status_name(st),
           err.message);
    CHECKF(st || findings || sqlite_is_happy(sql), "%s: verify finds nothing, SQLite does", what);
    n->found += st || findings;
    sqlite3_close(sql);
    if (!readonly) { /* whatever comes of it: it ends, with a status */
        float v[DIM] = {1};
        const mn_row row = {.id = 5, .vector = v};
        st = mn_put(conn, "c", &row, 1, NULL, &err);
        CHECKF(st == MN_OK || err.message[0], "%s: put says nothing", what);
    }
    mn_disconnect(conn);
}

static void try_one(const struct image *image, bool readonly, const char *what, struct counts *n)
{
    static struct image after;
    struct sim *disk = sim_create(NULL);
    struct sim_proc *p = sim_start(disk);
    mn_db *db = NULL;
    mn_error err;
    mn_open_opts opts = {.flags = readonly ? MN_OPEN_READONLY : MN_OPEN_MUST_EXIST};
    write_file(p, "app.db", image->db, image->n_db);
    if (image->n_wal)
        write_file(p, "app.db-wal", image->wal, image->n_wal);
    mn_status st = db_open_vfs("app.db", &opts, sim_vfs(p), &db, &err);
    if (st) {
        n->refused++;
        CHECKF(is_damage(st) || st == MN_NEWER || st == MN_READONLY, "%s: open: %s, %s", what,
               mn_status_name(st), err.message);
        CHECKF(strstr(err.message, "app.db"), "%s: open: %s", what, err.message);
    } else {
        use(db, sim_vfs(p), readonly, what, n);
        mn_close(db, NULL);
    }
    if (st || readonly) {
        take_image(p, &after);
        CHECKF(after.n_db == image->n_db && memcmp(after.db, image->db, image->n_db) == 0,
               "%s: %s changed the database", what, st ? "a refused open" : "reading");
        CHECKF(after.n_wal == image->n_wal && memcmp(after.wal, image->wal, image->n_wal) == 0,
               "%s: %s changed the log: %zu bytes, %zu before", what,
               st ? "a refused open" : "reading", after.n_wal, image->n_wal);
    }
    sim_stop(p);
    sim_destroy(disk);
}

static void try_both(const struct image *image, const char *what, struct counts *n)
{
    try_one(image, false, what, n);
    try_one(image, true, what, n);
}

static void tell(const struct counts *n)
{
    test_note("%u refused, %u errors, %u answers, %u found by verify", n->refused, n->errors,
              n->answers, n->found);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

enum damage { RANDOM, ZERO, FLIP_ONE, FLIP_MANY, SWAP, HEAD, DAMAGES };

static void damage_page(struct image *to, size_t page, int how, struct test_rng *rng)
{
    unsigned char *at = to->db + page * PAGE;
    size_t n_pages = to->n_db / PAGE;
    switch (how) {
    case RANDOM:
        for (size_t i = 0; i < PAGE; i++)
            at[i] = (unsigned char)test_rand(rng);
        break;
    case ZERO:
        memset(at, 0, PAGE);
        break;
    case SWAP: {
        unsigned char kept[PAGE];
        unsigned char *other = to->db + test_below(rng, n_pages) * PAGE;
        memcpy(kept, at, PAGE);
        memmove(at, other, PAGE);
        memcpy(other, kept, PAGE);
        break;
    }
    case HEAD: /* of the b-tree page: kind, cells, where they are */
        at[(page ? 0 : 100) + test_below(rng, 24)] ^= (unsigned char)(1 + test_below(rng, 255));
        break;
    default:
        for (int i = how == FLIP_ONE ? 1 : 40; i > 0; i--)
            at[test_below(rng, PAGE)] ^= (unsigned char)(1u << test_below(rng, 8));
        break;
    }
}

static void damage_every_page(bool with_log)
{
    static struct image sound, hurt;
    struct counts n = {0};
    struct test_rng rng = {with_log ? 5 : 4};
    static const unsigned times[DAMAGES] = {1, 1, 6, 3, 2, 5};
    size_t thinner = test_long() ? 1 : 10 / test_budget(10);
    make_image(with_log, &sound);
    for (size_t page = 0; page < sound.n_db / PAGE; page++)
        for (int how = 0; how < DAMAGES; how++)
            for (unsigned i = 0; i < (test_long() ? 20 : 1) * times[how]; i++) {
                char what[160];
                hurt = sound;
                damage_page(&hurt, page, how, &rng);
                if ((page + i) % thinner)
                    continue;
                snprintf(what, sizeof what, "page %zu of %zu, damage %d, number %u%s", page + 1,
                         sound.n_db / PAGE, how, i, with_log ? ", with a log" : "");
                try_both(&hurt, what, &n);
            }
    tell(&n);
    CHECK(n.refused && n.answers && n.found);
    CHECK(n.errors || thinner > 1);
}

TEST(damage_at_any_page_is_told_or_harmless)
{
    damage_every_page(false);
}

TEST(damage_under_a_log_that_was_left_is_told_or_harmless)
{
    damage_every_page(true);
}

TEST(damage_in_the_log_that_was_left_ends_it_there)
{
    static struct image sound, hurt;
    struct counts n = {0};
    struct test_rng rng = {6};
    make_image(true, &sound);
    for (size_t i = 0; i < test_budget(60); i++) {
        char what[60];
        hurt = sound;
        size_t at = i < 8 ? i * 4 : test_below(&rng, sound.n_wal);
        hurt.wal[at] ^= (unsigned char)(1u << test_below(&rng, 8));
        if (i % 5 == 4)
            hurt.n_wal = at + 1;
        snprintf(what, sizeof what, "log, byte %zu of %zu", at, sound.n_wal);
        try_both(&hurt, what, &n);
    }
    tell(&n);
}

TEST(damage_in_the_header_is_told_or_harmless)
{
    static struct image sound, hurt;
    struct counts n = {0};
    size_t step = !test_long() && test_budget(10) < 10 ? 9 : 1;
    make_image(false, &sound);
    for (size_t at = 0; at < 100; at += step)
        for (int how = 0; how < 3; how++) {
            char what[60];
            hurt = sound;
            hurt.db[at] = how == 0 ? hurt.db[at] ^ 1 : how == 1 ? 0 : 255;
            snprintf(what, sizeof what, "header, byte %zu, damage %d", at, how);
            try_both(&hurt, what, &n);
        }
    tell(&n);
    CHECK(n.refused > 0);
}

TEST(a_missing_end_is_told)
{
    static struct image sound, hurt;
    struct counts n = {0};
    make_image(false, &sound);
    size_t pages = sound.n_db / PAGE;
    const size_t sizes[] = {sound.n_db - 1, sound.n_db - PAGE, pages / 2 * PAGE, PAGE, PAGE - 1,
                            100, 99, 20, 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char what[60];
        hurt = sound;
        hurt.n_db = sizes[i];
        snprintf(what, sizeof what, "cut to %zu of %zu bytes", sizes[i], sound.n_db);
        try_both(&hurt, what, &n);
    }
    tell(&n);
    CHECK(n.refused + n.found >= 10);
}

TEST_MAIN
