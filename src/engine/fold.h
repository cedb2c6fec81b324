/* Who folds: the background thread of a database, or a caller of mn_fold. */
#ifndef MN_ENGINE_FOLD_H
#define MN_ENGINE_FOLD_H

#include "src/engine/engine.h"

/* Tells the folder that this collection has `pending` rows to fold, or rows and no index. Starts
 * its thread if need be. Cheap; from any thread; with MN_OPEN_NO_BACKGROUND it does nothing. */
void folder_tell(mn_db *db, const char *collection);

bool folder_may_run(const mn_db *db); /* false: somebody else drives, or nobody */

/* After a write that found too many changes pending (conn->must_help): folds them, or waits until
 * whoever folds has caught up, as long as the busy timeout at most. The write itself stands. */
void folder_help(mn_conn *conn);

void folder_destroy(mn_db *db); /* joins the thread; before the database is freed */

enum {
    FOLD_PENDING = 1000, /* changed rows from which on a fold is due */
    PENDING_MAX = 65536  /* changes not folded from which on writers help to fold */
};

#endif
