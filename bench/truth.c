/* True neighbours, and how much of an answer is right. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"

double truth_distance(const float *a, const float *b, uint32_t dim, mn_metric metric)
{
    double dot[4] = {0}, aa[4] = {0}, bb[4] = {0}, square[4] = {0};
    for (uint32_t d = 0; d < dim; d++) {
        double x = a[d], y = b[d];
        unsigned lane = d & 3;
        if (metric == MN_L2) {
            square[lane] += (x - y) * (x - y);
        } else {
            dot[lane] += x * y;
            if (metric == MN_COSINE) {
                aa[lane] += x * x;
                bb[lane] += y * y;
            }
        }
    }
    double product = dot[0] + dot[1] + dot[2] + dot[3];
    if (metric == MN_L2)
        return sqrt(square[0] + square[1] + square[2] + square[3]);
    if (metric == MN_IP)
        return -product;
    return 1 - product / sqrt((aa[0] + aa[1] + aa[2] + aa[3]) * (bb[0] + bb[1] + bb[2] + bb[3]));
}

static double distance(const struct truth *t, size_t query, int64_t row)
{
    uint32_t dim = t->base->dim;
    return truth_distance(t->queries->rows + query * dim, t->base->rows + (size_t)row * dim, dim,
                          t->metric);
}

static size_t wanted(const struct truth *t)
{
    return t->k < t->base->n ? t->k : t->base->n;
}

/* Puts `value` into the k least so far, ascending. */
static void least_insert(double *least, size_t *n, size_t k, double value)
{
    size_t i;
    if (*n == k && !(value < least[k - 1]))
        return;
    i = *n < k ? (*n)++ : k - 1;
    for (; i > 0 && least[i - 1] > value; i--)
        least[i] = least[i - 1];
    least[i] = value;
}

/* Distances of rounded sums differ in their last digits: rows this close to the k-th are ties. */
static double tie(double kth)
{
    return kth + 1e-5 * fabs(kth) + 1e-6;
}

int truth_compute(struct truth *t, size_t n)
{
    double *least = malloc(t->k * sizeof *least);
    t->n = n < t->queries->n ? n : t->queries->n;
    t->kth = malloc(t->n * sizeof *t->kth);
    if (!least || !t->kth) {
        free(least);
        return bench_fail("no memory for the distances of %zu queries", t->n);
    }
    for (size_t q = 0; q < t->n; q++) {
        size_t have = 0;
        for (size_t i = 0; i < t->base->n; i++)
            least_insert(least, &have, t->k, distance(t, q, (int64_t)i));
        t->kth[q] = least[have - 1];
    }
    free(least);
    return 0;
}

int truth_from_ids(struct truth *t, const int64_t *ids, size_t n, size_t per_query)
{
    double *least = malloc(t->k * sizeof *least);
    size_t k = wanted(t);
    t->n = n < t->queries->n ? n : t->queries->n;
    t->kth = malloc(t->n * sizeof *t->kth);
    if (!least || !t->kth || per_query < k) {
        free(least);
        return bench_fail("the true neighbours are %zu a query, %zu are wanted", per_query, k);
    }
    for (size_t q = 0; q < t->n; q++) {
        size_t have = 0;
        for (size_t i = 0; i < per_query; i++) {
            int64_t id = ids[q * per_query + i];
            if (id < 0 || (uint64_t)id >= t->base->n)
                continue;
            least_insert(least, &have, k, distance(t, q, id));
        }
        if (have < k) {
            free(least);
            return bench_fail("query %zu has %zu true neighbours in the base, %zu are wanted: they "
                              "belong to another set",
                              q, have, k);
        }
        t->kth[q] = least[k - 1];
    }
    free(least);
    return 0;
}

int truth_read(const char *path, int64_t **ids, size_t *n, size_t *per_query)
{
    FILE *f = fopen(path, "rb");
    int32_t head, *row = NULL;
    size_t room = 0, k = 0;
    *ids = NULL;
    *n = 0;
    if (!f)
        return bench_fail("%s: cannot be opened: %s", path, strerror(errno));
    while (fread(&head, sizeof head, 1, f) == 1) {
        if (head < 1 || head > (int32_t)MN_MAX_K || (k && (size_t)head != k))
            goto wrong;
        k = (size_t)head;
        row = row ? row : malloc(k * sizeof *row);
        if (*n == room) {
            room = room ? room * 2 : 1024;
            int64_t *more = realloc(*ids, room * k * sizeof *more);
            if (!more)
                goto wrong;
            *ids = more;
        }
        if (!row || fread(row, sizeof *row, k, f) != k)
            goto wrong;
        for (size_t i = 0; i < k; i++)
            (*ids)[*n * k + i] = row[i];
        ++*n;
    }
    if (*n == 0)
        goto wrong;
    *per_query = k;
    free(row);
    fclose(f);
    return 0;
wrong:
    free(row);
    free(*ids);
    *ids = NULL;
    fclose(f);
    return bench_fail("%s: is no ivecs file of true neighbours", path);
}

int truth_write(const char *path, const int64_t *ids, size_t n, size_t per_query)
{
    FILE *f = fopen(path, "wb");
    int32_t head = (int32_t)per_query;
    bool good = f != NULL;
    for (size_t q = 0; good && q < n; q++) {
        good = fwrite(&head, sizeof head, 1, f) == 1;
        for (size_t i = 0; good && i < per_query; i++) {
            int32_t id = (int32_t)ids[q * per_query + i];
            good = fwrite(&id, sizeof id, 1, f) == 1;
        }
    }
    if (f && fclose(f) != 0)
        good = false;
    return good ? 0 : bench_fail("%s: cannot be written: %s", path, strerror(errno));
}

double truth_recall(const struct truth *t, const int64_t *ids, size_t first, size_t n)
{
    size_t right = 0, each = wanted(t);
    for (size_t q = 0; q < n; q++) {
        const int64_t *got = ids + q * t->k;
        for (size_t i = 0; i < each; i++) {
            bool twice = false;
            for (size_t j = 0; j < i; j++)
                twice |= got[j] == got[i];
            if (!twice && got[i] >= 0 && (uint64_t)got[i] < t->base->n &&
                distance(t, first + q, got[i]) <= tie(t->kth[first + q]))
                right++;
        }
    }
    return (double)right / (double)(n * each);
}

int truth_recall_of_file(const struct truth *t, const char *name, const char *path, double *recall)
{
    int64_t *ids = malloc(t->n * t->k * sizeof *ids);
    FILE *f = fopen(path, "rb");
    bool good = ids && f && fread(ids, sizeof *ids * t->k, t->n, f) == t->n;
    if (good)
        *recall = truth_recall(t, ids, 0, t->n);
    if (f)
        fclose(f);
    free(ids);
    return good ? 0 : bench_fail("%s: wrote no answers for %zu queries", name, t->n);
}

void truth_fini(struct truth *t)
{
    free(t->kth);
    t->kth = NULL;
}
