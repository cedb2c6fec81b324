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
 *     mn_close(db);
 *
 * Defaults (a zero in an options struct chooses them; `mneme info --defaults` prints them)
 *
 *     metric             l2          distance = the root of the sum of squared differences
 *     dtype              f32         element type of a collection's vectors
 *     ids                integer     int64, given or assigned ascending
 *     durability         full        a commit that was acknowledged survives power loss
 *     memory             256 MiB     cap over all that grows with data, in one process
 *     busy timeout       5,000 ms    how long a writer waits for another writer
 *     threads            1           threads that one search may use
 *     deadline           none        per search
 *     log                off         no hook, nothing is printed, ever
 *
 * Threads. An mn_db may be used from any thread. An mn_conn is one thread's at a time: it is where
 * a transaction lives. Only mn_interrupt may be called on a connection from another thread. The
 * library starts threads only for a search that asks for more than one, and joins them at mn_close.
 *
 * Snapshots. Every answer belongs to one committed state of the database, plus what the
 * connection's own open transaction has written. Readers never wait for writers.
 *
 * Caveats
 *   fork           a child may not use handles opened before the fork: each call answers MN_FORKED.
 *                  mn_abandon() is the one call that it may make
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

/* ---- Limits ------------------------------------------------------------------------------ */

#define MN_MAX_DIM 16384u        /* elements of a vector */
#define MN_MAX_K 10000u          /* hits of one query */
#define MN_MAX_QUERIES 65536u    /* queries of one call */
#define MN_MAX_TEXT_ID 255u      /* bytes of a text id, without its NUL */
#define MN_MAX_NAME 127u         /* bytes of a collection's or attribute's name */
#define MN_MAX_ATTRIBUTES 200u   /* attributes of a table */
#define MN_AUTO_ID INT64_MIN     /* in mn_row.id: assign the next ascending id */

/* ---- Errors ------------------------------------------------------------------------------ */

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
    MN_FORKED,      /* the handle belongs to the parent process: open the database anew */
    MN_POISONED,    /* a flush failed: close and open again */
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

/* ---- Hooks ------------------------------------------------------------------------------- */

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

/* ---- Types ------------------------------------------------------------------------------- */

typedef struct mn_db mn_db;     /* one per path and process; any thread */
typedef struct mn_conn mn_conn; /* one thread at a time; where transactions live */
typedef struct mn_iter mn_iter; /* rows in id order; belongs to its connection */
typedef struct mn_rows mn_rows; /* rows handed to the caller, who frees them */

/* Element types. Sizes of one vector of dim elements in bytes: 4 dim, 2 dim, 2 dim, dim, dim / 8. */
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

