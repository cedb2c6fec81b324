/* libedit with what the shell adds: Tab completes, Up and Down move within an entry of several
 * lines before they leave it, pasted text is put in as it is (bracketed paste) and runs only with
 * Enter, Ctrl-C drops the entry.
 *
 * libedit calls the functions below with its own handle alone; EL_CLIENTDATA leads back to ours.
 * Characters are read here, so that a signal ends the wait: libedit would start it again. */
#include "src/shell/editor.h"

#include <errno.h>
#include <histedit.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include "src/shell/complete.h"
#include "src/shell/history.h"
#include "src/shell/repl.h"

struct editor {
    struct repl *repl;
    EditLine *el;
    struct history history;
    size_t at; /* of the history's walk: 0 is the newest */
    const char *before;
    struct text line;       /* the last one read */
    struct text taken_back; /* to be put into the line when it begins */
    bool takes_back;
    bool interrupted;
    char prompt[32];
    mbstate_t decoding;
};

/* The terminal's settings as the shell found them. Between lines it is left without echo: what is
 * typed while a statement runs is shown once, when the next line begins. */
static struct termios found;
static volatile sig_atomic_t found_valid;

void editor_leave(void)
{
    if (found_valid)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &found);
}

void editor_return(void)
{
    struct termios quiet = found;
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    if (found_valid)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &quiet);
}

static volatile sig_atomic_t resized, continued; /* SIGWINCH, SIGCONT came */

static void on_window(int number)
{
    if (number == SIGWINCH)
        resized = 1;
    else
        continued = 1;
}

static struct editor *editor_of(EditLine *el)
{
    void *data = NULL;
    el_get(el, EL_CLIENTDATA, &data);
    return data;
}

static void put(const char *s)
{
    fputs(s, stdout);
    fflush(stdout);
}

/* ---- Characters ----------------------------------------------------------------------------- */

static void after_signal(EditLine *el)
{
    if (resized) {
        resized = 0;
        el_resize(el); /* which forgets what is on the screen */
        put("\r\x1b[J");
        el_set(el, EL_REFRESH);
    }
    if (continued) { /* the terminal came back as the other program left it */
        continued = 0;
        el_set(el, EL_PREP_TERM, 0);
        el_set(el, EL_PREP_TERM, 1);
        put("\x1b[?2004h");
        el_set(el, EL_REFRESH);
    }
}

/* One character; 0 at the end of input, -1 when Ctrl-C was pressed. */
static int read_character(EditLine *el, wchar_t *out)
{
    struct editor *e = editor_of(el);
    for (;;) {
        char byte;
        after_signal(el);
        if (interrupted()) {
            e->interrupted = true;
            return -1;
        }
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        size_t used = mbrtowc(out, &byte, 1, &e->decoding);
        if (used == (size_t)-2)
            continue; /* more bytes of this character */
        if (used == (size_t)-1) {
            memset(&e->decoding, 0, sizeof e->decoding);
            continue; /* not UTF-8: there is no such character */
        }
        return 1;
    }
}

/* ---- The line ------------------------------------------------------------------------------- */

static int count_characters(const char *s, const char *end)
{
    int n = 0;
    for (; s < end; s++)
        n += (*s & 0xc0) != 0x80;
    return n;
}

/* Pasted: all up to ESC [ 2 0 1 ~, its lines kept, what steers terminals left out. */
static unsigned char on_paste(EditLine *el, wint_t ch)
{
    static const wchar_t end[] = L"\x1b[201~";
    struct text pasted = {0};
    size_t matched = 0;
    wchar_t c;
    (void)ch;
    while (matched < 6 && el_wgetc(el, &c) == 1) {
        char bytes[16];
        mbstate_t state = {0};
        if (c == end[matched] || (matched && c == end[0])) {
            matched = c == end[matched] ? matched + 1 : 1;
            continue;
        }
        for (size_t i = 1; i < matched; i++) { /* it only began like the end */
            bytes[0] = (char)end[i];
            text_add(&pasted, bytes, 1);
        }
        matched = 0;
        if (c == L'\r')
            c = L'\n';
        if (c < 0x20 && c != L'\n' && c != L'\t')
            continue;
        size_t n = wcrtomb(bytes, c, &state);
        if (n != (size_t)-1)
            text_add(&pasted, bytes, n);
    }
    while (pasted.len && pasted.data[pasted.len - 1] == '\n')
        pasted.data[--pasted.len] = 0;
    bool ok = !pasted.len || el_insertstr(el, pasted.data) == 0;
    text_free(&pasted);
    return ok ? CC_REFRESH : CC_ERROR;
}

/* The entry's earlier lines, taken back into the line that begins. */
static unsigned char on_take_back(EditLine *el, wint_t ch)
{
    struct editor *e = editor_of(el);
    (void)ch;
    if (e->taken_back.len)
        el_insertstr(el, e->taken_back.data);
    text_clear(&e->taken_back);
    return CC_REFRESH;
}

/* Moves to the line of the buffer above or below; false if there is none. */
static bool move_line(EditLine *el, bool up)
{
    const LineInfo *li = el_line(el);
    const char *start = li->cursor, *target, *target_end;
    while (start > li->buffer && start[-1] != '\n')
        start--;
    int column = count_characters(start, li->cursor);
    if (up) {
        if (start == li->buffer)
            return false;
        target_end = start - 1;
        for (target = target_end; target > li->buffer && target[-1] != '\n';)
            target--;
    } else {
        target = memchr(li->cursor, '\n', (size_t)(li->lastchar - li->cursor));
        if (!target)
            return false;
        target++;
        target_end = memchr(target, '\n', (size_t)(li->lastchar - target));
        target_end = target_end ? target_end : li->lastchar;
    }
    int length = count_characters(target, target_end);
    int to = count_characters(li->buffer, target) + (column < length ? column : length);
    el_cursor(el, to - count_characters(li->buffer, li->cursor));
    return true;
}

/* On an empty continuation line, Up gives the lines above back. */
static unsigned char on_up(EditLine *el, wint_t ch)
{
    struct editor *e = editor_of(el);
    const LineInfo *li = el_line(el);
    (void)ch;
    if (move_line(el, true))
        return CC_CURSOR;
    if (*e->before && li->lastchar == li->buffer) {
        e->takes_back = true;
        el_insertstr(el, "\n"); /* an empty line would be the end of input */
        return CC_NEWLINE;
    }
    el_push(el, "\x10"); /* Ctrl-P: ed-prev-history */
    return CC_NORM;
}

static unsigned char on_down(EditLine *el, wint_t ch)
{
    (void)ch;
    if (move_line(el, false))
        return CC_CURSOR;
    el_push(el, "\x0e"); /* Ctrl-N: ed-next-history */
    return CC_NORM;
}

/* ---- Completion ----------------------------------------------------------------------------- */

/* A word as it is listed: without the blank that would follow it. */
static void choice_show(struct text *t, const char *word)
{
    size_t n = strlen(word);
    text_clear(t);
    text_visible(t, word, n && word[n - 1] == ' ' ? n - 1 : n, 0);
}

static void show_choices(const struct completion *c)
{
    enum { MOST = 200 };
    size_t widest = 0, n = c->words.n < MOST ? c->words.n : MOST;
    struct text t = {0};
    for (size_t i = 0; i < n; i++) {
        choice_show(&t, c->words.items[i]);
        size_t width = text_width(t.data, t.len);
        widest = width > widest ? width : widest;
    }
    size_t across = out_columns() / (widest + 2);
    across = across ? across : 1;
    size_t rows = (n + across - 1) / across;
    put("\n");
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = i; j < n; j += rows) {
            choice_show(&t, c->words.items[j]);
            int pad = (int)(widest + 2 - text_width(t.data, t.len));
            printf("%s%*s", t.data, j + rows < n ? pad : 0, "");
        }
        put("\n");
    }
    text_free(&t);
    if (n < c->words.n)
        printf("and %zu more\n", c->words.n - n);
}

/* Puts `n` bytes of word in the place of the last `old` bytes before the cursor. */
static bool replace(EditLine *el, const char *cursor, size_t old, const char *word, size_t n)
{
    struct text t = {0};
    int characters = count_characters(cursor - old, cursor);
    text_add(&t, word, n);
    if (characters)
        el_deletestr(el, characters);
    bool ok = el_insertstr(el, t.data) == 0;
    text_free(&t);
    return ok;
}

static unsigned char on_tab(EditLine *el, wint_t ch)
{
    struct editor *e = editor_of(el);
    const LineInfo *li = el_line(el);
    struct text text = {0}, after = {0};
    struct completion c;
    (void)ch;
    text_puts(&text, e->before);
    text_add(&text, li->buffer, (size_t)(li->cursor - li->buffer));
    text_add(&after, li->cursor, (size_t)(li->lastchar - li->cursor));
    complete(e->repl, text.data, after.data, &c);
    size_t old = text.len - c.start, common = completion_common(&c);
    unsigned char result = CC_REFRESH_BEEP;
    bool extends = common > old || (c.words.n == 1 && common);
    if (c.words.n && old <= (size_t)(li->cursor - li->buffer)) {
        if (extends && replace(el, li->cursor, old, c.words.items[0], common))
            result = CC_REFRESH;
        else if (c.words.n > 1) {
            show_choices(&c);
            result = CC_REDISPLAY;
        }
    }
    completion_free(&c);
    text_free(&text);
    text_free(&after);
    return result;
}

/* ---- History -------------------------------------------------------------------------------- */

/* libedit walks by these calls, from the newest on. */
static int on_history(void *ctx, HistEvent *ev, int op, ...)
{
    struct editor *e = ctx;
    size_t n = e->history.n, at = e->at;
    switch (op) {
    case H_FIRST:
        at = 0;
        break;
    case H_LAST:
        at = n ? n - 1 : 0;
        break;
    case H_NEXT:
        at++;
        break;
    case H_PREV:
        if (!at)
            return -1;
        at--;
        break;
    case H_CURR:
        break;
    default:
        return -1;
    }
    if (at >= n)
        return -1;
    e->at = at;
    ev->num = (int)(n - at);
    ev->str = e->history.entries[n - 1 - at];
    return 0;
}

/* ---- Opening, reading ----------------------------------------------------------------------- */

static char *prompt_of(EditLine *el)
{
    return editor_of(el)->prompt;
}

static void bind_keys(EditLine *el)
{
    static const struct {
        const char *key, *command;
    } keys[] = {
        {"\t", "mneme-complete"},
        {"\x1b[200~", "mneme-paste"},
        {"\x1b[A", "mneme-up"},
        {"\x1bOA", "mneme-up"},
        {"\x1b[B", "mneme-down"},
        {"\x1bOB", "mneme-down"},
        {"\x1f", "mneme-take-back"},
        {"^R", "em-inc-search-prev"},
        {"\x1b[3~", "ed-delete-next-char"},
        {"\x1b[H", "ed-move-to-beg"},
        {"\x1b[F", "ed-move-to-end"},
        {"\x1b[1~", "ed-move-to-beg"},
        {"\x1b[4~", "ed-move-to-end"},
        {"\x1b[1;5D", "ed-prev-word"},
        {"\x1b[1;5C", "em-next-word"},
        {"^W", "ed-delete-prev-word"},
    };
    /* libedit keeps wide names as they are, and loses its copies of others. */
    el_wset(el, EL_ADDFN, L"mneme-complete", L"Complete the word", on_tab);
    el_wset(el, EL_ADDFN, L"mneme-paste", L"Take pasted text", on_paste);
    el_wset(el, EL_ADDFN, L"mneme-up", L"The line above, or before", on_up);
    el_wset(el, EL_ADDFN, L"mneme-down", L"The line below, or after", on_down);
    el_wset(el, EL_ADDFN, L"mneme-take-back", L"Earlier lines of the entry", on_take_back);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        el_set(el, EL_BIND, keys[i].key, keys[i].command, NULL);
}

struct editor *editor_open(struct repl *r)
{
    const char *term = getenv("TERM");
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || !term || !*term ||
        strcmp(term, "dumb") == 0)
        return NULL;
    struct editor *e = need(calloc(1, sizeof *e));
    struct sigaction action = {.sa_handler = on_window};
    e->repl = r;
    e->before = "";
    found_valid = tcgetattr(STDIN_FILENO, &found) == 0;
    editor_return();
    e->el = el_init("mneme", stdin, stdout, stderr);
    if (!e->el) {
        editor_leave();
        found_valid = 0;
        free(e);
        return NULL;
    }
    el_set(e->el, EL_CLIENTDATA, e);
    el_set(e->el, EL_PROMPT, prompt_of);
    el_set(e->el, EL_EDITOR, "emacs");
    el_set(e->el, EL_SIGNAL, 0);
    el_set(e->el, EL_GETCFN, read_character);
    history_open(&e->history);
    el_set(e->el, EL_HIST, on_history, e);
    bind_keys(e->el);
    (void)el_source(e->el, NULL); /* ~/.editrc */
    sigemptyset(&action.sa_mask);
    sigaction(SIGWINCH, &action, NULL);
    sigaction(SIGCONT, &action, NULL);
    return e;
}

void editor_close(struct editor *e)
{
    if (!e)
        return;
    el_end(e->el);
    editor_leave();
    found_valid = 0;
    history_close(&e->history);
    text_free(&e->line);
    text_free(&e->taken_back);
    free(e);
}

/* Rows of the terminal that the entry so far takes, with its prompts. */
static size_t rows_of(const char *entry)
{
    size_t columns = out_columns(), rows = 0;
    while (*entry) {
        size_t n = strcspn(entry, "\n"), width = 7 + text_width(entry, n);
        rows += columns ? (width + columns - 1) / columns : 1;
        entry += n + (entry[n] == '\n');
    }
    return rows;
}

/* The entry's lines above are wiped from the screen, and stand in the line anew. */
static void take_back(struct editor *e)
{
    text_clear(&e->taken_back);
    text_puts(&e->taken_back, e->before);
    while (e->taken_back.len && e->taken_back.data[e->taken_back.len - 1] == '\n')
        e->taken_back.data[--e->taken_back.len] = 0;
    printf("\x1b[%zuA\r\x1b[J", rows_of(e->before));
    fflush(stdout);
    e->before = "";
    el_push(e->el, "\x1f");
}

static const char *read_line(struct editor *e)
{
    int n = 0;
    const char *mark = sqlite3_get_autocommit(e->repl->db) ? "mneme> " : "mneme*> ";
    snprintf(e->prompt, sizeof e->prompt, "%s", *e->before ? "  ...> " : mark);
    e->takes_back = e->interrupted = false;
    e->at = 0;
    return el_gets(e->el, &n);
}

enum editor_end editor_read(struct editor *e, const char *before, const char **line,
                            bool *takes_back)
{
    *line = NULL;
    *takes_back = false;
    e->before = before;
    out_flush();
    put("\x1b[?2004h");
    const char *got = read_line(e);
    if (got && e->takes_back) {
        *takes_back = true;
        take_back(e);
        got = read_line(e);
    }
    put("\x1b[?2004l");
    if (!got) {
        put(e->interrupted && !asked_to_end() ? "^C\n" : "\n");
        return e->interrupted ? EDITOR_INTERRUPTED : EDITOR_EOF;
    }
    text_clear(&e->line);
    text_puts(&e->line, got);
    while (e->line.len && e->line.data[e->line.len - 1] == '\n')
        e->line.data[--e->line.len] = 0;
    *line = e->line.data;
    return EDITOR_LINE;
}

void editor_remember(struct editor *e, const char *entry)
{
    history_add(&e->history, entry);
}
