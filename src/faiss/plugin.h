/* What the plugin mneme_faiss.so gives to the programs: FAISS's k-means and flat index, behind one
 * table of functions. Includes nothing of FAISS, so that whoever loads the plugin need not have it.
 * Knows no database. One thread at a time, as some settings of FAISS are the whole process's. */
#ifndef MN_FAISS_PLUGIN_H
#define MN_FAISS_PLUGIN_H

#include <stdio.h>

#include "mneme.h"

enum { FAISS_PLUGIN_VERSION = 1 }; /* of the table; another one is refused */

struct faiss_flat; /* a flat index: vectors in FAISS's own memory, with ids or without */

/* What a flat index holds; the arrays are borrowed until it changes. */
struct faiss_content {
    uint32_t dim;
    uint64_t n;
    mn_metric metric;     /* MN_L2 or MN_IP */
    const float *vectors; /* [n][dim] */
    const int64_t *ids;   /* [n], or NULL: an index without ids */
};

/* What FAISS allocates counts to no cap. Functions that fail say why in err; no C++ exception
 * leaves them. Out-parameters are NULL then. */
struct faiss_plugin {
    uint32_t version;
    void (*set_threads)(uint32_t n); /* of everything below; at first each processor's */

    /* For mn_set_trainer: Lloyd's algorithm over all centroids at once. */
    mn_train_fn train;

    /* metric: MN_L2 or MN_IP. With `ids` it is an IndexIDMap2 around the flat index. */
    mn_status (*create)(uint32_t dim, mn_metric metric, bool ids, struct faiss_flat **out,
                        mn_error *err);
    /* rows [n][dim], ids [n] if it was made with ids. */
    mn_status (*add)(struct faiss_flat *f, const float *rows, const int64_t *ids, size_t n,
                     mn_error *err);
    /* The k nearest of each of nq queries [nq][dim]: labels and distances [nq][k], nearest first,
     * label -1 where there are no more. Labels are ids, or positions from 0. Distances are FAISS's:
     * l2 squared, or the inner product. Each is summed from the elements' differences or products,
     * not by FAISS's faster way through norms, which rounds. */
    mn_status (*search)(struct faiss_flat *f, const float *queries, size_t nq, uint32_t k,
                        float *distances, int64_t *labels, mn_error *err);
    /* Believes the lengths that the file states: check them before. */
    mn_status (*read)(FILE *in, struct faiss_flat **out, mn_error *err);
    mn_status (*write)(struct faiss_flat *f, FILE *out, mn_error *err);
    void (*content)(struct faiss_flat *f, struct faiss_content *out);
    void (*destroy)(struct faiss_flat *f); /* NULL is fine */
};

/* The plugin's one symbol, FAISS_PLUGIN_SYMBOL: a function of this type. */
typedef const struct faiss_plugin *(*faiss_plugin_fn)(void);
#define FAISS_PLUGIN_SYMBOL "mneme_faiss_plugin"

#endif
