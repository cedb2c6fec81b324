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
    struct names names; /* attributes */
    struct table table;
    float *x; /* [dim] */
    struct text line;
    bool json;
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

static void table_begin(struct get *g)
{
    table_column_add(&g->table, "id", g->info.id_kind == MN_ID_INTEGER);
    table_column_add(&g->table, "version", true);
    row_columns_add(&g->names, &g->table);
    if (!g->given->no_vector)
        table_column_add(&g->table, "vector", false);
}

static void table_add(struct get *g, const mn_row *row)
{
    text_clear(&g->line);
    row_id_show(&g->line, row);
    table_cell(&g->table, g->line.data, g->line.len, 40);
    table_cellf(&g->table, "%" PRId64, row->version);
    row_cells_add(&g->names, &g->table, row);
    if (!g->given->no_vector)
        vector_cell(g, &g->table, row->vector);
}

/* Shows ids[*n]; *n becomes how many of them were. */
static int get_chunk(struct get *g, const mn_id *ids, size_t *n)
{
    mn_rows *rows = NULL;
    int code = rows_get(&g->db, g->collection, ids, n, !g->given->no_vector, &rows);
    for (size_t i = 0; !code && i < *n; i++) {
        char quoted[MN_MAX_TEXT_ID + 3];
        const mn_row *row = mn_rows_at(rows, i);
        if (row && g->json) {
            show_json(g, row);
        } else if (row) {
            table_add(g, row);
        } else {
            g->missing++;
            warn("no row %s in '%s'", id_quote(&ids[i], quoted, sizeof quoted), g->collection);
        }
    }
    mn_rows_free(rows);
    return code;
}

/* All rows of one snapshot. */
static int get_rows(struct get *g)
{
    mn_error err = {0};
    int code = 0;
    g->x = need(calloc(g->info.dim, sizeof *g->x));
    if (mn_begin_read(g->db.conn, &err))
        return library_error(&err);
    table_begin(g);
    for (size_t first = 0, n; !code && first < g->ids.n && out_fine(); first += n) {
        n = g->ids.n - first < GET_ROWS ? g->ids.n - first : GET_ROWS;
        code = interrupted() ? EXIT_INTERRUPTED : get_chunk(g, g->ids.items + first, &n);
    }
    (void)mn_rollback(g->db.conn, NULL);
    if (!code && g->table.n_rows)
        table_print(&g->table);
    return code ? code : g->missing ? EXIT_FOUND : 0;
}

static int run(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    const struct get_options *o = given;
    if (n == 2 && !o->from)
        return usage_error("get: which rows? give ids, or --from FILE");
    struct get g = {.given = o, .collection = args[1], .json = o->format == 2};
    int code = session_open(&g.db, &o->common, args[0], MN_OPEN_READONLY);
    if (!code)
        code = session_collection(&g.db, g.collection, &g.info);
    if (!code && !g.json)
        code = names_load(&g.names, &g.db, g.collection);
    if (!code)
        code = ids_load(&g.ids, &g.info, args + 2, n - 2, o->from);
    if (!code)
        code = get_rows(&g);
    ids_free(&g.ids);
    names_free(&g.names);
    table_free(&g.table);
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
