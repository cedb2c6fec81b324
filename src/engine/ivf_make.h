/* Makes the first version of a hybrid index from a snapshot's rows; ivf_fold.h has the next ones.
 * Works on the folder's own connection, inside its read transaction, and hands finished packs and
 * heap blocks to a sink as they are made. One thread at a time. */
#ifndef MN_ENGINE_IVF_MAKE_H
#define MN_ENGINE_IVF_MAKE_H

#include "src/engine/ivf.h"

/* Where finished packs and heap blocks go. NULL functions: nowhere, they live in memory alone. */
struct ivf_sink {
    mn_status (*core)(void *ctx, struct ivf_core *core, const float *centroids, mn_error *err);
    /* The centroids [n_lists][dim] of a core that `core` was given, within *buffer, which is for
     * mn_free. Folds need it. */
    mn_status (*centroids)(void *ctx, struct ivf_core *core, void **buffer,
                           const float **centroids, mn_error *err);
    mn_status (*pack)(void *ctx, struct ivf_pack *pack, mn_error *err);
    /* Reads a pack that is away, whole; or one part of it within *buffer, which is for mn_free
     * whatever is returned. What cannot be read is lost. */
    mn_status (*reload)(void *ctx, const struct ivf_core *core, struct ivf_pack *pack,
                        struct ivf_pack **out, mn_error *err);
    mn_status (*part)(void *ctx, const struct ivf_core *core, struct ivf_pack *pack,
                      uint32_t index, void **buffer, struct ivf_part *out, mn_error *err);
    /* What was given can be read from now on. */
    mn_status (*settle)(void *ctx, mn_error *err);
    mn_status (*block)(void *ctx, uint32_t number, struct heap_block *block, mn_error *err);
    /* Pages of a block that are not in memory, within *buffer, which is for mn_free whatever is
     * returned. */
    mn_status (*pages)(void *ctx, const struct heap_block *block, void **buffer,
                       const char **pages, mn_error *err);
    void *ctx;
};

/* Fewer rows than this are searched exactly: that costs less than an index. */
enum { IVF_MIN_ROWS = 10000 };

/* Builds the index of all rows of the open snapshot. *out NULL and MN_OK: too few rows for one.
 * Memory: codes of all rows, or 20 bytes a row, whichever is more where memory is short; a quarter
 * of the cap at most for clustering. Threads: the database's, as far as memory allows; the index is
 * the same for any number. */
mn_status ivf_build(mn_conn *conn, struct coll *c, const struct ivf_sink *sink, struct ivf **out,
                    mn_error *err);

#endif
