/* Random scripts of operations on a database and on plain arrays. After each step a search through
 * one of two connections is compared with brute force in double over two sources: the arrays, and
 * the rows as a plain SELECT gives them in the same snapshot. The two must hold the same vectors.
 *
 * A script fixes everything by its seed. Half of them use small integers as elements: then
 * distances, order and ties by id must agree exactly; tests/engine/brute.h states the tolerance of
 * the others. MNEME_MODEL_SEED=N runs the one script N and prints its steps. */
#include <sqlite3.h>
#include <unistd.h>

#include "src/engine/engine.h"
#include "storage/fs_mem.h"
#include "storage/vfs.h"
#include "tests/engine/brute.h"
#include "tests/test.h"

enum {
    TABLES = 3,
    COLUMNS = 3,
    MAX_ROWS = 80,
    MAX_ATTRS = 4,
    TEXT_IDS = 40,
    SAVES = 3,
    STEPS = 60,
    MAX_QUERIES = 20,
    MAX_BYTES = 4 * 16384
};

/* ---- The model: plain arrays --------------------------------------------------------------------
 */

struct model_row {
    int64_t id, version;
    int text;                  /* number of the text id, in text tables */
    int attrs[MAX_ATTRS];      /* -1: NULL; the type goes with the number */
    int payload;               /* -1: NULL */
    uint64_t vectors[COLUMNS]; /* seeds; 0: no vector */
};

struct model_column {
    bool alive;
    mn_dtype dtype;
    mn_metric metric;
    uint32_t dim;
};

struct model_table {
    bool alive, text_ids;
    int n_attrs;
    int64_t last_version;
    size_t n;
    struct model_row rows[MAX_ROWS]; /* [n] by id */
    struct model_column columns[COLUMNS];
};

struct state {
    struct model_table tables[TABLES];
};

struct world {
    uint64_t seed;
    int step;
    char what[200]; /* the running step, for messages */
    bool trace;
    bool integers; /* elements are small integers */
    bool wide;     /* few rows of up to 16,384 dimensions */
    struct test_rng rng;
    const char *path, *vfs;
    char vfs_name[32];
    struct mn_alloc *alloc;
    struct mn_fs *fs;
    mn_db *db;
    mn_conn *a, *b; /* a writes; b reads, now and then an old snapshot */
    bool in_write, b_holds;
    struct state now, committed, held, saves[SAVES];
    int n_saves;
    struct brute from_model, from_select;
    uint64_t searches, cached;
};

static mn_error err;
static struct world w;
static char vectors[MAX_QUERIES][MAX_BYTES];

#define MODEL(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("\n    step %d, %s\n    ", w.step, w.what);                                     \
            printf(__VA_ARGS__);                                                                   \
            test_fail(__FILE__, __LINE__, "replay: MNEME_MODEL_SEED=%" PRIu64 " build/test_model", \
                      w.seed);                                                                     \
        }                                                                                          \
    } while (0)

#define MODEL_OK(call) MODEL((call) == MN_OK, "%s: %s", #call, err.message)
#define MODEL_IS(call, want)                                                                       \
    do {                                                                                           \
        mn_status st_ = (call);                                                                    \
        MODEL(st_ == (want), "%s: %s, want %s: %s", #call, mn_status_name(st_),                    \
              mn_status_name(want), err.message);                                                  \
    } while (0)

static int below(uint64_t n)
{
    return (int)test_below(&w.rng, n);
}

__attribute__((format(printf, 1, 2))) static void doing(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(w.what, sizeof w.what, format, args);
    va_end(args);
    if (w.trace)
        printf("%d: %s\n", w.step, w.what);
}

/* ---- Vectors, values, names ---------------------------------------------------------------------
 */

static uint16_t half_of_small(int i)
{
    static const uint16_t magnitude[] = {0, 0x3c00, 0x4000, 0x4200};
    return (uint16_t)(magnitude[abs(i)] | (i < 0 ? 0x8000 : 0));
}

static void put_element(mn_dtype dtype, char *out, size_t i, struct test_rng *r)
{
    int small = (int)test_below(r, 7) - 3;
    float f = w.integers ? (float)small : (float)test_normal(r);
    uint32_t bits;
    uint16_t h;
    memcpy(&bits, &f, 4);
    switch (dtype) {
    case MN_F32:
        memcpy(out + 4 * i, &f, 4);
        break;
    case MN_F16:
        h = w.integers ? half_of_small(small)
                       : (uint16_t)(test_below(r, 2) << 15 | (10 + test_below(r, 8)) << 10 |
                                    test_below(r, 1024));
        memcpy(out + 2 * i, &h, 2);
        break;
    case MN_BF16:
        h = (uint16_t)(bits >> 16);
        memcpy(out + 2 * i, &h, 2);
        break;
    case MN_I8:
        out[i] = (char)(w.integers ? small : (int)test_below(r, 256) - 128);
        break;
    default:
        if (test_below(r, 2))
            out[i / 8] = (char)(out[i / 8] | 1 << (i % 8));
    }
}

/* The vector of a seed; never of no direction. */
static void make_vector(const struct model_column *c, uint64_t seed, char *out)
{
    struct test_rng r = {seed};
    memset(out, 0, mn_vector_bytes(c->dtype, c->dim));
    for (size_t i = 0; i < c->dim; i++)
        put_element(c->dtype, out, i, &r);
    const struct brute shape = {.dtype = c->dtype, .metric = c->metric, .dim = c->dim};
    if (!brute_valid(&shape, out))
        make_vector(c, seed + 1000003, out);
}

/* The same as f32, for from_f32; exact for small integers. */
static void widen(const struct model_column *c, const char *vector, float *out)
{
    for (size_t i = 0; i < c->dim; i++)
        out[i] = (float)brute_element(c->dtype, vector, i);
}

/* Few seeds, so that equal vectors and ties are common. */
static uint64_t pick_vector(void)
{
    return 1 + test_below(&w.rng, below(2) ? 8 : 1000);
}

static mn_value value_of(int number, char *text, size_t size)
{
    if (number < 0)
        return (mn_value){.type = MN_NULL};
    int n = snprintf(text, size, "v%d", number);
    switch (number % 4) {
    case 0:
        return (mn_value){.type = MN_INTEGER, .integer = number};
    case 1:
        return (mn_value){.type = MN_REAL, .real = number + 0.5};
    case 2:
        return (mn_value){.type = MN_TEXT, .data = text, .len = number % 8 == 2 ? 0 : (size_t)n};
    default:
        return (mn_value){.type = MN_BLOB, .data = text, .len = number % 8 == 3 ? 0 : (size_t)n};
    }
}

static bool same_value(const mn_value *a, const mn_value *b)
{
    if (!a || a->type != b->type)
        return false;
    switch (a->type) {
    case MN_INTEGER:
        return a->integer == b->integer;
    case MN_REAL:
        return a->real == b->real;
    case MN_TEXT:
    case MN_BLOB:
        return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
    default:
        return true;
    }
}

static const char *attr_name(int i)
{
    static const char *const names[MAX_ATTRS] = {"lang", "year", "A b", "select"};
    return names[i];
}

static const char *text_of(int number)
{
    static char text[2][24];
    static unsigned next;
    char *t = text[next++ % 2];
    snprintf(t, sizeof text[0], number % 3 ? "Text-%d" : "t\xc3\xa9xt %d", number);
    return t;
}

/* Names are the same in any case. */
static const char *collection_name(int t, int c)
{
    static char name[16];
    const char *letter = below(4) ? "t" : "T";
    snprintf(name, sizeof name, c ? "%s%d_%d" : "%s%d", letter, t, c);
    return name;
}

/* ---- Looking into a state
 * ------------------------------------------------------------------------ */

static bool pick_collection(const struct state *s, int *t, int *c)
{
    int n = 0;
    for (int i = 0; i < TABLES; i++)
        for (int j = 0; j < COLUMNS; j++)
            if (s->tables[i].alive && s->tables[i].columns[j].alive && below((uint64_t)++n) == 0) {
                *t = i;
                *c = j;
            }
    return n > 0;
}

static struct model_row *row_by_id(struct model_table *t, int64_t id)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->rows[i].id == id)
            return &t->rows[i];
    return NULL;
}

static struct model_row *row_by_text(struct model_table *t, int text)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->rows[i].text == text)
            return &t->rows[i];
    return NULL;
}

static struct model_row *row_insert(struct model_table *t, int64_t id)
{
    size_t i = t->n++;
    MODEL(t->n <= MAX_ROWS, "the model is full");
    for (; i > 0 && t->rows[i - 1].id > id; i--)
        t->rows[i] = t->rows[i - 1];
    memset(&t->rows[i], 0, sizeof t->rows[i]);
    t->rows[i].id = id;
    return &t->rows[i];
}

static void row_remove(struct model_table *t, struct model_row *r)
{
    size_t i = (size_t)(r - t->rows);
    memmove(r, r + 1, (t->n - i - 1) * sizeof *r);
    t->n--;
}

static int64_t model_max_id(const struct model_table *t)
{
    return t->n && t->rows[t->n - 1].id > 0 ? t->rows[t->n - 1].id : 0;
}

/* ---- Comparing rows
 * ------------------------------------------------------------------------------- */

static void check_row(const struct model_table *t, int c, const struct model_row *want,
                      const mn_row *got)
{
    char text[32], *vector = vectors[0];
    MODEL(got, "id %" PRId64 " is missing", want->id);
    MODEL(got->id == want->id, "id %" PRId64 ", want %" PRId64, got->id, want->id);
    MODEL(got->version == want->version, "id %" PRId64 ": version %" PRId64 ", want %" PRId64,
          got->id, got->version, want->version);
    MODEL(t->text_ids ? got->text_id && strcmp(got->text_id, text_of(want->text)) == 0
                      : !got->text_id,
          "id %" PRId64 ": text id '%s'", got->id, got->text_id ? got->text_id : "(null)");
    for (int i = 0; i < t->n_attrs; i++) {
        mn_value value = value_of(want->attrs[i], text, sizeof text);
        MODEL(same_value(mn_row_attr(got, attr_name(i)), &value), "id %" PRId64 ": attribute %d",
              got->id, i);
    }
    snprintf(text, sizeof text, "payload %d", want->payload);
    MODEL(want->payload < 0 ? !got->payload
                            : got->payload && got->payload_len == strlen(text) &&
                                  memcmp(got->payload, text, got->payload_len) == 0,
          "id %" PRId64 ": payload", got->id);
    if (c < 0)
        return; /* as a filter sees it: without the vector */
    const struct model_column *column = &t->columns[c];
    if (want->vectors[c])
        make_vector(column, want->vectors[c], vector);
    MODEL(want->vectors[c] ? got->vector && memcmp(got->vector, vector,
                                                   mn_vector_bytes(column->dtype, column->dim)) == 0
                           : !got->vector,
          "id %" PRId64 ": vector", got->id);
}

static void check_get(mn_conn *conn, struct state *s)
{
    int t, c;
    mn_id ids[10];
    const struct model_row *want[10];
    mn_rows *rows;
    size_t n = (size_t)below(10);
    char texts[10][24];
    if (!pick_collection(s, &t, &c))
        return;
    struct model_table *table = &s->tables[t];
    for (size_t i = 0; i < n; i++) {
        ids[i] = (mn_id){.id = below(60) - 5};
        want[i] = row_by_id(table, ids[i].id);
        if (table->text_ids && below(2)) {
            int text = below(TEXT_IDS);
            snprintf(texts[i], sizeof texts[i], "%s", text_of(text));
            ids[i].text_id = texts[i];
            want[i] = row_by_text(table, text);
        }
    }
    bool meta = below(3) == 0;
    doing("get %zu rows of %d.%d%s", n, t, c, meta ? " without vectors" : "");
    MODEL_OK(meta ? mn_get_meta(conn, collection_name(t, c), ids, n, &rows, &err)
                  : mn_get(conn, collection_name(t, c), ids, n, &rows, &err));
    MODEL(mn_rows_count(rows) == n, "%zu rows, want %zu", mn_rows_count(rows), n);
    for (size_t i = 0; i < n; i++) {
        if (want[i])
            check_row(table, meta ? -1 : c, want[i], mn_rows_at(rows, i));
        else
            MODEL(!mn_rows_at(rows, i), "row %zu is there", i);
    }
    mn_rows_free(rows);
}

static void check_iterate(mn_conn *conn, struct state *s)
{
    int t, c;
    mn_iter *it;
    const mn_row *row;
    if (!pick_collection(s, &t, &c))
        return;
    int64_t first = below(3) ? INT64_MIN : below(40);
    doing("iterate %d.%d from %" PRId64, t, c, first);
    MODEL_OK(mn_iter_open(conn, collection_name(t, c), first, &it, &err));
    for (size_t i = 0; i < s->tables[t].n; i++) {
        if (s->tables[t].rows[i].id < first)
            continue;
        MODEL_OK(mn_iter_next(it, &row, &err));
        check_row(&s->tables[t], c, &s->tables[t].rows[i], row);
        if (below(50) == 0)
            break; /* closed in the middle */
    }
    mn_iter_close(it);
    mn_collection_stats stats;
    uint64_t n = 0;
    MODEL_OK(mn_collection_stats_get(conn, collection_name(t, c), &stats, &err));
    for (size_t i = 0; i < s->tables[t].n; i++)
        n += s->tables[t].rows[i].vectors[c] != 0;
    MODEL(stats.rows == s->tables[t].n && stats.vectors == n,
          "%" PRIu64 " rows, %" PRIu64 " vectors; want %zu, %" PRIu64, stats.rows, stats.vectors,
          s->tables[t].n, n);
}

/* ---- Comparing searches
 * ---------------------------------------------------------------------------- */

struct condition {
    struct model_table *table;
    bool filter;
    const int64_t *only; /* [n_only]; NULL: all */
    size_t n_only;
};

/* What the filter keeps, decided by the row as it is handed out: it must be the model's. */
static bool keeps(const struct model_row *r)
{
    return r->attrs[0] % 2 == 0 || r->payload % 3 == 0;
}

static bool filter(void *ctx, const mn_row *row)
{
    struct condition *k = ctx;
    struct model_row *r = row_by_id(k->table, row->id);
    MODEL(r, "the filter is asked about id %" PRId64 ", which is no row", row->id);
    check_row(k->table, -1, r, row);
    MODEL(!row->vector, "the filter sees a vector");
    return keeps(r);
}

static bool wanted(void *ctx, int64_t id)
{
    const struct condition *k = ctx;
    bool listed = !k->only;
    for (size_t i = 0; i < k->n_only && !listed; i++)
        listed = k->only[i] == id;
    return listed && (!k->filter || keeps(row_by_id(k->table, id)));
}

/* The arrays and the rows must hold the same vectors; both are then the truth. */
static void load_truth(mn_conn *conn, struct model_table *table, int t, int c)
{
    const struct model_column *column = &table->columns[c];
    char name[16], column_name[16];
    struct brute *m = &w.from_model, *s = &w.from_select;
    size_t bytes = mn_vector_bytes(column->dtype, column->dim);
    brute_free(m);
    brute_free(s);
    *m = *s = (struct brute){.dtype = column->dtype,
                             .metric = column->metric,
                             .dim = column->dim,
                             .small_integers = w.integers};
    for (size_t i = 0; i < table->n; i++) {
        if (!table->rows[i].vectors[c])
            continue;
        make_vector(column, table->rows[i].vectors[c], vectors[0]);
        brute_add(m, table->rows[i].id, vectors[0]);
    }
    snprintf(name, sizeof name, "t%d", t);
    snprintf(column_name, sizeof column_name, "t%d_%d", t, c);
    brute_load(s, conn->sql, name, c ? column_name : "vector");
    MODEL(m->n == s->n && m->invalid == 0 && s->invalid == 0,
          "%zu vectors in the model, %zu in the rows", m->n, s->n);
    MODEL(m->n == 0 || (memcmp(m->ids, s->ids, m->n * sizeof *m->ids) == 0 &&
                        memcmp(m->vectors, s->vectors, m->n * bytes) == 0),
          "the rows hold other vectors than the model");
}

static void check_nearest(mn_conn *conn, const char *name, const struct model_column *column,
                          const mn_search_opts *opts, struct condition *k)
{
    static mn_hit hits[MAX_QUERIES * 100];
    static float wide[MAX_QUERIES * 64];
    static char packed[MAX_QUERIES * MAX_BYTES];
    static const uint32_t ks[] = {1, 2, 3, 10, 100};
    uint32_t found[MAX_QUERIES], want = ks[below(5)];
    size_t nq = (size_t)(below(3) ? 1 : 1 + below(MAX_QUERIES));
    size_t bytes = mn_vector_bytes(column->dtype, column->dim);
    mn_search_opts o = *opts;
    o.from_f32 = w.integers && column->dtype != MN_BIT && column->dim <= 64 && below(3) == 0;
    for (size_t q = 0; q < nq; q++) {
        make_vector(column, pick_vector(), packed + q * bytes);
        if (o.from_f32)
            widen(column, packed + q * bytes, wide + q * column->dim);
    }
    MODEL_OK(mn_search(conn, name, o.from_f32 ? (const void *)wide : packed, nq, want, &o, hits,
                       found, &err));
    for (size_t q = 0; q < nq; q++) {
        const char *wrong = brute_compare(&w.from_model, packed + q * bytes, want, 0, wanted, k,
                                          hits + q * want, found[q]);
        MODEL(!wrong, "query %zu of %zu, k %u: %s", q, nq, want, wrong);
    }
}

static void check_radius(mn_conn *conn, const char *name, const struct model_column *column,
                         const mn_search_opts *opts, struct condition *k)
{
    mn_hit *hits;
    size_t n;
    double slack, radius = below(4) - 1;
    char *query = vectors[1];
    size_t bytes = mn_vector_bytes(column->dtype, column->dim);
    make_vector(column, pick_vector(), query);
    if (w.from_model.n && below(4)) /* exactly on some row */
        radius =
            brute_distance(&w.from_model, query,
                           w.from_model.vectors + (size_t)below(w.from_model.n) * bytes, &slack);
    MODEL_OK(mn_search_radius(conn, name, query, radius, 0, opts, &hits, &n, &err));
    const char *wrong = brute_compare(&w.from_model, query, 0, radius, wanted, k, hits, n);
    MODEL(!wrong, "radius %g: %s", radius, wrong);
    mn_free_result(hits);
}

static void check_search(mn_conn *conn, struct state *s)
{
    int t, c;
    int64_t only[200];
    mn_search_stats stats;
    if (!pick_collection(s, &t, &c))
        return;
    struct condition k = {.table = &s->tables[t]};
    mn_search_opts opts = {.stats = &stats, .threads = below(2) ? 0 : 4};
    if (below(4) == 0) {
        k.filter = true;
        opts.filter = filter;
        opts.filter_ctx = &k;
    }
    if (below(4) == 0) {
        k.only = opts.only_ids = only;
        k.n_only = opts.n_only_ids = (size_t)(below(3) ? below(6) : below(200));
        for (size_t i = 0; i < k.n_only; i++)
            only[i] = below(90) - 5;
    }
    if (below(4) == 0)
        opts.deadline_us = 600 * 1000000u;
    bool radius = below(4) == 0;
    doing("search %s in %d.%d%s%s through %c", radius ? "a radius" : "the nearest", t, c,
          k.filter ? ", filter" : "", k.only ? ", ids" : "", conn == w.a ? 'a' : 'b');
    const char *name = collection_name(t, c);
    load_truth(conn, &s->tables[t], t, c);
    if (radius)
        check_radius(conn, name, &s->tables[t].columns[c], &opts, &k);
    else
        check_nearest(conn, name, &s->tables[t].columns[c], &opts, &k);
    MODEL(stats.rows_invalid == 0, "%" PRIu64 " rows are invalid", stats.rows_invalid);
    w.searches++;
    w.cached += stats.from_cache;
}

/* ---- Steps that write
 * ------------------------------------------------------------------------------ */

static uint32_t pick_dim(mn_dtype dtype)
{
    uint32_t dim = w.wide ? 4096 + (uint32_t)below(12289) : 1 + (uint32_t)below(20);
    return dtype == MN_BIT ? (dim + 7) / 8 * 8 : dim;
}

static void step_create(void)
{
    int t = below(TABLES), c = 0;
    struct model_table *table = &w.now.tables[t];
    const char *attributes[MAX_ATTRS];
    char beside[16];
    for (int i = 0; i < COLUMNS && table->alive; i++)
        if (table->columns[i].alive)
            snprintf(beside, sizeof beside, i ? "t%d_%d" : "t%d", t, i);
    if (table->alive)
        c = 1 + below(COLUMNS - 1);
    if (table->columns[c].alive)
        return;
    mn_dtype dtype = (mn_dtype)below(5);
    mn_metric metric = dtype == MN_BIT ? MN_HAMMING : (mn_metric)below(3);
    mn_collection_opts opts = {.dim = pick_dim(dtype), .dtype = dtype, .metric = metric};
    if (table->alive) {
        opts.beside = beside;
    } else {
        memset(table, 0, sizeof *table);
        table->text_ids = below(2);
        table->n_attrs = 1 + below(MAX_ATTRS - 1);
        opts.id_kind = table->text_ids ? MN_ID_TEXT : MN_ID_INTEGER;
        for (int i = 0; i < table->n_attrs; i++)
            attributes[i] = attr_name(i);
        opts.attributes = attributes;
        opts.n_attributes = (size_t)table->n_attrs;
    }
    doing("create %d.%d: %s, %s, %u dimensions%s", t, c, mn_dtype_name(dtype),
          mn_metric_name(metric), opts.dim, table->text_ids ? ", text ids" : "");
    MODEL_OK(mn_create(w.a, collection_name(t, c), &opts, &err));
    table->alive = true;
    table->columns[c] = (struct model_column){true, dtype, metric, opts.dim};
    MODEL_IS(mn_create(w.a, collection_name(t, c), &opts, &err), MN_EXISTS);
}

static void step_drop(void)
{
    int t, c;
    if (!pick_collection(&w.now, &t, &c))
        return;
    struct model_table *table = &w.now.tables[t];
    doing("drop %d.%d", t, c);
    MODEL_OK(mn_drop(w.a, collection_name(t, c), &err));
    MODEL_IS(mn_drop(w.a, collection_name(t, c), &err), MN_NOTFOUND);
    table->columns[c].alive = false;
    table->alive = false;
    for (int i = 0; i < COLUMNS; i++)
        table->alive = table->alive || table->columns[i].alive;
    for (size_t i = 0; i < table->n; i++)
        table->rows[i].vectors[c] = 0;
}

static void step_add_attribute(void)
{
    int t, c;
    if (!pick_collection(&w.now, &t, &c) || w.now.tables[t].n_attrs == MAX_ATTRS)
        return;
    struct model_table *table = &w.now.tables[t];
    doing("add attribute %d to %d.%d", table->n_attrs, t, c);
    MODEL_OK(mn_add_attribute(w.a, collection_name(t, c), attr_name(table->n_attrs), &err));
    for (size_t i = 0; i < table->n; i++)
        table->rows[i].attrs[table->n_attrs] = -1;
    table->n_attrs++;
}

enum { BATCH = 12, LEFT_OUT = -2 };

/* A batch as given to mn_put, and the same for the model. */
struct batch {
    mn_row rows[BATCH];
    mn_attr attrs[BATCH][MAX_ATTRS];
    char texts[BATCH][24], values[BATCH][MAX_ATTRS][16], payloads[BATCH][24];
    struct model_row model[BATCH];
    size_t n;
};

static void fill_row(struct batch *b, size_t i, const struct model_table *t, int c, bool automatic)
{
    struct model_row *m = &b->model[i];
    mn_row *r = &b->rows[i];
    memset(m, 0, sizeof *m);
    m->id = automatic ? MN_AUTO_ID : below(60) - 5;
    m->text = below(TEXT_IDS);
    m->payload = below(3) ? below(100) : -1;
    m->vectors[c] = below(8) ? pick_vector() : 0;
    *r = (mn_row){.id = m->id, .attrs = b->attrs[i]};
    if (t->text_ids) {
        snprintf(b->texts[i], sizeof b->texts[i], "%s", text_of(m->text));
        r->text_id = b->texts[i];
    }
    for (int j = 0; j < MAX_ATTRS; j++) {
        m->attrs[j] = j < t->n_attrs && below(4) ? below(50) : LEFT_OUT;
        if (j < t->n_attrs && m->attrs[j] == LEFT_OUT && below(2))
            m->attrs[j] = -1; /* NULL, and said so */
        if (m->attrs[j] != LEFT_OUT)
            b->attrs[i][r->n_attrs++] = (mn_attr){
                attr_name(j), value_of(m->attrs[j], b->values[i][j], sizeof b->values[i][j])};
    }
    if (r->n_attrs > 1 && below(4) == 0) { /* any order */
        mn_attr first = b->attrs[i][0];
        b->attrs[i][0] = b->attrs[i][1];
        b->attrs[i][1] = first;
    }
    if (m->payload >= 0) {
        snprintf(b->payloads[i], sizeof b->payloads[i], "payload %d", m->payload);
        r->payload = b->payloads[i];
        r->payload_len = below(2) ? SIZE_MAX : strlen(r->payload);
    }
    if (m->vectors[c]) {
        make_vector(&t->columns[c], m->vectors[c], vectors[i]);
        r->vector = vectors[i];
    }
}

static bool stands_twice(const struct batch *b, const struct model_table *t, bool automatic)
{
    for (size_t i = 0; i < b->n; i++)
        for (size_t j = 0; j < i; j++)
            if (t->text_ids ? b->model[i].text == b->model[j].text
                            : !automatic && b->model[i].id == b->model[j].id)
                return true;
    return false;
}

static struct model_row *find_for_put(struct model_table *t, const struct model_row *m)
{
    return t->text_ids ? row_by_text(t, m->text) : row_by_id(t, m->id);
}

/* What mn_put must answer. */
static mn_status expect_put(struct batch *b, struct model_table *t, mn_put_mode mode,
                            bool automatic)
{
    if (stands_twice(b, t, automatic))
        return MN_INVALID;
    for (size_t i = 0; i < b->n; i++) {
        struct model_row *there = find_for_put(t, &b->model[i]);
        if (mode == MN_PUT_IF_VERSION)
            b->rows[i].version = there ? there->version + (below(8) == 0) : 5;
    }
    for (size_t i = 0; i < b->n; i++) {
        struct model_row *there = find_for_put(t, &b->model[i]);
        if (mode == MN_PUT_IF_ABSENT && there)
            return MN_CONFLICT;
        if (mode == MN_PUT_IF_VERSION && (!there || there->version != b->rows[i].version))
            return MN_CONFLICT;
    }
    return MN_OK;
}

static void apply_put(struct batch *b, struct model_table *t, int c, bool keep_rest,
                      const int64_t *ids, const int64_t *versions)
{
    for (size_t i = 0; i < b->n; i++) {
        struct model_row *m = &b->model[i], *r = find_for_put(t, m);
        bool keeps_rest = keep_rest && r; /* a new row has none */
        if (!r) {
            int64_t id = t->text_ids || m->id == MN_AUTO_ID ? model_max_id(t) + 1 : m->id;
            r = row_insert(t, id);
        }
        MODEL(ids[i] == r->id, "row %zu got id %" PRId64 ", want %" PRId64, i, ids[i], r->id);
        MODEL(versions[i] > t->last_version, "row %zu got version %" PRId64 " after %" PRId64, i,
              versions[i], t->last_version);
        r->text = m->text;
        r->version = t->last_version = versions[i];
        for (int j = 0; j < MAX_ATTRS; j++)
            if (m->attrs[j] != LEFT_OUT || !keeps_rest)
                r->attrs[j] = m->attrs[j] == LEFT_OUT ? -1 : m->attrs[j];
        if (m->payload >= 0 || !keeps_rest)
            r->payload = m->payload;
        if (m->vectors[c] || !keeps_rest)
            r->vectors[c] = m->vectors[c];
    }
}

static void step_put(void)
{
    static struct batch b;
    static float wide[BATCH][64];
    int t, c;
    int64_t ids[BATCH], versions[BATCH];
    if (!pick_collection(&w.now, &t, &c))
        return;
    struct model_table *table = &w.now.tables[t];
    const struct model_column *column = &table->columns[c];
    b.n = (size_t)(below(2) ? 1 : below(BATCH + 1));
    bool automatic = !table->text_ids && below(3) == 0;
    mn_put_mode mode = (mn_put_mode)(below(3) ? 0 : below(3));
    if (automatic && mode == MN_PUT_IF_VERSION)
        mode = MN_PUT_REPLACE;
    if (table->n + b.n > MAX_ROWS)
        return;
    mn_put_opts opts = {.mode = mode, .keep_rest = below(4) == 0, .ids = ids, .versions = versions};
    opts.from_f32 = w.integers && column->dtype != MN_BIT && column->dim <= 64 && below(3) == 0;
    for (size_t i = 0; i < b.n; i++) {
        fill_row(&b, i, table, c, automatic);
        if (opts.from_f32 && b.rows[i].vector) {
            widen(column, vectors[i], wide[i]);
            b.rows[i].vector = wide[i];
        }
    }
    mn_status want = expect_put(&b, table, mode, automatic);
    doing("put %zu rows into %d.%d, mode %d%s, want %s", b.n, t, c, (int)mode,
          opts.keep_rest ? ", the rest kept" : "", mn_status_name(want));
    MODEL_IS(mn_put(w.a, collection_name(t, c), b.rows, b.n, &opts, &err), want);
    if (want == MN_OK)
        apply_put(&b, table, c, opts.keep_rest, ids, versions);
}

static void step_delete(void)
{
    int t, c;
    mn_id ids[20];
    char texts[20][24];
    uint64_t deleted, want = 0;
    if (!pick_collection(&w.now, &t, &c))
        return;
    struct model_table *table = &w.now.tables[t];
    size_t n = (size_t)below(below(4) ? 4 : 20);
    doing("delete %zu ids of %d.%d", n, t, c);
    for (size_t i = 0; i < n; i++) {
        ids[i] = (mn_id){.id = below(60) - 5};
        struct model_row *r = row_by_id(table, ids[i].id);
        if (table->text_ids && below(2)) {
            int text = below(TEXT_IDS);
            snprintf(texts[i], sizeof texts[i], "%s", text_of(text));
            ids[i].text_id = texts[i];
            r = row_by_text(table, text);
        }
        if (r) {
            row_remove(table, r);
            want++;
        }
    }
    MODEL_OK(mn_delete(w.a, collection_name(t, c), ids, n, &deleted, &err));
    MODEL(deleted == want, "%" PRIu64 " rows deleted, want %" PRIu64, deleted, want);
}

static void step_delete_if_version(void)
{
    int t, c;
    if (!pick_collection(&w.now, &t, &c))
        return;
    struct model_table *table = &w.now.tables[t];
    mn_id id = {.id = below(60) - 5};
    struct model_row *r = row_by_id(table, id.id);
    int64_t version = r ? r->version + (below(3) == 0) : 1;
    bool good = r && version == r->version;
    doing("delete id %" PRId64 " of %d.%d if it has version %" PRId64, id.id, t, c, version);
    MODEL_IS(mn_delete_if_version(w.a, collection_name(t, c), &id, version, &err),
             good ? MN_OK : MN_CONFLICT);
    if (good)
        row_remove(table, r);
}

/* ---- Steps of transactions
 * ---------------------------------------------------------------------------- */

static void step_transaction(void)
{
    char name[8];
    int s = w.n_saves ? below((uint64_t)w.n_saves) : 0;
    snprintf(name, sizeof name, below(2) ? "s%d" : "S%d", s);
    switch (w.in_write ? 1 + below(8) : 0) {
    case 0:
        doing("begin");
        MODEL_OK(mn_begin_write(w.a, &err));
        w.in_write = true;
        w.n_saves = 0;
        return;
    case 1:
        doing("commit");
        MODEL_OK(mn_commit(w.a, &err));
        w.committed = w.now;
        w.in_write = false;
        return;
    case 2:
        doing("rollback");
        MODEL_OK(mn_rollback(w.a, &err));
        w.now = w.committed;
        w.in_write = false;
        return;
    case 3:
    case 4:
        if (w.n_saves == SAVES)
            return;
        doing("savepoint %d", w.n_saves);
        snprintf(name, sizeof name, "s%d", w.n_saves);
        MODEL_OK(mn_savepoint(w.a, name, &err));
        w.saves[w.n_saves++] = w.now;
        return;
    case 5:
    case 6:
        doing("roll back to %s", name);
        MODEL_IS(mn_rollback_to(w.a, name, &err), w.n_saves ? MN_OK : MN_NOTFOUND);
        if (w.n_saves) {
            w.now = w.saves[s];
            w.n_saves = s + 1;
        }
        return;
    default:
        doing("release %s", name);
        MODEL_IS(mn_release(w.a, name, &err), w.n_saves ? MN_OK : MN_NOTFOUND);
        w.n_saves = s;
    }
}

static void step_second_connection(void)
{
    if (w.b_holds) {
        doing("b lets its snapshot go");
        MODEL_OK(mn_commit(w.b, &err));
        w.b_holds = false;
    } else if (w.in_write && below(2)) {
        doing("b is refused while a writes");
        MODEL_IS(mn_begin_write(w.b, &err), MN_BUSY);
    } else if (w.in_write || below(2)) {
        doing("b takes a snapshot");
        MODEL_OK(mn_begin_read(w.b, &err));
        w.held = w.committed;
        w.b_holds = true;
    } else {
        doing("a and b change places");
        mn_conn *was = w.a;
        w.a = w.b;
        w.b = was;
    }
}

static void open_database(void)
{
    const mn_open_opts opts = {.durability = MN_RELAXED, .busy_timeout_ms = MN_NO_WAIT};
    MODEL_OK(db_open_vfs(w.path, &opts, w.vfs, &w.db, &err));
    MODEL_OK(mn_connect(w.db, &w.a, &err));
    MODEL_OK(mn_connect(w.db, &w.b, &err));
}

static void close_database(void)
{
    mn_disconnect(w.a);
    mn_disconnect(w.b);
    MODEL_OK(mn_close(w.db, &err));
}

static void step_reopen(void)
{
    doing("close and open%s", w.in_write ? ", in the middle of a transaction" : "");
    close_database();
    w.in_write = w.b_holds = false;
    w.now = w.committed;
    open_database();
}

/* ---- Scripts
 * --------------------------------------------------------------------------------------------- */

static void step(void)
{
    int what = below(100);
    if (what < 40)
        step_put();
    else if (what < 48)
        step_delete();
    else if (what < 51)
        step_delete_if_version();
    else if (what < 57)
        step_create();
    else if (what < 59)
        step_drop();
    else if (what < 60)
        step_add_attribute();
    else if (what < 82)
        step_transaction();
    else if (what < 94)
        step_second_connection();
    else if (what < 96)
        step_reopen();
    if (!w.in_write)
        w.committed = w.now;
}

static void look(void)
{
    bool first = below(3) > 0;
    mn_conn *conn = first ? w.a : w.b;
    struct state *s = first ? &w.now : w.b_holds ? &w.held : &w.committed;
    int what = below(10);
    if (what == 0)
        check_get(conn, s);
    else if (what == 1)
        check_iterate(conn, s);
    else
        check_search(conn, s);
}

static void check_verify(void)
{
    uint64_t findings = 0;
    doing("verify");
    MODEL_OK(mn_verify(w.b, NULL, NULL, &findings, &err));
    MODEL(findings == 0, "%" PRIu64 " findings", findings);
}

static void run_script(uint64_t seed, bool trace)
{
    uint64_t searches = w.searches, cached = w.cached;
    struct brute m = w.from_model, s = w.from_select;
    memset(&w, 0, sizeof w);
    w.from_model = m;
    w.from_select = s;
    w.searches = searches;
    w.cached = cached;
    w.seed = seed;
    w.trace = trace;
    w.rng.state = seed * 7919;
    w.integers = seed % 2 == 0;
    w.wide = seed % 40 == 7;
    w.path = "model.db";
    snprintf(w.vfs_name, sizeof w.vfs_name, "model-%" PRIu64, seed);
    if (seed % 16 == 5) {
        char name[32];
        snprintf(name, sizeof name, "%" PRIu64 ".db", seed);
        w.path = test_path(name);
    } else {
        w.vfs = w.vfs_name;
        w.alloc = mn_alloc_create(NULL, UINT64_MAX);
        w.fs = fs_mem_create(w.alloc);
        MODEL_OK(vfs_register(w.vfs, w.fs, NULL, &err));
    }
    open_database();
    for (int i = 0; i < 20 && !w.now.tables[0].alive; i++)
        step_create();
    w.committed = w.now;
    for (w.step = 1; w.step <= STEPS; w.step++) {
        step();
        for (int i = below(4); i > 0; i--)
            look();
    }
    check_verify();
    close_database();
    if (w.vfs) {
        MODEL_OK(vfs_unregister(w.vfs, &err));
        fs_mem_destroy(w.fs);
        mn_alloc_destroy(w.alloc);
    }
}

TEST(random_scripts_answer_as_arrays_and_brute_force_do)
{
    const char *only = getenv("MNEME_MODEL_SEED");
    uint64_t first = only ? (uint64_t)atoll(only) : 1;
    uint64_t end = only ? first + 1 : first + test_budget(250);
    w.searches = w.cached = 0;
    for (uint64_t seed = first; seed < end; seed++)
        run_script(seed, only != NULL);
    brute_free(&w.from_model);
    brute_free(&w.from_select);
    CHECK(only || (w.cached > w.searches / 10 && w.cached < w.searches));
    test_note("%" PRIu64 " scripts, %" PRIu64 " searches, %" PRIu64 " of them from memory",
              end - first, w.searches, w.cached);
}

TEST_MAIN
