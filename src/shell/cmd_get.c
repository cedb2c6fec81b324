/* mneme get: rows by id. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/shell/print.h"
#include "src/shell/rows.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"
#include "src/shell/vectors.h"

struct get_options {
    struct common common;
    int format;
    const char *from;
    bool no_vector;
};

#define FIELD(name) offsetof(struct get_options, name)
static const struct option options[] = {
    {"format", 'f', OPTION_CHOICE, FIELD(format), NULL,
     "Default table, which shows the beginning of vectors and texts; json is one whole row a line.",
     "table|json", 0, 0},
    {"from", 0, OPTION_TEXT, FIELD(from), "FILE",
     "Further ids from this file, one a line; - is standard input.", NULL, 0, 0},
    {"no-vector", 0, OPTION_FLAG, FIELD(no_vector), NULL, "Leave out the vectors.", NULL, 0, 0},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

struct get {
    const struct get_options *given;
    const char *collection;
    struct session db;
    mn_collection_info info;
    struct id_list ids;
    float *x; /* [dim] */
    struct text line;
    uint64_t missing;
};

enum { GET_ROWS = 256, SHOWN_ELEMENTS = 5 };

static void vector_json(struct get *g, const void *vector)
{
    if (!vector) {
        text_puts(&g->line, "null");
        return;
    }
    vector_to_f32(g->info.dtype, g->info.dim, vector, g->x);
    for (uint32_t i = 0; i < g->info.dim; i++) {
        text_puts(&g->line, i ? "," : "[");
        text_float(&g->line, g->x[i]);
    }
    text_puts(&g->line, "]");
}

static void show_json(struct get *g, const mn_row *row)
{
    text_clear(&g->line);
    text_puts(&g->line, "{\"id\":");
    row_id_json(&g->line, row);
    text_printf(&g->line, ",\"version\":%" PRId64, row->version);
    row_members_json(&g->line, row);
    if (!g->given->no_vector) {
        text_puts(&g->line, ",\"vector\":");
        vector_json(g, row->vector);
    }
    text_puts(&g->line, "}\n");
    out_write(g->line.data, g->line.len);
}

static void vector_cell(struct get *g, struct table *table, const void *vector)
{
    uint32_t n = g->info.dim < SHOWN_ELEMENTS ? g->info.dim : SHOWN_ELEMENTS;
    text_clear(&g->line);
    text_puts(&g->line, "");
    if (vector)
        vector_to_f32(g->info.dtype, g->info.dim, vector, g->x);
    for (uint32_t i = 0; vector && i < n; i++)
        text_printf(&g->line, "%s%.4g", i ? ", " : "[", (double)g->x[i]);
    if (vector)
        text_puts(&g->line, n < g->info.dim ? ", ...]" : "]");
    table_cell(table, g->line.data, g->line.len, 0);
}

static void show_table(struct get *g, const mn_row *const *rows, size_t n)
{
    struct table table = {0};
    struct row_columns columns;
    row_columns_find(&columns, rows, n);
    table_column(&table, "id", g->info.id_kind == MN_ID_INTEGER);
    table_column(&table, "version", true);
    row_columns_add(&columns, &table);
    if (!g->given->no_vector)
        table_column(&table, "vector", false);
    for (size_t i = 0; i < n; i++) {
        if (!rows[i])
            continue;
        text_clear(&g->line);
        row_id_show(&g->line, rows[i]);
        table_cell(&table, g->line.data, g->line.len, 40);
        table_cellf(&table, "%" PRId64, rows[i]->version);
        row_cells_add(&columns, &table, rows[i]);
        if (!g->given->no_vector)
            vector_cell(g, &table, rows[i]->vector);
    }
    if (table.n_rows)
        table_print(&table);
    table_free(&table);
}

static int get_chunk(struct get *g, const mn_id *ids, size_t n)
{
    mn_error err = {0};
    mn_rows *rows = NULL;
    if (mn_get(g->db.conn, g->collection, ids, n, &rows, &err))
        return library_error(&err);
    const mn_row *found[GET_ROWS];
    for (size_t i = 0; i < n; i++) {
        char quoted[MN_MAX_TEXT_ID + 3];
        found[i] = mn_rows_at(rows, i);
        if (found[i])
            continue;
        g->missing++;
        warn("no row %s in '%s'", id_quote(&ids[i], quoted, sizeof quoted), g->collection);
    }
    if (g->given->format == 2) {
        for (size_t i = 0; i < n; i++)
            if (found[i])
                show_json(g, found[i]);
    } else {
        show_table(g, found, n);
    }
    out_flush();
    mn_rows_free(rows);
    return 0;
}

/* All rows of one snapshot. */
static int get_rows(struct get *g)
{
    mn_error err = {0};
    int code = 0;
    g->x = need(calloc(g->info.dim, sizeof *g->x));
    if (mn_begin_read(g->db.conn, &err))
        return library_error(&err);
    for (size_t first = 0; !code && first < g->ids.n && out_fine(); first += GET_ROWS) {
        size_t n = g->ids.n - first < GET_ROWS ? g->ids.n - first : GET_ROWS;
        code = interrupted() ? EXIT_INTERRUPTED : get_chunk(g, g->ids.items + first, n);
    }
    (void)mn_rollback(g->db.conn, NULL);
    return code ? code : g->missing ? EXIT_FOUND : 0;
}

static int run(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    const struct get_options *o = given;
    if (n == 2 && !o->from)
        return usage_error("get: which rows? give ids, or --from FILE");
    struct get g = {.given = o, .collection = args[1]};
    int code = session_open(&g.db, &o->common, args[0], MN_OPEN_READONLY);
    if (!code)
        code = session_collection(&g.db, g.collection, &g.info);
    if (!code)
        code = ids_load(&g.ids, &g.info, args + 2, n - 2, o->from);
    if (!code)
        code = get_rows(&g);
    ids_free(&g.ids);
    text_free(&g.line);
    free(g.x);
    int closed = session_close(&g.db);
    return code ? code : closed;
}

const struct command cmd_get = {
    .name = "get",
    .arguments = "DB COLLECTION [ID...]",
    .summary = "show rows by id",
    .about = "Shows the rows that have these ids, in the order given, all of one state of the\n"
             "database. Exit code 1 if one of them is not there.",
    .examples = "  mneme get app.db words ocean river\n"
                "  mneme get app.db docs 17 --format json\n"
                "  mneme get app.db docs --from ids.txt --no-vector\n",
    .options = options,
    .size = sizeof(struct get_options),
    .run = run,
};
