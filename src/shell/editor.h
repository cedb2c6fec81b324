/* The line that a person types: editing, history, completion, pasted text. libedit stands behind
 * it; nothing else of the program knows that. Owner thread. */
#ifndef MN_SHELL_EDITOR_H
#define MN_SHELL_EDITOR_H

#include <stdbool.h>

struct repl;
struct editor;

/* NULL where stdin or stdout is no terminal, or one that cannot move its cursor: lines then come
 * from stdin as they are. */
struct editor *editor_open(struct repl *r);
void editor_close(struct editor *e);

enum editor_end { EDITOR_LINE, EDITOR_EOF, EDITOR_INTERRUPTED };

/* One line into *line (borrowed, without its newline; pasted text may hold newlines). `before` is
 * the entry so far, "" at its beginning: completion looks at it, and Up on an empty continuation
 * line takes it back into the line, which *takes_back then says. */
enum editor_end editor_read(struct editor *e, const char *before, const char **line,
                            bool *takes_back);

/* The terminal as it was before, for other programs; and back. Without an editor they do nothing.
 * A signal handler may call the first. */
void editor_leave(void);
void editor_return(void);

/* A finished entry for the history. */
void editor_remember(struct editor *e, const char *entry);

#endif
