/* The engine's own view of its handles. Included by src/engine only, and by the tests that look
 * inside. Who calls whom: README.md in this folder. */
#ifndef MN_ENGINE_ENGINE_H
#define MN_ENGINE_ENGINE_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

#include "index/kernels/kernels.h"
#include "index/parallel.h"
#include "mneme.h"
#include "storage/base/alloc.h"
#include "storage/base/error.h"
#include "storage/catalog.h"
#include "storage/changelog.h"

struct pool;
struct view;
struct cached;
struct folder;
struct io_disk;
struct asker;
struct mn_fs;
struct sidecar;

enum {
    MIN_MEMORY_BYTES = 4 << 20,
    DEFAULT_MEMORY_BYTES = 256 << 20,
    DEFAULT_BUSY_MS = 5000,
    MAX_THREADS = 256,
    WAL_BYTES = 16 << 20,        /* the write-ahead log is moved into the database beyond this */
    FIRST_PAGE_CACHE = 8 << 20,  /* SQLite's page cache of a database's first connection, bytes */
    FURTHER_PAGE_CACHE = 1 << 20 /* and of each further one */
};

#define DEFAULT_RECALL 0.95

/* Counters of mn_stats_info; relaxed, statistics only. */
struct counters {
    _Atomic uint64_t searches, loads, catchups, evictions, streamed, lost, healed;
};

/* When an index is made and folded, in rows; 0: as ever. Tests lower them. */
struct index_limits {
    uint32_t min_rows;     /* collections with fewer are searched exactly: cheaper than an index */
    uint32_t fold_pending; /* changed rows from which on a fold is due */
    uint32_t pending_max;  /* changes not folded from which on writers help to fold */
    uint32_t graph_from;   /* centroids from which on there is a graph over them; 0: centroids.h */
    bool cold;             /* as if memory held no vectors and, in a build, few codes */
    bool away;             /* as if memory held no codes */
};

struct mn_db {
    pthread_mutex_t lock;          /* guards what says "lock" */
    char *path;                    /* set in open; canonical, or ":memory:" */
    char *vfs;                     /* set in open; NULL: SQLite's default */
    bool memory;                   /* set in open: lives in this process's memory */
    mn_open_opts opts;             /* set in open; zeros replaced by defaults */
    unsigned fork_count;           /* set in open; see db_forked() */
    struct mn_alloc *alloc;        /* set in open */
    const struct kernels *kernels; /* set in open */
    sqlite3 *keeper;               /* lock; keeps the database open between connections */
    unsigned refs;                 /* registry lock; mn_open minus mn_close */
    unsigned conns;                /* lock; the caller's */
    bool has_catalog;              /* lock; never goes back to false */
    bool late_wal;                 /* lock; a statement was in the way when it was opened: still in
                                      a rollback journal, until a connection of its own is made */
    struct cached *cached;         /* lock; vectors held in memory, one entry a collection */
    uint64_t uses;                 /* lock; counts uses of cached vectors, for eviction */
    struct pool *pool;             /* lock; made by the first call with threads */
    struct mn_fs *fs;              /* set in open; for the sidecar; NULL: none, in memory */
    struct io_disk *disk;          /* set in open; NULL with fs */
    pthread_mutex_t sidecar_lock;  /* guards the next three */
    struct sidecar *sidecar;       /* sidecar_lock; its users hold references of their own */
    uint64_t sidecar_file;         /* sidecar_lock; which one was opened, or tried in vain */
    uint64_t sidecar_generation;   /* sidecar_lock; of the catalog then: older ones do not count */
    struct index_limits limits;    /* set in open */
    bool paused;                   /* lock; mn_pause */
    struct folder *folder;         /* lock; made when there is something to fold; see fold.c */
    struct counters count;
    mn_db *next;                   /* registry lock */
};

/* TXN_HOST: the call runs inside a statement of the application on a hosted connection, in whatever
 * transaction that has; see host.c. */
enum txn { TXN_NONE, TXN_READ, TXN_WRITE, TXN_HOST };
enum txn_stmt { TXN_BEGIN_READ, TXN_BEGIN_WRITE, TXN_COMMIT, TXN_ROLLBACK, TXN_GIVE_UP, TXN_STMTS };

/* Statements over one collection, prepared at first use. */
enum coll_stmt_kind {
    STMT_FIND_TEXT,  /* ?1 text_id -> id, version */
    STMT_FIND_ID,    /* ?1 id -> id, version */
    STMT_INSERT,
    STMT_INSERT_MANY, /* from the table mneme_put; see batch.h */
    STMT_UPDATE,
    STMT_UPDATE_KEEP, /* what is not given stays */
    STMT_DELETE,     /* ?1 id */
    STMT_GET,        /* ?1 id -> whole row */
    STMT_GET_META,   /* ?1 id -> row without its vector */
    STMT_GET_VECTOR, /* ?1 id -> vector */
    STMT_GET_RANGE,  /* ?1 first, ?2 last id -> id, vector of those that have one, in order */
    STMT_SCAN,       /* -> id, vector by ascending id, rows that have one */
    STMT_STREAM,     /* the same into memory; see stream.c */
    STMT_MAX_ID,
    STMT_MAX_USED,   /* the same, of rows that are gone too where AUTOINCREMENT remembers them */
    STMT_LOG_HEAD,
    STMT_LOG_AT,
    STMT_LOG_SINCE,
    STMT_LOG_NEXT,
    STMT_LOG_FIRST,
    STMT_LOG_TRIM,
    STMT_INDEX,      /* -> generation, seq, stamp of the index's last publish */
    STMT_COUNT
};

/* A collection as one connection sees it; valid while the schema's version stays. */
struct coll {
    struct coll *next;
    struct catalog_entry entry;
    size_t vector_bytes;
    char *attr_block;   /* sqlite3_free; the names behind each other */
    const char **attrs; /* [n_attrs] into attr_block */
    size_t n_attrs;
    void *json;         /* a vector read from JSON, [vector_bytes]; NULL unless entry.foreign */
    float *json_wide;   /* [dim], for that */
    char computed[MN_MAX_NAME + 1]; /* a column that cannot be put; "": there is none */
    bool indexable;     /* the database has the table mneme_indexes */
    int64_t log_told;   /* head of the change log when the folder was last told to look at it */
    bool watched;       /* the change log can be believed: vectors may be held in memory */
    sqlite3_stmt *stmts[STMT_COUNT];
};

struct mn_conn {
    mn_db *db;                /* set in connect */
    sqlite3 *sql;             /* set in connect */
    size_t page_cache;        /* of sql, bytes; set in connect */
    bool counted;             /* set in connect; among db->conns: the folder's own is not */
    bool hosted;              /* set in connect; sql is the application's own, see host.c */
    bool inside;              /* hosted: the running call serves one of its statements */
    sqlite3_stmt *poll;       /* hosted: "SELECT 1"; fails once the application interrupts */
    uint64_t polled_us;       /* hosted: when that was last asked */
    _Atomic bool in_call;     /* exchanged at each entry: two threads, or a callback's re-entry */
    _Atomic bool interrupted; /* set by mn_interrupt, cleared at each entry */
    enum txn txn;             /* what the caller began */
    enum txn scope;           /* what the running call began: see scope_read, scope_write */
    bool savepoint;           /* the running call set a savepoint in the caller's transaction */
    bool schema_dirty;        /* this transaction changed the schema */
    mn_iter *iters;           /* open iterators */
    uint64_t deadline_us;     /* of the running call, on the monotonic clock; 0: none */
    uint64_t busy_since_us;   /* when the running call first met a lock; 0: not yet */
    const char *stage;        /* of the running call, for progress */
    uint64_t done, total;
    mn_progress_fn progress;
    void *progress_ctx;
    mn_train_fn train;        /* NULL: our own clustering; see mn_set_trainer */
    void *train_ctx;
    struct coll *colls;       /* loaded collections, all of one schema version */
    int64_t schema;           /* that version; -1: none looked at */
    bool trusted;             /* that version is one that Mneme left: change logs are believed */
    bool schema_lags;         /* or the steps from it are explained, and a write should say so */
    bool no_wait;             /* the busy handler gives up at once */
    char must_help[MN_MAX_NAME + 1]; /* too many of this collection's changes are pending: the
                                        writer folds it before it returns; "": none */
    sqlite3_stmt *schema_now; /* PRAGMA schema_version */
    /* Set in connect: parsing them anew would cost each search and put microseconds, and ROLLBACK
     * must need no memory. */
    sqlite3_stmt *txn_stmts[TXN_STMTS];
    bool must_undo;           /* SQLite's transaction could not be rolled back yet */
    struct asker *askers;     /* [n_askers] memory for searches by the index; see asker.h */
    uint32_t n_askers;
    void *room;               /* memory of a search's selection; see selection.c */
    size_t room_bytes;
    struct batch *batch;      /* rows of the running put; see batch.h */
    struct stream *stream;    /* of the running step; see stream.c */
    struct view *own_view;    /* vectors with this transaction's own writes; see cache.c */
};

/* ---- db.c ------------------------------------------------------------------------------------ */

/* mn_open on a SQLite VFS by name (NULL: default). For tests, and for ":memory:". */
mn_status db_open_vfs(const char *path, const mn_open_opts *opts, const char *vfs, mn_db **out,
                      mn_error *err);
/* The same on more of a stage: a file system for the sidecar (NULL: the disk's without a VFS, else
 * none, and so no index), and limits at which small collections have an index. The file system must
 * outlive the database. A database that is open already stays as it is. */
struct db_stage {
    const char *vfs;
    struct mn_fs *fs;
    struct index_limits limits;
    bool reading;   /* a handle of the caller's has a snapshot: no place to switch to WAL */
    bool beside;    /* an open handle is taken only if it is for reading alone where these are */
    uint32_t flags; /* with beside */
};
mn_status db_open_on(const char *path, const mn_open_opts *opts, const struct db_stage *stage,
                     mn_db **out, mn_error *err);
bool db_forked(const mn_db *db);
__attribute__((format(printf, 4, 5))) void db_log(mn_db *db, mn_log_level level, const char *topic,
                                                  const char *format, ...);
/* A SQLite handle on the database with the connection settings; page_cache in bytes. */
mn_status db_open_sqlite(mn_db *db, size_t page_cache, sqlite3 **out, mn_error *err);
/* Switches the database to write-ahead logging if it is not, outside a transaction; *was takes
 * whether it was. */
mn_status db_use_wal(mn_db *db, sqlite3 *sql, bool *was, mn_error *err);
mn_status db_settle_wal(mn_db *db, mn_error *err); /* the same, if that was put off: late_wal */
/* Sets after how much write-ahead log a commit also checkpoints; depends on the page size. */
mn_status db_limit_wal(sqlite3 *sql, mn_error *err);
struct pool *db_pool(mn_db *db); /* made when first wanted; NULL when memory runs out */
struct parallel db_parallel(mn_db *db); /* the pool for index/, as many threads as the database's */
/* A database for connections on `sql`, whose file it shares; for mn_close. One without a file is
 * private to the handle and has no index. opts NULL: the defaults, or as it is open already. */
mn_status db_open_hosted(sqlite3 *sql, const mn_open_opts *opts, mn_db **out, mn_error *err);
uint64_t clock_us(void);         /* monotonic */
uint64_t clock_thread_us(void);  /* CPU time of the calling thread */

/* ---- conn.c ---------------------------------------------------------------------------------- */

/* mn_connect; `counted`: close waits for it to be disconnected. */
mn_status conn_open(mn_db *db, bool counted, mn_conn **out, mn_error *err);

/* A connection on a handle that is the application's; mn_disconnect leaves it open. */
mn_status conn_open_hosted(mn_db *db, sqlite3 *sql, mn_conn **out, mn_error *err);

/* Every public function that takes a connection begins with conn_enter and, if that succeeded,
 * ends with conn_leave, which hands its status through. */
mn_status conn_enter(mn_conn *conn, mn_error *err);
mn_status conn_leave(mn_conn *conn, mn_status st, mn_error *err);

/* Finalizes the statements that the connection keeps; it prepares them again when it needs them. */
void conn_rest(mn_conn *conn);

/* Sleeps until what another connection holds may be tried again, a little longer each time, at most
 * 20 ms. False: the call has waited as long as it may, or must end. */
bool conn_wait(mn_conn *conn, int tries);

/* To be called in long loops: deadline, interrupt, progress. */
mn_status conn_tick(mn_conn *conn, mn_error *err);
/* The same without progress, for threads that help in a call. */
mn_status conn_tick_aside(const mn_conn *conn, mn_error *err);

/* ---- txn.c ----------------------------------------------------------------------------------- */

mn_status txn_prepare(mn_conn *conn, mn_error *err); /* conn->txn_stmts */
void txn_finalize(mn_conn *conn);

/* A call's own transaction: begun unless the caller has one. scope_end commits or rolls back what
 * scope_read or scope_write began; inside the caller's write transaction scope_write is a
 * savepoint, so that a failed call leaves no trace. */
mn_status scope_read(mn_conn *conn, mn_error *err);
mn_status scope_write(mn_conn *conn, mn_error *err);
mn_status scope_end(mn_conn *conn, mn_status st, mn_error *err);
bool conn_may_be_dirty(const mn_conn *conn); /* may see uncommitted writes of its own */

/* ---- collection.c ---------------------------------------------------------------------------- */

/* The collection in the snapshot of the open scope; borrowed until the scope ends. */
mn_status coll_get(mn_conn *conn, const char *name, struct coll **out, mn_error *err);
mn_status coll_stmt(mn_conn *conn, struct coll *c, enum coll_stmt_kind which, sqlite3_stmt **out,
                    mn_error *err);
void colls_forget(mn_conn *conn);
/* After a read that met a foreign change of the schema: restarts the change logs, unless somebody
 * else is writing. Outside a scope. */
void conn_mend_schema(mn_conn *conn);
/* The same, waiting for who is writing, for a call over that collection which could do nothing
 * without its change log. */
mn_status conn_trust_schema(mn_conn *conn, const char *name, mn_error *err);
/* Gives the collection another name, as ALTER TABLE does to the virtual table over it. */
mn_status coll_rename(mn_conn *conn, const char *name, const char *to, mn_error *err);
/* The same for the table under the collection `name`. */
mn_status coll_rename_table(mn_conn *conn, const char *name, const char *to, mn_error *err);
/* Calls `change` for a change of the schema beside the collections' own, as a transaction like that
 * of mn_create; the change logs know that it was Mneme's. */
mn_status coll_change_schema(mn_conn *conn, mn_status (*change)(sqlite3 *, void *, mn_error *),
                             void *ctx, mn_error *err);
/* Position of an attribute, or MN_NOTFOUND that names it. */
mn_status coll_attr(const struct coll *c, const char *name, size_t *out, mn_error *err);
/* Head of the collection's change log in the snapshot of the open scope. */
mn_status coll_head(mn_conn *conn, struct coll *c, struct log_position *out, mn_error *err);
/* Whether the log of this snapshot leads on from `at`: the entry is there, with that stamp. */
mn_status coll_log_follows(mn_conn *conn, struct coll *c, struct log_position at, bool *yes,
                           mn_error *err);
/* Ids changed since `seq`, ascending; `caller` begins the message of an error. *ids is for
 * mn_free, NULL after an error. */
mn_status coll_log_since(mn_conn *conn, struct coll *c, const char *caller, int64_t seq,
                         int64_t **ids, size_t *n, mn_error *err);

/* put.c. In a write scope: deletes entries that no index needs and nobody is likely to follow
 * from, as far as one call does. Whoever writes through the engine does it as he goes; for what
 * others write, the folder does. */
mn_status coll_trim_log(mn_conn *conn, struct coll *c, mn_error *err);
mn_status coll_log_is_long(mn_conn *conn, struct coll *c, bool *yes, mn_error *err);

/* ---- row.c ----------------------------------------------------------------------------------- */

/* SELECT list of a row: id, text_id, version, attributes, payload[, vector]. For sqlite3_free;
 * NULL when out of memory. */
char *row_columns(const struct coll *c, bool with_vector);
/* Reads the row that `st` over row_columns() stands on. Pointers are SQLite's, valid until the
 * statement moves. attrs: [c->n_attrs]. */
mn_status row_read(const mn_db *db, const struct coll *c, sqlite3_stmt *st, bool with_vector,
                   mn_row *row, mn_attr *attrs, mn_error *err);
/* What stands in a column, borrowed until the statement moves. */
mn_value row_value(sqlite3_stmt *st, int column);
/* Checks a text id of the caller; `what` says where it stands: "row 3". */
mn_status text_id_check(const char *text_id, const char *what, mn_error *err);
/* int64 id of a row named by the caller; *found false if there is none. */
mn_status row_resolve(mn_conn *conn, struct coll *c, const mn_id *id, size_t position, int64_t *out,
                      bool *found, int64_t *version, mn_error *err);

/* The vector of one row. */
struct row_vector {
    const void *bytes; /* of the collection's dtype, borrowed from SQLite or, where it was JSON,
                          from the collection until its next vector is read; NULL: none */
    bool bad;          /* there is a value, which is no vector of the collection */
    bool nomem;        /* SQLite could not hand it out; the statement's next step fails */
    sqlite3_stmt *st;  /* what it is borrowed from */
};
/* Whether rows of the collection may hold JSON, and memory for reading it; coll_json_fini() gives
 * that back. */
mn_status coll_json_init(mn_db *db, struct coll *c, mn_error *err);
void coll_json_fini(mn_db *db, struct coll *c);
/* A text as a vector of the collection; NULL: it is none. */
const void *row_vector_json(const mn_db *db, const struct coll *c, const void *text, size_t n);
/* What stands in a column of `st`: valid until the statement moves. */
void row_vector_at(const mn_db *db, const struct coll *c, sqlite3_stmt *st, int column,
                   struct row_vector *out);
/* That of a row in the open scope, none if there is no such row; for row_vector_end unless it
 * fails. */
mn_status row_vector_get(mn_conn *conn, struct coll *c, int64_t id, struct row_vector *out,
                         mn_error *err);
void row_vector_end(struct row_vector *v);

/* ---- convert.c ------------------------------------------------------------------------------- */

/* Rounds an f32 vector to the dtype. `what` names it in a message. */
mn_status convert_f32(const struct kernels *kn, mn_dtype dtype, uint32_t dim, const float *from,
                      void *to, const char *what, mn_error *err);

/* Results that the caller frees with mn_free_result: the block remembers its allocator. */
void *result_alloc(struct mn_alloc *a, size_t n, size_t each);

#endif
