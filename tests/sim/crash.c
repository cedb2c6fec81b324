/*
 * Power cuts. The log is walked once. `walk.settled` is what is surely on the disk at the cut,
 * `walk.pending` the changes that may or may not be; a sync moves the former into the latter:
 *
 *     cut c:   settled + any subset of the pieces of pending   = the states of c
 *     entry c: WRITE, RESIZE, names -> pending;  SYNC f -> pending data of f into settled;
 *              DIRSYNC -> pending names of the folder into settled;
 *              SYNC_FAILED f -> pending data of f becomes stuck: no later sync settles it
 *
 * A piece is a name change, a size change, or the part of a write that lies in one sector. A state
 * is a number: fate_of() maps 0 .. n_states - 1 to which pieces are kept, which write is torn, and
 * what becomes of sizes. The same number gives the same state at any time: it is what replays.
 */
#include "tests/sim/disk.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct change {
    const struct op *op;
    bool stuck;
};

struct piece {
    unsigned change;        /* index into pending */
    size_t from, len;       /* of a write: part of its data */
};

/* The state of affairs at one cut. */
struct walk {
    struct sim *sim;
    const struct sim_enum_opts *opts;
    uint32_t cut;
    struct tree settled;
    struct change *pending; /* in the log's order */
    size_t n_pending;
    struct piece *pieces;
    size_t n_pieces;
    unsigned *files;        /* files with pending data, each once */
    size_t n_files;
    size_t n_each;          /* pieces that the one-piece states go through */
};

enum sizes { SIZES_FOLLOW, SIZES_ONLY_ZEROS, SIZES_ONLY_GARBAGE, SIZES_SETTLED };

struct fate {
    unsigned char *keep;    /* [n_pieces] */
    long torn;              /* change cut short or garbled; -1 none */
    size_t torn_bytes;      /* that got to the disk */
    bool garbage;           /* the torn change's whole range holds garbage instead */
    enum sizes sizes;
    uint64_t seed;
    char words[200];
};

/* ---- Walking the log ----------------------------------------------------------------------- */

static bool is_name_op(const struct op *op)
{
    return op->kind == OP_CREATE || op->kind == OP_UNLINK || op->kind == OP_RENAME;
}

static void apply_name(struct tree *t, const struct op *op)
{
    int i = tree_find(t, op->path);
    bool leads_there = i >= 0 && t->names[i].file == op->file;
    if (op->kind == OP_CREATE) {
        tree_link(t, op->path, op->file);
        return;
    }
    if (leads_there)
        tree_drop(t, (size_t)i);
    if (op->kind == OP_RENAME)
        tree_link(t, op->to, op->file);
}

static bool overlap(const struct op *a, const struct op *b)
{
    return a->off < b->off + b->len && b->off < a->off + a->len;
}

/* A change that no sync settles ends when a later, settled write replaced its bytes. */
static void forget_stuck(struct walk *w, const struct op *settled)
{
    for (size_t i = 0; i < w->n_pending; i++) {
        struct change *c = &w->pending[i];
        if (c->op == settled)
            return;
        if (c->op && c->stuck && c->op->file == settled->file && !is_name_op(c->op) &&
            (c->op->kind == OP_RESIZE || settled->kind == OP_RESIZE || overlap(c->op, settled)))
            c->op = NULL;
    }
}

static void drop_forgotten(struct walk *w)
{
    size_t n = 0;
    for (size_t i = 0; i < w->n_pending; i++)
        if (w->pending[i].op)
            w->pending[n++] = w->pending[i];
    w->n_pending = n;
}

static void settle_data(struct walk *w, unsigned file)
{
    for (size_t i = 0; i < w->n_pending; i++) {
        struct change *c = &w->pending[i];
        if (!c->op || is_name_op(c->op) || c->op->file != file || c->stuck)
            continue;
        struct content *to = &w->settled.files[file];
        if (c->op->kind == OP_WRITE)
            content_write(to, c->op->data, c->op->len, c->op->off);
        else
            content_resize(to, c->op->off);
        forget_stuck(w, c->op);
        c->op = NULL;
    }
    drop_forgotten(w);
}

static void settle_names(struct walk *w, const char *path)
{
    for (size_t i = 0; i < w->n_pending; i++) {
        struct change *c = &w->pending[i];
        if (!is_name_op(c->op) || !same_folder(c->op->to ? c->op->to : c->op->path, path))
            continue;
        apply_name(&w->settled, c->op);
        c->op = NULL;
    }
    drop_forgotten(w);
}

/* Takes the log's next entry. */
static void advance(struct walk *w)
{
    const struct op *op = &w->sim->log[w->cut++];
    switch (op->kind) {
    case OP_SYNC:
        settle_data(w, op->file);
        break;
    case OP_SYNC_FAILED:
        for (size_t i = 0; i < w->n_pending; i++)
            if (!is_name_op(w->pending[i].op) && w->pending[i].op->file == op->file)
                w->pending[i].stuck = true;
        break;
    case OP_DIRSYNC:
        settle_names(w, op->path);
        break;
    default:
        w->pending = sim_grow(w->pending, w->n_pending, sizeof *w->pending);
        w->pending[w->n_pending++] = (struct change){.op = op};
        if (op->kind == OP_CREATE)
            while (w->settled.n_files <= op->file)
                tree_add_file(&w->settled);
        break;
    }
}

static void add_piece(struct walk *w, size_t change, size_t from, size_t len)
{
    w->pieces = sim_grow(w->pieces, w->n_pieces, sizeof *w->pieces);
    w->pieces[w->n_pieces++] = (struct piece){(unsigned)change, from, len};
}

static void note_file(struct walk *w, unsigned file)
{
    for (size_t i = 0; i < w->n_files; i++)
        if (w->files[i] == file)
            return;
    w->files = sim_grow(w->files, w->n_files, sizeof *w->files);
    w->files[w->n_files++] = file;
}

/* Cuts pending into pieces. */
static void split(struct walk *w)
{
    size_t unit = w->opts->split_bytes ? w->opts->split_bytes : w->sim->disk.sector_bytes;
    w->n_pieces = w->n_files = 0;
    for (size_t i = 0; i < w->n_pending; i++) {
        const struct op *op = w->pending[i].op;
        if (!is_name_op(op))
            note_file(w, op->file);
        if (op->kind != OP_WRITE) {
            add_piece(w, i, 0, 0);
            continue;
        }
        for (size_t from = 0; from < op->len;) {
            size_t n = unit - (size_t)((op->off + from) % unit);
            if (n > op->len - from)
                n = op->len - from;
            add_piece(w, i, from, n);
            from += n;
        }
    }
    uint32_t limit = w->opts->each_limit;
    w->n_each = limit && w->n_pieces > limit ? limit : w->n_pieces;
}

static struct walk walk_start(struct sim *s, const struct sim_enum_opts *opts)
{
    struct walk w = {.sim = s, .opts = opts};
    for (size_t i = 0; i < s->start.n_names; i++)
        tree_link(&w.settled, s->start.names[i].path, s->start.names[i].file);
    for (unsigned i = 0; i < s->start.n_files; i++) {
        unsigned file = tree_add_file(&w.settled);
        w.settled.files[file] = content_share(&s->start.files[i]);
    }
    return w;
}

static void walk_end(struct walk *w)
{
    tree_fini(&w->settled);
    free(w->pending);
    free(w->pieces);
    free(w->files);
}

/* ---- Fates --------------------------------------------------------------------------------- */

enum { TEARS = 7 }; /* 512: first, half, all but last sector; 4096: the same; garbage */

/* The one-piece states go through all pieces, or through a sample if they are too many. */
static size_t nth_piece(const struct walk *w, size_t i, uint64_t salt)
{
    if (w->n_each == w->n_pieces)
        return i;
    return (size_t)(sim_mix(w->opts->seed ^ salt ^ ((uint64_t)w->cut << 32 | i)) % w->n_pieces);
}

__attribute__((format(printf, 2, 3))) static void say(struct fate *f, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(f->words, sizeof f->words, format, args);
    va_end(args);
}

static const char *file_name(const struct walk *w, unsigned file)
{
    for (size_t i = 0; i < w->sim->now.n_names; i++)
        if (w->sim->now.names[i].file == file)
            return w->sim->now.names[i].path;
    for (uint32_t i = 0; i < w->sim->n_log; i++)
        if (w->sim->log[i].kind == OP_CREATE && w->sim->log[i].file == file)
            return w->sim->log[i].path;
    return "?";
}

static void say_piece(const struct walk *w, struct fate *f, const char *what, size_t i)
{
    static const char *const kinds[] = {
        [OP_WRITE] = "write",   [OP_RESIZE] = "resize", [OP_CREATE] = "create",
        [OP_UNLINK] = "unlink", [OP_RENAME] = "rename",
    };
    const struct op *op = w->pending[w->pieces[i].change].op;
    if (op->kind == OP_WRITE)
        say(f, "%s: piece %zu of %zu, %zu bytes at %llu of %s", what, i, w->n_pieces,
            w->pieces[i].len, (unsigned long long)(op->off + w->pieces[i].from),
            file_name(w, op->file));
    else
        say(f, "%s: piece %zu of %zu, %s of %s", what, i, w->n_pieces, kinds[op->kind],
            op->path ? op->path : file_name(w, op->file));
}

static void keep_all(const struct walk *w, struct fate *f, bool keep)
{
    memset(f->keep, keep, w->n_pieces);
}

static void keep_file(const struct walk *w, struct fate *f, unsigned file, bool keep)
{
    for (size_t i = 0; i < w->n_pieces; i++) {
        const struct op *op = w->pending[w->pieces[i].change].op;
        if (!is_name_op(op) && op->file == file)
            f->keep[i] = keep;
    }
}

/* Tears the last pending write of a file; false if it has none. */
static bool tear(const struct walk *w, struct fate *f, unsigned file, size_t how)
{
    for (size_t i = w->n_pending; i-- > 0 && f->torn < 0;)
        if (w->pending[i].op->kind == OP_WRITE && w->pending[i].op->file == file)
            f->torn = (long)i;
    if (f->torn < 0)
        return false;
    const struct op *op = w->pending[f->torn].op;
    size_t unit = how < 3 ? 512 : 4096, sectors = (op->len + unit - 1) / unit;
    size_t n = how % 3 == 0 ? 1 : how % 3 == 1 ? sectors / 2 : sectors - 1;
    f->torn_bytes = n * unit < op->len ? n * unit : op->len;
    f->garbage = how == TEARS - 1;
    if (f->garbage)
        say(f, "garbage instead of the last write to %s, %zu bytes at %llu", file_name(w, file),
            op->len, (unsigned long long)op->off);
    else
        say(f, "%zu bytes of the last write to %s, %zu bytes at %llu", f->torn_bytes,
            file_name(w, file), op->len, (unsigned long long)op->off);
    return true;
}

static void fate_random(const struct walk *w, struct fate *f, size_t i)
{
    uint64_t r = f->seed;
    unsigned odds = 1 + (unsigned)(r >> 60) % 15; /* of 16, that a piece is kept */
    for (size_t p = 0; p < w->n_pieces; p++)
        f->keep[p] = (r = sim_mix(r)) % 16 < odds;
    say(f, "random subset %zu, %u of 16 kept", i, odds);
    if ((r = sim_mix(r)) % 8 == 0 && w->n_files) {
        f->sizes = r & 64 ? SIZES_SETTLED : SIZES_FOLLOW;
        tear(w, f, w->files[(r >> 8) % w->n_files], (size_t)((r >> 16) % TEARS));
        say(f, "random subset %zu, %u of 16 kept, a torn write", i, odds);
    }
}

static void fate_sizes(struct fate *f, size_t how)
{
    static const char *const words[] = {"sizes without data: zeros", "sizes without data: garbage",
                                        "data without the new sizes"};
    f->sizes = (enum sizes)(SIZES_ONLY_ZEROS + how);
    say(f, "%s", words[how]);
}

/* Takes *k from a category of n states: true if it was among them, else *k counts on. */
static bool within(size_t *k, size_t n)
{
    if (*k < n)
        return true;
    *k -= n;
    return false;
}

/* The fate of state number k; false when there is no such state. A state may equal another. */
static bool fate_of(const struct walk *w, size_t k, struct fate *f)
{
    *f = (struct fate){.keep = f->keep, .torn = -1,
                       .seed = sim_mix(w->opts->seed ^ sim_mix((uint64_t)w->cut << 32 | k))};
    keep_all(w, f, true);
    if (within(&k, 1)) {
        say(f, "all that was not synced is there");
    } else if (within(&k, 1)) {
        keep_all(w, f, false);
        say(f, "nothing of what was not synced is there");
    } else if (within(&k, w->n_each)) {
        size_t i = nth_piece(w, k, 1);
        f->keep[i] = false;
        say_piece(w, f, "one lost", i);
    } else if (within(&k, w->n_each)) {
        size_t i = nth_piece(w, k, 2);
        keep_all(w, f, false);
        f->keep[i] = true;
        say_piece(w, f, "one alone there", i);
    } else if (within(&k, w->n_each)) {
        size_t i = nth_piece(w, k, 3);
        memset(f->keep + i, 0, w->n_pieces - i);
        say(f, "the first %zu of %zu pieces", i, w->n_pieces);
    } else if (within(&k, w->n_files)) {
        keep_file(w, f, w->files[k], false);
        say(f, "all but the data of %s", file_name(w, w->files[k]));
    } else if (within(&k, w->n_files)) {
        for (size_t i = 0; i < w->n_files; i++)
            keep_file(w, f, w->files[i], i == k);
        say(f, "the data of %s alone", file_name(w, w->files[k]));
    } else if (within(&k, w->n_files * TEARS)) {
        if (!tear(w, f, w->files[k / TEARS], k % TEARS))
            say(f, "no write to tear");
    } else if (within(&k, 3)) {
        fate_sizes(f, k);
    } else if (within(&k, w->opts->random)) {
        fate_random(w, f, k);
    } else {
        return false;
    }
    return true;
}

/* ---- Images -------------------------------------------------------------------------------- */

static void write_garbage(struct content *c, uint64_t from, uint64_t end, uint64_t seed)
{
    unsigned char bytes[512];
    while (from < end) {
        size_t n = end - from < sizeof bytes ? (size_t)(end - from) : sizeof bytes;
        for (size_t i = 0; i < n; i++)
            bytes[i] = (unsigned char)(sim_mix(seed ^ (from + i)) >> 56);
        content_write(c, bytes, n, from);
        from += n;
    }
}

/* The torn write: its first bytes, or garbage all over it, and over its sectors' other bytes too
 * if the disk is of that kind. */
static void apply_torn(const struct walk *w, const struct fate *f, struct content *c)
{
    const struct op *op = w->pending[f->torn].op;
    uint64_t from = op->off, end = op->off + op->len;
    if (!f->garbage) {
        content_write(c, op->data, f->torn_bytes, op->off);
        return;
    }
    if (w->sim->disk.fragile_overwrite) {
        uint64_t unit = w->sim->disk.sector_bytes, whole = (end + unit - 1) / unit * unit;
        from -= from % unit;
        end = whole < c->size ? whole : end > c->size ? end : c->size;
    }
    write_garbage(c, from, end, f->seed);
}

/* Sizes as processes saw them, without the data behind the settled size. */
static void apply_sizes(const struct walk *w, const struct fate *f, unsigned file,
                        struct content *c)
{
    uint64_t settled = c->size;
    for (size_t i = 0; i < w->n_pending; i++) {
        const struct op *op = w->pending[i].op;
        if (is_name_op(op) || op->file != file)
            continue;
        if (op->kind == OP_RESIZE)
            content_resize(c, op->off);
        else if (op->off + op->len > c->size)
            content_resize(c, op->off + op->len);
        if (c->size < settled)
            settled = c->size;
    }
    if (f->sizes == SIZES_ONLY_GARBAGE)
        write_garbage(c, settled, c->size, f->seed);
}

static void apply_data(const struct walk *w, const struct fate *f, unsigned file,
                       struct content *c)
{
    uint64_t settled = c->size;
    if (f->sizes == SIZES_ONLY_ZEROS || f->sizes == SIZES_ONLY_GARBAGE) {
        apply_sizes(w, f, file, c);
        return;
    }
    for (size_t i = 0; i < w->n_pieces; i++) {
        const struct piece *p = &w->pieces[i];
        const struct op *op = w->pending[p->change].op;
        if (is_name_op(op) || op->file != file)
            continue;
        if ((long)p->change == f->torn && p->from == 0)
            apply_torn(w, f, c);
        else if ((long)p->change == f->torn || !f->keep[i])
            continue;
        else if (op->kind == OP_WRITE)
            content_write(c, op->data + p->from, p->len, op->off + p->from);
        else if (f->sizes == SIZES_FOLLOW)
            content_resize(c, op->off);
    }
    if (f->sizes == SIZES_SETTLED)
        content_resize(c, settled);
}

/* The files after the cut, as a tree of its own. */
static struct tree build(const struct walk *w, const struct fate *f)
{
    struct tree names = {0}, image = {0};
    for (size_t i = 0; i < w->settled.n_names; i++)
        tree_link(&names, w->settled.names[i].path, w->settled.names[i].file);
    for (size_t i = 0; i < w->n_pieces; i++)
        if (f->keep[i] && is_name_op(w->pending[w->pieces[i].change].op))
            apply_name(&names, w->pending[w->pieces[i].change].op);
    for (size_t i = 0; i < names.n_names; i++) {
        unsigned file = tree_add_file(&image);
        tree_link(&image, names.names[i].path, file);
        image.files[file] = content_share(&w->settled.files[names.names[i].file]);
        apply_data(w, f, names.names[i].file, &image.files[file]);
    }
    tree_fini(&names);
    return image;
}

static uint64_t tree_hash(struct tree *t)
{
    uint64_t h = 0;
    for (size_t i = 0; i < t->n_names; i++) {
        uint64_t one = content_hash(&t->files[t->names[i].file]);
        for (const char *p = t->names[i].path; *p; p++)
            one = (one ^ (unsigned char)*p) * 0x100000001b3u;
        h += sim_mix(one); /* a sum: the order of names means nothing */
    }
    return h;
}

struct sim *sim_image(struct sim *s, const struct sim_enum_opts *opts, uint32_t cut,
                      uint32_t number)
{
    struct sim_enum_opts with = *opts;
    if (!with.seed)
        with.seed = 1;
    struct walk w = walk_start(s, &with);
    struct sim *image = NULL;
    while (w.cut < cut && w.cut < s->n_log)
        advance(&w);
    split(&w);
    struct fate f = {.keep = sim_alloc(w.n_pieces)};
    if (fate_of(&w, number, &f)) {
        struct tree t = build(&w, &f);
        image = sim_from_tree(&s->disk, &t);
        tree_fini(&t);
    }
    free(f.keep);
    walk_end(&w);
    return image;
}

/* ---- Enumeration --------------------------------------------------------------------------- */

/* Hashes seen, open addressing; 0 is free. */
struct seen {
    uint64_t *slots;
    size_t n_slots, used;
};

static bool seen_add(struct seen *t, uint64_t h)
{
    h |= h == 0;
    if (2 * (t->used + 1) > t->n_slots) {
        struct seen grown = {.n_slots = t->n_slots ? 2 * t->n_slots : 1024};
        grown.slots = sim_alloc(grown.n_slots * sizeof *grown.slots);
        for (size_t i = 0; i < t->n_slots; i++)
            if (t->slots[i])
                seen_add(&grown, t->slots[i]);
        free(t->slots);
        *t = grown;
    }
    size_t i = (size_t)(sim_mix(h) & (t->n_slots - 1));
    for (; t->slots[i]; i = (i + 1) & (t->n_slots - 1))
        if (t->slots[i] == h)
            return false;
    t->slots[i] = h;
    t->used++;
    return true;
}

/* One enumeration, and the nested ones inside it. */
struct job {
    struct sim_enum_opts opts;
    sim_check_fn check;
    void *ctx;
    struct sim_report *report;
    struct seen seen;
    long only_cut, only_state; /* -1: all */
};

struct ids {
    uint32_t *acked, *in_flight;
    uint32_t n_acked, n_in_flight;
};

static void ids_fini(struct ids *l)
{
    free(l->acked);
    free(l->in_flight);
}

static void ids_add(uint32_t **list, uint32_t *n, uint32_t id)
{
    *list = sim_grow(*list, *n, sizeof **list);
    (*list)[(*n)++] = id;
}

/* What had been said by the cut, after what `outer` (NULL: nothing) says. */
static struct ids ids_at(const struct sim *s, uint32_t cut, const struct sim_state *outer)
{
    struct ids l = {0};
    for (uint32_t i = 0; outer && i < outer->n_acked; i++)
        ids_add(&l.acked, &l.n_acked, outer->acked[i]);
    for (uint32_t i = 0; outer && i < outer->n_in_flight; i++)
        ids_add(&l.in_flight, &l.n_in_flight, outer->in_flight[i]);
    for (uint32_t i = 0; i < s->n_events && s->events[i].at <= cut; i++) {
        if (!s->events[i].ack) {
            ids_add(&l.in_flight, &l.n_in_flight, s->events[i].id);
            continue;
        }
        for (uint32_t j = 0; j < l.n_in_flight; j++)
            if (l.in_flight[j] == s->events[i].id)
                l.in_flight[j--] = l.in_flight[--l.n_in_flight];
        ids_add(&l.acked, &l.n_acked, s->events[i].id);
    }
    return l;
}

static const char *mark_at(const struct sim *s, uint32_t cut)
{
    const char *label = "";
    for (uint32_t i = 0; i < s->n_marks && s->marks[i].at <= cut; i++)
        label = s->marks[i].label;
    return label;
}

static void violation(struct job *j, const struct walk *w, const struct sim_state *st,
                      const struct sim_state *outer, const char *why)
{
    char line[sizeof j->report->first], inner[300] = "";
    const struct sim_state *replay = outer ? outer : st;
    if (outer)
        snprintf(inner, sizeof inner, ", then during the check cut %u of %u, state %u (%s)",
                 st->cut, w->sim->n_log, st->number, st->fate);
    snprintf(line, sizeof line,
             "sim %s: cut %u%s%s, state %u (%s)%s, sector %u%s, seed %llu: %s; replay with "
             "MNEME_SIM=%s:%u:%u",
             j->opts.name, replay->cut, *replay->mark ? " after " : "", replay->mark,
             replay->number, replay->fate, inner, w->sim->disk.sector_bytes,
             w->sim->disk.fragile_overwrite ? " fragile" : "", (unsigned long long)j->opts.seed,
             why, j->opts.name, replay->cut, replay->number);
    if (j->report->violations++ == 0)
        memcpy(j->report->first, line, sizeof line);
    if (!j->opts.quiet)
        printf("\n    %s\n", line);
}

static void check_nested(struct job *j, const struct sim_state *outer);

/* Builds and checks one state. */
static void check_state(struct job *j, struct walk *w, const struct ids *ids, struct fate *f,
                        uint32_t number, const struct sim_state *outer)
{
    char why[300] = "";
    struct tree image = build(w, f);
    uint64_t h = tree_hash(&image);
    h = sim_mix(h ^ sim_mix((uint64_t)ids->n_acked << 32 | ids->n_in_flight));
    j->report->states++;
    if (!outer && !seen_add(&j->seen, h)) {
        tree_fini(&image);
        return;
    }
    struct sim_state st = {
        .disk = sim_from_tree(&w->sim->disk, &image),
        .cut = w->cut,
        .number = number,
        .fate = f->words,
        .mark = mark_at(w->sim, w->cut),
        .acked = ids->acked,
        .n_acked = ids->n_acked,
        .in_flight = ids->in_flight,
        .n_in_flight = ids->n_in_flight,
    };
    tree_fini(&image);
    j->report->checked++;
    if (!j->check(j->ctx, &st, why, sizeof why))
        violation(j, w, &st, outer, why[0] ? why : "the check failed and said nothing");
    else if (!outer && j->opts.nested && sim_mix(f->seed + 1) % j->opts.nested == 0)
        check_nested(j, &st);
    sim_destroy(st.disk);
}

/* Cuts what the check of `outer` did, at one random place in one random state. */
static void check_nested(struct job *j, const struct sim_state *outer)
{
    struct sim *s = outer->disk;
    uint64_t r = sim_mix(j->opts.seed ^ sim_mix((uint64_t)outer->cut << 32 | outer->number));
    if (s->n_log == 0)
        return;
    struct walk w = walk_start(s, &j->opts);
    uint32_t cut = 1 + (uint32_t)(r % s->n_log);
    while (w.cut < cut)
        advance(&w);
    split(&w);
    size_t n = 2 + 3 * w.n_each + w.n_files * (2 + TEARS) + 3 + j->opts.random;
    uint32_t number = (uint32_t)(sim_mix(r) % n);
    struct fate f = {.keep = sim_alloc(w.n_pieces)};
    struct ids ids = ids_at(s, cut, outer);
    if (fate_of(&w, number, &f)) {
        j->report->nested++;
        check_state(j, &w, &ids, &f, number, outer);
    }
    ids_fini(&ids);
    free(f.keep);
    walk_end(&w);
}

static bool enough(const struct job *j)
{
    return j->report->violations >= j->opts.stop_after;
}

static void check_cut(struct job *j, struct walk *w)
{
    split(w);
    struct fate f = {.keep = sim_alloc(w->n_pieces)};
    struct ids ids = ids_at(w->sim, w->cut, NULL);
    j->report->cuts++;
    for (uint32_t k = 0; !enough(j) && fate_of(w, k, &f); k++)
        if (j->only_state < 0 || (uint32_t)j->only_state == k)
            check_state(j, w, &ids, &f, k, NULL);
    ids_fini(&ids);
    free(f.keep);
}

/* MNEME_SIM=name:cut:state picks one state of the enumeration of that name; the others are
 * skipped. */
static bool read_replay(struct job *j)
{
    const char *e = getenv("MNEME_SIM");
    size_t n = strlen(j->opts.name);
    j->only_cut = j->only_state = -1;
    if (!e || !*e)
        return true;
    return strncmp(e, j->opts.name, n) == 0 && e[n] == ':' &&
           sscanf(e + n, ":%ld:%ld", &j->only_cut, &j->only_state) == 2;
}

void sim_enumerate(struct sim *s, const struct sim_enum_opts *opts, sim_check_fn check, void *ctx,
                   struct sim_report *report)
{
    struct job j = {.opts = *opts, .check = check, .ctx = ctx, .report = report};
    *report = (struct sim_report){0};
    assert(opts->name);
    if (!j.opts.seed)
        j.opts.seed = 1;
    if (!j.opts.stop_after)
        j.opts.stop_after = 5;
    if (!j.opts.cut_stride)
        j.opts.cut_stride = 1;
    if (!read_replay(&j))
        return;
    struct walk w = walk_start(s, &j.opts);
    for (;;) {
        bool chosen = j.only_cut < 0 ? w.cut % j.opts.cut_stride == 0 || w.cut == s->n_log
                                     : w.cut == (uint32_t)j.only_cut;
        if (chosen)
            check_cut(&j, &w);
        if (w.cut == s->n_log || enough(&j))
            break;
        advance(&w);
    }
    walk_end(&w);
    free(j.seen.slots);
}
