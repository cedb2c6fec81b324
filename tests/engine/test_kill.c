/* SIGKILL at any time: a writer that is killed in the middle of anything loses nothing that it
 * acknowledged, and no operation is there by half. This is about the death of processes; power
 * loss is test_crash.c's business.
 *
 * What must be there is kept outside the victim, in memory shared with the parent, one word a key:
 * the number of the operation that wrote it last and was acknowledged. Before a call the writer
 * notes what it is about to do; after its death those keys must have all the old or all the new
 * values, and every other key exactly its own. Readers run alongside and compare every answer with
 * brute force over the rows of the same snapshot. */
#include "tests/test.h"

#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mneme.h"
#include "tests/engine/brute.h"

enum { KEYS = 400, DIM = 12, WRITERS = 2, BATCH = 24, DELETED = 1u << 31 };

/* Values only grow; a deletion is a value with DELETED set. Writer w has the keys of its half. */
struct intent {
    _Atomic bool pending;
    uint32_t first, n, value;
};

struct shared {
    _Atomic uint32_t value[KEYS]; /* acknowledged */
    struct intent intent[WRITERS];
    _Atomic uint32_t counter;     /* the last value given out */
    _Atomic uint64_t acked, searches, opens;
    _Atomic bool failed;
    char why[600];
};

static struct shared *shared;
static const char *path;

static void share(void)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    path = test_path("app.db");
}

/* A child has no harness: it says why and goes. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!atomic_exchange(&shared->failed, true))
        vsnprintf(shared->why, sizeof shared->why, format, args);
    va_end(args);
    _exit(1);
}

static void must(mn_status st, const mn_error *err, const char *what)
{
    if (st)
        die("%s: %s, %s", what, mn_status_name(st), err->message);
}

static void pause_us(long us)
{
    nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL);
}

static void vector_of(uint32_t key, uint32_t value, float *v)
{
    v[0] = (float)(value & 0xffff);
    v[1] = (float)(value >> 16);
    for (uint32_t i = 2; i < DIM; i++)
        v[i] = (float)((value * 31 + key * i) % 41) - 20;
}

/* ---- Children -------------------------------------------------------------------------------- */

static mn_conn *child_open(mn_db **db)
{
    mn_conn *conn;
    mn_error err;
    must(mn_open(path, NULL, db, &err), &err, "open");
    must(mn_connect(*db, &conn, &err), &err, "connect");
    atomic_fetch_add(&shared->opens, 1);
    return conn;
}

static mn_status put(mn_conn *conn, uint32_t first, uint32_t n, uint32_t value, mn_error *err)
{
    float vectors[BATCH][DIM];
    mn_attr attrs[BATCH];
    mn_row rows[BATCH];
    for (uint32_t i = 0; i < n; i++) {
        vector_of(first + i, value, vectors[i]);
        attrs[i] = (mn_attr){"value", {.type = MN_INTEGER, .integer = value}};
        rows[i] = (mn_row){.id = first + i, .vector = vectors[i], .attrs = &attrs[i], .n_attrs = 1};
    }
    return mn_put(conn, "c", rows, n, NULL, err);
}

static mn_status remove_keys(mn_conn *conn, uint32_t first, uint32_t n, mn_error *err)
{
    mn_id ids[BATCH];
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (mn_id){.id = first + i};
    return mn_delete(conn, "c", ids, n, NULL, err);
}

/* The batch in two halves inside one transaction, with something undone in between. */
static mn_status put_in_transaction(mn_conn *conn, uint32_t first, uint32_t n, uint32_t value,
                                    mn_error *err)
{
    mn_status st = mn_begin_write(conn, err);
    if (st == MN_OK)
        st = put(conn, first, n / 2, value, err);
    if (st == MN_OK)
        st = mn_savepoint(conn, "half", err);
    if (st == MN_OK)
        st = put(conn, first, n, value + 1, err);
    if (st == MN_OK)
        st = mn_rollback_to(conn, "half", err);
    if (st == MN_OK)
        st = put(conn, first + n / 2, n - n / 2, value, err);
    return st ? st : mn_commit(conn, err);
}

/* One operation: noted, done, acknowledged. */
static void write_once(mn_conn *conn, int writer, struct test_rng *rng)
{
    struct intent *in = &shared->intent[writer];
    const uint32_t half = KEYS / WRITERS;
    uint32_t n = 2 + (uint32_t)test_below(rng, BATCH - 1);
    uint32_t first = (uint32_t)writer * half + (uint32_t)test_below(rng, half - n);
    uint32_t value = atomic_fetch_add(&shared->counter, 2) + 2;
    uint64_t kind = test_below(rng, 8);
    mn_error err;
    if (kind == 0)
        value |= DELETED;
    in->first = first;
    in->n = n;
    in->value = value;
    atomic_store(&in->pending, true);
    if (kind == 0)
        must(remove_keys(conn, first, n, &err), &err, "delete");
    else if (kind < 3)
        must(put_in_transaction(conn, first, n, value, &err), &err, "transaction");
    else
        must(put(conn, first, n, value, &err), &err, "put");
    for (uint32_t i = 0; i < n; i++)
        atomic_store(&shared->value[first + i], value);
    atomic_store(&in->pending, false);
    atomic_fetch_add(&shared->acked, 1);
}

static void writer_main(int writer, uint64_t seed)
{
    struct test_rng rng = {seed};
    mn_db *db;
    mn_conn *conn = child_open(&db);
    for (;;)
        write_once(conn, writer, &rng);
}

/* Opens, writes a little, closes, over and over: mostly it recovers or folds up the log. */
static void closer_main(int writer, uint64_t seed)
{
    struct test_rng rng = {seed};
    for (;;) {
        mn_db *db;
        mn_conn *conn = child_open(&db);
        for (uint64_t i = test_below(&rng, 3); i > 0; i--)
            write_once(conn, writer, &rng);
        mn_disconnect(conn);
        mn_error err;
        must(mn_close(db, &err), &err, "close");
    }
}

/* Comes and goes without writing: killed, it dies in the recovery of the log. */
static void opener_main(int writer, uint64_t seed)
{
    (void)writer;
    (void)seed;
    for (;;) {
        mn_db *db;
        mn_conn *conn = child_open(&db);
        mn_disconnect(conn);
        mn_close(db, NULL);
    }
}

/* All rows of the reader's snapshot, each checked: as some operation wrote it, and not older than
 * what had been acknowledged before the snapshot began. */
static void read_snapshot(mn_conn *conn, const uint32_t *before, struct brute *all)
{
    mn_iter *it;
    const mn_row *row;
    mn_error err;
    float want[DIM];
    all->n = 0;
    must(mn_iter_open(conn, "c", INT64_MIN, &it, &err), &err, "iterate");
    for (;;) {
        must(mn_iter_next(it, &row, &err), &err, "next");
        if (!row)
            break;
        const mn_value *value = mn_row_attr(row, "value");
        if (row->id < 0 || row->id >= KEYS || !row->vector || !value)
            die("a reader met row %" PRId64 ", which nobody put", row->id);
        uint32_t v = (uint32_t)value->integer, key = (uint32_t)row->id;
        vector_of(key, v, want);
        if (memcmp(want, row->vector, sizeof want) != 0)
            die("a reader met key %u with value %u and another value's vector", key, v);
        if (v < (before[key] & ~DELETED))
            die("a reader met key %u with value %u; %u had been acknowledged", key, v,
                before[key] & ~DELETED);
        brute_add(all, row->id, row->vector);
    }
    mn_iter_close(it);
}

static void reader_main(int writer, uint64_t seed)
{
    struct test_rng rng = {seed};
    struct brute all = {.dim = DIM, .small_integers = true};
    uint32_t before[KEYS];
    mn_db *db;
    mn_error err;
    (void)writer;
    mn_conn *conn = child_open(&db);
    for (;;) {
        float q[DIM];
        mn_hit hits[10];
        uint32_t found;
        for (uint32_t i = 0; i < KEYS; i++)
            before[i] = atomic_load(&shared->value[i]);
        must(mn_begin_read(conn, &err), &err, "begin");
        vector_of((uint32_t)test_below(&rng, KEYS), atomic_load(&shared->counter), q);
        must(mn_search(conn, "c", q, 1, 10, NULL, hits, &found, &err), &err, "search");
        read_snapshot(conn, before, &all);
        const char *wrong = brute_compare(&all, q, 10, 0, NULL, NULL, hits, found);
        if (wrong)
            die("a reader's search: %s", wrong);
        must(mn_commit(conn, &err), &err, "end of a read");
        atomic_fetch_add(&shared->searches, 1);
    }
}

typedef void (*main_fn)(int writer, uint64_t seed);

static pid_t start(main_fn fn, int writer, uint64_t seed)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        fn(writer, seed);
        _exit(0);
    }
    CHECK(pid > 0);
    return pid;
}

static void finish(pid_t pid)
{
    int status = 0;
    kill(pid, SIGKILL);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECKF(!atomic_load(&shared->failed), "%s", shared->why);
    CHECKF(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "a child ended with status %d",
           status);
}

/* ---- The parent looks ------------------------------------------------------------------------ */

/* The value that each key has, by a plain SELECT; 0: not there. */
static void read_values(sqlite3 *db, uint32_t *out)
{
    sqlite3_stmt *st = NULL;
    float want[DIM];
    int rc = sqlite3_prepare_v2(db, "SELECT id, value, vector FROM c", -1, &st, NULL);
    CHECKF(rc == SQLITE_OK, "%s", sqlite3_errmsg(db));
    memset(out, 0, KEYS * sizeof *out);
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        int64_t key = sqlite3_column_int64(st, 0);
        uint32_t value = (uint32_t)sqlite3_column_int64(st, 1);
        CHECK(key >= 0 && key < KEYS && value);
        vector_of((uint32_t)key, value, want);
        CHECK_EQ(sqlite3_column_bytes(st, 2), sizeof want);
        CHECKF(memcmp(sqlite3_column_blob(st, 2), want, sizeof want) == 0,
               "key %d has value %u and another value's vector", (int)key, value);
        out[key] = value;
    }
    CHECKF(rc == SQLITE_DONE, "%s", sqlite3_errmsg(db));
    sqlite3_finalize(st);
}

static uint32_t shown(uint32_t value)
{
    return value & DELETED ? 0 : value;
}

/* Settles one writer's pending operation: all old or all new. Then what is there is what must be
 * there from now on. Returns 1 if the operation in flight was there. */
static int settle(const struct intent *in, const uint32_t *has, int round)
{
    uint32_t old = 0, new = 0;
    for (uint32_t key = in->first; key < in->first + in->n; key++) {
        old += has[key] == shown(atomic_load(&shared->value[key]));
        new += has[key] == shown(in->value);
    }
    CHECKF(old == in->n || new == in->n,
           "round %d: operation %u on keys %u to %u is there by half: %u old, %u new", round,
           in->value, in->first, in->first + in->n - 1, old, new);
    for (uint32_t key = in->first; key < in->first + in->n && new == in->n; key++)
        atomic_store(&shared->value[key], in->value);
    return new == in->n;
}

static void no_finding(void *ctx, const char *where, const char *what)
{
    snprintf(ctx, 300, "%s: %s", where, what);
}

/* Compares everything with what was acknowledged; returns how many operations in flight are in. */
static int look(int round)
{
    mn_db *db;
    mn_conn *conn;
    mn_error err;
    sqlite3 *sql;
    uint32_t has[KEYS], found;
    char why[300] = "";
    uint64_t findings = 0;
    int came_back = 0;
    CHECK_OK(mn_open(path, NULL, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    CHECK_EQ(sqlite3_open(path, &sql), SQLITE_OK);
    sqlite3_busy_timeout(sql, 5000);
    read_values(sql, has);
    for (int w = 0; w < WRITERS; w++)
        if (atomic_exchange(&shared->intent[w].pending, false))
            came_back += settle(&shared->intent[w], has, round);
    for (uint32_t key = 0; key < KEYS; key++) {
        uint32_t want = shown(atomic_load(&shared->value[key]));
        CHECKF(has[key] == want, "round %d: key %u has value %u, acknowledged was %u", round, key,
               has[key], want);
    }
    float q[DIM];
    mn_hit hits[10];
    struct brute all = {.dim = DIM, .small_integers = true};
    vector_of(7, (uint32_t)round * 50, q);
    brute_load(&all, sql, "c", "vector");
    CHECK_OK(mn_search(conn, "c", q, 1, 10, NULL, hits, &found, &err), err);
    const char *wrong = brute_compare(&all, q, 10, 0, NULL, NULL, hits, found);
    CHECKF(!wrong, "round %d: %s", round, wrong);
    brute_free(&all);
    CHECK_OK(mn_verify(conn, no_finding, why, &findings, &err), err);
    CHECKF(findings == 0, "round %d: verify: %s", round, why);
    /* A writer that died between its last write to the log and telling the others leaves a whole
     * commit behind the log's end, as the living see it. While one of them lives it is not there;
     * recovery after the last one's death would find it. The next commit overwrites it. */
    const mn_row row = {.id = round + 1};
    CHECK_OK(mn_put(conn, "barrier", &row, 1, NULL, &err), err);
    sqlite3_close(sql);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
    return came_back;
}

static void make_database(void)
{
    static const char *const attributes[] = {"value"};
    mn_db *db;
    mn_conn *conn;
    mn_error err;
    mn_collection_opts opts = {.dim = DIM, .attributes = attributes, .n_attributes = 1};
    CHECK_OK(mn_open(path, NULL, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    CHECK_OK(mn_create(conn, "c", &opts, &err), err);
    CHECK_OK(mn_create(conn, "barrier", &(mn_collection_opts){.dim = 1}, &err), err);
    mn_disconnect(conn);
    CHECK_OK(mn_close(db, &err), err);
}

/* The parent has nothing of the database open while it forks. */
TEST(killed_writers_lose_nothing_that_they_acknowledged)
{
    struct test_rng rng = {2024};
    int rounds = (int)test_budget(100), kills = 0, came_back = 0;
    share();
    make_database();
    for (int round = 0; round < rounds; round++) {
        uint64_t seed = test_rand(&rng);
        long us = 2000 + (long)test_below(&rng, 60000);
        pid_t reader = start(reader_main, 0, seed + 9);
        pid_t writers[WRITERS] = {0};
        writers[0] = start(round % 3 == 1 ? closer_main : writer_main, 0, seed);
        if (round % 3 != 0)
            writers[1] = start(round % 3 == 1 ? closer_main : writer_main, 1, seed + 1);
        pause_us(us);
        for (int w = 0; w < WRITERS; w++, pause_us(us / 8))
            if (writers[w]) {
                finish(writers[w]);
                kills++;
            }
        if (round % 2) { /* the reader goes too: nobody is left who knows the log's index */
            finish(reader);
            reader = 0;
            pid_t opener = start(opener_main, 0, seed);
            pause_us((long)test_below(&rng, 4000));
            finish(opener);
            kills++;
        }
        came_back += look(round);
        if (reader)
            finish(reader);
    }
    uint64_t acked = atomic_load(&shared->acked), searches = atomic_load(&shared->searches);
    test_note("%d kills, %d operations acknowledged, %d in flight came back, %d opens, %d searches",
              kills, (int)acked, came_back, (int)atomic_load(&shared->opens), (int)searches);
    CHECK((int)acked > rounds / 4); /* on a loaded machine many die before they begin */
    CHECK((int)searches > rounds / 4);
    munmap(shared, sizeof *shared);
}

/* A collection made, filled and dropped: after a kill it is whole or not there. */
static void dropper_main(int writer, uint64_t seed)
{
    mn_db *db;
    mn_conn *conn = child_open(&db);
    mn_error err;
    float v[4] = {1, 2, 3, 4};
    mn_row rows[40];
    (void)writer;
    (void)seed;
    for (int i = 0; i < 40; i++)
        rows[i] = (mn_row){.id = i + 1, .vector = v};
    for (;;) {
        must(mn_create(conn, "t", &(mn_collection_opts){.dim = 4}, &err), &err, "create");
        must(mn_put(conn, "t", rows, 40, NULL, &err), &err, "put");
        must(mn_drop(conn, "t", &err), &err, "drop");
        atomic_fetch_add(&shared->acked, 1);
    }
}

TEST(a_killed_create_or_drop_is_whole_or_nothing)
{
    struct test_rng rng = {77};
    int seen[3] = {0, 0, 0}; /* not there, empty, full */
    share();
    make_database();
    for (int round = 0; round < (int)test_budget(30); round++) {
        mn_db *db;
        mn_conn *conn;
        mn_error err;
        mn_collection_stats stats = {0};
        uint64_t findings = 0;
        char why[300] = "";
        pid_t child = start(dropper_main, 0, 0);
        pause_us(1000 + (long)test_below(&rng, 30000));
        finish(child);
        CHECK_OK(mn_open(path, NULL, &db, &err), err);
        CHECK_OK(mn_connect(db, &conn, &err), err);
        mn_status st = mn_collection_stats_get(conn, "t", &stats, &err);
        CHECKF(st == MN_OK || st == MN_NOTFOUND, "%s", err.message);
        CHECK(st == MN_NOTFOUND || stats.rows == 0 || stats.rows == 40);
        seen[st ? 0 : stats.rows ? 2 : 1]++;
        CHECK_OK(mn_verify(conn, no_finding, why, &findings, &err), err);
        CHECKF(findings == 0, "round %d: verify: %s", round, why);
        if (st == MN_OK)
            CHECK_OK(mn_drop(conn, "t", &err), err);
        mn_disconnect(conn);
        CHECK_OK(mn_close(db, &err), err);
    }
    test_note("%d rounds of create and drop; not there %d, empty %d, full %d",
              (int)atomic_load(&shared->acked), seen[0], seen[1], seen[2]);
    munmap(shared, sizeof *shared);
}

/* A backup that is killed leaves no file under the copy's name, or a complete one. */
static void backup_main(int writer, uint64_t seed)
{
    mn_db *db;
    mn_conn *conn = child_open(&db);
    char name[600];
    mn_error err;
    (void)writer;
    for (int i = 0;; i++) {
        snprintf(name, sizeof name, "%s-copy-%u-%d", path, (unsigned)(seed & 0xffff), i);
        must(mn_backup(conn, name, &err), &err, "backup");
        atomic_store(&shared->counter, (uint32_t)i + 1);
    }
}

TEST(a_killed_backup_leaves_a_complete_copy_or_none)
{
    struct test_rng rng = {5};
    int complete = 0;
    share();
    make_database();
    for (uint32_t round = 0; round < test_budget(10); round++) {
        atomic_store(&shared->counter, 0);
        pid_t child = start(backup_main, 0, round);
        pause_us(1000 + (long)test_below(&rng, 40000));
        finish(child);
        uint32_t acked = atomic_load(&shared->counter);
        for (uint32_t i = 0; i <= acked; i++) {
            char name[600];
            mn_db *db;
            mn_conn *conn;
            mn_error err;
            mn_collection_info info;
            uint64_t findings = 9;
            snprintf(name, sizeof name, "%s-copy-%u-%u", path, round, i);
            if (access(name, F_OK) != 0) {
                CHECKF(i == acked, "copy %u was acknowledged and is not there", i);
                continue;
            }
            CHECK_OK(mn_open(name, NULL, &db, &err), err);
            CHECK_OK(mn_connect(db, &conn, &err), err);
            CHECK_OK(mn_info(conn, "c", &info, &err), err);
            CHECK_OK(mn_verify(conn, NULL, NULL, &findings, &err), err);
            CHECK_EQ(findings, 0);
            mn_disconnect(conn);
            CHECK_OK(mn_close(db, &err), err);
            complete++;
        }
    }
    test_note("%d copies", complete);
    munmap(shared, sizeof *shared);
}

TEST_MAIN
