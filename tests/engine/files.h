/* A database's files as bytes, for the tests that damage and exchange them. */
#ifndef MN_TESTS_ENGINE_FILES_H
#define MN_TESTS_ENGINE_FILES_H

#include "tests/test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of a database; valid until the next call. */
static inline const char *sidecar_of(const char *path)
{
    static char name[1024];
    snprintf(name, sizeof name, "%s-mneme", path);
    return name;
}

struct copy {
    char *bytes;
    size_t n;
};

/* For free(). */
static inline struct copy file_read(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    struct copy c = {malloc((size_t)st.st_size + 1), (size_t)st.st_size};
    CHECK(c.bytes && pread(fd, c.bytes, c.n, 0) == (ssize_t)c.n);
    close(fd);
    return c;
}

static inline void file_write(const char *path, const struct copy *c)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0 && pwrite(fd, c->bytes, c->n, 0) == (ssize_t)c->n);
    close(fd);
}

#endif
