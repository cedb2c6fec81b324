/* The hybrid index of one collection in memory: centroids, the codes of all rows in their postings,
 * and, as far as the memory cap goes, the vectors themselves. Immutable once others can see it;
 * versions share what did not change. The structures and their invariants stand in ivf.c; how they
 * are kept in the sidecar, in ivf_store.c. */
#ifndef MN_ENGINE_IVF_H
#define MN_ENGINE_IVF_H

#include "index/ann.h"
#include "index/calibrate.h"
#include "src/engine/engine.h"
#include "storage/extent.h"

enum {
    IVF_BITS = 4,        /* of a row's code, the sign included; fewer where memory is short */
    HEAP_PAGE = EXTENT_BLOCK,
    HEAP_BLOCK_PAGES = 256 /* 1 MiB */
};

/* What the versions of an index share: how vectors become codes, and where the centroids are. The
 * centroids as they are, which parts are coded against, are in the sidecar alone: only folds need
 * them. */
struct ivf_core {
    _Atomic unsigned refs;
    struct catalog_entry entry;
    size_t vector_bytes;
    struct rabitq *rabitq;
    struct centroids *centroids;
    float *origin;  /* [dim] */
    uint32_t n_lists;
    uint64_t seed;
    uint64_t built_rows;   /* that the centroids were made from */
    struct extent_ref ref; /* zeros: not saved yet. Written by the folder only */
    _Atomic bool lost;     /* relaxed; its extent is: the next fold builds anew */
    struct columns *columns; /* set in create; dictionaries of attributes: columns.h */
};

struct pack_column;
struct version_column;

struct ivf_core_spec {
    const struct catalog_entry *entry;
    const float *centroids; /* [n_lists][dim], made into codes */
    const float *origin;    /* [dim], copied */
    uint32_t n_lists;
    uint64_t seed;
    uint64_t built_rows;
    uint32_t bits;          /* 1 .. IVF_BITS */
    const struct centroids *before; /* of the core before this one, with its origin and seed; or
                                       NULL */
};

/* A part of a posting: rows of one centroid coded at one time. Lies in a pack's bytes. */
struct ivf_part {
    uint32_t posting;
    struct posting_view view;
    const uint8_t *slots; /* [view.n] le32: places of the rows' vectors in the heap; NULL: they
                             follow each other from first_slot on */
    uint32_t first_slot;
};

/* Where a part lies in its extent. */
struct ivf_span {
    uint32_t offset; /* bytes from the extent's start */
    uint32_t len;    /* of the codes; */
    uint32_t all;    /* with the slots that are listed behind them */
};

/* A part whose pack is away (ivf_away.h). */
struct ivf_away {
    struct ivf_span at;
    uint32_t crc;             /* of its bytes */
    _Atomic(uint8_t *) here;  /* they, kept for searches; NULL: they are not. Set once; release,
                                 acquire */
    _Atomic uint32_t reads;   /* relaxed; by searches, while they were not */
};

/* A payload, and the memory that it lies in: loaded, behind its extent's header. */
struct ivf_bytes {
    void *memory; /* from mn_alloc; NULL: away */
    uint8_t *payload;
    size_t len;
};

/* Parts made by one fold, as one extent of the sidecar and in memory. */
struct ivf_pack {
    _Atomic unsigned refs;
    uint32_t object;       /* number of its extent */
    struct extent_ref ref; /* zeros: not saved yet. Written by the folder only */
    _Atomic bool lost;     /* relaxed; its extent is: the next fold writes it again */
    uint32_t n_parts;
    struct ivf_part *parts; /* [n_parts]; away: without pointers */
    struct ivf_bytes bytes; /* the extent's payload */
    _Atomic(struct pack_column *) columns; /* release, acquire; only grows: columns.h */
    struct ivf_away *away;  /* [n_parts]; NULL: it is in memory */
    _Atomic bool gone;      /* relaxed; away, and it cannot be read */
};

/* Vectors of consecutive slots, as they stand in one extent of the sidecar. */
struct heap_block {
    _Atomic unsigned refs;
    struct extent_ref ref; /* as ivf_pack.ref */
    uint32_t n;            /* slots used */
    size_t vector_bytes;
    /* [HEAP_BLOCK_PAGES] pages; NULL: not in memory. Set once by whoever reads them in; release,
     * with acquire by searches. */
    _Atomic(char *) pages;
    /* [HEAP_BLOCK_PAGES] of the pages as they stand in the sidecar; NULL: the header was not read
     * yet. Set once, by compare-and-swap; release, acquire. */
    _Atomic(uint32_t *) crcs;
    _Atomic bool lost; /* relaxed; a page could not be read: the next fold heals it */
};

/* Rows of a part that do not exist any more, or not so. */
struct ivf_bitmap {
    _Atomic unsigned refs;
    uint32_t n; /* bits set */
    uint64_t words[];
};

/* One part as a version of the index sees it. */
struct ivf_use {
    struct ivf_pack *pack;
    uint32_t index;            /* in the pack */
    struct ivf_bitmap *hidden; /* NULL: none */
};

struct ivf {
    _Atomic unsigned refs;
    struct ivf_core *core;
    struct ann_tuning tuning;
    struct log_position at; /* it holds the rows of this position of the change log */
    uint64_t generation;    /* of the newest publish that is in it */
    struct log_position published; /* position of that publish; before `at` if it is ahead */
    uint64_t ahead;         /* changes folded since, which the sidecar does not have */
    uint64_t drift;         /* rows that came or went to another posting since it was calibrated */
    struct extent_ref directory; /* zeros: not saved. Written by the folder, before it is shared */
    _Atomic bool directory_lost; /* relaxed; the next fold writes another */
    struct extent_ref *lost;     /* [n_lost] packs that the sidecar has lost: their rows are */
    uint32_t n_lost;             /* missing ... */
    bool refilled;               /* ... until a fold in memory has put them into others */
    uint64_t rows;          /* live ones */
    int64_t max_id;         /* no row of it has a greater id */
    struct ivf_use *uses;   /* [n_uses] by posting; within one, the part of most rows first */
    uint32_t n_uses;
    struct heap_block **heap; /* [n_heap] */
    uint32_t n_heap, n_slots; /* n_slots: the next slot to be given out */
    uint32_t n_away;          /* uses whose packs are away, */
    uint32_t away_most;       /* blocks of the file that the largest of them takes, */
    _Atomic bool broken;      /* relaxed; a pack that is away cannot be read: load it anew */
    struct ann_part *ann_parts;    /* [n_uses] */
    struct ann_posting *postings;  /* [n_lists], into ann_parts */
    uint32_t *first;               /* [n_lists + 1] into uses */
    struct ann_index *ann;
    bool unread;                   /* some parts' bytes, ids among them, are not in memory */
    _Atomic(struct version_column *) columns; /* release, acquire; only grows: columns.h */
};

/* Memory: MN_TAG_CACHE. Fails with MN_NOMEM under the cap, and what index/ finds wrong. */
mn_status ivf_core_create(mn_db *db, const struct ivf_core_spec *spec, struct ivf_core **out,
                          mn_error *err);
void ivf_core_release(mn_db *db, struct ivf_core *c); /* NULL is fine */

/* f32 vectors as the index sees them: widened, of length 1 under cosine. False: no direction. */
bool ivf_widen(const struct ivf_core *c, const struct kernels *kn, const void *vector, float *out);

/* A distance as the key that index/ann.h orders by, and back. */
double ivf_key(mn_metric metric, double distance);
double ivf_distance(mn_dtype dtype, mn_metric metric, double key);

/* Takes the memory over and checks all of the payload: MN_CORRUPT says what is wrong. */
mn_status ivf_pack_open(mn_db *db, const struct ivf_core *core, uint32_t object,
                        const struct ivf_bytes *bytes, struct ivf_pack **out, mn_error *err);
struct ivf_pack *ivf_pack_share(struct ivf_pack *p);
void ivf_pack_release(mn_db *db, struct ivf_pack *p);

/* pages NULL: the vectors stay in the sidecar. Otherwise from mn_alloc, taken over. */
struct heap_block *heap_block_create(mn_db *db, size_t vector_bytes, uint32_t n, char *pages);
struct heap_block *heap_block_share(struct heap_block *b);
void heap_block_release(mn_db *db, struct heap_block *b);
uint32_t heap_block_rows(size_t vector_bytes);         /* slots of a block */
size_t heap_offset(size_t vector_bytes, uint32_t row); /* of a slot within its block; bytes */
size_t heap_pages(size_t vector_bytes, uint32_t rows); /* pages that so many slots take */

/* Arrays from mn_alloc_array(MN_TAG_CACHE); everything in it is taken over by ivf_create, also when
 * that fails. */
struct ivf_draft {
    struct ivf_core *core;
    struct ann_tuning tuning;
    struct log_position at;
    struct ivf_use *uses;
    uint32_t n_uses;
    struct heap_block **heap;
    uint32_t n_heap, n_slots;
    uint64_t generation;
    struct log_position published;
    uint64_t ahead, drift;
    struct extent_ref *lost; /* as ivf.lost */
    uint32_t n_lost;
    bool refilled;
};
mn_status ivf_create(mn_db *db, struct ivf_draft *d, struct ivf **out, mn_error *err);
void ivf_draft_fini(mn_db *db, struct ivf_draft *d); /* zeroed is fine */
void ivf_use_drop(mn_db *db, struct ivf_use *u);     /* zeroes it; zeroed is fine */
struct ivf *ivf_share(struct ivf *x);
void ivf_release(mn_db *db, struct ivf *x); /* NULL is fine */
struct ivf_core *ivf_core_share(struct ivf_core *c);

/* Whether a row of a use is hidden. */
static inline bool ivf_hides(const struct ivf_use *u, uint32_t row)
{
    return u->hidden && (u->hidden->words[row / 64] >> (row % 64) & 1);
}

uint64_t ivf_bytes(const struct ivf *x); /* of codes, centroids and vectors in memory */
double ivf_codes_here(const struct ivf *x); /* share of the rows whose codes are in memory */

/* Some pack that is away could not be read: nobody searches it any more. */
static inline void ivf_break(struct ivf *x)
{
    atomic_store_explicit(&x->broken, true, memory_order_relaxed);
}
static inline bool ivf_is_broken(const struct ivf *x)
{
    return atomic_load_explicit(&x->broken, memory_order_relaxed);
}

/* Vector of a row found by ann_search; NULL if it is not in memory. */
const void *ivf_vector(const struct ivf *x, uint32_t posting, uint32_t part, uint32_t slot);

/* Whether all vectors are in memory now. */
bool ivf_warm(const struct ivf *x);

/* Sets the pages' CRCs, if nobody has; a copy is made. False when memory runs out. */
bool heap_block_set_crcs(mn_db *db, struct heap_block *b, const uint32_t *crcs, size_t n);

/* The block and the row in it; NULL if the place is none. `slot` as in struct ann_candidate: of a
 * part that is away and lists its slots, the slot itself. */
struct heap_block *ivf_heap_place(const struct ivf *x, uint32_t posting, uint32_t part,
                                        uint32_t slot, uint32_t *row);

/* Hides the rows with the listed ids (ascending) in the uses; for a draft. *hid counts them. The
 * sink reads packs that are away. */
struct ivf_sink;
mn_status ivf_hide(mn_db *db, struct ivf_draft *d, const struct ivf_sink *sink, const int64_t *ids,
                   size_t n, uint64_t *hid, mn_error *err);
/* Hides one row of a draft's use. False when memory runs out. */
bool ivf_use_hide(mn_db *db, struct ivf_use *u, uint32_t row);
static inline size_t ivf_bitmap_words(uint32_t rows)
{
    return ((size_t)rows + 63) / 64;
}
struct ivf_bitmap *ivf_bitmap_create(mn_db *db, uint32_t rows, const struct ivf_bitmap *from);

/* Place of a row's vector in the heap. */
uint32_t ivf_slot(const struct ivf_part *p, uint32_t row);

static inline const struct ivf_part *ivf_use_part(const struct ivf_use *u)
{
    return &u->pack->parts[u->index];
}

/* Where a part lies; of a pack in memory, its offset is in the payload. */
struct ivf_span ivf_pack_span(const struct ivf_pack *p, uint32_t index);

static inline bool ivf_part_is_here(const struct ivf_pack *p, uint32_t index)
{
    return !p->away || atomic_load_explicit(&p->away[index].here, memory_order_relaxed);
}

/* First block of the file, and how many, that a part of an away pack lies in. */
static inline uint64_t ivf_part_block(const struct ivf_pack *p, uint32_t index)
{
    return p->ref.first_block + p->away[index].at.offset / EXTENT_BLOCK;
}
static inline uint32_t ivf_part_blocks(const struct ivf_pack *p, uint32_t index)
{
    const struct ivf_span *at = &p->away[index].at;
    return (at->offset % EXTENT_BLOCK + at->all + EXTENT_BLOCK - 1) / EXTENT_BLOCK;
}

/* Memory for a pack whose bytes, or the extent that they lie in, are so many; aligned to IO_ALIGN.
 * What fills a huge page but for a 64th gets one. */
void *ivf_pack_memory(mn_db *db, size_t bytes);

/* Payload of a pack whose extent, read whole, fills a huge page: 510 blocks less the header. */
enum { PACK_MAX_BYTES = 510 * EXTENT_BLOCK - 2176 };

static inline uint32_t ivf_use_live(const struct ivf_use *u)
{
    return ivf_use_part(u)->view.n - (u->hidden ? u->hidden->n : 0);
}

/* Writing a pack's bytes: parts are added one by one. */
struct pack_writer {
    mn_db *db;
    uint8_t *bytes; /* NULL before the first part */
    size_t len, cap;
    struct {
        uint32_t posting, offset, len, rows, first_slot;
    } *entries;
    uint32_t n, entries_cap;
};
/* Adds what the encoder holds as a part of the posting; slots [rows], NULL without a heap. */
mn_status pack_add(struct pack_writer *w, uint32_t posting, const struct posting_encoder *e,
                   const uint32_t *slots, mn_error *err);
/* Bytes of the payload with what the encoder holds as one more part, at most. */
size_t pack_bytes_with(const struct pack_writer *w, const struct posting_encoder *e);
/* The finished payload, for ivf_pack_open; the writer is empty again. */
mn_status pack_finish(struct pack_writer *w, struct ivf_bytes *out, mn_error *err);
void pack_writer_fini(struct pack_writer *w);

#endif
