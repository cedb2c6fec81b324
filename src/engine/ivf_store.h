/* The hybrid index in the sidecar: writing what a build or fold made, publishing it, loading it.
 * What the extents hold stands in ivf_store.c. */
#ifndef MN_ENGINE_IVF_STORE_H
#define MN_ENGINE_IVF_STORE_H

#include "src/engine/ivf_make.h"
#include "storage/publish.h"

/* Where a version's extents go while it is made; ctx of an ivf_sink. */
struct ivf_writer {
    mn_db *db;
    struct sidecar *sidecar;
    struct lease *lease;
    uint32_t collection;
};
struct ivf_sink ivf_writer_sink(struct ivf_writer *w);

/* Writes the directory of a version whose packs and blocks were written, publishes all of it in
 * place of what stood there, and trims the change log. Outside a transaction, on the connection of
 * the lease. MN_CONFLICT: somebody changed the schema or published meanwhile. */
mn_status ivf_publish(mn_conn *conn, struct lease *l, const struct coll *c, struct ivf *x,
                      mn_error *err);

/* Publishes that the collection has no index any more. */
mn_status ivf_unpublish(mn_conn *conn, struct lease *l, const struct coll *c, mn_error *err);

/* What the catalog says of a collection's index, in the open scope. */
struct ivf_place {
    bool there;
    uint64_t generation;
    struct log_position at;
};
/* Whether x is that index, or ahead of it by rows folded in memory. Generations alone would do,
 * were no older app.db ever restored over this one. */
static inline bool ivf_is_at(const struct ivf *x, const struct ivf_place *p)
{
    return x->generation == p->generation && x->published.seq == p->at.seq &&
           x->published.stamp == p->at.stamp;
}
mn_status ivf_where(mn_conn *conn, struct coll *c, struct ivf_place *out, mn_error *err);

/* Loads the published index, in the open scope; packs and blocks that `have` (or NULL) has are
 * shared. *out NULL: there is none, or it cannot be used (logged; it is built anew by the next
 * fold). */
mn_status ivf_load(mn_conn *conn, struct coll *c, const struct ivf *have, struct ivf **out,
                   mn_error *err);

/* "app.db-mneme", from malloc; NULL when memory runs out. */
char *ivf_sidecar_path(const mn_db *db);

/* The sidecar that the open scope's catalog names, opened if it is not, for the caller to
 * sidecar_close; NULL: none, or not to be used. */
mn_status ivf_sidecar(mn_conn *conn, struct sidecar **out, mn_error *err);
/* The next ivf_sidecar looks at the file again. */
void ivf_sidecar_forget(mn_db *db);

/* Whether the cap leaves room for all vectors; makes some. */
bool ivf_can_warm(mn_db *db, const struct ivf *x);
/* Reads the vectors of up to `most` blocks that are not in memory, in the open scope, whose catalog
 * must name this version. Searches use each block as it comes. */
mn_status ivf_warm_up(mn_conn *conn, struct ivf *x, uint32_t most, mn_error *err);

/* Vectors of candidates that are not in memory, read from the sidecar in one batch. */
struct ivf_reader; /* one thread's at a time; made and destroyed on the connection's */
/* For vectors of so many bytes and less. */
mn_status ivf_reader_create(mn_conn *conn, size_t vector_bytes, struct ivf_reader **out,
                            mn_error *err);
/* The same of an open sidecar: asks SQLite nothing, and may be tried again after MN_NOMEM. */
mn_status ivf_reader_open(mn_conn *conn, struct sidecar *s, size_t vector_bytes,
                          struct ivf_reader **out, mn_error *err);
void ivf_reader_destroy(struct ivf_reader *r); /* NULL is fine */
struct sidecar *ivf_reader_sidecar(const struct ivf_reader *r); /* borrowed */
size_t ivf_reader_bytes(size_t vector_bytes);  /* that one holds */
/* The sidecar was not replaced since, and it has room for such vectors. */
bool ivf_reader_fits(const struct ivf_reader *r, size_t vector_bytes);
/* So many vectors at once find room, wherever they lie. */
size_t ivf_reader_most(const struct ivf_reader *r);
/* vectors[i] takes candidate i's vector, borrowed until the next call; NULL where it cannot be
 * read: take it from the row. *reads counts pages read. */
mn_status ivf_read(struct ivf_reader *r, const struct ivf *x, const struct ann_candidate *c,
                   size_t n, const void **vectors, uint64_t *reads, mn_error *err);

/* ---- The format, for those who read it ------------------------------------------------------- */

enum { KIND_CORE = 1, KIND_PACK = 2, KIND_HEAP = 3, KIND_DIRECTORY = 4 };
enum { CORE_MAGIC = 0x524f434d, DIRECTORY_MAGIC = 0x5249444d, STORE_VERSION = 3 };
enum { CORE_HEAD = 40, DIRECTORY_HEAD = 48 + TUNING_BYTES };

/* Magic and version of a core's or directory's payload; an older index is built anew. */
mn_status ivf_check_head(const struct extent_view *v, uint32_t magic, size_t head, mn_error *err);
/* The payload of a core: its floats begin at CORE_HEAD. */
mn_status ivf_check_core(const struct extent_view *v, uint32_t dim, mn_error *err);

#endif
