/* What Mneme keeps for one SQLite connection of the application: the hosted connection of the
 * engine, opened when it is first wanted. Belongs to that connection's thread. */
#ifndef MN_SQL_SESSION_H
#define MN_SQL_SESSION_H

#include <sqlite3.h>

#include "mneme.h"

struct session;

/* For session_release; each module and function that is registered with it holds it. */
struct session *session_create(sqlite3 *sql);
struct session *session_hold(struct session *s);
void session_release(void *s); /* a destructor for SQLite; NULL is fine */

/* The module whose disconnection makes the connection's statements end before SQLite closes it. */
int session_register(struct session *s);

/* Before a statement is prepared that is kept: connects that module. SQLite's code. */
int session_guard(struct session *s);

/* Opens the database with these options; MN_MISUSE if it is open already, with others. */
mn_status session_begin(struct session *s, const mn_open_opts *opts, mn_error *err);

sqlite3 *session_sql(const struct session *s);

/* The list of connected virtual tables, which table.c keeps by their `next`. */
struct table **session_tables(struct session *s);
/* table.c: finalizes the statements that the tables keep; they are prepared again when wanted. */
void tables_rest(struct session *s);

/* The engine's connection, for a method of a virtual table; session_leave() ends its use. Not NULL
 * after MN_OK. */
mn_status session_enter(struct session *s, mn_conn **out, mn_error *err);
void session_leave(struct session *s);

/* The same for a function that was called by a SELECT: what it does is a transaction of its own
 * unless one is open. Switches the database to write-ahead logging if that was put off. */
mn_status session_call(struct session *s, mn_conn **out, mn_error *err);

/* A connection of its own on the same database, for work that a statement of the application must
 * not be part of; for mn_disconnect. */
mn_status session_aside(struct session *s, mn_conn **out, mn_error *err);

/* After a commit that changed rows of the collection: it may be time to fold. */
void session_tell(struct session *s, const char *collection);

/* Switches the database to write-ahead logging if it has to be and can be; else it is tried again
 * later. */
void session_settle(struct session *s);

/* The same when a statement is prepared, from an xConnect: once the statement reads, its own lock
 * is in the way of the switch. Does nothing where the journal is a write-ahead log already. */
void session_settle_early(struct session *s);

/* While mneme_explain() runs a statement: what its searches did, all together. */
struct searches {
    uint64_t n;
    mn_search_stats sum; /* .plan and .matches: of the last one */
};
/* From now on searches are counted in *all; NULL: no longer. Returns what was counted in before. */
struct searches *session_explain(struct session *s, struct searches *all);

/* For mn_search_opts.stats; NULL when nobody explains. Followed by session_searched(). */
mn_search_stats *session_stats(struct session *s);
void session_searched(struct session *s);

/* SQLite's code for the status. */
int session_code(mn_status st);
/* Sets a function's error. */
void session_fail(sqlite3_context *ctx, mn_status st, const mn_error *err);
/* Sets a table's message and returns the code. */
int session_refuse(sqlite3_vtab *t, mn_status st, const mn_error *err);

#endif
