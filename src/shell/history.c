/* The file has an entry a line; newlines in an entry are \n there and backslashes \\. Shells append
 * to it under a lock; who opens it and finds lines that are not kept (older duplicates, too many)
 * writes it anew beside itself and renames, under the lock of the old one. */
#include "src/shell/history.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/shell/print.h"
#include "src/shell/shell.h"

static void forget(struct history *h, size_t at)
{
    free(h->entries[at]);
    h->n--;
    memmove(h->entries + at, h->entries + at + 1, (h->n - at) * sizeof *h->entries);
}

/* Takes the entry into memory. False: it is not one to keep. */
static bool keep(struct history *h, const char *entry, size_t len)
{
    while (len && (entry[len - 1] == '\n' || entry[len - 1] == ' '))
        len--;
    if (!len || entry[0] == ' ' || entry[0] == '\t')
        return false;
    if (h->n && strncmp(h->entries[h->n - 1], entry, len) == 0 && !h->entries[h->n - 1][len])
        return false; /* it is the last already */
    for (size_t i = h->n; i-- > 0;)
        if (strncmp(h->entries[i], entry, len) == 0 && !h->entries[i][len]) {
            forget(h, i);
            break;
        }
    if (h->n == HISTORY_MOST)
        forget(h, 0);
    if (!h->entries)
        h->entries = need(calloc(HISTORY_MOST, sizeof *h->entries));
    h->entries[h->n++] = need(strndup(entry, len));
    return true;
}

/* ---- The file ------------------------------------------------------------------------------- */

static void encode(struct text *t, const char *entry)
{
    for (const char *p = entry; *p; p++)
        text_add(t, *p == '\n' ? "\\n" : *p == '\\' ? "\\\\" : p, *p == '\n' || *p == '\\' ? 2 : 1);
    text_puts(t, "\n");
}

/* In place; returns the length. */
static size_t decode(char *line)
{
    size_t n = 0;
    for (const char *p = line; *p && *p != '\n'; p++) {
        if (*p == '\\' && p[1] && p[1] != '\n') {
            p++;
            line[n++] = *p == 'n' ? '\n' : *p;
        } else {
            line[n++] = *p;
        }
    }
    line[n] = 0;
    return n;
}

/* Opens and locks the file; anew if another shell has put a new one in its place meanwhile. -1: it
 * cannot be. */
static int open_locked(const char *path, int flags)
{
    for (;;) {
        struct stat mine, now;
        int fd = open(path, flags | O_CLOEXEC, 0600);
        if (fd < 0)
            return -1;
        if (flock(fd, LOCK_EX) != 0 || fstat(fd, &mine) != 0) {
            close(fd);
            return -1;
        }
        if (stat(path, &now) == 0 && now.st_ino == mine.st_ino && now.st_dev == mine.st_dev)
            return fd;
        close(fd);
    }
}

/* In one write, so that a kill leaves no half of it. */
static void append(const struct history *h, const char *entry)
{
    struct text line = {0};
    int fd = open_locked(h->path, O_WRONLY | O_APPEND | O_CREAT);
    if (fd < 0)
        return;
    encode(&line, entry);
    (void)!write(fd, line.data, line.len);
    close(fd);
    text_free(&line);
}

/* All entries into a new file in the old one's place. */
static void rewrite(const struct history *h)
{
    struct text path = {0}, all = {0};
    text_printf(&path, "%s.%ld", h->path, (long)getpid());
    for (size_t i = 0; i < h->n; i++)
        encode(&all, h->entries[i]);
    int fd = open(path.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, all.data, all.len) == (ssize_t)all.len;
    if (fd >= 0)
        ok &= close(fd) == 0;
    if (!ok || rename(path.data, h->path) != 0)
        (void)unlink(path.data);
    text_free(&path);
    text_free(&all);
}

void history_open_file(struct history *h, const char *path)
{
    char *line = NULL;
    size_t cap = 0, lines = 0;
    *h = (struct history){.path = need(strdup(path))};
    int fd = open_locked(path, O_RDONLY);
    FILE *file = fd < 0 ? NULL : need(fdopen(fd, "r"));
    if (!file)
        return;
    (void)fchmod(fd, 0600);
    for (; getline(&line, &cap, file) >= 0; lines++) {
        size_t len = decode(line);
        (void)keep(h, line, len);
    }
    free(line);
    if (lines > h->n)
        rewrite(h);
    fclose(file);
}

/* Makes the folders of the path. */
static bool make_folders(char *path)
{
    for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        bool ok = mkdir(path, 0700) == 0 || errno == EEXIST;
        *p = '/';
        if (!ok)
            return false;
    }
    return true;
}

void history_open(struct history *h)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    struct text path = {0};
    *h = (struct history){0};
    if (state && state[0] == '/')
        text_printf(&path, "%s/mneme/history", state);
    else if (home && home[0] == '/')
        text_printf(&path, "%s/.local/state/mneme/history", home);
    if (path.data && make_folders(path.data))
        history_open_file(h, path.data);
    text_free(&path);
}

void history_close(struct history *h)
{
    for (size_t i = 0; i < h->n; i++)
        free(h->entries[i]);
    free(h->entries);
    free(h->path);
    *h = (struct history){0};
}

void history_add(struct history *h, const char *entry)
{
    if (keep(h, entry, strlen(entry)) && h->path)
        append(h, h->entries[h->n - 1]);
}
