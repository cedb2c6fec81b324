/* Dot commands that bring rows in and out, and those that are commands of the program. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "src/formats/formats.h"
#include "src/shell/dots.h"
#include "src/shell/sqltext.h"
#include "src/shell/units.h"
#include "src/shell/vectors.h"

/* ---- Commands of the program ---------------------------------------------------------------- */

/* They open the file beside this connection: they would not see an open transaction's changes, and
 * would wait for it in vain when they write. */
static int check_outside(struct repl *r, const char *name)
{
    if (!repl_file(r))
        return error_exit(".%s works on a file, and this database is in memory; .backup FILE and "
                          ".open FILE make one",
                          name);
    if (!sqlite3_get_autocommit(r->db))
        return error_exit(".%s works on what is committed, and a transaction is open; COMMIT or "
                          "ROLLBACK first",
                          name);
    return 0;
}

static bool names_database(const char *arguments)
{
    return strncmp(arguments + (arguments[0] == '['), "DB", 2) == 0;
}

/* Whether the word is an option that names a file: --queries FILE, -QFILE, -qQ FILE. */
static bool names_file(const struct command *command, const char *word)
{
    if (word[0] != '-' || !word[1])
        return false;
    for (const struct option *o = command->options; o->name; o++) {
        if (!o->value || strcmp(o->value, "FILE") != 0)
            continue;
        size_t len = strlen(o->name);
        bool named = word[1] == '-' && strncmp(word + 2, o->name, len) == 0 &&
                     (!word[2 + len] || word[2 + len] == '=');
        if (named || (word[1] != '-' && o->letter && strchr(word + 1, o->letter)))
            return true;
    }
    return false;
}

/* Runs `mneme NAME FILE words...`. */
static int program_run(struct repl *r, const char *name, char **words, size_t n)
{
    const struct command *command = command_find(name);
    int code = check_outside(r, name);
    if (code || !command || !names_database(command->arguments))
        return code ? code : error_exit("there is no command %s", name);
    for (size_t i = 0; i < n && !code; i++)
        code = names_file(command, words[i]) ? repl_unsafe(r, words[i]) : 0;
    if (!code)
        code = repl_engine(r);
    if (code)
        return code;
    char **argv = need(calloc(n + 5, sizeof *argv));
    int argc = 0;
    char *file = need(strdup(repl_file(r)));
    argv[argc++] = (char *)command->name;
    argv[argc++] = file;
    for (size_t i = 0; i < n; i++)
        argv[argc++] = words[i];
    session_share(true);
    code = command_run(command, argc, argv);
    session_share(false);
    free(file);
    free(argv);
    return code;
}

/* The one collection there is, where none is named and the command wants one. */
static int only_collection(struct repl *r, const char *command, const char **out)
{
    collections_load(&r->known, r->db);
    if (r->known.n == 1) {
        *out = r->known.items[0].collection;
        return 0;
    }
    if (r->known.n == 0)
        return error_exit(".%s: %s has no collection yet; .import makes one", command, r->path);
    struct text names = {0};
    for (size_t i = 0; i < r->known.n && i < 8; i++)
        text_printf(&names, "%s%s", i ? ", " : "", r->known.items[i].collection);
    int code = error_exit(".%s: which collection? There are %s%s", command, names.data,
                          r->known.n > 8 ? ", ..." : "");
    text_free(&names);
    return code;
}

int dot_program(struct repl *r, const struct dot_args *a)
{
    const char *name = a->words[0];
    const struct command *command = command_find(name);
    if (r->set.readonly &&
        (strcmp(name, "create") == 0 || strcmp(name, "drop") == 0 || strcmp(name, "delete") == 0 ||
         strcmp(name, "fold") == 0 || strcmp(name, "rebuild") == 0 || strcmp(name, "compact") == 0))
        return error_exit(".%s: the shell was started with -readonly", name);
    bool wants = command && strncmp(command->arguments, "DB COLLECTION", 13) == 0;
    bool given = a->n > 1 && a->words[1][0] != '-';
    if (wants && !given) {
        const char *collection = NULL;
        int code = only_collection(r, name, &collection);
        if (code)
            return code;
        char **words = need(calloc(a->n + 1, sizeof *words));
        words[0] = need(strdup(collection));
        memcpy(words + 1, a->words + 1, (a->n - 1) * sizeof *words);
        code = program_run(r, name, words, a->n);
        free(words[0]);
        free(words);
        return code;
    }
    return program_run(r, name, a->words + 1, a->n - 1);
}

/* ---- .backup -------------------------------------------------------------------------------- */

/* A database in memory is copied by SQLite; a file by the program, which flushes and renames. */
int dot_backup(struct repl *r, const struct dot_args *a)
{
    const char *path = a->words[1];
    if (repl_file(r))
        return program_run(r, "backup", a->words + 1, 1);
    sqlite3 *to = NULL;
    FILE *there = fopen(path, "r");
    if (there) {
        fclose(there);
        return error_exit(".backup: %s is there already; give another name", path);
    }
    int rc = sqlite3_open(path, &to);
    sqlite3_backup *backup = rc ? NULL : sqlite3_backup_init(to, "main", r->db, "main");
    if (backup) {
        sqlite3_backup_step(backup, -1);
        rc = sqlite3_backup_finish(backup);
    } else if (!rc) {
        rc = sqlite3_errcode(to);
    }
    int code = rc ? error_exit(".backup %s: %s", path, sqlite3_errmsg(to)) : 0;
    sqlite3_close(to);
    if (!code)
        out_printf("copied the database in memory to %s\n", path);
    return code;
}

/* ---- .near ---------------------------------------------------------------------------------- */

/* The id of the first row that has this text in one of its columns, for collections with integer
 * ids. 0, or an exit code after saying that there is none. */
static int row_by_text(struct repl *r, const struct vector_column *v, const char *word, int64_t *id)
{
    struct words columns = {0};
    bool found = false;
    schema_columns(r->db, v->table, &columns);
    for (size_t i = 0; i < columns.n && !found; i++) {
        sqlite3_stmt *stmt = NULL;
        if (sqlite3_stricmp(columns.items[i], v->column) == 0)
            continue;
        char *sql = need(sqlite3_mprintf("SELECT rowid FROM \"%w\" WHERE \"%w\" = ?1 LIMIT 1",
                                         v->table, columns.items[i]));
        if (sqlite3_prepare_v2(r->db, sql, -1, &stmt, NULL) == SQLITE_OK) {
            sqlite3_bind_text(stmt, 1, word, -1, SQLITE_STATIC);
            found = sqlite3_step(stmt) == SQLITE_ROW;
            *id = found ? sqlite3_column_int64(stmt, 0) : 0;
        }
        sqlite3_finalize(stmt);
        sqlite3_free(sql);
    }
    words_free(&columns);
    return found ? 0
                 : error_exit(".near: no row of '%s' has '%s' in a column", v->collection, word);
}

int dot_near(struct repl *r, const struct dot_args *a)
{
    const char *word = a->words[1], *collection = NULL;
    size_t options = a->n > 2 && a->words[2][0] != '-' ? 3 : 2;
    int64_t id = 0;
    int code = 0;
    if (options == 3)
        collection = a->words[2];
    else
        code = only_collection(r, "near", &collection);
    if (code)
        return code;
    collections_load(&r->known, r->db);
    const struct vector_column *v = collections_find(&r->known, collection);
    if (v && v->id_kind == MN_ID_INTEGER && !integer_parse(word, &id))
        code = row_by_text(r, v, word, &id);
    if (code)
        return code;
    struct text number = {0};
    enum mode mode = r->set.modes.mode;
    bool json = mode == MODE_JSON || mode == MODE_JSONL, csv = mode == MODE_CSV;
    char **words = need(calloc(a->n + 8, sizeof *words));
    size_t n = 0;
    text_printf(&number, "%" PRId64, id);
    words[n++] = (char *)collection;
    words[n++] = "--id";
    words[n++] = v && v->id_kind == MN_ID_INTEGER ? number.data : (char *)word;
    if (json || csv)
        words[n++] = json ? "--format=json" : "--format=csv";
    for (size_t i = options; i < a->n; i++)
        words[n++] = a->words[i];
    code = program_run(r, "search", words, n);
    text_free(&number);
    free(words);
    return code;
}

/* ---- .import -------------------------------------------------------------------------------- */

/* Members that make a file of CSV or JSON lines one of vectors. */
static bool names_vector(const char *name, const char *given)
{
    if (given)
        return strcmp(name, given) == 0;
    return strcmp(name, "vector") == 0 || strcmp(name, "embedding") == 0 ||
           strcmp(name, "v0") == 0 || strcmp(name, "v1") == 0;
}

/* Does the file hold vectors? Of CSV and JSON lines the first record tells; others always do. */
static int holds_vectors(const struct table_import *what, bool *vectors)
{
    struct format_opts opts = {.format = (enum format_kind)what->format, .plain = true};
    struct format_reader *reader = NULL;
    const struct format_record *rec = NULL;
    mn_error err = {0};
    mn_status st = format_reader_open(what->path, &opts, &reader, &err);
    if (!st)
        st = format_reader_next(reader, &rec, &err);
    if (st) {
        format_reader_close(reader);
        return error_exit("%s; nothing was imported", err.message);
    }
    *vectors = rec && rec->vector != NULL;
    for (size_t i = 0; rec && i < rec->n_attrs && !*vectors; i++)
        *vectors = names_vector(rec->attrs[i].name, what->vector_column);
    format_reader_close(reader);
    return 0;
}

/* The options that an ordinary table knows, as the program's import writes them. */
struct import_words {
    struct common common;
    const char *vector_column, *id_column, *ids;
    int format;
    bool partial, table, replace;
};

#define FIELD(name) offsetof(struct import_words, name)
static const struct option table_options[] = {
    {"format", 'f', OPTION_CHOICE, FIELD(format), "F", "Format of the file.", FORMAT_CHOICES, 0, 0},
    {"vector-column", 0, OPTION_TEXT, FIELD(vector_column), "C", "Column of the vectors.", NULL, 0,
     0},
    {"id-column", 0, OPTION_TEXT, FIELD(id_column), "C", "Column of the ids.", NULL, 0, 0},
    {"ids", 0, OPTION_TEXT, FIELD(ids), "FILE", "Ids from this file.", NULL, 0, 0},
    {"partial", 0, OPTION_FLAG, FIELD(partial), NULL, "Take what stands before damage.", NULL, 0,
     0},
    {"replace", 0, OPTION_FLAG, FIELD(replace), NULL, "Replace rows whose key is there.", NULL, 0,
     0},
    {"table", 0, OPTION_FLAG, FIELD(table), NULL, "An ordinary table, also for vectors.", NULL, 0,
     0},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

static int import_into_table(const struct command *self, const void *given, char **args, size_t n);

static const struct command table_command = {
    .name = ".import",
    .arguments = "FILE TABLE",
    .about = "Rows into an ordinary table.",
    .examples = "",
    .options = table_options,
    .size = sizeof(struct import_words),
    .run = import_into_table,
};

static struct repl
    *importing; /* the shell, while command_run is on its way to the function below */

static int import_into_table(const struct command *self, const void *given, char **args, size_t n)
{
    const struct import_words *w = given;
    (void)self, (void)n;
    struct table_import what = {.path = args[0],
                                .table = args[1],
                                .format = w->format,
                                .vector_column = w->vector_column,
                                .id_column = w->id_column,
                                .ids = w->ids,
                                .partial = w->partial,
                                .replace = w->replace,
                                .quiet = w->common.quiet};
    return table_import(importing, &what);
}

static const char *value_of(const struct dot_args *a, const char *option)
{
    size_t len = strlen(option);
    for (size_t i = 1; i < a->n; i++) {
        if (strncmp(a->words[i], option, len) != 0)
            continue;
        if (a->words[i][len] == '=')
            return a->words[i] + len + 1;
        if (!a->words[i][len] && i + 1 < a->n)
            return a->words[i + 1];
    }
    return NULL;
}

static bool has_flag(const struct dot_args *a, const char *option)
{
    for (size_t i = 1; i < a->n; i++)
        if (strcmp(a->words[i], option) == 0)
            return true;
    return false;
}

/* A collection of mn_create takes vectors; a table that is there, indexed or not, is written by
 * SQL; a new name becomes what the file holds. */
static int wants_collection(struct repl *r, const struct dot_args *a, bool *collection)
{
    const char *format = value_of(a, "--format");
    int kind = format ? choice_index(FORMAT_CHOICES, format) + 1 : 0;
    struct table_import what = {.path = a->words[1],
                                .table = a->words[2],
                                .format = kind,
                                .vector_column = value_of(a, "--vector-column")};
    collections_load(&r->known, r->db);
    const struct vector_column *known = collections_find(&r->known, what.table);
    *collection = known && !known->foreign;
    if (known || schema_has_table(r->db, what.table) || has_flag(a, "--table"))
        return 0;
    return holds_vectors(&what, collection);
}

int dot_import(struct repl *r, const struct dot_args *a)
{
    bool collection = false;
    if (a->words[1][0] == '-' || a->words[2][0] == '-')
        return error_exit(".import: the file and the table come first: .import FILE TABLE "
                          "[options]; standard input is /dev/stdin");
    if (r->set.readonly)
        return error_exit(".import: the shell was started with -readonly");
    int code = wants_collection(r, a, &collection);
    if (code)
        return code;
    if (collection) {
        char **words = need(calloc(a->n + 1, sizeof *words));
        words[0] = a->words[2];
        words[1] = a->words[1];
        memcpy(words + 2, a->words + 3, (a->n - 3) * sizeof *words);
        code = program_run(r, "import", words, a->n - 1);
        free(words);
        return code;
    }
    importing = r;
    code = command_run(&table_command, (int)a->n, a->words);
    importing = NULL;
    return code;
}

/* ---- .export -------------------------------------------------------------------------------- */

static bool mode_by_name(const char *path, enum mode *mode)
{
    static const struct {
        const char *end;
        enum mode mode;
    } ends[] = {{".csv", MODE_CSV},      {".tsv", MODE_TSV},   {".jsonl", MODE_JSONL},
                {".ndjson", MODE_JSONL}, {".json", MODE_JSON}, {".md", MODE_MARKDOWN},
                {".sql", MODE_INSERT},   {".txt", MODE_LIST}};
    size_t len = strlen(path);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i].end);
        if (len > n && strcasecmp(path + len - n, ends[i].end) == 0) {
            *mode = ends[i].mode;
            return true;
        }
    }
    return false;
}

/* A query's rows, through the output modes, into a file that appears when it is complete. */
static int export_query(struct repl *r, const char *sql, const char *table, const char *path)
{
    struct settings kept = r->set;
    char *beside = need(sqlite3_mprintf("%s.part", path));
    enum mode mode = MODE_CSV;
    int code =
        mode_by_name(path, &mode)
            ? 0
            : error_exit(".export: the name of %s does not say how to write rows; it may end in "
                         ".csv, .tsv, .json, .jsonl, .md, .sql or .txt",
                         path);
    if (!code)
        code = output_set(r, beside, false);
    if (!code) {
        r->set.modes = (struct modes){.mode = mode, .headers = HEADERS_ON};
        snprintf(r->set.modes.insert_table, sizeof r->set.modes.insert_table, "%s", table);
        code = statements_run(r, sql, strlen(sql), (struct place){0});
        int closed = output_set(r, NULL, false);
        code = code ? code : closed;
        if (!code && rename(beside, path) != 0)
            code = error_exit("%s could not be written: %s", path, strerror(errno));
        if (code)
            (void)remove(beside);
    }
    r->set.modes = kept.modes;
    sqlite3_free(beside);
    return code;
}

/* .export COLLECTION FILE [options]; .export TABLE FILE; .export SELECT ... FILE */
int dot_export(struct repl *r, const struct dot_args *a)
{
    const char *what = a->words[1];
    collections_load(&r->known, r->db);
    bool collection = collections_find(&r->known, what) != NULL;
    if (collection)
        return program_run(r, "export", a->words + 1, a->n - 1);
    const char *path = a->words[a->n - 1];
    if (a->n == 3 && schema_has_table(r->db, what)) {
        char *sql = need(sqlite3_mprintf("SELECT * FROM \"%w\"", what));
        int code = export_query(r, sql, what, path);
        sqlite3_free(sql);
        return code;
    }
    bool query = strcasecmp(what, "select") == 0 || strcasecmp(what, "with") == 0 ||
                 strcasecmp(what, "values") == 0 || strchr(what, ' ');
    if (query) { /* as typed, but its last word, which is the file */
        size_t end = strlen(a->rest);
        while (end && (a->rest[end - 1] == ' ' || a->rest[end - 1] == '\t'))
            end--;
        const char quote =
            a->rest[end - 1] == '\'' || a->rest[end - 1] == '"' ? a->rest[end - 1] : 0;
        end -= quote != 0;
        while (end && (quote ? a->rest[end - 1] != quote
                             : a->rest[end - 1] != ' ' && a->rest[end - 1] != '\t'))
            end--;
        end -= quote != 0;
        char *sql = need(a->n == 3 ? strdup(what) : strndup(a->rest, end));
        int code = export_query(r, sql, "rows", path);
        free(sql);
        return code;
    }
    struct words w = {0};
    schema_tables(r->db, &w);
    const char *near = words_nearest(&w, what);
    int code = near ? error_exit(".export: no such table: %s; did you mean %s?", what, near)
                    : error_exit(".export: no such table: %s", what);
    words_free(&w);
    return code;
}
