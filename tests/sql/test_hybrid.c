/* hybrid(), mmr() and knn_groups() against the formulas computed here from all rows, and what they
 * refuse. */
#include "tests/test.h"

#include <sqlite3.h>

#include "mneme_sql.h"
#include "tests/sim/oom.h"

enum { ROWS = 400, DIM = 6, WORDS = 12, MOST_WORDS = 16, TERMS = 40 };

struct row {
    int words[MOST_WORDS]; /* [n_words] of the vocabulary */
    int n_words;
    int n_title;           /* the first of them are the title; -1: no text at all */
    float vector[DIM];
    bool has_vector;
    int group;
};

static const char *const vocabulary[TERMS] = {
    "ant",  "bee",   "cat",  "dog",   "eel",  "fox",   "gnu",  "hen",   "ibis", "jay",
    "kite", "lynx",  "mole", "newt",  "owl",  "pig",   "quail", "rat",  "seal", "toad",
    "urial", "vole", "wolf", "xerus", "yak",  "zebra", "asp",  "boa",   "cod",  "doe",
    "emu",  "frog",  "goat", "hare",  "ide",  "kea",   "lark", "mink",  "nene", "orca"};

static struct row rows[ROWS + 1];

static void must(sqlite3 *db, const char *sql)
{
    char *message = NULL;
    int rc = sqlite3_exec(db, sql, NULL, NULL, &message);
    CHECKF(rc == SQLITE_OK, "%s: %s", sql, message);
}

static sqlite3 *open_db(const char *path)
{
    sqlite3 *db;
    char *message = NULL;
    CHECK(sqlite3_open(path, &db) == SQLITE_OK);
    sqlite3_busy_timeout(db, 10000); /* of the thread that folds */
    int rc = mn_sql_register(db, &message);
    CHECKF(rc == SQLITE_OK, "%s", message);
    return db;
}

static void make_row(struct test_rng *rng, struct row *r)
{
    *r = (struct row){.n_title = -1, .has_vector = test_below(rng, 12) > 0,
                      .group = (int)test_below(rng, 30)};
    for (int i = 0; i < DIM; i++)
        r->vector[i] = (float)test_normal(rng);
    if (test_below(rng, 15) == 0)
        return;
    r->n_words = 1 + (int)test_below(rng, MOST_WORDS);
    r->n_title = (int)test_below(rng, (uint64_t)r->n_words);
    for (int i = 0; i < r->n_words; i++) /* the first terms are the frequent ones */
        r->words[i] = (int)(TERMS * test_uniform(rng) * test_uniform(rng));
}

static void bind_words(sqlite3_stmt *st, int at, const struct row *r, int first, int end)
{
    char text[400] = "";
    if (r->n_title < 0)
        return;
    for (int i = first; i < end; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i > first ? ", " : "",
                 vocabulary[r->words[i]]);
    sqlite3_bind_text(st, at, text, -1, SQLITE_TRANSIENT);
}

/* A table of random rows, under mneme_index() with full text. */
static sqlite3 *make_db(const char *metric)
{
    struct test_rng rng = {11};
    sqlite3 *db = open_db(test_path("h.db"));
    sqlite3_stmt *st;
    must(db, "CREATE TABLE docs(id INTEGER PRIMARY KEY, title TEXT, body TEXT, grp INTEGER, "
             "embedding BLOB); BEGIN");
    CHECK_EQ(sqlite3_prepare_v2(db, "INSERT INTO docs VALUES (?, ?, ?, ?, ?)", -1, &st, NULL),
             SQLITE_OK);
    for (int id = 1; id <= ROWS; id++) {
        struct row *r = &rows[id];
        make_row(&rng, r);
        sqlite3_bind_int(st, 1, id);
        bind_words(st, 2, r, 0, r->n_title);
        bind_words(st, 3, r, r->n_title, r->n_words);
        sqlite3_bind_int(st, 4, r->group);
        if (r->has_vector)
            sqlite3_bind_blob(st, 5, r->vector, sizeof r->vector, SQLITE_STATIC);
        CHECK_EQ(sqlite3_step(st), SQLITE_DONE);
        sqlite3_reset(st);
        sqlite3_clear_bindings(st);
    }
    sqlite3_finalize(st);
    char sql[200];
    snprintf(sql, sizeof sql, "COMMIT; SELECT mneme_index('docs', 'embedding', 'metric=%s dim=6 "
             "filter=grp fts=title,body')", metric);
    must(db, sql);
    return db;
}

/* ---- The model ------------------------------------------------------------------------------ */

struct query {
    int words[4];
    int n_words;             /* 0: no text */
    float vector[DIM];
    bool has_vector;
    int least_group;         /* only rows of this group and later ones */
    bool rrf;
    double weight, rrf_k;
    int k, candidates;
};

struct part {
    int id, text_rank, vector_rank;
    double bm25, distance, w, v, score;
    bool measured;
};

static bool meets(int id, const struct query *q)
{
    return rows[id].group >= q->least_group;
}

static double bm25_of(int id, const struct query *q)
{
    double tokens = 0, sum = 0;
    for (int i = 1; i <= ROWS; i++)
        tokens += rows[i].n_words;
    for (int t = 0; t < q->n_words; t++) {
        int with = 0, f = 0;
        for (int i = 1; i <= ROWS; i++) {
            bool has = false;
            for (int j = 0; j < rows[i].n_words; j++)
                has = has || rows[i].words[j] == q->words[t];
            with += has;
        }
        for (int j = 0; j < rows[id].n_words; j++)
            f += rows[id].words[j] == q->words[t];
        double idf = log((ROWS - with + 0.5) / (with + 0.5));
        idf = idf <= 0 ? 1e-6 : idf;
        sum += idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * rows[id].n_words / (tokens / ROWS)));
    }
    return sum;
}

static double distance_of(const float *a, const float *b, bool cosine)
{
    double l2 = 0, dot = 0, x = 0, y = 0;
    for (int i = 0; i < DIM; i++) {
        double p = (double)a[i], q = (double)b[i];
        l2 += (p - q) * (p - q);
        dot += p * q;
        x += p * p;
        y += q * q;
    }
    return cosine ? 1 - dot / sqrt(x * y) : sqrt(l2);
}

static int by_bm25(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    return x->bm25 != y->bm25 ? (x->bm25 < y->bm25) - (x->bm25 > y->bm25) : x->id - y->id;
}

static int by_distance(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    if (x->measured != y->measured)
        return y->measured - x->measured;
    return x->distance != y->distance ? (x->distance > y->distance) - (x->distance < y->distance)
                                      : x->id - y->id;
}

static int by_score(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : x->id - y->id;
}

/* Every row gets its parts; those in neither list go last. Returns how many are candidates. */
static int model(const struct query *q, struct part *p)
{
    int n = 0, n_text = 0, n_vector = 0;
    double best = 0, near = 0, far = 0;
    for (int id = 1; id <= ROWS; id++) {
        if (!meets(id, q))
            continue;
        p[n] = (struct part){.id = id, .bm25 = bm25_of(id, q),
                             .measured = q->has_vector && rows[id].has_vector};
        if (p[n].measured)
            p[n].distance = distance_of(q->vector, rows[id].vector, false);
        n++;
    }
    qsort(p, (size_t)n, sizeof *p, by_bm25);
    for (; n_text < n && n_text < q->candidates && p[n_text].bm25 > 0; n_text++)
        p[n_text].text_rank = n_text + 1;
    best = n_text ? p[0].bm25 : 0;
    qsort(p, (size_t)n, sizeof *p, by_distance);
    for (; n_vector < n && n_vector < q->candidates && p[n_vector].measured; n_vector++)
        p[n_vector].vector_rank = n_vector + 1;
    near = n_vector ? p[0].distance : 0;
    far = n_vector ? p[n_vector - 1].distance : 0;
    double vector = !q->n_words ? 1 : q->has_vector ? q->weight : 0;
    int count = 0;
    for (int i = 0; i < n; i++) {
        struct part *x = &p[i];
        if (!x->text_rank && !x->vector_rank) {
            x->score = -1;
            continue;
        }
        count++;
        x->w = best > 0 ? x->bm25 / best : 0;
        x->v = !x->measured ? 0 : fmax(0, (far - x->distance) / (far - near));
        double a = x->vector_rank ? 1 / (q->rrf_k + x->vector_rank) : 0,
               b = x->text_rank ? 1 / (q->rrf_k + x->text_rank) : 0;
        x->score = q->rrf ? vector * a + (1 - vector) * b : vector * x->v + (1 - vector) * x->w;
    }
    qsort(p, (size_t)n, sizeof *p, by_score);
    return count;
}

/* ---- hybrid --------------------------------------------------------------------------------- */

static void check_hybrid(sqlite3 *db, const struct query *q, const char *name)
{
    static struct part want[ROWS];
    int count = model(q, want), n = count < q->k ? count : q->k, i = 0;
    char text[100] = "";
    sqlite3_stmt *st;
    for (int t = 0; t < q->n_words; t++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s! ", vocabulary[q->words[t]]);
    CHECK_EQ(sqlite3_prepare_v2(db, "SELECT id, score, text_score, vector_score, bm25, distance, "
                                    "text_rank, vector_rank, rank FROM hybrid('docs', ?1, ?2, ?3, "
                                    "?4) WHERE method = ?5 AND weight = ?6 AND candidates = ?7 AND "
                                    "rrf_k = ?8", -1, &st, NULL), SQLITE_OK);
    if (q->n_words)
        sqlite3_bind_text(st, 1, text, -1, SQLITE_STATIC);
    if (q->has_vector)
        sqlite3_bind_blob(st, 2, q->vector, sizeof q->vector, SQLITE_STATIC);
    sqlite3_bind_int(st, 3, q->k);
    char where[60];
    snprintf(where, sizeof where, "%s%d", q->k % 2 ? "grp >= " : "+grp >= ", q->least_group);
    sqlite3_bind_text(st, 4, where, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 5, q->rrf ? "RRF" : "sum", -1, SQLITE_STATIC);
    sqlite3_bind_double(st, 6, q->weight);
    sqlite3_bind_int(st, 7, q->candidates);
    sqlite3_bind_double(st, 8, q->rrf_k);
    int rc;
    for (; (rc = sqlite3_step(st)) == SQLITE_ROW; i++) {
        CHECKF(i < n, "%s: more than %d rows", name, n);
        const struct part *w = &want[i];
        int id = sqlite3_column_int(st, 0);
        CHECKF(id == w->id, "%s, row %d: id %d, want %d (%g, %g)", name, i, id, w->id,
               sqlite3_column_double(st, 1), w->score);
        const double wanted[] = {w->score, w->w, w->v, w->bm25, w->distance};
        for (int c = 0; c < 5; c++)
            CHECKF(fabs(sqlite3_column_double(st, c + 1) - wanted[c]) < 2e-6 * (1 + wanted[c]),
                   "%s, row %d, id %d: %s is %.9g, want %.9g", name, i, id,
                   sqlite3_column_name(st, c + 1), sqlite3_column_double(st, c + 1), wanted[c]);
        CHECK_EQ(sqlite3_column_int(st, 6), w->text_rank);
        CHECK_EQ(sqlite3_column_int(st, 7), w->vector_rank);
        CHECK_EQ(sqlite3_column_type(st, 4) == SQLITE_NULL, w->bm25 == 0);
        CHECK_EQ(sqlite3_column_type(st, 5) == SQLITE_NULL, !w->measured);
        CHECK_EQ(sqlite3_column_int(st, 8), i + 1);
    }
    CHECKF(rc == SQLITE_DONE, "%s: %s", name, sqlite3_errmsg(db));
    CHECKF(i == n, "%s: %d rows, want %d", name, i, n);
    sqlite3_finalize(st);
}

TEST(hybrid_is_the_formula_over_all_rows)
{
    struct test_rng rng = {12};
    sqlite3 *db = make_db("l2");
    for (int i = 0; i < 120; i++) {
        struct query q = {.n_words = (int)test_below(&rng, 4),
                          .has_vector = test_below(&rng, 4) > 0,
                          .least_group = (int)test_below(&rng, 3) * 12, .rrf = test_below(&rng, 2),
                          .weight = (double)test_below(&rng, 11) / 10,
                          .rrf_k = (double)test_below(&rng, 3) * 30,
                          .k = 1 + (int)test_below(&rng, 40)};
        q.candidates = q.k + (int)test_below(&rng, 100);
        for (int t = 0; t < q.n_words; t++) {
            q.words[t] = (int)test_below(&rng, TERMS);
            for (int j = 0; j < t; j++) /* each once, as the function has it */
                if (q.words[j] == q.words[t])
                    q.words[t] = (q.words[t] + 1) % TERMS, j = -1;
        }
        for (int d = 0; d < DIM; d++)
            q.vector[d] = (float)test_normal(&rng);
        q.has_vector = q.has_vector || q.n_words == 0;
        char name[120];
        snprintf(name, sizeof name, "query %d (%d words, vector %d, %s, weight %g, k %d of %d)", i,
                 q.n_words, q.has_vector, q.rrf ? "rrf" : "sum", q.weight, q.k, q.candidates);
        check_hybrid(db, &q, name);
    }
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

static bool ask(sqlite3 *db, const char *sql, char *out, size_t size)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    const char *text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0)
                                        : sqlite3_errmsg(db);
    snprintf(out, size, "%s", text ? text : "NULL");
    sqlite3_finalize(st);
    return rc == SQLITE_ROW;
}

static void check_answer(sqlite3 *db, const char *sql, const char *want)
{
    char got[2000];
    CHECKF(ask(db, sql, got, sizeof got), "%s: %s", sql, got);
    CHECKF(strcmp(got, want) == 0, "%s: got %s, want %s", sql, got, want);
}

static void check_refused(sqlite3 *db, const char *sql, const char *says)
{
    char got[2000];
    CHECKF(!ask(db, sql, got, sizeof got), "%s: got %s", sql, got);
    CHECKF(strstr(got, says), "%s: \"%s\" lacks \"%s\"", sql, got, says);
}

static sqlite3 *small_db(const char *options)
{
    sqlite3 *db = open_db(test_path("s.db"));
    char sql[300];
    must(db, "CREATE TABLE docs(id INTEGER PRIMARY KEY, body TEXT, url TEXT UNIQUE, grp, embedding "
             "BLOB); INSERT INTO docs VALUES (1, 'the red cat', 'u1', 'x', vec_f32('[1,0]')), (2, "
             "'a blue dog', 'u2', 'x', vec_f32('[0.9,0.1]')), (3, 'a red fox', 'u3', 'y', "
             "vec_f32('[0,1]')), (4, NULL, 'u4', NULL, vec_f32('[-1,0]'))");
    snprintf(sql, sizeof sql, "SELECT mneme_index('docs', 'embedding', '%s')", options);
    must(db, sql);
    return db;
}

#define IDS(from) "SELECT group_concat(id) FROM (SELECT id FROM " from " ORDER BY rank)"

TEST(hybrid_sees_every_change_and_what_is_uncommitted)
{
    sqlite3 *db = small_db("metric=cosine fts=body");
    check_answer(db, IDS("hybrid('docs', 'red', '[0,1]', 2)"), "3,1");
    must(db, "BEGIN; REPLACE INTO docs VALUES (9, 'red red red', 'u1', 'z', vec_f32('[0,1]'))");
    check_answer(db, IDS("hybrid('docs', 'red', '[0,1]', 3)"), "9,3,2");
    must(db, "ROLLBACK");
    check_answer(db, IDS("hybrid('docs', 'red', '[0,1]', 2)"), "3,1");
    must(db, "UPDATE docs SET body = 'green' WHERE id = 3; DELETE FROM docs WHERE id = 1");
    check_answer(db, IDS("hybrid('docs', 'red', NULL)"), "NULL");
    check_answer(db, IDS("hybrid('docs', 'green', NULL)"), "3");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(hybrid_takes_text_as_people_write_it)
{
    sqlite3 *db = small_db("fts=body");
    check_answer(db, IDS("hybrid('docs', 'AND (red* OR \"fox', NULL)"), "3,1");
    check_answer(db, IDS("hybrid('docs', '', NULL)"), "NULL");
    check_answer(db, IDS("hybrid('docs', '?!', NULL)"), "NULL");
    check_answer(db, IDS("hybrid('docs', 'body:red', NULL)"), "NULL");
    check_answer(db, IDS("hybrid('docs', '', '[1,0]', 2)"), "1,2");
    /* several in one statement, and in any order of the FROM clause */
    check_answer(db, "SELECT group_concat(q.value || h.id) FROM json_each('[\"red\",\"dog\"]') q, "
                     "hybrid('docs', q.value, NULL, 1) h", "red1,dog2");
    check_answer(db, "SELECT group_concat(body) FROM docs JOIN hybrid('docs', 'dog', NULL) h ON "
                     "h.id = docs.id", "a blue dog");
    check_answer(db, "SELECT max(score) FROM hybrid('docs', 'red', '[1,0]') WHERE exact = 1",
                 "1.0");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(full_text_comes_and_goes_with_its_functions)
{
    sqlite3 *db = small_db("");
    check_refused(db, "SELECT * FROM hybrid('docs', 'red')", "hybrid('docs'): the collection has "
                  "no full text; SELECT mneme_fts('docs', 'COLUMN,COLUMN') makes it");
    check_answer(db, IDS("hybrid('docs', NULL, '[1,0]', 1)"), "1");
    check_refused(db, "SELECT mneme_fts('docs', 'body,nope')",
                  "full text over 'docs': it has no column 'nope'");
    check_refused(db, "SELECT mneme_fts('docs', '')", "name its columns, as fts=title,body");
    check_refused(db, "SELECT mneme_fts('docs', 'body', 'stem=1')", "mneme_fts: there is no option "
                  "'stem'; there are tokenize, prefix, weights");
    check_refused(db, "SELECT mneme_fts('docs', 'body', 'tokenize=klingon')",
                  "no such tokenizer: klingon");
    check_answer(db, "SELECT count(*) FROM sqlite_master WHERE name LIKE '%fts%'", "0");
    check_answer(db, "SELECT mneme_fts('docs', 'body', 'tokenize=\"porter unicode61\" "
                     "prefix=\"2\"')", "ok");
    check_answer(db, IDS("hybrid('docs', 'cats', NULL)"), "1");
    check_refused(db, "SELECT mneme_fts('docs', 'url')", "'docs' has a full text, 'docs_fts'; "
                  "mneme_fts_drop('docs') removes it");
    must(db, "CREATE UNIQUE INDEX docs_grp ON docs(grp, id)");
    check_refused(db, "SELECT * FROM hybrid('docs', 'red')",
                  "SELECT mneme_fts_rebuild('docs') makes it anew");
    check_answer(db, "SELECT mneme_fts_rebuild('docs')", "ok");
    check_answer(db, IDS("hybrid('docs', 'cats', NULL)"), "1");
    check_answer(db, "SELECT mneme_fts_drop('docs')", "ok");
    check_answer(db, "SELECT count(*) FROM sqlite_master WHERE name LIKE '%fts%'", "0");
    check_refused(db, "SELECT mneme_fts_rebuild('docs')", "'docs' has no full text");
    check_answer(db, "SELECT mneme_fts('docs', 'body')", "ok");
    check_answer(db, "SELECT mneme_unindex('docs')", "1");
    check_answer(db, "SELECT count(*) FROM sqlite_master WHERE name LIKE '%fts%'", "0");
    must(db, "CREATE TABLE docs_fts(x)");
    check_refused(db, "SELECT mneme_index('docs', 'embedding', 'fts=body')",
                  "full text over 'docs' needs the names 'docs_fts' and 'mneme_docs_fts_old'");
    check_refused(db, "SELECT * FROM knn('docs', '[1,0]')", "docs"); /* nor is there an index */
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(verify_looks_at_full_text_too)
{
    sqlite3 *db = small_db("fts=body");
    check_answer(db, "SELECT mneme_verify()", "ok");
    must(db, "INSERT INTO docs_fts(docs_fts, rowid, body) VALUES ('delete', 1, 'the red cat')");
    check_answer(db, "SELECT mneme_verify()", "docs: the full text 'docs_fts' differs from its "
                     "table; SELECT mneme_fts_rebuild(...) makes it anew");
    check_answer(db, "SELECT mneme_fts_rebuild('docs')", "ok");
    check_answer(db, "SELECT mneme_verify()", "ok");
    must(db, "CREATE UNIQUE INDEX docs_body ON docs(body)");
    check_answer(db, "SELECT mneme_verify() LIKE '%docs: full text over ''docs'' (''docs_fts'') is "
                     "out of step: %'", "1");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* An application's SQLite may lack FTS5. */
TEST(a_sqlite_without_fts5_is_told)
{
    sqlite3 *db = small_db("");
    static const char *keep[] = {"mneme", "mneme_guard", "knn", "hybrid", "mmr", "knn_groups",
                                 "pragma_module_list", NULL};
    CHECK_EQ(sqlite3_drop_modules(db, keep), SQLITE_OK);
    check_refused(db, "SELECT mneme_fts('docs', 'body')", "was built without FTS5");
    check_answer(db, IDS("hybrid('docs', NULL, '[1,0]', 1)"), "1");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(what_cannot_be_asked_is_refused)
{
    sqlite3 *db = small_db("fts=body");
    static const struct {
        const char *sql, *says;
    } cases[] = {
        {"hybrid('docs')", "hybrid: the argument 'text' is missing; call it as hybrid('docs', "
                           ":text, :vector, 10)"},
        {"hybrid('docs', NULL, NULL)", "hybrid: the text and the vector are both NULL"},
        {"hybrid(NULL, 'red')", "hybrid: the collection's name is NULL"},
        {"hybrid('dogs', 'red')", "docs"},
        {"hybrid('docs', 5)", "hybrid: text must be a text"},
        {"hybrid('docs', 'red', '[1]')", "hybrid('docs'): the vector has 1 elements, the column 2"},
        {"hybrid('docs', 'red', NULL, -1)", "hybrid: k is '-1'; it must be a whole number from 0"},
        {"hybrid('docs', 'red', NULL, 20000)", "hybrid: k is '20000'"},
        {"hybrid('docs', 'red', NULL, 'x')", "hybrid: k is 'x'"},
        {"hybrid('docs', 'red', NULL, 3, 'nope = 1')", "where 'nope = 1': no such column: nope"},
        {"hybrid('docs', 'red', NULL, 3, '1) LIMIT 0; DELETE FROM docs WHERE (1')", "where '1)"},
        {"hybrid('docs', 'red') WHERE method = 'max'",
         "hybrid: method is 'max'; it may be sum or rrf"},
        {"hybrid('docs', 'red') WHERE weight = 1.5",
         "hybrid: weight is '1.5'; it must be a number from 0 to 1"},
        {"hybrid('docs', 'red', NULL, 5) WHERE candidates = 4",
         "hybrid: candidates is '4'; it must be a whole number from 5 to 10000"},
        {"hybrid('docs', 'red') WHERE recall = 2", "hybrid: recall is '2'"},
        {"mmr('docs')",
         "mmr: the argument 'vector' is missing; call it as mmr('docs', :vector, 10, 0.7)"},
        {"mmr('docs', '[1,0]', 5, 2)", "mmr: lambda is '2'; it must be a number from 0 to 1"},
        {"mmr('docs', '[1,0]', 5) WHERE candidates = 1", "mmr: candidates is '1'"},
        {"knn_groups('docs', '[1,0]', 5)", "knn_groups: the argument 'column' is missing"},
        {"knn_groups('docs', '[1,0]', 5, NULL)", "knn_groups: the column's name is NULL"},
        {"knn_groups('docs', '[1,0]', 5, 'nope')",
         "knn_groups('docs'): the table 'docs' has no column 'nope'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char sql[300];
        snprintf(sql, sizeof sql, "SELECT * FROM %s", cases[i].sql);
        check_refused(db, sql, cases[i].says);
    }
    check_answer(db, "SELECT count(*) FROM hybrid('docs', 'red', '[1,0]', 0)", "0");
    check_answer(db, "SELECT count(*) FROM docs", "4");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* Collections of the C API have text ids, and their texts in the payload. */
TEST(collections_of_the_c_api_have_full_text_too)
{
    mn_db *mdb;
    mn_conn *conn;
    mn_error err;
    const float a[] = {1, 0}, b[] = {0, 1};
    mn_collection_opts opts = {.dim = 2, .id_kind = MN_ID_TEXT};
    const mn_row two[] = {
        {.text_id = "alpha", .vector = a, .payload = "the red cat", .payload_len = SIZE_MAX},
        {.text_id = "beta", .vector = b, .payload = "a blue dog", .payload_len = SIZE_MAX}};
    CHECK_OK(mn_open(test_path("c.db"), NULL, &mdb, &err), err);
    CHECK_OK(mn_connect(mdb, &conn, &err), err);
    CHECK_OK(mn_create(conn, "words", &opts, &err), err);
    CHECK_OK(mn_put(conn, "words", two, 2, NULL, &err), err);
    sqlite3 *db = open_db(test_path("c.db"));
    check_answer(db, "SELECT mneme_fts('words', 'payload')", "ok");
    check_answer(db, IDS("hybrid('words', 'dog', '[1,0]', 1) WHERE weight = 0.2"), "beta");
    const mn_row again = {.text_id = "alpha", .vector = a, .payload = "a green dog dog",
                          .payload_len = SIZE_MAX};
    CHECK_OK(mn_put(conn, "words", &again, 1, NULL, &err), err);
    check_answer(db, IDS("hybrid('words', 'green', NULL)"), "alpha");
    check_answer(db, IDS("hybrid('words', 'red', NULL)"), "NULL");
    check_answer(db, IDS("mmr('words', '[0,1]', 2)"), "beta,alpha");
    check_answer(db, IDS("knn_groups('words', '[0,1]', 2, 'text_id')"), "beta,alpha");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
    mn_disconnect(conn);
    CHECK_OK(mn_close(mdb, &err), err);
}

/* ---- mmr ------------------------------------------------------------------------------------ */

static void check_mmr(sqlite3 *db, const float *q, int k, int candidates, double lambda,
                      bool cosine)
{
    static struct part pool[ROWS];
    static bool taken[ROWS];
    int n = 0;
    for (int id = 1; id <= ROWS; id++)
        if (rows[id].has_vector)
            pool[n++] = (struct part){.id = id, .measured = true,
                                      .distance = distance_of(q, rows[id].vector, cosine)};
    qsort(pool, (size_t)n, sizeof *pool, by_distance);
    n = n < candidates ? n : candidates;
    memset(taken, 0, sizeof taken);
    sqlite3_stmt *st;
    CHECK_EQ(sqlite3_prepare_v2(db, "SELECT id, distance, nearest, score, rank FROM mmr('docs', ?, "
                                    "?, ?) WHERE candidates = ?", -1, &st, NULL), SQLITE_OK);
    sqlite3_bind_blob(st, 1, q, DIM * sizeof *q, SQLITE_STATIC);
    sqlite3_bind_int(st, 2, k);
    sqlite3_bind_double(st, 3, lambda);
    sqlite3_bind_int(st, 4, candidates);
    for (int step = 0; step < k && step < n; step++) {
        int best = -1;
        double score = 0, nearest = 0;
        for (int i = 0; i < n; i++) {
            double near = INFINITY;
            for (int j = 0; j < n; j++)
                if (taken[j])
                    near = fmin(near, distance_of(rows[pool[i].id].vector, rows[pool[j].id].vector,
                                                  cosine));
            double s = (step ? (1 - lambda) * near : 0) - lambda * pool[i].distance;
            if (!taken[i] && (best < 0 || (step ? s > score + 1e-7 : pool[i].distance <
                                                                         pool[best].distance))) {
                best = i;
                score = s;
                nearest = near;
            }
        }
        taken[best] = true;
        CHECKF(sqlite3_step(st) == SQLITE_ROW, "%s", sqlite3_errmsg(db));
        CHECK_EQ(sqlite3_column_int(st, 0), pool[best].id);
        CHECK_NEAR(sqlite3_column_double(st, 1), pool[best].distance, 1e-5);
        CHECK_EQ(sqlite3_column_type(st, 2) == SQLITE_NULL, step == 0);
        CHECK_NEAR(sqlite3_column_double(st, 2), step ? nearest : 0, 1e-5);
        CHECK_NEAR(sqlite3_column_double(st, 3), score, 1e-5);
        CHECK_EQ(sqlite3_column_int(st, 4), step + 1);
    }
    CHECK_EQ(sqlite3_step(st), SQLITE_DONE);
    sqlite3_finalize(st);
}

TEST(mmr_is_the_formula_over_the_candidates)
{
    for (int cosine = 0; cosine < 2; cosine++) {
        struct test_rng rng = {13};
        sqlite3 *db = make_db(cosine ? "cosine" : "l2");
        for (int i = 0; i < 8; i++) {
            float q[DIM];
            for (int d = 0; d < DIM; d++)
                q[d] = (float)test_normal(&rng);
            int k = 1 + (int)test_below(&rng, 12);
            check_mmr(db, q, k, k + (int)test_below(&rng, 60), (double)i / 7, cosine);
        }
        CHECK_EQ(sqlite3_close(db), SQLITE_OK);
        CHECK_EQ(remove(test_path("h.db")), 0);
        remove(test_path("h.db-mneme"));
    }
}

TEST(mmr_works_for_every_type_and_metric)
{
    static const char *const columns[] = {"float16[8] metric=ip", "bfloat16[8]", "int8[8]",
                                          "bit[8]", "float[8] metric=cosine"};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        char sql[400];
        sqlite3 *db = open_db(":memory:");
        snprintf(sql, sizeof sql, "CREATE VIRTUAL TABLE t USING mneme(v %s, g); INSERT INTO t(id, "
                 "v, g) VALUES (1, '[1,1,1,1,0,0,0,0]', 1), (2, '[1,1,1,0,0,0,0,0]', 1), (3, "
                 "'[0,0,0,0,1,1,1,1]', 2), (4, '[0,0,0,0,1,1,1,1]', 2)", columns[i]);
        must(db, sql);
        check_answer(db, IDS("mmr('t', '[1,1,1,1,0,0,0,0]', 2, 0.3)"), "1,3");
        check_answer(db, IDS("mmr('t', '[1,1,1,1,0,0,0,0]', 2, 1)"), "1,2");
        check_answer(db, IDS("mmr('t', '[1,1,1,1,0,0,0,0]', 3, 1, 'g = 1')"), "1,2");
        check_answer(db, IDS("knn_groups('t', '[1,1,1,1,0,0,0,0]', 2, 'g')"), "1,3");
        CHECK_EQ(sqlite3_close(db), SQLITE_OK);
    }
}

/* ---- knn_groups ----------------------------------------------------------------------------- */

TEST(groups_are_the_best_row_of_each)
{
    struct test_rng rng = {14};
    sqlite3 *db = make_db("l2");
    for (int i = 0; i < 20; i++) {
        float q[DIM];
        struct part best[30];
        int k = 1 + (int)test_below(&rng, 32);
        for (int d = 0; d < DIM; d++)
            q[d] = (float)test_normal(&rng);
        for (int g = 0; g < 30; g++)
            best[g] = (struct part){.id = 0};
        for (int id = 1; id <= ROWS; id++) {
            struct part *b = &best[rows[id].group];
            double d = distance_of(q, rows[id].vector, false);
            if (rows[id].has_vector && (!b->measured || d < b->distance))
                *b = (struct part){.id = id, .distance = d, .measured = true};
        }
        qsort(best, 30, sizeof *best, by_distance);
        sqlite3_stmt *st;
        CHECK_EQ(sqlite3_prepare_v2(db, "SELECT id, distance, value FROM knn_groups('docs', ?, ?, "
                                        "'grp')", -1, &st, NULL), SQLITE_OK);
        sqlite3_bind_blob(st, 1, q, sizeof q, SQLITE_STATIC);
        sqlite3_bind_int(st, 2, k);
        for (int g = 0; g < k && g < 30; g++) {
            CHECKF(sqlite3_step(st) == SQLITE_ROW, "%s", sqlite3_errmsg(db));
            CHECK_EQ(sqlite3_column_int(st, 0), best[g].id);
            CHECK_NEAR(sqlite3_column_double(st, 1), best[g].distance, 1e-5);
            CHECK_EQ(sqlite3_column_int(st, 2), rows[best[g].id].group);
        }
        CHECK_EQ(sqlite3_step(st), SQLITE_DONE);
        sqlite3_finalize(st);
    }
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(groups_of_any_value_are_found_however_large_the_first_is)
{
    sqlite3 *db = open_db(":memory:");
    must(db, "CREATE VIRTUAL TABLE t USING mneme(id INTEGER PRIMARY KEY, v float[1], g);"
             "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) "
             "INSERT INTO t(id, v, g) SELECT i, vec_f32('[' || i || ']'), 'many' FROM n;"
             "INSERT INTO t(id, v, g) VALUES (20001, '[20001]', 1), (20002, '[20002]', 1.0), "
             "(20003, '[20003]', '1'), (20004, '[20004]', x'31'), (20005, '[20005]', NULL), "
             "(20006, '[20006]', NULL), (20007, '[20007]', 0.0), (20008, '[20008]', -0.0), (20009, "
             "'[20009]', '')");
    check_answer(db, IDS("knn_groups('t', '[0]', 10, 'g')"),
                 "1,20001,20003,20004,20005,20007,20009");
    check_answer(db, IDS("knn_groups('t', '[0]', 3, 'g')"), "1,20001,20003");
    check_answer(db, IDS("knn_groups('t', '[0]', 3, 'g', 'id > 20002')"), "20003,20004,20005");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* ---- Vectors that tell their type ----------------------------------------------------------- */

TEST(vectors_that_tell_their_type_are_converted_or_refused)
{
    sqlite3 *db = open_db(":memory:");
    must(db, "CREATE VIRTUAL TABLE t USING mneme(f float[2], h float16[4], i int8[2], b bit[8]);"
             "INSERT INTO t(id, f, h, i, b) VALUES (1, vec_f16('[1,2]'), vec_int8('[1,2,3,4]'), "
             "vec_f32('[5,6]'), vec_bit(x'0f')), (2, vec_bf16('[3,4]'), vec_f32('[0,0,0,1]'), "
             "vec_f16('[7,8]'), vec_quantize_binary('[1,1,1,1,1,1,1,1]'))");
    check_answer(db, "SELECT vec_to_json(f) || vec_to_json(h) || vec_to_json(i) || vec_to_json(b) "
                     "FROM t WHERE id = 1",
                 "[1.000000,2.000000][1,2,3,4][5,6][1,1,1,1,0,0,0,0]");
    check_answer(db, "SELECT id FROM t WHERE i MATCH vec_f16('[7,7]') AND k = 1", "2");
    check_answer(db, "SELECT id FROM t WHERE f MATCH vec_int8('[1,1]') AND k = 1", "1");
    check_answer(db, "SELECT id FROM knn('t', vec_bf16('[4,4]'), 1)", "2");
    /* a vector out of another table's column */
    check_answer(db, "SELECT b.id FROM t a JOIN t b ON b.f MATCH a.i AND b.k = 1 WHERE a.id = 1",
                 "2");
    check_answer(db, "SELECT group_concat(q.rowid || d.id) FROM vec_npy_each(vec_to_npy(vec_f16("
                     "'[3,4]'))) q JOIN t d ON d.f MATCH q.vector AND d.k = 1", "02");
    check_refused(db, "INSERT INTO t(f) VALUES (vec_f16('[1,2,3,4]'))",
                  "t.f: the vector has 4 elements, the column 2");
    check_refused(db, "INSERT INTO t(f) VALUES (vec_bit(x'0102030405060708'))",
                  "t.f: the vector has 64 elements, the column 2");
    check_refused(db, "SELECT id FROM t WHERE b MATCH vec_int8('[1,0,1,0,1,0,1,0]') AND k = 1",
                  "the vector is of i8, the column of bit: neither is made of the other");
    check_refused(db, "INSERT INTO t(i) VALUES (vec_f32('[500,1]'))", "-128 to 127");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* ---- Full-text columns ---------------------------------------------------------------------- */

static sqlite3 *text_table(void)
{
    sqlite3 *db = open_db(test_path("t.db"));
    must(db, "CREATE VIRTUAL TABLE docs USING mneme(id INTEGER PRIMARY KEY, v float[2] "
             "metric=cosine, title TEXT, url TEXT UNIQUE, +body TEXT, words FTS(title, body, "
             "tokenize='porter unicode61', weights='5,1'));"
             "INSERT INTO docs VALUES (1, '[1,0]', 'Red cats', 'u1', 'sat on a mat'), (2, "
             "'[0.9,0.1]', 'Dogs', 'u2', 'ran after the cat'), (3, '[0,1]', 'Foxes', 'u3', 'are "
             "red'), (4, NULL, 'Red', 'u4', NULL)");
    return db;
}

TEST(a_full_text_column_is_searched_alone_and_with_vectors)
{
    sqlite3 *db = text_table();
    check_answer(db, "SELECT group_concat(id) FROM docs WHERE words MATCH 'cat'", "1,2");
    check_answer(db, "SELECT group_concat(id) FROM docs WHERE words MATCH 'cat NOT title:red'",
                 "2");
    check_answer(db, "SELECT group_concat(id) FROM docs WHERE words MATCH 'red' AND url > 'u2'",
                 "3,4");
    check_answer(db, "SELECT group_concat(id) FROM docs WHERE words MATCH 'fox' OR url = 'u1'",
                 "3,1");
    check_answer(db, "SELECT group_concat(id) FROM docs WHERE v MATCH '[0,1]' AND k = 2 AND words "
                     "MATCH 'red'", "3,1");
    check_answer(db, "SELECT group_concat(id) FROM docs WHERE v MATCH '[0,1]' AND k = 2 AND words "
                     "MATCH 'red' AND id IN (1, 2, 4)", "1");
    check_answer(db, "SELECT group_concat(id) FROM docs WHERE id IN (1, 2) AND words MATCH 'cat' "
                     "AND words MATCH 'dog' AND v MATCH '[0,1]' AND k = 5", "2");
    check_answer(db, "SELECT group_concat(id) FROM (SELECT id FROM docs WHERE v MATCH '[1,0]' AND "
                     "words MATCH 'red OR cat' ORDER BY distance LIMIT 2 OFFSET 1)", "2,3");
    check_answer(db, "SELECT count(*) FROM docs WHERE v MATCH '[1,0]' AND words MATCH 'nothing' "
                     "AND k = 5", "0");
    check_answer(db, "SELECT group_concat(d.id) FROM json_each('[\"dog\",\"fox\"]') q JOIN docs d "
                     "ON d.words MATCH q.value", "2,3");
    check_answer(db, IDS("hybrid('docs', 'cats and dogs', '[1,0]', 2)"), "2,1");
    check_answer(db, "SELECT snippet(docs_words, 1, '[', ']', '', 5) FROM docs_words WHERE "
                     "docs_words MATCH 'cats' ORDER BY rank LIMIT 1 OFFSET 1",
                 "ran after the [cat]");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(a_full_text_column_follows_its_table)
{
    sqlite3 *db = text_table();
    must(db, "INSERT OR REPLACE INTO docs(id, title, url) VALUES (9, 'Owls', 'u1')");
    check_answer(db, "SELECT group_concat(id) FROM docs WHERE words MATCH 'cat OR owl'", "2,9");
    must(db, "BEGIN; UPDATE docs SET title = 'Hens' WHERE id = 9; DELETE FROM docs WHERE id = 2");
    check_answer(db, "SELECT group_concat(id) FROM docs WHERE words MATCH 'cat OR owl OR hen'",
                 "9");
    must(db, "ROLLBACK; ALTER TABLE docs RENAME TO notes");
    check_answer(db, "SELECT group_concat(id) FROM notes WHERE words MATCH 'cat OR owl'", "2,9");
    check_answer(db, IDS("hybrid('notes', 'cats', '[1,0]', 1)"), "2");
    check_answer(db, "SELECT count(*) FROM sqlite_master WHERE name LIKE 'docs%'", "0");
    check_answer(db, "SELECT group_concat(title) FROM notes_words WHERE notes_words MATCH 'owl'",
                 "Owls");
    must(db, "CREATE VIRTUAL TABLE docs USING mneme(v float[2], +body TEXT, words FTS(body)); "
             "INSERT INTO docs(body) VALUES ('owls'); DROP TABLE docs");
    check_answer(db, "SELECT mneme_fts_rebuild('notes')", "ok");
    must(db, "INSERT INTO notes_words(notes_words, rank) VALUES ('integrity-check', 1)");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
    CHECK(sqlite3_open(test_path("t.db"), &db) == SQLITE_OK); /* without Mneme */
    sqlite3_busy_timeout(db, 10000);
    must(db, "INSERT INTO notes_rows(id, title, url) VALUES (20, 'Bees', 'u2')"
             " ON CONFLICT (url) DO UPDATE SET title = excluded.title");
    must(db, "INSERT INTO notes_words(notes_words, rank) VALUES ('integrity-check', 1)");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
    db = open_db(test_path("t.db"));
    check_answer(db, "SELECT group_concat(id) FROM notes WHERE words MATCH 'dog OR bee'", "2");
    must(db, "DROP TABLE notes");
    check_answer(db, "SELECT count(*) FROM sqlite_master WHERE name LIKE 'notes%'", "0");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(no_function_sees_rows_whose_time_is_over)
{
    sqlite3 *db = open_db(test_path("e.db"));
    must(db, "CREATE VIRTUAL TABLE t USING mneme(v float[2], g, expires INTEGER TTL, +body TEXT, "
             "words FTS(body)); INSERT INTO t(id, v, g, expires, body) VALUES "
             "(1, '[1,0]', 'a', 1000, 'cat'), (2, '[2,0]', 'a', NULL, 'cat'), "
             "(3, '[3,0]', 'b', 99999999999, 'cat'), (4, '[4,0]', 'b', unixepoch() - 1, 'cat')");
    for (int again = 0; again < 2; again++) {
        check_answer(db, IDS("knn('t', '[0,0]')"), "2,3");
        check_answer(db, IDS("hybrid('t', 'cat', '[0,0]')"), "2,3");
        check_answer(db, IDS("hybrid('t', 'cat', NULL)"), "2,3");
        check_answer(db, IDS("hybrid('t', NULL, '[0,0]')"), "2,3");
        check_answer(db, IDS("mmr('t', '[0,0]', 5, 1)"), "2,3");
        check_answer(db, IDS("knn_groups('t', '[0,0]', 5, 'g')"), "2,3");
        check_answer(db, "SELECT group_concat(id) FROM t WHERE words MATCH 'cat'", "2,3");
        CHECK_EQ(sqlite3_close(db), SQLITE_OK);
        db = open_db(test_path("e.db")); /* now the table is not connected yet */
    }
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST(a_full_text_column_that_cannot_be_is_refused)
{
    static const struct {
        const char *sql, *says;
    } cases[] = {
        {"words FTS(nope)", "column 'words': there is no column 'nope' with text; declare it, as "
                            "+nope TEXT"},
        {"words FTS(v)", "there is no column 'v' with text"},
        {"words FTS()", "column 'words': FTS() names no column"},
        {"words FTS(body) x",
         "'words FTS(body) x' is no full text: write it as words FTS(title, body)"},
        {"words FTS(body, stem=1)",
         "column 'words': there is no option 'stem'; there are tokenize, prefix, weights"},
        {"words FTS(body, tokenize='klingon')", "no such tokenizer: klingon"},
        {"words FTS(body), more FTS(body)", "two columns are FTS: 'more' is the second"},
        {"body FTS(body)", "column 'body' stands twice"},
    };
    sqlite3 *db = text_table();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char sql[300];
        snprintf(sql, sizeof sql, "CREATE VIRTUAL TABLE t USING mneme(v float[2], body TEXT, %s)",
                 cases[i].sql);
        check_refused(db, sql, cases[i].says);
    }
    check_answer(db, "SELECT count(*) FROM sqlite_master WHERE name LIKE 't\\_%' ESCAPE '\\'", "0");
    check_refused(db, "SELECT * FROM docs WHERE words = 'cat'",
                  "docs.words is full text: it takes MATCH, and nothing else");
    check_refused(db, "SELECT * FROM docs WHERE words MATCH 'a b\"'", "unterminated string");
    check_refused(db, "SELECT * FROM docs WHERE words MATCH 'nope:a' AND v MATCH '[1,0]' AND k = 1",
                  "no such column: nope");
    check_refused(db, "SELECT * FROM docs WHERE title MATCH 'a'",
                  "docs.title is no vector and no full-text column");
    check_refused(db, "INSERT INTO docs(v, words) VALUES ('[1,0]', 'x')",
                  "docs.words is the full text of other columns, and nothing is stored in it");
    check_refused(db, "UPDATE docs SET words = 'x'", "docs.words is the full text");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* ---- Memory --------------------------------------------------------------------------------- */

TEST(memory_that_runs_out_is_said)
{
    static const char *const statements[] = {
        IDS("hybrid('docs', 'red cat', '[1,0]', 3, 'grp = ''x''')"), IDS("mmr('docs', '[1,0]', 3)"),
        IDS("knn_groups('docs', '[1,0]', 3, 'grp')")};
    sqlite3_shutdown();
    CHECK(oom_install());
    sqlite3 *db = small_db("fts=body");
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        char want[300];
        CHECKF(ask(db, statements[i], want, sizeof want), "%s", want);
        for (uint64_t n = 1;; n++) {
            sqlite3_stmt *st = NULL;
            oom_arm(n, false);
            int rc = sqlite3_prepare_v2(db, statements[i], -1, &st, NULL);
            if (rc == SQLITE_OK)
                rc = sqlite3_step(st);
            const char *got = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
            bool fired = oom_fired() > 0;
            oom_arm(0, false);
            if (rc == SQLITE_ROW)
                CHECKF(got ? strcmp(got, want) == 0 : fired, "%s, allocation %d: %s, want %s",
                       statements[i], (int)n, got ? got : "NULL", want);
            else
                CHECKF(rc == SQLITE_NOMEM, "%s, allocation %d: code %d, %s", statements[i], (int)n,
                       rc, sqlite3_errmsg(db));
            sqlite3_finalize(st);
            if (!fired)
                break;
        }
    }
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

/* Making full text succeeds, or leaves nothing. */
TEST(full_text_that_memory_cuts_short_leaves_nothing)
{
    static const char *const statements[] = {
        "SELECT mneme_fts('docs', 'body', 'prefix=2 weights=3')",
        "CREATE VIRTUAL TABLE t USING mneme(v float[2], +body TEXT, words FTS(body))"};
    static const char *const undo[] = {"SELECT mneme_fts_drop('docs')", "DROP TABLE t"};
    sqlite3_shutdown();
    CHECK(oom_install());
    sqlite3 *db = small_db("");
    for (size_t i = 0; i < 2; i++) {
        for (uint64_t n = 1;; n += 1 + n / 50) {
            char *message = NULL;
            oom_arm(n, false);
            int rc = sqlite3_exec(db, statements[i], NULL, NULL, &message);
            bool fired = oom_fired() > 0;
            oom_arm(0, false);
            /* SQLite cannot undo before the SELECT that called the function is over: then the next
             * call does, and says so. */
            bool told = message && strstr(message, "an earlier failure rolled it back");
            CHECKF(rc == SQLITE_OK || rc == SQLITE_NOMEM || told, "%s, allocation %d: code %d, %s",
                   statements[i], (int)n, rc, message);
            sqlite3_free(message);
            if (told)
                continue;
            if (rc == SQLITE_OK)
                must(db, undo[i]);
            char left[300];
            if (!sqlite3_get_autocommit(db))
                continue;
            CHECK(ask(db, "SELECT group_concat(name) FROM sqlite_master WHERE name LIKE '%fts%' OR "
                          "name GLOB 't_*' OR name GLOB 'mneme_t_*' OR name GLOB 'mneme_text*'",
                      left, sizeof left));
            CHECKF(strcmp(left, "NULL") == 0, "%s, allocation %d: %s is left", statements[i],
                   (int)n, left);
            if (!fired)
                break;
        }
    }
    check_answer(db, "SELECT mneme_verify()", "ok");
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
}

TEST_MAIN
