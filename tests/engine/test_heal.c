/* Extents of an index are lost one by one, in every way: answers stay right meanwhile, verify names
 * the extent, the next fold mends just what is lost and says so, and then verify is clean. */
#include "tests/engine/files.h"
#include "tests/engine/indexed.h"

#include "src/engine/ivf_store.h"
#include "storage/base/bytes.h"
#include "storage/extents.h"

/* A vector fills a page, so the heap has several blocks; each fold makes a pack. */
enum { DIM = 1024, ROWS = 700, FOLDS = 3, ADDED = 80, K = 10, MAX_EXTENTS = 40, BLOCK = 4096 };

static mn_error err;

/* ---- The world ------------------------------------------------------------------------------- */

struct said {
    size_t lost, healed; /* lines */
    char last[400];
};

static void listen(void *ctx, mn_log_level level, const char *topic, const char *line)
{
    struct said *s = ctx;
    (void)level;
    if (strcmp(topic, "heal") != 0)
        return;
    s->lost += strstr(line, "lost") != NULL || strstr(line, "version") != NULL;
    s->healed += strstr(line, "healed") != NULL || strstr(line, "was built anew") != NULL;
    snprintf(s->last, sizeof s->last, "%s", line);
}

struct world {
    const char *path;
    mn_db *db;
    mn_conn *conn;
    struct brute b;
    struct said said;
};

/* What is in memory: vectors and codes, codes only, or neither. */
enum memory { WARM, COLD, AWAY, MEMORIES };

static void world_open(struct world *w, const char *path, enum memory memory, uint32_t flags)
{
    struct db_stage stage = {.limits = INDEXED_LIMITS};
    *w = (struct world){.path = path, .b = {.dtype = MN_F32, .metric = MN_L2, .dim = DIM}};
    const mn_open_opts opts = {
        .flags = flags, .durability = MN_RELAXED, .log = listen, .log_ctx = &w->said};
    stage.limits.cold = memory != WARM;
    stage.limits.away = memory == AWAY;
    CHECK_OK(db_open_on(path, &opts, &stage, &w->db, &err), err);
    CHECK_OK(mn_connect(w->db, &w->conn, &err), err);
}

static void world_close(struct world *w)
{
    brute_free(&w->b);
    mn_disconnect(w->conn);
    CHECK_OK(mn_close(w->db, &err), err);
}

static void put_rows(mn_conn *conn, int64_t from, int64_t to, uint64_t seed)
{
    float v[DIM];
    CHECK_OK(mn_begin_write(conn, &err), err);
    for (int64_t id = from; id < to; id++) {
        indexed_vector(MN_F32, DIM, seed, (uint64_t)id, v);
        CHECK_OK(mn_put(conn, "c", &(mn_row){.id = id, .vector = v}, 1, NULL, &err), err);
    }
    CHECK_OK(mn_commit(conn, &err), err);
}

static void delete_rows(mn_conn *conn, int64_t from, int64_t to)
{
    for (int64_t id = from; id < to; id++)
        CHECK_OK(mn_delete(conn, "c", &(mn_id){.id = id}, 1, NULL, &err), err);
}

/* An index of a base and of FOLDS packs of new, changed and deleted rows; some of each are pending,
 * if asked for. Closed. */
static void make(const char *path, bool pending)
{
    struct world w;
    world_open(&w, path, WARM, MN_OPEN_NO_BACKGROUND);
    CHECK_OK(mn_create(w.conn, "c", &(mn_collection_opts){.dim = DIM}, &err), err);
    put_rows(w.conn, 1, ROWS + 1, 1);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    for (int i = 0; i < FOLDS; i++) {
        put_rows(w.conn, ROWS + 1 + i * ADDED, ROWS + 1 + (i + 1) * ADDED, 1);
        put_rows(w.conn, 20 * i + 1, 20 * i + 9, 2);
        delete_rows(w.conn, ROWS - 5 * i, ROWS - 5 * i + 3);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
    }
    if (pending) {
        put_rows(w.conn, ROWS + 20, ROWS + 26, 3); /* of the first fold's pack */
        put_rows(w.conn, 3000, 3005, 3);
        delete_rows(w.conn, ROWS + 40, ROWS + 44);
    }
    world_close(&w);
}

static void load_rows(struct world *w)
{
    brute_load_file(&w->b, w->path, "c", "vector");
}

/* How many searches the index answered; all are right. */
static uint64_t check_answers(struct world *w, const char *what)
{
    struct indexed_recall sum = {0};
    float query[DIM];
    for (int i = 0; i < 3; i++) {
        indexed_vector(MN_F32, DIM, 3, 70000 + (uint64_t)i, query);
        struct indexed_query q = {
            .name = "c", .vector = query, .k = K, .opts.recall = i == 0 ? 1.0 : 0.95};
        const char *wrong = indexed_check(w->conn, &w->b, &q, &sum);
        CHECKF(!wrong, "%s: %s", what, wrong);
    }
    CHECKF(sum.wanted == 0 || sum.found >= 0.6 * sum.wanted, "%s: %g of %g hits", what, sum.found,
           sum.wanted);
    return sum.by_index;
}

/* ---- Extents --------------------------------------------------------------------------------- */

struct image {
    const char *path;
    struct copy db, sidecar;
    struct extent_ref refs[MAX_EXTENTS];
    size_t n;
    uint32_t directory_blocks;
    bool pending; /* rows wait for a fold */
};

static void take_image(struct image *im, const char *path, bool pending)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    sqlite3 *sql = NULL;
    struct sidecar_meta meta;
    struct extents list = {0};
    make(path, pending);
    *im = (struct image){.path = path,
                         .pending = pending,
                         .db = file_read(path),
                         .sidecar = file_read(sidecar_of(path))};
    CHECK(sqlite3_open_v2(path, &sql, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK);
    CHECK_OK(extents_meta(sql, &meta, &err), err);
    CHECK_OK(extents_load(sql, a, &meta, 0, &list, &err), err);
    CHECK(!list.message[0] && list.n <= MAX_EXTENTS);
    im->n = list.n;
    memcpy(im->refs, list.refs, list.n * sizeof *list.refs);
    extents_fini(a, &list);
    mn_alloc_destroy(a);
    sqlite3_close(sql);
    for (size_t i = 0; i < im->n; i++)
        if (im->refs[i].kind == KIND_DIRECTORY)
            im->directory_blocks = im->refs[i].n_blocks;
}

static void image_free(struct image *im)
{
    free(im->db.bytes);
    free(im->sidecar.bytes);
}

/* Blocks of the sidecar that are not as they were, but for headers and intents. */
static size_t blocks_written(const struct copy *before, const char *path)
{
    struct copy now = file_read(path);
    size_t n = 0;
    for (size_t at = SIDECAR_HEAD_BLOCKS * BLOCK; at + BLOCK <= now.n; at += BLOCK) {
        static const char zeros[BLOCK];
        bool was = at + BLOCK <= before->n;
        n += memcmp(now.bytes + at, was ? before->bytes + at : zeros, BLOCK) != 0;
    }
    free(now.bytes);
    return n;
}

static bool is_rebuilt(const struct image *im, const struct extent_ref *ref)
{
    uint64_t rows = 0;
    for (size_t i = 0; i < im->n; i++)
        rows += im->refs[i].kind == KIND_PACK ? im->refs[i].rows : 0;
    return ref->kind == KIND_CORE || ref->kind == KIND_DIRECTORY ||
           (ref->kind == KIND_PACK && 4 * ref->rows >= rows);
}

static void find_named(void *ctx, const char *where, const char *what)
{
    char want[60];
    const struct extent_ref **ref = ctx;
    (void)where;
    if (!*ref)
        return;
    snprintf(want, sizeof want, "extent at block %llu ", (unsigned long long)(*ref)->first_block);
    if (strstr(what, want))
        *ref = NULL;
}

/* One damaged sidecar: `bad` is lost. `most`: blocks that mending it may write; 0: any. */
static void try_one(const struct image *im, const struct copy *hurt, const struct extent_ref *bad,
                    size_t most, enum memory memory, const char *what)
{
    struct world w;
    uint64_t findings = 0;
    mn_index_info info;
    const struct extent_ref *named = bad;
    file_write(im->path, &im->db);
    file_write(sidecar_of(im->path), hurt);
    world_open(&w, im->path, memory, MN_OPEN_NO_BACKGROUND);
    load_rows(&w);
    uint64_t by_index = check_answers(&w, what);
    CHECKF(by_index == (is_rebuilt(im, bad) ? 0 : 2), "%s: the index answers %d times", what,
           (int)by_index);
    CHECK_OK(mn_verify(w.conn, find_named, &named, &findings, &err), err);
    CHECKF(findings && !named, "%s: verify has %d findings and does not name the extent", what,
           (int)findings);
    check_answers(&w, what);
    CHECKF(w.said.lost, "%s: the log says nothing", what);
    mn_status st = mn_fold(w.conn, "c", &err);
    CHECKF(st == MN_OK, "%s: fold: %s", what, err.message);
    CHECKF(w.said.healed, "%s: the log does not say that it is healed", what);
    CHECKF(check_answers(&w, what) == 2, "%s: the index does not answer", what);
    CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
    CHECKF(info.lost && info.healed && !info.missing, "%s: %d lost, %d healed", what,
           (int)info.lost, (int)info.healed);
    size_t wrote = blocks_written(hurt, sidecar_of(im->path));
    CHECKF(!most || wrote <= most, "%s: %zu blocks were written, not %zu", what, wrote, most);
    const char *wrong = indexed_verify(w.conn);
    CHECKF(!wrong, "%s: afterwards: %s", what, wrong);
    world_close(&w);
    world_open(&w, im->path, (memory + 1) % MEMORIES, MN_OPEN_NO_BACKGROUND);
    load_rows(&w);
    CHECKF(check_answers(&w, what) == 2, "%s: the index does not answer after reopening", what);
    CHECKF(!w.said.lost, "%s: after reopening: %s", what, w.said.last);
    world_close(&w);
}

/* What mending one extent may write: itself, the directory, and the fold of what was pending, which
 * copies the last heap block. 0: any. */
static size_t blocks_for(const struct image *im, const struct extent_ref *ref)
{
    size_t own = ref->n_blocks + ref->n_blocks / 4 + im->directory_blocks + 4;
    return is_rebuilt(im, ref) ? 0 : own + (im->pending ? 16 + HEAP_BLOCK_PAGES : 0);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static void flip_one(const struct image *im, size_t i, uint64_t off, enum memory memory)
{
    char what[120];
    const struct extent_ref *ref = &im->refs[i];
    snprintf(what, sizeof what, "kind %u, object %u of %u blocks, byte %llu, memory %d",
             ref->kind, ref->object, ref->n_blocks, (unsigned long long)off, (int)memory);
    char *at = im->sidecar.bytes + ref->first_block * BLOCK + off;
    *at = (char)(*at ^ 0x10);
    try_one(im, &im->sidecar, ref, blocks_for(im, ref), memory, what);
    *at = (char)(*at ^ 0x10);
}

TEST(a_flip_anywhere_is_borne_named_and_mended)
{
    struct image im;
    struct test_rng rng = {7};
    size_t runs = 0, n = 0, step = test_long() ? 1 : 400;
    size_t thinner = test_long() ? 1 : 10 / test_budget(10);
    take_image(&im, test_path("a.db"), true);
    CHECKF(im.n >= 1 + 1 + 1 + FOLDS + 3, "%zu extents", im.n);
    for (size_t i = 0; i < im.n; i++) {
        uint64_t len = (uint64_t)im.refs[i].n_blocks * BLOCK;
        uint64_t head = 72 + 4 * (uint64_t)im.refs[i].n_blocks; /* about: with the CRCs */
        for (uint64_t off = test_below(&rng, step < head ? step : head); off < head; off += step)
            if (n++ % thinner == 0)
                flip_one(&im, i, off, ++runs % MEMORIES);
        for (size_t j = 0; j < (test_long() ? 20 : 1); j++)
            if (n++ % thinner == 0)
                flip_one(&im, i, head + test_below(&rng, len - head), ++runs % MEMORIES);
    }
    image_free(&im);
    test_note("%zu extents, %zu flips", im.n, runs);
}

TEST(mending_writes_what_was_lost_and_no_more)
{
    struct image im;
    size_t runs = 0;
    take_image(&im, test_path("a.db"), false);
    for (size_t i = 0; i < im.n; i++)
        for (enum memory memory = 0; memory < MEMORIES; memory++)
            if (!is_rebuilt(&im, &im.refs[i]) && ++runs)
                flip_one(&im, i, 2 * BLOCK + 9, memory);
    image_free(&im);
    CHECK(runs >= MEMORIES * (FOLDS + 3));
}

enum damage { ZEROS, OTHER_BYTES, CUT, DAMAGES };

/* Many are lost. */
static void try_cut(const struct image *im, const struct copy *hurt, const char *what)
{
    struct world w;
    file_write(im->path, &im->db);
    file_write(sidecar_of(im->path), hurt);
    world_open(&w, im->path, WARM, MN_OPEN_NO_BACKGROUND);
    load_rows(&w);
    check_answers(&w, what);
    CHECKF(indexed_verify(w.conn), "%s: verify finds nothing", what);
    CHECK_OK(mn_fold(w.conn, "c", &err), err);
    CHECKF(check_answers(&w, what) == 2, "%s: the index does not answer", what);
    const char *wrong = indexed_verify(w.conn);
    CHECKF(!wrong, "%s: afterwards: %s", what, wrong);
    world_close(&w);
}

static void hurt_whole(const struct image *im, size_t i, enum damage how)
{
    char what[120];
    const struct extent_ref *ref = &im->refs[i];
    struct copy hurt = {malloc(im->sidecar.n), im->sidecar.n};
    size_t at = (size_t)ref->first_block * BLOCK, len = (size_t)ref->n_blocks * BLOCK;
    CHECK(hurt.bytes);
    memcpy(hurt.bytes, im->sidecar.bytes, hurt.n);
    snprintf(what, sizeof what, "kind %u, object %u, damage %d", ref->kind, ref->object, how);
    memset(hurt.bytes + at, how == ZEROS ? 0 : 0x5a, how == CUT ? 0 : len);
    if (how == CUT) /* what lies behind is lost as well */
        hurt.n = at + len / 2;
    if (how == CUT)
        try_cut(im, &hurt, what);
    else
        try_one(im, &hurt, ref, blocks_for(im, ref), false, what);
    free(hurt.bytes);
}

TEST(extents_overwritten_or_cut_off_are_mended)
{
    struct image im;
    size_t runs = 0, step = test_long() ? 1 : test_budget(10) < 10 ? 7 : 2;
    take_image(&im, test_path("a.db"), true);
    for (size_t i = 0; i < im.n; i++)
        for (int how = 0; how < DAMAGES; how++)
            if (runs++ % step == 0)
                hurt_whole(&im, i, (enum damage)how);
    image_free(&im);
    test_note("%zu", runs / step);
}

TEST(extents_in_each_others_place_are_mended)
{
    struct image im;
    size_t runs = 0;
    take_image(&im, test_path("a.db"), true);
    for (size_t i = 0; i < im.n; i++)
        for (size_t j = i + 1; j < im.n; j++) {
            const struct extent_ref *a = &im.refs[i], *b = &im.refs[j];
            size_t len = (size_t)a->n_blocks * BLOCK;
            char what[120];
            if (a->n_blocks != b->n_blocks || runs >= (test_long() ? 1000 : test_budget(10)))
                continue;
            struct copy hurt = {malloc(im.sidecar.n), im.sidecar.n};
            CHECK(hurt.bytes);
            memcpy(hurt.bytes, im.sidecar.bytes, hurt.n);
            memcpy(hurt.bytes + a->first_block * BLOCK,
                   im.sidecar.bytes + b->first_block * BLOCK, len);
            memcpy(hurt.bytes + b->first_block * BLOCK,
                   im.sidecar.bytes + a->first_block * BLOCK, len);
            snprintf(what, sizeof what, "kinds %u and %u, objects %u and %u", a->kind, b->kind,
                     a->object, b->object);
            try_one(&im, &hurt, is_rebuilt(&im, b) ? b : a,
                    is_rebuilt(&im, a) || is_rebuilt(&im, b)
                        ? 0
                        : blocks_for(&im, a) + blocks_for(&im, b),
                    runs % 2, what);
            free(hurt.bytes);
            runs++;
        }
    image_free(&im);
    CHECK(runs > 0);
    test_note("%zu pairs", runs);
}

/* ---- In the background, and in memory -------------------------------------------------------- */

static const struct extent_ref *find_extent(const struct image *im, uint16_t kind, bool small)
{
    for (size_t i = 0; i < im->n; i++)
        if (im->refs[i].kind == kind && (!small || !is_rebuilt(im, &im->refs[i])))
            return &im->refs[i];
    return NULL;
}

TEST(the_thread_heals_what_a_search_met)
{
    static const uint16_t kinds[] = {KIND_PACK, KIND_HEAP, KIND_CORE, KIND_DIRECTORY};
    struct image im;
    take_image(&im, test_path("a.db"), true);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct world w;
        mn_index_info info = {.exists = false};
        const struct extent_ref *ref = find_extent(&im, kinds[i], kinds[i] == KIND_PACK);
        char *at = im.sidecar.bytes + ref->first_block * BLOCK + 40;
        *at = (char)~*at;
        file_write(im.path, &im.db);
        file_write(sidecar_of(im.path), &im.sidecar);
        *at = (char)~*at;
        world_open(&w, im.path, WARM, 0);
        load_rows(&w);
        for (int tries = 0; tries < 1000 && !info.healed; tries++) {
            check_answers(&w, "meanwhile");
            CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
            usleep(10000);
        }
        CHECKF(info.healed == 1, "kind %u: %d healed", kinds[i], (int)info.healed);
        CHECK(check_answers(&w, "healed") == 2);
        const char *wrong = indexed_verify(w.conn);
        CHECKF(!wrong, "kind %u: %s", kinds[i], wrong);
        world_close(&w);
    }
    image_free(&im);
}

/* Everything is in memory when the file is damaged: only verify can find that. */
TEST(damage_below_what_is_in_memory_is_found_by_verify)
{
    struct image im;
    take_image(&im, test_path("a.db"), true);
    for (size_t i = 0; i < im.n; i++) {
        struct world w;
        uint64_t findings = 0;
        const struct extent_ref *ref = &im.refs[i], *named = ref;
        char what[60], byte = im.sidecar.bytes[ref->first_block * BLOCK + 50];
        snprintf(what, sizeof what, "kind %u, object %u", ref->kind, ref->object);
        file_write(im.path, &im.db);
        file_write(sidecar_of(im.path), &im.sidecar);
        world_open(&w, im.path, WARM, MN_OPEN_NO_BACKGROUND);
        load_rows(&w);
        check_answers(&w, what);
        int fd = open(sidecar_of(im.path), O_WRONLY);
        byte = (char)~byte;
        CHECK(fd >= 0 && pwrite(fd, &byte, 1, (off_t)(ref->first_block * BLOCK + 50)) == 1);
        close(fd);
        CHECKF(check_answers(&w, what) == 2, "%s: the index does not answer", what);
        CHECK_OK(mn_verify(w.conn, find_named, &named, &findings, &err), err);
        CHECKF(findings && !named, "%s: verify does not name it", what);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        CHECKF(w.said.healed, "%s: nothing is healed", what);
        CHECKF(check_answers(&w, what) == 2, "%s: the index does not answer", what);
        const char *wrong = indexed_verify(w.conn);
        CHECKF(!wrong, "%s: %s", what, wrong);
        world_close(&w);
    }
    image_free(&im);
}

/* ---- Codes that are read from the disk ------------------------------------------------------- */

/* Flips a byte in each block of an extent but for its header's. */
static void hurt_blocks(const char *path, const struct extent_ref *ref)
{
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    for (uint32_t i = 1; i < ref->n_blocks; i++) {
        char byte;
        off_t at = (off_t)(ref->first_block + i) * BLOCK + 7;
        CHECK(pread(fd, &byte, 1, at) == 1);
        byte = (char)~byte;
        CHECK(pwrite(fd, &byte, 1, at) == 1);
    }
    close(fd);
}

/* The index is loaded and its codes are on the disk, which is damaged then: a search meets it, or a
 * fold that needs the codes does. */
static void damage_away(const struct image *im, const struct extent_ref *ref, bool fold_first)
{
    struct world w;
    char what[60];
    mn_index_info info;
    snprintf(what, sizeof what, "pack %u, fold first %d", ref->object, fold_first);
    file_write(im->path, &im->db);
    file_write(sidecar_of(im->path), &im->sidecar);
    world_open(&w, im->path, AWAY, MN_OPEN_NO_BACKGROUND);
    load_rows(&w);
    CHECKF(check_answers(&w, what) == 2, "%s: the index does not answer", what);
    CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
    CHECKF(info.codes_in_memory == 0, "%g", info.codes_in_memory);
    hurt_blocks(sidecar_of(im->path), ref);
    if (!fold_first) {
        float query[DIM];
        mn_hit hits[K];
        uint32_t found;
        mn_search_stats stats = {.rows_scanned = 0};
        const mn_search_opts most = {.recall = 0.999, .stats = &stats};
        indexed_vector(MN_F32, DIM, 3, 1, query);
        for (int i = 0; i < 200 && !w.said.lost; i++) {
            indexed_vector(MN_F32, DIM, 3, 1 + (uint64_t)i, query);
            CHECK_OK(mn_search(w.conn, "c", query, 1, K, &most, hits, &found, &err), err);
            CHECK(stats.from_index == !w.said.lost && found == K);
        }
        CHECKF(w.said.lost, "%s: no search met it", what);
        uint64_t by_index = check_answers(&w, what);
        CHECKF(by_index == 2 || ref->rows > ROWS / 4, "%s: the index does not answer", what);
        CHECK_OK(mn_index_stats(w.conn, "c", &info, &err), err);
        CHECKF(info.missing || ref->rows > ROWS / 4, "%s: no row is missing", what);
    }
    delete_rows(w.conn, 60, 64);
    brute_free(&w.b);
    load_rows(&w);
    mn_status st = mn_fold(w.conn, "c", &err);
    CHECKF(st == MN_OK, "%s: fold: %s", what, err.message);
    CHECKF(w.said.lost && w.said.healed, "%s: %zu lost, %zu healed", what, w.said.lost,
           w.said.healed);
    CHECKF(check_answers(&w, what) == 2, "%s: the index does not answer", what);
    const char *wrong = indexed_verify(w.conn);
    CHECKF(!wrong, "%s: %s", what, wrong);
    world_close(&w);
}

TEST(damage_in_codes_on_the_disk_is_met_by_whoever_reads_them)
{
    struct image im;
    size_t packs = 0;
    take_image(&im, test_path("a.db"), false);
    for (size_t i = 0; i < im.n; i++)
        if (im.refs[i].kind == KIND_PACK && ++packs)
            for (int fold_first = 0; fold_first < 2; fold_first++)
                damage_away(&im, &im.refs[i], fold_first);
    CHECK(packs > 2);
    image_free(&im);
}

/* ---- Other versions -------------------------------------------------------------------------- */

/* Rewrites an extent, soundly, with another number in its payload. */
static void renumber(const struct image *im, const struct extent_ref *ref, size_t at, uint16_t to)
{
    struct extent_layout layout;
    struct extent_view v;
    struct extent_ref now, was;
    struct sidecar_meta meta;
    struct extents_writer writer = {0};
    uint8_t *bytes = (uint8_t *)im->sidecar.bytes + ref->first_block * BLOCK;
    CHECK(sqlite3_open_v2(im->path, &writer.db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK);
    CHECK_OK(extents_meta(writer.db, &meta, &err), err);
    CHECK_OK(extent_check("a", meta.db_tag, ref, bytes, &v, &err), err);
    uint8_t *payload = malloc(v.spec.payload_len), *header = malloc(v.at.payload_offset);
    int fd = open(sidecar_of(im->path), O_WRONLY);
    CHECK(payload && header && fd >= 0);
    memcpy(payload, v.payload, v.spec.payload_len);
    le16_put(payload + at, to);
    CHECK_OK(extent_layout(&v.spec, &layout, &err), err);
    extent_header_write(&v.spec, &layout, payload, header, NULL, &now);
    off_t place = (off_t)(ref->first_block * BLOCK);
    CHECK(pwrite(fd, header, v.at.payload_offset, place) == (ssize_t)v.at.payload_offset);
    CHECK(pwrite(fd, payload, v.spec.payload_len, place + v.at.payload_offset) ==
          (ssize_t)v.spec.payload_len);
    close(fd);
    free(payload);
    free(header);
    CHECK(sqlite3_exec(writer.db, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK);
    CHECK_OK(extents_remove(&writer, &meta, ref->first_block, &was, &err), err);
    CHECK_OK(extents_insert(&writer, &meta, &now, &err), err);
    CHECK_OK(extents_meta_store(&writer, &meta, &err), err);
    CHECK(sqlite3_exec(writer.db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK);
    sqlite3 *db = writer.db;
    extents_writer_fini(&writer);
    sqlite3_close(db);
}

TEST(an_index_of_another_version_is_built_anew)
{
    static const uint16_t kinds[] = {KIND_PACK, KIND_CORE, KIND_DIRECTORY};
    struct image im;
    take_image(&im, test_path("a.db"), true);
    for (size_t i = 0; i < 2 * sizeof kinds / sizeof *kinds; i++) {
        struct world w;
        char what[60];
        uint16_t version = i % 2 ? 1 : 99;
        snprintf(what, sizeof what, "kind %u of version %u", kinds[i / 2], version);
        file_write(im.path, &im.db);
        file_write(sidecar_of(im.path), &im.sidecar);
        renumber(&im, find_extent(&im, kinds[i / 2], false), 4, version);
        world_open(&w, im.path, WARM, MN_OPEN_NO_BACKGROUND);
        load_rows(&w);
        CHECKF(check_answers(&w, what) == 0, "%s: the index answers", what);
        CHECKF(strstr(w.said.last, "version"), "%s: %s", what, w.said.last);
        CHECKF(indexed_verify(w.conn), "%s: verify finds nothing", what);
        CHECK_OK(mn_fold(w.conn, "c", &err), err);
        CHECKF(check_answers(&w, what) == 2, "%s: the index does not answer", what);
        const char *wrong = indexed_verify(w.conn);
        CHECKF(!wrong, "%s: %s", what, wrong);
        world_close(&w);
    }
    image_free(&im);
}

TEST_MAIN
