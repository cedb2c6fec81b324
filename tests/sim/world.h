/* A small world for the engine on a simulated disk: a workload, what it must leave behind, and the
 * check that a database holds exactly that. Used by the crash, fault and memory tests.
 *
 * The model is an array; the content is read with plain SELECTs; answers of searches are compared
 * with brute force over what was SELECTed. Nothing here asks the engine what it believes. */
#ifndef MN_TESTS_SIM_WORLD_H
#define MN_TESTS_SIM_WORLD_H

#include <sqlite3.h>

#include "mneme.h"
#include "tests/sim/sim.h"

enum { WORLD_IDS = 48, WORLD_WORDS = 8, WORLD_DIM = 8, WORLD_BESIDE_DIM = 4 };

/* A seed stands for a vector (and, in c and d, for attribute and payload); 0: none. */
struct world_row {
    bool there;
    uint16_t c, d, tag;
};

/* Collections c (attribute tag) and d beside it; e has text ids "w0", "w1", ... */
struct world {
    bool has_c, has_d, has_e;
    struct world_row rows[WORLD_IDS]; /* by id; row 0 is never used */
    uint16_t words[WORLD_WORDS];
};

enum world_kind {
    WORLD_CREATE_C,
    WORLD_CREATE_D,
    WORLD_CREATE_E,
    WORLD_PUT,        /* c: ids from .. to in one batch; row id has seed + id */
    WORLD_PUT_D,      /* the same through d */
    WORLD_PUT_E,
    WORLD_DELETE,     /* ids from .. to */
    WORLD_SAVEPOINT,  /* a transaction: put from, savepoint, put to, roll back to it, put to + 1 */
    WORLD_ROLLBACK,   /* put from .. to, rolled back: no change */
    WORLD_DROP_D,
    WORLD_DROP_E,
    WORLD_SEARCH,     /* no change */
    WORLD_CHECKPOINT, /* no change */
    WORLD_REOPEN      /* no change */
};

struct world_op {
    enum world_kind kind;
    uint16_t from, to, seed;
};

const char *world_word(enum world_kind kind);

/* What the op makes of the model. An op that cannot be done there (no such collection, or there is
 * one already) changes nothing. */
void world_apply(struct world *w, const struct world_op *op);

/* An open database and what it takes to read it past the engine. */
struct world_db {
    const char *vfs;      /* borrowed; NULL: SQLite's default */
    const char *path;     /* borrowed */
    mn_open_opts opts;
    mn_db *db;            /* NULL: closed */
    mn_conn *conn;
};

mn_status world_open(struct world_db *w, mn_error *err);
void world_close(struct world_db *w); /* whatever is open of it */

/* Runs the op through the engine. */
mn_status world_do(struct world_db *w, const struct world_op *op, mn_error *err);

/* Reads the content with plain SELECTs through a connection of its own. False and why, if that
 * fails or a row is not as any put made it. */
bool world_read(const struct world_db *w, struct world *out, char *why, size_t room);

/* "" if they are the same, else the first difference. The text is static. */
const char *world_difference(const struct world *have, const struct world *want);

/* Searches every collection of `w` (as just read) and compares with brute force; runs mn_verify,
 * which must find nothing. */
bool world_sound(struct world_db *db, const struct world *w, char *why, size_t room);

void world_vector(uint16_t seed, uint32_t dim, float *out);

#endif
