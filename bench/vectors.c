/* Vectors in memory, from and to files. */
#include "bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/peers/driver.h"
#include "src/formats/formats.h"

void vectors_fini(struct vectors *v)
{
    free(v->rows);
    v->rows = NULL;
}

/* Room for one more row; false if memory runs out. */
static bool vectors_grow(struct vectors *v, size_t *room)
{
    if (v->n < *room)
        return true;
    size_t more = *room ? *room * 2 : 4096;
    float *rows = driver_memory(more * v->dim * sizeof *rows);
    if (!rows)
        return false;
    if (v->n)
        memcpy(rows, v->rows, v->n * v->dim * sizeof *rows);
    free(v->rows);
    v->rows = rows;
    *room = more;
    return true;
}

int vectors_read(struct vectors *v, const char *path)
{
    struct format_reader *reader = NULL;
    const struct format_record *record = NULL;
    struct format_probe probe;
    size_t room = 0;
    int rc = 1;
    mn_error err = {.code = MN_OK};
    *v = (struct vectors){.n = 0};
    if (format_probe(path, NULL, &probe, &err) != MN_OK ||
        format_reader_open(path, NULL, &reader, &err) != MN_OK)
        goto done;
    v->dim = probe.dim;
    if (probe.n_known && probe.n && probe.dim) {
        room = (size_t)probe.n;
        v->rows = driver_memory(room * v->dim * sizeof *v->rows);
        if (!v->rows) {
            bench_fail("%s: no memory for %zu vectors", path, room);
            goto done;
        }
    }
    while (format_reader_next(reader, &record, &err) == MN_OK && record) {
        if (!vectors_grow(v, &room)) {
            bench_fail("%s: no memory for %zu vectors", path, room * 2);
            goto done;
        }
        memcpy(v->rows + v->n * v->dim, record->vector, v->dim * sizeof *v->rows);
        v->n++;
    }
    if (err.code == MN_OK && v->n == 0)
        bench_fail("%s: holds no vector", path);
    else if (err.code == MN_OK)
        rc = 0;
done:
    if (err.code != MN_OK)
        bench_fail("%s", err.message);
    format_reader_close(reader);
    return rc;
}

int vectors_normalise(struct vectors *v, const char *path)
{
    for (size_t i = 0; i < v->n; i++) {
        float *row = v->rows + i * v->dim;
        double length = 0;
        for (uint32_t d = 0; d < v->dim; d++)
            length += (double)row[d] * row[d];
        if (!(length > 0))
            return bench_fail("%s: vector %zu is zero and has no direction", path, i + 1);
        for (uint32_t d = 0; d < v->dim; d++)
            row[d] = (float)(row[d] / sqrt(length));
    }
    return 0;
}

int fbin_write(const char *path, const float *rows, size_t n, uint32_t dim)
{
    uint32_t head[2] = {(uint32_t)n, dim};
    FILE *f = fopen(path, "wb");
    bool good = f && fwrite(head, sizeof head, 1, f) == 1 &&
                (n == 0 || fwrite(rows, sizeof(float) * dim, n, f) == n);
    if (f && fclose(f) != 0)
        good = false;
    return good ? 0 : bench_fail("%s: cannot be written: %s", path, strerror(errno));
}
