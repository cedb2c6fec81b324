#include "src/shell/shell.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "src/shell/print.h"
#include "src/shell/units.h"
#include "storage/base/error.h"

/* ---- Errors --------------------------------------------------------------------------------- */

/* Results printed so far come before the complaint when both go to one terminal. */
__attribute__((format(printf, 2, 0))) static void say(enum colour c, const char *format,
                                                      va_list args)
{
    out_flush();
    struct text line = {0};
    char message[1024];
    vsnprintf(message, sizeof message, format, args);
    text_visible(&line, message, strlen(message), 0);
    fprintf(stderr, "%smneme:%s %s\n", err_colour(c), err_colour(COLOUR_NONE), line.data);
    text_free(&line);
}

int usage_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(COLOUR_RED, format, args);
    va_end(args);
    return EXIT_USAGE;
}

int error_exit(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(COLOUR_RED, format, args);
    va_end(args);
    return EXIT_ERROR;
}

void warn(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(COLOUR_BOLD, format, args);
    va_end(args);
}

static bool interrupt_told;

int interrupted_exit(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!interrupt_told)
        say(COLOUR_BOLD, format, args);
    va_end(args);
    interrupt_told = true;
    return EXIT_INTERRUPTED;
}

int library_error(const mn_error *err)
{
    if (err->code == MN_INTERRUPTED || interrupted())
        return EXIT_INTERRUPTED;
    return error_exit("%s", err->message);
}

void *need(void *memory)
{
    if (memory)
        return memory;
    static const char sentence[] = "mneme: memory ran out; uncommitted work is rolled back\n";
    (void)!write(STDERR_FILENO, sentence, sizeof sentence - 1);
    _exit(EXIT_ERROR);
}

/* ---- Ctrl-C --------------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupts;
static mn_conn *volatile interrupt_conn; /* the open session's; read by the handler */

static pthread_t main_thread; /* set in interrupt_init */

enum { INTERRUPTS_MOST = 5 };        /* a shell that hears none of so many is stuck */
static void (*interrupt_last)(void); /* likewise; called before _exit */
static void (*interrupt_also)(void); /* set before signals matter; NULL: the second one ends us */
static volatile sig_atomic_t ended;  /* SIGTERM came */

static void exit_at_once(int code)
{
    if (interrupt_last)
        interrupt_last();
    _exit(code);
}

static void on_signal(int number)
{
    /* A search's helper thread may be the one that is asked: only the main thread knows for sure
     * that the connection still lives. */
    if (!pthread_equal(pthread_self(), main_thread)) {
        pthread_kill(main_thread, number);
        return;
    }
    int most = interrupt_also ? INTERRUPTS_MOST : 1;
    if (number == SIGTERM)
        ended = 1;
    if (interrupts >= most)
        exit_at_once(EXIT_INTERRUPTED);
    interrupts = interrupts + 1;
    mn_conn *conn = interrupt_conn;
    if (conn)
        mn_interrupt(conn);
    if (interrupt_also)
        interrupt_also();
}

void interrupt_init(void)
{
    /* No SA_RESTART: a read that waits for a terminal or a pipe returns. */
    main_thread = pthread_self();
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool interrupted(void)
{
    return interrupts > 0;
}

void interrupt_keep(void (*also)(void), void (*last)(void))
{
    interrupt_also = also;
    interrupt_last = last;
}

void interrupt_forget(void)
{
    if (!ended)
        interrupts = 0;
    interrupt_told = false;
}

bool asked_to_end(void)
{
    return ended;
}

/* ---- A database ----------------------------------------------------------------------------- */

static bool shared; /* the shell holds the database open */

void session_share(bool on)
{
    shared = on;
}

/* What the shell has open is taken as it is. */
static mn_status open_shared(struct session *s, const struct common *common, mn_error *err)
{
    if (common->memory || common->threads || common->timeout)
        return (mn_status)mn_fail(err, MN_MISUSE,
                                  "--memory, --threads and --timeout are the shell's own: mneme "
                                  "-memory SIZE -threads N -timeout TIME %s",
                                  s->path);
    return mn_open(s->path, NULL, &s->db, err);
}

int session_open(struct session *s, const struct common *common, const char *path, uint32_t flags)
{
    mn_error err = {0};
    mn_open_opts opts = {
        /* A thread that folds would be cut off when the command ends: see cmd_index.c. */
        .flags = flags | MN_OPEN_NO_BACKGROUND,
        .memory_bytes = common->memory,
        .threads = (uint32_t)common->threads,
        .busy_timeout_ms = (uint32_t)((common->timeout + 999) / 1000),
    };
    *s = (struct session){.path = path};
    mn_status st = shared ? open_shared(s, common, &err) : mn_open(path, &opts, &s->db, &err);
    if (st || mn_connect(s->db, &s->conn, &err)) {
        int code = library_error(&err);
        (void)session_close(s);
        return code;
    }
    interrupt_conn = s->conn;
    return 0;
}

int session_close(struct session *s)
{
    mn_error err = {0};
    interrupt_conn = NULL;
    mn_disconnect(s->conn);
    s->conn = NULL;
    mn_db *db = s->db;
    s->db = NULL;
    return mn_close(db, &err) ? library_error(&err) : 0;
}

/* "no collection 'wrds' in app.db; did you mean 'words'?" or which there are. */
static int no_collection(struct session *s, const char *name, const mn_error *why)
{
    mn_collection_info *all = NULL;
    size_t n = 0;
    if (mn_list(s->conn, &all, &n, NULL))
        return library_error(why);
    const char **names = need(malloc((n + 1) * sizeof *names));
    struct text listed = {0};
    for (size_t i = 0; i < n; i++) {
        names[i] = all[i].name;
        if (i < 8)
            text_printf(&listed, "%s'%s'", i ? ", " : "", all[i].name);
    }
    const char *near = nearest_word(name, names, n);
    int code;
    if (near)
        code = error_exit("no collection '%s' in %s; did you mean '%s'?", name, s->path, near);
    else if (n == 0)
        code = error_exit("no collection '%s' in %s, which has none yet; `mneme import` makes one",
                          name, s->path);
    else
        code = error_exit("no collection '%s' in %s; there %s %s%s", name, s->path,
                          n == 1 ? "is" : "are", listed.data, n > 8 ? ", ..." : "");
    text_free(&listed);
    free(names);
    mn_free_result(all);
    return code;
}

int session_collection(struct session *s, const char *name, mn_collection_info *info)
{
    mn_error err = {0};
    mn_status st = mn_info(s->conn, name, info, &err);
    if (st == MN_OK)
        return 0;
    return st == MN_NOTFOUND ? no_collection(s, name, &err) : library_error(&err);
}

/* ---- Progress ------------------------------------------------------------------------------- */

static const double PROGRESS_AFTER = 0.5, PROGRESS_EVERY = 0.1; /* seconds */

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void progress_begin(struct progress *p, const struct common *common, const char *label,
                    const char *unit)
{
    *p = (struct progress){.label = label, .unit = unit};
    p->on = !common->quiet && err_is_terminal();
    p->start = now_seconds();
    p->next = p->start + PROGRESS_AFTER;
}

static void amount_format(char *out, const char *unit, uint64_t n)
{
    if (strcmp(unit, "bytes") == 0)
        size_format(out, n);
    else
        count_format(out, n);
}

/* " 141,000 of 341,479 rows  42,141 rows/s" */
static void progress_amounts(struct text *t, const char *unit, uint64_t done, uint64_t total,
                             double rate)
{
    char a[UNITS_TEXT], b[UNITS_TEXT];
    bool sizes = strcmp(unit, "bytes") == 0;
    const char *word = sizes ? "" : unit, *blank = sizes ? "" : " ";
    amount_format(a, unit, done);
    amount_format(b, unit, total);
    if (total)
        text_printf(t, " %s of %s%s%s", a, b, blank, word);
    else
        text_printf(t, " %s%s%s", a, blank, word);
    amount_format(a, unit, (uint64_t)rate);
    text_printf(t, "  %s%s%s/s", a, blank, word);
}

static void progress_bar(struct text *t, double part, size_t width)
{
    text_puts(t, " [");
    for (size_t i = 0, full = (size_t)(part * (double)width); i < width; i++)
        text_puts(t, i < full ? "=" : i == full ? ">" : " ");
    text_puts(t, "]");
}

/* The bar takes the room that the words leave. */
static void progress_draw(struct progress *p, uint64_t done, uint64_t total, double seconds)
{
    enum { BAR_MOST = 24, BAR_LEAST = 6 };
    char time[UNITS_TEXT];
    struct text line = {0}, tail = {0}, cut = {0};
    double rate = seconds > 0 ? (double)done / seconds : 0;
    double part = !total ? 0 : done < total ? (double)done / (double)total : 1;
    size_t columns = err_columns() - 1;
    text_puts(&tail, "");
    if (total && rate > 0 && done < total) {
        double left = ceil((double)(total - done) / rate);
        if (left < 60)
            snprintf(time, sizeof time, "%.0f s", left);
        text_printf(&tail, " %s left ", left < 60 ? time : duration_format(time, left));
    }
    if (p->unit && done)
        progress_amounts(&tail, p->unit, done, total, rate);
    text_puts(&line, p->label ? p->label : "working");
    if (total)
        text_printf(&line, " %3d%%", (int)(part * 100));
    size_t used = line.len + tail.len + 3;
    if (total && columns >= used + BAR_LEAST)
        progress_bar(&line, part, columns - used < BAR_MOST ? columns - used : BAR_MOST);
    text_add(&line, tail.data, tail.len);
    text_visible(&cut, line.data, line.len, columns);
    fprintf(stderr, "\r%s\x1b[K", cut.data);
    fflush(stderr);
    text_free(&line);
    text_free(&tail);
    text_free(&cut);
    p->drawn = true;
}

bool progress_update(struct progress *p, uint64_t done, uint64_t total)
{
    if (p->on) {
        double now = now_seconds();
        if (now >= p->next) {
            p->next = now + PROGRESS_EVERY;
            progress_draw(p, done, total, now - p->start);
        }
    }
    return !interrupted();
}

void progress_end(struct progress *p)
{
    if (p->drawn)
        fprintf(stderr, "\r\x1b[K");
    p->drawn = false;
}

bool progress_library(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    struct progress *p = ctx;
    const char *label = p->label;
    if (!label)
        p->label = stage;
    if (done < p->done)
        p->start = now_seconds(); /* the next part of the work: another rate */
    p->done = done;
    bool go_on = progress_update(p, done, total);
    p->label = label;
    return go_on;
}
