/* json_contains(json, value): whether a JSON array has the value among its members: numbers compare
 * as numbers, texts byte by byte. 0 for what is no JSON array; NULL if an argument is NULL. The
 * virtual table takes json_contains(column, value) as a condition of its own, with the same
 * answers. */
#include "src/sql/vec.h"
#include "src/sql/vec_value.h"
#include "storage/base/json_member.h"

void json_contains(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    mn_value value = {.type = MN_BLOB};
    if (sqlite3_value_type(args[0]) == SQLITE_NULL || sqlite3_value_type(args[1]) == SQLITE_NULL)
        return;
    const char *json = (const char *)sqlite3_value_text(args[0]);
    switch (sqlite3_value_type(args[1])) {
    case SQLITE_INTEGER:
        value = (mn_value){.type = MN_INTEGER, .integer = sqlite3_value_int64(args[1])};
        break;
    case SQLITE_FLOAT:
        value = (mn_value){.type = MN_REAL, .real = sqlite3_value_double(args[1])};
        break;
    case SQLITE_TEXT:
        value = (mn_value){.type = MN_TEXT, .data = sqlite3_value_text(args[1])};
        value.len = (size_t)sqlite3_value_bytes(args[1]);
        break;
    default: /* a BLOB is in no JSON */
        break;
    }
    if (!json || (value.type == MN_TEXT && !value.data)) {
        sqlite3_result_error_nomem(ctx);
        return;
    }
    bool text = sqlite3_value_type(args[0]) == SQLITE_TEXT;
    size_t len = (size_t)sqlite3_value_bytes(args[0]);
    sqlite3_result_int(ctx, text && value.type != MN_BLOB && json_member(json, len, &value));
}

int json_contains_register(sqlite3 *db)
{
    return sqlite3_create_function_v2(db, "json_contains", 2,
                                      SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS, NULL,
                                      json_contains, NULL, NULL, NULL);
}
