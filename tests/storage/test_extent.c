/* Extents: what is written comes back, and whatever is not exactly that is refused by name. */
#include "tests/test.h"

#include "storage/base/bytes.h"
#include "storage/base/crc.h"
#include "storage/base/error.h"
#include "storage/extent.h"

enum { TAG = 0x1122334455667788, ROOM = 40 * EXTENT_BLOCK };

static uint8_t payload[ROOM], extent[ROOM], header[ROOM], copy[ROOM];

static void fill(uint64_t seed)
{
    struct test_rng r = {seed};
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)test_rand(&r);
}

static struct extent_spec make_spec(uint64_t payload_len)
{
    return (struct extent_spec){
        .db_tag = TAG,
        .first_block = 77,
        .generation = 5,
        .nonce = 0xfeedfeedfeed,
        .collection = 3,
        .object = 14,
        .rows = 1000,
        .kind = 2,
        .codec = 1,
        .payload_len = payload_len,
    };
}

/* Writes spec's extent to `extent`. */
static void write_extent(const struct extent_spec *s, struct extent_layout *at, uint32_t *crcs,
                         struct extent_ref *ref)
{
    mn_error err = {0};
    CHECK_OK(extent_layout(s, at, &err), err);
    CHECK((size_t)at->n_blocks * EXTENT_BLOCK <= ROOM);
    extent_header_write(s, at, payload, header, crcs, ref);
    extent_copy(at, header, payload, s->payload_len, 0, extent,
                (size_t)at->n_blocks * EXTENT_BLOCK);
}

static mn_status check(const struct extent_ref *ref, mn_error *err)
{
    struct extent_view v;
    mn_error_clear(err);
    return extent_check("x-mneme", TAG, ref, extent, &v, err);
}

TEST(what_is_written_comes_back)
{
    static const uint64_t lens[] = {1,    63,   64,   3900,  3968,  3969,  4000,  4020,
                                    4032, 4096, 8000, 12288, 65536, 65537, 100000};
    fill(1);
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++)
        for (unsigned pages = 0; pages < 2; pages++)
            for (uint16_t sections = 0; sections <= (pages ? 0 : 3); sections++) {
                struct extent_spec s = make_spec(lens[i]);
                struct extent_layout at;
                struct extent_ref ref;
                struct extent_view v;
                mn_error err = {0};
                s.flags = (uint8_t)(pages ? EXTENT_PAGES : 0);
                s.n_sections = sections;
                for (uint16_t j = 0; j < sections; j++)
                    s.sections[j] = (struct extent_section){0, 1, j, 9};
                write_extent(&s, &at, NULL, &ref);
                CHECK(at.payload_offset % (pages ? EXTENT_BLOCK : EXTENT_ALIGN) == 0);
                CHECK(at.n_blocks * (uint64_t)EXTENT_BLOCK >= at.payload_offset + lens[i]);
                CHECK(at.n_blocks * (uint64_t)EXTENT_BLOCK < at.payload_offset + lens[i] + 8192);
                CHECK_OK(extent_check("x", TAG, &ref, extent, &v, &err), err);
                CHECK(memcmp(v.payload, payload, lens[i]) == 0);
                CHECK(memcmp(&v.spec, &s, sizeof s) == 0);
                CHECK(v.payload == extent + at.payload_offset);
                CHECK_EQ(ref.first_block, 77);
                CHECK_EQ(ref.n_blocks, at.n_blocks);
            }
}

TEST(every_length_has_a_layout_that_fits)
{
    mn_error err = {0};
    for (uint64_t len = 1; len < 9 * 1024 * 1024; len += 1 + len / 400) {
        struct extent_spec s = make_spec(len);
        struct extent_layout at;
        for (unsigned pages = 0; pages < 2; pages++) {
            s.flags = (uint8_t)pages;
            CHECK_OK(extent_layout(&s, &at, &err), err);
            CHECK(at.crc_offset + 4 * at.n_crcs <= at.payload_offset);
            CHECK(at.payload_offset + len <= (uint64_t)at.n_blocks * EXTENT_BLOCK);
            CHECK_EQ(at.first_payload_block + at.n_crcs, at.n_blocks);
            struct extent_ref ref = {.first_block = 10, .n_blocks = at.n_blocks};
            CHECK(extent_header_blocks(&ref) * EXTENT_BLOCK >= at.payload_offset ||
                  extent_header_blocks(&ref) == at.n_blocks);
            if (pages) {
                CHECK_EQ(extent_n_pages(&ref), at.n_crcs);
                CHECK_EQ(extent_page(&ref, 0), 10 + at.first_payload_block);
                CHECK_EQ(extent_page(&ref, 2), 12 + at.first_payload_block);
            }
        }
    }
}

TEST(nonsense_is_refused)
{
    struct extent_layout at;
    mn_error err = {0};
    struct extent_spec s = make_spec(0);
    CHECK_EQ(extent_layout(&s, &at, &err), MN_INVALID);
    CHECK_HAS(err.message, "0 bytes");
    s = make_spec((uint64_t)EXTENT_MAX_BLOCKS * EXTENT_BLOCK);
    mn_error_clear(&err);
    CHECK_EQ(extent_layout(&s, &at, &err), MN_INVALID);
    s = make_spec(UINT64_MAX);
    CHECK_EQ(extent_layout(&s, &at, &err), MN_INVALID);
    s = make_spec(10);
    s.kind = 0;
    CHECK_EQ(extent_layout(&s, &at, &err), MN_INVALID);
    s = make_spec(10);
    s.n_sections = EXTENT_MAX_SECTIONS + 1;
    CHECK_EQ(extent_layout(&s, &at, &err), MN_INVALID);
    s = make_spec(10);
    s.n_sections = 1;
    s.sections[0] = (struct extent_section){5, 6, 0, 0};
    mn_error_clear(&err);
    CHECK_EQ(extent_layout(&s, &at, &err), MN_INVALID);
    CHECK_HAS(err.message, "section 0");
    s.sections[0] = (struct extent_section){UINT32_MAX, UINT32_MAX, 0, 0};
    CHECK_EQ(extent_layout(&s, &at, &err), MN_INVALID);
}

TEST(an_extent_can_be_copied_out_in_parts)
{
    fill(2);
    struct extent_spec s = make_spec(30000);
    struct extent_layout at;
    struct extent_ref ref;
    write_extent(&s, &at, NULL, &ref);
    size_t total = (size_t)at.n_blocks * EXTENT_BLOCK;
    for (size_t step = 1000; step < total; step += 5555) {
        memset(copy, 0xee, total);
        for (size_t from = 0; from < total; from += step)
            extent_copy(&at, header, payload, s.payload_len, from, copy + from,
                        step < total - from ? step : total - from);
        CHECKF(memcmp(copy, extent, total) == 0, "step %zu", step);
    }
}

TEST(every_flipped_bit_is_found)
{
    fill(3);
    for (unsigned pages = 0; pages < 2; pages++) {
        struct extent_spec s = make_spec(9000);
        struct extent_layout at;
        struct extent_ref ref;
        mn_error err = {0};
        s.flags = (uint8_t)pages;
        write_extent(&s, &at, NULL, &ref);
        size_t total = (size_t)at.n_blocks * EXTENT_BLOCK;
        for (size_t byte = 0; byte < total; byte++) {
            extent[byte] ^= (uint8_t)(1 << byte % 8);
            CHECKF(check(&ref, &err) == MN_CORRUPT, "byte %zu", byte);
            CHECK_HAS(err.message, "x-mneme: extent at block 77 (collection 3, object 14, kind 2)");
            extent[byte] ^= (uint8_t)(1 << byte % 8);
        }
        CHECK_OK(check(&ref, &err), err);
    }
}

TEST(lengths_that_lie_are_found_even_with_a_right_sum)
{
    fill(4);
    struct extent_spec s = make_spec(9000);
    struct extent_layout at;
    struct extent_ref ref;
    mn_error err = {0};
    write_extent(&s, &at, NULL, &ref);
    static const struct {
        size_t at, len;
        uint64_t value;
    } lies[] = {
        {56, 8, UINT64_MAX}, {56, 8, 1 << 20}, {56, 8, 0},      {56, 8, 9001 + 8192},
        {64, 4, UINT32_MAX}, {64, 4, 0},       {68, 2, 0xffff}, {68, 2, 16},
        {51, 1, 0xff},       {48, 2, 0},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        memcpy(copy, extent, ROOM);
        uint8_t bytes[8];
        le64_put(bytes, lies[i].value);
        memcpy(extent + lies[i].at, bytes, lies[i].len);
        le32_put(extent + 4, crc32c(0, extent + 8, at.payload_offset - 8));
        struct extent_ref forged = ref;
        forged.header_crc = le32_get(extent + 4);
        CHECKF(check(&forged, &err) == MN_CORRUPT, "lie %zu", i);
        memcpy(extent, copy, ROOM);
    }
}

TEST(another_extent_is_no_substitute)
{
    static const struct {
        const char *name, *says;
        size_t offset;
    } cases[] = {
        {"database", "another database", offsetof(struct extent_spec, db_tag)},
        {"address", "was written for block 78", offsetof(struct extent_spec, first_block)},
        {"generation", "has generation 6, the catalog 5", offsetof(struct extent_spec, generation)},
        {"nonce", "the catalog says", offsetof(struct extent_spec, nonce)},
        {"collection", "belongs to collection 4", offsetof(struct extent_spec, collection)},
        {"object", "object 15", offsetof(struct extent_spec, object)},
        {"rows", "1001 rows", offsetof(struct extent_spec, rows)},
        {"kind", "kind 3", offsetof(struct extent_spec, kind)},
        {"codec", "the catalog says", offsetof(struct extent_spec, codec)},
    };
    fill(5);
    struct extent_spec want = make_spec(5000);
    struct extent_layout at;
    struct extent_ref ref, other;
    mn_error err = {0};
    write_extent(&want, &at, NULL, &ref);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct extent_spec s = want;
        ((uint8_t *)&s)[cases[i].offset]++; /* little-endian: adds one */
        write_extent(&s, &at, NULL, &other);
        CHECKF(check(&ref, &err) == MN_CORRUPT, "%s", cases[i].name);
        CHECK_HAS(err.message, cases[i].says);
    }
    /* The same extent with another payload: a lost write. */
    fill(6);
    write_extent(&want, &at, NULL, &other);
    CHECK_EQ(check(&ref, &err), MN_CORRUPT);
    CHECK_HAS(err.message, "the catalog says");
}

TEST(blocks_are_checked_one_by_one)
{
    fill(7);
    for (unsigned pages = 0; pages < 2; pages++) {
        struct extent_spec s = make_spec(20000);
        struct extent_layout at;
        struct extent_ref ref;
        struct extent_view v;
        mn_error err = {0};
        uint32_t crcs[8];
        s.flags = (uint8_t)pages;
        write_extent(&s, &at, crcs, &ref);
        CHECK(at.n_crcs <= 8);
        memcpy(header, extent, EXTENT_BLOCK);
        CHECK_OK(extent_header_check("x", TAG, &ref, header, EXTENT_BLOCK, &v, &err), err);
        CHECK(v.payload == NULL);
        for (uint32_t i = 0; i < at.n_crcs; i++) {
            uint8_t *block = extent + (size_t)(at.first_payload_block + i) * EXTENT_BLOCK;
            CHECK_OK(extent_block_check("x", &v, i, block, &err), err);
            CHECK_EQ(crcs[i], le32_get(v.crc_table + 4 * i));
            if (pages)
                CHECK_OK(extent_page_check("x", 80, crcs[i], block, &err), err);
            block[EXTENT_BLOCK - 1] ^= 4;
            CHECK_EQ(extent_block_check("x", &v, i, block, &err), MN_CORRUPT);
            mn_error_clear(&err);
            if (pages) {
                CHECK_EQ(extent_page_check("x", 80, crcs[i], block, &err), MN_CORRUPT);
                CHECK_HAS(err.message, "page at block 80");
                mn_error_clear(&err);
            }
        }
        CHECK_EQ(extent_block_check("x", &v, 0, extent + 2 * EXTENT_BLOCK, &err), MN_CORRUPT);
    }
}

TEST(a_long_header_asks_for_more_bytes)
{
    enum { PAGES = 1100 };
    struct extent_spec s = make_spec((uint64_t)PAGES * EXTENT_BLOCK);
    struct extent_layout at;
    struct extent_ref ref;
    struct extent_view v;
    mn_error err = {0};
    uint8_t *big = calloc(PAGES, EXTENT_BLOCK);
    s.flags = EXTENT_PAGES;
    CHECK_OK(extent_layout(&s, &at, &err), err);
    CHECK_EQ(at.payload_offset, 2 * EXTENT_BLOCK);
    extent_header_write(&s, &at, big, header, NULL, &ref);
    CHECK_EQ(extent_header_check("x", TAG, &ref, header, EXTENT_BLOCK, &v, &err), MN_INVALID);
    CHECK_EQ(v.at.payload_offset, 2 * EXTENT_BLOCK);
    CHECK_EQ(extent_header_blocks(&ref), 2);
    mn_error_clear(&err);
    CHECK_OK(extent_header_check("x", TAG, &ref, header, 2 * EXTENT_BLOCK, &v, &err), err);
    free(big);
}

TEST_MAIN
