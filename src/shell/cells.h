/* Values of SQL results as text: for people (vectors short), for other programs (vectors whole, as
 * JSON arrays), as JSON and as SQL literals. Any thread. */
#ifndef MN_SHELL_CELLS_H
#define MN_SHELL_CELLS_H

#include "src/shell/print.h"
#include "src/shell/schema.h"

struct cell {
    int type; /* SQLITE_INTEGER, ... */
    int64_t integer;
    double real;
    const char *data; /* [len] text or blob, borrowed from the statement */
    size_t len;
    struct shape shape; /* known: data is such a vector */
};

/* Column i of the current row. `column` is the shape of the column it comes from, if that holds
 * vectors; a function's result may say by its subtype that it is one. */
struct cell cell_read(sqlite3_stmt *stmt, int i, struct shape column);

void cell_show(struct text *t, const struct cell *c, const char *null); /* for people */
void cell_data(struct text *t, const struct cell *c, const char *null); /* complete */
void cell_json(struct text *t, const struct cell *c);
void cell_sql(struct text *t, const struct cell *c); /* a literal; reals keep every bit */

/* "[0.12, -0.5, 0.33, … 381 more] f32" */
void vector_show(struct text *t, struct shape shape, const void *vector);

#endif
