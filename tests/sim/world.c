#include "tests/sim/world.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/engine.h"

static const char *const words[] = {
    [WORLD_CREATE_C] = "create c",     [WORLD_CREATE_D] = "create d",
    [WORLD_CREATE_E] = "create e",     [WORLD_PUT] = "put",
    [WORLD_PUT_D] = "put d",           [WORLD_PUT_E] = "put e",
    [WORLD_DELETE] = "delete",         [WORLD_SAVEPOINT] = "savepoint",
    [WORLD_ROLLBACK] = "rollback",     [WORLD_DROP_D] = "drop d",
    [WORLD_DROP_E] = "drop e",         [WORLD_SEARCH] = "search",
    [WORLD_CHECKPOINT] = "checkpoint", [WORLD_REOPEN] = "reopen",
};

const char *world_word(enum world_kind kind)
{
    return words[kind];
}

/* Small integers: every distance is exact. The first element is the seed itself. */
void world_vector(uint16_t seed, uint32_t dim, float *out)
{
    out[0] = seed;
    for (uint32_t i = 1; i < dim; i++)
        out[i] = (float)((seed * 7 + i * 5 + seed * i) % 23) - 11;
}

/* ---- The model ------------------------------------------------------------------------------- */

static void put_c(struct world *w, unsigned id, unsigned seed)
{
    w->rows[id].there = true;
    w->rows[id].c = w->rows[id].tag = (uint16_t)(seed + id);
}

void world_apply(struct world *w, const struct world_op *op)
{
    bool has_rows = w->has_c || w->has_d;
    switch (op->kind) {
    case WORLD_CREATE_C:
        w->has_c = true;
        break;
    case WORLD_CREATE_D:
        w->has_d = w->has_d || w->has_c;
        break;
    case WORLD_CREATE_E:
        w->has_e = true;
        break;
    case WORLD_PUT:
        for (unsigned id = op->from; w->has_c && id <= op->to; id++)
            put_c(w, id, op->seed);
        break;
    case WORLD_PUT_D:
        for (unsigned id = op->from; w->has_d && id <= op->to; id++) {
            w->rows[id].there = true;
            w->rows[id].d = w->rows[id].tag = (uint16_t)(op->seed + id);
        }
        break;
    case WORLD_PUT_E:
        for (unsigned id = op->from; w->has_e && id <= op->to; id++)
            w->words[id] = (uint16_t)(op->seed + id);
        break;
    case WORLD_DELETE:
        for (unsigned id = op->from; has_rows && id <= op->to; id++)
            w->rows[id] = (struct world_row){0};
        break;
    case WORLD_SAVEPOINT:
        if (w->has_c) {
            put_c(w, op->from, op->seed);
            put_c(w, op->to + 1u, op->seed);
        }
        break;
    case WORLD_DROP_D:
        for (unsigned id = 0; id < WORLD_IDS; id++)
            w->rows[id].d = 0;
        w->has_d = false;
        break;
    case WORLD_DROP_E:
        memset(w->words, 0, sizeof w->words);
        w->has_e = false;
        break;
    default:
        break;
    }
}

const char *world_difference(const struct world *have, const struct world *want)
{
    static char text[160];
    if (have->has_c != want->has_c || have->has_d != want->has_d || have->has_e != want->has_e) {
        snprintf(text, sizeof text, "collections c %d d %d e %d, want %d %d %d", have->has_c,
                 have->has_d, have->has_e, want->has_c, want->has_d, want->has_e);
        return text;
    }
    for (unsigned id = 0; id < WORLD_IDS; id++) {
        const struct world_row *a = &have->rows[id], *b = &want->rows[id];
        if (a->there != b->there || a->c != b->c || a->d != b->d || a->tag != b->tag) {
            snprintf(text, sizeof text, "row %u: there %d c %d d %d tag %d, want %d %d %d %d", id,
                     a->there, a->c, a->d, a->tag, b->there, b->c, b->d, b->tag);
            return text;
        }
    }
    for (unsigned i = 0; i < WORLD_WORDS; i++)
        if (have->words[i] != want->words[i]) {
            snprintf(text, sizeof text, "row 'w%u' of e: %d, want %d", i, have->words[i],
                     want->words[i]);
            return text;
        }
    return "";
}

/* ---- Through the engine ---------------------------------------------------------------------- */

mn_status world_open(struct world_db *w, mn_error *err)
{
    mn_status st = db_open_vfs(w->path, &w->opts, w->vfs, &w->db, err);
    if (st == MN_OK)
        st = mn_connect(w->db, &w->conn, err);
    if (st)
        world_close(w);
    return st;
}

void world_close(struct world_db *w)
{
    mn_disconnect(w->conn);
    mn_close(w->db, NULL);
    w->conn = NULL;
    w->db = NULL;
}

static mn_status create(mn_conn *conn, enum world_kind kind, mn_error *err)
{
    static const char *const tag[] = {"tag"};
    mn_collection_opts c = {.dim = WORLD_DIM, .attributes = tag, .n_attributes = 1};
    mn_collection_opts d = {.dim = WORLD_BESIDE_DIM, .beside = "c"};
    mn_collection_opts e = {.dim = WORLD_DIM, .id_kind = MN_ID_TEXT};
    if (kind == WORLD_CREATE_C)
        return mn_create(conn, "c", &c, err);
    return kind == WORLD_CREATE_D ? mn_create(conn, "d", &d, err) : mn_create(conn, "e", &e, err);
}

static mn_status put(mn_conn *conn, const char *name, unsigned from, unsigned to, unsigned seed,
                     mn_error *err)
{
    static const char *const text_ids[] = {"w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7"};
    float vectors[WORLD_IDS][WORLD_DIM];
    char payloads[WORLD_IDS][16];
    mn_attr attrs[WORLD_IDS];
    mn_row rows[WORLD_IDS];
    size_t n = 0;
    for (unsigned id = from; id <= to; id++, n++) {
        unsigned s = seed + id;
        world_vector((uint16_t)s, *name == 'd' ? WORLD_BESIDE_DIM : WORLD_DIM, vectors[n]);
        snprintf(payloads[n], sizeof payloads[n], "p%u", s);
        attrs[n] = (mn_attr){"tag", {.type = MN_INTEGER, .integer = (int64_t)s}};
        rows[n] = (mn_row){.id = id, .vector = vectors[n], .attrs = &attrs[n], .n_attrs = 1,
                           .payload = payloads[n], .payload_len = SIZE_MAX};
        if (*name == 'e') {
            rows[n].text_id = text_ids[id];
            rows[n].n_attrs = 0;
        }
    }
    return mn_put(conn, name, rows, n, NULL, err);
}

/* One transaction; what fails is rolled back, as a caller would. */
static mn_status in_transaction(mn_conn *conn, const struct world_op *op, mn_error *err)
{
    bool keep = op->kind == WORLD_SAVEPOINT;
    mn_status st = mn_begin_write(conn, err);
    if (st)
        return st;
    st = put(conn, "c", op->from, keep ? op->from : op->to, op->seed, err);
    if (st == MN_OK && keep)
        st = mn_savepoint(conn, "here", err);
    if (st == MN_OK && keep)
        st = put(conn, "c", op->to, op->to, op->seed, err);
    if (st == MN_OK && keep)
        st = mn_rollback_to(conn, "here", err);
    if (st == MN_OK && keep)
        st = put(conn, "c", op->to + 1u, op->to + 1u, op->seed, err);
    if (st == MN_OK && keep)
        return mn_commit(conn, err);
    if (st)
        mn_rollback(conn, NULL);
    else
        st = mn_rollback(conn, err);
    return st;
}

static sqlite3 *plain_open(const struct world_db *w, int flags)
{
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(w->path, &db, flags, w->vfs) != SQLITE_OK) {
        sqlite3_close(db);
        return NULL;
    }
    return db;
}

static mn_status checkpoint(const struct world_db *w, mn_error *err)
{
    sqlite3 *db = plain_open(w, SQLITE_OPEN_READWRITE);
    int rc = db ? sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL)
                : SQLITE_IOERR;
    sqlite3_close(db);
    return rc == SQLITE_OK ? MN_OK : mn_fail(err, MN_IO, "%s: checkpoint: %d", w->path, rc);
}

static mn_status search(mn_conn *conn, const char *name, unsigned seed, mn_hit *hits,
                        uint32_t *found, mn_error *err)
{
    float q[WORLD_DIM];
    world_vector((uint16_t)seed, WORLD_DIM, q);
    return mn_search(conn, name, q, 1, 5, NULL, hits, found, err);
}

static mn_status delete_ids(mn_conn *conn, const char *name, unsigned from, unsigned to,
                            mn_error *err)
{
    mn_id ids[WORLD_IDS];
    size_t n = 0;
    for (unsigned id = from; id <= to; id++)
        ids[n++] = (mn_id){.id = id};
    return mn_delete(conn, name, ids, n, NULL, err);
}

mn_status world_do(struct world_db *w, const struct world_op *op, mn_error *err)
{
    mn_hit hits[5];
    uint32_t found;
    mn_error_clear(err);
    if (!w->conn) {
        mn_status st = world_open(w, err);
        if (st || op->kind == WORLD_REOPEN)
            return st;
    }
    switch (op->kind) {
    case WORLD_CREATE_C:
    case WORLD_CREATE_D:
    case WORLD_CREATE_E:
        return create(w->conn, op->kind, err);
    case WORLD_PUT:
        return put(w->conn, "c", op->from, op->to, op->seed, err);
    case WORLD_PUT_D:
        return put(w->conn, "d", op->from, op->to, op->seed, err);
    case WORLD_PUT_E:
        return put(w->conn, "e", op->from, op->to, op->seed, err);
    case WORLD_DELETE:
        return delete_ids(w->conn, "c", op->from, op->to, err);
    case WORLD_SAVEPOINT:
    case WORLD_ROLLBACK:
        return in_transaction(w->conn, op, err);
    case WORLD_DROP_D:
        return mn_drop(w->conn, "d", err);
    case WORLD_DROP_E:
        return mn_drop(w->conn, "e", err);
    case WORLD_SEARCH:
        return search(w->conn, "c", op->seed, hits, &found, err);
    case WORLD_CHECKPOINT:
        return checkpoint(w, err);
    default:
        world_close(w);
        return world_open(w, err);
    }
}

/* ---- Past the engine ------------------------------------------------------------------------- */

static bool table_has(sqlite3 *db, const char *table, const char *column)
{
    sqlite3_stmt *st = NULL;
    bool has = false;
    if (sqlite3_prepare_v2(db, "SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2", -1, &st,
                           NULL) == SQLITE_OK) {
        sqlite3_bind_text(st, 1, table, -1, SQLITE_STATIC);
        sqlite3_bind_text(st, 2, column, -1, SQLITE_STATIC);
        has = sqlite3_step(st) == SQLITE_ROW;
    }
    sqlite3_finalize(st);
    return has;
}

/* The seed of a stored vector, 0 for NULL, -1 if no seed makes it. */
static int seed_of(sqlite3_stmt *st, int column, uint32_t dim)
{
    float want[WORLD_DIM];
    if (sqlite3_column_type(st, column) == SQLITE_NULL)
        return 0;
    const void *blob = sqlite3_column_blob(st, column);
    if ((size_t)sqlite3_column_bytes(st, column) != dim * sizeof *want || !blob)
        return -1;
    memcpy(want, blob, sizeof *want);
    float first = want[0];
    if (!(first >= 1 && first < 60000))
        return -1;
    world_vector((uint16_t)first, dim, want);
    return memcmp(want, blob, dim * sizeof *want) == 0 ? (int)first : -1;
}

static bool read_row(sqlite3_stmt *st, struct world *out, char *why, size_t room)
{
    int64_t id = sqlite3_column_int64(st, 0);
    int c = seed_of(st, 1, WORLD_DIM), d = seed_of(st, 2, WORLD_BESIDE_DIM);
    int tag = sqlite3_column_int(st, 3);
    char payload[16];
    snprintf(payload, sizeof payload, "p%d", tag);
    const char *has = (const char *)sqlite3_column_text(st, 4);
    if (id < 1 || id >= WORLD_IDS || c < 0 || d < 0 || !has || strcmp(has, payload) != 0) {
        snprintf(why, room, "row %lld was never put: vectors %d and %d, tag %d, payload %s",
                 (long long)id, c, d, tag, has ? has : "NULL");
        return false;
    }
    out->rows[id] = (struct world_row){true, (uint16_t)c, (uint16_t)d, (uint16_t)tag};
    return true;
}

static bool read_word(sqlite3_stmt *st, struct world *out, char *why, size_t room)
{
    const char *id = (const char *)sqlite3_column_text(st, 0);
    int seed = seed_of(st, 1, WORLD_DIM);
    if (!id || id[0] != 'w' || id[1] < '0' || id[1] >= '0' + WORLD_WORDS || id[2] || seed <= 0) {
        snprintf(why, room, "row '%s' of e was never put", id ? id : "NULL");
        return false;
    }
    out->words[id[1] - '0'] = (uint16_t)seed;
    return true;
}

static bool read_table(sqlite3 *db, const char *sql,
                       bool (*take)(sqlite3_stmt *, struct world *, char *, size_t),
                       struct world *out, char *why, size_t room)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    bool ok = true;
    while (ok && rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        ok = take(st, out, why, room);
        rc = SQLITE_OK;
    }
    if (ok && rc != SQLITE_DONE) {
        snprintf(why, room, "%s: %s", sql, sqlite3_errmsg(db));
        ok = false;
    }
    sqlite3_finalize(st);
    return ok;
}

bool world_read(const struct world_db *w, struct world *out, char *why, size_t room)
{
    char sql[160];
    *out = (struct world){0};
    sqlite3 *db = plain_open(w, SQLITE_OPEN_READWRITE);
    if (!db) {
        snprintf(why, room, "SQLite cannot open the file");
        return false;
    }
    bool ok = sqlite3_exec(db, "BEGIN", NULL, NULL, NULL) == SQLITE_OK;
    bool c = table_has(db, "c", "vector"), d = table_has(db, "c", "d"),
         e = table_has(db, "e", "vector");
    out->has_c = c;
    out->has_d = d;
    out->has_e = e;
    snprintf(sql, sizeof sql, "SELECT id, vector, %s, tag, payload FROM c ORDER BY id",
             d ? "d" : "NULL");
    ok = ok && (!c || read_table(db, sql, read_row, out, why, room));
    ok = ok && (!e || read_table(db, "SELECT text_id, vector FROM e", read_word, out, why, room));
    sqlite3_close(db);
    return ok;
}

/* ---- Answers --------------------------------------------------------------------------------- */

struct near {
    double distance;
    unsigned id;
};

static int by_distance(const void *a, const void *b)
{
    const struct near *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static double distance(unsigned a, unsigned b, uint32_t dim)
{
    float x[WORLD_DIM], y[WORLD_DIM];
    double sum = 0;
    world_vector((uint16_t)a, dim, x);
    world_vector((uint16_t)b, dim, y);
    for (uint32_t i = 0; i < dim; i++)
        sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    return sqrt(sum);
}

/* Ids are compared too, but for e: its integer ids are the engine's choice. */
static bool answers_match(mn_conn *conn, const char *name, const struct world *w, unsigned seed,
                          char *why, size_t room)
{
    struct near all[WORLD_IDS];
    size_t n = 0;
    mn_hit hits[5];
    uint32_t found = 0;
    mn_error err;
    uint32_t dim = *name == 'd' ? WORLD_BESIDE_DIM : WORLD_DIM;
    unsigned end = *name == 'e' ? WORLD_WORDS : WORLD_IDS;
    for (unsigned i = 0; i < end; i++) {
        unsigned has = *name == 'c' ? w->rows[i].c : *name == 'd' ? w->rows[i].d : w->words[i];
        if (has)
            all[n++] = (struct near){distance(has, seed, dim), i};
    }
    qsort(all, n, sizeof *all, by_distance);
    if (search(conn, name, seed, hits, &found, &err)) {
        snprintf(why, room, "search of %s: %s", name, err.message);
        return false;
    }
    bool ok = found == (n < 5 ? n : 5);
    for (uint32_t i = 0; ok && i < found; i++)
        ok = fabs(hits[i].distance - all[i].distance) < 1e-4 &&
             (*name == 'e' || hits[i].id == (int64_t)all[i].id);
    if (!ok)
        snprintf(why, room, "search of %s near %u: %u hits, the first id %lld at %g; brute force "
                            "has %zu, the first id %u at %g",
                 name, seed, found, found ? (long long)hits[0].id : -1,
                 found ? hits[0].distance : -1, n, n ? all[0].id : 0, n ? all[0].distance : -1);
    return ok;
}

struct finding {
    char *why;
    size_t room;
};

static void keep_finding(void *ctx, const char *where, const char *what)
{
    struct finding *f = ctx;
    snprintf(f->why, f->room, "verify: %s: %s", where, what);
}

bool world_sound(struct world_db *db, const struct world *w, char *why, size_t room)
{
    static const unsigned seeds[] = {107, 260};
    struct finding f = {why, room};
    uint64_t findings = 0;
    mn_error err;
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++)
        if ((w->has_c && !answers_match(db->conn, "c", w, seeds[i], why, room)) ||
            (w->has_d && !answers_match(db->conn, "d", w, seeds[i], why, room)) ||
            (w->has_e && !answers_match(db->conn, "e", w, seeds[i], why, room)))
            return false;
    if (mn_verify(db->conn, keep_finding, &f, &findings, &err)) {
        snprintf(why, room, "verify: %s", err.message);
        return false;
    }
    return findings == 0;
}
