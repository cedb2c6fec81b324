/* The catalog's rows about the sidecar: table mneme_extents, and the sidecar's keys of mneme_meta.
 * Each row carries a CRC over all its columns, and a count and a digest over all rows tell whether
 * one is missing. Each call runs inside the caller's transaction on the caller's connection.
 * Format: extents.c. */
#ifndef MN_STORAGE_EXTENTS_H
#define MN_STORAGE_EXTENTS_H

#include <sqlite3.h>

#include "storage/base/alloc.h"
#include "storage/extent.h"
#include "storage/sidecar.h"

/* What app.db says about its sidecar. A database made before there was one says "none". */
mn_status extents_meta(sqlite3 *db, struct sidecar_meta *out, mn_error *err);

struct extents {
    struct extent_ref *refs; /* [n] by ascending first_block; of the collection asked for */
    size_t n;
    struct extent_ref *damaged; /* [n_damaged] rows whose CRC does not fit, as they read: of any
                                collection, since nothing in them can be believed */
    size_t n_damaged;
    bool missing;            /* rows are gone, or there are too many: count or digest do not fit */
    char message[320];       /* a sentence about what is damaged or missing; "" if nothing */
};

/* Loads the extents of one collection, or with 0 of all, in one snapshot with `meta`. Every row of
 * the table is checked, whatever the collection. Damage is no failure: what is not in refs[] is
 * lost, the owner knows which objects it should have, answers from the rows and heals. Fails with
 * MN_NOMEM or SQLite's errors. Memory: MN_TAG_HANDLE. */
mn_status extents_load(sqlite3 *db, struct mn_alloc *a, const struct sidecar_meta *meta,
                       uint32_t collection, struct extents *out, mn_error *err);
void extents_fini(struct mn_alloc *a, struct extents *e); /* zeroed is fine */

/* In a write transaction: forgets all extents of a dropped collection. Their blocks come back with
 * the next lease; a fold that runs meanwhile finds out when it begins to publish. */
mn_status extents_drop_collection(sqlite3 *db, uint32_t collection, mn_error *err);

/* ---- For storage/publish.c: in a write transaction ------------------------------------------- */

/* Makes the table in a database that was made without it. */
mn_status extents_init(sqlite3 *db, mn_error *err);

/* Statements kept from publish to publish; they keep count and digest of `meta` up to date, which
 * extents_meta_store then writes. */
struct extents_writer {
    sqlite3 *db;
    sqlite3_stmt *insert, *find, *remove, *put;
};

void extents_writer_fini(struct extents_writer *w); /* zeroed is fine */
mn_status extents_insert(struct extents_writer *w, struct sidecar_meta *meta,
                         const struct extent_ref *ref, mn_error *err);
/* *out: the row that was there. MN_NOTFOUND. */
mn_status extents_remove(struct extents_writer *w, struct sidecar_meta *meta, uint64_t first_block,
                         struct extent_ref *out, mn_error *err);
/* Deletes what is damaged, counts and sums up anew. */
mn_status extents_mend(struct extents_writer *w, struct sidecar_meta *meta, mn_error *err);
mn_status extents_remove_all(sqlite3 *db, struct sidecar_meta *meta, mn_error *err);
mn_status extents_meta_store(struct extents_writer *w, const struct sidecar_meta *meta,
                             mn_error *err);

#endif
