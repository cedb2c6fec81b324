#include "src/sql/alive.h"

#include <string.h>

#include "src/sql/table.h"
#include "storage/base/error.h"

bool alive_value(const mn_value *v, int64_t now)
{
    if (!v || v->type == MN_NULL)
        return true;
    if (v->type == MN_INTEGER)
        return v->integer > now;
    return v->type != MN_REAL || v->real > (double)now;
}

bool alive_row(void *ctx, const mn_row *row)
{
    const struct alive *a = ctx;
    return alive_value(mn_row_attr(row, a->column), a->now);
}

static const struct table *find(struct session *s, const char *name, size_t len)
{
    for (struct table *t = *session_tables(s); t; t = t->next)
        if (strlen(t->name) == len && sqlite3_strnicmp(t->name, name, (int)len) == 0)
            return t;
    return NULL;
}

mn_status alive_of(struct session *s, const char *rows, struct alive *out, mn_error *err)
{
    size_t len = strlen(rows);
    *out = (struct alive){.now = table_now()};
    if (len <= 5 || sqlite3_stricmp(rows + len - 5, "_rows") != 0)
        return MN_OK;
    const struct table *t = find(s, rows, len - 5);
    if (!t) { /* it may be there, and not connected yet */
        sqlite3_stmt *st = NULL;
        char *sql = sqlite3_mprintf("SELECT 1 FROM main.\"%.*w\"", (int)len - 5, rows);
        int rc = sql ? sqlite3_prepare_v2(session_sql(s), sql, -1, &st, NULL) : SQLITE_NOMEM;
        sqlite3_finalize(st);
        sqlite3_free(sql);
        if (rc == SQLITE_NOMEM)
            return mn_fail(err, MN_NOMEM, "out of memory");
        t = find(s, rows, len - 5);
    }
    if (t && t->d.ttl)
        sqlite3_snprintf(sizeof out->column, out->column, "%s", t->d.columns[t->d.ttl].name);
    return MN_OK;
}
