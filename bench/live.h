/* What `churn` and `live` share: a collection filled from an fbin file, whose rows are read as they
 * are needed, so that the process holds no vectors of the bench's own. */
#ifndef MN_BENCH_LIVE_H
#define MN_BENCH_LIVE_H

#include "bench/bench.h"

#define LIVE_COLLECTION "bench"
#define LIVE_BATCH 1000u

struct live {
    mn_db *db;
    mn_conn *conn;
    int base; /* the fbin file */
    size_t n; /* its rows */
    uint32_t dim;
    float *vectors; /* [LIVE_BATCH][dim] */
    mn_row *rows;   /* [LIVE_BATCH] */
};

/* Opens database and file. False after an error line (driver_error). live_close in both cases. */
bool live_open(struct live *l, const char *db, const char *base, uint32_t flags, uint64_t memory);
bool live_create(struct live *l, mn_metric metric);

/* Puts rows first .. first + n of the file, in transactions of up to LIVE_BATCH rows; a row's id is
 * its number. False after an error line. */
bool live_put(struct live *l, mn_conn *conn, size_t first, size_t n);
bool live_fold(struct live *l);

/* mn_fold; while another thread or a writer is in the way, tries again for up to two minutes. */
mn_status live_fold_patiently(mn_conn *conn, mn_error *err);
void live_close(struct live *l);

#endif
