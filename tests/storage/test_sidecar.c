/* The sidecar on real files: what is recognised when it is opened, and that whatever happens to it
 * is found, told and healed. */
#include "tests/test.h"

#include "storage/base/bytes.h"
#include "storage/base/crc.h"
#include "storage/base/error.h"
#include "storage/bulk.h"
#include "storage/fs_disk.h"
#include "storage/io_disk.h"
#include "tests/sim/minifold.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCK = EXTENT_BLOCK, OBJECTS = 6 };

/* ---- Files as bytes -------------------------------------------------------------------------- */

struct bytes {
    uint8_t *data;
    size_t n;
};

static struct bytes load(const char *path)
{
    struct bytes b = {NULL, 0};
    struct stat st;
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    b.n = (size_t)st.st_size;
    b.data = malloc(b.n + 1);
    CHECK_EQ(pread(fd, b.data, b.n, 0), b.n);
    close(fd);
    return b;
}

static void store(const char *path, const void *data, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0);
    CHECK_EQ(pwrite(fd, data, n, 0), n);
    close(fd);
}

static void patch(const char *path, uint64_t off, const void *data, size_t n)
{
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0);
    CHECK_EQ(pwrite(fd, data, n, (off_t)off), n);
    close(fd);
}

/* ---- A database ------------------------------------------------------------------------------ */

static const char *app, *car; /* paths of this test's database and sidecar */

static void name_files(void)
{
    static char a[400], c[410];
    snprintf(a, sizeof a, "%s", test_path("app.db"));
    snprintf(c, sizeof c, "%s-mneme", a);
    app = a;
    car = c;
}

static void open_db(struct mini *m, bool writable)
{
    mn_error err = {0};
    CHECK_OK(mini_open(m, fs_disk(), NULL, app, writable, &err), err);
}

static void fold(struct mini *m, uint32_t first, uint32_t end, uint32_t version)
{
    mn_error err = {0};
    CHECK_OK(mini_fold(m, first, end, version, &err), err);
}

static void check_all(struct mini *m)
{
    char why[400];
    CHECKF(mini_check(m, NULL, why, sizeof why), "%s", why);
}

/* Objects whose extent is bad. */
static uint32_t count_lost(struct mini *m, char why[400])
{
    uint32_t lost = 0;
    bool ok = mini_check(m, &lost, why, 400);
    CHECKF(ok, "%s", why);
    return lost;
}

/* A database with OBJECTS extents of version `version`, closed (its log is in the database). */
static void make(uint32_t version)
{
    struct mini m;
    mn_error err = {0};
    bool complete;
    name_files();
    open_db(&m, true);
    CHECK_OK(mini_build(&m, false, &err), err);
    CHECK_OK(mini_lease(&m, &err), err);
    for (uint32_t v = 1; v <= version; v++)
        fold(&m, 0, OBJECTS, v);
    CHECK_OK(lease_reclaim(m.l, &complete, &err), err);
    check_all(&m);
    mini_close(&m);
}

/* Opens, folds over everything, and all is right: the damage is gone. */
static void heal(void)
{
    struct mini m;
    mn_error err = {0};
    open_db(&m, true);
    if (!m.s)
        CHECK_OK(mini_build(&m, false, &err), err);
    CHECK_OK(mini_lease(&m, &err), err);
    fold(&m, 0, OBJECTS, 100);
    check_all(&m);
    mini_close(&m);
    open_db(&m, true);
    CHECK_EQ(m.found.state, SIDECAR_GOOD);
    CHECK_STR(m.found.message, "");
    check_all(&m);
    mini_close(&m);
}

/* ---- What is recognised ---------------------------------------------------------------------- */

TEST(a_sound_sidecar_is_good)
{
    struct mini m;
    make(3);
    open_db(&m, true);
    CHECK_EQ(m.found.state, SIDECAR_GOOD);
    CHECK_STR(m.found.message, "");
    check_all(&m);
    CHECK_EQ(mini_generation(&m), 3);
    mini_close(&m);
    open_db(&m, false);
    CHECK_EQ(m.found.state, SIDECAR_GOOD);
    check_all(&m);
    mn_error err = {0};
    CHECK_EQ(mini_lease(&m, &err), MN_READONLY);
    mini_close(&m);
}

TEST(a_missing_sidecar_is_built_anew)
{
    struct mini m;
    make(2);
    CHECK_EQ(unlink(car), 0);
    open_db(&m, false);
    CHECK_EQ(m.found.state, SIDECAR_MISSING);
    CHECK(m.s == NULL);
    CHECK_HAS(m.found.message, "app.db-mneme: is missing");
    mini_close(&m);
    CHECK(access(car, F_OK) != 0); /* looking creates nothing */
    heal();
}

static void header_field(size_t at, const void *value, size_t n, bool both)
{
    struct bytes b = load(car);
    for (size_t copy = 0; copy < (both ? 2 : 1); copy++) {
        uint8_t *h = b.data + copy * BLOCK;
        memcpy(h + at, value, n);
        le32_put(h + BLOCK - 4, crc32c(0, h, BLOCK - 4));
    }
    store(car, b.data, b.n);
    free(b.data);
}

TEST(a_foreign_sidecar_is_left_alone)
{
    struct mini m;
    mn_error err = {0};
    make(2);
    struct bytes before;
    header_field(16, "sixteen bytes id", 16, true);
    before = load(car);
    open_db(&m, true);
    CHECK_EQ(m.found.state, SIDECAR_FOREIGN);
    CHECK(m.s == NULL);
    CHECK_HAS(m.found.message, "belongs to database 7369787465656e");
    CHECK_EQ(mini_build(&m, false, &err), MN_EXISTS);
    CHECK_HAS(err.message, "left alone");
    struct bytes after = load(car);
    CHECK(after.n == before.n && memcmp(after.data, before.data, after.n) == 0);
    free(after.data);
    free(before.data);
    mn_error_clear(&err);
    CHECK_OK(mini_build(&m, true, &err), err); /* the user's explicit wish */
    mini_close(&m);
    heal();
}

TEST(any_other_file_is_foreign_too)
{
    struct mini m;
    mn_error err = {0};
    make(1);
    static const char text[] = "Dear diary, today I made a vector database.\n";
    store(car, text, sizeof text);
    open_db(&m, true);
    CHECK_EQ(m.found.state, SIDECAR_FOREIGN);
    CHECK_HAS(m.found.message, "is no sidecar");
    CHECK_EQ(mini_build(&m, false, &err), MN_EXISTS);
    mini_close(&m);
    struct bytes b = load(car);
    CHECK(b.n == sizeof text && memcmp(b.data, text, b.n) == 0);
    free(b.data);
}

TEST(a_newer_sidecar_is_refused)
{
    struct mini m;
    mn_error err = {0};
    make(1);
    header_field(10, "\x09\x00", 2, true);
    open_db(&m, true);
    CHECK_EQ(m.found.state, SIDECAR_NEWER);
    CHECK_HAS(m.found.message, "format 9");
    CHECK_EQ(mini_build(&m, false, &err), MN_EXISTS);
    mini_close(&m);
    header_field(10, "\x01\x00", 2, true);
    header_field(52, "\x04\x00\x00\x00", 4, true);
    open_db(&m, true);
    CHECK_EQ(m.found.state, SIDECAR_NEWER);
    CHECK_HAS(m.found.message, "features 00000004");
    mini_close(&m);
}

TEST(features_that_allow_reading_allow_reading)
{
    struct mini m;
    mn_error err = {0};
    make(1);
    header_field(44, "\xff\x00\x00\x00", 4, true); /* compatible ones: no matter */
    open_db(&m, true);
    CHECK(m.found.state == SIDECAR_GOOD && !m.found.readonly);
    mini_close(&m);
    header_field(48, "\x02\x00\x00\x00", 4, true);
    open_db(&m, true);
    CHECK(m.found.state == SIDECAR_GOOD && m.found.readonly);
    check_all(&m);
    CHECK_EQ(mini_lease(&m, &err), MN_READONLY);
    mini_close(&m);
}

TEST(a_file_that_may_not_be_written_is_read)
{
    struct mini m;
    mn_error err = {0};
    if (geteuid() == 0)
        test_skip("root may write everything");
    make(1);
    CHECK_EQ(chmod(car, 0444), 0);
    open_db(&m, true);
    CHECK(m.found.state == SIDECAR_GOOD && m.found.readonly);
    check_all(&m);
    CHECK_EQ(mini_lease(&m, &err), MN_READONLY);
    mini_close(&m);
}

TEST(an_empty_or_zeroed_file_is_damaged_and_built_anew)
{
    for (int i = 0; i < 3; i++) {
        struct mini m;
        static const uint8_t zeros[4 * BLOCK];
        unlink(test_path("app.db"));
        unlink(test_path("app.db-mneme"));
        make(2);
        if (i == 2)
            patch(car, 0, zeros, sizeof zeros);
        else
            store(car, zeros, i ? sizeof zeros : 0);
        open_db(&m, false);
        CHECK_EQ(m.found.state, SIDECAR_DAMAGED);
        CHECK_HAS(m.found.message, "built anew");
        mini_close(&m);
        heal();
    }
}

TEST(a_short_file_loses_what_lay_behind_its_end)
{
    struct mini m;
    char why[400];
    make(2);
    struct bytes b = load(car);
    uint32_t last = 0;
    for (uint64_t blocks = 5; blocks * BLOCK < b.n; blocks += 3) {
        store(car, b.data, blocks * BLOCK - 1); /* not even a whole block */
        open_db(&m, false);
        CHECK_EQ(m.found.state, SIDECAR_GOOD);
        if (m.found.n_lost)
            CHECK_HAS(m.found.message, "too short");
        CHECK_EQ(count_lost(&m, why), m.found.n_lost);
        if (m.found.n_lost)
            CHECK_HAS(why, "the file ends within the extent");
        CHECK(blocks == 5 || m.found.n_lost <= last);
        last = m.found.n_lost;
        mini_close(&m);
    }
    CHECK_EQ(last, 0);
    store(car, b.data, 7 * BLOCK);
    heal();
    free(b.data);
}

/* ---- Files of different moments -------------------------------------------------------------- */

TEST(an_older_sidecar_is_recognised)
{
    struct mini m;
    mn_error err = {0};
    char why[400];
    make(2);
    struct bytes old = load(car);
    open_db(&m, true);
    CHECK_OK(mini_lease(&m, &err), err);
    fold(&m, 0, 3, 3);
    fold(&m, 3, 5, 4);
    mini_close(&m);
    store(car, old.data, old.n);
    open_db(&m, true);
    CHECK_EQ(m.found.state, SIDECAR_MISPAIRED);
    CHECK_EQ(m.found.n_lost, 5);
    CHECK_HAS(m.found.message, "of another moment than the database; 5 of its 6 extents");
    CHECK_EQ(count_lost(&m, why), 5);
    CHECK_HAS(why, "extent at block");
    mini_close(&m);
    heal();
    free(old.data);
}

TEST(an_older_database_is_recognised)
{
    for (uint32_t newer = 1; newer <= 3; newer++) {
        struct mini m;
        mn_error err = {0};
        bool complete;
        char why[400];
        unlink(test_path("app.db"));
        unlink(test_path("app.db-mneme"));
        make(2);
        struct bytes old = load(app);
        open_db(&m, true);
        CHECK_OK(mini_lease(&m, &err), err);
        for (uint32_t v = 3; v < 3 + newer; v++) {
            fold(&m, 0, OBJECTS, v);
            CHECK_OK(lease_reclaim(m.l, &complete, &err), err);
        }
        mini_close(&m);
        store(app, old.data, old.n);
        open_db(&m, true);
        /* One generation: it wrote only what was free at this one. More: space may be reused. */
        CHECK_EQ(m.found.state, newer == 1 ? SIDECAR_GOOD : SIDECAR_MISPAIRED);
        CHECK_EQ(count_lost(&m, why), m.found.n_lost);
        if (newer == 1)
            check_all(&m);
        mini_close(&m);
        heal();
        free(old.data);
    }
}

TEST(the_sidecar_of_a_copy_is_recognised)
{
    struct mini m;
    mn_error err = {0};
    char why[400];
    make(2);
    struct bytes db = load(app), sc = load(car);
    open_db(&m, true);
    CHECK_OK(mini_lease(&m, &err), err);
    fold(&m, 0, OBJECTS, 3);
    mini_close(&m);
    struct bytes other = load(car);
    /* The copy lives its own life: same generation, another history. */
    store(app, db.data, db.n);
    store(car, sc.data, sc.n);
    open_db(&m, true);
    CHECK_OK(mini_lease(&m, &err), err);
    fold(&m, 0, OBJECTS, 3);
    mini_close(&m);
    store(car, other.data, other.n);
    open_db(&m, true);
    CHECK_EQ(m.found.state, SIDECAR_MISPAIRED);
    CHECK_EQ(count_lost(&m, why), OBJECTS);
    mini_close(&m);
    heal();
    free(db.data);
    free(sc.data);
    free(other.data);
}

TEST(a_sidecar_built_anew_does_not_fit_the_old_database)
{
    struct mini m;
    mn_error err = {0};
    char why[400];
    make(2);
    struct bytes db = load(app);
    CHECK_EQ(unlink(car), 0);
    heal();
    store(app, db.data, db.n);
    open_db(&m, true);
    CHECK_EQ(m.found.state, SIDECAR_MISPAIRED);
    CHECK_EQ(count_lost(&m, why), OBJECTS);
    CHECK_OK(mini_lease(&m, &err), err);
    mini_close(&m);
    heal();
    free(db.data);
}

/* ---- Flipped bits ---------------------------------------------------------------------------- */

TEST(every_flip_in_the_head_is_borne)
{
    uint32_t one = 0, paired = 0;
    make(3);
    struct bytes b = load(car);
    for (size_t byte = 0; byte < 4 * BLOCK;
         byte += byte % BLOCK < 72 || byte % BLOCK > 4080 ? 1 : 97) {
        struct mini m;
        char why[400];
        uint8_t flipped = b.data[byte] ^ (uint8_t)(1 << byte % 8);
        patch(car, byte, &flipped, 1);
        open_db(&m, false);
        CHECKF(m.found.state == SIDECAR_GOOD || m.found.state == SIDECAR_MISPAIRED, "byte %zu: %s",
               byte, m.found.message);
        CHECKF(m.found.one_header == (byte < 2 * BLOCK), "byte %zu", byte);
        CHECKF(mini_check(&m, NULL, why, sizeof why), "byte %zu: %s", byte, why);
        one += m.found.one_header;
        paired += m.found.state == SIDECAR_GOOD;
        mini_close(&m);
        patch(car, byte, &b.data[byte], 1);
    }
    CHECK(one > 150 && paired > one);
    free(b.data);
}

TEST(a_damaged_header_copy_is_mended_by_the_next_publish)
{
    for (unsigned copy = 0; copy < 3; copy++) {
        struct mini m;
        mn_error err = {0};
        unlink(test_path("app.db"));
        unlink(test_path("app.db-mneme"));
        make(1);
        struct bytes b = load(car), now;
        if (copy != 1)
            patch(car, 100, "x", 1);
        if (copy != 0)
            patch(car, BLOCK + 100, "x", 1);
        open_db(&m, true);
        CHECK_EQ(m.found.state, SIDECAR_GOOD); /* with both gone: by its intents */
        CHECK_EQ(m.found.one_header, copy < 2);
        now = load(car);
        CHECK(memcmp(now.data, b.data, 2 * BLOCK) != 0); /* opening mends nothing */
        free(now.data);
        CHECK_OK(mini_lease(&m, &err), err);
        fold(&m, 0, 1, 2);
        mini_close(&m);
        now = load(car);
        CHECK(memcmp(now.data, now.data + BLOCK, BLOCK) == 0);
        CHECK(copy == 2 || memcmp(now.data, b.data, BLOCK) == 0);
        free(now.data);
        free(b.data);
        heal();
    }
}

/* Every byte of every extent's header, and a sample of the others. */
TEST(every_flip_in_an_extent_is_found_and_named)
{
    struct mini m;
    mn_error err = {0};
    struct sidecar_meta meta;
    struct extents list;
    uint32_t flips = 0;
    make(2);
    struct bytes b = load(car);
    open_db(&m, false);
    CHECK_OK(extents_meta(m.db, &meta, &err), err);
    CHECK_OK(extents_load(m.db, m.alloc, &meta, 0, &list, &err), err);
    for (size_t i = 0; i < list.n; i++) {
        const struct extent_ref *r = &list.refs[i];
        size_t at = r->first_block * BLOCK, n = (size_t)r->n_blocks * BLOCK;
        for (size_t byte = 0; byte < n; byte += byte < 192 ? 1 : 331) {
            char why[400], name[60];
            uint8_t flipped = b.data[at + byte] ^ (uint8_t)(1 << byte % 8);
            patch(car, at + byte, &flipped, 1);
            CHECKF(count_lost(&m, why) == 1, "object %u, byte %zu", r->object, byte);
            snprintf(name, sizeof name, "extent at block %" PRIu64 " (collection 1, object %u, ",
                     r->first_block, r->object);
            CHECK_HAS(why, name);
            patch(car, at + byte, &b.data[at + byte], 1);
            flips++;
        }
    }
    check_all(&m);
    test_note("%u flips", flips);
    extents_fini(m.alloc, &list);
    mini_close(&m);
    free(b.data);
}

/* A write that went elsewhere, and one that never happened. */
TEST(swapped_and_stale_extents_are_found)
{
    struct mini m;
    mn_error err = {0};
    struct sidecar_meta meta;
    struct extents list;
    char why[400];
    make(1);
    open_db(&m, true);
    CHECK_OK(mini_lease(&m, &err), err);
    CHECK_OK(extents_meta(m.db, &meta, &err), err);
    CHECK_OK(extents_load(m.db, m.alloc, &meta, 0, &list, &err), err);
    struct bytes b = load(car);
    const struct extent_ref *x = &list.refs[0], *y = &list.refs[1];
    size_t n = (size_t)(x->n_blocks < y->n_blocks ? x->n_blocks : y->n_blocks) * BLOCK;
    patch(car, x->first_block * BLOCK, b.data + y->first_block * BLOCK, n);
    patch(car, y->first_block * BLOCK, b.data + x->first_block * BLOCK, n);
    CHECK_EQ(count_lost(&m, why), 2);
    patch(car, 0, b.data, b.n);
    check_all(&m);
    /* The same object, the same place, an older generation. */
    uint64_t place = x->first_block;
    uint32_t object = x->object;
    bool complete;
    fold(&m, object, object + 1, 0);
    CHECK_OK(lease_reclaim(m.l, &complete, &err), err);
    CHECK(complete);
    for (uint32_t v = 2; v < 40; v++) { /* until one of its versions fits in that hole */
        fold(&m, object, object + 1, v);
        extents_fini(m.alloc, &list);
        CHECK_OK(extents_meta(m.db, &meta, &err), err);
        CHECK_OK(extents_load(m.db, m.alloc, &meta, 0, &list, &err), err);
        bool there = false;
        for (size_t i = 0; i < list.n; i++)
            there |= list.refs[i].first_block == place && list.refs[i].object == object;
        if (there)
            break;
        CHECK_OK(lease_reclaim(m.l, &complete, &err), err);
    }
    patch(car, place * BLOCK, b.data + place * BLOCK, BLOCK);
    CHECK_EQ(count_lost(&m, why), 1);
    CHECK(strstr(why, "generation") || strstr(why, "lengths")); /* they are compared first */
    extents_fini(m.alloc, &list);
    mini_close(&m);
    heal();
    free(b.data);
}

TEST(reading_changes_no_byte_of_what_is_damaged)
{
    struct mini m;
    char why[400];
    make(2);
    patch(car, 100, "x", 1);
    patch(car, 5 * BLOCK + 9, "yyyy", 4);
    struct bytes db = load(app), sc = load(car);
    open_db(&m, false);
    count_lost(&m, why);
    mini_close(&m);
    struct bytes db2 = load(app), sc2 = load(car);
    CHECK(db.n == db2.n && memcmp(db.data, db2.data, db.n) == 0);
    CHECK(sc.n == sc2.n && memcmp(sc.data, sc2.data, sc.n) == 0);
    free(db.data);
    free(sc.data);
    free(db2.data);
    free(sc2.data);
}

/* ---- Creation -------------------------------------------------------------------------------- */

TEST(an_unfinished_creation_is_made_anew)
{
    for (int i = 0; i < 4; i++) {
        struct mini m;
        mn_error err = {0};
        uint8_t head[4 * BLOCK] = {0};
        unlink(test_path("app.db"));
        unlink(test_path("app.db-mneme"));
        name_files();
        open_db(&m, true);
        if (i > 0)
            memcpy(head, "MNEMESC\1", 8); /* torn: the rest is not there */
        if (i == 3)
            memcpy(head + BLOCK, "garbage!", 8);
        store(car, head, i == 1 ? BLOCK : sizeof head);
        CHECK_OK(mini_build(&m, false, &err), err);
        CHECK_OK(mini_lease(&m, &err), err);
        fold(&m, 0, 3, 1);
        check_all(&m);
        mini_close(&m);
    }
}

TEST(a_sidecar_that_is_there_is_not_built_again)
{
    struct mini m, n;
    mn_error err = {0};
    make(1);
    open_db(&m, true);
    open_db(&n, true);
    CHECK_EQ(mini_build(&m, false, &err), MN_CONFLICT);
    CHECK_HAS(err.message, "is there already");
    mn_error_clear(&err);
    CHECK_OK(mini_lease(&n, &err), err);
    fold(&n, 0, 2, 2);
    mini_close(&m);
    mini_close(&n);
}

/* ---- Batched reads and other processes ------------------------------------------------------- */

TEST(extents_are_read_in_a_batch)
{
    struct mini m;
    mn_error err = {0};
    struct sidecar_meta meta;
    struct extents list;
    struct io_disk *disk;
    struct io_batch *batch;
    struct io_done done;
    uint8_t *memory = NULL;
    make(2);
    open_db(&m, false);
    CHECK_OK(extents_meta(m.db, &meta, &err), err);
    CHECK_OK(extents_load(m.db, m.alloc, &meta, 0, &list, &err), err);
    CHECK_OK(io_disk_create(m.alloc, NULL, &disk, &err), err);
    struct mn_file *file = sidecar_file(m.s);
    struct io_batch_opts opts = {.files = &file, .n_files = 1};
    CHECK_OK(io_batch_create(disk, &opts, &batch, &err), err);
    CHECK_EQ(posix_memalign((void **)&memory, IO_ALIGN, list.n * 8 * BLOCK), 0);
    for (size_t i = 0; i < list.n; i++) {
        struct io_want w = {file, list.refs[i].first_block * BLOCK, list.refs[i].n_blocks * BLOCK,
                            memory + i * 8 * BLOCK, i};
        CHECK_OK(io_batch_submit(batch, &w, 1, &err), err);
    }
    unsigned n = 0;
    while (io_batch_next(batch, -1, &done)) {
        struct extent_view v;
        CHECK_EQ(done.error, 0);
        CHECK_OK(extent_check(sidecar_path(m.s), sidecar_db_tag(m.s), &list.refs[done.tag],
                              done.buf, &v, &err),
                 err);
        n++;
    }
    CHECK_EQ(n, list.n);
    io_batch_destroy(batch);
    io_disk_destroy(disk);
    extents_fini(m.alloc, &list);
    mini_close(&m);
    free(memory);
}

/* A process that holds a snapshot, stopped; then killed. */
/* Every extent by storage/bulk.h, beside what sidecar_read makes of it. */
static void check_bulk(struct mini *m, enum io_backend backend, const struct extents *list,
                       uint32_t want_lost)
{
    mn_error err = {0};
    struct io_disk *disk = NULL;
    struct bulk *bulk = NULL;
    struct bulk_done done;
    struct bulk_want *wants = calloc(list->n, sizeof *wants);
    uint32_t lost = 0;
    size_t n = 0;
    CHECK(wants);
    CHECK_OK(io_disk_create(m->alloc, &(struct io_disk_opts){.backend = backend}, &disk, &err),
             err);
    for (size_t i = 0; i < list->n; i++) {
        uint32_t pages = list->refs[i].object % 3 == 2 ? extent_n_pages(&list->refs[i]) : 0;
        wants[i].ref = list->refs[i];
        wants[i].buf = aligned_alloc(IO_ALIGN, (list->refs[i].n_blocks - pages) * (size_t)BLOCK);
        wants[i].pages = pages ? aligned_alloc(IO_ALIGN, pages * (size_t)BLOCK) : NULL;
    }
    CHECK_OK(bulk_create(disk, m->s, m->alloc, wants, list->n, &bulk, &err), err);
    for (; bulk_next(bulk, &done); n++) {
        struct extent_view v;
        const struct extent_ref *ref = &list->refs[done.i];
        uint8_t *whole = aligned_alloc(IO_ALIGN, (size_t)ref->n_blocks * BLOCK);
        mn_error_clear(&err);
        mn_status st = sidecar_read(m->s, ref, whole, &v, &err);
        CHECKF(st == done.status, "%s: %s, %s", io_backend_name(backend), err.message,
               done.err.message);
        CHECK(st || (v.spec.payload_len == done.view.spec.payload_len &&
                     memcmp(v.payload, done.view.payload, v.spec.payload_len) == 0));
        CHECKF(!st || (st == MN_CORRUPT && strcmp(err.message, done.err.message) == 0),
               "object %u: %s, %s", ref->object, err.message, done.err.message);
        lost += st != MN_OK;
        free(whole);
    }
    CHECK_EQ(n, list->n);
    CHECK_EQ(lost, want_lost);
    bulk_destroy(bulk);
    CHECK_OK(bulk_create(disk, m->s, m->alloc, wants, list->n, &bulk, &err), err);
    bulk_destroy(bulk); /* nothing was taken */
    io_disk_destroy(disk);
    for (size_t i = 0; i < list->n; i++) {
        free(wants[i].buf);
        free(wants[i].pages);
    }
    free(wants);
}

TEST(extents_in_bulk_are_what_they_are_one_by_one)
{
    static const enum io_backend backends[] = {IO_PREAD, IO_SYNC, IO_AUTO};
    make(2);
    for (uint32_t damage = 0; damage < 3; damage++) {
        struct mini m;
        mn_error err = {0};
        struct sidecar_meta meta;
        struct extents list;
        open_db(&m, true);
        CHECK_OK(extents_meta(m.db, &meta, &err), err);
        CHECK_OK(extents_load(m.db, m.alloc, &meta, 0, &list, &err), err);
        CHECK_EQ(list.n, OBJECTS);
        if (damage == 1) { /* the first block of one, the last of another */
            patch(car, list.refs[1].first_block * BLOCK + 20, "damage", 6);
            patch(car, (list.refs[2].first_block + list.refs[2].n_blocks - 1) * BLOCK, "x", 1);
        } else if (damage == 2) { /* and a file that ends within the last */
            CHECK(truncate(car, (off_t)(list.refs[OBJECTS - 1].first_block + 1) * BLOCK) == 0);
        }
        for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
            check_bulk(&m, backends[i], &list, damage ? damage + 1 : 0);
        extents_fini(m.alloc, &list);
        mini_close(&m);
    }
}

TEST(a_stopped_process_keeps_its_snapshot_and_a_killed_one_does_not)
{
    struct mini m;
    mn_error err = {0};
    bool complete;
    int ready[2], go[2];
    char c;
    make(1);
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    pid_t child = fork();
    if (child == 0) {
        char why[400];
        if (mini_open(&m, fs_disk(), NULL, app, false, &err))
            _exit(1);
        sqlite3_exec(m.db, "BEGIN; SELECT count(*) FROM t", NULL, NULL, NULL);
        if (!mini_check(&m, NULL, why, sizeof why) || write(ready[1], "x", 1) != 1)
            _exit(2);
        while (read(go[0], &c, 1) == 1) {
            bool ok = mini_check(&m, NULL, why, sizeof why);
            if (write(ready[1], ok ? "y" : "n", 1) != 1)
                _exit(3);
        }
        pause();
    }
    CHECK_EQ(read(ready[0], &c, 1), 1);
    open_db(&m, true);
    CHECK_OK(mini_lease(&m, &err), err);
    for (uint32_t v = 2; v < 8; v++) {
        fold(&m, 0, OBJECTS, v);
        CHECK_OK(lease_reclaim(m.l, &complete, &err), err);
        CHECK(!complete);
        CHECK(write(go[1], "g", 1) == 1 && read(ready[0], &c, 1) == 1);
        CHECK_EQ(c, 'y');
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK_OK(lease_reclaim(m.l, &complete, &err), err);
    CHECK(complete);
    struct lease_space space;
    lease_space(m.l, &space);
    CHECK_EQ(space.deferred_blocks, 0);
    check_all(&m);
    mini_close(&m);
    close(ready[0]);
    close(ready[1]);
    close(go[0]);
    close(go[1]);
}

static void fold_for_ever(uint64_t seed)
{
    struct mini m;
    mn_error err = {0};
    struct test_rng r = {seed};
    bool complete;
    if (mini_open(&m, fs_disk(), NULL, app, true, &err) || (!m.s && mini_build(&m, false, &err)) ||
        mini_lease(&m, &err))
        _exit(1);
    for (uint32_t v = 1;; v++) {
        uint32_t first = (uint32_t)test_below(&r, 8);
        if (mini_fold(&m, first, first + 1 + (uint32_t)test_below(&r, 4), v, &err) ||
            lease_reclaim(m.l, &complete, &err))
            _exit(2);
    }
}

TEST(a_killed_folder_leaves_a_sound_index)
{
    struct test_rng r = {17};
    uint64_t last = 0;
    make(1);
    for (size_t round = 0; round < test_budget(15) || (last < 2 && round < 100); round++) {
        struct mini m;
        int status;
        pid_t child = fork();
        if (child == 0)
            fold_for_ever(round + 1);
        usleep((useconds_t)(1000 + test_below(&r, 100000)));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        CHECKF(WIFSIGNALED(status), "the folder ended by itself: %d", WEXITSTATUS(status));
        open_db(&m, true);
        CHECK_EQ(m.found.state, SIDECAR_GOOD);
        check_all(&m);
        CHECK(mini_generation(&m) >= last);
        last = mini_generation(&m);
        mini_close(&m);
    }
    test_note("%" PRIu64 " generations", last);
    CHECK(last > 1);
}

TEST_MAIN
