/* threads */
/* Bad input and trouble: each case has its own status and a sentence that names the thing, the
 * place and the remedy, and leaves the database as it was. Power cuts, faults, failing memory,
 * killed processes and damage have their own files: test_crash.c, test_fault.c, test_oom.c,
 * test_kill.c, test_damage.c. */
#include "tests/test.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mneme.h"

enum { DIM = 4, NOBODY = 65534 };

static mn_error err;

static mn_conn *open_at(const char *path, const mn_open_opts *opts, mn_db **db)
{
    mn_conn *conn;
    CHECK_OK(mn_open(path, opts, db, &err), err);
    CHECK_OK(mn_connect(*db, &conn, &err), err);
    return conn;
}

static void shut(mn_conn *conn, mn_db *db)
{
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

static mn_status put1(mn_conn *conn, int64_t id, mn_error *e)
{
    const float v[DIM] = {(float)id, 1, 2, 3};
    const mn_row row = {.id = id, .vector = v};
    return mn_put(conn, "c", &row, 1, NULL, e);
}

/* "c" with rows 1 .. n. */
static mn_conn *filled_at(const char *path, int64_t n, mn_db **db)
{
    static const char *const attributes[] = {"lang"};
    mn_conn *conn = open_at(path, NULL, db);
    mn_collection_opts opts = {.dim = DIM, .attributes = attributes, .n_attributes = 1};
    CHECK_OK(mn_create(conn, "c", &opts, &err), err);
    for (int64_t id = 1; id <= n; id++)
        CHECK_OK(put1(conn, id, &err), err);
    return conn;
}

/* The same with three rows, closed again. */
static void make_at(const char *path)
{
    mn_db *db;
    mn_conn *conn = filled_at(path, 3, &db);
    shut(conn, db);
}

static uint32_t search1(mn_conn *conn, mn_status want)
{
    const float q[DIM] = {1, 1, 2, 3};
    mn_hit hits[10];
    uint32_t found = 0;
    CHECKF(mn_search(conn, "c", q, 1, 10, NULL, hits, &found, &err) == want, "%s", err.message);
    return found;
}

static uint64_t rows_of(mn_conn *conn)
{
    mn_collection_stats stats;
    CHECK_OK(mn_collection_stats_get(conn, "c", &stats, &err), err);
    return stats.rows;
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Status, and every word that the sentence must hold; words end with NULL. */
static void says(mn_status got, mn_status want, ...)
{
    va_list words;
    CHECKF(got == want, "status %s, want %s: %s", mn_status_name(got), mn_status_name(want),
           err.message);
    CHECK_EQ(err.code, want);
    va_start(words, want);
    for (const char *word; (word = va_arg(words, const char *));)
        CHECK_HAS(err.message, word);
    va_end(words);
}

static void plain(const char *path, const char *sql)
{
    sqlite3 *db;
    char *text = NULL;
    CHECK_EQ(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_exec(db, sql, NULL, NULL, &text);
    CHECKF(!text, "%s: %s", sql, text);
    sqlite3_close(db);
}

/* FNV of a file's bytes; 0 if there is none. */
static uint64_t hash_file(const char *path)
{
    uint64_t h = 0xcbf29ce484222325u;
    FILE *f = fopen(path, "rb");
    if (!f)
        return 0;
    for (int c; (c = fgetc(f)) != EOF;)
        h = (h ^ (uint64_t)(unsigned char)c) * 0x100000001b3u;
    fclose(f);
    return h;
}

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    CHECK(f);
    fputs(text, f);
    fclose(f);
}

/* ---- Children: they say why and go ---------------------------------------------------------- */

static char *child_says; /* shared memory, 600 bytes; the first failure */

#define WANT(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            int n_ = snprintf(child_says, 600, "line %d: %s: ", __LINE__, #condition);             \
            snprintf(child_says + n_, (size_t)(600 - n_), __VA_ARGS__);                            \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void in_child(void (*fn)(void *ctx), void *ctx)
{
    int status = 0;
    child_says = mmap(NULL, 600, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(child_says != MAP_FAILED);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        fn(ctx);
        _exit(0);
    }
    CHECK(pid > 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECKF(status == 0, "child, status %d: %s", status, child_says);
    munmap(child_says, 600);
}

/* ---- Wrong shapes and values ---------------------------------------------------------------- */

TEST(a_collection_that_cannot_be_is_refused)
{
    static const char *const twice[] = {"a", "A"}, *const own[] = {"version"};
    char long_name[MN_MAX_NAME + 2];
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    const struct {
        const char *name;
        mn_collection_opts opts;
        mn_status want;
        const char *says;
    } cases[] = {
        {"x", {.dim = 0}, MN_INVALID, "dimension 0; it must be 1 to 16384"},
        {"x", {.dim = 16385}, MN_INVALID, "16385"},
        {"x", {.dim = 4, .dtype = (mn_dtype)77}, MN_INVALID, "77 is no dtype"},
        {"x", {.dim = 4, .metric = (mn_metric)77}, MN_INVALID, "77 is no metric"},
        {"x", {.dim = 4, .metric = MN_HAMMING}, MN_INVALID, "hamming goes with bit"},
        {"x", {.dim = 8, .dtype = MN_BIT}, MN_INVALID, "hamming goes with bit"},
        {"x", {.dim = 12, .dtype = MN_BIT, .metric = MN_HAMMING}, MN_INVALID, "multiple of 8"},
        {"x", {.dim = 4, .id_kind = (mn_id_kind)9}, MN_INVALID, "9 is no kind of id"},
        {"", {.dim = 4}, MN_INVALID, "empty"},
        {NULL, {.dim = 4}, MN_INVALID, "empty"},
        {"mneme_x", {.dim = 4}, MN_INVALID, "reserved"},
        {"SQLite_x", {.dim = 4}, MN_INVALID, "reserved"},
        {"a\"b", {.dim = 4}, MN_INVALID, "byte 1"},
        {"a\xff", {.dim = 4}, MN_INVALID, "UTF-8 at byte 1"},
        {long_name, {.dim = 4}, MN_INVALID, "at most 127"},
        {"x", {.dim = 4, .attributes = twice, .n_attributes = 2}, MN_INVALID, "twice"},
        {"x", {.dim = 4, .attributes = own, .n_attributes = 1}, MN_INVALID, "Mneme's own"},
        {"x", {.dim = 4, .beside = "C2"}, MN_NOTFOUND, "'C2'; did you mean 'c'?"},
        {"x", {.dim = 4, .beside = "c", .id_kind = MN_ID_TEXT}, MN_INVALID, "beside 'c'"},
        {"C", {.dim = 4}, MN_EXISTS, "called 'C' already"},
    };
    mn_db *db;
    mn_conn *conn = filled_at(test_path("a.db"), 1, &db);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        says(mn_create(conn, cases[i].name, &cases[i].opts, &err), cases[i].want, cases[i].says,
             NULL);
    mn_collection_info *all;
    size_t n;
    CHECK_OK(mn_list(conn, &all, &n, &err), err);
    CHECK_EQ(n, 1);
    mn_free_result(all);
    says(mn_add_attribute(conn, "c", "lang", &err), MN_EXISTS, "'lang'", NULL);
    says(mn_add_attribute(conn, "c", "payload", &err), MN_INVALID, "'payload'", NULL);
    says(mn_drop(conn, "d", &err), MN_NOTFOUND, "a.db", "'d'", "among its 1", NULL);
    shut(conn, db);
}

/* A vector of another dimension or type cannot be told from its pointer: the header says what is
 * read. What can be seen is refused: values that are no numbers, and rows that contradict. */
TEST(rows_that_cannot_be_are_refused_whole)
{
    const float good[DIM] = {1, 2, 3, 4}, nan_at_2[DIM] = {1, 2, NAN, 4},
                inf_at_0[DIM] = {INFINITY, 0, 0, 0}, huge[DIM] = {3e38f, 0, 0, 0};
    const mn_attr de[] = {{"lang", {.type = MN_TEXT, .data = "de", .len = 2}},
                          {"LANG", {.type = MN_NULL}}};
    const mn_attr unknown[] = {{"langue", {.type = MN_NULL}}};
    const mn_attr bad_text[] = {{"lang", {.type = MN_TEXT, .data = "a\xc0", .len = 2}}};
    const mn_attr not_real[] = {{"lang", {.type = MN_REAL, .real = (double)NAN}}};
    const mn_attr no_data[] = {{"lang", {.type = MN_BLOB, .len = 9}}};
    const mn_attr no_type[] = {{"lang", {.type = (mn_value_type)17}}};
    const struct {
        mn_row second; /* the first row of the call is a good one */
        mn_put_mode mode;
        mn_status want;
        const char *says;
    } cases[] = {
        {{.id = 51, .vector = nan_at_2}, 0, MN_INVALID, "element 2"},
        {{.id = 51, .vector = inf_at_0}, 0, MN_INVALID, "element 0"},
        {{.id = 51, .vector = huge}, 0, MN_INVALID, "row 1"},
        {{.id = 50, .vector = good}, 0, MN_INVALID, "the id 50 stands twice, in rows 0 and 1"},
        {{.id = MN_AUTO_ID, .vector = good}, 0, MN_INVALID, "row 1: some rows have an id"},
        {{.id = 51, .text_id = "t"}, 0, MN_INVALID, "row 1 has a text id"},
        {{.id = 51, .attrs = unknown, .n_attrs = 1}, 0, MN_NOTFOUND, "no attribute 'langue'"},
        {{.id = 51, .attrs = de, .n_attrs = 2}, 0, MN_INVALID, "'LANG' is given twice"},
        {{.id = 51, .attrs = bad_text, .n_attrs = 1}, 0, MN_INVALID, "UTF-8 at byte 1"},
        {{.id = 51, .attrs = not_real, .n_attrs = 1}, 0, MN_INVALID, "NaN"},
        {{.id = 51, .attrs = no_data, .n_attrs = 1}, 0, MN_INVALID, "9 bytes at NULL"},
        {{.id = 51, .attrs = no_type, .n_attrs = 1}, 0, MN_INVALID, "type 17"},
        {{.id = 51, .payload = "\xff", .payload_len = 1}, 0, MN_INVALID, "payload"},
        {{.id = 1, .vector = good}, MN_PUT_IF_ABSENT, MN_CONFLICT, "id 1"},
        {{.id = 51, .vector = good}, (mn_put_mode)5, MN_INVALID, "5 is no mode"},
    };
    mn_db *db;
    mn_conn *conn = filled_at(test_path("a.db"), 3, &db);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int inside = 0; inside < 2; inside++) { /* a transaction, which the failure spares */
            const mn_row rows[] = {{.id = 50, .vector = good}, cases[i].second};
            if (inside)
                CHECK_OK(mn_begin_write(conn, &err), err);
            says(mn_put(conn, "c", rows, 2, &(mn_put_opts){.mode = cases[i].mode}, &err),
                 cases[i].want, cases[i].says, NULL);
            if (inside)
                CHECK_OK(mn_commit(conn, &err), err);
            CHECK_EQ(rows_of(conn), 3);
        }
    says(mn_put(conn, "c", NULL, 2, NULL, &err), MN_INVALID, "no rows", NULL);
    says(mn_put(conn, "cc", NULL, 0, NULL, &err), MN_NOTFOUND, "a.db", "'cc'", "did you mean 'c'",
         NULL);
    uint64_t findings = 9;
    CHECK_OK(mn_verify(conn, NULL, NULL, &findings, &err), err);
    CHECK_EQ(findings, 0);
    shut(conn, db);
}

TEST(vectors_that_a_collection_cannot_hold_are_refused)
{
    mn_db *db;
    mn_conn *conn = open_at(test_path("a.db"), NULL, &db);
    const mn_put_opts from_f32 = {.from_f32 = true};
    const float zero[8] = {0}, big[8] = {1, 2, 128, 4}, far[8] = {70000, 1};
    mn_row row = {.id = 1, .vector = zero};
    const mn_collection_opts cos = {.dim = 8, .metric = MN_COSINE}, i8 = {.dim = 8, .dtype = MN_I8},
                             f16 = {.dim = 8, .dtype = MN_F16},
                             bit = {.dim = 8, .dtype = MN_BIT, .metric = MN_HAMMING};
    CHECK_OK(mn_create(conn, "cos", &cos, &err), err);
    CHECK_OK(mn_create(conn, "i8", &i8, &err), err);
    CHECK_OK(mn_create(conn, "f16", &f16, &err), err);
    CHECK_OK(mn_create(conn, "bit", &bit, &err), err);
    says(mn_put(conn, "cos", &row, 1, NULL, &err), MN_INVALID, "row 0", "direction", NULL);
    row.vector = big;
    says(mn_put(conn, "i8", &row, 1, &from_f32, &err), MN_INVALID, "row 0", "2", "128", NULL);
    says(mn_put(conn, "bit", &row, 1, &from_f32, &err), MN_INVALID, "'bit'", "bit vectors", NULL);
    row.vector = far;
    says(mn_put(conn, "f16", &row, 1, &from_f32, &err), MN_INVALID, "row 0", "element 0", NULL);
    mn_hit hits[1];
    uint32_t found;
    says(mn_search(conn, "cos", zero, 1, 1, NULL, hits, &found, &err), MN_INVALID, "query 0", NULL);
    shut(conn, db);
}

TEST(ids_that_nobody_has_are_no_rows)
{
    mn_db *db;
    mn_conn *conn = filled_at(test_path("a.db"), 3, &db);
    const mn_id ids[] = {{.id = 77}, {.id = 2}, {.id = INT64_MIN}};
    mn_rows *rows;
    uint64_t deleted = 9;
    CHECK_OK(mn_get(conn, "c", ids, 3, &rows, &err), err);
    CHECK(!mn_rows_at(rows, 0) && mn_rows_at(rows, 1) && !mn_rows_at(rows, 2));
    mn_rows_free(rows);
    says(mn_get(conn, "c", &(mn_id){.text_id = "t"}, 1, &rows, &err), MN_INVALID, "'t'",
         "integer ids", NULL);
    CHECK(!rows);
    CHECK_OK(mn_delete(conn, "c", ids, 3, &deleted, &err), err);
    CHECK_EQ(deleted, 1);
    says(mn_delete_if_version(conn, "c", &ids[0], 1, &err), MN_CONFLICT, "'c'", NULL);
    says(mn_delete_if_version(conn, "c", &(mn_id){.id = 1}, 99, &err), MN_CONFLICT, "id 1",
         "not 99", "read it again", NULL);
    CHECK_EQ(rows_of(conn), 2);
    shut(conn, db);
}

TEST(searches_that_cannot_be_are_refused)
{
    mn_db *db;
    mn_conn *conn = filled_at(test_path("a.db"), 3, &db);
    const float q[DIM] = {1, 2, 3, 4}, bad[DIM] = {1, 2, 3, NAN};
    mn_hit hits[10], *within;
    uint32_t found = 9;
    size_t n = 9;
    const struct {
        const float *q;
        size_t nq;
        uint32_t k;
        mn_search_opts opts;
        mn_hit *hits;
        const char *says;
    } cases[] = {
        {q, 1, 0, {0}, hits, "k is 0; it must be 1 to 10000"},
        {q, 1, 10001, {0}, hits, "k is 10001"},
        {q, 0, 5, {0}, hits, "0 queries; it must be 1 to 65536"},
        {q, 65537, 5, {0}, hits, "65537 queries"},
        {bad, 1, 5, {0}, hits, "query 0"},
        {bad, 1, 5, {0}, hits, "element 3"},
        {NULL, 1, 5, {0}, hits, "no queries"},
        {q, 1, 5, {0}, NULL, "no place"},
        {q, 1, 5, {.recall = 0.3}, hits, "recall 0.3"},
        {q, 1, 5, {.recall = (double)NAN}, hits, "recall"},
        {q, 1, 5, {.threads = 1000}, hits, "at most 256"},
        {q, 1, 5, {.n_only_ids = 3}, hits, "3 ids at NULL"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        says(mn_search(conn, "c", cases[i].q, cases[i].nq, cases[i].k, &cases[i].opts,
                       cases[i].hits, &found, &err),
             MN_INVALID, cases[i].says, NULL);
    says(mn_search(conn, "C2", q, 1, 5, NULL, hits, &found, &err), MN_NOTFOUND, "a.db", "'C2'",
         NULL);
    CHECK_OK(mn_search(conn, "c", q, 1, 10, NULL, hits, &found, &err), err);
    CHECK_EQ(found, 3); /* k beyond n */
    says(mn_search_radius(conn, "c", q, (double)NAN, 0, NULL, &within, &n, &err), MN_INVALID, "NaN",
         NULL);
    says(mn_search_radius(conn, "c", q, 100, 2, NULL, &within, &n, &err), MN_FULL, "2", NULL);
    CHECK(!within && n == 0);
    CHECK_OK(mn_search_radius(conn, "c", q, -1, 0, NULL, &within, &n, &err), err);
    CHECK_EQ(n, 0);
    mn_free_result(within);
    shut(conn, db);
}

/* ---- Dropped while searched ----------------------------------------------------------------- */

TEST(a_collection_dropped_by_another_is_gone_after_the_snapshot)
{
    mn_db *db;
    mn_conn *a = filled_at(test_path("a.db"), 5, &db), *b;
    mn_iter *it;
    const mn_row *row;
    unsigned n = 0;
    CHECK_OK(mn_connect(db, &b, &err), err);
    CHECK_EQ(search1(b, MN_OK), 5);
    CHECK_OK(mn_begin_read(b, &err), err);
    CHECK_EQ(search1(b, MN_OK), 5);
    CHECK_OK(mn_iter_open(b, "c", 0, &it, &err), err);
    CHECK_OK(mn_drop(a, "c", &err), err);
    CHECK_EQ(search1(b, MN_OK), 5); /* the snapshot has it still */
    while (mn_iter_next(it, &row, &err) == MN_OK && row)
        n++;
    CHECK_EQ(n, 5);
    mn_iter_close(it);
    CHECK_OK(mn_commit(b, &err), err);
    search1(b, MN_NOTFOUND);
    CHECK_HAS(err.message, "'c'");
    says(put1(b, 9, &err), MN_NOTFOUND, "a.db", "'c'", NULL);
    /* One of the same name, of another shape: nothing of the old one answers for it. */
    CHECK_OK(mn_create(a, "c", &(mn_collection_opts){.dim = DIM}, &err), err);
    CHECK_EQ(search1(b, MN_OK), 0);
    CHECK_OK(put1(b, 9, &err), err);
    CHECK_EQ(search1(a, MN_OK), 1);
    mn_disconnect(b);
    shut(a, db);
}

struct dropper {
    mn_conn *other;
    mn_status st;
    bool done;
};

static bool drop_meanwhile(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    struct dropper *d = ctx;
    (void)stage;
    (void)done;
    (void)total;
    if (!d->done)
        d->st = mn_drop(d->other, "c", NULL);
    d->done = true;
    return true;
}

TEST(a_collection_dropped_in_the_middle_of_a_search_still_answers)
{
    mn_db *db;
    mn_conn *a = filled_at(test_path("a.db"), 5, &db);
    struct dropper d = {0};
    CHECK_OK(mn_connect(db, &d.other, &err), err);
    mn_set_progress(a, drop_meanwhile, &d);
    CHECK_EQ(search1(a, MN_OK), 5);
    CHECK(d.done);
    CHECK_EQ(d.st, MN_OK);
    search1(a, MN_NOTFOUND);
    mn_disconnect(d.other);
    shut(a, db);
}

/* ---- Files and folders ---------------------------------------------------------------------- */

TEST(what_is_no_database_is_refused_and_left_alone)
{
    mn_db *db = (mn_db *)&err;
    const char *text = test_path("notes.txt"), *folder = test_path("folder"),
               *fifo = test_path("fifo"), *empty = test_path("empty.db");
    static char words[9000];
    memset(words, 'w', sizeof words - 1);
    write_text(text, words);
    uint64_t before = hash_file(text);
    says(mn_open(text, NULL, &db, &err), MN_NOTADB, "notes.txt", "check the path", NULL);
    CHECK(!db);
    CHECK_EQ(hash_file(text), before);
    CHECK(access(test_path("notes.txt-wal"), F_OK) != 0);
    write_text(text, "short");
    says(mn_open(text, &(mn_open_opts){.flags = MN_OPEN_READONLY}, &db, &err), MN_NOTADB,
         "notes.txt", NULL);
    CHECK_EQ(mkdir(folder, 0700), 0);
    CHECK_EQ(mkfifo(fifo, 0600), 0);
    says(mn_open(folder, NULL, &db, &err), MN_INVALID, "folder: is a folder", "name a file", NULL);
    says(mn_open(fifo, NULL, &db, &err), MN_INVALID, "no regular file", NULL);
    says(mn_open("", NULL, &db, &err), MN_INVALID, "empty", NULL);
    says(mn_open(NULL, NULL, &db, &err), MN_INVALID, "empty", NULL);
    says(mn_open(test_path("no/such.db"), NULL, &db, &err), MN_NOTFOUND, "no/such.db", "folder",
         NULL);
    says(mn_open(test_path("no.db"), &(mn_open_opts){.flags = MN_OPEN_MUST_EXIST}, &db, &err),
         MN_NOTFOUND, "no.db", "check the path", NULL);
    says(mn_open(test_path("no.db"), &(mn_open_opts){.flags = MN_OPEN_READONLY}, &db, &err),
         MN_NOTFOUND, "no.db", NULL);
    CHECK(access(test_path("no.db"), F_OK) != 0);
    write_text(empty, ""); /* a database that has no pages yet */
    mn_conn *conn = open_at(empty, NULL, &db);
    search1(conn, MN_NOTFOUND);
    CHECK_HAS(err.message, "create it first");
    CHECK_OK(mn_create(conn, "c", &(mn_collection_opts){.dim = DIM}, &err), err);
    shut(conn, db);
}

TEST(options_that_cannot_be_are_refused)
{
    mn_db *db;
    const struct {
        mn_open_opts opts;
        const char *says;
    } cases[] = {
        {{.flags = 64}, "unknown flags 0x40"},
        {{.flags = MN_OPEN_IMMUTABLE}, "needs MN_OPEN_READONLY"},
        {{.memory_bytes = 1 << 20}, "at least 4194304"},
        {{.threads = 257}, "at most 256"},
        {{.durability = (mn_durability)5}, "5 is no durability"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        says(mn_open(test_path("a.db"), &cases[i].opts, &db, &err), MN_INVALID, cases[i].says,
             NULL);
    CHECK(access(test_path("a.db"), F_OK) != 0);
}

TEST(a_newer_format_is_refused_and_left_alone)
{
    const char *path = test_path("a.db");
    mn_db *db;
    make_at(path);
    plain(path, "UPDATE mneme_meta SET value = 99 WHERE key = 'format'");
    mn_conn *conn = open_at(path, NULL, &db); /* newer, and says that we can read it */
    CHECK_EQ(search1(conn, MN_OK), 3);
    shut(conn, db);
    plain(path, "UPDATE mneme_meta SET value = 98 WHERE key = 'min_reader'");
    uint64_t before = hash_file(path);
    says(mn_open(path, NULL, &db, &err), MN_NEWER, "a.db", "format 99", "98", "upgrade", NULL);
    says(mn_open(path, &(mn_open_opts){.flags = MN_OPEN_READONLY}, &db, &err), MN_NEWER, NULL);
    CHECK_EQ(hash_file(path), before);
    plain(path, "UPDATE mneme_meta SET value = 'x' WHERE key = 'min_reader'");
    says(mn_open(path, NULL, &db, &err), MN_CORRUPT, "a.db", "mneme_meta", "backup", NULL);
    plain(path, "DROP TABLE mneme_tables");
    says(mn_open(path, NULL, &db, &err), MN_CORRUPT, "2 of its 3 tables", "backup", NULL);
}

struct log {
    int lines;
    char last[300];
};

static void take_line(void *ctx, mn_log_level level, const char *topic, const char *line)
{
    struct log *l = ctx;
    l->lines++;
    snprintf(l->last, sizeof l->last, "%d %s %s", (int)level, topic, line);
}

TEST(a_database_in_rollback_journal_mode_is_switched_or_read)
{
    const char *path = test_path("a.db");
    struct log log = {0};
    mn_db *db;
    make_at(path);
    plain(path, "PRAGMA journal_mode = DELETE");
    uint64_t before = hash_file(path);
    mn_open_opts opts = {.flags = MN_OPEN_READONLY, .log = take_line, .log_ctx = &log};
    mn_conn *conn = open_at(path, &opts, &db);
    CHECK_EQ(search1(conn, MN_OK), 3);
    says(put1(conn, 9, &err), MN_READONLY, "a.db", "read-only", NULL);
    says(mn_create(conn, "d", &(mn_collection_opts){.dim = 2}, &err), MN_READONLY, "a.db", NULL);
    says(mn_begin_write(conn, &err), MN_READONLY, "a.db", NULL);
    shut(conn, db);
    CHECK_EQ(hash_file(path), before);
    CHECK_EQ(log.lines, 0);
    opts.flags = 0;
    conn = open_at(path, &opts, &db);
    CHECK_EQ(log.lines, 1);
    CHECK_HAS(log.last, "a.db: was in rollback-journal mode");
    CHECK_OK(put1(conn, 4, &err), err);
    CHECK_EQ(search1(conn, MN_OK), 4);
    CHECK(access(test_path("a.db-wal"), F_OK) == 0);
    shut(conn, db);
}

/* Runs as a user who may do nothing but what the modes say. */
static void become_nobody(void)
{
    if (getuid() == 0)
        WANT(setgid(NOBODY) == 0 && setuid(NOBODY) == 0, "cannot leave root");
}

struct places {
    const char *folder, *file, *fresh, *secret;
};

static void without_permission(void *ctx)
{
    const struct places *at = ctx;
    mn_db *db;
    mn_conn *conn;
    mn_error e;
    mn_hit hits[5];
    uint32_t found;
    const float q[DIM] = {1, 1, 2, 3};
    mn_open_opts ro = {.flags = MN_OPEN_READONLY},
                 immutable = {.flags = MN_OPEN_READONLY | MN_OPEN_IMMUTABLE};
    become_nobody();
    mn_status st = mn_open(at->file, NULL, &db, &e);
    WANT(st == MN_READONLY && strstr(e.message, "fixed.db") && strstr(e.message, "read-only"),
         "%d %s", st, e.message);
    st = mn_open(at->secret, &ro, &db, &e);
    WANT(st == MN_READONLY && strstr(e.message, "secret.db: may not be read"), "%d %s", st,
         e.message);
    st = mn_open(at->fresh, NULL, &db, &e);
    WANT(st == MN_READONLY && strstr(e.message, "fresh.db"), "%d %s", st, e.message);
    /* The log's index cannot be made in that folder: the sentence says what can be done. */
    st = mn_open(at->file, &ro, &db, &e);
    WANT(st == MN_READONLY && strstr(e.message, "fixed.db"), "%d %s", st, e.message);
    WANT(strstr(e.message, "MN_OPEN_IMMUTABLE"), "%s", e.message);
    WANT(mn_open(at->file, &immutable, &db, &e) == MN_OK, "%s", e.message);
    WANT(mn_connect(db, &conn, &e) == MN_OK, "%s", e.message);
    WANT(mn_search(conn, "c", q, 1, 5, NULL, hits, &found, &e) == MN_OK && found == 3, "%s",
         e.message);
    st = put1(conn, 9, &e);
    WANT(st == MN_READONLY && strstr(e.message, "fixed.db"), "%d %s", st, e.message);
    st = mn_backup(conn, at->fresh, &e);
    WANT(st == MN_READONLY && strstr(e.message, "fresh.db: cannot be made"), "%d %s", st,
         e.message);
    mn_disconnect(conn);
    WANT(mn_close(db, &e) == MN_OK, "%s", e.message);
}

TEST(a_folder_or_file_that_may_not_be_written_is_named)
{
    struct places at = {.folder = test_path("fixed")};
    CHECK_EQ(mkdir(at.folder, 0700), 0);
    at.file = test_path("fixed/fixed.db");
    at.fresh = test_path("fixed/fresh.db");
    at.secret = test_path("fixed/secret.db");
    make_at(at.file);
    make_at(at.secret);
    uint64_t before = hash_file(at.file);
    CHECK_EQ(chmod(at.file, 0444), 0);
    CHECK_EQ(chmod(at.secret, 0000), 0);
    CHECK_EQ(chmod(at.folder, 0555), 0);
    CHECK_EQ(chmod(test_dir(), 0755), 0);
    in_child(without_permission, &at);
    CHECK_EQ(hash_file(at.file), before);
    CHECK(access(at.fresh, F_OK) != 0);
    CHECK_EQ(chmod(at.folder, 0700), 0);
}

/* ---- Handles -------------------------------------------------------------------------------- */

TEST(a_path_opened_twice_is_one_database)
{
    const char *path = test_path("a.db"), *dotted = test_path("./x/../a.db"),
               *linked = test_path("link.db");
    mn_db *one, *two, *three;
    CHECK_EQ(mkdir(test_path("x"), 0700), 0);
    mn_conn *conn = filled_at(path, 2, &one);
    CHECK_EQ(symlink(path, linked), 0);
    CHECK_OK(mn_open(dotted, NULL, &two, &err), err);
    CHECK(two == one);
    CHECK_OK(mn_open(linked, NULL, &three, &err), err);
    CHECK(three == one);
    says(mn_open(path, &(mn_open_opts){.memory_bytes = 8 << 20}, &two, &err), MN_MISUSE, "a.db",
         "another memory", NULL);
    says(mn_open(path, &(mn_open_opts){.flags = MN_OPEN_READONLY}, &two, &err), MN_MISUSE, "flags",
         NULL);
    says(mn_open(path, &(mn_open_opts){.durability = MN_RELAXED}, &two, &err), MN_MISUSE,
         "durability", NULL);
    CHECK_OK(mn_close(one, &err), err); /* two are left, and the connection */
    CHECK_OK(mn_close(one, &err), err);
    says(mn_close(one, &err), MN_MISUSE, "a.db", "1 connections", "disconnect", NULL);
    CHECK_EQ(search1(conn, MN_OK), 2);
    shut(conn, one);
    CHECK_EQ(mn_close(NULL, NULL), MN_OK);
}

TEST(calls_in_the_wrong_order_are_misuse)
{
    mn_db *db;
    mn_conn *conn = filled_at(test_path("a.db"), 3, &db), *other;
    mn_iter *it;
    const mn_row *row;
    says(mn_commit(conn, &err), MN_MISUSE, "no transaction", NULL);
    says(mn_rollback(conn, &err), MN_MISUSE, "no transaction", NULL);
    says(mn_savepoint(conn, "s", &err), MN_MISUSE, "need a write transaction", NULL);
    CHECK_OK(mn_begin_read(conn, &err), err);
    says(mn_begin_write(conn, &err), MN_MISUSE, "a transaction is open", NULL);
    says(put1(conn, 9, &err), MN_MISUSE, "begun for reading", NULL);
    says(mn_savepoint(conn, "s", &err), MN_MISUSE, "need a write transaction", NULL);
    CHECK_OK(mn_commit(conn, &err), err);
    CHECK_OK(mn_begin_write(conn, &err), err);
    says(mn_release(conn, "nothing", &err), MN_NOTFOUND, "'nothing'", NULL);
    says(mn_rollback_to(conn, "nothing", &err), MN_NOTFOUND, "'nothing'", NULL);
    says(mn_savepoint(conn, "", &err), MN_INVALID, "name", NULL);
    CHECK_OK(mn_savepoint(conn, "Outer \"x\"", &err), err);
    CHECK_OK(put1(conn, 9, &err), err);
    CHECK_OK(mn_savepoint(conn, "inner", &err), err);
    CHECK_OK(put1(conn, 10, &err), err);
    CHECK_OK(mn_rollback_to(conn, "OUTER \"X\"", &err), err);
    says(mn_release(conn, "inner", &err), MN_NOTFOUND, "'inner'", NULL);
    says(mn_backup(conn, test_path("b.db"), &err), MN_MISUSE, "write transaction", NULL);
    CHECK_OK(mn_commit(conn, &err), err);
    CHECK_EQ(rows_of(conn), 3);

    CHECK_OK(mn_iter_open(conn, "c", 2, &it, &err), err);
    says(put1(conn, 9, &err), MN_MISUSE, "iterator is open", NULL);
    says(mn_begin_write(conn, &err), MN_MISUSE, "iterator is open", NULL);
    CHECK_OK(mn_connect(db, &other, &err), err);
    CHECK_OK(put1(other, 9, &err), err); /* another connection may */
    mn_disconnect(other);
    for (int i = 0; i < 5; i++) {
        CHECK_OK(mn_iter_next(it, &row, &err), err);
        CHECK((row != NULL) == (i < 2)); /* after the end it stays at the end */
    }
    mn_iter_close(it);
    CHECK_OK(put1(conn, 10, &err), err);
    CHECK_OK(mn_iter_open(conn, "c", 0, &it, &err), err);
    says(mn_iter_next(NULL, &row, &err), MN_MISUSE, "no iterator", NULL);
    says(mn_backup(conn, test_path("a.db"), &err), MN_EXISTS, "a.db", "another file", NULL);
    says(mn_backup(conn, test_path("no/b.db"), &err), MN_NOTFOUND, "no/b.db", "folder", NULL);
    says(mn_connect(NULL, &other, &err), MN_MISUSE, "no database", NULL);
    says(mn_stats(NULL, NULL, &err), MN_MISUSE, "no connection", NULL);
    shut(conn, db); /* an open iterator goes with its connection */
}

struct reentry {
    mn_conn *conn;
    mn_status st;
    int calls;
};

static bool use_conn(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    struct reentry *r = ctx;
    mn_stats_info info;
    (void)stage;
    (void)done;
    (void)total;
    r->st = mn_stats(r->conn, &info, NULL);
    r->calls++;
    return true;
}

static bool use_conn_in_filter(void *ctx, const mn_row *row)
{
    (void)row;
    return use_conn(ctx, "", 0, 0);
}

TEST(a_connection_used_in_its_own_callback_is_misuse)
{
    mn_db *db;
    mn_conn *conn = filled_at(test_path("a.db"), 3, &db);
    struct reentry r = {.conn = conn};
    const float q[DIM] = {1, 1, 2, 3};
    mn_hit hits[3];
    uint32_t found;
    mn_set_progress(conn, use_conn, &r);
    CHECK_EQ(search1(conn, MN_OK), 3);
    CHECK(r.calls > 0);
    CHECK_EQ(r.st, MN_MISUSE);
    mn_set_progress(conn, NULL, NULL);
    r.st = MN_OK;
    mn_search_opts opts = {.filter = use_conn_in_filter, .filter_ctx = &r};
    CHECK_OK(mn_search(conn, "c", q, 1, 3, &opts, hits, &found, &err), err);
    CHECK_EQ(found, 3);
    CHECK_EQ(r.st, MN_MISUSE);
    shut(conn, db);
}

/* ---- Forks ---------------------------------------------------------------------------------- */

struct parent {
    const char *path;
    mn_db *db;
    mn_conn *conn;
    mn_iter *it;
};

static void forked(void *ctx)
{
    struct parent *p = ctx;
    mn_error e;
    mn_conn *conn;
    mn_db *db;
    mn_rows *rows;
    mn_hit hits[3];
    uint32_t found;
    uint64_t n;
    size_t size;
    mn_iter *it;
    const mn_row *row;
    mn_collection_info info, *infos;
    mn_collection_stats stats;
    mn_stats_info all;
    const float q[DIM] = {1, 1, 2, 3};
    const mn_id id = {.id = 1};
    const mn_status got[] = {
        mn_connect(p->db, &conn, &e),
        mn_search(p->conn, "c", q, 1, 3, NULL, hits, &found, &e),
        mn_search_radius(p->conn, "c", q, 1, 0, NULL, &(mn_hit *){NULL}, &size, &e),
        put1(p->conn, 9, &e),
        mn_get(p->conn, "c", &id, 1, &rows, &e),
        mn_delete(p->conn, "c", &id, 1, &n, &e),
        mn_delete_if_version(p->conn, "c", &id, 1, &e),
        mn_create(p->conn, "d", &(mn_collection_opts){.dim = 2}, &e),
        mn_drop(p->conn, "c", &e),
        mn_add_attribute(p->conn, "c", "a", &e),
        mn_list(p->conn, &infos, &size, &e),
        mn_info(p->conn, "c", &info, &e),
        mn_begin_write(p->conn, &e),
        mn_begin_read(p->conn, &e),
        mn_commit(p->conn, &e),
        mn_rollback(p->conn, &e),
        mn_savepoint(p->conn, "s", &e),
        mn_release(p->conn, "s", &e),
        mn_rollback_to(p->conn, "s", &e),
        mn_iter_open(p->conn, "c", 0, &it, &e),
        mn_iter_next(p->it, &row, &e),
        mn_stats(p->conn, &all, &e),
        mn_collection_stats_get(p->conn, "c", &stats, &e),
        mn_verify(p->conn, NULL, NULL, &n, &e),
        mn_backup(p->conn, "x.db", &e),
        mn_close(p->db, &e),
        /* SQLite in the child believes locks that only the parent has. */
        mn_open(p->path, NULL, &db, &e),
    };
    for (size_t i = 0; i < sizeof got / sizeof *got; i++)
        WANT(got[i] == MN_FORKED, "call %zu: %s", i, mn_status_name(got[i]));
    WANT(strstr(e.message, "a.db") && strstr(e.message, "exec"), "%s", e.message);
    mn_iter_close(p->it);
    mn_disconnect(p->conn);
    mn_interrupt(p->conn);
    mn_abandon(p->db);
    WANT(mn_open(p->path, NULL, &db, &e) == MN_FORKED, "%s", e.message);
    char other[600]; /* another database is no trouble */
    snprintf(other, sizeof other, "%s-child", p->path);
    WANT(mn_open(other, NULL, &db, &e) == MN_OK, "%s", e.message);
    WANT(mn_connect(db, &conn, &e) == MN_OK, "%s", e.message);
    WANT(mn_create(conn, "c", &(mn_collection_opts){.dim = DIM}, &e) == MN_OK, "%s", e.message);
    WANT(put1(conn, 1, &e) == MN_OK, "%s", e.message);
    mn_disconnect(conn);
    WANT(mn_close(db, &e) == MN_OK, "%s", e.message);
}

TEST(a_child_may_not_use_its_parents_handles)
{
    struct parent p = {.path = test_path("a.db")};
    const mn_row *row;
    p.conn = filled_at(p.path, 3, &p.db);
    CHECK_EQ(search1(p.conn, MN_OK), 3);
    CHECK_OK(mn_begin_write(p.conn, &err), err);
    CHECK_OK(put1(p.conn, 4, &err), err);
    CHECK_OK(mn_iter_open(p.conn, "c", 0, &p.it, &err), err);
    in_child(forked, &p);
    mn_abandon(p.db); /* in the parent it does nothing */
    /* The parent's transaction, iterator and locks are as they were. */
    CHECK_OK(mn_iter_next(p.it, &row, &err), err);
    CHECK_EQ(row->id, 1);
    mn_iter_close(p.it);
    sqlite3 *sql;
    CHECK_EQ(sqlite3_open(p.path, &sql), SQLITE_OK);
    CHECK_EQ(sqlite3_exec(sql, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_BUSY);
    sqlite3_close(sql);
    CHECK_OK(mn_commit(p.conn, &err), err);
    CHECK_EQ(search1(p.conn, MN_OK), 4);
    uint64_t findings = 9;
    CHECK_OK(mn_verify(p.conn, NULL, NULL, &findings, &err), err);
    CHECK_EQ(findings, 0);
    shut(p.conn, p.db);
}

static void open_after_fork(void *ctx)
{
    mn_db *db;
    mn_conn *conn;
    mn_error e;
    WANT(mn_open(ctx, NULL, &db, &e) == MN_OK, "%s", e.message);
    WANT(mn_connect(db, &conn, &e) == MN_OK, "%s", e.message);
    WANT(put1(conn, 4, &e) == MN_OK, "%s", e.message);
    mn_disconnect(conn);
    WANT(mn_close(db, &e) == MN_OK, "%s", e.message);
}

TEST(a_database_closed_before_the_fork_may_be_opened_in_the_child)
{
    char *path = strdup(test_path("a.db"));
    mn_db *db;
    make_at(path);
    in_child(open_after_fork, path);
    mn_conn *conn = open_at(path, NULL, &db);
    CHECK_EQ(search1(conn, MN_OK), 4);
    shut(conn, db);
    free(path);
}

/* ---- Locks ---------------------------------------------------------------------------------- */

/* Another process: holds the write lock until it reads a byte. */
struct holder {
    pid_t pid;
    int go, held;
};

static struct holder hold(const char *path, long release_after_us)
{
    int go[2], held[2];
    char c = 0;
    CHECK(pipe(go) == 0 && pipe(held) == 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        sqlite3 *db;
        close(go[1]);
        if (sqlite3_open(path, &db) || sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL))
            _exit(1);
        if (write(held[1], "h", 1) != 1)
            _exit(1);
        if (release_after_us)
            nanosleep(&(struct timespec){.tv_nsec = release_after_us * 1000}, NULL);
        else if (read(go[0], &c, 1) < 0)
            _exit(1);
        sqlite3_close(db);
        _exit(0);
    }
    close(go[0]);
    close(held[1]);
    CHECK_EQ(read(held[0], &c, 1), 1);
    return (struct holder){pid, go[1], held[0]};
}

static void let_go(struct holder h)
{
    int status;
    close(h.go);
    close(h.held);
    CHECK_EQ(waitpid(h.pid, &status, 0), h.pid);
    CHECK_EQ(status, 0);
}

/* The holder is forked while this process has nothing open. */
TEST(a_writer_elsewhere_makes_busy_at_once_or_after_the_timeout)
{
    const char *path = test_path("a.db");
    mn_db *db;
    make_at(path);
    struct holder h = hold(path, 0);
    mn_open_opts opts = {.busy_timeout_ms = MN_NO_WAIT};
    mn_conn *conn = open_at(path, &opts, &db);
    uint64_t start = now_ms();
    says(put1(conn, 9, &err), MN_BUSY, "a.db", "try again", NULL);
    says(mn_begin_write(conn, &err), MN_BUSY, "a.db", NULL);
    says(mn_drop(conn, "c", &err), MN_BUSY, "a.db", NULL);
    CHECK(now_ms() - start < 1500); /* a loaded machine; the default would wait 5,000 */
    CHECK_EQ(search1(conn, MN_OK), 3); /* readers do not wait */
    CHECK_OK(mn_begin_read(conn, &err), err);
    CHECK_OK(mn_commit(conn, &err), err);
    shut(conn, db);
    opts.busy_timeout_ms = 120;
    conn = open_at(path, &opts, &db);
    start = now_ms();
    says(put1(conn, 9, &err), MN_BUSY, "120 ms", "busy timeout", NULL);
    CHECK(now_ms() - start >= 110);
    CHECK(now_ms() - start < 3000);
    let_go(h);
    CHECK_OK(put1(conn, 9, &err), err);
    CHECK_EQ(search1(conn, MN_OK), 4);
    shut(conn, db);
    h = hold(path, 60000);
    conn = open_at(path, NULL, &db);
    CHECK_OK(put1(conn, 10, &err), err); /* waited, and got it */
    shut(conn, db);
    let_go(h);
}

/* ---- Interrupts and deadlines --------------------------------------------------------------- */

enum { LONG_DIM = 64, LONG_ROWS = 12000, LONG_QUERIES = 2000 };

static mn_conn *long_at(const char *path, mn_db **db, float **queries, mn_hit **hits,
                        uint32_t **found)
{
    mn_conn *conn = open_at(path, NULL, db);
    mn_row *rows = calloc(LONG_ROWS, sizeof *rows);
    struct test_rng rng = {3};
    *queries = calloc(LONG_ROWS, LONG_DIM * sizeof **queries);
    *hits = calloc(LONG_QUERIES, 10 * sizeof **hits);
    *found = calloc(LONG_QUERIES, sizeof **found);
    CHECK(rows && *queries && *hits && *found);
    for (size_t i = 0; i < (size_t)LONG_ROWS * LONG_DIM; i++)
        (*queries)[i] = (float)test_uniform(&rng);
    for (int i = 0; i < LONG_ROWS; i++)
        rows[i] = (mn_row){.id = i + 1, .vector = *queries + (size_t)i * LONG_DIM};
    CHECK_OK(mn_create(conn, "c", &(mn_collection_opts){.dim = LONG_DIM}, &err), err);
    CHECK_OK(mn_put(conn, "c", rows, LONG_ROWS, NULL, &err), err);
    free(rows);
    return conn;
}

struct stopper {
    const char *stage;
    int calls, stop_at;
};

static bool stop(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    struct stopper *s = ctx;
    (void)done;
    (void)total;
    s->calls += strcmp(stage, s->stage) == 0;
    return s->calls < s->stop_at;
}

static _Atomic bool answered; /* the call that is to be interrupted has returned */

/* Again and again: one that comes before the call has begun is not meant for it. */
static void *interrupt_soon(void *ctx)
{
    while (!answered) {
        nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        mn_interrupt(ctx);
    }
    return NULL;
}

TEST(what_takes_long_can_be_stopped)
{
    float *q;
    mn_hit *hits;
    uint32_t *found;
    mn_db *db;
    mn_conn *conn = long_at(test_path("a.db"), &db, &q, &hits, &found);
    struct stopper s = {.stage = "search", .stop_at = 2};
    uint64_t n;
    pthread_t thread;
    /* By the progress callback: a search, verify, a backup, a batch of rows, deletes. */
    mn_set_progress(conn, stop, &s);
    says(mn_search(conn, "c", q, LONG_QUERIES, 10, NULL, hits, found, &err), MN_INTERRUPTED,
         "interrupted", NULL);
    s = (struct stopper){.stage = "verify", .stop_at = 2};
    says(mn_verify(conn, NULL, NULL, &n, &err), MN_INTERRUPTED, "interrupted", NULL);
    s = (struct stopper){.stage = "backup", .stop_at = 2};
    says(mn_backup(conn, test_path("copy.db"), &err), MN_INTERRUPTED, "interrupted", NULL);
    CHECK(access(test_path("copy.db"), F_OK) != 0);
    mn_row *rows = calloc(1000, sizeof *rows);
    CHECK(rows);
    for (int i = 0; i < 1000; i++)
        rows[i] = (mn_row){.id = LONG_ROWS + 1 + i, .vector = q};
    s = (struct stopper){.stage = "put", .stop_at = 2};
    says(mn_put(conn, "c", rows, 1000, NULL, &err), MN_INTERRUPTED, "interrupted", NULL);
    mn_set_progress(conn, NULL, NULL);
    CHECK_EQ(rows_of(conn), LONG_ROWS);
    /* From another thread. Without a running call an interrupt does nothing. */
    mn_interrupt(conn);
    CHECK_OK(mn_search(conn, "c", q, 1, 10, NULL, hits, found, &err), err);
    answered = false;
    CHECK_EQ(pthread_create(&thread, NULL, interrupt_soon, conn), 0);
    uint64_t start = now_ms();
    mn_status st = MN_OK;
    for (int i = 0; i < 2000 && st == MN_OK; i++) /* until it strikes inside a call */
        st = mn_search(conn, "c", q, LONG_QUERIES, 10, NULL, hits, found, &err);
    answered = true;
    CHECK_EQ(pthread_join(thread, NULL), 0);
    says(st, MN_INTERRUPTED, "interrupted", NULL);
    CHECK(now_ms() - start < 15000);
    /* A deadline. */
    mn_search_opts opts = {.deadline_us = 2000};
    start = now_ms();
    says(mn_search(conn, "c", q, LONG_QUERIES, 10, &opts, hits, found, &err), MN_DEADLINE,
         "deadline", NULL);
    CHECK(now_ms() - start < 5000);
    opts.deadline_us = 60000000;
    CHECK_OK(mn_search(conn, "c", q, 1, 10, &opts, hits, found, &err), err);
    CHECK_EQ(found[0], 10);
    CHECK_EQ(hits[0].id, 1);
    free(rows);
    free(q);
    free(hits);
    free(found);
    shut(conn, db);
}

/* Waiting for a lock ends at an interrupt too. */
TEST(waiting_for_a_writer_can_be_stopped)
{
    const char *path = test_path("a.db");
    mn_db *db;
    pthread_t thread;
    make_at(path);
    struct holder h = hold(path, 0);
    mn_conn *conn = open_at(path, NULL, &db);
    answered = false;
    CHECK_EQ(pthread_create(&thread, NULL, interrupt_soon, conn), 0);
    uint64_t start = now_ms();
    says(put1(conn, 9, &err), MN_INTERRUPTED, "interrupted", NULL);
    CHECK(now_ms() - start < 4000);
    answered = true;
    CHECK_EQ(pthread_join(thread, NULL), 0);
    shut(conn, db);
    let_go(h);
}

TEST_MAIN
