/* Runs SQL statements: prepares, binds, steps, prints; progress and timer beside it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "src/shell/repl.h"
#include "src/shell/sqltext.h"
#include "src/shell/units.h"

/* ---- Progress ------------------------------------------------------------------------------- */

/* Steps of SQLite's machine between two looks, some 4 us. The library, while it works within a
 * statement, steps a few of them every 2 ms to hear of interrupts, and so comes here as well. */
enum { PROGRESS_OPS = 200 };

struct running {
    struct repl *repl;
    struct progress progress;
    uint64_t rows;
    char label[64];
};

/* Called by SQLite within a statement; other than 0 interrupts it. */
static int on_progress(void *ctx)
{
    struct running *run = ctx;
    double now = now_seconds(), seconds = now - run->progress.start;
    if (!run->progress.on || now < run->progress.next)
        return interrupted();
    if (seconds < 60)
        snprintf(run->label, sizeof run->label, "running for %.0f s", seconds);
    else
        snprintf(run->label, sizeof run->label, "running for %.0f m %02.0f s", seconds / 60 - 0.5,
                 seconds - 60 * (double)(int)(seconds / 60));
    return !progress_update(&run->progress, run->rows, 0);
}

static void running_begin(struct running *run, struct repl *r)
{
    struct common common = {.quiet = !r->set.progress};
    *run = (struct running){.repl = r};
    progress_begin(&run->progress, &common, run->label, "rows");
    sqlite3_progress_handler(r->db, PROGRESS_OPS, on_progress, run);
}

static void running_end(struct running *run)
{
    sqlite3_progress_handler(run->repl->db, 0, NULL, NULL);
    progress_end(&run->progress);
}

/* ---- Timer ---------------------------------------------------------------------------------- */

struct meter {
    double wall, cpu; /* seconds */
    int64_t pages;
};

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static struct meter meter_now(sqlite3 *db)
{
    int misses = 0, high;
    sqlite3_db_status(db, SQLITE_DBSTATUS_CACHE_MISS, &misses, &high, 0);
    return (struct meter){.wall = now_seconds(), .cpu = cpu_seconds(), .pages = misses};
}

/* On stderr: what a script prints stays what it asked for. */
static void meter_say(const struct meter *from, sqlite3 *db, uint64_t rows)
{
    struct meter to = meter_now(db);
    char wall[UNITS_TEXT], cpu[UNITS_TEXT], n[UNITS_TEXT], pages[UNITS_TEXT];
    out_flush();
    fprintf(stderr, "%stime %s, CPU %s, %s row%s, %s page%s read%s\n", err_colour(COLOUR_DIM),
            duration_format(wall, to.wall - from->wall), duration_format(cpu, to.cpu - from->cpu),
            count_format(n, rows), rows == 1 ? "" : "s",
            count_format(pages, (uint64_t)(to.pages - from->pages)),
            to.pages - from->pages == 1 ? "" : "s", err_colour(COLOUR_NONE));
}

/* ---- EXPLAIN QUERY PLAN --------------------------------------------------------------------- */

struct plan_line {
    int id, parent;
    char *detail;
};

static void plan_print(const struct plan_line *lines, size_t n, int parent, const char *before)
{
    size_t last = n;
    for (size_t i = 0; i < n; i++)
        if (lines[i].parent == parent)
            last = i;
    for (size_t i = 0; i < n; i++) {
        if (lines[i].parent != parent || (lines[i].id == parent))
            continue;
        struct text shown = {0}, deeper = {0};
        text_visible(&shown, lines[i].detail, strlen(lines[i].detail), 0);
        out_printf("%s%s%s\n", before, i == last ? "`--" : "|--", shown.data);
        text_printf(&deeper, "%s%s", before, i == last ? "   " : "|  ");
        if (deeper.len < 200)
            plan_print(lines, n, lines[i].id, deeper.data);
        text_free(&shown);
        text_free(&deeper);
    }
}

/* Steps through an EXPLAIN QUERY PLAN and prints it. SQLite's result code. */
static int plan_show(sqlite3_stmt *stmt)
{
    struct plan_line *lines = NULL;
    size_t n = 0;
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *detail = (const char *)sqlite3_column_text(stmt, 3);
        lines = need(realloc(lines, (n + 1) * sizeof *lines));
        lines[n++] = (struct plan_line){.id = sqlite3_column_int(stmt, 0),
                                        .parent = sqlite3_column_int(stmt, 1),
                                        .detail = need(strdup(detail ? detail : ""))};
    }
    if (rc == SQLITE_DONE)
        plan_print(lines, n, 0, "");
    for (size_t i = 0; i < n; i++)
        free(lines[i].detail);
    free(lines);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* ---- One statement -------------------------------------------------------------------------- */

static int unset_param(const char *name)
{
    return error_exit("%s is not set; .param set %s VALUE sets it", name, name);
}

/* Steps to the end, printing rows. 0 or SQLite's result code. */
static int step_all(struct repl *r, sqlite3_stmt *stmt, uint64_t *rows)
{
    struct running run;
    struct result result;
    bool shows = sqlite3_column_count(stmt) > 0;
    int rc;
    running_begin(&run, r);
    if (shows) {
        collections_load(&r->known, r->db);
        result_begin(&result, &r->set.modes, stmt, &r->known);
    }
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && out_fine()) {
        progress_end(&run.progress);
        if (shows)
            result_row(&result);
        *rows = ++run.rows;
    }
    running_end(&run);
    if (shows)
        result_end(&result, rc == SQLITE_DONE);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int statement_run(struct repl *r, sqlite3_stmt *stmt, const char *sql, size_t len,
                         size_t offset, struct place place)
{
    const char *unset = params_bind(&r->params, stmt);
    if (unset)
        return unset_param(unset);
    struct meter meter = meter_now(r->db);
    uint64_t rows = 0;
    bool plan = sqlite3_stmt_isexplain(stmt) == 2 && mode_is_for_people(r->set.modes.mode);
    int rc = plan ? plan_show(stmt) : step_all(r, stmt, &rows);
    int code = rc ? complain(r, sql, len, offset, place) : 0;
    if (r->set.timer)
        meter_say(&meter, r->db, rows);
    return code;
}

int statements_run(struct repl *r, const char *sql, size_t len, struct place place)
{
    size_t at = 0;
    int code = 0;
    while (len && strchr(" \t\r\n", sql[len - 1])) /* SQLite would keep them in its schema */
        len--;
    if (len > INT32_MAX)
        return error_exit("a statement of %zu bytes is too long: at most 2 GiB", len);
    interrupt_forget();
    while (!code && !sql_is_blank(sql + at, len - at) && out_fine()) {
        sqlite3_stmt *stmt = NULL;
        const char *tail = sql + len;
        if (sqlite3_prepare_v2(r->db, sql + at, (int)(len - at), &stmt, &tail) != SQLITE_OK)
            code = complain(r, sql, len, at, place);
        else if (stmt)
            code = statement_run(r, stmt, sql, len, at, place);
        sqlite3_finalize(stmt);
        at = (size_t)(tail - sql);
    }
    if (!code) {
        text_clear(&r->last);
        text_add(&r->last, sql, len);
    }
    int turned = output_turn(r);
    out_flush();
    return code ? code : turned;
}

/* ---- .explain -------------------------------------------------------------------------------- */

int statement_explain(struct repl *r, const char *sql, struct place place)
{
    struct text all = {0};
    sqlite3_stmt *stmt = NULL;
    int code = 0;
    interrupt_forget();
    text_printf(&all, "EXPLAIN QUERY PLAN %s", sql);
    if (sqlite3_prepare_v2(r->db, all.data, -1, &stmt, NULL) != SQLITE_OK || plan_show(stmt))
        code = complain(r, all.data, all.len, 0, place);
    sqlite3_finalize(stmt);
    text_free(&all);
    return code;
}

/* The statement's parameters go along as arguments. */
static int analyze(struct repl *r, const char *sql, sqlite3_stmt *stmt)
{
    struct text call = {0};
    sqlite3_stmt *run = NULL;
    int n = sqlite3_bind_parameter_count(stmt), code = 0;
    text_puts(&call, "SELECT mneme_explain(?1");
    for (int i = 0; i < n; i++)
        text_printf(&call, ",?%d", i + 2);
    text_puts(&call, ")");
    if (sqlite3_prepare_v2(r->db, call.data, -1, &run, NULL) != SQLITE_OK) {
        code = complain(r, call.data, call.len, 0, (struct place){0});
    } else {
        const char *unset = params_bind_into(&r->params, stmt, run, 2);
        sqlite3_bind_text(run, 1, sql, -1, SQLITE_STATIC);
        if (unset)
            code = unset_param(unset);
        else if (sqlite3_step(run) != SQLITE_ROW)
            code = complain(r, sql, strlen(sql), 0, (struct place){0});
        else
            out_data((const char *)sqlite3_column_text(run, 0),
                     (size_t)sqlite3_column_bytes(run, 0));
    }
    sqlite3_finalize(run);
    text_free(&call);
    return code;
}

int statement_analyze(struct repl *r, const char *sql)
{
    sqlite3_stmt *stmt = NULL;
    interrupt_forget();
    if (sqlite3_prepare_v2(r->db, sql, -1, &stmt, NULL) != SQLITE_OK)
        return complain(r, sql, strlen(sql), 0, (struct place){0});
    int code = analyze(r, sql, stmt);
    sqlite3_finalize(stmt);
    return code;
}
