/* Rows of a collection that its index is calibrated on: each is searched for and left out of its
 * own search, and the answers are compared with the true ones. On the folder's own connection,
 * inside its read transaction. How the true ones are found stands in ivf_sample.c. */
#ifndef MN_ENGINE_IVF_SAMPLE_H
#define MN_ENGINE_IVF_SAMPLE_H

#include "src/engine/ivf.h"

struct sample;

struct sample_ids {
    const int64_t *ids; /* [n] of rows of the index, all or some thousand of them */
    size_t n;
    uint64_t rows; /* of the index */
};

/* Draws some of the ids [n] and reads their rows; the index has `rows`. Takes a 32nd of the memory
 * cap at most, or an eighth for 200 rows. */
mn_status sample_create(mn_conn *conn, struct coll *c, const struct ivf_core *core,
                        const struct sample_ids *ids, struct sample **out, mn_error *err);
void sample_destroy(struct sample *s); /* NULL is fine */

/* What a scan of all rows finds; before the index need be in memory. */
mn_status sample_scan(struct sample *s, mn_error *err);

/* Calibrates an index of these rows that nobody else sees yet. */
mn_status sample_calibrate(struct sample *s, struct ivf *x, mn_error *err);

#endif
