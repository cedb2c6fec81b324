/* A simulated disk under the real engine: one log of operations beneath all files, from which
 * every state that a power cut may leave can be built and checked; and faults at the n-th call.
 *
 *     struct sim *disk = sim_create(&(struct sim_disk){.seed = 1, .sector_bytes = 512});
 *     struct sim_proc *p = sim_start(disk);               a process: its own VFS, locks of all
 *     sqlite3_open_v2("app.db", &db, flags, sim_vfs(p));
 *     sim_begin(disk, 7); commit; sim_ack(disk, 7);       what the user was told, and when
 *     sqlite3_close(db); sim_stop(p);
 *     sim_enumerate(disk, &opts, check, ctx, &report);
 *
 * What a power cut does. Between a write and the file's next completed sync each sector of the
 * write may be on the disk or not, independently of all others; the write may be torn, or leave
 * garbage. Sizes likewise. A created, renamed or removed name is settled by a dirsync of its
 * folder, and until then each such change may have happened or not. After a sync that failed, what
 * was written before it stays unsettled for ever, unless written again.
 *
 * A sim may be used from several threads; sim_enumerate and the disks that it hands out, from one.
 * Memory that runs out ends the program: this is test code. */
#ifndef MN_TESTS_SIM_SIM_H
#define MN_TESTS_SIM_SIM_H

#include "storage/io.h"

struct sim;
struct sim_proc;

struct sim_disk {
    uint64_t seed;          /* of garbage and of SQLite's randomness; 0: 1 */
    uint32_t sector_bytes;  /* 512 or 4096; 0: 4096; what the VFS tells SQLite */
    bool fragile_overwrite; /* a torn write garbles its whole sectors; else POWERSAFE_OVERWRITE */
    bool swallow_syncs;     /* planted bug: syncs succeed and settle nothing */
};

struct sim *sim_create(const struct sim_disk *disk);
void sim_destroy(struct sim *s); /* after its processes; NULL is fine */

/* ---- Processes ----------------------------------------------------------------------------- */

/* A process with a VFS of its own; all processes of a disk share its files and locks. */
struct sim_proc *sim_start(struct sim *s);
const char *sim_vfs(const struct sim_proc *p);
struct mn_fs *sim_fs(struct sim_proc *p);

/* SIGKILL: its locks and mappings are gone, its later calls fail with EIO and change nothing.
 * Its connections must still be closed (that frees memory), after those of living processes. */
void sim_kill(struct sim_proc *p);
void sim_stop(struct sim_proc *p); /* its connections must be closed */

/* ---- What happened --------------------------------------------------------------------------- */

/* "Operation id was issued", "was acknowledged", "the code is at this point" as of now. */
void sim_begin(struct sim *s, uint32_t id);
void sim_ack(struct sim *s, uint32_t id);
void sim_mark(struct sim *s, const char *label); /* a literal */

struct sim_stats {
    uint32_t log;                        /* entries of the operation log */
    uint64_t reads, writes, syncs;       /* calls */
    uint64_t bytes_read, bytes_written;
};
struct sim_stats sim_stats(struct sim *s);

/* Bytes that all files together may have; 0: no limit. Beyond it writes fail with ENOSPC. */
void sim_limit(struct sim *s, uint64_t bytes);

/* ---- Faults ---------------------------------------------------------------------------------- */

enum sim_fault {
    SIM_EIO,    /* the call fails and does nothing; a failed sync settles nothing, now or later */
    SIM_ENOSPC, /* the same with the other error */
    SIM_EINTR,  /* interrupted once: the seam tries again, nobody notices */
    SIM_SHORT   /* half is transferred: a read goes on, a write then fails with ENOSPC */
};

enum { /* masks */
    SIM_READ = 1,
    SIM_WRITE = 2,
    SIM_SYNC = 4,
    SIM_OPEN = 8,
    SIM_TRUNCATE = 16,
    SIM_UNLINK = 32,
    SIM_RENAME = 64,
    SIM_DIRSYNC = 128,
    SIM_STAT = 256, /* sizes and existence */
    SIM_ALL = 511
};

enum sim_mode { SIM_ONCE, SIM_STICKY };

/* The n-th call (from 1, counted from now) of a kind in the mask meets the fault; in sticky mode
 * all later ones too. n 0 disarms. */
void sim_arm(struct sim *s, enum sim_fault fault, unsigned mask, uint64_t n, enum sim_mode mode);
uint64_t sim_fired(struct sim *s); /* times that it struck since sim_arm */

/* ---- Power cuts ------------------------------------------------------------------------------ */

struct sim_state {
    struct sim *disk;          /* what is there after the cut; logs anew; the enumerator's */
    uint32_t cut;              /* log entries before the cut */
    uint32_t number;           /* of the state among those of the cut */
    const char *fate;          /* in words */
    const char *mark;          /* last sim_mark before the cut, or "" */
    const uint32_t *acked;     /* [n_acked] ids, in the order of sim_ack */
    uint32_t n_acked;
    const uint32_t *in_flight; /* [n_in_flight] begun and not acknowledged before the cut */
    uint32_t n_in_flight;
};

/* True if all is well. If not, says why. May open, write and begin/ack on st->disk. */
typedef bool (*sim_check_fn)(void *ctx, const struct sim_state *st, char *why, size_t room);

struct sim_enum_opts {
    const char *name;     /* in messages, and in the variable that replays; required */
    uint64_t seed;        /* of the random states; 0: 1 */
    uint32_t split_bytes; /* writes are lost or kept in pieces of this size; 0: the sector */
    uint32_t random;      /* random states of a cut */
    uint32_t each_limit;  /* pieces beyond which "each one lost" and so on are sampled; 0: none */
    uint32_t cut_stride;  /* check every n-th cut; 0: every one */
    uint32_t stop_after;  /* violations; 0: 5 */
    uint32_t nested;      /* 1 of n checked states: what check() did is cut too; 0: never */
    bool quiet;           /* print no violation: one is wanted */
};

struct sim_report {
    uint32_t cuts;        /* cut points visited */
    uint64_t states;      /* built */
    uint64_t checked;     /* different ones, each handed to check() */
    uint64_t nested;      /* of them, cuts during an earlier check */
    uint64_t violations;
    char first[1200];     /* the first violation in words */
};

/* Checks the states of every cut of the log: all that is unsettled is there; nothing is; each piece
 * lost; each alone there; every prefix; all but one file, one file alone; the last write of each
 * file torn at 512 and 4096 and garbage; sizes without data (zeros, garbage), data without sizes;
 * and random subsets. States with equal files and acknowledgements are checked once. A violation
 * prints one line with what replays it: MNEME_SIM=name:cut:state runs that state alone. */
void sim_enumerate(struct sim *s, const struct sim_enum_opts *opts, sim_check_fn check, void *ctx,
                   struct sim_report *report);

/* One state of one cut, as a new disk; NULL if the cut has fewer states. Number 0: all that is
 * unsettled is there; 1: nothing. */
struct sim *sim_image(struct sim *s, const struct sim_enum_opts *opts, uint32_t cut,
                      uint32_t number);

#endif
