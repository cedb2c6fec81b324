/* Codes that memory has no room for: packs that are away. Of such a pack what its parts are is in
 * memory, and the bytes of parts that searches read often; the others are read from the sidecar,
 * for a search a part at a time (ann_fetch in index/ann.h), for a fold by those below. What is
 * away, and why, stands in ivf_away.c. */
#ifndef MN_ENGINE_IVF_AWAY_H
#define MN_ENGINE_IVF_AWAY_H

#include "src/engine/ivf_make.h"
#include "storage/sidecar.h"

/* The same pack without its bytes, which the sidecar has at p->ref. */
mn_status ivf_send_away(mn_db *db, const struct ivf_pack *p, struct ivf_pack **out, mn_error *err);

/* Whether memory has room for codes of so many bytes, beside what searches and folds take of an
 * index that has packs away. */
bool ivf_has_room(const mn_db *db, const struct ivf_core *core, uint64_t bytes);
/* What they take. */
uint64_t ivf_reserve(const mn_db *db, const struct ivf_core *core);

/* An away pack could not be read: said and counted once. Versions with it are to be loaded anew. */
void ivf_lose_away(mn_db *db, struct sidecar *s, struct ivf_pack *p, const char *why);
bool ivf_has_gone(const struct ivf *x); /* some pack of it is so */

/* ---- For folds ------------------------------------------------------------------------------- */

/* Calls fn for each use, with a part that has its bytes: those in memory first, then pack by pack.
 * Fails with MN_NOMEM, MN_CORRUPT or MN_IO (the pack is then lost), or what fn returned. */
typedef mn_status (*ivf_walk_fn)(void *ctx, uint32_t use, const struct ivf_part *part,
                                 mn_error *err);
mn_status ivf_walk(mn_db *db, const struct ivf_core *core, const struct ivf_use *uses, uint32_t n,
                   const struct ivf_sink *sink, ivf_walk_fn fn, void *ctx, mn_error *err);

/* The same over a version, in the open scope whose catalog names it. */
mn_status ivf_walk_version(mn_conn *conn, const struct ivf *x, ivf_walk_fn fn, void *ctx,
                           mn_error *err);

/* One part with its bytes: the use's own, or read into *buffer, which is for mn_free whatever is
 * returned. */
mn_status ivf_part_of(mn_db *db, const struct ivf_core *core, const struct ivf_use *u,
                      const struct ivf_sink *sink, void **buffer, struct ivf_part *out,
                      mn_error *err);

/* Reads a part of an away pack: ivf_sink.part. */
mn_status ivf_read_part(mn_db *db, struct sidecar *s, const struct ivf_core *core,
                        struct ivf_pack *p, uint32_t index, void **buffer, struct ivf_part *out,
                        mn_error *err);

/* ---- For searches ---------------------------------------------------------------------------- */

struct away_reader; /* one thread's at a time; made and destroyed on the connection's */

/* For versions whose parts take so many blocks at most (ivf.away_most). Asks SQLite nothing, and
 * may be tried again after MN_NOMEM. */
mn_status away_reader_open(mn_conn *conn, struct sidecar *s, uint32_t most_blocks,
                           struct away_reader **out, mn_error *err);
void away_reader_destroy(struct away_reader *r); /* NULL is fine */
size_t away_reader_bytes(uint32_t most_blocks);  /* that one holds */
struct sidecar *away_reader_sidecar(const struct away_reader *r); /* borrowed */
bool away_reader_fits(const struct away_reader *r, uint32_t most_blocks);

/* For a search of x in the open scope, whose catalog names it; borrowed until the next call. A part
 * that cannot be read breaks x and ends the search with MN_CORRUPT or MN_IO. *reads and *bytes
 * count. keeps: the search is one of many to come, so that parts which it reads may stay in
 * memory. */
const struct ann_fetch *away_fetch(struct away_reader *r, struct ivf *x, bool keeps,
                                   uint64_t *reads, uint64_t *bytes);
/* After a search that may have ended early. */
void away_fetch_end(struct away_reader *r);

#endif
