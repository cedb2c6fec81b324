/*
 * Attributes beside the codes.
 *
 *   column          the dictionary of an attribute: up to 16,384 values that a sample of the rows
 *                   has, in SQLite's order. Each row gets a code of 16 bits: its value's own if it
 *                   is in the dictionary, else that of the gap between two values. So any condition
 *                   that compares is a range of codes, exactly but for the gap that its own value
 *                   falls into: rows of that gap are read when they come near. Rare and new values
 *                   lie in gaps; the dictionary need not change with them.
 *   pack column     the codes of a pack's rows, part by part. Packs never change and a changed row
 *                   moves to another pack, so neither do they, and versions share them.
 *                   Beside them the rows in the order of their codes, so that few are found without
 *                   a look at all.
 *   version column  pointers to them in the order of a version's uses, and for each use which of 63
 *                   ranges of codes occur in it (buckets), by which whole postings are passed over.
 *                   A 64th bucket is that of unknown rows, which any condition must look at.
 *
 * What a code says must hold for every snapshot that can see the row in its pack. A row that the
 * builder's view has as changed, or its version as hidden, is therefore "unknown": then its value
 * was the same from the pack's making to the builder's snapshot, and whoever comes later finds it
 * among his own view's changed rows.
 *
 * 4 bytes a row and attribute, and 0.3 to 1.3 MB a dictionary (MN_TAG_CACHE); not made where the
 * cap has no room.
 */
#include "src/engine/columns.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/value.h"
#include "storage/sql.h"

enum {
    SAMPLE = 16384,  /* rows that a dictionary is made of */
    LONGEST = 64,    /* bytes of a text or blob that it keeps; longer ones are cut: any value
                        serves to divide */
    FEW_ROWS = 4096, /* so many are looked up one by one rather than found in a pass over all */
    FEW_SHARE = 16,  /* or this part of them */
    TICK_ROWS = 1024,
    REFUSED_SEARCHES = 256, /* that ask the rows before memory is tried again */
    COARSE_ROWS = 6,        /* of a pack for each of its coarse steps */
    RETIRE_SHARE = 2        /* a dictionary is made anew when the index has grown by this part */
};

/* See columns_keep(). */
struct kept {
    struct column *column; /* held: another must not come to lie where it was. NULL: none */
    mn_value value;
    char text[LONGEST]; /* of a text or blob; longer ones are not kept */
    uint64_t *set;
};

struct columns {
    pthread_mutex_t lock; /* rank CACHE: guards all of it */
    struct column *first;
    bool building;
    uint64_t retry; /* not before so many searches, as memory was short */
    struct kept kept;
};

/* ---- Lifetimes ------------------------------------------------------------------------------- */

struct columns *columns_create(mn_db *db)
{
    struct columns *c = mn_alloc_array(db->alloc, 1, sizeof *c, MN_TAG_CACHE);
    if (c)
        pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void column_release(mn_db *db, struct column *c)
{
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    mn_free(db->alloc, c->values);
    mn_free(db->alloc, c->text);
    mn_free(db->alloc, c->below);
    mn_free(db->alloc, c->bucket);
    mn_free(db->alloc, c);
}

static struct column *column_share(struct column *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void columns_destroy(mn_db *db, struct columns *c)
{
    if (!c)
        return;
    while (c->first) {
        struct column *next = c->first->next;
        column_release(db, c->first);
        c->first = next;
    }
    pthread_mutex_destroy(&c->lock);
    column_release(db, c->kept.column);
    mn_free(db->alloc, c->kept.set);
    mn_free(db->alloc, c);
}

bool columns_kept(struct columns *all, const struct column *c, const mn_value *v, uint64_t *set,
                  size_t words)
{
    pthread_mutex_lock(&all->lock);
    const struct kept *k = &all->kept;
    bool yes = k->column == c && k->value.type == v->type && value_compare(&k->value, v) == 0;
    if (yes)
        memcpy(set, k->set, words * sizeof *set);
    pthread_mutex_unlock(&all->lock);
    return yes;
}

void columns_keep(mn_db *db, struct columns *all, struct column *c, const mn_value *v,
                  const uint64_t *set, size_t words)
{
    bool bytes = v->type == MN_TEXT || v->type == MN_BLOB;
    if (bytes && v->len > LONGEST)
        return;
    pthread_mutex_lock(&all->lock);
    struct kept *k = &all->kept;
    if (!k->set)
        k->set = mn_alloc(db->alloc, words * sizeof *set, MN_TAG_CACHE);
    struct column *was = k->column;
    k->column = k->set ? column_share(c) : NULL;
    column_release(db, was);
    k->value = *v;
    if (bytes) {
        k->value.data = k->text;
        if (v->len)
            memcpy(k->text, v->data, v->len);
    }
    if (k->set)
        memcpy(k->set, set, words * sizeof *set);
    pthread_mutex_unlock(&all->lock);
}

static void pack_column_destroy(mn_db *db, struct pack_column *p)
{
    if (!p)
        return;
    column_release(db, p->column);
    mn_free(db->alloc, p->first);
    mn_free(db->alloc, p->buckets);
    mn_free(db->alloc, p->codes);
    mn_free(db->alloc, p->order);
    mn_free(db->alloc, p->ordered);
    mn_free(db->alloc, p->coarse);
    mn_free(db->alloc, p);
}

void pack_columns_destroy(mn_db *db, struct ivf_pack *p)
{
    struct pack_column *c = atomic_load_explicit(&p->columns, memory_order_relaxed), *next;
    for (; c; c = next) {
        next = c->next;
        pack_column_destroy(db, c);
    }
}

static void version_column_destroy(mn_db *db, struct version_column *v)
{
    if (!v)
        return;
    column_release(db, v->column);
    mn_free(db->alloc, v->codes);
    mn_free(db->alloc, v->buckets);
    mn_free(db->alloc, v->each);
    mn_free(db->alloc, v->live);
    mn_free(db->alloc, v->packs);
    mn_free(db->alloc, v->uses);
    mn_free(db->alloc, v);
}

void version_columns_destroy(mn_db *db, struct ivf *x)
{
    struct version_column *v = atomic_load_explicit(&x->columns, memory_order_relaxed), *next;
    for (; v; v = next) {
        next = v->next;
        version_column_destroy(db, v);
    }
}

static struct pack_column *pack_column_of(const struct ivf_pack *p, const struct column *c)
{
    struct pack_column *at = atomic_load_explicit(&p->columns, memory_order_acquire);
    while (at && at->column != c)
        at = at->next;
    return at;
}

/* ---- The dictionary -------------------------------------------------------------------------- */

/* How many of the values stand before v; *equal: the next one is v. */
static uint32_t values_below(const mn_value *values, uint32_t n, const mn_value *v, bool *equal)
{
    uint32_t first = 0, end = n;
    *equal = false;
    while (first < end) {
        uint32_t mid = first + (end - first) / 2;
        int order = value_compare(&values[mid], v);
        *equal = *equal || order == 0;
        if (order < 0)
            first = mid + 1;
        else
            end = mid;
    }
    return first;
}

uint16_t column_code(const struct column *c, const mn_value *v)
{
    bool equal;
    if (value_is_null(v))
        return CODE_NULL;
    uint32_t i = values_below(c->values, c->n, v, &equal);
    return (uint16_t)(2 * i + 1 + equal);
}

static int by_value(const void *a, const void *b)
{
    return value_compare(a, b);
}

/* Values of a sample and the memory of their bytes. */
struct sample {
    mn_value *values; /* [n] */
    char *text;       /* [SAMPLE][LONGEST] */
    uint32_t n, nulls;
};

static void sample_fini(mn_db *db, struct sample *s)
{
    mn_free(db->alloc, s->values);
    mn_free(db->alloc, s->text);
}

/* Keeps a copy, cut. */
static void sample_add(struct sample *s, const mn_value *v)
{
    if (value_is_null(v)) {
        s->nulls++;
        return;
    }
    mn_value *to = &s->values[s->n];
    *to = *v;
    if (v->type == MN_TEXT || v->type == MN_BLOB) {
        to->len = v->len < LONGEST ? v->len : LONGEST;
        to->data = s->text + (size_t)s->n * LONGEST;
        if (to->len)
            memcpy(s->text + (size_t)s->n * LONGEST, v->data, to->len);
    }
    s->n++;
}

/* Distinct values with their bytes behind each other. */
static bool take_values(mn_db *db, struct column *c, const struct sample *s)
{
    size_t bytes = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        n += i == 0 || value_compare(&s->values[i], &s->values[i - 1]) != 0;
        bytes += s->values[i].len;
    }
    c->values = mn_alloc_array(db->alloc, n, sizeof *c->values, MN_TAG_CACHE);
    c->text = mn_alloc(db->alloc, bytes, MN_TAG_CACHE);
    if (!c->values || !c->text)
        return false;
    char *text = c->text;
    for (uint32_t i = 0; i < s->n; i++) {
        const mn_value *v = &s->values[i];
        if (i && value_compare(v, v - 1) == 0)
            continue;
        c->values[c->n] = *v;
        if (v->type == MN_TEXT || v->type == MN_BLOB) {
            c->values[c->n].data = text;
            if (v->len)
                memcpy(text, v->data, v->len);
            text += v->len;
        }
        c->n++;
    }
    return true;
}

/* Which share of the rows has which code, and buckets of about the same share each. */
static bool take_shares(mn_db *db, struct column *c, const struct sample *s)
{
    uint32_t codes = 2 * c->n + 2;
    c->below = mn_alloc_array(db->alloc, codes + 1, sizeof *c->below, MN_TAG_CACHE);
    c->bucket = mn_alloc_array(db->alloc, codes, 1, MN_TAG_CACHE);
    if (!c->below || !c->bucket)
        return false;
    for (uint32_t i = 0; i < s->n; i++)
        c->below[column_code(c, &s->values[i]) + 1]++;
    for (uint32_t i = 1; i <= codes; i++)
        c->below[i] += c->below[i - 1];
    for (uint32_t i = 1; i < codes; i++) {
        uint64_t scaled = 1 + (uint64_t)c->below[i] * (BUCKET_UNKNOWN - 1) / (s->n + 1u);
        c->bucket[i] = (uint8_t)(codes <= BUCKET_UNKNOWN ? i : scaled);
    }
    c->nulls = s->nulls;
    c->sampled = s->n + s->nulls;
    return true;
}

/* NULL when memory runs out. */
static struct column *column_create(mn_db *db, const char *name, struct sample *s, uint64_t rows)
{
    struct column *c = mn_alloc_array(db->alloc, 1, sizeof *c, MN_TAG_CACHE);
    if (!c)
        return NULL;
    atomic_init(&c->refs, 1);
    snprintf(c->name, sizeof c->name, "%s", name);
    c->rows = rows;
    if (s->n)
        qsort(s->values, s->n, sizeof *s->values, by_value);
    if (take_values(db, c, s) && take_shares(db, c, s))
        return c;
    column_release(db, c);
    return NULL;
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* What a build works with. */
struct build {
    mn_conn *conn;
    mn_db *db;
    struct coll *c;
    const struct ivf *x;
    const struct view *v; /* NULL: rows are as the version has them */
    const char *name;     /* of the attribute */
    struct column *column;
    sqlite3_stmt *one; /* ?1 id -> value */
    bool no_memory;
};

/* The value in one row; *there false: no such row. It stands until the next call. */
static mn_status look_up(struct build *b, int64_t id, mn_value *out, bool *there, mn_error *err)
{
    mn_status st = MN_OK;
    if (!b->one)
        st = sql_preparef(b->conn->sql, &b->one, err,
                          "SELECT \"%w\" FROM main.\"%w\" WHERE \"%w\" = ?1", b->name,
                          b->c->entry.table, b->c->entry.id_column);
    if (st)
        return st;
    sqlite3_reset(b->one);
    sqlite3_bind_int64(b->one, 1, id);
    st = sql_step(b->one, there, err);
    if (st == MN_OK && *there)
        *out = row_value(b->one, 0);
    return st;
}

/* The part's rows and their ids are in memory. */
static bool readable(const struct posting_view *v)
{
    return v->n && v->ids && v->blocks;
}

static bool current(const struct build *b, const struct ivf_use *u, uint32_t row, int64_t id)
{
    return !ivf_hides(u, row) && !(b->v && view_changed(b->v, id));
}

/* Rows spread evenly over the index. */
static mn_status read_sample(struct build *b, struct sample *s, mn_error *err)
{
    uint64_t every = b->x->rows / SAMPLE + 1, at = 0, next = every / 2, looked = 0;
    mn_status st = MN_OK;
    s->values = mn_alloc_array(b->db->alloc, SAMPLE, sizeof *s->values, MN_TAG_SEARCH);
    s->text = mn_alloc(b->db->alloc, (size_t)SAMPLE * LONGEST, MN_TAG_SEARCH);
    b->no_memory = !s->values || !s->text;
    for (uint32_t i = 0; i < b->x->n_uses && st == MN_OK && !b->no_memory; i++) {
        const struct posting_view *v = &ivf_use_part(&b->x->uses[i])->view;
        if (next < at + v->n && !readable(v))
            next += (at + v->n - next + every - 1) / every * every;
        for (; next < at + v->n && st == MN_OK && s->n < SAMPLE; next += every) {
            mn_value value;
            bool there = false;
            st = look_up(b, posting_id(v, (size_t)(next - at)), &value, &there, err);
            if (st == MN_OK && there)
                sample_add(s, &value);
            if (st == MN_OK && ++looked % TICK_ROWS == 0)
                st = conn_tick(b->conn, err);
        }
        at += v->n;
    }
    return st;
}

/* Codes of rows by ascending id. */
struct coded {
    int64_t *ids;    /* [n] */
    uint16_t *codes; /* [n] */
    size_t n, cap;
};

static void coded_fini(mn_db *db, struct coded *t)
{
    mn_free(db->alloc, t->ids);
    mn_free(db->alloc, t->codes);
}

static bool coded_room(mn_db *db, struct coded *t, size_t cap)
{
    int64_t *ids = mn_realloc(db->alloc, t->ids, cap * sizeof *ids, MN_TAG_SEARCH);
    if (ids)
        t->ids = ids;
    uint16_t *codes =
        ids ? mn_realloc(db->alloc, t->codes, cap * sizeof *codes, MN_TAG_SEARCH) : NULL;
    if (!codes)
        return false;
    t->codes = codes;
    t->cap = cap;
    return true;
}

static uint16_t coded_find(const struct coded *t, int64_t id)
{
    size_t first = 0, end = t->n;
    /* ids are mostly dense: the place is near where they would be if they were all so */
    if (t->n && id >= t->ids[0] && id <= t->ids[t->n - 1]) {
        uint64_t span = (uint64_t)t->ids[t->n - 1] - (uint64_t)t->ids[0];
        uint64_t off = (uint64_t)id - (uint64_t)t->ids[0];
        size_t guess = span ? (size_t)((double)off / (double)span * (double)(t->n - 1)) : 0;
        if (t->ids[guess] == id)
            return t->codes[guess];
    }
    while (first < end) {
        size_t mid = first + (end - first) / 2;
        if (t->ids[mid] < id)
            first = mid + 1;
        else
            end = mid;
    }
    return first < t->n && t->ids[first] == id ? t->codes[first] : CODE_UNKNOWN;
}

static int by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* A use whose rows are to be coded; what is not in memory has no ids to know them by. */
static bool lacks(const struct build *b, uint32_t use)
{
    const struct ivf_use *u = &b->x->uses[use];
    return readable(&ivf_use_part(u)->view) && !pack_column_of(u->pack, b->column);
}

/* The rows of packs without codes, one by one in the order of their ids. */
static mn_status read_some(struct build *b, size_t rows, struct coded *t, mn_error *err)
{
    mn_status st = MN_OK;
    b->no_memory = !coded_room(b->db, t, rows + 1);
    for (uint32_t i = 0; i < b->x->n_uses && !b->no_memory; i++) {
        const struct ivf_use *u = &b->x->uses[i];
        const struct posting_view *v = &ivf_use_part(u)->view;
        for (uint32_t row = 0; lacks(b, i) && row < v->n; row++) {
            int64_t id = posting_id(v, row);
            if (current(b, u, row, id))
                t->ids[t->n++] = id;
        }
    }
    if (t->n > 1)
        qsort(t->ids, t->n, sizeof *t->ids, by_id);
    for (size_t i = 0; i < t->n && st == MN_OK; i++) {
        mn_value value;
        bool there = false;
        st = look_up(b, t->ids[i], &value, &there, err);
        t->codes[i] = st == MN_OK && there ? column_code(b->column, &value) : CODE_UNKNOWN;
        if (st == MN_OK && i % TICK_ROWS == 0)
            st = conn_tick(b->conn, err);
    }
    return st;
}

/* All rows of the table. */
static mn_status read_all(struct build *b, struct coded *t, mn_error *err)
{
    sqlite3_stmt *rows = NULL;
    bool more = false;
    const struct catalog_entry *e = &b->c->entry;
    mn_status st =
        sql_preparef(b->conn->sql, &rows, err,
                     "SELECT \"%w\", \"%w\" FROM main.\"%w\" NOT INDEXED ORDER BY \"%w\"",
                     e->id_column, b->name, e->table, e->id_column);
    b->no_memory = !coded_room(b->db, t, (size_t)b->x->rows + 1024);
    while (st == MN_OK && !b->no_memory && (st = sql_step(rows, &more, err)) == MN_OK && more) {
        if (t->n == t->cap && !coded_room(b->db, t, t->cap + t->cap / 2)) {
            b->no_memory = true;
            break;
        }
        mn_value value = row_value(rows, 1);
        t->ids[t->n] = sqlite3_column_int64(rows, 0);
        t->codes[t->n++] = column_code(b->column, &value);
        if (t->n % TICK_ROWS == 0)
            st = conn_tick(b->conn, err);
    }
    sqlite3_finalize(rows);
    return st;
}

/* ---- Pack and version columns ---------------------------------------------------------------- */

static uint32_t padded_rows(uint32_t n)
{
    return (n + COLUMN_PAD - 1) / COLUMN_PAD * COLUMN_PAD;
}

/* All rows unknown. NULL when memory runs out. */
static struct pack_column *pack_column_create(mn_db *db, const struct ivf_pack *p, struct column *c)
{
    struct mn_alloc *a = db->alloc;
    size_t places = 0;
    struct pack_column *out = mn_alloc_array(a, 1, sizeof *out, MN_TAG_CACHE);
    if (!out)
        return NULL;
    out->column = column_share(c);
    out->first = mn_alloc_array(a, p->n_parts, sizeof *out->first, MN_TAG_CACHE);
    out->buckets = mn_alloc_array(a, p->n_parts, sizeof *out->buckets, MN_TAG_CACHE);
    for (uint32_t i = 0; out->first && i < p->n_parts; i++) {
        out->first[i] = (uint32_t)places;
        places += padded_rows(p->parts[i].view.n);
    }
    out->n_parts = p->n_parts;
    out->n_places = (uint32_t)places;
    out->codes = mn_alloc(a, places * sizeof *out->codes, MN_TAG_CACHE);
    out->order = mn_alloc(a, places * sizeof *out->order, MN_TAG_CACHE);
    out->ordered =
        mn_alloc_array(a, places / COLUMN_WINDOW + 1, sizeof *out->ordered, MN_TAG_CACHE);
    while (out->shift < 12 && column_coarse(out) > places / COARSE_ROWS)
        out->shift++;
    out->coarse = mn_alloc_array(a, (places / COLUMN_WINDOW + 1) * (column_coarse(out) + 1),
                                 sizeof *out->coarse, MN_TAG_CACHE);
    if (!out->first || !out->buckets || !out->codes || !out->order || !out->ordered ||
        !out->coarse) {
        pack_column_destroy(db, out);
        return NULL;
    }
    memset(out->codes, 0xff, places * sizeof *out->codes);
    memset(out->buckets, 0xff, p->n_parts * sizeof *out->buckets);
    return out;
}

static uint64_t buckets_of(const struct column *c, const uint16_t *codes, uint32_t n)
{
    uint64_t bits = 0;
    for (uint32_t i = 0; i < n; i++)
        bits |= UINT64_C(1) << (codes[i] == CODE_UNKNOWN ? BUCKET_UNKNOWN : c->bucket[codes[i]]);
    return bits;
}

/* A pack column while it is made: the packs of a version without one. */
struct filling {
    struct ivf_pack *pack;
    struct pack_column *column;
};

static int by_pack(const void *a, const void *b)
{
    const struct filling *x = a, *y = b;
    return (x->pack > y->pack) - (x->pack < y->pack);
}

/* The packs that lack the column, each once; *n of them, *rows in their parts. */
static struct filling *packs_without(struct build *b, size_t *n, size_t *rows)
{
    struct filling *out = mn_alloc_array(b->db->alloc, b->x->n_uses, sizeof *out, MN_TAG_SEARCH);
    size_t found = 0;
    *n = *rows = 0;
    b->no_memory = !out;
    for (uint32_t i = 0; out && i < b->x->n_uses; i++)
        if (lacks(b, i)) {
            out[found++].pack = b->x->uses[i].pack;
            *rows += ivf_use_part(&b->x->uses[i])->view.n;
        }
    if (found > 1)
        qsort(out, found, sizeof *out, by_pack);
    for (size_t i = 0; i < found; i++)
        if (*n == 0 || out[*n - 1].pack != out[i].pack)
            out[(*n)++].pack = out[i].pack;
    return out;
}

static void fill_use(struct build *b, const struct ivf_use *u, struct pack_column *to,
                     const struct coded *t)
{
    const struct posting_view *v = &ivf_use_part(u)->view;
    uint16_t *codes = to->codes + to->first[u->index];
    if (!readable(v))
        return;
    for (uint32_t row = 0; row < v->n; row++) {
        int64_t id = posting_id(v, row);
        if (current(b, u, row, id))
            codes[row] = coded_find(t, id);
    }
    to->buckets[u->index] = buckets_of(b->column, codes, v->n);
}

/* Which places are rows, into row[n_places]. */
static void mark_rows(const struct pack_column *p, const struct ivf_pack *pack, uint8_t *row)
{
    memset(row, 0, p->n_places);
    for (uint32_t i = 0; i < p->n_parts; i++)
        memset(row + p->first[i], 1, pack->parts[i].view.n);
}

/* Puts the rows of each window in order by counting; `counts` [CODE_UNKNOWN + 2]. */
static void put_in_order(struct pack_column *p, const uint8_t *row, uint32_t *counts)
{
    for (uint32_t base = 0; base < p->n_places; base += COLUMN_WINDOW) {
        uint32_t n = p->n_places - base < COLUMN_WINDOW ? p->n_places - base : COLUMN_WINDOW;
        const uint16_t *codes = p->codes + base;
        memset(counts, 0, (CODE_UNKNOWN + 2) * sizeof *counts);
        for (uint32_t i = 0; i < n; i++)
            counts[codes[i] + 1] += row[base + i];
        for (uint32_t c = 1; c <= CODE_UNKNOWN + 1; c++)
            counts[c] += counts[c - 1];
        p->ordered[base / COLUMN_WINDOW] = counts[CODE_UNKNOWN + 1];
        for (size_t i = 0; i <= column_coarse(p); i++)
            p->coarse[base / COLUMN_WINDOW * (column_coarse(p) + 1) + i] = counts[i << p->shift];
        for (uint32_t i = 0; i < n; i++)
            if (row[base + i])
                p->order[base + counts[codes[i]]++] = (uint16_t)i;
    }
}

/* Publishes it, unless somebody else did. */
static void pack_column_attach(mn_db *db, struct ivf_pack *p, struct pack_column *c)
{
    struct pack_column *head = atomic_load_explicit(&p->columns, memory_order_acquire);
    do {
        if (pack_column_of(p, c->column)) {
            pack_column_destroy(db, c);
            return;
        }
        c->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&p->columns, &head, c, memory_order_acq_rel,
                                                    memory_order_acquire));
}

/* Puts the packs' rows in order and publishes them. False when memory runs out. */
static bool publish_packs(struct build *b, struct filling *packs, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++)
        most = packs[i].column->n_places > most ? packs[i].column->n_places : most;
    uint32_t *counts = mn_alloc(b->db->alloc, (CODE_UNKNOWN + 2) * sizeof *counts, MN_TAG_SEARCH);
    uint8_t *row = mn_alloc(b->db->alloc, most, MN_TAG_SEARCH);
    bool good = counts && row;
    for (size_t i = 0; good && i < n; i++) {
        mark_rows(packs[i].column, packs[i].pack, row);
        put_in_order(packs[i].column, row, counts);
        pack_column_attach(b->db, packs[i].pack, packs[i].column);
        packs[i].column = NULL;
    }
    mn_free(b->db->alloc, counts);
    mn_free(b->db->alloc, row);
    return good;
}

static bool fill_packs(struct build *b, struct filling *packs, size_t n, const struct coded *t)
{
    for (size_t i = 0; i < n; i++)
        if (!(packs[i].column = pack_column_create(b->db, packs[i].pack, b->column)))
            return false;
    for (uint32_t i = 0; i < b->x->n_uses; i++) {
        const struct filling key = {.pack = b->x->uses[i].pack};
        struct filling *f = bsearch(&key, packs, n, sizeof key, by_pack);
        if (f)
            fill_use(b, &b->x->uses[i], f->column, t);
    }
    return publish_packs(b, packs, n);
}

static int by_column(const void *a, const void *b)
{
    const struct column_pack *x = a, *y = b;
    return (x->column > y->column) - (x->column < y->column);
}

/* Fills v->packs: which part of which pack each use is. False when memory runs out. */
static bool list_packs(mn_db *db, const struct ivf *x, struct version_column *v)
{
    size_t parts = 0, at = 0;
    uint32_t n = 0;
    v->packs = mn_alloc_array(db->alloc, x->n_uses, sizeof *v->packs, MN_TAG_CACHE);
    if (!v->packs)
        return false;
    for (uint32_t i = 0; i < x->n_uses; i++)
        if ((v->packs[n].column = pack_column_of(x->uses[i].pack, v->column)))
            n++;
    if (n > 1)
        qsort(v->packs, n, sizeof *v->packs, by_column);
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || v->packs[i].column != v->packs[v->n_packs - 1].column) {
            v->packs[v->n_packs++].column = v->packs[i].column;
            parts += v->packs[i].column->n_parts;
        }
    v->uses = mn_alloc(db->alloc, parts * sizeof *v->uses, MN_TAG_CACHE);
    if (!v->uses)
        return false;
    memset(v->uses, 0xff, parts * sizeof *v->uses);
    for (uint32_t i = 0; i < v->n_packs; i++) {
        v->packs[i].uses = v->uses + at;
        at += v->packs[i].column->n_parts;
    }
    v->whole = true;
    for (uint32_t i = 0; i < x->n_uses; i++) {
        const struct column_pack key = {.column = pack_column_of(x->uses[i].pack, v->column)};
        const struct column_pack *p =
            key.column ? bsearch(&key, v->packs, v->n_packs, sizeof key, by_column) : NULL;
        if (p)
            v->uses[(size_t)(p->uses - v->uses) + x->uses[i].index] = i;
        v->whole = v->whole && (p || ivf_use_part(&x->uses[i])->view.n == 0);
    }
    return true;
}

/* Pointers to what the packs have; false when memory runs out. */
static bool version_column_make(struct build *b, struct version_column **out)
{
    const struct ivf *x = b->x;
    size_t padded = columns_padded(x);
    struct version_column *v = mn_alloc_array(b->db->alloc, 1, sizeof *v, MN_TAG_CACHE);
    *out = NULL;
    if (!v)
        return false;
    v->column = column_share(b->column);
    v->codes = mn_alloc_array(b->db->alloc, x->n_uses, sizeof *v->codes, MN_TAG_CACHE);
    v->buckets = mn_alloc_array(b->db->alloc, padded, sizeof *v->buckets, MN_TAG_CACHE);
    v->each = mn_alloc_array(b->db->alloc, padded, sizeof *v->each, MN_TAG_CACHE);
    v->live = mn_alloc_array(b->db->alloc, padded, sizeof *v->live, MN_TAG_CACHE);
    if (!v->codes || !v->buckets || !v->each || !v->live) {
        version_column_destroy(b->db, v);
        return false;
    }
    for (uint32_t i = 0; i < x->n_uses; i++) {
        const struct ivf_use *u = &x->uses[i];
        const struct pack_column *p = pack_column_of(u->pack, b->column);
        v->codes[i] = p ? p->codes + p->first[u->index] : NULL;
        v->buckets[i] = p ? p->buckets[u->index] : ~UINT64_C(0);
        v->live[i] = (float)ivf_use_live(u);
        v->each[i] = v->live[i] > 0 ? 1 / (float)__builtin_popcountll(v->buckets[i]) : 0;
    }
    if (!list_packs(b->db, x, v)) {
        version_column_destroy(b->db, v);
        return false;
    }
    *out = v;
    return true;
}

static void version_column_attach(struct ivf *x, struct version_column *v)
{
    struct version_column *head = atomic_load_explicit(&x->columns, memory_order_relaxed);
    do {
        v->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&x->columns, &head, v, memory_order_release,
                                                    memory_order_relaxed));
}

/* ---- Building -------------------------------------------------------------------------------- */

static struct column *column_named(const struct columns *all, const char *name)
{
    struct column *c = all->first; /* newest first */
    while (c && sqlite3_stricmp(c->name, name) != 0)
        c = c->next;
    return c;
}

static mn_status make_dictionary(struct build *b, mn_error *err)
{
    struct columns *all = b->x->core->columns;
    struct sample s = {0};
    mn_status st = read_sample(b, &s, err);
    if (st == MN_OK && !b->no_memory) {
        b->column = column_create(b->db, b->name, &s, b->x->rows);
        b->no_memory = !b->column;
    }
    sample_fini(b->db, &s);
    if (!b->column)
        return st;
    pthread_mutex_lock(&all->lock);
    b->column->next = all->first;
    all->first = b->column;
    pthread_mutex_unlock(&all->lock);
    return st;
}

/* Codes for the packs that have none, from the rows. */
static mn_status make_codes(struct build *b, mn_error *err)
{
    size_t n, rows;
    struct coded t = {0};
    mn_status st = MN_OK;
    struct filling *packs = packs_without(b, &n, &rows);
    bool few = rows <= FEW_ROWS || rows < b->x->rows / FEW_SHARE;
    if (n && !b->no_memory)
        st = few ? read_some(b, rows, &t, err) : read_all(b, &t, err);
    if (n && st == MN_OK && !b->no_memory)
        b->no_memory = !fill_packs(b, packs, n, &t);
    for (size_t i = 0; packs && i < n; i++)
        pack_column_destroy(b->db, packs[i].column);
    mn_free(b->db->alloc, packs);
    coded_fini(b->db, &t);
    return st;
}

/* Bytes that a build may take at its peak, about. */
static size_t build_bytes(const struct ivf *x)
{
    return (size_t)x->rows * (sizeof(int64_t) + 3 * sizeof(uint16_t)) + (4 << 20);
}

/* A generated column changes with others, of which the log knows nothing. */
static mn_status may_be_copied(struct build *b, bool *yes, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    *yes = true;
    if (!b->c->entry.foreign)
        return MN_OK;
    mn_status status =
        sql_preparef(b->conn->sql, &st, err,
                     "SELECT hidden FROM pragma_table_xinfo(%Q, 'main') WHERE name = %Q COLLATE "
                     "NOCASE",
                     b->c->entry.table, b->name);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status == MN_OK)
        *yes = row && sqlite3_column_int(st, 0) == 0;
    sqlite3_finalize(st);
    return status;
}

static mn_status build(struct build *b, struct ivf *x, struct version_column **out, mn_error *err)
{
    bool yes = true;
    mn_status st = MN_OK;
    if (!b->column)
        st = may_be_copied(b, &yes, err);
    if (st || !yes)
        return st;
    if (!b->column)
        st = make_dictionary(b, err);
    if (st == MN_OK && b->column)
        st = make_codes(b, err);
    if (st == MN_OK && b->column && !b->no_memory && version_column_make(b, out))
        version_column_attach(x, *out);
    sqlite3_finalize(b->one);
    return st;
}

static uint64_t searches(mn_db *db)
{
    return atomic_load_explicit(&db->count.searches, memory_order_relaxed);
}

static bool begin_build(mn_db *db, struct ivf *x, const char *name, struct column **c)
{
    struct columns *all = x->core->columns;
    pthread_mutex_lock(&all->lock);
    bool mine = !all->building && searches(db) >= all->retry;
    if (!mine) {
        pthread_mutex_unlock(&all->lock);
        return false;
    }
    *c = column_named(all, name);
    if (*c && x->rows > (*c)->rows + (*c)->rows / RETIRE_SHARE)
        *c = NULL;
    all->building = true;
    pthread_mutex_unlock(&all->lock);
    return true;
}

static void end_build(mn_db *db, struct columns *all, bool no_memory)
{
    pthread_mutex_lock(&all->lock);
    all->building = false;
    all->retry = no_memory ? searches(db) + REFUSED_SEARCHES : 0;
    pthread_mutex_unlock(&all->lock);
}

/* The newest of that name in the version. */
static const struct version_column *there_already(const struct ivf *x, const char *name)
{
    const struct version_column *v = atomic_load_explicit(&x->columns, memory_order_acquire);
    while (v && sqlite3_stricmp(v->column->name, name) != 0)
        v = v->next;
    return v;
}

mn_status columns_get(mn_conn *conn, struct coll *c, const struct view *v, size_t attr,
                      const struct version_column **out, mn_error *err)
{
    struct ivf *x = view_base(v);
    struct columns *all = x->core->columns;
    struct version_column *made = NULL;
    mn_error own = {0};
    *out = there_already(x, c->attrs[attr]);
    if (*out || conn->schema_dirty || !cache_make_room(conn->db, c->entry.number, build_bytes(x)))
        return MN_OK;
    struct build b = {.conn = conn, .db = conn->db, .c = c, .x = x, .v = v, .name = c->attrs[attr]};
    if (!begin_build(conn->db, x, b.name, &b.column))
        return MN_OK;
    mn_status st = build(&b, x, &made, &own);
    end_build(conn->db, all, st == MN_NOMEM || b.no_memory);
    *out = made;
    if (st == MN_NOMEM && !sqlite3_get_autocommit(conn->sql))
        return MN_OK; /* the rows are asked */
    if (st && err)
        *err = own;
    return st;
}

/* ---- Following ------------------------------------------------------------------------------- */

/* A part that a version uses. */
struct used {
    const struct ivf_pack *pack;
    uint32_t index;
};

static int by_part(const void *a, const void *b)
{
    const struct used *x = a, *y = b;
    if (x->pack != y->pack)
        return x->pack > y->pack ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

/* The parts that a version uses, in an order; NULL when memory runs out. */
static struct used *parts_of(mn_db *db, const struct ivf *x)
{
    struct used *out = mn_alloc_array(db->alloc, x->n_uses, sizeof *out, MN_TAG_SEARCH);
    for (uint32_t i = 0; out && i < x->n_uses; i++)
        out[i] = (struct used){x->uses[i].pack, x->uses[i].index};
    if (out && x->n_uses > 1)
        qsort(out, x->n_uses, sizeof *out, by_part);
    return out;
}

static size_t place_of(const struct coded *t, int64_t id)
{
    const int64_t *at = t->n ? bsearch(&id, t->ids, t->n, sizeof id, by_id) : NULL;
    return at ? (size_t)(at - t->ids) : t->n;
}

/* Takes over the codes of rows that `old` has in parts which the new version does not use. */
static void carry(struct build *b, const struct ivf *old, const struct version_column *from,
                  const struct used *parts, const struct coded *changed, struct coded *t)
{
    for (uint32_t i = 0; i < old->n_uses; i++) {
        const struct ivf_use *u = &old->uses[i];
        const struct posting_view *v = &ivf_use_part(u)->view;
        const struct used key = {u->pack, u->index};
        if (!from->codes[i] || !readable(v) ||
            bsearch(&key, parts, b->x->n_uses, sizeof key, by_part))
            continue;
        for (uint32_t row = 0; row < v->n; row++) {
            int64_t id = posting_id(v, row);
            size_t at = ivf_hides(u, row) ? t->n : place_of(t, id);
            if (at < t->n && place_of(changed, id) == changed->n)
                t->codes[at] = from->codes[i][row];
        }
    }
}

/* The ids of the rows without codes, all of them unknown yet. */
static bool list_rows(struct build *b, size_t rows, struct coded *t)
{
    if (!coded_room(b->db, t, rows + 1))
        return false;
    for (uint32_t i = 0; i < b->x->n_uses; i++) {
        const struct ivf_use *u = &b->x->uses[i];
        const struct posting_view *v = &ivf_use_part(u)->view;
        for (uint32_t row = 0; lacks(b, i) && row < v->n; row++)
            if (!ivf_hides(u, row)) {
                t->codes[t->n] = CODE_UNKNOWN;
                t->ids[t->n++] = posting_id(v, row);
            }
    }
    if (t->n > 1)
        qsort(t->ids, t->n, sizeof *t->ids, by_id);
    return true;
}

/* Reads what is still unknown; *many: that would be too much. */
static mn_status read_rest(struct build *b, struct coded *t, bool *many, mn_error *err)
{
    size_t left = 0;
    mn_status st = MN_OK;
    for (size_t i = 0; i < t->n; i++)
        left += t->codes[i] == CODE_UNKNOWN;
    *many = left > FEW_ROWS && left > b->x->rows / FEW_SHARE;
    for (size_t i = 0; i < t->n && st == MN_OK && !*many; i++) {
        mn_value value;
        bool there = false;
        if (t->codes[i] != CODE_UNKNOWN)
            continue;
        st = look_up(b, t->ids[i], &value, &there, err);
        if (st == MN_OK && there)
            t->codes[i] = column_code(b->column, &value);
        if (st == MN_OK && i % TICK_ROWS == 0)
            st = conn_tick(b->conn, err);
    }
    return st;
}

static mn_status follow(struct build *b, const struct ivf *old, const struct version_column *from,
                        struct ivf *x, const struct coded *changed, mn_error *err)
{
    struct coded t = {0};
    struct version_column *made = NULL;
    size_t n, rows;
    bool many = false;
    mn_status st = MN_OK;
    struct filling *packs = packs_without(b, &n, &rows);
    struct used *parts = parts_of(b->db, x);
    bool good = packs && parts && list_rows(b, rows, &t);
    if (good) {
        carry(b, old, from, parts, changed, &t);
        st = read_rest(b, &t, &many, err);
    }
    if (good && st == MN_OK && !many && (n == 0 || fill_packs(b, packs, n, &t)) &&
        version_column_make(b, &made))
        version_column_attach(x, made);
    for (size_t i = 0; packs && i < n; i++)
        pack_column_destroy(b->db, packs[i].column);
    mn_free(b->db->alloc, packs);
    mn_free(b->db->alloc, parts);
    coded_fini(b->db, &t);
    sqlite3_finalize(b->one);
    return st;
}

/* Not a second one of the same name, and not one to be made anew. */
static bool worth_following(const struct version_column *first, const struct version_column *from,
                            const struct ivf *x)
{
    for (const struct version_column *v = first; v != from; v = v->next)
        if (sqlite3_stricmp(v->column->name, from->column->name) == 0)
            return false;
    return x->rows <= from->column->rows + from->column->rows / RETIRE_SHARE;
}

static bool has_attribute(const struct coll *c, const char *name)
{
    size_t at;
    return coll_attr(c, name, &at, NULL) == MN_OK;
}

mn_status columns_follow(mn_conn *conn, struct coll *c, const struct ivf *old, struct ivf *x,
                         mn_error *err)
{
    const struct version_column *first = atomic_load_explicit(&old->columns, memory_order_acquire);
    struct coded changed = {0};
    struct log_position head;
    mn_error own = {0};
    if (!first || old->core != x->core || conn->schema_dirty || x->unread ||
        !cache_has_room(conn->db, build_bytes(x)))
        return MN_OK;
    mn_status st = coll_head(conn, c, &head, &own);
    bool here = st == MN_OK && head.seq == x->at.seq && head.stamp == x->at.stamp;
    if (here)
        st = coll_log_since(conn, c, "fold", old->at.seq, &changed.ids, &changed.n, &own);
    for (const struct version_column *v = first; here && v && st == MN_OK; v = v->next) {
        struct build b = {.conn = conn,
                          .db = conn->db,
                          .c = c,
                          .x = x,
                          .column = v->column,
                          .name = v->column->name};
        if (worth_following(first, v, x) && has_attribute(c, b.name))
            st = follow(&b, old, v, x, &changed, &own);
    }
    mn_free(conn->db->alloc, changed.ids);
    bool matters = st == MN_INTERRUPTED || st == MN_DEADLINE || sqlite3_get_autocommit(conn->sql);
    if (st && matters && err)
        *err = own;
    return matters ? st : MN_OK;
}
