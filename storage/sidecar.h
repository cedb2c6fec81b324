/* The sidecar: the file app.db-mneme, which holds extents and can be lost. This module is the file:
 * its headers, the intent slots, reading and checking extents, and what may be wrong with it when
 * it is opened. Knows no SQLite: what app.db says about it comes in a struct sidecar_meta, which
 * storage/extents.h loads. Who may write, where and when is storage/publish.h's. Format: sidecar.c.
 *
 * Threads: sidecar_read, _file, _matches, _poisoned, _stats from any thread; the writing functions
 * from the lease's holder only.
 *
 * Readers. An extent may be read only while the SQLite read transaction is open in which its
 * extent_ref was read (a checkpoint that is complete proves that no such reader is left, and only
 * then is the space used again). A reader that meets MN_CORRUPT all the same answers from the rows,
 * calls sidecar_count_lost, and says so once an object. */
#ifndef MN_STORAGE_SIDECAR_H
#define MN_STORAGE_SIDECAR_H

#include "storage/base/alloc.h"
#include "storage/extent.h"
#include "storage/io.h"

enum {
    SIDECAR_FORMAT = 1,
    SIDECAR_HEAD_BLOCKS = 4, /* two headers, two intent slots; extents come behind */
    SIDECAR_LEASE_BYTE = 1   /* locked by the folder */
};

/* What app.db says about its sidecar, as of one snapshot. */
struct sidecar_meta {
    uint8_t db_id[16];
    uint64_t db_tag;      /* its first 8 bytes, little-endian */
    bool exists;          /* app.db refers to a sidecar */
    uint64_t file_id;     /* of that sidecar: a random number in its header */
    uint64_t generation;  /* number of the last publish; 0: none yet */
    uint64_t nonce;       /* drawn by that publish */
    uint64_t lease_epoch; /* counts leases */
    uint64_t count;       /* rows of mneme_extents */
    uint64_t digest;      /* sum of their hashes, mod 2^64 */
};

struct sidecar;

enum sidecar_state {
    SIDECAR_NONE,      /* app.db refers to none */
    SIDECAR_GOOD,
    SIDECAR_MISPAIRED, /* app.db and sidecar are of different moments: every extent's header was
                          checked, those that do not fit are lost */
    SIDECAR_MISSING,   /* no such file: build anew */
    SIDECAR_FOREIGN,   /* belongs to another database, or is no sidecar: never touched */
    SIDECAR_NEWER,     /* a newer Mneme wrote it: never touched */
    SIDECAR_DAMAGED    /* both headers and both intents are gone, no extent fits: build anew */
};

/* What was found at open, for the log and for `verify`. */
struct sidecar_finding {
    enum sidecar_state state;
    bool one_header;    /* one of the two header copies is bad; the next publish mends it */
    bool readonly;      /* a feature we do not know forbids writing */
    uint32_t n_lost;    /* extents that lie behind the file's end or do not fit */
    char message[320];  /* a sentence; "" if all is as it should be */
};

struct sidecar_opts {
    struct mn_fs *fs;
    struct mn_alloc *alloc;
    const char *path; /* of the sidecar; copied */
    bool writable;    /* false: nothing is ever written */
};

/* Opens the sidecar that goes with `meta` and the extents [n] of the same snapshot. Writes nothing.
 * *out is NULL unless the state is GOOD or MISPAIRED: no index then, answers come from the rows.
 * lost [n], if not NULL, says which extents cannot be used. Fails with MN_IO, MN_NOMEM only:
 * whatever is wrong with the file is a finding. */
mn_status sidecar_open(const struct sidecar_opts *opts, const struct sidecar_meta *meta,
                       const struct extent_ref *extents, size_t n, bool *lost,
                       struct sidecar **out, struct sidecar_finding *found, mn_error *err);
/* One more holder of the handle, who closes it too: the last close counts. */
struct sidecar *sidecar_share(struct sidecar *s);
void sidecar_close(struct sidecar *s); /* NULL is fine */

const char *sidecar_state_name(enum sidecar_state s); /* "good", "missing", ... */
const char *sidecar_path(const struct sidecar *s);
uint64_t sidecar_db_tag(const struct sidecar *s);
bool sidecar_is_writable(const struct sidecar *s);

/* False if the app.db of this snapshot refers to another sidecar than this handle: it was built
 * anew meanwhile. Close (after the last search on it) and open again. */
bool sidecar_matches(const struct sidecar *s, const struct sidecar_meta *meta);

/* The file, for io_batch: extent i lies at first_block * EXTENT_BLOCK. Borrowed. */
struct mn_file *sidecar_file(struct sidecar *s);

/* Reads one extent and checks all of it. buf: ref->n_blocks blocks, aligned to IO_ALIGN. MN_CORRUPT
 * names the extent: heal it from the rows. Allocates nothing. */
mn_status sidecar_read(struct sidecar *s, const struct extent_ref *ref, void *buf,
                       struct extent_view *view, mn_error *err);

/* Reads and checks only the header; for opening and for verify. buf: one block, or more for extents
 * with longer headers (as many as extent_header_blocks says). */
mn_status sidecar_read_header(struct sidecar *s, const struct extent_ref *ref, void *buf,
                              size_t len, struct extent_view *view, mn_error *err);

struct sidecar_stats {
    uint64_t file_blocks;
    uint64_t lost;          /* extents that a reader found unusable since open */
    bool poisoned;
    int poison_errno;
    uint64_t poison_time_us; /* since 1970 */
};
void sidecar_stats(struct sidecar *s, struct sidecar_stats *out);
void sidecar_count_lost(struct sidecar *s);

/* MN_OK, or MN_POISONED: a flush failed, nothing more is published through this handle; close and
 * open again. What was committed before is read as ever. */
mn_status sidecar_poisoned(struct sidecar *s, mn_error *err);

/* ---- For the lease's holder (storage/publish.c) ---------------------------------------------- */

/* Makes the file, with both headers and, for generation > 0, its intent; flushes file and folder. A
 * file of the same database, an unfinished creation or a damaged sidecar gives way (MN_BUSY if
 * somebody holds its lease); with `replace` anything does. Otherwise what is there is MN_EXISTS.
 * To be called in a write transaction of app.db, which then commits file_id. */
mn_status sidecar_create(const struct sidecar_opts *opts, const struct sidecar_meta *meta,
                         bool replace, struct sidecar **out, mn_error *err);

/* MN_BUSY if somebody else folds. */
mn_status sidecar_lock(struct sidecar *s, mn_error *err);
void sidecar_unlock(struct sidecar *s);

/* Blocks that the file has; grows it to `blocks`. MN_FULL changes nothing. */
mn_status sidecar_blocks(struct sidecar *s, uint64_t *out, mn_error *err);
mn_status sidecar_grow(struct sidecar *s, uint64_t blocks, mn_error *err);
mn_status sidecar_shrink(struct sidecar *s, uint64_t blocks, mn_error *err);
/* Gives the room of blocks that nothing names back to the file system; best effort. */
void sidecar_punch(struct sidecar *s, uint64_t first, uint64_t n);

/* Writes whole blocks; buf aligned to IO_ALIGN. MN_FULL, MN_IO. */
mn_status sidecar_write(struct sidecar *s, uint64_t first_block, const void *buf, size_t n_blocks,
                        mn_error *err);
mn_status sidecar_write_intent(struct sidecar *s, uint64_t generation, uint64_t nonce,
                               mn_error *err);
/* Mends a bad header copy, if one was found. */
mn_status sidecar_mend_header(struct sidecar *s, mn_error *err);
/* A failure poisons the handle. */
mn_status sidecar_flush(struct sidecar *s, mn_error *err);

#endif
