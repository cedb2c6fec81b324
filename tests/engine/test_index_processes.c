/* The hybrid index under several processes: they fold in memory and publish by turns, one reads
 * only, one makes the collection anew, one is refused io_uring. Children are forked while nothing
 * is open, and must not CHECK: that would run the parent's other tests. */
#include "tests/engine/trouble.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DIM = 8, ROWS = 400 };

static mn_error err;

static void make(const char *path)
{
    struct trouble t = trouble_open(path, MN_F32, MN_L2, DIM, MN_OPEN_NO_BACKGROUND);
    trouble_fill(&t, ROWS);
    trouble_close(&t);
}

/* What went wrong in a child; its exit status. */
static int complain(const char *what)
{
    fprintf(stderr, "\n    in a child: %s\n", what);
    return 1;
}

struct child {
    pid_t pid;
    int to, from; /* the parent's ends */
};

/* `run` hears of its parent by one pipe and tells by the other. */
static struct child start(int (*run)(const char *path, int number, int from, int to),
                          const char *path, int number)
{
    int down[2], up[2];
    CHECK(pipe2(down, O_CLOEXEC) == 0 && pipe2(up, O_CLOEXEC) == 0);
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(down[1]);
        close(up[0]);
        _exit(run(path, number, down[0], up[1]));
    }
    close(down[0]);
    close(up[1]);
    return (struct child){pid, down[1], up[0]};
}

static void finish(struct child *c)
{
    int status = 0;
    close(c->to);
    CHECK(waitpid(c->pid, &status, 0) == c->pid);
    close(c->from);
    CHECKF(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child ended with status %x", status);
}

static bool hear(int fd)
{
    char c;
    return read(fd, &c, 1) == 1;
}

static void tell(int fd)
{
    ssize_t ignored = write(fd, "x", 1);
    (void)ignored;
}

/* ---- Folds in memory and publishes, by turns ------------------------------------------------- */

/* Rows and answers of one snapshot, looked at several times. */
static const char *look(struct trouble *t, int times, uint64_t *by_index)
{
    uint64_t n = 0;
    const char *wrong = mn_begin_read(t->conn, &err) ? err.message : NULL;
    if (!wrong)
        brute_load(&t->b, t->conn->sql, "c", "vector");
    for (int i = 0; i < times && !wrong; i++) {
        wrong = trouble_compare(t->conn, &t->b, false, &n);
        *by_index += n;
        if (i)
            usleep(3000);
    }
    return wrong || !mn_commit(t->conn, &err) ? wrong : err.message;
}

static int writes(const char *path, int number, int from, int to)
{
    struct trouble t = {.path = path, .b = {.dtype = MN_F32, .metric = MN_L2, .dim = DIM}};
    uint64_t by_index = 0;
    bool did;
    (void)from;
    (void)to;
    if (trouble_try_open(&t, MN_OPEN_NO_BACKGROUND, number == 1, &err))
        return complain(err.message);
    for (int i = 0; i < 12; i++) {
        int64_t first = 1 + (i * 37 + number * 150) % 350;
        if (trouble_try_put(t.conn, &t.b, first, first + 45, (uint64_t)(100 * number + i), &err))
            return complain(err.message);
        const char *wrong = look(&t, 1, &by_index);
        if (!wrong && trouble_try_fold_ahead(t.conn, "c", &did, &err))
            wrong = err.message;
        if (!wrong)
            wrong = look(&t, 1 + i % 3, &by_index);
        if (!wrong && i % 4 == 3 && mn_fold(t.conn, "c", &err))
            wrong = err.message;
        if (!wrong)
            wrong = look(&t, 1, &by_index);
        if (wrong)
            return complain(wrong);
    }
    brute_free(&t.b);
    mn_disconnect(t.conn);
    return mn_close(t.db, &err) || by_index == 0 ? complain("close, or no index") : 0;
}

/* Until the parent says that all have written. */
static int reads(const char *path, int number, int from, int to)
{
    struct trouble t = {.path = path, .b = {.dtype = MN_F32, .metric = MN_L2, .dim = DIM}};
    uint64_t by_index = 0;
    char c;
    bool did, end = false;
    (void)number;
    (void)to;
    fcntl(from, F_SETFL, O_NONBLOCK);
    if (trouble_try_open(&t, MN_OPEN_READONLY, false, &err))
        return complain(err.message);
    for (int i = 0; !end; i++) {
        end = read(from, &c, 1) == 0;
        const char *wrong = look(&t, i % 3 ? 1 : 6, &by_index);
        if (!wrong && trouble_try_fold_ahead(t.conn, "c", &did, &err))
            wrong = err.message;
        if (wrong)
            return complain(wrong);
    }
    brute_free(&t.b);
    mn_disconnect(t.conn);
    return mn_close(t.db, &err) || by_index == 0 ? complain("close, or no index") : 0;
}

TEST(processes_fold_in_memory_and_publish_by_turns)
{
    const char *path = test_path("a.db");
    make(path);
    struct child reader = start(reads, path, 0), writer[2];
    for (int i = 0; i < 2; i++)
        writer[i] = start(writes, path, i);
    for (int i = 0; i < 2; i++)
        finish(&writer[i]);
    finish(&reader);
    struct trouble t = trouble_open(path, MN_F32, MN_L2, DIM, MN_OPEN_NO_BACKGROUND);
    CHECK(trouble_number(t.conn, "SELECT generation FROM mneme_indexes") > 4);
    CHECK(trouble_check(&t, t.conn, "after all") > 0);
    trouble_check_mended(&t, "in the end");
    trouble_close(&t);
}

/* ---- A collection made anew elsewhere -------------------------------------------------------- */

static int makes_anew(const char *path, int number, int from, int to)
{
    struct trouble t = {.path = path, .b = {.dtype = MN_F32, .metric = MN_L2, .dim = DIM}};
    const mn_collection_opts opts = {.dim = DIM};
    (void)number;
    for (uint64_t round = 0; hear(from); round++) {
        if (trouble_try_open(&t, MN_OPEN_NO_BACKGROUND, false, &err) ||
            mn_drop(t.conn, "c", &err) || mn_create(t.conn, "c", &opts, &err) ||
            trouble_try_put(t.conn, &t.b, 50, 50 + ROWS, 900 + round, &err) ||
            (round % 2 && mn_fold(t.conn, "c", &err)))
            return complain(err.message);
        mn_disconnect(t.conn);
        if (mn_close(t.db, &err))
            return complain(err.message);
        tell(to);
    }
    return 0;
}

TEST(a_collection_made_anew_by_another_process)
{
    const char *path = test_path("a.db");
    make(path);
    struct child other = start(makes_anew, path, 0);
    struct trouble t = trouble_open(path, MN_F32, MN_L2, DIM, MN_OPEN_NO_BACKGROUND);
    for (int round = 0; round < 4; round++) {
        trouble_put(&t, 1, 90, 10 + (uint64_t)round);
        trouble_check(&t, t.conn, "before");
        trouble_fold_ahead(t.conn);
        tell(other.to);
        CHECK(hear(other.from));
        trouble_check(&t, t.conn, "made anew");
        trouble_put(&t, 100, 160, 20 + (uint64_t)round);
        trouble_check(&t, t.conn, "and changed");
        trouble_fold_ahead(t.conn);
        CHECK(trouble_check(&t, t.conn, "and folded") > 0 || round % 2 == 0);
        trouble_check_mended(&t, "published");
    }
    trouble_close(&t);
    finish(&other);
}

/* ---- Turns ----------------------------------------------------------------------------------- */

struct holder {
    int from, to;
};

/* Holds the right to fold, inside a build, until the parent says so. */
static mn_status holds_on(void *ctx, const mn_training *t, mn_error *e)
{
    const struct holder *h = ctx;
    (void)e;
    tell(h->to);
    hear(h->from);
    memcpy(t->centroids, t->vectors, (size_t)t->k * t->dim * sizeof(float));
    return MN_OK;
}

static int builds_slowly(const char *path, int number, int from, int to)
{
    struct trouble t = {.path = path};
    struct holder h = {from, to};
    (void)number;
    if (trouble_try_open(&t, MN_OPEN_NO_BACKGROUND, false, &err))
        return complain(err.message);
    mn_set_trainer(t.conn, holds_on, &h);
    if (mn_rebuild(t.conn, "c", &err))
        return complain(err.message);
    mn_disconnect(t.conn);
    return mn_close(t.db, &err) ? complain(err.message) : 0;
}

static bool enough(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    int *calls = ctx;
    (void)stage;
    (void)done;
    (void)total;
    return ++*calls < 20;
}

/* How a fold ends while another process folds, and after how long. */
static mn_status fold_beside(const char *path, uint32_t timeout_ms, bool stop, uint64_t *ms)
{
    const struct db_stage stage = {.limits = INDEXED_LIMITS};
    const mn_open_opts opts = {.flags = MN_OPEN_NO_BACKGROUND, .busy_timeout_ms = timeout_ms};
    mn_db *db;
    mn_conn *conn;
    int calls = 0;
    CHECK_OK(db_open_on(path, &opts, &stage, &db, &err), err);
    CHECK_OK(mn_connect(db, &conn, &err), err);
    if (stop)
        mn_set_progress(conn, enough, &calls);
    uint64_t since = clock_us();
    mn_status st = mn_fold(conn, "c", &err);
    *ms = (clock_us() - since) / 1000;
    mn_disconnect(conn);
    mn_error later;
    CHECK_OK(mn_close(db, &later), later);
    return st;
}

TEST(a_fold_waits_while_another_process_folds)
{
    const char *path = test_path("a.db");
    uint64_t ms;
    make(path);
    struct child other = start(builds_slowly, path, 0);
    CHECK(hear(other.from));
    CHECK_EQ(fold_beside(path, MN_NO_WAIT, false, &ms), MN_BUSY);
    CHECK_HAS(err.message, "another process");
    CHECKF(ms < 2000, "not to wait took %d ms", (int)ms);
    CHECK_EQ(fold_beside(path, 60, false, &ms), MN_BUSY);
    CHECKF(ms >= 60 && ms < 5000, "60 ms took %d", (int)ms);
    CHECK_EQ(fold_beside(path, 60000, true, &ms), MN_INTERRUPTED);
    CHECKF(ms < 20000, "the interrupted one took %d ms", (int)ms);
    pid_t helper = fork(); /* lets the other go on while this one waits */
    CHECK(helper >= 0);
    if (helper == 0) {
        usleep(30000);
        tell(other.to);
        _exit(0);
    }
    CHECK_OK(fold_beside(path, 60000, false, &ms), err);
    CHECKF(ms >= 10, "it took %d ms: who waited?", (int)ms);
    CHECK(waitpid(helper, NULL, 0) == helper);
    finish(&other);
}

/* ---- Without io_uring ------------------------------------------------------------------------ */

enum { QUERIES = 20, K = 10 };

struct answers {
    mn_hit hits[QUERIES * K];
    uint32_t found[QUERIES];
    uint64_t reads;
};

static bool refuse_io_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog filter = {sizeof code / sizeof code[0], code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

static const char *const ways[] = {"auto", "pread", "sync", "refused"};

/* What is asked of vectors that stay in the sidecar, of some that are folded in memory, and of some
 * pending. */
static int answers(const char *path, int way, int from, int to)
{
    static struct answers a;
    static float queries[QUERIES][DIM];
    struct trouble t = {.path = path};
    mn_search_stats stats = {0};
    mn_search_opts opts = {.recall = 0.95, .stats = &stats};
    bool did;
    (void)from;
    if (way == 3 && !refuse_io_uring())
        return complain("no seccomp filters here");
    setenv("MNEME_IO", way == 3 ? "auto" : ways[way], 1);
    if (trouble_try_open(&t, MN_OPEN_READONLY, true, &err))
        return complain(err.message);
    for (uint64_t i = 0; i < QUERIES; i++)
        indexed_vector(MN_F32, DIM, 3, i, queries[i]);
    for (int i = 0; i < 2; i++) {
        if (mn_search(t.conn, "c", queries, QUERIES, K, &opts, a.hits, a.found, &err) ||
            trouble_try_fold_ahead(t.conn, "c", &did, &err))
            return complain(err.message);
        a.reads = stats.reads + stats.parts_read;
        if (write(to, &a, sizeof a) != sizeof a)
            return complain("write");
    }
    mn_disconnect(t.conn);
    return mn_close(t.db, &err) ? complain(err.message) : 0;
}

static void receive(int fd, struct answers *a)
{
    size_t got = 0;
    ssize_t n;
    while (got < sizeof *a && (n = read(fd, (char *)a + got, sizeof *a - got)) > 0)
        got += (size_t)n;
    CHECK_EQ(got, sizeof *a);
}

TEST(answers_are_the_same_without_io_uring)
{
    static struct answers want[2], have;
    const char *path = test_path("a.db");
    make(path);
    struct trouble t = trouble_open(path, MN_F32, MN_L2, DIM, MN_OPEN_NO_BACKGROUND);
    trouble_put(&t, 100, 160, 2);
    trouble_close(&t);
    for (int way = 0; way < 4; way++) {
        struct child c = start(answers, path, way);
        for (int i = 0; i < 2; i++) {
            receive(c.from, way ? &have : &want[i]);
            CHECKF(way == 0 || memcmp(&have, &want[i], sizeof have) == 0, "%s: other answers",
                   ways[way]);
            CHECK(want[i].reads > 0 && want[i].found[0] == K);
        }
        finish(&c);
    }
    t = trouble_open(path, MN_F32, MN_L2, DIM, MN_OPEN_READONLY);
    CHECK(trouble_check(&t, t.conn, "here") > 0);
    trouble_close(&t);
}

TEST_MAIN
