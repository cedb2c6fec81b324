/* The table of dot commands, and how a line becomes a call. */
#include "src/shell/dots.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const struct dot dots[] = {
    {"backup", "FILE", "Copy the database into a new file, while others use it", dot_backup, 1, 1,
     DOT_FILES, COMPLETES_FILES},
    {"bail", "on|off", "Stop a script at its first error, or go on", dot_bail, 1, 1, 0,
     COMPLETES_ON_OFF},
    {"cd", "FOLDER", "Change the working folder", dot_cd, 1, 1, DOT_FILES, COMPLETES_FILES},
    {"compact", "[OPTIONS]", "Give free space of both files back", dot_program, 0, SIZE_MAX,
     DOT_PROGRAM, COMPLETES_NOTHING},
    {"create", "COLLECTION --dim N ...", "A new, empty collection", dot_program, 0, SIZE_MAX,
     DOT_PROGRAM, COMPLETES_NOTHING},
    {"databases", "", "The open files", dot_databases, 0, 0, 0, COMPLETES_NOTHING},
    {"delete", "COLLECTION ID...", "Delete rows", dot_program, 0, SIZE_MAX, DOT_PROGRAM,
     COMPLETES_TABLES},
    {"drop", "COLLECTION --yes", "Drop a collection and its rows", dot_program, 0, SIZE_MAX,
     DOT_PROGRAM, COMPLETES_TABLES},
    {"dump", "[PATTERN]", "SQL that makes the database, or tables like PATTERN, anew", dot_dump, 0,
     1, 0, COMPLETES_TABLES},
    {"echo", "on|off", "Print each statement before it runs", dot_echo, 1, 1, 0, COMPLETES_ON_OFF},
    {"edit", "[SQL]", "Edit a statement, else the last one, by $EDITOR; then run it", dot_edit, 0,
     SIZE_MAX, DOT_FILES, COMPLETES_SQL},
    {"exit", "[CODE]", "End, with this exit code", dot_exit, 0, 1, 0, COMPLETES_NOTHING},
    {"explain", "[analyze] SQL", "The plan of a statement; analyze: run it and say how it went",
     dot_explain, 0, SIZE_MAX, 0, COMPLETES_SQL},
    {"export", "TABLE|COLLECTION|SELECT... FILE", "Rows into a file, in the format of its name",
     dot_export, 2, SIZE_MAX, DOT_FILES, COMPLETES_TABLES},
    {"fold", "[COLLECTION]", "Bring indexes up to date", dot_program, 0, SIZE_MAX, DOT_PROGRAM,
     COMPLETES_TABLES},
    {"get", "COLLECTION ID...", "Rows by id", dot_program, 0, SIZE_MAX, DOT_PROGRAM,
     COMPLETES_TABLES},
    {"headers", "on|off|auto", "Names of columns in list, csv, tsv and quote", dot_headers, 1, 1, 0,
     COMPLETES_ON_OFF},
    {"help", "[.COMMAND]", "This list, or all about one", dot_help, 0, 1, 0, COMPLETES_DOTS},
    {"import", "FILE TABLE [OPTIONS]", "A file's rows into a collection or table; made if absent",
     dot_import, 2, SIZE_MAX, DOT_FILES, COMPLETES_FILES},
    {"indexes", "[TABLE]", "Names of SQLite's indexes", dot_indexes, 0, 1, 0, COMPLETES_TABLES},
    {"info", "[COLLECTION]", "Collections and their types", dot_program, 0, SIZE_MAX, DOT_PROGRAM,
     COMPLETES_TABLES},
    {"limit", "N|auto", "Rows that a table shows; 0: all", dot_limit, 1, 1, 0, COMPLETES_NOTHING},
    {"load", "FILE [ENTRY]", "Load an extension of SQLite", dot_load, 1, 2, DOT_FILES,
     COMPLETES_FILES},
    {"mode", "[MODE [TABLE]]", "How rows are written", dot_mode, 0, 2, 0, COMPLETES_MODES},
    {"near", "WORD|ID [COLLECTION] [OPTIONS]", "The rows nearest to that row", dot_near, 1,
     SIZE_MAX, 0, COMPLETES_TABLES},
    {"nullvalue", "TEXT", "What stands for NULL", dot_nullvalue, 1, 1, 0, COMPLETES_NOTHING},
    {"once", "FILE", "The next statement's output into a file", dot_once, 1, 1, DOT_FILES,
     COMPLETES_FILES},
    {"open", "FILE", "Close this database and open another", dot_open, 1, 1, DOT_FILES,
     COMPLETES_FILES},
    {"output", "[FILE]", "All output into a file; without one, back", dot_output, 0, 1, DOT_FILES,
     COMPLETES_FILES},
    {"param", "[set NAME VALUE | unset NAME | clear]",
     "Values of :NAME; VALUE is SQL, or @FILE[N]: vector N of a file", dot_param, 0, SIZE_MAX, 0,
     COMPLETES_NOTHING},
    {"print", "TEXT...", "Print a line", dot_print, 0, SIZE_MAX, 0, COMPLETES_NOTHING},
    {"progress", "on|off", "Show that a long statement runs", dot_progress, 1, 1, 0,
     COMPLETES_ON_OFF},
    {"quit", "", "End", dot_quit, 0, 0, 0, COMPLETES_NOTHING},
    {"read", "FILE", "Run a file of SQL and .commands", dot_read, 1, 1, DOT_FILES, COMPLETES_FILES},
    {"rebuild", "COLLECTION", "Build an index anew", dot_program, 0, SIZE_MAX, DOT_PROGRAM,
     COMPLETES_TABLES},
    {"recall", "COLLECTION [OPTIONS]", "Measure what searches by the index find", dot_program, 0,
     SIZE_MAX, DOT_PROGRAM, COMPLETES_TABLES},
    {"schema", "[PATTERN]", "CREATE statements of all, or of tables like PATTERN", dot_schema, 0, 1,
     0, COMPLETES_TABLES},
    {"search", "COLLECTION [OPTIONS]", "The nearest rows to a word, id or vector", dot_program, 0,
     SIZE_MAX, DOT_PROGRAM, COMPLETES_TABLES},
    {"separator", "SEP", "Between the values of list mode", dot_separator, 1, 1, 0,
     COMPLETES_NOTHING},
    {"shell", "COMMAND...", "Run a command of the system", dot_shell, 1, SIZE_MAX, DOT_FILES,
     COMPLETES_FILES},
    {"show", "", "The settings", dot_show, 0, 0, 0, COMPLETES_NOTHING},
    {"stats", "[COLLECTION]", "Sizes, rows, the index, memory", dot_program, 0, SIZE_MAX,
     DOT_PROGRAM, COMPLETES_TABLES},
    {"tables", "[PATTERN]", "Names of tables and views", dot_tables, 0, 1, 0, COMPLETES_TABLES},
    {"timeout", "TIME", "How long to wait for another writer, as 500ms", dot_timeout, 1, 1, 0,
     COMPLETES_NOTHING},
    {"timer", "on|off", "Time, CPU, rows and pages of each statement", dot_timer, 1, 1, 0,
     COMPLETES_ON_OFF},
    {"truth", "COLLECTION [OPTIONS]", "Write exact neighbours to a file", dot_program, 0, SIZE_MAX,
     DOT_PROGRAM | DOT_FILES, COMPLETES_TABLES},
    {"verify", "[OPTIONS]", "Read everything and say what is damaged", dot_program, 0, SIZE_MAX,
     DOT_PROGRAM, COMPLETES_NOTHING},
    {"watch", "[SECONDS [TIMES]]", "Run the last statement again and again", dot_watch, 0, 2, 0,
     COMPLETES_NOTHING},
    {"width", "N...", "Widths of columns; 0: as wide as needed", dot_width, 0, WIDTHS_MOST, 0,
     COMPLETES_NOTHING},
};

size_t dots_count(void)
{
    return sizeof dots / sizeof *dots;
}

const struct dot *dot_find(const char *name)
{
    for (size_t i = 0; i < dots_count(); i++)
        if (strcmp(dots[i].name, name) == 0)
            return &dots[i];
    return NULL;
}

/* Other names: psql's and sqlite3's. The word after \ or . */
static const struct {
    const char *word, *name;
    dot_fn run; /* instead of name's */
} synonyms[] = {
    {"q", "quit", NULL},           {"?", "help", NULL},         {"h", "help", NULL},
    {"dt", "tables", NULL},        {"timing", "timer", NULL},   {"i", "read", NULL},
    {"o", "output", NULL},         {"!", "shell", NULL},        {"system", "shell", NULL},
    {"parameter", "param", NULL},  {"header", "headers", NULL}, {"indices", "indexes", NULL},
    {"di", "indexes", NULL},       {"l", "databases", NULL},    {"x", "mode", dot_expand},
    {"d", "schema", dot_describe}, {"eqp", "explain", NULL},    {"e", "edit", NULL},
};

/* ---- Words ---------------------------------------------------------------------------------- */

/* A character after a backslash in a double-quoted word. */
static char unescape(char c)
{
    return c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
}

/* Cuts the line: blanks separate, '...' is literal, "..." knows backslashes. False: a quote does
 * not end. */
static bool split(const char *line, struct dot_args *a)
{
    const char *p = line;
    a->words = need(calloc(strlen(line) + 2, sizeof *a->words));
    a->n = 0;
    for (;;) {
        p += strspn(p, " \t\r\n");
        if (!*p)
            return true;
        if (a->n == 1)
            a->rest = p;
        char *word = need(malloc(strlen(p) + 1)), quote = 0;
        size_t n = 0;
        a->words[a->n++] = word;
        for (; *p && (quote || !isspace((unsigned char)*p)); p++) {
            if (quote && *p == quote)
                quote = 0;
            else if (!quote && (*p == '\'' || *p == '"'))
                quote = *p;
            else if (quote == '"' && *p == '\\' && p[1])
                word[n++] = unescape(*++p);
            else
                word[n++] = *p;
        }
        word[n] = 0;
        if (quote)
            return false;
    }
}

static void free_words(struct dot_args *a)
{
    for (size_t i = 0; i < a->n; i++)
        free(a->words[i]);
    free(a->words);
}

int bad_usage(const struct dot_args *a)
{
    const struct dot *d = dot_find(a->words[0]);
    return error_exit(".%s: usage: .%s %s", a->words[0], a->words[0], d ? d->arguments : "");
}

int on_off(const struct dot_args *a, bool *out)
{
    const char *w = a->words[1];
    if (strcasecmp(w, "on") == 0 || strcmp(w, "1") == 0 || strcasecmp(w, "yes") == 0)
        *out = true;
    else if (strcasecmp(w, "off") == 0 || strcmp(w, "0") == 0 || strcasecmp(w, "no") == 0)
        *out = false;
    else
        return error_exit(".%s %s: say on or off", a->words[0], w);
    return 0;
}

/* ---- Calling -------------------------------------------------------------------------------- */

static int unknown(const char *word)
{
    enum { MOST = 128 };
    const char *names[MOST];
    size_t n = 0;
    for (; n < dots_count() && n < MOST; n++)
        names[n] = dots[n].name;
    const char *near = nearest_word(word, names, n);
    if (near)
        return error_exit("unknown command .%s; did you mean .%s?", word, near);
    return error_exit("unknown command .%s; .help lists them", word);
}

/* The command, or the one whose name begins so, if there is but one. */
static const struct dot *find(const char *word, dot_fn *run)
{
    const struct dot *d = dot_find(word), *found = NULL;
    for (size_t i = 0; !d && i < sizeof synonyms / sizeof *synonyms; i++)
        if (strcmp(word, synonyms[i].word) == 0) {
            d = dot_find(synonyms[i].name);
            *run = synonyms[i].run;
            return d;
        }
    for (size_t i = 0; !d && i < dots_count(); i++)
        if (strncmp(dots[i].name, word, strlen(word)) == 0) {
            if (found)
                return NULL;
            found = &dots[i];
        }
    return d ? d : found;
}

static int call(struct repl *r, struct dot_args *a)
{
    dot_fn run = NULL;
    const struct dot *d = find(a->words[0], &run);
    if (!d)
        return unknown(a->words[0]);
    if (strcmp(a->words[0], d->name) != 0 && !run) {
        free(a->words[0]);
        a->words[0] = need(strdup(d->name));
    }
    if (d->needs & DOT_FILES) {
        char what[40];
        snprintf(what, sizeof what, ".%s", d->name);
        int code = repl_unsafe(r, what);
        if (code)
            return code;
    }
    if (!run && (a->n - 1 < d->least || a->n - 1 > d->most))
        return bad_usage(a);
    return (run ? run : d->run)(r, a);
}

int dot_run(struct repl *r, const char *line, struct place place)
{
    struct dot_args a = {.rest = "", .place = place};
    const char *text = line + strspn(line, " \t") + 1;
    const FILE *once = r->output_once ? r->output : NULL;
    interrupt_forget();
    int code = 0;
    if (!split(text, &a) && strncmp(text, "explain", 7) != 0) /* which reads SQL itself */
        code = error_exit("%.60s: a quote does not end", line);
    else if (a.n)
        code = call(r, &a);
    free_words(&a);
    if (once && r->output == once) { /* a command's output counts as the next statement's */
        int turned = output_turn(r);
        code = code ? code : turned;
    }
    if (code == EXIT_ERROR && place.name)
        fprintf(stderr, "  in %s, line %llu\n", place.name, (unsigned long long)place.line);
    out_flush();
    return code;
}

/* ---- Where output goes ---------------------------------------------------------------------- */

int output_set(struct repl *r, const char *path, bool once)
{
    int code = 0;
    if (r->output) {
        int failed = out_restore();
        if ((fclose(r->output) != 0 && !failed && (failed = errno)) || failed)
            code = error_exit("%s could not be written: %s", r->output_name, strerror(failed));
        free(r->output_name);
        r->output = NULL;
        r->output_name = NULL;
    }
    r->output_once = false;
    if (!path)
        return code;
    FILE *file = fopen(path, "w");
    if (!file)
        return error_exit("%s could not be opened for writing: %s", path, strerror(errno));
    r->output = file;
    r->output_name = need(strdup(path));
    r->output_once = once;
    out_redirect(file);
    return code;
}

int output_turn(struct repl *r)
{
    return r->output_once ? output_set(r, NULL, false) : 0;
}
