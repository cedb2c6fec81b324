/*
 * Mneme: a vector database in a SQLite file.
 *
 *     mn_db *db;
 *     mn_conn *conn;
 *     mn_error err;
 *     if (mn_open("app.db", NULL, &db, &err) || mn_connect(db, &conn, &err)) {
 *         fprintf(stderr, "%s\n", err.message);
 *         return 1;
 *     }
 *     mn_collection_opts opts = { .dim = 3, .metric = MN_COSINE };
 *     mn_create(conn, "colours", &opts, &err);
 *     const float red[] = { 1, 0, 0 }, pink[] = { 1, 0.6f, 0.7f };
 *     const mn_row rows[] = { { .id = 1, .vector = red }, { .id = 2, .vector = pink } };
 *     mn_put(conn, "colours", rows, 2, NULL, &err);
 *     mn_hit hits[2];
 *     uint32_t found;
 *     mn_search(conn, "colours", red, 1, 2, NULL, hits, &found, &err);
 *     for (uint32_t i = 0; i < found; i++)
 *         printf("%lld at %g\n", (long long)hits[i].id, hits[i].distance);
 *     mn_disconnect(conn);
 *     mn_close(db, NULL);
 *
 * Defaults (a zero in an options struct chooses them; `mneme info --defaults` prints them)
 *
 *     metric             l2          distance: the root of the sum of squared differences
 *     dtype              f32         element type of a collection's vectors
 *     ids                integer     int64, given or assigned ascending
 *     durability         full        an acknowledged commit survives power loss
 *     memory             256MiB      cap over all that grows with data, in one process
 *     busy timeout       5000ms      how long a writer waits for another writer
 *     threads            1           threads that one search or build may use
 *     deadline           none        per search
 *     recall             0.95        of a search by the index; small collections are exact
 *     max hits           1000000     of a radius search; more is an error
 *     log                off         no hook; nothing is printed, ever
 *
 * Threads. An mn_db may be used from any thread. An mn_conn is one thread's at a time: it is where
 * a transaction lives. Only mn_interrupt may be called on a connection from another thread. The
 * library starts threads for a search that asks for more than one, one that folds changes into
 * indexes, unless MN_OPEN_NO_BACKGROUND or MN_OPEN_READONLY is set, and with mn_open_opts.threads
 * helpers for building an index; mn_close joins them.
 *
 * Snapshots. Every answer belongs to one committed state of the database, plus what the
 * connection's own open transaction has written. Readers never wait for writers.
 *
 * Caveats
 *   fork           a child may not use handles opened before the fork, nor open their files anew:
 *                  each call answers MN_FORKED. mn_abandon() is the one call that it may make. Open
 *                  after forking, or in a program started with exec
 *   opening twice  one path opened twice in a process is one mn_db: the second mn_open takes the
 *                  first one's handle. Never open(2) and close(2) the database file yourself in a
 *                  process that uses it: POSIX would drop SQLite's locks
 *   long readers   an open transaction or iterator keeps the write-ahead log from being reused:
 *                  the file app.db-wal grows until it ends
 *   networks       the database must lie on a local filesystem: write-ahead logging needs shared
 *                  memory between its processes
 *
 * Errors. Functions that can fail return an mn_status; 0 is success. The mn_error, which may be
 * NULL, takes a sentence that names the thing, what was found, and the remedy if there is one.
 */
#ifndef MNEME_H
#define MNEME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MN_API __attribute__((visibility("default")))
#define MN_CHECKED __attribute__((warn_unused_result))
#else
#define MN_API
#define MN_CHECKED
#endif

#define MN_VERSION_MAJOR 0
#define MN_VERSION_MINOR 1
#define MN_VERSION_PATCH 0

/* ---- Limits ---------------------------------------------------------------------------------- */

#define MN_MAX_DIM 16384u        /* elements of a vector */
#define MN_MAX_K 10000u          /* hits of one query */
#define MN_MAX_QUERIES 65536u    /* queries of one call */
#define MN_MAX_TEXT_ID 255u      /* bytes of a text id, without its NUL */
#define MN_MAX_NAME 127u         /* bytes of a collection's or attribute's name */
#define MN_MAX_ATTRIBUTES 200u   /* attributes of a table */
#define MN_AUTO_ID INT64_MIN     /* in mn_row.id: assign the next ascending id */

/* ---- Errors ---------------------------------------------------------------------------------- */

/* What the caller can do about it. mn_status_name() gives the word. */
typedef enum mn_status {
    MN_OK = 0,
    MN_BUSY,        /* another writer holds the database: try again */
    MN_INVALID,     /* the call's data is wrong: mend it */
    MN_NOTFOUND,    /* no such collection, row, attribute, savepoint or file */
    MN_EXISTS,      /* it is there already */
    MN_CONFLICT,    /* a condition of the write did not hold: read again, then decide */
    MN_FULL,        /* the disk, or a limit of this library, is full: make room */
    MN_NOMEM,       /* memory ran out, or the memory cap was reached: raise it or ask for less */
    MN_IO,          /* the operating system failed a read or write */
    MN_CORRUPT,     /* the database is damaged: run verify, restore a backup */
    MN_NOTADB,      /* the file is no database: check the path */
    MN_NEWER,       /* written by a newer version: upgrade */
    MN_READONLY,    /* opened read-only, or the file or its folder may not be written */
    MN_INTERRUPTED, /* mn_interrupt() was called, or a progress callback said stop */
    MN_DEADLINE,    /* the search's deadline passed */
    MN_FORKED,      /* the handle belongs to the parent process: open after forking, or exec */
    MN_POISONED,    /* a flush of the sidecar failed: nothing of the fold counts; fold again */
    MN_MISUSE       /* the calls are in the wrong order: see the function's comment */
} mn_status;

typedef struct mn_error {
    mn_status code;
    int os_error;      /* errno, or 0 */
    int sqlite_error;  /* SQLite's extended result code, or 0 */
    char message[480]; /* a sentence, always terminated */
} mn_error;

/* "busy", "invalid", ...; "unknown" for a number that is no status. */
MN_API const char *mn_status_name(mn_status status);

/* "0.1.0" */
MN_API const char *mn_version(void);

/* ---- Hooks ----------------------------------------------------------------------------------- */

/* Memory for everything that the library itself allocates (SQLite's own memory is SQLite's).
 * Both functions must be thread-safe. `alloc` returns memory aligned to 16 bytes or NULL.
 * The allocator is copied at mn_open and must outlive the database. */
typedef struct mn_allocator {
    void *(*alloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *memory, size_t size);
    void *ctx;
} mn_allocator;

typedef enum mn_log_level { MN_LOG_ERROR = 1, MN_LOG_WARN, MN_LOG_INFO, MN_LOG_DEBUG } mn_log_level;

/* One line, no newline, never a user's data below DEBUG. May be called from any thread that uses
 * the database; must not call the library. */
typedef void (*mn_log_fn)(void *ctx, mn_log_level level, const char *topic, const char *line);

/* Called now and then by everything long, on the caller's thread. `done` of `total` (0: unknown)
 * units of `stage` ("search", "verify", "backup", ...). Returns true to go on; false ends the
 * call with MN_INTERRUPTED. Must not use the connection. */
typedef bool (*mn_progress_fn)(void *ctx, const char *stage, uint64_t done, uint64_t total);

/* ---- Types ----------------------------------------------------------------------------------- */

typedef struct mn_db mn_db;     /* one per path and process; any thread */
typedef struct mn_conn mn_conn; /* one thread at a time; where transactions live */
typedef struct mn_iter mn_iter; /* rows in id order; belongs to its connection */
typedef struct mn_rows mn_rows; /* rows handed to the caller, who frees them */

/* Element types. Bytes of one vector of dim elements: 4 dim, 2 dim, 2 dim, dim, dim / 8. */
typedef enum mn_dtype {
    MN_F32 = 0,
    MN_F16,  /* IEEE binary16 */
    MN_BF16, /* the upper half of an f32 */
    MN_I8,
    MN_BIT   /* dim a multiple of 8; bit i is (byte[i / 8] >> (i % 8)) & 1 */
} mn_dtype;

/* Distances, the same on every face. MN_HAMMING goes with MN_BIT, the others with the rest. */
typedef enum mn_metric {
    MN_L2 = 0, /* the root of the sum of squared differences */
    MN_IP,     /* -<q, x> */
    MN_COSINE, /* 1 - cos(q, x), 0 .. 2 */
    MN_HAMMING /* differing bits */
} mn_metric;

typedef enum mn_id_kind {
    MN_ID_INTEGER = 0, /* int64, given or assigned */
    MN_ID_TEXT         /* 1 to 255 bytes of UTF-8 without NUL; each row has an int64 too */
} mn_id_kind;

/* Where the exact distances of an index's last candidates come from. */
typedef enum mn_rerank {
    MN_RERANK_COPY = 0, /* a copy of the vectors in the sidecar, in memory as far as the cap goes */
    MN_RERANK_ROWS,     /* the rows: the sidecar is small, searches cost more */
    MN_RERANK_NONE      /* nowhere: distances are estimates from the codes */
} mn_rerank;

typedef enum mn_durability {
    MN_DURABLE = 0, /* each acknowledged commit survives power loss */
    MN_RELAXED      /* after power loss the last commits may be missing; never half of one */
} mn_durability;

/* "f32", "l2", ...; NULL for a number that is none of them. The parsers return false for others. */
MN_API const char *mn_dtype_name(mn_dtype dtype);
MN_API const char *mn_metric_name(mn_metric metric);
MN_API bool mn_dtype_parse(const char *word, mn_dtype *out);
MN_API bool mn_metric_parse(const char *word, mn_metric *out);

/* Bytes of one vector. 0 if dim is 0, above MN_MAX_DIM, or no multiple of 8 for MN_BIT. */
MN_API size_t mn_vector_bytes(mn_dtype dtype, uint32_t dim);

/* ---- Databases and connections --------------------------------------------------------------- */

#define MN_OPEN_READONLY 1u   /* nothing is written; the file must exist */
#define MN_OPEN_MUST_EXIST 2u /* MN_NOTFOUND rather than a new file */
#define MN_OPEN_IMMUTABLE 4u  /* with READONLY: the medium is read-only, nobody writes; no locks */

#define MN_OPEN_NO_BACKGROUND 8u /* no thread folds changes into indexes: mn_fold() does */

#define MN_NO_WAIT UINT32_MAX /* busy_timeout_ms: answer MN_BUSY at once */

typedef struct mn_open_opts {
    uint32_t flags;                /* MN_OPEN_... */
    uint64_t memory_bytes;         /* cap, at least 4 MiB; 0: 256 MiB */
    uint32_t busy_timeout_ms;      /* 0: 5,000; MN_NO_WAIT */
    uint32_t threads;              /* a search's default, and what building an index uses, also in
                                      the background; 0: 1; at most 256 */
    mn_durability durability;
    const mn_allocator *allocator; /* NULL: malloc */
    mn_log_fn log;                 /* NULL: none */
    void *log_ctx;
    mn_log_level log_level;        /* the most talkative level wanted; 0: MN_LOG_INFO */
} mn_open_opts;

/* Opens a database: `path` of a file, or ":memory:" for one that lives in this process's memory
 * and is private to the handle. A missing file is made, empty; the first mn_create makes it a
 * database. A SQLite database that Mneme never saw is fine: nothing in it is changed before that,
 * either. A path already open in this process gives the same handle once more (mn_close as often as
 * mn_open); options that differ are then MN_MISUSE. Costs no time that grows with the data.
 * Fails with MN_NOTFOUND, MN_NOTADB, MN_NEWER, MN_CORRUPT, MN_READONLY (names what may not be
 * written), MN_INVALID, MN_BUSY (it must leave rollback-journal mode, and others are in it), MN_IO,
 * MN_NOMEM. *out is then NULL. Thread-safe. */
MN_API MN_CHECKED mn_status mn_open(const char *path, const mn_open_opts *opts, mn_db **out,
                                    mn_error *err);

/* Gives the handle back; the last one closes the database, joins its threads and frees its
 * memory. Connections must be gone: MN_MISUSE and nothing happens if not. NULL is fine. */
MN_API mn_status mn_close(mn_db *db, mn_error *err);

/* A connection for one thread. Cheap enough to make one per thread, not one per query.
 * Fails with MN_NOMEM, MN_IO, MN_FORKED. Thread-safe. */
MN_API MN_CHECKED mn_status mn_connect(mn_db *db, mn_conn **out, mn_error *err);

/* Rolls back what is open, closes iterators, frees the connection. NULL is fine. */
MN_API void mn_disconnect(mn_conn *conn);

/* In a forked child: frees what the child may free of the parent's handle, touching no file. */
MN_API void mn_abandon(mn_db *db);

/* Makes the connection's running call end with MN_INTERRUPTED, soon. Without a running call it
 * does nothing. Thread-safe. */
MN_API void mn_interrupt(mn_conn *conn);

/* For the calls that follow on this connection; NULL removes the callback. */
MN_API void mn_set_progress(mn_conn *conn, mn_progress_fn fn, void *ctx);

/* The file's path with its folder resolved, or ":memory:"; lives as long as the handle. */
MN_API const char *mn_path(const mn_db *db);

/* Frees arrays that this library returned (mn_list, mn_attributes, mn_search_radius), before
 * mn_close; NULL is fine. */
MN_API void mn_free_result(void *memory);

/* ---- Collections ----------------------------------------------------------------------------- */

typedef struct mn_collection_opts {
    uint32_t dim; /* 1 .. MN_MAX_DIM */
    mn_dtype dtype;
    mn_metric metric;
    mn_id_kind id_kind;
    /* Attribute columns. Any may be NULL in a row; each takes integer, real, text or blob. */
    const char *const *attributes;
    size_t n_attributes;
    /* A further vector column for the rows of an existing collection: `beside` names that
     * collection; its rows, ids, attributes and payloads are shared, each row may have a vector in
     * either, in both or in none. id_kind and attributes must be zero then. NULL: rows of its own,
     * in a table called like the collection. */
    const char *beside;
    /* Of the index that the collection grows; see "The index". */
    mn_rerank rerank;
    uint32_t bits;  /* of a row's code, 1 .. 8; 0: 4, or 3 if all codes then fit the memory cap */
    double recall;  /* of searches that do not say, 0.5 .. 1; 0: 0.95 */
    /* A collection over a table that is there already: `table` names it, `column` the column that
     * holds its vectors, `attributes` further ones that are handed out with a row and may be
     * filtered on; beside is NULL and id_kind zero then. See mn_create. NULL: a table of its own */
    const char *table, *column;
} mn_collection_opts;

typedef struct mn_collection_info {
    char name[MN_MAX_NAME + 1];
    char table[MN_MAX_NAME + 1];  /* SQLite table that holds the rows */
    char column[MN_MAX_NAME + 1]; /* its column that holds the vectors */
    char id_column[MN_MAX_NAME + 1]; /* and that which holds the integer ids; "": it is gone */
    bool foreign; /* over a table that was there before: mn_collection_opts.table */
    uint32_t dim;
    mn_dtype dtype;
    mn_metric metric;
    mn_id_kind id_kind;
    uint32_t n_attributes;
    char attributes[512]; /* their names for people, joined by ','; cut with "..." if longer */
    mn_rerank rerank;
    uint32_t bits; /* 0: chosen by the index */
    double recall;
} mn_collection_info;

/* Names are 1 to MN_MAX_NAME bytes of UTF-8, unlike any other collection's (or table's, where a
 * table is to be made) regardless of ASCII case, not starting with "mneme_" or "sqlite_", without
 * control characters or quotes.
 * Collections can be created and dropped inside a transaction, except for a database's first, which
 * chooses the page size and switches write-ahead logging on: MN_MISUSE. So it is for this, mn_drop
 * and mn_add_attribute while an iterator is open on the connection.
 *
 * With opts->table the collection is over an ordinary table that its owner goes on using as he
 * likes, with SQLite alone too: triggers of built-in SQL keep the change log. The table must have
 * an INTEGER PRIMARY KEY (VACUUM renumbers other rowids), which is the rows' id. Rows have no
 * version (0) and no payload (NULL). Several vector columns are several collections over one table.
 *
 * Fails with MN_EXISTS, MN_INVALID, MN_NOTFOUND (beside, table, column), MN_BUSY, MN_READONLY,
 * MN_FULL. */
MN_API MN_CHECKED mn_status mn_create(mn_conn *conn, const char *name,
                                      const mn_collection_opts *opts, mn_error *err);

/* Removes a collection and its vectors; the rows go with the last collection over them. A table
 * that was there before stays as it was, vectors and all; only the triggers go. Searches that run
 * go on in their snapshots; later ones answer MN_NOTFOUND. */
MN_API MN_CHECKED mn_status mn_drop(mn_conn *conn, const char *name, mn_error *err);

/* All collections by name; *out is an array for mn_free_result. */
MN_API MN_CHECKED mn_status mn_list(mn_conn *conn, mn_collection_info **out, size_t *n,
                                    mn_error *err);

/* One collection. MN_NOTFOUND names the likeliest one meant. */
MN_API MN_CHECKED mn_status mn_info(mn_conn *conn, const char *name, mn_collection_info *out,
                                    mn_error *err);

/* The names of the collection's attributes in the order in which rows are handed out; *out is an
 * array of *n for mn_free_result, which frees the names too. */
MN_API MN_CHECKED mn_status mn_attributes(mn_conn *conn, const char *name, const char ***out,
                                          size_t *n, mn_error *err);

/* Adds an attribute column (NULL in every row) to the collection's table; of a table that was there
 * before, a column that it has. Fails with MN_EXISTS, MN_INVALID, MN_NOTFOUND (collection, column),
 * MN_FULL (MN_MAX_ATTRIBUTES), MN_BUSY, MN_READONLY. */
MN_API MN_CHECKED mn_status mn_add_attribute(mn_conn *conn, const char *name, const char *attribute,
                                             mn_error *err);

/* ---- Rows ------------------------------------------------------------------------------------ */

typedef enum mn_value_type { MN_NULL = 0, MN_INTEGER, MN_REAL, MN_TEXT, MN_BLOB } mn_value_type;

typedef struct mn_value {
    mn_value_type type;
    int64_t integer;
    double real;
    const void *data; /* text (UTF-8, no NUL needed) or blob */
    size_t len;       /* bytes of data */
} mn_value;

typedef struct mn_attr {
    const char *name;
    mn_value value;
} mn_attr;

/* A row as given to mn_put and as handed out. Pointers are borrowed: the caller's during mn_put,
 * the result's afterwards. */
typedef struct mn_row {
    int64_t id;          /* integer ids; MN_AUTO_ID assigns. In text collections: only handed out */
    const char *text_id; /* text ids; NULL in integer collections */
    int64_t version;     /* handed out: of the last change; put: see MN_PUT_IF_VERSION */
    const void *vector;  /* [dim] of the collection's dtype; NULL: no vector in this collection */
    const mn_attr *attrs;
    size_t n_attrs;
    const char *payload; /* text, may be NULL */
    size_t payload_len;  /* bytes; put: SIZE_MAX means strlen(payload) */
} mn_row;

/* Names a row: text_id in text collections (or NULL and the id), id in the others. */
typedef struct mn_id {
    int64_t id;
    const char *text_id;
} mn_id;

typedef enum mn_put_mode {
    MN_PUT_REPLACE = 0, /* insert, or replace the row that has the id */
    MN_PUT_IF_ABSENT,   /* MN_CONFLICT if the id is there */
    MN_PUT_IF_VERSION   /* MN_CONFLICT unless the row is there and has mn_row.version */
} mn_put_mode;

typedef struct mn_put_opts {
    mn_put_mode mode;
    bool from_f32;     /* vectors are given as f32 and rounded to the collection's dtype (to i8: to
                          the nearest integer, which must lie in -128 .. 127); not for MN_BIT */
    bool keep_rest;    /* a row that is replaced keeps what is not given: its vector if that is
                          NULL, attributes not named, its payload if that is NULL. An attribute
                          given as MN_NULL becomes NULL */
    int64_t *ids;      /* [n] or NULL: takes the rows' integer ids */
    int64_t *versions; /* [n] or NULL: takes the rows' new versions */
} mn_put_opts;

/* Writes n rows, all or none: vector, all attributes (those not given become NULL) and payload,
 * unless opts->keep_rest. Vectors of other collections over the same rows stay. Outside a
 * transaction it is one, durable when it returns. A version is an int64 that no earlier change of
 * any row of the table had, and ascends; every change gives a row a new one, also a change by a
 * plain SQLite client.
 * In a table that was there before (mn_collection_opts.table) it sets the id, the vector (as a
 * blob) and all attributes; other columns of a new row take their defaults. A row with a payload,
 * or MN_PUT_IF_VERSION, is MN_INVALID there, and so is any row where one of those columns is
 * computed from others (GENERATED); versions are 0. What the table's own constraints refuse is
 * MN_CONFLICT (another row stands in the way) or MN_INVALID (the row itself).
 * An id that stands twice in one call is MN_INVALID. Other failures: MN_NOTFOUND (collection,
 * attribute), MN_INVALID (names row and element), MN_CONFLICT, MN_BUSY, MN_FULL, MN_READONLY. */
MN_API MN_CHECKED mn_status mn_put(mn_conn *conn, const char *name, const mn_row *rows, size_t n,
                                   const mn_put_opts *opts, mn_error *err);

/* Reads n rows in the order given, of one snapshot; an unknown id is no error. *out is for
 * mn_rows_free, also if it holds no row, and before mn_close. mn_get_meta leaves the vectors
 * unread: each row's is NULL. Fails with MN_NOTFOUND (collection), MN_INVALID (an id of the wrong
 * kind), MN_NOMEM (under the cap: ask for fewer), MN_CORRUPT, MN_IO. In a table that was there
 * before, a value that is no vector is handed out as none; elsewhere it is MN_CORRUPT. */
MN_API MN_CHECKED mn_status mn_get(mn_conn *conn, const char *name, const mn_id *ids, size_t n,
                                   mn_rows **out, mn_error *err);
MN_API MN_CHECKED mn_status mn_get_meta(mn_conn *conn, const char *name, const mn_id *ids, size_t n,
                                        mn_rows **out, mn_error *err);
MN_API size_t mn_rows_count(const mn_rows *rows);                       /* n */
MN_API const mn_row *mn_rows_at(const mn_rows *rows, size_t i);         /* NULL: no such row */
MN_API const mn_value *mn_row_attr(const mn_row *row, const char *attribute); /* NULL: none */
MN_API void mn_rows_free(mn_rows *rows);                                /* NULL is fine */

/* Deletes rows with all their vectors. Unknown ids are no error: *deleted (may be NULL) counts. */
MN_API MN_CHECKED mn_status mn_delete(mn_conn *conn, const char *name, const mn_id *ids, size_t n,
                                      uint64_t *deleted, mn_error *err);

/* Deletes one row if it has that version: MN_CONFLICT if it is not there or has another; MN_INVALID
 * where rows have none. */
MN_API MN_CHECKED mn_status mn_delete_if_version(mn_conn *conn, const char *name, const mn_id *id,
                                                 int64_t version, mn_error *err);

/* Rows with id >= first by ascending int64 id, all of one snapshot: the connection keeps a read
 * transaction while the iterator is open, and writes through it are MN_MISUSE meanwhile unless a
 * write transaction was begun before. mn_iter_next sets *row to NULL after the last row; a row is
 * borrowed until the next call. */
MN_API MN_CHECKED mn_status mn_iter_open(mn_conn *conn, const char *name, int64_t first,
                                         mn_iter **out, mn_error *err);
MN_API MN_CHECKED mn_status mn_iter_next(mn_iter *iter, const mn_row **row, mn_error *err);
MN_API void mn_iter_close(mn_iter *iter); /* NULL is fine */

/* ---- Transactions ---------------------------------------------------------------------------- */

/* A write transaction waits for another writer up to the busy timeout, then MN_BUSY; a read
 * transaction fixes one snapshot and never waits. MN_MISUSE inside a transaction. */
MN_API MN_CHECKED mn_status mn_begin_write(mn_conn *conn, mn_error *err);
MN_API MN_CHECKED mn_status mn_begin_read(mn_conn *conn, mn_error *err);

/* After a failed mn_commit with MN_BUSY the transaction is still open; after any other failure it
 * is rolled back. MN_MISUSE outside a transaction. */
MN_API MN_CHECKED mn_status mn_commit(mn_conn *conn, mn_error *err);
MN_API mn_status mn_rollback(mn_conn *conn, mn_error *err);

/* Savepoints nest, inside a write transaction. Names are compared regardless of ASCII case.
 * mn_rollback_to undoes what came after the savepoint and keeps it; mn_release forgets it. */
MN_API MN_CHECKED mn_status mn_savepoint(mn_conn *conn, const char *name, mn_error *err);
MN_API MN_CHECKED mn_status mn_release(mn_conn *conn, const char *name, mn_error *err);
MN_API MN_CHECKED mn_status mn_rollback_to(mn_conn *conn, const char *name, mn_error *err);

/* ---- Search ---------------------------------------------------------------------------------- */

typedef struct mn_hit {
    int64_t id;
    double distance;
} mn_hit;

/* Decides whether a row may be a hit: true keeps it. It sees id, text_id, version, attributes and
 * payload; the vector is NULL. Called on the searching thread, only for rows near enough to be
 * hits, in no particular order. Must not use the connection. */
typedef bool (*mn_filter_fn)(void *ctx, const mn_row *row);

/* How a value of a row must stand to the value of a condition. */
typedef enum mn_op {
    MN_OP_EQ = 1,
    MN_OP_NE,
    MN_OP_LT,
    MN_OP_LE,
    MN_OP_GT,
    MN_OP_GE,
    MN_OP_IN,       /* equal to one of the values */
    MN_OP_IS_NULL,
    MN_OP_NOT_NULL,
    MN_OP_CONTAINS  /* it is a text that holds a JSON array, and a member of that is equal */
} mn_op;

/* One condition on rows; those of a search are joined by AND.
 *
 * Values compare as in SQLite's WHERE over columns without affinity, under BINARY collation:
 * numbers before texts before blobs, an integer with a real exactly, texts and blobs byte by byte.
 * They are taken as given: the text '5' is no number. NULL, in the row or in the condition, makes
 * every comparison untrue, NE too; a NULL in IN's list is equal to nothing. CONTAINS compares with
 * a member of the array, a number with numbers, a text with strings after their escapes; for any
 * other value, and where the attribute is no text or its text no JSON array (RFC 8259), it is
 * untrue.
 *
 * The first search with a condition on an attribute of an indexed collection copies it into memory,
 * where there is room: 0.6 us a row, which counts towards its deadline (docs/index.md).
 *
 * Borrowed for the call. Since 0.1. */
typedef struct mn_condition {
    const char *attribute;  /* name of an attribute; or "id", the int64 id; or, in collections with
                               text ids, "text_id" */
    mn_op op;
    const mn_value *values; /* [n_values] */
    size_t n_values;        /* IN: any number, also 0; IS_NULL, NOT_NULL: 0; the others: 1 */
} mn_condition;

/* How a search went about it. mn_plan_name() gives the word. */
typedef enum mn_plan {
    MN_PLAN_NONE = 0,
    MN_PLAN_SCAN,    /* all rows were scored exactly */
    MN_PLAN_IDS,     /* only_ids were looked up */
    MN_PLAN_INDEX,   /* by the index, without conditions */
    MN_PLAN_MATCHES, /* the rows that meet the conditions were found first, and only they scored */
    MN_PLAN_PROBE,   /* by the index, which left the others out as it went */
    MN_PLAN_POST     /* by the index; conditions were checked last, as nearly all rows meet them */
} mn_plan;

/* "scan", "probe", ...; NULL for a number that is none. */
MN_API const char *mn_plan_name(mn_plan plan);

typedef struct mn_search_opts {
    mn_filter_fn filter;      /* NULL: all rows */
    void *filter_ctx;
    const mn_condition *where; /* [n_where] hits meet all of these, and the filter if there is one;
                                  NULL: none */
    size_t n_where;
    const int64_t *only_ids;  /* [n_only_ids], any order: hits are among these; NULL: all */
    size_t n_only_ids;
    uint64_t deadline_us;     /* from the call's start; 0: none */
    double recall;            /* share of the true nearest rows that is wanted, 0.5 .. 1.0; 0: 0.95.
                                 1.0 is exact. Small collections are always exact */
    uint32_t threads;         /* 0: the database's; 1 with a filter. A search by the index spreads
                                 its queries over them, an exact one the rows; the answers are the
                                 same for any number */
    bool estimated;           /* distances estimated from codes will do, where there is an index */
    bool from_f32;            /* queries are f32 and rounded like mn_put_opts.from_f32's vectors */
    struct mn_search_stats *stats; /* NULL, or takes what the search did */
} mn_search_opts;

typedef struct mn_search_stats {
    uint64_t rows_scanned;   /* vectors scored */
    uint64_t rows_filtered;  /* rows shown to the filter */
    uint64_t rows_pending;   /* of rows_scanned: changed since the cached vectors were read */
    uint64_t rows_invalid;   /* rows passed over: a foreign client wrote no valid vector */
    uint64_t bytes_scanned;  /* of vectors */
    uint64_t wall_us, cpu_us;
    uint64_t probed;         /* by the index: parts of postings scanned, */
    uint64_t codes;          /* codes scanned, */
    uint64_t reranked;       /* rows whose exact distance was computed, */
    uint64_t reads;          /* pages of vectors read from the sidecar */
    bool from_cache;         /* vectors came from memory, not from the rows */
    bool from_index;         /* the hybrid index answered */
    mn_plan plan;            /* of the last query */
    uint64_t matches;        /* rows that meet the conditions; an estimate, unless the plan is
                                `matches` */
    uint64_t rows_checked;   /* rows read to see whether they meet the conditions */
    uint64_t codes_skipped;  /* codes of probed postings that were left out unseen, and */
    uint64_t postings_skipped; /* postings that hold no row to be found */
    uint64_t parts_read;     /* of probed: parts whose codes were read from the sidecar, since the
                                memory cap has no room for them, and */
    uint64_t part_bytes;     /* the bytes of these reads */
} mn_search_stats;

/*
 * Finds the k nearest rows for each of nq queries, in one snapshot.
 *
 *   queries  [nq][dim] of the collection's dtype (f32 with opts->from_f32); not kept
 *   nq, k    1 .. MN_MAX_QUERIES, 1 .. MN_MAX_K
 *   opts     NULL for the defaults
 *   hits     [nq][k], the caller's. Row q holds found[q] hits by ascending distance, ties by
 *            ascending id; entries past found[q] are untouched
 *   found    [nq]: min(k, rows that match)
 *
 * Fails with MN_NOTFOUND (collection, attribute of a condition), MN_INVALID (nq, k, a NaN in a
 * query: names query and element; zero vector under cosine; a condition that is none),
 * MN_DEADLINE, MN_INTERRUPTED, MN_NOMEM (under the cap), MN_CORRUPT, MN_IO. On failure hits and
 * found say nothing.
 */
MN_API MN_CHECKED mn_status mn_search(mn_conn *conn, const char *name, const void *queries,
                                      size_t nq, uint32_t k, const mn_search_opts *opts,
                                      mn_hit *hits, uint32_t *found, mn_error *err);

/* All rows within `radius` (distance <= radius) of one query, nearest first. *out is an array of *n
 * for mn_free_result. More than max_hits (0: 1,000,000) is MN_FULL. Otherwise as mn_search. */
MN_API MN_CHECKED mn_status mn_search_radius(mn_conn *conn, const char *name, const void *query,
                                             double radius, uint64_t max_hits,
                                             const mn_search_opts *opts, mn_hit **out, size_t *n,
                                             mn_error *err);

/* ---- The index ------------------------------------------------------------------------------- */

/*
 * A collection of 10,000 rows and more grows a hybrid index by itself: a background thread builds
 * it into the file app.db-mneme and folds later changes in, while searches are right throughout.
 * The index can be deleted or lost at any time: searches read the rows until it is built anew.
 *
 * Building uses mn_open_opts.threads threads, as far as memory allows: one of them reads the rows,
 * all cluster and code what was read. The index is the same for any number.
 *
 * mn_fold does what the thread does, now and on this connection: builds the index of a collection
 * that has none, else folds all pending changes in. MN_BUSY: another process is at it, and was for
 * the whole busy timeout. MN_POISONED: see there. MN_MISUSE inside a transaction.
 */
MN_API MN_CHECKED mn_status mn_fold(mn_conn *conn, const char *name, mn_error *err);

/* Builds the index anew from the rows, replacing one that is there, and the file app.db-mneme even
 * if it belongs to another database. Fails as mn_fold. */
MN_API MN_CHECKED mn_status mn_rebuild(mn_conn *conn, const char *name, mn_error *err);

/* A sample of a collection's rows, from which the centroids of its index are to be made. */
typedef struct mn_training {
    const float *vectors; /* [n][dim]; under cosine of length 1; borrowed */
    size_t n;             /* at least k */
    uint32_t dim, k;
    float *centroids;     /* [k][dim]: takes the answer */
    /* To be asked now and then; false: somebody wants an end, return any status but MN_OK. */
    bool (*go_on)(void *go_on_ctx);
    void *go_on_ctx;
} mn_training;

/* Fills t->centroids with finite numbers and returns MN_OK; or returns another status, with a
 * sentence in err->message. Called on the thread of mn_fold or mn_rebuild, which holds a read
 * transaction and the right to fold meanwhile; must not use the connection. */
typedef mn_status (*mn_train_fn)(void *ctx, const mn_training *t, mn_error *err);

/* Lets `fn` choose the centroids, by its own k-means say, whenever mn_fold or mn_rebuild builds an
 * index anew on this connection: everything else, the balance of the postings above all, stays as
 * it is. NULL, as at first, is Mneme's own clustering, which is faster and keeps to the memory cap;
 * of fn's memory the library knows nothing. What fails in fn fails the call, and the index stays as
 * it was. The background thread never calls it. Since 0.1. */
MN_API void mn_set_trainer(mn_conn *conn, mn_train_fn fn, void *ctx);

/* Gives space back: app.db is written anew without its free pages (SQLite's VACUUM), the log is
 * emptied, free blocks of the sidecar are returned. Needs room for a copy of app.db meanwhile.
 * MN_MISUSE inside a transaction, MN_BUSY while others write or read old snapshots. */
MN_API MN_CHECKED mn_status mn_compact(mn_conn *conn, mn_error *err);

/* Stops and resumes the background thread; a fold in progress ends first. Thread-safe. */
MN_API void mn_pause(mn_db *db, bool pause);

typedef struct mn_index_info {
    bool exists;
    uint64_t generation;     /* of the last publish */
    uint64_t rows;           /* that it holds */
    uint64_t pending;        /* rows changed since */
    uint64_t postings;
    uint32_t bits;           /* of a code */
    uint64_t memory_bytes;   /* of codes and centroids held in memory; 0: not loaded */
    double codes_in_memory;  /* share of the rows whose codes are: searches read the others' */
    bool vectors_in_memory;
    uint64_t sidecar_bytes;  /* of the file app.db-mneme */
    double recall_most;      /* that searches for 10 can find, by a sample of the rows: with rerank
                                `none`, what the codes' estimates can give; 0: not known */
    uint64_t missing;        /* of pending: rows that damage took from it, until the next fold */
    bool unusable;           /* there is one, but not in memory (exists is false): damaged, or too
                                large for the memory cap even with its codes in app.db-mneme; rows
                                are read */
    uint64_t lost, healed;   /* parts of app.db-mneme found damaged, and mended, since the open; of
                                all collections */
} mn_index_info;

/* Loads the index if it is not in memory. */
MN_API MN_CHECKED mn_status mn_index_stats(mn_conn *conn, const char *name, mn_index_info *out,
                                           mn_error *err);

/* ---- Looking after a database ---------------------------------------------------------------- */

typedef struct mn_stats_info {
    uint64_t memory_used, memory_peak, memory_cap; /* bytes held to the cap */
    uint64_t cache_bytes;                          /* of memory_used: cached vectors */
    uint64_t db_bytes, wal_bytes;                  /* files; 0 for :memory: */
    uint64_t page_bytes;
    uint64_t connections;
    uint64_t searches, cache_loads, cache_catchups, cache_evictions;
    uint64_t streamed_searches; /* from the rows: vectors beyond the cap, or an old snapshot */
} mn_stats_info;

/* Of the database and this process; costs no time that grows with the data. */
MN_API MN_CHECKED mn_status mn_stats(mn_conn *conn, mn_stats_info *out, mn_error *err);

typedef struct mn_collection_stats {
    uint64_t rows;        /* of the table */
    uint64_t vectors;     /* rows with a vector in this collection */
    uint64_t vector_bytes;
    uint64_t log_entries; /* changes kept in the change log */
    int64_t last_version; /* of the table's newest change */
    uint64_t cached_rows; /* in memory now */
} mn_collection_stats;

/* Counts rows: reads the whole table's keys once; of a table that was there before its vectors too,
 * since other values may stand among them. */
MN_API MN_CHECKED mn_status mn_collection_stats_get(mn_conn *conn, const char *name,
                                                    mn_collection_stats *out, mn_error *err);

/* One sentence per finding; `where` names a table, collection or row. */
typedef void (*mn_finding_fn)(void *ctx, const char *where, const char *what);

/* Reads everything in one snapshot: SQLite's own structures, the catalog, triggers, change log,
 * every row's vector. MN_OK even with findings; *findings counts them. Writes nothing. */
MN_API MN_CHECKED mn_status mn_verify(mn_conn *conn, mn_finding_fn fn, void *ctx,
                                      uint64_t *findings, mn_error *err);

/* Copies the database as of now into a new file, while others read and write. The copy appears
 * under its name complete and flushed, or not at all. MN_EXISTS if the file is there; MN_MISUSE
 * inside a write transaction. */
MN_API MN_CHECKED mn_status mn_backup(mn_conn *conn, const char *path, mn_error *err);

/* The table in the head of this header; a NULL name ends it. */
typedef struct mn_default {
    const char *name, *value, *meaning;
} mn_default;
MN_API const mn_default *mn_defaults(void);

#ifdef __cplusplus
}
#endif

#endif
