/* SQL functions over vectors: vec_f32() to vec_each(), as docs/vectors.md shows them. Knows no
 * table and no index. One call a connection; the functions keep no state. */
#ifndef MN_SQL_VEC_H
#define MN_SQL_VEC_H

#include <sqlite3.h>

/* Registers all of them on a connection. Returns a SQLite code; SQLITE_BUSY if a statement that
 * uses an older copy of them is running. */
int vec_register(sqlite3 *db);

/* Its parts. */
int vec_register_distance(sqlite3 *db);  /* vec_distance.c */
int vec_register_make(sqlite3 *db);      /* vec_make.c */
int vec_register_change(sqlite3 *db);    /* vec_change.c */
int vec_register_sum(sqlite3 *db);       /* vec_sum.c */
int vec_register_each(sqlite3 *db);      /* vec_each.c */
int json_contains_register(sqlite3 *db); /* json_contains.c */
/* The function itself, for who overloads it. */
void json_contains(sqlite3_context *ctx, int n, sqlite3_value **args);

#endif
