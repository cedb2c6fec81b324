/* What every command of the program uses: exit codes, errors on stderr, Ctrl-C, an open database,
 * progress. Owner thread; only the signal handler runs beside it. */
#ifndef MN_SHELL_SHELL_H
#define MN_SHELL_SHELL_H

#include "mneme.h"
#include "src/shell/options.h"

enum {
    EXIT_FOUND = 1,        /* verify has findings; no such row; part of a damaged file was taken */
    EXIT_USAGE = 2,        /* the command line is wrong */
    EXIT_ERROR = 3,        /* it could not be done */
    EXIT_INTERRUPTED = 130 /* Ctrl-C, as shells report it */
};

extern const struct command cmd_import, cmd_search, cmd_get, cmd_delete, cmd_export, cmd_info,
    cmd_stats, cmd_list, cmd_verify, cmd_backup, cmd_truth, cmd_create, cmd_drop, cmd_fold,
    cmd_rebuild, cmd_compact, cmd_recall;

/* Commands by name; run with argv[0] as the name. They return the program's exit code. */
const struct command *command_find(const char *name);
int command_run(const struct command *command, int argc, char **argv);
size_t command_count(void);
const struct command *command_at(size_t i);

/* ---- Errors: one line "mneme: ..." on stderr ------------------------------------------------- */

__attribute__((format(printf, 1, 2))) int usage_error(const char *format, ...); /* EXIT_USAGE */
__attribute__((format(printf, 1, 2))) int error_exit(const char *format, ...);  /* EXIT_ERROR */
__attribute__((format(printf, 1, 2))) void warn(const char *format, ...);

/* Says what `err` says and returns EXIT_ERROR. After an interrupt it returns EXIT_INTERRUPTED and
 * leaves the words to interrupted_exit, which says them once; main is the last to call it. */
int library_error(const mn_error *err);
__attribute__((format(printf, 1, 2))) int interrupted_exit(const char *format, ...);

/* `memory` itself; ends the program with EXIT_ERROR if it is NULL. What is not committed by then is
 * rolled back by whoever opens the database next, as after any crash. */
void *need(void *memory);

/* ---- Ctrl-C --------------------------------------------------------------------------------- */

/* The first SIGINT or SIGTERM asks for an orderly end, a second one ends at once. */
void interrupt_init(void);
bool interrupted(void);

/* For the SQL shell, which outlives Ctrl-C: signals also call `also`, and only many of them,
 * unheard, end the program, after `last` has put the terminal right; both may only do what a
 * handler may. interrupt_forget() makes the next one the first again. asked_to_end(): SIGTERM
 * came. */
void interrupt_keep(void (*also)(void), void (*last)(void));
void interrupt_forget(void);
bool asked_to_end(void);

/* ---- A database ----------------------------------------------------------------------------- */

struct session {
    const char *path;
    mn_db *db;
    mn_conn *conn;
};

/* flags: MN_OPEN_.... Returns 0 or the exit code after saying why. session_close is fine in any
 * case; it reports a failed close and returns its exit code. */
int session_open(struct session *s, const struct common *common, const char *path, uint32_t flags);
int session_close(struct session *s);

/* For the shell, which holds the database open by mn_open itself: sessions take its options. */
void session_share(bool on);

/* mn_info of the collection; says which ones there are if this one is not. */
int session_collection(struct session *s, const char *name, mn_collection_info *info);

/* ---- Progress: one line on a terminal's stderr, after half a second -------------------------- */

struct progress {
    bool on; /* stderr is a terminal and nobody asked for quiet */
    bool drawn;
    const char *label;  /* "importing" */
    const char *unit;   /* "rows"; "bytes" are written as sizes; NULL: the percentage alone */
    double start, next; /* seconds of now_seconds() */
    uint64_t done;      /* as last told by the library */
};

void progress_begin(struct progress *p, const struct common *common, const char *label,
                    const char *unit);
/* total 0: unknown. False when the user wants an end. */
bool progress_update(struct progress *p, uint64_t done, uint64_t total);
void progress_end(struct progress *p); /* clears the line; may be called twice */

/* mn_progress_fn over a struct progress. The label is the library's stage when p->label is NULL. */
bool progress_library(void *p, const char *stage, uint64_t done, uint64_t total);

double now_seconds(void); /* monotonic */

#endif
