/* mneme delete: rows by id, all or none. */
#include <stdio.h>

#include "src/shell/print.h"
#include "src/shell/rows.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"

struct delete_options {
    struct common common;
    const char *from;
};

static const struct option options[] = {
    {"from", 0, OPTION_TEXT, offsetof(struct delete_options, from), "FILE",
     "Further ids from this file, one a line; - is standard input.", NULL, 0, 0},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

static int delete_rows(struct session *db, const struct delete_options *o, const char *collection,
                       const struct id_list *ids)
{
    char n[UNITS_TEXT], of[UNITS_TEXT];
    uint64_t deleted = 0;
    mn_error err = {0};
    if (mn_delete(db->conn, collection, ids->items, ids->n, &deleted, &err))
        return library_error(&err);
    if (!o->common.quiet)
        out_printf("deleted %s of %s row%s from '%s'\n", count_format(n, deleted),
                   count_format(of, ids->n), ids->n == 1 ? "" : "s", collection);
    return deleted == ids->n ? 0 : EXIT_FOUND;
}

static int run(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    const struct delete_options *o = given;
    if (n == 2 && !o->from)
        return usage_error("delete: which rows? give ids, or --from FILE");
    struct session db;
    struct id_list ids = {0};
    mn_collection_info info;
    int code = session_open(&db, &o->common, args[0], MN_OPEN_MUST_EXIST);
    if (!code)
        code = session_collection(&db, args[1], &info);
    if (!code)
        code = ids_load(&ids, &info, args + 2, n - 2, o->from);
    if (!code)
        code = delete_rows(&db, o, args[1], &ids);
    ids_free(&ids);
    int closed = session_close(&db);
    return code ? code : closed;
}

const struct command cmd_delete = {
    .name = "delete",
    .arguments = "DB COLLECTION [ID...]",
    .summary = "delete rows by id",
    .about = "Deletes the rows that have these ids, with all their vectors, in one transaction.\n"
             "Exit code 1 if one of them was not there; the others are deleted all the same.",
    .examples = "  mneme delete app.db words teh\n"
                "  mneme delete app.db docs 17 18 19\n"
                "  mneme delete app.db docs --from ids.txt\n",
    .options = options,
    .size = sizeof(struct delete_options),
    .run = run,
};
