/* Changed rows into the hybrid index: folded in memory, and settled for the sidecar. ivf_fold.c
 * says how. On a connection's thread, inside its read transaction. */
#ifndef MN_ENGINE_IVF_FOLD_H
#define MN_ENGINE_IVF_FOLD_H

#include "src/engine/ivf_make.h"

/* The version after `old` that holds the open snapshot's rows, ahead of the sidecar; `changed` are
 * the ids that the change log names since old->at, and of the rows that old has lost, ascending.
 * Of the sink only `centroids` and `pages` are used. MN_NOMEM under the cap. */
mn_status ivf_fold(mn_conn *conn, struct coll *c, const struct ivf *old, const int64_t *changed,
                   size_t n, const struct ivf_sink *sink, struct ivf **out, mn_error *err);

/* The same rows as a version all of which went to the sink, ready for its directory and a publish.
 * x must hold the open snapshot's rows. */
mn_status ivf_settle(mn_conn *conn, struct coll *c, const struct ivf *x,
                     const struct ivf_sink *sink, struct ivf **out, mn_error *err);

/* True if so much changed since the index was clustered that it should be built anew. */
bool ivf_outgrown(const struct ivf *x);

#endif
