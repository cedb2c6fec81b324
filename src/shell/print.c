#include "src/shell/print.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include "src/shell/shell.h"

/* ---- Text being built ----------------------------------------------------------------------- */

static void text_reserve(struct text *t, size_t more)
{
    if (t->cap - t->len > more)
        return;
    size_t cap = t->cap ? t->cap * 2 : 128;
    while (cap - t->len <= more)
        cap *= 2;
    t->data = need(realloc(t->data, cap));
    t->cap = cap;
}

void text_add(struct text *t, const char *bytes, size_t n)
{
    text_reserve(t, n);
    if (n)
        memcpy(t->data + t->len, bytes, n);
    t->len += n;
    t->data[t->len] = 0;
}

void text_puts(struct text *t, const char *s)
{
    text_add(t, s, strlen(s));
}

__attribute__((format(printf, 2, 0))) static void text_vprintf(struct text *t, const char *format,
                                                               va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n > 0) {
        text_reserve(t, (size_t)n);
        vsnprintf(t->data + t->len, (size_t)n + 1, format, again);
        t->len += (size_t)n;
    }
    va_end(again);
}

void text_printf(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    text_vprintf(t, format, args);
    va_end(args);
}

void text_clear(struct text *t)
{
    t->len = 0;
    if (t->data)
        t->data[0] = 0;
}

void text_free(struct text *t)
{
    free(t->data);
    *t = (struct text){0};
}

/* ---- stdout --------------------------------------------------------------------------------- */

static struct {
    bool out_terminal, err_terminal; /* set in out_init */
    bool out_colours, err_colours;
    int failed;      /* errno of the first write that failed */
    FILE *file;      /* NULL: stdout */
    int behind;      /* `failed` of stdout while `file` is written */
    bool behind_terminal, behind_colours; /* out_terminal, out_colours of stdout, likewise */
} screen;

static FILE *out_file(void)
{
    return screen.file ? screen.file : stdout;
}

void out_init(void)
{
    signal(SIGPIPE, SIG_IGN);
    /* Characters' widths need a UTF-8 locale; numbers keep their points: LC_NUMERIC stays C. */
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
    const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    bool clever = term && *term && strcmp(term, "dumb") != 0;
    bool colours = clever && !(no_colour && *no_colour);
    screen.out_terminal = isatty(STDOUT_FILENO);
    screen.err_terminal = clever && isatty(STDERR_FILENO);
    screen.out_colours = colours && screen.out_terminal;
    screen.err_colours = colours && screen.err_terminal;
}

static void out_check(bool ok)
{
    if (!ok && !screen.failed)
        screen.failed = errno ? errno : EIO;
}

void out_printf(const char *format, ...)
{
    if (screen.failed)
        return;
    va_list args;
    va_start(args, format);
    out_check(vfprintf(out_file(), format, args) >= 0);
    va_end(args);
}

void out_write(const void *bytes, size_t n)
{
    if (!screen.failed && n)
        out_check(fwrite(bytes, 1, n, out_file()) == n);
}

void out_data(const char *bytes, size_t n)
{
    struct text shown = {0};
    if (!screen.out_terminal) {
        out_write(bytes, n);
        return;
    }
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && bytes[end] != '\n' && bytes[end] != '\t')
            end++;
        text_visible(&shown, bytes + i, end - i, 0);
        if (end < n)
            text_add(&shown, bytes + end, 1);
        i = end + 1;
    }
    out_write(shown.data, shown.len);
    text_free(&shown);
}

void out_heading(const char *title)
{
    out_printf("\n%s%s:%s\n", out_colour(COLOUR_BOLD), title, out_colour(COLOUR_NONE));
}

void out_flush(void)
{
    if (!screen.failed)
        out_check(fflush(out_file()) == 0);
}

bool out_fine(void)
{
    return !screen.failed;
}

int out_finish(void)
{
    out_flush();
    if (!screen.failed || screen.failed == EPIPE)
        return 0;
    return error_exit("standard output could not be written: %s", strerror(screen.failed));
}

void out_redirect(FILE *file)
{
    out_flush();
    screen.file = file;
    screen.behind = screen.failed;
    screen.behind_terminal = screen.out_terminal;
    screen.behind_colours = screen.out_colours;
    screen.failed = 0;
    screen.out_terminal = screen.out_colours = false;
}

int out_restore(void)
{
    out_flush();
    int failed = screen.failed;
    screen.file = NULL;
    screen.failed = screen.behind;
    screen.out_terminal = screen.behind_terminal;
    screen.out_colours = screen.behind_colours;
    return failed;
}

bool out_is_terminal(void)
{
    return screen.out_terminal;
}

bool err_is_terminal(void)
{
    return screen.err_terminal;
}

static size_t columns_of(int fd)
{
    struct winsize size;
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return 80;
}

size_t out_columns(void)
{
    return screen.out_terminal ? columns_of(STDOUT_FILENO) : 0;
}

size_t out_lines(void)
{
    struct winsize size;
    if (!screen.out_terminal)
        return 0;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 ? size.ws_row : 24;
}

size_t err_columns(void)
{
    return screen.err_terminal ? columns_of(STDERR_FILENO) : 0;
}

static const char *const colours[] = {
    [COLOUR_NONE] = "\x1b[0m",
    [COLOUR_BOLD] = "\x1b[1m",
    [COLOUR_DIM] = "\x1b[2m",
    [COLOUR_RED] = "\x1b[31m",
};

const char *out_colour(enum colour c)
{
    return screen.out_colours ? colours[c] : "";
}

const char *err_colour(enum colour c)
{
    return screen.err_colours ? colours[c] : "";
}

/* ---- Cells ---------------------------------------------------------------------------------- */

static const unsigned char *bytes_of(const char *s)
{
    return (const unsigned char *)s;
}

/* Length of the UTF-8 character at s, its code in *code; 0 for bytes that are none (overlong,
 * surrogates, beyond U+10FFFF, cut). */
static size_t utf8_decode(const char *text, size_t n, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *s = bytes_of(text);
    if (n == 0)
        return 0;
    if (s[0] < 0x80) {
        *code = s[0];
        return 1;
    }
    size_t len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || len > n)
        return 0;
    uint32_t c = s[0] & (0xffu >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return 0;
    *code = c;
    return len;
}

/* Columns of a printable character; -1 for what must not reach a terminal. */
static int code_width(uint32_t code)
{
    if (code < 0x20 || (code >= 0x7f && code < 0xa0))
        return -1;
    /* Marks that turn the direction of writing, and invisible ones, could disguise what follows. */
    if ((code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) || code == 0xfeff)
        return -1;
    int width = wcwidth((wchar_t)code);
    return width < 0 ? 1 : width;
}

size_t text_width(const char *s, size_t n)
{
    size_t width = 0;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        size_t len = utf8_decode(s + i, n - i, &code);
        int w = len ? code_width(code) : 1;
        width += w > 0 ? (size_t)w : 0;
        i += len ? len : 1;
    }
    return width;
}

/* The character at s as a person may see it, in `out`; its width in *width. Returns bytes used. */
static size_t visible_char(const char *s, size_t n, char out[8], size_t *width)
{
    uint32_t code;
    size_t len = utf8_decode(s, n, &code);
    int w = len ? code_width(code) : -1;
    if (w >= 0) {
        memcpy(out, s, len);
        out[len] = 0;
        *width = (size_t)w;
        return len;
    }
    int wrote;
    if (len && code == '\n')
        wrote = snprintf(out, 8, "\\n");
    else if (len && code == '\t')
        wrote = snprintf(out, 8, "\\t");
    else if (len && code >= 0x100)
        wrote = snprintf(out, 8, "\\u%04x", code & 0xffffu);
    else
        wrote = snprintf(out, 8, "\\x%02x", len ? code : bytes_of(s)[0]);
    *width = (size_t)wrote;
    return len ? len : 1;
}

void text_visible(struct text *t, const char *s, size_t n, size_t most)
{
    size_t width = 0, keep_len = t->len; /* keep_len: where "…" would go */
    bool keep_open = true;
    text_reserve(t, 1);
    t->data[t->len] = 0;
    for (size_t i = 0; i < n;) {
        char shown[8];
        size_t w;
        size_t used = visible_char(s + i, n - i, shown, &w);
        if (most && width + w > most) {
            t->len = keep_len;
            text_puts(t, "…");
            return;
        }
        text_puts(t, shown);
        width += w;
        i += used;
        if (keep_open && width + 1 > most)
            keep_open = false;
        else if (keep_open)
            keep_len = t->len;
    }
}

void text_json(struct text *t, const char *s, size_t n)
{
    text_add(t, "\"", 1);
    for (size_t i = 0; i < n;) {
        uint32_t code;
        size_t len = utf8_decode(s + i, n - i, &code);
        if (!len)
            text_puts(t, "\xef\xbf\xbd");
        else if (code == '"' || code == '\\')
            text_printf(t, "\\%c", (char)code);
        else if (code == '\n')
            text_puts(t, "\\n");
        else if (code == '\t')
            text_puts(t, "\\t");
        else if (code < 0x20 || code == 0x7f)
            text_printf(t, "\\u%04x", code);
        else
            text_add(t, s + i, len);
        i += len ? len : 1;
    }
    text_add(t, "\"", 1);
}

void text_csv(struct text *t, const char *s, size_t n)
{
    bool quote = n == 0 || s[0] == ' ' || s[n - 1] == ' ';
    for (size_t i = 0; i < n && !quote; i++)
        quote = s[i] == ',' || s[i] == '"' || s[i] == '\n' || s[i] == '\r';
    if (!quote) {
        text_add(t, s, n);
        return;
    }
    text_add(t, "\"", 1);
    for (size_t i = 0; i < n; i++)
        text_add(t, s[i] == '"' ? "\"\"" : s + i, s[i] == '"' ? 2 : 1);
    text_add(t, "\"", 1);
}

void text_real(struct text *t, double x)
{
    char digits[40];
    if (!isfinite(x)) {
        text_puts(t, "null");
        return;
    }
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, x);
        if (strtod(digits, NULL) == x)
            break;
    }
    text_puts(t, digits);
}

void text_float(struct text *t, float x)
{
    char digits[40];
    if (!isfinite(x)) {
        text_puts(t, "null");
        return;
    }
    for (int precision = 6; precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)x);
        if (strtof(digits, NULL) == x)
            break;
    }
    text_puts(t, digits);
}

/* ---- Tables --------------------------------------------------------------------------------- */

void table_column_add(struct table *t, const char *name, bool right)
{
    if (t->n_columns == TABLE_MOST_COLUMNS)
        return;
    t->columns[t->n_columns].name = name;
    t->columns[t->n_columns].right = right;
    t->n_columns++;
}

void table_column_optional(struct table *t, const char *name)
{
    table_column_add(t, name, false);
    t->columns[t->n_columns - 1].optional = true;
}

static void table_take(struct table *t, char *cell)
{
    if (t->n_cells == t->cap_cells) {
        t->cap_cells = t->cap_cells ? t->cap_cells * 2 : 64;
        t->cells = need(realloc(t->cells, t->cap_cells * sizeof *t->cells));
    }
    t->cells[t->n_cells++] = cell;
    t->n_rows = t->n_cells / t->n_columns;
}

void table_cell(struct table *t, const char *s, size_t n, size_t most)
{
    struct text cell = {0};
    text_visible(&cell, s, n, most);
    table_take(t, cell.data);
}

void table_cellf(struct table *t, const char *format, ...)
{
    struct text cell = {0};
    text_puts(&cell, "");
    va_list args;
    va_start(args, format);
    text_vprintf(&cell, format, args);
    va_end(args);
    table_take(t, cell.data);
}

/* One line. `room` is what is left of the terminal's width, or 0. */
static void table_line(const struct table *t, char *const *cells, size_t room)
{
    struct text line = {0};
    for (size_t c = 0; c < t->n_columns; c++) {
        if (!t->columns[c].width)
            continue;
        const char *cell = cells ? cells[c] : t->columns[c].name;
        size_t len = strlen(cell), width = text_width(cell, len);
        size_t pad = t->columns[c].width > width ? t->columns[c].width - width : 0;
        text_printf(&line, "%s%*s", line.len ? "  " : "", t->columns[c].right ? (int)pad : 0, "");
        text_add(&line, cell, len);
        if (!t->columns[c].right)
            text_printf(&line, "%*s", (int)pad, "");
    }
    while (line.len && line.data[line.len - 1] == ' ')
        line.len--;
    struct text cut = {0};
    text_visible(&cut, line.data, line.len, room);
    out_printf("%s%s%s\n", cells ? "" : out_colour(COLOUR_BOLD), cut.data,
               cells ? "" : out_colour(COLOUR_NONE));
    text_free(&line);
    text_free(&cut);
}

/* Width of a column; 0 if it is not to be shown. */
static size_t column_width(const struct table *t, size_t c)
{
    size_t most = 0, name = text_width(t->columns[c].name, strlen(t->columns[c].name));
    for (size_t r = 0; r < t->n_rows; r++) {
        const char *cell = t->cells[r * t->n_columns + c];
        size_t width = text_width(cell, strlen(cell));
        most = width > most ? width : most;
    }
    if (t->columns[c].optional && !most)
        return 0;
    return most > name ? most : name ? name : 1;
}

void table_print(struct table *t)
{
    size_t n_optional = 0;
    for (size_t c = 0; c < t->n_columns; c++) {
        size_t width = column_width(t, c);
        if (t->columns[c].optional && width && ++n_optional > TABLE_MOST_OPTIONAL)
            width = 0;
        t->columns[c].width = width;
    }
    size_t room = out_columns();
    table_line(t, NULL, room);
    for (size_t r = 0; r < t->n_rows && out_fine(); r++)
        table_line(t, &t->cells[r * t->n_columns], room);
}

void table_clear(struct table *t)
{
    for (size_t i = 0; i < t->n_cells; i++)
        free(t->cells[i]);
    t->n_cells = t->n_rows = 0;
}

void table_free(struct table *t)
{
    table_clear(t);
    free(t->cells);
    *t = (struct table){0};
}
