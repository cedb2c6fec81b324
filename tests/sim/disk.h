/* Inside the simulated disk: content in shared pages, trees of files, the operation log. Used by
 * disk.c, which runs a disk, and crash.c, which builds what a power cut leaves of it. */
#ifndef MN_TESTS_SIM_DISK_H
#define MN_TESTS_SIM_DISK_H

#include "tests/sim/sim.h"

#include <pthread.h>

enum { SIM_PAGE = 4096, SIM_PATH = 200 };

/* 4 KiB, shared by all contents that agree in it; written only while refs is 1. */
struct page {
    unsigned refs;
    bool hashed;            /* hash is right */
    uint64_t hash;
    unsigned char data[SIM_PAGE];
};

/* A file's bytes. A NULL page is zeros; bytes of the last page behind size are zeros. */
struct content {
    uint64_t size;
    size_t n_pages;
    struct page **pages;    /* [n_pages], may be fewer or more than size needs */
};

struct name {
    char path[SIM_PATH];
    unsigned file;
};

/* Names and the files they lead to; a file keeps its number when renamed or without a name. */
struct tree {
    struct name *names;     /* [n_names] */
    size_t n_names;
    struct content *files;  /* [n_files] */
    unsigned n_files;
};

void content_read(const struct content *c, unsigned char *buf, size_t len, uint64_t off);
void content_write(struct content *c, const unsigned char *buf, size_t len, uint64_t off);
void content_resize(struct content *c, uint64_t size);
struct content content_share(const struct content *c); /* copy on write */
void content_fini(struct content *c);
uint64_t content_hash(struct content *c);

int tree_find(const struct tree *t, const char *path); /* index of the name, or -1 */
void tree_link(struct tree *t, const char *path, unsigned file);
void tree_drop(struct tree *t, size_t name);
unsigned tree_add_file(struct tree *t);
void tree_fini(struct tree *t);

enum op_kind {
    OP_WRITE,
    OP_RESIZE,
    OP_SYNC,
    OP_SYNC_FAILED, /* what was written before can no longer be settled */
    OP_CREATE,
    OP_UNLINK,
    OP_RENAME,
    OP_DIRSYNC      /* path: some file of the folder */
};

struct op {
    enum op_kind kind;
    unsigned file;
    uint64_t off;           /* WRITE; RESIZE: the new size */
    size_t len;
    unsigned char *data;    /* [len] */
    char *path, *to;        /* CREATE, UNLINK, RENAME, DIRSYNC */
};

struct event {
    uint32_t at;            /* log entries before it */
    uint32_t id;
    bool ack;               /* else begin */
};

struct mark {
    uint32_t at;
    const char *label;
};

struct fault {
    enum sim_fault kind;
    unsigned mask;
    uint64_t n, calls, fired;
    bool sticky;
};

/* A byte of a file locked by one handle. */
struct byte_lock {
    unsigned file;
    uint64_t byte;
    const void *handle;
    const struct sim_proc *proc;
};

struct sim {
    pthread_mutex_t lock;   /* guards all but `disk` and `locks` */
    struct sim_disk disk;   /* set in create */
    struct vfs_locks *locks; /* set in create; its own lock */
    struct tree now;        /* as processes see it */
    struct tree start;      /* what was there when the log began: all settled */
    struct op *log;
    uint32_t n_log;
    struct event *events;
    uint32_t n_events;
    struct mark *marks;
    uint32_t n_marks;
    uint64_t limit;
    struct fault fault;
    struct sim_stats stats;
    unsigned procs;
    struct byte_lock *locked;
    uint32_t n_locked;
};

/* A new disk that starts with what `t` holds (shared pages). */
struct sim *sim_from_tree(const struct sim_disk *disk, const struct tree *t);

void *sim_grow(void *array, size_t n, size_t each); /* room for element n, or ends the program */
void *sim_alloc(size_t size);                       /* zeroed, or ends the program */
bool same_folder(const char *a, const char *b);

static inline uint64_t sim_mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif
