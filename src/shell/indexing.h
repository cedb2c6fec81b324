/* A collection's index built or brought up to date, with progress and a sentence at the end. Used
 * by import, fold and rebuild. Owner thread. */
#ifndef MN_SHELL_INDEXING_H
#define MN_SHELL_INDEXING_H

#include "src/shell/shell.h"

/* Collections of fewer rows have no index: see mn_fold. */
enum { INDEX_LEAST_ROWS = 10000 };

/* Of a collection that is to be made: mn_collection_opts.rerank (1 + the value), bits and recall.
 */
#define RERANK_OPTION(field)                                                                       \
    {                                                                                              \
        "rerank", 0, OPTION_CHOICE, field, NULL,                                                   \
            "Where its index takes exact distances from: a copy of the vectors in DB-mneme (the "  \
            "default, fastest), the rows (smaller), or none: estimates are enough.",               \
            "copy|rows|none", 0, 0                                                                 \
    }
#define BITS_OPTION(field)                                                                         \
    {                                                                                              \
        "bits", 0, OPTION_COUNT, field, "N",                                                       \
            "Bits of an element in the index's codes. Default: 4, fewer where memory is short.",   \
            NULL, 1, 8                                                                             \
    }
#define RECALL_OPTION(field)                                                                       \
    {                                                                                              \
        "recall", 0, OPTION_REAL, field, "R", "Recall of searches that do not say. Default 0.95.", \
            NULL, 0.5, 1                                                                           \
    }

/* Whose k-means chooses the centroids of an index that is built anew. */
enum { TRAINER_MNEME = 1, TRAINER_FAISS };
#define TRAINER_OPTION(field)                                                                      \
    {                                                                                              \
        "trainer", 0, OPTION_CHOICE, field, NULL,                                                  \
            "Whose k-means groups the rows where the index is built anew: mneme (the default, "    \
            "and faster), or FAISS's over all centroids at once. FAISS is an optional part "       \
            "(tools/faiss builds it); its memory is not under the cap of --memory.",               \
            "mneme|faiss", 0, 0                                                                    \
    }

/* mn_fold, or mn_rebuild if `anew`, with a TRAINER_... (0: Mneme's). Returns 0 or the exit code
 * after saying why. */
int index_make(struct session *s, const struct common *common, const char *collection, bool anew,
               int trainer);

/* Bytes of a file beside the database, as "-mneme"; 0: none. */
uint64_t beside_bytes(const char *database, const char *suffix);

#endif
