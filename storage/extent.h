/* Extents: contiguous blocks of the sidecar with a header that says what they are and where, whose
 * they are, and a CRC of every block. Bytes only: knows no file, no SQLite, no vectors. The format
 * stands in extent.c. Thread-safe: no state.
 *
 * An extent is believed only if all of this holds: magic, CRC of the header, its own address, the
 * database, owner, generation, length, and the header's CRC as the catalog has it; and then only
 * those blocks whose CRC fits. So a flip, a tear, a stale, foreign or misdirected block, and a
 * write that never happened are all found.
 *
 * Two shapes. A packed extent has its payload right behind the header, aligned to 64 bytes: one
 * read gives both. An extent with EXTENT_PAGES has its payload on blocks of its own: each is a
 * page that can be read alone, and be checked by a CRC that somebody else keeps (or by the
 * header's table). */
#ifndef MN_STORAGE_EXTENT_H
#define MN_STORAGE_EXTENT_H

#include "mneme.h"

enum {
    EXTENT_BLOCK = 4096,
    EXTENT_ALIGN = 64,            /* of a payload within its extent */
    EXTENT_MAX_BLOCKS = 1 << 18,  /* 1 GiB, header included */
    EXTENT_MAX_SECTIONS = 16
};

enum { EXTENT_PAGES = 1 }; /* flags */

/* A part of a packed payload by what it is; kind and codec are the owner's. */
struct extent_section {
    uint32_t offset, len; /* bytes in the payload */
    uint16_t kind, codec;
};

/* What an extent is; all of it stands in the header. */
struct extent_spec {
    uint64_t db_tag;       /* first 8 bytes of the database's id */
    uint64_t first_block;  /* its own address */
    uint64_t generation;   /* of the publish that makes it visible */
    uint64_t nonce;        /* of that publish: tells two histories apart */
    uint32_t collection, object; /* its owner: which collection; which posting, table, ... */
    uint32_t rows;         /* for the owner and for statistics */
    uint16_t kind;         /* what the payload is; the owner's numbers, not 0 */
    uint8_t codec;         /* how it is packed; the owner's */
    uint8_t flags;         /* EXTENT_... */
    uint16_t n_sections;
    struct extent_section sections[EXTENT_MAX_SECTIONS];
    uint64_t payload_len;  /* bytes, at least 1 */
};

/* What the catalog knows of an extent: enough to read and to believe it. */
struct extent_ref {
    uint64_t first_block;
    uint32_t n_blocks;
    uint32_t collection, object;
    uint32_t rows;
    uint16_t kind;
    uint64_t generation;
    uint32_t header_crc;
};

/* Sizes that follow from kind of shape, number of sections and payload. */
struct extent_layout {
    uint32_t n_blocks;       /* of the whole extent */
    uint32_t payload_offset; /* bytes; a multiple of EXTENT_ALIGN, with EXTENT_PAGES of a block */
    uint32_t first_payload_block; /* of the extent: the one that payload_offset lies in */
    uint32_t n_crcs;         /* blocks that hold payload */
    uint32_t crc_offset;     /* bytes; of the CRC table in the header */
};

/* Fails with MN_INVALID if the payload is empty or too long, kind is 0, or a section lies outside.
 * */
mn_status extent_layout(const struct extent_spec *spec, struct extent_layout *out, mn_error *err);

/* Writes the header (layout's payload_offset bytes, padding and CRC table included) for this
 * payload to `header` and fills *ref. `crcs`, if not NULL, takes [n_crcs] CRCs of the blocks with
 * payload: with EXTENT_PAGES those of the pages. */
void extent_header_write(const struct extent_spec *spec, const struct extent_layout *at,
                         const void *payload, uint8_t *header, uint32_t *crcs,
                         struct extent_ref *ref);

/* Bytes [from, from + len) of the extent that header and payload make, zeros behind the payload. */
void extent_copy(const struct extent_layout *at, const uint8_t *header, const void *payload,
                 uint64_t payload_len, uint64_t from, uint8_t *to, size_t len);

/* Blocks that hold the whole header, whatever its shape: for reading it alone. */
uint32_t extent_header_blocks(const struct extent_ref *ref);

/* Where the i-th page of an extent with EXTENT_PAGES lies: a block of the file. */
uint64_t extent_page(const struct extent_ref *ref, uint32_t i);
uint32_t extent_n_pages(const struct extent_ref *ref);

/* A checked extent. Pointers lead into the bytes that were checked. */
struct extent_view {
    struct extent_spec spec;
    struct extent_layout at;
    const uint8_t *crc_table; /* [at.n_crcs] le32 */
    const uint8_t *payload;   /* [spec.payload_len]; NULL after extent_header_check */
};

/* Checks the header at the start of `bytes` against itself, the database and the catalog's row.
 * `len` bytes are there: at least one block; more if the header is longer than that (MN_INVALID
 * then names the bytes needed in view->at.payload_offset). MN_CORRUPT names `path`, extent and
 * what does not fit. */
mn_status extent_header_check(const char *path, uint64_t db_tag, const struct extent_ref *ref,
                              const void *bytes, size_t len, struct extent_view *view,
                              mn_error *err);

/* Checks the whole extent: ref->n_blocks blocks. MN_CORRUPT names the block. */
mn_status extent_check(const char *path, uint64_t db_tag, const struct extent_ref *ref,
                       const void *bytes, struct extent_view *view, mn_error *err);

/* The same for an extent with pages of which header and pages lie apart: `head` has as many blocks
 * as extent_n_pages() leaves, `pages` the others. */
mn_status extent_check_apart(const char *path, uint64_t db_tag, const struct extent_ref *ref,
                             const void *head, const void *pages, struct extent_view *view,
                             mn_error *err);

/* Checks one block (EXTENT_BLOCK bytes; the i-th of those with payload, i < at.n_crcs) against the
 * table of a header that was checked; in a packed extent block 0 begins with header bytes, which
 * are left out. */
mn_status extent_block_check(const char *path, const struct extent_view *view, uint32_t i,
                             const void *block, mn_error *err);

/* The same for a page whose CRC the caller keeps. `block`: its place in the file, for the message.
 * */
mn_status extent_page_check(const char *path, uint64_t block, uint32_t crc, const void *page,
                            mn_error *err);

#endif
