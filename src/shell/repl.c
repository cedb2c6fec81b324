/* mneme PATH: the SQL shell. Its command line, opening the database, and the loop that cuts input
 * into statements and dot commands. */
#include "src/shell/repl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mneme_sql.h"
#include "src/shell/editor.h"
#include "src/shell/sqltext.h"
#include "src/shell/units.h"

/* ---- The database --------------------------------------------------------------------------- */

static sqlite3 *volatile interrupt_db; /* the open one; read by the signal handler */

static void on_interrupt(void)
{
    sqlite3 *db = interrupt_db;
    if (db)
        sqlite3_interrupt(db);
}

/* With -safe no statement reaches another file: ATTACH, VACUUM INTO, load_extension(). */
static int authorize(void *ctx, int action, const char *a, const char *b, const char *c,
                     const char *d)
{
    (void)ctx, (void)c, (void)d;
    if (action == SQLITE_ATTACH && a && *a && strcmp(a, ":memory:") != 0)
        return SQLITE_DENY;
    if (action == SQLITE_FUNCTION && b && sqlite3_stricmp(b, "load_extension") == 0)
        return SQLITE_DENY;
    return SQLITE_OK;
}

/* SQLite says "unable to open database file" of all these. */
static const char *why_not(const char *path, int rc, sqlite3 *db)
{
    struct stat st;
    if ((rc & 0xff) != SQLITE_CANTOPEN)
        return db ? sqlite3_errmsg(db) : sqlite3_errstr(rc);
    if (stat(path, &st) != 0)
        return errno == ENOENT ? "there is no such file, or no such folder to make it in"
                               : strerror(errno);
    if (S_ISDIR(st.st_mode))
        return "it is a folder";
    return access(path, R_OK) != 0 ? strerror(errno) : sqlite3_errmsg(db);
}

int repl_open(struct repl *r, const char *path, bool must_exist)
{
    sqlite3 *db = NULL;
    int flags = r->set.readonly ? SQLITE_OPEN_READONLY
                : must_exist    ? SQLITE_OPEN_READWRITE
                                : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    int rc = sqlite3_open_v2(path, &db, flags | SQLITE_OPEN_URI, NULL);
    if (!rc)
        sqlite3_busy_timeout(db, r->set.timeout_ms ? (int)r->set.timeout_ms : 5000);
    if (!rc) /* the file is looked at only now */
        rc = sqlite3_exec(db, "SELECT 1 FROM sqlite_schema LIMIT 1", NULL, NULL, NULL);
    if (rc) {
        int code = error_exit("%s could not be opened: %s", path, why_not(path, rc, db));
        sqlite3_close(db);
        return code;
    }
    char *message = NULL;
    rc = mn_sql_register(db, &message);
    if (rc) {
        int code = error_exit("%s: %s", path, message ? message : sqlite3_errstr(rc));
        sqlite3_free(message);
        sqlite3_close(db);
        return code;
    }
    sqlite3_extended_result_codes(db, 1);
    if (r->set.safe)
        sqlite3_set_authorizer(db, authorize, NULL);
    repl_close(r);
    r->db = db;
    r->path = need(strdup(path));
    interrupt_db = db;
    /* A file with collections is opened by the engine before a statement reads from it: that is
     * when it may still be switched to write-ahead logging. */
    collections_load(&r->known, db);
    if (repl_file(r) && (r->known.n || r->set.memory_bytes || r->set.threads))
        return repl_engine(r);
    return 0;
}

/* SQL may have opened the file already, when it first asked for a collection: then as that did. */
int repl_engine(struct repl *r)
{
    mn_error err = {0};
    bool readonly = sqlite3_db_readonly(r->db, "main") == 1;
    mn_open_opts opts = {
        /* A thread that folds is for a shell that stays. */
        .flags = (readonly ? MN_OPEN_READONLY : 0) | (r->person ? 0 : MN_OPEN_NO_BACKGROUND),
        .memory_bytes = r->set.memory_bytes,
        .threads = (uint32_t)r->set.threads,
        .busy_timeout_ms = (uint32_t)r->set.timeout_ms,
    };
    if (r->engine)
        return 0;
    mn_status st = mn_open(repl_file(r), &opts, &r->engine, &err);
    if (st == MN_MISUSE)
        st = mn_open(repl_file(r), NULL, &r->engine, &err);
    return st ? library_error(&err) : 0;
}

void repl_close(struct repl *r)
{
    mn_error err = {0};
    interrupt_db = NULL;
    if (r->db && !sqlite3_get_autocommit(r->db))
        warn("an open transaction is rolled back");
    collections_free(&r->known);
    sqlite3_close_v2(r->db);
    if (mn_close(r->engine, &err))
        (void)library_error(&err);
    free(r->path);
    r->db = NULL;
    r->engine = NULL;
    r->path = NULL;
}

const char *repl_file(const struct repl *r)
{
    const char *name = sqlite3_db_filename(r->db, "main");
    return name && *name ? name : NULL;
}

int repl_unsafe(struct repl *r, const char *what)
{
    return r->set.safe ? error_exit("%s is off: the shell was started with -safe", what) : 0;
}

/* ---- Lines ---------------------------------------------------------------------------------- */

static const char *text_line(struct input *in)
{
    const char *start = in->text;
    if (!*start)
        return NULL;
    size_t n = strcspn(start, "\n");
    free(in->buffer);
    in->buffer = need(strndup(start, n));
    in->text = start + n + (start[n] == '\n');
    return in->buffer;
}

static const char *file_line(struct input *in)
{
    ssize_t n = getline(&in->buffer, &in->cap, in->file);
    in->len = 0;
    if (n < 0)
        return NULL;
    while (n > 0 && (in->buffer[n - 1] == '\n' || in->buffer[n - 1] == '\r'))
        in->buffer[--n] = 0;
    bool mark = in->line == 0 && n >= 3 && memcmp(in->buffer, "\xEF\xBB\xBF", 3) == 0;
    in->len = (size_t)n - (mark ? 3 : 0);
    return in->buffer + (mark ? 3 : 0);
}

/* What follows a NUL would be passed over in silence: the input ends here, as damaged. */
static const char *has_nul(struct repl *r, const struct input *in)
{
    (void)error_exit("%s:%" PRIu64 ": the line holds a NUL byte; is this really a file of SQL?",
                     in->name ? in->name : "stdin", in->line + 1);
    r->failed = true;
    return NULL;
}

/* Where output goes into a file, the prompt is for the screen all the same. */
static const char *plain_prompt(struct input *in, const struct text *entry)
{
    if (in->terminal) {
        out_flush();
        FILE *to = out_is_terminal() || !err_is_terminal() ? stdout : stderr;
        fputs(entry->len ? "  ...> " : "mneme> ", to);
        fflush(to);
    }
    return file_line(in);
}

/* The next line; NULL at the end. *again: Ctrl-C was pressed, the entry is dropped. */
static const char *next_line(struct repl *r, struct input *in, struct text *entry, bool *again)
{
    const char *line = NULL;
    bool takes_back = false;
    *again = false;
    if (in->terminal && r->editor) {
        interrupt_forget();
        enum editor_end end =
            editor_read(r->editor, entry->data ? entry->data : "", &line, &takes_back);
        *again = end == EDITOR_INTERRUPTED && !asked_to_end();
        if (takes_back)
            text_clear(entry);
    } else if (in->text) {
        line = text_line(in);
    } else {
        line = plain_prompt(in, entry);
        if (line && strlen(line) != in->len)
            line = has_nul(r, in);
        if (!line && in->terminal && interrupted() && !asked_to_end()) {
            clearerr(in->file);
            interrupt_forget();
            out_printf("\n");
            *again = true;
        }
    }
    in->line += line != NULL;
    return line;
}

/* ---- The loop ------------------------------------------------------------------------------- */

/* What people type who come from elsewhere. */
static const char *plain_word(const char *line)
{
    static const char *const words[][2] = {
        {"exit", ".quit"},  {"quit", ".quit"},  {"help", ".help"},
        {"exit;", ".quit"}, {"quit;", ".quit"}, {"?", ".help"},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(line, words[i][0]) == 0)
            return words[i][1];
    return NULL;
}

/* Whether the line is a dot command rather than the beginning of SQL. */
static const char *dot_of(const struct input *in, const char *line)
{
    line += strspn(line, " \t");
    if (line[0] == '.' || line[0] == '\\')
        return line;
    return in->terminal ? plain_word(line) : NULL;
}

static bool stops(const struct repl *r, const struct input *in)
{
    return r->set.bail >= 0 ? r->set.bail && !in->terminal : !in->terminal;
}

/* Takes an entry's end: an exit code, or 0 to go on. */
static int after(struct repl *r, const struct input *in, int code)
{
    if (!code)
        return 0;
    if (code == EXIT_INTERRUPTED && in->terminal) {
        (void)interrupted_exit("interrupted");
        return 0;
    }
    if (!in->terminal || !r->person)
        r->failed = true;
    return stops(r, in) || code == EXIT_INTERRUPTED ? code : 0;
}

static bool is_complete(const struct text *entry, const char *line)
{
    return strchr(line, ';') && sqlite3_complete(entry->data);
}

static int run_entry(struct repl *r, struct input *in, struct text *entry, uint64_t first_line)
{
    struct place place = {.name = in->name, .line = first_line};
    if (r->set.echo)
        out_data(entry->data, entry->len);
    return after(r, in, statements_run(r, entry->data, entry->len, place));
}

static int run_dot(struct repl *r, struct input *in, const char *dot)
{
    struct place place = {.name = in->name, .line = in->line};
    if (r->set.echo) {
        out_data(dot, strlen(dot));
        out_printf("\n");
    }
    return after(r, in, dot_run(r, dot, place));
}

static void remember(struct repl *r, struct input *in, const char *entry)
{
    if (in->terminal && r->editor)
        editor_remember(r->editor, entry);
}

int repl_read(struct repl *r, struct input *in)
{
    struct text entry = {0};
    uint64_t first_line = 0;
    int code = 0;
    while (!code && !r->quit && out_fine()) {
        bool again;
        const char *line = next_line(r, in, &entry, &again);
        if (again) {
            text_clear(&entry);
            continue;
        }
        if (!line)
            break;
        const char *dot = entry.len ? NULL : dot_of(in, line);
        if (dot) {
            remember(r, in, line);
            code = run_dot(r, in, dot);
            continue;
        }
        if (!entry.len)
            first_line = in->line;
        text_puts(&entry, line);
        text_puts(&entry, "\n");
        if (is_complete(&entry, line)) {
            remember(r, in, entry.data);
            code = run_entry(r, in, &entry, first_line);
            text_clear(&entry);
        } else if (sql_is_blank(entry.data, entry.len)) {
            text_clear(&entry);
        }
    }
    /* The last statement of a script may lack its semicolon; a person's half one is dropped. */
    if (!code && !r->quit && entry.len && !in->terminal && !sql_is_blank(entry.data, entry.len))
        code = run_entry(r, in, &entry, first_line);
    text_free(&entry);
    free(in->buffer);
    in->buffer = NULL;
    return code;
}

int repl_text(struct repl *r, const char *name, const char *text)
{
    struct input in = {.name = name, .text = text};
    return repl_read(r, &in);
}

int repl_read_file(struct repl *r, const char *path)
{
    enum { DEEPEST = 20 };
    struct stat st;
    if (r->depth >= DEEPEST)
        return error_exit("%s: .read is %d deep; does a file read itself?", path, DEEPEST);
    FILE *file = fopen(path, "r");
    if (!file)
        return error_exit("%s could not be opened: %s", path, strerror(errno));
    if (fstat(fileno(file), &st) == 0 && S_ISDIR(st.st_mode)) {
        fclose(file);
        return error_exit("%s is a folder, not a file of SQL", path);
    }
    struct input in = {.name = path, .file = file};
    r->depth++;
    int code = repl_read(r, &in);
    r->depth--;
    if (!code && ferror(file))
        code = error_exit("%s could not be read: %s", path, strerror(errno));
    fclose(file);
    return code;
}

/* ---- The command line ----------------------------------------------------------------------- */

enum work_kind { WORK_TEXT, WORK_FILE };

struct work {
    enum work_kind kind;
    const char *what;
};

struct words_given {
    const char *path;
    const char *init;    /* -init FILE */
    struct work *before; /* [n_before] of -cmd */
    struct work *work;   /* [n_work] */
    size_t n_before, n_work;
    bool batch, interactive, help;
};

static void work_add(struct work **list, size_t *n, enum work_kind kind, const char *what)
{
    *list = need(realloc(*list, (*n + 1) * sizeof **list));
    (*list)[(*n)++] = (struct work){.kind = kind, .what = what};
}

/* X(name, value, help) */
#define SHELL_OPTIONS(X)                                                                           \
    X("c", "SQL", "Run SQL or a .command, then end. May be given many times.")                     \
    X("f", "FILE", "Run a file of SQL and .commands, then end. - is standard input.")              \
    X("cmd", "SQL", "Run SQL or a .command first, then go on as without it.")                      \
    X("init", "FILE", "Read this file first instead of mnemerc; '' reads none.")                   \
    X("table", NULL,                                                                               \
      "Output mode table. The same with box, column, markdown, line, list, json, "                 \
      "jsonl, csv, tsv, quote, insert.")                                                           \
    X("header", NULL, "Names of columns in front of list, csv, tsv and quote. -noheader: none.")   \
    X("separator", "SEP", "Between the values of list mode. Default |.")                           \
    X("nullvalue", "TEXT", "What stands for NULL. Default: nothing.")                              \
    X("bail", NULL, "Stop at the first error, which scripts do anyway. -nobail: go on.")           \
    X("readonly", NULL, "Nothing is written; the file must exist.")                                \
    X("safe", NULL, "No other files and no programs: for input that is not trusted.")              \
    X("echo", NULL, "Print each statement before it runs.")                                        \
    X("batch", NULL, "No prompt, no mnemerc, even on a terminal.")                                 \
    X("interactive", NULL, "A prompt even where standard input is no terminal.")                   \
    X("memory", "SIZE", "Cap over the memory that grows with data, as 64MiB. Default 256MiB.")     \
    X("threads", "N", "Threads that one search or build may use. Default 1.")                      \
    X("timeout", "TIME", "How long to wait for another writer, as 500ms. Default 5s.")             \
    X("help", NULL, "This page; .help inside lists the .commands.")

static const struct {
    const char *name, *value, *help;
} shell_options[] = {
#define X(name, value, help) {name, value, help},
    SHELL_OPTIONS(X)
#undef X
};

enum { N_SHELL_OPTIONS = sizeof shell_options / sizeof *shell_options };

static void repl_help(void)
{
    out_printf("usage: mneme [options] PATH [SQL or .command]...\n\n"
               "The SQL shell over a database; `mneme COMMAND` does one thing (mneme help).\n"
               "Without SQL it asks at a terminal and reads a script from a pipe. PATH is made\n"
               "if it is missing; :memory: is a database of this process. A file called like a\n"
               "command is written ./search; a name without a dot that names no file is taken\n"
               "for a mistyped command.\n");
    out_heading("Options, with one dash or two");
    for (size_t i = 0; i < N_SHELL_OPTIONS; i++) {
        char left[40];
        snprintf(left, sizeof left, "-%s %s", shell_options[i].name,
                 shell_options[i].value ? shell_options[i].value : "");
        out_printf("  %-15s ", left);
        size_t column = 18;
        for (const char *p = shell_options[i].help; *p;) {
            size_t word = strcspn(p, " ");
            if (column + word > 79) {
                out_printf("\n%18s", "");
                column = 18;
            }
            out_printf("%.*s%s", (int)word, p, p[word] ? " " : "");
            column += word + 1;
            p += word + (p[word] == ' ');
        }
        out_printf("\n");
    }
    out_heading("Examples");
    out_printf("  mneme app.db\n"
               "  mneme app.db \"SELECT count(*) FROM words\"\n"
               "  mneme -json app.db \"SELECT * FROM docs LIMIT 3\"\n"
               "  mneme app.db \".import docs.jsonl docs\" .tables\n"
               "  mneme app.db -f report.sql > report.txt\n");
    out_heading("Exit codes");
    out_printf("  0    done\n"
               "  1    a statement or command failed\n"
               "  2    the command line is wrong\n"
               "  130  interrupted\n");
}

static int unknown_shell_option(const char *word, const char *name)
{
    const char *names[N_SHELL_OPTIONS + MODE_COUNT];
    for (size_t i = 0; i < N_SHELL_OPTIONS; i++)
        names[i] = shell_options[i].name;
    for (size_t i = 0; i < MODE_COUNT; i++)
        names[N_SHELL_OPTIONS + i] = mode_name((enum mode)i);
    const char *near = nearest_word(name, names, N_SHELL_OPTIONS + MODE_COUNT);
    if (near)
        return usage_error("unknown option %s; did you mean -%s?", word, near);
    return usage_error("unknown option %s; `mneme PATH -help` lists the shell's, `mneme help` the "
                       "commands",
                       word);
}

/* An option without a value. False: it is none of them. */
static bool take_flag(struct repl *r, struct words_given *w, const char *name)
{
    struct settings *s = &r->set;
    if (mode_parse(name, &s->modes.mode))
        return true;
    if (strcmp(name, "header") == 0 || strcmp(name, "headers") == 0)
        s->modes.headers = HEADERS_ON;
    else if (strcmp(name, "noheader") == 0)
        s->modes.headers = HEADERS_OFF;
    else if (strcmp(name, "bail") == 0)
        s->bail = 1;
    else if (strcmp(name, "nobail") == 0)
        s->bail = 0;
    else if (strcmp(name, "readonly") == 0)
        s->readonly = true;
    else if (strcmp(name, "safe") == 0)
        s->safe = true;
    else if (strcmp(name, "echo") == 0)
        s->echo = true;
    else if (strcmp(name, "batch") == 0)
        w->batch = true;
    else if (strcmp(name, "interactive") == 0)
        w->interactive = true;
    else if (strcmp(name, "help") == 0 || strcmp(name, "h") == 0)
        w->help = true;
    else
        return false;
    return true;
}

static int take_option_value(struct repl *r, struct words_given *w, const char *name,
                             const char *value)
{
    struct settings *s = &r->set;
    uint64_t n = 0;
    if (strcmp(name, "c") == 0)
        work_add(&w->work, &w->n_work, WORK_TEXT, value);
    else if (strcmp(name, "f") == 0)
        work_add(&w->work, &w->n_work, WORK_FILE, value);
    else if (strcmp(name, "cmd") == 0)
        work_add(&w->before, &w->n_before, WORK_TEXT, value);
    else if (strcmp(name, "init") == 0)
        w->init = value;
    else if (strcmp(name, "separator") == 0)
        snprintf(s->modes.separator, sizeof s->modes.separator, "%s", value);
    else if (strcmp(name, "nullvalue") == 0)
        snprintf(s->modes.null_value, sizeof s->modes.null_value, "%s", value);
    else if (strcmp(name, "memory") == 0) {
        if (!size_parse(value, &s->memory_bytes) || s->memory_bytes < 4 << 20)
            return usage_error("-memory %s is not a size of at least 4MiB, as 512MB or 1g", value);
    } else if (strcmp(name, "threads") == 0) {
        if (!count_parse(value, &s->threads) || s->threads < 1 || s->threads > 256)
            return usage_error("-threads %s is not a number of 1 to 256", value);
    } else {
        if (!time_parse(value, &n) || n > 2000000000000)
            return usage_error("-timeout %s is not a time, as 500ms, 10s or 2m", value);
        s->timeout_ms = n / 1000 + (n % 1000 != 0);
    }
    return 0;
}

static const char *option_wants(const char *name)
{
    for (size_t i = 0; i < N_SHELL_OPTIONS; i++)
        if (strcmp(shell_options[i].name, name) == 0)
            return shell_options[i].value;
    return NULL;
}

static int parse_words(struct repl *r, struct words_given *w, int argc, char **argv)
{
    bool only_words = false;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (only_words || word[0] != '-' || !word[1]) {
            if (w->path)
                work_add(&w->work, &w->n_work, WORK_TEXT, word);
            else
                w->path = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_words = true;
            continue;
        }
        const char *name = word + 1 + (word[1] == '-'), *wants = option_wants(name);
        int code = 0;
        if (wants && i + 1 == argc)
            code = usage_error("-%s needs a value: -%s %s", name, name, wants);
        else if (wants)
            code = take_option_value(r, w, name, argv[++i]);
        else if (!take_flag(r, w, name))
            code = unknown_shell_option(word, name);
        if (code)
            return code;
    }
    return 0;
}

/* ---- From the first to the last ------------------------------------------------------------- */

/* $XDG_CONFIG_HOME/mneme/mnemerc, if it is there; only its owner's words are obeyed. */
static int read_rc(struct repl *r)
{
    struct text path = {0};
    struct stat st;
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    if (config && *config)
        text_printf(&path, "%s/mneme/mnemerc", config);
    else if (home && *home)
        text_printf(&path, "%s/.config/mneme/mnemerc", home);
    int code = 0;
    if (path.data && stat(path.data, &st) == 0) {
        if (st.st_uid == getuid() || st.st_uid == 0)
            code = repl_read_file(r, path.data);
        else
            warn("%s is not read: it belongs to another user", path.data);
    }
    text_free(&path);
    return code;
}

static int run_works(struct repl *r, const struct work *list, size_t n)
{
    int code = 0;
    for (size_t i = 0; i < n && !code && !r->quit; i++) {
        struct input in = {.name = "stdin", .file = stdin};
        if (list[i].kind == WORK_TEXT)
            code = repl_text(r, NULL, list[i].what);
        else if (strcmp(list[i].what, "-") == 0)
            code = repl_read(r, &in);
        else
            code = repl_read_file(r, list[i].what);
    }
    return code;
}

static void greet(const struct repl *r)
{
    const char *file = repl_file(r);
    if (!out_is_terminal())
        return;
    out_printf("mneme %s, SQLite %s; .help lists the commands, Ctrl-D ends\n", mn_version(),
               sqlite3_libversion());
    if (!file)
        out_printf("a database in memory: nothing of it is kept; .open FILE opens another\n");
}

static int read_stdin(struct repl *r)
{
    struct input in = {.name = r->person ? NULL : "stdin", .file = stdin, .terminal = r->person};
    if (r->person) {
        greet(r);
        r->editor = editor_open(r);
    }
    int code = repl_read(r, &in);
    editor_close(r->editor);
    r->editor = NULL;
    return code;
}

static int run_all(struct repl *r, const struct words_given *w)
{
    int code = 0;
    if (w->init && *w->init)
        code = repl_read_file(r, w->init);
    else if (!w->init && r->person)
        (void)read_rc(r);
    if (!code)
        code = run_works(r, w->before, w->n_before);
    if (!code && w->n_work)
        code = run_works(r, w->work, w->n_work);
    else if (!code && !r->quit)
        code = read_stdin(r);
    int closed = output_set(r, NULL, false);
    if (code == EXIT_INTERRUPTED)
        return code;
    return r->exit_code ? r->exit_code : code || closed || r->failed ? EXIT_FOUND : 0;
}

int repl_main(int argc, char **argv)
{
    struct repl r = {
        .set = {.bail = -1, .progress = true, .modes = {.mode = MODE_COUNT, .limit = -1}},
    };
    struct words_given w = {0};
    int code = parse_words(&r, &w, argc, argv);
    if (!code && w.help) {
        repl_help();
    } else if (!code) {
        r.person = !w.n_work && !w.batch && (w.interactive || isatty(STDIN_FILENO));
        if (r.set.modes.mode == MODE_COUNT)
            r.set.modes.mode = out_is_terminal() ? MODE_TABLE : MODE_LIST;
        interrupt_keep(on_interrupt, editor_leave);
        code = repl_open(&r, w.path ? w.path : ":memory:", false);
        code = code ? EXIT_FOUND : run_all(&r, &w);
    }
    repl_close(&r);
    params_clear(&r.params);
    text_free(&r.last);
    free(w.before);
    free(w.work);
    return code;
}
