/*
 * How a condition becomes codes. With i = the number of dictionary values below the condition's
 * value v, v has the code 2 i + 2 if it is values[i], and otherwise falls into the gap 2 i + 1. All
 * codes before it are values below v, all behind it values above, so comparisons are ranges; rows
 * in v's own gap may lie on either side. The ranges of several conditions on one attribute are
 * intersected. IN and CONTAINS are sets of codes.
 *
 * How many rows. Of one attribute the dictionary's sample knows the share of each code. A posting's
 * share is that of its buckets which may match among those that occur, scaled so that all postings
 * add up to the whole. Several attributes are taken as independent within a posting, not over all:
 * where postings differ the sum over them tells more than a product of shares. Rows that are few
 * are listed instead, by the order of the rarest attribute's codes.
 */
#include "src/engine/selection.h"

#include <string.h>

#include "storage/base/json_member.h"

enum {
    LIST_MOST = 6000,    /* so many rows are listed one by one; about 30 ns each */
    LIST_FEW = 300,      /* these always */
    LIST_CODES = 16,     /* of a set of more codes they are not */
    NO_HOLE = CODE_UNKNOWN,
    SET_WORDS = (2 * COLUMN_VALUES + 2 + 63) / 64,
    FETCHED_BYTES = 512 /* of a part's codes, ahead: then the hardware follows */
};

/* Of more than this share of the rows, so many of a few postings are sooner asked than listed: 20K
 * rows, 0.1: 70 us by the list, 25 without. */
#define LIST_SHARE 0.02

/* ---- Codes that meet a condition ------------------------------------------------------------- */

static uint16_t last_code(const struct column *c)
{
    return (uint16_t)(2 * c->n + 1);
}

static bool is_gap(uint16_t code)
{
    return code % 2;
}

static void narrow(uint16_t *low, uint16_t *high, uint16_t first, uint16_t last)
{
    *low = first > *low ? first : *low;
    *high = last < *high ? last : *high;
}

/* An empty range has low > high. */
static void take_range(struct selection_term *t, const struct condition *c)
{
    const struct column *d = t->column->column;
    uint16_t last = last_code(d), v = c->n ? column_code(d, c->values) : 0;
    uint16_t below = (uint16_t)(v - 1), above = (uint16_t)(v + 1);
    bool gap = is_gap(v);
    switch (c->op) {
    case MN_OP_EQ:
        narrow(&t->low, &t->high, v, v);
        narrow(&t->sure_low, &t->sure_high, gap ? 1 : v, gap ? 0 : v);
        break;
    case MN_OP_NE:
        narrow(&t->low, &t->high, 1, last);
        narrow(&t->sure_low, &t->sure_high, 1, last);
        t->sure_hole = v;
        if (!gap)
            t->hole = v;
        break;
    case MN_OP_LT:
        narrow(&t->low, &t->high, 1, gap ? v : below);
        narrow(&t->sure_low, &t->sure_high, 1, below);
        break;
    case MN_OP_LE:
        narrow(&t->low, &t->high, 1, v);
        narrow(&t->sure_low, &t->sure_high, 1, gap ? below : v);
        break;
    case MN_OP_GT:
        narrow(&t->low, &t->high, gap ? v : above, last);
        narrow(&t->sure_low, &t->sure_high, above, last);
        break;
    case MN_OP_GE:
        narrow(&t->low, &t->high, v, last);
        narrow(&t->sure_low, &t->sure_high, gap ? above : v, last);
        break;
    case MN_OP_IS_NULL:
        narrow(&t->low, &t->high, CODE_NULL, CODE_NULL);
        narrow(&t->sure_low, &t->sure_high, CODE_NULL, CODE_NULL);
        break;
    default: /* NOT_NULL */
        narrow(&t->low, &t->high, 1, last);
        narrow(&t->sure_low, &t->sure_high, 1, last);
        break;
    }
}

static void set_add(struct selection_term *t, uint16_t code)
{
    t->set[code / 64] |= UINT64_C(1) << (code % 64);
}

static bool set_has(const struct selection_term *t, uint16_t code)
{
    return t->set[code / 64] >> (code % 64) & 1;
}

/* Texts may lie in the gap before values[i]: not if it is between numbers, or behind the texts. */
static bool gap_has_texts(const struct column *d, uint32_t i)
{
    return (i == 0 || d->values[i - 1].type != MN_BLOB) &&
           (i == d->n || d->values[i].type == MN_TEXT || d->values[i].type == MN_BLOB);
}

static void take_set(mn_db *db, const struct selection *s, struct selection_term *t,
                     const struct condition *c)
{
    struct column *d = t->column->column;
    struct columns *all = s->x->core->columns;
    if (c->op == MN_OP_IN) {
        for (size_t i = 0; i < c->n; i++)
            set_add(t, column_code(d, &c->values[i]));
        return;
    }
    if (columns_kept(all, d, c->values, t->set, SET_WORDS))
        return;
    for (uint32_t i = 0; i <= d->n; i++) {
        if (gap_has_texts(d, i))
            set_add(t, (uint16_t)(2 * i + 1));
        if (i == d->n)
            continue;
        if (condition_holds(c, &d->values[i]))
            set_add(t, (uint16_t)(2 * i + 2));
    }
    columns_keep(db, all, d, c->values, t->set, SET_WORDS);
}

static bool term_may(const struct selection_term *t, uint16_t code)
{
    if (code == CODE_UNKNOWN)
        return true;
    return t->set ? set_has(t, code) : code >= t->low && code <= t->high && code != t->hole;
}

static bool term_sure(const struct selection_term *t, uint16_t code)
{
    if (code == CODE_UNKNOWN)
        return false;
    if (t->set)
        return set_has(t, code) && !is_gap(code);
    return code >= t->sure_low && code <= t->sure_high && code != t->sure_hole;
}

/* Buckets and share of the codes that may meet it. */
static void weigh_term(struct selection_term *t)
{
    const struct column *d = t->column->column;
    double rows = 0;
    t->buckets = UINT64_C(1) << BUCKET_UNKNOWN;
    uint16_t first = t->set ? 0 : t->low, last = t->set ? last_code(d) : t->high;
    if (!t->set && first <= last) { /* buckets of a range follow each other */
        unsigned from = d->bucket[first], to = d->bucket[last];
        t->buckets |= (~UINT64_C(0) << from) & (~UINT64_C(0) >> (63 - to));
        rows = first ? d->below[last + 1] - d->below[first] : d->nulls + d->below[last + 1];
        if (t->hole != NO_HOLE && t->hole >= first && t->hole <= last)
            rows -= d->below[t->hole + 1] - d->below[t->hole];
    }
    for (uint32_t code = first; t->set && code <= last; code++)
        if (set_has(t, (uint16_t)code)) {
            t->buckets |= UINT64_C(1) << d->bucket[code];
            rows += d->below[code + 1] - d->below[code];
        }
    /* A value that no row of the sample had: half a row. */
    t->share = d->sampled ? (rows > 0 ? rows : 0.5) / d->sampled : 1;
}

/* ---- Making ---------------------------------------------------------------------------------- */

static bool is_set(const struct condition *c)
{
    return c->op == MN_OP_IN || c->op == MN_OP_CONTAINS;
}

/* The term of ranges on that column, a new one if there is none. */
static struct selection_term *range_term(struct selection *s, const struct version_column *column)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->terms[i].column == column && !s->terms[i].set)
            return &s->terms[i];
    struct selection_term *t = &s->terms[s->n++];
    uint16_t last = last_code(column->column);
    *t = (struct selection_term){.column = column, .high = last, .sure_high = last,
                                 .hole = NO_HOLE, .sure_hole = NO_HOLE};
    return t;
}

static mn_status add_condition(mn_conn *conn, struct coll *c, const struct view *v, size_t at,
                               struct selection *s, mn_error *err)
{
    const struct condition *cond = &s->where->all[at];
    const struct version_column *column = NULL;
    if (cond->column == CONDITION_ID) {
        s->ids[s->n_ids++] = at;
        return MN_OK;
    }
    mn_status st = MN_OK;
    if (cond->column >= 0)
        st = columns_get(conn, c, v, (size_t)cond->column, &column, err);
    if (!column) {
        s->asks_rows = true;
        return st;
    }
    if (is_set(cond)) {
        struct selection_term *t = &s->terms[s->n++];
        *t = (struct selection_term){.column = column};
        t->set = mn_alloc_array(conn->db->alloc, SET_WORDS, sizeof *t->set, MN_TAG_SEARCH);
        if (!t->set)
            return mn_fail(err, MN_NOMEM, "search: out of memory under the cap for conditions");
        take_set(conn->db, s, t, cond);
        return MN_OK;
    }
    struct selection_term *t = range_term(s, column);
    /* A second hole in one range: no codes say so, the rows do. */
    if (cond->op == MN_OP_NE && t->sure_hole != NO_HOLE)
        s->asks_rows = true;
    else
        take_range(t, cond);
    return MN_OK;
}

static double as_number(const mn_value *v)
{
    return v->type == MN_INTEGER ? (double)v->integer : v->real;
}

/* Share of a part's ids, taken as spread evenly, that meet a comparison. */
static double id_share(const struct condition *c, const struct posting_view *v)
{
    const mn_value least = {.type = MN_INTEGER, .integer = v->id_base};
    const mn_value most = {.type = MN_INTEGER, .integer = v->id_max};
    bool low = condition_holds(c, &least), high = condition_holds(c, &most);
    bool range = c->op >= MN_OP_LT && c->op <= MN_OP_GE;
    if (!range || low == high || c->values->type == MN_TEXT || c->values->type == MN_BLOB)
        return range && !low && !high ? 0 : 1;
    double from = (double)v->id_base, to = (double)v->id_max;
    double share = (as_number(c->values) - from + 1) / (to - from + 1);
    share = low ? share : 1 - share;
    return share < 0.001 ? 0.001 : share > 1 ? 1 : share;
}

static double ids_share(const struct selection *s, const struct posting_view *v)
{
    double share = 1;
    for (size_t i = 0; i < s->n_ids && v->ids; i++)
        share *= id_share(&s->where->all[s->ids[i]], v);
    return share;
}

/* Rows of each use that may match, about, before scaling, into rows[columns_padded]. */
static void expect_of_uses(const struct selection *s, float *rows)
{
    const struct ivf *x = s->x;
    if (s->n)
        memcpy(rows, s->terms[0].column->live, columns_padded(x) * sizeof *rows);
    for (uint32_t u = 0; !s->n && u < x->n_uses; u++)
        rows[u] = (float)ivf_use_live(&x->uses[u]);
    for (size_t i = 0; i < s->n; i++)
        s->kn->common(s->terms[i].column->buckets, s->terms[i].buckets, s->terms[i].column->each,
                      columns_padded(x), rows);
    for (uint32_t u = 0; s->n_ids && u < x->n_uses; u++)
        rows[u] *= (float)ids_share(s, &ivf_use_part(&x->uses[u])->view);
}

static void scale_all(struct selection *s, double sum)
{
    double share = 1;
    for (size_t i = 0; i < s->n; i++)
        share = s->terms[i].share < share ? s->terms[i].share : share;
    /* The sample knows better than buckets how many there are in all; of several attributes it
     * knows at most so many. */
    double want = share * (double)s->x->rows;
    bool rescale = sum > 0 && s->n && s->n_ids == 0 && (s->n == 1 || sum > want);
    float scale = rescale ? (float)(want / sum) : 1;
    for (uint32_t j = 0; rescale && j < s->x->core->n_lists; j++)
        s->expect[j] *= scale;
    s->matches = sum * (double)scale;
}

static void expect_all(struct selection *s)
{
    const struct ivf *x = s->x;
    double sum = 0;
    expect_of_uses(s, s->of_uses);
    for (uint32_t j = 0; j < x->core->n_lists; j++) {
        float all = 0;
        for (uint32_t u = x->first[j]; u < x->first[j + 1]; u++)
            all += s->of_uses[u];
        s->expect[j] = all;
        sum += (double)all;
    }
    scale_all(s, sum);
}

static bool id_meets(const struct selection *s, int64_t id)
{
    const mn_value v = {.type = MN_INTEGER, .integer = id};
    for (size_t i = 0; i < s->n_ids; i++)
        if (!condition_holds(&s->where->all[s->ids[i]], &v))
            return false;
    return true;
}

/* ---- Few rows -------------------------------------------------------------------------------- */

struct listing {
    struct selection *s;
    const struct selection_term *term; /* whose codes are gone through; NULL: unknown ones */
    const struct version_column *column;
    uint32_t n;
    bool full;
};

/* How many places of the window at `base`, in order, have codes below `code`. */
static uint32_t places_below(const struct pack_column *p, uint32_t base, uint32_t code)
{
    const uint16_t *order = p->order + base, *codes = p->codes + base;
    const uint32_t *coarse = p->coarse + base / COLUMN_WINDOW * (column_coarse(p) + 1);
    uint32_t first = coarse[code >> p->shift], end = p->ordered[base / COLUMN_WINDOW];
    if (code > CODE_UNKNOWN)
        return end;
    end = coarse[(code >> p->shift) + 1];
    while (first < end) {
        uint32_t mid = first + (end - first) / 2;
        if (codes[order[mid]] < code)
            first = mid + 1;
        else
            end = mid;
    }
    return first;
}

/* The part that a place lies in. */
static uint32_t part_of(const struct pack_column *p, uint32_t place)
{
    uint32_t first = 0, end = p->n_parts;
    while (end - first > 1) {
        uint32_t mid = first + (end - first) / 2;
        if (p->first[mid] <= place)
            first = mid;
        else
            end = mid;
    }
    return first;
}

static void list_place(struct listing *l, const struct column_pack *pack, uint32_t place)
{
    const struct ivf *x = l->s->x;
    uint32_t part = part_of(pack->column, place), use = pack->uses[part];
    uint32_t row = place - pack->column->first[part];
    if (use == UINT32_MAX || ivf_hides(&x->uses[use], row))
        return;
    for (size_t i = 0; i < l->s->n; i++)
        if (&l->s->terms[i] != l->term &&
            !term_may(&l->s->terms[i], l->s->terms[i].column->codes[use][row]))
            return;
    if (l->s->n_ids && !id_meets(l->s, posting_id(&x->ann_parts[use].view, row)))
        return;
    l->full = l->n == LIST_MOST;
    if (!l->full)
        l->s->listed_rows[l->n++] = (struct listed_row){use, row};
}

/* Rows with codes first .. last. */
static void list_codes(struct listing *l, uint32_t first, uint32_t last)
{
    for (uint32_t i = 0; i < l->column->n_packs && !l->full; i++) {
        const struct column_pack *pack = &l->column->packs[i];
        const struct pack_column *p = pack->column;
        for (uint32_t base = 0; base < p->n_places && !l->full; base += COLUMN_WINDOW) {
            uint32_t end = places_below(p, base, last + 1);
            for (uint32_t at = places_below(p, base, first); at < end && !l->full; at++)
                list_place(l, pack, base + p->order[base + at]);
        }
    }
}

/* Sorts them by use. */
static void put_list(struct listing *l)
{
    struct selection *s = l->s;
    uint32_t n = s->x->n_uses;
    memset(s->start, 0, ((size_t)n + 2) * sizeof *s->start);
    for (uint32_t i = 0; i < l->n; i++)
        s->start[s->listed_rows[i].use + 2]++;
    for (uint32_t u = 2; u <= n + 1; u++)
        s->start[u] += s->start[u - 1];
    for (uint32_t i = 0; i < l->n; i++)
        s->list[s->start[s->listed_rows[i].use + 1]++] = s->listed_rows[i].row;
    for (uint32_t j = 0; j < s->x->core->n_lists; j++)
        s->expect[j] = (float)(s->start[s->x->first[j + 1]] - s->start[s->x->first[j]]);
    s->matches = l->n;
    s->listed = true;
}

static const struct selection_term *rarest(const struct selection *s)
{
    const struct selection_term *best = NULL;
    for (size_t i = 0; i < s->n; i++)
        if (!best || s->terms[i].share < best->share)
            best = &s->terms[i];
    return best;
}

/* Lists the rows if they are few and the columns know all. */
static void list_few(struct selection *s)
{
    const struct selection_term *t = rarest(s);
    uint32_t n_codes = 0, codes[LIST_CODES];
    if (!t || s->x->unread)
        return;
    double rows = t->share * (double)s->x->rows;
    if (rows > LIST_MOST || (rows > LIST_FEW && t->share > LIST_SHARE))
        return;
    for (size_t i = 0; i < s->n; i++)
        if (!s->terms[i].column->whole)
            return;
    for (uint32_t code = 0; t->set && code <= last_code(t->column->column); code++)
        if (set_has(t, (uint16_t)code)) {
            if (n_codes == LIST_CODES)
                return;
            codes[n_codes++] = code;
        }
    struct listing l = {.s = s, .term = t->hole == NO_HOLE ? t : NULL, .column = t->column};
    for (uint32_t i = 0; i < n_codes; i++)
        list_codes(&l, codes[i], codes[i]);
    if (!t->set && t->low <= t->high)
        list_codes(&l, t->low, t->high);
    l.term = NULL;
    list_codes(&l, CODE_UNKNOWN, CODE_UNKNOWN);
    if (!l.full)
        put_list(&l);
}

/* Nobody asks for more than that any posting may have some. */
static void expect_most(struct selection *s, double share)
{
    for (uint32_t j = 0; j < s->x->core->n_lists; j++)
        s->expect[j] = 1;
    s->matches = share * (double)s->x->rows;
}

/* Where the arrays of a selection stand in conn->room. */
static mn_status take_room(mn_conn *conn, struct selection *s, mn_error *err)
{
    size_t lanes = ann_index_lanes(s->x->ann) * sizeof *s->expect;
    size_t uses = columns_padded(s->x) * sizeof *s->of_uses;
    size_t start = ((size_t)s->x->n_uses + 2) * sizeof *s->start;
    size_t list = LIST_MOST * sizeof *s->list, listed = LIST_MOST * sizeof *s->listed_rows;
    size_t bytes = lanes + uses + start + list + listed + 4 * 64;
    if (conn->room_bytes < bytes) {
        mn_free(conn->db->alloc, conn->room);
        conn->room = mn_alloc(conn->db->alloc, bytes, MN_TAG_SEARCH);
        conn->room_bytes = conn->room ? bytes : 0;
    }
    if (!conn->room)
        return mn_fail(err, MN_NOMEM, "search: out of memory under the cap for conditions");
    char *at = conn->room;
    s->expect = (float *)(void *)at;
    at += (lanes + 63) / 64 * 64;
    s->of_uses = (float *)(void *)at;
    at += (uses + 63) / 64 * 64;
    s->listed_rows = (struct listed_row *)(void *)at;
    at += (listed + 63) / 64 * 64;
    s->list = (uint32_t *)(void *)at;
    at += (list + 63) / 64 * 64;
    s->start = (uint32_t *)(void *)at;
    memset(s->expect, 0, lanes);
    return MN_OK;
}

mn_status selection_make(mn_conn *conn, struct coll *c, const struct view *v,
                         const struct conditions *where, struct selection *out, mn_error *err)
{
    struct mn_alloc *a = conn->db->alloc;
    mn_status st = MN_OK;
    *out = (struct selection){.x = view_base(v), .kn = conn->db->kernels, .where = where};
    out->terms = mn_alloc_array(a, where->n, sizeof *out->terms, MN_TAG_SEARCH);
    out->ids = mn_alloc_array(a, where->n, sizeof *out->ids, MN_TAG_SEARCH);
    if (!out->terms || !out->ids)
        return mn_fail(err, MN_NOMEM, "search: out of memory under the cap for conditions");
    st = take_room(conn, out, err);
    for (size_t i = 0; i < where->n && st == MN_OK; i++)
        st = add_condition(conn, c, v, i, out, err);
    for (size_t i = 0; i < out->n && st == MN_OK; i++)
        weigh_term(&out->terms[i]);
    if (st == MN_OK)
        list_few(out);
    if (st || out->listed)
        return st;
    const struct selection_term *t = rarest(out);
    if (out->asks_rows || !t || out->n_ids || t->share < SELECTION_MOST)
        expect_all(out);
    else
        expect_most(out, t->share);
    return MN_OK;
}

void selection_fini(struct mn_alloc *a, struct selection *s)
{
    for (size_t i = 0; s->terms && i < s->n; i++)
        mn_free(a, s->terms[i].set);
    mn_free(a, s->terms);
    mn_free(a, s->ids);
    *s = (struct selection){0};
}

/* ---- Asking ---------------------------------------------------------------------------------- */

/* Without the library's popcount, which counts with a table. */
static size_t bits_of(uint64_t v)
{
    v -= v >> 1 & UINT64_C(0x5555555555555555);
    v = (v & UINT64_C(0x3333333333333333)) + (v >> 2 & UINT64_C(0x3333333333333333));
    v = (v + (v >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return v * UINT64_C(0x0101010101010101) >> 56;
}

static size_t count(const uint64_t *match, size_t n)
{
    size_t bits = 0;
    for (size_t i = 0; i < (n + 63) / 64; i++)
        bits += match[i] ? bits_of(match[i]) : 0;
    return bits;
}

static void match_set(const struct selection_term *t, const uint16_t *codes, size_t n,
                      uint64_t *match)
{
    for (size_t i = 0; i < (n + 63) / 64; i++)
        for (uint64_t left = match[i]; left; left &= left - 1)
            if (!term_may(t, codes[i * 64 + (size_t)__builtin_ctzll(left)]))
                match[i] &= ~(left & -left);
}

static void match_ids(const struct selection *s, const struct posting_view *v, size_t first,
                      size_t n, uint64_t *match)
{
    for (size_t i = 0; i < (n + 63) / 64; i++)
        for (uint64_t left = match[i]; left; left &= left - 1)
            if (!id_meets(s, posting_id(v, first + i * 64 + (size_t)__builtin_ctzll(left))))
                match[i] &= ~(left & -left);
}

static size_t match_list(const struct selection *s, uint32_t use, size_t first, size_t n,
                         uint64_t *match)
{
    size_t found = 0;
    memset(match, 0, (n + 63) / 64 * sizeof *match);
    for (uint32_t i = s->start[use]; i < s->start[use + 1]; i++) {
        size_t row = s->list[i] - first;
        if (s->list[i] < first || row >= n)
            continue;
        match[row / 64] |= UINT64_C(1) << row % 64;
        found++;
    }
    return found;
}

size_t selection_match(const struct selection *s, uint32_t use, size_t first, size_t n,
                       uint64_t *match)
{
    const struct posting_view *v = &s->x->ann_parts[use].view;
    if (s->listed)
        return match_list(s, use, first, n, match);
    for (size_t i = 0; i < s->n; i++) {
        const struct selection_term *t = &s->terms[i];
        const uint16_t *codes = t->column->codes[use];
        if (!(t->column->buckets[use] & t->buckets))
            return 0;
        if (!codes)
            continue;
        if (t->set) {
            match_set(t, codes + first, n, match);
            continue;
        }
        bool none = t->low > t->high; /* but unknown rows */
        struct kernel_select k = {.values = codes + first, .n = n,
                                  .low = none ? CODE_UNKNOWN : t->low,
                                  .span = none ? 0 : (uint16_t)(t->high - t->low),
                                  .hole = t->hole, .match = match};
        s->kn->select(&k);
    }
    if (s->n_ids && v->ids)
        match_ids(s, v, first, n, match);
    return count(match, n);
}

void selection_ahead(const struct selection *s, uint32_t posting)
{
    uint32_t use = s->x->first[posting];
    if (use == s->x->first[posting + 1])
        return;
    for (size_t i = 0; i < s->n && !s->listed; i++) {
        const struct version_column *c = s->terms[i].column;
        size_t bytes = (size_t)c->live[use] * sizeof **c->codes;
        bytes = bytes < FETCHED_BYTES ? bytes : FETCHED_BYTES;
        for (size_t at = 0; c->codes[use] && at < bytes; at += 64)
            __builtin_prefetch((const char *)c->codes[use] + at);
    }
}

enum selected selection_row(const struct selection *s, uint32_t use, uint32_t row, int64_t id)
{
    bool sure = !s->asks_rows;
    if (!id_meets(s, id))
        return SELECTED_NO;
    for (size_t i = 0; i < s->n; i++) {
        const struct selection_term *t = &s->terms[i];
        const uint16_t *codes = t->column->codes[use];
        uint16_t code = codes ? codes[row] : CODE_UNKNOWN;
        if (!term_may(t, code))
            return SELECTED_NO;
        sure = sure && term_sure(t, code);
    }
    return sure ? SELECTED_YES : SELECTED_MAYBE;
}
