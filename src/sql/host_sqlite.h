/* Before every file of the loadable extension: SQLite's functions are those of the program that
 * loads it, whichever library it has them from. Two copies of SQLite in one process must not open
 * one file: each would drop the other's locks. */
#ifndef MN_SQL_HOST_SQLITE_H
#define MN_SQL_HOST_SQLITE_H

#include <sqlite3ext.h>

SQLITE_EXTENSION_INIT3

/* Whoever loads an extension has done it. */
#define sqlite3_initialize() SQLITE_OK

#endif
