/*
 * How a fold becomes visible, and when its space may be used again. The only commit point is a
 * commit of SQLite; the sidecar is only ever written where nothing that anybody can see names a
 * block. The steps, by the letters that the tests use:
 *
 *   A lease      byte 1 of the sidecar is locked; busy: somebody else folds
 *   B barrier    BEGIN IMMEDIATE; lease_epoch + 1; COMMIT, with synchronous=FULL
 *   C reclaim    all blocks that the catalog, as of B, does not name are deferred; a complete
 *                checkpoint makes them free
 *   D, E         the engine reads and builds
 *   F space      from free blocks, or the file grows; no room: nothing has happened
 *   G write      extents, then the intent (generation + 1, nonce)
 *   H flush      one for all; a failure poisons the sidecar
 *   I publish    BEGIN IMMEDIATE; nobody moved the catalog meanwhile; rows; COMMIT
 *   K free       blocks of replaced extents are deferred, until a complete checkpoint
 *
 * Why blocks wait for a complete checkpoint (rule R). A checkpoint of SQLite's write-ahead log is
 * complete when all its frames were moved into the database. It may move a frame only if no reader
 * needs the page as it was before; so every reader that lives then, in any process, sees the last
 * commit or will; and both files were synced, so no power cut brings an older state back. Readers
 * hold kernel locks: a dead one holds nothing back. Whoever reads extents inside his read
 * transaction therefore never sees a block reused; a complete checkpoint that began after the
 * commit that dropped a block is the proof. "Complete" is: SQLITE_OK, and as many frames moved as
 * there are, and that number known (-1: not in WAL mode).
 *
 * Why the barrier. A commit may fail when its frames are in the log's file already, or its process
 * may be killed before the flush: the living do not see these frames, since they lie behind the
 * log's end, but a recovery after a power cut may accept them. Then the catalog of a publish that
 * never was would be there. Its blocks must hold what it says, until a later, durable commit has
 * overwritten the frames in the log: so after a failed commit, and whenever a lease is taken, one
 * commit of our own comes first. It must change a byte: a commit that changes nothing writes no
 * frame.
 *
 * tests/storage/test_publish.c cuts the power at every step of it.
 */
#include "storage/publish.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/error.h"
#include "storage/base/mutate.h"
#include "storage/space.h"
#include "storage/sql.h"

enum {
    BLOCK = EXTENT_BLOCK,
    WRITE_BLOCKS = 256, /* extents side by side are written together, up to 1 MiB */
    MIN_BALLAST = 64,   /* blocks kept for making the file smaller: a sixteenth of it, from */
    MAX_BALLAST = 1024, /* 256 KiB to 4 MiB */
    MIN_GROWTH = 64,    /* the file grows by a sixteenth, from 256 KiB */
    MAX_GROWTH = 4096   /* to 16 MiB */
};

struct range {
    uint64_t first, n;
};

struct lease {
    sqlite3 *db;
    struct sidecar *s;
    struct mn_alloc *alloc;
    struct sidecar_meta meta; /* as of the last commit that we saw */
    struct extents list;      /* the same */
    struct space *space;
    struct extents_writer rows;
    sqlite3_stmt *undo;
    bool stale;     /* the catalog moved: read it anew */
    bool lost;      /* another lease was taken: this one is worth nothing */
    bool unsettled; /* a commit failed: a barrier must come first */
    /* The open publish: */
    bool open, in_txn, may_use_ballast, flushed;
    uint64_t generation, nonce;
    struct extent_ref *written; /* [n_written] */
    size_t n_written, room_written;
    struct range *dropped; /* [n_dropped] */
    size_t n_dropped, room_dropped;
    uint8_t *memory, *buffer; /* buffer: WRITE_BLOCKS blocks in memory, aligned */
    uint64_t buffer_first;    /* where they go */
    size_t buffer_n;          /* that are filled */
};

/* Room for one more element. */
static bool grow(struct mn_alloc *a, void **array, size_t *room, size_t n, size_t each)
{
    size_t bytes;
    if (n < *room)
        return true;
    size_t more = *room ? 2 * *room : 64;
    void *p = mn_mul(more, each, &bytes) ? mn_realloc(a, *array, bytes, MN_TAG_IO) : NULL;
    if (!p)
        return false;
    *array = p;
    *room = more;
    return true;
}

/* SQLite's generator, not the connection's VFS: two histories of a simulated disk must not draw the
 * same numbers. */
static uint64_t draw(void)
{
    uint64_t n = 0;
    sqlite3_randomness(sizeof n, &n);
    return n;
}

static bool same_meta(const struct sidecar_meta *a, const struct sidecar_meta *b)
{
    return memcmp(a->db_id, b->db_id, sizeof a->db_id) == 0 && a->exists == b->exists &&
           a->file_id == b->file_id && a->generation == b->generation && a->nonce == b->nonce &&
           a->lease_epoch == b->lease_epoch && a->count == b->count && a->digest == b->digest;
}

/* `undo` is a prepared ROLLBACK: ending a transaction must not fail for want of memory. */
static void rollback(sqlite3 *db, sqlite3_stmt *undo)
{
    if (sqlite3_get_autocommit(db))
        return;
    sqlite3_step(undo);
    sqlite3_reset(undo);
}

/* ---- Building a sidecar ---------------------------------------------------------------------- */

static mn_status check_absent(const struct sidecar_opts *opts, const struct sidecar_meta *meta,
                              mn_error *err)
{
    struct sidecar *there = NULL;
    struct sidecar_finding found;
    mn_status st = sidecar_open(opts, meta, NULL, 0, NULL, &there, &found, err);
    sidecar_close(there);
    if (st == MN_OK && there)
        st = mn_fail(err, MN_CONFLICT, "%s: is there already: open it", opts->path);
    return st;
}

mn_status sidecar_build(sqlite3 *db, const struct sidecar_opts *opts, enum sidecar_replace replace,
                        sidecar_forget_fn forget, void *ctx, struct sidecar **out, mn_error *err)
{
    struct sidecar_meta meta;
    struct extents_writer rows = {.db = db};
    *out = NULL;
    sqlite3_stmt *undo = NULL;
    mn_status st = sql_prepare(db, "ROLLBACK", &undo, err);
    if (st == MN_OK)
        st = sql_exec(db, "BEGIN IMMEDIATE", err);
    if (st)
        goto done;
    st = extents_init(db, err);
    if (st == MN_OK)
        st = extents_meta(db, &meta, err);
    if (st == MN_OK && meta.exists && !replace)
        st = check_absent(opts, &meta, err);
    if (st)
        goto done;
    meta.generation += meta.exists;
    meta.exists = true;
    meta.file_id = draw();
    meta.nonce = draw();
    st = sidecar_create(opts, &meta, replace == SIDECAR_REPLACE_ANY, out, err);
    if (st == MN_OK)
        st = extents_remove_all(db, &meta, err);
    if (st == MN_OK && forget)
        st = forget(ctx, db, err);
    if (st == MN_OK)
        st = extents_meta_store(&rows, &meta, err);
    if (st == MN_OK)
        st = sql_exec(db, "COMMIT", err);
done:
    extents_writer_fini(&rows);
    if (undo)
        rollback(db, undo); /* what was created is found and made anew by the next attempt */
    sqlite3_finalize(undo);
    if (st) {
        sidecar_close(*out);
        *out = NULL;
    }
    return st;
}

/* ---- Leases ---------------------------------------------------------------------------------- */

static mn_status not_ours(struct lease *l, mn_error *err)
{
    l->lost = true;
    return mn_fail(err, MN_CONFLICT, "%s: was built anew by another process: open it again",
                   sidecar_path(l->s));
}

/* B: a commit that is durable, and overwrites whatever lies behind the log's end. */
static mn_status barrier(struct lease *l, mn_error *err)
{
    struct sidecar_meta meta;
    if (MUTATE(NO_BARRIER))
        return extents_meta(l->db, &l->meta, err);
    mn_status st = sql_exec(l->db, "BEGIN IMMEDIATE", err);
    if (st)
        return st;
    st = extents_meta(l->db, &meta, err);
    if (st == MN_OK && !sidecar_matches(l->s, &meta))
        st = not_ours(l, err);
    meta.lease_epoch += !MUTATE(IDLE_BARRIER);
    if (st == MN_OK)
        st = extents_meta_store(&l->rows, &meta, err);
    if (st == MN_OK)
        st = sql_exec(l->db, "COMMIT", err);
    rollback(l->db, l->undo);
    if (st == MN_OK) {
        l->meta = meta;
        l->unsettled = false;
    }
    return st;
}

/* Every block that the list does not name is deferred. */
static mn_status map_space(struct lease *l, mn_error *err)
{
    uint64_t blocks = 0, at = SIDECAR_HEAD_BLOCKS;
    mn_status st = sidecar_blocks(l->s, &blocks, err);
    if (st)
        return st;
    /* Rows may name blocks behind the end of a file that was cut short. */
    for (size_t i = 0; i < l->list.n; i++)
        if (l->list.refs[i].first_block + l->list.refs[i].n_blocks > blocks)
            blocks = l->list.refs[i].first_block + l->list.refs[i].n_blocks;
    if (blocks < SIDECAR_HEAD_BLOCKS)
        blocks = SIDECAR_HEAD_BLOCKS;
    space_destroy(l->space);
    l->space = space_create(l->alloc);
    if (!l->space || !space_grow(l->space, blocks))
        return mn_fail(err, MN_NOMEM, "%s: out of memory for the map of %" PRIu64 " blocks",
                       sidecar_path(l->s), blocks);
    space_set_used(l->space, 0, blocks);
    for (size_t i = 0; i <= l->list.n; i++) {
        const struct extent_ref *r = i < l->list.n ? &l->list.refs[i] : NULL;
        uint64_t end = r ? r->first_block : blocks;
        if (MUTATE(NO_DEFER))
            space_set_free(l->space, at, end - at);
        else
            space_set_deferred(l->space, at, end - at);
        if (r)
            at = r->first_block + r->n_blocks;
    }
    assert(space_check(l->space));
    return MN_OK;
}

/* Reads the catalog as of now. */
static mn_status refresh(struct lease *l, mn_error *err)
{
    struct sidecar_meta meta;
    struct extents list = {0};
    mn_status st = sql_exec(l->db, "BEGIN", err);
    if (st)
        return st;
    st = extents_meta(l->db, &meta, err);
    if (st == MN_OK && !sidecar_matches(l->s, &meta))
        st = not_ours(l, err);
    if (st == MN_OK && meta.lease_epoch != l->meta.lease_epoch) {
        l->lost = true;
        st = mn_fail(err, MN_CONFLICT, "%s: another process took the lease", sidecar_path(l->s));
    }
    if (st == MN_OK)
        st = extents_load(l->db, l->alloc, &meta, 0, &list, err);
    rollback(l->db, l->undo);
    if (st)
        return st;
    extents_fini(l->alloc, &l->list);
    l->list = list;
    l->meta = meta;
    st = map_space(l, err);
    l->stale = st != MN_OK;
    return st;
}

/* Makes the lease's view of the catalog right again after a conflict or a failed commit. */
static mn_status settle(struct lease *l, mn_error *err)
{
    mn_status st = MN_OK;
    if (l->lost)
        return mn_fail(err, MN_CONFLICT, "%s: the lease is lost", sidecar_path(l->s));
    if (l->unsettled && !MUTATE(FAILED_COMMIT))
        st = barrier(l, err);
    if (st == MN_OK && l->stale)
        st = refresh(l, err);
    return st;
}

static mn_status check_wal(sqlite3 *db, const char *path, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false, wal = false;
    mn_status status = sql_prepare(db, "PRAGMA journal_mode", &st, err);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status == MN_OK && row) {
        const char *mode = (const char *)sqlite3_column_text(st, 0);
        wal = mode && sqlite3_stricmp(mode, "wal") == 0;
    }
    sqlite3_finalize(st);
    if (status == MN_OK && !wal)
        status = mn_fail(err, MN_READONLY,
                         "%s: the database is not in WAL mode: the index may only be read", path);
    return status;
}

/* A checkpoint is not complete while a transaction from before the publish is open, or another
 * checkpoint runs. Where much waits for one it is tried again for 150 ms: beside a writer of large
 * batches, which nearly always has one open, the file would grow for ever. */
enum { RECLAIM_SHARE = 16, RECLAIM_BLOCKS = 1024, RECLAIM_TRIES = 30, RECLAIM_MS = 5 };

static bool much_waits(const struct space *s)
{
    uint64_t n = space_deferred(s);
    return n > RECLAIM_BLOCKS && n > space_blocks(s) / RECLAIM_SHARE;
}

static mn_status take(struct lease *l, mn_error *err)
{
    mn_status st = check_wal(l->db, sidecar_path(l->s), err);
    bool complete;
    if (st == MN_OK)
        st = sql_exec(l->db,
                      MUTATE(NORMAL_SYNC) ? "PRAGMA synchronous=NORMAL" : "PRAGMA synchronous=FULL",
                      err);
    if (st == MN_OK)
        st = barrier(l, err);
    if (st == MN_OK)
        st = refresh(l, err);
    return st ? st : lease_reclaim(l, &complete, err);
}

mn_status lease_take(sqlite3 *db, struct sidecar *s, struct mn_alloc *a, struct lease **out,
                     mn_error *err)
{
    *out = NULL;
    if (!sqlite3_get_autocommit(db))
        return mn_fail(err, MN_MISUSE, "%s: a lease is taken outside transactions",
                       sidecar_path(s));
    mn_status st = sidecar_poisoned(s, err);
    if (st)
        return st;
    struct lease *l = mn_alloc_array(a, 1, sizeof *l, MN_TAG_IO);
    uint8_t *memory = mn_alloc(a, (size_t)WRITE_BLOCKS * BLOCK + IO_ALIGN, MN_TAG_IO);
    if (!l || !memory) {
        mn_free(a, l);
        mn_free(a, memory);
        return mn_fail(err, MN_NOMEM, "%s: out of memory for writing", sidecar_path(s));
    }
    l->db = db;
    l->s = s;
    l->alloc = a;
    l->rows.db = db;
    l->memory = memory;
    l->buffer = memory + (-(uintptr_t)memory & (IO_ALIGN - 1));
    st = sql_prepare(db, "ROLLBACK", &l->undo, err);
    if (st == MN_OK)
        st = sidecar_lock(s, err);
    if (st == MN_OK) {
        st = take(l, err);
        if (st)
            sidecar_unlock(s);
    }
    if (st) {
        l->s = NULL;
        lease_drop(l);
        return st;
    }
    *out = l;
    return MN_OK;
}

void lease_drop(struct lease *l)
{
    if (!l)
        return;
    publish_abort(l);
    if (l->s)
        sidecar_unlock(l->s);
    extents_writer_fini(&l->rows);
    sqlite3_finalize(l->undo);
    extents_fini(l->alloc, &l->list);
    space_destroy(l->space);
    mn_free(l->alloc, l->written);
    mn_free(l->alloc, l->dropped);
    mn_free(l->alloc, l->memory);
    mn_free(l->alloc, l);
}

mn_status lease_reclaim(struct lease *l, bool *complete, mn_error *err)
{
    int log = -1, moved = -1;
    *complete = false;
    if (!sqlite3_get_autocommit(l->db))
        return mn_fail(err, MN_MISUSE, "%s: space is reclaimed outside transactions",
                       sidecar_path(l->s));
    mn_status st = settle(l, err);
    if (st)
        return st;
    for (int tries = 1;; tries++) {
        int rc = sqlite3_wal_checkpoint_v2(l->db, "main", SQLITE_CHECKPOINT_PASSIVE, &log, &moved);
        bool busy = rc == SQLITE_BUSY || rc == SQLITE_LOCKED; /* somebody else checkpoints */
        if (rc != SQLITE_OK && !busy)
            return sql_fail(l->db, rc, err, "checkpoint");
        *complete = (!busy && log >= 0 && log == moved) || MUTATE(CHECKPOINT);
        if (*complete || tries == RECLAIM_TRIES || !much_waits(l->space))
            break;
        sqlite3_sleep(RECLAIM_MS);
    }
    if (*complete)
        space_release(l->space);
    return MN_OK;
}

void lease_space(const struct lease *l, struct lease_space *out)
{
    uint64_t taken = 0;
    for (size_t i = 0; i < l->n_written; i++)
        taken += l->written[i].n_blocks;
    *out = (struct lease_space){
        .file_blocks = space_blocks(l->space),
        .free_blocks = space_free(l->space),
        .deferred_blocks = space_deferred(l->space),
        .taken_blocks = taken,
    };
}

const struct extents *lease_extents(const struct lease *l)
{
    return &l->list;
}

const struct sidecar_meta *lease_meta(const struct lease *l)
{
    return &l->meta;
}

static uint64_t clamp(uint64_t n, uint64_t low, uint64_t high)
{
    return n < low ? low : n > high ? high : n;
}

static uint64_t ballast(const struct lease *l)
{
    return clamp(space_blocks(l->space) / 16, MIN_BALLAST, MAX_BALLAST);
}

mn_status lease_shrink(struct lease *l, bool punch, mn_error *err)
{
    if (l->open)
        return mn_fail(err, MN_MISUSE, "%s: shrinking within a publish", sidecar_path(l->s));
    mn_status st = settle(l, err);
    if (st)
        return st;
    uint64_t keep = space_end(l->space) + ballast(l);
    if (keep < space_blocks(l->space)) {
        st = sidecar_shrink(l->s, keep, err);
        if (st == MN_OK)
            space_shrink(l->space, keep);
    }
    uint64_t first = 0, n = 0, end = space_end(l->space);
    while (st == MN_OK && punch && space_next_free(l->space, first + n, &first, &n) && first < end)
        sidecar_punch(l->s, first, n);
    return st;
}

/* ---- F, G: writing --------------------------------------------------------------------------- */

mn_status publish_open(struct lease *l, mn_error *err)
{
    struct sidecar_meta now;
    if (l->open || !sqlite3_get_autocommit(l->db))
        return mn_fail(err, MN_MISUSE, "%s: a publish or a transaction is open already",
                       sidecar_path(l->s));
    mn_status st = sidecar_poisoned(l->s, err);
    if (st == MN_OK)
        st = extents_meta(l->db, &now, err);
    if (st == MN_OK && !same_meta(&now, &l->meta))
        l->stale = true;
    if (st == MN_OK)
        st = settle(l, err);
    if (st)
        return st;
    l->open = true;
    l->flushed = false;
    l->may_use_ballast = false;
    l->generation = l->meta.generation + 1;
    l->nonce = draw();
    return MN_OK;
}

uint64_t publish_generation(const struct lease *l)
{
    return l->generation;
}

void publish_may_use_ballast(struct lease *l)
{
    l->may_use_ballast = true;
}

/* Makes the file longer, by a good deal if there is room, else by what is needed. */
static mn_status grow_file(struct lease *l, uint64_t n, mn_error *err)
{
    uint64_t blocks = space_blocks(l->space);
    uint64_t need = n + (l->may_use_ballast ? 0 : ballast(l));
    uint64_t more = clamp(blocks / 16, MIN_GROWTH, MAX_GROWTH) + need;
    mn_error ignored = {0};
    mn_status st = sidecar_grow(l->s, blocks + more, &ignored);
    if (st == MN_FULL && more > need) {
        more = need;
        mn_error_clear(&ignored);
        st = sidecar_grow(l->s, blocks + more, &ignored);
    }
    if (st) {
        if (err && err->code == MN_OK)
            *err = ignored;
        return st;
    }
    if (!space_grow(l->space, blocks + more))
        return mn_fail(err, MN_NOMEM, "%s: out of memory for the map of %" PRIu64 " blocks",
                       sidecar_path(l->s), blocks + more);
    return MN_OK;
}

static mn_status take_space(struct lease *l, uint64_t n, uint64_t *first, mn_error *err)
{
    uint64_t keep = l->may_use_ballast ? 0 : ballast(l);
    if (space_free(l->space) >= n + keep && space_take(l->space, n, first))
        return MN_OK;
    mn_status st = grow_file(l, n, err);
    if (st == MN_OK && !space_take(l->space, n, first))
        st = mn_fail(err, MN_FULL, "%s: no room for %" PRIu64 " blocks", sidecar_path(l->s), n);
    return st;
}

static mn_status write_buffer(struct lease *l, mn_error *err)
{
    mn_status st = MN_OK;
    if (l->buffer_n)
        st = sidecar_write(l->s, l->buffer_first, l->buffer, l->buffer_n, err);
    l->buffer_n = 0;
    return st;
}

/* Puts the extent behind what the buffer holds, if it belongs there; writes what is full. */
static mn_status write_extent(struct lease *l, const struct extent_layout *at,
                              const uint8_t *header, const void *payload, uint64_t payload_len,
                              uint64_t first_block, mn_error *err)
{
    mn_status st = MN_OK;
    if (l->buffer_n && l->buffer_first + l->buffer_n != first_block)
        st = write_buffer(l, err);
    for (uint64_t block = 0; block < at->n_blocks && st == MN_OK;) {
        if (l->buffer_n == 0)
            l->buffer_first = first_block + block;
        size_t n = WRITE_BLOCKS - l->buffer_n;
        if (n > at->n_blocks - block)
            n = (size_t)(at->n_blocks - block);
        extent_copy(at, header, payload, payload_len, block * BLOCK,
                    l->buffer + l->buffer_n * BLOCK, n * BLOCK);
        l->buffer_n += n;
        block += n;
        if (l->buffer_n == WRITE_BLOCKS)
            st = write_buffer(l, err);
    }
    return st;
}

mn_status publish_write(struct lease *l, struct extent_spec *spec, const void *payload,
                        uint32_t *crcs, struct extent_ref *ref, mn_error *err)
{
    struct extent_layout at;
    uint8_t *header = NULL;
    uint64_t first = 0;
    memset(ref, 0, sizeof *ref);
    if (!l->open || l->in_txn || l->flushed)
        return mn_fail(err, MN_MISUSE, "%s: extents are written between publish_open and _flush",
                       sidecar_path(l->s));
    mn_status st = extent_layout(spec, &at, err);
    if (st)
        return st;
    header = mn_alloc(l->alloc, at.payload_offset, MN_TAG_IO);
    if (!header ||
        !grow(l->alloc, (void **)&l->written, &l->room_written, l->n_written, sizeof *l->written)) {
        mn_free(l->alloc, header);
        return mn_fail(err, MN_NOMEM, "%s: out of memory for an extent", sidecar_path(l->s));
    }
    st = take_space(l, at.n_blocks, &first, err);
    if (st == MN_OK) {
        spec->db_tag = sidecar_db_tag(l->s);
        spec->first_block = first;
        spec->generation = l->generation;
        spec->nonce = l->nonce;
        extent_header_write(spec, &at, payload, header, crcs, ref);
        l->written[l->n_written++] = *ref;
        st = write_extent(l, &at, header, payload, spec->payload_len, first, err);
    }
    mn_free(l->alloc, header);
    return st;
}

/* ---- H: flushing ----------------------------------------------------------------------------- */

mn_status publish_settle(struct lease *l, mn_error *err)
{
    if (!l->open || l->in_txn)
        return mn_fail(err, MN_MISUSE, "%s: nothing to write", sidecar_path(l->s));
    return write_buffer(l, err);
}

mn_status publish_flush(struct lease *l, mn_error *err)
{
    if (!l->open || l->in_txn)
        return mn_fail(err, MN_MISUSE, "%s: nothing to flush", sidecar_path(l->s));
    mn_status st = write_buffer(l, err);
    if (st == MN_OK)
        st = sidecar_mend_header(l->s, err);
    if (st == MN_OK)
        st = sidecar_write_intent(l->s, l->generation, l->nonce, err);
    if (st == MN_OK && !MUTATE(NO_FLUSH) && !MUTATE(LATE_FLUSH))
        st = sidecar_flush(l->s, err);
    l->flushed = st == MN_OK;
    return st;
}

/* ---- I: the transaction ---------------------------------------------------------------------- */

/* Did anybody change the catalog since publish_open? Under the write lock. */
static mn_status check_unmoved(struct lease *l, mn_error *err)
{
    struct sidecar_meta now;
    mn_status st = extents_meta(l->db, &now, err);
    if (st || MUTATE(NO_RECHECK))
        return st;
    if (!sidecar_matches(l->s, &now))
        return not_ours(l, err);
    if (now.lease_epoch != l->meta.lease_epoch) {
        l->lost = true;
        return mn_fail(err, MN_CONFLICT, "%s: another process took the lease", sidecar_path(l->s));
    }
    if (same_meta(&now, &l->meta))
        return MN_OK;
    l->stale = true;
    return mn_fail(err, MN_CONFLICT,
                   "%s: the catalog changed since the publish began (generation %" PRIu64
                   ", was %" PRIu64 "): begin again",
                   sidecar_path(l->s), now.generation, l->meta.generation);
}

mn_status publish_begin(struct lease *l, mn_error *err)
{
    if (!l->open || !l->flushed || l->in_txn)
        return mn_fail(err, MN_MISUSE, "%s: a publish begins after its flush", sidecar_path(l->s));
    mn_status st = sql_exec(l->db, "BEGIN IMMEDIATE", err);
    if (st)
        return st;
    struct sidecar_meta before = l->meta;
    st = check_unmoved(l, err);
    if (st == MN_OK && (l->list.n_damaged || l->list.missing))
        st = extents_mend(&l->rows, &l->meta, err);
    for (size_t i = 0; i < l->n_written && st == MN_OK; i++)
        st = extents_insert(&l->rows, &l->meta, &l->written[i], err);
    if (st) {
        rollback(l->db, l->undo);
        l->meta = before;
        return st;
    }
    l->in_txn = true;
    return MN_OK;
}

mn_status publish_drop(struct lease *l, uint64_t first_block, mn_error *err)
{
    struct extent_ref gone;
    if (!l->in_txn)
        return mn_fail(err, MN_MISUSE, "%s: extents are dropped within a publish",
                       sidecar_path(l->s));
    if (!grow(l->alloc, (void **)&l->dropped, &l->room_dropped, l->n_dropped, sizeof *l->dropped))
        return mn_fail(err, MN_NOMEM, "%s: out of memory for a list", sidecar_path(l->s));
    mn_status st = extents_remove(&l->rows, &l->meta, first_block, &gone, err);
    if (st == MN_OK)
        l->dropped[l->n_dropped++] = (struct range){gone.first_block, gone.n_blocks};
    return st;
}

static int by_block(const void *a, const void *b)
{
    const struct extent_ref *x = a, *y = b;
    return x->first_block < y->first_block ? -1 : x->first_block > y->first_block;
}

/* The list as the commit left it; without memory it is read anew at the next publish. */
static void update_list(struct lease *l)
{
    struct extents *e = &l->list;
    size_t bytes, n = 0;
    if (e->n_damaged || e->missing || !mn_add(e->n, l->n_written, &n) ||
        !mn_mul(n, sizeof *e->refs, &bytes)) {
        l->stale = true;
        return;
    }
    struct extent_ref *refs = mn_alloc(l->alloc, bytes, MN_TAG_HANDLE);
    if (!refs) {
        l->stale = true;
        return;
    }
    n = 0;
    for (size_t i = 0; i < e->n; i++)
        refs[n++] = e->refs[i];
    for (size_t i = 0; i < l->n_written; i++)
        refs[n++] = l->written[i];
    if (n)
        qsort(refs, n, sizeof *refs, by_block);
    for (size_t i = 0; i < l->n_dropped; i++) {
        const struct extent_ref key = {.first_block = l->dropped[i].first};
        struct extent_ref *gone = bsearch(&key, refs, n, sizeof *refs, by_block);
        if (gone)
            gone->n_blocks = 0;
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (refs[i].n_blocks)
            refs[kept++] = refs[i];
    mn_free(l->alloc, e->refs);
    e->refs = refs;
    e->n = kept;
}

/* The publish has ended; what it wrote and dropped is no concern any more. */
static void forget(struct lease *l)
{
    l->open = l->in_txn = l->flushed = false;
    l->n_written = l->n_dropped = 0;
    l->buffer_n = 0;
}

mn_status publish_commit(struct lease *l, mn_error *err)
{
    if (!l->in_txn)
        return mn_fail(err, MN_MISUSE, "%s: no publish to commit", sidecar_path(l->s));
    l->meta.generation = l->generation;
    l->meta.nonce = l->nonce;
    mn_status st = extents_meta_store(&l->rows, &l->meta, err);
    if (st) {
        publish_abort(l);
        return st;
    }
    st = sql_exec(l->db, "COMMIT", err);
    if (st) {
        rollback(l->db, l->undo);
        if (MUTATE(FAILED_COMMIT)) {
            l->stale = true;
            publish_abort(l);
            return st;
        }
        /* Its frames may be in the log: nothing of it is touched before a barrier; then the map is
         * made anew, in which all that it wrote is deferred. */
        l->unsettled = l->stale = true;
        forget(l);
        return st;
    }
    if (MUTATE(LATE_FLUSH))
        sidecar_flush(l->s, NULL);
    for (size_t i = 0; i < l->n_dropped; i++) {
        const struct range *r = &l->dropped[i];
        if (r->n == 0 || r->first >= space_blocks(l->space) ||
            r->n > space_blocks(l->space) - r->first)
            l->stale = true; /* a damaged row: the map is made anew */
        else if (MUTATE(EARLY_FREE))
            space_set_free(l->space, r->first, r->n);
        else
            space_set_deferred(l->space, r->first, r->n);
    }
    update_list(l);
    forget(l);
    return MN_OK;
}

void publish_abort(struct lease *l)
{
    if (!l->open)
        return;
    if (l->in_txn) {
        rollback(l->db, l->undo);
        l->stale = true; /* l->meta counted rows that are not there */
    }
    if (l->space)
        for (size_t i = 0; i < l->n_written; i++)
            space_set_free(l->space, l->written[i].first_block, l->written[i].n_blocks);
    forget(l);
}
