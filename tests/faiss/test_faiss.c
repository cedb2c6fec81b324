/* FAISS beside Mneme: files that FAISS writes and reads, its k-means as trainer, its exact search
 * against ours. Needs the plugin, which tools/faiss builds; without it only what is said then is
 * looked at, and the rest is skipped. */
#include "tests/test.h"

#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mneme.h"
#include "src/faiss/load.h"
#include "src/faiss/truth.h"
#include "src/formats/formats.h"
#include "storage/base/bytes.h"

static mn_error err;

static const struct faiss_plugin *need_plugin(void)
{
    const struct faiss_plugin *p;
    mn_error why = {0};
    mn_status st = faiss_load(&p, &why);
    if (st == MN_NOTFOUND)
        test_skip("%s", why.message);
    CHECK_OK(st, why);
    p->set_threads(1);
    return p;
}

/* ---- Files ---------------------------------------------------------------------------------- */

static char *slurp(const char *name, size_t *len)
{
    FILE *f = fopen(test_path(name), "rb");
    CHECKF(f != NULL, "%s cannot be opened", name);
    CHECK(fseek(f, 0, SEEK_END) == 0);
    *len = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*len + 1);
    CHECK(bytes && fread(bytes, 1, *len, f) == *len);
    bytes[*len] = 0;
    fclose(f);
    return bytes;
}

static void spill(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(test_path(name), "wb");
    CHECK(f != NULL && fwrite(bytes, 1, n, f) == n);
    CHECK(fclose(f) == 0);
}

/* Runs a command in the test's folder, the built programs first on PATH. Both streams. */
static char output[1 << 16];

static int in_shell(const char *command)
{
    char script[4096];
    size_t len;
    int n = snprintf(script, sizeof script, "cd '%s' && PATH='%s':\"$PATH\" && (%s) >out.txt 2>&1",
                     test_dir(), MNEME_BUILD_DIR, command);
    CHECK(n > 0 && n < (int)sizeof script);
    int status = system(script);
    CHECK(status != -1 && WIFEXITED(status));
    char *bytes = slurp("out.txt", &len);
    snprintf(output, sizeof output, "%s", bytes);
    free(bytes);
    return WEXITSTATUS(status);
}

__attribute__((format(printf, 2, 3))) static void run(int code, const char *format, ...)
{
    char command[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    int got = in_shell(command);
    CHECKF(got == code, "`%s` ended with %d, want %d: %s", command, got, code, output);
}

/* Row i of dim elements, none of them zero or round. */
static void fill(float *x, size_t n, uint32_t dim, uint64_t seed)
{
    struct test_rng r = {seed};
    for (size_t i = 0; i < n * dim; i++)
        x[i] = (float)test_normal(&r) + 1e-4f;
}

/* A file that FAISS has written, of n rows; ids 10, 13, 16, ... if there are any. */
static void faiss_file(const char *name, const float *x, size_t n, uint32_t dim, mn_metric metric,
                       bool ids)
{
    const struct faiss_plugin *p = need_plugin();
    struct faiss_flat *f;
    int64_t *numbers = malloc((n + 1) * sizeof *numbers);
    for (size_t i = 0; i < n; i++)
        numbers[i] = 10 + 3 * (int64_t)i;
    CHECK_OK(p->create(dim, metric, ids, &f, &err), err);
    CHECK_OK(p->add(f, x, ids ? numbers : NULL, n, &err), err);
    FILE *out = fopen(test_path(name), "wb");
    CHECK(out != NULL);
    CHECK_OK(p->write(f, out, &err), err);
    CHECK(fclose(out) == 0);
    p->destroy(f);
    free(numbers);
}

/* The file as FAISS reads it; the caller destroys *f. */
static struct faiss_content faiss_content_of(const char *name, struct faiss_flat **f)
{
    const struct faiss_plugin *p = need_plugin();
    struct faiss_content c;
    FILE *in = fopen(test_path(name), "rb");
    CHECK(in != NULL);
    CHECK_OK(p->read(in, f, &err), err);
    fclose(in);
    p->content(*f, &c);
    return c;
}

enum { N = 300, DIM = 7 };

/* ---- Import and export ---------------------------------------------------------------------- */

TEST(a_file_that_faiss_wrote_is_imported_bit_for_bit)
{
    static float x[N * DIM];
    static const struct {
        mn_metric metric;
        bool ids;
    } cases[] = {{MN_L2, false}, {MN_IP, false}, {MN_L2, true}, {MN_IP, true}};
    fill(x, N, DIM, 3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *metric = mn_metric_name(cases[i].metric);
        faiss_file("a.faiss", x, N, DIM, cases[i].metric, cases[i].ids);
        run(0, "mneme import a.db c%zu a.faiss", i);
        CHECK_HAS(output, "imported 300 rows of 7 x f32");
        run(0, "mneme info a.db c%zu", i);
        CHECK_HAS(output, metric);
        run(0, "mneme get a.db c%zu %d --quiet", i, cases[i].ids ? 10 + 3 * (N - 1) : N - 1);
        run(0, "mneme export a.db c%zu b.fbin", i);
        size_t len;
        char *bytes = slurp("b.fbin", &len);
        CHECK_EQ(len, 8 + sizeof x);
        CHECK(memcmp(bytes + 8, x, sizeof x) == 0);
        free(bytes);
    }
    /* known by its first bytes too */
    run(0, "mv a.faiss a.idx && mneme import b.db c a.idx && mneme import b.db d - <a.idx");
    run(0, "mneme info b.db d");
    CHECK_HAS(output, "ip");
}

TEST(an_export_is_read_by_faiss_and_imported_bit_for_bit)
{
    static float x[N * DIM];
    static const struct {
        const char *dtype, *metric;
    } cases[] = {{"f32", "l2"}, {"f32", "ip"}, {"f16", "l2"}, {"bf16", "ip"}, {"i8", "l2"}};
    need_plugin();
    fill(x, N, DIM, 4);
    for (size_t i = 0; i < N * DIM; i++)
        x[i] *= 20; /* i8 keeps something of it */
    struct format_writer *w;
    CHECK_OK(format_writer_open(test_path("x.fbin"), NULL, &w, &err), err);
    for (size_t i = 0; i < N; i++)
        CHECK_OK(
            format_writer_put(w, &(struct format_record){.dim = DIM, .vector = x + i * DIM}, &err),
            err);
    CHECK_OK(format_writer_close(w, &err), err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct faiss_flat *f;
        run(0, "rm -f a.db* && mneme import a.db c x.fbin --first-id -40 --dtype %s --metric %s",
            cases[i].dtype, cases[i].metric);
        run(0, "mneme export a.db c a.faiss && mneme export a.db c a.fbin");
        CHECK_HAS(output, "exported 300 rows to a.faiss as faiss");
        struct faiss_content c = faiss_content_of("a.faiss", &f);
        size_t len;
        char *stored = slurp("a.fbin", &len);
        CHECK(c.n == N && c.dim == DIM && c.ids);
        CHECK_STR(mn_metric_name(c.metric), cases[i].metric);
        CHECKF(memcmp(c.vectors, stored + 8, sizeof x) == 0, "%s", cases[i].dtype);
        for (int64_t j = 0; j < N; j++)
            CHECK_EQ(c.ids[j], j - 40);
        need_plugin()->destroy(f);
        free(stored);
        run(0,
            "mneme import a.db again a.faiss --dtype %s && mneme export a.db again b.faiss "
            "&& cmp a.faiss b.faiss",
            cases[i].dtype);
    }
}

TEST(text_ids_go_into_a_file_of_their_own)
{
    struct faiss_flat *f;
    need_plugin();
    spill("w.txt", "north 0 1\neast 1 0\n", 19);
    run(0, "mneme import a.db w w.txt && mneme export a.db w w.faiss --ids ids.txt");
    struct faiss_content c = faiss_content_of("w.faiss", &f);
    CHECK(c.n == 2 && !c.ids);
    need_plugin()->destroy(f);
    run(0, "mneme import a.db again w.faiss --ids ids.txt && mneme get a.db again north --quiet");
    CHECK_HAS(output, "[0, 1]");
}

TEST(cosine_goes_out_at_length_one_and_comes_back_by_ip)
{
    static float x[N * DIM];
    struct faiss_flat *f;
    fill(x, N, DIM, 5);
    faiss_file("x.faiss", x, N, DIM, MN_IP, false);
    run(0, "mneme import a.db c x.faiss --metric cosine && mneme export a.db c u.faiss");
    struct faiss_content c = faiss_content_of("u.faiss", &f);
    CHECK_EQ(c.metric, MN_IP);
    for (size_t i = 0; i < N; i++) {
        double square = 0, dot = 0, own = 0;
        for (size_t d = 0; d < DIM; d++) {
            double u = (double)c.vectors[i * DIM + d], v = (double)x[i * DIM + d];
            square += u * u;
            dot += u * v;
            own += v * v;
        }
        CHECK_NEAR(square, 1, 1e-6);
        CHECK_NEAR(dot, sqrt(own), 1e-5);
    }
    need_plugin()->destroy(f);
    run(0, "mneme import a.db d u.faiss && mneme info a.db d");
    CHECK_HAS(output, "ip");
}

TEST(an_empty_collection_becomes_an_empty_index)
{
    struct faiss_flat *f;
    need_plugin();
    run(0, "mneme create a.db c --dim 5 && mneme export a.db c e.faiss");
    struct faiss_content c = faiss_content_of("e.faiss", &f);
    CHECK(c.n == 0 && c.dim == 5);
    need_plugin()->destroy(f);
    run(3, "mneme import a.db d e.faiss");
    CHECK_HAS(output, "e.faiss holds no vector");
}

/* ---- Wrong files ----------------------------------------------------------------------------- */

/* Reads all of it; what is wrong is in err. */
static mn_status read_bytes(const void *bytes, size_t len, size_t *rows)
{
    struct format_reader *r;
    const struct format_record *rec = NULL;
    err = (mn_error){0};
    *rows = 0;
    mn_status st = format_reader_open_memory(bytes, len, "x.faiss", NULL, &r, &err);
    while (!st && !(st = format_reader_next(r, &rec, &err)) && rec)
        ++*rows;
    format_reader_close(r);
    return st;
}

/* Offsets in a file with an id map: its head, then the flat index. */
enum { MAP_DIM = 4, MAP_N = 8, MAP_TRAINED = 32, MAP_METRIC = 33, FLAT = 37, FLOATS = 74 };

static const struct {
    const char *name;
    size_t at, len;
    const char *bytes, *says;
} damages[] = {
    {"another format", 0, 4, "PK\3\4",
     "is no FAISS index that is known here: it begins with the bytes 50"},
    {"IVF", 0, 4, "IwFl", "is a FAISS index of kind IndexIVFFlat; only flat ones"},
    {"PQ", 0, 4, "IxPq", "of kind IndexPQ;"},
    {"HNSW", 0, 4, "IHNf", "of kind IndexHNSWFlat;"},
    {"transformed", 0, 4, "IxPT", "of kind IndexPreTransform;"},
    {"binary", 0, 4, "IBxF", "of kind IndexBinaryFlat;"},
    {"a map around IVF", FLAT, 4, "IwPQ", "of kind IndexIDMap around IndexIVFPQ;"},
    {"a map around a map", FLAT, 4, "IxMp", "of kind IndexIDMap around IndexIDMap;"},
    {"a map around noise", FLAT, 4, "\1\2\3\4", "it is an id map around one with the bytes 01 02"},
    {"negative number", MAP_N, 8, "\xff\xff\xff\xff\xff\xff\xff\xff", "damaged: -1 vectors"},
    {"vast number", MAP_N, 8, "\xff\xff\xff\xff\xff\xff\xff\x7f", "its id map is of 9,223,372,036"},
    {"another dim", MAP_DIM, 4, "\5\0\0\0", "its id map is of 20 vectors of 5 elements"},
    {"trained 7", MAP_TRAINED, 1, "\7", "trained 7"},
    {"L1", MAP_METRIC, 4, "\2\0\0\0", "has its metric number 2; only 0, the inner product"},
    {"the other metric", MAP_METRIC, 4, "\0\0\0\0", "its id map is of 20"},
    {"ip in an l2 index", FLAT + MAP_METRIC, 4, "\0\0\0\0", "IndexFlatL2 with metric number 0"},
    {"dim 0", FLAT + MAP_DIM, 4, "\0\0\0\0", "damaged: 60 numbers for 20 vectors of 0 elements"},
    {"negative dim", FLAT + MAP_DIM, 4, "\xff\xff\xff\xff", "vectors of -1 elements"},
    {"more floats", FLOATS, 8, "\0\0\0\0\1\0\0\0", "damaged: 4,294,967,296 numbers for 20"},
    {"NaN", FLOATS + 8 + 16, 4, "\0\0\xc0\x7f",
     "record 2 at byte 94: element 1 (counted from 0) is NaN"},
};

TEST(damaged_and_foreign_files_have_their_sentence)
{
    static float x[20 * 3];
    size_t len, rows;
    fill(x, 20, 3, 6);
    faiss_file("good.faiss", x, 20, 3, MN_L2, true);
    char *good = slurp("good.faiss", &len), *bad = malloc(len + 1);
    CHECK_OK(read_bytes(good, len, &rows), err);
    CHECK_EQ(rows, 20);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        memcpy(bad, good, len);
        memcpy(bad + damages[i].at, damages[i].bytes, damages[i].len);
        mn_status st = read_bytes(bad, len, &rows);
        CHECKF(st == MN_INVALID && strstr(err.message, damages[i].says) &&
                   strstr(err.message, "x.faiss"),
               "%s: status %d, %s", damages[i].name, (int)st, err.message);
    }
    memcpy(bad, good, len);
    bad[len] = 0;
    CHECK_EQ(read_bytes(bad, len + 1, &rows), MN_INVALID);
    CHECK_HAS(err.message, "1 too many");
    le64_put(bad + len - 8, 1ull << 63); /* the least int64 means "assign one" in mn_put */
    CHECK_EQ(read_bytes(bad, len, &rows), MN_INVALID);
    CHECK_EQ(rows, 19);
    CHECK_HAS(err.message, "its id is the least int64");
    free(good);
    free(bad);
}

/* FAISS is never shown a file whose lengths are not those of its bytes. */
TEST(every_cut_and_every_changed_byte_of_the_head_ends_well)
{
    static float x[20 * 3];
    size_t len, rows, accepted = 0;
    fill(x, 20, 3, 6);
    for (int ids = 0; ids < 2; ids++) {
        faiss_file("good.faiss", x, 20, 3, MN_L2, ids);
        char *good = slurp("good.faiss", &len);
        for (size_t cut = 0; cut < len; cut++) {
            CHECKF(read_bytes(good, cut, &rows) == MN_INVALID && rows == 0, "cut at %zu", cut);
            CHECK(strlen(err.message) > 20);
        }
        for (size_t at = 0; at < (ids ? FLOATS + 8 : FLAT + 8); at++) {
            char was = good[at];
            for (int value = 0; value < 256; value += at < 4 || at % 8 == 0 ? 1 : 15) {
                good[at] = (char)value;
                mn_status st = read_bytes(good, len, &rows);
                CHECKF(st == MN_OK ? rows == 20 : st == MN_INVALID && *err.message,
                       "byte %zu is %d: status %d, %zu rows", at, value, (int)st, rows);
                accepted += st == MN_OK;
            }
            good[at] = was;
        }
        free(good);
    }
    test_note("%zu changed heads mean the same",
              accepted); /* unused bytes, IndexFlat, the old map */
}

TEST(what_does_not_fit_is_refused)
{
    static float x[N * DIM];
    static const struct {
        int code;
        const char *command, *says;
    } table[] = {
        {3, "mneme import a.db n l2.faiss --metric ip",
         "l2.faiss is an index by l2, and 'n' was to be searched by ip: import it into one of its "
         "own metric; nothing was imported"},
        {3, "mneme import a.db n l2.faiss --metric cosine", "'n' was to be searched by cosine"},
        {3, "mneme import a.db n ip.faiss --metric l2", "is an index by ip"},
        {3, "mneme import a.db n l2.faiss --metric hamming", "l2.faiss does not fit 'n'"},
        {3, "mneme import a.db byip l2.faiss --append",
         "'byip' is searched by ip: import it into another collection; nothing was imported"},
        {3, "mneme import a.db n - <l2.faiss --metric ip", "is an index by l2"},
        {3, "cat l2.faiss | mneme import a.db n -", "is read from a file, not from a pipe"},
        {3, "mneme import a.db other l2.faiss --append", "its vectors have 7 elements"},
        {3, "head -c 500 l2.faiss >cut.faiss; mneme import a.db n cut.faiss --partial",
         "7,945 are missing; nothing was imported"},
        {3, "mneme export a.db bits b.faiss", "'bits' is searched by hamming"},
        {3, "mneme truth a.db bits --queries q.txt --out t.ivecs --by faiss",
         "'bits' is searched by hamming, which FAISS's flat index lacks"},
        {2, "mneme import a.db n l2.faiss --trainer faiss", "--trainer is of the index"},
        {2, "mneme fold a.db byip --trainer fais", "--trainer fais is not one of mneme, faiss"},
#ifndef __SANITIZE_ADDRESS__ /* which cannot follow an exception out of a library loaded late */
        {3, "mneme export a.db byip --format faiss >/dev/full", "No space left on device"},
#endif
    };
    fill(x, N, DIM, 8);
    faiss_file("l2.faiss", x, N, DIM, MN_L2, false);
    faiss_file("ip.faiss", x, N, DIM, MN_IP, false);
    spill("q.txt", "q 0 1 0 1 0 1 0 1\n", 18);
    run(0, "mneme import a.db byip ip.faiss && mneme create a.db other --dim 8 && "
           "mneme create a.db bits --dim 8 --dtype bit --metric hamming");
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        run(table[i].code, "%s", table[i].command);
        CHECKF(strstr(output, table[i].says), "`%s` says %s", table[i].command, output);
    }
    run(0, "mneme list a.db");
    CHECK_STR(output, "bits\nbyip\nother\n");
}

TEST(without_the_plugin_each_says_how_to_get_it)
{
    static const char *const commands[] = {
        "mneme export a.db c x.faiss",
        "mneme rebuild a.db c --trainer faiss",
        "mneme fold a.db c --trainer faiss",
        "mneme truth a.db c --queries q.txt --out t.ivecs --by faiss",
    };
    spill("q.txt", "north 0 1\neast 1 0\n", 19);
    run(0, "mneme import a.db c q.txt");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        run(3, "MNEME_FAISS=./none.so %s", commands[i]);
        CHECK_HAS(output, "./none.so, named by MNEME_FAISS, is not there");
    }
    /* a program that stands alone */
    run(3,
        "unset MNEME_FAISS; cp \"$(command -v mneme)\" alone && ./alone rebuild a.db c --trainer "
        "faiss");
    CHECK_HAS(output, "FAISS is an optional part, and its plugin mneme_faiss.so stands neither");
    CHECK_HAS(output, "tools/faiss builds it");
    spill("bad.so", "not a library", 13);
    run(3, "MNEME_FAISS=./bad.so mneme export a.db c x.faiss");
    CHECK_HAS(output, "the plugin for FAISS cannot be loaded");
    run(3, "MNEME_FAISS=libm.so.6 mneme export a.db c x.faiss");
    CHECK(access(test_path("x.faiss"), F_OK) != 0);
}

/* ---- The trainer ----------------------------------------------------------------------------- */

enum { ROWS = 20000, WIDE = 32, QUERIES = 200, K = 10 };
static float rows[ROWS][WIDE], queries[QUERIES][WIDE];

static void make_clustered(uint64_t seed)
{
    enum { CENTRES = 80 };
    static float centre[CENTRES][WIDE];
    struct test_rng r = {seed};
    for (int j = 0; j < CENTRES; j++)
        for (int d = 0; d < WIDE; d++)
            centre[j][d] = (float)test_normal(&r);
    for (int i = 0; i < ROWS + QUERIES; i++) {
        float *v = i < ROWS ? rows[i] : queries[i - ROWS];
        const float *c = centre[test_below(&r, CENTRES)];
        for (int d = 0; d < WIDE; d++)
            v[d] = c[d] + 0.6f * (float)test_normal(&r);
    }
}

static void open_filled(const char *path, mn_metric metric, mn_db **db, mn_conn **conn)
{
    static mn_row batch[1000];
    mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND};
    CHECK_OK(mn_open(path, &opts, db, &err), err);
    CHECK_OK(mn_connect(*db, conn, &err), err);
    CHECK_OK(mn_create(*conn, "c", &(mn_collection_opts){.dim = WIDE, .metric = metric}, &err),
             err);
    for (int i = 0; i < ROWS; i += 1000) {
        for (int j = 0; j < 1000; j++)
            batch[j] = (mn_row){.id = i + j, .vector = rows[i + j]};
        CHECK_OK(mn_put(*conn, "c", batch, 1000, NULL, &err), err);
    }
}

static mn_hit got[QUERIES * K], want[QUERIES * K];

static double recall_of(mn_conn *conn)
{
    uint32_t found[QUERIES], exact[QUERIES];
    mn_search_stats stats = {0};
    mn_search_opts asked = {.recall = 0.95, .stats = &stats}, all = {.recall = 1.0};
    CHECK_OK(mn_search(conn, "c", queries, QUERIES, K, &asked, got, found, &err), err);
    CHECK(stats.from_index);
    CHECK_OK(mn_search(conn, "c", queries, QUERIES, K, &all, want, exact, &err), err);
    size_t hits = 0;
    for (size_t q = 0; q < QUERIES; q++)
        for (size_t i = 0; i < K; i++)
            for (size_t j = 0; j < K; j++)
                hits += got[q * K + i].id == want[q * K + j].id;
    return (double)hits / (QUERIES * K);
}

TEST(an_index_trained_by_faiss_finds_as_much)
{
    const struct faiss_plugin *p = need_plugin();
    static const mn_metric metrics[] = {MN_L2, MN_COSINE};
    make_clustered(11);
    for (size_t i = 0; i < 2; i++) {
        mn_db *db;
        mn_conn *conn;
        mn_index_info info;
        open_filled(test_path(i ? "b.db" : "a.db"), metrics[i], &db, &conn);
        CHECK_OK(mn_fold(conn, "c", &err), err);
        double ours = recall_of(conn);
        mn_set_trainer(conn, p->train, NULL);
        CHECK_OK(mn_rebuild(conn, "c", &err), err);
        double faiss = recall_of(conn);
        CHECK_OK(mn_index_stats(conn, "c", &info, &err), err);
        test_note("%s: recall %.3f, by FAISS's k-means %.3f, %llu postings",
                  mn_metric_name(metrics[i]), ours, faiss, (unsigned long long)info.postings);
        CHECKF(fabs(faiss - ours) <= 0.02 && faiss > 0.92, "recall %.3f, by FAISS %.3f", ours,
               faiss);
        mn_disconnect(conn);
        CHECK_OK(mn_close(db, &err), err);
    }
}

static bool stop_soon(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    int *left = ctx;
    (void)stage, (void)done, (void)total;
    return --*left > 0;
}

TEST(training_by_faiss_can_be_interrupted)
{
    const struct faiss_plugin *p = need_plugin();
    mn_db *db;
    mn_conn *conn;
    mn_index_info info;
    size_t stopped = 0;
    make_clustered(12);
    open_filled(test_path("a.db"), MN_L2, &db, &conn);
    mn_set_trainer(conn, p->train, NULL);
    for (int calls = 1; calls < 60; calls += 6) {
        int left = calls;
        mn_set_progress(conn, stop_soon, &left);
        mn_status st = mn_rebuild(conn, "c", &err);
        mn_set_progress(conn, NULL, NULL);
        CHECKF(st == MN_OK || st == MN_INTERRUPTED, "%s", err.message);
        stopped += st != MN_OK;
    }
    CHECKF(stopped > 1, "%zu", stopped);
    CHECK_OK(mn_fold(conn, "c", &err), err);
    CHECK_OK(mn_index_stats(conn, "c", &info, &err), err);
    CHECK(info.exists && info.rows == ROWS);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

TEST(the_program_takes_a_trainer_when_it_is_told)
{
    need_plugin();
    run(0, "mneme_bench dataset synthetic --n 12000 --dim 16 --out-base p.fbin && "
           "mneme import a.db c p.fbin --index --trainer faiss");
    CHECK_HAS(output, "indexed 12,000 rows of 'c'");
    run(0, "mneme rebuild a.db c --trainer faiss --threads 2 && mneme verify a.db --quiet");
    run(0, "mneme fold a.db c --trainer faiss");
    CHECK_HAS(output, "nothing to fold");
    run(0, "mneme rebuild a.db c --trainer mneme");
}

/* ---- The truth ------------------------------------------------------------------------------- */

/* The same rows at the same distances; where rows differ, or their order does, their distances do
 * not: sums of f32 in another order differ in the last digits. */
static void check_same(const mn_hit *a, const mn_hit *b, uint32_t n, double scale, const char *what)
{
    for (uint32_t i = 0; i < n; i++)
        CHECKF(fabs(a[i].distance - b[i].distance) <= 1e-6 * scale,
               "%s: hit %u is %lld at %.9g, by FAISS %lld at %.9g", what, i, (long long)a[i].id,
               a[i].distance, (long long)b[i].id, b[i].distance);
}

TEST(faiss_finds_the_same_neighbours)
{
    static const mn_metric metrics[] = {MN_L2, MN_IP, MN_COSINE};
    struct faiss_truth *t;
    uint32_t found[QUERIES], exact[QUERIES];
    need_plugin();
    make_clustered(13);
    for (size_t m = 0; m < 3; m++) {
        char path[16];
        mn_db *db;
        mn_conn *conn;
        snprintf(path, sizeof path, "%zu.db", m);
        open_filled(test_path(path), metrics[m], &db, &conn);
        CHECK_OK(mn_delete(conn, "c", &(mn_id){.id = 5}, 1, NULL, &err), err);
        CHECK_OK(faiss_truth_open(conn, "c", &(struct faiss_truth_opts){0}, &t, &err), err);
        CHECK_OK(faiss_truth_search(t, queries[0], QUERIES, K, got, found, &err), err);
        mn_search_opts all = {.recall = 1.0};
        CHECK_OK(mn_search(conn, "c", queries, QUERIES, K, &all, want, exact, &err), err);
        size_t same = 0;
        for (size_t q = 0; q < QUERIES; q++) {
            CHECK(found[q] == K && exact[q] == K);
            check_same(want + q * K, got + q * K, K, m == 1 ? 100 : 10, mn_metric_name(metrics[m]));
            for (size_t i = 0; i < K; i++)
                same += got[q * K + i].id == want[q * K + i].id;
        }
        test_note("%s: %zu of %d ids", mn_metric_name(metrics[m]), same, QUERIES * K);
        CHECK(same >= QUERIES * K - 4);
        faiss_truth_close(t);
        mn_disconnect(conn);
        CHECK_OK(mn_close(db, &err), err);
    }
}

TEST(truth_by_faiss_says_what_it_cannot_do)
{
    struct faiss_truth *t;
    uint32_t found[2];
    mn_db *db;
    mn_conn *conn;
    need_plugin();
    CHECK_OK(mn_open(test_path("a.db"), NULL, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    const struct faiss_truth_opts none = {0};
    CHECK_OK(mn_create(conn, "c", &(mn_collection_opts){.dim = 2, .metric = MN_COSINE}, &err), err);
    CHECK_OK(mn_create(conn, "h", &(mn_collection_opts){.dim = 2, .dtype = MN_F16}, &err), err);
    CHECK_EQ(faiss_truth_open(conn, "d", &none, &t, &err), MN_NOTFOUND);
    err = (mn_error){0};
    CHECK_EQ(faiss_truth_open(conn, "h", &none, &t, &err), MN_INVALID);
    CHECK_HAS(err.message, "'h' holds f16, f32 is wanted");
    err = (mn_error){0};
    CHECK_EQ(faiss_truth_open(conn, "c", &none, &t, &err), MN_INVALID);
    CHECK_HAS(err.message, "'c' has no vector");
    CHECK(!t);
    const float x[] = {3, 4}, wrong[][2] = {{1, 0}, {0, 0}, {NAN, 1}};
    err = (mn_error){0};
    CHECK_OK(mn_put(conn, "c", &(mn_row){.id = 9, .vector = x}, 1, NULL, &err), err);
    CHECK_OK(faiss_truth_open(conn, "c", &none, &t, &err), err);
    CHECK_OK(faiss_truth_search(t, x, 1, 3, got, found, &err), err);
    CHECK_EQ(found[0], 1); /* fewer rows than k */
    CHECK_EQ(got[0].id, 9);
    CHECK_NEAR(got[0].distance, 0, 1e-7);
    CHECK_EQ(faiss_truth_search(t, wrong[0], 2, 1, got, found, &err), MN_INVALID);
    CHECK_HAS(err.message, "query 1");
    err = (mn_error){0};
    CHECK_EQ(faiss_truth_search(t, wrong[2], 1, 1, got, found, &err), MN_INVALID);
    faiss_truth_close(t);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

/* The k distances of each query. */
static float *distances_of(const char *name, size_t *n)
{
    size_t len;
    char *bytes = slurp(name, &len);
    const size_t line = 4 + 4 * K;
    CHECK(len % line == 0);
    *n = len / line * K;
    float *out = malloc(*n * sizeof *out);
    for (size_t i = 0; i < len / line; i++)
        memcpy(out + i * K, bytes + i * line + 4, 4 * K);
    free(bytes);
    return out;
}

TEST(the_programs_compute_the_truth_by_faiss)
{
    static const char *const dtypes[] = {"f32", "f16", "bf16", "i8"};
    need_plugin();
    run(0, "mneme_bench dataset synthetic --n 3000 --dim 24 --out-base p.fbin --queries 60 "
           "--out-queries q.fbin");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        size_t n, m;
        run(0, "rm -f a.db* && mneme import a.db c p.fbin --dtype %s --metric %s", dtypes[i],
            i % 2 ? "ip" : "l2");
        run(0,
            "mneme truth a.db c --queries q.fbin --k %d --out o.ivecs --distances o.fvecs && "
            "mneme truth a.db c --queries q.fbin --k %d --out f.ivecs --distances f.fvecs --by "
            "faiss",
            K, K);
        float *ours = distances_of("o.fvecs", &n), *faiss = distances_of("f.fvecs", &m);
        CHECK(n == 60 * K && m == n);
        for (size_t j = 0; j < n; j++)
            CHECKF(fabsf(ours[j] - faiss[j]) <= 2e-6f * (1 + fabsf(ours[j])),
                   "%s: %.9g, by FAISS %.9g", dtypes[i], (double)ours[j], (double)faiss[j]);
        free(ours);
        free(faiss);
    }
    run(0, "mneme truth a.db c --queries q.fbin --k 5 --positions --out f.ivecs --by faiss");
    run(0, "TMPDIR=. mneme_bench ann --base p.fbin --queries q.fbin --recall 0.9 --passes 1 "
           "--truth-by-faiss && ls p.fbin.truth-faiss-l2-k10-*.ivecs");
    CHECK_HAS(output, "true neighbours of 60 queries");
}

TEST_MAIN
