/* Rows being put, as a table that SQL can read: `INSERT ... SELECT ... FROM mneme_put` writes many
 * rows in one statement. Belongs to one connection; empty but for the time of that statement. */
#ifndef MN_ENGINE_BATCH_H
#define MN_ENGINE_BATCH_H

#include "src/engine/engine.h"

/* One row, checked and converted; everything is borrowed until the next row is asked for. */
struct batch_row {
    int64_t id;
    const char *text_id; /* NULL in integer collections */
    int64_t version;
    const char *payload; /* NULL: none */
    size_t payload_len;
    const void *vector; /* NULL: none */
    size_t vector_bytes;
    const mn_value *const *attrs; /* one for each attribute; NULL: none given */
    size_t n_attrs;
};

/* The rows of one statement, in order. */
struct batch {
    size_t n;
    mn_status (*get)(void *ctx, size_t i, struct batch_row *row, mn_error *err);
    void *ctx;
    mn_status status; /* of the first failed get; its sentence is in err */
    mn_error *err;
};

/* Makes the table `mneme_put` on the connection; its rows are those of conn->batch. Columns: id,
 * text_id, version, payload, vector, a0, a1, ... */
mn_status batch_register(mn_conn *conn, mn_error *err);

#endif
