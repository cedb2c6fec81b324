/* Checks a collection's index against the rows. */
#ifndef MN_ENGINE_IVF_VERIFY_H
#define MN_ENGINE_IVF_VERIFY_H

#include "src/engine/engine.h"

/* In the open scope: reads and checks every extent of the index, that each row with a vector stands
 * in exactly one posting or among the rows changed since, and that the copies of vectors are those
 * of the rows. `found` is called for each finding. No index is none. Fails only where the check
 * itself cannot be made. */
mn_status ivf_verify(mn_conn *conn, struct coll *c, void (*found)(void *ctx, const char *what),
                     void *ctx, mn_error *err);

#endif
