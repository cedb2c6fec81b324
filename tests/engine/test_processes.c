/* Several processes on one database. Children are forked before the parent opens anything: a handle
 * does not survive a fork. Parent and child talk over two pipes, a byte at a time. */
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mneme.h"
#include "tests/test.h"

static mn_error err;

struct child {
    pid_t pid;
    int to, from; /* ends of the parent's pipes */
};

/* What a child sees of its parent. */
struct parent {
    int from, to;
    const char *path;
    int number; /* of the child */
};

/* Ends the child with the line that failed: a CHECK would go on with the parent's tests. */
#define CHILD(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "\n    %s:%d: in a child: %s (%s)\n", __FILE__, __LINE__, #condition,  \
                    err.message);                                                                  \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

/* If the other side is gone, hear() will say so. */
static void tell(int fd)
{
    ssize_t ignored = write(fd, "x", 1);
    (void)ignored;
}

/* False when the other side is gone. */
static bool hear(int fd)
{
    char c;
    return read(fd, &c, 1) == 1;
}

/* The parent's ends of all pipes: a child that kept copies would keep its siblings waiting. */
static int ends[64];
static size_t n_ends;

static struct child start(void (*run)(struct parent *p), const char *path, int number)
{
    struct child c;
    int down[2], up[2];
    signal(SIGPIPE, SIG_IGN);
    CHECK(pipe(down) == 0 && pipe(up) == 0);
    fflush(stdout);
    c.pid = fork();
    CHECK(c.pid >= 0);
    if (c.pid == 0) {
        struct parent p = {.from = down[0], .to = up[1], .path = path, .number = number};
        close(down[1]);
        close(up[0]);
        for (size_t i = 0; i < n_ends; i++)
            close(ends[i]);
        run(&p);
        _exit(0);
    }
    close(down[0]);
    close(up[1]);
    c.to = ends[n_ends++] = down[1];
    c.from = ends[n_ends++] = up[0];
    return c;
}

static void finish(struct child *c)
{
    int status;
    close(c->to);
    CHECK(waitpid(c->pid, &status, 0) == c->pid);
    close(c->from);
    n_ends = 0; /* children start together, and the first to be waited for has seen the end */
    CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child ended with status 0x%x", status);
}

static void ask(struct child *c)
{
    tell(c->to);
    if (!hear(c->from))
        finish(c); /* says how it ended */
}

struct fix {
    mn_db *db;
    mn_conn *conn;
};

static mn_status open_both(const char *path, uint32_t timeout_ms, struct fix *f)
{
    const mn_open_opts opts = {.durability = MN_RELAXED, .busy_timeout_ms = timeout_ms};
    mn_status st = mn_open(path, &opts, &f->db, &err);
    return st ? st : mn_connect(f->db, &f->conn, &err);
}

static void shut(struct fix *f)
{
    mn_disconnect(f->conn);
    CHECK_OK(mn_close(f->db, &err), err);
}

static mn_status put1(mn_conn *conn, int64_t id, float x)
{
    const float v[2] = {x, 0};
    return mn_put(conn, "c", &(mn_row){.id = id, .vector = v}, 1, NULL, &err);
}

/* The nearest of (x, 0), and how many rows there are in all. */
static mn_status nearest(mn_conn *conn, float x, int64_t *id, uint32_t *rows)
{
    static mn_hit hits[MN_MAX_K];
    const float q[2] = {x, 0};
    mn_status st = mn_search(conn, "c", q, 1, MN_MAX_K, NULL, hits, rows, &err);
    *id = st == MN_OK && *rows ? hits[0].id : 0;
    return st;
}

static void make_collection(const char *path)
{
    struct fix f;
    CHECK_OK(open_both(path, 0, &f), err);
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), err);
    shut(&f);
}

/* ---- Readers see each commit --------------------------------------------------------------------
 */

static void read_each(struct parent *p)
{
    struct fix f;
    int64_t id;
    uint32_t rows;
    CHILD(open_both(p->path, 0, &f) == MN_OK);
    for (int i = 1; hear(p->from); i++) {
        CHILD(nearest(f.conn, (float)i, &id, &rows) == MN_OK);
        CHILD(id == i && rows == (uint32_t)i);
        tell(p->to);
    }
    mn_disconnect(f.conn);
    CHILD(mn_close(f.db, &err) == MN_OK);
}

TEST(readers_in_other_processes_see_each_commit_at_their_next_search)
{
    const char *path = test_path("a.db");
    struct child readers[3];
    struct fix f;
    for (int i = 0; i < 3; i++)
        readers[i] = start(read_each, path, i);
    CHECK_OK(open_both(path, 0, &f), err);
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err), err);
    for (int i = 1; i <= 100; i++) {
        CHECK_OK(put1(f.conn, i, (float)i), err);
        for (int j = 0; j < 3; j++)
            ask(&readers[j]);
    }
    for (int j = 0; j < 3; j++)
        finish(&readers[j]);
    shut(&f);
}

/* ---- One writer at a time
 * ------------------------------------------------------------------------- */

static void hold_a_transaction(struct parent *p)
{
    struct fix f;
    CHILD(hear(p->from));
    CHILD(open_both(p->path, 0, &f) == MN_OK);
    CHILD(mn_begin_write(f.conn, &err) == MN_OK);
    CHILD(put1(f.conn, 7, 7) == MN_OK);
    tell(p->to);
    CHILD(hear(p->from)); /* commit at once ... */
    CHILD(mn_commit(f.conn, &err) == MN_OK);
    tell(p->to);
    CHILD(hear(p->from)); /* ... and this one a while after saying that it is open */
    CHILD(mn_begin_write(f.conn, &err) == MN_OK);
    CHILD(put1(f.conn, 8, 8) == MN_OK);
    tell(p->to);
    nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
    CHILD(mn_commit(f.conn, &err) == MN_OK);
    mn_disconnect(f.conn);
    CHILD(mn_close(f.db, &err) == MN_OK);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

TEST(one_process_writes_and_nobody_who_reads_waits)
{
    const char *path = test_path("a.db");
    struct child writer = start(hold_a_transaction, path, 0);
    struct fix f;
    int64_t id;
    uint32_t rows;
    make_collection(path);
    CHECK_OK(open_both(path, MN_NO_WAIT, &f), err);
    CHECK_OK(put1(f.conn, 1, 1), err);
    ask(&writer);
    for (int i = 0; i < 20; i++) {
        CHECK_OK(nearest(f.conn, 7, &id, &rows), err);
        CHECK(id == 1 && rows == 1);
        CHECK_EQ(put1(f.conn, 2, 2), MN_BUSY);
        CHECK_HAS(err.message, "another connection has been writing");
        CHECK_HAS(err.message, path);
        CHECK_EQ(mn_begin_write(f.conn, &err), MN_BUSY);
    }
    shut(&f);
    CHECK_OK(open_both(path, 80, &f), err);
    double start_s = seconds();
    CHECK_EQ(put1(f.conn, 2, 2), MN_BUSY);
    CHECK_HAS(err.message, "80 ms");
    double waited = seconds() - start_s;
    CHECKF(waited >= 0.075 && waited < 5, "waited %.3f s", waited);
    shut(&f);
    CHECK_OK(open_both(path, 0, &f), err);
    ask(&writer);
    CHECK_OK(nearest(f.conn, 7, &id, &rows), err);
    CHECK(id == 7 && rows == 2);
    ask(&writer);
    CHECK_OK(put1(f.conn, 2, 2), err); /* waits until the child is done */
    CHECK_OK(nearest(f.conn, 8, &id, &rows), err);
    CHECK(id == 8 && rows == 4);
    finish(&writer);
    shut(&f);
}

static void write_many(struct parent *p)
{
    struct fix f;
    CHILD(hear(p->from));
    CHILD(open_both(p->path, 60000, &f) == MN_OK);
    for (int i = 0; i < 40; i++)
        CHILD(put1(f.conn, MN_AUTO_ID, (float)p->number) == MN_OK);
    tell(p->to);
    CHILD(!hear(p->from));
    mn_disconnect(f.conn);
    CHILD(mn_close(f.db, &err) == MN_OK);
}

TEST(writers_of_several_processes_take_turns_and_lose_nothing)
{
    const char *path = test_path("a.db");
    struct child writers[4];
    struct fix f;
    int64_t id;
    uint32_t rows;
    uint64_t findings;
    for (int i = 0; i < 4; i++)
        writers[i] = start(write_many, path, i);
    make_collection(path);
    for (int i = 0; i < 4; i++)
        tell(writers[i].to);
    for (int i = 0; i < 4; i++) {
        if (!hear(writers[i].from))
            finish(&writers[i]);
    }
    CHECK_OK(open_both(path, 0, &f), err);
    CHECK_OK(nearest(f.conn, 0, &id, &rows), err);
    CHECK_EQ(rows, 160);
    CHECK_OK(mn_verify(f.conn, NULL, NULL, &findings, &err), err);
    CHECK_EQ(findings, 0);
    for (int i = 0; i < 4; i++)
        finish(&writers[i]);
    shut(&f);
}

/* ---- A new database
 * ----------------------------------------------------------------------------------- */

static void create_and_put(struct parent *p)
{
    struct fix f;
    CHILD(hear(p->from));
    CHILD(open_both(p->path, 60000, &f) == MN_OK);
    mn_status st = mn_create(f.conn, "c", &(mn_collection_opts){.dim = 2}, &err);
    CHILD(st == MN_OK || st == MN_EXISTS);
    CHILD(put1(f.conn, p->number, (float)p->number) == MN_OK);
    char own[16];
    snprintf(own, sizeof own, "own%d", p->number);
    CHILD(mn_create(f.conn, own, &(mn_collection_opts){.dim = 3}, &err) == MN_OK);
    mn_disconnect(f.conn);
    CHILD(mn_close(f.db, &err) == MN_OK);
    if (st == MN_OK)
        tell(p->to);
}

TEST(a_database_created_by_several_processes_at_once_is_created_once)
{
    for (size_t round = 0; round < test_budget(10); round++) {
        char name[32];
        struct child makers[4];
        struct fix f;
        int64_t id;
        uint32_t rows;
        uint64_t findings;
        mn_collection_info *list;
        size_t n;
        int made = 0;
        snprintf(name, sizeof name, "%zu.db", round);
        const char *path = test_path(name);
        for (int i = 0; i < 4; i++)
            makers[i] = start(create_and_put, path, i + 1);
        for (int i = 0; i < 4; i++)
            tell(makers[i].to);
        for (int i = 0; i < 4; i++) {
            made += hear(makers[i].from);
            finish(&makers[i]);
        }
        CHECK_EQ(made, 1);
        CHECK_OK(open_both(path, 0, &f), err);
        CHECK_OK(nearest(f.conn, 1, &id, &rows), err);
        CHECK_EQ(rows, 4);
        CHECK_OK(mn_list(f.conn, &list, &n, &err), err);
        CHECK_EQ(n, 5);
        mn_free_result(list);
        CHECK_OK(mn_verify(f.conn, NULL, NULL, &findings, &err), err);
        CHECK_EQ(findings, 0);
        shut(&f);
    }
}

/* ---- Old snapshots, changed schemas
 * ---------------------------------------------------------------------- */

static void hold_a_snapshot(struct parent *p)
{
    struct fix f;
    int64_t id;
    uint32_t rows;
    CHILD(hear(p->from));
    CHILD(open_both(p->path, 0, &f) == MN_OK);
    CHILD(nearest(f.conn, 1, &id, &rows) == MN_OK);
    CHILD(mn_begin_read(f.conn, &err) == MN_OK);
    tell(p->to);
    for (int i = 0; i < 3; i++) {
        CHILD(hear(p->from));
        CHILD(nearest(f.conn, 500, &id, &rows) == MN_OK);
        CHILD(id == 10 && rows == 10);
        tell(p->to);
    }
    CHILD(hear(p->from));
    CHILD(mn_commit(f.conn, &err) == MN_OK);
    CHILD(nearest(f.conn, 500, &id, &rows) == MN_OK);
    CHILD(id == 500 && rows == 500);
    tell(p->to);
    mn_disconnect(f.conn);
    CHILD(mn_close(f.db, &err) == MN_OK);
}

TEST(a_reader_keeps_its_snapshot_while_another_process_writes)
{
    const char *path = test_path("a.db");
    struct child reader = start(hold_a_snapshot, path, 0);
    struct fix f;
    make_collection(path);
    CHECK_OK(open_both(path, 0, &f), err);
    for (int i = 1; i <= 10; i++)
        CHECK_OK(put1(f.conn, i, (float)i), err);
    ask(&reader);
    for (int i = 1; i <= 500; i++) {
        CHECK_OK(put1(f.conn, i, (float)i), err);
        if (i % 200 == 0)
            ask(&reader);
    }
    sqlite3 *sql; /* a checkpoint as far as the reader lets it */
    CHECK(sqlite3_open(path, &sql) == SQLITE_OK);
    CHECK(sqlite3_wal_checkpoint_v2(sql, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL) == SQLITE_OK);
    sqlite3_close(sql);
    ask(&reader);
    ask(&reader);
    finish(&reader);
    shut(&f);
}

static void follow_the_schema(struct parent *p)
{
    struct fix f;
    int64_t id;
    uint32_t rows;
    mn_rows *got;
    mn_collection_info info;
    CHILD(hear(p->from)); /* a collection of two dimensions */
    CHILD(open_both(p->path, 0, &f) == MN_OK);
    CHILD(nearest(f.conn, 1, &id, &rows) == MN_OK && rows == 1);
    CHILD(nearest(f.conn, 1, &id, &rows) == MN_OK && rows == 1);
    tell(p->to);
    CHILD(hear(p->from)); /* with an attribute */
    CHILD(mn_get(f.conn, "c", &(mn_id){.id = 1}, 1, &got, &err) == MN_OK);
    CHILD(mn_row_attr(mn_rows_at(got, 0), "lang"));
    mn_rows_free(got);
    CHILD(put1(f.conn, 2, 2) == MN_OK);
    tell(p->to);
    CHILD(hear(p->from)); /* gone */
    CHILD(nearest(f.conn, 1, &id, &rows) == MN_NOTFOUND);
    CHILD(put1(f.conn, 3, 3) == MN_NOTFOUND);
    tell(p->to);
    CHILD(hear(p->from)); /* another of that name, of one dimension */
    CHILD(mn_info(f.conn, "c", &info, &err) == MN_OK && info.dim == 1);
    CHILD(nearest(f.conn, 1, &id, &rows) == MN_OK && rows == 0);
    CHILD(put1(f.conn, 3, 3) == MN_OK);
    CHILD(nearest(f.conn, 1, &id, &rows) == MN_OK && rows == 1 && id == 3);
    tell(p->to);
    mn_disconnect(f.conn);
    CHILD(mn_close(f.db, &err) == MN_OK);
}

TEST(a_schema_changed_by_another_process_is_followed)
{
    const char *path = test_path("a.db");
    struct child other = start(follow_the_schema, path, 0);
    struct fix f;
    int64_t id;
    uint32_t rows;
    make_collection(path);
    CHECK_OK(open_both(path, 0, &f), err);
    CHECK_OK(put1(f.conn, 1, 1), err);
    ask(&other);
    CHECK_OK(mn_add_attribute(f.conn, "c", "lang", &err), err);
    ask(&other);
    CHECK_OK(nearest(f.conn, 2, &id, &rows), err);
    CHECK(id == 2 && rows == 2);
    CHECK_OK(mn_drop(f.conn, "c", &err), err);
    ask(&other);
    CHECK_OK(mn_create(f.conn, "c", &(mn_collection_opts){.dim = 1}, &err), err);
    ask(&other);
    CHECK_OK(nearest(f.conn, 3, &id, &rows), err);
    CHECK(id == 3 && rows == 1);
    finish(&other);
    shut(&f);
}

/* Both processes hold vectors in memory; one writes more than its change log keeps. */
static void write_beyond_the_log(struct parent *p)
{
    struct fix f;
    static mn_row rows[1000];
    static float v[1000][2];
    CHILD(hear(p->from));
    CHILD(open_both(p->path, 0, &f) == MN_OK);
    for (int round = 0; round < 75; round++) {
        for (int i = 0; i < 1000; i++) {
            v[i][0] = (float)(round * 1000 + i);
            rows[i] = (mn_row){.id = i + 1, .vector = v[i]};
        }
        CHILD(mn_put(f.conn, "c", rows, 1000, NULL, &err) == MN_OK);
    }
    tell(p->to);
    mn_disconnect(f.conn);
    CHILD(mn_close(f.db, &err) == MN_OK);
}

TEST(more_changes_than_the_log_keeps_reach_other_processes)
{
    const char *path = test_path("a.db");
    struct child writer = start(write_beyond_the_log, path, 0);
    struct fix f;
    int64_t id;
    uint32_t rows;
    mn_collection_stats stats;
    make_collection(path);
    CHECK_OK(open_both(path, 0, &f), err);
    CHECK_OK(put1(f.conn, 5, 1), err);
    for (int i = 0; i < 2; i++)
        CHECK_OK(nearest(f.conn, 1, &id, &rows), err);
    ask(&writer);
    CHECK_OK(mn_collection_stats_get(f.conn, "c", &stats, &err), err);
    CHECKF(stats.log_entries < 75000, "%" PRIu64 " entries", stats.log_entries);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(nearest(f.conn, 74010, &id, &rows), err);
        CHECK(id == 11 && rows == 1000);
    }
    finish(&writer);
    shut(&f);
}

TEST_MAIN
