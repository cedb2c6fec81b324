/*
 * The dial of what is in memory. Centroids, and of each part what it is, always are. If all packs
 * find room, they are too. Else packs are away: a search reads the parts of the postings that it
 * visits, one read a part, all of a step at once, each checked and scanned in its turn; and the
 * parts that are read most often stay in what room there is, for as long as the version's pack
 * does. Codes are what they were and scanned in the same order, so estimates, answers and the
 * calibrated knobs are the same, to the bit, whatever is away.
 *
 * Why whole parts, and not their bit planes. Where 1-bit codes are in memory and the other bits are
 * not, a search must read the other bits of each posting in which some row survives the 1-bit test:
 * nearly every one that it visits. So the planes save bytes of each read and hardly a read, for
 * memory that would hold a fourth of all parts whole and save that share of the reads. Doing
 * without the other bits costs one page a candidate. Figures: docs/decisions.md, 2026-11-25.
 *
 * A part is believed if its CRC is that which was taken when the whole pack had been checked. If it
 * is not, or cannot be read, the pack is gone: the search is answered from the rows, the version is
 * broken, and the next search loads it anew, which finds out what is damaged (ivf_heal.c).
 *
 * A version holds packs away only if the sidecar has them. Those that a fold makes are in memory
 * until they are settled.
 */
#include "src/engine/ivf_away.h"

#include <stdlib.h>
#include <string.h>

#include "src/engine/ivf_heal.h"
#include "src/engine/ivf_store.h"
#include "storage/base/crc.h"
#include "storage/io_disk.h"

enum {
    DEPTH = 64,        /* parts on their way at once, at most */
    KEEP_FROM = 4,     /* reads after which a part is kept; reads a query of 331,479 words under
                          16 MiB: 36 from 2 on, 32 from 9 on, 31 from 33 on */
    TURNS = 128,       /* the same with those that are in memory */
    HELD = 2,          /* taken parts whose bytes stand */
    ARENA_BLOCKS = 128, /* memory that they land in: 512 KiB, or the largest part */
    SEARCH_ROOM = 2 << 20,
    FOLD_ROOM = 3 << 20
};

static mn_status no_memory(const mn_db *db, mn_error *err)
{
    return mn_fail(err, MN_NOMEM, "%s: out of memory under the cap for the index", db->path);
}

/* ---- Packs ----------------------------------------------------------------------------------- */

mn_status ivf_send_away(mn_db *db, const struct ivf_pack *p, struct ivf_pack **out, mn_error *err)
{
    struct mn_alloc *a = db->alloc;
    const struct extent_spec spec = {.kind = KIND_PACK, .payload_len = p->bytes.len};
    struct extent_layout at;
    *out = NULL;
    mn_status st = extent_layout(&spec, &at, err);
    if (st)
        return st;
    struct ivf_pack *twin = mn_alloc_array(a, 1, sizeof *twin, MN_TAG_CACHE);
    if (!twin)
        return no_memory(db, err);
    atomic_init(&twin->refs, 1);
    twin->object = p->object;
    twin->ref = p->ref;
    twin->n_parts = p->n_parts;
    twin->bytes.len = p->bytes.len;
    twin->parts = mn_alloc_array(a, p->n_parts, sizeof *twin->parts, MN_TAG_CACHE);
    twin->away = mn_alloc_array(a, p->n_parts, sizeof *twin->away, MN_TAG_CACHE);
    if (!twin->parts || !twin->away) {
        ivf_pack_release(db, twin);
        return no_memory(db, err);
    }
    for (uint32_t i = 0; i < p->n_parts; i++) {
        struct ivf_part *part = &twin->parts[i];
        struct ivf_away *away = &twin->away[i];
        *part = p->parts[i];
        away->at = ivf_pack_span(p, i);
        away->crc = crc32c(0, p->bytes.payload + away->at.offset, away->at.all);
        away->at.offset += at.payload_offset;
        part->view.blocks = part->view.records = part->view.ids = NULL;
        part->slots = NULL;
    }
    *out = twin;
    return MN_OK;
}

/* Two askers' memory; and either what pending rows may take (cache_has_room), or a fold: the
 * centroids as they are, a pack that it reads, and what it makes. */
uint64_t ivf_reserve(const mn_db *db, const struct ivf_core *core)
{
    uint64_t cap = mn_alloc_cap(db->alloc);
    uint64_t fold = (uint64_t)core->n_lists * core->entry.dim * sizeof(float) + FOLD_ROOM;
    return SEARCH_ROOM + (fold > cap / 8 ? fold : cap / 8);
}

bool ivf_has_room(const mn_db *db, const struct ivf_core *core, uint64_t bytes)
{
    uint64_t cap = mn_alloc_cap(db->alloc), used = mn_alloc_used(db->alloc);
    return !db->limits.away && used + bytes + ivf_reserve(db, core) <= cap;
}

void ivf_lose_away(mn_db *db, struct sidecar *s, struct ivf_pack *p, const char *why)
{
    if (atomic_exchange_explicit(&p->gone, true, memory_order_relaxed))
        return;
    heal_count_lost(db, s);
    db_log(db, MN_LOG_WARN, "heal",
           "pack %u of collection %u, whose codes are read from the sidecar, is lost: %s; the "
           "index is loaded anew without it",
           p->object, p->ref.collection, why);
}

bool ivf_has_gone(const struct ivf *x)
{
    for (uint32_t i = 0; x->n_away && i < x->n_uses; i++)
        if (atomic_load_explicit(&x->uses[i].pack->gone, memory_order_relaxed))
            return true;
    return false;
}

/* A part of these bytes; *out has pointers into them. */
static mn_status open_bytes(const struct ivf_core *core, const struct ivf_pack *p, uint32_t index,
                            const uint8_t *bytes, struct ivf_part *out, mn_error *err)
{
    const struct ivf_span *at = &p->away[index].at;
    *out = p->parts[index];
    mn_status st = posting_open(bytes, at->len, core->seed, &out->view, err);
    out->slots = at->all > at->len ? bytes + (at->len + 3) / 4 * 4 : NULL;
    return st;
}

/* The same of bytes that have just been read. */
static mn_status open_landed(const struct ivf_core *core, const struct ivf_pack *p, uint32_t index,
                             const uint8_t *bytes, struct ivf_part *out, mn_error *err)
{
    const struct ivf_away *away = &p->away[index];
    *out = p->parts[index];
    if (crc32c(0, bytes, away->at.all) != away->crc)
        return mn_fail(err, MN_CORRUPT, "part %u has another checksum", index);
    return open_bytes(core, p, index, bytes, out, err);
}

/* ---- For folds ------------------------------------------------------------------------------- */

mn_status ivf_read_part(mn_db *db, struct sidecar *s, const struct ivf_core *core,
                        struct ivf_pack *p, uint32_t index, void **buffer, struct ivf_part *out,
                        mn_error *err)
{
    uint64_t first = ivf_part_block(p, index), skip = p->away[index].at.offset % EXTENT_BLOCK;
    size_t bytes = (size_t)ivf_part_blocks(p, index) * EXTENT_BLOCK;
    mn_error own = {0};
    *buffer = mn_alloc_aligned(db->alloc, bytes, IO_ALIGN, MN_TAG_IO);
    if (!*buffer)
        return no_memory(db, err);
    mn_status st = io_read_whole(sidecar_file(s), first * EXTENT_BLOCK, *buffer, bytes,
                                 sidecar_path(s), &own);
    if (st == MN_OK)
        st = open_landed(core, p, index, (const uint8_t *)*buffer + skip, out, &own);
    if (st)
        ivf_lose_away(db, s, p, own.message);
    return st ? mn_fail(err, st, "index pack %u: %s", p->object, own.message) : MN_OK;
}

mn_status ivf_part_of(mn_db *db, const struct ivf_core *core, const struct ivf_use *u,
                      const struct ivf_sink *sink, void **buffer, struct ivf_part *out,
                      mn_error *err)
{
    (void)db;
    *buffer = NULL;
    *out = *ivf_use_part(u);
    return u->pack->away ? sink->part(sink->ctx, core, u->pack, u->index, buffer, out, err) : MN_OK;
}

static int by_pack(const void *a, const void *b, void *ctx)
{
    const struct ivf_use *uses = ctx;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    uint32_t x = uses[i].pack->object, y = uses[j].pack->object;
    return x != y ? (x > y) - (x < y) : (i > j) - (i < j);
}

/* The uses order[n] of one away pack. */
static mn_status walk_pack(mn_db *db, const struct ivf_core *core, const struct ivf_use *uses,
                           const uint32_t *order, uint32_t n, const struct ivf_sink *sink,
                           ivf_walk_fn fn, void *ctx, mn_error *err)
{
    struct ivf_pack *p = uses[order[0]].pack, *here = NULL;
    mn_status st = sink->reload(sink->ctx, core, p, &here, err);
    for (uint32_t i = 0; i < n && st == MN_OK; i++)
        st = fn(ctx, order[i], &here->parts[uses[order[i]].index], err);
    ivf_pack_release(db, here);
    return st;
}

mn_status ivf_walk(mn_db *db, const struct ivf_core *core, const struct ivf_use *uses, uint32_t n,
                   const struct ivf_sink *sink, ivf_walk_fn fn, void *ctx, mn_error *err)
{
    uint32_t n_away = 0;
    mn_status st = MN_OK;
    for (uint32_t i = 0; i < n && st == MN_OK; i++) {
        n_away += uses[i].pack && uses[i].pack->away;
        if (uses[i].pack && !uses[i].pack->away)
            st = fn(ctx, i, ivf_use_part(&uses[i]), err);
    }
    if (st || !n_away)
        return st;
    uint32_t *order = mn_alloc_array(db->alloc, n_away, sizeof *order, MN_TAG_SEARCH), k = 0;
    if (!order)
        return no_memory(db, err);
    for (uint32_t i = 0; i < n; i++)
        if (uses[i].pack && uses[i].pack->away)
            order[k++] = i;
    qsort_r(order, n_away, sizeof *order, by_pack, (void *)(uintptr_t)uses);
    for (uint32_t first = 0, end; first < n_away && st == MN_OK; first = end) {
        for (end = first; end < n_away && uses[order[end]].pack == uses[order[first]].pack;)
            end++;
        st = walk_pack(db, core, uses, order + first, end - first, sink, fn, ctx, err);
    }
    mn_free(db->alloc, order);
    return st;
}

mn_status ivf_walk_version(mn_conn *conn, const struct ivf *x, ivf_walk_fn fn, void *ctx,
                           mn_error *err)
{
    struct ivf_writer w = {.db = conn->db, .collection = (uint32_t)x->core->entry.number};
    mn_status st = x->n_away ? ivf_sidecar(conn, &w.sidecar, err) : MN_OK;
    if (st == MN_OK && x->n_away && !w.sidecar)
        st = mn_fail(err, MN_CORRUPT, "index of '%s': its sidecar is not there",
                     x->core->entry.name);
    struct ivf_sink sink = ivf_writer_sink(&w);
    if (st == MN_OK)
        st = ivf_walk(conn->db, x->core, x->uses, x->n_uses, &sink, fn, ctx, err);
    sidecar_close(w.sidecar);
    return st;
}

/* ---- For searches ---------------------------------------------------------------------------- */

/* A part that was asked for. */
struct turn {
    uint32_t use;             /* of x->uses */
    uint32_t block, n_blocks; /* in the arena; n_blocks 0: it is here */
    const uint8_t *bytes;     /* NULL: it has not landed */
    int error;                /* of the read */
};

/* turns[] is a ring: taken parts whose bytes still stand, then those that wait to be taken; so is
 * the arena. */
struct away_reader {
    mn_conn *conn;
    struct sidecar *sidecar;
    struct io_batch *batch;
    char *raw;   /* for mn_free */
    char *arena; /* [blocks] of EXTENT_BLOCK, aligned */
    uint32_t blocks;
    struct ann_fetch fetch;
    struct ivf *x;
    bool keeps;
    uint64_t *reads, *bytes;
    const uint32_t *postings; /* [n] wanted; those before `at` were asked for, */
    size_t n, at;
    uint32_t next_use; /* and of that one the parts before this one; UINT32_MAX: its first */
    struct turn turns[TURNS];
    uint64_t first, taken, end; /* turns, counted from the begin: that stand, that were taken */
    uint32_t room;     /* the arena's block behind the last one given out */
};

static uint32_t arena_blocks(uint32_t most_blocks)
{
    uint32_t least = (HELD + 1) * most_blocks + 1;
    return least > ARENA_BLOCKS ? least : ARENA_BLOCKS;
}

size_t away_reader_bytes(uint32_t most_blocks)
{
    return sizeof(struct away_reader) + (size_t)arena_blocks(most_blocks) * EXTENT_BLOCK +
           IO_ALIGN + DEPTH * 100;
}

void away_reader_destroy(struct away_reader *r)
{
    if (!r)
        return;
    io_batch_destroy(r->batch);
    sidecar_close(r->sidecar);
    mn_free(r->conn->db->alloc, r->raw);
    mn_free(r->conn->db->alloc, r);
}

mn_status away_reader_open(mn_conn *conn, struct sidecar *s, uint32_t most_blocks,
                           struct away_reader **out, mn_error *err)
{
    mn_db *db = conn->db;
    mn_status st = MN_OK;
    *out = NULL;
    struct away_reader *r = mn_alloc_array(db->alloc, 1, sizeof *r, MN_TAG_HANDLE);
    if (!r)
        return no_memory(db, err);
    r->conn = conn;
    r->sidecar = sidecar_share(s);
    r->blocks = arena_blocks(most_blocks);
    size_t bytes = (size_t)r->blocks * EXTENT_BLOCK;
    r->raw = mn_alloc(db->alloc, bytes + IO_ALIGN, MN_TAG_IO);
    if (!r->raw)
        st = no_memory(db, err);
    if (st == MN_OK) {
        r->arena = r->raw + (IO_ALIGN - (uintptr_t)r->raw % IO_ALIGN) % IO_ALIGN;
        struct mn_file *file = sidecar_file(s);
        struct io_batch_opts opts = {.depth = DEPTH,
                                     .max_reads = DEPTH,
                                     .files = &file,
                                     .n_files = 1,
                                     .arena = r->arena,
                                     .arena_bytes = bytes};
        st = io_batch_create(db->disk, &opts, &r->batch, err);
    }
    if (st)
        away_reader_destroy(r);
    else
        *out = r;
    return st;
}

struct sidecar *away_reader_sidecar(const struct away_reader *r)
{
    return r->sidecar;
}

bool away_reader_fits(const struct away_reader *r, uint32_t most_blocks)
{
    mn_db *db = r->conn->db;
    pthread_mutex_lock(&db->sidecar_lock);
    bool fits = r->sidecar == db->sidecar && r->blocks >= arena_blocks(most_blocks);
    pthread_mutex_unlock(&db->sidecar_lock);
    return fits;
}

/* The oldest turn that has blocks of the arena; NULL: all of it is free. */
static const struct turn *oldest_read(const struct away_reader *r)
{
    for (uint64_t i = r->first; i < r->end; i++)
        if (r->turns[i % TURNS].n_blocks)
            return &r->turns[i % TURNS];
    return NULL;
}

/* So many blocks of the arena in a row, behind those given out before; UINT32_MAX: there are none
 * now. */
static uint32_t find_room(const struct away_reader *r, uint32_t n)
{
    const struct turn *oldest = oldest_read(r);
    if (!oldest)
        return 0;
    if (r->room <= oldest->block) /* it has gone round */
        return oldest->block - r->room > n ? r->room : UINT32_MAX;
    if (r->blocks - r->room >= n)
        return r->room;
    return oldest->block > n ? 0 : UINT32_MAX;
}

/* Moves on to the next wanted use that is away. False: that were all. */
static bool find_next(struct away_reader *r)
{
    const struct ivf *x = r->x;
    for (; r->at < r->n; r->at++, r->next_use = UINT32_MAX) {
        uint32_t posting = r->postings[r->at];
        if (r->next_use == UINT32_MAX)
            r->next_use = x->first[posting];
        for (; r->next_use < x->first[posting + 1]; r->next_use++) {
            const struct ivf_use *u = &x->uses[r->next_use];
            if (u->pack->away && ivf_use_part(u)->view.n)
                return true;
        }
    }
    return false;
}

/* Asks for as many parts as there is room for. */
static mn_status ask_more(struct away_reader *r, mn_error *err)
{
    struct io_want wants[DEPTH];
    size_t n = 0, most = io_batch_room(r->batch);
    while (n < most && r->end - r->first < TURNS && find_next(r)) {
        const struct ivf_use *u = &r->x->uses[r->next_use];
        struct turn *t = &r->turns[r->end % TURNS];
        *t = (struct turn){.use = r->next_use};
        t->bytes = atomic_load_explicit(&u->pack->away[u->index].here, memory_order_acquire);
        if (!t->bytes) {
            uint32_t blocks = ivf_part_blocks(u->pack, u->index), room = find_room(r, blocks);
            if (room == UINT32_MAX)
                break;
            t->block = room;
            t->n_blocks = blocks;
            r->room = room + blocks;
            wants[n++] = (struct io_want){.file = sidecar_file(r->sidecar),
                                          .off = ivf_part_block(u->pack, u->index) * EXTENT_BLOCK,
                                          .len = blocks * EXTENT_BLOCK,
                                          .buf = r->arena + (size_t)room * EXTENT_BLOCK,
                                          .tag = r->end % TURNS};
            *r->bytes += (uint64_t)blocks * EXTENT_BLOCK;
        }
        r->end++;
        r->next_use++;
    }
    *r->reads += n;
    return n ? io_batch_submit(r->batch, wants, n, err) : MN_OK;
}

void away_fetch_end(struct away_reader *r)
{
    if (!r)
        return;
    io_batch_drain(r->batch);
    r->first = r->taken = r->end = 0;
    r->room = 0;
    r->n = r->at = 0;
}

static mn_status fetch_begin(void *ctx, const uint32_t *postings, size_t n, mn_error *err)
{
    struct away_reader *r = ctx;
    away_fetch_end(r);
    r->postings = postings;
    r->n = n;
    r->next_use = UINT32_MAX;
    return ask_more(r, err);
}

/* A part that was read several times stays, if there is room: so the parts that are read most often
 * come first, and one pass over all of them changes nothing. */
static void keep(struct away_reader *r, struct ivf_pack *p, uint32_t index, const uint8_t *bytes)
{
    mn_db *db = r->conn->db;
    struct ivf_away *away = &p->away[index];
    uint8_t *none = NULL;
    if (atomic_fetch_add_explicit(&away->reads, 1, memory_order_relaxed) + 1 < KEEP_FROM ||
        !ivf_has_room(db, r->x->core, away->at.all))
        return;
    uint8_t *here = mn_alloc_aligned(db->alloc, away->at.all, 64, MN_TAG_CACHE);
    if (!here)
        return;
    memcpy(here, bytes, away->at.all);
    if (!atomic_compare_exchange_strong_explicit(&away->here, &none, here, memory_order_release,
                                                 memory_order_relaxed))
        mn_free(db->alloc, here);
}

/* Waits until a turn has landed. */
static void wait_for(struct away_reader *r, const struct turn *t)
{
    struct io_done done;
    while (!t->bytes && io_batch_next(r->batch, -1, &done)) {
        struct turn *landed = &r->turns[done.tag];
        const struct ivf_use *u = &r->x->uses[landed->use];
        landed->error = done.error;
        landed->bytes =
            (const uint8_t *)done.buf + u->pack->away[u->index].at.offset % EXTENT_BLOCK;
    }
}

/* More are asked for when half of them have been taken: one call for many. */
static mn_status fetch_next(void *ctx, struct ann_fetched *out, mn_error *err)
{
    struct away_reader *r = ctx;
    struct ivf_part part;
    mn_error own = {0};
    mn_status st = MN_OK;
    if (r->taken - r->first == HELD)
        r->first++;
    if (r->taken == r->end || (r->at < r->n && r->end - r->taken <= DEPTH / 2))
        st = ask_more(r, err);
    if (st || r->taken == r->end)
        return st ? st : mn_fail(err, MN_MISUSE, "more parts are wanted than were asked for");
    struct turn *t = &r->turns[r->taken++ % TURNS];
    const struct ivf_use *u = &r->x->uses[t->use];
    wait_for(r, t);
    if (t->error)
        st = mn_fail_os(&own, MN_IO, -t->error, "%s: reading a part", sidecar_path(r->sidecar));
    else if (t->n_blocks)
        st = open_landed(r->x->core, u->pack, u->index, t->bytes, &part, &own);
    else
        st = open_bytes(r->x->core, u->pack, u->index, t->bytes, &part, &own);
    if (st) {
        ivf_lose_away(r->conn->db, r->sidecar, u->pack, own.message);
        ivf_break(r->x);
        return mn_fail(err, st, "index pack %u: %s", u->pack->object, own.message);
    }
    if (r->keeps && t->n_blocks)
        keep(r, u->pack, u->index, t->bytes);
    *out = (struct ann_fetched){.view = part.view, .tags = part.slots};
    return MN_OK;
}

const struct ann_fetch *away_fetch(struct away_reader *r, struct ivf *x, bool keeps,
                                   uint64_t *reads, uint64_t *bytes)
{
    away_fetch_end(r);
    r->x = x;
    r->keeps = keeps;
    r->reads = reads;
    r->bytes = bytes;
    r->fetch = (struct ann_fetch){fetch_begin, fetch_next, r};
    return &r->fetch;
}
