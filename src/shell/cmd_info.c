/* mneme list, info and stats: what is in a database, and how it fares. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/shell/indexing.h"
#include "src/shell/print.h"
#include "src/shell/rows.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"

enum output { OUTPUT_TABLE, OUTPUT_JSON = 2 };

struct info_options {
    struct common common;
    int format;
    bool defaults;
};

#define FIELD(name) offsetof(struct info_options, name)
#define FORMAT_OPTION                                                                              \
    {                                                                                              \
        "format", 'f', OPTION_CHOICE, FIELD(format), NULL,                                         \
            "Default table; json is one object a line.", "table|json", 0, 0                        \
    }
#define NO_OPTION                                                                                  \
    {                                                                                              \
        NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0                                            \
    }

static const struct option info_options[] = {
    FORMAT_OPTION,
    {"defaults", 0, OPTION_FLAG, FIELD(defaults), NULL, "What holds where nothing is said.", NULL,
     0, 0},
    NO_OPTION,
};
static const struct option list_options[] = {NO_OPTION};
static const struct option stats_options[] = {FORMAT_OPTION, NO_OPTION};

/* The collections to speak of: all, or the one named by args[1]. *all is for mn_free_result
 * unless it is `one`. */
static int collections(struct session *db, char **args, size_t n, mn_collection_info *one,
                       mn_collection_info **all, size_t *n_all)
{
    mn_error err = {0};
    *all = NULL;
    *n_all = 0;
    if (n < 2)
        return mn_list(db->conn, all, n_all, &err) ? library_error(&err) : 0;
    int code = session_collection(db, args[1], one);
    if (!code) {
        *all = one;
        *n_all = 1;
    }
    return code;
}

static void line(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "name       value" */
static void line(const char *name, const char *format, ...)
{
    struct text value = {0};
    char buffer[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(buffer, sizeof buffer, format, args);
    va_end(args);
    text_visible(&value, buffer, strlen(buffer), 0);
    out_printf("%-18s %s\n", name, value.data);
    text_free(&value);
}

static void json_text_member(struct text *t, const char *name, const char *value)
{
    text_printf(t, "%s\"%s\":", t->len ? "," : "{", name);
    text_json(t, value, strlen(value));
}

static void json_count_member(struct text *t, const char *name, uint64_t value)
{
    text_printf(t, "%s\"%s\":%" PRIu64, t->len ? "," : "{", name, value);
}

static void json_end(struct text *t)
{
    text_puts(t, "}\n");
    out_write(t->data, t->len);
    text_clear(t);
}

static const char *id_kind_name(mn_id_kind kind)
{
    return kind == MN_ID_TEXT ? "text" : "integer";
}

static const char *rerank_name(mn_rerank rerank)
{
    return rerank == MN_RERANK_COPY ? "copy" : rerank == MN_RERANK_ROWS ? "rows" : "none";
}

/* ---- list ----------------------------------------------------------------------------------- */

static int run_list(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    (void)n;
    const struct info_options *o = given;
    struct session db;
    mn_collection_info one, *all = NULL;
    size_t n_all = 0;
    int code = session_open(&db, &o->common, args[0], MN_OPEN_READONLY);
    if (!code)
        code = collections(&db, args, 1, &one, &all, &n_all);
    for (size_t i = 0; !code && i < n_all; i++)
        out_printf("%s\n", all[i].name);
    mn_free_result(all);
    int closed = session_close(&db);
    return code ? code : closed;
}

const struct command cmd_list = {
    .name = "list",
    .arguments = "DB",
    .summary = "the names of the collections",
    .about = "Prints the name of each collection on a line of its own, for scripts. `mneme info`\n"
             "says more.",
    .examples = "  mneme list app.db\n",
    .options = list_options,
    .size = sizeof(struct info_options),
    .run = run_list,
};

/* ---- info ----------------------------------------------------------------------------------- */

static void info_defaults(void)
{
    struct table table = {0};
    table_column_add(&table, "default", false);
    table_column_add(&table, "value", false);
    table_column_add(&table, "meaning", false);
    for (const mn_default *d = mn_defaults(); d->name; d++) {
        table_cell(&table, d->name, strlen(d->name), 0);
        table_cell(&table, d->value, strlen(d->value), 0);
        table_cell(&table, d->meaning, strlen(d->meaning), 0);
    }
    table_print(&table);
    table_free(&table);
}

static void info_table(const mn_collection_info *all, size_t n)
{
    struct table table = {0};
    table_column_add(&table, "collection", false);
    table_column_add(&table, "dim", true);
    table_column_add(&table, "type", false);
    table_column_add(&table, "metric", false);
    table_column_add(&table, "ids", false);
    table_column_add(&table, "attributes", false);
    table_column_add(&table, "table.column", false);
    for (size_t i = 0; i < n; i++) {
        const mn_collection_info *c = &all[i];
        struct text place = {0};
        text_printf(&place, "%s.%s", c->table, c->column);
        table_cell(&table, c->name, strlen(c->name), 40);
        table_cellf(&table, "%" PRIu32, c->dim);
        table_cellf(&table, "%s", mn_dtype_name(c->dtype));
        table_cellf(&table, "%s", mn_metric_name(c->metric));
        table_cellf(&table, "%s", id_kind_name(c->id_kind));
        table_cell(&table, c->attributes, strlen(c->attributes), 40);
        table_cell(&table, place.data, place.len, 60);
        text_free(&place);
    }
    table_print(&table);
    table_free(&table);
}

static int info_json(struct session *db, const mn_collection_info *all, size_t n)
{
    struct text t = {0};
    int code = 0;
    for (size_t i = 0; !code && i < n; i++) {
        const mn_collection_info *c = &all[i];
        struct names names;
        code = names_load(&names, db, c->name);
        json_text_member(&t, "collection", c->name);
        json_count_member(&t, "dim", c->dim);
        json_text_member(&t, "type", mn_dtype_name(c->dtype));
        json_text_member(&t, "metric", mn_metric_name(c->metric));
        json_text_member(&t, "ids", id_kind_name(c->id_kind));
        json_text_member(&t, "table", c->table);
        json_text_member(&t, "column", c->column);
        json_text_member(&t, "id_column", c->id_column);
        text_printf(&t, ",\"foreign\":%s", c->foreign ? "true" : "false");
        json_text_member(&t, "rerank", rerank_name(c->rerank));
        json_count_member(&t, "bits", c->bits);
        text_printf(&t, ",\"recall\":%g", c->recall);
        text_puts(&t, ",\"attributes\":[");
        for (size_t a = 0; a < names.n; a++) {
            text_puts(&t, a ? "," : "");
            text_json(&t, names.items[a], strlen(names.items[a]));
        }
        text_puts(&t, "]");
        json_end(&t);
        names_free(&names);
    }
    text_free(&t);
    return code;
}

static int info(struct session *db, const struct info_options *o, char **args, size_t n)
{
    mn_collection_info one, *all;
    size_t n_all;
    int code = collections(db, args, n, &one, &all, &n_all);
    if (code)
        return code;
    if (o->format == OUTPUT_JSON)
        code = info_json(db, all, n_all);
    else if (n_all)
        info_table(all, n_all);
    else
        out_printf("%s has no collection yet; `mneme import` or `mneme create` makes one\n",
                   db->path);
    if (all != &one)
        mn_free_result(all);
    return code;
}

static int run_info(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    const struct info_options *o = given;
    if (o->defaults) {
        info_defaults();
        return 0;
    }
    if (n == 0)
        return usage_error("info: missing argument DB (usage: mneme info DB [COLLECTION], or mneme "
                           "info --defaults)");
    struct session db;
    int code = session_open(&db, &o->common, args[0], MN_OPEN_READONLY);
    if (!code)
        code = info(&db, o, args, n);
    int closed = session_close(&db);
    return code ? code : closed;
}

const struct command cmd_info = {
    .name = "info",
    .arguments = "[DB] [COLLECTION]",
    .summary = "what is in a database; the defaults",
    .about =
        "Shows the collections of a database: elements of a vector, their type, metric, kind of\n"
        "ids, attributes, and the SQLite table and column that hold them. Costs no time that\n"
        "grows with the data; `mneme stats` counts rows.",
    .examples = "  mneme info app.db\n"
                "  mneme info app.db words --format json\n"
                "  mneme info --defaults\n",
    .options = info_options,
    .size = sizeof(struct info_options),
    .run = run_info,
};

/* ---- stats ---------------------------------------------------------------------------------- */

static void stats_database(const struct session *db, const mn_stats_info *s)
{
    char a[UNITS_TEXT], b[UNITS_TEXT];
    line("database", "%s", db->path);
    line("file", "%s, pages of %s", size_format(a, s->db_bytes), size_format(b, s->page_bytes));
    line("write-ahead log", "%s", size_format(a, s->wal_bytes));
    line("memory", "cap %s", size_format(a, s->memory_cap));
}

static void stats_collection(const mn_collection_info *c, const mn_collection_stats *s)
{
    char a[UNITS_TEXT], b[UNITS_TEXT];
    out_printf("\n");
    line("collection", "%s", c->name);
    line("vectors", "%s of %" PRIu32 " x %s, %s, %s", count_format(a, s->vectors), c->dim,
         mn_dtype_name(c->dtype), mn_metric_name(c->metric), size_format(b, s->vector_bytes));
    line("rows", "%s, %s ids", count_format(a, s->rows), id_kind_name(c->id_kind));
    line("last version", "%s",
         count_format(a, s->last_version > 0 ? (uint64_t)s->last_version : 0));
    line("change log", "%s entries", count_format(a, s->log_entries));
}

/* Where a search takes the vectors of its last candidates from. */
static const char *vectors_place(const mn_collection_info *c, const mn_index_info *x)
{
    if (c->rerank == MN_RERANK_NONE)
        return "none: distances are estimates";
    if (c->rerank == MN_RERANK_ROWS)
        return "from the rows";
    return x->vectors_in_memory ? "from vectors in memory" : "from vectors read from the sidecar";
}

static void stats_index(const struct session *db, const mn_collection_info *c,
                        const mn_collection_stats *s, const mn_index_info *x)
{
    char a[UNITS_TEXT], b[UNITS_TEXT], d[UNITS_TEXT];
    if (!x->exists && c->dtype == MN_BIT) {
        line("index", "none: bits are searched exactly");
    } else if (!x->exists && s->vectors < INDEX_LEAST_ROWS) {
        line("index", "none: fewer than %s rows are searched exactly",
             count_format(a, INDEX_LEAST_ROWS));
    } else if (!x->exists && x->unusable) {
        line("index", "cannot be used: damaged, or too large for --memory even with its codes left "
             "in the sidecar; searches read the rows");
    } else if (!x->exists) {
        line("index", "none yet: `mneme fold %s %s` builds it", db->path, c->name);
    } else {
        line("index", "%s rows in %s postings, generation %" PRIu64, count_format(a, x->rows),
             count_format(b, x->postings), x->generation);
        line("pending", "%s changed rows that are not in it yet", count_format(a, x->pending));
        if (x->missing)
            line("damaged", "it lacks %s rows; they are read from the table until the next fold",
                 count_format(a, x->missing));
        if (x->codes_in_memory < 1)
            line("index memory", "%s: centroids and %.0f%% of the %u-bit codes; searches read the "
                 "others from the sidecar",
                 size_format(d, x->memory_bytes), 100 * x->codes_in_memory, (unsigned)x->bits);
        else
            line("index memory", "%s: centroids and %u-bit codes%s",
                 size_format(d, x->memory_bytes), (unsigned)x->bits,
                 x->vectors_in_memory ? ", vectors too" : "");
        line("exact distances", "%s", vectors_place(c, x));
        line("recall", "%g where a search does not say", c->recall);
        if (c->rerank == MN_RERANK_NONE && x->recall_most > 0)
            line("most recall", "%.2f: what estimates can give", x->recall_most);
        line("sidecar", "%s-mneme, %s", db->path, size_format(b, x->sidecar_bytes));
    }
}

static void stats_json(struct text *t, const struct session *db, const mn_stats_info *s)
{
    json_text_member(t, "database", db->path);
    json_count_member(t, "db_bytes", s->db_bytes);
    json_count_member(t, "wal_bytes", s->wal_bytes);
    json_count_member(t, "page_bytes", s->page_bytes);
    json_count_member(t, "memory_cap", s->memory_cap);
    json_end(t);
}

static void stats_index_json(struct text *t, const mn_index_info *x)
{
    if (!x->exists) {
        text_puts(t, ",\"index\":null");
        if (x->unusable)
            text_puts(t, ",\"index_unusable\":true");
        return;
    }
    text_printf(t,
                ",\"index\":{\"generation\":%" PRIu64 ",\"rows\":%" PRIu64 ",\"pending\":%" PRIu64
                ",\"postings\":%" PRIu64 ",\"bits\":%u",
                x->generation, x->rows, x->pending, x->postings, (unsigned)x->bits);
    text_printf(t,
                ",\"memory_bytes\":%" PRIu64 ",\"codes_in_memory\":%.4f"
                ",\"vectors_in_memory\":%s"
                ",\"sidecar_bytes\":%" PRIu64 ",\"recall_most\":%.4f",
                x->memory_bytes, x->codes_in_memory, x->vectors_in_memory ? "true" : "false",
                x->sidecar_bytes, x->recall_most);
    text_printf(t,
                ",\"missing\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"healed\":%" PRIu64 "}",
                x->missing, x->lost, x->healed);
}

static void stats_collection_json(struct text *t, const mn_collection_info *c,
                                  const mn_collection_stats *s, const mn_index_info *x)
{
    json_text_member(t, "collection", c->name);
    json_count_member(t, "rows", s->rows);
    json_count_member(t, "vectors", s->vectors);
    json_count_member(t, "vector_bytes", s->vector_bytes);
    json_count_member(t, "log_entries", s->log_entries);
    text_printf(t, ",\"last_version\":%" PRId64, s->last_version);
    stats_index_json(t, x);
    json_end(t);
}

static int stats(struct session *db, const struct info_options *o, char **args, size_t n)
{
    mn_error err = {0};
    mn_collection_info one, *all;
    mn_stats_info s;
    size_t n_all;
    struct text t = {0};
    bool json = o->format == OUTPUT_JSON;
    int code = collections(db, args, n, &one, &all, &n_all);
    if (!code && mn_stats(db->conn, &s, &err))
        code = library_error(&err);
    if (!code && json)
        stats_json(&t, db, &s);
    else if (!code)
        stats_database(db, &s);
    for (size_t i = 0; !code && i < n_all && out_fine(); i++) {
        mn_collection_stats c;
        mn_index_info x;
        if (mn_collection_stats_get(db->conn, all[i].name, &c, &err) ||
            mn_index_stats(db->conn, all[i].name, &x, &err)) {
            code = library_error(&err);
        } else if (json) {
            stats_collection_json(&t, &all[i], &c, &x);
        } else {
            stats_collection(&all[i], &c);
            stats_index(db, &all[i], &c, &x);
        }
    }
    text_free(&t);
    if (all != &one)
        mn_free_result(all);
    return code;
}

static int run_stats(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    const struct info_options *o = given;
    struct session db;
    struct progress progress;
    int code = session_open(&db, &o->common, args[0], MN_OPEN_READONLY);
    if (!code) {
        progress_begin(&progress, &o->common, "counting", "rows");
        mn_set_progress(db.conn, progress_library, &progress);
        code = stats(&db, o, args, n);
        progress_end(&progress);
    }
    int closed = session_close(&db);
    return code ? code : closed;
}

const struct command cmd_stats = {
    .name = "stats",
    .arguments = "DB [COLLECTION]",
    .summary = "sizes and counts of a database and its collections",
    .about =
        "Shows sizes of the files and counts of the collections and of their indexes. Reads the\n"
        "keys of each table once, and loads the indexes.",
    .examples = "  mneme stats app.db\n"
                "  mneme stats app.db words --format json\n",
    .options = stats_options,
    .size = sizeof(struct info_options),
    .run = run_stats,
};
