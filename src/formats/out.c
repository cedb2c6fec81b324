/* A file that shows up whole or not at all: written as PATH.tmp-PID-N, synced, renamed. Devices and
 * pipes that exist, and standard output, are written directly. */
#include "src/formats/writer.h"
#include "src/formats/source.h"
#include "storage/base/alloc.h"
#include "storage/base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER = 256 << 10 };

static mn_status fail_os(struct out *o, int os_error, const char *what, mn_error *err)
{
    mn_status code = os_error == ENOSPC || os_error == EDQUOT || os_error == EFBIG ? MN_FULL
                     : os_error == EROFS || os_error == EACCES || os_error == EPERM
                         ? MN_READONLY
                         : MN_IO;
    return mn_fail_os(err, code, os_error, "%s: %s", o->name, what);
}

/* Sets path and temporary, or neither if the path is to be written directly. */
static mn_status choose_names(struct out *o, const char *path, mn_error *err)
{
    static _Atomic unsigned counter; /* two writers of one path in one process */
    struct stat st;
    bool exists = stat(path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode))
        return mn_fail(err, MN_INVALID, "%s: is a directory; name a file in it", o->name);
    if (exists && !S_ISREG(st.st_mode))
        return MN_OK;
    char *real = exists ? realpath(path, NULL) : NULL; /* a link stays, its file is replaced */
    const char *target = real ? real : path;
    size_t size = strlen(target) + 48;
    o->path = mn_strdup(o->alloc, target, MN_TAG_IO);
    o->temporary = mn_alloc(o->alloc, size, MN_TAG_IO);
    free(real);
    if (!o->path || !o->temporary)
        return mn_fail(err, MN_NOMEM, "%s: no memory for its name", o->name);
    snprintf(o->temporary, size, "%s.tmp-%ld-%u", o->path, (long)getpid(),
             atomic_fetch_add(&counter, 1));
    return MN_OK;
}

static mn_status open_file(struct out *o, const char *path, mn_error *err)
{
    int fd;
    if (strcmp(path, "-") == 0)
        fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    else if (o->temporary)
        fd = open(o->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    else
        fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        mn_status st = fail_os(o, errno, "cannot be written", err);
        mn_free(o->alloc, o->temporary); /* it is not ours to remove */
        o->temporary = NULL;
        return st;
    }
    o->file = fdopen(fd, "wb");
    if (!o->file || setvbuf(o->file, NULL, _IOFBF, BUFFER) != 0) {
        mn_status st = fail_os(o, errno, "cannot be written", err);
        if (!o->file)
            close(fd);
        return st;
    }
    return MN_OK;
}

mn_status out_open(struct out *o, const char *path, struct mn_alloc *alloc, mn_error *err)
{
    *o = (struct out){.alloc = alloc};
    size_t len = strlen(path), most = sizeof o->name - 4;
    snprintf(o->name, sizeof o->name, "%s%s", len > most ? "..." : "",
             len > most ? path + len - most : path);
    mn_status st = MN_OK;
    if (strcmp(path, "-") == 0)
        snprintf(o->name, sizeof o->name, "standard output");
    else
        st = choose_names(o, path, err);
    if (st == MN_OK)
        st = open_file(o, path, err);
    if (st != MN_OK)
        out_abort(o);
    return st;
}

bool out_is_pipe(const struct out *o)
{
    return fseeko(o->file, 0, SEEK_CUR) != 0;
}

mn_status out_check(struct out *o, mn_error *err)
{
    if (!ferror(o->file))
        return MN_OK;
    return fail_os(o, errno, "a write failed", err);
}

static void clear(struct out *o)
{
    if (o->alloc) {
        mn_free(o->alloc, o->path);
        mn_free(o->alloc, o->temporary);
    }
    *o = (struct out){0};
}

void out_abort(struct out *o)
{
    if (o->file)
        fclose(o->file);
    if (o->temporary)
        unlink(o->temporary);
    clear(o);
}

/* The new name itself must survive power loss. */
static int sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(folder);
    if (fd < 0)
        return -1;
    int rc = fsync(fd);
    close(fd);
    return rc;
}

mn_status out_commit(struct out *o, mn_error *err)
{
    bool bad = fflush(o->file) != 0 || ferror(o->file);
    if (!bad && o->path)
        bad = fsync(fileno(o->file)) != 0;
    mn_status st = bad ? fail_os(o, errno, "a write failed", err) : MN_OK;
    if (fclose(o->file) != 0 && st == MN_OK)
        st = fail_os(o, errno, "cannot be closed", err);
    o->file = NULL;
    if (st == MN_OK && o->path && rename(o->temporary, o->path) != 0)
        st = fail_os(o, errno, "cannot be given its name", err);
    if (st == MN_OK && o->path) {
        mn_free(o->alloc, o->temporary);
        o->temporary = NULL;
        if (sync_folder(o->path) != 0)
            st = fail_os(o, errno, "is written, but its folder cannot be synced", err);
    }
    out_abort(o);
    return st;
}
