/* Postings that have become too large are split, too small ones dissolved: ivf_regroup.c. */
#ifndef MN_ENGINE_IVF_REGROUP_H
#define MN_ENGINE_IVF_REGROUP_H

#include "src/engine/ivf_maker.h"

/* Regroups the draft of `m`, whose first n_old uses are x's, if enough postings are due. Those of
 * regrouped postings are dropped, their rows stand in new parts, and the draft has another core,
 * which went to the sink. *moved counts rows that have another posting or centroid than before: 0
 * if nothing was due. Memory: one posting's rows as f32. Fails with MN_NOMEM, or what reading rows
 * met. */
mn_status ivf_regroup(struct make *m, const struct ivf *x, uint64_t *moved, mn_error *err);

#endif
