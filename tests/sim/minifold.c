#include "tests/sim/minifold.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/error.h"
#include "storage/catalog.h"
#include "storage/sql.h"

enum { MAX_PAYLOAD = 20000, ALIGN = IO_ALIGN };

const mn_allocator *mini_hooks;

static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static size_t payload_len(uint32_t object, uint32_t version)
{
    return 100 + (size_t)(mix((uint64_t)object << 32 | version) % (MAX_PAYLOAD - 100));
}

static void fill(uint8_t *to, size_t n, uint32_t object, uint32_t version)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t word = mix(((uint64_t)object << 32 | version) + (i / 8) * 0x10001);
        to[i] = (uint8_t)(word >> i % 8 * 8);
    }
}

/* ---- Opening --------------------------------------------------------------------------------- */

static mn_status make_database(sqlite3 *db, mn_error *err)
{
    enum catalog_state state;
    mn_status st = sql_exec(db, "PRAGMA journal_mode=WAL", err);
    if (st == MN_OK)
        st = catalog_check(db, &state, err);
    if (st || state == CATALOG_PRESENT)
        return st;
    st = sql_exec(db, "BEGIN IMMEDIATE", err);
    if (st == MN_OK)
        st = catalog_init(db, err);
    if (st == MN_OK)
        st = sql_exec(db, "CREATE TABLE t(object INTEGER PRIMARY KEY, version)", err);
    if (st == MN_OK)
        st = sql_exec(db, "COMMIT", err);
    return st;
}

static mn_status open_sidecar(struct mini *m, bool writable, mn_error *err)
{
    struct sidecar_meta meta;
    struct extents list = {0};
    struct sidecar_opts opts = {m->fs, m->alloc, m->path, writable};
    mn_status st = sql_exec(m->db, "BEGIN", err);
    if (st == MN_OK)
        st = extents_meta(m->db, &meta, err);
    if (st == MN_OK)
        st = extents_load(m->db, m->alloc, &meta, 0, &list, err);
    if (st == MN_OK)
        st = sidecar_open(&opts, &meta, list.refs, list.n, NULL, &m->s, &m->found, err);
    extents_fini(m->alloc, &list);
    if (!sqlite3_get_autocommit(m->db))
        sqlite3_exec(m->db, "ROLLBACK", NULL, NULL, NULL);
    return st;
}

mn_status mini_open(struct mini *m, struct mn_fs *fs, const char *vfs, const char *path,
                    bool writable, mn_error *err)
{
    int flags = writable ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY;
    memset(m, 0, sizeof *m);
    m->fs = fs;
    m->alloc = mn_alloc_create(mini_hooks, UINT64_MAX);
    if (!m->alloc)
        return mn_fail(err, MN_NOMEM, "no memory");
    snprintf(m->path, sizeof m->path, "%s-mneme", path);
    int rc = sqlite3_open_v2(path, &m->db, flags, vfs);
    mn_status st = rc ? sql_fail(m->db, rc, err, "open") : MN_OK;
    if (st == MN_OK) {
        sqlite3_extended_result_codes(m->db, 1);
        st = sql_exec(m->db, "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0", err);
    }
    if (st == MN_OK && writable)
        st = make_database(m->db, err);
    return st ? st : open_sidecar(m, writable, err);
}

void mini_close(struct mini *m)
{
    lease_drop(m->l);
    sidecar_close(m->s);
    sqlite3_close(m->db);
    if (m->alloc)
        mn_alloc_destroy(m->alloc);
    memset(m, 0, sizeof *m);
}

/* ---- Folding --------------------------------------------------------------------------------- */

static mn_status forget(void *ctx, sqlite3 *db, mn_error *err)
{
    (void)ctx;
    return sql_exec(db, "DELETE FROM t", err);
}

mn_status mini_build(struct mini *m, bool replace, mn_error *err)
{
    struct sidecar_opts opts = {m->fs, m->alloc, m->path, true};
    lease_drop(m->l);
    m->l = NULL;
    sidecar_close(m->s);
    m->s = NULL;
    return sidecar_build(m->db, &opts, replace, forget, NULL, &m->s, err);
}

mn_status mini_lease(struct mini *m, mn_error *err)
{
    return lease_take(m->db, m->s, m->alloc, &m->l, err);
}

mn_status mini_write(struct mini *m, uint32_t first, uint32_t end, uint32_t version, mn_error *err)
{
    static uint8_t payload[MAX_PAYLOAD];
    mn_status st = MN_OK;
    for (uint32_t o = first; o < end && version && st == MN_OK; o++) {
        struct extent_ref ref;
        struct extent_spec spec = {.collection = 1,
                                   .object = o,
                                   .rows = version,
                                   .kind = 1,
                                   .flags = o % 3 == 2 ? EXTENT_PAGES : 0,
                                   .payload_len = payload_len(o, version)};
        fill(payload, spec.payload_len, o, version);
        st = publish_write(m->l, &spec, payload, NULL, &ref, err);
    }
    return st;
}

/* Block of the object's present extent; 0: none. */
static uint64_t find_extent(struct mini *m, uint32_t object)
{
    const struct extents *e = lease_extents(m->l);
    for (size_t i = 0; i < e->n; i++)
        if (e->refs[i].object == object)
            return e->refs[i].first_block;
    return 0;
}

mn_status mini_begin(struct mini *m, uint32_t first, uint32_t end, uint32_t version, mn_error *err)
{
    mn_status st = publish_begin(m->l, err);
    for (uint32_t o = first; o < end && st == MN_OK; o++) {
        uint64_t block = find_extent(m, o);
        if (block)
            st = publish_drop(m->l, block, err);
        if (st == MN_OK && version)
            st = sql_execf(m->db, err, "INSERT OR REPLACE INTO t VALUES (%u, %u)", o, version);
        else if (st == MN_OK)
            st = sql_execf(m->db, err, "DELETE FROM t WHERE object = %u", o);
    }
    return st;
}

mn_status mini_fold(struct mini *m, uint32_t first, uint32_t end, uint32_t version, mn_error *err)
{
    mn_status st = publish_open(m->l, err);
    if (st == MN_OK)
        st = mini_write(m, first, end, version, err);
    if (st == MN_OK)
        st = publish_flush(m->l, err);
    if (st == MN_OK)
        st = mini_begin(m, first, end, version, err);
    if (st == MN_OK)
        st = publish_commit(m->l, err);
    publish_abort(m->l);
    return st;
}

/* ---- Checking -------------------------------------------------------------------------------- */

struct check {
    struct mini *m;
    struct extents list;
    uint8_t *memory, *buf;
    uint32_t lost;
    char *why;
    size_t room;
};

static bool check_extent(struct check *c, const struct extent_ref *ref, uint32_t version)
{
    static uint8_t want[MAX_PAYLOAD];
    struct extent_view v;
    mn_error err = {0};
    if (ref->rows != version) {
        snprintf(c->why, c->room, "object %u has version %u, its extent %u", ref->object, version,
                 ref->rows);
        return false;
    }
    mn_status st = sidecar_read(c->m->s, ref, c->buf, &v, &err);
    if (st == MN_CORRUPT) {
        snprintf(c->why, c->room, "%s", err.message);
        c->lost++;
        return true;
    }
    if (st) {
        snprintf(c->why, c->room, "%s", err.message);
        return false;
    }
    size_t n = payload_len(ref->object, version);
    fill(want, n, ref->object, version);
    if (v.spec.payload_len != n || memcmp(v.payload, want, n) != 0) {
        snprintf(c->why, c->room, "object %u, version %u: sums are right and bytes are wrong",
                 ref->object, version);
        return false;
    }
    return true;
}

/* Every row of t has one extent; there are no others. */
static bool check_objects(struct check *c)
{
    sqlite3_stmt *st = NULL;
    mn_error err = {0};
    bool row = false, ok = true;
    size_t objects = 0;
    if (sql_prepare(c->m->db, "SELECT object, version FROM t", &st, &err)) {
        snprintf(c->why, c->room, "%s", err.message);
        return false;
    }
    while (ok && sql_step(st, &row, &err) == MN_OK && row) {
        uint32_t object = (uint32_t)sqlite3_column_int64(st, 0);
        const struct extent_ref *ref = NULL;
        objects++;
        for (size_t i = 0; i < c->list.n && ok; i++)
            if (c->list.refs[i].object == object) {
                ok = !ref;
                ref = &c->list.refs[i];
            }
        if (!ok || !ref) {
            snprintf(c->why, c->room, "object %u has %s extent", object,
                     ok ? "no" : "more than one");
            ok = false;
        } else {
            ok = check_extent(c, ref, (uint32_t)sqlite3_column_int64(st, 1));
        }
    }
    sqlite3_finalize(st);
    if (ok && err.code) {
        snprintf(c->why, c->room, "%s", err.message);
        ok = false;
    }
    if (ok && objects != c->list.n) {
        snprintf(c->why, c->room, "%zu objects, %zu extents", objects, c->list.n);
        ok = false;
    }
    return ok;
}

bool mini_check(struct mini *m, uint32_t *lost, char *why, size_t room)
{
    struct sidecar_meta meta;
    struct check c = {.m = m, .why = why, .room = room};
    mn_error err = {0};
    bool own = sqlite3_get_autocommit(m->db) != 0;
    *why = '\0';
    c.memory = malloc(MAX_PAYLOAD + 8 * ALIGN);
    c.buf = c.memory + (-(uintptr_t)c.memory & (ALIGN - 1));
    mn_status st = own ? sql_exec(m->db, "BEGIN", &err) : MN_OK;
    if (st == MN_OK)
        st = extents_meta(m->db, &meta, &err);
    if (st == MN_OK)
        st = extents_load(m->db, m->alloc, &meta, 0, &c.list, &err);
    bool ok = st == MN_OK;
    if (!ok)
        snprintf(why, room, "%s", err.message);
    if (ok && c.list.message[0]) {
        snprintf(why, room, "%s", c.list.message);
        ok = false;
    }
    if (ok && meta.exists && !m->s) {
        snprintf(why, room, "sidecar %s: %s", sidecar_state_name(m->found.state), m->found.message);
        ok = false;
    }
    if (ok)
        ok = check_objects(&c);
    if (own && !sqlite3_get_autocommit(m->db))
        sqlite3_exec(m->db, "ROLLBACK", NULL, NULL, NULL);
    extents_fini(m->alloc, &c.list);
    free(c.memory);
    if (lost)
        *lost = c.lost;
    else if (c.lost)
        ok = false;
    return ok;
}

int64_t mini_int(struct mini *m, const char *sql)
{
    mn_error err = {0};
    int64_t v = -1;
    if (sql_int(m->db, sql, -1, &v, &err))
        return -1;
    return v;
}

uint64_t mini_generation(struct mini *m)
{
    struct sidecar_meta meta;
    mn_error err = {0};
    return extents_meta(m->db, &meta, &err) ? UINT64_MAX : meta.generation;
}
