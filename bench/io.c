/* The disk's own limit: random reads past the page cache by io_uring, at several queue depths. What
 * a cold search can hope for at best. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/peers/driver.h"

enum { MAX_DEPTH = 256, MAX_SAMPLES = 1 << 20, PATH_ROOM = 4200 };

struct io_run {
    uint64_t size, block, seconds_ms;
    const char *work, *json, *label;
    char dir[PATH_ROOM], path[PATH_ROOM];
    int fd;
    unsigned char *buffers; /* [MAX_DEPTH][block] */
    float *took;            /* [MAX_SAMPLES] us */
    size_t n_took;
    double started[MAX_DEPTH];
    struct bench_rng rng;
    struct results results;
};

/* A file of random bytes, flushed. */
static int file_make(struct io_run *r)
{
    enum { CHUNK = 1 << 20 };
    uint64_t *words = malloc(CHUNK);
    int fd = open(r->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool good = words && fd >= 0;
    for (uint64_t at = 0; good && at < r->size; at += CHUNK) {
        for (size_t i = 0; i < CHUNK / sizeof *words; i++)
            words[i] = bench_rand(&r->rng);
        good = write(fd, words, CHUNK) == CHUNK;
    }
    good = good && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    free(words);
    return good ? 0 : bench_fail("%s: cannot be written: %s", r->path, strerror(errno));
}

static int io_open(struct io_run *r)
{
    if (work_open(r->work, r->dir, sizeof r->dir - 16) != 0)
        return 1;
    snprintf(r->path, sizeof r->path, "%.4100s/io", r->dir);
    if (file_make(r) != 0)
        return 1;
    r->fd = open(r->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (r->fd < 0)
        return bench_fail("%s: this file system has no O_DIRECT (%s); name a folder on a disk with "
                          "--work",
                          r->path, strerror(errno));
    r->buffers = aligned_alloc(4096, MAX_DEPTH * r->block);
    r->took = malloc(MAX_SAMPLES * sizeof *r->took);
    return r->buffers && r->took ? 0 : bench_fail("no memory for the buffers");
}

static void submit(struct io_run *r, struct io_uring *ring, unsigned slot)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    uint64_t at = bench_rand(&r->rng) % (r->size / r->block) * r->block;
    io_uring_prep_read(sqe, r->fd, r->buffers + slot * r->block, (unsigned)r->block, at);
    io_uring_sqe_set_data64(sqe, slot);
    r->started[slot] = driver_wall_us();
}

/* Keeps `depth` reads in flight for the time given. *reads counts those that ended. */
static int reads_run(struct io_run *r, struct io_uring *ring, unsigned depth, uint64_t *reads)
{
    double end = driver_wall_us() + (double)r->seconds_ms * 1e3;
    unsigned flying = depth;
    r->n_took = 0;
    *reads = 0;
    for (unsigned i = 0; i < depth; i++)
        submit(r, ring, i);
    while (flying > 0) {
        struct io_uring_cqe *cqe;
        int rc = io_uring_submit_and_wait(ring, 1);
        if (rc < 0 && rc != -EINTR)
            return bench_fail("io_uring: %s", strerror(-rc));
        while (io_uring_peek_cqe(ring, &cqe) == 0) {
            unsigned slot = (unsigned)io_uring_cqe_get_data64(cqe);
            double now = driver_wall_us();
            if (cqe->res != (int)r->block)
                return bench_fail("%s: a read failed: %s", r->path,
                                  strerror(cqe->res < 0 ? -cqe->res : EIO));
            io_uring_cqe_seen(ring, cqe);
            if (r->n_took < MAX_SAMPLES)
                r->took[r->n_took++] = (float)(now - r->started[slot]);
            ++*reads;
            flying--;
            if (now < end) {
                submit(r, ring, slot);
                flying++;
            }
        }
    }
    return 0;
}

static int depth_measure(struct io_run *r, unsigned depth)
{
    struct io_uring ring;
    uint64_t reads;
    int rc = io_uring_queue_init(MAX_DEPTH, &ring, 0);
    if (rc < 0)
        return bench_fail("io_uring is refused here: %s", strerror(-rc));
    double wall = driver_wall_us(), cpu = driver_cpu_us();
    rc = reads_run(r, &ring, depth, &reads);
    wall = driver_wall_us() - wall;
    cpu = driver_cpu_us() - cpu;
    io_uring_queue_exit(&ring);
    if (rc != 0)
        return 1;
    qsort(r->took, r->n_took, sizeof *r->took, driver_compare);
    json_t *line = json_pack("{s:s, s:s, s:I, s:I, s:s}", "bench", "io", "case", "random-read",
                             "block", (json_int_t)r->block, "depth", (json_int_t)depth,
                             "filesystem", filesystem_name(r->dir));
    json_put_number(line, "reads_per_s", (double)reads / wall * 1e6);
    json_put_number(line, "p50_us", (double)r->took[r->n_took / 2]);
    json_put_number(line, "p99_us", (double)r->took[r->n_took * 99 / 100]);
    json_put_number(line, "cpu_us_per_read", cpu / (double)reads);
    printf("depth %-3u %9.0f reads/s  p50 %.0f p99 %.0f us  %.1f us CPU a read\n", depth,
           (double)reads / wall * 1e6, (double)r->took[r->n_took / 2],
           (double)r->took[r->n_took * 99 / 100], cpu / (double)reads);
    return results_line(&r->results, line);
}

int bench_io(int argc, char **argv)
{
    static const unsigned depths[] = {1, 16, 64};
    struct io_run r = {.size = 256u << 20, .block = 4096, .seconds_ms = 2000, .fd = -1};
    const struct opt opts[] = {
        {"--size", OPT_SIZE, &r.size, 1 << 20, INT64_MAX, "SIZE", "of the file that is read"},
        {"--block", OPT_SIZE, &r.block, 512, 1 << 20, "SIZE", "of a read"},
        {"--ms", OPT_COUNT, &r.seconds_ms, 1, 600000, "MS", "time for each depth"},
        {"--work", OPT_TEXT, &r.work, 0, 0, "DIR", "where the file lies (default: TMPDIR)"},
        {"--json", OPT_TEXT, &r.json, 0, 0, "OUT", "takes the results, one JSON object a line"},
        {"--label", OPT_TEXT, &r.label, 0, 0, "TEXT", "put into each line"},
    };
    int rc = 1;
    enum opts_result parsed =
        opts_parse("usage: mneme_bench io [OPTION]...\n\n"
                   "Measures random reads past the page cache at queue depths of 1, 16 and 64:\n"
                   "what a search whose vectors lie on the disk can hope for at best.\n",
                   opts, sizeof opts / sizeof *opts, argc, argv);
    if (parsed != OPTS_GO)
        return opts_exit(parsed);
    if (r.block % 512 != 0 || r.size % (1 << 20) != 0) {
        bench_fail("--block is a multiple of 512, --size of 1MiB");
        return 2;
    }
    if (results_open(&r.results, r.json, r.label, argc, argv) != 0 || io_open(&r) != 0)
        goto done;
    rc = 0;
    for (size_t i = 0; i < sizeof depths / sizeof *depths && rc == 0; i++)
        rc = depth_measure(&r, depths[i]);
done:
    if (r.fd >= 0)
        close(r.fd);
    free(r.buffers);
    free(r.took);
    work_close(r.dir);
    if (results_close(&r.results) != 0)
        rc = 1;
    return rc;
}
