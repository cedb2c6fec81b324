#include "src/formats/source.h"
#include "storage/base/alloc.h"
#include "storage/base/error.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the readers copy little-endian elements as they stand");

static void set_name(struct source *s, const char *path)
{
    size_t len = strlen(path);
    if (len < sizeof s->name)
        memcpy(s->name, path, len + 1);
    else
        snprintf(s->name, sizeof s->name, "...%s", path + len - (sizeof s->name - 4));
}

static mn_status set_buffer(struct source *s, size_t chunk, size_t limit, struct mn_alloc *alloc,
                            mn_error *err)
{
    s->alloc = alloc;
    s->chunk = chunk;
    s->limit = limit;
    s->cap = chunk + 1; /* a line that ends the file may be terminated in place */
    s->buf = mn_alloc(alloc, s->cap, MN_TAG_IO);
    if (!s->buf)
        return mn_fail(err, MN_NOMEM, "%s: no memory for a buffer of %zu bytes", s->name, s->cap);
    return MN_OK;
}

static mn_status open_file(struct source *s, const char *path, mn_error *err)
{
    if (strcmp(path, "-") == 0) {
        set_name(s, "standard input");
        s->fd = STDIN_FILENO;
    } else {
        s->fd = open(path, O_RDONLY | O_CLOEXEC);
        s->own_fd = true;
    }
    if (s->fd < 0)
        return mn_fail_os(err, errno == ENOENT || errno == ENOTDIR ? MN_NOTFOUND : MN_IO, errno,
                          "%s: cannot be opened", s->name);
    struct stat st;
    if (fstat(s->fd, &st) != 0)
        return mn_fail_os(err, MN_IO, errno, "%s: cannot be examined", s->name);
    if (S_ISDIR(st.st_mode))
        return mn_fail(err, MN_INVALID, "%s: is a directory; name one of its files", s->name);
    if (S_ISREG(st.st_mode)) {
        /* standard input may stand anywhere in its file */
        off_t at = s->own_fd ? 0 : lseek(s->fd, 0, SEEK_CUR);
        s->total_known = at >= 0 && at <= st.st_size;
        s->total = s->total_known ? (uint64_t)(st.st_size - at) : 0;
        posix_fadvise(s->fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* a hint: may fail */
    }
    return MN_OK;
}

mn_status source_open(struct source *s, const char *path, size_t chunk, size_t limit,
                      struct mn_alloc *alloc, mn_error *err)
{
    *s = (struct source){.fd = -1};
    set_name(s, path);
    mn_status st = open_file(s, path, err);
    if (st == MN_OK)
        st = set_buffer(s, chunk, limit, alloc, err);
    if (st != MN_OK)
        source_close(s);
    return st;
}

mn_status source_open_memory(struct source *s, const void *data, size_t len, const char *name,
                             size_t chunk, size_t limit, struct mn_alloc *alloc, mn_error *err)
{
    *s = (struct source){.fd = -1, .mem = data, .mem_len = len, .total = len, .total_known = true};
    set_name(s, name);
    return set_buffer(s, chunk, limit, alloc, err);
}

void source_close(struct source *s)
{
    if (s->own_fd && s->fd >= 0)
        close(s->fd);
    if (s->alloc)
        mn_free(s->alloc, s->buf);
    s->fd = -1;
    s->own_fd = false;
    s->buf = NULL;
    s->alloc = NULL;
}

/* Makes room for at least one byte after `end`, and one more for a terminator. */
static mn_status make_room(struct source *s, mn_error *err)
{
    if (s->end + 1 < s->cap)
        return MN_OK;
    size_t kept = s->end - s->start;
    if (s->start > 0 && kept <= s->cap / 2) {
        memmove(s->buf, s->buf + s->start, kept);
        s->base += s->start;
        s->end = kept;
        s->start = 0;
        return MN_OK;
    }
    size_t most = s->limit + 2 * s->chunk, cap = s->cap > most / 2 ? most : s->cap * 2;
    if (cap > s->cap) {
        char *buf = mn_realloc(s->alloc, s->buf, cap, MN_TAG_IO);
        if (!buf)
            return mn_fail(err, MN_NOMEM, "%s: no memory for %s bytes of a line or record that "
                           "begins at byte %s", s->name, COMMAS(cap), COMMAS(source_offset(s)));
        s->buf = buf;
        s->cap = cap;
        return MN_OK;
    }
    memmove(s->buf, s->buf + s->start, kept);
    s->base += s->start;
    s->end = kept;
    s->start = 0;
    return MN_OK;
}

static size_t read_memory(struct source *s, char *to, size_t n)
{
    size_t left = s->mem_len - s->mem_at;
    if (n > left)
        n = left;
    if (n)
        memcpy(to, s->mem + s->mem_at, n);
    s->mem_at += n;
    return n;
}

mn_status source_more(struct source *s, mn_error *err)
{
    if (s->eof)
        return MN_OK;
    mn_status st = make_room(s, err);
    if (st != MN_OK)
        return st;
    size_t room = s->cap - 1 - s->end;
    assert(room > 0); /* nobody asks for more than limit + 1 bytes */
    if (room > s->chunk)
        room = s->chunk;
    ssize_t n;
    if (s->fd < 0) {
        n = (ssize_t)read_memory(s, s->buf + s->end, room);
    } else {
        do {
            n = read(s->fd, s->buf + s->end, room);
        } while (n < 0 && errno == EINTR);
    }
    if (n < 0)
        return mn_fail_os(err, MN_IO, errno, "%s: cannot be read at byte %s", s->name,
                          COMMAS(s->base + s->end));
    if (n == 0)
        s->eof = true;
    s->end += (size_t)n;
    return MN_OK;
}

mn_status source_fill(struct source *s, size_t want, mn_error *err)
{
    mn_status st = MN_OK;
    while (st == MN_OK && source_avail(s) < want && !s->eof)
        st = source_more(s, err);
    return st;
}

mn_status source_line(struct source *s, char **line, size_t *len, uint64_t *offset, mn_error *err)
{
    *line = NULL;
    *len = 0;
    size_t seen = 0;
    const char *lf = NULL;
    for (;;) {
        if (source_avail(s) > seen)
            lf = memchr(source_at(s) + seen, '\n', source_avail(s) - seen);
        seen = source_avail(s);
        if (lf || s->eof || seen > s->limit)
            break;
        mn_status st = source_more(s, err);
        if (st != MN_OK)
            return st;
    }
    if (offset)
        *offset = source_offset(s);
    if (!lf && seen == 0)
        return MN_OK;
    s->line++;
    size_t n = lf ? (size_t)(lf - source_at(s)) : seen;
    if (n > s->limit)
        return mn_fail(err, MN_INVALID, "%s: line %s, from byte %s on, is longer than %s bytes",
                       s->name, COMMAS(s->line), COMMAS(source_offset(s)), COMMAS(s->limit));
    *line = source_at(s);
    *len = n > 0 && (*line)[n - 1] == '\r' ? n - 1 : n;
    source_take(s, lf ? n + 1 : n);
    return MN_OK;
}
