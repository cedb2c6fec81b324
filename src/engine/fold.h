/* Who folds: the background thread of a database, or a caller of mn_fold. */
#ifndef MN_ENGINE_FOLD_H
#define MN_ENGINE_FOLD_H

#include "src/engine/engine.h"

/* Tells the folder that this collection has `pending` rows to fold, or rows and no index. Starts
 * its thread if need be. Cheap; from any thread; with MN_OPEN_NO_BACKGROUND it does nothing. */
void folder_tell(mn_db *db, const char *collection);

/* Changed rows of such vectors from which on they are folded in memory rather than scored exactly
 * by each search. */
uint32_t fold_rows(const mn_db *db, size_t vector_bytes);

/* Folds what is pending into the index in memory, if it is fold_rows() or more: for searches of
 * this process, nothing is written. Unless `at_once` only every so many calls. In the open scope,
 * which must see no writes of its own. *did: searches find a newer version. */
mn_status fold_in_memory(mn_conn *conn, struct coll *c, bool at_once, bool *did, mn_error *err);

bool folder_may_run(const mn_db *db); /* false: somebody else drives, or nobody */

/* After a write that found too many changes pending (conn->must_help): folds them, or waits until
 * whoever folds has caught up, as long as the busy timeout at most. The write itself stands. */
void folder_help(mn_conn *conn);

void folder_destroy(mn_db *db); /* joins the thread; before the database is freed */

enum {
    FOLD_PENDING = 1000, /* changed rows that searches score exactly, at most */
    FOLD_BYTES = 256 << 10, /* and of their vectors: 5 us of a query */
    FOLD_LEAST = 128,
    PUBLISH_MOST = 8192,    /* changes that are published at once, and at most a PUBLISH_SHARE'th */
    PUBLISH_SHARE = 16,     /* of the rows, or a PUBLISH_CAP_SHARE'th of the cap */
    PUBLISH_CAP_SHARE = 64,
    PENDING_MAX = 65536  /* changes not folded from which on writers help to fold */
};

#endif
