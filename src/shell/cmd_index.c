/* mneme fold, rebuild and compact: work on the index that a program which stays open does by
 * itself.
 *
 * The program's own commands are short: each opens the database without the thread that folds, so
 * that no half-built index is thrown away when it ends. What it changes is pending until `mneme
 * fold`, `mneme import --index` or a process that stays open folds it in; searches are right
 * meanwhile. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/faiss/load.h"
#include "src/shell/indexing.h"
#include "src/shell/print.h"
#include "src/shell/units.h"

struct index_options {
    struct common common;
    int trainer; /* OPTION_CHOICE; not for compact */
};

static const struct option make_options[] = {
    TRAINER_OPTION(offsetof(struct index_options, trainer)),
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

static const struct option no_options[] = {
    {NULL, 0, OPTION_FLAG, 0, NULL, NULL, NULL, 0, 0},
};

uint64_t beside_bytes(const char *database, const char *suffix)
{
    struct text path = {0};
    struct stat st;
    text_printf(&path, "%s%s", database, suffix);
    bool there = stat(path.data, &st) == 0 && st.st_size > 0;
    text_free(&path);
    return there ? (uint64_t)st.st_size : 0;
}

/* ---- fold and rebuild ----------------------------------------------------------------------- */

static void say_none(const mn_collection_info *info)
{
    char least[UNITS_TEXT];
    if (info->dtype == MN_BIT)
        out_printf("'%s' has no index: bits are searched exactly\n", info->name);
    else
        out_printf("'%s' has no index: fewer than %s rows are searched exactly\n", info->name,
                   count_format(least, INDEX_LEAST_ROWS));
}

/* What was done, by the index before and after. */
static void say_made(const struct session *s, const char *collection, const mn_index_info *before,
                     const mn_index_info *after, double seconds)
{
    char rows[UNITS_TEXT], pending[UNITS_TEXT], postings[UNITS_TEXT], memory[UNITS_TEXT],
        sidecar[UNITS_TEXT], time[UNITS_TEXT];
    count_format(rows, after->rows);
    count_format(pending, before->pending);
    duration_format(time, seconds);
    if (after->generation == before->generation && before->exists)
        out_printf("nothing to fold: the index of '%s' holds all %s rows", collection, rows);
    else if (before->exists && before->pending)
        out_printf("folded %s changed row%s into the index of '%s' in %s: %s rows", pending,
                   before->pending == 1 ? "" : "s", collection, time, rows);
    else
        out_printf("indexed %s rows of '%s' in %s", rows, collection, time);
    out_printf(", %s postings, %s in memory, %s-mneme is %s\n",
               count_format(postings, after->postings), size_format(memory, after->memory_bytes),
               s->path, size_format(sidecar, after->sidecar_bytes));
}

/* 0, or the exit code after saying why FAISS cannot be had. */
static int trainer_set(struct session *s, const struct common *common, int trainer)
{
    const struct faiss_plugin *plugin;
    mn_error err = {0};
    if (trainer != TRAINER_FAISS)
        return 0;
    if (faiss_load(&plugin, &err))
        return library_error(&err);
    plugin->set_threads(common->threads ? (uint32_t)common->threads : 1);
    mn_set_trainer(s->conn, plugin->train, NULL);
    return 0;
}

int index_make(struct session *s, const struct common *common, const char *collection, bool anew,
               int trainer)
{
    mn_error err = {0};
    mn_collection_info info;
    mn_index_info before = {0}, after = {0};
    struct progress progress;
    double start = now_seconds();
    int code = session_collection(s, collection, &info);
    if (!code)
        code = trainer_set(s, common, trainer);
    if (code)
        return code;
    progress_begin(&progress, common, "indexing", NULL);
    mn_set_progress(s->conn, progress_library, &progress);
    /* An index that is to be replaced need not be read, nor be readable. */
    mn_status st = anew ? MN_OK : mn_index_stats(s->conn, collection, &before, &err);
    if (st == MN_OK)
        st = anew ? mn_rebuild(s->conn, collection, &err) : mn_fold(s->conn, collection, &err);
    if (st == MN_OK)
        st = mn_index_stats(s->conn, collection, &after, &err);
    progress_end(&progress);
    mn_set_progress(s->conn, NULL, NULL);
    if (st)
        code = library_error(&err);
    else if (!common->quiet && !after.exists)
        say_none(&info);
    else if (!common->quiet)
        say_made(s, collection, &before, &after, now_seconds() - start);
    if (code == EXIT_INTERRUPTED)
        (void)interrupted_exit("interrupted; the index of '%s' is as it was", collection);
    return code;
}

static int run_index(const struct command *self, const void *given, char **args, size_t n)
{
    (void)n;
    const struct index_options *o = given;
    struct session db;
    int code = session_open(&db, &o->common, args[0], MN_OPEN_MUST_EXIST);
    if (!code)
        code = index_make(&db, &o->common, args[1], self == &cmd_rebuild, o->trainer);
    int closed = session_close(&db);
    return code ? code : closed;
}

const struct command cmd_fold = {
    .name = "fold",
    .arguments = "DB COLLECTION",
    .summary = "build a collection's index, or bring it up to date",
    .about = "Builds the index of a collection that has none, else folds the rows changed since\n"
             "into it. Searches are right before, meanwhile and after; an index makes them fast.\n"
             "Collections of fewer than 10,000 rows need none and get none.\n"
             "\n"
             "A program that keeps the database open does this by itself in the background;\n"
             "the commands of this one, which end soon, leave it to `mneme fold` and `mneme\n"
             "import --index`. The index lies in the file DB-mneme, which may be deleted.",
    .examples = "  mneme fold app.db words\n"
                "  mneme fold app.db words --memory 1GiB --quiet\n",
    .options = make_options,
    .size = sizeof(struct index_options),
    .run = run_index,
};

const struct command cmd_rebuild = {
    .name = "rebuild",
    .arguments = "DB COLLECTION",
    .summary = "build a collection's index anew",
    .about = "Builds the index of a collection anew from its rows, as if there were none, and\n"
             "then lets go of the old one. For an index that `mneme verify` complains of, and\n"
             "to choose anew how many bits a code has, which follows from --memory.",
    .examples = "  mneme rebuild app.db words\n"
                "  mneme rebuild app.db words --memory 64MiB\n"
                "  mneme rebuild app.db words --trainer faiss --threads 2\n",
    .options = make_options,
    .size = sizeof(struct index_options),
    .run = run_index,
};

/* ---- compact -------------------------------------------------------------------------------- */

struct sizes {
    uint64_t db, wal, sidecar;
};

static struct sizes sizes_of(const char *path)
{
    return (struct sizes){
        .db = beside_bytes(path, ""),
        .wal = beside_bytes(path, "-wal"),
        .sidecar = beside_bytes(path, "-mneme"),
    };
}

/* "app.db-mneme 20.1 MiB to 12.0 MiB" */
static void say_file(const char *path, const char *suffix, uint64_t before, uint64_t after)
{
    char a[UNITS_TEXT], b[UNITS_TEXT];
    out_printf("%s%s: %s to %s\n", path, suffix, size_format(a, before), size_format(b, after));
}

static int run_compact(const struct command *self, const void *given, char **args, size_t n)
{
    (void)self;
    (void)n;
    const struct index_options *o = given;
    struct session db;
    struct progress progress;
    mn_error err = {0};
    double start = now_seconds();
    struct sizes before = sizes_of(args[0]);
    int code = session_open(&db, &o->common, args[0], MN_OPEN_MUST_EXIST);
    if (!code) {
        progress_begin(&progress, &o->common, "compacting", NULL);
        mn_set_progress(db.conn, progress_library, &progress);
        if (mn_compact(db.conn, &err))
            code = library_error(&err);
        progress_end(&progress);
    }
    int closed = session_close(&db);
    if (code || closed || o->common.quiet)
        return code ? code : closed;
    struct sizes after = sizes_of(args[0]);
    char time[UNITS_TEXT];
    say_file(args[0], "", before.db, after.db);
    if (before.wal)
        say_file(args[0], "-wal", before.wal, after.wal);
    if (before.sidecar)
        say_file(args[0], "-mneme", before.sidecar, after.sidecar);
    out_printf("compacted %s in %s\n", args[0], duration_format(time, now_seconds() - start));
    return 0;
}

const struct command cmd_compact = {
    .name = "compact",
    .arguments = "DB",
    .summary = "give free space of both files back",
    .about = "Writes the database anew without its free pages (SQLite's VACUUM), empties its\n"
             "write-ahead log, and returns free blocks of DB-mneme. Rows, ids and versions stay.\n"
             "Needs room for a copy of DB meanwhile, and fails with \"busy\" while others write\n"
             "or read an old state.",
    .examples = "  mneme compact app.db\n",
    .options = no_options,
    .size = sizeof(struct index_options),
    .run = run_compact,
};
