/*
 * Vectors in memory.
 *
 *   view       the content of one collection at one position of its change log
 *     part     a segment and a bitmap of its rows that are hidden since (changed or deleted)
 *       segment  up to cache_block_rows() rows: ids ascending, vectors, squared norms
 *
 * Views, bitmaps and segments never change once others can see them; a newer view shares all parts
 * in which nothing changed. Each live row stands unhidden in exactly one part.
 *
 * A search takes the newest view and its own snapshot's position in the change log:
 *   equal          the view is the answer's content;
 *   view is older  the rows named by the log since then are hidden and read anew: a new view, which
 *                  replaces the shared one unless the connection sees uncommitted writes;
 *   view is newer, of another history, or too far behind: the rows are streamed.
 * Positions are equal in number and in the random stamp, so that a restored backup that counted up
 * to the same number is not taken for what it replaced.
 *
 * With a hybrid index the view has a base: the index holds the rows of its own position, `changed`
 * names the ids that changed since, and the parts hold only those rows. A fold in memory makes a
 * base that is ahead of the published one, a publish a newer one, and views start again from it,
 * empty.
 *
 * New rows make small segments at the end. They are merged like the tiers of a log-structured tree
 * (the last two while the older is at most twice the newer), so a view has few small parts and each
 * row is copied a logarithmic number of times.
 */
#include "src/engine/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/ivf_heal.h"
#include "src/engine/ivf_store.h"
#include "storage/sql.h"

enum {
    ROW_BYTES = sizeof(int64_t) + sizeof(float), /* of a segment's row beside its vector */
    SEGMENT_EXTRA = 256, /* at most: of its head, and the padding behind the vectors */
    LEAST_SHARE = 16,    /* a load goes on while the cap leaves room for so much of a segment */
    REFUSED_USES = 256, /* searches before an index that could not be loaded is tried again */
    FOLD_SEARCHES = 16, /* that score many changed rows before one of them folds these in memory */
    RUN_ROWS = 1024, SHORTEST_RUN = 4, /* ids that follow each other and are read in one go */
    STALE_LIMIT = 16 /* searches that found the view newer than themselves before it goes */
};

struct segment {
    _Atomic unsigned refs;
    size_t n;
    int64_t *ids;  /* [n], ascending */
    char *vectors; /* [n][vector_bytes] */
    float *norms;  /* [n] squared norms */
};

struct bitmap {
    _Atomic unsigned refs;
    uint64_t words[];
};

struct part {
    struct segment *segment;
    struct bitmap *hidden; /* NULL: none */
    size_t n_hidden;
};

struct view {
    _Atomic unsigned refs;
    int64_t collection;
    size_t vector_bytes;
    struct log_position at;
    size_t rows; /* live ones */
    size_t n_parts;
    struct part *parts; /* [n_parts] */
    int64_t *bad;       /* [n_bad] ascending: rows whose value is no vector, to be reported */
    size_t n_bad;
    struct ivf *base; /* NULL: the parts hold all rows */
    int64_t *changed; /* [n_changed] ascending; with a base: it does not have them, or not so */
    size_t n_changed;
    bool gaps;        /* rows that the base lost are not among them yet: nobody's answer */
};

/* One collection's entry in db->cached; db->lock guards all of it. */
struct cached {
    struct cached *next;
    int64_t collection;
    struct view *view;      /* NULL: none */
    struct ivf *index;      /* the newest published version in memory; NULL: none */
    struct ivf *ahead;      /* of it, by rows folded in memory; NULL: none */
    bool folding;           /* some connection makes the next one */
    unsigned with_many;     /* searches that scored many changed rows exactly, since */
    struct view *delta;     /* with a base; NULL: none */
    bool building;          /* its index is built, and memory is short: no view is loaded */
    bool index_loading;     /* some connection reads it from the sidecar */
    uint64_t index_refused; /* generation that could not be loaded; 0: none */
    uint64_t index_retry;   /* when db->uses is past this, it is tried again */
    bool loading;           /* some connection streams it in */
    uint64_t refused_bytes; /* did not fit when it had this size; 0: no such thing known */
    int64_t refused_seq;    /* retry when the log is past this */
    unsigned stale;         /* searches in a row that were older than the view */
    unsigned index_stale;   /* the same of the index */
    uint64_t last_use;
};

size_t cache_block_rows(const struct coll *c)
{
    return (MN_HUGE_BLOCK - SEGMENT_EXTRA) / (c->vector_bytes + ROW_BYTES);
}

/* ---- Segments, bitmaps, views ---------------------------------------------------------------- */

static bool last_ref(_Atomic unsigned *refs)
{
    /* Release what this holder read, acquire what the others did, before memory is given back. */
    return atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel) == 1;
}

static void segment_release(mn_db *db, struct segment *s)
{
    if (s && last_ref(&s->refs))
        mn_free(db->alloc, s);
}

/* One block of memory for all arrays; rows are filled in by the caller. */
static struct segment *segment_create(mn_db *db, size_t n, size_t vector_bytes)
{
    size_t head = (sizeof(struct segment) + 63) / 64 * 64;
    size_t vectors = (n * vector_bytes + 63) / 64 * 64;
    size_t size = head + vectors + n * ROW_BYTES;
    if (size < MN_HUGE_BLOCK && size + vector_bytes + ROW_BYTES + SEGMENT_EXTRA > MN_HUGE_BLOCK)
        size = MN_HUGE_BLOCK; /* a full one */
    char *base = mn_alloc(db->alloc, size, MN_TAG_CACHE);
    if (!base)
        return NULL;
    struct segment *s = (struct segment *)base;
    atomic_init(&s->refs, 1);
    s->n = 0;
    s->vectors = base + head;
    s->ids = (int64_t *)(void *)(s->vectors + vectors);
    s->norms = (float *)(void *)(s->ids + n);
    return s;
}

static void part_release(mn_db *db, struct part *p)
{
    segment_release(db, p->segment);
    if (p->hidden && last_ref(&p->hidden->refs))
        mn_free(db->alloc, p->hidden);
    *p = (struct part){0};
}

static struct part part_share(const struct part *p)
{
    atomic_fetch_add_explicit(&p->segment->refs, 1, memory_order_relaxed);
    if (p->hidden)
        atomic_fetch_add_explicit(&p->hidden->refs, 1, memory_order_relaxed);
    return *p;
}

static bool part_hides(const struct part *p, size_t row)
{
    return p->hidden && (p->hidden->words[row / 64] >> (row % 64) & 1);
}

static struct view *view_create(mn_db *db, const struct coll *c, size_t max_parts)
{
    struct view *v = mn_alloc_array(db->alloc, 1, sizeof *v, MN_TAG_CACHE);
    if (!v)
        return NULL;
    v->parts = mn_alloc_array(db->alloc, max_parts, sizeof *v->parts, MN_TAG_CACHE);
    if (!v->parts) {
        mn_free(db->alloc, v);
        return NULL;
    }
    atomic_init(&v->refs, 1);
    v->collection = c->entry.number;
    v->vector_bytes = c->vector_bytes;
    return v;
}

void view_release(mn_db *db, struct view *v)
{
    if (!v || !last_ref(&v->refs))
        return;
    for (size_t i = 0; i < v->n_parts; i++)
        part_release(db, &v->parts[i]);
    mn_free(db->alloc, v->parts);
    mn_free(db->alloc, v->bad);
    mn_free(db->alloc, v->changed);
    ivf_release(db, v->base);
    mn_free(db->alloc, v);
}

struct view *view_share(struct view *v)
{
    atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    return v;
}

size_t view_parts(const struct view *v)
{
    return v->n_parts;
}

size_t view_rows(const struct view *v)
{
    return v->rows;
}

struct ivf *view_base(const struct view *v)
{
    return v->base;
}

size_t view_n_changed(const struct view *v)
{
    return v->n_changed;
}

size_t view_bad(const struct view *v)
{
    return v->n_bad;
}

/* Appends to a list of ids without a capacity of its own: it grows at powers of two. */
static bool append_bad(mn_db *db, int64_t **bad, size_t *n, int64_t id)
{
    if ((*n & (*n - 1)) == 0) {
        int64_t *more = mn_realloc(db->alloc, *bad, (*n ? 2 * *n : 1) * sizeof **bad, MN_TAG_CACHE);
        if (!more)
            return false;
        *bad = more;
    }
    (*bad)[(*n)++] = id;
    return true;
}

void view_block(const struct view *v, size_t part, struct scan_block *block)
{
    const struct part *p = &v->parts[part];
    *block = (struct scan_block){.ids = p->segment->ids,
                                 .vectors = p->segment->vectors,
                                 .norms = p->segment->norms,
                                 .n = p->segment->n,
                                 .hidden = p->hidden ? p->hidden->words : NULL};
}

/* Position of the id among ascending ones, n if it is not there. */
static size_t ids_find(const int64_t *ids, size_t n, int64_t id)
{
    size_t first = 0, end = n;
    while (first < end) {
        size_t mid = first + (end - first) / 2;
        if (ids[mid] < id)
            first = mid + 1;
        else
            end = mid;
    }
    return first < n && ids[first] == id ? first : n;
}

static size_t segment_find(const struct segment *s, int64_t id)
{
    return ids_find(s->ids, s->n, id);
}

bool view_changed(const struct view *v, int64_t id)
{
    return ids_find(v->changed, v->n_changed, id) < v->n_changed;
}

bool view_is_bad(const struct view *v, int64_t id)
{
    return ids_find(v->bad, v->n_bad, id) < v->n_bad;
}

const void *view_find(const struct view *v, int64_t id, float *norm)
{
    for (size_t i = v->n_parts; i-- > 0;) {
        const struct segment *s = v->parts[i].segment;
        if (s->n == 0 || id < s->ids[0] || id > s->ids[s->n - 1])
            continue;
        size_t row = segment_find(s, id);
        if (row < s->n && !part_hides(&v->parts[i], row)) {
            *norm = s->norms[row];
            return s->vectors + row * v->vector_bytes;
        }
    }
    return NULL;
}

/* ---- Hiding and appending, on a view that nobody else sees yet ------------------------------- */

/* Hides the listed ids (ascending) in one part. False when memory runs out. */
static bool part_hide(mn_db *db, struct part *p, const int64_t *ids, size_t n, size_t *hid)
{
    const struct segment *s = p->segment;
    bool own = false; /* the bitmap is ours to change */
    if (s->n == 0)
        return true;
    size_t words = (s->n + 63) / 64;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < s->ids[0] || ids[i] > s->ids[s->n - 1])
            continue;
        size_t row = segment_find(s, ids[i]);
        if (row == s->n || part_hides(p, row))
            continue;
        if (!own) {
            struct bitmap *b =
                mn_alloc_array(db->alloc, 1, sizeof *b + words * sizeof(uint64_t), MN_TAG_CACHE);
            if (!b)
                return false;
            if (p->hidden)
                memcpy(b->words, p->hidden->words, words * sizeof(uint64_t));
            atomic_init(&b->refs, 1);
            if (p->hidden && last_ref(&p->hidden->refs))
                mn_free(db->alloc, p->hidden);
            p->hidden = b;
            own = true;
        }
        p->hidden->words[row / 64] |= (uint64_t)1 << (row % 64);
        p->n_hidden++;
        ++*hid;
    }
    return true;
}

static void segment_copy_row(struct segment *to, const struct segment *from, size_t row,
                             size_t vector_bytes)
{
    to->ids[to->n] = from->ids[row];
    to->norms[to->n] = from->norms[row];
    memcpy(to->vectors + to->n * vector_bytes, from->vectors + row * vector_bytes, vector_bytes);
    to->n++;
}

static size_t part_live(const struct part *p)
{
    return p->segment->n - p->n_hidden;
}

/* Merges the live rows of two parts (b may be NULL) into one new part; ids stay ascending. */
static bool part_merge(mn_db *db, size_t vector_bytes, const struct part *a, const struct part *b,
                       struct part *out)
{
    struct segment *s = segment_create(db, part_live(a) + (b ? part_live(b) : 0), vector_bytes);
    if (!s)
        return false;
    size_t i = 0, j = 0, na = a->segment->n, nb = b ? b->segment->n : 0;
    while (i < na || j < nb) {
        bool from_a = j == nb || (i < na && a->segment->ids[i] <= b->segment->ids[j]);
        const struct part *p = from_a ? a : b;
        size_t row = from_a ? i++ : j++;
        if (!part_hides(p, row))
            segment_copy_row(s, p->segment, row, vector_bytes);
    }
    *out = (struct part){.segment = s};
    return true;
}

/* Empty parts go; parts more than half hidden are copied; small ones at the end are merged. */
static bool view_tidy(mn_db *db, struct view *v, size_t block_rows)
{
    size_t kept = 0;
    struct part merged;
    for (size_t i = 0; i < v->n_parts; i++) {
        struct part *p = &v->parts[i];
        if (part_live(p) == 0) {
            part_release(db, p);
            continue;
        }
        if (p->n_hidden * 2 > p->segment->n) {
            if (!part_merge(db, v->vector_bytes, p, NULL, &merged))
                return false;
            part_release(db, p);
            *p = merged;
        }
        struct part keep = *p;
        *p = (struct part){0};
        v->parts[kept++] = keep;
    }
    v->n_parts = kept;
    while (v->n_parts >= 2) {
        struct part *a = &v->parts[v->n_parts - 2], *b = &v->parts[v->n_parts - 1];
        if (part_live(a) > 2 * part_live(b) || part_live(a) + part_live(b) > block_rows)
            break;
        if (!part_merge(db, v->vector_bytes, a, b, &merged))
            return false;
        part_release(db, a);
        part_release(db, b);
        *a = merged;
        v->n_parts--;
    }
    return true;
}

/* ---- The change log -------------------------------------------------------------------------- */

/* Takes a row's vector into the segment, or lists the row in v->bad. False when memory runs out. */
static bool take_row(mn_db *db, struct view *v, struct segment *s, int64_t id,
                     const struct row_vector *row)
{
    if (row->bad)
        return append_bad(db, &v->bad, &v->n_bad, id);
    if (row->bytes) {
        memcpy(s->vectors + s->n * v->vector_bytes, row->bytes, v->vector_bytes);
        s->ids[s->n++] = id;
    }
    return true;
}

/* Rows whose ids follow each other from `first` to `last`: one walk along the table costs less than
 * so many look-ups. */
static mn_status read_run(mn_conn *conn, struct coll *c, int64_t first, int64_t last,
                          struct view *v, struct segment *s, bool *room, mn_error *err)
{
    sqlite3_stmt *st;
    bool more = false;
    mn_status status = coll_stmt(conn, c, STMT_GET_RANGE, &st, err);
    if (status)
        return status;
    sqlite3_bind_int64(st, 1, first);
    sqlite3_bind_int64(st, 2, last);
    while (*room && (status = sql_step(st, &more, err)) == MN_OK && more) {
        struct row_vector row;
        row_vector_at(conn->db, c, st, 1, &row);
        *room = take_row(conn->db, v, s, sqlite3_column_int64(st, 0), &row);
    }
    sqlite3_reset(st);
    return status;
}

static mn_status read_one(mn_conn *conn, struct coll *c, int64_t id, struct view *v,
                          struct segment *s, bool *room, mn_error *err)
{
    struct row_vector row;
    mn_status st = row_vector_get(conn, c, id, &row, err);
    if (st == MN_OK)
        *room = take_row(conn->db, v, s, id, &row);
    row_vector_end(&row);
    return st;
}

/* Reads the listed rows' vectors into a new segment and lists in v->bad those that are none; *out
 * NULL when memory runs out. */
static mn_status read_rows(mn_conn *conn, struct coll *c, const int64_t *ids, size_t n,
                           struct view *v, struct segment **out, mn_error *err)
{
    bool room = true;
    mn_status status = MN_OK;
    struct segment *s = *out = segment_create(conn->db, n, c->vector_bytes);
    if (!s)
        return MN_OK;
    for (size_t first = 0, end; first < n && status == MN_OK && room; first = end) {
        for (end = first + 1; end < n && end - first < RUN_ROWS && ids[end] - 1 == ids[end - 1];)
            end++;
        bool run = end - first >= SHORTEST_RUN;
        if (run) {
            status = read_run(conn, c, ids[first], ids[end - 1], v, s, &room, err);
        } else {
            end = first + 1;
            status = read_one(conn, c, ids[first], v, s, &room, err);
        }
        if (status == MN_OK && (run || first % 1024 == 0))
            status = conn_tick(conn, err);
    }
    if (status || !room) {
        segment_release(conn->db, s);
        *out = NULL;
        return status;
    }
    scan_norms(conn->db->kernels, c->entry.dtype, c->entry.dim, s->vectors, s->n, s->norms);
    return MN_OK;
}

static int by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Takes over from `old` the rows without a valid vector that did not change. */
static bool keep_bad(mn_db *db, struct view *v, const struct view *old, const int64_t *ids,
                     size_t n)
{
    for (size_t i = 0; i < old->n_bad; i++)
        if (ids_find(ids, n, old->bad[i]) == n && !append_bad(db, &v->bad, &v->n_bad, old->bad[i]))
            return false;
    if (v->n_bad > 1)
        qsort(v->bad, v->n_bad, sizeof *v->bad, by_id);
    return true;
}

/* Union of two ascending lists; *out is for mn_free, NULL when memory runs out. */
static bool unite(mn_db *db, const int64_t *a, size_t na, const int64_t *b, size_t nb,
                  int64_t **out, size_t *n)
{
    size_t i = 0, j = 0;
    *n = 0;
    *out = mn_alloc_array(db->alloc, na + nb, sizeof **out, MN_TAG_CACHE);
    if (!*out)
        return false;
    while (i < na || j < nb) {
        int64_t id = j == nb || (i < na && a[i] <= b[j]) ? a[i] : b[j];
        i += i < na && a[i] == id;
        j += j < nb && b[j] == id;
        (*out)[(*n)++] = id;
    }
    return true;
}

/* `old` with the listed rows brought up to this snapshot; *out NULL when memory runs out. */
static mn_status view_advance(mn_conn *conn, struct coll *c, const struct view *old,
                              struct log_position head, const int64_t *ids, size_t n,
                              struct view **out, mn_error *err)
{
    mn_db *db = conn->db;
    struct segment *fresh = NULL;
    size_t hid = 0;
    *out = NULL;
    struct view *v = view_create(db, c, old->n_parts + 1);
    if (!v)
        return MN_OK;
    mn_status st = read_rows(conn, c, ids, n, v, &fresh, err);
    bool good = fresh && keep_bad(db, v, old, ids, n);
    if (good && old->base) {
        v->base = ivf_share(old->base);
        good = unite(db, old->changed, old->n_changed, ids, n, &v->changed, &v->n_changed);
    }
    for (size_t i = 0; good && i < old->n_parts; i++) {
        v->parts[v->n_parts++] = part_share(&old->parts[i]);
        good = part_hide(db, &v->parts[i], ids, n, &hid);
    }
    if (good) {
        v->at = head;
        v->rows = old->rows - hid + fresh->n;
        v->parts[v->n_parts++] = (struct part){.segment = fresh};
        fresh = NULL;
        good = view_tidy(db, v, cache_block_rows(c));
    }
    segment_release(db, fresh);
    if (good)
        *out = v;
    else
        view_release(db, v);
    return st;
}

/* ---- The shared entries ---------------------------------------------------------------------- */

/* db->lock is held. NULL when memory runs out. */
static struct cached *entry_of(mn_db *db, int64_t collection, bool make)
{
    for (struct cached *e = db->cached; e; e = e->next)
        if (e->collection == collection)
            return e;
    struct cached *e = make ? mn_alloc_array(db->alloc, 1, sizeof *e, MN_TAG_HANDLE) : NULL;
    if (e) {
        e->collection = collection;
        e->next = db->cached;
        db->cached = e;
    }
    return e;
}

/* db->lock is held. */
static void entry_empty(mn_db *db, struct cached *e)
{
    view_release(db, e->view);
    view_release(db, e->delta);
    ivf_release(db, e->index);
    ivf_release(db, e->ahead);
    e->view = NULL;
    e->delta = NULL;
    e->index = NULL;
    e->ahead = NULL;
}

/* Throws away the least recently used view of another collection. db->lock is held. */
static bool evict_one(mn_db *db, int64_t except)
{
    struct cached *oldest = NULL;
    for (struct cached *e = db->cached; e; e = e->next)
        if ((e->view || e->index) && e->collection != except &&
            (!oldest || e->last_use < oldest->last_use))
            oldest = e;
    if (!oldest)
        return false;
    entry_empty(db, oldest);
    atomic_fetch_add_explicit(&db->count.evictions, 1, memory_order_relaxed);
    return true;
}

/* Searches and writers need room too: cached vectors may take seven eighths of the cap. */
bool cache_has_room(const mn_db *db, size_t bytes)
{
    uint64_t cap = mn_alloc_cap(db->alloc), used = mn_alloc_used(db->alloc);
    uint64_t limit = cap - cap / 8;
    return used <= limit && bytes <= limit - used;
}

bool cache_make_room(mn_db *db, int64_t collection, size_t bytes)
{
    pthread_mutex_lock(&db->lock);
    while (!cache_has_room(db, bytes) && evict_one(db, collection)) {
    }
    pthread_mutex_unlock(&db->lock);
    return cache_has_room(db, bytes);
}

void cache_build_begin(mn_db *db, int64_t collection, uint64_t bytes)
{
    if (cache_make_room(db, collection, bytes))
        return;
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, true);
    if (e) {
        view_release(db, e->view);
        e->view = NULL;
        e->building = true;
    }
    pthread_mutex_unlock(&db->lock);
}

void cache_build_end(mn_db *db, int64_t collection)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    if (e)
        e->building = false;
    pthread_mutex_unlock(&db->lock);
}

/* The shared view becomes v, unless a newer one of the same history stands there. */
static void publish(mn_db *db, struct view *v)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, v->collection, true);
    if (e && !e->building &&
        (!e->view || e->view->at.seq <= v->at.seq || e->stale > STALE_LIMIT)) {
        view_release(db, e->view);
        e->view = view_share(v);
        e->stale = 0;
        e->last_use = ++db->uses;
    }
    pthread_mutex_unlock(&db->lock);
}

/* The shared view, referenced; with none, *load says whether the caller may load one. */
static struct view *take_shared(mn_db *db, const struct coll *c, struct log_position head,
                                bool *load)
{
    struct view *v = NULL;
    *load = false;
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, c->entry.number, true);
    if (e && e->view && e->view->at.seq > head.seq && ++e->stale > STALE_LIMIT) {
        /* Not one old reader but a database that went back in time. */
        view_release(db, e->view);
        e->view = NULL;
    }
    if (e && e->view) {
        e->last_use = ++db->uses;
        v = view_share(e->view);
    } else if (e && !e->loading && !e->building) {
        *load = e->refused_bytes == 0 || head.seq > e->refused_seq ||
                cache_has_room(db, e->refused_bytes + e->refused_bytes / 4);
    }
    pthread_mutex_unlock(&db->lock);
    return v;
}

static void drop_shared(mn_db *db, const struct view *v)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, v->collection, false);
    if (e && e->view == v) {
        view_release(db, e->view);
        e->view = NULL;
    }
    pthread_mutex_unlock(&db->lock);
}

void cache_clear(mn_db *db)
{
    while (db->cached) {
        struct cached *e = db->cached;
        db->cached = e->next;
        entry_empty(db, e);
        mn_free(db->alloc, e);
    }
}

void cache_forget(mn_db *db, int64_t collection)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    if (e)
        entry_empty(db, e);
    pthread_mutex_unlock(&db->lock);
}

uint64_t cache_rows(mn_db *db, int64_t collection)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    uint64_t rows = e && e->view ? e->view->rows : 0;
    pthread_mutex_unlock(&db->lock);
    return rows;
}

/* ---- The view of a snapshot ------------------------------------------------------------------ */

/* Brings `base` to the head of this snapshot's log. *out NULL: it cannot be, stream the rows. */
static mn_status bring_up(mn_conn *conn, struct coll *c, const struct view *base,
                          struct log_position head, struct view **out, uint64_t *pending,
                          mn_error *err)
{
    int64_t *ids = NULL;
    size_t n = 0;
    *out = NULL;
    mn_status st = coll_log_since(conn, c, "search", base->at.seq, &ids, &n, err);
    if (st)
        return st;
    /* Beyond half the rows one ordered pass is cheaper than so many look-ups. */
    bool many = n > 4096 && n > base->rows / 2;
    if (!many &&
        cache_make_room(conn->db, c->entry.number, n * (c->vector_bytes + 16) + (64 << 10)))
        st = view_advance(conn, c, base, head, ids, n, out, err);
    if (st == MN_OK && *out)
        *pending = n;
    mn_free(conn->db->alloc, ids);
    atomic_fetch_add_explicit(&conn->db->count.catchups, 1, memory_order_relaxed);
    return st;
}

static bool same_position(struct log_position a, struct log_position b)
{
    return a.seq == b.seq && a.stamp == b.stamp;
}

/* A base that this snapshot's log leads on from: this transaction's own view, or the shared one.
 * *out NULL if neither is; *load as take_shared. */
static mn_status find_base(mn_conn *conn, struct coll *c, struct log_position head,
                           struct view **out, bool *load, mn_error *err)
{
    bool leads = false;
    mn_status st = MN_OK;
    struct view *own = conn->own_view;
    *out = NULL;
    *load = false;
    if (own && own->collection == c->entry.number && !own->base) {
        st = coll_log_follows(conn, c, own->at, &leads, err);
        if (st)
            return st;
        if (leads) {
            *out = view_share(own);
            return MN_OK;
        }
    }
    struct view *v = take_shared(conn->db, c, head, load);
    if (!v)
        return MN_OK;
    st = coll_log_follows(conn, c, v->at, &leads, err);
    if (st == MN_OK && leads) {
        *out = v;
        return MN_OK;
    }
    if (st == MN_OK && v->at.seq <= head.seq) {
        /* Of another history, or further behind than the log reaches. */
        drop_shared(conn->db, v);
        view_release(conn->db, v);
        v = take_shared(conn->db, c, head, load);
        if (v)
            *load = false; /* another thread was faster; this search streams */
    }
    view_release(conn->db, v);
    return st;
}

mn_status cache_view(mn_conn *conn, struct coll *c, struct view **out, bool *load,
                     uint64_t *pending, mn_error *err)
{
    struct log_position head;
    struct view *base = NULL;
    *out = NULL;
    *load = false;
    *pending = 0;
    if (!c->watched)
        return MN_OK;
    mn_status st = coll_head(conn, c, &head, err);
    if (st || head.seq == 0)
        return st;
    st = find_base(conn, c, head, &base, load, err);
    if (st)
        return st;
    bool dirty = conn_may_be_dirty(conn);
    if (dirty)
        *load = false;
    if (!base || same_position(base->at, head)) {
        *out = base;
        return MN_OK;
    }
    st = bring_up(conn, c, base, head, out, pending, err);
    if (st == MN_OK && *out && dirty) {
        view_release(conn->db, conn->own_view);
        conn->own_view = view_share(*out);
    } else if (st == MN_OK && *out) {
        publish(conn->db, *out);
    } else if (st == MN_OK && !dirty) {
        drop_shared(conn->db, base);
        view_release(conn->db, base);
        base = take_shared(conn->db, c, head, load);
        if (base)
            *load = false;
    }
    view_release(conn->db, base);
    return st;
}

/* ---- By the hybrid index --------------------------------------------------------------------- */

/* db->lock is held. */
static void forget_index(mn_db *db, struct cached *e)
{
    ivf_release(db, e->index);
    ivf_release(db, e->ahead);
    view_release(db, e->delta);
    e->index = NULL;
    e->ahead = NULL;
    e->delta = NULL;
    e->index_stale = 0;
}

void cache_share_index(mn_db *db, int64_t collection, struct ivf *x, bool newest)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, true);
    bool newer = !newest && e && e->index && e->index->generation > x->generation;
    if (e && e->index != x && !newer) {
        forget_index(db, e);
        e->index = ivf_share(x);
        e->last_use = ++db->uses;
    }
    pthread_mutex_unlock(&db->lock);
}

/* db->lock is held. */
static struct ivf *newest(const struct cached *e)
{
    return e->ahead ? e->ahead : e->index;
}

void cache_share_ahead(mn_db *db, int64_t collection, struct ivf *x)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    struct ivf *now = e && e->index ? newest(e) : NULL;
    if (now && now->generation == x->generation && now->published.stamp == x->published.stamp &&
        (now->at.seq < x->at.seq || (heal_has_gaps(now) && now->at.seq == x->at.seq))) {
        ivf_release(db, e->ahead);
        view_release(db, e->delta); /* x has most of its rows */
        e->ahead = ivf_share(x);
        e->delta = NULL;
    }
    if (e)
        e->with_many = 0;
    pthread_mutex_unlock(&db->lock);
}

void cache_break_index(mn_db *db, int64_t collection, struct ivf *x)
{
    ivf_break(x);
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    if (e && e->index && (e->index == x || e->ahead == x)) {
        ivf_break(e->index); /* they share their packs */
        ivf_release(db, e->ahead);
        view_release(db, e->delta);
        e->ahead = NULL;
        e->delta = NULL;
    }
    pthread_mutex_unlock(&db->lock);
}

struct ivf *cache_take_index(mn_db *db, int64_t collection)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    struct ivf *x = e && e->index ? ivf_share(newest(e)) : NULL;
    pthread_mutex_unlock(&db->lock);
    return x;
}

bool cache_fold_begin(mn_db *db, int64_t collection, bool at_once)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    bool mine = e && e->index && !e->folding && (at_once || ++e->with_many > FOLD_SEARCHES);
    if (mine)
        e->folding = true;
    pthread_mutex_unlock(&db->lock);
    return mine;
}

void cache_fold_end(mn_db *db, int64_t collection)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    if (e) {
        e->folding = false;
        e->with_many = 0;
    }
    pthread_mutex_unlock(&db->lock);
}

bool cache_unsettled(const mn_db *db, uint64_t least, char name[MN_MAX_NAME + 1])
{
    for (const struct cached *e = db->cached; e; e = e->next) {
        if (!e->ahead || e->ahead->ahead < least)
            continue;
        memcpy(name, e->ahead->core->entry.name, MN_MAX_NAME + 1);
        return true;
    }
    return false;
}

/* What is shared of one collection's index, referenced. */
struct indexed {
    struct ivf *x;      /* as published */
    struct ivf *ahead;  /* of x; or NULL */
    struct view *delta; /* on either; or NULL */
};

static void indexed_release(mn_db *db, struct indexed *now)
{
    ivf_release(db, now->x);
    ivf_release(db, now->ahead);
    view_release(db, now->delta);
    *now = (struct indexed){0};
}

/* What is shared now, referenced; *load: the caller should read the index from the sidecar, and
 * must end with index_loaded(). */
static void take_indexed(mn_db *db, const struct coll *c, const struct ivf_place *place,
                         struct indexed *now, bool *load)
{
    *now = (struct indexed){0};
    *load = false;
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, c->entry.number, true);
    if (e) {
        bool old = e->index && e->index->generation > place->generation;
        e->index_stale = old ? e->index_stale + 1 : 0;
        if (e->index_stale > STALE_LIMIT) /* not one old reader: a database that went back */
            forget_index(db, e);
        e->last_use = ++db->uses;
        now->x = e->index ? ivf_share(e->index) : NULL;
        now->ahead = e->ahead ? ivf_share(e->ahead) : NULL;
        now->delta = e->delta ? view_share(e->delta) : NULL;
        bool right = e->index && ivf_is_at(e->index, place) && !ivf_is_broken(e->index);
        if ((!e->index || (!old && !right)) && !e->index_loading &&
            (e->index_refused != place->generation || db->uses > e->index_retry))
            *load = e->index_loading = true;
    }
    pthread_mutex_unlock(&db->lock);
}

/* `refused`: a generation that is lost, damaged or too large for the cap, so that not every search
 * tries it again; 0: none. */
bool cache_load_begin(mn_db *db, int64_t collection)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, true);
    bool mine = !e || !e->index_loading;
    if (e && mine)
        e->index_loading = true;
    pthread_mutex_unlock(&db->lock);
    return mine;
}

void cache_load_end(mn_db *db, int64_t collection)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    if (e)
        e->index_loading = false;
    pthread_mutex_unlock(&db->lock);
}

static void index_loaded(mn_db *db, int64_t collection, uint64_t refused)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    if (e) {
        e->index_loading = false;
        e->index_refused = refused;
        e->index_retry = db->uses + REFUSED_USES;
    }
    pthread_mutex_unlock(&db->lock);
}

static void share_delta(mn_db *db, struct view *v)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, v->collection, false);
    if (e && e->index && newest(e) == v->base && (!e->delta || e->delta->at.seq <= v->at.seq)) {
        view_release(db, e->delta);
        e->delta = view_share(v);
    }
    pthread_mutex_unlock(&db->lock);
}

/* The index that this snapshot's catalog names, from memory or the sidecar. */
static mn_status current_index(mn_conn *conn, struct coll *c, const struct ivf_place *place,
                               struct indexed *now, mn_error *err)
{
    mn_db *db = conn->db;
    bool load;
    take_indexed(db, c, place, now, &load);
    if (load) {
        struct ivf *fresh = NULL;
        mn_status st = ivf_load(conn, c, now->x, &fresh, err);
        if (fresh)
            cache_share_index(db, c->entry.number, fresh, false);
        index_loaded(db, c->entry.number, st == MN_OK && !fresh ? place->generation : 0);
        indexed_release(db, now);
        now->x = fresh;
        if (st)
            return st;
    }
    /* An old snapshot, or another connection is loading: this search streams. */
    if (now->x && (!ivf_is_at(now->x, place) || ivf_is_broken(now->x)))
        indexed_release(db, now);
    return MN_OK;
}

/* A view that says: as the index has it. */
static struct view *empty_delta(mn_db *db, const struct coll *c, struct ivf *x)
{
    struct view *v = view_create(db, c, 1);
    if (v) {
        v->at = x->at;
        v->base = ivf_share(x);
        v->gaps = heal_has_gaps(x);
    }
    return v;
}

/* The newest view on the index that this snapshot's log leads on from; NULL: none. */
static mn_status indexed_base(mn_conn *conn, struct coll *c, const struct ivf_place *place,
                              const struct indexed *now, struct view **out, mn_error *err)
{
    struct view *views[] = {conn->own_view, now->delta};
    struct ivf *versions[] = {now->ahead, now->x};
    bool leads = false;
    mn_status st = MN_OK;
    *out = NULL;
    for (size_t i = 0; i < 2 && st == MN_OK && !leads; i++) {
        struct view *v = views[i];
        if (!v || v->collection != c->entry.number || !v->base || !ivf_is_at(v->base, place) ||
            ivf_is_broken(v->base))
            continue;
        st = coll_log_follows(conn, c, v->at, &leads, err);
        if (st == MN_OK && leads)
            *out = view_share(v);
    }
    for (size_t i = 0; i < 2 && st == MN_OK && !leads; i++) {
        if (!versions[i])
            continue;
        st = coll_log_follows(conn, c, versions[i]->at, &leads, err);
        if (st == MN_OK && leads)
            *out = empty_delta(conn->db, c, versions[i]);
    }
    return st;
}

static mn_status advance_indexed(mn_conn *conn, struct coll *c, struct view *base,
                                 struct log_position head, struct view **out, uint64_t *pending,
                                 mn_error *err)
{
    int64_t *ids = NULL;
    size_t n = 0;
    mn_status st = coll_log_since(conn, c, "search", base->at.seq, &ids, &n, err);
    uint64_t rows = n + (base->gaps ? heal_lost_rows(base->base) : 0);
    bool room =
        st == MN_OK &&
        cache_make_room(conn->db, c->entry.number, rows * (c->vector_bytes + 32) + (64 << 10));
    if (room && base->gaps)
        st = heal_add_missing(conn, c, base->base, &ids, &n, err);
    if (st == MN_NOMEM && base->gaps && !sqlite3_get_autocommit(conn->sql)) {
        /* The rows are streamed. */
        mn_error_clear(err);
        room = false;
        st = MN_OK;
    }
    if (st == MN_OK && room)
        st = view_advance(conn, c, base, head, ids, n, out, err);
    mn_free(conn->db->alloc, ids);
    if (st == MN_OK && *out) {
        *pending = (*out)->n_changed;
        if (conn_may_be_dirty(conn)) {
            view_release(conn->db, conn->own_view);
            conn->own_view = view_share(*out);
        } else {
            share_delta(conn->db, *out);
        }
    }
    return st;
}

/* The view at `head` from one that its log leads on from. */
static mn_status bring_up_indexed(mn_conn *conn, struct coll *c, struct view *base,
                                  struct log_position head, struct view **out, uint64_t *pending,
                                  mn_error *err)
{
    if (!same_position(base->at, head) || base->gaps)
        return advance_indexed(conn, c, base, head, out, pending, err);
    *pending = base->n_changed;
    *out = view_share(base);
    return MN_OK;
}

mn_status cache_indexed(mn_conn *conn, struct coll *c, struct view **out, uint64_t *pending,
                        mn_error *err)
{
    struct ivf_place place;
    struct log_position head;
    struct indexed now = {0};
    struct view *base = NULL;
    *out = NULL;
    *pending = 0;
    if (!c->watched)
        return MN_OK;
    mn_status st = ivf_where(conn, c, &place, err);
    if (st || !place.there)
        return st;
    st = coll_head(conn, c, &head, err);
    if (st == MN_OK)
        st = current_index(conn, c, &place, &now, err);
    if (st == MN_OK && now.x)
        st = indexed_base(conn, c, &place, &now, &base, err);
    if (st == MN_OK && base)
        st = bring_up_indexed(conn, c, base, head, out, pending, err);
    view_release(conn->db, base);
    indexed_release(conn->db, &now);
    return st;
}

mn_status cache_indexed_by(mn_conn *conn, struct coll *c, struct ivf *x, struct view **out,
                           mn_error *err)
{
    struct log_position head;
    uint64_t pending = 0;
    bool leads = false;
    *out = NULL;
    mn_status st = coll_head(conn, c, &head, err);
    if (st == MN_OK)
        st = coll_log_follows(conn, c, x->at, &leads, err);
    struct view *base = st == MN_OK && leads ? empty_delta(conn->db, c, x) : NULL;
    if (base)
        st = bring_up_indexed(conn, c, base, head, out, &pending, err);
    view_release(conn->db, base);
    return st;
}

/* ---- Loading --------------------------------------------------------------------------------- */

struct view_build {
    mn_conn *conn;
    struct coll *coll;
    struct log_position at;
    struct view *view;
    size_t cap_parts;
    struct segment *room; /* being filled by the caller; NULL: none */
    size_t room_rows;
    size_t bytes;
    bool refused; /* the cap left no room */
};

static void load_ended(mn_db *db, int64_t collection)
{
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, collection, false);
    if (e)
        e->loading = false;
    pthread_mutex_unlock(&db->lock);
}

mn_status view_build_begin(mn_conn *conn, struct coll *c, struct view_build **out, mn_error *err)
{
    mn_db *db = conn->db;
    struct log_position head;
    *out = NULL;
    mn_status st = coll_head(conn, c, &head, err);
    if (st)
        return st;
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, c->entry.number, true);
    /* A view may have come since the caller looked: then this search streams. */
    bool mine = e && !e->loading && !e->building && !e->view;
    if (mine)
        e->loading = true;
    pthread_mutex_unlock(&db->lock);
    if (!mine)
        return MN_OK;
    struct view_build *b = mn_alloc_array(db->alloc, 1, sizeof *b, MN_TAG_HANDLE);
    if (b) {
        *b = (struct view_build){.conn = conn, .coll = c, .at = head, .cap_parts = 64};
        b->view = view_create(db, c, b->cap_parts);
    }
    if (!b || !b->view) {
        mn_free(db->alloc, b);
        load_ended(db, c->entry.number);
        return MN_OK; /* streamed without being kept */
    }
    *out = b;
    return MN_OK;
}

static void build_refuse(struct view_build *b)
{
    b->refused = true;
    for (size_t i = 0; i < b->view->n_parts; i++)
        part_release(b->conn->db, &b->view->parts[i]);
    b->view->n_parts = 0;
}

bool view_build_room(struct view_build *b, struct view_room *room)
{
    mn_db *db = b->conn->db;
    size_t n = cache_block_rows(b->coll), least = n / LEAST_SHARE + 1;
    size_t row_bytes = b->view->vector_bytes + ROW_BYTES;
    struct segment *s = NULL;
    assert(!b->room);
    if (b->refused)
        return false;
    if (b->view->n_parts == b->cap_parts) {
        struct part *more =
            mn_realloc(db->alloc, b->view->parts, 2 * b->cap_parts * sizeof *more, MN_TAG_CACHE);
        if (more) {
            b->view->parts = more;
            b->cap_parts *= 2;
        }
    }
    bool fits = cache_make_room(db, b->view->collection, n * row_bytes + 512);
    while (!fits && n / 2 >= least) {
        n /= 2;
        fits = cache_make_room(db, b->view->collection, n * row_bytes + 512);
    }
    b->bytes += n * row_bytes + 512;
    if (fits && b->view->n_parts < b->cap_parts)
        s = segment_create(db, n, b->view->vector_bytes);
    if (!s) {
        build_refuse(b);
        return false;
    }
    b->room = s;
    b->room_rows = n;
    *room = (struct view_room){s->ids, s->vectors, s->norms, n};
    return true;
}

void view_build_add(struct view_build *b, size_t n)
{
    mn_db *db = b->conn->db;
    struct segment *s = b->room, *fit = NULL;
    size_t vector_bytes = b->view->vector_bytes;
    b->room = NULL;
    if (!s || n == 0) {
        segment_release(db, s);
        return;
    }
    /* The last one is seldom full. Without memory for the copy it stays as it is. */
    if (n < b->room_rows && (fit = segment_create(db, n, vector_bytes))) {
        memcpy(fit->ids, s->ids, n * sizeof *s->ids);
        memcpy(fit->vectors, s->vectors, n * vector_bytes);
        memcpy(fit->norms, s->norms, n * sizeof *s->norms);
        segment_release(db, s);
        s = fit;
    }
    s->n = n;
    b->view->parts[b->view->n_parts++] = (struct part){.segment = s};
    b->view->rows += n;
}

void view_build_bad(struct view_build *b, int64_t id)
{
    if (!b->refused && !append_bad(b->conn->db, &b->view->bad, &b->view->n_bad, id))
        b->refused = true; /* view_build_end() frees what was built */
}

void view_build_end(struct view_build *b, bool complete)
{
    if (!b)
        return;
    mn_db *db = b->conn->db;
    segment_release(db, b->room);
    if (complete && !b->refused) {
        b->view->at = b->at;
        publish(db, b->view);
        atomic_fetch_add_explicit(&db->count.loads, 1, memory_order_relaxed);
    }
    pthread_mutex_lock(&db->lock);
    struct cached *e = entry_of(db, b->view->collection, false);
    if (e) {
        e->loading = false;
        e->refused_bytes = b->refused ? b->bytes : 0;
        e->refused_seq = b->at.seq + 4096 + (int64_t)(b->bytes / (b->view->vector_bytes + 16) / 4);
    }
    pthread_mutex_unlock(&db->lock);
    view_release(db, b->view);
    mn_free(db->alloc, b);
}
