/* What the Tab key offers. Knows no terminal. Owner thread. */
#ifndef MN_SHELL_COMPLETE_H
#define MN_SHELL_COMPLETE_H

#include "src/shell/repl.h"

struct completion {
    size_t start;       /* byte of `text` where the word begins that is to be replaced */
    struct words words; /* whole words, each with what follows it: "count(", "FROM " */
};

/* `text` is the entry up to the cursor, `after` what stands behind it. */
void complete(struct repl *r, const char *text, const char *after, struct completion *out);
void completion_free(struct completion *c);

/* Bytes that all words share, whatever the case of ASCII letters. */
size_t completion_common(const struct completion *c);

#endif
