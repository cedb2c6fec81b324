/* Connections on a SQLite handle that belongs to the application: the SQL extension's. */
#ifndef MN_ENGINE_HOST_H
#define MN_ENGINE_HOST_H

#include "src/engine/engine.h"

/* A connection on `sql`, with a database of the same file; for host_close. */
mn_status host_open(sqlite3 *sql, const mn_open_opts *opts, mn_conn **out, mn_error *err);
void host_close(mn_conn *conn); /* NULL is fine */

/* Says that the calls which follow serve a running statement of the application, or no longer. */
void host_inside(mn_conn *conn, bool inside);

/* Switches the database to write-ahead logging if it has a catalog and nothing is open on the
 * application's handle, else later. *did: it was switched now. */
mn_status host_use_wal(mn_conn *conn, bool *did, mn_error *err);

/* In conn_enter and host_inside: which transaction the application has. */
void host_look(mn_conn *conn);

/* Whether the application has interrupted its statement; asks SQLite every 2 ms. */
bool host_interrupted(mn_conn *conn);

#endif
