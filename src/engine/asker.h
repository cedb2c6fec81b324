/* What one thread needs to search by the hybrid index, kept with the connection from call to call,
 * so that a query allocates nothing. One thread's at a time: the first asker is the connection's
 * own thread's, the others are of threads that help in a call. */
#ifndef MN_ENGINE_ASKER_H
#define MN_ENGINE_ASKER_H

#include "index/ann.h"
#include "index/scan.h"
#include "src/engine/ivf.h"
#include "src/engine/ivf_away.h"
#include "src/engine/ivf_store.h"

struct asker {
    struct ann_scratch *scratch;
    uint32_t scratch_lists, scratch_k, scratch_dim;
    struct scan *scan;         /* of one query: pending rows, and exact distances */
    struct scan_spec spec;     /* that scan was made with, but for the query */
    float *wide;               /* [scratch_dim] the query as the index sees it */
    mn_hit *pending;           /* [scratch_k] */
    struct ivf_reader *reader; /* of vectors in the sidecar; NULL: none needed yet, or no sidecar */
    struct away_reader *away;  /* the same of codes */
};

/* What the queries of a call have in common; `queries` is any one of them. */
struct asker_spec {
    const struct ivf *x;
    struct scan_spec scan;
    bool reads; /* vectors will be read from the sidecar */
};

/* Makes conn->askers[0 .. *n) ready for a call: `wanted` of them, or fewer where memory is short:
 * those beside the first may take an eighth of the cap. One at least, or it fails with MN_NOMEM or
 * what opening the sidecar met. On the connection's thread, inside a scope. */
mn_status askers_ready(mn_conn *conn, const struct asker_spec *spec, uint32_t wanted, uint32_t *n,
                       mn_error *err);
void askers_destroy(mn_conn *conn); /* all of the connection */

#endif
