/* Rows of a table USING mneme whose TTL column says that their time is over: no query sees them,
 * though they are there until they are deleted. On the connection's thread. */
#ifndef MN_SQL_ALIVE_H
#define MN_SQL_ALIVE_H

#include "src/sql/session.h"

struct alive {
    char column[MN_MAX_NAME + 1]; /* ""; the rows never expire */
    int64_t now;                  /* seconds since 1970 */
};

/* For the rows of the table that a collection is over. */
MN_CHECKED mn_status alive_of(struct session *s, const char *rows, struct alive *out,
                              mn_error *err);

/* NULL and what is no number: for ever. */
bool alive_value(const mn_value *v, int64_t now);

/* A mn_filter_fn; ctx is a struct alive with a column. */
bool alive_row(void *ctx, const mn_row *row);

#endif
