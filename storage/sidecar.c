/*
 * The format, little-endian, in blocks of 4 KiB:
 *
 *   block 0, 1   file header, two equal copies, written once and flushed before app.db first refers
 *                to the file
 *      0 magic "MNEMESC\1" | 8 format u16 | 10 min_reader u16 | 12 block_log2 u8, zeros
 *     16 db_id[16] | 32 created_us u64 | 40 header_len u32
 *     44 features u32 x 3: compat, ro_compat (unknown: read only), incompat (unknown: refuse)
 *     56 file_id u64: a random number that app.db knows too | zeros | 4092 CRC32C of 0 .. 4091
 *   block 2, 3   intent slots, written alternately (generation & 1), each before its publish
 *      0 magic u32 | 4 CRC32C of 8 .. 4095 | 8 db_id[0..7] | 16 generation u64 | 24 nonce u64
 *     32 file_blocks u64 | zeros
 *   block 4 ..   extents (storage/extent.h), wherever the catalog in app.db names them; what it
 * does not name is free space, whatever it contains
 *
 * The intent tells at open whether app.db and sidecar are of one moment. With the catalog at
 * generation G and nonce N, the newest intent may be (G, N), or G + 1 of a publish that did not
 * come to its commit: it wrote only blocks that were free at G. Anything else means that one of the
 * two files was restored from a copy; then the header of every extent is checked against the
 * catalog before it is believed.
 *
 * A new file is made under SQLite's write lock: create, both headers, flush, flush of the folder,
 * and only then the commit by which app.db refers to it. So a file that no app.db refers to may be
 * an unfinished creation; if it holds nothing but what a creation writes, it is made anew.
 */
#include "storage/sidecar.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "storage/base/bytes.h"
#include "storage/base/crc.h"
#include "storage/base/error.h"
#include "storage/base/mutate.h"

enum {
    BLOCK = EXTENT_BLOCK,
    HEAD_BYTES = SIDECAR_HEAD_BLOCKS * BLOCK,
    INTENT_MAGIC = 0x49454e4d /* "MNEI" */
};

static const uint8_t magic[8] = {'M', 'N', 'E', 'M', 'E', 'S', 'C', 1};

struct sidecar {
    struct mn_fs *fs;         /* set in open */
    struct mn_alloc *alloc;   /* set in open */
    char *path;               /* set in open */
    struct mn_file *file;     /* set in open */
    uint8_t db_id[16];        /* set in open */
    uint64_t db_tag, file_id; /* set in open */
    uint64_t created_us;      /* set in open */
    bool writable;            /* set in open */
    bool bad_copy[2];         /* header copies to be mended; the lease's holder */
    bool keep_header;         /* ... from the other copy; else by a new header; the same */
    uint8_t *block;        /* set in open; one block for headers and intents; the lease's holder */
    _Atomic unsigned refs; /* holders; relaxed up, acquire-release down */
    _Atomic bool leased;   /* exchanged by sidecar_lock */
    _Atomic uint64_t lost; /* relaxed; statistics only */
    pthread_mutex_t lock;  /* guards what follows; never held over I/O */
    bool poisoned;
    int poison_errno;
    uint64_t poison_time_us;
};

static const char *const state_names[] = {
    [SIDECAR_NONE] = "none",       [SIDECAR_GOOD] = "good",       [SIDECAR_MISPAIRED] = "mispaired",
    [SIDECAR_MISSING] = "missing", [SIDECAR_FOREIGN] = "foreign", [SIDECAR_NEWER] = "newer",
    [SIDECAR_DAMAGED] = "damaged",
};

const char *sidecar_state_name(enum sidecar_state s)
{
    size_t i = (size_t)s;
    return i < sizeof state_names / sizeof state_names[0] ? state_names[i] : "unknown";
}

/* What a failed call of the seam means. */
static mn_status fail_io(const char *path, int rc, const char *what, mn_error *err)
{
    switch (rc) {
    case -ENOSPC:
    case -EDQUOT:
    case -EFBIG:
        return mn_fail_os(err, MN_FULL, -rc, "%s: %s; make room on the disk", path, what);
    case -ENOMEM:
        return mn_fail(err, MN_NOMEM, "%s: %s: out of memory", path, what);
    case -EACCES:
    case -EPERM:
    case -EROFS:
        return mn_fail_os(err, MN_READONLY, -rc, "%s: %s", path, what);
    default:
        return mn_fail_os(err, MN_IO, -rc, "%s: %s", path, what);
    }
}

static uint64_t wall_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- Blocks of the head ---------------------------------------------------------------------- */

struct header {
    uint16_t min_reader;
    uint8_t db_id[16];
    uint64_t created_us, file_id;
    uint32_t ro_compat, incompat;
};

struct intent {
    uint64_t generation, nonce;
};

static void header_write(uint8_t *b, const uint8_t db_id[16], uint64_t created_us, uint64_t file_id)
{
    memset(b, 0, BLOCK);
    memcpy(b, magic, sizeof magic);
    le16_put(b + 8, SIDECAR_FORMAT);
    le16_put(b + 10, SIDECAR_FORMAT);
    b[12] = 12;
    memcpy(b + 16, db_id, 16);
    le64_put(b + 32, created_us);
    le32_put(b + 40, BLOCK);
    le64_put(b + 56, file_id);
    le32_put(b + BLOCK - 4, crc32c(0, b, BLOCK - 4));
}

/* False: no header, or a damaged one. */
static bool header_read(const uint8_t *b, struct header *h)
{
    if (memcmp(b, magic, sizeof magic) != 0 || le32_get(b + BLOCK - 4) != crc32c(0, b, BLOCK - 4))
        return false;
    h->min_reader = le16_get(b + 10);
    memcpy(h->db_id, b + 16, 16);
    h->created_us = le64_get(b + 32);
    h->ro_compat = le32_get(b + 48);
    h->incompat = le32_get(b + 52);
    h->file_id = le64_get(b + 56);
    return true;
}

static bool header_is_newer(const struct header *h)
{
    return h->min_reader > SIDECAR_FORMAT || h->incompat;
}

static void intent_write(uint8_t *b, uint64_t db_tag, uint64_t generation, uint64_t nonce,
                         uint64_t file_blocks)
{
    memset(b, 0, BLOCK);
    le32_put(b, INTENT_MAGIC);
    le64_put(b + 8, db_tag);
    le64_put(b + 16, generation);
    le64_put(b + 24, nonce);
    le64_put(b + 32, file_blocks);
    le32_put(b + 4, crc32c(0, b + 8, BLOCK - 8));
}

static bool intent_read(const uint8_t *b, uint64_t db_tag, struct intent *out)
{
    if (le32_get(b) != INTENT_MAGIC || le32_get(b + 4) != crc32c(0, b + 8, BLOCK - 8) ||
        le64_get(b + 8) != db_tag)
        return false;
    *out = (struct intent){le64_get(b + 16), le64_get(b + 24)};
    return true;
}

static bool all_zero(const uint8_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (b[i])
            return false;
    return true;
}

/* What the first four blocks say; missing ones read as zeros. */
struct head {
    uint64_t size; /* bytes of the file */
    bool has_header[2];
    struct header header[2];
    const struct header *h; /* a good one; NULL: none */
    bool has_intent[2];
    struct intent intent[2];
    bool is_sidecar; /* a magic stands where it should, or all four blocks are zeros */
};

static mn_status head_read(const char *path, struct mn_file *f, uint64_t db_tag, uint8_t *buf,
                           struct head *out, mn_error *err)
{
    size_t got = 0;
    memset(out, 0, sizeof *out);
    memset(buf, 0, HEAD_BYTES);
    int rc = io_size(f, &out->size);
    if (rc == 0)
        rc = io_read(f, buf, HEAD_BYTES, 0, &got);
    if (rc)
        return fail_io(path, rc, "reading the header", err);
    memset(buf + got, 0, HEAD_BYTES - got);
    for (int i = 0; i < 2; i++) {
        const uint8_t *slot = buf + (2 + i) * BLOCK;
        out->has_header[i] = header_read(buf + i * BLOCK, &out->header[i]);
        if (out->has_header[i] && !out->h)
            out->h = &out->header[i];
        out->has_intent[i] = intent_read(slot, db_tag, &out->intent[i]);
        out->is_sidecar |= memcmp(buf + i * BLOCK, magic, sizeof magic) == 0;
        out->is_sidecar |= out->has_intent[i];
    }
    out->is_sidecar |= all_zero(buf, HEAD_BYTES);
    return MN_OK;
}

/* ---- Findings -------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static void
find(struct sidecar_finding *f, enum sidecar_state state, const char *format, ...)
{
    va_list args;
    f->state = state;
    va_start(args, format);
    vsnprintf(f->message, sizeof f->message, format, args);
    va_end(args);
}

static uint64_t tag_of(const uint8_t db_id[16])
{
    return le64_get(db_id);
}

static void hex(const uint8_t id[16], char out[33])
{
    for (int i = 0; i < 16; i++)
        snprintf(out + 2 * i, 3, "%02x", id[i]);
}

/* Whose file is it, and can we read it? Sets GOOD if so. */
static void judge_head(const char *path, const struct head *d, const struct sidecar_meta *meta,
                       struct sidecar_finding *f)
{
    char have[33], want[33];
    f->state = SIDECAR_GOOD;
    for (int i = 0; i < 2; i++) {
        const struct header *h = &d->header[i];
        if (!d->has_header[i])
            continue;
        if (memcmp(h->db_id, meta->db_id, 16) != 0 && !MUTATE(FOREIGN)) {
            hex(h->db_id, have);
            hex(meta->db_id, want);
            find(f, SIDECAR_FOREIGN,
                 "%s: belongs to database %s, this is %s; it is left alone: move it away, or "
                 "rebuild the index in its place",
                 path, have, want);
            return;
        }
        if (header_is_newer(h)) {
            find(f, SIDECAR_NEWER,
                 "%s: needs a Mneme that reads format %u (features %08x); this one reads %d: "
                 "upgrade it",
                 path, h->min_reader, h->incompat, SIDECAR_FORMAT);
            return;
        }
        f->readonly |= h->ro_compat != 0;
    }
    if (d->has_header[0] != d->has_header[1]) {
        f->one_header = true;
        find(f, SIDECAR_GOOD, "%s: the %s copy of its header is damaged; the other is used", path,
             d->has_header[0] ? "second" : "first");
    }
    if (d->h || d->has_intent[0] || d->has_intent[1])
        return;
    if (d->is_sidecar)
        find(f, SIDECAR_DAMAGED, "%s: its headers are damaged; it must be built anew", path);
    else
        find(f, SIDECAR_FOREIGN,
             "%s: is no sidecar of Mneme; it is left alone: rebuild the index to replace it, or "
             "move the file away",
             path);
}

/* Does the newest intent belong to this catalog? See the top of this file. */
static bool is_paired(const struct head *d, const struct sidecar_meta *meta)
{
    const struct intent *newest = NULL;
    for (int i = 0; i < 2; i++)
        if (d->has_intent[i] && (!newest || d->intent[i].generation > newest->generation))
            newest = &d->intent[i];
    if (d->h && d->h->file_id != meta->file_id)
        return false;
    if (!newest) /* the first one may be torn, and nothing is there to misfit yet */
        return meta->generation == 0;
    if (newest->generation == meta->generation)
        return newest->nonce == meta->nonce;
    if (newest->generation != meta->generation + 1)
        return false;
    const struct intent *own = &d->intent[meta->generation & 1];
    bool has_own = d->has_intent[meta->generation & 1];
    return !has_own || meta->generation == 0 ||
           (own->generation == meta->generation && own->nonce == meta->nonce);
}

/* Marks what lies behind the file's end. */
static uint32_t mark_short(const struct head *d, const struct extent_ref *extents, size_t n,
                           bool *lost)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        bool gone = extents[i].first_block + extents[i].n_blocks > d->size / BLOCK;
        count += gone;
        if (lost)
            lost[i] = gone;
    }
    return count;
}

/* Checks the header of every extent. */
static mn_status mark_misfits(struct sidecar *s, const struct extent_ref *extents, size_t n,
                              bool *lost, uint32_t *n_lost, mn_error *err)
{
    *n_lost = 0;
    for (size_t i = 0; i < n; i++) {
        struct extent_view v;
        mn_error why = {0};
        size_t len = (size_t)extent_header_blocks(&extents[i]) * BLOCK;
        uint8_t *buf = mn_alloc(s->alloc, len + IO_ALIGN, MN_TAG_IO);
        if (!buf)
            return mn_fail(err, MN_NOMEM, "%s: out of memory for a header of %zu bytes", s->path,
                           len);
        uint8_t *at = buf + (-(uintptr_t)buf & (IO_ALIGN - 1));
        mn_status st = sidecar_read_header(s, &extents[i], at, len, &v, &why);
        mn_free(s->alloc, buf);
        if (st != MN_OK && st != MN_CORRUPT) {
            if (err)
                *err = why;
            return st;
        }
        *n_lost += st == MN_CORRUPT;
        if (lost)
            lost[i] = st == MN_CORRUPT;
    }
    return MN_OK;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* An aligned block behind what was allocated: freed by the first pointer. */
static uint8_t *aligned(uint8_t *p)
{
    return p + (-(uintptr_t)p & (IO_ALIGN - 1));
}

static mn_status sidecar_alloc(const struct sidecar_opts *o, const struct sidecar_meta *meta,
                               struct sidecar **out, mn_error *err)
{
    struct sidecar *s = mn_alloc_array(o->alloc, 1, sizeof *s, MN_TAG_HANDLE);
    *out = NULL;
    if (!s)
        return mn_fail(err, MN_NOMEM, "%s: out of memory", o->path);
    atomic_init(&s->refs, 1);
    s->fs = o->fs;
    s->alloc = o->alloc;
    s->writable = o->writable;
    s->path = mn_strdup(o->alloc, o->path, MN_TAG_HANDLE);
    s->block = mn_alloc(o->alloc, HEAD_BYTES + IO_ALIGN, MN_TAG_HANDLE);
    if (!s->path || !s->block || pthread_mutex_init(&s->lock, NULL)) {
        mn_free(o->alloc, s->path);
        mn_free(o->alloc, s->block);
        mn_free(o->alloc, s);
        return mn_fail(err, MN_NOMEM, "%s: out of memory", o->path);
    }
    memcpy(s->db_id, meta->db_id, sizeof s->db_id);
    s->db_tag = tag_of(s->db_id);
    s->file_id = meta->file_id;
    *out = s;
    return MN_OK;
}

/* Opens the file; -ENOENT is a finding. What may not be written is opened for reading. */
static mn_status open_file(struct sidecar *s, struct sidecar_finding *f, mn_error *err)
{
    int rc = s->writable ? io_open(s->fs, s->path, IO_WRITE | IO_DIRECT, &s->file) : -EACCES;
    if (rc == -EACCES || rc == -EPERM || rc == -EROFS) {
        f->readonly |= s->writable;
        s->writable = false;
        rc = io_open(s->fs, s->path, IO_DIRECT, &s->file);
    }
    if (rc == -ENOENT) {
        find(f, SIDECAR_MISSING, "%s: is missing; it must be built anew", s->path);
        return MN_OK;
    }
    return rc ? fail_io(s->path, rc, "opening", err) : MN_OK;
}

mn_status sidecar_open(const struct sidecar_opts *opts, const struct sidecar_meta *meta,
                       const struct extent_ref *extents, size_t n, bool *lost, struct sidecar **out,
                       struct sidecar_finding *found, mn_error *err)
{
    struct sidecar *s = NULL;
    struct head d;
    *out = NULL;
    *found = (struct sidecar_finding){.state = SIDECAR_NONE};
    for (size_t i = 0; lost && i < n; i++)
        lost[i] = true;
    if (!meta->exists)
        return MN_OK;
    found->state = SIDECAR_GOOD;
    mn_status st = sidecar_alloc(opts, meta, &s, err);
    if (st == MN_OK)
        st = open_file(s, found, err);
    if (st || found->state == SIDECAR_MISSING)
        goto done;
    bool readonly = found->readonly;
    st = head_read(s->path, s->file, s->db_tag, aligned(s->block), &d, err);
    if (st)
        goto done;
    judge_head(s->path, &d, meta, found);
    found->readonly |= readonly;
    if (found->state != SIDECAR_GOOD)
        goto done;
    s->writable = s->writable && !found->readonly;
    s->created_us = d.h ? d.h->created_us : 0;
    s->keep_header = d.h && d.h->file_id == meta->file_id;
    for (int i = 0; i < 2; i++)
        s->bad_copy[i] = !s->keep_header || !d.has_header[i];
    found->n_lost = mark_short(&d, extents, n, lost);
    if (found->n_lost)
        find(found, SIDECAR_GOOD, "%s: is too short: %u of %zu extents lie behind its end", s->path,
             found->n_lost, n);
    if (!is_paired(&d, meta)) {
        st = mark_misfits(s, extents, n, lost, &found->n_lost, err);
        find(found, SIDECAR_MISPAIRED,
             "%s: is of another moment than the database; %u of its %zu extents do not fit",
             s->path, found->n_lost, n);
    }
    if (st == MN_OK) {
        *out = s;
        s = NULL;
    }
done:
    sidecar_close(s);
    return st;
}

struct sidecar *sidecar_share(struct sidecar *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void sidecar_close(struct sidecar *s)
{
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (atomic_load(&s->leased))
        sidecar_unlock(s);
    io_close(s->file);
    pthread_mutex_destroy(&s->lock);
    mn_free(s->alloc, s->path);
    mn_free(s->alloc, s->block);
    mn_free(s->alloc, s);
}

const char *sidecar_path(const struct sidecar *s)
{
    return s->path;
}

uint64_t sidecar_db_tag(const struct sidecar *s)
{
    return s->db_tag;
}

bool sidecar_matches(const struct sidecar *s, const struct sidecar_meta *meta)
{
    return meta->exists && meta->file_id == s->file_id &&
           memcmp(meta->db_id, s->db_id, sizeof s->db_id) == 0;
}

struct mn_file *sidecar_file(struct sidecar *s)
{
    return s->file;
}

bool sidecar_is_writable(const struct sidecar *s)
{
    return s->writable;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static mn_status read_blocks(struct sidecar *s, const struct extent_ref *ref, void *buf, size_t len,
                             mn_error *err)
{
    size_t got = 0;
    if (ref->first_block < SIDECAR_HEAD_BLOCKS || ref->first_block > INT64_MAX / BLOCK - len)
        return mn_fail(err, MN_CORRUPT, "%s: no extent can lie at block %" PRIu64, s->path,
                       ref->first_block);
    int rc = io_read(s->file, buf, len, ref->first_block * BLOCK, &got);
    if (rc)
        return mn_fail_os(err, rc == -ENOMEM ? MN_NOMEM : MN_IO, -rc,
                          "%s: reading the extent at block %" PRIu64
                          " (collection %u, object %u, kind %u)",
                          s->path, ref->first_block, ref->collection, ref->object, ref->kind);
    if (got < len)
        return mn_fail(err, MN_CORRUPT,
                       "%s: the file ends within the extent at block %" PRIu64
                       " (collection %u, object %u, kind %u)",
                       s->path, ref->first_block, ref->collection, ref->object, ref->kind);
    return MN_OK;
}

mn_status sidecar_read(struct sidecar *s, const struct extent_ref *ref, void *buf,
                       struct extent_view *view, mn_error *err)
{
    mn_status st = read_blocks(s, ref, buf, (size_t)ref->n_blocks * BLOCK, err);
    return st ? st : extent_check(s->path, s->db_tag, ref, buf, view, err);
}

mn_status sidecar_read_header(struct sidecar *s, const struct extent_ref *ref, void *buf,
                              size_t len, struct extent_view *view, mn_error *err)
{
    mn_status st = read_blocks(s, ref, buf, len, err);
    return st ? st : extent_header_check(s->path, s->db_tag, ref, buf, len, view, err);
}

void sidecar_count_lost(struct sidecar *s)
{
    atomic_fetch_add_explicit(&s->lost, 1, memory_order_relaxed);
}

void sidecar_stats(struct sidecar *s, struct sidecar_stats *out)
{
    uint64_t size = 0;
    memset(out, 0, sizeof *out);
    io_size(s->file, &size);
    out->file_blocks = size / BLOCK;
    out->lost = atomic_load_explicit(&s->lost, memory_order_relaxed);
    pthread_mutex_lock(&s->lock);
    out->poisoned = s->poisoned;
    out->poison_errno = s->poison_errno;
    out->poison_time_us = s->poison_time_us;
    pthread_mutex_unlock(&s->lock);
}

mn_status sidecar_poisoned(struct sidecar *s, mn_error *err)
{
    pthread_mutex_lock(&s->lock);
    bool poisoned = s->poisoned;
    int error = s->poison_errno;
    uint64_t at = s->poison_time_us;
    pthread_mutex_unlock(&s->lock);
    if (!poisoned)
        return MN_OK;
    return mn_fail_os(err, MN_POISONED, error,
                      "%s: a flush failed %" PRIu64
                      " s ago: nothing more is written through this handle; the next fold will "
                      "open it again",
                      s->path, (wall_us() - at) / 1000000);
}

/* ---- Creating -------------------------------------------------------------------------------- */

/* May the file that stands in the way be removed? */
static mn_status judge_leftover(const struct sidecar_opts *o, const struct sidecar_meta *meta,
                                struct mn_file *f, uint8_t *buf, mn_error *err)
{
    struct head d;
    mn_status st = head_read(o->path, f, tag_of(meta->db_id), buf, &d, err);
    if (st)
        return st;
    struct sidecar_finding found = {.state = SIDECAR_NONE};
    judge_head(o->path, &d, meta, &found);
    if (found.state == SIDECAR_FOREIGN || found.state == SIDECAR_NEWER)
        return mn_fail(err, MN_EXISTS, "%s", found.message);
    return MN_OK;
}

/* Removes what lies under the name, if it may be. */
static mn_status make_way(const struct sidecar_opts *o, const struct sidecar_meta *meta,
                          bool replace, uint8_t *buf, mn_error *err)
{
    struct mn_file *f = NULL;
    int rc = io_open(o->fs, o->path, IO_WRITE, &f);
    if (rc == -ENOENT)
        return MN_OK;
    if (rc)
        return fail_io(o->path, rc, "opening what is there", err);
    mn_status st = replace ? MN_OK : judge_leftover(o, meta, f, buf, err);
    if (st == MN_OK && io_lock(f, SIDECAR_LEASE_BYTE) == -EAGAIN)
        st = mn_fail(err, MN_BUSY, "%s: another process is changing it", o->path);
    if (st == MN_OK && (rc = io_unlink(o->fs, o->path)))
        st = fail_io(o->path, rc, "removing what is there", err);
    io_close(f);
    return st;
}

/* Writes and flushes the four blocks of the head, then gives it its name: under that name nothing
 * half written is ever found, which would be taken for somebody else's file. */
static mn_status write_head(struct sidecar *s, const struct sidecar_meta *meta, const char *new,
                            mn_error *err)
{
    uint8_t *buf = aligned(s->block);
    memset(buf, 0, HEAD_BYTES);
    header_write(buf, s->db_id, s->created_us, s->file_id);
    memcpy(buf + BLOCK, buf, BLOCK);
    if (meta->generation)
        intent_write(buf + (2 + (meta->generation & 1)) * BLOCK, s->db_tag, meta->generation,
                     meta->nonce, SIDECAR_HEAD_BLOCKS);
    int rc = io_write(s->file, buf, HEAD_BYTES, 0);
    if (rc == 0 && !MUTATE(CREATE_FLUSH))
        rc = io_sync(s->file);
    if (rc == 0)
        rc = io_rename(s->fs, new, s->path);
    if (rc == 0 && !MUTATE(CREATE_DIRSYNC))
        rc = io_dirsync(s->fs, s->path);
    return rc ? fail_io(s->path, rc, "creating", err) : MN_OK;
}

mn_status sidecar_create(const struct sidecar_opts *opts, const struct sidecar_meta *meta,
                         bool replace, struct sidecar **out, mn_error *err)
{
    struct sidecar *s = NULL;
    *out = NULL;
    mn_status st = sidecar_alloc(opts, meta, &s, err);
    if (st)
        return st;
    s->created_us = wall_us();
    char *new = mn_alloc(s->alloc, strlen(s->path) + sizeof "-new", MN_TAG_IO);
    if (!new)
        st = mn_fail(err, MN_NOMEM, "%s: out of memory", s->path);
    if (st == MN_OK) {
        memcpy(new, s->path, strlen(s->path));
        memcpy(new + strlen(s->path), "-new", sizeof "-new");
        st = make_way(opts, meta, replace, aligned(s->block), err);
    }
    if (st == MN_OK) {
        int rc = io_open(s->fs, new, IO_WRITE | IO_CREATE | IO_DIRECT, &s->file);
        if (rc == 0)
            rc = io_truncate(s->file, 0); /* a power cut may have left one */
        if (rc)
            st = fail_io(s->path, rc, "creating", err);
    }
    if (st == MN_OK)
        st = write_head(s, meta, new, err);
    mn_free(s->alloc, new);
    if (st == MN_OK) {
        *out = s;
        s = NULL;
    }
    sidecar_close(s);
    return st;
}

/* ---- Writing: the lease's holder ------------------------------------------------------------- */

mn_status sidecar_lock(struct sidecar *s, mn_error *err)
{
    if (!s->writable)
        return mn_fail(err, MN_READONLY, "%s: may only be read", s->path);
    if (atomic_exchange(&s->leased, true))
        return mn_fail(err, MN_BUSY, "%s: another thread is changing it", s->path);
    int rc = MUTATE(NO_LOCK) ? 0 : io_lock(s->file, SIDECAR_LEASE_BYTE);
    if (rc == 0)
        return MN_OK;
    atomic_store(&s->leased, false);
    if (rc == -EAGAIN)
        return mn_fail(err, MN_BUSY, "%s: another process is changing it", s->path);
    return fail_io(s->path, rc, "locking", err);
}

void sidecar_unlock(struct sidecar *s)
{
    io_unlock(s->file, SIDECAR_LEASE_BYTE);
    atomic_store(&s->leased, false);
}

mn_status sidecar_blocks(struct sidecar *s, uint64_t *out, mn_error *err)
{
    uint64_t size = 0;
    int rc = io_size(s->file, &size);
    *out = size / BLOCK;
    return rc ? fail_io(s->path, rc, "asking for its size", err) : MN_OK;
}

mn_status sidecar_grow(struct sidecar *s, uint64_t blocks, mn_error *err)
{
    int rc = blocks > INT64_MAX / BLOCK ? -EFBIG : io_reserve(s->file, blocks * BLOCK);
    return rc ? fail_io(s->path, rc, "growing", err) : MN_OK;
}

mn_status sidecar_shrink(struct sidecar *s, uint64_t blocks, mn_error *err)
{
    assert(blocks >= SIDECAR_HEAD_BLOCKS);
    int rc = io_truncate(s->file, blocks * BLOCK);
    return rc ? fail_io(s->path, rc, "shrinking", err) : MN_OK;
}

void sidecar_punch(struct sidecar *s, uint64_t first, uint64_t n)
{
    assert(first >= SIDECAR_HEAD_BLOCKS);
    io_punch(s->file, first * BLOCK, n * BLOCK);
}

mn_status sidecar_write(struct sidecar *s, uint64_t first_block, const void *buf, size_t n_blocks,
                        mn_error *err)
{
    assert(first_block >= SIDECAR_HEAD_BLOCKS);
    int rc = io_write(s->file, buf, n_blocks * BLOCK, first_block * BLOCK);
    return rc ? fail_io(s->path, rc, "writing", err) : MN_OK;
}

mn_status sidecar_write_intent(struct sidecar *s, uint64_t generation, uint64_t nonce,
                               mn_error *err)
{
    uint8_t *b = aligned(s->block);
    uint64_t blocks = 0;
    mn_status st = sidecar_blocks(s, &blocks, err);
    if (st)
        return st;
    intent_write(b, s->db_tag, generation, nonce, blocks);
    int rc = io_write(s->file, b, BLOCK, (2 + (generation & 1)) * BLOCK);
    return rc ? fail_io(s->path, rc, "writing the intent", err) : MN_OK;
}

/* One header copy: the other one's bytes, or new ones. */
static mn_status mend_copy(struct sidecar *s, unsigned i, mn_error *err)
{
    uint8_t *b = aligned(s->block);
    struct header h;
    size_t got = 0;
    if (!s->keep_header || io_read(s->file, b, BLOCK, (uint64_t)(1 - i) * BLOCK, &got) ||
        got < BLOCK || !header_read(b, &h))
        header_write(b, s->db_id, s->created_us, s->file_id);
    int rc = io_write(s->file, b, BLOCK, (uint64_t)i * BLOCK);
    return rc ? fail_io(s->path, rc, "mending its header", err) : MN_OK;
}

mn_status sidecar_mend_header(struct sidecar *s, mn_error *err)
{
    mn_status st = MN_OK;
    /* One after the other, each flushed: a power cut leaves one of them. */
    for (unsigned i = 0; i < 2 && st == MN_OK; i++) {
        if (!s->bad_copy[i])
            continue;
        st = mend_copy(s, i, err);
        if (st == MN_OK)
            st = sidecar_flush(s, err);
        s->bad_copy[i] = st != MN_OK;
    }
    return st;
}

mn_status sidecar_flush(struct sidecar *s, mn_error *err)
{
    mn_status st = sidecar_poisoned(s, err);
    if (st)
        return st;
    int rc = io_sync(s->file);
    if (rc == 0 || MUTATE(POISON))
        return MN_OK;
    pthread_mutex_lock(&s->lock);
    s->poisoned = true;
    s->poison_errno = -rc;
    s->poison_time_us = wall_us();
    pthread_mutex_unlock(&s->lock);
    return mn_fail_os(err, MN_POISONED, -rc,
                      "%s: the flush failed: nothing of this fold counts; the next one will open "
                      "it again",
                      s->path);
}
