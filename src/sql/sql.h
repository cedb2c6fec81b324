/* Registering everything on a connection; mn_sql_register() is the public face. */
#ifndef MN_SQL_SQL_H
#define MN_SQL_SQL_H

#include <sqlite3.h>

#include "src/sql/session.h"

/* One scalar function with the session as its user data. */
struct sql_function {
    const char *name;
    int n_args; /* -1: any */
    int flags;  /* beside SQLITE_UTF8 */
    void (*call)(sqlite3_context *ctx, int n, sqlite3_value **args);
};
int sql_register_functions(struct session *s, const struct sql_function *functions, size_t n);

int functions_register(struct session *s); /* functions.c */
int explain_register(struct session *s);   /* explain.c */
int index_register(struct session *s);     /* index_table.c */
int knn_register(struct session *s);       /* knn.c */
int open_register(struct session *s);      /* open.c */
int recall_register(struct session *s);    /* recall.c */
int fts_register(struct session *s);       /* fts_functions.c */
int hybrid_register(struct session *s);    /* hybrid.c */
int mmr_register(struct session *s);       /* mmr.c */

#endif
