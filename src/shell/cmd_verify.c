/* mneme verify and mneme backup: looking after a database. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/shell/print.h"
#include "src/shell/shell.h"
#include "src/shell/units.h"

struct verify_options {
    struct common common;
    bool heal;
};

static const struct option no_options[] = {
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

static const struct option verify_options[] = {
    {"heal", 0, OPTION_FLAG, offsetof(struct verify_options, heal), NULL,
     "Mends the damaged parts of indexes, then verifies once more.", NULL, 0, 0},
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

static void on_finding(void *ctx, const char *where, const char *what)
{
    struct text t = {0};
    progress_end(ctx);
    text_visible(&t, where, strlen(where), 0);
    text_puts(&t, ": ");
    text_visible(&t, what, strlen(what), 0);
    out_printf("%s\n", t.data);
    out_flush();
    text_free(&t);
}

static int verify_once(struct session *db, const struct common *common, uint64_t *findings)
{
    struct progress progress;
    mn_error err = {0};
    int code = 0;
    progress_begin(&progress, common, "verifying", "rows");
    mn_set_progress(db->conn, progress_library, &progress);
    if (mn_verify(db->conn, on_finding, &progress, findings, &err))
        code = library_error(&err);
    progress_end(&progress);
    mn_set_progress(db->conn, NULL, NULL);
    return code;
}

/* Folds every collection that has an index: what verify found is mended by that. */
static int heal_all(struct session *db, const struct common *common)
{
    mn_collection_info *all = NULL;
    mn_index_info info;
    mn_error err = {0};
    size_t n = 0;
    uint64_t healed = 0;
    char count[UNITS_TEXT];
    mn_status st = mn_list(db->conn, &all, &n, &err);
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        if (all[i].dtype == MN_BIT)
            continue;
        st = mn_fold(db->conn, all[i].name, &err);
        if (st == MN_OK)
            st = mn_index_stats(db->conn, all[i].name, &info, &err);
        healed = st == MN_OK ? info.healed : healed;
    }
    mn_free_result(all);
    if (st)
        return library_error(&err);
    if (!common->quiet)
        out_printf("%s: %s part%s of indexes healed\n", db->path, count_format(count, healed),
                   healed == 1 ? "" : "s");
    return 0;
}

static int run_verify(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    (void)n;
    const struct verify_options *o = given;
    struct session db;
    uint64_t findings = 0;
    double start = now_seconds();
    char count[UNITS_TEXT], time[UNITS_TEXT];
    int code = session_open(&db, &o->common, args[0],
                            o->heal ? MN_OPEN_MUST_EXIST : MN_OPEN_READONLY);
    if (!code)
        code = verify_once(&db, &o->common, &findings);
    if (!code && findings && o->heal)
        code = heal_all(&db, &o->common);
    if (!code && findings && o->heal)
        code = verify_once(&db, &o->common, &findings);
    int closed = session_close(&db);
    code = code ? code : closed;
    if (code)
        return code;
    if (findings)
        (void)error_exit(
            "%s: %s problem%s; `mneme verify --heal` mends an index, for others restore a backup, "
            "or export what can be read",
            args[0], count_format(count, findings), findings == 1 ? "" : "s");
    else if (!o->common.quiet)
        out_printf("%s: no problem found in %s\n", args[0],
                   duration_format(time, now_seconds() - start));
    return findings ? EXIT_FOUND : 0;
}

const struct command cmd_verify = {
    .name = "verify",
    .arguments = "DB",
    .summary = "read everything and report damage",
    .about = "Reads the whole database in one snapshot: SQLite's own structures, the catalog,\n"
             "triggers, change log, every vector, and the indexes: their checksums, and that each\n"
             "row stands in one or is pending. Prints one line for each problem; exit code 1 if\n"
             "there is one. Writes nothing, unless --heal asks for it: then what is damaged in an\n"
             "index is made again from the rows. A damaged index costs time, never answers.",
    .examples = "  mneme verify app.db\n"
                "  mneme verify app.db --quiet || echo damaged\n"
                "  mneme verify app.db --heal\n",
    .options = verify_options,
    .size = sizeof(struct verify_options),
    .run = run_verify,
};

/* ---- backup --------------------------------------------------------------------------------- */

static int run_backup(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    (void)n;
    const struct verify_options *o = given;
    struct session db;
    struct progress progress;
    mn_error err = {0};
    double start = now_seconds();
    int code = session_open(&db, &o->common, args[0], MN_OPEN_READONLY);
    if (!code) {
        progress_begin(&progress, &o->common, "copying", NULL);
        mn_set_progress(db.conn, progress_library, &progress);
        if (mn_backup(db.conn, args[1], &err))
            code = library_error(&err);
        progress_end(&progress);
        if (code == EXIT_INTERRUPTED)
            (void)interrupted_exit("interrupted; %s was not made", args[1]);
    }
    int closed = session_close(&db);
    struct stat st;
    char size[UNITS_TEXT], time[UNITS_TEXT];
    if (!code && !o->common.quiet && stat(args[1], &st) == 0)
        out_printf("copied %s to %s, %s in %s\n", args[0], args[1],
                   size_format(size, (uint64_t)st.st_size),
                   duration_format(time, now_seconds() - start));
    return code ? code : closed;
}

const struct command cmd_backup = {
    .name = "backup",
    .arguments = "DB FILE",
    .summary = "copy a database while others use it",
    .about = "Copies the database as of now into FILE, which must not be there yet, while others\n"
             "read and write. FILE appears complete and flushed, or not at all. It is a database\n"
             "like the first one.",
    .examples = "  mneme backup app.db app-$(date +%F).db\n",
    .options = no_options,
    .size = sizeof(struct verify_options),
    .run = run_backup,
};
