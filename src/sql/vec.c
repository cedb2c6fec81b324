#include "src/sql/vec.h"

#include <stddef.h>

int vec_register(sqlite3 *db)
{
    int (*const parts[])(sqlite3 *) = {vec_register_make,     vec_register_change,
                                       vec_register_distance, vec_register_sum,
                                       vec_register_each,     json_contains_register};
    int rc = SQLITE_OK;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && rc == SQLITE_OK; i++)
        rc = parts[i](db);
    return rc;
}
