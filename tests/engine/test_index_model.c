/* Random scripts over collections with a hybrid index: rows come, change and go through two
 * connections of Mneme and through a plain SQLite client, transactions are rolled back, the index
 * is folded in memory and in the sidecar, built anew and left behind, the collection is dropped and
 * made anew, the database is restored from a copy, files are compacted and opened again, while a
 * third connection keeps old snapshots. After each step searches of recall 1 equal brute force over
 * plainly selected rows, and those of recall 0.95 hold as many live rows as they should, each once,
 * at their exact distances, in order; they find most of the nearest. So do the old snapshot's, over
 * its own rows, and those inside a transaction. After each fold mn_verify finds nothing.
 *
 * MNEME_MODEL_CASE=name runs one case and prints its steps, MNEME_MODEL_SEED=n one seed. The long
 * form (tools/check --long) runs many seeds, and longer. */
#include "tests/engine/trouble.h"

#include "storage/fs_mem.h"
#include "storage/vfs.h"

enum { BATCH = 40, MOST_BYTES = 1536 * 4 };

struct model_case {
    const char *name;
    mn_metric metric;
    mn_dtype dtype;
    uint32_t dim;
    mn_rerank rerank;
    uint32_t bits;
    bool text, beside;
    bool cold;     /* vectors stay in the sidecar */
    bool away;     /* codes too */
    bool graph;    /* over however few centroids */
    uint32_t rows; /* at first */
    double floor;  /* of the mean recall */
};

static const struct model_case cases[] = {
    {"l2", MN_L2, MN_F32, 100, MN_RERANK_COPY, 0, .rows = 420, .floor = 0.85},
    {"cosine f16 text", MN_COSINE, MN_F16, 100, MN_RERANK_COPY, 3, .text = true, .rows = 400,
     .floor = 0.85},
    {"ip bf16 rows", MN_IP, MN_BF16, 100, MN_RERANK_ROWS, 4, .rows = 400, .floor = 0.85},
    {"l2 i8 beside", MN_L2, MN_I8, 100, MN_RERANK_COPY, 2, .beside = true, .rows = 400,
     .floor = 0.85},
    {"cosine i8 one bit", MN_COSINE, MN_I8, 100, MN_RERANK_COPY, 1, .rows = 400, .floor = 0.85},
    {"ip i8", MN_IP, MN_I8, 7, MN_RERANK_COPY, 8, .rows = 400, .floor = 0.85},
    {"l2 without vectors", MN_L2, MN_F32, 100, MN_RERANK_NONE, 8, .rows = 400, .floor = 0.85},
    {"dim 1", MN_L2, MN_F32, 1, MN_RERANK_COPY, 0, .rows = 400, .floor = 0.85},
    {"dim 1 cosine", MN_COSINE, MN_F32, 1, MN_RERANK_COPY, 0, .rows = 400, .floor = 0.85},
    {"dim 7 text beside", MN_COSINE, MN_F32, 7, MN_RERANK_ROWS, 5, .text = true, .beside = true,
     .rows = 400, .floor = 0.85},
    {"graph", MN_L2, MN_F32, 32, MN_RERANK_COPY, 0, .graph = true, .rows = 1500, .floor = 0.85},
    {"graph, ip", MN_IP, MN_F16, 32, MN_RERANK_COPY, 0, .graph = true, .rows = 900,
     .floor = 0.85},
    {"cold", MN_L2, MN_F32, 1536, MN_RERANK_COPY, 0, .cold = true, .rows = 700, .floor = 0.85},
    {"cold f16 cosine", MN_COSINE, MN_F16, 100, MN_RERANK_COPY, 6, .cold = true, .rows = 400,
     .floor = 0.85},
    {"away", MN_L2, MN_F32, 100, MN_RERANK_COPY, 0, .cold = true, .away = true, .rows = 700,
     .floor = 0.85},
    {"away, vectors in memory", MN_COSINE, MN_F16, 7, MN_RERANK_COPY, 5, .away = true,
     .rows = 400, .floor = 0.85},
    {"away, vectors in rows beside", MN_IP, MN_I8, 100, MN_RERANK_ROWS, 8, .away = true,
     .beside = true, .rows = 400, .floor = 0.85},
    {"away without vectors", MN_L2, MN_BF16, 64, MN_RERANK_NONE, 8, .away = true, .rows = 400,
     .floor = 0.85},
    {"away, graph", MN_L2, MN_F32, 32, MN_RERANK_COPY, 1, .graph = true, .cold = true,
     .away = true, .rows = 900, .floor = 0.85},
    {"cold, vectors in rows", MN_IP, MN_I8, 100, MN_RERANK_ROWS, 8, .cold = true, .rows = 400,
     .floor = 0.85},
    {"vectors of two pages", MN_L2, MN_F16, 2500, MN_RERANK_COPY, 1, .cold = true, .rows = 350,
     .floor = 0.85},
};

struct fix {
    const struct model_case *c;
    char vfs[32];
    struct mn_alloc *alloc;
    struct mn_fs *fs;
    mn_db *db;
    mn_conn *conn, *other; /* which change places */
    mn_conn *old;          /* keeps a snapshot */
    bool sleeping;         /* it has one, of these rows: */
    struct brute old_rows;
    sqlite3 *plain;
    sqlite3 *saved;   /* a copy of the database, in memory; NULL: none yet */
    const char *name; /* of the collection under test */
    struct brute b;
    uint64_t seed;
    struct test_rng rng;
    uint64_t drawn;
    int64_t next_id;
    char step[80];
    struct indexed_recall recall;
    unsigned folds, aheads;
};

static mn_error err;

static void wrong(const struct fix *f, const char *what)
{
    test_fail(__FILE__, __LINE__, "MNEME_MODEL_CASE='%s' MNEME_MODEL_SEED=%d: %s: %s", f->c->name,
              (int)f->seed, f->step, what);
}

static void open_both(struct fix *f)
{
    struct db_stage stage = {.vfs = f->vfs, .fs = f->fs, .limits = INDEXED_LIMITS};
    mn_open_opts opts = {.durability = MN_RELAXED, .flags = MN_OPEN_NO_BACKGROUND};
    stage.limits.cold = f->c->cold;
    stage.limits.away = f->c->away;
    stage.limits.graph_from = f->c->graph ? 1 : 0;
    CHECK_OK(db_open_on("m.db", &opts, &stage, &f->db, &err), err);
    CHECK_OK(mn_connect(f->db, &f->conn, &err), err);
    CHECK_OK(mn_connect(f->db, &f->other, &err), err);
    CHECK_OK(mn_connect(f->db, &f->old, &err), err);
    CHECK(sqlite3_open_v2("m.db", &f->plain, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, f->vfs) ==
          SQLITE_OK);
    sqlite3_exec(f->plain, "PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON", NULL, NULL, NULL);
}

static mn_status wake(struct fix *f)
{
    mn_status st = f->sleeping ? mn_commit(f->old, &err) : MN_OK;
    f->sleeping = false;
    return st;
}

static void close_both(struct fix *f)
{
    CHECK_OK(wake(f), err);
    mn_disconnect(f->conn);
    mn_disconnect(f->other);
    mn_disconnect(f->old);
    CHECK_OK(mn_close(f->db, &err), err);
    CHECK(sqlite3_close(f->plain) == SQLITE_OK);
}

/* May fail: conflicts are its business. */
static void sql(struct fix *f, const char *text)
{
    sqlite3_exec(f->plain, text, NULL, NULL, NULL);
    if (!sqlite3_get_autocommit(f->plain))
        sqlite3_exec(f->plain, "ROLLBACK", NULL, NULL, NULL);
}

static void draw_vector(struct fix *f, void *out)
{
    indexed_vector(f->c->dtype, f->c->dim, 5, f->drawn++, out);
}

/* Puts rows: new ones, or over those that are there. */
static mn_status put_some(struct fix *f, size_t n, bool over)
{
    static char vectors[BATCH][MOST_BYTES], texts[BATCH][24];
    mn_row rows[BATCH];
    int64_t known = f->next_id - 1, start = (int64_t)test_below(&f->rng, (uint64_t)f->next_id);
    for (size_t i = 0; i < n; i++) {
        int64_t id = over ? 1 + (start + (int64_t)i) % known : f->next_id++;
        draw_vector(f, vectors[i]);
        snprintf(texts[i], sizeof texts[i], "t%" PRId64, id);
        rows[i] = (mn_row){.vector = vectors[i]};
        if (f->c->text)
            rows[i].text_id = texts[i];
        else
            rows[i].id = id;
    }
    return mn_put(f->conn, f->name, rows, n, NULL, &err);
}

static mn_status delete_some(struct fix *f, size_t n)
{
    static char texts[BATCH][24];
    mn_id ids[BATCH];
    for (size_t i = 0; i < n; i++) {
        int64_t id = 1 + (int64_t)test_below(&f->rng, (uint64_t)f->next_id);
        snprintf(texts[i], sizeof texts[i], "t%" PRId64, id);
        ids[i] = f->c->text ? (mn_id){.text_id = texts[i]} : (mn_id){.id = id};
    }
    return mn_delete(f->conn, f->name, ids, n, NULL, &err);
}

/* ---- Checks ---------------------------------------------------------------------------------- */

struct every {
    int64_t step, rest;
};

static bool keep_every(void *ctx, int64_t id)
{
    const struct every *e = ctx;
    return (id % e->step + e->step) % e->step == e->rest;
}

enum { LISTED = 3000 }; /* more than 2,048, so that the index is asked */

static bool keep_listed(void *ctx, int64_t id)
{
    const struct every *e = ctx;
    return id >= 0 && id < LISTED * e->step && keep_every(ctx, id);
}

static bool filter_every(void *ctx, const mn_row *row)
{
    return keep_every(ctx, row->id);
}

/* The rows of the connection's snapshot are those of `b`. */
static void search_once(struct fix *f, mn_conn *conn, const struct brute *b, double recall)
{
    static char query[MOST_BYTES];
    static const uint32_t ks[] = {1, 3, 10, 25, 2000};
    struct every every = {1 + (int64_t)test_below(&f->rng, 5), 0};
    struct indexed_query q = {.name = f->name, .vector = query, .opts.recall = recall};
    int64_t *ids = NULL;
    indexed_vector(f->c->dtype, f->c->dim, 5, 1000000 + test_below(&f->rng, 1000000), query);
    q.k = ks[test_below(&f->rng, 20) ? test_below(&f->rng, 4) : 4];
    q.estimated = f->c->rerank == MN_RERANK_NONE;
    every.rest = (int64_t)test_below(&f->rng, (uint64_t)every.step);
    switch (test_below(&f->rng, 4)) {
    case 0:
        q.keep = keep_every;
        q.opts.filter = filter_every;
        q.keep_ctx = q.opts.filter_ctx = &every;
        break;
    case 1:
        q.opts.n_only_ids = LISTED;
        q.opts.only_ids = ids = malloc(LISTED * sizeof *ids);
        CHECK(ids);
        for (int64_t i = 0; i < LISTED; i++)
            ids[i] = i * every.step + every.rest;
        q.keep = keep_listed;
        q.keep_ctx = &every;
        break;
    default:
        break;
    }
    const char *what = indexed_check(conn, b, &q, &f->recall);
    free(ids);
    if (what)
        wrong(f, what);
}

static void check(struct fix *f)
{
    brute_load(&f->b, f->plain, "c", f->c->beside ? "d" : "vector");
    search_once(f, f->conn, &f->b, 1.0);
    for (int i = 0; i < 3; i++)
        search_once(f, i ? f->conn : f->other, &f->b, 0.95);
    if (f->sleeping)
        search_once(f, f->old, &f->old_rows, test_below(&f->rng, 4) ? 0.95 : 1.0);
}

static void check_verify(struct fix *f)
{
    const char *what = indexed_verify(f->conn);
    if (what)
        wrong(f, what);
}

/* Rows from the start, n unique where it is given, owners that take their rows with them. */
static void fill(struct fix *f)
{
    const char *attributes[] = {"n", "owner"};
    mn_collection_opts opts = {.dim = f->c->dim,
                               .dtype = f->c->dtype,
                               .metric = f->c->metric,
                               .id_kind = f->c->text ? MN_ID_TEXT : MN_ID_INTEGER,
                               .rerank = f->c->rerank,
                               .bits = f->c->bits};
    mn_collection_opts first = opts;
    if (f->c->beside)
        first = (mn_collection_opts){.dim = 2, .id_kind = opts.id_kind};
    first.attributes = attributes;
    first.n_attributes = 1;
    f->name = f->c->beside ? "d" : "c";
    CHECK_OK(mn_create(f->conn, "c", &first, &err), err);
    if (f->c->beside) {
        opts.beside = "c";
        opts.id_kind = 0;
        CHECK_OK(mn_create(f->conn, "d", &opts, &err), err);
    }
    sql(f, "CREATE TABLE parent(p INTEGER PRIMARY KEY); INSERT INTO parent VALUES (1); ALTER TABLE "
           "c ADD COLUMN owner INTEGER REFERENCES parent(p) ON DELETE CASCADE; CREATE UNIQUE INDEX "
           "u ON c(n)");
    f->next_id = 1;
    while (f->next_id <= (int64_t)f->c->rows)
        CHECK_OK(put_some(f, BATCH, false), err);
    sql(f, "UPDATE c SET n = id WHERE id <= 50");
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* Answers inside a write transaction over the rows that it sees itself. */
static void check_own(struct fix *f, mn_status st)
{
    if (st)
        return;
    brute_load(&f->b, f->conn->sql, "c", f->c->beside ? "d" : "vector");
    for (int i = 0; i < 2; i++)
        search_once(f, f->conn, &f->b, i ? 0.95 : 1.0);
}

static mn_status in_transaction(struct fix *f, bool keep)
{
    mn_status st = mn_begin_write(f->conn, &err);
    if (st == MN_OK)
        st = put_some(f, 5, true);
    if (st == MN_OK)
        st = mn_savepoint(f->conn, "s", &err);
    if (st == MN_OK)
        st = delete_some(f, 9);
    check_own(f, st); /* must not leave its uncommitted rows with others */
    if (st == MN_OK)
        st = mn_rollback_to(f->conn, "s", &err);
    check_own(f, st);
    if (st == MN_OK)
        st = put_some(f, 4, false);
    check_own(f, st);
    if (st == MN_OK)
        st = keep ? mn_commit(f->conn, &err) : mn_rollback(f->conn, &err);
    return st;
}

static void foreign(struct fix *f)
{
    const char *v = f->c->beside ? "d" : "vector";
    char text[400];
    int a = (int)test_below(&f->rng, (uint64_t)f->next_id),
        b = (int)test_below(&f->rng, (uint64_t)f->next_id);
    unsigned kind = (unsigned)test_below(&f->rng, 11);
    const char *tid = f->c->text ? ", text_id" : "";
    char tval[40] = "";
    if (f->c->text)
        snprintf(tval, sizeof tval, ", 'f%d'", b);
    switch (kind) {
    case 0: /* removes whoever has that n */
    case 1:
        snprintf(text, sizeof text,
                 "INSERT OR REPLACE INTO c(n, %s%s) SELECT %d, %s%s FROM c WHERE id = %d", v, tid,
                 a % 50, v, tval, b);
        break;
    case 2:
        snprintf(text, sizeof text, "UPDATE OR REPLACE c SET n = %d WHERE id BETWEEN %d AND %d",
                 a % 50, b, b + 2);
        break;
    case 3:
        snprintf(text, sizeof text, "UPDATE c SET id = id + 100000 WHERE id BETWEEN %d AND %d", a,
                 a + 5);
        break;
    case 4:
        snprintf(text, sizeof text, "UPDATE OR REPLACE c SET id = %d WHERE id = %d", a, b);
        break;
    case 5: /* cascades */
        snprintf(text, sizeof text,
                 "UPDATE c SET n = NULL, owner = 1 WHERE id BETWEEN %d AND %d; "
                 "DELETE FROM parent WHERE p = 1; INSERT INTO parent VALUES (1)",
                 a, a + 7);
        break;
    case 6:
        snprintf(text, sizeof text,
                 "UPDATE c SET %s = (SELECT x.%s FROM c x WHERE x.id >= %d AND x.%s IS NOT NULL "
                 "LIMIT 1) WHERE id BETWEEN %d AND %d",
                 v, v, a, v, b, b + 9);
        break;
    case 7:
        snprintf(text, sizeof text, "UPDATE c SET %s = NULL WHERE id BETWEEN %d AND %d", v, a,
                 a + 3);
        break;
    case 8:
        snprintf(text, sizeof text, "DELETE FROM c WHERE id BETWEEN %d AND %d", a, a + 20);
        break;
    case 9: /* far more than is due */
        snprintf(text, sizeof text, "UPDATE c SET %s = %s WHERE id > %d", v, v, a);
        break;
    default: /* a row under an id that was another's */
        snprintf(text, sizeof text,
                 "DELETE FROM c WHERE id = %d; UPDATE OR IGNORE c SET id = %d WHERE id = %d", a, a,
                 b);
        break;
    }
    snprintf(f->step + strlen(f->step), sizeof f->step - strlen(f->step), " %.50s", text);
    sql(f, text);
}

/* Wakes who sleeps, or sends him to sleep on what is there now. */
static mn_status sleep_or_wake(struct fix *f)
{
    if (f->sleeping)
        return wake(f);
    mn_status st = mn_begin_read(f->old, &err);
    if (st == MN_OK)
        brute_load(&f->old_rows, f->old->sql, "c", f->c->beside ? "d" : "vector");
    f->sleeping = st == MN_OK;
    return st;
}

static mn_status fold_ahead(struct fix *f)
{
    static char query[MOST_BYTES];
    mn_hit hit;
    uint32_t found;
    bool did;
    mn_status st = put_some(f, 25, f->b.n > f->c->rows + 300 || test_below(&f->rng, 2));
    if (st)
        return st;
    draw_vector(f, query); /* the search loads the index, if need be */
    st = mn_search(f->conn, f->name, query, 1, 1, NULL, &hit, &found, &err);
    if (st == MN_OK)
        st = trouble_try_fold_ahead(f->conn, f->name, &did, &err);
    if (st == MN_OK)
        f->aheads += did;
    return st;
}

/* The database becomes what it was at the last time; or this is that time. */
static void save_or_restore(struct fix *f)
{
    bool save = !f->saved || test_below(&f->rng, 2);
    if (!f->saved)
        CHECK(sqlite3_open(":memory:", &f->saved) == SQLITE_OK);
    snprintf(f->step + strlen(f->step), sizeof f->step - strlen(f->step), save ? " save" : " back");
    sqlite3 *to = save ? f->saved : f->plain, *from = save ? f->plain : f->saved;
    sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
    CHECK(b && sqlite3_backup_step(b, -1) == SQLITE_DONE);
    CHECK(sqlite3_backup_finish(b) == SQLITE_OK);
}

static mn_status make_anew(struct fix *f)
{
    if (f->c->beside)
        return MN_OK;
    mn_status st = mn_drop(f->other, "c", &err);
    if (st)
        return st;
    sql(f, "DROP TABLE parent");
    fill(f);
    return MN_OK;
}

static mn_status step(struct fix *f, unsigned kind)
{
    bool many;
    mn_conn *conn;
    switch (kind) {
    case 0:
    case 1:
        many = f->b.n > f->c->rows + 500;
        return put_some(f, 1 + test_below(&f->rng, BATCH), many || test_below(&f->rng, 2));
    case 2:
        return delete_some(f, 1 + test_below(&f->rng, BATCH));
    case 3:
        return in_transaction(f, true);
    case 4:
        return in_transaction(f, false);
    case 5:
    case 6:
    case 7:
        foreign(f);
        return MN_OK;
    case 8:
        sql(f, "VACUUM");
        return MN_OK;
    case 9:
        close_both(f);
        open_both(f);
        return MN_OK;
    case 10:
        CHECK_OK(wake(f), err); /* a checkpoint waits for old snapshots */
        return mn_compact(f->conn, &err);
    case 11:
        conn = f->conn;
        f->conn = f->other;
        f->other = conn;
        return MN_OK;
    case 12:
    case 13:
        return sleep_or_wake(f);
    case 14:
    case 15:
    case 16:
    case 17:
        return fold_ahead(f);
    case 18:
        save_or_restore(f);
        return MN_OK;
    case 19:
        return test_below(&f->rng, 4) ? MN_OK : make_anew(f);
    case 20:
        return mn_rebuild(f->conn, f->name, &err);
    default:
        return mn_fold(f->conn, f->name, &err);
    }
}

static const char *const words[] = {
    "put",     "put",     "delete",  "transaction", "rollback", "foreign", "foreign", "foreign",
    "VACUUM",  "reopen",  "compact", "others",      "sleep",    "sleep",   "ahead",   "ahead",
    "ahead",   "ahead",   "copy",    "anew",        "rebuild",  "fold",    "fold",    "fold"};
enum { KINDS = sizeof words / sizeof *words, FIRST_FOLD = 20 };

static void run_case(const struct model_case *c, uint64_t seed, unsigned steps)
{
    static struct fix f;
    static unsigned n_vfs;
    bool loud = getenv("MNEME_MODEL_CASE");
    memset(&f, 0, sizeof f);
    f.c = c;
    f.seed = seed;
    f.rng.state = 76 + seed + c->dim + (uint64_t)c->dtype;
    f.old_rows = f.b = (struct brute){.dtype = c->dtype, .metric = c->metric, .dim = c->dim};
    snprintf(f.vfs, sizeof f.vfs, "index-model-%u", ++n_vfs);
    f.alloc = mn_alloc_create(NULL, UINT64_MAX);
    f.fs = fs_mem_create(f.alloc);
    CHECK_OK(vfs_register(f.vfs, f.fs, NULL, &err), err);
    open_both(&f);
    fill(&f);
    snprintf(f.step, sizeof f.step, "first fold");
    CHECK_OK(mn_fold(f.conn, f.name, &err), err);
    check(&f);
    CHECK(f.recall.by_index > 0);
    check_verify(&f);
    for (unsigned i = 0; i < steps; i++) {
        unsigned kind = (unsigned)test_below(&f.rng, KINDS);
        snprintf(f.step, sizeof f.step, "step %u, %s", i, words[kind]);
        mn_status st = step(&f, kind);
        if (loud)
            printf("%s: %s, %zu rows\n", f.step, mn_status_name(st), f.b.n);
        if (st != MN_OK && st != MN_NOTFOUND && st != MN_EXISTS)
            wrong(&f, err.message);
        check(&f);
        f.folds += kind >= FIRST_FOLD;
        if (kind >= FIRST_FOLD)
            check_verify(&f);
    }
    snprintf(f.step, sizeof f.step, "the end");
    CHECK_OK(mn_fold(f.conn, f.name, &err), err);
    check(&f);
    check_verify(&f);
    double mean = f.recall.found / f.recall.wanted;
    test_note("%s: %.3f, %d/%d folds in memory", c->name, mean, (int)f.aheads, (int)f.folds);
    CHECKF(mean >= c->floor, "'%s': mean recall %.3f", c->name, mean);
    CHECKF(f.recall.by_index * 2 > steps, "'%s': the index answered %d of %d searches", c->name,
           (int)f.recall.by_index, (int)(f.recall.by_index + f.recall.by_rows));
    close_both(&f);
    sqlite3_close(f.saved);
    brute_free(&f.b);
    brute_free(&f.old_rows);
    CHECK_OK(vfs_unregister(f.vfs, &err), err);
    fs_mem_destroy(f.fs);
    mn_alloc_destroy(f.alloc);
}

TEST(random_scripts_over_an_index_answer_as_brute_force_does)
{
    const char *only = getenv("MNEME_MODEL_CASE"), *seed = getenv("MNEME_MODEL_SEED");
    uint64_t first = seed ? strtoull(seed, NULL, 10) : 1, last = seed || !test_long() ? first : 8;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (uint64_t n = first; n <= last; n++)
            if (!only || strcmp(only, cases[i].name) == 0)
                run_case(&cases[i], n,
                         (unsigned)test_budget(cases[i].dim > 1000 ? 40 : 90) /
                             (test_long() ? 4 : 1));
}

TEST_MAIN
