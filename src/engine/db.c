/*
 * Opening and closing a database.
 *
 * One mn_db per path and process: a registry finds the handle that is open already. (Two, where the
 * application has SQLite handles that only read and others that write.) It keeps one
 * SQLite handle ("keeper") of its own, so that the write-ahead log is not folded up and made anew
 * each time the last connection goes, and so that what is wrong with a file is found at open.
 *
 * Open looks before it writes. The order: the file's kind and permissions, SQLite's header, the
 * catalog's format, its entries. Only a database that passed all of it, is opened for writing and
 * has a catalog is switched to write-ahead logging if somebody had switched it back.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "src/engine/cache.h"
#include "src/engine/engine.h"
#include "src/engine/fold.h"
#include "src/engine/ivf_make.h"
#include "src/engine/memory_db.h"
#include "src/engine/pool.h"
#include "storage/fs_disk.h"
#include "storage/io_disk.h"
#include "storage/sidecar.h"
#include "storage/sql.h"

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static mn_db *registry; /* registry_lock */

static _Atomic unsigned forks; /* counts forks of this process; written in the child only */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* The registry is locked over a fork, so that the child finds it whole and free. */
static void before_fork(void)
{
    pthread_mutex_lock(&registry_lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&registry_lock);
}

static void after_fork_in_child(void)
{
    atomic_fetch_add(&forks, 1);
    pthread_mutex_unlock(&registry_lock);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

bool db_forked(const mn_db *db)
{
    return db->fork_count != atomic_load_explicit(&forks, memory_order_relaxed);
}

uint64_t clock_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

uint64_t clock_thread_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

struct pool *db_pool(mn_db *db)
{
    pthread_mutex_lock(&db->lock);
    if (!db->pool)
        db->pool = pool_create();
    struct pool *p = db->pool;
    pthread_mutex_unlock(&db->lock);
    return p;
}

static void run_on_pool(void *ctx, unsigned n, void (*fn)(void *arg, unsigned worker), void *arg)
{
    pool_run(ctx, n, fn, arg);
}

struct parallel db_parallel(mn_db *db)
{
    struct pool *p = db->opts.threads > 1 ? db_pool(db) : NULL;
    return (struct parallel){.run = p ? run_on_pool : NULL, .ctx = p, .threads = db->opts.threads};
}

void db_log(mn_db *db, mn_log_level level, const char *topic, const char *format, ...)
{
    if (!db->opts.log || level > db->opts.log_level)
        return;
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    db->opts.log(db->opts.log_ctx, level, topic, line);
}

/* ---- Options and paths ----------------------------------------------------------------------- */

static mn_status check_opts(const mn_open_opts *given, mn_open_opts *out, mn_error *err)
{
    *out = given ? *given : (mn_open_opts){0};
    const uint32_t known =
        MN_OPEN_READONLY | MN_OPEN_MUST_EXIST | MN_OPEN_IMMUTABLE | MN_OPEN_NO_BACKGROUND;
    if (out->flags & ~known)
        return mn_fail(err, MN_INVALID, "open: unknown flags 0x%x", out->flags & ~known);
    if ((out->flags & MN_OPEN_IMMUTABLE) && !(out->flags & MN_OPEN_READONLY))
        return mn_fail(err, MN_INVALID, "open: MN_OPEN_IMMUTABLE needs MN_OPEN_READONLY");
    if (out->memory_bytes == 0)
        out->memory_bytes = DEFAULT_MEMORY_BYTES;
    if (out->memory_bytes < MIN_MEMORY_BYTES)
        return mn_fail(err, MN_INVALID, "open: memory of %llu bytes; at least %d are needed",
                       (unsigned long long)out->memory_bytes, MIN_MEMORY_BYTES);
    if (out->busy_timeout_ms == 0)
        out->busy_timeout_ms = DEFAULT_BUSY_MS;
    if (out->threads == 0)
        out->threads = 1;
    if (out->threads > MAX_THREADS)
        return mn_fail(err, MN_INVALID, "open: %u threads; at most %d are allowed", out->threads,
                       MAX_THREADS);
    if (out->durability != MN_DURABLE && out->durability != MN_RELAXED)
        return mn_fail(err, MN_INVALID, "open: %d is no durability", (int)out->durability);
    if (out->log_level == 0)
        out->log_level = MN_LOG_INFO;
    return MN_OK;
}

/* The file's path with its folder resolved, so that two spellings of one file meet in the registry.
 * *out is from malloc. */
static mn_status canonical_path(const char *path, char **out, mn_error *err)
{
    *out = NULL;
    if (!path || !*path)
        return mn_fail(err, MN_INVALID, "open: the path is empty");
    char *whole = realpath(path, NULL);
    if (whole) {
        *out = whole;
        return MN_OK;
    }
    if (errno == ENOMEM)
        return mn_fail(err, MN_NOMEM, "open: out of memory");
    const char *slash = strrchr(path, '/');
    char *folder_name = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    char *folder = folder_name ? realpath(folder_name, NULL) : NULL;
    int os = errno;
    mn_status st = MN_OK;
    if (!folder)
        st = folder_name ? mn_fail_os(err, os == EACCES ? MN_READONLY : MN_NOTFOUND, os,
                                      "%s: cannot reach its folder; make it first", path)
                         : mn_fail(err, MN_NOMEM, "open: out of memory");
    else if (asprintf(out, "%s/%s", strcmp(folder, "/") ? folder : "", slash ? slash + 1 : path) <
             0)
        st = mn_fail(err, MN_NOMEM, "open: out of memory");
    free(folder);
    free(folder_name);
    return st;
}

/* Whether files may be made in the folder of `path`, which is canonical. */
static bool folder_takes_files(const char *path)
{
    char *folder = strndup(path, (size_t)(strrchr(path, '/') - path) + 1);
    bool yes = !folder || access(folder, W_OK | X_OK) == 0; /* no memory: SQLite will find out */
    free(folder);
    return yes;
}

/* What the file system says before SQLite is asked. */
static mn_status check_file(const char *path, uint32_t flags, mn_error *err)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        if (errno != ENOENT)
            return mn_fail_os(err, errno == EACCES ? MN_READONLY : MN_IO, errno, "%s", path);
        if (flags & (MN_OPEN_READONLY | MN_OPEN_MUST_EXIST))
            return mn_fail(err, MN_NOTFOUND, "%s: no such file; check the path", path);
        if (!folder_takes_files(path))
            return mn_fail(err, MN_READONLY,
                           "%s: cannot be made, its folder may not be written; change the folder's "
                           "permissions or name another",
                           path);
        return MN_OK;
    }
    if (S_ISDIR(st.st_mode))
        return mn_fail(err, MN_INVALID, "%s: is a folder; name a file in it", path);
    if (!S_ISREG(st.st_mode))
        return mn_fail(err, MN_INVALID, "%s: is no regular file", path);
    if (access(path, R_OK) != 0)
        return mn_fail_os(err, MN_READONLY, errno, "%s: may not be read", path);
    if (!(flags & MN_OPEN_READONLY) && access(path, W_OK) != 0)
        return mn_fail_os(err, MN_READONLY, errno,
                          "%s: may not be written; open it read-only or change its permissions",
                          path);
    return MN_OK;
}

/* ---- SQLite handles -------------------------------------------------------------------------- */

/* "file:<path with ?, # and % escaped>?immutable=1" */
static char *immutable_uri(const char *path)
{
    sqlite3_str *s = sqlite3_str_new(NULL);
    sqlite3_str_appendall(s, "file:");
    for (const char *p = path; *p; p++) {
        if (*p == '?' || *p == '#' || *p == '%')
            sqlite3_str_appendf(s, "%%%02x", (unsigned)(unsigned char)*p);
        else
            sqlite3_str_appendchar(s, 1, *p);
    }
    sqlite3_str_appendall(s, "?immutable=1");
    return sqlite3_str_finish(s);
}

static mn_status open_handle(const mn_db *db, sqlite3 **out, mn_error *err)
{
    bool readonly = db->opts.flags & MN_OPEN_READONLY;
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE | SQLITE_OPEN_EXRESCODE;
    char *uri = NULL;
    const char *name = db->memory ? "memory" : db->path;
    if (readonly)
        flags |= SQLITE_OPEN_READONLY;
    else
        flags |=
            SQLITE_OPEN_READWRITE | (db->opts.flags & MN_OPEN_MUST_EXIST ? 0 : SQLITE_OPEN_CREATE);
    if (db->opts.flags & MN_OPEN_IMMUTABLE) {
        name = uri = immutable_uri(db->path);
        flags |= SQLITE_OPEN_URI;
        if (!uri)
            return mn_fail(err, MN_NOMEM, "open: out of memory");
    }
    int rc = sqlite3_open_v2(name, out, flags, db->vfs);
    sqlite3_free(uri);
    if (rc == SQLITE_OK)
        return MN_OK;
    const char *file = *out ? sqlite3_db_filename(*out, "main") : NULL;
    mn_status st = *out ? sql_fail(*out, rc, err, "open")
                        : mn_fail(err, MN_NOMEM, "%s: out of memory", db->path);
    if (*out && !(file && *file))
        mn_error_context(err, "%s: ", db->path);
    sqlite3_close(*out);
    *out = NULL;
    return st;
}

static mn_status set_up_handle(const mn_db *db, sqlite3 *sql, size_t page_cache, mn_error *err)
{
    sqlite3_db_config(sql, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    sqlite3_db_config(sql, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
    /* Or closing would move the log into a database that is only to be read. */
    if (db->opts.flags & MN_OPEN_READONLY)
        sqlite3_db_config(sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    /* Debian's build overwrites freed content with zeros by default, which writes pages twice.
     * temp_store: a statement's journal must not need a writable folder for temporary files. */
    return sql_execf(sql, err,
                     "PRAGMA secure_delete = OFF; PRAGMA mmap_size = 0; PRAGMA temp_store = "
                     "MEMORY; PRAGMA synchronous = %s; "
                     "PRAGMA cache_size = -%d; PRAGMA journal_size_limit = %d",
                     db->opts.durability == MN_RELAXED ? "NORMAL" : "FULL",
                     (int)(page_cache / 1024), 4 * WAL_BYTES);
}

mn_status db_limit_wal(sqlite3 *sql, mn_error *err)
{
    int64_t page = 0;
    mn_status st = sql_int(sql, "PRAGMA page_size", 4096, &page, err);
    if (st == MN_OK)
        sqlite3_wal_autocheckpoint(sql, (int)(WAL_BYTES / page));
    return st;
}

/* What an open meets are the short locks of a process that creates, recovers or closes the same
 * database: it waits for them a second at least, also if its writers are not to wait. */
static int open_wait_ms(const mn_db *db)
{
    uint32_t ms = db->opts.busy_timeout_ms;
    return ms == MN_NO_WAIT || ms < 1000 ? 1000 : ms > INT_MAX ? INT_MAX : (int)ms;
}

/* Closing the last handle moves the log into the database and removes it, which is not for us to do
 * to a database that was refused. A log that this handle made is empty and goes. */
static void close_refused(sqlite3 *sql)
{
    sqlite3_file *log = NULL;
    sqlite3_int64 bytes = 0;
    if (sqlite3_file_control(sql, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log) == SQLITE_OK && log &&
        log->pMethods && log->pMethods->xFileSize(log, &bytes) == SQLITE_OK && bytes)
        sqlite3_db_config(sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(sql);
}

mn_status db_open_sqlite(mn_db *db, size_t page_cache, sqlite3 **out, mn_error *err)
{
    mn_status st = open_handle(db, out, err);
    if (st)
        return st;
    sqlite3_busy_timeout(*out, open_wait_ms(db));
    st = set_up_handle(db, *out, page_cache, err);
    if (st) {
        close_refused(*out);
        *out = NULL;
    }
    return st;
}

/* ---- Open ------------------------------------------------------------------------------------ */

static mn_status look_at_entry(void *ctx, const struct catalog_entry *e, mn_error *err)
{
    (void)ctx;
    (void)e;
    (void)err;
    return MN_OK; /* catalog_walk itself checks each entry */
}

static mn_status try_wal(const mn_db *db, sqlite3 *sql, bool *was, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    *was = false;
    mn_status status = sql_prepare(sql, "PRAGMA journal_mode", &st, err);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    *was = row && strcmp((const char *)sqlite3_column_text(st, 0), "wal") == 0;
    sqlite3_finalize(st);
    if (status || *was)
        return status;
    st = NULL;
    row = false;
    status = sql_prepare(sql, "PRAGMA journal_mode = WAL", &st, err);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    const char *mode = row ? (const char *)sqlite3_column_text(st, 0) : "unknown";
    if (status == MN_OK && strcmp(mode, "wal") != 0)
        status = mn_fail(err, MN_IO,
                         "%s: stays in journal mode '%s'; Mneme needs write-ahead logging, which "
                         "needs a local file system with shared memory",
                         db->path, mode);
    sqlite3_finalize(st);
    return status;
}

/* Two processes that make one database at once both want the file for themselves for a moment, and
 * SQLite refuses one of them without asking its busy handler. */
mn_status db_use_wal(mn_db *db, sqlite3 *sql, bool *was, mn_error *err)
{
    uint64_t end_us = clock_us() + (uint64_t)open_wait_ms(db) * 1000;
    mn_error own = {0};
    mn_status st = try_wal(db, sql, was, &own);
    while (st == MN_BUSY && clock_us() < end_us) {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        mn_error_clear(&own);
        st = try_wal(db, sql, was, &own);
    }
    if (st && err && err->code == MN_OK)
        *err = own;
    pthread_mutex_lock(&db->lock);
    db->late_wal = db->late_wal && st != MN_OK;
    pthread_mutex_unlock(&db->lock);
    return st;
}

mn_status db_settle_wal(mn_db *db, mn_error *err)
{
    bool was;
    pthread_mutex_lock(&db->lock);
    bool late = db->late_wal;
    pthread_mutex_unlock(&db->lock);
    return late ? db_use_wal(db, db->keeper, &was, err) : MN_OK;
}

static mn_status look_at_database(mn_db *db, bool reading, mn_error *err)
{
    enum catalog_state state = CATALOG_ABSENT;
    mn_status st = catalog_check(db->keeper, &state, err);
    if (st)
        return st;
    bool readonly = db->opts.flags & MN_OPEN_READONLY;
    if (!readonly && sqlite3_db_readonly(db->keeper, "main") == 1)
        return mn_fail(err, MN_READONLY,
                       "%s: may not be written; open it read-only or change its permissions",
                       db->path);
    if (state == CATALOG_ABSENT)
        return MN_OK;
    bool was_wal = true;
    st = catalog_walk(db->keeper, look_at_entry, NULL, err);
    if (st == MN_OK && !readonly && reading)
        db->late_wal = true;
    else if (st == MN_OK && !readonly)
        st = db_use_wal(db, db->keeper, &was_wal, err);
    if (st == MN_OK && !was_wal)
        db_log(db, MN_LOG_WARN, "open", "%s: was in rollback-journal mode, switched to WAL",
               db->path);
    db->has_catalog = st == MN_OK;
    return st;
}

static void db_free(mn_db *db)
{
    if (!db)
        return;
    if (db->keeper)
        sqlite3_close(db->keeper);
    if (db->memory)
        memory_db_destroy(db->vfs);
    pool_destroy(db->pool);
    if (db->alloc)
        cache_clear(db);
    sidecar_close(db->sidecar);
    io_disk_destroy(db->disk);
    mn_alloc_destroy(db->alloc);
    pthread_mutex_destroy(&db->lock);
    pthread_mutex_destroy(&db->sidecar_lock);
    free(db->path);
    free(db->vfs);
    free(db);
}

static struct index_limits limits_or_default(const struct index_limits *l)
{
    return (struct index_limits){
        .min_rows = l->min_rows ? l->min_rows : IVF_MIN_ROWS,
        .fold_pending = l->fold_pending ? l->fold_pending : FOLD_PENDING,
        .pending_max = l->pending_max ? l->pending_max : PENDING_MAX,
        .graph_from = l->graph_from,
        .cold = l->cold,
        .away = l->away,
    };
}

/* The parts that every handle has; `path` is from malloc and is taken. NULL without memory. */
static mn_db *db_alloc(char *path, const mn_open_opts *opts, const struct index_limits *limits)
{
    mn_db *db = path ? calloc(1, sizeof *db) : NULL;
    if (!db) {
        free(path);
        return NULL;
    }
    pthread_mutex_init(&db->lock, NULL);
    pthread_mutex_init(&db->sidecar_lock, NULL);
    db->path = path;
    db->opts = *opts;
    db->refs = 1;
    db->fork_count = atomic_load(&forks);
    db->kernels = kernels_select(ISA_COUNT);
    db->limits = limits_or_default(limits);
    db->alloc = mn_alloc_create(opts->allocator, opts->memory_bytes);
    if (db->alloc)
        return db;
    db_free(db);
    return NULL;
}

/* A new handle, in no registry yet. Takes `path` (from malloc), also on failure. */
static mn_status db_create(char *path, const mn_open_opts *opts, const struct db_stage *stage,
                           mn_db **out, mn_error *err)
{
    const char *vfs = stage->vfs;
    mn_status st = MN_OK;
    mn_db *db = db_alloc(path, opts, &stage->limits);
    if (!db)
        return mn_fail(err, MN_NOMEM, "open: out of memory");
    db->memory = strcmp(path, ":memory:") == 0;
    if (db->memory)
        st = memory_db_create(&db->vfs, err);
    else if (st == MN_OK && vfs && !(db->vfs = strdup(vfs)))
        st = mn_fail(err, MN_NOMEM, "%s: out of memory", path);
    if (st == MN_OK && !db->vfs)
        st = check_file(path, opts->flags, err);
    if (st == MN_OK && (stage->fs || !db->vfs)) {
        struct io_disk_opts disk = {.backend = stage->fs ? IO_SYNC : IO_AUTO};
        db->fs = stage->fs ? stage->fs : fs_disk();
        st = io_disk_create(db->alloc, &disk, &db->disk, err);
    }
    if (st == MN_OK)
        st = db_open_sqlite(db, FURTHER_PAGE_CACHE, &db->keeper, err);
    if (st == MN_OK)
        st = look_at_database(db, stage->reading, err);
    const uint32_t kind = opts->flags & (MN_OPEN_READONLY | MN_OPEN_IMMUTABLE);
    if (st == MN_READONLY && kind == MN_OPEN_READONLY && !db->vfs && access(path, R_OK) == 0 &&
        !folder_takes_files(path)) {
        mn_error_clear(err);
        mn_fail(err, MN_READONLY,
                "%s: its folder may not be written, so the index of its log cannot be kept there; "
                "if nobody writes the database, open it with MN_OPEN_IMMUTABLE",
                path);
    }
    if (st) {
        if (db->keeper)
            close_refused(db->keeper);
        db->keeper = NULL;
        db_free(db);
        return st;
    }
    *out = db;
    return MN_OK;
}

static mn_status same_opts(const mn_db *db, const mn_open_opts *o, mn_error *err)
{
    const char *differs = NULL;
    const mn_open_opts *have = &db->opts;
    if ((o->flags & ~MN_OPEN_MUST_EXIST) != (have->flags & ~MN_OPEN_MUST_EXIST))
        differs = "flags";
    else if (o->memory_bytes != have->memory_bytes)
        differs = "memory";
    else if (o->busy_timeout_ms != have->busy_timeout_ms)
        differs = "busy timeout";
    else if (o->threads != have->threads)
        differs = "threads";
    else if (o->durability != have->durability)
        differs = "durability";
    if (!differs)
        return MN_OK;
    return mn_fail(err, MN_MISUSE,
                   "%s: is open in this process with another %s; open it the same way, or pass no "
                   "options",
                   db->path, differs);
}

enum { READS_ONLY = MN_OPEN_READONLY | MN_OPEN_IMMUTABLE };

/* The open handle on the path, NULL if there is none; `alike`: only one that is for reading alone
 * just as `flags` say. registry_lock is held.
 *
 * A handle of the parent's makes the file unusable in the child: SQLite keeps its locks in one
 * table a process, the child inherits it, believes what stands there and takes no lock of its own.
 * Then the parent, closing, is alone as far as it can see and removes the log that the child still
 * writes: what the child acknowledged from then on would be lost. */
static mn_status registry_find(const char *path, const char *vfs, bool alike, uint32_t flags,
                               mn_db **out, mn_error *err)
{
    *out = NULL;
    for (mn_db *db = registry; db; db = db->next) {
        bool same_vfs = vfs ? db->vfs && strcmp(db->vfs, vfs) == 0 : !db->vfs;
        if (!same_vfs || strcmp(db->path, path) != 0)
            continue;
        if (db_forked(db))
            return mn_fail(err, MN_FORKED,
                           "%s: was open when this process was forked, so it cannot be opened "
                           "here; open it after forking, or in a program started with exec",
                           path);
        if (!alike || ((db->opts.flags ^ flags) & READS_ONLY) == 0)
            *out = db;
    }
    return MN_OK;
}

mn_status db_open_on(const char *path, const mn_open_opts *opts, const struct db_stage *stage,
                     mn_db **out, mn_error *err)
{
    const char *vfs = stage->vfs;
    mn_open_opts o;
    char *canonical = NULL;
    mn_error_clear(err);
    if (!out)
        return mn_fail(err, MN_MISUSE, "open: no place for the handle");
    *out = NULL;
    pthread_once(&fork_once, watch_forks);
    bool memory = path && strcmp(path, ":memory:") == 0;
    mn_status st = check_opts(opts, &o, err);
    if (st == MN_OK && (memory || vfs)) {
        canonical = path ? strdup(path) : NULL;
        if (!canonical)
            st = mn_fail(err, MN_NOMEM, "open: out of memory");
    } else if (st == MN_OK) {
        st = canonical_path(path, &canonical, err);
    }
    if (st)
        return st;
    pthread_mutex_lock(&registry_lock);
    mn_db *db = NULL;
    if (!memory)
        st = registry_find(canonical, vfs, stage->beside, stage->flags, &db, err);
    if (st) {
        free(canonical);
    } else if (db) {
        st = opts ? same_opts(db, &o, err) : MN_OK;
        if (st == MN_OK) {
            db->refs++;
            *out = db;
        }
        free(canonical);
    } else {
        st = db_create(canonical, &o, stage, &db, err);
        if (st == MN_OK) {
            db->next = registry;
            registry = db;
            *out = db;
        }
    }
    pthread_mutex_unlock(&registry_lock);
    return st;
}

mn_status db_open_vfs(const char *path, const mn_open_opts *opts, const char *vfs, mn_db **out,
                      mn_error *err)
{
    return db_open_on(path, opts, &(struct db_stage){.vfs = vfs}, out, err);
}

/* One that is open already in this process is taken as it is; but connections that only read must
 * not keep others from writing, so those have another one. */
static mn_status open_beside(sqlite3 *sql, const char *path, const mn_open_opts *given, mn_db **out,
                             mn_error *err)
{
    const char *file = sqlite3_db_filename(sql, "main");
    sqlite3_vfs *vfs = NULL, *usual = sqlite3_vfs_find(NULL);
    mn_open_opts opts = given ? *given : (mn_open_opts){0};
    opts.flags |= MN_OPEN_MUST_EXIST;
    if (sqlite3_uri_boolean(file, "immutable", 0))
        opts.flags |= MN_OPEN_READONLY | MN_OPEN_IMMUTABLE;
    else if (sqlite3_db_readonly(sql, "main") == 1)
        opts.flags |= MN_OPEN_READONLY;
    sqlite3_file_control(sql, "main", SQLITE_FCNTL_VFS_POINTER, &vfs);
    struct db_stage stage = {.vfs = vfs && vfs != usual ? vfs->zName : NULL,
                             .reading = sqlite3_txn_state(sql, "main") != SQLITE_TXN_NONE,
                             .beside = true,
                             .flags = opts.flags};
    mn_status st = db_open_on(path, &opts, &stage, out, err);
    if (st != MN_MISUSE || given)
        return st;
    mn_error_clear(err);
    return db_open_on(path, NULL, &stage, out, err);
}

mn_status db_open_hosted(sqlite3 *sql, const mn_open_opts *given, mn_db **out, mn_error *err)
{
    const char *path = sqlite3_db_filename(sql, "main");
    mn_open_opts opts;
    if (path && *path)
        return open_beside(sql, path, given, out, err);
    pthread_once(&fork_once, watch_forks);
    mn_status st = check_opts(given, &opts, err);
    *out = st == MN_OK ? db_alloc(strdup(":memory:"), &opts, &(struct index_limits){0}) : NULL;
    return st == MN_OK && !*out ? mn_fail(err, MN_NOMEM, "open: out of memory") : st;
}

mn_status mn_open(const char *path, const mn_open_opts *opts, mn_db **out, mn_error *err)
{
    return db_open_vfs(path, opts, NULL, out, err);
}

/* ---- Close ----------------------------------------------------------------------------------- */

static void registry_remove(const mn_db *db)
{
    mn_db **p = &registry;
    while (*p && *p != db)
        p = &(*p)->next;
    if (*p)
        *p = db->next;
}

mn_status mn_close(mn_db *db, mn_error *err)
{
    mn_error_clear(err);
    if (!db)
        return MN_OK;
    if (db_forked(db))
        return mn_fail(err, MN_FORKED,
                       "%s: was opened before the fork; the child may only call mn_abandon",
                       db->path);
    pthread_mutex_lock(&registry_lock);
    pthread_mutex_lock(&db->lock);
    unsigned conns = db->conns;
    pthread_mutex_unlock(&db->lock);
    mn_status st = MN_OK;
    bool last = db->refs == 1;
    if (last && conns)
        st = mn_fail(err, MN_MISUSE, "%s: %u connections are open; disconnect them first", db->path,
                     conns);
    else if (--db->refs == 0)
        registry_remove(db);
    /* Closed under the lock: an open of the same path that comes now must find the file free. */
    if (st == MN_OK && last) {
        folder_destroy(db);
        db_free(db);
    }
    pthread_mutex_unlock(&registry_lock);
    return st;
}

void mn_abandon(mn_db *db)
{
    if (!db || !db_forked(db))
        return;
    /* Locks may be held by threads that do not exist here, and SQLite's handles must not be closed
     * by a child: only plain memory is given back. */
    cache_clear(db);
}

const char *mn_path(const mn_db *db)
{
    return db ? db->path : NULL;
}
