/* .import into an ordinary table: a file's rows through INSERT, in the shell's own transaction.
 *
 * The file is read twice, as `mneme import` reads it: the first pass meets all damage, and learns
 * the columns and their types where the table is to be made. The second pass is one transaction (a
 * savepoint inside an open one), so that a row that the table refuses takes all others back. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "src/formats/formats.h"
#include "src/shell/dots.h"
#include "src/shell/units.h"

enum affinity { AS_NOTHING, AS_INTEGER, AS_REAL, AS_TEXT, AS_BLOB };

struct column {
    char *name;
    enum affinity type; /* of all values seen */
    bool null;          /* some are NULL or missing */
    uint64_t n;         /* values seen */
};

struct importing {
    struct repl *r;
    const struct table_import *what;
    struct format_opts read;
    struct column *columns; /* [n] in the file's order */
    size_t n;
    uint64_t rows; /* good ones */
    bool damaged;  /* with --partial */
    bool vectors;  /* the file is one of vectors: id and vector */
    bool texts;    /* its ids are texts */
    bool exists;
    bool json;         /* its vectors are JSON arrays */
    char *id, *vector; /* their columns in the table */
    sqlite3_stmt *insert;
    size_t n_bound; /* columns of `insert` */
    uint64_t done;
};

/* ---- The first pass ------------------------------------------------------------------------- */

static struct column *column_of(struct importing *im, const char *name, size_t hint)
{
    if (hint < im->n && strcmp(im->columns[hint].name, name) == 0)
        return &im->columns[hint];
    for (size_t i = 0; i < im->n; i++)
        if (strcasecmp(im->columns[i].name, name) == 0)
            return &im->columns[i];
    im->columns = need(realloc(im->columns, (im->n + 1) * sizeof *im->columns));
    struct column *c = &im->columns[im->n++];
    *c = (struct column){.name = need(strdup(name))};
    return c;
}

static void column_note(struct column *c, const mn_value *v)
{
    static const enum affinity of[] = {
        [MN_INTEGER] = AS_INTEGER, [MN_REAL] = AS_REAL, [MN_TEXT] = AS_TEXT, [MN_BLOB] = AS_BLOB};
    if (v->type == MN_NULL) {
        c->null = true;
        return;
    }
    enum affinity a = of[v->type];
    bool numbers =
        (a == AS_INTEGER || a == AS_REAL) && (c->type == AS_INTEGER || c->type == AS_REAL);
    if (!c->type || (numbers && a == AS_REAL))
        c->type = a;
    else if (c->type != a && !numbers)
        c->type = c->type == AS_BLOB || a == AS_BLOB ? AS_BLOB : AS_TEXT;
    c->n++;
}

static void record_note(struct importing *im, const struct format_record *rec)
{
    im->vectors |= rec->vector != NULL;
    im->texts |= rec->id_kind == FORMAT_ID_TEXT;
    for (size_t i = 0; i < rec->n_attrs; i++)
        column_note(column_of(im, rec->attrs[i].name, i), &rec->attrs[i].value);
}

/* Reads all of the file; `each` may stop it by an exit code. */
static int read_all(struct importing *im, const char *label, uint64_t most,
                    int (*each)(struct importing *im, const struct format_record *rec),
                    mn_error *err, mn_status *st)
{
    struct common common = {.quiet = im->what->quiet || !im->r->set.progress};
    struct format_reader *reader = NULL;
    const struct format_record *rec = NULL;
    struct progress progress;
    uint64_t done, total, n = 0;
    int code = 0;
    progress_begin(&progress, &common, label, "bytes");
    *st = format_reader_open(im->what->path, &im->read, &reader, err);
    while (!*st && !code && n < most) {
        *st = format_reader_next(reader, &rec, err);
        if (*st || !rec)
            break;
        code = each(im, rec);
        if (++n % 256 == 0) {
            format_reader_progress(reader, &done, &total);
            if (!progress_update(&progress, done, total))
                code = EXIT_INTERRUPTED;
        }
    }
    progress_end(&progress);
    format_reader_close(reader);
    return code;
}

static int scan_record(struct importing *im, const struct format_record *rec)
{
    record_note(im, rec);
    im->rows++;
    return 0;
}

static int scan(struct importing *im)
{
    mn_error err = {0};
    mn_status st = MN_OK;
    int code = read_all(im, "checking", UINT64_MAX, scan_record, &err, &st);
    if (code == EXIT_INTERRUPTED)
        return interrupted_exit("interrupted; nothing was imported");
    if (!st)
        return code;
    if (!im->what->partial || !im->rows)
        return error_exit("%s; nothing was imported%s", err.message,
                          im->rows ? " (--partial takes what stands before it)" : "");
    warn("%s", err.message);
    im->damaged = true;
    return 0;
}

/* ---- The table ------------------------------------------------------------------------------ */

static int exec(struct importing *im, const char *sql)
{
    if (sqlite3_exec(im->r->db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    return complain(im->r, sql, strlen(sql), 0, (struct place){0});
}

static const char *type_word(const struct column *c)
{
    static const char *const words[] = {"", " INTEGER", " REAL", " TEXT", " BLOB"};
    return words[c->type];
}

static int make_table(struct importing *im)
{
    sqlite3_str *s = sqlite3_str_new(im->r->db);
    sqlite3_str_appendf(s, "CREATE TABLE \"%w\"(", im->what->table);
    if (im->vectors)
        sqlite3_str_appendf(s, "\"%w\" %s PRIMARY KEY, \"%w\" BLOB", im->id,
                            im->texts ? "TEXT" : "INTEGER", im->vector);
    for (size_t i = 0; i < im->n; i++) {
        const struct column *c = &im->columns[i];
        bool key = strcasecmp(c->name, "id") == 0 && c->type == AS_INTEGER && c->n == im->rows;
        sqlite3_str_appendf(s, "%s\"%w\"%s%s", i || im->vectors ? ", " : "", c->name, type_word(c),
                            key ? " PRIMARY KEY" : "");
    }
    sqlite3_str_appendall(s, ")");
    char *sql = need(sqlite3_str_finish(s));
    int code = exec(im, sql);
    sqlite3_free(sql);
    return code;
}

static int unknown_column(struct importing *im, const struct words *have, const char *name)
{
    const char *near = words_nearest(have, name);
    return error_exit("%s: '%s' is no column of %s%s%s%s; nothing was imported", im->what->path,
                      name, im->what->table, near ? "; did you mean " : "", near ? near : "",
                      near ? "?" : "");
}

static bool words_have(const struct words *w, const char *name)
{
    for (size_t i = 0; i < w->n; i++)
        if (strcasecmp(w->items[i], name) == 0)
            return true;
    return false;
}

/* Every column of the file must be one of the table. */
static int check_columns(struct importing *im)
{
    struct words have = {0};
    int code = 0;
    schema_query(im->r->db, "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden < 2",
                 im->what->table, &have);
    for (size_t i = 0; i < im->n && !code; i++)
        if (!words_have(&have, im->columns[i].name))
            code = unknown_column(im, &have, im->columns[i].name);
    const char *const wanted[] = {im->id, im->vector};
    for (size_t i = 0; im->vectors && i < 2 && !code; i++)
        if (!words_have(&have, wanted[i]))
            code = error_exit("%s: %s has no column '%s' for the %s; --%s-column C names another",
                              im->what->path, im->what->table, wanted[i], i ? "vectors" : "ids",
                              i ? "vector" : "id");
    words_free(&have);
    return code;
}

/* The placeholder of a value. A vector column of an indexed table takes the text of a vector, or
 * elements of f32, as its own type; one that holds JSON arrays stays so. */
static void append_value(struct importing *im, sqlite3_str *s, size_t i)
{
    const char *column = !im->vectors ? im->columns[i].name
                         : i == 0     ? im->id
                         : i == 1     ? im->vector
                                      : im->columns[i - 2].name;
    struct shape shape = collections_shape(&im->r->known, im->what->table, column);
    const char *format = "?";
    if (shape.known && !im->json) {
        bool half = shape.dtype == MN_F16 || shape.dtype == MN_BF16;
        format = half                    ? "vec_convert(vec_f32(?), '%s')"
                 : shape.dtype == MN_F32 ? "vec_f32(?)"
                 : shape.dtype == MN_I8  ? "vec_int8(?)"
                                         : "vec_bit(?)";
    }
    sqlite3_str_appendall(s, i ? "," : "");
    sqlite3_str_appendf(s, format, mn_dtype_name(shape.dtype));
}

/* Does the vector column of an indexed table hold JSON arrays? */
static bool holds_json(struct importing *im)
{
    struct words w = {0};
    for (size_t i = 0; i < im->r->known.n; i++) {
        const struct vector_column *v = &im->r->known.items[i];
        if (strcasecmp(v->table, im->what->table) != 0)
            continue;
        char *sql = need(sqlite3_mprintf(
            "SELECT 1 FROM \"%w\" WHERE typeof(\"%w\") = 'text' LIMIT 1", v->table, v->column));
        schema_query(im->r->db, sql, NULL, &w);
        sqlite3_free(sql);
    }
    bool any = w.n > 0;
    words_free(&w);
    return any;
}

static int prepare_insert(struct importing *im)
{
    sqlite3_str *s = sqlite3_str_new(im->r->db);
    sqlite3_str_appendf(s, "INSERT %sINTO \"%w\"(", im->what->replace ? "OR REPLACE " : "",
                        im->what->table);
    if (im->vectors)
        sqlite3_str_appendf(s, "\"%w\",\"%w\"", im->id, im->vector);
    for (size_t i = 0; i < im->n; i++)
        sqlite3_str_appendf(s, "%s\"%w\"", i || im->vectors ? "," : "", im->columns[i].name);
    im->n_bound = im->n + (im->vectors ? 2 : 0);
    sqlite3_str_appendall(s, ") VALUES(");
    for (size_t i = 0; i < im->n_bound; i++)
        append_value(im, s, i);
    sqlite3_str_appendall(s, ")");
    char *sql = need(sqlite3_str_finish(s));
    int code = 0;
    if (sqlite3_prepare_v2(im->r->db, sql, -1, &im->insert, NULL) != SQLITE_OK)
        code = complain(im->r, sql, strlen(sql), 0, (struct place){0});
    sqlite3_free(sql);
    return code;
}

/* ---- The second pass ------------------------------------------------------------------------ */

static void bind_value(sqlite3_stmt *stmt, int at, const mn_value *v)
{
    switch (v->type) {
    case MN_INTEGER:
        sqlite3_bind_int64(stmt, at, v->integer);
        break;
    case MN_REAL:
        sqlite3_bind_double(stmt, at, v->real);
        break;
    case MN_TEXT:
        sqlite3_bind_text64(stmt, at, v->data, v->len, SQLITE_STATIC, SQLITE_UTF8);
        break;
    case MN_BLOB:
        sqlite3_bind_blob64(stmt, at, v->data, v->len, SQLITE_STATIC);
        break;
    case MN_NULL:
        sqlite3_bind_null(stmt, at);
        break;
    }
}

static void bind_record(struct importing *im, const struct format_record *rec)
{
    sqlite3_stmt *stmt = im->insert;
    int base = 1;
    sqlite3_clear_bindings(stmt);
    if (im->vectors) {
        if (rec->id_kind == FORMAT_ID_TEXT)
            sqlite3_bind_text64(stmt, 1, rec->id_text, rec->id_len, SQLITE_STATIC, SQLITE_UTF8);
        else if (rec->id_kind == FORMAT_ID_INTEGER)
            sqlite3_bind_int64(stmt, 1, rec->id);
        sqlite3_bind_blob64(stmt, 2, rec->vector, (uint64_t)rec->dim * 4, SQLITE_STATIC);
        base = 3;
    }
    for (size_t i = 0; i < rec->n_attrs; i++) {
        const struct column *c = column_of(im, rec->attrs[i].name, i);
        bind_value(stmt, base + (int)(c - im->columns), &rec->attrs[i].value);
    }
}

static int insert_record(struct importing *im, const struct format_record *rec)
{
    bind_record(im, rec);
    int rc = sqlite3_step(im->insert);
    int code = 0;
    if (rc != SQLITE_DONE && ((rc & 0xff) == SQLITE_INTERRUPT || interrupted()))
        code = EXIT_INTERRUPTED;
    else if (rc != SQLITE_DONE && rec->line)
        code = error_exit("%s: record %" PRIu64 " (line %" PRIu64 "): %s; nothing was imported",
                          im->what->path, rec->number, rec->line, sqlite3_errmsg(im->r->db));
    else if (rc != SQLITE_DONE)
        code = error_exit("%s: record %" PRIu64 ": %s; nothing was imported", im->what->path,
                          rec->number, sqlite3_errmsg(im->r->db));
    sqlite3_reset(im->insert);
    im->done += code == 0;
    return code;
}

static int insert_all(struct importing *im)
{
    mn_error err = {0};
    mn_status st = MN_OK;
    int code = im->exists ? check_columns(im) : make_table(im);
    if (!code)
        code = prepare_insert(im);
    if (!code)
        code = read_all(im, "importing", im->rows, insert_record, &err, &st);
    if (!code && st)
        code = error_exit("%s; nothing was imported", err.message);
    if (!code && im->done != im->rows)
        code = error_exit("%s: it has changed while it was read; nothing was imported",
                          im->what->path);
    sqlite3_finalize(im->insert);
    im->insert = NULL;
    return code;
}

static int write_all(struct importing *im)
{
    int code = exec(im, "SAVEPOINT mneme_import");
    if (code)
        return code;
    code = insert_all(im);
    if (code) {
        sqlite3_exec(im->r->db, "ROLLBACK TO mneme_import", NULL, NULL, NULL);
        sqlite3_exec(im->r->db, "RELEASE mneme_import", NULL, NULL, NULL);
    } else {
        code = exec(im, "RELEASE mneme_import");
    }
    return code == EXIT_INTERRUPTED ? interrupted_exit("interrupted; nothing was imported") : code;
}

/* ---- Which columns take ids and vectors ------------------------------------------------------ */

/* The table's own, where one of the usual names is among them. */
static char *usual_column(struct importing *im, const char *given, const char *const *usual)
{
    struct words have = {0};
    const char *found = NULL;
    if (given)
        return need(strdup(given));
    if (im->exists)
        schema_columns(im->r->db, im->what->table, &have);
    for (size_t i = 0; usual[i] && !found; i++)
        if (!im->exists || words_have(&have, usual[i]))
            found = usual[i];
    char *name = need(strdup(found ? found : usual[0]));
    words_free(&have);
    return name;
}

static void importing_free(struct importing *im)
{
    for (size_t i = 0; i < im->n; i++)
        free(im->columns[i].name);
    free(im->columns);
    free(im->id);
    free(im->vector);
}

int table_import(struct repl *r, const struct table_import *what)
{
    static const char *const ids[] = {"id", "word", "name", NULL};
    static const char *const vectors[] = {"vector", "embedding", NULL};
    struct importing im = {.r = r, .what = what};
    char n[UNITS_TEXT], time[UNITS_TEXT], rate[UNITS_TEXT];
    double start = now_seconds();
    im.read = (struct format_opts){.format = (enum format_kind)what->format,
                                   .plain = true,
                                   .partial = what->partial,
                                   .ids_path = what->ids};
    im.exists = schema_has_table(r->db, what->table);
    collections_load(&r->known, r->db);
    im.json = im.exists && holds_json(&im);
    im.id = usual_column(&im, what->id_column, ids);
    im.vector = usual_column(&im, what->vector_column, vectors);
    int code = scan(&im);
    if (!code && !im.n && !im.vectors)
        code = error_exit("%s holds no row; nothing was imported", what->path);
    if (!code)
        code = write_all(&im);
    if (!code && !what->quiet) {
        double seconds = now_seconds() - start;
        out_printf("imported %s row%s into %s%s in %s: %s rows/s\n", count_format(n, im.rows),
                   im.rows == 1 ? "" : "s", im.exists ? "" : "the new table ", what->table,
                   duration_format(time, seconds),
                   count_format(rate, (uint64_t)((double)im.rows / (seconds > 0 ? seconds : 1))));
    }
    importing_free(&im);
    return code ? code : im.damaged ? EXIT_FOUND : 0;
}
