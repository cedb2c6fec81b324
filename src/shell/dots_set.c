/* Dot commands that set how the shell behaves, and those that end it or lead it elsewhere. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "src/formats/formats.h"
#include "src/shell/dots.h"
#include "src/shell/editor.h"
#include "src/shell/sqltext.h"
#include "src/shell/units.h"

/* ---- Help ----------------------------------------------------------------------------------- */

static void help_line(const struct dot *d)
{
    char left[64];
    snprintf(left, sizeof left, ".%s %s", d->name, d->arguments);
    if (strlen(left) > 30)
        out_printf("%s\n%-32s%s\n", left, "", d->help);
    else
        out_printf("%-32s%s\n", left, d->help);
}

static int help_one(const char *word)
{
    const struct dot *d = dot_find(word + (word[0] == '.'));
    bool near = d && strcmp(d->name, "near") == 0;
    const struct command *command = d ? command_find(near ? "search" : d->name) : NULL;
    if (!d)
        return error_exit("unknown command %s; .help lists them", word);
    bool both = strcmp(d->name, "import") == 0 || strcmp(d->name, "export") == 0 || near;
    if (command && (d->needs & DOT_PROGRAM || both)) {
        out_printf(".%s %s\n%s. As `mneme %s`, on the open database:\n\n", d->name, d->arguments,
                   d->help, command->name);
        options_help(command);
        return 0;
    }
    help_line(d);
    for (int i = 0; d->completes == COMPLETES_MODES && i < MODE_COUNT; i++)
        out_printf("  %-10s  %s\n", mode_name((enum mode)i), mode_help((enum mode)i));
    return 0;
}

int dot_help(struct repl *r, const struct dot_args *a)
{
    (void)r;
    if (a->n > 1)
        return help_one(a->words[1]);
    for (size_t i = 0; i < dots_count(); i++)
        help_line(&dots[i]);
    out_printf("\nA beginning of a name will do where only one begins so. psql's \\q \\? \\d \\dt "
               "\\x \\timing\n\\i \\o \\! mean the same here. SQL ends with a semicolon.\n");
    return 0;
}

/* ---- Output --------------------------------------------------------------------------------- */

int dot_mode(struct repl *r, const struct dot_args *a)
{
    struct modes *m = &r->set.modes;
    if (a->n == 1) {
        out_printf("%s\n", mode_name(m->mode));
        return 0;
    }
    if (mode_parse(a->words[1], &m->mode)) {
        m->expand = false;
        if (a->n > 2)
            snprintf(m->insert_table, sizeof m->insert_table, "%s", a->words[2]);
        return 0;
    }
    const char *names[MODE_COUNT];
    for (int i = 0; i < MODE_COUNT; i++)
        names[i] = mode_name((enum mode)i);
    const char *near = nearest_word(a->words[1], names, MODE_COUNT);
    return error_exit("unknown mode %s; %s%s%s", a->words[1], near ? "did you mean " : "",
                      near ? near : ".help .mode lists them", near ? "?" : "");
}

int dot_expand(struct repl *r, const struct dot_args *a)
{
    bool *on = &r->set.modes.expand;
    if (a->n > 1)
        return on_off(a, on);
    *on = !*on;
    out_printf("expanded display is %s\n", *on ? "on" : "off");
    return 0;
}

int dot_headers(struct repl *r, const struct dot_args *a)
{
    bool on = false;
    if (strcmp(a->words[1], "auto") == 0) {
        r->set.modes.headers = HEADERS_AUTO;
        return 0;
    }
    int code = on_off(a, &on);
    if (!code)
        r->set.modes.headers = on ? HEADERS_ON : HEADERS_OFF;
    return code;
}

int dot_nullvalue(struct repl *r, const struct dot_args *a)
{
    snprintf(r->set.modes.null_value, sizeof r->set.modes.null_value, "%s", a->words[1]);
    return 0;
}

int dot_separator(struct repl *r, const struct dot_args *a)
{
    snprintf(r->set.modes.separator, sizeof r->set.modes.separator, "%s", a->words[1]);
    return 0;
}

int dot_limit(struct repl *r, const struct dot_args *a)
{
    enum { MOST = 100000 };
    int64_t n;
    if (strcmp(a->words[1], "auto") == 0)
        n = -1;
    else if (!integer_parse(a->words[1], &n) || n < 0 || n > MOST)
        return error_exit(".limit %s is not auto or a number of 0 to 100,000", a->words[1]);
    r->set.modes.limit = (long)n;
    return 0;
}

int dot_width(struct repl *r, const struct dot_args *a)
{
    size_t widths[WIDTHS_MOST] = {0};
    for (size_t i = 1; i < a->n; i++) {
        int64_t n;
        if (!integer_parse(a->words[i], &n) || n < 0 || n > 10000)
            return error_exit(".width %s is not a number of 0 to 10,000", a->words[i]);
        widths[i - 1] = (size_t)n;
    }
    memcpy(r->set.modes.widths, widths, sizeof widths);
    return 0;
}

int dot_output(struct repl *r, const struct dot_args *a)
{
    bool back = a->n == 1 || strcmp(a->words[1], "stdout") == 0;
    return output_set(r, back ? NULL : a->words[1], false);
}

int dot_once(struct repl *r, const struct dot_args *a)
{
    return output_set(r, a->words[1], true);
}

int dot_print(struct repl *r, const struct dot_args *a)
{
    (void)r;
    for (size_t i = 1; i < a->n; i++) {
        out_printf("%s", i > 1 ? " " : "");
        out_data(a->words[i], strlen(a->words[i]));
    }
    out_printf("\n");
    return 0;
}

/* ---- Behaviour ------------------------------------------------------------------------------ */

int dot_bail(struct repl *r, const struct dot_args *a)
{
    bool on = false;
    int code = on_off(a, &on);
    if (!code)
        r->set.bail = on;
    return code;
}

int dot_echo(struct repl *r, const struct dot_args *a)
{
    return on_off(a, &r->set.echo);
}

int dot_progress(struct repl *r, const struct dot_args *a)
{
    return on_off(a, &r->set.progress);
}

int dot_timer(struct repl *r, const struct dot_args *a)
{
    return on_off(a, &r->set.timer);
}

int dot_timeout(struct repl *r, const struct dot_args *a)
{
    uint64_t us;
    if (!time_parse(a->words[1], &us) || us > 2000000000000)
        return error_exit(".timeout %s is not a time, as 500ms or 10s", a->words[1]);
    r->set.timeout_ms = us / 1000 + (us % 1000 != 0);
    sqlite3_busy_timeout(r->db, (int)r->set.timeout_ms);
    return 0;
}

int dot_show(struct repl *r, const struct dot_args *a)
{
    (void)a;
    const struct settings *s = &r->set;
    const char *file = repl_file(r);
    struct text widths = {0}, null = {0};
    text_puts(&widths, "");
    for (size_t i = 0; i < WIDTHS_MOST; i++)
        if (s->modes.widths[i])
            text_printf(&widths, "%s%zu:%zu", widths.len ? " " : "", i + 1, s->modes.widths[i]);
    text_json(&null, s->modes.null_value, strlen(s->modes.null_value));
    out_printf("database   %s\n", file ? file : ":memory:");
    out_printf("mode       %s%s\n", mode_name(s->modes.mode), s->modes.expand ? ", expanded" : "");
    out_printf("headers    %s\n", s->modes.headers == HEADERS_AUTO ? "auto"
                                  : s->modes.headers == HEADERS_ON ? "on"
                                                                   : "off");
    out_printf("nullvalue  %s\n", null.data);
    if (s->modes.limit < 0)
        out_printf("limit      auto\n");
    else
        out_printf("limit      %ld\n", s->modes.limit);
    out_printf("width      %s\n", widths.len ? widths.data : "as needed");
    out_printf("output     %s\n", r->output ? r->output_name : "stdout");
    out_printf("timer      %s\n", s->timer ? "on" : "off");
    out_printf("progress   %s\n", s->progress ? "on" : "off");
    out_printf("echo       %s\n", s->echo ? "on" : "off");
    out_printf("bail       %s\n", s->bail < 0 ? "in scripts" : s->bail ? "on" : "off");
    out_printf("safe       %s\n", s->safe ? "on" : "off");
    text_free(&widths);
    text_free(&null);
    return 0;
}

int dot_cd(struct repl *r, const struct dot_args *a)
{
    (void)r;
    if (chdir(a->words[1]) != 0)
        return error_exit(".cd %s: %s", a->words[1], strerror(errno));
    return 0;
}

int dot_shell(struct repl *r, const struct dot_args *a)
{
    (void)r;
    out_flush();
    editor_leave();
    int status = system(a->rest);
    editor_return();
    if (status == -1)
        return error_exit(".shell: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return error_exit(".shell: the command ended with %d",
                      WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* ---- .edit ---------------------------------------------------------------------------------- */

/* The editor's file, with the text in it. */
static int edit_write(char *path, const char *text)
{
    int fd = mkstemps(path, 4);
    size_t n = strlen(text);
    bool ok = fd >= 0 && write(fd, text, n) == (ssize_t)n;
    int problem = errno;
    if (fd >= 0 && close(fd) != 0 && ok) {
        problem = errno;
        ok = false;
    }
    return ok ? 0 : error_exit(".edit: %s could not be written: %s", path, strerror(problem));
}

static int edit_read(const char *path, struct text *out)
{
    char buffer[4096];
    size_t n;
    FILE *file = fopen(path, "r");
    while (file && (n = fread(buffer, 1, sizeof buffer, file)) > 0)
        text_add(out, buffer, n);
    bool ok = file && !ferror(file) && !(out->len && memchr(out->data, 0, out->len));
    if (file)
        fclose(file);
    return ok ? 0 : error_exit(".edit: %s could not be read back", path);
}

/* $VISUAL or $EDITOR on the file. */
static int edit_run(const char *path)
{
    const char *visual = getenv("VISUAL"), *editor = getenv("EDITOR");
    const char *program = visual && *visual ? visual : editor && *editor ? editor : "vi";
    struct text command = {0};
    text_printf(&command, "%s '%s'", program, path);
    out_flush();
    editor_leave();
    int status = system(command.data);
    editor_return();
    text_free(&command);
    if (status == 0)
        return 0;
    return error_exit(".edit: %s failed; nothing was run", program);
}

int dot_edit(struct repl *r, const struct dot_args *a)
{
    char path[] = "/tmp/mneme-XXXXXX.sql";
    const char *before = a->n > 1 ? a->rest : r->last.data ? r->last.data : "";
    struct text after = {0};
    int code = edit_write(path, before);
    if (!code)
        code = edit_run(path);
    if (!code)
        code = edit_read(path, &after);
    (void)unlink(path);
    if (!code && !sql_is_blank(after.data ? after.data : "", after.len)) {
        out_data(after.data, after.len);
        out_printf("%s", after.data[after.len - 1] == '\n' ? "" : "\n");
        if (r->editor)
            editor_remember(r->editor, after.data);
        code = statements_run(r, after.data, after.len, (struct place){0});
    }
    text_free(&after);
    return code;
}

int dot_read(struct repl *r, const struct dot_args *a)
{
    return repl_read_file(r, a->words[1]);
}

int dot_open(struct repl *r, const struct dot_args *a)
{
    return repl_open(r, a->words[1], false);
}

int dot_quit(struct repl *r, const struct dot_args *a)
{
    (void)a;
    r->quit = true;
    return 0;
}

int dot_exit(struct repl *r, const struct dot_args *a)
{
    int64_t n = 0;
    if (a->n > 1 && (!integer_parse(a->words[1], &n) || n < 0 || n > 255))
        return error_exit(".exit %s is not a number of 0 to 255", a->words[1]);
    r->exit_code = (int)n;
    r->quit = true;
    return 0;
}

/* Sleeps, or less if Ctrl-C is pressed. */
static void wait_seconds(double seconds)
{
    double until = now_seconds() + seconds;
    while (!interrupted() && now_seconds() < until) {
        double left = until - now_seconds();
        struct timespec t = {.tv_nsec = left < 0.1 ? (long)(left * 1e9) : 100000000};
        if (t.tv_nsec > 0)
            nanosleep(&t, NULL);
    }
}

int dot_watch(struct repl *r, const struct dot_args *a)
{
    double seconds = 2;
    int64_t times = INT64_MAX;
    if (a->n > 1 && (!real_parse(a->words[1], &seconds) || seconds < 0.01 || seconds > 86400))
        return error_exit(".watch %s is not a number of seconds, 0.01 to 86400", a->words[1]);
    if (a->n > 2 && (!integer_parse(a->words[2], &times) || times < 1))
        return error_exit(".watch: %s is not a number of times", a->words[2]);
    if (!r->last.len)
        return error_exit(".watch repeats the last statement; there was none yet");
    char *sql = need(strdup(r->last.data));
    int code = 0;
    for (int64_t i = 0; i < times && !code && out_fine(); i++) {
        if (i)
            wait_seconds(seconds);
        if (interrupted())
            code = EXIT_INTERRUPTED;
        else
            code = statements_run(r, sql, strlen(sql), (struct place){0});
    }
    free(sql);
    return code;
}

int dot_load(struct repl *r, const struct dot_args *a)
{
    char *message = NULL;
    sqlite3_db_config(r->db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    int rc = sqlite3_load_extension(r->db, a->words[1], a->n > 2 ? a->words[2] : NULL, &message);
    sqlite3_db_config(r->db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, NULL);
    int code =
        rc ? error_exit(".load %s: %s", a->words[1], message ? message : sqlite3_errstr(rc)) : 0;
    sqlite3_free(message);
    return code;
}

/* ---- Parameters ----------------------------------------------------------------------------- */

/* Vector n of the file, from 0, as a blob of f32. */
static int vector_of_file(sqlite3 *db, const char *path, uint64_t n, sqlite3_stmt **out)
{
    struct format_reader *reader = NULL;
    const struct format_record *rec = NULL;
    mn_error err = {0};
    mn_status st = format_reader_open(path, NULL, &reader, &err);
    for (uint64_t i = 0; !st && i <= n; i++) {
        st = format_reader_next(reader, &rec, &err);
        if (!st && !rec) {
            format_reader_close(reader);
            return error_exit("%s has %" PRIu64 " vectors, numbered from 0; there is no %" PRIu64,
                              path, i, n);
        }
    }
    int code = st ? library_error(&err) : 0;
    if (!code && sqlite3_prepare_v2(db, "SELECT ?1", -1, out, NULL) == SQLITE_OK)
        sqlite3_bind_blob64(*out, 1, rec->vector, (uint64_t)rec->dim * 4, SQLITE_TRANSIENT);
    format_reader_close(reader);
    return code;
}

/* @file.npy[3]; without [N] the first. */
static int param_file(struct repl *r, const char *word, sqlite3_stmt **out)
{
    int code = repl_unsafe(r, ".param set NAME @FILE");
    if (code)
        return code;
    char *path = need(strdup(word + 1)), *open = strrchr(path, '[');
    size_t len = strlen(path);
    while (len && strchr(" \t\r", path[len - 1]))
        path[--len] = 0;
    uint64_t n = 0;
    if (open && path[len - 1] == ']') {
        path[len - 1] = 0;
        if (!count_parse(open + 1, &n))
            code = error_exit("%s: [%s] is not the number of a vector", word, open + 1);
        *open = 0;
    }
    if (!code)
        code = vector_of_file(r->db, path, n, out);
    free(path);
    return code;
}

/* The value is an expression of SQL; what is none is taken as text. */
static int param_set(struct repl *r, const struct dot_args *a)
{
    const char *name = a->words[2], *value = a->rest;
    sqlite3_stmt *stmt = NULL;
    int code = 0;
    if (!strchr(":@$?", name[0]) || !name[1])
        return error_exit(".param: %s is not :NAME, @NAME, $NAME or ?N", name);
    for (int i = 0; i < 2; i++) { /* behind "set" and the name */
        value += strcspn(value, " \t");
        value += strspn(value, " \t");
    }
    if (value[0] == '@') {
        code = param_file(r, value, &stmt);
    } else {
        char *sql = need(sqlite3_mprintf("SELECT (%s)", value));
        if (sqlite3_prepare_v2(r->db, sql, -1, &stmt, NULL) != SQLITE_OK &&
            sqlite3_prepare_v2(r->db, "SELECT ?1", -1, &stmt, NULL) == SQLITE_OK)
            sqlite3_bind_text(stmt, 1, a->words[3], -1, SQLITE_TRANSIENT);
        sqlite3_free(sql);
    }
    if (!code && sqlite3_step(stmt) == SQLITE_ROW)
        params_set(&r->params, name, sqlite3_column_value(stmt, 0));
    else if (!code)
        code = error_exit(".param set %s: %s", name, sqlite3_errmsg(r->db));
    sqlite3_finalize(stmt);
    return code;
}

static void params_list(struct repl *r)
{
    for (size_t i = 0; i < r->params.n; i++) {
        sqlite3_value *v = r->params.items[i].value;
        sqlite3_stmt *stmt = NULL;
        struct text shown = {0}, line = {0};
        if (sqlite3_prepare_v2(r->db, "SELECT ?1", -1, &stmt, NULL) == SQLITE_OK &&
            sqlite3_bind_value(stmt, 1, v) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
            struct cell c = cell_read(stmt, 0, (struct shape){0});
            if (c.type == SQLITE_TEXT)
                cell_sql(&shown, &c);
            else
                cell_show(&shown, &c, "NULL");
            text_visible(&line, shown.data, shown.len, 100);
            out_printf("%-12s %s\n", r->params.items[i].name, line.data);
        }
        sqlite3_finalize(stmt);
        text_free(&shown);
        text_free(&line);
    }
}

int dot_param(struct repl *r, const struct dot_args *a)
{
    const char *what = a->n > 1 ? a->words[1] : "list";
    if (strcmp(what, "list") == 0 && a->n <= 2)
        params_list(r);
    else if (strcmp(what, "clear") == 0 && a->n == 2)
        params_clear(&r->params);
    else if (strcmp(what, "set") == 0 && a->n > 3)
        return param_set(r, a);
    else if (strcmp(what, "unset") == 0 && a->n == 3)
        return params_unset(&r->params, a->words[2])
                   ? 0
                   : error_exit(".param: %s is not set", a->words[2]);
    else
        return bad_usage(a);
    return 0;
}
