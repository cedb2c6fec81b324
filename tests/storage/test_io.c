/* Real files behind the seam, and batched reads: every backend gives the same bytes, and takes the
 * system's bad answers the same way. */
/* threads */
#include "tests/test.h"

#include "storage/base/alloc.h"
#include "storage/base/error.h"
#include "storage/fs_disk.h"
#include "storage/fs_mem.h"
#include "storage/io_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCKS = 64, BLOCK = IO_ALIGN };

static unsigned char byte_at(uint64_t off)
{
    uint64_t z = (off / 8 + 1) * 0x9e3779b97f4a7c15u;
    return (unsigned char)(z >> (off % 8 * 8));
}

static bool right(const unsigned char *buf, uint64_t off, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (buf[i] != byte_at(off + i))
            return false;
    return true;
}

static void *blocks(size_t n)
{
    void *p = NULL;
    CHECK_EQ(posix_memalign(&p, BLOCK, n * BLOCK), 0);
    return p;
}

/* A file of BLOCKS blocks of known bytes, and `more` bytes behind them. */
static struct mn_file *make_file(struct mn_fs *fs, const char *path, size_t more)
{
    struct mn_file *f;
    unsigned char *bytes = blocks(BLOCKS + 1);
    for (size_t i = 0; i < (BLOCKS + 1) * BLOCK; i++)
        bytes[i] = byte_at(i);
    CHECK_EQ(io_open(fs, path, IO_WRITE | IO_CREATE | IO_EXCL | IO_DIRECT, &f), 0);
    CHECK_EQ(io_write(f, bytes, BLOCKS * BLOCK + more, 0), 0);
    free(bytes);
    return f;
}

/* ---- Files ----------------------------------------------------------------------------------- */

TEST(files_keep_what_is_written)
{
    struct mn_fs *fs = fs_disk();
    struct mn_file *f, *g;
    unsigned char text[8] = "";
    uint64_t size;
    size_t got;
    bool writable;
    const char *path = test_path("a"), *other = test_path("b");
    CHECK_EQ(io_open(fs, path, 0, &f), -ENOENT);
    CHECK_EQ(io_open(fs, path, IO_CREATE, &f), -EINVAL);
    CHECK_EQ(io_stat(fs, path, &size, &writable), -ENOENT);
    f = make_file(fs, path, 5);
    CHECK_EQ(io_open(fs, path, IO_WRITE | IO_CREATE | IO_EXCL, &g), -EEXIST);
    CHECK_EQ(io_size(f, &size), 0);
    CHECK_EQ(size, BLOCKS * BLOCK + 5);
    CHECK_EQ(io_read(f, text, 8, BLOCKS * BLOCK, &got), 0);
    CHECK_EQ(got, 5);
    CHECK(right(text, BLOCKS * BLOCK, 5));
    CHECK_EQ(io_write(f, "xyz", 3, 4094), 0); /* across blocks, past the direct descriptor */
    unsigned char *two = blocks(2);
    CHECK_EQ(io_read(f, two, 2 * BLOCK, 0, &got), 0); /* direct, if that can be had */
    CHECK(memcmp(two + 4094, "xyz", 3) == 0);
    free(two);
    CHECK_EQ(io_sync(f), 0);
    CHECK_EQ(io_truncate(f, 7), 0);
    CHECK_EQ(io_stat(fs, path, &size, &writable), 0);
    CHECK(size == 7 && writable);
    CHECK_EQ(io_rename(fs, path, other), 0);
    CHECK_EQ(io_dirsync(fs, other), 0);
    CHECK_EQ(io_unlink(fs, other), 0);
    CHECK_EQ(io_unlink(fs, other), -ENOENT);
    CHECK_EQ(io_close(f), 0);
}

TEST(room_is_reserved_and_given_back)
{
    struct mn_file *f = make_file(fs_disk(), test_path("a"), 0);
    unsigned char *b = blocks(1);
    uint64_t size;
    size_t got;
    CHECK_EQ(io_reserve(f, 1 << 20), 0);
    CHECK_EQ(io_reserve(f, 4096), 0); /* never shrinks */
    CHECK_EQ(io_size(f, &size), 0);
    CHECK_EQ(size, 1 << 20);
    CHECK_EQ(io_read(f, b, BLOCK, (1 << 20) - BLOCK, &got), 0);
    CHECK(got == BLOCK && b[0] == 0 && b[BLOCK - 1] == 0);
    int rc = io_reserve(f, (uint64_t)1 << 60);
    CHECKF(rc == -ENOSPC || rc == -EFBIG, "%d", rc);
    CHECK_EQ(io_size(f, &size), 0);
    CHECK_EQ(size, 1 << 20);
    rc = io_punch(f, BLOCK, BLOCK);
    if (rc != -EOPNOTSUPP) {
        CHECK_EQ(rc, 0);
        CHECK_EQ(io_read(f, b, BLOCK, BLOCK, &got), 0);
        CHECK(got == BLOCK && b[0] == 0 && b[BLOCK - 1] == 0);
    }
    CHECK_EQ(io_read(f, b, BLOCK, 2 * BLOCK, &got), 0);
    CHECK(right(b, 2 * BLOCK, BLOCK));
    free(b);
    io_close(f);
}

static void check_lock(struct mn_fs *fs, const char *path)
{
    struct mn_file *a = make_file(fs, path, 0), *b, *c;
    CHECK_EQ(io_open(fs, path, IO_WRITE, &b), 0);
    CHECK_EQ(io_lock(a, 1), 0);
    CHECK_EQ(io_lock(a, 1), 0); /* it is ours already */
    CHECK_EQ(io_lock(b, 1), -EAGAIN);
    CHECK_EQ(io_open(fs, path, 0, &c), 0); /* closing another handle of the file drops nothing */
    io_close(c);
    CHECK_EQ(io_lock(b, 1), -EAGAIN);
    CHECK_EQ(io_unlock(a, 1), 0);
    CHECK_EQ(io_lock(b, 1), 0);
    io_close(b);
    CHECK_EQ(io_lock(a, 1), 0); /* the lock went with its handle */
    io_close(a);
}

TEST(a_byte_is_locked_by_one_handle)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct mn_fs *mem = fs_mem_create(a);
    check_lock(fs_disk(), test_path("a"));
    check_lock(mem, "a");
    fs_mem_destroy(mem);
    mn_alloc_destroy(a);
}

TEST(a_lock_dies_with_its_process)
{
    const char *path = test_path("a");
    struct mn_file *f = make_file(fs_disk(), path, 0), *g;
    int ready[2];
    char c;
    CHECK_EQ(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        if (io_open(fs_disk(), path, IO_WRITE, &g) || io_lock(g, 1) || write(ready[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(1);
    }
    CHECK_EQ(read(ready[0], &c, 1), 1);
    CHECK_EQ(io_lock(f, 1), -EAGAIN);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK_EQ(io_lock(f, 1), 0);
    io_close(f);
    close(ready[0]);
    close(ready[1]);
}

TEST(descriptors_are_high_and_close_on_exec)
{
    int saved = dup(0);
    close(0);
    struct mn_file *f = make_file(fs_disk(), test_path("a"), 0);
    int plain = io_fd(f, false), direct = io_fd(f, true);
    CHECK_EQ(dup2(saved, 0), 0);
    close(saved);
    CHECK(plain > 2 && direct > 2);
    CHECK(fcntl(plain, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl(direct, F_GETFD) & FD_CLOEXEC);
    CHECK_EQ(fs_disk_is_direct(f), plain != direct);
    test_note(plain != direct ? "direct" : "no O_DIRECT here");
    io_close(f);
}

/* ---- Batches --------------------------------------------------------------------------------- */

static const enum io_backend backends[] = {IO_URING, IO_PREAD, IO_SYNC};

struct setup {
    struct mn_alloc *alloc;
    struct io_disk *disk;
    struct io_batch *batch;
    struct mn_file *file;
    unsigned char *arena; /* BLOCKS blocks */
    char path[64];
};

/* False if this backend does not work here. */
static bool set_up(struct setup *s, struct io_disk_opts *o, struct io_batch_opts *bo, size_t more)
{
    mn_error err = {0};
    static unsigned files;
    snprintf(s->path, sizeof s->path, "f%u", files++);
    s->alloc = mn_alloc_create(NULL, UINT64_MAX);
    if (io_disk_create(s->alloc, o, &s->disk, &err)) {
        CHECK_EQ(o->backend, IO_URING);
        CHECK_HAS(err.message, "io_uring");
        test_note("no io_uring");
        mn_alloc_destroy(s->alloc);
        return false;
    }
    CHECK_EQ(io_disk_backend(s->disk), o->backend);
    s->file = make_file(fs_disk(), test_path(s->path), more);
    s->arena = blocks(BLOCKS);
    struct io_batch_opts mine = bo ? *bo : (struct io_batch_opts){0};
    if (mine.n_files)
        mine.files = &s->file;
    if (mine.arena_bytes) {
        mine.arena = s->arena;
        mine.arena_bytes = BLOCKS * BLOCK;
    }
    CHECK_OK(io_batch_create(s->disk, &mine, &s->batch, &err), err);
    return true;
}

static void tear_down(struct setup *s)
{
    io_batch_destroy(s->batch);
    io_disk_destroy(s->disk);
    io_close(s->file);
    free(s->arena);
    mn_alloc_destroy(s->alloc);
}

/* Reads every block, in an order of its own, each to its place in the arena, and checks them. */
static void read_all(struct setup *s)
{
    mn_error err = {0};
    struct io_done done;
    unsigned next = 0, seen = 0;
    bool taken[BLOCKS] = {false};
    memset(s->arena, 0, BLOCKS * BLOCK);
    while (seen < BLOCKS) {
        while (next < BLOCKS && io_batch_room(s->batch)) {
            unsigned block = next++ * 37 % BLOCKS;
            struct io_want w = {s->file, block * BLOCK, BLOCK, s->arena + block * BLOCK, block};
            CHECK_OK(io_batch_submit(s->batch, &w, 1, &err), err);
        }
        CHECK(io_batch_next(s->batch, -1, &done));
        CHECK_EQ(done.error, 0);
        CHECK(done.tag < BLOCKS && !taken[done.tag]);
        CHECK(done.buf == s->arena + done.tag * BLOCK && done.len == BLOCK);
        CHECK(right(done.buf, done.tag * BLOCK, BLOCK));
        taken[done.tag] = true;
        seen++;
    }
    CHECK_EQ(io_batch_pending(s->batch), 0);
    CHECK(!io_batch_next(s->batch, -1, &done));
}

TEST(every_backend_brings_the_same_bytes)
{
    for (size_t i = 0; i < 3; i++)
        for (unsigned mode = 0; mode < 4; mode++) {
            struct setup s;
            struct io_disk_opts o = {.backend = backends[i], .threads = 3, .shuffle = 9};
            struct io_batch_opts b = {.depth = mode & 1 ? 8 : 64,
                                      .max_reads = 64,
                                      .n_files = mode & 1,
                                      .arena_bytes = mode & 2};
            if (!set_up(&s, &o, &b, 0))
                break;
            read_all(&s);
            read_all(&s);
            tear_down(&s);
        }
}

TEST(odd_places_and_lengths_are_read_too)
{
    for (size_t i = 0; i < 3; i++) {
        struct setup s;
        struct test_rng r = {3};
        mn_error err = {0};
        struct io_done done;
        struct io_disk_opts o = {.backend = backends[i], .threads = 2};
        if (!set_up(&s, &o, NULL, 100))
            continue;
        for (unsigned n = 0; n < 100; n++) {
            uint64_t off = test_below(&r, BLOCKS * BLOCK);
            uint32_t len = (uint32_t)(1 + test_below(&r, BLOCKS * BLOCK + 100 - off));
            struct io_want w = {s.file, off, len, s.arena, n};
            if (len > (BLOCKS - 1) * BLOCK)
                continue;
            CHECK_OK(io_batch_submit(s.batch, &w, 1, &err), err);
            CHECK(io_batch_next(s.batch, -1, &done));
            CHECK_EQ(done.error, 0);
            CHECK(right(s.arena, off, len));
        }
        tear_down(&s);
    }
}

TEST(the_files_end_is_an_error)
{
    static const struct {
        uint64_t off;
        uint32_t len;
    } cases[] = {
        {BLOCKS * BLOCK, BLOCK},           /* inside the last, broken block */
        {(BLOCKS - 1) * BLOCK, 2 * BLOCK}, /* into it */
        {(BLOCKS + 1) * BLOCK, BLOCK},     /* behind it */
        {BLOCKS * BLOCK + 90, 20},         /* not aligned */
    };
    for (size_t i = 0; i < 3; i++)
        for (size_t c = 0; c < 4; c++) {
            struct setup s;
            mn_error err = {0};
            struct io_done done;
            struct io_disk_opts o = {.backend = backends[i], .threads = 1};
            if (!set_up(&s, &o, NULL, 100))
                break;
            struct io_want w = {s.file, cases[c].off, cases[c].len, s.arena, 0};
            CHECK_OK(io_batch_submit(s.batch, &w, 1, &err), err);
            CHECK(io_batch_next(s.batch, -1, &done));
            CHECK_EQ(done.error, -ENODATA);
            CHECK_EQ(io_read_whole(s.file, w.off, w.buf, w.len, "f", &err), MN_CORRUPT);
            CHECK_HAS(err.message, "f: the file ends before byte");
            tear_down(&s);
        }
}

/* ---- Bad answers ------------------------------------------------------------------------------
 */

struct meddler {
    int answer;    /* instead of the system's; 1: half of it */
    unsigned left; /* answers still to be spoiled */
    unsigned calls;
};

static int meddle(void *ctx, uint64_t tag, int res)
{
    struct meddler *m = ctx;
    (void)tag;
    m->calls++;
    if (!m->left || res <= 0)
        return res;
    m->left--;
    return m->answer == 1 ? res / 2 : m->answer == 2 ? res - 100 : m->answer;
}

TEST(bad_answers_are_taken_the_same_way_everywhere)
{
    static const struct {
        const char *name;
        int answer;
        unsigned times;
        int want;
        unsigned calls;
    } cases[] = {
        {"interrupted once", -EINTR, 1, 0, 2},
        {"interrupted for ever", -EINTR, 1000, -EINTR, 17},
        {"not now, twice", -EAGAIN, 2, 0, 3},
        {"the device failed", -EIO, 1, -EIO, 1},
        {"half of it", 1, 1, 0, 2},
        {"half, and half of the rest", 1, 2, 0, 3},
        {"ends inside a block", 2, 1, -ENODATA, 1},
        {"no direct reads", -EINVAL, 1, 0, 2},
        {"no reads at all", -EINVAL, 2, -EINVAL, 2},
        {"nothing", 0, 1, -ENODATA, 1},
    };
    for (size_t i = 0; i < 3; i++)
        for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
            struct setup s;
            mn_error err = {0};
            struct io_done done;
            struct meddler m = {cases[c].answer, cases[c].times, 0};
            struct io_disk_opts o = {
                .backend = backends[i], .threads = 1, .meddle = meddle, .meddle_ctx = &m};
            if (!set_up(&s, &o, NULL, 0))
                break;
            bool direct = fs_disk_is_direct(s.file) && backends[i] != IO_SYNC;
            struct io_want w = {s.file, 8 * BLOCK, 8 * BLOCK, s.arena, 5};
            CHECK_OK(io_batch_submit(s.batch, &w, 1, &err), err);
            CHECK(io_batch_next(s.batch, -1, &done));
            if (direct || (cases[c].answer != 2 && cases[c].answer != -EINVAL)) {
                CHECKF(done.error == cases[c].want, "%s, %s: %d", io_backend_name(backends[i]),
                       cases[c].name, done.error);
                CHECKF(m.calls == cases[c].calls, "%s, %s: %u calls", io_backend_name(backends[i]),
                       cases[c].name, m.calls);
            }
            if (!done.error)
                CHECK(right(s.arena, 8 * BLOCK, 8 * BLOCK));
            m.left = 0;
            CHECK_OK(io_batch_submit(s.batch, &w, 1, &err), err); /* the batch lives on */
            CHECK(io_batch_next(s.batch, -1, &done));
            CHECK_EQ(done.error, 0);
            tear_down(&s);
        }
}

TEST(cancelled_reads_all_come_out)
{
    for (size_t i = 0; i < 3; i++) {
        struct setup s;
        mn_error err = {0};
        struct io_done done;
        struct io_want w[BLOCKS];
        struct io_disk_opts o = {.backend = backends[i], .threads = 2};
        struct io_batch_opts b = {.depth = 4, .max_reads = BLOCKS};
        unsigned n = 0, cancelled = 0;
        if (!set_up(&s, &o, &b, 0))
            continue;
        for (unsigned j = 0; j < BLOCKS; j++)
            w[j] = (struct io_want){s.file, j * BLOCK, BLOCK, s.arena + j * BLOCK, j};
        CHECK_OK(io_batch_submit(s.batch, w, BLOCKS, &err), err);
        CHECK_EQ(io_batch_submit(s.batch, w, 1, &err), MN_MISUSE);
        io_batch_cancel(s.batch);
        while (io_batch_next(s.batch, -1, &done)) {
            n++;
            cancelled += done.error == -ECANCELED;
            CHECK(done.error == 0 || done.error == -ECANCELED);
        }
        CHECK_EQ(n, BLOCKS);
        CHECK(cancelled >= BLOCKS - 4);
        mn_error_clear(&err);
        CHECK_OK(io_batch_submit(s.batch, w, BLOCKS, &err), err);
        io_batch_drain(s.batch);
        CHECK_EQ(io_batch_pending(s.batch), 0);
        CHECK_EQ(io_batch_room(s.batch), BLOCKS);
        read_all(&s);
        CHECK_OK(io_batch_submit(s.batch, w, BLOCKS, &err), err);
        tear_down(&s); /* destroys with reads in flight */
    }
}

TEST(a_wait_ends_in_time)
{
    for (size_t i = 0; i < 3; i++) {
        struct setup s;
        mn_error err = {0};
        struct io_done done;
        struct io_disk_opts o = {.backend = backends[i], .threads = 1};
        if (!set_up(&s, &o, NULL, 0))
            continue;
        struct io_want w = {s.file, 0, BLOCK, s.arena, 1};
        CHECK(!io_batch_next(s.batch, 0, &done));
        CHECK(!io_batch_next(s.batch, 1000, &done));
        CHECK_OK(io_batch_submit(s.batch, &w, 1, &err), err);
        unsigned looks = 1;
        while (!io_batch_next(s.batch, looks % 2 ? 0 : 200, &done))
            looks++;
        CHECK_EQ(done.error, 0);
        CHECK(looks < 100000);
        tear_down(&s);
    }
}

static void *read_all_there(void *s)
{
    read_all(s);
    return NULL;
}

TEST(a_batch_may_change_hands)
{
    for (size_t i = 0; i < 3; i++) {
        struct setup s;
        struct io_disk_opts o = {.backend = backends[i], .threads = 2};
        struct io_batch_opts b = {.n_files = 1, .arena_bytes = 1};
        pthread_t t;
        if (!set_up(&s, &o, &b, 0))
            continue;
        read_all(&s);
        for (int j = 0; j < 3; j++) {
            CHECK_EQ(pthread_create(&t, NULL, read_all_there, &s), 0);
            pthread_join(t, NULL);
        }
        read_all(&s);
        tear_down(&s);
    }
}

TEST(many_batches_share_a_pool)
{
    struct setup s[4];
    pthread_t t[4];
    for (size_t i = 0; i < 4; i++) {
        struct io_disk_opts o = {.backend = IO_PREAD, .threads = 3};
        CHECK(set_up(&s[i], &o, NULL, 0));
    }
    /* All four on the first one's disk. */
    for (size_t i = 1; i < 4; i++) {
        mn_error err = {0};
        io_batch_destroy(s[i].batch);
        CHECK_OK(io_batch_create(s[0].disk, NULL, &s[i].batch, &err), err);
    }
    for (size_t i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&t[i], NULL, read_all_there, &s[i]), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    for (size_t i = 4; i-- > 0;)
        tear_down(&s[i]);
}

TEST(a_simulated_file_is_read_one_by_one)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct mn_fs *mem = fs_mem_create(a);
    struct mn_file *f = make_file(mem, "a", 0);
    for (size_t i = 0; i < 3; i++) {
        struct setup s;
        struct mn_file *real;
        struct io_disk_opts o = {.backend = backends[i], .shuffle = 4};
        struct io_batch_opts b = {.n_files = 1};
        if (!set_up(&s, &o, &b, 0))
            continue;
        real = s.file;
        s.file = f;
        read_all(&s);
        s.file = real;
        tear_down(&s);
    }
    io_close(f);
    fs_mem_destroy(mem);
    mn_alloc_destroy(a);
}

TEST(the_order_of_landing_is_drawn_from_the_seed)
{
    unsigned order[2][BLOCKS], moved = 0;
    for (unsigned run = 0; run < 2; run++) {
        struct setup s;
        mn_error err = {0};
        struct io_done done;
        struct io_disk_opts o = {.backend = IO_SYNC, .shuffle = 77};
        CHECK(set_up(&s, &o, NULL, 0));
        for (unsigned j = 0; j < BLOCKS; j++) {
            struct io_want w = {s.file, j * BLOCK, BLOCK, s.arena + j * BLOCK, j};
            CHECK_OK(io_batch_submit(s.batch, &w, 1, &err), err);
        }
        for (unsigned j = 0; io_batch_next(s.batch, -1, &done); j++)
            order[run][j] = (unsigned)done.tag;
        tear_down(&s);
    }
    CHECK(memcmp(order[0], order[1], sizeof order[0]) == 0);
    for (unsigned j = 0; j < BLOCKS; j++)
        moved += order[0][j] != j;
    CHECK(moved > BLOCKS / 2);
}

TEST(wrong_options_are_named)
{
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct io_disk *d;
    struct io_batch *b;
    mn_error err = {0};
    CHECK_OK(io_disk_create(a, &(struct io_disk_opts){.backend = IO_SYNC}, &d, &err), err);
    CHECK_EQ(io_batch_create(d, &(struct io_batch_opts){.depth = 513}, &b, &err), MN_INVALID);
    CHECK_HAS(err.message, "depth 513");
    mn_error_clear(&err);
    CHECK_EQ(io_batch_create(d, &(struct io_batch_opts){.depth = 9, .max_reads = 8}, &b, &err),
             MN_INVALID);
    CHECK_HAS(err.message, "max_reads 8");
    mn_error_clear(&err);
    setenv("MNEME_IO", "tape", 1);
    struct io_disk *e;
    CHECK_EQ(io_disk_create(a, NULL, &e, &err), MN_INVALID);
    CHECK_HAS(err.message, "MNEME_IO is 'tape'");
    mn_error_clear(&err);
    setenv("MNEME_IO", "pread", 1);
    CHECK_OK(io_disk_create(a, NULL, &e, &err), err);
    CHECK_EQ(io_disk_backend(e), IO_PREAD);
    CHECK_HAS(io_disk_why(e), "asked for");
    unsetenv("MNEME_IO");
    io_disk_destroy(e);
    io_disk_destroy(d);
    mn_alloc_destroy(a);
}

/* ---- Where io_uring is refused ----------------------------------------------------------------
 */

/* From here on this process's `call` answers EPERM. */
static bool refuse(int call)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* In a child: 0 all right, 2 no filter can be set. */
static int without(int call, const char *path)
{
    mn_error err = {0};
    struct mn_alloc *a = mn_alloc_create(NULL, UINT64_MAX);
    struct mn_file *f;
    struct io_disk *d;
    struct io_batch *b;
    struct io_done done;
    unsigned char *buf = NULL;
    if (!refuse(call))
        return 2;
    if (io_disk_create(a, &(struct io_disk_opts){.backend = IO_URING}, &d, &err) != MN_IO ||
        !strstr(err.message, "not permitted"))
        return 3;
    if (io_disk_create(a, NULL, &d, &err) || io_disk_backend(d) != IO_PREAD)
        return 4;
    if (!strstr(io_disk_why(d), "Operation not permitted") &&
        !strstr(io_disk_why(d), "thread sanitizer"))
        return 5;
    if (io_open(fs_disk(), path, IO_DIRECT, &f) || posix_memalign((void **)&buf, BLOCK, BLOCK) ||
        io_batch_create(d, NULL, &b, &err))
        return 6;
    struct io_want w = {f, 3 * BLOCK, BLOCK, buf, 1};
    if (io_batch_submit(b, &w, 1, &err) || !io_batch_next(b, -1, &done) || done.error ||
        !right(buf, 3 * BLOCK, BLOCK))
        return 7;
    io_batch_destroy(b);
    io_disk_destroy(d);
    io_close(f);
    free(buf);
    mn_alloc_destroy(a);
    return 0;
}

TEST(a_filter_that_refuses_io_uring_leaves_the_pool)
{
    static const int calls[] = {SYS_io_uring_setup, SYS_io_uring_enter};
    const char *path = test_path("a");
    unsetenv("MNEME_IO");
    io_close(make_file(fs_disk(), path, 0));
    for (size_t i = 0; i < 2; i++) {
        int status;
        pid_t child = fork();
        if (child == 0)
            _exit(without(calls[i], path));
        waitpid(child, &status, 0);
        CHECK(WIFEXITED(status));
        if (WEXITSTATUS(status) == 2)
            test_skip("no seccomp filters here");
        CHECKF(WEXITSTATUS(status) == 0, "call %d: step %d", calls[i], WEXITSTATUS(status));
    }
}

/* The batch is made first, the refusal comes later: at its first read. */
TEST(a_ring_that_cannot_be_had_later_is_replaced)
{
    struct setup s;
    struct io_disk_opts o = {.backend = IO_URING};
    if (!set_up(&s, &o, NULL, 0))
        test_skip("no io_uring here");
    int status;
    pid_t child = fork();
    if (child == 0) {
        if (!refuse(SYS_io_uring_setup))
            _exit(2);
        read_all(&s);
        _exit(io_batch_backend(s.batch) == IO_PREAD ? 0 : 1);
    }
    waitpid(child, &status, 0);
    tear_down(&s);
    CHECK(WIFEXITED(status));
    if (WEXITSTATUS(status) == 2)
        test_skip("no seccomp filters here");
    CHECK_EQ(WEXITSTATUS(status), 0);
}

TEST_MAIN
