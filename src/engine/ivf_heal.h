/* What happens when extents of an index are lost: marks, what searches need meanwhile, and the
 * mending, which each fold does in passing. What is healed how stands in ivf_heal.c. */
#ifndef MN_ENGINE_IVF_HEAL_H
#define MN_ENGINE_IVF_HEAL_H

#include "src/engine/ivf_make.h"
#include "storage/sidecar.h"

/* ---- Marks: set by whoever could not read something. Thread-safe, said and counted once. ----- */

/* The vectors come from the rows from now on; `why` is a sentence. */
void heal_lose_block(mn_db *db, struct sidecar *s, struct heap_block *b, const char *why);
/* In memory it is well, or nothing would say so. */
void heal_lose_pack(mn_db *db, struct sidecar *s, struct ivf_pack *p, const char *why);
void heal_lose_core(mn_db *db, struct sidecar *s, struct ivf_core *c, const mn_error *why);
void heal_lose_directory(mn_db *db, struct sidecar *s, struct ivf *x, const char *why);
/* One more that is not loaded. */
void heal_count_lost(mn_db *db, struct sidecar *s);

/* ---- Rows that the index lacks, because packs could not be loaded ---------------------------- */

static inline bool heal_has_gaps(const struct ivf *x)
{
    return x->n_lost && !x->refilled;
}
uint64_t heal_lost_rows(const struct ivf *x); /* at most; of packs that the catalog names */
bool heal_bears(const struct ivf *x); /* not so many that building anew is better */

/* Unites the ascending ids [n] (from mn_alloc, replaced) with those of the open scope's rows that
 * no part holds. Reads the ids of the whole table. */
mn_status heal_add_missing(mn_conn *conn, struct coll *c, const struct ivf *x, int64_t **ids,
                           size_t *n, mn_error *err);

/* ---- Folding --------------------------------------------------------------------------------- */

/* The version cannot be mended: its core is lost, or so much that memory for its rows lacks. */
bool heal_needs_rebuild(const mn_db *db, const struct ivf *x);

/* The sidecar has lost something of the version: to be published soon. */
bool heal_due(const struct ivf *x);

/* Says and counts what the publish after x mended; with `anew` the index was built anew. x NULL: no
 * more is known. */
void heal_done(mn_db *db, const struct coll *c, const struct ivf *x, bool anew);

/* Writes packs again whose extents are lost: the draft uses copies. */
mn_status heal_packs(mn_db *db, struct ivf_draft *d, const struct ivf_sink *sink,
                     uint32_t *next_object, mn_error *err);

/* Makes lost blocks of the draft anew from the rows of the open snapshot, which it holds; they are
 * not saved yet. */
mn_status heal_blocks(mn_conn *conn, struct coll *c, struct ivf_draft *d,
                      const struct ivf_sink *sink, mn_error *err);

/* Places of vectors [n] in the heap of a version that lost packs: those that its parts do not name
 * and that hold just these bytes. HEAL_NO_SLOT where there is none. */
#define HEAL_NO_SLOT UINT32_MAX
mn_status heal_find_slots(mn_conn *conn, const struct ivf *x, const struct ivf_sink *sink,
                          const char *vectors, size_t n, uint32_t *slots, mn_error *err);

#endif
