/* The conditions of a search, resolved against its collection: what they say of values and rows.
 * How rows that meet them are found is columns.h's and search's. */
#ifndef MN_ENGINE_CONDITIONS_H
#define MN_ENGINE_CONDITIONS_H

#include "src/engine/engine.h"

enum { CONDITION_ID = -1, CONDITION_TEXT_ID = -2 };

struct condition {
    mn_op op;
    int column; /* an attribute's position in coll.attrs, or CONDITION_... */
    const mn_value *values; /* [n] without NULLs; IN: ascending */
    size_t n;
};

/* All zeros: none. */
struct conditions {
    struct condition *all; /* [n] */
    size_t n;
    mn_value *sorted; /* memory of the values */
    bool never;       /* no row can meet them: a value to compare with is NULL */
};

/* Checks the caller's conditions, whose values stay borrowed. Fails with MN_NOTFOUND (attribute),
 * MN_INVALID (names the condition), MN_NOMEM; *out is then for conditions_fini all the same. */
mn_status conditions_take(mn_conn *conn, const struct coll *c, const mn_condition *given, size_t n,
                          struct conditions *out, mn_error *err);
void conditions_fini(struct mn_alloc *a, struct conditions *cs);

/* Whether a value meets one of them. */
bool condition_holds(const struct condition *c, const mn_value *v);

/* Whether a row, its attributes as row_read hands them out, meets all. */
bool conditions_hold(const struct conditions *cs, const mn_row *row);

#endif
