/* How the index changes: leases, publishing, and when space may be used again. The protocol and why
 * it is right at every point where the power may go: publish.c.
 *
 * A fold, on a connection of the folder's own (nobody else uses it meanwhile):
 *
 *     lease_take(db, sidecar, alloc, &l, err)     once; MN_BUSY: somebody else folds
 *     publish_open(l, err)                        generation and nonce of what is to come
 *       read rows and postings in a read transaction, close it, build
 *       publish_write(l, &spec, payload, NULL, &ref, err)   for each new extent
 *     publish_flush(l, err)                       one flush for all
 *     publish_begin(l, err)                       BEGIN IMMEDIATE; MN_CONFLICT: abort, start again
 *       publish_drop(l, first_block, err)         for each replaced extent
 *       the engine's own rows: folded position, postings, trimming the log
 *     publish_commit(l, err)                      THE commit
 *     lease_reclaim(l, &complete, err)            checkpoint; replaced blocks become free
 *     lease_drop(l)
 *
 * Any failure on the way: publish_abort(l), and nothing has happened. Threads: a lease is one
 * thread's at a time. While a lease is held no other process folds; keeping it from fold to fold
 * saves its commit and the reading of the catalog. */
#ifndef MN_STORAGE_PUBLISH_H
#define MN_STORAGE_PUBLISH_H

#include <sqlite3.h>

#include "storage/base/alloc.h"
#include "storage/extents.h"
#include "storage/sidecar.h"

struct lease;

/* Makes the sidecar of a database that has none or whose sidecar is lost, in a write transaction of
 * its own on `db`: all rows of mneme_extents go, the generation counts on. The engine's own rows
 * about postings must go in the same transaction: `forget`, if not NULL, is called inside it.
 * With SIDECAR_REPLACE_ANY a foreign or newer file under that name is removed: only if the user
 * asked for it. Without, such a file is MN_EXISTS. If there is a good one, which another process
 * may have made meanwhile: MN_CONFLICT, open it; SIDECAR_REPLACE_OWN replaces it. */
enum sidecar_replace { SIDECAR_REPLACE_LOST, SIDECAR_REPLACE_ANY, SIDECAR_REPLACE_OWN };
typedef mn_status (*sidecar_forget_fn)(void *ctx, sqlite3 *db, mn_error *err);
mn_status sidecar_build(sqlite3 *db, const struct sidecar_opts *opts,
                        enum sidecar_replace replace,
                        sidecar_forget_fn forget, void *ctx, struct sidecar **out, mn_error *err);

/* Takes the right to fold: the lock, a durable commit of its own (lease_epoch + 1, which buries
 * what a killed folder may have left in the log), and the map of free space. Sets synchronous=FULL
 * on `db`. `s` and `db` are borrowed until lease_drop. Fails with MN_BUSY, MN_POISONED,
 * MN_READONLY, MN_CONFLICT (`s` is not the sidecar that app.db names now), or SQLite's errors. */
mn_status lease_take(sqlite3 *db, struct sidecar *s, struct mn_alloc *a, struct lease **out,
                     mn_error *err);
void lease_drop(struct lease *l); /* aborts what is open; NULL is fine */

/* Checkpoints (PASSIVE: waits for nobody) and, if that was complete, makes free what was replaced
 * or found unnamed before it. *complete says so; not complete is no failure: an old reader lives,
 * try again later. Outside a publish's transaction. Blocks of a commit of unknown result are made
 * safe by a commit of the lease's own first. */
mn_status lease_reclaim(struct lease *l, bool *complete, mn_error *err);

struct lease_space {
    uint64_t file_blocks;     /* of the file */
    uint64_t free_blocks;     /* may be written now */
    uint64_t deferred_blocks; /* will be free after a complete checkpoint */
    uint64_t taken_blocks;    /* written by the open publish */
};
void lease_space(const struct lease *l, struct lease_space *out);

/* Cuts the file's free end off, leaving the ballast; with `punch` gives the room of free blocks
 * inside back too. Outside a publish. */
mn_status lease_shrink(struct lease *l, bool punch, mn_error *err);

/* The catalog's extents as the lease last saw them, for a folder that wants them; borrowed until
 * the next publish_open. */
const struct extents *lease_extents(const struct lease *l);
const struct sidecar_meta *lease_meta(const struct lease *l);

/* ---- Publishing -------------------------------------------------------------------------------
 * */

/* Begins a publish. After a conflict it reads the catalog anew. MN_POISONED, MN_CONFLICT (the lease
 * is lost: drop it). */
mn_status publish_open(struct lease *l, mn_error *err);
uint64_t publish_generation(const struct lease *l); /* that it will have */

/* Space that can only be used to make the file smaller in the end (compaction, deletes on a full
 * disk): lets publish_write use the ballast. Until the publish ends. */
void publish_may_use_ballast(struct lease *l);

/* Writes one extent into free blocks, growing the file if there are none. The caller sets
 * collection, object, kind, codec, flags, rows, sections, payload_len; the lease the rest.
 * `payload` is copied. crcs, if not NULL, takes the CRCs of the blocks with payload ([at.n_crcs] of
 * extent_layout; with EXTENT_PAGES one a page). Its catalog row is written by publish_begin.
 * MN_FULL: no room; abort, nothing happened. */
mn_status publish_write(struct lease *l, struct extent_spec *spec, const void *payload,
                        uint32_t *crcs, struct extent_ref *ref, mn_error *err);

/* Extents are gathered before they are written; after this all of them can be read. */
mn_status publish_settle(struct lease *l, mn_error *err);

/* Writes the intent and flushes. A failed flush poisons the sidecar: MN_POISONED. */
mn_status publish_flush(struct lease *l, mn_error *err);

/* BEGIN IMMEDIATE; checks that nobody published, dropped extents or took the lease meanwhile
 * (MN_CONFLICT); inserts the rows of all extents written. The connection's busy handler decides how
 * long it waits: MN_BUSY leaves everything as it was, it may be called again. */
mn_status publish_begin(struct lease *l, mn_error *err);

/* Deletes the row of a replaced extent; its blocks are deferred once the commit stands.
 * MN_NOTFOUND. */
mn_status publish_drop(struct lease *l, uint64_t first_block, mn_error *err);

/* After a failure the publish has ended, and may or may not be there after a power cut: its blocks
 * stay untouched until that is settled (lease_reclaim). */
mn_status publish_commit(struct lease *l, mn_error *err);
void publish_abort(struct lease *l); /* none open is fine */

#endif
