#include "src/shell/rows.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/shell/units.h"
#include "src/shell/vectors.h"

/* ---- Attributes ----------------------------------------------------------------------------- */

int names_load(struct names *names, struct session *s, const char *collection)
{
    mn_error err = {0};
    *names = (struct names){0};
    if (mn_attributes(s->conn, collection, &names->items, &names->n, &err))
        return library_error(&err);
    return 0;
}

void names_free(struct names *names)
{
    mn_free_result(names->items);
    *names = (struct names){0};
}

/* ---- Ids ------------------------------------------------------------------------------------ */

int id_parse(const mn_collection_info *info, const char *word, mn_id *out)
{
    *out = (mn_id){0};
    if (info->id_kind == MN_ID_TEXT) {
        if (!*word || strlen(word) > MN_MAX_TEXT_ID)
            return error_exit("an id of '%s' has 1 to 255 bytes, '%.40s%s' has %zu", info->name,
                              word, strlen(word) > 40 ? "..." : "", strlen(word));
        out->text_id = word;
        return 0;
    }
    if (!integer_parse(word, &out->id))
        return error_exit("'%s' has integer ids; %.60s is none", info->name, word);
    return 0;
}

const char *id_quote(const mn_id *id, char *out, size_t size)
{
    if (id->text_id)
        snprintf(out, size, "'%s'", id->text_id);
    else
        snprintf(out, size, "%" PRId64, id->id);
    return out;
}

static int ids_add(struct id_list *ids, const mn_collection_info *info, const char *word)
{
    if ((ids->n & (ids->n - 1)) == 0)
        ids->items = need(realloc(ids->items, (ids->n ? ids->n * 2 : 1) * sizeof *ids->items));
    int code = id_parse(info, word, &ids->items[ids->n]);
    ids->n += code == 0;
    return code;
}

static int ids_read(struct id_list *ids, const mn_collection_info *info, FILE *file,
                    const char *path)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int code = 0;
    while (!code && (len = getline(&line, &cap, file)) >= 0) {
        while (len && (line[len - 1] == '\n' || line[len - 1] == '\r'))
            line[--len] = 0;
        if (!len)
            continue;
        if ((ids->n_lines & (ids->n_lines - 1)) == 0)
            ids->lines = need(
                realloc(ids->lines, (ids->n_lines ? ids->n_lines * 2 : 1) * sizeof *ids->lines));
        char *kept = need(strdup(line));
        ids->lines[ids->n_lines++] = kept;
        code = ids_add(ids, info, kept);
    }
    if (!code && ferror(file))
        code = error_exit("%s could not be read: %s", path, strerror(errno));
    free(line);
    return code;
}

int ids_load(struct id_list *ids, const mn_collection_info *info, char **args, size_t n,
             const char *from)
{
    int code = 0;
    *ids = (struct id_list){0};
    for (size_t i = 0; !code && i < n; i++)
        code = ids_add(ids, info, args[i]);
    if (code || !from)
        return code;
    bool standard = strcmp(from, "-") == 0;
    FILE *file = standard ? stdin : fopen(from, "r");
    if (!file)
        return error_exit("%s could not be opened: %s", from, strerror(errno));
    code = ids_read(ids, info, file, from);
    if (!standard)
        fclose(file);
    return code;
}

void ids_free(struct id_list *ids)
{
    for (size_t i = 0; i < ids->n_lines; i++)
        free(ids->lines[i]);
    free(ids->lines);
    free(ids->items);
    *ids = (struct id_list){0};
}

/* ---- Rows ----------------------------------------------------------------------------------- */

void row_id_json(struct text *t, const mn_row *row)
{
    if (row->text_id)
        text_json(t, row->text_id, strlen(row->text_id));
    else
        text_printf(t, "%" PRId64, row->id);
}

void row_id_show(struct text *t, const mn_row *row)
{
    if (row->text_id)
        text_puts(t, row->text_id);
    else
        text_printf(t, "%" PRId64, row->id);
}

void row_members_json(struct text *t, const mn_row *row)
{
    if (row->payload) {
        text_puts(t, ",\"text\":");
        text_json(t, row->payload, row->payload_len);
    }
    bool any = false;
    for (size_t i = 0; i < row->n_attrs; i++) {
        const mn_attr *a = &row->attrs[i];
        if (a->value.type == MN_NULL)
            continue;
        text_puts(t, any ? "," : ",\"attributes\":{");
        text_json(t, a->name, strlen(a->name));
        text_puts(t, ":");
        value_json(t, &a->value);
        any = true;
    }
    if (any)
        text_puts(t, "}");
}

int rows_get(struct session *s, const char *collection, const mn_id *ids, size_t *n, bool vectors,
             mn_rows **out)
{
    for (;;) {
        mn_error err = {0};
        mn_status st = vectors ? mn_get(s->conn, collection, ids, *n, out, &err)
                               : mn_get_meta(s->conn, collection, ids, *n, out, &err);
        if (st == MN_OK)
            return 0;
        if (st != MN_NOMEM || *n == 1)
            return library_error(&err);
        *n /= 2;
    }
}

/* Room for the other columns of a table is left. */
static size_t shown_names(const struct names *names)
{
    enum { MOST = TABLE_MOST_COLUMNS - 8 };
    return names->n < MOST ? names->n : MOST;
}

void row_columns_add(const struct names *names, struct table *t)
{
    for (size_t i = 0; i < shown_names(names); i++)
        table_column_optional(t, names->items[i]);
    table_column_optional(t, "text");
}

void row_cells_add(const struct names *names, struct table *t, const mn_row *row)
{
    struct text cell = {0};
    for (size_t i = 0; i < shown_names(names); i++) {
        const mn_value *v = row ? mn_row_attr(row, names->items[i]) : NULL;
        text_clear(&cell);
        text_puts(&cell, "");
        if (v)
            value_show(&cell, v);
        table_cell(t, cell.data, cell.len, 24);
    }
    bool payload = row && row->payload;
    table_cell(t, payload ? row->payload : "", payload ? row->payload_len : 0, 48);
    text_free(&cell);
}
