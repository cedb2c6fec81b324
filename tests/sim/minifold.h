/* A folder without vectors: a table of objects and their versions, and for each object one extent
 * whose bytes follow from object and version. Small enough to see, in every state that a power cut
 * leaves, whether table and extents are of one moment. On simulated disks and on real ones. */
#ifndef MN_TESTS_SIM_MINIFOLD_H
#define MN_TESTS_SIM_MINIFOLD_H

#include "storage/io.h"
#include "storage/publish.h"

extern const mn_allocator *mini_hooks; /* of those opened from now on; NULL: malloc */

struct mini {
    struct mn_fs *fs;
    struct mn_alloc *alloc;
    sqlite3 *db;
    struct sidecar *s; /* NULL: none, or not usable */
    struct lease *l;
    struct sidecar_finding found;
    char path[300]; /* of the sidecar */
};

/* Opens the database (made if it may be written and is not there) and its sidecar, if it has one.
 */
mn_status mini_open(struct mini *m, struct mn_fs *fs, const char *vfs, const char *path,
                    bool writable, mn_error *err);
void mini_close(struct mini *m);

/* Makes the sidecar; objects and extents are forgotten. */
mn_status mini_build(struct mini *m, bool replace, mn_error *err);

/* Steps of a publish. Objects of a fold: [first, end) get `version`; 0 removes them. */
mn_status mini_lease(struct mini *m, mn_error *err);
mn_status mini_write(struct mini *m, uint32_t first, uint32_t end, uint32_t version, mn_error *err);
mn_status mini_begin(struct mini *m, uint32_t first, uint32_t end, uint32_t version, mn_error *err);
/* All of them, and the commit. After a failure it is aborted. */
mn_status mini_fold(struct mini *m, uint32_t first, uint32_t end, uint32_t version, mn_error *err);

/* In one snapshot: does every object have its extent, and it alone; are all of them right? `why`
 * takes what is wrong. Objects whose extent was found damaged are counted in *lost (else that is
 * wrong too). Runs inside the caller's read transaction, if there is one. */
bool mini_check(struct mini *m, uint32_t *lost, char *why, size_t room);

uint64_t mini_generation(struct mini *m); /* UINT64_MAX: cannot be told */
int64_t mini_int(struct mini *m, const char *sql);

#endif
