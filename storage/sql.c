#include "storage/sql.h"

#include <errno.h>
#include <stdarg.h>

#include "storage/base/error.h"

static mn_status status_of_cantopen(sqlite3 *db)
{
    switch (db ? sqlite3_system_errno(db) : 0) {
    case EACCES:
    case EPERM:
    case EROFS:
        return MN_READONLY;
    case ENOENT:
    case ENOTDIR:
        return MN_NOTFOUND;
    case ENOSPC:
    case EDQUOT:
        return MN_FULL;
    default:
        return MN_IO;
    }
}

static mn_status status_of(sqlite3 *db, int rc)
{
    if (rc == SQLITE_IOERR_NOMEM)
        return MN_NOMEM;
    if (rc == SQLITE_CONSTRAINT_CHECK || rc == SQLITE_CONSTRAINT_NOTNULL ||
        rc == SQLITE_CONSTRAINT_DATATYPE)
        return MN_INVALID; /* the row itself is wrong, whatever else is there */
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return MN_OK;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return MN_BUSY;
    case SQLITE_NOMEM:
        return MN_NOMEM;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return MN_READONLY;
    case SQLITE_INTERRUPT:
        return MN_INTERRUPTED;
    case SQLITE_CORRUPT:
        return MN_CORRUPT;
    case SQLITE_FULL:
        return MN_FULL;
    case SQLITE_CANTOPEN:
        return status_of_cantopen(db);
    case SQLITE_NOTADB:
        return MN_NOTADB;
    case SQLITE_CONSTRAINT:
        return MN_CONFLICT;
    case SQLITE_TOOBIG:
    case SQLITE_RANGE:
    case SQLITE_MISMATCH:
        return MN_INVALID;
    case SQLITE_MISUSE:
    case SQLITE_ABORT: /* a reader whose transaction was rolled back under it */
        return MN_MISUSE;
    case SQLITE_ERROR:
        /* A statement over a table that a foreign client changed or dropped. */
        return MN_CORRUPT;
    default:
        return MN_IO;
    }
}

static const char *remedy(mn_status st, int rc)
{
    switch (st) {
    case MN_BUSY:
        if (rc == SQLITE_LOCKED)
            return "; another statement of this connection reads it: finish that, and try again";
        return "; another connection is writing, try again";
    case MN_FULL:
        return "; make room on the disk and try again";
    case MN_CORRUPT:
        return "; run verify, and restore a backup if it reports damage";
    case MN_NOTADB:
        return "; check the path";
    case MN_READONLY:
        return "; check the permissions of the file and its folder";
    default:
        return "";
    }
}

mn_status sql_fail(sqlite3 *db, int rc, mn_error *err, const char *what)
{
    mn_status st = status_of(db, rc);
    if (st == MN_OK)
        st = MN_IO;
    const char *file = db ? sqlite3_db_filename(db, "main") : NULL;
    /* The connection's message belongs to its last call; another code means it is about that. */
    bool fits = db && (sqlite3_errcode(db) & 0xff) == (rc & 0xff);
    const char *says = fits ? sqlite3_errmsg(db) : sqlite3_errstr(rc);
    if (st == MN_NOMEM) /* SQLite names what it could not do for want of memory */
        says = "out of memory";
    int os = db && ((rc & 0xff) == SQLITE_IOERR || (rc & 0xff) == SQLITE_CANTOPEN)
                 ? sqlite3_system_errno(db)
                 : 0;
    bool named = file && *file;
    if (os)
        mn_fail_os(err, st, os, "%s%s%s%s%s%s", named ? file : "", named ? ": " : "",
                   what ? what : "", what ? ": " : "", says, remedy(st, rc));
    else
        mn_fail(err, st, "%s%s%s%s%s%s", named ? file : "", named ? ": " : "", what ? what : "",
                what ? ": " : "", says, remedy(st, rc));
    if (err && err->sqlite_error == 0)
        err->sqlite_error = rc;
    return st;
}

mn_status sql_exec(sqlite3 *db, const char *sql, mn_error *err)
{
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? MN_OK : sql_fail(db, rc, err, NULL);
}

mn_status sql_execf(sqlite3 *db, mn_error *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *sql = sqlite3_vmprintf(format, args);
    va_end(args);
    if (!sql)
        return mn_fail(err, MN_NOMEM, "out of memory for a statement");
    mn_status st = sql_exec(db, sql, err);
    sqlite3_free(sql);
    return st;
}

mn_status sql_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **out, mn_error *err)
{
    int rc = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
    return rc == SQLITE_OK ? MN_OK : sql_fail(db, rc, err, NULL);
}

mn_status sql_preparef(sqlite3 *db, sqlite3_stmt **out, mn_error *err, const char *format, ...)
{
    *out = NULL;
    va_list args;
    va_start(args, format);
    char *sql = sqlite3_vmprintf(format, args);
    va_end(args);
    if (!sql)
        return mn_fail(err, MN_NOMEM, "out of memory for a statement");
    mn_status st = sql_prepare(db, sql, out, err);
    sqlite3_free(sql);
    return st;
}

mn_status sql_step(sqlite3_stmt *st, bool *row, mn_error *err)
{
    int rc = sqlite3_step(st);
    *row = rc == SQLITE_ROW;
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return MN_OK;
    mn_status status = sql_fail(sqlite3_db_handle(st), rc, err, NULL);
    sqlite3_reset(st);
    return status;
}

mn_status sql_run(sqlite3_stmt *st, mn_error *err)
{
    bool row;
    mn_status status = sql_step(st, &row, err);
    if (status == MN_OK)
        sqlite3_reset(st);
    return status;
}

mn_status sql_stmt_int(sqlite3_stmt *st, int64_t otherwise, int64_t *out, mn_error *err)
{
    bool row;
    *out = otherwise;
    mn_status status = sql_step(st, &row, err);
    if (status)
        return status;
    if (row && sqlite3_column_type(st, 0) != SQLITE_NULL)
        *out = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return MN_OK;
}

mn_status sql_int(sqlite3 *db, const char *sql, int64_t otherwise, int64_t *out, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    *out = otherwise;
    mn_status status = sql_prepare(db, sql, &st, err);
    if (status == MN_OK)
        status = sql_stmt_int(st, otherwise, out, err);
    sqlite3_finalize(st);
    return status;
}
