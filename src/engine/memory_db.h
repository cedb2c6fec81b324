/* What ":memory:" stands on: files in memory under a SQLite VFS of their own, private to one
 * mn_db, with write-ahead logging and snapshots as on disk. */
#ifndef MN_ENGINE_MEMORY_DB_H
#define MN_ENGINE_MEMORY_DB_H

#include "mneme.h"

/* *vfs takes the VFS's name, from malloc; it is also what memory_db_destroy wants back. */
mn_status memory_db_create(char **vfs, mn_error *err);

/* Every SQLite handle on it must have been closed. NULL is fine. Does not free the name. */
void memory_db_destroy(const char *vfs);

#endif
