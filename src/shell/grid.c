/* Rows in columns that are aligned: table, column and markdown modes.
 *
 * A table for a person shows at most `limit` rows: the first half and the last half, with a count.
 * Without a limit the widths are those of the first GRID_ROWS rows; what comes later is written as
 * it comes, and a longer cell moves the rest of its line, so that memory stays bounded. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "src/shell/modes.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"

enum { GRID_ROWS = 5000, TERMINAL_ROWS = 40, NARROWEST = 6 };

struct grid {
    const struct modes *modes;
    enum mode mode;
    size_t n_columns;
    char **names, **types; /* [n_columns] */
    bool *right;           /* [n_columns] all cells so far are numbers, or NULL */
    bool *numbers;         /* [n_columns] some are */
    size_t *widths;        /* [n_columns] once they are fixed */
    bool fixed;            /* header printed, rows follow at once */
    size_t most;           /* rows held: limit, or GRID_ROWS */
    bool elide;            /* rows in the middle are dropped beyond `most` */
    char **cells;          /* [n_held][n_columns]; elided: the second half is a ring */
    size_t n_held;
    uint64_t n_rows;
    size_t column; /* of the next cell */
    char **row;    /* [n_columns] being filled */
};

/* Line `i` of a cell into *n; "" beyond its last. */
static const char *line_of(const char *cell, size_t i, size_t *n)
{
    for (; i && *cell; i--) {
        cell += strcspn(cell, "\n");
        cell += *cell == '\n';
    }
    *n = strcspn(cell, "\n");
    return cell;
}

static size_t lines_of(const char *cell)
{
    size_t n = 1;
    for (; *cell; cell++)
        n += *cell == '\n';
    return n;
}

/* Of the widest line. */
static size_t width_of(const char *cell)
{
    size_t most = 0;
    for (;;) {
        size_t n = strcspn(cell, "\n"), width = text_width(cell, n);
        most = width > most ? width : most;
        if (!cell[n])
            return most;
        cell += n + 1;
    }
}

static char *visible(const char *s)
{
    struct text t = {0};
    text_visible(&t, s, strlen(s), 0);
    return t.data;
}

struct grid *grid_begin(const struct modes *modes, enum mode mode, sqlite3_stmt *stmt, size_t n)
{
    struct grid *g = need(calloc(1, sizeof *g));
    long limit = modes->limit >= 0 ? modes->limit : out_is_terminal() ? TERMINAL_ROWS : 0;
    g->modes = modes;
    g->mode = mode;
    g->n_columns = n;
    g->elide = limit > 0 && (mode == MODE_TABLE || mode == MODE_BOX);
    g->most = g->elide ? (size_t)limit : GRID_ROWS;
    g->names = need(calloc(n + 1, sizeof *g->names));
    g->types = need(calloc(n + 1, sizeof *g->types));
    g->right = need(calloc(n + 1, sizeof *g->right));
    g->numbers = need(calloc(n + 1, sizeof *g->numbers));
    g->widths = need(calloc(n + 1, sizeof *g->widths));
    g->row = need(calloc(n + 1, sizeof *g->row));
    g->cells = need(calloc(g->most * (n + 1), sizeof *g->cells));
    for (size_t i = 0; i < n; i++) {
        const char *name = sqlite3_column_name(stmt, (int)i);
        const char *type = sqlite3_column_decltype(stmt, (int)i);
        g->names[i] = visible(name ? name : "");
        g->types[i] = visible(type ? type : "");
        g->right[i] = true;
    }
    return g;
}

/* ---- Lines ---------------------------------------------------------------------------------- */

static bool boxed(const struct grid *g)
{
    return g->mode == MODE_TABLE || g->mode == MODE_BOX;
}

static bool with_types(const struct grid *g)
{
    bool any = false;
    for (size_t i = 0; i < g->n_columns; i++)
        any |= *g->types[i] != 0;
    return any && boxed(g) && out_is_terminal();
}

static void rule(const struct grid *g, const char *left, const char *middle, const char *right)
{
    struct text t = {0};
    text_puts(&t, left);
    for (size_t i = 0; i < g->n_columns; i++) {
        text_puts(&t, i ? middle : "");
        for (size_t j = 0; j < g->widths[i] + 2; j++)
            text_puts(&t, "─");
    }
    out_printf("%s%s%s%s\n", out_colour(COLOUR_DIM), t.data, right, out_colour(COLOUR_NONE));
    text_free(&t);
}

/* A line of a cell in its column, cut if the grid was narrowed. */
static void padded(struct text *t, const struct grid *g, size_t i, const char *s, size_t n,
                   bool last)
{
    size_t width = g->widths[i], has = text_width(s, n);
    size_t pad = width > has ? width - has : 0;
    if (g->right[i])
        text_printf(t, "%*s", (int)pad, "");
    bool chosen = i < WIDTHS_MOST && g->modes->widths[i];
    if (has > width && (chosen || (boxed(g) && out_is_terminal())))
        text_visible(t, s, n, width);
    else
        text_add(t, s, n);
    if (!g->right[i] && !last)
        text_printf(t, "%*s", (int)pad, "");
}

static void screen_line(const struct grid *g, char *const *cells, size_t line, enum colour colour)
{
    struct text t = {0};
    size_t n;
    const char *bar = boxed(g) ? "│" : g->mode == MODE_MARKDOWN ? "|" : "";
    const char *on = out_colour(colour), *dim = out_colour(COLOUR_DIM);
    const char *off = out_colour(COLOUR_NONE);
    for (size_t i = 0; i < g->n_columns; i++) {
        if (*bar)
            text_printf(&t, "%s%s%s%s ", i ? " " : "", boxed(g) ? dim : "", bar,
                        boxed(g) ? off : "");
        else if (i)
            text_puts(&t, "  ");
        if (colour != COLOUR_NONE)
            text_puts(&t, on);
        const char *s = line_of(cells[i], line, &n);
        padded(&t, g, i, s, n, !*bar && i + 1 == g->n_columns);
        if (colour != COLOUR_NONE)
            text_puts(&t, off);
    }
    if (*bar)
        text_printf(&t, " %s%s%s", boxed(g) ? dim : "", bar, boxed(g) ? off : "");
    out_printf("%s\n", t.data ? t.data : "");
    text_free(&t);
}

/* As many lines as its highest cell has. */
static void grid_line(const struct grid *g, char *const *cells, enum colour colour)
{
    size_t lines = 1;
    for (size_t i = 0; i < g->n_columns; i++) {
        size_t n = lines_of(cells[i]);
        lines = n > lines ? n : lines;
    }
    for (size_t line = 0; line < lines; line++)
        screen_line(g, cells, line, colour);
}

static void header_rule(const struct grid *g)
{
    struct text t = {0};
    if (boxed(g)) {
        rule(g, "├", "┼", "┤");
        return;
    }
    for (size_t i = 0; i < g->n_columns; i++) {
        bool markdown = g->mode == MODE_MARKDOWN;
        text_puts(&t, markdown ? (i ? " | " : "| ") : i ? "  " : "");
        for (size_t j = 0; j < g->widths[i]; j++)
            text_puts(&t, markdown && g->right[i] && j + 1 == g->widths[i] ? ":" : "-");
    }
    out_printf("%s%s\n", t.data ? t.data : "", g->mode == MODE_MARKDOWN ? " |" : "");
    text_free(&t);
}

static void header(const struct grid *g)
{
    if (boxed(g))
        rule(g, "┌", "┬", "┐");
    if (g->modes->headers == HEADERS_OFF && g->mode != MODE_MARKDOWN)
        return;
    grid_line(g, g->names, COLOUR_BOLD);
    if (with_types(g))
        grid_line(g, g->types, COLOUR_DIM);
    header_rule(g);
}

/* ---- Widths --------------------------------------------------------------------------------- */

static size_t line_width(const struct grid *g)
{
    size_t sum = boxed(g) || g->mode == MODE_MARKDOWN ? 1 : 0;
    for (size_t i = 0; i < g->n_columns; i++)
        sum += g->widths[i] + (boxed(g) || g->mode == MODE_MARKDOWN ? 3 : 2);
    return sum;
}

/* Takes from the widest columns until the line fits. False: it cannot be made to. */
static bool narrow(struct grid *g, size_t room)
{
    while (line_width(g) > room) {
        size_t widest = 0;
        for (size_t i = 1; i < g->n_columns; i++)
            if (g->widths[i] > g->widths[widest])
                widest = i;
        if (g->widths[widest] <= NARROWEST)
            return false;
        g->widths[widest]--;
    }
    return true;
}

/* Widths by what is held. False: the rows do not fit the terminal side by side. */
static bool fix(struct grid *g)
{
    g->fixed = true;
    for (size_t i = 0; i < g->n_columns; i++) {
        size_t width = width_of(g->names[i]), w;
        if (with_types(g) && (w = width_of(g->types[i])) > width)
            width = w;
        for (size_t r = 0; r < g->n_held; r++)
            if ((w = width_of(g->cells[r * g->n_columns + i])) > width)
                width = w;
        if (g->mode == MODE_MARKDOWN && width < 3)
            width = 3;
        if (i < WIDTHS_MOST && g->modes->widths[i])
            width = g->modes->widths[i];
        g->widths[i] = width ? width : 1;
        g->right[i] = g->right[i] && g->numbers[i];
    }
    size_t room = boxed(g) ? out_columns() : 0;
    if (room && g->n_rows == 1 && line_width(g) > room)
        return false; /* nothing is gained by cutting a single row */
    return !room || narrow(g, room);
}

/* ---- Rows ----------------------------------------------------------------------------------- */

/* Rows as name = value, where a table would not fit. */
static void print_lines(const struct grid *g)
{
    size_t most = 0;
    for (size_t i = 0; i < g->n_columns; i++)
        most = width_of(g->names[i]) > most ? width_of(g->names[i]) : most;
    for (size_t r = 0; r < g->n_held && out_fine(); r++) {
        for (size_t i = 0; i < g->n_columns; i++)
            out_printf("%s%*s%s%s = %s\n", r && !i ? "\n" : "", (int)(most - width_of(g->names[i])),
                       "", g->names[i], "", g->cells[r * g->n_columns + i]);
    }
}

static void print_held(struct grid *g)
{
    size_t half = (g->most + 1) / 2;
    bool cut = g->elide && g->n_rows > g->most;
    size_t ring = g->most - half;
    for (size_t r = 0; r < g->n_held && out_fine(); r++) {
        size_t at = r;
        if (cut && r == half)
            rule(g, "├", "┼", "┤");
        if (cut && r >= half)
            at = half + (size_t)((g->n_rows - half) % ring + (r - half)) % ring;
        grid_line(g, &g->cells[at * g->n_columns], COLOUR_NONE);
    }
}

static void drop_held(struct grid *g)
{
    for (size_t i = 0; i < g->n_held * g->n_columns; i++)
        free(g->cells[i]);
    g->n_held = 0;
}

/* Where the finished row is kept: in order, or over the oldest of the second half. */
static void keep_row(struct grid *g)
{
    size_t slot = g->n_held, half = (g->most + 1) / 2;
    if (slot < g->most) {
        g->n_held++;
    } else {
        size_t ring = g->most - half;
        if (!ring) {
            for (size_t i = 0; i < g->n_columns; i++)
                free(g->row[i]);
            return;
        }
        slot = half + (size_t)((g->n_rows - half) % ring);
        for (size_t i = 0; i < g->n_columns; i++)
            free(g->cells[slot * g->n_columns + i]);
    }
    memcpy(&g->cells[slot * g->n_columns], g->row, g->n_columns * sizeof *g->row);
}

static void take_row(struct grid *g)
{
    if (g->fixed) {
        grid_line(g, g->row, COLOUR_NONE);
        for (size_t i = 0; i < g->n_columns; i++)
            free(g->row[i]);
    } else {
        keep_row(g);
        if (!g->elide && g->n_held == g->most) {
            (void)fix(g);
            header(g);
            print_held(g);
            drop_held(g);
        }
    }
    g->n_rows++;
}

static void markdown_text(struct text *t, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '|' || s[i] == '\\')
            text_puts(t, "\\");
        if (s[i] == '\n')
            text_puts(t, "<br>");
        else
            text_add(t, s + i, 1);
    }
}

/* Within lines of a box, a cell may have several lines. */
static void visible_lines(struct text *t, const char *s, size_t n)
{
    while (n && s[n - 1] == '\n')
        n--;
    text_puts(t, "");
    for (size_t i = 0; i < n;) {
        const char *end = memchr(s + i, '\n', n - i);
        size_t len = end ? (size_t)(end - s) - i : n - i;
        text_visible(t, s + i, len, 0);
        if (end)
            text_puts(t, "\n");
        i += len + 1;
    }
}

void grid_cell(struct grid *g, const struct cell *c)
{
    struct text shown = {0}, cell = {0}, escaped = {0};
    bool number = c->type == SQLITE_INTEGER || c->type == SQLITE_FLOAT;
    if (!number && c->type != SQLITE_NULL && !g->fixed)
        g->right[g->column] = false;
    g->numbers[g->column] |= number;
    text_puts(&shown, "");
    cell_show(&shown, c, g->modes->null_value);
    if (g->mode == MODE_MARKDOWN) {
        text_puts(&escaped, "");
        markdown_text(&escaped, shown.data, shown.len);
        text_visible(&cell, escaped.data, escaped.len, 0);
    } else if (boxed(g)) {
        visible_lines(&cell, shown.data, shown.len);
    } else {
        text_visible(&cell, shown.data, shown.len, 0);
    }
    text_free(&shown);
    text_free(&escaped);
    g->row[g->column++] = cell.data;
    if (g->column == g->n_columns) {
        g->column = 0;
        take_row(g);
    }
}

static void footer(const struct grid *g)
{
    char n[UNITS_TEXT], shown[UNITS_TEXT];
    if (!boxed(g) || !out_is_terminal())
        return;
    out_printf("%s%s row%s", out_colour(COLOUR_DIM), count_format(n, g->n_rows),
               g->n_rows == 1 ? "" : "s");
    if (g->n_rows > g->most && g->elide)
        out_printf(", %s shown; .limit 0 shows all", count_format(shown, g->most));
    out_printf("%s\n", out_colour(COLOUR_NONE));
}

void grid_end(struct grid *g, bool fine)
{
    bool whole = g->fixed, shows = fine || g->n_rows;
    if (!g->fixed && shows) {
        bool cut = g->elide && g->n_rows > g->most;
        whole = fix(g);
        if (!whole && !cut) {
            print_lines(g);
        } else {
            whole = true;
            header(g);
            print_held(g);
        }
    }
    if (boxed(g) && whole)
        rule(g, "└", "┴", "┘");
    if (shows)
        footer(g);
    drop_held(g);
    for (size_t i = 0; i < g->column; i++)
        free(g->row[i]);
    for (size_t i = 0; i < g->n_columns; i++) {
        free(g->names[i]);
        free(g->types[i]);
    }
    free(g->names);
    free(g->types);
    free(g->right);
    free(g->numbers);
    free(g->widths);
    free(g->row);
    free(g->cells);
    free(g);
}
