/* What `filter` and its workers share: synthetic attributes of rows, and ranges of them that
 * queries ask for. */
#ifndef MN_BENCH_FILTER_H
#define MN_BENCH_FILTER_H

#include <stddef.h>
#include <stdint.h>

/* "a": uniform, independent of the vectors. "p": the rank of the row's projection on a direction,
 * so that a range of it is a slab of the space. Both in [0, 1). */
enum { FILTER_A, FILTER_P, FILTER_COLUMNS, FILTER_MAX_K = 1000 };
extern const char *const filter_columns[FILTER_COLUMNS];

/* File of values, f64 [n][FILTER_COLUMNS]. NULL after a sentence; for free(). */
double *filter_values_read(const char *path, size_t n);

/* One range a query, [low, high) of one column. */
struct filter_ranges {
    uint32_t column;
    size_t n;
    double *bounds; /* [n][2] */
};

/* File: f64 column, then f64 [n][2]. 0, or 1 after a sentence. */
int filter_ranges_read(struct filter_ranges *r, const char *path, size_t n);
int filter_ranges_write(const struct filter_ranges *r, const char *path);
void filter_ranges_fini(struct filter_ranges *r);

#endif
