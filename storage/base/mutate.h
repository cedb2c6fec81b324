/* Planted bugs: does any test notice when a safeguard is missing? A build with -DMNEME_MUTATIONS=ON
 * asks at each safeguard whether it is to be left out: by MNEME_MUTATE=name in the environment, or
 * by mutate_set(). Other builds have no trace of it: MUTATE() is false. */
#ifndef MN_STORAGE_BASE_MUTATE_H
#define MN_STORAGE_BASE_MUTATE_H

#include <stdbool.h>

/* X(enumerator, name): what is left out or done wrong */
#define MUTATIONS(X)                                                                               \
    X(EXTENT_HEADER_CRC, "extent.header_crc")    /* the header's own CRC is not checked */         \
    X(EXTENT_BLOCK_CRC, "extent.block_crc")      /* those of the payload are not */                \
    X(EXTENT_STALE, "extent.stale")              /* the catalog's CRC and generation are not */    \
    X(EXTENT_ADDRESS, "extent.address")          /* first_block is not */                          \
    X(ROW_CRC, "extents.row_crc")                /* the CRC of catalog rows is not */              \
    X(DIGEST, "extents.digest")                  /* their count and digest are not */              \
    X(CREATE_DIRSYNC, "sidecar.dirsync")         /* the new file's name is not made durable */     \
    X(CREATE_FLUSH, "sidecar.create_flush")      /* nor its headers */                             \
    X(FOREIGN, "sidecar.foreign")                /* another database's file is taken for ours */   \
    X(POISON, "sidecar.poison")                  /* a failed flush is forgotten */                 \
    X(NO_LOCK, "lease.no_lock")                  /* two may fold */                                \
    X(NO_BARRIER, "lease.no_barrier")            /* no commit when a lease is taken */             \
    X(IDLE_BARRIER, "lease.idle_barrier")        /* one that changes no byte */                    \
    X(NO_DEFER, "lease.no_defer")                /* unnamed blocks are free at once */             \
    X(EARLY_FREE, "publish.early_free")          /* replaced blocks are free at once */            \
    X(CHECKPOINT, "lease.checkpoint")            /* any checkpoint counts as complete */           \
    X(NO_FLUSH, "publish.no_flush")              /* nothing is flushed before the commit */        \
    X(LATE_FLUSH, "publish.late_flush")          /* it is flushed after the commit */              \
    X(NO_RECHECK, "publish.no_recheck")          /* publishes though the catalog moved */          \
    X(FAILED_COMMIT, "publish.failed_commit")    /* its blocks are free at once */                 \
    X(NORMAL_SYNC, "lease.normal_sync")          /* synchronous=NORMAL */

enum mutation {
    MUTATE_NONE,
#define X(enumerator, name) MUTATE_##enumerator,
    MUTATIONS(X)
#undef X
    MUTATE_COUNT
};

#ifdef MNEME_MUTATIONS
bool mutate(enum mutation m);
void mutate_set(enum mutation m); /* MUTATE_NONE: none, whatever the environment says */
const char *mutate_name(enum mutation m);
#define MUTATE(name) mutate(MUTATE_##name)
#else
#define MUTATE(name) false
#endif

#endif
