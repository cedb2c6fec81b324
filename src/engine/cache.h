/* Vectors of collections held in memory between searches, within the memory cap. What a view says
 * belongs to one position of the table's change log. The rows stay the truth: a view can be thrown
 * away at any time. The structures and their invariants stand in cache.c. */
#ifndef MN_ENGINE_CACHE_H
#define MN_ENGINE_CACHE_H

#include "index/scan.h"
#include "src/engine/engine.h"

struct ivf;

/* Immutable once built; shared by reference counts. */
struct view;

/* The view for exactly the snapshot of the open scope, referenced for the caller; NULL if there is
 * none and the rows must be streamed. *load: it is worth keeping what is streamed (view_build...).
 * *pending counts the rows read to bring a view up to date. */
mn_status cache_view(mn_conn *conn, struct coll *c, struct view **out, bool *load,
                     uint64_t *pending, mn_error *err);

/* The same by the hybrid index: a view whose base is the collection's index and which itself holds
 * only the rows changed since. NULL: there is no index that this snapshot can use. */
mn_status cache_indexed(mn_conn *conn, struct coll *c, struct view **out, uint64_t *pending,
                        mn_error *err);
/* The same by a version of the caller's own, whatever others share. */
mn_status cache_indexed_by(mn_conn *conn, struct coll *c, struct ivf *x, struct view **out,
                           mn_error *err);
struct ivf *view_base(const struct view *v);
bool view_changed(const struct view *v, int64_t id); /* the base's copy of the row is not current */
size_t view_n_changed(const struct view *v);

/* A version was loaded or published: searches use it from now on, unless they have one of a later
 * generation. `newest`: there is none, whatever was there before a backup was restored. */
void cache_share_index(mn_db *db, int64_t collection, struct ivf *x, bool newest);
/* The same of a version with more rows folded in memory; ignored unless what is published is under
 * it. */
void cache_share_ahead(mn_db *db, int64_t collection, struct ivf *x);
/* A pack of x that is away cannot be read: the next search loads the index anew. */
void cache_break_index(mn_db *db, int64_t collection, struct ivf *x);
/* One connection at a time reads an index from the sidecar: two would each find half the room, and
 * leave its codes there. False: another one does. */
bool cache_load_begin(mn_db *db, int64_t collection);
void cache_load_end(mn_db *db, int64_t collection);
/* The newest, referenced; NULL: none in memory. */
struct ivf *cache_take_index(mn_db *db, int64_t collection);
/* True for one connection at a time, which then folds in memory and calls cache_fold_end; unless
 * at_once only after some searches that would have gained by it: each call is one. */
bool cache_fold_begin(mn_db *db, int64_t collection, bool at_once);
void cache_fold_end(mn_db *db, int64_t collection);
/* The name of a collection with `least` changes or more that are folded in memory only; db->lock is
 * held. */
bool cache_unsettled(const mn_db *db, uint64_t least, char name[MN_MAX_NAME + 1]);

struct view *view_share(struct view *v);
void view_release(mn_db *db, struct view *v); /* NULL is fine */

/* Parts of a view, to be scanned in any order; *block is borrowed from the view. */
size_t view_parts(const struct view *v);
void view_block(const struct view *v, size_t part, struct scan_block *block);
size_t view_rows(const struct view *v);

/* Rows whose value has the wrong type or size: passed over, and counted. */
size_t view_bad(const struct view *v);
bool view_is_bad(const struct view *v, int64_t id);

/* The row's vector in the view, NULL if it has none. */
const void *view_find(const struct view *v, int64_t id, float *norm);

/* Building a view while rows are streamed in id order. *out NULL: another connection is at it. */
struct view_build;
mn_status view_build_begin(mn_conn *conn, struct coll *c, struct view_build **out, mn_error *err);
/* Room for the next rows, which the caller fills in; false if the cap leaves none: the build is
 * then given up. */
struct view_room {
    int64_t *ids;  /* [n] */
    char *vectors; /* [n][vector_bytes] */
    float *norms;  /* [n] squared norms */
    size_t n;
};
bool view_build_room(struct view_build *b, struct view_room *room);
/* Keeps the first n rows of the room, which the caller may not touch again. */
void view_build_add(struct view_build *b, size_t n);
void view_build_bad(struct view_build *b, int64_t id); /* a row without a valid vector */
/* Publishes what was built (complete) or throws it away, and ends the load. NULL is fine. */
void view_build_end(struct view_build *b, bool complete);

/* Rows of one block of full size: as many as fill 2 MiB. */
size_t cache_block_rows(const struct coll *c);

/* Whether the cap leaves cached things so many bytes more; making room throws other collections'
 * views away. */
bool cache_has_room(const mn_db *db, size_t bytes);
bool cache_make_room(mn_db *db, int64_t collection, size_t bytes);

/* While an index of the collection is built, which will want so many bytes: makes room for them,
 * and if that takes it gives up the collection's own view and loads none meanwhile. */
void cache_build_begin(mn_db *db, int64_t collection, uint64_t bytes);
void cache_build_end(mn_db *db, int64_t collection);

/* Forgets every view; for close. */
void cache_clear(mn_db *db);
void cache_forget(mn_db *db, int64_t collection); /* dropped or renamed */
uint64_t cache_rows(mn_db *db, int64_t collection); /* rows held now */

#endif
