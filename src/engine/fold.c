/*
 * Folding: the change log's entries since the index's position become a new version of the index,
 * in memory and in the sidecar. storage/publish.h has the protocol; here is what is folded, when,
 * and by whom.
 *
 * The folder is one thread per database handle with a connection of its own. It sleeps until a
 * search or a put tells it of a collection; it takes the lease for each fold, so that the folders
 * of several processes take turns. A fold that fails is logged and tried again when it is told
 * next.
 */
#include "src/engine/columns.h"
#include "src/engine/fold.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/engine/cache.h"
#include "src/engine/ivf_away.h"
#include "src/engine/ivf_fold.h"
#include "src/engine/ivf_heal.h"
#include "src/engine/ivf_store.h"
#include "storage/sql.h"

enum {
    CLOSE_S = 1, /* seconds that closing may work off what is due */
    IDLE_S = 2   /* seconds without a word after which what is folded in memory is published */
};

enum { OUTPACED_LEAST = 32768 }; /* new rows from which on an index may be built anew for them */

enum { TRIMS = 16 }; /* of a log at a time, 65,536 entries each */

enum { QUEUE = 64 }; /* collections waiting; more are told of again by their next search */

struct folder {
    pthread_t thread;
    pthread_cond_t work;                /* something was told, or the end */
    char names[QUEUE][MN_MAX_NAME + 1]; /* db->lock */
    size_t n;                           /* db->lock */
    pthread_cond_t idle;                /* the thread has nothing in hand */
    _Atomic bool ending;                /* set under db->lock; read by the fold in hand */
    bool paused;                        /* db->lock */
    bool closing;                       /* db->lock; what is folded in memory only is published */
    bool busy;                          /* db->lock; a fold is in hand */
};

/* ---- One fold -------------------------------------------------------------------------------- */

static mn_status ensure_tables(mn_conn *conn, mn_error *err)
{
    int64_t there = 0;
    mn_status st = sql_int(conn->sql,
                           "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = "
                           "'mneme_indexes'",
                           0, &there, err);
    if (st || there)
        return st;
    st = scope_write(conn, err);
    if (st)
        return st;
    conn->schema_dirty = true;
    st = sql_exec(conn->sql,
                  "CREATE TABLE IF NOT EXISTS mneme_indexes(collection INTEGER PRIMARY KEY, "
                  "generation INTEGER NOT NULL, seq INTEGER NOT NULL, stamp INTEGER NOT NULL, "
                  "rows INTEGER NOT NULL)",
                  err);
    if (st == MN_OK)
        st = catalog_schema_keep(conn->sql, err);
    return scope_end(conn, st, err);
}

static mn_status forget_indexes(void *ctx, sqlite3 *sql, mn_error *err)
{
    (void)ctx;
    mn_status st = sql_exec(sql, "DELETE FROM mneme_indexes", err);
    /* The call may have made its table: that change of the schema is ours. */
    return st ? st : catalog_schema_keep(sql, err);
}

/* The sidecar that the newest catalog names; NULL: none that can be used. */
static mn_status newest_sidecar(mn_conn *conn, struct sidecar **out, mn_error *err)
{
    mn_status st = scope_read(conn, err);
    return st ? st : scope_end(conn, ivf_sidecar(conn, out, err), err);
}

/* Whether the rows about extents are not what was published: a client changed them. */
static mn_status catalog_is_bad(mn_conn *conn, bool *bad, mn_error *err)
{
    struct sidecar_meta meta;
    struct extents all = {0};
    mn_error own = {0};
    mn_status st = scope_read(conn, err);
    if (st)
        return st;
    st = extents_meta(conn->sql, &meta, &own);
    if (st == MN_OK && meta.exists)
        st = extents_load(conn->sql, conn->db->alloc, &meta, 0, &all, &own);
    extents_fini(conn->db->alloc, &all);
    *bad = st == MN_CORRUPT;
    if (st && !*bad && err)
        *err = own;
    return scope_end(conn, *bad ? MN_OK : st, err);
}

/* The sidecar, made if there is none; `replace`: also in place of another database's file. The
 * caller's to close. */
static mn_status ensure_sidecar(mn_conn *conn, bool replace, struct sidecar **out, mn_error *err)
{
    mn_db *db = conn->db;
    struct sidecar *made = NULL;
    bool bad = false;
    *out = NULL;
    mn_status st = ensure_tables(conn, err);
    if (st == MN_OK)
        st = newest_sidecar(conn, out, err);
    if (st || *out)
        return st;
    char *path = ivf_sidecar_path(db);
    if (!path)
        return mn_fail(err, MN_NOMEM, "%s: out of memory", db->path);
    struct sidecar_opts opts = {.fs = db->fs, .alloc = db->alloc, .path = path, .writable = true};
    st = catalog_is_bad(conn, &bad, err);
    if (st == MN_OK)
        st = sidecar_build(conn->sql, &opts,
                           replace ? SIDECAR_REPLACE_ANY
                           : bad   ? SIDECAR_REPLACE_OWN
                                   : SIDECAR_REPLACE_LOST,
                           forget_indexes, NULL, &made, err);
    free(path);
    if (st == MN_OK)
        sidecar_close(made);
    if (st && st != MN_CONFLICT)
        return st;
    /* Ours is opened as everybody opens it. A conflict: there is a good one, which another process
     * made, or which could not be opened when it was tried. */
    mn_error_clear(err);
    ivf_sidecar_forget(db);
    st = newest_sidecar(conn, out, err);
    if (st == MN_OK && !*out)
        st = mn_fail(err, MN_BUSY, "%s: its sidecar cannot be opened", db->path);
    return st;
}

/* What published() does while nobody else reads the index from the sidecar. */
static mn_status published_alone(mn_conn *conn, struct coll *c, const struct ivf_place *place,
                                 struct ivf **out, mn_error *err)
{
    mn_status st = MN_OK;
    struct ivf *have = cache_take_index(conn->db, c->entry.number);
    bool leads = have && ivf_is_at(have, place) && !ivf_is_broken(have);
    if (leads && have->ahead) /* of a log that may have been restored from a backup */
        st = coll_log_follows(conn, c, have->at, &leads, err);
    if (st == MN_OK && leads) {
        *out = have;
        return MN_OK;
    }
    if (st == MN_OK)
        st = ivf_load(conn, c, have, out, err);
    if (st == MN_OK && *out) /* nobody publishes while the lease is held */
        cache_share_index(conn->db, c->entry.number, *out, true);
    ivf_release(conn->db, have);
    return st;
}

/* The index that the catalog names, from memory if it is there; *out NULL: build one. */
static mn_status published(mn_conn *conn, struct coll *c, struct ivf **out, mn_error *err)
{
    struct ivf_place place;
    bool leads = false;
    *out = NULL;
    mn_status st = ivf_where(conn, c, &place, err);
    if (st || !place.there)
        return st;
    st = coll_log_follows(conn, c, place.at, &leads, err);
    if (st || !leads)
        return st;
    for (int tries = 0; !cache_load_begin(conn->db, c->entry.number); tries++)
        if (!conn_wait(conn, tries))
            return mn_fail(err, MN_BUSY, "index of '%s': another connection is reading it",
                           c->entry.name);
    st = published_alone(conn, c, &place, out, err);
    cache_load_end(conn->db, c->entry.number);
    return st;
}

/* Whether so many new rows came at once, as a bulk import by SQL brings them, that to build anew is
 * cheaper than to fold them in: 9 us for each row of all against 16 for each new one. */
static mn_status is_outpaced(mn_conn *conn, struct coll *c, const struct ivf *x, bool *yes,
                             mn_error *err)
{
    struct log_position head;
    sqlite3_stmt *st;
    int64_t max_id = 0;
    *yes = false;
    mn_status status = coll_head(conn, c, &head, err);
    if (status == MN_OK)
        status = coll_stmt(conn, c, STMT_MAX_ID, &st, err);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &max_id, err);
    if (status || max_id <= x->max_id)
        return status;
    uint64_t changes = (uint64_t)(head.seq - x->at.seq);
    uint64_t ids = (uint64_t)max_id - (uint64_t)x->max_id, n = changes < ids ? changes : ids;
    *yes = n >= OUTPACED_LEAST && n > x->rows / 2;
    return MN_OK;
}

/* ---- Folding in memory ----------------------------------------------------------------------- */

uint32_t fold_rows(const mn_db *db, size_t vector_bytes)
{
    uint64_t few = FOLD_BYTES / vector_bytes, most = db->limits.fold_pending;
    few = few < FOLD_LEAST ? FOLD_LEAST : few;
    return (uint32_t)(few < most ? few : most);
}

/* Changes folded in memory from which on they are published: what is lost with the process is only
 * time, so it is many, for each publish writes a directory and a part of each posting. */
static uint64_t publish_rows(const mn_db *db, const struct ivf *x)
{
    uint64_t by_rows = x->rows / PUBLISH_SHARE, least = db->limits.fold_pending;
    uint64_t by_cap = mn_alloc_cap(db->alloc) / PUBLISH_CAP_SHARE / x->core->vector_bytes;
    uint64_t n = by_rows < by_cap ? by_rows : by_cap;
    n = n < PUBLISH_MOST ? n : PUBLISH_MOST;
    return n > least ? n : least;
}

/* The newest version with what changed since, if that is `least` rows or more, and with the rows
 * that it has lost; in a read transaction. *out NULL: nothing is to be folded. */
static mn_status fold_since(mn_conn *conn, struct coll *c, const struct ivf *old, size_t least,
                            const struct ivf_sink *sink, struct ivf **out, mn_error *err)
{
    int64_t *ids = NULL;
    size_t n = 0;
    *out = NULL;
    mn_status st = coll_log_since(conn, c, "fold", old->at.seq, &ids, &n, err);
    if (st == MN_OK && heal_has_gaps(old))
        st = heal_add_missing(conn, c, old, &ids, &n, err);
    if (st == MN_OK && ((n && n >= least) || heal_has_gaps(old)))
        st = ivf_fold(conn, c, old, ids, n, sink, out, err);
    mn_free(conn->db->alloc, ids);
    return st;
}

mn_status fold_in_memory(mn_conn *conn, struct coll *c, bool at_once, bool *did, mn_error *err)
{
    mn_db *db = conn->db;
    struct ivf_writer w = {.db = db, .collection = (uint32_t)c->entry.number};
    struct ivf_place place;
    struct ivf *old = NULL, *next = NULL;
    bool leads = false;
    *did = false;
    if (!c->watched || !c->indexable || !cache_fold_begin(db, c->entry.number, at_once))
        return MN_OK;
    mn_status st = ivf_where(conn, c, &place, err);
    if (st == MN_OK && place.there)
        old = cache_take_index(db, c->entry.number);
    if (st == MN_OK && old && ivf_is_at(old, &place) && !ivf_is_broken(old) &&
        !heal_needs_rebuild(db, old))
        st = coll_log_follows(conn, c, old->at, &leads, err);
    if (st == MN_OK && leads)
        st = ivf_sidecar(conn, &w.sidecar, err);
    if (st == MN_OK && w.sidecar) {
        struct ivf_sink sink = ivf_writer_sink(&w);
        st = fold_since(conn, c, old, fold_rows(db, c->vector_bytes), &sink, &next, err);
        if (st && heal_needs_rebuild(db, old)) { /* that was found out just now */
            mn_error_clear(err);
            st = MN_OK;
        }
        if (st && ivf_has_gone(old)) { /* and this: the next search, or fold, loads it anew */
            cache_break_index(db, c->entry.number, old);
            folder_tell(db, c->entry.name);
            mn_error_clear(err);
            st = MN_OK;
        }
    }
    if (st == MN_OK && next)
        st = columns_follow(conn, c, old, next, err);
    if (next)
        cache_share_ahead(db, c->entry.number, next);
    *did = next != NULL;
    cache_fold_end(db, c->entry.number);
    ivf_release(db, next);
    ivf_release(db, old);
    sidecar_close(w.sidecar);
    return st;
}

/* ---- A fold that is published ---------------------------------------------------------------- */

/* What is to be done: what is due; more, as there is time; all that is pending; or a new index. */
enum fold_mode { FOLD_DUE, FOLD_IDLE, FOLD_ALL, FOLD_REBUILD };

struct fold {
    mn_conn *conn;
    struct sidecar *sidecar;
    struct lease *lease;
    enum fold_mode mode;
    struct coll coll; /* copy: its entry outlives the read transaction */
    struct ivf *old;  /* that the next one was made from; NULL: from all rows */
    struct ivf *next; /* NULL: nothing to publish */
    bool obsolete;    /* the collection has become too small for the index that it has */
    bool mends;       /* the index that it has cannot be used */
    bool again;       /* it failed, and found out that it must build anew */
    bool anew;        /* that is what is done now: memory does not hold what is pending */
};

/* So many rows, or the same ones so many times: the log is trimmed up to the index's position. */
static bool is_due(const mn_db *db, enum fold_mode mode, const struct ivf *x)
{
    return heal_due(x) ||
           (x->ahead && (mode == FOLD_ALL || x->ahead >= publish_rows(db, x) ||
                         (mode == FOLD_IDLE && x->ahead >= db->limits.fold_pending) ||
                         x->at.seq - x->published.seq >= (db->limits.pending_max + 1) / 2));
}

/* The version to publish after `old`: all that is pending is folded in. */
static mn_status settle_next(struct fold *f, struct coll *c, struct ivf *old,
                             const struct ivf_sink *sink, mn_error *err)
{
    struct ivf *ahead = NULL;
    mn_status st = fold_since(f->conn, c, old, 1, sink, &ahead, err);
    struct ivf *x = ahead ? ahead : old;
    if (st == MN_OK && ahead)
        st = columns_follow(f->conn, c, old, ahead, err);
    if (st == MN_OK && is_due(f->conn->db, f->mode, x))
        st = ivf_settle(f->conn, c, x, sink, &f->next, err);
    if (st == MN_OK && f->next)
        st = columns_follow(f->conn, c, x, f->next, err);
    if (st == MN_OK && ahead && !f->next)
        cache_share_ahead(f->conn->db, c->entry.number, ahead);
    if (st == MN_OK && f->next)
        f->old = ivf_share(x);
    ivf_release(f->conn->db, ahead);
    return st;
}

/* Makes the next version in a read transaction. */
static mn_status make_next(struct fold *f, const char *name, mn_error *err)
{
    mn_conn *conn = f->conn;
    struct coll *c;
    struct ivf_place place;
    struct ivf *old = NULL;
    struct ivf_writer w = {.db = conn->db, .sidecar = f->sidecar, .lease = f->lease};
    mn_status st = coll_get(conn, name, &c, err);
    if (st || !c->watched || !c->indexable)
        return st;
    f->coll = *c;
    w.collection = (uint32_t)c->entry.number;
    struct ivf_sink sink = ivf_writer_sink(&w);
    st = ivf_where(conn, c, &place, err);
    if (st == MN_OK && f->mode != FOLD_REBUILD)
        st = published(conn, c, &old, err);
    f->mends = place.there && !old && f->mode != FOLD_REBUILD;
    bool outpaced = f->anew;
    if (st == MN_OK && old && !outpaced)
        st = is_outpaced(conn, c, old, &outpaced, err);
    if (st == MN_OK && old &&
        (outpaced || ivf_outgrown(old) || heal_needs_rebuild(conn->db, old))) {
        f->mends = heal_needs_rebuild(conn->db, old);
        ivf_release(conn->db, old);
        old = NULL;
    }
    if (st == MN_OK && !old) {
        st = ivf_build(conn, c, &sink, &f->next, err);
        f->obsolete = st == MN_OK && !f->next && place.there;
    } else if (st == MN_OK) {
        st = settle_next(f, c, old, &sink, err);
        f->anew = st == MN_NOMEM;
        f->again = st && (f->anew || heal_needs_rebuild(conn->db, old));
        if (st && ivf_has_gone(old)) {
            cache_break_index(conn->db, c->entry.number, old);
            f->again = true;
        }
    }
    ivf_release(conn->db, old);
    return st;
}

/* Folds one collection with the lease held. *did: something was published. */
static mn_status fold_leased(struct fold *f, const char *name, bool *did, mn_error *err)
{
    mn_conn *conn = f->conn;
    *did = false;
    mn_status st = publish_open(f->lease, err);
    if (st)
        return st;
    st = scope_read(conn, err);
    if (st == MN_OK)
        st = scope_end(conn, make_next(f, name, err), err);
    if (st == MN_OK && (f->next || f->obsolete)) {
        st = f->next ? ivf_publish(conn, f->lease, &f->coll, f->next, err)
                     : ivf_unpublish(conn, f->lease, &f->coll, err);
        *did = st == MN_OK;
    } else {
        publish_abort(f->lease);
    }
    if (*did && f->next)
        cache_share_index(conn->db, f->coll.entry.number, f->next, true);
    else if (*did)
        cache_forget(conn->db, f->coll.entry.number);
    if (*did)
        heal_done(conn->db, &f->coll, f->old, f->mends);
    ivf_release(conn->db, f->old);
    ivf_release(conn->db, f->next);
    f->old = f->next = NULL;
    return st;
}

static mn_status fold_collection(mn_conn *conn, const char *name, enum fold_mode mode,
                                 mn_error *err)
{
    mn_db *db = conn->db;
    struct fold f = {.conn = conn, .mode = mode};
    bool did = false, complete;
    if (!db->fs)
        return mn_fail(err, MN_INVALID, "%s: a database in memory has no index", db->path);
    if (db->opts.flags & MN_OPEN_READONLY)
        return mn_fail(err, MN_READONLY, "%s: was opened read-only", db->path);
    mn_status st = conn_trust_schema(conn, name, err);
    if (st == MN_OK)
        st = ensure_sidecar(conn, mode == FOLD_REBUILD, &f.sidecar, err);
    if (st == MN_OK)
        st = lease_take(conn->sql, f.sidecar, db->alloc, &f.lease, err);
    if (st == MN_OK)
        st = fold_leased(&f, name, &did, err);
    if (st && f.again) {
        mn_error_clear(err);
        f.again = false;
        st = fold_leased(&f, name, &did, err);
    }
    if (st == MN_OK && did)
        st = lease_reclaim(f.lease, &complete, err);
    lease_drop(f.lease);
    sidecar_close(f.sidecar);
    /* What could not be flushed is named by nobody and will be written again: the next fold opens
     * the file anew. */
    if (st == MN_POISONED)
        ivf_sidecar_forget(db);
    return st;
}

/* The same, waiting while somebody else folds or changes the schema. */
static mn_status fold_in_turn(mn_conn *conn, const char *name, enum fold_mode mode, mn_error *err)
{
    mn_status st = fold_collection(conn, name, mode, err);
    for (int tries = 0; (st == MN_BUSY || st == MN_CONFLICT) && conn_wait(conn, tries); tries++) {
        mn_error_clear(err);
        st = fold_collection(conn, name, mode, err);
    }
    mn_error why = {0};
    mn_status ended = st == MN_BUSY ? conn_tick(conn, &why) : MN_OK;
    if (ended && err)
        *err = why;
    return ended ? ended : st;
}

/* Folds in memory what is pending. *due: the index is to be published, or built. */
static mn_status fold_first(mn_conn *conn, const char *name, enum fold_mode mode, bool *due,
                            mn_error *err)
{
    struct coll *c;
    struct ivf_place place = {0};
    bool did, outpaced = false;
    *due = false;
    mn_status st = scope_read(conn, err);
    if (st)
        return st;
    st = coll_get(conn, name, &c, err);
    if (st == MN_OK)
        st = ivf_where(conn, c, &place, err);
    struct ivf *x = st == MN_OK && place.there ? cache_take_index(conn->db, c->entry.number) : NULL;
    if (x)
        st = is_outpaced(conn, c, x, &outpaced, err);
    ivf_release(conn->db, x);
    if (st == MN_OK && place.there && !outpaced)
        st = fold_in_memory(conn, c, true, &did, err);
    if (st == MN_NOMEM) { /* what is pending is built in anew, then */
        mn_error_clear(err);
        outpaced = true;
        st = MN_OK;
    }
    if (st == MN_OK) {
        x = place.there ? cache_take_index(conn->db, c->entry.number) : NULL;
        *due = outpaced || !x || !ivf_is_at(x, &place) || ivf_is_broken(x) || ivf_outgrown(x) ||
               heal_needs_rebuild(conn->db, x) || is_due(conn->db, mode, x);
        ivf_release(conn->db, x);
    }
    return scope_end(conn, st, err);
}

/* Reads the vectors of an index into memory, if they are not there and there is room. */
static mn_status warm_collection(mn_conn *conn, const char *name, mn_error *err)
{
    struct coll *c;
    struct ivf_place place;
    mn_status st = scope_read(conn, err);
    if (st)
        return st;
    st = coll_get(conn, name, &c, err);
    if (st == MN_OK)
        st = ivf_where(conn, c, &place, err);
    struct ivf *x = st == MN_OK && place.there ? cache_take_index(conn->db, c->entry.number) : NULL;
    if (x && ivf_is_at(x, &place) && !ivf_warm(x) && ivf_can_warm(conn->db, x))
        st = ivf_warm_up(conn, x, x->n_heap, err);
    ivf_release(conn->db, x);
    return scope_end(conn, st, err);
}

/* Trims the collection's log, which grows by what others write. That may wait. */
static void trim_log(mn_conn *conn, const char *name)
{
    struct coll *c;
    bool is_long = true;
    mn_error err = {0};
    mn_status st = MN_OK;
    for (int i = 0; i < TRIMS && is_long && st == MN_OK; i++) {
        is_long = false;
        st = scope_read(conn, &err);
        if (st == MN_OK) {
            st = coll_get(conn, name, &c, &err);
            if (st == MN_OK)
                st = coll_log_is_long(conn, c, &is_long, &err);
            st = scope_end(conn, st, &err);
        }
        if (st || !is_long)
            return;
        conn->no_wait = true;
        st = scope_write(conn, &err);
        conn->no_wait = false;
        if (st == MN_OK) {
            st = coll_get(conn, name, &c, &err);
            if (st == MN_OK)
                st = coll_trim_log(conn, c, &err);
            st = scope_end(conn, st, &err);
        }
    }
}

static mn_status fold_public(mn_conn *conn, const char *name, enum fold_mode mode, mn_error *err)
{
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    conn->stage = "fold";
    if (conn->txn != TXN_NONE || conn->iters)
        st = mn_fail(err, MN_MISUSE, "fold: a transaction or iterator is open; end it first");
    else
        st = fold_in_turn(conn, name, mode, err);
    if (st == MN_OK)
        trim_log(conn, name);
    return conn_leave(conn, st, err);
}

mn_status mn_fold(mn_conn *conn, const char *name, mn_error *err)
{
    return fold_public(conn, name, FOLD_ALL, err);
}

mn_status mn_rebuild(mn_conn *conn, const char *name, mn_error *err)
{
    return fold_public(conn, name, FOLD_REBUILD, err);
}

void folder_help(mn_conn *conn)
{
    mn_error err = {0};
    char collection[MN_MAX_NAME + 1];
    const uint32_t no = MN_OPEN_NO_BACKGROUND;
    if (!*conn->must_help || conn->txn != TXN_NONE || conn->iters || (conn->db->opts.flags & no))
        return;
    memcpy(collection, conn->must_help, sizeof collection);
    *conn->must_help = 0;
    conn->busy_since_us = 0; /* the write's own wait does not count */
    mn_status st = fold_in_turn(conn, collection, FOLD_DUE, &err);
    if (st && st != MN_BUSY)
        db_log(conn->db, MN_LOG_WARN, "fold", "'%s' was not folded: %s", collection, err.message);
}

/* ---- Compacting ------------------------------------------------------------------------------ */

/* VACUUM counts the schema's version up by one; that step is ours. */
static mn_status vacuum(mn_conn *conn, mn_error *err)
{
    int64_t before = 0, ours = 0, after = 0;
    mn_status st = catalog_schema(conn->sql, &before, &ours, err);
    if (st == MN_OK)
        st = sql_exec(conn->sql, "VACUUM", err);
    if (st == MN_OK)
        st = scope_write(conn, err);
    if (st)
        return st;
    st = sql_int(conn->sql, "PRAGMA schema_version", 0, &after, err);
    if (st == MN_OK && before == ours && after == before + 1)
        st = catalog_schema_keep(conn->sql, err);
    st = scope_end(conn, st, err);
    return st ? st : sql_exec(conn->sql, "PRAGMA wal_checkpoint(TRUNCATE)", err);
}

static mn_status shrink_sidecar(mn_conn *conn, mn_error *err)
{
    struct sidecar *s = NULL;
    struct lease *l = NULL;
    bool complete = false;
    mn_status st = newest_sidecar(conn, &s, err);
    if (st || !s)
        return st;
    st = lease_take(conn->sql, s, conn->db->alloc, &l, err);
    if (st == MN_OK)
        st = lease_reclaim(l, &complete, err);
    if (st == MN_OK)
        st = lease_shrink(l, true, err);
    lease_drop(l);
    sidecar_close(s);
    return st;
}

mn_status mn_compact(mn_conn *conn, mn_error *err)
{
    enum catalog_state state;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    conn->stage = "compact";
    if (conn->txn != TXN_NONE || conn->iters)
        st = mn_fail(err, MN_MISUSE, "compact: a transaction or iterator is open; end it first");
    else if (conn->db->opts.flags & MN_OPEN_READONLY)
        st = mn_fail(err, MN_READONLY, "%s: was opened read-only", conn->db->path);
    else
        st = catalog_check(conn->sql, &state, err);
    if (st == MN_OK && state == CATALOG_PRESENT) {
        st = vacuum(conn, err);
        if (st == MN_OK && conn->db->fs)
            st = shrink_sidecar(conn, err);
    }
    return conn_leave(conn, st, err);
}

/* ---- The thread ------------------------------------------------------------------------------ */

/* Waits for work. When nothing was told for a while, or at the end, that is to publish what has
 * been folded in memory only. False: the thread ends. */
static bool take_name(mn_db *db, char *name, enum fold_mode *mode)
{
    struct folder *f = db->folder;
    bool rest = false; /* of what is folded in memory */
    pthread_mutex_lock(&db->lock);
    f->busy = false;
    pthread_cond_broadcast(&f->idle);
    while (!f->ending && (f->paused || (f->n == 0 && !rest))) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += IDLE_S;
        if (!cache_unsettled(db, db->limits.fold_pending, name))
            pthread_cond_wait(&f->work, &db->lock);
        else if (pthread_cond_timedwait(&f->work, &db->lock, &until) == ETIMEDOUT)
            rest = cache_unsettled(db, db->limits.fold_pending, name);
    }
    bool more = !f->ending;
    f->busy = more;
    *mode = rest || f->closing ? FOLD_IDLE : FOLD_DUE;
    if (more && f->n) {
        memcpy(name, f->names[0], sizeof f->names[0]);
        memmove(f->names[0], f->names[1], --f->n * sizeof f->names[0]);
    }
    pthread_mutex_unlock(&db->lock);
    return more;
}

/* Close does not wait for a fold to finish: it ends at its next tick. */
static bool goes_on(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    const struct folder *f = ctx;
    (void)stage;
    (void)done;
    (void)total;
    return !atomic_load_explicit(&f->ending, memory_order_relaxed);
}

static void *run(void *arg)
{
    mn_db *db = arg;
    struct folder *f = db->folder;
    char name[MN_MAX_NAME + 1];
    mn_error err = {0};
    mn_conn *conn = NULL;
    enum fold_mode mode;
    while (take_name(db, name, &mode)) {
        bool due = false;
        /* A reader may be in the way of the write-ahead log, or memory short: for now. */
        if (!conn && conn_open(db, false, &conn, &err)) {
            db_log(db, MN_LOG_WARN, "fold", "'%s' was not folded: %s", name, err.message);
            continue;
        }
        mn_set_progress(conn, goes_on, f);
        mn_status st = conn_enter(conn, &err);
        if (st == MN_OK) {
            conn->stage = "fold";
            st = fold_first(conn, name, mode, &due, &err);
            conn_mend_schema(conn); /* for searches that may not: host.c */
            if (st == MN_OK && due)
                st = fold_collection(conn, name, mode, &err);
            if (st == MN_OK || st == MN_BUSY) {
                mn_error_clear(&err);
                st = warm_collection(conn, name, &err);
            }
            trim_log(conn, name);
            st = conn_leave(conn, st, &err);
        }
        if (st && st != MN_BUSY && st != MN_INTERRUPTED && st != MN_NOTFOUND)
            db_log(db, MN_LOG_WARN, "fold", "'%s' was not folded: %s", name, err.message);
    }
    mn_disconnect(conn);
    return NULL;
}

bool folder_may_run(const mn_db *db)
{
    return db->fs && !(db->opts.flags & (MN_OPEN_NO_BACKGROUND | MN_OPEN_READONLY));
}

/* db->lock is held. */
static void put_name(struct folder *f, const char *collection)
{
    bool there = f->n == QUEUE;
    for (size_t i = 0; !there && i < f->n; i++)
        there = strcmp(f->names[i], collection) == 0;
    if (!there) {
        memcpy(f->names[f->n], collection, strlen(collection) + 1);
        f->n++;
        pthread_cond_signal(&f->work);
    }
}

void folder_tell(mn_db *db, const char *collection)
{
    if (!folder_may_run(db) || strlen(collection) > MN_MAX_NAME)
        return;
    pthread_mutex_lock(&db->lock);
    if (!db->folder) {
        struct folder *f = calloc(1, sizeof *f);
        if (f) {
            pthread_cond_init(&f->work, NULL);
            pthread_cond_init(&f->idle, NULL);
            f->paused = db->paused;
            db->folder = f;
            if (pthread_create(&f->thread, NULL, run, db) != 0) {
                db->folder = NULL;
                pthread_cond_destroy(&f->work);
                pthread_cond_destroy(&f->idle);
                free(f);
            }
        }
    }
    if (db->folder)
        put_name(db->folder, collection);
    pthread_mutex_unlock(&db->lock);
}

void mn_pause(mn_db *db, bool pause)
{
    pthread_mutex_lock(&db->lock);
    db->paused = pause;
    if (db->folder) {
        db->folder->paused = pause;
        pthread_cond_signal(&db->folder->work);
        while (pause && db->folder->busy)
            pthread_cond_wait(&db->folder->idle, &db->lock);
    }
    pthread_mutex_unlock(&db->lock);
}

void folder_destroy(mn_db *db)
{
    pthread_mutex_lock(&db->lock);
    struct folder *f = db->folder;
    if (f) {
        /* What is due may take a second more; then it is the next process's work. */
        struct timespec until;
        char name[MN_MAX_NAME + 1];
        f->closing = true;
        if (cache_unsettled(db, db->limits.fold_pending, name))
            put_name(f, name);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += CLOSE_S;
        while ((f->busy || f->n) && !f->paused &&
               pthread_cond_timedwait(&f->idle, &db->lock, &until) == 0) {
        }
        atomic_store_explicit(&f->ending, true, memory_order_relaxed);
        pthread_cond_signal(&f->work);
    }
    pthread_mutex_unlock(&db->lock);
    if (!f)
        return;
    pthread_join(f->thread, NULL);
    pthread_cond_destroy(&f->work);
    pthread_cond_destroy(&f->idle);
    free(f);
    db->folder = NULL;
}
