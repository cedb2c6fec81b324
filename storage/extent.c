/*
 * The format, little-endian, from the start of the extent's first block:
 *
 *     0 magic u32 | 4 header_crc u32 | 8 db_tag u64 | 16 first_block u64 | 24 generation u64
 *    32 nonce u64 | 40 collection u32 | 44 object u32 | 48 kind u16 | 50 codec u8 | 51 flags u8
 *    52 rows u32  | 56 payload_len u64 | 64 n_blocks u32 | 68 n_sections u16 | 70 zero u16
 *    72 sections [n_sections]: offset u32, len u32, kind u16, codec u16
 *     . CRC table [n_crcs] u32: one for every block that holds payload, in order
 *     . zeros up to payload_offset: a multiple of 64, with EXTENT_PAGES of 4,096
 *     . payload, then zeros up to the end of the last block
 *
 * header_crc covers bytes 8 .. payload_offset. A CRC of the table covers its block from the first
 * payload byte in it to the block's end, padding included: every byte of an extent is covered by
 * something, and the header by the catalog, which keeps header_crc.
 *
 * How many blocks there are follows from the length of the payload and of the header, and the
 * header's length from how many blocks there are: extent_layout finds the smallest pair that fits.
 * A reader computes it anew and believes no length that does not come out the same.
 */
#include "storage/extent.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "storage/base/bytes.h"
#include "storage/base/crc.h"
#include "storage/base/error.h"
#include "storage/base/mutate.h"

enum {
    MAGIC = 0x5458454d, /* "MEXT" */
    FIXED = 72,         /* bytes before the sections */
    SECTION = 12
};

static_assert((int)EXTENT_BLOCK == (int)CRC_BLOCK, "a block has one CRC");

/* ---- Layout ---------------------------------------------------------------------------------- */

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* The layout if n_crcs blocks hold payload: false if the payload needs more. */
static bool fits(uint64_t head, uint64_t align, uint64_t payload_len, uint64_t n_crcs,
                 uint64_t *offset, uint64_t *n_blocks)
{
    *offset = round_up(head + 4 * n_crcs, align);
    *n_blocks = *offset / EXTENT_BLOCK + n_crcs;
    return *offset + payload_len <= *n_blocks * EXTENT_BLOCK;
}

mn_status extent_layout(const struct extent_spec *spec, struct extent_layout *out, mn_error *err)
{
    uint64_t max = (uint64_t)EXTENT_MAX_BLOCKS * EXTENT_BLOCK, offset = 0, n_blocks = 0;
    memset(out, 0, sizeof *out);
    if (!spec->payload_len || spec->payload_len > max)
        return mn_fail(err, MN_INVALID, "extent of %" PRIu64 " bytes; it must be 1 to %" PRIu64,
                       spec->payload_len, max);
    if (!spec->kind || spec->n_sections > EXTENT_MAX_SECTIONS || (spec->flags & ~EXTENT_PAGES))
        return mn_fail(err, MN_INVALID, "extent of kind %u, flags %u, with %u sections", spec->kind,
                       spec->flags, spec->n_sections);
    if ((spec->flags & EXTENT_PAGES) && spec->n_sections)
        return mn_fail(err, MN_INVALID, "extent of pages with %u sections", spec->n_sections);
    for (unsigned i = 0; i < spec->n_sections; i++)
        if ((uint64_t)spec->sections[i].offset + spec->sections[i].len > spec->payload_len)
            return mn_fail(err, MN_INVALID, "extent: section %u ends behind its %" PRIu64 " bytes",
                           i, spec->payload_len);
    uint64_t head = FIXED + (uint64_t)SECTION * spec->n_sections;
    uint64_t align = spec->flags & EXTENT_PAGES ? EXTENT_BLOCK : EXTENT_ALIGN;
    uint64_t n_crcs = round_up(spec->payload_len, EXTENT_BLOCK) / EXTENT_BLOCK;
    while (!fits(head, align, spec->payload_len, n_crcs, &offset, &n_blocks))
        n_crcs++; /* the payload begins inside a block. If the table's own growth moves it to the
                     next block's start, the last block is left with zeros only */
    if (n_blocks > EXTENT_MAX_BLOCKS)
        return mn_fail(err, MN_INVALID, "extent of %" PRIu64 " blocks; at most %d are allowed",
                       n_blocks, EXTENT_MAX_BLOCKS);
    out->n_blocks = (uint32_t)n_blocks;
    out->payload_offset = (uint32_t)offset;
    out->first_payload_block = (uint32_t)(offset / EXTENT_BLOCK);
    out->n_crcs = (uint32_t)n_crcs;
    out->crc_offset = (uint32_t)head;
    return MN_OK;
}

/* The header of an extent with pages covers whole blocks, with a CRC for each of the others. */
static uint32_t page_header_blocks(uint32_t n_blocks)
{
    uint32_t blocks = 1;
    while (blocks < n_blocks &&
           FIXED + 4 * (uint64_t)(n_blocks - blocks) > (uint64_t)blocks * EXTENT_BLOCK)
        blocks++;
    return blocks;
}

uint32_t extent_header_blocks(const struct extent_ref *ref)
{
    uint64_t most = FIXED + SECTION * EXTENT_MAX_SECTIONS + 4 * (uint64_t)ref->n_blocks;
    uint64_t blocks = round_up(round_up(most, EXTENT_ALIGN), EXTENT_BLOCK) / EXTENT_BLOCK;
    return blocks < ref->n_blocks ? (uint32_t)blocks : ref->n_blocks;
}

uint64_t extent_page(const struct extent_ref *ref, uint32_t i)
{
    return ref->first_block + page_header_blocks(ref->n_blocks) + i;
}

uint32_t extent_n_pages(const struct extent_ref *ref)
{
    return ref->n_blocks - page_header_blocks(ref->n_blocks);
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* CRC of the i-th block with payload: its payload bytes and the zeros behind them. */
static uint32_t block_crc(const struct extent_layout *at, const uint8_t *payload,
                          uint64_t payload_len, uint32_t i)
{
    static const uint8_t zeros[EXTENT_BLOCK];
    uint64_t lead = at->payload_offset % EXTENT_BLOCK; /* header bytes in block 0 */
    uint64_t from = i ? (uint64_t)i * EXTENT_BLOCK - lead : 0;
    uint64_t room = i ? EXTENT_BLOCK : EXTENT_BLOCK - lead;
    uint64_t left = from < payload_len ? payload_len - from : 0; /* 0: see extent_layout */
    uint64_t n = left < room ? left : room;
    if (n == 0)
        from = 0;
    return crc32c(crc32c(0, payload + from, (size_t)n), zeros, (size_t)(room - n));
}

static void put_fields(const struct extent_spec *s, const struct extent_layout *at, uint8_t *h)
{
    le32_put(h, MAGIC);
    le64_put(h + 8, s->db_tag);
    le64_put(h + 16, s->first_block);
    le64_put(h + 24, s->generation);
    le64_put(h + 32, s->nonce);
    le32_put(h + 40, s->collection);
    le32_put(h + 44, s->object);
    le16_put(h + 48, s->kind);
    h[50] = s->codec;
    h[51] = s->flags;
    le32_put(h + 52, s->rows);
    le64_put(h + 56, s->payload_len);
    le32_put(h + 64, at->n_blocks);
    le16_put(h + 68, s->n_sections);
    for (unsigned i = 0; i < s->n_sections; i++) {
        uint8_t *to = h + FIXED + SECTION * i;
        le32_put(to, s->sections[i].offset);
        le32_put(to + 4, s->sections[i].len);
        le16_put(to + 8, s->sections[i].kind);
        le16_put(to + 10, s->sections[i].codec);
    }
}

void extent_header_write(const struct extent_spec *spec, const struct extent_layout *at,
                         const void *payload, uint8_t *header, uint32_t *crcs,
                         struct extent_ref *ref)
{
    memset(header, 0, at->payload_offset);
    put_fields(spec, at, header);
    for (uint32_t i = 0; i < at->n_crcs; i++) {
        uint32_t crc = block_crc(at, payload, spec->payload_len, i);
        le32_put(header + at->crc_offset + 4 * (size_t)i, crc);
        if (crcs)
            crcs[i] = crc;
    }
    uint32_t header_crc = crc32c(0, header + 8, at->payload_offset - 8);
    le32_put(header + 4, header_crc);
    *ref = (struct extent_ref){
        .first_block = spec->first_block,
        .n_blocks = at->n_blocks,
        .collection = spec->collection,
        .object = spec->object,
        .rows = spec->rows,
        .kind = spec->kind,
        .generation = spec->generation,
        .header_crc = header_crc,
    };
}

/* Copies what [from, from + len) and [at, at + n) have in common. */
static void copy_part(uint64_t from, uint8_t *to, size_t len, uint64_t at, const uint8_t *bytes,
                      uint64_t n)
{
    uint64_t first = from > at ? from : at;
    uint64_t end = from + len < at + n ? from + len : at + n;
    if (first < end)
        memcpy(to + (first - from), bytes + (first - at), (size_t)(end - first));
}

void extent_copy(const struct extent_layout *at, const uint8_t *header, const void *payload,
                 uint64_t payload_len, uint64_t from, uint8_t *to, size_t len)
{
    uint64_t end = at->payload_offset + payload_len;
    copy_part(from, to, len, 0, header, at->payload_offset);
    copy_part(from, to, len, at->payload_offset, payload, payload_len);
    if (from + len > end) {
        uint64_t first = from > end ? from : end;
        memset(to + (first - from), 0, (size_t)(from + len - first));
    }
}

/* ---- Checking -------------------------------------------------------------------------------- */

/* MN_CORRUPT, with what does not fit. */
__attribute__((format(printf, 4, 5))) static mn_status
misfit(mn_error *err, const char *path, const struct extent_ref *ref, const char *format, ...)
{
    char what[160];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return mn_fail(err, MN_CORRUPT,
                   "%s: extent at block %" PRIu64 " (collection %u, object %u, kind %u): %s", path,
                   ref->first_block, ref->collection, ref->object, ref->kind, what);
}

static void get_fields(const uint8_t *h, struct extent_spec *s)
{
    memset(s, 0, sizeof *s);
    s->db_tag = le64_get(h + 8);
    s->first_block = le64_get(h + 16);
    s->generation = le64_get(h + 24);
    s->nonce = le64_get(h + 32);
    s->collection = le32_get(h + 40);
    s->object = le32_get(h + 44);
    s->kind = le16_get(h + 48);
    s->codec = h[50];
    s->flags = h[51];
    s->rows = le32_get(h + 52);
    s->payload_len = le64_get(h + 56);
    s->n_sections = le16_get(h + 68);
    for (unsigned i = 0; i < s->n_sections && i < EXTENT_MAX_SECTIONS; i++) {
        const uint8_t *from = h + FIXED + SECTION * i;
        s->sections[i] = (struct extent_section){le32_get(from), le32_get(from + 4),
                                                 le16_get(from + 8), le16_get(from + 10)};
    }
}

/* Is this the extent that the catalog means? Its bytes are sound. */
static mn_status check_identity(const char *path, uint64_t db_tag, const struct extent_ref *ref,
                                const struct extent_view *v, uint32_t header_crc, mn_error *err)
{
    const struct extent_spec *s = &v->spec;
    if (s->db_tag != db_tag)
        return misfit(err, path, ref, "belongs to another database");
    if (s->first_block != ref->first_block && !MUTATE(EXTENT_ADDRESS))
        return misfit(err, path, ref, "was written for block %" PRIu64, s->first_block);
    if (s->collection != ref->collection || s->object != ref->object || s->kind != ref->kind)
        return misfit(err, path, ref, "belongs to collection %u, object %u, kind %u", s->collection,
                      s->object, s->kind);
    if (s->generation != ref->generation && !MUTATE(EXTENT_STALE))
        return misfit(err, path, ref, "has generation %" PRIu64 ", the catalog %" PRIu64,
                      s->generation, ref->generation);
    if (v->at.n_blocks != ref->n_blocks || s->rows != ref->rows)
        return misfit(err, path, ref, "has %u blocks and %u rows, the catalog %u and %u",
                      v->at.n_blocks, s->rows, ref->n_blocks, ref->rows);
    if (header_crc != ref->header_crc && !MUTATE(EXTENT_STALE))
        return misfit(err, path, ref, "header %08x, the catalog says %08x", header_crc,
                      ref->header_crc);
    return MN_OK;
}

mn_status extent_header_check(const char *path, uint64_t db_tag, const struct extent_ref *ref,
                              const void *bytes, size_t len, struct extent_view *view,
                              mn_error *err)
{
    const uint8_t *h = bytes;
    memset(view, 0, sizeof *view);
    if (len < EXTENT_BLOCK)
        return mn_fail(err, MN_INVALID, "%s: a header needs a block; %zu bytes are here", path,
                       len);
    if (le32_get(h) != MAGIC)
        return misfit(err, path, ref, "no extent begins here");
    get_fields(h, &view->spec);
    mn_error ignored = {0};
    if (le32_get(h + 64) != ref->n_blocks || extent_layout(&view->spec, &view->at, &ignored))
        return misfit(err, path, ref, "the header's lengths make no sense");
    if (view->at.payload_offset > len) {
        if (view->at.n_blocks == ref->n_blocks)
            return mn_fail(err, MN_INVALID, "%s: the header at block %" PRIu64 " has %u bytes",
                           path, ref->first_block, view->at.payload_offset);
        return misfit(err, path, ref, "the header's lengths make no sense");
    }
    uint32_t crc = crc32c(0, h + 8, view->at.payload_offset - 8);
    if (crc != le32_get(h + 4) && !MUTATE(EXTENT_HEADER_CRC))
        return misfit(err, path, ref, "header %08x, its sum says %08x", crc, le32_get(h + 4));
    view->crc_table = h + view->at.crc_offset;
    return check_identity(path, db_tag, ref, view, le32_get(h + 4), err);
}

/* The i-th block with payload; `block` points to its first byte, header bytes included. */
static bool block_fits(const struct extent_view *v, uint32_t i, const uint8_t *block)
{
    size_t lead = i ? 0 : v->at.payload_offset % EXTENT_BLOCK;
    if (MUTATE(EXTENT_BLOCK_CRC))
        return true;
    return crc32c(0, block + lead, EXTENT_BLOCK - lead) == le32_get(v->crc_table + 4 * (size_t)i);
}

mn_status extent_block_check(const char *path, const struct extent_view *view, uint32_t i,
                             const void *block, mn_error *err)
{
    const struct extent_spec *s = &view->spec;
    assert(i < view->at.n_crcs);
    if (block_fits(view, i, block))
        return MN_OK;
    const struct extent_ref ref = {.first_block = s->first_block,
                                   .collection = s->collection,
                                   .object = s->object,
                                   .kind = s->kind};
    return misfit(err, path, &ref, "block %u of it is damaged", view->at.first_payload_block + i);
}

mn_status extent_check(const char *path, uint64_t db_tag, const struct extent_ref *ref,
                       const void *bytes, struct extent_view *view, mn_error *err)
{
    const uint8_t *b = bytes;
    size_t len = (size_t)ref->n_blocks * EXTENT_BLOCK;
    mn_status st = extent_header_check(path, db_tag, ref, bytes, len, view, err);
    if (st == MN_INVALID) /* a header as long as the extent: no such thing */
        return misfit(err, path, ref, "the header's lengths make no sense");
    for (uint32_t i = 0; i < view->at.n_crcs && st == MN_OK; i++)
        st = extent_block_check(path, view, i,
                                b + (size_t)(view->at.first_payload_block + i) * EXTENT_BLOCK, err);
    if (st == MN_OK)
        view->payload = b + view->at.payload_offset;
    return st;
}

mn_status extent_check_apart(const char *path, uint64_t db_tag, const struct extent_ref *ref,
                             const void *head, const void *pages, struct extent_view *view,
                             mn_error *err)
{
    const uint8_t *page = pages;
    uint32_t n_pages = extent_n_pages(ref);
    size_t len = (size_t)(ref->n_blocks - n_pages) * EXTENT_BLOCK;
    mn_status st = extent_header_check(path, db_tag, ref, head, len, view, err);
    if (st == MN_INVALID || (st == MN_OK && view->at.payload_offset != len))
        return misfit(err, path, ref, "the header's lengths make no sense");
    for (uint32_t i = 0; i < view->at.n_crcs && st == MN_OK; i++)
        st = extent_block_check(path, view, i, page + (size_t)i * EXTENT_BLOCK, err);
    if (st == MN_OK)
        view->payload = pages;
    return st;
}

mn_status extent_page_check(const char *path, uint64_t block, uint32_t crc, const void *page,
                            mn_error *err)
{
    uint32_t have = crc32c(0, page, EXTENT_BLOCK);
    if (have == crc || MUTATE(EXTENT_BLOCK_CRC))
        return MN_OK;
    return mn_fail(err, MN_CORRUPT, "%s: page at block %" PRIu64 ": sum %08x, its owner says %08x",
                   path, block, have, crc);
}
