#include "src/faiss/load.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage/base/error.h"

#define FILE_NAME "mneme_faiss.so"

/* From the program's folder to that of the installed plugin, set by CMake. */
#ifndef MNEME_FAISS_FROM_PROGRAM
#define MNEME_FAISS_FROM_PROGRAM "../lib/mneme"
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards `loaded` */
static const struct faiss_plugin *loaded;

/* The program's folder with a trailing "/"; "" if the system does not tell it. */
static void program_folder(char *out, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    out[n > 0 ? n : 0] = 0;
    char *slash = strrchr(out, '/');
    out[slash ? slash - out + 1 : 0] = 0;
}

/* Where the plugin is; false: nowhere. */
static bool find(char *out, size_t size)
{
    char folder[PATH_MAX];
    const char *named = getenv("MNEME_FAISS");
    if (named && *named) {
        snprintf(out, size, "%s", named);
        return access(out, F_OK) == 0;
    }
    program_folder(folder, sizeof folder);
    static const char *const below[] = {"", MNEME_FAISS_FROM_PROGRAM "/"};
    for (size_t i = 0; *folder && i < sizeof below / sizeof *below; i++) {
        int n = snprintf(out, size, "%s%s" FILE_NAME, folder, below[i]);
        if (n > 0 && (size_t)n < size && access(out, F_OK) == 0)
            return true;
    }
    return false;
}

static mn_status load(const char *path, mn_error *err)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return mn_fail(err, MN_IO, "the plugin for FAISS cannot be loaded: %.300s", dlerror());
    void *symbol = dlsym(library, FAISS_PLUGIN_SYMBOL);
    faiss_plugin_fn function;
    memcpy(&function, &symbol, sizeof function); /* POSIX: the address is the function's */
    const struct faiss_plugin *table = symbol ? function() : NULL;
    if (!table || table->version != FAISS_PLUGIN_VERSION) {
        dlclose(library);
        return mn_fail(err, MN_INVALID,
                       "%.300s: is no plugin of this version of Mneme; build both "
                       "from the same sources",
                       path);
    }
    loaded = table;
    return MN_OK;
}

mn_status faiss_load(const struct faiss_plugin **out, mn_error *err)
{
    char path[PATH_MAX + 64];
    mn_status st = MN_OK;
    pthread_mutex_lock(&lock);
    if (!loaded && find(path, sizeof path)) {
        st = load(path, err);
    } else if (!loaded) {
        const char *named = getenv("MNEME_FAISS");
        st = named && *named
                 ? mn_fail(err, MN_NOTFOUND, "%.300s, named by MNEME_FAISS, is not there", named)
                 : mn_fail(err, MN_NOTFOUND,
                           "FAISS is an optional part, and its plugin " FILE_NAME
                           " stands neither beside the program nor in " MNEME_FAISS_FROM_PROGRAM
                           " from there: tools/faiss builds it");
    }
    *out = loaded;
    pthread_mutex_unlock(&lock);
    return st;
}
