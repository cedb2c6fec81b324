/* True neighbours by FAISS: the vectors of a collection in a flat index of FAISS, to hold Mneme's
 * exact search against another implementation. FAISS keeps all vectors as f32 in memory of its own,
 * which counts to no cap. Owner thread of the connection. */
#ifndef MN_FAISS_TRUTH_H
#define MN_FAISS_TRUTH_H

#include "mneme.h"

struct faiss_truth;

struct faiss_truth_opts {
    uint32_t threads; /* 0: 1 */
    /* [dim] elements of the dtype as f32; NULL: the collection must be f32. */
    void (*widen)(mn_dtype dtype, uint32_t dim, const void *vector, float *out);
};

/* Takes the vectors of the connection's open read transaction, or of one state of its own. Rows
 * that mn_search passes over are left out. Fails with MN_INVALID (hamming; no vector), MN_NOTFOUND
 * (the collection; the plugin: faiss_load), MN_NOMEM, MN_INTERRUPTED. *out is NULL then. */
MN_CHECKED mn_status faiss_truth_open(mn_conn *conn, const char *collection,
                                      const struct faiss_truth_opts *opts, struct faiss_truth **out,
                                      mn_error *err);

/* The k nearest rows of nq queries [nq][dim]: as mn_search, with hits [nq][k] and found [nq];
 * distances are Mneme's. Equal distances stand by ascending id; which of them is the last of k is
 * FAISS's choice. MN_INVALID: a query is not finite, or of length 0 under cosine. */
MN_CHECKED mn_status faiss_truth_search(struct faiss_truth *t, const float *queries, size_t nq,
                                        uint32_t k, mn_hit *hits, uint32_t *found, mn_error *err);
void faiss_truth_close(struct faiss_truth *t); /* NULL is fine */

#endif
