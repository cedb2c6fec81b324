/*
 * The table, one row an extent that the current generation consists of:
 *
 *   mneme_extents(first_block INTEGER PRIMARY KEY, n_blocks, collection, kind, object, generation,
 *                 header_crc, rows, row_crc)
 *
 * row_crc is the CRC32C of the other columns, in this order: first_block u64, n_blocks u32,
 * collection u32, kind u32, object u32, generation u64, header_crc u32, rows u32, little-endian. It
 * finds a flipped bit, and a cell that stands under another key. A row that is missing is found by
 * two keys of mneme_meta, kept by the same transactions: SQLite's main file has no checksums of its
 * own.
 *
 *   sidecar         file_id: the random number in the header of the sidecar that goes with app.db
 *   generation      number of the last publish
 *   nonce           random number of the last publish
 *   lease_epoch     counts leases
 *   catalog_count   rows of mneme_extents
 *   catalog_digest  sum of their 64-bit hashes, mod 2^64
 */
#include "storage/extents.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/bytes.h"
#include "storage/base/crc.h"
#include "storage/base/error.h"
#include "storage/base/mutate.h"
#include "storage/catalog.h"
#include "storage/sql.h"

#define CREATE_EXTENTS                                                                             \
    "CREATE TABLE mneme_extents(first_block INTEGER PRIMARY KEY, n_blocks INTEGER NOT NULL,"       \
    " collection INTEGER NOT NULL, kind INTEGER NOT NULL, object INTEGER NOT NULL,"                \
    " generation INTEGER NOT NULL, header_crc INTEGER NOT NULL, rows INTEGER NOT NULL,"            \
    " row_crc INTEGER NOT NULL)"

#define SELECT_EXTENTS                                                                             \
    "SELECT first_block, n_blocks, collection, kind, object, generation, header_crc, rows, "       \
    "row_crc"                                                                                      \
    " FROM mneme_extents"

/* ---- Sums ------------------------------------------------------------------------------------ */

enum { ROW_BYTES = 40 };

static void row_bytes(const struct extent_ref *r, uint8_t b[ROW_BYTES])
{
    le64_put(b, r->first_block);
    le32_put(b + 8, r->n_blocks);
    le32_put(b + 12, r->collection);
    le32_put(b + 16, r->kind);
    le32_put(b + 20, r->object);
    le64_put(b + 24, r->generation);
    le32_put(b + 32, r->header_crc);
    le32_put(b + 36, r->rows);
}

static uint32_t row_crc(const struct extent_ref *r)
{
    uint8_t b[ROW_BYTES];
    row_bytes(r, b);
    return crc32c(0, b, sizeof b);
}

static uint64_t row_hash(const struct extent_ref *r)
{
    uint8_t b[ROW_BYTES];
    uint64_t h = 0;
    row_bytes(r, b);
    for (int i = 0; i < ROW_BYTES; i += 8) {
        h = (h ^ le64_get(b + i)) + 0x9e3779b97f4a7c15u; /* splitmix64 over the words */
        h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
        h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
        h ^= h >> 31;
    }
    return h;
}

/* ---- mneme_meta ------------------------------------------------------------------------------ */

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 32 hex digits into 16 bytes. */
static bool read_id(const char *text, uint8_t id[16])
{
    if (!text || strlen(text) != 32)
        return false;
    for (int i = 0; i < 16; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        id[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static void take_key(sqlite3_stmt *st, struct sidecar_meta *m, bool *has_id)
{
    const char *key = (const char *)sqlite3_column_text(st, 0);
    uint64_t value = (uint64_t)sqlite3_column_int64(st, 1);
    if (!key)
        return;
    if (strcmp(key, "db_id") == 0)
        *has_id = read_id((const char *)sqlite3_column_text(st, 1), m->db_id);
    else if (strcmp(key, "sidecar") == 0)
        m->exists = true, m->file_id = value;
    else if (strcmp(key, "generation") == 0)
        m->generation = value;
    else if (strcmp(key, "nonce") == 0)
        m->nonce = value;
    else if (strcmp(key, "lease_epoch") == 0)
        m->lease_epoch = value;
    else if (strcmp(key, "catalog_count") == 0)
        m->count = value;
    else if (strcmp(key, "catalog_digest") == 0)
        m->digest = value;
}

mn_status extents_meta(sqlite3 *db, struct sidecar_meta *out, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false, has_id = false;
    memset(out, 0, sizeof *out);
    mn_status status = sql_prepare(db,
                                   "SELECT key, value FROM mneme_meta WHERE key IN ('db_id',"
                                   " 'sidecar', 'generation', 'nonce', 'lease_epoch',"
                                   " 'catalog_count', 'catalog_digest')",
                                   &st, err);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row)
        take_key(st, out, &has_id);
    sqlite3_finalize(st);
    if (status == MN_OK && !has_id)
        status = mn_fail(err, MN_CORRUPT, "%s: mneme_meta holds no valid db_id; restore a backup",
                         sqlite3_db_filename(db, "main"));
    out->db_tag = le64_get(out->db_id);
    return status;
}

static mn_status put_key(struct extents_writer *w, const char *key, uint64_t value, mn_error *err)
{
    mn_status st = MN_OK;
    if (!w->put)
        st = sql_prepare(w->db, "INSERT OR REPLACE INTO mneme_meta(key, value) VALUES (?1, ?2)",
                         &w->put, err);
    if (st)
        return st;
    sqlite3_bind_text(w->put, 1, key, -1, SQLITE_STATIC);
    sqlite3_bind_int64(w->put, 2, (sqlite3_int64)value);
    return sql_run(w->put, err);
}

mn_status extents_meta_store(struct extents_writer *w, const struct sidecar_meta *m, mn_error *err)
{
    const struct {
        const char *key;
        uint64_t value;
    } keys[] = {{"sidecar", m->file_id},     {"generation", m->generation},
                {"nonce", m->nonce},         {"lease_epoch", m->lease_epoch},
                {"catalog_count", m->count}, {"catalog_digest", m->digest}};
    mn_status st = MN_OK;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0] && st == MN_OK; i++)
        st = put_key(w, keys[i].key, keys[i].value, err);
    return st;
}

/* ---- Reading the rows ------------------------------------------------------------------------ */

/* False if a column holds what no extent can have, or the CRC does not fit. */
static bool read_row(sqlite3_stmt *st, struct extent_ref *r)
{
    int64_t v[9];
    bool integers = true;
    for (int i = 0; i < 9; i++) {
        integers = integers && sqlite3_column_type(st, i) == SQLITE_INTEGER;
        v[i] = sqlite3_column_int64(st, i);
    }
    *r = (struct extent_ref){
        .first_block = (uint64_t)v[0],
        .n_blocks = (uint32_t)v[1],
        .collection = (uint32_t)v[2],
        .kind = (uint16_t)v[3],
        .object = (uint32_t)v[4],
        .generation = (uint64_t)v[5],
        .header_crc = (uint32_t)v[6],
        .rows = (uint32_t)v[7],
    };
    if (MUTATE(ROW_CRC))
        return true;
    return integers && v[0] >= SIDECAR_HEAD_BLOCKS && v[1] > 0 && v[1] <= EXTENT_MAX_BLOCKS &&
           v[2] >= 0 && v[2] <= UINT32_MAX && v[3] > 0 && v[3] <= UINT16_MAX && v[4] >= 0 &&
           v[4] <= UINT32_MAX && v[6] >= 0 && v[6] <= UINT32_MAX && v[7] >= 0 &&
           v[7] <= UINT32_MAX && v[8] == row_crc(r);
}

static bool add_ref(struct mn_alloc *a, struct extent_ref **refs, size_t *n,
                    const struct extent_ref *ref)
{
    if ((*n & (*n - 1)) == 0) { /* room doubles at each power of two, from 16 on */
        size_t room = *n ? 2 * *n : 16, bytes;
        if (*n == 0 || *n >= 16) {
            struct extent_ref *grown = mn_mul(room, sizeof *grown, &bytes)
                                           ? mn_realloc(a, *refs, bytes, MN_TAG_HANDLE)
                                           : NULL;
            if (!grown)
                return false;
            *refs = grown;
        }
    }
    (*refs)[(*n)++] = *ref;
    return true;
}

static void tell_trouble(sqlite3 *db, struct extents *e, uint64_t rows, uint64_t count)
{
    const char *file = sqlite3_db_filename(db, "main");
    if (e->n_damaged)
        snprintf(e->message, sizeof e->message,
                 "%s: mneme_extents: %zu of %" PRIu64
                 " rows are damaged, the first is that of block %" PRIu64
                 " (collection %u, object %u, kind %u)%s",
                 file, e->n_damaged, rows, e->damaged[0].first_block, e->damaged[0].collection,
                 e->damaged[0].object, e->damaged[0].kind, e->missing ? "; rows are missing" : "");
    else if (e->missing)
        snprintf(e->message, sizeof e->message,
                 "%s: mneme_extents has %" PRIu64 " rows, mneme_meta says %" PRIu64
                 "%s: rows are missing or were changed",
                 file, rows, count, rows == count ? " with another digest" : "");
}

mn_status extents_load(sqlite3 *db, struct mn_alloc *a, const struct sidecar_meta *meta,
                       uint32_t collection, struct extents *out, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    uint64_t rows = 0, digest = 0, end = SIDECAR_HEAD_BLOCKS;
    memset(out, 0, sizeof *out);
    if (!meta->exists)
        return MN_OK;
    mn_status status = sql_prepare(db, SELECT_EXTENTS " ORDER BY first_block", &st, err);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        struct extent_ref r;
        bool good = read_row(st, &r) && r.first_block >= end, kept = true;
        rows++;
        digest += row_hash(&r);
        if (good)
            end = r.first_block + r.n_blocks;
        if (!good)
            kept = add_ref(a, &out->damaged, &out->n_damaged, &r);
        else if (!collection || r.collection == collection)
            kept = add_ref(a, &out->refs, &out->n, &r);
        if (!kept)
            status = mn_fail(err, MN_NOMEM, "%s: out of memory for the list of %" PRIu64 " extents",
                             sqlite3_db_filename(db, "main"), meta->count);
    }
    sqlite3_finalize(st);
    if (status) {
        extents_fini(a, out);
        return status;
    }
    out->missing = rows != meta->count || (!out->n_damaged && digest != meta->digest);
    if (MUTATE(DIGEST))
        out->missing = false;
    tell_trouble(db, out, rows, meta->count);
    return MN_OK;
}

void extents_fini(struct mn_alloc *a, struct extents *e)
{
    mn_free(a, e->refs);
    mn_free(a, e->damaged);
    memset(e, 0, sizeof *e);
}

/* ---- Changing -------------------------------------------------------------------------------- */

mn_status extents_init(sqlite3 *db, mn_error *err)
{
    int64_t there = 0, now = 0, ours = 0;
    mn_status st = sql_int(db,
                           "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND "
                           "name = 'mneme_extents'",
                           0, &there, err);
    if (st || there)
        return st;
    st = catalog_schema(db, &now, &ours, err);
    if (st == MN_OK)
        st = sql_exec(db, CREATE_EXTENTS, err);
    /* A foreign change of the schema must still be noticed. */
    return st || now != ours ? st : catalog_schema_keep(db, err);
}

void extents_writer_fini(struct extents_writer *w)
{
    sqlite3_finalize(w->insert);
    sqlite3_finalize(w->find);
    sqlite3_finalize(w->remove);
    sqlite3_finalize(w->put);
    memset(w, 0, sizeof *w);
}

mn_status extents_insert(struct extents_writer *w, struct sidecar_meta *meta,
                         const struct extent_ref *r, mn_error *err)
{
    mn_status st = MN_OK;
    if (!w->insert)
        st = sql_prepare(w->db,
                         "INSERT INTO mneme_extents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                         &w->insert, err);
    if (st)
        return st;
    const int64_t v[9] = {
        (int64_t)r->first_block, r->n_blocks,   r->collection, r->kind,   r->object,
        (int64_t)r->generation,  r->header_crc, r->rows,       row_crc(r)};
    for (int i = 0; i < 9; i++)
        sqlite3_bind_int64(w->insert, i + 1, v[i]);
    st = sql_run(w->insert, err);
    if (st == MN_OK) {
        meta->count++;
        meta->digest += row_hash(r);
    }
    return st;
}

mn_status extents_remove(struct extents_writer *w, struct sidecar_meta *meta, uint64_t first_block,
                         struct extent_ref *out, mn_error *err)
{
    mn_status st = MN_OK;
    bool row = false;
    memset(out, 0, sizeof *out);
    if (!w->find)
        st = sql_prepare(w->db, SELECT_EXTENTS " WHERE first_block = ?1", &w->find, err);
    if (st == MN_OK && !w->remove)
        st =
            sql_prepare(w->db, "DELETE FROM mneme_extents WHERE first_block = ?1", &w->remove, err);
    if (st)
        return st;
    sqlite3_bind_int64(w->find, 1, (sqlite3_int64)first_block);
    st = sql_step(w->find, &row, err);
    if (st == MN_OK && row)
        read_row(w->find, out);
    sqlite3_reset(w->find);
    if (st == MN_OK && !row)
        return mn_fail(err, MN_NOTFOUND, "%s: mneme_extents has no extent at block %" PRIu64,
                       sqlite3_db_filename(w->db, "main"), first_block);
    if (st)
        return st;
    sqlite3_bind_int64(w->remove, 1, (sqlite3_int64)first_block);
    st = sql_run(w->remove, err);
    if (st == MN_OK) {
        meta->count--;
        meta->digest -= row_hash(out);
    }
    return st;
}

/* The next row at or behind `from`; *found false at the end. */
static mn_status next_row(sqlite3_stmt *st, int64_t from, bool *found, bool *good, int64_t *key,
                          struct extent_ref *r, mn_error *err)
{
    sqlite3_bind_int64(st, 1, from);
    mn_status status = sql_step(st, found, err);
    if (status == MN_OK && *found) {
        *key = sqlite3_column_int64(st, 0);
        *good = read_row(st, r);
    }
    sqlite3_reset(st);
    return status;
}

mn_status extents_mend(struct extents_writer *w, struct sidecar_meta *meta, mn_error *err)
{
    sqlite3_stmt *walk = NULL;
    int64_t key = 0, from = INT64_MIN;
    uint64_t end = SIDECAR_HEAD_BLOCKS;
    bool found = true, good = false;
    meta->count = 0;
    meta->digest = 0;
    mn_status st = sql_prepare(w->db,
                               SELECT_EXTENTS " WHERE first_block >= ?1 ORDER BY first_block"
                                              " LIMIT 1",
                               &walk, err);
    while (st == MN_OK && found) {
        struct extent_ref r;
        st = next_row(walk, from, &found, &good, &key, &r, err);
        if (st || !found)
            break;
        if (good && r.first_block >= end) {
            end = r.first_block + r.n_blocks;
            meta->count++;
            meta->digest += row_hash(&r);
        } else {
            st = sql_execf(w->db, err, "DELETE FROM mneme_extents WHERE first_block = %lld",
                           (long long)key);
        }
        if (key == INT64_MAX)
            break;
        from = key + 1;
    }
    sqlite3_finalize(walk);
    return st;
}

mn_status extents_remove_all(sqlite3 *db, struct sidecar_meta *meta, mn_error *err)
{
    meta->count = 0;
    meta->digest = 0;
    return sql_exec(db, "DELETE FROM mneme_extents", err);
}

mn_status extents_drop_collection(sqlite3 *db, uint32_t collection, mn_error *err)
{
    struct sidecar_meta meta;
    struct extents_writer w = {.db = db};
    sqlite3_stmt *st = NULL;
    bool row = false;
    uint64_t gone = 0, sum = 0;
    mn_status status = extents_meta(db, &meta, err);
    if (status || !meta.exists)
        return status;
    status = sql_preparef(db, &st, err, SELECT_EXTENTS " WHERE collection = %u", collection);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        struct extent_ref r;
        read_row(st, &r);
        gone++;
        sum += row_hash(&r);
    }
    sqlite3_finalize(st);
    if (status == MN_OK && gone)
        status = sql_execf(db, err, "DELETE FROM mneme_extents WHERE collection = %u", collection);
    meta.count -= gone;
    meta.digest -= sum;
    if (status == MN_OK && gone)
        status = extents_meta_store(&w, &meta, err);
    extents_writer_fini(&w);
    return status;
}
