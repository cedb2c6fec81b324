/* Bytes of a file, a pipe or a piece of memory, in a buffer that slides over them: whole lines and
 * whole binary records stand in it contiguously and may be changed in place. Knows no format. Owner
 * thread. Pointers into the buffer are valid until the next call that takes `err`. */
#ifndef MN_FORMATS_SOURCE_H
#define MN_FORMATS_SOURCE_H

#include "mneme.h"

#include "src/formats/text.h"

struct mn_alloc;

struct source {
    struct mn_alloc *alloc;
    char name[128];      /* the path for messages; a long one keeps its tail */
    int fd;              /* -1: memory */
    bool own_fd;
    const uint8_t *mem;  /* [mem_len], of which mem_at are in the buffer or past it */
    size_t mem_len, mem_at;
    char *buf;           /* [cap]; unread bytes are buf[start .. end) */
    size_t cap, start, end;
    size_t chunk;        /* bytes read at once */
    size_t limit;        /* longest contiguous piece; cap stays below it + 2 chunks */
    uint64_t base;       /* file offset of buf[0] */
    uint64_t total;      /* bytes of the file; 0 if unknown */
    uint64_t line;       /* number of the line last taken by source_line, from 1 */
    bool total_known;
    bool eof;            /* all bytes are in the buffer or past it */
};

/* path "-" is standard input. chunk and limit in bytes. The caller keeps the struct. */
MN_CHECKED mn_status source_open(struct source *s, const char *path, size_t chunk, size_t limit,
                                 struct mn_alloc *alloc, mn_error *err);
MN_CHECKED mn_status source_open_memory(struct source *s, const void *data, size_t len,
                                        const char *name, size_t chunk, size_t limit,
                                        struct mn_alloc *alloc, mn_error *err);
void source_close(struct source *s); /* a zeroed struct is fine */

static inline char *source_at(struct source *s)
{
    return s->buf + s->start;
}

static inline size_t source_avail(const struct source *s)
{
    return s->end - s->start;
}

static inline uint64_t source_offset(const struct source *s)
{
    return s->base + s->start;
}

static inline void source_take(struct source *s, size_t n)
{
    s->start += n;
}

/* Reads on until `want` (<= limit + 1) bytes stand in the buffer, or the file has ended. */
MN_CHECKED mn_status source_fill(struct source *s, size_t want, mn_error *err);

/* Reads at least one byte more, unless the file has ended. */
MN_CHECKED mn_status source_more(struct source *s, mn_error *err);

/* Takes the next line, without its LF or CRLF; buf[len] may be overwritten. *line is NULL at the
 * end. Fails if it is longer than `limit` bytes. *offset, of its first byte, may be NULL. */
MN_CHECKED mn_status source_line(struct source *s, char **line, size_t *len, uint64_t *offset,
                                 mn_error *err);

#endif
