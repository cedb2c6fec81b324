#include "src/engine/memory_db.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/base/alloc.h"
#include "storage/base/error.h"
#include "storage/fs_mem.h"
#include "storage/vfs.h"

struct memory_db {
    struct memory_db *next; /* list_lock */
    char name[40];          /* set in create */
    struct mn_alloc *alloc; /* set in create; without a cap: the content is the user's data */
    struct mn_fs *fs;       /* set in create */
};

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct memory_db *list;   /* list_lock */
static unsigned long long count; /* list_lock; makes names */

static void destroy(struct memory_db *m)
{
    if (!m)
        return;
    fs_mem_destroy(m->fs);
    mn_alloc_destroy(m->alloc);
    free(m);
}

mn_status memory_db_create(char **vfs, mn_error *err)
{
    struct memory_db *m = calloc(1, sizeof *m);
    *vfs = NULL;
    mn_status st = MN_OK;
    if (m)
        m->alloc = mn_alloc_create(NULL, UINT64_MAX);
    if (m && m->alloc)
        m->fs = fs_mem_create(m->alloc);
    if (!m || !m->fs) {
        destroy(m);
        return mn_fail(err, MN_NOMEM, ":memory:: out of memory");
    }
    pthread_mutex_lock(&list_lock);
    snprintf(m->name, sizeof m->name, "mneme-memory-%llu", ++count);
    *vfs = strdup(m->name);
    st = *vfs ? vfs_register(m->name, m->fs, &(struct vfs_opts){.alloc = m->alloc}, err)
              : mn_fail(err, MN_NOMEM, ":memory:: out of memory");
    if (st == MN_OK) {
        m->next = list;
        list = m;
    }
    pthread_mutex_unlock(&list_lock);
    if (st) {
        free(*vfs);
        *vfs = NULL;
        destroy(m);
    }
    return st;
}

void memory_db_destroy(const char *vfs)
{
    if (!vfs)
        return;
    pthread_mutex_lock(&list_lock);
    struct memory_db **p = &list;
    while (*p && strcmp((*p)->name, vfs) != 0)
        p = &(*p)->next;
    struct memory_db *m = *p;
    if (m && vfs_unregister(vfs, NULL) == MN_OK)
        *p = m->next;
    else
        m = NULL;
    pthread_mutex_unlock(&list_lock);
    destroy(m);
}
