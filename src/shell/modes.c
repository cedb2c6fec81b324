#include "src/shell/modes.h"

#include <stdlib.h>
#include <string.h>

#include "src/shell/shell.h"

static const struct {
    const char *word, *help;
} mode_words[] = {
#define X(name, word, help) {word, help},
    OUTPUT_MODES(X)
#undef X
};

const char *mode_name(enum mode mode)
{
    return mode_words[mode].word;
}

const char *mode_help(enum mode mode)
{
    return mode_words[mode].help;
}

bool mode_parse(const char *word, enum mode *out)
{
    for (int i = 0; i < MODE_COUNT; i++)
        if (strcmp(word, mode_words[i].word) == 0) {
            *out = (enum mode)i;
            return true;
        }
    return false;
}

static bool is_grid(enum mode mode)
{
    return mode == MODE_TABLE || mode == MODE_BOX || mode == MODE_COLUMN || mode == MODE_MARKDOWN;
}

bool mode_is_for_people(enum mode mode)
{
    return is_grid(mode) || mode == MODE_LINE || mode == MODE_LIST;
}

/* ---- Separated values ----------------------------------------------------------------------- */

static const char *separator(const struct result *r)
{
    if (r->mode == MODE_TSV)
        return "\t";
    if (r->mode == MODE_CSV || r->mode == MODE_QUOTE)
        return ",";
    return r->modes->separator[0] ? r->modes->separator : "|";
}

static void tsv_field(struct text *t, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char *escape = s[i] == '\t'   ? "\\t"
                             : s[i] == '\n' ? "\\n"
                             : s[i] == '\r' ? "\\r"
                             : s[i] == '\\' ? "\\\\"
                                            : NULL;
        text_add(t, escape ? escape : s + i, escape ? 2 : 1);
    }
}

static void separated_field(struct result *r, const char *s, size_t n)
{
    if (r->mode == MODE_CSV)
        text_csv(&r->line, s, n);
    else if (r->mode == MODE_TSV)
        tsv_field(&r->line, s, n);
    else
        text_add(&r->line, s, n);
}

static void separated_header(struct result *r)
{
    text_clear(&r->line);
    for (size_t i = 0; i < r->n_columns; i++) {
        text_puts(&r->line, i ? separator(r) : "");
        separated_field(r, r->names[i], strlen(r->names[i]));
    }
    text_puts(&r->line, "\n");
    out_data(r->line.data, r->line.len);
}

static void separated_row(struct result *r)
{
    struct text value = {0};
    text_clear(&r->line);
    for (size_t i = 0; i < r->n_columns; i++) {
        struct cell c = cell_read(r->stmt, (int)i, r->shapes[i]);
        text_puts(&r->line, i ? separator(r) : "");
        if (r->mode == MODE_QUOTE) {
            cell_sql(&r->line, &c);
        } else if (c.type == SQLITE_NULL) { /* never quoted: an empty text is */
            text_puts(&r->line, r->modes->null_value);
        } else {
            text_clear(&value);
            text_puts(&value, "");
            cell_data(&value, &c, "");
            separated_field(r, value.data, value.len);
        }
    }
    text_puts(&r->line, "\n");
    out_data(r->line.data, r->line.len);
    text_free(&value);
}

/* ---- One value a line ----------------------------------------------------------------------- */

static void line_row(struct result *r)
{
    struct text value = {0};
    if (r->n_rows)
        out_printf("\n");
    for (size_t i = 0; i < r->n_columns; i++) {
        struct cell c = cell_read(r->stmt, (int)i, r->shapes[i]);
        size_t width = text_width(r->names[i], strlen(r->names[i]));
        text_clear(&r->line);
        text_clear(&value);
        text_puts(&value, "");
        cell_show(&value, &c, r->modes->null_value);
        text_printf(&r->line, "%*s", (int)(r->name_width - width), "");
        text_visible(&r->line, r->names[i], strlen(r->names[i]), 0);
        text_puts(&r->line, " = ");
        text_add(&r->line, value.data, value.len);
        text_puts(&r->line, "\n");
        out_data(r->line.data, r->line.len);
    }
    text_free(&value);
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static void json_row(struct result *r)
{
    text_clear(&r->line);
    if (r->mode == MODE_JSON)
        text_puts(&r->line, r->n_rows ? ",\n{" : "[{");
    else
        text_puts(&r->line, "{");
    for (size_t i = 0; i < r->n_columns; i++) {
        struct cell c = cell_read(r->stmt, (int)i, r->shapes[i]);
        text_puts(&r->line, i ? "," : "");
        text_json(&r->line, r->names[i], strlen(r->names[i]));
        text_puts(&r->line, ":");
        cell_json(&r->line, &c);
    }
    text_puts(&r->line, r->mode == MODE_JSON ? "}" : "}\n");
    out_data(r->line.data, r->line.len);
}

static void insert_row(struct result *r)
{
    const char *table = r->modes->insert_table[0] ? r->modes->insert_table : "tab";
    char *quoted = need(sqlite3_mprintf("\"%w\"", table));
    text_clear(&r->line);
    text_printf(&r->line, "INSERT INTO %s VALUES(", quoted);
    for (size_t i = 0; i < r->n_columns; i++) {
        struct cell c = cell_read(r->stmt, (int)i, r->shapes[i]);
        text_puts(&r->line, i ? "," : "");
        cell_sql(&r->line, &c);
    }
    text_puts(&r->line, ");\n");
    out_data(r->line.data, r->line.len);
    sqlite3_free(quoted);
}

/* ---- A statement's result ------------------------------------------------------------------- */

void result_begin(struct result *r, const struct modes *modes, sqlite3_stmt *stmt,
                  const struct collections *known)
{
    size_t n = (size_t)sqlite3_column_count(stmt);
    *r = (struct result){.modes = modes, .stmt = stmt, .n_columns = n, .mode = modes->mode};
    if (modes->expand)
        r->mode = MODE_LINE;
    r->shapes = need(calloc(n + 1, sizeof *r->shapes));
    r->names = need(calloc(n + 1, sizeof *r->names));
    for (size_t i = 0; i < n; i++) {
        const char *name = sqlite3_column_name(stmt, (int)i);
        size_t width;
        r->names[i] = name ? name : "";
        width = text_width(r->names[i], strlen(r->names[i]));
        r->name_width = width > r->name_width ? width : r->name_width;
        const char *database = known ? sqlite3_column_database_name(stmt, (int)i) : NULL;
        if (database && strcmp(database, "main") == 0)
            r->shapes[i] = collections_shape(known, sqlite3_column_table_name(stmt, (int)i),
                                             sqlite3_column_origin_name(stmt, (int)i));
    }
    if (is_grid(r->mode))
        r->grid = grid_begin(modes, r->mode, stmt, n);
    bool separated =
        r->mode == MODE_CSV || r->mode == MODE_TSV || r->mode == MODE_LIST || r->mode == MODE_QUOTE;
    if (separated && modes->headers == HEADERS_ON)
        separated_header(r);
}

void result_row(struct result *r)
{
    switch (r->mode) {
    case MODE_LINE:
        line_row(r);
        break;
    case MODE_JSON:
    case MODE_JSONL:
        json_row(r);
        break;
    case MODE_INSERT:
        insert_row(r);
        break;
    case MODE_LIST:
    case MODE_CSV:
    case MODE_TSV:
    case MODE_QUOTE:
        separated_row(r);
        break;
    default:
        for (size_t i = 0; i < r->n_columns; i++) {
            struct cell c = cell_read(r->stmt, (int)i, r->shapes[i]);
            grid_cell(r->grid, &c);
        }
    }
    r->n_rows++;
}

void result_end(struct result *r, bool whole)
{
    if (r->mode == MODE_JSON && (r->n_rows || whole))
        out_printf(r->n_rows ? "]\n" : "[]\n");
    if (r->grid)
        grid_end(r->grid, whole);
    text_free(&r->line);
    free(r->shapes);
    free(r->names);
    *r = (struct result){0};
}
