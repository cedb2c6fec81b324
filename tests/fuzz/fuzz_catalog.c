/* A small valid database in memory, mutated by the input, then opened, listed, searched, written,
 * verified: any status may come out, no crash, no hang, no hits out of order.
 *
 *   byte 0          n, how many bytes of the file are changed: n % 4, of three bytes each: offset
 *                   (16 bits, of the whole file in steps), value
 *   then, to the end: statements of a SQLite client with a writable schema, see mutate() */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/engine.h"
#include "storage/fs_mem.h"
#include "storage/vfs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__asan_default_options(void);

/* A run allocates some 50 MB: keeping less of what was freed makes it a good deal faster. */
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=8:malloc_context_size=8";
}

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static const char *const vfs_name = "fuzz-catalog";
static const char *const path = "fuzz.db";

struct input {
    const uint8_t *data;
    size_t left;
};

static unsigned take(struct input *in)
{
    if (!in->left)
        return 0;
    in->left--;
    return *in->data++;
}

/* ---- The valid database -------------------------------------------------------------------------
 */

static uint8_t *image; /* its one file */
static size_t image_bytes;

static void fill(mn_conn *conn)
{
    static const float v[4][3] = {{1, 0, 0}, {0, 1, 0}, {1, 1, 0}, {2, 2, 2}};
    const char *attributes[] = {"a", "b"};
    mn_collection_opts text = {
        .dim = 3, .id_kind = MN_ID_TEXT, .attributes = attributes, .n_attributes = 2};
    mn_collection_opts beside = {.dim = 8, .dtype = MN_BIT, .metric = MN_HAMMING, .beside = "t"};
    mn_collection_opts plain = {.dim = 3, .metric = MN_COSINE};
    const mn_row texts[] = {{.text_id = "x", .vector = v[0], .payload = "p", .payload_len = 1},
                            {.text_id = "y", .vector = v[1]}};
    const mn_row rows[] = {{.id = 1, .vector = v[2]}, {.id = 2, .vector = v[3]}, {.id = 3}};
    MUST(mn_create(conn, "t", &text, NULL) == MN_OK);
    MUST(mn_create(conn, "u", &beside, NULL) == MN_OK);
    MUST(mn_create(conn, "n", &plain, NULL) == MN_OK);
    /* A table that was there, and two collections over it. */
    const char *more[] = {"x", "y"};
    mn_collection_opts over = {
        .dim = 3, .table = "f", .column = "v", .attributes = more, .n_attributes = 2};
    mn_collection_opts second = {.dim = 2, .dtype = MN_I8, .table = "f", .column = "w"};
    MUST(sqlite3_exec(conn->sql,
                      "CREATE TABLE f(k INTEGER PRIMARY KEY, x UNIQUE, y DEFAULT 3, v, w);"
                      "CREATE UNIQUE INDEX g ON f(lower(x), y COLLATE nocase DESC) WHERE y > 1;"
                      "INSERT INTO f VALUES (1, 'a', 2, '[1,2,3]', x'0102'), (5, 'b', NULL, "
                      "zeroblob(12), '[1,-1]'), (6, NULL, 3, '[1,', NULL)",
                      NULL, NULL, NULL) == SQLITE_OK);
    MUST(mn_create(conn, "o", &over, NULL) == MN_OK);
    MUST(mn_create(conn, "p", &second, NULL) == MN_OK);
    MUST(mn_put(conn, "t", texts, 2, NULL, NULL) == MN_OK);
    MUST(mn_put(conn, "n", rows, 3, NULL, NULL) == MN_OK);
}

static void make_image(void)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct mn_fs *fs = fs_mem_create(a);
    mn_db *db;
    mn_conn *conn;
    struct mn_file *file;
    uint64_t bytes;
    MUST(vfs_register(vfs_name, fs, NULL, NULL) == MN_OK);
    MUST(db_open_vfs(path, NULL, vfs_name, &db, NULL) == MN_OK);
    MUST(mn_connect(db, &conn, NULL) == MN_OK);
    fill(conn);
    mn_disconnect(conn);
    MUST(mn_close(db, NULL) == MN_OK); /* the last to close moves the log into the file */
    MUST(io_open(fs, path, 0, &file) == 0);
    MUST(io_size(file, &bytes) == 0);
    image = malloc((size_t)bytes);
    MUST(image && io_read(file, image, (size_t)bytes, 0, &image_bytes) == 0);
    MUST(image_bytes == bytes && bytes > 4096);
    io_close(file);
    MUST(vfs_unregister(vfs_name, NULL) == MN_OK);
    fs_mem_destroy(fs);
    mn_alloc_destroy(a);
}

static void write_image(struct mn_fs *fs, struct input *in)
{
    struct mn_file *file;
    MUST(io_open(fs, path, IO_WRITE | IO_CREATE, &file) == 0);
    MUST(io_write(file, image, image_bytes, 0) == 0);
    for (unsigned n = take(in) % 4; n > 0; n--) {
        uint64_t offset = (uint64_t)(take(in) << 8 | take(in)) * image_bytes >> 16;
        uint8_t byte = (uint8_t)take(in);
        MUST(io_write(file, &byte, 1, offset) == 0);
    }
    io_close(file);
}

/* ---- The client that mutates
 * --------------------------------------------------------------------- */

static char *value_text(struct input *in)
{
    static const char digits[] = "0123456789abcdef";
    char hex[2 * 32 + 1];
    unsigned kind = take(in), n = take(in) % 32;
    if (kind % 8 < 3) {
        static const long long numbers[] = {0,     1,     2,         3,         -1,        8,
                                            16384, 16385, INT64_MAX, INT64_MIN, 1ll << 32, 4096};
        return sqlite3_mprintf("%lld", numbers[n % 12]);
    }
    if (kind % 8 == 3)
        return sqlite3_mprintf("NULL");
    for (unsigned i = 0; i < n; i++) {
        unsigned byte = take(in);
        hex[2 * i] = digits[byte >> 4];
        hex[2 * i + 1] = digits[byte & 15];
    }
    hex[2 * n] = '\0';
    return sqlite3_mprintf(kind % 2 ? "x'%s'" : "CAST(x'%s' AS TEXT)", hex);
}

static const struct {
    const char *table, *column;
} cells[] = {{"mneme_tables", "number"},
             {"mneme_tables", "name"},
             {"mneme_tables", "id_kind"},
             {"mneme_collections", "number"},
             {"mneme_collections", "name"},
             {"mneme_collections", "table_number"},
             {"mneme_collections", "dim"},
             {"mneme_collections", "vector_column"},
             {"mneme_collections", "dtype"},
             {"mneme_collections", "metric"},
             {"mneme_log_1", "seq"},
             {"mneme_log_1", "id"},
             {"mneme_log_1", "stamp"},
             {"sqlite_sequence", "seq"},
             {"sqlite_sequence", "name"},
             {"t", "id"},
             {"t", "text_id"},
             {"t", "version"},
             {"t", "payload"},
             {"t", "vector"},
             {"t", "u"},
             {"t", "a"},
             {"n", "vector"},
             {"n", "version"},
             {"sqlite_master", "sql"},
             {"sqlite_master", "name"},
             {"sqlite_master", "tbl_name"},
             {"sqlite_master", "rootpage"},
             {"sqlite_master", "type"},
             {"mneme_attributes", "name"},
             {"mneme_attributes", "collection"},
             {"mneme_log_3", "seq"},
             {"f", "k"},
             {"f", "v"},
             {"f", "w"},
             {"f", "x"}};

static const char *const statements[] = {
    "DROP TRIGGER mneme_1_update",
    "DROP TABLE mneme_log_1",
    "DROP TABLE t",
    "DROP TABLE mneme_meta",
    "ALTER TABLE t RENAME TO v",
    "ALTER TABLE t RENAME COLUMN vector TO w",
    "ALTER TABLE n DROP COLUMN payload",
    "ALTER TABLE t ADD COLUMN more INTEGER DEFAULT 5",
    "CREATE UNIQUE INDEX i ON t(a)",
    "CREATE UNIQUE INDEX e ON t(a || b)",
    "CREATE TRIGGER own AFTER UPDATE ON t BEGIN INSERT INTO t(text_id) VALUES (NEW.id); END",
    "CREATE TRIGGER bad AFTER INSERT ON n BEGIN INSERT INTO nowhere VALUES (1); END",
    "DROP TABLE n; CREATE VIEW n AS SELECT * FROM t",
    "DROP TABLE n; CREATE TABLE n(id, version, payload, vector)",
    "DROP TABLE mneme_log_2; CREATE VIEW mneme_log_2 AS SELECT 1 AS seq, 2 AS id, 3 AS stamp",
    "DELETE FROM mneme_log_1",
    "DELETE FROM sqlite_sequence",
    "DELETE FROM mneme_meta",
    ("INSERT INTO mneme_collections SELECT number + 9, name || 'x', table_number, vector_column, "
     "dtype, dim, metric FROM mneme_collections"),
    "VACUUM",
    "PRAGMA journal_mode = DELETE",
    "ALTER TABLE f RENAME TO ff",
    "ALTER TABLE f RENAME COLUMN v TO vv",
    "ALTER TABLE f RENAME COLUMN k TO v2",
    "ALTER TABLE f DROP COLUMN w",
    "ALTER TABLE f DROP COLUMN y",
    "DROP TABLE f",
    "DROP TABLE f; CREATE TABLE f(k INTEGER PRIMARY KEY, v, x, y)",
    "DROP TABLE f; CREATE TABLE f(k, v, w, x, y)",
    "DROP TABLE f; CREATE VIEW f AS SELECT 1 AS k, 2 AS v",
    "CREATE UNIQUE INDEX h ON f(v || k)",
    "DROP TRIGGER mneme_3_update",
    "DROP TABLE mneme_attributes",
    "UPDATE mneme_tables SET id_kind = 'key'",
    "UPDATE mneme_tables SET id_kind = 'integer'",
    "UPDATE mneme_meta SET value = value + 1 WHERE key = 'schema'",
    "UPDATE mneme_tables SET name = 'f'"};

static void mutate(sqlite3 *sql, struct input *in)
{
    unsigned what = take(in);
    char *text, *value;
    if (what % 4 == 0) {
        unsigned which = take(in) % (sizeof statements / sizeof *statements);
        sqlite3_exec(sql, statements[which], NULL, NULL, NULL);
        return;
    }
    unsigned which = take(in), row = take(in) % 16;
    value = value_text(in);
    if (what % 4 == 1) {
        text = sqlite3_mprintf("UPDATE mneme_meta SET value = %s WHERE key = (SELECT key FROM "
                               "mneme_meta LIMIT 1 OFFSET %u)",
                               value, row);
    } else {
        which %= sizeof cells / sizeof *cells;
        text = sqlite3_mprintf("UPDATE OR REPLACE %s SET %s = %s WHERE rowid = (SELECT rowid FROM "
                               "%s LIMIT 1 OFFSET %u)",
                               cells[which].table, cells[which].column, value, cells[which].table,
                               row);
    }
    MUST(value && text);
    sqlite3_exec(sql, text, NULL, NULL, NULL);
    sqlite3_free(text);
    sqlite3_free(value);
}

/* ---- The engine on what is left
 * --------------------------------------------------------------------- */

static mn_error err;

static bool good(mn_status st)
{
    MUST(strcmp(mn_status_name(st), "unknown") != 0);
    MUST(st == MN_OK || (err.code == st && err.message[0]));
    return st == MN_OK;
}

static void try_search(mn_conn *conn, const char *name)
{
    static const float query[MN_MAX_DIM] = {1};
    static mn_hit hits[5], *all;
    uint32_t found;
    size_t n;
    for (int i = 0; i < 2; i++) {
        if (!good(mn_search(conn, name, query, 1, 5, NULL, hits, &found, &err)))
            continue;
        MUST(found <= 5);
        for (uint32_t j = 1; j < found; j++)
            MUST(hits[j - 1].distance < hits[j].distance ||
                 (hits[j - 1].distance == hits[j].distance && hits[j - 1].id < hits[j].id));
    }
    if (good(mn_search_radius(conn, name, query, 2, 0, NULL, &all, &n, &err)))
        mn_free_result(all);
}

static void try_rows(mn_conn *conn, const char *name)
{
    static const float v[MN_MAX_DIM] = {0, 1};
    mn_rows *rows;
    mn_iter *it;
    const mn_row *row;
    mn_collection_stats stats;
    const mn_id ids[] = {{.id = 1}, {.text_id = "x"}};
    for (int i = 0; i < 2; i++) {
        const mn_row put = {.id = 1, .text_id = i ? "x" : NULL, .vector = v};
        good(mn_put(conn, name, &put, 1, NULL, &err));
        if (good(mn_get(conn, name, &ids[i], 1, &rows, &err)))
            mn_rows_free(rows);
    }
    if (good(mn_iter_open(conn, name, INT64_MIN, &it, &err))) {
        do {
            if (!good(mn_iter_next(it, &row, &err)))
                break;
        } while (row);
        mn_iter_close(it);
    }
    good(mn_collection_stats_get(conn, name, &stats, &err));
    good(mn_delete(conn, name, ids, 1, NULL, &err));
}

static void use(mn_conn *conn)
{
    mn_collection_info *list, info;
    static const char *const names[] = {"t", "u", "n", "o", "p"};
    enum { NAMES = sizeof names / sizeof *names };
    size_t n;
    if (good(mn_list(conn, &list, &n, &err)))
        mn_free_result(list);
    good(mn_verify(conn, NULL, NULL, NULL, &err));
    for (int i = 0; i < NAMES; i++) {
        good(mn_info(conn, names[i], &info, &err));
        try_search(conn, names[i]);
        try_rows(conn, names[i]);
        try_search(conn, names[i]);
    }
    good(mn_add_attribute(conn, "t", "later", &err));
    good(mn_create(conn, "made", &(mn_collection_opts){.dim = 2}, &err));
    good(mn_add_attribute(conn, "p", "y", &err));
    for (int i = 0; i < NAMES; i++)
        good(mn_drop(conn, names[i], &err));
    good(mn_verify(conn, NULL, NULL, NULL, &err));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    const mn_open_opts opts = {.memory_bytes = 8 << 20, .busy_timeout_ms = MN_NO_WAIT};
    mn_db *db;
    mn_conn *conn;
    sqlite3 *sql;
    if (!image)
        make_image();
    struct mn_alloc *a = mn_alloc_create(NULL, 256 << 20);
    struct mn_fs *fs = fs_mem_create(a);
    MUST(vfs_register(vfs_name, fs, NULL, NULL) == MN_OK);
    write_image(fs, &in);
    if (sqlite3_open_v2(path, &sql, SQLITE_OPEN_READWRITE, vfs_name) == SQLITE_OK) {
        sqlite3_exec(sql, "PRAGMA writable_schema = ON; PRAGMA ignore_check_constraints = ON", NULL,
                     NULL, NULL);
        for (int i = 0; i < 12 && in.left; i++)
            mutate(sql, &in);
    }
    sqlite3_close(sql);
    if (good(db_open_vfs(path, &opts, vfs_name, &db, &err))) {
        if (good(mn_connect(db, &conn, &err))) {
            use(conn);
            mn_disconnect(conn);
        }
        MUST(mn_close(db, &err) == MN_OK);
    }
    MUST(vfs_unregister(vfs_name, NULL) == MN_OK);
    fs_mem_destroy(fs);
    mn_alloc_destroy(a);
    return 0;
}
