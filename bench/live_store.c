/* A collection filled from an fbin file: see live.h. */
#include "bench/live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/peers/driver.h"

static bool failed(const mn_error *err)
{
    driver_error(err->message);
    return false;
}

bool live_open(struct live *l, const char *db, const char *base, uint32_t flags, uint64_t memory)
{
    mn_open_opts opts = {.flags = flags, .memory_bytes = memory};
    uint32_t head[2] = {0, 0};
    mn_error err;
    *l = (struct live){.base = -1};
    l->base = open(base, O_RDONLY | O_CLOEXEC);
    if (l->base < 0 || read(l->base, head, sizeof head) != (ssize_t)sizeof head || head[1] == 0) {
        driver_error("the base cannot be read");
        return false;
    }
    l->n = head[0];
    l->dim = head[1];
    l->vectors = malloc(LIVE_BATCH * l->dim * sizeof *l->vectors);
    l->rows = calloc(LIVE_BATCH, sizeof *l->rows);
    if (!l->vectors || !l->rows) {
        driver_error("no memory for a batch");
        return false;
    }
    if (mn_open(db, &opts, &l->db, &err) != MN_OK || mn_connect(l->db, &l->conn, &err) != MN_OK)
        return failed(&err);
    return true;
}

bool live_create(struct live *l, mn_metric metric)
{
    mn_collection_opts opts = {.dim = l->dim, .metric = metric};
    mn_error err;
    return mn_create(l->conn, LIVE_COLLECTION, &opts, &err) == MN_OK || failed(&err);
}

bool live_put(struct live *l, mn_conn *conn, size_t first, size_t n)
{
    size_t bytes = l->dim * sizeof *l->vectors;
    mn_error err;
    for (size_t at = first; at < first + n;) {
        size_t now = first + n - at < LIVE_BATCH ? first + n - at : LIVE_BATCH;
        if (pread(l->base, l->vectors, now * bytes, (off_t)(8 + at * bytes)) !=
            (ssize_t)(now * bytes)) {
            driver_error("the base has fewer rows than it says");
            return false;
        }
        for (size_t i = 0; i < now; i++)
            l->rows[i] = (mn_row){.id = (int64_t)(at + i), .vector = l->vectors + i * l->dim};
        if (mn_put(conn, LIVE_COLLECTION, l->rows, now, NULL, &err) != MN_OK)
            return failed(&err);
        at += now;
    }
    return true;
}

mn_status live_fold_patiently(mn_conn *conn, mn_error *err)
{
    const struct timespec nap = {.tv_nsec = 5000000};
    double end = driver_wall_us() + 120e6;
    mn_status st;
    while ((st = mn_fold(conn, LIVE_COLLECTION, err)) == MN_BUSY && driver_wall_us() < end)
        nanosleep(&nap, NULL);
    return st;
}

bool live_fold(struct live *l)
{
    mn_error err;
    return live_fold_patiently(l->conn, &err) == MN_OK || failed(&err);
}

void live_close(struct live *l)
{
    mn_disconnect(l->conn);
    mn_close(l->db, NULL);
    l->conn = NULL;
    l->db = NULL;
    if (l->base >= 0)
        close(l->base);
    free(l->vectors);
    free(l->rows);
    *l = (struct live){.base = -1};
}
