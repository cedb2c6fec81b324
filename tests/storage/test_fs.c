/* What storage/io.h says of every mn_fs, asked of files of the system, in memory and on
 * the simulated disk. */
#include "tests/test.h"

#include "storage/fs_disk.h"
#include "storage/fs_mem.h"
#include "tests/sim/sim.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static void contract(struct mn_fs *fs)
{
    struct mn_file *f, *g;
    char text[16];
    size_t got;
    uint64_t size;
    bool writable;
    CHECK_EQ(io_open(fs, "d/a", 0, &f), -ENOENT);
    CHECK(f == NULL);
    CHECK_EQ(io_open(fs, "d/a", IO_CREATE, &f), -EINVAL);
    CHECK_EQ(io_open(fs, "d/a", IO_WRITE | IO_CREATE | IO_EXCL, &f), 0);
    CHECK_EQ(io_open(fs, "d/a", IO_WRITE | IO_CREATE | IO_EXCL, &g), -EEXIST);
    CHECK_EQ(io_open(fs, "d/a", 0, &g), 0);
    CHECK_EQ(io_write(g, "x", 1, 0), -EBADF);
    CHECK_EQ(io_truncate(g, 0), -EBADF);
    CHECK_EQ(io_write(f, "hello", 5, 3), 0);
    CHECK_EQ(io_read(g, text, 16, 0, &got), 0);
    CHECK_EQ(got, 8);
    CHECK(memcmp(text, "\0\0\0hello", 8) == 0);
    CHECK_EQ(io_read(g, text, 16, 8, &got), 0);
    CHECK_EQ(got, 0);
    CHECK_EQ(io_read(g, text, 2, 6, &got), 0);
    CHECK_EQ(got, 2);
    CHECK_EQ(io_size(g, &size), 0);
    CHECK_EQ(size, 8);
    CHECK_EQ(io_write(f, text, 0, 100), 0);
    CHECK_EQ(io_write(f, text, 2, UINT64_MAX - 4), -EFBIG);
    CHECK_EQ(io_stat(fs, "d/a", &size, &writable), 0);
    CHECK(size == 8 && writable);
    CHECK_EQ(io_sync(f), 0);
    CHECK_EQ(io_dirsync(fs, "d/a"), 0);
    CHECK_EQ(io_rename(fs, "d/b", "d/a"), -ENOENT);
    CHECK_EQ(io_rename(fs, "d/a", "d/b"), 0);
    CHECK_EQ(io_rename(fs, "d/b", "d/b"), 0);
    CHECK_EQ(io_stat(fs, "d/a", &size, &writable), -ENOENT);
    CHECK_EQ(io_unlink(fs, "d/a"), -ENOENT);
    CHECK_EQ(io_unlink(fs, "d/b"), 0);
    CHECK_EQ(io_read(g, text, 5, 3, &got), 0); /* handles outlive the name */
    CHECK(got == 5 && memcmp(text, "hello", 5) == 0);
    CHECK_EQ(io_close(f), 0);
    CHECK_EQ(io_close(g), 0);
    CHECK_EQ(io_close(NULL), 0);
}

static void rename_replaces(struct mn_fs *fs)
{
    struct mn_file *f, *g;
    char c = '?';
    size_t got;
    CHECK_EQ(io_open(fs, "new", IO_WRITE | IO_CREATE, &f), 0);
    CHECK_EQ(io_write(f, "n", 1, 0), 0);
    CHECK_EQ(io_close(f), 0);
    CHECK_EQ(io_open(fs, "old", IO_WRITE | IO_CREATE, &f), 0);
    CHECK_EQ(io_write(f, "o", 1, 0), 0);
    CHECK_EQ(io_rename(fs, "new", "old"), 0);
    CHECK_EQ(io_open(fs, "old", 0, &g), 0);
    CHECK_EQ(io_read(g, &c, 1, 0, &got), 0);
    CHECK_EQ(c, 'n');
    CHECK_EQ(io_read(f, &c, 1, 0, &got), 0);
    CHECK_EQ(c, 'o');
    CHECK_EQ(io_close(f), 0);
    CHECK_EQ(io_close(g), 0);
    CHECK_EQ(io_unlink(fs, "old"), 0);
}

/* Random writes, sizes and reads around chunk borders against a plain array. */
static void against_an_array(struct mn_fs *fs, uint64_t seed)
{
    enum { ROOM = 300000 };
    static unsigned char model[ROOM], buf[ROOM];
    struct test_rng rng = {seed};
    struct mn_file *f;
    size_t size = 0, got;
    memset(model, 0, sizeof model);
    CHECK_EQ(io_open(fs, "model", IO_WRITE | IO_CREATE, &f), 0);
    for (size_t i = 0; i < test_budget(300); i++) {
        size_t near = (size_t)test_below(&rng, 4) * 65536 + (size_t)test_below(&rng, 9000);
        size_t at = test_below(&rng, 2) ? near : (size_t)test_below(&rng, ROOM);
        size_t len = (size_t)test_below(&rng, test_below(&rng, 8) ? 5000 : 100000);
        len = at + len > ROOM ? ROOM - at : len;
        switch (test_below(&rng, 4)) {
        case 0:
            CHECK_EQ(io_truncate(f, at), 0);
            if (at < size)
                memset(model + at, 0, size - at);
            size = at;
            break;
        case 1:
            for (size_t j = 0; j < len; j++)
                buf[j] = model[at + j] = (unsigned char)test_rand(&rng);
            CHECK_EQ(io_write(f, buf, len, at), 0);
            size = len && at + len > size ? at + len : size;
            break;
        default:
            CHECK_EQ(io_read(f, buf, len, at, &got), 0);
            CHECK_EQ(got, at >= size ? 0 : len < size - at ? len : size - at);
            CHECKF(memcmp(buf, model + at, got) == 0, "seed %d, step %d: %d bytes at %d",
                   (int)seed, (int)i, (int)got, (int)at);
            break;
        }
    }
    CHECK_EQ(io_close(f), 0);
    CHECK_EQ(io_unlink(fs, "model"), 0);
}

static void all(struct mn_fs *fs)
{
    contract(fs);
    rename_replaces(fs);
    for (uint64_t seed = 1; seed <= 4; seed++)
        against_an_array(fs, seed);
}

TEST(files_in_memory_keep_the_contract)
{
    struct mn_alloc *alloc = mn_alloc_create(NULL, UINT64_MAX);
    struct mn_fs *fs = fs_mem_create(alloc);
    all(fs);
    CHECK(mn_alloc_used_by(alloc, MN_TAG_IO) < 4096); /* unlinked files are gone */
    fs_mem_destroy(fs);
    CHECK_EQ(mn_alloc_used_by(alloc, MN_TAG_IO), 0);
    mn_alloc_destroy(alloc);
    fs_mem_destroy(NULL);
}

TEST(the_simulated_disk_keeps_the_contract)
{
    struct sim *s = sim_create(NULL);
    struct sim_proc *p = sim_start(s);
    all(sim_fs(p));
    sim_stop(p);
    sim_destroy(s);
}

TEST(files_of_the_system_keep_the_contract)
{
    char here[4096];
    CHECK(getcwd(here, sizeof here) && chdir(test_dir()) == 0 && mkdir("d", 0755) == 0);
    all(fs_disk());
    CHECK_EQ(chdir(here), 0);
}

TEST(a_write_without_memory_changes_nothing)
{
    struct mn_alloc *alloc = mn_alloc_create(NULL, 300 * 1024);
    struct mn_fs *fs = fs_mem_create(alloc);
    struct mn_file *f;
    static char big[400 * 1024];
    uint64_t size;
    CHECK_EQ(io_open(fs, "a", IO_WRITE | IO_CREATE, &f), 0);
    CHECK_EQ(io_write(f, "abc", 3, 0), 0);
    CHECK_EQ(io_write(f, big, sizeof big, 1), -ENOMEM);
    CHECK_EQ(io_size(f, &size), 0);
    CHECK_EQ(size, 3);
    CHECK_EQ(io_write(f, "d", 1, 3), 0);
    CHECK_EQ(io_close(f), 0);
    fs_mem_destroy(fs);
    mn_alloc_destroy(alloc);
}

TEST_MAIN
