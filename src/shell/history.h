/* What was typed before: entries in memory and in a file. An entry may have several lines; of equal
 * ones the last stays; one that begins with a blank is not kept. Owner thread. */
#ifndef MN_SHELL_HISTORY_H
#define MN_SHELL_HISTORY_H

#include <stdbool.h>
#include <stddef.h>

enum { HISTORY_MOST = 2000 };

struct history {
    char **entries; /* [n], oldest first, without their last newline */
    size_t n;
    char *path; /* NULL: not kept in a file */
};

/* $XDG_STATE_HOME/mneme/history (else ~/.local/state), made if absent, for its owner alone. A file
 * that cannot be read or written leaves the history in memory. */
void history_open(struct history *h);
void history_open_file(struct history *h, const char *path);
void history_close(struct history *h);

/* Adds an entry, also to the file, at once: several shells may write there. */
void history_add(struct history *h, const char *entry);

#endif
